/* The caches in /metrics: from shared memory, without asking anybody. */
#include "api.h"
#include "handlers.h"

static void head(struct buf *b, const char *name, const char *type, const char *help)
{
	buf_printf(b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void row(struct buf *b, const char *name, int cls, uint64_t v)
{
	buf_printf(b, "%s{tier=\"l1\",class=\"%s\"} %llu\n", name, cache_class_name((enum cache_class)cls),
		   (unsigned long long)v);
}

static void plain(struct buf *b, const char *name, const char *type, const char *help, uint64_t v)
{
	head(b, name, type, help);
	buf_printf(b, "%s %llu\n", name, (unsigned long long)v);
}

/* One row for each class, so that their sum is the whole. */
static void by_class(const struct cache_stats *s, struct buf *b, const char *name, const char *type, const char *help,
		     uint64_t (*value)(const struct cache_class_stats *s))
{
	head(b, name, type, help);
	for (int i = 1; i < CACHE_CLASSES; i++)
		row(b, name, i, value(&s->of[i]));
}

static uint64_t entries_of(const struct cache_class_stats *s) { return s->entries; }
static uint64_t bytes_of(const struct cache_class_stats *s) { return s->bytes; }
static uint64_t evictions_of(const struct cache_class_stats *s) { return s->evictions; }

static void ages(const struct cache_stats *s, struct buf *b, const char *name, const char *type, const char *help)
{
	head(b, name, type, help);
	for (int i = 1; i < CACHE_CLASSES; i++)
		buf_printf(b, "%s{tier=\"l1\",class=\"%s\"} %llu.%03llu\n", name, cache_class_name((enum cache_class)i),
			   (unsigned long long)s->of[i].evicted_ms / 1000,
			   (unsigned long long)s->of[i].evicted_ms % 1000);
}

static void redis(struct plant_redis *r, struct buf *b)
{
	if (!atomic_load(&r->asked_us))
		return; /* there is none */
	plain(b, "orchestra_redis_up", "gauge", "1 when Redis answered the last time that it was asked how it is.",
	      atomic_load(&r->up));
	plain(b, "orchestra_redis_used_memory_bytes", "gauge", "Memory that Redis uses; of all masters.",
	      atomic_load(&r->used_memory));
	plain(b, "orchestra_redis_maxmemory_bytes", "gauge", "Limit of Redis's memory; 0: none. Of all masters.",
	      atomic_load(&r->maxmemory));
	plain(b, "orchestra_redis_keys", "gauge", "Keys in Redis, others' included.", atomic_load(&r->keys));
	plain(b, "orchestra_redis_evicted_keys_total", "counter", "Keys that Redis removed for want of memory.",
	      atomic_load(&r->evicted_keys));
}

void caches_metrics(struct api *a, struct buf *b)
{
	struct cache_stats s;
	cache_stats(a->shared.cache, &s);
	by_class(&s, b, "orchestra_cache_entries", "gauge", "Entries of a cache tier.", entries_of);
	by_class(&s, b, "orchestra_cache_bytes", "gauge",
		 "Bytes used in a cache tier, with what describes the entries.", bytes_of);
	by_class(&s, b, "orchestra_cache_evictions_total", "counter", "Entries that made room for others.",
		 evictions_of);
	ages(&s, b, "orchestra_cache_evicted_age_seconds_total", "counter",
	     "Sum of the ages of entries that made room for others, since they were filled.");
	plain(b, "orchestra_cache_capacity_bytes", "gauge", "Bytes that the shared-memory cache has room for.",
	      s.capacity);
	plain(b, "orchestra_cache_emptied_shards_total", "counter",
	      "Shards of the shared-memory cache that were emptied because a writer died in them.", s.emptied_shards);
	redis(&a->plant->redis, b);
}
