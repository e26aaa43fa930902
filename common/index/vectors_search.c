/* The search: by lists where a namespace has them, else by comparing all rows. */
#include <math.h>
#include <stdlib.h>

#include "lists-private.h"
#include "vocabulary.h"

#define ATTEMPTS 4     /* at lists that change under the search; then all rows are compared */
#define ALLOW_SCAN 32  /* a filter that leaves fewer than this part of the rows */
#define ALLOW_FEW 4096 /* or so few: only these are compared */

struct search {
	struct vectors *v;
	const struct vectors_query *q;
	const struct vectors_ns *n;
	struct vectors_asked a;
	struct vectors_top top;
	struct vectors_trace trace;
};

/* A filter that leaves little: looking at every id, in order, costs less than lists that hold mostly others. */
static bool few(const struct search *s)
{
	size_t allowed = s->q->allow ? vectors_allow_count(s->q->allow) : SIZE_MAX;
	return allowed <= ALLOW_FEW || allowed <= atomic_load_explicit(&s->n->live, memory_order_relaxed) / ALLOW_SCAN;
}

/* False: begin anew. */
static bool by_lists(struct search *s, uint64_t lists)
{
	uint64_t reclaimed = atomic_load_explicit(&s->v->super->reclaimed, memory_order_acquire);
	struct lists_view w;
	struct lists_search l = {.a = &s->a, .top = &s->top, .probes = s->q->probes};
	bool ok = atomic_load_explicit(&s->n->lists, memory_order_acquire) == lists && lists_view(s->v, lists, &w) &&
		  w.l->dim == s->q->dim && w.width == s->a.width;
	if (ok) {
		lists_aim(&w, s->q->recall > 0 ? s->q->recall : VECTORS_RECALL, &l);
		ok = lists_search(&w, &l);
	}
	s->trace.lists = l.trace.lists;
	s->trace.probed += l.trace.probed;
	s->trace.codes += l.trace.codes;
	s->trace.rows += l.trace.rows;
	atomic_thread_fence(memory_order_acquire);
	return ok && atomic_load_explicit(&s->v->super->reclaimed, memory_order_relaxed) == reclaimed &&
	       atomic_load_explicit(&s->n->lists, memory_order_relaxed) == lists;
}

static uint32_t dim_of(const struct vectors *v, uint64_t lists)
{
	struct lists_view w;
	return lists_view(v, lists, &w) ? w.l->dim : 0;
}

static void top_anew(struct search *s)
{
	vectors_top_end(&s->top);
	vectors_top_init(&s->top, s->q->k, isnan(s->q->min_score) ? -INFINITY : s->q->min_score);
}

static bool search_lists(struct search *s)
{
	for (uint32_t i = 0; i < ATTEMPTS; i++) {
		uint64_t lists = atomic_load_explicit(&s->n->lists, memory_order_acquire);
		if (!lists || dim_of(s->v, lists) != s->q->dim)
			return false;
		if (by_lists(s, lists))
			return true;
		s->trace.again++;
		top_anew(s);
	}
	return false;
}

static size_t run(struct search *s, struct vectors_hit *out)
{
	const struct vectors_query *q = s->q;
	bool all = q->exact || few(s) || !(s->a.norm > 0) || !search_lists(s);
	if (all) {
		s->trace.lists = s->trace.probed = 0;
		s->trace.rows += vectors_scan(s->v, &s->a, s->n, &s->top);
	}
	size_t found = vectors_top_finish(&s->top, out);
	if (all || found >= q->k || q->probes)
		return found;
	/* Two versions of one entry, which was updated meanwhile, took two of the k places, or a row died after it had
	 * taken one: never a short answer. */
	uint64_t live = atomic_load_explicit(&s->n->live, memory_order_relaxed);
	if (found == live || q->min_score > -INFINITY || (q->allow && found >= vectors_allow_count(q->allow)))
		return found;
	top_anew(s);
	s->trace.rows += vectors_scan(s->v, &s->a, s->n, &s->top);
	return vectors_top_finish(&s->top, out);
}

size_t vectors_search(struct vectors *v, const struct vectors_query *q, struct vectors_hit *out, size_t *scanned_r)
{
	struct search s = {.v = v, .q = q};
	if (scanned_r)
		*scanned_r = 0;
	if (q->trace)
		*q->trace = s.trace;
	s.n = q->ns ? vectors_ns_find(v, q->ns) : NULL;
	if (!s.n || !q->k || !q->dim || q->dim > LIMIT_DIMENSIONS)
		return 0;
	vectors_ask(&s.a, v, q);
	vectors_top_init(&s.top, q->k, isnan(q->min_score) ? -INFINITY : q->min_score);
	size_t found = run(&s, out);
	vectors_top_end(&s.top);
	vectors_ask_end(&s.a);
	if (scanned_r)
		*scanned_r = (size_t)(s.trace.codes + s.trace.rows);
	if (q->trace)
		*q->trace = s.trace;
	return found;
}
