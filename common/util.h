/* Small things every file needs: attributes, checked arithmetic, spans. */
#ifndef ORC_UTIL_H
#define ORC_UTIL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define must_check __attribute__((warn_unused_result))
#define printf_like(f, a) __attribute__((format(printf, f, a)))
#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define CACHE_LINE 64

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__,
	       "journal, rings and embeddings are little-endian on disk and in shared memory");

/* A read-only run of bytes that somebody else owns; not NUL-terminated. */
struct span {
	const char *p;
	size_t len;
};
#define SPAN(s) ((struct span){(s), strlen(s)})
#define SPAN_LIT(s) ((struct span){(s), sizeof(s) - 1})

static inline bool span_eq(struct span a, struct span b)
{
	return a.len == b.len && (a.len == 0 || memcmp(a.p, b.p, a.len) == 0);
}

/* Checked arithmetic on sizes from outside: false means overflow and *r is unusable. */
static inline bool must_check size_add(size_t a, size_t b, size_t *r) { return !__builtin_add_overflow(a, b, r); }
static inline bool must_check size_mul(size_t a, size_t b, size_t *r) { return !__builtin_mul_overflow(a, b, r); }
static inline size_t align_up(size_t n, size_t to) { return (n + to - 1) & ~(to - 1); /* `to` is a power of two */ }

/* An assertion that stays on in production (Varnish vas.h): a broken invariant must
 * stop the worker, whose supervisor restarts it, rather than corrupt shared data. */
void util_assert_fail(const char *expr, const char *file, int line) __attribute__((noreturn));
/* The invariant that was found broken, "" before. */
const char *util_assert_text(void);
#define AN(x)                                                                                                          \
	do {                                                                                                           \
		if (__builtin_expect(!(x), 0))                                                                         \
			util_assert_fail(#x, __FILE__, __LINE__);                                                      \
	} while (0)

/* malloc family that never returns NULL: out of memory in a worker is a crash that the
 * supervisor repairs; half-handled OOM paths are where daemons rot. Sizes that come from
 * outside must be bounded by the caller before. */
void *util_alloc(size_t n) __attribute__((malloc, returns_nonnull)) must_check;
void *util_zalloc(size_t n) __attribute__((malloc, returns_nonnull)) must_check;
void *util_realloc(void *p, size_t n) __attribute__((returns_nonnull)) must_check;
char *util_strndup(const char *s, size_t n) __attribute__((malloc, returns_nonnull)) must_check;

/* *error_r (malloc'ed; NULL without memory) says it. Returns false, for `return util_error(…)`. */
bool util_error(char **error_r, const char *fmt, ...) printf_like(2, 3);

/* A growable byte buffer. Zero-initialise to start; buf_free() ends it. */
struct buf {
	char *p;
	size_t len, cap;
};
void buf_reserve(struct buf *b, size_t more); /* room for `more` bytes past len */
void buf_add(struct buf *b, const void *p, size_t n);
void buf_addc(struct buf *b, char c);
void buf_adds(struct buf *b, const char *s);
void buf_addu(struct buf *b, uint64_t n); /* in decimal; a tenth of what buf_printf() costs */
void buf_printf(struct buf *b, const char *fmt, ...) printf_like(2, 3);
void buf_replace(struct buf *b, size_t at, size_t n, const char *s); /* the n bytes at `at` by s */
void buf_free(struct buf *b);

/* 0 to 15; -1: no hexadecimal digit. */
static inline int util_hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}
/* n bytes as 2n lower-case digits, no NUL. */
void util_hex(const void *p, size_t n, char *out);

/* True when [p,p+n) is well-formed UTF-8 (RFC 3629: no surrogates, no overlongs) . */
bool util_utf8_valid(const char *p, size_t n);
/* What every store can hold as text: UTF-8 without U+0000. */
static inline bool util_text_valid(struct span s)
{
	return !s.len || (!memchr(s.p, 0, s.len) && util_utf8_valid(s.p, s.len));
}
/* Replaces every byte that belongs to no well-formed sequence with '?'. */
void util_utf8_scrub(char *p, size_t n);

#endif
