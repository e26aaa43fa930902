#include "jsonspan.h"

#include <errno.h>
#include <stdlib.h>

static const char *blank(const char *p, const char *end)
{
	while (p < end && (*p == ' ' || *p == '\t' || *p == '\n' || *p == '\r'))
		p++;
	return p;
}

/* p is behind an opening quote: the closing one, or `end`. */
static const char *string_end(const char *p, const char *end)
{
	for (const char *start = p; p < end; p++) {
		p = memchr(p, '"', (size_t)(end - p));
		if (!p)
			return end;
		const char *back = p;
		while (back > start && back[-1] == '\\')
			back--;
		if ((p - back) % 2 == 0)
			return p;
	}
	return end;
}

/* Behind the value that begins at p. Nesting is counted, not checked: the text is well-formed. */
static const char *value_end(const char *p, const char *end)
{
	size_t depth = 0;
	for (; p < end; p++) {
		switch (*p) {
		case '"':
			p = string_end(p + 1, end);
			if (p == end)
				return end;
			if (!depth)
				return p + 1;
			break;
		case '{':
		case '[': depth++; break;
		case '}':
		case ']':
			if (!depth)
				return p;
			if (!--depth)
				return p + 1;
			break;
		case ',':
		case ' ':
		case '\t':
		case '\n':
		case '\r':
			if (!depth)
				return p;
			break;
		}
	}
	return end;
}

enum jsonspan_type jsonspan_type(struct span v)
{
	switch (v.len ? *v.p : 0) {
	case '{': return JSONSPAN_OBJECT;
	case '[': return JSONSPAN_ARRAY;
	case '"': return JSONSPAN_STRING;
	case 't': return JSONSPAN_TRUE;
	case 'f': return JSONSPAN_FALSE;
	case 'n': return JSONSPAN_NULL;
	case 0: return JSONSPAN_NONE;
	}
	return JSONSPAN_NUMBER;
}

/* ---- strings ---- */

static int hex4(const char *p, const char *end)
{
	int v = 0;
	if (end - p < 4)
		return -1;
	for (int i = 0; i < 4; i++) {
		char c = p[i];
		int d = c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
		if (d < 0)
			return -1;
		v = v << 4 | d;
	}
	return v;
}

static void add_utf8(struct buf *b, unsigned cp)
{
	char out[4];
	size_t n = cp < 0x80 ? 1 : cp < 0x800 ? 2 : cp < 0x10000 ? 3 : 4;
	static const unsigned char lead[] = {0, 0, 0xc0, 0xe0, 0xf0};
	for (size_t i = n; i-- > 1; cp >>= 6)
		out[i] = (char)(0x80 | (cp & 0x3f));
	out[0] = (char)(lead[n] | cp);
	buf_add(b, out, n);
}

/* p is behind "\u": appends the code point (of two escapes for a pair); behind what was read. */
static const char *unicode(const char *p, const char *end, struct buf *b)
{
	int u = hex4(p, end);
	if (u < 0)
		return p;
	p += 4;
	if (u >= 0xd800 && u < 0xdc00 && end - p >= 6 && p[0] == '\\' && p[1] == 'u') {
		int low = hex4(p + 2, end);
		if (low >= 0xdc00 && low < 0xe000) {
			add_utf8(b, 0x10000 + (((unsigned)u - 0xd800) << 10) + ((unsigned)low - 0xdc00));
			return p + 6;
		}
	}
	add_utf8(b, (unsigned)u);
	return p;
}

static void unescape(const char *p, const char *end, struct buf *b)
{
	static const char from[] = "bfnrt", to[] = "\b\f\n\r\t";
	while (p < end) {
		const char *back = memchr(p, '\\', (size_t)(end - p));
		if (!back || back + 1 >= end) {
			buf_add(b, p, (size_t)(end - p));
			return;
		}
		buf_add(b, p, (size_t)(back - p));
		const char *named = memchr(from, back[1], sizeof(from) - 1);
		p = back + 2;
		if (back[1] == 'u')
			p = unicode(p, end, b);
		else
			buf_addc(b, named ? to[named - from] : back[1]);
	}
}

bool jsonspan_text(struct span s, struct buf *scratch, struct span *text_r)
{
	if (s.len < 2 || s.p[0] != '"' || s.p[s.len - 1] != '"')
		return false;
	*text_r = (struct span){s.p + 1, s.len - 2};
	if (!memchr(text_r->p, '\\', text_r->len))
		return true;
	scratch->len = 0;
	unescape(s.p + 1, s.p + s.len - 1, scratch);
	*text_r = (struct span){scratch->p, scratch->len};
	return true;
}

static bool key_is(struct span raw, struct span key)
{
	if (!memchr(raw.p, '\\', raw.len))
		return span_eq(raw, key);
	struct buf b = {NULL, 0, 0};
	unescape(raw.p, raw.p + raw.len, &b);
	bool same = span_eq((struct span){b.p, b.len}, key);
	buf_free(&b);
	return same;
}

/* ---- objects and arrays ---- */

bool jsonspan_member(struct span o, struct span key, struct span *value_r)
{
	if (!o.len || *o.p != '{')
		return false;
	const char *p = o.p, *end = o.p + o.len;
	for (p = blank(p + 1, end); p < end && *p == '"'; p = blank(p + 1, end)) {
		const char *k = p + 1, *q = string_end(k, end);
		if (q == end)
			return false;
		p = blank(q + 1, end);
		if (p == end || *p != ':')
			return false;
		const char *v = blank(p + 1, end);
		p = value_end(v, end);
		if (key_is((struct span){k, (size_t)(q - k)}, key)) {
			*value_r = (struct span){v, (size_t)(p - v)};
			return p > v;
		}
		p = blank(p, end);
		if (p == end || *p != ',')
			return false;
	}
	return false;
}

bool jsonspan_element(struct span *at, struct span *value_r)
{
	if (!at->len || (*at->p != '[' && *at->p != ','))
		return false;
	const char *p = at->p, *end = at->p + at->len;
	const char *v = blank(p + 1, end);
	p = value_end(v, end);
	if (p == v)
		return false;
	*value_r = (struct span){v, (size_t)(p - v)};
	p = blank(p, end);
	*at = (struct span){p, (size_t)(end - p)};
	return true;
}

struct span jsonspan_text_of(struct span object, const char *key, struct buf *scratch)
{
	struct span v, text;
	if (jsonspan_member(object, SPAN(key), &v) && jsonspan_text(v, scratch, &text))
		return text;
	return (struct span){NULL, 0};
}

/* ---- numbers ---- */

bool jsonspan_number(struct span s, int64_t *i_r, double *d_r)
{
	char fixed[64], *copy = s.len < sizeof(fixed) ? fixed : util_alloc(s.len + 1), *end;
	if (s.len)
		memcpy(copy, s.p, s.len);
	copy[s.len] = 0;
	bool integer = !strpbrk(copy, ".eE");
	if (integer) {
		errno = 0;
		*i_r = strtoll(copy, &end, 10);
		integer = errno == 0 && *end == 0;
	}
	if (!integer)
		*d_r = strtod(copy, NULL);
	if (copy != fixed)
		free(copy);
	return integer;
}
