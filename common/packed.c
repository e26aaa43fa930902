#include "packed.h"
#ifdef __SSE2__
#include <emmintrin.h>
#endif
#include "vocabulary.h"

struct head {
	uint16_t nonzero;
	uint8_t values, zero;
};
enum { VALUES = UINT8_MAX, SLOTS = 1024, WORD = 64, PROBES = 32 };

static size_t bitmap_bytes(uint32_t dim) { return (dim + 7u) / 8; }

static size_t size_of(const struct head *h, uint32_t dim)
{
	return sizeof(*h) + h->values * sizeof(uint32_t) + bitmap_bytes(dim) + h->nonzero;
}

/* The values so far, and where each is found: open addressing, as few as a quarter of the slots are ever taken. */
struct values {
	uint32_t v[VALUES];
	unsigned n;
	uint8_t slot[SLOTS]; /* number + 1; 0: free */
};

/* The value's number; VALUES: there are too many, or somebody has chosen them to share a place. */
static unsigned number_of(struct values *t, uint32_t value)
{
	unsigned i = (value * 0x9e3779b1u) >> 22, tried = 0;
	for (; t->slot[i] && t->v[t->slot[i] - 1] != value; i = (i + 1) % SLOTS)
		if (++tried == PROBES)
			return VALUES;
	if (!t->slot[i]) {
		if (t->n == VALUES)
			return VALUES;
		t->v[t->n++] = value;
		t->slot[i] = (uint8_t)t->n;
	}
	return t->slot[i] - 1u;
}

/* A bit for each of n components, up to 64, that is not zero. */
static uint64_t nonzero_of(const uint32_t *x, uint32_t n)
{
	uint64_t bits = 0;
	uint32_t i = 0;
#ifdef __SSE2__ /* every x86-64 has it: three times as quick */
	for (; i + 4 <= n; i += 4) {
		__m128i four = _mm_loadu_si128((const __m128i *)(const void *)(x + i));
		int zero = _mm_movemask_ps(_mm_castsi128_ps(_mm_cmpeq_epi32(four, _mm_setzero_si128())));
		bits |= (uint64_t)(zero ^ 15) << i;
	}
#endif
	for (; i < n; i++)
		bits |= (uint64_t)(x[i] != 0) << i;
	return bits;
}

size_t packed_make(const float *vector, uint32_t dim, void *out)
{
	struct values t = {.n = 0};
	uint32_t x[WORD];
	uint64_t bits[LIMIT_DIMENSIONS / WORD];
	uint8_t numbers[LIMIT_DIMENSIONS];
	unsigned n = 0;
	AN(dim > 0 && dim <= LIMIT_DIMENSIONS);
	for (uint32_t at = 0; at < dim; at += WORD) {
		uint32_t some = dim - at < WORD ? dim - at : WORD;
		memcpy(x, vector + at, some * sizeof(*x));
		uint64_t left = bits[at / WORD] = nonzero_of(x, some);
		for (; left; left &= left - 1) {
			unsigned number = number_of(&t, x[__builtin_ctzll(left)]);
			if (number == VALUES)
				return 0;
			numbers[n++] = (uint8_t)number;
		}
	}
	struct head h = {.nonzero = (uint16_t)n, .values = (uint8_t)t.n};
	size_t len = size_of(&h, dim);
	if (len > PACKED_MAX(dim))
		return 0;
	char *p = out;
	memcpy(p, &h, sizeof(h));
	p += sizeof(h);
	memcpy(p, t.v, t.n * sizeof(*t.v));
	p += t.n * sizeof(*t.v);
	memcpy(p, bits, bitmap_bytes(dim));
	memcpy(p + bitmap_bytes(dim), numbers, n);
	return len;
}

/* The head is copied before it is judged: the bytes may lie in a ring (record.c). 0: it is none. */
static size_t take_head(struct head *h, const void *p, size_t len, uint32_t dim)
{
	if (!dim || dim > LIMIT_DIMENSIONS || len < sizeof(*h))
		return 0;
	memcpy(h, p, sizeof(*h));
	size_t size = size_of(h, dim);
	return h->zero || h->nonzero > dim || size > PACKED_MAX(dim) || size > len ? 0 : size;
}

size_t packed_bytes(const void *p, size_t len, uint32_t dim)
{
	struct head h;
	return take_head(&h, p, len, dim);
}

bool packed_read(struct span packed, uint32_t dim, float *x)
{
	struct head h;
	uint32_t values[UINT8_MAX + 1] = {0}; /* any number leads to one, of a damaged vector, too */
	uint8_t most = 0;
	if (!packed.len || take_head(&h, packed.p, packed.len, dim) != packed.len)
		return false;
	memcpy(values, packed.p + sizeof(h), h.values * sizeof(*values));
	const char *bitmap = packed.p + sizeof(h) + h.values * sizeof(*values);
	const uint8_t *number = (const uint8_t *)bitmap + bitmap_bytes(dim), *end = number + h.nonzero;
	memset(x, 0, dim * sizeof(*x));
	for (uint32_t at = 0; at < dim; at += WORD) {
		uint32_t some = dim - at < WORD ? dim - at : WORD;
		uint64_t left = 0;
		memcpy(&left, bitmap + at / 8, bitmap_bytes(some));
		if (some < WORD && left >> some)
			return false;
		for (; left; left &= left - 1) {
			if (number == end)
				return false;
			most = *number > most ? *number : most;
			memcpy(x + at + __builtin_ctzll(left), &values[*number++], sizeof(*x));
		}
	}
	return number == end && (!h.nonzero || most < h.values);
}
