/* The scalar kernels over quantised vectors, which are the specification of the others, and the choice among them. */
#include <math.h>
#include <stdatomic.h>
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "quantize-private.h"

static uint32_t float_bits(float x)
{
	uint32_t u;
	memcpy(&u, &x, sizeof(u));
	return u;
}

static float bits_float(uint32_t u)
{
	float x;
	memcpy(&x, &u, sizeof(x));
	return x;
}

static float half_to_float(uint16_t h)
{
	uint32_t sign = (uint32_t)(h & 0x8000) << 16, rest = h & 0x7fff;
	if (rest < 0x0400) /* zero and denormals: a multiple of 2^-24, which a float holds as a normal number */
		return bits_float(sign | float_bits((float)rest * 0x1p-24F));
	if (rest < 0x7c00)
		return bits_float(sign | ((rest << 13) + ((127 - 15) << 23)));
	return bits_float(sign | 0x7f800000 | (rest & 0x3ff) << 13 | (rest > 0x7c00 ? 0x400000 : 0));
}

static uint16_t float_to_half(float x)
{
	uint32_t u = float_bits(x), sign = u >> 16 & 0x8000, rest = u & 0x7fffffff;
	if (rest > 0x7f800000) /* not a number: a quiet one, with what fits of its payload */
		return (uint16_t)(sign | 0x7e00 | (rest >> 13 & 0x3ff));
	if (rest >= 0x47800000) /* 65,536 and more; what rounds up to it carries into the exponent below */
		return (uint16_t)(sign | 0x7c00);
	if (rest < 0x38800000) { /* below 2^-14: the addition rounds to multiples of 2^-24, ties to even */
		uint32_t units = float_bits(bits_float(rest) + 0.5F) - float_bits(0.5F);
		return (uint16_t)(sign | units);
	}
	uint32_t odd = rest >> 13 & 1;
	return (uint16_t)(sign | (rest - ((127 - 15) << 23) + 0xfff + odd) >> 13);
}

KERNEL_RACY static uint32_t weigh(const uint64_t *planes, size_t n, const uint64_t *code, size_t words)
{
	uint32_t sum = 0;
	for (size_t j = 0; j < n; j++) {
		for (size_t w = 0; w < words; w++)
			sum += (uint32_t)__builtin_popcountll(code[w] ^ planes[j * words + w]) << j;
	}
	return sum;
}

#include "quantize-codes.h"

KERNEL_RACY static size_t select_entries(const uint32_t *dist, const uint32_t *factors, size_t n,
					 const struct quantize_line *l, uint32_t *index_r, float *est_r)
{
	size_t found = 0;
	for (size_t i = 0; i < n; i++) {
		float f = half_to_float((uint16_t)factors[i]), g = half_to_float((uint16_t)(factors[i] >> 16));
		/* By way of int32_t: a distance is far below its end, and AVX2 converts no other. */
		float est = (l->base + g) + f * (l->add + l->mul * (float)(int32_t)dist[i]);
		if (est + f * l->slack > l->floor) {
			index_r[found] = (uint32_t)i;
			est_r[found++] = est;
		}
	}
	return found;
}

KERNEL_RACY static int32_t bytes_dot(const int8_t *q, const uint8_t *row, size_t n)
{
	int32_t sum = 0;
	for (size_t i = 0; i < n; i++)
		sum += q[i] * row[i];
	return sum;
}

KERNEL_RACY static void bytes(const int8_t *q, const uint8_t *rows, size_t nrows, size_t n, size_t stride, int32_t *out)
{
	for (size_t r = 0; r < nrows; r++)
		out[r] = bytes_dot(q, rows + r * stride, n);
}

KERNEL_RACY static void bytes_pair(const int8_t *high, const int8_t *low, const uint8_t *row, size_t n, int32_t out[2])
{
	out[0] = bytes_dot(high, row, n);
	out[1] = bytes_dot(low, row, n);
}

/* Sixteen partial sums, as in kernels.c. */
KERNEL_RACY static float half_dot(const float *q, const uint16_t *row, size_t n)
{
	float s[16] = {0};
	for (size_t i = 0; i < n; i += 16) {
		for (size_t j = 0; j < 16; j++)
			s[j] += q[i + j] * half_to_float(row[i + j]);
	}
	for (size_t half = 8; half; half /= 2) {
		for (size_t j = 0; j < half; j++)
			s[j] += s[j + half];
	}
	return s[0];
}

KERNEL_RACY static void to_half(const float *x, size_t n, uint16_t *out)
{
	for (size_t i = 0; i < n; i++)
		out[i] = float_to_half(x[i]);
}

/* What is not a number becomes 0. Adding 1.5 · 2^23 leaves no bits below one: that rounds as SIMD rounds. */
KERNEL_RACY static void to_bytes(const float *x, size_t n, float inverse, uint8_t *out)
{
	for (size_t i = 0; i < n; i++) {
		float v = x[i] * inverse;
		v = isnan(v) ? 0 : v > 127 ? 127 : v < -127 ? -127 : v;
		float rounded = v + 0x1.8p23F;
		out[i] = (uint8_t)((int)(rounded - 0x1.8p23F) + 128);
	}
}

/* As to_bytes does it, and not a number becomes 0, too. */
static int to_whole(float v, float low, float high)
{
	v = isnan(v) ? 0 : v > high ? high : v < low ? low : v;
	float rounded = v + 0x1.8p23F;
	return (int)(rounded - 0x1.8p23F);
}

static void to_pair(const float *x, size_t n, float inverse, int8_t *high, int8_t *low, int32_t sums[2])
{
	sums[0] = sums[1] = 0;
	for (size_t i = 0; i < n; i++) {
		int whole = to_whole(x[i] * inverse, -32512, 32512), h = (whole + 32896) / 256 - 128;
		high[i] = (int8_t)h;
		low[i] = (int8_t)(whole - h * 256);
		sums[0] += h;
		sums[1] += whole;
	}
}

static void to_planes(const float *x, size_t n, float inverse, uint64_t *planes)
{
	memset(planes, 0, QUANTIZE_PLANES * n / 8);
	for (size_t i = 0; i < n; i++) {
		float scaled = x[i] * inverse;
		unsigned level = (unsigned)to_whole(scaled + 7.5F, 0, 15);
		for (size_t j = 0; j < QUANTIZE_PLANES; j++)
			planes[j * (n / 64) + i / 64] |= (uint64_t)(level >> j & 1) << i % 64;
	}
}

KERNEL_RACY static void to_code(const float *x, size_t n, uint64_t *code)
{
	for (size_t w = 0; w < n / 64; w++) {
		uint64_t bits = 0;
		for (size_t i = 0; i < 64; i++)
			bits |= (uint64_t) !(x[w * 64 + i] < 0) << i;
		code[w] = bits;
	}
}

/* Scaled first, then pairs at ascending distances. */
KERNEL_RACY static void hadamard(float *x, size_t n)
{
	float scale = 1 / sqrtf((float)n);
	for (size_t i = 0; i < n; i++)
		x[i] *= scale;
	for (size_t h = 1; h < n; h *= 2) {
		for (size_t i = 0; i < n; i += 2 * h) {
			for (size_t j = i; j < i + h; j++) {
				float a = x[j], b = x[j + h];
				x[j] = a + b;
				x[j + h] = a - b;
			}
		}
	}
}

KERNEL_RACY static void flip(float *x, const uint64_t *bits, size_t n)
{
	for (size_t i = 0; i < n; i++)
		x[i] = bits_float(float_bits(x[i]) ^ (uint32_t)(bits[i / 64] >> i % 64 & 1) << 31);
}

const struct quantize_kernels quantize_scalar = {"scalar", codes,      upper,	 codes_at, select_entries,
						 bytes,	   bytes_pair, half_dot, to_half,  to_bytes,
						 to_pair,  to_planes,  to_code,	 hadamard, flip};

#if defined(__x86_64__)
static bool has_f16c(void) /* not every compiler lets __builtin_cpu_supports ask for it */
{
	unsigned a, b, c, d;
	return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}

static bool has_avx512_extras(void)
{
	return __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
	       __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vpopcntdq");
}
#endif

/* Slowest first. A family that kernels.h has not on this processor is not here either; the other way round it may be. */
static size_t candidates(const struct quantize_kernels *list[static 4])
{
	size_t n = 0;
	list[n++] = &quantize_scalar;
#if defined(__x86_64__)
	if (kernels_by_name("avx2") && has_f16c()) {
		list[n++] = &quantize_avx2;
		if (kernels_by_name("avx512") && has_avx512_extras())
			list[n++] = &quantize_avx512;
	}
#elif defined(__aarch64__)
	list[n++] = &quantize_neon;
#endif
	return n;
}

const struct quantize_kernels *quantize_by_name(const char *name)
{
	const struct quantize_kernels *list[4];
	size_t n = candidates(list);
	for (size_t i = 0; i < n; i++) {
		if (strcmp(list[i]->name, name) == 0)
			return list[i];
	}
	return NULL;
}

/* As kernels_get() chose, which knows the cap; where this family ends before that one, its last. */
static const struct quantize_kernels *choose(void)
{
	const struct quantize_kernels *list[4];
	size_t n = candidates(list);
	const struct quantize_kernels *same = quantize_by_name(kernels_get()->name);
	return same ? same : list[n - 1];
}

const struct quantize_kernels *quantize_get(void)
{
	static _Atomic(const struct quantize_kernels *) chosen;
	const struct quantize_kernels *k = atomic_load_explicit(&chosen, memory_order_relaxed);
	if (!k) { /* threads that race here choose the same */
		k = choose();
		atomic_store_explicit(&chosen, k, memory_order_relaxed);
	}
	return k;
}
