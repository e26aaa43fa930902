/* L1: a sharded cache in shared memory. Readers take no lock and never wait.
 *
 * A shard is a hash index plus circular logs of records. A record is valid while its position is
 * at or above its log's `reclaimed` position (free-running); the writer moves `reclaimed` (release) before
 * it overwrites, a reader copies the value out and then checks (acquire) that the position still
 * holds: a killed writer leaves nothing to wait for.
 * Writers (api fills and purges, warmer fills, sync's write-through and invalidations) hold the shard's robust
 * mutex; when its owner died the shard is emptied, counted and logged, never repaired.
 *
 * A fill carries the shard's epoch that was read before its load began (cache_epoch()) and is
 * refused when an invalidation or a newer write moved it: no stale fill.
 *
 * A value is fresh, then stale (it may be served while somebody fetches it anew), then gone: cache_age_of(). */
#ifndef ORC_CACHE_H
#define ORC_CACHE_H
#include "util.h"
#include "uuid.h"

struct cache;
/* What the values of a class are, and what its keys are made of. Numbers outlive processes: add to the end. */
enum cache_class {
	CACHE_MEMORY = 1, /* reply bodies of memories, by id; negative: there is none */
	CACHE_SEARCH,	  /* answers of searches, by namespace, its generation and the question */
	CACHE_VECTOR,	  /* vectors of texts, by vector space and text */
	CACHE_CLASSES	  /* one more than the last */
};
const char *cache_class_name(enum cache_class cls);  /* "memory"; "" for none */
enum cache_class cache_class_find(const char *name); /* 0: there is no such class */
enum cache_flag { CACHE_NEGATIVE = 1 };		     /* it is known that there is nothing */

/* Travels with every value. Times are relative to filled_us; the longest is 49 days: a longer life of what is cached
 * ends a copy of it too early, which is no harm. */
struct cache_meta {
	uint64_t ns;	   /* record_ns() of the namespace, for purges; 0 = none */
	uint64_t version;  /* the higher one wins */
	int64_t filled_us; /* when the value was true (clock_real_us()) */
	uint32_t fresh_ms; /* from then on it is stale; 0 = never */
	uint32_t gone_ms;  /* from then on it is gone; 0 = never */
	uint16_t tag;	   /* of what made it (model version, embedding epoch), for purges; 0 = none */
	uint8_t flags;	   /* enum cache_flag */
};
/* Sets when the value is gone: at the absolute time gone_us (0 = never). filled_us must be set. */
void cache_meta_gone(struct cache_meta *m, int64_t gone_us);

enum cache_age {
	CACHE_FRESH,
	CACHE_AGEING, /* the last eighth of its freshness: whoever is asked for it may fetch it ahead */
	CACHE_STALE,
	CACHE_GONE
};
enum cache_age cache_age_of(const struct cache_meta *m, int64_t now_us);

size_t cache_segment_size(uint64_t bytes);
struct cache *must_check cache_open(int fd, bool format); /* format: once in the segment's life */
void cache_close(struct cache **c);

/* Copies the value to buf (cap bytes). Returns its length (0: an empty or negative value), or -1: a miss (absent, gone
 * at now_us, larger than cap, or changed under our feet too often). A stale value is a hit. */
ptrdiff_t cache_get(struct cache *c, enum cache_class cls, const struct uuid *key, int64_t now_us, void *buf,
		    size_t cap, struct cache_meta *meta_r);
/* The epoch of the shard of this key: load it BEFORE reading pending table or store. */
uint64_t cache_epoch(struct cache *c, enum cache_class cls, const struct uuid *key);
/* Fill after a miss. False: refused (epoch moved, a higher version is there, or the same version filled no earlier;
 * too large; the shard is locked by somebody who sleeps). */
bool cache_fill(struct cache *c, enum cache_class cls, const struct uuid *key, uint64_t epoch,
		const struct cache_meta *meta, const void *value, size_t len);
/* sync: write-through of an applied write: replaces any older version and moves the epoch. */
void cache_put(struct cache *c, enum cache_class cls, const struct uuid *key, const struct cache_meta *meta,
	       const void *value, size_t len);
/* The key is gone; moves the epoch. Any process: sync when a write says so, api when an operator does. */
void cache_remove(struct cache *c, enum cache_class cls, const struct uuid *key);

/* Which entries to drop: all of these hold; 0 = any. */
struct cache_match {
	uint64_t ns;
	enum cache_class cls;
	uint16_t tag;
};
/* Any process: drops what matches and moves every shard's epoch. Waits for the locks of the shards, one after the other.
 * Returns how many entries are gone. */
uint64_t cache_purge(struct cache *c, const struct cache_match *m);

/* One entry as it was when it was looked at. */
struct cache_entry {
	struct uuid key;
	enum cache_class cls;
	uint32_t len;
	unsigned hits; /* how hot: times it was read since it was judged last, saturating */
	bool main;     /* it has been read again since it came: it lies in the main log */
	struct cache_meta meta;
};
/* Looks at one without marking it as read. False: it is not there (gone ones are, until they are overwritten). */
bool cache_peek(struct cache *c, enum cache_class cls, const struct uuid *key, struct cache_entry *e_r);
/* How often the key was wanted of late, 0 to 15, whether it is here or not: an estimate (cache_sketch.c). */
unsigned cache_frequency(struct cache *c, enum cache_class cls, const struct uuid *key);
/* Visits entries without a lock, shard by shard; who comes or moves meanwhile may be missed. The value is copied to buf
 * when it fits (cap 0: none is), else NULL is handed over. fn returns false to stop. */
typedef bool cache_visit_fn(void *arg, const struct cache_entry *e, const void *value);
void cache_walk(struct cache *c, void *buf, size_t cap, cache_visit_fn *fn, void *arg);

struct cache_stats {
	uint64_t capacity, emptied_shards;
	struct cache_class_stats {
		uint64_t entries, bytes;	/* bytes: of the log, heads included */
		uint64_t evictions, evicted_ms; /* evicted_ms: the sum of their ages */
	} of[CACHE_CLASSES];			/* by enum cache_class; [0]: all */
};
void cache_stats(struct cache *c, struct cache_stats *out);
#endif
