/* Loading a saved generation. The whole file is verified before its first row is used; a damaged
 * one is refused, the next older one is tried. read() rather than a mapping: a bad block then is
 * an error code, not a signal. */
#define LOG_SUBSYSTEM LOG_IN_INDEX
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "log.h"
#include "vectors_file-private.h"
#include "vocabulary.h"

struct in {
	int fd;
	uint64_t left; /* bytes of the file not yet read */
	struct file_head head;
	struct file_section section;
	struct buf payload;
};

static bool read_all(struct in *f, void *p, size_t n)
{
	char *at = p;
	if (n > f->left)
		return false;
	f->left -= n;
	while (n) {
		ssize_t done = read(f->fd, at, n);
		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			return false;
		at += done;
		n -= (size_t)done;
	}
	return true;
}

/* NULL: good; else what is wrong. */
static const char *read_head(struct in *f, uint64_t seq)
{
	struct stat st;
	if (fstat(f->fd, &st) || !S_ISREG(st.st_mode) || lseek(f->fd, 0, SEEK_SET) != 0)
		return "cannot be read";
	f->left = (uint64_t)st.st_size;
	if (!read_all(f, &f->head, sizeof(f->head)))
		return "is too short";
	if (f->head.magic != FILE_MAGIC)
		return "is not a vector index";
	if (f->head.check != XXH3_64bits(&f->head, offsetof(struct file_head, check)))
		return "has a damaged head";
	if (f->head.layout < FILE_LAYOUT_OLDEST || f->head.layout > FILE_LAYOUT)
		return "has another layout version";
	if (f->head.seq != seq)
		return "has another sequence number than its name";
	if (f->head.bytes != (uint64_t)st.st_size)
		return "is truncated or too long";
	return NULL;
}

static const char *read_section(struct in *f)
{
	struct file_section *s = &f->section;
	if (!read_all(f, s, sizeof(*s)))
		return "ends within a section";
	if (s->check != XXH3_64bits(s, offsetof(struct file_section, check)))
		return "has a damaged section head";
	bool rows = s->kind == FILE_ROWS && s->ns && s->n && s->n <= VECTORS_ROWS_MAX && s->dim &&
		    s->dim <= LIMIT_DIMENSIONS && s->form < VECTORS_FORMS &&
		    s->payload == file_rows_bytes(s->n, s->dim, s->form);
	bool incomplete = s->kind == FILE_INCOMPLETE && s->n <= VECTORS_NAMESPACES &&
			  s->payload == s->n * sizeof(uint64_t);
	if (!rows && !incomplete)
		return "has an impossible section";
	f->payload.len = 0;
	buf_reserve(&f->payload, (size_t)s->payload + 1);
	if (!read_all(f, f->payload.p, (size_t)s->payload))
		return "ends within a section";
	f->payload.len = (size_t)s->payload;
	return s->payload_check == XXH3_64bits(f->payload.p, f->payload.len) ? NULL : "has a damaged section";
}

static const char *verify(struct in *f, uint64_t seq)
{
	const char *wrong = read_head(f, seq);
	uint64_t rows = 0;
	for (uint64_t i = 0; !wrong && i < f->head.sections; i++) {
		wrong = read_section(f);
		rows += !wrong && f->section.kind == FILE_ROWS ? f->section.n : 0;
	}
	if (!wrong && (f->left || rows != f->head.rows))
		wrong = "does not add up";
	return wrong;
}

static void insert_rows(struct vectors *v, const struct in *f)
{
	const struct file_section *s = &f->section;
	const char *versions = f->payload.p, *expiries = versions + 8 * (size_t)s->n;
	const char *ids = expiries + 8 * (size_t)s->n, *norms = ids + 16 * (size_t)s->n;
	const char *steps = norms + 4 * (size_t)s->n, *rows = steps + (s->form == VECTORS_BYTES ? 4 * (size_t)s->n : 0);
	size_t bytes = file_row_bytes(s->dim, s->form), padded = vectors_row_bytes(s->dim, s->form);
	char *x = (char *)v->w->scratch;
	memset(x + bytes, 0, padded - bytes);
	struct vectors_ns *n = vectors_ns_make(v, s->ns);
	if (n && s->form != VECTORS_FLOATS)
		atomic_store_explicit(&n->form, s->form, memory_order_relaxed);
	for (uint32_t i = 0; i < s->n; i++) {
		struct vectors_row row = {.ns = s->ns, .dim = s->dim, .form = s->form, .data = x};
		memcpy(&row.version, versions + 8 * (size_t)i, 8);
		memcpy(&row.expires_us, expiries + 8 * (size_t)i, 8);
		memcpy(row.id.b, ids + 16 * (size_t)i, 16);
		memcpy(&row.norm, norms + 4 * (size_t)i, 4);
		if (s->form == VECTORS_BYTES)
			memcpy(&row.step, steps + 4 * (size_t)i, 4);
		memcpy(x, rows + i * bytes, bytes);
		if (vectors_put(v, &row))
			continue; /* a smaller limit than before: the namespace is marked incomplete */
	}
}

/* The second reading. Checked again section by section: the disk may fail in between. */
static const char *take(struct vectors *v, struct in *f, uint64_t seq)
{
	const char *wrong = read_head(f, seq);
	for (uint64_t i = 0; !wrong && i < f->head.sections; i++) {
		wrong = read_section(f);
		if (wrong)
			break;
		if (f->section.kind == FILE_ROWS)
			insert_rows(v, f);
		for (uint32_t k = 0; f->section.kind == FILE_INCOMPLETE && k < f->section.n; k++) {
			uint64_t ns;
			memcpy(&ns, f->payload.p + k * sizeof(ns), sizeof(ns));
			if (ns)
				vectors_incomplete(v, ns);
		}
	}
	return wrong;
}

static void drop_all(struct vectors *v)
{
	for (uint32_t i = 0; i < v->super->namespaces; i++) {
		uint64_t ns = v->ns[i].ns;
		if (ns)
			vectors_drop_locked(v, ns);
	}
}

static bool load_one(struct vectors *v, int dir, uint64_t seq)
{
	char name[FILE_NAME_MAX];
	vectors_file_name(name, seq);
	struct in f = {.fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK)};
	const char *wrong = f.fd == -1 ? "cannot be opened" : verify(&f, seq);
	if (!wrong) {
		wrong = take(v, &f, seq);
		if (wrong)
			drop_all(v);
	}
	if (wrong)
		log_warn("saved vector index %s %s; it is not used", name, wrong);
	buf_free(&f.payload);
	if (f.fd != -1)
		close(f.fd);
	return !wrong;
}

static int descending(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return (x < y) - (x > y);
}

static int load_newest(struct vectors *v, DIR *d, uint64_t *seq_r)
{
	struct buf seqs = {0};
	for (struct dirent *e; errno = 0, (e = readdir(d));) {
		uint64_t seq;
		if (vectors_file_seq(e->d_name, &seq))
			buf_add(&seqs, &seq, sizeof(seq));
	}
	int rc = errno;
	size_t n = seqs.len / sizeof(uint64_t);
	uint64_t *list = (uint64_t *)(void *)seqs.p;
	if (n)
		qsort(list, n, sizeof(*list), descending);
	for (size_t i = 0; i < n && !rc && !*seq_r; i++) {
		if (load_one(v, dirfd(d), list[i]))
			*seq_r = list[i];
	}
	buf_free(&seqs);
	return *seq_r ? 0 : rc;
}

int vectors_load(struct vectors *v, const char *dir, uint64_t *seq_r)
{
	AN(v->w);
	*seq_r = 0;
	if (vectors_count(v, 0))
		return EBUSY;
	DIR *d = opendir(dir);
	if (!d)
		return errno == ENOENT ? 0 : errno;
	pthread_mutex_lock(&v->w->lock);
	int rc = load_newest(v, d, seq_r);
	pthread_mutex_unlock(&v->w->lock);
	closedir(d);
	return rc;
}
