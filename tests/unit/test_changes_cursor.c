/* Places in the feed as clients carry them. Broken code this would catch: a text that is taken for another place, a number
 * that wraps round, a place that is not written as it was read. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "api/changes.h"

#include "api/changes_cursor.c"

static void test_good(void **state)
{
	(void)state;
	static const struct {
		const char *text;
		struct changes_cursor c;
	} good[] = {
		{"0", {0, 0}},	 {"7", {7, 0}},	    {"9223372036854775807", {INT64_MAX, 0}},
		{"1:1", {0, 1}}, {"42:7", {41, 7}}, {"9223372036854775807:4294967295", {INT64_MAX - 1, UINT32_MAX}}};
	for (size_t i = 0; i < ARRAY_LEN(good); i++) {
		struct changes_cursor c;
		struct buf b = {NULL, 0, 0};
		assert_true(changes_cursor_parse(SPAN(good[i].text), &c));
		if (!changes_cursor_same(&c, &good[i].c))
			fail_msg("%s is read as %llu and %u", good[i].text, (unsigned long long)c.after, c.skip);
		changes_cursor_add(&b, &c);
		assert_true(b.len < CHANGES_CURSOR_MAX);
		assert_true(span_eq((struct span){b.p, b.len}, SPAN(good[i].text)));
		buf_free(&b);
	}
}

static void test_bad(void **state)
{
	(void)state;
	static const char *const bad[] = {"",
					  ":",
					  "x",
					  "-1",
					  "+1",
					  " 1",
					  "1 ",
					  "1.0",
					  "0x1",
					  "1:",
					  ":1",
					  "1:0",
					  "0:1",
					  "1:1:1",
					  "1:-1",
					  "1:x",
					  "9223372036854775808",
					  "18446744073709551616",
					  "99999999999999999999999",
					  "1:4294967296",
					  "00000000000000000000000000000001"};
	struct changes_cursor c;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		if (changes_cursor_parse(SPAN(bad[i]), &c))
			fail_msg("\"%s\" is taken for %llu and %u", bad[i], (unsigned long long)c.after, c.skip);
	assert_false(changes_cursor_parse((struct span){"1\0002", 3}, &c));
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_good), cmocka_unit_test(test_bad)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
