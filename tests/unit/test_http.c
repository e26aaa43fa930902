/* What the HTTP engine accepts and refuses: the probe table (every row at once and byte by byte) and
 * the limits. Broken code this would catch: any tolerance that lets two parsers read one byte stream
 * as different requests, any limit that can be passed. */
#include "test_http.h"

/* ---- the probe table ---- */

struct probe {
	const char *what, *bytes;
	size_t len;
	int status;
	bool closes;
};
/* clang-format off */
static const struct probe probes[] = {
	{"plain", WITH(GOOD "\r\n"), 200, false},
	{"empty lines first", WITH("\r\n\r\n" GOOD "\r\n"), 200, false},
	{"PATCH", WITH("PATCH /x HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}"), 200, false},
	{"missing Host", WITH("GET / HTTP/1.1\r\n\r\n"), 400, true},
	{"missing Host, 1.0", WITH("GET / HTTP/1.0\r\n\r\n"), 200, true},
	{"empty Host", WITH("GET / HTTP/1.1\r\nHost:\r\n\r\n"), 200, false},
	{"two Hosts", WITH(GOOD "Host: h\r\n\r\n"), 400, true},
	{"bad Host", WITH("GET / HTTP/1.1\r\nHost: a b\r\n\r\n"), 400, true},
	{"bad Host 2", WITH("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n"), 400, true},
	{"CL +3", WITH(POST "Content-Length: +3\r\n\r\nabc"), 400, true},
	{"CL -3", WITH(POST "Content-Length: -3\r\n\r\nabc"), 400, true},
	{"CL hex", WITH(POST "Content-Length: 0x3\r\n\r\nabc"), 400, true},
	{"CL empty", WITH(POST "Content-Length:\r\n\r\nabc"), 400, true},
	{"CL list", WITH(POST "Content-Length: 3, 3\r\n\r\nabc"), 400, true},
	{"CL inner space", WITH(POST "Content-Length: 3 3\r\n\r\nabc"), 400, true},
	{"CL spaces around", WITH(POST "Content-Length:  \t3  \r\n\r\nabc"), 200, false},
	{"CL overflow", WITH(POST "Content-Length: 18446744073709551619\r\n\r\nabc"), 400, true},
	{"two CLs that differ", WITH(POST "Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"), 400, true},
	{"two CLs that agree", WITH(POST "Content-Length: 3\r\nContent-Length: 3\r\n\r\nabc"), 400, true},
	{"space before colon", WITH(POST "Content-Length : 3\r\n\r\nabc"), 400, true},
	{"tab before colon", WITH(GOOD "X-Y\t: 3\r\n\r\n"), 400, true},
	{"space before any colon", WITH(GOOD "X-Y : 3\r\n\r\n"), 400, true},
	{"bare LF after request line", WITH("GET / HTTP/1.1\nHost: h\r\n\r\n"), 400, true},
	{"bare LF after field", WITH("GET / HTTP/1.1\r\nHost: h\n\r\n"), 400, true},
	{"bare LF at the end", WITH("GET / HTTP/1.1\r\nHost: h\r\n\n"), 400, true},
	{"bare LF everywhere", WITH("GET / HTTP/1.1\nHost: h\n\n"), 400, true},
	{"bare CR in value", WITH(GOOD "X: a\rb\r\n\r\n"), 400, true},
	{"bare CR as line end", WITH("GET / HTTP/1.1\r\nHost: h\rX: y\r\n\r\n"), 400, true},
	{"NUL in value", WITH(GOOD "X: a\0b\r\n\r\n"), 400, true},
	{"control in value", WITH(GOOD "X: a\x01" "b\r\n\r\n"), 400, true},
	{"DEL in value", WITH(GOOD "X: a\x7f" "b\r\n\r\n"), 400, true},
	{"obs-text in value", WITH(GOOD "X: a\xe9" "b\r\n\r\n"), 200, false},
	{"obs-fold", WITH(GOOD "X: a\r\n b\r\n\r\n"), 400, true},
	{"obs-fold tab", WITH(GOOD "X: a\r\n\tb\r\n\r\n"), 400, true},
	{"fold of the first field", WITH("GET / HTTP/1.1\r\n Host: h\r\n\r\n"), 400, true},
	{"no colon", WITH(GOOD "nonsense\r\n\r\n"), 400, true},
	{"empty name", WITH(GOOD ": x\r\n\r\n"), 400, true},
	{"empty name first", WITH("GET / HTTP/1.1\r\n: x\r\nHost: h\r\n\r\n"), 400, true},
	{"empty name and value", WITH(GOOD ":\r\n\r\n"), 400, true},
	{"empty value", WITH(GOOD "X:\r\nY:  \r\n\r\n"), 200, false},
	{"trailer without a name", WITH(POST "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n: y\r\n\r\n"), 400, true},
	{"folded trailer", WITH(POST "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n z\r\n\r\n"), 400, true},
	{"bad name", WITH(GOOD "a(b: x\r\n\r\n"), 400, true},
	{"non-ASCII name", WITH(GOOD "a\xe9: x\r\n\r\n"), 400, true},
	{"gzip, chunked", WITH(POST "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"), 501, true},
	{"gzip", WITH(POST "Transfer-Encoding: gzip\r\n\r\n"), 400, true},
	{"chunked, gzip", WITH(POST "Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n"), 400, true},
	{"identity", WITH(POST "Transfer-Encoding: identity\r\n\r\n"), 400, true},
	{"xchunked", WITH(POST "Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"), 400, true},
	{"chunked with VT", WITH(POST "Transfer-Encoding: \x0b" "chunked\r\n\r\n0\r\n\r\n"), 400, true},
	{"two TEs", WITH(POST "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 400, true},
	{"empty TE", WITH(POST "Transfer-Encoding:\r\n\r\n"), 400, true},
	{"CL and TE", WITH(POST "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 400, true},
	{"TE and CL", WITH(POST "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n"), 400, true},
	{"TE in 1.0", WITH("POST /echo HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 400, true},
	{"CHUNKED", WITH(POST "Transfer-Encoding: CHUNKED\r\n\r\n3\r\nabc\r\n0\r\n\r\n"), 200, false},
	{"chunk size +", WITH(POST "Transfer-Encoding: chunked\r\n\r\n+3\r\nabc\r\n0\r\n\r\n"), 400, true},
	{"chunk size 0x", WITH(POST "Transfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n"), 400, true},
	{"chunk size empty", WITH(POST "Transfer-Encoding: chunked\r\n\r\n\r\nabc\r\n0\r\n\r\n"), 400, true},
	{"chunk size space first", WITH(POST "Transfer-Encoding: chunked\r\n\r\n 3\r\nabc\r\n0\r\n\r\n"), 400, true},
	{"chunk size overflow", WITH(POST "Transfer-Encoding: chunked\r\n\r\n10000000000000003\r\nabc\r\n0\r\n\r\n"), 400, true},
	{"chunk bare LF", WITH(POST "Transfer-Encoding: chunked\r\n\r\n3\nabc\r\n0\r\n\r\n"), 400, true},
	{"chunk data bare LF", WITH(POST "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\n0\r\n\r\n"), 400, true},
	{"chunk too short", WITH(POST "Transfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n"), 400, true},
	{"last chunk bare LF", WITH(POST "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\n\r\n"), 400, true},
	{"trailer end bare LF", WITH(POST "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\n"), 400, true},
	{"trailer bare LF", WITH(POST "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\n\r\n"), 400, true},
	{"trailer with NUL", WITH(POST "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: \0\r\n\r\n"), 400, true},
	{"trailer", WITH(POST "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\nHost: other\r\n\r\n"), 200, false},
	{"extension", WITH(POST "Transfer-Encoding: chunked\r\n\r\n3;a=\"b\"\r\nabc\r\n0;x\r\n\r\n"), 200, false},
	{"extension with bare CR", WITH(POST "Transfer-Encoding: chunked\r\n\r\n3;a=b\rc\r\nabc\r\n0\r\n\r\n"), 400, true},
	{"unknown method", WITH("FOO / HTTP/1.1\r\nHost: h\r\n\r\n"), 501, true},
	{"method is case-sensitive", WITH("get / HTTP/1.1\r\nHost: h\r\n\r\n"), 501, true},
	{"CONNECT", WITH("CONNECT h:1 HTTP/1.1\r\nHost: h\r\n\r\n"), 501, true},
	{"TRACE", WITH("TRACE / HTTP/1.1\r\nHost: h\r\n\r\n"), 501, true},
	{"PROPFIND", WITH("PROPFIND / HTTP/1.1\r\nHost: h\r\n\r\n"), 501, true},
	{"method no token", WITH("G@T / HTTP/1.1\r\nHost: h\r\n\r\n"), 400, true},
	{"HTTP/2 preface", WITH("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 505, true},
	{"HTTP/3.0", WITH("GET / HTTP/3.0\r\nHost: h\r\n\r\n"), 505, true},
	{"HTTP/0.9 told", WITH("GET / HTTP/0.9\r\nHost: h\r\n\r\n"), 505, true},
	{"HTTP/0.9", WITH("GET /\r\n\r\n"), 400, true},
	{"HTTP/1.2", WITH("GET / HTTP/1.2\r\nHost: h\r\n\r\n"), 200, false},
	{"version lower case", WITH("GET / http/1.1\r\nHost: h\r\n\r\n"), 400, true},
	{"version long", WITH("GET / HTTP/1.10\r\nHost: h\r\n\r\n"), 400, true},
	{"no method", WITH(" / HTTP/1.1\r\nHost: h\r\n\r\n"), 400, true},
	{"two spaces", WITH("GET  / HTTP/1.1\r\nHost: h\r\n\r\n"), 400, true},
	{"space at the end", WITH("GET / HTTP/1.1 \r\nHost: h\r\n\r\n"), 400, true},
	{"tab between", WITH("GET\t/ HTTP/1.1\r\nHost: h\r\n\r\n"), 400, true},
	{"space in target", WITH("GET /a b HTTP/1.1\r\nHost: h\r\n\r\n"), 400, true},
	{"fragment", WITH("GET /a#b HTTP/1.1\r\nHost: h\r\n\r\n"), 400, true},
	{"non-ASCII target", WITH("GET /\xc3\xa9 HTTP/1.1\r\nHost: h\r\n\r\n"), 400, true},
	{"relative target", WITH("GET a HTTP/1.1\r\nHost: h\r\n\r\n"), 400, true},
	{"star", WITH("GET * HTTP/1.1\r\nHost: h\r\n\r\n"), 400, true},
	{"OPTIONS star", WITH("OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n"), 200, false},
	{"absolute form", WITH("GET http://a.b:1/x?y HTTP/1.1\r\nHost: h\r\n\r\n"), 200, false},
	{"absolute form, no Host", WITH("GET http://a.b/x HTTP/1.1\r\n\r\n"), 400, true},
	{"absolute form, user", WITH("GET http://u@a.b/x HTTP/1.1\r\nHost: h\r\n\r\n"), 400, true},
	{"absolute form, no authority", WITH("GET http:///x HTTP/1.1\r\nHost: h\r\n\r\n"), 400, true},
	{"other scheme", WITH("GET ftp://h/x HTTP/1.1\r\nHost: h\r\n\r\n"), 400, true},
	{"Expect other", WITH(POST "Expect: 200-ok\r\nContent-Length: 3\r\n\r\nabc"), 417, true},
	{"Upgrade is ignored", WITH(GOOD "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"), 200, false},
	{"Upgrade h2c with body", WITH(POST "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nContent-Length: 3\r\n\r\nabc"), 200, false},
	{"body too large", WITH(POST "Content-Length: 1048577\r\n\r\n"), 413, true},
	{"chunk too large", WITH(POST "Transfer-Encoding: chunked\r\n\r\n100001\r\n"), 413, true},
	{"repeated Authorization", WITH(GOOD "Authorization: a\r\nAuthorization: b\r\n\r\n"), 400, true},
	{"TLS hello", WITH("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"), 400, true},
	{"close", WITH(GOOD "Connection: close\r\n\r\n"), 200, true},
	{"close in a list", WITH(GOOD "Connection: foo, Close\r\n\r\n"), 200, true},
	{"1.0 closes", WITH("GET / HTTP/1.0\r\nHost: h\r\n\r\n"), 200, true},
	{"1.0 keep-alive", WITH("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"), 200, false},
	{"1.0 keep-alive and close", WITH("GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n"), 200, true},
};
/* clang-format on */

/* A second request behind each one tells whether the engine still is in step with the client. */
static void check_probe(const struct probe *p, struct client *c, const char *how)
{
	int status[4] = {0}, n;
	send_all(c, WITH(GOOD "\r\n"));
	settle(c);
	if (c->eof != p->closes)
		wait_bytes(c, 0, 2000);
	n = answers(c, status, 4);
	if (status[0] != p->status || c->eof != p->closes || n != (p->closes ? 1 : 2) || (n == 2 && status[1] != 200))
		fail_msg("%s (%s): %d answers, %d %d, %s; expected %d, %s (%s)\n%s", p->what, how, n, status[0],
			 status[1], c->eof ? "closed" : "open", p->status, p->closes ? "closed" : "open", t.why, c->in);
	bool said = strstr(c->in, "Connection: close\r\n") != NULL;
	if (said != p->closes)
		fail_msg("%s: Connection: close is %ssaid", p->what, said ? "" : "not ");
}

static void test_probes(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(probes); i++) {
		const struct probe *p = &probes[i];
		struct client c = ask(p->bytes, p->len);
		check_probe(p, &c, "at once");
		hang_up(&c);
	}
	assert_int_equal(http_server_connections(t.s), 0);
	assert_int_equal(t.s->n_conns, 0);
	assert_int_equal(atomic_load(&t.stats.v[STAT_CONNECTIONS_OPEN]), 0);
}

static void test_probes_bytewise(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(probes); i++) {
		const struct probe *p = &probes[i];
		struct client c = dial();
		for (size_t k = 0; k < p->len; k++) {
			send_all(&c, p->bytes + k, 1);
			spin();
		}
		settle(&c);
		check_probe(p, &c, "byte by byte");
		hang_up(&c);
	}
	assert_int_equal(t.s->n_conns, 0);
}

/* ---- header sections that come again (memo.c) ---- */

/* What the engine makes of a request of this line and section, once the section alone came behind other lines of the same connection
 * or, if `cold`, for the first time. True: it was kept. */
static bool answer_to(const char *line, const char *section, size_t len, bool cold, char *out, size_t size)
{
	struct client c = dial();
	int status[4] = {0};
	unsigned before;
	http_memo_free(t.s);
	for (int i = 0; i < 2 && !cold; i++) {
		send_all(&c, WITH("GET /first HTTP/1.1\r\n"));
		send_all(&c, section, len);
		settle(&c);
	}
	if (c.eof) { /* it was not to be answered twice */
		hang_up(&c);
		c = dial();
	}
	c.len = 0;
	before = t.n_requests;
	snprintf(t.seen, sizeof(t.seen), "none");
	t.why[0] = '\0';
	send_all(&c, line, strlen(line));
	send_all(&c, section, len);
	settle(&c);
	int n = c.len ? answers(&c, status, 4) : 0;
	snprintf(out, size, "%d answers, %d %d, %u requests, %s, \"%s\", seen %s", n, status[0], status[1],
		 t.n_requests - before, c.eof ? "closed" : "open", t.why, t.seen);
	bool kept = false;
	for (unsigned i = 0; i < HTTP_MEMOS; i++)
		kept |= t.s->memo[i] != NULL;
	hang_up(&c);
	return kept;
}

/* What was kept of a section changes no answer, whatever stands before it. */
static void test_known_sections(void **state)
{
	static const char *const lines[] = {"GET /x HTTP/1.1\r\n",
					    "GET /x?a=1#b HTTP/1.1\r\n",
					    "HEAD /a-longer-path/of-more/than-sixteen HTTP/1.1\r\n",
					    "POST /echo HTTP/1.1\r\n",
					    "GET http://other:80/x HTTP/1.1\r\n",
					    "GET http://other HTTP/1.1\r\n",
					    "OPTIONS * HTTP/1.1\r\n",
					    "GET * HTTP/1.1\r\n",
					    "GET /x HTTP/1.0\r\n",
					    "GET /x HTTP/1.9\r\n",
					    "GET /x HTTP/2.0\r\n",
					    "GET /x  HTTP/1.1\r\n",
					    "GET  /x HTTP/1.1\r\n",
					    "GET /x\tHTTP/1.1\r\n",
					    "GET /a-path-with-a-\x01-in-it HTTP/1.1\r\n",
					    "GET /a-path-with-a-\xe9-in-it HTTP/1.1\r\n",
					    "GET /a-path-with-a-\x7f-in-it HTTP/1.1\r\n",
					    "GET /x\nHost: i HTTP/1.1\r\n",
					    "GET /x HTTP/1.1\n",
					    "GET /x HTTP/1.1\r",
					    "BREW /x HTTP/1.1\r\n",
					    "CONNECT h:80 HTTP/1.1\r\n",
					    "get /x HTTP/1.1\r\n",
					    "GET\r\n",
					    "\r\n",
					    "GET /x HTTP/1.1\r\nX: y\r\n",
					    "GET /a HTTP/1.1\r\nHost: h\r\n\r\nGET /b HTTP/1.1\r\n"};
	static char cold[8192], warm[8192];
	(void)state;
	unsigned kept = 0;
	for (size_t i = 0; i < ARRAY_LEN(probes); i++) {
		const char *section = memmem(probes[i].bytes, probes[i].len, "\r\n", 2);
		if (!section || section == probes[i].bytes)
			continue;
		section += 2;
		size_t len = (size_t)(probes[i].bytes + probes[i].len - section);
		for (size_t k = 0; k < ARRAY_LEN(lines); k++) {
			answer_to(lines[k], section, len, true, cold, sizeof(cold));
			kept += answer_to(lines[k], section, len, false, warm, sizeof(warm));
			if (strcmp(cold, warm) != 0)
				fail_msg("%s behind \"%s\":\n%s\n%s", probes[i].what, lines[k], cold, warm);
		}
	}
	assert_true(kept > ARRAY_LEN(lines));
	assert_int_equal(t.s->n_conns, 0);
}

/* Limits that became less are those of the next request. */
static void test_known_section_and_limits(void **state)
{
	int status[2] = {0};
	(void)state;
	for (int i = 0; i < 2; i++) {
		struct http_limits l = t.l;
		struct client c = ask(WITH(GOOD "A: 1\r\nB: 2\r\n\r\n" GOOD "A: 1\r\nB: 2\r\n\r\n"));
		assert_int_equal(answers(&c, status, 2), 2);
		if (i)
			l.headers = 2;
		else
			l.head_bytes = 30;
		http_server_set_limits(t.s, &l);
		c.len = 0;
		send_all(&c, WITH(GOOD "A: 1\r\nB: 2\r\n\r\n"));
		settle(&c);
		assert_int_equal(answers(&c, status, 1), 1);
		assert_int_equal(status[0], 431);
		http_server_set_limits(t.s, &t.l);
		hang_up(&c);
	}
}

static void test_llhttp_is_strict(void **state)
{
	/* The loose state machine forgives bytes after a message that said close; the strict one does not. */
	llhttp_t p;
	llhttp_settings_t s;
	static const char m[] = "GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\nX";
	(void)state;
	llhttp_settings_init(&s);
	llhttp_init(&p, HTTP_REQUEST, &s);
	assert_int_equal(llhttp_execute(&p, m, sizeof(m) - 1), HPE_CLOSED_CONNECTION);
}

/* ---- limits ---- */

static void test_large_heads(void **state)
{
	int status[2];
	struct buf b = {0};
	struct client c;
	(void)state;

	buf_adds(&b, "GET / HTTP/1.1\r\nHost: h\r\nX: ");
	for (int i = 0; i < 1 << 20; i++)
		buf_addc(&b, 'x');
	buf_adds(&b, "\r\n\r\n");
	c = ask(b.p, b.len);
	wait_bytes(&c, 0, 2000);
	assert_int_equal(answers(&c, status, 2), 1);
	assert_int_equal(status[0], 431);
	hang_up(&c);
	memmove(b.p, "GET /xxxxxxxxxxxxxxxxxxxxxxxxxxxx", 32);
	c = ask(b.p, b.len);
	wait_bytes(&c, 0, 2000);
	assert_int_equal(answers(&c, status, 2), 1);
	assert_int_equal(status[0], 414);
	hang_up(&c);
	for (unsigned n = 99; n <= 102; n++) { /* with Host: at the limit, and above */
		b.len = 0;
		buf_adds(&b, GOOD);
		for (unsigned i = 1; i < n; i++)
			buf_adds(&b, "X: y\r\n");
		buf_adds(&b, "\r\n");
		c = ask(b.p, b.len);
		assert_true(answers(&c, status, 2) >= 1);
		assert_int_equal(status[0], n <= 100 ? 200 : 431);
		hang_up(&c);
	}
	/* a head just below the limit, then a body: the buffer must have room for it */
	b.len = 0;
	buf_adds(&b, POST "Content-Length: 5\r\nX: ");
	while (b.len < t.l.head_bytes - 10)
		buf_addc(&b, 'x');
	buf_adds(&b, "\r\n\r\nabcde");
	c = ask(b.p, b.len);
	assert_int_equal(answers(&c, status, 2), 1);
	assert_int_equal(status[0], 200);
	assert_non_null(strstr(c.in, "\r\n\r\nabcde"));
	hang_up(&c);
	/* a limit above the size of the pooled buffers */
	t.l.head_bytes = 300000;
	http_server_set_limits(t.s, &t.l);
	b.len = 0;
	buf_adds(&b, GOOD "X: ");
	while (b.len < 250000)
		buf_addc(&b, 'x');
	buf_adds(&b, "\r\n\r\n" GOOD "\r\n");
	c = ask(b.p, b.len);
	assert_int_equal(answers(&c, status, 2), 2);
	assert_int_equal(status[0], 200);
	assert_int_equal(status[1], 200);
	hang_up(&c);
	buf_free(&b);
}

static void test_chunk_limits(void **state)
{
	struct buf b = {0};
	int status[2];
	(void)state;
	buf_adds(&b, POST "Transfer-Encoding: chunked\r\n\r\n");
	for (int i = 0; i < 17; i++) { /* 17 × 64 KiB: above 1 MiB only as a sum */
		buf_adds(&b, "10000\r\n");
		buf_add(&b, big, 65536);
		buf_adds(&b, "\r\n");
	}
	struct client c = ask(b.p, b.len);
	wait_bytes(&c, 0, 2000);
	assert_int_equal(answers(&c, status, 2), 1);
	assert_int_equal(status[0], 413);
	hang_up(&c);
	const char *const open[] = {"1;", "0\r\nX: ", "0\r\n"};
	const char *const more[] = {"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
				    "X: yyyyyyyyyyyyyyyyyyyyyy\r\n"};
	const int want[] = {400, 431, 431};
	for (int k = 0; k < 3; k++) { /* an endless extension, an endless trailer, endless trailers */
		b.len = 0;
		buf_adds(&b, POST "Transfer-Encoding: chunked\r\n\r\n");
		buf_adds(&b, open[k]);
		for (int i = 0; i < 4000; i++)
			buf_adds(&b, more[k]);
		c = ask(b.p, b.len);
		wait_bytes(&c, 0, 2000);
		assert_int_equal(answers(&c, status, 2), 1);
		assert_int_equal(status[0], want[k]);
		hang_up(&c);
	}
	assert_int_equal(t.s->buffered, 0);
	buf_free(&b);
}

static void test_many_connections(void **state)
{
	struct client c[5];
	(void)state;
	t.l.max_connections = 3;
	http_server_set_limits(t.s, &t.l);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(a);
	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(fd, 16), 0);
	getsockname(fd, (struct sockaddr *)&a, &len);
	assert_int_equal(http_server_listen(t.s, fd), 0);
	for (int i = 0; i < 5; i++) {
		c[i] = (struct client){.fd = socket(AF_INET, SOCK_STREAM, 0)};
		assert_int_equal(connect(c[i].fd, (struct sockaddr *)&a, sizeof(a)), 0);
		fcntl(c[i].fd, F_SETFL, O_NONBLOCK);
		wait_bytes(&c[i], 1, 100);
	}
	for (int i = 0; i < 5; i++) {
		int status[1] = {0};
		if (i < 3)
			send_all(&c[i], WITH(GOOD "\r\n"));
		wait_bytes(&c[i], 1, 1000);
		assert_int_equal(answers(&c[i], status, 1), 1);
		assert_int_equal(status[0], i < 3 ? 200 : 503);
		assert_true((strstr(c[i].in, "Retry-After: 1\r\n") != NULL) == (i >= 3));
	}
	for (int i = 0; i < 5; i++)
		hang_up(&c[i]);
	struct timespec tick = {0, 5000000};
	for (int i = 0; i < 400 && http_server_connections(t.s); i++) {
		settle(NULL);
		nanosleep(&tick, NULL);
	}
	assert_int_equal(http_server_connections(t.s), 0);
	close(fd);
}

static void test_buffered_bytes(void **state)
{
	struct client c[6];
	int ok = 0, refused = 0, status[1];
	(void)state;
	/* 4 MiB budget: each of six takes almost 1 MiB and does not finish */
	for (int i = 0; i < 6; i++) {
		c[i] = ask(WITH(POST "Content-Length: 1000000\r\n\r\n"));
		send_all(&c[i], big, 999999);
		settle(&c[i]);
		if (!c[i].len)
			ok++;
		else if (answers(&c[i], status, 1) == 1 && status[0] == 503)
			refused++;
	}
	assert_int_equal(ok, 4);
	assert_int_equal(refused, 2);
	assert_true(t.s->buffered <= t.l.buffered_bytes);
	for (int i = 0; i < 6; i++)
		hang_up(&c[i]);
	settle(NULL);
	assert_int_equal(t.s->buffered, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_probes),
		T(test_probes_bytewise),
		T(test_llhttp_is_strict),
		T(test_large_heads),
		T(test_chunk_limits),
		T(test_known_sections),
		T(test_known_section_and_limits),
		T(test_many_connections),
		T(test_buffered_bytes),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
