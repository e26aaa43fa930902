/* For how long refusals are held back, with clients in virtual time that do not heed Retry-After: each sends when it likes, but not
 * before its last request was answered. Broken code this would catch: refusals that take more of the loop's time than they may, or
 * holds where refusing takes little; a hold that swings between nothing and all, because what it does shows late; one that
 * stays when all is over; who is refused once in a while, and waits for it. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "api/tarpit.c"

enum { CLIENTS = 8000, MOST_US = 1000000, INTERVAL_US = 100000, TICK_US = 1000 };

struct world {
	struct tarpit t;
	int64_t now_us, free_us[CLIENTS]; /* when a client has its answer */
	double next_us[CLIENTS];	  /* when it wants to send */
	double capacity;		  /* requests served in a second */
	uint64_t refused, served, looks;
	double credit, hold_sum;
};

static uint64_t seed = 1;
static double gap_us(double per_s)
{
	seed = seed * 6364136223846793005ull + 1442695040888963407ull;
	return -log(((double)(seed >> 34) + 1) / (1u << 30)) / per_s * 1e6;
}

static void begin(struct world *w, double capacity) { *w = (struct world){.capacity = capacity, .now_us = 1000000000}; }

/* Together they would send so many a second. */
static void run(struct world *w, double per_s, int64_t for_us)
{
	w->refused = w->served = w->looks = 0;
	w->hold_sum = 0;
	for (size_t i = 0; i < CLIENTS; i++)
		w->next_us[i] = (double)w->now_us + gap_us(per_s / CLIENTS);
	for (int64_t end = w->now_us + for_us; w->now_us < end; w->now_us += TICK_US) {
		w->credit = fmin(w->credit + w->capacity * TICK_US / 1e6, w->capacity / 100);
		for (size_t i = 0; i < CLIENTS; i++) {
			if (w->next_us[i] > (double)w->now_us || w->free_us[i] > w->now_us)
				continue;
			w->next_us[i] = (double)w->now_us + gap_us(per_s / CLIENTS);
			if (w->credit >= 1) {
				w->credit--;
				w->served++;
				w->free_us[i] = w->now_us + 50000;
			} else {
				w->refused++;
				w->free_us[i] = w->now_us + 1000 + tarpit_hold(&w->t, 7);
			}
		}
		tarpit_look(&w->t, MOST_US, INTERVAL_US, w->now_us);
		w->looks++;
		w->hold_sum += (double)w->t.hold_us;
	}
}

static double share(const struct world *w, int64_t us) { return (double)w->refused * TARPIT_COST_US / (double)us; }

static void little_is_refused_at_once(void **state)
{
	struct world *w = malloc(sizeof(*w));
	(void)state;
	begin(w, 14000);
	run(w, 28000, 10000000);
	assert_true(w->refused > 100000);
	assert_int_equal((int64_t)w->hold_sum, 0);
	free(w);
}

static void much_is_held_back(void **state)
{
	struct world *w = malloc(sizeof(*w));
	(void)state;
	begin(w, 14000);
	run(w, 70000, 3000000); /* until it is noticed */
	run(w, 70000, 20000000);
	if (share(w, 20000000) > TARPIT_MUCH + 0.05 || w->hold_sum / (double)w->looks < 100000)
		fail_msg("refusals take %.2f, holds %.0f µs", share(w, 20000000), w->hold_sum / (double)w->looks);
	assert_true(w->served > 20 * 14000 * 0.95); /* and all that can be served is */
	run(w, 28000, 15000000);		    /* it is let go as it is no longer needed */
	run(w, 28000, 5000000);
	if (w->hold_sum / (double)w->looks > 20000)
		fail_msg("holds %.0f µs still", w->hold_sum / (double)w->looks);
	free(w);
}

static void it_ends(void **state)
{
	struct world *w = malloc(sizeof(*w));
	(void)state;
	begin(w, 14000);
	run(w, 70000, 5000000);
	int64_t held = w->t.hold_us;
	assert_true(held > 100000);
	run(w, 1000, 2 * held + 2 * INTERVAL_US);
	assert_int_equal(w->refused, 0);
	assert_int_equal(w->t.hold_us, 0);
	/* after a sleep as well, and when the clock is set back */
	run(w, 70000, 5000000);
	assert_true(w->t.hold_us > 100000);
	w->now_us += 3600000000;
	tarpit_look(&w->t, MOST_US, INTERVAL_US, w->now_us);
	assert_true(w->t.hold_us <= MOST_US);
	tarpit_look(&w->t, MOST_US, INTERVAL_US, w->now_us + 3600000000);
	assert_int_equal(w->t.hold_us, 0);
	tarpit_look(&w->t, MOST_US, INTERVAL_US, 1000);
	run(w, 70000, 5000000);
	assert_true(w->t.hold_us > 100000);
	free(w);
}

static void never_for_longer(void **state)
{
	struct tarpit t = {0};
	(void)state;
	for (int64_t now = 1; now < 60000000; now += 13000) {
		for (int i = 0; i < 10000; i++)
			assert_in_range(tarpit_hold(&t, 7), 0, MOST_US);
		tarpit_look(&t, MOST_US, INTERVAL_US, now);
	}
	assert_int_equal(t.hold_us, MOST_US);
	tarpit_look(&t, 0, INTERVAL_US, 61000000); /* overload.hold was set to 0 */
	assert_int_equal(tarpit_hold(&t, 7), 0);
	for (int i = 0; i < 10000; i++)
		assert_int_equal(tarpit_hold(&t, 7), 0);
}

static void who_is_refused_seldom_does_not_wait(void **state)
{
	struct tarpit t = {0};
	unsigned seldom = 0, often = 0;
	(void)state;
	for (int64_t now = 1; now < 10000000; now += 13000) {
		for (int i = 0; i < 1000; i++)
			often += tarpit_hold(&t, 7) > 0;
		seldom += now / 13000 % 4 == 0 && tarpit_hold(&t, 8) > 0; /* about twice in an interval */
		tarpit_look(&t, MOST_US, INTERVAL_US, now);
	}
	assert_int_equal(seldom, 0);
	assert_true(often > 500000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(little_is_refused_at_once),
		cmocka_unit_test(much_is_held_back),
		cmocka_unit_test(it_ends),
		cmocka_unit_test(never_for_longer),
		cmocka_unit_test(who_is_refused_seldom_does_not_wait),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
