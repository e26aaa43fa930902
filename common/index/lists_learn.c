/* Learning what a search must read: rows of the namespace are asked for as if they were queries, once with every list
 * read, and what it would have taken to find each of the true best is written down. An aim of 0.98 then is the 98 %
 * quantile of that. It fits each namespace: text that is all alike needs many lists, clear topics need few. */
#include <math.h>
#include <stdlib.h>

#include "lists-private.h"
#include "vocabulary.h"

#define BEST 10U
#define SURE 2.6F	 /* slack that loses nothing: the estimate's standard deviation is 0.6 · factor */
#define SURE_FRONT 4.0F	 /* and of its front, · √share · factor */
#define SURE_BYTES 0.01F /* and of codes of bytes */
#define EVERY 2.5F	 /* margin that reads every list: no two cosines are further apart */
#define SPARE 1.1F	 /* queries are not rows */
/* Of what may be missed: that much because a list was not read, that because of its code's front, the rest because the
 * estimate was too low. */
#define BY_LISTS 0.7F
#define BY_FRONT 0.1F

const float lists_aims[LISTS_AIMS] = {0.80F, 0.90F, 0.95F, 0.98F, 0.99F, 0.995F, 0.999F};

struct lessons {
	float *margins, *slacks, *fronts;
	size_t n;
};

static void learn_one(const struct vectors *v, const struct lists_view *w, uint64_t ns, uint32_t dim, uint32_t ref,
		      struct lessons *l)
{
	const struct vectors_chunk *c = &v->chunks[vectors_ref_chunk(ref)];
	struct lists_found found[BEST + 1] = {0};
	struct vectors_query q = {.ns = ns, .dim = dim, .k = BEST + 1, .min_score = -INFINITY};
	struct vectors_shape s;
	struct vectors_asked a;
	struct vectors_top top;
	priolock_take_behind(&v->w->lock); /* the chunk may be given back, and another one stand there */
	uint64_t gen = atomic_load_explicit(&c->gen, memory_order_relaxed);
	const char *base = vectors_look(v, c, dim, &s);
	bool there = c->ns == q.ns && c->dim == q.dim && vectors_ref_row(ref) < c->count && base;
	if (there)
		vectors_ask_row(&a, v, &q, base, &s, vectors_ref_row(ref));
	priolock_give(&v->w->lock);
	if (!there)
		return;
	vectors_top_init(&top, q.k, -INFINITY);
	struct lists_search search = {.a = &a,
				      .top = &top,
				      .slack = w->kind == LISTS_BITS ? SURE : SURE_BYTES,
				      .front = SURE_FRONT * sqrtf(lists_share(w)),
				      .probes = w->count,
				      .found = found};
	bool ok = a.norm > 0 && lists_search(w, &search) && atomic_load(&c->gen) == gen;
	float worst = INFINITY;
	for (uint32_t i = 0; ok && i <= BEST; i++) {
		ok = found[i].ref != 0;
		worst = found[i].cosine < worst ? found[i].cosine : worst;
	}
	for (uint32_t i = 0; ok && i <= BEST; i++) {
		if (found[i].ref == ref)
			continue;
		float factor = found[i].factor > 0 ? found[i].factor : 1;
		l->margins[l->n] = worst - found[i].ranked;
		l->fronts[l->n] = (worst - found[i].front) / factor;
		l->slacks[l->n++] = (worst - found[i].estimate) / factor;
	}
	vectors_top_end(&top);
	vectors_ask_end(&a);
}

static int ascending(const void *a, const void *b)
{
	float x = *(const float *)a, y = *(const float *)b;
	return (x > y) - (x < y);
}

static float quantile(const float *sorted, size_t n, float share)
{
	size_t i = (size_t)(share * (float)n);
	return sorted[i < n ? i : n - 1];
}

void lists_learn(const struct vectors *v, const struct lists_view *w, uint64_t ns, uint32_t dim, const uint32_t *sample,
		 size_t n, struct turn *turn, struct lists_lesson out[LISTS_AIMS])
{
	struct lessons l = {0};
	bool bits = w->kind == LISTS_BITS;
	l.margins = util_alloc(3 * (n + 1) * (BEST + 1) * sizeof(float));
	l.slacks = l.margins + (n + 1) * (BEST + 1);
	l.fronts = l.slacks + (n + 1) * (BEST + 1);
	for (size_t i = 0; i < n && !turn_over(turn); i++) {
		turn_rest(turn);
		learn_one(v, w, ns, dim, sample[i], &l);
	}
	qsort(l.margins, l.n, sizeof(float), ascending);
	qsort(l.slacks, l.n, sizeof(float), ascending);
	qsort(l.fronts, l.n, sizeof(float), ascending);
	for (size_t i = 0; i < LISTS_AIMS; i++) {
		float miss = 1 - lists_aims[i];
		out[i] = (struct lists_lesson){EVERY, bits ? SURE : SURE_BYTES, SURE_FRONT * sqrtf(lists_share(w))};
		if (l.n < 100)
			continue; /* too little to learn from: everything is read */
		float margin = quantile(l.margins, l.n, 1 - miss * BY_LISTS);
		float slack = quantile(l.slacks, l.n, 1 - miss * (1 - BY_LISTS - BY_FRONT));
		float front = quantile(l.fronts, l.n, 1 - miss * BY_FRONT);
		out[i] = (struct lists_lesson){margin > 0 ? margin * SPARE : 0, slack > 0 ? slack : 0,
					       front > 0 ? front : 0};
	}
	free(l.margins);
}

static void set(_Atomic uint32_t *to, float f)
{
	uint32_t bits;
	memcpy(&bits, &f, sizeof(bits));
	atomic_store_explicit(to, bits, memory_order_relaxed);
}

void lists_learned(struct lists *l, const struct lists_lesson lessons[LISTS_AIMS])
{
	for (size_t i = 0; i < LISTS_AIMS; i++) {
		set(&l->aims[i].margin, lessons[i].margin);
		set(&l->aims[i].slack, lessons[i].slack);
		set(&l->aims[i].front, lessons[i].front);
	}
}
