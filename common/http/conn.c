/* One connection: what to do with the bytes that came, and what is left to do at the end of a turn.
 *
 * http_conn_run() is the only place where requests begin and end; it is a loop, so a thousand
 * pipelined requests use no more stack than one. */
#include <unistd.h>
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
		close(c->fd);
	}
	c->fd = -1;
	c->reading = c->writing = false;
	c->rx = HTTP_RX_OFF;
	http_wheel_remove(c);
	http_io_out_give(c);
	http_server_gone(c);
	if (c->r) {
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
	http_conn_close(c);
}

bool http_conn_keeps(const struct http_conn *c)
{
	const struct http_request *r = c->r;
	if (!r->keep || c->s->draining || c->eof || c->closing)
		return false;
	if (c->rx == HTTP_RX_WAIT)
		return true;
	/* An early answer: the rest of a short body can be thrown away, unless the client may be
	 * waiting for a 100 that will not come and so may or may not send it. */
	return c->rx == HTTP_RX_BODY && c->body_left <= HTTP_SKIP_MAX && !r->expect_continue;
}

/* The answer is out (or cut); what of the request has not come yet is skipped, or the connection ends. */
static void request_done(struct http_conn *c)
{
	struct http_request *r = c->r;
	bool cut = r->aborted && !r->gone, complete = c->rx == HTTP_RX_WAIT;
	bool keep = !c->closing && !c->eof && http_conn_keeps(c);

	http_request_release(r);
	c->r = NULL;
	c->pin = 0;
	c->paused = false;
	c->served = true;
	if (c->dead)
		return;
	if (cut) {
		http_conn_cut(c);
	} else if (!keep || c->rx == HTTP_RX_OFF) {
		c->unread |= !complete || c->in_pos < c->in_len;
		c->rx = HTTP_RX_OFF;
	} else {
		c->rx = complete ? HTTP_RX_HEAD : HTTP_RX_SKIP;
	}
	c->phase = HTTP_PH_NONE;
}

void http_conn_refuse(struct http_conn *c, int status, const char *why)
{
	struct http_request *r = c->r;
	bool head_only = r ? r->method == HTTP_M_HEAD :
			     c->in_len - c->in_pos >= 5 && memcmp(c->in + c->in_pos, "HEAD ", 5) == 0;

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

/* ---- steps: each returns false when it cannot go on without more input, output or handler ---- */

static void complete(struct http_conn *c)
{
	struct http_request *r = c->r;
	c->rx = HTTP_RX_WAIT;
	c->phase = HTTP_PH_NONE;
	r->owned = true;
	c->s->cb.on_request(c->s->arg, r);
}

static bool check_buffered(struct http_conn *c)
{
	if (c->s->buffered <= c->s->lim.buffered_bytes)
		return true;
	http_conn_refuse(c, 503, "too many request bodies in memory");
	return false;
}

static bool step_body_stream(struct http_conn *c, size_t avail)
{
	struct http_request *r = c->r;
	const char *p = c->in + c->in_pos;

	if (c->paused)
		return false;
	if (c->body_left) {
		size_t n = avail < c->body_left ? avail : (size_t)c->body_left;
		if (!n)
			return false;
		c->in_pos += (uint32_t)n;
		c->body_left -= n;
		r->streamed += n;
		if (!c->s->cb.on_body(c->s->arg, r, p, n))
			c->paused = true;
		return true;
	}
	complete(c);
	return true;
}

static bool step_body(struct http_conn *c)
{
	struct http_request *r = c->r;
	size_t avail = c->in_len - c->in_pos;

	if (r->stream_in)
		return step_body_stream(c, avail);
	if (!r->body_own && r->length <= c->in_cap - c->pin && c->in_pos == c->pin) {
		/* head and body fit into the input buffer: the body stays where it is */
		if (avail < r->length)
			return false;
		r->body = c->in + c->in_pos;
		r->body_len = (size_t)r->length;
		c->in_pos += (uint32_t)r->length;
		c->pin = c->in_pos;
		c->body_left = 0;
		complete(c);
		return true;
	}
	if (!r->body_own) {
		int status = http_request_body_reserve(r, (size_t)r->length);
		if (status) {
			http_conn_refuse(c, status, "too many request bodies in memory");
			return true;
		}
	}
	size_t n = avail < c->body_left ? avail : (size_t)c->body_left;
	if (n) {
		memcpy(r->body + r->body_len, c->in + c->in_pos, n);
		r->body_len += n;
		c->in_pos += (uint32_t)n;
		c->body_left -= n;
		http_request_body_charge(r, n);
	}
	if (!check_buffered(c))
		return true;
	if (c->body_left)
		return false;
	complete(c);
	return true;
}

static bool step_chunked(struct http_conn *c)
{
	struct http_request *r = c->r;
	size_t used = 0, avail = c->in_len - c->in_pos;
	const char *why;

	if (c->paused)
		return false;
	if (!r->body_done) {
		if (!avail)
			return false;
		int status = http_parse_chunks(r, c->in + c->in_pos, avail, &used, &why);
		if (status) {
			http_conn_refuse(c, status, why);
			return true;
		}
		c->in_pos += (uint32_t)used;
		r->streamed += used;
	}
	if (r->body_done && !c->paused && !r->ended)
		complete(c);
	return true;
}

static bool step_skip(struct http_conn *c)
{
	size_t avail = c->in_len - c->in_pos;
	size_t n = avail < c->body_left ? avail : (size_t)c->body_left;
	c->in_pos += (uint32_t)n;
	c->body_left -= n;
	if (c->body_left)
		return false;
	c->rx = HTTP_RX_HEAD;
	c->phase = HTTP_PH_NONE;
	return true;
}

static void begin(struct http_conn *c)
{
	struct http_server *s = c->s;
	struct http_request *r = c->r;
	bool stream = false;

	c->rx = r->chunked ? HTTP_RX_CHUNKED : r->length ? HTTP_RX_BODY : HTTP_RX_WAIT;
	c->body_left = r->length;
	if (s->cb.on_head) {
		s->cb.on_head(s->arg, r, &stream);
		if (r->ended)
			return;
	}
	if (c->rx == HTTP_RX_WAIT) {
		complete(c);
		return;
	}
	r->stream_in = r->owned = stream && s->cb.on_body;
	if (!r->stream_in) {
		if (r->length > s->lim.body_bytes) {
			http_conn_refuse(c, 413, "body above the limit");
			return;
		}
		if (r->length > s->lim.buffered_bytes || s->buffered > s->lim.buffered_bytes - (size_t)r->length) {
			http_conn_refuse(c, 503, "too many request bodies in memory");
			return;
		}
	}
	if (r->expect_continue) {
		r->expect_continue = false;
		if (c->in_pos == c->in_len && !r->answered) /* else the client did not wait for it */
			http_reply_continue(c);
	}
}

static bool head_too_large(struct http_conn *c, size_t len)
{
	const struct http_limits *l = &c->s->lim;
	const struct http_scan *st = &c->scan;
	if (len > l->head_bytes) {
		bool line = st->lines == 0 || st->first > l->head_bytes;
		http_conn_refuse(c, line ? 414 : 431, line ? "request line too long" : "head too large");
		return true;
	}
	if (st->lines > l->headers + 1) {
		http_conn_refuse(c, 431, "too many header fields");
		return true;
	}
	return false;
}

/* A head must not end so near the end of the buffer that no body fits behind it. */
static char *with_room_behind(struct http_conn *c, uint32_t head_len)
{
	if (c->in_cap - c->in_pos - head_len >= HTTP_PARK_MAX)
		return c->in + c->in_pos;
	if (c->in_pos) {
		memmove(c->in, c->in + c->in_pos, c->in_len - c->in_pos);
		c->in_len -= c->in_pos;
		c->in_pos = 0;
	}
	while (c->in_cap - head_len < HTTP_PARK_MAX)
		http_io_grow(c);
	return c->in + c->in_pos;
}

static bool step_head(struct http_conn *c)
{
	const char *why = NULL;

	if (http_out_pending(c) > HTTP_OUT_HIGH)
		return false; /* a client that does not read its answers gets no more of them */
	if (c->scan.at == 0) /* empty lines before the request line (RFC 9112 2.2) */
		while (c->in_len - c->in_pos >= 2 && c->in[c->in_pos] == '\r' && c->in[c->in_pos + 1] == '\n')
			c->in_pos += 2;
	size_t avail = c->in_len - c->in_pos;
	if (!avail)
		return false;
	enum http_scan_result res = http_scan_head(&c->scan, c->in + c->in_pos, avail, &why);
	if (head_too_large(c, res == HTTP_SCAN_DONE ? c->scan.at : avail))
		return true;
	if (res == HTTP_SCAN_MORE)
		return false;
	if (res == HTTP_SCAN_BAD) {
		http_conn_refuse(c, 400, why);
		return true;
	}
	uint32_t len = c->scan.at, first = c->scan.first;
	char *p = with_room_behind(c, len);
	c->scan = (struct http_scan){0};
	c->r = http_request_take(c);
	int status = http_parse_head(c->r, p, len, first, &why);
	c->in_pos += len;
	c->pin = c->in_pos;
	c->phase = HTTP_PH_NONE;
	if (status)
		http_conn_refuse(c, status, why);
	else
		begin(c);
	return true;
}

static bool step(struct http_conn *c)
{
	if (c->r && c->r->ended) {
		request_done(c);
		return !c->dead;
	}
	switch (c->rx) {
	case HTTP_RX_HEAD:
		return step_head(c);
	case HTTP_RX_BODY:
		return step_body(c);
	case HTTP_RX_CHUNKED:
		return step_chunked(c);
	case HTTP_RX_SKIP:
		return step_skip(c);
	case HTTP_RX_WAIT:
	case HTTP_RX_OFF:
		break;
	}
	return false;
}

void http_conn_run(struct http_conn *c)
{
	c->running = true;
	while (step(c))
		;
	c->running = false;
}

/* While http_conn_run() is at work its caller will settle: no turn needed. */
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

static bool read_once(struct http_conn *c)
{
	ssize_t n = http_io_fill(c);
	if (n > 0)
		http_conn_run(c);
	else if (n == 0)
		on_eof(c);
	else if (n == -2)
		http_conn_close(c);
	return n > 0;
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
	case HTTP_RX_HEAD:
		ph = c->in_len > c->in_pos ? HTTP_PH_HEAD : HTTP_PH_IDLE;
		break;
	case HTTP_RX_BODY:
	case HTTP_RX_CHUNKED:
	case HTTP_RX_SKIP:
		ph = c->paused ? HTTP_PH_WAIT : HTTP_PH_BODY;
		break;
	default:
		ph = HTTP_PH_WAIT;
	}
	/* A streamed body may be of any length: it must come at 64 KiB per body timeout at least. */
	bool progress = ph == HTTP_PH_BODY && c->r && c->r->stream_in && c->r->streamed >= HTTP_SKIP_MAX;
	if (progress)
		c->r->streamed = 0;
	if (ph == c->phase && !progress)
		return; /* an absolute deadline: bytes that trickle in do not move it */
	c->phase = ph;
	c->in_deadline = ph == HTTP_PH_HEAD || (ph == HTTP_PH_IDLE && !c->served) ? now + l->head_timeout_ms :
			 ph == HTTP_PH_IDLE ? now + l->idle_timeout_ms :
			 ph == HTTP_PH_BODY ? now + l->body_timeout_ms : HTTP_NEVER;
}

static void set_reading(struct http_conn *c)
{
	bool want = !c->eof;
	if (c->rx == HTTP_RX_HEAD)
		want &= http_out_pending(c) <= HTTP_OUT_HIGH;
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

void http_conn_settle(struct http_conn *c)
{
	if (c->dead)
		return;
	http_io_flush(c);
	if (c->broken) {
		http_conn_close(c);
		return;
	}
	drain_output(c);
	if (c->rx == HTTP_RX_OFF && !http_out_pending(c) && !c->lingering && (!c->r || c->r->gone))
		linger(c);
	if (c->dead)
		return;
	if (c->rx == HTTP_RX_HEAD) {
		if (c->s->draining && c->in_pos == c->in_len && !http_out_pending(c)) {
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
	set_deadline(c);
	set_reading(c);
	http_wheel_set(c);
	if (c->more && c->reading)
		http_server_queue(c); /* others first */
}

void http_conn_turn(struct http_conn *c)
{
	http_conn_run(c);
	if (c->more && c->reading)
		read_once(c);
	http_conn_settle(c);
}

/* ---- events ---- */

void http_conn_on_read(evutil_socket_t fd, short what, void *arg)
{
	struct http_conn *c = arg;
	(void)fd;
	if (what & EV_CLOSED)
		c->hup = true;
	http_server_now(c->s);
	read_once(c);
	http_conn_settle(c);
}

void http_conn_on_write(evutil_socket_t fd, short what, void *arg)
{
	struct http_conn *c = arg;
	(void)fd;
	(void)what;
	http_server_now(c->s);
	c->writing = false;
	http_io_flush(c);
	if (!c->broken)
		http_conn_run(c); /* parsing may have rested because of the output */
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
		http_conn_run(c);
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
	if (c->lingering || c->phase == HTTP_PH_IDLE) {
		http_conn_close(c);
		return;
	}
	c->in_deadline = HTTP_NEVER;
	if (c->rx == HTTP_RX_SKIP) {
		http_conn_close(c);
		return;
	}
	http_conn_refuse(c, 408, "the request did not arrive in time");
	http_conn_run(c);
	http_conn_settle(c);
}

/* Idle connections are closed, but a request that is on its way in the socket is still served. */
void http_conn_drain(struct http_conn *c)
{
	if (c->dead || c->rx != HTTP_RX_HEAD || c->sink)
		return;
	if (c->in_pos == c->in_len && !http_out_pending(c) && c->reading)
		read_once(c);
	http_conn_settle(c);
}
