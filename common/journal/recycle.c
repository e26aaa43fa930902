/* Upkeep in other threads than the appending one: spares made ahead, released segments taken back. */
#define LOG_SUBSYSTEM LOG_IN_JOURNAL
#include "journal/journal-private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "fault.h"
#include "log.h"

int recycle_wipe(struct journal *j, const struct spare *s)
{
	int fd = segment_open(j->dirfd, segment_name(KIND_SPARE, s->id).text, O_RDWR);
	if (fd == -1)
		return errno;
	/* The head on its own, first: a reader that still has this file open sees the zeros there before
	 * any other byte changes (reader.c). */
	int e = segment_zero(fd, 0, SEG_DATA_START);
	FAULT_POINT(wipe_headless);
	if (!e)
		e = segment_zero(fd, SEG_DATA_START, s->size);
	if (!e)
		e = segment_datasync(fd);
	close(fd);
	return e;
}

int recycle_remove(struct journal *j, const struct spare *s)
{
	/* What was erased (GDPR) must not survive in free blocks either. */
	int e = s->stale ? recycle_wipe(j, s) : 0;
	if (e)
		log_warn("journal: a surplus segment in %s could not be overwritten before its removal: %s", j->path,
			 strerror(e));
	FAULT_POINT(recycle_removing);
	if (unlinkat(j->dirfd, segment_name(KIND_SPARE, s->id).text, 0) == -1 && errno != ENOENT)
		e = errno;
	pthread_mutex_lock(&j->list);
	j->total -= s->size;
	pthread_mutex_unlock(&j->list);
	return e;
}

bool recycle_make_room(struct journal *j, uint64_t more)
{
	for (;;) {
		struct spare s;
		pthread_mutex_lock(&j->list);
		bool fits = j->total <= j->quota_bytes && more <= j->quota_bytes - j->total;
		bool some = !fits && more <= j->quota_bytes && list_take_spare(j, 0, &s);
		pthread_mutex_unlock(&j->list);
		if (!some)
			return fits;
		if (recycle_remove(j, &s))
			log_warn("journal: surplus segment not removed from %s", j->path);
	}
}

/* ---- spares ahead ---- */

static int make_spare(struct journal *j)
{
	struct spare s = {.size = j->segment_bytes};
	int fd;
	pthread_mutex_lock(&j->list);
	bool fits = j->total <= j->quota_bytes && s.size <= j->quota_bytes - j->total;
	if (fits) {
		j->total += s.size;
		s.id = j->next_id++;
	}
	pthread_mutex_unlock(&j->list);
	if (!fits)
		return EDQUOT;
	struct seg_name tmp = segment_name(KIND_TMP, s.id);
	int e = segment_create(j->dirfd, tmp.text, s.size, true, &fd);
	FAULT_POINT(segment_filled);
	if (!e) {
		close(fd);
		if (renameat(j->dirfd, tmp.text, j->dirfd, segment_name(KIND_SPARE, s.id).text) == -1) {
			e = errno;
			unlinkat(j->dirfd, tmp.text, 0);
		}
	}
	pthread_mutex_lock(&j->list);
	if (e)
		j->total -= s.size;
	else
		list_push_spare(j, &s);
	pthread_mutex_unlock(&j->list);
	return e ? e : segment_dirsync(j->dirfd);
}

static size_t full_spares(struct journal *j)
{
	size_t n = 0;
	pthread_mutex_lock(&j->list);
	for (size_t i = 0; i < j->nspares; i++)
		n += j->spares[i].size == j->segment_bytes;
	pthread_mutex_unlock(&j->list);
	return n;
}

/* A spare that is not worth keeping: of an odd size (the first segment, one made in a hurry, one for a
 * giant), or one too many of the others. */
static bool take_surplus(struct journal *j, struct spare *s_r)
{
	size_t full = 0, pick = SIZE_MAX;
	pthread_mutex_lock(&j->list);
	for (size_t i = 0; i < j->nspares; i++)
		if (j->spares[i].size != j->segment_bytes)
			pick = i;
		else if (++full > SPARES_KEPT && pick == SIZE_MAX)
			pick = i;
	if (pick != SIZE_MAX) {
		*s_r = j->spares[pick];
		j->spares[pick] = j->spares[--j->nspares];
	}
	pthread_mutex_unlock(&j->list);
	return pick != SIZE_MAX;
}

/* The small first segment is all that a quiet daemon ever needs: no start pays for two large ones. */
static bool is_quiet(struct journal *j)
{
	pthread_mutex_lock(&j->list);
	const struct seg *cur = list_current(j);
	bool quiet = j->nsegs == 1 && !j->nspares && cur->number == 1 && cur->end < cur->size / 4;
	pthread_mutex_unlock(&j->list);
	return quiet;
}

bool journal_low(struct journal *j) { return full_spares(j) < SPARES_READY && !is_quiet(j); }

static int make_spares(struct journal *j)
{
	int e = 0;
	while (!e && full_spares(j) < SPARES_READY)
		e = make_spare(j);
	return e;
}

static bool remove_surplus(struct journal *j)
{
	struct spare s;
	bool removed = false;
	pthread_mutex_lock(&j->upkeep);
	while (take_surplus(j, &s)) {
		removed = true;
		if (recycle_remove(j, &s))
			break;
	}
	pthread_mutex_unlock(&j->upkeep);
	return removed;
}

int journal_prepare(struct journal *j)
{
	if (is_quiet(j) || pthread_mutex_trylock(&j->making))
		return 0; /* nothing to do, or somebody is at it */
	int e = make_spares(j);
	if (remove_surplus(j) && e == EDQUOT)
		e = make_spares(j); /* there is room in the quota now */
	pthread_mutex_unlock(&j->making);
	return e;
}

/* ---- released segments ---- */

/* Moves what is done with out of the array into *out_r (malloc'ed). */
static size_t take_released(struct journal *j, uint64_t flushed_seq, struct seg **out_r)
{
	size_t taken = 0, kept = 0;
	*out_r = NULL;
	pthread_mutex_lock(&j->list);
	if (flushed_seq > j->released)
		j->released = flushed_seq;
	for (size_t i = 0; i < j->nsegs; i++) {
		struct seg *g = &j->segs[i];
		if (i + 1 == j->nsegs || g->last_seq > j->released) {
			j->segs[kept++] = *g;
			continue;
		}
		if (!*out_r)
			*out_r = util_alloc(j->nsegs * sizeof(**out_r));
		(*out_r)[taken++] = *g;
	}
	j->nsegs = kept;
	list_account(j);
	pthread_mutex_unlock(&j->list);
	return taken;
}

static void recycle(struct journal *j, const struct seg *g)
{
	struct spare s = {.size = g->size, .stale = true};
	pthread_mutex_lock(&j->list);
	s.id = j->next_id++;
	pthread_mutex_unlock(&j->list);
	FAULT_POINT(recycle_begun);
	/* Only the name changes now. Old head and old records stay readable for whoever has the file open
	 * until it is used again, head first (writer.c). */
	if (renameat(j->dirfd, segment_name(KIND_SEG, g->number).text, j->dirfd, segment_name(KIND_SPARE, s.id).text) ==
	    -1) {
		log_warn("journal: the released segment %s/%s cannot be reused: %s", j->path,
			 segment_name(KIND_SEG, g->number).text, strerror(errno));
		return; /* tried again after the next start */
	}
	FAULT_POINT(recycle_renamed);
	pthread_mutex_lock(&j->list);
	list_push_spare(j, &s);
	pthread_mutex_unlock(&j->list);
}

void recycle_released(struct journal *j, uint64_t flushed_seq)
{
	struct seg *gone;
	size_t n = take_released(j, flushed_seq, &gone);
	for (size_t i = 0; i < n; i++)
		recycle(j, &gone[i]);
	int e = n ? segment_dirsync(j->dirfd) : 0;
	if (e)
		log_warn("journal: cannot sync the directory %s: %s", j->path, strerror(e));
	free(gone);
}

void journal_release(struct journal *j, uint64_t flushed_seq)
{
	pthread_mutex_lock(&j->upkeep);
	recycle_released(j, flushed_seq);
	pthread_mutex_unlock(&j->upkeep);
}
