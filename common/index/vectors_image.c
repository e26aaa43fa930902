/* The index in an image and out of it (image.h).
 *
 * Saving reads the segment as searches do, beside inserts and removals, in an order that makes what it finds a state that a
 * killed writer could have left:
 * - Nothing moves and no memory is used again (vectors_hold): what was published stays where it was, whole.
 * - Descriptors come first, each under its seqlock, then the rows that they cover; rows that come later are not there.
 * - Then lists: a block by its own head, and only what that leads to. Entries of rows that are not there are dead.
 * - Then namespaces: norms may be wider than those of the rows, never narrower.
 * What was written or removed meanwhile may be there or not: whoever loads it does that again.
 *
 * Rows and entries that are dead are blank in the image, so that it holds nothing of what was erased before. */
#define LOG_SUBSYSTEM LOG_IN_INDEX
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "fault.h"
#include "image.h"
#include "lists-private.h"
#include "log.h"

#define LET_GO 512	     /* pieces of memory that the writer waits for */
#define FILE_AT (1ull << 60) /* what the file of rows has at 0, as a place in the segment */

struct saving {
	struct vectors *v;
	struct image_writer *w;
	const _Atomic bool *stop;
	char *buf;
	size_t room;
	struct spill *spill;
	uint32_t used, namespaces;
	uint64_t live;
};

void vectors_hold(struct vectors *v)
{
	priolock_take_behind(&v->w->lock);
	vectors_pool_hold(&v->w->pool);
	vectors_pool_hold(&v->w->file);
	priolock_give(&v->w->lock);
}

static bool held(struct vectors *v)
{
	priolock_take_behind(&v->w->lock);
	bool hold = v->w->pool.hold && v->w->file.hold;
	priolock_give(&v->w->lock);
	return hold;
}

void vectors_let_go(struct vectors *v)
{
	for (bool all = false; !all;) {
		priolock_take_behind(&v->w->lock);
		all = vectors_pool_let_go(&v->w->pool, LET_GO) && vectors_pool_let_go(&v->w->file, LET_GO);
		priolock_give(&v->w->lock);
	}
}

/* ---- saving ---- */

static char *room(struct saving *s, size_t n)
{
	if (s->room < n) {
		free(s->buf);
		s->buf = util_alloc(s->room = n);
	}
	return s->buf;
}

static bool put(struct saving *s, const void *at, const void *bytes, size_t n)
{
	return image_add(s->w, IMAGE_VECTORS, (uint64_t)((const char *)at - s->v->base), bytes, n);
}

/* Free, or as it stood under one generation. */
static struct vectors_chunk copy_chunk(const struct vectors_chunk *c)
{
	for (;;) {
		uint64_t gen = atomic_load_explicit(&c->gen, memory_order_acquire);
		struct vectors_chunk copy = {.gen = gen + (gen & 1),
					     .ns = atomic_load_explicit(&c->ns, memory_order_relaxed),
					     .serial = atomic_load_explicit(&c->serial, memory_order_relaxed),
					     .offset = atomic_load_explicit(&c->offset, memory_order_relaxed),
					     .dim = atomic_load_explicit(&c->dim, memory_order_relaxed),
					     .order = atomic_load_explicit(&c->order, memory_order_relaxed),
					     .form = atomic_load_explicit(&c->form, memory_order_relaxed),
					     .rows = atomic_load_explicit(&c->rows, memory_order_relaxed),
					     .count = atomic_load_explicit(&c->count, memory_order_acquire)};
		atomic_thread_fence(memory_order_acquire);
		if (gen & 1)
			return (struct vectors_chunk){.gen = gen + 1};
		if (atomic_load_explicit(&c->gen, memory_order_relaxed) == gen)
			return copy;
	}
}

static void blank_row(char *chunk, const struct vectors_shape *s, uint32_t i)
{
	size_t version = s->wide ? 8 : 4;
	memset(chunk + s->versions + version * i, 0, version);
	if (s->wide)
		memset(chunk + s->expiries + 8 * (size_t)i, 0, 8);
	memset(chunk + s->ids + 16 * (size_t)i, 0, 16);
	size_t norm = s->norm_is_short ? 2 : 4;
	memset(chunk + s->norms + norm * i, 0, norm);
	if (s->form == VECTORS_BYTES)
		memset(chunk + s->steps + 2 * (size_t)i, 0, 2);
}

/* In the clear: the image has a key of its own, which those who erase throw away. */
static bool put_rows(struct saving *s, const struct vectors_chunk *c, const struct vectors_shape *shape, char *chunk,
		     char *rows)
{
	struct vectors *v = s->v;
	size_t bytes = c->count * shape->row_bytes;
	const char *base = v->data + c->offset;
	if (!shape->spilled)
		return put(s, base, chunk, shape->head + bytes);
	return put(s, base, chunk, shape->head) && image_add(s->w, IMAGE_VECTORS, FILE_AT + c->rows, rows, bytes);
}

static bool save_rows(struct saving *s, const struct vectors_chunk *c)
{
	struct vectors_shape shape;
	uint32_t count = c->count;
	const char *base = vectors_own(s->v, c, &shape);
	size_t bytes = count * shape.row_bytes;
	char *chunk = room(s, shape.head + bytes), *rows = chunk + shape.head;
	shm_copy_out(chunk, base, shape.head);
	if (shape.spilled && bytes)
		spill_crypt(&s->spill, s->v, shape.spilled, 0, base + shape.rows, rows, bytes);
	else
		shm_copy_out(rows, base + shape.rows, bytes);
	uint64_t *tombs = (uint64_t *)(void *)chunk;
	/* Rows that came since may have died since: here they are yet to come. */
	for (uint32_t i = count; i < VECTORS_ROWS_MAX; i++)
		tombs[i / 64] &= ~(1ull << (i % 64));
	for (uint32_t i = 0; i < shape.capacity; i++) {
		bool dead = i < count && tombs[i / 64] >> (i % 64) & 1;
		s->live += i < count && !dead;
		if (i < count && !dead)
			continue;
		blank_row(chunk, &shape, i);
		if (dead)
			memset(rows + i * shape.row_bytes, 0, shape.row_bytes);
	}
	return put_rows(s, c, &shape, chunk, rows);
}

static bool save_chunks(struct saving *s)
{
	struct vectors *v = s->v;
	s->used = atomic_load_explicit(&v->super->used, memory_order_acquire);
	struct vectors_chunk *copies = aligned_alloc(CACHE_LINE, (s->used + (size_t)1) * sizeof(*copies));
	AN(copies);
	for (uint32_t i = 0; i < s->used; i++) {
		memset(&copies[i], 0, sizeof(copies[i]));
		copies[i] = copy_chunk(&v->chunks[i]);
	}
	bool ok = !s->used || put(s, v->chunks, copies, s->used * sizeof(*copies));
	for (uint32_t i = 0; i < s->used && ok && !atomic_load(s->stop); i++)
		ok = !copies[i].ns || save_rows(s, &copies[i]);
	free(copies);
	return ok;
}

/* Returns what its `next` says; UINT32_MAX: an error. */
static uint32_t save_block(struct saving *s, const struct lists_view *w, uint32_t unit)
{
	struct block *b = lists_block(w, unit);
	AN(b);
	uint32_t next = atomic_load_explicit(&b->next, memory_order_acquire);
	uint32_t count = atomic_load_explicit(&b->count, memory_order_acquire), capacity = b->capacity;
	size_t bytes = (size_t)VECTORS_UNIT * b->units;
	char *copy = room(s, bytes);
	shm_copy_out(copy, b, bytes);
	struct block *c = (struct block *)(void *)copy;
	atomic_init(&c->next, next);
	atomic_init(&c->count, count);
	uint32_t *factors = block_factors_at(w, c, capacity), front = w->front_bytes, back = w->code_bytes - front;
	_Atomic uint32_t *refs = block_refs_at(w, c, capacity);
	char *backs = block_backs_at(w, c, capacity), *end = (char *)&refs[capacity];
	if (back) {
		memset(end, 0, (size_t)(backs - end));
		end = backs + (size_t)capacity * back;
	}
	memset(end, 0, (size_t)(copy + bytes - end)); /* another block may have been here */
	for (uint32_t i = 0; i < capacity; i++) {
		if (i < count && refs[i])
			continue;
		memset(block_fronts(c) + (size_t)i * front, 0, front);
		memset(backs + (size_t)i * back, 0, back);
		factors[i] = 0;
		atomic_init(&refs[i], 0);
	}
	return put(s, b, copy, bytes) ? next : UINT32_MAX;
}

/* Its first blocks are those that the copy of its heads names. */
static bool save_lists(struct saving *s, const struct lists_view *w)
{
	const char *from = (const char *)w->l;
	uint32_t all = w->count + 1, *heads = util_alloc(all * sizeof(*heads));
	size_t behind = w->s.heads + all * sizeof(*heads);
	for (uint32_t i = 0; i < all; i++)
		heads[i] = atomic_load_explicit(lists_head(w, i), memory_order_acquire);
	uint64_t at = (uint64_t)(from - s->v->base);
	bool ok = image_add_shared(s->w, IMAGE_VECTORS, at, from, w->s.heads) &&
		  put(s, from + w->s.heads, heads, all * sizeof(*heads)) &&
		  image_add_shared(s->w, IMAGE_VECTORS, at + behind, from + behind, w->s.bytes - behind);
	for (uint32_t i = 0; i < all && ok && !atomic_load(s->stop); i++) {
		uint32_t unit = heads[i];
		while (unit && unit != UINT32_MAX)
			unit = save_block(s, w, unit);
		ok = unit != UINT32_MAX;
	}
	free(heads);
	return ok;
}

static bool save_namespaces(struct saving *s)
{
	struct vectors *v = s->v;
	bool ok = true;
	s->namespaces = atomic_load_explicit(&v->super->namespaces, memory_order_acquire);
	struct vectors_ns *copies = aligned_alloc(CACHE_LINE, (s->namespaces + (size_t)1) * sizeof(*copies));
	AN(copies);
	for (uint32_t i = 0; i < s->namespaces && ok && !atomic_load(s->stop); i++) {
		struct vectors_ns *n = &v->ns[i];
		struct lists_view w;
		uint64_t lists = atomic_load_explicit(&n->lists, memory_order_acquire);
		if (lists && !lists_view(v, lists, &w))
			lists = 0;
		memset(&copies[i], 0, sizeof(copies[i]));
		copies[i] = (struct vectors_ns){.ns = n->ns,
						.incomplete = n->incomplete,
						.form = n->form,
						.wide = n->wide,
						.lists = lists,
						.norm_least = n->norm_least,
						.norm_most = n->norm_most};
		ok = !lists || save_lists(s, &w);
	}
	ok = ok && (!s->namespaces || atomic_load(s->stop) || put(s, v->ns, copies, s->namespaces * sizeof(*copies)));
	free(copies);
	return ok;
}

int vectors_save(struct vectors *v, struct image_writer *w, struct image_part_facts *facts_r, const _Atomic bool *stop)
{
	struct saving s = {.v = v, .w = w, .stop = stop};
	AN(v->w);
	bool ok = save_chunks(&s) && save_namespaces(&s);
	int error = errno;
	free(s.buf);
	spill_end(&s.spill);
	*facts_r = (struct image_part_facts){.layout = VECTORS_LAYOUT,
					     .used = s.used,
					     .namespaces = s.namespaces,
					     .full = atomic_load(&v->super->ns_full),
					     .live = s.live};
	if (!ok)
		return error ? error : EIO;
	return atomic_load(stop) ? ECANCELED : held(v) ? 0 : ENOMEM;
}

/* ---- loading ---- */

void vectors_clear(struct vectors *v)
{
	struct vectors_super *s = v->super;
	AN(madvise(v->base + VECTORS_PAGE, v->size - VECTORS_PAGE, MADV_REMOVE) == 0);
	atomic_store(&s->used, 0);
	atomic_store(&s->namespaces, 0);
	atomic_store(&s->ns_full, 0);
	atomic_store(&s->live, 0);
	atomic_store(&s->bytes, 0);
	atomic_store(&s->spilled, 0);
	spill_new_key(v); /* serials begin again */
}

bool vectors_unused(const struct vectors *v)
{
	return !atomic_load(&v->super->used) && !atomic_load(&v->super->namespaces);
}

bool vectors_interrupted(const struct vectors *v) { return atomic_load(&v->super->loading) == LOADING_DIED; }

struct bounds {
	const struct vectors *v;
	uint64_t rows_end, chunks_end;
	struct spilled { /* chunks with rows in the file, in the order of those */
		uint64_t from, to, serial;
	} * spilled;
	size_t nspilled;
};

static bool allowed(void *arg, uint64_t at, uint64_t n)
{
	const struct bounds *b = arg;
	if (at >= FILE_AT)
		return at - FILE_AT <= b->v->spill_bytes && n <= b->v->spill_bytes - (at - FILE_AT);
	if (at >= VECTORS_OFF_DATA)
		return at <= b->v->size && n <= b->v->size - at;
	return (at >= VECTORS_OFF_NS && at + n <= b->rows_end) || (at >= VECTORS_OFF_CHUNKS && at + n <= b->chunks_end);
}

static int by_place(const void *a, const void *b)
{
	const struct spilled *x = a, *y = b;
	return (x->from > y->from) - (x->from < y->from);
}

/* What makes no sense is left to the recovery. */
static void find_spilled(struct bounds *b, uint32_t used)
{
	b->spilled = util_alloc((used + (size_t)1) * sizeof(*b->spilled));
	for (uint32_t i = 0; i < used; i++) {
		const struct vectors_chunk *c = &b->v->chunks[i];
		struct vectors_shape s;
		if (c->ns && c->form & VECTORS_SPILLED && vectors_look(b->v, c, c->dim, &s))
			b->spilled[b->nspilled++] = (struct spilled){c->rows, c->rows + s.capacity * s.row_bytes,
								     s.spilled};
	}
	qsort(b->spilled, b->nspilled, sizeof(*b->spilled), by_place);
}

/* Pieces do not keep to chunks. False: there is no chunk that has its rows there. */
static bool place_rows(void *arg, uint64_t at, const void *bytes, size_t n)
{
	const struct bounds *b = arg;
	struct spill *sp = NULL;
	const char *from = bytes;
	at -= FILE_AT;
	while (n) {
		size_t low = 0, high = b->nspilled; /* the last one that begins at or before `at` */
		while (low < high) {
			size_t middle = (low + high) / 2;
			if (b->spilled[middle].from <= at)
				low = middle + 1;
			else
				high = middle;
		}
		const struct spilled *c = low ? &b->spilled[low - 1] : NULL;
		if (!c || at >= c->to || (at - c->from) % 16)
			break;
		size_t some = n < c->to - at ? n : (size_t)(c->to - at);
		spill_crypt(&sp, b->v, c->serial, at - c->from, from, b->v->spill + at, some);
		at += some;
		from += some;
		n -= some;
	}
	spill_end(&sp);
	return !n;
}

/* Namespaces are found by their slots, which are made here. */
static bool name_rows(struct vectors *v, uint32_t namespaces)
{
	for (uint32_t row = 0; row < namespaces; row++) {
		uint64_t ns = v->ns[row].ns;
		uint32_t i = 0;
		if (!ns || vectors_ns_find(v, ns))
			return false;
		while (v->slots[(ns + i) & (VECTORS_SLOTS - 1)])
			i++; /* ends: there are more slots than rows */
		atomic_store_explicit(&v->slots[(ns + i) & (VECTORS_SLOTS - 1)], row + 1, memory_order_release);
	}
	return true;
}

/* What has the generation of another life counts as settled. */
static bool take(struct vectors *v, int fd, struct image *m, void (*progress)(void *arg), void *arg)
{
	const struct image_part_facts *f = &image_facts(m)->part[IMAGE_VECTORS];
	struct bounds b = {.v = v,
			   .rows_end = VECTORS_OFF_NS + f->namespaces * sizeof(struct vectors_ns),
			   .chunks_end = VECTORS_OFF_CHUNKS + f->used * sizeof(struct vectors_chunk)};
	struct image_target t = {
		.fd = fd, .to = FILE_AT, .allowed = allowed, .arg = &b, .progress = progress, .progress_arg = arg};
	if (!image_read(m, IMAGE_VECTORS, &t))
		return false;
	find_spilled(&b, f->used);
	t.from = FILE_AT;
	t.to = UINT64_MAX;
	t.place = place_rows;
	bool placed = image_read(m, IMAGE_VECTORS, &t);
	free(b.spilled);
	if (!placed)
		return false;
	if (!name_rows(v, f->namespaces)) {
		log_warn("the saved vector index names a namespace twice; it is not used");
		return false;
	}
	atomic_store(&v->super->ns_full, f->full);
	atomic_store(&v->super->namespaces, f->namespaces);
	atomic_store_explicit(&v->super->used, f->used, memory_order_release);
	FAULT_POINT(vectors_loaded);
	vectors_writer_new(v);
	if (vectors_recover(v))
		return true;
	log_warn("the saved vector index is inconsistent; it is not used");
	vectors_writer_free(v);
	v->w = NULL;
	return false;
}

int vectors_load(struct vectors *v, int fd, struct image *m, void (*progress)(void *arg), void *arg)
{
	const struct image_part_facts *f = &image_facts(m)->part[IMAGE_VECTORS];
	AN(v->w);
	if (f->layout != VECTORS_LAYOUT || f->used > VECTORS_CHUNKS || f->namespaces > VECTORS_NAMESPACES) {
		log_warn("the saved vector index is of another layout; it is not used");
		return EPROTO;
	}
	AN(vectors_unused(v));
	struct vectors_stages stages = v->w->stages;
	vectors_writer_free(v);
	v->w = NULL;
	atomic_store_explicit(&v->super->loading, LOADING_NOW, memory_order_release);
	FAULT_POINT(vectors_loading);
	bool ok = take(v, fd, m, progress, arg);
	if (!ok) {
		vectors_clear(v);
		vectors_writer_new(v);
		AN(vectors_recover(v));
	} else {
		v->w->taken_over = 0; /* the segment's key has encrypted these rows and no other: their chunks go on */
	}
	vectors_reserve(v);
	vectors_stages_set(v, &stages);
	return ok ? 0 : EBADMSG;
}

void vectors_load_end(struct vectors *v, bool keep)
{
	if (!keep) {
		struct vectors_stages stages = v->w->stages;
		vectors_writer_free(v);
		vectors_clear(v);
		vectors_writer_new(v);
		AN(vectors_recover(v));
		vectors_reserve(v);
		vectors_stages_set(v, &stages);
	}
	atomic_store_explicit(&v->super->loading, LOADING_NOT, memory_order_release);
}
