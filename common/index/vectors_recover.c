/* What a killed writer left. Everything shared is either published whole or invisible; what is
 * rebuilt here is private (free memory, id → row) or derived (counters). Readers keep searching
 * meanwhile, so nothing here makes a visible row invisible but its tombstone, and `newest` never
 * goes back. */
#include <stdlib.h>

#include "fault.h"
#include "lists-private.h"

struct piece {
	uint64_t offset, end;
};

static int by_offset(const void *a, const void *b)
{
	const struct piece *x = a, *y = b;
	return (x->offset > y->offset) - (x->offset < y->offset);
}

static bool sane(const struct vectors *v, const struct vectors_chunk *c)
{
	struct vectors_shape s;
	return c->dim && c->dim <= UINT16_MAX && vectors_look(v, c, c->dim, &s) && c->count <= s.capacity &&
	       c->offset % ((uint64_t)VECTORS_UNIT << c->order) == 0;
}

/* Caught while it changed hands: it holds nothing that was visible. */
static void settle(struct vectors *v, uint32_t chunk)
{
	struct vectors_chunk *c = &v->chunks[chunk];
	uint64_t gen = atomic_load_explicit(&c->gen, memory_order_relaxed);
	if (gen & 1) {
		atomic_store_explicit(&c->ns, 0, memory_order_relaxed);
		atomic_store_explicit(&c->count, 0, memory_order_relaxed);
		atomic_store_explicit(&c->gen, gen + 1, memory_order_release);
	}
	atomic_store_explicit(&v->keys[chunk], c->ns, memory_order_release);
}

/* What lies between them is free. False: they overlap. */
static bool settle_pool(struct vectors_pool *pool, struct piece *pieces, size_t n, _Atomic uint64_t *bytes)
{
	uint64_t end = 0, sum = 0;
	bool ok = true;
	qsort(pieces, n, sizeof(*pieces), by_offset);
	for (size_t i = 0; i < n && ok; i++) {
		ok = pieces[i].offset >= end;
		if (ok)
			vectors_pool_gap(pool, end, pieces[i].offset);
		end = pieces[i].end;
		sum += pieces[i].end - pieces[i].offset;
	}
	vectors_pool_fresh(pool, end);
	atomic_store_explicit(bytes, sum, memory_order_relaxed);
	return ok;
}

static bool rebuild_file(struct vectors *v, uint32_t used)
{
	struct piece *pieces = util_alloc(((size_t)used + 1) * sizeof(*pieces));
	size_t n = 0;
	for (uint32_t i = 0; i < used; i++) {
		const struct vectors_chunk *c = &v->chunks[i];
		struct vectors_shape s;
		if (!c->ns || !(c->form & VECTORS_SPILLED))
			continue;
		vectors_own(v, c, &s);
		pieces[n++] = (struct piece){c->rows, c->rows + (uint64_t)VECTORS_UNIT * spill_units(&s)};
	}
	bool ok = settle_pool(&v->w->file, pieces, n, &v->super->spilled);
	free(pieces);
	return ok;
}

static bool rebuild_pool(struct vectors *v, uint32_t used)
{
	struct piece *pieces;
	struct lists_writer *w = v->w->lists;
	size_t n = 0;
	pieces = util_alloc(((size_t)used + w->found_n + 1) * sizeof(*pieces));
	for (size_t i = 0; i < w->found_n; i++)
		pieces[n++] = (struct piece){w->found[i].offset,
					     w->found[i].offset + (uint64_t)VECTORS_UNIT * w->found[i].units};
	free(w->found);
	w->found = NULL;
	w->found_n = w->found_cap = 0;
	for (uint32_t i = used; i-- > 0;) {
		const struct vectors_chunk *c = &v->chunks[i];
		struct vectors_pool_stack *s = &v->w->free_chunks;
		if (c->ns) {
			pieces[n++] = (struct piece){c->offset, c->offset + ((uint64_t)VECTORS_UNIT << c->order)};
			continue;
		}
		if (s->n == s->cap) {
			s->cap = s->cap ? 2 * s->cap : 16;
			s->p = util_realloc(s->p, s->cap * sizeof(*s->p));
		}
		s->p[s->n++] = i;
	}
	bool ok = settle_pool(&v->w->pool, pieces, n, &v->super->bytes);
	free(pieces);
	return ok;
}

static uint32_t live_rows(const struct vectors *v, const struct vectors_chunk *c)
{
	uint32_t live = 0, count = c->count;
	for (uint32_t i = 0; i * 64 < count; i++) {
		uint64_t mask = count - i * 64 >= 64 ? ~0ull : (1ull << (count - i * 64)) - 1;
		live += (uint32_t)__builtin_popcountll(mask & ~vectors_tombs(v, c->offset)[i]);
	}
	return live;
}

/* Counters, and each namespace's newest chunk. */
static bool recount(struct vectors *v, uint32_t used)
{
	struct vectors_writer *w = v->w;
	uint64_t *live = calloc(VECTORS_NAMESPACES, sizeof(*live)), all = 0;
	bool ok = live != NULL;
	for (uint32_t i = 0; i < used && ok; i++) {
		const struct vectors_chunk *c = &v->chunks[i];
		struct vectors_ns *n = c->ns ? vectors_ns_make(v, c->ns) : NULL;
		if (!c->ns)
			continue;
		ok = n != NULL;
		if (!ok)
			break;
		uint32_t *open = &w->open[n - v->ns];
		if (!*open || v->chunks[*open - 1].serial < c->serial)
			*open = i + 1;
		if (n->newest < c->serial) /* killed between the descriptor and this */
			atomic_store_explicit(&n->newest, c->serial, memory_order_release);
		w->live[i] = (uint16_t)live_rows(v, c);
		live[n - v->ns] += w->live[i];
		all += w->live[i];
	}
	for (uint32_t i = 0; i < v->super->namespaces && ok; i++) {
		struct vectors_ns *n = &v->ns[i];
		atomic_store_explicit(&n->live, live[i], memory_order_relaxed);
		if (n->newest > w->serial)
			w->serial = n->newest;
	}
	atomic_store_explicit(&v->super->live, all, memory_order_relaxed);
	free(live);
	return ok;
}

static bool newer(const struct vectors *v, uint32_t a, uint32_t b)
{
	const struct vectors_chunk *x = &v->chunks[vectors_ref_chunk(a)], *y = &v->chunks[vectors_ref_chunk(b)];
	struct vectors_shape sx, sy;
	uint64_t vx = vectors_load_version(vectors_own(v, x, &sx), &sx, vectors_ref_row(a));
	uint64_t vy = vectors_load_version(vectors_own(v, y, &sy), &sy, vectors_ref_row(b));
	if (vx != vy)
		return vx > vy;
	/* an interrupted move: both are the same; the later copy stays */
	return x->serial != y->serial ? x->serial > y->serial : vectors_ref_row(a) > vectors_ref_row(b);
}

/* An id that is found twice: an update or a move was under way. Searches that are under way look for the one that
 * stays where moves are told. */
static void map_chunk(struct vectors *v, uint32_t chunk)
{
	const struct vectors_chunk *c = &v->chunks[chunk];
	struct vectors_shape s;
	const char *base = vectors_own(v, c, &s);
	/* The last kill may give this very chunk back: count is 0 then. */
	for (uint32_t i = 0; i < c->count; i++) {
		if (vectors_is_dead(v, c->offset, i))
			continue;
		struct uuid id = vectors_load_id(base, &s, i);
		uint32_t here = vectors_ref(chunk, i), other = vectors_map_find(v, &id);
		bool keep = !other || newer(v, here, other);
		if (keep)
			vectors_map_set(v, &id, here);
		if (other)
			lists_tell(v, (uint32_t)(vectors_ns_find(v, c->ns) - v->ns), keep ? here : other);
		if (other)
			vectors_kill_row(v, keep ? other : here);
	}
}

bool vectors_recover(struct vectors *v)
{
	uint32_t used = atomic_load_explicit(&v->super->used, memory_order_acquire);
	if (used > VECTORS_CHUNKS || v->super->namespaces > VECTORS_NAMESPACES)
		return false;
	/* A writer may have died after it took the next descriptor and before it moved `used`. */
	if (used < VECTORS_CHUNKS && atomic_load_explicit(&v->chunks[used].gen, memory_order_relaxed))
		atomic_store_explicit(&v->super->used, ++used, memory_order_release);
	for (uint32_t i = 0; i < used; i++) {
		settle(v, i);
		if (v->chunks[i].ns && !sane(v, &v->chunks[i]))
			return false;
	}
	lists_recover(v);
	if (!rebuild_pool(v, used) || !rebuild_file(v, used) || !recount(v, used))
		return false;
	v->w->taken_over = v->w->serial;
	FAULT_POINT(vectors_recounted);
	for (uint32_t i = 0; i < used; i++) {
		if (v->chunks[i].ns && !v->w->live[i])
			vectors_chunk_free(v, i);
	}
	vectors_map_reserve(&v->w->map, v->super->live);
	lists_recover_rows(v); /* before one of two rows of an entry dies: it may be the one that has an entry */
	for (uint32_t i = 0; i < used; i++) {
		if (v->chunks[i].ns)
			map_chunk(v, i);
		FAULT_POINT(vectors_recovering);
	}
	for (uint32_t i = 0; i < used; i++) {
		struct vectors_ns *n = v->chunks[i].ns ? vectors_ns_find(v, v->chunks[i].ns) : NULL;
		if (n && v->w->open[n - v->ns] != i + 1)
			vectors_compact_offer(v, i);
	}
	return true;
}
