/* The tables of the families of quantize.h; NULL where the compiler does not target that processor. All of them take the
 * steps of the scalar twin in its order, so that they give its bits; for the same reason the build forbids the compiler
 * to contract a product and a sum (-ffp-contract=off in Makefile.am). */
#ifndef ORC_QUANTIZE_PRIVATE_H
#define ORC_QUANTIZE_PRIVATE_H
#include "kernels-private.h"
#include "quantize.h"

/* Loops of a few constant rounds whose vectors are to stay in registers. */
#if defined(__clang__)
#define UNROLL _Pragma("unroll")
#else
#define UNROLL _Pragma("GCC unroll 32")
#endif

extern const struct quantize_kernels quantize_scalar;
#if defined(__x86_64__)
extern const struct quantize_kernels quantize_avx2, quantize_avx512;
#elif defined(__aarch64__)
extern const struct quantize_kernels quantize_neon;
#endif
#endif
