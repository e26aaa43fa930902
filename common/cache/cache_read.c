/* L1: reading, without a lock. The proof is in cache-private.h. */
#include "cache/cache-private.h"

#define RETRIES 3      /* a record that is overwritten under us this often is no cache hit worth having */
#define AHEAD_LINES 16 /* of a record: 1 KB */

enum outcome { FOUND, NOT_THIS, CHANGED, UNUSABLE };

/* Nothing copied before this call is believed unless it says true. */
static bool still_there(const struct cache_place *p, uint64_t slot)
{
	atomic_thread_fence(memory_order_acquire);
	return cache_is_live(p, slot);
}

static enum outcome read_record(const struct cache *c, const struct cache_place *p, uint64_t slot, uint32_t cls,
				const struct uuid *key, int64_t now_us, void *buf, size_t cap, struct cache_head *h)
{
	uint64_t pos = cache_slot_pos(slot), at = cache_line_of(c, pos);
	enum cache_which w = cache_log_of(pos);
	const char *line = p->data + c->plan.log_at[w] + (at << CACHE_LINE_SHIFT);
	/* The value is fetched from memory while its head is judged: where little is in the processor's caches, a sixth more
	 * gets. Beyond the record it is of no use and no harm. */
	for (int i = 1; i <= AHEAD_LINES; i++)
		__builtin_prefetch(line + (i << CACHE_LINE_SHIFT));
	shm_copy_out(h, line, sizeof(*h));
	if (h->pos != pos || h->cls != cls || memcmp(&h->key, key, sizeof(*key)) != 0)
		return still_there(p, slot) ? NOT_THIS : CHANGED;
	/* Bounds first, since a changing head may hold any length; then judge what was found. */
	bool whole = h->len <= cap && at + cache_lines(h->len) <= c->plan.lines[w];
	if (whole)
		shm_copy_out(buf, line + sizeof(*h), h->len);
	if (!still_there(p, slot))
		return CHANGED;
	const struct cache_meta m = cache_head_meta(h);
	if (!whole || cache_age_of(&m, now_us) == CACHE_GONE)
		return UNUSABLE;
	return FOUND;
}

/* Written until it says CACHE_HITS_MAX: hot records are shared, not fought over. A count that is lost to another reader
 * is lost. */
static void mark_hit(_Atomic uint8_t *hits)
{
	uint8_t n = atomic_load_explicit(hits, memory_order_relaxed);
	if (n < CACHE_HITS_MAX)
		atomic_store_explicit(hits, n + 1, memory_order_relaxed);
}

ptrdiff_t cache_get(struct cache *c, enum cache_class cls, const struct uuid *key, int64_t now_us, void *buf,
		    size_t cap, struct cache_meta *meta_r)
{
	struct cache_place p = cache_place_of(c, cache_hash(c, cls, key));
	for (int tries = 0, i = 0; i < CACHE_WAYS; i++) {
		uint64_t slot = atomic_load_explicit(&p.bucket->slots[i], memory_order_acquire);
		struct cache_head h;
		if ((uint16_t)slot != p.tag || !cache_is_live(&p, slot))
			continue;
		switch (read_record(c, &p, slot, cls, key, now_us, buf, cap, &h)) {
		case FOUND:
			mark_hit(&p.bucket->hits[i]);
			*meta_r = cache_head_meta(&h);
			return (ptrdiff_t)h.len;
		case UNUSABLE: return -1;
		case CHANGED: /* evicted, or carried over to the head: look at this bucket again */
			if (++tries == RETRIES)
				return -1;
			i = -1;
			break;
		case NOT_THIS: break;
		}
	}
	return -1;
}

uint64_t cache_epoch(struct cache *c, enum cache_class cls, const struct uuid *key)
{
	struct cache_place p = cache_place_of(c, cache_hash(c, cls, key));
	return atomic_load_explicit(&p.shard->epoch, memory_order_acquire) +
	       atomic_load_explicit(cache_stripe(&p), memory_order_acquire);
}

/* ---- looking ---- */

static struct cache_entry entry_of(const struct cache_place *p, int i, const struct cache_head *h)
{
	unsigned hits = atomic_load_explicit(&p->bucket->hits[i], memory_order_relaxed);
	return (struct cache_entry){.key = h->key,
				    .cls = (enum cache_class)h->cls,
				    .len = h->len,
				    .hits = hits,
				    .main = cache_log_of(h->pos) == CACHE_MAIN,
				    .meta = cache_head_meta(h)};
}

bool cache_peek(struct cache *c, enum cache_class cls, const struct uuid *key, struct cache_entry *e_r)
{
	struct cache_place p = cache_place_of(c, cache_hash(c, cls, key));
	for (int tries = 0, i = 0; i < CACHE_WAYS; i++) {
		uint64_t slot = atomic_load_explicit(&p.bucket->slots[i], memory_order_acquire);
		struct cache_head h;
		if ((uint16_t)slot != p.tag || !cache_is_live(&p, slot))
			continue;
		shm_copy_out(&h, cache_line_at(c, &p, cache_slot_pos(slot)), sizeof(h));
		if (!still_there(&p, slot)) {
			if (++tries == RETRIES)
				return false;
			i = -1;
		} else if (h.pos == cache_slot_pos(slot) && h.cls == (uint32_t)cls &&
			   memcmp(&h.key, key, sizeof(*key)) == 0) {
			*e_r = entry_of(&p, i, &h);
			return true;
		}
	}
	return false;
}

unsigned cache_frequency(struct cache *c, enum cache_class cls, const struct uuid *key)
{
	struct cache_place p = cache_place_of(c, cache_hash(c, cls, key));
	return cache_sketch_of(c, &p);
}

/* What slot i of a bucket shows, whole and of one moment. False: nothing, or it changes too fast. */
static bool look_at(const struct cache *c, const struct cache_place *p, int i, void *buf, size_t cap,
		    struct cache_entry *e_r)
{
	for (int tries = 0; tries < RETRIES; tries++) {
		uint64_t slot = atomic_load_explicit(&p->bucket->slots[i], memory_order_acquire),
			 pos = cache_slot_pos(slot);
		struct cache_head h;
		if (!cache_is_live(p, slot))
			return false;
		const char *line = cache_line_at(c, p, pos);
		shm_copy_out(&h, line, sizeof(h));
		if (h.len <= cap && cache_line_of(c, pos) + cache_lines(h.len) <= c->plan.lines[cache_log_of(pos)])
			shm_copy_out(buf, line + sizeof(h), h.len);
		if (!still_there(p, slot))
			continue;
		if (h.pos != pos || h.cls == CACHE_PAD || h.cls >= CACHE_CLASSES)
			return false;
		*e_r = entry_of(p, i, &h);
		return true;
	}
	return false;
}

/* By slots: who stays keeps its slot wherever its record moves, so it is visited once. A shard that holds nothing is left
 * alone: reading its slots would give them memory. */
void cache_walk(struct cache *c, void *buf, size_t cap, cache_visit_fn *fn, void *arg)
{
	for (uint32_t shard = 0; shard < c->plan.shards; shard++) {
		if (!cache_log_entries(&c->seg->shards[shard]))
			continue;
		for (uint32_t bucket = 0; bucket < c->plan.buckets; bucket++) {
			struct cache_place p = cache_place_at(c, shard, bucket);
			struct cache_entry e;
			for (int i = 0; i < CACHE_WAYS; i++)
				if (look_at(c, &p, i, buf, cap, &e) && !fn(arg, &e, e.len <= cap && cap ? buf : NULL))
					return;
		}
	}
}
