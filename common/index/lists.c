/* Lists: their memory, the views of them, and how they are published and given up. */
#include "lists-private.h"

#include <math.h>
#include <stdlib.h>

#include "clock.h"
#include "fault.h"
#include "kernels-private.h"
#include "vocabulary.h"

#define ARENA_UNITS 1024U
#define UNITS_MAX (UINT32_MAX / LISTS_PER_UNIT - 1) /* an entry's place has 32 bits: 128 GiB */

static uint32_t kind_of(uint32_t width) { return width >= LISTS_BITS_FROM ? LISTS_BITS : LISTS_BYTES; }

/* What is read here may be overwritten meanwhile by a writer that thinks us gone: everything is checked, and the
 * caller looks at `reclaimed` before it believes any of it. */
bool lists_view(const struct vectors *v, uint64_t lists, struct lists_view *w)
{
	uint64_t at = lists - 1;
	if (!lists || at % VECTORS_UNIT || at >= v->data_bytes)
		return false;
	struct lists *l = (struct lists *)(void *)(v->data + at);
	*w = (struct lists_view){.v = v, .l = l, .width = l->width, .count = l->count, .kind = l->kind};
	uint32_t units = l->units; /* once: it may be another one the next time */
	if (units > LISTS_UNITS_MAX || v->data_bytes - at < (uint64_t)VECTORS_UNIT * units || !w->width ||
	    w->width > LIMIT_DIMENSIONS || w->width % 64 || !w->count || w->count > LISTS_MAX ||
	    (w->kind != LISTS_BITS && w->kind != LISTS_BYTES))
		return false;
	lists_shape(w->width, w->count, &w->s);
	w->code_bytes = lists_code_bytes(w->width, w->kind);
	w->front_bytes = lists_front_bytes(w->code_bytes, w->kind);
	return w->s.bytes <= (size_t)VECTORS_UNIT * units;
}

struct block *lists_block(const struct lists_view *w, uint32_t unit)
{
	uint32_t capacity;
	return lists_block_read(w, unit, &capacity);
}

struct block *lists_block_read(const struct lists_view *w, uint32_t unit, uint32_t *capacity_r)
{
	uint64_t at = ((uint64_t)unit - 1) * VECTORS_UNIT;
	if (!unit || at >= w->v->data_bytes)
		return NULL;
	struct block *b = (struct block *)(void *)(w->v->data + at);
	uint32_t units = b->units;
	if (!units || units > LISTS_UNITS_MAX || w->v->data_bytes - at < (uint64_t)VECTORS_UNIT * units)
		return NULL;
	*capacity_r = lists_capacity(w, units);
	return b->capacity == *capacity_r ? b : NULL;
}

/* Sixteen levels, symmetric around zero: ±1, ±3 … ±15 times delta. Few components are beyond 3.2 standard deviations. */
KERNEL_RACY float lists_ask(const struct lists_view *w, const float *x, uint64_t *planes, struct quantize_line *line_r)
{
	const float *mean = lists_mean(w);
	float q[LIMIT_DIMENSIONS], square[4] = {0};
	for (uint32_t i = 0; i < w->width; i += 4) {
		for (uint32_t k = 0; k < 4; k++) {
			q[i + k] = x[i + k] - mean[i + k];
			square[k] += q[i + k] * q[i + k];
		}
	}
	float rest = sqrtf((square[0] + square[1]) + (square[2] + square[3]));
	float delta = 3.2F * rest / sqrtf((float)w->width) / 15;
	float inverse = delta > 0 ? 1 / (2 * delta) : 0;
	uint32_t front = 8 * w->front_bytes;
	w->v->quantize->to_planes(q, front, inverse, planes);
	if (front < w->width)
		w->v->quantize->to_planes(q + front, w->width - front, inverse,
					  planes + QUANTIZE_PLANES * w->front_bytes / 8);
	*line_r = (struct quantize_line){.base = w->v->kernels->dot(mean, x, w->width),
					 .add = 15 * delta * (float)w->width,
					 .mul = -2 * delta,
					 .floor = -INFINITY};
	return rest;
}

void lists_whole(const struct lists_view *w, const uint64_t *planes, const uint64_t *const *fronts,
		 const uint64_t *const *backs, uint32_t n, uint32_t *out)
{
	uint32_t more[LISTS_TOGETHER], back = w->code_bytes - w->front_bytes;
	w->v->quantize->codes_at(planes, fronts, n, w->front_bytes / 8, out);
	if (!back)
		return;
	w->v->quantize->codes_at(lists_back_planes(w, planes), backs, n, back / 8, more);
	for (uint32_t i = 0; i < n; i++)
		out[i] += more[i];
}

struct lists_writer *lists_writer_new(const struct vectors *v)
{
	struct lists_writer *w = util_zalloc(sizeof(*w));
	/* calloc: most of these pages are never used */
	w->of = calloc(VECTORS_NAMESPACES, sizeof(struct ivf *));
	w->entries = calloc(VECTORS_CHUNKS, sizeof(uint32_t *));
	w->next_entries = calloc(VECTORS_CHUNKS, sizeof(uint32_t *));
	w->starts = calloc(v->data_bytes / VECTORS_UNIT + 1, 1);
	AN(w->of && w->entries && w->next_entries && w->starts);
	return w;
}

static void ivf_free(struct ivf *f)
{
	if (f)
		free(f->tails);
	free(f);
}

void lists_writer_end(struct vectors *v)
{
	struct lists_writer *w = v->w->lists;
	for (uint32_t i = 0; i < VECTORS_NAMESPACES; i++)
		ivf_free(w->of[i]);
	for (uint32_t i = 0; i < VECTORS_CHUNKS && i < v->super->used; i++) {
		free(w->entries[i]);
		free(w->next_entries[i]);
	}
	ivf_free(w->next);
	free(w->of);
	free(w->entries);
	free(w->next_entries);
	free(w->starts);
	free(w->limbo);
	free(w->found);
	free(w);
	v->w->lists = NULL;
}

static void count_bytes(struct vectors *v, int64_t delta)
{
	uint64_t bytes = atomic_load_explicit(&v->super->bytes, memory_order_relaxed);
	atomic_store_explicit(&v->super->bytes, bytes + (uint64_t)delta, memory_order_relaxed);
}

void lists_arena_begin(struct vectors *v) { v->w->lists->cutting = true; }

static void arena_give(struct vectors *v)
{
	struct lists_piece *a = &v->w->lists->arena;
	if (a->units) /* nobody was told of it: it is free at once */
		vectors_pool_gap(&v->w->pool, a->offset, a->offset + (uint64_t)VECTORS_UNIT * a->units);
	a->units = 0;
}

void lists_arena_end(struct vectors *v)
{
	arena_give(v);
	v->w->lists->cutting = false;
}

static bool cut(struct vectors *v, uint32_t units, uint64_t *offset_r)
{
	struct lists_piece *a = &v->w->lists->arena;
	if (!v->w->lists->cutting || units > ARENA_UNITS)
		return false;
	if (a->units < units) {
		arena_give(v);
		if (!vectors_pool_take_units(&v->w->pool, ARENA_UNITS, &a->offset))
			return false;
		a->units = ARENA_UNITS;
	}
	*offset_r = a->offset;
	a->offset += (uint64_t)VECTORS_UNIT * units;
	a->units -= units;
	return true;
}

bool lists_take(struct vectors *v, uint32_t units, uint64_t *offset_r)
{
	struct vectors_pool *pool = &v->w->pool;
	if (units > LISTS_UNITS_MAX)
		return false;
	while (!cut(v, units, offset_r) && !vectors_pool_take_units(pool, units, offset_r))
		if (!lists_reclaim(v, true))
			return false;
	if (*offset_r / VECTORS_UNIT + units > UNITS_MAX) {
		vectors_pool_give_units(pool, *offset_r, units);
		return false;
	}
	v->w->lists->starts[*offset_r / VECTORS_UNIT] = 1;
	count_bytes(v, (int64_t)VECTORS_UNIT * units);
	return true;
}

/* Word by word, atomically: a search that was overtaken may still read what was there before, and drops it. */
static void clear(void *p, size_t bytes)
{
	for (size_t i = 0; i < bytes / 8; i++)
		atomic_store_explicit((_Atomic uint64_t *)p + i, 0, memory_order_relaxed);
}

struct ivf *lists_create(struct vectors *v, uint64_t ns, uint32_t dim, uint32_t count)
{
	struct lists_shape s;
	uint64_t at;
	lists_shape(rotate_width(dim), count, &s);
	size_t units = (s.bytes + VECTORS_UNIT - 1) / VECTORS_UNIT;
	if (count > LISTS_MAX || units > LISTS_UNITS_MAX || !lists_take(v, (uint32_t)units, &at))
		return NULL;
	struct lists *l = (struct lists *)(void *)(v->data + at);
	clear(l, s.mean); /* the heads, too: no list has a block */
	l->ns = ns;
	l->dim = dim;
	l->width = rotate_width(dim);
	l->count = count;
	l->kind = kind_of(l->width);
	l->units = (uint32_t)units;
	struct ivf *f = util_zalloc(sizeof(*f));
	f->at = at + 1;
	AN(lists_view(v, f->at, &f->view));
	f->tails = util_zalloc(((size_t)count + 1) * sizeof(*f->tails));
	return f;
}

/* `entries`: where the rows of the namespace's chunks are in these lists, per chunk; taken over. */
void lists_publish(struct vectors *v, struct ivf *f, uint32_t **entries)
{
	struct lists_writer *w = v->w->lists;
	struct vectors_ns *n = vectors_ns_find(v, f->view.l->ns);
	struct ivf **of = &w->of[n - v->ns], *old = *of;
	uint32_t used = atomic_load_explicit(&v->super->used, memory_order_relaxed);
	FAULT_POINT(lists_built);
	atomic_store_explicit(&n->lists, f->at, memory_order_release);
	FAULT_POINT(lists_published);
	for (uint32_t i = 0; i < used; i++) {
		if (!entries[i])
			continue;
		free(w->entries[i]);
		w->entries[i] = entries[i];
		entries[i] = NULL;
	}
	*of = f;
	if (old)
		lists_retire_all(v, &old);
}

void lists_retire(struct vectors *v, uint64_t offset, uint32_t units)
{
	struct lists_writer *w = v->w->lists;
	if (w->limbo_n == w->limbo_cap) {
		w->limbo_cap = w->limbo_cap ? 2 * w->limbo_cap : 64;
		w->limbo = util_realloc(w->limbo, w->limbo_cap * sizeof(*w->limbo));
	}
	w->starts[offset / VECTORS_UNIT] = 0;
	atomic_store_explicit(&v->w->due, true, memory_order_relaxed);
	w->limbo[w->limbo_n++] = (struct lists_limbo){offset, clock_mono_us() / 1000, units};
}

void lists_give(struct vectors *v, uint64_t offset, uint32_t units)
{
	v->w->lists->starts[offset / VECTORS_UNIT] = 0;
	vectors_pool_give_units(&v->w->pool, offset, units);
	count_bytes(v, -((int64_t)VECTORS_UNIT * units));
}

void lists_give_up(struct vectors *v, const struct ivf *f, uint32_t head)
{
	bool unseen = f == v->w->lists->next;
	for (uint32_t unit = head; unit;) {
		struct block *b = lists_block(&f->view, unit);
		AN(b);
		uint64_t at = (uint64_t)(unit - 1) * VECTORS_UNIT;
		uint32_t units = b->units;
		unit = b->next;
		if (unseen)
			lists_give(v, at, units);
		else
			lists_retire(v, at, units);
	}
}

void lists_retire_all(struct vectors *v, struct ivf **fp)
{
	struct ivf *f = *fp;
	for (uint32_t i = 0; i <= lists_fresh(&f->view); i++)
		lists_give_up(v, f, *lists_head(&f->view, i));
	lists_retire(v, f->at - 1, f->view.l->units);
	ivf_free(f);
	*fp = NULL;
}

/* The counter moves first: a reader that sees any of what is written there later also sees that. */
bool lists_reclaim(struct vectors *v, bool at_once)
{
	struct lists_writer *w = v->w->lists;
	int64_t now = clock_mono_us() / 1000;
	size_t done = 0;
	while (done < w->limbo_n && (at_once || now - w->limbo[done].since_ms >= LISTS_LINGER_MS))
		done++;
	if (!done)
		return false;
	uint64_t reclaimed = atomic_load_explicit(&v->super->reclaimed, memory_order_relaxed);
	atomic_store_explicit(&v->super->reclaimed, reclaimed + 1, memory_order_relaxed);
	atomic_thread_fence(memory_order_release);
	FAULT_POINT(lists_reclaiming);
	for (size_t i = 0; i < done; i++) {
		vectors_pool_give_units(&v->w->pool, w->limbo[i].offset, w->limbo[i].units);
		count_bytes(v, -((int64_t)VECTORS_UNIT * w->limbo[i].units));
	}
	w->limbo_n -= done;
	memmove(w->limbo, w->limbo + done, w->limbo_n * sizeof(*w->limbo));
	vectors_reserve(v);
	return true;
}
