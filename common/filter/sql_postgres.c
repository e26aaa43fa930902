/* The conditions of a filter for PostgreSQL, over alias m; metadata is jsonb. Numbers, times and uuids stand in the text,
 * strings, keys and JSON go as elements of one parameter: planned like constants, and however many there are, one.
 *
 * What cannot be said exactly is said so that nothing that matches is missed: by a condition that is true of more, or,
 * under an odd number of nots, of less. jsonb compares numbers by their decimal digits, match.c as int64 and double.
 * Reals are written with 17 digits, which keep the order of doubles, and below 2^53 the digits of an integer are the
 * double's as well: there the two agree. */
#include <math.h>
#include <stdio.h>

#include "filter-private.h"
#include "uuid.h"

#define EXACT_MAX 9007199254740992 /* 2^53 */
#define ALTERNATIVES_MAX 8	   /* values that are asked for one by one, through the index */

static bool negative(const struct filter *f) { return f->op == F_NE || f->op == F_NIN; }
static bool is_range(const struct filter *f) { return f->op >= F_GT && f->op <= F_LTE; }

/* ---- values ---- */

static struct span text_of(const struct fvalue *v) { return (struct span){v->s, v->len}; }

static void add_text(struct filter_writing *w, struct span s, char *own)
{
	filter_arg_add(w->args, (struct filter_arg){.type = FARG_TEXT, .s = s, .own = own});
}

/* The text that was added last. */
static void last_sql(struct filter_writing *w) { buf_printf(w->sql, "($%u::text[])[%zu]", w->param, w->args->n); }

/* Those that were added since `from`. */
static void since_sql(struct filter_writing *w, size_t from, const char *type)
{
	buf_printf(w->sql, "=ANY(($%u::text[])[%zu:%zu]%s)", w->param, from + 1, w->args->n, type);
}

static void time_sql(int64_t us, struct buf *sql)
{
	const int64_t hour = 3600000000, minute = 60000000;
	int64_t h = us / hour - (us % hour < 0), rest = us - h * hour;
	buf_printf(sql, "'epoch'::timestamptz+make_interval(hours=>(%lld),mins=>%lld,secs=>%lld.%06lld)", (long long)h,
		   (long long)(rest / minute), (long long)(rest % minute / 1000000), (long long)(rest % 1000000));
}

static void real_sql(double d, struct buf *sql)
{
	if (isinf(d))
		buf_printf(sql, "'%sinfinity'::float4", d < 0 ? "-" : "");
	else
		buf_printf(sql, "'%.9g'::float4", d);
}

static void value_sql(const struct fcolumn *c, const struct fvalue *v, struct buf *sql)
{
	char id[UUID_TEXT];
	switch (c->kind) {
	case FF_UUID:
		uuid_format((const struct uuid *)(const void *)v->s, id);
		buf_printf(sql, "'%.*s'::uuid", UUID_TEXT, id);
		break;
	case FF_REAL: real_sql(v->d, sql); break;
	case FF_INT: buf_printf(sql, "'%lld'::int8", (long long)v->i); break;
	case FF_TIME: time_sql(v->i, sql); break;
	case FF_BOOL: buf_adds(sql, v->i ? "true" : "false"); break;
	case FF_TEXT:
	case FF_META: break;
	}
}

/* ---- fixed fields ---- */

/* The integer that says of an int64 what comparing with the real d says. False: none, *always says it then. */
static bool integral(enum fop op, double d, int64_t *i_r, bool *always)
{
	double whole = op == F_GT || op == F_LTE ? floor(d) : ceil(d);
	*always = d < 0 ? op == F_GT || op == F_GTE : op == F_LT || op == F_LTE;
	if (op != F_GT && op != F_GTE && op != F_LT && op != F_LTE) {
		*always = false;
		if (whole != d)
			return false;
	}
	if (whole >= 0x1p63 || whole < -0x1p63)
		return false;
	*i_r = (int64_t)whole;
	return true;
}

static void column_name(const struct fcolumn *c, struct buf *sql)
{
	if (c->kind == FF_BOOL)
		buf_printf(sql, "((m.flags&%d)<>0)", MEMORY_PINNED);
	else
		buf_printf(sql, "m.%s", c->name);
}

static void column_equals(const struct filter *f, struct filter_writing *w)
{
	const struct fcolumn *c = f->column;
	struct buf list = {NULL, 0, 0};
	size_t from = w->args->n;
	for (size_t i = 0; i < f->nv; i++) {
		struct fvalue v = f->v[i];
		bool always;
		if (c->kind == FF_TEXT) {
			if (util_text_valid(text_of(&v)))
				add_text(w, text_of(&v), NULL);
			continue;
		}
		if (c->kind == FF_INT && v.type == FV_REAL && !integral(f->op, v.d, &v.i, &always))
			continue;
		buf_adds(&list, list.len ? "," : "");
		value_sql(c, &v, &list);
	}
	if (!list.len && w->args->n == from) {
		buf_adds(w->sql, "false");
	} else {
		column_name(c, w->sql);
		if (c->kind == FF_TEXT && f->nv == 1) {
			buf_addc(w->sql, '=');
			last_sql(w);
		} else if (c->kind == FF_TEXT) {
			since_sql(w, from, "");
		} else {
			buf_adds(w->sql, " IN (");
			buf_add(w->sql, list.p, list.len);
			buf_addc(w->sql, ')');
		}
	}
	buf_free(&list);
}

static void column_range(const struct filter *f, struct filter_writing *w)
{
	const struct fcolumn *c = f->column;
	struct fvalue v = f->v[0];
	bool always;
	if (c->kind == FF_INT && v.type == FV_REAL && !integral(f->op, v.d, &v.i, &always)) {
		buf_adds(w->sql, always ? "true" : "false");
		return;
	}
	column_name(c, w->sql);
	buf_printf(w->sql, "%s%s", c->kind == FF_TEXT ? " COLLATE \"C\"" : "", filter_comparison(f->op));
	if (c->kind == FF_TEXT) {
		add_text(w, text_of(&v), NULL);
		last_sql(w);
	} else {
		value_sql(c, &v, w->sql);
	}
}

/* What an absent value looks like in the column. */
static void column_present(const struct fcolumn *c, struct buf *sql)
{
	if (c->kind == FF_TEXT)
		buf_printf(sql, "m.%s IS NOT NULL", c->name);
	else if (c->kind == FF_TIME)
		buf_printf(sql, "coalesce(m.%s<>'epoch',false)", c->name);
	else
		buf_adds(sql, "true");
}

static void column_sql(const struct filter *f, struct filter_writing *w)
{
	column_present(f->column, w->sql);
	if (f->op == F_EXISTS)
		return;
	buf_adds(w->sql, " AND ");
	if (is_range(f))
		column_range(f, w);
	else
		column_equals(f, w);
}

/* ---- metadata ---- */

/* The jsonb value at the path, NULL when there is none: -> with a text goes through objects only. */
static void path_sql(const struct filter *f, struct filter_writing *w)
{
	buf_adds(w->sql, "(m.metadata");
	for (const char *p = f->path; *p; p += strlen(p) + 1) {
		add_text(w, SPAN(p), NULL);
		buf_adds(w->sql, "->");
		last_sql(w);
	}
	buf_addc(w->sql, ')');
}

static json_t *json_of(const struct fvalue *v)
{
	switch (v->type) {
	case FV_NULL: return json_null();
	case FV_BOOL: return json_boolean(v->i);
	case FV_INT: return json_integer(v->i);
	case FV_REAL: return json_real(v->d);
	case FV_TEXT: return json_stringn(v->s, v->len);
	}
	return NULL;
}

/* As metadata that has the value at the path from p. */
static json_t *at_path(const char *p, json_t *value)
{
	if (!*p)
		return value;
	json_t *o = json_object();
	json_object_set_new(o, p, at_path(p + strlen(p) + 1, value));
	return o;
}

static void add_json(struct filter_writing *w, json_t *j)
{
	char *text = json_dumps(j, JSON_COMPACT | JSON_ENCODE_ANY);
	AN(text);
	json_decref(j);
	add_text(w, SPAN(text), text);
}

/* {"path":value} is contained where the value stands there, {"path":[value]} where an array has it as an element. */
static void contained(const struct filter *f, json_t *value, struct filter_writing *w)
{
	json_t *list = json_array();
	json_array_append(list, value);
	buf_addc(w->sql, '(');
	for (int i = 0; i < 2; i++) {
		add_json(w, at_path(f->path, i ? list : value));
		buf_adds(w->sql, i ? "::jsonb OR m.metadata@>" : "m.metadata@>");
		last_sql(w);
	}
	buf_adds(w->sql, "::jsonb)");
}

static bool exact_number(const struct fvalue *v)
{
	if (v->type == FV_INT)
		return v->i >= -EXACT_MAX && v->i <= EXACT_MAX;
	return v->type != FV_REAL || (v->d >= -(double)EXACT_MAX && v->d <= (double)EXACT_MAX);
}

/* The ways in which what equals v may be written; 0: none. */
static size_t forms(const struct fvalue *v, json_t *out[2])
{
	if (v->type == FV_TEXT && !util_text_valid(text_of(v)))
		return 0;
	out[0] = json_of(v);
	if (exact_number(v))
		return 1;
	if (v->type == FV_INT)
		out[1] = json_real((double)v->i);
	else if (v->d >= -0x1p63 && v->d < 0x1p63)
		out[1] = json_integer((int64_t)v->d);
	else
		return 1;
	return 2;
}

static void meta_equals(const struct filter *f, struct filter_writing *w)
{
	json_t *form[2];
	size_t from, said = 0;
	if (f->nv <= ALTERNATIVES_MAX) {
		for (size_t i = 0; i < f->nv; i++)
			for (size_t k = 0, n = forms(&f->v[i], form); k < n; k++) {
				buf_adds(w->sql, said++ ? " OR " : "");
				contained(f, form[k], w);
			}
		buf_adds(w->sql, said ? "" : "false");
		return;
	}
	path_sql(f, w);
	buf_adds(w->sql, " IS NOT NULL AND EXISTS(SELECT FROM jsonb_array_elements(CASE jsonb_typeof");
	path_sql(f, w);
	buf_adds(w->sql, " WHEN 'array' THEN ");
	path_sql(f, w);
	buf_adds(w->sql, " ELSE jsonb_build_array");
	path_sql(f, w);
	buf_adds(w->sql, " END) AS e(v) WHERE e.v");
	from = w->args->n;
	for (size_t i = 0; i < f->nv; i++)
		for (size_t k = 0, n = forms(&f->v[i], form); k < n; k++)
			add_json(w, form[k]);
	since_sql(w, from, "::jsonb[]");
	buf_addc(w->sql, ')');
}

/* A number that is not exact is moved by more than what its digits may be wrong. */
static void number_sql(const struct filter *f, const struct fvalue *v, struct buf *sql)
{
	bool exact = exact_number(v), up = f->op == F_GT || f->op == F_GTE;
	char text[40];
	if (v->type == FV_INT)
		snprintf(text, sizeof(text), "%lld", (long long)v->i);
	else
		snprintf(text, sizeof(text), "%.17g", v->d);
	if (exact)
		buf_printf(sql, "%s'%s'::numeric", filter_comparison(f->op), text);
	else
		buf_printf(sql, "%s'%s'::numeric%sabs('%s'::numeric)*1e-15", up ? ">=" : "<=", text, up ? "-" : "+",
			   text);
}

static void meta_range(const struct filter *f, struct filter_writing *w)
{
	const struct fvalue *v = &f->v[0];
	buf_adds(w->sql, "coalesce(CASE jsonb_typeof");
	path_sql(f, w);
	if (v->type == FV_TEXT) {
		buf_adds(w->sql, " WHEN 'string' THEN (");
		path_sql(f, w);
		buf_printf(w->sql, "#>>'{}') COLLATE \"C\"%s", filter_comparison(f->op));
		add_text(w, text_of(v), NULL);
		last_sql(w);
	} else {
		buf_adds(w->sql, " WHEN 'number' THEN ");
		path_sql(f, w);
		buf_adds(w->sql, "::numeric");
		number_sql(f, v, w->sql);
	}
	buf_adds(w->sql, " END,false)");
}

static void meta_sql(const struct filter *f, struct filter_writing *w)
{
	if (f->op == F_EXISTS) {
		path_sql(f, w);
		buf_adds(w->sql, " IS NOT NULL");
	} else if (is_range(f)) {
		meta_range(f, w);
	} else {
		meta_equals(f, w);
	}
}

/* ---- conditions ---- */

enum said { EXACTLY, MORE, NOTHING };

/* How well SQL can say it. */
static enum said sayable(const struct filter *f)
{
	enum said how = EXACTLY;
	if (f->op == F_EXISTS)
		how = EXACTLY;
	else if (is_range(f) && f->v[0].type == FV_TEXT && (!f->column || f->column->kind == FF_TEXT))
		how = util_text_valid(text_of(&f->v[0])) ? EXACTLY : NOTHING;
	for (const char *p = f->column ? "" : f->path; *p; p += strlen(p) + 1)
		if (!util_text_valid(SPAN(p)))
			how = NOTHING;
	for (size_t i = 0; !f->column && how == EXACTLY && i < f->nv; i++)
		if (!exact_number(&f->v[i]))
			how = MORE;
	return how;
}

static void condition(const struct filter *f, bool under_not, struct filter_writing *w)
{
	bool no = negative(f) || (f->op == F_EXISTS && !f->v[0].i), less = under_not != no;
	enum said how = sayable(f);
	buf_adds(w->sql, no ? "(NOT (" : "(");
	if (how == EXACTLY || (how == MORE && !less)) {
		if (f->column)
			column_sql(f, w);
		else
			meta_sql(f, w);
	} else {
		buf_adds(w->sql, less ? "false" : "true");
	}
	w->inexact |= how != EXACTLY;
	buf_adds(w->sql, no ? "))" : ")");
}

bool filter_postgres(const struct filter *f, unsigned param, struct buf *sql, struct filter_args *args)
{
	static const struct filter_dialect postgres = {"true", "false", condition};
	struct filter_writing w = {.sql = sql, .args = args, .param = param};
	filter_write(f, &postgres, false, &w);
	return !w.inexact;
}
