/* Random filters over random memories (and on PostgreSQL, test_pg_filter.c): what filter_match() says of a memory in hand
 * must be what the store's SQL says of the same memory in a table, and what a plain model says (filter_model.h). 150,000
 * pairs; the keys, strings and numbers are those on which JSON readers and comparisons tend to differ. ORC_SEED=n
 * repeats or varies a run. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <cmocka.h>

#include "filter_model.h"
#include "store_model.h"

#define MEMORIES 200
#define FILTERS 750

#define PICK(a) ((a)[below(ARRAY_LEN(a))])

static const char *const keys[] = {"a",	       "b",   "c",   "ab", "a.b", "a\\b", "a\"b", "\xc3\xa4",	      "\x01",
				   "x\ny",     "$",   "[0]", "#",  "0",	  " ",	  "A",	  "\xf0\x9f\x98\x80", "a/b",
				   "metadata", "\x7f"};
static const char *const strings[] = {
	"",	"a",	"b",	"ab",	"A",  "1",  "1.0", "true", "null", "\xc3\xa4",	   "\xf0\x9f\x98\x80",
	"a\"b", "a\\b", "a\nb", "\x7f", "[]", "{}", "%",   "a'b",  "\x01", "\xef\xbf\xbd", "z"};
static const int64_t ints[] = {
	0, 1, -1, 2, 5, 10, 9007199254740992, 9007199254740993, -9007199254740993, INT64_MAX, INT64_MIN, 4294967296};
static const double reals[] = {0.0,
			       -0.0,
			       1.0,
			       0.5,
			       0.1,
			       0.30000000000000004,
			       0.3,
			       -1.5,
			       2.0,
			       1e300,
			       -1e300,
			       5e-324,
			       9007199254740992.0,
			       9223372036854775808.0,
			       1e15,
			       123456789.12345678,
			       1.7976931348623157e308,
			       2.2250738585072011e-308,
			       3.0e-5};
static const char *const texts[] = {"a", "b", "ab", "A", "\xc3\xa4", "a\"b", "a'b", "%", "zz"};
static const char *const times[] = {"1970-01-01T00:00:01Z", "2026-11-21T05:38:38.123456Z",
				    "2026-11-21T06:38:38.123456+01:00", "2030-01-01T00:00:00Z"};
static const int64_t us[] = {0, 1000000, 1795239518123456, 1795239518123457, 1893456000000000};
static const float importances[] = {0, 0.1f, 0.3f, 0.5f, 1};
static const char *const operators[] = {"eq", "ne", "gt", "gte", "lt", "lte", "in", "nin", "exists"};

/* The odd ones less often, so that filters and memories meet. */
static const char *key(void) { return below(3) ? keys[below(4)] : PICK(keys); }

/* Numbers that decimal digits, doubles and integers tell apart differently. */
#define TWINS 7

static json_t *twin(uint32_t n)
{
	static const int64_t i[] = {4611686018427387904, 1234567890123456768, 1234567890123456800, 9007199254740993};
	static const double d[] = {4611686018427387904.0, 1234567890123456768.0, 9007199254740992.0};
	return n < ARRAY_LEN(i) ? json_integer(i[n]) : json_real(d[n - ARRAY_LEN(i)]);
}

static json_t *scalar(void)
{
	switch (below(11)) {
	case 9:
	case 10: return twin(below(TWINS));
	case 0: return json_null();
	case 1: return json_boolean(below(2));
	case 2:
	case 3: return json_integer(PICK(ints));
	case 4:
	case 5: return json_real(PICK(reals));
	case 6: return json_integer(below(4));
	default: return json_string(PICK(strings));
	}
}

static json_t *object(int depth);

static json_t *value(int depth)
{
	uint32_t what = below(depth > 3 ? 6 : 10);
	if (what < 6)
		return scalar();
	if (what < 8)
		return object(depth + 1);
	json_t *list = json_array();
	for (uint32_t i = below(4); i; i--)
		json_array_append_new(list, value(depth + 1));
	return list;
}

static json_t *object(int depth)
{
	json_t *o = json_object();
	for (uint32_t i = below(depth ? 4 : 9); i; i--)
		json_object_set_new(o, key(), value(depth));
	return o;
}

/* ---- memories ---- */

static struct {
	struct memory m;
	char *body;
	json_t *tree;
	bool listed;
} row[MEMORIES];

static struct span maybe(void)
{
	const char *text = PICK(texts);
	return below(3) ? SPAN(text) : (struct span){NULL, 0};
}

static void make_row(size_t i)
{
	struct memory *m = &row[i].m;
	struct buf b = {0};
	json_t *o = object(0);
	char *metadata = json_dumps(o, JSON_COMPACT);
	*m = (struct memory){.ns = record_ns(SPAN("n")),
			     .ns_name = SPAN("n"),
			     .version = 1 + below(3),
			     .created_us = us[1 + below(4)],
			     .updated_us = us[1 + below(4)],
			     .expires_us = below(2) ? 0 : us[4],
			     .flags = below(2) ? MEMORY_PINNED : 0,
			     .importance = PICK(importances),
			     .content = SPAN("\"metadata\":{\"a\":1}"),
			     .kind = maybe(),
			     .user_id = maybe(),
			     .agent_id = maybe(),
			     .session_id = maybe(),
			     .external_id = maybe(),
			     .replaces_bytes = -1};
	m->id.b[15] = (uint8_t)i;
	m->id.b[14] = 0x5a;
	buf_printf(
		&b,
		"{\"id\":\"x\",\"namespace\":\"n\",\"content\":\"\\\"metadata\\\":{\\\"a\\\":1}\",\"importance\":%g,\"metadata\":%s,\"version\":1}",
		(double)m->importance, metadata);
	m->body = (struct span){b.p, b.len};
	row[i].body = b.p;
	row[i].tree = json_loadb(b.p, b.len, 0, NULL);
	assert_non_null(row[i].tree);
	json_decref(o);
	free(metadata);
}

static void put_rows(const struct store_ops *o, struct store *s)
{
	assert_int_equal(o->begin(s), STORE_OK);
	for (size_t i = 0; i < MEMORIES; i++) {
		struct buf b = {0};
		struct txn_builder t;
		struct txn_reader r;
		make_row(i);
		txn_begin(&t, &b, 1, 0, 0, 0);
		txn_op_put(&t, &row[i].m);
		txn_end(&t);
		assert_true(txn_open(&r, b.p, b.len));
		assert_int_equal(o->apply(s, i + 1, &r), STORE_OK);
		buf_free(&b);
	}
	assert_int_equal(o->commit(s, MEMORIES), STORE_OK);
}

/* ---- filters ---- */

static void path_field(char out[128])
{
	size_t n = (size_t)snprintf(out, 128, "metadata");
	for (uint32_t depth = 1 + !below(3) + !below(4); depth; depth--) {
		out[n++] = '.';
		for (const char *k = key(); *k; k++) {
			if (*k == '.' || *k == '\\')
				out[n++] = '\\';
			out[n++] = *k;
		}
	}
	out[n] = 0;
}

static json_t *operand(const char *field)
{
	static const char *const ids[] = {"00000000-0000-0000-0000-000000005a07",
					  "00000000-0000-0000-0000-000000005aFF"};
	if (strncmp(field, "metadata", 8) == 0)
		return scalar();
	if (strcmp(field, "id") == 0)
		return json_string(PICK(ids));
	if (strcmp(field, "importance") == 0)
		return below(2) ? json_real((double)PICK(importances)) : json_real(PICK(reals));
	if (strcmp(field, "version") == 0)
		return below(2) ? json_integer(below(4)) : json_real(PICK(reals));
	if (strcmp(field, "pinned") == 0)
		return json_boolean(below(2));
	if (strstr(field, "_at"))
		return json_string(PICK(times));
	return json_string(PICK(texts));
}

static json_t *condition(const char *field)
{
	const char *op = PICK(operators);
	json_t *v;
	if (!below(4))
		return operand(field);
	if (strcmp(op, "exists") == 0) {
		v = json_boolean(below(2));
	} else if (strcmp(op, "in") == 0 || strcmp(op, "nin") == 0) {
		bool many = !below(3);
		v = json_array();
		for (uint32_t n = many ? 9 + below(5) : 1 + below(5); n; n--)
			json_array_append_new(v, many && *field == 'm' ? json_string(PICK(strings)) : operand(field));
	} else {
		v = operand(field);
	}
	return json_pack("{so}", op, v);
}

static json_t *random_filter(int depth)
{
	static const char *const fields[] = {"id",	   "kind",	  "user_id",	"agent_id",
					     "session_id", "external_id", "importance", "version",
					     "pinned",	   "created_at",  "updated_at", "expires_at"};
	json_t *o = json_object();
	char field[128];
	for (uint32_t n = below(8) ? 1 + below(2) : 0; n; n--) {
		uint32_t what = below(depth < 3 ? 10 : 6);
		if (what < 2) {
			const char *name = PICK(fields);
			json_object_set_new(o, name, condition(name));
		} else if (what < 7) {
			path_field(field);
			json_object_set_new(o, field, condition(field));
		} else if (what == 7) {
			json_object_set_new(o, "not", random_filter(depth + 1));
		} else {
			json_object_set_new(o, what == 8 ? "and" : "or",
					    json_pack("[oo]", random_filter(depth + 1), random_filter(depth + 1)));
		}
	}
	return o;
}

static bool note(void *arg, const struct memory *m)
{
	(void)arg;
	assert_int_equal(m->id.b[14], 0x5a);
	assert_false(row[m->id.b[15]].listed);
	row[m->id.b[15]].listed = true;
	return true;
}

/* j NULL: too much for the model. */
static size_t compare(const struct store_ops *o, struct store *s, const struct filter *f, json_t *j, const char *text)
{
	struct store_list q = {.ns = record_ns(SPAN("n")), .filter = f, .now_us = 5};
	uint64_t counted;
	size_t n = 0;
	for (size_t i = 0; i < MEMORIES; i++)
		row[i].listed = false;
	if (o->ids(s, &q, note, NULL) != STORE_OK)
		fail_msg("%s: %s", text, o->error(s));
	for (size_t i = 0; i < MEMORIES; i++) {
		bool c = filter_match(f, &row[i].m), model = j ? model_matches(j, &row[i].m, row[i].tree) : c;
		if (c != row[i].listed || c != model)
			fail_msg("filter %s\nmemory %s: C says %d, SQL %d, the model %d", text, row[i].body, c,
				 row[i].listed, model);
		n += c;
	}
	assert_int_equal(o->count(s, &q, &counted), STORE_OK);
	assert_int_equal(counted, n);
	return n;
}

static int open_store(void **state)
{
	char *seed = getenv("ORC_SEED");
	rng = 0x9e3779b97f4a7c15ull;
	if (seed)
		rng += strtoull(seed, NULL, 10) * 0x2545f4914f6cdd1dull;
	if (world_begin(state) != 0)
		return -1;
	put_rows(ops, store);
	return 0;
}

static int close_store(void **state)
{
	for (size_t i = 0; i < MEMORIES; i++)
		free(row[i].body), json_decref(row[i].tree);
	return world_end(state);
}

static void test_random(void **state)
{
	size_t some = 0, pairs = 0;
	(void)state;
	for (size_t i = 0; i < FILTERS; i++) {
		char *error;
		json_t *j = random_filter(0);
		char *text = json_dumps(j, JSON_COMPACT);
		struct filter *f = filter_parse(j, &error);
		if (f) { /* else: a range of something without order */
			size_t n = compare(ops, store, f, j, text);
			some += n > 0 && n < MEMORIES;
			pairs += MEMORIES;
		}
		free(error);
		filter_free(&f);
		free(text);
		json_decref(j);
		i -= f == NULL && !pairs; /* never endless: something was understood before long */
	}
	assert_true(some * 3 > pairs / MEMORIES); /* a good part of the filters tells memories apart */
	assert_true(pairs >= 100000);
}

/* Each operator with each of the twins, and its opposite. */
static void test_twins(void **state)
{
	static const char *const paths[] = {"metadata.a", "metadata.b", "metadata.c", "metadata.ab"};
	(void)state;
	for (uint32_t i = 0; i < TWINS * ARRAY_LEN(paths) * 6 * 2; i++) {
		char *error;
		json_t *j = json_pack("{s{so}}", paths[i % 4], operators[i / 4 % 6], twin(i / 24 % TWINS));
		if (i / 24 / TWINS)
			j = json_pack("{so}", "not", j);
		struct filter *f = filter_parse(j, &error);
		char *text = json_dumps(j, JSON_COMPACT);
		assert_non_null(f);
		compare(ops, store, f, j, text);
		filter_free(&f);
		free(text);
		json_decref(j);
	}
}

/* The largest filters that parse.c lets through are no trouble for SQLite's parser and its limits. */
static void test_largest(void **state)
{
	static const char *const fields[] = {"user_id", "metadata.a", "importance", "pinned", "id"};
	char *error, *text;
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(fields); i++) {
		json_t *list = json_array(), *all = json_array();
		for (int k = 0; k < 1000; k++)
			json_array_append_new(list, operand(fields[i]));
		for (int k = 0; k < 10; k++)
			json_array_append_new(all, json_pack("{s{sO}}", fields[i], k % 2 ? "in" : "nin", list));
		json_t *j = json_pack("{s[{so}]}", "or", "or", all);
		struct filter *f = filter_parse(j, &error);
		text = json_dumps(j, JSON_COMPACT);
		assert_non_null(f);
		compare(ops, store, f, NULL, text);
		filter_free(&f);
		free(text);
		json_decref(j);
		json_decref(list);
	}
}

static void test_deepest(void **state)
{
	char *error;
	(void)state;
	json_t *j = json_array(); /* 64 conditions, 8 deep */
	for (int i = 0; i < 64; i++)
		json_array_append_new(j, json_pack("{s{si}}", "metadata.a", "gt", i));
	j = json_pack("{so}", "or", j);
	for (int i = 0; i < 7; i++)
		j = json_pack("{so}", "not", j);
	struct filter *f = filter_parse(j, &error);
	assert_non_null(f);
	compare(ops, store, f, j, "deepest");
	filter_free(&f);
	json_decref(j);
}

#define COMMON_TESTS                                                                                                   \
	cmocka_unit_test(test_random), cmocka_unit_test(test_twins), cmocka_unit_test(test_largest),                   \
		cmocka_unit_test(test_deepest)

#if !POSTGRES
int main(void)
{
	const struct CMUnitTest tests[] = {COMMON_TESTS};
	return cmocka_run_group_tests(tests, open_store, close_store);
}
#endif
