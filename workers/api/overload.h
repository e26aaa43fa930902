/* Admission: which requests are refused when there are more than can be served, and what they are told (429). Everything
 * here runs on the loop.
 *
 * Three things may be too much: what waits for the reader threads (jobs.c), what waits to be handed to sync (writes.c),
 * and the loop's own turn. The first two are lanes (lane.h). Of the third it is known how long each request's socket has waited
 * to be read: in a crowd in an order that is fair to flows (http/ready.c), else for as long as the round takes by now. */
#ifndef ORC_OVERLOAD_H
#define ORC_OVERLOAD_H
#include "api.h"

enum overload_queue { OVERLOAD_READERS, OVERLOAD_WRITES, OVERLOAD_LOOP, OVERLOAD_QUEUES };
enum overload_why { OVERLOAD_DELAY, OVERLOAD_EVICTED, OVERLOAD_STALE, OVERLOAD_WHYS };

struct overload *must_check overload_open(struct api *a);
void overload_conf(struct api *a); /* the configuration has changed */
void overload_free(struct overload **o);
/* What lanes and loop go by. */
struct lane_conf overload_lane_conf(const struct api *a);

/* Before anything is done for a call whose route and principal are known: notes its class and flow. False: the problem is
 * set. Reads that a cache may answer pass. */
bool overload_admits(struct call *c);
/* For what needs more than the loop. */
bool overload_admits_late(struct call *c);
/* Makes the reply the 429 of a refusal, and counts it. delay_us: of the queue, for this class. */
void overload_refuse(struct call *c, enum overload_queue q, enum overload_why why, int64_t delay_us);
/* The client of a call that waits has gone, or has closed its half of the connection. */
void overload_gone(struct call *c);

/* How a queue stands; tells metrics, and looks after it while it is overloaded. */
void overload_show(struct api *a, enum overload_queue q, const struct lane *l, int64_t now_us);

int64_t overload_delay(const struct api *a, enum overload_queue q); /* of this worker, as it was shown last */
void overload_status(const struct plant *p, struct buf *b);	    /* field of the status */
/* A gauge that is no sum over the workers, but the longest delay of any; and that one, µs. */
bool overload_own_metric(size_t stat);
uint64_t overload_delay_us(const struct plant *p, size_t stat);

/* ---- overload_flow.c: whose request it is ---- */

/* What the first bytes of a body tell: the string of the field "namespace" at its top (as it is written; p NULL: not seen),
 * whether "memories" is there. True: all of the top was seen. */
bool overload_scan(struct span body, struct span *ns_r, bool *memories_r);
uint64_t overload_flow(struct call *c, bool *memories_r);
#endif
