/* Inside the vector index: the shared layout and the writer's private state.
 *
 *   super | namespace slots | namespace rows | chunk keys | chunk descriptors | data
 *   and, where there is one, a file: rows of chunks that do not have them in `data` (vectors_spill.c)
 *
 * Data memory holds chunks of rows and, for namespaces that have grown, lists of codes that point to rows
 * (lists-private.h).
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
#include "priolock.h"
#include "quantize.h"
#include "rotate.h"
#include "shm.h"
#include "vectors.h"

#define VECTORS_MAGIC 0x31534345564c434full
#define VECTORS_LAYOUT LAYOUT_VECTORS
#define VECTORS_CHUNKS (1U << 18) /* descriptors; a search walks as many keys as were ever in use */
#define VECTORS_SLOTS (1U << 15)  /* namespaces: open addressing by number */
#define VECTORS_NAMESPACES (VECTORS_SLOTS / 8 * 7)
#define VECTORS_ROWS_MAX 2048U /* rows of a chunk */
#define VECTORS_WORDS (VECTORS_ROWS_MAX / 64)
#define VECTORS_PAGE 4096U
#define VECTORS_UNIT 1024U     /* smallest piece of data memory */
#define VECTORS_ORDER_MAX 16U  /* the largest piece is VECTORS_UNIT << 16 = 64 MiB */
#define VECTORS_ORDER_ROWS 13U /* and of rows 8 MiB */
#define VECTORS_HUGE (2U << 20)
#define VECTORS_KEY 32
#define VECTORS_ROW_BYTES (LIMIT_DIMENSIONS * sizeof(float)) /* of the largest */

struct vectors_super {
	struct shm_header h;
	uint64_t data_bytes, spill_bytes;	    /* spill: of the file, 0 = there is none */
	_Alignas(CACHE_LINE) _Atomic uint32_t used; /* descriptors at and above were never in use */
	_Atomic uint32_t namespaces;		    /* rows in use */
	_Atomic uint32_t ns_full;		    /* a namespace found no row: unknown ones are incomplete */
	_Atomic uint64_t live, bytes, spilled;	    /* spilled: bytes of the file in use */
	/* Moves before memory that lists have given up is used again: what a search read of any list meanwhile is void. */
	_Alignas(CACHE_LINE) _Atomic uint64_t reclaimed;
	_Atomic uint32_t loading;	/* enum vectors_loading: what lies here comes out of a file (vectors_image.c) */
	unsigned char key[VECTORS_KEY]; /* of the rows in the file; it is nowhere else */
};
enum vectors_loading { LOADING_NOT, LOADING_NOW, LOADING_DIED };
struct vectors_ns { /* a row is never given back */
	_Alignas(CACHE_LINE) _Atomic uint64_t ns;
	_Atomic uint64_t live, newest;
	_Atomic uint32_t incomplete;
	_Atomic uint32_t form;	/* enum vectors_form of the rows to come */
	_Atomic uint32_t wide;	/* VECTORS_WIDE, VECTORS_NORMS: what some row needed, chunks to come have */
	_Atomic uint64_t lists; /* offset + 1 of its struct lists; 0 = none: search all rows */
	_Atomic uint32_t norm_least, norm_most; /* floats, as bits: no row has had a norm outside; 0, 0: none yet */
};
struct vectors_chunk {
	_Alignas(CACHE_LINE) _Atomic uint64_t gen;
	_Atomic uint64_t ns; /* 0 = free */
	_Atomic uint64_t serial, offset;
	_Atomic uint32_t dim, order, form, count; /* form: enum vectors_form, with VECTORS_WIDE … */
	_Atomic uint64_t rows;			  /* … VECTORS_SPILLED: where its rows begin in the file */
};

#define VECTORS_OFF_SLOTS ((size_t)VECTORS_PAGE)
#define VECTORS_OFF_NS (VECTORS_OFF_SLOTS + sizeof(uint32_t) * VECTORS_SLOTS)
#define VECTORS_OFF_KEYS (VECTORS_OFF_NS + sizeof(struct vectors_ns) * VECTORS_NAMESPACES)
#define VECTORS_OFF_CHUNKS (VECTORS_OFF_KEYS + sizeof(uint64_t) * VECTORS_CHUNKS)
#define VECTORS_OFF_DATA                                                                                               \
	((VECTORS_OFF_CHUNKS + sizeof(struct vectors_chunk) * VECTORS_CHUNKS + VECTORS_HUGE - 1) &                     \
	 ~((size_t)VECTORS_HUGE - 1))

/* How a row is kept. Floats and halves as they came, bytes rotated (rotate.h), each row with a step of its own. */
enum vectors_form { VECTORS_FLOATS, VECTORS_HALVES, VECTORS_BYTES, VECTORS_FORMS };
/* A chunk whose rows may expire, and have versions of 64 bits; in others no row expires, and versions have 32. A namespace
 * that has had a row that needs it gets such chunks from then on. */
#define VECTORS_WIDE 8U
/* And of rows of bytes: one whose rows have norms of any size; in others they are 1, but for what rounding made of it. */
#define VECTORS_NORMS 16U
/* One whose rows are in the file, encrypted; all else that belongs to it is in memory. */
#define VECTORS_SPILLED 32U
static inline uint32_t vectors_form_plain(uint32_t form)
{
	return form & ~(VECTORS_WIDE | VECTORS_NORMS | VECTORS_SPILLED);
}
static inline bool vectors_form_known(uint32_t form) { return vectors_form_plain(form) < VECTORS_FORMS; }

/* Where things lie in a chunk of this dimension, size and form. The tombstones come first. Rows are
 * padded with zeros to whole cache lines. */
struct vectors_shape {
	uint32_t form, stride, capacity; /* stride: components; capacity: rows */
	bool wide, norm_is_short;	 /* short: 16 bits, see vectors_norm_short() */
	size_t row_bytes;
	size_t ids, expiries, versions, norms, steps; /* expiries: of wide ones only; steps: of bytes */
	size_t head, rows; /* where that ends; where rows begin, in the file perhaps: it is mapped behind the segment */
	uint64_t spilled;  /* the chunk's serial, if its rows are in the file */
};
static inline uint32_t vectors_stride(uint32_t dim) { return (dim + 15) & ~15U; }
static inline uint32_t vectors_row_stride(uint32_t dim, uint32_t form)
{
	return form == VECTORS_FLOATS ? vectors_stride(dim) : rotate_width(dim);
}
static inline size_t vectors_row_bytes(uint32_t dim, uint32_t form)
{
	size_t size = form == VECTORS_FLOATS ? sizeof(float) : form == VECTORS_HALVES ? sizeof(uint16_t) : 1;
	return size * vectors_row_stride(dim, form);
}
/* False: not even one row fits. Of a chunk that has its rows in the file: all but where that is (vectors_look). */
static inline bool vectors_shape(uint32_t dim, uint32_t order, uint32_t form, struct vectors_shape *s)
{
	size_t bytes = (size_t)VECTORS_UNIT << order, head = VECTORS_WORDS * 8;
	s->wide = form & VECTORS_WIDE;
	s->form = vectors_form_plain(form);
	size_t step = s->form == VECTORS_BYTES ? sizeof(uint16_t) : 0;
	s->norm_is_short = s->form == VECTORS_BYTES && !(form & VECTORS_NORMS);
	size_t expiry = s->wide ? 8 : 0, version = s->wide ? 8 : 4, norm = s->norm_is_short ? 2 : 4;
	s->stride = vectors_row_stride(dim, s->form);
	s->row_bytes = vectors_row_bytes(dim, s->form);
	size_t row = form & VECTORS_SPILLED ? 0 : s->row_bytes;
	size_t beside = 16 + expiry + version + norm + step, rows = (bytes - head) / (row + beside);
	if (rows && align_up(head + rows * beside, CACHE_LINE) + rows * row > bytes)
		rows--;
	s->capacity = rows < VECTORS_ROWS_MAX ? (uint32_t)rows : VECTORS_ROWS_MAX;
	s->ids = VECTORS_WORDS * 8; /* by falling alignment */
	s->expiries = s->ids + 16 * (size_t)s->capacity;
	s->versions = s->expiries + expiry * s->capacity;
	s->norms = s->versions + version * s->capacity;
	s->steps = s->norms + norm * s->capacity;
	s->rows = s->head = align_up(s->steps + step * s->capacity, CACHE_LINE);
	s->spilled = 0;
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
	struct vectors_pool_held {
		uint64_t offset;
		uint32_t order;
	} * held; /* given back, and not to be handed out again for now */
	size_t nheld, cheld;
	bool hold;
};
void vectors_pool_init(struct vectors_pool *p, uint64_t bytes);
void vectors_pool_end(struct vectors_pool *p);
bool must_check vectors_pool_take(struct vectors_pool *p, uint32_t order, uint64_t *offset_r);
void vectors_pool_give(struct vectors_pool *p, uint64_t offset, uint32_t order);
/* Of pieces that are no power of two: units of them. What is left of the power of two is free at once. */
bool must_check vectors_pool_take_units(struct vectors_pool *p, uint32_t units, uint64_t *offset_r);
void vectors_pool_give_units(struct vectors_pool *p, uint64_t offset, uint32_t units);
/* From now on nothing that is given back is handed out, so that who saves it finds it as it was: until let_go(), or until
 * there is no other memory. let_go(): some at a time; true: that was all. */
void vectors_pool_hold(struct vectors_pool *p);
bool vectors_pool_let_go(struct vectors_pool *p, size_t some);
/* After a restart: [0,end) was in use by blocks that the caller walks in ascending order: the gap
 * before each is given back, the rest becomes fresh. */
void vectors_pool_gap(struct vectors_pool *p, uint64_t from, uint64_t to);
/* Gives pages of free memory back to the system, some at a time, from unit *unit_io on; the writer may take and give in
 * between. False: that was all. */
bool vectors_pool_trim(struct vectors_pool *p, char *data, uint32_t *unit_io);
void vectors_pool_fresh(struct vectors_pool *p, uint64_t from);

/* A row by its place: 1 | chunk (18 bits) | row (11 bits); 0 names none. Whoever follows one checks what it finds there. */
#define VECTORS_ROW_BITS 11
_Static_assert(VECTORS_ROWS_MAX <= 1U << VECTORS_ROW_BITS, "a row number fits");
_Static_assert((uint64_t)VECTORS_CHUNKS << VECTORS_ROW_BITS <= 1U << 31, "a reference fits");
static inline uint32_t vectors_ref(uint32_t chunk, uint32_t row) { return 1U << 31 | chunk << VECTORS_ROW_BITS | row; }
static inline uint32_t vectors_ref_chunk(uint32_t ref) { return ref >> VECTORS_ROW_BITS & (VECTORS_CHUNKS - 1); }
static inline uint32_t vectors_ref_row(uint32_t ref) { return ref & ((1U << VECTORS_ROW_BITS) - 1); }

/* ---- id → row, private to the writer ----
 * References to rows that are dead count for nothing: dropping a namespace costs its chunks, not its rows. */
#define VECTORS_MAP_SHARDS 256 /* each grows alone: no long pause */
struct vectors_map {
	struct vectors_map_shard {
		uint32_t *refs; /* 0 = empty, 1 = was erased; behind them a byte of hash for each */
		uint32_t used, cap;
	} shards[VECTORS_MAP_SHARDS];
};

/* ---- pages before they are needed (vectors_pages.c) ---- */
struct vectors_pages;
/* A row of row_bytes is written at rows + at, of an area that ends at rows + end. file: of the file. */
void vectors_pages_ahead(struct vectors *v, const char *rows, size_t at, size_t row_bytes, size_t end, bool file);
void vectors_pages_end(struct vectors_pages **p);

struct vectors_row { /* a row on its way into a chunk */
	uint64_t ns, version;
	struct uuid id;
	int64_t expires_us;
	float norm, step;
	uint32_t dim, form; /* form: plain */
	const void *data;   /* normalised, in that form, padded to the stride */
};

struct vectors_writer {
	struct vectors_map map;
	struct vectors_pool pool, file; /* memory; the file of rows */
	struct spill *spill;		/* to read and write there, under the lock */
	uint64_t serial;		/* of the youngest chunk, */
	uint64_t taken_over;		/* and of the youngest that a predecessor left */
	uint32_t *open;			/* per namespace row: its newest chunk + 1; 0 = none */
	uint16_t *live;			/* per chunk */
	uint8_t *queued;		/* per chunk: waits in victims */
	struct vectors_pool_stack free_chunks, victims;
	uint64_t reserve; /* offset + 1 of memory kept for compaction; 0 = none now */
	uint32_t reserve_order;
	bool huge;	/* huge pages were asked for */
	float *scratch; /* a padded row as it came, */
	void *formed;	/* and in the form that it is kept in */
	struct vectors_pages *pages;
	struct priolock lock; /* inserts, and the slices of the background behind them */
	struct vectors_stages stages;
	struct lists_writer *lists;
	_Atomic bool due;   /* there may be something for the background */
	_Atomic bool later; /* there will be */
	struct work *work;  /* NULL: nothing was ever to be done */
};

struct lists_writer;
struct work;

struct vectors {
	char *base;
	size_t size, mapped; /* mapped: with what lies behind */
	struct vectors_super *super;
	_Atomic uint32_t *slots; /* row + 1; 0 = free */
	struct vectors_ns *ns;
	_Atomic uint64_t *keys; /* per chunk its namespace: the dense copy that searches walk */
	struct vectors_chunk *chunks;
	char *data;
	uint64_t data_bytes;
	char *spill; /* the file of rows, somewhere behind `data` */
	uint64_t spill_bytes;
	void *cipher; /* EVP_CIPHER; NULL without the file */
	const struct kernels *kernels;
	const struct quantize_kernels *quantize;
	struct vectors_writer *w; /* NULL in readers */
};

/* A chunk of this dimension as its descriptor says at this moment; NULL: nothing within the segment and the file can be
 * meant. Who reads beside the writer believes it when he has found the generation unmoved. */
static inline char *vectors_look(const struct vectors *v, const struct vectors_chunk *c, uint32_t dim,
				 struct vectors_shape *s)
{
	uint64_t offset = atomic_load_explicit(&c->offset, memory_order_relaxed);
	uint64_t rows = atomic_load_explicit(&c->rows, memory_order_relaxed);
	uint32_t order = atomic_load_explicit(&c->order, memory_order_relaxed);
	uint32_t form = atomic_load_explicit(&c->form, memory_order_relaxed);
	if (order > VECTORS_ORDER_MAX || !vectors_form_known(form) || offset % VECTORS_UNIT ||
	    offset >= v->data_bytes || v->data_bytes - offset < (uint64_t)VECTORS_UNIT << order ||
	    !vectors_shape(dim, order, form, s))
		return NULL;
	if (form & VECTORS_SPILLED) {
		if (!s->row_bytes || s->row_bytes > VECTORS_ROW_BYTES || rows % VECTORS_UNIT ||
		    rows >= v->spill_bytes || v->spill_bytes - rows < (uint64_t)s->capacity * s->row_bytes)
			return NULL;
		s->rows = (size_t)(v->spill - (v->data + offset)) + rows;
		s->spilled = atomic_load_explicit(&c->serial, memory_order_relaxed);
	}
	return v->data + offset;
}
/* The same for the writer, whose chunk it is. */
static inline char *vectors_own(const struct vectors *v, const struct vectors_chunk *c, struct vectors_shape *s)
{
	char *base = vectors_look(v, c, c->dim, s);
	AN(base);
	return base;
}

/* Inside a chunk. Only the writer may use these without the generation check. */
static inline _Atomic uint64_t *vectors_tombs(const struct vectors *v, uint64_t offset)
{
	return (_Atomic uint64_t *)(void *)(v->data + offset);
}
static inline bool vectors_is_dead(const struct vectors *v, uint64_t offset, uint32_t row)
{
	return vectors_tombs(v, offset)[row / 64] >> (row % 64) & 1;
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
static inline uint64_t vectors_load_version(const char *chunk, const struct vectors_shape *s, uint32_t row)
{
	return s->wide ? vectors_load_u64(chunk, s->versions, row) : vectors_load_u32(chunk, s->versions, row);
}
static inline int64_t vectors_load_expiry(const char *chunk, const struct vectors_shape *s, uint32_t row)
{
	return s->wide ? (int64_t)vectors_load_u64(chunk, s->expiries, row) : 0;
}
/* Of a row of bytes: the upper half of a float. */
static inline float vectors_load_step(const char *chunk, const struct vectors_shape *s, uint32_t row)
{
	const _Atomic uint16_t *p = (const _Atomic uint16_t *)(const void *)(chunk + s->steps) + row;
	uint32_t bits = (uint32_t)atomic_load_explicit(p, memory_order_relaxed) << 16;
	float f;
	memcpy(&f, &bits, sizeof(f));
	return f;
}
/* A norm near 1 in 16 bits, more closely than a float holds it; false: it is not so near. */
static inline bool vectors_norm_short(float norm, uint16_t *out)
{
	float off = (norm - 1) * 0x1p26F;
	bool near = off > -32000 && off < 32000;
	*out = near ? (uint16_t)((int)off + 32768) : 0;
	return near;
}
static inline float vectors_load_norm(const char *chunk, const struct vectors_shape *s, uint32_t row)
{
	if (s->norm_is_short) {
		const _Atomic uint16_t *p = (const _Atomic uint16_t *)(const void *)(chunk + s->norms) + row;
		return 1 + (float)((int)atomic_load_explicit(p, memory_order_relaxed) - 32768) * 0x1p-26F;
	}
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
uint32_t vectors_map_find(const struct vectors *v, const struct uuid *id); /* 0: not there */
void vectors_map_set(struct vectors *v, const struct uuid *id, uint32_t ref);
void vectors_map_erase(struct vectors *v, const struct uuid *id);
void vectors_map_reserve(struct vectors_map *m, uint64_t n);
void vectors_map_end(struct vectors_map *m);

/* vectors_form.c */
/* The form in which a namespace that has grown keeps rows of this dimension. */
uint32_t vectors_form_of(const struct vectors *v, uint32_t dim);
/* The row, which is in another form, in `form`, in the writer's memory. From floats only. */
void vectors_form_row(struct vectors *v, struct vectors_row *row, uint32_t form);
/* Row i of a chunk, rotated, rotate_width(dim) floats. */
void vectors_form_rotated(const struct vectors *v, const char *chunk, const struct vectors_shape *s, uint32_t dim,
			  uint32_t i, float *out);

/* What a search asks for, in every form that it may meet. */
struct vectors_asked {
	const struct vectors *v;
	const struct vectors_query *q;
	const struct kernels *k;
	const struct quantize_kernels *qk;
	uint32_t width;
	double norm;	    /* of the query as it came */
	float *x;	    /* normalised for cosine, padded with zeros */
	float *rotated;	    /* normalised and rotated */
	int8_t *high, *low; /* the rotated one is step · (256 · high + low) */
	float step;
	int64_t sum;	  /* of 256 · high + low */
	int32_t sum_high; /* of high alone */
	void *memory;
	struct spill *spill; /* NULL: no row of the file was asked yet */
};
void vectors_ask(struct vectors_asked *a, const struct vectors *v, const struct vectors_query *q);
/* A row of a chunk as the query, by cosine; rows of other forms than its own are not met then. */
void vectors_ask_row(struct vectors_asked *a, const struct vectors *v, const struct vectors_query *q, const char *chunk,
		     const struct vectors_shape *s, uint32_t i);
void vectors_ask_end(struct vectors_asked *a);
/* Scores of n rows of a chunk from `first` on, by the query's metric. */
void vectors_ask_rows(struct vectors_asked *a, const char *chunk, const struct vectors_shape *s, uint32_t first,
		      uint32_t n, float *out);
/* The least cosine that a row can have whose score is above `score`, with norms between `least` and `most`. */
float vectors_ask_floor(const struct vectors_asked *a, float score, float least, float most);

/* vectors_spill.c: rows in the file */
struct spill; /* for one thread; made with the first row of the file that it meets */
void spill_end(struct spill **sp);
const char *spill_open(struct spill **sp, const struct vectors *v, const char *chunk, const struct vectors_shape *s,
		       uint32_t first, uint32_t n);
/* How many of n rows can be had at a time: at least one. */
uint32_t spill_together(const struct vectors_shape *s, uint32_t n);
/* Rows as they were given, wherever they are; of the file, valid until the next call. */
static inline const char *spill_rows(struct spill **sp, const struct vectors *v, const char *chunk,
				     const struct vectors_shape *s, uint32_t first, uint32_t n)
{
	return s->spilled ? spill_open(sp, v, chunk, s, first, n) : chunk + s->rows + first * s->row_bytes;
}
/* The row is going to be asked for: of several, the disk reads all at once instead of one behind the other. */
void spill_ahead(const char *chunk, const struct vectors_shape *s, uint32_t i);
/* Those of the 64 rows from `first` on that are in the mask. */
void spill_ahead_of(const char *chunk, const struct vectors_shape *s, uint32_t first, uint64_t mask);
/* n bytes at `at` of the rows of the chunk with that serial: from clear to encrypted, or back. `at` by 16. */
void spill_crypt(struct spill **sp, const struct vectors *v, uint64_t serial, uint64_t at, const void *from, void *to,
		 size_t n);
void spill_new_key(struct vectors *v);
/* The writer: are the namespace's next rows better put into the file? */
bool spill_wanted(const struct vectors *v, const struct vectors_ns *n, uint32_t dim);
/* The writer: may a predecessor have begun the chunk's next row? Another one would be encrypted with the same counter. */
static inline bool vectors_begun(const struct vectors *v, const struct vectors_shape *s)
{
	return s->spilled && s->spilled <= v->w->taken_over;
}
/* Units that the rows of such a chunk take; room for them, given back. */
uint32_t spill_units(const struct vectors_shape *s);
bool must_check spill_take(struct vectors *v, uint32_t units, uint64_t *rows_r);
void spill_give(struct vectors *v, uint64_t rows, uint32_t units);

/* Has the namespace more rows than are compared one by one? */
static inline bool vectors_grown(const struct vectors *v, const struct vectors_ns *n, uint32_t dim)
{
	return n->live * vectors_row_bytes(dim, VECTORS_FLOATS) > v->w->stages.exact_bytes;
}
/* vectors.c: the row of a namespace; NULL: none */
struct vectors_ns *vectors_ns_find(const struct vectors *v, uint64_t ns);
/* vectors_write.c */
struct vectors_ns *vectors_ns_make(struct vectors *v, uint64_t ns); /* NULL: full */
/* Under the writer's lock. The row may be brought into another form. */
int must_check vectors_put(struct vectors *v, struct vectors_row *row);
void vectors_incomplete(struct vectors *v, uint64_t ns);
void vectors_drop_locked(struct vectors *v, uint64_t ns);
/* vectors_chunk.c: chunks changing hands */
int must_check vectors_append(struct vectors *v, struct vectors_ns *n, const struct vectors_row *row, bool compacting,
			      uint32_t *ref_r);
void vectors_chunk_free(struct vectors *v, uint32_t chunk);
void vectors_kill_row(struct vectors *v, uint32_t ref); /* tombstone; gives back what is all dead */
void vectors_reserve(struct vectors *v);
/* vectors_compact.c: moves a few rows out of mostly dead chunks */
void vectors_compact(struct vectors *v);
bool vectors_compact_row(struct vectors *v, uint32_t chunk); /* one row; false: it cannot be moved */
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
/* vectors_scan.c: compares all rows. Returns how many. */
size_t vectors_scan(const struct vectors *v, struct vectors_asked *a, const struct vectors_ns *n,
		    struct vectors_top *top);
/* vectors_work.c */
void vectors_work_hint(struct vectors *v, const struct vectors_ns *n); /* it has changed: look at it */
void vectors_work_end(struct vectors *v);
/* vectors.c: the writer's private state; new: of an empty index. */
void vectors_writer_new(struct vectors *v);
void vectors_writer_free(struct vectors *v);
/* vectors_image.c: the segment is as if it had never been used. No reader searches it. */
void vectors_clear(struct vectors *v);
/* vectors_recover.c: rebuilds the writer's private state. False: the segment makes no sense. */
bool must_check vectors_recover(struct vectors *v);
#endif
