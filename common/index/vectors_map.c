/* id → row: open addressing in 256 shards that grow one at a time. Private to the writer, rebuilt
 * by scanning after a crash. Only a hash is kept; the id itself is read from the chunk. */
#include <stdlib.h>

#include "vectors-private.h"

/* Is the row alive? Only such entries count. */
static bool valid(const struct vectors *v, uint32_t ref, struct uuid *id_r)
{
	const struct vectors_chunk *c = &v->chunks[vectors_ref_chunk(ref)];
	uint32_t row = vectors_ref_row(ref);
	struct vectors_shape s;
	if (!c->ns || row >= c->count || vectors_is_dead(v, c->offset, row))
		return false;
	AN(vectors_shape(c->dim, c->order, c->form, &s));
	*id_r = vectors_load_id(v->data + c->offset, &s, row);
	return true;
}

static bool is(const struct vectors *v, uint32_t ref, const struct uuid *id)
{
	struct uuid have;
	return valid(v, ref, &have) && uuid_cmp(&have, id) == 0;
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
		if (s->slots[i].hash == (uint32_t)hash && is(v, s->slots[i].ref, id))
			return &s->slots[i];
	}
	return NULL;
}

uint32_t vectors_map_find(const struct vectors *v, const struct uuid *id)
{
	const struct vectors_map_slot *slot = find(v, id, vectors_hash(id));
	return slot ? slot->ref : 0;
}

static void place(struct vectors_map_shard *s, uint32_t hash, uint32_t ref)
{
	uint32_t i = hash & (s->cap - 1);
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
	struct uuid id;
	for (uint32_t i = 0; i < old.cap; i++)
		live += old.slots[i].ref && valid(v, old.slots[i].ref, &id);
	uint32_t cap = 16;
	while (cap < 2 * (live + 1))
		cap *= 2;
	*s = (struct vectors_map_shard){util_zalloc(cap * sizeof(*s->slots)), 0, cap};
	for (uint32_t i = 0; i < old.cap; i++) {
		if (old.slots[i].ref && valid(v, old.slots[i].ref, &id))
			place(s, old.slots[i].hash, old.slots[i].ref);
	}
	free(old.slots);
}

void vectors_map_set(struct vectors *v, const struct uuid *id, uint32_t ref)
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
	place(s, (uint32_t)hash, ref);
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
		uint32_t home = s->slots[i].hash & mask;
		if (((i - home) & mask) >= ((i - hole) & mask)) {
			s->slots[hole] = s->slots[i];
			hole = i;
		}
	}
	s->slots[hole].ref = 0;
	s->used--;
}

/* For so many, in an empty map: nothing is moved while they come. */
void vectors_map_reserve(struct vectors_map *m, uint64_t n)
{
	uint64_t each = n / VECTORS_MAP_SHARDS + n / VECTORS_MAP_SHARDS / 8 +
			8; /* an eighth more: no shard gets just its share */
	uint32_t cap = 16;
	while (cap < UINT32_MAX / 4 && 3 * (uint64_t)cap < 4 * (each + 1))
		cap *= 2;
	for (size_t i = 0; i < VECTORS_MAP_SHARDS && n; i++) {
		AN(!m->shards[i].slots);
		m->shards[i] = (struct vectors_map_shard){util_zalloc(cap * sizeof(struct vectors_map_slot)), 0, cap};
	}
}

void vectors_map_end(struct vectors_map *m)
{
	for (size_t i = 0; i < VECTORS_MAP_SHARDS; i++)
		free(m->shards[i].slots);
}
