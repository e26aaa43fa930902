/* Numbers of namespaces → names. The database knows names only; the number is record_ns() of one. */
#include <stdlib.h>

#include "postgres-private.h"

#define NAMES_MAX 262144 /* what lies behind is taken for unknown */
#define NAMES_PAGE 4096

struct name {
	uint64_t ns;
	char *text; /* NULL: a free place */
	size_t len;
};
struct pg_names {
	struct name *v; /* open addressing, at most half full */
	size_t n, places;
};

static struct name *place(const struct pg_names *t, uint64_t ns)
{
	size_t at = ns & (t->places - 1);
	while (t->v[at].text && t->v[at].ns != ns)
		at = (at + 1) & (t->places - 1);
	return &t->v[at];
}

static void grow(struct pg_names *t)
{
	struct pg_names more = {.n = t->n, .places = t->places ? t->places * 2 : 64};
	more.v = util_zalloc(more.places * sizeof(*more.v));
	for (size_t i = 0; i < t->places; i++)
		if (t->v[i].text)
			*place(&more, t->v[i].ns) = t->v[i];
	free(t->v);
	*t = more;
}

static void note(struct pg_names *t, struct span text)
{
	uint64_t ns = record_ns(text);
	if (t->n * 2 >= t->places)
		grow(t);
	struct name *at = place(t, ns);
	if (at->text || t->n >= NAMES_MAX)
		return;
	*at = (struct name){.ns = ns, .text = util_strndup(text.p ? text.p : "", text.len), .len = text.len};
	t->n++;
}

/* All of them: which one has the number cannot be asked. Names that were dropped stay, their rows do not. */
static enum store_rc load(struct store *s)
{
	struct buf last = {NULL, 0, 0};
	enum store_rc rc;
	int rows;
	do {
		struct pg_params p = {.n = 0};
		PGresult *res;
		pg_param_text(&p, (struct span){last.p, last.len});
		pg_param_int4(&p, NAMES_PAGE);
		rc = pg_call(s, PG_NAMES, &p, &res);
		pg_params_free(&p);
		if (rc != STORE_OK)
			break;
		rows = pq.ntuples(res);
		for (int i = 0; i < rows; i++)
			note(s->names, pg_text(res, i, 0));
		if (rows) {
			struct span end = pg_text(res, rows - 1, 0);
			last.len = 0;
			buf_add(&last, end.p, end.len);
		}
		pq.clear(res);
	} while (rows == NAMES_PAGE);
	buf_free(&last);
	return rc;
}

enum store_rc pg_namespace(struct store *s, uint64_t ns, struct span *name_r)
{
	enum store_rc rc = STORE_OK;
	*name_r = (struct span){NULL, 0};
	if (!s->names) {
		s->names = util_zalloc(sizeof(*s->names));
		grow(s->names);
	}
	const struct name *at = place(s->names, ns);
	if (!at->text) {
		rc = load(s);
		at = place(s->names, ns);
	}
	if (at->text)
		*name_r = (struct span){at->text, at->len};
	return at->text ? STORE_OK : rc;
}

void pg_names_free(struct pg_names **np)
{
	struct pg_names *t = *np;
	if (!t)
		return;
	for (size_t i = 0; i < t->places; i++)
		free(t->v[i].text);
	free(t->v);
	free(t);
	*np = NULL;
}
