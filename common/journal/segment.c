/* Segment files: names, heads, zeros, whole writes. */
#include "journal/journal-private.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "crc32c.h"
#include "fault.h"

static const char *const suffix[] = {[KIND_SEG] = ".seg", [KIND_SPARE] = ".spare", [KIND_TMP] = ".tmp"};

struct seg_name segment_name(enum seg_kind kind, uint64_t n)
{
	struct seg_name name;
	snprintf(name.text, sizeof(name.text), "%016llx%s", (unsigned long long)n, suffix[kind]);
	return name;
}

bool segment_parse_name(const char *name, enum seg_kind *kind_r, uint64_t *n_r)
{
	uint64_t n = 0;
	for (int i = 0; i < 16; i++) {
		char c = name[i];
		if (c >= '0' && c <= '9')
			n = n << 4 | (uint64_t)(c - '0');
		else if (c >= 'a' && c <= 'f')
			n = n << 4 | (uint64_t)(c - 'a' + 10);
		else
			return false;
	}
	for (size_t k = 0; k < ARRAY_LEN(suffix); k++)
		if (strcmp(name + 16, suffix[k]) == 0) {
			*kind_r = (enum seg_kind)k;
			*n_r = n;
			return true;
		}
	return false;
}

/* ---- heads ---- */

static uint32_t head_crc(const struct seg_head *h)
{
	struct seg_head copy = *h;
	copy.crc = 0;
	return crc32c(0, &copy, sizeof(copy));
}

bool segment_head_valid(const struct seg_head *h)
{
	/* Numbers are bounded so that none of the sums made with them can overflow. */
	return h->magic == SEG_MAGIC && h->layout && h->layout <= SEG_LAYOUT && h->crc == head_crc(h) && h->epoch &&
	       h->segment && h->segment <= INT64_MAX && h->first_seq && h->first_seq <= INT64_MAX &&
	       h->size <= INT64_MAX && h->start >= SEG_DATA_START && h->start <= h->size && h->start % 8 == 0;
}

bool segment_head_newer(const struct seg_head *h)
{
	return h->magic == SEG_MAGIC && h->layout > SEG_LAYOUT && h->crc == head_crc(h);
}

int segment_head_write(int fd, const struct seg *g)
{
	static const char zeros[SEG_DATA_START - sizeof(struct seg_head)];
	struct seg_head h = {.magic = SEG_MAGIC,
			     .layout = SEG_LAYOUT,
			     .segment = g->number,
			     .first_seq = g->first_seq,
			     .epoch = g->epoch,
			     .size = g->size,
			     .start = g->start};
	uint64_t done;
	h.crc = head_crc(&h);
	struct iovec iov[2] = {{&h, sizeof(h)}, {(void *)(uintptr_t)zeros, sizeof(zeros)}};
	return segment_writev(fd, iov, 2, 0, &done);
}

int segment_open(int dirfd, const char *name, int flags)
{
	int fd;
	do
		fd = openat(dirfd, name, flags | O_CLOEXEC | O_NOFOLLOW, 0600);
	while (fd == -1 && errno == EINTR);
	return fd;
}

int segment_read_head(int fd, struct seg_head *h_r)
{
	memset(h_r, 0, sizeof(*h_r));
	ssize_t n;
	do
		n = pread(fd, h_r, sizeof(*h_r), 0);
	while (n == -1 && errno == EINTR);
	return n == -1 ? errno : 0;
}

uint64_t segment_new_epoch(void)
{
	uint64_t e = 0;
	struct timespec t;
	if (getrandom(&e, sizeof(e), 0) != sizeof(e)) {
		clock_gettime(CLOCK_REALTIME, &t);
		e = ((uint64_t)t.tv_sec * 1000000007u + (uint64_t)t.tv_nsec) * 0x9e3779b97f4a7c15ull;
	}
	return e + !e;
}

/* ---- reading and writing ---- */

#define PAGE 4096u

size_t segment_read(int fd, void *buf, size_t len, uint64_t off, int *error_r)
{
	size_t got = 0, step = len;
	while (got < len) {
		ssize_t n = pread(fd, (char *)buf + got, step < len - got ? step : len - got, (off_t)(off + got));
		if (n == 0)
			break;
		if (n > 0) {
			got += (size_t)n;
			continue;
		}
		if (errno == EINTR)
			continue;
		if (error_r)
			*error_r = errno;
		if (errno != EIO)
			break;
		/* Somewhere in there is a page that the disk has lost. One page at a time from here:
		 * only the lost ones become zeros, and their records fail the CRC. */
		if (step > PAGE) {
			step = PAGE - (off + got) % PAGE;
			continue;
		}
		size_t lost = PAGE - (off + got) % PAGE;
		if (lost > len - got)
			lost = len - got;
		memset((char *)buf + got, 0, lost);
		got += lost;
		step = PAGE;
	}
	return got;
}

static void advance(struct iovec **iov, size_t *n, size_t written)
{
	for (; *n && written >= (*iov)->iov_len; ++*iov, --*n)
		written -= (*iov)->iov_len;
	if (*n) {
		(*iov)->iov_base = (char *)(*iov)->iov_base + written;
		(*iov)->iov_len -= written;
	}
}

int segment_writev(int fd, struct iovec *iov, size_t n, uint64_t off, uint64_t *done_r)
{
	*done_r = 0;
	advance(&iov, &n, 0); /* empty buffers */
	while (n) {
		ssize_t w = pwritev(fd, iov, n < IOV_MAX ? (int)n : IOV_MAX, (off_t)(off + *done_r));
		if (w == -1 && errno == EINTR)
			continue;
		if (w <= 0)
			return w ? errno : EIO;
		*done_r += (uint64_t)w;
		advance(&iov, &n, (size_t)w);
	}
	return 0;
}

int segment_zero(int fd, uint64_t from, uint64_t to)
{
	static char zeros[65536]; /* in .bss, never written */
	struct iovec iov[16];
	while (from < to) {
		size_t n = 0;
		uint64_t at = from, done;
		for (; n < ARRAY_LEN(iov) && at < to; n++) {
			size_t len = to - at < sizeof(zeros) ? (size_t)(to - at) : sizeof(zeros);
			iov[n] = (struct iovec){zeros, len};
			at += len;
		}
		int e = segment_writev(fd, iov, n, from, &done);
		if (e)
			return e;
		from = at;
	}
	return 0;
}

int segment_datasync(int fd)
{
	/* EINTR (FUSE) says that it was not tried to the end. Any other error is final: the kernel has
	 * marked the pages clean, a second call would succeed and prove nothing. */
	while (fdatasync(fd) == -1)
		if (errno != EINTR)
			return errno;
	return 0;
}

int segment_dirsync(int dirfd)
{
	while (fsync(dirfd) == -1)
		if (errno != EINTR)
			return errno;
	return 0;
}

int segment_create(int dirfd, const char *name, uint64_t size, bool fill, int *fd_r)
{
	int fd = segment_open(dirfd, name, O_RDWR | O_CREAT | O_EXCL), e = 0;
	*fd_r = -1;
	if (fd == -1)
		return errno;
	/* Reserved first: a full disk is noticed before anything is written, and the file lies in one piece. */
	while (fallocate(fd, 0, 0, (off_t)size) == -1)
		if (errno != EINTR) {
			e = errno;
			break;
		}
	if (e == EOPNOTSUPP || e == ENOSYS) {
		e = 0;
		fill = true;
	}
	FAULT_POINT(segment_reserved);
	if (!e && fill)
		e = segment_zero(fd, 0, size);
	if (!e)
		e = segment_datasync(fd);
	if (e) {
		close(fd);
		unlinkat(dirfd, name, 0);
		return e;
	}
	*fd_r = fd;
	return 0;
}

/* ---- file systems ---- */

#ifndef CEPH_SUPER_MAGIC
#define CEPH_SUPER_MAGIC 0x00c36400
#endif

enum fs_verdict segment_fs(long f_type, const char **name_r)
{
	/* fdatasync of these can be answered by a cache of this machine, two machines can write the same
	 * file, and an interrupted server loses what was acknowledged. */
	/* clang-format off */
	static const struct {
		uint32_t magic;
		enum fs_verdict verdict;
		const char *name;
	} known[] = {
		{NFS_SUPER_MAGIC, FS_NETWORK, "NFS"},    {SMB_SUPER_MAGIC, FS_NETWORK, "SMB"},
		{CIFS_SUPER_MAGIC, FS_NETWORK, "CIFS"},  {SMB2_SUPER_MAGIC, FS_NETWORK, "SMB2"},
		{CEPH_SUPER_MAGIC, FS_NETWORK, "Ceph"},  {AFS_SUPER_MAGIC, FS_NETWORK, "AFS"},
		{AFS_FS_MAGIC, FS_NETWORK, "AFS"},       {CODA_SUPER_MAGIC, FS_NETWORK, "Coda"},
		{FUSE_SUPER_MAGIC, FS_DOUBTFUL, "FUSE"}, {V9FS_MAGIC, FS_DOUBTFUL, "9p"},
	};
	/* clang-format on */
	for (size_t i = 0; i < ARRAY_LEN(known); i++)
		if (known[i].magic == (uint32_t)f_type) {
			*name_r = known[i].name;
			return known[i].verdict;
		}
	*name_r = "local";
	return FS_LOCAL;
}
