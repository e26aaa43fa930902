/* The pinger's policy. Broken code this would catch: cold starts taken for warm answers or the other way round, a border that
 * an outlier moves, an interval that grows beyond what was cold, forgets a cold start or never tries again, a ping that real
 * traffic has made needless, one that is left out although nothing was in use, a stampede; and a policy that is worse for
 * users than the best fixed interval, or needs many more pings. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "platform_model.h"

#define MIN 60000000ll
#define HOUR (60 * MIN)

/* ---- warm and cold ---- */

static void learn(struct plant_heat *h, uint32_t us, enum plant_ping_heat expected)
{
	enum plant_ping_heat got = cold_learn(h, us, 0);
	if (got != expected)
		fail_msg("%u us is %d, expected %d; the border is %u", us, got, expected, cold_border(h, 0));
}

static void test_cold(void **state)
{
	(void)state;
	struct plant_heat h = {0};
	for (uint32_t i = 0; i < COLD_NEEDS; i++)
		learn(&h, 50000 + i * 1000, PING_UNKNOWN);
	for (uint32_t i = 0; i < 300; i++)
		learn(&h, 45000 + i % 17 * 1000, PING_WARM);
	learn(&h, 2000000, PING_COLD);
	learn(&h, 110000, PING_WARM); /* twice as long is no cold start */
	learn(&h, 900000, PING_COLD);
	learn(&h, 51000, PING_WARM);
	assert_int_equal(h.ncold, 2);
	assert_int_equal(cold_percentile(h.cold_us, PLANT_COLD_TIMES, h.ncold, 0.99), 2000000);
	assert_in_range(cold_percentile(h.warm_us, PLANT_WARM_TIMES, h.nwarm, 0.5), 45000, 61000);
	assert_int_equal(cold_percentile(h.warm_us, PLANT_WARM_TIMES, 0, 0.5), 0);
}

static void test_cold_among_the_first(void **state)
{
	(void)state;
	struct plant_heat h = {0};
	learn(&h, 3000000, PING_UNKNOWN); /* as the first one mostly is */
	for (int i = 0; i < COLD_NEEDS - 1; i++)
		learn(&h, 60000, PING_UNKNOWN);
	learn(&h, 2500000, PING_COLD);
	learn(&h, 70000, PING_WARM);
	/* All of the first ones cold: the warm ones that come later show it. */
	h = (struct plant_heat){0};
	for (int i = 0; i < 20; i++)
		(void)cold_learn(&h, 2000000 + (uint32_t)i * 10000, 0);
	for (int i = 0; i < 3; i++)
		learn(&h, 60000, PING_WARM);
	learn(&h, 2000000, PING_COLD);
	/* What answers within microseconds is not cold after a millisecond. */
	h = (struct plant_heat){0};
	for (int i = 0; i < 10; i++)
		(void)cold_learn(&h, 200, 0);
	learn(&h, 5000, PING_WARM);
}

static void test_a_slow_target_becomes_normal(void **state)
{
	(void)state;
	struct plant_heat h = {0};
	for (int i = 0; i < 50; i++)
		(void)cold_learn(&h, 60000, 0);
	for (int i = 1; i < COLD_NEW_NORMAL; i++)
		learn(&h, 300000, PING_COLD);
	learn(&h, 300000, PING_WARM);
	learn(&h, 310000, PING_WARM);
	learn(&h, 3000000, PING_COLD);
	/* By configuration. */
	assert_int_equal(cold_learn(&h, 310000, 250000), PING_COLD);
	assert_int_equal(cold_learn(&h, 250000, 250000), PING_WARM);
}

/* ---- the interval that finds itself ---- */

static const struct adapt_limits limits = {MIN, HOUR};

/* So many pings, each behind a whole interval, to a platform that stays warm for `stays`. Returns the cold ones. */
static unsigned run(struct plant_adapt *a, int64_t stays, int64_t *now, unsigned pings)
{
	unsigned cold = 0;
	for (unsigned i = 0; i < pings; i++) {
		int64_t gap = adapt_interval(a, &limits);
		*now += gap;
		if (gap > stays)
			adapt_cold(a, &limits, gap, *now), cold++;
		else
			adapt_warm(a, &limits, gap, *now);
	}
	return cold;
}

static void test_adapts(void **state)
{
	(void)state;
	struct plant_adapt a = {0};
	int64_t now = HOUR;
	assert_int_equal(adapt_interval(&a, &limits), MIN);
	/* To the first cold start and back, and nothing longer for hours. */
	assert_int_equal(run(&a, 15 * MIN, &now, 20), 1);
	assert_in_range(a.interval_us, 11 * MIN, 15 * MIN);
	assert_int_equal(a.hold_us, 6 * HOUR);
	/* Weeks: never far from what is possible, and rarely too long. */
	unsigned cold = run(&a, 15 * MIN, &now, 4000);
	assert_in_range(cold, 1, 20);
	assert_in_range(a.interval_us, 11 * MIN, 15 * MIN + 1);
	/* It stays warm for less: within three cold starts, of which one may be forgiven, and stays there. */
	cold = run(&a, 9 * MIN, &now, 50);
	assert_in_range(cold, 1, 4);
	assert_in_range(a.interval_us, 6 * MIN, 9 * MIN);
	/* For much longer, for good: found out, if late. */
	assert_in_range(run(&a, 2 * HOUR, &now, 20000), 0, 0);
	assert_int_equal(a.interval_us, HOUR);
}

static void test_does_not_adapt_to_chance(void **state)
{
	(void)state;
	struct plant_adapt a = {0};
	int64_t now = HOUR;
	(void)run(&a, 15 * MIN, &now, 32); /* the search, and hours at what it found */
	struct plant_adapt was = a;
	adapt_cold(&a, &limits, a.interval_us, now += a.interval_us); /* behind many warm answers: it was moved */
	assert_int_equal(a.interval_us, was.interval_us);
	adapt_cold(&a, &limits, a.interval_us, now += a.interval_us); /* not twice */
	assert_true(a.interval_us < was.interval_us);
	/* A pause that is far longer than the interval, or shorter, says nothing about it. */
	was = a;
	adapt_cold(&a, &limits, 10 * a.interval_us, now += HOUR);
	for (int i = 0; i < 100; i++)
		adapt_warm(&a, &limits, a.interval_us / 2, now += 24 * HOUR);
	assert_int_equal(a.interval_us, was.interval_us);
	/* Limits hold, also when they change. */
	struct adapt_limits narrow = {2 * MIN, 3 * MIN};
	assert_int_equal(adapt_interval(&a, &narrow), 3 * MIN);
	adapt_cold(&a, &narrow, 3 * MIN, now += HOUR);
	adapt_cold(&a, &narrow, 2 * MIN, now += HOUR);
	assert_int_equal(a.interval_us, 2 * MIN);
}

/* ---- when ---- */

static void test_due(void **state)
{
	(void)state;
	struct plan_rules r = {.interval_us = 10 * MIN, .jitter = 0.1, .open_share = 1};
	static struct plant_target_figures f;
	int64_t now = 100 * MIN;
	struct plan_next n = plan_due(&r, &f, 0, now, PLATFORM_EPOCH_US, 0.5);
	assert_true(n.act == PLAN_PING && n.wait_us == 10 * MIN);
	assert_int_equal(plan_due(&r, &f, 0, now, PLATFORM_EPOCH_US, 0).wait_us, 9 * MIN);
	assert_int_equal(plan_gap(&f, 0, now), -1);
	/* Real traffic, three minutes ago. */
	n = plan_due(&r, &f, now - 3 * MIN, now, PLATFORM_EPOCH_US, 0.5);
	assert_true(n.act == PLAN_SKIP && n.wait_us == 7 * MIN);
	assert_int_equal(plan_gap(&f, now - 3 * MIN, now), 3 * MIN);
	/* Too long ago; before the last ping; of a clock that is ahead. */
	assert_int_equal(plan_due(&r, &f, now - 10 * MIN, now, PLATFORM_EPOCH_US, 0.5).act, PLAN_PING);
	f.used_us = now - 2 * MIN;
	assert_int_equal(plan_due(&r, &f, now - 3 * MIN, now, PLATFORM_EPOCH_US, 0.5).act, PLAN_PING);
	n = plan_due(&r, &f, now + HOUR, now, PLATFORM_EPOCH_US, 0.5);
	assert_true(n.act == PLAN_SKIP && n.wait_us == 10 * MIN);
	/* One that was found is never exceeded. */
	struct plan_rules found = {.limits = limits, .jitter = 0.1};
	f.adapt.interval_us = 10 * MIN;
	for (double u = 0; u < 1; u += 0.01)
		assert_in_range(plan_wait(&found, &f, u), 9 * MIN, 10 * MIN);
	/* Behind a failure nothing is known. */
	plan_failed(&f);
	assert_int_equal(plan_gap(&f, 0, now), -1);
}

static void test_schedule(void **state)
{
	(void)state;
	static struct plant_target_figures f;
	struct window w = {.days = 0x1f, .from_s = 7 * 3600, .to_s = 20 * 3600};
	struct plan_rules r = {.interval_us = 10 * MIN, .windows = &w, .nwindows = 1};
	int64_t monday = PLATFORM_EPOCH_US;
	struct plan_next n = plan_due(&r, &f, 0, HOUR, monday, 0);
	assert_true(n.act == PLAN_PAUSE && n.wait_us == 5 * MIN); /* the clock may be set meanwhile */
	n = plan_due(&r, &f, 0, HOUR, monday + 7 * HOUR - 2 * MIN, 0.5);
	assert_true(n.act == PLAN_PAUSE && n.wait_us >= 2 * MIN && n.wait_us < 2 * MIN + 5000000);
	assert_int_equal(plan_opens(&r, monday), monday + 7 * HOUR);
	assert_int_equal(plan_opens(&r, monday + 8 * HOUR + 5), monday + 8 * HOUR + 5);
	assert_int_equal(plan_opens(&r, monday + (4 * 24 + 21) * HOUR), monday + (7 * 24 + 7) * HOUR);
	assert_int_equal(plan_due(&r, &f, 0, HOUR, monday + 7 * HOUR, 0.5).act, PLAN_PING);
	assert_int_equal(plan_due(&r, &f, 0, HOUR, monday + 20 * HOUR, 0.5).act, PLAN_PAUSE);
}

/* 200 targets of one interval that begin at once: no tenth of the time has more than twice its share. */
static void test_no_stampede(void **state)
{
	(void)state;
	struct plan_rules r = {.interval_us = MIN, .jitter = 0.1};
	static struct plant_target_figures f;
	unsigned first[10] = {0}, later[10] = {0};
	struct platform dice = {.rnd = 42};
	for (size_t i = 0; i < 200; i++) {
		int64_t at = plan_first(&r, i, 200, platform_uniform(&dice));
		assert_in_range(at, 0, 4999999);
		first[at / 500000]++;
		for (int round = 0; round < 30; round++) /* jitter drives them apart, over the whole interval */
			at += plan_wait(&r, &f, platform_uniform(&dice));
		later[at % MIN / (MIN / 10)]++;
	}
	for (size_t i = 0; i < 10; i++) {
		assert_in_range(first[i], 15, 25);
		assert_in_range(later[i], 5, 40);
	}
	r.interval_us = 1000000;
	assert_in_range(plan_first(&r, 199, 200, 0.999), 0, 1000000);
}

static void test_cost(void **state)
{
	(void)state;
	struct plan_rules r = {.interval_us = 10 * MIN, .open_share = 0.5, .cost_request = 0.001, .cost_second = 0.1};
	static struct plant_target_figures f;
	for (int i = 0; i < 10; i++) {
		struct plant_ping p = {.took_us = 200000, .at_us = i};
		(void)plan_answered(&r, &f, -1, p.took_us, MIN);
		plan_remember(&r, &f, &p);
	}
	assert_true(fabs(f.cost - (10 * (0.001 + 0.02))) < 1e-9);
	assert_true(fabs(f.cost_day - (72 * (0.001 + 0.02))) < 1e-9);
	assert_int_equal(f.done, 10);
	assert_int_equal(f.warm_us[1], 200000);
}

/* ---- against the best fixed interval, four weeks ---- */

/* The fewest pings of the crons that let no more cold starts through to users than one in four weeks. */
static struct platform_result best_cron(struct platform p)
{
	static const double minutes[] = {1, 2, 3, 5, 7, 10, 12, 14};
	struct platform_result best = {0};
	for (size_t i = 0; i < ARRAY_LEN(minutes); i++) {
		struct plan_rules r = platform_cron(minutes[i]);
		struct platform_result one = platform_run(p, &r, false, 28);
		if (!best.pings || (one.user_colds <= 1 && one.pings < best.pings))
			best = one;
	}
	return best;
}

/* What it may be worse by, told nothing of users: a third more pings than the best in hindsight, and four cold starts in four
 * weeks. Told of them, it needs fewer pings than any of them wherever users come often. */
static void compare(enum platform_kind kind, double day, double night, double fewer)
{
	for (uint64_t seed = 1; seed <= 3; seed++) {
		struct platform p = {.kind = kind, .day_per_hour = day, .night_per_hour = night, .seed = seed * 101};
		struct platform_result cron = best_cron(p), none = platform_run(p, NULL, false, 28);
		struct plan_rules r = platform_auto();
		struct platform_result found = platform_run(p, &r, false, 28), told = platform_run(p, &r, true, 28);
		if (found.user_colds > cron.user_colds + 4 || told.user_colds > cron.user_colds + 4 ||
		    (double)found.pings > 1.34 * (double)cron.pings ||
		    (double)told.pings > fewer * (double)cron.pings || none.user_colds < 100)
			fail_msg(
				"platform %d, seed %llu: pings %llu, told %llu, best cron %llu; cold starts of users %llu, "
				"%llu, %llu, without pinger %llu",
				kind, (unsigned long long)seed, (unsigned long long)found.pings,
				(unsigned long long)told.pings, (unsigned long long)cron.pings,
				(unsigned long long)found.user_colds, (unsigned long long)told.user_colds,
				(unsigned long long)cron.user_colds, (unsigned long long)none.user_colds);
	}
}

static void test_platforms(void **state)
{
	(void)state;
	compare(STAYS_FIXED, 20, 1, 0.8);
	compare(STAYS_FIXED, 2, 0.2, 1.34);
	compare(STAYS_RANDOM, 20, 1, 0.8);
	compare(STAYS_RANDOM, 2, 0.2, 1.34);
	compare(STAYS_LESS_AT_NIGHT, 20, 1, 0.95);
	compare(STAYS_LESS_AT_NIGHT, 2, 0.2, 1.34);
}

/* One that is moved now and then makes no pinger perfect; but it does not drive the interval to its minimum. */
static void test_moved_platform(void **state)
{
	(void)state;
	struct platform p = {.kind = STAYS_EVICTED, .day_per_hour = 20, .night_per_hour = 1, .seed = 7};
	struct plan_rules r = platform_auto(), ten = platform_cron(10);
	struct platform_result found = platform_run(p, &r, false, 28), cron = platform_run(p, &ten, false, 28);
	assert_true(found.pings < 2 * cron.pings);
	assert_true(found.user_colds < cron.user_colds + 10);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_cold),
		cmocka_unit_test(test_cold_among_the_first),
		cmocka_unit_test(test_a_slow_target_becomes_normal),
		cmocka_unit_test(test_adapts),
		cmocka_unit_test(test_does_not_adapt_to_chance),
		cmocka_unit_test(test_due),
		cmocka_unit_test(test_schedule),
		cmocka_unit_test(test_no_stampede),
		cmocka_unit_test(test_cost),
		cmocka_unit_test(test_platforms),
		cmocka_unit_test(test_moved_platform),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
