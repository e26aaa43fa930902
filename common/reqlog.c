#include "reqlog.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "contract.h"
#include "fault.h"
#include "shm.h"

#define RING_LEAST 65536u
#define REQLOG_AHEAD 256 /* bytes that most records have */

struct slot {
	_Atomic uint64_t number;
	char record[REQLOG_SLOT - 8];
};
struct ring { /* the first slot */
	_Alignas(CACHE_LINE) _Atomic uint64_t head;
};
_Static_assert(sizeof(struct slot) == REQLOG_SLOT && sizeof(struct ring) <= REQLOG_SLOT, "the layout");

struct reqlog {
	char *base;
	size_t size;
	struct ring *ring;
	struct slot *slots;
	uint64_t n, number; /* of the last record */
	uint64_t at;	    /* the slot of the next one */
};

/* ---- the layout ---- */

size_t reqlog_segment_size(uint64_t ring_bytes)
{
	if (!ring_bytes)
		return 0;
	ring_bytes = align_up((size_t)(ring_bytes < RING_LEAST ? RING_LEAST : ring_bytes), REQLOG_PAGE);
	return REQLOG_PAGE + API_WORKERS_MAX * (size_t)ring_bytes;
}

void reqlog_header_fill(struct reqlog_header *h, size_t segment_bytes)
{
	*h = (struct reqlog_header){
		.magic = REQLOG_MAGIC, .layout = LAYOUT_REQUESTS, .slot_bytes = REQLOG_SLOT, .size = segment_bytes};
}

bool reqlog_followers(int fd, uint32_t n)
{
	return pwrite(fd, &n, sizeof(n), offsetof(struct reqlog_header, followers)) == sizeof(n);
}

/* Bytes of a ring; 0: no segment of ours has this size. */
static size_t ring_bytes_of(size_t size)
{
	if (size < REQLOG_PAGE + API_WORKERS_MAX * (size_t)RING_LEAST)
		return 0;
	size_t all = size - REQLOG_PAGE;
	return all % (API_WORKERS_MAX * REQLOG_PAGE) ? 0 : all / API_WORKERS_MAX;
}

/* ---- the writer ---- */

struct reqlog *reqlog_open(int fd, unsigned instance)
{
	size_t size = 0;
	struct stat st;
	if (fstat(fd, &st) || !S_ISREG(st.st_mode) || instance >= API_WORKERS_MAX)
		return NULL;
	char *base = shm_map(fd, false, &size);
	size_t each = base ? ring_bytes_of(size) : 0;
	if (!each) {
		if (base)
			munmap(base, size);
		return NULL;
	}
	struct reqlog *l = util_zalloc(sizeof(*l));
	char *ring = base + REQLOG_PAGE + instance * each;
	l->base = base;
	l->size = size;
	l->ring = (struct ring *)(void *)ring;
	l->slots = (struct slot *)(void *)(ring + REQLOG_SLOT);
	l->n = each / REQLOG_SLOT - 1;
	l->number = atomic_load_explicit(&l->ring->head, memory_order_acquire);
	l->at = l->number % l->n;
	return l;
}

void reqlog_close(struct reqlog **lp)
{
	struct reqlog *l = *lp;
	if (!l)
		return;
	munmap(l->base, l->size);
	free(l);
	*lp = NULL;
}

bool reqlog_followed(const struct reqlog *l)
{
	const struct reqlog_header *h = (const struct reqlog_header *)(const void *)l->base;
	return atomic_load_explicit(&h->followers, memory_order_relaxed) != 0;
}

void reqlog_write(struct reqlog *l, struct reqlog_record *r, size_t used)
{
	static const char zeros[8];
	struct slot *s = &l->slots[l->at];
	size_t bytes = align_up(offsetof(struct reqlog_record, text) + used, 8);
	uint64_t number = ++l->number;
	memcpy(r->text + used, zeros,
	       used + 8 <= REQLOG_TEXT ? 8 : REQLOG_TEXT - used); /* nothing of our stack goes along */
	l->at = l->at + 1 == l->n ? 0 : l->at + 1;
	atomic_store_explicit(&s->number, 0, memory_order_relaxed); /* W1 … W5: see the header */
	atomic_thread_fence(memory_order_release);
	FAULT_DO(reqlog_half, shm_copy_in(s->record, r, bytes / 2));
	shm_copy_in(s->record, r, bytes < sizeof(*r) ? bytes : sizeof(*r));
	FAULT_POINT(reqlog_filled);
	atomic_store_explicit(&s->number, number, memory_order_release);
	FAULT_POINT(reqlog_numbered);
	atomic_store_explicit(&l->ring->head, number, memory_order_release);
	const char *next = (const char *)&l->slots[l->at]; /* long out of our cache: by the next request it is back */
	for (size_t i = 0; i < REQLOG_AHEAD; i += CACHE_LINE)
		__builtin_prefetch(next + i, 1);
}

/* ---- the reader ---- */

bool reqlog_attach(struct reqlog_reader *r, int fd, char **error_r)
{
	struct stat st;
	struct reqlog_header h;
	*r = (struct reqlog_reader){.base = NULL};
	if (fstat(fd, &st) || st.st_size < 0)
		return util_error(error_r, "the request log cannot be read: %s", strerror(errno));
	r->size = (size_t)st.st_size;
	r->ring_bytes = ring_bytes_of(r->size);
	if (pread(fd, &h, sizeof(h), 0) != sizeof(h) || h.magic != REQLOG_MAGIC || !r->ring_bytes)
		return util_error(error_r, "what was handed over is no request log");
	if (h.layout != LAYOUT_REQUESTS || h.slot_bytes != REQLOG_SLOT)
		return util_error(error_r,
				  "the daemon writes its request log in layout %u, and this program reads %u: use "
				  "the orchestractl of the same version",
				  h.layout, (unsigned)LAYOUT_REQUESTS);
	void *p = mmap(NULL, r->size, PROT_READ, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		return util_error(error_r, "the request log cannot be mapped: %s", strerror(errno));
	r->base = p;
	r->slots = r->ring_bytes / REQLOG_SLOT - 1;
	return true;
}

void reqlog_detach(struct reqlog_reader *r)
{
	if (r->base)
		munmap((void *)(uintptr_t)r->base, r->size);
	r->base = NULL;
}

static const char *ring_of(const struct reqlog_reader *r, unsigned i)
{
	return r->base + REQLOG_PAGE + i * r->ring_bytes;
}

static uint64_t head_of(const struct reqlog_reader *r, unsigned i)
{
	const struct ring *ring = (const struct ring *)(const void *)ring_of(r, i);
	return atomic_load_explicit(&ring->head, memory_order_acquire);
}

void reqlog_rewind(struct reqlog_reader *r, uint64_t back)
{
	back = back < r->slots ? back : r->slots;
	for (unsigned i = 0; i < API_WORKERS_MAX; i++) {
		uint64_t head = head_of(r, i);
		r->next[i] = head > back ? head - back + 1 : 1;
	}
	r->lost = 0;
}

bool reqlog_next(struct reqlog_reader *r, unsigned ring, struct reqlog_record *out)
{
	const struct slot *slots = (const struct slot *)(const void *)(ring_of(r, ring) + REQLOG_SLOT);
	uint64_t *next = &r->next[ring];
	for (;;) {
		uint64_t head = head_of(r, ring);
		if (!*next)
			*next = 1;
		if (*next > head) {
			if (*next > head + 1) /* heads do not go back, but in a broken segment */
				*next = head + 1;
			return false;
		}
		if (head - *next >= r->slots) { /* the oldest that may be there still */
			uint64_t oldest = head - r->slots + 1;
			r->lost += oldest - *next;
			*next = oldest;
		}
		const struct slot *s = &slots[(*next - 1) % r->slots];
		uint64_t number = *next;
		bool whole = atomic_load_explicit(&s->number, memory_order_acquire) == number; /* R1 … R4 */
		if (whole) {
			shm_copy_out(out, s->record, sizeof(*out));
			atomic_thread_fence(memory_order_acquire);
			whole = atomic_load_explicit(&s->number, memory_order_relaxed) == number;
		}
		++*next;
		if (whole)
			return true;
		r->lost++;
	}
}

struct span reqlog_text_of(const struct reqlog_record *r, enum reqlog_text t)
{
	size_t at = 0;
	for (unsigned i = 0; i < (unsigned)t; i++)
		at += r->len[i];
	if (at > REQLOG_TEXT)
		at = REQLOG_TEXT;
	size_t n = r->len[t];
	return (struct span){r->text + at, n < REQLOG_TEXT - at ? n : REQLOG_TEXT - at};
}
