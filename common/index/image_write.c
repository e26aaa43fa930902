/* Writing a generation of saved indexes. */
#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/rand.h>
#include <stdlib.h>
#include <unistd.h>
#include <xxhash.h>

#include "clock.h"
#include "fault.h"
#include "index/image-private.h"
#include "shm.h"

#define WINDOW                                                                                                         \
	(8u                                                                                                            \
	 << 20) /* bytes that may wait for the disk: a journal that is synced meanwhile does not wait for gigabytes */

struct image_writer {
	int dir, fd, error;
	struct image_head head;
	struct image_key key;
	EVP_CIPHER_CTX *ctx;
	struct image_piece *pieces;
	size_t npieces, cpieces;
	char *buf; /* the piece that is being put together */
	struct image_piece now;
	uint64_t end;	 /* of the file */
	uint64_t handed; /* to the disk */
	int64_t until_us;
};

static bool fail(struct image_writer *w, int error)
{
	if (!w->error)
		w->error = error ? error : EIO;
	errno = w->error;
	return false;
}

static int write_all(int fd, const void *p, size_t n, uint64_t at)
{
	const char *from = p;
	while (n) {
		ssize_t done = pwrite(fd, from, n, (off_t)at);
		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			return done ? errno : EIO;
		from += done;
		at += (uint64_t)done;
		n -= (size_t)done;
	}
	return 0;
}

/* ---- beginning ---- */

static bool highest(void *arg, int dir, const char *name, uint64_t generation, const char *suffix)
{
	uint64_t *most = arg;
	(void)dir, (void)name, (void)suffix;
	*most = generation > *most ? generation : *most;
	return true;
}

/* What killed writers left unfinished; with it goes its key. */
static bool unfinished(void *arg, int dir, const char *name, uint64_t generation, const char *suffix)
{
	char other[IMAGE_NAME];
	(void)arg;
	image_name(other, generation, ".image");
	bool named = faccessat(dir, other, F_OK, 0) == 0;
	return strcmp(suffix, ".image") == 0 || (strcmp(suffix, ".key") == 0 && named) ||
	       image_remove(dir, name, suffix);
}

static bool write_key(struct image_writer *w)
{
	char name[IMAGE_NAME];
	image_name(name, w->head.generation, ".key");
	int fd = openat(w->dir, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd == -1)
		return false;
	int error = write_all(fd, &w->key, sizeof(w->key), 0);
	if (!error && fdatasync(fd))
		error = errno;
	close(fd);
	errno = error;
	return !error;
}

static bool begin(struct image_writer *w)
{
	char name[IMAGE_NAME];
	if (!image_walk(w->dir, unfinished, NULL) || !image_walk(w->dir, highest, &w->head.generation))
		return false;
	w->head.generation++;
	if (RAND_bytes(w->key.key, sizeof(w->key.key)) != 1 ||
	    RAND_bytes((unsigned char *)&w->key.nonce, sizeof(w->key.nonce)) != 1) {
		errno = EIO;
		return false;
	}
	w->head.nonce = w->key.nonce;
	if (!write_key(w))
		return false;
	FAULT_POINT(image_begun);
	image_name(name, w->head.generation, ".image.new");
	w->fd = openat(w->dir, name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	return w->fd != -1;
}

struct image_writer *image_writer_open(const char *data_dir)
{
	struct image_writer *w = util_zalloc(sizeof(*w));
	w->fd = -1;
	w->dir = image_folder(data_dir, true);
	w->ctx = EVP_CIPHER_CTX_new();
	w->buf = util_alloc(IMAGE_PIECE);
	w->end = w->handed = IMAGE_HEAD;
	if (w->dir != -1 && w->ctx && begin(w))
		return w;
	int error = errno;
	image_writer_abort(&w);
	errno = error;
	return NULL;
}

/* ---- pieces ---- */

static void to_disk(struct image_writer *w)
{
	if (w->end - w->handed < WINDOW)
		return;
	(void)sync_file_range(w->fd, (off_t)w->handed, (off_t)(w->end - w->handed),
			      SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
	w->handed = w->end;
}

static bool flush_piece(struct image_writer *w)
{
	struct image_piece *p = &w->now;
	if (!p->len)
		return true;
	if (w->npieces == IMAGE_PIECES_MAX)
		return fail(w, EFBIG);
	if (w->until_us && clock_mono_us() > w->until_us)
		return fail(w, ETIME);
	if (w->npieces == w->cpieces) {
		w->cpieces = w->cpieces ? 2 * w->cpieces : 1024;
		w->pieces = util_realloc(w->pieces, w->cpieces * sizeof(*w->pieces));
	}
	if (!image_crypt(w->ctx, w->key.key, (uint32_t)w->npieces, w->buf, p->len))
		return fail(w, EIO);
	p->file = w->end;
	p->sum = XXH3_64bits(w->buf, p->len);
	int error = write_all(w->fd, w->buf, p->len, w->end);
	if (error)
		return fail(w, error);
	w->end += p->len;
	w->pieces[w->npieces++] = *p;
	p->len = 0;
	to_disk(w);
	FAULT_POINT(image_piece_written);
	return true;
}

static bool add(struct image_writer *w, enum image_part part, uint64_t at, const char *from, size_t n, bool shared)
{
	struct image_piece *p = &w->now;
	if (w->error)
		return fail(w, w->error);
	while (n) {
		if (p->len && (p->part != (uint32_t)part || p->at + p->len != at || p->len == IMAGE_PIECE) &&
		    !flush_piece(w))
			return false;
		if (!p->len)
			*p = (struct image_piece){.part = part, .at = at};
		size_t some = n < IMAGE_PIECE - p->len ? n : IMAGE_PIECE - p->len;
		if (shared)
			shm_copy_out(w->buf + p->len, from, some);
		else
			memcpy(w->buf + p->len, from, some);
		p->len += (uint32_t)some;
		at += some;
		from += some;
		n -= some;
	}
	return true;
}

bool image_add(struct image_writer *w, enum image_part part, uint64_t at, const void *bytes, size_t n)
{
	return add(w, part, at, bytes, n, false);
}

bool image_add_shared(struct image_writer *w, enum image_part part, uint64_t at, const void *bytes, size_t n)
{
	return add(w, part, at, bytes, n, true);
}

void image_writer_until(struct image_writer *w, int64_t until_us) { w->until_us = until_us; }

uint64_t image_writer_bytes(const struct image_writer *w) { return w->end; }

/* ---- the end ---- */

bool image_writer_end(struct image_writer *w, const struct image_facts *facts)
{
	struct image_head *h = &w->head;
	if (w->error || !flush_piece(w))
		return fail(w, w->error);
	size_t table = w->npieces * sizeof(*w->pieces);
	memcpy(&h->facts, facts, sizeof(h->facts)); /* with its holes */
	h->magic = IMAGE_MAGIC;
	h->version = IMAGE_VERSION;
	h->pieces = (uint32_t)w->npieces;
	h->table = w->end;
	h->bytes = w->end + table;
	h->table_sum = XXH3_64bits(w->pieces ? (const void *)w->pieces : "", table);
	h->sum = image_head_sum(h);
	int error = write_all(w->fd, w->pieces, table, w->end);
	w->end += table;
	if (!error && fsync(w->fd))
		error = errno;
	FAULT_POINT(image_headless);
	memset(w->buf, 0, IMAGE_HEAD);
	memcpy(w->buf, h, sizeof(*h));
	if (!error)
		error = write_all(w->fd, w->buf, IMAGE_HEAD, 0);
	if (!error && fsync(w->fd))
		error = errno;
	return error ? fail(w, error) : true;
}

static bool older(void *arg, int dir, const char *name, uint64_t generation, const char *suffix)
{
	const struct image_writer *w = arg;
	return generation >= w->head.generation || image_remove(dir, name, suffix);
}

static void free_writer(struct image_writer **wp)
{
	struct image_writer *w = *wp;
	if (w->fd != -1)
		close(w->fd);
	if (w->dir != -1)
		close(w->dir);
	EVP_CIPHER_CTX_free(w->ctx);
	OPENSSL_cleanse(&w->key, sizeof(w->key));
	free(w->pieces);
	free(w->buf);
	free(w);
	*wp = NULL;
}

bool image_writer_publish(struct image_writer **wp)
{
	struct image_writer *w = *wp;
	char temp[IMAGE_NAME], name[IMAGE_NAME];
	image_name(temp, w->head.generation, ".image.new");
	image_name(name, w->head.generation, ".image");
	if (w->error || renameat(w->dir, temp, w->dir, name) || fsync(w->dir)) {
		int error = w->error ? w->error : errno;
		image_writer_abort(wp);
		errno = error;
		return false;
	}
	FAULT_POINT(image_named);
	/* What cannot be removed is older, and the newest one counts. */
	if (image_walk(w->dir, older, w))
		(void)fsync(w->dir);
	free_writer(wp);
	return true;
}

void image_writer_abort(struct image_writer **wp)
{
	struct image_writer *w = *wp;
	static const char *const suffixes[] = {".key", ".image.new", ".image"};
	int error = errno;
	if (!w)
		return;
	for (size_t i = 0; i < ARRAY_LEN(suffixes) && w->dir != -1 && w->head.nonce; i++) {
		char name[IMAGE_NAME];
		image_name(name, w->head.generation, suffixes[i]);
		(void)!image_remove(w->dir, name, suffixes[i]);
	}
	free_writer(wp);
	errno = error;
}
