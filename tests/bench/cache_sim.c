#include "cache_sim.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "util.h"

const char *const sim_name[SIM_POLICIES] = {"belady", "lru", "clock", "s3fifo", "tinylfu", "tinylfu_s5", "tinylfu_p10"};

/* ---- Belady: who is wanted last goes ---- */

struct wanted {
	uint32_t next, key;
};

static void heap_push(struct wanted *h, size_t *n, struct wanted v)
{
	size_t i = (*n)++;
	for (; i && h[(i - 1) / 2].next < v.next; i = (i - 1) / 2)
		h[i] = h[(i - 1) / 2];
	h[i] = v;
}

static struct wanted heap_pop(struct wanted *h, size_t *n)
{
	struct wanted top = h[0], last = h[--*n];
	size_t i = 0, child;
	for (; (child = 2 * i + 1) < *n; i = child) {
		child += child + 1 < *n && h[child + 1].next > h[child].next;
		if (h[child].next <= last.next)
			break;
		h[i] = h[child];
	}
	h[i] = last;
	return top;
}

/* next[i]: when the key of access i is wanted again; UINT32_MAX: never. */
static uint32_t *next_uses(const struct sim_trace *t)
{
	uint32_t *next = util_zalloc(t->n * sizeof(*next)), *last = util_zalloc(t->keys * sizeof(*last));
	memset(last, 255, t->keys * sizeof(*last));
	for (size_t i = t->n; i--;) {
		next[i] = last[t->key[i]];
		last[t->key[i]] = (uint32_t)i;
	}
	free(last);
	return next;
}

static uint64_t belady(const struct sim_trace *t, uint32_t entries)
{
	uint32_t *next = next_uses(t), *until = util_zalloc(t->keys * sizeof(*until)), held = 0;
	struct wanted *heap = util_zalloc((t->n + 1) * sizeof(*heap));
	bool *in = util_zalloc(t->keys);
	size_t n = 0;
	uint64_t hits = 0;
	for (size_t i = 0; i < t->n; i++) {
		uint32_t k = t->key[i];
		if (in[k])
			hits++;
		else if (next[i] == UINT32_MAX)
			continue;
		else if (held < entries)
			held++;
		else /* entries of the heap that were read since are void */
			for (struct wanted w;;) {
				w = heap_pop(heap, &n);
				if (in[w.key] && until[w.key] == w.next) {
					in[w.key] = false;
					break;
				}
			}
		in[k] = true;
		until[k] = next[i];
		heap_push(heap, &n, (struct wanted){next[i], k});
	}
	free(next);
	free(until);
	free(heap);
	free(in);
	return hits;
}

/* ---- LRU ---- */

static uint64_t lru(const struct sim_trace *t, uint32_t entries)
{
	uint32_t end = t->keys, held = 0; /* a ring of keys through `end` */
	uint32_t *newer = util_zalloc((end + 1) * sizeof(*newer)), *older = util_zalloc((end + 1) * sizeof(*older));
	bool *in = util_zalloc(end);
	uint64_t hits = 0;
	newer[end] = older[end] = end;
	for (size_t i = 0; i < t->n; i++) {
		uint32_t k = t->key[i], out = in[k] ? k : held == entries ? newer[end] : end;
		hits += in[k];
		held += out == end;
		if (out != end) {
			newer[older[out]] = newer[out];
			older[newer[out]] = older[out];
			in[out] = false;
		}
		in[k] = true;
		older[k] = older[end];
		newer[k] = end;
		newer[older[k]] = k;
		older[end] = k;
	}
	free(newer);
	free(older);
	free(in);
	return hits;
}

/* ---- queues ---- */

struct queue {
	uint32_t *key;
	uint64_t head, tail;
	uint32_t room;
};

static struct queue new_queue(uint32_t room)
{
	return (struct queue){.key = util_zalloc((room + 1) * sizeof(uint32_t)), .room = room};
}
static bool is_full(const struct queue *q) { return q->head - q->tail >= q->room; }
static void push(struct queue *q, uint32_t key) { q->key[q->head++ % (q->room + 1)] = key; }
static uint32_t oldest(const struct queue *q) { return q->key[q->tail % (q->room + 1)]; }

enum { HITS_MAX = 3, COUNT_MAX = 15, COUNTERS = 16 /* for each entry */ };

/* The queues of S3-FIFO, and what decides about coming into the main one. */
struct sim {
	struct queue small, main;
	bool frequency; /* else: the hits in the small queue, or the ghost */
	bool *in;
	unsigned char *hits;
	uint64_t *ghost, evicted; /* of each key: the number of its eviction from the small queue */
	unsigned char *count;
	uint64_t counts, ageing_at, ageing_owed, ageing_round;
};

static unsigned char *count_of(struct sim *s, uint32_t key)
{
	return &s->count[(uint64_t)key * 0x9e3779b97f4a7c15ull % s->counts];
}

static void count(struct sim *s, uint32_t key, unsigned n)
{
	unsigned char *c = count_of(s, key);
	*c = (unsigned char)(*c + n < COUNT_MAX ? *c + n : COUNT_MAX);
}

static void age(struct sim *s)
{
	for (s->ageing_owed += s->counts; s->ageing_owed >= s->ageing_round; s->ageing_owed -= s->ageing_round) {
		s->count[s->ageing_at] >>= 1;
		s->ageing_at = (s->ageing_at + 1) % s->counts;
	}
}

/* False: who would have to go is wanted as much. */
static bool make_room(struct sim *s, unsigned wanted)
{
	while (is_full(&s->main)) {
		uint32_t k = oldest(&s->main);
		if (s->hits[k]) {
			s->hits[k]--;
			count(s, k, 1);
			push(&s->main, k);
		} else if (s->frequency && *count_of(s, k) >= wanted) {
			return false;
		} else {
			s->in[k] = false;
		}
		s->main.tail++;
	}
	return true;
}

static void leave_small(struct sim *s)
{
	uint32_t k = oldest(&s->small);
	bool stays = s->frequency ? make_room(s, *count_of(s, k) + s->hits[k]) : s->hits[k] && make_room(s, 0);
	count(s, k, s->hits[k]);
	s->small.tail++;
	s->hits[k] = 0;
	if (stays) {
		push(&s->main, k);
	} else {
		s->in[k] = false;
		s->ghost[k] = ++s->evicted;
	}
}

static uint64_t queues(const struct sim_trace *t, uint32_t entries, uint32_t small, bool frequency, uint32_t rounds)
{
	struct sim s = {.small = new_queue(small),
			.main = new_queue(entries - small),
			.frequency = frequency,
			.in = util_zalloc(t->keys),
			.hits = util_zalloc(t->keys),
			.ghost = util_zalloc(t->keys * sizeof(uint64_t)),
			.counts = (uint64_t)entries * COUNTERS,
			.ageing_round = (uint64_t)entries * rounds};
	uint64_t hits = 0;
	s.count = util_zalloc(s.counts);
	for (size_t i = 0; i < t->n; i++) {
		uint32_t k = t->key[i];
		if (s.in[k]) {
			hits++;
			s.hits[k] += s.hits[k] < HITS_MAX;
			continue;
		}
		bool known = !frequency && s.ghost[k] && s.evicted - s.ghost[k] < s.main.room;
		s.in[k] = true;
		s.hits[k] = 0;
		count(&s, k, 1);
		age(&s);
		if (!small || known) {
			make_room(&s, 0);
			push(&s.main, k);
			continue;
		}
		if (is_full(&s.small))
			leave_small(&s);
		push(&s.small, k);
	}
	free(s.small.key);
	free(s.main.key);
	free(s.in);
	free(s.hits);
	free(s.ghost);
	free(s.count);
	return hits;
}

double sim_hits(enum sim_policy policy, const struct sim_trace *t, uint32_t entries)
{
	uint32_t small = entries / 10 ? entries / 10 : 1;
	uint64_t n = 0;
	switch (policy) {
	case SIM_BELADY: n = belady(t, entries); break;
	case SIM_LRU: n = lru(t, entries); break;
	case SIM_CLOCK: n = queues(t, entries, 0, false, 1000); break;
	case SIM_S3FIFO: n = queues(t, entries, small, false, 1000); break;
	case SIM_TINYLFU: n = queues(t, entries, small, true, 5); break;
	case SIM_TINYLFU_S5: n = queues(t, entries, (small + 1) / 2, true, 5); break;
	case SIM_TINYLFU_P10: n = queues(t, entries, small, true, 10); break;
	case SIM_POLICIES: break;
	}
	return (double)n / (double)t->n;
}
