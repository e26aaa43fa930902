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

#define RUN 512U	    /* entries whose estimates are made at once */
#define PENDING 2048U	    /* entries that wait to be compared, at most */
#define LATE LISTS_TOGETHER /* entries whose whole codes are on their way */
#define TOGETHER 4	    /* rows that are fetched at once */
#define MOST_LISTS 32	    /* that are read before their entries are compared; the first one alone */
#define FIRST_LISTS 4
#define DISK_US 20 /* a row that takes longer was read from the disk */

struct want { /* an entry that may be among the best */
	float bound, estimate, factor, ranked, front;
	uint32_t ref;
};
struct late { /* an entry that its code's front lets through */
	const _Atomic uint32_t *ref;
	float base, factor, ranked, front;
};
struct best {
	float score;
	uint32_t ref;
	uint64_t gen; /* of the chunk: another row may stand there in the next one */
};
struct hunt {
	const struct lists_view *w;
	struct lists_search *s;
	struct vectors_asked *a;
	struct best *best; /* a heap of the k best so far, the worst first */
	size_t nbest, k;
	float floor;	   /* cosine that a row needs to be worth anything */
	float least, most; /* norms */
	struct want *wants;
	size_t nwants;
	struct lists_ranking rank;
	uint32_t taken; /* of the lists that it gathered */
	uint32_t fresh; /* the first block of the fresh list, as it was before any other list was read */
	/* the query for codes of bits */
	uint64_t *planes;
	float rest; /* |q − m| */
	struct quantize_line line;
	const uint64_t *fronts[LATE], *backs[LATE];
	struct late late[LATE];
	size_t nlate;
	uint64_t reclaimed;
	bool lost, disk; /* disk: the kernel has given away rows of the file */
};

/* ---- what waits: a heap, the highest bound first ---- */

static void want_down(struct want *h, size_t n, size_t i)
{
	struct want x = h[i];
	for (size_t c; (c = 2 * i + 1) < n; i = c) {
		c += c + 1 < n && h[c + 1].bound > h[c].bound;
		if (!(h[c].bound > x.bound))
			break;
		h[i] = h[c];
	}
	h[i] = x;
}

static void want_make(struct want *h, size_t n)
{
	for (size_t i = n / 2; i-- > 0;)
		want_down(h, n, i);
}

static struct want want_pop(struct want *h, size_t *n)
{
	struct want x = h[0];
	h[0] = h[--*n];
	if (*n)
		want_down(h, *n, 0);
	return x;
}

/* ---- the best so far ---- */

static void note_score(struct hunt *h, struct best x)
{
	size_t i;
	if (h->nbest < h->k) {
		for (i = h->nbest++; i && h->best[(i - 1) / 2].score > x.score; i = (i - 1) / 2)
			h->best[i] = h->best[(i - 1) / 2];
		h->best[i] = x;
	} else if (x.score > h->best[0].score) {
		i = 0;
		for (size_t c; (c = 2 * i + 1) < h->k; i = c) {
			c += c + 1 < h->k && h->best[c + 1].score < h->best[c].score;
			if (!(h->best[c].score < x.score))
				break;
			h->best[i] = h->best[c];
		}
		h->best[i] = x;
	} else {
		return;
	}
	if (h->nbest == h->k) {
		float floor = vectors_ask_floor(h->a, h->best[0].score, h->least, h->most);
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
		f[at] = (struct lists_found){w->ref, cosine, w->ranked, w->estimate, w->factor, w->front};
}

/* While fresh rows are put into their lists, one may be met in both. */
static bool met(const struct hunt *h, uint32_t ref, uint64_t gen)
{
	bool is = false;
	for (size_t i = 0; h->fresh && i < h->nbest; i++)
		is |= h->best[i].ref == ref && h->best[i].gen == gen;
	return is;
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
	if (!(hit.score >= h->a->q->min_score) || (h->nbest == h->k && !(hit.score >= h->best[0].score)) ||
	    met(h, w->ref, r->gen))
		return;
	hit.id = vectors_load_id(r->base, &r->s, r->row);
	hit.version = vectors_load_version(r->base, &r->s, r->row);
	bool good = alive(h, r);
	atomic_thread_fence(memory_order_acquire);
	if (!good || atomic_load_explicit(&r->c->gen, memory_order_relaxed) != r->gen)
		return;		   /* given back: the row had died, or moved, which `moved` tells */
	remember(h, w, hit.score); /* learning asks by cosine */
	note_score(h, (struct best){hit.score, w->ref, r->gen});
	vectors_top_push(h->s->top, &hit);
}

struct group { /* entries that are compared one after the other */
	struct want w[TOGETHER];
	struct row_view r[TOGETHER];
	size_t n, spilled;
};

static void take_group(struct hunt *h, struct group *g)
{
	g->n = g->spilled = 0;
	while (g->n < TOGETHER && h->nwants && h->wants[0].bound > h->floor) {
		g->w[g->n] = want_pop(h->wants, &h->nwants);
		struct row_view *r = &g->r[g->n];
		if (!look(h, g->w[g->n].ref, r))
			continue;
		fetch(h, r);
		g->spilled += r->s.spilled != 0;
		g->n++;
		if (h->disk)
			spill_ahead(r->base, &r->s, r->row);
	}
}

static void compare_group(struct hunt *h, const struct group *g)
{
	int64_t began_us = g->spilled ? clock_mono_us() : 0;
	for (size_t i = 0; i < g->n; i++)
		compare(h, &g->w[i], &g->r[i]);
	h->disk |= g->spilled && clock_mono_us() - began_us > DISK_US * (int64_t)g->spilled;
}

/* Compares what waits, best bound first; the rows of a group come while those of the one before are compared. */
static void compare_wants(struct hunt *h)
{
	struct group both[2];
	want_make(h->wants, h->nwants);
	take_group(h, &both[0]);
	for (size_t k = 0; both[k].n; k ^= 1) {
		take_group(h, &both[k ^ 1]);
		compare_group(h, &both[k]);
	}
	h->nwants = 0;
}

/* ---- entries ---- */

static void want(struct hunt *h, const struct want *w)
{
	if (h->nwants == PENDING)
		compare_wants(h);
	h->wants[h->nwants++] = *w;
}

/* The estimates of entries whose fronts were good enough, from their whole codes. */
KERNEL_RACY static void estimate_late(struct hunt *h)
{
	uint32_t dist[LATE], n = (uint32_t)h->nlate;
	lists_whole(h->w, h->planes, h->fronts, h->backs, n, dist);
	h->nlate = 0;
	for (uint32_t i = 0; i < n; i++) {
		const struct late *e = &h->late[i];
		float estimate = e->base + e->factor * (h->line.add + h->line.mul * (float)dist[i]);
		float factor = e->factor * h->rest, bound = estimate + h->s->slack * factor;
		uint32_t ref = bound > h->floor ? atomic_load_explicit(e->ref, memory_order_acquire) : 0;
		if (ref)
			want(h, &(struct want){bound, estimate, factor, e->ranked, e->front, ref});
	}
}

static void compare_all(struct hunt *h)
{
	if (h->nlate)
		estimate_late(h);
	compare_wants(h);
}

/* A run of entries of a block. */
struct run {
	struct block *b;
	uint32_t capacity, first, n;
	const struct lists_near *near;
	const struct quantize_stream *stream;
};

/* An entry whose front is good enough: what else there is of it is fetched. */
KERNEL_RACY static void note_late(struct hunt *h, const struct run *r, uint32_t at, uint32_t both, float front)
{
	const struct lists_view *w = h->w;
	size_t back = w->code_bytes - w->front_bytes;
	const char *p = block_backs_at(w, r->b, r->capacity) + at * back;
	const _Atomic uint32_t *ref = &block_refs_at(w, r->b, r->capacity)[at];
	for (size_t k = 0; k < back; k += CACHE_LINE)
		__builtin_prefetch(p + k);
	__builtin_prefetch((const void *)(uintptr_t)ref);
	h->fronts[h->nlate] = (const uint64_t *)(const void *)(block_fronts(r->b) + (size_t)at * w->front_bytes);
	h->backs[h->nlate] = (const uint64_t *)(const void *)p;
	h->late[h->nlate++] = (struct late){ref, r->near->exact + quantize_half(both >> 16), quantize_half(both),
					    r->near->ranked, front};
	if (h->nlate == LATE)
		estimate_late(h);
}

KERNEL_RACY static void scan_bits(struct hunt *h, const struct run *r)
{
	const struct lists_view *w = h->w;
	uint32_t dist[RUN], index[RUN + 16], n = r->n, bytes = w->front_bytes;
	float estimate[RUN + 16];
	const uint32_t *factors = block_factors_at(w, r->b, r->capacity) + r->first;
	struct quantize_line line = lists_front_line(w, &h->line);
	line.base = r->near->exact;
	line.slack = h->s->front * h->rest;
	line.floor = h->floor;
	/* Whole groups of eight are quicker; beyond `count` is memory of the block, whose distances nobody looks at. */
	uint32_t whole = r->first + ((n + 7) & ~7U) <= r->capacity ? (n + 7) & ~7U : n;
	for (uint32_t i = 0; i < n; i += CACHE_LINE / sizeof(*factors))
		__builtin_prefetch(factors + i);
	h->a->qk->upper(h->planes, (const uint64_t *)(const void *)(block_fronts(r->b) + (size_t)r->first * bytes),
			whole, bytes / 8, dist, r->stream);
	size_t kept = h->a->qk->select(dist, factors, n, &line, index, estimate);
	for (size_t i = 0; i < kept; i++)
		note_late(h, r, r->first + index[i], factors[index[i]], estimate[i]);
}

KERNEL_RACY static void scan_bytes(struct hunt *h, const struct run *r)
{
	const struct lists_view *w = h->w;
	int32_t dots[RUN];
	const float *steps = (const float *)(const void *)(block_factors_at(w, r->b, r->capacity) + r->first);
	float scale = 256 * h->a->step, slack = h->s->slack;
	h->a->qk->bytes(h->a->high, (const uint8_t *)block_fronts(r->b) + (size_t)r->first * w->width, r->n, w->width,
			w->width, dots);
	for (uint32_t i = 0; i < r->n; i++) {
		float estimate = scale * steps[i] * (float)(dots[i] - 128 * h->a->sum_high);
		if (!(estimate + slack > h->floor))
			continue;
		uint32_t ref = atomic_load_explicit(&block_refs_at(w, r->b, r->capacity)[r->first + i],
						    memory_order_acquire);
		if (ref)
			want(h, &(struct want){estimate + slack, estimate, 1, r->near->ranked, estimate, ref});
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

/* From that block on. `next` is read afterwards, if not NULL; `begun`: it was told so of this one. */
static void scan_list(struct hunt *h, const struct lists_near *near, uint32_t unit, const void *next, bool begun)
{
	uint32_t hops = 0;
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
							    : block_fronts(b) + (size_t)(i + n) * h->w->front_bytes,
						    begun || i};
			struct run r = {b, capacity, i, n, near, &s};
			if (h->w->kind == LISTS_BITS)
				scan_bits(h, &r);
			else
				scan_bytes(h, &r);
			if (h->nwants + h->nlate > 4 * RUN || h->w->count == 1)
				compare_all(h); /* the floor rises early */
		}
		h->s->trace.codes += count;
		begun |= behind && count;
		unit = follows;
	}
}

/* ---- lists ---- */

/* The nearest list that is worth reading. */
static bool take_next(struct hunt *h, struct lists_near *r)
{
	if (h->taken == h->rank.n || (!h->s->probes && !(h->rank.near[h->taken].ranked > h->floor - h->s->margin)))
		return false;
	*r = h->rank.near[h->taken++];
	return true;
}

static void read_lists(struct hunt *h, struct lists_near *lists, size_t n)
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
		lists_ask_centroids(h->w, h->a, lists[i].list, 1, &lists[i].exact);
		scan_list(h, &lists[i], atomic_load_explicit(lists_head(h->w, lists[i].list), memory_order_acquire),
			  next, i && starts[i]);
	}
	h->s->trace.probed += (uint32_t)n;
	compare_all(h);
}

/* Whatever the query is, and however it is ranked: behind the first of the others, which tells what is good. */
static void read_fresh(struct hunt *h)
{
	struct lists_near near = {.ranked = INFINITY, .list = lists_fresh(h->w)};
	if (!h->fresh || h->lost)
		return;
	lists_ask_centroids(h->w, h->a, near.list, 1, &near.exact);
	scan_list(h, &near, h->fresh, NULL, false);
	compare_all(h);
}

/* The first list alone: it tells how good what follows must be. */
static void hunt_lists(struct hunt *h)
{
	size_t most = FIRST_LISTS, left = h->s->probes ? h->s->probes - 1 : SIZE_MAX, n;
	struct lists_near together[MOST_LISTS];
	together[0] = lists_nearest(&h->rank);
	read_lists(h, together, 1);
	read_fresh(h);
	lists_gather(&h->rank, together[0].list, h->s->probes ? -INFINITY : h->floor - h->s->margin);
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
			want(h, &(struct want){.bound = INFINITY, .estimate = 1, .factor = 1, .front = 1, .ref = ref});
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

static float between(const _Atomic uint32_t *a, const _Atomic uint32_t *b, float t)
{
	return norm_of(a) + t * (norm_of(b) - norm_of(a));
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
	char *room = util_alloc(planes + sizeof(struct best) * h.k + sizeof(struct want) * PENDING +
				(sizeof(float) + 2 * sizeof(struct lists_near)) * (w->count + 1));
	h.planes = (uint64_t *)(void *)room;
	h.best = (struct best *)(void *)(room + planes);
	h.wants = (struct want *)(void *)(h.best + h.k);
	h.rank = (struct lists_ranking){.w = w, .a = s->a, .planes = h.planes};
	h.rank.near = (struct lists_near *)(void *)(h.wants + PENDING);
	h.rank.cosines = (float *)(h.rank.near + 2 * (w->count + 1));
	h.rank.dist = (uint32_t *)(void *)h.rank.cosines;
	/* What takes another's place is told from here on; where it went before is in what is read from here on. */
	uint64_t moves = atomic_load_explicit(&w->l->moves, memory_order_acquire);
	h.fresh = atomic_load_explicit(lists_head(w, lists_fresh(w)), memory_order_acquire);
	s->trace.lists = w->count;
	if (w->kind == LISTS_BITS)
		h.rest = lists_ask(w, s->a->rotated, h.planes, &h.line);
	h.rank.line = h.line;
	h.rank.rest = h.rest;
	lists_rank(&h.rank);
	hunt_lists(&h);
	bool whole = !h.lost && hunt_moved(&h, moves);
	free(room);
	return whole;
}

void lists_aim(const struct lists_view *w, float recall, struct lists_search *s)
{
	size_t i = 0;
	while (i + 2 < LISTS_AIMS && recall > lists_aims[i + 1])
		i++;
	const struct lists_aim *a = &w->l->aims[i], *b = a + 1;
	float t = (recall - lists_aims[i]) / (lists_aims[i + 1] - lists_aims[i]);
	t = t < 0 ? 0 : t > 1 ? 1 : t;
	s->margin = between(&a->margin, &b->margin, t);
	s->slack = between(&a->slack, &b->slack, t);
	s->front = between(&a->front, &b->front, t);
}
