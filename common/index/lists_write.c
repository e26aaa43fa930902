/* Entries: how they are made, appended, and die. The writer's side, under its lock. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>

#include "fault.h"
#include "kernels-private.h"
#include "kmeans.h"
#include "lists-private.h"
#include "vocabulary.h"

/* ---- encoding ---- */

/* Two factors in a word. */
static uint32_t pack(float f, float g)
{
	uint16_t h[64];
	float x[64] = {f, g};
	quantize_get()->to_half(x, 64, h);
	return (uint32_t)h[0] | (uint32_t)h[1] << 16;
}

#define SHORT_LIST 8 /* lists, near by their codes, whose centroids are looked at whole */

/* <x,c> − |c|²/2 of n centroids: the largest is the nearest. q: x as signed bytes of `step`, their sum is `sum`. */
static void ask_centroids(const struct lists_view *w, const int8_t *q, float step, int32_t sum, uint32_t first,
			  uint32_t n, float *out)
{
	int32_t dots[64];
	quantize_get()->bytes(q, lists_centroids(w) + (size_t)first * w->width, n, w->width, w->width, dots);
	for (uint32_t i = 0; i < n; i++)
		out[i] = step * lists_steps(w)[first + i] * (float)(dots[i] - 128 * sum) - lists_halves(w)[first + i];
}

/* Lists that may be near by the fronts of their centroids' codes, of which the rest is looked at next. */
struct shorter {
	const struct lists_view *w;
	const uint64_t *planes;
	struct quantize_line line;
	struct near *out; /* the nearest by their whole codes */
	uint32_t n, nmay;
	uint32_t may[LISTS_TOGETHER];
};

KERNEL_RACY static void rank_whole(struct shorter *s)
{
	const struct lists_view *w = s->w;
	uint32_t dist[LISTS_TOGETHER], back = w->code_bytes - w->front_bytes;
	const uint64_t *fronts[LISTS_TOGETHER], *backs[LISTS_TOGETHER];
	for (uint32_t i = 0; i < s->nmay; i++) {
		const char *p = lists_backs_of_centroids(w) + (size_t)s->may[i] * back;
		fronts[i] = (const uint64_t *)(const void *)(lists_fronts(w) + (size_t)s->may[i] * w->front_bytes);
		backs[i] = (const uint64_t *)(const void *)p;
	}
	lists_whole(w, s->planes, fronts, backs, s->nmay, dist);
	for (uint32_t i = 0; i < s->nmay; i++) {
		uint32_t list = s->may[i], both = lists_factors(w)[list];
		float rest = quantize_half(both) * (s->line.add + s->line.mul * (float)dist[i]);
		float near = s->line.base + quantize_half(both >> 16) + rest - lists_halves(w)[list];
		s->n = near_keep(s->out, s->n, SHORT_LIST, near, list);
	}
	s->nmay = 0;
}

#define FRONT_OFF 2.0F /* by which a list's front may be worse than the best one's, as in lists_near.c */

/* The lists that are nearest by their centroids' codes. */
KERNEL_RACY static uint32_t short_list(const struct lists_view *w, const float *x, struct near out[SHORT_LIST])
{
	uint64_t planes[QUANTIZE_PLANES * LIMIT_DIMENSIONS / 64];
	uint32_t dist[512], index[512 + 16];
	float estimate[512 + 16], best = -INFINITY, off = 0;
	struct shorter s = {.w = w, .planes = planes, .out = out};
	float rest = lists_ask(w, x, planes, &s.line);
	const struct quantize_line line = lists_front_line(w, &s.line);
	for (uint32_t l = 0; l < w->count; l += 512) {
		uint32_t some = w->count - l < 512 ? w->count - l : 512, top = UINT32_MAX;
		w->v->quantize->upper(planes,
				      (const uint64_t *)(const void *)(lists_fronts(w) + (size_t)l * w->front_bytes),
				      some, w->front_bytes / 8, dist, NULL);
		w->v->quantize->select(dist, lists_factors(w) + l, some, &line, index, estimate);
		for (uint32_t i = 0; i < some; i++) {
			estimate[i] -= lists_halves(w)[l + i];
			top = estimate[i] > best ? i : top;
			best = estimate[i] > best ? estimate[i] : best;
		}
		if (top != UINT32_MAX)
			off = FRONT_OFF * sqrtf(lists_share(w)) * rest * quantize_half(lists_factors(w)[l + top]);
		for (uint32_t i = 0; i < some; i++) {
			if (!(estimate[i] >= best - off))
				continue;
			s.may[s.nmay++] = l + i;
			if (s.nmay == LISTS_TOGETHER)
				rank_whole(&s);
		}
	}
	rank_whole(&s);
	return s.n;
}

static uint32_t nearest(const struct lists_view *w, const float *x)
{
	int8_t high[LIMIT_DIMENSIONS], low[LIMIT_DIMENSIONS];
	int32_t sums[2];
	float most = quantize_most(x, w->width), step = most / 127, top = -INFINITY, near[64];
	struct near list[SHORT_LIST] = {0};
	uint32_t best = 0;
	if (w->count == 1)
		return 0;
	quantize_get()->to_pair(x, w->width, most > 0 ? 127 * 256 / most : 0, high, low, sums);
	uint32_t n = lists_coded(w) ? short_list(w, x, list) : 0;
	for (uint32_t i = 0; i < n; i++) {
		ask_centroids(w, high, step, sums[0], list[i].of, 1, near);
		if (near[0] > top) {
			top = near[0];
			best = list[i].of;
		}
	}
	for (uint32_t l = 0; l < w->count && !n; l += 64) {
		uint32_t some = w->count - l < 64 ? w->count - l : 64;
		ask_centroids(w, high, step, sums[0], l, some, near);
		for (uint32_t i = 0; i < some; i++) {
			if (near[i] > top) {
				top = near[i];
				best = l + i;
			}
		}
	}
	return best;
}

uint32_t lists_code(const struct lists_view *w, const float *r, uint64_t *code)
{
	const float *mean = lists_mean(w);
	float square[4] = {0}, sum[4] = {0}, g[4] = {0}; /* no one chain of additions */
	for (uint32_t i = 0; i < w->width; i += 4) {
		for (uint32_t k = 0; k < 4; k++) {
			square[k] += r[i + k] * r[i + k];
			sum[k] += fabsf(r[i + k]);
			g[k] += r[i + k] * mean[i + k];
		}
	}
	quantize_get()->to_code(r, w->width, code);
	float all = (sum[0] + sum[1]) + (sum[2] + sum[3]), squares = (square[0] + square[1]) + (square[2] + square[3]);
	return pack(all > 0 ? squares / all : 0, (g[0] + g[1]) + (g[2] + g[3]));
}

static void encode_bits(const struct lists_view *w, const float *x, struct lists_entry *e)
{
	const uint8_t *c = lists_centroids(w) + (size_t)e->list * w->width;
	float r[LIMIT_DIMENSIONS], step = lists_steps(w)[e->list];
	for (uint32_t i = 0; i < w->width; i++)
		r[i] = x[i] - step * (float)((int)c[i] - 128);
	e->factors = lists_code(w, r, (uint64_t *)(void *)e->code);
}

static void encode_bytes(const struct lists_view *w, const float *x, struct lists_entry *e)
{
	float most = quantize_most(x, w->width), step = most / 127;
	quantize_get()->to_bytes(x, w->width, most > 0 ? 127 / most : 0, e->code);
	memcpy(&e->factors, &step, sizeof(step));
}

void lists_encode(const struct lists_view *w, const float *x, struct lists_entry *e)
{
	e->list = nearest(w, x);
	lists_encode_there(w, x, e);
}

void lists_encode_there(const struct lists_view *w, const float *x, struct lists_entry *e)
{
	if (w->kind == LISTS_BITS)
		encode_bits(w, x, e);
	else
		encode_bytes(w, x, e);
}

/* ---- appending ---- */

#define UNITS_ROWS (1U << VECTORS_ORDER_ROWS)
#define LEAST_ENTRIES 8
#define FRESH_ENTRIES 128 /* of a block of the fresh list, which is given up as a whole */

static uint32_t units_for(const struct lists_view *w, uint32_t entries)
{
	uint32_t units = lists_units(w, entries);
	return units < UNITS_ROWS ? units : UNITS_ROWS;
}

/* A list's next block has about an eighth of what it holds already. */
static uint32_t wanted_units(const struct lists_view *w, uint32_t list, uint32_t entries)
{
	if (list == lists_fresh(w))
		return units_for(w, FRESH_ENTRIES);
	return units_for(w, entries / 8 > LEAST_ENTRIES ? entries / 8 : LEAST_ENTRIES);
}

static bool add_block(struct vectors *v, const struct lists_view *w, uint32_t list, uint32_t units, struct tail *t,
		      _Atomic uint32_t *head)
{
	uint64_t at;
	uint32_t least = lists_units(w, 1);
	while (!lists_take(v, units, &at)) {
		if (units == least)
			return false;
		units = units / 2 > least ? units / 2 : least;
	}
	struct block *b = (struct block *)(void *)(v->data + at);
	uint32_t unit = (uint32_t)(at / VECTORS_UNIT) + 1;
	b->list = list;
	b->units = units;
	b->capacity = lists_capacity(w, units);
	atomic_store_explicit(&b->count, 0, memory_order_relaxed);
	atomic_store_explicit(&b->next, 0, memory_order_relaxed);
	FAULT_POINT(lists_block_made);
	struct block *last = t->unit ? lists_block(w, t->unit) : NULL;
	atomic_store_explicit(last ? &last->next : head, unit, memory_order_release);
	FAULT_POINT(lists_block_linked);
	t->unit = unit;
	t->closed = false;
	t->blocks++;
	return true;
}

static void write_entry(const struct lists_view *w, struct block *b, uint32_t i, const struct lists_entry *e)
{
	uint32_t front = w->front_bytes, back = w->code_bytes - front;
	shm_copy_in(block_fronts(b) + (size_t)i * front, e->code, front);
	shm_copy_in(block_backs_at(w, b, b->capacity) + (size_t)i * back, e->code + front, back);
	FAULT_POINT(lists_entry_half);
	shm_copy_in(&block_factors(w, b)[i], &e->factors, sizeof(e->factors));
	atomic_store_explicit(&block_refs(w, b)[i], e->ref, memory_order_relaxed);
	atomic_store_explicit(&b->count, i + 1, memory_order_release);
	FAULT_POINT(lists_entry_published);
}

int lists_append(struct vectors *v, struct ivf *f, const struct lists_entry *e, uint32_t *at_r)
{
	const struct lists_view *w = &f->view;
	struct tail *t = &f->tails[e->list];
	struct block *b = t->unit ? lists_block(w, t->unit) : NULL;
	if (!b || b->count == b->capacity || t->closed) {
		if (!add_block(v, w, e->list, wanted_units(w, e->list, t->entries), t, lists_head(w, e->list)))
			return ENOSPC;
		b = lists_block(w, t->unit);
	}
	uint32_t i = atomic_load_explicit(&b->count, memory_order_relaxed);
	write_entry(w, b, i, e);
	t->entries++;
	f->entries++;
	*at_r = t->unit * LISTS_PER_UNIT + i;
	f->stale |= lists_stale(f, t);
	return 0;
}

/* The block that an entry's place lies in, and the entry's number there. */
static struct block *locate(const struct vectors *v, const struct lists_view *w, uint32_t at, uint32_t *index_r)
{
	const uint8_t *starts = v->w->lists->starts, *start = memrchr(starts, 1, at / LISTS_PER_UNIT);
	if (!start)
		return NULL;
	uint32_t unit = (uint32_t)(start - starts);
	*index_r = at - (unit + 1) * LISTS_PER_UNIT;
	return lists_block(w, unit + 1);
}

static void kill_entry(struct vectors *v, struct ivf *f, uint32_t at)
{
	uint32_t i;
	struct block *b = locate(v, &f->view, at, &i);
	AN(b && i < b->count);
	atomic_store_explicit(&block_refs(&f->view, b)[i], 0, memory_order_release);
	f->tails[b->list].dead++;
	f->dead++;
	f->stale |= lists_stale(f, &f->tails[b->list]);
}

static void point_entry(struct vectors *v, struct ivf *f, uint32_t at, uint32_t ref)
{
	uint32_t i;
	struct block *b = locate(v, &f->view, at, &i);
	AN(b && i < b->count);
	atomic_store_explicit(&block_refs(&f->view, b)[i], ref, memory_order_release);
}

/* ---- what happens to rows ---- */

uint32_t *lists_place(const struct vectors *v, uint32_t **table, uint32_t ref)
{
	const struct vectors_chunk *c = &v->chunks[vectors_ref_chunk(ref)];
	uint32_t **p = &table[vectors_ref_chunk(ref)];
	struct vectors_shape s;
	if (!*p) {
		vectors_own(v, c, &s);
		*p = util_zalloc(s.capacity * sizeof(**p));
	}
	return &(*p)[vectors_ref_row(ref)];
}

static uint32_t take_slot(uint32_t **table, uint32_t ref)
{
	uint32_t *p = table[vectors_ref_chunk(ref)], at = p ? p[vectors_ref_row(ref)] : 0;
	if (at)
		p[vectors_ref_row(ref)] = 0;
	return at;
}

int lists_row_new(struct vectors *v, const struct vectors_ns *n, uint32_t ref, const struct vectors_row *row)
{
	struct lists_writer *w = v->w->lists;
	struct ivf *f = w->of[n - v->ns];
	if (!f || f->view.l->dim != row->dim)
		return 0;
	struct lists_entry e;
	float x[LIMIT_DIMENSIONS];
	struct vectors_shape s;
	const struct vectors_chunk *c = &v->chunks[vectors_ref_chunk(ref)];
	const char *base = vectors_own(v, c, &s);
	vectors_form_rotated(v, base, &s, c->dim, vectors_ref_row(ref), x);
	e.list = lists_fresh(&f->view);
	if (lists_comes_fast(v, f))
		lists_encode_there(&f->view, x, &e);
	else
		lists_encode(&f->view, x, &e);
	e.ref = ref;
	return lists_append(v, f, &e, lists_place(v, w->entries, ref));
}

void lists_row_dead(struct vectors *v, uint32_t ns_row, uint32_t ref)
{
	struct lists_writer *w = v->w->lists;
	uint32_t at = take_slot(w->entries, ref), next = take_slot(w->next_entries, ref);
	if (at)
		kill_entry(v, w->of[ns_row], at);
	if (next)
		kill_entry(v, w->next, next);
}

void lists_row_moved(struct vectors *v, uint32_t ns_row, uint32_t from, uint32_t to)
{
	struct lists_writer *w = v->w->lists;
	uint32_t at = take_slot(w->entries, from), next = take_slot(w->next_entries, from);
	if (at) {
		point_entry(v, w->of[ns_row], at, to);
		*lists_place(v, w->entries, to) = at;
		FAULT_POINT(lists_pointed);
		lists_tell(v, ns_row, to);
	}
	if (next) {
		point_entry(v, w->next, next, to);
		*lists_place(v, w->next_entries, to) = next;
	}
}

void lists_chunk_gone(struct vectors *v, uint32_t chunk)
{
	struct lists_writer *w = v->w->lists;
	free(w->entries[chunk]);
	free(w->next_entries[chunk]);
	w->entries[chunk] = w->next_entries[chunk] = NULL;
}

/* Before what the row replaces dies: who finds that dead finds this. */
void lists_tell(struct vectors *v, uint32_t ns_row, uint32_t ref)
{
	struct ivf *f = v->w->lists->of[ns_row];
	if (!f)
		return;
	struct lists *l = f->view.l;
	uint64_t n = atomic_load_explicit(&l->moves, memory_order_relaxed);
	atomic_thread_fence(
		memory_order_release); /* who sees this one in the place of another sees `moves` at n, too */
	atomic_store_explicit(&l->moved[n % LISTS_MOVES], ref, memory_order_relaxed);
	atomic_store_explicit(&l->moves, n + 1, memory_order_release);
	FAULT_POINT(lists_told);
}

void lists_drop(struct vectors *v, uint32_t ns_row)
{
	struct lists_writer *w = v->w->lists;
	if (w->next && w->next->view.l->ns == v->ns[ns_row].ns)
		w->next->abandoned = true;
	if (!w->of[ns_row])
		return;
	atomic_store_explicit(&v->ns[ns_row].lists, 0, memory_order_release);
	FAULT_POINT(lists_dropped);
	for (uint32_t i = 0; i < v->super->used; i++) { /* the rows may stay */
		if (v->keys[i] != v->ns[ns_row].ns)
			continue;
		free(w->entries[i]);
		w->entries[i] = NULL;
	}
	lists_retire_all(v, &w->of[ns_row]);
}

/* ---- a list anew ---- */

/* Room for n entries and little more: one block, unless the list is very long or memory is in small pieces. */
static bool lay_out(struct vectors *v, const struct lists_view *w, uint32_t list, uint32_t n, struct tail *t,
		    _Atomic uint32_t *head)
{
	while (n) {
		if (!add_block(v, w, list, units_for(w, n), t, head))
			return false;
		uint32_t got = lists_block(w, t->unit)->capacity;
		n -= got < n ? got : n;
	}
	return true;
}

/* Live entries one behind the other, into the chain of `unit`, which has the room. */
static void copy_entries(uint32_t **entries, const struct lists_view *w, uint32_t head, uint32_t unit)
{
	struct block *out = lists_block(w, unit);
	uint32_t front = w->front_bytes, back = w->code_bytes - front;
	for (uint32_t u = head; u; u = lists_block(w, u)->next) {
		struct block *b = lists_block(w, u);
		for (uint32_t k = 0; k < b->count; k++) {
			struct lists_entry e = {.ref = block_refs(w, b)[k], .factors = block_factors(w, b)[k]};
			if (!e.ref)
				continue;
			if (out->count == out->capacity) {
				unit = out->next;
				out = lists_block(w, unit);
			}
			memcpy(e.code, block_fronts(b) + (size_t)k * front, front);
			memcpy(e.code + front, block_backs_at(w, b, b->capacity) + (size_t)k * back, back);
			*lists_place(w->v, entries, e.ref) = unit * LISTS_PER_UNIT + out->count;
			write_entry(w, out, out->count, &e);
		}
	}
}

bool lists_rewrite(struct vectors *v, struct ivf *f, uint32_t list)
{
	const struct lists_view *w = &f->view;
	struct tail *t = &f->tails[list], fresh = {.entries = t->entries - t->dead};
	uint32_t old = *lists_head(w, list);
	_Atomic uint32_t head = 0;
	if (!lay_out(v, w, list, fresh.entries, &fresh, &head)) {
		lists_give_up(v, f, head);
		return false;
	}
	copy_entries(f == v->w->lists->next ? v->w->lists->next_entries : v->w->lists->entries, w, old, head);
	FAULT_POINT(lists_rewritten);
	atomic_store_explicit(lists_head(w, list), head, memory_order_release);
	FAULT_POINT(lists_replaced);
	lists_give_up(v, f, old);
	f->entries -= t->dead;
	f->dead -= t->dead;
	*t = fresh;
	return true;
}
