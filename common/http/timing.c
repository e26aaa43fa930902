/* How long requests take: two readings of the clock for each, one behind the read that began it and one behind the send
 * that took its answer; what comes pipelined shares both. A client that reads slowly does not count: the time ends
 * when the kernel was given the answer for the first time. */
#include <time.h>

#include "clock.h"
#include "http/http-private.h"

#define TICK_MAX_US 12000 /* 100 Hz, and a little */

#define CHECK_NS 1000000

/* The read that a request came with has told the time. How far the real clock is before that one changes only when somebody
 * sets it, or the machine has slept: the coarse clock, looked at once in a millisecond, shows that. */
int64_t http_real_us(const struct http_request *r)
{
	struct http_server *s = r->c->s;
	struct timespec ts;
	if (!s->fresh)
		return clock_real_us();
	int64_t now = r->c->read_ns / 1000 + s->real_offset_us;
	if (r->c->read_ns - s->checked_ns < CHECK_NS) {
		s->coarse_s = now / 1000000;
		return now;
	}
	s->checked_ns = r->c->read_ns;
	clock_gettime(CLOCK_REALTIME_COARSE, &ts);
	s->coarse_s = ts.tv_sec;
	int64_t ahead = now - ((int64_t)ts.tv_sec * 1000000 + ts.tv_nsec / 1000); /* of the last tick */
	if (ahead >= 0 && ahead <= TICK_MAX_US)
		return now;
	now = clock_real_us();
	s->real_offset_us = now - clock_mono_us();
	return now;
}

int64_t http_began_ns(const struct http_request *r) { return r->began_ns; }
int64_t http_waited_us(const struct http_request *r) { return r->waited_us; }

void http_time_as(struct http_request *r, unsigned route)
{
	AN(route <= STATS_ROUTES);
	r->route = (uint16_t)(route + 1);
}

static bool hex(const char *p, size_t n, unsigned char *out)
{
	bool any = false;
	for (size_t i = 0; i < n; i++) {
		unsigned d = p[i] >= '0' && p[i] <= '9'	  ? (unsigned)(p[i] - '0')
			     : p[i] >= 'a' && p[i] <= 'f' ? (unsigned)(p[i] - 'a') + 10
							  : 16;
		if (d > 15)
			return false;
		any |= d != 0;
		if (out)
			out[i / 2] = (unsigned char)(i % 2 ? out[i / 2] | d : d << 4);
	}
	return any || n == 2; /* version and flags may be 0 */
}

bool http_trace_parse(struct span h, unsigned char id[16], unsigned char parent[8], unsigned char *flags_r)
{
	const char *p = h.p;
	if (h.len < 55 || p[2] != '-' || p[35] != '-' || p[52] != '-')
		return false;
	if (memcmp(p, "ff", 2) == 0 || (h.len > 55 && (memcmp(p, "00", 2) == 0 || p[55] != '-')))
		return false;
	return hex(p, 2, NULL) && hex(p + 3, 32, id) && hex(p + 36, 16, parent) && hex(p + 53, 2, flags_r);
}

void http_timing_done(struct http_conn *c, const struct http_request *r)
{
	struct span trace = r->known[HTTP_H_TRACEPARENT];
	if (!r->began_ns || STATS_BLIND)
		return; /* it did not come through a socket */
	struct http_timed *last = c->n_timed ? &c->timed[c->n_timed - 1] : NULL;
	if (last && last->began_ns == r->began_ns && last->route == r->route - 1 && !last->traced && !trace.p &&
	    last->n < UINT16_MAX) {
		last->n++;
		return;
	}
	if (c->n_timed == HTTP_TIMED_MAX)
		http_timing_record(c);
	struct http_timed *t = &c->timed[c->n_timed++];
	t->began_ns = r->began_ns;
	t->route = (uint16_t)(r->route - 1);
	t->n = 1;
	t->traced = trace.p && http_trace_parse(trace, t->trace, NULL, NULL);
}

void http_timing_record(struct http_conn *c)
{
	int64_t now = clock_mono_ns();
	for (unsigned i = 0; i < c->n_timed; i++) {
		const struct http_timed *t = &c->timed[i];
		uint64_t ns = now > t->began_ns ? (uint64_t)(now - t->began_ns) : 0;
		stats_record_route(c->s->stats, t->route, ns, t->n);
		if (t->traced)
			stats_trace_route(c->s->stats, t->route, ns, t->trace);
	}
	c->n_timed = 0;
}
