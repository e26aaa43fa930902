/* The life of requests on a connection: from bytes to a head, a body, a handler, and on to the next.
 *
 * http_step_run() is the only place where requests begin and end; it is a loop, so a thousand
 * pipelined requests use no more stack than one. */
#include "http/http-private.h"

static bool can_keep(const struct http_conn *c)
{
	const struct http_request *r = c->r;
	if (!r->keep || c->eof || c->closing)
		return false;
	if (c->rx == HTTP_RX_WAIT)
		return true;
	/* An early answer: the rest of a short body can be thrown away, unless the client may be
	 * waiting for a 100 that will not come and so may or may not send it. */
	return c->rx == HTTP_RX_BODY && c->body_left <= HTTP_SKIP_MAX && !r->expect_continue;
}

bool http_step_keeps(const struct http_conn *c) { return !c->s->draining && can_keep(c); }

/* The answer is out (or cut); what of the request has not come yet is skipped, or the connection ends. */
static void request_done(struct http_conn *c)
{
	struct http_request *r = c->r;
	bool cut = r->aborted && !r->gone, complete = c->rx == HTTP_RX_WAIT;
	/* Not http_step_keeps(): a drain that began after the answer's head was written has not been announced in it. */
	bool keep = can_keep(c);
	unsigned hold_ms = !cut && !c->dead && !r->gone && !c->s->draining ? r->hold_ms : 0;

	if (r->route && !r->gone && !c->dead)
		http_timing_done(c, r);
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
		c->unread |= !complete || c->in_pos < c->in_len || c->more;
		c->rx = HTTP_RX_OFF;
	} else {
		c->rx = complete ? HTTP_RX_HEAD : HTTP_RX_SKIP;
	}
	c->phase = HTTP_PH_NONE;
	if (hold_ms)
		http_hold_begin(c, hold_ms);
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
		r->bytes_in += n;
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
		r->bytes_in += used;
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

/* Of connections beyond the limit, which are few at a time, each may ask one thing that must be answered whatever
 * happens; unless there is room again meanwhile. */
static bool spared(struct http_conn *c)
{
	struct http_server *s = c->s;
	if (s->n_open <= s->lim.max_connections) {
		c->over = false;
		return true;
	}
	c->r->keep = false;
	return !c->r->length && !c->r->chunked && s->cb.on_spare(s->arg, c->r);
}

static void begin(struct http_conn *c)
{
	struct http_server *s = c->s;
	struct http_request *r = c->r;
	bool stream = false;

	if (c->over && !spared(c)) {
		http_conn_refuse(c, 503, "too many connections");
		return;
	}

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

static void head_begins(struct http_conn *c, uint32_t len)
{
	c->r = http_request_take(c);
	c->r->began_ns = c->began_ns;
	c->r->waited_us = c->waited_us;
	c->r->head_len = len;
}

static void head_ends(struct http_conn *c, uint32_t len)
{
	c->in_pos += len;
	c->pin = c->in_pos;
	c->phase = HTTP_PH_NONE;
}

/* A head whose header section came before. False: it is looked at from its beginning, and refused where it must be. */
static bool step_known_head(struct http_conn *c, size_t avail)
{
	char *p = c->in + c->in_pos;
	const char *why;
	size_t first;
	const struct http_memo *m = http_memo_find(c, p, avail, &first);
	if (!m)
		return false;
	uint32_t len = (uint32_t)(first + 2 + http_memo_len(m));
	p = with_room_behind(c, len); /* from here on the buffer stays where it is */
	head_begins(c, len);
	if (http_parse_line(c->r, p, first, &why) || !http_memo_take(m, c->r, p + first + 2)) {
		http_request_release(c->r);
		c->r = NULL;
		return false;
	}
	head_ends(c, len);
	begin(c);
	return true;
}

static bool step_head(struct http_conn *c)
{
	const char *why = NULL;

	if (http_out_pending(c) > HTTP_OUT_HIGH || c->held_ms) {
		c->rested = true; /* a client that does not read its answers gets no more of them */
		return false;
	}
	if (c->scan.at == 0) /* empty lines before the request line (RFC 9112 2.2) */
		while (c->in_len - c->in_pos >= 2 && c->in[c->in_pos] == '\r' && c->in[c->in_pos + 1] == '\n')
			c->in_pos += 2;
	size_t avail = c->in_len - c->in_pos;
	if (!avail)
		return false;
	if (c->scan.at == 0) {
		c->began_ns = c->read_ns;
		if (step_known_head(c, avail))
			return true;
	}
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
	head_begins(c, len);
	int status = http_parse_head(c->r, p, len, first, &why);
	head_ends(c, len);
	if (status) {
		http_conn_refuse(c, status, why);
	} else {
		http_memo_keep(c, c->r, p + first + 2, len - first - 2);
		begin(c);
	}
	return true;
}

static bool step(struct http_conn *c)
{
	if (c->r && c->r->ended) {
		request_done(c);
		return !c->dead;
	}
	switch (c->rx) {
	case HTTP_RX_HEAD: return step_head(c);
	case HTTP_RX_BODY: return step_body(c);
	case HTTP_RX_CHUNKED: return step_chunked(c);
	case HTTP_RX_SKIP: return step_skip(c);
	case HTTP_RX_WAIT:
	case HTTP_RX_OFF: break;
	}
	return false;
}

void http_step_run(struct http_conn *c)
{
	c->running = true;
	c->rested = false;
	while (step(c))
		;
	c->running = false;
}
