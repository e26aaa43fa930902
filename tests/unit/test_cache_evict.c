/* L1 cache: who stays when there is no room for all. Hit ratios over traces, beside other policies, are in
 * tests/bench/bench_hits.c; here are the promises that a policy must keep. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>

#include "cache_model.h"

#define MIB (1u << 20)
#define RECORD (64 + 1024) /* of a value of 1,000 bytes */

static struct cache_stats stats(struct cache *c)
{
	struct cache_stats s;
	cache_stats(c, &s);
	return s;
}

static struct cache_entry entry(struct cache *c, uint64_t i)
{
	struct uuid k = model_key(i);
	struct cache_entry e = {.len = UINT32_MAX}; /* that: it is not there */
	cache_peek(c, CACHE_MEMORY, &k, &e);
	return e;
}

static bool has(struct cache *c, uint64_t i) { return entry(c, i).len != UINT32_MAX; }

/* What a reader does: a miss fills. Returns 1 for a hit. */
static unsigned read_through(struct cache *c, uint64_t i)
{
	if (model_read(c, i, 1) >= 0)
		return 1;
	model_write(c, i, 1, 1000, true);
	return 0;
}

/* Others come, which nobody reads. */
static void stream(struct cache *c, uint64_t n)
{
	static uint64_t next = 1u << 30;
	while (n--)
		model_write(c, next++, 1, 1000, false);
}

/* ---- accounts ---- */

/* Nobody reads: what came last is there, in a window of most of the small log, and the books balance. */
static void test_newest(void **state)
{
	(void)state;
	struct cache *c = new_cache(32 * MIB, NULL);
	uint64_t cap = stats(c).capacity, n = 3 * cap / RECORD, window = cap / RECORD / 10 * 85 / 100, there = 0;
	for (uint64_t i = 0; i < n; i++)
		model_write(c, i, 1, 1000, false);
	for (uint64_t i = n - window; i < n; i++)
		there += has(c, i);
	assert_true(there >= window * 999 / 1000);
	struct cache_class_stats s = stats(c).of[0];
	assert_int_equal(s.entries + s.evictions, n);
	assert_int_equal(s.bytes, s.entries * RECORD);
	assert_true(s.bytes <= cap);
	assert_true(s.bytes >= cap * 9 / 10);
	cache_close(&c);
}

/* Everything is hot and of any size: insertions still end, and the books still balance. */
static void test_all_hot(void **state)
{
	(void)state;
	struct cache *c = new_cache(2 * MIB, NULL);
	uint64_t alive = 0, rnd = 5;
	for (uint64_t i = 0; i < 30000; i++) {
		size_t len = (size_t)(next_random(&rnd) % (i % 50 ? 3000 : 200000));
		model_write(c, i, 1, len, i % 2);
		if (i >= 3)
			for (uint64_t k = i - 3; k <= i; k++)
				model_read(c, k, 1);
		assert_true(model_read(c, i, 1) >= 0); /* the newest is always there */
	}
	for (uint64_t i = 0; i < 30000; i++)
		alive += model_read(c, i, 1) >= 0;
	assert_int_equal(stats(c).of[0].entries, alive);
	assert_true(alive > 50);
	assert_int_equal(stats(c).emptied_shards, 0);
	cache_close(&c);
}

/* Tiny records: more of them than slots in many buckets. */
static void test_full_buckets(void **state)
{
	(void)state;
	struct cache *c = new_cache(1 * MIB, NULL);
	uint64_t alive = 0, n = 40000;
	for (uint64_t i = 0; i < n; i++) {
		model_write(c, i, 1, 20, false);
		assert_int_equal(model_read(c, i, 1), 20);
	}
	for (uint64_t i = 0; i < n; i++)
		alive += model_read(c, i, 1) >= 0;
	assert_int_equal(stats(c).of[0].entries, alive);
	assert_int_equal(stats(c).of[0].evictions, n - alive);
	assert_true(alive > 5000);
	cache_close(&c);
}

/* ---- the two logs ---- */

/* In the small log until as much else came, then in the main log, with hits counted up to three. */
static void test_logs(void **state)
{
	(void)state;
	struct cache *c = new_cache(2 * MIB, NULL);
	uint64_t small = stats(c).capacity / RECORD / 10;
	model_write(c, 1, 1, 1000, false);
	assert_false(entry(c, 1).main);
	for (unsigned i = 1; i <= 5; i++) {
		model_read(c, 1, 1);
		assert_int_equal(entry(c, 1).hits, i < 3 ? i : 3);
	}
	stream(c, small + 2);
	assert_true(entry(c, 1).main);
	assert_int_equal(entry(c, 1).hits, 0); /* judged: from here on it collects anew */
	assert_int_equal(model_read(c, 1, 1), 1000);
	/* A newer version takes its place there, and keeps what the older one earned. */
	model_write(c, 1, 2, 500, false);
	assert_true(entry(c, 1).main);
	assert_int_equal(entry(c, 1).hits, 1);
	assert_int_equal(model_read(c, 1, 2), 500);
	cache_close(&c);
}

/* What would empty the small log alone goes to the main log, up to the largest value; the small log keeps the others. */
static void test_large(void **state)
{
	(void)state;
	struct cache *c = new_cache(1 * MIB, NULL);
	uint64_t small = stats(c).capacity / 10;
	stream(c, 20);
	model_write(c, 1, 1, 5000, false);
	model_write(c, 2, 1, small, false);
	model_write(c, 3, 1, stats(c).capacity / 5, false);
	assert_false(entry(c, 1).main);
	assert_true(entry(c, 2).main);
	assert_true(entry(c, 3).main);
	assert_int_equal(model_read(c, 2, 1), small);
	assert_int_equal(model_read(c, 3, 1), stats(c).capacity / 5);
	for (uint64_t i = 10; i < 60; i++) { /* and they make room for each other */
		model_write(c, i, 1, stats(c).capacity / 5, i % 2);
		assert_int_equal(model_read(c, i, 1), stats(c).capacity / 5);
	}
	assert_int_equal(model_read(c, 1, 1), 5000);
	assert_int_equal(stats(c).emptied_shards, 0);
	cache_close(&c);
}

/* ---- promises ---- */

/* A hot set is read now and then while ten capacities stream by: it stays. */
static void test_scan(void **state)
{
	(void)state;
	struct cache *c = new_cache(16 * MIB, NULL);
	uint64_t hot = 2000, n = 10 * stats(c).capacity / RECORD, lost = 0;
	for (uint64_t i = 0; i < 3 * hot; i++)
		read_through(c, i % hot);
	for (uint64_t i = 0; i < n; i++) {
		stream(c, 1);
		lost += !read_through(c, i % hot);
	}
	assert_true(lost <= n / 100);
	cache_close(&c);
}

/* The same at once: everything that was read twice is there after a scan that nobody read from. */
static void test_scan_in_one_go(void **state)
{
	(void)state;
	struct cache *c = new_cache(16 * MIB, NULL);
	uint64_t hot = 3000, kept = 0;
	for (uint64_t i = 0; i < 4 * hot; i++)
		read_through(c, i % hot);
	stream(c, 3 * stats(c).capacity / RECORD);
	for (uint64_t i = 0; i < hot; i++)
		kept += has(c, i);
	assert_true(kept >= hot * 95 / 100); /* some of the scan share a counter of the sketch with a hot one */
	cache_close(&c);
}

/* A loop over a tenth more than fits: LRU and FIFO would never hit. */
static void test_loop(void **state)
{
	(void)state;
	struct cache *c = new_cache(4 * MIB, NULL);
	uint64_t n = stats(c).capacity / RECORD * 11 / 10, hits = 0;
	for (uint64_t i = 0; i < 20 * n; i++)
		hits += read_through(c, i % n);
	assert_true(hits >= 20 * n / 2);
	cache_close(&c);
}

/* What is wanted changes altogether: the old does not stand in the way of the new for ever. */
static void test_forgets(void **state)
{
	(void)state;
	struct cache *c = new_cache(4 * MIB, NULL);
	uint64_t n = stats(c).capacity / RECORD * 8 / 10, hits = 0;
	for (uint64_t i = 0; i < 40 * n; i++) { /* others come, so that the old is judged, over and over */
		read_through(c, i % n);
		stream(c, i % 2);
	}
	for (uint64_t i = 0; i < 12 * n; i++) /* less often than the old was wanted */
		read_through(c, n + i % n);
	for (uint64_t i = 0; i < n; i++)
		hits += has(c, n + i);
	assert_true(hits >=
		    n * 4 / 10); /* two thirds or more, by the luck of the hash; an eighth where nothing is forgotten */
	cache_close(&c);
}

/* One that is large does not push out a crowd that is wanted as much; a crowd pushes out one that nobody wants. */
static void test_sizes(void **state)
{
	(void)state;
	struct cache *c = new_cache(1 * MIB, NULL);
	uint64_t n = stats(c).capacity / RECORD * 9 / 10, kept = 0;
	for (uint64_t i = 0; i < 3 * n; i++)
		read_through(c, i % n);
	for (uint64_t i = 0; i < 20; i++)
		model_write(c, 100000 + i, 1, 30000, false);
	stream(c, 200);
	for (uint64_t i = 0; i < n; i++)
		kept += has(c, i);
	assert_true(kept >= n * 85 / 100);
	cache_close(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_newest),	       cmocka_unit_test(test_all_hot),
		cmocka_unit_test(test_full_buckets),   cmocka_unit_test(test_logs),
		cmocka_unit_test(test_large),	       cmocka_unit_test(test_scan),
		cmocka_unit_test(test_scan_in_one_go), cmocka_unit_test(test_loop),
		cmocka_unit_test(test_forgets),	       cmocka_unit_test(test_sizes),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
