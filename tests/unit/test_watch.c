/* What is said about a Redis. Broken code this would catch: a good server complained about, a bad one not; a restart taken for evictions. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>

#include "sync/watch.c"

#define MINUTE 60000000ll
#define HOUR (60 * MINUTE)

static struct l2_info server(uint64_t maxmemory, const char *policy)
{
	struct l2_info i = {.maxmemory = maxmemory, .masters = 1, .keys = 6000};
	snprintf(i.policy, sizeof(i.policy), "%s", policy);
	return i;
}

static void settings(void **state)
{
	static const char *const good[] = {"allkeys-lfu", "allkeys-lru", "volatile-lfu", "volatile-lru"},
				 *const bad[] = {"noeviction", "allkeys-random", "volatile-random", "volatile-ttl"};
	char text[WATCH_TEXT];
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(good); i++) {
		struct l2_info s = server(1u << 30, good[i]), unbounded = server(0, good[i]);
		assert_false(watch_settings(&s, text));
		assert_true(watch_settings(&unbounded, text));
		assert_non_null(strstr(text, "Set maxmemory"));
	}
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct l2_info s = server(1u << 30, bad[i]);
		assert_true(watch_settings(&s, text));
		assert_non_null(strstr(text, bad[i]));
		assert_non_null(strstr(text, "set maxmemory-policy allkeys-lfu"));
	}
	struct l2_info silent = server(0, "");
	assert_false(watch_settings(&silent, text));
}

static void evictions(void **state)
{
	char text[WATCH_TEXT];
	struct l2_info then = server(1u << 30, "allkeys-lfu"), now = then;
	(void)state;
	assert_false(watch_evictions(&then, &now, MINUTE, HOUR, text));
	now.evicted_keys = 400; /* of 6,000 in a minute: each stays for a quarter of an hour */
	assert_false(watch_evictions(&then, &now, MINUTE, HOUR, text));
	now.evicted_keys = 401;
	assert_true(watch_evictions(&then, &now, MINUTE, HOUR, text));
	assert_non_null(strstr(text, "evicted 401 keys within 60 s and holds 6000"));
	assert_false(watch_evictions(&then, &now, 2 * MINUTE, HOUR, text));
	assert_false(watch_evictions(&then, &now, MINUTE, MINUTE, text)); /* they were to stay for a minute only */
	assert_false(watch_evictions(&now, &then, MINUTE, HOUR, text));	  /* it was started anew */
	now.masters = 2;						  /* one that did not answer before */
	assert_false(watch_evictions(&then, &now, MINUTE, HOUR, text));
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(settings), cmocka_unit_test(evictions)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
