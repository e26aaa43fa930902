/* Arbitrary bytes in arbitrary pieces into a connection that has no socket. The first bytes of the
 * input choose the sizes of the pieces; the path chooses what the handler does. Looks for crashes,
 * leaks, over-reads, hangs, and for requests that are never released. */
#include <stdio.h>
#include <stdlib.h>
#include "http/http-private.h"

#define HELD 4
static struct http_request *held[HELD];
static unsigned n_held;
static bool pause_next;

static char what(struct http_request *r)
{
	struct span p = http_path(r);
	return p.len > 1 ? p.p[1] : 0;
}

static void on_head(void *arg, struct http_request *r, bool *stream_r)
{
	(void)arg;
	switch (what(r)) {
	case 's': *stream_r = true; break;
	case 'x':
		*stream_r = true;
		http_stream_begin(r, 200, "text/plain", "", NULL);
		break;
	case 'n': http_reply(r, 401, NULL, "", "no", 2); break;
	}
}

static bool on_body(void *arg, struct http_request *r, const char *p, size_t n)
{
	unsigned char sum = 0;
	(void)arg;
	for (size_t i = 0; i < n; i++) /* touch every byte: ASan */
		sum = (unsigned char)(sum + p[i]);
	if (what(r) == 'x')
		http_write(r, p, n);
	pause_next = !pause_next;
	return !pause_next || sum & 1;
}

static void on_request(void *arg, struct http_request *r)
{
	struct span b = http_body(r);
	char *v, small[64];
	size_t n;
	(void)arg;
	if (http_query_get(r, "q", &v, &n) == 1)
		free(v);
	if (http_path(r).len <= sizeof(small))
		(void)http_percent_decode(http_path(r), true, small);
	(void)http_header_named(r, "x-some");
	switch (what(r)) {
	case 'd':
		if (n_held < HELD) {
			held[n_held++] = r;
			break;
		}
		http_reply(r, 503, NULL, "", NULL, 0);
		break;
	case 'x': http_end(r); break;
	case 'b':
		v = http_reply_begin(r, 200, "text/plain", "", b.len + 10);
		if (b.len)
			memcpy(v, b.p, b.len);
		http_reply_done(r, b.len);
		break;
	case 't':
		v = http_body_take(r, &n);
		http_reply(r, 200, NULL, "", v, n);
		free(v);
		break;
	case 'a':
		http_stream_begin(r, 200, NULL, "", NULL);
		http_abort(r);
		break;
	default: http_reply(r, 200, "text/plain", "A: b\r\n", b.p, b.len);
	}
}

static void on_gone(void *arg, struct http_request *r)
{
	(void)arg;
	if (what(r) == 's' || what(r) == 'x') { /* nothing else will end it */
		if (what(r) == 's')
			http_reply(r, 400, NULL, "", NULL, 0);
		else
			http_end(r);
	}
}

static void answer_held(void)
{
	unsigned n = n_held;
	n_held = 0;
	for (unsigned i = 0; i < n; i++)
		http_reply(held[i], 200, "text/plain", "", "late", 4);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct http_limits l = {.head_bytes = 2000,
					     .body_bytes = 70000,
					     .headers = 10,
					     .head_timeout_ms = 1000,
					     .body_timeout_ms = 1000,
					     .idle_timeout_ms = 1000,
					     .write_timeout_ms = 1000,
					     .max_connections = 10,
					     .buffered_bytes = 100000};
	static const struct http_callbacks cb = {on_head, on_request, on_body, on_gone, NULL, NULL};
	struct buf out = {0};
	if (size < 4)
		return 0;
	struct http_server *s = http_server_new(NULL, &l, &cb, NULL, NULL);
	struct http_conn *c = http_server_conn(s, -1);
	uint8_t steps[4];

	c->sink = &out;
	memcpy(steps, data, 4);
	data += 4;
	size -= 4;
	n_held = 0;
	pause_next = false;
	for (unsigned i = 0; size; i++) {
		size_t n = steps[i % 4] ? steps[i % 4] : 4096;
		if (n > size)
			n = size;
		uint8_t *copy = malloc(n); /* exact: over-reads are seen */
		if (!copy)
			abort();
		memcpy(copy, data, n);
		if (s->conns) /* else it was closed and is gone */
			http_conn_feed(s->conns, (char *)copy, n);
		free(copy);
		data += n;
		size -= n;
		if (i % 3 == 2)
			answer_held();
		if (s->conns && s->conns->r && s->conns->paused)
			http_resume(s->conns->r);
		http_server_turn(s);
	}
	answer_held();
	http_server_turn(s);
	if (s->conns)
		http_conn_close(s->conns);
	answer_held();
	http_server_turn(s);
	AN(s->n_conns == 0 && s->buffered == 0);
	http_server_free(&s);
	buf_free(&out);
	return 0;
}
