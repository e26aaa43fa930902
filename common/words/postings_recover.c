/* What a killed writer left. What manifests name is whole; the rest is free. Readers keep searching meanwhile: nothing
 * that they can reach is moved. Rebuilt are private books (free memory, id → document) and counts. */
#include <stdlib.h>

#include "fault.h"
#include "postings-private.h"

struct piece {
	uint64_t offset, end;
};
struct recovery {
	struct postings *p;
	uint32_t used;
	uint8_t *named; /* per descriptor: a manifest names it */
	struct piece *pieces;
	size_t npieces;
	struct postings_stack doubles; /* descriptor, document: an id that another namespace has in a higher version */
};

static bool sane(const struct postings_view *w)
{
	const struct postings_head *h = &w->head;
	uint32_t at = sizeof(*h);
	for (size_t i = 0; i < AREA_COUNT; at = h->at[i++])
		if (h->at[i] < at || h->at[i] > h->bytes || h->at[i] & 7)
			return false;
	static const struct {
		enum postings_area area;
		uint32_t docs, terms, more; /* bytes of each */
	} least[] = {{AREA_IDS, 16, 0, 0},     {AREA_VERSIONS, 8, 0, 0},
		     {AREA_EXPIRIES, 8, 0, 0}, {AREA_DEATHS, 8, 0, 0},
		     {AREA_LENGTHS, 2, 0, 0},  {AREA_STARTS, 4, 0, 4},
		     {AREA_KEYS, 0, 8, 0},     {AREA_TERMS, 0, sizeof(struct postings_term), 0}};
	for (size_t i = 0; i < ARRAY_LEN(least); i++) {
		uint32_t room = h->at[least[i].area + 1] - h->at[least[i].area];
		if ((uint64_t)h->docs * least[i].docs + (uint64_t)h->terms * least[i].terms + least[i].more > room)
			return false;
	}
	return h->docs;
}

/* ---- memory ---- */

static bool name_segments(struct recovery *r, struct postings_ns *n)
{
	struct postings_next x;
	postings_manifest_begin(r->p, n, &x);
	if (atomic_load_explicit(&n->current, memory_order_relaxed) && !postings_manifest_load(n, x.v, &x.count))
		return false;
	for (size_t i = 0; i < x.count; i++) {
		uint32_t desc = postings_entry_desc(x.v[i]);
		struct postings_view w;
		if (desc >= r->used || r->named[desc] || !postings_view_open(r->p, n->ns, x.v[i], &w) || !sane(&w))
			return false;
		r->named[desc] = 1;
		uint64_t offset = r->p->descs[desc].offset;
		r->pieces[r->npieces++] = (struct piece){offset,
							 offset + align_up(r->p->descs[desc].bytes, POSTINGS_UNIT)};
	}
	return true;
}

static int by_offset(const void *a, const void *b)
{
	const struct piece *x = a, *y = b;
	return (x->offset > y->offset) - (x->offset < y->offset);
}

static bool rebuild_pool(struct recovery *r)
{
	uint64_t end = 0, bytes = 0;
	if (r->npieces)
		qsort(r->pieces, r->npieces, sizeof(*r->pieces), by_offset);
	for (size_t i = 0; i < r->npieces; i++) {
		if (r->pieces[i].offset < end)
			return false;
		end = r->pieces[i].end;
	}
	postings_pool_fresh(&r->p->w->pool, end);
	end = 0;
	for (size_t i = 0; i < r->npieces; i++) {
		if (r->pieces[i].offset > end)
			postings_pool_give(&r->p->w->pool, end, r->pieces[i].offset - end);
		end = r->pieces[i].end;
		bytes += r->pieces[i].end - r->pieces[i].offset;
	}
	atomic_store_explicit(&r->p->super->bytes, bytes, memory_order_relaxed);
	return true;
}

/* Caught while they changed hands, or let go of: readers that are at them begin anew. */
static void free_descs(struct recovery *r)
{
	for (uint32_t i = r->used; i-- > 0;) {
		struct postings_desc *d = &r->p->descs[i];
		if (r->named[i])
			continue;
		atomic_store_explicit(&d->gen, d->gen | 1, memory_order_relaxed);
		atomic_thread_fence(memory_order_release);
		atomic_store_explicit(&d->ns, 0, memory_order_relaxed);
		postings_push(&r->p->w->free_descs, i);
	}
}

/* ---- documents ---- */

static void clear_counts(const struct postings_view *w)
{
	struct postings_head *h = (void *)(uintptr_t)w->base;
	char *terms = (char *)(uintptr_t)postings_area(w, AREA_TERMS);
	atomic_store_explicit(&h->dead_docs, 0, memory_order_relaxed);
	atomic_store_explicit(&h->dead_length, 0, memory_order_relaxed);
	for (uint32_t i = 0; i < h->terms; i++) {
		struct postings_term *t = (void *)(terms + i * sizeof(*t));
		atomic_store_explicit(&t->dead, 0, memory_order_relaxed);
	}
}

/* An id that is found twice was on its way from one namespace to another. */
static void map_document(struct recovery *r, const struct postings_view *w, uint32_t desc, uint32_t doc)
{
	struct postings *p = r->p;
	struct uuid id = postings_id(w, doc);
	uint64_t here = postings_ref(p, desc, doc), other = postings_map_find(p, &id);
	if (other) {
		struct postings_view o = postings_segment_view(p, postings_ref_desc(other));
		if (postings_version_of(&o, postings_ref_doc(other)) >= postings_version_of(w, doc)) {
			postings_push(&r->doubles, desc);
			postings_push(&r->doubles, doc);
			return;
		}
		postings_push(&r->doubles, postings_ref_desc(other));
		postings_push(&r->doubles, postings_ref_doc(other));
	}
	postings_map_set(p, &id, here);
}

/* Returns how many of its documents are alive. */
static uint64_t count_segment(struct recovery *r, uint32_t desc, uint64_t current)
{
	struct postings_view w = postings_segment_view(r->p, desc);
	uint64_t live = 0;
	clear_counts(&w);
	FAULT_POINT(words_recovering);
	for (uint32_t doc = 0; doc < w.head.docs; doc++) {
		uint64_t death = postings_death(&w, doc);
		if (death > current)
			postings_manifest_die(&w, doc, 0); /* the manifest with which it was to die never came */
		if (death && death <= current) {
			postings_manifest_count_dead(&w, doc);
			continue;
		}
		map_document(r, &w, desc, doc);
		live++;
	}
	return live;
}

static void count_namespace(struct recovery *r, struct postings_ns *n, uint64_t *all)
{
	struct postings_next x;
	uint64_t live = 0;
	postings_manifest_begin(r->p, n, &x);
	for (size_t i = 0; i < x.count; i++)
		live += count_segment(r, postings_entry_desc(x.v[i]), x.number - 1);
	atomic_store_explicit(&n->live, live, memory_order_relaxed);
	*all += live;
}

static void kill_doubles(struct recovery *r)
{
	for (size_t i = 0; i < r->doubles.n; i += 2) {
		struct postings_next x;
		uint64_t ref = postings_ref(r->p, r->doubles.v[i], r->doubles.v[i + 1]);
		struct postings_ns *n = postings_ns_find(r->p, r->p->descs[r->doubles.v[i]].ns);
		AN(n);
		postings_manifest_begin(r->p, n, &x);
		postings_manifest_kill(r->p, &x, ref);
		postings_manifest_publish(r->p, &x);
	}
}

static bool recover(struct recovery *r, uint32_t rows)
{
	for (uint32_t i = 0; i < rows; i++)
		if (!name_segments(r, &r->p->ns[i]))
			return false;
	if (!rebuild_pool(r))
		return false;
	free_descs(r);
	uint64_t all = 0;
	for (uint32_t i = 0; i < r->used; i++) /* the dead, too: how many there are is not known yet */
		all += r->named[i] ? postings_segment_view(r->p, i).head.docs : 0;
	postings_map_reserve(&r->p->w->map, all);
	all = 0;
	for (uint32_t i = 0; i < rows; i++)
		count_namespace(r, &r->p->ns[i], &all);
	atomic_store_explicit(&r->p->super->live, all, memory_order_relaxed);
	kill_doubles(r);
	return true;
}

bool postings_recover(struct postings *p)
{
	uint32_t rows = atomic_load_explicit(&p->super->namespaces, memory_order_relaxed);
	struct recovery r = {.p = p, .used = atomic_load_explicit(&p->super->used, memory_order_acquire)};
	if (r.used > POSTINGS_DESCS || rows > POSTINGS_NAMESPACES)
		return false;
	r.named = util_zalloc(r.used + 1);
	r.pieces = util_alloc((r.used + 1) * sizeof(*r.pieces));
	bool good = recover(&r, rows);
	free(r.named);
	free(r.pieces);
	free(r.doubles.v);
	return good;
}
