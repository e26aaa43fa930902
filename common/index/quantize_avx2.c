/* AVX2 + FMA + F16C kernels over quantised vectors. */
#include "quantize-private.h"
#if defined(__x86_64__)
#include <immintrin.h>
#include <math.h>

#define AVX2 KERNEL_RACY __attribute__((target("avx2,fma,f16c,popcnt")))
#define INLINE AVX2 __attribute__((always_inline)) static inline

INLINE __m256i load(const void *p) { return _mm256_loadu_si256((const __m256i *)p); }

/* ---- codes: a table of sixteen counts bits, four at a time ---- */

#define MOST_QUADS 16 /* of words: 4,096 components */

/* The planes, cut into what the table takes; words that are not there are 0, as they are in the code. */
struct nibbles {
	__m256i low[MOST_QUADS][QUANTIZE_PLANES], high[MOST_QUADS][QUANTIZE_PLANES];
};

INLINE __m256i load_words(const uint64_t *p, size_t left)
{
	if (left >= 4)
		return load(p);
	__m256i there = _mm256_cmpgt_epi64(_mm256_set1_epi64x((long long)left), _mm256_setr_epi64x(0, 1, 2, 3));
	return _mm256_maskload_epi64((const long long *)(const void *)p, there);
}

INLINE __m256i low_half(__m256i v) { return _mm256_and_si256(v, _mm256_set1_epi8(15)); }

INLINE __m256i high_half(__m256i v) { return low_half(_mm256_srli_epi16(v, 4)); }

AVX2 static void cut(const uint64_t *planes, size_t n, size_t words, struct nibbles *r)
{
	for (size_t w = 0; w < words; w += 4) {
		for (size_t j = 0; j < n; j++) {
			__m256i p = load_words(planes + j * words + w, words - w);
			r->low[w / 4][j] = low_half(p);
			r->high[w / 4][j] = high_half(p);
		}
	}
}

/* Four lanes whose sum is the code's: a byte of them is at most 8 · 15 before the lanes are summed. */
INLINE __m256i weigh(const struct nibbles *p, size_t n, const uint64_t *code, size_t words)
{
	const __m256i ones = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4));
	__m256i sum = _mm256_setzero_si256();
	for (size_t w = 0; w < words; w += 4) {
		__m256i c = load_words(code + w, words - w), low = low_half(c), high = high_half(c);
		__m256i part = _mm256_setzero_si256();
		UNROLL
		for (size_t j = 0; j < n; j++) {
			__m256i table = _mm256_slli_epi16(ones, (int)j); /* no byte of it reaches the next */
			__m256i a = _mm256_shuffle_epi8(table, _mm256_xor_si256(low, p->low[w / 4][j]));
			__m256i b = _mm256_shuffle_epi8(table, _mm256_xor_si256(high, p->high[w / 4][j]));
			part = _mm256_add_epi8(part, _mm256_add_epi8(a, b));
		}
		sum = _mm256_add_epi64(sum, _mm256_sad_epu8(part, _mm256_setzero_si256()));
	}
	return sum;
}

INLINE uint32_t weigh_one(const struct nibbles *p, size_t n, const uint64_t *code, size_t words)
{
	uint64_t lanes[4];
	_mm256_storeu_si256((__m256i *)(void *)lanes, weigh(p, n, code, words));
	return (uint32_t)(lanes[0] + lanes[1] + lanes[2] + lanes[3]);
}

INLINE __m256i weigh_two(const struct nibbles *p, size_t n, const uint64_t *code, size_t words)
{
	__m256i a = weigh(p, n, code, words), b = weigh(p, n, code + words, words);
	return _mm256_add_epi64(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
}

INLINE void codes_of(const struct nibbles *p, size_t planes, const uint64_t *code, size_t n, size_t words,
		     uint32_t *out)
{
	size_t i = 0;
	for (; i + 4 <= n; i += 4, code += 4 * words) {
		__m256i a = weigh_two(p, planes, code, words), b = weigh_two(p, planes, code + 2 * words, words);
		__m256i four = _mm256_add_epi64(_mm256_permute2x128_si256(a, b, 0x20),
						_mm256_permute2x128_si256(a, b, 0x31));
		four = _mm256_permutevar8x32_epi32(four, _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6));
		_mm_storeu_si128((__m128i *)(void *)(out + i), _mm256_castsi256_si128(four));
	}
	for (; i < n; i++, code += words)
		out[i] = weigh_one(p, planes, code, words);
}

AVX2 static void codes(const uint64_t *planes, const uint64_t *code, size_t n, size_t words, uint32_t *out,
		       const struct quantize_stream *s)
{
	(void)s; /* it counts longer than memory takes */
	struct nibbles p;
	cut(planes, QUANTIZE_PLANES, words, &p);
	if (words == 24)
		codes_of(&p, QUANTIZE_PLANES, code, n, 24, out);
	else if (words == 16)
		codes_of(&p, QUANTIZE_PLANES, code, n, 16, out);
	else if (words == 8)
		codes_of(&p, QUANTIZE_PLANES, code, n, 8, out);
	else
		codes_of(&p, QUANTIZE_PLANES, code, n, words, out);
}

AVX2 static void upper(const uint64_t *planes, const uint64_t *code, size_t n, size_t words, uint32_t *out,
		       const struct quantize_stream *s)
{
	(void)s;
	struct nibbles p;
	cut(planes + (QUANTIZE_PLANES - QUANTIZE_UPPER) * words, QUANTIZE_UPPER, words, &p);
	if (words == 8)
		codes_of(&p, QUANTIZE_UPPER, code, n, 8, out);
	else
		codes_of(&p, QUANTIZE_UPPER, code, n, words, out);
}

AVX2 static void codes_at(const uint64_t *planes, const uint64_t *const *at, size_t n, size_t words, uint32_t *out)
{
	struct nibbles p;
	cut(planes, QUANTIZE_PLANES, words, &p);
	for (size_t i = 0; i < n; i++)
		out[i] = weigh_one(&p, QUANTIZE_PLANES, at[i], words);
}

/* Sixteen bits of each entry. */
INLINE __m256 halves(__m256i v)
{
	v = _mm256_and_si256(v, _mm256_set1_epi32(0xffff));
	return _mm256_cvtph_ps(_mm_packus_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1)));
}

INLINE size_t keep_some(unsigned keep, size_t first, const float *est, size_t found, uint32_t *index_r, float *est_r)
{
	for (; keep; keep &= keep - 1) {
		unsigned k = (unsigned)__builtin_ctz(keep);
		index_r[found] = (uint32_t)(first + k);
		est_r[found++] = est[k];
	}
	return found;
}

AVX2 static size_t select_entries(const uint32_t *dist, const uint32_t *factors, size_t n,
				  const struct quantize_line *l, uint32_t *index_r, float *est_r)
{
	const __m256 base = _mm256_set1_ps(l->base), add = _mm256_set1_ps(l->add), mul = _mm256_set1_ps(l->mul);
	const __m256 slack = _mm256_set1_ps(l->slack), floor = _mm256_set1_ps(l->floor);
	size_t found = 0;
	for (size_t i = 0; i < n; i += 8) {
		__m256i in = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)(n - i < 8 ? n - i : 8)),
						_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
		__m256i both = _mm256_maskload_epi32((const int *)(const void *)(factors + i), in);
		__m256 d = _mm256_cvtepi32_ps(_mm256_maskload_epi32((const int *)(const void *)(dist + i), in));
		__m256 f = halves(both), g = halves(_mm256_srli_epi32(both, 16));
		__m256 line = _mm256_mul_ps(f, _mm256_add_ps(add, _mm256_mul_ps(mul, d)));
		__m256 est = _mm256_add_ps(_mm256_add_ps(base, g), line);
		__m256 most = _mm256_add_ps(est, _mm256_mul_ps(f, slack));
		__m256 keep = _mm256_and_ps(_mm256_cmp_ps(most, floor, _CMP_GT_OQ), _mm256_castsi256_ps(in));
		unsigned mask = (unsigned)_mm256_movemask_ps(keep);
		if (mask) {
			float each[8];
			_mm256_storeu_ps(each, est);
			found = keep_some(mask, i, each, found, index_r, est_r);
		}
	}
	return found;
}

/* ---- bytes: widened to 16 bits, since maddubs would saturate ---- */

INLINE __m256i widen(const uint8_t *p)
{
	return _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)(const void *)p));
}

INLINE __m256i widen_signed(const int8_t *p)
{
	return _mm256_cvtepi8_epi16(_mm_loadu_si128((const __m128i *)(const void *)p));
}

INLINE int32_t sum_lanes(__m256i v)
{
	__m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
	s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
	return _mm_cvtsi128_si32(_mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1)));
}

/* Rows are read one after the other, as one stream: four at once measured half as fast from memory. */
AVX2 static void bytes(const int8_t *q, const uint8_t *rows, size_t nrows, size_t n, size_t stride, int32_t *out)
{
	for (size_t r = 0; r < nrows; r++) {
		const uint8_t *row = rows + r * stride;
		__m256i a = _mm256_setzero_si256(), b = a;
		for (size_t i = 0; i < n; i += 64) {
			UNROLL
			for (size_t k = i; k < i + 64; k += 32) {
				a = _mm256_add_epi32(a, _mm256_madd_epi16(widen(row + k), widen_signed(q + k)));
				b = _mm256_add_epi32(b,
						     _mm256_madd_epi16(widen(row + k + 16), widen_signed(q + k + 16)));
			}
		}
		out[r] = sum_lanes(_mm256_add_epi32(a, b));
	}
}

AVX2 static void bytes_pair(const int8_t *high, const int8_t *low, const uint8_t *row, size_t n, int32_t out[2])
{
	__m256i h = _mm256_setzero_si256(), l = h;
	for (size_t i = 0; i < n; i += 16) {
		__m256i v = widen(row + i);
		h = _mm256_add_epi32(h, _mm256_madd_epi16(v, widen_signed(high + i)));
		l = _mm256_add_epi32(l, _mm256_madd_epi16(v, widen_signed(low + i)));
	}
	out[0] = sum_lanes(h);
	out[1] = sum_lanes(l);
}

/* ---- halves, bytes and codes of floats ---- */

AVX2 static float half_dot(const float *q, const uint16_t *row, size_t n)
{
	__m256 s[4] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};
	for (size_t i = 0; i < n; i += 32) {
		UNROLL
		for (size_t k = 0; k < 4; k++) {
			__m256 v = _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)(row + i + 8 * k)));
			s[k] = _mm256_fmadd_ps(_mm256_loadu_ps(q + i + 8 * k), v, s[k]);
		}
	}
	float lanes[8];
	_mm256_storeu_ps(lanes, _mm256_add_ps(_mm256_add_ps(s[0], s[1]), _mm256_add_ps(s[2], s[3])));
	return ((lanes[0] + lanes[1]) + (lanes[2] + lanes[3])) + ((lanes[4] + lanes[5]) + (lanes[6] + lanes[7]));
}

AVX2 static void to_half(const float *x, size_t n, uint16_t *out)
{
	for (size_t i = 0; i < n; i += 8)
		_mm_storeu_si128(
			(__m128i *)(void *)(out + i),
			_mm256_cvtps_ph(_mm256_loadu_ps(x + i), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

AVX2 static void to_bytes(const float *x, size_t n, float inverse, uint8_t *out)
{
	const __m256 scale = _mm256_set1_ps(inverse), top = _mm256_set1_ps(127), bottom = _mm256_set1_ps(-127);
	for (size_t i = 0; i < n; i += 8) {
		__m256 v = _mm256_mul_ps(_mm256_loadu_ps(x + i), scale);
		v = _mm256_and_ps(v, _mm256_cmp_ps(v, v, _CMP_ORD_Q));
		v = _mm256_max_ps(_mm256_min_ps(v, top), bottom);
		__m256i b = _mm256_add_epi32(_mm256_cvtps_epi32(v), _mm256_set1_epi32(128));
		__m128i words = _mm_packs_epi32(_mm256_castsi256_si128(b), _mm256_extracti128_si256(b, 1));
		_mm_storel_epi64((__m128i *)(void *)(out + i), _mm_packus_epi16(words, words));
	}
}

INLINE __m256 within_limits(__m256 v, float low, float high)
{
	v = _mm256_and_ps(v, _mm256_cmp_ps(v, v, _CMP_ORD_Q));
	return _mm256_max_ps(_mm256_min_ps(v, _mm256_set1_ps(high)), _mm256_set1_ps(low));
}

/* Eight integers, within a signed byte each. */
INLINE void store_bytes(int8_t *out, __m256i v)
{
	__m128i words = _mm_packs_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
	_mm_storel_epi64((__m128i *)(void *)out, _mm_packs_epi16(words, words));
}

INLINE int32_t sum_of(__m256i v)
{
	int32_t lanes[8], sum = 0;
	_mm256_storeu_si256((__m256i *)(void *)lanes, v);
	for (size_t i = 0; i < 8; i++)
		sum += lanes[i];
	return sum;
}

AVX2 static void to_pair(const float *x, size_t n, float inverse, int8_t *high, int8_t *low, int32_t sums[2])
{
	const __m256 scale = _mm256_set1_ps(inverse);
	__m256i sum_high = _mm256_setzero_si256(), sum = sum_high;
	for (size_t i = 0; i < n; i += 8) {
		__m256 v = within_limits(_mm256_mul_ps(_mm256_loadu_ps(x + i), scale), -32512, 32512);
		__m256i whole = _mm256_cvtps_epi32(v);
		__m256i h = _mm256_srai_epi32(_mm256_add_epi32(whole, _mm256_set1_epi32(128)), 8);
		store_bytes(high + i, h);
		store_bytes(low + i, _mm256_sub_epi32(whole, _mm256_slli_epi32(h, 8)));
		sum_high = _mm256_add_epi32(sum_high, h);
		sum = _mm256_add_epi32(sum, whole);
	}
	sums[0] = sum_of(sum_high);
	sums[1] = sum_of(sum);
}

AVX2 static void to_planes(const float *x, size_t n, float inverse, uint64_t *planes)
{
	const __m256 scale = _mm256_set1_ps(inverse), middle = _mm256_set1_ps(7.5F);
	for (size_t w = 0; w < n / 64; w++) {
		uint64_t bits[QUANTIZE_PLANES] = {0};
		for (size_t k = 0; k < 8; k++) {
			__m256 v = _mm256_mul_ps(_mm256_loadu_ps(x + w * 64 + k * 8), scale);
			__m256i level = _mm256_cvtps_epi32(within_limits(_mm256_add_ps(v, middle), 0, 15));
			for (size_t j = 0; j < QUANTIZE_PLANES; j++) {
				__m256i top = _mm256_slli_epi32(level, 31 - (int)j);
				bits[j] |= (uint64_t)(unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(top)) << 8 * k;
			}
		}
		for (size_t j = 0; j < QUANTIZE_PLANES; j++)
			planes[j * (n / 64) + w] = bits[j];
	}
}

AVX2 static void to_code(const float *x, size_t n, uint64_t *code)
{
	for (size_t w = 0; w < n / 64; w++) {
		uint64_t bits = 0;
		UNROLL
		for (size_t k = 0; k < 8; k++) {
			__m256 v = _mm256_loadu_ps(x + w * 64 + k * 8);
			__m256 plus = _mm256_cmp_ps(v, _mm256_setzero_ps(), _CMP_NLT_UQ);
			bits |= (uint64_t)(unsigned)_mm256_movemask_ps(plus) << 8 * k;
		}
		code[w] = bits;
	}
}

AVX2 static void flip(float *x, const uint64_t *bits, size_t n)
{
	const __m256i up = _mm256_setr_epi32(31, 30, 29, 28, 27, 26, 25, 24), sign = _mm256_set1_epi32(INT32_MIN);
	for (size_t i = 0; i < n; i += 8) {
		__m256i m = _mm256_sllv_epi32(_mm256_set1_epi32((int)(uint32_t)(bits[i / 64] >> i % 64)), up);
		__m256 v = _mm256_loadu_ps(x + i);
		_mm256_storeu_ps(x + i, _mm256_xor_ps(v, _mm256_castsi256_ps(_mm256_and_si256(m, sign))));
	}
}

/* ---- Hadamard ---- */

/* v + t, and t - v where `minus` is -1: t is v with the partners of the pairs exchanged. */
INLINE __m256 pairs(__m256 v, __m256 t, __m256 minus) { return _mm256_fmadd_ps(v, minus, t); }

/* Distances 1, 2, 4: within one register. */
INLINE __m256 within(__m256 v)
{
	v = pairs(v, _mm256_permute_ps(v, 0xb1), _mm256_setr_ps(1, -1, 1, -1, 1, -1, 1, -1));
	v = pairs(v, _mm256_permute_ps(v, 0x4e), _mm256_setr_ps(1, 1, -1, -1, 1, 1, -1, -1));
	return pairs(v, _mm256_permute2f128_ps(v, v, 1), _mm256_setr_ps(1, 1, 1, 1, -1, -1, -1, -1));
}

/* `radix` (at most 8) registers that lie `apart` floats from each other. */
INLINE void between(float *x, size_t apart, size_t radix, const __m256 *scale)
{
	__m256 v[8];
	UNROLL
	for (size_t k = 0; k < radix; k++) {
		v[k] = _mm256_loadu_ps(x + k * apart);
		if (scale)
			v[k] = within(_mm256_mul_ps(v[k], *scale));
	}
	UNROLL
	for (size_t h = 1; h < radix; h *= 2) {
		UNROLL
		for (size_t k = 0; k < radix; k++) {
			if (!(k & h)) {
				__m256 a = v[k], b = v[k + h];
				v[k] = _mm256_add_ps(a, b);
				v[k + h] = _mm256_sub_ps(a, b);
			}
		}
	}
	UNROLL
	for (size_t k = 0; k < radix; k++)
		_mm256_storeu_ps(x + k * apart, v[k]);
}

/* All pairs at distances of apart … apart · radix / 2. */
INLINE void pass(float *x, size_t n, size_t apart, size_t radix)
{
	for (size_t i = 0; i < n; i += apart * radix) {
		for (size_t j = i; j < i + apart; j += 8)
			between(x + j, apart, radix, NULL);
	}
}

AVX2 static void hadamard(float *x, size_t n)
{
	const __m256 scale = _mm256_set1_ps(1 / sqrtf((float)n));
	for (size_t i = 0; i < n; i += 64)
		between(x + i, 8, 8, &scale);
	size_t apart = 64;
	for (; apart * 8 <= n; apart *= 8)
		pass(x, n, apart, 8);
	if (apart * 4 == n)
		pass(x, n, apart, 4);
	else if (apart * 2 == n)
		pass(x, n, apart, 2);
}

const struct quantize_kernels quantize_avx2 = {"avx2",	codes,	    upper,    codes_at, select_entries,
					       bytes,	bytes_pair, half_dot, to_half,	to_bytes,
					       to_pair, to_planes,  to_code,  hadamard, flip};
#endif
