/* What the journal's tests share: a journal in a directory of its own, records whose content follows from
 * their sequence, and system calls that fail on demand (defined here, so they take precedence over
 * libc's in the test program). */
#ifndef ORC_TEST_JOURNAL_MODEL_H
#define ORC_TEST_JOURNAL_MODEL_H
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>
#include <cmocka.h>

#include "journal/journal.h"

/* ---- system calls under our control ---- */

static struct {
	_Atomic int sync_error, fsync_error, alloc_error;
	_Atomic bool sync_for_real; /* else fdatasync and fsync only count: the page cache is enough here */
	_Atomic unsigned syncs, dirsyncs;
	_Atomic long write_budget; /* bytes until pwritev fails with write_error; < 0 = no limit */
	_Atomic int write_error;
	_Atomic unsigned tear; /* > 0: pwritev writes at most so many bytes, and every third call is EINTR */
	_Atomic unsigned calls;
	_Atomic long fs_type; /* what fstatfs says; 0 = the truth */
} sys = {.write_budget = -1};

int fdatasync(int fd)
{
	sys.syncs++;
	if (sys.sync_error) {
		errno = sys.sync_error;
		return -1;
	}
	return sys.sync_for_real ? (int)syscall(SYS_fdatasync, fd) : 0;
}

int fsync(int fd)
{
	sys.dirsyncs++;
	if (sys.fsync_error) {
		errno = sys.fsync_error;
		return -1;
	}
	return sys.sync_for_real ? (int)syscall(SYS_fsync, fd) : 0;
}

int fallocate(int fd, int mode, off_t off, off_t len)
{
	if (sys.alloc_error) {
		errno = sys.alloc_error;
		return -1;
	}
	return (int)syscall(SYS_fallocate, fd, mode, off, len);
}

int fstatfs(int fd, struct statfs *fs)
{
	int r = (int)syscall(SYS_fstatfs, fd, fs);
	if (!r && sys.fs_type)
		fs->f_type = sys.fs_type;
	return r;
}

static ssize_t write_part(int fd, const struct iovec *v, int n, off_t off, size_t most)
{
	ssize_t done = 0;
	for (int i = 0; i < n && most; i++) {
		size_t len = v[i].iov_len < most ? v[i].iov_len : most;
		ssize_t w = syscall(SYS_pwrite64, fd, v[i].iov_base, len, off + done);
		if (w < 0)
			return done ? done : w;
		done += w;
		most -= (size_t)w;
	}
	return done;
}

ssize_t pwritev(int fd, const struct iovec *v, int n, off_t off)
{
	unsigned call = ++sys.calls;
	size_t most = SIZE_MAX;
	if (sys.tear && call % 3 == 0) {
		errno = EINTR;
		return -1;
	}
	if (sys.tear)
		most = 1 + call * 2654435761u % sys.tear;
	if (sys.write_budget == 0) {
		errno = sys.write_error;
		return -1;
	}
	if (sys.write_budget > 0 && most > (size_t)sys.write_budget)
		most = (size_t)sys.write_budget;
	ssize_t w = most == SIZE_MAX ? syscall(SYS_pwritev, fd, v, n, off, 0) : write_part(fd, v, n, off, most);
	if (w > 0 && sys.write_budget > 0)
		sys.write_budget -= w;
	return w;
}

#define HELPER __attribute__((unused)) static /* each test uses some of these */

/* ---- records ---- */

#define RECORD_MOST 1024
HELPER size_t record_len(uint64_t seq) { return seq % 97 == 0 ? 0 : 8 + seq * 7919 % 611; }

HELPER size_t record_make(uint64_t seq, unsigned char *out)
{
	size_t len = record_len(seq);
	uint64_t x = seq * 0x9e3779b97f4a7c15ull + 1;
	for (size_t i = 0; i < len; i++) {
		x ^= x << 13, x ^= x >> 7, x ^= x << 17;
		out[i] = (unsigned char)x;
	}
	if (len)
		memcpy(out, &seq, 8);
	return len;
}

HELPER bool record_is(uint64_t seq, const void *p, size_t len)
{
	unsigned char want[RECORD_MOST];
	return record_make(seq, want) == len && memcmp(p, want, len) == 0;
}

/* ---- a journal ---- */

#define KIB 1024u
struct got {
	uint64_t seq, segment, offset;
};
struct world {
	char dir[64];
	struct journal_conf conf;
	struct journal *j;
	uint64_t next;	 /* sequence of the next record */
	struct got *got; /* what the last replay delivered */
	size_t ngot, cgot;
	struct journal_where where[4096]; /* of record seq, at [seq % 4096] */
	char *log;			  /* what the last replay wrote to stderr */
};

HELPER int rm_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	(void)st, (void)flag, (void)ftw;
	return remove(path);
}

HELPER void world_take(void *arg, uint64_t seq, uint64_t segment, uint64_t offset, const void *p, size_t len)
{
	struct world *w = arg;
	if (w->ngot == w->cgot) {
		w->cgot = w->cgot ? w->cgot * 2 : 1024;
		w->got = util_realloc(w->got, w->cgot * sizeof(*w->got));
	}
	assert_true(record_is(seq, p, len));
	if (w->ngot)
		assert_true(seq > w->got[w->ngot - 1].seq);
	assert_int_equal((uintptr_t)p % 8, 0); /* decoders cast it */
	w->got[w->ngot++] = (struct got){seq, segment, offset};
}

/* stderr into a string while something noisy runs. */
static int hear_fd, hear_saved;
HELPER void hear_begin(void)
{
	char name[] = "/tmp/orc-test-log-XXXXXX";
	fflush(stderr);
	hear_fd = mkstemp(name);
	assert_true(hear_fd >= 0);
	unlink(name);
	hear_saved = dup(2);
	dup2(hear_fd, 2);
}
HELPER char *hear_end(void)
{
	off_t len = lseek(hear_fd, 0, SEEK_END);
	char *text = util_zalloc((size_t)len + 1);
	assert_int_equal(pread(hear_fd, text, (size_t)len, 0), len);
	dup2(hear_saved, 2);
	close(hear_saved);
	close(hear_fd);
	return text;
}

HELPER char *world_try_open(struct world *w, uint64_t after)
{
	char *error = NULL;
	w->ngot = 0;
	free(w->log);
	hear_begin();
	w->j = journal_open(&w->conf, after, world_take, w, &error);
	w->log = hear_end();
	if (w->j) {
		uint64_t last = journal_last_seq(w->j);
		w->next = (last > after ? last : after) + 1;
	}
	return error;
}

HELPER void world_open(struct world *w, uint64_t after)
{
	char *error = world_try_open(w, after);
	if (!w->j)
		print_error("journal_open: %s\n", error ? error : "?");
	assert_non_null(w->j);
	assert_null(error);
}

HELPER void world_reopen(struct world *w, uint64_t after)
{
	journal_close(&w->j);
	world_open(w, after);
}

HELPER struct world *world_new(uint64_t first_bytes, uint64_t segment_bytes, uint64_t quota)
{
	struct world *w = util_zalloc(sizeof(*w));
	snprintf(w->dir, sizeof(w->dir), "/tmp/orc-test-journal-XXXXXX");
	assert_non_null(mkdtemp(w->dir));
	w->conf = (struct journal_conf){w->dir, first_bytes, segment_bytes, quota};
	world_open(w, 0);
	assert_int_equal(w->ngot, 0);
	return w;
}

HELPER void world_free(struct world *w)
{
	journal_close(&w->j);
	nftw(w->dir, rm_one, 8, FTW_DEPTH | FTW_PHYS);
	free(w->got);
	free(w->log);
	free(w);
}

/* Appends one group of n records; the errno of journal_append. */
HELPER int world_append(struct world *w, size_t n)
{
	static _Thread_local unsigned char bytes[512][RECORD_MOST];
	struct iovec v[512];
	struct journal_where at[512];
	assert_true(n <= 512);
	for (size_t i = 0; i < n; i++)
		v[i] = (struct iovec){bytes[i], record_make(w->next + i, bytes[i])};
	int e = journal_append(w->j, v, n, w->next, at);
	for (size_t i = 0; i < n && !e; i++)
		w->where[(w->next + i) % ARRAY_LEN(w->where)] = at[i];
	if (!e)
		w->next += n;
	return e;
}

/* Records up to `last`, in groups of changing size, synced. */
HELPER void world_fill(struct world *w, uint64_t last)
{
	for (unsigned i = 0; w->next <= last; i++) {
		uint64_t n = 1 + i * 7 % 23;
		if (n > last + 1 - w->next)
			n = last + 1 - w->next;
		assert_int_equal(world_append(w, n), 0);
		assert_int_equal(journal_sync(w->j), 0);
	}
}

/* The last replay delivered exactly [from, to], without holes. */
HELPER void world_got(const struct world *w, uint64_t from, uint64_t to)
{
	if (w->ngot != to + 1 - from && w->ngot)
		print_error("got %zu records, %llu to %llu\n", w->ngot, (unsigned long long)w->got[0].seq,
			    (unsigned long long)w->got[w->ngot - 1].seq);
	assert_int_equal(w->ngot, to + 1 - from);
	for (size_t i = 0; i < w->ngot; i++)
		assert_int_equal(w->got[i].seq, from + i);
}

/* ---- files ---- */

HELPER char *world_path(const struct world *w, const char *name)
{
	static char path[PATH_MAX];
	snprintf(path, sizeof(path), "%s/journal/%s", w->dir, name);
	return path;
}

HELPER char *world_segment(const struct world *w, uint64_t number)
{
	char name[32];
	snprintf(name, sizeof(name), "%016llx.seg", (unsigned long long)number);
	return world_path(w, name);
}

/* Files below dir/sub whose name ends in `suffix`; their bytes in *bytes_r. */
HELPER size_t count_files(const char *dir, const char *sub, const char *suffix, uint64_t *bytes_r)
{
	char path[PATH_MAX];
	snprintf(path, sizeof(path), "%s/%s", dir, sub);
	DIR *d = opendir(path);
	size_t n = 0;
	uint64_t bytes = 0;
	for (struct dirent *e; d && (e = readdir(d));) {
		size_t len = strlen(e->d_name), slen = strlen(suffix);
		struct stat st;
		if (e->d_name[0] == '.' || len < slen || strcmp(e->d_name + len - slen, suffix) != 0)
			continue;
		assert_int_equal(fstatat(dirfd(d), e->d_name, &st, 0), 0);
		bytes += (uint64_t)st.st_size;
		n++;
	}
	if (d)
		closedir(d);
	if (bytes_r)
		*bytes_r = bytes;
	return n;
}

HELPER char *slurp(const char *path, size_t *len_r)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	assert_true(fd >= 0);
	assert_int_equal(fstat(fd, &st), 0);
	char *p = util_alloc((size_t)st.st_size);
	assert_int_equal(pread(fd, p, (size_t)st.st_size, 0), st.st_size);
	close(fd);
	*len_r = (size_t)st.st_size;
	return p;
}

HELPER void spit(const char *path, const char *p, size_t len)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	assert_int_equal(pwrite(fd, p, len, 0), (ssize_t)len);
	close(fd);
}

/* Does any file of the journal contain these bytes? */
HELPER bool files_contain(const struct world *w, const void *what, size_t n)
{
	DIR *d = opendir(world_path(w, "."));
	bool found = false;
	assert_non_null(d);
	for (struct dirent *e; !found && (e = readdir(d));) {
		size_t len;
		if (e->d_name[0] == '.')
			continue;
		char *p = slurp(world_path(w, e->d_name), &len);
		found = memmem(p, len, what, n) != NULL;
		free(p);
	}
	closedir(d);
	return found;
}
#endif
