/* L1: writing, always under a shard's lock. The proof is in cache-private.h. */
#include "cache/cache-private.h"

#include <errno.h>
#include <sched.h>

#include "fault.h"
#include "log.h"

/* Carrying over what was read since it came costs a copy. Every insertion earns an allowance of
 * CARRY_EARN records, saved up to CARRY_SAVED for where read ones stand together: on average an
 * insertion copies little, and up to CARRY_EARN / (CARRY_EARN + 1) of a shard can be hot. */
#define CARRY_EARN 4
#define CARRY_SAVED 256
#define CARRY_LINES 4096  /* of one insertion: it stays within a tenth of a millisecond */
#define FILL_TRIES 64	  /* a fill is a favour: it does not wait for a sleeping lock holder */
#define PURGE_WALK 262144 /* entries of a shard that a purge looks at one by one */

/* ---- counters: one writer at a time, so no locked instruction ---- */

static uint64_t peek(const _Atomic uint64_t *v) { return atomic_load_explicit(v, memory_order_relaxed); }
static void put(_Atomic uint64_t *v, uint64_t n) { atomic_store_explicit(v, n, memory_order_relaxed); }
static void add(_Atomic uint64_t *v, uint64_t n) { put(v, peek(v) + n); }
static void sub(_Atomic uint64_t *v, uint64_t n) { put(v, peek(v) - n); }
/* What sync did before is visible to whoever loads the moved epoch. */
static void move_epoch(_Atomic uint64_t *v) { atomic_store_explicit(v, peek(v) + 1, memory_order_release); }

/* ---- the lock ---- */

/* Every slot names a position below `head`: one store frees them all. */
static void empty_shard(struct cache_shard *s)
{
	put(&s->reclaimed, peek(&s->head));
	atomic_thread_fence(memory_order_release);
	move_epoch(&s->epoch);
	put(&s->entries, 0);
	put(&s->bytes, 0);
}

/* False: `wait` is off and somebody else holds it. */
static bool lock_shard(struct cache_shard *s, bool wait)
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
		empty_shard(s);
		add(&s->emptied, 1);
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

static void unlock_shard(struct cache_shard *s) { AN(pthread_mutex_unlock(&s->lock) == 0); }

/* ---- the log ---- */

/* Reads the head of a record at a position known to be in the log. False: it is none, and the
 * shard cannot be walked: a broken invariant, answered like a dead writer. */
static bool head_at(const struct cache *c, const struct cache_place *p, uint64_t pos, struct cache_head *h)
{
	shm_copy_out(h, cache_line_at(c, p, pos), sizeof(*h));
	uint64_t lines = h->cls == CACHE_PAD ? h->len : cache_lines(h->len);
	return h->pos == pos && lines && lines <= peek(&p->shard->head) - pos &&
	       lines <= c->plan.log_lines - pos % c->plan.log_lines;
}

/* A lower line of the log may be written next: readers must see that first. */
static void reclaim(struct cache_shard *s, uint64_t pos)
{
	put(&s->reclaimed, pos);
	atomic_thread_fence(memory_order_release);
}

static void count_out(struct cache_shard *s, uint64_t len)
{
	sub(&s->entries, 1);
	sub(&s->bytes, cache_lines(len) << CACHE_LINE_SHIFT);
}

/* Frees a live slot; the record stays in the log as garbage until its turn comes. */
static void drop_slot(const struct cache *c, const struct cache_place *p, int i)
{
	struct cache_head h;
	if (head_at(c, p, cache_slot_pos(peek(&p->slots[i])), &h))
		count_out(p->shard, h.len);
	atomic_store_explicit(&p->slots[i], 0, memory_order_release);
}

static bool is_live(const struct cache_place *p, uint64_t slot)
{
	return slot && cache_slot_pos(slot) >= peek(&p->shard->reclaimed);
}

/* The slot of a key, or -1. */
static int find(const struct cache *c, const struct cache_place *p, uint32_t cls, const struct uuid *key,
		struct cache_head *h)
{
	for (int i = 0; i < CACHE_WAYS; i++) {
		uint64_t slot = peek(&p->slots[i]);
		if ((uint16_t)slot == p->tag && is_live(p, slot) && head_at(c, p, cache_slot_pos(slot), h) &&
		    h->cls == cls && memcmp(&h->key, key, sizeof(*key)) == 0)
			return i;
	}
	return -1;
}

/* A slot for a new record: a free one, else the oldest that nobody read, else the oldest. */
static int take_slot(const struct cache *c, const struct cache_place *p)
{
	int victim = 0;
	uint64_t least = UINT64_MAX;
	for (int i = 0; i < CACHE_WAYS; i++) {
		uint64_t slot = peek(&p->slots[i]);
		if (!is_live(p, slot))
			return i;
		uint64_t rank = cache_slot_pos(slot) |
				(uint64_t)(atomic_load_explicit(&p->hits[i], memory_order_relaxed) != 0) << 63;
		if (rank < least) {
			least = rank;
			victim = i;
		}
	}
	drop_slot(c, p, victim);
	add(&p->shard->evictions, 1);
	return victim;
}

/* Lines before the end of the ring that a record of `lines` must skip. */
static uint64_t pad_for(const struct cache *c, uint64_t head, uint64_t lines)
{
	uint64_t left = c->plan.log_lines - head % c->plan.log_lines;
	return left < lines ? left : 0;
}

static bool has_room(const struct cache *c, const struct cache_shard *s, uint64_t lines)
{
	uint64_t head = peek(&s->head);
	return head + pad_for(c, head, lines) + lines - peek(&s->reclaimed) <= c->plan.log_lines;
}

/* Where the next record of `lines` goes, after a pad when it would cross the end of the ring. */
static uint64_t place_at_head(const struct cache *c, const struct cache_place *p, uint64_t lines)
{
	struct cache_shard *s = p->shard;
	uint64_t head = peek(&s->head), pad = pad_for(c, head, lines);
	if (pad) {
		struct cache_head h = {.pos = head, .len = (uint32_t)pad, .cls = CACHE_PAD};
		shm_copy_in(cache_line_at(c, p, head), &h, sizeof(h));
		put(&s->head, head + pad);
	}
	return head + pad;
}

/* The record is whole: first the log, then the slot knows of it. */
static void publish(const struct cache_place *p, int i, uint64_t pos, uint64_t lines)
{
	FAULT_POINT(cache_written);
	put(&p->shard->head, pos + lines);
	FAULT_POINT(cache_headed);
	atomic_store_explicit(&p->hits[i], 0, memory_order_relaxed);
	atomic_store_explicit(&p->slots[i], pos << 16 | p->tag, memory_order_release);
	FAULT_POINT(cache_published);
}

/* Copies a value to the head of the ring from a place that may overlap it. The target's position is
 * at most one round above the source's (else there was no room), and at least a record above it: so
 * when the two overlap in the ring, the target lies before the source, and ascending words are safe. */
static void move_lines(char *to, const char *from, uint64_t lines)
{
	_Atomic uint64_t *d = (_Atomic uint64_t *)(void *)to;
	const _Atomic uint64_t *s = (const _Atomic uint64_t *)(const void *)from;
	if (to == from)
		return;
	for (uint64_t i = 0; i < lines << (CACHE_LINE_SHIFT - 3); i++)
		put(&d[i], peek(&s[i]));
}

/* Lets the oldest record go: past it, or, when it was read since it came and the allowance lasts,
 * on to the head. False: the log makes no sense. */
static bool advance_tail(const struct cache *c, const struct cache_place *at, uint64_t *carry_lines)
{
	struct cache_shard *s = at->shard;
	uint64_t tail = peek(&s->reclaimed), lines;
	struct cache_head h;
	if (tail >= peek(&s->head) || !head_at(c, at, tail, &h))
		return false;
	lines = h.cls == CACHE_PAD ? h.len : cache_lines(h.len);
	const char *from = cache_line_at(c, at, tail) + sizeof(h);
	reclaim(s, tail + lines);
	FAULT_POINT(cache_reclaimed);
	if (h.cls == CACHE_PAD)
		return true;
	struct cache_place p = cache_place_of(c, h.hash);
	int i = 0;
	while (i < CACHE_WAYS && peek(&p.slots[i]) != (tail << 16 | p.tag))
		i++;
	if (i == CACHE_WAYS || p.shard != s) /* replaced or removed since */
		return true;
	if (atomic_load_explicit(&p.hits[i], memory_order_relaxed) && peek(&s->carry) && lines <= *carry_lines &&
	    has_room(c, s, lines)) {
		sub(&s->carry, 1);
		*carry_lines -= lines;
		h.pos = place_at_head(c, &p, lines);
		move_lines(cache_line_at(c, &p, h.pos) + sizeof(h), from, lines - 1);
		FAULT_POINT(cache_carried);
		shm_copy_in(cache_line_at(c, &p, h.pos), &h, sizeof(h));
		publish(&p, i, h.pos, lines);
		return true;
	}
	count_out(s, h.len);
	add(&s->evictions, 1);
	atomic_store_explicit(&p.slots[i], 0, memory_order_release);
	return true;
}

static void make_room(struct cache *c, const struct cache_place *p, uint64_t lines)
{
	uint64_t carry_lines = CARRY_LINES, carry = peek(&p->shard->carry) + CARRY_EARN;
	put(&p->shard->carry, carry < CARRY_SAVED ? carry : CARRY_SAVED);
	while (!has_room(c, p->shard, lines))
		if (!advance_tail(c, p, &carry_lines)) {
			log_error("a shard of the cache was found in disorder; it was emptied");
			empty_shard(p->shard);
			add(&p->shard->emptied, 1);
		}
}

/* Puts a record in the place of an older one of its key. The slot names the old one until the new
 * one is whole: readers find the one or the other. */
static void insert(struct cache *c, const struct cache_place *p, const struct cache_head *head, const void *value)
{
	struct cache_shard *s = p->shard;
	uint64_t lines = cache_lines(head->len);
	struct cache_head h = *head, old;
	make_room(c, p, lines);
	int slot = find(c, p, h.cls, &h.key, &old); /* making room may have moved or evicted it */
	if (slot >= 0)
		count_out(s, old.len);
	else
		slot = take_slot(c, p);
	h.pos = place_at_head(c, p, lines);
	shm_copy_in(cache_line_at(c, p, h.pos), &h, sizeof(h));
	FAULT_POINT(cache_half);
	shm_copy_in(cache_line_at(c, p, h.pos) + sizeof(h), value, h.len);
	add(&s->entries, 1);
	add(&s->bytes, lines << CACHE_LINE_SHIFT);
	publish(p, slot, h.pos, lines);
}

/* ---- the calls ---- */

static struct cache_head make_head(uint64_t hash, enum cache_class cls, const struct uuid *key,
				   const struct cache_meta *meta, size_t len)
{
	return (struct cache_head){
		.len = (uint32_t)len, .cls = (uint32_t)cls, .key = *key, .meta = *meta, .hash = hash};
}

bool cache_fill(struct cache *c, enum cache_class cls, const struct uuid *key, uint64_t epoch,
		const struct cache_meta *meta, const void *value, size_t len)
{
	struct cache_place p = cache_place_of(c, cache_hash(c, cls, key));
	struct cache_head old;
	bool ok = false;
	if (len > cache_value_max(c) || !lock_shard(p.shard, false))
		return false;
	if (peek(&p.shard->epoch) + peek(cache_stripe(&p)) == epoch &&
	    (find(c, &p, (uint32_t)cls, key, &old) < 0 || old.meta.version < meta->version)) {
		struct cache_head h = make_head(p.hash, cls, key, meta, len);
		insert(c, &p, &h, value);
		ok = true;
	}
	unlock_shard(p.shard);
	return ok;
}

void cache_put(struct cache *c, enum cache_class cls, const struct uuid *key, const struct cache_meta *meta,
	       const void *value, size_t len)
{
	struct cache_place p = cache_place_of(c, cache_hash(c, cls, key));
	struct cache_head old;
	lock_shard(p.shard, true);
	move_epoch(cache_stripe(&p));
	int i = find(c, &p, (uint32_t)cls, key, &old);
	if (i >= 0 && old.meta.version > meta->version) {
		/* A replay after a crash: what is here came later. */
	} else if (len > cache_value_max(c)) {
		if (i >= 0)
			drop_slot(c, &p, i);
	} else {
		struct cache_head h = make_head(p.hash, cls, key, meta, len);
		insert(c, &p, &h, value);
	}
	unlock_shard(p.shard);
}

void cache_remove(struct cache *c, enum cache_class cls, const struct uuid *key)
{
	struct cache_place p = cache_place_of(c, cache_hash(c, cls, key));
	struct cache_head old;
	lock_shard(p.shard, true);
	move_epoch(cache_stripe(&p));
	FAULT_POINT(cache_removing);
	int i = find(c, &p, (uint32_t)cls, key, &old);
	if (i >= 0)
		drop_slot(c, &p, i);
	unlock_shard(p.shard);
}

/* Drops the records of a namespace in one shard. False: too many to look at under the lock, or in
 * disorder. */
static bool purge_shard(struct cache *c, const struct cache_place *at, uint64_t ns)
{
	struct cache_head h;
	uint64_t head = peek(&at->shard->head);
	if (peek(&at->shard->entries) > PURGE_WALK)
		return false;
	for (uint64_t pos = peek(&at->shard->reclaimed); pos < head;) {
		if (!head_at(c, at, pos, &h))
			return false;
		struct cache_place p = cache_place_of(c, h.hash);
		for (int i = 0; i < CACHE_WAYS && h.cls != CACHE_PAD && h.meta.ns == ns; i++)
			if (peek(&p.slots[i]) == (pos << 16 | p.tag))
				drop_slot(c, &p, i);
		FAULT_POINT(cache_purging);
		pos += h.cls == CACHE_PAD ? h.len : cache_lines(h.len);
	}
	return true;
}

void cache_purge_ns(struct cache *c, uint64_t ns)
{
	for (uint64_t i = 0; i < c->plan.shards; i++) {
		struct cache_place at = cache_place_of(c, i << 56);
		lock_shard(at.shard, true);
		move_epoch(&at.shard->epoch);
		if (!purge_shard(c, &at, ns))
			empty_shard(at.shard);
		unlock_shard(at.shard);
	}
}
