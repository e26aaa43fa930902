/* Filters: what is understood, what is refused and with which words, what matches. That SQL says the same is
 * test_filter_sql.c's. Broken code this would catch: an operator that compares across types, a missing field
 * that matches, a limit that does not hold, a message without field or remedy. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "filter/filter-private.h"

static struct filter *parse(const char *text)
{
	char *error = NULL;
	json_t *j = json_loads(text, JSON_ALLOW_NUL, NULL);
	if (!j)
		fail_msg("the test's own JSON is bad: %s", text);
	struct filter *f = filter_parse(j, &error);
	json_decref(j);
	if (!f)
		fail_msg("%s: %s", text, error);
	assert_null(error);
	return f;
}

/* The text of the refusal; fails when there is none. */
static char *refusal(const char *text)
{
	char *error = NULL;
	json_t *j = json_loads(text, JSON_ALLOW_NUL | JSON_DECODE_ANY, NULL);
	if (!j)
		fail_msg("the test's own JSON is bad: %s", text);
	struct filter *f = filter_parse(j, &error);
	json_decref(j);
	if (f)
		fail_msg("was understood: %s", text);
	assert_non_null(error);
	return error;
}

static void refused(const char *text, const char *field, const char *words)
{
	char *error = refusal(text);
	if (strncmp(error, field, strlen(field)) != 0 || error[strlen(field)] != ':' || !strstr(error, words))
		fail_msg("%s: \"%s\" should begin with %s and hold \"%s\"", text, error, field, words);
	free(error);
}

static struct memory sample(const char *body)
{
	struct memory m = {.version = 7,
			   .created_us = 1000000,
			   .updated_us = 2000000,
			   .flags = MEMORY_SUPERSEDED,
			   .importance = 0.3f,
			   .kind = SPAN("fact"),
			   .user_id = SPAN("ada"),
			   .session_id = SPAN("s1"),
			   .body = SPAN(body)};
	AN(uuid_parse("01930000-0000-7000-8000-000000000005", UUID_TEXT, &m.id));
	return m;
}

#define BODY                                                                                                                           \
	"{\"id\":\"x\",\"namespace\":\"n\",\"content\":\"metadata\\\":{\\\"n\\\":9}\",\"importance\":0.3,\"metadata\":"                \
	"{\"n\":5,\"r\":2.5,\"s\":\"blue\",\"t\":true,\"f\":false,\"z\":null,\"list\":[1,\"two\",3.0,null,[9],{\"n\":8}],\"none\":[]," \
	"\"o\":{\"p\":{\"q\":\"deep\"},\"n\":6},\"a.b\":\"dotted\",\"a\\\\b\":\"back\",\"q\\\"q\":\"quoted\",\"\xc3\xa4\":\"umlaut\"," \
	"\"line\\nbreak\":1,\"big\":9007199254740993,\"tea\":\"gr\xc3\xbcn\",\"esc\":\"a\\n\\\"b\\\\\"},\"version\":7}"

static bool matches(const char *text)
{
	struct memory m = sample(BODY);
	struct filter *f = parse(text);
	bool yes = filter_match(f, &m);
	filter_free(&f);
	assert_null(f);
	return yes;
}

static void all(const char *const *v, size_t n, bool want)
{
	for (size_t i = 0; i < n; i++)
		if (matches(v[i]) != want)
			fail_msg("%s: %s", v[i], want ? "must match" : "must not match");
}

static void test_fields(void **state)
{
	(void)state;
	/* clang-format off */
	static const char *const yes[] = {
		"{}", "{\"kind\":\"fact\"}", "{\"user_id\":\"ada\",\"session_id\":\"s1\"}", "{\"user_id\":{\"ne\":\"bob\"}}",
		"{\"agent_id\":{\"exists\":false}}", "{\"user_id\":{\"exists\":true}}", "{\"agent_id\":{\"ne\":\"x\"}}",
		"{\"agent_id\":{\"nin\":[\"x\",\"\"]}}", "{\"user_id\":{\"in\":[\"bob\",\"ada\"]}}", "{\"user_id\":{\"gt\":\"ad\"}}",
		"{\"user_id\":{\"lt\":\"adaa\",\"gte\":\"ada\",\"lte\":\"ada\"}}", "{\"importance\":0.3}", "{\"importance\":{\"gte\":0.3,\"lte\":0.3}}",
		"{\"importance\":{\"gt\":0}}", "{\"version\":7}", "{\"version\":7.0}", "{\"version\":{\"gt\":6.5,\"lt\":7.5}}",
		"{\"pinned\":false}", "{\"pinned\":{\"ne\":true}}", "{\"pinned\":{\"exists\":true}}", "{\"expires_at\":{\"exists\":false}}",
		"{\"expires_at\":{\"ne\":\"2026-01-01T00:00:00Z\"}}", "{\"created_at\":\"1970-01-01T00:00:01Z\"}",
		"{\"created_at\":{\"gt\":\"1970-01-01T00:00:00.999999Z\",\"lt\":\"1970-01-01T01:00:01.000001+01:00\"}}",
		"{\"id\":\"01930000-0000-7000-8000-000000000005\"}", "{\"id\":{\"gt\":\"01930000-0000-7000-8000-000000000004\"}}",
		"{\"$and\":[{\"user_id\":{\"$eq\":\"ada\"}},{}]}", "{\"or\":[{\"user_id\":\"bob\"},{\"kind\":\"fact\"}]}",
		"{\"not\":{\"user_id\":\"bob\"}}", "{\"$not\":{\"$not\":{\"kind\":\"fact\"}}}", "{\"not\":{\"agent_id\":\"x\"}}"};
	/* clang-format on */
	/* clang-format off */
	static const char *const no[] = {
		"{\"kind\":\"facts\"}", "{\"kind\":\"fac\"}", "{\"user_id\":\"ada\",\"session_id\":\"s2\"}", "{\"user_id\":{\"ne\":\"ada\"}}",
		"{\"agent_id\":\"\"}", "{\"agent_id\":{\"lte\":\"zzz\"}}", "{\"agent_id\":{\"exists\":true}}", "{\"user_id\":{\"exists\":false}}",
		"{\"user_id\":{\"nin\":[\"bob\",\"ada\"]}}", "{\"user_id\":{\"gt\":\"ada\"}}", "{\"importance\":0.30001}",
		"{\"importance\":{\"gt\":0.3}}", "{\"version\":{\"gt\":7}}", "{\"version\":7.5}", "{\"pinned\":true}", "{\"pinned\":{\"exists\":false}}",
		"{\"expires_at\":{\"lt\":\"2026-01-01T00:00:00Z\"}}", "{\"updated_at\":\"1970-01-01T00:00:01Z\"}", "{\"id\":{\"exists\":false}}",
		"{\"id\":{\"lt\":\"01930000-0000-7000-8000-000000000005\"}}", "{\"and\":[{\"user_id\":\"ada\"},{\"kind\":\"x\"}]}",
		"{\"or\":[{\"user_id\":\"bob\"},{\"kind\":\"x\"}]}", "{\"not\":{}}", "{\"not\":{\"user_id\":\"ada\",\"kind\":\"fact\"}}"};
	/* clang-format on */
	all(yes, ARRAY_LEN(yes), true);
	all(no, ARRAY_LEN(no), false);
}

static void test_metadata(void **state)
{
	(void)state;
	/* clang-format off */
	static const char *const yes[] = {
		"{\"metadata.n\":5}", "{\"metadata.n\":5.0}", "{\"metadata.n\":{\"gt\":4.9,\"lt\":6}}", "{\"metadata.r\":{\"gte\":2.5}}",
		"{\"metadata.s\":\"blue\"}", "{\"metadata.s\":{\"gt\":\"blu\",\"lt\":\"bluf\"}}", "{\"metadata.t\":true}", "{\"metadata.f\":false}",
		"{\"metadata.z\":null}", "{\"metadata.z\":{\"exists\":true}}", "{\"metadata.no\":{\"exists\":false}}", "{\"metadata.no\":{\"ne\":1}}",
		"{\"metadata.no\":{\"nin\":[null]}}", "{\"metadata.n\":{\"ne\":\"5\"}}", "{\"metadata.list\":1}", "{\"metadata.list\":\"two\"}",
		"{\"metadata.list\":3}", "{\"metadata.list\":null}", "{\"metadata.list\":{\"in\":[7,\"two\"]}}", "{\"metadata.list\":{\"nin\":[7,9]}}",
		"{\"metadata.list\":{\"exists\":true}}", "{\"metadata.none\":{\"ne\":1}}", "{\"metadata.none\":{\"exists\":true}}",
		"{\"metadata.o.p.q\":\"deep\"}", "{\"metadata.o.n\":6}", "{\"metadata.o\":{\"exists\":true}}", "{\"metadata.o\":{\"ne\":6}}",
		"{\"metadata.a\\\\.b\":\"dotted\"}", "{\"metadata.a\\\\\\\\b\":\"back\"}", "{\"metadata.q\\\"q\":\"quoted\"}",
		"{\"metadata.\xc3\xa4\":\"umlaut\"}", "{\"metadata.line\\nbreak\":1}", "{\"metadata.big\":9007199254740993}",
		"{\"metadata.big\":{\"gt\":9007199254740992.0}}", "{\"metadata.tea\":\"gr\\u00fcn\"}", "{\"metadata.esc\":\"a\\n\\\"b\\\\\"}",
		"{\"metadata.\\\\s\":\"blue\"}"};
	/* clang-format on */
	/* clang-format off */
	static const char *const no[] = {
		"{\"metadata.n\":\"5\"}", "{\"metadata.n\":9}", "{\"metadata.n\":{\"gt\":\"4\"}}", "{\"metadata.s\":{\"gt\":1}}",
		"{\"metadata.t\":1}", "{\"metadata.f\":0}", "{\"metadata.f\":null}", "{\"metadata.z\":false}", "{\"metadata.z\":\"\"}",
		"{\"metadata.no\":null}", "{\"metadata.no\":{\"exists\":true}}", "{\"metadata.no\":{\"lt\":9}}", "{\"metadata.z\":{\"exists\":false}}",
		"{\"metadata.list\":9}", "{\"metadata.list\":{\"ne\":1}}", "{\"metadata.list\":{\"nin\":[8,\"two\"]}}", "{\"metadata.list\":{\"gte\":1}}",
		"{\"metadata.none\":{\"in\":[1,null]}}", "{\"metadata.o\":6}", "{\"metadata.o.p\":\"deep\"}", "{\"metadata.list.n\":8}",
		"{\"metadata.list.0\":1}", "{\"metadata.a.b\":\"dotted\"}", "{\"metadata.s.x\":{\"exists\":true}}",
		"{\"metadata.big\":9007199254740992.0}", "{\"metadata.big\":9007199254740992}", "{\"metadata.n\":{\"exists\":false}}",
		"{\"metadata.N\":5}"};
	/* clang-format on */
	all(yes, ARRAY_LEN(yes), true);
	all(no, ARRAY_LEN(no), false);
}

/* A body that is not there, or no JSON, has no metadata. */
static void test_no_metadata(void **state)
{
	(void)state;
	static const char *const bodies[] = {"",
					     "{}",
					     "[]",
					     "{\"metadata\":7}",
					     "{\"metadata\":null}",
					     "{\"metadata\"",
					     "nonsense",
					     "{\"metadata\":{\"n\"",
					     "{\"x\":\"unfinished",
					     "{\"metadata\":{\"n\":"};
	struct filter *has = parse("{\"metadata.n\":{\"exists\":true}}"), *lacks = parse("{\"metadata.n\":{\"ne\":5}}");
	for (size_t i = 0; i < ARRAY_LEN(bodies); i++) {
		struct memory m = sample(bodies[i]);
		if (filter_match(has, &m) || !filter_match(lacks, &m))
			fail_msg("body: %s", bodies[i]);
	}
	struct memory m = sample("");
	m.body.p = NULL;
	assert_false(filter_match(has, &m));
	filter_free(&has);
	filter_free(&lacks);
}

static void test_refusals(void **state)
{
	(void)state;
	refused("{\"colour\":1}", "colour", "metadata.KEY");
	refused("{\"metadata\":1}", "metadata", "no such field");
	refused("{\"metadata.\":1}", "metadata.", "path of keys");
	refused("{\"metadata.a..b\":1}", "metadata.a..b", "single dots");
	refused("{\"metadata.a.\":1}", "metadata.a.", "single dots");
	refused("{\"metadata..a\":1}", "metadata..a", "single dots");
	refused("{\"metadata.a\\\\\":1}", "metadata.a\\", "path of keys");
	refused("{\"user_id\":5}", "user_id", "compares with strings");
	refused("{\"user_id\":null}", "user_id", "compares with strings");
	refused("{\"importance\":\"high\"}", "importance", "compares with numbers");
	refused("{\"version\":true}", "version", "compares with numbers");
	refused("{\"pinned\":1}", "pinned", "true and false");
	refused("{\"id\":\"x\"}", "id", "UUIDs");
	refused("{\"created_at\":\"yesterday\"}", "created_at", "RFC 3339");
	refused("{\"created_at\":5}", "created_at", "RFC 3339");
	refused("{\"user_id\":[\"a\"]}", "user_id", "{\"in\": [");
	refused("{\"user_id\":{}}", "user_id", "needs an operator");
	refused("{\"user_id\":{\"like\":\"a\"}}", "user_id", "eq ne gt");
	refused("{\"user_id\":{\"$\":\"a\"}}", "user_id", "unknown operator \"$\"");
	refused("{\"metadata\":{\"lang\":\"en\"}}", "metadata", "\"metadata.lang\"");
	refused("{\"user_id\":{\"eq\":{}}}", "user_id", "must be compared with");
	refused("{\"user_id\":{\"in\":\"a\"}}", "user_id", "1 to 1000");
	refused("{\"user_id\":{\"in\":[]}}", "user_id", "1 to 1000");
	refused("{\"metadata.x\":{\"in\":[[1]]}}", "metadata.x", "must be compared with");
	refused("{\"user_id\":{\"exists\":1}}", "user_id", "true or false");
	refused("{\"metadata.x\":{\"gt\":true}}", "metadata.x", "ranges compare");
	refused("{\"metadata.x\":{\"lte\":null}}", "metadata.x", "ranges compare");
	refused("{\"pinned\":{\"gt\":false}}", "pinned", "ranges compare");
	refused("{\"and\":{}}", "and", "list of at least one");
	refused("{\"$or\":[]}", "$or", "list of at least one");
	refused("{\"and\":[1]}", "filter", "must be a JSON object");
	refused("{\"not\":[]}", "filter", "must be a JSON object");
	refused("[]", "filter", "must be a JSON object");
	refused("\"x\"", "filter", "must be a JSON object");
}

/* `head`, `n` times `part` separated by commas, `tail`. */
static char *repeated(const char *head, size_t n, const char *part, const char *tail)
{
	struct buf b = {0};
	buf_adds(&b, head);
	for (size_t i = 0; i < n; i++) {
		buf_adds(&b, i ? "," : "");
		buf_adds(&b, part);
	}
	buf_adds(&b, tail);
	buf_addc(&b, 0);
	return b.p;
}

static void limit(size_t most, const char *head, const char *part, const char *tail, const char *field,
		  const char *words)
{
	char *fine = repeated(head, most, part, tail), *over = repeated(head, most + 1, part, tail);
	struct filter *f = parse(fine);
	filter_free(&f);
	refused(over, field, words);
	free(fine);
	free(over);
}

static char *nested(size_t depth, const char *open, const char *inner, const char *close)
{
	struct buf b = {0};
	for (size_t i = 0; i < depth; i++)
		buf_adds(&b, open);
	buf_adds(&b, inner);
	for (size_t i = 0; i < depth; i++)
		buf_adds(&b, close);
	buf_addc(&b, 0);
	return b.p;
}

static void test_limits(void **state)
{
	(void)state;
	static const struct {
		const char *open, *close;
	} nests[] = {{"{\"not\":", "}"}, {"{\"and\":[", "]}"}, {"{\"or\":[{},", "]}"}};
	limit(64, "{\"and\":[", "{\"user_id\":\"a\"}", "]}", "user_id", "at most 64 conditions");
	limit(64, "{\"or\":[", "{}", "]}", "filter", "at most 64 conditions");
	limit(32, "{\"and\":[", "{\"importance\":{\"gt\":1,\"lt\":2}}", "]}", "importance", "at most 64 conditions");
	limit(1000, "{\"metadata.a\":{\"in\":[", "1", "]}}", "metadata.a", "1 to 1000");
	for (size_t i = 0; i < ARRAY_LEN(nests); i++) {
		char *fine = nested(8, nests[i].open, "{\"user_id\":\"a\"}", nests[i].close);
		char *over = nested(9, nests[i].open, "{\"user_id\":\"a\"}", nests[i].close);
		struct filter *f = parse(fine);
		filter_free(&f);
		refused(over, "filter", "8 deep");
		free(fine);
		free(over);
	}
}

/* 10,000 values altogether: ten lists of a thousand are fine, one value more is not. */
static void test_values(void **state)
{
	(void)state;
	char *list = repeated("{\"metadata.a\":{\"nin\":[", 1000, "\"x\"", "]}}");
	char *ten = repeated("{\"and\":[", 10, list, "]}"),
	     *more = repeated("{\"user_id\":\"u\",\"or\":[", 10, list, "]}");
	struct filter *f = parse(ten);
	filter_free(&f);
	refused(more, "metadata.a", "10000 values");
	free(list);
	free(ten);
	free(more);
}

static void test_path_length(void **state)
{
	(void)state;
	char *key = util_alloc(300), text[400];
	memset(key, 'k', 300);
	snprintf(text, sizeof(text), "{\"metadata.%.256s\":1}", key);
	struct filter *f = parse(text);
	filter_free(&f);
	snprintf(text, sizeof(text), "{\"metadata.%.257s\":1}", key);
	char *error = refusal(text);
	assert_non_null(strstr(error, "256 bytes"));
	assert_true(strlen(error) < 300); /* a long field does not make a long message */
	free(error);
	free(key);
}

static void test_and_eq(void **state)
{
	(void)state;
	struct memory m = sample(BODY);
	struct filter *f = NULL;
	filter_and_eq(&f, "user_id", SPAN("ada"));
	assert_true(filter_match(f, &m));
	filter_and_eq(&f, "kind", SPAN("other"));
	assert_false(filter_match(f, &m));
	filter_free(&f);
	f = parse("{\"or\":[{\"user_id\":\"ada\"},{\"user_id\":\"bob\"}]}"); /* and is added around the whole */
	filter_and_eq(&f, "session_id", SPAN("s2"));
	assert_false(filter_match(f, &m));
	filter_free(&f);
	filter_free(&f);
}

static void test_empty(void **state)
{
	(void)state;
	char *error = (char *)1;
	struct memory m = sample(BODY);
	struct filter *f = filter_parse(NULL, &error);
	assert_null(error);
	assert_true(filter_is_empty(f) && filter_match(f, &m));
	filter_free(&f);
	json_t *null = json_null();
	f = filter_parse(null, &error);
	assert_true(filter_is_empty(f));
	filter_free(&f);
	f = parse("{\"user_id\":\"ada\"}");
	assert_false(filter_is_empty(f));
	filter_free(&f);
	assert_true(filter_is_empty(NULL));
}

static struct fvalue i64(int64_t i) { return (struct fvalue){.type = FV_INT, .i = i}; }
static struct fvalue real(double d) { return (struct fvalue){.type = FV_REAL, .d = d}; }
static struct fvalue text(const char *s, size_t n)
{
	return (struct fvalue){.type = FV_TEXT, .s = (char *)(uintptr_t)s, .len = n};
}

/* Integers and reals compare by value, also where a double has no room for the integer. */
static void test_compare(void **state)
{
	(void)state;
	/* clang-format off */
	static const struct { int64_t i; double d; int want; } mixed[] = {
		{1, 1.0, 0}, {1, 1.5, -1}, {-1, -1.5, 1}, {0, -0.0, 0}, {INT64_MAX, 9223372036854775808.0, -1},
		{INT64_MIN, -9223372036854775808.0, 0}, {INT64_MIN, -1e300, 1}, {INT64_MAX, 1e300, -1}, {INT64_MIN, -INFINITY, 1},
		{INT64_MAX, INFINITY, -1}, {9007199254740993, 9007199254740992.0, 1}, {-9007199254740993, -9007199254740992.0, -1},
		{9007199254740992, 9007199254740992.0, 0}, {0, 5e-324, -1}, {0, -5e-324, 1}};
	/* clang-format on */
	for (size_t i = 0; i < ARRAY_LEN(mixed); i++) {
		struct fvalue a = i64(mixed[i].i), b = real(mixed[i].d);
		assert_int_equal(filter_compare(&a, &b), mixed[i].want);
		assert_int_equal(filter_compare(&b, &a), -mixed[i].want);
	}
	struct fvalue a = text("ab", 2), b = text("ab\0c", 4), c = text("ab\xff", 3), n = {.type = FV_NULL},
		      t = {.type = FV_BOOL, .i = 1}, one = i64(1), s = text("1", 1);
	assert_int_equal(filter_compare(&a, &b), -1);
	assert_int_equal(filter_compare(&b, &c), -1); /* bytewise, unsigned */
	assert_int_equal(filter_compare(&c, &c), 0);
	assert_int_equal(filter_compare(&n, &n), 0);
	assert_int_equal(filter_compare(&t, &one), 2);
	assert_int_equal(filter_compare(&s, &one), 2);
	assert_int_equal(filter_compare(&n, &t), 2);
}

int main(void)
{
	/* clang-format off */
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_fields), cmocka_unit_test(test_metadata), cmocka_unit_test(test_no_metadata),
		cmocka_unit_test(test_refusals), cmocka_unit_test(test_limits), cmocka_unit_test(test_values),
		cmocka_unit_test(test_path_length), cmocka_unit_test(test_and_eq), cmocka_unit_test(test_empty),
		cmocka_unit_test(test_compare)};
	/* clang-format on */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
