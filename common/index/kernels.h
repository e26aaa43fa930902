/* SIMD kernels, chosen once at run time from cpuid (capped by ENV_SIMD). The scalar twin is the
 * specification: all agree within 1e-5 relative. */
#ifndef ORC_KERNELS_H
#define ORC_KERNELS_H
#include "util.h"
struct kernels {
	const char *name; /* "scalar", "avx2", "avx512" */
	float (*dot)(const float *a, const float *b, size_t n);
	float (*l2sq)(const float *a, const float *b, size_t n);
	/* dots of one query with `rows` consecutive rows of n floats each (stride n) */
	void (*dot_rows)(const float *q, const float *rows, size_t nrows, size_t n, float *out);
	/* |q − scale[r]·row[r]|² for `rows` consecutive rows: rows are kept normalised, scale is their norm */
	void (*l2sq_rows)(const float *q, const float *rows, const float *scale, size_t nrows, size_t n, float *out);
	/* n int32 hashed counts etc. are not here: see embed/ */
};
const struct kernels *kernels_get(void);
const struct kernels *kernels_by_name(const char *name); /* NULL: unknown or not on this CPU */
#endif
