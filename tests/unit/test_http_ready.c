/* The order in which sockets are read (ready.c). Broken code this would catch: who has many connections keeps away who has one;
 * a connection that waits to be read and is closed, times out or outlives its server; a request that nobody reads any more; order
 * given up, or time taken, where there is no crowd. */
#include "test_http.h"

#include "clock.h"

enum { BEFORE = 3, MANY = 200, FEW = 5, GREEDY = 1, MODEST = 2 };

static unsigned served, at[MANY + FEW], burn_us; /* who was served when */
static int64_t waited[MANY + FEW];

/* "/flow/N" */
static void on_flow(void *arg, struct http_request *r)
{
	struct span p = http_path(r);
	(void)arg;
	http_flow(r, (uint64_t)(p.p[p.len - 1] - '0'));
	if (served < MANY + FEW) {
		at[served] = (unsigned)(p.p[p.len - 1] - '0');
		waited[served] = http_waited_us(r);
	}
	served++;
	for (int64_t end = clock_mono_us() + burn_us; burn_us && clock_mono_us() < end;)
		;
	http_reply(r, 200, "text/plain", "", "hello", 5);
}

static struct client many[MANY], few[FEW];

static void send_one(struct client *c, unsigned flow)
{
	char text[64];
	int n = snprintf(text, sizeof(text), "GET /flow/%u HTTP/1.1\r\nHost: h\r\n\r\n", flow);
	assert_int_equal(send(c->fd, text, (size_t)n, MSG_NOSIGNAL), n);
}

static void ask_all(void)
{
	served = 0;
	for (unsigned i = 0; i < MANY; i++)
		send_one(&many[i], GREEDY);
	for (unsigned i = 0; i < FEW; i++)
		send_one(&few[i], MODEST);
}

/* A request on each tells whose they are; and libevent, which asks for 32 sockets at once at first, learns that there are more. */
static void begin(void)
{
	t.s->cb.on_request = on_flow;
	burn_us = 0;
	for (unsigned i = 0; i < MANY; i++)
		many[i] = dial();
	for (unsigned i = 0; i < FEW; i++)
		few[i] = dial();
	for (unsigned i = 0; i < BEFORE; i++) {
		ask_all();
		settle(NULL);
		assert_int_equal(served, MANY + FEW);
	}
}

static bool got(struct client *c, int n)
{
	int status[8] = {0};
	receive(c);
	return answers(c, status, 8) == n + BEFORE && status[n + BEFORE - 1] == 200;
}

static void end(int n)
{
	for (unsigned i = 0; i < MANY; i++) {
		assert_true(many[i].fd < 0 || got(&many[i], n));
		hang_up(&many[i]);
	}
	for (unsigned i = 0; i < FEW; i++) {
		assert_true(got(&few[i], n));
		hang_up(&few[i]);
	}
	assert_int_equal(http_server_connections(t.s), 0);
	assert_int_equal(http_server_waiting(t.s), 0);
}

static void test_flows_share(void **state)
{
	(void)state;
	begin();
	ask_all();
	settle(NULL);
	assert_int_equal(served, MANY + FEW);
	unsigned modest = 0, last = 0;
	for (unsigned i = 0; i < MANY + FEW; i++)
		if (at[i] == MODEST) {
			modest++;
			last = i;
		}
	assert_int_equal(modest, FEW);
	assert_true(last <= 2 * FEW); /* in turns with the others, though they came last */
	assert_true(waited[MANY + FEW - 1] > 0);
	end(1);
}

static void test_no_crowd(void **state)
{
	(void)state;
	begin();
	served = 0;
	for (unsigned i = 0; i < 20; i++)
		send_one(&many[i], GREEDY);
	send_one(&few[0], MODEST);
	settle(NULL);
	assert_int_equal(served, 21);
	assert_int_equal(at[20], MODEST); /* as they came */
	for (unsigned i = 0; i < 21; i++)
		assert_int_equal(waited[i], 0);
	assert_int_equal(http_server_behind_us(t.s), 0);
}

/* A slice is over, and most of them wait. */
static void leave_waiting(void)
{
	begin();
	burn_us = 500;
	ask_all();
	event_base_loop(t.base, EVLOOP_ONCE | EVLOOP_NONBLOCK);
	assert_true(http_server_waiting(t.s) > MANY / 2 && http_server_behind_us(t.s) > 0);
	burn_us = 0;
}

static void test_gone_while_waiting(void **state)
{
	(void)state;
	leave_waiting();
	unsigned before = served;
	for (unsigned i = 0; i < MANY; i += 2) { /* what they sent is read all the same, or not; nobody else suffers */
		close(many[i].fd);
		free(many[i].in);
		many[i] = (struct client){.fd = -1};
	}
	struct http_conn *c = t.s->conns;
	while (!http_ready_waits(c))
		c = c->next;
	http_conn_cut(c);
	settle(NULL);
	assert_true(served > before);
	unsigned answered = 0;
	for (unsigned i = 1; i < MANY; i += 2)
		answered += got(&many[i], 1);
	assert_in_range(answered, MANY / 2 - 1, MANY / 2);
	for (unsigned i = 0; i < MANY; i++)
		hang_up(&many[i]);
	for (unsigned i = 0; i < FEW; i++)
		hang_up(&few[i]);
	assert_int_equal(http_server_connections(t.s), 0);
	assert_int_equal(http_server_waiting(t.s), 0);
}

static void test_time_over_while_waiting(void **state)
{
	struct timespec nap = {0, 400000000};
	(void)state;
	leave_waiting();
	t.l.idle_timeout_ms = t.l.head_timeout_ms = 1;
	http_server_set_limits(t.s, &t.l);
	for (struct http_conn *c = t.s->conns; c; c = c->next) { /* as if all had been idle for as long as they may */
		c->in_deadline = 1;
		http_wheel_set(c);
	}
	burn_us = 500; /* lest all are read before the deadlines are looked at */
	nanosleep(&nap, NULL);
	settle(NULL);
	assert_int_equal(served, MANY + FEW); /* they had asked in time */
}

static void test_drained_while_waiting(void **state)
{
	(void)state;
	leave_waiting();
	http_server_drain(t.s);
	http_server_close_idle(t.s);
	settle(NULL);
	assert_int_equal(served, MANY + FEW);
	end(1);
}

static void test_freed_while_waiting(void **state)
{
	(void)state;
	leave_waiting(); /* the server goes in teardown */
}

static unsigned first_read, later_read, first_before_later; /* requests of a connection's first read, and behind */

static void on_part(void *arg, struct http_request *r)
{
	struct span p = http_path(r);
	(void)arg;
	http_flow(r, GREEDY);
	if (p.p[p.len - 1] == '0') {
		first_read++;
	} else if (p.p[p.len - 1] == '9' && !later_read++) {
		first_before_later = first_read;
	}
	for (int64_t end = clock_mono_us() + 100; clock_mono_us() < end;)
		;
	http_reply(r, 200, "text/plain", "", "hello", 5);
}

/* What comes pipelined and is not read at once waits like the others, not before them. */
static void test_pipelines_wait(void **state)
{
	static char text[10 * 4200];
	size_t len = 0;
	(void)state;
	for (int i = 0; i < 10; i++)
		len += (size_t)snprintf(text + len, sizeof(text) - len,
					"GET /part/%d HTTP/1.1\r\nHost: h\r\nX: %4000d\r\n\r\n", i, 1);
	assert_true(len > HTTP_IN_SIZE);
	begin();
	t.s->cb.on_request = on_part;
	first_read = later_read = 0;
	for (unsigned i = 0; i < MANY; i++)
		assert_int_equal(send(many[i].fd, text, len, MSG_NOSIGNAL), len);
	settle(NULL);
	assert_int_equal(first_read, MANY);
	assert_int_equal(later_read, MANY);
	assert_true(first_before_later > MANY / 2);
	for (unsigned i = 0; i < MANY; i++)
		hang_up(&many[i]);
	for (unsigned i = 0; i < FEW; i++)
		hang_up(&few[i]);
}

/* The first byte of what comes next does not spare anybody the queue. */
static void test_a_byte_ahead(void **state)
{
	static const char rest[] = "ET /flow/1 HTTP/1.1\r\nHost: h\r\n\r\n";
	(void)state;
	begin();
	for (unsigned i = 0; i < MANY; i++)
		assert_int_equal(send(many[i].fd, "G", 1, MSG_NOSIGNAL), 1);
	settle(NULL);
	served = 0;
	for (unsigned i = 0; i < MANY; i++)
		assert_int_equal(send(many[i].fd, rest, sizeof(rest) - 1, MSG_NOSIGNAL), sizeof(rest) - 1);
	for (unsigned i = 0; i < FEW; i++)
		send_one(&few[i], MODEST);
	settle(NULL);
	assert_int_equal(served, MANY + FEW);
	unsigned last = 0;
	for (unsigned i = 0; i < MANY + FEW; i++)
		last = at[i] == MODEST ? i : last;
	assert_true(last <= 2 * FEW);
	end(1);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(test_flows_share),	       T(test_no_crowd),
		T(test_gone_while_waiting),    T(test_time_over_while_waiting),
		T(test_drained_while_waiting), T(test_freed_while_waiting),
		T(test_pipelines_wait),	       T(test_a_byte_ahead),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
