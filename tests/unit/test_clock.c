/* Time as text. Broken code this would catch: leap years, month lengths, offsets with the wrong sign, fractions
 * of other than six digits, values beyond the calendar accepted, reads past the end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>
#include <time.h>

#include "clock.h"

static bool parse(const char *s, int64_t *out)
{
	size_t n = strlen(s);
	char *exact = malloc(n ? n : 1);
	memcpy(exact, s, n);
	bool ok = clock_parse(exact, n, out);
	free(exact);
	return ok;
}

static void test_format_like_libc(void **state)
{
	(void)state;
	char text[CLOCK_TEXT + 1] = "", want[64];
	uint64_t x = 1;
	for (int i = 0; i < 100000; i++) {
		x = x * 6364136223846793005u + 1442695040888963407u;
		int64_t us = (int64_t)((x >> 8) % 253402300800000000u), back;
		time_t s = us / 1000000;
		struct tm tm;
		gmtime_r(&s, &tm);
		snprintf(want, sizeof(want), "%04d-%02d-%02dT%02d:%02d:%02d.%06dZ", tm.tm_year + 1900, tm.tm_mon + 1,
			 tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec, (int)(us % 1000000));
		clock_format(us, text);
		assert_string_equal(text, want);
		assert_true(parse(text, &back));
		assert_true(back == us);
	}
	clock_format(-5, text);
	assert_string_equal(text, "1970-01-01T00:00:00.000000Z");
	clock_format(INT64_MAX, text);
	assert_string_equal(text, "9999-12-31T23:59:59.999999Z");
}

static void test_parse_good(void **state)
{
	(void)state;
	/* clang-format off */
	static const struct { const char *s; int64_t us; } good[] = {
		{"1970-01-01T00:00:00Z", 0},
		{"1970-01-01t00:00:00z", 0},
		{"1970-01-01T00:00:00.1Z", 100000},
		{"1970-01-01T00:00:00.123456789Z", 123456},
		{"1970-01-01T02:00:00+02:00", 0},
		{"1969-12-31T22:30:00-01:30", 0},
		{"1970-01-01T00:00:00-00:00", 0},
		{"2024-02-29T12:00:00Z", 1709208000000000},
		{"2000-02-29T00:00:00Z", 951782400000000},
		{"2016-12-31T23:59:60Z", 1483228800000000},
		{"1969-12-31T23:59:59.5Z", -500000},
		{"9999-12-31T23:59:59.999999Z", 253402300799999999},
		{"9999-12-31T23:59:59.999999+00:01", 253402300739999999},
	};
	/* clang-format on */
	for (size_t i = 0; i < ARRAY_LEN(good); i++) {
		int64_t us = -1;
		if (!parse(good[i].s, &us) || us != good[i].us)
			fail_msg("%s: got %lld", good[i].s, (long long)us);
	}
}

static void test_parse_bad(void **state)
{
	(void)state;
	static const char *const bad[] = {"",
					  "2024",
					  "2023-02-29T00:00:00Z",
					  "1900-02-29T00:00:00Z",
					  "2024-04-31T00:00:00Z",
					  "2024-00-01T00:00:00Z",
					  "2024-13-01T00:00:00Z",
					  "2024-01-00T00:00:00Z",
					  "2024-01-01T24:00:00Z",
					  "2024-01-01T00:60:00Z",
					  "2024-01-01T00:00:61Z",
					  "2024-01-01T00:00:00",
					  "2024-01-01 00:00:00Z",
					  "2024-01-01T00:00:00.Z",
					  "2024-01-01T00:00:00.1234567890Z",
					  "2024-01-01T00:00:00+0200",
					  "2024-01-01T00:00:00+24:00",
					  "2024-01-01T00:00:00+02:60",
					  "2024-01-01T00:00:00Zx",
					  "2024-01-01T00:00:00+02:00x",
					  "02024-01-01T00:00:00Z",
					  "24-01-01T00:00:00Z",
					  "2024-1-01T00:00:00Z",
					  " 2024-01-01T00:00:00Z",
					  "2024-01-01T00:00Z",
					  "-024-01-01T00:00:00Z",
					  "9999-12-31T23:59:59-00:01",
					  "9999-12-31T23:59:60Z"}; /* the year 10000 cannot be written */
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		int64_t us;
		if (parse(bad[i], &us))
			fail_msg("accepted: %s", bad[i]);
	}
	/* no prefix of a good one is good, and none is read past its end (sanitizer) */
	static const char whole[] = "2024-01-01T00:00:00.123456+02:00";
	char cut[sizeof(whole)];
	for (size_t n = 0; n < strlen(whole); n++) {
		int64_t us;
		memcpy(cut, whole, n);
		cut[n] = 0;
		assert_false(parse(cut, &us));
	}
}

static void test_now(void **state)
{
	(void)state;
	int64_t a = clock_mono_us(), b = clock_mono_us();
	assert_true(b >= a);
	assert_true(llabs(clock_real_us() / 1000000 - (int64_t)time(NULL)) <= 2);
}

struct bell {
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool rung;
};

static void *ring(void *arg)
{
	struct bell *b = arg;
	pthread_mutex_lock(&b->lock);
	b->rung = true;
	pthread_cond_signal(&b->cond);
	pthread_mutex_unlock(&b->lock);
	return NULL;
}

/* On the monotonic clock: a time on the other one would lie decades ahead of it, and this would hang. */
static void test_wait(void **state)
{
	(void)state;
	struct bell b = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false};
	pthread_t thread;
	pthread_mutex_lock(&b.lock);
	int64_t begun = clock_mono_us(), until = begun + 20000;
	while (clock_wait_until(&b.cond, &b.lock, until))
		;
	assert_true(clock_mono_us() >= until);
	assert_false(clock_wait_until(&b.cond, &b.lock, begun)); /* gone by */
	assert_int_equal(pthread_create(&thread, NULL, ring, &b), 0);
	until = clock_mono_us() + 3600000000;
	while (!b.rung)
		assert_true(clock_wait_until(&b.cond, &b.lock, until));
	pthread_mutex_unlock(&b.lock);
	pthread_join(thread, NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_format_like_libc), cmocka_unit_test(test_parse_good),
					   cmocka_unit_test(test_parse_bad), cmocka_unit_test(test_now),
					   cmocka_unit_test(test_wait)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
