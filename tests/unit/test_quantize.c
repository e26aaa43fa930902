/* The kernels over quantised vectors: the scalar family against the mathematics, every other one against the scalar one,
 * bit for bit, on inputs that end at an unreadable page. */
#include <float.h>
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <cmocka.h>

#include "contract.h"
#include "index/kernels.h"
#include "index/quantize.h"

#define MAX_N 4096
#define MAX_WORDS 64
#define MAX_ROWS 70

static uint64_t rng = 88172645463325252ull;

static uint64_t next(void)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return rng * 0x2545f4914f6cdd1dull;
}

/* Room of `bytes` bytes that ends where reading and writing end the program. */
static void *fence(size_t bytes)
{
	size_t page = 4096, room = (bytes + page - 1) / page * page;
	char *p = mmap(NULL, room + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_true(p != MAP_FAILED && mprotect(p + room, page, PROT_NONE) == 0);
	return p + room; /* the end */
}

enum fill { RANDOM, ZEROS, ONES, ALTERNATING, FILLS };

static uint64_t bits(enum fill f, size_t i)
{
	switch (f) {
	case ZEROS: return 0;
	case ONES: return UINT64_MAX;
	case ALTERNATING: return i % 2 ? 0xaaaaaaaaaaaaaaaaull : 0x5555555555555555ull;
	default: return next();
	}
}

static int8_t signed_byte(enum fill f, size_t i)
{
	switch (f) {
	case ZEROS: return -128;
	case ONES: return 127;
	case ALTERNATING: return i % 2 ? 127 : -128;
	default: return (int8_t)next();
	}
}

/* ---- integers ---- */

static void check_codes(const struct quantize_kernels *k, enum fill f, enum fill g, size_t n, size_t words)
{
	static uint64_t *codes_end, *planes_end;
	static uint32_t *out_end;
	uint32_t want[MAX_ROWS];
	if (!codes_end) {
		codes_end = fence((size_t)MAX_ROWS * MAX_WORDS * 8);
		planes_end = fence((size_t)QUANTIZE_PLANES * MAX_WORDS * 8);
		out_end = fence(MAX_ROWS * 4);
	}
	uint64_t *codes = codes_end - n * words, *planes = planes_end - QUANTIZE_PLANES * words;
	uint32_t *out = out_end - n;
	for (size_t i = 0; i < n * words; i++)
		codes[i] = bits(f, i);
	for (size_t i = 0; i < QUANTIZE_PLANES * words; i++)
		planes[i] = bits(g, i);
	const struct quantize_stream stream = {.next = planes, .begun = n % 2};
	quantize_by_name("scalar")->codes(planes, codes, n, words, want, NULL);
	k->codes(planes, codes, n, words, out, n % 3 ? &stream : NULL);
	assert_memory_equal(out, want, n * sizeof(*out));
	const uint64_t *at[MAX_ROWS];
	uint32_t here[MAX_ROWS];
	for (size_t i = 0; i < n; i++) { /* some twice, in no order */
		size_t row = i * 7 % n;
		at[i] = codes + row * words;
		here[i] = want[row];
	}
	k->codes_at(planes, at, n, words, out);
	assert_memory_equal(out, here, n * sizeof(*out));
	quantize_by_name("scalar")->upper(planes, codes, n, words, want, NULL);
	k->upper(planes, codes, n, words, out, n % 3 ? &stream : NULL);
	assert_memory_equal(out, want, n * sizeof(*out));
}

static void test_codes(void **state)
{
	const struct quantize_kernels *k = *state;
	for (size_t words = 1; words <= MAX_WORDS; words++) {
		for (size_t n = 0; n <= 20; n++)
			check_codes(k, RANDOM, RANDOM, n, words);
		check_codes(k, RANDOM, RANDOM, MAX_ROWS, words);
		for (enum fill f = RANDOM; f < FILLS; f++) {
			for (enum fill g = RANDOM; g < FILLS; g++)
				check_codes(k, f, g, 19, words);
		}
	}
	for (size_t n = 0; n <= MAX_ROWS; n++)
		check_codes(k, RANDOM, ONES, n, 24);
}

static void check_bytes(const struct quantize_kernels *k, enum fill f, enum fill g, size_t nrows, size_t n,
			size_t stride)
{
	static uint8_t *rows_end;
	static int8_t *q_end, *low_end;
	static int32_t *out_end;
	int32_t want[MAX_ROWS], pair[3] = {0, 0, 12345}, pair_want[2];
	if (!rows_end) {
		rows_end = fence((size_t)MAX_ROWS * (MAX_N + 3));
		q_end = fence(MAX_N);
		low_end = fence(MAX_N);
		out_end = fence(MAX_ROWS * 4);
	}
	uint8_t *rows = rows_end - (nrows ? (nrows - 1) * stride + n : 0);
	int8_t *q = q_end - n, *low = low_end - n;
	int32_t *out = out_end - nrows;
	for (uint8_t *p = rows; p < rows_end; p++)
		*p = (uint8_t)signed_byte(g, (size_t)(p - rows));
	for (size_t i = 0; i < n; i++) {
		q[i] = signed_byte(f, i);
		low[i] = signed_byte(RANDOM, i);
	}
	const struct quantize_kernels *ref = quantize_by_name("scalar");
	ref->bytes(q, rows, nrows, n, stride, want);
	k->bytes(q, rows, nrows, n, stride, out);
	assert_memory_equal(out, want, nrows * sizeof(*out));
	if (nrows) {
		const uint8_t *last = rows + (nrows - 1) * stride;
		ref->bytes_pair(q, low, last, n, pair_want);
		k->bytes_pair(q, low, last, n, pair);
		assert_memory_equal(pair, pair_want, sizeof(pair_want));
		assert_int_equal(pair[0], want[nrows - 1]);
		assert_int_equal(pair[2], 12345);
	}
}

static void test_bytes(void **state)
{
	const struct quantize_kernels *k = *state;
	for (size_t n = 64; n <= MAX_N; n += 64) {
		for (size_t odd = 0; odd < 4; odd++)
			check_bytes(k, RANDOM, RANDOM, 9 + odd, n, n + odd);
		/* As unsigned bytes ONES is 127: 255 comes of -1 in RANDOM and below. */
		for (enum fill f = RANDOM; f < FILLS; f++) {
			for (enum fill g = RANDOM; g < FILLS; g++)
				check_bytes(k, f, g, 9, n, n);
		}
	}
	for (size_t nrows = 0; nrows <= MAX_ROWS; nrows++)
		check_bytes(k, RANDOM, RANDOM, nrows, 128, 131);
}

/* Sums of two products of 255 leave 16 bits: where a kernel saturates there, this is not the product. */
static void test_bytes_extremes(void **state)
{
	const struct quantize_kernels *k = *state;
	static uint8_t rows[9 * MAX_N];
	static int8_t q[MAX_N];
	int32_t out[9], pair[2];
	memset(rows, 255, sizeof(rows));
	for (int v = -128; v <= 127; v += 255) {
		memset(q, v, sizeof(q));
		k->bytes(q, rows, 9, MAX_N, MAX_N, out);
		k->bytes_pair(q, q, rows, MAX_N, pair);
		for (size_t r = 0; r < 9; r++)
			assert_int_equal(out[r], MAX_N * 255 * v);
		assert_true(pair[0] == MAX_N * 255 * v && pair[1] == MAX_N * 255 * v);
	}
}

static void test_select(void **state)
{
	const struct quantize_kernels *k = *state;
	static const float floors[] = {-INFINITY, -1, 0, 0.01F, 1, INFINITY, NAN};
	uint32_t *dist_end = fence(MAX_ROWS * 4), *factors_end = fence(MAX_ROWS * 4),
		 *index_end = fence((MAX_ROWS + 16) * 4);
	float *est_end = fence((MAX_ROWS + 16) * 4), want_est[MAX_ROWS + 16];
	uint32_t want[MAX_ROWS + 16];
	size_t survived = 0;
	for (size_t round = 0; round < 100; round++) {
		for (size_t n = 0; n <= MAX_ROWS; n++) {
			uint32_t *dist = dist_end - n, *factors = factors_end - n, *index = index_end - n - 16;
			float *est = est_end - n - 16;
			for (size_t i = 0; i < n; i++) {
				dist[i] = (uint32_t)next() % (15 * MAX_N + 1);
				/* every half in g; small ones in f, but for a few rounds */
				factors[i] = round < 10 ? (uint32_t)next() : (uint32_t)next() % 0x2400 | 0x2c000000;
			}
			const struct quantize_line l = {(float)(next() % 1000) / 1000, -0.37F, 1.0F / 3000, 0.0123F,
							floors[next() % ARRAY_LEN(floors)]};
			size_t found = quantize_by_name("scalar")->select(dist, factors, n, &l, want, want_est);
			assert_int_equal(k->select(dist, factors, n, &l, index, est), found);
			assert_memory_equal(index, want, found * sizeof(*want));
			assert_memory_equal(est, want_est, found * sizeof(*want_est));
			survived += found;
		}
	}
	assert_true(survived > 1000);
}

/* ---- floats ---- */

static const float specials[] = {0.0F,	   -0.0F,    FLT_MAX,	 -FLT_MAX, INFINITY,  -INFINITY, NAN,	FLT_MIN,
				 -FLT_MIN, 1e-42F,   -1e-45F,	 65504,	   65519.99F, 65520,	 65536, 0x1p-14F,
				 0x1p-24F, 0x1p-25F, 0x1.8p-24F, 0.5F,	   1.5F,      2.5F,	 -0.5F, -1.5F,
				 126.5F,   127.5F,   -127.5F,	 -128.5F,  1e9F,      -1e9F,	 3e9F,	0x1.004p0F};

static float value(size_t i, size_t kind)
{
	float r = (float)(uint32_t)next() / (float)UINT32_MAX * 2 - 1;
	switch (kind) {
	case 0: return r;
	case 1: return specials[(i + next() % 3) % ARRAY_LEN(specials)];
	case 2: return r * 1e-41F;
	case 3: return (float)((int)(next() % 600) - 300) / 2; /* ties */
	default: {					       /* any bits */
		uint32_t u = (uint32_t)next();
		memcpy(&r, &u, sizeof(r));
		return r;
	}
	}
}

/* Two floats that are the same, or both no number. */
static bool same(float a, float b) { return memcmp(&a, &b, sizeof(a)) == 0 || (isnan(a) && isnan(b)); }

static void check_floats(const struct quantize_kernels *k, size_t n, size_t kind)
{
	static float *x_end, y[MAX_N];
	static uint16_t *half_end, half[MAX_N];
	static uint8_t *byte_end, byte[MAX_N];
	static uint64_t *code_end, code[MAX_WORDS];
	const struct quantize_kernels *ref = quantize_by_name("scalar");
	if (!x_end) {
		x_end = fence(MAX_N * 4);
		half_end = fence(MAX_N * 2);
		byte_end = fence(MAX_N);
		code_end = fence(MAX_N / 8);
	}
	float *x = x_end - n, inverse = kind == 3 ? 1 : 127;
	for (size_t i = 0; i < n; i++)
		y[i] = x[i] = value(i, kind);
	ref->to_half(y, n, half);
	k->to_half(x, n, half_end - n);
	assert_memory_equal(half_end - n, half, n * 2);
	ref->to_bytes(y, n, inverse, byte);
	k->to_bytes(x, n, inverse, byte_end - n);
	assert_memory_equal(byte_end - n, byte, n);
	int8_t pair[2][2][MAX_N];
	int32_t sums[2][2];
	uint64_t planes[2][QUANTIZE_PLANES * MAX_WORDS];
	for (size_t i = 0; i < 2; i++) {
		const struct quantize_kernels *who = i ? k : ref;
		who->to_pair(i ? x : y, n, inverse * 200, pair[i][0], pair[i][1], sums[i]);
		who->to_planes(i ? x : y, n, inverse / 10, planes[i]);
	}
	assert_memory_equal(pair[0][0], pair[1][0], n);
	assert_memory_equal(pair[0][1], pair[1][1], n);
	assert_memory_equal(sums[0], sums[1], sizeof(sums[0]));
	assert_memory_equal(planes[0], planes[1], QUANTIZE_PLANES * n / 8);
	for (size_t i = 0; i < n; i++) {
		float whole = y[i] * (inverse * 200);
		if (fabsf(whole) < 32000)
			assert_true(fabsf(whole - (float)(256 * pair[0][0][i] + pair[0][1][i])) <= 0.5F);
	}
	ref->to_code(y, n, code);
	k->to_code(x, n, code_end - n / 64);
	assert_memory_equal(code_end - n / 64, code, n / 8);
	for (size_t i = 0; i < n / 64; i++)
		(code_end - n / 64)[i] = code[i] = next();
	ref->flip(y, code, n);
	k->flip(x, code_end - n / 64, n);
	assert_memory_equal(x, y, n * sizeof(*x));
	if ((n & (n - 1)) == 0) {
		ref->hadamard(y, n);
		k->hadamard(x, n);
		for (size_t i = 0; i < n; i++)
			assert_true(same(x[i], y[i]));
	}
}

static void test_floats(void **state)
{
	for (size_t n = 64; n <= MAX_N; n += 64) {
		for (size_t kind = 0; kind < 5; kind++) {
			check_floats(*state, n, kind);
			check_floats(*state, n, kind);
		}
	}
}

static void test_half_dot(void **state)
{
	const struct quantize_kernels *k = *state;
	float *q_end = fence(MAX_N * 4), *x = malloc(MAX_N * 4);
	uint16_t *row_end = fence(MAX_N * 2);
	for (size_t n = 64; n <= MAX_N; n += 64) {
		float *q = q_end - n;
		uint16_t *row = row_end - n;
		double want = 0, magnitude = 0;
		for (size_t i = 0; i < n; i++) {
			q[i] = value(i, 0);
			x[i] = (float)((int)(next() % 2047) - 1023) /
			       (i % 3 ? 1024.0F : 0x1p24F); /* halves as they are */
			want += (double)q[i] * x[i];
			magnitude += fabs((double)q[i] * x[i]);
		}
		k->to_half(x, n, row);
		assert_true(fabs(k->half_dot(q, row, n) - want) <= 1e-5 * magnitude);
	}
	free(x);
}

/* ---- the mathematics ---- */

/* The identity that the header states. */
static void test_identity(void **state)
{
	const struct quantize_kernels *k = *state;
	enum { WORDS = 24, N = WORDS * 64 };
	uint64_t planes[QUANTIZE_PLANES * WORDS], code[WORDS];
	uint32_t out;
	for (size_t round = 0; round < 50; round++) {
		int64_t high = 0, want = 0;
		for (size_t i = 0; i < ARRAY_LEN(planes); i++)
			planes[i] = next();
		for (size_t i = 0; i < WORDS; i++)
			code[i] = next();
		for (size_t i = 0; i < N; i++) {
			int level = 0;
			for (size_t j = 0; j < QUANTIZE_PLANES; j++)
				level += (planes[j * WORDS + i / 64] >> i % 64 & 1 ? 1 : -1) * (1 << j);
			int by_upper = (level > 0 ? 8 : -8) + (planes[2 * WORDS + i / 64] >> i % 64 & 1 ? 4 : -4);
			want += code[i / 64] >> i % 64 & 1 ? level : -level;
			high += code[i / 64] >> i % 64 & 1 ? by_upper : -by_upper;
		}
		k->codes(planes, code, 1, WORDS, &out, NULL);
		assert_int_equal(15 * N - 2 * (int64_t)out, want);
		k->upper(planes, code, 1, WORDS, &out, NULL);
		assert_int_equal(4 * (3 * N - 2 * (int64_t)out), high);
	}
}

static void test_hadamard(void **state)
{
	const struct quantize_kernels *k = *state;
	static float x[MAX_N], y[MAX_N];
	for (size_t n = 64; n <= MAX_N; n *= 2) {
		double length = 0, most = 0;
		for (size_t i = 0; i < n; i++) {
			x[i] = y[i] = value(i, 0);
			length += (double)x[i] * x[i];
		}
		k->hadamard(y, n);
		for (size_t i = 0; i < n; i++) {
			double want = 0;
			for (size_t j = 0; j < n; j++)
				want += __builtin_parityll(i & j) ? -(double)x[j] : (double)x[j];
			most = fmax(most, fabs(want / sqrt((double)n) - (double)y[i]));
		}
		assert_true(most <= 1e-5 * sqrt(length));
	}
}

/* Every half there is, by its definition; then that rounding finds the nearest of them, and at a tie the even one. */
static double half_value(unsigned h)
{
	double mantissa = h & 0x3ff;
	int exponent = (int)(h >> 10 & 31);
	double v = exponent ? ldexp(1024 + mantissa, exponent - 25) : ldexp(mantissa, -24);
	return h & 0x8000 ? -v : v;
}

static void test_half(void **state)
{
	const struct quantize_kernels *k = *state;
	static float x[64], one[64] = {1};
	uint16_t half[64], row[64] = {0};
	for (unsigned h = 0; h < 0x7bff; h++) {
		double low = half_value(h), high = half_value(h + 1);
		float tie = (float)((low + high) / 2);
		const float inputs[] = {(float)low, nextafterf(tie, 0), tie, nextafterf(tie, INFINITY), (float)high};
		const unsigned want[] = {h, h, h % 2 ? h + 1 : h, h + 1, h + 1};
		for (size_t i = 0; i < 5; i++) {
			x[i] = inputs[i];
			x[8 + i] = -inputs[i];
		}
		k->to_half(x, 64, half);
		for (size_t i = 0; i < 5; i++) {
			assert_int_equal(half[i], want[i]);
			assert_int_equal(half[8 + i], want[i] | 0x8000);
		}
		row[0] = (uint16_t)h;
		assert_true((double)k->half_dot(one, row, 64) == low);
	}
}

static void test_to_bytes(void **state)
{
	const struct quantize_kernels *k = *state;
	static const struct {
		float x;
		uint8_t want;
	} rows[] = {{0, 128},	  {-0.0F, 128},	   {0.5F, 128},	   {1.5F, 130}, {2.5F, 130},   {-0.5F, 128},
		    {-1.5F, 126}, {126.5F, 254},   {126.4F, 254},  {127, 255},	{127.5F, 255}, {1e9F, 255},
		    {3e9F, 255},  {INFINITY, 255}, {-INFINITY, 1}, {-127, 1},	{-128, 1},     {-1e9F, 1},
		    {-3e9F, 1},	  {FLT_MAX, 255},  {-FLT_MAX, 1},  {NAN, 128},	{1e-42F, 128}, {0.50001F, 129}};
	float x[64] = {0};
	uint8_t out[64];
	uint64_t code;
	for (size_t i = 0; i < ARRAY_LEN(rows); i++)
		x[i] = rows[i].x;
	k->to_bytes(x, 64, 1, out);
	k->to_code(x, 64, &code);
	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		assert_int_equal(out[i], rows[i].want);
		assert_int_equal(code >> i & 1, !(rows[i].x < 0));
	}
}

/* ---- */

static void test_choice(void **state)
{
	(void)state;
	assert_null(quantize_by_name("mmx"));
	assert_null(quantize_by_name(""));
	assert_non_null(quantize_by_name("scalar"));
	assert_ptr_equal(quantize_get(), quantize_get());
	if (quantize_by_name(kernels_get()->name)) /* which knows the cap */
		assert_string_equal(quantize_get()->name, kernels_get()->name);
}

int main(void)
{
	static const char *const families[] = {"scalar", "avx2", "avx512", "neon"};
	static const struct {
		const char *name;
		CMUnitTestFunction f;
	} kinds[] = {
		{"codes", test_codes},	     {"bytes", test_bytes},	  {"extremes of bytes", test_bytes_extremes},
		{"select", test_select},     {"floats", test_floats},	  {"half_dot", test_half_dot},
		{"identity", test_identity}, {"hadamard", test_hadamard}, {"halves", test_half},
		{"to_bytes", test_to_bytes}};
	struct CMUnitTest tests[ARRAY_LEN(families) * ARRAY_LEN(kinds) + 1];
	static char names[ARRAY_LEN(tests)][48];
	size_t n = 0;
	for (size_t f = 0; f < ARRAY_LEN(families); f++) {
		const struct quantize_kernels *k = quantize_by_name(families[f]);
		if (!k)
			printf("this processor has no %s\n", families[f]);
		for (size_t t = 0; k && t < ARRAY_LEN(kinds); t++, n++) {
			snprintf(names[n], sizeof(names[n]), "%s: %s", families[f], kinds[t].name);
			tests[n] = (struct CMUnitTest){names[n], kinds[t].f, NULL, NULL, (void *)(uintptr_t)k};
		}
	}
	tests[n++] = (struct CMUnitTest)cmocka_unit_test(test_choice);
	return _cmocka_run_group_tests("test_quantize", tests, n, NULL, NULL);
}
