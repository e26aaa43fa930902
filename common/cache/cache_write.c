/* L1: the calls that write, each under a shard's lock. The proof is in cache-private.h. */
#include "cache/cache-private.h"

#include "fault.h"

static uint64_t peek(const _Atomic uint64_t *v) { return cache_peek_u64(v); }

/* Frees a live slot; the record stays in the log as garbage until its turn comes. */
static void drop_slot(const struct cache *c, const struct cache_place *p, int i)
{
	struct cache_head h;
	if (cache_log_head(c, p, cache_slot_pos(peek(&p->bucket->slots[i])), &h))
		cache_log_count_out(p->shard, &h);
	atomic_store_explicit(&p->bucket->slots[i], 0, memory_order_release);
}

/* What is in the main log stays there when it is replaced, and what fills half of the small log goes there. */
static enum cache_which log_for(const struct cache *c, const struct cache_place *p, int slot, uint64_t lines)
{
	bool main = slot >= 0 && cache_log_of(cache_slot_pos(peek(&p->bucket->slots[slot]))) == CACHE_MAIN;
	return main || lines > c->plan.lines[CACHE_SMALL] / 2 ? CACHE_MAIN : CACHE_SMALL;
}

/* Puts a record in the place of an older one of its key, which is in `slot` (-1: there is none). The slot names the old
 * one until the new one is whole: readers find the one or the other. */
static void insert(struct cache *c, const struct cache_place *p, int slot, const struct cache_head *head,
		   const void *value)
{
	uint64_t lines = cache_lines(head->len);
	enum cache_which w = log_for(c, p, slot, lines);
	struct cache_head h = *head, old;
	struct cache_eviction e = {0};
	unsigned hits = 0;
	if (slot < 0) {
		cache_sketch_add(c, p, 1);
		cache_sketch_age(c, p);
	}
	cache_evict_for(c, p, w, lines, &e);
	slot = cache_log_find(c, p, h.cls, &h.key, &old); /* making room may have moved or evicted it */
	if (slot >= 0) {
		hits = atomic_load_explicit(&p->bucket->hits[slot], memory_order_relaxed);
		cache_log_count_out(p->shard, &old);
	} else {
		slot = cache_evict_slot(c, p, &e);
	}
	h.pos = cache_log_place(c, p, w, lines);
	char *to = cache_line_at(c, p, h.pos);
	shm_copy_in(to, &h, sizeof(h));
	FAULT_POINT(cache_half);
	shm_copy_in(to + sizeof(h), value, h.len);
	cache_log_count_in(p->shard, &h);
	cache_log_publish(p, slot, h.pos, lines, hits);
}

/* ---- the calls ---- */

static struct cache_head make_head(enum cache_class cls, const struct uuid *key, const struct cache_meta *m, size_t len)
{
	return (struct cache_head){.len = (uint32_t)len,
				   .cls = (uint8_t)cls,
				   .flags = m->flags,
				   .tag = m->tag,
				   .key = *key,
				   .ns = m->ns,
				   .version = m->version,
				   .filled_us = m->filled_us,
				   .fresh_ms = m->fresh_ms,
				   .gone_ms = m->gone_ms};
}

/* The same version fetched anew is as good as new. */
static bool is_older(const struct cache_head *h, const struct cache_meta *than)
{
	return h->version < than->version || (h->version == than->version && h->filled_us < than->filled_us);
}

bool cache_fill(struct cache *c, enum cache_class cls, const struct uuid *key, uint64_t epoch,
		const struct cache_meta *meta, const void *value, size_t len)
{
	struct cache_place p = cache_place_of(c, cache_hash(c, cls, key));
	struct cache_head old;
	bool ok = false;
	if (len > cache_value_max(c) || !cache_log_lock(p.shard, false))
		return false;
	if (peek(&p.shard->epoch) + peek(cache_stripe(&p)) == epoch) {
		int i = cache_log_find(c, &p, (uint32_t)cls, key, &old);
		struct cache_head h = make_head(cls, key, meta, len);
		ok = i < 0 || is_older(&old, meta);
		if (ok)
			insert(c, &p, i, &h, value);
	}
	cache_log_unlock(p.shard);
	return ok;
}

void cache_put(struct cache *c, enum cache_class cls, const struct uuid *key, const struct cache_meta *meta,
	       const void *value, size_t len)
{
	struct cache_place p = cache_place_of(c, cache_hash(c, cls, key));
	struct cache_head old;
	cache_log_lock(p.shard, true);
	cache_move_epoch(cache_stripe(&p));
	int i = cache_log_find(c, &p, (uint32_t)cls, key, &old);
	if (i >= 0 && old.version > meta->version) {
		/* A replay after a crash: what is here came later. */
	} else if (len > cache_value_max(c)) {
		if (i >= 0)
			drop_slot(c, &p, i);
	} else {
		struct cache_head h = make_head(cls, key, meta, len);
		insert(c, &p, i, &h, value);
	}
	cache_log_unlock(p.shard);
}

void cache_remove(struct cache *c, enum cache_class cls, const struct uuid *key)
{
	struct cache_place p = cache_place_of(c, cache_hash(c, cls, key));
	struct cache_head old;
	cache_log_lock(p.shard, true);
	cache_move_epoch(cache_stripe(&p));
	FAULT_POINT(cache_removing);
	int i = cache_log_find(c, &p, (uint32_t)cls, key, &old);
	if (i >= 0)
		drop_slot(c, &p, i);
	cache_log_unlock(p.shard);
}

/* ---- purges ---- */

static bool matches(const struct cache_head *h, const struct cache_match *m)
{
	return (!m->ns || h->ns == m->ns) && (!m->cls || h->cls == m->cls) && (!m->tag || h->tag == m->tag);
}

/* Without the lock. True: an entry of this bucket matches, or moves away while it is looked at. */
static bool may_match(const struct cache *c, const struct cache_place *p, const struct cache_match *m)
{
	for (int i = 0; i < CACHE_WAYS; i++) {
		uint64_t slot = atomic_load_explicit(&p->bucket->slots[i], memory_order_acquire);
		struct cache_head h;
		if (!cache_is_live(p, slot))
			continue;
		shm_copy_out(&h, cache_line_at(c, p, cache_slot_pos(slot)), sizeof(h));
		atomic_thread_fence(memory_order_acquire);
		if (!cache_is_live(p, slot) || matches(&h, m))
			return true;
	}
	return false;
}

static uint64_t purge_bucket(const struct cache *c, const struct cache_place *p, const struct cache_match *m)
{
	uint64_t gone = 0;
	cache_log_lock(p->shard, true);
	for (int i = 0; i < CACHE_WAYS; i++) {
		uint64_t slot = peek(&p->bucket->slots[i]);
		struct cache_head h;
		if (cache_is_live(p, slot) && cache_log_head(c, p, cache_slot_pos(slot), &h) && matches(&h, m)) {
			drop_slot(c, p, i);
			gone++;
			FAULT_POINT(cache_purging);
		}
	}
	cache_log_unlock(p->shard);
	return gone;
}

/* By slots: a key keeps its slot wherever its record moves, so whoever was here when the epoch moved is found. */
uint64_t cache_purge(struct cache *c, const struct cache_match *m)
{
	bool all = !m->ns && !m->cls && !m->tag;
	uint64_t gone = 0;
	for (uint32_t i = 0; i < c->plan.shards; i++) {
		struct cache_shard *s = &c->seg->shards[i];
		cache_log_lock(s, true);
		cache_move_epoch(&s->epoch);
		uint64_t entries = cache_log_entries(s);
		if (all) {
			cache_log_empty(s);
			gone += entries;
		}
		cache_log_unlock(s);
		for (uint32_t b = 0; b < c->plan.buckets && entries && !all; b++) {
			struct cache_place p = cache_place_at(c, i, b);
			if (may_match(c, &p, m))
				gone += purge_bucket(c, &p, m);
		}
	}
	return gone;
}
