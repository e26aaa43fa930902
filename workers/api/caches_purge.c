/* POST /v1/admin/cache:purge. Nothing is lost by it: what is purged is read again from where it is kept. */
#define LOG_SUBSYSTEM LOG_IN_API
#include <stdlib.h>

#include "cache/l2.h"
#include "caches.h"
#include "draft.h"
#include "log.h"
#include "tiers.h"

struct purge {
	bool l1, l2, has_id;
	enum cache_class cls; /* 0: all */
	struct uuid id;
	char name[LIMIT_NAMESPACE + 1];
	struct span ns; /* p NULL: all */
	uint64_t gone_l1, gone_l2;
};

/* ---- what is to go ---- */

static const char *text_of(struct call *c, const char *key, const json_t *v)
{
	if (json_is_string(v) && strlen(json_string_value(v)) == json_string_length(v))
		return json_string_value(v);
	problem(c, 400, "invalid-field", "%.64s: must be a string without U+0000", key);
	return NULL;
}

static bool read_field(struct call *c, struct purge *p, const char *key, const json_t *v)
{
	static const char *const known[] = {"tier", "class", "namespace", "id"};
	size_t k = 0;
	while (k < ARRAY_LEN(known) && strcmp(known[k], key) != 0)
		k++;
	if (k == ARRAY_LEN(known)) {
		problem(c, 400, "unknown-field", "%.64s: no such field; allowed are tier, class, namespace, id", key);
		return false;
	}
	const char *s = text_of(c, key, v);
	if (!s)
		return false;
	switch (k) {
	case 0:
		p->l1 = strcmp(s, "l2") != 0;
		p->l2 = strcmp(s, "l1") != 0;
		if (strcmp(s, "all") == 0 || p->l1 != p->l2)
			return true;
		problem(c, 400, "invalid-field", "tier: must be l1, l2 or all");
		return false;
	case 1:
		p->cls = cache_class_find(s);
		if (!p->cls)
			problem(c, 400, "invalid-field", "class: must be memory, search or vector");
		return p->cls != 0;
	case 2: return call_namespace(c, SPAN(s), AUTH_ADMIN, p->name, &p->ns);
	default:
		p->has_id = uuid_parse(s, strlen(s), &p->id);
		if (!p->has_id)
			problem(c, 400, "invalid-field",
				"id: must be a UUID, that of a memory or a key that GET /v1/admin/cache/top shows");
		return p->has_id;
	}
}

/* What fits together, and what this credential may do. */
static bool makes_sense(struct call *c, struct purge *p)
{
	const char *wrong = NULL;
	if (p->ns.p && p->has_id)
		wrong = "namespace: an id names one entry; leave namespace out";
	else if (p->ns.p && p->cls == CACHE_VECTOR)
		wrong = "namespace: vectors of texts are of no namespace; leave it out";
	else if (p->ns.p && p->l2)
		wrong = "tier: the keys of Redis do not name the namespace; purge it from l1, and from l2 by id or by class "
			"(a copy in Redis that is older than the last change is not believed in any case)";
	else if (p->l2 && !c->api->shared.l2 && !p->l1)
		wrong = "tier: there is no l2 here, since redis.url is empty or the store is a file; purge l1";
	if (wrong) {
		problem(c, 400, "invalid-field", "%s", wrong);
		return false;
	}
	if (c->who->namespaces && (p->l2 || (!p->ns.p && !p->has_id))) {
		problem(c, 403, "namespace-forbidden",
			p->l2 ? "tier: Redis holds what is of all namespaces, and this credential is bounded to some; purge l1"
			      : "namespace: this credential is bounded to some; name one of them, or an id");
		return false;
	}
	return true;
}

static bool parse(struct call *c, struct purge *p)
{
	struct body_json b;
	const char *key;
	json_t *v;
	p->l1 = true;
	bool ok = body_json_parse(c, http_body(c->req), &b);
	if (ok && !json_is_object(b.root)) {
		problem(c, 400, "invalid-json", "body: must be a JSON object, such as {\"tier\":\"l1\"}");
		ok = false;
	}
	json_object_foreach (b.root, key, v) {
		ok = ok && read_field(c, p, key, v);
	}
	body_json_free(&b);
	return ok && makes_sense(c, p);
}

/* ---- purging ---- */

static uint64_t purge_key(struct call *c, struct cache *cache, enum cache_class cls, const struct uuid *id)
{
	struct cache_entry e;
	bool there = cache_peek(cache, cls, id, &e);
	if (!caches_may_see(c, there ? e.meta.ns : 0))
		return 0;
	cache_remove(cache, cls, id);
	return there;
}

static void purge_l1(struct call *c, struct purge *p, struct cache *cache)
{
	struct cache_match m = {.ns = p->ns.p ? record_ns(p->ns) : 0, .cls = p->cls};
	if (!p->has_id) {
		p->gone_l1 = cache_purge(cache, &m);
		return;
	}
	for (unsigned cls = 1; cls < CACHE_CLASSES; cls++)
		if (!p->cls || p->cls == cls)
			p->gone_l1 += purge_key(c, cache, (enum cache_class)cls, &p->id);
}

static bool purge_l2(struct call *c, struct purge *p)
{
	struct l2 *l = tiers_l2(&c->api->shared);
	bool removed = false;
	if (!l)
		return false;
	bool ok = p->has_id ? l2_forget(l, p->cls ? p->cls : CACHE_MEMORY, &p->id, &removed)
			    : l2_clear(l, p->cls, NULL, NULL, &p->gone_l2);
	p->gone_l2 += removed;
	return ok;
}

static void not_purged(struct call *c, const struct purge *p)
{
	char error[256] = "";
	l2_error(c->api->shared.l2, error, sizeof(error));
	util_utf8_scrub(error, strlen(error));
	problem(c, 503, "l2-unreachable",
		"tier: Redis did not carry it out%s%s; purged so far: %llu of l1, %llu of l2. GET /v1/admin/cache says how "
		"Redis is; try again",
		*error ? ": " : "", error, (unsigned long long)p->gone_l1, (unsigned long long)p->gone_l2);
}

/* For the log: who did it, and what. */
static void audit(struct call *c, const struct purge *p)
{
	char id[UUID_TEXT] = "";
	if (p->has_id)
		uuid_format(&p->id, id);
	log_info_event(cache_purged, NULL,
		       "cache purged by %s: tier %s, class %s, namespace %s, id %.*s: %llu entries of l1, %llu of l2",
		       c->who->name ? c->who->name : "a local caller",
		       p->l1 && p->l2 ? "all"
		       : p->l2	      ? "l2"
				      : "l1",
		       p->cls ? cache_class_name(p->cls) : "any", p->ns.p ? p->name : "any", p->has_id ? UUID_TEXT : 3,
		       p->has_id ? id : "any", (unsigned long long)p->gone_l1, (unsigned long long)p->gone_l2);
}

/* Redis first: else a reader could bring back to L1 what is about to go from Redis. */
static void run(struct call *c, struct reader *rd)
{
	struct purge *p = c->state;
	bool l2 = p->l2 && rd->shared->l2, ok = !l2 || purge_l2(c, p);
	if (p->l1)
		purge_l1(c, p, rd->shared->cache);
	audit(c, p);
	if (!ok) {
		not_purged(c, p);
		return;
	}
	struct buf *b = &c->reply.body;
	buf_addc(b, '{');
	if (p->l1)
		buf_printf(b, "\"l1\":%llu", (unsigned long long)p->gone_l1);
	if (l2)
		buf_printf(b, "%s\"l2\":%llu", p->l1 ? "," : "", (unsigned long long)p->gone_l2);
	buf_addc(b, '}');
	c->reply.status = 200;
}

void caches_purge(struct call *c)
{
	struct purge *p = util_zalloc(sizeof(*p));
	c->state = p;
	c->free_state = free;
	if (parse(c, p))
		call_read(c, run);
	else
		call_reply(c);
}
