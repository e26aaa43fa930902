/* POST /v1/memories: one memory or up to 500 as one transaction; de-duplication, upsert by
 * external id, idempotency keys. */
#include <stdio.h>
#include <stdlib.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "clock.h"
#include "draft.h"
#include "handlers.h"
#include "ids.h"

#define INLINE_BODY 65536 /* larger bodies are parsed in a reader thread */
#define INLINE_EMBED 4096 /* bytes of text that the loop embeds itself */
#define IDEM_KEEP_US (24 * 3600 * 1000000ll)

enum on_duplicate { DUP_ADD, DUP_KEEP, DUP_UPDATE };

struct add_item {
	json_t *json;
	struct draft draft;
	char where[32];
};
struct result { /* what became of an item in this attempt */
	struct held held;
	bool created, stored;
	uint64_t external_key;
};
struct add {
	char *text;
	size_t len;
	struct body_json body;
	bool parsed, bulk;
	struct add_item *items;
	size_t n;
	struct span ns_given, ns;
	char ns_name[LIMIT_NAMESPACE + 1];
	enum on_duplicate dup;
	bool has_idem, bad_idem;
	uint64_t idem_key, body_hash;
	char idem_text[LIMIT_IDEMPOTENCY_KEY + 1];
};

static void add_free(void *state)
{
	struct add *a = state;
	for (size_t i = 0; i < a->n; i++)
		draft_free(&a->items[i].draft);
	free(a->items);
	body_json_free(&a->body);
	free(a->text);
	free(a);
}

/* ---- reading the request ---- */

static bool read_envelope(struct call *c, struct add *a, json_t **list_r)
{
	const char *key;
	json_t *v;
	json_object_foreach (a->body.root, key, v) {
		if (strcmp(key, "memories") == 0) {
			*list_r = v;
		} else if (strcmp(key, "namespace") == 0 && (json_is_string(v) || a->bulk)) {
			if (!json_is_string(v)) {
				problem(c, 400, "invalid-field", "namespace: must be a string");
				return false;
			}
			a->ns_given = (struct span){json_string_value(v), json_string_length(v)};
		} else if (strcmp(key, "on_duplicate") == 0) {
			const char *s = json_is_string(v) ? json_string_value(v) : "";
			a->dup = strcmp(s, "keep") == 0 ? DUP_KEEP : strcmp(s, "update") == 0 ? DUP_UPDATE : DUP_ADD;
			if (a->dup == DUP_ADD && strcmp(s, "add") != 0) {
				problem(c, 400, "invalid-field", "on_duplicate: must be add, keep or update");
				return false;
			}
		} else if (a->bulk) {
			problem(c, 400, "unknown-field",
				"%.64s: no such field beside \"memories\"; allowed are namespace and on_duplicate",
				key);
			return false;
		}
	}
	return true;
}

static bool read_items(struct call *c, struct add *a, json_t *list)
{
	if (a->bulk && (!json_is_array(list) || json_array_size(list) < 1 || json_array_size(list) > LIMIT_BULK)) {
		problem(c, 400, "invalid-field",
			"memories: must be an array of 1 to %d memories; split larger loads or use POST /v1/memories:import",
			LIMIT_BULK);
		return false;
	}
	a->n = a->bulk ? json_array_size(list) : 1;
	a->items = util_zalloc(a->n * sizeof(*a->items));
	for (size_t i = 0; i < a->n; i++) {
		struct add_item *it = &a->items[i];
		draft_init(&it->draft);
		it->json = a->bulk ? json_array_get(list, i) : a->body.root;
		if (a->bulk)
			snprintf(it->where, sizeof(it->where), "memories[%zu].", i);
		if (!a->bulk)
			json_object_del(a->body.root, "on_duplicate");
		if (!draft_read(c, &a->body, it->json, DRAFT_ADD, it->where, &it->draft))
			return false;
		struct span given = it->draft.ns_given;
		if (given.p && a->ns_given.p && !span_eq(given, a->ns_given)) {
			problem(c, 400, "invalid-field",
				"%snamespace: one request writes to one namespace; send one request for each",
				it->where);
			return false;
		}
		if (given.p && i > 0 && !a->ns_given.p) {
			problem(c, 400, "invalid-field",
				"%snamespace: give every memory of a bulk the same namespace, or name it once beside \"memories\"",
				it->where);
			return false;
		}
		if (given.p)
			a->ns_given = given;
	}
	return true;
}

static bool parse(struct call *c, struct add *a)
{
	json_t *list = NULL;
	if (!body_json_parse(c, (struct span){a->text, a->len}, &a->body))
		return false;
	if (!json_is_object(a->body.root)) {
		problem(c, 400, "invalid-json", "body: must be a JSON object with \"content\", or with \"memories\"");
		return false;
	}
	a->bulk = json_object_get(a->body.root, "memories") != NULL;
	if (!read_envelope(c, a, &list) || !read_items(c, a, list) ||
	    !call_namespace(c, a->ns_given, AUTH_WRITE, a->ns_name, &a->ns))
		return false;
	if (a->has_idem)
		a->idem_key = record_idem_key(record_ns(a->ns), SPAN(a->idem_text));
	a->parsed = true;
	return true;
}

static bool needs_reader(const struct add *a)
{
	size_t text = 0;
	if (a->has_idem || a->dup != DUP_ADD)
		return true;
	for (size_t i = 0; i < a->n; i++) {
		const struct draft *d = &a->items[i].draft;
		if (d->external_id.len)
			return true;
		if (!d->dim)
			text += d->content.len;
	}
	return text > INLINE_EMBED;
}

/* ---- evaluating it ---- */

struct attempt {
	struct call *c;
	struct add *a;
	struct reader *rd;
	struct txn_builder t;
	struct result *results;
	struct buf ops; /* transaction body: operations, built before the keys are known */
	struct buf body;
	uint64_t ns;
	const struct plant_namespace *row;
	int64_t now;
	uint64_t *keys;
	size_t nkeys, stored;
	struct uuid *ids;
};

static enum read_rc find_existing(struct attempt *t, size_t i, struct held *h)
{
	const struct draft *d = &t->a->items[i].draft;
	struct span ext = d->external_id;
	uint64_t ext_key = ext.len ? record_external_key(t->ns, ext) : 0;
	uint64_t content_key = record_content_key(t->ns, d->content);
	if (!ext.len && t->a->dup == DUP_ADD)
		return READ_NONE;
	for (size_t j = i; j-- > 0;) { /* an earlier memory of this bulk counts as stored */
		const struct memory *m = &t->results[j].held.m;
		if (ext.len ? span_eq(m->external_id, ext)
			    : m->content_hash == content_key && span_eq(m->content, d->content)) {
			held_copy(h, m);
			return READ_OK;
		}
	}
	t->keys[t->nkeys++] = ext.len ? ext_key : content_key;
	if (ext.len)
		return reader_by_external(t->rd, t->ns, ext, h);
	enum read_rc rc = reader_by_content(t->rd, t->ns, d->content, h);
	for (size_t j = i; rc == READ_OK && j-- > 0;)
		if (uuid_cmp(&t->results[j].held.m.id, &h->m.id) == 0) { /* that one has another content by then */
			held_free(h);
			rc = READ_NONE;
		}
	return rc;
}

static bool put(struct attempt *t, struct draft *d, uint64_t version, const char *where, struct result *r)
{
	struct memory m;
	if (!draft_embed(t->c, d, t->row, where))
		return false;
	t->body.len = 0;
	draft_memory(d, t->a->ns, version, &t->body, &m);
	txn_op_put(&t->t, &m);
	if (t->a->n == 1) /* only a later memory of the same bulk could want the vector */
		m.embedding = NULL;
	held_free(&r->held);
	held_copy(&r->held, &m);
	r->stored = true;
	t->stored++;
	return true;
}

static bool create(struct attempt *t, size_t i)
{
	struct draft *d = &t->a->items[i].draft;
	d->id = t->ids[i];
	if (!d->created_set)
		d->created_us = t->now;
	d->updated_us = t->now;
	t->results[i].created = true;
	return put(t, d, 1, t->a->items[i].where, &t->results[i]);
}

static bool update(struct attempt *t, size_t i, struct held *old)
{
	struct add_item *it = &t->a->items[i];
	struct draft d;
	if (!draft_from_memory(&d, &old->m)) {
		problem(t->c, 500, "internal", "%sthe stored memory cannot be read", it->where);
		return false;
	}
	struct span before = d.content;
	d.expires_set = false;
	bool ok = draft_read(t->c, &t->a->body, it->json, DRAFT_ADD, it->where, &d);
	if (ok) {
		if (!d.embedding_set && !span_eq(before, d.content))
			d.dim = 0;
		d.updated_us = clock_after_us(old->m.updated_us);
		d.replaces_bytes = (int64_t)memory_quota_bytes(&old->m);
		t->keys[t->nkeys++] = record_id_key(&d.id);
		ok = put(t, &d, old->m.version + 1, it->where, &t->results[i]);
	}
	draft_free(&d);
	return ok;
}

static bool evaluate_item(struct attempt *t, size_t i)
{
	struct held old = {.bytes = NULL};
	switch (find_existing(t, i, &old)) {
	case READ_ERROR: problem_store(t->c, t->rd->error); return false;
	case READ_NONE: return create(t, i);
	case READ_OK: break;
	}
	bool ok = true;
	if (t->a->items[i].draft.external_id.len || t->a->dup == DUP_UPDATE) {
		ok = update(t, i, &old);
		held_free(&old);
	} else {
		t->keys[t->nkeys++] = record_id_key(&old.m.id);
		t->results[i].held = old; /* keep */
	}
	return ok;
}

/* ---- the reply ---- */

static void reply_bulk(struct attempt *t)
{
	struct buf *b = &t->c->reply.body;
	char id[UUID_TEXT];
	buf_addc(b, '{');
	memories_durability(t->c, t->stored);
	buf_adds(b, ",\"memories\":[");
	for (size_t i = 0; i < t->a->n; i++) {
		const struct result *r = &t->results[i];
		uuid_format(&r->held.m.id, id);
		buf_adds(b, i ? ",{\"id\":\"" : "{\"id\":\"");
		buf_add(b, id, sizeof(id));
		buf_adds(b, "\",\"version\":");
		buf_addu(b, r->held.m.version);
		buf_adds(b, r->created ? ",\"created\":true,\"created_at\":" : ",\"created\":false,\"created_at\":");
		json_out_time(b, r->held.m.created_us);
		if (r->held.m.external_id.len) {
			buf_adds(b, ",\"external_id\":");
			json_out_string(b, r->held.m.external_id);
		}
		buf_addc(b, '}');
	}
	buf_adds(b, "]}");
	t->c->reply.status = t->stored ? 201 : 200;
}

static void single_headers(struct call *c, const char *id, uint64_t version)
{
	memories_etag(&c->reply.head, version);
	buf_adds(&c->reply.head, "Location: /v1/memories/");
	buf_add(&c->reply.head, id, UUID_TEXT);
	buf_adds(&c->reply.head, "\r\n");
}

static void reply_single(struct attempt *t)
{
	struct buf *b = &t->c->reply.body;
	const struct result *r = &t->results[0];
	const struct memory *m = &r->held.m;
	char id[UUID_TEXT];
	uuid_format(&m->id, id);
	buf_add(b, m->body.p, m->body.len - 1);
	buf_adds(b, r->created ? ",\"created\":true," : ",\"created\":false,");
	memories_durability(t->c, r->stored);
	buf_addc(b, '}');
	single_headers(t->c, id, m->version);
	t->c->reply.status = r->created ? 201 : 200;
}

static void remember_reply(struct attempt *t)
{
	const struct buf *body = &t->c->reply.body;
	struct op_idem o = {.ns = t->ns,
			    .key = t->a->idem_key,
			    .body_hash = t->a->body_hash,
			    .expires_us = t->now + IDEM_KEEP_US,
			    .status = (uint32_t)t->c->reply.status,
			    .reply_len = (uint32_t)body->len};
	txn_op_raw(&t->t, OP_IDEM, &o, sizeof(o), body->p, body->len);
}

/* The same answer includes its headers, which the memory in the kept body tells. */
static void replay_headers(struct call *c)
{
	json_t *o = json_loadb(c->reply.body.p, c->reply.body.len, 0, NULL);
	const char *id = json_string_value(json_object_get(o, "id"));
	if (id && strlen(id) == UUID_TEXT)
		single_headers(c, id, (uint64_t)json_integer_value(json_object_get(o, "version")));
	buf_adds(&c->reply.head, "Idempotent-Replayed: true\r\n");
	json_decref(o);
}

static bool replay(struct attempt *t, enum verdict *v)
{
	struct op_idem o;
	struct call *c = t->c;
	if (!t->a->has_idem)
		return false;
	t->keys[t->nkeys++] = t->a->idem_key;
	switch (reader_idem(t->rd, t->a->idem_key, &o, &c->reply.body)) {
	case READ_NONE: return false;
	case READ_ERROR: problem_store(c, t->rd->error); break;
	case READ_OK:
		if (o.body_hash != t->a->body_hash) {
			problem(c, 409, "idempotency-conflict",
				"Idempotency-Key: was used within 24 h with another body; use a new key");
			break;
		}
		c->reply.status = (int)o.status;
		replay_headers(c);
	}
	*v = CALL_REPLY;
	return true;
}

/* ---- */

static enum verdict run_attempt(struct attempt *t)
{
	struct add *a = t->a;
	enum verdict v = CALL_REPLY;
	if (replay(t, &v))
		return v;
	ids_make(t->ids, a->n);
	for (size_t i = 0; i < a->n; i++)
		if (!evaluate_item(t, i))
			return CALL_REPLY;
	if (a->bulk)
		reply_bulk(t);
	else
		reply_single(t);
	if (!t->stored)
		return CALL_REPLY;
	if (a->has_idem)
		remember_reply(t);
	return CALL_COMMIT;
}

static enum verdict evaluate(struct call *c, struct reader *rd)
{
	struct add *a = c->state;
	if (!a->parsed && !parse(c, a))
		return CALL_REPLY;
	if (!rd && needs_reader(a))
		return CALL_THREAD;
	struct attempt t = {.c = c, .a = a, .rd = rd, .now = clock_real_us(), .ns = record_ns(a->ns)};
	uint64_t read_seq = call_read_seq(c);
	t.row = plant_find(c->api->plant, t.ns);
	t.results = util_zalloc(a->n * sizeof(*t.results));
	t.keys = util_alloc((2 * a->n + 1) * sizeof(*t.keys));
	t.ids = util_alloc(a->n * sizeof(*t.ids));
	/* The operations are built first: which keys were read is known only then. */
	txn_begin(&t.t, &t.ops, 0, 0, 0, 0);
	enum verdict v = run_attempt(&t);
	if (v == CALL_COMMIT) {
		txn_end(&t.t);
		struct txn_builder full;
		call_txn_begin(c, &full, read_seq, 0);
		for (size_t i = 0; i < t.nkeys; i++)
			txn_read_key(&full, t.keys[i]);
		namespaces_ensure(c, a->ns, &full);
		txn_ops_from(&full, &t.ops);
		txn_end(&full);
	}
	for (size_t i = 0; i < a->n; i++)
		held_free(&t.results[i].held);
	free(t.results);
	free(t.keys);
	free(t.ids);
	buf_free(&t.ops);
	buf_free(&t.body);
	return v;
}

static bool read_headers(struct call *c, struct add *a)
{
	struct span key = http_header(c->req, HTTP_H_IDEMPOTENCY_KEY);
	if (key.p) {
		if (!key.len || key.len > LIMIT_IDEMPOTENCY_KEY) {
			problem(c, 400, "invalid-header", "Idempotency-Key: must be 1 to %d bytes",
				LIMIT_IDEMPOTENCY_KEY);
			return false;
		}
		a->has_idem = true;
		memcpy(a->idem_text, key.p, key.len);
		a->idem_text[key.len] = 0;
	}
	return call_wait(c);
}

void memories_add(struct call *c)
{
	struct add *a = util_zalloc(sizeof(*a));
	c->state = a;
	c->free_state = add_free;
	if (!read_headers(c, a)) {
		call_reply(c);
		return;
	}
	a->text = http_body_take(c->req, &a->len);
	if (a->has_idem) {
		struct span q = http_query(c->req);
		a->body_hash = XXH3_64bits(a->text, a->len) ^ XXH3_64bits_withSeed(q.p, q.len, 1);
	}
	call_write(c, evaluate, a->len <= INLINE_BODY);
}
