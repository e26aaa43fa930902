/* Kernels over quantised vectors, chosen at run time as those of kernels.h are and by the same names. All of them but
 * hadamard and half_dot work on integers, or on floats in a way that leaves no choice of order, and give the same bits
 * on every processor; the scalar twin is the specification.
 *
 * A vector of n components (a multiple of 64, at most 4,096) is kept
 *  - as bytes: b = round(x / step) + 128, within 1 … 255;
 *  - as halves: IEEE fp16;
 *  - as a code: one bit a component, 1 = not negative, n / 64 words, component i is bit i % 64 of word i / 64.
 * A query meets bytes as signed bytes, one or two of them a component, and codes as four bit planes: the component's
 * level is Σ_j ±2^j over the planes, a set bit meaning plus, so that Σ_i ±level_i = 15·n − 2·Σ_j 2^j·popcount(code ^ plane_j). */
#ifndef ORC_QUANTIZE_H
#define ORC_QUANTIZE_H
#include <math.h>
#include <stdbool.h>

#include "util.h"

#define QUANTIZE_PLANES 4
#define QUANTIZE_UPPER 2 /* of them, the last ones: what upper() looks at */

/* What a scan of codes keeps: est = base + g + f · (add + mul · dist), where f and g are the entry's factors (fp16, f in
 * the low half of the word, f ≥ 0). An entry survives when est + f · slack > floor. */
struct quantize_line {
	float base, add, mul, slack, floor;
};

/* The float of an fp16 that is finite. */
static inline float quantize_half(uint32_t half)
{
	uint32_t bits = (half & 0x7fff) << 13;
	float f;
	memcpy(&f, &bits, sizeof(f));
	f *= 0x1p112F;
	return half & 0x8000 ? -f : f;
}

/* max |x[i]|. In four chains; n is a multiple of 4. */
static inline float quantize_most(const float *x, size_t n)
{
	float most[4] = {0};
	for (size_t i = 0; i < n; i += 4)
		for (size_t k = 0; k < 4; k++)
			most[k] = fabsf(x[i + k]) > most[k] ? fabsf(x[i + k]) : most[k];
	float a = most[0] > most[1] ? most[0] : most[1], b = most[2] > most[3] ? most[2] : most[3];
	return a > b ? a : b;
}

/* Codes that are read one after the other, but do not lie so. */
struct quantize_stream {
	const void *next; /* what is read after these, or NULL: its beginning is fetched while they are */
	bool begun;	  /* the beginning of these was `next` before */
};

struct quantize_kernels {
	const char *name; /* "scalar", "avx2", "avx512", "neon" */

	/* out[i] = Σ_j 2^j · popcount(code i ^ plane j). `codes`: n codes of `words` words one behind the other;
	 * `planes`: four times `words` words. Neither need be aligned to more than 8 bytes. `s`: NULL, or where the codes
	 * stand in what the caller reads from memory; it changes nothing but how long that takes. */
	void (*codes)(const uint64_t *planes, const uint64_t *codes, size_t n, size_t words, uint32_t *out,
		      const struct quantize_stream *s);
	/* The same by the upper planes only: Σ_j 2^j · popcount(code i ^ plane j + 2). Half the work. */
	void (*upper)(const uint64_t *planes, const uint64_t *codes, size_t n, size_t words, uint32_t *out,
		      const struct quantize_stream *s);
	/* As codes(), of n codes that lie here and there: at[i]. */
	void (*codes_at)(const uint64_t *planes, const uint64_t *const *at, size_t n, size_t words, uint32_t *out);
	/* Which of n entries survive: their indices, ascending, and their estimates. Returns how many. In float, one
	 * operation after the other as written above, without fused multiplication. Both outputs have room for n + 16. */
	size_t (*select)(const uint32_t *dist, const uint32_t *factors, size_t n, const struct quantize_line *l,
			 uint32_t *index_r, float *est_r);
	/* out[r] = Σ_i q[i] · row r[i] for rows of n bytes, `stride` bytes apart. */
	void (*bytes)(const int8_t *q, const uint8_t *rows, size_t nrows, size_t n, size_t stride, int32_t *out);
	/* The same for one row and a query of two parts. */
	void (*bytes_pair)(const int8_t *high, const int8_t *low, const uint8_t *row, size_t n, int32_t out[2]);
	/* Σ_i q[i] · row[i]. Within 1e-5 relative. */
	float (*half_dot)(const float *q, const uint16_t *row, size_t n);
	void (*to_half)(const float *x, size_t n, uint16_t *out); /* round to nearest even */
	/* x[i] → byte: x · inverse to the nearest integer (ties to even), + 128, at least 1, at most 255. */
	void (*to_bytes)(const float *x, size_t n, float inverse, uint8_t *out);
	/* x[i] · inverse to the nearest integer, within ±32,512, as 256 · high + low. sums_r: of high; of the whole. */
	void (*to_pair)(const float *x, size_t n, float inverse, int8_t *high, int8_t *low, int32_t sums_r[2]);
	/* x[i] · inverse + 7.5 to the nearest integer, within 0 … 15, as the four planes of a query. */
	void (*to_planes)(const float *x, size_t n, float inverse, uint64_t *planes);
	/* The code of x. */
	void (*to_code)(const float *x, size_t n, uint64_t *code);
	/* Walsh-Hadamard transform in place, n a power of two from 64 to 4,096, scaled by 1/sqrt(n) so that lengths
	 * stay. Within 1e-5 of |x|. */
	void (*hadamard)(float *x, size_t n);
	/* Turns the sign of every component whose bit is set. */
	void (*flip)(float *x, const uint64_t *bits, size_t n);
};
const struct quantize_kernels *quantize_get(void);
const struct quantize_kernels *quantize_by_name(const char *name); /* NULL: unknown or not on this CPU */
#endif
