/* AVX-512F kernels. Tails use masks, so no length is special; masked-off lanes are never read. */
#include "kernels-private.h"
#if defined(__x86_64__)
#include <immintrin.h>

#define AVX512 KERNEL_RACY __attribute__((target("avx512f,fma,avx2")))
#define AHEAD 2048 /* bytes: about the distance of one memory latency at full bandwidth */

AVX512 static inline __mmask16 tail_mask(size_t left)
{
	return (__mmask16)((1U << left) - 1); /* left < 16 */
}

AVX512 static float dot(const float *a, const float *b, size_t n)
{
	__m512 s0 = _mm512_setzero_ps(), s1 = s0, s2 = s0, s3 = s0;
	size_t i = 0;
	for (; i + 64 <= n; i += 64) {
		s0 = _mm512_fmadd_ps(_mm512_loadu_ps(a + i), _mm512_loadu_ps(b + i), s0);
		s1 = _mm512_fmadd_ps(_mm512_loadu_ps(a + i + 16), _mm512_loadu_ps(b + i + 16), s1);
		s2 = _mm512_fmadd_ps(_mm512_loadu_ps(a + i + 32), _mm512_loadu_ps(b + i + 32), s2);
		s3 = _mm512_fmadd_ps(_mm512_loadu_ps(a + i + 48), _mm512_loadu_ps(b + i + 48), s3);
	}
	for (; i + 16 <= n; i += 16)
		s0 = _mm512_fmadd_ps(_mm512_loadu_ps(a + i), _mm512_loadu_ps(b + i), s0);
	if (i < n) {
		__mmask16 m = tail_mask(n - i);
		s1 = _mm512_fmadd_ps(_mm512_maskz_loadu_ps(m, a + i), _mm512_maskz_loadu_ps(m, b + i), s1);
	}
	return _mm512_reduce_add_ps(_mm512_add_ps(_mm512_add_ps(s0, s1), _mm512_add_ps(s2, s3)));
}

AVX512 static inline __m512 diff_sq(__m512 a, __m512 b, __m512 scale, __m512 sum)
{
	__m512 d = _mm512_fnmadd_ps(scale, b, a);
	return _mm512_fmadd_ps(d, d, sum);
}

AVX512 static float l2sq_scaled(const float *a, const float *b, float scale, size_t n)
{
	__m512 s0 = _mm512_setzero_ps(), s1 = s0, c = _mm512_set1_ps(scale);
	size_t i = 0;
	for (; i + 32 <= n; i += 32) {
		_mm_prefetch((const char *)(b + i) + AHEAD, _MM_HINT_T0);
		_mm_prefetch((const char *)(b + i) + AHEAD + 64, _MM_HINT_T0);
		s0 = diff_sq(_mm512_loadu_ps(a + i), _mm512_loadu_ps(b + i), c, s0);
		s1 = diff_sq(_mm512_loadu_ps(a + i + 16), _mm512_loadu_ps(b + i + 16), c, s1);
	}
	for (; i + 16 <= n; i += 16)
		s0 = diff_sq(_mm512_loadu_ps(a + i), _mm512_loadu_ps(b + i), c, s0);
	if (i < n) {
		__mmask16 m = tail_mask(n - i);
		s1 = diff_sq(_mm512_maskz_loadu_ps(m, a + i), _mm512_maskz_loadu_ps(m, b + i), c, s1);
	}
	return _mm512_reduce_add_ps(_mm512_add_ps(s0, s1));
}

AVX512 static float l2sq(const float *a, const float *b, size_t n)
{
	return l2sq_scaled(a, b, 1.0F, n);
}

/* Four rows share each load of the query: from L2 and L3 that is what limits. */
AVX512 static void dot_4(const float *q, const float *r, size_t n, float *out)
{
	const float *r1 = r + n, *r2 = r + 2 * n, *r3 = r + 3 * n;
	__m512 s0 = _mm512_setzero_ps(), s1 = s0, s2 = s0, s3 = s0;
	size_t i = 0;
	for (; i + 16 <= n; i += 16) {
		__m512 x = _mm512_loadu_ps(q + i);
		_mm_prefetch((const char *)(r + i) + AHEAD, _MM_HINT_T0);
		_mm_prefetch((const char *)(r1 + i) + AHEAD, _MM_HINT_T0);
		_mm_prefetch((const char *)(r2 + i) + AHEAD, _MM_HINT_T0);
		_mm_prefetch((const char *)(r3 + i) + AHEAD, _MM_HINT_T0);
		s0 = _mm512_fmadd_ps(x, _mm512_loadu_ps(r + i), s0);
		s1 = _mm512_fmadd_ps(x, _mm512_loadu_ps(r1 + i), s1);
		s2 = _mm512_fmadd_ps(x, _mm512_loadu_ps(r2 + i), s2);
		s3 = _mm512_fmadd_ps(x, _mm512_loadu_ps(r3 + i), s3);
	}
	if (i < n) {
		__mmask16 m = tail_mask(n - i);
		__m512 x = _mm512_maskz_loadu_ps(m, q + i);
		s0 = _mm512_fmadd_ps(x, _mm512_maskz_loadu_ps(m, r + i), s0);
		s1 = _mm512_fmadd_ps(x, _mm512_maskz_loadu_ps(m, r1 + i), s1);
		s2 = _mm512_fmadd_ps(x, _mm512_maskz_loadu_ps(m, r2 + i), s2);
		s3 = _mm512_fmadd_ps(x, _mm512_maskz_loadu_ps(m, r3 + i), s3);
	}
	out[0] = _mm512_reduce_add_ps(s0);
	out[1] = _mm512_reduce_add_ps(s1);
	out[2] = _mm512_reduce_add_ps(s2);
	out[3] = _mm512_reduce_add_ps(s3);
}

AVX512 static void dot_rows(const float *q, const float *rows, size_t nrows, size_t n, float *out)
{
	size_t r = 0;
	for (; r + 4 <= nrows; r += 4)
		dot_4(q, rows + r * n, n, out + r);
	for (; r < nrows; r++)
		out[r] = dot(q, rows + r * n, n);
}

AVX512 static void l2sq_rows(const float *q, const float *rows, const float *scale, size_t nrows,
			     size_t n, float *out)
{
	for (size_t r = 0; r < nrows; r++)
		out[r] = l2sq_scaled(q, rows + r * n, scale[r], n);
}

const struct kernels kernels_avx512 = {"avx512", dot, l2sq, dot_rows, l2sq_rows};
#endif
