/* What the feed's thread reads and the loop applies. */
#ifndef ORC_FEED_PRIVATE_H
#define ORC_FEED_PRIVATE_H
#include "sync.h"

struct feed_row {
	struct uuid id;
	uint64_t version, ns;
	int64_t expires_us;
	bool there; /* live; else it is gone */
	bool indexed;
	struct span body, content;
	uint32_t dim;
	float *x;
	char *bytes;
};
struct feed_ids {
	struct uuid *v;
	size_t n, cap;
};
struct feed {
	struct sync *s;
	struct store *store;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t taken;
	bool busy;
	_Atomic bool stop, hurry;
	uint64_t revision; /* read up to here */
	bool failed, looked_back;
	uint64_t past_drop; /* revision of the last namespace that was dropped, while looking back */
	int64_t count_at_us;
	struct feed_ids
		again; /* under the lock: to be looked at once more, because our own write was not decided yet */
	uint64_t again_flushed; /* flushed_seq when that was done last */
	/* What is handed to the loop. */
	struct store_change *changes;
	size_t nchanges, cchanges;
	struct feed_ids second; /* of `again` */
	struct feed_row *rows;
	size_t nrows, crows;
	uint64_t flushed; /* what the store had when the rows were read */
	uint64_t to;
	bool all; /* everything may have changed: the feed is no longer kept so far back */
};

/* feed.c: any thread. The memory's row is read and applied when the store has what was written to it here. */
void feed_again(struct feed *f, const struct uuid *id);
void feed_ids_add(struct feed_ids *l, const struct uuid *id);
/* feed_apply.c: the loop. sync_post() with the feed, and with a struct feed_namespaces that it frees. */
struct feed_namespaces {
	struct store_ns *v;
	size_t n, cap;
	uint64_t *gone; /* those that the changes drop, numbers: what the index has of them goes with that */
	size_t ngone;
	uint64_t flushed; /* of our own transactions the store had these when they were read */
	uint64_t applied; /* sequence; 0: whatever was written, the counters are not taken */
};
void feed_apply(struct sync *s, void *arg);
void feed_apply_namespaces(struct sync *s, void *arg);
#endif
