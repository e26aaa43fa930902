#include "tiers.h"

#include <stdlib.h>

#include "cache/l2.h"
#include "clock.h"
#include "trace/trace.h"

#define BODY_BYTES (1u << 20)
#define FEED_SILENT_US 700000 /* and what may lie between: together less than a second */

const char *tier_name(enum tier t)
{
	static const char *const names[] = {"l1", "journal", "l2", "store"};
	return names[t];
}

void tier_items_free(struct tier_item *v, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		free(v[i].body);
		v[i].body = NULL;
	}
}

bool tiers_feed_heard(const struct shared *s)
{
	return !s->ops->fleet ||
	       clock_mono_us() - atomic_load_explicit(&s->plant->feed_us, memory_order_relaxed) <= FEED_SILENT_US;
}

static void count(struct reader *r, enum stat_id id, uint64_t n)
{
	if (n)
		stats_add_shared(r->shared->stats, id, n);
}

/* ---- one item ---- */

static void keep_body(struct tier_item *v, const void *body, size_t len)
{
	free(v->body);
	v->body = util_alloc(len + 1);
	memcpy(v->body, body, len);
	v->len = len;
}

static void settle(struct tier_item *v, enum read_rc rc, enum tier tier)
{
	v->rc = rc;
	v->tier = tier;
	v->settled = true;
	v->stale = false;
}

static void from_l1(struct reader *r, struct tier_item *v)
{
	int64_t now_us = clock_real_us();
	if (!r->body)
		r->body = util_alloc(BODY_BYTES);
	ptrdiff_t n = cache_get(r->shared->cache, CACHE_MEMORY, &v->id, now_us, r->body, BODY_BYTES, &v->meta);
	if (n < 0)
		return;
	if (v->meta.flags & CACHE_NEGATIVE) {
		settle(v, READ_NONE, TIER_L1);
		return;
	}
	keep_body(v, r->body, (size_t)n);
	settle(v, READ_OK, TIER_L1);
	v->stale = cache_age_of(&v->meta, now_us) == CACHE_STALE;
	v->settled = !v->stale; /* what is further away knows better, if it answers */
}

/* ns, version and end of life are the memory's; the body is as it is now. */
static void found(struct reader *r, struct tier_item *v, enum tier tier, const struct cache_meta *m, struct span body)
{
	keep_body(v, body.p, body.len);
	settle(v, READ_OK, tier);
	v->meta = *m;
	v->stored = cache_fill(r->shared->cache, CACHE_MEMORY, &v->id, v->epoch, m, body.p, body.len);
}

static void nothing(struct reader *r, struct tier_item *v, enum tier tier)
{
	settle(v, READ_NONE, tier);
	v->meta = cache_policy_negative(&r->shared->policy);
	if (v->meta.gone_ms)
		v->stored = cache_fill(r->shared->cache, CACHE_MEMORY, &v->id, v->epoch, &v->meta, NULL, 0);
}

static void take_memory(struct reader *r, struct tier_item *v, enum tier tier, const struct memory *m)
{
	struct cache_meta meta = cache_policy_memory(&r->shared->policy, m->ns, m->version, m->expires_us);
	if (m->deleted_us || !reader_visible(r, m))
		nothing(r, v, tier);
	else
		found(r, v, tier, &meta, m->body);
}

/* ---- what is pending ---- */

static void from_journal(struct reader *r, struct tier_item *v)
{
	struct held h = {.bytes = NULL};
	enum read_rc rc;
	if (!reader_pending(r, &v->id, false, &h, &rc))
		return;
	if (rc == READ_OK)
		take_memory(r, v, TIER_JOURNAL, &h.m);
	else if (rc == READ_NONE)
		nothing(r, v, TIER_JOURNAL);
	else
		settle(v, READ_ERROR, TIER_JOURNAL);
	held_free(&h);
	count(r, STAT_LOADS_JOURNAL, v->settled);
}

/* ---- Redis ---- */

struct l2 *tiers_l2(const struct shared *s)
{
	uint64_t store = atomic_load_explicit(&s->plant->store_identity, memory_order_relaxed);
	if (!s->l2 || !store)
		return NULL;
	l2_set_store(s->l2, store);
	return s->l2;
}

/* While the feed is silent, whether a copy is right is not known. */
static bool l2_asked(const struct shared *s) { return tiers_l2(s) && tiers_feed_heard(s); }

static void from_l2(struct reader *r, struct tier_item **open, size_t n)
{
	struct shared *s = r->shared;
	uint64_t distrusted = 0, hits = 0;
	if (!n || !l2_asked(s))
		return;
	struct uuid *ids = util_alloc(n * sizeof(*ids));
	struct l2_value *values = util_zalloc(n * sizeof(*values));
	for (size_t i = 0; i < n; i++)
		ids[i] = open[i]->id;
	unsigned step = trace_enter(TRACE_L2);
	bool asked = l2_get_many(s->l2, CACHE_MEMORY, ids, n, values);
	for (size_t i = 0; asked && i < n; i++) {
		const struct l2_value *l = &values[i];
		if (!l->found)
			continue;
		if (!trust_holds(&s->plant->trust, &ids[i], l->revision) || !plant_exists(s->plant, l->meta.ns)) {
			distrusted++;
			continue;
		}
		int64_t gone_us = l->meta.gone_ms ? l->meta.filled_us + (int64_t)l->meta.gone_ms * 1000 : 0;
		struct cache_meta m = cache_policy_memory(&s->policy, l->meta.ns, l->meta.version, gone_us);
		found(r, open[i], TIER_L2, &m, l->body);
		hits++;
	}
	trace_leave_with(step, TRACE_KEY_HITS, (int64_t)hits, !asked);
	count(r, STAT_LOADS_L2, hits);
	count(r, STAT_L2_DISTRUSTED, distrusted);
	l2_values_free(values, n);
	free(values);
	free(ids);
}

/* The copy ends with the memory, not with the time that L1 believes it for. */
static void to_l2(struct reader *r, const struct memory *m, uint64_t revision)
{
	struct shared *s = r->shared;
	struct cache_meta meta = {.ns = m->ns, .version = m->version, .filled_us = clock_real_us()};
	if (m->deleted_us || !trust_holds(&s->plant->trust, &m->id, revision) || !l2_asked(s))
		return;
	cache_meta_gone(&meta, m->expires_us);
	l2_put(s->l2, CACHE_MEMORY, &m->id, revision, &meta, m->body);
}

/* ---- the store ---- */

struct rows {
	struct reader *r;
	struct tier_item **open; /* by id */
	size_t n;
	uint64_t revision; /* the store was asked behind it */
};

static int by_id(const void *a, const void *b)
{
	return uuid_cmp(&(*(struct tier_item *const *)a)->id, &(*(struct tier_item *const *)b)->id);
}

static bool take_row(void *arg, const struct memory *m)
{
	struct rows *w = arg;
	struct tier_item key = {.id = m->id}, *pkey = &key;
	struct tier_item **at = bsearch(&pkey, w->open, w->n, sizeof(struct tier_item *), by_id);
	for (; at && at > w->open && uuid_cmp(&at[-1]->id, &m->id) == 0; at--)
		;
	for (; at && at < w->open + w->n && uuid_cmp(&(*at)->id, &m->id) == 0; at++)
		take_memory(w->r, *at, TIER_STORE, m);
	to_l2(w->r, m, w->revision);
	return true;
}

static enum read_rc ask_store(struct reader *r, struct rows *w)
{
	const struct store_ops *ops = r->shared->ops;
	if (!reader_store(r))
		return r->trouble ? reader_trouble(r) : READ_ERROR;
	if (w->n == 1)
		return reader_outcome(r, ops->get(r->store, &w->open[0]->id, false, take_row, w));
	struct uuid *ids = util_alloc(w->n * sizeof(*ids));
	for (size_t i = 0; i < w->n; i++)
		ids[i] = w->open[i]->id;
	enum read_rc rc = reader_outcome(r, ops->get_many(r->store, ids, w->n, false, take_row, w));
	free(ids);
	return rc;
}

/* A store that is away: what is stale is better than nothing, and says so. */
static void from_store(struct reader *r, struct tier_item **open, size_t n)
{
	struct rows w = {r, open, n, atomic_load_explicit(&r->shared->plant->feed_revision, memory_order_acquire)};
	if (!n)
		return;
	qsort(open, n, sizeof(struct tier_item *), by_id);
	int64_t began_ns = clock_mono_ns();
	unsigned step = trace_enter(TRACE_STORE);
	enum read_rc rc = ask_store(r, &w);
	trace_leave_with(step, TRACE_KEY_ASKED, (int64_t)n, rc == READ_ERROR);
	stats_record_shared(r->shared->stats, HIST_STORE_READ, (uint64_t)(clock_mono_ns() - began_ns));
	for (size_t i = 0; i < n; i++) {
		if (open[i]->settled)
			continue;
		if (rc != READ_ERROR)
			nothing(r, open[i], TIER_STORE);
		else if (open[i]->stale && r->store_failed)
			open[i]->away = open[i]->settled = true;
		else
			settle(open[i], READ_ERROR, TIER_STORE);
	}
	count(r, STAT_LOADS_STORE, n);
}

/* ---- all of them ---- */

static size_t unsettled(struct tier_item **v, size_t n)
{
	size_t kept = 0;
	for (size_t i = 0; i < n; i++)
		if (!v[i]->settled)
			v[kept++] = v[i];
	return kept;
}

void tiers_read(struct reader *r, struct tier_item *v, size_t n, bool reload)
{
	struct tier_item **open = util_alloc((n + 1) * sizeof(struct tier_item *));
	size_t left = n, hits = 0;
	unsigned step = trace_enter(TRACE_L1);
	for (size_t i = 0; i < n; i++) {
		open[i] = &v[i];
		if (!reload)
			from_l1(r, &v[i]);
		hits += v[i].settled;
	}
	left = unsettled(open, left);
	trace_leave_with(step, TRACE_KEY_HITS, (int64_t)hits, false);
	count(r, STAT_L1_HITS, hits);
	count(r, STAT_L1_MISSES, left);
	step = left ? trace_enter(TRACE_PENDING) : 0;
	for (size_t i = 0; i < left; i++) {
		open[i]->epoch = cache_epoch(r->shared->cache, CACHE_MEMORY, &open[i]->id);
		from_journal(r, open[i]);
	}
	size_t before = left;
	left = unsettled(open, left);
	trace_leave_with(step, TRACE_KEY_HITS, (int64_t)(before - left), false);
	if (!reload)
		from_l2(r, open, left);
	left = unsettled(open, left);
	from_store(r, open, left);
	free(open);
}

/* ---- one at a time ---- */

static bool alive(void *arg, unsigned slot, uint32_t incarnation)
{
	const struct plant *p = arg;
	return slot < SLOT_COUNT &&
	       (atomic_load_explicit(&p->worker[slot].incarnation, memory_order_relaxed) & 0xfff) == incarnation;
}

/* With the epoch: whoever comes behind a write does not take what was loaded before it. */
static uint64_t flight_key(struct reader *r, const struct uuid *id)
{
	uint64_t a, b;
	memcpy(&a, id->b, sizeof(a));
	memcpy(&b, id->b + 8, sizeof(b));
	a ^= cache_epoch(r->shared->cache, CACHE_MEMORY, id) * 0x9e3779b97f4a7c15ull;
	a = (a ^ a >> 32 ^ b) * 0xd6e8feb86659fd93ull;
	return a ^ a >> 32;
}

void tiers_read_one(struct reader *r, struct tier_item *v)
{
	struct flights *f = &r->shared->plant->flights;
	uint64_t key = flight_key(r, &v->id);
	unsigned step = trace_enter(TRACE_SHARED);
	enum flight_role role = flight_begin(f, key, &r->shared->self, alive, r->shared->plant);
	trace_leave(step);
	tiers_read(r, v, 1, false);
	v->collapsed = role == FLIGHT_LANDED && v->tier == TIER_L1;
	if (role == FLIGHT_LEADS)
		flight_end(f, key, &r->shared->self);
}

void tiers_refresh(struct reader *r, const struct uuid *id)
{
	struct flights *f = &r->shared->plant->flights;
	struct tier_item v = {.id = *id};
	uint64_t key = flight_key(r, id);
	if (!flight_try(f, key, &r->shared->self, alive, r->shared->plant))
		return;
	tiers_read(r, &v, 1, true);
	count(r, STAT_REFRESHES, 1);
	flight_end(f, key, &r->shared->self);
	tier_items_free(&v, 1);
}
