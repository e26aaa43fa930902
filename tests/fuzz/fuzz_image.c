/* Saved indexes: a file whose checksums are right and whose content is anything. Whatever is in it, it is refused and leaves an
 * empty index, or it can be searched, written to and worked on; nothing reaches beyond the segment.
 *
 * The input is changes to a good file: two bytes say which piece, or table, or facts; two where; one what. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <xxhash.h>

#include "index/image-private.h"
#include "index/lists-private.h"
#include "log.h"
#include "shm.h"
#include "words/postings-private.h"

#define DIM 40
#define ROWS 300
#define LIMIT (1u << 20)

static char dir[] = "/dev/shm/fuzz-image-XXXXXX", image[120];
static char *good; /* with its pieces decrypted */
static size_t size;
static struct image_key key;
static const _Atomic bool go_on;

static struct uuid id_of(uint32_t i)
{
	return (struct uuid){{1, 0, 0, 0, 0, 0, 0x70, 0, 0x80, 0, 0, 0, 0, 0, (uint8_t)(i >> 8), (uint8_t)i}};
}

static void row(uint32_t i, float x[DIM])
{
	for (uint32_t k = 0; k < DIM; k++)
		x[k] = (float)((i * 2654435761u >> (k % 16)) & 255) - 127.5F;
}

static struct vectors *open_vectors(int *fd_r)
{
	*fd_r = shm_create("fuzz-vectors", vectors_segment_size(LIMIT));
	struct vectors *v = *fd_r == -1 ? NULL : vectors_open(*fd_r, true);
	AN(v);
	vectors_stages_set(v, &(struct vectors_stages){.flat_rows = 64});
	return v;
}

static struct postings *open_words(int *fd_r)
{
	*fd_r = shm_create("fuzz-words", postings_segment_size(LIMIT));
	struct postings *p = *fd_r == -1 ? NULL : postings_open(*fd_r, true);
	AN(p);
	return p;
}

static void write_some(struct vectors *v, struct postings *p, uint32_t from, uint32_t n)
{
	float x[DIM];
	for (uint32_t i = from; i < from + n; i++) {
		struct uuid id = id_of(i);
		char text[64];
		row(i, x);
		snprintf(text, sizeof(text), "word%u another%u transplantation%u", i % 7, i % 13, i);
		(void)!vectors_insert(v, 1 + i % 2, &id, 1 + i, 0, DIM, x);
		(void)!postings_put(p, 1 + i % 2, &id, 1 + i, 0, SPAN(text));
	}
	for (uint32_t i = from; i < from + n; i += 5) {
		struct uuid id = id_of(i);
		vectors_remove(v, &id, UINT64_MAX);
		postings_remove(p, &id, UINT64_MAX);
	}
}

static struct image_piece *pieces_of(char *p)
{
	struct image_head h;
	memcpy(&h, p, sizeof(h));
	return (struct image_piece *)(void *)(p + h.table);
}

static void crypt_all(char *p)
{
	struct image_head h;
	EVP_CIPHER_CTX *ctx = EVP_CIPHER_CTX_new();
	memcpy(&h, p, sizeof(h));
	for (uint32_t i = 0; i < h.pieces; i++) {
		struct image_piece c;
		memcpy(&c, pieces_of(p) + i, sizeof(c));
		if (c.file < size && c.len <= size - c.file)
			AN(image_crypt(ctx, key.key, i, p + c.file, c.len));
		c.sum = c.file < size && c.len <= size - c.file ? XXH3_64bits(p + c.file, c.len) : 0;
		memcpy(pieces_of(p) + i, &c, sizeof(c));
	}
	EVP_CIPHER_CTX_free(ctx);
}

static void make_good(void)
{
	int fd, fd2;
	struct image_facts facts = {.revision = 1};
	char path[120];
	AN(mkdtemp(dir));
	struct vectors *v = open_vectors(&fd);
	struct postings *p = open_words(&fd2);
	write_some(v, p, 0, ROWS);
	while (vectors_work(v))
		;
	struct image_writer *w = image_writer_open(dir);
	AN(w);
	vectors_hold(v);
	postings_hold(p);
	AN(vectors_save(v, w, &facts.part[IMAGE_VECTORS], &go_on) == 0);
	AN(postings_save(p, w, &facts.part[IMAGE_WORDS], &go_on) == 0);
	AN(image_writer_end(w, &facts) && image_writer_publish(&w));
	vectors_close(&v);
	postings_close(&p);
	close(fd);
	close(fd2);
	snprintf(image, sizeof(image), "%s/" IMAGE_FOLDER "/0000000000000001.image", dir);
	snprintf(path, sizeof(path), "%s/" IMAGE_FOLDER "/0000000000000001.key", dir);
	fd = open(path, O_RDONLY);
	AN(read(fd, &key, sizeof(key)) == sizeof(key));
	close(fd);
	fd = open(image, O_RDONLY);
	size = (size_t)lseek(fd, 0, SEEK_END);
	good = util_alloc(size);
	AN(pread(fd, good, size, 0) == (ssize_t)size);
	close(fd);
	crypt_all(good);
}

static void change(char *p, const uint8_t *data, size_t n)
{
	struct image_head h;
	memcpy(&h, p, sizeof(h));
	for (; n >= 5; data += 5, n -= 5) {
		uint32_t which = (uint32_t)data[0] << 8 | data[1], at = (uint32_t)data[2] << 8 | data[3];
		if (which == 0xffff) {
			((uint8_t *)h.facts.part)[at % sizeof(h.facts.part)] = data[4];
		} else if (which >= 0xff00) {
			((uint8_t *)pieces_of(p))[at % (h.pieces * sizeof(struct image_piece))] = data[4];
		} else {
			struct image_piece c;
			memcpy(&c, pieces_of(good) + which % h.pieces, sizeof(c));
			p[c.file + (which / h.pieces * 65536 + at) % c.len] = (char)data[4];
		}
	}
	crypt_all(p);
	h.table_sum = XXH3_64bits(pieces_of(p), h.pieces * sizeof(struct image_piece));
	h.sum = image_head_sum(&h);
	memcpy(p, &h, sizeof(h));
}

static void use(struct vectors *v, struct postings *p)
{
	struct vectors_hit hits[20];
	struct postings_hit found[20];
	struct postings_question q;
	struct words *words = words_new();
	float x[DIM];
	size_t n;
	row(7, x);
	postings_question_read(words, SPAN("word3 another4 transp*"), &q);
	for (uint64_t ns = 1; ns <= 2; ns++) {
		(void)vectors_search(v, &(struct vectors_query){.ns = ns, .dim = DIM, .x = x, .k = 20}, hits, &n);
		(void)!postings_search(p, &(struct postings_query){.ns = ns, .question = &q, .k = 20}, found, &n, NULL);
	}
	postings_question_free(&q);
	words_free(&words);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	int fd, fd2;
	if (n > 4096)
		return 0;
	if (!good)
		make_good();
	char *p = util_alloc(size);
	memcpy(p, good, size);
	change(p, data, n);
	int file = open(image, O_WRONLY | O_TRUNC);
	AN(file != -1 && write(file, p, size) == (ssize_t)size);
	close(file);
	free(p);
	struct image *m = image_open(dir, 0);
	if (!m)
		return 0;
	struct vectors *v = open_vectors(&fd);
	struct postings *w = open_words(&fd2);
	bool a = vectors_load(v, fd, m, NULL, NULL) == 0, b = postings_load(w, fd2, m, NULL, NULL) == 0;
	AN(a || vectors_unused(v));
	AN(b || postings_unused(w));
	AN(n >= 5 || (a && b));
	vectors_load_end(v, a);
	postings_load_end(w, b);
	use(v, w);
	write_some(v, w, 50, 60);
	while (vectors_work(v))
		;
	use(v, w);
	image_close(&m);
	vectors_close(&v);
	postings_close(&w);
	close(fd);
	close(fd2);
	return 0;
}
