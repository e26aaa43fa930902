/* Chunks: how they change hands, get rows and lose them. Writer only. */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "fault.h"
#include "lists-private.h"

#define HUGE_FROM (64ull << 20) /* bytes of chunks from which on huge pages are worth their grain */

static void push(struct vectors_pool_stack *s, uint32_t x)
{
	if (s->n == s->cap) {
		s->cap = s->cap ? 2 * s->cap : 16;
		s->p = util_realloc(s->p, s->cap * sizeof(*s->p));
	}
	s->p[s->n++] = x;
}

static void add(_Atomic uint64_t *counter, int64_t delta)
{
	uint64_t now = atomic_load_explicit(counter, memory_order_relaxed);
	atomic_store_explicit(counter, now + (uint64_t)delta, memory_order_relaxed);
}

#define LARGE (1U << 20) /* bytes of a chunk that has room enough whatever its rows are */

/* A namespace's next chunk has about a third of the rows it holds already: small ones stay small,
 * large ones waste little. */
static uint32_t wanted_order(uint64_t live, uint32_t dim, uint32_t form)
{
	uint32_t rows = live < 64 ? 16 : live < 256 ? 64 : live < 1024 ? 256 : 1024, order = 0;
	struct vectors_shape s;
	while (order < VECTORS_ORDER_ROWS &&
	       (!vectors_shape(dim, order, form, &s) ||
		(s.capacity < rows && VECTORS_UNIT << order < LARGE && s.capacity * s.row_bytes < LARGE)))
		order++;
	return order;
}

void vectors_reserve(struct vectors *v)
{
	struct vectors_writer *w = v->w;
	uint64_t offset;
	if (w->reserve)
		return;
	w->reserve_order = VECTORS_ORDER_ROWS;
	while (w->reserve_order && (uint64_t)VECTORS_UNIT << w->reserve_order > v->data_bytes / 16)
		w->reserve_order--;
	if (vectors_pool_take(&w->pool, w->reserve_order, &offset))
		w->reserve = offset + 1;
}

/* Near the limit smaller chunks do as well. Only compaction, which frees more than it takes, may
 * break into the reserve: without one a full index could never be compacted. */
static bool take_memory(struct vectors *v, uint32_t dim, uint32_t form, bool compacting, uint32_t *order_io,
			uint64_t *offset_r)
{
	struct vectors_writer *w = v->w;
	struct vectors_shape s;
	for (uint32_t order = *order_io; vectors_shape(dim, order, form, &s); order--) {
		if (vectors_pool_take(&w->pool, order, offset_r)) {
			*order_io = order;
			return true;
		}
		if (!order)
			break;
	}
	if (lists_reclaim(v, true))
		return take_memory(v, dim, form, compacting, order_io, offset_r);
	if (!compacting || !w->reserve)
		return false;
	vectors_pool_give(&w->pool, w->reserve - 1, w->reserve_order);
	w->reserve = 0;
	return take_memory(v, dim, form, false, order_io, offset_r);
}

/* Where a chunk lies. */
struct place {
	uint32_t form, order;
	uint64_t offset, rows;
};

/* With its rows in the file: first those, of which less is needed if memory is so short that the chunk gets smaller. */
static bool take_file(struct vectors *v, uint32_t dim, bool compacting, struct place *p)
{
	struct vectors_shape s;
	uint32_t units, most;
	if (!v->spill_bytes || !vectors_shape(dim, p->order, p->form, &s))
		return false;
	while (!spill_take(v, most = spill_units(&s), &p->rows))
		if (!p->order-- || !vectors_shape(dim, p->order, p->form, &s))
			return false;
	if (!take_memory(v, dim, p->form, compacting, &p->order, &p->offset)) {
		spill_give(v, p->rows, most);
		return false;
	}
	AN(vectors_shape(dim, p->order, p->form, &s));
	units = spill_units(&s);
	if (units < most)
		spill_give(v, p->rows + (uint64_t)units * VECTORS_UNIT, most - units);
	return true;
}

/* Where they should be, or else where there is room. */
static bool take_place(struct vectors *v, const struct vectors_ns *n, uint32_t dim, uint32_t form, bool compacting,
		       struct place *p)
{
	bool file = spill_wanted(v, n, dim);
	for (int i = 0; i < 2; i++, file = !file) {
		*p = (struct place){.form = form | (file ? VECTORS_SPILLED : 0)};
		p->order = wanted_order(n->live, dim, p->form);
		if (file ? take_file(v, dim, compacting, p)
			 : take_memory(v, dim, p->form, compacting, &p->order, &p->offset))
			return true;
	}
	return false;
}

static void give_rows(struct vectors *v, const struct place *p, uint32_t dim)
{
	struct vectors_shape s;
	if (p->form & VECTORS_SPILLED && vectors_shape(dim, p->order, p->form, &s))
		spill_give(v, p->rows, spill_units(&s));
}

static bool take_descriptor(struct vectors *v, uint32_t *chunk_r)
{
	struct vectors_pool_stack *s = &v->w->free_chunks;
	if (s->n) {
		*chunk_r = s->p[--s->n];
		return true;
	}
	uint32_t used = atomic_load_explicit(&v->super->used, memory_order_relaxed);
	if (used == VECTORS_CHUNKS)
		return false;
	*chunk_r = used;
	return true;
}

static void use_huge_pages(struct vectors *v)
{
	if (v->w->huge || vectors_bytes(v) < HUGE_FROM)
		return;
	v->w->huge = true;
	(void)madvise(v->data, v->data_bytes, MADV_HUGEPAGE); /* advice: refusal costs speed only */
}

/* The seqlock's writing side. Odd first, behind all that told where rows went: a reader that finds the chunk gone looks
 * there. The fence keeps every later store into the descriptor and
 * into the chunk's memory behind it: a reader that sees any of them also sees that `gen` moved. A
 * writer that dies in between leaves an odd `gen`, which readers skip and recovery frees. */
static uint64_t begin(struct vectors_chunk *c)
{
	uint64_t gen = atomic_load_explicit(&c->gen, memory_order_relaxed);
	atomic_store_explicit(&c->gen, gen + 1, memory_order_release);
	atomic_thread_fence(memory_order_release);
	return gen + 2;
}

static void assign(struct vectors *v, uint32_t chunk, uint64_t ns, uint32_t dim, const struct place *p)
{
	struct vectors_chunk *c = &v->chunks[chunk];
	uint64_t gen = begin(c);
	atomic_store_explicit(&c->ns, ns, memory_order_relaxed);
	atomic_store_explicit(&c->serial, ++v->w->serial, memory_order_relaxed);
	atomic_store_explicit(&c->offset, p->offset, memory_order_relaxed);
	atomic_store_explicit(&c->rows, p->rows, memory_order_relaxed);
	atomic_store_explicit(&c->dim, dim, memory_order_relaxed);
	atomic_store_explicit(&c->form, p->form, memory_order_relaxed);
	atomic_store_explicit(&c->order, p->order, memory_order_relaxed);
	FAULT_POINT(vectors_assigning);
	atomic_store_explicit(&c->count, 0, memory_order_relaxed);
	for (uint32_t i = 0; i < VECTORS_WORDS; i++)
		atomic_store_explicit(&vectors_tombs(v, p->offset)[i], 0, memory_order_relaxed);
	atomic_store_explicit(&c->gen, gen, memory_order_release);
	FAULT_POINT(vectors_assigned);
	atomic_store_explicit(&v->keys[chunk], ns, memory_order_release);
	if (chunk == atomic_load_explicit(&v->super->used, memory_order_relaxed))
		atomic_store_explicit(&v->super->used, chunk + 1, memory_order_release);
	v->w->live[chunk] = 0;
	v->w->queued[chunk] = 0;
	add(&v->super->bytes, (int64_t)VECTORS_UNIT << p->order);
}

void vectors_chunk_free(struct vectors *v, uint32_t chunk)
{
	struct vectors_chunk *c = &v->chunks[chunk];
	struct vectors_ns *n = vectors_ns_find(v, c->ns);
	const struct place p = {.form = c->form, .order = c->order, .offset = c->offset, .rows = c->rows};
	uint64_t gen = begin(c);
	lists_chunk_gone(v, chunk);
	atomic_store_explicit(&v->keys[chunk], 0, memory_order_relaxed);
	FAULT_POINT(vectors_freeing);
	atomic_store_explicit(&c->ns, 0, memory_order_relaxed);
	atomic_store_explicit(&c->count, 0, memory_order_relaxed);
	atomic_store_explicit(&c->gen, gen, memory_order_release);
	if (n && v->w->open[n - v->ns] == chunk + 1)
		v->w->open[n - v->ns] = 0;
	v->w->live[chunk] = 0;
	v->w->queued[chunk] = 0;
	add(&v->super->bytes, -((int64_t)VECTORS_UNIT << p.order));
	vectors_pool_give(&v->w->pool, p.offset, p.order);
	give_rows(v, &p, c->dim);
	push(&v->w->free_chunks, chunk);
	vectors_reserve(v);
}

/* Gives the namespace a new newest chunk. The previous one never gets another row: whatever of it
 * is dead already is compaction's business from now on. */
static int open_chunk(struct vectors *v, struct vectors_ns *n, uint32_t dim, uint32_t form, bool compacting)
{
	uint32_t chunk, *open = &v->w->open[n - v->ns];
	struct place p;
	if (!take_place(v, n, dim, form, compacting, &p))
		return ENOSPC;
	if (!take_descriptor(v, &chunk)) {
		vectors_pool_give(&v->w->pool, p.offset, p.order);
		give_rows(v, &p, dim);
		return ENOSPC;
	}
	uint32_t previous = *open;
	use_huge_pages(v);
	assign(v, chunk, n->ns, dim, &p);
	*open = chunk + 1;
	/* After `used` and `gen`: who sees this serial finds the chunk. Before its first row. */
	atomic_store_explicit(&n->newest, v->w->serial, memory_order_release);
	if (previous)
		vectors_compact_offer(v, previous - 1);
	return 0;
}

static void write_row(struct vectors *v, char *chunk, const struct vectors_shape *s, uint32_t i,
		      const struct vectors_row *row)
{
	uint32_t bits, step;
	memcpy(&bits, &row->norm, sizeof(bits));
	memcpy(&step, &row->step, sizeof(step));
	if (s->wide) {
		atomic_store_explicit((_Atomic uint64_t *)(void *)(chunk + s->versions) + i, row->version,
				      memory_order_relaxed);
		atomic_store_explicit((_Atomic uint64_t *)(void *)(chunk + s->expiries) + i, (uint64_t)row->expires_us,
				      memory_order_relaxed);
	} else {
		atomic_store_explicit((_Atomic uint32_t *)(void *)(chunk + s->versions) + i, (uint32_t)row->version,
				      memory_order_relaxed);
	}
	uint16_t norm;
	if (s->norm_is_short && vectors_norm_short(row->norm, &norm))
		atomic_store_explicit((_Atomic uint16_t *)(void *)(chunk + s->norms) + i, norm, memory_order_relaxed);
	else
		atomic_store_explicit((_Atomic uint32_t *)(void *)(chunk + s->norms) + i, bits, memory_order_relaxed);
	if (s->form == VECTORS_BYTES)
		atomic_store_explicit((_Atomic uint16_t *)(void *)(chunk + s->steps) + i, (uint16_t)(step >> 16),
				      memory_order_relaxed);
	shm_copy_in(chunk + s->ids + 16 * (size_t)i, row->id.b, 16);
	size_t bytes = s->row_bytes;
	FAULT_POINT(vectors_row_half);
	vectors_pages_ahead(v, chunk + s->rows, i * bytes, bytes, s->capacity * bytes, s->spilled);
	if (s->spilled)
		spill_crypt(&v->w->spill, v, s->spilled, i * bytes, row->data, chunk + s->rows + i * bytes, bytes);
	else
		shm_copy_in(chunk + s->rows + i * bytes, row->data, bytes);
}

static uint32_t needs(const struct vectors_row *row)
{
	uint16_t norm;
	return (row->expires_us || row->version > UINT32_MAX ? VECTORS_WIDE : 0) |
	       (row->form == VECTORS_BYTES && !vectors_norm_short(row->norm, &norm) ? VECTORS_NORMS : 0);
}

static bool has_room(const struct vectors *v, uint32_t open, const struct vectors_row *row)
{
	struct vectors_shape s;
	if (!open)
		return false;
	const struct vectors_chunk *c = &v->chunks[open - 1];
	return c->dim == row->dim && vectors_form_plain(c->form) == row->form && vectors_look(v, c, c->dim, &s) &&
	       !vectors_begun(v, &s) && c->count < s.capacity && !(needs(row) & ~c->form);
}

int vectors_append(struct vectors *v, struct vectors_ns *n, const struct vectors_row *row, bool compacting,
		   uint32_t *ref_r)
{
	uint32_t *open = &v->w->open[n - v->ns];
	if (!has_room(v, *open, row)) {
		atomic_store_explicit(&n->wide, n->wide | needs(row), memory_order_relaxed);
		int rc = open_chunk(v, n, row->dim, row->form | n->wide, compacting);
		if (rc)
			return rc;
	}
	uint32_t chunk = *open - 1;
	struct vectors_chunk *c = &v->chunks[chunk];
	struct vectors_shape s;
	char *base = vectors_own(v, c, &s);
	uint32_t i = atomic_load_explicit(&c->count, memory_order_relaxed);
	write_row(v, base, &s, i, row);
	FAULT_POINT(vectors_row_written);
	atomic_store_explicit(&c->count, i + 1, memory_order_release); /* published */
	FAULT_POINT(vectors_row_published);
	v->w->live[chunk]++;
	add(&n->live, 1);
	add(&v->super->live, 1);
	*ref_r = vectors_ref(chunk, i);
	return 0;
}

void vectors_kill_row(struct vectors *v, uint32_t ref)
{
	uint32_t chunk = vectors_ref_chunk(ref), row = vectors_ref_row(ref);
	struct vectors_chunk *c = &v->chunks[chunk];
	struct vectors_ns *n = vectors_ns_find(v, c->ns);
	_Atomic uint64_t *word = &vectors_tombs(v, c->offset)[row / 64];
	uint64_t bits = atomic_load_explicit(word, memory_order_relaxed), bit = 1ull << (row % 64);
	AN(n && !(bits & bit) && v->w->live[chunk]);
	lists_row_dead(v, (uint32_t)(n - v->ns), ref);
	/* Release: whoever sees the tombstone sees the row that replaced this one. */
	atomic_store_explicit(word, bits | bit, memory_order_release);
	FAULT_POINT(vectors_tombstone);
	v->w->live[chunk]--;
	add(&n->live, -1);
	add(&v->super->live, -1);
	if (!v->w->live[chunk])
		vectors_chunk_free(v, chunk);
	else if (v->w->open[n - v->ns] != chunk + 1)
		vectors_compact_offer(v, chunk);
}
