/* Counters: declared with their documentation in stats.def; one slot per worker, which is its only
 * writer; /metrics sums and prints them. */
#ifndef ORC_STATS_H
#define ORC_STATS_H
#include <stdatomic.h>
#include "util.h"

enum stat_id {
#define STAT(id, name, labels, type, help) STAT_##id,
#include "stats.def"
#undef STAT
	STAT_COUNT
};
/* Room for counters and routes that are yet to come: the slots outlive an upgrade of the binary, so rows of
 * stats.def and routes.def keep their places, and new ones go to the end. */
#define STATS_ROOM 128
#define STATS_ROUTES 95 /* routes of the api; one more row counts what matched none */
#define STATS_CLASSES 5 /* 1xx … 5xx */
struct stats_slot {
	_Alignas(CACHE_LINE) _Atomic uint64_t v[STATS_ROOM];
	_Atomic uint64_t http[STATS_ROUTES + 1][STATS_CLASSES];
};
_Static_assert(STAT_COUNT <= STATS_ROOM, "raise STATS_ROOM, and LAYOUT_PLANT with it");
/* Adds to a counter of this process's slot: one relaxed load and store, no lock prefix. Callers on
 * several threads of one worker use stats_add_shared(). */
static inline void stats_add(struct stats_slot *s, enum stat_id id, uint64_t n)
{
	atomic_store_explicit(&s->v[id], atomic_load_explicit(&s->v[id], memory_order_relaxed) + n,
			      memory_order_relaxed);
}
static inline void stats_add_shared(struct stats_slot *s, enum stat_id id, uint64_t n)
{
	atomic_fetch_add_explicit(&s->v[id], n, memory_order_relaxed);
}
#endif
