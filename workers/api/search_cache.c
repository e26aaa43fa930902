#include "search_cache.h"

#include <stdlib.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "clock.h"
#include "herd.h"

#define QUESTION_MAX 65536
#define ANSWER_MAX (256u << 10)

static struct uuid uuid_of(XXH128_hash_t h)
{
	struct uuid u;
	XXH128_canonical_t c;
	XXH128_canonicalFromHash(&c, h);
	memcpy(u.b, c.digest, sizeof(u.b));
	return u;
}

static void mix(XXH3_state_t *x, const void *p, size_t n)
{
	XXH3_128bits_update(x, &n, sizeof(n)); /* "a","bc" is not "ab","c" */
	if (n)
		XXH3_128bits_update(x, p, n);
}

static struct uuid question(const struct call *c, const struct search *s)
{
	XXH3_state_t x;
	struct span q = http_query(c->req);
	XXH3_INITSTATE(&x);
	XXH3_128bits_reset(&x);
	mix(&x, c->who->name, c->who->name ? strlen(c->who->name) : 0);
	mix(&x, q.p, q.len);
	mix(&x, s->text, s->len);
	return uuid_of(XXH3_128bits_digest(&x));
}

/* ---- serving ---- */

static bool still_right(const struct call *c, const struct cache_meta *m)
{
	const struct plant_namespace *row = plant_find(c->api->plant, m->ns);
	return row && atomic_load_explicit(&row->generation, memory_order_acquire) == m->version &&
	       call_may(c, AUTH_READ, (struct span){row->name, row->name_len});
}

static bool from_l1(struct call *c, const struct search *s)
{
	struct api *a = c->api;
	struct cache_meta m;
	ptrdiff_t n = cache_get(a->shared.cache, CACHE_SEARCH, &s->key, clock_real_us(), a->scratch, SCRATCH_BYTES, &m);
	if (n < 0 || !still_right(c, &m))
		return false;
	stats_add(a->w->stats, STAT_L1_SEARCH_HITS, 1);
	c->reply.status = 200;
	buf_adds(&c->reply.head, "Cache-Status: orchestra; hit\r\n");
	buf_add(&c->reply.body, a->scratch, (size_t)n);
	return true;
}

static void answer_waiter(struct call *leader, struct call *c)
{
	stats_add(c->api->w->stats, STAT_COLLAPSED_SEARCH, 1);
	c->reply.status = leader->reply.status;
	c->reply.content_type = leader->reply.content_type;
	if (c->reply.status == 200)
		buf_adds(&c->reply.head, "Cache-Status: orchestra; fwd=miss; collapsed\r\n");
	else
		buf_add(&c->reply.head, leader->reply.head.p, leader->reply.head.len);
	buf_add(&c->reply.body, leader->reply.body.p, leader->reply.body.len);
	call_reply(c);
}

/* Whoever asks behind a write does not get what was begun before it. */
static struct uuid work_key(const struct api *a, const struct uuid *question)
{
	uint64_t applied = atomic_load_explicit(&a->plant->applied_seq, memory_order_acquire),
		 fed = atomic_load_explicit(&a->plant->feed_revision, memory_order_acquire);
	return herd_key(herd_key(*question, applied),
			fed << 32 | fed >> 32); /* turned, so that equal ones do not cancel out */
}

bool search_cache_serve(struct call *c, struct search *s)
{
	struct api *a = c->api;
	s->feed_heard = tiers_feed_heard(&a->shared);
	s->cacheable = s->feed_heard && s->len <= QUESTION_MAX &&
		       atomic_load_explicit(&a->shared.policy.search_us, memory_order_relaxed);
	if (!s->cacheable)
		return false;
	s->key = question(c, s);
	s->epoch = cache_epoch(a->shared.cache, CACHE_SEARCH, &s->key);
	if (from_l1(c, s)) {
		call_reply(c);
		return true;
	}
	stats_add(a->w->stats, STAT_L1_SEARCH_MISSES, 1);
	struct uuid key = work_key(a, &s->key);
	return herd_join(a->herd, &key, c, answer_waiter);
}

void search_cache_finish(struct call *c)
{
	herd_end(c->api->herd, c);
	call_reply(c);
}

/* ---- keeping ---- */

void search_cache_begin(struct search *s, const struct plant_namespace *row)
{
	s->generation = atomic_load_explicit(&row->generation, memory_order_acquire);
}

void search_cache_keep(struct call *c, struct reader *rd, const struct search *s)
{
	const struct buf *b = &c->reply.body;
	/* What is pending has no neighbours and other weights until it is stored; that moves no generation. */
	bool whole = !s->unsettled && !s->degraded_store && !s->degraded_text && !s->degraded_vector &&
		     !s->degraded_feed;
	if (!s->cacheable || !s->generation || !whole || s->explain || s->half_life_s > 0 || c->reply.status != 200 ||
	    b->len > ANSWER_MAX)
		return;
	struct cache_meta m = cache_policy_search(&rd->shared->policy, record_ns(s->ns));
	m.version = s->generation;
	if (s->gone_us && s->gone_us < m.filled_us + (int64_t)m.gone_ms * 1000)
		cache_meta_gone(&m, s->gone_us);
	bool stored = cache_fill(rd->shared->cache, CACHE_SEARCH, &s->key, s->epoch, &m, b->p, b->len);
	buf_adds(&c->reply.head,
		 stored ? "Cache-Status: orchestra; fwd=miss; stored\r\n" : "Cache-Status: orchestra; fwd=miss\r\n");
}

/* ---- vectors of texts ---- */

bool search_cache_vector(struct reader *rd, const struct embedder *e, struct span text, float *x)
{
	struct shared *s = rd->shared;
	struct cache_meta m = {.version = 1};
	XXH3_state_t h;
	size_t bytes = e->dimensions * sizeof(float);
	XXH3_INITSTATE(&h);
	XXH3_128bits_reset(&h);
	mix(&h, e->id, strlen(e->id));
	mix(&h, text.p, text.len);
	struct uuid key = uuid_of(XXH3_128bits_digest(&h));
	uint64_t epoch = cache_epoch(s->cache, CACHE_VECTOR, &key);
	ptrdiff_t n = cache_get(s->cache, CACHE_VECTOR, &key, clock_real_us(), x, bytes, &m);
	bool hit = n == (ptrdiff_t)bytes;
	stats_add_shared(s->stats, hit ? STAT_L1_VECTOR_HITS : STAT_L1_VECTOR_MISSES, 1);
	if (hit)
		return true;
	int64_t began_ns = clock_mono_ns();
	unsigned step = trace_enter(TRACE_EMBED);
	bool made = e->embed(e, &text, 1, x);
	trace_leave_with(step, TRACE_KEYS, 0, !made);
	stats_record_shared(s->stats, HIST_EMBED, (uint64_t)(clock_mono_ns() - began_ns));
	if (!made)
		return false;
	m = (struct cache_meta){.version = 1, .filled_us = clock_real_us()};
	(void)!cache_fill(s->cache, CACHE_VECTOR, &key, epoch, &m, x, bytes);
	return true;
}
