/* Overwriting what was erased. Bytes of a released record can lie in
 *   - a spare (its last life): the whole file is zeroed;
 *   - the front of a segment that also holds unreleased records: the front is zeroed in place and the head's
 *     `start` moved behind it, so that replay and readers know. What lies in front of `start` is zeroed again in a
 *     file that is not known to be clean: the head may have been moved by somebody who came no further;
 *   - the part behind the last record of a reused file (an earlier life again): zeroed, after the current
 *     segment was sealed, because the appending thread may write there otherwise.
 * Clean files are remembered as such (`stale` false), so the next scrub costs little. */
#include "journal/journal-private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "fault.h"
#include "log.h"

static int scrub_spares(struct journal *j)
{
	for (;;) {
		struct spare s;
		bool found = false;
		pthread_mutex_lock(&j->list);
		for (size_t i = 0; i < j->nspares && !found; i++)
			if (j->spares[i].stale) {
				s = j->spares[i];
				j->spares[i] = j->spares[--j->nspares];
				found = true;
			}
		pthread_mutex_unlock(&j->list);
		if (!found)
			return 0;
		int e = recycle_wipe(j, &s);
		s.stale = e != 0;
		pthread_mutex_lock(&j->list);
		list_push_spare(j, &s);
		pthread_mutex_unlock(&j->list);
		if (e)
			return e;
	}
}

/* After this nobody appends to what is now the current segment; the next append takes another. */
static void seal_if_stale(struct journal *j)
{
	pthread_mutex_lock(&j->list);
	if (list_current(j)->stale) {
		j->sealed = true;
		while (j->writing)
			pthread_cond_wait(&j->idle, &j->list);
	}
	pthread_mutex_unlock(&j->list);
}

/* Where the first record behind `released` begins; its sequence in *seq_r. */
static uint64_t front(int fd, const struct seg *g, uint64_t released, uint64_t *seq_r)
{
	struct scan s = {.window = 1u << 20};
	struct scan_hit hit;
	uint64_t off = g->start, seq = g->first_seq, dirty;
	if (g->last_seq <= released) {
		*seq_r = g->last_seq ? g->last_seq + 1 : g->first_seq;
		return g->end;
	}
	scan_start(&s, fd, g->epoch, g->end);
	while (seq <= released && scan_search(&s, off, seq, &hit, &dirty)) {
		if (hit.head.seq > released) { /* damage that ends behind it */
			off = hit.off;
			seq = hit.head.seq;
			break;
		}
		off = hit.off + record_room(hit.head.len);
		seq = hit.head.seq + 1;
	}
	scan_free(&s);
	*seq_r = seq;
	return off;
}

static int scrub_front(int fd, struct seg *g, uint64_t released)
{
	uint64_t old = g->start, seq, at;
	if (g->first_seq > released || g->start == g->end)
		return 0;
	at = front(fd, g, released, &seq);
	if (at == old)
		return 0;
	/* Head first, and on the disk: records that are gone from the front are then expected to be. */
	g->start = at;
	g->first_seq = seq;
	int e = segment_head_write(fd, g);
	if (!e)
		e = segment_datasync(fd);
	FAULT_POINT(scrub_moved);
	return e ? e : segment_zero(fd, old, at);
}

/* `g` is a copy; true in *tail when the part behind its records may be touched. */
static int scrub_file(struct journal *j, struct seg *g, uint64_t released, bool tail)
{
	/* An own descriptor: a failed write-back must be reported to the appending thread's as well. */
	int fd = segment_open(j->dirfd, segment_name(KIND_SEG, g->number).text, O_RDWR);
	if (fd == -1)
		return errno;
	int e = scrub_front(fd, g, released);
	FAULT_POINT(scrub_front_done);
	if (!e && tail && g->stale) {
		/* In front as well: who moved the head may have been killed, or failed, before it overwrote what lay there. */
		e = segment_zero(fd, SEG_DATA_START, g->start);
		if (!e)
			e = segment_zero(fd, g->end, g->size);
		g->stale = e != 0;
	}
	if (!e)
		e = segment_datasync(fd);
	g->stale |= e != 0;
	close(fd);
	return e;
}

/* The segment after `number`, as it is now. *tail_r: nobody appends to it. */
static bool next_seg(struct journal *j, uint64_t number, struct seg *g_r, bool *tail_r)
{
	bool found = false;
	pthread_mutex_lock(&j->list);
	for (size_t i = 0; i < j->nsegs && !found; i++)
		if (j->segs[i].number > number) {
			*g_r = j->segs[i];
			*tail_r = i + 1 < j->nsegs || j->sealed;
			found = true;
		}
	pthread_mutex_unlock(&j->list);
	return found;
}

static void note(struct journal *j, const struct seg *g)
{
	pthread_mutex_lock(&j->list);
	for (size_t i = 0; i < j->nsegs; i++)
		if (j->segs[i].number == g->number) { /* end and last_seq may have grown since the copy */
			j->segs[i].start = g->start;
			j->segs[i].first_seq = g->first_seq;
			j->segs[i].stale = g->stale;
		}
	list_account(j);
	pthread_mutex_unlock(&j->list);
}

int journal_scrub(struct journal *j, uint64_t seq)
{
	struct seg g = {0};
	bool tail;
	pthread_mutex_lock(&j->upkeep); /* nothing is released, so nothing becomes stale, meanwhile */
	pthread_mutex_lock(&j->list);
	uint64_t released = j->released;
	pthread_mutex_unlock(&j->list);
	int e = seq > released ? EINVAL : 0; /* it would destroy what the store lacks */
	if (!e)
		e = scrub_spares(j);
	if (!e) {
		seal_if_stale(j);
		while (!e && next_seg(j, g.number, &g, &tail)) {
			e = scrub_file(j, &g, released, tail);
			note(j, &g);
		}
	}
	pthread_mutex_unlock(&j->upkeep);
	return e;
}
