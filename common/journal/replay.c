/* Reading everything back at start.
 *
 * A hole is what follows the last good record of a segment. Which kind it is, the records behind it tell: a
 * group is written only after the group before it was made durable, so
 *   - nothing good behind it, or only records of the group that the hole lies in: a torn tail; it
 *     was never acknowledged and is cut;
 *   - a good record of a later group, or a later segment that begins beyond it: acknowledged records
 *     are damaged. The segment is copied to quarantine, the loss is reported, the rest is delivered. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#include "journal-private.h"
#include "log.h"

static int by_number(const void *a, const void *b)
{
	const struct segment *x = a, *y = b;
	return x->number < y->number ? -1 : x->number > y->number;
}

static bool is_segment(const char *name, uint64_t *number)
{
	char *end;
	if (strlen(name) != 20 || strcmp(name + 16, ".seg") != 0)
		return false;
	*number = strtoull(name, &end, 16);
	return end == name + 16;
}

static bool open_segment(int dirfd, const char *name, uint64_t number, struct segment *s)
{
	struct seg_head h;
	struct stat st;
	*s = (struct segment){.number = number, .fd = openat(dirfd, name, O_RDWR | O_CLOEXEC)};
	if (s->fd < 0)
		return false;
	if (fstat(s->fd, &st) || !segment_read_head(s->fd, &h) || h.segment != number ||
	    (uint64_t)st.st_size < SEG_DATA_START) {
		/* A crash between naming and heading a new segment leaves this: nothing was written to it. A
		 * damaged head shows as a gap in the sequences of the others. */
		log_warn("journal segment %s has no valid head; it is left out", name);
		close(s->fd);
		return false;
	}
	s->first_seq = h.first_seq;
	s->last_seq = h.first_seq - 1;
	s->epoch = h.epoch;
	s->size = s->stale = (uint64_t)st.st_size;
	return true;
}

bool replay_find(int dirfd, struct found *f, char **error_r)
{
	int fd = dup(dirfd);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *e;
	size_t cap = 0;
	*f = (struct found){NULL, 0};
	if (!d) {
		*error_r = util_strndup("cannot list the journal's directory", 35);
		return false;
	}
	rewinddir(d);
	while ((e = readdir(d))) {
		uint64_t number;
		if (!is_segment(e->d_name, &number))
			continue;
		if (f->n == cap) {
			cap = cap ? cap * 2 : 16;
			f->v = util_realloc(f->v, cap * sizeof(*f->v));
		}
		f->n += open_segment(dirfd, e->d_name, number, &f->v[f->n]);
	}
	closedir(d);
	if (f->n)
		qsort(f->v, f->n, sizeof(*f->v), by_number);
	return true;
}

static void quarantine(const char *data_dir, const struct segment *s)
{
	char dir[4096], path[4224];
	off_t at = 0;
	snprintf(dir, sizeof(dir), "%s/quarantine", data_dir);
	mkdir(dir, 0700);
	snprintf(path, sizeof(path), "%s/%016llx.seg", dir, (unsigned long long)s->number);
	int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return; /* quarantined at an earlier start */
	while (at < (off_t)s->size && sendfile(fd, s->fd, &at, s->size - (uint64_t)at) > 0)
		;
	fsync(fd);
	close(fd);
	log_error("the damaged journal segment was copied to %s", path);
}

struct replaying {
	const char *data_dir;
	uint64_t after, next;      /* next: the sequence that must come */
	journal_replay_fn *fn;
	void *arg;
};

static void report_loss(struct replaying *r, const struct segment *s, uint64_t upto)
{
	if (upto <= r->after)
		return; /* the store has them */
	log_error("the journal is damaged: acknowledged records %llu to %llu cannot be read",
		  (unsigned long long)(r->next > r->after ? r->next : r->after + 1), (unsigned long long)upto);
	if (s)
		quarantine(r->data_dir, s);
}

static void deliver(struct replaying *r, struct segment *s, const char *map, const struct rec_head *h)
{
	uint64_t at = (uint64_t)((const char *)h - map);
	if (h->seq > r->after && !(h->flags & REC_VOID))
		r->fn(r->arg, h->seq, s->number, at + sizeof(*h), h + 1, h->len);
	r->next = h->seq + 1;
	s->last_seq = h->seq;
	s->used = at + rec_bytes(h->len);
}

static void replay_segment(struct replaying *r, struct segment *s, const char *map, uint64_t next_first)
{
	const struct rec_head *h;
	s->used = SEG_DATA_START;
	if (s->first_seq > r->next && r->next)
		report_loss(r, NULL, s->first_seq - 1);
	if (s->first_seq >= r->next)
		r->next = s->first_seq;
	for (;;) {
		h = scan_record(map, s->size, s->used, s->epoch);
		if (!h || h->seq != r->next || h->seq >= next_first) {
			/* a hole, or the end */
			h = scan_forward(map, s->size, s->used, s->epoch, r->next);
			if (!h || h->seq >= next_first)
				return;
			uint64_t group_first = h->seq - (h->flags & ~REC_VOID);
			if (group_first <= r->next)
				return; /* the rest of a group that never became durable */
			report_loss(r, s, h->seq - 1);
		}
		deliver(r, s, map, h);
	}
}

uint64_t replay_run(const char *data_dir, struct found *f, uint64_t after, journal_replay_fn *fn, void *arg)
{
	struct replaying r = {.data_dir = data_dir, .after = after, .fn = fn, .arg = arg};
	for (size_t i = 0; i < f->n; i++) {
		struct segment *s = &f->v[i];
		uint64_t next_first = i + 1 < f->n ? f->v[i + 1].first_seq : UINT64_MAX;
		if (next_first <= after + 1) { /* all of it is in the store: not even mapped */
			s->last_seq = next_first - 1;
			s->used = s->size;
			r.next = next_first;
			continue;
		}
		char *map = mmap(NULL, s->size, PROT_READ, MAP_SHARED, s->fd, 0);
		if (map == MAP_FAILED) {
			log_error("cannot read journal segment %016llx: %s", (unsigned long long)s->number, strerror(errno));
			continue;
		}
		madvise(map, s->size, MADV_SEQUENTIAL);
		replay_segment(&r, s, map, next_first);
		munmap(map, s->size);
		if (next_first != UINT64_MAX && s->last_seq + 1 < next_first)
			report_loss(&r, s, next_first - 1);
	}
	return r.next ? r.next - 1 : 0;
}
