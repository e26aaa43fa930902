/* L1: the segment's layout, and reading. The proof is in cache-private.h. */
#include "cache/cache-private.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/random.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "clock.h"

#define RETRIES 3 /* a record that is overwritten under us this often is no cache hit worth having */
#define PAGE 4096u

/* ---- layout ---- */

static bool make_plan(uint64_t size, struct cache_plan *p)
{
	uint64_t n = size / CACHE_SHARD_BYTES;
	p->shards = 1;
	while (p->shards * 2 <= n && p->shards < CACHE_SHARDS_MAX)
		p->shards *= 2;
	p->shards_end = align_up(sizeof(struct cache_segment) + p->shards * sizeof(struct cache_shard), PAGE);
	if (size < p->shards_end + 65536)
		return false;
	/* A bucket's 16 lines of log, 64 bytes of slots, 8 hit bytes. Three pages for rounding. */
	p->stride = (size - p->shards_end) / p->shards & ~(uint64_t)(PAGE - 1);
	uint64_t per_bucket = (CACHE_LINES_PER_BUCKET << CACHE_LINE_SHIFT) + CACHE_WAYS * (sizeof(uint64_t) + 1);
	uint64_t buckets = (p->stride - 3 * (uint64_t)PAGE) / per_bucket;
	if (buckets > UINT32_MAX)
		buckets = UINT32_MAX;
	p->buckets = (uint32_t)buckets;
	p->hits_at = align_up((size_t)buckets * CACHE_WAYS * sizeof(uint64_t), PAGE);
	p->log_at = p->hits_at + align_up((size_t)buckets * CACHE_WAYS, PAGE);
	p->log_lines = (p->stride - p->log_at) >> CACHE_LINE_SHIFT;
	return true;
}

size_t cache_segment_size(uint64_t bytes)
{
	const uint64_t least = 1u << 20;
	return align_up((size_t)(bytes < least ? least : bytes), PAGE);
}

static int make_lock(pthread_mutex_t *m)
{
	pthread_mutexattr_t a;
	int e = pthread_mutexattr_init(&a);
	if (e)
		return e;
	e = pthread_mutexattr_setpshared(&a, PTHREAD_PROCESS_SHARED);
	if (!e)
		e = pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST);
	if (!e)
		e = pthread_mutex_init(m, &a);
	pthread_mutexattr_destroy(&a);
	return e;
}

/* Only headers are written: slots, hit bytes and logs are right as the zeros of a new memfd, and
 * take no memory until they are used. */
static int format_segment(struct cache_segment *seg, size_t size, const struct cache_plan *p)
{
	if (getrandom(&seg->seed, sizeof(seg->seed), GRND_NONBLOCK) != sizeof(seg->seed))
		seg->seed = (uint64_t)clock_real_us() * 0x9e3779b97f4a7c15ull;
	for (uint32_t i = 0; i < p->shards; i++) {
		struct cache_shard *s = &seg->shards[i];
		int e = make_lock(&s->lock);
		if (e)
			return e;
		/* Positions begin at log_lines, so that no slot is 0. */
		atomic_store_explicit(&s->head, p->log_lines, memory_order_relaxed);
		atomic_store_explicit(&s->reclaimed, p->log_lines, memory_order_relaxed);
	}
	seg->h.magic = CACHE_MAGIC;
	seg->h.layout = CACHE_LAYOUT;
	seg->h.size = size;
	atomic_store_explicit(&seg->h.formatted, 1, memory_order_release);
	return 0;
}

struct cache *cache_open(int fd, bool format)
{
	size_t size;
	struct cache_plan p;
	struct cache_segment *seg = shm_map(fd, false, &size);
	int e = 0;
	if (!seg)
		return NULL;
	if (size < sizeof(*seg) || !make_plan(size, &p))
		e = EINVAL;
	/* A second call finds locks that others may hold: it formats nothing. Whoever was killed while
	 * formatting left `formatted` unset, and nobody attached. */
	else if (!atomic_load_explicit(&seg->h.formatted, memory_order_acquire))
		e = format ? format_segment(seg, size, &p) : EAGAIN;
	if (!e && (seg->h.magic != CACHE_MAGIC || seg->h.layout != CACHE_LAYOUT || seg->h.size != size))
		e = EPROTO;
	if (e) {
		munmap(seg, size);
		errno = e;
		return NULL;
	}
	struct cache *c = util_zalloc(sizeof(*c));
	*c = (struct cache){.seg = seg, .data = (char *)seg + p.shards_end, .size = size, .seed = seg->seed, .plan = p};
	return c;
}

void cache_close(struct cache **c)
{
	if (!*c)
		return;
	munmap((*c)->seg, (*c)->size);
	free(*c);
	*c = NULL;
}

uint64_t cache_hash(const struct cache *c, enum cache_class cls, const struct uuid *key)
{
	return XXH3_64bits_withSeed(key, sizeof(*key), c->seed + (uint64_t)cls);
}

/* ---- reading ---- */

enum outcome { FOUND, NOT_THIS, CHANGED, UNUSABLE };

/* Nothing copied before this call is believed unless it says true. */
static bool still_there(const struct cache_place *p, uint64_t pos)
{
	atomic_thread_fence(memory_order_acquire);
	return pos >= atomic_load_explicit(&p->shard->reclaimed, memory_order_relaxed);
}

static enum outcome read_record(const struct cache *c, const struct cache_place *p, uint64_t pos, uint32_t cls,
				const struct uuid *key, int64_t now_us, void *buf, size_t cap, struct cache_head *h)
{
	uint64_t at = pos % c->plan.log_lines;
	const char *line = p->log + (at << CACHE_LINE_SHIFT);
	shm_copy_out(h, line, sizeof(*h));
	if (h->pos != pos || h->cls != cls || memcmp(&h->key, key, sizeof(*key)) != 0)
		return still_there(p, pos) ? NOT_THIS : CHANGED;
	/* Bounds first, since a changing head may hold any length; then judge what was found. */
	bool whole = h->len <= cap && at + cache_lines(h->len) <= c->plan.log_lines;
	if (whole)
		shm_copy_out(buf, line + sizeof(*h), h->len);
	if (!still_there(p, pos))
		return CHANGED;
	if (!whole || (h->meta.expires_us && h->meta.expires_us <= now_us))
		return UNUSABLE;
	return FOUND;
}

/* Set once per stay in the log, and read by writers only: hot records are shared, not fought over. */
static void mark_hit(_Atomic uint8_t *hit)
{
	if (!atomic_load_explicit(hit, memory_order_relaxed))
		atomic_store_explicit(hit, 1, memory_order_relaxed);
}

ptrdiff_t cache_get(struct cache *c, enum cache_class cls, const struct uuid *key, int64_t now_us, void *buf,
		    size_t cap, struct cache_meta *meta_r)
{
	struct cache_place p = cache_place_of(c, cache_hash(c, cls, key));
	for (int tries = 0, i = 0; i < CACHE_WAYS; i++) {
		uint64_t slot = atomic_load_explicit(&p.slots[i], memory_order_acquire);
		struct cache_head h;
		if ((uint16_t)slot != p.tag || !slot ||
		    cache_slot_pos(slot) < atomic_load_explicit(&p.shard->reclaimed, memory_order_relaxed))
			continue;
		switch (read_record(c, &p, cache_slot_pos(slot), cls, key, now_us, buf, cap, &h)) {
		case FOUND:
			mark_hit(&p.hits[i]);
			*meta_r = h.meta;
			return (ptrdiff_t)h.len;
		case UNUSABLE: return -1;
		case CHANGED: /* evicted, or carried over to the head: look at this bucket again */
			if (++tries == RETRIES)
				return -1;
			i = -1;
			break;
		case NOT_THIS: break;
		}
	}
	return -1;
}

uint64_t cache_epoch(struct cache *c, enum cache_class cls, const struct uuid *key)
{
	struct cache_place p = cache_place_of(c, cache_hash(c, cls, key));
	return atomic_load_explicit(&p.shard->epoch, memory_order_acquire) +
	       atomic_load_explicit(cache_stripe(&p), memory_order_acquire);
}

void cache_stats(struct cache *c, struct cache_stats *out)
{
	*out = (struct cache_stats){.capacity = c->plan.shards * (c->plan.log_lines << CACHE_LINE_SHIFT)};
	for (uint32_t i = 0; i < c->plan.shards; i++) {
		const struct cache_shard *s = &c->seg->shards[i];
		out->entries += atomic_load_explicit(&s->entries, memory_order_relaxed);
		out->bytes += atomic_load_explicit(&s->bytes, memory_order_relaxed);
		out->evictions += atomic_load_explicit(&s->evictions, memory_order_relaxed);
		out->emptied_shards += atomic_load_explicit(&s->emptied, memory_order_relaxed);
	}
}
