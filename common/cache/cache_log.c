/* L1: a shard's lock, logs and accounts, for writers. The proof is in cache-private.h. */
#define LOG_SUBSYSTEM LOG_IN_CACHE
#include "cache/cache-private.h"

#include <errno.h>
#include <sched.h>

#include "fault.h"
#include "log.h"

#define FILL_TRIES 64 /* a fill is a favour: it does not wait for a sleeping lock holder */

static uint64_t peek(const _Atomic uint64_t *v) { return cache_peek_u64(v); }
static void put(_Atomic uint64_t *v, uint64_t n) { cache_put_u64(v, n); }

/* ---- the lock ---- */

/* Every slot names a position below a `head`: one store for each log frees them all. */
void cache_log_empty(struct cache_shard *s)
{
	put(&s->reclaimed[CACHE_SMALL], peek(&s->head[CACHE_SMALL]));
	FAULT_POINT(cache_emptying);
	put(&s->reclaimed[CACHE_MAIN], peek(&s->head[CACHE_MAIN]));
	atomic_thread_fence(memory_order_release);
	cache_move_epoch(&s->epoch);
	for (int i = 0; i < CACHE_CLASSES; i++) {
		put(&s->of[i].entries, 0);
		put(&s->of[i].bytes, 0);
	}
}

void cache_log_disorder(struct cache_shard *s)
{
	log_error("a shard of the cache was found in disorder; it was emptied");
	cache_log_empty(s);
	cache_add_u64(&s->emptied, 1);
}

bool cache_log_lock(struct cache_shard *s, bool wait)
{
	static struct log_limit limit;
	int e = wait ? pthread_mutex_lock(&s->lock) : pthread_mutex_trylock(&s->lock);
	for (int i = 0; e == EBUSY && i < FILL_TRIES; i++) {
		if (i % 16 == 15)
			sched_yield();
		e = pthread_mutex_trylock(&s->lock);
	}
	if (e == EBUSY)
		return false;
	if (e == EOWNERDEAD) {
		cache_log_empty(s);
		cache_add_u64(&s->emptied, 1);
		FAULT_POINT(cache_repair);
		/* Dying before the next line leaves EOWNERDEAD to the next one. */
		AN(pthread_mutex_consistent(&s->lock) == 0);
		log_warn_limited(&limit, 10, "a writer died in a shard of the cache; it was emptied");
		e = 0;
	}
	AN(e == 0);
	FAULT_POINT(cache_locked);
	return true;
}

void cache_log_unlock(struct cache_shard *s) { AN(pthread_mutex_unlock(&s->lock) == 0); }

/* ---- the logs ---- */

bool cache_log_head(const struct cache *c, const struct cache_place *p, uint64_t pos, struct cache_head *h_r)
{
	shm_copy_out(h_r, cache_line_at(c, p, pos), sizeof(*h_r));
	enum cache_which w = cache_log_of(pos);
	uint64_t lines = h_r->cls == CACHE_PAD ? h_r->len : cache_lines(h_r->len);
	return h_r->pos == pos && h_r->cls < CACHE_CLASSES && lines && lines <= peek(&p->shard->head[w]) - pos &&
	       lines <= c->plan.lines[w] - cache_line_of(c, pos);
}

void cache_log_reclaim(struct cache_shard *s, uint64_t pos)
{
	put(&s->reclaimed[cache_log_of(pos)], pos);
	atomic_thread_fence(memory_order_release);
}

/* Lines before the end of the ring that a record of `lines` must skip. */
static uint64_t pad_for(const struct cache *c, uint64_t head, uint64_t lines)
{
	uint64_t left = c->plan.lines[cache_log_of(head)] - cache_line_of(c, head);
	return left < lines ? left : 0;
}

bool cache_log_has_room(const struct cache *c, const struct cache_shard *s, enum cache_which w, uint64_t reclaimed,
			uint64_t lines)
{
	uint64_t head = peek(&s->head[w]);
	return head + pad_for(c, head, lines) + lines - reclaimed <= c->plan.lines[w];
}

uint64_t cache_log_place(const struct cache *c, const struct cache_place *p, enum cache_which w, uint64_t lines)
{
	struct cache_shard *s = p->shard;
	uint64_t head = peek(&s->head[w]), pad = pad_for(c, head, lines);
	if (pad) {
		struct cache_head h = {.pos = head, .len = (uint32_t)pad, .cls = CACHE_PAD};
		shm_copy_in(cache_line_at(c, p, head), &h, sizeof(h));
		put(&s->head[w], head + pad);
		FAULT_POINT(cache_padded);
	}
	return head + pad;
}

void cache_log_publish(const struct cache_place *p, int i, uint64_t pos, uint64_t lines, unsigned hits)
{
	FAULT_POINT(cache_written);
	put(&p->shard->head[cache_log_of(pos)], pos + lines);
	FAULT_POINT(cache_headed);
	atomic_store_explicit(&p->bucket->hits[i], (uint8_t)hits, memory_order_relaxed);
	atomic_store_explicit(&p->bucket->slots[i], pos << 16 | p->tag, memory_order_release);
	FAULT_POINT(cache_published);
}

int cache_log_find(const struct cache *c, const struct cache_place *p, uint32_t cls, const struct uuid *key,
		   struct cache_head *h_r)
{
	for (int i = 0; i < CACHE_WAYS; i++) {
		uint64_t slot = peek(&p->bucket->slots[i]);
		if ((uint16_t)slot == p->tag && cache_is_live(p, slot) &&
		    cache_log_head(c, p, cache_slot_pos(slot), h_r) && h_r->cls == cls &&
		    memcmp(&h_r->key, key, sizeof(*key)) == 0)
			return i;
	}
	return -1;
}

/* ---- accounts ---- */

uint64_t cache_log_entries(const struct cache_shard *s)
{
	uint64_t n = 0;
	for (int i = 0; i < CACHE_CLASSES; i++)
		n += peek(&s->of[i].entries);
	return n;
}

void cache_log_count_in(struct cache_shard *s, const struct cache_head *h)
{
	cache_add_u64(&s->of[h->cls].entries, 1);
	cache_add_u64(&s->of[h->cls].bytes, cache_lines(h->len) << CACHE_LINE_SHIFT);
}

void cache_log_count_out(struct cache_shard *s, const struct cache_head *h)
{
	cache_add_u64(&s->of[h->cls].entries, (uint64_t)-1);
	cache_add_u64(&s->of[h->cls].bytes, -(cache_lines(h->len) << CACHE_LINE_SHIFT));
}
