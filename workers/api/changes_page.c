/* A page of the feed, read and written out in a reader thread. */
#include <stdlib.h>

#include "changes.h"
#include "clock.h"

#define BATCHES_FIRST 4
#define BATCHES_MOST 32

struct reading {
	struct changes_page *p;
	uint64_t revision; /* of the change before … */
	uint32_t index;	   /* … which was its so-maniest */
	bool full, beyond; /* no room for more; more than the page is to hold */
	struct store_change *v;
};

static const char *type_of(enum store_change_kind k)
{
	switch (k) {
	case CHANGE_PUT: return "put";
	case CHANGE_DELETED: return "delete";
	case CHANGE_GONE: return "erase";
	case CHANGE_NAMESPACE: return "namespace";
	case CHANGE_NS_DROP: return "namespace_drop";
	}
	return "unknown";
}

static void set_next(struct changes_entry *e, uint32_t index, bool last)
{
	e->next = last ? (struct changes_cursor){e->revision, 0} : (struct changes_cursor){e->revision - 1, index};
}

static bool visit(void *arg, const struct store_change *c)
{
	struct reading *r = arg;
	struct changes_page *p = r->p;
	struct changes_entry *before = p->n ? &p->v[p->n - 1] : NULL;
	bool same = c->revision == r->revision;
	if (before && before->revision == r->revision)
		set_next(before, r->index, !same);
	r->beyond = c->revision > p->upto;
	r->full = p->n == p->max;
	if (r->beyond || r->full)
		return false;
	r->index = same ? r->index + 1 : 1;
	r->revision = c->revision;
	if (c->revision == p->from.after + 1 && r->index <= p->from.skip)
		return true;
	if (p->n == p->cap) {
		p->cap = p->cap ? 2 * p->cap : 16;
		p->v = util_realloc(p->v, p->cap * sizeof(*p->v));
		r->v = util_realloc(r->v, p->cap * sizeof(*r->v));
	}
	p->v[p->n] = (struct changes_entry){
		.revision = c->revision, .name_at = p->names.len, .name_len = c->namespace.len};
	r->v[p->n++] = *c;
	buf_add(&p->names, c->namespace.p, c->namespace.len);
	return true;
}

static enum store_rc read_batches(struct reading *r, const struct store_ops *ops, struct store *store)
{
	struct changes_page *p = r->p;
	uint64_t at = p->from.after, last;
	for (size_t max = BATCHES_FIRST; at < p->upto && !r->full; max = max < BATCHES_MOST ? 2 * max : max) {
		enum store_rc rc = ops->changes(store, at, max, visit, r, &last);
		if (rc != STORE_OK)
			return rc;
		at = r->beyond || last <= at || last > p->upto ? p->upto : last;
	}
	if (!r->full && p->n)
		set_next(&p->v[p->n - 1], 0, true);
	p->to = r->full ? p->v[p->n - 1].next : (struct changes_cursor){at, 0};
	return STORE_OK;
}

/* A place that this daemon has not come to yet may be one that another daemon of the fleet has given, or none. */
static enum store_rc look_ahead(struct changes_page *p, const struct store_ops *ops, struct store *store)
{
	uint64_t end;
	enum store_rc rc = ops->revision(store, &end);
	p->to = p->from;
	return rc == STORE_OK && p->from.after > end ? STORE_NOT_FOUND : rc;
}

static void write_entry(struct changes_page *p, struct changes_entry *e, const struct store_change *c)
{
	struct buf *b = &p->text;
	char id[UUID_TEXT];
	e->event_at = b->len;
	buf_adds(b, "id: ");
	changes_cursor_add(b, &e->next);
	buf_printf(b, "\nevent: %s\ndata: ", type_of(c->kind));
	e->object_at = b->len;
	buf_printf(b, "{\"revision\":%llu,\"type\":\"%s\",\"namespace\":", (unsigned long long)c->revision,
		   type_of(c->kind));
	json_out_string(b, (struct span){p->names.p + e->name_at, e->name_len});
	if (c->kind != CHANGE_NAMESPACE && c->kind != CHANGE_NS_DROP) {
		uuid_format(&c->id, id);
		buf_printf(b, ",\"id\":\"%.*s\",\"version\":%llu", UUID_TEXT, id, (unsigned long long)c->version);
	}
	buf_adds(b, ",\"at\":");
	json_out_time(b, c->at_us);
	if (c->node)
		buf_printf(b, ",\"node\":\"%016llx\"", (unsigned long long)c->node);
	buf_addc(b, '}');
	e->object_len = b->len - e->object_at;
	buf_adds(b, "\n\n");
	e->event_len = b->len - e->event_at;
}

static void fail(struct changes_page *p, const char *why)
{
	p->outcome = CHANGES_UNREADABLE;
	p->error = util_strndup(why, strlen(why));
}

void changes_page_read(struct call *c, struct reader *rd)
{
	struct changes_page *p = c->state;
	const struct store_ops *ops = rd->shared->ops;
	struct reading r = {.p = p};
	p->upto = atomic_load_explicit(&rd->shared->plant->feed_revision, memory_order_acquire);
	if (!reader_store(rd)) {
		fail(p, rd->error ? rd->error : "unknown");
		return;
	}
	enum store_rc rc = p->from.after > p->upto ? look_ahead(p, ops, rd->store) : read_batches(&r, ops, rd->store);
	if (rc == STORE_NOT_FOUND)
		p->outcome = CHANGES_EXPIRED;
	else if (rc != STORE_OK)
		fail(p, ops->error(rd->store));
	for (size_t i = 0; rc == STORE_OK && i < p->n; i++)
		write_entry(p, &p->v[i], &r.v[i]);
	free(r.v);
}

void changes_page_free(void *page)
{
	struct changes_page *p = page;
	buf_free(&p->names);
	buf_free(&p->text);
	free(p->v);
	free(p->error);
	free(p);
}
