/* The tree of a filter as SQL, and its conditions for SQLite (sql_postgres.c: for PostgreSQL) over alias m. Every
 * expression is true or false, never NULL, so that NOT means the same as in match.c. */
#include <sqlite3.h>
#include <stdlib.h>

#include "filter-private.h"

void filter_arg_add(struct filter_args *a, struct filter_arg v)
{
	if (a->n == a->cap) {
		a->cap = a->cap ? a->cap * 2 : 16;
		a->v = util_realloc(a->v, a->cap * sizeof(*a->v));
	}
	a->v[a->n++] = v;
}

void filter_args_free(struct filter_args *a)
{
	for (size_t i = 0; i < a->n; i++)
		free(a->v[i].own);
	free(a->v);
	*a = (struct filter_args){.v = NULL};
}

static void bind_value(struct filter_args *a, const struct fvalue *v, bool blob)
{
	switch (v->type) {
	case FV_TEXT:
		filter_arg_add(a, (struct filter_arg){.type = blob ? FARG_BLOB : FARG_TEXT, .s = {v->s, v->len}});
		break;
	case FV_REAL: filter_arg_add(a, (struct filter_arg){.type = FARG_REAL, .d = v->d}); break;
	default: filter_arg_add(a, (struct filter_arg){.type = FARG_INT, .i = v->i});
	}
}

const char *filter_comparison(enum fop op)
{
	return op == F_GT ? ">" : op == F_GTE ? ">=" : op == F_LT ? "<" : op == F_LTE ? "<=" : "=";
}

static void column_sql(const struct filter *f, struct buf *sql, struct filter_args *args)
{
	const struct fcolumn *c = f->column;
	const char *has = c->kind == FF_TEXT ? "IS NOT NULL" : c->kind == FF_TIME ? "<>0" : NULL;
	bool negative = f->op == F_NE || f->op == F_NIN;
	if (f->op == F_EXISTS) {
		if (has)
			buf_printf(sql, f->v[0].i ? "(m.%s %s)" : "(NOT m.%s %s)", c->sql, has);
		else
			buf_adds(sql, f->v[0].i ? "1" : "0");
		return;
	}
	/* No ifnull() around it: the planner must see m.user_id=? to use an index. What can be NULL is
	 * guarded by IS NOT NULL, and 0 AND NULL is 0. IN, not a chain of OR: SQLite's depth of expressions is limited. */
	buf_adds(sql, negative ? "(NOT (" : "(");
	if (has)
		buf_printf(sql, "m.%s %s AND ", c->sql, has);
	if (c->kind == FF_BOOL)
		buf_printf(sql, "(m.flags&%d<>0)", MEMORY_PINNED);
	else
		buf_printf(sql, "m.%s", c->sql);
	buf_adds(sql, f->nv > 1 ? " IN (" : filter_comparison(f->op));
	for (size_t i = 0; i < f->nv; i++) {
		buf_adds(sql, i ? ",?" : "?");
		bind_value(args, &f->v[i], c->kind == FF_UUID);
	}
	buf_adds(sql, f->nv > 1 ? ")" : "");
	buf_adds(sql, negative ? "))" : ")");
}

/* The same code as for a memory in hand, so that no other reading of JSON comes in between. */
static void meta_function(sqlite3_context *c, int n, sqlite3_value **v)
{
	const struct filter *f = sqlite3_value_pointer(v[1], FILTER_POINTER);
	const char *p = (const char *)sqlite3_value_text(v[0]);
	struct span body = {p, p ? (size_t)sqlite3_value_bytes(v[0]) : 0};
	(void)n;
	sqlite3_result_int(c, f && filter_meta(f, filter_metadata(body)));
}

bool filter_sql_install(sqlite3 *db)
{
	return sqlite3_create_function(db, "orc_meta", 2, SQLITE_UTF8 | SQLITE_DETERMINISTIC | SQLITE_DIRECTONLY, NULL,
				       meta_function, NULL, NULL) == SQLITE_OK;
}

static void condition(const struct filter *f, bool under_not, struct filter_writing *w)
{
	(void)under_not;
	if (f->column) {
		column_sql(f, w->sql, w->args);
		return;
	}
	buf_adds(w->sql, "orc_meta(m.body,?)");
	filter_arg_add(w->args, (struct filter_arg){.type = FARG_FILTER, .filter = f});
}

/* ---- and, or, not ---- */

void filter_write(const struct filter *f, const struct filter_dialect *d, bool under_not, struct filter_writing *w)
{
	switch (f->op) {
	case F_AND:
	case F_OR:
		if (!f->nkids) {
			buf_adds(w->sql, f->op == F_AND ? d->yes : d->no);
			return;
		}
		for (size_t i = 0; i < f->nkids; i++) {
			buf_adds(w->sql, !i ? "(" : f->op == F_AND ? " AND " : " OR ");
			filter_write(f->kid[i], d, under_not, w);
		}
		buf_addc(w->sql, ')');
		return;
	case F_NOT:
		buf_adds(w->sql, "(NOT ");
		filter_write(f->kid[0], d, !under_not, w);
		buf_addc(w->sql, ')');
		return;
	default: d->condition(f, under_not, w);
	}
}

void filter_sql(const struct filter *f, struct buf *sql, struct filter_args *args)
{
	static const struct filter_dialect sqlite = {"1", "0", condition};
	filter_write(f, &sqlite, false, &(struct filter_writing){.sql = sql, .args = args});
}
