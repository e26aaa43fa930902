/* Insiders of the L1 cache: the layout of the segment, and the proof.
 *
 *   segment: header | shard headers | per shard: buckets | hit bytes | log
 *
 * A log is a ring of 64-byte lines. Positions count lines and never wrap (2^48 lines are beyond any
 * life); the place of position p is line p % log_lines. A record is one line of head and then its
 * value; it lies in one piece, a pad record fills what is left before the end.
 *
 *   reclaimed ≤ every valid record < head ≤ reclaimed + log_lines
 *
 * Why a reader may copy without a lock. A slot names a position; it is stored (release) after the
 * whole record was written, so who loads it (acquire) sees the record. Lines of a record are only
 * written again after `reclaimed` was moved past it, with a release fence between. The reader
 * copies, executes an acquire fence, and loads `reclaimed`: had it copied a single byte of what
 * came later, it would now see `reclaimed` beyond its record, and drop the copy. Nothing of a copy
 * is believed (no length, no key) before that check except to bound the copy itself.
 *
 * Why anyone may be killed. What a dead writer left are lines nobody points to, and counters.
 * Published records stay right, so readers need not notice. The next writer gets EOWNERDEAD and
 * empties the shard: reclaimed = head, in one store; slots below `reclaimed` are free by
 * definition. `head` moves before a slot names what lies below it, so no published record
 * survives above the new `reclaimed`. The common epoch moves too: a fill whose load began before
 * the death cannot tell what the dead one was about to invalidate.
 *
 * Why no stale fill. An epoch is the sum of two counters that only grow: one of the whole shard,
 * one of the key's stripe. The sum is equal only if neither moved. sync makes a write visible
 * (pending table), then moves the epoch under the lock (release); a fill loads the epoch
 * (acquire), then the value, and compares under the lock: equal means that the write was either
 * visible to the load or has yet to pass through the cache. */
#ifndef ORC_CACHE_PRIVATE_H
#define ORC_CACHE_PRIVATE_H
#include <pthread.h>

#include "contract.h"
#include "cache/cache.h"
#include "shm.h"

#define CACHE_MAGIC 0x31454843414343ull
#define CACHE_LAYOUT LAYOUT_CACHE
#define CACHE_LINE_SHIFT 6
#define CACHE_SHARD_BYTES (8u << 20) /* a shard's share: a quarter of its log holds 1 MiB */
#define CACHE_SHARDS_MAX 256
#define CACHE_WAYS 8		  /* slots of a bucket: one line */
#define CACHE_LINES_PER_BUCKET 16 /* a slot for every 128 bytes: the smallest record */
#define CACHE_STRIPES 32
#define CACHE_VALUE_MAX (1u << 20)
#define CACHE_PAD 0 /* the class of a pad record */

/* One line at the start of a record. */
struct cache_head {
	uint64_t pos; /* its own position: a check against everything unforeseen */
	uint32_t len; /* of the value; of a pad: lines, itself counted */
	uint32_t cls;
	struct uuid key;
	struct cache_meta meta;
	uint64_t hash;
};
_Static_assert(sizeof(struct cache_head) == 1u << CACHE_LINE_SHIFT, "a record's head is one line");

/* Writers of everything but hit bytes hold `lock`. Readers of the hot path touch the second line. */
struct cache_shard {
	pthread_mutex_t lock; /* robust, process-shared */
	_Alignas(CACHE_LINE) _Atomic uint64_t reclaimed;
	_Atomic uint64_t epoch; /* of all keys of the shard */
	_Alignas(CACHE_LINE) _Atomic uint64_t head;
	_Atomic uint64_t entries, bytes, evictions, emptied;
	_Atomic uint64_t carry; /* records that may be carried over, see cache_write.c */
	_Alignas(CACHE_LINE) _Atomic uint64_t stripes[CACHE_STRIPES];
};

struct cache_segment {
	struct shm_header h;
	uint64_t seed; /* of the hash: keys chosen by clients must not meet in one bucket */
	_Alignas(CACHE_LINE) struct cache_shard shards[];
};

/* Computed from the size by every process: nobody believes a layout found in shared memory. */
struct cache_plan {
	uint32_t shards;  /* a power of two */
	uint32_t buckets; /* per shard */
	uint64_t log_lines;
	uint64_t shards_end, stride; /* offset of the first shard's data; bytes from one to the next */
	uint64_t hits_at, log_at;    /* within a shard's data */
};

struct cache {
	struct cache_segment *seg;
	char *data; /* of the first shard */
	size_t size;
	uint64_t seed;
	struct cache_plan plan;
};

/* Where a key lives. */
struct cache_place {
	uint64_t hash;
	struct cache_shard *shard;
	_Atomic uint64_t *slots; /* CACHE_WAYS of them: position << 16 | tag; 0 = never used */
	_Atomic uint8_t *hits;	 /* as many: was it read since it came to the head of the log? */
	char *log;
	uint16_t tag;
};

static inline struct cache_place cache_place_of(const struct cache *c, uint64_t hash)
{
	const struct cache_plan *p = &c->plan;
	uint32_t shard = (uint32_t)(hash >> 56) & (p->shards - 1);
	uint64_t bucket = ((hash & UINT32_MAX) * p->buckets) >> 32;
	char *data = c->data + shard * p->stride;
	return (struct cache_place){
		.hash = hash,
		.shard = &c->seg->shards[shard],
		.slots = (_Atomic uint64_t *)(void *)data + bucket * CACHE_WAYS,
		.hits = (_Atomic uint8_t *)(void *)(data + p->hits_at) + bucket * CACHE_WAYS,
		.log = data + p->log_at,
		.tag = (uint16_t)(hash >> 32),
	};
}

uint64_t cache_hash(const struct cache *c, enum cache_class cls, const struct uuid *key);

static inline uint64_t cache_slot_pos(uint64_t slot) { return slot >> 16; }
static inline char *cache_line_at(const struct cache *c, const struct cache_place *p, uint64_t pos)
{
	return p->log + (pos % c->plan.log_lines << CACHE_LINE_SHIFT);
}
static inline uint64_t cache_lines(uint64_t len)
{
	return 1 + ((len + (1u << CACHE_LINE_SHIFT) - 1) >> CACHE_LINE_SHIFT);
}
static inline uint64_t cache_value_max(const struct cache *c)
{
	uint64_t quarter = (c->plan.log_lines / 4 - 1) << CACHE_LINE_SHIFT;
	return quarter < CACHE_VALUE_MAX ? quarter : CACHE_VALUE_MAX;
}
static inline _Atomic uint64_t *cache_stripe(const struct cache_place *p)
{
	return &p->shard->stripes[(p->hash >> 48) % CACHE_STRIPES];
}
#endif
