/* The k best of a scan: a heap with some room to spare, because an entry that is updated
 * while we look can be seen in both of its versions. */
#include <stdlib.h>

#include "vectors-private.h"

static bool worse(const struct vectors_hit *a, const struct vectors_hit *b)
{
	return a->score < b->score || (a->score == b->score && uuid_cmp(&a->id, &b->id) > 0);
}

static void sift_down(struct vectors_top *t, const struct vectors_hit *h)
{
	size_t i = 0, child;
	while ((child = 2 * i + 1) < t->n) {
		if (child + 1 < t->n && worse(&t->hits[child + 1], &t->hits[child]))
			child++;
		if (!worse(&t->hits[child], h))
			break;
		t->hits[i] = t->hits[child];
		i = child;
	}
	t->hits[i] = *h;
}

static void sift_up(struct vectors_top *t, const struct vectors_hit *h)
{
	size_t i = t->n++;
	while (i && worse(h, &t->hits[(i - 1) / 2])) {
		t->hits[i] = t->hits[(i - 1) / 2];
		i = (i - 1) / 2;
	}
	t->hits[i] = *h;
}

void vectors_top_push(struct vectors_top *t, const struct vectors_hit *h)
{
	if (!(h->score >= t->floor)) /* also what is not a number */
		return;
	if (t->n < t->cap)
		sift_up(t, h);
	else if (worse(&t->hits[0], h))
		sift_down(t, h);
	if (t->n == t->cap)
		t->floor = t->hits[0].score;
}

static int by_id(const void *a, const void *b)
{
	const struct vectors_hit *x = a, *y = b;
	int c = uuid_cmp(&x->id, &y->id);
	return c ? c : (x->version < y->version) - (x->version > y->version);
}

static int by_score(const void *a, const void *b)
{
	return worse(a, b) ? 1 : worse(b, a) ? -1 : 0;
}

size_t vectors_top_finish(struct vectors_top *t, size_t k, bool *short_r)
{
	size_t kept = 0;
	qsort(t->hits, t->n, sizeof(*t->hits), by_id);
	for (size_t i = 0; i < t->n; i++) {
		if (!kept || uuid_cmp(&t->hits[kept - 1].id, &t->hits[i].id) != 0)
			t->hits[kept++] = t->hits[i];
	}
	*short_r = t->n == t->cap && kept < k;
	qsort(t->hits, kept, sizeof(*t->hits), by_score);
	t->n = kept;
	return kept < k ? kept : k;
}
