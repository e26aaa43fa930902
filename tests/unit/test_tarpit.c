/* Which refusals are held back, with clients in virtual time that do not heed Retry-After: each sends when it likes, but not before
 * its last request was answered. Broken code this would catch: refusals that take more of the loop's time than they may; holds where
 * refusing takes little; clients that are kept while what they ask for could be served; holds that stay when all is over; who
 * is refused once in a while, and waits for it. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "api/tarpit.c"

enum { CLIENTS = 8000, INTERVAL_US = 100000, TICK_US = 1000, SECOND_US = 1000000 };

struct world {
	struct tarpit t;
	int64_t now_us, free_us[CLIENTS]; /* when a client has its answer */
	double next_us[CLIENTS];	  /* when it wants to send */
	double capacity, credit, paced;	  /* requests served in a second */
	size_t line[CLIENTS], head, held; /* those whose refusal waits */
	uint64_t refused, kept, served;
};

static uint64_t seed = 1;
static double gap_us(double per_s)
{
	seed = seed * 6364136223846793005ull + 1442695040888963407ull;
	return -log(((double)(seed >> 34) + 1) / (1u << 30)) / per_s * 1e6;
}

static struct world *begin(double capacity)
{
	struct world *w = calloc(1, sizeof(*w));
	assert_non_null(w);
	w->capacity = capacity;
	w->now_us = 1000000000;
	return w;
}

static void ask(struct world *w, size_t i)
{
	if (w->credit >= 1) {
		w->credit--;
		w->served++;
		w->free_us[i] = w->now_us + 50000;
		return;
	}
	w->refused++;
	w->free_us[i] = w->now_us + 1000;
	if (!tarpit_holds(&w->t, 7, w->held))
		return;
	w->kept++;
	w->free_us[i] = INT64_MAX;
	w->line[(w->head + w->held++) % CLIENTS] = i;
}

/* Together they would send so many a second. */
static void run(struct world *w, double per_s, int64_t for_us)
{
	w->refused = w->served = w->kept = 0;
	for (size_t i = 0; i < CLIENTS; i++)
		w->next_us[i] = (double)w->now_us + gap_us(per_s / CLIENTS);
	for (int64_t end = w->now_us + for_us; w->now_us < end; w->now_us += TICK_US) {
		w->credit = fmin(w->credit + w->capacity * TICK_US / 1e6, w->capacity / 100);
		for (size_t i = 0; i < CLIENTS; i++) {
			if (w->next_us[i] > (double)w->now_us || w->free_us[i] > w->now_us)
				continue;
			w->next_us[i] = (double)w->now_us + gap_us(per_s / CLIENTS);
			ask(w, i);
		}
		w->paced += tarpit_look(&w->t, INTERVAL_US, w->now_us) * (TICK_US / 1e6);
		for (; w->held && w->paced >= 1; w->held--, w->paced--, w->head = (w->head + 1) % CLIENTS)
			w->free_us[w->line[w->head]] = w->now_us;
		w->paced = w->held ? w->paced : 0;
	}
}

static double share(const struct world *w, int64_t us) { return (double)w->refused * TARPIT_COST_US / (double)us; }

static void little_is_refused_at_once(void **state)
{
	struct world *w = begin(14000);
	(void)state;
	run(w, 14000 + TARPIT_PACE / 2.0, 10 * SECOND_US);
	assert_true(w->refused > 1000);
	assert_in_range(w->kept, 0, w->refused / 20); /* where chance has many come at once */
	free(w);
}

static void much_is_held_back(void **state)
{
	(void)state;
	for (double times = 2; times <= 16; times *= 2) {
		struct world *w = begin(14000);
		run(w, times * 14000, 5 * SECOND_US); /* until it is noticed */
		run(w, times * 14000, 20 * SECOND_US);
		if (share(w, 20 * SECOND_US) > 1.2 * TARPIT_SHARE || (double)w->served < 20 * 14000 * 0.98)
			fail_msg("%g ×: refusals take %.3f, %.0f are served a second", times, share(w, 20 * SECOND_US),
				 (double)w->served / 20);
		free(w);
	}
}

static void it_ends(void **state)
{
	struct world *w = begin(14000);
	(void)state;
	run(w, 70000, 5 * SECOND_US);
	assert_true(w->held > 3000);
	run(w, 10000, 2 * SECOND_US); /* there is time for all: nobody is kept for long */
	assert_int_equal(w->held, 0);
	run(w, 10000, SECOND_US);
	assert_int_equal(w->refused, 0);
	/* after a sleep as well, and when the clock is set back */
	w->now_us += 3600ll * SECOND_US;
	run(w, 70000, 5 * SECOND_US);
	assert_true(w->held > 3000);
	w->now_us -= 3600ll * SECOND_US;
	for (size_t i = 0; i < CLIENTS; i++)
		w->free_us[i] = w->free_us[i] == INT64_MAX ? INT64_MAX : 0;
	run(w, 70000, 5 * SECOND_US);
	assert_true(w->held > 3000 && share(w, 5 * SECOND_US) < 1.2 * TARPIT_SHARE);
	run(w, 10000, 2 * SECOND_US);
	assert_int_equal(w->held, 0);
	free(w);
}

static void who_is_refused_seldom_does_not_wait(void **state)
{
	struct tarpit t = {0};
	unsigned seldom = 0, often = 0;
	(void)state;
	for (int64_t now = 1; now < 10000000; now += 13000) {
		for (int i = 0; i < 2000; i++)
			often += tarpit_holds(&t, 7, often);
		seldom += now / 13000 % 4 == 0 && tarpit_holds(&t, 8, often); /* about twice in an interval */
		(void)tarpit_look(&t, INTERVAL_US, now);
	}
	assert_int_equal(seldom, 0);
	assert_true(often > 500000);
}

/* First come, first served: what is saved up is for those who wait already. */
static void nobody_overtakes(void **state)
{
	struct tarpit t = {0};
	(void)state;
	(void)tarpit_look(&t, INTERVAL_US, 1000000000);
	for (int i = 0; i < TARPIT_FIRST; i++)
		assert_false(tarpit_holds(&t, 7, 1));
	assert_true(tarpit_holds(&t, 7, 1));
	assert_false(tarpit_holds(&t, 7, 0));
	for (int i = 0; i < 2000; i++)
		(void)tarpit_holds(&t, 7, 0);
	assert_true(tarpit_holds(&t, 7, 0));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(little_is_refused_at_once),
		cmocka_unit_test(much_is_held_back),
		cmocka_unit_test(it_ends),
		cmocka_unit_test(who_is_refused_seldom_does_not_wait),
		cmocka_unit_test(nobody_overtakes),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
