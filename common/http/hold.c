/* Answers that are held back, while all else is at its client's disposal but this connection: it waits, and nothing behind that
 * answer is looked at. Who asks faster than can even be refused is slowed down that way, for HTTP has no other: with one
 * request on each connection, it can send no more than so many a second. First come, first released: at the pace that the
 * owner sets, or when the time of the first is over. */
#include "http/http-private.h"

/* What was held in a wave is not to come back in one when its time is over: it is spread over a part of that time. */
#define STEP_MS 5
#define SPREAD 4
#define MOST_MS 100 /* what was missed for longer is not made up for: it would be missed again by that */

static void arm(struct http_server *s)
{
	int64_t in = s->hold_first->held_ms - s->now_ms;
	in = in > STEP_MS && !s->hold_pace ? in : STEP_MS;
	struct timeval tv = {in / 1000, in % 1000 * 1000};
	AN(evtimer_add(s->ev_hold, &tv) == 0);
}

bool http_hold(struct http_request *r, unsigned most_ms)
{
	struct http_conn *c = r->c;
	/* What is answered already is not to wait, and nobody is to be kept for longer than his connection. */
	if (http_out_pending(c) || c->over || c->s->draining || !c->s->ev_hold ||
	    c->s->n_held >= c->s->lim.max_connections / 2)
		return false;
	r->hold_ms = most_ms;
	return most_ms > 0;
}

size_t http_server_held(const struct http_server *s) { return s->n_held; }

void http_server_hold_pace(struct http_server *s, unsigned per_second)
{
	bool sooner = per_second && !s->hold_pace && s->hold_first;
	s->hold_pace = per_second;
	if (sooner)
		arm(s);
}

void http_hold_begin(struct http_conn *c, unsigned ms)
{
	struct http_server *s = c->s;
	int64_t until = s->now_ms + ms;
	if (s->hold_last && s->hold_last->held_ms > until)
		until = s->hold_last->held_ms;
	c->held_ms = until;
	c->h_next = NULL;
	c->h_prev = s->hold_last;
	*(s->hold_last ? &s->hold_last->h_next : &s->hold_first) = c;
	s->hold_last = c;
	s->n_held++;
	s->hold_spread = ms / SPREAD;
	http_io_out_park(c);
	if (s->hold_first == c) {
		s->hold_paced_ms = s->now_ms;
		arm(s);
	}
}

void http_hold_forget(struct http_conn *c)
{
	struct http_server *s = c->s;
	if (!c->held_ms)
		return;
	*(c->h_prev ? &c->h_prev->h_next : &s->hold_first) = c->h_next;
	*(c->h_next ? &c->h_next->h_prev : &s->hold_last) = c->h_prev;
	s->n_held--;
	c->held_ms = 0;
}

void http_hold_end(struct http_conn *c)
{
	http_hold_forget(c);
	http_step_run(c);
	http_conn_settle(c);
}

void http_hold_end_all(struct http_server *s)
{
	while (s->hold_first)
		http_hold_end(s->hold_first);
}

/* How many may go whose time is over, so that the first of them is not kept for longer than the spread. */
static size_t due(const struct http_server *s)
{
	int64_t left = s->hold_first ? s->hold_first->held_ms + s->hold_spread - s->now_ms : 0;
	return left > STEP_MS ? (size_t)s->n_held * STEP_MS / (size_t)left + 1 : s->n_held;
}

/* How many may go by now whether it is over or not. */
static size_t paced(struct http_server *s)
{
	int64_t since = s->now_ms - s->hold_paced_ms;
	since = since < 0 || !s->hold_pace ? 0 : since < 1000 ? since : 1000;
	size_t n = (size_t)since * s->hold_pace / 1000, most = (size_t)s->hold_pace * MOST_MS / 1000 + 1;
	if (n || !since) /* else a slow pace would come to nothing in steps so short */
		s->hold_paced_ms = s->now_ms;
	return n < most ? n : most;
}

void http_hold_on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct http_server *s = arg;
	(void)fd, (void)what;
	http_server_now(s);
	for (size_t n = paced(s); n && s->hold_first; n--)
		http_hold_end(s->hold_first);
	for (size_t n = due(s); n && s->hold_first && s->hold_first->held_ms <= s->now_ms; n--)
		http_hold_end(s->hold_first);
	if (s->hold_first)
		arm(s);
}
