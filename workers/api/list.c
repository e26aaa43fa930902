/* Lists: by scope and metadata, with keyset cursors; by ids; counts; bulk delete by filter. */
#include "list.h"

#include <stdio.h>
#include <stdlib.h>

#include "clock.h"
#include "draft.h"
#include "handlers.h"

#define PAGE_BYTES (8u << 20)
#define LIST_DEFAULT 500
#define BULK_MAX 10000 /* memories one bulk delete takes in a transaction; the answer says when more remain */

/* ---- the selection that query parameters make ---- */

static bool parameter(struct call *c, const char *name, char **v_r, size_t *len_r)
{
	int found = http_query_get(c->req, name, v_r, len_r);
	if (found < 0) {
		problem(c, 400, "invalid-parameter", "%s: malformed percent escape", name);
		return false;
	}
	if (!found)
		*v_r = NULL;
	return true;
}

static bool select_scopes(struct call *c, struct filter **f)
{
	static const char *const scopes[] = {"user_id", "agent_id", "session_id", "kind", "external_id"};
	for (size_t i = 0; i < ARRAY_LEN(scopes); i++) {
		char *v;
		size_t len;
		if (!parameter(c, scopes[i], &v, &len))
			return false;
		bool ok = !v || (len <= LIMIT_SCOPE && util_utf8_valid(v, len));
		if (v && ok)
			filter_and_eq(f, scopes[i], (struct span){v, len});
		free(v);
		if (!ok) {
			problem(c, 400, "invalid-parameter", "%s: must be at most %d bytes of UTF-8", scopes[i],
				LIMIT_SCOPE);
			return false;
		}
	}
	return true;
}

static bool select_filter(struct call *c, struct filter **f)
{
	char *v, *error = NULL;
	size_t len;
	json_error_t je;
	if (!parameter(c, "filter", &v, &len))
		return false;
	json_t *j = v ? json_loadb(v, len, JSON_REJECT_DUPLICATES, &je) : NULL;
	if (v && !j) {
		problem(c, 400, "invalid-parameter", "filter: is not JSON: %s", je.text);
		free(v);
		return false;
	}
	free(v);
	*f = filter_parse(j, &error);
	json_decref(j);
	if (!*f)
		problem(c, 400, "invalid-filter", "%s", error);
	free(error);
	return *f != NULL;
}

static bool select_limit(struct call *c, struct list_select *s)
{
	char *v, *end;
	size_t len;
	if (!parameter(c, "limit", &v, &len))
		return false;
	if (v) {
		long n = strtol(v, &end, 10);
		bool ok = len && *v >= '0' && *v <= '9' && *end == 0 && n >= 1 && n <= LIMIT_LIST;
		free(v);
		if (!ok) {
			problem(c, 400, "invalid-parameter",
				"limit: must be a whole number from 1 to %d; page on with next_cursor", LIMIT_LIST);
			return false;
		}
		s->q.limit = (size_t)n;
	}
	return true;
}

/* A cursor is the order and the last id seen: "d" or "a", then the UUID. */
static bool select_cursor(struct call *c, struct list_select *s)
{
	char *v;
	size_t len;
	if (!parameter(c, "cursor", &v, &len))
		return false;
	if (!v)
		return true;
	bool ok = len == 1 + UUID_TEXT && (*v == 'a' || *v == 'd') && uuid_parse(v + 1, UUID_TEXT, &s->q.after);
	s->q.have_after = ok;
	if (ok)
		s->q.descending = *v == 'd';
	free(v);
	if (!ok)
		problem(c, 400, "invalid-cursor", "cursor: must be a next_cursor from a list answer");
	return ok;
}

static bool select_flag(struct call *c, const char *name, const char *no, const char *yes, bool *out)
{
	char *v;
	size_t len;
	if (!parameter(c, name, &v, &len))
		return false;
	bool ok = !v || strcmp(v, yes) == 0 || strcmp(v, no) == 0;
	if (v && ok)
		*out = strcmp(v, yes) == 0;
	free(v);
	if (!ok)
		problem(c, 400, "invalid-parameter", "%s: must be %s or %s", name, no, yes);
	return ok;
}

bool list_include(struct call *c, bool *embedding_r)
{
	char *v;
	size_t len;
	if (!parameter(c, "include", &v, &len))
		return false;
	*embedding_r = v && strcmp(v, "embedding") == 0;
	bool ok = !v || !len || *embedding_r;
	free(v);
	if (!ok)
		problem(c, 400, "invalid-parameter", "include: must be embedding, or absent");
	return ok;
}

void list_select_free(void *state)
{
	struct list_select *s = state;
	filter_free(&s->filter);
	free(s);
}

/* NULL: problem set. */
struct list_select *list_select(struct call *c, unsigned right)
{
	struct list_select *s = util_zalloc(sizeof(*s));
	s->q.descending = true;
	s->q.limit = LIST_DEFAULT;
	bool ok = call_namespace(c, (struct span){NULL, 0}, right, s->ns_name, &s->ns) &&
		  select_filter(c, &s->filter) && select_scopes(c, &s->filter) && select_limit(c, s) &&
		  select_flag(c, "order", "asc", "desc", &s->q.descending) && select_cursor(c, s) &&
		  select_flag(c, "deleted", "false", "true", &s->q.deleted) && list_include(c, &s->q.with_embedding);
	if (!ok) {
		list_select_free(s);
		return NULL;
	}
	s->q.ns = record_ns(s->ns);
	s->q.filter = filter_is_empty(s->filter) ? NULL : s->filter;
	s->q.now_us = clock_real_us();
	c->state = s;
	c->free_state = list_select_free;
	return s;
}

/* ---- GET /v1/memories ---- */

struct page {
	struct call *c;
	size_t n, limit;
	struct uuid last;
	bool more;
	bool with_embedding;
};

void list_vector(struct buf *b, const struct memory *m)
{
	AN(b->len && b->p[b->len - 1] == '}');
	b->len--;
	buf_adds(b, m->embedding ? ",\"embedding\":[" : ",\"embedding\":null}");
	for (uint32_t i = 0; m->embedding && i < m->dim; i++)
		buf_printf(b, "%s%.9g", i ? "," : "", (double)m->embedding[i]);
	if (m->embedding)
		buf_adds(b, "]}");
}

/* A deleted one shows when, and the version that the deletion is, which If-Match of a restore names. */
static void page_deleted(struct buf *b, const struct memory *m)
{
	const char *version = memrchr(m->body.p, ',', m->body.len); /* the last field: write_body() */
	AN(version);
	buf_add(b, m->body.p, (size_t)(version - m->body.p));
	buf_adds(b, ",\"deleted_at\":");
	json_out_time(b, m->deleted_us);
	buf_printf(b, ",\"version\":%llu}", (unsigned long long)m->version);
}

static bool page_row(void *arg, const struct memory *m)
{
	struct page *p = arg;
	struct buf *b = &p->c->reply.body;
	if (p->n == p->limit || b->len > PAGE_BYTES) {
		p->more = true;
		return false;
	}
	if (p->n++)
		buf_addc(b, ',');
	if (m->deleted_us)
		page_deleted(b, m);
	else
		buf_add(b, m->body.p, m->body.len);
	if (p->with_embedding)
		list_vector(b, m);
	p->last = m->id;
	return true;
}

static void list_read(struct call *c, struct reader *rd)
{
	struct list_select *s = c->state;
	struct store_list q = s->q;
	struct page p = {.c = c, .limit = q.limit, .with_embedding = q.with_embedding};
	char id[UUID_TEXT];
	q.limit++; /* one more tells whether there is a next page */
	buf_adds(&c->reply.body, "{\"memories\":[");
	if (reader_list(rd, &q, page_row, &p) == READ_ERROR) {
		problem_store(c, rd->error);
		return;
	}
	c->reply.status = 200;
	buf_adds(&c->reply.body, "],\"next_cursor\":");
	if (p.more) {
		uuid_format(&p.last, id);
		buf_printf(&c->reply.body, "\"%c%.*s\"}", q.descending ? 'd' : 'a', UUID_TEXT, id);
	} else {
		buf_adds(&c->reply.body, "null}");
	}
}

void list_memories(struct call *c)
{
	if (list_select(c, AUTH_READ))
		call_read(c, list_read);
	else
		call_reply(c);
}

/* ---- GET /v1/memories:count ---- */

static void count_read(struct call *c, struct reader *rd)
{
	struct list_select *s = c->state;
	uint64_t n = 0;
	s->q.limit = 0;
	if (reader_count(rd, &s->q, &n) == READ_ERROR) {
		problem_store(c, rd->error);
		return;
	}
	c->reply.status = 200;
	buf_printf(&c->reply.body, "{\"count\":%llu}", (unsigned long long)n);
}

void list_count(struct call *c)
{
	if (list_select(c, AUTH_READ))
		call_read(c, count_read);
	else
		call_reply(c);
}

/* ---- POST /v1/memories:get {"ids":[…]} ---- */

struct by_ids {
	struct uuid *ids;
	size_t n;
};

static void by_ids_free(void *state)
{
	struct by_ids *s = state;
	free(s->ids);
	free(s);
}

static void by_ids_read(struct call *c, struct reader *rd)
{
	struct by_ids *s = c->state;
	struct buf *b = &c->reply.body, missing = {0};
	char text[UUID_TEXT];
	bool first = true;
	buf_adds(b, "{\"memories\":[");
	for (size_t i = 0; i < s->n; i++) {
		struct held h = {.bytes = NULL};
		enum read_rc rc = reader_get(rd, &s->ids[i], false, &h);
		if (rc == READ_ERROR) {
			problem_store(c, rd->error);
			buf_free(&missing);
			return;
		}
		if (rc == READ_OK && !h.m.deleted_us && call_may(c, AUTH_READ, h.m.ns_name)) {
			if (!first)
				buf_addc(b, ',');
			first = false;
			buf_add(b, h.m.body.p, h.m.body.len);
		} else {
			uuid_format(&s->ids[i], text);
			buf_printf(&missing, "%s\"%.*s\"", missing.len ? "," : "", UUID_TEXT, text);
		}
		held_free(&h);
	}
	c->reply.status = 200;
	buf_adds(b, "],\"missing\":[");
	buf_add(b, missing.p, missing.len);
	buf_adds(b, "]}");
	buf_free(&missing);
}

static bool by_ids_parse(struct call *c, struct by_ids *s, json_t *root)
{
	json_t *ids = json_object_get(root, "ids"), *v;
	size_t i;
	if (!json_is_array(ids) || json_object_size(root) != 1 || !json_array_size(ids) ||
	    json_array_size(ids) > LIMIT_BULK) {
		problem(c, 400, "invalid-field", "ids: the body must be {\"ids\": [1 to %d UUIDs]}", LIMIT_BULK);
		return false;
	}
	s->ids = util_alloc(json_array_size(ids) * sizeof(*s->ids));
	json_array_foreach (ids, i, v)
		if (!json_is_string(v) || !uuid_parse(json_string_value(v), json_string_length(v), &s->ids[s->n++])) {
			problem(c, 400, "invalid-field", "ids[%zu]: must be a UUID", i);
			return false;
		}
	return true;
}

void list_by_ids(struct call *c)
{
	struct by_ids *s = util_zalloc(sizeof(*s));
	struct body_json b;
	c->state = s;
	c->free_state = by_ids_free;
	bool ok = body_json_parse(c, http_body(c->req), &b) && by_ids_parse(c, s, b.root);
	body_json_free(&b);
	if (ok)
		call_read(c, by_ids_read);
	else
		call_reply(c);
}

/* ---- DELETE /v1/memories?…&confirm=true ---- */

struct victims {
	struct txn_builder *keys, *ops;
	size_t n;
	bool erase, more;
};

static bool take_victim(void *arg, const struct memory *m)
{
	struct victims *v = arg;
	if (v->n == BULK_MAX) {
		v->more = true;
		return false;
	}
	txn_read_key(v->keys, record_id_key(&m->id));
	txn_op_delete(v->ops, m, v->erase ? DELETE_ERASE : DELETE_SOFT);
	v->n++;
	return true;
}

static enum verdict bulk_evaluate(struct call *c, struct reader *rd)
{
	struct list_select *s = c->state;
	struct store_list q = s->q;
	struct txn_builder t, ops;
	struct buf ops_buf = {0};
	struct victims v = {.keys = &t, .ops = &ops, .erase = c->erase};
	uint64_t read_seq = call_read_seq(c);
	c->wait_store |= c->erase;
	q.limit = 0;
	call_txn_begin(c, &t, read_seq, c->erase ? TXN_SCRUB : 0);
	txn_begin(&ops, &ops_buf, 0, 0, 0, 0);
	enum read_rc rc = reader_list(rd, &q, take_victim, &v);
	if (rc == READ_OK && c->erase && !v.more) {
		q.deleted = true; /* erase takes what lies in the trash as well */
		rc = reader_list(rd, &q, take_victim, &v);
	}
	txn_end(&ops);
	enum verdict verdict = CALL_REPLY;
	if (rc == READ_ERROR) {
		problem_store(c, rd->error);
	} else {
		if (v.n) {
			txn_ops_from(&t, &ops_buf);
			txn_end(&t);
			verdict = CALL_COMMIT;
		}
		if (c->erase && !v.more)
			memories_receipt(c, v.n);
		else
			buf_printf(&c->reply.body, "{\"deleted\":%zu,\"more\":%s}", v.n, v.more ? "true" : "false");
		c->reply.status = 200;
	}
	buf_free(&ops_buf);
	return verdict;
}

/* A misspelt parameter is ignored and so selects everything: that takes another word than a selection does. */
static bool confirmed(struct call *c)
{
	const struct list_select *s = c->state;
	char *word = NULL;
	size_t len;
	if (!parameter(c, "confirm", &word, &len))
		return false;
	bool all = !s->q.filter && !s->q.have_after,
	     ok = word && (all ? len == s->ns.len && memcmp(word, s->ns.p, len) == 0 : strcmp(word, "true") == 0);
	free(word);
	if (ok)
		return true;
	if (all)
		problem(c, 400, "confirm-required",
			"confirm: without a filter or a scope this deletes every memory of the namespace; "
			"if you mean that, repeat with confirm=%.*s",
			(int)s->ns.len, s->ns.p);
	else
		problem(c, 400, "confirm-required",
			"confirm: this deletes every memory that the filter selects; count them first "
			"(GET /v1/memories:count with the same parameters), then repeat with confirm=true");
	return false;
}

void bulk_delete(struct call *c)
{
	int erase = memories_erase_param(c);
	bool ok = erase >= 0 && call_wait(c) && list_select(c, AUTH_WRITE) && confirmed(c);
	c->erase = erase == 1;
	if (ok)
		call_write(c, bulk_evaluate, false);
	else
		call_reply(c);
}
