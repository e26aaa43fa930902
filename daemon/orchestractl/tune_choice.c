/* What to measure of a server's index, and what follows. */
#include "tune_choice.h"

#include <math.h>
#include <stdlib.h>

#include "util.h"

/* Where m and ef_construction are beyond these, more of them costs much and finds little more. */
#define M_MOST 64
#define EF_CONSTRUCTION_MOST 512
#define EF_MUCH 400 /* from here on a denser graph is cheaper than a wider search */

static int ascending(const void *a, const void *b)
{
	unsigned x = *(const unsigned *)a, y = *(const unsigned *)b;
	return (x > y) - (x < y);
}

size_t tune_choice_ladder(unsigned least, unsigned most, unsigned configured, const unsigned *more, size_t nmore,
			  unsigned *out, size_t room)
{
	static const unsigned rungs[] = {1, 2, 5, 10, 20, 40, 80, 120, 200, 400, 700, 1000};
	size_t n = 0, kept = 0;
	for (size_t i = 0; i < ARRAY_LEN(rungs) && n < room; i++)
		if (rungs[i] >= least && rungs[i] <= most)
			out[n++] = rungs[i];
	if (n < room && configured)
		out[n++] = configured < most ? configured : most;
	for (size_t i = 0; i < nmore && n < room; i++)
		out[n++] = more[i] < most ? more[i] : most;
	qsort(out, n, sizeof(*out), ascending);
	for (size_t i = 0; i < n; i++)
		if (!kept || out[i] != out[kept - 1])
			out[kept++] = out[i];
	return kept;
}

int tune_choice_best(const struct tune_found *v, size_t n, double wanted)
{
	int64_t least = INT64_MAX;
	for (size_t i = 0; i < n; i++)
		if (v[i].recall >= wanted && v[i].us < least)
			least = v[i].us;
	for (size_t i = 0; i < n; i++)
		if (v[i].recall >= wanted && v[i].us * 10 <= least * 11) /* less than a tenth is chance */
			return (int)i;
	return -1;
}

long tune_choice_lists(double rows)
{
	double n = rows <= 1e6 ? rows / 1000 : sqrt(rows);
	return n < 1 ? 1 : (long)n;
}

static long doubled(long v, long most) { return v >= most ? v : 2 * v < most ? 2 * v : most; }

bool tune_choice_rebuild(struct tune_build *b, unsigned effort)
{
	struct tune_build is = *b;
	if (b->lists_kind) {
		b->lists = tune_choice_lists(b->rows);
		/* One list is none: there is no use in it, however few the rows. */
		return b->lists > 1 && (is.lists > 2 * b->lists || b->lists > 2 * is.lists);
	}
	if (effort && effort < EF_MUCH)
		return false;
	b->m = doubled(is.m, M_MOST);
	b->ef_construction = doubled(is.ef_construction, EF_CONSTRUCTION_MOST);
	if (b->ef_construction < 2 * b->m) /* pgvector takes no less */
		b->ef_construction = 2 * b->m;
	return b->m != is.m || b->ef_construction != is.ef_construction;
}
