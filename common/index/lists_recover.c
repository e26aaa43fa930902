/* Lists after a writer's death. What is published is whole; the writer's own knowledge of it (tails, where each row's
 * entry is) is made again by one walk, which also finds entries whose row has died and rows that got no entry. */
#define LOG_SUBSYSTEM LOG_IN_INDEX
#include <stdlib.h>

#include "fault.h"
#include "lists-private.h"
#include "log.h"
#include "vocabulary.h"

/* Units from a block's or lists' first on, which nothing else has. */
static void found(struct lists_writer *w, uint64_t unit, uint32_t units)
{
	if (w->found_n == w->found_cap) {
		w->found_cap = w->found_cap ? 2 * w->found_cap : 64;
		w->found = util_realloc(w->found, w->found_cap * sizeof(*w->found));
	}
	w->found[w->found_n++] = (struct lists_piece){unit * VECTORS_UNIT, units};
	w->starts[unit] = 1;
}

static struct ivf *adopt(struct vectors *v, uint64_t at, uint64_t ns)
{
	struct ivf *f = util_zalloc(sizeof(*f));
	f->at = at;
	if (!lists_view(v, at, &f->view) || f->view.l->ns != ns || rotate_width(f->view.l->dim) != f->view.width ||
	    v->w->lists->starts[(at - 1) / VECTORS_UNIT]) {
		free(f);
		return NULL;
	}
	f->look_again = 2 * f->view.l->built; /* less often than in the life of one writer */
	f->tails = util_zalloc(((size_t)f->view.count + 1) * sizeof(*f->tails));
	found(v->w->lists, (at - 1) / VECTORS_UNIT, f->view.l->units);
	return f;
}

static bool is_live(const struct vectors *v, const struct ivf *f, uint32_t ref)
{
	const struct vectors_chunk *c = &v->chunks[vectors_ref_chunk(ref)];
	uint32_t row = vectors_ref_row(ref);
	return ref && c->ns == f->view.l->ns && c->dim == f->view.l->dim && row < c->count &&
	       !vectors_is_dead(v, c->offset, row);
}

static void adopt_entries(struct vectors *v, struct ivf *f, uint32_t list, uint32_t unit, struct block *b)
{
	struct lists_writer *w = v->w->lists;
	for (uint32_t i = 0; i < b->count; i++) {
		_Atomic uint32_t *ref = &block_refs(&f->view, b)[i];
		uint32_t *place = is_live(v, f, *ref) ? lists_place(v, w->entries, *ref) : NULL;
		if (place && !*place) {
			*place = unit * LISTS_PER_UNIT + i;
			continue;
		}
		atomic_store_explicit(ref, 0, memory_order_release);
		f->tails[list].dead++;
		f->dead++;
	}
	f->tails[list].entries += b->count;
	f->entries += b->count;
}

static bool adopt_list(struct vectors *v, struct ivf *f, uint32_t list)
{
	struct lists_writer *w = v->w->lists;
	for (uint32_t unit = *lists_head(&f->view, list); unit;) {
		struct block *b = lists_block(&f->view, unit);
		if (!b || b->count > b->capacity || b->list != list || w->starts[unit - 1])
			return false;
		found(w, unit - 1, b->units);
		adopt_entries(v, f, list, unit, b);
		f->tails[list].unit = unit;
		f->tails[list].blocks++;
		unit = b->next;
	}
	f->stale |= lists_stale(f, &f->tails[list]);
	return true;
}

/* As if the namespace had never had lists; the background makes them again. */
static void forget(struct vectors *v, uint32_t row, struct ivf *f)
{
	struct lists_writer *w = v->w->lists;
	log_error("vector index: the lists of a namespace are inconsistent; they are made again");
	atomic_store_explicit(&v->ns[row].lists, 0, memory_order_release);
	for (uint32_t i = 0; i < v->super->used; i++) {
		if (v->chunks[i].ns != v->ns[row].ns)
			continue;
		free(w->entries[i]);
		w->entries[i] = NULL;
	}
	/* Memory that was marked stays marked, and is lost until the next start: what the marks of damaged lists mean is
	 * not known. */
	if (f)
		free(f->tails);
	free(f);
}

void lists_recover(struct vectors *v)
{
	/* What was retired is nobody's now, and will be used again. */
	atomic_fetch_add_explicit(&v->super->reclaimed, 1, memory_order_relaxed);
	atomic_thread_fence(memory_order_release);
	for (uint32_t row = 0; row < v->super->namespaces; row++) {
		uint64_t at = v->ns[row].lists;
		struct ivf *f = at ? adopt(v, at, v->ns[row].ns) : NULL;
		bool ok = f || !at;
		/* The fresh list last: of a row that was on its way, the entry there is one too many. */
		for (uint32_t list = 0; ok && f && list <= lists_fresh(&f->view); list++)
			ok = adopt_list(v, f, list);
		FAULT_POINT(lists_recovering);
		if (ok)
			v->w->lists->of[row] = f;
		else
			forget(v, row, f);
	}
}

static void recover_chunk(struct vectors *v, struct vectors_ns *n, uint32_t chunk)
{
	const struct vectors_chunk *c = &v->chunks[chunk];
	const uint32_t *entries = v->w->lists->entries[chunk];
	struct vectors_row row = {.ns = c->ns, .dim = c->dim};
	for (uint32_t i = 0; i < c->count; i++) {
		if (entries && entries[i])
			continue;
		if (vectors_is_dead(v, c->offset, i))
			continue;
		if (lists_row_new(v, n, vectors_ref(chunk, i), &row))
			lists_drop(v, (uint32_t)(n - v->ns)); /* no room: without lists, nothing is missing */
		if (!n->lists)
			return;
		entries = v->w->lists->entries[chunk];
	}
}

void lists_recover_rows(struct vectors *v)
{
	for (uint32_t i = 0; i < v->super->used; i++) {
		const struct vectors_chunk *c = &v->chunks[i];
		struct vectors_ns *n = c->ns ? vectors_ns_find(v, c->ns) : NULL;
		const struct ivf *f = n ? v->w->lists->of[n - v->ns] : NULL;
		if (f && n->lists && f->view.l->dim == c->dim)
			recover_chunk(v, n, i);
	}
	for (uint32_t row = 0; row < v->super->namespaces; row++)
		vectors_work_hint(v, &v->ns[row]);
}
