#define LOG_SUBSYSTEM LOG_IN_SYNC
#include "pending.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "contract.h"
#include "fault.h"
#include "log.h"

/* GCC's TSan does not model fences and says so. Everything shared is accessed through atomics, so no
 * race is hidden; the order that the fences give is proven in the comments. */
#if defined(__SANITIZE_THREAD__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wtsan"
#endif

#define LAYOUT LAYOUT_PENDING

enum chain { BY_ID, BY_CONTENT, BY_EXTERNAL, CHAINS };

/* Segment: header, chain heads (3 × slots), entries (slots × 128 bytes); slots = capacity rounded up to a
 * power of two. head and tail count entries endlessly; entry i lies at i mod slots. Links and chain
 * heads are i + 1, so that 0 means none.
 *
 * Why a reader never takes a torn or recycled entry for a good one. Entry i is overwritten in two cases:
 * (1) by entry i + slots, after `head` was stored above i (pending_full() keeps that order);
 * (2) i was never published, its writer was killed, and the successor uses i again; then
 *     pending_recover() has stored a new `generation` before.
 * pending_append() has a release fence between those stores and its first write to the entry; readers
 * have an acquire fence between their last read of the entry and a second look at `head` and
 * `generation`. If any byte came from the overwriting, that second look sees it.
 *
 * Why a reader never misses a published entry. A chain head leads to every entry of its bucket from
 * head on: an entry's links are written before the chain head that shows it (release), and unpublished
 * ones are passed by their links. A recovery takes the unpublished ones out of the chains before
 * `generation` moves, and their slots are used again after it; who met one of those in another
 * chain's clothes sees the new generation and starts again. */
struct layout {
	struct shm_header h;
	uint32_t capacity, slots;
	_Alignas(CACHE_LINE) _Atomic uint64_t head; /* oldest entry that the store lacks */
	_Alignas(CACHE_LINE) _Atomic uint64_t tail; /* below it all are published */
	_Alignas(CACHE_LINE) _Atomic uint64_t chain[];
};
struct pending {
	struct layout *l;
	size_t size;
	uint64_t mask; /* slots - 1, out of reach of other processes */
	struct pending_entry *entries;
	/* writer only */
	uint64_t next;		/* next to append; tail <= next */
	uint64_t published_seq; /* of the newest published entry */
	uint64_t appended_seq;
};

static uint32_t slots_for(uint32_t capacity)
{
	uint32_t n = 1024;
	while (n < capacity && n < 1u << 31)
		n *= 2;
	return n;
}

static size_t entries_offset(uint32_t slots)
{
	return align_up(sizeof(struct layout) + sizeof(uint64_t) * CHAINS * (size_t)slots, 4096);
}

size_t pending_segment_size(uint32_t capacity)
{
	uint32_t slots = slots_for(capacity);
	return entries_offset(slots) + (size_t)slots * sizeof(struct pending_entry);
}

static struct pending_entry *slot(const struct pending *p, uint64_t i) { return &p->entries[i & p->mask]; }

/* Nobody else is attached: plant->h.formatted is set after this. A new memfd is all zeros, and left
 * untouched so that its pages are taken only when used. */
static void format_segment(struct layout *l, uint32_t capacity, size_t size)
{
	uint32_t slots = slots_for(capacity);
	if (l->h.magic) {
		atomic_store_explicit(&l->h.formatted, 0, memory_order_relaxed);
		memset((char *)l + offsetof(struct layout, capacity), 0,
		       entries_offset(slots) - offsetof(struct layout, capacity));
	}
	l->capacity = capacity;
	l->slots = slots;
	l->h.layout = LAYOUT;
	l->h.size = size;
	l->h.magic = PENDING_MAGIC;
	atomic_fetch_add_explicit(&l->h.generation, 1, memory_order_relaxed);
	atomic_store_explicit(&l->h.formatted, 1, memory_order_release);
}

/* What a writer must know of its predecessor. The slot below tail is never reused by an unpublished
 * entry (one slot always stays free), so it is readable even when the table is empty. */
static void adopt(struct pending *p)
{
	p->next = atomic_load_explicit(&p->l->tail, memory_order_relaxed);
	p->published_seq = 0;
	if (p->next)
		shm_copy_out(&p->published_seq, &slot(p, p->next - 1)->seq, sizeof(p->published_seq));
	p->appended_seq = p->published_seq;
}

struct pending *pending_open(int fd, bool format, uint32_t capacity)
{
	size_t size;
	struct layout *l = shm_map(fd, false, &size);
	if (!l)
		return NULL;
	if (size < pending_segment_size(capacity)) {
		munmap(l, size);
		errno = EINVAL;
		return NULL;
	}
	if (format)
		format_segment(l, capacity, size);
	if (!atomic_load_explicit(&l->h.formatted, memory_order_acquire) || l->h.magic != PENDING_MAGIC ||
	    l->h.layout != LAYOUT || l->capacity != capacity || l->slots != slots_for(capacity)) {
		munmap(l, size);
		errno = EPROTO;
		return NULL;
	}
	struct pending *p = util_zalloc(sizeof(*p));
	p->l = l;
	p->size = size;
	p->mask = l->slots - 1;
	p->entries = (struct pending_entry *)(void *)((char *)l + entries_offset(l->slots));
	adopt(p);
	return p;
}

void pending_close(struct pending **pp)
{
	if (!*pp)
		return;
	munmap((*pp)->l, (*pp)->size);
	free(*pp);
	*pp = NULL;
}

/* ---- writer ---- */

static _Atomic uint64_t *chain(const struct pending *p, enum chain which, uint64_t key)
{
	uint64_t b = (key * 0x9e3779b97f4a7c15ull) >> 32 & p->mask;
	return &p->l->chain[(uint64_t)which * (p->mask + 1) + b];
}

static uint64_t id_hash(const struct uuid *id)
{
	uint64_t a, b;
	memcpy(&a, id->b, 8);
	memcpy(&b, id->b + 8, 8);
	return a ^ b * 0xff51afd7ed558ccdull;
}

bool pending_full(const struct pending *p, uint32_t more)
{
	uint64_t used = p->next - atomic_load_explicit(&p->l->head, memory_order_relaxed);
	return used + more + 1 > p->l->capacity; /* one slot stays free: adopt() relies on it */
}

static uint64_t newest(const struct pending *p, enum chain which, uint64_t key)
{
	return atomic_load_explicit(chain(p, which, key), memory_order_relaxed);
}

void pending_append(struct pending *p, const struct pending_entry *given)
{
	struct pending_entry e = *given;
	/* A transaction is published as a whole, and sequences ascend: what is not above the published
	 * ones is in the table already. So a replay that overlaps with what the killed predecessor
	 * published adds nothing, and a chain's first match is always the newest state. */
	if (e.seq <= p->published_seq)
		return;
	AN(e.seq >= p->appended_seq);
	if (pending_full(p, 1)) {
		/* sync asks pending_full() before it accepts; only a replay under a lowered limit gets here.
		 * Overwriting would hide acknowledged writes from readers. */
		log_error("more accepted writes wait for the store than journal.pending_max (%u) allows: raise it",
			  p->l->capacity);
		AN(!"pending table overflow");
	}
	uint64_t i = p->next++;
	p->appended_seq = e.seq;
	uint64_t id = id_hash(&e.id);
	e.prev_id = newest(p, BY_ID, id);
	e.prev_content = e.content_key ? newest(p, BY_CONTENT, e.content_key) : 0;
	e.prev_external = e.external_key ? newest(p, BY_EXTERNAL, e.external_key) : 0;
	atomic_thread_fence(memory_order_release); /* see struct layout: after head and generation */
	shm_copy_in(slot(p, i), &e, sizeof(e));
	FAULT_POINT(pending_entered);
	/* Whole before a chain shows it. Chains may show entries at or above tail; readers pass them. */
	atomic_store_explicit(chain(p, BY_ID, id), i + 1, memory_order_release);
	FAULT_POINT(pending_chained);
	if (e.content_key)
		atomic_store_explicit(chain(p, BY_CONTENT, e.content_key), i + 1, memory_order_release);
	if (e.external_key)
		atomic_store_explicit(chain(p, BY_EXTERNAL, e.external_key), i + 1, memory_order_release);
}

void pending_publish(struct pending *p)
{
	p->published_seq = p->appended_seq;
	FAULT_POINT(pending_appended);
	atomic_store_explicit(&p->l->tail, p->next, memory_order_release);
	FAULT_POINT(pending_published);
}

void pending_leaving(struct pending *p, uint64_t flushed_seq, void (*fn)(void *arg, const struct pending_entry *e),
		     void *arg)
{
	uint64_t tail = atomic_load_explicit(&p->l->tail, memory_order_relaxed);
	for (uint64_t i = atomic_load_explicit(&p->l->head, memory_order_relaxed); i < tail; i++) {
		const struct pending_entry *e = slot(p, i);
		if (e->seq > flushed_seq)
			break;
		fn(arg, e);
	}
}

void pending_release(struct pending *p, uint64_t flushed_seq)
{
	uint64_t head = atomic_load_explicit(&p->l->head, memory_order_relaxed);
	uint64_t tail = atomic_load_explicit(&p->l->tail, memory_order_relaxed);
	while (head < tail && slot(p, head)->seq <= flushed_seq)
		head++;
	FAULT_POINT(pending_releasing);
	atomic_store_explicit(&p->l->head, head, memory_order_release);
}

static uint64_t link_of(const struct pending_entry *e, enum chain which)
{
	return which == BY_ID ? e->prev_id : which == BY_CONTENT ? e->prev_content : e->prev_external;
}

/* Chains may still show what a killed writer appended at or above tail. Such an entry is whole (it was
 * written before its chain was), so its link leads back to what the chain showed before: the heads are
 * set back, then the generation moves, then the replay may use the slots again. A successor that is
 * killed in here leaves the same work, partly done, to the next. */
void pending_recover(struct pending *p)
{
	uint64_t tail = atomic_load_explicit(&p->l->tail, memory_order_relaxed);
	for (int which = 0; which < CHAINS; which++)
		for (uint64_t b = 0; b <= p->mask; b++) {
			_Atomic uint64_t *c = &p->l->chain[(uint64_t)which * (p->mask + 1) + b];
			uint64_t at = atomic_load_explicit(c, memory_order_relaxed), was = at;
			while (at > tail)
				at = link_of(slot(p, at - 1), (enum chain)which);
			if (at != was)
				atomic_store_explicit(c, at, memory_order_release);
		}
	FAULT_POINT(pending_recovering);
	atomic_fetch_add_explicit(&p->l->h.generation, 1, memory_order_release);
	adopt(p);
}

/* ---- readers ---- */

static uint64_t generation(const struct pending *p)
{
	return atomic_load_explicit(&p->l->h.generation, memory_order_acquire);
}

static uint64_t head_of(const struct pending *p) { return atomic_load_explicit(&p->l->head, memory_order_acquire); }
static uint64_t tail_of(const struct pending *p) { return atomic_load_explicit(&p->l->tail, memory_order_acquire); }

uint64_t pending_count(const struct pending *p)
{
	uint64_t head = head_of(p); /* first: head never passes the tail that is loaded later */
	return tail_of(p) - head;
}

/* Copies entry i. False: it was released meanwhile, and the copy may be of its successor in the slot. */
static bool copy(const struct pending *p, uint64_t i, struct pending_entry *e)
{
	shm_copy_out(e, slot(p, i), sizeof(*e));
	atomic_thread_fence(memory_order_acquire);
	return i >= atomic_load_explicit(&p->l->head, memory_order_relaxed);
}

typedef bool same_fn(const struct pending_entry *e, const void *key);

/* The chain's published entries with that key, newest first. False: a recovery came in between. */
static bool walk_once(const struct pending *p, enum chain which, uint64_t hash, same_fn *same, const void *key,
		      struct pending_entry *out, size_t max, size_t *n_r)
{
	uint64_t born = generation(p);
	uint64_t at = atomic_load_explicit(chain(p, which, hash), memory_order_acquire), tail = tail_of(p);
	*n_r = 0;
	while (at && *n_r < max) {
		uint64_t i = at - 1;
		struct pending_entry *e = &out[*n_r];
		if (i < head_of(p) || !copy(p, i, e))
			break; /* from here on the store has it all */
		if (atomic_load_explicit(&p->l->h.generation, memory_order_relaxed) != born)
			return false; /* copy() has the fence before this */
		at = link_of(e, which);
		AN(at <= i); /* links lead backwards: the walk ends */
		*n_r += i < tail && same(e, key);
	}
	return true; /* every link that led here was read before a look at the generation */
}

static size_t walk(const struct pending *p, enum chain which, uint64_t hash, same_fn *same, const void *key,
		   struct pending_entry *out, size_t max)
{
	size_t n;
	if (!pending_count(p))
		return 0; /* the usual case: spares the cache miss of the chain's head */
	while (!walk_once(p, which, hash, same, key, out, max, &n))
		; /* once per death of sync */
	return n;
}

static bool same_id(const struct pending_entry *e, const void *key)
{
	return (e->type == OP_PUT || e->type == OP_DELETE) && memcmp(e->id.b, key, 16) == 0;
}
static bool same_idem(const struct pending_entry *e, const void *key)
{
	return e->type == OP_IDEM && memcmp(e->id.b, key, 16) == 0;
}
/* Of content and external id only the PUTs: who asks wants the memory, and reads its newest state by id. */
static bool same_content(const struct pending_entry *e, const void *key)
{
	return e->type == OP_PUT && memcmp(&e->content_key, key, 8) == 0;
}
static bool same_external(const struct pending_entry *e, const void *key)
{
	return e->type == OP_PUT && memcmp(&e->external_key, key, 8) == 0;
}

bool pending_find_id(struct pending *p, const struct uuid *id, struct pending_entry *e)
{
	return walk(p, BY_ID, id_hash(id), same_id, id, e, 1) == 1;
}
size_t pending_find_content(struct pending *p, uint64_t key, struct pending_entry *out, size_t max)
{
	return walk(p, BY_CONTENT, key, same_content, &key, out, max);
}
bool pending_find_external(struct pending *p, uint64_t key, struct pending_entry *e)
{
	return walk(p, BY_EXTERNAL, key, same_external, &key, e, 1) == 1;
}
bool pending_find_idem(struct pending *p, uint64_t key, struct pending_entry *e)
{
	struct uuid id = {{0}};
	memcpy(id.b, &key, sizeof(key));
	return walk(p, BY_ID, id_hash(&id), same_idem, &id, e, 1) == 1;
}
size_t pending_versions(struct pending *p, const struct uuid *id, struct pending_entry *out, size_t max)
{
	return walk(p, BY_ID, id_hash(id), same_id, id, out, max);
}

/* ---- snapshot ---- */

/* What a snapshot has gathered, with a hash set of the ids in it: indices into v, + 1. The walk goes from
 * the newest entry to the oldest, so the first sight of an id is its newest state. */
struct gather {
	struct pending_entry *v;
	size_t n, cap;
	uint32_t *seen;
	size_t mask;
	uint64_t *dropped; /* namespaces whose drop was met: their older entries are void */
	size_t ndropped;
};

static void seen_put(struct gather *g, size_t at)
{
	size_t i = id_hash(&g->v[at].id) * 0x9e3779b97f4a7c15ull >> 32 & g->mask;
	while (g->seen[i])
		i = (i + 1) & g->mask;
	g->seen[i] = (uint32_t)at + 1;
}

static bool seen_has(const struct gather *g, const struct uuid *id)
{
	size_t i = id_hash(id) * 0x9e3779b97f4a7c15ull >> 32 & g->mask;
	for (; g->seen[i]; i = (i + 1) & g->mask)
		if (uuid_cmp(&g->v[g->seen[i] - 1].id, id) == 0)
			return true;
	return false;
}

static void gather_grow(struct gather *g)
{
	g->cap = g->cap ? g->cap * 2 : 64;
	g->v = util_realloc(g->v, g->cap * sizeof(*g->v));
	free(g->seen);
	g->mask = g->cap * 2 - 1;
	g->seen = util_zalloc((g->mask + 1) * sizeof(*g->seen));
	for (size_t i = 0; i < g->n; i++)
		if (g->v[i].type != OP_NS_DROP)
			seen_put(g, i);
}

static void gather_add(struct gather *g, const struct pending_entry *e)
{
	for (size_t i = 0; i < g->ndropped; i++)
		if (g->dropped[i] == e->ns)
			return;
	if (g->n == g->cap)
		gather_grow(g);
	if (e->type == OP_NS_DROP) {
		g->dropped = util_realloc(g->dropped, (g->ndropped + 1) * sizeof(*g->dropped));
		g->dropped[g->ndropped++] = e->ns;
	} else if (seen_has(g, &e->id)) {
		return;
	}
	g->v[g->n++] = *e;
	if (e->type != OP_NS_DROP)
		seen_put(g, g->n - 1);
}

size_t pending_snapshot(struct pending *p, uint64_t ns, struct pending_entry **out_r)
{
	struct gather g = {.n = 0};
	/* Published entries only, so a recovery changes nothing that is looked at here. */
	uint64_t head = head_of(p), i = tail_of(p);
	while (i-- > head) {
		struct pending_entry e;
		/* Other namespaces go by at one load each. If the slot was recycled, so was all below. */
		if (ns && __atomic_load_n(&slot(p, i)->ns, __ATOMIC_RELAXED) != ns)
			continue;
		if (!copy(p, i, &e))
			break; /* this one and all below are in the store by now */
		if (e.type == OP_PUT || e.type == OP_DELETE || e.type == OP_NS_DROP)
			gather_add(&g, &e);
	}
	free(g.seen);
	free(g.dropped);
	*out_r = g.v;
	return g.n;
}
