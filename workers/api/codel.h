/* Is there a standing queue? The rule of CoDel (K. Nichols, V. Jacobson: "Controlling Queue Delay", ACM Queue 2012;
 * RFC 8289): a queue that is short now and then only evens out bursts and does good; one whose delay does not once fall
 * below `target` for a whole `interval` does nothing but delay. The delay is told by whoever has the queue: how long what
 * came first waits by now.
 *
 * What is done about it differs from the RFC: packets are dropped at a growing rate until senders slow down; requests are
 * refused down to what `target` holds (lane.h), as servers can count what they have (B. Maurer: "Fail at Scale", ACM
 * Queue 2015). So that this does not end in the moment in which it works, it ends when the delay has been below half
 * of `target` for an interval. That nothing waits for a moment does not end it: who serves in gulps empties the queue
 * each time, and would be flooded until it stands again.
 *
 * Pure: the caller brings the time. */
#ifndef ORC_CODEL_H
#define ORC_CODEL_H
#include <stdbool.h>
#include <stdint.h>

struct codel {
	bool standing;
	int64_t above_us, below_us; /* since when above target, or below its half; 0: it is not */
};

/* To be told whenever something comes, is taken, or time has passed. over: there is none, as the caller knows. True: there is
 * a standing queue. */
bool codel_look(struct codel *c, int64_t target_us, int64_t interval_us, int64_t now_us, int64_t delay_us, bool over);
#endif
