#include "cache/cache.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#include "log.h"
#include "shm.h"

#define CACHE_MAGIC 0x31454843414343ull
#define SHARD_BYTES (4u << 20)
#define SHARDS_MAX 256
#define WAYS 8             /* slots of a bucket: one cache line */
#define REINSERT_MAX 8     /* records that one allocation may carry over because they were read */
#define ALIGN 16

/* A record in a shard's log. Positions are free-running byte counts; a record lies contiguous at
 * position % log size and never crosses the end (a pad record fills the rest). */
struct record {
	uint32_t bytes;            /* of the whole record, a multiple of ALIGN */
	uint32_t len;              /* of the value */
	uint32_t cls;              /* 0 = pad */
	_Atomic uint32_t hit;      /* set by readers, cleared when carried over */
	struct uuid key;
	struct cache_meta meta;
};

/* Slots hold position / ALIGN in the upper 48 bits and a tag of the hash in the lower 16; 0 = free. */
struct shard {
	pthread_mutex_t lock;      /* robust, process-shared: writers only */
	_Alignas(CACHE_LINE) _Atomic uint64_t generation; /* grows when the shard is emptied */
	_Atomic uint64_t epoch;    /* grows with every put, remove and purge: refuses stale fills */
	_Atomic uint64_t reclaimed; /* records below are gone */
	_Atomic uint64_t tail;
	_Atomic uint64_t entries, bytes, evictions, emptied;
};

struct layout {
	struct shm_header h;
	uint32_t shards, buckets;  /* buckets: per shard, a power of two */
	uint64_t log_bytes;        /* per shard */
	uint64_t shards_at, slots_at, logs_at;
};
struct cache {
	struct layout *l;
	size_t size;
	char *scratch;             /* writer: a record on its way to the tail */
};

/* ---- layout ---- */

static void plan(uint64_t bytes, struct layout *l)
{
	uint64_t n = 1;
	while (n < SHARDS_MAX && n * 2 * SHARD_BYTES <= bytes)
		n *= 2;
	l->shards = (uint32_t)n;
	l->log_bytes = align_up((size_t)(bytes / n), 4096);
	l->buckets = 64;
	while ((uint64_t)l->buckets * WAYS * 512 < l->log_bytes)
		l->buckets *= 2;
	l->shards_at = 4096;
	l->slots_at = l->shards_at + align_up(n * align_up(sizeof(struct shard), CACHE_LINE), 4096);
	l->logs_at = l->slots_at + align_up((size_t)(n * l->buckets * WAYS * sizeof(uint64_t)), 4096);
}

size_t cache_segment_size(uint64_t bytes)
{
	struct layout l;
	plan(bytes, &l);
	return (size_t)(l.logs_at + l.shards * l.log_bytes);
}

static struct shard *shard_at(const struct cache *c, uint32_t i)
{
	return (struct shard *)(void *)((char *)c->l + c->l->shards_at + i * align_up(sizeof(struct shard), CACHE_LINE));
}

static _Atomic uint64_t *bucket_at(const struct cache *c, uint32_t shard, uint32_t bucket)
{
	return (_Atomic uint64_t *)(void *)((char *)c->l + c->l->slots_at) +
	       ((uint64_t)shard * c->l->buckets + bucket) * WAYS;
}

static struct record *record_at(const struct cache *c, uint32_t shard, uint64_t pos)
{
	return (struct record *)(void *)((char *)c->l + c->l->logs_at + shard * c->l->log_bytes + pos % c->l->log_bytes);
}

static int make_lock(pthread_mutex_t *m)
{
	pthread_mutexattr_t a;
	int e = pthread_mutexattr_init(&a);
	if (!e)
		e = pthread_mutexattr_setpshared(&a, PTHREAD_PROCESS_SHARED);
	if (!e)
		e = pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST);
	if (!e)
		e = pthread_mutex_init(m, &a);
	pthread_mutexattr_destroy(&a);
	return e;
}

static int format_segment(struct layout *l, size_t size)
{
	struct layout p;
	uint64_t bytes = size;
	do { /* the largest cache whose segment fits */
		plan(bytes, &p);
		bytes -= 65536;
	} while (p.logs_at + p.shards * p.log_bytes > size && bytes > SHARD_BYTES / 8);
	if (p.logs_at + p.shards * p.log_bytes > size)
		return EINVAL;
	l->shards = p.shards;
	l->buckets = p.buckets;
	l->log_bytes = p.log_bytes;
	l->shards_at = p.shards_at;
	l->slots_at = p.slots_at;
	l->logs_at = p.logs_at;
	struct cache c = {.l = l};
	for (uint32_t i = 0; i < l->shards; i++) {
		int e = make_lock(&shard_at(&c, i)->lock);
		if (e)
			return e;
		/* position 0 would make a slot of 0 */
		atomic_store(&shard_at(&c, i)->reclaimed, l->log_bytes);
		atomic_store(&shard_at(&c, i)->tail, l->log_bytes);
	}
	l->h.layout = 1;
	l->h.size = size;
	l->h.magic = CACHE_MAGIC;
	atomic_store_explicit(&l->h.formatted, 1, memory_order_release);
	return 0;
}

struct cache *cache_open(int fd, bool format)
{
	size_t size;
	struct layout *l = shm_map(fd, false, &size);
	if (!l)
		return NULL;
	int e = format ? format_segment(l, size) : 0;
	if (!e && (!atomic_load_explicit(&l->h.formatted, memory_order_acquire) || l->h.magic != CACHE_MAGIC || l->h.layout != 1))
		e = EPROTO;
	if (e) {
		munmap(l, size);
		errno = e;
		return NULL;
	}
	struct cache *c = util_zalloc(sizeof(*c));
	c->l = l;
	c->size = size;
	return c;
}

void cache_close(struct cache **c)
{
	if (!*c)
		return;
	munmap((*c)->l, (*c)->size);
	free((*c)->scratch);
	free(*c);
	*c = NULL;
}

/* ---- where a key lives ---- */

struct place {
	uint32_t shard, bucket;
	uint16_t tag;
};

static struct place place_of(const struct cache *c, enum cache_class cls, const struct uuid *key)
{
	uint64_t h = XXH3_64bits_withSeed(key, sizeof(*key), (uint64_t)cls);
	return (struct place){(uint32_t)(h >> 48) & (c->l->shards - 1), (uint32_t)h & (c->l->buckets - 1),
			      (uint16_t)(h >> 32)};
}

static uint64_t slot_of(uint64_t pos, uint16_t tag) { return pos / ALIGN << 16 | tag; }
static uint64_t pos_of(uint64_t slot) { return (slot >> 16) * ALIGN; }

/* ---- readers ---- */

/* Everything below is copied while a writer may be overwriting it; only after the last check is any of
 * it believed. `reclaimed` moves (release) before the bytes below it are touched. */
static bool still_there(const struct shard *s, uint64_t pos, uint64_t generation)
{
	atomic_thread_fence(memory_order_acquire);
	return pos >= atomic_load_explicit(&s->reclaimed, memory_order_relaxed) &&
	       generation == atomic_load_explicit(&s->generation, memory_order_relaxed);
}

static void mark_hit(struct record *r)
{
	if (!atomic_load_explicit(&r->hit, memory_order_relaxed))
		atomic_store_explicit(&r->hit, 1, memory_order_relaxed);
}

ptrdiff_t cache_get(struct cache *c, enum cache_class cls, const struct uuid *key, int64_t now_us, void *buf, size_t cap,
		    struct cache_meta *meta)
{
	struct place p = place_of(c, cls, key);
	struct shard *s = shard_at(c, p.shard);
	_Atomic uint64_t *slots = bucket_at(c, p.shard, p.bucket);
	uint64_t generation = atomic_load_explicit(&s->generation, memory_order_acquire);
	for (int i = 0; i < WAYS; i++) {
		uint64_t slot = atomic_load_explicit(&slots[i], memory_order_acquire), pos = pos_of(slot);
		struct record head;
		if (!slot || (uint16_t)slot != p.tag)
			continue;
		struct record *r = record_at(c, p.shard, pos);
		shm_copy_out(&head, r, sizeof(head));
		if (!still_there(s, pos, generation) || head.cls != (uint32_t)cls || uuid_cmp(&head.key, key) != 0)
			continue;
		if (head.len > cap || (head.meta.expires_us && head.meta.expires_us <= now_us))
			return -1;
		shm_copy_out(buf, r + 1, head.len);
		if (!still_there(s, pos, generation))
			return -1;
		mark_hit(r); /* may hit a record that was just reused: worth one undeserved round */
		*meta = head.meta;
		return (ptrdiff_t)head.len;
	}
	return -1;
}

uint64_t cache_epoch(struct cache *c, enum cache_class cls, const struct uuid *key)
{
	return atomic_load_explicit(&shard_at(c, place_of(c, cls, key).shard)->epoch, memory_order_acquire);
}

/* ---- writers, under the shard's lock ---- */

/* After its owner died nobody knows what is half done: all of it goes. Positions below the new
 * `reclaimed` are invalid before the generation moves and the slots are cleared. */
static void empty_shard(struct cache *c, uint32_t i)
{
	struct shard *s = shard_at(c, i);
	uint64_t tail = atomic_load(&s->tail), next = (tail / c->l->log_bytes + 2) * c->l->log_bytes;
	atomic_store_explicit(&s->reclaimed, next, memory_order_release);
	atomic_store_explicit(&s->tail, next, memory_order_release);
	atomic_fetch_add(&s->generation, 1);
	atomic_fetch_add(&s->epoch, 1);
	for (uint32_t b = 0; b < c->l->buckets * WAYS; b++)
		atomic_store_explicit(&bucket_at(c, i, 0)[b], 0, memory_order_release);
	atomic_store(&s->entries, 0);
	atomic_store(&s->bytes, 0);
	atomic_fetch_add(&s->emptied, 1);
}

static struct shard *lock_shard(struct cache *c, uint32_t i)
{
	struct shard *s = shard_at(c, i);
	int e = pthread_mutex_lock(&s->lock);
	if (e == EOWNERDEAD) {
		empty_shard(c, i);
		AN(pthread_mutex_consistent(&s->lock) == 0);
		log_warn("a writer died in cache shard %u: it was emptied", i);
	} else {
		AN(e == 0);
	}
	return s;
}

static void unlock_shard(struct shard *s) { pthread_mutex_unlock(&s->lock); }

static void sub(_Atomic uint64_t *v, uint64_t n) { atomic_store_explicit(v, atomic_load_explicit(v, memory_order_relaxed) - n, memory_order_relaxed); }
static void plus(_Atomic uint64_t *v, uint64_t n) { atomic_store_explicit(v, atomic_load_explicit(v, memory_order_relaxed) + n, memory_order_relaxed); }

static bool names(const struct cache *c, uint32_t shard, uint64_t slot, enum cache_class cls, const struct uuid *key)
{
	const struct record *r = record_at(c, shard, pos_of(slot));
	return pos_of(slot) >= atomic_load_explicit(&shard_at(c, shard)->reclaimed, memory_order_relaxed) &&
	       r->cls == (uint32_t)cls && uuid_cmp(&r->key, key) == 0;
}

static _Atomic uint64_t *find(const struct cache *c, const struct place *p, enum cache_class cls, const struct uuid *key)
{
	_Atomic uint64_t *slots = bucket_at(c, p->shard, p->bucket);
	for (int i = 0; i < WAYS; i++) {
		uint64_t v = atomic_load_explicit(&slots[i], memory_order_relaxed);
		if (v && (uint16_t)v == p->tag && names(c, p->shard, v, cls, key))
			return &slots[i];
	}
	return NULL;
}

static void forget(struct cache *c, uint32_t shard, _Atomic uint64_t *slot)
{
	struct shard *s = shard_at(c, shard);
	sub(&s->entries, 1);
	sub(&s->bytes, record_at(c, shard, pos_of(atomic_load_explicit(slot, memory_order_relaxed)))->bytes);
	atomic_store_explicit(slot, 0, memory_order_release);
}

/* A slot for a new record: a free or outdated one, else the oldest of the bucket gives way. */
static _Atomic uint64_t *free_slot(struct cache *c, const struct place *p)
{
	struct shard *s = shard_at(c, p->shard);
	_Atomic uint64_t *slots = bucket_at(c, p->shard, p->bucket), *oldest = NULL;
	uint64_t low = UINT64_MAX, reclaimed = atomic_load_explicit(&s->reclaimed, memory_order_relaxed);
	for (int i = 0; i < WAYS; i++) {
		uint64_t v = atomic_load_explicit(&slots[i], memory_order_relaxed);
		if (!v || pos_of(v) < reclaimed)
			return &slots[i];
		if (pos_of(v) < low) {
			low = pos_of(v);
			oldest = &slots[i];
		}
	}
	forget(c, p->shard, oldest);
	plus(&s->evictions, 1);
	return oldest;
}

static bool make_room(struct cache *c, uint32_t shard, uint64_t bytes, int reinsert);

static void append(struct cache *c, const struct place *p, const struct record *head, const void *value)
{
	struct shard *s = shard_at(c, p->shard);
	uint64_t tail = atomic_load_explicit(&s->tail, memory_order_relaxed);
	struct record *r = record_at(c, p->shard, tail);
	shm_copy_in(r, head, sizeof(*head));
	shm_copy_in(r + 1, value, head->len);
	atomic_store_explicit(&s->tail, tail + head->bytes, memory_order_release);
	atomic_store_explicit(free_slot(c, p), slot_of(tail, p->tag), memory_order_release);
	plus(&s->entries, 1);
	plus(&s->bytes, head->bytes);
}

/* Lets the oldest record go; true when it should be carried over (then it is in scratch). */
static bool drop_oldest(struct cache *c, uint32_t shard, bool may_keep)
{
	struct shard *s = shard_at(c, shard);
	uint64_t pos = atomic_load_explicit(&s->reclaimed, memory_order_relaxed);
	struct record *r = record_at(c, shard, pos);
	uint32_t bytes = r->bytes;
	bool keep = false;
	AN(bytes && bytes % ALIGN == 0);
	if (r->cls) {
		struct place p = place_of(c, (enum cache_class)r->cls, &r->key);
		_Atomic uint64_t *slots = bucket_at(c, shard, p.bucket);
		for (int i = 0; i < WAYS; i++) {
			if (atomic_load_explicit(&slots[i], memory_order_relaxed) != slot_of(pos, p.tag))
				continue;
			keep = may_keep && atomic_load_explicit(&r->hit, memory_order_relaxed);
			if (keep)
				memcpy(c->scratch, r, bytes);
			else
				plus(&s->evictions, 1);
			forget(c, shard, &slots[i]);
		}
	}
	atomic_store_explicit(&s->reclaimed, pos + bytes, memory_order_release);
	/* what follows may overwrite those bytes: not before `reclaimed` is seen */
	atomic_thread_fence(memory_order_seq_cst);
	return keep;
}

static void carry_over(struct cache *c, uint32_t shard, int reinsert)
{
	struct record head;
	memcpy(&head, c->scratch, sizeof(head));
	struct place p = place_of(c, (enum cache_class)head.cls, &head.key);
	atomic_store_explicit(&head.hit, 0, memory_order_relaxed);
	if (make_room(c, shard, head.bytes, reinsert))
		append(c, &p, &head, c->scratch + sizeof(head));
}

/* Makes [tail, tail + bytes) free and contiguous. */
static bool make_room(struct cache *c, uint32_t shard, uint64_t bytes, int reinsert)
{
	struct shard *s = shard_at(c, shard);
	uint64_t size = c->l->log_bytes, tail = atomic_load_explicit(&s->tail, memory_order_relaxed);
	uint64_t to_end = size - tail % size, pad = to_end < bytes ? to_end : 0;
	while (tail + pad + bytes - atomic_load_explicit(&s->reclaimed, memory_order_relaxed) > size)
		if (drop_oldest(c, shard, reinsert > 0)) {
			carry_over(c, shard, 0);
			reinsert--;
			tail = atomic_load_explicit(&s->tail, memory_order_relaxed);
			to_end = size - tail % size;
			pad = to_end < bytes ? to_end : 0;
		}
	if (pad) { /* the rest of the log holds at least a head: records are multiples of it */
		struct record *r = record_at(c, shard, tail);
		struct { uint32_t bytes, len, cls, hit; } filler = {(uint32_t)pad, 0, 0, 0};
		shm_copy_in(r, &filler, sizeof(filler));
		atomic_store_explicit(&s->tail, tail + pad, memory_order_release);
	}
	return true;
}

static void store(struct cache *c, const struct place *p, enum cache_class cls, const struct uuid *key,
		  const struct cache_meta *meta, const void *value, size_t len)
{
	struct record head = {.bytes = (uint32_t)align_up(sizeof(head) + len, ALIGN), .len = (uint32_t)len, .cls = (uint32_t)cls,
			      .key = *key, .meta = *meta};
	if (!c->scratch)
		c->scratch = util_alloc((size_t)(c->l->log_bytes / 4));
	if (make_room(c, p->shard, head.bytes, REINSERT_MAX))
		append(c, p, &head, value);
}

static bool fits(const struct cache *c, size_t len) { return len < (1u << 20) && len + sizeof(struct record) + ALIGN <= c->l->log_bytes / 4; }

bool cache_fill(struct cache *c, enum cache_class cls, const struct uuid *key, uint64_t epoch, const struct cache_meta *meta,
		const void *value, size_t len)
{
	struct place p = place_of(c, cls, key);
	bool ok = false;
	if (!fits(c, len))
		return false;
	struct shard *s = lock_shard(c, p.shard);
	if (atomic_load_explicit(&s->epoch, memory_order_relaxed) == epoch) {
		_Atomic uint64_t *old = find(c, &p, cls, key);
		ok = !old || record_at(c, p.shard, pos_of(atomic_load(old)))->meta.version < meta->version;
		if (ok && old)
			forget(c, p.shard, old);
		if (ok)
			store(c, &p, cls, key, meta, value, len);
	}
	unlock_shard(s);
	return ok;
}

void cache_put(struct cache *c, enum cache_class cls, const struct uuid *key, const struct cache_meta *meta, const void *value,
	       size_t len)
{
	struct place p = place_of(c, cls, key);
	struct shard *s = lock_shard(c, p.shard);
	_Atomic uint64_t *old = find(c, &p, cls, key);
	if (old)
		forget(c, p.shard, old);
	atomic_fetch_add_explicit(&s->epoch, 1, memory_order_release);
	if (fits(c, len))
		store(c, &p, cls, key, meta, value, len);
	unlock_shard(s);
}

void cache_remove(struct cache *c, enum cache_class cls, const struct uuid *key)
{
	struct place p = place_of(c, cls, key);
	struct shard *s = lock_shard(c, p.shard);
	_Atomic uint64_t *old = find(c, &p, cls, key);
	if (old)
		forget(c, p.shard, old);
	atomic_fetch_add_explicit(&s->epoch, 1, memory_order_release);
	unlock_shard(s);
}

void cache_purge_ns(struct cache *c, uint64_t ns)
{
	for (uint32_t i = 0; i < c->l->shards; i++) {
		struct shard *s = lock_shard(c, i);
		_Atomic uint64_t *slots = bucket_at(c, i, 0);
		uint64_t reclaimed = atomic_load_explicit(&s->reclaimed, memory_order_relaxed);
		atomic_fetch_add_explicit(&s->epoch, 1, memory_order_release);
		if (atomic_load_explicit(&s->entries, memory_order_relaxed))
			for (uint32_t b = 0; b < c->l->buckets * WAYS; b++) {
				uint64_t v = atomic_load_explicit(&slots[b], memory_order_relaxed);
				if (v && pos_of(v) >= reclaimed && record_at(c, i, pos_of(v))->meta.ns == ns)
					forget(c, i, &slots[b]);
			}
		unlock_shard(s);
	}
}

void cache_stats(struct cache *c, struct cache_stats *out)
{
	*out = (struct cache_stats){.capacity = c->l->shards * c->l->log_bytes};
	for (uint32_t i = 0; i < c->l->shards; i++) {
		struct shard *s = shard_at(c, i);
		out->entries += atomic_load_explicit(&s->entries, memory_order_relaxed);
		out->bytes += atomic_load_explicit(&s->bytes, memory_order_relaxed);
		out->evictions += atomic_load_explicit(&s->evictions, memory_order_relaxed);
		out->emptied_shards += atomic_load_explicit(&s->emptied, memory_order_relaxed);
	}
}
