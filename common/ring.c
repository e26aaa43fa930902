#include "ring.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define RECORD_MAGIC 0x52524f43u
struct record_head {
	uint32_t len, magic;
};

struct ring {
	struct ring_shared *s;
	char *data;          /* capacity bytes, mapped twice in a row */
	uint64_t capacity, mask;
	uint64_t peer;       /* producer: the consumer's head when last looked at */
};

static size_t page(void) { return (size_t)sysconf(_SC_PAGESIZE); }

size_t ring_footprint(size_t capacity) { return align_up(sizeof(struct ring_shared), page()) + capacity; }

static size_t record_bytes(size_t len) { return align_up(sizeof(struct record_head) + len, 8); }

struct ring *ring_open(int fd, size_t offset, size_t capacity)
{
	size_t head = align_up(sizeof(struct ring_shared), page());
	struct stat st;
	if (!capacity || capacity & (capacity - 1) || capacity % page() || offset % page() ||
	    fstat(fd, &st) || (size_t)st.st_size < offset + head + capacity) {
		errno = EINVAL;
		return NULL;
	}
	char *p = mmap(NULL, head + 2 * capacity, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (p == MAP_FAILED)
		return NULL;
	if (mmap(p, head + capacity, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, (off_t)offset) == MAP_FAILED ||
	    mmap(p + head + capacity, capacity, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd,
		 (off_t)(offset + head)) == MAP_FAILED) {
		int e = errno;
		munmap(p, head + 2 * capacity);
		errno = e;
		return NULL;
	}
	madvise(p, head + 2 * capacity, MADV_DONTDUMP);
	struct ring *r = util_zalloc(sizeof(*r));
	r->s = (struct ring_shared *)(void *)p;
	r->data = p + head;
	r->capacity = capacity;
	r->mask = capacity - 1;
	return r;
}

void ring_close(struct ring **rp)
{
	struct ring *r = *rp;
	if (!r)
		return;
	munmap(r->s, (size_t)(r->data - (char *)r->s) + 2 * r->capacity);
	free(r);
	*rp = NULL;
}

size_t ring_max_payload(const struct ring *r) { return r->capacity / 4; }

/* ---- producer ---- */

void *ring_reserve(struct ring *r, size_t len)
{
	if (len > ring_max_payload(r)) {
		errno = EMSGSIZE;
		return NULL;
	}
	uint64_t tail = atomic_load_explicit(&r->s->tail, memory_order_relaxed), need = record_bytes(len);
	if (r->capacity - (tail - r->peer) < need || tail - r->peer > r->capacity) {
		r->peer = atomic_load_explicit(&r->s->head, memory_order_acquire);
		if (tail - r->peer > r->capacity || r->peer & 7) {
			errno = EPROTO;
			return NULL;
		}
		if (r->capacity - (tail - r->peer) < need) {
			errno = EAGAIN;
			return NULL;
		}
	}
	return r->data + (tail & r->mask) + sizeof(struct record_head);
}

void ring_commit(struct ring *r, size_t len)
{
	uint64_t tail = atomic_load_explicit(&r->s->tail, memory_order_relaxed);
	struct record_head h = {(uint32_t)len, RECORD_MAGIC};
	memcpy(r->data + (tail & r->mask), &h, sizeof(h));
	atomic_store_explicit(&r->s->tail, tail + record_bytes(len), memory_order_release);
}

/* ---- consumer ---- */

uint64_t ring_head(const struct ring *r) { return atomic_load_explicit(&r->s->head, memory_order_relaxed); }

const void *ring_peek(struct ring *r, uint64_t *cursor, size_t *len_r)
{
	uint64_t head = ring_head(r), tail = atomic_load_explicit(&r->s->tail, memory_order_acquire);
	uint64_t unread = tail - *cursor;
	if (*cursor == tail) {
		errno = EAGAIN;
		return NULL;
	}
	struct record_head h;
	if (tail - head > r->capacity || unread > tail - head || unread < sizeof(h) || (*cursor | tail) & 7) {
		errno = EPROTO;
		return NULL;
	}
	/* Copied before it is checked: a broken producer may change it under our eyes. */
	memcpy(&h, r->data + (*cursor & r->mask), sizeof(h));
	if (h.magic != RECORD_MAGIC || h.len > ring_max_payload(r) || record_bytes(h.len) > unread) {
		errno = EPROTO;
		return NULL;
	}
	const void *p = r->data + (*cursor & r->mask) + sizeof(h);
	*cursor += record_bytes(h.len);
	*len_r = h.len;
	return p;
}

void ring_advance(struct ring *r, uint64_t cursor)
{
	atomic_store_explicit(&r->s->head, cursor, memory_order_release);
}

bool ring_empty(const struct ring *r)
{
	return atomic_load_explicit(&r->s->tail, memory_order_acquire) == ring_head(r);
}

size_t ring_used(const struct ring *r)
{
	uint64_t n = atomic_load_explicit(&r->s->tail, memory_order_acquire) -
		     atomic_load_explicit(&r->s->head, memory_order_acquire);
	return n > r->capacity ? r->capacity : n;
}
