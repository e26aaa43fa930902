/* Inside the vector index: the shared layout and the writer's private state.
 *
 *   super | namespace slots | namespace rows | chunk keys | chunk descriptors | data
 *
 * All tables have a fixed size, so every offset is a constant. Untouched pages cost nothing, and
 * merely reading a hole of a memfd fills it: no walk goes past what is in use.
 * Who writes: only the writer (sync, one thread at a time). Readers map the segment read-only.
 *
 * Publication, from small to large:
 * - A row is visible when `count` covers it (store-release; the reader's load is an acquire).
 * - A row is dead when its bit in `tombs` is set (store-release). A reader loads the bitmap BEFORE
 *   `count`: if it sees the tombstone that an update set, it also sees the count that covers the
 *   update's new row, should that row be in the same chunk.
 * - A chunk's descriptor is a seqlock: `gen` is odd while it changes hands. Rows are immutable
 *   while `gen` stands; once it moved, whatever a reader took from the chunk since its last check is void.
 * - A namespace's rows are always appended to its newest chunk (`newest` holds its serial). A reader
 *   scans that one last and looks again for a newer one: an entry that moves while it reads only
 *   ever moves to where the reader has not been yet. So an entry that exists throughout a search is
 *   never missed, whatever the writer does meanwhile (vectors_search.c has the argument). */
#ifndef ORC_VECTORS_PRIVATE_H
#define ORC_VECTORS_PRIVATE_H
#include "contract.h"
#include "kernels.h"
#include "shm.h"
#include "vectors.h"

#define VECTORS_MAGIC 0x31534345564c434full
#define VECTORS_LAYOUT LAYOUT_VECTORS
#define VECTORS_CHUNKS (1U << 18) /* descriptors; a search walks as many keys as were ever in use */
#define VECTORS_SLOTS (1U << 15)  /* namespaces: open addressing by number */
#define VECTORS_NAMESPACES (VECTORS_SLOTS / 8 * 7)
#define VECTORS_ROWS_MAX 2048U /* rows of a chunk */
#define VECTORS_WORDS (VECTORS_ROWS_MAX / 64)
#define VECTORS_UNIT 4096U    /* smallest piece of data memory */
#define VECTORS_ORDER_MAX 11U /* the largest piece is VECTORS_UNIT << 11 = 8 MiB */
#define VECTORS_HUGE (2U << 20)

struct vectors_super {
	struct shm_header h;
	uint64_t data_bytes;
	_Alignas(CACHE_LINE) _Atomic uint32_t used; /* descriptors at and above were never in use */
	_Atomic uint32_t namespaces;		    /* rows in use */
	_Atomic uint32_t ns_full;		    /* a namespace found no row: unknown ones are incomplete */
	_Atomic uint64_t live, bytes;
};
struct vectors_ns { /* a row is never given back */
	_Alignas(CACHE_LINE) _Atomic uint64_t ns;
	_Atomic uint64_t live, newest;
	_Atomic uint32_t incomplete;
};
struct vectors_chunk {
	_Alignas(CACHE_LINE) _Atomic uint64_t gen;
	_Atomic uint64_t ns; /* 0 = free */
	_Atomic uint64_t serial, offset;
	_Atomic uint32_t dim, order, count;
};

#define VECTORS_OFF_SLOTS ((size_t)VECTORS_UNIT)
#define VECTORS_OFF_NS (VECTORS_OFF_SLOTS + sizeof(uint32_t) * VECTORS_SLOTS)
#define VECTORS_OFF_KEYS (VECTORS_OFF_NS + sizeof(struct vectors_ns) * VECTORS_NAMESPACES)
#define VECTORS_OFF_CHUNKS (VECTORS_OFF_KEYS + sizeof(uint64_t) * VECTORS_CHUNKS)
#define VECTORS_OFF_DATA                                                                                               \
	((VECTORS_OFF_CHUNKS + sizeof(struct vectors_chunk) * VECTORS_CHUNKS + VECTORS_HUGE - 1) &                     \
	 ~((size_t)VECTORS_HUGE - 1))

/* Where things lie in a chunk of this dimension and size. The tombstones come first. Rows are
 * padded with zeros to whole cache lines. */
struct vectors_shape {
	uint32_t stride, capacity; /* floats; rows */
	size_t versions, expiries, ids, norms, rows;
};
static inline uint32_t vectors_stride(uint32_t dim) { return (dim + 15) & ~15U; }
/* False: not even one row fits. */
static inline bool vectors_shape(uint32_t dim, uint32_t order, struct vectors_shape *s)
{
	size_t bytes = (size_t)VECTORS_UNIT << order, head = VECTORS_WORDS * 8 + CACHE_LINE;
	s->stride = vectors_stride(dim);
	size_t rows = (bytes - head) / (s->stride * sizeof(float) + 8 + 8 + 16 + 4);
	s->capacity = rows < VECTORS_ROWS_MAX ? (uint32_t)rows : VECTORS_ROWS_MAX;
	s->versions = VECTORS_WORDS * 8;
	s->expiries = s->versions + 8 * (size_t)s->capacity;
	s->ids = s->expiries + 8 * (size_t)s->capacity;
	s->norms = s->ids + 16 * (size_t)s->capacity;
	s->rows = align_up(s->norms + 4 * (size_t)s->capacity, CACHE_LINE);
	return s->capacity > 0;
}

/* ---- data memory: a buddy allocator whose books are private to the writer ---- */
struct vectors_pool {
	uint32_t units, fresh; /* all; those below `fresh` were handed out at least once */
	uint8_t *state;	       /* per unit: order + 1 of the free block that begins here, else 0 */
	struct vectors_pool_stack {
		uint32_t *p;
		size_t n, cap;
	} free[VECTORS_ORDER_MAX + 1]; /* hints: an entry counts only if `state` confirms it */
};
void vectors_pool_init(struct vectors_pool *p, uint64_t bytes);
void vectors_pool_end(struct vectors_pool *p);
bool must_check vectors_pool_take(struct vectors_pool *p, uint32_t order, uint64_t *offset_r);
void vectors_pool_give(struct vectors_pool *p, uint64_t offset, uint32_t order);
/* After a restart: [0,end) was in use by blocks that the caller walks in ascending order: the gap
 * before each is given back, the rest becomes fresh. */
void vectors_pool_gap(struct vectors_pool *p, uint64_t from, uint64_t to);
void vectors_pool_fresh(struct vectors_pool *p, uint64_t from);

/* ---- id → row, private to the writer ----
 * A reference names chunk, row and the chunk's generation: those into a chunk that was given back
 * are void without being erased one by one, so dropping a namespace costs its chunks, not its rows. */
#define VECTORS_MAP_SHARDS 256 /* each grows alone: no long pause */
struct vectors_map {
	struct vectors_map_shard {
		struct vectors_map_slot {
			uint64_t hash, ref; /* ref 0 = empty */
		} * slots;
		uint32_t used, cap;
	} shards[VECTORS_MAP_SHARDS];
};

/* ---- pages before they are needed (vectors_pages.c) ---- */
struct vectors_pages;
/* A row of row_bytes is written at rows + at, of an area that ends at rows + end. */
void vectors_pages_ahead(struct vectors *v, const char *rows, size_t at, size_t row_bytes, size_t end);
void vectors_pages_end(struct vectors_pages **p);

struct vectors_row { /* a row on its way into a chunk */
	uint64_t ns, version;
	struct uuid id;
	int64_t expires_us;
	float norm;
	uint32_t dim;
	const float *x; /* normalised, padded to the stride */
};

struct vectors_writer {
	struct vectors_map map;
	struct vectors_pool pool;
	uint64_t serial; /* of the youngest chunk */
	uint32_t *open;	 /* per namespace row: its newest chunk + 1; 0 = none */
	uint16_t *live;	 /* per chunk */
	uint8_t *queued; /* per chunk: waits in victims */
	struct vectors_pool_stack free_chunks, victims;
	uint64_t reserve; /* offset + 1 of memory kept for compaction; 0 = none now */
	uint32_t reserve_order;
	bool huge;	/* huge pages were asked for */
	float *scratch; /* one padded row */
	struct vectors_pages *pages;
};

struct vectors {
	char *base;
	size_t size;
	struct vectors_super *super;
	_Atomic uint32_t *slots; /* row + 1; 0 = free */
	struct vectors_ns *ns;
	_Atomic uint64_t *keys; /* per chunk its namespace: the dense copy that searches walk */
	struct vectors_chunk *chunks;
	char *data;
	uint64_t data_bytes;
	const struct kernels *kernels;
	struct vectors_writer *w; /* NULL in readers */
};

/* Inside a chunk. Only the writer may use these without the generation check. */
static inline _Atomic uint64_t *vectors_tombs(const struct vectors *v, uint64_t offset)
{
	return (_Atomic uint64_t *)(void *)(v->data + offset);
}
static inline struct uuid vectors_load_id(const char *chunk, const struct vectors_shape *s, uint32_t row)
{
	const _Atomic uint64_t *p = (const _Atomic uint64_t *)(const void *)(chunk + s->ids) + 2 * (size_t)row;
	uint64_t half[2] = {atomic_load_explicit(p, memory_order_relaxed),
			    atomic_load_explicit(p + 1, memory_order_relaxed)};
	struct uuid id;
	memcpy(id.b, half, sizeof(id.b));
	return id;
}
static inline uint64_t vectors_load_u64(const char *chunk, size_t array, uint32_t row)
{
	return atomic_load_explicit((const _Atomic uint64_t *)(const void *)(chunk + array) + row,
				    memory_order_relaxed);
}
static inline uint32_t vectors_load_u32(const char *chunk, size_t array, uint32_t row)
{
	return atomic_load_explicit((const _Atomic uint32_t *)(const void *)(chunk + array) + row,
				    memory_order_relaxed);
}
static inline float vectors_load_norm(const char *chunk, const struct vectors_shape *s, uint32_t row)
{
	uint32_t bits = vectors_load_u32(chunk, s->norms, row);
	float f;
	memcpy(&f, &bits, sizeof(f));
	return f;
}
/* Ids are mostly random in their second half, mostly time in their first. */
static inline uint64_t vectors_hash(const struct uuid *id)
{
	uint64_t a, b;
	memcpy(&a, id->b, 8);
	memcpy(&b, id->b + 8, 8);
	a = (a ^ (b >> 32) ^ (b << 32)) * 0x9e3779b97f4a7c15ull;
	b = (b ^ (a >> 29)) * 0xd6e8feb86659fd93ull;
	return b ^ (b >> 32);
}

/* vectors_map.c */
uint64_t vectors_ref(const struct vectors *v, uint32_t chunk, uint32_t row);
uint32_t vectors_ref_chunk(uint64_t ref);
uint32_t vectors_ref_row(uint64_t ref);
uint64_t vectors_map_find(const struct vectors *v, const struct uuid *id); /* 0: not there */
void vectors_map_set(struct vectors *v, const struct uuid *id, uint64_t ref);
void vectors_map_erase(struct vectors *v, const struct uuid *id);
void vectors_map_end(struct vectors_map *m);

/* vectors.c: the row of a namespace; NULL: none */
struct vectors_ns *vectors_ns_find(const struct vectors *v, uint64_t ns);
/* vectors_write.c */
struct vectors_ns *vectors_ns_make(struct vectors *v, uint64_t ns); /* NULL: full */
int must_check vectors_put(struct vectors *v, const struct vectors_row *row);
void vectors_incomplete(struct vectors *v, uint64_t ns);
/* vectors_chunk.c: chunks changing hands */
int must_check vectors_append(struct vectors *v, struct vectors_ns *n, const struct vectors_row *row, bool compacting,
			      uint64_t *ref_r);
void vectors_chunk_free(struct vectors *v, uint32_t chunk);
void vectors_kill_row(struct vectors *v, uint64_t ref); /* tombstone; gives back what is all dead */
void vectors_reserve(struct vectors *v);
/* vectors_compact.c: moves a few rows out of mostly dead chunks */
void vectors_compact(struct vectors *v);
void vectors_compact_offer(struct vectors *v, uint32_t chunk);
/* vectors_top.c: the k best rows seen so far */
struct vectors_top {
	struct vectors_hit *hits;
	uint32_t *slots; /* hash table of dedupe() */
	size_t n, cap, k, mask;
	float floor; /* below it nothing gets in */
};
void vectors_top_init(struct vectors_top *t, size_t k, float min_score);
void vectors_top_push(struct vectors_top *t, const struct vectors_hit *h);
/* Best first, ties by id, each id once. Returns the count, at most k. */
size_t vectors_top_finish(struct vectors_top *t, struct vectors_hit *out);
void vectors_top_end(struct vectors_top *t);
/* vectors_recover.c: rebuilds the writer's private state. False: the segment makes no sense. */
bool must_check vectors_recover(struct vectors *v);
#endif
