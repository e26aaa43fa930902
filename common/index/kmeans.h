/* Clustering: k centroids of many vectors (Lloyd 1982), on bytes. */
#ifndef ORC_KMEANS_H
#define ORC_KMEANS_H
#include "turn.h"

/* n rows of `width` signed bytes (a multiple of 64), all in the same unit; n ≥ k. out: k rows of `width` floats in that
 * unit. The first rounds look at the first 192 components only: of rotated vectors, these are a random projection.
 * Deterministic. False: it is to stop. Takes about n · k · width / 40 ns with AVX-512. */
bool must_check kmeans(const int8_t *rows, size_t n, uint32_t width, uint32_t k, float *out, struct turn *turn);
/* A short list of what is near, in no order: the one to be replaced next, which is the farthest, stands first. */
struct near {
	float near; /* the more, the nearer */
	uint32_t of;
};
/* Takes one more, if it is among the `most` nearest so far. Returns how many there are. */
static inline uint32_t near_keep(struct near *list, uint32_t n, uint32_t most, float near, uint32_t of)
{
	if (n == most && !(near > list[0].near))
		return n;
	uint32_t at = n < most ? n++ : 0, worst = 0;
	list[at] = (struct near){near, of};
	for (uint32_t j = 1; j < n; j++)
		worst = list[j].near < list[worst].near ? j : worst;
	struct near t = list[0];
	list[0] = list[worst];
	list[worst] = t;
	return n;
}
#endif
