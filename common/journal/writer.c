/* The appending thread: groups into the current segment, fdatasync, the change to the next one.
 *
 * A group never crosses segments: one that does not fit goes wholly into the next, which is made large
 * enough. So one fdatasync makes it durable, and undoing it means zeroing one range of one file. */
#define LOG_SUBSYSTEM LOG_IN_JOURNAL
#include "journal/journal-private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "crc32c.h"
#include "fault.h"
#include "log.h"

int writer_fail(struct journal *j, int error)
{
	int none = 0;
	if (!atomic_compare_exchange_strong(&j->failed, &none, error))
		return none; /* the first error stays the answer */
	return error;
}

/* ---- the next segment ---- */

/* Made in the appending thread only when journal_prepare() did not keep up: small, because somebody
 * waits. One for a giant group is written whole anyway, so zeros would be written for nothing. */
static int create_now(struct journal *j, uint64_t room, struct spare *s_r, int *fd_r)
{
	uint64_t size = align_up(SEG_DATA_START + room, SEG_DATA_START);
	bool fill = size <= j->first_bytes;
	if (fill)
		size = j->first_bytes;
	if (!recycle_make_room(j, size))
		return EDQUOT;
	pthread_mutex_lock(&j->list);
	j->total += size;
	*s_r = (struct spare){.id = j->next_id++, .size = size};
	pthread_mutex_unlock(&j->list);
	int e = segment_create(j->dirfd, segment_name(KIND_TMP, s_r->id).text, size, fill, fd_r);
	FAULT_POINT(segment_hurried);
	if (!e && renameat(j->dirfd, segment_name(KIND_TMP, s_r->id).text, j->dirfd,
			   segment_name(KIND_SPARE, s_r->id).text) == -1) {
		e = errno;
		unlinkat(j->dirfd, segment_name(KIND_TMP, s_r->id).text, 0);
		close(*fd_r);
	}
	if (e) {
		pthread_mutex_lock(&j->list);
		j->total -= size;
		pthread_mutex_unlock(&j->list);
	}
	return e;
}

static int get_spare(struct journal *j, uint64_t room, struct spare *s_r, int *fd_r)
{
	for (;;) {
		pthread_mutex_lock(&j->list);
		bool have = list_take_spare(j, room, s_r);
		pthread_mutex_unlock(&j->list);
		if (!have)
			return create_now(j, room, s_r, fd_r);
		*fd_r = segment_open(j->dirfd, segment_name(KIND_SPARE, s_r->id).text, O_RDWR);
		if (*fd_r != -1)
			return 0;
		int e = errno;
		pthread_mutex_lock(&j->list);
		if (e == ENOENT) /* somebody tidied up; the next one may do */
			j->total -= s_r->size;
		else
			list_push_spare(j, s_r);
		pthread_mutex_unlock(&j->list);
		if (e != ENOENT)
			return e;
	}
}

/* Head first, name second. Readers rely on it (reader.c): no byte of the file's former life is overwritten
 * before its head says that this life is over. After a power cut name and head may disagree
 * (neither was synced); then nothing in the file was acknowledged, and replay takes it for a spare. */
static int enlist(struct journal *j, const struct spare *s, int fd, uint64_t first_seq)
{
	struct seg g = {.epoch = segment_new_epoch(),
			.size = s->size,
			.first_seq = first_seq,
			.start = SEG_DATA_START,
			.end = SEG_DATA_START,
			.stale = s->stale};
	pthread_mutex_lock(&j->list);
	g.number = j->next_number++;
	pthread_mutex_unlock(&j->list);
	FAULT_POINT(rotate_begun);
	int e = segment_head_write(fd, &g);
	FAULT_POINT(rotate_headed);
	if (!e && renameat(j->dirfd, segment_name(KIND_SPARE, s->id).text, j->dirfd,
			   segment_name(KIND_SEG, g.number).text) == -1)
		e = errno;
	FAULT_POINT(rotate_named);
	pthread_mutex_lock(&j->list);
	if (e) {
		struct spare back = *s;
		list_push_spare(j, &back);
	} else {
		list_push_seg(j, &g);
		j->sealed = false;
		list_account(j);
	}
	pthread_mutex_unlock(&j->list);
	return e;
}

int writer_rotate(struct journal *j, uint64_t room, uint64_t first_seq)
{
	struct spare s;
	int fd, e;
	/* Relaxed groups may not be on the disk yet. Done before the new segment exists: its head says that
	 * everything below first_seq was written. */
	if (j->unsynced && (e = segment_datasync(j->fd)))
		return writer_fail(j, e);
	j->unsynced = false;
	e = get_spare(j, room, &s, &fd);
	if (e)
		return e;
	e = enlist(j, &s, fd, first_seq);
	if (e) {
		close(fd);
		return e;
	}
	if (j->fd != -1)
		close(j->fd);
	j->fd = fd;
	j->dir_dirty = true;
	return 0;
}

/* ---- a group ---- */

/* On success the current segment (a copy in *cur_r) has room and belongs to this thread until leave(). */
static int enter(struct journal *j, uint64_t room, struct seg *cur_r)
{
	for (;;) {
		pthread_mutex_lock(&j->list);
		struct seg *cur = list_current(j);
		bool fits = !j->sealed && room <= cur->size - cur->end;
		*cur_r = *cur;
		j->writing = fits;
		pthread_mutex_unlock(&j->list);
		if (fits)
			return 0;
		int e = writer_rotate(j, room, j->next_seq);
		if (e)
			return e;
	}
}

static void leave(struct journal *j, uint64_t written, uint64_t last_seq)
{
	pthread_mutex_lock(&j->list);
	if (written) {
		struct seg *cur = list_current(j);
		uint64_t had = cur->last_seq > j->released ? cur->end - cur->start : 0;
		cur->end += written;
		cur->last_seq = last_seq;
		if (last_seq > j->released)
			atomic_fetch_add_explicit(&j->held, cur->end - cur->start - had, memory_order_relaxed);
	}
	j->writing = false;
	if (j->sealed)
		pthread_cond_signal(&j->idle);
	pthread_mutex_unlock(&j->list);
}

static int write_group(struct journal *j, const struct seg *cur, const struct iovec *payload, size_t n,
		       uint64_t *done_r)
{
	static char zeros[8]; /* padding; never written */
	struct group *g = j->group;
	*done_r = 0;
	for (size_t from = 0; from < n; from += GROUP_RECORDS) {
		size_t count = n - from < GROUP_RECORDS ? n - from : GROUP_RECORDS;
		struct iovec *v = g->iov;
		uint64_t done;
		for (size_t i = 0; i < count; i++) {
			const struct iovec *p = &payload[from + i];
			struct rec_head *h = &g->heads[i];
			*h = (struct rec_head){.magic = REC_MAGIC,
					       .seq = j->next_seq + from + i,
					       .epoch = cur->epoch,
					       .len = (uint32_t)p->iov_len};
			h->crc = crc32c(crc32c(0, h, sizeof(*h)), p->iov_base, p->iov_len);
			*v++ = (struct iovec){h, sizeof(*h)};
			*v++ = *p;
			if (p->iov_len % 8)
				*v++ = (struct iovec){zeros, 8 - p->iov_len % 8};
		}
		FAULT_DO(journal_torn, (void)!segment_writev(j->fd, g->iov, 1, cur->end + *done_r, &done));
		FAULT_DO(journal_half, g->iov[1].iov_len /= 2,
			 (void)!segment_writev(j->fd, g->iov, 2, cur->end + *done_r, &done));
		FAULT_DO(journal_short,
			 (void)!segment_writev(j->fd, g->iov, (size_t)(v - g->iov) / 2 + 1, cur->end + *done_r, &done));
		int e = segment_writev(j->fd, g->iov, (size_t)(v - g->iov), cur->end + *done_r, &done);
		*done_r += done;
		if (e)
			return e;
	}
	return 0;
}

/* Some records of a refused group may be whole on the disk: replay would deliver them, or a shorter group
 * written over the first would be followed by them in perfect sequence. They must go. */
static int undo(struct journal *j, uint64_t off, uint64_t written)
{
	int e = written ? segment_zero(j->fd, off, off + written) : 0;
	if (!e && written)
		e = segment_datasync(j->fd);
	if (e) {
		log_error_event(journal_failed, NULL,
				"journal: a group that could not be written cannot be taken back either (%s); nothing "
				"more is written until a restart",
				strerror(e));
		return writer_fail(j, e);
	}
	return 0;
}

static bool measure(const struct iovec *payload, size_t n, uint64_t *room_r)
{
	*room_r = 0;
	for (size_t i = 0; i < n; i++) {
		if (payload[i].iov_len > UINT32_MAX - 64)
			return false;
		*room_r += record_room(payload[i].iov_len);
	}
	return true;
}

int journal_append(struct journal *j, const struct iovec *payload, size_t n, uint64_t first_seq,
		   struct journal_where *where_r)
{
	struct seg cur;
	uint64_t room, written;
	int e = atomic_load_explicit(&j->failed, memory_order_relaxed);
	if (e || !n)
		return e;
	if (first_seq != j->next_seq) {
		log_error("journal: record %llu was to be appended where %llu comes next",
			  (unsigned long long)first_seq, (unsigned long long)j->next_seq);
		return EINVAL;
	}
	if (!measure(payload, n, &room))
		return EMSGSIZE;
	e = enter(j, room, &cur);
	if (e)
		return e;
	e = write_group(j, &cur, payload, n, &written);
	if (e) {
		int worse = undo(j, cur.end, written);
		leave(j, 0, 0);
		return worse ? worse : e;
	}
	FAULT_POINT(journal_written);
	j->unsynced = true;
	j->next_seq += n;
	atomic_store_explicit(&j->last_seq, j->next_seq - 1, memory_order_relaxed);
	leave(j, room, j->next_seq - 1);
	for (size_t i = 0; i < n; i++) {
		where_r[i] = (struct journal_where){cur.number, cur.end + sizeof(struct rec_head)};
		cur.end += record_room(payload[i].iov_len);
	}
	return 0;
}

/* A file that was deleted under us, or moved with its folder, syncs well, and is not found at the next start. */
static int still_there(const struct journal *j)
{
	struct stat file, named, open;
	if (fstat(j->fd, &file) || stat(j->path, &named) || fstat(j->dirfd, &open))
		return errno;
	return file.st_nlink && named.st_ino == open.st_ino && named.st_dev == open.st_dev ? 0 : ENOENT;
}

int journal_sync(struct journal *j)
{
	int e = atomic_load_explicit(&j->failed, memory_order_relaxed);
	if (e)
		return e;
	if (j->unsynced && ((e = segment_datasync(j->fd)) || (e = still_there(j))))
		return writer_fail(j, e);
	FAULT_POINT(journal_synced);
	j->unsynced = false;
	/* The name under which the records will be looked for. */
	if (j->dir_dirty && (e = segment_dirsync(j->dirfd)))
		return writer_fail(j, e);
	j->dir_dirty = false;
	return 0;
}

int journal_failed(const struct journal *j) { return atomic_load_explicit(&j->failed, memory_order_relaxed); }

uint64_t journal_next_seq(const struct journal *j) { return j->next_seq; }
uint64_t journal_last_seq(const struct journal *j) { return atomic_load_explicit(&j->last_seq, memory_order_relaxed); }

uint64_t journal_bytes(const struct journal *j) { return atomic_load_explicit(&j->held, memory_order_relaxed); }
