/* The search of lists.
 *
 * Lists are taken nearest first, a few at a time; each time the entries that may be among the best are compared by
 * their rows, those with the highest bound first, until the next one's bound is below the worst of the best. What has
 * become the worst of the best decides which lists and entries are still worth looking at. */
#include <math.h>
#include <stdlib.h>

#include "clock.h"
#include "kernels-private.h"
#include "lists-private.h"

#define RUN 512U      /* entries whose estimates are made at once */
#define PENDING 2048U /* entries that wait to be compared, at most */
#define TOGETHER 8    /* rows that are fetched at once */
#define MOST_LISTS 32 /* that are read before their entries are compared; the first one alone */
#define FIRST_LISTS 4
#define DISK_US 20 /* a row that takes longer was read from the disk */

struct want { /* an entry that may be among the best */
	float bound, estimate, factor, ranked;
	uint32_t ref;
};
struct near {		     /* a list */
	float ranked, exact; /* <c,q>, by which it is ranked, and from which entries are estimated */
	uint32_t list;
};
struct hunt {
	const struct lists_view *w;
	struct lists_search *s;
	struct vectors_asked *a;
	float *best; /* a heap of the k best scores so far, the worst first */
	size_t nbest, k;
	float floor;	   /* cosine that a row needs to be worth anything */
	float least, most; /* norms */
	struct want *wants;
	size_t nwants;
	float *cosines; /* of lists, estimated */
	struct near *near;
	size_t nnear;
	/* the query for codes of bits */
	uint64_t *planes;
	float rest; /* |q − m| */
	struct quantize_line line;
	uint64_t reclaimed;
	bool lost, disk; /* disk: the kernel has given away rows of the file */
};

/* ---- heaps: the largest first ---- */

#define HEAP(type, name, key)                                                                                          \
	static void name##_down(type *h, size_t n, size_t i)                                                           \
	{                                                                                                              \
		type x = h[i];                                                                                         \
		for (size_t c; (c = 2 * i + 1) < n; i = c) {                                                           \
			c += c + 1 < n && h[c + 1].key > h[c].key;                                                     \
			if (!(h[c].key > x.key))                                                                       \
				break;                                                                                 \
			h[i] = h[c];                                                                                   \
		}                                                                                                      \
		h[i] = x;                                                                                              \
	}                                                                                                              \
	static void name##_make(type *h, size_t n)                                                                     \
	{                                                                                                              \
		for (size_t i = n / 2; i-- > 0;)                                                                       \
			name##_down(h, n, i);                                                                          \
	}                                                                                                              \
	static type name##_pop(type *h, size_t *n)                                                                     \
	{                                                                                                              \
		type x = h[0];                                                                                         \
		h[0] = h[--*n];                                                                                        \
		if (*n)                                                                                                \
			name##_down(h, *n, 0);                                                                         \
		return x;                                                                                              \
	}
HEAP(struct want, want, bound)
HEAP(struct near, near, ranked)

/* ---- the best so far ---- */

static void note_score(struct hunt *h, float score)
{
	size_t i;
	if (h->nbest < h->k) {
		for (i = h->nbest++; i && h->best[(i - 1) / 2] > score; i = (i - 1) / 2)
			h->best[i] = h->best[(i - 1) / 2];
		h->best[i] = score;
	} else if (score > h->best[0]) {
		i = 0;
		for (size_t c; (c = 2 * i + 1) < h->k; i = c) {
			c += c + 1 < h->k && h->best[c + 1] < h->best[c];
			if (!(h->best[c] < score))
				break;
			h->best[i] = h->best[c];
		}
		h->best[i] = score;
	} else {
		return;
	}
	if (h->nbest == h->k) {
		float floor = vectors_ask_floor(h->a, h->best[0], h->least, h->most);
		h->floor = floor > h->floor ? floor : h->floor;
	}
}

/* ---- rows ---- */

struct row_view {
	const struct vectors_chunk *c;
	const char *base;
	struct vectors_shape s;
	uint64_t gen;
	uint32_t row;
};

/* The row that a reference leads to, if it is alive and of the namespace and dimension asked for. Checks as in
 * vectors_scan.c. */
static bool look(const struct hunt *h, uint32_t ref, struct row_view *r)
{
	const struct vectors *v = h->w->v;
	const struct vectors_query *q = h->a->q;
	r->c = &v->chunks[vectors_ref_chunk(ref)];
	r->row = vectors_ref_row(ref);
	r->gen = atomic_load_explicit(&r->c->gen, memory_order_acquire);
	return !(r->gen & 1) && atomic_load_explicit(&r->c->ns, memory_order_relaxed) == q->ns &&
	       atomic_load_explicit(&r->c->dim, memory_order_relaxed) == q->dim &&
	       (r->base = vectors_look(v, r->c, q->dim, &r->s)) && r->row < r->s.capacity;
}

static void fetch(const struct hunt *h, const struct row_view *r)
{
	const char *p = r->base + r->s.rows + r->row * r->s.row_bytes;
	for (size_t i = 0; i < r->s.row_bytes; i += CACHE_LINE)
		__builtin_prefetch(p + i);
	if (r->s.form == VECTORS_BYTES)
		__builtin_prefetch(r->base + r->s.steps + 2 * (size_t)r->row);
	if (h->a->q->allow)
		__builtin_prefetch(r->base + r->s.ids + 16 * (size_t)r->row);
}

static bool alive(const struct hunt *h, const struct row_view *r)
{
	const _Atomic uint64_t *tombs = (const _Atomic uint64_t *)(const void *)r->base;
	uint64_t word = atomic_load_explicit(&tombs[r->row / 64], memory_order_acquire);
	if (word >> (r->row % 64) & 1 || r->row >= atomic_load_explicit(&r->c->count, memory_order_acquire))
		return false;
	int64_t expires = vectors_load_expiry(r->base, &r->s, r->row);
	return !(expires && expires <= h->a->q->now_us);
}

static void remember(struct hunt *h, const struct want *w, float cosine)
{
	struct lists_found *f = h->s->found;
	size_t at = h->nbest;
	if (!f)
		return;
	if (at == h->k) /* takes the place of the worst */
		for (size_t i = at = 0; i < h->k; i++)
			at = f[i].cosine < f[at].cosine ? i : at;
	if (h->nbest < h->k || f[at].cosine < cosine)
		f[at] = (struct lists_found){w->ref, cosine, w->ranked, w->estimate, w->factor};
}

/* The score first: what else there is to know of a row lies in other pages, and is never asked of most. */
static void compare(struct hunt *h, const struct want *w, const struct row_view *r)
{
	const struct vectors_allow *allow = h->a->q->allow;
	struct vectors_hit hit;
	if (allow) {
		hit.id = vectors_load_id(r->base, &r->s, r->row);
		if (!vectors_allow_has(allow, &hit.id))
			return;
	}
	vectors_ask_rows(h->a, r->base, &r->s, r->row, 1, &hit.score);
	h->s->trace.rows++;
	if (!(hit.score >= h->a->q->min_score) || (h->nbest == h->k && !(hit.score >= h->best[0])))
		return;
	hit.id = vectors_load_id(r->base, &r->s, r->row);
	hit.version = vectors_load_version(r->base, &r->s, r->row);
	bool good = alive(h, r);
	atomic_thread_fence(memory_order_acquire);
	if (!good || atomic_load_explicit(&r->c->gen, memory_order_relaxed) != r->gen)
		return;		   /* given back: the row had died, or moved, which `moved` tells */
	remember(h, w, hit.score); /* learning asks by cosine */
	note_score(h, hit.score);
	vectors_top_push(h->s->top, &hit);
}

/* Compares what waits, best bound first. */
static void compare_all(struct hunt *h)
{
	want_make(h->wants, h->nwants);
	while (h->nwants && h->wants[0].bound > h->floor) {
		struct want w[TOGETHER];
		struct row_view r[TOGETHER];
		size_t n = 0, spilled = 0;
		while (n < TOGETHER && h->nwants && h->wants[0].bound > h->floor) {
			w[n] = want_pop(h->wants, &h->nwants);
			if (!look(h, w[n].ref, &r[n]))
				continue;
			fetch(h, &r[n]);
			spilled += r[n++].s.spilled != 0;
		}
		int64_t began_us = spilled ? clock_mono_us() : 0;
		for (size_t i = 0; i < n && h->disk; i++)
			spill_ahead(r[i].base, &r[i].s, r[i].row);
		for (size_t i = 0; i < n; i++)
			compare(h, &w[i], &r[i]);
		h->disk |= spilled && clock_mono_us() - began_us > DISK_US * (int64_t)spilled;
	}
	h->nwants = 0;
}

/* ---- entries ---- */

static void want(struct hunt *h, const struct want *w)
{
	if (h->nwants == PENDING)
		compare_all(h);
	h->wants[h->nwants++] = *w;
}

KERNEL_RACY static void scan_bits(struct hunt *h, struct block *b, uint32_t capacity, uint32_t first, uint32_t n,
				  const struct near *near, const struct quantize_stream *stream)
{
	const struct lists_view *w = h->w;
	uint32_t dist[RUN], index[RUN + 16];
	float estimate[RUN + 16];
	const uint32_t *factors = block_factors_at(w, b, capacity) + first;
	size_t words = w->width / 64;
	struct quantize_line line = h->line;
	line.base = near->exact;
	line.slack = h->s->slack * h->rest;
	line.floor = h->floor;
	/* Whole groups of eight are quicker; beyond `count` is memory of the block, whose distances nobody looks at. */
	uint32_t whole = first + ((n + 7) & ~7U) <= capacity ? (n + 7) & ~7U : n;
	for (uint32_t i = 0; i < n; i += CACHE_LINE / sizeof(*factors))
		__builtin_prefetch(factors + i);
	h->a->qk->codes(h->planes, (const uint64_t *)(const void *)block_codes(b) + first * words, whole, words, dist,
			stream);
	size_t kept = h->a->qk->select(dist, factors, n, &line, index, estimate);
	for (size_t i = 0; i < kept; i++) {
		uint32_t ref = atomic_load_explicit(&block_refs_at(w, b, capacity)[first + index[i]],
						    memory_order_acquire);
		float factor = quantize_half(factors[index[i]]) * h->rest;
		if (ref)
			want(h, &(struct want){estimate[i] + h->s->slack * factor, estimate[i], factor, near->ranked,
					       ref});
	}
}

KERNEL_RACY static void scan_bytes(struct hunt *h, struct block *b, uint32_t capacity, uint32_t first, uint32_t n,
				   const struct near *near)
{
	const struct lists_view *w = h->w;
	int32_t dots[RUN];
	const float *steps = (const float *)(const void *)(block_factors_at(w, b, capacity) + first);
	float scale = 256 * h->a->step, slack = h->s->slack;
	h->a->qk->bytes(h->a->high, (const uint8_t *)block_codes(b) + (size_t)first * w->width, n, w->width, w->width,
			dots);
	for (uint32_t i = 0; i < n; i++) {
		float estimate = scale * steps[i] * (float)(dots[i] - 128 * h->a->sum_high);
		if (!(estimate + slack > h->floor))
			continue;
		uint32_t ref = atomic_load_explicit(&block_refs_at(w, b, capacity)[first + i], memory_order_acquire);
		if (ref)
			want(h, &(struct want){estimate + slack, estimate, 1, near->ranked, ref});
	}
}

/* Where the codes of a block begin, to be fetched; NULL: nowhere. */
static const void *codes_at(const struct hunt *h, uint32_t unit)
{
	if (!unit || (uint64_t)unit * VECTORS_UNIT > h->w->v->data_bytes)
		return NULL;
	return h->w->v->data + (uint64_t)(unit - 1) * VECTORS_UNIT + sizeof(struct block);
}

static const void *first_codes(const struct hunt *h, uint32_t list)
{
	return codes_at(h, atomic_load_explicit(lists_head(h->w, list), memory_order_relaxed));
}

/* `next` is read afterwards, if not NULL; `begun`: it was told so of this one. */
static void scan_list(struct hunt *h, const struct near *near, const void *next, bool begun)
{
	uint32_t unit = atomic_load_explicit(lists_head(h->w, near->list), memory_order_acquire), hops = 0;
	while (unit) {
		uint32_t capacity = 0;
		struct block *b = lists_block_read(h->w, unit, &capacity);
		uint32_t count = b ? atomic_load_explicit(&b->count, memory_order_acquire) : UINT32_MAX;
		/* Looked at here too: what was a chain may have become a circle. */
		if (!b || count > capacity || hops++ > VECTORS_CHUNKS ||
		    atomic_load_explicit(&h->w->v->super->reclaimed, memory_order_relaxed) != h->reclaimed) {
			h->lost = true; /* memory that is no longer ours */
			return;
		}
		uint32_t follows = atomic_load_explicit(&b->next, memory_order_acquire);
		const void *behind = follows ? codes_at(h, follows) : next;
		for (uint32_t i = 0; i < count; i += RUN) {
			uint32_t n = count - i < RUN ? count - i : RUN;
			struct quantize_stream s = {n < RUN || i + n == count
							    ? behind
							    : block_codes(b) + (size_t)(i + n) * h->w->code_bytes,
						    begun || i};
			if (h->w->kind == LISTS_BITS)
				scan_bits(h, b, capacity, i, n, near, &s);
			else
				scan_bytes(h, b, capacity, i, n, near);
			if (h->nwants > 4 * RUN || h->w->count == 1)
				compare_all(h); /* the floor rises early */
		}
		h->s->trace.codes += count;
		begun |= behind && count;
		unit = follows;
	}
}

/* ---- lists ---- */

/* <c,q> of n centroids from the first on. */
KERNEL_RACY static void ask_centroids(const struct hunt *h, uint32_t first, uint32_t n, float *out)
{
	const struct lists_view *w = h->w;
	const float *steps = lists_steps(w) + first;
	int32_t dots[64];
	float scale = 256 * h->a->step;
	h->a->qk->bytes(h->a->high, lists_centroids(w) + (size_t)first * w->width, n, w->width, w->width, dots);
	for (uint32_t i = 0; i < n; i++)
		out[i] = scale * steps[i] * (float)(dots[i] - 128 * h->a->sum_high);
}

/* By the centroids' codes: an eighth of the memory of their bytes; those that matter are asked afterwards. */
static void rank_by_codes(struct hunt *h)
{
	const struct lists_view *w = h->w;
	uint32_t dist[RUN], index[RUN + 16];
	float estimate[RUN + 16];
	for (uint32_t l = 0; l < w->count; l += RUN) {
		uint32_t n = w->count - l < RUN ? w->count - l : RUN;
		h->a->qk->codes(h->planes, lists_codes(w) + (size_t)l * (w->width / 64), n, w->width / 64, dist, NULL);
		size_t kept = h->a->qk->select(dist, lists_factors(w) + l, n, &h->line, index, estimate);
		for (size_t i = 0; i < kept; i++)
			h->cosines[l + index[i]] = estimate[i];
	}
}

static void rank_lists(struct hunt *h)
{
	uint32_t n = h->w->count;
	if (lists_coded(h->w))
		rank_by_codes(h);
	else
		for (uint32_t l = 0; l < n; l += 64)
			ask_centroids(h, l, n - l < 64 ? n - l : 64, h->cosines + l);
}

/* Those that can still matter, once it is known how good an entry must be. What was taken has -INFINITY. */
static void gather_lists(struct hunt *h)
{
	float floor = h->s->probes ? -INFINITY : h->floor - h->s->margin;
	h->nnear = 0;
	for (uint32_t l = 0; l < h->w->count; l++) {
		h->near[h->nnear] = (struct near){.ranked = h->cosines[l], .list = l};
		h->nnear += h->cosines[l] > floor;
	}
	near_make(h->near, h->nnear);
}

static void take_best(struct hunt *h, struct near *r)
{
	*r = (struct near){.ranked = -INFINITY};
	for (uint32_t l = 0; l < h->w->count; l++)
		if (h->cosines[l] > r->ranked)
			*r = (struct near){.ranked = h->cosines[l], .list = l};
	h->cosines[r->list] = -INFINITY;
}

/* The nearest list that is worth reading. */
static bool take_next(struct hunt *h, struct near *r)
{
	if (!h->nnear || (!h->s->probes && !(h->near[0].ranked > h->floor - h->s->margin)))
		return false;
	*r = near_pop(h->near, &h->nnear);
	return true;
}

static void read_lists(struct hunt *h, struct near *lists, size_t n)
{
	const void *starts[MOST_LISTS];
	for (size_t i = 0; i < n; i++) {
		const uint8_t *c = lists_centroids(h->w) + (size_t)lists[i].list * h->w->width;
		for (size_t at = 0; at < h->w->width; at += CACHE_LINE)
			__builtin_prefetch(c + at);
		starts[i] = first_codes(h, lists[i].list);
		if (starts[i]) /* the block's head */
			__builtin_prefetch((const char *)starts[i] - sizeof(struct block));
	}
	for (size_t i = 0; i < n && !h->lost; i++) {
		const void *next = i + 1 < n ? starts[i + 1] : NULL;
		ask_centroids(h, lists[i].list, 1, &lists[i].exact);
		scan_list(h, &lists[i], next, i && starts[i]);
	}
	h->s->trace.probed += (uint32_t)n;
	compare_all(h);
}

/* The first list alone: it tells how good what follows must be. */
static void hunt_lists(struct hunt *h)
{
	size_t most = FIRST_LISTS, left = h->s->probes ? h->s->probes - 1 : SIZE_MAX, n;
	struct near together[MOST_LISTS];
	take_best(h, together);
	read_lists(h, together, 1);
	gather_lists(h);
	do {
		for (n = 0; n < most && left && take_next(h, &together[n]); n++)
			left--;
		if (n)
			read_lists(h, together, n);
		most = most * 2 < MOST_LISTS ? most * 2 : MOST_LISTS;
	} while (n && !h->lost);
}

/* What moved while we looked: each as if it had been estimated to be good. False: more than is told. */
static bool hunt_moved(struct hunt *h, uint64_t from)
{
	const struct lists *l = h->w->l;
	for (;;) {
		uint64_t to = atomic_load_explicit(&l->moves, memory_order_acquire);
		if (to == from)
			return true;
		if (to - from >= LISTS_MOVES / 2) /* the other half may be written to while we read this one */
			return false;
		for (uint64_t i = from; i < to; i++) {
			uint32_t ref = atomic_load_explicit(&l->moved[i % LISTS_MOVES], memory_order_relaxed);
			want(h, &(struct want){.bound = INFINITY, .estimate = 1, .factor = 1, .ref = ref});
		}
		compare_all(h);
		atomic_thread_fence(memory_order_acquire);
		from = to;
	}
}

static float norm_of(const _Atomic uint32_t *bits)
{
	uint32_t b = atomic_load_explicit(bits, memory_order_relaxed);
	float f;
	memcpy(&f, &b, sizeof(f));
	return f;
}

bool lists_search(const struct lists_view *w, struct lists_search *s)
{
	const struct vectors_query *q = s->a->q;
	const struct vectors_ns *n = vectors_ns_find(w->v, q->ns);
	struct hunt h = {.w = w, .s = s, .a = s->a, .k = s->top->k, .floor = -INFINITY};
	if (!n)
		return false;
	h.reclaimed = atomic_load_explicit(&w->v->super->reclaimed, memory_order_acquire);
	h.least = norm_of(&n->norm_least);
	h.most = norm_of(&n->norm_most);
	if (q->min_score > -INFINITY)
		h.floor = vectors_ask_floor(s->a, q->min_score, h.least, h.most) - 1e-3F; /* it may be just that */
	size_t planes = QUANTIZE_PLANES * (size_t)w->width / 8;
	char *room = util_alloc(planes + sizeof(float) * h.k + sizeof(struct want) * PENDING +
				(sizeof(float) + sizeof(struct near)) * (w->count + 1));
	h.planes = (uint64_t *)(void *)room;
	h.wants = (struct want *)(void *)(room + planes);
	h.cosines = (float *)(h.wants + PENDING);
	h.near = (struct near *)(void *)(h.cosines + w->count);
	h.best = (float *)(h.near + w->count + 1);
	uint64_t moves = atomic_load_explicit(&w->l->moves, memory_order_acquire);
	s->trace.lists = w->count;
	if (w->kind == LISTS_BITS)
		h.rest = lists_ask(w, s->a->rotated, h.planes, &h.line);
	rank_lists(&h);
	hunt_lists(&h);
	bool whole = !h.lost && hunt_moved(&h, moves);
	free(room);
	return whole;
}

void lists_aim(const struct lists_view *w, float recall, float *margin_r, float *slack_r)
{
	float margin[2], slack[2];
	size_t i = 0;
	while (i + 2 < LISTS_AIMS && recall > lists_aims[i + 1])
		i++;
	for (size_t k = 0; k < 2; k++) {
		margin[k] = norm_of(&w->l->aims[i + k].margin);
		slack[k] = norm_of(&w->l->aims[i + k].slack);
	}
	float t = (recall - lists_aims[i]) / (lists_aims[i + 1] - lists_aims[i]);
	t = t < 0 ? 0 : t > 1 ? 1 : t;
	*margin_r = margin[0] + t * (margin[1] - margin[0]);
	*slack_r = slack[0] + t * (slack[1] - slack[0]);
}
