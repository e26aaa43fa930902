/* The filter as a SQLite expression over alias m. Every expression is 0 or 1, never NULL, so that NOT
 * means the same as in match.c. */
#include <sqlite3.h>
#include <stdlib.h>

#include "filter-private.h"

static void arg(struct filter_args *a, struct filter_arg v)
{
	if (a->n == a->cap) {
		a->cap = a->cap ? a->cap * 2 : 16;
		a->v = util_realloc(a->v, a->cap * sizeof(*a->v));
	}
	a->v[a->n++] = v;
}

void filter_args_free(struct filter_args *a)
{
	free(a->v);
	*a = (struct filter_args){.v = NULL};
}

static void bind_value(struct filter_args *a, const struct fvalue *v, bool blob)
{
	switch (v->type) {
	case FV_TEXT: arg(a, (struct filter_arg){.type = blob ? FARG_BLOB : FARG_TEXT, .s = {v->s, v->len}}); break;
	case FV_REAL: arg(a, (struct filter_arg){.type = FARG_REAL, .d = v->d}); break;
	default: arg(a, (struct filter_arg){.type = FARG_INT, .i = v->i});
	}
}

static const char *cmp(enum fop op)
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
	buf_adds(sql, f->nv > 1 ? " IN (" : cmp(f->op));
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

void filter_sql(const struct filter *f, struct buf *sql, struct filter_args *args)
{
	switch (f->op) {
	case F_AND:
	case F_OR:
		if (!f->nkids) {
			buf_adds(sql, f->op == F_AND ? "1" : "0");
			return;
		}
		for (size_t i = 0; i < f->nkids; i++) {
			buf_adds(sql, !i ? "(" : f->op == F_AND ? " AND " : " OR ");
			filter_sql(f->kid[i], sql, args);
		}
		buf_addc(sql, ')');
		return;
	case F_NOT:
		buf_adds(sql, "(NOT ");
		filter_sql(f->kid[0], sql, args);
		buf_addc(sql, ')');
		return;
	default:
		if (f->column) {
			column_sql(f, sql, args);
		} else {
			buf_adds(sql, "orc_meta(m.body,?)");
			arg(args, (struct filter_arg){.type = FARG_FILTER, .filter = f});
		}
	}
}
