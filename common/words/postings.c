/* The word index: mapping, formatting and the small questions. */
#define LOG_SUBSYSTEM LOG_IN_INDEX
#include "postings-private.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "log.h"

#define QUARANTINE_US 1000000

size_t postings_segment_size(uint64_t max_bytes)
{
	uint64_t limit = (uint64_t)POSTINGS_UNIT << 30; /* tags have 31 bits for a length */
	if (max_bytes > limit)
		max_bytes = limit;
	if (max_bytes < 64 * POSTINGS_UNIT)
		max_bytes = 64 * POSTINGS_UNIT;
	return POSTINGS_OFF_DATA + (size_t)(max_bytes & ~(uint64_t)(POSTINGS_UNIT - 1));
}

static bool header_fits(const struct postings *p)
{
	const struct shm_header *h = &p->super->h;
	return h->magic == POSTINGS_MAGIC && h->layout == POSTINGS_LAYOUT && h->size == p->size &&
	       p->super->data_bytes == p->data_bytes;
}

static void format(struct postings *p)
{
	struct postings_super *s = p->super;
	s->h.magic = POSTINGS_MAGIC;
	s->h.layout = POSTINGS_LAYOUT;
	s->h.size = p->size;
	s->data_bytes = p->data_bytes;
	atomic_store_explicit(&s->h.generation, 1, memory_order_relaxed);
	atomic_store_explicit(&s->h.formatted, 1, memory_order_release);
}

/* The tables make no sense, which no crash can cause. The index starts anew, and every namespace it knew is incomplete,
 * so that the store is asked. */
static void wipe(struct postings *p)
{
	log_error_event(index_reset, NULL,
			"word index: the shared segment is inconsistent; it starts empty, searches use the store");
	uint32_t rows = atomic_load_explicit(&p->super->namespaces, memory_order_relaxed);
	uint32_t used = atomic_load_explicit(&p->super->used, memory_order_relaxed);
	rows = rows < POSTINGS_NAMESPACES ? rows : POSTINGS_NAMESPACES;
	used = used < POSTINGS_DESCS ? used : POSTINGS_DESCS;
	atomic_store_explicit(&p->super->namespaces, rows, memory_order_relaxed);
	atomic_store_explicit(&p->super->used, used, memory_order_relaxed);
	for (uint32_t i = 0; i < rows; i++) {
		struct postings_next next;
		atomic_store_explicit(&p->ns[i].incomplete, 1, memory_order_release);
		postings_manifest_begin(p, &p->ns[i], &next);
		next.count = 0;
		postings_manifest_publish(p, &next);
	}
	atomic_fetch_add_explicit(&p->super->h.generation, 1, memory_order_relaxed);
}

void postings_writer_new(struct postings *p)
{
	struct postings_writer *w = p->w = util_zalloc(sizeof(*w));
	w->words = words_new();
	postings_pool_init(&w->pool, p->data_bytes);
	/* calloc, not zalloc + touch: most of these pages are never used */
	w->of = calloc(POSTINGS_DESCS, sizeof(*w->of));
	w->merges = calloc(POSTINGS_NAMESPACES, sizeof(*w->merges));
	AN(w->of && w->merges);
	w->quarantine_us = QUARANTINE_US;
	w->reserve = p->data_bytes / 16;
}

void postings_writer_free(struct postings *p)
{
	struct postings_writer *w = p->w;
	if (!w)
		return;
	uint32_t rows = atomic_load_explicit(&p->super->namespaces, memory_order_relaxed);
	for (uint32_t i = 0; i < rows && i < POSTINGS_NAMESPACES; i++)
		postings_merge_forget(p, &p->ns[i]);
	postings_map_end(&w->map);
	postings_pool_end(&w->pool);
	postings_image_free(&w->one);
	words_free(&w->words);
	free(w->free_descs.v);
	free(w->held.v);
	free(w->retired);
	free(w->of);
	free(w->merges);
	free(w);
	p->w = NULL;
}

static void open_writer(struct postings *p)
{
	if (!atomic_load_explicit(&p->super->h.formatted, memory_order_acquire))
		format(p);
	if (atomic_load_explicit(&p->super->loading, memory_order_acquire) == WORDS_LOADING_NOW) {
		postings_clear(p); /* our predecessor died while it took a saved index up */
		atomic_store_explicit(&p->super->loading, WORDS_LOADING_DIED, memory_order_release);
	}
	postings_writer_new(p);
	if (postings_recover(p))
		return;
	postings_writer_free(p);
	postings_writer_new(p);
	wipe(p);
	postings_writer_free(p);
	postings_writer_new(p);
	AN(postings_recover(p));
}

struct postings *postings_open(int fd, bool writer)
{
	struct stat st;
	if (fstat(fd, &st))
		return NULL;
	if (st.st_size < (off_t)(POSTINGS_OFF_DATA + POSTINGS_UNIT)) {
		errno = EINVAL;
		return NULL;
	}
	struct postings *p = util_zalloc(sizeof(*p));
	p->size = (size_t)st.st_size;
	/* Readers map read-only: a stray store in an api worker cannot hurt the index. */
	p->base = mmap(NULL, p->size, PROT_READ | (writer ? PROT_WRITE : 0), MAP_SHARED, fd, 0);
	if (p->base == MAP_FAILED) {
		free(p);
		return NULL;
	}
	(void)madvise(p->base, p->size, MADV_DONTDUMP); /* what people wrote does not belong into a core file */
	p->super = (void *)p->base;
	p->slots = (void *)(p->base + POSTINGS_OFF_SLOTS);
	p->ns = (void *)(p->base + POSTINGS_OFF_NS);
	p->descs = (void *)(p->base + POSTINGS_OFF_DESCS);
	p->data = p->base + POSTINGS_OFF_DATA;
	p->data_bytes = p->size - POSTINGS_OFF_DATA;
	bool formatted = atomic_load_explicit(&p->super->h.formatted, memory_order_acquire);
	if (formatted ? !header_fits(p) : !writer) {
		postings_close(&p);
		errno = formatted ? EPROTO : EAGAIN;
		return NULL;
	}
	if (writer)
		open_writer(p);
	return p;
}

void postings_close(struct postings **pp)
{
	struct postings *p = *pp;
	if (!p)
		return;
	postings_writer_free(p);
	munmap(p->base, p->size);
	free(p);
	*pp = NULL;
}

/* `ns` numbers are hashes already. */
struct postings_ns *postings_ns_find(const struct postings *p, uint64_t ns)
{
	for (uint32_t i = 0; i < POSTINGS_SLOTS; i++) {
		uint32_t row = atomic_load_explicit(&p->slots[(ns + i) & (POSTINGS_SLOTS - 1)], memory_order_acquire);
		if (!row || row > POSTINGS_NAMESPACES)
			return NULL;
		if (atomic_load_explicit(&p->ns[row - 1].ns, memory_order_relaxed) == ns)
			return &p->ns[row - 1];
	}
	return NULL;
}

bool postings_complete(const struct postings *p, uint64_t ns)
{
	const struct postings_ns *n = postings_ns_find(p, ns);
	if (!n)
		return !atomic_load_explicit(&p->super->ns_full, memory_order_acquire);
	return !atomic_load_explicit(&n->incomplete, memory_order_acquire);
}

uint64_t postings_count(const struct postings *p, uint64_t ns)
{
	if (!ns)
		return atomic_load_explicit(&p->super->live, memory_order_relaxed);
	const struct postings_ns *n = postings_ns_find(p, ns);
	return n ? atomic_load_explicit(&n->live, memory_order_relaxed) : 0;
}

uint64_t postings_bytes(const struct postings *p)
{
	return atomic_load_explicit(&p->super->bytes, memory_order_relaxed);
}
