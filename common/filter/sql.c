/* The filter as a SQLite expression over alias m. Every expression is 0 or 1, never NULL, so that NOT
 * means the same as in match.c. */
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
	for (size_t i = 0; i < a->n; i++)
		if (a->v[i].owned)
			free((char *)(uintptr_t)a->v[i].s.p);
	free(a->v);
	*a = (struct filter_args){.v = NULL};
}

static void bind_value(struct filter_args *a, const struct fvalue *v, bool blob)
{
	switch (v->type) {
	case FV_TEXT:
		arg(a, (struct filter_arg){.type = blob ? FARG_BLOB : FARG_TEXT, .s = {v->s, v->len}});
		break;
	case FV_REAL:
		arg(a, (struct filter_arg){.type = FARG_REAL, .d = v->d});
		break;
	default:
		arg(a, (struct filter_arg){.type = FARG_INT, .i = v->i});
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
	 * guarded by IS NOT NULL, and 0 AND NULL is 0. */
	buf_adds(sql, negative ? "(NOT " : "");
	for (size_t i = 0; i < f->nv; i++) {
		buf_adds(sql, i ? " OR " : "(");
		if (has)
			buf_printf(sql, "m.%s %s AND ", c->sql, has);
		if (c->kind == FF_BOOL)
			buf_printf(sql, "(m.flags&%d<>0)=?", MEMORY_PINNED);
		else
			buf_printf(sql, "m.%s%s?", c->sql, cmp(f->op));
		bind_value(args, &f->v[i], c->kind == FF_UUID);
	}
	buf_adds(sql, negative ? "))" : ")");
}

/* SQLite compares a path's keys with the JSON text as it stands, so escapes are written as jansson writes them. */
static void add_key(struct buf *b, const char *p)
{
	static const char letters[] = "btn\0fr"; /* U+0008 to U+000D */
	buf_adds(b, ".\"");
	for (; *p; p++) {
		unsigned char c = (unsigned char)*p;
		if (c == '\\')
			buf_adds(b, "\\\\");
		else if (c >= 8 && c <= 13 && letters[c - 8])
			buf_printf(b, "\\%c", letters[c - 8]);
		else if (c < 0x20)
			buf_printf(b, "\\u%04X", c);
		else
			buf_addc(b, *p);
	}
	buf_addc(b, '"');
}

/* '$.metadata."a"."b"' as a bound argument: keys hold no quotes (parse.c). */
static void bind_path(const struct filter *f, struct filter_args *args)
{
	struct buf b = {0};
	buf_adds(&b, "$.metadata");
	for (const char *p = f->path; *p; p += strlen(p) + 1)
		add_key(&b, p);
	arg(args, (struct filter_arg){.type = FARG_TEXT, .s = {b.p, b.len}, .owned = true});
}

/* One element (type in `t`, value in `v`) against all values. */
static void element_sql(const struct filter *f, const char *t, const char *v, struct buf *sql, struct filter_args *args)
{
	for (size_t i = 0; i < f->nv; i++) {
		buf_adds(sql, i ? " OR " : "(");
		switch (f->v[i].type) {
		case FV_NULL:
			buf_printf(sql, "%s='null'", t);
			break;
		case FV_BOOL:
			buf_printf(sql, "%s='%s'", t, f->v[i].i ? "true" : "false");
			break;
		case FV_TEXT:
			buf_printf(sql, "(%s='text' AND %s%s?)", t, v, cmp(f->op));
			bind_value(args, &f->v[i], false);
			break;
		default:
			buf_printf(sql, "(%s IN ('integer','real') AND %s%s?)", t, v, cmp(f->op));
			bind_value(args, &f->v[i], false);
		}
	}
	buf_addc(sql, ')');
}

static void meta_sql(const struct filter *f, struct buf *sql, struct filter_args *args)
{
	bool equal = f->op == F_EQ || f->op == F_IN || f->op == F_NE || f->op == F_NIN;
	bool negative = f->op == F_NE || f->op == F_NIN;
	if (f->op == F_EXISTS) {
		buf_printf(sql, "(json_type(m.body,?) IS %sNULL)", f->v[0].i ? "NOT " : "");
		bind_path(f, args);
		return;
	}
	buf_adds(sql, negative ? "(NOT EXISTS" : "EXISTS");
	/* json_each walks an array's elements, or yields the scalar itself; of an object it would walk the
	 * members, which equal nothing here. */
	buf_adds(sql, "(SELECT 1 FROM json_each(m.body,?) e WHERE ");
	bind_path(f, args);
	buf_printf(sql, "json_type(m.body,?)%s AND ", equal ? "<>'object'" : " NOT IN ('object','array')");
	bind_path(f, args);
	element_sql(f, "e.type", "e.value", sql, args);
	buf_adds(sql, negative ? "))" : ")");
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
		if (f->column)
			column_sql(f, sql, args);
		else
			meta_sql(f, sql, args);
	}
}
