/* pinger.targets: what is accepted, what is refused and whether the message helps. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "pinger/target.h"

#define T(more) "[{\"name\":\"a\",\"url\":\"http://h/\",\"interval\":\"30 s\"" more "}]"

static void accepts_a_whole_target(void **state)
{
	(void)state;
	char *error = NULL;
	struct target_list *l = target_parse(
		"[{\"name\":\"a\",\"url\":\"HTTPS://h:1/x?y\",\"interval\":\"1.5 min\",\"timeout\":\"500 ms\","
		"\"method\":\"HEAD\",\"expect\":[204,404]},"
		"{\"name\":\"b\",\"url\":\"http://[::1]/\",\"interval\":\"100ms\"}]",
		&error);
	assert_non_null(l);
	assert_null(error);
	assert_int_equal(l->n, 2);
	assert_int_equal(l->v[0].interval_us, 90000000);
	assert_int_equal(l->v[0].timeout_us, 500000);
	assert_string_equal(l->v[0].method, "HEAD");
	assert_true(target_expected(&l->v[0], 404));
	assert_false(target_expected(&l->v[0], 200));
	assert_int_equal(l->v[1].interval_us, 100000);
	assert_int_equal(l->v[1].timeout_us, 10000000);
	assert_string_equal(l->v[1].method, "GET");
	assert_true(target_expected(&l->v[1], 200));
	assert_true(target_expected(&l->v[1], 399));
	assert_false(target_expected(&l->v[1], 400));
	assert_false(target_expected(&l->v[1], 0));
	assert_true(target_equal(&l->v[0], &l->v[0]));
	assert_false(target_equal(&l->v[0], &l->v[1]));
	target_free(&l);
	assert_null(l);
}

static void nothing_is_an_empty_list(void **state)
{
	(void)state;
	static const char *const nothing[] = {"", "[]", " [ ] "};
	for (size_t i = 0; i < ARRAY_LEN(nothing); i++) {
		char *error = NULL;
		struct target_list *l = target_parse(nothing[i], &error);
		assert_non_null(l);
		assert_int_equal(l->n, 0);
		target_free(&l);
	}
}

static void refusals_name_target_field_and_remedy(void **state)
{
	(void)state;
	/* clang-format off */
	static const struct {
		const char *json, *says;
	} bad[] = {
		{"{", "no JSON"},
		{"{}", "must be a JSON list"},
		{"[1]", "target 1: must be an object"},
		{"[{}]", "target 1: name must be"},
		{"[{\"name\":\"\"}]", "name must be"},
		{"[{\"name\":\"a\\nb\"}]", "control characters"},
		{"[{\"name\":\"a\",\"url\":\"h\"}]", "\"a\": url must be http://"},
		{"[{\"name\":\"a\",\"url\":\"file:///etc/passwd\"}]", "url must be http://"},
		{"[{\"name\":\"a\",\"url\":\"http:///x\"}]", "url must be http://"},
		{"[{\"name\":\"a\",\"url\":\"http://h/a b\"}]", "%20"},
		{"[{\"name\":\"a\",\"url\":\"http://h/\"}]", "interval must be a duration"},
		{T(",\"timeout\":3"), "timeout must be a duration"},
		{T(",\"timeout\":\"3\""), "such as \"30 s\""},
		{T(",\"timeout\":\"-1 s\""), "timeout must be a duration"},
		{T(",\"timeout\":\"nan s\""), "timeout must be a duration"},
		{T(",\"timeout\":\"11 min\""), "between 10 ms and 600 s"},
		{T(",\"method\":\"DELETE\""), "method must be GET"},
		{T(",\"method\":5"), "method must be GET"},
		{T(",\"expect\":99"), "from 100 to 599"},
		{T(",\"expect\":[200,\"x\"]"), "from 100 to 599"},
		{T(",\"expect\":[]"), "must not be empty"},
		{T(",\"expect\":[200,201,202,203,204,205,206,207,208]"), "more than 8"},
		{T(",\"intervall\":\"1 s\""), "unknown field \"intervall\""},
		{T(",\"name\":\"b\""), "no JSON: duplicate"},
		{"[{\"name\":\"a\",\"url\":\"http://h/\",\"interval\":\"1 s\"},"
		 "{\"name\":\"a\",\"url\":\"http://i/\",\"interval\":\"1 s\"}]", "two targets of this name"},
	};
	/* clang-format on */
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		char *error = NULL;
		struct target_list *l = target_parse(bad[i].json, &error);
		if (l || !error || !strstr(error, bad[i].says))
			fail_msg("%s: \"%s\" should say \"%s\"", bad[i].json, error ? error : "(fine)", bad[i].says);
		free(error);
	}
}

static void too_many_are_refused(void **state)
{
	(void)state;
	struct buf b = {0};
	char *error = NULL;
	buf_addc(&b, '[');
	for (int i = 0; i <= TARGETS_MAX; i++)
		buf_printf(&b, "%s{\"name\":\"n%d\",\"url\":\"http://h/\",\"interval\":\"1 h\"}", i ? "," : "", i);
	buf_adds(&b, "]");
	buf_addc(&b, '\0');
	assert_null(target_parse(b.p, &error));
	assert_non_null(strstr(error, "at most 256"));
	free(error);
	buf_free(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(accepts_a_whole_target),
		cmocka_unit_test(nothing_is_an_empty_list),
		cmocka_unit_test(refusals_name_target_field_and_remedy),
		cmocka_unit_test(too_many_are_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
