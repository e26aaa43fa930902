/* AVX2 + FMA kernels: as the AVX-512 ones at half the width; tails are scalar. */
#include "kernels-private.h"
#if defined(__x86_64__)
#include <immintrin.h>
#include <stdbool.h>

#define AVX2 KERNEL_RACY __attribute__((target("avx2,fma")))
#define AHEAD 8192

AVX2 static inline float sum8(__m256 v)
{
	__m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
	s = _mm_add_ps(s, _mm_movehl_ps(s, s));
	return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
}

AVX2 static inline void prefetch_128(const float *p)
{
	_mm_prefetch((const char *)p + AHEAD, _MM_HINT_T0);
	_mm_prefetch((const char *)p + AHEAD + 64, _MM_HINT_T0);
}

AVX2 static inline float dot_stream(const float *a, const float *b, size_t n, bool stream)
{
	__m256 s0 = _mm256_setzero_ps(), s1 = s0, s2 = s0, s3 = s0;
	size_t i = 0;
	for (; i + 32 <= n; i += 32) {
		if (stream)
			prefetch_128(b + i);
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

AVX2 static float dot(const float *a, const float *b, size_t n) { return dot_stream(a, b, n, false); }

AVX2 static inline __m256 diff_sq(__m256 a, __m256 b, __m256 scale, __m256 sum)
{
	__m256 d = _mm256_fnmadd_ps(scale, b, a);
	return _mm256_fmadd_ps(d, d, sum);
}

AVX2 static inline float l2sq_stream(const float *a, const float *b, float scale, size_t n, bool stream)
{
	__m256 s0 = _mm256_setzero_ps(), s1 = s0, s2 = s0, s3 = s0, c = _mm256_set1_ps(scale);
	size_t i = 0;
	for (; i + 32 <= n; i += 32) {
		if (stream)
			prefetch_128(b + i);
		s0 = diff_sq(_mm256_loadu_ps(a + i), _mm256_loadu_ps(b + i), c, s0);
		s1 = diff_sq(_mm256_loadu_ps(a + i + 8), _mm256_loadu_ps(b + i + 8), c, s1);
		s2 = diff_sq(_mm256_loadu_ps(a + i + 16), _mm256_loadu_ps(b + i + 16), c, s2);
		s3 = diff_sq(_mm256_loadu_ps(a + i + 24), _mm256_loadu_ps(b + i + 24), c, s3);
	}
	float s = sum8(_mm256_add_ps(_mm256_add_ps(s0, s1), _mm256_add_ps(s2, s3)));
	for (; i < n; i++) {
		float d = a[i] - scale * b[i];
		s += d * d;
	}
	return s;
}

AVX2 static float l2sq(const float *a, const float *b, size_t n) { return l2sq_stream(a, b, 1.0F, n, false); }

AVX2 static void dot_rows(const float *q, const float *rows, size_t nrows, size_t n, float *out)
{
	for (size_t r = 0; r < nrows; r++)
		out[r] = dot_stream(q, rows + r * n, n, true);
}

AVX2 static void l2sq_rows(const float *q, const float *rows, const float *scale, size_t nrows, size_t n, float *out)
{
	for (size_t r = 0; r < nrows; r++)
		out[r] = l2sq_stream(q, rows + r * n, scale[r], n, true);
}

const struct kernels kernels_avx2 = {"avx2", dot, l2sq, dot_rows, l2sq_rows};
#endif
