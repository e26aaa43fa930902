#include "pending.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#define CHAINS 3 /* by id, by content, by external id */

/* Segment: header, chain heads (3 × buckets), entries (capacity × 128 bytes).
 *
 * Positions (head, tail, links, chain heads) are indices + 1 into the endless sequence of entries, so
 * that 0 means none; entry i lies at i % capacity. */
struct layout {
	struct shm_header h;
	uint32_t capacity, buckets;
	_Alignas(CACHE_LINE) _Atomic uint64_t head; /* oldest entry that is still valid */
	_Alignas(CACHE_LINE) _Atomic uint64_t tail; /* next entry to write; below it all are published */
	_Alignas(CACHE_LINE) _Atomic uint64_t chain[];
};
struct pending {
	struct layout *l;
	size_t size;
	struct pending_entry *entries;
	uint64_t next; /* writer: next to append; tail <= next */
};

static uint32_t buckets_for(uint32_t capacity)
{
	uint32_t b = 1024;
	while (b < capacity)
		b *= 2;
	return b;
}

static size_t entries_offset(uint32_t buckets)
{
	return align_up(sizeof(struct layout) + sizeof(uint64_t) * CHAINS * (size_t)buckets, 4096);
}

size_t pending_segment_size(uint32_t capacity)
{
	return entries_offset(buckets_for(capacity)) + (size_t)capacity * sizeof(struct pending_entry);
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
	if (format) {
		l->capacity = capacity;
		l->buckets = buckets_for(capacity);
		l->h.layout = 1;
		l->h.size = size;
		l->h.magic = PENDING_MAGIC;
		atomic_store_explicit(&l->h.formatted, 1, memory_order_release);
	}
	if (!atomic_load_explicit(&l->h.formatted, memory_order_acquire) || l->h.magic != PENDING_MAGIC ||
	    l->h.layout != 1 || l->capacity != capacity) {
		munmap(l, size);
		errno = EPROTO;
		return NULL;
	}
	struct pending *p = util_zalloc(sizeof(*p));
	p->l = l;
	p->size = size;
	p->entries = (struct pending_entry *)(void *)((char *)l + entries_offset(l->buckets));
	p->next = atomic_load_explicit(&l->tail, memory_order_relaxed);
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

static struct pending_entry *slot(const struct pending *p, uint64_t i) { return &p->entries[i % p->l->capacity]; }

static _Atomic uint64_t *chain(const struct pending *p, int which, uint64_t key)
{
	size_t b = (size_t)((key * 0x9e3779b97f4a7c15ull) >> 32) & (p->l->buckets - 1);
	return &p->l->chain[(size_t)which * p->l->buckets + b];
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
	/* one slot stays free: a reader may still copy the entry just released */
	return used + more + 1 > p->l->capacity;
}

static uint64_t newest(const struct pending *p, int which, uint64_t key)
{
	return atomic_load_explicit(chain(p, which, key), memory_order_relaxed);
}

void pending_append(struct pending *p, const struct pending_entry *given)
{
	struct pending_entry e = *given;
	uint64_t i = p->next++;
	e.prev_id = newest(p, 0, id_hash(&e.id));
	e.prev_content = e.content_key ? newest(p, 1, e.content_key) : 0;
	e.prev_external = e.external_key ? newest(p, 2, e.external_key) : 0;
	shm_copy_in(slot(p, i), &e, sizeof(e));
	/* The entry is whole before a chain shows it; chains may show entries at or above `tail`, which
	 * readers leave out until tail passes them. */
	atomic_store_explicit(chain(p, 0, id_hash(&e.id)), i + 1, memory_order_release);
	if (e.content_key)
		atomic_store_explicit(chain(p, 1, e.content_key), i + 1, memory_order_release);
	if (e.external_key)
		atomic_store_explicit(chain(p, 2, e.external_key), i + 1, memory_order_release);
}

void pending_publish(struct pending *p) { atomic_store_explicit(&p->l->tail, p->next, memory_order_release); }

void pending_release(struct pending *p, uint64_t flushed_seq)
{
	uint64_t head = atomic_load_explicit(&p->l->head, memory_order_relaxed);
	uint64_t tail = atomic_load_explicit(&p->l->tail, memory_order_relaxed);
	while (head < tail && slot(p, head)->seq <= flushed_seq)
		head++;
	/* The slots below are overwritten later; a reader that copies one checks head after its copy. The fence
	 * in pending_append's caller path is this release: what follows it is ordered after the store. */
	atomic_store_explicit(&p->l->head, head, memory_order_release);
	atomic_thread_fence(memory_order_seq_cst);
}

static uint64_t link_of(const struct pending_entry *e, int which)
{
	return which == 0 ? e->prev_id : which == 1 ? e->prev_content : e->prev_external;
}

/* Chains may still show what a killed writer appended at or above tail. Such an entry is whole (it was
 * written before its chain was), so its link leads back to what the chain showed before: the heads are
 * set back, and the replay appends the same operations again at the same places. */
void pending_recover(struct pending *p)
{
	uint64_t tail = atomic_load_explicit(&p->l->tail, memory_order_relaxed);
	for (int which = 0; which < CHAINS; which++)
		for (uint32_t b = 0; b < p->l->buckets; b++) {
			_Atomic uint64_t *c = &p->l->chain[(size_t)which * p->l->buckets + b];
			uint64_t at = atomic_load_explicit(c, memory_order_relaxed), was = at;
			while (at > tail)
				at = link_of(slot(p, at - 1), which);
			if (at != was)
				atomic_store_explicit(c, at, memory_order_release);
		}
	p->next = tail;
}

/* ---- readers ---- */

/* A consistent copy of entry i, or false: it was released (and perhaps overwritten) meanwhile. */
static bool copy(const struct pending *p, uint64_t i, struct pending_entry *e)
{
	shm_copy_out(e, slot(p, i), sizeof(*e));
	atomic_thread_fence(memory_order_acquire);
	return i >= atomic_load_explicit(&p->l->head, memory_order_relaxed);
}

typedef bool same_fn(const struct pending_entry *e, const void *key);

/* Walks a chain from its newest entry. The newest published one with the key wins, but for entries of
 * one id the highest version does (an entry that was applied twice is the same one). */
static size_t walk(const struct pending *p, int which, uint64_t hash, same_fn *same, const void *key,
		   struct pending_entry *out, size_t max)
{
	uint64_t at = atomic_load_explicit(chain(p, which, hash), memory_order_acquire);
	uint64_t tail = atomic_load_explicit(&p->l->tail, memory_order_acquire), last = UINT64_MAX;
	size_t n = 0;
	while (at && n < max) {
		uint64_t i = at - 1;
		struct pending_entry e;
		if (i >= last || i < atomic_load_explicit(&p->l->head, memory_order_acquire) || !copy(p, i, &e))
			break; /* links point backwards; below head the store has it all */
		last = i;
		at = link_of(&e, which);
		if (i < tail && same(&e, key))
			out[n++] = e;
	}
	return n;
}

static bool same_id(const struct pending_entry *e, const void *key)
{
	return e->type != OP_IDEM && memcmp(e->id.b, key, 16) == 0;
}
static bool same_idem(const struct pending_entry *e, const void *key)
{
	return e->type == OP_IDEM && memcmp(e->id.b, key, 8) == 0;
}
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
	return walk(p, 0, id_hash(id), same_id, id, e, 1) == 1;
}
bool pending_find_content(struct pending *p, uint64_t key, struct pending_entry *e)
{
	return walk(p, 1, key, same_content, &key, e, 1) == 1;
}
bool pending_find_external(struct pending *p, uint64_t key, struct pending_entry *e)
{
	return walk(p, 2, key, same_external, &key, e, 1) == 1;
}
bool pending_find_idem(struct pending *p, uint64_t key, struct pending_entry *e)
{
	struct uuid id = {{0}};
	memcpy(id.b, &key, sizeof(key));
	return walk(p, 0, id_hash(&id), same_idem, &id, e, 1) == 1;
}
size_t pending_versions(struct pending *p, const struct uuid *id, struct pending_entry *out, size_t max)
{
	return walk(p, 0, id_hash(id), same_id, id, out, max);
}

uint64_t pending_count(const struct pending *p)
{
	uint64_t head = atomic_load_explicit(&p->l->head, memory_order_acquire);
	uint64_t tail = atomic_load_explicit(&p->l->tail, memory_order_acquire);
	return tail > head ? tail - head : 0;
}

/* ---- snapshot ---- */

/* Ids seen on the way from the newest entry to the oldest: the first sight of an id is its newest. */
struct seen {
	struct uuid *v;
	size_t mask;
};

static bool first_sight(struct seen *s, const struct uuid *id)
{
	static const struct uuid none;
	size_t i = (size_t)(id_hash(id) * 0x9e3779b97f4a7c15ull >> 20) & s->mask;
	while (memcmp(&s->v[i], &none, sizeof(none)) != 0) {
		if (memcmp(&s->v[i], id, sizeof(*id)) == 0)
			return false;
		i = (i + 1) & s->mask;
	}
	s->v[i] = *id;
	return true;
}

size_t pending_snapshot(struct pending *p, uint64_t ns, struct pending_entry **out_r)
{
	uint64_t tail = atomic_load_explicit(&p->l->tail, memory_order_acquire);
	uint64_t head = atomic_load_explicit(&p->l->head, memory_order_acquire);
	size_t count = tail > head ? (size_t)(tail - head) : 0, n = 0;
	struct seen s = {.mask = 15};
	bool dropped = false;
	*out_r = util_alloc((count + 1) * sizeof(**out_r));
	while (s.mask < count * 2)
		s.mask = s.mask * 2 + 1;
	s.v = util_zalloc((s.mask + 1) * sizeof(*s.v));
	for (uint64_t i = tail; i-- > head;) {
		struct pending_entry e;
		if (!copy(p, i, &e))
			break; /* this one and all below are in the store by now */
		if ((ns && e.ns != ns) || (e.type != OP_PUT && e.type != OP_DELETE && e.type != OP_NS_DROP))
			continue;
		if (e.type == OP_NS_DROP) {
			dropped = dropped || ns;
			(*out_r)[n++] = e;
		} else if (!dropped && first_sight(&s, &e.id)) {
			(*out_r)[n++] = e;
		}
	}
	free(s.v);
	return n;
}
