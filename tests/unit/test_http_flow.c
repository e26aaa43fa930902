/* How requests and answers flow through the HTTP engine: arrival in any pieces, bodies, timeouts,
 * deferred and streamed answers, clients that go away, draining. */
#include "test_http.h"

/* ---- ways of arriving ---- */

static void test_pipelining(void **state)
{
	struct buf b = {0};
	(void)state;
	for (int i = 0; i < 16; i++)
		buf_adds(&b, i % 4 == 1	  ? POST "Content-Length: 3\r\n\r\nabc"
			     : i % 4 == 2 ? POST "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
			     : i % 4 == 3 ? "HEAD / HTTP/1.1\r\nHost: h\r\n\r\n"
					  : GOOD "\r\n");
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
	/* heads too large to be parked: what is left at the end of the buffer moves to its beginning */
	b.len = 0;
	for (int i = 0; i < 40; i++) {
		buf_printf(&b, "GET /%d HTTP/1.1\r\nHost: h\r\nX-Request-Id: id-%d\r\nX: ", i, i);
		buf_add(&b, big, 3000 + (size_t)i * 100);
		buf_adds(&b, "\r\n\r\n");
	}
	c = dial();
	send_all(&c, b.p, b.len);
	settle(&c);
	p = c.in;
	for (int i = 0; i < 40; i++) {
		char want[64];
		snprintf(want, sizeof(want), "X-Request-Id: id-%d\r\n", i);
		p = p ? strstr(p, want) : NULL;
	}
	assert_non_null(p);
	hang_up(&c);
	buf_free(&b);
}

static void test_head_and_none(void **state)
{
	(void)state;
	struct client c = ask(WITH(
		"HEAD / HTTP/1.1\r\nHost: h\r\n\r\nHEAD /begin HTTP/1.1\r\nHost: h\r\n\r\nHEAD /stream HTTP/1.1\r\nHost: h\r\n\r\n"
		"GET /none HTTP/1.1\r\nHost: h\r\n\r\nHEAD /big HTTP/1.1\r\nHost: h\r\n\r\n"));
	assert_non_null(strstr(c.in, "Content-Length: 5\r\n"));
	assert_non_null(strstr(c.in, "Content-Length: 4194304\r\n"));
	assert_non_null(strstr(c.in, " 204 No Content\r\n"));
	assert_null(strstr(c.in, "hello"));
	assert_null(strstr(c.in, "ignored"));
	assert_null(strstr(c.in, "\nabc")); /* not merely "abc": a request id may hold that */
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
	if (c.len - (size_t)(body - c.in) < n || (n && memcmp(body, big, n) != 0) ||
	    strncmp(body + n, "HTTP/1.1 200", 12) != 0)
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
	/* clang-format off */
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
	/* clang-format on */
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
	/* one that reads slowly but steadily gets everything: what it takes moves its deadline */
	t.l.write_timeout_ms = 60000;
	http_server_set_limits(t.s, &t.l);
	c = dial();
	send_all(&c, WITH("GET /big HTTP/1.1\r\nHost: h\r\n\r\n"));
	settle(NULL);
	int64_t deadline = t.s->conns->out_deadline;
	assert_true(deadline != HTTP_NEVER);
	nanosleep(&tick, NULL);
	while (!c.eof && c.len < sizeof(big) / 8) {
		spin();
		receive(&c);
	}
	spin();
	assert_true(t.s->conns->out_deadline > deadline);
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

/* What waits for clients that do not read has a limit over all of them; the longest without progress goes. */
static void test_many_slow_readers(void **state)
{
	struct timespec tick = {0, 20000000};
	struct client c[3];
	(void)state;
	t.l.buffered_bytes = sizeof(big) * 5 / 2;
	http_server_set_limits(t.s, &t.l);
	for (int i = 0; i < 3; i++) {
		c[i] = dial();
		send_all(&c[i], WITH("GET /big HTTP/1.1\r\nHost: h\r\n\r\n"));
		settle(NULL);
		if (i == 1) { /* the first takes something: the second has waited longer now */
			nanosleep(&tick, NULL);
			while (!c[0].len || c[0].len < 1 << 20) {
				receive(&c[0]);
				spin();
			}
		}
	}
	assert_int_equal(http_server_connections(t.s), 2);
	assert_true(t.s->unsent > 0 && t.s->unsent <= t.l.buffered_bytes);
	for (int i = 0; i < 3; i++) {
		settle(&c[i]);
		assert_int_equal(c[i].eof, i == 1);
		assert_int_equal(c[i].len >= sizeof(big), i != 1);
		hang_up(&c[i]);
	}
	settle(NULL);
	assert_int_equal(t.s->unsent, 0);
	/* a single reply may be larger than all that is allowed */
	t.l.buffered_bytes = sizeof(big) / 4;
	http_server_set_limits(t.s, &t.l);
	c[0] = ask(WITH("GET /big HTTP/1.1\r\nHost: h\r\n\r\n"));
	assert_true(c[0].len > sizeof(big));
	hang_up(&c[0]);
}

/* ---- deferred answers ---- */

static void test_deferred(void **state)
{
	int status[8];
	(void)state;
	struct client c = ask(
		WITH("GET /defer HTTP/1.1\r\nHost: h\r\n\r\n" GOOD "\r\nGET /defer HTTP/1.1\r\nHost: h\r\n\r\n"));
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

#define SAME "Host: h\r\nA: 1\r\n\r\n"

/* A head that waited in a small buffer of its own, behind an answer that was not taken: what its request tells stays where it
 * is, although more comes. */
static void test_deferred_behind_a_slow_reader(void **state)
{
	int status[128];
	(void)state;
	struct client c = ask(WITH("GET /x HTTP/1.1\r\n" SAME));
	send_all(&c, WITH("GET /big HTTP/1.1\r\n" SAME "GET /defer?which=this HTTP/1.1\r\n" SAME));
	for (int i = 0; i < 20; i++)
		event_base_loop(t.base, EVLOOP_NONBLOCK);
	assert_int_equal(t.n_requests, 2);
	settle(&c);
	assert_int_equal(t.n_held, 1);
	for (int i = 0; i < 100; i++) {
		send_all(&c, WITH("GET /x HTTP/1.1\r\n" SAME));
		settle(&c);
	}
	assert_true(span_eq(http_query(t.held[0]), SPAN_LIT("which=this")));
	assert_true(span_eq(http_header(t.held[0], HTTP_H_HOST), SPAN_LIT("h")));
	http_reply(t.held[0], 200, NULL, "", "late", 4);
	settle(&c);
	assert_int_equal(t.n_requests, 103);
	assert_int_equal(c.eof, 0);
	assert_int_equal(answers(&c, status, 128), 103);
	hang_up(&c);
	assert_int_equal(t.s->n_conns, 0);
}

/* Requests that have come wait for output to be taken, and for nothing else: where the kernel takes all of it at once, no event
 * tells that they may go on. */
static void test_many_at_once_are_all_answered(void **state)
{
	static char many[100 * sizeof("GET /some HTTP/1.1\r\n" SAME)];
	int status[128], fd[2], room = 4 << 20;
	size_t len = 0;
	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd), 0);
	(void)setsockopt(fd[1], SOL_SOCKET, SO_SNDBUFFORCE, &room, sizeof(room)); /* else it is a lesser test */
	http_conn_settle(http_server_conn(t.s, fd[1]));
	struct client c = {.fd = fd[0]};
	for (unsigned i = 0; i < 100; i++)
		len += (size_t)snprintf(many + len, sizeof(many) - len, "GET /some HTTP/1.1\r\n" SAME);
	send_all(&c, many, len);
	settle(&c);
	assert_int_equal(answers(&c, status, 128), 100);
	hang_up(&c);
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
		buf_printf(&b, "POST /up HTTP/1.1\r\nHost: h\r\n%s\r\n\r\n",
			   chunked ? "Transfer-Encoding: chunked" : "Content-Length: 800000");
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
	struct client idle = dial(), served = ask(WITH(GOOD "\r\n")),
		      waiting = ask(WITH("GET /defer HTTP/1.1\r\nHost: h\r\n\r\n")), partial = ask(WITH("GET /x HT")),
		      late = dial();
	send_all(&late, WITH(GOOD "\r\n")); /* in the socket when the drain begins */
	http_server_drain(t.s);
	http_server_close_idle(t.s);
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
	struct client c = ask(WITH(
		"GET http://Ab.c:1/p%20q?a=1&b=%C3%A9+x&c&%62b=2&bad=%zz HTTP/1.1\r\nHost: other\r\nX-Request-Id: my-id_1\r\n"
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

static void test_tcp_peer(void **state)
{
	struct sockaddr_in6 a = {.sin6_family = AF_INET6};
	socklen_t len = sizeof(a);
	unsigned uid;
	int one = 0;
	(void)state;
	int fd = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK, 0);
	if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) || listen(fd, 4))
		skip(); /* no IPv6 here */
	getsockname(fd, (struct sockaddr *)&a, &len);
	assert_int_equal(http_server_listen(t.s, fd), 0);
	for (int v4 = 0; v4 < 2; v4++) {
		a.sin6_addr = in6addr_loopback;
		if (v4)
			inet_pton(AF_INET6, "::ffff:127.0.0.1", &a.sin6_addr);
		struct client c = {.fd = socket(AF_INET6, SOCK_STREAM, 0)};
		if (connect(c.fd, (struct sockaddr *)&a, sizeof(a)))
			skip();
		fcntl(c.fd, F_SETFL, O_NONBLOCK);
		send_all(&c, WITH("GET /defer HTTP/1.1\r\nHost: h\r\n\r\n"));
		for (int i = 0; i < 100 && !t.n_held; i++)
			wait_bytes(&c, 1, 10);
		assert_int_equal(t.n_held, 1);
		assert_true(http_peer_loopback(t.held[0]));
		assert_false(http_peer_uid(t.held[0], &uid));
		len = sizeof(one); /* inherited from the listening socket */
		assert_int_equal(getsockopt(t.s->conns->fd, IPPROTO_TCP, TCP_NODELAY, &one, &len), 0);
		assert_true(one);
		http_reply(t.held[0], 200, NULL, "", NULL, 0);
		t.n_held = 0;
		wait_bytes(&c, 1, 1000);
		assert_non_null(strstr(c.in, "200 OK"));
		hang_up(&c);
	}
	close(fd);
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
	struct client a = ask(WITH("GET /defer HTTP/1.1\r\nHost: h\r\n\r\n")),
		      b = ask(WITH(POST "Content-Length: 90000\r\n\r\nabc"));
	teardown(NULL);
	assert_int_equal(t.n_gone, 1);
	struct client *both[] = {&a, &b};
	for (int i = 0; i < 2; i++) {
		close(both[i]->fd);
		free(both[i]->in);
	}
	setup(NULL);
}

int main(void)
{
	/* clang-format off */
	const struct CMUnitTest tests[] = {
		T(test_pipelining), T(test_head_and_none), T(test_bodies), T(test_chunked_splits), T(test_expect),
		T(test_early_answer), T(test_timeouts), T(test_slow_reader), T(test_many_slow_readers), T(test_deferred),
		T(test_deferred_behind_a_slow_reader), T(test_many_at_once_are_all_answered), T(test_deferred_flood), T(test_client_gone), T(test_stream_out), T(test_stream_in), T(test_duplex),
		T(test_drain), T(test_idle_memory), T(test_accessors), T(test_tcp_peer), T(test_unix_peer), T(test_free_in_flight),
	};
	/* clang-format on */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
