/* id → document: open addressing in 256 shards that grow one at a time. Private to the writer, rebuilt by scanning after a
 * crash. Only a hash is kept; the id itself is read from the segment. References into segments that are gone are
 * void without being erased one by one, so dropping a namespace costs nothing here. */
#include <stdlib.h>

#include "postings-private.h"

/* 1 | generation (16 bits) | descriptor (19) | document (28). The id is compared, too, so a generation may wrap around. */
#define DOC_BITS 28
#define DESC_BITS 19
_Static_assert(POSTINGS_DESCS <= 1u << DESC_BITS, "a descriptor's number fits");

uint64_t postings_ref(const struct postings *p, uint32_t desc, uint32_t doc)
{
	uint64_t gen = atomic_load_explicit(&p->descs[desc].gen, memory_order_relaxed) >> 1;
	return 1ull << 63 | (gen & 0xffff) << (DOC_BITS + DESC_BITS) | (uint64_t)desc << DOC_BITS | doc;
}

uint32_t postings_ref_desc(uint64_t ref) { return (uint32_t)(ref >> DOC_BITS) & (POSTINGS_DESCS - 1); }

uint32_t postings_ref_doc(uint64_t ref) { return (uint32_t)ref & ((1u << DOC_BITS) - 1); }

static bool valid(const struct postings *p, uint64_t ref)
{
	uint32_t desc = postings_ref_desc(ref);
	return !(p->descs[desc].gen & 1) && postings_ref(p, desc, postings_ref_doc(ref)) == ref;
}

static bool is(const struct postings *p, uint64_t ref, const struct uuid *id)
{
	if (!valid(p, ref))
		return false;
	const struct postings_desc *d = &p->descs[postings_ref_desc(ref)];
	const struct postings_head *h = (const void *)(p->data + d->offset);
	uint32_t doc = postings_ref_doc(ref);
	return doc < h->docs && memcmp((const char *)h + h->at[AREA_IDS] + 16 * (size_t)doc, id, sizeof(*id)) == 0;
}

static uint64_t hash_of(const struct uuid *id)
{
	uint64_t a, b;
	memcpy(&a, id->b, 8);
	memcpy(&b, id->b + 8, 8);
	a = (a ^ (b >> 32) ^ (b << 32)) * 0x9e3779b97f4a7c15ull;
	b = (b ^ (a >> 29)) * 0xd6e8feb86659fd93ull;
	return b ^ (b >> 32);
}

static struct postings_map_shard *shard_of(const struct postings *p, uint64_t hash)
{
	return &p->w->map.shards[hash >> 56];
}

static struct postings_map_slot *find(const struct postings *p, const struct uuid *id, uint64_t hash)
{
	struct postings_map_shard *s = shard_of(p, hash);
	if (!s->cap)
		return NULL;
	for (uint32_t i = (uint32_t)hash & (s->cap - 1); s->slots[i].ref; i = (i + 1) & (s->cap - 1)) {
		if (s->slots[i].hash == hash && is(p, s->slots[i].ref, id))
			return &s->slots[i];
	}
	return NULL;
}

uint64_t postings_map_find(const struct postings *p, const struct uuid *id)
{
	const struct postings_map_slot *slot = find(p, id, hash_of(id));
	return slot ? postings_merge_moved(p, slot->ref) : 0;
}

static void place(struct postings_map_shard *s, uint64_t hash, uint64_t ref)
{
	uint32_t i = (uint32_t)hash & (s->cap - 1);
	while (s->slots[i].ref)
		i = (i + 1) & (s->cap - 1);
	s->slots[i] = (struct postings_map_slot){hash, ref};
	s->used++;
}

/* Rebuilds a shard that is 3/4 full, without what has become void. */
static void grow(const struct postings *p, struct postings_map_shard *s)
{
	struct postings_map_shard old = *s;
	uint32_t live = 0;
	for (uint32_t i = 0; i < old.cap; i++)
		live += old.slots[i].ref && valid(p, old.slots[i].ref);
	uint32_t cap = 16;
	while (cap < 2 * (live + 1))
		cap *= 2;
	*s = (struct postings_map_shard){util_zalloc(cap * sizeof(*s->slots)), 0, cap};
	for (uint32_t i = 0; i < old.cap; i++) {
		if (old.slots[i].ref && valid(p, old.slots[i].ref))
			place(s, old.slots[i].hash, old.slots[i].ref);
	}
	free(old.slots);
}

void postings_map_set(struct postings *p, const struct uuid *id, uint64_t ref)
{
	uint64_t hash = hash_of(id);
	struct postings_map_slot *slot = find(p, id, hash);
	if (slot) {
		slot->ref = ref;
		return;
	}
	struct postings_map_shard *s = shard_of(p, hash);
	if (4 * ((uint64_t)s->used + 1) > 3 * (uint64_t)s->cap)
		grow(p, s);
	place(s, hash, ref);
}

/* Backward shift: what follows in the run moves up when the hole lies on its way. */
void postings_map_erase(struct postings *p, const struct uuid *id)
{
	uint64_t hash = hash_of(id);
	struct postings_map_slot *slot = find(p, id, hash);
	if (!slot)
		return;
	struct postings_map_shard *s = shard_of(p, hash);
	uint32_t mask = s->cap - 1, hole = (uint32_t)(slot - s->slots);
	for (uint32_t i = (hole + 1) & mask; s->slots[i].ref; i = (i + 1) & mask) {
		uint32_t home = (uint32_t)s->slots[i].hash & mask;
		if (((i - home) & mask) >= ((i - hole) & mask)) {
			s->slots[hole] = s->slots[i];
			hole = i;
		}
	}
	s->slots[hole].ref = 0;
	s->used--;
}

/* For so many, in an empty map: nothing is moved while they come. */
void postings_map_reserve(struct postings_map *m, uint64_t n)
{
	uint64_t each = n / POSTINGS_SHARDS + n / POSTINGS_SHARDS / 8 +
			8; /* an eighth more: no shard gets just its share */
	uint32_t cap = 16;
	while (cap < UINT32_MAX / 4 && 3 * (uint64_t)cap < 4 * (each + 1))
		cap *= 2;
	for (size_t i = 0; i < POSTINGS_SHARDS && n; i++) {
		AN(!m->shards[i].slots);
		m->shards[i] = (struct postings_map_shard){util_zalloc(cap * sizeof(struct postings_map_slot)), 0, cap};
	}
}

void postings_map_end(struct postings_map *m)
{
	for (size_t i = 0; i < POSTINGS_SHARDS; i++)
		free(m->shards[i].slots);
}
