/* The writer. Two locks: `writer` is held by append and sync (and by scrub, which must not meet
 * them), `list` guards the lists of segments and spares for moments only. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "journal-private.h"
#include "log.h"

#define SPARES_WANTED 2
#define SPARES_MAX 4

struct journal {
	struct journal_conf conf;
	char *data_dir;
	int dirfd;
	pthread_mutex_t writer, list;
	struct segment *v;          /* sealed ones, then the current one last; under `list` */
	size_t n, cap;
	struct segment spare[SPARES_MAX]; /* number 0; under `list` */
	size_t nspare;
	unsigned spare_names;
	uint64_t next_number;
	_Atomic uint64_t last_seq, released;
	_Atomic uint64_t bytes;     /* used bytes of unreleased segments */
	int failed;                 /* errno of the first failed fdatasync; under `writer` */
	struct iovec *iov;
	size_t iov_cap;
	struct rec_head *heads;
	size_t heads_cap;
};

static struct segment *current(struct journal *j) { return &j->v[j->n - 1]; }

static void recount(struct journal *j)
{
	uint64_t sum = 0;
	for (size_t i = 0; i < j->n; i++)
		if (j->v[i].last_seq >= j->v[i].first_seq &&
		    j->v[i].last_seq > atomic_load_explicit(&j->released, memory_order_relaxed))
			sum += j->v[i].used;
	atomic_store_explicit(&j->bytes, sum, memory_order_relaxed);
}

/* ---- segments come and go ---- */

static uint64_t fresh_epoch(void)
{
	uint64_t e = 0;
	AN(getrandom(&e, sizeof(e), 0) == sizeof(e));
	return e | 1;
}

static void spare_name(unsigned n, char out[32]) { snprintf(out, 32, "spare-%08x", n); }

static int make_spare(struct journal *j, uint64_t size, struct segment *s)
{
	char name[32];
	*s = (struct segment){.size = size, .first_seq = ++j->spare_names};
	spare_name((unsigned)s->first_seq, name);
	s->fd = segment_create(j->dirfd, name, size);
	return s->fd < 0 ? errno : 0;
}

static bool take_spare(struct journal *j, uint64_t need, struct segment *s)
{
	bool found = false;
	pthread_mutex_lock(&j->list);
	for (size_t i = 0; i < j->nspare && !found; i++) {
		if (j->spare[i].size < need)
			continue;
		*s = j->spare[i];
		j->spare[i] = j->spare[--j->nspare];
		found = true;
	}
	pthread_mutex_unlock(&j->list);
	return found;
}

/* A spare becomes the current segment: head first, then its name; a crash in between leaves a file
 * that is no segment, or a segment without records. */
static int install(struct journal *j, struct segment *s, uint64_t first_seq)
{
	char from[32], to[32];
	spare_name((unsigned)s->first_seq, from);
	s->number = j->next_number;
	s->first_seq = first_seq;
	s->last_seq = first_seq - 1;
	s->used = SEG_DATA_START;
	s->epoch = fresh_epoch();
	segment_name(s->number, to);
	int e = segment_write_head(s);
	if (!e && fdatasync(s->fd))
		e = errno;
	if (!e && renameat(j->dirfd, from, j->dirfd, to))
		e = errno;
	if (!e && fsync(j->dirfd))
		e = errno;
	if (e)
		return e;
	j->next_number++;
	pthread_mutex_lock(&j->list);
	if (j->n == j->cap) {
		j->cap = j->cap ? j->cap * 2 : 16;
		j->v = util_realloc(j->v, j->cap * sizeof(*j->v));
	}
	j->v[j->n++] = *s;
	pthread_mutex_unlock(&j->list);
	return 0;
}

static int rotate(struct journal *j, uint64_t need, uint64_t first_seq)
{
	struct segment s;
	uint64_t size = j->n ? j->conf.segment_bytes : j->conf.first_bytes;
	if (size < need)
		size = align_up(need, 4096);
	if (!take_spare(j, need, &s)) {
		int e = make_spare(j, size, &s);
		if (e)
			return e;
	}
	return install(j, &s, first_seq);
}

static void drop_file(struct journal *j, struct segment *s, const char *name)
{
	unlinkat(j->dirfd, name, 0);
	close(s->fd);
}

/* A released segment becomes a spare. Its head is invalidated before anything else may be written
 * to it, so a reader that still holds it sees the change (reader.c). */
static void recycle(struct journal *j, struct segment s)
{
	char from[32], to[32];
	struct seg_head none = {.magic = 0};
	segment_name(s.number, from);
	pthread_mutex_lock(&j->list);
	bool keep = j->nspare < SPARES_MAX && s.size <= j->conf.segment_bytes;
	unsigned name = ++j->spare_names;
	pthread_mutex_unlock(&j->list);
	spare_name(name, to);
	if (pwrite(s.fd, &none, sizeof(none), 0) != sizeof(none) || !keep ||
	    renameat(j->dirfd, from, j->dirfd, to)) {
		drop_file(j, &s, from);
		return;
	}
	s.stale = s.used > s.stale ? s.used : s.stale;
	s.number = 0;
	s.first_seq = name;
	pthread_mutex_lock(&j->list);
	if (j->nspare < SPARES_MAX) {
		j->spare[j->nspare++] = s;
		keep = true;
	} else {
		keep = false;
	}
	pthread_mutex_unlock(&j->list);
	if (!keep)
		drop_file(j, &s, to);
}

void journal_release(struct journal *j, uint64_t flushed_seq)
{
	struct segment gone[16];
	size_t ngone = 0;
	pthread_mutex_lock(&j->list);
	if (flushed_seq > atomic_load(&j->released))
		atomic_store(&j->released, flushed_seq);
	/* The last one is the current segment: it stays, whatever it holds. */
	while (j->n > 1 && ngone < ARRAY_LEN(gone) && j->v[0].last_seq <= flushed_seq) {
		gone[ngone++] = j->v[0];
		memmove(j->v, j->v + 1, --j->n * sizeof(*j->v));
	}
	recount(j);
	pthread_mutex_unlock(&j->list);
	for (size_t i = 0; i < ngone; i++)
		recycle(j, gone[i]);
}

int journal_prepare(struct journal *j)
{
	pthread_mutex_lock(&j->list);
	bool enough = j->nspare >= SPARES_WANTED;
	/* One small segment is all that a quiet daemon ever needs. */
	bool quiet = j->n <= 1 && current(j)->used < current(j)->size / 4;
	pthread_mutex_unlock(&j->list);
	if (enough || quiet)
		return 0;
	struct segment s;
	pthread_mutex_lock(&j->list);
	s.first_seq = ++j->spare_names;
	pthread_mutex_unlock(&j->list);
	char name[32];
	uint64_t id = s.first_seq;
	spare_name((unsigned)id, name);
	s = (struct segment){.size = j->conf.segment_bytes, .first_seq = id};
	s.fd = segment_create(j->dirfd, name, s.size);
	if (s.fd < 0)
		return errno;
	pthread_mutex_lock(&j->list);
	bool kept = j->nspare < SPARES_MAX;
	if (kept)
		j->spare[j->nspare++] = s;
	pthread_mutex_unlock(&j->list);
	if (!kept)
		drop_file(j, &s, name);
	return 0;
}

/* ---- append and sync ---- */

static void make_room(struct journal *j, size_t n)
{
	if (j->heads_cap < n) {
		j->heads = util_realloc(j->heads, n * sizeof(*j->heads));
		j->heads_cap = n;
	}
	if (j->iov_cap < 3 * n) {
		j->iov = util_realloc(j->iov, 3 * n * sizeof(*j->iov));
		j->iov_cap = 3 * n;
	}
}

static size_t build(struct journal *j, const struct segment *s, const struct iovec *payload, size_t n,
		    uint64_t first_seq, struct journal_where *where)
{
	static const char zeros[8];
	uint64_t at = s->used;
	size_t k = 0;
	for (size_t i = 0; i < n; i++) {
		struct rec_head *h = &j->heads[i];
		size_t len = payload[i].iov_len, pad = rec_bytes(len) - sizeof(*h) - len;
		*h = (struct rec_head){.magic = REC_MAGIC, .seq = first_seq + i, .epoch = s->epoch,
				       .len = (uint32_t)len, .flags = (uint32_t)i};
		h->crc = scan_crc(h, payload[i].iov_base);
		j->iov[k++] = (struct iovec){h, sizeof(*h)};
		j->iov[k++] = payload[i];
		if (pad)
			j->iov[k++] = (struct iovec){(void *)(uintptr_t)zeros, pad};
		where[i] = (struct journal_where){s->number, at + sizeof(*h)};
		at += rec_bytes(len);
	}
	return k;
}

static int write_iov(int fd, struct iovec *v, size_t n, uint64_t at)
{
	while (n) {
		ssize_t w = pwritev(fd, v, n < IOV_MAX ? (int)n : IOV_MAX, (off_t)at);
		if (w < 0 && errno == EINTR)
			continue;
		if (w < 0)
			return errno;
		at += (uint64_t)w;
		while (n && (size_t)w >= v->iov_len) {
			w -= (ssize_t)v->iov_len;
			v++;
			n--;
		}
		if (w) {
			v->iov_base = (char *)v->iov_base + w;
			v->iov_len -= (size_t)w;
		}
	}
	return 0;
}

static int append(struct journal *j, const struct iovec *payload, size_t n, uint64_t first_seq,
		  struct journal_where *where)
{
	uint64_t total = 0;
	if (j->failed)
		return j->failed;
	for (size_t i = 0; i < n; i++) {
		if (payload[i].iov_len > UINT32_MAX - 64)
			return EMSGSIZE;
		total += rec_bytes(payload[i].iov_len);
	}
	/* A group lies in one segment: it is whole or cut at its end, and one fdatasync is enough. */
	if (!j->n || current(j)->size - current(j)->used < total) {
		int e = rotate(j, SEG_DATA_START + total, first_seq);
		if (e)
			return e;
	}
	struct segment *s = current(j);
	make_room(j, n);
	size_t k = build(j, s, payload, n, first_seq, where);
	int e = write_iov(s->fd, j->iov, k, s->used);
	if (e) {
		(void)!segment_zero(s->fd, s->used, s->used + total); /* what was written must not come back */
		return e;
	}
	pthread_mutex_lock(&j->list);
	s->used += total;
	s->last_seq = first_seq + n - 1;
	atomic_store(&j->last_seq, s->last_seq);
	atomic_fetch_add_explicit(&j->bytes, total, memory_order_relaxed);
	pthread_mutex_unlock(&j->list);
	return 0;
}

int journal_append(struct journal *j, const struct iovec *payload, size_t n, uint64_t first_seq,
		   struct journal_where *where)
{
	pthread_mutex_lock(&j->writer);
	int e = append(j, payload, n, first_seq, where);
	pthread_mutex_unlock(&j->writer);
	return e;
}

int journal_sync(struct journal *j)
{
	pthread_mutex_lock(&j->writer);
	/* After a failure the kernel may have dropped the pages and cleared the error: a second fdatasync
	 * would answer 0 for data that is gone. The first verdict stands. */
	if (!j->failed && fdatasync(current(j)->fd))
		j->failed = errno;
	int e = j->failed;
	pthread_mutex_unlock(&j->writer);
	return e;
}

/* ---- erasing ---- */

/* Overwrites the payloads of records <= seq; their heads stay valid so that replay can walk over them. */
static int void_records(struct segment *s, uint64_t seq)
{
	char *map = mmap(NULL, s->size, PROT_READ | PROT_WRITE, MAP_SHARED, s->fd, 0);
	const struct rec_head *found;
	if (map == MAP_FAILED)
		return errno;
	for (uint64_t at = SEG_DATA_START; (found = scan_record(map, s->size, at, s->epoch)) && found->seq <= seq;
	     at += rec_bytes(found->len)) {
		struct rec_head *h = (struct rec_head *)(uintptr_t)found;
		memset(h + 1, 0, h->len);
		h->flags |= REC_VOID;
		h->crc = scan_crc(h, h + 1);
	}
	int e = msync(map, s->size, MS_SYNC) ? errno : 0;
	munmap(map, s->size);
	return e;
}

int journal_scrub(struct journal *j, uint64_t seq)
{
	int e = 0;
	pthread_mutex_lock(&j->writer);
	pthread_mutex_lock(&j->list);
	for (size_t i = 0; i < j->n && !e; i++) {
		struct segment *s = &j->v[i];
		e = void_records(s, seq);
		if (!e && s->stale > s->used)
			e = segment_zero(s->fd, s->used, s->stale);
		if (!e)
			s->stale = 0;
		if (!e && fdatasync(s->fd))
			e = errno;
	}
	for (size_t i = 0; i < j->nspare && !e; i++) {
		struct segment *s = &j->spare[i];
		e = segment_zero(s->fd, 0, s->stale);
		if (!e)
			s->stale = 0;
		if (!e && fdatasync(s->fd))
			e = errno;
	}
	pthread_mutex_unlock(&j->list);
	pthread_mutex_unlock(&j->writer);
	return e;
}

/* ---- opening ---- */

static void explain(char **error_r, const char *what, int e)
{
	struct buf b = {0};
	buf_printf(&b, "%s: %s", what, strerror(e));
	buf_addc(&b, 0);
	*error_r = b.p;
}

/* A spare of an earlier life: its size is kept, its content is unknown. */
static void adopt_spare(struct journal *j, const char *name, unsigned id)
{
	struct stat st;
	int fd = openat(j->dirfd, name, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return;
	bool whole = fstat(fd, &st) == 0 && (uint64_t)st.st_size >= 2 * SEG_DATA_START &&
		     (uint64_t)st.st_blocks * 512 >= (uint64_t)st.st_size; /* else a crash while it was made */
	if (!whole || j->nspare == SPARES_MAX) {
		unlinkat(j->dirfd, name, 0);
		close(fd);
		return;
	}
	j->spare[j->nspare++] = (struct segment){.fd = fd, .size = (uint64_t)st.st_size,
		.stale = (uint64_t)st.st_size, .first_seq = id};
}

static void adopt_spares(struct journal *j)
{
	int fd = dup(j->dirfd);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *e;
	if (!d)
		return;
	rewinddir(d);
	while ((e = readdir(d))) {
		if (strncmp(e->d_name, "spare-", 6) != 0)
			continue;
		unsigned id = (unsigned)strtoul(e->d_name + 6, NULL, 16);
		if (id > j->spare_names)
			j->spare_names = id;
		adopt_spare(j, e->d_name, id);
	}
	closedir(d);
}

static bool open_files(struct journal *j, uint64_t after, journal_replay_fn *fn, void *arg, char **error_r)
{
	struct found f;
	j->dirfd = segment_dir_open(j->data_dir, error_r);
	if (j->dirfd < 0 || !replay_find(j->dirfd, &f, error_r))
		return false;
	j->v = f.v;
	j->n = j->cap = f.n;
	uint64_t last = replay_run(j->data_dir, &f, after, fn, arg);
	if (last < after)
		last = after;
	atomic_store(&j->last_seq, last);
	j->next_number = f.n ? f.v[f.n - 1].number + 1 : 1;
	/* Nothing is ever appended behind what another life wrote: a new segment makes the cut. */
	adopt_spares(j);
	int e = rotate(j, SEG_DATA_START * 2, last + 1);
	if (e) {
		explain(error_r, "cannot make a journal segment", e);
		return false;
	}
	return true;
}

struct journal *journal_open(const struct journal_conf *conf, uint64_t after, journal_replay_fn *fn, void *arg,
			     char **error_r)
{
	struct journal *j = util_zalloc(sizeof(*j));
	j->conf = *conf;
	j->data_dir = util_strndup(conf->dir, strlen(conf->dir));
	j->dirfd = -1;
	pthread_mutex_init(&j->writer, NULL);
	pthread_mutex_init(&j->list, NULL);
	if (!open_files(j, after, fn, arg, error_r)) {
		journal_close(&j);
		return NULL;
	}
	journal_release(j, after);
	return j;
}

void journal_close(struct journal **jp)
{
	struct journal *j = *jp;
	if (!j)
		return;
	for (size_t i = 0; i < j->n; i++)
		close(j->v[i].fd);
	for (size_t i = 0; i < j->nspare; i++)
		close(j->spare[i].fd);
	if (j->dirfd >= 0)
		close(j->dirfd);
	free(j->v);
	free(j->iov);
	free(j->heads);
	free(j->data_dir);
	free(j);
	*jp = NULL;
}

uint64_t journal_last_seq(const struct journal *j) { return atomic_load(&j->last_seq); }
uint64_t journal_bytes(const struct journal *j) { return atomic_load_explicit(&j->bytes, memory_order_relaxed); }
