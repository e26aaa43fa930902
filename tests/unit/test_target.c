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
	assert_int_equal(l->v[0].rules.interval_us, 90000000);
	assert_int_equal(l->v[0].timeout_us, 500000);
	assert_string_equal(l->v[0].method, "HEAD");
	assert_true(target_expected(&l->v[0], 404));
	assert_false(target_expected(&l->v[0], 200));
	assert_int_equal(l->v[1].rules.interval_us, 100000);
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

static void accepts_all_options(void **state)
{
	(void)state;
	char *error = NULL;
	struct target_list *l = target_parse(
		"[{\"name\":\"a\",\"url\":\"https://user@Host.example/x\",\"interval\":\"auto\",\"max_interval\":\"20 min\","
		"\"method\":\"POST\",\"headers\":{\"X-A\":\"b\",\"X-Empty\":\"\"},\"body\":\"{}\",\"expect\":[\"2xx\",404,\"500-503\"],"
		"\"expect_body\":\"ok\",\"identity_token\":\"https://h\",\"schedule\":{\"days\":\"mon-fri\",\"from\":\"07:00\","
		"\"to\":\"20:00\"},\"zone\":\"UTC\",\"jitter\":0,\"cold_after\":\"1 s\",\"tls_warning\":\"30 d\","
		"\"cost_per_million_requests\":0.4,\"cost_per_second\":0.000024},"
		"{\"name\":\"b\",\"url\":\"http://127.0.0.1:80/\",\"interval\":\"1 s\",\"bearer_file\":\"credential:t\"},"
		"{\"name\":\"c\",\"url\":\"http://h\",\"interval\":\"1 s\",\"bearer_file\":\"/t\",\"unix_socket\":\"/s\"}]",
		&error);
	if (!l)
		fail_msg("%s", error);
	const struct target *t = &l->v[0];
	assert_int_equal(t->rules.interval_us, 0);
	assert_int_equal(t->rules.limits.min_us, 60000000);
	assert_int_equal(t->rules.limits.max_us, 1200000000);
	assert_string_equal(t->headers[0], "X-A: b");
	assert_string_equal(t->headers[1], "X-Empty;");
	assert_true(target_expected(t, 299) && target_expected(t, 404) && target_expected(t, 503));
	assert_false(target_expected(t, 304) || target_expected(t, 504));
	assert_true(target_expected_body(t, SPAN("it is ok.")));
	assert_false(target_expected_body(t, SPAN("o")) || target_expected_body(t, (struct span){NULL, 0}));
	assert_true(t->host == plant_host_key(SPAN("host.example:443")));
	assert_true(l->v[1].host == plant_host_key(SPAN("127.0.0.1:80")) && l->v[2].host == 0);
	assert_int_equal(t->rules.nwindows, 1);
	assert_int_equal(t->rules.cold_after_us, 1000000);
	assert_true(t->rules.open_share > 0.38 && t->rules.open_share < 0.39);
	assert_false(target_equal(&l->v[1], &l->v[2]));
	target_free(&l);
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
		{T(",\"schedule, zone\":1"), "unknown field \"schedule, zone\""},
		{T(",\"ur\":1"), "unknown field \"ur\""},
		{T(",\"\":1"), "unknown field \"\""},
		{T(",\"expect\":\"299-200\""), "a range such as"},
		{T(",\"expect\":\"6xx\""), "a range such as"},
		{T(",\"expect\":\"200-\""), "a range such as"},
		{T(",\"expect\":\"2xxx\""), "a range such as"},
		{T(",\"expect_body\":\"\""), "expect_body must be a text of 1 to 1024 bytes"},
		{T(",\"method\":\"HEAD\",\"expect_body\":\"x\""), "use GET"},
		{T(",\"headers\":[]"), "headers must be an object"},
		{T(",\"headers\":{\"a b\":\"c\"}"), "no name of a header"},
		{T(",\"headers\":{\"a\":\"b\\nc\"}"), "without control characters"},
		{T(",\"headers\":{\"a\":5}"), "headers: a must be a text"},
		{T(",\"headers\":{\"authorization\":\"Bearer x\"}"), "use bearer_file or identity_token"},
		{T(",\"headers\":{\"content-length\":\"5\"}"), "leave it out"},
		{T(",\"body\":\"x\""), "body needs method POST or PUT"},
		{T(",\"unix_socket\":\"run/s\""), "unix_socket must be an absolute path"},
		{T(",\"ca_file\":\"ca.pem\""), "ca_file must be an absolute path"},
		{T(",\"bearer_file\":\"token\""), "credential:NAME"},
		{T(",\"bearer_file\":\"credential:../x\""), "credential:NAME"},
		{T(",\"bearer_file\":\"/t\""), "would show the token to the network"},
		{T(",\"identity_token\":\"https://h\""), "use https://"},
		{"[{\"name\":\"a\",\"url\":\"https://h\",\"interval\":\"1 s\",\"identity_token\":\"x\",\"bearer_file\":\"/t\"}]",
		 "exclude each other"},
		{"[{\"name\":\"a\",\"url\":\"http://127.evil.com\",\"interval\":\"1 s\",\"bearer_file\":\"/t\"}]", "use https://"},
		{"[{\"name\":\"a\",\"url\":\"http://localhost@evil\",\"interval\":\"1 s\",\"bearer_file\":\"/t\"}]", "use https://"},
		{T(",\"connect_timeout\":\"1 ms\""), "connect_timeout = \"1 ms\" must lie between 10 ms"},
		{T(",\"min_interval\":\"1 s\""), "needs interval = \"auto\""},
		{"[{\"name\":\"a\",\"url\":\"http://h\",\"interval\":\"auto\",\"min_interval\":\"2 h\"}]", "longer than max_interval"},
		{T(",\"jitter\":51"), "jitter must be a number from 0 to 50"},
		{T(",\"jitter\":\"5\""), "jitter must be a number from 0 to 50"},
		{T(",\"schedule\":[]"), "schedule must be a list of 1 to 16"},
		{T(",\"schedule\":[{\"from\":\"07:00\"}]"), "from and to must be times"},
		{T(",\"schedule\":[{\"from\":\"07:00\",\"to\":\"07:00\"}]"), "are the same"},
		{T(",\"schedule\":[{\"days\":\"always\",\"from\":\"07:00\",\"to\":\"08:00\"}]"), "days must be such as"},
		{T(",\"schedule\":[{\"day\":\"mon\",\"from\":\"07:00\",\"to\":\"08:00\"}]"), "unknown field \"day\""},
		{T(",\"zone\":\"UTC\""), "zone needs a schedule"},
		{T(",\"schedule\":{\"from\":\"07:00\",\"to\":\"08:00\"},\"zone\":\"Mars/Olympus\""), "zone \"Mars/Olympus\": "},
		{T(",\"cold_after\":\"20 min\""), "cold_after = \"20 min\" must lie"},
		{T(",\"tls_warning\":\"2 years\""), "tls_warning must be a duration"},
		{T(",\"cost_per_second\":-1"), "cost_per_second must be a number from 0"},
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
		cmocka_unit_test(accepts_a_whole_target),   cmocka_unit_test(accepts_all_options),
		cmocka_unit_test(nothing_is_an_empty_list), cmocka_unit_test(refusals_name_target_field_and_remedy),
		cmocka_unit_test(too_many_are_refused),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
