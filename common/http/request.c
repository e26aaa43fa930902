/* The request as handlers see it, and the memory behind it. Request objects are pooled: idle
 * connections have none, and the one in use on the keep-alive path is always the same warm one. */
#include <stdlib.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif
#include "http/http-private.h"

/* ---- memory ---- */

struct http_request *http_request_take(struct http_conn *c)
{
	struct http_server *s = c->s;
	struct http_request *r = s->req_free;

	if (r) {
		s->req_free = r->next_free;
		s->n_req_free--;
		if (r->cap_fields < s->lim.headers) { /* the limit was raised */
			free(r);
			r = NULL;
		}
	}
	if (!r) {
		r = util_alloc(sizeof(*r) + s->lim.headers * sizeof(r->fields[0]));
		r->cap_fields = s->lim.headers;
	}
	r->c = c;
	r->next_free = NULL;
	/* the parser initialises itself; the id is written before it is read */
	memset((char *)r + offsetof(struct http_request, method), 0,
	       offsetof(struct http_request, id) - offsetof(struct http_request, method));
	return r;
}

void http_request_body_charge(struct http_request *r, size_t n)
{
	r->charged += n;
	r->c->s->buffered += n;
}

static void uncharge(struct http_request *r)
{
	r->c->s->buffered -= r->charged;
	r->charged = 0;
}

void http_request_release(struct http_request *r)
{
	struct http_server *s = r->c->s;

	uncharge(r);
	if (r->body_own)
		free(r->body);
	if (r->scratch)
		free(r->scratch);
	while (r->joined) {
		struct http_joined *j = r->joined;
		r->joined = j->next;
		free(j);
	}
	if (s->n_req_free >= HTTP_POOL_MAX) {
		free(r);
		return;
	}
	r->next_free = s->req_free;
	s->req_free = r;
	s->n_req_free++;
}

void http_request_pool_free(struct http_server *s)
{
	while (s->req_free) {
		struct http_request *r = s->req_free;
		s->req_free = r->next_free;
		free(r);
	}
	s->n_req_free = 0;
}

/* For a known length the first call asks for all of it, and nothing is ever moved. */
int http_request_body_reserve(struct http_request *r, size_t more)
{
	const struct http_limits *l = &r->c->s->lim;
	size_t need;

	if (!size_add(r->body_len, more, &need) || need > l->body_bytes)
		return 413;
	/* Bytes are charged as they come, so claims without bytes cannot use the budget up; but a body
	 * that cannot fit any more is refused before it is read. */
	if (need - r->charged >
	    l->buffered_bytes - (r->c->s->buffered < l->buffered_bytes ? r->c->s->buffered : l->buffered_bytes))
		return 503;
	if (need > r->body_cap) {
		size_t cap = r->length ? need : need < 8192 ? 16384 : need * 2;
		r->body = util_realloc(r->body_own ? r->body : NULL, cap);
		r->body_cap = cap;
		r->body_own = true;
	}
	if (r->chunked)
		http_request_body_charge(r, more);
	return 0;
}

/* ---- accessors ---- */

enum http_method http_method(const struct http_request *r) { return r->method; }

struct span http_method_text(const struct http_request *r) { return r->method_text; }

struct span http_path(const struct http_request *r) { return r->path; }

struct span http_query(const struct http_request *r) { return r->query; }

struct span http_header(const struct http_request *r, enum http_header h) { return r->known[h]; }

struct span http_header_named(const struct http_request *r, const char *lower_name)
{
	size_t n = strlen(lower_name);
	for (unsigned i = 0; i < r->n_fields; i++)
		if (http_ieq(r->fields[i].name, r->fields[i].name_len, lower_name, n))
			return (struct span){r->fields[i].value, r->fields[i].value_len};
	return (struct span){NULL, 0};
}

struct span http_body(const struct http_request *r) { return (struct span){r->body, r->body_len}; }

char *http_body_take(struct http_request *r, size_t *len_r)
{
	char *p = r->body;
	*len_r = r->body_len;
	if (!r->body_own) { /* it lies in the input buffer */
		p = util_alloc(r->body_len + 1);
		if (r->body_len)
			memcpy(p, r->body, r->body_len);
	}
	uncharge(r);
	r->body = NULL;
	r->body_own = false;
	r->body_len = r->body_cap = 0;
	return p;
}

bool http_gone(const struct http_request *r) { return r->gone; }

bool http_peer_uid(const struct http_request *r, unsigned *uid_r)
{
	if (!r->c->has_uid)
		return false;
	*uid_r = r->c->uid;
	return true;
}

bool http_peer_pid(const struct http_request *r, int *pid_r)
{
	if (!r->c->has_uid)
		return false;
	*pid_r = r->c->pid;
	return true;
}

bool http_peer_tls(const struct http_request *r) { return r->c->tls; }

bool http_peer_loopback(const struct http_request *r) { return r->c->unix_peer || r->c->loopback; }

struct http_peer http_peer(const struct http_request *r) { return r->c->peer; }

uint64_t http_bytes_in(const struct http_request *r)
{
	return r->head_len + (r->stream_in || r->chunked ? r->bytes_in : r->length);
}

uint64_t http_bytes_out(const struct http_request *r) { return r->bytes_out; }

void **http_user(struct http_request *r) { return &r->user; }
void http_flow(struct http_request *r, uint64_t flow) { r->c->flow = flow; }

/* ---- request ids ---- */

static bool sane_id(struct span v)
{
	if (v.len == 0 || v.len > HTTP_ID_MAX)
		return false;
	for (size_t i = 0; i < v.len; i++) {
		unsigned char ch = (unsigned char)v.p[i];
		bool ok = (ch >= '0' && ch <= '9') || ((ch | 0x20) >= 'a' && (ch | 0x20) <= 'z') ||
			  (ch && strchr("-._:+=/", ch));
		if (!ok)
			return false;
	}
	return true;
}

#ifdef __SSE2__
/* Sixteen hex digits of v, most significant first. */
static void hex16(uint64_t v, char out[16])
{
	const __m128i low = _mm_set1_epi8(15);
	__m128i b = _mm_cvtsi64_si128((int64_t)__builtin_bswap64(v));
	__m128i x = _mm_unpacklo_epi8(_mm_and_si128(_mm_srli_epi16(b, 4), low), _mm_and_si128(b, low));
	__m128i letters = _mm_and_si128(_mm_cmpgt_epi8(x, _mm_set1_epi8(9)), _mm_set1_epi8('a' - '9' - 1));
	_mm_storeu_si128((__m128i *)(void *)out, _mm_add_epi8(_mm_add_epi8(x, _mm_set1_epi8('0')), letters));
}
#else
/* Eight hex digits of v, most significant first, without a loop. */
static void hex8(uint32_t v, char out[8])
{
	uint64_t x = v;
	x = ((x & 0xffff) << 32) | (x >> 16);
	x = ((x & 0x000000ff000000ffu) << 16) | ((x & 0x0000ff000000ff00u) >> 8);
	x = ((x & 0x000f000f000f000fu) << 8) | ((x & 0x00f000f000f000f0u) >> 4);
	uint64_t letters = ((x + 0x0606060606060606u) >> 4) & 0x0101010101010101u;
	x += 0x3030303030303030u + letters * ('a' - '9' - 1);
	memcpy(out, &x, 8);
}

static void hex16(uint64_t v, char out[16])
{
	hex8((uint32_t)(v >> 32), out);
	hex8((uint32_t)v, out + 8);
}
#endif

/* A bijection of a counter (splitmix64's finish): 16 hex digits that never repeat in a process. */
void http_request_make_id(struct http_server *s, char out[16])
{
	uint64_t x = s->id_seed + ++s->id_count * 0x9e3779b97f4a7c15u;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
	x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
	x ^= x >> 31;
	hex16(x, out);
}

struct span http_request_id(struct http_request *r)
{
	if (!r->id_len) {
		struct span v = r->known[HTTP_H_REQUEST_ID];
		if (v.p && sane_id(v)) {
			memcpy(r->id, v.p, v.len);
			r->id_len = (uint8_t)v.len;
		} else {
			http_request_make_id(r->c->s, r->id);
			r->id_len = 16;
		}
	}
	return (struct span){r->id, r->id_len};
}

/* ---- percent-encoding ---- */

/* %00 counts as malformed: nothing of ours has a NUL in its name, and C strings end at one. */
ptrdiff_t http_percent_decode(struct span in, bool plus, char *out)
{
	size_t n = 0;
	for (size_t i = 0; i < in.len; i++) {
		char ch = in.p[i];
		if (ch == '%') {
			int hi = i + 2 < in.len ? util_hex_digit(in.p[i + 1]) : -1;
			int lo = hi >= 0 ? util_hex_digit(in.p[i + 2]) : -1;
			if (lo < 0 || (hi | lo) == 0)
				return -1;
			ch = (char)(hi << 4 | lo);
			i += 2;
		} else if (ch == '+' && plus) {
			ch = ' ';
		}
		out[n++] = ch;
	}
	return (ptrdiff_t)n;
}

/* Does the encoded `key` mean `name`? 1 yes, 0 no, -1 malformed. */
static int key_is(struct span key, const char *name, size_t name_len)
{
	char small[128];
	if (!memchr(key.p, '%', key.len) && !memchr(key.p, '+', key.len))
		return key.len == name_len && memcmp(key.p, name, name_len) == 0;
	if (key.len > sizeof(small))
		return 0; /* no parameter of ours is that long, however it is written */
	ptrdiff_t n = http_percent_decode(key, true, small);
	if (n < 0)
		return -1;
	return (size_t)n == name_len && memcmp(small, name, name_len) == 0;
}

int http_query_get(const struct http_request *r, const char *name, char **out_r, size_t *len_r)
{
	struct span q = r->query;
	size_t name_len = strlen(name);

	while (q.len) {
		const char *amp = memchr(q.p, '&', q.len);
		struct span pair = {q.p, amp ? (size_t)(amp - q.p) : q.len};
		const char *eq = memchr(pair.p, '=', pair.len);
		struct span key = {pair.p, eq ? (size_t)(eq - pair.p) : pair.len};
		int is = key_is(key, name, name_len);
		if (is < 0)
			return -1;
		if (is) {
			struct span v = {eq ? eq + 1 : pair.p + pair.len, eq ? pair.len - key.len - 1 : 0};
			char *out = util_alloc(v.len + 1);
			ptrdiff_t n = http_percent_decode(v, true, out);
			if (n < 0) {
				free(out);
				return -1;
			}
			out[n] = '\0';
			*out_r = out;
			*len_r = (size_t)n;
			return 1;
		}
		q.len -= pair.len + (amp != NULL);
		q.p += pair.len + (amp != NULL);
	}
	return 0;
}
