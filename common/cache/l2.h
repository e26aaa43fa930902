/* L2: a Redis that the daemons of a fleet may share. Never needed: a value in it may be lost, old or a lie, and nothing
 * breaks; nobody waits for it longer than redis.answer_timeout.
 *
 * Every value carries the revision of the store at which it was true. The reader compares it with the last change
 * of the key that the feed has told (older ones are not believed), and the namespace in the meta with the one that
 * the credential may see: the key does not say it. So nothing need be removed from here for readers to be right.
 *
 * All calls go through the breaker "redis". The connections are driven by the loop given to l2_open(). */
#ifndef ORC_CACHE_L2_H
#define ORC_CACHE_L2_H
#include "cache/cache.h"

struct breaker;
struct conf;
struct event_base;
struct l2;
struct stats_slot;

/* The loop's thread. `breakers`: the rows of the plant; stats: this process's slot. name: Redis lists the
 * connections as "orchestra:NAME". NULL with *error_r NULL: redis.url is empty, there is no L2. NULL with
 * *error_r (malloc'ed): redis.* is wrong. That Redis is away is no error: connections are made behind the back. */
struct l2 *must_check l2_open(const struct conf *c, struct event_base *loop, struct breaker *breakers,
			      struct stats_slot *stats, const char *name, char **error_r);
/* The row of the breaker, configured; NULL: there is no room for one. Whoever is first makes it. */
struct breaker *must_check l2_breaker(const struct conf *c, struct breaker *breakers);
/* Which store the values are of, not 0; before it is said, nothing is asked and nothing kept. Two fleets that share
 * a Redis do not believe each other's. Any thread. */
void l2_set_store(struct l2 *l, uint64_t identity);
/* The loop's thread: who waits is let go, and every call fails at once from now on. */
void l2_stop(struct l2 *l);
/* The loop's thread, or when it has ended; no thread may be inside a call any more (l2_stop() first). */
void l2_free(struct l2 **l);

struct l2_value {
	bool found;
	uint64_t revision;
	struct cache_meta meta;
	struct span body; /* lies in bytes */
	char *bytes;	  /* malloc'ed */
};
/* Any thread but the loop's. Blocks for redis.answer_timeout at most, for all keys together. What is not there, not
 * believed (checksum, store, key, gone) or not answered in time is !found. False: L2 could not be asked at all. All of
 * out[] is set in either case; l2_values_free() it. */
bool l2_get_many(struct l2 *l, enum cache_class cls, const struct uuid *keys, size_t n, struct l2_value *out);
void l2_values_free(struct l2_value *v, size_t n);
/* Any thread, never waits. Dropped, and counted, when the breaker is open, too much is under way, or the body is larger
 * than redis.value_max. It is gone from Redis at meta's end, or redis.ttl later, whichever is first. Negative entries
 * are not kept. */
void l2_put(struct l2 *l, enum cache_class cls, const struct uuid *key, uint64_t revision,
	    const struct cache_meta *meta, struct span body);
/* Any thread, never waits. Room is made in Redis; nobody relies on it. */
void l2_drop(struct l2 *l, enum cache_class cls, const struct uuid *key);

/* ---- between daemons ---- */

#define L2_MESSAGE_MAX 65536
/* Any thread, never waits: published to all that listen and have the same store; may be lost. False: it was not sent. */
bool l2_notify(struct l2 *l, struct span message);
/* The loop's thread, once. `message` is called for each message, one's own among them. `gap` is called with false when
 * the subscription is lost, which means that messages may be missed from now on, and with true when it is (again) there.
 * Both on the loop's thread. Messages of other stores are not handed over, nor is any before l2_set_store(). */
void l2_listen(struct l2 *l, void (*message)(void *arg, struct span message), void (*gap)(void *arg, bool connected),
	       void *arg);

/* ---- for people ---- */

struct l2_info {
	uint64_t used_memory, maxmemory, evicted_keys, expired_keys, keyspace_hits, keyspace_misses, keys;
	unsigned masters; /* that answered; the numbers are their sums */
	char policy[32], version[16], mode[16];
};
/* INFO of all masters. Any thread but the loop's; blocks like l2_get_many(). False: none answered. */
bool l2_info(struct l2 *l, struct l2_info *out_r);
/* Removes what is ours, of all stores (cls 0: of every class), in slices of some hundred keys. Any thread but the loop's;
 * blocks until done or until a slice is not answered within two seconds: then false. progress (may be NULL) is
 * called with the number of keys so far behind each slice; false from it ends the work. */
bool l2_clear(struct l2 *l, enum cache_class cls, bool (*progress)(void *arg, uint64_t removed), void *arg,
	      uint64_t *removed_r);
/* Can Redis be reached as redis.* say? *what_r (malloc'ed) says what was found, or why not; three seconds at most. */
bool must_check l2_probe(const struct conf *c, char **what_r);
/* Removes one value, whatever lies there, and waits like l2_get_many(). False: Redis did not say that it is gone. */
bool l2_forget(struct l2 *l, enum cache_class cls, const struct uuid *key, bool *removed_r);
/* What went wrong last, "" if nothing did; a copy. Any thread. */
void l2_error(struct l2 *l, char *text, size_t cap);
#endif
