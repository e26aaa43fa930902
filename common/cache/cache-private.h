/* Insiders of the L1 cache: the layout of the segment, and the proof.
 *
 *   segment: header | shard headers | per shard: buckets | sketch | small log | main log
 *
 * A log is a ring of 64-byte lines. Positions count lines and never wrap (2^47 lines are beyond any life; bit 47 of a
 * position says which log it counts in); the place of position p is line p % lines of its log. A record is one line of
 * head and then its value; it lies in one piece, a pad record fills what is left before the end. Of each log:
 *
 *   reclaimed ≤ every valid record < head ≤ reclaimed + lines
 *
 * What comes lies in the small log first. When its turn to leave comes it is copied to the main log or forgotten
 * (cache_evict.c says which), so a key has one slot as long as it is here, and the slot says in which log it is.
 *
 * Why a reader may copy without a lock. A slot names a position; it is stored (release) after the
 * whole record was written, so who loads it (acquire) sees the record. Lines of a record are only
 * written again after `reclaimed` of its log was moved past it, with a release fence between. The reader
 * copies, executes an acquire fence, and loads that `reclaimed`: had it copied a single byte of what
 * came later, it would now see `reclaimed` beyond its record, and drop the copy. Nothing of a copy
 * is believed (no length, no key) before that check except to bound the copy itself. The logs share no line and no
 * counter, and a position belongs to one of them for ever: what is true of one ring is true of each, and a record that
 * was moved from one to the other is two records to a reader, of which the slot named first the one and then the other.
 *
 * Why anyone may be killed. What a dead writer left are lines nobody points to, and counters.
 * Published records stay right, so readers need not notice. The next writer gets EOWNERDEAD and
 * empties the shard: reclaimed = head of both logs, in one store each; slots below `reclaimed` are free by
 * definition. Dying between the two stores leaves EOWNERDEAD to the next, who does both. `head` moves before a slot
 * names what lies below it, so no published record survives above the new `reclaimed`. The common epoch moves too: a
 * fill whose load began before the death cannot tell what the dead one was about to invalidate. Hit counters and the
 * sketch are guesses of how often something is wanted: any value of theirs is right enough, they are never repaired.
 *
 * Why no stale fill. An epoch is the sum of two counters that only grow: one of the whole shard,
 * one of the key's stripe. The sum is equal only if neither moved. sync makes a write visible
 * (pending table), then moves the epoch under the lock (release); a fill loads the epoch
 * (acquire), then the value, and compares under the lock: equal means that the write was either
 * visible to the load or has yet to pass through the cache.
 *
 * What it costs. 64 bytes for a bucket of 7 slots and their hit counters, 8 for 16 counters of the sketch: 10.3 bytes a
 * slot. There is a slot for every 128 bytes of log, the smallest record, so that is 8 % of the log: 87 bytes an entry of
 * 1 KB. */
#ifndef ORC_CACHE_PRIVATE_H
#define ORC_CACHE_PRIVATE_H
#include <pthread.h>

#include "contract.h"
#include "cache/cache.h"
#include "shm.h"

#define CACHE_MAGIC 0x31454843414343ull
#define CACHE_LAYOUT LAYOUT_CACHE
#define CACHE_LINE_SHIFT 6
#define CACHE_SHARD_BYTES (8u << 20) /* a shard's share: a quarter of its main log holds 1 MiB */
#define CACHE_SHARDS_MAX 256
#define CACHE_WAYS 7				/* slots of a bucket: one line with their hit counters */
#define CACHE_LINES_PER_BUCKET (2 * CACHE_WAYS) /* a slot for every 128 bytes: the smallest record */
#define CACHE_SMALL_SHARE 10			/* the small log is one part of so many */
#define CACHE_HITS_MAX 3			/* a hit counter stops here, and is not written any more */
#define CACHE_STRIPES 32
#define CACHE_VALUE_MAX (1u << 20)
#define CACHE_PAD 0 /* the class of a pad record */

enum cache_which { CACHE_SMALL, CACHE_MAIN, CACHE_LOGS };
#define CACHE_POS_BITS 48
#define CACHE_MAIN_BIT (1ull << (CACHE_POS_BITS - 1)) /* of a position: it counts in the main log */

/* One line at the start of a record. */
struct cache_head {
	uint64_t pos; /* its own position: a check against everything unforeseen */
	uint32_t len; /* of the value; of a pad: lines, itself counted */
	uint8_t cls, flags;
	uint16_t tag;
	struct uuid key;
	uint64_t ns, version;
	int64_t filled_us;
	uint32_t fresh_ms, gone_ms;
};
_Static_assert(sizeof(struct cache_head) == 1u << CACHE_LINE_SHIFT, "a record's head is one line");

/* As struct cache_class_stats. */
struct cache_counts {
	_Atomic uint64_t entries, bytes, evictions, evicted_ms;
};

/* Writers of everything but hit counters hold `lock`. Readers of the hot path touch the second line. */
struct cache_shard {
	pthread_mutex_t lock; /* robust, process-shared */
	_Alignas(CACHE_LINE) _Atomic uint64_t reclaimed[CACHE_LOGS];
	_Atomic uint64_t epoch; /* of all keys of the shard */
	_Alignas(CACHE_LINE) _Atomic uint64_t head[CACHE_LOGS];
	_Atomic uint64_t emptied;
	_Atomic uint64_t carry;			 /* records that may be carried over, see cache_evict.c */
	_Atomic uint64_t ageing_at, ageing_owed; /* see cache_sketch.c */
	struct cache_counts of[CACHE_CLASSES];
	_Alignas(CACHE_LINE) _Atomic uint64_t stripes[CACHE_STRIPES];
};

struct cache_bucket {
	_Atomic uint64_t slots[CACHE_WAYS]; /* position << 16 | tag; 0 = never used */
	_Atomic uint8_t hits[CACHE_WAYS];   /* of each slot: times it was read since it was judged last */
	uint8_t spare;
};
_Static_assert(sizeof(struct cache_bucket) == CACHE_LINE, "a bucket is one line");

struct cache_segment {
	struct shm_header h;
	uint64_t seed; /* of the hash: keys chosen by clients must not meet in one bucket */
	_Alignas(CACHE_LINE) struct cache_shard shards[];
};

/* Computed from the size by every process: nobody believes a layout found in shared memory. */
struct cache_plan {
	uint32_t shards;  /* a power of two */
	uint32_t buckets; /* per shard; words of its sketch, too */
	uint64_t lines[CACHE_LOGS];
	uint64_t shards_end, stride;		/* offset of the first shard's data; bytes from one to the next */
	uint64_t sketch_at, log_at[CACHE_LOGS]; /* within a shard's data */
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
	struct cache_bucket *bucket;
	char *data; /* of the shard */
	uint16_t tag;
};

static inline struct cache_place cache_place_at(const struct cache *c, uint32_t shard, uint64_t bucket)
{
	char *data = c->data + shard * c->plan.stride;
	return (struct cache_place){
		.shard = &c->seg->shards[shard],
		.bucket = (struct cache_bucket *)(void *)data + bucket,
		.data = data,
	};
}

static inline struct cache_place cache_place_of(const struct cache *c, uint64_t hash)
{
	uint32_t shard = (uint32_t)(hash >> 56) & (c->plan.shards - 1);
	struct cache_place p = cache_place_at(c, shard, ((hash & UINT32_MAX) * c->plan.buckets) >> 32);
	p.hash = hash;
	p.tag = (uint16_t)(hash >> 32);
	return p;
}

static inline struct cache_meta cache_head_meta(const struct cache_head *h)
{
	return (struct cache_meta){.ns = h->ns,
				   .version = h->version,
				   .filled_us = h->filled_us,
				   .fresh_ms = h->fresh_ms,
				   .gone_ms = h->gone_ms,
				   .tag = h->tag,
				   .flags = h->flags};
}

uint64_t cache_hash(const struct cache *c, enum cache_class cls, const struct uuid *key);

static inline uint64_t cache_slot_pos(uint64_t slot) { return slot >> 16; }
static inline enum cache_which cache_log_of(uint64_t pos) { return (enum cache_which)(pos >> (CACHE_POS_BITS - 1)); }
/* The line of its log where this position lies. */
static inline uint64_t cache_line_of(const struct cache *c, uint64_t pos)
{
	return (pos & (CACHE_MAIN_BIT - 1)) % c->plan.lines[cache_log_of(pos)];
}
static inline char *cache_line_at(const struct cache *c, const struct cache_place *p, uint64_t pos)
{
	return p->data + c->plan.log_at[cache_log_of(pos)] + (cache_line_of(c, pos) << CACHE_LINE_SHIFT);
}
/* Whether a slot's position is still valid; of a copy that was made before, after an acquire fence. */
static inline bool cache_is_live(const struct cache_place *p, uint64_t slot)
{
	uint64_t pos = cache_slot_pos(slot);
	return slot && pos >= atomic_load_explicit(&p->shard->reclaimed[cache_log_of(pos)], memory_order_relaxed);
}
static inline uint64_t cache_lines(uint64_t len)
{
	return 1 + ((len + (1u << CACHE_LINE_SHIFT) - 1) >> CACHE_LINE_SHIFT);
}
static inline uint64_t cache_value_max(const struct cache *c)
{
	uint64_t quarter = (c->plan.lines[CACHE_MAIN] / 4 - 1) << CACHE_LINE_SHIFT;
	return quarter < CACHE_VALUE_MAX ? quarter : CACHE_VALUE_MAX;
}
static inline _Atomic uint64_t *cache_stripe(const struct cache_place *p)
{
	return &p->shard->stripes[(p->hash >> 48) % CACHE_STRIPES];
}

/* ---- for writers, under the lock: one at a time, so no locked instruction ---- */

static inline uint64_t cache_peek_u64(const _Atomic uint64_t *v)
{
	return atomic_load_explicit(v, memory_order_relaxed);
}
static inline void cache_put_u64(_Atomic uint64_t *v, uint64_t n) { atomic_store_explicit(v, n, memory_order_relaxed); }
static inline void cache_add_u64(_Atomic uint64_t *v, uint64_t n) { cache_put_u64(v, cache_peek_u64(v) + n); }
/* What sync did before is visible to whoever loads the moved epoch. */
static inline void cache_move_epoch(_Atomic uint64_t *v)
{
	atomic_store_explicit(v, cache_peek_u64(v) + 1, memory_order_release);
}

/* cache_log.c. False: `wait` is off and somebody else holds it. */
bool cache_log_lock(struct cache_shard *s, bool wait);
void cache_log_unlock(struct cache_shard *s);
void cache_log_empty(struct cache_shard *s);
/* The same because its invariants are broken: logged and counted like a dead writer. */
void cache_log_disorder(struct cache_shard *s);
/* Reads the head of a record at a position known to be in its log. False: there is none: disorder. */
bool cache_log_head(const struct cache *c, const struct cache_place *p, uint64_t pos, struct cache_head *h_r);
bool cache_log_has_room(const struct cache *c, const struct cache_shard *s, enum cache_which w, uint64_t reclaimed,
			uint64_t lines);
/* Readers see that lines below pos may be written next. */
void cache_log_reclaim(struct cache_shard *s, uint64_t pos);
/* Where the next record of `lines` goes, for which there is room: behind a pad when it would cross the end. */
uint64_t cache_log_place(const struct cache *c, const struct cache_place *p, enum cache_which w, uint64_t lines);
/* The record is whole: first the log, then slot i knows of it. */
void cache_log_publish(const struct cache_place *p, int i, uint64_t pos, uint64_t lines, unsigned hits);
/* The slot of a key and the head of its record, or -1. */
int cache_log_find(const struct cache *c, const struct cache_place *p, uint32_t cls, const struct uuid *key,
		   struct cache_head *h_r);
uint64_t cache_log_entries(const struct cache_shard *s);
void cache_log_count_in(struct cache_shard *s, const struct cache_head *h);
void cache_log_count_out(struct cache_shard *s, const struct cache_head *h);

/* cache_evict.c: an insertion, while it makes room. */
struct cache_eviction {
	uint64_t carry_lines; /* that it may still copy */
	int64_t now_us;	      /* read when it evicts for the first time; 0 before */
};
/* Room for a record of `lines` in that log, whoever must go for it. */
void cache_evict_for(struct cache *c, const struct cache_place *p, enum cache_which w, uint64_t lines,
		     struct cache_eviction *e);
/* A slot for a new record: a free one, else that of the least wanted. */
int cache_evict_slot(const struct cache *c, const struct cache_place *p, struct cache_eviction *e);

/* cache_sketch.c: how often a key was wanted lately, among many it shares a counter with: 0 to 15. */
unsigned cache_sketch_of(const struct cache *c, const struct cache_place *p);
void cache_sketch_add(const struct cache *c, const struct cache_place *p, unsigned n);
/* Once an insertion: halves a few counters, so that in some rounds of insertions all were. */
void cache_sketch_age(const struct cache *c, const struct cache_place *p);
#endif
