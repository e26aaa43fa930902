/* llhttp, and what RFC 9112 forbids but llhttp lets through.
 *
 * Strictness: llhttp 8.1 has its strict state machine only when llhttp.c itself is compiled with
 * LLHTTP_STRICT_MODE=1 (Debian ships sources, so the build does that; tests/unit/test_http.c has a
 * case that fails if it does not). No lenient flag is ever set. On top of that the head is scanned
 * before (scan.c) and its meaning checked after (check_*), and the framing bytes of chunked bodies
 * go through the same CR/LF rule here, because llhttp alone is known to forgive some of them.
 * (The other way round: llhttp 8.1 refuses a second extension of one chunk and a tab behind a
 * Content-Length, both legal and both unheard of. A 400 is safe there, so they stay refused.)
 *
 * llhttp never sees a Content-Length body: on_headers_complete answers 1 ("no body") and conn.c
 * counts the bytes itself, which is what lets large bodies be read straight into their buffer. */
#include "http/http-private.h"
#ifdef __SSE2__
#include <emmintrin.h>
#endif

static int refuse(struct http_request *r, int status, const char *why)
{
	r->refuse = (uint16_t)status;
	r->why = why;
	return -1;
}

/* ---- callbacks of llhttp ---- */

static int on_field(llhttp_t *parser, const char *at, size_t n)
{
	struct http_request *r = parser->data;
	if (r->head_done) { /* a trailer: counted, otherwise ignored */
		r->trailer_bytes += (uint32_t)n;
		if (++r->trailers > r->c->s->lim.headers)
			return refuse(r, 431, "too many trailer fields");
		return 0;
	}
	if (n == 0)
		return refuse(r, 400, "header field without a name");
	if (r->n_fields >= r->cap_fields || r->n_fields >= r->c->s->lim.headers)
		return refuse(r, 431, "too many header fields");
	r->fields[r->n_fields++] = (struct http_field){at, NULL, (uint32_t)n, 0};
	return 0;
}

static int on_value(llhttp_t *parser, const char *at, size_t n)
{
	struct http_request *r = parser->data;
	if (r->head_done) {
		r->trailer_bytes += (uint32_t)n;
		if (r->trailer_bytes > r->c->s->lim.head_bytes)
			return refuse(r, 431, "trailer section too large");
		return 0;
	}
	if (r->n_fields == 0 ||
	    r->fields[r->n_fields - 1].value) /* the head is fed whole: a span never comes in parts */
		return refuse(r, 400, "malformed header fields");
	struct http_field *f = &r->fields[r->n_fields - 1];
	while (n && (at[n - 1] == ' ' || at[n - 1] == '\t'))
		n--;
	f->value = at;
	f->value_len = (uint32_t)n;
	return 0;
}

static int on_headers_complete(llhttp_t *parser)
{
	struct http_request *r = parser->data;
	parser->upgrade = 0; /* Upgrade is ignored: this server never switches protocols */
	r->head_done = true;
	r->keep = llhttp_should_keep_alive(parser) && !(parser->flags & F_CONNECTION_CLOSE);
	r->chunked = (parser->flags & F_CHUNKED) != 0;
	r->frame_last = '\n';
	return r->chunked ? 0 : 1;
}

static int on_message_complete(llhttp_t *parser)
{
	struct http_request *r = parser->data;
	r->body_done = true;
	return HPE_PAUSED;
}

/* Framing bytes are all bytes of a chunked body that are not data: sizes, extensions, trailers.
 * CR only before LF, LF only after CR, no other control character, no folded or nameless trailer. */
static bool check_frame(struct http_request *r, const char *end)
{
	for (const char *p = r->frame; p < end; p++) {
		unsigned char ch = (unsigned char)*p;
		if ((ch == '\n') != (r->frame_last == '\r'))
			return false;
		if (r->frame_last == '\n' && (ch == ':' || ch == ' ' || ch == '\t'))
			return false;
		r->frame_last = (char)ch;
		if ((ch < 0x20 || ch == 0x7f) && ch != '\r' && ch != '\n' && ch != '\t')
			return false;
	}
	r->frame = end;
	return true;
}

static int on_chunk_header(llhttp_t *parser)
{
	struct http_request *r = parser->data;
	if (r->stream_in || parser->content_length == 0)
		return 0;
	size_t max = r->c->s->lim.body_bytes;
	if (parser->content_length > max - (r->body_len < max ? r->body_len : max))
		return refuse(r, 413, "body above the limit");
	return 0;
}

static int on_extension(llhttp_t *parser, const char *at, size_t n)
{
	struct http_request *r = parser->data;
	(void)at;
	r->extension_bytes += (uint32_t)(n + 1);
	if (r->extension_bytes > HTTP_FRAME_MAX)
		return refuse(r, 400, "chunk extensions too large");
	return 0;
}

static int on_chunk_data(llhttp_t *parser, const char *at, size_t n)
{
	struct http_request *r = parser->data;
	struct http_conn *c = r->c;
	if (!check_frame(r, at))
		return refuse(r, 400, "malformed chunk framing");
	r->frame = at + n;
	r->frame_last = 0;
	if (r->ended) /* answered early: the connection will be closed */
		return 0;
	if (r->stream_in) {
		if (!c->s->cb.on_body(c->s->arg, r, at, n))
			c->paused = true;
		return c->paused ? HPE_PAUSED : 0;
	}
	int status = http_request_body_reserve(r, n);
	if (status)
		return refuse(r, status, status == 413 ? "body above the limit" : "too many bodies in memory");
	memcpy(r->body + r->body_len, at, n);
	r->body_len += n;
	return 0;
}

void http_parse_settings(llhttp_settings_t *s)
{
	llhttp_settings_init(s);
	s->on_header_field = on_field;
	s->on_header_value = on_value;
	s->on_headers_complete = on_headers_complete;
	s->on_message_complete = on_message_complete;
	s->on_body = on_chunk_data;
	s->on_chunk_header = on_chunk_header;
	s->on_chunk_extension_name = on_extension;
	s->on_chunk_extension_value = on_extension;
}

/* ---- the request line ---- */

/* What a byte may be part of. */
enum { IN_TOKEN = 1, IN_AUTHORITY = 2, IN_TARGET = 4 };
/* clang-format off */
static const uint8_t byte_class[256] = {
	/* tokens: letters, digits, !#$%&'*+-.^_`|~ (RFC 9110 5.6.2); authority: letters, digits,
	 * -._~%!$&'()*+,;=:[] (RFC 3986 3.2 without user information); target: visible ASCII but '#' */
	[32] = 0, 7, 4, 1, 7, 7, 7, 7, 6, 6, 7, 7, 6, 7, 7, 4,
	[48] = 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 6, 6, 4, 6, 4, 4,
	[64] = 4, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
	[80] = 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 6, 4, 6, 5, 7,
	[96] = 5, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
	[112] = 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 4, 5, 4, 7, 0,
};
/* clang-format on */

static bool all_are(const char *p, size_t n, uint8_t class)
{
	uint8_t all = class; /* to the end: what is wrong is rare */
	for (size_t i = 0; i < n; i++)
		all &= byte_class[(unsigned char)p[i]];
	return all;
}

/* The longest thing in most heads. Signed: what is above ASCII is less than a space. */
static bool is_target(const char *p, size_t n)
{
#ifdef __SSE2__
	const __m128i space = _mm_set1_epi8(' '), hash = _mm_set1_epi8('#'), del = _mm_set1_epi8(0x7f);
	for (; n >= 16; p += 16, n -= 16) {
		__m128i v = _mm_loadu_si128((const __m128i *)(const void *)p);
		__m128i not = _mm_or_si128(_mm_cmpeq_epi8(v, hash), _mm_cmpeq_epi8(v, del));
		if (_mm_movemask_epi8(_mm_andnot_si128(not, _mm_cmpgt_epi8(v, space))) != 0xffff)
			return false;
	}
#endif
	return all_are(p, n, IN_TARGET);
}

static enum http_method find_method(const char *p, size_t n)
{
	/* clang-format off */
	static const struct {
		const char *text;
		uint8_t len;
		enum http_method m;
	} known[] = {
		{"GET", 3, HTTP_M_GET},       {"HEAD", 4, HTTP_M_HEAD},     {"POST", 4, HTTP_M_POST},
		{"PUT", 3, HTTP_M_PUT},       {"PATCH", 5, HTTP_M_PATCH},   {"DELETE", 6, HTTP_M_DELETE},
		{"OPTIONS", 7, HTTP_M_OPTIONS},
	};
	/* clang-format on */
	for (size_t i = 0; i < ARRAY_LEN(known); i++)
		if (n == known[i].len && memcmp(p, known[i].text, n) == 0)
			return known[i].m;
	return HTTP_M_OTHER;
}

/* Origin form, absolute form (its authority counts as the Host), or `*` for OPTIONS. */
static int parse_target(struct http_request *r, const char *p, size_t n, const char **why_r)
{
	*why_r = "malformed request target";
	if (!is_target(p, n))
		return 400;
	if (n == 1 && *p == '*') {
		r->path = (struct span){p, 1};
		return r->method == HTTP_M_OPTIONS ? 0 : 400;
	}
	if (n && *p != '/') {
		size_t scheme = n > 7 && http_ieq(p, 7, "http://", 7)	 ? 7
				: n > 8 && http_ieq(p, 8, "https://", 8) ? 8
									 : 0;
		if (!scheme)
			return 400;
		size_t end = scheme;
		while (end < n && p[end] != '/' && p[end] != '?')
			end++;
		if (end == scheme || !all_are(p + scheme, end - scheme, IN_AUTHORITY))
			return 400;
		r->known[HTTP_H_HOST] = (struct span){p + scheme, end - scheme};
		p += end;
		n -= end;
	} else if (!n) {
		return 400;
	}
	const char *q = memchr(p, '?', n);
	size_t path = q ? (size_t)(q - p) : n;
	r->path = path ? (struct span){p, path} : SPAN_LIT("/");
	if (q)
		r->query = (struct span){q + 1, n - path - 1};
	return 0;
}

int http_parse_line(struct http_request *r, char *p, size_t n, const char **why_r)
{
	const char *sp = n > 4 && memcmp(p, "GET ", 4) == 0 ? p + 3 : memchr(p, ' ', n);
	*why_r = "malformed request line";
	if (!sp || sp == p)
		return 400;
	r->method_text = (struct span){p, (size_t)(sp - p)};
	r->method = find_method(p, r->method_text.len); /* early: a refusal must know whether it is a HEAD */
	if (n < 10 || (r->method == HTTP_M_OTHER && !all_are(p, r->method_text.len, IN_TOKEN)))
		return 400;
	char *v = p + n - 9; /* " HTTP/1.1" */
	if (v < sp || memcmp(v, " HTTP/", 6) != 0 || v[7] != '.' || v[6] < '0' || v[6] > '9' || v[8] < '0' ||
	    v[8] > '9')
		return 400;
	if (v[6] != '1') {
		*why_r = "this server speaks HTTP/1.1 and HTTP/1.0";
		return 505;
	}
	if (r->method == HTTP_M_OTHER) {
		*why_r = "method not implemented";
		return 501;
	}
	/* RFC 9110 2.5: a higher minor version is served as the highest we know; llhttp knows 0 and 1. */
	if (v[8] > '1')
		v[8] = '1';
	r->minor = (uint8_t)(v[8] - '0');
	if (v == sp)
		return 400;
	return parse_target(r, sp + 1, (size_t)(v - sp - 1), why_r);
}

/* ---- the meaning of the header fields ---- */

/* Several lines of a list header are one list (RFC 9110 5.3). Rare, so it may allocate. */
static void join(struct http_request *r, struct span *to, const struct http_field *f)
{
	struct http_joined **at = &r->joined, *j;
	size_t total = to->len + 2 + f->value_len; /* parts of one bounded head */
	while (*at && (*at)->p != to->p)
		at = &(*at)->next;
	if (*at) {
		j = util_realloc(*at, sizeof(*j) + total);
	} else {
		j = util_alloc(sizeof(*j) + total);
		j->next = NULL;
		memcpy(j->p, to->p, to->len);
	}
	*at = j;
	memcpy(j->p + to->len, ", ", 2);
	memcpy(j->p + to->len + 2, f->value, f->value_len);
	*to = (struct span){j->p, total};
}

/* Names by length: at most two comparisons a field. `kind`: a list may be repeated, a single one may not. */
enum kind { KIND_LIST, KIND_SINGLE, KIND_FIRST };
struct known_name {
	const char *name;
	uint8_t len, header, kind;
};
enum { OWN_EXPECT = HTTP_H_COUNT, OWN_TE, OWN_LENGTH };
static const struct known_name *find_name(const char *p, size_t n)
{
#define ROW(name, header, kind)                                                                                        \
	{                                                                                                              \
		name, sizeof(name) - 1, header, kind                                                                   \
	}
	static const struct known_name rows[] = {
		ROW("host", HTTP_H_HOST, KIND_SINGLE),
		ROW("accept", HTTP_H_ACCEPT, KIND_LIST),
		ROW("origin", HTTP_H_ORIGIN, KIND_SINGLE),
		ROW("expect", OWN_EXPECT, KIND_LIST),
		ROW("if-match", HTTP_H_IF_MATCH, KIND_LIST),
		ROW("traceparent", HTTP_H_TRACEPARENT, KIND_FIRST),
		ROW("content-type", HTTP_H_CONTENT_TYPE, KIND_SINGLE),
		ROW("x-request-id", HTTP_H_REQUEST_ID, KIND_FIRST),
		ROW("authorization", HTTP_H_AUTHORIZATION, KIND_SINGLE),
		ROW("if-none-match", HTTP_H_IF_NONE_MATCH, KIND_LIST),
		ROW("cache-control", HTTP_H_CACHE_CONTROL, KIND_LIST),
		ROW("content-length", OWN_LENGTH, KIND_SINGLE),
		ROW("idempotency-key", HTTP_H_IDEMPOTENCY_KEY, KIND_SINGLE),
		ROW("transfer-encoding", OWN_TE, KIND_SINGLE),
	};
#undef ROW
	/* rows[first[n]] .. of that length; the table above is sorted by length */
	static const uint8_t first[] = {
		[4] = 0, [6] = 1, [8] = 4, [11] = 5, [12] = 6, [13] = 8, [14] = 11, [15] = 12, [17] = 13};
	if (n >= ARRAY_LEN(first) || (first[n] == 0 && n != 4))
		return NULL;
	for (const struct known_name *k = &rows[first[n]]; k < rows + ARRAY_LEN(rows) && k->len == n; k++)
		if ((p[0] | 0x20) == k->name[0] && http_ieq(p, n, k->name, n))
			return k;
	return NULL;
}

static int take_field(struct http_request *r, const struct http_field *f, const char **why_r)
{
	const struct known_name *k = find_name(f->name, f->name_len);
	if (!k)
		return 0;
	struct span v = {f->value, f->value_len}, *to;
	if (k->header == HTTP_H_HOST) {
		*why_r = "more than one Host, or not a valid one";
		if (r->has_host || !all_are(v.p, v.len, IN_AUTHORITY))
			return 400;
		r->has_host = true;
		if (r->known[HTTP_H_HOST].p) /* the authority of an absolute target goes before */
			return 0;
	}
	to = k->header == OWN_TE       ? &r->te
	     : k->header == OWN_LENGTH ? &r->length_text
	     : k->header == OWN_EXPECT ? &r->expect
				       : &r->known[k->header];
	if (!to->p) {
		*to = v;
	} else if (k->kind == KIND_SINGLE) {
		*why_r = "a header field that may stand only once was repeated";
		return 400;
	} else if (k->kind == KIND_LIST) {
		join(r, to, f);
	}
	return 0;
}

static bool ends_with_chunked(struct span te)
{
	return te.len > 8 && http_ieq(te.p + te.len - 7, 7, "chunked", 7) &&
	       memchr(", \t", te.p[te.len - 8], 3) != NULL;
}

/* How the body is framed (RFC 9112 6.1, 6.3), whatever llhttp thought of it. */
static int check_framing(struct http_request *r, const char **why_r)
{
	if (r->te.p) {
		*why_r = "Transfer-Encoding and Content-Length together, or in HTTP/1.0";
		if (r->length_text.p || r->minor == 0)
			return 400;
		if (!http_ieq(r->te.p, r->te.len, "chunked", 7)) {
			/* without chunked at the end the body has no end: 400, not 501 (6.3) */
			*why_r = "the only transfer coding of this server is chunked";
			return ends_with_chunked(r->te) ? 501 : 400;
		}
		if (!r->chunked)
			return 400;
		return 0;
	}
	if (!r->length_text.p)
		return 0;
	*why_r = "Content-Length is not a number";
	if (r->length_text.len == 0 || r->length_text.len > 18)
		return r->length_text.len ? 413 : 400;
	for (size_t i = 0; i < r->length_text.len; i++) {
		if (r->length_text.p[i] < '0' || r->length_text.p[i] > '9')
			return 400;
		r->length = r->length * 10 + (uint64_t)(r->length_text.p[i] - '0');
	}
	return 0;
}

static int check_head(struct http_request *r, const char **why_r)
{
	for (unsigned i = 0; i < r->n_fields; i++) {
		if (!r->fields[i].value)
			r->fields[i].value = "";
		int status = take_field(r, &r->fields[i], why_r);
		if (status)
			return status;
	}
	if (!r->has_host && r->minor > 0) {
		*why_r = "no Host";
		return 400;
	}
	int status = check_framing(r, why_r);
	if (status)
		return status;
	if (r->expect.p) {
		if (!http_ieq(r->expect.p, r->expect.len, "100-continue", 12)) {
			*why_r = "the only expectation known is 100-continue";
			return 417;
		}
		r->expect_continue = r->minor > 0; /* RFC 9110 10.1.1: not for HTTP/1.0 */
	}
	return 0;
}

int http_parse_head(struct http_request *r, char *p, size_t len, size_t first_len, const char **why_r)
{
	int status = http_parse_line(r, p, first_len, why_r);
	if (status)
		return status;
	llhttp_init(&r->parser, HTTP_REQUEST, &r->c->s->settings);
	r->parser.data = r;
	llhttp_errno_t err = llhttp_execute(&r->parser, p, len);
	if (r->refuse) {
		*why_r = r->why;
		return r->refuse;
	}
	if (err != HPE_OK && err != HPE_PAUSED) {
		const char *reason = llhttp_get_error_reason(&r->parser);
		*why_r = reason ? reason : "malformed request";
		return 400;
	}
	if (!r->head_done) {
		*why_r = "malformed header fields";
		return 400;
	}
	return check_head(r, why_r);
}

int http_parse_chunks(struct http_request *r, const char *p, size_t len, size_t *used_r, const char **why_r)
{
	if (r->parser.error == HPE_PAUSED)
		llhttp_resume(&r->parser);
	r->frame = p;
	llhttp_errno_t err = llhttp_execute(&r->parser, p, len);
	const char *end = err == HPE_OK ? p + len : llhttp_get_error_pos(&r->parser);
	*why_r = r->why;
	if (r->refuse)
		return r->refuse;
	*why_r = "malformed chunked body";
	if (err != HPE_OK && err != HPE_PAUSED) {
		const char *reason = llhttp_get_error_reason(&r->parser);
		if (reason)
			*why_r = reason;
		return 400;
	}
	if (end > r->frame && !check_frame(r, end))
		return 400;
	*used_r = (size_t)(end - p);
	return 0;
}
