/* The filter on a memory in hand. sql.c says the same to SQLite; a differential test compares them. */
#include "filter-private.h"
#include "jsonspan.h"

static int sign(double a, double b) { return a < b ? -1 : a > b; }

/* By value, also where a double has no room for all of the integer's digits. */
static int compare_mixed(int64_t i, double d)
{
	if (d >= 0x1p63)
		return -1;
	if (d < -0x1p63)
		return 1;
	int64_t whole = (int64_t)d;
	return i != whole ? (i < whole ? -1 : 1) : sign(0, d - (double)whole);
}

int filter_compare(const struct fvalue *a, const struct fvalue *b)
{
	if (a->type == FV_INT && b->type == FV_REAL)
		return compare_mixed(a->i, b->d);
	if (a->type == FV_REAL && b->type == FV_INT)
		return -compare_mixed(b->i, a->d);
	if (a->type != b->type)
		return 2;
	if (a->type == FV_REAL)
		return sign(a->d, b->d);
	if (a->type == FV_INT || a->type == FV_BOOL)
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
	case FF_UUID: *v = (struct fvalue){.type = FV_TEXT, .s = (char *)(uintptr_t)at, .len = 16}; return true;
	case FF_REAL: *v = (struct fvalue){.type = FV_REAL, .d = (double)*(const float *)(const void *)at}; return true;
	case FF_INT: v->i = (int64_t) * (const uint64_t *)(const void *)at; return true;
	case FF_TIME: v->i = *(const int64_t *)(const void *)at; return v->i != 0;
	case FF_BOOL:
		*v = (struct fvalue){.type = FV_BOOL, .i = (*(const uint32_t *)(const void *)at & MEMORY_PINNED) != 0};
		return true;
	case FF_META: break;
	}
	return false;
}

static bool json_value(struct span j, struct buf *scratch, struct fvalue *v)
{
	struct span text;
	*v = (struct fvalue){.type = FV_NULL};
	switch (jsonspan_type(j)) {
	case JSONSPAN_STRING:
		if (!jsonspan_text(j, scratch, &text))
			return false;
		*v = (struct fvalue){.type = FV_TEXT, .s = (char *)(uintptr_t)text.p, .len = text.len};
		return true;
	case JSONSPAN_NUMBER: v->type = jsonspan_number(j, &v->i, &v->d) ? FV_INT : FV_REAL; return true;
	case JSONSPAN_TRUE:
	case JSONSPAN_FALSE: *v = (struct fvalue){.type = FV_BOOL, .i = *j.p == 't'}; return true;
	case JSONSPAN_NULL: return true;
	case JSONSPAN_NONE:
	case JSONSPAN_OBJECT:
	case JSONSPAN_ARRAY: break;
	}
	return false; /* objects and arrays equal nothing */
}

/* Does the value satisfy the (positive) operator? */
static bool holds(const struct filter *f, const struct fvalue *v)
{
	for (size_t i = 0; i < f->nv; i++) {
		int c = filter_compare(v, &f->v[i]);
		bool yes = c != 2 && ((f->op == F_EQ || f->op == F_IN || f->op == F_NE || f->op == F_NIN) ? c == 0
				      : f->op == F_GT							  ? c > 0
				      : f->op == F_GTE							  ? c >= 0
				      : f->op == F_LT							  ? c < 0
													  : c <= 0);
		if (yes)
			return true;
	}
	return false;
}

/* ---- metadata, for both evaluators ---- */

struct span filter_metadata(struct span body)
{
	struct span v;
	return jsonspan_member(body, SPAN_LIT("metadata"), &v) ? v : (struct span){NULL, 0};
}

static bool meta_holds(const struct filter *f, struct span j)
{
	struct buf scratch = {NULL, 0, 0};
	struct fvalue v;
	struct span e;
	bool yes = false;
	if (jsonspan_type(j) != JSONSPAN_ARRAY)
		yes = json_value(j, &scratch, &v) && holds(f, &v);
	else if (f->op == F_EQ || f->op == F_IN || f->op == F_NE || f->op == F_NIN)
		while (!yes && jsonspan_element(&j, &e))
			yes = json_value(e, &scratch, &v) && holds(f, &v);
	buf_free(&scratch);
	return yes;
}

bool filter_meta(const struct filter *f, struct span metadata)
{
	bool negative = f->op == F_NE || f->op == F_NIN, has = true;
	for (const char *p = f->path; has && *p; p += strlen(p) + 1)
		has = jsonspan_member(metadata, SPAN(p), &metadata);
	if (f->op == F_EXISTS)
		return has == (f->v[0].i != 0);
	return has ? meta_holds(f, metadata) != negative : negative;
}

/* ---- the tree ---- */

struct matching {
	const struct memory *m;
	struct span metadata; /* found at the first condition on it */
	bool looked;
};

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
	if (!x->looked)
		x->metadata = filter_metadata(x->m->body);
	x->looked = true;
	return filter_meta(f, x->metadata);
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
	case F_NOT: return !eval(f->kid[0], x);
	default: return leaf(f, x);
	}
}

bool filter_match(const struct filter *f, const struct memory *m)
{
	struct matching x = {.m = m};
	return eval(f, &x);
}
