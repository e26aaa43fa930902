/* Configuration: every type and bound, messages, precedence, includes, and the round trips of dump,
 * sample and effective copy. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "conf-private.h"
#include "conf_model.h"
#include "log.h"

static char dir[] = "/tmp/orchestra-conf-XXXXXX";
/* Without these the defaults would depend on who runs the test. */
#define HOME_ENV "STATE_DIRECTORY=/var/tmp/state", "RUNTIME_DIRECTORY=/var/tmp/run:/other"
static char *const base_env[] = {HOME_ENV, NULL};

static const char *in_dir(const char *name)
{
	static char path[4][256];
	static unsigned turn;
	char *p = path[turn++ % 4];
	snprintf(p, sizeof(path[0]), "%s/%s", dir, name);
	return p;
}

static const char *write_bytes(const char *name, const char *text, size_t len)
{
	const char *path = in_dir(name);
	FILE *f = fopen(path, "w");
	assert_non_null(f);
	assert_int_equal(fwrite(text, 1, len, f), len);
	fclose(f);
	return path;
}

static const char *write_file(const char *name, const char *text) { return write_bytes(name, text, strlen(text)); }

/* Loads and wants a refusal whose text contains each of the NULL-ended words. */
static void refused(const char *file, char *const *env, const char *const *sets, ...)
{
	char *error = NULL;
	struct conf *c = conf_model_load(file, env, sets, &error);
	va_list ap;
	assert_null(c);
	assert_non_null(error);
	va_start(ap, sets);
	for (const char *word; (word = va_arg(ap, const char *));)
		if (!strstr(error, word)) {
			fprintf(stderr, "\"%s\" is not in: %s\n", word, error);
			fail();
		}
	va_end(ap);
	assert_true(util_utf8_valid(error, strlen(error)));
	free(error);
}

static void set_refused(const char *set, const char *word)
{
	const char *sets[] = {set, NULL};
	refused("/dev/null", base_env, sets, "--set", word, NULL);
}

static int64_t set_int(const char *set, enum conf_key k)
{
	const char *sets[] = {set, NULL};
	struct conf *c = conf_model_must_load("/dev/null", base_env, sets);
	int64_t v = conf_int(c, k);
	assert_string_equal(conf_source(c, k), "flag");
	conf_free(&c);
	return v;
}

static void set_text(const char *set, enum conf_key k, const char *want)
{
	const char *sets[] = {set, NULL};
	struct conf *c = conf_model_must_load("/dev/null", base_env, sets);
	char *text = conf_text(c, k);
	assert_string_equal(text, want);
	free(text);
	conf_free(&c);
}

/* ---- types ---- */

static void test_defaults(void **state)
{
	(void)state;
	struct conf *c = conf_model_must_load("/dev/null", base_env, NULL);
	assert_string_equal(conf_str(c, CONF_LISTEN_TCP), "127.0.0.1:7700");
	assert_int_equal(conf_int(c, CONF_SYNC_DEBOUNCE_MS), 100);
	assert_int_equal(conf_int(c, CONF_SYNC_BATCH_MAX), 500);
	assert_int_equal(conf_int(c, CONF_CACHE_L1_BYTES), 64 << 20);
	assert_int_equal(conf_int(c, CONF_VECTORS_MAX_BYTES), INT64_C(4) << 30);
	assert_int_equal(conf_int(c, CONF_MEMORIES_TRASH_TTL), INT64_C(30) * 86400 * 1000000);
	assert_string_equal(conf_str(c, CONF_DATA_DIR), "/var/tmp/state");
	assert_string_equal(conf_str(c, CONF_LISTEN_UNIX), "/var/tmp/run/orchestra.sock");
	assert_string_equal(conf_str(c, CONF_STORE_DSN), "/var/tmp/state/store.db");
	assert_in_range(conf_int(c, CONF_API_WORKERS), 1, 4);
	for (int k = 0; k < CONF_KEY_COUNT; k++) {
		assert_string_equal(conf_source(c, (enum conf_key)k), "default");
		assert_int_equal(conf_find(conf_key_name((enum conf_key)k), strlen(conf_key_name((enum conf_key)k))),
				 k);
	}
	assert_int_equal(conf_find("listen.tc", 9), -1);
	assert_int_equal(conf_find("listen.tcpx", 11), -1);
	assert_int_equal(conf_find("", 0), -1);
	conf_free(&c);
	assert_null(c);
	conf_free(&c);
}

static void test_sizes(void **state)
{
	(void)state;
	/* clang-format off */
	static const struct {
		const char *set;
		int64_t want;
	} good[] = {
		{"cache.l1_bytes=256 MiB", INT64_C(256) << 20}, {"cache.l1_bytes=2048k", 2 << 20},
		{"cache.l1_bytes=1048576", 1 << 20},            {"cache.l1_bytes=1.5 GiB", INT64_C(3) << 29},
		{"cache.l1_bytes= 2M ", 2 << 20},               {"cache.l1_bytes=2 MB", 2000000},
		{"cache.l1_bytes=1 TiB", INT64_C(1) << 40},     {"cache.l1_bytes=4294967296", INT64_C(1) << 32},
		{"cache.l1_bytes=1048577 B", 1048577},          {"cache.l1_bytes=0.5G", 1 << 29},
		{"cache.l1_bytes=0.000001TiB", 1099511},
	};
	/* clang-format on */
	for (size_t i = 0; i < ARRAY_LEN(good); i++)
		assert_true(set_int(good[i].set, CONF_CACHE_L1_BYTES) == good[i].want);
	set_refused("cache.l1_bytes=0.000001TiB x", "unknown unit");
	set_refused("cache.l1_bytes=1048575", "too small");
	set_refused("cache.l1_bytes=1025 GiB", "too large");
	set_refused("cache.l1_bytes=9223372036854775807", "too large");
	set_refused("cache.l1_bytes=9223372036854775808", "too large");
	set_refused("cache.l1_bytes=99999999999999999999999999 TiB", "too large");
	set_refused("cache.l1_bytes=8388608.5 TiB", "too large");
	set_refused("cache.l1_bytes=-1", "is negative");
	set_refused("cache.l1_bytes=", "no number");
	set_refused("cache.l1_bytes=1.5", "has no unit");
	set_refused("cache.l1_bytes=1. MiB", "after the point");
	set_refused("cache.l1_bytes=1.1234567 MiB", "after the point");
	set_refused("cache.l1_bytes=1 Mib", "unknown unit; there are B, KiB, MiB");
	set_refused("cache.l1_bytes=0x100000", "unknown unit");
	set_refused("cache.l1_bytes=10", "a size from 1 MiB to 1 TiB; the default is 64 MiB");
	set_text("cache.l1_bytes=65536k", CONF_CACHE_L1_BYTES, "64 MiB");
	set_text("cache.l1_bytes=1048577", CONF_CACHE_L1_BYTES, "1048577 B");
	set_text("cache.l1_bytes=3 MB", CONF_CACHE_L1_BYTES, "3000000 B");
}

static void test_durations(void **state)
{
	(void)state;
	assert_int_equal(set_int("http.head_timeout=100 ms", CONF_HTTP_HEAD_TIMEOUT), 100000);
	assert_int_equal(set_int("http.head_timeout=100000us", CONF_HTTP_HEAD_TIMEOUT), 100000);
	assert_int_equal(set_int("http.head_timeout=100000 µs", CONF_HTTP_HEAD_TIMEOUT), 100000);
	assert_int_equal(set_int("http.head_timeout=10s", CONF_HTTP_HEAD_TIMEOUT), 10000000);
	assert_int_equal(set_int("http.head_timeout=1.5 min", CONF_HTTP_HEAD_TIMEOUT), 90000000);
	assert_int_equal(set_int("http.head_timeout=1 h", CONF_HTTP_HEAD_TIMEOUT), INT64_C(3600000000));
	assert_int_equal(set_int("memories.trash_ttl=365 d", CONF_MEMORIES_TRASH_TTL), INT64_C(31536000000000));
	assert_int_equal(set_int("memories.trash_ttl=0", CONF_MEMORIES_TRASH_TTL), 0);
	set_refused("http.head_timeout=99 ms", "too small");
	set_refused("http.head_timeout=61m", "too large");
	set_refused("http.head_timeout=10", "has no unit");
	set_refused("http.head_timeout=10 minutes", "unknown unit");
	set_refused("http.head_timeout=fast", "a duration from 100 ms to 1 h; the default is 10 s");
	set_text("http.head_timeout=1500ms", CONF_HTTP_HEAD_TIMEOUT, "1500 ms");
	set_text("http.head_timeout=120 s", CONF_HTTP_HEAD_TIMEOUT, "2 min");
	set_text("memories.trash_ttl=0", CONF_MEMORIES_TRASH_TTL, "0 s");
}

static void test_numbers_words_lists(void **state)
{
	(void)state;
	assert_int_equal(set_int("api.workers=32", CONF_API_WORKERS), 32);
	set_refused("api.workers=33", "0 to 32");
	set_refused("api.workers=-1", "too small");
	set_refused("api.workers=2.0", "no whole number");
	set_refused("api.workers=two", "no whole number");
	set_refused("api.workers=99999999999999999999", "too large");
	set_refused("api.workers=", "no whole number");
	set_text("log.level=debug", CONF_LOG_LEVEL, "debug");
	set_refused("log.level=inof", "did you mean info?");
	set_refused("log.level=", "one of error, warn, info, debug");
	set_refused("log.level=info|debug", "not among the choices");
	set_text("pinger.targets=[ {\"url\" : \"a=b\" , \"a\":1.5} ]", CONF_PINGER_TARGETS,
		 "[{\"url\":\"a=b\",\"a\":1.5}]");
	set_text("pinger.targets={\"z\":1,\"a\":null}", CONF_PINGER_TARGETS, "[{\"z\":1,\"a\":null}]");
	set_refused("pinger.targets=[1", "no JSON");
	set_refused("pinger.targets=7", "no JSON");
	set_refused("pinger.targets=[{\"a\":1,\"a\":2}]", "no JSON");
	set_refused("user=a\nb", "control character");
	set_refused("user=\xff", "no UTF-8");
	set_text("user=\xc3\xa9", CONF_USER, "\xc3\xa9");
}

/* No key of the table is a BOOL yet; the type works nevertheless. */
static void test_bool(void **state)
{
	(void)state;
	static const struct conf_option o = {"x.y", CONF_T_BOOL, "false", 0, 0, "", 0, ""};
	static const char *const yes[] = {"true", "YES", "on", "1"}, *const no[] = {"false", "No", "off", "0"};
	static const char *const bad[] = {"", "2", "tru", "truee", "yes please"};
	for (size_t i = 0; i < 4; i++) {
		struct buf b = {0};
		int64_t v = 7;
		assert_true(conf_value_parse(&o, SPAN(yes[i]), &b, &v, &b));
		assert_int_equal(v, 1);
		assert_true(span_eq((struct span){b.p, b.len}, SPAN("true")));
		assert_true(conf_value_parse(&o, SPAN(no[i]), &b, &v, &b));
		assert_int_equal(v, 0);
		buf_free(&b);
	}
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct buf b = {0};
		int64_t v;
		assert_false(conf_value_parse(&o, SPAN(bad[i]), &b, &v, &b));
		buf_free(&b);
	}
}

static void test_nul_and_huge(void **state)
{
	(void)state;
	struct buf b = {0}, why = {0};
	int64_t v;
	assert_false(conf_value_parse(&conf_options[CONF_USER], (struct span){"a\0b", 3}, &b, &v, &why));
	assert_false(conf_value_parse(&conf_options[CONF_API_WORKERS], (struct span){"1\0", 2}, &b, &v, &why));
	size_t n = CONF_TEXT_MAX + 64;
	char *big = util_alloc(n + 1);
	memset(big, 'x', n);
	memcpy(big, "user=", 5);
	big[n] = '\0';
	set_refused(big, "longer than 1 MiB");
	memset(big, '[', n);
	memcpy(big, "pinger.targets=", 15);
	big[15 + CONF_TEXT_MAX] = '\0';
	set_refused(big, "no JSON");
	big[15 + 100] = '\0';
	memset(big + 15 + 50, ']', 50);
	set_refused(big, "nested too deeply");
	free(big);
	refused(write_bytes("nul.conf", "user = \"a\0b\";", 13), base_env, NULL, "nul.conf", "NUL byte", NULL);
	refused(write_file("esc.conf", "\nuser = \"a\\x00b\";"), base_env, NULL, "esc.conf:2", "NUL", NULL);
	char *fat = util_alloc(CONF_FILE_MAX + 10);
	memset(fat, ' ', CONF_FILE_MAX + 10);
	refused(write_bytes("fat.conf", fat, CONF_FILE_MAX + 10), base_env, NULL, "fat.conf", "4 MiB", NULL);
	memset(fat, '(', CONF_FILE_MAX);
	memcpy(fat, "a=", 2);
	refused(write_bytes("deep.conf", fat, 200000), base_env, NULL, "deep.conf:1", NULL);
	free(fat);
	buf_free(&b);
	buf_free(&why);
}

/* ---- the file ---- */

static void test_file(void **state)
{
	(void)state;
	const char *path = write_file(
		"good.conf", "\xef\xbb\xbf# comment with @include \"nothing\" and 99999999999\r\n"
			     "/* user = 4294967296;\n@include \"gone\"\n */\r\n"
			     "listen: { tcp = \"[::1]:7701\"; names = [\"a.example\", \"b.example\"]; };\n"
			     "cache = { l1_bytes = \"256 MiB\"; };\n"
			     "vectors = { max_bytes = 8589934592L };\n"
			     "http: { head_bytes = 65536; head_timeout = \"2 s\" };\n"
			     "api = { workers = 3; };\n"
			     "memories: { trash_ttl = 0; };\n"
			     "pinger = { targets = ( { name = \"x\"; url = \"http://h:1/\"; interval = \"5 min\";\n"
			     "  expect = [200, 204]; big = 5000000000L; half = 0.5; on = true; } ); };\n"
			     "user = \"some \" \"body\";");
	struct conf *c = conf_model_must_load(path, base_env, NULL);
	char want[300];
	snprintf(want, sizeof(want), "file:%s:5", path);
	assert_string_equal(conf_source(c, CONF_LISTEN_TCP), want);
	snprintf(want, sizeof(want), "file:%s:10", path);
	assert_string_equal(conf_source(c, CONF_MEMORIES_TRASH_TTL), want);
	assert_string_equal(conf_str(c, CONF_LISTEN_NAMES), "[\"a.example\",\"b.example\"]");
	assert_int_equal(conf_int(c, CONF_CACHE_L1_BYTES), 256 << 20);
	assert_int_equal(conf_int(c, CONF_VECTORS_MAX_BYTES), INT64_C(8) << 30);
	assert_int_equal(conf_int(c, CONF_HTTP_HEAD_BYTES), 65536);
	assert_int_equal(conf_int(c, CONF_API_WORKERS), 3);
	assert_string_equal(conf_str(c, CONF_PINGER_TARGETS),
			    "[{\"name\":\"x\",\"url\":\"http://h:1/\",\"interval\":\"5 min\",\"expect\":[200,204],"
			    "\"big\":5000000000,\"half\":0.5,\"on\":true}]");
	assert_string_equal(conf_str(c, CONF_USER), "some body");
	conf_free(&c);
	/* A single group is a list of one; JSON in a string is a list, too. */
	c = conf_model_must_load(write_file("one.conf", "pinger: { targets: { name = \"x\"; }; };"), base_env, NULL);
	assert_string_equal(conf_str(c, CONF_PINGER_TARGETS), "[{\"name\":\"x\"}]");
	conf_free(&c);
	c = conf_model_must_load(write_file("str.conf", "pinger: { targets: \"[{\\\"name\\\": 1}]\"; };"), base_env,
				 NULL);
	assert_string_equal(conf_str(c, CONF_PINGER_TARGETS), "[{\"name\":1}]");
	conf_free(&c);
	c = conf_model_must_load(write_file("empty.conf", ""), base_env, NULL);
	conf_free(&c);
}

static void test_file_errors(void **state)
{
	(void)state;
	refused(in_dir("missing.conf"), base_env, NULL, "missing.conf", "No such file", NULL);
	refused(dir, base_env, NULL, dir, "directory", NULL);
	refused(write_file("e1.conf", "\n\nlisten: { tcp = \"x\" tcp2 };"), base_env, NULL, "e1.conf:3: syntax error",
		NULL);
	refused(write_file("e2.conf", "listen: {\n tcp = 7700; };"), base_env, NULL, "e2.conf:2", "listen.tcp",
		"quotes", NULL);
	refused(write_file("e3.conf", "\nuser = \"a\";\nuser = \"b\";"), base_env, NULL, "e3.conf:3", "duplicate",
		NULL);
	refused(write_file("e4.conf", "cache = { l1_bytes = 4294967296; };"), base_env, NULL, "e4.conf:1", "4294967296",
		"31 bits", "\"4 GiB\"", NULL);
	refused(write_file("e5.conf", "cache = {\n l1_bytes = 0x180000000; };"), base_env, NULL, "e5.conf:2", "31 bits",
		NULL);
	refused(write_file("e6.conf", "cache = {\n l1_bytes = -4294967296; };"), base_env, NULL, "e6.conf:2", "31 bits",
		NULL);
	refused(write_file("e7.conf", "cache = { l1_bytes = 99999999999999999999L; };"), base_env, NULL, "63 bits",
		NULL);
	refused(write_file("e8.conf", "api = { workers = 2.5; };"), base_env, NULL, "e8.conf:1: api.workers", NULL);
	refused(write_file("e9.conf", "api = { workers = (1); };"), base_env, NULL, "api.workers: is a group or list",
		NULL);
	refused(write_file("e10.conf", "pinger = { targets = 7; };"), base_env, NULL, "pinger.targets: is no list",
		NULL);
	refused(write_file("e11.conf", "user = \"abc"), base_env, NULL, "e11.conf:1", "never ends", NULL);
	refused(write_file("e12.conf", "/* abc"), base_env, NULL, "e12.conf:1", "never ends", NULL);
	/* All errors at once, each in its place. */
	refused(write_file("e13.conf",
			   "api = { workers = 99; };\nlog: { level = \"x\"; };\n\nhttp: {\n head_bytes = \"1\"; };"),
		base_env, NULL, "e13.conf:1: api.workers", "\n", "e13.conf:2: log.level", "e13.conf:5: http.head_bytes",
		NULL);
	struct buf b = {0};
	for (int i = 0; i < 100; i++)
		buf_printf(&b, "x%d = 1;\n", i);
	refused(write_bytes("e14.conf", b.p, b.len), base_env, NULL, "e14.conf:20", "and 80 more", NULL);
	buf_free(&b);
}

static void test_unknown_keys(void **state)
{
	(void)state;
	refused(write_file("u1.conf", "listen: { tpc = \"x\"; };"), base_env, NULL, "u1.conf:1", "listen.tpc",
		"did you mean listen.tcp?", NULL);
	refused(write_file("u2.conf", "\nhtp: { head_bytes = 1; };"), base_env, NULL, "u2.conf:2",
		"did you mean http.head_bytes?", NULL);
	refused(write_file("u3.conf", "tokens_file = \"x\";"), base_env, NULL, "did you mean auth.tokens_file?", NULL);
	refused(write_file("u4.conf", "listen = 5;"), base_env, NULL, "there is no key listen", NULL);
	refused(write_file("u5.conf", "listen: { tcp: { x = 1; }; };"), base_env, NULL, "listen.tcp: is a group", NULL);
	refused(write_file("u6.conf", "qqqqqq: { wwwwwww = 1; };"), base_env, NULL,
		"there is no key qqqqqq.wwwwwww; see", NULL);
	set_refused("lsten.tcp=1", "did you mean listen.tcp?");
	set_refused("=1", "there is no key");
	set_refused("listen.tcp", "expected section.key=value");
	set_refused("", "expected section.key=value");
}

static void test_includes(void **state)
{
	(void)state;
	mkdir(in_dir("sub"), 0700);
	write_file("sub/a.conf", "log: { level = \"warn\"; format = \"json\"; };\n  @include \"b.conf\"\n");
	write_file("sub/b.conf", "\nhttp: { head_bytes = \"2 KiB\"; };");
	const char *path = write_file(
		"inc.conf", "api: { workers = 2; };\n@include \"sub/a.conf\" # why\nlog: { level = \"debug\"; };\n"
			    "sync: { batch_max = 7; };");
	struct conf *c = conf_model_must_load(path, base_env, NULL);
	char want[300];
	assert_string_equal(conf_str(c, CONF_LOG_LEVEL), "debug"); /* the later one wins */
	snprintf(want, sizeof(want), "file:%s:3", path);
	assert_string_equal(conf_source(c, CONF_LOG_LEVEL), want);
	assert_string_equal(conf_str(c, CONF_LOG_FORMAT), "json");
	snprintf(want, sizeof(want), "file:%s:2", in_dir("sub/b.conf"));
	assert_string_equal(conf_source(c, CONF_HTTP_HEAD_BYTES), want);
	snprintf(want, sizeof(want), "file:%s:4", path);
	assert_string_equal(conf_source(c, CONF_SYNC_BATCH_MAX), want);
	conf_free(&c);
	snprintf(want, sizeof(want), "@include \"%s\"\n", in_dir("sub/b.conf"));
	c = conf_model_must_load(write_file("abs.conf", want), base_env, NULL);
	assert_int_equal(conf_int(c, CONF_HTTP_HEAD_BYTES), 2048);
	conf_free(&c);
	refused(write_file("i1.conf", "\n@include \"none.conf\""), base_env, NULL, "i1.conf:2: cannot read",
		"none.conf", NULL);
	refused(write_file("i2.conf", "@include \"i2.conf\""), base_env, NULL, "i2.conf:1", "includes itself", NULL);
	refused(write_file("i3.conf", "log: {\n@include \"sub/b.conf\"\n};"), base_env, NULL, "i3.conf:2",
		"inside a group", NULL);
	refused(write_file("i4.conf", "@include sub/b.conf"), base_env, NULL, "i4.conf:1", "expected @include \"file\"",
		NULL);
	write_file("sub/bad.conf", "\n\napi: { workers = 77; };");
	refused(write_file("i5.conf", "@include \"sub/bad.conf\""), base_env, NULL, "sub/bad.conf:3: api.workers",
		NULL);
	for (int i = 0; i < 12; i++) {
		char name[32], text[64];
		snprintf(name, sizeof(name), "chain%d.conf", i);
		snprintf(text, sizeof(text), "@include \"chain%d.conf\"", i + 1);
		write_file(name, text);
	}
	refused(in_dir("chain0.conf"), base_env, NULL, "too many includes", NULL);
	struct buf b = {0};
	for (int i = 0; i < 100; i++)
		buf_adds(&b, "@include \"empty.conf\"\n");
	write_file("empty.conf", "");
	refused(write_bytes("many.conf", b.p, b.len), base_env, NULL, "too many includes", NULL);
	buf_free(&b);
}

/* ---- precedence ---- */

static void workers_from(const char *file, char *const *env, const char *set, int64_t want, const char *source)
{
	const char *sets[] = {set, NULL};
	struct conf *c = conf_model_must_load(file, env, sets);
	assert_int_equal(conf_int(c, CONF_API_WORKERS), want);
	assert_non_null(strstr(conf_source(c, CONF_API_WORKERS), source));
	conf_free(&c);
}

static void test_precedence(void **state)
{
	(void)state;
	const char *file = write_file("p.conf", "api: { workers = 5; };");
	char *const web[] = {HOME_ENV, "WEB_CONCURRENCY=7", "WORKERS_PER_CORE=32", NULL};
	char *const ours[] = {HOME_ENV, "WEB_CONCURRENCY=7", "ORCHESTRA_API_WORKERS=8", NULL};
	char *const per[] = {HOME_ENV, "WORKERS_PER_CORE=1.0", NULL};
	char *const tiny[] = {HOME_ENV, "WORKERS_PER_CORE=0.001", NULL};
	char *const huge[] = {HOME_ENV, "WORKERS_PER_CORE=1000", NULL};
	char *const none[] = {HOME_ENV, "WORKERS_PER_CORE=", "WEB_CONCURRENCY=", NULL};
	unsigned cores = conf_env_cores();
	workers_from(file, base_env, NULL, 5, "p.conf:1");
	workers_from(file, none, NULL, 5, "p.conf:1");
	workers_from(file, web, NULL, 7, "env WEB_CONCURRENCY");
	workers_from(file, ours, NULL, 8, "env ORCHESTRA_API_WORKERS");
	workers_from(file, ours, "api.workers=9", 9, "flag");
	workers_from(file, per, NULL, cores > 32 ? 32 : cores, "env WORKERS_PER_CORE");
	workers_from(file, tiny, NULL, 1, "env WORKERS_PER_CORE");
	workers_from(file, huge, NULL, 32, "env WORKERS_PER_CORE");
	workers_from(file, base_env, "api.workers=0", cores > 4 ? 4 : cores, "default");
	char *const named[] = {HOME_ENV, NULL, NULL};
	char config[300];
	snprintf(config, sizeof(config), "ORCHESTRA_CONFIG=%s", file);
	((char **)named)[2] = config;
	workers_from(NULL, named, NULL, 5, "p.conf:1");
	const char *sets[] = {"user=a", "user=b=c", NULL}; /* the last wins; the first = splits */
	struct conf *c = conf_model_must_load("/dev/null", base_env, sets);
	assert_string_equal(conf_str(c, CONF_USER), "b=c");
	conf_free(&c);
}

static void test_environment(void **state)
{
	(void)state;
	char *const env[] = {HOME_ENV,
			     "ORCHESTRA_CACHE_L1_BYTES=128 MiB",
			     "ORCHESTRA_LISTEN_UNIX_MODE=0600",
			     "ORCHESTRA_LISTEN_TCP=",
			     "ORCHESTRA_SIMD=scalar",
			     "ORCHESTRA_INCARNATION=1",
			     "ORCHESTRA_",
			     "=x",
			     "ORCHESTRA_CACHE_L1_BYTE=3",
			     "",
			     NULL};
	struct conf *c = conf_model_must_load("/dev/null", env, NULL);
	assert_int_equal(conf_int(c, CONF_CACHE_L1_BYTES), 128 << 20);
	assert_string_equal(conf_str(c, CONF_LISTEN_UNIX_MODE), "0600");
	assert_string_equal(conf_str(c, CONF_LISTEN_TCP), "");
	assert_string_equal(conf_source(c, CONF_LISTEN_TCP), "env ORCHESTRA_LISTEN_TCP");
	conf_free(&c);
	char *const bad[] = {HOME_ENV, "ORCHESTRA_API_WORKERS=x", NULL};
	refused("/dev/null", bad, NULL, "environment ORCHESTRA_API_WORKERS", "api.workers", NULL);
	static const char *const wrong[] = {
		"WEB_CONCURRENCY=0",   "WEB_CONCURRENCY=33",   "WEB_CONCURRENCY=x",
		"WORKERS_PER_CORE=-1", "WORKERS_PER_CORE=0",   "WORKERS_PER_CORE=1.2.3",
		"WORKERS_PER_CORE=.",  "WORKERS_PER_CORE=nan", "WORKERS_PER_CORE=11111111111111111"};
	for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
		char name[64];
		char *const one[] = {HOME_ENV, (char *)wrong[i], NULL};
		snprintf(name, sizeof(name), "environment %.*s", (int)strcspn(wrong[i], "="), wrong[i]);
		refused("/dev/null", one, NULL, name, NULL);
	}
}

/* A misspelt variable is a warning that names the right one; helpers are no keys and no surprise. */
static void test_unknown_variables_warn(void **state)
{
	(void)state;
	char text[2048] = "";
	char *const env[] = {HOME_ENV, "ORCHESTRA_LISTEN_TPC=x", "ORCHESTRA_SIMD=avx2", "ORCHESTRA_SOCKET=/s", NULL};
	int fds[2], saved = dup(2);
	assert_int_equal(pipe(fds), 0);
	dup2(fds[1], 2);
	struct conf *c = conf_model_must_load("/dev/null", env, NULL);
	dup2(saved, 2);
	close(saved);
	close(fds[1]);
	assert_true(read(fds[0], text, sizeof(text) - 1) > 0);
	close(fds[0]);
	assert_non_null(strstr(text, "did you mean ORCHESTRA_LISTEN_TCP?"));
	assert_null(strstr(text, "SIMD"));
	assert_null(strstr(text, "SOCKET"));
	conf_free(&c);
}

/* ---- the whole ---- */

static void test_whole(void **state)
{
	(void)state;
	static const char *const loopback[] = {"127.0.0.1:7700",       "127.9.9.9:1", "[::1]:7700", "localhost:0", "",
					       "[::ffff:127.0.0.1]:80"};
	static const char *const open[] = {
		"0.0.0.0:80",		"*:80",	       "[::]:80", "10.1.2.3:80", "[2001:db8::1]:80",
		"[::ffff:10.0.0.1]:80", "128.0.0.1:80"};
	static const char *const wrong[] = {
		"127.0.0.1", ":80",   "127.0.0.1:",	"127.0.0.1:65536",  "127.0.0.1:x",  "127.0.0.1:-1",
		"::1:7700",  "[]:80", "example.org:80", "127.0.0.1:080000", "[127.0.0.1:80"};
	char set[128];
	for (size_t i = 0; i < ARRAY_LEN(loopback); i++) {
		snprintf(set, sizeof(set), "listen.tcp=%s", loopback[i]);
		set_text(set, CONF_LISTEN_TCP, loopback[i]);
	}
	for (size_t i = 0; i < ARRAY_LEN(open); i++) {
		const char *sets[] = {set, "auth.tokens_file=/etc/tokens", NULL};
		snprintf(set, sizeof(set), "listen.tcp=%s", open[i]);
		set_refused(set, "auth.tokens_file");
		struct conf *c = conf_model_must_load("/dev/null", base_env, sets);
		conf_free(&c);
	}
	for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
		snprintf(set, sizeof(set), "listen.tcp=%s", wrong[i]);
		set_refused(set, "listen.tcp");
	}
	assert_int_equal(set_int("sync.ring_bytes=16 MiB", CONF_RING_BYTES), 16 << 20);
	set_refused("sync.ring_bytes=3 MiB", "power of two");
	static const char *const modes[] = {"999", "66", "00660", "1777", "rw", ""};
	for (size_t i = 0; i < ARRAY_LEN(modes); i++) {
		snprintf(set, sizeof(set), "listen.unix_mode=%s", modes[i]);
		set_refused(set, "octal");
	}
	set_text("listen.unix_mode=660", CONF_LISTEN_UNIX_MODE, "660");
	set_refused("listen.names=[\"http://x\"]", "item 1 is no host name");
	set_refused("listen.names=[\"ok\",3]", "item 2");
	char longer[200] = "listen.unix=/";
	memset(longer + strlen(longer), 'a', 110);
	set_refused(longer, "shorter");
	refused(write_file("w.conf", "\nlisten: { tcp = \"0.0.0.0:1\"; };"), base_env, NULL, "w.conf:2: listen.tcp",
		NULL);
}

static void test_computed_paths(void **state)
{
	(void)state;
	char *const xdg[] = {"HOME=/home/x", "XDG_RUNTIME_DIR=/run/user/7", "XDG_STATE_HOME=/home/x/st", NULL};
	char cwd[1024], want[1100];
	const char *sets[] = {"data.dir=some/where", "store.dsn=x.db", NULL};
	struct conf *c = conf_model_must_load("/dev/null", xdg, NULL);
	assert_string_equal(conf_str(c, CONF_DATA_DIR), geteuid() ? "/home/x/st/orchestra" : "/var/lib/orchestra");
	assert_string_equal(conf_str(c, CONF_LISTEN_UNIX),
			    geteuid() ? "/run/user/7/orchestra/orchestra.sock" : "/run/orchestra/orchestra.sock");
	conf_free(&c);
	assert_non_null(getcwd(cwd, sizeof(cwd)));
	c = conf_model_must_load("/dev/null", base_env, sets);
	snprintf(want, sizeof(want), "%s/some/where", cwd);
	assert_string_equal(conf_str(c, CONF_DATA_DIR), want);
	assert_string_equal(conf_source(c, CONF_DATA_DIR), "flag");
	snprintf(want, sizeof(want), "%s/x.db", cwd);
	assert_string_equal(conf_str(c, CONF_STORE_DSN), want);
	conf_free(&c);
	c = conf_model_must_load("/dev/null", NULL, NULL); /* no environment at all */
	assert_int_equal(conf_str(c, CONF_DATA_DIR)[0], '/');
	conf_free(&c);
}

/* ---- round trips ---- */

static void assert_same(const struct conf *a, const struct conf *b, bool sources)
{
	for (int k = 0; k < CONF_KEY_COUNT; k++) {
		assert_string_equal(conf_str(a, (enum conf_key)k), conf_str(b, (enum conf_key)k));
		assert_true(conf_int(a, (enum conf_key)k) == conf_int(b, (enum conf_key)k));
		if (sources)
			assert_string_equal(conf_source(a, (enum conf_key)k), conf_source(b, (enum conf_key)k));
	}
}

/* clang-format off */
static const char *const rich[] = {
	"listen.tcp=[::1]:1", "user=q\"uo\\te", "cache.l1_bytes=1048577", "http.head_timeout=100001us",
	"log.format=json", "api.workers=3", "sync.batch_max=7",
	"pinger.targets=[{\"name\":\"a\\n\\t\\\"\\\\é\",\"n\":-2147483648,\"m\":2147483647,\"big\":-9223372036854775807,"
	"\"on\":[true,false,[],{}]}]",
	NULL};
/* clang-format on */

static struct conf *through_dump(const struct conf *a, char **text_r)
{
	size_t len;
	FILE *f = open_memstream(text_r, &len);
	assert_non_null(f);
	conf_dump(a, f);
	fclose(f);
	return conf_model_must_load(write_bytes("dump.conf", *text_r, len), base_env, NULL);
}

static void test_dump(void **state)
{
	(void)state;
	static const char *const lists[] = {
		"[null]",     "[{\"a b\":1}]",		"[1.5]",
		"[]",	      "[-9223372036854775808]", "[[],[[]]]",
		"[{\"\":1}]", "[\"\\u001f\\u007f\"]",	"[2147483648,-2147483649,-2147483648]",
		"[{}]"};
	char *text = NULL, set[128];
	struct conf *a = conf_model_must_load("/dev/null", base_env, rich), *b = through_dump(a, &text);
	assert_same(a, b, false);
	assert_non_null(strstr(text, "tcp = \"[::1]:1\";  # flag"));
	assert_non_null(strstr(text, "debounce_ms = 100;  # default"));
	free(text);
	conf_free(&a);
	conf_free(&b);
	for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
		const char *sets[] = {set, NULL};
		snprintf(set, sizeof(set), "pinger.targets=%s", lists[i]);
		a = conf_model_must_load("/dev/null", base_env, sets);
		b = through_dump(a, &text);
		assert_same(a, b, false);
		free(text);
		conf_free(&a);
		conf_free(&b);
	}
}

static void test_secrets(void **state)
{
	(void)state;
	const char *sets[] = {"store.dsn=/hush/hush.db", NULL}, *bad[] = {"store.dsn=hush\nhush", NULL};
	char *text = NULL, *error = NULL;
	struct conf *a = conf_model_must_load("/dev/null", base_env, sets), *b = through_dump(a, &text);
	assert_null(strstr(text, "hush"));
	assert_non_null(strstr(text, "# dsn = (secret);  # flag"));
	free(text);
	conf_free(&b);
	int fd = conf_dump_effective(a);
	b = conf_load_effective(fd);
	assert_non_null(b);
	assert_string_equal(conf_str(b, CONF_STORE_DSN), "/hush/hush.db");
	close(fd);
	conf_free(&a);
	conf_free(&b);
	assert_null(conf_model_load("/dev/null", base_env, bad, &error));
	assert_null(strstr(error, "hush"));
	free(error);
}

static int memfd_of(const char *p, size_t n)
{
	int fd = memfd_create("test", MFD_CLOEXEC);
	assert_int_equal(write(fd, p, n), n);
	return fd;
}

static void test_effective(void **state)
{
	(void)state;
	struct conf *a = conf_model_must_load("/dev/null", base_env, rich), *b;
	int fd = conf_dump_effective(a);
	char *p = util_alloc(1 << 16);
	assert_true(fd >= 0);
	assert_int_equal(fcntl(fd, F_GET_SEALS) & (F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK),
			 F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK);
	assert_int_equal(write(fd, "x", 1), -1);
	for (int i = 0; i < 2; i++) { /* many workers read the same descriptor */
		b = conf_load_effective(fd);
		assert_non_null(b);
		assert_same(a, b, true);
		conf_free(&b);
	}
	ssize_t n = pread(fd, p, 1 << 16, 0);
	close(fd);
	assert_in_range(n, 100, (1 << 16) - 1);
	/* Cut anywhere, it is refused: a worker never runs with half a configuration. */
	for (ssize_t cut = 0; cut < n; cut += 7) {
		fd = memfd_of(p, (size_t)cut);
		assert_null(conf_load_effective(fd));
		close(fd);
	}
	p[3] ^= 1;
	fd = memfd_of(p, (size_t)n);
	assert_null(conf_load_effective(fd));
	close(fd);
	p[3] ^= 1;
	p[20] ^= 1;
	fd = memfd_of(p, (size_t)n);
	assert_null(conf_load_effective(fd));
	close(fd);
	assert_null(conf_load_effective(-1));
	free(p);
	conf_free(&a);
}

static void render(void (*write)(FILE *), char **text_r)
{
	size_t len;
	FILE *f = open_memstream(text_r, &len);
	assert_non_null(f);
	write(f);
	fclose(f);
}

static void test_sample_and_manual(void **state)
{
	(void)state;
	char *sample = NULL, *manual = NULL;
	struct conf *a = conf_model_must_load("/dev/null", base_env, NULL), *b;
	render(conf_write_sample, &sample);
	render(conf_write_manual, &manual);
	b = conf_model_must_load(write_file("sample.conf", sample), base_env, NULL);
	assert_same(a, b, true);
	conf_free(&b);
	/* Uncommenting every setting (those lines have no blank behind the #) changes no value. */
	for (char *p = sample; *p; p++)
		if (*p == '#' && p[1] >= 'a' && p[1] <= 'z')
			*p = ' ';
	b = conf_model_must_load(write_file("sample2.conf", sample), base_env, NULL);
	assert_same(a, b, false);
	assert_non_null(strstr(conf_source(b, CONF_USER), "sample2.conf"));
	for (int k = 0; k < CONF_KEY_COUNT; k++) {
		char want[80];
		snprintf(want, sizeof(want), "| `%s` |", conf_key_name((enum conf_key)k));
		assert_non_null(strstr(manual, want));
		assert_true(conf_options[k].text[0] && strpbrk(conf_options[k].text, "\n") == NULL);
		if (strcmp(conf_str(b, (enum conf_key)k), conf_options[k].dflt) == 0 && *conf_options[k].dflt)
			assert_non_null(strstr(conf_source(b, (enum conf_key)k), "sample2.conf"));
	}
	free(sample);
	free(manual);
	conf_free(&a);
	conf_free(&b);
}

/* ---- change ---- */

struct seen {
	unsigned n, reloadable;
	bool key[CONF_KEY_COUNT];
};
static void note(void *arg, enum conf_key k, bool reloadable)
{
	struct seen *s = arg;
	s->n++;
	s->reloadable += reloadable;
	s->key[k] = true;
}

static void test_diff_and_carry(void **state)
{
	(void)state;
	const char *sets[] = {"log.level=debug", "cache.l1_bytes=1 MiB", "http.head_bytes=32768", NULL};
	struct conf *a = conf_model_must_load("/dev/null", base_env, NULL),
		    *b = conf_model_must_load("/dev/null", base_env, sets);
	struct seen s = {0};
	conf_diff(a, b, note, &s);
	assert_int_equal(s.n, 2); /* 32768 is how 32 KiB is, too */
	assert_int_equal(s.reloadable, 1);
	assert_true(s.key[CONF_LOG_LEVEL] && s.key[CONF_CACHE_L1_BYTES]);
	conf_carry(b, a);
	assert_string_equal(conf_str(b, CONF_LOG_LEVEL), "debug");
	assert_int_equal(conf_int(b, CONF_CACHE_L1_BYTES), 64 << 20);
	assert_string_equal(conf_source(b, CONF_CACHE_L1_BYTES), "default");
	conf_free(&a);
	conf_free(&b);
}

static int set_up(void **state)
{
	(void)state;
	return mkdtemp(dir) ? 0 : -1;
}

static int tear_down(void **state)
{
	(void)state;
	char command[64];
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	return system(command);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_defaults),
		cmocka_unit_test(test_sizes),
		cmocka_unit_test(test_durations),
		cmocka_unit_test(test_numbers_words_lists),
		cmocka_unit_test(test_bool),
		cmocka_unit_test(test_nul_and_huge),
		cmocka_unit_test(test_file),
		cmocka_unit_test(test_file_errors),
		cmocka_unit_test(test_unknown_keys),
		cmocka_unit_test(test_includes),
		cmocka_unit_test(test_precedence),
		cmocka_unit_test(test_environment),
		cmocka_unit_test(test_unknown_variables_warn),
		cmocka_unit_test(test_whole),
		cmocka_unit_test(test_computed_paths),
		cmocka_unit_test(test_dump),
		cmocka_unit_test(test_secrets),
		cmocka_unit_test(test_effective),
		cmocka_unit_test(test_sample_and_manual),
		cmocka_unit_test(test_diff_and_carry),
	};
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
