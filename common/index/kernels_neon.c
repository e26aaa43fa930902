/* NEON kernels (aarch64 always has it). */
#include "kernels-private.h"
#if defined(__aarch64__)
#include <arm_neon.h>

KERNEL_RACY static float dot(const float *a, const float *b, size_t n)
{
	float32x4_t s[4];
	for (int k = 0; k < 4; k++)
		s[k] = vdupq_n_f32(0);
	size_t i = 0;
	for (; i + 16 <= n; i += 16) {
		for (int k = 0; k < 4; k++)
			s[k] = vfmaq_f32(s[k], vld1q_f32(a + i + 4 * k), vld1q_f32(b + i + 4 * k));
	}
	float sum = vaddvq_f32(vaddq_f32(vaddq_f32(s[0], s[1]), vaddq_f32(s[2], s[3])));
	for (; i < n; i++)
		sum += a[i] * b[i];
	return sum;
}

KERNEL_RACY static float l2sq_scaled(const float *a, const float *b, float scale, size_t n)
{
	float32x4_t s[4], c = vdupq_n_f32(scale);
	for (int k = 0; k < 4; k++)
		s[k] = vdupq_n_f32(0);
	size_t i = 0;
	for (; i + 16 <= n; i += 16) {
		for (int k = 0; k < 4; k++) {
			float32x4_t d = vfmsq_f32(vld1q_f32(a + i + 4 * k), c, vld1q_f32(b + i + 4 * k));
			s[k] = vfmaq_f32(s[k], d, d);
		}
	}
	float sum = vaddvq_f32(vaddq_f32(vaddq_f32(s[0], s[1]), vaddq_f32(s[2], s[3])));
	for (; i < n; i++) {
		float d = a[i] - scale * b[i];
		sum += d * d;
	}
	return sum;
}

#include "kernels-rows.h"

const struct kernels kernels_neon = {"neon", dot, l2sq, dot_rows, l2sq_rows};
#endif
