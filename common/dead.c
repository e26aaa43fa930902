#include "dead.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "crc32c.h"
#include "fault.h"
#include "vocabulary.h"

#define SUFFIX ".letter"
#define PART ".part"
#define NAME_MAX_BYTES 40

/* ---- bytes ---- */

void dead_describe(const struct op_head *op, const void *body, struct dead_letter *l)
{
	const struct op_namespace *o = body;
	const struct op_delete *d = body;
	const struct op_idem *i = body;
	struct memory m;
	*l = (struct dead_letter){.type = op->type, .body = body, .body_len = op->len};
	switch (op->type) {
	case OP_PUT:
		if (!memory_decode(body, op->len, &m))
			return;
		l->id = m.id;
		l->ns = m.ns;
		l->version = m.version;
		l->namespace = m.ns_name;
		return;
	case OP_DELETE:
		if (op->len < sizeof(*d))
			return;
		l->id = d->id;
		l->ns = d->ns;
		l->version = d->version;
		return;
	case OP_IDEM:
		if (op->len < sizeof(*i))
			return;
		memcpy(l->id.b, &i->key, sizeof(i->key));
		l->ns = i->ns;
		return;
	case OP_NAMESPACE:
		if (op->len < sizeof(*o) || o->name_len > op->len - sizeof(*o))
			return;
		l->ns = o->ns;
		l->namespace = (struct span){(const char *)(o + 1), o->name_len};
		return;
	case OP_NS_DROP:
		if (op->len >= sizeof(struct op_ns_drop))
			l->ns = ((const struct op_ns_drop *)body)->ns;
		return;
	}
}

void dead_encode(const struct dead_letter *l, struct buf *b)
{
	static const char zeros[8];
	struct dead_head h = {.magic = DEAD_MAGIC,
			      .layout = DEAD_LAYOUT,
			      .number = l->number,
			      .seq = l->seq,
			      .op = l->op,
			      .type = l->type,
			      .ns = l->ns,
			      .version = l->version,
			      .id = l->id,
			      .at_us = l->at_us,
			      .tries = l->tries,
			      .reason_len = l->reason.len < DEAD_REASON_MAX ? (uint32_t)l->reason.len : DEAD_REASON_MAX,
			      .name_len = (uint32_t)l->namespace.len,
			      .body_len = l->body_len};
	size_t start = b->len, texts = h.reason_len + h.name_len;
	buf_add(b, &h, sizeof(h));
	buf_add(b, l->reason.p, h.reason_len);
	buf_add(b, l->namespace.p, h.name_len);
	buf_add(b, zeros, align_up(texts, 8) - texts);
	buf_add(b, l->body, l->body_len);
	h.crc = crc32c(0, b->p + start, b->len - start);
	memcpy(b->p + start, &h, sizeof(h));
}
_Static_assert(sizeof(struct dead_head) % 8 == 0, "the body stays aligned");

bool dead_decode(const void *data, size_t len, struct dead_letter *l)
{
	struct dead_head h;
	if (len < sizeof(h) || len > DEAD_ROOM_MAX)
		return false;
	memcpy(&h, data, sizeof(h));
	if (h.magic != DEAD_MAGIC || h.layout < 1 || h.layout > DEAD_LAYOUT || h.reason_len > DEAD_REASON_MAX ||
	    h.name_len > LIMIT_NAMESPACE || !h.number || h.number > UINT32_MAX)
		return false;
	size_t texts = align_up((size_t)h.reason_len + h.name_len, 8);
	if (texts > len - sizeof(h) || h.body_len != len - sizeof(h) - texts)
		return false;
	const char *p = (const char *)data + sizeof(h);
	uint32_t said = h.crc;
	h.crc = 0;
	if (crc32c(crc32c(0, &h, sizeof(h)), p, len - sizeof(h)) != said)
		return false;
	*l = (struct dead_letter){.number = h.number,
				  .seq = h.seq,
				  .op = h.op,
				  .type = h.type,
				  .tries = h.tries,
				  .ns = h.ns,
				  .version = h.version,
				  .id = h.id,
				  .at_us = h.at_us,
				  .reason = {p, h.reason_len},
				  .namespace = {p + h.reason_len, h.name_len},
				  .body = p + texts,
				  .body_len = h.body_len};
	return true;
}

/* ---- files ---- */

static const char *name_of(uint64_t number, const char *end, char out[NAME_MAX_BYTES])
{
	snprintf(out, NAME_MAX_BYTES, "%016llx%s", (unsigned long long)number, end);
	return out;
}

static bool number_of(const char *name, uint64_t *number_r)
{
	char *end, again[NAME_MAX_BYTES];
	*number_r = strtoull(name, &end, 16);
	return strcmp(end, SUFFIX) == 0 && strcmp(name, name_of(*number_r, SUFFIX, again)) == 0;
}

int dead_open(const char *data_dir, bool make)
{
	int data = open(data_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC), dir = -1;
	if (data == -1)
		return -1;
	bool made = make && mkdirat(data, DEAD_SUBDIR, 0700) == 0;
	if (!make || made || errno == EEXIST)
		dir = openat(data, DEAD_SUBDIR, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	int e = dir == -1 ? errno : 0;
	if (!e && made && fsync(data) == -1)
		e = errno;
	if (e && dir != -1) {
		close(dir);
		dir = -1;
	}
	close(data);
	errno = e;
	return dir;
}

static int write_all(int fd, const char *p, size_t n, off_t at)
{
	while (n) {
		ssize_t done = pwrite(fd, p, n, at);
		if (done == -1 && errno == EINTR)
			continue;
		if (done <= 0)
			return done ? errno : EIO;
		p += done;
		at += done;
		n -= (size_t)done;
	}
	return 0;
}

int dead_write(int dir, const struct dead_letter *l)
{
	char part[NAME_MAX_BYTES], name[NAME_MAX_BYTES];
	struct buf b = {0};
	name_of(l->number, PART, part);
	name_of(l->number, SUFFIX, name);
	dead_encode(l, &b);
	int fd = openat(dir, part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	int e = fd == -1 ? errno : 0;
	FAULT_DO(dead_torn, write_all(fd, b.p, b.len / 2, 0));
	if (!e)
		e = write_all(fd, b.p, b.len, 0);
	if (!e && fdatasync(fd) == -1)
		e = errno;
	FAULT_POINT(dead_unnamed);
	if (!e && renameat(dir, part, dir, name) == -1)
		e = errno;
	if (e && fd != -1)
		unlinkat(dir, part, 0);
	if (!e && fsync(dir) == -1)
		e = errno;
	if (fd != -1)
		close(fd);
	buf_free(&b);
	return e;
}

static int wipe(int fd, off_t size)
{
	static const char zeros[65536];
	int e = 0;
	for (off_t at = 0; !e && at < size; at += (off_t)sizeof(zeros))
		e = write_all(fd, zeros, size - at < (off_t)sizeof(zeros) ? (size_t)(size - at) : sizeof(zeros), at);
	return e ? e : fdatasync(fd) == -1 ? errno : 0;
}

static int remove_named(int dir, const char *name)
{
	struct stat st;
	int fd = openat(dir, name, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd == -1)
		return errno == ENOENT ? 0 : errno;
	int e = fstat(fd, &st) == -1 ? errno : wipe(fd, st.st_size);
	FAULT_POINT(dead_wiped);
	if (!e && unlinkat(dir, name, 0) == -1 && errno != ENOENT)
		e = errno;
	close(fd);
	return e;
}

int dead_remove(int dir, uint64_t number)
{
	char name[NAME_MAX_BYTES];
	int e = remove_named(dir, name_of(number, SUFFIX, name));
	return e ? e : fsync(dir) == -1 ? errno : 0;
}

typedef void dead_name_fn(void *arg, int dir, const char *name);

static bool each_name(int dir, dead_name_fn *fn, void *arg)
{
	int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd == -1 ? NULL : fdopendir(fd);
	struct dirent *entry;
	if (!d) {
		if (fd != -1)
			close(fd);
		return false;
	}
	errno = 0;
	while ((entry = readdir(d))) {
		fn(arg, dir, entry->d_name);
		errno = 0;
	}
	int e = errno;
	closedir(d);
	errno = e;
	return !e;
}

static void drop_part(void *arg, int dir, const char *name)
{
	size_t n = strlen(name);
	(void)arg;
	if (n > sizeof(PART) - 1 && strcmp(name + n - (sizeof(PART) - 1), PART) == 0)
		(void)!remove_named(dir, name);
}

void dead_tidy(int dir) { (void)!each_name(dir, drop_part, NULL); }

struct numbers {
	uint64_t *v;
	size_t n, cap;
};

static void note_number(void *arg, int dir, const char *name)
{
	struct numbers *l = arg;
	uint64_t number;
	(void)dir;
	if (!number_of(name, &number))
		return;
	if (l->n == l->cap) {
		l->cap = l->cap ? 2 * l->cap : 64;
		l->v = util_realloc(l->v, l->cap * sizeof(*l->v));
	}
	l->v[l->n++] = number;
}

static int ascending(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return x < y ? -1 : x > y;
}

bool dead_numbers(int dir, uint64_t **numbers_r, size_t *n_r)
{
	struct numbers l = {0};
	if (!each_name(dir, note_number, &l)) {
		int e = errno;
		free(l.v);
		errno = e;
		return false;
	}
	if (l.n)
		qsort(l.v, l.n, sizeof(*l.v), ascending);
	*numbers_r = l.v;
	*n_r = l.n;
	return true;
}

static int read_all(int fd, char **bytes_r, size_t *len_r)
{
	struct stat st;
	size_t got = 0;
	if (fstat(fd, &st) == -1)
		return errno;
	if (st.st_size < 0 || st.st_size > (off_t)DEAD_ROOM_MAX)
		return EBADMSG;
	char *p = util_alloc((size_t)st.st_size + 1);
	while (got < (size_t)st.st_size) {
		ssize_t n = pread(fd, p + got, (size_t)st.st_size - got, (off_t)got);
		if (n == -1 && errno == EINTR)
			continue;
		if (n == -1) {
			int e = errno;
			free(p);
			return e;
		}
		if (!n)
			break;
		got += (size_t)n;
	}
	*bytes_r = p;
	*len_r = got;
	return 0;
}

int dead_read(int dir, uint64_t number, char **bytes_r, struct dead_letter *l)
{
	char name[NAME_MAX_BYTES];
	size_t len = 0;
	int fd = openat(dir, name_of(number, SUFFIX, name), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd == -1)
		return errno;
	int e = read_all(fd, bytes_r, &len);
	close(fd);
	if (e)
		return e;
	if (dead_decode(*bytes_r, len, l) && l->number == number)
		return 0;
	bool wiped = len >= sizeof(uint64_t) && memcmp(*bytes_r, &(uint64_t){0}, sizeof(uint64_t)) == 0;
	free(*bytes_r);
	*bytes_r = NULL;
	return wiped ? ENOENT : EBADMSG;
}
