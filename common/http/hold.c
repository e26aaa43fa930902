/* Answers that are held back, while all else is at its client's disposal but this connection: it waits, and nothing behind that
 * answer is looked at. Who asks faster than can even be refused is slowed down that way, for HTTP has no other: with one
 * request on each connection, it can send no more than so many a second. First come, first released. */
#include "http/http-private.h"

/* Between releases, and of how many one goes, of those whose time has come: what was held in a wave is not to come back in one. */
#define STEP_MS 5
#define PART 64

static void arm(struct http_server *s, int64_t in)
{
	struct timeval tv = {in / 1000, in % 1000 * 1000};
	AN(evtimer_add(s->ev_hold, &tv) == 0);
}

bool http_hold(struct http_request *r, unsigned ms)
{
	struct http_conn *c = r->c;
	/* What is answered already is not to wait, and nobody is to be kept for longer than his connection. */
	if (http_out_pending(c) || c->over || c->s->draining || !c->s->ev_hold ||
	    c->s->n_held >= c->s->lim.max_connections / 2)
		return false;
	r->hold_ms = ms;
	return ms > 0;
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
	http_io_out_park(c);
	if (s->hold_first == c)
		arm(s, ms);
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

void http_hold_on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct http_server *s = arg;
	(void)fd, (void)what;
	http_server_now(s);
	for (unsigned n = s->n_held / PART + 1; n && s->hold_first && s->hold_first->held_ms <= s->now_ms; n--)
		http_hold_end(s->hold_first);
	if (s->hold_first)
		arm(s, s->hold_first->held_ms - s->now_ms > STEP_MS ? s->hold_first->held_ms - s->now_ms : STEP_MS);
}
