/* Saving: one immutable file per generation. Temporary file, fsync, rename, fsync of the
 * directory; only then older generations go. Killed anywhere, the previous one is still whole. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <xxhash.h>

#include "log.h"
#include "vectors_file-private.h"

void vectors_file_name(char out[FILE_NAME_MAX], uint64_t seq)
{
	snprintf(out, FILE_NAME_MAX, FILE_PREFIX "%020" PRIu64 FILE_SUFFIX, seq);
}

bool vectors_file_seq(const char *name, uint64_t *seq_r)
{
	char *end, expect[FILE_NAME_MAX];
	if (strncmp(name, FILE_PREFIX, sizeof(FILE_PREFIX) - 1) != 0)
		return false;
	errno = 0;
	*seq_r = strtoull(name + sizeof(FILE_PREFIX) - 1, &end, 10);
	vectors_file_name(expect, *seq_r);
	return !errno && strcmp(name, expect) == 0;
}

struct out {
	int fd;
	struct file_head head;
	struct buf payload;
};

static int write_all(int fd, const void *p, size_t n)
{
	const char *at = p;
	while (n) {
		ssize_t done = write(fd, at, n);
		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			return done ? errno : EIO;
		at += done;
		n -= (size_t)done;
	}
	return 0;
}

static int write_section(struct out *o, struct file_section *s)
{
	s->payload = o->payload.len;
	s->payload_check = XXH3_64bits(o->payload.p, o->payload.len);
	s->check = XXH3_64bits(s, offsetof(struct file_section, check));
	o->head.sections++;
	o->head.bytes += sizeof(*s) + s->payload;
	int rc = write_all(o->fd, s, sizeof(*s));
	return rc ? rc : write_all(o->fd, o->payload.p, o->payload.len);
}

/* The live rows of a chunk, array by array. */
static uint32_t gather(const struct vectors *v, const struct vectors_chunk *c, struct buf *b)
{
	const char *base = v->data + c->offset;
	struct vectors_shape s;
	uint16_t live[VECTORS_ROWS_MAX];
	uint32_t n = 0, dim = c->dim, count = c->count;
	AN(vectors_shape(dim, c->order, c->form, &s));
	size_t row = file_row_bytes(dim, c->form);
	for (uint32_t i = 0; i < count; i++) {
		if (!(vectors_tombs(v, c->offset)[i / 64] >> (i % 64) & 1))
			live[n++] = (uint16_t)i;
	}
	const struct {
		size_t at, size, stride;
	} arrays[] = {{s.versions, 8, 8},
		      {s.expiries, 8, 8},
		      {s.ids, 16, 16},
		      {s.norms, 4, 4},
		      {s.steps, c->form == VECTORS_BYTES ? 4 : 0, 4},
		      {s.rows, row, s.row_bytes}};
	b->len = 0;
	buf_reserve(b, file_rows_bytes(n, dim, c->form));
	for (size_t a = 0; a < ARRAY_LEN(arrays); a++) {
		for (uint32_t i = 0; i < n; i++)
			buf_add(b, base + arrays[a].at + live[i] * arrays[a].stride, arrays[a].size);
	}
	return n;
}

static int write_rows(const struct vectors *v, struct out *o)
{
	uint32_t used = atomic_load_explicit(&v->super->used, memory_order_relaxed);
	int rc = 0;
	for (uint32_t i = 0; i < used && !rc; i++) {
		const struct vectors_chunk *c = &v->chunks[i];
		if (!c->ns)
			continue;
		struct file_section s = {.kind = FILE_ROWS, .ns = c->ns, .dim = c->dim, .form = c->form};
		s.n = gather(v, c, &o->payload);
		o->head.rows += s.n;
		rc = s.n ? write_section(o, &s) : 0;
	}
	return rc;
}

/* Otherwise a namespace that did not fit would pass for complete after a restart. */
static int write_incomplete(const struct vectors *v, struct out *o)
{
	struct file_section s = {.kind = FILE_INCOMPLETE};
	o->payload.len = 0;
	for (uint32_t i = 0; i < v->super->namespaces; i++) {
		uint64_t ns = v->ns[i].ns;
		if (!ns || !v->ns[i].incomplete)
			continue;
		buf_add(&o->payload, &ns, sizeof(ns));
		s.n++;
	}
	return s.n ? write_section(o, &s) : 0;
}

static int write_file(const struct vectors *v, int fd, uint64_t seq)
{
	struct out o = {
		.fd = fd,
		.head = {.magic = FILE_MAGIC, .layout = FILE_LAYOUT, .seq = seq, .bytes = sizeof(struct file_head)}};
	int rc = write_all(fd, &o.head, sizeof(o.head)); /* its final form follows; this one is refused */
	if (!rc)
		rc = write_rows(v, &o);
	if (!rc)
		rc = write_incomplete(v, &o);
	buf_free(&o.payload);
	if (rc)
		return rc;
	o.head.check = XXH3_64bits(&o.head, offsetof(struct file_head, check));
	ssize_t done = pwrite(fd, &o.head, sizeof(o.head), 0);
	if (done != (ssize_t)sizeof(o.head))
		return done < 0 ? errno : EIO;
	return fsync(fd) ? errno : 0;
}

/* Everything of ours but `keep`: older generations, and what killed writers left unfinished. */
static void remove_others(int dir, const char *keep)
{
	int copy = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = copy == -1 ? NULL : fdopendir(copy);
	if (!d) {
		if (copy != -1)
			close(copy);
		return;
	}
	for (struct dirent *e; (e = readdir(d));) {
		char name[FILE_NAME_MAX];
		uint64_t seq;
		size_t len = strlen(e->d_name), temp = sizeof(FILE_TEMP) - 1;
		bool unfinished = len > temp && len < sizeof(name) && strcmp(e->d_name + len - temp, FILE_TEMP) == 0;
		if (unfinished)
			len -= temp;
		if (len >= sizeof(name))
			continue;
		memcpy(name, e->d_name, len);
		name[len] = 0;
		if (vectors_file_seq(name, &seq) && (unfinished || strcmp(name, keep) != 0))
			(void)unlinkat(dir, e->d_name, 0);
	}
	closedir(d);
}

static int save_at(const struct vectors *v, int dir, uint64_t seq)
{
	char name[FILE_NAME_MAX], temp[FILE_NAME_MAX];
	vectors_file_name(name, seq);
	snprintf(temp, sizeof(temp), FILE_PREFIX "%020" PRIu64 FILE_SUFFIX FILE_TEMP, seq);
	(void)unlinkat(dir, temp, 0);
	int fd = openat(dir, temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd == -1)
		return errno;
	int rc = write_file(v, fd, seq);
	if (close(fd) && !rc)
		rc = errno;
	if (!rc && renameat(dir, temp, dir, name))
		rc = errno;
	if (!rc && fsync(dir))
		rc = errno;
	if (rc)
		(void)unlinkat(dir, temp, 0);
	else
		remove_others(dir, name);
	return rc;
}

int vectors_save(struct vectors *v, const char *dir, uint64_t seq)
{
	AN(v->w);
	int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd == -1)
		return errno;
	pthread_mutex_lock(&v->w->lock);
	int rc = save_at(v, fd, seq);
	pthread_mutex_unlock(&v->w->lock);
	close(fd);
	return rc;
}
