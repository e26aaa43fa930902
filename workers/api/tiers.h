/* The bodies of memories through the tiers: L1, what is pending, Redis, the store. What is found further away is put
 * into those that are nearer. */
#ifndef ORC_TIERS_H
#define ORC_TIERS_H
#include "reader.h"

enum tier { TIER_L1, TIER_JOURNAL, TIER_L2, TIER_STORE };
const char *tier_name(enum tier t);

/* Value-initialised but for the id; tier_items_free() it. */
struct tier_item {
	struct uuid id;
	/* READ_OK: live, and visible. READ_NONE: there is none, or nobody may see it any more. READ_ERROR: reader->error,
	 * reader->store_failed. */
	enum read_rc rc;
	enum tier tier;
	bool stored;	/* it lies in L1 now */
	bool stale;	/* older than cache.ttl */
	bool away;	/* the store did not answer; this is what L1 had */
	bool collapsed; /* somebody else has loaded it */
	struct cache_meta meta;
	char *body; /* malloc'ed */
	size_t len;
	uint64_t epoch; /* tiers.c's own */
	bool settled;
};
/* Reads all of them, with as few questions to Redis and the store as there can be. Blocks. reload: from the store, whatever
 * the caches have. */
void tiers_read(struct reader *r, struct tier_item *v, size_t n, bool reload);
/* One, while all processes together ask for it once. */
void tiers_read_one(struct reader *r, struct tier_item *v);
/* Reads it anew, unless somebody does already. */
void tiers_refresh(struct reader *r, const struct uuid *id);
void tier_items_free(struct tier_item *v, size_t n);

/* Is what others have written known? False in a fleet when the feed has been silent for more than a second: then L1 may
 * be old, within cache.ttl. Any thread. */
bool tiers_feed_heard(const struct shared *s);
/* Redis, ready to be asked; NULL: there is none, or which store its values are of is not known yet. Any thread. */
struct l2 *tiers_l2(const struct shared *s);
#endif
