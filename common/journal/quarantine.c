/* Keeps a copy of a damaged segment: the journal goes on without it and will overwrite the file. */
#define LOG_SUBSYSTEM LOG_IN_JOURNAL
#include "journal/journal-private.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fault.h"
#include "log.h"

static int copy_bytes(int from, int to)
{
	size_t cap = 1u << 20;
	char *buf = util_alloc(cap);
	uint64_t off = 0, done;
	int e = 0;
	for (size_t n; !e && (n = segment_read(from, buf, cap, off, NULL)); off += n) {
		struct iovec iov = {buf, n};
		e = segment_writev(to, &iov, 1, off, &done);
	}
	free(buf);
	return e ? e : segment_datasync(to);
}

/* Written under another name first: a copy that has its name is whole. */
static int copy_file(const struct journal *j, int qdir, uint64_t number, const char *name)
{
	char part[64];
	int e = 0, to = -1;
	snprintf(part, sizeof(part), "%s.part", name);
	int from = segment_open(j->dirfd, segment_name(KIND_SEG, number).text, O_RDONLY);
	if (from == -1)
		return errno;
	to = segment_open(qdir, part, O_WRONLY | O_CREAT | O_TRUNC);
	e = to == -1 ? errno : copy_bytes(from, to);
	FAULT_POINT(quarantine_copied);
	if (!e && renameat(qdir, part, qdir, name) == -1)
		e = errno;
	if (e && to != -1)
		unlinkat(qdir, part, 0);
	FAULT_POINT(quarantine_named);
	if (!e && fsync(qdir) == -1)
		e = errno;
	if (to != -1)
		close(to);
	close(from);
	return e;
}

static int quarantine_dir(const struct journal *j, char *path, size_t cap)
{
	if (snprintf(path, cap, "%s/" QUARANTINE_SUBDIR, j->data_dir) >= (int)cap) {
		errno = ENAMETOOLONG;
		return -1;
	}
	if (mkdir(path, 0700) == -1 && errno != EEXIST)
		return -1;
	return open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
}

void quarantine_copy(const struct journal *j, uint64_t number, uint64_t epoch, char path_r[static PATH_MAX])
{
	char dir[PATH_MAX - 64], name[48];
	struct stat st;
	int e = 0, qdir = quarantine_dir(j, dir, sizeof(dir));
	snprintf(name, sizeof(name), "%016llx-%016llx.seg", (unsigned long long)number, (unsigned long long)epoch);
	path_r[0] = 0;
	if (qdir == -1)
		e = errno;
	/* Met again after a restart, before the store had what the journal holds: one copy is enough. */
	else if (fstatat(qdir, name, &st, AT_SYMLINK_NOFOLLOW) == -1)
		e = copy_file(j, qdir, number, name);
	if (e)
		log_error_event(journal_quarantine, NULL,
				"journal: the damaged segment %s/%s cannot be copied to %s/" QUARANTINE_SUBDIR ": %s",
				j->path, segment_name(KIND_SEG, number).text, j->data_dir, strerror(e));
	else
		snprintf(path_r, PATH_MAX, "%s/%s", dir, name);
	if (qdir != -1)
		close(qdir);
}
