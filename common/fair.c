#include "fair.h"

#include <stdlib.h>
#include <sys/random.h>

#define BUCKETS 1024

struct fair_flow {
	uint64_t key;
	uint64_t start; /* virtual time at which its first item begins; of a parked one: at which the next one would */
	size_t n, at;	/* items; place in the heap */
	struct fair_item *first, *last;
	struct fair_flow *chain;		     /* bucket */
	struct fair_flow *parked_next, *parked_prev; /* without items */
};
struct fair {
	struct fair_flow *bucket[BUCKETS], **heap; /* those with items, by start */
	size_t nheap, cap, n;
	uint64_t now; /* virtual time: start of what was taken last */
	struct fair_item *oldest, *newest;
	struct fair_flow *parked_first, *parked_last;
	size_t nparked;
	uint64_t seed; /* who chooses keys does not choose buckets */
};

struct fair *fair_new(void)
{
	struct fair *f = util_zalloc(sizeof(*f));
	AN(getrandom(&f->seed, sizeof(f->seed), 0) == sizeof(f->seed));
	return f;
}

/* ---- flows ---- */

static struct fair_flow **slot(const struct fair *f, uint64_t key)
{
	uint64_t hash = (key ^ f->seed) * 0x9e3779b97f4a7c15ull;
	hash = (hash ^ hash >> 32) * 0xbf58476d1ce4e5b9ull;
	struct fair_flow *const *at = &f->bucket[hash >> 54];
	while (*at && (*at)->key != key)
		at = (struct fair_flow *const *)&(*at)->chain;
	return (struct fair_flow **)(uintptr_t)at;
}
_Static_assert(BUCKETS == 1 << 10, "slot() takes the ten highest bits");

static void forget(struct fair *f, struct fair_flow *w)
{
	struct fair_flow **at = slot(f, w->key);
	*at = w->chain;
	free(w);
}

static void unpark(struct fair *f, struct fair_flow *w)
{
	*(w->parked_prev ? &w->parked_prev->parked_next : &f->parked_first) = w->parked_next;
	*(w->parked_next ? &w->parked_next->parked_prev : &f->parked_last) = w->parked_prev;
	w->parked_next = w->parked_prev = NULL;
	f->nparked--;
}

static void drop_parked(struct fair *f, struct fair_flow *w)
{
	unpark(f, w);
	forget(f, w);
}

/* It has nothing more. What it had ahead of its turn is remembered until the others have had as much. */
static void park(struct fair *f, struct fair_flow *w)
{
	while (f->parked_first && (f->parked_first->start <= f->now || f->nparked >= FAIR_PARKED)) {
		/* A lead that is forgotten is everybody's who comes: else who is remembered waits for ever behind ever new ones. */
		if (f->parked_first->start > f->now)
			f->now = f->parked_first->start;
		drop_parked(f, f->parked_first);
	}
	if (w->start <= f->now) {
		forget(f, w);
		return;
	}
	w->parked_prev = f->parked_last;
	*(f->parked_last ? &f->parked_last->parked_next : &f->parked_first) = w;
	f->parked_last = w;
	f->nparked++;
}

/* ---- the heap ---- */

static void place(struct fair *f, size_t at, struct fair_flow *w)
{
	f->heap[at] = w;
	w->at = at;
}

static void up(struct fair *f, struct fair_flow *w)
{
	size_t at = w->at;
	for (; at && f->heap[(at - 1) / 2]->start > w->start; at = (at - 1) / 2)
		place(f, at, f->heap[(at - 1) / 2]);
	place(f, at, w);
}

static void down(struct fair *f, struct fair_flow *w)
{
	size_t at = w->at;
	for (;;) {
		size_t kid = 2 * at + 1;
		if (kid >= f->nheap)
			break;
		if (kid + 1 < f->nheap && f->heap[kid + 1]->start < f->heap[kid]->start)
			kid++;
		if (f->heap[kid]->start >= w->start)
			break;
		place(f, at, f->heap[kid]);
		at = kid;
	}
	place(f, at, w);
}

static void heap_add(struct fair *f, struct fair_flow *w)
{
	if (f->nheap == f->cap) {
		f->cap = f->cap ? 2 * f->cap : 64;
		f->heap = util_realloc(f->heap, f->cap * sizeof(struct fair_flow *));
	}
	place(f, f->nheap++, w);
	up(f, w);
}

static void heap_remove(struct fair *f, struct fair_flow *w)
{
	struct fair_flow *last = f->heap[--f->nheap];
	if (last == w)
		return;
	place(f, w->at, last);
	up(f, last);
	down(f, last);
}

/* ---- items ---- */

static struct fair_flow *flow_for(struct fair *f, uint64_t key)
{
	struct fair_flow **at = slot(f, key), *w = *at;
	if (!w) {
		w = *at = util_zalloc(sizeof(*w));
		w->key = key;
	} else if (!w->n) {
		unpark(f, w);
	}
	if (!w->n) {
		w->start = w->start > f->now ? w->start : f->now;
		heap_add(f, w);
	}
	return w;
}

void fair_push(struct fair *f, struct fair_item *i, uint64_t key, uint64_t cost, int64_t now_us)
{
	struct fair_flow *w = flow_for(f, key);
	AN(cost);
	*i = (struct fair_item){
		.prev = w->last, .older = f->newest, .flow = w, .key = key, .cost = cost, .since_us = now_us};
	*(w->last ? &w->last->next : &w->first) = i;
	w->last = i;
	*(f->newest ? &f->newest->newer : &f->oldest) = i;
	f->newest = i;
	w->n++;
	f->n++;
}

static void unlink_item(struct fair *f, struct fair_item *i)
{
	struct fair_flow *w = i->flow;
	*(i->prev ? &i->prev->next : &w->first) = i->next;
	*(i->next ? &i->next->prev : &w->last) = i->prev;
	*(i->older ? &i->older->newer : &f->oldest) = i->newer;
	*(i->newer ? &i->newer->older : &f->newest) = i->older;
	i->next = i->prev = i->newer = i->older = NULL;
	i->flow = NULL;
	w->n--;
	f->n--;
}

/* Nothing waits: whoever comes next finds all alike. */
static void rest(struct fair *f)
{
	while (!f->n && f->parked_first)
		drop_parked(f, f->parked_first);
}

void fair_remove(struct fair *f, struct fair_item *i)
{
	struct fair_flow *w = i->flow;
	unlink_item(f, i);
	if (!w->n) {
		heap_remove(f, w);
		park(f, w);
	}
	rest(f);
}

struct fair_item *fair_pop(struct fair *f)
{
	if (!f->nheap)
		return NULL;
	struct fair_flow *w = f->heap[0];
	struct fair_item *i = w->first;
	f->now = f->now > w->start ? f->now : w->start;
	w->start += i->cost;
	unlink_item(f, i);
	if (w->n) {
		down(f, w);
	} else {
		heap_remove(f, w);
		park(f, w);
	}
	rest(f);
	return i;
}

void fair_settle(struct fair *f, uint64_t key, int64_t delta)
{
	struct fair_flow *w = *slot(f, key);
	if (!w || !delta)
		return;
	if (delta > 0)
		w->start += (uint64_t)delta;
	else /* never before what is served now: it would be credit that was not earned */
		w->start = w->start > f->now + (uint64_t)-delta ? w->start - (uint64_t)-delta : f->now;
	if (w->n) {
		up(f, w);
		down(f, w);
	}
}

/* ---- looking ---- */

size_t fair_items(const struct fair *f) { return f->n; }
size_t fair_flows(const struct fair *f) { return f->nheap; }

size_t fair_items_of(const struct fair *f, uint64_t key)
{
	const struct fair_flow *w = *slot(f, key);
	return w ? w->n : 0;
}

struct fair_item *fair_first(const struct fair *f) { return f->nheap ? f->heap[0]->first : NULL; }
struct fair_item *fair_oldest(const struct fair *f) { return f->oldest; }
struct fair_item *fair_newer(const struct fair_item *i) { return i->newer; }
struct fair_item *fair_before(const struct fair_item *i) { return i->prev; }

struct fair_item *fair_fattest(const struct fair *f, size_t *items_r)
{
	const struct fair_flow *best = NULL;
	for (size_t i = 0; i < f->nheap; i++)
		if (!best || f->heap[i]->n > best->n)
			best = f->heap[i];
	*items_r = best ? best->n : 0;
	return best ? best->last : NULL;
}

void fair_free(struct fair **fp)
{
	struct fair *f = *fp;
	if (!f)
		return;
	for (size_t b = 0; b < BUCKETS; b++)
		for (struct fair_flow *w = f->bucket[b], *next; w; w = next) {
			next = w->chain;
			free(w);
		}
	free(f->heap);
	free(f);
	*fp = NULL;
}
