/* The journal's arrays of segments and spares. Every function is called with `list` held. */
#include "journal/journal-private.h"

#include <stdlib.h>

void list_push_seg(struct journal *j, const struct seg *g)
{
	if (j->nsegs == j->csegs) {
		j->csegs = j->csegs ? j->csegs * 2 : 16;
		j->segs = util_realloc(j->segs, j->csegs * sizeof(*j->segs));
	}
	j->segs[j->nsegs++] = *g;
}

void list_push_spare(struct journal *j, const struct spare *s)
{
	if (j->nspares == j->cspares) {
		j->cspares = j->cspares ? j->cspares * 2 : 16;
		j->spares = util_realloc(j->spares, j->cspares * sizeof(*j->spares));
	}
	j->spares[j->nspares++] = *s;
}

struct seg *list_current(struct journal *j)
{
	AN(j->nsegs);
	return &j->segs[j->nsegs - 1];
}

/* Full-sized ones before others, clean ones before stale ones. */
static int worth(const struct journal *j, const struct spare *s)
{
	return (s->size == j->segment_bytes ? 2 : 0) + (s->stale ? 0 : 1);
}

bool list_take_spare(struct journal *j, uint64_t room, struct spare *s_r)
{
	size_t best = SIZE_MAX;
	for (size_t i = 0; i < j->nspares; i++) {
		const struct spare *s = &j->spares[i];
		if (s->size < SEG_DATA_START || s->size - SEG_DATA_START < room)
			continue;
		if (best == SIZE_MAX || worth(j, s) > worth(j, &j->spares[best]))
			best = i;
	}
	if (best == SIZE_MAX)
		return false;
	*s_r = j->spares[best];
	j->spares[best] = j->spares[--j->nspares];
	return true;
}

void list_account(struct journal *j)
{
	uint64_t held = 0;
	for (size_t i = 0; i < j->nsegs; i++) {
		const struct seg *g = &j->segs[i];
		if (g->last_seq > j->released)
			held += i + 1 < j->nsegs ? g->size : g->end - g->start;
	}
	atomic_store_explicit(&j->held, held, memory_order_relaxed);
}
