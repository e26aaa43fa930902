/* The scan: every row of a namespace is compared, wait-free, beside a writer that may do anything, be killed included.
 *
 * Why no entry is missed that exists throughout a search (some version of it, always). An entry
 * only ever moves (by an update or by compaction) to the newest chunk of its namespace as of then, and its new
 * row is published before its old one is tombstoned. A round takes M = the serial of the newest chunk,
 * scans all chunks up to M, M itself last, then looks whether there is a newer one; if so another round does
 * the chunks above M. Suppose we find the row dead in chunk A, or A reassigned. Then its successor was
 * published before, in a chunk B that was the newest at that time:
 *  - B = A: the bitmap was read before `count`, so `count` covers the successor;
 *  - serial of B ≤ M, B ≠ A: then B = M, since M was the newest when the round began, and we scan M later;
 *  - serial of B > M: a later round scans it, as `newest` is at least B's when that round begins.
 * Serials only grow along such moves, so this ends at a version that was alive when we passed it. */
#include "vectors-private.h"

#define ROUNDS 64 /* chunks that may be opened during one search; far more than ever are */

struct scan {
	const struct vectors *v;
	const struct vectors_query *q;
	struct vectors_asked *a;
	struct vectors_top *top;
	size_t scanned;
};

/* A chunk as it stood under one generation. */
struct view {
	const struct vectors_chunk *c;
	const char *base;
	struct vectors_shape s;
	uint64_t gen;
	uint32_t count;
	uint64_t tombs[VECTORS_WORDS];
};

static bool moved(const struct view *w)
{
	atomic_thread_fence(memory_order_acquire);
	return atomic_load_explicit(&w->c->gen, memory_order_relaxed) != w->gen;
}

/* Serial of a chunk of the namespace under a stable generation; 0: it is none. */
static uint64_t serial_of(const struct vectors_chunk *c, uint64_t ns)
{
	struct view w = {.c = c, .gen = atomic_load_explicit(&c->gen, memory_order_acquire)};
	uint64_t serial = atomic_load_explicit(&c->serial, memory_order_relaxed);
	uint64_t have = atomic_load_explicit(&c->ns, memory_order_relaxed);
	return w.gen & 1 || have != ns || moved(&w) ? 0 : serial;
}

/* Everything that is used as an address or a size is read first and trusted only after the
 * generation was found unmoved; vectors_look() checks what it says before that because the bitmap lies there. */
static bool look(const struct scan *s, uint32_t chunk, uint64_t serial, struct view *w)
{
	const struct vectors *v = s->v;
	w->c = &v->chunks[chunk];
	w->gen = atomic_load_explicit(&w->c->gen, memory_order_acquire);
	uint32_t dim = atomic_load_explicit(&w->c->dim, memory_order_relaxed);
	if (w->gen & 1 || atomic_load_explicit(&w->c->serial, memory_order_relaxed) != serial ||
	    atomic_load_explicit(&w->c->ns, memory_order_relaxed) != s->q->ns || dim != s->q->dim ||
	    !(w->base = vectors_look(v, w->c, dim, &w->s)))
		return false;
	/* The bitmap before the count: see the top. */
	for (uint32_t i = 0; i < VECTORS_WORDS; i++)
		w->tombs[i] = atomic_load_explicit((const _Atomic uint64_t *)(const void *)w->base + i,
						   memory_order_acquire);
	w->count = atomic_load_explicit(&w->c->count, memory_order_acquire);
	return w->count <= w->s.capacity && !moved(w);
}

/* Which of the 64 rows from `first` on are to be compared. */
static uint64_t wanted(const struct scan *s, const struct view *w, uint32_t first)
{
	uint32_t left = w->count - first;
	uint64_t mask = (left >= 64 ? ~0ull : (1ull << left) - 1) & ~w->tombs[first / 64];
	for (uint64_t m = mask; m; m &= m - 1) {
		uint32_t bit = (uint32_t)__builtin_ctzll(m);
		int64_t expires = vectors_load_expiry(w->base, &w->s, first + bit);
		bool out = expires && expires <= s->q->now_us;
		if (!out && s->q->allow) {
			struct uuid id = vectors_load_id(w->base, &w->s, first + bit);
			out = !vectors_allow_has(s->q->allow, &id);
		}
		if (out)
			mask &= ~(1ull << bit);
	}
	return mask;
}

/* Scores the rows of `mask`, in runs of neighbours, into out[bit]. */
static void score(const struct scan *s, const struct view *w, uint32_t first, uint64_t mask, float out[64])
{
	while (mask) {
		uint32_t at = (uint32_t)__builtin_ctzll(mask);
		uint64_t rest = ~(mask >> at);
		uint32_t len = rest ? (uint32_t)__builtin_ctzll(rest) : 64;
		vectors_ask_rows(s->a, w->base, &w->s, first + at, len, out + at);
		mask = at + len < 64 ? mask >> (at + len) << (at + len) : 0;
	}
}

/* Hits are kept only after the generation was found unmoved behind everything that was read of
 * them: what is kept need never be taken back. False: the chunk moved. */
static bool scan_64(struct scan *s, const struct view *w, uint32_t first)
{
	float scores[64];
	struct vectors_hit hits[64];
	size_t n = 0;
	uint64_t mask = wanted(s, w, first);
	if (!mask)
		return true;
	spill_ahead_of(w->base, &w->s, first,
		       mask); /* the disk reads what is about to be asked for at once, not row by row */
	score(s, w, first, mask, scores);
	for (uint64_t m = mask; m; m &= m - 1) {
		uint32_t bit = (uint32_t)__builtin_ctzll(m), row = first + bit;
		if (scores[bit] >= s->top->floor)
			hits[n++] = (struct vectors_hit){vectors_load_id(w->base, &w->s, row),
							 vectors_load_version(w->base, &w->s, row), scores[bit]};
	}
	if (moved(w))
		return false;
	s->scanned += (size_t)__builtin_popcountll(mask);
	for (size_t i = 0; i < n; i++)
		vectors_top_push(s->top, &hits[i]);
	return true;
}

static void scan_chunk(struct scan *s, uint32_t chunk, uint64_t serial)
{
	struct view w;
	if (!look(s, chunk, serial, &w))
		return; /* reassigned: what lived there has moved on, see the top */
	for (uint32_t first = 0; first < w.count; first += 64) {
		if (!scan_64(s, &w, first))
			return;
	}
}

/* All chunks of the namespace with a serial in (after, upto], that with `upto` last. */
static void scan_round(struct scan *s, uint64_t after, uint64_t upto)
{
	const struct vectors *v = s->v;
	uint32_t used = atomic_load_explicit(&v->super->used, memory_order_acquire), last = UINT32_MAX;
	for (uint32_t i = 0; i < used; i++) {
		if (atomic_load_explicit(&v->keys[i], memory_order_acquire) != s->q->ns)
			continue;
		uint64_t serial = serial_of(&v->chunks[i], s->q->ns);
		if (serial == upto)
			last = i;
		else if (serial > after && serial < upto)
			scan_chunk(s, i, serial);
	}
	if (last != UINT32_MAX)
		scan_chunk(s, last, upto);
}

static void scan_namespace(struct scan *s, const struct vectors_ns *n)
{
	uint64_t after = 0;
	for (int round = 0; round < ROUNDS; round++) {
		uint64_t upto = atomic_load_explicit(&n->newest, memory_order_acquire);
		if (upto == after)
			return;
		scan_round(s, after, upto);
		after = upto;
	}
}

size_t vectors_scan(const struct vectors *v, struct vectors_asked *a, const struct vectors_ns *n,
		    struct vectors_top *top)
{
	struct scan s = {.v = v, .q = a->q, .a = a, .top = top};
	scan_namespace(&s, n);
	return s.scanned;
}
