/* The hot file: what writer and reader share, and erasing. */
#include "cache/hot_file-private.h"

#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <stdio.h>
#include <limits.h>
#include <openssl/crypto.h>
#include <sys/stat.h>
#include <unistd.h>

#include "crc32c.h"
#include "fault.h"

const char *hot_file_name(enum hot_form form) { return form == HOT_BODIES ? "bodies" : "ids"; }

int hot_file_folder(const char *data_dir, bool make)
{
	char path[PATH_MAX];
	if (snprintf(path, sizeof(path), "%s/%s", data_dir, HOT_FOLDER) >= (int)sizeof(path)) {
		errno = ENAMETOOLONG;
		return -1;
	}
	if (make && mkdir(path, 0700) == -1 && errno != EEXIST && errno != EACCES && errno != EPERM)
		return -1; /* who may not make it finds it made (sandbox.c) */
	return open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
}

uint32_t hot_head_sum(const struct hot_head *h)
{
	struct hot_head copy;
	memcpy(&copy, h, sizeof(copy)); /* with its holes */
	copy.sum = 0;
	return crc32c(0, &copy, sizeof(copy));
}

uint32_t hot_block_sum(const struct hot_block_head *h) { return crc32c(0, h, offsetof(struct hot_block_head, sum)); }

bool hot_file_crypt(EVP_CIPHER_CTX *ctx, const unsigned char key[HOT_KEY], uint32_t number, char *p, size_t len)
{
	unsigned char iv[16] = {0};
	int n = 0;
	memcpy(iv, &number, sizeof(number)); /* the counter has the other end */
	return len <= INT_MAX && EVP_EncryptInit_ex(ctx, EVP_aes_256_ctr(), NULL, key, iv) == 1 &&
	       EVP_EncryptUpdate(ctx, (unsigned char *)p, &n, (const unsigned char *)p, (int)len) == 1 && n == (int)len;
}

bool hot_file_shred(int dir, const char *name, struct hot_key *key_r)
{
	static const struct hot_key nothing;
	int fd = openat(dir, name, O_RDWR | O_CLOEXEC | O_NOFOLLOW);
	*key_r = nothing;
	if (fd == -1)
		return errno == ENOENT;
	bool whole = pread(fd, key_r, sizeof(*key_r), 0) == sizeof(*key_r);
	bool ok = pwrite(fd, &nothing, sizeof(nothing), 0) == sizeof(nothing) && fdatasync(fd) == 0;
	int error = errno;
	if (!whole)
		*key_r = nothing;
	close(fd);
	FAULT_POINT(hot_shredded);
	errno = error;
	return ok && (unlinkat(dir, name, 0) == 0 || errno == ENOENT);
}

/* The unfinished one first: should it get its name meanwhile, it is found under that. */
bool hot_file_wipe(const char *data_dir)
{
	static const char *const names[] = {"bodies.new", "bodies"};
	struct hot_key key;
	int dir = hot_file_folder(data_dir, false), error = 0;
	if (dir == -1)
		return errno == ENOENT;
	if (!hot_file_shred(dir, "key.new", &key) || !hot_file_shred(dir, "key", &key))
		error = errno;
	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		if (unlinkat(dir, names[i], 0) == -1 && errno != ENOENT)
			error = errno;
	OPENSSL_cleanse(&key, sizeof(key));
	close(dir);
	errno = error;
	return !error;
}
