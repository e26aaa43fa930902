/* L1: a sharded cache in shared memory. Readers take no lock and never wait.
 *
 * A shard is a hash index plus a circular log of records. A record is valid while its position is
 * at or above the shard's `reclaimed` position (free-running); the writer moves `reclaimed` (release) before
 * it overwrites, a reader copies the value out and then checks (acquire) that the position still
 * holds and that the shard's generation did not move: a killed writer leaves nothing to wait for.
 * Writers (api fills, warmer fills, sync's write-through and invalidations) hold the shard's robust
 * mutex; when its owner died the shard is emptied (generation + 1), counted and logged, never repaired.
 *
 * A fill carries the shard's epoch that was read before its load began (cache_epoch()) and is
 * refused when an invalidation or a newer write moved it: no stale fill. Eviction: oldest first, with one more round for what was
 * read since (FIFO with reinsertion). */
#ifndef ORC_CACHE_H
#define ORC_CACHE_H
#include "util.h"
#include "uuid.h"

struct cache;
enum cache_class { CACHE_MEMORY = 1 };
struct cache_meta { /* travels with every value */
	uint64_t ns, version;
	int64_t expires_us; /* 0 = never; readers must treat an expired entry as gone (cache_get does) */
};

size_t cache_segment_size(uint64_t bytes);
struct cache *must_check cache_open(int fd, bool format); /* format: once in the segment's life */
void cache_close(struct cache **c);

/* Copies the value to buf (cap bytes). Returns its length, or -1: a miss (absent, expired at now_us,
 * larger than cap, or changed under our feet too often). */
ptrdiff_t cache_get(struct cache *c, enum cache_class cls, const struct uuid *key, int64_t now_us, void *buf,
		    size_t cap, struct cache_meta *meta_r);
/* The epoch of the shard of this key: load it BEFORE reading pending table or store. */
uint64_t cache_epoch(struct cache *c, enum cache_class cls, const struct uuid *key);
/* Fill after a miss. False: refused (epoch moved, a version ≥ this one is there, or too large). */
bool cache_fill(struct cache *c, enum cache_class cls, const struct uuid *key, uint64_t epoch,
		const struct cache_meta *meta, const void *value, size_t len);
/* sync: write-through of an applied write: replaces any older version and moves the epoch. */
void cache_put(struct cache *c, enum cache_class cls, const struct uuid *key, const struct cache_meta *meta,
	       const void *value, size_t len);
/* sync: the key is gone; moves the epoch. */
void cache_remove(struct cache *c, enum cache_class cls, const struct uuid *key);
/* sync: empties everything of a namespace (simple form: bumps every shard's epoch, drops entries of ns). */
void cache_purge_ns(struct cache *c, uint64_t ns);

struct cache_stats {
	uint64_t entries, bytes, capacity, evictions, emptied_shards;
};
void cache_stats(struct cache *c, struct cache_stats *out);
#endif
