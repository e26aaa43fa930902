/* Takes the embeddings out of a request body: see numbers.h for what is promised.
 *
 * The scan knows strings, brackets and nothing else of JSON. That is enough: outside strings JSON is
 * lexed without context, so replacing one complete value by another changes no other token, and what
 * was malformed stays malformed. */
#include <stdlib.h>
#include "json/numbers.h"
#ifdef __SSE2__
#include <emmintrin.h>
#endif

struct scan {
	const char *p, *end;
	const char *copied; /* up to here the body is in `out` */
	size_t depth;
	char kind[4];	    /* kind[d]: '{' or '[' that opened depth d, for d <= 3 */
	bool in_memories;   /* kind[2] is the array "memories" */
	bool memories_next; /* its key was just read */
	size_t max_each, max_total;
	struct floats_found *f;
	struct buf *out;
};

void floats_found_free(struct floats_found *f)
{
	free(f->data);
	free(f->item);
	memset(f, 0, sizeof(*f));
}

/* The next quote, brace or bracket at or after p. */
static const char *next_structural(const char *p, const char *end)
{
#ifdef __SSE2__
	const __m128i quote = _mm_set1_epi8('"'), open = _mm_set1_epi8('{'), close = _mm_set1_epi8('}'),
		      bit = _mm_set1_epi8(0x20); /* makes '[' a '{' and ']' a '}' */
	while (end - p >= 16) {
		__m128i v = _mm_loadu_si128((const __m128i *)(const void *)p), w = _mm_or_si128(v, bit);
		__m128i hit = _mm_or_si128(_mm_cmpeq_epi8(v, quote),
					   _mm_or_si128(_mm_cmpeq_epi8(w, open), _mm_cmpeq_epi8(w, close)));
		unsigned m = (unsigned)_mm_movemask_epi8(hit);
		if (m)
			return p + __builtin_ctz(m);
		p += 16;
	}
#endif
	while (p < end && *p != '"' && (*p | 0x20) != '{' && (*p | 0x20) != '}')
		p++;
	return p;
}

/* Behind the closing quote of the string whose first byte is p; `end` if it has none. */
static const char *string_end(const char *p, const char *end, bool *escaped_r)
{
	for (;;) {
#ifdef __SSE2__
		const __m128i quote = _mm_set1_epi8('"'), back = _mm_set1_epi8('\\');
		while (end - p >= 16) {
			__m128i v = _mm_loadu_si128((const __m128i *)(const void *)p);
			unsigned m = (unsigned)_mm_movemask_epi8(
				_mm_or_si128(_mm_cmpeq_epi8(v, quote), _mm_cmpeq_epi8(v, back)));
			if (m) {
				p += __builtin_ctz(m);
				break;
			}
			p += 16;
		}
#endif
		while (p < end && *p != '"' && *p != '\\')
			p++;
		if (p == end)
			return end;
		if (*p == '"')
			return p + 1;
		*escaped_r = true;
		if (end - p < 2)
			return end;
		p += 2;
	}
}

/* Is the string [p, p+n) (quotes excluded, escapes inside) equal to the ASCII text? Escapes that
 * cannot give ASCII give "no"; malformed ones too: jansson refuses them later. */
static bool key_equals(const char *p, size_t n, const char *text)
{
	const char *end = p + n;
	for (; *text; text++) {
		char ch;
		if (p == end)
			return false;
		if (*p != '\\') {
			ch = *p++;
		} else {
			if (end - p < 6 || p[1] != 'u' || p[2] != '0' || p[3] != '0')
				return false; /* no letter of our keys has a short escape */
			unsigned v = 0;
			for (int i = 4; i < 6; i++) {
				char h = (char)(p[i] | 0x20);
				v = v * 16 + (unsigned)(h >= 'a' && h <= 'f'	     ? h - 'a' + 10
							: p[i] >= '0' && p[i] <= '9' ? p[i] - '0'
										     : 512);
			}
			ch = v < 128 ? (char)v : '\0';
			p += 6;
		}
		if (ch != *text)
			return false;
	}
	return p == end;
}

static const char *skip_space(const char *p, const char *end)
{
	while (p < end && (*p == ' ' || *p == '\n' || *p == '\t' || *p == '\r'))
		p++;
	return p;
}

static void add_item(struct scan *s, size_t n)
{
	struct floats_found *f = s->f;
	if (f->items == f->items_cap) {
		f->items_cap = f->items_cap ? f->items_cap * 2 : 16;
		f->item = util_realloc(f->item, f->items_cap * sizeof(*f->item));
	}
	f->item[f->items++] = (struct floats_span){f->len, n};
	f->len += n;
}

static size_t reserve_floats(struct scan *s)
{
	struct floats_found *f = s->f;
	size_t left = s->max_total - f->len, room = left < s->max_each ? left : s->max_each;
	/* an array of n elements has 2n + 1 bytes at least: short bodies reserve little */
	size_t fits = (size_t)(s->end - s->p) / 2 + 1;
	if (room > fits)
		room = fits;
	if (f->cap - f->len < room) {
		size_t cap = f->len + room > f->cap * 2 ? f->len + room : f->cap * 2;
		f->data = util_realloc(f->data, cap * sizeof(float));
		f->cap = cap;
	}
	return room;
}

/* The value of a tracked key begins at s->p. */
static enum floats_extract embedding(struct scan *s)
{
	struct floats_found *f = s->f;
	const char *behind;
	size_t n;

	if (s->p == s->end)
		return FLOATS_EXTRACT_OK;
	if (*s->p == '-' || (*s->p >= '0' && *s->p <= '9'))
		return FLOATS_EXTRACT_NUMBER;
	if (*s->p != '[')
		return FLOATS_EXTRACT_OK;
	size_t room = reserve_floats(s);
	enum floats_error err = floats_parse(s->p, s->end, f->data + f->len, room, &n, &behind);
	if (err == FLOATS_TOO_MANY)
		return FLOATS_EXTRACT_TOO_MANY;
	if (err != FLOATS_OK) {
		if (f->bad == FLOATS_OK) {
			f->bad = err;
			f->bad_element = n;
		}
		return FLOATS_EXTRACT_OK; /* scanned as any other value */
	}
	buf_add(s->out, s->copied, (size_t)(s->p - s->copied));
	buf_printf(s->out, " %zu ", f->items);
	add_item(s, n);
	s->p = s->copied = behind;
	return FLOATS_EXTRACT_OK;
}

static enum floats_extract string(struct scan *s)
{
	const char *first = s->p + 1, *behind;
	bool escaped = false;

	behind = string_end(first, s->end, &escaped);
	s->p = behind;
	bool element = s->depth == 3 && s->in_memories && s->kind[3] == '{';
	if (!element && !(s->depth == 1 && s->kind[1] == '{'))
		return FLOATS_EXTRACT_OK;
	const char *colon = skip_space(behind, s->end);
	if (colon == s->end || *colon != ':')
		return FLOATS_EXTRACT_OK; /* not a key */
	size_t n = (size_t)(behind - 1 - first);
	if (!escaped && n != 9 && n != 8)
		return FLOATS_EXTRACT_OK;
	if (key_equals(first, n, "embedding")) {
		s->p = skip_space(colon + 1, s->end);
		return embedding(s);
	}
	if (!element && key_equals(first, n, "memories")) {
		s->p = skip_space(colon + 1, s->end);
		s->memories_next = s->p < s->end && *s->p == '[';
	}
	return FLOATS_EXTRACT_OK;
}

static void bracket(struct scan *s, char ch)
{
	s->p++;
	if (ch == '{' || ch == '[') {
		s->depth++;
		if (s->depth < sizeof(s->kind))
			s->kind[s->depth] = ch;
		if (s->depth == 2)
			s->in_memories = s->memories_next;
		s->memories_next = false;
	} else if (s->depth) {
		s->depth--;
	}
}

enum floats_extract floats_extract(const char *body, size_t len, size_t max_each, size_t max_total,
				   struct floats_found *f, struct buf *out)
{
	struct scan s = {.p = body,
			 .end = body + len,
			 .copied = body,
			 .max_each = max_each,
			 .max_total = max_total,
			 .f = f,
			 .out = out};

	f->len = f->items = f->bad_element = 0;
	f->bad = FLOATS_OK;
	for (;;) {
		s.p = next_structural(s.p, s.end);
		if (s.p == s.end)
			break;
		if (*s.p == '"') {
			enum floats_extract res = string(&s);
			if (res != FLOATS_EXTRACT_OK)
				return res;
		} else {
			bracket(&s, *s.p);
		}
	}
	buf_add(out, s.copied, (size_t)(s.end - s.copied));
	return FLOATS_EXTRACT_OK;
}
