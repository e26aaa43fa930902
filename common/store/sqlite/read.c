/* The readers' side. */
#include <stdlib.h>

#include "packed.h"
#include "sqlite-private.h"
#include "vocabulary.h"

void sq_memory(sqlite3_stmt *st, struct memory *m)
{
	*m = (struct memory){.id = sq_uuid(st, 0), .replaces_bytes = -1};
	m->ns = (uint64_t)sqlite3_column_int64(st, 1);
	m->version = (uint64_t)sqlite3_column_int64(st, 2);
	m->created_us = sqlite3_column_int64(st, 3);
	m->updated_us = sqlite3_column_int64(st, 4);
	m->expires_us = sqlite3_column_int64(st, 5);
	m->deleted_us = sqlite3_column_int64(st, 6);
	m->flags = (uint32_t)sqlite3_column_int64(st, 7);
	m->importance = (float)sqlite3_column_double(st, 8);
	m->kind = sq_text(st, 9);
	m->user_id = sq_text(st, 10);
	m->agent_id = sq_text(st, 11);
	m->session_id = sq_text(st, 12);
	m->external_id = sq_text(st, 13);
	m->content_hash = (uint64_t)sqlite3_column_int64(st, 14);
	m->embedder = sq_text(st, 15);
	m->dim = (uint32_t)sqlite3_column_int(st, 16);
	m->body = sq_text(st, 17);
	m->ns_name = sq_text(st, 18);
}

/* ---- the content inside a canonical body (api/draft_build.c writes it) ---- */

static unsigned hex4(const char *p)
{
	unsigned v = 0;
	for (int i = 0; i < 4; i++)
		v = v * 16 + (unsigned)(p[i] <= '9' ? p[i] - '0' : (p[i] | 0x20) - 'a' + 10);
	return v;
}

static char unescape(const char **p, const char *end)
{
	switch (*(*p)++) {
	case 'b': return '\b';
	case 'f': return '\f';
	case 'n': return '\n';
	case 'r': return '\r';
	case 't': return '\t';
	case 'u': /* only controls are written so */
		*p = end - *p < 4 ? end : *p + 4;
		return (char)hex4(*p - 4); /* a body is longer than that */
	default: return (*p)[-1];
	}
}

void sq_content(struct span body, struct buf *b)
{
	static const char key[] = "\",\"content\":\"";
	const char *p = body.len ? memmem(body.p, body.len, key, sizeof(key) - 1) : NULL, *end = body.p + body.len;
	if (!p)
		return;
	p += sizeof(key) - 1;
	while (p < end && *p != '"') {
		const char *run = p;
		while (p < end && *p != '"' && *p != '\\')
			p++;
		buf_add(b, run, (size_t)(p - run));
		if (p == end || *p == '"')
			return;
		if (++p == end) /* cut short: a damaged file */
			return;
		buf_addc(b, unescape(&p, end));
	}
}

/* ---- one memory, or those that a statement yields ---- */

const float *sq_vector(struct store *s, sqlite3_stmt *st, int column, uint32_t dim)
{
	struct span x = {sqlite3_column_blob(st, column), (size_t)sqlite3_column_bytes(st, column)};
	if (!dim || dim > LIMIT_DIMENSIONS || x.len == dim * sizeof(float))
		return dim && x.len == dim * sizeof(float) ? (const float *)(const void *)x.p : NULL;
	if (!s->unpacked)
		s->unpacked = util_alloc(LIMIT_DIMENSIONS * sizeof(float));
	return packed_read(x, dim, s->unpacked) ? s->unpacked : NULL;
}

/* vector_column: where x stands, 0 = not selected. */
static enum store_rc visit(struct store *s, sqlite3_stmt *st, int vector_column, store_visit_fn *fn, void *arg)
{
	size_t n = 0;
	int rc;
	if (!st)
		return STORE_ERROR;
	while ((rc = sqlite3_step(st)) == SQLITE_ROW) {
		struct memory m;
		struct buf content = {0};
		sq_memory(st, &m);
		sq_content(m.body, &content);
		m.content = (struct span){content.p, content.len};
		if (vector_column)
			m.embedding = sq_vector(s, st, vector_column, m.dim);
		n++;
		bool more = fn(arg, &m);
		buf_free(&content);
		if (!more) {
			rc = SQLITE_DONE;
			break;
		}
	}
	enum store_rc out = rc != SQLITE_DONE ? sq_fail(s) : n ? STORE_OK : STORE_NOT_FOUND;
	sqlite3_reset(st);
	return out;
}

static enum store_rc get(struct store *s, const struct uuid *id, bool vector, store_visit_fn *fn, void *arg)
{
	sqlite3_stmt *st = sq_get(s, vector ? SQ_GET_VECTOR : SQ_GET);
	if (st)
		sq_bind_uuid(st, 1, id);
	return visit(s, st, vector ? SQ_MEMORY_COLUMNS : 0, fn, arg);
}

struct many {
	store_visit_fn *fn;
	void *arg;
	bool stopped;
};

static bool one_of_many(void *arg, const struct memory *m)
{
	struct many *v = arg;
	v->stopped = !v->fn(v->arg, m);
	return false;
}

/* One by one: no trip to a server is saved, and a reader is in nobody's way for longer than a row. */
static enum store_rc get_many(struct store *s, const struct uuid *ids, size_t n, bool vector, store_visit_fn *fn,
			      void *arg)
{
	struct many v = {fn, arg, false};
	enum store_rc rc = STORE_OK;
	for (size_t i = 0; i < n && rc == STORE_OK && !v.stopped; i++) {
		rc = get(s, &ids[i], vector, one_of_many, &v);
		rc = rc == STORE_NOT_FOUND ? STORE_OK : rc;
	}
	return rc;
}

static enum store_rc by_external(struct store *s, uint64_t ns, struct span id, bool vector, store_visit_fn *fn,
				 void *arg)
{
	sqlite3_stmt *st = sq_get(s, SQ_BY_EXTERNAL);
	if (st) {
		sqlite3_bind_int64(st, 1, (int64_t)ns);
		sq_bind_text(st, 2, id);
	}
	return visit(s, st, vector ? SQ_MEMORY_COLUMNS : 0, fn, arg);
}

static enum store_rc by_content(struct store *s, uint64_t ns, uint64_t key, struct span content, bool vector,
				store_visit_fn *fn, void *arg)
{
	struct store_same_content c = {content, fn, arg, false};
	sqlite3_stmt *st = sq_get(s, SQ_BY_CONTENT);
	if (st) {
		sqlite3_bind_int64(st, 1, (int64_t)key);
		sqlite3_bind_int64(st, 2, (int64_t)ns);
	}
	enum store_rc rc = visit(s, st, vector ? SQ_MEMORY_COLUMNS : 0, store_same_content, &c);
	return rc == STORE_OK && !c.found ? STORE_NOT_FOUND : rc;
}

static enum store_rc idem(struct store *s, uint64_t key, int64_t now_us, struct op_idem *o, struct buf *reply)
{
	sqlite3_stmt *st = sq_get(s, SQ_IDEM_GET);
	if (!st)
		return STORE_ERROR;
	sqlite3_bind_int64(st, 1, (int64_t)key);
	sqlite3_bind_int64(st, 2, now_us);
	int rc = sqlite3_step(st);
	if (rc == SQLITE_ROW) {
		*o = (struct op_idem){.key = key,
				      .ns = (uint64_t)sqlite3_column_int64(st, 0),
				      .body_hash = (uint64_t)sqlite3_column_int64(st, 1),
				      .status = (uint32_t)sqlite3_column_int(st, 2),
				      .expires_us = sqlite3_column_int64(st, 3),
				      .reply_len = (uint32_t)sqlite3_column_bytes(st, 4)};
		buf_add(reply, sqlite3_column_blob(st, 4), o->reply_len);
	}
	enum store_rc out = rc == SQLITE_ROW ? STORE_OK : rc == SQLITE_DONE ? STORE_NOT_FOUND : sq_fail(s);
	sqlite3_reset(st);
	return out;
}

/* ---- lists ---- */

void sq_where(const struct store_list *q, struct buf *sql, struct filter_args *args)
{
	buf_printf(sql, " WHERE m.ns=%lld AND m.deleted_us%s0 AND (m.expires_us=0 OR m.expires_us>%lld)",
		   (long long)q->ns, q->deleted ? "<>" : "=", (long long)q->now_us);
	if (q->filter && !filter_is_empty(q->filter)) {
		buf_adds(sql, " AND ");
		filter_sql(q->filter, sql, args);
	}
	if (q->have_after) {
		buf_printf(sql, " AND m.id%sx'", q->descending ? "<" : ">");
		for (int i = 0; i < 16; i++)
			buf_printf(sql, "%02x", q->after.b[i]);
		buf_addc(sql, '\'');
	}
}

void sq_bind_args(sqlite3_stmt *st, int from, const struct filter_args *a)
{
	for (size_t i = 0; i < a->n; i++) {
		const struct filter_arg *v = &a->v[i];
		int at = from + (int)i;
		switch (v->type) {
		case FARG_TEXT: sqlite3_bind_text(st, at, v->s.p ? v->s.p : "", (int)v->s.len, SQLITE_STATIC); break;
		case FARG_BLOB: sqlite3_bind_blob(st, at, v->s.p, (int)v->s.len, SQLITE_STATIC); break;
		case FARG_INT: sqlite3_bind_int64(st, at, v->i); break;
		case FARG_REAL: sqlite3_bind_double(st, at, v->d); break;
		case FARG_FILTER:
			sqlite3_bind_pointer(st, at, (void *)(uintptr_t)v->filter, FILTER_POINTER, NULL);
			break;
		}
	}
}

static sqlite3_stmt *prepare_list(struct store *s, const struct store_list *q, const char *select, bool ordered,
				  struct filter_args *args)
{
	struct buf sql = {0};
	sqlite3_stmt *st = NULL;
	buf_adds(&sql, select);
	sq_where(q, &sql, args);
	if (ordered)
		buf_printf(&sql, " ORDER BY m.id %s LIMIT %lld", q->descending ? "DESC" : "ASC",
			   q->limit ? (long long)q->limit : -1ll);
	if (sqlite3_prepare_v2(s->db, sql.p, (int)sql.len, &st, NULL) != SQLITE_OK)
		sq_fail(s);
	else
		sq_bind_args(st, 1, args);
	buf_free(&sql);
	return st;
}

static enum store_rc list(struct store *s, const struct store_list *q, store_visit_fn *fn, void *arg)
{
	struct filter_args args = {.v = NULL};
	const char *select =
		q->with_embedding ? "SELECT " SQ_MEMORY
				    ",v.x FROM memories m JOIN namespaces s ON s.ns=m.ns LEFT JOIN vectors v ON v.n=m.n"
				  : "SELECT " SQ_MEMORY " FROM memories m JOIN namespaces s ON s.ns=m.ns";
	sqlite3_stmt *st = prepare_list(s, q, select, true, &args);
	enum store_rc rc = visit(s, st, q->with_embedding ? SQ_MEMORY_COLUMNS : 0, fn, arg);
	sqlite3_finalize(st);
	filter_args_free(&args);
	return rc == STORE_NOT_FOUND ? STORE_OK : rc;
}

static enum store_rc ids(struct store *s, const struct store_list *q, store_visit_fn *fn, void *arg)
{
	struct filter_args args = {.v = NULL};
	sqlite3_stmt *st = prepare_list(s, q, "SELECT m.id,m.version,m.expires_us FROM memories m", true, &args);
	int rc = st ? SQLITE_ROW : SQLITE_ERROR;
	while (st && (rc = sqlite3_step(st)) == SQLITE_ROW) {
		struct memory m = {.ns = q->ns,
				   .version = (uint64_t)sqlite3_column_int64(st, 1),
				   .expires_us = sqlite3_column_int64(st, 2),
				   .id = sq_uuid(st, 0)};
		if (!fn(arg, &m)) {
			rc = SQLITE_DONE;
			break;
		}
	}
	enum store_rc out = rc == SQLITE_DONE ? STORE_OK : sq_fail(s);
	sqlite3_finalize(st);
	filter_args_free(&args);
	return out;
}

static enum store_rc count(struct store *s, const struct store_list *q, uint64_t *n)
{
	struct filter_args args = {.v = NULL};
	sqlite3_stmt *st = prepare_list(s, q, "SELECT count(*) FROM memories m", false, &args);
	int rc = st ? sqlite3_step(st) : SQLITE_ERROR;
	*n = rc == SQLITE_ROW ? (uint64_t)sqlite3_column_int64(st, 0) : 0;
	enum store_rc out = rc == SQLITE_ROW ? STORE_OK : sq_fail(s);
	sqlite3_finalize(st);
	filter_args_free(&args);
	return out;
}

static enum store_rc history(struct store *s, const struct uuid *id, store_visit_fn *fn, void *arg)
{
	sqlite3_stmt *st = sq_get(s, SQ_HISTORY);
	size_t n = 0;
	int rc = SQLITE_ERROR;
	if (!st)
		return STORE_ERROR;
	sq_bind_uuid(st, 1, id);
	while ((rc = sqlite3_step(st)) == SQLITE_ROW) {
		struct memory m = {.id = *id,
				   .version = (uint64_t)sqlite3_column_int64(st, 0),
				   .updated_us = sqlite3_column_int64(st, 1),
				   .deleted_us = sqlite3_column_int64(st, 2),
				   .body = sq_text(st, 3),
				   .ns = (uint64_t)sqlite3_column_int64(st, 4),
				   .ns_name = sq_text(st, 5)};
		n++;
		if (!fn(arg, &m)) {
			rc = SQLITE_DONE;
			break;
		}
	}
	enum store_rc out = rc != SQLITE_DONE ? sq_fail(s) : n ? STORE_OK : STORE_NOT_FOUND;
	sqlite3_reset(st);
	return out;
}

/* ---- the rest ---- */

static enum store_rc collect(struct store *s, int64_t now_us, int64_t trash_before_us, size_t max, store_visit_fn *fn,
			     void *arg)
{
	sqlite3_stmt *st = sq_get(s, SQ_IDEM_COLLECT);
	if (!st)
		return STORE_ERROR;
	sqlite3_bind_int64(st, 1, now_us);
	enum store_rc rc = sq_run(s, st);
	if (rc != STORE_OK || !(st = sq_get(s, SQ_COLLECT)))
		return STORE_ERROR;
	sqlite3_bind_int64(st, 1, now_us);
	sqlite3_bind_int64(st, 2, trash_before_us);
	sqlite3_bind_int64(st, 3, (int64_t)max);
	rc = visit(s, st, 0, fn, arg);
	return rc == STORE_NOT_FOUND ? STORE_OK : rc;
}

static enum store_rc side(struct store *s, enum sq which, const struct uuid *id, uint64_t ns, struct span session,
			  int64_t now_us, int step, struct store_neighbour *out, size_t *n)
{
	sqlite3_stmt *st = sq_get(s, which);
	int rc, distance = 0;
	if (!st)
		return STORE_ERROR;
	sqlite3_bind_int64(st, 1, (int64_t)ns);
	sq_bind_text(st, 2, session);
	sq_bind_uuid(st, 3, id);
	sqlite3_bind_int64(st, 4, now_us);
	while ((rc = sqlite3_step(st)) == SQLITE_ROW && *n < 4) {
		distance += step;
		out[(*n)++] = (struct store_neighbour){sq_uuid(st, 0), distance};
	}
	sqlite3_reset(st);
	return rc == SQLITE_DONE || rc == SQLITE_ROW ? STORE_OK : sq_fail(s);
}

static enum store_rc neighbours(struct store *s, const struct uuid *id, int64_t now_us, struct store_neighbour out[4],
				size_t *n)
{
	sqlite3_stmt *home = sq_get(s, SQ_NEIGHBOUR_HOME);
	enum store_rc rc = STORE_OK;
	*n = 0;
	if (!home)
		return STORE_ERROR;
	sq_bind_uuid(home, 1, id);
	if (sqlite3_step(home) == SQLITE_ROW && sqlite3_column_type(home, 1) != SQLITE_NULL) {
		uint64_t ns = (uint64_t)sqlite3_column_int64(home, 0);
		struct span session = sq_text(home, 1);
		rc = side(s, SQ_NEIGHBOURS_UP, id, ns, session, now_us, 1, out, n);
		if (rc == STORE_OK)
			rc = side(s, SQ_NEIGHBOURS_DOWN, id, ns, session, now_us, -1, out, n);
	}
	sqlite3_reset(home);
	return rc;
}

static enum store_rc namespaces(struct store *s, void (*fn)(void *, const struct store_ns *), void *arg)
{
	sqlite3_stmt *st = sq_get(s, SQ_NS_ALL);
	int rc = SQLITE_ERROR;
	while (st && (rc = sqlite3_step(st)) == SQLITE_ROW) {
		struct store_ns n = {.ns = (uint64_t)sqlite3_column_int64(st, 0),
				     .dim = (uint32_t)sqlite3_column_int(st, 3),
				     .count = (uint64_t)sqlite3_column_int64(st, 4),
				     .bytes = (uint64_t)sqlite3_column_int64(st, 5),
				     .quota_count = (uint64_t)sqlite3_column_int64(st, 6),
				     .quota_bytes = (uint64_t)sqlite3_column_int64(st, 7),
				     .relaxed = (uint32_t)sqlite3_column_int(st, 8),
				     .created_us = sqlite3_column_int64(st, 9),
				     .exists = sqlite3_column_int(st, 10),
				     .language = language_stored(sq_text(st, 11))};
		struct span name = sq_text(st, 1), space = sq_text(st, 2);
		if (name.len < sizeof(n.name) && space.len < sizeof(n.embedder)) {
			memcpy(n.name, name.p ? name.p : "", name.len);
			memcpy(n.embedder, space.p ? space.p : "", space.len);
			fn(arg, &n);
		}
	}
	if (st)
		sqlite3_reset(st);
	return rc == SQLITE_DONE ? STORE_OK : sq_fail(s);
}

static bool visit_indexed(struct store *s, sqlite3_stmt *st, struct buf *content, store_indexed_fn *fn, void *arg)
{
	struct store_indexed x = {.id = sq_uuid(st, 0),
				  .ns = (uint64_t)sqlite3_column_int64(st, 1),
				  .version = (uint64_t)sqlite3_column_int64(st, 2),
				  .expires_us = sqlite3_column_int64(st, 3)};
	uint32_t dim = (uint32_t)sqlite3_column_int(st, 4);
	content->len = 0;
	sq_content(sq_text(st, 6), content);
	x.content = (struct span){content->p, content->len};
	x.x = sq_vector(s, st, 5, dim);
	x.dim = x.x ? dim : 0;
	return fn(arg, &x);
}

static enum store_rc indexed(struct store *s, const struct uuid *after, size_t max, store_indexed_fn *fn, void *arg)
{
	static const struct uuid first;
	sqlite3_stmt *st = sq_get(s, SQ_INDEXED);
	struct buf content = {0};
	int rc;
	if (!st)
		return STORE_ERROR;
	sq_bind_uuid(st, 1, after ? after : &first);
	sqlite3_bind_int64(st, 2, (int64_t)max);
	while ((rc = sqlite3_step(st)) == SQLITE_ROW) {
		if (!visit_indexed(s, st, &content, fn, arg)) {
			rc = SQLITE_DONE;
			break;
		}
	}
	sqlite3_reset(st);
	buf_free(&content);
	return rc == SQLITE_DONE ? STORE_OK : sq_fail(s);
}

static enum store_rc number(struct store *s, enum sq which, uint64_t *out)
{
	sqlite3_stmt *st = sq_get(s, which);
	int rc = st ? sqlite3_step(st) : SQLITE_ERROR;
	*out = rc == SQLITE_ROW ? (uint64_t)sqlite3_column_int64(st, 0) : 0;
	if (st)
		sqlite3_reset(st);
	return rc == SQLITE_ROW ? STORE_OK : sq_fail(s);
}
static enum store_rc indexed_count(struct store *s, uint64_t *n) { return number(s, SQ_INDEXED_COUNT, n); }
static enum store_rc cursor(struct store *s, uint64_t *seq) { return number(s, SQ_CURSOR_GET, seq); }

static enum store_rc scrub_due(struct store *s, uint64_t *seq) { return number(s, SQ_SCRUB_GET, seq); }

static enum store_rc recent(struct store *s, const struct uuid *after, size_t max, store_visit_fn *fn, void *arg)
{
	sqlite3_stmt *st = sq_get(s, SQ_RECENT);
	if (st && after)
		sq_bind_uuid(st, 1, after);
	else if (st)
		sqlite3_bind_null(st, 1);
	if (st)
		sqlite3_bind_int64(st, 2, (int64_t)max);
	enum store_rc rc = visit(s, st, 0, fn, arg);
	return rc == STORE_NOT_FOUND ? STORE_OK : rc;
}

const struct store_ops sqlite_store = {
	.kind = "sqlite",
	.open = sq_open,
	.probe = sq_probe,
	.close = sq_close,
	.error = sq_error,
	.begin = sq_begin,
	.apply = sq_apply,
	.commit = sq_commit,
	.rollback = sq_rollback,
	.cursor = cursor,
	.scrub_due = scrub_due,
	.scrub = sq_scrub,
	.collect = collect,
	.get = get,
	.get_many = get_many,
	.by_external = by_external,
	.by_content = by_content,
	.idem = idem,
	.list = list,
	.ids = ids,
	.count = count,
	.history = history,
	.text = sq_text_search,
	.neighbours = neighbours,
	.namespaces = namespaces,
	.indexed = indexed,
	.indexed_count = indexed_count,
	.recent = recent,
	.nearest = sq_nearest,
	.revision = sq_revision,
	.changes = sq_changes,
	.prune = sq_prune,
};
