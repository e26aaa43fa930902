/* conf_edit(): every form in which people write, byte for byte; and for each, what the parser then reads. A setting that is
 * changed in the wrong place, a comment or a line end that is lost, or a value that reads otherwise fails here. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

#include "conf.h"

static struct conf *load(const char *text, size_t len)
{
	struct conf_draft draft = {"/dev/null", {text, len}};
	struct conf_input in = {.file = "/dev/null", .parts = true, .drafts = &draft, .ndrafts = 1};
	char *error = NULL;
	struct conf *c = conf_load(&in, &error);
	if (!c)
		print_error("%s\n", error);
	free(error);
	return c;
}

/* The text after the change, and that it says so and nothing else is another. */
static void becomes(const char *text, enum conf_key k, const char *value, const char *want)
{
	struct buf out = {0};
	char *error = NULL;
	bool ok = conf_edit(SPAN(text), k, value, &out, &error);
	if (!ok)
		print_error("%s\n", error);
	assert_true(ok);
	struct conf *before = load(text, strlen(text)), *after = load(out.p, out.len);
	assert_non_null(before);
	assert_non_null(after);
	assert_string_equal(conf_str(after, k), value);
	for (int i = 0; i < CONF_KEY_COUNT; i++)
		if (i != (int)k)
			assert_string_equal(conf_str(before, (enum conf_key)i), conf_str(after, (enum conf_key)i));
	buf_addc(&out, '\0');
	if (want)
		assert_string_equal(out.p, want);
	conf_free(&before);
	conf_free(&after);
	buf_free(&out);
}

static void refused(const char *text, enum conf_key k, const char *value, const char *word)
{
	struct buf out = {0};
	char *error = NULL;
	assert_false(conf_edit(SPAN(text), k, value, &out, &error));
	if (!strstr(error, word))
		print_error("%s\n", error);
	assert_non_null(strstr(error, word));
	free(error);
	buf_free(&out);
}

static void test_changes_in_place(void **state)
{
	(void)state;
	becomes("# mine\nsync: {\n\tdebounce_ms = 50; # quick\n};\n", CONF_SYNC_DEBOUNCE_MS, "70",
		"# mine\nsync: {\n\tdebounce_ms = 70; # quick\n};\n");
	becomes("sync = { debounce_ms : 50, batch_max = 9 };", CONF_SYNC_DEBOUNCE_MS, "70",
		"sync = { debounce_ms : 70, batch_max = 9 };");
	becomes("sync:{debounce_ms=0x32}", CONF_SYNC_DEBOUNCE_MS, "70", "sync:{debounce_ms=70}");
	becomes("sync:{debounce_ms=50 batch_max=9}", CONF_SYNC_BATCH_MAX, "500", "sync:{debounce_ms=50 batch_max=500}");
	becomes("user = \"ada\"; // who\n", CONF_USER, "ben", "user = \"ben\"; // who\n");
	becomes("cache: { ttl = \"1 h\" /* long */ ; }", CONF_CACHE_TTL, "5 min",
		"cache: { ttl = \"5 min\" /* long */ ; }");
	becomes("cache: { ttl = \"1 \" \"h\"; }", CONF_CACHE_TTL, "5 min", "cache: { ttl = \"5 min\"; }");
}

static void test_looks_where_libconfig_looks(void **state)
{
	(void)state;
	/* Comments and strings that look like the setting, or like an end. */
	becomes("# sync: { debounce_ms = 1; };\n/* sync: { debounce_ms = 2; } */\nuser = \"sync: { debounce_ms = 3; }\";\n"
		"sync: { /* } */ batch_max = 7; # }\n debounce_ms = 50; };\n",
		CONF_SYNC_DEBOUNCE_MS, "70",
		"# sync: { debounce_ms = 1; };\n/* sync: { debounce_ms = 2; } */\nuser = \"sync: { debounce_ms = 3; }\";\n"
		"sync: { /* } */ batch_max = 7; # }\n debounce_ms = 70; };\n");
	becomes("user = \"a\\\"b\\\\\"; sync: { debounce_ms = 50; };", CONF_SYNC_DEBOUNCE_MS, "70",
		"user = \"a\\\"b\\\\\"; sync: { debounce_ms = 70; };");
	/* The same name elsewhere: in another section, inside a list. */
	becomes("warmer: { every = \"1 h\"; };\npinger: { targets = ( { name = \"x\"; url = \"http://h/\"; every = 3; } ); };\n",
		CONF_WARMER_EVERY, "2 h",
		"warmer: { every = \"2 h\"; };\npinger: { targets = ( { name = \"x\"; url = \"http://h/\"; every = 3; } ); };\n");
}

static void test_adds(void **state)
{
	(void)state;
	becomes("", CONF_SYNC_DEBOUNCE_MS, "70", "sync: {\n\tdebounce_ms = 70;\n};\n");
	becomes("", CONF_USER, "ada", "user = \"ada\";\n");
	becomes("user = \"a\";", CONF_CACHE_TTL, "1 h", "user = \"a\";\n\ncache: {\n\tttl = \"1 h\";\n};\n");
	becomes("sync: {\n    batch_max = 9;\n    # more to come\n};\n", CONF_SYNC_DEBOUNCE_MS, "70",
		"sync: {\n    batch_max = 9;\n    # more to come\n    debounce_ms = 70;\n};\n");
	becomes("sync: {\n};\n", CONF_SYNC_DEBOUNCE_MS, "70", "sync: {\n\tdebounce_ms = 70;\n};\n");
	becomes("sync: { batch_max = 9; };\n", CONF_SYNC_DEBOUNCE_MS, "70",
		"sync: { batch_max = 9; debounce_ms = 70; };\n");
	becomes("sync: {};\n", CONF_SYNC_DEBOUNCE_MS, "70", "sync: { debounce_ms = 70; };\n");
	becomes("sync: {\n\tbatch_max = 9\n}\n", CONF_SYNC_DEBOUNCE_MS, "70",
		"sync: {\n\tbatch_max = 9\n\tdebounce_ms = 70;\n}\n");
	becomes("sync: {\n\tbatch_max = 9; }\n", CONF_SYNC_DEBOUNCE_MS, "70",
		"sync: {\n\tbatch_max = 9; debounce_ms = 70; }\n");
	becomes("sync: { batch_max = 9 # x\n }", CONF_SYNC_DEBOUNCE_MS, "70", NULL);
}

static void test_line_ends_and_marks(void **state)
{
	(void)state;
	becomes("\xef\xbb\xbfsync: {\r\n\tbatch_max = 9;\r\n};\r\n", CONF_SYNC_DEBOUNCE_MS, "70",
		"\xef\xbb\xbfsync: {\r\n\tbatch_max = 9;\r\n\tdebounce_ms = 70;\r\n};\r\n");
	becomes("sync: {\r\n\tdebounce_ms = 50;\r\n};\r\n", CONF_SYNC_DEBOUNCE_MS, "70",
		"sync: {\r\n\tdebounce_ms = 70;\r\n};\r\n");
	becomes("user = \"a\";\r\n", CONF_SYNC_DEBOUNCE_MS, "70",
		"user = \"a\";\r\n\r\nsync: {\r\n\tdebounce_ms = 70;\r\n};\r\n");
}

static void test_values(void **state)
{
	(void)state;
	becomes("listen: { names = [\"a.example\"]; };", CONF_LISTEN_NAMES, "[\"b.example\",\"c.example\"]",
		"listen: { names = (\"b.example\", \"c.example\"); };");
	becomes("", CONF_PINGER_TARGETS, "[{\"name\":\"x\",\"url\":\"http://h/\",\"interval\":\"5 s\",\"expect\":200}]",
		NULL);
	/* JSON that libconfig has not: as a string, which reads the same. */
	becomes("", CONF_PINGER_TARGETS, "[{\"a b\":null,\"n\":1.5}]", NULL);
	becomes("", CONF_USER, "q\"uo\\te", "user = \"q\\\"uo\\\\te\";\n");
	becomes("", CONF_VECTORS_FLAT_ROWS, "4294967295", "vectors: {\n\tflat_rows = 4294967295L;\n};\n");
	becomes("", CONF_CACHE_L1_BYTES, "64 MiB", "cache: {\n\tl1_bytes = \"64 MiB\";\n};\n");
}

static void test_the_last_counts(void **state)
{
	(void)state;
	/* A file is cut at its includes, so that a section may come twice; the later one wins. */
	struct buf out = {0};
	char *error = NULL;
	const char *text = "sync: { debounce_ms = 1; };\n@include \"other.conf\"\nsync: { debounce_ms = 2; };\n";
	assert_true(conf_edit(SPAN(text), CONF_SYNC_DEBOUNCE_MS, "70", &out, &error));
	buf_addc(&out, '\0');
	assert_string_equal(out.p,
			    "sync: { debounce_ms = 1; };\n@include \"other.conf\"\nsync: { debounce_ms = 70; };\n");
	buf_free(&out);
}

static void test_what_is_not_clean_is_refused(void **state)
{
	(void)state;
	refused("listen: { names = (\"a.example\", # ours\n \"b.example\"); };", CONF_LISTEN_NAMES, "[]",
		"holds a comment");
	refused("cache: { ttl = \"1 \" /* one */ \"h\"; };", CONF_CACHE_TTL, "1 s", "holds a comment");
	refused("sync: {\n\tdebounce_ms = 5;\n", CONF_SYNC_DEBOUNCE_MS, "1", "never ends");
	refused("a\n/* no end", CONF_SYNC_DEBOUNCE_MS, "1", "line 2");
	refused("user = \"no end", CONF_USER, "a", "never ends");
	refused("sync: {};}", CONF_SYNC_DEBOUNCE_MS, "1", "too many");
	refused("sync debounce", CONF_SYNC_DEBOUNCE_MS, "1", "no value");
	refused("sync: { debounce_ms = ; }", CONF_SYNC_DEBOUNCE_MS, "1", "value is missing");
	refused("@include other", CONF_SYNC_DEBOUNCE_MS, "1", "names no file");
}

/* Cut anywhere and changed: never beyond its end (ASan), never a result that the parser reads as something else. */
static void test_every_cut(void **state)
{
	static const char text[] =
		"# c\n@include \"x\"\nsync: { debounce_ms = 5; /* d */ list = ( 1, [2], { a = \"b\\\"\"; } ); };\nuser = "
		"\"x\" \"y\";\n";
	(void)state;
	for (size_t n = 0; n < sizeof(text); n++) {
		char *cut = malloc(n ? n : 1); /* no byte behind it */
		struct buf out = {0};
		char *error = NULL;
		assert_non_null(cut);
		memcpy(cut, text, n);
		if (conf_edit((struct span){cut, n}, CONF_SYNC_BATCH_MAX, "3", &out, &error))
			assert_true(out.len > n);
		else
			assert_non_null(error);
		free(error);
		free(cut);
		buf_free(&out);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_changes_in_place),
		cmocka_unit_test(test_looks_where_libconfig_looks),
		cmocka_unit_test(test_adds),
		cmocka_unit_test(test_line_ends_and_marks),
		cmocka_unit_test(test_values),
		cmocka_unit_test(test_the_last_counts),
		cmocka_unit_test(test_what_is_not_clean_is_refused),
		cmocka_unit_test(test_every_cut),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
