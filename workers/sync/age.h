/* Since when has the oldest record waited that the store lacks? Marks of (record, time), bounded: where there would be
 * too many of them, they become coarser, and the answer errs towards older. Pure: no clock. */
#ifndef ORC_AGE_H
#define ORC_AGE_H
#include "util.h"

#define AGE_MARKS 512 /* power of two */
#define AGE_GRAIN_US 10000

struct age {
	struct {
		uint64_t seq;	  /* records up to it … */
		int64_t since_us; /* … have waited at most since then */
	} mark[AGE_MARKS];
	size_t head, n;
	int64_t grain_us; /* 0: AGE_GRAIN_US */
};

/* Records up to seq wait since now_us. Neither ever descends. */
void age_add(struct age *a, uint64_t seq, int64_t now_us);
/* Records up to seq wait no more. */
void age_done(struct age *a, uint64_t seq);
/* Since when the oldest waits; 0: none does. */
int64_t age_since(const struct age *a);
#endif
