/* Lists: the store's rows with what is pending merged in, in order, each memory once. */
#include <stdlib.h>

#include "clock.h"
#include "reader.h"

/* Newest pending state per id hides the store's row; live ones that match stand in for it. */
void overlay_load(struct reader *r, const struct store_list *q, struct overlay *o)
{
	struct pending_entry *e = NULL;
	size_t n = pending_snapshot(r->shared->pending, q->ns, &e);
	*o = (struct overlay){.v = util_zalloc((n + 1) * sizeof(*o->v)), .hidden = vectors_allow_new(n + 1)};
	for (size_t i = 0; i < n; i++) {
		struct held h = {.bytes = NULL};
		if (e[i].type == OP_NS_DROP)
			continue;
		if (e[i].type == OP_DELETE && q->deleted) {
			/* a list of the trash: the deleted state itself */
			if (reader_get(r, &e[i].id, q->with_embedding, &h) != READ_OK)
				continue;
		} else if (e[i].type == OP_PUT && !reader_pending_memory(r, &e[i], &h)) {
			continue; /* flushed meanwhile: the store, read after this, has it */
		}
		vectors_allow_add(o->hidden, &e[i].id);
		o->nhidden++;
		bool wanted = h.bytes && !!h.m.deleted_us == q->deleted &&
			      (!h.m.expires_us || h.m.expires_us > q->now_us) &&
			      (!q->filter || filter_match(q->filter, &h.m));
		if (wanted)
			o->v[o->n++] = h;
		else
			held_free(&h);
	}
	free(e);
}

void overlay_free(struct overlay *o)
{
	for (size_t i = 0; i < o->n; i++)
		held_free(&o->v[i]);
	free(o->v);
	vectors_allow_free(&o->hidden);
}

struct merge {
	const struct store_list *q;
	struct overlay o;
	size_t at, emitted;
	bool stopped;
	store_visit_fn *fn;
	void *arg;
};

static int ascending(const void *a, const void *b)
{
	return uuid_cmp(&((const struct held *)a)->m.id, &((const struct held *)b)->m.id);
}
static int descending(const void *a, const void *b) { return ascending(b, a); }

static bool before(const struct merge *m, const struct uuid *a, const struct uuid *b)
{
	int c = uuid_cmp(a, b);
	return m->q->descending ? c > 0 : c < 0;
}

static bool emit(struct merge *m, const struct memory *x)
{
	if (m->stopped || (m->q->limit && m->emitted >= m->q->limit) || !m->fn(m->arg, x))
		m->stopped = true;
	else
		m->emitted++;
	return !m->stopped;
}

static bool emit_pending_before(struct merge *m, const struct uuid *id)
{
	while (m->at < m->o.n && (!id || before(m, &m->o.v[m->at].m.id, id))) {
		const struct memory *x = &m->o.v[m->at++].m;
		if (m->q->have_after && !before(m, &m->q->after, &x->id))
			continue;
		if (!emit(m, x))
			return false;
	}
	return true;
}

static bool on_row(void *arg, const struct memory *row)
{
	struct merge *m = arg;
	if (!emit_pending_before(m, &row->id))
		return false;
	if (m->o.nhidden && vectors_allow_has(m->o.hidden, &row->id))
		return true;
	return emit(m, row);
}

/* That no row says so means that there is no such namespace once the store has told which there are; before, it is asked. */
static bool no_namespace(const struct reader *r, uint64_t ns)
{
	struct plant *p = r->shared->plant;
	return !plant_exists(p, ns) && plant_store_known(p);
}

enum read_rc reader_list(struct reader *r, const struct store_list *q, store_visit_fn *fn, void *arg)
{
	struct merge m = {.q = q, .fn = fn, .arg = arg};
	struct store_list rows = *q;
	if (no_namespace(r, q->ns))
		return READ_OK;
	overlay_load(r, q, &m.o); /* pending before store */
	if (reader_trouble(r) != READ_OK) {
		overlay_free(&m.o);
		return READ_ERROR;
	}
	qsort(m.o.v, m.o.n, sizeof(*m.o.v), q->descending ? descending : ascending);
	rows.limit = q->limit && !m.o.nhidden ? q->limit : 0; /* hidden rows do not count: stop by visit */
	enum read_rc rc = READ_ERROR;
	if (reader_store(r)) {
		unsigned step = trace_enter(TRACE_STORE);
		rc = reader_asked(step, r->shared->ops->list(r->store, &rows, on_row, &m)) == STORE_OK ? READ_OK
												       : READ_ERROR;
		if (rc == READ_ERROR) {
			free(r->error);
			const char *why = r->shared->ops->error(r->store);
			r->error = util_strndup(why, strlen(why));
		}
	}
	if (rc == READ_OK && !m.stopped)
		emit_pending_before(&m, NULL);
	overlay_free(&m.o);
	return rc;
}

static bool count_row(void *arg, const struct memory *m)
{
	(void)m;
	++*(uint64_t *)arg;
	return true;
}

enum read_rc reader_count(struct reader *r, const struct store_list *q, uint64_t *n)
{
	*n = 0;
	if (!pending_count(r->shared->pending)) {
		if (no_namespace(r, q->ns))
			return READ_OK;
		unsigned step = trace_enter(TRACE_STORE);
		if (reader_asked(step, reader_store(r) ? r->shared->ops->count(r->store, q, n) : STORE_AWAY) ==
		    STORE_OK)
			return READ_OK;
	}
	*n = 0;
	return reader_list(r, q, count_row, n);
}

/* ---- history ---- */

struct past {
	store_visit_fn *fn;
	void *arg;
	uint64_t below; /* versions at or above it were shown already */
	size_t n;
	bool stopped;
};

static bool on_past(void *arg, const struct memory *m)
{
	struct past *p = arg;
	bool lost = m->flags & MEMORY_LOST; /* of the same version as the one that has won */
	if (lost ? m->version > p->below : m->version >= p->below)
		return true;
	p->below = m->version;
	p->n++;
	p->stopped = !p->fn(p->arg, m);
	return !p->stopped;
}

enum read_rc reader_history(struct reader *r, const struct uuid *id, store_visit_fn *fn, void *arg)
{
	struct past p = {.fn = fn, .arg = arg, .below = UINT64_MAX};
	struct pending_entry v[256];
	struct held h = {.bytes = NULL};
	enum read_rc rc = reader_get(r, id, false, &h);
	if (rc != READ_OK)
		return rc;
	/* After it, or a version that came in between would be in neither. */
	size_t n = pending_versions(r->shared->pending, id, v, ARRAY_LEN(v));
	on_past(&p, &h.m);
	held_free(&h);
	for (size_t i = 0; i < n && !p.stopped; i++)
		if (v[i].type == OP_PUT && v[i].version < p.below && reader_pending_memory(r, &v[i], &h)) {
			on_past(&p, &h.m);
			held_free(&h);
		}
	if (p.stopped)
		return READ_OK;
	if (reader_trouble(r) != READ_OK || !reader_store(r))
		return READ_ERROR;
	/* The store's own current row may be one that a pending version has replaced. */
	unsigned step = trace_enter(TRACE_STORE);
	enum store_rc s = r->shared->ops->get(r->store, id, false, on_past, &p);
	if (s == STORE_OK || s == STORE_NOT_FOUND)
		s = r->shared->ops->history(r->store, id, on_past, &p);
	s = reader_asked(step, s);
	return s == STORE_OK || s == STORE_NOT_FOUND ? READ_OK : READ_ERROR;
}
