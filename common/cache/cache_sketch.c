/* L1: how often keys are wanted, whether they are here or not: counters of four bits, one for each key's hash, sixteen to
 * a bucket. Only writers count: an insertion says that its key was missed, and the hits that an entry collected
 * are added when it is judged. Counters are halved one word after the other, as insertions come, so that what was wanted
 * long ago is forgotten: in AGEING_ROUNDS times as many insertions as there are entries, each once.
 *
 * Figures of tests/bench/cache_sim.c: one row of counters is as good as the usual several at this size, since
 * with several most counters are those of keys that came once. */
#include "cache/cache-private.h"

#define COUNTER_BITS 4
#define COUNTER_MAX ((1u << COUNTER_BITS) - 1)
#define COUNTERS (64 / COUNTER_BITS) /* of a word */
#define HALVES 0x7777777777777777ull /* what is left of each counter after a shift by one */
#define AGEING_ROUNDS 5
#define ENTRY_BUCKETS 16 /* no fewer entries are assumed than one in so many buckets: bounds what an insertion ages */

static _Atomic uint64_t *word_of(const struct cache *c, const struct cache_place *p, unsigned *shift_r)
{
	/* Bits of the hash that no bucket, tag or shard was chosen by. */
	uint64_t mixed = p->hash * 0x9e3779b97f4a7c15ull;
	*shift_r = (unsigned)(mixed >> 28) % COUNTERS * COUNTER_BITS;
	return (_Atomic uint64_t *)(void *)(p->data + c->plan.sketch_at) + ((mixed >> 32) * c->plan.buckets >> 32);
}

unsigned cache_sketch_of(const struct cache *c, const struct cache_place *p)
{
	unsigned shift;
	uint64_t word = cache_peek_u64(word_of(c, p, &shift));
	return (unsigned)(word >> shift) & COUNTER_MAX;
}

void cache_sketch_add(const struct cache *c, const struct cache_place *p, unsigned n)
{
	unsigned shift;
	_Atomic uint64_t *w = word_of(c, p, &shift);
	uint64_t word = cache_peek_u64(w), room = COUNTER_MAX - (word >> shift & COUNTER_MAX);
	cache_put_u64(w, word + ((n < room ? n : room) << shift));
}

void cache_sketch_age(const struct cache *c, const struct cache_place *p)
{
	struct cache_shard *s = p->shard;
	uint64_t entries = cache_log_entries(s), least = c->plan.buckets / ENTRY_BUCKETS + 1;
	uint64_t round = AGEING_ROUNDS * (entries > least ? entries : least), at = cache_peek_u64(&s->ageing_at),
		 owed = cache_peek_u64(&s->ageing_owed) + c->plan.buckets;
	_Atomic uint64_t *words = (_Atomic uint64_t *)(void *)(p->data + c->plan.sketch_at);
	for (; owed >= round; owed -= round) {
		at = at + 1 < c->plan.buckets ? at + 1 : 0;
		cache_put_u64(&words[at], cache_peek_u64(&words[at]) >> 1 & HALVES);
	}
	cache_put_u64(&s->ageing_at, at);
	cache_put_u64(&s->ageing_owed, owed);
}
