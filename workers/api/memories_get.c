/* GET /v1/memories/{id}. */
#include <stdlib.h>

#include "clock.h"
#include "handlers.h"
#include "herd.h"
#include "list.h"
#include "requests.h"
#include "overload.h"
#include "tiers.h"
#include "traces.h"

/* ---- from shared memory, on the loop, without allocation: the product's hot path ---- */

/* The head of a hit, as printf would write it and without its cost; and its length. */
static size_t hit_head(char *to, uint64_t version)
{
	static const char before[] = "ETag: \"", behind[] = "\"\r\nCache-Status: orchestra; hit\r\n";
	char digits[20], *d = digits + sizeof(digits);
	do
		*--d = (char)('0' + version % 10);
	while (version /= 10);
	size_t n = (size_t)(digits + sizeof(digits) - d);
	memcpy(to, before, sizeof(before) - 1);
	memcpy(to + sizeof(before) - 1, d, n);
	memcpy(to + sizeof(before) - 1 + n, behind, sizeof(behind) - 1);
	return sizeof(before) - 1 + n + sizeof(behind) - 1;
}

/* Anything unusual (conditions it does not know, refusals, what is not quite fresh) goes the long way, which decides
 * again. */
bool memories_get_fast(struct api *a, struct http_request *r)
{
	struct span path = http_path(r);
	static const char prefix[] = "/v1/memories/";
	struct cache_meta meta;
	struct uuid id;
	char head[96 + TRACES_HEAD];
	const uint8_t *trace = NULL;
	enum http_method method = http_method(r);
	if (path.len != sizeof(prefix) - 1 + UUID_TEXT || (method != HTTP_M_GET && method != HTTP_M_HEAD) ||
	    memcmp(path.p, prefix, sizeof(prefix) - 1) != 0 || http_query(r).len ||
	    http_header(r, HTTP_H_IF_NONE_MATCH).p || http_header(r, HTTP_H_ORIGIN).p ||
	    !uuid_parse(path.p + sizeof(prefix) - 1, UUID_TEXT, &id))
		return false;
	const struct auth_principal *who = router_admit_fast(a, r, AUTH_READ);
	if (!who || !tiers_feed_heard(&a->shared))
		return false;
	int64_t now_us = http_real_us(r);
	ptrdiff_t n = cache_get(a->shared.cache, CACHE_MEMORY, &id, now_us, a->scratch, SCRATCH_BYTES, &meta);
	if (n < 0 || meta.flags || (meta.fresh_ms && cache_age_of(&meta, now_us) != CACHE_FRESH))
		return false;
	if (who->namespaces) {
		const struct plant_namespace *row = plant_find(a->plant, meta.ns);
		if (!row || !auth_allows(who, AUTH_READ, (struct span){row->name, row->name_len}))
			return false;
	}
	size_t head_len = hit_head(head, meta.version);
	stats_add(a->w->stats, STAT_L1_HITS, 1);
	router_count_get(a, r);
	int64_t end_us = 0; /* one look at the clock at most: this is the hot path */
	if (__builtin_expect(a->tracing, 0)) {
		end_us = clock_real_us();
		head[head_len] = '\0';
		trace = traces_hit(a, r, meta.ns, (size_t)n, end_us - now_us, head + head_len);
		head_len += strlen(head + head_len);
	}
	http_flow(r, meta.ns);
	requests_note_hit(a, r, who, meta.ns, (size_t)n, now_us, end_us, trace);
	http_reply_spans(r, 200, SPAN_LIT("application/json"), (struct span){head, head_len}, a->scratch, (size_t)n);
	return true;
}

/* ---- the answer ---- */

/* RFC 9211. The cache nearest to the store comes first. */
static void cache_status(struct buf *head, const struct tier_item *v)
{
	bool hit = v->tier == TIER_L1 && !v->collapsed;
	buf_adds(head, v->tier == TIER_L2 ? "Cache-Status: orchestra-l2; hit, orchestra; fwd=miss"
		       : hit		  ? "Cache-Status: orchestra; hit"
					  : "Cache-Status: orchestra; fwd=miss");
	if (v->stale) {
		int64_t age_ms = (clock_real_us() - v->meta.filled_us) / 1000;
		buf_printf(head, "; ttl=%lld; detail=stale", ((long long)v->meta.fresh_ms - (long long)age_ms) / 1000);
	}
	if (v->meta.flags & CACHE_NEGATIVE)
		buf_adds(head, "; detail=negative");
	if (v->tier == TIER_JOURNAL)
		buf_adds(head, "; detail=journal");
	if (v->stored)
		buf_adds(head, "; stored");
	if (v->collapsed)
		buf_adds(head, "; collapsed");
	buf_adds(head, "\r\n");
}

static struct span name_of(struct api *a, uint64_t ns)
{
	const struct plant_namespace *row = plant_find(a->plant, ns);
	return row ? (struct span){row->name, row->name_len} : SPAN_LIT("");
}

/* What L1 holds is as old as the feed is silent; and what is stale, as it says. */
static void add_body(struct call *c, const struct tier_item *v)
{
	struct buf *b = &c->reply.body;
	bool deaf = v->tier == TIER_L1 && !tiers_feed_heard(&c->api->shared);
	bool whole = !deaf && !v->away;
	buf_add(b, v->body, v->len - !whole);
	if (!whole)
		buf_printf(b, ",\"degraded\":[%s%s%s]}", deaf ? "\"feed\"" : "", deaf && v->away ? "," : "",
			   v->away ? "\"store\"" : "");
}

static void answer(struct call *c, const struct tier_item *v, const char *error)
{
	struct span inm = c->req ? http_header(c->req, HTTP_H_IF_NONE_MATCH) : (struct span){NULL, 0};
	if (v->rc == READ_ERROR) {
		problem_store(c, error);
		return;
	}
	if (v->rc == READ_NONE || !call_may(c, AUTH_READ, name_of(c->api, v->meta.ns))) {
		memories_not_found(c);
		if (v->rc == READ_NONE)
			cache_status(&c->reply.head, v);
		return;
	}
	requests_note_namespace(c, name_of(c->api, v->meta.ns));
	memories_etag(&c->reply.head, v->meta.version);
	cache_status(&c->reply.head, v);
	c->reply.status = 304;
	if (inm.p && call_etag_matches(inm, v->meta.version, true))
		return;
	c->reply.status = 200;
	add_body(c, v);
}

/* ---- the long way ---- */

struct get {
	struct tier_item item;
	char *error; /* of the reader, when it was READ_ERROR */
};

static void get_free(void *state)
{
	struct get *g = state;
	tier_items_free(&g->item, 1);
	free(g->error);
	free(g);
}

static struct get *get_new(struct call *c)
{
	struct get *g = util_zalloc(sizeof(*g));
	g->item.id = c->id;
	c->state = g;
	c->free_state = get_free;
	return g;
}

/* A waiter's own work would have begun behind the write that it knows of: its key says so. */
static void answer_waiter(struct call *leader, struct call *c)
{
	struct get *g = leader->state;
	struct tier_item v = g->item;
	v.collapsed = true;
	v.stored = false;
	stats_add_shared(c->api->w->stats, STAT_COLLAPSED_MEMORY, 1);
	if (leader->reply.status == 429 || leader->stale) /* its fate is theirs: it would have been their work */
		overload_refuse(c, OVERLOAD_READERS, leader->stale ? OVERLOAD_STALE : OVERLOAD_DELAY,
				overload_delay(c->api, OVERLOAD_READERS));
	else if (leader->reply.status == 503 && v.rc != READ_ERROR) /* it found no thread */
		problem(c, 503, "busy", "too many requests wait already; try again after Retry-After seconds");
	else
		answer(c, &v, g->error);
	call_reply(c);
}

static void get_finish(struct call *c)
{
	struct get *g = c->state;
	if (!c->reply.status)
		answer(c, &g->item, g->error);
	herd_end(c->api->herd, c);
	call_reply(c);
}

static void get_read(struct call *c, struct reader *rd)
{
	struct get *g = c->state;
	tiers_read_one(rd, &g->item);
	if (g->item.rc == READ_ERROR)
		g->error = util_strndup(rd->error, strlen(rd->error));
	if (g->item.collapsed)
		stats_add_shared(c->api->w->stats, STAT_COLLAPSED_MEMORY, 1);
}

/* A call without a client: what is about to become stale is read ahead, what is stale is read again. */
static void refresh_read(struct call *c, struct reader *rd) { tiers_refresh(rd, &c->id); }

static void refresh_finish(struct call *c)
{
	herd_end(c->api->herd, c);
	call_free(c);
}

static struct uuid load_key(struct api *a, const struct uuid *id)
{
	return herd_key(*id, cache_epoch(a->shared.cache, CACHE_MEMORY, id));
}

static void refresh(struct api *a, const struct uuid *id)
{
	struct uuid key = load_key(a, id);
	key.b[0] ^= 0xff; /* who waits for an answer waits for a load that makes one */
	if (herd_has(a->herd, &key))
		return;
	struct call *c = util_zalloc(sizeof(*c));
	c->api = a;
	c->id = *id;
	c->finish = refresh_finish;
	c->wait.class = LANE_BACKGROUND;
	AN(!herd_join(a->herd, &key, c, NULL));
	call_read(c, refresh_read);
}

/* True: L1 had it, and the call is answered. */
static bool get_from_l1(struct call *c)
{
	struct api *a = c->api;
	struct tier_item v = {.id = c->id, .tier = TIER_L1, .rc = READ_OK};
	int64_t now_us = clock_real_us();
	ptrdiff_t n = cache_get(a->shared.cache, CACHE_MEMORY, &c->id, now_us, a->scratch, SCRATCH_BYTES, &v.meta);
	if (n < 0)
		return false;
	enum cache_age age = cache_age_of(&v.meta, now_us);
	v.stale = age == CACHE_STALE;
	v.body = a->scratch;
	v.len = (size_t)n;
	if (v.meta.flags & CACHE_NEGATIVE)
		v.rc = READ_NONE;
	stats_add(a->w->stats, v.rc == READ_NONE ? STAT_L1_NEGATIVE : STAT_L1_HITS, 1);
	if (v.stale)
		stats_add(a->w->stats, STAT_L1_STALE, 1);
	struct uuid id = c->id;
	answer(c, &v, NULL);
	call_reply(c);
	if (v.rc == READ_OK && age != CACHE_FRESH)
		refresh(a, &id);
	return true;
}

static void get_with_vector(struct call *c, struct reader *rd)
{
	struct held h = {.bytes = NULL};
	enum read_rc rc = reader_get(rd, &c->id, true, &h);
	if (rc == READ_ERROR) {
		problem_store(c, rd->error);
		return;
	}
	if (rc == READ_NONE || h.m.deleted_us || !call_may(c, AUTH_READ, h.m.ns_name)) {
		memories_not_found(c);
	} else {
		struct span inm = http_header(c->req, HTTP_H_IF_NONE_MATCH);
		requests_note_namespace(c, h.m.ns_name);
		bool same = inm.p && call_etag_matches(inm, h.m.version, true);
		c->reply.status = same ? 304 : 200;
		memories_etag(&c->reply.head, h.m.version);
		buf_adds(&c->reply.head, "Cache-Status: orchestra; fwd=bypass\r\n");
		if (!same) {
			buf_add(&c->reply.body, h.m.body.p, h.m.body.len);
			list_vector(&c->reply.body, &h.m);
		}
	}
	held_free(&h);
}

void memories_get(struct call *c)
{
	bool vector = false;
	if (!list_include(c, &vector)) {
		call_reply(c);
		return;
	}
	if (vector) {
		call_read(c, get_with_vector);
		return;
	}
	if (get_from_l1(c))
		return;
	struct uuid key = load_key(c->api, &c->id);
	if (herd_join(c->api->herd, &key, c, answer_waiter))
		return;
	get_new(c);
	c->finish = get_finish;
	call_read(c, get_read);
}
