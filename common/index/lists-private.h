/* Lists: the clustered index over a namespace's rows (an inverted file).
 *
 * A namespace that has grown has `lists`, each a chain of blocks of entries. An entry is a code of the row, one bit a
 * component (or, where a row has few components, one byte), two factors, and a reference to the row. A search ranks the
 * lists by their centroid, estimates from the codes of the nearest how similar each row is, and compares those rows
 * that may still be among the best.
 *
 * Codes: with r = x − c the rest of the rotated row behind its centroid, m the mean of the namespace's rows and q the
 * rotated query, <x,q> = <c,q> + <r,m> + <r,q−m>; the last is estimated as F · Σ_i sign(r_i)·(q−m)_i with
 * F = |r|² / Σ|r_i|, without bias over the rotations (RaBitQ: Gao, Long 2024). q−m is taken to sixteen levels
 * (quantize.h) once a search, for all lists. Most entries are left out by the front of their code and the two upper
 * planes alone: after the rotation any part of a code estimates the same, only with more noise.
 *
 * Who writes: only the writer. Publication:
 * - An entry is visible when its block's `count` covers it; a block when `next` of its predecessor, or the list's head,
 *   names it (store-release each).
 * - An entry is dead when its reference is 0. A reference may be stale: whoever follows it takes the row for what is
 *   found there, if it is a live row of the namespace, since its score is the row's own. So stale references are harmless,
 *   and missing ones are what everything here avoids.
 * - An entry that exists throughout a search may move from a list that is still to be read to one that was read
 *   before (an update), or its row may (compaction). Every such move is told in `moved`, before what it replaces dies:
 *   a reader looks there last. A reader that sees the old one dead sees the move.
 * - Rows that come fast do not look for the nearest of many lists: they go into one more, whose centroid is the mean, and
 *   which every search reads. The background puts them into their lists, a block at a time, and then lets the chain begin
 *   behind that block. Until it does, and in the block as it was, their entries there lead to them too: a search that has
 *   read a list before they came into it has taken the fresh list's head before that, and goes from there.
 * - A list that is written anew, or a whole set of lists, is published by one store. What it replaces stays as
 *   it was, no longer written to, for LISTS_LINGER at least; before its memory is used again, `super.reclaimed` moves. A
 *   reader that finds it moved, or the namespace's lists replaced, begins anew. */
#ifndef ORC_LISTS_PRIVATE_H
#define ORC_LISTS_PRIVATE_H
#include "turn.h"
#include "vectors-private.h"

#define LISTS_LINGER_MS 1000
#define LISTS_MAX 65536U
#define LISTS_MOVES 256U
#define LISTS_LOOK_AGAIN 4   /* when this part of the rows has come since */
#define LISTS_BITS_FROM 256U /* components; rows of fewer have codes of bytes */

enum lists_kind { LISTS_BITS = 1, LISTS_BYTES = 2 };

/* What it takes to find a share of the true best: measured on the namespace's own rows (lists_learn.c). */
#define LISTS_AIMS 7
extern const float lists_aims[LISTS_AIMS];
struct lists_aim {
	/* A list is read when <c,q> + margin reaches the worst of the best so far; a row is compared when its estimate
	 * and slack · F · |q−m| do. Floats, as bits. A list at the very edge may be missed, as lists are ranked by estimates first. */
	_Atomic uint32_t margin, slack;
	_Atomic uint32_t front; /* the same of an estimate from the code's front: the rest of the code is read then */
};

struct lists {			    /* in data memory, followed by its tables */
	_Atomic uint64_t ns, built; /* rows that it was made of */
	_Atomic uint32_t dim, width, count, kind, units;
	struct lists_aim aims[LISTS_AIMS];
	_Alignas(CACHE_LINE) _Atomic uint64_t moves; /* how many there were */
	_Atomic uint32_t moved[LISTS_MOVES];	     /* references; the n-th move at n % LISTS_MOVES */
};
struct lists_shape {
	size_t heads, steps, halves, factors, mean, codes, centroids, bytes;
};
static inline void lists_shape(uint32_t width, uint32_t count, struct lists_shape *s)
{
	size_t all = (size_t)count + 1;			       /* with the list of fresh rows */
	s->heads = align_up(sizeof(struct lists), CACHE_LINE); /* _Atomic u32: first block, unit + 1 */
	s->steps = s->heads + 4 * all;			       /* f32: of the centroid's bytes */
	s->halves = s->steps + 4 * all;			       /* f32: |c|² / 2 */
	s->factors = s->halves + 4 * all;		       /* u32: of the centroid's code, */
	s->mean = align_up(s->factors + 4 * all, CACHE_LINE);  /* f32[width] */
	/* made like a row's, behind the mean; all fronts, then all backs; not of the fresh list, which is not ranked */
	s->codes = s->mean + 4 * (size_t)width;
	s->centroids = s->codes + align_up((size_t)width / 8 * count, CACHE_LINE); /* u8[width] each */
	s->bytes = s->centroids + (size_t)width * all;
}

struct block {		       /* of entries: fronts of codes, factors u32, references u32, backs of codes */
	_Atomic uint32_t next; /* unit + 1 of the next */
	_Atomic uint32_t list, units, capacity;
	_Alignas(16) _Atomic uint32_t count;
	char room[CACHE_LINE - 20];
};
_Static_assert(sizeof(struct block) == CACHE_LINE, "codes begin at a line");
static inline uint32_t lists_code_bytes(uint32_t width, uint32_t kind)
{
	return kind == LISTS_BITS ? width / 8 : width;
}
/* The front of a code is a line, which says of most entries that they are not wanted; what is behind it is read of the
 * others. Not worth it for codes that are hardly longer: these have a front only. */
static inline uint32_t lists_front_bytes(uint32_t code_bytes, uint32_t kind)
{
	return kind == LISTS_BITS && code_bytes >= CACHE_LINE * 3 / 2 ? CACHE_LINE : code_bytes;
}
#define LISTS_UNITS_MAX (1U << VECTORS_ORDER_MAX)

/* A view of lists, checked: nothing in it reaches beyond the segment. */
struct lists_view {
	const struct vectors *v;
	struct lists *l;
	struct lists_shape s;
	uint32_t width, count, kind, code_bytes, front_bytes;
};
/* Where backs begin in a block with room for n entries, and where it ends. */
static inline size_t lists_backs(const struct lists_view *w, uint32_t n)
{
	return align_up(sizeof(struct block) + (size_t)n * (w->front_bytes + 8), CACHE_LINE);
}
static inline size_t lists_block_bytes(const struct lists_view *w, uint32_t n)
{
	uint32_t back = w->code_bytes - w->front_bytes;
	return back ? lists_backs(w, n) + (size_t)n * back : sizeof(struct block) + (size_t)n * (w->front_bytes + 8);
}
static inline uint32_t lists_capacity(const struct lists_view *w, uint32_t units)
{
	size_t bytes = (size_t)VECTORS_UNIT * units;
	uint32_t n = (uint32_t)((bytes - sizeof(struct block)) / (w->code_bytes + 8));
	return lists_block_bytes(w, n) > bytes ? n - 1 : n;
}
/* Of a block with room for n entries. */
static inline uint32_t lists_units(const struct lists_view *w, uint32_t n)
{
	return (uint32_t)((lists_block_bytes(w, n) + VECTORS_UNIT - 1) / VECTORS_UNIT);
}
bool must_check lists_view(const struct vectors *v, uint64_t lists, struct lists_view *w);
static inline _Atomic uint32_t *lists_head(const struct lists_view *w, uint32_t list)
{
	return (_Atomic uint32_t *)(void *)((char *)w->l + w->s.heads) + list;
}
static inline const float *lists_steps(const struct lists_view *w)
{
	return (const float *)(const void *)((const char *)w->l + w->s.steps);
}
static inline const float *lists_halves(const struct lists_view *w)
{
	return (const float *)(const void *)((const char *)w->l + w->s.halves);
}
static inline const uint32_t *lists_factors(const struct lists_view *w)
{
	return (const uint32_t *)(const void *)((const char *)w->l + w->s.factors);
}
static inline const char *lists_fronts(const struct lists_view *w) { return (const char *)w->l + w->s.codes; }
static inline const char *lists_backs_of_centroids(const struct lists_view *w)
{
	return lists_fronts(w) + (size_t)w->front_bytes * w->count;
}
static inline const float *lists_mean(const struct lists_view *w)
{
	return (const float *)(const void *)((const char *)w->l + w->s.mean);
}
static inline const uint8_t *lists_centroids(const struct lists_view *w)
{
	return (const uint8_t *)w->l + w->s.centroids;
}
/* The block of that unit + 1; NULL: no block of these lists can be there. */
struct block *lists_block(const struct lists_view *w, uint32_t unit);
/* The same for who reads beside a writer, which may use the memory for something else at any time: what is in the
 * block lies within the segment by *capacity_r, not by what the block says when it is asked again. */
struct block *lists_block_read(const struct lists_view *w, uint32_t unit, uint32_t *capacity_r);
static inline char *block_fronts(struct block *b) { return (char *)(b + 1); }
static inline char *block_backs_at(const struct lists_view *w, struct block *b, uint32_t capacity)
{
	return (char *)b + lists_backs(w, capacity);
}
static inline uint32_t *block_factors_at(const struct lists_view *w, struct block *b, uint32_t capacity)
{
	return (uint32_t *)(void *)(block_fronts(b) + (size_t)w->front_bytes * capacity);
}
static inline _Atomic uint32_t *block_refs_at(const struct lists_view *w, struct block *b, uint32_t capacity)
{
	return (_Atomic uint32_t *)(void *)(block_factors_at(w, b, capacity) + capacity);
}
static inline uint32_t *block_factors(const struct lists_view *w, struct block *b)
{
	return block_factors_at(w, b, b->capacity);
}
static inline _Atomic uint32_t *block_refs(const struct lists_view *w, struct block *b)
{
	return block_refs_at(w, b, b->capacity);
}

/* ---- the writer's side; under its lock ---- */

struct tail {	       /* of a list */
	uint32_t unit; /* + 1 of the last block; 0 = empty */
	uint32_t entries, dead, blocks;
	bool closed; /* the next entry begins a block */
};
struct ivf { /* lists, and what the writer knows of them */
	struct lists_view view;
	uint64_t at;	    /* offset + 1 */
	struct tail *tails; /* the last one is the fresh list's */
	uint64_t entries, dead;
	/* Do rows come fast? A window of rows is told by the clock. */
	int64_t window_us;
	uint32_t window;
	bool fast;
	uint64_t look_again;	/* rows of the namespace at which to look whether lists still fit */
	bool stale;		/* a list is to be written anew */
	_Atomic bool abandoned; /* being built, and no longer wanted */
};
/* The number of the list of fresh rows, and how many entries it has. */
static inline uint32_t lists_fresh(const struct lists_view *w) { return w->count; }
static inline uint32_t lists_waiting(const struct ivf *f) { return f->tails[lists_fresh(&f->view)].entries; }
/* A list that is a quarter dead, or, being one of many, in many small pieces. */
static inline bool lists_stale(const struct ivf *f, const struct tail *t)
{
	if (t == &f->tails[lists_fresh(&f->view)])
		return false; /* its blocks do not stay */
	return t->dead > t->entries / 4 + 16 || (f->view.count > 1 && t->blocks > 24);
}
/* Where a row's entry is: (unit + 1 of its block) · LISTS_PER_UNIT + index; 0 = it has none. No unit holds so many. */
#define LISTS_PER_UNIT 32U
_Static_assert(VECTORS_UNIT / (LISTS_BITS_FROM / 8 + 8) < LISTS_PER_UNIT, "places of different blocks differ");
struct lists_writer {
	struct ivf **of;	 /* per namespace row */
	uint32_t **entries;	 /* per chunk: of each row */
	uint8_t *starts;	 /* per unit: does a block begin there? */
	struct ivf *next;	 /* being built, */
	uint32_t **next_entries; /* and the entries that rows have there; chunks of that namespace only */
	struct lists_limbo {
		uint64_t offset;
		int64_t since_ms;
		uint32_t units;
	} * limbo;
	size_t limbo_n, limbo_cap;
	struct lists_piece {
		uint64_t offset;
		uint32_t units;
	} * found; /* by recovery: memory that is lists' */
	size_t found_n, found_cap;
	struct lists_piece
		arena; /* what the blocks of lists that are being laid out are cut from, one behind the other */
	bool cutting;
};
/* The entry of a row in `entries` or `next_entries`, made room for. */
uint32_t *lists_place(const struct vectors *v, uint32_t **table, uint32_t ref);
struct lists_writer *lists_writer_new(const struct vectors *v);
void lists_writer_end(struct vectors *v);

/* A new set of `count` empty lists, not published. NULL: no memory. */
struct ivf *lists_create(struct vectors *v, uint64_t ns, uint32_t dim, uint32_t count);
void lists_publish(struct vectors *v, struct ivf *f, uint32_t **entries);
/* Gives memory to others after a while: nothing may lead there any more, but a reader that is on its way. */
void lists_retire(struct vectors *v, uint64_t offset, uint32_t units);
/* The blocks from `head` on; at once if these are the lists being built. */
void lists_give_up(struct vectors *v, const struct ivf *f, uint32_t head);
void lists_retire_all(struct vectors *v, struct ivf **f);
void lists_give(struct vectors *v, uint64_t offset, uint32_t units); /* at once: no reader knows it */
/* Makes what was retired long enough ago free; at_once: all of it. True: something was. */
bool lists_reclaim(struct vectors *v, bool at_once);
/* From now on lists_take() cuts blocks from large pieces, which leaves no gaps between them, until arena_end(). */
void lists_arena_begin(struct vectors *v);
void lists_arena_end(struct vectors *v);
/* Memory for lists or entries; false: none. */
bool must_check lists_take(struct vectors *v, uint32_t units, uint64_t *offset_r);

/* A row's place in lists. `x` rotated. */
struct lists_entry {
	uint32_t list, ref, factors;
	_Alignas(64) uint8_t code[LIMIT_DIMENSIONS];
};
void lists_encode(const struct lists_view *w, const float *x, struct lists_entry *e);
/* For the list that it names already. */
void lists_encode_there(const struct lists_view *w, const float *x, struct lists_entry *e);
/* Are lists ranked by their centroids' codes? */
static inline bool lists_coded(const struct lists_view *w) { return w->kind == LISTS_BITS && w->count >= 64; }
/* The query of codes: x (rotated) behind the mean, as planes, those for fronts first; the line of the centroids' estimates.
 * Returns |x − m|. */
float lists_ask(const struct lists_view *w, const float *x, uint64_t *planes, struct quantize_line *line_r);
/* How often the front goes into the code. */
static inline float lists_share(const struct lists_view *w) { return (float)w->code_bytes / (float)w->front_bytes; }
/* The line of estimates from fronts, by the query's upper planes: 12 of the 15 · delta, and a distance counts four times,
 * as often as the front goes into the code. */
static inline struct quantize_line lists_front_line(const struct lists_view *w, const struct quantize_line *l)
{
	struct quantize_line line = *l;
	line.add *= 12 / 15.0F;
	line.mul *= 4 * lists_share(w);
	return line;
}
static inline const uint64_t *lists_back_planes(const struct lists_view *w, const uint64_t *planes)
{
	return planes + (size_t)QUANTIZE_PLANES * w->front_bytes / 8;
}
/* The distances of n codes (at most 128) whose fronts and backs lie there. */
#define LISTS_TOGETHER 128U
void lists_whole(const struct lists_view *w, const uint64_t *planes, const uint64_t *const *fronts,
		 const uint64_t *const *backs, uint32_t n, uint32_t *out);
/* The code and factors of r, a rest behind a centroid. */
uint32_t lists_code(const struct lists_view *w, const float *r, uint64_t *code);
/* Appends; *at_r is where (see LISTS_PER_UNIT). ENOSPC. */
int must_check lists_append(struct vectors *v, struct ivf *f, const struct lists_entry *e, uint32_t *at_r);
/* After a row was published, and when its chunk is given back. */
int must_check lists_row_new(struct vectors *v, const struct vectors_ns *n, uint32_t ref,
			     const struct vectors_row *row);
/* Is the next row to go into the fresh list? */
bool lists_comes_fast(const struct vectors *v, struct ivf *f);
/* Half of what may wait: there is room while the background sees to it. */
static inline bool lists_fresh_many(const struct vectors *v, const struct ivf *f)
{
	return lists_waiting(f) > v->w->stages.fresh_rows / 2;
}
/* Are there fresh rows that should be in their lists by now? */
bool lists_fresh_due(const struct vectors *v, const struct ivf *f);
/* Puts them there, beside inserts and searches. False: no memory. */
bool lists_assign(struct vectors *v, uint32_t ns_row, const struct turn *turn);
void lists_row_dead(struct vectors *v, uint32_t ns_row, uint32_t ref);
void lists_row_moved(struct vectors *v, uint32_t ns_row, uint32_t from, uint32_t to);
void lists_chunk_gone(struct vectors *v, uint32_t chunk);
void lists_drop(struct vectors *v, uint32_t ns_row);
/* To those that search: this row has taken another's place. */
void lists_tell(struct vectors *v, uint32_t ns_row, uint32_t ref);
/* Writes a list anew, without its dead entries. False: no memory. */
bool lists_rewrite(struct vectors *v, struct ivf *f, uint32_t list);

/* ---- reading ---- */
struct lists_near {
	float ranked, exact; /* <c,q>, by which it is ranked, and from which entries are estimated */
	uint32_t list;
};
struct lists_ranking {
	const struct lists_view *w;
	const struct vectors_asked *a;
	const uint64_t *planes; /* what lists_ask() made; only for codes of bits */
	struct quantize_line line;
	float rest;
	uint32_t *dist;		 /* per list: by the upper planes, of the front of its centroid's code */
	float *cosines;		 /* or <c,q>, where lists have no codes */
	struct lists_near *near; /* room for 2 · (count + 1) */
	uint32_t n;
};
void lists_rank(struct lists_ranking *r);
struct lists_near lists_nearest(struct lists_ranking *r);
/* All above the floor, but that one: near[0 … n), the nearest first. */
void lists_gather(struct lists_ranking *r, uint32_t but, float floor);
/* <c,q> of n centroids (at most 64) from the first on. */
void lists_ask_centroids(const struct lists_view *w, const struct vectors_asked *a, uint32_t first, uint32_t n,
			 float *out);
/* What a search of lists yields beside its hits: for lists_learn.c. */
struct lists_found {
	uint32_t ref;
	float cosine, ranked, estimate, factor; /* ranked: its list; factor: F · |q−m|, or 1 for codes of bytes */
	float front;				/* the estimate from the code's front */
};
struct lists_search {
	struct vectors_asked *a;
	struct vectors_top *top;
	float margin, slack, front; /* see struct lists_aim */
	uint32_t probes;	    /* 0: by margin */
	struct lists_found *found;  /* NULL, or room for k */
	struct vectors_trace trace;
};
/* Adds to s->top. False: what was read was given away meanwhile, or makes no sense: begin anew. */
bool must_check lists_search(const struct lists_view *w, struct lists_search *s);
/* Sets margin, slack and front. */
void lists_aim(const struct lists_view *w, float recall, struct lists_search *s);
struct lists_lesson {
	float margin, slack, front;
};
/* Measures on n rows of the namespace what it takes to find the true best of them. Lists that go meanwhile are no harm: then
 * it takes everything. And sets that. */
void lists_learn(const struct vectors *v, const struct lists_view *w, uint64_t ns, uint32_t dim, const uint32_t *sample,
		 size_t n, struct turn *turn, struct lists_lesson out[LISTS_AIMS]);
void lists_learned(struct lists *l, const struct lists_lesson lessons[LISTS_AIMS]);
/* The same again for lists that are in use, after their namespace has changed. */
void lists_relearn(struct vectors *v, struct vectors_ns *n, struct turn *turn);
/* Makes lists for a namespace, beside inserts and searches. `n` and its dimension; false: no memory, or stopped. True also
 * when the namespace was dropped meanwhile. */
bool lists_build(struct vectors *v, struct vectors_ns *n, uint32_t dim, uint32_t count, struct turn *turn);
/* After a writer's death, before rows are looked at: which memory is lists'; what makes no sense is dropped. Then: entries
 * for rows that lack one. */
void lists_recover(struct vectors *v);
void lists_recover_rows(struct vectors *v);

#endif
