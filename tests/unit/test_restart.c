/* The restart policy: who is started again, and when. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "restart.h"
#include "vocabulary.h"

#define EXITED(code) ((code) << 8)
#define KILLED(sig) (sig)
#define SECOND 1000000

static struct restart_plan die(struct restart_history *h, int status, bool ready, int64_t served)
{
	struct restart_death d = {.status = status, .ready = ready, .served_us = served};
	return restart_decide(h, &d, UINT32_MAX);
}

static void killed_from_outside_restarts_at_once_however_often(void **state)
{
	(void)state;
	struct restart_history h = {0};
	for (int i = 0; i < 50; i++) {
		assert_int_equal(die(&h, KILLED(SIGKILL), true, 1000).verdict, RESTART_NOW);
		assert_int_equal(die(&h, KILLED(SIGTERM), true, 1000).verdict, RESTART_NOW);
	}
	assert_int_equal(h.faults, 0);
}

static void death_before_ready_backs_off_exponentially(void **state)
{
	(void)state;
	static const int64_t want[] = {100000, 200000, 400000, 800000, 1600000, 3200000, 6400000, 10000000, 10000000};
	struct restart_history h = {0};
	for (size_t i = 0; i < ARRAY_LEN(want); i++) {
		struct restart_plan p = die(&h, i % 2 ? EXITED(1) : KILLED(SIGKILL), false, 0);
		assert_int_equal(p.verdict, RESTART_LATER);
		assert_int_equal(p.delay_us, want[i]);
	}
	h.faults = 4000000000u; /* a shift by that would be undefined */
	assert_int_equal(die(&h, EXITED(1), false, 0).delay_us, RESTART_MAX_US);
}

static void jitter_stays_in_the_upper_half(void **state)
{
	(void)state;
	struct restart_death d = {.status = EXITED(1)};
	for (uint64_t r = 0; r <= UINT32_MAX; r += UINT32_MAX / 16) {
		struct restart_history h = {.faults = 3};
		struct restart_plan p = restart_decide(&h, &d, (uint32_t)r);
		assert_in_range(p.delay_us, 400000, 800000);
	}
	struct restart_history a = {.faults = 3}, b = {.faults = 3};
	assert_int_not_equal(restart_decide(&a, &d, 0).delay_us, restart_decide(&b, &d, UINT32_MAX).delay_us);
}

static void first_crash_is_forgiven_the_second_is_not(void **state)
{
	(void)state;
	struct restart_history h = {0};
	assert_int_equal(die(&h, KILLED(SIGSEGV), true, SECOND).verdict, RESTART_NOW);
	assert_int_equal(die(&h, KILLED(SIGSEGV), true, SECOND).verdict, RESTART_LATER);
	/* … until it has served for long enough. */
	assert_int_equal(die(&h, KILLED(SIGABRT), true, RESTART_PROVEN_US).verdict, RESTART_NOW);
	assert_int_equal(die(&h, KILLED(SIGABRT), true, RESTART_PROVEN_US - 1).verdict, RESTART_LATER);
}

static void failing_while_serving_backs_off_and_service_resets_it(void **state)
{
	(void)state;
	struct restart_history h = {0};
	assert_int_equal(die(&h, EXITED(1), true, SECOND).delay_us, 100000);
	assert_int_equal(die(&h, EXITED(1), true, SECOND).delay_us, 200000);
	assert_int_equal(die(&h, EXITED(1), true, RESTART_PROVEN_US).delay_us, 100000);
	/* Leaving with 0 without being told is a fault too. */
	assert_int_equal(die(&h, EXITED(0), true, SECOND).verdict, RESTART_LATER);
}

static void an_outside_kill_does_not_hide_faults(void **state)
{
	(void)state;
	struct restart_history h = {0};
	(void)die(&h, EXITED(1), false, 0);
	(void)die(&h, EXITED(1), false, 0);
	assert_int_equal(die(&h, KILLED(SIGKILL), true, SECOND).verdict, RESTART_NOW);
	assert_int_equal(die(&h, EXITED(1), false, 0).delay_us, 400000);
}

static void fatal_is_never_tried_again(void **state)
{
	(void)state;
	struct restart_history h = {0};
	assert_int_equal(die(&h, EXITED(WORKER_EXIT_FATAL), false, 0).verdict, RESTART_GIVE_UP);
	assert_int_equal(die(&h, EXITED(WORKER_EXIT_FATAL), true, 100 * SECOND).verdict, RESTART_GIVE_UP);
}

static void who_was_told_to_leave_stays_away(void **state)
{
	(void)state;
	static const int how[] = {EXITED(0), EXITED(1), EXITED(WORKER_EXIT_FATAL), KILLED(SIGKILL), KILLED(SIGSEGV)};
	for (size_t i = 0; i < ARRAY_LEN(how); i++) {
		struct restart_history h = {0};
		struct restart_death d = {.status = how[i], .ready = true, .asked = true};
		assert_int_equal(restart_decide(&h, &d, 1).verdict, RESTART_STOPPED);
		assert_int_equal(h.faults, 0);
	}
}

static void reasons_are_named(void **state)
{
	(void)state;
	char out[64];
	assert_string_equal(restart_describe(KILLED(SIGSEGV), out, sizeof(out)), "killed by SIGSEGV");
	assert_string_equal(restart_describe(EXITED(1), out, sizeof(out)), "exit 1");
	assert_string_equal(restart_describe(EXITED(78), out, sizeof(out)), "exit 78 (useless to try again)");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(killed_from_outside_restarts_at_once_however_often),
		cmocka_unit_test(death_before_ready_backs_off_exponentially),
		cmocka_unit_test(jitter_stays_in_the_upper_half),
		cmocka_unit_test(first_crash_is_forgiven_the_second_is_not),
		cmocka_unit_test(failing_while_serving_backs_off_and_service_resets_it),
		cmocka_unit_test(an_outside_kill_does_not_hide_faults),
		cmocka_unit_test(fatal_is_never_tried_again),
		cmocka_unit_test(who_was_told_to_leave_stays_away),
		cmocka_unit_test(reasons_are_named),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
