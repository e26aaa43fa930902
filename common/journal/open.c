/* Opening the journal: the directory and what lies in it. */
#define LOG_SUBSYSTEM LOG_IN_JOURNAL
#include "journal/journal-private.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "fault.h"
#include "log.h"

struct listing {
	struct found *segs;
	size_t n, cap;
};

static const char *advice(int e)
{
	switch (e) {
	case EACCES:
	case EPERM: return "give the daemon's user read and write access to data.dir and all below it";
	case EROFS: return "the file system is mounted read-only; look for disk errors in the kernel's log";
	case ENOSPC:
	case EDQUOT:
		return "make room on the file system of data.dir, raise journal.quota, or point data.dir elsewhere";
	case ENOENT:
	case ENOTDIR: return "make the directory data.dir, or correct the setting";
	case EIO: return "the disk reports errors; look in the kernel's log before anything is written again";
	default: return "nothing was changed; correct this and start again";
	}
}

/* ---- the directory ---- */

static bool check_fs(struct journal *j, char **error_r)
{
	struct statfs fs;
	const char *name;
	if (fstatfs(j->dirfd, &fs) == -1) {
		util_error(error_r, "cannot examine the file system of %s: %s; %s", j->path, strerror(errno),
			   advice(errno));
		return false;
	}
	switch (segment_fs((long)fs.f_type, &name)) {
	case FS_NETWORK:
		util_error(
			error_r,
			"the journal cannot live on a network file system (%s is on %s): a write that was acknowledged "
			"could be lost there; set data.dir to a directory on a local disk",
			j->path, name);
		return false;
	case FS_DOUBTFUL:
		log_warn(
			"%s lies on %s: writes are only as durable as what stands behind it; a local disk is safer and faster",
			j->path, name);
		return true;
	case FS_LOCAL: return true;
	}
	return true;
}

static int sync_parent(const char *dir)
{
	int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC), e = 0;
	if (fd == -1)
		return errno;
	if (fsync(fd) == -1)
		e = errno;
	close(fd);
	return e;
}

static bool open_dir(struct journal *j, char **error_r)
{
	int e = 0;
	bool made = mkdir(j->path, 0700) == 0;
	if (!made && errno != EEXIST)
		e = errno;
	if (!e) {
		j->dirfd = open(j->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
		if (j->dirfd == -1)
			e = errno;
	}
	if (!e && made)
		e = sync_parent(j->data_dir);
	if (e) {
		util_error(error_r, "cannot open the journal directory %s: %s; %s", j->path, strerror(e), advice(e));
		return false;
	}
	return check_fs(j, error_r);
}

/* ---- what lies in it ---- */

static void add_seg(struct listing *l, uint64_t number, uint64_t size, const struct seg_head *h)
{
	if (l->n == l->cap) {
		l->cap = l->cap ? l->cap * 2 : 16;
		l->segs = util_realloc(l->segs, l->cap * sizeof(*l->segs));
	}
	l->segs[l->n++] = (struct found){.number = number, .size = size, .head = *h, .head_ok = segment_head_valid(h)};
}

static int meet_file(struct journal *j, struct listing *l, const char *name)
{
	enum seg_kind kind;
	uint64_t n;
	struct stat st;
	struct seg_head h;
	if (!segment_parse_name(name, &kind, &n))
		return 0;
	if (kind == KIND_TMP)
		return unlinkat(j->dirfd, name, 0) == -1 && errno != ENOENT ? errno : 0;
	int fd = segment_open(j->dirfd, name, O_RDWR | O_NONBLOCK);
	if (fd == -1)
		return errno;
	int e = fstat(fd, &st) == -1 ? errno : S_ISREG(st.st_mode) ? segment_read_head(fd, &h) : EINVAL;
	close(fd);
	if (e == EIO) { /* a lost first page is a damaged head */
		memset(&h, 0, sizeof(h));
		e = 0;
	}
	if (e)
		return e;
	/* A process that still has a spare open knows it by the number in its head: never give that again. */
	if (segment_head_valid(&h) && h.segment >= j->next_number)
		j->next_number = h.segment + 1;
	j->total += (uint64_t)st.st_size;
	if (kind == KIND_SPARE) {
		if (n >= j->next_id)
			j->next_id = n + 1;
		list_push_spare(j, &(struct spare){.id = n, .size = (uint64_t)st.st_size, .stale = true});
		return 0;
	}
	if (n >= j->next_number)
		j->next_number = n + 1;
	add_seg(l, n, (uint64_t)st.st_size, &h);
	return 0;
}

static int by_number(const void *a, const void *b)
{
	const struct found *x = a, *y = b;
	return x->number < y->number ? -1 : x->number > y->number;
}

static bool list_dir(struct journal *j, struct listing *l, char **error_r)
{
	int fd = segment_open(j->dirfd, ".", O_RDONLY | O_DIRECTORY), e = 0;
	DIR *d = fd == -1 ? NULL : fdopendir(fd);
	struct dirent *entry;
	char name[NAME_MAX + 1] = ".";
	if (!d) {
		e = errno;
		if (fd != -1)
			close(fd);
	}
	while (d && !e) {
		errno = 0;
		entry = readdir(d);
		if (!entry) {
			e = errno;
			memcpy(name, ".", 2);
			break;
		}
		memcpy(name, entry->d_name, strlen(entry->d_name) + 1);
		e = meet_file(j, l, name);
	}
	if (d)
		closedir(d);
	if (e) {
		util_error(error_r, "cannot read %s/%s: %s; %s", j->path, name, strerror(e), advice(e));
		return false;
	}
	if (l->n)
		qsort(l->segs, l->n, sizeof(*l->segs), by_number);
	return true;
}

/* What is in there would pass for damage, or for records of another meaning. Nothing is touched. */
static bool refuse_newer(const struct journal *j, const struct listing *l, char **error_r)
{
	for (size_t i = 0; i < l->n; i++) {
		if (!segment_head_newer(&l->segs[i].head))
			continue;
		util_error(
			error_r,
			"%s/%s was written by a newer program (layout %u of the journal, this one reads up to %u): start that "
			"one again, and end it with orchestractl drain once nothing waits for the store any more",
			j->path, segment_name(KIND_SEG, l->segs[i].number).text, l->segs[i].head.layout, SEG_LAYOUT);
		return false;
	}
	return true;
}

/* ---- open, close ---- */

static uint64_t whole_pages(uint64_t n)
{
	n = n > INT64_MAX / 2 ? INT64_MAX / 2 : n;
	return align_up(n < SEG_LEAST_BYTES ? SEG_LEAST_BYTES : n, SEG_DATA_START);
}

static struct journal *make(const struct journal_conf *conf)
{
	struct journal *j = util_zalloc(sizeof(*j));
	struct buf path = {0};
	buf_printf(&path, "%s/" JOURNAL_SUBDIR, conf->dir);
	j->path = util_strndup(path.p, path.len);
	buf_free(&path);
	j->data_dir = util_strndup(conf->dir, strlen(conf->dir));
	j->segment_bytes = whole_pages(conf->segment_bytes);
	j->first_bytes = whole_pages(conf->first_bytes < conf->segment_bytes ? conf->first_bytes : conf->segment_bytes);
	j->quota_bytes = conf->quota_bytes;
	j->dirfd = j->fd = -1;
	j->next_number = j->next_id = 1;
	j->group = util_alloc(sizeof(*j->group));
	pthread_mutex_init(&j->making, NULL);
	pthread_mutex_init(&j->upkeep, NULL);
	pthread_mutex_init(&j->list, NULL);
	pthread_cond_init(&j->idle, NULL);
	return j;
}

/* The segment to append to: the last one, or a new one when that cannot be continued. */
static int begin(struct journal *j, bool reuse)
{
	if (reuse) {
		struct seg *g = list_current(j);
		j->fd = segment_open(j->dirfd, segment_name(KIND_SEG, g->number).text, O_RDWR);
		if (j->fd == -1)
			return errno;
	} else {
		/* What need not be kept goes before the new one comes: an old empty segment of higher sequences
		 * (the store was restored from a copy) would contradict it at the next start. */
		size_t kept = 0;
		for (size_t i = 0; i < j->nsegs; i++) {
			struct seg *g = &j->segs[i];
			struct spare s = {.id = j->next_id, .size = g->size, .stale = true};
			if (g->last_seq > j->released) {
				j->segs[kept++] = *g;
				continue;
			}
			if (renameat(j->dirfd, segment_name(KIND_SEG, g->number).text, j->dirfd,
				     segment_name(KIND_SPARE, s.id).text) == -1)
				return errno;
			j->next_id++;
			list_push_spare(j, &s);
		}
		j->nsegs = kept;
		if (fsync(j->dirfd) == -1)
			return errno;
		/* A full quota stops writes, never the start: what is full must be read to become empty. */
		uint64_t quota = j->quota_bytes;
		j->quota_bytes = UINT64_MAX;
		int e = writer_rotate(j, 8, j->next_seq);
		j->quota_bytes = quota;
		if (e)
			return e;
	}
	list_account(j);
	j->dir_dirty = true;
	return journal_sync(j);
}

struct journal *journal_open(const struct journal_conf *conf, uint64_t after_seq, journal_replay_fn *fn, void *arg,
			     char **error_r)
{
	struct journal *j = make(conf);
	struct listing l = {0};
	bool reuse = false, ok;
	*error_r = NULL;
	ok = open_dir(j, error_r) && list_dir(j, &l, error_r) && refuse_newer(j, &l, error_r);
	if (ok) {
		int e = replay_run(j, l.segs, l.n, after_seq, fn, arg, &reuse);
		FAULT_POINT(replay_over);
		if (!e)
			e = begin(j, reuse);
		if (e)
			util_error(error_r, "the journal in %s cannot be used: %s; %s", j->path, strerror(e),
				   advice(e));
		ok = !e;
	}
	free(l.segs);
	if (!ok)
		journal_close(&j);
	return j;
}

void journal_close(struct journal **jp)
{
	struct journal *j = *jp;
	if (!j)
		return;
	/* Relaxed groups; an error was or will be told by journal_sync(), and the next start replays. */
	if (j->fd != -1 && j->unsynced && !j->failed && segment_datasync(j->fd))
		log_error("journal: the last records in %s could not be synced", j->path);
	if (j->fd != -1)
		close(j->fd);
	if (j->dirfd != -1)
		close(j->dirfd);
	pthread_cond_destroy(&j->idle);
	pthread_mutex_destroy(&j->list);
	pthread_mutex_destroy(&j->upkeep);
	pthread_mutex_destroy(&j->making);
	free(j->segs);
	free(j->spares);
	free(j->group);
	free(j->path);
	free(j->data_dir);
	free(j);
	*jp = NULL;
}
