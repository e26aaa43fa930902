/* A queue for a resource that may be overloaded: who is let in, who goes next, and who waited for too long.
 *
 *   let in      all, until there is a standing queue (codel.h). Then what the class may wait for, `target` times
 *                 1/2 for bulk      (import, export, counts, large adds and pages)
 *                 1   for reads     (searches, cold reads, lists)
 *                 3/2 for writes    (single ones)
 *               bounds the queue: its length follows from the delay and from what requests take. Beyond, a flow that has
 *               less than its share of the queue waiting is still let in, the others are refused; beyond twice that,
 *               newcomers take the place of the newest of the flow that has most. Urgent ones are always let in.
 *   next        fair to flows (fair.h), bulk beside the others with an eighth of the time, more when nothing else waits
 *   too long    while there is a standing queue, what has waited for twice what its class may is not worth being done
 *
 * Nothing is refused while no more than `free` wait, however long they do: a slow machine is not an overloaded one.
 *
 * Pure: the caller brings time and locks. */
#ifndef ORC_LANE_H
#define ORC_LANE_H
#include "codel.h"
#include "fair.h"

enum lane_class { LANE_URGENT, LANE_WRITE, LANE_READ, LANE_BULK, LANE_BACKGROUND, LANE_CLASSES };

struct lane_conf {
	bool on;
	int64_t target_us, interval_us;
	size_t free, most; /* most: of all that wait */
};

struct lane_item {
	struct fair_item fair; /* first */
	enum lane_class class;
	bool settled;	 /* was let in before: a further step of what goes on, which is not refused any more */
	int64_t took_us; /* when it was taken */
};

enum lane_verdict {
	LANE_IN,
	LANE_OUT,    /* this flow has its share waiting, or more wait than are served in time */
	LANE_INSTEAD /* in, and *out_r has lost its place */
};

struct lane {
	struct lane_conf conf;
	struct fair *first, *bulk;
	struct codel codel;
	unsigned servers;	      /* that work on it at once */
	double cost_us[LANE_CLASSES]; /* of one, as it was of late */
	size_t n[LANE_CLASSES];
	double credit_us; /* of bulk */
};

void lane_init(struct lane *l, unsigned servers, double cost_us);
void lane_end(struct lane *l);
/* Would it be let in? */
bool lane_admits(struct lane *l, enum lane_class class, uint64_t flow, int64_t now_us);
/* i->class and i->settled are set. */
enum lane_verdict lane_offer(struct lane *l, struct lane_item *i, uint64_t flow, int64_t now_us,
			     struct lane_item **out_r);
/* The next; NULL: nothing waits that may be taken. bulk: may it be bulk? */
struct lane_item *lane_take(struct lane *l, int64_t now_us, bool bulk);
void lane_done(struct lane *l, const struct lane_item *i, int64_t now_us);
/* The cost of a class as somebody else has measured it. */
void lane_measured(struct lane *l, enum lane_class class, double us);
/* One of that class that is under way takes so long by now. */
void lane_running(struct lane *l, enum lane_class class, int64_t us);
/* One that has waited for too long, taken out; NULL: nobody has. */
struct lane_item *lane_stale(struct lane *l, int64_t now_us);
void lane_remove(struct lane *l, struct lane_item *i);
/* To be called now and then while it is standing: time passes although nothing happens. */
void lane_look(struct lane *l, int64_t now_us);

static inline bool lane_waits(const struct lane_item *i) { return i->fair.flow != NULL; }
size_t lane_items(const struct lane *l);
/* How long one that comes now waits, if the others go first: the longer of what those who wait will take, and of what the
 * first of them has waited. */
int64_t lane_delay(const struct lane *l, enum lane_class class, int64_t now_us);
int64_t lane_limit(const struct lane *l, enum lane_class class); /* what a class may wait for */
#endif
