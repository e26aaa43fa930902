/* Compaction: a chunk that is no longer appended to and at least half dead is emptied, a few rows
 * per write, into its namespace's newest chunk. To a reader a move is an update to the same
 * version. Half dead means that at most one row is moved per row that died. */
#include "fault.h"
#include "lists-private.h"
#include <stdlib.h>

#define ROWS_PER_WRITE 8	   /* bounds what an insert can cost: 8 copies */
#define AHEAD (2 * ROWS_PER_WRITE) /* rows that the disk is asked for: of this write and the next */

void vectors_compact_offer(struct vectors *v, uint32_t chunk)
{
	struct vectors_writer *w = v->w;
	struct vectors_shape s;
	const struct vectors_chunk *c = &v->chunks[chunk];
	(void)vectors_own(v, c, &s);
	/* One that was closed early has fewer rows than room; one that a predecessor left in the file is not appended to, though
	 * it has room, which nobody else would give back. */
	uint32_t count = vectors_begun(v, &s) ? s.capacity : c->count;
	if (w->queued[chunk] || 2U * w->live[chunk] > count)
		return;
	w->queued[chunk] = 1;
	if (w->victims.n == w->victims.cap) {
		w->victims.cap = w->victims.cap ? 2 * w->victims.cap : 16;
		w->victims.p = util_realloc(w->victims.p, w->victims.cap * sizeof(*w->victims.p));
	}
	w->victims.p[w->victims.n++] = chunk;
}

static uint32_t first_live(const struct vectors *v, const struct vectors_chunk *c)
{
	for (uint32_t i = 0; i < VECTORS_WORDS; i++) {
		uint64_t bits = ~vectors_tombs(v, c->offset)[i];
		if (bits)
			return i * 64 + (uint32_t)__builtin_ctzll(bits);
	}
	return VECTORS_ROWS_MAX;
}

bool vectors_compact_row(struct vectors *v, uint32_t chunk)
{
	const struct vectors_chunk *c = &v->chunks[chunk];
	struct vectors_shape s;
	const char *base = vectors_own(v, c, &s);
	struct vectors_ns *n = vectors_ns_find(v, c->ns);
	uint32_t i = first_live(v, c);
	AN(n && i < c->count);
	uint32_t open = v->w->open[n - v->ns];
	if (open && v->chunks[open - 1].dim != c->dim)
		return false; /* would close the newest chunk at every turn */
	struct vectors_row row = {.ns = c->ns,
				  .dim = c->dim,
				  .version = vectors_load_version(base, &s, i),
				  .expires_us = vectors_load_expiry(base, &s, i),
				  .id = vectors_load_id(base, &s, i),
				  .norm = vectors_load_norm(base, &s, i),
				  .form = s.form};
	/* The writer reads its own row: no one else writes. */
	row.data = spill_rows(&v->w->spill, v, base, &s, i, 1);
	if (row.form == VECTORS_BYTES)
		row.step = vectors_load_step(base, &s, i);
	else if (n->form != row.form)
		vectors_form_row(v, &row, n->form);
	uint32_t from = vectors_ref(chunk, i), to;
	if (vectors_append(v, n, &row, true, &to))
		return false;
	FAULT_POINT(vectors_moved);
	vectors_map_set(v, &row.id, to);
	lists_row_moved(v, (uint32_t)(n - v->ns), from, to);
	vectors_kill_row(v, from); /* the last one gives the chunk back and clears `queued` */
	return true;
}

/* The writer must not wait for the disk row by row. */
static void look_ahead(const struct vectors *v, uint32_t chunk)
{
	const struct vectors_chunk *c = &v->chunks[chunk];
	struct vectors_shape s;
	const char *base = vectors_own(v, c, &s);
	uint32_t left = AHEAD;
	for (uint32_t i = s.spilled ? first_live(v, c) : c->count; left && i < c->count; i++)
		if (!vectors_is_dead(v, c->offset, i)) {
			spill_ahead(base, &s, i);
			left--;
		}
}

void vectors_compact(struct vectors *v)
{
	struct vectors_pool_stack *s = &v->w->victims;
	if (v->w->pool.hold)
		return; /* it is being saved: a row must not move from where the saver has yet to look to where it has been */
	if (s->n && v->w->queued[s->p[s->n - 1]])
		look_ahead(v, s->p[s->n - 1]);
	for (int budget = ROWS_PER_WRITE; budget && s->n; budget--) {
		uint32_t chunk = s->p[s->n - 1];
		size_t at = s->n - 1;
		if (v->w->queued[chunk] && vectors_compact_row(v, chunk))
			continue;
		/* Given back, or no memory to move to: offered again with its next loss. A move may have
		 * pushed other victims, so this one is not necessarily on top any more. */
		v->w->queued[chunk] = 0;
		s->p[at] = s->p[s->n - 1];
		s->n--;
	}
}
