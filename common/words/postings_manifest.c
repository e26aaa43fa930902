/* The list of a namespace's segments, and the deaths that become visible with the next one. Writer only. */
#include <stdlib.h>

#include "fault.h"
#include "postings-private.h"

void postings_manifest_begin(struct postings *p, struct postings_ns *n, struct postings_next *x)
{
	(void)p;
	x->n = n;
	x->number = postings_manifest_load(n, x->v, &x->count);
	/* 0: what is there makes no sense (postings.c, wipe()). */
	uint64_t current = atomic_load_explicit(&n->current, memory_order_relaxed);
	x->number = (current ? current : 1) + 1;
}

/* A count that only the writer changes. */
static void bump(char *at, uint32_t by)
{
	_Atomic uint32_t *c = (void *)at;
	atomic_store_explicit(c, atomic_load_explicit(c, memory_order_relaxed) + by, memory_order_relaxed);
}

static int by_number(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
	return (x > y) - (x < y);
}

/* One document fewer for each of its words. */
static void count_words(const struct postings_view *w, uint32_t doc)
{
	uint32_t few[512], *v = few;
	const char *p, *end;
	size_t n = 0;
	postings_doc_words(w, doc, &p, &end);
	if ((size_t)(end - p) > ARRAY_LEN(few))
		v = util_alloc((size_t)(end - p) * sizeof(*v));
	while (p < end) {
		uint32_t x = postings_varint(&p, end);
		if (x & 1)
			(void)postings_varint(&p, end);
		v[n++] = x >> 1;
	}
	if (n)
		qsort(v, n, sizeof(*v), by_number);
	char *terms = (char *)(uintptr_t)postings_area(w, AREA_TERMS) + offsetof(struct postings_term, dead);
	for (size_t i = 0; i < n; i++)
		if ((!i || v[i] != v[i - 1]) && v[i] < w->head.terms)
			bump(terms + v[i] * sizeof(struct postings_term), 1);
	if (v != few)
		free(v);
}

void postings_manifest_count_dead(const struct postings_view *w, uint32_t doc)
{
	struct postings_head *h = (void *)(uintptr_t)w->base;
	bump((char *)&h->dead_docs, 1);
	uint64_t length = atomic_load_explicit(&h->dead_length, memory_order_relaxed);
	atomic_store_explicit(&h->dead_length, length + postings_length(w, doc), memory_order_relaxed);
	count_words(w, doc);
}

void postings_manifest_die(const struct postings_view *w, uint32_t doc, uint64_t number)
{
	char *at = (char *)(uintptr_t)postings_area(w, AREA_DEATHS) + 8 * (size_t)doc;
	atomic_store_explicit((_Atomic uint64_t *)(void *)at, number, memory_order_relaxed);
}

void postings_manifest_kill(struct postings *p, struct postings_next *x, uint64_t ref)
{
	struct postings_view w = postings_segment_view(p, postings_ref_desc(ref));
	postings_manifest_die(&w, postings_ref_doc(ref), x->number);
	FAULT_POINT(words_death);
	postings_manifest_count_dead(&w, postings_ref_doc(ref));
	postings_merge_killed(p, ref);
	uint64_t live = atomic_load_explicit(&x->n->live, memory_order_relaxed);
	uint64_t all = atomic_load_explicit(&p->super->live, memory_order_relaxed);
	atomic_store_explicit(&x->n->live, live - 1, memory_order_relaxed);
	atomic_store_explicit(&p->super->live, all - 1, memory_order_relaxed);
}

/* Segments that are all dead leave with it, unless a merge still reads them. */
static size_t drop_dead(struct postings *p, struct postings_next *x, uint32_t *gone)
{
	size_t kept = 0, n = 0;
	for (size_t i = 0; i < x->count; i++) {
		uint32_t desc = postings_entry_desc(x->v[i]);
		const struct postings_head *h = (const void *)(p->data + p->descs[desc].offset);
		if (h->dead_docs == h->docs && !postings_merge_holds(p, x->n, desc))
			gone[n++] = desc;
		else
			x->v[kept++] = x->v[i];
	}
	x->count = kept;
	return n;
}

void postings_manifest_publish(struct postings *p, struct postings_next *x)
{
	uint32_t gone[POSTINGS_SEGMENTS];
	struct postings_manifest *m = &x->n->ring[x->number % POSTINGS_RING];
	size_t ngone = drop_dead(p, x, gone);
	atomic_store_explicit(&m->number, 0, memory_order_relaxed);
	atomic_thread_fence(memory_order_release);
	for (size_t i = 0; i < x->count; i++)
		atomic_store_explicit(&m->v[i], x->v[i], memory_order_relaxed);
	FAULT_POINT(words_manifest_half);
	atomic_store_explicit(&m->n, x->count, memory_order_relaxed);
	atomic_store_explicit(&m->number, x->number, memory_order_release);
	FAULT_POINT(words_manifest_written);
	atomic_store_explicit(&x->n->current, x->number, memory_order_release);
	FAULT_POINT(words_published);
	for (size_t i = 0; i < ngone; i++)
		postings_segment_retire(p, gone[i]);
}
