/* AVX-512 kernels over quantised vectors: F, BW, VL and what counts bits (VPOPCNTDQ) and multiplies bytes (VNNI). */
#include "quantize-private.h"
#if defined(__x86_64__)
#include <immintrin.h>
#include <math.h>

#define AVX512                                                                                                         \
	KERNEL_RACY __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni,avx512vpopcntdq,avx2,fma,f16c,popcnt")))
#define INLINE AVX512 __attribute__((always_inline)) static inline
/* Bytes that scans prefetch ahead of where they are: past the page that the hardware's own prefetching stops at. A list's
 * neighbours in memory are not what is read after it: behind its end the next one's beginning is fetched, if it is known. */
#define AHEAD 4096

INLINE void prefetch(const void *p, size_t bytes, const void *end, const void *next)
{
	const char *c = (const char *)p + AHEAD;
	if (c >= (const char *)end) {
		if (!next)
			return;
		c = (const char *)next + (c - (const char *)end);
	}
	UNROLL
	for (size_t at = 0; at < bytes; at += CACHE_LINE)
		_mm_prefetch(c + at, _MM_HINT_T1);
}

/* The first AHEAD bytes, which no scan is ahead of. First a line of each page: their addresses are looked up side by side. */
INLINE void start(const void *p, const void *end)
{
	size_t left = (size_t)((const char *)end - (const char *)p), bytes = left < AHEAD ? left : AHEAD;
	for (size_t at = 0; at < bytes; at += 4096)
		_mm_prefetch((const char *)p + at, _MM_HINT_T1);
	for (size_t at = 0; at < bytes; at += CACHE_LINE)
		_mm_prefetch((const char *)p + at, _MM_HINT_T1);
}

/* ---- codes ---- */

/* Eight words of each plane. The planes are named, not counted: of loops within loops gcc leaves some in memory. */
struct planes {
	__m512i a, b, c, d;
};

/* Codes of `parts` times eight words, the last of which `mask` cuts. */
struct shape {
	size_t words, parts;
	__mmask8 mask;
	const uint64_t *end; /* of the codes */
	const void *next;    /* what is read then, or NULL */
	bool begun, upper;   /* upper: only the upper planes count */
};

INLINE __m512i load_part(struct shape s, const uint64_t *p, size_t part)
{
	return part + 1 == s.parts ? _mm512_maskz_loadu_epi64(s.mask, p + 8 * part) : _mm512_loadu_si512(p + 8 * part);
}

INLINE struct planes load_planes(struct shape s, const uint64_t *p, size_t part)
{
	return (struct planes){load_part(s, p, part), load_part(s, p + s.words, part),
			       load_part(s, p + 2 * s.words, part), load_part(s, p + 3 * s.words, part)};
}

INLINE __m512i count(__m512i sum, __m512i code, __m512i plane)
{
	return _mm512_add_epi64(sum, _mm512_popcnt_epi64(_mm512_xor_si512(code, plane)));
}

INLINE struct planes count_all(struct planes sum, __m512i code, struct planes p)
{
	return (struct planes){count(sum.a, code, p.a), count(sum.b, code, p.b), count(sum.c, code, p.c),
			       count(sum.d, code, p.d)};
}

INLINE __m512i twice_and(__m512i v, __m512i more) { return _mm512_add_epi64(_mm512_add_epi64(v, v), more); }

INLINE __m512i total(struct planes sum) { return twice_and(twice_and(twice_and(sum.d, sum.c), sum.b), sum.a); }

INLINE struct planes no_planes(void)
{
	const __m512i zero = _mm512_setzero_si512();
	return (struct planes){zero, zero, zero, zero};
}

/* Eight lanes whose sum is a code's. */
INLINE __m512i weigh(struct shape s, const struct planes *p, const uint64_t *code)
{
	struct planes sum = no_planes();
	UNROLL
	for (size_t part = 0; part < s.parts; part++) {
		__m512i c = load_part(s, code, part);
		if (s.upper) {
			sum.c = count(sum.c, c, p[part].c);
			sum.d = count(sum.d, c, p[part].d);
		} else {
			sum = count_all(sum, c, p[part]);
		}
	}
	return s.upper ? twice_and(sum.d, sum.c) : total(sum);
}

/* In each 128 bits one lane of a code and one of another. */
INLINE __m512i weigh_two(struct shape s, const struct planes *p, const uint64_t *first, const uint64_t *second)
{
	__m512i a = weigh(s, p, first), b = weigh(s, p, second);
	return _mm512_add_epi64(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
}

INLINE __m512i weigh_next(struct shape s, const struct planes *p, const uint64_t *code)
{
	prefetch(code, 2 * CACHE_LINE * s.parts, s.end, s.next);
	return weigh_two(s, p, code, code + s.words);
}

/* 128-bit lanes: a01, a23, b01, b23. */
INLINE __m512i fold(__m512i a, __m512i b)
{
	return _mm512_add_epi64(_mm512_shuffle_i64x2(a, b, 0x88), _mm512_shuffle_i64x2(a, b, 0xdd));
}

INLINE void store_eight(uint32_t *out, __m512i eight)
{
	_mm256_storeu_si256((__m256i *)(void *)out, _mm512_cvtepi64_epi32(eight));
}

AVX512 static void codes_any(struct shape s, const uint64_t *planes, const uint64_t *code, size_t n, uint32_t *out)
{
	for (size_t i = 0; i < n; i++, code += s.words) {
		struct planes sum = no_planes();
		for (size_t part = 0; part < s.parts; part++) {
			prefetch(code + 8 * part, CACHE_LINE, s.end, s.next);
			sum = count_all(sum, load_part(s, code, part), load_planes(s, planes, part));
		}
		__m512i all = s.upper ? twice_and(sum.d, sum.c) : total(sum);
		out[i] = (uint32_t)_mm512_reduce_add_epi64(all);
	}
}

/* Eight codes at a time, the planes in registers as far as these go: `parts` is a constant. */
INLINE void codes_of(struct shape s, size_t parts, const uint64_t *planes, const uint64_t *code, size_t n,
		     uint32_t *out)
{
	struct planes p[8];
	size_t i = 0, w = s.words;
	s.parts = parts;
	UNROLL
	for (size_t part = 0; part < parts; part++)
		p[part] = load_planes(s, planes, part);
	if (!s.begun)
		start(code, s.end);
	if (s.next && (size_t)((const char *)s.end - (const char *)code) < AHEAD) /* these alone are not ahead enough */
		start(s.next, (const char *)s.next + AHEAD - ((const char *)s.end - (const char *)code));
	for (; i + 8 <= n; i += 8, code += 8 * w) {
		__m512i ab = weigh_next(s, p, code), cd = weigh_next(s, p, code + 2 * w);
		__m512i ef = weigh_next(s, p, code + 4 * w), gh = weigh_next(s, p, code + 6 * w);
		store_eight(out + i, fold(fold(ab, cd), fold(ef, gh)));
	}
	codes_any(s, planes, code, n - i, out + i);
}

INLINE struct shape shape_of(const uint64_t *code, size_t n, size_t words, const struct quantize_stream *stream)
{
	return (struct shape){.words = words,
			      .parts = (words + 7) / 8,
			      .mask = (__mmask8)(0xff >> (7 - (words - 1) % 8)),
			      .end = code + n * words,
			      .next = stream ? stream->next : NULL,
			      .begun = stream && stream->begun};
}

AVX512 static void codes(const uint64_t *planes, const uint64_t *code, size_t n, size_t words, uint32_t *out,
			 const struct quantize_stream *stream)
{
	struct shape s = shape_of(code, n, words, stream);
	switch (s.parts) {
	case 1: codes_of(s, 1, planes, code, n, out); break;
	case 2: codes_of(s, 2, planes, code, n, out); break;
	case 3: codes_of(s, 3, planes, code, n, out); break;
	case 4: codes_of(s, 4, planes, code, n, out); break;
	case 6: codes_of(s, 6, planes, code, n, out); break;
	case 5: codes_of(s, 5, planes, code, n, out); break; /* what stands behind the fronts of 3,072 components, */
	case 7: codes_of(s, 7, planes, code, n, out); break; /* and of 4,096 */
	default: codes_any(s, planes, code, n, out);
	}
}

AVX512 static void upper(const uint64_t *planes, const uint64_t *code, size_t n, size_t words, uint32_t *out,
			 const struct quantize_stream *stream)
{
	struct shape s = shape_of(code, n, words, stream);
	s.upper = true;
	if (s.parts == 1)
		codes_of(s, 1, planes, code, n, out);
	else if (s.parts == 2)
		codes_of(s, 2, planes, code, n, out);
	else
		codes_any(s, planes, code, n, out);
}

INLINE void codes_at_of(struct shape s, size_t parts, const uint64_t *planes, const uint64_t *const *at, size_t n,
			uint32_t *out)
{
	struct planes p[2];
	s.parts = parts;
	UNROLL
	for (size_t part = 0; part < parts; part++)
		p[part] = load_planes(s, planes, part);
	for (size_t i = 0; i < n; i += 8) {
		const uint64_t *c[8]; /* beyond the end: the last one again */
		uint32_t eight[8];
		UNROLL
		for (size_t k = 0; k < 8; k++)
			c[k] = at[i + k < n ? i + k : n - 1];
		__m512i ab = weigh_two(s, p, c[0], c[1]), cd = weigh_two(s, p, c[2], c[3]);
		__m512i ef = weigh_two(s, p, c[4], c[5]), gh = weigh_two(s, p, c[6], c[7]);
		store_eight(eight, fold(fold(ab, cd), fold(ef, gh)));
		memcpy(out + i, eight, (n - i < 8 ? n - i : 8) * sizeof(*out));
	}
}

AVX512 static void codes_at(const uint64_t *planes, const uint64_t *const *at, size_t n, size_t words, uint32_t *out)
{
	struct shape s = shape_of(NULL, 0, words, NULL);
	if (s.parts == 1)
		codes_at_of(s, 1, planes, at, n, out);
	else if (s.parts == 2)
		codes_at_of(s, 2, planes, at, n, out);
	for (size_t i = 0; i < n && s.parts > 2; i++) {
		struct planes sum = no_planes();
		for (size_t part = 0; part < s.parts; part++)
			sum = count_all(sum, load_part(s, at[i], part), load_planes(s, planes, part));
		out[i] = (uint32_t)_mm512_reduce_add_epi64(total(sum));
	}
}

/* Survivors are pressed together in registers: a store that does it itself is microcode on some processors. */
AVX512 static size_t select_entries(const uint32_t *dist, const uint32_t *factors, size_t n,
				    const struct quantize_line *l, uint32_t *index_r, float *est_r)
{
	const __m512 base = _mm512_set1_ps(l->base), add = _mm512_set1_ps(l->add), mul = _mm512_set1_ps(l->mul);
	const __m512 slack = _mm512_set1_ps(l->slack), floor = _mm512_set1_ps(l->floor);
	__m512i index = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
	size_t found = 0;
	for (size_t i = 0; i < n; i += 16) {
		__mmask16 in = (__mmask16)(n - i < 16 ? (1U << (n - i)) - 1 : 0xffff);
		__m512i both = _mm512_maskz_loadu_epi32(in, factors + i);
		__m512 d = _mm512_cvtepi32_ps(_mm512_maskz_loadu_epi32(in, dist + i));
		__m512 f = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(both));
		__m512 g = _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(both, 16)));
		__m512 line = _mm512_mul_ps(f, _mm512_add_ps(add, _mm512_mul_ps(mul, d)));
		__m512 est = _mm512_add_ps(_mm512_add_ps(base, g), line);
		__m512 most = _mm512_add_ps(est, _mm512_mul_ps(f, slack));
		__mmask16 keep = _mm512_mask_cmp_ps_mask(in, most, floor, _CMP_GT_OQ);
		_mm512_storeu_si512(index_r + found, _mm512_maskz_compress_epi32(keep, index));
		_mm512_storeu_ps(est_r + found, _mm512_maskz_compress_ps(keep, est));
		found += (size_t)__builtin_popcount(keep);
		index = _mm512_add_epi32(index, _mm512_set1_epi32(16));
	}
	return found;
}

/* ---- bytes ---- */

/* The sums of eight times sixteen lanes. */
INLINE __m256i sum_eight(const __m512i s[8])
{
	__m512i two[4], four[2];
	UNROLL
	for (size_t k = 0; k < 4; k++)
		two[k] = _mm512_add_epi32(_mm512_unpacklo_epi32(s[2 * k], s[2 * k + 1]),
					  _mm512_unpackhi_epi32(s[2 * k], s[2 * k + 1]));
	UNROLL
	for (size_t k = 0; k < 2; k++)
		four[k] = _mm512_add_epi32(_mm512_unpacklo_epi64(two[2 * k], two[2 * k + 1]),
					   _mm512_unpackhi_epi64(two[2 * k], two[2 * k + 1]));
	__m512i all = _mm512_add_epi32(_mm512_shuffle_i64x2(four[0], four[1], 0x88),
				       _mm512_shuffle_i64x2(four[0], four[1], 0xdd));
	return _mm256_add_epi32(_mm512_castsi512_si256(_mm512_shuffle_i64x2(all, all, 0x08)),
				_mm512_castsi512_si256(_mm512_shuffle_i64x2(all, all, 0x0d)));
}

/* Sixteen lanes whose sum is the product. */
INLINE __m512i multiply(const int8_t *q, const uint8_t *row, size_t n)
{
	__m512i a = _mm512_setzero_si512(), b = a;
	size_t i = 0;
	for (; i + 128 <= n; i += 128) {
		a = _mm512_dpbusd_epi32(a, _mm512_loadu_si512(row + i), _mm512_loadu_si512(q + i));
		b = _mm512_dpbusd_epi32(b, _mm512_loadu_si512(row + i + 64), _mm512_loadu_si512(q + i + 64));
	}
	if (i < n)
		a = _mm512_dpbusd_epi32(a, _mm512_loadu_si512(row + i), _mm512_loadu_si512(q + i));
	return _mm512_add_epi32(a, b);
}

/* Rows are read one after the other, as one stream: eight at once, for one load of the query, measured no faster from any
 * level of memory, and fetching ahead is left to the hardware, which is as good at it here. */
AVX512 static void bytes(const int8_t *q, const uint8_t *rows, size_t nrows, size_t n, size_t stride, int32_t *out)
{
	size_t r = 0;
	start(rows, rows + nrows * stride);
	for (; r + 8 <= nrows; r += 8) {
		__m512i s[8];
		UNROLL
		for (size_t k = 0; k < 8; k++)
			s[k] = multiply(q, rows + (r + k) * stride, n);
		_mm256_storeu_si256((__m256i *)(void *)(out + r), sum_eight(s));
	}
	for (; r < nrows; r++)
		out[r] = _mm512_reduce_add_epi32(multiply(q, rows + r * stride, n));
}

AVX512 static void bytes_pair(const int8_t *high, const int8_t *low, const uint8_t *row, size_t n, int32_t out[2])
{
	__m512i h = _mm512_setzero_si512(), l = h;
	for (size_t i = 0; i < n; i += 64) {
		__m512i v = _mm512_loadu_si512(row + i);
		h = _mm512_dpbusd_epi32(h, v, _mm512_loadu_si512(high + i));
		l = _mm512_dpbusd_epi32(l, v, _mm512_loadu_si512(low + i));
	}
	out[0] = _mm512_reduce_add_epi32(h);
	out[1] = _mm512_reduce_add_epi32(l);
}

/* ---- halves, bytes and codes of floats ---- */

INLINE __m512 load_half(const uint16_t *p)
{
	return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)p));
}

AVX512 static float half_dot(const float *q, const uint16_t *row, size_t n)
{
	__m512 s[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};
	for (size_t i = 0; i < n; i += 64) {
		UNROLL
		for (size_t k = 0; k < 4; k++)
			s[k] = _mm512_fmadd_ps(_mm512_loadu_ps(q + i + 16 * k), load_half(row + i + 16 * k), s[k]);
	}
	return _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(s[0], s[1]), _mm512_add_ps(s[2], s[3])));
}

AVX512 static void to_half(const float *x, size_t n, uint16_t *out)
{
	for (size_t i = 0; i < n; i += 16)
		_mm256_storeu_si256(
			(__m256i *)(void *)(out + i),
			_mm512_cvtps_ph(_mm512_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

AVX512 static void to_bytes(const float *x, size_t n, float inverse, uint8_t *out)
{
	const __m512 scale = _mm512_set1_ps(inverse), top = _mm512_set1_ps(127), bottom = _mm512_set1_ps(-127);
	for (size_t i = 0; i < n; i += 16) {
		__m512 v = _mm512_mul_ps(_mm512_loadu_ps(x + i), scale);
		__mmask16 number = _mm512_cmp_ps_mask(v, v, _CMP_ORD_Q);
		v = _mm512_maskz_max_ps(number, _mm512_min_ps(v, top), bottom);
		__m512i b = _mm512_add_epi32(_mm512_cvtps_epi32(v), _mm512_set1_epi32(128));
		_mm_storeu_si128((__m128i *)(void *)(out + i), _mm512_cvtepi32_epi8(b));
	}
}

INLINE __m512 within_limits(__m512 v, float low, float high)
{
	__mmask16 number = _mm512_cmp_ps_mask(v, v, _CMP_ORD_Q);
	v = _mm512_maskz_mov_ps(number, v);
	return _mm512_max_ps(_mm512_min_ps(v, _mm512_set1_ps(high)), _mm512_set1_ps(low));
}

AVX512 static void to_pair(const float *x, size_t n, float inverse, int8_t *high, int8_t *low, int32_t sums[2])
{
	const __m512 scale = _mm512_set1_ps(inverse);
	__m512i sum_high = _mm512_setzero_si512(), sum = sum_high;
	for (size_t i = 0; i < n; i += 16) {
		__m512 v = within_limits(_mm512_mul_ps(_mm512_loadu_ps(x + i), scale), -32512, 32512);
		__m512i whole = _mm512_cvtps_epi32(v);
		__m512i h = _mm512_srai_epi32(_mm512_add_epi32(whole, _mm512_set1_epi32(128)), 8);
		_mm_storeu_si128((__m128i *)(void *)(high + i), _mm512_cvtepi32_epi8(h));
		_mm_storeu_si128((__m128i *)(void *)(low + i),
				 _mm512_cvtepi32_epi8(_mm512_sub_epi32(whole, _mm512_slli_epi32(h, 8))));
		sum_high = _mm512_add_epi32(sum_high, h);
		sum = _mm512_add_epi32(sum, whole);
	}
	sums[0] = _mm512_reduce_add_epi32(sum_high);
	sums[1] = _mm512_reduce_add_epi32(sum);
}

AVX512 static void to_planes(const float *x, size_t n, float inverse, uint64_t *planes)
{
	const __m512 scale = _mm512_set1_ps(inverse), middle = _mm512_set1_ps(7.5F);
	for (size_t w = 0; w < n / 64; w++) {
		uint64_t bits[QUANTIZE_PLANES] = {0};
		UNROLL
		for (size_t k = 0; k < 4; k++) {
			__m512 v = _mm512_mul_ps(_mm512_loadu_ps(x + w * 64 + k * 16), scale);
			__m512i level = _mm512_cvtps_epi32(within_limits(_mm512_add_ps(v, middle), 0, 15));
			UNROLL
			for (size_t j = 0; j < QUANTIZE_PLANES; j++)
				bits[j] |= (uint64_t)_mm512_test_epi32_mask(level, _mm512_set1_epi32(1 << j)) << 16 * k;
		}
		for (size_t j = 0; j < QUANTIZE_PLANES; j++)
			planes[j * (n / 64) + w] = bits[j];
	}
}

AVX512 static void to_code(const float *x, size_t n, uint64_t *code)
{
	for (size_t w = 0; w < n / 64; w++) {
		uint64_t bits = 0;
		UNROLL
		for (size_t k = 0; k < 4; k++) {
			__m512 v = _mm512_loadu_ps(x + w * 64 + k * 16);
			bits |= (uint64_t)_mm512_cmp_ps_mask(v, _mm512_setzero_ps(), _CMP_NLT_UQ) << 16 * k;
		}
		code[w] = bits;
	}
}

AVX512 static void flip(float *x, const uint64_t *bits, size_t n)
{
	const __m512i sign = _mm512_set1_epi32(INT32_MIN);
	for (size_t i = 0; i < n; i += 16) {
		__m512i v = _mm512_loadu_si512(x + i);
		__mmask16 m = (__mmask16)(bits[i / 64] >> i % 64);
		_mm512_storeu_si512(x + i, _mm512_mask_xor_epi32(v, m, v, sign));
	}
}

/* ---- Hadamard ---- */

/* v + t, and t - v where `minus` is -1: t is v with the partners of the pairs exchanged. */
INLINE __m512 pairs(__m512 v, __m512 t, __m512 minus) { return _mm512_fmadd_ps(v, minus, t); }

INLINE __m512 signs(__mmask16 m) { return _mm512_mask_blend_ps(m, _mm512_set1_ps(1), _mm512_set1_ps(-1)); }

/* Distances 1, 2, 4, 8: within one register. */
INLINE __m512 within(__m512 v)
{
	v = pairs(v, _mm512_permute_ps(v, 0xb1), signs(0xaaaa));
	v = pairs(v, _mm512_permute_ps(v, 0x4e), signs(0xcccc));
	v = pairs(v, _mm512_shuffle_f32x4(v, v, 0xb1), signs(0xf0f0));
	return pairs(v, _mm512_shuffle_f32x4(v, v, 0x4e), signs(0xff00));
}

/* `radix` (at most 8) registers that lie `apart` floats from each other. */
INLINE void between(float *x, size_t apart, size_t radix, const __m512 *scale)
{
	__m512 v[8];
	UNROLL
	for (size_t k = 0; k < radix; k++) {
		v[k] = _mm512_loadu_ps(x + k * apart);
		if (scale)
			v[k] = within(_mm512_mul_ps(v[k], *scale));
	}
	UNROLL
	for (size_t h = 1; h < radix; h *= 2) {
		UNROLL
		for (size_t k = 0; k < radix; k++) {
			if (!(k & h)) {
				__m512 a = v[k], b = v[k + h];
				v[k] = _mm512_add_ps(a, b);
				v[k + h] = _mm512_sub_ps(a, b);
			}
		}
	}
	UNROLL
	for (size_t k = 0; k < radix; k++)
		_mm512_storeu_ps(x + k * apart, v[k]);
}

/* All pairs at distances of apart … apart · radix / 2. */
INLINE void pass(float *x, size_t n, size_t apart, size_t radix)
{
	for (size_t i = 0; i < n; i += apart * radix) {
		for (size_t j = i; j < i + apart; j += 16)
			between(x + j, apart, radix, NULL);
	}
}

AVX512 static void hadamard(float *x, size_t n)
{
	const __m512 scale = _mm512_set1_ps(1 / sqrtf((float)n));
	if (n == 64) {
		between(x, 16, 4, &scale);
		return;
	}
	for (size_t i = 0; i < n; i += 128)
		between(x + i, 16, 8, &scale);
	size_t apart = 128;
	for (; apart * 8 <= n; apart *= 8)
		pass(x, n, apart, 8);
	if (apart * 4 == n)
		pass(x, n, apart, 4);
	else if (apart * 2 == n)
		pass(x, n, apart, 2);
}

const struct quantize_kernels quantize_avx512 = {"avx512", codes,      upper,	 codes_at, select_entries,
						 bytes,	   bytes_pair, half_dot, to_half,  to_bytes,
						 to_pair,  to_planes,  to_code,	 hadamard, flip};
#endif
