/* Rows in a file beside the segment, for when memory is too dear for them.
 *
 * A row of a namespace that has codes is read when a search compares what its codes have found, and hardly otherwise. So
 * rows, which are seven eighths of the index, may lie in a file that the kernel pages in and out as they are asked for;
 * ids, versions, tombstones, codes and lists stay in the segment. A chunk has its rows in one place or the other. What
 * publishes them is in the segment in either case, so the rules of vectors-private.h hold as they are: a row counts
 * when `count` covers it, whoever dies before.
 *
 * The file has no name and is nobody's record: it goes with the daemon, and what was in it comes back from the saved index or
 * from the store. Its bytes may outlive it, in blocks of the disk. Therefore rows are encrypted in it (AES-256 in counter
 * mode) with a key that is made with the segment and is nowhere but there: to the disk all of it is noise, what was erased
 * and what was not, and it stays so when the daemon has gone. The counter is the serial of the chunk and the place within
 * it; no serial is used twice with a key. A row of 1,536 bytes costs 0.25 µs for that, where it is compared. */
#include <endian.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "lists-private.h"

#define DENSE 4 /* of so many rows one is wanted: all of them are asked for at once */
#include "vocabulary.h"

/* Parts of vectors.max_bytes that are in use when further rows go to the file: what is then left is for ids and codes of those
 * in the file. Namespaces that are compared row by row keep theirs in memory for longer. */
#define MEMORY_SHARE 4	     /* a fourth */
#define MEMORY_SHARE_SMALL 3 /* three fourths */

struct spill {
	EVP_CIPHER_CTX *ctx;
	_Alignas(CACHE_LINE) char rows[VECTORS_ROW_BYTES];
};

static struct spill *get(struct spill **sp, const struct vectors *v)
{
	if (*sp)
		return *sp;
	*sp = aligned_alloc(CACHE_LINE, align_up(sizeof(**sp), CACHE_LINE));
	AN(*sp);
	(*sp)->ctx = EVP_CIPHER_CTX_new();
	AN((*sp)->ctx && EVP_EncryptInit_ex((*sp)->ctx, v->cipher, NULL, v->super->key, NULL) == 1);
	return *sp;
}

void spill_end(struct spill **sp)
{
	if (*sp)
		EVP_CIPHER_CTX_free((*sp)->ctx);
	free(*sp);
	*sp = NULL;
}

void spill_crypt(struct spill **sp, const struct vectors *v, uint64_t serial, uint64_t at, const void *from, void *to,
		 size_t n)
{
	EVP_CIPHER_CTX *ctx = get(sp, v)->ctx;
	uint64_t iv[2] = {serial, htobe64(at / 16)}; /* the cipher counts from the end */
	int done = 0;
	AN(n <= INT_MAX && EVP_EncryptInit_ex(ctx, NULL, NULL, NULL, (const unsigned char *)iv) == 1 &&
	   EVP_EncryptUpdate(ctx, to, &done, from, (int)n) == 1 && done == (int)n);
}

uint32_t spill_together(const struct vectors_shape *s, uint32_t n)
{
	size_t most = s->spilled ? VECTORS_ROW_BYTES / s->row_bytes : n;
	return n < most ? n : (uint32_t)most;
}

const char *spill_open(struct spill **sp, const struct vectors *v, const char *chunk, const struct vectors_shape *s,
		       uint32_t first, uint32_t n)
{
	size_t at = first * s->row_bytes;
	char *rows = get(sp, v)->rows;
	spill_crypt(sp, v, s->spilled, at, chunk + s->rows + at, rows, n * s->row_bytes);
	return rows;
}

static void ahead(const char *from, size_t n)
{
	size_t within = (uintptr_t)from % VECTORS_PAGE;
	(void)madvise((void *)(from - within), n + within, MADV_WILLNEED); /* advice */
}

void spill_ahead(const char *chunk, const struct vectors_shape *s, uint32_t i)
{
	if (s->spilled)
		ahead(chunk + s->rows + i * s->row_bytes, s->row_bytes);
}

void spill_ahead_of(const char *chunk, const struct vectors_shape *s, uint32_t first, uint64_t mask)
{
	if (!s->spilled || !mask)
		return;
	uint32_t from = (uint32_t)__builtin_ctzll(mask), to = 64 - (uint32_t)__builtin_clzll(mask);
	if ((uint32_t)__builtin_popcountll(mask) * DENSE >= to - from) {
		ahead(chunk + s->rows + (first + from) * s->row_bytes, (to - from) * s->row_bytes);
		return;
	}
	for (; mask; mask &= mask - 1)
		spill_ahead(chunk, s, first + (uint32_t)__builtin_ctzll(mask));
}

void spill_new_key(struct vectors *v)
{
	if (v->spill_bytes)
		AN(RAND_bytes(v->super->key, sizeof(v->super->key)) == 1);
}

bool spill_wanted(const struct vectors *v, const struct vectors_ns *n, uint32_t dim)
{
	uint64_t part = v->data_bytes / MEMORY_SHARE;
	if (!v->spill_bytes || v->w->stages.spill_first)
		return v->spill_bytes != 0;
	return vectors_bytes(v) >= (vectors_grown(v, n, dim) ? part : MEMORY_SHARE_SMALL * part);
}

uint32_t spill_units(const struct vectors_shape *s)
{
	return (uint32_t)((s->capacity * s->row_bytes + VECTORS_UNIT - 1) / VECTORS_UNIT);
}

static void count(struct vectors *v, int64_t units)
{
	uint64_t spilled = atomic_load_explicit(&v->super->spilled, memory_order_relaxed);
	atomic_store_explicit(&v->super->spilled, spilled + (uint64_t)(units * VECTORS_UNIT), memory_order_relaxed);
}

bool spill_take(struct vectors *v, uint32_t units, uint64_t *rows_r)
{
	bool ok = vectors_pool_take_units(&v->w->file, units, rows_r);
	if (ok)
		count(v, units);
	return ok;
}

void spill_give(struct vectors *v, uint64_t rows, uint32_t units)
{
	vectors_pool_give_units(&v->w->file, rows, units);
	count(v, -(int64_t)units);
}
