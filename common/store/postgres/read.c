/* The readers' side: single memories by each key, and what is known about one. */
#include <stdlib.h>

#include "postgres-private.h"

#define MANY 256 /* ids a statement; versions of one memory a page */

void pg_memory(const PGresult *res, int row, struct memory *m)
{
	*m = (struct memory){.id = pg_uuid(res, row, 0), .replaces_bytes = -1};
	m->ns_name = pg_text(res, row, 1);
	m->ns = record_ns(m->ns_name);
	m->version = (uint64_t)pg_int(res, row, 2);
	m->created_us = pg_time(res, row, 4);
	m->updated_us = pg_time(res, row, 5);
	m->expires_us = pg_time(res, row, 6);
	m->flags = (uint32_t)pg_int(res, row, 7);
	m->importance = (float)pg_real(res, row, 8);
	m->kind = pg_text(res, row, 9);
	m->user_id = pg_text(res, row, 10);
	m->agent_id = pg_text(res, row, 11);
	m->session_id = pg_text(res, row, 12);
	m->external_id = pg_text(res, row, 13);
	m->content = pg_text(res, row, 14);
	m->content_hash = (uint64_t)pg_int(res, row, 15);
	m->embedder = pg_text(res, row, 16);
	m->dim = (uint32_t)pg_int(res, row, 17);
	m->body = pg_text(res, row, 18);
}

/* ---- visiting rows ---- */

/* The vector of a row, in *x; NULL: none. */
static const float *embedding(const struct store *s, const PGresult *res, int row, uint32_t dim, struct buf *x)
{
	size_t len = pg_text(res, row, PG_MEMORY_COLUMNS + 1).len;
	x->len = 0;
	buf_reserve(x, len + sizeof(float));
	uint32_t n = pg_embedding(res, row, PG_MEMORY_COLUMNS + 1, &s->schema, (float *)(void *)x->p,
				  (uint32_t)(len / sizeof(float)));
	return n && n == dim ? (const float *)(const void *)x->p : NULL;
}

void pg_visit_rows(struct store *s, struct pg_visit *v, const PGresult *res)
{
	bool vector = pq.nfields(res) > PG_MEMORY_COLUMNS + 1;
	struct buf x = {NULL, 0, 0};
	v->bytes = 0;
	for (int row = 0; row < pq.ntuples(res) && !v->stopped; row++) {
		struct memory m;
		pg_memory(res, row, &m);
		m.deleted_us = pg_time(res, row, PG_MEMORY_COLUMNS);
		v->bytes += m.body.len + m.content.len + m.dim * sizeof(float);
		if (v->check && !filter_match(v->check, &m))
			continue;
		m.embedding = vector ? embedding(s, res, row, m.dim, &x) : NULL;
		v->n++;
		v->stopped = !v->fn(v->arg, &m) || v->n == v->limit;
	}
	buf_free(&x);
}

static enum store_rc visit(struct store *s, enum pg_stmt which, struct pg_params *p, struct pg_visit *v)
{
	PGresult *res;
	enum store_rc rc = pg_call(s, which, p, &res);
	pg_params_free(p);
	if (rc != STORE_OK)
		return rc;
	pg_visit_rows(s, v, res);
	pq.clear(res);
	return v->n ? STORE_OK : STORE_NOT_FOUND;
}

/* ---- one memory ---- */

enum store_rc pg_read_get(struct store *s, const struct uuid *id, bool vector, store_visit_fn *fn, void *arg)
{
	struct pg_params p = {.n = 0};
	struct pg_visit v = {.limit = 1, .fn = fn, .arg = arg};
	pg_param_uuid(&p, id);
	return visit(s, vector ? PG_GET_VECTOR : PG_GET, &p, &v);
}

enum store_rc pg_read_get_many(struct store *s, const struct uuid *ids, size_t n, bool vector, store_visit_fn *fn,
			       void *arg)
{
	struct pg_visit v = {.fn = fn, .arg = arg};
	enum store_rc rc = STORE_OK;
	for (size_t at = 0; at < n && rc == STORE_OK && !v.stopped; at += MANY) {
		struct pg_params p = {.n = 0};
		pg_param_uuids(&p, ids + at, n - at < MANY ? n - at : MANY);
		rc = visit(s, vector ? PG_GET_MANY_VECTOR : PG_GET_MANY, &p, &v);
		if (rc == STORE_NOT_FOUND)
			rc = STORE_OK;
	}
	return rc;
}

enum store_rc pg_read_by_external(struct store *s, uint64_t ns, struct span id, bool vector, store_visit_fn *fn,
				  void *arg)
{
	struct pg_params p = {.n = 0};
	struct pg_visit v = {.fn = fn, .arg = arg};
	struct span name;
	enum store_rc rc = pg_namespace(s, ns, &name);
	if (rc != STORE_OK || !name.len || !id.len || !util_text_valid(id))
		return rc == STORE_OK ? STORE_NOT_FOUND : rc;
	pg_param_text(&p, name);
	pg_param_text(&p, id);
	return visit(s, vector ? PG_BY_EXTERNAL_VECTOR : PG_BY_EXTERNAL, &p, &v);
}

enum store_rc pg_read_by_content(struct store *s, uint64_t ns, uint64_t key, struct span content, bool vector,
				 store_visit_fn *fn, void *arg)
{
	struct store_same_content c = {content, fn, arg, false};
	struct pg_params p = {.n = 0};
	struct pg_visit v = {.fn = store_same_content, .arg = &c};
	struct span name;
	enum store_rc rc = pg_namespace(s, ns, &name);
	if (rc != STORE_OK || !name.len)
		return rc == STORE_OK ? STORE_NOT_FOUND : rc;
	pg_param_text(&p, name);
	pg_param_int8(&p, (int64_t)key);
	rc = visit(s, vector ? PG_BY_CONTENT_VECTOR : PG_BY_CONTENT, &p, &v);
	return rc == STORE_OK && !c.found ? STORE_NOT_FOUND : rc;
}

/* ---- what is known about one ---- */

enum store_rc pg_read_idem(struct store *s, uint64_t key, int64_t now_us, struct op_idem *o, struct buf *reply)
{
	struct pg_params p = {.n = 0};
	PGresult *res;
	pg_param_int8(&p, (int64_t)key);
	pg_param_time(&p, now_us);
	enum store_rc rc = pg_call(s, PG_IDEM_GET, &p, &res);
	pg_params_free(&p);
	if (rc != STORE_OK)
		return rc;
	bool found = pq.ntuples(res) > 0;
	if (found) {
		struct span answer = pg_text(res, 0, 4);
		*o = (struct op_idem){.key = key,
				      .ns = record_ns(pg_text(res, 0, 0)),
				      .body_hash = (uint64_t)pg_int(res, 0, 1),
				      .status = (uint32_t)pg_int(res, 0, 2),
				      .expires_us = pg_time(res, 0, 3),
				      .reply_len = (uint32_t)answer.len};
		buf_add(reply, answer.p, answer.len);
	}
	pq.clear(res);
	return found ? STORE_OK : STORE_NOT_FOUND;
}

enum store_rc pg_read_history(struct store *s, const struct uuid *id, store_visit_fn *fn, void *arg)
{
	int64_t below = INT64_MAX;
	bool more = true, found = false;
	while (more) {
		struct pg_params p = {.n = 0};
		PGresult *res;
		pg_param_uuid(&p, id);
		pg_param_int8(&p, below);
		pg_param_int4(&p, MANY);
		enum store_rc rc = pg_call(s, PG_HISTORY, &p, &res);
		pg_params_free(&p);
		if (rc != STORE_OK)
			return rc;
		int rows = pq.ntuples(res);
		more = rows >= MANY;
		found |= rows > 0;
		for (int i = 0; i < rows; i++) {
			struct memory m = {.id = *id,
					   .version = (uint64_t)pg_int(res, i, 0),
					   .updated_us = pg_time(res, i, 1),
					   .body = pg_text(res, i, 2),
					   .ns_name = pg_text(res, i, 3),
					   .flags = pg_bool(res, i, 4) ? MEMORY_LOST : 0,
					   .deleted_us = pg_time(res, i, 5)};
			m.ns = record_ns(m.ns_name);
			below = (int64_t)m.version;
			if (!fn(arg, &m)) {
				more = false;
				break;
			}
		}
		pq.clear(res);
	}
	return found ? STORE_OK : STORE_NOT_FOUND;
}

enum store_rc pg_read_neighbours(struct store *s, const struct uuid *id, int64_t now_us, struct store_neighbour out[4],
				 size_t *n)
{
	struct pg_params p = {.n = 0};
	PGresult *res;
	int distance = 0;
	*n = 0;
	pg_param_uuid(&p, id);
	pg_param_time(&p, now_us);
	enum store_rc rc = pg_call(s, PG_NEIGHBOURS, &p, &res);
	pg_params_free(&p);
	if (rc != STORE_OK)
		return rc;
	for (int i = 0; i < pq.ntuples(res) && *n < 4; i++) {
		int step = (int)pg_int(res, i, 1);
		distance = distance * step > 0 ? distance + step : step;
		out[(*n)++] = (struct store_neighbour){pg_uuid(res, i, 0), distance};
	}
	pq.clear(res);
	return STORE_OK;
}

const struct store_ops postgres_store = {
	.kind = "postgres",
	.fleet = true,
	.start = pg_start,
	.stop = pg_stop,
	.open = pg_open,
	.probe = pg_probe,
	.close = pg_close,
	.error = pg_error,
	.begin = pg_begin,
	.apply = pg_apply,
	.commit = pg_commit,
	.rollback = pg_rollback,
	.culprit = pg_culprit,
	.committed = pg_committed,
	.lost = pg_lost,
	.drift = pg_drift,
	.cursor = pg_cursor,
	.scrub_due = pg_scrub_due,
	.scrub = pg_scrub,
	.collect = pg_collect,
	.get = pg_read_get,
	.get_many = pg_read_get_many,
	.by_external = pg_read_by_external,
	.by_content = pg_read_by_content,
	.idem = pg_read_idem,
	.list = pg_list_rows,
	.ids = pg_list_ids,
	.count = pg_list_count,
	.history = pg_read_history,
	.text = pg_text_search,
	.neighbours = pg_read_neighbours,
	.nearest = pg_nearest,
	.namespaces = pg_collect_namespaces,
	.indexed = pg_list_indexed,
	.indexed_count = pg_list_indexed_count,
	.recent = pg_list_recent,
	.identity = pg_identity,
	.revision = pg_revision,
	.changes = pg_changes,
	.listen = pg_listen,
	.prune = pg_prune,
};
