#include "hist.h"

#define SECONDS_FROM 12 /* 4.096 µs */
#define RECORDS_FROM HIST_RECORD_BITS
#define RECORDS_EDGES 17 /* to 65,536 */
_Static_assert(HIST_LAST_BIT - SECONDS_FROM + 1 == HIST_EDGES_MAX, "edges of seconds");

uint64_t hist_upper(unsigned i)
{
	if (i >= HIST_BUCKETS)
		return UINT64_MAX;
	if (i < HIST_SUB)
		return (uint64_t)(i + 1) << (HIST_FIRST_BIT - HIST_SUB_BITS);
	unsigned octave = i / HIST_SUB - 1 + HIST_FIRST_BIT;
	return (uint64_t)(i % HIST_SUB + HIST_SUB + 1) << (octave - HIST_SUB_BITS);
}

void hist_merge(const struct hist *h, const _Atomic uint64_t *sum, struct hist_sum *io)
{
	uint64_t s = atomic_load_explicit(sum, memory_order_relaxed);
	if (!s)
		return;
	io->sum += s;
	for (size_t i = 0; i <= HIST_BUCKETS; i++) {
		uint64_t n = atomic_load_explicit(&h->n[i], memory_order_relaxed);
		io->n[i] += n;
		io->count += n;
	}
}

void hist_less(const struct hist *then, struct hist_sum *io)
{
	for (size_t i = 0; i <= HIST_BUCKETS; i++) {
		uint64_t n = atomic_load_explicit(&then->n[i], memory_order_relaxed);
		n = n < io->n[i] ? n : io->n[i];
		io->n[i] -= n;
		io->count -= n;
	}
}

void hist_copy(struct hist *to, const struct hist *from)
{
	for (size_t i = 0; i <= HIST_BUCKETS; i++) {
		uint64_t n = atomic_load_explicit(&from->n[i], memory_order_relaxed);
		if (atomic_load_explicit(&to->n[i], memory_order_relaxed) != n)
			atomic_store_explicit(&to->n[i], n, memory_order_relaxed);
	}
}

double hist_quantile(const struct hist_sum *h, double q)
{
	uint64_t rank = (uint64_t)(q * (double)h->count), seen = 0;
	rank += (double)rank < q * (double)h->count || !rank; /* the least number that is a share of q */
	if (!h->count)
		return 0;
	for (unsigned i = 0; i < HIST_BUCKETS; i++) {
		seen += h->n[i];
		if (seen >= rank)
			return ((i ? (double)hist_upper(i - 1) : 0) + (double)hist_upper(i)) / 2;
	}
	return (double)hist_upper(HIST_BUCKETS - 1);
}

unsigned hist_edges(enum hist_unit unit) { return unit == HIST_SECONDS ? HIST_EDGES_MAX : RECORDS_EDGES; }

uint64_t hist_edge(enum hist_unit unit, unsigned i)
{
	return 1ull << (i + (unsigned)(unit == HIST_SECONDS ? SECONDS_FROM : RECORDS_FROM));
}

unsigned hist_coarse(enum hist_unit unit, uint64_t v)
{
	unsigned i = 0;
	while (i < hist_edges(unit) && v > hist_edge(unit, i))
		i++;
	return i;
}
