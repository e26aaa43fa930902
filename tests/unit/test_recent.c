/* The memory of optimistic concurrency. Broken code this would catch: a write that is forgotten while it still decides (a lost
 * update: the worst that can happen here), keys lost by a deletion in the middle of a run of slots, a floor that
 * is too low; and the harmless side, a refusal of what is certainly unchanged while it is remembered. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "sync/recent.c"

static void unknown_keys(void **state)
{
	(void)state;
	struct recent *r = recent_new(8, 41);
	assert_int_equal(recent_floor(r), 41);
	assert_int_equal(recent_seq(r, 7), 0);
	assert_true(recent_unchanged(r, 7, 41));
	assert_true(recent_unchanged(r, 7, 42));
	assert_false(recent_unchanged(r, 7, 40)); /* may have been written between: nobody knows any more */
	recent_free(&r);
	assert_null(r);
	recent_free(&r);
}

static void remembers_the_last_write(void **state)
{
	(void)state;
	struct recent *r = recent_new(8, 0);
	recent_write(r, 7, 10);
	recent_write(r, 7, 12);
	assert_int_equal(recent_seq(r, 7), 12);
	assert_false(recent_unchanged(r, 7, 11));
	assert_true(recent_unchanged(r, 7, 12)); /* who saw the write itself */
	assert_true(recent_unchanged(r, 8, 5));
	assert_int_equal(recent_floor(r), 0);
	recent_write(r, 0, 13); /* no key is special … */
	assert_int_equal(recent_seq(r, 0), 13);
	assert_false(recent_unchanged(r, 0, 12));
	recent_free(&r);
}

/* The oldest goes first, and takes the floor along. A key that was written again since stays. */
static void falls_out_in_order(void **state)
{
	(void)state;
	struct recent *r = recent_new(4, 0);
	for (uint64_t i = 1; i <= 4; i++)
		recent_write(r, 100 + i, i);
	recent_write(r, 101, 5); /* the log is full: write 1 goes, its key does not */
	assert_int_equal(recent_floor(r), 1);
	assert_int_equal(recent_seq(r, 101), 5);
	assert_int_equal(recent_seq(r, 102), 2);
	recent_write(r, 105, 6); /* write 2 goes */
	assert_int_equal(recent_floor(r), 2);
	assert_int_equal(recent_seq(r, 102), 0);
	assert_false(recent_unchanged(r, 102, 1));
	assert_true(recent_unchanged(r, 102, 2));
	assert_false(recent_unchanged(r, 101, 4));
	/* several keys of one transaction fall out one after the other */
	recent_write(r, 106, 7);
	recent_write(r, 107, 7);
	recent_write(r, 108, 7);
	recent_write(r, 109, 7);
	assert_int_equal(recent_floor(r), 6);
	recent_write(r, 110, 8);
	assert_int_equal(recent_floor(r), 7);
	assert_int_equal(recent_seq(r, 106), 0);
	assert_int_equal(recent_seq(r, 107), 7);
	recent_free(&r);
}

/* ---- against a model that forgets nothing ---- */

#define KEYS 600

static uint64_t dice = 0x9e3779b97f4a7c15ull;
static uint32_t roll(uint32_t n)
{
	dice ^= dice << 13, dice ^= dice >> 7, dice ^= dice << 17;
	return (uint32_t)(dice >> 20) % n;
}

/* Keys whose homes crowd together: long runs, over the end of the table too. */
static uint64_t crowded_key(const struct recent *r, uint32_t i)
{
	for (uint64_t key = (uint64_t)i << 32 | 1;; key++)
		if (((home(r, key) + 8) & r->mask) < 16)
			return key;
}

static void check_all(const struct recent *r, const uint64_t *key, const uint64_t *last, uint64_t now, size_t capacity)
{
	size_t known = 0;
	for (size_t k = 0; k < KEYS; k++) {
		uint64_t seq = recent_seq(r, key[k]);
		known += seq != 0;
		assert_true(seq == last[k] || seq == 0);
		if (!seq)
			assert_true(last[k] <= recent_floor(r));
		for (uint64_t read = now > 40 ? now - 40 : 0; read <= now; read += 1 + roll(5)) {
			bool changed = last[k] > read;
			assert_false(changed && recent_unchanged(r, key[k], read));
			if (read >= recent_floor(r))
				assert_int_equal(recent_unchanged(r, key[k], read), !changed);
		}
	}
	assert_true(known <= capacity);
}

static void like_a_model(void **state)
{
	(void)state;
	for (unsigned crowded = 0; crowded < 2; crowded++) {
		struct recent *r = recent_new(128, 0);
		uint64_t key[KEYS], last[KEYS] = {0}, seq = 0;
		for (uint32_t k = 0; k < KEYS; k++)
			key[k] = crowded ? crowded_key(r, k) : k ? dice + roll(1u << 30) * 0x100000001ull : 0;
		for (unsigned i = 0; i < 5000; i++) {
			seq += roll(3) != 0; /* keys of one transaction share a sequence */
			uint32_t k = roll(4) ? roll(KEYS) : roll(10);
			recent_write(r, key[k], seq);
			last[k] = seq;
			/* the last 128 writes are remembered: the floor is no higher than it must be */
			assert_true(recent_floor(r) <= seq);
			if (i % 50 == 0)
				check_all(r, key, last, seq, 128);
		}
		recent_free(&r);
	}
}

/* As long as fewer writes came than there is room, nothing is refused for nothing. */
static void a_window_is_a_window(void **state)
{
	(void)state;
	struct recent *r = recent_new(64, 1000);
	for (uint64_t i = 0; i < 640; i++) {
		recent_write(r, i * 0x100000001b3ull + 5, 1001 + i);
		assert_int_equal(recent_floor(r), i < 64 ? 1000 : 1001 + i - 64);
		for (uint64_t k = i < 63 ? 0 : i - 63; k <= i; k++)
			assert_int_equal(recent_seq(r, k * 0x100000001b3ull + 5), 1001 + k);
	}
	recent_free(&r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(unknown_keys), cmocka_unit_test(remembers_the_last_write),
					   cmocka_unit_test(falls_out_in_order), cmocka_unit_test(like_a_model),
					   cmocka_unit_test(a_window_is_a_window)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
