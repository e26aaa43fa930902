/* Saved indexes: what writer and reader share, and erasing. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "fault.h"
#include "index/image-private.h"

int image_folder(const char *data_dir, bool make)
{
	char path[PATH_MAX];
	if (snprintf(path, sizeof(path), "%s/%s", data_dir, IMAGE_FOLDER) >= (int)sizeof(path)) {
		errno = ENAMETOOLONG;
		return -1;
	}
	if (make && mkdir(path, 0700) == -1 && errno != EEXIST)
		return -1;
	return open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
}

void image_name(char out[IMAGE_NAME], uint64_t generation, const char *suffix)
{
	snprintf(out, IMAGE_NAME, "%016" PRIx64 "%s", generation, suffix);
}

bool image_name_read(const char *name, uint64_t *generation_r, const char **suffix_r)
{
	static const char *const suffixes[] = {".image", ".image.new", ".key"};
	size_t digits = strspn(name, "0123456789abcdef");
	if (digits != 16)
		return false;
	*generation_r = strtoull(name, NULL, 16);
	for (size_t i = 0; i < ARRAY_LEN(suffixes); i++) {
		*suffix_r = suffixes[i];
		if (strcmp(name + digits, suffixes[i]) == 0)
			return *generation_r != 0;
	}
	return false;
}

bool image_walk(int dir, bool (*fn)(void *arg, int dir, const char *name, uint64_t generation, const char *suffix),
		void *arg)
{
	int copy = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), error = 0;
	DIR *d = copy == -1 ? NULL : fdopendir(copy);
	if (!d) {
		error = errno;
		if (copy != -1)
			close(copy);
		errno = error;
		return false;
	}
	for (struct dirent *e; errno = 0, (e = readdir(d));) {
		uint64_t generation;
		const char *suffix;
		if (image_name_read(e->d_name, &generation, &suffix) && !fn(arg, dir, e->d_name, generation, suffix))
			error = errno;
	}
	error = error ? error : errno;
	closedir(d);
	errno = error;
	return !error;
}

static bool shred(int dir, const char *name)
{
	static const struct image_key nothing;
	int fd = openat(dir, name, O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd == -1)
		return errno == ENOENT;
	bool ok = pwrite(fd, &nothing, sizeof(nothing), 0) == sizeof(nothing) && fdatasync(fd) == 0;
	int error = errno;
	close(fd);
	errno = error;
	return ok;
}

bool image_remove(int dir, const char *name, const char *suffix)
{
	bool ok = strcmp(suffix, ".key") != 0 || shred(dir, name);
	int error = errno;
	if (unlinkat(dir, name, 0) == 0 || errno == ENOENT) {
		errno = error;
		return ok;
	}
	return false;
}

static bool remove_key(void *arg, int dir, const char *name, uint64_t generation, const char *suffix)
{
	(void)arg, (void)generation;
	return strcmp(suffix, ".key") != 0 || image_remove(dir, name, suffix);
}

static bool remove_any(void *arg, int dir, const char *name, uint64_t generation, const char *suffix)
{
	(void)arg, (void)generation;
	return image_remove(dir, name, suffix);
}

/* Keys first: without them the rest says nothing, should there be no time for it. */
bool image_wipe(const char *data_dir)
{
	int dir = image_folder(data_dir, false);
	if (dir == -1)
		return errno == ENOENT;
	bool keys = image_walk(dir, remove_key, NULL);
	int error = errno;
	FAULT_POINT(image_shredded);
	bool all = image_walk(dir, remove_any, NULL) && fsync(dir) == 0;
	error = keys ? errno : error;
	close(dir);
	errno = error;
	return keys && all;
}

bool image_crypt(EVP_CIPHER_CTX *ctx, const unsigned char key[IMAGE_KEY], uint32_t number, void *p, size_t n)
{
	unsigned char iv[16] = {0};
	int done = 0;
	memcpy(iv, &number, sizeof(number)); /* the counter has the other end */
	return n <= INT_MAX && EVP_EncryptInit_ex(ctx, EVP_aes_256_ctr(), NULL, key, iv) == 1 &&
	       EVP_EncryptUpdate(ctx, p, &done, p, (int)n) == 1 && done == (int)n;
}

uint64_t image_head_sum(const struct image_head *h) { return XXH3_64bits(h, offsetof(struct image_head, sum)); }
