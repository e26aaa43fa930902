/* How much the flusher takes at once, whom it suspects, and how old what waits is. Broken code this would catch: a culprit that
 * is not found, or the wrong one; a search that takes a step for every operation; a batch that grows without bound or never shrinks
 * when the store is slow; retries that come at once or never; an age that forgets the oldest. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "sync/age.c"
#include "sync/pace.c"

/* A store that rejects operation `bad` of n. How many attempts it took to find it; what is stored before is stored. */
static unsigned search(uint64_t n, uint64_t bad, struct pace *p)
{
	uint64_t at = 0;
	unsigned tries = 0;
	bool alone = pace_rejected(p, n); /* the batch that had it all */
	while (!alone) {
		uint64_t take = pace_batch(p, n, n);
		tries++;
		assert_true(take > 0 && at + take <= n);
		if (at + take > bad) {
			alone = pace_rejected(p, take);
			assert_true(!alone || at == bad);
		} else {
			pace_stored(p, take, 1000);
			at += take;
		}
	}
	assert_true(at == bad);
	return tries;
}

static void the_culprit_is_found(void **state)
{
	(void)state;
	for (uint64_t n = 1; n <= 70; n++)
		for (uint64_t bad = 0; bad < n; bad++) {
			struct pace p = {0};
			assert_true(search(n, bad, &p) <= 13);
		}
	for (uint64_t bad = 0; bad < 4000; bad += 371) {
		struct pace p = {0};
		assert_true(search(4000, bad, &p) <= 24);
		pace_settled(&p);
		assert_true(p.careful && pace_batch(&p, 500, 100000) == PACE_CAREFUL);
	}
}

/* What was rejected is accepted when tried again: nobody is suspected for ever. */
static void a_change_of_mind(void **state)
{
	(void)state;
	struct pace p = {0};
	uint64_t left = 100;
	assert_false(pace_rejected(&p, left));
	for (int i = 0; p.suspect && i < 100; i++) {
		uint64_t take = pace_batch(&p, 500, 1000);
		pace_stored(&p, take, 10);
		left -= take;
	}
	assert_true(!p.suspect && left == 0);
}

/* A store that takes `us` for each operation and `fixed` for each batch. */
static uint64_t steady(struct pace *p, uint64_t backlog, int64_t us, int64_t fixed)
{
	uint64_t n = 0;
	for (int i = 0; i < 50; i++) {
		n = pace_batch(p, 500, backlog);
		pace_stored(p, n, fixed + (int64_t)n * us);
	}
	return n;
}

static void batches_take_a_tenth_of_a_second(void **state)
{
	(void)state;
	struct pace p = {0};
	assert_int_equal(pace_batch(&p, 500, 1), 500);
	assert_int_equal(steady(&p, 100000, 10, 0), 4000); /* quick: eight times batch_max under backlog … */
	assert_int_equal(pace_batch(&p, 500, 900), 500);   /* … and only then */
	uint64_t n = steady(&p, 100000, 100, 0);
	assert_in_range(n, 990, 1010);
	n = steady(&p, 100000, 1000, 0);
	assert_in_range(n, 95, 105);
	assert_int_equal(steady(&p, 100000, 1000000, 0), PACE_MIN); /* hardly moves */
	n = steady(&p, 100000, 50, 20000);
	assert_in_range(n, 1500, 1700); /* and is quick again */
	pace_stored(&p, n, 10000000);	/* one hiccup halves it, no more */
	assert_in_range(pace_batch(&p, 500, 100000), n / 2 - 1, n / 2 + 1);
	for (int i = 0; i < 100; i++) /* single writes now and then leave it as it is */
		pace_stored(&p, 1, 5000);
	assert_in_range(pace_batch(&p, 500, 100000), n / 2 - 1, n / 2 + 1);
}

static void care_ends(void **state)
{
	(void)state;
	struct pace p = {0};
	assert_true(pace_rejected(&p, 1));
	pace_settled(&p);
	int batches = 0;
	for (; p.careful && batches < 50; batches++)
		pace_stored(&p, pace_batch(&p, 500, 100000), 1000);
	assert_in_range(batches, 3, 10);
	assert_false(p.suspect);
}

static void retries(void **state)
{
	(void)state;
	struct pace p = {0};
	static const int64_t bound[] = {100000, 200000, 400000, 800000, 1600000, 3000000, 3000000};
	for (size_t i = 0; i < ARRAY_LEN(bound); i++) {
		struct pace same = p;
		assert_true(pace_failed(&p, (uint64_t)bound[i]) == bound[i]);	 /* up to there … */
		assert_int_equal(pace_failed(&same, (uint64_t)bound[i] + 1), 0); /* … and from 0 on */
	}
	for (int i = 0; i < 1000; i++)
		assert_in_range(pace_failed(&p, (uint64_t)i * 0x9e3779b97f4a7c15ull), 0, 3000000);
	pace_stored(&p, 1, 1);
	assert_int_equal(pace_failed(&p, 100000), 100000);
}

static void ask_again_later(void **state)
{
	(void)state;
	assert_int_equal(pace_retry_after(0, 100), 1);
	assert_int_equal(pace_retry_after(1000, 100), 10);
	assert_int_equal(pace_retry_after(1001, 100), 11);
	assert_int_equal(pace_retry_after(1000000, 100), 60);
	assert_int_equal(pace_retry_after(1, 0), 60);
}

/* ---- age ---- */

static void the_oldest(void **state)
{
	(void)state;
	struct age a = {0};
	assert_int_equal(age_since(&a), 0);
	age_add(&a, 10, 1000000);
	age_add(&a, 20, 2000000);
	age_add(&a, 20, 3000000); /* nothing that is newer */
	assert_int_equal(age_since(&a), 1000000);
	age_done(&a, 9);
	assert_int_equal(age_since(&a), 1000000);
	age_done(&a, 10);
	assert_int_equal(age_since(&a), 2000000);
	age_done(&a, 25);
	assert_int_equal(age_since(&a), 0);
	age_add(&a, 30, 4000000);
	assert_int_equal(age_since(&a), 4000000);
}

/* A million records over hours: never younger than the truth, and not much older. */
static void many_marks(void **state)
{
	(void)state;
	struct age a = {0};
	int64_t now = 1;
	uint64_t done = 0;
	for (uint64_t seq = 1; seq <= 1000000; seq++, now += 20000) {
		age_add(&a, seq, now);
		if (seq % 1000 == 0)
			age_done(&a, done = seq / 2);
		if (seq > done && done && seq % 997 == 0) {
			int64_t truth = 1 + (int64_t)done * 20000, told = age_since(&a);
			assert_true(told <= truth);
			assert_true(truth - told <= 2 * a.grain_us);
		}
	}
	assert_true(a.n <= AGE_MARKS && a.grain_us < (now / AGE_MARKS) * 4);
	age_done(&a, 1000000);
	age_add(&a, 1000001, now);
	assert_int_equal(a.grain_us, AGE_GRAIN_US);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(the_culprit_is_found),
					   cmocka_unit_test(a_change_of_mind),
					   cmocka_unit_test(batches_take_a_tenth_of_a_second),
					   cmocka_unit_test(care_ends),
					   cmocka_unit_test(retries),
					   cmocka_unit_test(ask_again_later),
					   cmocka_unit_test(the_oldest),
					   cmocka_unit_test(many_marks)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
