/* Reading a generation of saved indexes. By read(), not by a mapping: a bad block then is an error, not a signal. Into the
 * segment by pwrite(): it takes a page without filling it with zeros first, and without a fault each. */
#define LOG_SUBSYSTEM LOG_IN_INDEX
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <openssl/crypto.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "fault.h"
#include "index/image-private.h"
#include "log.h"

struct image {
	int fd;
	struct image_head head;
	struct image_key key;
	struct image_piece *pieces;
};

static bool read_all(int fd, void *p, size_t n, uint64_t at)
{
	char *to = p;
	while (n) {
		ssize_t done = pread(fd, to, n, (off_t)at);
		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			return false;
		to += done;
		at += (uint64_t)done;
		n -= (size_t)done;
	}
	return true;
}

/* ---- head and table: NULL when they are good, else what is wrong ---- */

static const char *read_head(struct image *m, uint64_t generation)
{
	struct stat st;
	struct image_head *h = &m->head;
	if (fstat(m->fd, &st) || !S_ISREG(st.st_mode))
		return "cannot be read";
	if (!read_all(m->fd, h, sizeof(*h), 0))
		return "is too short";
	if (h->magic != IMAGE_MAGIC)
		return "is no saved index, or was not finished";
	if (h->sum != image_head_sum(h))
		return "has a damaged head";
	if (h->version != IMAGE_VERSION)
		return "is of another version";
	if (h->generation != generation)
		return "is of another generation than its name says";
	if (h->bytes != (uint64_t)st.st_size)
		return "is truncated or too long";
	if (h->nonce != m->key.nonce)
		return "has no key";
	return NULL;
}

static const char *read_table(struct image *m)
{
	const struct image_head *h = &m->head;
	uint64_t bytes = (uint64_t)h->pieces * sizeof(struct image_piece), end = IMAGE_HEAD;
	if (h->pieces > IMAGE_PIECES_MAX || h->table > h->bytes || h->bytes - h->table != bytes)
		return "does not add up";
	m->pieces = util_alloc(bytes + 1);
	if (!read_all(m->fd, m->pieces, bytes, h->table))
		return "cannot be read";
	if (XXH3_64bits(m->pieces, bytes) != h->table_sum)
		return "has a damaged table";
	for (uint32_t i = 0; i < h->pieces; i++) {
		const struct image_piece *p = &m->pieces[i];
		if (p->file != end || !p->len || p->len > IMAGE_PIECE || p->part >= IMAGE_PARTS)
			return "has an impossible table";
		end += p->len;
	}
	return end == h->table ? NULL : "has an impossible table";
}

static struct image *open_one(int dir, uint64_t generation)
{
	char name[IMAGE_NAME], key[IMAGE_NAME];
	struct image *m = util_zalloc(sizeof(*m));
	image_name(name, generation, ".image");
	image_name(key, generation, ".key");
	int fd = openat(dir, key, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	if (fd != -1 && !read_all(fd, &m->key, sizeof(m->key), 0))
		m->key = (struct image_key){0};
	if (fd != -1)
		close(fd);
	m->fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	const char *wrong = m->fd == -1 ? "cannot be opened" : read_head(m, generation);
	if (!wrong)
		wrong = read_table(m);
	if (!wrong)
		return m;
	log_warn("the saved index %s %s; it is not used", name, wrong);
	image_close(&m);
	return NULL;
}

/* ---- which ---- */

struct newest {
	uint64_t below, best;
};

static bool choose(void *arg, int dir, const char *name, uint64_t generation, const char *suffix)
{
	struct newest *n = arg;
	(void)dir, (void)name;
	if (strcmp(suffix, ".image") == 0 && generation < n->below && generation > n->best)
		n->best = generation;
	return true;
}

struct image *image_open(const char *data_dir, uint64_t below)
{
	struct image *m = NULL;
	int dir = image_folder(data_dir, false);
	if (dir == -1)
		return NULL;
	struct newest n = {.below = below ? below : UINT64_MAX};
	while (!m && image_walk(dir, choose, &n) && n.best) {
		m = open_one(dir, n.best);
		n = (struct newest){.below = n.best};
	}
	close(dir);
	return m;
}

void image_close(struct image **m)
{
	if (!*m)
		return;
	if ((*m)->fd != -1)
		close((*m)->fd);
	OPENSSL_cleanse(&(*m)->key, sizeof((*m)->key));
	free((*m)->pieces);
	free(*m);
	*m = NULL;
}

const struct image_facts *image_facts(const struct image *m) { return &m->head.facts; }
uint64_t image_generation(const struct image *m) { return m->head.generation; }
uint64_t image_bytes(const struct image *m) { return m->head.bytes; }

/* ---- pieces ---- */

struct reading {
	struct image *m;
	enum image_part part;
	const struct image_target *t;
	_Atomic uint32_t next;
	_Atomic bool wrong;
};

static bool write_piece(int fd, const char *p, size_t n, uint64_t at)
{
	while (n) {
		ssize_t done = pwrite(fd, p, n, (off_t)at);
		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0)
			return false;
		p += done;
		at += (uint64_t)done;
		n -= (size_t)done;
	}
	return true;
}

static bool meant(const struct image_piece *p, enum image_part part, const struct image_target *t)
{
	return p->part == (uint32_t)part && p->at >= t->from && p->at < t->to;
}

static bool one_piece(struct reading *r, EVP_CIPHER_CTX *ctx, char *buf, uint32_t number)
{
	const struct image_piece *p = &r->m->pieces[number];
	const struct image_target *t = r->t;
	return read_all(r->m->fd, buf, p->len, p->file) && XXH3_64bits(buf, p->len) == p->sum &&
	       image_crypt(ctx, r->m->key.key, number, buf, p->len) &&
	       (t->place ? t->place(t->arg, p->at, buf, p->len) : write_piece(t->fd, buf, p->len, p->at));
}

static void read_pieces(struct reading *r, void (*progress)(void *arg))
{
	EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
	char *buf = util_alloc(IMAGE_PIECE);
	for (uint32_t i; !r->wrong && (i = atomic_fetch_add(&r->next, 1)) < r->m->head.pieces;) {
		if (!meant(&r->m->pieces[i], r->part, r->t))
			continue;
		if (!ctx || !one_piece(r, ctx, buf, i))
			r->wrong = true;
		if (progress)
			progress(r->t->progress_arg);
		FAULT_POINT(image_piece_read);
	}
	free(buf);
	EVP_CIPHER_CTX_free(ctx);
}

static void *reader_main(void *arg)
{
	read_pieces(arg, NULL);
	return NULL;
}

/* Two threads: what one of them does between reading and writing keeps a processor busy. */
bool image_read(struct image *m, enum image_part part, const struct image_target *t)
{
	struct reading r = {.m = m, .part = part, .t = t};
	pthread_t thread;
	for (uint32_t i = 0; i < m->head.pieces; i++) {
		const struct image_piece *p = &m->pieces[i];
		if (meant(p, part, t) && !t->allowed(t->arg, p->at, p->len)) {
			log_warn("the saved index %016" PRIx64 " has a piece that belongs nowhere; it is not used",
				 m->head.generation);
			return false;
		}
	}
	(void)posix_fadvise(m->fd, 0, 0, POSIX_FADV_SEQUENTIAL);
	bool two = m->head.pieces > 8 && pthread_create(&thread, NULL, reader_main, &r) == 0;
	read_pieces(&r, t->progress);
	if (two)
		pthread_join(thread, NULL);
	if (r.wrong)
		log_warn("the saved index %016" PRIx64 " is damaged, or there is no memory for it; it is not used",
			 m->head.generation);
	return !r.wrong;
}
