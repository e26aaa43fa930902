/* How much of the journal the flusher takes at once, and when it tries again. Pure functions: no clock, no store.
 *
 * Batches. Behind the last one the next is as large as takes PACE_TARGET_US by the last one's speed, within a factor
 * of two of what it was; at least PACE_MIN operations, at most `batch_max`, and under backlog PACE_BACKLOG times that.
 * After a failure it is half of that: a batch that never fits into the time that an answer may take would be tried for ever.
 *
 * A culprit. When the store rejects a batch and does not say which operation it was, half of it is tried, and of the half
 * that has it, half again: what was tried without it is stored by that. After log2(n) steps one operation alone is
 * rejected: that one it is. Where one is, others may be: the next batches are small, and grow as long as all is well. */
#ifndef ORC_PACE_H
#define ORC_PACE_H
#include "util.h"

#define PACE_TARGET_US 100000
#define PACE_MIN 16
#define PACE_CAREFUL 8 /* operations behind a culprit … */
#define PACE_SURE 256  /* … until so many were stored at once */
#define PACE_BACKLOG 8
#define PACE_BYTES (8u << 20) /* a batch ends at so many bytes; one transaction may be larger */
#define PACE_RETRY_BASE_US 100000
#define PACE_RETRY_CAP_US 3000000

struct pace {
	uint64_t ops;	   /* of the next batch; 0: none was made yet */
	uint64_t suspect;  /* one of so many next operations is rejected; 0: none is known to be */
	bool careful;	   /* a batch may end within a transaction */
	unsigned failures; /* in a row, of the store itself */
};

/* Operations of the next batch, with about `backlog` of them waiting. */
uint64_t must_check pace_batch(const struct pace *p, uint64_t batch_max, uint64_t backlog);
/* `ops` operations were stored, in took_us with the commit. */
void pace_stored(struct pace *p, uint64_t ops, int64_t took_us);
/* The store rejects something among `ops` operations (> 0). True: it is this one. Else the next batch is smaller. */
bool must_check pace_rejected(struct pace *p, uint64_t ops);
/* What was rejected is known, and out of the way. */
void pace_settled(struct pace *p);
/* The store failed; how long to wait before the next try: full jitter, from 0 up to a bound that doubles. `random`:
 * any 64 bits. */
int64_t pace_failed(struct pace *p, uint64_t random);

/* Seconds after which it is worth asking again, 1 to 60: `excess` (of anything) goes away at `rate` a second; 0: it does
 * not. */
uint32_t pace_retry_after(uint64_t excess, uint64_t rate);
#endif
