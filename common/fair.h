/* A queue that is fair to flows: start-time fair queueing (P. Goyal, H. Vin, H. Cheng: "Start-time Fair Queuing", SIGCOMM
 * 1996). Every flow that waits gets an equal share of what is served, measured in cost, however much of it waits; one that
 * has just come goes before those that have had their share. Within a flow: first come, first served.
 *
 * Pure: no clock, no lock. Memory: items are the caller's; a flow exists while it waits, and as long afterwards as it is
 * ahead of the others, at most FAIR_PARKED of these. */
#ifndef ORC_FAIR_H
#define ORC_FAIR_H
#include "util.h"

#define FAIR_PARKED 256

struct fair_flow;
struct fair_item {			 /* embedded in what waits */
	struct fair_item *next, *prev;	 /* of its flow */
	struct fair_item *newer, *older; /* of all */
	struct fair_flow *flow;		 /* NULL: it does not wait */
	uint64_t key, cost;
	int64_t since_us;
};

struct fair;
struct fair *fair_new(void);
void fair_free(struct fair **f); /* items are forgotten */

/* cost: at least 1; what serving it will take, as far as is known. */
void fair_push(struct fair *f, struct fair_item *i, uint64_t key, uint64_t cost, int64_t now_us);
struct fair_item *fair_pop(struct fair *f); /* NULL: nothing waits */
void fair_remove(struct fair *f, struct fair_item *i);
/* Serving an item of this flow took so much more (less) than its cost said. */
void fair_settle(struct fair *f, uint64_t key, int64_t delta);

size_t fair_items(const struct fair *f);
size_t fair_flows(const struct fair *f); /* that wait */
size_t fair_items_of(const struct fair *f, uint64_t key);
struct fair_item *fair_first(const struct fair *f);	 /* what fair_pop() would take */
struct fair_item *fair_oldest(const struct fair *f);	 /* it came first of all */
struct fair_item *fair_newer(const struct fair_item *i); /* the next to come */
/* The newest item of the flow with the most of them. */
struct fair_item *fair_fattest(const struct fair *f, size_t *items_r);
struct fair_item *fair_before(const struct fair_item *i); /* the one that came before it in its flow */
#endif
