#include "cache/policy.h"

#include "clock.h"
#include "conf.h"

void cache_policy_from(const struct conf *c, bool fleet, struct cache_policy *out)
{
	atomic_store_explicit(&out->negative_us, conf_int(c, CONF_CACHE_NEGATIVE_TTL), memory_order_relaxed);
	atomic_store_explicit(&out->search_us, conf_int(c, CONF_CACHE_SEARCH_TTL), memory_order_relaxed);
	atomic_store_explicit(&out->stale_us, fleet ? conf_int(c, CONF_CACHE_STALE) : 0, memory_order_relaxed);
	atomic_store_explicit(&out->ttl_us, fleet ? conf_int(c, CONF_CACHE_TTL) : 0, memory_order_relaxed);
}

static int64_t now_is(const _Atomic int64_t *v) { return atomic_load_explicit(v, memory_order_relaxed); }

static uint32_t milliseconds(int64_t us)
{
	int64_t ms = us / 1000;
	return ms < 1 ? 1 : ms > UINT32_MAX ? UINT32_MAX : (uint32_t)ms;
}

/* A number that is equally likely to be anything is all that is needed: the lower digits of the time, mixed (splitmix64, Steele et al. 2014). */
int64_t cache_policy_jittered(int64_t us, int64_t now_us)
{
	uint64_t z = (uint64_t)now_us * 0x9e3779b97f4a7c15ull;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	return us - us / 10 + (int64_t)((z >> 33) % (uint64_t)(us / 5 + 1));
}

struct cache_meta cache_policy_memory(const struct cache_policy *p, uint64_t ns, uint64_t version, int64_t expires_us)
{
	struct cache_meta m = {.ns = ns, .version = version, .filled_us = clock_real_us()};
	cache_meta_gone(&m, expires_us);
	int64_t ttl_us = now_is(&p->ttl_us);
	if (!ttl_us)
		return m;
	int64_t fresh_us = cache_policy_jittered(ttl_us, m.filled_us);
	uint32_t gone_ms = milliseconds(fresh_us + now_is(&p->stale_us));
	m.fresh_ms = milliseconds(fresh_us);
	if (!m.gone_ms || m.gone_ms > gone_ms)
		m.gone_ms = gone_ms;
	return m;
}

struct cache_meta cache_policy_negative(const struct cache_policy *p)
{
	struct cache_meta m = {.filled_us = clock_real_us(), .flags = CACHE_NEGATIVE};
	int64_t us = now_is(&p->negative_us);
	if (us)
		m.gone_ms = milliseconds(cache_policy_jittered(us, m.filled_us));
	return m;
}

struct cache_meta cache_policy_search(const struct cache_policy *p, uint64_t ns)
{
	struct cache_meta m = {.ns = ns, .version = 1, .filled_us = clock_real_us()};
	m.gone_ms = milliseconds(cache_policy_jittered(now_is(&p->search_us), m.filled_us));
	return m;
}
