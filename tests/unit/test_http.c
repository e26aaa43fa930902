/* The HTTP engine driven with raw bytes, in one thread: client and server share the loop, so nothing
 * here depends on timing except the timeouts themselves, which are waited for, never asserted short. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#include "http/http-private.h"

#define MAX_HELD 8

static struct {
	struct event_base *base;
	struct http_server *s;
	struct http_limits l;
	struct stats_slot stats;
	struct http_request *held[MAX_HELD]; /* deferred requests */
	unsigned n_held, n_gone, n_requests, drains;
	char up[1 << 20]; /* what came through on_body */
	size_t up_len;
	bool pause;
	size_t to_stream;
	char last_path[128], last_host[128], why[128];
} t;
static char big[4 << 20];

/* ---- the handler ---- */

static bool path_is(struct http_request *r, const char *p)
{
	return span_eq(http_path(r), SPAN(p));
}

static void on_head(void *arg, struct http_request *r, bool *stream_r)
{
	(void)arg;
	if (path_is(r, "/deny"))
		http_reply(r, 401, NULL, "WWW-Authenticate: Bearer\r\n", NULL, 0);
	else if (path_is(r, "/up"))
		*stream_r = true;
	else if (path_is(r, "/duplex")) {
		*stream_r = true;
		http_stream_begin(r, 200, "text/plain", "", NULL);
	} else if (path_is(r, "/early-end")) {
		*stream_r = true;
		http_stream_begin(r, 200, "text/plain", "", NULL);
		http_write(r, "bye", 3);
		http_end(r);
	}
}

static bool on_body(void *arg, struct http_request *r, const char *p, size_t n)
{
	(void)arg;
	if (path_is(r, "/duplex")) {
		http_write(r, p, n);
		return true;
	}
	if (t.up_len + n <= sizeof(t.up))
		memcpy(t.up + t.up_len, p, n);
	t.up_len += n;
	return !t.pause;
}

static void stream_more(void *arg, struct http_request *r)
{
	(void)arg;
	t.drains++;
	while (t.to_stream) {
		size_t n = t.to_stream < 10000 ? t.to_stream : 10000;
		t.to_stream -= n;
		if (!http_write(r, big, n))
			return;
	}
	http_end(r);
}

static void on_request(void *arg, struct http_request *r)
{
	struct span body = http_body(r), host = http_header(r, HTTP_H_HOST);
	(void)arg;
	t.n_requests++;
	snprintf(t.last_path, sizeof(t.last_path), "%.*s", (int)http_path(r).len, http_path(r).p);
	snprintf(t.last_host, sizeof(t.last_host), "%.*s", (int)host.len, host.p ? host.p : "-");
	if (path_is(r, "/defer")) {
		AN(t.n_held < MAX_HELD);
		t.held[t.n_held++] = r;
	} else if (path_is(r, "/echo")) {
		http_reply(r, 200, "text/plain", "X-Extra: 1\r\n", body.p, body.len);
	} else if (path_is(r, "/take")) {
		size_t n;
		char *p = http_body_take(r, &n);
		http_reply(r, 200, NULL, "", p, n);
		free(p);
	} else if (path_is(r, "/begin")) {
		char *p = http_reply_begin(r, 200, "text/plain", "", 5000);
		memcpy(p, "begin", 5);
		http_reply_done(r, 5);
	} else if (path_is(r, "/big")) {
		http_reply(r, 200, NULL, "", big, sizeof(big));
	} else if (path_is(r, "/none")) {
		http_reply(r, 204, NULL, "", "ignored", 7);
	} else if (path_is(r, "/stream")) {
		http_stream_begin(r, 200, "text/plain", "", stream_more);
		stream_more(NULL, r);
	} else if (path_is(r, "/abort")) {
		http_stream_begin(r, 200, "text/plain", "", NULL);
		http_write(r, "half", 4);
		http_abort(r);
	} else if (path_is(r, "/up")) {
		char text[32];
		int n = snprintf(text, sizeof(text), "%zu", t.up_len);
		http_reply(r, 200, NULL, "", text, (size_t)n);
	} else if (path_is(r, "/duplex")) {
		http_end(r);
	} else {
		http_reply(r, 200, "text/plain", "", "hello", 5);
	}
}

static void on_gone(void *arg, struct http_request *r)
{
	(void)arg;
	(void)r;
	t.n_gone++;
}

static void on_refused(void *arg, int status, const char *detail, struct buf *b)
{
	(void)arg;
	assert_non_null(detail);
	snprintf(t.why, sizeof(t.why), "%s", detail);
	buf_printf(b, "{\"status\":%d}", status);
}

static int setup(void **state)
{
	(void)state;
	struct http_callbacks cb = {on_head, on_request, on_body, on_gone, on_refused};
	memset(&t, 0, sizeof(t));
	for (size_t i = 0; i < sizeof(big); i++)
		big[i] = (char)('a' + i % 26);
	t.l = (struct http_limits){.head_bytes = 32768, .body_bytes = 1 << 20, .headers = 100, .head_timeout_ms = 5000, .body_timeout_ms = 5000,
				   .idle_timeout_ms = 5000, .write_timeout_ms = 5000, .max_connections = 1000, .buffered_bytes = 4 << 20};
	t.base = event_base_new();
	t.s = http_server_new(t.base, &t.l, &cb, NULL, &t.stats);
	return t.base && t.s ? 0 : -1;
}

static int teardown(void **state)
{
	(void)state;
	http_server_free(&t.s);
	event_base_free(t.base);
	return 0;
}

/* ---- the client ---- */

struct client {
	int fd;
	char *in;
	size_t len, cap;
	bool eof, reset;
};

static struct client dial(void)
{
	int fd[2];
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd), 0);
	http_conn_settle(http_server_conn(t.s, fd[1]));
	return (struct client){.fd = fd[0]};
}

static bool receive(struct client *c)
{
	if (c->eof)
		return false;
	if (c->cap - c->len < 65536) {
		c->cap = c->cap * 2 + 65536;
		c->in = realloc(c->in, c->cap);
		assert_non_null(c->in);
	}
	ssize_t n = recv(c->fd, c->in + c->len, c->cap - c->len - 1, 0);
	if (n < 0 && errno == EAGAIN)
		return false;
	c->eof = n <= 0;
	c->reset = n < 0;
	if (n > 0)
		c->len += (size_t)n;
	c->in[c->len] = '\0';
	return true;
}

static bool spin(void)
{
	uint64_t before = atomic_load(&t.stats.v[STAT_BYTES_IN]) + atomic_load(&t.stats.v[STAT_BYTES_OUT]);
	event_base_loop(t.base, EVLOOP_NONBLOCK);
	return atomic_load(&t.stats.v[STAT_BYTES_IN]) + atomic_load(&t.stats.v[STAT_BYTES_OUT]) != before;
}

/* Until nothing moves any more. */
static void settle(struct client *c)
{
	for (int quiet = 0; quiet < 4; quiet++) {
		if (spin() || (c && receive(c)))
			quiet = 0;
	}
}

static void send_all(struct client *c, const char *p, size_t n)
{
	while (n) {
		ssize_t done = send(c->fd, p, n, MSG_NOSIGNAL);
		if (done < 0 && errno == EPIPE)
			return;
		if (done < 0) {
			assert_int_equal(errno, EAGAIN);
			spin();
			receive(c);
			continue;
		}
		p += done;
		n -= (size_t)done;
	}
}

/* Waits for the end of the connection (or for `len` bytes), for things that take time. */
static void wait_bytes(struct client *c, size_t len, unsigned ms)
{
	struct timespec tick = {0, 5000000};
	for (unsigned i = 0; i < ms / 5 && !c->eof && (len == 0 || c->len < len); i++) {
		spin();
		if (!receive(c))
			nanosleep(&tick, NULL);
	}
}

static void hang_up(struct client *c)
{
	if (c->fd >= 0)
		close(c->fd);
	free(c->in);
	*c = (struct client){.fd = -1};
	settle(NULL);
}

/* Number of complete answers in the client's buffer; their statuses. -1: malformed. */
static int answers(struct client *c, int *status, int max)
{
	int n = 0;
	char *p = c->in, *end = c->in + c->len;
	while (p < end && n < max) {
		char *head = memmem(p, (size_t)(end - p), "\r\n\r\n", 4);
		if (!head || strncmp(p, "HTTP/1.1 ", 9) != 0)
			return -1;
		status[n] = atoi(p + 9);
		char *cl = memmem(p, (size_t)(head - p), "\r\nContent-Length:", 17);
		if (status[n] >= 200 && !memmem(p, (size_t)(head - p), "\r\nDate: ", 8))
			return -1;
		size_t len = cl ? strtoul(cl + 17, NULL, 10) : 0;
		if ((size_t)(end - head) - 4 < len)
			return -1;
		p = head + 4 + len;
		n++;
	}
	return n;
}

static struct client ask(const char *request, size_t n)
{
	struct client c = dial();
	send_all(&c, request, n);
	settle(&c);
	return c;
}

#define WITH(s) (s), sizeof(s) - 1

/* ---- the probe table ---- */

struct probe {
	const char *what, *bytes;
	size_t len;
	int status;
	bool closes;
};
#define GOOD "GET /x HTTP/1.1\r\nHost: h\r\n"
#define POST "POST /echo HTTP/1.1\r\nHost: h\r\n"
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
		fail_msg("%s (%s): %d answers, %d %d, %s; expected %d, %s (%s)\n%s", p->what, how, n, status[0], status[1], c->eof ? "closed" : "open",
			 p->status, p->closes ? "closed" : "open", t.why, c->in);
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
	const char *const more[] = {"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "X: yyyyyyyyyyyyyyyyyyyyyy\r\n"};
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

/* ---- ways of arriving ---- */

static void test_pipelining(void **state)
{
	struct buf b = {0};
	(void)state;
	for (int i = 0; i < 16; i++)
		buf_adds(&b, i % 4 == 1 ? POST "Content-Length: 3\r\n\r\nabc" : i % 4 == 2 ? POST "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n" :
			     i % 4 == 3 ? "HEAD / HTTP/1.1\r\nHost: h\r\n\r\n" : GOOD "\r\n");
	struct client c = dial();
	send_all(&c, b.p, b.len);
	event_base_loop(t.base, EVLOOP_NONBLOCK);
	receive(&c);
	assert_int_equal(t.n_requests, 16); /* one read, one turn, one write for all of them */
	size_t all = c.len;
	settle(&c);
	assert_int_equal(c.len, all);
	hang_up(&c);
	/* thousands in one go: buffers wrap, the stack does not grow, nothing is lost */
	b.len = 0;
	for (int i = 0; i < 3000; i++)
		buf_printf(&b, "GET /%d HTTP/1.1\r\nHost: h\r\n\r\n", i);
	c = dial();
	send_all(&c, b.p, b.len);
	settle(&c);
	char *p = c.in;
	int n = 0;
	for (; (p = strstr(p, "HTTP/1.1 200 OK\r\n")); p++)
		n++;
	assert_int_equal(n, 3000);
	assert_string_equal(t.last_path, "/2999");
	hang_up(&c);
	buf_free(&b);
}

static void test_head_and_none(void **state)
{
	(void)state;
	struct client c = ask(WITH("HEAD / HTTP/1.1\r\nHost: h\r\n\r\nHEAD /begin HTTP/1.1\r\nHost: h\r\n\r\nHEAD /stream HTTP/1.1\r\nHost: h\r\n\r\n"
				   "GET /none HTTP/1.1\r\nHost: h\r\n\r\nHEAD /big HTTP/1.1\r\nHost: h\r\n\r\n"));
	assert_non_null(strstr(c.in, "Content-Length: 5\r\n"));
	assert_non_null(strstr(c.in, "Content-Length: 4194304\r\n"));
	assert_non_null(strstr(c.in, " 204 No Content\r\n"));
	assert_null(strstr(c.in, "hello"));
	assert_null(strstr(c.in, "ignored"));
	assert_null(strstr(c.in, "abc"));
	assert_null(strstr(c.in, "\r\n\r\n0\r\n"));
	hang_up(&c);
	c = ask(WITH("HEAD /\r\nHost: h\r\n\r\n")); /* a refusal has no body either */
	assert_non_null(strstr(c.in, "HTTP/1.1 400 "));
	assert_non_null(strstr(c.in, "Content-Length: 14\r\n"));
	assert_null(strstr(c.in, "{"));
	hang_up(&c);
	c = ask(WITH("GET /begin HTTP/1.1\r\nHost: h\r\n\r\n"));
	assert_non_null(strstr(c.in, "Content-Length:    5\r\n"));
	assert_non_null(strstr(c.in, "\r\n\r\nbegin"));
	hang_up(&c);
}

static void check_body(const char *path, size_t n, size_t piece)
{
	struct buf b = {0};
	struct client c = dial();
	buf_printf(&b, "POST %s HTTP/1.1\r\nHost: h\r\nContent-Length: %zu\r\n\r\n", path, n);
	buf_add(&b, big, n);
	buf_adds(&b, GOOD "\r\n");
	for (size_t at = 0; at < b.len; at += piece) {
		send_all(&c, b.p + at, b.len - at < piece ? b.len - at : piece);
		spin();
	}
	settle(&c);
	char *body = strstr(c.in, "\r\n\r\n") + 4;
	if (c.len - (size_t)(body - c.in) < n || (n && memcmp(body, big, n) != 0) || strncmp(body + n, "HTTP/1.1 200", 12) != 0)
		fail_msg("%s, %zu bytes in pieces of %zu", path, n, piece);
	buf_free(&b);
	hang_up(&c);
}

static void test_bodies(void **state)
{
	static const size_t sizes[] = {0, 1, 100, 21483, 30000, 32600, 32700, 32768, 40000, 100000, 1048576};
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
		check_body("/echo", sizes[i], 1 << 21);
		check_body("/take", sizes[i], 4000);
		check_body("/echo", sizes[i], 32768);
	}
	check_body("/echo", 3000, 1);
	assert_int_equal(t.s->buffered, 0);
}

static void test_chunked_splits(void **state)
{
	struct buf b = {0};
	(void)state;
	buf_adds(&b, POST "Transfer-Encoding: chunked\r\n\r\n");
	for (int i = 1; i <= 30; i++) {
		buf_printf(&b, "%x;e=%d\r\n", i * 37, i);
		buf_add(&b, big, (size_t)i * 37);
		buf_adds(&b, "\r\n");
	}
	buf_adds(&b, "0\r\nT: 1\r\n\r\n" GOOD "\r\n");
	for (size_t piece = 1; piece < 20000; piece = piece * 2 + 1) {
		struct client c = dial();
		for (size_t at = 0; at < b.len; at += piece) {
			send_all(&c, b.p + at, b.len - at < piece ? b.len - at : piece);
			spin();
		}
		settle(&c);
		int status[3];
		assert_int_equal(answers(&c, status, 3), 2);
		assert_non_null(strstr(c.in, "Content-Length: 17205\r\n"));
		char *body = strstr(c.in, "\r\n\r\n") + 4;
		for (int i = 1; i <= 30; body += i * 37, i++)
			assert_memory_equal(body, big, (size_t)i * 37);
		hang_up(&c);
	}
	buf_free(&b);
}

static void test_expect(void **state)
{
	int status[4];
	(void)state;
	struct client c = ask(WITH(POST "Expect: 100-Continue\r\nContent-Length: 3\r\n\r\n"));
	assert_string_equal(c.in, "HTTP/1.1 100 Continue\r\n\r\n");
	send_all(&c, WITH("abc"));
	settle(&c);
	assert_int_equal(answers(&c, status, 4), 2);
	assert_int_equal(status[1], 200);
	hang_up(&c);
	c = ask(WITH(POST "Expect: 100-continue\r\nContent-Length: 9999999\r\n\r\n"));
	assert_int_equal(answers(&c, status, 4), 1);
	assert_int_equal(status[0], 413); /* no 100 before it */
	hang_up(&c);
	c = ask(WITH("POST /deny HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n"));
	assert_int_equal(answers(&c, status, 4), 1);
	assert_int_equal(status[0], 401);
	assert_non_null(strstr(c.in, "Connection: close\r\n")); /* nobody knows whether the body will come */
	hang_up(&c);
	c = ask(WITH("GET / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\n\r\n"));
	assert_int_equal(answers(&c, status, 4), 1);
	assert_int_equal(status[0], 200);
	hang_up(&c);
	c = ask(WITH(POST "Expect: 100-continue\r\nContent-Length: 3\r\n\r\nabc"));
	assert_int_equal(answers(&c, status, 4), 1); /* the body is here: no 100 needed */
	hang_up(&c);
}

static void test_early_answer(void **state)
{
	int status[4];
	(void)state;
	struct client c = ask(WITH("POST /deny HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nab"));
	assert_int_equal(answers(&c, status, 4), 1);
	assert_int_equal(status[0], 401);
	send_all(&c, WITH("cde" GOOD "\r\n")); /* a short body is skipped */
	settle(&c);
	assert_int_equal(answers(&c, status, 4), 2);
	assert_int_equal(status[1], 200);
	hang_up(&c);
	c = ask(WITH("POST /deny HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\nab"));
	assert_int_equal(answers(&c, status, 4), 1);
	assert_non_null(strstr(c.in, "Connection: close\r\n"));
	send_all(&c, big, 500000); /* drained, not answered by a reset */
	settle(&c);
	wait_bytes(&c, 0, 3000);
	assert_true(c.eof);
	hang_up(&c);
	c = ask(WITH("POST /early-end HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"));
	assert_non_null(strstr(c.in, "3\r\nbye\r\n0\r\n\r\n"));
	wait_bytes(&c, 0, 3000);
	assert_true(c.eof);
	hang_up(&c);
	assert_int_equal(t.s->n_conns, 0);
}

/* ---- timeouts ---- */

static void test_timeouts(void **state)
{
	static const struct {
		const char *what, *bytes;
		int status;
	} rows[] = {
		{"nothing", "", 0}, {"half a line", "GE", 408}, {"half a head", GOOD "X: ", 408},
		{"half a body", POST "Content-Length: 10\r\n\r\nabc", 408},
		{"half a chunk", POST "Transfer-Encoding: chunked\r\n\r\na\r\nabc", 408},
		{"half a streamed body", "POST /up HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nabc", 408},
		{"idle", GOOD "\r\n", 200},
	};
	struct client c[ARRAY_LEN(rows)];
	struct timespec tick = {0, 20000000};
	(void)state;
	t.l.head_timeout_ms = t.l.body_timeout_ms = t.l.idle_timeout_ms = 400;
	http_server_set_limits(t.s, &t.l);
	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		c[i] = ask(rows[i].bytes, strlen(rows[i].bytes));
	struct client slow = dial();
	bool closed = false;
	for (int i = 0; i < 150; i++) { /* one byte every 20 ms must not help: the deadline is absolute */
		closed = closed || slow.eof || send(slow.fd, "x", 1, MSG_NOSIGNAL) < 0;
		spin();
		receive(&slow);
		bool all = slow.eof;
		for (size_t k = 0; k < ARRAY_LEN(rows); k++) {
			receive(&c[k]);
			all &= c[k].eof;
		}
		if (all)
			break;
		nanosleep(&tick, NULL);
	}
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		int status[2] = {0};
		int n = c[i].len ? answers(&c[i], status, 2) : 0;
		if (!c[i].eof || n != (rows[i].status ? 1 : 0) || status[0] != rows[i].status)
			fail_msg("%s: %d answers, %d, %s", rows[i].what, n, status[0], c[i].eof ? "closed" : "open");
		hang_up(&c[i]);
	}
	assert_non_null(slow.in);
	assert_memory_equal(slow.in, "HTTP/1.1 408 ", 13);
	hang_up(&slow);
	assert_int_equal(t.n_gone, 1); /* the streamed one: its handler must let go of it */
}

static void test_slow_reader(void **state)
{
	struct timespec tick = {0, 10000000};
	(void)state;
	t.l.write_timeout_ms = 300;
	http_server_set_limits(t.s, &t.l);
	struct client c = dial();
	send_all(&c, WITH("GET /big HTTP/1.1\r\nHost: h\r\n\r\n"));
	for (int i = 0; i < 300 && http_server_connections(t.s); i++) {
		spin(); /* reads nothing */
		nanosleep(&tick, NULL);
	}
	assert_int_equal(http_server_connections(t.s), 0);
	hang_up(&c);
	/* one that reads slowly but steadily gets everything */
	c = dial();
	send_all(&c, WITH("GET /big HTTP/1.1\r\nHost: h\r\n\r\n"));
	while (!c.eof && c.len < sizeof(big)) {
		spin();
		receive(&c);
	}
	settle(&c);
	int status[2];
	assert_int_equal(answers(&c, status, 2), 1);
	assert_memory_equal(strstr(c.in, "\r\n\r\n") + 4, big, sizeof(big));
	hang_up(&c);
	/* one that pipelines without reading is not served without end */
	struct buf b = {0};
	for (int i = 0; i < 200; i++)
		buf_adds(&b, "GET /big HTTP/1.1\r\nHost: h\r\n\r\n");
	c = dial();
	send_all(&c, b.p, b.len);
	for (int i = 0; i < 5; i++)
		spin();
	assert_true(t.n_requests < 10);
	buf_free(&b);
	hang_up(&c);
}

/* ---- deferred answers ---- */

static void test_deferred(void **state)
{
	int status[8];
	(void)state;
	struct client c = ask(WITH("GET /defer HTTP/1.1\r\nHost: h\r\n\r\n" GOOD "\r\nGET /defer HTTP/1.1\r\nHost: h\r\n\r\n"));
	assert_int_equal(t.n_held, 1);
	assert_int_equal(t.n_requests, 1); /* parsing rests */
	assert_int_equal(c.len, 0);
	http_reply(t.held[0], 201, NULL, "", "one", 3);
	assert_int_equal(t.n_held, 1); /* and does not go on inside http_reply() */
	settle(&c);
	assert_int_equal(t.n_requests, 3);
	assert_int_equal(answers(&c, status, 8), 2);
	assert_int_equal(status[0], 201);
	http_stream_begin(t.held[1], 200, NULL, "", NULL);
	http_write(t.held[1], "a", 1);
	settle(&c);
	assert_non_null(strstr(c.in, "\r\n\r\n1\r\na\r\n"));
	http_write(t.held[1], "bc", 2);
	http_end(t.held[1]);
	settle(&c);
	assert_non_null(strstr(c.in, "1\r\na\r\n2\r\nbc\r\n0\r\n\r\n"));
	hang_up(&c);
	assert_int_equal(t.s->n_conns, 0);
}

/* A client that goes on sending while its request rests is not read without bound. */
static void test_deferred_flood(void **state)
{
	(void)state;
	struct client c = ask(WITH("GET /defer HTTP/1.1\r\nHost: h\r\n\r\n"));
	size_t sent = 0;
	for (int i = 0; i < 200; i++) {
		char line[] = GOOD "\r\n";
		for (int k = 0; k < 500; k++) {
			ssize_t n = send(c.fd, line, sizeof(line) - 1, MSG_NOSIGNAL);
			if (n != (ssize_t)sizeof(line) - 1)
				break;
			sent++;
		}
		spin();
	}
	assert_true(atomic_load(&t.stats.v[STAT_BYTES_IN]) <= 64 * 1024);
	http_reply(t.held[0], 200, NULL, "", NULL, 0);
	settle(&c);
	assert_true(t.n_requests >= sent);
	hang_up(&c);
}

static void test_client_gone(void **state)
{
	(void)state;
	struct client c = ask(WITH("GET /defer HTTP/1.1\r\nHost: h\r\n\r\n"));
	assert_false(http_gone(t.held[0]));
	shutdown(c.fd, SHUT_WR); /* half-closed: the handler hears of it, the answer still arrives */
	settle(&c);
	assert_int_equal(t.n_gone, 1);
	assert_false(http_gone(t.held[0]));
	http_reply(t.held[0], 200, NULL, "", "late", 4);
	settle(&c);
	assert_true(c.eof);
	assert_non_null(strstr(c.in, "late"));
	hang_up(&c);
	c = dial(); /* request and end in one go: one event for both */
	send_all(&c, WITH(GOOD "\r\n"));
	shutdown(c.fd, SHUT_WR);
	settle(&c);
	assert_true(c.eof);
	assert_non_null(strstr(c.in, "hello"));
	hang_up(&c);
	assert_int_equal(t.s->n_conns, 0);
	for (int how = 0; how < 4; how++) { /* gone for good; each way to answer only frees */
		t.n_held = 0;
		c = ask(WITH("GET /defer HTTP/1.1\r\nHost: h\r\n\r\n"));
		struct http_request *r = t.held[0];
		hang_up(&c);
		assert_int_equal(t.n_gone, how + 2);
		if (how == 0) {
			http_reply(r, 200, NULL, "", big, sizeof(big));
		} else if (how == 1) {
			memset(http_reply_begin(r, 200, NULL, "", 100), 'x', 100);
			http_reply_done(r, 100);
		} else if (how == 2) {
			http_stream_begin(r, 200, NULL, "", NULL);
			http_write(r, big, 1000000);
			http_end(r);
		} else {
			http_abort(r);
		}
		settle(NULL);
		assert_int_equal(t.s->n_conns, 0);
	}
	assert_int_equal(t.n_gone, 5);
}

/* ---- streaming ---- */

static size_t dechunk(char *p, char *out, bool *complete)
{
	size_t n = 0;
	*complete = false;
	for (;;) {
		char *end;
		size_t k = strtoul(p, &end, 16);
		if (end == p || strncmp(end, "\r\n", 2) != 0)
			return n;
		if (k == 0) {
			*complete = strcmp(end, "\r\n\r\n") == 0;
			return n;
		}
		memcpy(out + n, end + 2, k);
		n += k;
		p = end + 2 + k + 2;
	}
}

static void test_stream_out(void **state)
{
	char *out = malloc(4 << 20);
	bool complete;
	(void)state;
	assert_non_null(out);
	t.to_stream = 3000000;
	struct client c = dial();
	send_all(&c, WITH("GET /stream HTTP/1.1\r\nHost: h\r\n\r\n"));
	for (int i = 0; i < 20; i++)
		spin();
	assert_true(t.to_stream > 1000000); /* back-pressure: it waits for the reader */
	unsigned before = t.drains;
	settle(&c);
	assert_true(t.drains > before);
	assert_int_equal(dechunk(strstr(c.in, "\r\n\r\n") + 4, out, &complete), 3000000);
	assert_true(complete);
	for (size_t i = 0; i < 3000000; i += 10000)
		assert_memory_equal(out + i, big, 10000);
	assert_false(c.eof);
	hang_up(&c);
	free(out);
	t.to_stream = 100000;
	c = ask(WITH("GET /stream HTTP/1.0\r\n\r\n"));
	assert_true(c.eof);
	assert_null(strstr(c.in, "chunked"));
	assert_int_equal(c.len - (size_t)(strstr(c.in, "\r\n\r\n") + 4 - c.in), 100000);
	hang_up(&c);
	c = ask(WITH("GET /abort HTTP/1.1\r\nHost: h\r\n\r\n"));
	assert_true(c.eof);
	assert_true(!c.in || !strstr(c.in, "0\r\n\r\n"));
	hang_up(&c);
}

static void test_stream_in(void **state)
{
	struct buf b = {0};
	(void)state;
	for (int chunked = 0; chunked < 2; chunked++) {
		t.up_len = b.len = 0;
		t.pause = true;
		buf_printf(&b, "POST /up HTTP/1.1\r\nHost: h\r\n%s\r\n\r\n", chunked ? "Transfer-Encoding: chunked" : "Content-Length: 800000");
		for (int i = 0; i < 80; i++) {
			if (chunked)
				buf_adds(&b, "2710\r\n");
			buf_add(&b, big, 10000);
			if (chunked)
				buf_adds(&b, "\r\n");
		}
		if (chunked)
			buf_adds(&b, "0\r\n\r\n");
		struct client c = dial();
		size_t at = 0;
		for (int i = 0; i < 50; i++) {
			ssize_t n = send(c.fd, b.p + at, b.len - at, MSG_NOSIGNAL);
			if (n > 0)
				at += (size_t)n;
			spin();
		}
		assert_true(t.up_len > 0 && t.up_len <= 32768); /* paused after the first piece */
		size_t first = t.up_len;
		http_resume(t.s->conns->r);
		for (int i = 0; i < 5; i++)
			spin();
		assert_true(t.up_len > first && t.up_len <= first + 32768);
		t.pause = false;
		http_resume(t.s->conns->r);
		send_all(&c, b.p + at, b.len - at);
		settle(&c);
		assert_int_equal(t.up_len, 800000);
		for (size_t i = 0; i < 80; i++)
			assert_memory_equal(t.up + i * 10000, big, 10000);
		assert_non_null(strstr(c.in, "\r\n\r\n800000"));
		hang_up(&c);
	}
	buf_free(&b);
}

static void test_duplex(void **state)
{
	char out[64];
	bool complete;
	(void)state;
	struct client c = ask(WITH("POST /duplex HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"));
	assert_non_null(strstr(c.in, "HTTP/1.1 200 OK\r\n"));
	send_all(&c, WITH("3\r\nabc\r\n"));
	settle(&c);
	assert_non_null(strstr(c.in, "\r\n\r\n3\r\nabc\r\n")); /* echoed before the request is complete */
	send_all(&c, WITH("2\r\nde\r\n0\r\n\r\n"));
	settle(&c);
	assert_int_equal(dechunk(strstr(c.in, "\r\n\r\n") + 4, out, &complete), 5);
	assert_true(complete);
	hang_up(&c);
	/* malformed in the middle of an answer: the answer must not look complete */
	c = ask(WITH("POST /duplex HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n"));
	assert_true(c.eof);
	assert_int_equal(t.n_gone, 1);
	assert_true(!c.in || !strstr(c.in, "0\r\n\r\n"));
	struct http_request *r = t.s->conns->r;
	assert_true(http_gone(r));
	http_end(r);
	settle(NULL);
	assert_int_equal(t.s->n_conns, 0);
	hang_up(&c);
}

/* ---- the rest ---- */

static void test_drain(void **state)
{
	int status[4];
	(void)state;
	struct client idle = dial(), served = ask(WITH(GOOD "\r\n")), waiting = ask(WITH("GET /defer HTTP/1.1\r\nHost: h\r\n\r\n")),
		      partial = ask(WITH("GET /x HT")), late = dial();
	send_all(&late, WITH(GOOD "\r\n")); /* in the socket when the drain begins */
	http_server_drain(t.s);
	settle(NULL);
	struct client *all[] = {&idle, &served, &waiting, &partial, &late};
	for (size_t i = 0; i < ARRAY_LEN(all); i++)
		settle(all[i]);
	assert_true(idle.eof && served.eof && late.eof);
	assert_int_equal(answers(&late, status, 4), 1);
	assert_non_null(strstr(late.in, "Connection: close\r\n"));
	assert_false(waiting.eof || partial.eof);
	assert_int_equal(http_server_connections(t.s), 2);
	http_reply(t.held[0], 200, NULL, "", NULL, 0);
	send_all(&partial, WITH("TP/1.1\r\nHost: h\r\n\r\n"));
	settle(&waiting);
	settle(&partial);
	assert_true(waiting.eof && partial.eof);
	assert_non_null(strstr(waiting.in, "Connection: close\r\n"));
	assert_non_null(strstr(partial.in, "Connection: close\r\n"));
	assert_int_equal(http_server_connections(t.s), 0);
	for (size_t i = 0; i < ARRAY_LEN(all); i++)
		hang_up(all[i]);
}

static void test_idle_memory(void **state)
{
	struct client c[50];
	(void)state;
	for (int i = 0; i < 50; i++)
		c[i] = ask(WITH(GOOD "\r\n"));
	for (int i = 0; i < 25; i++) {
		send_all(&c[i], WITH("GET /partial"));
		settle(&c[i]);
	}
	size_t held = 0;
	for (struct http_conn *k = t.s->conns; k; k = k->next) {
		assert_null(k->r);
		assert_null(k->out);
		held += k->in_cap;
	}
	assert_true(held <= 25 * 64);
	for (int i = 0; i < 50; i++)
		hang_up(&c[i]);
}

static void test_accessors(void **state)
{
	char out[64], *v;
	size_t n;
	unsigned uid;
	(void)state;
	struct client c = ask(WITH("GET http://Ab.c:1/p%20q?a=1&b=%C3%A9+x&c&%62b=2&bad=%zz HTTP/1.1\r\nHost: other\r\nX-Request-Id: my-id_1\r\n"
				   "Accept: a\r\nX-Some: thing \t\r\naccept: b\r\nACCEPT:c\r\n\r\n"));
	assert_string_equal(t.last_path, "/p%20q");
	assert_string_equal(t.last_host, "Ab.c:1");
	assert_non_null(strstr(c.in, "X-Request-Id: my-id_1\r\n"));
	hang_up(&c);
	c = ask(WITH("GET /defer?a=1&b=%C3%A9+x&c&%62b=2&n=%00&bad=%zz HTTP/1.1\r\nHost: h\r\nX-Request-Id: bad id\r\n"
		     "Accept: a\r\nX-Some: thing \t\r\naccept: b\r\nACCEPT:c\r\n\r\n"));
	struct http_request *r = t.held[0];
	assert_true(span_eq(http_header(r, HTTP_H_ACCEPT), SPAN("a, b, c")));
	assert_true(span_eq(http_header_named(r, "x-some"), SPAN("thing")));
	assert_null(http_header_named(r, "x-other").p);
	assert_null(http_header(r, HTTP_H_ORIGIN).p);
	assert_int_equal(http_request_id(r).len, 16);
	assert_int_equal(http_query_get(r, "a", &v, &n), 1);
	assert_string_equal(v, "1");
	free(v);
	assert_int_equal(http_query_get(r, "b", &v, &n), 1);
	assert_string_equal(v, "\xc3\xa9 x");
	free(v);
	assert_int_equal(http_query_get(r, "c", &v, &n), 1);
	assert_int_equal(n, 0);
	free(v);
	assert_int_equal(http_query_get(r, "bb", &v, &n), 1);
	assert_string_equal(v, "2");
	free(v);
	assert_int_equal(http_query_get(r, "n", &v, &n), -1);
	assert_int_equal(http_query_get(r, "bad", &v, &n), -1);
	assert_int_equal(http_query_get(r, "zzz", &v, &n), 0);
	assert_false(http_peer_uid(r, &uid)); /* not accepted from a Unix listener */
	http_reply(r, 200, NULL, "", NULL, 0);
	hang_up(&c);
	assert_int_equal(http_percent_decode(SPAN("a%2Fb+c"), false, out), 5);
	assert_memory_equal(out, "a/b+c", 5);
	assert_int_equal(http_percent_decode(SPAN("%"), false, out), -1);
	assert_int_equal(http_percent_decode(SPAN("%4"), false, out), -1);
	assert_int_equal(http_percent_decode(SPAN("%4g"), false, out), -1);
	assert_int_equal(http_percent_decode(SPAN("%41"), false, out), 1);
}

static void test_unix_peer(void **state)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	unsigned uid = 1;
	(void)state;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
	snprintf(a.sun_path + 1, sizeof(a.sun_path) - 1, "orc-test-http-%d", (int)getpid()); /* abstract */
	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(fd, 4), 0);
	assert_int_equal(http_server_listen(t.s, fd), 0);
	struct client c = {.fd = socket(AF_UNIX, SOCK_STREAM, 0)};
	assert_int_equal(connect(c.fd, (struct sockaddr *)&a, sizeof(a)), 0);
	fcntl(c.fd, F_SETFL, O_NONBLOCK);
	send_all(&c, WITH("GET /defer HTTP/1.1\r\nHost: h\r\n\r\n"));
	settle(&c);
	assert_int_equal(t.n_held, 1);
	assert_true(http_peer_uid(t.held[0], &uid));
	assert_int_equal(uid, getuid());
	assert_true(http_peer_loopback(t.held[0]));
	http_reply(t.held[0], 200, NULL, "", NULL, 0);
	settle(&c);
	assert_non_null(strstr(c.in, "200 OK"));
	hang_up(&c);
	close(fd);
}

/* The server goes while requests are unanswered: all memory comes back (ASan looks). */
static void test_free_in_flight(void **state)
{
	(void)state;
	struct client a = ask(WITH("GET /defer HTTP/1.1\r\nHost: h\r\n\r\n")), b = ask(WITH(POST "Content-Length: 90000\r\n\r\nabc"));
	teardown(NULL);
	assert_int_equal(t.n_gone, 1);
	struct client *both[] = {&a, &b};
	for (int i = 0; i < 2; i++) {
		close(both[i]->fd);
		free(both[i]->in);
	}
	setup(NULL);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_probes), T(test_probes_bytewise), T(test_llhttp_is_strict), T(test_large_heads), T(test_chunk_limits), T(test_many_connections),
		T(test_buffered_bytes), T(test_pipelining), T(test_head_and_none), T(test_bodies), T(test_chunked_splits), T(test_expect),
		T(test_early_answer), T(test_timeouts), T(test_slow_reader), T(test_deferred), T(test_deferred_flood), T(test_client_gone),
		T(test_stream_out), T(test_stream_in), T(test_duplex), T(test_drain), T(test_idle_memory), T(test_accessors), T(test_unix_peer),
		T(test_free_in_flight),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
