/* id → row: open addressing in 256 shards that grow one at a time. Private to the writer, rebuilt
 * by scanning after a crash. Five bytes a slot: the row and a byte of the id's hash, which spares most looks at rows
 * of other ids; the id itself is read from the chunk. */
#include <stdlib.h>

#include "vectors-private.h"

#define GONE 1U /* no reference, which has its highest bit set */

static struct vectors_map_shard *shard_of(const struct vectors *v, uint64_t hash)
{
	return &v->w->map.shards[hash >> 56];
}

static uint8_t *tags(const struct vectors_map_shard *s) { return (uint8_t *)(s->refs + s->cap); }
static uint8_t tag_of(uint64_t hash) { return (uint8_t)(hash >> 48); }
static uint32_t home(const struct vectors_map_shard *s, uint64_t hash)
{
	return (uint32_t)((uint64_t)(uint32_t)hash * s->cap >> 32);
}
static uint32_t after(const struct vectors_map_shard *s, uint32_t i) { return i + 1 == s->cap ? 0 : i + 1; }

/* Is the row alive? Only such entries count. */
static bool valid(const struct vectors *v, uint32_t ref, struct uuid *id_r)
{
	const struct vectors_chunk *c = &v->chunks[vectors_ref_chunk(ref)];
	uint32_t row = vectors_ref_row(ref);
	struct vectors_shape s;
	if (!c->ns || row >= c->count || vectors_is_dead(v, c->offset, row))
		return false;
	*id_r = vectors_load_id(vectors_own(v, c, &s), &s, row);
	return true;
}

static bool is(const struct vectors *v, uint32_t ref, const struct uuid *id)
{
	struct uuid have;
	return valid(v, ref, &have) && uuid_cmp(&have, id) == 0;
}

static uint32_t *find(const struct vectors *v, const struct uuid *id, uint64_t hash)
{
	struct vectors_map_shard *s = shard_of(v, hash);
	if (!s->cap)
		return NULL;
	for (uint32_t i = home(s, hash); s->refs[i]; i = after(s, i)) {
		if (s->refs[i] != GONE && tags(s)[i] == tag_of(hash) && is(v, s->refs[i], id))
			return &s->refs[i];
	}
	return NULL;
}

uint32_t vectors_map_find(const struct vectors *v, const struct uuid *id)
{
	const uint32_t *slot = find(v, id, vectors_hash(id));
	return slot ? *slot : 0;
}

static void place(struct vectors_map_shard *s, uint64_t hash, uint32_t ref)
{
	uint32_t i = home(s, hash);
	while (s->refs[i] > GONE)
		i = after(s, i);
	s->used += !s->refs[i];
	s->refs[i] = ref;
	tags(s)[i] = tag_of(hash);
}

static struct vectors_map_shard sized(uint32_t cap)
{
	return (struct vectors_map_shard){util_zalloc((size_t)cap * (sizeof(uint32_t) + 1)), 0, cap};
}

/* Rebuilds a shard that is full, without what has become void. What it has to know of an id is read from its row. */
static void grow(const struct vectors *v, struct vectors_map_shard *s)
{
	struct live {
		uint64_t hash;
		uint32_t ref;
	} *live = util_alloc(((size_t)s->used + 1) * sizeof(*live));
	uint32_t n = 0;
	struct uuid id;
	for (uint32_t i = 0; i < s->cap; i++) {
		if (s->refs[i] > GONE && valid(v, s->refs[i], &id))
			live[n++] = (struct live){vectors_hash(&id), s->refs[i]};
	}
	free(s->refs);
	*s = sized(n + n / 8 * 3 + 16);
	for (uint32_t i = 0; i < n; i++)
		place(s, live[i].hash, live[i].ref);
	free(live);
}

void vectors_map_set(struct vectors *v, const struct uuid *id, uint32_t ref)
{
	uint64_t hash = vectors_hash(id);
	uint32_t *slot = find(v, id, hash);
	if (slot) {
		*slot = ref;
		return;
	}
	struct vectors_map_shard *s = shard_of(v, hash);
	if (8 * ((uint64_t)s->used + 1) > 7 * (uint64_t)s->cap)
		grow(v, s);
	place(s, hash, ref);
}

/* Others may have gone past this slot: it is no end. */
void vectors_map_erase(struct vectors *v, const struct uuid *id)
{
	uint32_t *slot = find(v, id, vectors_hash(id));
	if (slot)
		*slot = GONE;
}

/* For so many, in an empty map: nothing is moved while they come. */
void vectors_map_reserve(struct vectors_map *m, uint64_t n)
{
	uint64_t each = n / VECTORS_MAP_SHARDS + n / VECTORS_MAP_SHARDS / 8 +
			8; /* an eighth more: no shard gets just its share */
	for (size_t i = 0; i < VECTORS_MAP_SHARDS && n; i++) {
		AN(!m->shards[i].refs);
		m->shards[i] = sized((uint32_t)(each * 8 / 7 + 2));
	}
}

void vectors_map_end(struct vectors_map *m)
{
	for (size_t i = 0; i < VECTORS_MAP_SHARDS; i++)
		free(m->shards[i].refs);
}
