/* Vectors that the index does not hold. With pgvector the server ranks them, by its own index where there is one
 * (`orchestractl migrate index`), else exactly; without, they are read page by page and compared here. */
#include <stdlib.h>

#include "measure.h"
#include "postgres-private.h"
#include "store/hits.h"

#define PAGE_BYTES ((size_t)4 << 20)
#define ROWS_LAST 20000 /* asked for at once, when many do not count */

struct near {
	struct store *s;
	const struct store_nearest *q;
	struct span ns;
	struct hits_cosine c;
	bool exact; /* SQL has said all of the filter */
};

/* " FROM … WHERE …" and the parameters $1, $2 and perhaps $3. The flag is asked for with <>, which the planner takes to be true of
 * nearly all rows; with =0 it would expect one row in two hundred, and hold no index of vectors for worth its while. */
static void from_where(struct near *n, struct buf *sql, struct pg_params *p)
{
	pg_param_text(p, n->ns);
	pg_param_time(p, n->q->now_us);
	buf_printf(sql,
		   " FROM memories m WHERE m.namespace=$1::text AND m.dim=%u"
		   " AND (m.expires_at IS NULL OR m.expires_at>$2::timestamptz) AND m.flags&%d<>%d",
		   n->q->dim, MEMORY_SUPERSEDED, MEMORY_SUPERSEDED);
	n->exact = pg_filter(n->q->filter, sql, p);
}

/* Does the row count? What was selected behind id and version stands in *column_r. */
static bool counts(const struct near *n, const PGresult *res, int row, struct uuid *id_r, uint64_t *version_r,
		   int *column_r)
{
	struct memory m;
	*id_r = pg_uuid(res, row, 0);
	*version_r = (uint64_t)pg_int(res, row, n->exact ? 1 : 2);
	*column_r = n->exact ? 2 : PG_MEMORY_COLUMNS;
	if (n->q->hidden && n->q->hidden(n->q->hidden_arg, id_r))
		return false;
	if (n->exact)
		return true;
	pg_memory(res, row, &m);
	return filter_match(n->q->filter, &m);
}

static enum store_rc call(struct near *n, struct buf *sql, struct pg_params *p, PGresult **res_r)
{
	buf_addc(sql, 0);
	enum store_rc rc = pg_call_text(n->s, sql->p, p, res_r);
	pg_params_free(p);
	buf_free(sql);
	return rc;
}

static void took(const struct near *n, size_t rows, bool whole)
{
	struct store_nearest_cost *c = n->q->cost_r;
	if (!c)
		return;
	c->statements++;
	c->rows += rows;
	c->whole |= whole;
}

/* ---- with pgvector ---- */

/* An index is searched on until the filter and the namespace have been satisfied (pgvector 0.8), and widely enough. Once a
 * session, and when it is to be searched otherwise; what an older pgvector does not know stays undone. */
static void tune(struct store *s, const struct store_effort *e)
{
	PGresult *res;
	char sql[640];
	struct pg_link_setting setting;
	if (pg_link_is_set(s->scan, (uint64_t)e->ef_search << 32 | e->probes, &setting))
		return;
	snprintf(sql, sizeof(sql),
		 "SELECT CASE WHEN %u>0 THEN set_config('hnsw.ef_search','%u',false) END,"
		 "CASE WHEN %u>0 THEN set_config('ivfflat.probes','%u',false) END,"
		 "CASE WHEN iterates THEN set_config('hnsw.iterative_scan','relaxed_order',false) END,"
		 "CASE WHEN iterates THEN set_config('ivfflat.iterative_scan','relaxed_order',false) END"
		 " FROM (SELECT string_to_array(extversion,'.')::int[]>='{0,8}' AS iterates FROM pg_extension"
		 " WHERE extname='vector') e",
		 e->ef_search, e->ef_search, e->probes, e->probes);
	if (pg_call_text(s, sql, NULL, &res) != STORE_OK)
		return;
	pq.clear(res);
	pg_link_set(s->scan, &setting);
}

/* The expression that an index is made of; with whole, one that no index is made of. */
static void write_query(struct near *n, size_t rows, bool whole, struct buf *sql, struct pg_params *p)
{
	const struct store_nearest *q = n->q;
	const char *in = n->s->schema.vector_in;
	struct buf tail = {NULL, 0, 0};
	from_where(n, &tail, p);
	pg_param_embedding(p, &n->s->schema, q->dim, q->x);
	buf_printf(sql, "SELECT %s,(m.embedding::%s.vector(%u)) OPERATOR(%s.<=>) $%d::%s.vector",
		   n->exact ? "m.id,m.version" : PG_MEMORY, in, q->dim, in, p->n, in);
	buf_add(sql, tail.p, tail.len);
	buf_printf(sql, " ORDER BY ((m.embedding::%s.vector(%u)) OPERATOR(%s.<=>) $%d::%s.vector)%s LIMIT %zu", in,
		   q->dim, in, p->n, in, whole ? "+0" : "", rows);
	buf_free(&tail);
}

static enum store_rc ask_server(struct near *n, size_t rows, bool whole, size_t *came_r)
{
	struct buf sql = {NULL, 0, 0};
	struct pg_params p = {.n = 0};
	PGresult *res;
	write_query(n, rows, whole, &sql, &p);
	enum store_rc rc = call(n, &sql, &p, &res);
	if (rc != STORE_OK)
		return rc;
	n->c.top.n = 0;
	for (int i = 0; i < pq.ntuples(res); i++) {
		struct store_text_hit h;
		int column;
		if (!counts(n, res, i, &h.id, &h.version, &column))
			continue;
		double distance = pg_real(res, i, column);
		h.score = distance >= 0 && distance <= 2 ? 1 - distance : 0; /* NaN: of a vector without direction */
		hits_offer(&n->c.top, &h);
	}
	*came_r = (size_t)pq.ntuples(res);
	took(n, *came_r, whole);
	pq.clear(res);
	return STORE_OK;
}

/* An index that goes on searching has no order any more: more rows than are wanted. */
static size_t first_rows(const struct store_nearest *q) { return 2 * q->limit; }

static enum store_rc by_server(struct near *n)
{
	size_t rows = first_rows(n->q), came;
	enum store_rc rc;
	bool whole = n->q->exact;
	tune(n->s, &n->q->effort);
	while ((rc = ask_server(n, rows, whole, &came)) == STORE_OK) {
		if (came < rows && !whole)
			whole = true; /* an index may have given up */
		else if (came < rows || n->c.top.n == n->q->limit || rows >= ROWS_LAST)
			break;
		else
			rows *= 4;
	}
	return rc;
}

/* ---- without ---- */

static enum store_rc by_pages(struct near *n)
{
	size_t rows = PAGE_BYTES / (n->q->dim * sizeof(float)) + 1;
	struct uuid after = {{0}};
	float *x = util_alloc(n->q->dim * sizeof(*x));
	enum store_rc rc = STORE_OK;
	for (bool more = true; more && rc == STORE_OK;) {
		struct buf sql = {NULL, 0, 0}, tail = {NULL, 0, 0};
		struct pg_params p = {.n = 0};
		PGresult *res;
		from_where(n, &tail, &p);
		pg_param_uuid(&p, &after);
		buf_printf(&sql, "SELECT %s,m.embedding", n->exact ? "m.id,m.version" : PG_MEMORY);
		buf_add(&sql, tail.p, tail.len);
		buf_printf(&sql, " AND m.id>$%d::uuid ORDER BY m.id LIMIT %zu", p.n, rows);
		buf_free(&tail);
		rc = call(n, &sql, &p, &res);
		if (rc != STORE_OK)
			break;
		int got = pq.ntuples(res);
		for (int i = 0; i < got; i++) {
			struct uuid id;
			uint64_t version;
			int column;
			if (counts(n, res, i, &id, &version, &column) &&
			    pg_embedding(res, i, column, &n->s->schema, x, n->q->dim) == n->q->dim)
				hits_cosine_offer(&n->c, &id, version, x);
		}
		more = (size_t)got == rows;
		if (more)
			after = pg_uuid(res, got - 1, 0);
		took(n, (size_t)got, true);
		pq.clear(res);
	}
	free(x);
	return rc;
}

enum store_rc pg_nearest(struct store *s, const struct store_nearest *q, struct store_text_hit *out, size_t *n_r)
{
	struct near n = {.s = s, .q = q};
	*n_r = 0;
	if (q->cost_r)
		*q->cost_r = (struct store_nearest_cost){0};
	hits_cosine_start(&n.c, q, out);
	enum store_rc rc = pg_namespace(s, q->ns, &n.ns);
	if (rc == STORE_OK && n.ns.len && q->limit)
		rc = s->schema.vector ? by_server(&n) : by_pages(&n);
	*n_r = rc == STORE_OK ? n.c.top.n : 0;
	return rc;
}

enum store_rc pg_nearest_plan(struct store *s, const struct store_nearest *q, bool *indexed_r)
{
	struct near n = {.s = s, .q = q};
	struct buf sql = {NULL, 0, 0};
	struct pg_params p = {.n = 0};
	PGresult *res;
	*indexed_r = false;
	enum store_rc rc = pg_namespace(s, q->ns, &n.ns);
	if (rc != STORE_OK || !n.ns.len || !s->schema.vector)
		return rc;
	tune(s, &q->effort);
	buf_adds(&sql, "EXPLAIN ");
	write_query(&n, first_rows(q), false, &sql, &p);
	if ((rc = call(&n, &sql, &p, &res)) != STORE_OK)
		return rc;
	for (int i = 0; i < pq.ntuples(res); i++) {
		struct span line = pg_text(res, i, 0); /* "Order By:" is what an index does; a sort has a "Sort Key:" */
		*indexed_r |= memmem(line.p, line.len, "Order By:", 9) != NULL;
	}
	pq.clear(res);
	return STORE_OK;
}
