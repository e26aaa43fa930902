/* Every kernel family of this processor against the scalar one and against sums in double. */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>
#include <cmocka.h>

#include "contract.h"
#include "index/kernels.h"

#define ROWS 11
#define MAX_N 4099

static const char *const families[] = {"scalar", "avx2", "avx512", "neon"};
static uint64_t rng = 88172645463325252ull;

static uint32_t next(void)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return (uint32_t)(rng >> 16);
}

enum fill { RANDOM, ZEROS, DENORMALS, DUPLICATES, LARGE, MIXED, SPARSE, FILLS };

static float value(enum fill f, size_t i)
{
	float r = (float)next() / (float)UINT32_MAX * 2 - 1;
	switch (f) {
	case ZEROS: return i % 2 ? 0.0F : -0.0F;
	case DENORMALS: return r * 1e-39F;
	case DUPLICATES: return 0.1F;
	case LARGE: /* squares are near the end of the range, and sums of 4,099 still fit */ return r * 5e16F;
	case MIXED: /* magnitudes that differ by 1e12, signs that cancel */
		return r * powf(10, (float)(next() % 12) - 6);
	case SPARSE: return next() % 16 ? 0.0F : r;
	default: return r;
	}
}

/* 1e-5 of the sum of magnitudes: what rounding in any order stays far below. */
static void near(double got, double want, double magnitude, const char *what, size_t n)
{
	if (!(fabs(got - want) <= 1e-5 * magnitude + 1e-37))
		fail_msg("%s, n = %zu: %g instead of %g (magnitude %g)", what, n, got, want, magnitude);
}

static void compare(const struct kernels *k, const float *q, const float *rows, const float *scale, size_t n)
{
	float dots[ROWS + 1], l2s[ROWS + 1];
	const struct kernels *ref = kernels_by_name("scalar");
	for (size_t count = 0; count <= ROWS; count++) {
		dots[count] = l2s[count] = 12345.0F;
		k->dot_rows(q, rows, count, n, dots);
		k->l2sq_rows(q, rows, scale, count, n, l2s);
		assert_true(dots[count] == 12345.0F && l2s[count] == 12345.0F); /* nothing past the end */
	}
	for (size_t r = 0; r < ROWS; r++) {
		const float *row = rows + r * n;
		double dot = 0, dot_mag = 0, l2 = 0, l2s_want = 0, l2_mag = 0, l2s_mag = 0;
		for (size_t i = 0; i < n; i++) {
			double a = q[i], b = row[i], c = scale[r] * b;
			dot += a * b;
			dot_mag += fabs(a * b);
			l2 += (a - b) * (a - b);
			l2_mag += (fabs(a) + fabs(b)) * (fabs(a) + fabs(b));
			l2s_want += (a - c) * (a - c);
			l2s_mag += (fabs(a) + fabs(c)) * (fabs(a) + fabs(c));
		}
		near(k->dot(q, row, n), dot, dot_mag, k->name, n);
		near(k->dot(q, row, n), ref->dot(q, row, n), dot_mag, "twin", n);
		near(dots[r], dot, dot_mag, "dot_rows", n);
		near(k->l2sq(q, row, n), l2, l2_mag, "l2sq", n);
		near(k->l2sq(q, row, n), ref->l2sq(q, row, n), l2_mag, "l2 twin", n);
		near(l2s[r], l2s_want, l2s_mag, "l2sq_rows", n);
	}
}

/* Inputs end at an unreadable page: a kernel that reads one float too far dies here. `shift`
 * floats of slack in front make every alignment occur. */
static float *fenced(size_t floats)
{
	size_t page = 4096, bytes = (floats * sizeof(float) + page - 1) / page * page;
	char *p = mmap(NULL, bytes + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(p != MAP_FAILED && mprotect(p + bytes, page, PROT_NONE) == 0);
	return (float *)(void *)(p + bytes); /* the end */
}

static void test_family(void **state)
{
	const struct kernels *k = kernels_by_name(*state);
	float *q_end = fenced(MAX_N), *rows_end = fenced((size_t)MAX_N * ROWS), scale[ROWS];
	static const size_t lengths[] = {96, 100, 127, 128, 129, 384, 512, 767, 1024, 1536, 3072, 4096, MAX_N};
	if (!k) {
		print_message("this processor has no %s\n", (const char *)*state);
		skip();
	}
	for (enum fill f = RANDOM; f < FILLS; f++) {
		for (size_t at = 0; at < 70 + ARRAY_LEN(lengths); at++) {
			size_t n = at < 70 ? at + 1 : lengths[at - 70];
			float *q = q_end - n, *rows = rows_end - n * ROWS;
			for (size_t i = 0; i < n; i++)
				q[i] = value(f, i);
			for (size_t i = 0; i < n * ROWS; i++)
				rows[i] = f == DUPLICATES ? q[i % n] : value(f, i);
			for (size_t r = 0; r < ROWS; r++)
				scale[r] = r == 0 ? 1 : r == 1 ? 0 : 0.25F * (float)r;
			compare(k, q, rows, scale, n);
		}
	}
}

static void test_unaligned(void **state)
{
	const struct kernels *k = kernels_by_name(*state);
	static float q[256 + 16], rows[(256 + 16) * ROWS], scale[ROWS];
	if (!k)
		skip();
	for (size_t i = 0; i < ARRAY_LEN(q); i++)
		q[i] = value(RANDOM, i);
	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		rows[i] = value(RANDOM, i);
	for (size_t r = 0; r < ROWS; r++)
		scale[r] = 0.5F;
	for (size_t shift = 0; shift < 16; shift++)
		compare(k, q + shift, rows + (shift * 7) % 16, scale, 250 + shift % 5);
}

/* One huge factor with a zero, one with its like: no family may overflow where the scalar one
 * does not. */
static void test_extremes(void **state)
{
	const struct kernels *k = kernels_by_name(*state);
	float a[40] = {0}, b[40] = {0};
	if (!k)
		skip();
	for (size_t i = 0; i < 40; i++) {
		a[i] = FLT_MAX;
		assert_true(k->dot(a, b, 40) == 0);
		b[i] = 1;
		assert_true(k->dot(a + i, b + i, 1) == FLT_MAX);
		b[i] = 0;
	}
	memset(a, 0, sizeof(a));
	a[3] = FLT_MAX;
	b[3] = 1;
	a[20] = -FLT_MAX;
	b[20] = 1;
	assert_true(k->dot(a, b, 40) == 0);
	for (size_t i = 0; i < 40; i++)
		a[i] = b[i] = FLT_MAX;
	assert_true(k->l2sq(a, b, 40) == 0);
	assert_true(isinf(k->dot(a, b, 40)));
	a[7] = NAN;
	assert_true(isnan(k->dot(a, b, 40)) && isnan(k->l2sq(a, b, 40)));
	assert_true(k->dot(a, b, 0) == 0 && k->l2sq(a, b, 0) == 0);
}

static void test_choice(void **state)
{
	(void)state;
	assert_null(kernels_by_name("mmx"));
	assert_null(kernels_by_name(""));
	assert_non_null(kernels_by_name("scalar"));
	const char *cap = getenv(ENV_SIMD);
	if (cap && kernels_by_name(cap))
		assert_string_equal(kernels_get()->name, cap);
	assert_ptr_equal(kernels_get(), kernels_get());
}

int main(void)
{
	struct CMUnitTest tests[3 * ARRAY_LEN(families) + 1];
	static char names[3 * ARRAY_LEN(families)][40];
	size_t n = 0;
	const struct {
		const char *name;
		CMUnitTestFunction f;
	} kinds[] = {
		{"random and adversarial", test_family}, {"unaligned", test_unaligned}, {"extremes", test_extremes}};
	for (size_t f = 0; f < ARRAY_LEN(families); f++) {
		for (size_t t = 0; t < ARRAY_LEN(kinds); t++, n++) {
			snprintf(names[n], sizeof(names[n]), "%s: %s", families[f], kinds[t].name);
			tests[n] = (struct CMUnitTest){names[n], kinds[t].f, NULL, NULL,
						       (void *)(uintptr_t)families[f]};
		}
	}
	tests[n] = (struct CMUnitTest)cmocka_unit_test(test_choice);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
