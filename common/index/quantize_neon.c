/* NEON kernels over quantised vectors (aarch64 always has it); what is not worth a loop of its own is the scalar twin's. */
#include "quantize-private.h"
#if defined(__aarch64__)
#include <arm_neon.h>
#include <math.h>

KERNEL_RACY static uint32_t weigh(const uint64_t *planes, size_t n, const uint64_t *code, size_t words)
{
	uint32_t sum = 0;
	for (size_t j = 0; j < n; j++) {
		const uint64_t *p = planes + j * words;
		uint64x2_t count = vdupq_n_u64(0);
		size_t w = 0;
		for (; w + 2 <= words; w += 2) {
			uint8x16_t x = vreinterpretq_u8_u64(veorq_u64(vld1q_u64(code + w), vld1q_u64(p + w)));
			count = vpadalq_u32(count, vpaddlq_u16(vpaddlq_u8(vcntq_u8(x))));
		}
		uint64_t plane = vaddvq_u64(count);
		if (w < words)
			plane += (uint64_t)__builtin_popcountll(code[w] ^ p[w]);
		sum += (uint32_t)plane << j;
	}
	return sum;
}

#include "quantize-codes.h"

static size_t select_entries(const uint32_t *dist, const uint32_t *factors, size_t n, const struct quantize_line *l,
			     uint32_t *index_r, float *est_r)
{
	return quantize_scalar.select(dist, factors, n, l, index_r, est_r);
}

/* Bytes are taken 128 lower, as signed ones, and what that takes away is added: 128 · Σ q. Products fit 16 bits. */
KERNEL_RACY static int32x4_t multiply(int32x4_t sum, int8x16_t q, uint8x16_t row)
{
	int8x16_t v = vreinterpretq_s8_u8(veorq_u8(row, vdupq_n_u8(128)));
	sum = vpadalq_s16(sum, vmull_s8(vget_low_s8(q), vget_low_s8(v)));
	return vpadalq_s16(sum, vmull_high_s8(q, v));
}

KERNEL_RACY static int32_t sum_bytes(const int8_t *q, size_t n)
{
	int32x4_t sum = vdupq_n_s32(0);
	for (size_t i = 0; i < n; i += 16)
		sum = vpadalq_s16(sum, vpaddlq_s8(vld1q_s8(q + i)));
	return vaddvq_s32(sum);
}

KERNEL_RACY static void bytes(const int8_t *q, const uint8_t *rows, size_t nrows, size_t n, size_t stride, int32_t *out)
{
	int32_t lower = 128 * sum_bytes(q, n);
	for (size_t r = 0; r < nrows; r++) {
		int32x4_t sum = vdupq_n_s32(0);
		for (size_t i = 0; i < n; i += 16)
			sum = multiply(sum, vld1q_s8(q + i), vld1q_u8(rows + r * stride + i));
		out[r] = vaddvq_s32(sum) + lower;
	}
}

KERNEL_RACY static void bytes_pair(const int8_t *high, const int8_t *low, const uint8_t *row, size_t n, int32_t out[2])
{
	bytes(high, row, 1, n, n, &out[0]);
	bytes(low, row, 1, n, n, &out[1]);
}

KERNEL_RACY static float half_dot(const float *q, const uint16_t *row, size_t n)
{
	float32x4_t s[4];
	for (int k = 0; k < 4; k++)
		s[k] = vdupq_n_f32(0);
	for (size_t i = 0; i < n; i += 16) {
		for (size_t k = 0; k < 4; k++) {
			float16x4_t h = vreinterpret_f16_u16(vld1_u16(row + i + 4 * k));
			s[k] = vfmaq_f32(s[k], vld1q_f32(q + i + 4 * k), vcvt_f32_f16(h));
		}
	}
	return vaddvq_f32(vaddq_f32(vaddq_f32(s[0], s[1]), vaddq_f32(s[2], s[3])));
}

KERNEL_RACY static void to_half(const float *x, size_t n, uint16_t *out)
{
	for (size_t i = 0; i < n; i += 4)
		vst1_u16(out + i, vreinterpret_u16_f16(vcvt_f16_f32(vld1q_f32(x + i))));
}

/* vcvtnq: to the nearest, ties to even; what is not a number becomes 0. */
KERNEL_RACY static void to_bytes(const float *x, size_t n, float inverse, uint8_t *out)
{
	for (size_t i = 0; i < n; i += 8) {
		int32x4_t v[2];
		for (size_t k = 0; k < 2; k++) {
			v[k] = vcvtnq_s32_f32(vmulq_n_f32(vld1q_f32(x + i + 4 * k), inverse));
			v[k] = vmaxq_s32(vminq_s32(v[k], vdupq_n_s32(127)), vdupq_n_s32(-127));
		}
		int16x8_t b = vaddq_s16(vcombine_s16(vmovn_s32(v[0]), vmovn_s32(v[1])), vdupq_n_s16(128));
		vst1_u8(out + i, vqmovun_s16(b));
	}
}

static void to_pair(const float *x, size_t n, float inverse, int8_t *high, int8_t *low, int32_t sums[2])
{
	quantize_scalar.to_pair(x, n, inverse, high, low, sums);
}

static void to_planes(const float *x, size_t n, float inverse, uint64_t *planes)
{
	quantize_scalar.to_planes(x, n, inverse, planes);
}

static void to_code(const float *x, size_t n, uint64_t *code) { quantize_scalar.to_code(x, n, code); }

KERNEL_RACY static void hadamard(float *x, size_t n)
{
	float scale = 1 / sqrtf((float)n);
	for (size_t i = 0; i < n; i += 4) {
		float a = x[i] * scale, b = x[i + 1] * scale, c = x[i + 2] * scale, d = x[i + 3] * scale;
		float ab = a + b, a_b = a - b, cd = c + d, c_d = c - d;
		x[i] = ab + cd;
		x[i + 1] = a_b + c_d;
		x[i + 2] = ab - cd;
		x[i + 3] = a_b - c_d;
	}
	for (size_t h = 4; h < n; h *= 2) {
		for (size_t i = 0; i < n; i += 2 * h) {
			for (size_t j = i; j < i + h; j += 4) {
				float32x4_t a = vld1q_f32(x + j), b = vld1q_f32(x + j + h);
				vst1q_f32(x + j, vaddq_f32(a, b));
				vst1q_f32(x + j + h, vsubq_f32(a, b));
			}
		}
	}
}

static void flip(float *x, const uint64_t *bits, size_t n) { quantize_scalar.flip(x, bits, n); }

const struct quantize_kernels quantize_neon = {"neon",	codes,	    upper,    codes_at, select_entries,
					       bytes,	bytes_pair, half_dot, to_half,	to_bytes,
					       to_pair, to_planes,  to_code,  hadamard, flip};
#endif
