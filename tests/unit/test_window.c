/* Time zones and schedules. Broken code this would catch: the hour that spring skips or autumn repeats taken for one that
 * is there once, a rule at the end of a file read the wrong way round, the southern summer, windows over midnight, a
 * search for the next opening that misses it or never ends; and a damaged file that is read beyond its end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <math.h>
#include <stdlib.h>
#include <unistd.h>
#include <cmocka.h>

#include "clock.h"
#include "pinger/window.h"

static int64_t at(const char *text)
{
	int64_t us = 0;
	assert_true(clock_parse(text, strlen(text), &us));
	return us / 1000000;
}

/* A file of tzdata's form that has one change, and a rule behind it. */
static struct zone *ruled(const char *rule)
{
	unsigned char head[44] = {'T', 'Z', 'i', 'f', '2'};
	struct buf b = {0};
	head[39] = 1, head[43] = 4; /* one type, one name */
	buf_add(&b, head, sizeof(head));
	buf_add(&b, "\0\0\0\0\0\0LMT", 10);
	head[35] = 1;
	buf_add(&b, head, sizeof(head));
	buf_add(&b, "\0\0\0\0\0\0\0\1\0", 9); /* at second 1, type 0 */
	buf_add(&b, "\0\0\0\0\0\0LMT", 10);
	buf_printf(&b, "\n%s\n", rule);
	struct zone *z = zone_parse((struct span){b.p, b.len});
	for (size_t n = 0; z && n < b.len; n++) { /* cut anywhere it is none, or at least does no harm */
		char *part = util_alloc(n + !n);
		memcpy(part, b.p, n);
		struct zone *cut = zone_parse((struct span){part, n});
		assert_true(!cut || n >= b.len - 1);
		zone_free(&cut);
		free(part);
	}
	buf_free(&b);
	return z;
}

static void expect_offset(const struct zone *z, const char *when, int32_t hours_in_s, const char *until)
{
	int64_t end;
	int32_t offset = zone_offset(z, at(when), &end);
	if (offset != hours_in_s || (until && end != at(until)))
		fail_msg("%s: offset %d until %lld, expected %d until %s", when, offset, (long long)end, hours_in_s,
			 until ? until : "?");
}

static void test_rules(void **state)
{
	(void)state;
	struct zone *z = ruled("CET-1CEST,M3.5.0,M10.5.0/3");
	assert_non_null(z);
	expect_offset(z, "2026-03-29T00:59:59Z", 3600, "2026-03-29T01:00:00Z");
	expect_offset(z, "2026-03-29T01:00:00Z", 7200, "2026-10-25T01:00:00Z");
	expect_offset(z, "2026-10-25T01:00:00Z", 3600, "2027-03-28T01:00:00Z");
	expect_offset(z, "2099-12-31T23:59:59Z", 3600, NULL);
	zone_free(&z);
	z = ruled("AEST-10AEDT,M10.1.0,M4.1.0/3"); /* the southern summer goes over the end of the year */
	expect_offset(z, "2026-01-01T00:00:00Z", 39600, "2026-04-04T16:00:00Z");
	expect_offset(z, "2026-07-01T00:00:00Z", 36000, "2026-10-03T16:00:00Z");
	zone_free(&z);
	z = ruled("EST5EDT,M3.2.0,M11.1.0");
	expect_offset(z, "2026-07-01T00:00:00Z", -14400, "2026-11-01T06:00:00Z");
	zone_free(&z);
	z = ruled("<+0330>-3:30<+0430>,J79/24,J263/24"); /* days by number, behind midnight */
	expect_offset(z, "2026-03-20T20:29:59Z", 12600, "2026-03-20T20:30:00Z");
	expect_offset(z, "2026-03-20T20:30:00Z", 16200, NULL);
	zone_free(&z);
	z = ruled("IST-5:30");
	expect_offset(z, "2026-07-01T00:00:00Z", 19800, NULL);
	zone_free(&z);
	static const char *const bad[] = {"X",
					  "CET",
					  "CET-1CEST",
					  "CET-1CEST,M13.1.0,M1.1.0",
					  "CET-1CEST,M3.5.7,M1.1.0",
					  "CET-1CEST,M3.5.0",
					  "CET-1CEST,M3.5.0,M10.5.0x",
					  "CET-999"};
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		z = ruled(bad[i]);
		assert_null(z);
	}
}

static void test_files(void **state)
{
	(void)state;
	char *error;
	struct zone *z = zone_open(ZONE_FOLDER, "UTC", &error);
	assert_non_null(z);
	expect_offset(z, "2026-07-01T00:00:00Z", 0, NULL);
	zone_free(&z);
	static const char *const bad[] = {"", "../../etc/passwd", "/etc/localtime", "Europe/Nowhere", "a b", "Europe"};
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		assert_null(zone_open(ZONE_FOLDER, bad[i], &error));
		assert_non_null(error);
		free(error);
	}
	assert_null(zone_open("/nonexistent", "Europe/Berlin", &error));
	assert_non_null(strstr(error, "install tzdata"));
	free(error);
	if (access(ZONE_FOLDER "/Europe/Berlin", R_OK) == -1)
		return; /* a machine without tzdata: the daemon says so */
	z = zone_open(ZONE_FOLDER, "Europe/Berlin", &error);
	assert_non_null(z);
	expect_offset(z, "1990-07-01T00:00:00Z", 7200, "1990-09-30T01:00:00Z"); /* out of the table */
	expect_offset(z, "2026-07-01T00:00:00Z", 7200, "2026-10-25T01:00:00Z");
	expect_offset(z, "2060-07-01T00:00:00Z", 7200, "2060-10-31T01:00:00Z"); /* by its rule */
	zone_free(&z);
	z = zone_open(ZONE_FOLDER, "Asia/Kolkata", &error);
	expect_offset(z, "2026-07-01T00:00:00Z", 19800, NULL);
	zone_free(&z);
}

static struct window make(const char *days, const char *from, const char *to)
{
	struct window w;
	assert_true(window_days(days, &w.days) && window_time(from, &w.from_s) && window_time(to, &w.to_s));
	return w;
}

static void test_words(void **state)
{
	(void)state;
	uint8_t days;
	int32_t s;
	assert_true(window_days("mon-fri", &days) && days == 0x1f);
	assert_true(window_days("sat,sun", &days) && days == 0x60);
	assert_true(window_days("fri-mon,wed", &days) && days == 0x75);
	assert_true(window_days("daily", &days) && days == 0x7f);
	static const char *const bad[] = {"", "mo", "monday", "mon-", "-fri", "mon,,tue", "mon-fri-sun", "Mon"};
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_false(window_days(bad[i], &days));
	assert_true(window_time("24:00", &s) && s == 86400);
	assert_true(window_time("07:05", &s) && s == 25500);
	static const char *const no[] = {"7:00", "24:01", "07:60", "0700", "07:0a", "::::::", "-1:00", ":0:00"};
	for (size_t i = 0; i < ARRAY_LEN(no); i++)
		assert_false(window_time(no[i], &s));
}

/* Against a look at every minute of two weeks around both changes. */
static void compare(const struct window *w, size_t n, const struct zone *z, const char *from)
{
	int64_t begin = at(from), end = begin + 14 * 86400, next = INT64_MAX;
	for (int64_t t = end; t >= begin; t -= 60) {
		if (window_open(w, n, z, t))
			next = t;
		int64_t found = window_next(w, n, z, t);
		if (next != INT64_MAX ? found != next : found < end)
			fail_msg("next opening after %lld is %lld, found %lld", (long long)t, (long long)next,
				 (long long)found);
	}
}

static void test_daylight_saving(void **state)
{
	(void)state;
	struct zone *z = ruled("CET-1CEST,M3.5.0,M10.5.0/3");
	struct window day = make("mon-fri", "07:00", "20:00");
	assert_true(window_open(&day, 1, z, at("2026-03-27T06:00:00Z"))); /* Friday, winter */
	assert_false(window_open(&day, 1, z, at("2026-03-27T05:59:59Z")));
	assert_true(window_open(&day, 1, z, at("2026-03-30T05:00:00Z")));  /* Monday, summer */
	assert_false(window_open(&day, 1, z, at("2026-03-30T18:00:00Z"))); /* 20:00 is not in it any more */
	assert_int_equal(window_next(&day, 1, z, at("2026-03-27T19:00:00Z")), at("2026-03-30T05:00:00Z"));
	/* An hour that is skipped: what begins in it begins behind it; what lies in it is not there that day. */
	struct window skipped = make("daily", "02:30", "04:00"), inside = make("daily", "02:00", "03:00");
	assert_int_equal(window_next(&skipped, 1, z, at("2026-03-29T00:30:00Z")), at("2026-03-29T01:00:00Z"));
	assert_int_equal(window_next(&inside, 1, z, at("2026-03-29T00:00:00Z")), at("2026-03-30T00:00:00Z"));
	/* One that is repeated: open both times. */
	assert_true(window_open(&inside, 1, z, at("2026-10-25T00:30:00Z")));
	assert_true(window_open(&inside, 1, z, at("2026-10-25T01:30:00Z")));
	assert_false(window_open(&inside, 1, z, at("2026-10-25T02:00:00Z")));
	struct window night = make("fri", "22:00", "06:00"), all[] = {day, skipped, night};
	assert_true(window_open(&night, 1, z, at("2026-07-04T03:59:00Z"))); /* Saturday morning is Friday's night */
	assert_false(window_open(&night, 1, z, at("2026-07-04T20:30:00Z")));
	for (size_t n = 1; n <= 3; n++) {
		compare(all, n, z, "2026-03-22T00:00:00Z");
		compare(all + 3 - n, n, z, "2026-10-18T00:00:00Z");
	}
	compare(&inside, 1, z, "2026-03-22T00:00:00Z");
	compare(&inside, 1, z, "2026-10-18T00:00:00Z");
	zone_free(&z);
}

static void test_share(void **state)
{
	(void)state;
	struct window w[] = {make("mon-fri", "00:00", "24:00"), make("sat,sun", "12:00", "00:00")};
	assert_true(window_open(NULL, 0, NULL, 0) && window_next(NULL, 0, NULL, 7) == 7);
	assert_true(fabs(window_share(NULL, 0) - (1)) < 1e-9);
	assert_true(fabs(window_share(w, 1) - (5 / 7.0)) < 1e-9);
	assert_true(fabs(window_share(w, 2) - (6 / 7.0)) < 1e-9);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rules), cmocka_unit_test(test_files),	      cmocka_unit_test(test_words),
		cmocka_unit_test(test_share), cmocka_unit_test(test_daylight_saving),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
