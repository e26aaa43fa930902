/* Copies of memories into L1.
 *
 * A copy says what the store had at some revision or later. In this order: the epoch of its place in L1; the pending
 * table; the feed of changes, up to what is published now; L1. A write that could make the copy wrong
 * - was in the pending table: the copy is left out;
 * - had left it, so the store had published it: the feed tells;
 * - had not entered it: it comes through L1 after the epoch was read, which then has moved, and the fill is refused; or
 *   it comes after the fill, and replaces it.
 * Another daemon's write is told by the feed that we read, or comes through L1 later, when sync has read of it. */
#include <stdlib.h>

#include "clock.h"
#include "warmer.h"

#define FULL_PERCENT 94

bool fill_is_full(const struct warmer *m)
{
	struct cache_stats s;
	cache_stats(m->cache, &s);
	return s.of[0].bytes >= s.capacity / 100 * FULL_PERCENT;
}

void fill_later(struct filling *f, const struct uuid *id)
{
	if (!f->keep_doubted)
		return;
	if (f->ndoubted == f->cdoubted) {
		f->cdoubted = f->cdoubted ? 2 * f->cdoubted : 1024;
		f->doubted = util_realloc(f->doubted, f->cdoubted * sizeof(*f->doubted));
	}
	f->doubted[f->ndoubted++] = *id;
}

/* Dropped ones have a row that says so; of a fleet's, sync may not have heard yet, and then hears of its drop later. */
static bool is_dropped(const struct warmer *m, uint64_t ns)
{
	const struct plant_namespace *row = plant_find(m->plant, ns);
	return row && !atomic_load_explicit(&row->exists, memory_order_acquire);
}

/* The copy was true just now, so its freshness begins anew; when it is gone does not change: that may be when the memory
 * expires. */
static struct cache_meta anew(const struct cache_meta *was, int64_t now_us)
{
	struct cache_meta m = *was;
	int64_t gone_us = was->filled_us + (int64_t)was->gone_ms * 1000;
	if (now_us <= was->filled_us)
		return m;
	m.filled_us = now_us;
	cache_meta_gone(&m, was->gone_ms ? gone_us : 0);
	return m;
}

static bool is_there(const struct warmer *m, const struct copy *c, int64_t now_us)
{
	struct cache_entry e;
	return cache_peek(m->cache, CACHE_MEMORY, &c->id, &e) && e.meta.version >= c->meta.version &&
	       cache_age_of(&e.meta, now_us) == CACHE_FRESH;
}

enum store_rc fill_copies(struct filling *f, struct copy *v, size_t n)
{
	struct warmer *m = f->m;
	struct pending_entry e;
	int64_t now_us = clock_real_us();
	for (size_t i = 0; i < n; i++)
		v[i].epoch = cache_epoch(m->cache, CACHE_MEMORY, &v[i].id);
	for (size_t i = 0; i < n; i++)
		v[i].skip = pending_find_id(m->pending, &v[i].id, &e);
	enum store_rc rc = history_follow(&f->history, m->ops, f->store);
	for (size_t i = 0; i < n && rc == STORE_OK; i++) {
		struct copy *c = &v[i];
		if (!c->skip && history_doubts(&f->history, &c->id, c->meta.ns)) {
			fill_later(f, &c->id);
			continue;
		}
		struct cache_meta meta = anew(&c->meta, now_us);
		if (c->skip || is_dropped(m, meta.ns) || cache_age_of(&c->meta, now_us) == CACHE_GONE) {
			f->skipped++;
		} else if (is_there(m, c, now_us)) {
			f->loaded += f->count_there;
		} else if (cache_fill(m->cache, CACHE_MEMORY, &c->id, c->epoch, &meta, c->body, c->len)) {
			f->loaded++;
			f->bytes += c->len;
		} else {
			f->skipped++;
		}
	}
	return rc;
}
