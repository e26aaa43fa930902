#include <stdio.h>
#include <stdlib.h>

#include "clock.h"
#include "filter-private.h"
#include "vocabulary.h"

#define CONDITIONS_MAX 64
#define DEPTH_MAX 8
#define IN_MAX 1000
#define VALUES_MAX 10000 /* altogether: SQLite binds at most 32,766 */
#define PATH_MAX_BYTES 256

#define COLUMN(name, sql, kind, member)                                                                                \
	{                                                                                                              \
		name, sql, kind, offsetof(struct memory, member)                                                       \
	}
static const struct fcolumn columns[] = {
	COLUMN("id", "id", FF_UUID, id),
	COLUMN("kind", "kind", FF_TEXT, kind),
	COLUMN("user_id", "user_id", FF_TEXT, user_id),
	COLUMN("agent_id", "agent_id", FF_TEXT, agent_id),
	COLUMN("session_id", "session_id", FF_TEXT, session_id),
	COLUMN("external_id", "external_id", FF_TEXT, external_id),
	COLUMN("importance", "importance", FF_REAL, importance),
	COLUMN("version", "version", FF_INT, version),
	COLUMN("created_at", "created_us", FF_TIME, created_us),
	COLUMN("updated_at", "updated_us", FF_TIME, updated_us),
	COLUMN("expires_at", "expires_us", FF_TIME, expires_us),
	COLUMN("pinned", "flags", FF_BOOL, flags),
};

const struct fcolumn *filter_column(const char *name)
{
	for (size_t i = 0; i < ARRAY_LEN(columns); i++)
		if (strcmp(columns[i].name, name) == 0)
			return &columns[i];
	return NULL;
}

struct parsing {
	size_t conditions, values;
	char **error_r;
};

static struct filter *refuse(struct parsing *p, const char *field, const char *what)
{
	if (!*p->error_r) {
		struct buf b = {0};
		buf_printf(&b, "%.80s: %s", field, what);
		buf_addc(&b, 0);
		*p->error_r = b.p;
	}
	return NULL;
}

static struct filter *node(enum fop op)
{
	struct filter *f = util_zalloc(sizeof(*f));
	f->op = op;
	return f;
}

static void add_kid(struct filter *f, struct filter *kid)
{
	f->kid = util_realloc(f->kid, (f->nkids + 1) * sizeof(struct filter *));
	f->kid[f->nkids++] = kid;
}

void filter_free(struct filter **fp)
{
	struct filter *f = *fp;
	if (!f)
		return;
	for (size_t i = 0; i < f->nkids; i++)
		filter_free(&f->kid[i]);
	for (size_t i = 0; i < f->nv; i++)
		free(f->v[i].s);
	free(f->kid);
	free(f->v);
	free(f->path);
	free(f);
	*fp = NULL;
}

bool filter_is_empty(const struct filter *f) { return !f || (f->op == F_AND && !f->nkids); }

/* "metadata.a.b" → "a\0b\0\0"; a backslash makes the next character an ordinary one. */
static char *split_path(const char *p)
{
	size_t n = strlen(p);
	if (!n || n > PATH_MAX_BYTES)
		return NULL;
	char *out = util_zalloc(n + 2), *o = out;
	bool empty = true;
	for (; *p; p++) {
		if (*p == '.') {
			if (empty)
				goto bad;
			*o++ = 0;
			empty = true;
			continue;
		}
		if (*p == '\\' && !*++p)
			goto bad;
		*o++ = *p;
		empty = false;
	}
	if (!empty)
		return out;
bad:
	free(out);
	return NULL;
}

static bool scalar(const json_t *j, struct fvalue *v)
{
	*v = (struct fvalue){.type = FV_NULL};
	if (json_is_string(j)) {
		v->type = FV_TEXT;
		v->len = json_string_length(j);
		v->s = util_strndup(json_string_value(j), v->len);
	} else if (json_is_integer(j)) {
		v->type = FV_INT;
		v->i = json_integer_value(j);
	} else if (json_is_real(j)) {
		v->type = FV_REAL;
		v->d = json_real_value(j);
	} else if (json_is_boolean(j)) {
		v->type = FV_BOOL;
		v->i = json_is_true(j);
	} else if (!json_is_null(j)) {
		return false;
	}
	return true;
}

/* The value in the type that the column is compared in; false names what was expected. */
static bool fit_column(const struct fcolumn *c, struct fvalue *v, const char **want)
{
	struct uuid u;
	switch (c->kind) {
	case FF_TEXT: *want = "compares with strings"; return v->type == FV_TEXT;
	case FF_UUID:
		*want = "compares with UUIDs";
		if (v->type != FV_TEXT || !uuid_parse(v->s, v->len, &u))
			return false;
		v->s = util_realloc(v->s, sizeof(u) + 1);
		memcpy(v->s, &u, sizeof(u));
		v->len = sizeof(u);
		return true;
	case FF_REAL:
		*want = "compares with numbers";
		if (v->type != FV_INT && v->type != FV_REAL)
			return false;
		v->d = (double)(float)(v->type == FV_INT ? (double)v->i : v->d); /* as it is stored */
		v->type = FV_REAL;
		return true;
	case FF_INT: *want = "compares with numbers"; return v->type == FV_INT || v->type == FV_REAL;
	case FF_TIME:
		*want = "compares with RFC 3339 times such as 2026-11-21T05:38:00Z";
		if (v->type != FV_TEXT || !clock_parse(v->s, v->len, &v->i))
			return false;
		v->type = FV_INT;
		return true;
	case FF_BOOL: *want = "compares with true and false"; return v->type == FV_BOOL;
	case FF_META: break;
	}
	return true;
}

static bool count_condition(struct parsing *p, const char *field)
{
	if (++p->conditions <= CONDITIONS_MAX)
		return true;
	refuse(p, field, "a filter may hold at most 64 conditions; ask in several requests, or use in instead of or");
	return false;
}

static struct filter *parse_object(struct parsing *p, const json_t *j, int depth);

static struct filter *parse_list(struct parsing *p, enum fop op, const char *key, const json_t *list, int depth)
{
	size_t i;
	json_t *e;
	if (!json_is_array(list) || !json_array_size(list))
		return refuse(p, key, "must be a list of at least one condition");
	struct filter *f = node(op);
	json_array_foreach (list, i, e) {
		struct filter *kid = parse_object(p, e, depth + 1);
		if (!kid) {
			filter_free(&f);
			return NULL;
		}
		add_kid(f, kid);
	}
	return f;
}

static bool op_by_name(const char *s, enum fop *op)
{
	static const struct {
		const char *name;
		enum fop op;
	} ops[] = {{"eq", F_EQ},   {"ne", F_NE}, {"gt", F_GT},	 {"gte", F_GTE},      {"lt", F_LT},
		   {"lte", F_LTE}, {"in", F_IN}, {"nin", F_NIN}, {"exists", F_EXISTS}};
	s += *s == '$';
	for (size_t i = 0; i < ARRAY_LEN(ops); i++)
		if (strcmp(ops[i].name, s) == 0) {
			*op = ops[i].op;
			return true;
		}
	return false;
}

static bool add_value(struct parsing *p, struct filter *f, const char *field, const json_t *j)
{
	const char *want = NULL;
	struct fvalue v;
	if (!scalar(j, &v)) {
		refuse(p, field, "must be compared with a string, number, true, false or null");
		return false;
	}
	f->v = util_realloc(f->v, (f->nv + 1) * sizeof(*f->v));
	f->v[f->nv++] = v;
	if (++p->values > VALUES_MAX) {
		refuse(p, field, "a filter may hold at most 10000 values altogether; ask in several requests");
		return false;
	}
	if (f->op >= F_GT && f->op <= F_LTE && v.type != FV_TEXT && v.type != FV_INT && v.type != FV_REAL) {
		refuse(p, field, "ranges compare numbers with numbers and strings with strings");
		return false;
	}
	if (f->column && !fit_column(f->column, &f->v[f->nv - 1], &want)) {
		refuse(p, field, want);
		return false;
	}
	return true;
}

static struct filter *condition(struct parsing *p, const char *field, enum fop op, const json_t *j)
{
	struct filter *f = node(op);
	bool ok = count_condition(p, field);
	f->column = filter_column(field);
	if (ok && !f->column) {
		bool meta = strncmp(field, "metadata.", 9) == 0;
		f->path = meta ? split_path(field + 9) : NULL;
		if (!f->path) {
			refuse(p, field,
			       meta ? "is no path of keys with single dots (in a key write \\. for a dot and \\\\ for a backslash; at most 256 bytes)"
				    : "no such field; filter on kind, user_id, agent_id, session_id, external_id, id, importance, version, "
				      "pinned, created_at, updated_at, expires_at or metadata.KEY");
			ok = false;
		}
	}
	if (ok && op == F_EXISTS) {
		ok = json_is_boolean(j);
		f->v = util_zalloc(sizeof(*f->v));
		f->nv = 1;
		f->v[0] = (struct fvalue){.type = FV_BOOL, .i = json_is_true(j)};
		if (!ok)
			refuse(p, field, "exists takes true or false");
	} else if (ok && (op == F_IN || op == F_NIN)) {
		size_t i;
		json_t *e;
		ok = json_is_array(j) && json_array_size(j) >= 1 && json_array_size(j) <= IN_MAX;
		if (!ok)
			refuse(p, field, "in and nin take a list of 1 to 1000 values");
		json_array_foreach (j, i, e)
			ok = ok && add_value(p, f, field, e);
	} else if (ok) {
		ok = add_value(p, f, field, j);
	}
	if (!ok)
		filter_free(&f);
	return f;
}

static struct filter *refuse_operator(struct parsing *p, const char *field, const char *op)
{
	struct buf b = {0};
	if (strcmp(field, "metadata") == 0)
		buf_printf(&b, "filter on a key of it: \"metadata.%.80s\"", op);
	else
		buf_printf(&b, "unknown operator \"%.80s\"; use eq ne gt gte lt lte in nin exists", op);
	buf_addc(&b, 0);
	refuse(p, field, b.p);
	buf_free(&b);
	return NULL;
}

/* {"gte": 1, "lt": 5}: every operator must hold. */
static struct filter *parse_field(struct parsing *p, const char *field, const json_t *v)
{
	const char *key;
	json_t *e;
	enum fop op;
	if (json_is_array(v))
		return refuse(p, field, "to match any of several values write {\"in\": […]}");
	if (!json_is_object(v))
		return condition(p, field, F_EQ, v);
	if (!json_object_size(v))
		return refuse(p, field, "needs an operator: eq ne gt gte lt lte in nin exists");
	struct filter *f = node(F_AND);
	json_object_foreach ((json_t *)(uintptr_t)v, key, e) {
		struct filter *kid = op_by_name(key, &op) ? condition(p, field, op, e) : refuse_operator(p, field, key);
		if (!kid) {
			filter_free(&f);
			return NULL;
		}
		add_kid(f, kid);
	}
	return f;
}

static struct filter *parse_key(struct parsing *p, const char *key, const json_t *v, int depth)
{
	const char *name = key + (*key == '$');
	if (strcmp(name, "and") == 0)
		return parse_list(p, F_AND, key, v, depth);
	if (strcmp(name, "or") == 0)
		return parse_list(p, F_OR, key, v, depth);
	if (strcmp(name, "not") == 0) {
		struct filter *kid = parse_object(p, v, depth + 1);
		if (!kid)
			return NULL;
		struct filter *f = node(F_NOT);
		add_kid(f, kid);
		return f;
	}
	return parse_field(p, key, v);
}

static struct filter *parse_object(struct parsing *p, const json_t *j, int depth)
{
	const char *key;
	json_t *v;
	if (depth > DEPTH_MAX)
		return refuse(p, "filter", "may be nested 8 deep at most");
	if (!json_is_object(j))
		return refuse(p, "filter", "a condition must be a JSON object such as {\"user_id\": \"ada\"}");
	if (!json_object_size(j) && depth && !count_condition(p, "filter"))
		return NULL;
	struct filter *f = node(F_AND);
	json_object_foreach ((json_t *)(uintptr_t)j, key, v) {
		struct filter *kid = parse_key(p, key, v, depth);
		if (!kid) {
			filter_free(&f);
			return NULL;
		}
		add_kid(f, kid);
	}
	return f;
}

struct filter *filter_parse(const json_t *j, char **error_r)
{
	struct parsing p = {.error_r = error_r};
	*error_r = NULL;
	if (!j || json_is_null(j))
		return node(F_AND);
	return parse_object(&p, j, 0);
}

void filter_and_eq(struct filter **f, const char *field, struct span value)
{
	struct filter *c = node(F_EQ);
	c->column = filter_column(field);
	AN(c->column && c->column->kind == FF_TEXT);
	c->v = util_zalloc(sizeof(*c->v));
	c->nv = 1;
	c->v[0] = (struct fvalue){.type = FV_TEXT, .s = util_strndup(value.p, value.len), .len = value.len};
	if (!*f)
		*f = node(F_AND);
	if ((*f)->op != F_AND) {
		struct filter *top = node(F_AND);
		add_kid(top, *f);
		*f = top;
	}
	add_kid(*f, c);
}
