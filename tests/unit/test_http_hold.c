/* Answers that are held back (hold.c). Broken code this would catch: an answer that is not held, is sent twice or never; a next
 * request of that connection that is looked at meanwhile; others that wait, too; a client that goes, a drain, or an idle time that
 * passes meanwhile; input that keeps the loop turning; a good answer that is held because one behind it is. */
#include "test_http.h"

#define LONG_MS 3600000

static unsigned hold_ms, held, declined, asked;

/* "/hold": 429, held back; others: 200 at once */
static void on_ask(void *arg, struct http_request *r)
{
	bool hold = path_is(r, "/hold");
	(void)arg;
	asked++;
	if (hold)
		*(http_hold(r, hold_ms) ? &held : &declined) += 1;
	http_reply(r, hold ? 429 : 200, "text/plain", "", "hello", 5);
}

static int begin(void **state)
{
	int rc = setup(state);
	t.s->cb.on_request = on_ask;
	hold_ms = LONG_MS;
	held = declined = asked = 0;
	return rc;
}

#define HOLD "GET /hold HTTP/1.1\r\nHost: h\r\n\r\n"
#define OTHER "GET /x HTTP/1.1\r\nHost: h\r\n\r\n"

/* What waits was held for as long as it was to be. */
static void time_passes(void)
{
	for (struct http_conn *c = t.s->hold_first; c; c = c->h_next)
		c->held_ms = 1;
	for (unsigned n = t.s->n_held; n; n--)
		http_hold_on_timer(-1, 0, t.s);
}

static void expect(struct client *c, int n, int first, int last)
{
	int status[40] = {0};
	settle(c);
	assert_int_equal(c->len ? answers(c, status, 40) : 0, n);
	if (n) {
		assert_int_equal(status[0], first);
		assert_int_equal(status[n - 1], last);
	}
}

static void test_held(void **state)
{
	(void)state;
	struct client c = ask(WITH(HOLD)), other = ask(WITH(OTHER));
	expect(&c, 0, 0, 0);
	expect(&other, 1, 200, 200);
	assert_int_equal(held, 1);
	assert_int_equal(t.s->n_held, 1);
	assert_in_range(t.s->hold_first->out_cap, 1, 1000); /* nor does it hold a large buffer */
	assert_int_equal(t.s->unsent, 0);		    /* it is no slow reader */
	time_passes();
	expect(&c, 1, 429, 429);
	assert_int_equal(t.s->n_held, 0);
	assert_int_equal(t.s->unsent, 0);
	send_all(&c, WITH(OTHER)); /* and it goes on */
	expect(&c, 2, 429, 200);
	hang_up(&c);
	hang_up(&other);
}

static void test_by_the_clock(void **state)
{
	(void)state;
	hold_ms = 30;
	struct client c = ask(WITH(HOLD)), d = ask(WITH(HOLD));
	wait_bytes(&c, 1, 10000);
	wait_bytes(&d, 1, 10000);
	expect(&c, 1, 429, 429);
	expect(&d, 1, 429, 429);
	hang_up(&c);
	hang_up(&d);
}

static void test_first_come_first_released(void **state)
{
	(void)state;
	struct client c = ask(WITH(HOLD));
	hold_ms = 1; /* holds have become shorter: nobody overtakes */
	struct client d = ask(WITH(HOLD));
	assert_true(t.s->hold_last->held_ms >= t.s->hold_first->held_ms && t.s->hold_first != t.s->hold_last);
	time_passes();
	expect(&c, 1, 429, 429);
	expect(&d, 1, 429, 429);
	hang_up(&c);
	hang_up(&d);
}

/* What is behind it waits, also what comes later, and more than a buffer of it. */
static void test_nothing_behind_is_looked_at(void **state)
{
	static char more[100][4200];
	(void)state;
	struct client c = ask(WITH(HOLD OTHER));
	assert_int_equal(asked, 1);
	int sent = 0;
	for (; sent < 25; sent++) {
		int n = snprintf(more[sent], sizeof(more[sent]), "GET /x HTTP/1.1\r\nHost: h\r\nX: %4000d\r\n\r\n",
				 sent);
		send_all(&c, more[sent], (size_t)n);
		settle(&c);
	}
	assert_int_equal(asked, 1);
	assert_null(t.s->turn_first); /* the loop sleeps */
	time_passes();
	expect(&c, 2 + sent, 429, 200);
	assert_int_equal(asked, 2 + sent);
	hang_up(&c);
}

static void test_good_answers_are_not_held(void **state)
{
	(void)state;
	struct client c = ask(WITH(OTHER HOLD OTHER));
	expect(&c, 3, 200, 200);
	assert_int_equal(declined, 1);
	hang_up(&c);
}

static void test_client_goes(void **state)
{
	(void)state;
	struct client c = ask(WITH(HOLD)), d = ask(WITH(HOLD)), e = ask(WITH(HOLD));
	struct http_conn *middle = t.s->hold_first->h_next;
	http_conn_cut(middle);
	assert_int_equal(t.s->n_held, 2);
	hang_up(&d);
	hang_up(&e);
	settle(NULL);
	time_passes();
	settle(NULL);
	expect(&c, 1, 429, 429);
	assert_int_equal(t.s->n_held, 0);
	hang_up(&c);
	assert_int_equal(http_server_connections(t.s), 0);
}

/* A client may close its half, and still get its answer. */
static void test_half_closed(void **state)
{
	(void)state;
	struct client c = ask(WITH(HOLD));
	assert_int_equal(shutdown(c.fd, SHUT_WR), 0);
	expect(&c, 0, 0, 0);
	time_passes();
	expect(&c, 1, 429, 429);
	assert_true(c.eof);
	hang_up(&c);
}

/* Nor is it spared who dials again for each. */
static void test_last_of_its_connection(void **state)
{
	(void)state;
	struct client c = ask(WITH("GET /hold HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")),
		      d = ask(WITH("GET /hold HTTP/1.0\r\n\r\n"));
	assert_int_equal(t.s->n_held, 2);
	expect(&c, 0, 0, 0);
	assert_false(c.eof);
	send_all(&c, WITH("more"));
	expect(&c, 0, 0, 0);
	time_passes();
	expect(&c, 1, 429, 429);
	expect(&d, 1, 429, 429);
	assert_true(c.eof && d.eof);
	hang_up(&c);
	hang_up(&d);
	assert_int_equal(http_server_connections(t.s), 0);
}

static void test_drained(void **state)
{
	(void)state;
	struct client c = ask(WITH(HOLD OTHER));
	http_server_drain(t.s);
	http_server_close_idle(t.s);
	expect(&c, 2, 429, 200);
	assert_true(c.eof);
	assert_int_equal(t.s->n_held, 0);
	hang_up(&c);
}

static void test_freed(void **state)
{
	(void)state;
	struct client c = ask(WITH(HOLD));
	assert_int_equal(t.s->n_held, 1);
	close(c.fd); /* the server goes in teardown */
	free(c.in);
}

/* It may idle for less than its answer is held back. */
static void test_idle_time_passes(void **state)
{
	(void)state;
	struct client c = ask(WITH(HOLD));
	http_conn_timeout(t.s->hold_first);
	expect(&c, 1, 429, 429);
	hang_up(&c);
}

/* What was held at once does not come back at once, but nothing is held for much longer than it was to be. */
static void test_a_wave(void **state)
{
	enum { ALL = 100 };
	struct client c[ALL];
	(void)state;
	for (int i = 0; i < ALL; i++)
		c[i] = ask(WITH(HOLD));
	static const struct {
		int64_t late_ms;
		unsigned least, most;
	} steps[] = {{20, 85, 98}, {85, 25, 70}, {10000, 0, 0}};
	for (size_t i = 0; i < ARRAY_LEN(steps); i++) {
		for (struct http_conn *h = t.s->hold_first; h; h = h->h_next)
			h->held_ms = t.s->now_ms - steps[i].late_ms;
		t.s->hold_spread = 100;
		http_hold_on_timer(-1, 0, t.s);
		assert_in_range(t.s->n_held, steps[i].least, steps[i].most);
		assert_true(!t.s->n_held || event_pending(t.s->ev_hold, EV_TIMEOUT, NULL));
	}
	for (int i = 0; i < ALL; i++) {
		expect(&c[i], 1, 429, 429);
		hang_up(&c[i]);
	}
}

/* At a pace, whether their time is over or not; the first first. */
static void test_paced(void **state)
{
	enum { ALL = 40 };
	struct client c[ALL];
	(void)state;
	for (int i = 0; i < ALL; i++)
		c[i] = ask(WITH(HOLD));
	http_server_hold_pace(t.s, 1000);
	/* not when the first is due, but soon */
	struct timeval when, now;
	assert_true(event_pending(t.s->ev_hold, EV_TIMEOUT, &when));
	event_base_gettimeofday_cached(t.base, &now);
	assert_true(when.tv_sec - now.tv_sec < 60);
	http_server_now(t.s);
	t.s->hold_paced_ms = t.s->now_ms - 10;
	struct http_conn *first = t.s->hold_first;
	http_hold_on_timer(-1, 0, t.s);
	assert_in_range(http_server_held(t.s), ALL - 30, ALL - 10);
	assert_true(t.s->hold_first != first && !first->held_ms);
	size_t left = http_server_held(t.s);
	t.s->hold_paced_ms = t.s->now_ms + 1000; /* the clock was set */
	http_hold_on_timer(-1, 0, t.s);
	assert_int_equal(http_server_held(t.s), left);
	t.s->hold_paced_ms = t.s->now_ms - 10000; /* it stood still: not all at once for that */
	http_server_hold_pace(t.s, 100);
	http_hold_on_timer(-1, 0, t.s);
	assert_in_range(http_server_held(t.s), left - 11, left - 10);
	left = http_server_held(t.s);
	http_server_hold_pace(t.s, 1); /* slower than the steps are long */
	t.s->hold_paced_ms = t.s->now_ms - 600;
	http_hold_on_timer(-1, 0, t.s);
	assert_int_equal(http_server_held(t.s), left);
	t.s->hold_paced_ms -= 600;
	http_hold_on_timer(-1, 0, t.s);
	assert_int_equal(http_server_held(t.s), left - 1);
	time_passes();
	for (int i = 0; i < ALL; i++) {
		expect(&c[i], 1, 429, 429);
		hang_up(&c[i]);
	}
}

/* So that others find a place. */
static void test_half_of_the_connections(void **state)
{
	enum { ALL = 16 };
	struct client c[ALL];
	(void)state;
	t.l.max_connections = ALL;
	http_server_set_limits(t.s, &t.l);
	for (int i = 0; i < ALL; i++)
		c[i] = ask(WITH(HOLD));
	assert_int_equal(held, ALL / 2);
	assert_int_equal(declined, ALL / 2);
	expect(&c[ALL - 1], 1, 429, 429);
	time_passes();
	for (int i = 0; i < ALL; i++) {
		expect(&c[i], 1, 429, 429);
		hang_up(&c[i]);
	}
}

int main(void)
{
#define H(f) cmocka_unit_test_setup_teardown(f, begin, teardown)
	const struct CMUnitTest tests[] = {
		H(test_held),
		H(test_by_the_clock),
		H(test_first_come_first_released),
		H(test_nothing_behind_is_looked_at),
		H(test_good_answers_are_not_held),
		H(test_client_goes),
		H(test_half_closed),
		H(test_last_of_its_connection),
		H(test_drained),
		H(test_freed),
		H(test_idle_time_passes),
		H(test_a_wave),
		H(test_paced),
		H(test_half_of_the_connections),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
