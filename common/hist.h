/* Histograms: what was measured, counted in buckets that are log-linear (as in HdrHistogram).
 *
 * An octave has HIST_SUB buckets of the same width, so that the middle of a bucket is wrong by 1/64 (1.6 %) at most, from
 * 2^9 to 2^36: in nanoseconds from 0.5 µs to 68.7 s. Below, buckets are 16 wide; what is beyond is counted in a bucket
 * of its own. A bucket holds what is greater than its lower edge and not greater than its upper one, which is what `le`
 * of Prometheus means: the coarse buckets of /metrics end where fine ones do, at powers of two, and nothing is guessed.
 *
 * One writer for each histogram and worker: recording is two pairs of a relaxed load and store. Readers add up what they
 * find; a histogram that is being written is one record out of date, never torn. An empty one is not looked at: its pages
 * need not exist. */
#ifndef ORC_HIST_H
#define ORC_HIST_H
#include <stdatomic.h>
#include "util.h"

#define HIST_SUB_BITS 5
#define HIST_SUB (1u << HIST_SUB_BITS)
#define HIST_FIRST_BIT 9 /* below 2^9 all buckets are as wide as in the octave from there */
#define HIST_LAST_BIT 36
#define HIST_BUCKETS (HIST_SUB * (HIST_LAST_BIT - HIST_FIRST_BIT + 1))

struct hist {
	_Atomic uint64_t n[HIST_BUCKETS + 1]; /* the last one: beyond 2^HIST_LAST_BIT */
};
/* What several workers have measured. */
struct hist_sum {
	uint64_t n[HIST_BUCKETS + 1], count, sum;
};

/* SECONDS: nanoseconds are recorded. RECORDS: whole numbers, by hist_records(). */
enum hist_unit { HIST_SECONDS, HIST_RECORDS };
#define HIST_RECORD_BITS 9 /* so that 1, 2, … 64 have a bucket each */
static inline uint64_t hist_records(uint64_t n)
{
	return n < 1ull << HIST_LAST_BIT >> HIST_RECORD_BITS ? n << HIST_RECORD_BITS : (1ull << HIST_LAST_BIT) + 1;
}

static inline unsigned hist_bucket(uint64_t v)
{
	uint64_t u = v - (v != 0); /* the upper edge belongs to the bucket */
	unsigned octave = 63u - (unsigned)__builtin_clzll(u | 1ull << HIST_FIRST_BIT);
	uint64_t i = (uint64_t)(octave - HIST_FIRST_BIT) * HIST_SUB + (u >> (octave - HIST_SUB_BITS));
	return i < HIST_BUCKETS ? (unsigned)i : HIST_BUCKETS;
}
/* The upper edge of a bucket; of the last one: UINT64_MAX. */
uint64_t hist_upper(unsigned bucket);

/* `sum` is beside the buckets: 0 means that nothing was recorded. */
static inline void hist_add(struct hist *h, _Atomic uint64_t *sum, uint64_t v, uint64_t times)
{
	_Atomic uint64_t *n = &h->n[hist_bucket(v)];
	atomic_store_explicit(n, atomic_load_explicit(n, memory_order_relaxed) + times, memory_order_relaxed);
	atomic_store_explicit(sum, atomic_load_explicit(sum, memory_order_relaxed) + (v + !v) * times,
			      memory_order_relaxed);
}
/* The same for a histogram that several threads of its worker record. */
static inline void hist_add_shared(struct hist *h, _Atomic uint64_t *sum, uint64_t v)
{
	atomic_fetch_add_explicit(&h->n[hist_bucket(v)], 1, memory_order_relaxed);
	atomic_fetch_add_explicit(sum, v + !v, memory_order_relaxed);
}

void hist_merge(const struct hist *h, const _Atomic uint64_t *sum, struct hist_sum *io);
/* Takes away what `then`, an earlier copy of the same, has counted. `sum` is left as it is. */
void hist_less(const struct hist *then, struct hist_sum *io);
void hist_copy(struct hist *to, const struct hist *from);
/* The value that a share q of what was recorded does not exceed: the middle of its bucket; what is beyond the last edge
 * counts as that edge. 0 without records. */
double hist_quantile(const struct hist_sum *h, double q);

/* The coarse buckets of a unit: powers of two from hist_edge(unit, 0) on, as many as hist_edges(unit). Any fine bucket
 * lies in one of them. */
unsigned hist_edges(enum hist_unit unit);
uint64_t hist_edge(enum hist_unit unit, unsigned i);
/* In which of them a value falls; hist_edges(unit): beyond. */
unsigned hist_coarse(enum hist_unit unit, uint64_t v);
#define HIST_EDGES_MAX 25
/* What one of the unit is in what is recorded: a second, a record. */
static inline double hist_scale(enum hist_unit unit) { return unit == HIST_SECONDS ? 1e9 : 1 << HIST_RECORD_BITS; }
#endif
