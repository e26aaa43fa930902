/* What systemd's watchdog is fed on: sync and one api worker, with patience for starts. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>

#include "supervisor.h"

#define S INT64_C(1000000)
#define READY_S 30
#define LONG (READY_S + 16) /* seconds: longer than any start may take */

static struct supervisor sv;

static void put(unsigned slot, enum child_state state, int64_t unready_s)
{
	sv.child[slot].state = state;
	sv.child[slot].unready_us = unready_s * S;
}

static int configure(void **state)
{
	static const char *const sets[] = {"daemon.ready_timeout=30 s"};
	struct conf_input in = {.file = "/dev/null", .sets = sets, .nsets = 1};
	char *error = NULL;
	(void)state;
	sv.conf = conf_load(&in, &error);
	return sv.conf ? 0 : -1;
}

static int set_up(void **state)
{
	(void)state;
	for (unsigned i = 0; i < SLOT_API0 + 2; i++) {
		sv.child[i] = (struct child){.slot = i, .used = true};
		put(i, CHILD_READY, 0);
	}
	return 0;
}

static void test_all_serve(void **state)
{
	(void)state;
	assert_true(supervisor_healthy(&sv, 1000 * S)); /* READY counts, not how long ago it was not */
}

static void test_sync_is_needed(void **state)
{
	(void)state;
	put(SLOT_SYNC, CHILD_STARTING, 100);
	assert_true(supervisor_healthy(&sv, 100 * S));
	assert_true(supervisor_healthy(&sv, (100 + READY_S) * S));
	assert_false(supervisor_healthy(&sv, (100 + LONG) * S));
	put(SLOT_SYNC, CHILD_CRASHED, 100);
	assert_false(supervisor_healthy(&sv, (100 + LONG) * S));
	put(SLOT_SYNC, CHILD_BACKING_OFF, 100);
	assert_false(supervisor_healthy(&sv, (100 + LONG) * S));
	put(SLOT_SYNC, CHILD_STARTING, 100 + LONG); /* it reported progress: a long replay */
	assert_true(supervisor_healthy(&sv, (100 + LONG) * S));
}

static void test_one_api_is_enough(void **state)
{
	(void)state;
	put(SLOT_API0, CHILD_BACKING_OFF, 100);
	assert_true(supervisor_healthy(&sv, (100 + LONG) * S));
	put(SLOT_API0 + 1, CHILD_BACKING_OFF, 100 + LONG);
	assert_true(supervisor_healthy(&sv, (100 + LONG) * S));
	assert_false(supervisor_healthy(&sv, (100 + 2 * LONG) * S));
	put(SLOT_WARMER, CHILD_READY, 0);
	assert_false(supervisor_healthy(&sv, (100 + 2 * LONG) * S));
}

static void test_others_do_not_matter(void **state)
{
	(void)state;
	put(SLOT_WARMER, CHILD_CRASHED, 0);
	put(SLOT_PINGER, CHILD_CRASHED, 0);
	assert_true(supervisor_healthy(&sv, 1000 * S));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(test_all_serve, set_up),
		cmocka_unit_test_setup(test_sync_is_needed, set_up),
		cmocka_unit_test_setup(test_one_api_is_enough, set_up),
		cmocka_unit_test_setup(test_others_do_not_matter, set_up),
	};
	return cmocka_run_group_tests(tests, configure, NULL);
}
