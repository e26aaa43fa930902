#include "util.h"

#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static char assert_text[256];

const char *util_assert_text(void) { return assert_text; }

void util_assert_fail(const char *expr, const char *file, int line)
{
	int n = snprintf(assert_text, sizeof(assert_text), "broken invariant: %s (%s:%d)", expr, file, line);
	if (n > 0) {
		size_t len = (size_t)n < sizeof(assert_text) ? (size_t)n : sizeof(assert_text) - 1;
		struct pollfd room = {.fd = STDERR_FILENO, .events = POLLOUT};
		if (poll(&room, 1, 0) == 1) { /* a pipe that nobody reads must not keep us alive */
			(void)!write(STDERR_FILENO, assert_text, len);
			(void)!write(STDERR_FILENO, "\n", 1);
		}
	}
	abort();
}

void *util_alloc(size_t n)
{
	void *p = malloc(n ? n : 1);
	AN(p);
	return p;
}

void *util_zalloc(size_t n)
{
	void *p = calloc(1, n ? n : 1);
	AN(p);
	return p;
}

void *util_realloc(void *p, size_t n)
{
	p = realloc(p, n ? n : 1);
	AN(p);
	return p;
}

char *util_strndup(const char *s, size_t n)
{
	char *p = util_alloc(n + 1);
	if (n)
		memcpy(p, s, n);
	p[n] = 0;
	return p;
}

void buf_reserve(struct buf *b, size_t more)
{
	size_t need;
	AN(size_add(b->len, more, &need));
	if (need <= b->cap)
		return;
	size_t cap = b->cap ? b->cap : 128;
	while (cap < need)
		AN(size_mul(cap, 2, &cap));
	b->p = util_realloc(b->p, cap);
	b->cap = cap;
}

void buf_add(struct buf *b, const void *p, size_t n)
{
	if (!n)
		return;
	buf_reserve(b, n);
	memcpy(b->p + b->len, p, n);
	b->len += n;
}

void buf_addc(struct buf *b, char c)
{
	buf_reserve(b, 1);
	b->p[b->len++] = c;
}

void util_hex(const void *p, size_t n, char *out)
{
	static const char digits[] = "0123456789abcdef";
	const unsigned char *b = p;
	for (size_t i = 0; i < n; i++) {
		out[2 * i] = digits[b[i] >> 4];
		out[2 * i + 1] = digits[b[i] & 15];
	}
}

void buf_adds(struct buf *b, const char *s) { buf_add(b, s, strlen(s)); }

void buf_replace(struct buf *b, size_t at, size_t n, const char *s)
{
	size_t len = strlen(s);
	AN(at <= b->len && n <= b->len - at);
	buf_reserve(b, len);
	memmove(b->p + at + len, b->p + at + n, b->len - at - n);
	memcpy(b->p + at, s, len);
	b->len += len - n;
}

void buf_addu(struct buf *b, uint64_t n)
{
	char text[20], *p = text + sizeof(text);
	do
		*--p = (char)('0' + n % 10);
	while (n /= 10);
	buf_add(b, p, (size_t)(text + sizeof(text) - p));
}

void buf_printf(struct buf *b, const char *fmt, ...)
{
	va_list ap;
	buf_reserve(b, 64); /* most texts fit, then one pass does */
	va_start(ap, fmt);
	int n = vsnprintf(b->p + b->len, b->cap - b->len, fmt, ap);
	va_end(ap);
	AN(n >= 0);
	if ((size_t)n >= b->cap - b->len) {
		buf_reserve(b, (size_t)n + 1);
		va_start(ap, fmt);
		AN(vsnprintf(b->p + b->len, b->cap - b->len, fmt, ap) == n);
		va_end(ap);
	}
	b->len += (size_t)n;
}

void buf_free(struct buf *b)
{
	free(b->p);
	*b = (struct buf){NULL, 0, 0};
}

/* ---- UTF-8 ---- */

static bool continuation(unsigned char c) { return (c & 0xc0) == 0x80; }

/* Length of the well-formed sequence at p, 0 when there is none (RFC 3629 section 4). */
static size_t sequence(const unsigned char *p, size_t left)
{
	unsigned char c = p[0];
	if (c < 0x80)
		return 1;
	if (c < 0xc2)
		return 0;
	if (c < 0xe0)
		return left >= 2 && continuation(p[1]) ? 2 : 0;
	if (c < 0xf0) {
		if (left < 3 || !continuation(p[1]) || !continuation(p[2]))
			return 0;
		if ((c == 0xe0 && p[1] < 0xa0) || (c == 0xed && p[1] > 0x9f))
			return 0;
		return 3;
	}
	if (c > 0xf4 || left < 4 || !continuation(p[1]) || !continuation(p[2]) || !continuation(p[3]))
		return 0;
	if ((c == 0xf0 && p[1] < 0x90) || (c == 0xf4 && p[1] > 0x8f))
		return 0;
	return 4;
}

bool util_utf8_valid(const char *s, size_t n)
{
	const unsigned char *p = (const unsigned char *)s, *end = p + n;
	while (p < end) {
		uint64_t eight;
		if (end - p >= 8) { /* most text is ASCII */
			memcpy(&eight, p, 8);
			if (!(eight & 0x8080808080808080ull)) {
				p += 8;
				continue;
			}
		}
		size_t len = sequence(p, (size_t)(end - p));
		if (!len)
			return false;
		p += len;
	}
	return true;
}

void util_utf8_scrub(char *s, size_t n)
{
	if (util_utf8_valid(s, n)) /* as nearly all is, and that is quicker to see */
		return;
	for (size_t i = 0; i < n;) {
		size_t len = sequence((const unsigned char *)s + i, n - i);
		if (!len)
			s[i] = '?';
		i += len ? len : 1;
	}
}

bool util_error(char **error_r, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	if (vasprintf(error_r, fmt, ap) == -1)
		*error_r = NULL;
	va_end(ap);
	return false;
}
