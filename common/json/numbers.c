/* Decimal to float, exactly, at the speed of reading the digits.
 *
 * Eight digits are converted at a time (SWAR). With w = the first <= 18 significant digits and e the
 * exponent, d = (double)w * 10^e is wrong by less than 4 units in its last place: (double)w and the
 * tabulated power are each rounded once, the product once, and digits beyond the 18th are worth
 * < 10^-17 of the value. A double has 29 bits more than a float, and rounding d to float gives what
 * rounding the exact value gives unless a boundary between two floats (the low 29 bits being exactly
 * half) lies between them; that can only be when those bits are within 4 of half. Then, and for
 * results outside the normal floats, strtof() decides. The daemon never calls setlocale(). */
#include <stdlib.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif
#include "json/numbers.h"

#define MAX_DIGITS 18
#define POW_MIN (-64)
#define POW_MAX 38
#define LOW_BITS 0x1fffffffu
#define HALF 0x10000000u
#define MARGIN 8u

/* clang-format off */
static const double pow10_table[] = {
	1e-64, 1e-63, 1e-62, 1e-61, 1e-60, 1e-59, 1e-58, 1e-57, 1e-56, 1e-55, 1e-54, 1e-53,
	1e-52, 1e-51, 1e-50, 1e-49, 1e-48, 1e-47, 1e-46, 1e-45, 1e-44, 1e-43, 1e-42, 1e-41,
	1e-40, 1e-39, 1e-38, 1e-37, 1e-36, 1e-35, 1e-34, 1e-33, 1e-32, 1e-31, 1e-30, 1e-29,
	1e-28, 1e-27, 1e-26, 1e-25, 1e-24, 1e-23, 1e-22, 1e-21, 1e-20, 1e-19, 1e-18, 1e-17,
	1e-16, 1e-15, 1e-14, 1e-13, 1e-12, 1e-11, 1e-10, 1e-9, 1e-8, 1e-7, 1e-6, 1e-5,
	1e-4, 1e-3, 1e-2, 1e-1, 1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7,
	1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19,
	1e20, 1e21, 1e22, 1e23, 1e24, 1e25, 1e26, 1e27, 1e28, 1e29, 1e30, 1e31,
	1e32, 1e33, 1e34, 1e35, 1e36, 1e37, 1e38,
};
/* clang-format on */
_Static_assert(ARRAY_LEN(pow10_table) == POW_MAX - POW_MIN + 1, "one entry per exponent");
static const int64_t pow10_int[] = {1,
				    10,
				    100,
				    1000,
				    10000,
				    100000,
				    1000000,
				    10000000,
				    100000000,
				    1000000000,
				    10000000000,
				    100000000000,
				    1000000000000,
				    10000000000000,
				    100000000000000,
				    1000000000000000,
				    10000000000000000};
/* n more digits fit if the value so far is below limit[n] */
static const int64_t limit[] = {1000000000000000000, 100000000000000000, 10000000000000000,
				1000000000000000,    100000000000000,	 10000000000000,
				1000000000000,	     100000000000,	 10000000000};

const char *floats_error_text(enum floats_error e)
{
	switch (e) {
	case FLOATS_OK: return "ok";
	case FLOATS_SYNTAX: return "not well-formed";
	case FLOATS_NOT_NUMBER: return "an element is not a number";
	case FLOATS_RANGE: return "a number is too large for a 32-bit float";
	case FLOATS_TOO_MANY: return "too many elements";
	case FLOATS_NOT_FINITE: return "an element is not finite";
	}
	return "?";
}

/* ---- digits ---- */

static inline uint64_t load8(const char *p)
{
	uint64_t v;
	memcpy(&v, p, 8);
	return v;
}

/* Digits as values 0..9, the first in the lowest byte. */
static inline int64_t eight_digits(uint64_t v)
{
	v = v * 10 + (v >> 8);
	return (int64_t)(((v & 0x000000ff000000ffu) * 0x000f424000000064u +
			  ((v >> 16) & 0x000000ff000000ffu) * 0x0000271000000001u) >>
			 32);
}

struct number {
	int64_t w;   /* significant digits */
	int32_t exp; /* times 10^exp */
	bool negative;
};

/* More digits than w holds, or the last bytes before `end`: one at a time. */
static __attribute__((noinline)) const char *digits_slowly(const char *p, const char *end, struct number *x,
							   bool fraction)
{
	for (; p < end && (unsigned char)(*p - '0') < 10; p++) {
		if (x->w < limit[1]) {
			x->w = x->w * 10 + (*p - '0');
			x->exp -= fraction;
		} else {
			x->exp += !fraction; /* dropped; |exp| is bounded by the length of the body */
		}
	}
	return p;
}

/* How many of eight bytes (xor '0') are digits before the first other one. Carries of v + 0x76.. come
 * from non-digits only, so the lowest set bit is right. */
static inline unsigned count_digits(uint64_t v)
{
	uint64_t other = ((v + 0x7676767676767676u) | v) & 0x8080808080808080u;
	return other ? (unsigned)__builtin_ctzll(other) / 8 : 8;
}

static inline const char *digits(const char *p, const char *end, struct number *x, bool fraction)
{
	while (end - p >= 8) {
		uint64_t v = load8(p) ^ 0x3030303030303030u;
		unsigned n = count_digits(v);
		if (n == 0)
			return p;
		if (x->w >= limit[n])
			return digits_slowly(p, end, x, fraction);
		x->w = x->w * pow10_int[n] + eight_digits(v << (64 - 8 * n));
		if (fraction)
			x->exp -= (int32_t)n;
		p += n;
		if (n < 8)
			return p;
	}
	return digits_slowly(p, end, x, fraction);
}

/* ---- numbers ---- */

static __attribute__((noinline)) bool convert_slowly(const char *p, const char *end, float *out)
{
	char small[64], *text = small;
	size_t n = (size_t)(end - p);

	if (n >= sizeof(small))
		text = util_alloc(n + 1);
	memcpy(text, p, n);
	text[n] = '\0';
	*out = strtof(text, NULL);
	if (text != small)
		free(text);
	return __builtin_isfinite(*out);
}

static __attribute__((noinline)) const char *exponent(const char *p, const char *end, struct number *x)
{
	bool negative = false;
	int32_t e = 0;

	p++;
	if (p < end && (*p == '+' || *p == '-'))
		negative = *p++ == '-';
	if (p == end || (unsigned char)(*p - '0') >= 10)
		return NULL;
	for (; p < end && (unsigned char)(*p - '0') < 10; p++)
		if (e < 100000000) /* far outside the table; what it is exactly, strtof() sees */
			e = e * 10 + (*p - '0');
	int32_t sum;
	if (__builtin_add_overflow(x->exp, negative ? -e : e, &sum))
		sum = INT32_MAX;
	x->exp = sum;
	return p;
}

/* Whether rounding d to float may differ from rounding the exact value: see above. */
static inline bool near_half(double d)
{
	uint64_t u;
	memcpy(&u, &d, 8);
	return ((uint32_t)u & LOW_BITS) - (HALF - MARGIN) <= 2 * MARGIN;
}

/* w * 10^exp as a float; false: too close to a boundary, or not a normal float. exp is in the table. */
static inline bool convert(int64_t w, int exp, float *f_r)
{
	double d = (double)w * pow10_table[exp - POW_MIN];
	*f_r = (float)d;
	return !near_half(d) & (d > 0x1p-125) & (d < 0x1p127);
}

/* ---- the shape nearly every element of an embedding has ---- */

#ifdef __SSE2__
#define SHAPE_ROOM 34 /* bytes shaped() may look at from p on */
#define SHAPE_MAX 16  /* and before p: what is not the number's is masked */

static inline __m128i load16(const char *p) { return _mm_loadu_si128((const __m128i *)(const void *)p); }

static inline unsigned commas(const char *p)
{
	return (unsigned)_mm_movemask_epi8(_mm_cmpeq_epi8(load16(p), _mm_set1_epi8(',')));
}

/* The n <= 16 digits before end; false: other bytes are among them. */
static inline bool sixteen_digits(const char *end, unsigned n, int64_t *w_r)
{
	static const char mask[32] = {0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,  0,
				      -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1};
	__m128i v = _mm_and_si128(_mm_xor_si128(load16(end - 16), _mm_set1_epi8('0')), load16(mask + n));
	int other = _mm_movemask_epi8(_mm_cmpeq_epi8(_mm_min_epu8(v, _mm_set1_epi8(9)), v)) ^ 0xffff;
	v = _mm_srli_epi16(_mm_mullo_epi16(v, _mm_set1_epi16(10 * 256 + 1)), 8);    /* pairs */
	v = _mm_madd_epi16(v, _mm_set1_epi32(1 << 16 | 100));			    /* fours */
	v = _mm_madd_epi16(_mm_packs_epi32(v, v), _mm_set1_epi32(1 << 16 | 10000)); /* eights */
	uint64_t eights = (uint64_t)_mm_cvtsi128_si64(v);
	*w_r = (int64_t)((uint32_t)eights * 100000000ull + (eights >> 32));
	return !other;
}

/* [-]d.ddd with 1 to 30 digits behind the point, no more than 18 significant, no exponent, a comma behind it. No
 * branch depends on the sign or the number of digits (as long as it stays on one side of sixteen), which a
 * general reader mispredicts; and the comma is looked for first, so that the next number's start does not wait
 * for this one's digits: the processor works on several at once. Returns where the comma is; NULL: another shape. */
static inline const char *shaped(const char *p, float *out)
{
	unsigned comma = commas(p + 1);
	if (!comma)
		comma = commas(p + 17) << 16;
	if (!comma)
		return NULL;
	/* '-' differs from a digit in bit 4. A comparison would become `sete` into a register that still waits for the
	 * number before (4 x slower with gcc 12). */
	unsigned sign = (unsigned char)*p, negative = ~sign >> 4 & 1, other_sign = (sign ^ '-') & (0 - negative);
	unsigned length = 1 + (unsigned)__builtin_ctz(comma), n = length - 2 - negative;
	const char *end = p + length;
	int64_t w, first = (unsigned char)(p[negative] - '0'), high;
	if (other_sign || n - 1 > 29 || p[negative + 1] != '.' || first > 9 ||
	    !sixteen_digits(end, n < 16 ? n : 16, &w))
		return NULL;
	if (n <= 16) {
		w += first * pow10_int[n];
	} else {
		if (first || !sixteen_digits(end - 16, n - 16, &high) || high > 99)
			return NULL;
		w += high * pow10_int[16];
	}
	double d = (double)w * pow10_table[-POW_MIN - (int)n]; /* 0, or from 1e-30 to 10: a normal float */
	if (near_half(d))
		return NULL;
	float f = (float)d;
	uint32_t bits;
	memcpy(&bits, &f, sizeof(bits));
	bits |= (uint32_t)negative << 31;
	memcpy(out, &bits, sizeof(bits));
	return end;
}

/* As many as there are, from p on and p < end; start: what may be read before p. Returns where the next number is,
 * < end, or the space before it. Whether a space follows each comma is taken from the one before p: were it looked
 * up to find the next number, that would be the longest part of the chain from one number to the next. */
static inline const char *shaped_run(const char *start, const char *p, const char *end, float *out, size_t max,
				     size_t *n_r)
{
	size_t n = *n_r;
	const bool spaced = p - start >= SHAPE_MAX && p[-1] == ' ';
	for (const char *comma;
	     n < max && end - p >= SHAPE_ROOM && p - start >= SHAPE_MAX && (comma = shaped(p, &out[n])); n++) {
		p = comma + 1;
		if (spaced) {
			if (*p != ' ') {
				n++;
				break;
			}
			p++;
		}
	}
	*n_r = n;
	return p;
}
#else
static inline const char *shaped_run(const char *start, const char *p, const char *end, float *out, size_t max,
				     size_t *n_r)
{
	(void)start, (void)end, (void)out, (void)max, (void)n_r;
	return p;
}
#endif

/* One JSON number at p < end; NULL: there is none. */
static inline const char *number(const char *p, const char *end, float *out, enum floats_error *err)
{
	struct number x = {0};
	const char *start = p;

	*err = FLOATS_NOT_NUMBER;
	if (*p == '-') {
		x.negative = true;
		if (++p == end)
			return NULL;
	}
	if (*p == '0') {
		p++;
	} else {
		const char *first = p;
		p = digits(p, end, &x, false);
		if (p == first)
			return NULL;
	}
	if (p < end && *p == '.') {
		const char *first = ++p;
		p = digits(p, end, &x, true);
		if (p == first)
			return NULL;
	}
	if (p < end && (*p | 0x20) == 'e') {
		p = exponent(p, end, &x);
		if (!p)
			return NULL;
	}
	float f = 0;
	if (x.w == 0 || (x.exp >= POW_MIN && x.exp <= POW_MAX && convert(x.w, x.exp, &f))) {
		*out = x.negative ? -f : f;
		return p;
	}
	if (convert_slowly(start, p, out))
		return p;
	*err = FLOATS_RANGE;
	return NULL;
}

static inline const char *space(const char *p, const char *end)
{
	while (p < end && (*p == ' ' || *p == '\n' || *p == '\t' || *p == '\r'))
		p++;
	return p;
}

enum floats_error floats_parse(const char *p, const char *end, float *out, size_t max, size_t *n_r, const char **end_r)
{
	size_t n = 0;
	enum floats_error err = FLOATS_SYNTAX;
	const char *start = p;

	*n_r = 0;
	*end_r = p;
	if (p == end || *p != '[')
		return FLOATS_SYNTAX;
	p = space(p + 1, end);
	if (p < end && *p == ']') {
		*end_r = p + 1;
		return FLOATS_OK;
	}
	while (p < end) {
		p = space(shaped_run(start, p, end, out, max, &n), end);
		if (p == end)
			break;
		if (n == max) {
			err = FLOATS_TOO_MANY;
			break;
		}
		const char *next = number(p, end, &out[n], &err);
		if (!next)
			break;
		n++;
		err = FLOATS_SYNTAX;
		p = next < end && *next == ',' ? next : space(next, end);
		if (p == end)
			break;
		if (*p == ',') {
			p = space(p + 1, end);
			continue;
		}
		if (*p == ']') {
			p++;
			err = FLOATS_OK;
		}
		break;
	}
	*n_r = n;
	*end_r = p;
	return err;
}

/* ---- base64 ---- */

#define BAD 0xff
/* clang-format off */
static const uint8_t base64_value[256] = {
	BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD,
	BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD,
	BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, 62, BAD, BAD, BAD, 63,
	52, 53, 54, 55, 56, 57, 58, 59, 60, 61, BAD, BAD, BAD, BAD, BAD, BAD,
	BAD, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14,
	15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, BAD, BAD, BAD, BAD, BAD,
	BAD, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40,
	41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51, BAD, BAD, BAD, BAD, BAD,
	BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD,
	BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD,
	BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD,
	BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD,
	BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD,
	BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD,
	BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD,
	BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD, BAD,
};
/* clang-format on */

enum floats_error floats_base64(const char *s, size_t len, float *out, size_t max, size_t *n_r)
{
	const uint8_t *p = (const uint8_t *)s;
	size_t pad, bytes, at = 0;
	uint8_t *to = (uint8_t *)out;

	*n_r = 0;
	if (len == 0 || len % 4)
		return FLOATS_SYNTAX;
	pad = (size_t)(p[len - 1] == '=') + (size_t)(p[len - 1] == '=' && p[len - 2] == '=');
	bytes = len / 4 * 3 - pad;
	if (bytes % sizeof(float))
		return FLOATS_SYNTAX;
	if (bytes / sizeof(float) > max)
		return FLOATS_TOO_MANY;
	uint32_t bad = 0;
	for (; at + 3 <= bytes; at += 3, p += 4) {
		uint32_t a = base64_value[p[0]], b = base64_value[p[1]], c = base64_value[p[2]], d = base64_value[p[3]];
		bad |= a | b | c | d;
		uint32_t v = a << 18 | b << 12 | c << 6 | d;
		to[at] = (uint8_t)(v >> 16);
		to[at + 1] = (uint8_t)(v >> 8);
		to[at + 2] = (uint8_t)v;
	}
	if (pad) {
		uint32_t a = base64_value[p[0]], b = base64_value[p[1]], c = pad == 1 ? base64_value[p[2]] : 0;
		bad |= a | b | c;
		uint32_t v = a << 18 | b << 12 | c << 6;
		if ((v & (pad == 1 ? 0xffu : 0xffffu)) != 0) /* bits that say nothing must be zero */
			bad = BAD;
		to[at++] = (uint8_t)(v >> 16);
		if (pad == 1)
			to[at++] = (uint8_t)(v >> 8);
	}
	if (bad & 0xc0)
		return FLOATS_SYNTAX;
	for (size_t i = 0; i < bytes / sizeof(float); i++) {
		if (!__builtin_isfinite(out[i])) {
			*n_r = i;
			return FLOATS_NOT_FINITE;
		}
	}
	*n_r = bytes / sizeof(float);
	return FLOATS_OK;
}
