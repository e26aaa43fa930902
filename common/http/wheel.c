/* All deadlines of the server on one libevent timer: 256 slots of 100 ms.
 *
 * A deadline that moves later (every request of a keep-alive connection does that) touches nothing
 * here: the connection is looked at when its old slot comes up, and moved on. So a connection costs
 * the wheel one relink per 25 s, and a request none. Only a deadline that becomes earlier relinks.
 * The timer is armed for the first slot in use, not at all when there is none: an idle server sleeps. */
#include "http/http-private.h"

static void arm(struct http_server *s, uint64_t tick)
{
	int64_t in = (int64_t)(tick * HTTP_TICK_MS) - s->now_ms;
	if (in < 1)
		in = 1;
	struct timeval tv = {in / 1000, (in % 1000) * 1000};
	s->armed = tick;
	AN(evtimer_add(s->ev_tick, &tv) == 0);
}

static void unlink_conn(struct http_conn *c)
{
	*c->w_pprev = c->w_next;
	if (c->w_next)
		c->w_next->w_pprev = c->w_pprev;
	c->w_pprev = NULL;
}

static void link_conn(struct http_conn *c, uint64_t tick)
{
	struct http_server *s = c->s;
	if (s->armed == UINT64_MAX) /* nothing linked: the wheel stood still */
		s->tick = (uint64_t)s->now_ms / HTTP_TICK_MS;
	if (tick <= s->tick)
		tick = s->tick + 1;
	if (tick > s->tick + HTTP_WHEEL_SLOTS - 1)
		tick = s->tick + HTTP_WHEEL_SLOTS - 1; /* farther: looked at and moved on then */
	struct http_conn **head = &s->slot[tick % HTTP_WHEEL_SLOTS];
	c->w_tick = tick;
	c->w_next = *head;
	c->w_pprev = head;
	if (*head)
		(*head)->w_pprev = &c->w_next;
	*head = c;
	if (tick < s->armed)
		arm(s, tick);
}

static int64_t deadline_of(const struct http_conn *c)
{
	return c->in_deadline < c->out_deadline ? c->in_deadline : c->out_deadline;
}

void http_wheel_set(struct http_conn *c)
{
	int64_t d = deadline_of(c);
	if (d == HTTP_NEVER || !c->s->ev_tick)
		return; /* if linked, the slot will find nothing to do */
	uint64_t tick = ((uint64_t)d + HTTP_TICK_MS - 1) / HTTP_TICK_MS;
	if (c->w_pprev) {
		if (c->w_tick <= tick)
			return;
		unlink_conn(c);
	}
	link_conn(c, tick);
}

void http_wheel_remove(struct http_conn *c)
{
	if (c->w_pprev)
		unlink_conn(c);
}

static void run_slot(struct http_server *s, uint64_t tick)
{
	struct http_conn **head = &s->slot[tick % HTTP_WHEEL_SLOTS], *c;
	while ((c = *head)) {
		unlink_conn(c); /* link_conn() below never chooses this slot: it is in the past */
		if (deadline_of(c) <= s->now_ms)
			http_conn_timeout(c);
		if (!c->w_pprev && !c->dead)
			http_wheel_set(c);
	}
}

void http_wheel_on_tick(evutil_socket_t fd, short what, void *arg)
{
	struct http_server *s = arg;
	(void)fd;
	(void)what;
	http_server_now(s);
	uint64_t now = (uint64_t)s->now_ms / HTTP_TICK_MS;
	if (now > s->tick + HTTP_WHEEL_SLOTS) /* stopped for long: every slot once is enough */
		s->tick = now - HTTP_WHEEL_SLOTS;
	s->armed = 0; /* no arming from link_conn() meanwhile */
	while (s->tick < now)
		run_slot(s, ++s->tick);
	for (uint64_t t = s->tick + 1; t < s->tick + HTTP_WHEEL_SLOTS; t++) {
		if (s->slot[t % HTTP_WHEEL_SLOTS]) {
			arm(s, t);
			return;
		}
	}
	s->armed = UINT64_MAX;
}
