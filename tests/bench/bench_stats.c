/* What recording costs: nanoseconds each, beside a loop that makes the same values and drops them. Prints one JSON object.
 *
 * usage: bench_stats [MILLIONS] */
#include <stdio.h>
#include <stdlib.h>

#include "clock.h"
#include "stats.h"

enum { VALUES = 4096, ROUNDS = 7 };
static uint64_t values[VALUES];
static struct stats_slot *slot;
static uint64_t times = 20000000;

static void keep(uint64_t v) { __asm__ volatile("" : : "r"(v) : "memory"); }

static void nothing(uint64_t v) { keep(v); }
static void counter(uint64_t v)
{
	keep(v);
	stats_add(slot, STAT_SEARCHES, 1);
}
static void record(uint64_t v) { stats_record(slot, HIST_FLUSH, v); }
static void record_shared(uint64_t v) { stats_record_shared(slot, HIST_EMBED, v); }
static void clocks(uint64_t v) { keep(v + (uint64_t)clock_mono_ns()); }

/* The best of some rounds: the others are the neighbours'. */
#define MEASURE(name)                                                                                                  \
	static double measure_##name(void)                                                                             \
	{                                                                                                              \
		double best = 1e9;                                                                                     \
		for (int r = 0; r < ROUNDS; r++) {                                                                     \
			int64_t from = clock_mono_ns();                                                                \
			for (uint64_t i = 0; i < times; i++)                                                           \
				name(values[i % VALUES]);                                                              \
			double ns = (double)(clock_mono_ns() - from) / (double)times;                                  \
			best = ns < best ? ns : best;                                                                  \
		}                                                                                                      \
		return best;                                                                                           \
	}
MEASURE(nothing)
MEASURE(counter)
MEASURE(record)
MEASURE(record_shared)
MEASURE(clocks)

int main(int argc, char **argv)
{
	uint64_t rng = 88172645463325252ull;
	if (argc > 1)
		times = strtoull(argv[1], NULL, 10) * 1000000;
	slot = aligned_alloc(CACHE_LINE, sizeof(*slot));
	AN(slot && times);
	memset(slot, 0, sizeof(*slot));
	for (size_t i = 0; i < VALUES; i++) { /* of all sizes, in no order */
		rng ^= rng << 13;
		rng ^= rng >> 7;
		rng ^= rng << 17;
		values[i] = rng >> (28 + rng % 27);
	}
	printf("{\"loop_ns\":%.2f,", measure_nothing());
	printf("\"counter_ns\":%.2f,", measure_counter());
	printf("\"record_ns\":%.2f,", measure_record());
	printf("\"record_shared_ns\":%.2f,", measure_record_shared());
	printf("\"clock_ns\":%.2f}\n", measure_clocks());
	free(slot);
	return 0;
}
