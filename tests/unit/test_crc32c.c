/* CRC32C: published vectors, and the processor's instruction beside the tables and beside a bit-by-bit sum. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "crc32c.h"

/* Straight from the definition: shares nothing with the code under test. */
static uint32_t bit_by_bit(uint32_t crc, const unsigned char *p, size_t len)
{
	crc = ~crc;
	for (; len; len--) {
		crc ^= *p++;
		for (int i = 0; i < 8; i++)
			crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
	}
	return ~crc;
}

static void both(const void *p, size_t len, uint32_t want)
{
	assert_int_equal(crc32c(0, p, len), want);
	assert_int_equal(crc32c_portable(0, p, len), want);
}

/* RFC 3720, B.4, and the check value of the catalogue of CRCs. */
static void published_vectors(void **state)
{
	(void)state;
	unsigned char b[32];
	both("", 0, 0);
	both("123456789", 9, 0xe3069283u);
	memset(b, 0, sizeof(b));
	both(b, sizeof(b), 0x8a9136aau);
	memset(b, 0xff, sizeof(b));
	both(b, sizeof(b), 0x62a8ab43u);
	for (unsigned i = 0; i < sizeof(b); i++)
		b[i] = (unsigned char)i;
	both(b, sizeof(b), 0x46dd794eu);
	for (unsigned i = 0; i < sizeof(b); i++)
		b[i] = (unsigned char)(31 - i);
	both(b, sizeof(b), 0x113fdb5cu);
}

static unsigned char *noise(size_t n)
{
	unsigned char *p = malloc(n);
	uint64_t x = 88172645463325252ull;
	assert_non_null(p);
	for (size_t i = 0; i < n; i++) {
		x ^= x << 13;
		x ^= x >> 7;
		x ^= x << 17;
		p[i] = (unsigned char)x;
	}
	return p;
}

/* Each length around the block sizes (8, 3 × 128, 3 × 1024) at each alignment. */
static void hardware_equals_tables_at_every_length(void **state)
{
	(void)state;
	enum { MOST = 7000 };
	unsigned char *p = noise(MOST + 8);
	for (size_t len = 0; len <= MOST; len += len < 900 || (len > 3000 && len < 3500) ? 1 : 37)
		for (size_t at = 0; at < 8; at++) {
			uint32_t want = crc32c_portable(0x12345678u, p + at, len);
			assert_int_equal(crc32c(0x12345678u, p + at, len), want);
			if (at == 3 && len % 5 == 0)
				assert_int_equal(bit_by_bit(0x12345678u, p + at, len), want);
		}
	free(p);
}

static void sums_chain_at_every_cut(void **state)
{
	(void)state;
	enum { LEN = 4000 };
	unsigned char *p = noise(LEN);
	uint32_t want = bit_by_bit(0, p, LEN);
	for (size_t cut = 0; cut <= LEN; cut++) {
		assert_int_equal(crc32c(crc32c(0, p, cut), p + cut, LEN - cut), want);
		assert_int_equal(crc32c_portable(crc32c(0, p, cut), p + cut, LEN - cut), want);
	}
	free(p);
}

static void one_flipped_bit_changes_the_sum(void **state)
{
	(void)state;
	enum { LEN = 6528 };
	unsigned char *p = noise(LEN);
	uint32_t want = crc32c(0, p, LEN);
	for (size_t bit = 0; bit < LEN * 8; bit += 7) {
		p[bit / 8] ^= (unsigned char)(1u << bit % 8);
		assert_int_not_equal(crc32c(0, p, LEN), want);
		p[bit / 8] ^= (unsigned char)(1u << bit % 8);
	}
	free(p);
}

/* On a machine that has the instruction the comparison above must not have been tables with tables. */
static void instruction_is_used_where_it_exists(void **state)
{
	(void)state;
#if defined(__x86_64__)
	const char *simd = getenv("ORCHESTRA_SIMD");
	__builtin_cpu_init();
	bool want = __builtin_cpu_supports("sse4.2") && !(simd && strcmp(simd, "scalar") == 0);
	assert_int_equal(crc32c_hardware(), want);
#endif
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(published_vectors),
		cmocka_unit_test(hardware_equals_tables_at_every_length),
		cmocka_unit_test(sums_chain_at_every_cut),
		cmocka_unit_test(one_flipped_bit_changes_the_sum),
		cmocka_unit_test(instruction_is_used_where_it_exists),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
