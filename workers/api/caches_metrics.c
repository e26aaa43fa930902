/* The caches in /metrics: from shared memory, without asking anybody. */
#include <stdio.h>

#include "handlers.h"
#include "metrics_parts.h"

/* One row for each class, so that their sum is the whole. */
static void by_class(struct expo *e, const struct cache_stats *s, enum metric_family id,
		     uint64_t (*value)(const struct cache_class_stats *s))
{
	const struct metric *m = &metrics_families[id];
	char labels[64];
	expo_head(e, m);
	for (int i = 1; i < CACHE_CLASSES; i++) {
		snprintf(labels, sizeof(labels), "tier=\"l1\",class=\"%s\"", cache_class_name((enum cache_class)i));
		if (id == METRIC_CACHE_EVICTED_AGE)
			expo_us(e, m, labels, value(&s->of[i]) * 1000);
		else
			expo_u64(e, m, labels, value(&s->of[i]));
	}
}

static uint64_t entries_of(const struct cache_class_stats *s) { return s->entries; }
static uint64_t bytes_of(const struct cache_class_stats *s) { return s->bytes; }
static uint64_t evictions_of(const struct cache_class_stats *s) { return s->evictions; }
static uint64_t ages_of(const struct cache_class_stats *s) { return s->evicted_ms; }

static void redis(struct expo *e, struct plant_redis *r)
{
	if (!atomic_load(&r->asked_us))
		return; /* there is none */
	expo_one(e, METRIC_REDIS_UP, atomic_load(&r->up));
	expo_one(e, METRIC_REDIS_USED, atomic_load(&r->used_memory));
	expo_one(e, METRIC_REDIS_MAX, atomic_load(&r->maxmemory));
	expo_one(e, METRIC_REDIS_KEYS, atomic_load(&r->keys));
	expo_one(e, METRIC_REDIS_EVICTED, atomic_load(&r->evicted_keys));
}

void caches_metrics(struct expo *e, struct api *a)
{
	struct cache_stats s;
	cache_stats(a->shared.cache, &s);
	by_class(e, &s, METRIC_CACHE_ENTRIES, entries_of);
	by_class(e, &s, METRIC_CACHE_BYTES, bytes_of);
	by_class(e, &s, METRIC_CACHE_EVICTIONS, evictions_of);
	by_class(e, &s, METRIC_CACHE_EVICTED_AGE, ages_of);
	expo_one(e, METRIC_CACHE_CAPACITY, s.capacity);
	expo_one(e, METRIC_CACHE_EMPTIED, s.emptied_shards);
	redis(e, &a->plant->redis);
}
