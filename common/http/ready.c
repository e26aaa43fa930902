/* The order in which sockets are read.
 *
 * A round of the loop hands us the sockets in the order in which they became readable: with thousands of them who has many
 * connections keeps away who has one, before anybody has looked at a single byte. So in a crowd a socket is only noted,
 * and those noted are read in an order that is fair (fair.h) to the flows that their connections were used for last; in
 * slices, so that meanwhile the loop sees what comes, and whatever else it is for. Bodies are read at once: they hold memory
 * already. */
#include "clock.h"
#include "http/http-private.h"

#define CROWD 64 /* events that wait in a round; fewer are done within a few ms */
#define SLICE_US 1000

static struct http_conn *conn_of(struct fair_item *i)
{
	return (struct http_conn *)(void *)((char *)i - offsetof(struct http_conn, ready));
}

static bool crowded(const struct http_server *s)
{
	return fair_items(s->ready) || event_base_get_num_events(s->base, EVENT_BASE_COUNT_ACTIVE) > CROWD;
}

bool http_ready_wait(struct http_conn *c)
{
	struct http_server *s = c->s;
	if (http_ready_waits(c))
		return true;
	if (c->rx != HTTP_RX_HEAD || c->sink || s->close_idle || !crowded(s))
		return false;
	if (!fair_items(s->ready))
		event_active(s->ev_ready, EV_TIMEOUT, 1); /* behind all that waits in this round */
	fair_push(s->ready, &c->ready, c->flow, 1, clock_mono_us());
	return true;
}

int64_t http_ready_leave(struct http_conn *c)
{
	if (!http_ready_waits(c))
		return 0;
	fair_remove(c->s->ready, &c->ready);
	return clock_mono_us() - c->ready.since_us;
}

/* Among thousands none has been touched for a while: what reading it begins with comes while another is read. */
static void warm(const struct http_server *s)
{
	const struct fair_item *i = fair_first(s->ready);
	if (!i)
		return;
	const char *p = (const char *)i - offsetof(struct http_conn, ready);
	for (size_t at = 0; at < sizeof(struct http_conn); at += CACHE_LINE)
		__builtin_prefetch(p + at, 1);
}

void http_ready_on_slice(evutil_socket_t fd, short what, void *arg)
{
	static const struct timeval soon = {0, 0};
	struct http_server *s = arg;
	struct fair_item *i;
	int64_t now = clock_mono_us(), end = now + SLICE_US;
	(void)fd, (void)what;
	for (; now < end && (i = fair_pop(s->ready)); now = clock_mono_us()) {
		warm(s);
		http_conn_read(conn_of(i), now - i->since_us);
	}
	if (fair_items(s->ready)) /* the loop looks at the sockets first */
		AN(event_add(s->ev_ready, &soon) == 0);
}

size_t http_server_waiting(const struct http_server *s) { return fair_items(s->ready); }

int64_t http_server_behind_us(const struct http_server *s)
{
	const struct fair_item *i = fair_oldest(s->ready);
	return i ? clock_mono_us() - i->since_us : 0;
}
