/* The readers' side: lists, page by page by key, so that a list of any length needs the memory of one page; and
 * what is walked through as a whole. */
#include <stdio.h>
#include <stdlib.h>

#include "postgres-private.h"

#define FIRST_PAGE 64		     /* rows, before their size is known */
#define ROWS_PAGE 256		     /* rows with their bodies, at most */
#define IDS_PAGE 4096		     /* rows without */
#define PAGE_BYTES ((size_t)4 << 20) /* what a page of rows should come to */

bool pg_filter(const struct filter *f, struct buf *sql, struct pg_params *p)
{
	struct filter_args args = {.v = NULL};
	if (!f || filter_is_empty(f))
		return true;
	buf_adds(sql, " AND ");
	bool exact = filter_postgres(f, (unsigned)p->n + 1, sql, &args);
	struct span *text = util_alloc((args.n + 1) * sizeof(*text));
	for (size_t i = 0; i < args.n; i++)
		text[i] = args.v[i].s;
	if (args.n)
		pg_param_texts(p, text, args.n);
	free(text);
	filter_args_free(&args);
	return exact;
}

/* ---- lists ---- */

struct page {
	const struct store_list *q;
	struct span ns_name;
	bool have_after;
	struct uuid after;
};

/* " FROM … WHERE …", and the parameters. False: filter_match() must look at the rows. */
static bool from_where(const struct page *g, struct buf *sql, struct pg_params *p)
{
	const struct store_list *q = g->q;
	pg_param_text(p, g->ns_name);
	pg_param_time(p, q->now_us);
	buf_printf(sql,
		   " FROM %s m WHERE m.namespace=$1::text AND (m.expires_at IS NULL OR m.expires_at>$2::timestamptz)",
		   q->deleted ? "memory_trash" : "memories");
	if (q->deleted)
		buf_adds(sql, " AND m.how=0");
	if (g->have_after) {
		pg_param_uuid(p, &g->after);
		buf_printf(sql, " AND m.id%s$3::uuid", q->descending ? "<" : ">");
	}
	return pg_filter(q->filter, sql, p);
}

static enum store_rc call(struct store *s, struct buf *sql, struct pg_params *p, PGresult **res_r)
{
	buf_addc(sql, 0);
	enum store_rc rc = pg_call_text(s, sql->p, p, res_r);
	pg_params_free(p);
	buf_free(sql);
	return rc;
}

/* One page of at most `rows`; with the filter's check set up in *v when SQL could not say it. */
static enum store_rc fetch(struct store *s, const struct page *g, bool ids, size_t rows, struct pg_visit *v,
			   PGresult **res_r)
{
	struct buf tail = {NULL, 0, 0}, sql = {NULL, 0, 0};
	struct pg_params p = {.n = 0};
	const struct store_list *q = g->q;
	bool exact = from_where(g, &tail, &p);
	v->check = exact ? NULL : q->filter;
	if (exact && v->limit && v->limit - v->n < rows)
		rows = v->limit - v->n;
	buf_adds(&sql, ids && exact  ? "SELECT m.id,m.version,m.expires_at"
		       : !q->deleted ? "SELECT " PG_LIVE
				     : "SELECT " PG_DEAD);
	buf_adds(&sql, q->with_embedding && !(ids && exact) ? ",m.embedding" : "");
	buf_add(&sql, tail.p, tail.len);
	buf_printf(&sql, " ORDER BY m.id%s LIMIT %zu", q->descending ? " DESC" : "", rows);
	buf_free(&tail);
	return call(s, &sql, &p, res_r);
}

static void visit_ids(const struct store_list *q, struct pg_visit *v, const PGresult *res)
{
	for (int i = 0; i < pq.ntuples(res) && !v->stopped; i++) {
		struct memory m = {.ns = q->ns,
				   .version = (uint64_t)pg_int(res, i, 1),
				   .expires_us = pg_time(res, i, 2),
				   .id = pg_uuid(res, i, 0)};
		v->n++;
		v->stopped = !v->fn(v->arg, &m) || v->n == v->limit;
	}
}

/* So many rows that a page of them has about PAGE_BYTES. */
static size_t next_page(size_t bytes, size_t rows)
{
	size_t each = bytes / rows + 1, n = PAGE_BYTES / each;
	return n < 1 ? 1 : n > ROWS_PAGE ? ROWS_PAGE : n;
}

static enum store_rc walk(struct store *s, const struct store_list *q, bool ids, struct pg_visit *v)
{
	struct page g = {.q = q, .have_after = q->have_after, .after = q->after};
	size_t rows = ids ? IDS_PAGE : FIRST_PAGE;
	enum store_rc rc = pg_namespace(s, q->ns, &g.ns_name);
	for (bool more = g.ns_name.len > 0; rc == STORE_OK && more && !v->stopped;) {
		PGresult *res;
		rc = fetch(s, &g, ids, rows, v, &res);
		if (rc != STORE_OK)
			break;
		int n = pq.ntuples(res);
		bool narrow = pq.nfields(res) < PG_MEMORY_COLUMNS;
		if (narrow)
			visit_ids(q, v, res);
		else
			pg_visit_rows(s, v, res);
		more = n > 0 && (size_t)n >= rows; /* a page cut to the limit ends the walk by the limit */
		if (n) {
			g.have_after = true;
			g.after = pg_uuid(res, n - 1, 0);
			if (!narrow)
				rows = next_page(v->bytes, (size_t)n);
		}
		pq.clear(res);
	}
	return rc;
}

enum store_rc pg_list_rows(struct store *s, const struct store_list *q, store_visit_fn *fn, void *arg)
{
	return walk(s, q, false, &(struct pg_visit){.limit = q->limit, .fn = fn, .arg = arg});
}

enum store_rc pg_list_ids(struct store *s, const struct store_list *q, store_visit_fn *fn, void *arg)
{
	return walk(s, q, true, &(struct pg_visit){.limit = q->limit, .fn = fn, .arg = arg});
}

static bool count_one(void *arg, const struct memory *m)
{
	(void)m;
	++*(uint64_t *)arg;
	return true;
}

enum store_rc pg_list_count(struct store *s, const struct store_list *q, uint64_t *n)
{
	struct page g = {.q = q, .have_after = q->have_after, .after = q->after};
	struct buf sql = {NULL, 0, 0};
	struct pg_params p = {.n = 0};
	PGresult *res;
	*n = 0;
	enum store_rc rc = pg_namespace(s, q->ns, &g.ns_name);
	if (rc != STORE_OK || !g.ns_name.len)
		return rc;
	buf_adds(&sql, "SELECT count(*)");
	if (!from_where(&g, &sql, &p)) {
		struct store_list all = *q;
		all.limit = 0;
		all.with_embedding = false;
		pg_params_free(&p);
		buf_free(&sql);
		return pg_list_ids(s, &all, count_one, n);
	}
	rc = call(s, &sql, &p, &res);
	if (rc == STORE_OK) {
		*n = (uint64_t)pg_int(res, 0, 0);
		pq.clear(res);
	}
	return rc;
}

/* ---- everything: by the connection for what may take its time, so not prepared ---- */

static enum store_rc page_after(struct store *s, enum pg_stmt which, const struct uuid *after, size_t rows,
				PGresult **res_r)
{
	struct pg_params p = {.n = 0};
	pg_param_uuid(&p, after);
	pg_param_int4(&p, (int32_t)rows);
	enum store_rc rc = pg_call_text(s, pg_statement(which), &p, res_r);
	pg_params_free(&p);
	return rc;
}

/* False: stop. */
static bool visit_indexed(const struct store *s, const PGresult *res, int row, struct buf *x, store_indexed_fn *fn,
			  void *arg)
{
	struct store_indexed m = {.id = pg_uuid(res, row, 0),
				  .ns = record_ns(pg_text(res, row, 1)),
				  .version = (uint64_t)pg_int(res, row, 2),
				  .expires_us = pg_time(res, row, 3),
				  .content = pg_text(res, row, 5)};
	size_t len = pg_text(res, row, 4).len;
	x->len = 0;
	buf_reserve(x, len + sizeof(float));
	float *v = (float *)(void *)x->p;
	m.dim = len ? pg_embedding(res, row, 4, &s->schema, v, (uint32_t)(len / sizeof(float))) : 0;
	m.x = m.dim ? v : NULL;
	return fn(arg, &m);
}

enum store_rc pg_list_indexed(struct store *s, const struct uuid *after, size_t max, store_indexed_fn *fn, void *arg)
{
	struct uuid last = {{0}};
	struct buf x = {NULL, 0, 0};
	enum store_rc rc = STORE_OK;
	if (after)
		last = *after;
	for (bool more = true; more && max && rc == STORE_OK;) {
		PGresult *res;
		size_t rows = max < ROWS_PAGE ? max : ROWS_PAGE;
		rc = page_after(s, PG_INDEXED, &last, rows, &res);
		if (rc != STORE_OK)
			break;
		size_t n = (size_t)pq.ntuples(res);
		more = n == rows;
		max -= rows;
		for (size_t i = 0; i < n; i++)
			if (!visit_indexed(s, res, (int)i, &x, fn, arg)) {
				more = false;
				break;
			}
		if (n)
			last = pg_uuid(res, (int)n - 1, 0);
		pq.clear(res);
	}
	buf_free(&x);
	return rc;
}

enum store_rc pg_list_indexed_count(struct store *s, uint64_t *n)
{
	PGresult *res;
	*n = 0;
	enum store_rc rc = pg_call_text(s, pg_statement(PG_INDEXED_COUNT), NULL, &res);
	if (rc == STORE_OK) {
		*n = (uint64_t)pg_int(res, 0, 0);
		pq.clear(res);
	}
	return rc;
}

/* Ids ascend with time, so the last ones are what was made last. */
enum store_rc pg_list_recent(struct store *s, const struct uuid *after, size_t max, store_visit_fn *fn, void *arg)
{
	struct pg_visit v = {.limit = max, .fn = fn, .arg = arg};
	struct uuid last;
	enum store_rc rc = STORE_OK;
	size_t rows = FIRST_PAGE;
	memset(&last, 0xff, sizeof(last));
	if (after)
		last = *after;
	for (bool more = max > 0; more && !v.stopped && rc == STORE_OK;) {
		PGresult *res;
		if (max - v.n < rows)
			rows = max - v.n;
		rc = page_after(s, PG_RECENT, &last, rows, &res);
		if (rc != STORE_OK)
			break;
		size_t n = (size_t)pq.ntuples(res);
		more = n == rows;
		pg_visit_rows(s, &v, res);
		if (n) {
			last = pg_uuid(res, (int)n - 1, 0);
			rows = next_page(v.bytes, n);
		}
		pq.clear(res);
	}
	return rc;
}
