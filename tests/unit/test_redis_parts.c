/* redis.url, what Redis says, and the envelope, without a server. Broken code this would catch: a URL that is read otherwise than
 * written, a password in a message, a reply whose parts get lost when it comes in pieces, one that takes memory
 * without end, an envelope that is believed under another name. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "cache/l2_envelope.h"
#include "redis/redis.h"
#include "redis/reply.h"
#include "redis/url.h"

/* ---- urls ---- */

/* kind user|password|host:port,…|master|db */
static void reads(const char *text, const char *expected)
{
	char *error = NULL;
	struct redis_url *u = redis_url_parse(text, &error);
	struct buf b = {0};
	if (!u)
		fail_msg("%s: %s", text, error);
	buf_printf(&b, "%d %s|%s|", u->kind, u->user, u->password);
	for (size_t i = 0; i < u->n; i++)
		buf_printf(&b, "%s%s:%d", i ? "," : "", u->hosts[i].host, u->hosts[i].port);
	buf_printf(&b, "|%s|%d", u->master ? u->master : "", u->db);
	buf_addc(&b, 0);
	assert_string_equal(b.p, expected);
	buf_free(&b);
	redis_url_free(&u);
	assert_null(u);
}

static void refuses(const char *text, const char *because)
{
	char *error = NULL;
	struct redis_url *u = redis_url_parse(text, &error);
	if (u || !error)
		fail_msg("%s: is taken", text);
	if (strncmp(error, "redis.url: ", 11) || !strstr(error, because) || strstr(error, "s3cret"))
		fail_msg("%s: %s", text, error);
	free(error);
}

static void urls(void **state)
{
	(void)state;
	reads("redis://h", "0 ||h:6379||0");
	reads("redis://h:1/15", "0 ||h:1||15");
	reads("redis://h/", "0 ||h:6379||0");
	reads("redis://:p@h", "0 |p|h:6379||0");
	reads("redis://u:p%40%2f:x@[::1]:7/2", "0 u|p@/:x|::1:7||2");
	reads("redis://u:p@x@h", "0 u|p@x|h:6379||0");
	reads("unix:///run/r.sock", "0 ||/run/r.sock:0||0");
	reads("redis+unix:///run/a%20b.sock?db=3", "0 ||/run/a b.sock:0||3");
	reads("unix://u:p@/run/r.sock", "0 u|p|/run/r.sock:0||0");
	reads("redis-sentinel://a,b:2,[::1]/m%2fm/4", "1 ||a:26379,b:2,::1:26379|m/m|4");
	reads("redis-cluster://:p@a:1,b", "2 |p|a:1,b:6379||0");
	reads("redis-cluster://a/", "2 ||a:6379||0");
	refuses("", "expected redis://");
	refuses("http://h", "expected redis://");
	refuses("rediss://:s3cret@h", "stunnel");
	refuses("rediss-cluster://h", "stunnel");
	refuses("redis://", "host is missing");
	refuses("redis://a,b", "redis-sentinel://");
	refuses("redis://h:0", "1 to 65535");
	refuses("redis://h:65536", "1 to 65535");
	refuses("redis://h:6379x", "1 to 65535");
	refuses("redis://[::1", "without its ]");
	refuses("redis://h/x", "database is a number");
	refuses("redis://h/-1", "database is a number");
	refuses("redis://h?db=1", "no meaning");
	refuses("redis://u@h", "user without a password");
	refuses("redis://u:@h", "user without a password");
	refuses("redis://u:s3cret%@h", "hexadecimal");
	refuses("redis://u:s3cret%00@h", "hexadecimal");
	refuses("redis://h%00", "host is missing");
	refuses("unix://run", "absolute path");
	refuses("unix:///run?x=1", "?db=N");
	refuses("redis-sentinel://a,b", "master");
	refuses("redis-sentinel://a//1", "master");
	refuses("redis-sentinel://a,,b/m", "host is missing");
	refuses("redis-cluster://a/1", "one database");
	struct buf b = {0};
	buf_adds(&b, "redis-cluster://h");
	for (int i = 0; i < REDIS_HOSTS_MAX; i++)
		buf_adds(&b, ",h");
	buf_addc(&b, 0);
	refuses(b.p, "more than 32");
	buf_free(&b);
}

/* ---- replies ---- */

static void show(const struct redis_reply *r, struct buf *b)
{
	switch (r->type) {
	case REPLY_ARRAY:
		buf_addc(b, '[');
		for (size_t i = 0; i < r->n; i++) {
			buf_adds(b, i ? " " : "");
			show(&r->v[i], b);
		}
		buf_addc(b, ']');
		break;
	case REPLY_INTEGER: buf_printf(b, ":%lld", r->integer); break;
	case REPLY_NIL: buf_adds(b, "nil"); break;
	default:
		buf_addc(b, r->type == REPLY_STRING ? '"' : r->type == REPLY_ERROR ? '-' : '+');
		buf_add(b, r->text, r->n);
	}
}

/* All replies of the text, fed in pieces of `step`. NULL: it is refused. */
static char *replies(const char *text, size_t n, size_t step, size_t max)
{
	struct redis_reader *rd = redis_reader_new(max);
	struct redis_reply *r;
	struct buf b = {0};
	bool ok = true;
	for (size_t at = 0; at < n && ok; at += step) {
		ok = redis_reader_feed(rd, text + at, n - at < step ? n - at : step);
		while (ok && (ok = redis_reader_next(rd, &r)) && r) {
			show(r, &b);
			buf_addc(&b, ';');
			redis_reply_free(&r);
		}
	}
	if (!ok)
		assert_int_not_equal(*redis_reader_error(rd), 0);
	redis_reader_free(&rd);
	buf_addc(&b, 0);
	if (ok)
		return b.p;
	buf_free(&b);
	return NULL;
}

static void answers(void **state)
{
	static const char text[] = "+OK\r\n:-7\r\n$-1\r\n$0\r\n\r\n$5\r\na\r\nb\n\r\n-ERR no\r\n*0\r\n*-1\r\n"
				   "*3\r\n:1\r\n*2\r\n+x\r\n$-1\r\n$2\r\nyz\r\n+end\r\n";
	static const char expected[] = "+OK;:-7;nil;\";\"a\r\nb\n;-ERR no;[];nil;[:1 [+x nil] \"yz];+end;";
	(void)state;
	for (size_t step = 1; step < sizeof(text); step++) {
		char *got = replies(text, sizeof(text) - 1, step, 100);
		assert_string_equal(got, expected);
		free(got);
	}
}

static void refused_answers(void **state)
{
	static const char *const bad[] = {"hello\r\n",
					  "$x\r\n",
					  "$-2\r\n",
					  ":1x\r\n",
					  "*x\r\n",
					  "*99999999999\r\n",
					  "*65537\r\n",
					  "*40000\r\n*40000\r\n",
					  "*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n",
					  "$11\r\nhello world\r\n",
					  "*2\r\n$6\r\nhello \r\n$6\r\nworld!\r\n",
					  "+0123456789x\r\n"};
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_null(replies(bad[i], strlen(bad[i]), 1 + i, 10));
	/* What never ends is given up with little kept. */
	struct redis_reader *rd = redis_reader_new(1000);
	char piece[1000];
	size_t fed = 0;
	memset(piece, 'x', sizeof(piece));
	assert_true(redis_reader_feed(rd, "$1000000\r\n", 10));
	struct redis_reply *r;
	while (redis_reader_feed(rd, piece, sizeof(piece)) && redis_reader_next(rd, &r) && fed < 1000000) {
		assert_null(r);
		fed += sizeof(piece);
	}
	assert_in_range(fed, 1000, 70000);
	redis_reader_free(&rd);
}

static void codes(void **state)
{
	struct redis_reply e = {.type = REPLY_ERROR, .text = (char *)(uintptr_t) "MOVED 1 h:2", .n = 11};
	struct redis_reply s = {.type = REPLY_STATUS, .text = (char *)(uintptr_t) "OK", .n = 2};
	(void)state;
	assert_true(redis_reply_fails(&e, "MOVED"));
	assert_false(redis_reply_fails(&e, "MOVE") || redis_reply_fails(&s, "OK") || redis_reply_is(&e, "MOVED 1 h:2"));
	assert_true(redis_reply_is(&s, "OK"));
	assert_false(redis_reply_is(&s, "O"));
}

static void wires(void **state)
{
	struct buf b = {0};
	(void)state;
	redis_wire(&b, "SET", "k", "", NULL);
	char large[12000];
	memset(large, 'v', sizeof(large));
	redis_wire_n(&b, (struct span[]){{large, sizeof(large)}}, 1);
	static const char head[] = "*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$0\r\n\r\n*1\r\n$12000\r\n";
	assert_int_equal(b.len, sizeof(head) - 1 + sizeof(large) + 2);
	assert_memory_equal(b.p, head, sizeof(head) - 1);
	buf_free(&b);
}

/* ---- the envelope ---- */

static void envelopes(void **state)
{
	struct l2_name name = {0x0102030405060708, CACHE_VECTOR, {{1, 2, 3}}}, other;
	struct cache_meta
		m = {.ns = 1, .version = 2, .filled_us = 3, .fresh_ms = 4, .gone_ms = 5, .tag = 6, .flags = 1},
		got;
	struct buf b = {0};
	struct span body;
	uint64_t revision;
	(void)state;
	l2_envelope_write(&b, &name, 9, &m, SPAN(""));
	assert_int_equal(b.len, sizeof(struct l2_head));
	assert_true(l2_envelope_read(b.p, b.len, &name, &revision, &got, &body));
	assert_true(body.len == 0 && revision == 9);
	assert_true(got.ns == m.ns && got.version == m.version && got.filled_us == m.filled_us &&
		    got.fresh_ms == m.fresh_ms);
	assert_true(got.gone_ms == m.gone_ms && got.tag == m.tag && got.flags == m.flags);
	for (int what = 0; what < 3; what++) {
		other = name;
		other.store -= what == 0;
		other.cls = what == 1 ? CACHE_MEMORY : CACHE_VECTOR;
		other.key.b[15] = what == 2;
		assert_false(l2_envelope_read(b.p, b.len, &other, &revision, &got, &body));
	}
	buf_addc(&b, 0); /* more than was written */
	assert_false(l2_envelope_read(b.p, b.len, &name, &revision, &got, &body));
	buf_free(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(urls),	 cmocka_unit_test(answers), cmocka_unit_test(refused_answers),
		cmocka_unit_test(codes), cmocka_unit_test(wires),   cmocka_unit_test(envelopes),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
