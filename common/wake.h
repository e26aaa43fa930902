/* Wake-ups without a lost one: an eventfd that is written only when its owner sleeps.
 *
 * One struct wake in shared memory (plant.h) and one eventfd per worker slot. The owner is the
 * only consumer of its incoming rings; many producers may wake it.
 *
 *   consumer: drain rings; wake_prepare(); look at the rings again; if work: wake_cancel() and go
 *             on, else return to the event loop, which polls the eventfd; then wake_ack().
 *   producer: publish (release store in the ring); wake_signal().
 *
 * Proof sketch: both sides execute a seq_cst fence between their own store and their load of
 * the other's word (Dekker), so at least one of them sees the other: either the consumer sees
 * the record or the producer sees `asleep`. Without the fences 16 wake-ups were lost in 60 M
 * messages (peers/style.md); tests/stress/ring counts them. */
#ifndef ORC_WAKE_H
#define ORC_WAKE_H
#include <stdatomic.h>
#include "util.h"

struct wake {
	_Alignas(CACHE_LINE) _Atomic uint32_t asleep; /* number of this sleep; 0 = awake or already woken */
	_Atomic uint32_t episode;		      /* consumer only: number of its last sleep */
};
void wake_prepare(struct wake *w);	   /* consumer: I am about to sleep */
void wake_cancel(struct wake *w);	   /* consumer: I found work after all */
void wake_ack(struct wake *w, int efd);	   /* consumer: woken; drains the eventfd */
void wake_signal(struct wake *w, int efd); /* producer: after publishing */
#endif
