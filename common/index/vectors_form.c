/* The forms of rows, and of the query that meets them. */
#include <math.h>
#include <stdlib.h>

#include "kernels-private.h"
#include "vectors-private.h"
#include "vocabulary.h"

#define BYTES_FROM 256 /* components; below, bytes would save little beside ids and versions */

uint32_t vectors_form_of(const struct vectors *v, uint32_t dim)
{
	switch (v->w->stages.raw) {
	case VECTORS_RAW_INT8: return VECTORS_BYTES;
	case VECTORS_RAW_FLOAT16: return VECTORS_HALVES;
	case VECTORS_RAW_FLOAT32: return VECTORS_FLOATS;
	case VECTORS_RAW_AUTO: break;
	}
	return dim >= BYTES_FROM ? VECTORS_BYTES : VECTORS_FLOATS;
}

/* Up to the next float whose lower half is zero, which is all that is kept of it: the row is made of just that step. */
static float step_above(float step)
{
	uint32_t bits;
	memcpy(&bits, &step, sizeof(bits));
	bits = (bits + 0xffff) & 0xffff0000;
	memcpy(&step, &bits, sizeof(step));
	return step;
}

void vectors_form_row(struct vectors *v, struct vectors_row *row, uint32_t form)
{
	const struct quantize_kernels *k = quantize_get();
	AN(row->form == VECTORS_FLOATS && form != VECTORS_FLOATS);
	float x[LIMIT_DIMENSIONS];
	uint32_t width = rotate_width(row->dim);
	if (form == VECTORS_HALVES) {
		memcpy(x, row->data, row->dim * sizeof(float));
		memset(x + row->dim, 0, (width - row->dim) * sizeof(float));
		k->to_half(x, width, v->w->formed);
	} else {
		rotate(row->data, row->dim, x);
		row->step = step_above(quantize_most(x, width) / 127);
		k->to_bytes(x, width, row->step > 0 ? 1 / row->step : 0, v->w->formed);
	}
	row->form = form;
	row->data = v->w->formed;
}

KERNEL_RACY static void from_bytes(const uint8_t *b, float step, uint32_t width, float *out)
{
	for (uint32_t i = 0; i < width; i++)
		out[i] = step * (float)((int)b[i] - 128);
}

KERNEL_RACY static void from_halves(const uint16_t *h, uint32_t n, float *out)
{
	for (uint32_t i = 0; i < n; i++)
		out[i] = quantize_half(h[i]);
}

/* The row as it came, normalised; not of bytes. */
static void floats_of(const char *row, const struct vectors_shape *s, uint32_t dim, float *out)
{
	if (s->form == VECTORS_HALVES)
		from_halves((const uint16_t *)(const void *)row, dim, out);
	else
		memcpy(out, row, dim * sizeof(float));
}

void vectors_form_rotated(const struct vectors *v, const char *chunk, const struct vectors_shape *s, uint32_t dim,
			  uint32_t i, float *out)
{
	struct spill *sp = NULL;
	const char *row = spill_rows(&sp, v, chunk, s, i, 1);
	float x[LIMIT_DIMENSIONS];
	if (s->form == VECTORS_BYTES) {
		from_bytes((const uint8_t *)row, vectors_load_step(chunk, s, i), rotate_width(dim), out);
	} else {
		floats_of(row, s, dim, x);
		rotate(x, dim, out);
	}
	spill_end(&sp);
}

/* ---- the query ---- */

static double norm_of(const struct vectors_asked *a)
{
	const struct vectors_query *q = a->q;
	double sum = (double)a->k->dot(q->x, q->x, q->dim);
	if (sum > 1e-20 && sum < 1e20)
		return sqrt(sum);
	sum = 0; /* floats have overflowed or vanished */
	for (uint32_t i = 0; i < q->dim; i++)
		sum += (double)q->x[i] * (double)q->x[i];
	return sqrt(sum);
}

/* A query that is all zeros stays so: cosine 0 with everything. */
static void normalise(struct vectors_asked *a, float *unit)
{
	const struct vectors_query *q = a->q;
	a->norm = norm_of(a);
	double factor = a->norm > 0 ? 1 / a->norm : 0;
	if (factor < 1e30 && factor > 1e-30) {
		float f = (float)factor;
		for (uint32_t i = 0; i < q->dim; i++)
			unit[i] = q->x[i] * f;
	} else {
		for (uint32_t i = 0; i < q->dim; i++)
			unit[i] = (float)(q->x[i] * factor);
	}
	memcpy(a->x, q->metric == VECTORS_COSINE ? unit : q->x, q->dim * sizeof(float));
	memset(a->x + q->dim, 0, (a->width - q->dim) * sizeof(float));
}

/* Two signed bytes a component: 16 bits of the query against 8 of the row. */
static void split(struct vectors_asked *a)
{
	int32_t sums[2];
	float most = quantize_most(a->rotated, a->width);
	a->step = most / 32512; /* 127 · 256: the high part stays within a byte */
	a->qk->to_pair(a->rotated, a->width, most > 0 ? 32512 / most : 0, a->high, a->low, sums);
	a->sum_high = sums[0];
	a->sum = sums[1];
}

static void allot(struct vectors_asked *a, const struct vectors *v, const struct vectors_query *q)
{
	uint32_t width = rotate_width(q->dim);
	*a = (struct vectors_asked){.v = v, .q = q, .k = v->kernels, .qk = v->quantize, .width = width};
	size_t floats = align_up(width * sizeof(float), CACHE_LINE);
	char *p = a->memory = aligned_alloc(CACHE_LINE, 2 * floats + align_up(2 * (size_t)width, CACHE_LINE));
	AN(p);
	a->x = (float *)(void *)p;
	a->rotated = (float *)(void *)(p + floats);
	a->high = (int8_t *)(p + 2 * floats);
	a->low = a->high + width;
}

void vectors_ask(struct vectors_asked *a, const struct vectors *v, const struct vectors_query *q)
{
	float unit[LIMIT_DIMENSIONS];
	allot(a, v, q);
	normalise(a, unit);
	rotate(unit, q->dim, a->rotated);
	split(a);
}

void vectors_ask_row(struct vectors_asked *a, const struct vectors *v, const struct vectors_query *q, const char *chunk,
		     const struct vectors_shape *s, uint32_t i)
{
	allot(a, v, q);
	vectors_form_rotated(v, chunk, s, q->dim, i, a->rotated);
	memset(a->x, 0, a->width * sizeof(float));
	if (s->form != VECTORS_BYTES)
		floats_of(spill_rows(&a->spill, v, chunk, s, i, 1), s, q->dim, a->x);
	for (uint32_t k = 0; k < a->width; k++)
		a->norm = a->rotated[k] != 0 ? 1 : a->norm;
	split(a);
}

void vectors_ask_end(struct vectors_asked *a)
{
	spill_end(&a->spill);
	free(a->memory);
}

static float ask_bytes(const struct vectors_asked *a, const uint8_t *row, float step)
{
	int32_t dots[2];
	a->qk->bytes_pair(a->high, a->low, row, a->width, dots);
	int64_t whole = 256 * (int64_t)dots[0] + dots[1] - 128 * a->sum;
	return a->step * step * (float)whole;
}

/* The query's metric from a row's cosine. */
static float by_metric(const struct vectors_asked *a, float cosine, float norm)
{
	double n = (double)norm;
	switch (a->q->metric) {
	case VECTORS_DOT: return (float)(a->norm * n * (double)cosine);
	case VECTORS_L2: return (float)(2 * a->norm * n * (double)cosine - a->norm * a->norm - n * n);
	case VECTORS_COSINE: break;
	}
	return cosine;
}

KERNEL_RACY static void ask_floats(const struct vectors_asked *a, const float *rows, const float *norms,
				   const struct vectors_shape *s, uint32_t n, float *out)
{
	if (a->q->metric == VECTORS_L2)
		a->k->l2sq_rows(a->x, rows, norms, n, s->stride, out);
	else
		a->k->dot_rows(a->x, rows, n, s->stride, out);
	for (uint32_t i = 0; i < n && a->q->metric != VECTORS_COSINE; i++)
		out[i] = a->q->metric == VECTORS_L2 ? -out[i] : out[i] * norms[i];
}

static float ask_halves(const struct vectors_asked *a, const uint16_t *row, const struct vectors_shape *s)
{
	float scale = a->q->metric == VECTORS_COSINE || a->norm <= 0 ? 1 : (float)(1 / a->norm);
	return scale * a->qk->half_dot(a->x, row, s->stride);
}

/* `rows`: as they were given. */
static void ask_some(const struct vectors_asked *a, const char *chunk, const struct vectors_shape *s, const char *rows,
		     uint32_t first, uint32_t n, float *out)
{
	if (s->form == VECTORS_FLOATS) {
		const float *norms = (const float *)(const void *)(chunk + s->norms) + first;
		ask_floats(a, (const float *)(const void *)rows, norms, s, n, out);
		return;
	}
	for (uint32_t i = 0; i < n; i++, rows += s->row_bytes) {
		float cosine = s->form == VECTORS_HALVES
				       ? ask_halves(a, (const uint16_t *)(const void *)rows, s)
				       : ask_bytes(a, (const uint8_t *)rows, vectors_load_step(chunk, s, first + i));
		out[i] = by_metric(a, cosine, vectors_load_norm(chunk, s, first + i));
	}
}

void vectors_ask_rows(struct vectors_asked *a, const char *chunk, const struct vectors_shape *s, uint32_t first,
		      uint32_t n, float *out)
{
	for (uint32_t some; n; n -= some, first += some, out += some) {
		some = spill_together(s, n);
		const char *rows = spill_rows(&a->spill, a->v, chunk, s, first, some);
		ask_some(a, chunk, s, rows, first, some, out);
	}
}

float vectors_ask_floor(const struct vectors_asked *a, float score, float least, float most)
{
	double q = a->norm, s = (double)score;
	if (!(q > 0) || a->q->metric == VECTORS_COSINE)
		return score;
	if (!(least > 0) || !(most >= least)) /* not known yet */
		return -INFINITY;
	if (a->q->metric == VECTORS_DOT)
		return (float)(s / (q * (s > 0 ? (double)most : (double)least)));
	/* score < cosine · 2qn − q² − n²: the cosine that it takes, at the norm that makes it least */
	double t = q * q + s, n = t > 0 ? sqrt(t) : 0;
	n = n < (double)least ? (double)least : n > (double)most ? (double)most : n;
	return (float)((t + n * n) / (2 * q * n));
}
