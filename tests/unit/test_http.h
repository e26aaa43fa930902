/* What the tests of the HTTP engine share: a server whose handler does something else for each path,
 * and a client that sends raw bytes. Both live in one thread and share the loop, so nothing depends
 * on timing except the timeouts themselves, which are waited for, never asserted to be short.
 * Included once by each test program. */
#ifndef ORC_TEST_HTTP_H
#define ORC_TEST_HTTP_H
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#include "http/http-private.h"

#pragma GCC diagnostic ignored "-Wunused-function" /* neither program uses all of it */

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
	char last_path[128], last_host[128], why[128],
		seen[4096]; /* seen: all that a handler can know of the last head */
} t;
static char big[4 << 20];

/* ---- the handler ---- */

static bool path_is(struct http_request *r, const char *p) { return span_eq(http_path(r), SPAN(p)); }

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

static size_t see(size_t at, const char *p, size_t n)
{
	int put = snprintf(t.seen + at, sizeof(t.seen) - at, "%d:%.*s|", p != NULL, (int)n, p ? p : "");
	return at + (size_t)put < sizeof(t.seen) ? at + (size_t)put : sizeof(t.seen) - 1;
}

static void see_all(struct http_request *r)
{
	size_t at = see(0, http_method_text(r).p, http_method_text(r).len);
	at = see(at, http_path(r).p, http_path(r).len);
	at = see(at, http_query(r).p, http_query(r).len);
	for (enum http_header h = 0; h < HTTP_H_COUNT; h++)
		at = see(at, http_header(r, h).p, http_header(r, h).len);
	for (unsigned i = 0; i < r->n_fields; i++) {
		at = see(at, r->fields[i].name, r->fields[i].name_len);
		at = see(at, r->fields[i].value, r->fields[i].value_len);
	}
	snprintf(t.seen + at, sizeof(t.seen) - at, "%d %d %d %llu", r->keep, r->minor, (int)r->method,
		 (unsigned long long)http_bytes_in(r));
}

static void on_request(void *arg, struct http_request *r)
{
	struct span body = http_body(r), host = http_header(r, HTTP_H_HOST);
	(void)arg;
	t.n_requests++;
	see_all(r);
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
	} else if (path_is(r, "/some")) {
		http_reply(r, 200, NULL, "", big, 8000);
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

static void on_refused(void *arg, int status, const char *detail, struct span id, struct buf *b)
{
	assert_true(id.len > 0);
	(void)arg;
	assert_non_null(detail);
	snprintf(t.why, sizeof(t.why), "%s", detail);
	buf_printf(b, "{\"status\":%d}", status);
}

static int setup(void **state)
{
	(void)state;
	struct http_callbacks cb = {on_head, on_request, on_body, on_gone, on_refused, NULL};
	memset(&t, 0, sizeof(t));
	for (size_t i = 0; i < sizeof(big); i++)
		big[i] = (char)('a' + i % 26);
	t.l = (struct http_limits){.head_bytes = 32768,
				   .body_bytes = 1 << 20,
				   .headers = 100,
				   .head_timeout_ms = 5000,
				   .body_timeout_ms = 5000,
				   .idle_timeout_ms = 5000,
				   .write_timeout_ms = 5000,
				   .max_connections = 1000,
				   .buffered_bytes = 4 << 20};
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

#define GOOD "GET /x HTTP/1.1\r\nHost: h\r\n"
#define POST "POST /echo HTTP/1.1\r\nHost: h\r\n"
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
#endif
