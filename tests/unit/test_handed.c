/* How much sync is handed at once, with a sync in virtual time: groups that take the disk's time, and the processor's for each
 * unit. Broken code this would catch: a limit that grows with the delay that it makes itself
 * (all are late then, and what was handed over cannot be refused any more); one that starves a slow disk, or a fast one; one
 * that does not find out that the world has become slower, or quicker again; a pace that is taken from a time in which nobody waited. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "api/handed.c"

enum { ROOM = 8192 };

/* First come, first served: all that came during a group are the next one. */
struct sync {
	struct handed h;
	int64_t now, disk_us, unit_us;
	int64_t sent_us[ROOM];
	size_t head, len;
	/* what came of it */
	uint64_t answered;
	int64_t worst_us, sum_us;
};

static void begin(struct sync *s, int64_t target_us, int64_t disk_us, int64_t unit_us)
{
	memset(s, 0, sizeof(*s));
	s->h.on = true;
	s->h.target_us = target_us;
	s->now = 1;
	s->disk_us = disk_us;
	s->unit_us = unit_us;
}

static void hand(struct sync *s)
{
	assert_true(s->len < ROOM);
	s->sent_us[(s->head + s->len++) % ROOM] = s->now;
	handed_sent(&s->h, 1);
}

/* One group: the first `n` of what it has. Meanwhile others come. */
static void group(struct sync *s, size_t n, bool others)
{
	int64_t done = s->now + s->disk_us + (int64_t)n * s->unit_us;
	if (others)
		while (s->len < handed_limit(&s->h))
			hand(s);
	s->now = done;
	for (; n; n--, s->len--, s->answered++) {
		int64_t took = s->now - s->sent_us[s->head++ % ROOM];
		s->worst_us = took > s->worst_us ? took : s->worst_us;
		s->sum_us += took;
		handed_answered(&s->h, 1, true, took, s->now);
	}
	handed_look(&s->h, others, s->now);
}

/* There is always more than may be handed over: half of it comes while the other half is written. */
static void overload(struct sync *s, int64_t for_us)
{
	s->answered = 0;
	s->worst_us = s->sum_us = 0;
	for (int64_t end = s->now + for_us; s->now < end;) {
		while (s->len < handed_limit(&s->h) / 2)
			hand(s);
		group(s, s->len, true);
	}
}

static void few_at_a_time(struct sync *s)
{
	for (int i = 0; i < 1000; i++, s->now += 1000) {
		hand(s);
		group(s, 1, false);
	}
}

#define TARGET_US 40000

static void delay_does_not_feed_itself(void **state)
{
	static struct sync s;
	(void)state;
	for (int64_t unit_us = 3; unit_us <= 3000; unit_us *= 10) { /* 3 ms: others have the processor */
		begin(&s, TARGET_US, 300, unit_us);
		few_at_a_time(&s);
		overload(&s, 2000000);
		for (int minute = 0; minute < 5; minute++) {
			overload(&s, 60000000);
			int64_t least = 300 + HANDED_FIRST * unit_us,
				bound = least > TARGET_US ? 2 * least : 2 * TARGET_US + least;
			if (s.worst_us > 1.2 * (double)bound)
				fail_msg("%lld µs a unit: %lld µs", (long long)unit_us, (long long)s.worst_us);
			/* nor is much lost beside handing over all */
			double best = 1e6 / ((double)unit_us + 300.0 / (HANDED_FIRST / 2));
			if ((double)s.answered / 60 < 0.9 * best)
				fail_msg("%lld µs a unit: %.0f of %.0f/s", (long long)unit_us, (double)s.answered / 60,
					 best);
		}
	}
}

static void a_slow_disk_is_given_more(void **state)
{
	static struct sync s;
	static const int64_t disk_us[] = {8000, 16000, 30000, 60000},
			     target_us[] = {TARGET_US, TARGET_US, TARGET_US, 200000};
	(void)state;
	for (size_t i = 0; i < 4; i++) {
		begin(&s, target_us[i], disk_us[i], 5);
		few_at_a_time(&s);
		overload(&s, 20000000);
		overload(&s, 60000000);
		double n = HANDED_FIRST * (double)disk_us[i] / 8000 / 2;
		n = n < HANDED_MOST / 2 ? n : HANDED_MOST / 2;
		double best = 1e6 * n / ((double)disk_us[i] + n * 5);
		if ((double)s.answered / 60 < 0.9 * best)
			fail_msg("%lld µs: %.0f of %.0f/s, limit %u", (long long)disk_us[i], (double)s.answered / 60,
				 best, handed_limit(&s.h));
	}
}

static void a_world_that_changes_is_found_out(void **state)
{
	static struct sync s;
	(void)state;
	begin(&s, 200000, 300, 50);
	few_at_a_time(&s);
	overload(&s, 20000000);
	uint32_t quick = handed_limit(&s.h);
	s.disk_us = 60000;
	overload(&s, 60000000);
	assert_in_range(handed_limit(&s.h), 1000, HANDED_MOST);
	s.disk_us = 300;
	s.unit_us = 1000; /* others have come to the processor */
	overload(&s, 60000000);
	assert_in_range(handed_limit(&s.h), HANDED_FIRST, 480);
	s.unit_us = 50;
	few_at_a_time(&s);
	overload(&s, 60000000);
	overload(&s, 1000000);
	assert_true(s.worst_us < 400000 && handed_limit(&s.h) >= quick);
}

static void what_says_nothing(void **state)
{
	struct handed h = {.on = true, .target_us = TARGET_US};
	(void)state;
	assert_int_equal(handed_limit(&h), HANDED_FIRST);
	handed_sent(&h, 3);
	handed_answered(&h, 1, false, 5000000, 1000); /* refused, or of a sync before this one */
	handed_look(&h, false, 1000);
	handed_answered(&h, 2, true, 1000, 100000000);
	handed_look(&h, true, 100000000); /* nobody has waited: no pace */
	assert_int_equal(handed_limit(&h), HANDED_FIRST);
	assert_int_equal(h.units, 0);
	h.shared = true; /* others wait behind what was handed over */
	assert_int_equal(handed_limit(&h), HANDED_SHARED);
	h.on = false;
	assert_int_equal(handed_limit(&h), UINT32_MAX);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(delay_does_not_feed_itself),
		cmocka_unit_test(a_slow_disk_is_given_more),
		cmocka_unit_test(a_world_that_changes_is_found_out),
		cmocka_unit_test(what_says_nothing),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
