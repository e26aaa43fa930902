#include "uuid.h"

#include <pthread.h>
#include <sys/random.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "clock.h"

/* 4,096 of them are a millisecond: the 12 bits after the milliseconds are the next ones of the time. */
enum { TICKS = 1 << 12 };

/* State of this process: the last tick given out. */
static struct {
	int64_t tick;
	uint8_t pool[256]; /* getrandom() up to 256 bytes is neither short nor interrupted */
	size_t left;
	bool watched;
} state;

/* A child of fork must not give out its parent's random bytes again. */
static void forget(void) { state.left = 0; }

static void random_bytes(uint8_t *out, size_t n)
{
	if (!state.watched)
		state.watched = pthread_atfork(NULL, NULL, forget) == 0;
	if (state.left < n) {
		AN(getrandom(state.pool, sizeof(state.pool), 0) == (ssize_t)sizeof(state.pool));
		state.left = sizeof(state.pool);
	}
	state.left -= n;
	memcpy(out, state.pool + state.left, n);
	memset(state.pool + state.left, 0, n);
}

struct uuid uuid_make(void)
{
	struct uuid u = {0};
	int64_t us = clock_real_us(), now = us / 1000 * TICKS + us % 1000 * TICKS / 1000;
	random_bytes(u.b + 8, 8);
	/* borrow from the future rather than wait (RFC 9562 6.2) */
	state.tick = now > state.tick ? now : state.tick + 1;
	for (int i = 0; i < 6; i++)
		u.b[i] = (uint8_t)(state.tick / TICKS >> (40 - 8 * i));
	u.b[6] = (uint8_t)(0x70 | (state.tick >> 8 & 0xf));
	u.b[7] = (uint8_t)state.tick;
	u.b[8] = (uint8_t)(0x80 | (u.b[8] & 0x3f));
	return u;
}

void uuid_make_many(struct uuid *out, size_t n)
{
	for (size_t i = 0; i < n; i++)
		out[i] = uuid_make();
}

void uuid_format(const struct uuid *u, char out[UUID_TEXT])
{
	static const char hex[] = "0123456789abcdef";
	char *p = out;
	for (int i = 0; i < 16; i++) {
		if (i == 4 || i == 6 || i == 8 || i == 10)
			*p++ = '-';
		*p++ = hex[u->b[i] >> 4];
		*p++ = hex[u->b[i] & 15];
	}
}

#ifdef __SSE2__
/* Sixteen digits become eight bytes, each in the low half of a word; *all_io keeps the bits of those that are digits. */
static inline __m128i digits16(uint64_t first, uint64_t last, __m128i *all_io)
{
	__m128i v = _mm_set_epi64x((int64_t)last, (int64_t)first);
	__m128i d = _mm_sub_epi8(v, _mm_set1_epi8('0'));
	__m128i l = _mm_sub_epi8(_mm_or_si128(v, _mm_set1_epi8(0x20)), _mm_set1_epi8('a'));
	__m128i is_d = _mm_cmpeq_epi8(_mm_min_epu8(d, _mm_set1_epi8(9)), d);
	__m128i is_l = _mm_cmpeq_epi8(_mm_min_epu8(l, _mm_set1_epi8(5)), l);
	__m128i x = _mm_or_si128(_mm_and_si128(is_d, d), _mm_and_si128(is_l, _mm_add_epi8(l, _mm_set1_epi8(10))));
	*all_io = _mm_and_si128(*all_io, _mm_or_si128(is_d, is_l));
	return _mm_and_si128(_mm_or_si128(_mm_slli_epi16(x, 4), _mm_srli_epi16(x, 8)), _mm_set1_epi16(0xff));
}

static inline uint64_t eight(const char *p, const char *q)
{
	uint32_t a, b;
	memcpy(&a, p, 4);
	memcpy(&b, q, 4);
	return a | (uint64_t)b << 32;
}

static bool parse_digits(const char *s, struct uuid *out)
{
	__m128i all = _mm_set1_epi8(-1);
	__m128i a = digits16(eight(s, s + 4), eight(s + 9, s + 14), &all);
	__m128i b = digits16(eight(s + 19, s + 24), eight(s + 28, s + 32), &all);
	_mm_storeu_si128((__m128i *)(void *)out->b, _mm_packus_epi16(a, b));
	return _mm_movemask_epi8(all) == 0xffff;
}
#else
/* Values of hex digits; 0x80 marks what is none. A table, because a request may carry hundreds of ids
 * and every read by id begins with one. */
#define NONE8 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80
#define NONE16 NONE8, NONE8
/* clang-format off */
static const uint8_t digit[256] = {
	NONE16, NONE16, NONE16,
	0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80,
	0x80, 10, 11, 12, 13, 14, 15, 0x80, NONE8,
	NONE16,
	0x80, 10, 11, 12, 13, 14, 15, 0x80, NONE8,
	NONE16,
	NONE16, NONE16, NONE16, NONE16, NONE16, NONE16, NONE16, NONE16,
};
/* clang-format on */

static bool parse_digits(const char *s, struct uuid *out)
{
	/* where the digits of each byte stand between the hyphens */
	static const uint8_t at[16] = {0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34};
	unsigned bad = 0;
	for (int i = 0; i < 16; i++) {
		unsigned hi = digit[(unsigned char)s[at[i]]], lo = digit[(unsigned char)s[at[i] + 1]];
		bad |= hi | lo;
		out->b[i] = (uint8_t)(hi << 4 | lo);
	}
	return !(bad & 0x80);
}
#endif

bool uuid_parse(const char *s, size_t len, struct uuid *out)
{
	return len == UUID_TEXT && s[8] == '-' && s[13] == '-' && s[18] == '-' && s[23] == '-' && parse_digits(s, out);
}

int64_t uuid_time_ms(const struct uuid *u)
{
	int64_t ms = 0;
	for (int i = 0; i < 6; i++)
		ms = ms << 8 | u->b[i];
	return ms;
}
