/* AVX2 + FMA kernels: as the AVX-512 ones at half the width; tails are scalar. */
#include "kernels-private.h"
#if defined(__x86_64__)
#include <immintrin.h>

#define AVX2 KERNEL_RACY __attribute__((target("avx2,fma")))
#define AHEAD 2048

AVX2 static inline float sum8(__m256 v)
{
	__m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
	s = _mm_add_ps(s, _mm_movehl_ps(s, s));
	return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
}

AVX2 static float dot(const float *a, const float *b, size_t n)
{
	__m256 s0 = _mm256_setzero_ps(), s1 = s0, s2 = s0, s3 = s0;
	size_t i = 0;
	for (; i + 32 <= n; i += 32) {
		s0 = _mm256_fmadd_ps(_mm256_loadu_ps(a + i), _mm256_loadu_ps(b + i), s0);
		s1 = _mm256_fmadd_ps(_mm256_loadu_ps(a + i + 8), _mm256_loadu_ps(b + i + 8), s1);
		s2 = _mm256_fmadd_ps(_mm256_loadu_ps(a + i + 16), _mm256_loadu_ps(b + i + 16), s2);
		s3 = _mm256_fmadd_ps(_mm256_loadu_ps(a + i + 24), _mm256_loadu_ps(b + i + 24), s3);
	}
	for (; i + 8 <= n; i += 8)
		s0 = _mm256_fmadd_ps(_mm256_loadu_ps(a + i), _mm256_loadu_ps(b + i), s0);
	float s = sum8(_mm256_add_ps(_mm256_add_ps(s0, s1), _mm256_add_ps(s2, s3)));
	for (; i < n; i++)
		s += a[i] * b[i];
	return s;
}

AVX2 static inline __m256 diff_sq(__m256 a, __m256 b, __m256 scale, __m256 sum)
{
	__m256 d = _mm256_fnmadd_ps(scale, b, a);
	return _mm256_fmadd_ps(d, d, sum);
}

AVX2 static float l2sq_scaled(const float *a, const float *b, float scale, size_t n)
{
	__m256 s0 = _mm256_setzero_ps(), s1 = s0, c = _mm256_set1_ps(scale);
	size_t i = 0;
	for (; i + 16 <= n; i += 16) {
		_mm_prefetch((const char *)(b + i) + AHEAD, _MM_HINT_T0);
		s0 = diff_sq(_mm256_loadu_ps(a + i), _mm256_loadu_ps(b + i), c, s0);
		s1 = diff_sq(_mm256_loadu_ps(a + i + 8), _mm256_loadu_ps(b + i + 8), c, s1);
	}
	float s = sum8(_mm256_add_ps(s0, s1));
	for (; i < n; i++) {
		float d = a[i] - scale * b[i];
		s += d * d;
	}
	return s;
}

AVX2 static float l2sq(const float *a, const float *b, size_t n)
{
	return l2sq_scaled(a, b, 1.0F, n);
}

AVX2 static void dot_4(const float *q, const float *r, size_t n, float *out)
{
	const float *row[4] = {r, r + n, r + 2 * n, r + 3 * n};
	__m256 s[4], t[4];
	for (int k = 0; k < 4; k++)
		s[k] = t[k] = _mm256_setzero_ps();
	size_t i = 0;
	for (; i + 16 <= n; i += 16) {
		__m256 x = _mm256_loadu_ps(q + i), y = _mm256_loadu_ps(q + i + 8);
		for (int k = 0; k < 4; k++) {
			_mm_prefetch((const char *)(row[k] + i) + AHEAD, _MM_HINT_T0);
			s[k] = _mm256_fmadd_ps(x, _mm256_loadu_ps(row[k] + i), s[k]);
			t[k] = _mm256_fmadd_ps(y, _mm256_loadu_ps(row[k] + i + 8), t[k]);
		}
	}
	for (int k = 0; k < 4; k++) {
		out[k] = sum8(_mm256_add_ps(s[k], t[k]));
		for (size_t j = i; j < n; j++)
			out[k] += q[j] * row[k][j];
	}
}

AVX2 static void dot_rows(const float *q, const float *rows, size_t nrows, size_t n, float *out)
{
	size_t r = 0;
	for (; r + 4 <= nrows; r += 4)
		dot_4(q, rows + r * n, n, out + r);
	for (; r < nrows; r++)
		out[r] = dot(q, rows + r * n, n);
}

AVX2 static void l2sq_rows(const float *q, const float *rows, const float *scale, size_t nrows, size_t n,
			   float *out)
{
	for (size_t r = 0; r < nrows; r++)
		out[r] = l2sq_scaled(q, rows + r * n, scale[r], n);
}

const struct kernels kernels_avx2 = {"avx2", dot, l2sq, dot_rows, l2sq_rows};
#endif
