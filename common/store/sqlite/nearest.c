/* Vectors that the index does not hold: an exact scan of those of a namespace. */
#include "sqlite-private.h"
#include "store/hits.h"

static sqlite3_stmt *prepare(struct store *s, const struct store_nearest *q, struct filter_args *args)
{
	struct store_list rows = {.ns = q->ns, .filter = q->filter, .now_us = q->now_us};
	struct buf sql = {0};
	sqlite3_stmt *st = NULL;
	buf_adds(&sql, "SELECT m.id,m.version,v.x FROM memories m JOIN vectors v ON v.n=m.n");
	sq_where(&rows, &sql, args);
	buf_printf(&sql, " AND (m.flags&%d)=0 AND v.dim=%u", MEMORY_SUPERSEDED, q->dim);
	if (sqlite3_prepare_v2(s->db, sql.p, (int)sql.len, &st, NULL) != SQLITE_OK)
		sq_fail(s);
	else
		sq_bind_args(st, 1, args);
	buf_free(&sql);
	return st;
}

enum store_rc sq_nearest(struct store *s, const struct store_nearest *q, struct store_text_hit *out, size_t *n_r)
{
	struct filter_args args = {.v = NULL};
	struct hits_cosine c;
	*n_r = 0;
	hits_cosine_start(&c, q, out);
	sqlite3_stmt *st = prepare(s, q, &args);
	int rc = SQLITE_ERROR;
	while (st && (rc = sqlite3_step(st)) == SQLITE_ROW) {
		struct uuid id = sq_uuid(st, 0);
		const float *x = q->hidden && q->hidden(q->hidden_arg, &id) ? NULL : sq_vector(s, st, 2, q->dim);
		if (x)
			hits_cosine_offer(&c, &id, (uint64_t)sqlite3_column_int64(st, 1), x);
	}
	enum store_rc r = rc == SQLITE_DONE ? STORE_OK : sq_fail(s);
	sqlite3_finalize(st);
	filter_args_free(&args);
	*n_r = c.top.n;
	return r;
}
