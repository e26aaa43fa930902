/* GET /v1/admin/cache/top: the entries of L1 that are wanted most. */
#include <stdlib.h>

#include "caches.h"
#include "clock.h"

#define TOP_DEFAULT 20
#define TOP_MAX 1000

struct hot {
	struct cache_entry e;
	unsigned heat; /* what eviction goes by: how often it was wanted, with the hits that are not counted in yet */
};
struct top {
	struct call *call;
	struct cache *cache;
	int64_t now_us;
	enum cache_class cls; /* 0: any */
	size_t limit, n;      /* n: of v, at most twice the limit */
	unsigned least;	      /* colder ones are not among the first `limit` */
	uint64_t seen;
	struct hot *v;
};

/* The hottest first, then what stays longest; then by key, so that two answers can be compared. */
static int by_heat(const void *pa, const void *pb)
{
	const struct hot *a = pa, *b = pb;
	if (a->heat != b->heat)
		return a->heat > b->heat ? -1 : 1;
	if (a->e.main != b->e.main)
		return a->e.main ? -1 : 1;
	return uuid_cmp(&a->e.key, &b->e.key);
}

static void cut(struct top *t)
{
	qsort(t->v, t->n, sizeof(*t->v), by_heat);
	if (t->n < t->limit)
		return;
	t->n = t->limit;
	t->least = t->v[t->n - 1].heat;
}

static bool visit(void *arg, const struct cache_entry *e, const void *value)
{
	struct top *t = arg;
	(void)value;
	if ((t->cls && e->cls != t->cls) || cache_age_of(&e->meta, t->now_us) == CACHE_GONE ||
	    !caches_may_see(t->call, e->meta.ns))
		return true;
	t->seen++;
	unsigned heat = cache_frequency(t->cache, e->cls, &e->key) + e->hits;
	if (heat < t->least)
		return true;
	t->v[t->n++] = (struct hot){*e, heat};
	if (t->n == 2 * t->limit)
		cut(t);
	return true;
}

static void write_entry(struct top *t, const struct hot *h)
{
	struct buf *b = &t->call->reply.body;
	const struct cache_meta *m = &h->e.meta;
	int64_t age_ms = (t->now_us - m->filled_us) / 1000;
	char key[UUID_TEXT];
	uuid_format(&h->e.key, key);
	buf_printf(b, "{\"key\":\"%.*s\",\"class\":\"%s\"", UUID_TEXT, key, cache_class_name(h->e.cls));
	caches_namespace(t->call, m->ns);
	buf_printf(b, ",\"version\":%llu,\"bytes\":%u,\"heat\":%u,\"hits\":%u,\"main\":%s,\"negative\":%s",
		   (unsigned long long)m->version, h->e.len, h->heat, h->e.hits, h->e.main ? "true" : "false",
		   m->flags & CACHE_NEGATIVE ? "true" : "false");
	buf_printf(b, ",\"state\":\"%s\",\"age_s\":%.3f", caches_state(cache_age_of(m, t->now_us)),
		   (double)age_ms / 1e3);
	if (m->fresh_ms > age_ms)
		buf_printf(b, ",\"fresh_for_s\":%.3f", (double)(m->fresh_ms - age_ms) / 1e3);
	if (m->gone_ms > age_ms)
		buf_printf(b, ",\"gone_in_s\":%.3f", (double)(m->gone_ms - age_ms) / 1e3);
	buf_addc(b, '}');
}

static void read_top(struct call *c, struct reader *rd)
{
	struct top *t = c->state;
	t->call = c;
	t->cache = rd->shared->cache;
	t->now_us = clock_real_us();
	t->v = util_alloc(2 * t->limit * sizeof(*t->v));
	cache_walk(t->cache, NULL, 0, visit, t);
	cut(t);
	buf_adds(&c->reply.body, "{\"entries\":[");
	for (size_t i = 0; i < t->n && i < t->limit; i++) {
		if (i)
			buf_addc(&c->reply.body, ',');
		write_entry(t, &t->v[i]);
	}
	buf_printf(&c->reply.body, "],\"of\":%llu}", (unsigned long long)t->seen);
	c->reply.status = 200;
}

static void top_free(void *state)
{
	struct top *t = state;
	free(t->v);
	free(t);
}

static bool class_parameter(struct call *c, enum cache_class *cls_r)
{
	char *v = NULL;
	size_t len = 0;
	int found = http_query_get(c->req, "class", &v, &len);
	if (found == 1 && strlen(v) == len)
		*cls_r = cache_class_find(v);
	free(v);
	bool ok = found == 0 || *cls_r;
	if (!ok)
		problem(c, 400, "invalid-parameter", "class: must be memory, search or vector");
	return ok;
}

void caches_top(struct call *c)
{
	struct top *t = util_zalloc(sizeof(*t));
	c->state = t;
	c->free_state = top_free;
	uint64_t limit = TOP_DEFAULT;
	bool ok = call_number(c, "limit", TOP_MAX, &limit) && class_parameter(c, &t->cls);
	t->limit = (size_t)limit;
	if (ok)
		call_read(c, read_top);
	else
		call_reply(c);
}
