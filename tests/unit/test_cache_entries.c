/* L1 cache: what travels with a value (how old it may be, of which class, of which making), and looking at entries
 * without reading them. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <stdlib.h>

#include "cache_model.h"
#include "clock.h"

#define MIB (1u << 20)
#define SECOND 1000000

static struct cache_stats stats(struct cache *c)
{
	struct cache_stats s;
	cache_stats(c, &s);
	return s;
}

static bool has(struct cache *c, enum cache_class cls, uint64_t i)
{
	struct uuid k = model_key(i);
	struct cache_entry e;
	return cache_peek(c, cls, &k, &e);
}

static void drop(struct cache *c, uint64_t i)
{
	struct uuid k = model_key(i);
	cache_remove(c, CACHE_MEMORY, &k);
}

/* ---- how old ---- */

static void test_ages(void **state)
{
	(void)state;
	struct cache_meta m = {.filled_us = 100 * SECOND, .fresh_ms = 8000, .gone_ms = 20000};
	const struct {
		int64_t after_ms;
		enum cache_age age;
	} steps[] = {{-5000, CACHE_FRESH}, /* the clock was set back */
		     {0, CACHE_FRESH},	   {6999, CACHE_FRESH},	 {7000, CACHE_AGEING}, {7999, CACHE_AGEING},
		     {8000, CACHE_STALE},  {19999, CACHE_STALE}, {20000, CACHE_GONE},  {INT32_MAX, CACHE_GONE}};
	for (size_t i = 0; i < ARRAY_LEN(steps); i++)
		assert_int_equal(cache_age_of(&m, m.filled_us + steps[i].after_ms * 1000), steps[i].age);
	m.gone_ms = 5000; /* gone before it is stale */
	assert_int_equal(cache_age_of(&m, m.filled_us + 5000 * 1000), CACHE_GONE);
	m.fresh_ms = m.gone_ms = 0;
	assert_int_equal(cache_age_of(&m, INT64_MAX), CACHE_FRESH);
	m.gone_ms = UINT32_MAX;
	assert_int_equal(cache_age_of(&m, m.filled_us + (int64_t)UINT32_MAX * 1000 - 1), CACHE_FRESH);
	assert_int_equal(cache_age_of(&m, m.filled_us + (int64_t)UINT32_MAX * 1000), CACHE_GONE);
}

static void test_gone_at(void **state)
{
	(void)state;
	struct cache_meta m = {.filled_us = 50 * SECOND, .gone_ms = 7};
	cache_meta_gone(&m, 0);
	assert_int_equal(m.gone_ms, 0);
	cache_meta_gone(&m, 53 * SECOND);
	assert_int_equal(m.gone_ms, 3000);
	cache_meta_gone(&m, 53 * SECOND + 999); /* a part of a millisecond: not later than it was said */
	assert_int_equal(m.gone_ms, 3000);
	const int64_t past[] = {50 * SECOND, 50 * SECOND + 999, 1, -1};
	for (size_t i = 0; i < ARRAY_LEN(past); i++) {
		cache_meta_gone(&m, past[i]);
		assert_int_equal(m.gone_ms, 1); /* 0 would be: never */
	}
	cache_meta_gone(&m, 50 * SECOND + ((int64_t)UINT32_MAX + 5) * 1000);
	assert_int_equal(m.gone_ms, UINT32_MAX);
	cache_meta_gone(&m, INT64_MAX);
	assert_int_equal(m.gone_ms, UINT32_MAX);
}

/* Stale is a hit, gone is none; what is gone can be looked at. */
static void test_stale_is_a_hit(void **state)
{
	(void)state;
	struct cache *c = new_cache(2 * MIB, NULL);
	struct uuid k = model_key(1);
	struct cache_meta m = {.version = 1, .filled_us = SECOND, .fresh_ms = 1000, .gone_ms = 3000}, got;
	char buf[8];
	cache_put(c, CACHE_SEARCH, &k, &m, "abc", 3);
	assert_int_equal(cache_get(c, CACHE_SEARCH, &k, 3 * SECOND, buf, sizeof(buf), &got), 3);
	assert_int_equal(cache_age_of(&got, 3 * SECOND), CACHE_STALE);
	assert_int_equal(cache_get(c, CACHE_SEARCH, &k, 4 * SECOND, buf, sizeof(buf), &got), -1);
	assert_true(has(c, CACHE_SEARCH, 1));
	cache_close(&c);
}

/* The same version fetched anew takes the place of the older fetch, never the other way round. */
static void test_refill(void **state)
{
	(void)state;
	struct cache *c = new_cache(2 * MIB, NULL);
	struct uuid k = model_key(1);
	uint64_t epoch = cache_epoch(c, CACHE_MEMORY, &k);
	struct cache_meta m = {.version = 5, .filled_us = 10 * SECOND, .gone_ms = 1000}, got;
	char buf[8];
	assert_true(cache_fill(c, CACHE_MEMORY, &k, epoch, &m, "one", 3));
	assert_false(cache_fill(c, CACHE_MEMORY, &k, epoch, &m, "two", 3));
	m.filled_us--;
	assert_false(cache_fill(c, CACHE_MEMORY, &k, epoch, &m, "two", 3));
	m.filled_us += 2;
	m.version = 4; /* later, of an older version */
	assert_false(cache_fill(c, CACHE_MEMORY, &k, epoch, &m, "two", 3));
	m.version = 5;
	assert_true(cache_fill(c, CACHE_MEMORY, &k, epoch, &m, "three", 5));
	assert_int_equal(cache_get(c, CACHE_MEMORY, &k, m.filled_us, buf, sizeof(buf), &got), 5);
	assert_memory_equal(buf, "three", 5);
	assert_int_equal(got.filled_us, m.filled_us);
	/* An expired entry is replaced like any: the gone one must not stand in the way of its successor. */
	m.filled_us += 100 * SECOND;
	assert_true(cache_fill(c, CACHE_MEMORY, &k, epoch, &m, "four", 4));
	assert_int_equal(cache_get(c, CACHE_MEMORY, &k, m.filled_us, buf, sizeof(buf), &got), 4);
	assert_int_equal(stats(c).of[CACHE_MEMORY].entries, 1);
	cache_close(&c);
}

/* "There is none" is an answer of its own, which a write of the key ends. */
static void test_negative(void **state)
{
	(void)state;
	struct cache *c = new_cache(2 * MIB, NULL);
	struct uuid k = model_key(1);
	struct cache_meta none = {.filled_us = SECOND, .gone_ms = 5000, .flags = CACHE_NEGATIVE}, got = {0};
	struct cache_meta one = {.version = 1, .filled_us = SECOND, .ns = 3};
	uint64_t epoch = cache_epoch(c, CACHE_MEMORY, &k);
	char buf[8];
	assert_true(cache_fill(c, CACHE_MEMORY, &k, epoch, &none, NULL, 0));
	assert_int_equal(cache_get(c, CACHE_MEMORY, &k, SECOND, buf, 0, &got), 0);
	assert_int_equal(got.flags, CACHE_NEGATIVE);
	assert_int_equal(cache_get(c, CACHE_MEMORY, &k, 6 * SECOND, buf, 0, &got), -1);
	cache_put(c, CACHE_MEMORY, &k, &one, "x", 1);
	assert_int_equal(cache_get(c, CACHE_MEMORY, &k, SECOND, buf, sizeof(buf), &got), 1);
	assert_int_equal(got.flags, 0);
	/* Who looked before the write may not say afterwards that there is none. */
	none.filled_us += SECOND;
	assert_false(cache_fill(c, CACHE_MEMORY, &k, epoch, &none, NULL, 0));
	assert_false(cache_fill(c, CACHE_MEMORY, &k, cache_epoch(c, CACHE_MEMORY, &k), &none, NULL, 0));
	assert_int_equal(cache_get(c, CACHE_MEMORY, &k, SECOND, buf, sizeof(buf), &got), 1);
	cache_close(&c);
}

/* ---- purges ---- */

enum { PURGED = 3000 };

static enum cache_class class_of(uint64_t i) { return (enum cache_class)(1 + i % 3); }

static struct cache *fill_for_purge(void)
{
	struct cache *c = new_cache(32 * MIB, NULL);
	char v[300] = {0};
	for (uint64_t i = 0; i < PURGED; i++) {
		struct uuid k = model_key(i);
		struct cache_meta m = {
			.version = 1, .filled_us = 1, .ns = 10 + i / 3 % 2, .tag = (uint16_t)(20 + i / 6 % 5)};
		assert_true(cache_fill(c, class_of(i), &k, cache_epoch(c, class_of(i), &k), &m, v, i % sizeof(v)));
	}
	return c;
}

static void test_purge_by(void **state)
{
	(void)state;
	const struct cache_match matches[] = {{.ns = 10},
					      {.cls = CACHE_SEARCH},
					      {.tag = 23},
					      {.ns = 11, .cls = CACHE_VECTOR},
					      {.ns = 10, .tag = 21},
					      {.cls = CACHE_MEMORY, .tag = 20},
					      {.ns = 11, .cls = CACHE_SEARCH, .tag = 24},
					      {.ns = 99},
					      {0}};
	for (size_t j = 0; j < ARRAY_LEN(matches); j++) {
		const struct cache_match *m = &matches[j];
		struct cache *c = fill_for_purge();
		struct uuid other = model_key(PURGED + j);
		uint64_t epoch = cache_epoch(c, CACHE_MEMORY, &other), want = 0;
		for (uint64_t i = 0; i < PURGED; i++)
			want += (!m->ns || m->ns == 10 + i / 3 % 2) && (!m->cls || m->cls == class_of(i)) &&
				(!m->tag || m->tag == 20 + i / 6 % 5);
		assert_int_equal(cache_purge(c, m), want);
		assert_int_equal(stats(c).of[0].entries, PURGED - want);
		for (uint64_t i = 0; i < PURGED; i++)
			assert_int_equal(!has(c, class_of(i), i), (!m->ns || m->ns == 10 + i / 3 % 2) &&
									  (!m->cls || m->cls == class_of(i)) &&
									  (!m->tag || m->tag == 20 + i / 6 % 5));
		/* A load that began before may have seen what was purged. */
		assert_false(cache_fill(c, CACHE_MEMORY, &other, epoch, &(struct cache_meta){.version = 1}, "x", 1));
		assert_int_equal(cache_purge(c, m), 0);
		assert_int_equal(stats(c).of[0].evictions, 0);
		cache_close(&c);
	}
}

/* ---- looking ---- */

static void test_peek(void **state)
{
	(void)state;
	struct cache *c = new_cache(2 * MIB, NULL);
	struct uuid k = model_key(1);
	struct cache_meta m = {.ns = 4, .version = 9, .filled_us = 77, .fresh_ms = 5, .gone_ms = 6, .tag = 8}, got;
	struct cache_entry e;
	char buf[8];
	assert_false(cache_peek(c, CACHE_VECTOR, &k, &e));
	cache_put(c, CACHE_VECTOR, &k, &m, "hello", 5);
	for (int i = 0; i < 3; i++) {
		assert_true(cache_peek(c, CACHE_VECTOR, &k, &e));
		assert_int_equal(e.hits, 0); /* who looks does not read */
	}
	assert_false(cache_peek(c, CACHE_MEMORY, &k, &e));
	assert_memory_equal(&e.key, &k, sizeof(k));
	assert_int_equal(e.cls, CACHE_VECTOR);
	assert_int_equal(e.len, 5);
	assert_memory_equal(&e.meta, &m, offsetof(struct cache_meta, flags) + 1);
	assert_int_equal(cache_get(c, CACHE_VECTOR, &k, 77, buf, sizeof(buf), &got), 5);
	assert_true(cache_peek(c, CACHE_VECTOR, &k, &e));
	assert_int_equal(e.hits, 1);
	cache_remove(c, CACHE_VECTOR, &k);
	assert_false(cache_peek(c, CACHE_VECTOR, &k, &e));
	cache_close(&c);
}

enum { WALKED = 4000 };

struct walk {
	unsigned char seen[WALKED];
	uint64_t visits, wrong, stop_at, with_value;
};

static bool visit(void *arg, const struct cache_entry *e, const void *value)
{
	struct walk *w = arg;
	uint64_t i;
	memcpy(&i, e->key.b, sizeof(i));
	if (i >= WALKED || e->cls != CACHE_MEMORY || e->meta.ns != i % 3 ||
	    (value && !model_right(value, e->len, i, e->meta.version)))
		w->wrong++;
	else if (w->seen[i] < 255)
		w->seen[i]++;
	w->with_value += value != NULL;
	return ++w->visits != w->stop_at;
}

static void test_walk(void **state)
{
	(void)state;
	struct cache *c = new_cache(32 * MIB, NULL);
	static char buf[2000];
	struct walk w = {0};
	cache_walk(c, buf, sizeof(buf), visit, &w);
	assert_int_equal(w.visits, 0);
	for (uint64_t i = 0; i < WALKED; i++)
		model_write(c, i, 1 + i, (size_t)i, i % 2);
	for (uint64_t i = 0; i < WALKED; i += 7)
		drop(c, i);
	cache_walk(c, buf, sizeof(buf), visit, &w);
	uint64_t evicted = 0, fits = 0;
	for (uint64_t i = 0; i < WALKED; i++) {
		assert_int_equal(w.seen[i], has(c, CACHE_MEMORY, i));
		evicted += i % 7 && !w.seen[i];
		fits += w.seen[i] && i <= sizeof(buf);
	}
	assert_int_equal(w.wrong, 0);
	assert_int_equal(evicted, stats(c).of[0].evictions);
	assert_int_equal(w.visits, stats(c).of[0].entries);
	assert_int_equal(w.with_value, fits);
	w = (struct walk){.stop_at = 10};
	cache_walk(c, NULL, 0, visit, &w);
	assert_int_equal(w.visits, 10);
	assert_int_equal(w.with_value, 0);
	cache_close(&c);
}

static _Atomic bool over;

static void *write_on(void *arg)
{
	uint64_t rnd = 5, version = 2;
	while (!atomic_load(&over))
		model_write(arg, next_random(&rnd) % (WALKED / 2), version++, (size_t)(next_random(&rnd) % 3000),
			    false);
	return NULL;
}

/* Half of the entries are written over and over, in a cache that evicts: nothing torn is shown, nothing twice. */
static void test_walk_beside_writers(void **state)
{
	(void)state;
	struct cache *c = new_cache(3 * MIB, NULL);
	static char buf[4096];
	pthread_t t;
	for (uint64_t i = 0; i < WALKED; i++)
		model_write(c, i, 1, 500, false);
	atomic_store(&over, false);
	assert_int_equal(pthread_create(&t, NULL, write_on, c), 0);
	uint64_t visits = 0, wrong = 0, most = 0;
	for (int i = 0; i < 50; i++) {
		struct walk w = {0};
		cache_walk(c, buf, sizeof(buf), visit, &w);
		visits += w.visits;
		wrong += w.wrong;
		for (uint64_t k = 0; k < WALKED; k++)
			most = w.seen[k] > most ? w.seen[k] : most;
	}
	atomic_store(&over, true);
	pthread_join(t, NULL);
	assert_int_equal(wrong, 0);
	assert_true(visits > 1000);
	assert_true(most <= 2); /* twice: evicted here and filled again there while the walk was on its way */
	cache_close(&c);
}

/* ---- accounts ---- */

static void test_classes_are_counted(void **state)
{
	(void)state;
	struct cache *c = new_cache(1 * MIB, NULL);
	static char v[1000];
	uint64_t sent[CACHE_CLASSES] = {0};
	int64_t age_ms = 60000, before_us = clock_real_us();
	for (uint64_t i = 0; i < 6000; i++) {
		enum cache_class cls = i % 4 == 3 ? CACHE_SEARCH : CACHE_MEMORY;
		struct cache_meta m = {.version = 1, .filled_us = clock_real_us() - age_ms * 1000};
		struct uuid k = model_key(i);
		cache_put(c, cls, &k, &m, v, sizeof(v));
		sent[cls]++;
	}
	int64_t took_ms = (clock_real_us() - before_us) / 1000 + 1;
	struct cache_stats s = stats(c);
	for (int cls = 1; cls < CACHE_CLASSES; cls++) {
		const struct cache_class_stats *n = &s.of[cls];
		assert_int_equal(n->entries + n->evictions, sent[cls]);
		assert_int_equal(n->bytes, n->entries * (64 + 1024));
		assert_true(n->evicted_ms >= n->evictions * (uint64_t)age_ms);
		assert_true(n->evicted_ms <= n->evictions * (uint64_t)(age_ms + took_ms));
	}
	assert_true(s.of[CACHE_SEARCH].evictions > 100);
	assert_int_equal(s.of[0].entries, s.of[CACHE_MEMORY].entries + s.of[CACHE_SEARCH].entries);
	assert_int_equal(s.of[0].evictions, s.of[CACHE_MEMORY].evictions + s.of[CACHE_SEARCH].evictions);
	assert_int_equal(s.of[0].evicted_ms, s.of[CACHE_MEMORY].evicted_ms + s.of[CACHE_SEARCH].evicted_ms);
	/* A replacement and a removal are no evictions. */
	uint64_t evictions = s.of[0].evictions;
	struct uuid k = model_key(5999);
	cache_put(c, CACHE_SEARCH, &k, &(struct cache_meta){.version = 2}, v, 10);
	cache_remove(c, CACHE_SEARCH, &k);
	assert_true(stats(c).of[0].evictions <= evictions + 1);
	cache_close(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_ages),
		cmocka_unit_test(test_gone_at),
		cmocka_unit_test(test_stale_is_a_hit),
		cmocka_unit_test(test_refill),
		cmocka_unit_test(test_negative),
		cmocka_unit_test(test_purge_by),
		cmocka_unit_test(test_peek),
		cmocka_unit_test(test_walk),
		cmocka_unit_test(test_walk_beside_writers),
		cmocka_unit_test(test_classes_are_counted),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
