/* The filter on a memory in hand. sql.c says the same to SQLite; a differential test compares them. */
#include "filter-private.h"

static int sign(double a, double b) { return a < b ? -1 : a > b; }

int filter_compare(const struct fvalue *a, const struct fvalue *b)
{
	bool na = a->type == FV_INT || a->type == FV_REAL, nb = b->type == FV_INT || b->type == FV_REAL;
	if (na && nb) {
		if (a->type == FV_INT && b->type == FV_INT)
			return a->i < b->i ? -1 : a->i > b->i;
		return sign(a->type == FV_INT ? (double)a->i : a->d, b->type == FV_INT ? (double)b->i : b->d);
	}
	if (a->type != b->type)
		return 2;
	if (a->type == FV_BOOL)
		return a->i < b->i ? -1 : a->i > b->i;
	if (a->type == FV_TEXT) {
		size_t n = a->len < b->len ? a->len : b->len;
		int c = n ? memcmp(a->s, b->s, n) : 0;
		return c ? (c < 0 ? -1 : 1) : a->len < b->len ? -1 : a->len > b->len;
	}
	return 0; /* null and null */
}

/* The value of a fixed field. False: the memory does not have it. */
static bool column_value(const struct fcolumn *c, const struct memory *m, struct fvalue *v)
{
	const char *at = (const char *)m + c->offset;
	*v = (struct fvalue){.type = FV_INT};
	switch (c->kind) {
	case FF_TEXT: {
		const struct span *s = (const void *)at;
		*v = (struct fvalue){.type = FV_TEXT, .s = (char *)(uintptr_t)s->p, .len = s->len};
		return s->len > 0;
	}
	case FF_UUID:
		*v = (struct fvalue){.type = FV_TEXT, .s = (char *)(uintptr_t)at, .len = 16};
		return true;
	case FF_REAL:
		*v = (struct fvalue){.type = FV_REAL, .d = (double)*(const float *)(const void *)at};
		return true;
	case FF_INT:
		v->i = (int64_t) * (const uint64_t *)(const void *)at;
		return true;
	case FF_TIME:
		v->i = *(const int64_t *)(const void *)at;
		return v->i != 0;
	case FF_BOOL:
		*v = (struct fvalue){.type = FV_BOOL, .i = (*(const uint32_t *)(const void *)at & MEMORY_PINNED) != 0};
		return true;
	case FF_META:
		break;
	}
	return false;
}

static bool json_value(const json_t *j, struct fvalue *v)
{
	*v = (struct fvalue){.type = FV_NULL};
	switch (json_typeof(j)) {
	case JSON_STRING:
		*v = (struct fvalue){.type = FV_TEXT, .s = (char *)(uintptr_t)json_string_value(j), .len = json_string_length(j)};
		return true;
	case JSON_INTEGER:
		*v = (struct fvalue){.type = FV_INT, .i = json_integer_value(j)};
		return true;
	case JSON_REAL:
		*v = (struct fvalue){.type = FV_REAL, .d = json_real_value(j)};
		return true;
	case JSON_TRUE:
	case JSON_FALSE:
		*v = (struct fvalue){.type = FV_BOOL, .i = json_is_true(j)};
		return true;
	case JSON_NULL:
		return true;
	default:
		return false; /* objects and arrays equal nothing */
	}
}

/* Does the value satisfy the (positive) operator? */
static bool holds(const struct filter *f, const struct fvalue *v)
{
	for (size_t i = 0; i < f->nv; i++) {
		int c = filter_compare(v, &f->v[i]);
		bool yes = c != 2 && ((f->op == F_EQ || f->op == F_IN || f->op == F_NE || f->op == F_NIN) ? c == 0 :
				      f->op == F_GT ? c > 0 : f->op == F_GTE ? c >= 0 : f->op == F_LT ? c < 0 : c <= 0);
		if (yes)
			return true;
	}
	return false;
}

static bool meta_holds(const struct filter *f, const json_t *j)
{
	struct fvalue v;
	size_t i;
	json_t *e;
	if (json_is_array(j) && (f->op == F_EQ || f->op == F_IN || f->op == F_NE || f->op == F_NIN)) {
		json_array_foreach(j, i, e)
			if (json_value(e, &v) && holds(f, &v))
				return true;
		return false;
	}
	return json_value(j, &v) && holds(f, &v);
}

static const json_t *walk(const json_t *metadata, const char *path)
{
	for (; *path && metadata; path += strlen(path) + 1)
		metadata = json_is_object(metadata) ? json_object_get(metadata, path) : NULL;
	return metadata;
}

struct matching {
	const struct memory *m;
	json_t *body;  /* parsed at the first metadata condition */
	bool parsed;
};

static const json_t *metadata_of(struct matching *x)
{
	if (!x->parsed) {
		x->body = json_loadb(x->m->body.p ? x->m->body.p : "", x->m->body.len, 0, NULL);
		x->parsed = true;
	}
	return json_object_get(x->body, "metadata");
}

static bool leaf(const struct filter *f, struct matching *x)
{
	bool negative = f->op == F_NE || f->op == F_NIN;
	struct fvalue v;
	if (f->column) {
		bool has = column_value(f->column, x->m, &v);
		if (f->op == F_EXISTS)
			return has == (f->v[0].i != 0);
		return has ? holds(f, &v) != negative : negative;
	}
	const json_t *j = walk(metadata_of(x), f->path);
	if (f->op == F_EXISTS)
		return (j != NULL) == (f->v[0].i != 0);
	return j ? meta_holds(f, j) != negative : negative;
}

static bool eval(const struct filter *f, struct matching *x)
{
	switch (f->op) {
	case F_AND:
		for (size_t i = 0; i < f->nkids; i++)
			if (!eval(f->kid[i], x))
				return false;
		return true;
	case F_OR:
		for (size_t i = 0; i < f->nkids; i++)
			if (eval(f->kid[i], x))
				return true;
		return false;
	case F_NOT:
		return !eval(f->kid[0], x);
	default:
		return leaf(f, x);
	}
}

bool filter_match(const struct filter *f, const struct memory *m)
{
	struct matching x = {.m = m};
	bool yes = eval(f, &x);
	json_decref(x.body);
	return yes;
}
