/* Behind a model. What the tests of saved indexes share: a folder for the file, and what is in the file, decrypted. */
#ifndef IMAGE_MODEL_H
#define IMAGE_MODEL_H
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>

#include "index/image-private.h"

static char image_dir[64];

static int image_setup(void **state)
{
	(void)state;
	snprintf(image_dir, sizeof(image_dir), "/tmp/test-image-XXXXXX");
	return mkdtemp(image_dir) ? 0 : -1;
}

static int image_teardown(void **state)
{
	char command[200];
	(void)state;
	snprintf(command, sizeof(command), "rm -rf '%s'", image_dir);
	return system(command);
}

/* How many of our files there are, and the path of the last with that suffix. */
static inline unsigned image_find(const char *suffix, char path[200])
{
	char folder[100];
	unsigned n = 0;
	snprintf(folder, sizeof(folder), "%s/" IMAGE_FOLDER, image_dir);
	DIR *d = opendir(folder);
	for (struct dirent *e; d && (e = readdir(d));) {
		size_t len = strlen(e->d_name), end = strlen(suffix);
		if (len <= end || strcmp(e->d_name + len - end, suffix) != 0)
			continue;
		snprintf(path, 200, "%s/%.80s", folder, e->d_name);
		n++;
	}
	if (d)
		closedir(d);
	return n;
}

/* Are these bytes anywhere in what was saved? */
static inline bool image_holds(const void *bytes, size_t n)
{
	char path[200];
	struct image_head h;
	struct image_key key;
	assert_int_equal(image_find(".key", path), 1);
	int fd = open(path, O_RDONLY);
	assert_int_equal(read(fd, &key, sizeof(key)), sizeof(key));
	close(fd);
	assert_int_equal(image_find(".image", path), 1);
	fd = open(path, O_RDONLY);
	assert_int_equal(pread(fd, &h, sizeof(h), 0), sizeof(h));
	struct image_piece *pieces = malloc(h.pieces * sizeof(*pieces) + 1);
	assert_int_equal(pread(fd, pieces, h.pieces * sizeof(*pieces), (off_t)h.table), h.pieces * sizeof(*pieces));
	EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
	char *buf = malloc(IMAGE_PIECE);
	bool found = false;
	for (uint32_t i = 0; i < h.pieces && !found; i++) {
		assert_int_equal(pread(fd, buf, pieces[i].len, (off_t)pieces[i].file), pieces[i].len);
		found |= memmem(buf, pieces[i].len, bytes, n) != NULL; /* in the clear */
		assert_true(image_crypt(ctx, key.key, i, buf, pieces[i].len));
		found |= memmem(buf, pieces[i].len, bytes, n) != NULL;
	}
	EVP_CIPHER_CTX_free(ctx);
	free(pieces);
	free(buf);
	close(fd);
	return found;
}
#endif
