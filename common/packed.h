/* Vectors of few different values, as they lie in records and in the embedded store. Lossless.
 *
 * What counts n-grams (embed/hashed.c) leaves most components zero and the others at a few multiples of one number: of a sentence's
 * 1,536 components some 250 are not zero and 20 are different, so that 6,144 bytes become about 550. Vectors of a
 * model have as many values as components and stay as they are.
 *
 *   packed = u16 components that are not zero, u8 values, u8 0, values (f32), bitmap of what is not zero (dim bits, padded to
 *            bytes with zeros), an index into the values (u8) for each of them
 *
 * Native little-endian, without alignment. Model: dictionary encoding of columns, as in Parquet. */
#ifndef ORC_PACKED_H
#define ORC_PACKED_H
#include "util.h"

/* Bytes that a packed vector has at most: half of what it has otherwise. More than that is not worth its unpacking. */
#define PACKED_MAX(dim) ((dim) * sizeof(float) / 2)

/* Packs dim floats (1…LIMIT_DIMENSIONS) into `out`, which has room for PACKED_MAX(dim). Returns the bytes; 0: it has too many
 * values. Bits are kept, of -0 and NaN, too. */
size_t must_check packed_make(const float *x, uint32_t dim, void *out);
/* Bytes of the packed vector that begins at p, of which `len` are there, by its head alone; 0: it is none. */
size_t must_check packed_bytes(const void *p, size_t len, uint32_t dim);
/* Unpacks to dim floats. False: it is damaged, or of another dimension; what is in x is then undefined. Trusts nothing. */
bool must_check packed_read(struct span packed, uint32_t dim, float *x);
#endif
