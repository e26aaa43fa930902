/* Inside of the pinger: one ping per target at a time, at most PINGS_AT_ONCE over all. */
#ifndef ORC_PINGER_H
#define ORC_PINGER_H
#include "log.h"
#include "spans.h"
#include "token.h"
#include "trace/trace.h"
#include "transport.h"
#include "worker.h"

#define PINGS_AT_ONCE 8

struct ping {
	struct pinger *p;
	const struct target *target; /* in p->targets */
	struct plant_target *row;    /* where its figures are shown */
	struct plant_target_figures figures;
	struct event *timer;	    /* when it is due next */
	struct exchange *exchange;  /* under way, or NULL */
	struct token_wait *wait;    /* for its token, or NULL */
	bool queued;		    /* due, but PINGS_AT_ONCE are under way */
	bool forced;		    /* somebody wants it now */
	unsigned failures;	    /* since the last good answer */
	struct trace_context trace; /* of the ping under way */
	bool traced, sampled;	    /* whether it has one */
	int64_t sent_us, sent_real_us, gap_us;
	struct log_limit limit, tls_limit;
};

struct pinger {
	struct worker *w;
	struct target_list *targets, *next; /* next: between prepare and commit */
	struct ping **pings;		    /* one for each target; pointers, as events hold them */
	size_t npings;
	struct transport *transport; /* made with the first target */
	struct tokens *tokens;
	struct spans *spans;   /* what sends traces; NULL: there is no segment */
	struct tracer *tracer; /* of pings */
	bool tracing;
	size_t active;
	size_t turn; /* where the search for queued ones goes on: fairness */
};

/* ping.c */
struct ping *must_check ping_new(struct pinger *p, const struct target *t);
void ping_free(struct ping *g);
void ping_use(struct ping *g, const struct target *t); /* the same target in a new list */
void ping_first(struct ping *g, size_t i, size_t n);   /* target i of n that begin together */
void ping_now(struct ping *g);			       /* whatever its rhythm, schedule and traffic say */
void ping_queued(struct pinger *p);		       /* starts those that wait for others to end */
#endif
