/* Histograms: error, edges, quantiles, a reader beside a writer; the last minute and the traces of routes. Broken code this
 * would catch: buckets that overlap or leave a gap, an edge that belongs to the wrong bucket, coarse buckets that do not end
 * where fine ones do, values that get lost beyond the end, counts that a reader sees shrink. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>

#include "clock.h"
#include "metrics.h"
#include "stats.h"

#define LAST (1ull << HIST_LAST_BIT)
#define MINUTE_NS 60000000000ull

static uint64_t rng = 88172645463325252ull;
static uint64_t random_u64(void)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return rng;
}

static uint64_t lower(unsigned i) { return i ? hist_upper(i - 1) : 0; }

/* ---- buckets ---- */

static void test_buckets_meet(void **state)
{
	(void)state;
	assert_int_equal(hist_bucket(0), 0);
	assert_int_equal(hist_bucket(1), 0);
	for (unsigned i = 0; i < HIST_BUCKETS; i++) {
		uint64_t low = lower(i), high = hist_upper(i);
		assert_true(low < high);
		assert_int_equal(hist_bucket(low + 1), i);
		assert_int_equal(hist_bucket(high), i);
		assert_int_equal(hist_bucket(high + 1), i + 1);
	}
	assert_int_equal(hist_upper(HIST_BUCKETS - 1), LAST);
	assert_int_equal(hist_bucket(LAST + 1), HIST_BUCKETS);
	assert_int_equal(hist_bucket(UINT64_MAX), HIST_BUCKETS);
}

static double error_of(uint64_t v)
{
	unsigned i = hist_bucket(v);
	double middle = (double)(lower(i) + hist_upper(i)) / 2;
	return fabs(middle - (double)v) / (double)v;
}

/* From 1 µs to 60 s in nanoseconds: both ends and the middle of every bucket, and a million others. */
static void test_error_below_two_percent(void **state)
{
	double worst = 0;
	(void)state;
	assert_true(MINUTE_NS <= LAST);
	for (unsigned i = 0; i < HIST_BUCKETS; i++) {
		uint64_t low = lower(i) + 1, high = hist_upper(i);
		const uint64_t at[] = {low, (low + high) / 2, high};
		for (size_t k = 0; k < 3; k++)
			if (at[k] >= 1000)
				worst = fmax(worst, error_of(at[k]));
	}
	for (int i = 0; i < 1000000; i++) {
		uint64_t v = random_u64() >> (28 + random_u64() % 27); /* of all sizes */
		if (v >= 1000 && v <= MINUTE_NS)
			worst = fmax(worst, error_of(v));
	}
	assert_true(worst <= 0.02);
	assert_true(worst > 0.01); /* they are not finer than the memory for them is said to be */
}

static void test_small_numbers_have_their_own_bucket(void **state)
{
	(void)state;
	for (uint64_t n = 1; n <= 64; n++) {
		struct hist_sum h = {.count = 1};
		h.n[hist_bucket(hist_records(n))] = 1;
		assert_int_equal((uint64_t)ceil(hist_quantile(&h, 0.5) / hist_scale(HIST_RECORDS)), n);
		assert_true(hist_bucket(hist_records(n)) < hist_bucket(hist_records(n + 1)));
	}
	assert_int_equal(hist_bucket(hist_records(UINT64_MAX)), HIST_BUCKETS);
	assert_int_equal(hist_bucket(hist_records(1ull << 55)), HIST_BUCKETS); /* whose shift would wrap to nothing */
}

static void test_coarse_edges_are_fine_edges(void **state)
{
	(void)state;
	for (int u = HIST_SECONDS; u <= HIST_RECORDS; u++) {
		enum hist_unit unit = (enum hist_unit)u;
		for (unsigned k = 0; k < hist_edges(unit); k++) {
			uint64_t edge = hist_edge(unit, k);
			assert_int_equal(hist_upper(hist_bucket(edge)), edge);
			assert_int_equal(hist_coarse(unit, edge), k);
			assert_int_equal(hist_coarse(unit, edge + 1), k + 1);
			assert_true(edge <= LAST);
		}
	}
	assert_int_equal(hist_edge(HIST_SECONDS, hist_edges(HIST_SECONDS) - 1), LAST);
	assert_int_equal(hist_coarse(HIST_SECONDS, 0), 0);
}

/* ---- recording ---- */

static struct stats_slot *slot_new(void)
{
	struct stats_slot *s = aligned_alloc(CACHE_LINE, sizeof(*s));
	AN(s);
	memset(s, 0, sizeof(*s));
	return s;
}

static struct hist_sum merged(const struct stats_slot *s)
{
	struct hist_sum h = {.count = 0};
	hist_merge(&s->hist[HIST_FLUSH], &s->sum[HIST_FLUSH], &h);
	return h;
}

static void test_what_is_beyond_is_counted(void **state)
{
	struct stats_slot *s = slot_new();
	(void)state;
	assert_int_equal(merged(s).count, 0);
	stats_record(s, HIST_FLUSH, 5000);
	stats_record(s, HIST_FLUSH, LAST + 1);
	stats_record_shared(s, HIST_FLUSH, 3 * LAST);
	struct hist_sum h = merged(s);
	assert_int_equal(h.count, 3);
	assert_int_equal(h.n[HIST_BUCKETS], 2);
	assert_int_equal(h.sum, 5000 + LAST + 1 + 3 * LAST);
	assert_true(hist_quantile(&h, 0.99) == (double)LAST);
	free(s);
}

static void test_a_record_of_nothing_counts(void **state)
{
	struct stats_slot *s = slot_new();
	(void)state;
	stats_record(s, HIST_FLUSH, 0);
	assert_int_equal(merged(s).count, 1); /* though its sum would be that of an empty one */
	free(s);
}

static void test_two_slots_add_up(void **state)
{
	struct stats_slot *a = slot_new(), *b = slot_new();
	struct hist_sum h = {.count = 0};
	(void)state;
	for (uint64_t i = 1; i <= 1000; i++)
		stats_record(i % 2 ? a : b, HIST_FLUSH, i * 1000);
	hist_merge(&a->hist[HIST_FLUSH], &a->sum[HIST_FLUSH], &h);
	hist_merge(&b->hist[HIST_FLUSH], &b->sum[HIST_FLUSH], &h);
	assert_int_equal(h.count, 1000);
	assert_int_equal(h.sum, 500500000);
	assert_true(fabs(hist_quantile(&h, 0.5) / 500e3 - 1) < 0.02);
	free(a);
	free(b);
}

static void check_quantiles(const struct hist_sum *h, double (*exact)(double q))
{
	const double q[] = {0.01, 0.1, 0.5, 0.9, 0.95, 0.99, 0.999};
	for (size_t i = 0; i < ARRAY_LEN(q); i++)
		assert_true(fabs(hist_quantile(h, q[i]) / exact(q[i]) - 1) < 0.03); /* 2 %, and the sample */
}
static double uniform(double q) { return q * 1e9; }
static double exponential(double q) { return -log(1 - q) * 1e7; }

static void test_quantiles_of_known_distributions(void **state)
{
	struct stats_slot *s = slot_new();
	struct hist_sum h;
	(void)state;
	for (uint64_t i = 1; i <= 100000; i++) /* all their quantiles, once each */
		stats_record(s, HIST_FLUSH, (uint64_t)uniform((double)i / 100001));
	h = merged(s);
	check_quantiles(&h, uniform);
	free(s);
	s = slot_new();
	for (uint64_t i = 1; i <= 100000; i++)
		stats_record(s, HIST_FLUSH, (uint64_t)exponential((double)i / 100001));
	h = merged(s);
	check_quantiles(&h, exponential);
	free(s);
}

static void test_quantile_of_few(void **state)
{
	struct hist_sum h = {.count = 0};
	(void)state;
	assert_true(hist_quantile(&h, 0.5) == 0);
	h.n[hist_bucket(1000)] = 1;
	h.n[hist_bucket(1000000)] = 1;
	h.count = 2;
	assert_true(hist_quantile(&h, 0.5) < 2000); /* one of two is half */
	assert_true(hist_quantile(&h, 0.51) > 900000);
	assert_true(hist_quantile(&h, 0) < 2000);
	assert_true(hist_quantile(&h, 1) > 900000);
}

/* ---- a reader beside writers ---- */

enum { WRITES = 200000, THREADS = 3 };

static void *write_alone(void *arg)
{
	for (uint64_t i = 0; i < WRITES; i++)
		stats_record(arg, HIST_FLUSH, 1000 + i);
	return NULL;
}
static void *write_shared(void *arg)
{
	for (uint64_t i = 0; i < WRITES; i++)
		stats_record_shared(arg, HIST_EMBED, 1000 + i);
	return NULL;
}

static void test_a_reader_sees_counts_grow(void **state)
{
	struct stats_slot *s = slot_new();
	pthread_t alone, shared[THREADS];
	uint64_t before = 0;
	(void)state;
	assert_int_equal(pthread_create(&alone, NULL, write_alone, s), 0);
	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&shared[i], NULL, write_shared, s), 0);
	do {
		struct hist_sum h = merged(s);
		assert_true(h.count >= before);
		before = h.count;
	} while (before < WRITES);
	pthread_join(alone, NULL);
	for (int i = 0; i < THREADS; i++)
		pthread_join(shared[i], NULL);
	struct hist_sum h = {.count = 0};
	hist_merge(&s->hist[HIST_EMBED], &s->sum[HIST_EMBED], &h);
	assert_int_equal(h.count, THREADS * WRITES); /* none lost */
	free(s);
}

/* A counter of the loop and the same one of other threads: neither overwrites the other. */
static void *count_shared(void *arg)
{
	for (int i = 0; i < WRITES; i++)
		stats_add_shared(arg, STAT_L1_HITS, 1);
	return NULL;
}

static void test_counters_of_loop_and_threads(void **state)
{
	struct stats_slot *s = slot_new();
	pthread_t t;
	(void)state;
	assert_int_equal(pthread_create(&t, NULL, count_shared, s), 0);
	for (int i = 0; i < WRITES; i++)
		stats_add(s, STAT_L1_HITS, 1);
	pthread_join(t, NULL);
	assert_int_equal(stats_value(s, STAT_L1_HITS), 2 * WRITES);
	free(s);
}

/* ---- the last minute ---- */

static uint64_t recent(const struct stats_slot *s, int64_t now_us, double *median_r)
{
	struct hist_sum h = {.count = 0};
	stats_recent(s, 7, now_us, &h);
	if (median_r)
		*median_r = hist_quantile(&h, 0.5);
	return h.count;
}

static void test_recent_forgets(void **state)
{
	struct stats_slot *s = slot_new();
	int64_t now = 1000000000, turn = STATS_TURN_US;
	double median;
	(void)state;
	assert_int_equal(recent(s, now, NULL), 0);
	stats_turn(s, now);
	for (int i = 0; i < 10; i++)
		stats_record_route(s, 7, 1000000, 1);
	assert_int_equal(recent(s, now, &median), 10);
	assert_true(fabs(median / 1e6 - 1) < 0.02);
	stats_turn(s, now + turn - 1); /* not yet */
	stats_turn(s, now + turn);
	stats_record_route(s, 7, 9000000, 1);
	assert_int_equal(recent(s, now + turn, NULL), 11); /* behind the older of the two */
	stats_turn(s, now + 2 * turn);
	assert_int_equal(recent(s, now + 2 * turn, &median), 1);
	assert_true(fabs(median / 9e6 - 1) < 0.02);
	stats_turn(s, now + 3 * turn);
	assert_int_equal(recent(s, now + 3 * turn, NULL), 0);
	stats_record_route(s, 7, 1000000, 1);
	assert_int_equal(recent(s, now + 3 * turn, NULL), 1);
	assert_int_equal(recent(s, now + 6 * turn, NULL), 0); /* its worker is gone */
	assert_int_equal(s->http_hist[6].n[0], 0);
	free(s);
}

struct turning {
	struct stats_slot *s;
	_Atomic bool stop;
};

static void *turn_and_record(void *arg)
{
	struct turning *t = arg;
	for (int64_t now = 1; !atomic_load(&t->stop); now += STATS_TURN_US) {
		stats_turn(t->s, now);
		for (int i = 0; i < 50; i++)
			stats_record_route(t->s, 7, 1000000, 1);
	}
	return NULL;
}

/* Between two turns 50 are recorded: whoever looks, finds those of two at most. */
static void test_recent_beside_its_writer(void **state)
{
	struct turning t = {.s = slot_new()};
	pthread_t writer;
	(void)state;
	assert_int_equal(pthread_create(&writer, NULL, turn_and_record, &t), 0);
	for (int i = 0; i < 20000; i++) {
		struct hist_sum h = {.count = 0};
		uint64_t turns = atomic_load(&t.s->turns);
		stats_recent(t.s, 7, atomic_load(&t.s->turned_us[turns % 2]), &h);
		for (unsigned b = 0; b <= HIST_BUCKETS; b++)
			assert_true(!h.n[b] || b == hist_bucket(1000000));
	}
	atomic_store(&t.stop, true);
	pthread_join(writer, NULL);
	free(t.s);
}

/* ---- traces ---- */

static void test_traces(void **state)
{
	struct stats_slot *s = slot_new();
	unsigned char id[16], a[16] = {1, 2, 3}, b[16] = {4, 5, 6};
	uint64_t ns;
	int64_t at_us;
	(void)state;
	unsigned slow = hist_coarse(HIST_SECONDS, 50000000), fast = hist_coarse(HIST_SECONDS, 5000);
	assert_false(stats_trace_read(s, 3, slow, id, &ns, &at_us));
	stats_trace_route(s, 3, 50000000, a);
	stats_trace_route(s, 3, 60000000, b); /* of the same bucket: the last one stays */
	assert_true(stats_trace_read(s, 3, slow, id, &ns, &at_us));
	assert_memory_equal(id, b, 16);
	assert_int_equal(ns, 60000000);
	assert_true(at_us > 0);
	assert_false(stats_trace_read(s, 3, fast, id, &ns, &at_us));
	assert_false(stats_trace_read(s, 4, slow, id, &ns, &at_us));
	stats_trace_route(s, 3, UINT64_MAX, a);
	assert_true(stats_trace_read(s, 3, hist_edges(HIST_SECONDS), id, &ns, &at_us));
	/* One that died in the middle is not read, and its successor's is. */
	atomic_fetch_add(&s->trace[3][slow].change, 1);
	assert_false(stats_trace_read(s, 3, slow, id, &ns, &at_us));
	stats_trace_route(s, 3, 50000000, a);
	assert_true(stats_trace_read(s, 3, slow, id, &ns, &at_us));
	free(s);
}

struct tracing {
	struct stats_slot *s;
	_Atomic bool stop;
};

static void *write_traces(void *arg)
{
	struct tracing *t = arg;
	unsigned char id[16];
	for (unsigned char i = 0; !atomic_load(&t->stop); i++) {
		memset(id, i, sizeof(id));
		stats_trace_route(t->s, 3, 50000000 + i, id);
	}
	return NULL;
}

static void test_a_trace_is_whole(void **state)
{
	struct tracing t = {.s = slot_new()};
	pthread_t writer;
	(void)state;
	assert_int_equal(pthread_create(&writer, NULL, write_traces, &t), 0);
	for (int i = 0; i < 200000; i++) {
		unsigned char id[16];
		uint64_t ns;
		int64_t at_us;
		if (!stats_trace_read(t.s, 3, hist_coarse(HIST_SECONDS, 50000000), id, &ns, &at_us))
			continue;
		for (int k = 1; k < 16; k++)
			assert_int_equal(id[k], id[0]);
		assert_int_equal(ns, 50000000u + id[0]);
	}
	atomic_store(&t.stop, true);
	pthread_join(writer, NULL);
	free(t.s);
}

/* ---- the table ---- */

static void check_row(const struct metric *m, const char *kind)
{
	size_t n = strlen(m->name);
	bool total = n > 6 && strcmp(m->name + n - 6, "_total") == 0;
	assert_true(strncmp(m->name, "orchestra_", 10) == 0);
	assert_true(total == (strcmp(m->type, "counter") == 0));
	assert_true(*m->help && !strpbrk(m->help, "\\\"\n"));
	assert_true(m->help[strlen(m->help) - 1] == '.');
	if (kind)
		assert_string_equal(m->type, kind);
}

static void test_rows_are_sound(void **state)
{
	(void)state;
	for (size_t i = 0; i < METRIC_FAMILIES; i++)
		check_row(&metrics_families[i], NULL);
	for (size_t i = 0; i < HIST_COUNT; i++)
		check_row(&metrics_hists[i], "histogram");
	for (size_t i = 0; i < STAT_COUNT; i++)
		check_row(&metrics_stats[i], NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_buckets_meet),
		cmocka_unit_test(test_error_below_two_percent),
		cmocka_unit_test(test_small_numbers_have_their_own_bucket),
		cmocka_unit_test(test_coarse_edges_are_fine_edges),
		cmocka_unit_test(test_what_is_beyond_is_counted),
		cmocka_unit_test(test_a_record_of_nothing_counts),
		cmocka_unit_test(test_two_slots_add_up),
		cmocka_unit_test(test_quantiles_of_known_distributions),
		cmocka_unit_test(test_quantile_of_few),
		cmocka_unit_test(test_a_reader_sees_counts_grow),
		cmocka_unit_test(test_counters_of_loop_and_threads),
		cmocka_unit_test(test_recent_forgets),
		cmocka_unit_test(test_recent_beside_its_writer),
		cmocka_unit_test(test_traces),
		cmocka_unit_test(test_a_trace_is_whole),
		cmocka_unit_test(test_rows_are_sound),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
