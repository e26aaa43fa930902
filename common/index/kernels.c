/* The scalar kernels, which are the specification of the others, and the choice among them. */
#include <stdatomic.h>
#include <stdlib.h>

#include "contract.h"
#include "kernels-private.h"

/* Sixteen partial sums, like a SIMD twin: one long sum loses more than 1e-5 at 3,000 equal terms. */
#define LANES 16

static float sum_lanes(const float s[LANES])
{
	float t[4];
	for (size_t j = 0; j < 4; j++)
		t[j] = (s[j] + s[j + 4]) + (s[j + 8] + s[j + 12]);
	return (t[0] + t[1]) + (t[2] + t[3]);
}

KERNEL_RACY static float dot(const float *a, const float *b, size_t n)
{
	float s[LANES] = {0};
	size_t i = 0;
	for (; i + LANES <= n; i += LANES) {
		for (size_t j = 0; j < LANES; j++)
			s[j] += a[i + j] * b[i + j];
	}
	for (size_t j = 0; i < n; i++, j++)
		s[j] += a[i] * b[i];
	return sum_lanes(s);
}

KERNEL_RACY static float l2sq_scaled(const float *a, const float *b, float scale, size_t n)
{
	float s[LANES] = {0};
	for (size_t i = 0; i < n; i += LANES) {
		size_t end = n - i < LANES ? n - i : LANES;
		for (size_t j = 0; j < end; j++) {
			float d = a[i + j] - scale * b[i + j];
			s[j] += d * d;
		}
	}
	return sum_lanes(s);
}

#include "kernels-rows.h"

const struct kernels kernels_scalar = {"scalar", dot, l2sq, dot_rows, l2sq_rows};

/* Slowest first: a cap keeps everything up to its row. __builtin_cpu_supports also asks whether
 * the operating system saves the wide registers. */
static size_t candidates(const struct kernels *list[static 4])
{
	size_t n = 0;
	list[n++] = &kernels_scalar;
#if defined(__x86_64__)
	__builtin_cpu_init();
	if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
		list[n++] = &kernels_avx2;
		if (__builtin_cpu_supports("avx512f"))
			list[n++] = &kernels_avx512;
	}
#elif defined(__aarch64__)
	list[n++] = &kernels_neon;
#endif
	return n;
}

const struct kernels *kernels_by_name(const char *name)
{
	const struct kernels *list[4];
	size_t n = candidates(list);
	for (size_t i = 0; i < n; i++) {
		if (strcmp(list[i]->name, name) == 0)
			return list[i];
	}
	return NULL;
}

/* The cap names a family that this processor may lack ("avx512" on an older one): then it caps
 * nothing. An unknown word is no cap either: a test variable must not stop the daemon. */
static const struct kernels *choose(void)
{
	const struct kernels *list[4];
	size_t n = candidates(list);
	const char *cap = getenv(ENV_SIMD);
	const struct kernels *capped = cap ? kernels_by_name(cap) : NULL;
	return capped ? capped : list[n - 1];
}

const struct kernels *kernels_get(void)
{
	static _Atomic(const struct kernels *) chosen;
	const struct kernels *k = atomic_load_explicit(&chosen, memory_order_relaxed);
	if (!k) { /* threads that race here choose the same */
		k = choose();
		atomic_store_explicit(&chosen, k, memory_order_relaxed);
	}
	return k;
}
