/* L1 cache: what it promises its callers, against a model that knows every write. Kills and threads
 * are in test_cache_crash.c. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cache_model.h"

#define MIB (1u << 20)

static struct cache_stats stats(struct cache *c)
{
	struct cache_stats s;
	cache_stats(c, &s);
	return s;
}

static void test_put_get(void **state)
{
	(void)state;
	struct cache *c = new_cache(4 * MIB, NULL);
	static char buf[MIB];
	struct cache_meta meta = {.ns = 7, .version = 3, .filled_us = 1000, .gone_ms = 2}, got;
	struct uuid k = model_key(1), other = model_key(2);
	assert_int_equal(cache_get(c, CACHE_MEMORY, &k, 0, buf, sizeof(buf), &got), -1);
	cache_put(c, CACHE_MEMORY, &k, &meta, "hello", 5);
	assert_int_equal(cache_get(c, CACHE_MEMORY, &k, 2999, buf, sizeof(buf), &got), 5);
	assert_memory_equal(buf, "hello", 5);
	assert_memory_equal(&got, &meta, offsetof(struct cache_meta, flags) + 1);
	assert_int_equal(cache_get(c, CACHE_MEMORY, &k, 3000, buf, sizeof(buf), &got), -1); /* gone */
	assert_int_equal(cache_get(c, CACHE_MEMORY, &k, 0, buf, 4, &got), -1);		    /* no room */
	assert_int_equal(cache_get(c, CACHE_MEMORY, &k, 0, buf, 5, &got), 5);
	assert_int_equal(cache_get(c, CACHE_MEMORY, &other, 0, buf, sizeof(buf), &got), -1);
	assert_int_equal(cache_get(c, (enum cache_class)2, &k, 0, buf, sizeof(buf), &got), -1);
	meta.version = 4;
	meta.gone_ms = 0;
	cache_put(c, CACHE_MEMORY, &k, &meta, "", 0); /* an empty value is a value */
	assert_int_equal(cache_get(c, CACHE_MEMORY, &k, INT64_MAX, buf, 0, &got), 0);
	assert_int_equal(got.version, 4);
	assert_int_equal(stats(c).of[0].entries, 1);
	cache_remove(c, CACHE_MEMORY, &other);
	cache_remove(c, CACHE_MEMORY, &k);
	assert_int_equal(cache_get(c, CACHE_MEMORY, &k, 0, buf, sizeof(buf), &got), -1);
	assert_int_equal(stats(c).of[0].entries, 0);
	assert_int_equal(stats(c).of[0].bytes, 0);
	cache_close(&c);
	assert_null(c);
	cache_close(&c);
}

/* Every byte of every length comes back, at the sizes where lines and words end. */
static void test_lengths(void **state)
{
	(void)state;
	struct cache *c = new_cache(64 * MIB, NULL);
	static char in[MIB + 1], out[MIB + 1];
	struct cache_meta meta = {.version = 1}, got;
	for (size_t i = 0; i < sizeof(in); i++)
		in[i] = (char)(i * 131 + i / 251);
	static const size_t lens[] = {0,   1,	7,    8,    9,	  63,	64,    65,	127,
				      128, 129, 1000, 4095, 4096, 4097, 65536, MIB - 1, MIB};
	for (size_t i = 0; i < ARRAY_LEN(lens); i++) {
		struct uuid k = model_key(i);
		memset(out, 0x55, sizeof(out));
		cache_put(c, CACHE_MEMORY, &k, &meta, in, lens[i]);
		assert_int_equal(cache_get(c, CACHE_MEMORY, &k, 0, out, sizeof(out), &got), lens[i]);
		assert_memory_equal(in, out, lens[i]);
		assert_int_equal(out[lens[i]], 0x55);
	}
	/* One byte more is refused, and the older version is gone all the same. */
	struct uuid k = model_key(0);
	uint64_t epoch = cache_epoch(c, CACHE_MEMORY, &k);
	meta.version = 2;
	assert_false(cache_fill(c, CACHE_MEMORY, &k, epoch, &meta, in, MIB + 1));
	cache_put(c, CACHE_MEMORY, &k, &meta, in, MIB + 1);
	assert_int_equal(cache_get(c, CACHE_MEMORY, &k, 0, out, sizeof(out), &got), -1);
	assert_int_not_equal(cache_epoch(c, CACHE_MEMORY, &k), epoch);
	cache_close(&c);
}

static void test_fill_rules(void **state)
{
	(void)state;
	struct cache *c = new_cache(2 * MIB, NULL);
	char buf[16];
	struct uuid k = model_key(1);
	struct cache_meta v1 = {.version = 1}, v2 = {.version = 2}, v3 = {.version = 3}, got;
	/* A write between load and fill refuses the fill, also when it removed the key. */
	uint64_t epoch = cache_epoch(c, CACHE_MEMORY, &k);
	cache_put(c, CACHE_MEMORY, &k, &v2, "two", 3);
	assert_false(cache_fill(c, CACHE_MEMORY, &k, epoch, &v1, "one", 3));
	assert_false(cache_fill(c, CACHE_MEMORY, &k, epoch, &v3, "bad", 3));
	epoch = cache_epoch(c, CACHE_MEMORY, &k);
	cache_remove(c, CACHE_MEMORY, &k);
	assert_false(cache_fill(c, CACHE_MEMORY, &k, epoch, &v2, "two", 3));
	epoch = cache_epoch(c, CACHE_MEMORY, &k);
	cache_remove(c, CACHE_MEMORY, &k); /* of what is not there, too: a fill may be on its way */
	assert_false(cache_fill(c, CACHE_MEMORY, &k, epoch, &v2, "two", 3));
	epoch = cache_epoch(c, CACHE_MEMORY, &k);
	cache_purge(c, &(struct cache_match){.ns = 99});
	assert_false(cache_fill(c, CACHE_MEMORY, &k, epoch, &v2, "two", 3));
	/* Fills do not disturb each other; only a higher version replaces. */
	epoch = cache_epoch(c, CACHE_MEMORY, &k);
	assert_true(cache_fill(c, CACHE_MEMORY, &k, epoch, &v2, "two", 3));
	assert_false(cache_fill(c, CACHE_MEMORY, &k, epoch, &v2, "TWO", 3));
	assert_false(cache_fill(c, CACHE_MEMORY, &k, epoch, &v1, "one", 3));
	assert_int_equal(cache_get(c, CACHE_MEMORY, &k, 0, buf, sizeof(buf), &got), 3);
	assert_memory_equal(buf, "two", 3);
	assert_true(cache_fill(c, CACHE_MEMORY, &k, epoch, &v3, "three", 5));
	assert_int_equal(stats(c).of[0].entries, 1);
	/* sync: equal or newer replaces; an older one, from a replay, does not, but moves the epoch. */
	cache_put(c, CACHE_MEMORY, &k, &v2, "old", 3);
	assert_int_equal(cache_get(c, CACHE_MEMORY, &k, 0, buf, sizeof(buf), &got), 5);
	assert_int_not_equal(cache_epoch(c, CACHE_MEMORY, &k), epoch);
	cache_put(c, CACHE_MEMORY, &k, &v3, "3", 1);
	assert_int_equal(cache_get(c, CACHE_MEMORY, &k, 0, buf, sizeof(buf), &got), 1);
	cache_close(&c);
}

static void test_purge(void **state)
{
	(void)state;
	struct cache *c = new_cache(32 * MIB, NULL);
	char buf[600];
	struct cache_meta got;
	for (uint64_t i = 0; i < 20000; i++) {
		struct uuid k = model_key(i);
		struct cache_meta m = {.ns = i % 3, .version = 1};
		cache_put(c, CACHE_MEMORY, &k, &m, buf, i % 600);
	}
	uint64_t before = stats(c).of[0].entries, kept = 0;
	assert_true(before > 19900); /* a few buckets overflow */
	cache_purge(c, &(struct cache_match){.ns = 1});
	for (uint64_t i = 0; i < 20000; i++) {
		struct uuid k = model_key(i);
		ptrdiff_t n = cache_get(c, CACHE_MEMORY, &k, 0, buf, sizeof(buf), &got);
		if (i % 3 == 1)
			assert_int_equal(n, -1);
		else
			kept += n >= 0;
	}
	assert_int_equal(stats(c).of[0].entries, kept);
	assert_true(kept > 13300);
	for (uint64_t ns = 0; ns < 3; ns++)
		cache_purge(c, &(struct cache_match){.ns = ns});
	assert_int_equal(stats(c).of[0].entries, 0);
	assert_int_equal(stats(c).of[0].bytes, 0);
	assert_int_equal(stats(c).emptied_shards, 0);
	cache_close(&c);
}

/* ---- the model ---- */

struct truth {
	uint64_t version; /* 0 = removed */
	uint64_t epoch;	  /* of a load under way, with what it saw */
	uint64_t loaded;
	size_t len;
	bool loading;
};

/* One random step; `truth` is the store. */
static void model_step(struct cache *c, struct truth *t, uint64_t n, uint64_t *versions, uint64_t *rnd)
{
	uint64_t i = next_random(rnd) % n, dice = next_random(rnd) % 100;
	if (next_random(rnd) % 4)
		i %= n / 10 + 1; /* some are hotter */
	struct uuid k = model_key(i);
	if (dice < 20) { /* a write */
		t[i].version = ++*versions;
		t[i].len = (size_t)(next_random(rnd) % (next_random(rnd) % 200 ? 2500 : 120000));
		model_write(c, i, t[i].version, t[i].len, false);
	} else if (dice < 25) {
		t[i].version = 0;
		cache_remove(c, CACHE_MEMORY, &k);
	} else if (dice < 40 && !t[i].loading) { /* a load begins ... */
		t[i].epoch = cache_epoch(c, CACHE_MEMORY, &k);
		t[i].loaded = t[i].version;
		t[i].loading = true;
	} else if (dice < 55 && t[i].loading) { /* ... and fills what it saw: stale loads must be refused */
		if (t[i].loaded) {
			static char v[1 << 17];
			struct cache_meta m = {.ns = i % 3, .version = t[i].loaded};
			size_t len = t[i].loaded == t[i].version ? t[i].len : 100;
			model_value(v, len, i, t[i].loaded);
			bool ok = cache_fill(c, CACHE_MEMORY, &k, t[i].epoch, &m, v, len);
			assert_true(!ok || t[i].loaded == t[i].version);
		}
		t[i].loading = false;
	} else {
		ptrdiff_t got = model_read(c, i, t[i].version); /* right, or a miss */
		assert_true(got == -1 || got == (ptrdiff_t)t[i].len);
		assert_true(got == -1 || t[i].version);
	}
}

static void run_model(uint64_t bytes, uint64_t n, uint64_t steps, uint64_t seed)
{
	struct cache *c = new_cache(bytes, NULL);
	struct truth *t = util_zalloc(n * sizeof(*t));
	uint64_t versions = 0, rnd = seed, alive = 0;
	for (uint64_t s = 0; s < steps; s++) {
		model_step(c, t, n, &versions, &rnd);
		if (s % (steps / 3) == steps / 4) {
			cache_purge(c, &(struct cache_match){.ns = s % 3});
			for (uint64_t i = s % 3; i < n; i += 3) {
				t[i].version = 0;
				assert_int_equal(model_read(c, i, 0), -1);
			}
		}
	}
	for (uint64_t i = 0; i < n; i++)
		alive += model_read(c, i, t[i].version) >= 0;
	assert_int_equal(stats(c).of[0].entries, alive);
	assert_int_equal(stats(c).emptied_shards, 0);
	free(t);
	cache_close(&c);
}

static void test_model(void **state)
{
	(void)state;
	run_model(1 * MIB, 2000, 60000, 1);	     /* always full, one shard */
	run_model(17 * MIB + 12345, 3000, 60000, 2); /* two shards, an odd size */
	run_model(64 * MIB, 20000, 60000, 3);	     /* never full */
}

/* ---- the segment ---- */

static void test_segment(void **state)
{
	(void)state;
#ifdef __SANITIZE_THREAD__
	const uint64_t largest = (uint64_t)64 << 30; /* ThreadSanitizer leaves no room for more in its address space */
#else
	const uint64_t largest = (uint64_t)1 << 40;
#endif
	const uint64_t sizes[] = {0,	  1, MIB, MIB + 1, 3 * MIB, 8 * MIB, 16 * MIB - 1, 100 * MIB, (uint64_t)5 << 30,
				  largest};
	for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
		struct cache *c = new_cache(sizes[i], NULL);
		struct cache_stats s = stats(c);
		assert_true(sizes[i] < MIB || (s.capacity >= sizes[i] / 100 * 85 && s.capacity <= sizes[i] + 4096));
		for (uint64_t k = 0; k < 300; k++)
			model_write(c, k, 1, (size_t)k * 7, false);
		for (uint64_t k = 0; k < 300; k++)
			assert_int_equal(model_read(c, k, 1), k * 7);
		cache_close(&c);
	}
}

static void test_attach(void **state)
{
	(void)state;
	struct cache_meta got;
	char buf[64];
	struct uuid k = model_key(1);
	int fd = shm_create("test", cache_segment_size(2 * MIB));
	assert_null(cache_open(fd, false)); /* nobody has formatted it */
	assert_int_equal(errno, EAGAIN);
	struct cache *a = cache_open(fd, true), *b = cache_open(fd, false);
	assert_non_null(a);
	assert_non_null(b);
	model_write(a, 1, 1, 10, false);
	assert_int_equal(model_read(b, 1, 1), 10);
	struct cache *again = cache_open(fd, true); /* a second sync: takes over, does not wipe locks */
	assert_int_equal(model_read(again, 1, 1), 10);
	cache_close(&again);
	cache_close(&b);
	assert_int_equal(cache_get(a, CACHE_MEMORY, &k, 0, buf, sizeof(buf), &got), 10);
	cache_close(&a);
	close(fd);
	assert_null(cache_open(-1, true));
	fd = shm_create("test", 8192);
	assert_null(cache_open(fd, true)); /* too small to be one */
	close(fd);
	fd = shm_create("test", 2 * MIB);
	uint64_t junk[8] = {[0] = 0xdead, [1] = UINT64_MAX, [2] = 2 * MIB};
	assert_int_equal(pwrite(fd, junk, sizeof(junk), 0), sizeof(junk));
	assert_null(cache_open(fd, false));
	assert_int_equal(errno, EPROTO);
	close(fd);
}

/* An empty 64 MiB cache is a few pages. */
static void test_lazy(void **state)
{
	(void)state;
	struct stat st;
	int fd;
	struct cache *c = new_cache(64 * MIB, &fd);
	assert_int_equal(fstat(fd, &st), 0);
	assert_true(st.st_blocks * 512 <= 64 * 1024);
	for (uint64_t i = 0; i < 20; i++)
		model_write(c, i, 1, 100, false);
	assert_int_equal(fstat(fd, &st), 0);
	assert_true(st.st_blocks * 512 <= 300 * 1024);
	cache_close(&c);
	close(fd);
}

int main(void)
{
	/* clang-format off */
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_put_get),
		cmocka_unit_test(test_lengths),
		cmocka_unit_test(test_fill_rules),
		cmocka_unit_test(test_purge),
		cmocka_unit_test(test_model),
		cmocka_unit_test(test_segment),
		cmocka_unit_test(test_attach),
		cmocka_unit_test(test_lazy),
	};
	/* clang-format on */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
