/* L1: who stays. What comes lies in the small log and leaves it after as much else came. It is admitted to the main log
 * when it is wanted more than what would have to go there for it (W-TinyLFU, Einziger et al. 2017, on the two queues of
 * S3-FIFO, Yang et al. 2023); so neither a scan nor a loop over more than fits pushes out what is read again and again.
 *
 * Wanted: the sketch's count of the key and the hits it collected since it was judged last. The main log is a clock:
 * what was read since comes to the head again with one hit less (S3-FIFO), and who was not read is the victim that
 * candidates are compared with. While a candidate is not wanted more, the victim stays where it is and the candidate is
 * forgotten. Counters of the sketch age, so no victim stays for what it was once.
 *
 * The choice was made with tests/bench/cache_sim.c; docs/benchmarks.md has the figures. */
#include "cache/cache-private.h"

#include "clock.h"
#include "fault.h"

/* Carrying over what was read costs a copy. Every insertion earns an allowance of CARRY_EARN records, saved up to
 * CARRY_SAVED for where read ones stand together: on average an insertion copies little. */
#define CARRY_EARN 4
#define CARRY_SAVED 256
#define CARRY_LINES 4096 /* of one insertion: it stays within a tenth of a millisecond */
#define FORCED UINT64_MAX

static uint64_t peek(const _Atomic uint64_t *v) { return cache_peek_u64(v); }

/* The record at a log's tail, and the slot that shows it. */
struct leaving {
	struct cache_place p;
	struct cache_head h;
	uint64_t pos, lines;
	int i; /* -1: nobody shows it: a pad, or it was replaced or removed */
	unsigned hits;
};

/* False: the log makes no sense. */
static bool oldest(const struct cache *c, const struct cache_place *at, enum cache_which w, struct leaving *l)
{
	l->pos = peek(&at->shard->reclaimed[w]);
	l->i = -1;
	if (l->pos >= peek(&at->shard->head[w]) || !cache_log_head(c, at, l->pos, &l->h))
		return false;
	if (l->h.cls == CACHE_PAD) {
		l->lines = l->h.len;
		return true;
	}
	l->lines = cache_lines(l->h.len);
	l->p = cache_place_of(c, cache_hash(c, (enum cache_class)l->h.cls, &l->h.key));
	for (int i = 0; i < CACHE_WAYS && l->p.shard == at->shard; i++)
		if (peek(&l->p.bucket->slots[i]) == (l->pos << 16 | l->p.tag)) {
			l->i = i;
			l->hits = atomic_load_explicit(&l->p.bucket->hits[i], memory_order_relaxed);
		}
	return true;
}

static void forget(struct cache_shard *s, const struct leaving *l, struct cache_eviction *e)
{
	if (!e->now_us)
		e->now_us = clock_real_us();
	cache_log_count_out(s, &l->h);
	cache_add_u64(&s->of[l->h.cls].evictions, 1);
	if (e->now_us > l->h.filled_us)
		cache_add_u64(&s->of[l->h.cls].evicted_ms, (uint64_t)(e->now_us - l->h.filled_us) / 1000);
	atomic_store_explicit(&l->p.bucket->slots[l->i], 0, memory_order_release);
}

/* Copies a value to the head of a ring from a place that may overlap it. In one ring the target's position is
 * at most one round above the source's (else there was no room), and at least a record above it: so
 * when the two overlap in the ring, the target lies before the source, and ascending words are safe. */
static void move_lines(char *to, const char *from, uint64_t lines)
{
	_Atomic uint64_t *d = (_Atomic uint64_t *)(void *)to;
	const _Atomic uint64_t *s = (const _Atomic uint64_t *)(const void *)from;
	if (to == from)
		return;
	for (uint64_t i = 0; i < lines << (CACHE_LINE_SHIFT - 3); i++)
		cache_put_u64(&d[i], peek(&s[i]));
}

/* To the main log's head, where there is room for it. */
static void move_to_head(const struct cache *c, struct leaving *l, unsigned hits)
{
	const char *from = cache_line_at(c, &l->p, l->pos) + sizeof(l->h);
	l->h.pos = cache_log_place(c, &l->p, CACHE_MAIN, l->lines);
	char *to = cache_line_at(c, &l->p, l->h.pos);
	move_lines(to + sizeof(l->h), from, l->lines - 1);
	FAULT_POINT(cache_carried);
	shm_copy_in(to, &l->h, sizeof(l->h));
	cache_log_publish(&l->p, l->i, l->h.pos, l->lines, hits);
}

/* It was read, and the allowance lasts. */
static bool may_carry(const struct cache *c, const struct leaving *l, const struct cache_eviction *e)
{
	const struct cache_shard *s = l->p.shard;
	return l->hits && peek(&s->carry) && l->lines <= e->carry_lines &&
	       cache_log_has_room(c, s, CACHE_MAIN, l->pos + l->lines, l->lines);
}

/* What it costs to let a record go for `lines` that are needed: a large one that makes room for many is cheap, but never
 * free. */
static uint64_t worth(const struct cache *c, const struct leaving *l, uint64_t lines)
{
	uint64_t wanted = cache_sketch_of(c, &l->p) + l->hits;
	return lines >= l->lines || !wanted ? wanted : wanted * lines / l->lines + 1;
}

/* Room in the main log for a candidate that is wanted so much. False: those who would have to go are wanted as much, or
 * the shard was in disorder and is empty. */
static bool make_main_room(struct cache *c, const struct cache_place *at, uint64_t lines, uint64_t wanted,
			   struct cache_eviction *e)
{
	struct cache_shard *s = at->shard;
	uint64_t spent = 0;
	struct leaving l;
	while (!cache_log_has_room(c, s, CACHE_MAIN, peek(&s->reclaimed[CACHE_MAIN]), lines)) {
		if (!oldest(c, at, CACHE_MAIN, &l)) {
			cache_log_disorder(s);
			return false;
		}
		bool carry = l.i >= 0 && may_carry(c, &l, e);
		if (l.i >= 0 && !carry) {
			if (wanted != FORCED && (spent += worth(c, &l, lines)) >= wanted)
				return false;
			forget(s, &l, e);
		}
		cache_log_reclaim(s, l.pos + l.lines);
		FAULT_POINT(cache_reclaimed);
		if (carry) {
			cache_put_u64(&s->carry, peek(&s->carry) - 1);
			e->carry_lines -= l.lines;
			cache_sketch_add(c, &l.p, 1);
			move_to_head(c, &l, l.hits - 1);
		}
	}
	return true;
}

/* The oldest of the small log is judged. */
static void advance_small(struct cache *c, const struct cache_place *at, struct cache_eviction *e)
{
	struct cache_shard *s = at->shard;
	struct leaving l;
	if (!oldest(c, at, CACHE_SMALL, &l)) {
		cache_log_disorder(s);
		return;
	}
	if (l.i >= 0) {
		bool admitted = make_main_room(c, at, l.lines, cache_sketch_of(c, &l.p) + l.hits, e);
		if (peek(&s->reclaimed[CACHE_SMALL]) != l.pos)
			return; /* emptied */
		cache_sketch_add(c, &l.p, l.hits);
		if (admitted)
			move_to_head(c, &l, 0);
		else
			forget(s, &l, e);
		FAULT_POINT(cache_judged);
	}
	cache_log_reclaim(s, l.pos + l.lines);
}

void cache_evict_for(struct cache *c, const struct cache_place *p, enum cache_which w, uint64_t lines,
		     struct cache_eviction *e)
{
	struct cache_shard *s = p->shard;
	uint64_t carry = peek(&s->carry) + CARRY_EARN;
	cache_put_u64(&s->carry, carry < CARRY_SAVED ? carry : CARRY_SAVED);
	e->carry_lines = CARRY_LINES;
	if (w == CACHE_MAIN)
		make_main_room(c, p, lines, FORCED, e);
	while (w == CACHE_SMALL && !cache_log_has_room(c, s, w, peek(&s->reclaimed[w]), lines))
		advance_small(c, p, e);
}

/* Of those nobody read first the ones in the small log, and of them the oldest. */
int cache_evict_slot(const struct cache *c, const struct cache_place *p, struct cache_eviction *e)
{
	struct leaving l = {.p = *p};
	uint64_t least = UINT64_MAX;
	for (int i = 0; i < CACHE_WAYS; i++) {
		uint64_t slot = peek(&p->bucket->slots[i]);
		if (!cache_is_live(p, slot))
			return i;
		uint64_t hits = atomic_load_explicit(&p->bucket->hits[i], memory_order_relaxed),
			 rank = hits << CACHE_POS_BITS | cache_slot_pos(slot);
		if (rank < least) {
			least = rank;
			l.pos = cache_slot_pos(slot);
			l.i = i;
		}
	}
	if (cache_log_head(c, p, l.pos, &l.h))
		forget(p->shard, &l, e);
	else
		cache_log_disorder(p->shard);
	return l.i;
}
