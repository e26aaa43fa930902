/* The vector index: mapping, formatting and the small questions. */
#define LOG_SUBSYSTEM LOG_IN_INDEX
#include <errno.h>
#include <openssl/evp.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "log.h"
#include "lists-private.h"
#include "vocabulary.h"

size_t vectors_segment_size(uint64_t max_bytes)
{
	uint64_t limit = (uint64_t)UINT32_MAX * VECTORS_UNIT; /* 4 TiB: unit numbers have 32 bits */
	if (max_bytes > limit)
		max_bytes = limit;
	if (max_bytes < VECTORS_PAGE)
		max_bytes = VECTORS_PAGE;
	return VECTORS_OFF_DATA + (size_t)(max_bytes & ~(uint64_t)(VECTORS_PAGE - 1));
}

/* Not shm_map(): huge pages need an address that is congruent with the file offset, so a larger piece
 * of address space is reserved first and the aligned middle of it is used. Readers map read-only: a stray
 * store in an api worker cannot hurt the index. */
static char *map_aligned(struct vectors *v, int fd, int file, bool writer)
{
	size_t size = v->size, behind = align_up(size, VECTORS_PAGE) + VECTORS_PAGE, room;
	int prot = PROT_READ | (writer ? PROT_WRITE : 0);
	if (!size_add(behind, v->spill_bytes, &behind) || !size_add(behind, VECTORS_HUGE, &room)) {
		errno = EOVERFLOW;
		return NULL;
	}
	char *p = mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (p == MAP_FAILED)
		return NULL;
	char *base = p + (align_up((uintptr_t)p, VECTORS_HUGE) - (uintptr_t)p);
	v->spill = base + (behind - v->spill_bytes);
	if (mmap(base, size, prot, MAP_SHARED | MAP_FIXED, fd, 0) == MAP_FAILED ||
	    (v->spill_bytes && mmap(v->spill, v->spill_bytes, prot, MAP_SHARED | MAP_FIXED, file, 0) == MAP_FAILED)) {
		int saved = errno;
		munmap(p, room);
		errno = saved;
		return NULL;
	}
	if (base > p)
		munmap(p, (size_t)(base - p));
	(void)madvise(base, behind, MADV_DONTDUMP); /* vectors do not belong into a core file */
	if (v->spill_bytes && !writer)		    /* the neighbours of what a search compares are no use to it */
		(void)madvise(v->spill, v->spill_bytes, MADV_RANDOM);
	if (base + behind < p + room)
		munmap(base + behind, (size_t)(p + room - base) - behind);
	v->mapped = behind;
	return base;
}

#define EXACT_BYTES (16u << 20) /* 2,730 rows of 1,536 floats: 0.6 ms on one core of docs/benchmarks.md */
#define FLAT_ROWS 16384

static bool header_fits(const struct vectors *v)
{
	const struct shm_header *h = &v->super->h;
	return h->magic == VECTORS_MAGIC && h->layout == VECTORS_LAYOUT && h->size == v->size &&
	       v->super->data_bytes == v->size - VECTORS_OFF_DATA && v->super->spill_bytes == v->spill_bytes;
}

/* The table makes no sense, which no crash can cause. Nothing in it is trusted: the index starts
 * anew, and every namespace it knew is incomplete, so that the store is asked. */
static void wipe(struct vectors *v)
{
	log_error_event(index_reset, NULL,
			"vector index: the shared segment is inconsistent; it starts empty, searches use the store");
	uint32_t rows = atomic_load_explicit(&v->super->namespaces, memory_order_relaxed);
	for (uint32_t i = 0; i < VECTORS_CHUNKS; i++) {
		struct vectors_chunk *c = &v->chunks[i];
		uint64_t gen = atomic_load_explicit(&c->gen, memory_order_relaxed);
		if (!gen)
			break; /* never used, nor any after it */
		atomic_store_explicit(&c->gen, gen | 1, memory_order_relaxed);
		atomic_thread_fence(memory_order_release);
		atomic_store_explicit(&v->keys[i], 0, memory_order_relaxed);
		atomic_store_explicit(&c->ns, 0, memory_order_relaxed);
		atomic_store_explicit(&c->count, 0, memory_order_relaxed);
		atomic_store_explicit(&c->gen, (gen | 1) + 1, memory_order_release);
	}
	rows = rows < VECTORS_NAMESPACES ? rows : VECTORS_NAMESPACES;
	atomic_store_explicit(&v->super->namespaces, rows, memory_order_relaxed);
	for (uint32_t i = 0; i < rows; i++) {
		atomic_store_explicit(&v->ns[i].incomplete, 1, memory_order_relaxed);
		atomic_store_explicit(&v->ns[i].live, 0, memory_order_relaxed);
		atomic_store_explicit(&v->ns[i].lists, 0, memory_order_relaxed);
	}
	atomic_fetch_add_explicit(&v->super->reclaimed, 1, memory_order_release);
	atomic_store_explicit(&v->super->used, 0, memory_order_relaxed);
	atomic_store_explicit(&v->super->live, 0, memory_order_relaxed);
	atomic_store_explicit(&v->super->bytes, 0, memory_order_relaxed);
	atomic_store_explicit(&v->super->spilled, 0, memory_order_relaxed);
	atomic_fetch_add_explicit(&v->super->h.generation, 1, memory_order_relaxed);
	spill_new_key(v); /* serials may begin anew */
}

static void format(struct vectors *v)
{
	struct vectors_super *s = v->super;
	s->h.magic = VECTORS_MAGIC;
	s->h.layout = VECTORS_LAYOUT;
	s->h.size = v->size;
	s->data_bytes = v->data_bytes;
	s->spill_bytes = v->spill_bytes;
	spill_new_key(v);
	atomic_store_explicit(&s->h.generation, 1, memory_order_relaxed);
	atomic_store_explicit(&s->h.formatted, 1, memory_order_release);
}

void vectors_writer_new(struct vectors *v)
{
	struct vectors_writer *w = v->w = util_zalloc(sizeof(*w));
	vectors_pool_init(&w->pool, v->data_bytes);
	vectors_pool_init(&w->file, v->spill_bytes);
	/* calloc, not zalloc + touch: most of these pages are never used */
	w->open = calloc(VECTORS_NAMESPACES, sizeof(*w->open));
	w->live = calloc(VECTORS_CHUNKS, sizeof(*w->live));
	w->queued = calloc(VECTORS_CHUNKS, sizeof(*w->queued));
	AN(w->open && w->live && w->queued);
	w->scratch = util_alloc(LIMIT_DIMENSIONS * sizeof(float));
	w->formed = aligned_alloc(CACHE_LINE, LIMIT_DIMENSIONS * sizeof(float));
	AN(w->formed);
	priolock_init(&w->lock);
	w->stages = (struct vectors_stages){.exact_bytes = EXACT_BYTES, .flat_rows = FLAT_ROWS};
	w->lists = lists_writer_new(v);
}

void vectors_writer_free(struct vectors *v)
{
	struct vectors_writer *w = v->w;
	if (!w)
		return;
	vectors_work_end(v);
	lists_writer_end(v);
	vectors_map_end(&w->map);
	vectors_pool_end(&w->pool);
	vectors_pool_end(&w->file);
	spill_end(&w->spill);
	free(w->free_chunks.p);
	free(w->victims.p);
	free(w->open);
	free(w->live);
	free(w->queued);
	vectors_pages_end(&w->pages);
	free(w->scratch);
	free(w->formed);
	priolock_destroy(&w->lock);
	free(w);
}

static void open_writer(struct vectors *v)
{
	if (!atomic_load_explicit(&v->super->h.formatted, memory_order_acquire))
		format(v);
	if (atomic_load_explicit(&v->super->loading, memory_order_acquire) == LOADING_NOW) {
		vectors_clear(v); /* our predecessor died while it took a saved index up */
		atomic_store_explicit(&v->super->loading, LOADING_DIED, memory_order_release);
	}
	vectors_writer_new(v);
	if (!vectors_recover(v)) {
		vectors_writer_free(v);
		wipe(v);
		vectors_writer_new(v);
		AN(vectors_recover(v));
	}
	vectors_reserve(v);
}

static uint64_t size_of_file(int file)
{
	struct stat st;
	uint64_t limit = (uint64_t)UINT32_MAX * VECTORS_UNIT, size;
	if (file == -1 || fstat(file, &st) || !S_ISREG(st.st_mode))
		return 0;
	size = (uint64_t)st.st_size < limit ? (uint64_t)st.st_size : limit;
	return size & ~(uint64_t)(VECTORS_PAGE - 1);
}

struct vectors *vectors_open(int fd, bool writer) { return vectors_open_spilled(fd, -1, writer); }

struct vectors *vectors_open_spilled(int fd, int file, bool writer)
{
	struct stat st;
	if (fstat(fd, &st))
		return NULL;
	if (st.st_size < (off_t)(VECTORS_OFF_DATA + VECTORS_PAGE)) {
		errno = EINVAL;
		return NULL;
	}
	struct vectors *v = util_zalloc(sizeof(*v));
	v->size = (size_t)st.st_size;
	v->spill_bytes = size_of_file(file);
	v->cipher = v->spill_bytes ? EVP_CIPHER_fetch(NULL, "AES-256-CTR", NULL) : NULL;
	errno = ENOTSUP; /* of the cipher, which no OpenSSL lacks */
	v->base = v->spill_bytes && !v->cipher ? NULL : map_aligned(v, fd, file, writer);
	if (!v->base) {
		EVP_CIPHER_free(v->cipher);
		free(v);
		return NULL;
	}
	v->super = (void *)v->base;
	v->slots = (void *)(v->base + VECTORS_OFF_SLOTS);
	v->ns = (void *)(v->base + VECTORS_OFF_NS);
	v->keys = (void *)(v->base + VECTORS_OFF_KEYS);
	v->chunks = (void *)(v->base + VECTORS_OFF_CHUNKS);
	v->data = v->base + VECTORS_OFF_DATA;
	v->data_bytes = v->size - VECTORS_OFF_DATA;
	v->kernels = kernels_get();
	v->quantize = quantize_get();
	bool formatted = atomic_load_explicit(&v->super->h.formatted, memory_order_acquire);
	if (formatted ? !header_fits(v) : !writer) {
		vectors_close(&v);
		errno = formatted ? EPROTO : EAGAIN;
		return NULL;
	}
	if (writer)
		open_writer(v);
	return v;
}

void vectors_close(struct vectors **v)
{
	if (!*v)
		return;
	vectors_writer_free(*v);
	munmap((*v)->base, (*v)->mapped);
	EVP_CIPHER_free((*v)->cipher);
	free(*v);
	*v = NULL;
}

/* `ns` numbers are hashes already. */
struct vectors_ns *vectors_ns_find(const struct vectors *v, uint64_t ns)
{
	for (uint32_t i = 0; i < VECTORS_SLOTS; i++) {
		uint32_t row = atomic_load_explicit(&v->slots[(ns + i) & (VECTORS_SLOTS - 1)], memory_order_acquire);
		if (!row || row > VECTORS_NAMESPACES)
			return NULL;
		if (atomic_load_explicit(&v->ns[row - 1].ns, memory_order_relaxed) == ns)
			return &v->ns[row - 1];
	}
	return NULL;
}

bool vectors_complete(const struct vectors *v, uint64_t ns)
{
	const struct vectors_ns *n = vectors_ns_find(v, ns);
	if (!n)
		return !atomic_load_explicit(&v->super->ns_full, memory_order_acquire);
	return !atomic_load_explicit(&n->incomplete, memory_order_acquire);
}

uint64_t vectors_count(const struct vectors *v, uint64_t ns)
{
	if (!ns)
		return atomic_load_explicit(&v->super->live, memory_order_relaxed);
	const struct vectors_ns *n = vectors_ns_find(v, ns);
	return n ? atomic_load_explicit(&n->live, memory_order_relaxed) : 0;
}

uint64_t vectors_bytes(const struct vectors *v) { return atomic_load_explicit(&v->super->bytes, memory_order_relaxed); }

uint64_t vectors_spilled(const struct vectors *v)
{
	return atomic_load_explicit(&v->super->spilled, memory_order_relaxed);
}

void vectors_stages_set(struct vectors *v, const struct vectors_stages *stages)
{
	AN(v->w);
	priolock_take(&v->w->lock);
	v->w->stages = *stages;
	for (uint32_t i = 0; i < v->super->namespaces; i++)
		vectors_work_hint(v, &v->ns[i]);
	priolock_give(&v->w->lock);
}
