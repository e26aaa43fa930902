#include "kmeans.h"

#include <math.h>
#include <stdlib.h>

#include "quantize.h"

#define SLICE 192U /* components of the first rounds */
#define SLICE_ROUNDS 6
#define WHOLE_ROUNDS 2
#define SHORT_LIST 16 /* centroids, near by the slice, that are looked at whole */
#define GROUP 64      /* centroids whose products are made at once */

struct run {
	const int8_t *rows;
	size_t n;
	uint32_t stride, width, k; /* width: components that are looked at */
	float *centroids;	   /* k · stride */
	uint8_t *bytes;		   /* the same, k · stride */
	float *steps, *halves;	   /* of the bytes; |c|² / 2, */
	float *slice_halves;	   /* and of the slice */
	uint32_t *of;		   /* per row: its centroid */
	uint32_t *members;
	struct turn *turn;
	uint64_t random;
};

static uint64_t next(struct run *r)
{
	r->random ^= r->random << 13;
	r->random ^= r->random >> 7;
	r->random ^= r->random << 17;
	return r->random;
}

static void seed(struct run *r)
{
	/* distinct rows, spread over all of them */
	for (uint32_t c = 0; c < r->k; c++) {
		size_t from = r->n * c / r->k, to = r->n * (c + 1) / r->k;
		const int8_t *row = r->rows + (from + next(r) % (to - from)) * r->stride;
		for (uint32_t i = 0; i < r->stride; i++)
			r->centroids[(size_t)c * r->stride + i] = row[i];
	}
}

static float square_of(const float *x, uint32_t n)
{
	float part[4] = {0}; /* n is a multiple of 64 */
	for (uint32_t i = 0; i < n; i += 4)
		for (uint32_t k = 0; k < 4; k++)
			part[k] += x[i + k] * x[i + k];
	return (part[0] + part[1]) + (part[2] + part[3]);
}

static void quantise(struct run *r)
{
	const struct quantize_kernels *k = quantize_get();
	uint32_t slice = r->width < SLICE ? r->width : SLICE;
	for (uint32_t c = 0; c < r->k; c++) {
		const float *x = r->centroids + (size_t)c * r->stride;
		float most = quantize_most(x, r->width);
		r->steps[c] = most / 127;
		r->halves[c] = square_of(x, r->width) / 2;
		r->slice_halves[c] = square_of(x, slice) / 2;
		k->to_bytes(x, r->width, most > 0 ? 127 / most : 0, r->bytes + (size_t)c * r->stride);
	}
}

static int32_t sum_of(const int8_t *row, uint32_t n)
{
	int32_t sum = 0;
	for (uint32_t i = 0; i < n; i++)
		sum += row[i];
	return sum;
}

/* The `most` centroids nearest by the slice. */
static uint32_t short_list(const struct run *r, const int8_t *row, uint32_t most, struct near *out)
{
	const struct quantize_kernels *k = quantize_get();
	uint32_t slice = r->width < SLICE ? r->width : SLICE, n = 0;
	int32_t dots[GROUP], bias = 128 * sum_of(row, slice);
	for (uint32_t c = 0; c < r->k; c += GROUP) {
		uint32_t group = r->k - c < GROUP ? r->k - c : GROUP;
		k->bytes(row, r->bytes + (size_t)c * r->stride, group, slice, r->stride, dots);
		for (uint32_t i = 0; i < group; i++) {
			float near = r->steps[c + i] * (float)(dots[i] - bias) - r->slice_halves[c + i];
			n = near_keep(out, n, most, near, c + i);
		}
	}
	return n;
}

static uint32_t nearest(const struct run *r, const int8_t *row)
{
	const struct quantize_kernels *k = quantize_get();
	struct near list[SHORT_LIST] = {0};
	uint32_t n = short_list(r, row, r->width > SLICE ? SHORT_LIST : 1, list), best = list[0].of;
	int32_t dot, bias = r->width > SLICE ? 128 * sum_of(row, r->width) : 0;
	float top = -INFINITY;
	for (uint32_t i = 0; i < n && r->width > SLICE; i++) {
		uint32_t c = list[i].of;
		k->bytes(row, r->bytes + (size_t)c * r->stride, 1, r->width, r->width, &dot);
		float near = r->steps[c] * (float)(dot - bias) - r->halves[c];
		if (near > top) {
			top = near;
			best = c;
		}
	}
	return best;
}

/* A centroid without rows takes a place near that of one that has many. */
static void fill_empty(struct run *r, uint32_t c)
{
	uint32_t most = 0;
	for (uint32_t i = 1; i < r->k; i++)
		most = r->members[i] > r->members[most] ? i : most;
	for (size_t i = next(r) % r->n, tried = 0; tried < r->n; i = (i + 1) % r->n, tried++) {
		if (r->of[i] != most)
			continue;
		for (uint32_t j = 0; j < r->width; j++)
			r->centroids[(size_t)c * r->stride + j] = r->rows[i * r->stride + j];
		r->of[i] = c;
		r->members[most]--;
		r->members[c] = 1;
		return;
	}
}

static void means(struct run *r)
{
	memset(r->centroids, 0, (size_t)r->k * r->stride * sizeof(float));
	memset(r->members, 0, r->k * sizeof(*r->members));
	for (size_t i = 0; i < r->n; i++) {
		float *c = r->centroids + (size_t)r->of[i] * r->stride;
		const int8_t *row = r->rows + i * r->stride;
		r->members[r->of[i]]++;
		for (uint32_t j = 0; j < r->width; j++)
			c[j] += row[j];
	}
	for (uint32_t c = 0; c < r->k; c++) {
		if (!r->members[c])
			fill_empty(r, c);
		float inverse = 1 / (float)r->members[c];
		for (uint32_t j = 0; j < r->width; j++)
			r->centroids[(size_t)c * r->stride + j] *= inverse;
	}
}

static bool rounds(struct run *r, uint32_t count)
{
	for (uint32_t round = 0; round < count; round++) {
		quantise(r);
		for (size_t i = 0; i < r->n; i++) {
			if (i % 256 == 0)
				turn_rest(r->turn);
			if (i % 256 == 0 && turn_over(r->turn))
				return false;
			r->of[i] = nearest(r, r->rows + i * r->stride);
		}
		means(r);
	}
	return true;
}

bool kmeans(const int8_t *rows, size_t n, uint32_t width, uint32_t k, float *out, struct turn *turn)
{
	struct run r = {.rows = rows,
			.n = n,
			.stride = width,
			.width = width > SLICE ? SLICE : width,
			.k = k,
			.centroids = out,
			.turn = turn,
			.random = 0x9e3779b97f4a7c15ull};
	AN(n >= k && k);
	r.bytes = util_alloc((size_t)k * width);
	r.steps = util_alloc(3 * (size_t)k * sizeof(float));
	r.halves = r.steps + k;
	r.slice_halves = r.halves + k;
	r.of = util_alloc(n * sizeof(*r.of));
	r.members = util_alloc(k * sizeof(*r.members));
	seed(&r);
	bool whole = rounds(&r, SLICE_ROUNDS);
	r.width = width;
	if (whole) {
		means(&r); /* of all components, by what the first ones told */
		whole = rounds(&r, WHOLE_ROUNDS);
	}
	free(r.bytes);
	free(r.steps);
	free(r.of);
	free(r.members);
	return whole;
}
