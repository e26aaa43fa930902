/* One memory by id: change, delete, restore, supersede, history. */
#include <stdio.h>
#include <stdlib.h>

#include "clock.h"
#include "draft.h"
#include "handlers.h"
#include "ids.h"
#include "list.h"
#include "requests.h"

bool memories_not_found(struct call *c)
{
	problem(c, 404, "not-found", "no such memory, or it was deleted or has expired");
	return false;
}

/* ---- what the writing verbs share ---- */

/* Loads the live (or, when deleted_too, any) memory that the call names and checks If-Match.
 * False: the reply is set. The reading is named in the transaction by its id key. */
static bool load(struct call *c, struct reader *rd, bool deleted_too, struct held *h)
{
	switch (reader_get(rd, &c->id, true, h)) {
	case READ_ERROR: problem_store(c, rd->error); return false;
	case READ_NONE: return memories_not_found(c);
	case READ_OK: break;
	}
	bool ok = true;
	requests_note_namespace(c, h->m.ns_name);
	struct span im = http_header(c->req, HTTP_H_IF_MATCH);
	if ((h->m.deleted_us && !deleted_too) || !call_may(c, AUTH_WRITE, h->m.ns_name)) {
		ok = memories_not_found(c);
	} else if (im.p && !call_etag_valid(im)) {
		problem(c, 400, "invalid-header",
			"If-Match: must be * or a list of ETags in double quotes, such as \"3\"");
		ok = false;
	} else if (im.p && !call_etag_matches(im, h->m.version, false)) {
		problem(c, 412, "version-conflict",
			"If-Match: the memory is at version %llu; read it again and decide anew",
			(unsigned long long)h->m.version);
		memories_etag(&c->reply.head, h->m.version);
		ok = false;
	}
	if (!ok)
		held_free(h);
	return ok;
}

/* A memory that was kept as it is lies where it lay before. Applied is read first: what is applied between the two
 * loads is not counted as stored. */
static const char *found_durability(const struct call *c)
{
	uint64_t applied = atomic_load(&c->api->plant->applied_seq);
	return atomic_load(&c->api->plant->flushed_seq) >= applied ? "store" : "journal";
}

void memories_etag(struct buf *head, uint64_t version)
{
	buf_adds(head, "ETag: \"");
	buf_addu(head, version);
	buf_adds(head, "\"\r\n");
}

void memories_durability(struct call *c, bool stored)
{
	struct buf *b = &c->reply.body;
	buf_adds(b, "\"durability\":\"");
	c->reply.store_word = stored && c->wait_store ? b->len : 0;
	buf_adds(b, !stored ? found_durability(c) : c->wait_store ? "store" : "journal");
	buf_addc(b, '"');
}

static void reply_memory(struct call *c, const struct memory *m, int status, bool stored)
{
	struct buf *b = &c->reply.body;
	c->reply.status = status;
	memories_etag(&c->reply.head, m->version);
	buf_add(b, m->body.p, m->body.len - 1);
	buf_addc(b, ',');
	memories_durability(c, stored);
	buf_addc(b, '}');
}

/* ---- PATCH ---- */

struct patch {
	char *text;
	size_t len;
	struct body_json body;
	bool parsed;
};

static void patch_free(void *state)
{
	struct patch *p = state;
	body_json_free(&p->body);
	free(p->text);
	free(p);
}

static struct patch *patch_take(struct call *c)
{
	struct patch *p = util_zalloc(sizeof(*p));
	c->state = p;
	c->free_state = patch_free;
	p->text = http_body_take(c->req, &p->len);
	return p;
}

static bool patch_parse(struct call *c, struct patch *p)
{
	p->parsed = p->parsed || body_json_parse(c, (struct span){p->text, p->len}, &p->body);
	return p->parsed;
}

/* Applies the request to what is stored; a change of content needs a new vector. */
static bool apply_patch(struct call *c, struct patch *p, const struct held *old, struct draft *d)
{
	if (!draft_from_memory(d, &old->m)) {
		problem(c, 500, "internal", "the stored memory cannot be read");
		return false;
	}
	struct span before = d->content;
	if (!draft_read(c, &p->body, p->body.root, DRAFT_PATCH, "", d))
		return false;
	if (!d->content.len) {
		problem(c, 400, "invalid-field", "content: cannot be removed");
		return false;
	}
	if (!d->embedding_set && !span_eq(before, d->content))
		d->dim = 0;
	d->updated_us = clock_after_us(old->m.updated_us);
	d->replaces_bytes = (int64_t)memory_quota_bytes(&old->m);
	return draft_embed(c, d, plant_find(c->api->plant, old->m.ns), "");
}

static void commit_put(struct call *c, uint64_t read_seq, struct draft *d, const struct held *old, int status)
{
	struct txn_builder t;
	struct buf body = {0};
	struct memory m;
	struct span ns = old->m.ns_name;
	call_txn_begin(c, &t, read_seq, 0);
	txn_read_key(&t, record_id_key(&d->id));
	if (d->external_id.len)
		txn_read_key(&t, record_external_key(record_ns(ns), d->external_id));
	draft_memory(d, ns, old->m.version + 1, &body, &m);
	txn_op_put(&t, &m);
	txn_end(&t);
	reply_memory(c, &m, status, true);
	buf_free(&body);
}

/* True when a live memory other than `holder` has the external id that this one wants. */
static bool external_taken(struct call *c, struct reader *rd, const struct draft *d, const struct uuid *holder,
			   uint64_t ns)
{
	struct held other = {.bytes = NULL};
	if (!d->external_id.len)
		return false;
	enum read_rc rc = reader_by_external(rd, ns, d->external_id, &other);
	bool taken = rc == READ_OK && uuid_cmp(&other.m.id, holder) != 0;
	if (rc == READ_ERROR)
		problem_store(c, rd->error);
	else if (taken)
		problem(c, 409, "external-id-taken", "external_id: another memory of this namespace has it");
	held_free(&other);
	return taken || rc == READ_ERROR;
}

static enum verdict patch_evaluate(struct call *c, struct reader *rd)
{
	struct patch *p = c->state;
	struct held old = {.bytes = NULL};
	struct draft d = {.metadata = NULL};
	enum verdict v = CALL_REPLY;
	uint64_t read_seq = call_read_seq(c);
	if (!patch_parse(c, p) || !load(c, rd, false, &old))
		return CALL_REPLY;
	if (json_is_object(p->body.root) && json_object_size(p->body.root) == 0) {
		reply_memory(c, &old.m, 200, false); /* an empty patch changes nothing */
	} else if (apply_patch(c, p, &old, &d) && !external_taken(c, rd, &d, &d.id, old.m.ns)) {
		commit_put(c, read_seq, &d, &old, 200);
		v = CALL_COMMIT;
	}
	draft_free(&d);
	held_free(&old);
	return v;
}

void memories_patch(struct call *c)
{
	patch_take(c);
	if (call_wait(c))
		call_write(c, patch_evaluate, false);
	else
		call_reply(c);
}

/* ---- DELETE ---- */

/* What erase answers: when, how many, of what. */
void memories_receipt(struct call *c, size_t n)
{
	struct uuid id;
	char text[UUID_TEXT];
	ids_make(&id, 1);
	uuid_format(&id, text);
	c->reply.status = 200;
	buf_printf(
		&c->reply.body,
		"{\"receipt\":\"%.*s\",\"erased\":%zu,\"from\":[\"journal\",\"store\",\"history\",\"caches\",\"vectors\",\"words\"],\"erased_at\":",
		UUID_TEXT, text, n);
	json_out_time(&c->reply.body, clock_real_us());
	buf_addc(&c->reply.body, '}');
}

int memories_erase_param(struct call *c)
{
	char *v = NULL;
	size_t len = 0;
	int found = http_query_get(c->req, "erase", &v, &len);
	bool yes = found == 1 && strcmp(v, "true") == 0, no = found == 0 || (found == 1 && strcmp(v, "false") == 0);
	free(v);
	if (!yes && !no)
		problem(c, 400, "invalid-parameter", "erase: must be true or false");
	return yes ? 1 : no ? 0 : -1;
}

static enum verdict delete_evaluate(struct call *c, struct reader *rd)
{
	struct held old = {.bytes = NULL};
	struct txn_builder t;
	bool erase = c->erase;
	uint64_t read_seq = call_read_seq(c);
	if (!load(c, rd, erase, &old))
		return CALL_REPLY;
	c->wait_store |= erase;
	call_txn_begin(c, &t, read_seq, erase ? TXN_SCRUB : 0);
	txn_read_key(&t, record_id_key(&c->id));
	txn_op_delete(&t, &old.m, erase ? DELETE_ERASE : DELETE_SOFT);
	txn_end(&t);
	if (erase)
		memories_receipt(c, 1);
	else
		c->reply.status = 204;
	held_free(&old);
	return CALL_COMMIT;
}

void memories_delete(struct call *c)
{
	int erase = memories_erase_param(c);
	c->erase = erase == 1;
	if (erase < 0 || !call_wait(c))
		call_reply(c);
	else
		call_write(c, delete_evaluate, false);
}

/* ---- restore ---- */

static enum verdict restore_evaluate(struct call *c, struct reader *rd)
{
	struct held old = {.bytes = NULL};
	struct draft d = {.metadata = NULL};
	enum verdict v = CALL_REPLY;
	uint64_t read_seq = call_read_seq(c);
	if (!load(c, rd, true, &old))
		return CALL_REPLY;
	if (!old.m.deleted_us) {
		reply_memory(c, &old.m, 200, false); /* nothing to do */
	} else if (!draft_from_memory(&d, &old.m)) {
		problem(c, 500, "internal", "the stored memory cannot be read");
	} else if (!external_taken(c, rd, &d, &d.id, old.m.ns)) {
		d.updated_us = clock_after_us(old.m.updated_us);
		commit_put(c, read_seq, &d, &old, 200);
		v = CALL_COMMIT;
	}
	draft_free(&d);
	held_free(&old);
	return v;
}

void memories_restore(struct call *c)
{
	if (call_wait(c))
		call_write(c, restore_evaluate, false);
	else
		call_reply(c);
}

/* ---- supersede: a new fact takes the old one's place; the old one stays, closed and linked ---- */

static bool supersede_drafts(struct call *c, struct patch *p, const struct held *old, struct draft *was,
			     struct draft *now)
{
	int64_t t = clock_after_us(old->m.updated_us);
	if (old->m.flags & MEMORY_SUPERSEDED) {
		problem(c, 409, "already-superseded", "this memory was superseded before; supersede its successor");
		return false;
	}
	if (!draft_from_memory(was, &old->m)) {
		problem(c, 500, "internal", "the stored memory cannot be read");
		return false;
	}
	draft_init(now);
	/* Scopes carry over unless the request names them. An external id names what holds now: it moves on. */
	now->external_id = was->external_id;
	was->external_id = (struct span){NULL, 0};
	now->kind = was->kind;
	now->user_id = was->user_id;
	now->agent_id = was->agent_id;
	now->session_id = was->session_id;
	now->importance = was->importance;
	if (!draft_read(c, &p->body, p->body.root, DRAFT_ADD, "", now))
		return false;
	if (now->ns_given.len && !span_eq(now->ns_given, old->m.ns_name)) {
		problem(c, 400, "invalid-field",
			"namespace: the new memory lives where the old one does; leave it out");
		return false;
	}
	if (!draft_embed(c, now, plant_find(c->api->plant, old->m.ns), ""))
		return false;
	ids_make(&now->id, 1);
	now->created_us = now->updated_us = now->valid_from_us = t;
	now->supersedes = was->id;
	now->has_supersedes = true;
	was->updated_us = was->valid_to_us = t;
	if (!was->valid_from_us)
		was->valid_from_us = was->created_us;
	was->superseded_by = now->id;
	was->has_superseded_by = was->superseded = true;
	was->replaces_bytes = (int64_t)memory_quota_bytes(&old->m);
	return true;
}

static enum verdict supersede_evaluate(struct call *c, struct reader *rd)
{
	struct patch *p = c->state;
	struct held old = {.bytes = NULL};
	struct draft was = {.metadata = NULL}, now = {.metadata = NULL};
	enum verdict v = CALL_REPLY;
	uint64_t read_seq = call_read_seq(c);
	if (!patch_parse(c, p) || !load(c, rd, false, &old))
		return CALL_REPLY;
	if (supersede_drafts(c, p, &old, &was, &now) && !external_taken(c, rd, &now, &was.id, old.m.ns)) {
		struct txn_builder t;
		struct memory m;
		struct buf b1 = {0}, b2 = {0};
		call_txn_begin(c, &t, read_seq, 0);
		txn_read_key(&t, record_id_key(&was.id));
		if (now.external_id.len)
			txn_read_key(&t, record_external_key(old.m.ns, now.external_id));
		draft_memory(&was, old.m.ns_name, old.m.version + 1, &b1, &m);
		txn_op_put(&t, &m);
		draft_memory(&now, old.m.ns_name, 1, &b2, &m);
		txn_op_put(&t, &m);
		txn_end(&t);
		reply_memory(c, &m, 201, true);
		buf_free(&b1);
		buf_free(&b2);
		v = CALL_COMMIT;
	}
	draft_free(&was);
	draft_free(&now);
	held_free(&old);
	return v;
}

void memories_supersede(struct call *c)
{
	patch_take(c);
	if (call_wait(c))
		call_write(c, supersede_evaluate, false);
	else
		call_reply(c);
}

/* ---- history ---- */

struct history {
	struct call *c;
	size_t n;
	bool refused;
};

static bool history_row(void *arg, const struct memory *m)
{
	struct history *h = arg;
	struct buf *b = &h->c->reply.body;
	if (m->ns_name.len && !call_may(h->c, AUTH_READ, m->ns_name)) {
		h->refused = true;
		return false;
	}
	if (b->len > 8u << 20)
		return false;
	if (h->n++)
		buf_addc(b, ',');
	buf_printf(b, "{\"version\":%llu,\"at\":", (unsigned long long)m->version);
	json_out_time(b, m->deleted_us ? m->deleted_us : m->updated_us);
	buf_printf(b, ",\"deleted\":%s,%s\"memory\":", m->deleted_us ? "true" : "false",
		   m->flags & MEMORY_LOST ? "\"lost\":true," : "");
	if (m->deleted_us || !m->body.len)
		buf_adds(b, "null");
	else
		buf_add(b, m->body.p, m->body.len);
	buf_addc(b, '}');
	return true;
}

static void history_read(struct call *c, struct reader *rd)
{
	struct history h = {.c = c};
	buf_adds(&c->reply.body, "{\"history\":[");
	enum read_rc rc = reader_history(rd, &c->id, history_row, &h);
	if (rc == READ_ERROR) {
		problem_store(c, rd->error);
	} else if (rc == READ_NONE || !h.n || h.refused) {
		memories_not_found(c);
	} else {
		c->reply.status = 200;
		buf_adds(&c->reply.body, "]}");
	}
}

void memories_history(struct call *c) { call_read(c, history_read); }
