/* L1: the segment's layout, times and figures. The proof is in cache-private.h. */
#include "cache/cache-private.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/random.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "clock.h"

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
	p->stride = (size - p->shards_end) / p->shards & ~(uint64_t)(PAGE - 1);
	/* A bucket with its lines of log and its word of the sketch. Three pages for rounding. */
	const uint64_t per_bucket = (CACHE_LINES_PER_BUCKET << CACHE_LINE_SHIFT) + sizeof(struct cache_bucket) +
				    sizeof(uint64_t);
	uint64_t buckets = (p->stride - 3 * (uint64_t)PAGE) / per_bucket;
	if (buckets > UINT32_MAX)
		buckets = UINT32_MAX;
	p->buckets = (uint32_t)buckets;
	p->sketch_at = align_up((size_t)buckets * sizeof(struct cache_bucket), PAGE);
	p->log_at[CACHE_SMALL] = p->sketch_at + align_up((size_t)buckets * sizeof(uint64_t), PAGE);
	uint64_t lines = (p->stride - p->log_at[CACHE_SMALL]) >> CACHE_LINE_SHIFT;
	p->lines[CACHE_SMALL] = lines / CACHE_SMALL_SHARE;
	p->lines[CACHE_MAIN] = lines - p->lines[CACHE_SMALL];
	p->log_at[CACHE_MAIN] = p->log_at[CACHE_SMALL] + (p->lines[CACHE_SMALL] << CACHE_LINE_SHIFT);
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

/* Only headers are written: buckets, sketch and logs are right as the zeros of a new memfd, and
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
		for (int w = 0; w < CACHE_LOGS; w++) {
			/* Positions begin one round up, so that no slot is 0. */
			uint64_t pos = p->lines[w] | (w == CACHE_MAIN ? CACHE_MAIN_BIT : 0);
			atomic_store_explicit(&s->head[w], pos, memory_order_relaxed);
			atomic_store_explicit(&s->reclaimed[w], pos, memory_order_relaxed);
		}
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
	/* The seed is added to the key's words in there: classes must be far apart, or neighbouring keys of theirs meet. */
	return XXH3_64bits_withSeed(key, sizeof(*key), c->seed + (uint64_t)cls * 0x9e3779b97f4a7c15ull);
}

/* ---- names ---- */

static const char *const class_names[] = {"", "memory", "search", "vector"};
_Static_assert(ARRAY_LEN(class_names) == CACHE_CLASSES, "a name for each class");

const char *cache_class_name(enum cache_class cls) { return cls < CACHE_CLASSES ? class_names[cls] : ""; }

enum cache_class cache_class_find(const char *name)
{
	for (unsigned i = 1; i < CACHE_CLASSES; i++)
		if (strcmp(class_names[i], name) == 0)
			return (enum cache_class)i;
	return (enum cache_class)0;
}

/* ---- times ---- */

void cache_meta_gone(struct cache_meta *m, int64_t gone_us)
{
	int64_t ms = (gone_us - m->filled_us) / 1000;
	if (!gone_us)
		m->gone_ms = 0;
	else
		m->gone_ms = ms < 1 ? 1 : ms > UINT32_MAX ? UINT32_MAX : (uint32_t)ms;
}

enum cache_age cache_age_of(const struct cache_meta *m, int64_t now_us)
{
	int64_t ms = (now_us - m->filled_us) / 1000;
	if (m->gone_ms && ms >= m->gone_ms)
		return CACHE_GONE;
	if (m->fresh_ms && ms >= m->fresh_ms)
		return CACHE_STALE;
	return m->fresh_ms && ms >= m->fresh_ms - m->fresh_ms / 8 ? CACHE_AGEING : CACHE_FRESH;
}

/* ---- figures ---- */

static void add_class(struct cache_class_stats *sum, const struct cache_class_stats *one)
{
	sum->entries += one->entries;
	sum->bytes += one->bytes;
	sum->evictions += one->evictions;
	sum->evicted_ms += one->evicted_ms;
}

void cache_stats(struct cache *c, struct cache_stats *out)
{
	*out = (struct cache_stats){
		.capacity = c->plan.shards * (c->plan.lines[CACHE_SMALL] + c->plan.lines[CACHE_MAIN])
			    << CACHE_LINE_SHIFT};
	for (uint32_t i = 0; i < c->plan.shards; i++) {
		const struct cache_shard *s = &c->seg->shards[i];
		for (int cls = 1; cls < CACHE_CLASSES; cls++) {
			const struct cache_counts *n = &s->of[cls];
			struct cache_class_stats one = {cache_peek_u64(&n->entries), cache_peek_u64(&n->bytes),
							cache_peek_u64(&n->evictions), cache_peek_u64(&n->evicted_ms)};
			add_class(&out->of[cls], &one);
			add_class(&out->of[0], &one);
		}
		out->emptied_shards += cache_peek_u64(&s->emptied);
	}
}
