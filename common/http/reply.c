/* Answers: the head is put together by memcpy from precomputed pieces, behind it the body, all in
 * the connection's output buffer; sending is left to the end of the turn. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include "http/http-private.h"

struct status_line {
	const char *text;
	uint8_t len;
};
#define LINE(code, reason)                                                                                             \
	[(code)-200] = {"HTTP/1.1 " #code " " reason "\r\n", sizeof("HTTP/1.1 " #code " " reason "\r\n") - 1}
/* clang-format off */
static const struct status_line status_lines[] = {
	LINE(200, "OK"), LINE(201, "Created"), LINE(202, "Accepted"), LINE(204, "No Content"), LINE(206, "Partial Content"),
	LINE(207, "Multi-Status"),
	LINE(301, "Moved Permanently"), LINE(302, "Found"), LINE(303, "See Other"), LINE(304, "Not Modified"),
	LINE(307, "Temporary Redirect"), LINE(308, "Permanent Redirect"),
	LINE(400, "Bad Request"), LINE(401, "Unauthorized"), LINE(402, "Payment Required"), LINE(403, "Forbidden"),
	LINE(404, "Not Found"), LINE(405, "Method Not Allowed"), LINE(406, "Not Acceptable"), LINE(408, "Request Timeout"),
	LINE(409, "Conflict"), LINE(410, "Gone"), LINE(411, "Length Required"), LINE(412, "Precondition Failed"),
	LINE(413, "Content Too Large"), LINE(414, "URI Too Long"), LINE(415, "Unsupported Media Type"),
	LINE(416, "Range Not Satisfiable"), LINE(417, "Expectation Failed"), LINE(421, "Misdirected Request"),
	LINE(422, "Unprocessable Content"), LINE(423, "Locked"), LINE(424, "Failed Dependency"), LINE(425, "Too Early"),
	LINE(426, "Upgrade Required"), LINE(428, "Precondition Required"), LINE(429, "Too Many Requests"),
	LINE(431, "Request Header Fields Too Large"), LINE(451, "Unavailable For Legal Reasons"),
	LINE(499, "Client Closed Request"),
	LINE(500, "Internal Server Error"), LINE(501, "Not Implemented"), LINE(502, "Bad Gateway"),
	LINE(503, "Service Unavailable"), LINE(504, "Gateway Timeout"), LINE(505, "HTTP Version Not Supported"),
	LINE(507, "Insufficient Storage"), LINE(508, "Loop Detected"), LINE(529, "Overloaded"),
};
/* clang-format on */

/* How the end of the body is told. */
enum framing { FRAME_LENGTH, FRAME_CHUNKED, FRAME_CLOSE, FRAME_NONE };

#define DIGITS_MAX 20

static char *put(char *to, const void *p, size_t n)
{
	memcpy(to, p, n);
	return to + n;
}
#define PUT_LIT(to, lit) put(to, lit, sizeof(lit) - 1)

static unsigned count_digits(size_t n)
{
	unsigned d = 1;
	while (n >= 10) {
		n /= 10;
		d++;
	}
	return d;
}

/* Right-aligned in `width`; spaces before a value are optional whitespace (RFC 9110 5.5). */
static void put_digits(char *to, unsigned width, size_t n)
{
	for (unsigned i = width; i-- > 0; n /= 10)
		to[i] = n || i == width - 1 ? (char)('0' + n % 10) : ' ';
}

static char *put_number(char *o, size_t n)
{
	char *end = o + count_digits(n), *p = end;
	do
		*--p = (char)('0' + n % 10);
	while (n /= 10);
	return end;
}

static char *put_status(char *o, int status)
{
	unsigned i = (unsigned)status - 200;
	if (i < ARRAY_LEN(status_lines) && status_lines[i].len)
		return put(o, status_lines[i].text, status_lines[i].len);
	AN(status >= 200 && status <= 999);
	o = PUT_LIT(o, "HTTP/1.1 ");
	put_digits(o, 3, (size_t)status);
	return PUT_LIT(o + 3, " Status\r\n");
}

static void make_date(struct http_server *s)
{
	struct timespec ts = {.tv_sec = s->coarse_s};
	if (!s->fresh || !s->coarse_s)
		clock_gettime(CLOCK_REALTIME_COARSE, &ts); /* vDSO, a tick old at most */
	if (ts.tv_sec != s->date_s) {
		struct tm tm;
		gmtime_r(&ts.tv_sec, &tm);
		static const char days[] = "SunMonTueWedThuFriSat", months[] = "JanFebMarAprMayJunJulAugSepOctNovDec";
		int n = snprintf(s->date, sizeof(s->date), "Date: %.3s, %02u %.3s %04u %02u:%02u:%02u GMT\r\n",
				 days + (unsigned)tm.tm_wday % 7 * 3, (unsigned)tm.tm_mday % 32u,
				 months + (unsigned)tm.tm_mon % 12 * 3, (unsigned)(tm.tm_year + 1900) % 10000u,
				 (unsigned)tm.tm_hour % 24u, (unsigned)tm.tm_min % 60u, (unsigned)tm.tm_sec % 61u);
		AN(n == 37);
		s->date_s = ts.tv_sec;
	}
}

/* Status line and Date. */
static char *put_top(char *o, struct http_server *s, int status)
{
	make_date(s);
	if (status == 200)
		return put(PUT_LIT(o, "HTTP/1.1 200 OK\r\n"), s->date, 37);
	return put(put_status(o, status), s->date, 37);
}

struct reply_head {
	int status;
	struct span type, extra;
	enum framing framing;
	unsigned width; /* digits of Content-Length; 0: it is known, `length` */
	size_t length;
	bool keep;
	uint8_t minor;
	struct span id;
};

static size_t head_max(const struct reply_head *h)
{
	return 320 + h->type.len + h->extra.len + h->id.len; /* longest status line 48, fixed lines below < 200 */
}

/* Writes the head at the end of the output, with room for `body` more bytes behind it. Returns where
 * the digits of Content-Length go that are not known yet, as an offset into the output; else 0. */
static size_t write_head(struct http_conn *c, const struct reply_head *h, size_t body)
{
	size_t at = 0;
	char *o = http_io_out(c, head_max(h) + body);

	AN(h->extra.len == 0 || (h->extra.len > 2 && h->extra.p[h->extra.len - 1] == '\n'));
	o = put_top(o, c->s, h->status);
	if (h->type.len) {
		o = PUT_LIT(o, "Content-Type: ");
		o = put(o, h->type.p, h->type.len);
		o = PUT_LIT(o, "\r\n");
	}
	if (h->framing == FRAME_LENGTH) {
		o = PUT_LIT(o, "Content-Length: ");
		if (h->width) {
			at = (size_t)(o - c->out);
			o += h->width;
		} else {
			o = put_number(o, h->length);
		}
		o = PUT_LIT(o, "\r\n");
	} else if (h->framing == FRAME_CHUNKED) {
		o = PUT_LIT(o, "Transfer-Encoding: chunked\r\n");
	}
	if (!h->keep)
		o = PUT_LIT(o, "Connection: close\r\n");
	else if (h->minor == 0)
		o = PUT_LIT(o, "Connection: keep-alive\r\n");
	o = PUT_LIT(o, "X-Request-Id: ");
	o = put(o, h->id.p, h->id.len);
	o = PUT_LIT(o, "\r\n");
	if (h->extra.len)
		o = put(o, h->extra.p, h->extra.len);
	o = PUT_LIT(o, "\r\n");
	c->out_len = (size_t)(o - c->out);
	return at;
}

static bool status_has_no_body(int status) { return status == 204 || status == 304; }

static inline struct reply_head head_for(struct http_request *r, int status, struct span type, struct span extra)
{
	struct http_conn *c = r->c;
	AN(!r->answered && !r->ended);
	r->answered = true;
	r->no_body = r->method == HTTP_M_HEAD || status_has_no_body(status);
	struct reply_head h = {
		.status = status, .type = type, .extra = extra, .keep = http_step_keeps(c), .minor = r->minor};
	h.framing = status_has_no_body(status) ? FRAME_NONE : FRAME_LENGTH;
	if (!h.keep)
		c->closing = true;
	if (!r->gone)
		h.id = http_request_id(r);
	return h;
}

static void finish(struct http_request *r)
{
	r->ended = true;
	http_conn_touch(r->c);
}

static struct span text(const char *p) { return p ? SPAN(p) : (struct span){NULL, 0}; }

void http_reply_spans(struct http_request *r, int status, struct span content_type, struct span head, const void *body,
		      size_t len)
{
	struct http_conn *c = r->c;

	if (!r->gone) {
		struct reply_head h = head_for(r, status, content_type, head);
		bool large = len >= HTTP_OUT_SIZE;
		h.length = len;
		write_head(c, &h, r->no_body || large ? 0 : len);
		if (r->no_body || !len) {
			;
		} else if (large) {
			http_io_send(c, body, len);
		} else {
			memcpy(c->out + c->out_len, body, len);
			c->out_len += len;
		}
	}
	finish(r);
}

void http_reply(struct http_request *r, int status, const char *content_type, const char *head, const void *body,
		size_t len)
{
	http_reply_spans(r, status, text(content_type), text(head), body, len);
}

char *http_reply_begin(struct http_request *r, int status, const char *content_type, const char *head, size_t max_len)
{
	struct http_conn *c = r->c;

	if (r->gone) {
		AN(!r->scratch);
		r->scratch = util_alloc(max_len + 1);
		return r->scratch;
	}
	struct reply_head h = head_for(r, status, text(content_type), text(head));
	h.width = count_digits(max_len);
	r->begin_digits = h.width;
	r->len_at = write_head(c, &h, max_len);
	r->body_at = c->out_len;
	return c->out + c->out_len;
}

void http_reply_done(struct http_request *r, size_t len)
{
	struct http_conn *c = r->c;

	if (!r->gone) {
		AN(r->answered && c->out_len == r->body_at && c->out_cap - c->out_len >= len);
		if (r->len_at)
			put_digits(c->out + r->len_at, (unsigned)r->begin_digits, len);
		if (!r->no_body)
			c->out_len += len;
	}
	finish(r);
}

/* ---- streamed answers ---- */

void http_stream_begin(struct http_request *r, int status, const char *content_type, const char *head,
		       void (*on_drain)(void *arg, struct http_request *r))
{
	struct http_conn *c = r->c;

	r->on_drain = on_drain;
	r->stream_out = true;
	if (r->gone)
		return;
	if (r->minor == 0)
		r->keep = false; /* HTTP/1.0 knows no chunks: the end of the connection is the end of the body */
	struct reply_head h = head_for(r, status, text(content_type), text(head));
	if (h.framing == FRAME_LENGTH)
		h.framing = r->minor ? FRAME_CHUNKED : FRAME_CLOSE;
	r->tx_chunked = h.framing == FRAME_CHUNKED;
	write_head(c, &h, 0);
	http_conn_touch(c);
}

bool http_write(struct http_request *r, const void *p, size_t n)
{
	struct http_conn *c = r->c;

	AN(r->stream_out && !r->ended);
	if (r->gone)
		return true; /* nobody reads it: no reason to wait */
	if (n && !r->no_body) {
		r->bytes_out += n;
		if (r->tx_chunked) {
			char *o = http_io_out(c, 18);
			unsigned digits = 1;
			while (digits < 16 && n >> (4 * digits))
				digits++;
			for (unsigned i = 0; i < digits; i++)
				o[i] = "0123456789abcdef"[n >> (4 * (digits - 1 - i)) & 15];
			PUT_LIT(o + digits, "\r\n");
			c->out_len += digits + 2;
		}
		http_io_send(c, p, n);
		if (r->tx_chunked) {
			PUT_LIT(http_io_out(c, 2), "\r\n");
			c->out_len += 2;
		}
		http_conn_touch(c);
	}
	if (http_out_pending(c) <= HTTP_OUT_HIGH)
		return true;
	r->want_drain = true;
	return false;
}

void http_end(struct http_request *r)
{
	struct http_conn *c = r->c;

	AN(r->stream_out && !r->ended);
	if (!r->gone && r->tx_chunked && !r->no_body) {
		PUT_LIT(http_io_out(c, 5), "0\r\n\r\n");
		c->out_len += 5;
	}
	finish(r);
}

void http_abort(struct http_request *r)
{
	r->aborted = true;
	finish(r);
}

/* ---- the engine's own answers ---- */

/* Always the last answer of its connection. c->r may be NULL: the head was not understood. */
void http_reply_refusal(struct http_conn *c, int status, const char *why, bool no_body)
{
	struct http_server *s = c->s;
	struct buf body = {0};
	char made[16];
	struct reply_head h = {.status = status, .framing = FRAME_LENGTH, .minor = 1};

	if (c->r) {
		h.id = http_request_id(c->r);
	} else {
		http_request_make_id(s, made);
		h.id = (struct span){made, sizeof(made)};
	}
	if (s->cb.on_refused)
		s->cb.on_refused(s->arg, status, why, h.id, &body);
	if (body.len)
		h.type = SPAN_LIT("application/problem+json");
	if (status == 503)
		h.extra = SPAN_LIT("Retry-After: 1\r\n");
	h.length = body.len;
	write_head(c, &h, body.len);
	if (body.len && !no_body) {
		memcpy(c->out + c->out_len, body.p, body.len);
		c->out_len += body.len;
	}
	buf_free(&body);
}

void http_reply_continue(struct http_conn *c)
{
	static const char line[] = "HTTP/1.1 100 Continue\r\n\r\n";
	memcpy(http_io_out(c, sizeof(line) - 1), line, sizeof(line) - 1);
	c->out_len += sizeof(line) - 1;
}
