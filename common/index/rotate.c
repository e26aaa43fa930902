#include "rotate.h"

#include <pthread.h>

#include "quantize.h"
#include "vocabulary.h"

#define ROUNDS 4
#define SEED 0x6f7263686573ull

static uint64_t signs[ROUNDS][LIMIT_DIMENSIONS / 64];

/* SplitMix64 (Steele, Lea, Flood 2014). */
static uint64_t mix(uint64_t *state)
{
	uint64_t z = *state += 0x9e3779b97f4a7c15ull;
	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
	return z ^ (z >> 31);
}

static void draw(void)
{
	uint64_t state = SEED;
	for (size_t r = 0; r < ROUNDS; r++)
		for (size_t i = 0; i < ARRAY_LEN(signs[r]); i++)
			signs[r][i] = mix(&state);
}

void rotate(const float *x, uint32_t dim, float *out)
{
	static pthread_once_t drawn = PTHREAD_ONCE_INIT;
	const struct quantize_kernels *k = quantize_get();
	uint32_t width = rotate_width(dim), part = 64;
	pthread_once(&drawn, draw);
	while (part * 2 <= width)
		part *= 2;
	memcpy(out, x, dim * sizeof(*out));
	memset(out + dim, 0, (width - dim) * sizeof(*out));
	for (uint32_t r = 0; r < (part == width ? 2 : ROUNDS); r++) {
		k->flip(out, signs[r], width);
		k->hadamard(r & 1 ? out + (width - part) : out, part);
	}
}
