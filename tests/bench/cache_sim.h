/* Cache policies over a trace of keys of one size, to choose one and to judge ours by. */
#ifndef ORC_BENCH_CACHE_SIM_H
#define ORC_BENCH_CACHE_SIM_H
#include <stddef.h>
#include <stdint.h>

struct sim_trace {
	const char *name;
	uint32_t *key; /* each below `keys` */
	size_t n;
	uint32_t keys;
};

enum sim_policy {
	SIM_BELADY, /* knows the future: nothing is better */
	SIM_LRU,
	SIM_CLOCK,	 /* FIFO, and what was read comes back once */
	SIM_S3FIFO,	 /* a small and a main queue, and a ghost of keys that came by */
	SIM_TINYLFU,	 /* the queues of S3-FIFO; to the main one by comparing frequencies: what L1 does */
	SIM_TINYLFU_S5,	 /* the same, the small queue of 5 % */
	SIM_TINYLFU_P10, /* the same, frequencies halved every ten fillings of the cache instead of five */
	SIM_POLICIES
};

extern const char *const sim_name[SIM_POLICIES];
/* The share of hits, for a cache of so many entries. */
double sim_hits(enum sim_policy policy, const struct sim_trace *t, uint32_t entries);
#endif
