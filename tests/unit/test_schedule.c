/* warmer.at: the next moment of a list of times. Broken code this would catch: a time that has just come and comes again at
 * once; the last time of a day that is not followed by the first of the next; a day that is not 24 hours long. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>
#include <cmocka.h>

#include "warmer/schedule.c"

static int64_t at(const char *zone, int year, int month, int day, int hour, int minute, int second)
{
	struct tm tm = {.tm_year = year - 1900,
			.tm_mon = month - 1,
			.tm_mday = day,
			.tm_hour = hour,
			.tm_min = minute,
			.tm_sec = second,
			.tm_isdst = -1};
	setenv("TZ", zone, 1);
	tzset();
	return (int64_t)mktime(&tm) * 1000000;
}

static void none(void **state)
{
	(void)state;
	assert_int_equal(schedule_next("[]", at("UTC", 2026, 1, 1, 0, 0, 0)), 0);
}

static void the_nearest_of_all(void **state)
{
	static const char list[] = "[\"18:00\",\"06:30\"]";
	(void)state;
	assert_int_equal(schedule_next(list, at("UTC", 2026, 1, 1, 0, 0, 0)), at("UTC", 2026, 1, 1, 6, 30, 0));
	assert_int_equal(schedule_next(list, at("UTC", 2026, 1, 1, 6, 29, 59)), at("UTC", 2026, 1, 1, 6, 30, 0));
	assert_int_equal(schedule_next(list, at("UTC", 2026, 1, 1, 6, 30, 0)), at("UTC", 2026, 1, 1, 18, 0, 0));
	assert_int_equal(schedule_next(list, at("UTC", 2026, 12, 31, 18, 0, 1)), at("UTC", 2027, 1, 1, 6, 30, 0));
}

/* Clocks go forward in the night to the 29th of March 2026, and back in that to the 25th of October. */
static void days_of_23_and_25_hours(void **state)
{
	static const char zone[] = "CET-1CEST,M3.5.0,M10.5.0/3";
	(void)state;
	int64_t from = at(zone, 2026, 3, 28, 6, 0, 0), next = schedule_next("[\"06:00\"]", from);
	assert_int_equal(next - from, 23 * 3600 * 1000000ll);
	from = at(zone, 2026, 10, 24, 6, 0, 0);
	assert_int_equal(schedule_next("[\"06:00\"]", from) - from, 25 * 3600 * 1000000ll);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(none),
		cmocka_unit_test(the_nearest_of_all),
		cmocka_unit_test(days_of_23_and_25_hours),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
