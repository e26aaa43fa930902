/* Which lists a search reads, and in what order: nearest first by <c,q>. Many lists are ranked by their centroids' codes,
 * an eighth of the memory of their bytes; and of these only the fronts are read of lists that cannot be near. */
#include <math.h>

#include "kernels-private.h"
#include "lists-private.h"

#define RUN 512U
#define BINS 1024U
/* Standard deviations that an estimate from a front may be off: to find the nearest, and to leave out a list. */
#define FIRST_OFF 1.0F
#define OFF 1.5F

KERNEL_RACY void lists_ask_centroids(const struct lists_view *w, const struct vectors_asked *a, uint32_t first,
				     uint32_t n, float *out)
{
	const float *steps = lists_steps(w) + first;
	int32_t dots[64];
	float scale = 256 * a->step;
	a->qk->bytes(a->high, lists_centroids(w) + (size_t)first * w->width, n, w->width, w->width, dots);
	for (uint32_t i = 0; i < n; i++)
		out[i] = scale * steps[i] * (float)(dots[i] - 128 * a->sum_high);
}

void lists_rank(struct lists_ranking *r)
{
	const struct lists_view *w = r->w;
	if (lists_coded(w))
		r->a->qk->upper(r->planes, (const uint64_t *)(const void *)lists_fronts(w), w->count,
				w->front_bytes / 8, r->dist, NULL);
	else
		for (uint32_t l = 0; l < w->count; l += 64)
			lists_ask_centroids(w, r->a, l, w->count - l < 64 ? w->count - l : 64, r->cosines + l);
}

/* What the fronts of centroids' codes say; they let pass what may be off by `off` standard deviations. */
static struct quantize_line line_of(const struct lists_ranking *r, float off, float floor)
{
	struct quantize_line line = lists_front_line(r->w, &r->line);
	line.slack = off * sqrtf(lists_share(r->w)) * r->rest;
	line.floor = floor;
	return line;
}

static float best_front(const struct lists_ranking *r)
{
	const struct quantize_line line = line_of(r, 0, -INFINITY);
	uint32_t index[RUN + 16];
	float estimate[RUN + 16], best = -INFINITY;
	for (uint32_t l = 0; l < r->w->count; l += RUN) {
		uint32_t n = r->w->count - l < RUN ? r->w->count - l : RUN;
		size_t kept = r->a->qk->select(r->dist + l, lists_factors(r->w) + l, n, &line, index, estimate);
		for (size_t i = 0; i < kept; i++)
			best = estimate[i] > best ? estimate[i] : best;
	}
	return best;
}

/* Appends lists of which the fronts are good enough, ranked by their whole codes. */
KERNEL_RACY static void rank_whole(struct lists_ranking *r, const uint32_t *list, uint32_t n)
{
	const struct lists_view *w = r->w;
	uint32_t dist[LISTS_TOGETHER], back = w->code_bytes - w->front_bytes;
	const uint64_t *fronts[LISTS_TOGETHER], *backs[LISTS_TOGETHER];
	for (uint32_t i = 0; i < n; i++) {
		const char *p = lists_backs_of_centroids(w) + (size_t)list[i] * back;
		for (uint32_t k = 0; k < back; k += CACHE_LINE)
			__builtin_prefetch(p + k);
		fronts[i] = (const uint64_t *)(const void *)(lists_fronts(w) + (size_t)list[i] * w->front_bytes);
		backs[i] = (const uint64_t *)(const void *)p;
	}
	lists_whole(w, r->planes, fronts, backs, n, dist);
	for (uint32_t i = 0; i < n; i++) {
		uint32_t both = lists_factors(w)[list[i]];
		float rest = quantize_half(both) * (r->line.add + r->line.mul * (float)dist[i]);
		r->near[r->n++] = (struct lists_near){.ranked = r->line.base + quantize_half(both >> 16) + rest,
						      .list = list[i]};
	}
}

static void pass_fronts(struct lists_ranking *r, float off, float floor)
{
	const struct quantize_line line = line_of(r, off, floor);
	uint32_t index[LISTS_TOGETHER + 16];
	float estimate[LISTS_TOGETHER + 16];
	r->n = 0;
	for (uint32_t l = 0; l < r->w->count; l += LISTS_TOGETHER) {
		uint32_t n = r->w->count - l < LISTS_TOGETHER ? r->w->count - l : LISTS_TOGETHER;
		uint32_t kept = (uint32_t)r->a->qk->select(r->dist + l, lists_factors(r->w) + l, n, &line, index,
							   estimate);
		for (uint32_t i = 0; i < kept; i++)
			index[i] += l;
		rank_whole(r, index, kept);
	}
}

/* Of the lists that are left by then, all where they have no codes: how many, and one of them. */
static uint32_t left(const struct lists_ranking *r, bool coded) { return coded ? r->n : r->w->count; }
static struct lists_near ranked(const struct lists_ranking *r, bool coded, uint32_t i)
{
	return coded ? r->near[i] : (struct lists_near){.ranked = r->cosines[i], .list = i};
}

struct lists_near lists_nearest(struct lists_ranking *r)
{
	struct lists_near best = {.ranked = -INFINITY};
	bool coded = lists_coded(r->w);
	if (coded)
		pass_fronts(r, FIRST_OFF, best_front(r));
	for (uint32_t i = 0; i < left(r, coded); i++) {
		struct lists_near one = ranked(r, coded, i);
		if (one.ranked > best.ranked)
			best = one;
	}
	return best;
}

/* Within 0 … bins - 1 whatever it is: what was ranked may be memory that is no longer lists'. */
static uint32_t bin_of(float below, float scale, uint32_t bins)
{
	float at = below * scale;
	return !(at > 0) ? 0 : at < (float)bins ? (uint32_t)at : bins - 1;
}

/* Into bins first, which leaves little to be done. */
static void sort(struct lists_near *x, struct lists_near *spare, uint32_t n)
{
	uint32_t at[BINS + 1], bins = n < BINS ? n : BINS;
	float top = -INFINITY, bottom = INFINITY;
	for (uint32_t i = 0; i < n; i++) {
		top = x[i].ranked > top ? x[i].ranked : top;
		bottom = x[i].ranked < bottom ? x[i].ranked : bottom;
	}
	float scale = top > bottom ? (float)(bins - 1) / (top - bottom) : 0;
	memset(at, 0, (bins + 1) * sizeof(*at));
	for (uint32_t i = 0; i < n; i++)
		at[bin_of(top - x[i].ranked, scale, bins) + 1]++;
	for (uint32_t i = 1; i < bins; i++)
		at[i] += at[i - 1];
	for (uint32_t i = 0; i < n; i++)
		spare[at[bin_of(top - x[i].ranked, scale, bins)]++] = x[i];
	for (uint32_t i = 0; i < n; i++) {
		uint32_t k = i;
		for (; k && x[k - 1].ranked < spare[i].ranked; k--)
			x[k] = x[k - 1];
		x[k] = spare[i];
	}
}

void lists_gather(struct lists_ranking *r, uint32_t but, float floor)
{
	bool coded = lists_coded(r->w);
	uint32_t n = 0;
	if (coded)
		pass_fronts(r, OFF, floor);
	for (uint32_t i = 0; i < left(r, coded); i++) {
		struct lists_near one = ranked(r, coded, i);
		r->near[n] = one;
		n += one.ranked > floor && one.list != but;
	}
	r->n = n;
	sort(r->near, r->near + r->w->count + 1, n);
}
