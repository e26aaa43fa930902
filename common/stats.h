/* Counters, gauges and histograms: declared with their documentation in stats.def; one slot per worker, which is its
 * only writer; /metrics sums and prints them.
 *
 * Memory: a slot has room for all histograms three times (below), 2.4 MB of addresses; of these, only pages in which
 * something was recorded exist. A route that is used takes 8 to 24 KB a worker. */
#ifndef ORC_STATS_H
#define ORC_STATS_H
#include <stdatomic.h>
#include "hist.h"
#include "util.h"

enum stat_id {
#define STAT(id, name, labels, type, help) STAT_##id,
#include "stats.def"
#undef STAT
	STAT_COUNT
};
enum hist_id {
#define HISTOGRAM(id, name, labels, unit, help) HIST_##id,
#include "stats.def"
#undef STAT
	HIST_COUNT
};
/* Room for counters, histograms and routes that are yet to come: the slots outlive an upgrade of the binary, so rows of
 * stats.def and routes.def keep their places, and new ones go to the end of their part. */
#define STATS_ROOM 160
#define STATS_HISTS 48
#define STATS_ROUTES 95 /* routes of the api; one more row counts what matched none */
#define STATS_CLASSES 5 /* 1xx … 5xx */

/* The last request of a route that fell into a coarse bucket and carried a trace id. `change` is odd while it is written. */
struct stats_trace {
	_Atomic uint64_t change, id[2], value, at_us;
};

struct stats_slot {
	/* Of the thread that runs the loop, or is the only one to count this; and of all threads. */
	_Alignas(CACHE_LINE) _Atomic uint64_t v[STATS_ROOM], shared[STATS_ROOM];
	_Atomic uint64_t http[STATS_ROUTES + 1][STATS_CLASSES];
	_Atomic uint64_t sum[STATS_HISTS], http_sum[STATS_ROUTES + 1]; /* 0: its histogram is empty */
	/* How the routes' histograms were at two times, so that quantiles can be told of what came after the older one.
	 * then[turns % 2] is the newer; stats_turn() overwrites the other. */
	_Atomic uint64_t turns;
	_Atomic int64_t turned_us[2];
	_Atomic uint64_t then_sum[2][STATS_ROUTES + 1];
	_Atomic uint32_t traced[STATS_ROUTES + 1]; /* a bit for each coarse bucket that has a trace */
	struct hist hist[STATS_HISTS];
	struct hist http_hist[STATS_ROUTES + 1];
	struct hist then[2][STATS_ROUTES + 1];
	struct stats_trace trace[STATS_ROUTES + 1][HIST_EDGES_MAX + 1];
};
_Static_assert((int)STAT_COUNT <= STATS_ROOM, "raise STATS_ROOM, and LAYOUT_PLANT with it");
_Static_assert((int)HIST_COUNT <= STATS_HISTS, "raise STATS_HISTS, and LAYOUT_PLANT with it");
_Static_assert(HIST_EDGES_MAX + 1 <= 32, "a bit for each coarse bucket");

/* Adds to a counter of this process's slot: one relaxed load and store, no lock prefix. Callers on
 * several threads of one worker use stats_add_shared(). */
#ifdef ORC_BLIND /* make bench-observe: what does recording cost? */
#define STATS_BLIND 1
#else
#define STATS_BLIND 0
#endif
static inline void stats_add(struct stats_slot *s, enum stat_id id, uint64_t n)
{
	if (STATS_BLIND)
		return;
	atomic_store_explicit(&s->v[id], atomic_load_explicit(&s->v[id], memory_order_relaxed) + n,
			      memory_order_relaxed);
}
static inline void stats_add_shared(struct stats_slot *s, enum stat_id id, uint64_t n)
{
	if (STATS_BLIND)
		return;
	atomic_fetch_add_explicit(&s->shared[id], n, memory_order_relaxed);
}
static inline uint64_t stats_value(const struct stats_slot *s, enum stat_id id)
{
	return atomic_load_explicit(&s->v[id], memory_order_relaxed) +
	       atomic_load_explicit(&s->shared[id], memory_order_relaxed);
}
/* A worker begins or ends: what its predecessor had open is gone. */
void stats_reset_gauges(struct stats_slot *s);

/* Nanoseconds, or hist_records(). Of one histogram all records are by one thread of the worker, or all are shared. */
static inline void stats_record(struct stats_slot *s, enum hist_id id, uint64_t v)
{
	if (!STATS_BLIND)
		hist_add(&s->hist[id], &s->sum[id], v, 1);
}
static inline void stats_record_shared(struct stats_slot *s, enum hist_id id, uint64_t v)
{
	if (!STATS_BLIND)
		hist_add_shared(&s->hist[id], &s->sum[id], v);
}
/* So many requests of the route were answered after so many nanoseconds. The loop's thread. */
static inline void stats_record_route(struct stats_slot *s, unsigned route, uint64_t ns, unsigned times)
{
	if (!STATS_BLIND)
		hist_add(&s->http_hist[route], &s->http_sum[route], ns, times);
}
/* It carried this trace id (16 bytes). */
void stats_trace_route(struct stats_slot *s, unsigned route, uint64_t ns, const unsigned char id[16]);
/* False: none fell into that bucket yet, or it is being written. */
bool stats_trace_read(const struct stats_slot *s, unsigned route, unsigned bucket, unsigned char id[16], uint64_t *ns_r,
		      int64_t *at_us_r);

#define STATS_TURN_US 30000000
/* The loop's thread, about once a second: does something every STATS_TURN_US. */
void stats_turn(struct stats_slot *s, int64_t now_us);
/* What the route has recorded in the last one or two of these, added to *io; `sum` is not. Any process. */
void stats_recent(const struct stats_slot *s, unsigned route, int64_t now_us, struct hist_sum *io);
#endif
