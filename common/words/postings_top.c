/* The k best documents seen so far: a heap with the worst on top. */

#include "postings-private.h"

bool postings_before(const struct postings_hit *a, const struct postings_hit *b)
{
	return a->score != b->score ? a->score > b->score : uuid_cmp(&a->id, &b->id) < 0;
}

static void swap(struct postings_hit *a, struct postings_hit *b)
{
	struct postings_hit c = *a;
	*a = *b;
	*b = c;
}

static void sink(struct postings_hit *v, size_t n)
{
	for (size_t i = 0, child; (child = 2 * i + 1) < n; i = child) {
		if (child + 1 < n && postings_before(&v[child], &v[child + 1]))
			child++;
		if (!postings_before(&v[i], &v[child]))
			break;
		swap(&v[i], &v[child]);
	}
}

void postings_top_push(struct postings_top *t, const struct postings_hit *h)
{
	if (t->n == t->k) {
		t->v[0] = *h;
		sink(t->v, t->n);
	} else {
		size_t i = t->n++;
		t->v[i] = *h;
		for (; i && postings_before(&t->v[(i - 1) / 2], &t->v[i]); i = (i - 1) / 2)
			swap(&t->v[i], &t->v[(i - 1) / 2]);
	}
	if (t->n == t->k)
		t->floor = t->v[0].score;
}

size_t postings_top_finish(struct postings_top *t)
{
	for (size_t n = t->n; n > 1; n--) {
		swap(&t->v[0], &t->v[n - 1]);
		sink(t->v, n - 1);
	}
	return t->n;
}
