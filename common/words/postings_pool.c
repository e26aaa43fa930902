/* Memory of the word index: extents of 256-byte units, found by size class, joined with free neighbours. The books are
 * private to the writer and rebuilt from the manifests after a crash. */
#include <stdlib.h>

#include "postings-private.h"

void postings_push(struct postings_stack *s, uint32_t x)
{
	if (s->n == s->cap) {
		s->cap = s->cap ? 2 * s->cap : 16;
		s->v = util_realloc(s->v, s->cap * sizeof(*s->v));
	}
	s->v[s->n++] = x;
}

/* Four classes to each power of two. */
static uint32_t bin_of(uint32_t len)
{
	uint32_t log = 31 - (uint32_t)__builtin_clz(len);
	return log < 2 ? len : 4 * log + (len >> (log - 2) & 3);
}

#define BEGINS (1u << 31) /* in a tag: here is the first unit */

static uint32_t length_at(const struct postings_pool *p, uint32_t at) { return p->tag[at] & ~BEGINS; }

static uint32_t units(uint64_t bytes) { return (uint32_t)((bytes + POSTINGS_UNIT - 1) / POSTINGS_UNIT); }

void postings_pool_init(struct postings_pool *p, uint64_t bytes)
{
	*p = (struct postings_pool){.units = (uint32_t)(bytes / POSTINGS_UNIT)};
	p->tag = calloc((size_t)p->units + 1, sizeof(*p->tag)); /* calloc: stays untouched until used */
	AN(p->tag);
}

void postings_pool_end(struct postings_pool *p)
{
	for (size_t i = 0; i < POSTINGS_BINS; i++)
		free(p->bins[i].v);
	free(p->tag);
}

static void put_free(struct postings_pool *p, uint32_t at, uint32_t len)
{
	p->tag[at + len - 1] = len;
	p->tag[at] = len | BEGINS;
	postings_push(&p->bins[bin_of(len)], at);
}

/* A free extent of this class begins there? */
static bool holds(const struct postings_pool *p, uint32_t at, uint32_t bin)
{
	return p->tag[at] & BEGINS && bin_of(length_at(p, at)) == bin;
}

static void take_out(struct postings_pool *p, uint32_t at)
{
	uint32_t len = length_at(p, at);
	p->tag[at + len - 1] = 0;
	p->tag[at] = 0;
}

/* The last entry of the class that is long enough; entries that say nothing any more are dropped on the way. */
static bool find_in(struct postings_pool *p, uint32_t bin, uint32_t want, uint32_t *at_r)
{
	struct postings_stack *s = &p->bins[bin];
	for (size_t i = s->n; i-- > 0;) {
		uint32_t at = s->v[i];
		bool good = holds(p, at, bin);
		if (good && length_at(p, at) < want)
			continue;
		s->v[i] = s->v[--s->n];
		if (!good)
			continue;
		*at_r = at;
		return true;
	}
	return false;
}

bool postings_pool_take(struct postings_pool *p, uint64_t bytes, uint64_t *offset_r)
{
	uint32_t want = units(bytes), at;
	if (bytes > (uint64_t)p->units * POSTINGS_UNIT || !want)
		return false;
	for (uint32_t bin = bin_of(want); bin < POSTINGS_BINS; bin++) {
		if (!find_in(p, bin, want, &at))
			continue;
		uint32_t len = length_at(p, at);
		take_out(p, at);
		p->free -= want;
		if (len > want)
			put_free(p, at + want, len - want);
		*offset_r = (uint64_t)at * POSTINGS_UNIT;
		return true;
	}
	if (p->units - p->fresh < want)
		return false;
	*offset_r = (uint64_t)p->fresh * POSTINGS_UNIT;
	p->fresh += want;
	return true;
}

/* Tags are 0 but for the ends of free extents: the unit before ours is the last one of one, or in use. */
void postings_pool_give(struct postings_pool *p, uint64_t offset, uint64_t bytes)
{
	uint32_t at = (uint32_t)(offset / POSTINGS_UNIT), len = units(bytes);
	p->free += len;
	uint32_t before = at ? length_at(p, at - 1) : 0, behind = at + len < p->fresh ? length_at(p, at + len) : 0;
	if (behind) {
		take_out(p, at + len);
		len += behind;
	}
	if (before) {
		take_out(p, at - before);
		at -= before;
		len += before;
	}
	put_free(p, at, len);
}

void postings_pool_fresh(struct postings_pool *p, uint64_t from) { p->fresh = units(from); }

uint64_t postings_pool_left(const struct postings_pool *p)
{
	return ((uint64_t)p->units - p->fresh + p->free) * POSTINGS_UNIT;
}
