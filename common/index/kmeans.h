/* Clustering: k centroids of many vectors (Lloyd 1982), on bytes. */
#ifndef ORC_KMEANS_H
#define ORC_KMEANS_H
#include <stdatomic.h>

#include "util.h"

/* n rows of `width` signed bytes (a multiple of 64), all in the same unit; n ≥ k. out: k rows of `width` floats in that
 * unit. The first rounds look at the first 192 components only: of rotated vectors, these are a random projection.
 * Deterministic. False: *stop turned true. Takes about n · k · width / 40 ns with AVX-512. */
bool must_check kmeans(const int8_t *rows, size_t n, uint32_t width, uint32_t k, float *out, const _Atomic bool *stop);
#endif
