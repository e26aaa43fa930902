/* The two lists of candidates: by words and by vectors, each over what is stored and what is still pending.
 *
 * Both come from the indexes in shared memory, which hold what is pending, too. When one does not have all of the namespace, the
 * store ranks instead, together with what is pending. When the store is away, the index answers alone with what it has. */
#include <math.h>
#include <stdlib.h>

#include "clock.h"
#include "search.h"
#include "store/hits.h"

static bool allow_row(void *arg, const struct memory *m)
{
	vectors_allow_add(arg, &m->id);
	return true;
}

static bool hidden_row(void *arg, const struct uuid *id) { return vectors_allow_has(arg, id); }

struct allowing {
	struct vectors_allow *allow, *hidden;
};
static bool allow_visible(void *arg, const struct memory *m)
{
	struct allowing *a = arg;
	if (!vectors_allow_has(a->hidden, &m->id))
		allow_row(a->allow, m);
	return true;
}

/* What the filter allows, for both lists: made when the first of them needs it. */
struct allowed {
	const struct store_list *q;
	const struct overlay *o;
	struct vectors_allow *set; /* NULL: not made, or there is no filter */
	bool away;		   /* only what is pending is in it */
};

/* Without the store only what is pending is known to match the filter. Honoured inside the scan, never on a finished
 * top-k. */
static const struct vectors_allow *make_allow(struct search *s, struct reader *rd, struct allowed *w)
{
	const struct overlay *o = w->o;
	struct allowing a = {NULL, o->hidden};
	if (!w->q->filter || w->set)
		return w->set;
	a.allow = vectors_allow_new(1024);
	int64_t start = clock_mono_us();
	unsigned step = trace_enter(TRACE_SEARCH_FILTER);
	enum store_rc rc = reader_asked(
		step, reader_store(rd) ? rd->shared->ops->ids(rd->store, w->q, allow_visible, &a) : STORE_AWAY);
	if (rc != STORE_OK) {
		search_store_failed(s, rd, rc);
		w->away = true;
		vectors_allow_free(&a.allow);
		a.allow = vectors_allow_new(o->n + 1);
	}
	for (size_t i = 0; i < o->n; i++)
		allow_row(a.allow, &o->v[i].m);
	s->us_filter = clock_mono_us() - start;
	return w->set = a.allow;
}

/* ---- words ---- */

static enum language language_of(const struct reader *rd, uint64_t ns)
{
	const struct plant_namespace *row = plant_find(rd->shared->plant, ns);
	return row ? (enum language)atomic_load_explicit(&row->language, memory_order_relaxed) : LANGUAGE_ENGLISH;
}

static bool store_text(struct search *s, struct reader *rd, const struct store_list *q, const struct overlay *o,
		       struct lists *l)
{
	struct store_text_extra *extra = util_alloc((o->n + 1) * sizeof(*extra));
	size_t nextra = 0;
	for (size_t i = 0; i < o->n; i++)
		if (!(o->v[i].m.flags & MEMORY_SUPERSEDED))
			extra[nextra++] = (struct store_text_extra){o->v[i].m.id, o->v[i].m.version, o->v[i].m.content};
	struct store_text t = {.ns = q->ns,
			       .language = language_of(rd, q->ns),
			       .query = s->query,
			       .filter = q->filter,
			       .limit = l->depth,
			       .now_us = q->now_us,
			       .extra = extra,
			       .nextra = nextra,
			       .hidden = hidden_row,
			       .hidden_arg = o->hidden};
	l->ntext = l->depth;
	unsigned step = trace_enter(TRACE_STORE);
	enum store_rc rc = reader_asked(
		step, reader_store(rd) ? rd->shared->ops->text(rd->store, &t, l->text, &l->ntext) : STORE_AWAY);
	free(extra);
	if (rc == STORE_OK)
		return true;
	search_store_failed(s, rd, rc);
	l->ntext = 0;
	return false;
}

static bool index_text(struct search *s, struct reader *rd, struct allowed *w, struct lists *l)
{
	struct postings_question ask;
	struct postings_hit *v = util_alloc(l->depth * sizeof(*v));
	struct postings_query q = {
		.ns = w->q->ns, .question = &ask, .k = l->depth, .allow = make_allow(s, rd, w), .now_us = w->q->now_us};
	size_t n;
	words_language(reader_words(rd), language_of(rd, w->q->ns));
	postings_question_read(reader_words(rd), s->query, &ask);
	bool known = postings_search(rd->shared->postings, &q, v, &n, NULL);
	if (known && !n && ask.nphrases) { /* people quote from memory: rather something like it than nothing */
		ask.nphrases = ask.nplaces = 0;
		known = postings_search(rd->shared->postings, &q, v, &n, NULL);
	}
	postings_question_free(&ask);
	for (size_t i = 0; i < n; i++)
		l->text[i] = (struct store_text_hit){v[i].id, v[i].version, v[i].score};
	l->ntext = n;
	free(v);
	return known;
}

static void text_list(struct search *s, struct reader *rd, struct allowed *w, struct lists *l)
{
	bool all = atomic_load(&rd->shared->plant->refill_state) == REFILL_DONE &&
		   postings_complete(rd->shared->postings, w->q->ns);
	s->text_tier = "index";
	if (all && index_text(s, rd, w, l)) {
		s->degraded_text |= w->away;
		return;
	}
	s->text_tier = "store";
	if (store_text(s, rd, w->q, w->o, l))
		return;
	s->text_tier = "index";
	s->degraded_text = true;
	l->have_text = index_text(s, rd, w, l) && l->ntext;
}

/* ---- vectors ---- */

/* The index's hits among what the store and the overlay have yielded: each memory once, in its higher version. Both
 * lists are in much the same order, so that the next one to look for is near the last. */
static void merge(struct hits *h, const struct vectors_hit *v, size_t n, const struct overlay *o)
{
	size_t near = 0;
	for (size_t i = 0; i < n; i++) {
		size_t tried = 0;
		while (tried < h->n && uuid_cmp(&h->v[near % h->n].id, &v[i].id) != 0)
			tried++, near++;
		bool known = tried < h->n;
		size_t at = known ? near % h->n : 0;
		if (known ? h->v[at].version >= v[i].version : vectors_allow_has(o->hidden, &v[i].id))
			continue; /* what is pending was compared as it is, or must not appear */
		if (known) {
			h->n--;
			memmove(&h->v[at], &h->v[at + 1], (h->n - at) * sizeof(*h->v));
		}
		hits_offer(h, &(struct store_text_hit){v[i].id, v[i].version, (double)v[i].score});
	}
}

static size_t index_list(struct search *s, struct reader *rd, const struct store_list *q,
			 const struct vectors_allow *allow, struct vectors_hit *out, size_t depth)
{
	struct vectors_query vq = {.ns = q->ns,
				   .dim = s->dim,
				   .x = s->x,
				   .k = depth,
				   .metric = VECTORS_COSINE,
				   .allow = allow,
				   .now_us = q->now_us,
				   .min_score = -INFINITY,
				   .recall = s->recall > 0 ? (float)s->recall : rd->shared->recall,
				   .probes = s->probes,
				   .trace = &s->trace};
	vq.exact = s->exact || vq.recall >= 1;
	return vectors_search(rd->shared->vectors, &vq, out, &s->scanned);
}

static bool store_list(struct search *s, struct reader *rd, const struct store_list *q, const struct overlay *o,
		       struct lists *l)
{
	struct store_nearest n = {.ns = q->ns,
				  .x = s->x,
				  .dim = s->dim,
				  .filter = q->filter,
				  .limit = l->depth,
				  .now_us = q->now_us,
				  .hidden = hidden_row,
				  .hidden_arg = o->hidden,
				  .exact = s->exact || s->recall >= 1,
				  .effort = {rd->shared->ef_search, rd->shared->probes}};
	struct hits_cosine c;
	const struct store_ops *ops = rd->shared->ops;
	hits_cosine_start(&c, &n, l->vector);
	unsigned step = trace_enter(TRACE_STORE);
	enum store_rc rc = reader_asked(step, reader_store(rd) ? ops->nearest(rd->store, &n, l->vector, &c.top.n)
							       : STORE_AWAY);
	if (rc != STORE_OK) {
		search_store_failed(s, rd, rc);
		return false;
	}
	for (size_t i = 0; i < o->n; i++) {
		const struct memory *m = &o->v[i].m;
		if (m->dim == s->dim && m->embedding && !(m->flags & MEMORY_SUPERSEDED))
			hits_cosine_offer(&c, &m->id, m->version, m->embedding);
	}
	l->nvector = c.top.n;
	return true;
}

static void vector_list(struct search *s, struct reader *rd, struct allowed *w, struct lists *l)
{
	const struct store_list *q = w->q;
	const struct overlay *o = w->o;
	bool refilled = atomic_load(&rd->shared->plant->refill_state) == REFILL_DONE;
	bool complete = vectors_complete(rd->shared->vectors, q->ns);
	bool stored = refilled && !complete && store_list(s, rd, q, o, l);
	s->vector_tier = stored ? "store" : "index";
	s->degraded_vector |= !refilled || (!complete && !stored);
	if (stored && q->filter)
		return; /* exact already, and what the filter allows need not be collected for the index */
	struct vectors_hit *v = util_alloc(l->depth * sizeof(*v));
	size_t n = index_list(s, rd, q, make_allow(s, rd, w), v, l->depth);
	s->degraded_vector |= w->away;
	struct hits h = {l->vector, stored ? l->nvector : 0, l->depth};
	if (stored)
		merge(&h, v, n, o);
	else
		for (; h.n < n; h.n++)
			h.v[h.n] = (struct store_text_hit){v[h.n].id, v[h.n].version, (double)v[h.n].score};
	l->nvector = h.n;
	free(v);
}

enum read_rc lists_make(struct search *s, struct reader *rd, struct lists *l)
{
	struct overlay o;
	int64_t at = clock_mono_us();
	struct store_list q = {.ns = record_ns(s->ns),
			       .filter = filter_is_empty(s->filter) ? NULL : s->filter,
			       .now_us = clock_real_us()};
	struct allowed w = {.q = &q, .o = &o};
	unsigned step = trace_enter(TRACE_SEARCH_PENDING);
	overlay_load(rd, &q, &o);
	trace_leave_with(step, TRACE_KEY_FOUND, (int64_t)o.n, false);
	enum read_rc rc = reader_trouble(rd);
	s->npending = o.n;
	s->unsettled = o.n || o.nhidden;
	s->us_pending = search_lap(&at);
	step = trace_enter(TRACE_SEARCH_WORDS);
	if (rc == READ_OK && l->have_text)
		text_list(s, rd, &w, l);
	trace_leave_with(step, TRACE_KEY_FOUND, (int64_t)l->ntext, false);
	s->us_text = search_lap(&at) - s->us_filter;
	int64_t filtered = s->us_filter;
	step = trace_enter(TRACE_SEARCH_VECTORS);
	if (rc == READ_OK && l->have_vector)
		vector_list(s, rd, &w, l);
	trace_leave_with(step, TRACE_KEY_FOUND, (int64_t)l->nvector, false);
	if (s->mode == SEARCH_HYBRID) /* what points elsewhere is no candidate */
		while (l->nvector && l->vector[l->nvector - 1].score < 1e-6)
			l->nvector--;
	s->us_vector = search_lap(&at) - (s->us_filter - filtered);
	vectors_allow_free(&w.set);
	overlay_free(&o);
	return rc;
}
