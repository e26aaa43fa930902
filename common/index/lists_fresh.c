/* Fresh rows: those that came too fast for each to look for its list. The background does, a block of them at a time. */
#include <stdlib.h>

#include "clock.h"
#include "fault.h"
#include "lists-private.h"
#include "vocabulary.h"

#define WINDOW 64	/* rows in */
#define WINDOW_US 32000 /* less than that: 2,000 a second are fast */
#define CALM_US 100000	/* nothing came for so long that it is over */
#define SLICE 16U	/* rows that the writer waits for */

bool lists_comes_fast(const struct vectors *v, struct ivf *f)
{
	const struct vectors_stages *s = &v->w->stages;
	if (f->view.count == 1 || lists_waiting(f) >= s->fresh_rows)
		return false;
	if (f->window++ % WINDOW == 0) {
		int64_t now = clock_mono_us();
		f->fast = now - f->window_us < WINDOW_US;
		f->window_us = now;
	}
	return f->fast || s->fresh_first;
}

bool lists_fresh_due(const struct vectors *v, const struct ivf *f)
{
	return lists_fresh_many(v, f) || (lists_waiting(f) && (!f->fast || clock_mono_us() - f->window_us > CALM_US));
}

struct assign {
	struct vectors *v;
	struct ivf *f;
	struct lists_view view; /* its own copy: the lists may go while rows are encoded */
	uint32_t ns_row;
	uint32_t unit, last; /* the block, and the one that is the last, + 1 */
	uint32_t entry[SLICE], n;
	float *x; /* SLICE rotated rows */
	struct lists_entry *e;
};

/* Under the lock, as is all that follows but the encoding. No other thread makes lists, but the namespace may have been
 * dropped, and its lists with it. */
static bool stand(const struct assign *a) { return a->v->w->lists->of[a->ns_row] == a->f; }

/* The first block; what comes from now on goes into others. False: that was all. */
static bool take_block(struct assign *a)
{
	struct tail *t = &a->f->tails[lists_fresh(&a->f->view)];
	a->unit = *lists_head(&a->f->view, lists_fresh(&a->f->view));
	t->closed |= a->unit == t->unit;
	return a->unit;
}

/* The row of the block's i-th entry, if that is the row's entry; 0: it is dead, or stale. */
static uint32_t row_of(const struct assign *a, uint32_t i)
{
	uint32_t ref = block_refs(&a->f->view, lists_block(&a->f->view, a->unit))[i], row = vectors_ref_row(ref);
	const uint32_t *places = a->v->w->lists->entries[vectors_ref_chunk(ref)];
	bool known = ref && places && row < a->v->chunks[vectors_ref_chunk(ref)].count;
	return known && places[row] == a->unit * LISTS_PER_UNIT + i ? ref : 0;
}

/* The rows of the block's next entries. True: there were entries. */
static bool load(struct assign *a, uint32_t *next)
{
	const struct block *b = lists_block(&a->f->view, a->unit);
	a->n = 0;
	for (uint32_t i = 0; i < SLICE && *next < b->count; i++, ++*next) {
		uint32_t ref = row_of(a, *next);
		if (!ref)
			continue;
		const struct vectors_chunk *c = &a->v->chunks[vectors_ref_chunk(ref)];
		struct vectors_shape s;
		const char *base = vectors_own(a->v, c, &s);
		vectors_form_rotated(a->v, base, &s, c->dim, vectors_ref_row(ref), a->x + a->n * a->f->view.width);
		a->entry[a->n++] = *next;
	}
	return a->n || *next < b->count;
}

/* Rows that have died, moved or changed hands since they were looked at have no place here. False: no memory. */
static bool append(struct assign *a)
{
	struct tail *fresh = &a->f->tails[lists_fresh(&a->f->view)];
	for (uint32_t i = 0; i < a->n; i++) {
		uint32_t ref = row_of(a, a->entry[i]), at;
		if (!ref)
			continue;
		a->e[i].ref = ref;
		if (lists_append(a->v, a->f, &a->e[i], &at))
			return false;
		FAULT_POINT(lists_assigned);
		*lists_place(a->v, a->v->w->lists->entries, ref) = at;
		fresh->dead++;
		a->f->dead++;
	}
	return true;
}

/* All that the block has is dead or elsewhere. */
static void pass_block(struct assign *a)
{
	struct ivf *f = a->f;
	uint32_t list = lists_fresh(&f->view);
	struct tail *t = &f->tails[list];
	struct block *b = lists_block(&f->view, a->unit);
	if (t->unit == a->unit)
		*t = (struct tail){.entries = t->entries, .dead = t->dead, .blocks = t->blocks};
	atomic_store_explicit(lists_head(&f->view, list), b->next, memory_order_release);
	FAULT_POINT(lists_passed);
	t->blocks--;
	t->entries -= b->count;
	t->dead -= b->count;
	f->entries -= b->count;
	f->dead -= b->count;
	lists_retire(a->v, (uint64_t)(a->unit - 1) * VECTORS_UNIT, b->units);
}

/* A block whose rows are not all in their lists stays. Entries of those that are would outlive their rows, and be saved:
 * they go, and searches are told, as of any other row that moves. */
static void leave_block(const struct assign *a)
{
	struct block *b = lists_block(&a->f->view, a->unit);
	for (uint32_t i = 0; i < b->count; i++) {
		_Atomic uint32_t *ref = &block_refs(&a->f->view, b)[i];
		if (!*ref || row_of(a, i))
			continue;
		lists_tell(a->v, a->ns_row, *ref);
		atomic_store_explicit(ref, 0, memory_order_release);
	}
}

static bool assign_block(struct assign *a)
{
	struct priolock *lock = &a->v->w->lock;
	uint32_t next = 0;
	bool ok = true;
	for (bool more = true; ok && more;) {
		priolock_take_behind(lock);
		more = stand(a) && load(a, &next);
		priolock_give(lock);
		for (uint32_t i = 0; i < a->n && more; i++)
			lists_encode(&a->view, a->x + i * a->view.width, &a->e[i]);
		priolock_take_behind(lock);
		if (more && stand(a))
			ok = append(a);
		priolock_give(lock);
	}
	priolock_take_behind(lock);
	if (stand(a) && ok)
		pass_block(a);
	else if (stand(a))
		leave_block(a);
	priolock_give(lock);
	return ok;
}

bool lists_assign(struct vectors *v, uint32_t ns_row, const struct turn *turn)
{
	struct assign a = {.v = v, .ns_row = ns_row};
	bool ok = true, more = true;
	priolock_take_behind(&v->w->lock);
	a.f = v->w->lists->of[ns_row];
	a.last = a.f ? a.f->tails[lists_fresh(&a.f->view)].unit : 0;
	if (a.f)
		a.view = a.f->view;
	priolock_give(&v->w->lock);
	a.x = util_alloc((size_t)SLICE * (a.view.width + 1) * sizeof(float));
	a.e = aligned_alloc(CACHE_LINE, SLICE * sizeof(*a.e));
	AN(a.e);
	while (ok && more && a.last && a.unit != a.last && !turn_over(turn)) {
		priolock_take_behind(&v->w->lock);
		more = stand(&a) && take_block(&a);
		priolock_give(&v->w->lock);
		ok = !more || assign_block(&a);
	}
	free(a.x);
	free(a.e);
	return ok;
}
