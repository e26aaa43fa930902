/* The tables of the kernel families; NULL where the compiler does not target that processor. */
#ifndef ORC_KERNELS_PRIVATE_H
#define ORC_KERNELS_PRIVATE_H
#include "kernels.h"

/* Kernels read rows of shared memory with plain (vector) loads, and a chunk may be reassigned and
 * overwritten while a late reader is in it. By the letter of C11 that is a data race; there is no
 * such thing as an atomic 64-byte load to write instead. It is benign here because the loaded
 * values only ever become scores, never addresses or sizes, and the reader throws the scores away when
 * the chunk's generation has moved (vectors_search.c). The attribute keeps ThreadSanitizer
 * quiet about these loads and about nothing else. */
#define KERNEL_RACY __attribute__((no_sanitize_thread))

extern const struct kernels kernels_scalar;
#if defined(__x86_64__)
extern const struct kernels kernels_avx2, kernels_avx512;
#elif defined(__aarch64__)
extern const struct kernels kernels_neon;
#endif
#endif
