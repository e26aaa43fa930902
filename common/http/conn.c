/* One connection: its events, its deadlines, its end, and what is left to do at the end of a turn. */
#define LOG_SUBSYSTEM LOG_IN_HTTP
#include <unistd.h>
#include "clock.h"
#include "log.h"
#include "http/http-private.h"

void http_conn_init(struct http_conn *c)
{
	c->rx = HTTP_RX_HEAD;
	c->phase = HTTP_PH_NONE;
	c->in_deadline = c->out_deadline = HTTP_NEVER;
}

/* ---- the end of a connection ---- */

/* The handler that has the request hears once that nobody waits for it. */
static void tell_gone(struct http_conn *c)
{
	struct http_request *r = c->r;
	struct http_server *s = c->s;
	if (!r || r->told || r->ended)
		return;
	r->told = true;
	if ((r->owned || r->user) && s->cb.on_gone)
		s->cb.on_gone(s->arg, r);
	if (!r->owned) /* the handler saw at most its head: it need not answer */
		r->ended = true;
}

void http_conn_close(struct http_conn *c)
{
	if (c->dead)
		return;
	c->dead = true;
	if (!c->sink) {
		if (c->reading)
			event_del(c->ev_read);
		if (c->writing)
			event_del(c->ev_write);
		if (c->tls)
			http_tls_close(c);
		close(c->fd);
	}
	c->fd = -1;
	c->reading = c->writing = false;
	c->rx = HTTP_RX_OFF;
	(void)http_ready_leave(c);
	http_hold_forget(c);
	http_wheel_remove(c);
	http_io_out_give(c);
	http_io_charge(c);
	http_server_gone(c);
	if (c->r) {
		if (c->r->stream_out) /* a half-closed reader of a stream may have been told already, and waits for on_drain */
			c->r->told = false;
		c->r->gone = true;
		tell_gone(c);
	}
	http_server_queue(c); /* the turn frees what can be freed */
}

void http_conn_cut(struct http_conn *c)
{
	struct linger off = {.l_onoff = 1, .l_linger = 0}; /* close() sends a reset */
	if (!c->dead && !c->sink)
		(void)setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &off, sizeof(off));
	if (c->tls)
		http_tls_spoil(c);
	http_conn_close(c);
}

void http_conn_refuse(struct http_conn *c, int status, const char *why)
{
	struct http_request *r = c->r;
	bool head_only = r ? r->method == HTTP_M_HEAD
			   : c->in_len - c->in_pos >= 5 && memcmp(c->in + c->in_pos, "HEAD ", 5) == 0;

	stats_add(c->s->stats, STAT_HTTP_REJECTED, 1);
	c->closing = c->unread = true;
	if (r && r->answered) { /* in the middle of an answer: all that is left is to spoil it */
		http_conn_cut(c);
		return;
	}
	http_reply_refusal(c, status, why, head_only);
	c->rx = HTTP_RX_OFF;
	if (r) {
		r->gone = true;
		tell_gone(c);
	}
}

/* While http_step_run() is at work its caller will settle: no turn needed. */
void http_conn_touch(struct http_conn *c)
{
	if (!c->running)
		http_server_queue(c);
}

void http_resume(struct http_request *r)
{
	if (r->gone || !r->c->paused)
		return;
	r->c->paused = false;
	http_conn_touch(r->c);
}

static void on_eof(struct http_conn *c)
{
	c->eof = true;
	if (c->rx == HTTP_RX_WAIT)
		/* A client may close its half and still wait for the answer. The handler hears of it and
		 * may give up; if it answers, the answer is sent. */
		tell_gone(c);
	else if (!c->r && http_out_pending(c))
		c->rx = HTTP_RX_OFF;
	else
		http_conn_close(c);
}

/* A reset that comes with the bytes shares their one event and is not told apart from them: a request that
 * stays incomplete is read until EAGAIN, or its connection would be kept until the request times out. */
static bool incomplete(const struct http_conn *c)
{
	return c->rx == HTTP_RX_BODY || c->rx == HTTP_RX_CHUNKED || (c->rx == HTTP_RX_HEAD && c->in_len > c->in_pos);
}

static bool read_once(struct http_conn *c)
{
	bool head = c->rx == HTTP_RX_HEAD || c->rx == HTTP_RX_WAIT;
	ssize_t n = http_io_fill(c);
	if (n > 0) {
		if (head) {
			c->read_ns = clock_mono_ns();
			c->s->now_ms = c->read_ns / 1000000;
		} else {
			http_server_now(c->s);
		}
		c->s->fresh = head;
		c->s->coarse_s = 0;
		http_step_run(c);
		c->s->fresh = false;
		c->more |= !c->dead && incomplete(c);
		return true;
	}
	http_server_now(c->s);
	if (n == 0) {
		on_eof(c);
	} else if (n == -2) {
		http_conn_close(c);
	}
	return false;
}

/* ---- the end of a turn ---- */

static void linger(struct http_conn *c)
{
	if (c->eof || !c->unread || c->sink) {
		http_conn_close(c);
		return;
	}
	/* Closing with unread input would send a reset, and the reset could overtake the answer. */
	c->lingering = true;
	c->in_deadline = c->s->now_ms + HTTP_LINGER_MS;
	if (c->tls)
		http_tls_notify(c);
	(void)shutdown(c->fd, SHUT_WR);
}

static void set_deadline(struct http_conn *c)
{
	const struct http_limits *l = &c->s->lim;
	int64_t now = c->s->now_ms;
	enum http_phase ph;

	if (c->lingering)
		return;
	switch (c->rx) {
	case HTTP_RX_HEAD: ph = c->in_len > c->in_pos ? HTTP_PH_HEAD : HTTP_PH_IDLE; break;
	case HTTP_RX_BODY:
	case HTTP_RX_CHUNKED:
	case HTTP_RX_SKIP: ph = c->paused ? HTTP_PH_WAIT : HTTP_PH_BODY; break;
	default: ph = HTTP_PH_WAIT;
	}
	/* A streamed body may be of any length: it must come at 64 KiB per body timeout at least. */
	bool progress = ph == HTTP_PH_BODY && c->r && c->r->stream_in && c->r->streamed >= HTTP_SKIP_MAX;
	if (progress)
		c->r->streamed = 0;
	if (ph == c->phase && !progress)
		return; /* an absolute deadline: bytes that trickle in do not move it */
	c->phase = ph;
	c->in_deadline = c->over && ph <= HTTP_PH_HEAD				    ? now + HTTP_SPARE_MS
			 : ph == HTTP_PH_HEAD || (ph == HTTP_PH_IDLE && !c->served) ? now + l->head_timeout_ms
			 : ph == HTTP_PH_IDLE					    ? now + l->idle_timeout_ms
			 : ph == HTTP_PH_BODY					    ? now + l->body_timeout_ms
										    : HTTP_NEVER;
}

static void set_reading(struct http_conn *c)
{
	bool want = !c->eof;
	if (c->rx == HTTP_RX_HEAD)
		want &= http_out_pending(c) <= HTTP_OUT_HIGH && !(c->held_ms && c->in_len > c->in_pos);
	else if (c->rx == HTTP_RX_WAIT)
		want &= !c->in || c->in_cap < HTTP_IN_SIZE || c->in_len - (c->in_pos - c->pin) < c->in_cap;
	else if (c->rx != HTTP_RX_OFF)
		want &= !c->paused;
	if (want == c->reading || c->sink)
		return;
	c->reading = want;
	AN((want ? event_add(c->ev_read, NULL) : event_del(c->ev_read)) == 0);
}

/* on_drain once the output is low again; what it writes is sent in this turn or, if the socket takes
 * everything it is given, in the next: other connections must get their share. */
static void drain_output(struct http_conn *c)
{
	struct http_request *r = c->r;
	if (!r || !r->want_drain || r->ended || http_out_pending(c) > HTTP_OUT_LOW)
		return;
	r->want_drain = false;
	if (r->on_drain)
		r->on_drain(c->s->arg, r);
}

/* Replies that nobody reads must not fill the memory, however many ask for them. */
static void drop_slow_readers(struct http_conn *c)
{
	static struct log_limit limit;
	struct http_server *s = c->s;
	while (s->unsent > s->lim.buffered_bytes) {
		struct http_conn *slowest = s->o_first == c ? c->o_next : s->o_first;
		if (!slowest)
			return; /* one reply may be larger than the budget */
		log_warn_limited(
			&limit, 10,
			"%zu bytes of replies wait for clients that do not read: dropping the one that has taken nothing for the longest "
			"(http.buffered_bytes is %zu)",
			s->unsent, s->lim.buffered_bytes);
		http_conn_cut(slowest);
	}
}

/* A client of TLS speaks long before its first request: while draining it may still send that one. */
static bool promised(const struct http_conn *c) { return c->tls && !c->served; }

void http_conn_settle(struct http_conn *c)
{
	if (c->dead)
		return;
	http_io_flush(c);
	if (c->broken) {
		http_conn_close(c);
		return;
	}
	if (c->n_timed)
		http_timing_record(c);
	drain_output(c);
	if (c->rx == HTTP_RX_OFF && !http_out_pending(c) && !c->lingering && (!c->r || c->r->gone))
		linger(c);
	if (c->dead)
		return;
	if (c->rx == HTTP_RX_HEAD) {
		if (c->s->close_idle && c->in_pos == c->in_len && !http_out_pending(c) && !promised(c)) {
			http_conn_close(c);
			return;
		}
		if (c->in_pos == c->in_len)
			http_io_in_give(c);
		else if (c->in_cap >= HTTP_IN_SIZE)
			http_io_park(c);
	} else if (c->rx == HTTP_RX_OFF && !c->r && c->in) {
		http_io_in_give(c);
	}
	if (c->out && !http_out_pending(c))
		http_io_out_give(c);
	http_io_charge(c);
	if (c->s->unsent > c->s->lim.buffered_bytes)
		drop_slow_readers(c);
	set_deadline(c);
	set_reading(c);
	http_wheel_set(c);
	/* Others first. What rested because of output that has gone out since is waited for by nobody: no event tells of it. */
	if ((c->more && c->reading && !http_ready_waits(c)) ||
	    (c->rested && !c->writing && !c->held_ms && http_out_pending(c) <= HTTP_OUT_HIGH))
		http_server_queue(c);
}

void http_conn_turn(struct http_conn *c)
{
	http_step_run(c);
	if (c->more && c->reading && !http_ready_wait(c))
		read_once(c);
	http_conn_settle(c);
}

void http_conn_read(struct http_conn *c, int64_t waited_us)
{
	c->waited_us = waited_us;
	if (c->tls) /* reading may mean writing, which has a deadline */
		http_server_now(c->s);
	read_once(c);
	c->waited_us = 0;
	http_conn_settle(c);
}

/* ---- events ---- */

void http_conn_on_read(evutil_socket_t fd, short what, void *arg)
{
	struct http_conn *c = arg;
	(void)fd;
	if (what & EV_CLOSED)
		c->hup = true;
	if (!http_ready_wait(c))
		http_conn_read(c, 0);
}

void http_conn_on_write(evutil_socket_t fd, short what, void *arg)
{
	struct http_conn *c = arg;
	(void)fd;
	(void)what;
	http_server_now(c->s);
	c->writing = false;
	if (c->tls)
		http_tls_writable(c);
	http_io_flush(c);
	if (!c->broken)
		http_step_run(c); /* parsing may have rested because of the output */
	http_conn_settle(c);
}

void http_conn_feed(struct http_conn *c, const char *p, size_t n)
{
	while (n && !c->dead && c->rx != HTTP_RX_OFF) {
		size_t room;
		char *to;
		bool direct = c->rx == HTTP_RX_BODY && c->r->body_own;
		if (direct) {
			to = c->r->body + c->r->body_len;
			room = (size_t)c->body_left;
		} else {
			if (!http_io_make_room(c))
				return;
			to = c->in + c->in_len;
			room = c->in_cap - c->in_len;
		}
		if (room > n)
			room = n;
		memcpy(to, p, room);
		p += room;
		n -= room;
		if (direct) {
			c->r->body_len += room;
			c->body_left -= room;
			http_request_body_charge(c->r, room);
		} else {
			c->in_len += (uint32_t)room;
		}
		http_step_run(c);
		http_conn_settle(c);
	}
}

void http_conn_timeout(struct http_conn *c)
{
	int64_t now = c->s->now_ms;

	if (c->out_deadline <= now) {
		http_conn_cut(c);
		return;
	}
	if (c->held_ms) { /* for longer than the connection may idle */
		http_hold_end(c);
		return;
	}
	if (http_ready_waits(c) && c->phase == HTTP_PH_IDLE) { /* it came in time */
		http_conn_read(c, http_ready_leave(c));
		return;
	}
	if (c->lingering || (c->phase == HTTP_PH_IDLE && !c->over)) {
		http_conn_close(c);
		return;
	}
	c->in_deadline = HTTP_NEVER;
	if (c->rx == HTTP_RX_SKIP) {
		http_conn_close(c);
		return;
	}
	if (c->over)
		http_conn_refuse(c, 503, "too many connections");
	else
		http_conn_refuse(c, 408, "the request did not arrive in time");
	http_step_run(c);
	http_conn_settle(c);
}

/* Idle connections are closed, but a request that is on its way in the socket is still served. */
void http_conn_drain(struct http_conn *c)
{
	if (c->dead || c->rx != HTTP_RX_HEAD || c->sink)
		return;
	if (http_ready_waits(c) || (c->in_pos == c->in_len && !http_out_pending(c) && c->reading))
		http_conn_read(c, http_ready_leave(c));
	else
		http_conn_settle(c);
	if (!c->dead && promised(c) && c->phase == HTTP_PH_IDLE) {
		c->in_deadline = c->s->now_ms + HTTP_LINGER_MS;
		http_wheel_set(c);
	}
}
