/* The log: formats under hostile text, fields, levels by subsystem, the rate of one place, sinks that take nothing; and
 * what the redactor lets nobody read. Broken code that this finds: a secret that slips through in any of the ways it may be
 * written, a control character that reaches a terminal, a line that is no JSON, a blocked pipe that blocks the caller, lines
 * that vanish without being counted. */
#define LOG_SUBSYSTEM LOG_IN_STORE
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "clock.h"
#include "log.h"
#include "log_redact.h"
#include "stats.h"

/* ---- a pipe for a sink ---- */

static int pipes[2];
static struct stats_slot counted;

static int begin(void **state)
{
	(void)state;
	assert_int_equal(pipe2(pipes, O_NONBLOCK | O_CLOEXEC), 0);
	memset(&counted, 0, sizeof(counted));
	log_open("test", LOG_LV_INFO, LOG_TEXT);
	log_to(pipes[1], NULL);
	log_set_rate(0);
	log_count_in(&counted);
	log_redact_forget();
	return 0;
}

static int end(void **state)
{
	(void)state;
	close(pipes[0]);
	close(pipes[1]);
	log_to(2, NULL);
	log_count_in(NULL);
	log_request_set(NULL, NULL);
	return 0;
}

static char got[1 << 17];

static const char *said(void)
{
	size_t n = 0;
	ssize_t k;
	while (n < sizeof(got) - 1 && (k = read(pipes[0], got + n, sizeof(got) - 1 - n)) > 0)
		n += (size_t)k;
	got[n] = '\0';
	return got;
}

static size_t lines_of(const char *text)
{
	size_t n = 0;
	for (; *text; text++)
		n += *text == '\n';
	return n;
}

/* ---- secrets ---- */

static const struct {
	const char *text, *shown;
} cases[] = {
	{"connect to redis://user:hunter2@host:6379/0 failed", "connect to redis://user:(secret)@host:6379/0 failed"},
	{"redis://:pw@h", "redis://:(secret)@h"},
	{"postgres://u:p%40ss@h/db?sslmode=disable", "postgres://u:(secret)@h/db?sslmode=disable"},
	{"postgres://u:a/b?c#d@h/db", "postgres://u:(secret)@h/db"}, /* not escaped, as people write them */
	{"http://host:8080/path@x stays", "http://host:8080/path@x stays"},
	{"http://user@host/ stays", "http://user@host/ stays"},
	{"x://a:b@c y://d:e@f", "x://a:(secret)@c y://d:(secret)@f"},
	{"host=h password=geheim dbname=d", "host=h password=(secret) dbname=d"},
	{"host=h password = 'it''s \\' long' dbname=d", "host=h password = '(secret)' dbname=d"},
	{"{\"password\":\"a\\\"b\",\"user\":\"u\"}", "{\"password\":\"(secret)\",\"user\":\"u\"}"},
	{"Authorization: Bearer abc.def-ghi", "Authorization: Bearer (secret)"},
	{"authorization: Basic dXNlcjpwdw==", "authorization: Basic (secret)"},
	{"\"Authorization\": \"token 1234\"", "\"Authorization\": \"token (secret)\""},
	{"Proxy-Authorization: Digest a=1, b=2", "Proxy-Authorization: Digest (secret)"},
	{"sent bearer x9y8z7", "sent bearer (secret)"},
	{"a valid bearer token is needed", "a valid bearer token is needed"},
	{"jwt eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln here", "jwt (secret) here"},
	{"GET /x?api_key=k1&b=2", "GET /x?api_key=(secret)&b=2"},
	{"GET /x?access_token=k1;b", "GET /x?access_token=(secret);b"},
	{"PASSWORD=X", "PASSWORD=(secret)"},
	{"password: is too short", "password: is too short"},
	{"auth.tokens_file = /etc/t", "auth.tokens_file = /etc/t"},
	{"password=", "password="},
	{"password='", "password='"},
	{"://", "://"},
	{"a://:@", "a://:@"},
	{"bearer ", "bearer "},
	{"", ""},
};

static void test_redact_patterns(void **state)
{
	char out[256];
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		size_t n = log_redact(out, sizeof(out), cases[i].text);
		assert_string_equal(out, cases[i].shown);
		assert_int_equal(n, strlen(out));
	}
	log_redact(out, sizeof(out), "{\\\"token\\\":\\\"abc\\\"}"); /* JSON within JSON */
	assert_null(strstr(out, "abc"));
}

static void test_redact_known(void **state)
{
	char out[512], text[512], longer[400];
	(void)state;
	log_redact_value("redis://me:s3cr%20et@cache:6379");
	log_redact_value("host=db password='pass phrase' user=x");
	log_redact_value("/a/path/that/is/no/secret");
	log_redact_value("abc"); /* too short to be looked for */
	memset(longer, 'q', sizeof(longer) - 1);
	longer[sizeof(longer) - 1] = '\0';
	log_redact_value(longer);
	log_redact(out, sizeof(out), "tried s3cr%20et and pass phrase and pass-phrase");
	assert_string_equal(out, "tried (secret) and (secret) and pass-phrase");
	log_redact(out, sizeof(out), "open /a/path/that/is/no/secret abc");
	assert_string_equal(out, "open /a/path/that/is/no/secret abc");
	snprintf(text, sizeof(text), "<%s>", longer);
	log_redact(out, sizeof(out), text); /* longer than what is compared: all of it goes */
	assert_string_equal(out, "<(secret)>");
	log_redact(out, sizeof(out), "cut in pass phr"); /* by whoever had too small a buffer */
	assert_string_equal(out, "cut in (secret)");
	log_redact(out, sizeof(out), "x=pass phrasepass phrase");
	assert_string_equal(out, "x=(secret)(secret)");
}

/* The table is bounded: the oldest goes, the newest counts. */
static void test_redact_many(void **state)
{
	char out[128], name[32];
	(void)state;
	for (int i = 0; i < 3 * LOG_REDACT_SECRETS; i++) {
		snprintf(name, sizeof(name), "geheimnis-%04d-", i);
		log_redact_value(name);
		log_redact_value(name); /* once is enough */
		log_redact(out, sizeof(out), name);
		assert_string_equal(out, "(secret)");
	}
	snprintf(name, sizeof(name), "geheimnis-%04d-", 2 * LOG_REDACT_SECRETS);
	log_redact(out, sizeof(out), name);
	assert_string_equal(out, "(secret)");
}

/* Every cut of every hostile text: nothing behind the end is written, and it ends. */
static void test_redact_bounds(void **state)
{
	char out[300];
	(void)state;
	log_redact_value("pass phrase");
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		for (size_t cap = 1; cap < 80; cap++) {
			memset(out, 'Z', sizeof(out));
			size_t n = log_redact(out, cap, cases[i].text);
			assert_true(n < cap && out[n] == '\0' && out[cap] == 'Z');
		}
	}
}

static void test_secrets_reach_no_sink(void **state)
{
	(void)state;
	log_redact_value("the-daemons-own-password");
	for (int f = LOG_TEXT; f <= LOG_JSON; f++) {
		log_open("test", LOG_LV_INFO, (enum log_format)f);
		log_info("a the-daemons-own-password in %s", "redis://u:pw1234@h");
		log_info_fields(LOG_FIELDS(LOG_S("dsn", "the-daemons-own-password"), LOG_I("n", -7)), "fields");
		static struct log_limit limit;
		limit.next_us = 0;
		log_warn_limited(&limit, 1, "Authorization: Bearer the-daemons-own-password");
		const char *all = said();
		assert_int_equal(lines_of(all), 3);
		assert_null(strstr(all, "own-password"));
		assert_null(strstr(all, "pw1234"));
		assert_non_null(strstr(all, "(secret)"));
	}
}

/* ---- formats ---- */

static void describe(const void *arg, struct log_request *r)
{
	(void)arg;
	snprintf(r->id, sizeof(r->id), "req-1");
	snprintf(r->trace, sizeof(r->trace), "0af7651916cd43dd8448eb211c80319c");
	snprintf(r->span, sizeof(r->span), "b7ad6b7169203331");
}

static void test_json(void **state)
{
	json_error_t e;
	(void)state;
	unsetenv("GOOGLE_CLOUD_PROJECT");
	log_open("api.0", LOG_LV_INFO, LOG_JSON);
	log_request_set(describe, NULL);
	log_warn_event(worker_died, LOG_FIELDS(LOG_S("worker", "q\"\\\n\xc2\x9b\xff"), LOG_I("n", -7)), "say \"%s\"",
		       "\033[31m\xff");
	log_request_set(NULL, NULL);
	log_info("plain");
	char *save, *line = strtok_r((char *)(uintptr_t)said(), "\n", &save);
	json_t *o = json_loads(line, 0, &e);
	assert_non_null(o);
	assert_string_equal(json_string_value(json_object_get(o, "severity")), "WARNING");
	assert_string_equal(json_string_value(json_object_get(o, "level")), "warn");
	assert_string_equal(json_string_value(json_object_get(o, "subsystem")), "store");
	assert_string_equal(json_string_value(json_object_get(o, "event")), "worker_died");
	assert_string_equal(json_string_value(json_object_get(o, "request_id")), "req-1");
	assert_string_equal(json_string_value(json_object_get(o, "logging.googleapis.com/trace")),
			    "0af7651916cd43dd8448eb211c80319c");
	assert_string_equal(json_string_value(json_object_get(o, "message")), "say \" [31m?\"");
	assert_string_equal(json_string_value(json_object_get(o, "worker")), "q\"\\ ???");
	assert_int_equal(json_integer_value(json_object_get(o, "n")), -7);
	json_decref(o);
	o = json_loads(strtok_r(NULL, "\n", &save), 0, &e);
	assert_non_null(o);
	assert_null(json_object_get(o, "request_id"));
	assert_null(json_object_get(o, "event"));
	json_decref(o);
}

/* However long message and fields are: one line, JSON, no more than a pipe takes at once. */
static void test_long(void **state)
{
	static char bytes[20000], *huge = bytes;
	(void)state;
	for (int kind = 0; kind < 3; kind++) {
		for (size_t i = 0; i + 2 < sizeof(bytes); i += 2)
			memcpy(huge + i, kind == 0 ? "\"\"" : kind == 1 ? "\xc3\xa9" : "ab", 2);
		for (int f = LOG_TEXT; f <= LOG_JSON; f++) {
			log_open("test", LOG_LV_INFO, (enum log_format)f);
			log_info_fields(
				LOG_FIELDS(LOG_S("a", huge), LOG_S("b", huge), LOG_S("c", huge), LOG_S("d", huge)),
				"x%s", huge);
			const char *all = said();
			assert_int_equal(lines_of(all), 1);
			assert_true(strlen(all) <= 4096 && strlen(all) > 2000);
			json_t *o = f == LOG_JSON ? json_loads(all, 0, NULL) : json_null();
			assert_non_null(o);
			json_decref(o);
		}
	}
}

static void test_text(void **state)
{
	(void)state;
	log_request_set(describe, NULL);
	errno = EBUSY;
	log_error_event(journal_failed, NULL, "bad");
	assert_int_equal(errno, EBUSY);
	assert_non_null(strstr(said(), "]: bad event=journal_failed request_id=req-1\n"));
}

/* ---- the journal ---- */

static void test_journal(void **state)
{
	char dir[] = "/tmp/orc-log-XXXXXX", path[64], message[8192];
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	(void)state;
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/socket", dir);
	snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
	int server = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0),
	    client = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);
	assert_int_equal(bind(server, (struct sockaddr *)&a, sizeof(a)), 0);
	log_to(client, path);
	log_request_set(describe, NULL);
	log_warn_event(breaker_open, LOG_FIELDS(LOG_S("breaker", "store\nMESSAGE=forged"), LOG_I("n", 3)),
		       "two\nlines");
	ssize_t n = recv(server, message, sizeof(message) - 1, 0);
	assert_true(n > 0);
	message[n] = '\0';
	static const char *const parts[] = {"MESSAGE=two lines\n",
					    "PRIORITY=4\n",
					    "SYSLOG_IDENTIFIER=orchestrad\n",
					    "ORCHESTRA_ROLE=test\n",
					    "ORCHESTRA_SUBSYSTEM=store\n",
					    "ORCHESTRA_EVENT=breaker_open\n",
					    "ORCHESTRA_REQUEST_ID=req-1\n",
					    "ORCHESTRA_BREAKER=store MESSAGE=forged\n",
					    "ORCHESTRA_N=3\n",
					    "CODE_FUNC=test_journal\n"};
	for (size_t i = 0; i < ARRAY_LEN(parts); i++)
		if (!strstr(message, parts[i]))
			fail_msg("%s is not in %s", parts[i], message);
	/* Every line is a field: nothing from outside has made one. */
	for (char *save, *line = strtok_r(message, "\n", &save); line; line = strtok_r(NULL, "\n", &save))
		assert_true(strchr(line, '=') && line[0] >= 'A' && line[0] <= 'Z');
	close(server); /* the journal is away: lines are lost, nobody waits; it comes back: that is said */
	unlink(path);
	log_warn("nobody hears it");
	assert_int_equal(stats_value(&counted, STAT_LOG_LOST), 1);
	server = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);
	assert_int_equal(bind(server, (struct sockaddr *)&a, sizeof(a)), 0);
	log_warn("again");
	n = recv(server, message, sizeof(message) - 1, 0);
	assert_true(n > 0 && memmem(message, (size_t)n, "MESSAGE=1 log lines were lost", 29));
	n = recv(server, message, sizeof(message) - 1, 0);
	assert_true(n > 0 && memmem(message, (size_t)n, "MESSAGE=again\n", 14));
	close(server);
	close(client);
	unlink(path);
	rmdir(dir);
}

/* ---- sinks that take nothing ---- */

static void fill(void)
{
	char junk[4096];
	memset(junk, '-', sizeof(junk));
	junk[sizeof(junk) - 1] = '\n';
	while (write(pipes[1], junk, sizeof(junk)) > 0)
		;
}

static void blocked(bool nonblocking)
{
	(void)said();
	fcntl(pipes[1], F_SETFL, O_NONBLOCK);
	fill();
	if (!nonblocking) /* as one that we could not open for ourselves */
		fcntl(pipes[1], F_SETFL, 0);
	log_to(pipes[1], NULL);
	uint64_t before = stats_value(&counted, STAT_LOG_LOST), lines = stats_value(&counted, STAT_LOG_WARNINGS);
	for (int i = 0; i < 5; i++)
		log_warn("lost %d", i); /* a call that waits would wait for ever: nobody reads */
	assert_int_equal(stats_value(&counted, STAT_LOG_LOST), before + 5);
	assert_int_equal(stats_value(&counted, STAT_LOG_WARNINGS), lines);
	(void)said();
	log_warn("through");
	const char *all = said();
	assert_non_null(strstr(all, "5 log lines were lost"));
	assert_non_null(strstr(all, "event=log_lines_dropped"));
	assert_non_null(strstr(all, "through"));
	assert_int_equal(stats_value(&counted, STAT_LOG_WARNINGS), lines + 1);
	log_warn("silence again");
	assert_null(strstr(said(), "were lost"));
}

static void test_blocked_pipe(void **state)
{
	(void)state;
	blocked(true);
	blocked(false);
}

static void test_full_disk(void **state)
{
	(void)state;
	int fd = open("/dev/full", O_WRONLY);
	if (fd == -1)
		skip();
	log_to(fd, NULL);
	log_warn("no room");
	assert_int_equal(stats_value(&counted, STAT_LOG_LOST), 1);
	log_to(pipes[1], NULL);
	log_warn("room again");
	assert_int_equal(lines_of(said()), 2);
	close(fd);
}

/* ---- which lines ---- */

static void say_debug(void) { log_debug("debug"); }

static void test_levels(void **state)
{
	uint8_t levels[LOG_SUBSYSTEMS];
	char *error = NULL;
	(void)state;
	assert_true(log_levels_parse(" store = debug , http=warn,", LOG_LV_INFO, levels, &error));
	assert_int_equal(levels[LOG_IN_STORE], LOG_LV_DEBUG);
	assert_int_equal(levels[LOG_IN_HTTP], LOG_LV_WARN);
	assert_int_equal(levels[LOG_IN_API], LOG_LV_INFO);
	say_debug();
	assert_string_equal(said(), "");
	log_levels_set(levels);
	say_debug();
	assert_int_equal(lines_of(said()), 1);
	assert_false(log_levels_parse("stor=debug", LOG_LV_INFO, levels, &error));
	assert_non_null(strstr(error, "\"stor\" is no subsystem; there are supervisor, "));
	free(error);
	assert_false(log_levels_parse("store=loud", LOG_LV_INFO, levels, &error));
	assert_non_null(strstr(error, "\"loud\" is no level; there are error, warn, info, debug"));
	free(error);
	assert_false(log_levels_parse("store", LOG_LV_INFO, levels, &error));
	assert_non_null(strstr(error, "has no level"));
	free(error);
}

/* One place may say so much; another place still may; errors may say ten times as much. */
static void test_rate(void **state)
{
	(void)state;
	log_set_rate(5);
	for (int i = 0; i < 100; i++)
		log_warn("chatter %d", i);
	log_warn("another place");
	const char *all = said();
	assert_int_equal(lines_of(all), 6);
	assert_non_null(strstr(all, "another place"));
	assert_int_equal(stats_value(&counted, STAT_LOG_HELD), 95);
	for (int i = 0; i < 100; i++)
		log_error("trouble %d", i);
	assert_int_equal(lines_of(said()), 50);
	log_set_rate(0);
	for (int i = 0; i < 100; i++)
		log_warn("as many as it likes");
	assert_int_equal(lines_of(said()), 100);
}

static void test_rate_said(void **state)
{
	static struct log_site site = {.level = LOG_LV_WARN};
	(void)state;
	log_set_rate(2);
	for (int i = 0; i < 5; i++)
		log_write(&site, NULL, "chatter");
	assert_int_equal(lines_of(said()), 2);
	atomic_store(&site.window_us, clock_mono_us() - 11000000); /* ten seconds later */
	log_write(&site, NULL, "chatter");
	assert_non_null(strstr(said(), "chatter (3 more like this were held back)"));
}

#define T(f) cmocka_unit_test_setup_teardown(f, begin, end)
int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_redact_patterns),
		T(test_redact_known),
		T(test_redact_many),
		T(test_redact_bounds),
		T(test_secrets_reach_no_sink),
		T(test_json),
		T(test_long),
		T(test_text),
		T(test_journal),
		T(test_blocked_pipe),
		T(test_full_disk),
		T(test_levels),
		T(test_rate),
		T(test_rate_said),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
