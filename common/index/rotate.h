/* Random rotation of vectors: after it, no component is special, whatever the embedder's axes mean, so that one bit or
 * one byte a component loses the same of every vector. Lengths and dot products stay.
 *
 * Rounds of random signs and a Walsh-Hadamard transform (Ailon, Chazelle 2006); where the width is no power of two, the
 * transform covers the two ends in turn, four times. The signs are constants: what one process wrote, any other reads. */
#ifndef ORC_ROTATE_H
#define ORC_ROTATE_H
#include "util.h"

/* Components of a rotated vector: dim, rounded up to a multiple of 64. */
static inline uint32_t rotate_width(uint32_t dim) { return (dim + 63) & ~63u; }
/* out: rotate_width(dim) floats; must not be x. */
void rotate(const float *x, uint32_t dim, float *out);
#endif
