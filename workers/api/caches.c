/* GET /v1/admin/cache: how the tiers are, in figures. What was not counted or not answered is left out. */
#include "caches.h"

#include "cache/l2.h"
#include "clock.h"
#include "tiers.h"

bool caches_may_see(const struct call *c, uint64_t ns)
{
	const struct plant_namespace *row = ns ? plant_find(c->api->plant, ns) : NULL;
	return !c->who->namespaces || (row && call_may(c, AUTH_ADMIN, (struct span){row->name, row->name_len}));
}

void caches_namespace(struct call *c, uint64_t ns)
{
	const struct plant_namespace *row = ns ? plant_find(c->api->plant, ns) : NULL;
	if (!row)
		return;
	buf_adds(&c->reply.body, ",\"namespace\":");
	json_out_string(&c->reply.body, (struct span){row->name, row->name_len});
}

const char *caches_state(enum cache_age age)
{
	static const char *const names[] = {"fresh", "ageing", "stale", "gone"};
	return names[age];
}

static uint64_t total(const struct plant *p, unsigned stat)
{
	uint64_t n = 0;
	for (unsigned s = 0; s < SLOT_COUNT; s++)
		n += stats_value(&p->worker[s].stats, (enum stat_id)stat);
	return n;
}

static void field(struct buf *b, const char *name, uint64_t v)
{
	if (b->p[b->len - 1] != '{')
		buf_addc(b, ',');
	buf_printf(b, "\"%s\":%llu", name, (unsigned long long)v);
}

/* ---- L1 ---- */

enum { HITS, NEGATIVE, MISSES, STALE, COLLAPSED, ANEW, FIELDS };
static const struct {
	const char *name;
	int stat[CACHE_CLASSES]; /* -1: not counted, since it does not happen */
} counted[FIELDS] = {
	[HITS] = {"hits", {-1, STAT_L1_HITS, STAT_L1_SEARCH_HITS, STAT_L1_VECTOR_HITS}},
	[NEGATIVE] = {"negative_hits", {-1, STAT_L1_NEGATIVE, -1, -1}},
	[MISSES] = {"misses", {-1, STAT_L1_MISSES, STAT_L1_SEARCH_MISSES, STAT_L1_VECTOR_MISSES}},
	[STALE] = {"stale_hits", {-1, STAT_L1_STALE, -1, -1}},
	[COLLAPSED] = {"collapsed", {-1, STAT_COLLAPSED_MEMORY, STAT_COLLAPSED_SEARCH, -1}},
	[ANEW] = {"refreshes", {-1, STAT_REFRESHES, -1, -1}},
};
_Static_assert(CACHE_CLASSES == 4, "a column for each class");

static void write_class(const struct plant *p, struct buf *b, int cls, const struct cache_class_stats *s)
{
	uint64_t n[FIELDS] = {0};
	buf_printf(b, "\"%s\":{", cache_class_name((enum cache_class)cls));
	field(b, "entries", s->entries);
	field(b, "bytes", s->bytes);
	for (int i = 0; i < FIELDS; i++) {
		if (counted[i].stat[cls] < 0)
			continue;
		n[i] = total(p, (unsigned)counted[i].stat[cls]);
		field(b, counted[i].name, n[i]);
	}
	uint64_t found = n[HITS] + n[NEGATIVE];
	if (found + n[MISSES])
		buf_printf(b, ",\"hit_ratio\":%.4f", (double)found / (double)(found + n[MISSES]));
	field(b, "evictions", s->evictions);
	if (s->evictions)
		buf_printf(b, ",\"mean_age_at_eviction_s\":%.3f", (double)s->evicted_ms / 1e3 / (double)s->evictions);
	buf_addc(b, '}');
}

static void write_l1(struct call *c, struct buf *b)
{
	struct cache_stats s;
	cache_stats(c->api->shared.cache, &s);
	buf_adds(b, "\"l1\":{");
	field(b, "capacity_bytes", s.capacity);
	field(b, "used_bytes", s.of[0].bytes);
	field(b, "entries", s.of[0].entries);
	field(b, "emptied_shards", s.emptied_shards);
	buf_adds(b, ",\"classes\":{");
	for (int i = 1; i < CACHE_CLASSES; i++) {
		if (i > 1)
			buf_addc(b, ',');
		write_class(c->api->plant, b, i, &s.of[i]);
	}
	buf_adds(b, "}}");
}

/* ---- Redis ---- */

static void write_server(struct buf *b, const struct l2_info *i)
{
	buf_adds(b, ",\"server\":{");
	field(b, "masters", i->masters);
	field(b, "used_memory_bytes", i->used_memory);
	field(b, "maxmemory_bytes", i->maxmemory);
	field(b, "keys", i->keys);
	field(b, "evicted_keys", i->evicted_keys);
	field(b, "expired_keys", i->expired_keys);
	const struct {
		const char *name, *text;
	} words[] = {{"version", i->version}, {"mode", i->mode}, {"maxmemory_policy", i->policy}};
	for (size_t k = 0; k < ARRAY_LEN(words); k++) {
		if (!*words[k].text)
			continue;
		buf_printf(b, ",\"%s\":", words[k].name);
		json_out_string(b, SPAN(words[k].text));
	}
	buf_addc(b, '}');
}

static void write_l2(struct call *c, struct buf *b)
{
	static const struct {
		const char *name;
		unsigned stat;
	} rows[] = {{"hits", STAT_L2_HITS},	{"misses", STAT_L2_MISSES},
		    {"errors", STAT_L2_ERRORS}, {"refused", STAT_L2_REFUSED},
		    {"puts", STAT_L2_PUTS},	{"put_errors", STAT_L2_PUT_ERRORS},
		    {"drops", STAT_L2_DROPPED}, {"distrusted", STAT_L2_DISTRUSTED}};
	struct shared *s = &c->api->shared;
	const struct breaker *redis = breaker_find(c->api->plant->breakers, "redis");
	struct l2_info info;
	char error[256] = "";
	buf_printf(b, ",\"l2\":{\"configured\":%s", s->l2 ? "true" : "false");
	if (s->l2) {
		struct l2 *l = tiers_l2(s);
		bool answered = l && l2_info(l, &info);
		buf_printf(b, ",\"reachable\":%s", answered ? "true" : "false");
		if (redis)
			buf_printf(b, ",\"breaker\":\"%s\"", breaker_state_name(breaker_state(redis)));
		l2_error(s->l2, error, sizeof(error));
		if (answered) {
			write_server(b, &info);
		} else if (*error) {
			util_utf8_scrub(error, strlen(error));
			buf_adds(b, ",\"error\":");
			json_out_string(b, SPAN(error));
		}
		for (size_t i = 0; i < ARRAY_LEN(rows); i++)
			field(b, rows[i].name, total(c->api->plant, rows[i].stat));
	}
	buf_addc(b, '}');
}

/* ---- all ---- */

static void write_feed(struct call *c, struct buf *b)
{
	struct plant *p = c->api->plant;
	int64_t heard = atomic_load(&p->feed_us), silent = clock_mono_us() - heard;
	bool fleet = c->api->shared.ops->fleet;
	buf_printf(b, ",\"feed\":{\"fleet\":%s", fleet ? "true" : "false");
	if (fleet) {
		buf_printf(b, ",\"heard\":%s", tiers_feed_heard(&c->api->shared) ? "true" : "false");
		if (heard)
			buf_printf(b, ",\"silent_s\":%.3f", (double)(silent > 0 ? silent : 0) / 1e6);
		field(b, "revision", atomic_load(&p->feed_revision));
	}
	buf_addc(b, '}');
}

static void read_all(struct call *c, struct reader *rd)
{
	const struct plant *p = c->api->plant;
	struct buf *b = &c->reply.body;
	(void)rd;
	buf_addc(b, '{');
	write_l1(c, b);
	buf_adds(b, ",\"loads\":{");
	field(b, "journal", total(p, STAT_LOADS_JOURNAL));
	field(b, "l2", total(p, STAT_LOADS_L2));
	field(b, "store", total(p, STAT_LOADS_STORE));
	buf_addc(b, '}');
	write_l2(c, b);
	write_feed(c, b);
	field(b, "notices", total(p, STAT_NOTICES));
	buf_addc(b, '}');
	c->reply.status = 200;
}

void caches_get(struct call *c) { call_read(c, read_all); } /* Redis is asked */
