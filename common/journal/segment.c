/* Segment files: create, head, names. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "crc32c.h"
#include "journal-private.h"

#define ZERO_CHUNK (1u << 20)

static bool network_fs(long type)
{
	switch (type) {
	case 0x6969:     /* NFS */
	case 0xff534d42: /* CIFS */
	case 0xfe534d42: /* SMB2 */
	case 0x517b:     /* SMB */
	case 0x73757245: /* Coda */
	case 0x5346414f: /* AFS */
	case 0x01021997: /* 9p */
		return true;
	}
	return false;
}

static int fail(char **error_r, const char *what, const char *path)
{
	char text[512];
	snprintf(text, sizeof(text), "%s %s: %s", what, path, strerror(errno));
	*error_r = util_strndup(text, strlen(text));
	return -1;
}

int segment_dir_open(const char *data_dir, char **error_r)
{
	char path[4096];
	struct statfs fs;
	if (snprintf(path, sizeof(path), "%s/journal", data_dir) >= (int)sizeof(path)) {
		errno = ENAMETOOLONG;
		return fail(error_r, "cannot use", data_dir);
	}
	if (mkdir(path, 0700) && errno != EEXIST)
		return fail(error_r, "cannot create", path);
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return fail(error_r, "cannot open", path);
	if (fstatfs(fd, &fs) == 0 && network_fs(fs.f_type)) {
		close(fd);
		static const char why[] = "data.dir lies on a network file system, where fdatasync and locks cannot be "
					  "relied on; put it on a local disk";
		*error_r = util_strndup(why, sizeof(why) - 1);
		return -1;
	}
	return fd;
}

void segment_name(uint64_t number, char out[32]) { snprintf(out, 32, "%016llx.seg", (unsigned long long)number); }

static int write_all(int fd, const void *p, size_t n, uint64_t at)
{
	const char *c = p;
	while (n) {
		ssize_t w = pwrite(fd, c, n, (off_t)at);
		if (w < 0 && errno == EINTR)
			continue;
		if (w <= 0)
			return w < 0 ? errno : ENOSPC;
		c += w;
		at += (uint64_t)w;
		n -= (size_t)w;
	}
	return 0;
}

int segment_write_head(struct segment *s)
{
	struct seg_head h = {.magic = SEG_MAGIC, .layout = SEG_LAYOUT, .segment = s->number,
			     .first_seq = s->first_seq, .epoch = s->epoch, .size = s->size};
	h.crc = crc32c(0, &h, sizeof(h));
	return write_all(s->fd, &h, sizeof(h), 0);
}

bool segment_read_head(int fd, struct seg_head *h)
{
	if (pread(fd, h, sizeof(*h), 0) != (ssize_t)sizeof(*h) || h->magic != SEG_MAGIC || h->layout != SEG_LAYOUT)
		return false;
	struct seg_head copy = *h;
	copy.crc = 0;
	return crc32c(0, &copy, sizeof(copy)) == h->crc;
}

/* Written, not only allocated: blocks that were fallocated but never written change the extent
 * tree at the first write, and fdatasync then pays for metadata. */
int segment_zero(int fd, uint64_t from, uint64_t to)
{
	char *zeros = calloc(1, ZERO_CHUNK);
	int e = zeros ? 0 : ENOMEM;
	while (!e && from < to) {
		size_t n = to - from < ZERO_CHUNK ? (size_t)(to - from) : ZERO_CHUNK;
		e = write_all(fd, zeros, n, from);
		from += n;
	}
	free(zeros);
	return e;
}

int segment_create(int dirfd, const char *name, uint64_t size)
{
	int fd = openat(dirfd, name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		return -1;
	int e = posix_fallocate(fd, 0, (off_t)size); /* fails before half of it is written */
	if (!e)
		e = segment_zero(fd, 0, size);
	if (!e && fdatasync(fd))
		e = errno;
	if (!e && fsync(dirfd))
		e = errno;
	if (!e)
		return fd;
	unlinkat(dirfd, name, 0);
	close(fd);
	errno = e;
	return -1;
}
