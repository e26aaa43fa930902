/* Building lists for a namespace, beside inserts, removals and searches: what rows there are is sampled, clustered,
 * and encoded into lists that nobody sees; then they take the place of those before, by one store.
 *
 * Rows are only ever appended to a namespace's newest chunk, moved ones too. So a cursor that goes through chunks by
 * age, and through each from its first row, meets every row that it has not passed: a row that appears or moves is ahead
 * of it. One that it has passed is known in next_entries, where removals and moves find it. */
#include <math.h>
#include <stdlib.h>

#include "fault.h"
#include "kernels-private.h"
#include "kmeans.h"
#include "lists-private.h"
#include "log.h"
#include "vocabulary.h"

#define SLICE 16U    /* rows that the writer waits for */
#define PER_LIST 32U /* rows that a centroid is made of */
#define LEARNED 256U /* rows that are asked for */
#define SPREAD 4.5F  /* standard deviations that a byte of the sample covers */

struct build {
	struct vectors *v;
	struct vectors_ns *n;
	uint64_t ns;
	uint32_t dim, width, count;
	struct turn *turn;
	/* sample */
	int8_t *rows;
	uint32_t *refs;
	size_t nrows;
	float *mean;
	/* where the cursor is */
	uint64_t serial;
	uint32_t chunk, row;
	bool any; /* chunk is valid */
	struct ivf *f;
	float *x; /* SLICE rotated rows */
	struct lists_entry *e;
	uint64_t gens[SLICE]; /* of the chunks that they were read from */
	uint64_t unhurried;   /* rows to encode with rests; those that come meanwhile might come faster than that */
};

static void lock(const struct build *b) { priolock_take_behind(&b->v->w->lock); }
static void unlock(const struct build *b) { priolock_give(&b->v->w->lock); }

static bool given_up(const struct build *b) { return turn_over(b->turn) || (b->f && b->f->abandoned); }

/* ---- walking rows; under the lock ---- */

/* To the namespace's next chunk by age. */
static bool next_chunk(struct build *b)
{
	uint32_t used = b->v->super->used;
	uint64_t best = UINT64_MAX;
	for (uint32_t i = 0; i < used; i++) {
		const struct vectors_chunk *c = &b->v->chunks[i];
		if (b->v->keys[i] == b->ns && c->dim == b->dim && c->serial > b->serial && c->serial < best) {
			best = c->serial;
			b->chunk = i;
		}
	}
	if (best == UINT64_MAX)
		return false;
	b->serial = best;
	b->row = 0;
	b->any = true;
	return true;
}

static bool stands(const struct build *b)
{
	const struct vectors_chunk *c = &b->v->chunks[b->chunk];
	return b->any && c->ns == b->ns && c->serial == b->serial;
}

/* The next live row ahead of the cursor; 0: none for now. */
static uint32_t next_row(struct build *b)
{
	for (;;) {
		const struct vectors_chunk *c = &b->v->chunks[b->chunk];
		uint32_t count = stands(b) ? c->count : 0;
		for (; b->row < count; b->row++) {
			if (!vectors_is_dead(b->v, c->offset, b->row))
				return vectors_ref(b->chunk, b->row++);
		}
		/* the cursor stays in the newest chunk, which may get more rows */
		struct build ahead = *b;
		if (!next_chunk(&ahead))
			return 0;
		*b = ahead;
	}
}

static void load_row(const struct build *b, uint32_t ref, float *out)
{
	const struct vectors_chunk *c = &b->v->chunks[vectors_ref_chunk(ref)];
	struct vectors_shape s;
	const char *base = vectors_own(b->v, c, &s);
	vectors_form_rotated(b->v, base, &s, c->dim, vectors_ref_row(ref), out);
}

static void restart(struct build *b)
{
	b->serial = 0;
	b->any = false;
}

/* ---- the sample ---- */

static void take_sample(struct build *b, uint32_t ref)
{
	const float *x = b->x;
	b->refs[b->nrows++] = ref;
	if (!b->rows)
		return; /* references are all that is wanted */
	load_row(b, ref, b->x);
	float scale = 127 / SPREAD * sqrtf((float)b->width);
	int8_t *out = b->rows + (b->nrows - 1) * b->width;
	for (uint32_t i = 0; i < b->width; i++) {
		long q = lrintf(x[i] * scale);
		out[i] = (int8_t)(q < -127 ? -127 : q > 127 ? 127 : q);
		b->mean[i] += x[i];
	}
}

static bool gather_sample(struct build *b, size_t want)
{
	uint64_t live = b->n->live, seen = 0;
	size_t step = live / want ? live / want : 1;
	bool more = true;
	restart(b);
	while (more && b->nrows < want && !given_up(b)) {
		turn_rest(b->turn);
		lock(b);
		for (uint32_t i = 0; i < SLICE && more && b->nrows < want; i++) {
			uint32_t ref = next_row(b);
			more = ref != 0;
			if (!more || seen++ % step)
				continue;
			take_sample(b, ref);
		}
		unlock(b);
	}
	for (uint32_t i = 0; b->mean && i < b->width; i++)
		b->mean[i] /= b->nrows ? (float)b->nrows : 1;
	return b->nrows >= b->count && b->nrows && !given_up(b);
}

/* ---- centroids ---- */

KERNEL_RACY static void set_centroid(const struct lists_view *w, uint32_t list, const float *c)
{
	float most = quantize_most(c, w->width), step = most / 127, square = 0;
	uint8_t *bytes = (uint8_t *)w->l + w->s.centroids + (size_t)list * w->width;
	quantize_get()->to_bytes(c, w->width, most > 0 ? 127 / most : 0, bytes);
	float rest[LIMIT_DIMENSIONS];
	for (uint32_t i = 0; i < w->width; i++) {
		float x = step * (float)((int)bytes[i] - 128);
		square += x * x;
		rest[i] = x - lists_mean(w)[i];
	}
	uint64_t code[LIMIT_DIMENSIONS / 64];
	uint32_t factors = lists_code(w, rest, code), front = w->front_bytes, back = w->width / 8 - front;
	char *codes = (char *)w->l + w->s.codes;
	if (lists_coded(w) && list != lists_fresh(w)) {
		shm_copy_in(codes + (size_t)list * front, code, front);
		shm_copy_in(codes + (size_t)front * w->count + (size_t)list * back, (const char *)code + front, back);
	}
	((uint32_t *)(void *)((char *)w->l + w->s.factors))[list] = factors;
	((float *)(void *)((char *)w->l + w->s.steps))[list] = step;
	((float *)(void *)((char *)w->l + w->s.halves))[list] = square / 2;
}

static bool cluster(struct build *b)
{
	float *centroids = util_alloc((size_t)b->count * b->width * sizeof(float));
	bool ok = true;
	if (b->count == 1)
		memcpy(centroids, b->mean, b->width * sizeof(float));
	else
		ok = kmeans(b->rows, b->nrows, b->width, b->count, centroids, b->turn);
	lock(b);
	b->f = ok ? lists_create(b->v, b->ns, b->dim, b->count) : NULL;
	b->v->w->lists->next = b->f;
	unlock(b);
	if (b->f)
		shm_copy_in((char *)b->f->view.l + b->f->view.s.mean, b->mean, b->width * sizeof(float));
	float unit = b->count == 1 ? 1 : SPREAD / 127 / sqrtf((float)b->width);
	for (uint32_t l = 0; b->f && l < b->count; l++) {
		float *c = centroids + (size_t)l * b->width;
		for (uint32_t i = 0; i < b->width; i++)
			c[i] *= unit;
		set_centroid(&b->f->view, l, c);
	}
	if (b->f)
		set_centroid(&b->f->view, lists_fresh(&b->f->view), b->mean);
	free(centroids);
	return b->f != NULL;
}

/* ---- entries ---- */

static bool has_entry(const struct build *b, uint32_t ref)
{
	const uint32_t *e = b->v->w->lists->next_entries[vectors_ref_chunk(ref)];
	return e && e[vectors_ref_row(ref)];
}

static uint32_t collect(struct build *b, uint32_t *refs)
{
	uint32_t n = 0;
	for (uint32_t ref; n < SLICE && (ref = next_row(b));) {
		if (has_entry(b, ref))
			continue; /* it was passed before it moved here */
		load_row(b, ref, b->x + (size_t)n * b->width);
		b->gens[n] = b->v->chunks[vectors_ref_chunk(ref)].gen;
		refs[n++] = ref;
	}
	return n;
}

static void encode(struct build *b, const uint32_t *refs, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		lists_encode(&b->f->view, b->x + (size_t)i * b->width, &b->e[i]);
		b->e[i].ref = refs[i];
	}
}

static bool is_live(const struct build *b, uint32_t ref, uint64_t gen)
{
	const struct vectors_chunk *c = &b->v->chunks[vectors_ref_chunk(ref)];
	uint32_t row = vectors_ref_row(ref);
	return c->gen == gen && row < c->count && !vectors_is_dead(b->v, c->offset, row);
}

/* A chunk that changed hands between the two looks at it has other rows, which are ahead. */
static bool append(struct build *b, uint32_t n)
{
	struct lists_writer *w = b->v->w->lists;
	for (uint32_t i = 0; i < n; i++) {
		uint32_t ref = b->e[i].ref, at;
		if (!is_live(b, ref, b->gens[i]) || has_entry(b, ref))
			continue;
		if (lists_append(b->v, b->f, &b->e[i], &at))
			return false;
		*lists_place(b->v, w->next_entries, ref) = at;
	}
	return true;
}

/* Until the cursor has caught up. False: no memory, or given up. */
static bool encode_rows(struct build *b)
{
	uint32_t refs[SLICE], n;
	bool ok = true;
	do {
		lock(b);
		n = given_up(b) ? 0 : collect(b, refs);
		unlock(b);
		if (b->unhurried)
			turn_rest(b->turn);
		b->unhurried -= n < b->unhurried ? n : b->unhurried;
		encode(b, refs, n);
		lock(b);
		ok = !given_up(b) && append(b, n);
		unlock(b);
		FAULT_POINT(lists_building);
	} while (ok && n);
	return ok;
}

/* Lists in as few pieces as may be: each piece that a search goes to costs as much as forty codes. */
static void lay_out(struct build *b)
{
	lock(b);
	lists_arena_begin(b->v);
	unlock(b);
	for (uint32_t list = 0; list < b->count && !given_up(b); list++) {
		lock(b);
		if (b->f->tails[list].blocks && !b->f->abandoned)
			(void)lists_rewrite(b->v, b->f, list); /* without the memory, it stays as it is */
		unlock(b);
	}
	lock(b);
	lists_arena_end(b->v);
	unlock(b);
	bool more = true;
	for (uint32_t unit = 0; more && !given_up(b);) {
		lock(b);
		more = vectors_pool_trim(&b->v->w->pool, b->v->data, &unit);
		unlock(b);
	}
}

/* What has come while we looked, and then at once, so that nothing comes in between. */
static bool finish(struct build *b)
{
	uint32_t refs[SLICE], n;
	if (!encode_rows(b))
		return false;
	lock(b);
	b->f->abandoned |= !b->n->live; /* dropped before there was anything to abandon */
	bool ok = !given_up(b);
	while (ok && (n = collect(b, refs))) {
		encode(b, refs, n);
		ok = append(b, n);
	}
	if (ok) {
		b->f->view.l->built = b->f->entries - b->f->dead;
		b->f->look_again = b->n->live + b->n->live / LISTS_LOOK_AGAIN + 1;
		b->v->w->lists->next = NULL;
		lists_publish(b->v, b->f, b->v->w->lists->next_entries);
		b->f = NULL;
	}
	unlock(b);
	return ok;
}

/* True: nobody wants the lists any more, which is no failure. */
static bool clean_up(struct build *b)
{
	struct lists_writer *w = b->v->w->lists;
	lock(b);
	bool abandoned = b->f && b->f->abandoned;
	for (uint32_t i = 0; b->f && i < VECTORS_CHUNKS && i < b->v->super->used; i++) {
		free(w->next_entries[i]);
		w->next_entries[i] = NULL;
	}
	w->next = NULL;
	if (b->f)
		lists_retire_all(b->v, &b->f);
	unlock(b);
	free(b->rows);
	free(b->refs);
	free(b->mean);
	free(b->x);
	free(b->e);
	return abandoned;
}

bool lists_build(struct vectors *v, struct vectors_ns *n, uint32_t dim, uint32_t count, struct turn *turn)
{
	struct build b = {
		.v = v, .n = n, .ns = n->ns, .dim = dim, .width = rotate_width(dim), .count = count, .turn = turn};
	size_t want = (size_t)count * PER_LIST;
	want = want < 4096 ? 4096 : want;
	b.rows = util_alloc(want * b.width);
	b.refs = util_alloc(want * sizeof(*b.refs));
	b.mean = util_zalloc(b.width * sizeof(float));
	b.x = util_alloc((size_t)SLICE * b.width * sizeof(float));
	b.e = aligned_alloc(CACHE_LINE, SLICE * sizeof(*b.e));
	AN(b.e);
	bool ok = gather_sample(&b, want) && cluster(&b);
	restart(&b);
	b.unhurried = n->live;
	ok = ok && encode_rows(&b);
	if (ok) {
		lay_out(&b);
		/* spread over the whole sample */
		size_t learned = b.nrows < LEARNED ? b.nrows : LEARNED;
		for (size_t i = 0; i < learned; i++)
			b.refs[i] = b.refs[i * b.nrows / learned];
		struct lists_lesson lessons[LISTS_AIMS];
		lists_learn(v, &b.f->view, b.ns, dim, b.refs, learned, turn, lessons);
		lists_learned(b.f->view.l, lessons);
		ok = finish(&b);
	}
	return clean_up(&b) || ok;
}

void lists_relearn(struct vectors *v, struct vectors_ns *n, struct turn *turn)
{
	struct build b = {.v = v, .n = n, .ns = n->ns, .count = 1, .turn = turn};
	struct lists_lesson lessons[LISTS_AIMS];
	struct ivf **f = &v->w->lists->of[n - v->ns];
	b.refs = util_alloc(LEARNED * sizeof(*b.refs));
	lock(&b);
	bool there = *f != NULL;
	struct lists_view view = there ? (*f)->view : (struct lists_view){0};
	b.dim = there ? view.l->dim : 0;
	unlock(&b);
	if (there && gather_sample(&b, LEARNED))
		lists_learn(v, &view, b.ns, b.dim, b.refs, b.nrows, turn, lessons);
	else
		there = false;
	lock(&b);
	/* No other thread makes lists, but the namespace may have been dropped, and its lists with it. */
	if (there && *f && (*f)->view.l == view.l && !turn_over(turn))
		lists_learned(view.l, lessons);
	if (*f)
		(*f)->look_again = n->live + n->live / LISTS_LOOK_AGAIN + 1;
	unlock(&b);
	free(b.refs);
}
