#include "ring.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fault.h"

/* What precedes a payload, in one word: length below, above it a check that depends on the length and on
 * the position, so that neither noise nor what an earlier lap left there passes. */
#define RECORD_MAGIC 0x52524f43u
#define RECORD_HEAD sizeof(uint64_t)

static uint64_t record_head(uint64_t at, uint32_t len)
{
	return (uint64_t)(RECORD_MAGIC ^ len ^ (uint32_t)(at >> 3)) << 32 | len;
}

struct ring {
	struct ring_shared *s;
	char *data; /* capacity bytes, mapped twice in a row */
	uint64_t capacity, mask;
	uint64_t peer; /* producer: the consumer's head when last looked at */
	uint64_t seen; /* consumer: the producer's tail when last looked at, within reach of head */
};

static size_t page(void) { return (size_t)sysconf(_SC_PAGESIZE); }

size_t ring_footprint(size_t capacity) { return align_up(sizeof(struct ring_shared), page()) + capacity; }

static size_t record_bytes(size_t len) { return align_up(RECORD_HEAD + len, 8); }

struct ring *ring_open(int fd, size_t offset, size_t capacity)
{
	size_t head = align_up(sizeof(struct ring_shared), page());
	size_t end;
	struct stat st;
	if (!capacity || capacity & (capacity - 1) || capacity % page() || offset % page() ||
	    !size_add(offset, head, &end) || !size_add(end, capacity, &end) || fstat(fd, &st) ||
	    (size_t)st.st_size < end) {
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

/* Only a broken predecessor can have left an odd tail; both sides round up and so meet again. */
static uint64_t producer_tail(const struct ring *r)
{
	return align_up(atomic_load_explicit(&r->s->tail, memory_order_relaxed), 8);
}

void *ring_reserve(struct ring *r, size_t len)
{
	if (len > ring_max_payload(r)) {
		errno = EMSGSIZE;
		return NULL;
	}
	uint64_t tail = producer_tail(r), need = record_bytes(len);
	if (r->capacity - (tail - r->peer) < need || tail - r->peer > r->capacity) {
		r->peer = atomic_load_explicit(&r->s->head, memory_order_acquire);
		if (tail - r->peer > r->capacity) {
			errno = EPROTO;
			return NULL;
		}
		if (r->capacity - (tail - r->peer) < need) {
			errno = EAGAIN;
			return NULL;
		}
	}
	FAULT_POINT(ring_reserved);
	return r->data + (tail & r->mask) + RECORD_HEAD;
}

void ring_commit(struct ring *r, size_t len)
{
	uint64_t tail = producer_tail(r), h = record_head(tail, (uint32_t)len);
	FAULT_POINT(ring_filled);
	memcpy(r->data + (tail & r->mask), &h, sizeof(h));
	FAULT_POINT(ring_headed);
	atomic_store_explicit(&r->s->tail, tail + record_bytes(len), memory_order_release);
	FAULT_POINT(ring_published);
}

/* ---- consumer ---- */

uint64_t ring_head(const struct ring *r) { return atomic_load_explicit(&r->s->head, memory_order_relaxed); }

/* Looks at the producer's index again. False: nothing behind `at`, or nonsense; errno says which. */
static bool look_again(struct ring *r, uint64_t at)
{
	uint64_t head = ring_head(r);
	r->seen = atomic_load_explicit(&r->s->tail, memory_order_acquire);
	if (r->seen == at) {
		errno = EAGAIN;
		return false;
	}
	errno = EPROTO;
	if (r->seen - head <= r->capacity && at - head <= r->seen - head && !(r->seen & 7))
		return true;
	r->seen = at; /* look again next time */
	return false;
}

/* Nothing that the producer writes can lead outside the mapping: the place is masked, the length
 * bounded by a quarter of the area, which is mapped twice. */
const void *ring_peek(struct ring *r, uint64_t *cursor, size_t *len_r)
{
	uint64_t at = align_up(*cursor, 8), unread = r->seen - at;
	if (!unread || unread > r->capacity) {
		if (!look_again(r, *cursor))
			return NULL;
		unread = r->seen - at;
	}
	const char *p = r->data + (at & r->mask);
	/* One load, checked afterwards: a broken producer may change the word under our eyes. */
	uint64_t h = __atomic_load_n((const uint64_t *)(const void *)p, __ATOMIC_RELAXED);
	uint32_t len = (uint32_t)h;
	if (h != record_head(at, len) || len > ring_max_payload(r) || record_bytes(len) > unread) {
		errno = EPROTO;
		return NULL;
	}
	*cursor = at + record_bytes(len);
	*len_r = len;
	return p + RECORD_HEAD;
}

void ring_advance(struct ring *r, uint64_t cursor)
{
	FAULT_POINT(ring_taken);
	atomic_store_explicit(&r->s->head, cursor, memory_order_release);
	FAULT_POINT(ring_advanced);
}

bool ring_empty(const struct ring *r)
{
	return atomic_load_explicit(&r->s->tail, memory_order_acquire) == ring_head(r);
}

/* Not clamped: head + used must be the tail even when the tail is nonsense, because that is how a
 * consumer drops what a broken producer left. */
size_t ring_used(const struct ring *r)
{
	return atomic_load_explicit(&r->s->tail, memory_order_acquire) -
	       atomic_load_explicit(&r->s->head, memory_order_acquire);
}
