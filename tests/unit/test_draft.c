/* From request JSON to record and canonical JSON, without a worker. Broken code this would catch: a field that is let
 * through though it is wrong or refused though it is right, a patch that loses what it does not name, canonical bytes that
 * change on their way through the record, a vector that is not the client's. What any JSON does: tests/fuzz/fuzz_draft.c. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "api/api.h"

#include "api/body_json.c"
#include "api/draft.c"
#include "api/draft_build.c"
#include "api/json_out.c"
#include "api/problem.c"

static struct api api;
static struct call call = {.api = &api};
static struct body_json body;

static void forget(void)
{
	body_json_free(&body);
	buf_free(&call.reply.head);
	buf_free(&call.reply.body);
	call.reply.status = 0;
}

/* Reads `text` over d. */
static bool read_over(struct draft *d, enum draft_mode mode, const char *text)
{
	forget();
	return body_json_parse(&call, SPAN(text), &body) && draft_read(&call, &body, body.root, mode, "", d);
}

static void accepts(struct draft *d, enum draft_mode mode, const char *text)
{
	draft_init(d);
	if (!read_over(d, mode, text))
		fail_msg("%s: %.*s", text, (int)call.reply.body.len, call.reply.body.p);
}

/* Refused with this type, and a detail that says `says`. */
static void refuses(enum draft_mode mode, const char *text, int status, const char *type, const char *says)
{
	struct draft d;
	draft_init(&d);
	if (read_over(&d, mode, text))
		fail_msg("accepted: %s", text);
	json_t *o = json_loadb(call.reply.body.p, call.reply.body.len, JSON_REJECT_DUPLICATES, NULL);
	assert_non_null(o);
	const char *t = json_string_value(json_object_get(o, "type")),
		   *detail = json_string_value(json_object_get(o, "detail"));
	if (call.reply.status != status || !strstr(t, type) || !strstr(detail, says))
		fail_msg("%s\nwanted %d %s \"%s\"\ngot %d %s \"%s\"", text, status, type, says, call.reply.status, t,
			 detail);
	json_decref(o);
	draft_free(&d);
}

static char *field(const char *name, size_t len, char fill) /* {"content":"x","NAME":"fff…"} */
{
	struct buf b = {0};
	bool content = strcmp(name, "content") == 0;
	buf_printf(&b, "{%s\"%s\":\"", content ? "" : "\"content\":\"x\",", name);
	while (len--)
		buf_addc(&b, fill);
	buf_adds(&b, "\"}");
	buf_addc(&b, 0);
	return b.p;
}

static char *canonical(const struct draft *d, uint64_t version)
{
	struct buf b = {0};
	struct memory m;
	draft_memory(d, SPAN_LIT("home"), version, &b, &m);
	buf_addc(&b, 0);
	return b.p;
}

/* ---- fields ---- */

static void a_whole_memory(void **state)
{
	(void)state;
	struct draft d;
	accepts(&d, DRAFT_ADD,
		"{\"metadata\": {\"b\" : [1, 2.50, null], \"a\":\"\\u00e4\\n\"}, \"pinned\":true, \"content\":\"q \\\" b \\\\ \\u0001 \\u00e4\","
		"\"kind\":\"fact\",\"user_id\":\"u\",\"agent_id\":\"a\",\"session_id\":\"s\",\"external_id\":\"e\",\"importance\":0.1,"
		"\"created_at\":\"2026-11-21T06:38:38.5+01:00\",\"expires_at\":\"2999-01-01T00:00:00Z\",\"infer\":false,"
		"\"embedding\":[3, 4],\"embedding_model\":\"mine\"}");
	assert_true(draft_embed(&call, &d, NULL, ""));
	d.updated_us = d.created_us;
	memset(&d.id, 0x11, sizeof(d.id));
	char *text = canonical(&d, 7);
	/* The order is fixed: equal memories have equal bytes. */
	assert_string_equal(
		text,
		"{\"id\":\"11111111-1111-1111-1111-111111111111\",\"namespace\":\"home\",\"content\":\"q \\\" b \\\\ \\u0001 \xc3\xa4\","
		"\"kind\":\"fact\",\"user_id\":\"u\",\"agent_id\":\"a\",\"session_id\":\"s\",\"external_id\":\"e\",\"importance\":0.1,\"pinned\":true,"
		"\"embedding_model\":\"mine\",\"metadata\":{\"b\":[1,2.5,null],\"a\":\"\xc3\xa4\\n\"},\"created_at\":\"2026-11-21T05:38:38.500000Z\","
		"\"updated_at\":\"2026-11-21T05:38:38.500000Z\",\"expires_at\":\"2999-01-01T00:00:00.000000Z\",\"version\":7}");
	assert_int_equal(d.dim, 2);
	assert_true(d.embedding[0] == 3 && d.embedding[1] == 4);
	assert_true(d.client_vector);
	free(text);
	draft_free(&d);
}

static void the_least_memory(void **state)
{
	(void)state;
	struct draft d;
	accepts(&d, DRAFT_ADD,
		"{\"content\":\"x\",\"metadata\":null,\"kind\":null,\"importance\":null,\"pinned\":null,\"ttl\":null,\"embedding\":null,"
		"\"embedding_model\":null,\"infer\":null}");
	d.created_us = d.updated_us = 1000000;
	char *text = canonical(&d, 1);
	assert_non_null(strstr(
		text,
		"\"content\":\"x\",\"importance\":0.5,\"metadata\":{},\"created_at\":\"1970-01-01T00:00:01.000000Z\",\"updated_at\""));
	assert_null(strstr(text, "pinned"));
	assert_null(strstr(text, "null"));
	free(text);
	draft_free(&d);
}

static void limits_of_text(void **state)
{
	static const struct {
		const char *name;
		size_t most;
	} limits[] = {{"content", LIMIT_CONTENT},    {"kind", LIMIT_SCOPE},	  {"user_id", LIMIT_SCOPE},
		      {"agent_id", LIMIT_SCOPE},     {"session_id", LIMIT_SCOPE}, {"external_id", LIMIT_SCOPE},
		      {"namespace", LIMIT_NAMESPACE}};
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(limits); i++) {
		const size_t good[] = {1, limits[i].most}, bad[] = {0, limits[i].most + 1};
		struct draft d;
		for (size_t k = 0; k < 2; k++) {
			char *text = field(limits[i].name, good[k], 'x');
			accepts(&d, DRAFT_ADD, text);
			draft_free(&d);
			free(text);
			text = field(limits[i].name, bad[k], 'x');
			refuses(DRAFT_ADD, text, 400, "invalid-field", limits[i].name);
			free(text);
		}
		char nul[128];
		snprintf(nul, sizeof(nul), "{\"content\":\"x\",\"%s\":\"a\\u0000b\"}", limits[i].name);
		if (i)
			refuses(DRAFT_ADD, nul, 400, "invalid-field", "U+0000");
		snprintf(nul, sizeof(nul), "{\"%s\":5}", limits[i].name);
		refuses(DRAFT_ADD, nul, 400, "invalid-field", "must be a string");
	}
	refuses(DRAFT_ADD, "{\"content\":\"\\u0000\"}", 400, "invalid-field", "U+0000");
}

static void refused_fields(void **state)
{
	/* clang-format off */
	static const struct { const char *text, *type, *says; } bad[] = {
		{"{}", "invalid-field", "content: is required"},
		{"[]", "invalid-field", "body: must be a JSON object"},
		{"", "invalid-json", "is empty"},
		{"{\"content\":\"x\"", "invalid-json", "line 1"},
		{"{\"content\":\"x\",\"content\":\"y\"}", "invalid-json", "duplicate"},
		{"{\"content\":null}", "invalid-field", "content: must be a string"},
		{"{\"content\":\"x\",\"text\":\"y\"}", "unknown-field", "goes into \"content\""},
		{"{\"content\":\"x\",\"id\":\"y\"}", "unknown-field", "use external_id"},
		{"{\"content\":\"x\",\"version\":2}", "unknown-field", "version"},
		{"{\"content\":\"x\",\"metadata\":[]}", "invalid-field", "must be a JSON object"},
		{"{\"content\":\"x\",\"metadata\":{\"a\":[\"\\u0000\"]}}", "invalid-field", "U+0000"},
		{"{\"content\":\"x\",\"importance\":1.0001}", "invalid-field", "from 0 to 1"},
		{"{\"content\":\"x\",\"importance\":-0.1}", "invalid-field", "from 0 to 1"},
		{"{\"content\":\"x\",\"importance\":\"1\"}", "invalid-field", "from 0 to 1"},
		{"{\"content\":\"x\",\"pinned\":1}", "invalid-field", "true or false"},
		{"{\"content\":\"x\",\"ttl\":0}", "invalid-field", "seconds above 0"},
		{"{\"content\":\"x\",\"ttl_seconds\":3153600001}", "invalid-field", "3153600000"},
		{"{\"content\":\"x\",\"expires_at\":\"2020-01-01T00:00:00Z\"}", "invalid-field", "in the future"},
		{"{\"content\":\"x\",\"expires_at\":5}", "invalid-field", "RFC 3339"},
		{"{\"content\":\"x\",\"created_at\":\"1969-12-31T23:59:59Z\"}", "invalid-field", "after 1970"},
		{"{\"content\":\"x\",\"created_at\":\"9999-12-31T23:59:59-01:00\"}", "invalid-field", "RFC 3339"},
		{"{\"content\":\"x\",\"embedding\":[]}", "invalid-field", "1 to 4096"},
		{"{\"content\":\"x\",\"embedding\":[0,-0.0]}", "invalid-field", "zero vector"},
		{"{\"content\":\"x\",\"embedding\":[1,\"2\"]}", "invalid-field", "element 1"},
		{"{\"content\":\"x\",\"embedding\":[1,2,1e39]}", "invalid-field", "element 2"},
		{"{\"content\":\"x\",\"embedding\":5}", "invalid-field", "array of numbers"},
		{"{\"content\":\"x\",\"embeddin\\u0067\":5}", "invalid-field", "array of numbers"},
		{"{\"content\":\"x\",\"embedding\":{}}", "invalid-field", "array of numbers"},
		{"{\"content\":\"x\",\"embedding\":\"AACAP\"}", "invalid-field", "base64"},
		{"{\"content\":\"x\",\"embedding\":\"AACAf===\"}", "invalid-field", "base64"},
		{"{\"content\":\"x\",\"embedding\":\"AADAfw==\"}", "invalid-field", "embedding"}, /* NaN */
		{"{\"content\":\"x\",\"embedding_model\":\"m\"}", "invalid-field", "without an embedding"}};
	/* clang-format on */
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		refuses(DRAFT_ADD, bad[i].text, 400, bad[i].type, bad[i].says);
	refuses(DRAFT_ADD, "{\"content\":\"x\",\"infer\":true}", 501, "extraction-unavailable", "infer");
	/* A byte that is NUL ends nothing. */
	forget();
	assert_false(body_json_parse(&call, (struct span){"{\"content\":\"x\"}\0{}", 18}, &body));
	assert_non_null(memmem(call.reply.body.p, call.reply.body.len, "byte 15", 7));
}

static void metadata_limits(void **state)
{
	(void)state;
	struct draft d;
	for (unsigned over = 0; over < 2; over++) {
		struct buf deep = {0}, wide = {0};
		buf_adds(&deep, "{\"content\":\"x\",\"metadata\":{\"a\":");
		for (unsigned i = 0; i < LIMIT_METADATA_DEPTH - 1 + over; i++)
			buf_addc(&deep, '[');
		for (unsigned i = 0; i < LIMIT_METADATA_DEPTH - 1 + over; i++)
			buf_addc(&deep, ']');
		buf_adds(&deep, "}}");
		buf_addc(&deep, 0);
		buf_adds(&wide, "{\"content\":\"x\",\"metadata\": { \"a\" : \"");
		for (unsigned i = 0; i < LIMIT_METADATA - 8 + over; i++)
			buf_addc(&wide, 'x');
		buf_adds(&wide, "\"}}");
		buf_addc(&wide, 0);
		if (over) {
			refuses(DRAFT_ADD, deep.p, 400, "invalid-field", "64 levels");
			refuses(DRAFT_ADD, wide.p, 400, "invalid-field", "16384 bytes");
		} else {
			accepts(&d, DRAFT_ADD, deep.p);
			draft_free(&d);
			accepts(&d, DRAFT_ADD, wide.p);
			assert_int_equal(strlen(d.metadata), LIMIT_METADATA);
			draft_free(&d);
		}
		buf_free(&deep);
		buf_free(&wide);
	}
}

/* ---- vectors ---- */

static void vectors(void **state)
{
	(void)state;
	struct draft d;
	api.embedder = embed_hashed();
	accepts(&d, DRAFT_ADD, "{\"embedding\":\"AACAPwAAAEA=\",\"content\":\"red apples\"}");
	assert_true(draft_embed(&call, &d, NULL, ""));
	assert_true(d.dim == 2 && d.embedding[0] == 1 && d.embedding[1] == 2 && d.client_vector);
	assert_true(span_eq(d.embedder, SPAN_LIT("client:2")));
	draft_free(&d);
	/* none given: ours; null given: none */
	accepts(&d, DRAFT_ADD, "{\"content\":\"red apples\"}");
	assert_true(draft_embed(&call, &d, NULL, ""));
	assert_true(d.dim == api.embedder->dimensions && !d.client_vector &&
		    span_eq(d.embedder, SPAN(api.embedder->id)));
	draft_free(&d);
	accepts(&d, DRAFT_ADD, "{\"content\":\"red apples\",\"embedding\":null}");
	assert_true(draft_embed(&call, &d, NULL, ""));
	assert_int_equal(d.dim, 0);
	draft_free(&d);
	/* a namespace of another space */
	struct plant_namespace row = {.dim = 2};
	memcpy(row.embedder, "client:2", 9);
	accepts(&d, DRAFT_ADD, "{\"content\":\"red apples\"}");
	assert_true(draft_embed(&call, &d, &row, ""));
	assert_int_equal(d.dim, 0);
	draft_free(&d);
	accepts(&d, DRAFT_ADD, "{\"content\":\"red apples\",\"embedding\":[1,2,3]}");
	assert_false(draft_embed(&call, &d, &row, ""));
	assert_int_equal(call.reply.status, 409);
	draft_free(&d);
	accepts(&d, DRAFT_ADD, "{\"content\":\"red apples\",\"embedding\":[1,2],\"embedding_model\":\"other\"}");
	assert_false(draft_embed(&call, &d, &row, ""));
	draft_free(&d);
	accepts(&d, DRAFT_ADD, "{\"content\":\"red apples\",\"embedding\":[1,2]}");
	assert_true(draft_embed(&call, &d, &row, ""));
	draft_free(&d);
	api.embedder = NULL;
}

/* In a bulk each memory has its own vector, wherever the others lie in the body. */
static void vectors_of_a_bulk(void **state)
{
	static const float want[][2] = {{1, 2}, {5, 6}};
	(void)state;
	forget();
	assert_true(body_json_parse(
		&call,
		SPAN_LIT(
			"{\"memories\":[{\"embedding\":[1,2],\"content\":\"a\"},{\"content\":\"b\",\"metadata\":{\"embedding\":[9]}},"
			"{\"content\":\"c\",\"embedding\":[5,6]}]}"),
		&body));
	json_t *list = json_object_get(body.root, "memories");
	for (size_t i = 0; i < 3; i++) {
		struct draft d;
		draft_init(&d);
		assert_true(draft_read(&call, &body, json_array_get(list, i), DRAFT_ADD, "", &d));
		if (i == 1)
			assert_string_equal(d.metadata, "{\"embedding\":[9]}");
		else
			assert_memory_equal(d.embedding, want[i / 2], sizeof(want[0]));
		assert_int_equal(d.dim, i == 1 ? 0 : 2);
		draft_free(&d);
	}
}

/* ---- patch ---- */

static void patched(const char *patch, const char *expect)
{
	static const float x[2] = {1, 2};
	struct draft first, d;
	struct buf b = {0};
	struct memory m;
	accepts(&first, DRAFT_ADD,
		"{\"content\":\"old\",\"kind\":\"k\",\"user_id\":\"u\",\"importance\":0.25,\"pinned\":true,"
		"\"metadata\":{\"a\":{\"b\":1,\"c\":2},\"d\":[1]},\"expires_at\":\"2999-01-01T00:00:00Z\"}");
	first.created_us = first.updated_us = 1000000;
	first.embedding = x;
	first.dim = 2;
	first.embedder = SPAN_LIT("client:2");
	first.client_vector = true;
	draft_memory(&first, SPAN_LIT("n"), 3, &b, &m);
	assert_true(draft_from_memory(&d, &m));
	if (!read_over(&d, DRAFT_PATCH, patch))
		fail_msg("%s: %.*s", patch, (int)call.reply.body.len, call.reply.body.p);
	char *text = canonical(&d, d.version);
	if (!strstr(text, expect))
		fail_msg("%s\ngave %s\nwanted %s", patch, text, expect);
	free(text);
	draft_free(&d);
	draft_free(&first);
	buf_free(&b);
}

static void patches(void **state)
{
	(void)state;
	patched("{}",
		"\"content\":\"old\",\"kind\":\"k\",\"user_id\":\"u\",\"importance\":0.25,\"pinned\":true,\"embedding_model\":\"client:2\","
		"\"metadata\":{\"a\":{\"b\":1,\"c\":2},\"d\":[1]},\"created_at\":\"1970-01-01T00:00:01.000000Z\",\"updated_at\":"
		"\"1970-01-01T00:00:01.000000Z\",\"expires_at\":\"2999-01-01T00:00:00.000000Z\",\"version\":3}");
	patched("{\"content\":\"new\"}", "\"content\":\"new\",\"kind\":\"k\"");
	patched("{\"kind\":null}", "\"content\":\"old\",\"user_id\"");
	patched("{\"importance\":null}", "\"importance\":0.5");
	patched("{\"pinned\":null}", "\"importance\":0.25,\"embedding_model\"");
	patched("{\"embedding\":null}", "\"pinned\":true,\"metadata\"");
	patched("{\"expires_at\":null}", "\"updated_at\":\"1970-01-01T00:00:01.000000Z\",\"version\"");
	/* RFC 7396 */
	patched("{\"metadata\":{\"a\":{\"b\":null,\"e\":{\"f\":null,\"g\":1}},\"d\":{\"x\":2}}}",
		"\"metadata\":{\"a\":{\"c\":2,\"e\":{\"g\":1}},\"d\":{\"x\":2}}");
	patched("{\"metadata\":{\"a\":7,\"d\":null,\"h\":[null]}}", "\"metadata\":{\"a\":7,\"h\":[null]}");
	patched("{\"metadata\":null}", "\"metadata\":{}");
	refuses(DRAFT_PATCH, "{\"created_at\":\"2026-01-01T00:00:00Z\"}", 400, "invalid-field", "cannot be changed");
	refuses(DRAFT_PATCH, "{\"namespace\":\"n\"}", 400, "invalid-field", "cannot be changed");
	refuses(DRAFT_PATCH, "{\"infer\":false}", 400, "unknown-field", "infer");
	refuses(DRAFT_PATCH, "{\"version\":2}", 400, "unknown-field", "version");
}

/* ---- import, and back ---- */

static void an_exported_line(void **state)
{
	static const char line[] =
		"{\"id\":\"0189b3f0-5a5a-7abc-8def-00000000005a\",\"namespace\":\"home\",\"content\":\"x\",\"importance\":0.5,"
		"\"embedding_model\":\"m\",\"metadata\":{},\"created_at\":\"2020-01-01T00:00:00.000000Z\",\"updated_at\":\"2021-01-01T00:00:00.000000Z\","
		"\"expires_at\":\"2021-06-01T00:00:00.000000Z\",\"valid_from\":\"2020-01-01T00:00:00.000000Z\",\"valid_to\":\"2020-02-01T00:00:00.000000Z\","
		"\"supersedes\":\"0189b3f0-5a5a-7abc-8def-00000000005b\",\"superseded_by\":\"0189b3f0-5a5a-7abc-8def-00000000005c\",\"version\":9}";
	struct draft d;
	(void)state;
	accepts(&d, DRAFT_IMPORT, line);
	char *text = canonical(&d, d.version), want[sizeof(line)];
	const char *cut = strstr(line, "\"embedding_model\":\"m\",");
	snprintf(want, sizeof(want), "%.*s%s", (int)(cut - line), line, cut + 22);
	assert_string_equal(text, want); /* the line came without its vector */
	assert_true(d.superseded);
	free(text);
	draft_free(&d);
	refuses(DRAFT_IMPORT, "{\"content\":\"x\",\"version\":0}", 400, "invalid-field", "above 0");
	refuses(DRAFT_IMPORT, "{\"content\":\"x\",\"id\":\"7\"}", 400, "invalid-field", "UUID");
	refuses(DRAFT_IMPORT, "{\"content\":\"x\",\"superseded_by\":null}", 400, "invalid-field", "UUID");
}

/* Numbers come back as the same bytes. */
static void numbers_are_stable(void **state)
{
	static const char *const importances[] = {
		"0", "1", "0.1", "0.30000000000000004", "1e-7", "-0.0", "-0", "0.3333333333333333", "5e-324"};
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(importances); i++) {
		char text[128];
		struct draft d, again;
		struct buf a = {0}, b = {0};
		struct memory m, n;
		snprintf(text, sizeof(text), "{\"content\":\"x\",\"importance\":%s,\"metadata\":{\"v\":%s}}",
			 importances[i], importances[i]);
		accepts(&d, DRAFT_ADD, text);
		d.created_us = d.updated_us = 1000000;
		draft_memory(&d, SPAN_LIT("n"), 1, &a, &m);
		assert_true(draft_from_memory(&again, &m));
		draft_memory(&again, SPAN_LIT("n"), 1, &b, &n);
		if (!span_eq(m.body, n.body))
			fail_msg("%.*s\n%.*s", (int)m.body.len, m.body.p, (int)n.body.len, n.body.p);
		assert_true(m.importance == n.importance);
		assert_true(again.importance == strtod(importances[i], NULL));
		draft_free(&d);
		draft_free(&again);
		buf_free(&a);
		buf_free(&b);
	}
}

static int tidy(void **state)
{
	(void)state;
	forget();
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(a_whole_memory),	cmocka_unit_test(the_least_memory),
					   cmocka_unit_test(limits_of_text),	cmocka_unit_test(refused_fields),
					   cmocka_unit_test(metadata_limits),	cmocka_unit_test(vectors),
					   cmocka_unit_test(vectors_of_a_bulk), cmocka_unit_test(patches),
					   cmocka_unit_test(an_exported_line),	cmocka_unit_test(numbers_are_stable)};
	return cmocka_run_group_tests(tests, NULL, tidy);
}
