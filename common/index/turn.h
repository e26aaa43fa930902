/* A long piece of background work: when it is to end, and when to rest because others need the processors more. */
#ifndef ORC_TURN_H
#define ORC_TURN_H
#include <stdatomic.h>

#include "util.h"

struct turn {
	_Atomic bool stop;		  /* set by anybody: the piece is to return early */
	bool (*pressed)(const void *arg); /* do others need the processors? cheap; NULL: never */
	const void *arg;
	int64_t since_us; /* clock_mono_us(): the work's own */
};

static inline bool turn_over(const struct turn *t) { return atomic_load_explicit(&t->stop, memory_order_relaxed); }
void turn_begin(struct turn *t);
/* Between two steps, without any lock: while others are pressed, sleeps three times as long as the steps since the last rest
 * took, so that the work gets a fourth of a processor at most. */
void turn_rest(struct turn *t);
#endif
