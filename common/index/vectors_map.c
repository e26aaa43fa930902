/* id → row: open addressing in 256 shards that grow one at a time. Private to the writer, rebuilt
 * by scanning after a crash. Only a hash is kept; the id itself is read from the chunk. */
#include <stdlib.h>

#include "vectors-private.h"

/* A reference: 1 | generation (33 bits) | chunk (18) | row (12). A generation that wraps around
 * 2^33 changes of hands of one chunk between two looks at an entry is not a concern. */
#define ROW_BITS 12
#define CHUNK_BITS 18
_Static_assert(VECTORS_ROWS_MAX <= 1U << ROW_BITS, "a row number fits");
_Static_assert(VECTORS_CHUNKS <= 1U << CHUNK_BITS, "a chunk number fits");

uint64_t vectors_ref(const struct vectors *v, uint32_t chunk, uint32_t row)
{
	uint64_t gen = atomic_load_explicit(&v->chunks[chunk].gen, memory_order_relaxed) >> 1;
	return 1ull << 63 | (gen << (ROW_BITS + CHUNK_BITS) & ~(1ull << 63)) | (uint64_t)chunk << ROW_BITS | row;
}

uint32_t vectors_ref_chunk(uint64_t ref) { return (uint32_t)(ref >> ROW_BITS) & (VECTORS_CHUNKS - 1); }

uint32_t vectors_ref_row(uint64_t ref) { return (uint32_t)ref & ((1U << ROW_BITS) - 1); }

static bool valid(const struct vectors *v, uint64_t ref)
{
	return vectors_ref(v, vectors_ref_chunk(ref), vectors_ref_row(ref)) == ref;
}

static bool is(const struct vectors *v, uint64_t ref, const struct uuid *id)
{
	if (!valid(v, ref))
		return false;
	const struct vectors_chunk *c = &v->chunks[vectors_ref_chunk(ref)];
	struct vectors_shape s;
	AN(vectors_shape(c->dim, c->order, &s));
	struct uuid have = vectors_load_id(v->data + c->offset, &s, vectors_ref_row(ref));
	return uuid_cmp(&have, id) == 0;
}

static struct vectors_map_shard *shard_of(const struct vectors *v, uint64_t hash)
{
	return &v->w->map.shards[hash >> 56];
}

static struct vectors_map_slot *find(const struct vectors *v, const struct uuid *id, uint64_t hash)
{
	struct vectors_map_shard *s = shard_of(v, hash);
	if (!s->cap)
		return NULL;
	for (uint32_t i = (uint32_t)hash & (s->cap - 1); s->slots[i].ref; i = (i + 1) & (s->cap - 1)) {
		if (s->slots[i].hash == hash && is(v, s->slots[i].ref, id))
			return &s->slots[i];
	}
	return NULL;
}

uint64_t vectors_map_find(const struct vectors *v, const struct uuid *id)
{
	const struct vectors_map_slot *slot = find(v, id, vectors_hash(id));
	return slot ? slot->ref : 0;
}

static void place(struct vectors_map_shard *s, uint64_t hash, uint64_t ref)
{
	uint32_t i = (uint32_t)hash & (s->cap - 1);
	while (s->slots[i].ref)
		i = (i + 1) & (s->cap - 1);
	s->slots[i] = (struct vectors_map_slot){hash, ref};
	s->used++;
}

/* Rebuilds a shard that is 3/4 full, without what has become void. */
static void grow(const struct vectors *v, struct vectors_map_shard *s)
{
	struct vectors_map_shard old = *s;
	uint32_t live = 0;
	for (uint32_t i = 0; i < old.cap; i++)
		live += old.slots[i].ref && valid(v, old.slots[i].ref);
	uint32_t cap = 16;
	while (cap < 2 * (live + 1))
		cap *= 2;
	*s = (struct vectors_map_shard){util_zalloc(cap * sizeof(*s->slots)), 0, cap};
	for (uint32_t i = 0; i < old.cap; i++) {
		if (old.slots[i].ref && valid(v, old.slots[i].ref))
			place(s, old.slots[i].hash, old.slots[i].ref);
	}
	free(old.slots);
}

void vectors_map_set(struct vectors *v, const struct uuid *id, uint64_t ref)
{
	uint64_t hash = vectors_hash(id);
	struct vectors_map_slot *slot = find(v, id, hash);
	if (slot) {
		slot->ref = ref;
		return;
	}
	struct vectors_map_shard *s = shard_of(v, hash);
	if (4 * ((uint64_t)s->used + 1) > 3 * (uint64_t)s->cap)
		grow(v, s);
	place(s, hash, ref);
}

/* Backward shift: what follows in the run moves up when the hole lies on its way. */
void vectors_map_erase(struct vectors *v, const struct uuid *id)
{
	uint64_t hash = vectors_hash(id);
	struct vectors_map_slot *slot = find(v, id, hash);
	if (!slot)
		return;
	struct vectors_map_shard *s = shard_of(v, hash);
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

void vectors_map_end(struct vectors_map *m)
{
	for (size_t i = 0; i < VECTORS_MAP_SHARDS; i++)
		free(m->shards[i].slots);
}
