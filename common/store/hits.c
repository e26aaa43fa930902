#include "store/hits.h"

#include <math.h>

#include "index/kernels.h"

int hits_compare(const struct store_text_hit *a, const struct store_text_hit *b)
{
	if (a->score != b->score)
		return a->score > b->score ? -1 : 1;
	return uuid_cmp(&a->id, &b->id);
}

void hits_offer(struct hits *h, const struct store_text_hit *x)
{
	size_t lo = 0, hi = h->n;
	if (h->n == h->limit && (!h->limit || hits_compare(x, &h->v[h->n - 1]) >= 0))
		return;
	while (lo < hi) {
		size_t mid = (lo + hi) / 2;
		if (hits_compare(x, &h->v[mid]) < 0)
			hi = mid;
		else
			lo = mid + 1;
	}
	size_t moved = (h->n == h->limit ? h->n - 1 : h->n) - lo;
	memmove(&h->v[lo + 1], &h->v[lo], moved * sizeof(*h->v));
	h->v[lo] = *x;
	h->n += h->n < h->limit;
}

void hits_cosine_start(struct hits_cosine *c, const struct store_nearest *q, struct store_text_hit *out)
{
	*c = (struct hits_cosine){.top = {out, 0, q->limit}, .x = q->x, .dim = q->dim};
	c->length = sqrtf(kernels_get()->dot(q->x, q->x, q->dim));
}

void hits_cosine_offer(struct hits_cosine *c, const struct uuid *id, uint64_t version, const float *y)
{
	const struct kernels *k = kernels_get();
	float length = sqrtf(k->dot(y, y, c->dim)) * c->length;
	float score = length > 0 ? k->dot(c->x, y, c->dim) / length : 0;
	if (isfinite(score))
		hits_offer(&c->top, &(struct store_text_hit){*id, version, score});
}
