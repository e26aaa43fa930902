/* Search: segments from the largest to the smallest, each by windows in which no block of any word ends (block-max
 * MaxScore). A window whose best possible document is not good enough is not decoded. In others, the words are split
 * into those that cannot make a document good enough by themselves, and the rest, whose documents are looked at one by
 * one.
 *
 * Bounds are compared with a margin for rounding, and what gets in is added up in the order of the question's words:
 * the answer is the brute-force one, to the bit. */
#include <stdlib.h>

#include "postings-private.h"

#define TRIES 8
#define MARGIN (1 + 1e-9)

struct run {
	const struct postings *p;
	const struct postings_query *q;
	uint64_t number; /* of the manifest */
	struct postings_view v[POSTINGS_SEGMENTS];
	size_t n;
	double average, idf[POSTINGS_WORDS_MAX];
	struct postings_list *lists; /* [segment][word], of prefixes */
	struct postings_cursor *cursors;
	uint32_t order[POSTINGS_WORDS_MAX], ncursors; /* by bound, in the window */
	double below[POSTINGS_WORDS_MAX + 1];	      /* sum of the bounds of the first so many of `order` */
	uint32_t terms[POSTINGS_WORDS_MAX];	      /* in the segment */
	struct postings_top top;
	size_t scanned;
};

/* ---- statistics ---- */

static struct postings_list *list_of(const struct run *r, size_t segment, size_t word)
{
	return &r->lists[segment * r->q->question->n + word];
}

static void add_list(uint32_t *tf, struct postings_cursor *c)
{
	for (; c->doc != POSTINGS_NONE; postings_cursor_next(c))
		tf[c->doc] += c->tf[c->i];
}

/* All that begins with the word, as one list. Returns how many documents it has that are alive. */
static uint64_t gather_prefix(struct run *r, const struct postings_view *w, const struct postings_word *x,
			      struct postings_list *l)
{
	uint32_t from = postings_term_from(w, x->text, x->key, false),
		 to = postings_term_from(w, x->text, x->key, true);
	uint64_t alive = 0;
	if (from >= to)
		return 0;
	uint32_t *tf = util_zalloc((w->head.docs + 1) * sizeof(*tf));
	for (uint32_t term = from; term < to; term++) {
		postings_cursor_open(&r->cursors[0], w, term);
		add_list(tf, &r->cursors[0]);
	}
	for (uint32_t i = 0; i < w->head.docs; i++)
		l->n += tf[i] != 0;
	l->doc = util_alloc((l->n + 1) * sizeof(*l->doc));
	l->tf = util_alloc((l->n + 1) * sizeof(*l->tf));
	l->min_length = POSTINGS_LENGTH;
	uint32_t n = 0;
	for (uint32_t i = 0; i < w->head.docs && n < l->n; i++) {
		if (!tf[i])
			continue;
		uint16_t length = postings_length(w, i);
		uint32_t count = tf[i] < POSTINGS_LENGTH ? tf[i] : POSTINGS_LENGTH;
		l->doc[n] = i;
		l->tf[n++] = count;
		l->max_tf = count > l->max_tf ? (uint16_t)count : l->max_tf;
		l->min_length = length < l->min_length ? length : l->min_length;
		alive += !postings_death(w, i);
	}
	free(tf);
	return alive;
}

static uint64_t count_word(struct run *r, size_t segment, size_t word)
{
	const struct postings_word *x = &r->q->question->v[word];
	const struct postings_view *w = &r->v[segment];
	if (x->prefix)
		return gather_prefix(r, w, x, list_of(r, segment, word));
	uint32_t term = postings_term_find(w, x->text, x->key);
	if (term == POSTINGS_NONE)
		return 0;
	struct postings_term t;
	postings_term_load(w, term, &t);
	return t.df - atomic_load_explicit(&t.dead, memory_order_relaxed);
}

static void weigh_words(struct run *r)
{
	uint64_t documents = 0, length = 0;
	for (size_t i = 0; i < r->n; i++) {
		const struct postings_head *h = &r->v[i].head;
		documents += h->docs - atomic_load_explicit(&h->dead_docs, memory_order_relaxed);
		length += h->length - atomic_load_explicit(&h->dead_length, memory_order_relaxed);
	}
	r->average = documents && length ? (double)length / (double)documents : 1;
	for (size_t k = 0; k < r->q->question->n; k++) {
		uint64_t df = 0;
		for (size_t i = 0; i < r->n; i++)
			df += count_word(r, i, k);
		r->idf[k] = postings_idf((double)documents, (double)df);
	}
}

/* ---- a document ---- */

static bool has_phrases(const struct run *r, const struct postings_view *w, uint32_t doc)
{
	const struct postings_question *q = r->q->question;
	for (size_t i = 0; i < q->nphrases; i++)
		if (!postings_phrase_has(w, doc, q, &q->phrases[i], r->terms))
			return false;
	return true;
}

static void offer(struct run *r, const struct postings_view *w, uint32_t doc, double score)
{
	struct postings_hit h = {postings_id(w, doc), postings_version_of(w, doc), score};
	const struct postings_query *q = r->q;
	if (!(score > 0 && score >= q->min_score) || (r->top.n == r->top.k && !postings_before(&h, &r->top.v[0])))
		return;
	uint64_t death = postings_death(w, doc);
	int64_t expires = (int64_t)postings_load64(postings_area(w, AREA_EXPIRIES) + 8 * (size_t)doc);
	if ((death && death <= r->number) || (expires && expires <= q->now_us) ||
	    (q->allow && !vectors_allow_has(q->allow, &h.id)) || !has_phrases(r, w, doc))
		return;
	postings_top_push(&r->top, &h);
}

/* The first `essential` of the order are looked up only as long as the document may still get in. */
static void score(struct run *r, const struct postings_view *w, uint32_t doc, uint32_t essential)
{
	double part[POSTINGS_WORDS_MAX], sum = 0, exact = 0, length = postings_length(w, doc);
	uint64_t have = 0;
	r->scanned++;
	for (uint32_t i = r->ncursors; i-- > 0;) {
		struct postings_cursor *c = &r->cursors[r->order[i]];
		if (i < essential) {
			if ((sum + r->below[i + 1]) * MARGIN < r->top.floor)
				return;
			postings_cursor_seek(c, doc);
		}
		if (c->doc != doc)
			continue;
		part[r->order[i]] = postings_weigh(c->idf, c->tf[c->i], length, r->average);
		sum += part[r->order[i]];
		have |= 1ull << r->order[i];
	}
	if (sum * MARGIN < r->top.floor)
		return;
	for (; have; have &= have - 1)
		exact += part[__builtin_ctzll(have)];
	offer(r, w, doc, exact);
}

/* ---- a window ---- */

static void sort_by_bound(struct run *r)
{
	for (uint32_t i = 0; i < r->ncursors; i++) {
		uint32_t k = i;
		for (; k && r->cursors[r->order[k - 1]].bound > r->cursors[i].bound; k--)
			r->order[k] = r->order[k - 1];
		r->order[k] = i;
	}
	r->below[0] = 0;
	for (uint32_t i = 0; i < r->ncursors; i++)
		r->below[i + 1] = r->below[i] + r->cursors[r->order[i]].bound;
}

/* From `from` to the first end of a block. False: no word has any more. */
static bool next_window(struct run *r, uint32_t from, uint32_t *end_r)
{
	bool any = false;
	*end_r = POSTINGS_NONE - 1;
	for (uint32_t i = 0; i < r->ncursors; i++) {
		struct postings_cursor *c = &r->cursors[i];
		postings_cursor_look(c, from);
		c->bound = 0;
		if (c->shallow >= c->blocks)
			continue;
		any = true;
		c->bound = postings_weigh(c->idf, c->max_tf, c->min_length, r->average);
		if (c->last < *end_r)
			*end_r = c->last;
	}
	return any;
}

static uint32_t first_doc(const struct run *r, uint32_t essential)
{
	uint32_t doc = POSTINGS_NONE;
	for (uint32_t i = essential; i < r->ncursors; i++) {
		uint32_t have = r->cursors[r->order[i]].doc;
		doc = have < doc ? have : doc;
	}
	return doc;
}

static void run_window(struct run *r, const struct postings_view *w, uint32_t from, uint32_t end)
{
	uint32_t essential = 0, doc;
	sort_by_bound(r);
	if (r->below[r->ncursors] * MARGIN < r->top.floor)
		return;
	for (uint32_t i = 0; i < r->ncursors; i++)
		if (r->below[i + 1] * MARGIN >= r->top.floor)
			postings_cursor_seek(&r->cursors[r->order[i]], from);
	for (;;) {
		while (essential < r->ncursors && r->below[essential + 1] * MARGIN < r->top.floor)
			essential++;
		doc = first_doc(r, essential);
		if (doc > end)
			return;
		score(r, w, doc, essential);
		for (uint32_t i = essential; i < r->ncursors; i++) {
			struct postings_cursor *c = &r->cursors[r->order[i]];
			if (c->doc == doc)
				postings_cursor_next(c);
		}
	}
}

/* ---- a segment ---- */

/* False: nothing of it can be an answer. */
static bool open_cursors(struct run *r, size_t segment)
{
	const struct postings_question *q = r->q->question;
	const struct postings_view *w = &r->v[segment];
	r->ncursors = 0;
	for (uint32_t k = 0; k < q->n; k++) {
		struct postings_cursor *c = &r->cursors[r->ncursors];
		const struct postings_list *l = list_of(r, segment, k);
		r->terms[k] = q->v[k].prefix ? POSTINGS_NONE : postings_term_find(w, q->v[k].text, q->v[k].key);
		if (r->terms[k] != POSTINGS_NONE)
			postings_cursor_open(c, w, r->terms[k]);
		else if (l->n)
			postings_cursor_list(c, list_of(r, segment, k));
		else
			continue;
		c->idf = r->idf[k];
		r->ncursors++;
	}
	for (size_t i = 0; i < q->nplaces; i++)
		if (r->terms[q->places[i].word] == POSTINGS_NONE)
			return false;
	return r->ncursors > 0;
}

static void run_segment(struct run *r, size_t segment)
{
	uint32_t from = 0, end;
	if (!open_cursors(r, segment))
		return;
	while (from < r->v[segment].head.docs && next_window(r, from, &end)) {
		run_window(r, &r->v[segment], from, end);
		from = end + 1;
	}
}

/* ---- the namespace ---- */

static bool open_views(struct run *r, const struct postings_ns *n)
{
	uint64_t entries[POSTINGS_SEGMENTS];
	size_t count;
	r->number = postings_manifest_load(n, entries, &count);
	r->n = 0;
	for (size_t i = 0; i < count; i++) {
		size_t k = r->n;
		struct postings_view w;
		if (!postings_view_open(r->p, r->q->ns, entries[i], &w))
			return false;
		for (; k && r->v[k - 1].head.docs < w.head.docs; k--) /* the largest first: the floor rises early */
			r->v[k] = r->v[k - 1];
		r->v[k] = w;
		r->n++;
	}
	return r->number != 0;
}

static bool run_all(struct run *r)
{
	const struct postings_question *q = r->q->question;
	r->lists = util_zalloc((r->n * q->n + 1) * sizeof(*r->lists));
	r->top.n = 0;
	r->top.floor = r->q->min_score > 0 ? r->q->min_score : 0;
	weigh_words(r);
	for (size_t i = 0; i < r->n; i++)
		run_segment(r, i);
	for (size_t i = 0; i < r->n * q->n; i++) {
		free(r->lists[i].doc);
		free(r->lists[i].tf);
	}
	free(r->lists);
	for (size_t i = 0; i < r->n; i++)
		if (postings_view_moved(&r->v[i]))
			return false;
	return true;
}

bool postings_search(const struct postings *p, const struct postings_query *q, struct postings_hit *out, size_t *n_r,
		     size_t *scanned_r)
{
	const struct postings_ns *n = q->ns ? postings_ns_find(p, q->ns) : NULL;
	bool good = true;
	*n_r = 0;
	if (scanned_r)
		*scanned_r = 0;
	if (!n || !q->k || !q->question->n)
		return true;
	struct run *r = util_alloc(sizeof(*r));
	*r = (struct run){.p = p, .q = q, .top = {.v = out, .k = q->k}};
	r->cursors = util_alloc(q->question->n * sizeof(*r->cursors));
	for (int i = 0; i < TRIES; i++) {
		good = open_views(r, n) && run_all(r);
		if (good)
			break;
	}
	*n_r = good ? postings_top_finish(&r->top) : 0;
	if (scanned_r)
		*scanned_r = r->scanned;
	free(r->cursors);
	free(r);
	return good;
}
