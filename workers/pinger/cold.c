/* Cold starts, told by how long an answer takes. */
#include "cold.h"

#include <stdlib.h>

#define MAD_SIGMA 1.4826 /* median deviation of a normal distribution, in standard deviations */
#define SIGMAS 10
#define TIMES 3		/* and so many times the median at least … */
#define MORE_US 20000	/* … and so much more: a target that answers in 1 ms is not cold at 5 */
#define CLUSTER_RATIO 3 /* between neighbours: two clusters */
#define CLUSTER_LEAST 3 /* members of the faster one */
#define ALIKE 2		/* slowest to fastest, of those that are a new normal */

static int by_size(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
	return (x > y) - (x < y);
}

static uint32_t median(const uint32_t *sorted, size_t n) { return sorted[n / 2]; }

static size_t copy_sorted(const uint32_t *ring, uint32_t size, uint32_t total, uint32_t *out)
{
	size_t n = total < size ? total : size;
	memcpy(out, ring, n * sizeof(*out));
	qsort(out, n, sizeof(*out), by_size);
	return n;
}

uint32_t cold_percentile(const uint32_t *ring, uint32_t size, uint32_t total, double q)
{
	uint32_t sorted[PLANT_WARM_TIMES];
	size_t n = copy_sorted(ring, size, total, sorted);
	size_t i = (size_t)(q * (double)n);
	return n ? sorted[i < n ? i : n - 1] : 0;
}

/* How many of the sorted ones are the faster cluster. */
static size_t faster(const uint32_t *sorted, size_t n)
{
	size_t at = n;
	double widest = CLUSTER_RATIO;
	for (size_t i = CLUSTER_LEAST; i < n; i++) {
		double ratio = (double)sorted[i] / (double)(sorted[i - 1] ? sorted[i - 1] : 1);
		if (ratio >= widest && sorted[i] > sorted[i - 1] + MORE_US)
			widest = ratio, at = i;
	}
	return at;
}

uint32_t cold_border(const struct plant_heat *h, uint32_t fixed_us)
{
	uint32_t sorted[PLANT_WARM_TIMES], away[PLANT_WARM_TIMES];
	if (fixed_us)
		return fixed_us;
	size_t n = copy_sorted(h->warm_us, PLANT_WARM_TIMES, h->nwarm, sorted);
	if (n < COLD_NEEDS)
		return 0;
	n = faster(sorted, n);
	uint32_t mid = median(sorted, n);
	for (size_t i = 0; i < n; i++)
		away[i] = sorted[i] > mid ? sorted[i] - mid : mid - sorted[i];
	qsort(away, n, sizeof(*away), by_size);
	double border = (double)mid + SIGMAS * MAD_SIGMA * (double)median(away, n);
	if (border < (double)mid * TIMES)
		border = (double)mid * TIMES;
	if (border < (double)mid + MORE_US)
		border = (double)mid + MORE_US;
	return border < (double)UINT32_MAX ? (uint32_t)border : UINT32_MAX;
}

/* The last cold ones were alike, and there was no warm one among them: that is what it takes from now on. */
static bool became_slow(const struct plant_heat *h)
{
	uint32_t least = UINT32_MAX, most = 0;
	if (h->cold_in_row < COLD_NEW_NORMAL)
		return false;
	for (uint32_t i = 0; i < COLD_NEW_NORMAL; i++) {
		uint32_t us = h->cold_us[(h->ncold - 1 - i) % PLANT_COLD_TIMES];
		least = us < least ? us : least;
		most = us > most ? us : most;
	}
	return most / ALIKE <= least;
}

static void begin_anew(struct plant_heat *h)
{
	uint32_t last[COLD_NEW_NORMAL];
	for (uint32_t i = 0; i < COLD_NEW_NORMAL; i++)
		last[i] = h->cold_us[(h->ncold - 1 - i) % PLANT_COLD_TIMES];
	*h = (struct plant_heat){.nwarm = COLD_NEW_NORMAL};
	memcpy(h->warm_us, last, sizeof(last));
}

enum plant_ping_heat cold_learn(struct plant_heat *h, uint32_t us, uint32_t fixed_us)
{
	uint32_t border = cold_border(h, fixed_us);
	if (!border || us <= border) {
		h->warm_us[h->nwarm++ % PLANT_WARM_TIMES] = us;
		h->cold_in_row = 0;
		if (h->nwarm >= 2 * PLANT_WARM_TIMES + UINT32_MAX / 2) /* the place in the ring stays */
			h->nwarm = PLANT_WARM_TIMES + h->nwarm % PLANT_WARM_TIMES;
		return border ? PING_WARM : PING_UNKNOWN;
	}
	h->cold_us[h->ncold++ % PLANT_COLD_TIMES] = us;
	if (h->ncold >= 2 * PLANT_COLD_TIMES + UINT32_MAX / 2)
		h->ncold = PLANT_COLD_TIMES + h->ncold % PLANT_COLD_TIMES;
	h->cold_in_row++;
	if (!fixed_us && became_slow(h)) {
		begin_anew(h);
		return PING_WARM;
	}
	return PING_COLD;
}
