/* What the daemon's housekeeping reads: what has expired by the server's clock, and the namespaces. */
#include <stdlib.h>

#include "postgres-private.h"

#define NAMESPACES_PAGE 1000
#define SWEEP_MAX 10000 /* rows a statement, so that none takes long */
#define AGE_MAX_US (100ll * 365 * 86400 * 1000000)

static enum store_rc sweep(struct store *s, enum pg_stmt which)
{
	struct pg_params p = {.n = 0};
	PGresult *res;
	pg_param_int4(&p, SWEEP_MAX);
	enum store_rc rc = pg_call(s, which, &p, &res);
	pg_params_free(&p);
	if (rc == STORE_OK)
		pq.clear(res);
	return rc;
}

enum store_rc pg_collect(struct store *s, int64_t now_us, int64_t trash_before_us, size_t max, store_visit_fn *fn,
			 void *arg)
{
	struct pg_params p = {.n = 0};
	struct pg_visit v = {.limit = max, .fn = fn, .arg = arg};
	PGresult *res;
	int64_t age = now_us - trash_before_us;
	enum store_rc rc = sweep(s, PG_IDEM_COLLECT);
	if (rc == STORE_OK)
		rc = sweep(s, PG_MARKS_COLLECT);
	if (rc != STORE_OK)
		return rc;
	pg_param_int4(&p, max < INT32_MAX ? (int32_t)max : INT32_MAX);
	pg_param_double(&p, (double)(age < 0 ? 0 : age > AGE_MAX_US ? AGE_MAX_US : age));
	rc = pg_call(s, PG_COLLECT, &p, &res);
	pg_params_free(&p);
	if (rc == STORE_OK) {
		pg_visit_rows(s, &v, res);
		pq.clear(res);
	}
	return rc;
}

/* ---- namespaces ---- */

static void namespace_row(const PGresult *res, int i, void (*fn)(void *, const struct store_ns *), void *arg)
{
	struct span name = pg_text(res, i, 0), space = pg_text(res, i, 1);
	struct store_ns n = {.ns = record_ns(name),
			     .dim = (uint32_t)pg_int(res, i, 2),
			     .count = (uint64_t)pg_int(res, i, 3),
			     .bytes = (uint64_t)pg_int(res, i, 4),
			     .quota_count = (uint64_t)pg_int(res, i, 5),
			     .quota_bytes = (uint64_t)pg_int(res, i, 6),
			     .relaxed = pg_bool(res, i, 7),
			     .created_us = pg_time(res, i, 8),
			     .exists = pg_bool(res, i, 9),
			     .language = language_stored(pg_text(res, i, 10))};
	if (name.len >= sizeof(n.name) || space.len >= sizeof(n.embedder))
		return;
	memcpy(n.name, name.p ? name.p : "", name.len);
	memcpy(n.embedder, space.p ? space.p : "", space.len);
	fn(arg, &n);
}

enum store_rc pg_collect_namespaces(struct store *s, void (*fn)(void *, const struct store_ns *), void *arg)
{
	struct buf last = {NULL, 0, 0};
	enum store_rc rc = STORE_OK;
	for (bool more = true; more && rc == STORE_OK;) {
		struct pg_params p = {.n = 0};
		PGresult *res;
		pg_param_text(&p, (struct span){last.p, last.len});
		pg_param_int4(&p, NAMESPACES_PAGE);
		rc = pg_call(s, PG_NAMESPACES, &p, &res);
		pg_params_free(&p);
		if (rc != STORE_OK)
			break;
		int n = pq.ntuples(res);
		more = n == NAMESPACES_PAGE;
		for (int i = 0; i < n; i++)
			namespace_row(res, i, fn, arg);
		if (n) {
			struct span end = pg_text(res, n - 1, 0);
			last.len = 0;
			buf_add(&last, end.p, end.len);
		}
		pq.clear(res);
	}
	buf_free(&last);
	return rc;
}
