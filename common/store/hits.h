/* The best of what a search passes: by score, among equals by id, so that the same question has the same answer. */
#ifndef ORC_HITS_H
#define ORC_HITS_H
#include "store/store.h"

struct hits {
	struct store_text_hit *v; /* the caller's room for `limit`, best first */
	size_t n, limit;
};
void hits_offer(struct hits *h, const struct store_text_hit *x);
/* < 0: a stands before b. */
int hits_compare(const struct store_text_hit *a, const struct store_text_hit *b);

/* Vectors that are compared with one, one after the other: cosine. */
struct hits_cosine {
	struct hits top;
	const float *x;
	uint32_t dim;
	float length; /* of x */
};
void hits_cosine_start(struct hits_cosine *c, const struct store_nearest *q, struct store_text_hit *out);
/* y has c->dim floats, at any address. */
void hits_cosine_offer(struct hits_cosine *c, const struct uuid *id, uint64_t version, const float *y);
#endif
