/* GET /v1/admin/cache/{id}: what each tier has of a memory, for whoever wonders why an old one is seen. Tiers are looked at in
 * the order in which a read asks them, without counting as one in L1. */
#include "caches.h"

#include <stdlib.h>

#include "cache/l2.h"
#include "clock.h"
#include "tiers.h"

struct inspection {
	struct call *c;
	struct reader *rd;
	struct buf *b;
	bool seen;	  /* something that this credential may know of */
	const char *from; /* the tier that would answer a read; NULL: not known yet */
};

static const char *yes(bool v) { return v ? "true" : "false"; }

static void answers(struct inspection *i, const char *tier)
{
	if (!i->from)
		i->from = tier;
}

/* ---- L1 ---- */

static bool find_in_l1(struct inspection *i, struct cache_entry *e)
{
	struct cache *cache = i->rd->shared->cache;
	for (unsigned cls = 1; cls < CACHE_CLASSES; cls++)
		if (cache_peek(cache, (enum cache_class)cls, &i->c->id, e) && caches_may_see(i->c, e->meta.ns))
			return true;
	return false;
}

static void left(struct buf *b, const char *name, uint32_t ms, int64_t age_ms)
{
	if (ms > age_ms)
		buf_printf(b, ",\"%s\":%.3f", name, (double)(ms - age_ms) / 1e3);
}

static void write_l1(struct inspection *i)
{
	struct cache_entry e;
	int64_t now = clock_real_us();
	uint64_t epoch = cache_epoch(i->rd->shared->cache, CACHE_MEMORY, &i->c->id);
	bool found = find_in_l1(i, &e);
	buf_printf(i->b, "\"l1\":{\"present\":%s,\"epoch\":%llu", yes(found), (unsigned long long)epoch);
	if (found) {
		const struct cache_meta *m = &e.meta;
		enum cache_age age = cache_age_of(m, now);
		int64_t age_ms = (now - m->filled_us) / 1000;
		caches_namespace(i->c, m->ns);
		buf_printf(i->b, ",\"class\":\"%s\",\"state\":\"%s\",\"version\":%llu,\"negative\":%s,\"bytes\":%u",
			   cache_class_name(e.cls), caches_state(age), (unsigned long long)m->version,
			   yes(m->flags & CACHE_NEGATIVE), e.len);
		buf_printf(i->b, ",\"hits\":%u,\"main\":%s,\"age_s\":%.3f", e.hits, yes(e.main), (double)age_ms / 1e3);
		left(i->b, "fresh_for_s", m->fresh_ms, age_ms);
		left(i->b, "gone_in_s", m->gone_ms, age_ms);
		i->seen = true;
		if (age != CACHE_GONE && e.cls == CACHE_MEMORY)
			answers(i, "l1");
	} else {
		buf_adds(i->b, ",\"state\":\"absent\"");
	}
	buf_addc(i->b, '}');
}

/* ---- what is pending ---- */

static void write_pending(struct inspection *i)
{
	struct pending_entry e;
	bool found = pending_find_id(i->rd->shared->pending, &i->c->id, &e) && caches_may_see(i->c, e.ns);
	buf_printf(i->b, ",\"pending\":{\"present\":%s", yes(found));
	if (found) {
		buf_printf(i->b, ",\"version\":%llu,\"deleted\":%s,\"sequence\":%llu", (unsigned long long)e.version,
			   yes(e.type == OP_DELETE), (unsigned long long)e.seq);
		caches_namespace(i->c, e.ns);
		i->seen = true;
		answers(i, "journal");
	}
	buf_addc(i->b, '}');
}

/* ---- Redis ---- */

/* Why a copy of this revision is not believed; nothing: it is. */
static void doubt(struct inspection *i, const struct l2_value *v, struct buf *why)
{
	struct shared *s = i->rd->shared;
	struct trust *t = &s->plant->trust;
	uint64_t since = atomic_load(&t->since), all = atomic_load(&t->all_changed), last = trust_last(t, &i->c->id);
	if (!tiers_feed_heard(s))
		buf_adds(why, "the feed is silent: what has changed is not known");
	else if (since == UINT64_MAX)
		buf_adds(why, "the feed has not been read yet: what has changed is not known");
	else if (v->revision < since)
		buf_printf(why, "before what is known: changes are known from revision %llu on",
			   (unsigned long long)since);
	else if (v->revision < last)
		buf_printf(why, "older than the last change, at revision %llu", (unsigned long long)last);
	else if (v->revision < all)
		buf_printf(why, "everything may have changed at revision %llu", (unsigned long long)all);
	else if (!plant_exists(s->plant, v->meta.ns))
		buf_adds(why, "its namespace is not there any more");
}

static void write_copy(struct inspection *i, const struct l2_value *v)
{
	struct buf why = {0};
	doubt(i, v, &why);
	buf_printf(i->b, ",\"version\":%llu,\"revision\":%llu,\"bytes\":%zu,\"age_s\":%.3f,\"believed\":%s",
		   (unsigned long long)v->meta.version, (unsigned long long)v->revision, v->body.len,
		   (double)(clock_real_us() - v->meta.filled_us) / 1e6, yes(!why.len));
	caches_namespace(i->c, v->meta.ns);
	if (why.len) {
		buf_adds(i->b, ",\"why\":");
		json_out_string(i->b, (struct span){why.p, why.len});
	} else {
		answers(i, "l2");
	}
	buf_free(&why);
	i->seen = true;
}

static void write_l2(struct inspection *i)
{
	struct shared *s = i->rd->shared;
	struct l2 *l = tiers_l2(s);
	struct l2_value v = {.found = false};
	bool asked = l && l2_get_many(l, CACHE_MEMORY, &i->c->id, 1, &v);
	buf_printf(i->b, ",\"l2\":{\"asked\":%s", yes(asked));
	if (asked) {
		bool found = v.found && caches_may_see(i->c, v.meta.ns);
		buf_printf(i->b, ",\"present\":%s", yes(found));
		if (found)
			write_copy(i, &v);
	} else {
		buf_printf(i->b, ",\"why\":\"%s\"",
			   !s->l2 ? "there is no Redis: redis.url is empty, or the store is a file"
			   : !l	  ? "the store has not been reached yet, and whose the values are is not known"
				  : "Redis does not answer; see GET /v1/admin/cache and /v1/admin/breakers");
	}
	buf_addc(i->b, '}');
	l2_values_free(&v, 1);
}

/* ---- the store ---- */

struct row {
	bool found, deleted, expired;
	uint64_t version, ns;
};

static bool note(void *arg, const struct memory *m)
{
	*(struct row *)arg = (struct row){.found = true,
					  .deleted = m->deleted_us != 0,
					  .expired = m->expires_us && m->expires_us <= clock_real_us(),
					  .version = m->version,
					  .ns = m->ns};
	return false;
}

static void write_store(struct inspection *i)
{
	struct reader *rd = i->rd;
	struct row row = {.found = false};
	bool asked = reader_store(rd);
	asked = asked &&
		reader_outcome(rd, rd->shared->ops->get(rd->store, &i->c->id, false, note, &row)) != READ_ERROR;
	row.found = row.found && caches_may_see(i->c, row.ns);
	buf_printf(i->b, ",\"store\":{\"asked\":%s", yes(asked));
	if (asked)
		buf_printf(i->b, ",\"present\":%s", yes(row.found));
	if (row.found) {
		buf_printf(i->b, ",\"version\":%llu,\"deleted\":%s,\"expired\":%s", (unsigned long long)row.version,
			   yes(row.deleted), yes(row.expired));
		caches_namespace(i->c, row.ns);
		i->seen = true;
	}
	if (asked) {
		answers(i, "store");
	} else {
		buf_adds(i->b, ",\"why\":");
		json_out_string(i->b, i->c->api->errors_full && rd->error ? SPAN(rd->error)
									  : SPAN_LIT("the store cannot be read"));
	}
	buf_addc(i->b, '}');
}

/* ---- all of them ---- */

static void read_id(struct call *c, struct reader *rd)
{
	struct inspection i = {.c = c, .rd = rd, .b = &c->reply.body};
	char id[UUID_TEXT];
	uuid_format(&c->id, id);
	buf_printf(i.b, "{\"id\":\"%.*s\",", UUID_TEXT, id);
	write_l1(&i);
	write_pending(&i);
	write_l2(&i);
	write_store(&i);
	if (i.from)
		buf_printf(i.b, ",\"served_from\":\"%s\"", i.from);
	buf_addc(i.b, '}');
	c->reply.status = 200;
	if (i.seen || !c->who->namespaces)
		return;
	c->reply.body.len = 0;
	problem(c, 404, "not-found",
		"id: no tier has it, or it is of a namespace that this credential may not administer");
}

void caches_inspect(struct call *c) { call_read(c, read_id); }
