/* Embedders: text → vector. Every vector's row carries the embedder's id; a namespace refuses to
 * mix spaces. */
#ifndef ORC_EMBED_H
#define ORC_EMBED_H
#include "util.h"

struct embedder {
	const char *id; /* e.g. "hash-1536-v1"; changes whenever any output bit may change */
	uint32_t dimensions;
	/* Embeds n texts into out[n * dimensions], each normalised to length 1 (a text without any
	 * feature gives the zero vector and is reported by returning the count of non-zero ones).
	 * Thread-safe, deterministic, ~5–20 µs a sentence: callers move long texts off the loop. */
	size_t (*embed)(const struct embedder *e, const struct span *texts, size_t n, float *out);
};
/* The built-in hashed n-gram embedder: words, bigrams and character 3–5-grams, signed hashing into
 * 1,536 dimensions, tf weighting, L2-normalised (peers/vectors.md D). Never NULL. */
const struct embedder *embed_hashed(void);
#endif
