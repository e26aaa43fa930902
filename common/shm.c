#include "shm.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

int shm_create(const char *name, size_t size)
{
	int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return -1;
	if (ftruncate(fd, (off_t)size) == 0 && fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0)
		return fd;
	int e = errno;
	close(fd);
	errno = e;
	return -1;
}

static int unnamed(const char *dir)
{
	char path[PATH_MAX];
	int fd = open(dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (fd != -1 || (errno != EOPNOTSUPP && errno != EISDIR)) /* network file systems may know none */
		return fd;
	if (snprintf(path, sizeof(path), "%s/.segment-XXXXXX", dir) >= (int)sizeof(path)) {
		errno = ENAMETOOLONG;
		return -1;
	}
	fd = mkostemp(path, O_CLOEXEC);
	if (fd != -1)
		unlink(path);
	return fd;
}

int shm_create_file(const char *dir, size_t size)
{
	int fd = unnamed(dir), e;
	if (fd == -1)
		return -1;
	while ((e = posix_fallocate(fd, 0, (off_t)size)) == EINTR)
		;
	if (!e)
		return fd;
	close(fd);
	errno = e;
	return -1;
}

static bool write_all(int fd, struct span s)
{
	while (s.len) {
		ssize_t done = write(fd, s.p, s.len);
		if (done == -1 && errno == EINTR)
			continue;
		if (done <= 0)
			return false;
		s.p += done;
		s.len -= (size_t)done;
	}
	return true;
}

int shm_sealed(const char *name, const struct span *parts, size_t n)
{
	int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	bool ok = fd != -1;
	for (size_t i = 0; ok && i < n; i++)
		ok = write_all(fd, parts[i]);
	if (ok && fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) == 0)
		return fd;
	int e = errno;
	if (fd != -1)
		close(fd);
	errno = e;
	return -1;
}

void *shm_map(int fd, bool huge, size_t *size_r)
{
	struct stat st;
	if (fstat(fd, &st))
		return NULL;
	if (st.st_size <= 0) {
		errno = EINVAL;
		return NULL;
	}
	void *p = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		return NULL;
	/* Neither the bodies of memories nor vectors belong into a core file. */
	madvise(p, (size_t)st.st_size, MADV_DONTDUMP);
	if (huge)
		madvise(p, (size_t)st.st_size, MADV_HUGEPAGE);
	*size_r = (size_t)st.st_size;
	return p;
}

static inline void word_out(unsigned char *d, const unsigned char *s)
{
	uint64_t w = __atomic_load_n((const uint64_t *)(const void *)s, __ATOMIC_RELAXED);
	memcpy(d, &w, 8);
}

static inline void word_in(unsigned char *d, const unsigned char *s)
{
	uint64_t w;
	memcpy(&w, s, 8);
	__atomic_store_n((uint64_t *)(void *)d, w, __ATOMIC_RELAXED);
}

/* Sixteen bytes as two such words are read and written: the processor tears no aligned word of eight, wherever it lies. */
#if defined(__SSE2__) && !defined(__SANITIZE_THREAD__)
typedef long long pair __attribute__((vector_size(16), aligned(8), may_alias));
static inline void pair_out(unsigned char *d, const unsigned char *s)
{
	pair v = *(const volatile pair *)(const void *)s;
	memcpy(d, &v, 16);
}

static inline void pair_in(unsigned char *d, const unsigned char *s)
{
	pair v;
	memcpy(&v, s, 16);
	*(volatile pair *)(void *)d = v;
}
#else
static inline void pair_out(unsigned char *d, const unsigned char *s)
{
	word_out(d, s);
	word_out(d + 8, s + 8);
}

static inline void pair_in(unsigned char *d, const unsigned char *s)
{
	word_in(d, s);
	word_in(d + 8, s + 8);
}
#endif

/* Both sides go by 8-byte words where the shared side is aligned, eight a turn, by bytes at the ends. */
void shm_copy_out(void *dst, const void *src, size_t n)
{
	unsigned char *d = dst;
	const unsigned char *s = src;
	while (n && ((uintptr_t)s & 7)) {
		*d++ = __atomic_load_n(s++, __ATOMIC_RELAXED);
		n--;
	}
	for (; n >= 64; n -= 64, s += 64, d += 64) {
		pair_out(d, s);
		pair_out(d + 16, s + 16);
		pair_out(d + 32, s + 32);
		pair_out(d + 48, s + 48);
	}
	for (; n >= 8; n -= 8, s += 8, d += 8)
		word_out(d, s);
	if (n & 4) {
		uint32_t w = __atomic_load_n((const uint32_t *)(const void *)s, __ATOMIC_RELAXED);
		memcpy(d, &w, 4);
		d += 4;
		s += 4;
	}
	for (n &= 3; n; n--)
		*d++ = __atomic_load_n(s++, __ATOMIC_RELAXED);
}

void shm_copy_in(void *dst, const void *src, size_t n)
{
	unsigned char *d = dst;
	const unsigned char *s = src;
	while (n && ((uintptr_t)d & 7)) {
		__atomic_store_n(d++, *s++, __ATOMIC_RELAXED);
		n--;
	}
	for (; n >= 64; n -= 64, s += 64, d += 64) {
		pair_in(d, s);
		pair_in(d + 16, s + 16);
		pair_in(d + 32, s + 32);
		pair_in(d + 48, s + 48);
	}
	for (; n >= 8; n -= 8, s += 8, d += 8)
		word_in(d, s);
	while (n--)
		__atomic_store_n(d++, *s++, __ATOMIC_RELAXED);
}
