/* JSON text, written straight into a buffer. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "api.h"
#include "clock.h"

/* Bytes that a JSON string may not hold as they are: controls, quote, backslash. */
static bool plain(unsigned char c) { return c >= 0x20 && c != '"' && c != '\\'; }

/* Are eight bytes plain? The classic tests for a byte below n, and for one that is zero (S. E. Anderson, "Bit Twiddling Hacks");
 * those above 0x7f are. */
static bool plain8(const char *p)
{
	const uint64_t ones = 0x0101010101010101ull, tops = 0x80 * ones;
	uint64_t v, quote, slash;
	memcpy(&v, p, sizeof(v));
	quote = v ^ '"' * ones;
	slash = v ^ '\\' * ones;
	return !((((v - 0x20 * ones) & ~v) | ((quote - ones) & ~quote) | ((slash - ones) & ~slash)) & tops);
}

static void escape(struct buf *b, unsigned char c)
{
	static const char named[] = "\"\"\\\\\bb\ff\nn\rr\tt";
	for (const char *n = named; *n; n += 2)
		if ((unsigned char)n[0] == c) {
			buf_addc(b, '\\');
			buf_addc(b, n[1]);
			return;
		}
	buf_printf(b, "\\u%04x", c);
}

void json_out_string(struct buf *b, struct span s)
{
	const char *p = s.p, *end = s.p + s.len, *run = p;
	buf_reserve(b, s.len + 2);
	buf_addc(b, '"');
	for (; p < end; p++) {
		while (end - p >= 8 && plain8(p))
			p += 8;
		if (p == end)
			break;
		if (plain((unsigned char)*p))
			continue;
		buf_add(b, run, (size_t)(p - run));
		escape(b, (unsigned char)*p);
		run = p + 1;
	}
	buf_add(b, run, (size_t)(p - run));
	buf_addc(b, '"');
}

void json_out_time(struct buf *b, int64_t us)
{
	char text[CLOCK_TEXT];
	clock_format(us, text);
	buf_addc(b, '"');
	buf_add(b, text, sizeof(text));
	buf_addc(b, '"');
}

/* A number of at most six digits, which is what a person wrote: 0.5. Exactly k / 10^n, both of which a double holds exactly, so
 * the quotient is the double nearest to that text, and %.6g would print no other. False: it is none of these. */
static bool short_double(struct buf *b, double d)
{
	char text[16], *p = text + sizeof(text);
	double scale = 1;
	if (!(d >= 0.0001 && d < 1e6))
		return false;
	for (int n = 0; n <= 6 && d * scale < 1e6; n++, scale *= 10) {
		uint64_t k = (uint64_t)(d * scale + 0.5);
		if ((double)k / scale != d || k > 999999)
			continue;
		for (int i = 0; i < n; i++, k /= 10)
			*--p = (char)('0' + k % 10);
		if (n)
			*--p = '.';
		do
			*--p = (char)('0' + k % 10);
		while (k /= 10);
		buf_add(b, p, (size_t)(text + sizeof(text) - p));
		return true;
	}
	return false;
}

void json_out_double(struct buf *b, double d)
{
	char text[40];
	if (!isfinite(d))
		d = 0;
	if (short_double(b, d))
		return;
	for (int digits = 6; digits <= 17; digits++) {
		snprintf(text, sizeof(text), "%.*g", digits, d);
		if (strtod(text, NULL) == d)
			break;
	}
	buf_adds(b, text);
}
