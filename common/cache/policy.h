/* How long what is cached is believed: section cache of the configuration, as times of a value. */
#ifndef ORC_CACHE_POLICY_H
#define ORC_CACHE_POLICY_H
#include <stdatomic.h>

#include "cache/cache.h"

struct conf;

struct cache_policy { /* set by the loop at a reload, read by any thread */
	/* Memories of a store that others write to, too: the feed says when they change; should it be silent, they are
	 * stale after so long, and gone after so much more. 0: the store is ours alone, nothing changes behind us. */
	_Atomic int64_t ttl_us, stale_us;
	_Atomic int64_t negative_us, search_us; /* 0: not kept at all */
};

/* fleet: store_ops.fleet. */
void cache_policy_from(const struct conf *c, bool fleet, struct cache_policy *out_r);
/* A tenth more or less, at random: what was kept together is not to end together. */
int64_t cache_policy_jittered(int64_t us, int64_t now_us);
/* Of a memory as the store, or a write on its way to it, has it now. expires_us: the memory's own, 0 = never. */
struct cache_meta cache_policy_memory(const struct cache_policy *p, uint64_t ns, uint64_t version, int64_t expires_us);
/* There is no memory of that id. gone_ms 0: this is not to be kept. */
struct cache_meta cache_policy_negative(const struct cache_policy *p);
/* The answer of a search. */
struct cache_meta cache_policy_search(const struct cache_policy *p, uint64_t ns);
#endif
