/* Memory of the index: a buddy allocator over units of 1 KiB, blocks up to 64 MiB. Its books are
 * private to the writer and rebuilt from the chunk table after a crash. Chunks of all sizes share
 * the limit this way, and what small ones leave free merges into room for large ones. */
#include <stdlib.h>
#include <sys/mman.h>

#include "vectors-private.h"

#define FRESH_ORDER 10U
#define LOOKED_AT 4096U		       /* blocks and units at once */
#define TRIMMED 64U		       /* calls to the system at once */
#define ROOT (1U << VECTORS_ORDER_MAX) /* units of the largest block */

static void push(struct vectors_pool_stack *s, uint32_t unit)
{
	if (s->n == s->cap) {
		s->cap = s->cap ? 2 * s->cap : 16;
		s->p = util_realloc(s->p, s->cap * sizeof(*s->p));
	}
	s->p[s->n++] = unit;
}

/* Without the hints that have become void, before there is more room for hints than for what they are for. */
static void sift(struct vectors_pool *p, uint32_t order)
{
	struct vectors_pool_stack *s = &p->free[order];
	size_t kept = 0;
	for (size_t i = 0; i < s->n; i++)
		if (p->state[s->p[i]] == order + 1)
			s->p[kept++] = s->p[i];
	s->n = kept;
	if (kept > s->cap / 2) {
		s->cap = s->cap ? 2 * s->cap : 16;
		s->p = util_realloc(s->p, s->cap * sizeof(*s->p));
	}
}

static void add_free(struct vectors_pool *p, uint32_t unit, uint32_t order)
{
	while (order < VECTORS_ORDER_MAX) {
		uint32_t buddy = unit ^ (1U << order);
		if (buddy >= p->units || p->state[buddy] != order + 1)
			break;
		p->state[buddy] = 0; /* its entry in the stack is void now */
		unit &= ~(1U << order);
		order++;
	}
	p->state[unit] = (uint8_t)(order + 1);
	if (p->free[order].n == p->free[order].cap)
		sift(p, order);
	push(&p->free[order], unit);
}

static bool pop_free(struct vectors_pool *p, uint32_t order, uint32_t *unit_r)
{
	struct vectors_pool_stack *s = &p->free[order];
	while (s->n) {
		uint32_t unit = s->p[--s->n];
		if (p->state[unit] == order + 1) {
			p->state[unit] = 0;
			*unit_r = unit;
			return true;
		}
	}
	return false;
}

void vectors_pool_init(struct vectors_pool *p, uint64_t bytes)
{
	uint64_t units = bytes / VECTORS_UNIT;
	AN(units <= UINT32_MAX);
	*p = (struct vectors_pool){.units = (uint32_t)units};
	p->state = calloc(units + 1, 1); /* calloc: large tables stay untouched until used */
	AN(p->state);
}

void vectors_pool_end(struct vectors_pool *p)
{
	for (size_t i = 0; i < ARRAY_LEN(p->free); i++)
		free(p->free[i].p);
	free(p->state);
	free(p->held);
}

/* Units that were never used come last: an index that shrinks and grows stays where it was. */
static bool take_fresh(struct vectors_pool *p, uint32_t least, uint32_t *unit_r, uint32_t *order_r)
{
	if (p->fresh >= p->units)
		return false;
	uint32_t order = least > FRESH_ORDER ? least
					     : FRESH_ORDER; /* no more: what is left of it takes a mark for each half */
	while (p->fresh & ((1U << order) - 1) || p->units - p->fresh < 1U << order)
		order--;
	*unit_r = p->fresh;
	*order_r = order;
	p->fresh += 1U << order;
	return true;
}

static bool take(struct vectors_pool *p, uint32_t order, uint64_t *offset_r)
{
	uint32_t unit = 0, got = order;
	while (got <= VECTORS_ORDER_MAX && !pop_free(p, got, &unit))
		got++;
	while (got > VECTORS_ORDER_MAX) {
		if (!take_fresh(p, order, &unit, &got))
			return false;
		if (got < order) { /* the odd end of the segment: keep it for smaller requests */
			add_free(p, unit, got);
			got = VECTORS_ORDER_MAX + 1;
		}
	}
	while (got > order) {
		got--;
		add_free(p, unit + (1U << got), got); /* its buddy is in our hands: no merge */
	}
	*offset_r = (uint64_t)unit * VECTORS_UNIT;
	return true;
}

/* Memory that an insert needs comes before a file that is being saved. */
bool vectors_pool_take(struct vectors_pool *p, uint32_t order, uint64_t *offset_r)
{
	if (take(p, order, offset_r))
		return true;
	if (!p->nheld)
		return false;
	(void)vectors_pool_let_go(p, SIZE_MAX);
	return take(p, order, offset_r);
}

void vectors_pool_hold(struct vectors_pool *p) { p->hold = true; }

bool vectors_pool_let_go(struct vectors_pool *p, size_t some)
{
	p->hold = false;
	for (; p->nheld && some; some--) {
		p->nheld--;
		add_free(p, (uint32_t)(p->held[p->nheld].offset / VECTORS_UNIT), p->held[p->nheld].order);
	}
	return !p->nheld;
}

void vectors_pool_give(struct vectors_pool *p, uint64_t offset, uint32_t order)
{
	if (p->hold) {
		if (p->nheld == p->cheld) {
			p->cheld = p->cheld ? 2 * p->cheld : 64;
			p->held = util_realloc(p->held, p->cheld * sizeof(*p->held));
		}
		p->held[p->nheld++] = (struct vectors_pool_held){offset, order};
		return;
	}
	add_free(p, (uint32_t)(offset / VECTORS_UNIT), order);
}

/* The largest block that begins here and does not reach beyond the end. */
static uint32_t largest(uint32_t unit, uint32_t end)
{
	uint32_t order = VECTORS_ORDER_MAX;
	while (unit & ((1U << order) - 1) || end - unit < 1U << order)
		order--;
	return order;
}

void vectors_pool_gap(struct vectors_pool *p, uint64_t from, uint64_t to)
{
	uint32_t unit = (uint32_t)(from / VECTORS_UNIT), end = (uint32_t)(to / VECTORS_UNIT);
	while (unit < end) {
		uint32_t order = largest(unit, end);
		add_free(p, unit, order);
		unit += 1U << order;
	}
}

bool vectors_pool_take_units(struct vectors_pool *p, uint32_t units, uint64_t *offset_r)
{
	uint32_t order = 0;
	while (order < VECTORS_ORDER_MAX && 1U << order < units)
		order++;
	if (1U << order < units || !vectors_pool_take(p, order, offset_r))
		return false;
	/* Not "given": nobody was ever told of it. */
	vectors_pool_gap(p, *offset_r + (uint64_t)units * VECTORS_UNIT, *offset_r + ((uint64_t)VECTORS_UNIT << order));
	return true;
}

void vectors_pool_give_units(struct vectors_pool *p, uint64_t offset, uint32_t units)
{
	uint32_t unit = (uint32_t)(offset / VECTORS_UNIT), end = unit + units;
	while (unit < end) {
		uint32_t order = largest(unit, end);
		vectors_pool_give(p, (uint64_t)unit * VECTORS_UNIT, order);
		unit += 1U << order;
	}
}

void vectors_pool_fresh(struct vectors_pool *p, uint64_t from) { p->fresh = (uint32_t)(from / VECTORS_UNIT); }

bool vectors_pool_trim(struct vectors_pool *p, char *data, uint32_t *unit_io)
{
	uint32_t unit = *unit_io;
	for (uint32_t calls = 0, steps = 0; unit < p->fresh && calls < TRIMMED && steps < LOOKED_AT; steps++) {
		uint32_t order = p->state[unit] ? p->state[unit] - 1U : 0;
		if (p->state[unit] && (VECTORS_UNIT << order) >= VECTORS_PAGE) { /* which begins at a page, then */
			(void)madvise(data + (uint64_t)unit * VECTORS_UNIT, (size_t)VECTORS_UNIT << order, MADV_REMOVE);
			calls++;
		}
		unit += 1U << order;
	}
	*unit_io = unit;
	return unit < p->fresh;
}
