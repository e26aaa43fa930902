/* The index in a file and out of it (index/image.h).
 *
 * Saved is, of each namespace, what its manifest names at one moment: its row with that manifest alone, and the segments.
 * They never change but for the deaths of documents; a death with a higher number than the manifest's is undone by
 * recovery, as if the writer had been killed. No memory is used again meanwhile (postings_hold). What was written or removed
 * after that moment is done again by whoever loads it. */
#define LOG_SUBSYSTEM LOG_IN_INDEX
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "fault.h"
#include "index/image.h"
#include "log.h"
#include "postings-private.h"

#define LET_GO 512 /* segments at a time */
#define ROWS 64	   /* namespaces without anything to clean that are passed at once */
#define TRIES 64   /* a namespace that is dropped and written to meanwhile */

void postings_hold(struct postings *p) { p->w->hold = true; }

bool postings_held(const struct postings *p) { return p->w->hold; }

bool postings_let_go(struct postings *p) { return postings_segment_let_go(p, LET_GO); }

void postings_erased(struct postings *p) { atomic_fetch_add(&p->super->erased, 1); }
uint64_t postings_erasures(const struct postings *p) { return atomic_load(&p->super->erased); }
bool postings_unclean(const struct postings *p) { return atomic_load(&p->super->cleaned) != postings_erasures(p); }
void postings_cleaned(struct postings *p, uint64_t erasures) { atomic_store(&p->super->cleaned, erasures); }
void postings_unfit(struct postings *p) { atomic_store(&p->super->unfit, 1); }
bool postings_fit(const struct postings *p) { return !atomic_load(&p->super->unfit); }

enum postings_cleaning postings_clean(struct postings *p, uint32_t *row_io, uint32_t budget)
{
	for (int i = 0; i < ROWS; i++, ++*row_io) {
		if (*row_io >= atomic_load_explicit(&p->super->namespaces, memory_order_relaxed))
			return POSTINGS_CLEAN;
		enum postings_cleaning c = postings_merge_clean(p, &p->ns[*row_io], budget);
		if (c != POSTINGS_CLEAN)
			return c;
	}
	return POSTINGS_GOING_ON;
}

/* ---- saving ---- */

struct saving {
	struct postings *p;
	struct image_writer *w;
	const _Atomic bool *stop;
	struct postings_desc *descs; /* as they were when their manifest was read */
	uint32_t used, known;	     /* used: of `descs`; known: those below were in use */
	uint64_t live;
};

static bool put(struct saving *s, const void *at, const void *bytes, size_t n)
{
	return image_add(s->w, IMAGE_WORDS, (uint64_t)((const char *)at - s->p->base), bytes, n);
}

/* The manifest of a moment, and where its segments lie. False: they go as fast as one looks. */
static bool snapshot(struct saving *s, const struct postings_ns *n, uint64_t *number_r, uint64_t v[POSTINGS_SEGMENTS],
		     size_t *count_r, struct postings_view *views)
{
	for (int tries = 0; tries < TRIES; tries++) {
		*number_r = postings_manifest_load(n, v, count_r);
		size_t i = 0;
		while (*number_r && i < *count_r && postings_view_open(s->p, n->ns, v[i], &views[i]))
			i++;
		if (*number_r && i == *count_r)
			return true;
	}
	return false;
}

static void note_desc(struct saving *s, uint64_t ns, const struct postings_view *w)
{
	uint32_t desc = (uint32_t)(w->d - s->p->descs);
	if (desc >= s->known) {
		uint32_t known = 2 * desc + 1024;
		s->descs = util_realloc(s->descs, known * sizeof(*s->descs));
		memset(s->descs + s->known, 0, (known - s->known) * sizeof(*s->descs));
		s->known = known;
	}
	s->used = desc >= s->used ? desc + 1 : s->used;
	s->descs[desc] = (struct postings_desc){
		.gen = w->gen, .ns = ns, .offset = (uint64_t)(w->base - s->p->data), .bytes = w->head.bytes};
}

static bool save_row(struct saving *s, const struct postings_ns *n)
{
	struct postings_view views[POSTINGS_SEGMENTS];
	struct postings_ns row;
	uint64_t v[POSTINGS_SEGMENTS], number;
	size_t count;
	if (!snapshot(s, n, &number, v, &count, views)) {
		errno = EAGAIN;
		return false;
	}
	memset(&row, 0, sizeof(row));
	atomic_init(&row.ns, n->ns);
	atomic_init(&row.current, number);
	atomic_init(&row.incomplete, n->incomplete);
	struct postings_manifest *m = &row.ring[number % POSTINGS_RING];
	atomic_init(&m->number, number);
	atomic_init(&m->n, count);
	s->live += n->live;
	bool ok = put(s, n, &row, offsetof(struct postings_ns, ring));
	for (size_t i = 0; i < count && ok && !atomic_load(s->stop); i++) {
		atomic_init(&m->v[i], v[i]);
		note_desc(s, n->ns, &views[i]);
		ok = image_add_shared(s->w, IMAGE_WORDS, (uint64_t)(views[i].base - s->p->base), views[i].base,
				      views[i].head.bytes);
	}
	const struct postings_manifest *at = &n->ring[number % POSTINGS_RING];
	return ok && put(s, at, m, offsetof(struct postings_manifest, v) + count * sizeof(v[0]));
}

int postings_save(struct postings *p, struct image_writer *w, struct image_part_facts *facts_r,
		  const _Atomic bool *stop)
{
	struct saving s = {.p = p, .w = w, .stop = stop};
	uint32_t rows = atomic_load_explicit(&p->super->namespaces, memory_order_acquire);
	bool ok = true;
	for (uint32_t i = 0; i < rows && ok && !atomic_load(stop); i++) {
		/* made, and not named yet: it holds nothing */
		if (!p->ns[i].ns)
			rows = i;
		else
			ok = save_row(&s, &p->ns[i]);
	}
	ok = ok && (!s.used || put(&s, p->descs, s.descs, s.used * sizeof(*s.descs)));
	int error = errno;
	free(s.descs);
	*facts_r = (struct image_part_facts){.layout = POSTINGS_LAYOUT,
					     .used = s.used,
					     .namespaces = rows,
					     .full = atomic_load(&p->super->ns_full),
					     .live = s.live};
	return !ok ? (error ? error : EIO) : atomic_load(stop) ? ECANCELED : 0;
}

/* ---- loading ---- */

void postings_clear(struct postings *p)
{
	struct postings_super *s = p->super;
	size_t bytes = p->size & ~(size_t)4095;
	AN(madvise(p->base + POSTINGS_OFF_SLOTS, bytes - POSTINGS_OFF_SLOTS, MADV_REMOVE) == 0);
	memset(p->base + bytes, 0, p->size - bytes);
	atomic_store(&s->used, 0);
	atomic_store(&s->namespaces, 0);
	atomic_store(&s->ns_full, 0);
	atomic_store(&s->live, 0);
	atomic_store(&s->bytes, 0);
}

bool postings_unused(const struct postings *p)
{
	return !atomic_load(&p->super->used) && !atomic_load(&p->super->namespaces);
}

bool postings_interrupted(const struct postings *p) { return atomic_load(&p->super->loading) == WORDS_LOADING_DIED; }

struct bounds {
	const struct postings *p;
	uint64_t rows_end, descs_end;
};

static bool allowed(void *arg, uint64_t at, uint64_t n)
{
	const struct bounds *b = arg;
	if (at >= POSTINGS_OFF_DATA)
		return at <= b->p->size && n <= b->p->size - at;
	return (at >= POSTINGS_OFF_NS && at + n <= b->rows_end) || (at >= POSTINGS_OFF_DESCS && at + n <= b->descs_end);
}

static bool name_rows(struct postings *p, uint32_t namespaces)
{
	for (uint32_t row = 0; row < namespaces; row++) {
		uint64_t ns = p->ns[row].ns;
		uint32_t i = 0;
		if (!ns || postings_ns_find(p, ns))
			return false;
		while (p->slots[(ns + i) & (POSTINGS_SLOTS - 1)])
			i++; /* ends: there are more slots than rows */
		atomic_store_explicit(&p->slots[(ns + i) & (POSTINGS_SLOTS - 1)], row + 1, memory_order_release);
	}
	return true;
}

static bool take(struct postings *p, int fd, struct image *m, void (*progress)(void *arg), void *arg)
{
	const struct image_part_facts *f = &image_facts(m)->part[IMAGE_WORDS];
	struct bounds b = {.p = p,
			   .rows_end = POSTINGS_OFF_NS + f->namespaces * sizeof(struct postings_ns),
			   .descs_end = POSTINGS_OFF_DESCS + f->used * sizeof(struct postings_desc)};
	const struct image_target t = {
		.fd = fd, .to = UINT64_MAX, .allowed = allowed, .arg = &b, .progress = progress, .progress_arg = arg};
	if (!image_read(m, IMAGE_WORDS, &t))
		return false;
	if (!name_rows(p, f->namespaces)) {
		log_warn("the saved word index names a namespace twice; it is not used");
		return false;
	}
	atomic_store(&p->super->ns_full, f->full);
	atomic_store(&p->super->namespaces, f->namespaces);
	atomic_store_explicit(&p->super->used, f->used, memory_order_release);
	FAULT_POINT(words_loaded);
	postings_writer_new(p);
	if (postings_recover(p))
		return true;
	log_warn("the saved word index is inconsistent; it is not used");
	postings_writer_free(p);
	return false;
}

int postings_load(struct postings *p, int fd, struct image *m, void (*progress)(void *arg), void *arg)
{
	const struct image_part_facts *f = &image_facts(m)->part[IMAGE_WORDS];
	AN(p->w);
	if (f->layout != POSTINGS_LAYOUT || f->used > POSTINGS_DESCS || f->namespaces > POSTINGS_NAMESPACES) {
		log_warn("the saved word index is of another layout; it is not used");
		return EPROTO;
	}
	AN(postings_unused(p));
	int64_t quarantine_us = p->w->quarantine_us;
	postings_writer_free(p);
	atomic_store_explicit(&p->super->loading, WORDS_LOADING_NOW, memory_order_release);
	FAULT_POINT(words_loading);
	bool ok = take(p, fd, m, progress, arg);
	if (!ok) {
		postings_clear(p);
		postings_writer_new(p);
		AN(postings_recover(p));
	}
	p->w->quarantine_us = quarantine_us;
	return ok ? 0 : EBADMSG;
}

void postings_load_end(struct postings *p, bool keep)
{
	if (!keep) {
		postings_writer_free(p);
		postings_clear(p);
		postings_writer_new(p);
		AN(postings_recover(p));
	}
	atomic_store_explicit(&p->super->loading, WORDS_LOADING_NOT, memory_order_release);
}
