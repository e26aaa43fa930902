/* Vectors of few values as bytes. Broken code this would catch: a bit that is not kept, a vector of a model that is packed to more than
 * it was, a bitmap read or written past its last component, damaged bytes that are believed or read past their end, and a
 * built-in embedder whose vectors no longer get small. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

#include "embed/embed.h"
#include "packed.h"
#include "vocabulary.h"

static float x[LIMIT_DIMENSIONS], back[LIMIT_DIMENSIONS + 1];

/* Into memory of exactly its size, so that a sanitizer sees what lies behind. 0: not packed. */
static size_t pack(uint32_t dim, char **exact_r)
{
	char *room = malloc(PACKED_MAX(dim) + 1);
	size_t n = packed_make(x, dim, room);
	assert_true(n <= PACKED_MAX(dim));
	*exact_r = malloc(n + 1);
	memcpy(*exact_r, room, n);
	free(room);
	return n;
}

static void round_trip(uint32_t dim)
{
	char *p;
	size_t n = pack(dim, &p);
	assert_true(n > 0);
	assert_int_equal(packed_bytes(p, n, dim), n);
	assert_int_equal(packed_bytes(p, n + 1, dim), n); /* what follows is not its own */
	assert_int_equal(packed_bytes(p, n - 1, dim), 0);
	memset(back, 0xee, sizeof(back));
	assert_true(packed_read((struct span){p, n}, dim, back));
	assert_memory_equal(x, back, dim * sizeof(*x));
	assert_true(((unsigned char *)&back[dim])[0] == 0xee);
	free(p);
}

static void test_bits_are_kept(void **state)
{
	(void)state;
	static const uint32_t dims[] = {16, 63, 64, 65, 127, 200, 1000, 1536, 4095, LIMIT_DIMENSIONS};
	for (size_t i = 0; i < ARRAY_LEN(dims); i++) {
		memset(x, 0, sizeof(x));
		round_trip(dims[i]);
		for (uint32_t k = 0; k < dims[i]; k += 7)
			x[k] = -0.25f;
		x[dims[i] - 1] = -0.f; /* is not zero: its sign is kept */
		round_trip(dims[i]);
		x[1] = NAN;
		if (dims[i] > 100)
			x[2] = INFINITY;
		round_trip(dims[i]);
	}
	for (uint32_t k = 0; k < 1536; k++)
		x[k] = (float)(k % 255 + 1); /* no zeros, as many values as there may be */
	round_trip(1536);
}

static void test_what_is_not_packed(void **state)
{
	(void)state;
	char *p;
	for (uint32_t k = 0; k < 1536; k++)
		x[k] = (float)(k % 256 + 1);
	assert_int_equal(pack(1536, &p), 0); /* one value too many */
	free(p);
	for (uint32_t k = 0; k < 1536; k++)
		x[k] = (float)k + 1;
	assert_int_equal(pack(1536, &p), 0);
	free(p);
	for (uint32_t dim = 1; dim <= 300; dim++) { /* never more than half, however few components */
		for (uint32_t k = 0; k < dim; k++)
			x[k] = (float)(k % 40);
		size_t n = pack(dim, &p);
		assert_true(n <= dim * sizeof(*x) / 2);
		free(p);
		if (n)
			round_trip(dim);
	}
}

/* Values that share a place of the table are a client's to choose: looking for them has an end. */
static void test_colliding(void **state)
{
	(void)state;
	enum { DIM = 1024, CHOSEN = 200 };
	uint32_t chosen[CHOSEN], n = 0;
	for (uint32_t v = 0x3f000000; n < CHOSEN; v++)
		if ((v * 0x9e3779b1u) >> 22 == 5)
			chosen[n++] = v;
	for (uint32_t k = 0; k < DIM; k++)
		memcpy(&x[k], &chosen[k % CHOSEN], sizeof(*x));
	char *p;
	assert_int_equal(pack(DIM, &p), 0);
	free(p);
	for (uint32_t k = 0; k < DIM; k++) /* as many that nobody has chosen */
		x[k] = (float)(k % CHOSEN) / 7;
	assert_true(pack(DIM, &p) > 0);
	free(p);
	round_trip(DIM);
}

static void test_embedder(void **state)
{
	(void)state;
	const struct embedder *e = embed_hashed();
	struct span text = SPAN(
		"We moved the nightly backup of the billing database to three in the morning, because exports take longer now");
	assert_int_equal(e->embed(e, &text, 1, x), 1);
	round_trip(e->dimensions);
	char *p;
	assert_true(pack(e->dimensions, &p) < 800); /* of 6,144 */
	free(p);
}

/* Every byte changed to every value that differs in one bit, and every length: refused or read, never beyond the end. */
static void test_damaged(void **state)
{
	(void)state;
	enum { DIM = 100 };
	memset(x, 0, sizeof(x));
	for (uint32_t k = 0; k < DIM; k += 9)
		x[k] = (float)(k % 5 + 1);
	char *p;
	size_t n = pack(DIM, &p), refused = 0;
	assert_true(n > 0);
	for (size_t i = 0; i < n; i++)
		for (int bit = 0; bit < 8; bit++) {
			p[i] ^= (char)(1 << bit);
			refused += !packed_read((struct span){p, n}, DIM, back);
			p[i] ^= (char)(1 << bit);
		}
	assert_true(refused >= 8 * (4 + DIM / 8)); /* of head and bitmap, each */
	for (size_t len = 0; len < n; len++) {
		char *cut = malloc(len ? len : 1);
		memcpy(cut, p, len);
		assert_false(packed_read((struct span){cut, len}, DIM, back));
		free(cut);
	}
	for (uint32_t dim = 0; dim <= 2 * DIM; dim++)
		if (packed_read((struct span){p, n}, dim, back))
			assert_int_equal((dim + 7) / 8,
					 (DIM + 7) / 8); /* the same bitmap: zeros behind its end are any dimension's */
	assert_false(packed_read((struct span){p, n}, LIMIT_DIMENSIONS + 1, back));
	assert_false(packed_read((struct span){NULL, 0}, DIM, back));
	p[3] = 1; /* the byte that is always 0 */
	assert_false(packed_read((struct span){p, n}, DIM, back));
	free(p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_bits_are_kept), cmocka_unit_test(test_what_is_not_packed),
		cmocka_unit_test(test_colliding),     cmocka_unit_test(test_embedder),
		cmocka_unit_test(test_damaged),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
