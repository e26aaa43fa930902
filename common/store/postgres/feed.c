/* The change feed: what the fleet has published (migrations/0002, memory_publish), read by revision. */
#include <stdatomic.h>
#include <stdlib.h>

#include "clock.h"
#include "postgres-private.h"

static enum store_rc one_number(struct store *s, enum pg_stmt which, uint64_t *n_r)
{
	PGresult *res = NULL;
	enum store_rc rc = pg_call(s, which, NULL, &res);
	if (rc != STORE_OK)
		return rc;
	*n_r = pq.ntuples(res) ? (uint64_t)pg_int(res, 0, 0) : 0;
	pq.clear(res);
	return STORE_OK;
}

/* The database, and when our schema was made in it: a copy of the server has the same, a database restored beside it
 * has not. */
enum store_rc pg_identity(struct store *s, uint64_t *identity_r) { return one_number(s, PG_IDENTITY, identity_r); }

enum store_rc pg_revision(struct store *s, uint64_t *revision_r) { return one_number(s, PG_REVISION, revision_r); }

/* The columns of a row that go element by element. */
struct columns {
	struct pg_array ids, versions, kinds, places;
};

/* A namespace of the row: its name, and what is told of it with its first change. */
struct place {
	struct span name;
	int64_t count, bytes;
};

static size_t places_of(const PGresult *res, int row, struct place **out_r)
{
	struct pg_array names = pg_array(res, row, 3), counts = pg_array(res, row, 4), bytes = pg_array(res, row, 5);
	struct place *v = util_zalloc((names.left + 1u) * sizeof(*v));
	struct span e;
	size_t n = 0;
	for (; pg_array_next(&names, &v[n].name); n++) {
		if (pg_array_next(&counts, &e))
			v[n].count = pg_array_int(e);
		if (pg_array_next(&bytes, &e))
			v[n].bytes = pg_array_int(e);
	}
	*out_r = v;
	return n;
}

/* False: the visitor has enough. */
static bool visit_row(const PGresult *res, int row, store_change_fn *fn, void *arg)
{
	struct place *places;
	size_t nplaces = places_of(res, row, &places);
	struct columns c = {pg_array(res, row, 6), pg_array(res, row, 7), pg_array(res, row, 8), pg_array(res, row, 9)};
	struct span id, version, kind, at;
	bool more = true;
	while (more && pg_array_next(&c.ids, &id) && pg_array_next(&c.versions, &version) &&
	       pg_array_next(&c.kinds, &kind) && pg_array_next(&c.places, &at)) {
		size_t place = (size_t)pg_array_int(at) - 1;
		if (place >= nplaces || id.len != sizeof(struct uuid))
			continue;
		struct store_change change = {.revision = (uint64_t)pg_int(res, row, 0),
					      .node = (uint64_t)pg_int(res, row, 1),
					      .at_us = pg_time(res, row, 2),
					      .kind = (enum store_change_kind)pg_array_int(kind),
					      .namespace = places[place].name,
					      .version = (uint64_t)pg_array_int(version),
					      .count = places[place].count,
					      .bytes = places[place].bytes};
		memcpy(change.id.b, id.p, sizeof(change.id.b));
		places[place].count = places[place].bytes = 0;
		more = fn(arg, &change);
	}
	free(places);
	return more;
}

enum store_rc pg_changes(struct store *s, uint64_t after, size_t max, store_change_fn *fn, void *arg, uint64_t *last_r)
{
	struct pg_params p = {.n = 0};
	PGresult *res = NULL;
	pg_param_int8(&p, (int64_t)after);
	pg_param_int8(&p, (int64_t)max);
	enum store_rc rc = pg_call(s, PG_CHANGES, &p, &res);
	pg_params_free(&p);
	*last_r = after;
	if (rc != STORE_OK)
		return rc;
	int n = pq.ntuples(res);
	uint64_t pruned = n ? (uint64_t)pg_int(res, 0, 10) : 0;
	for (int i = 0; i < n && !pg_is_null(res, i, 0); i++) {
		*last_r = (uint64_t)pg_int(res, i, 0);
		if (pruned <= after && !visit_row(res, i, fn, arg))
			break;
	}
	pq.clear(res);
	if (pruned <= after && *last_r > after)
		return STORE_OK;
	uint64_t now;
	rc = pg_revision(s, &now);
	if (rc != STORE_OK || (pruned <= after && now >= after))
		return rc;
	/* No longer kept; or never published here: the server's place was taken by a copy that lacks it. */
	*last_r = now;
	return STORE_NOT_FOUND;
}

/* How large the table may grow is the server's administrator's business: all daemons of the fleet fill it. */
enum store_rc pg_prune(struct store *s, int64_t keep_us, uint64_t keep_changes)
{
	struct pg_params p = {.n = 0};
	PGresult *res = NULL;
	(void)keep_changes;
	pg_param_double(&p, (double)keep_us / 1e6);
	enum store_rc rc = pg_call(s, PG_PRUNE, &p, &res);
	pg_params_free(&p);
	if (res)
		pq.clear(res);
	return rc;
}

/* ---- waking up ---- */

void pg_on_notified(void *arg)
{
	struct store *s = arg;
	s->notified = true;
	event_base_loopbreak(s->loop);
}

static enum store_rc subscribe(struct store *s)
{
	PGresult *res = NULL;
	if (s->listening == pg_link_session(s->link))
		return STORE_OK;
	enum store_rc rc = pg_call_text(s, "LISTEN orchestra", NULL, &res);
	if (rc != STORE_OK)
		return rc;
	pq.clear(res);
	s->listening = pg_link_session(s->link);
	s->notified = true; /* something may have come before */
	return STORE_OK;
}

enum store_rc pg_listen(struct store *s, int64_t max_us, const _Atomic bool *stop)
{
	int64_t until = clock_mono_us() + max_us, left;
	enum store_rc rc = subscribe(s);
	while (!s->notified && !atomic_load(stop) && (left = until - clock_mono_us()) > 0) {
		struct timeval t = {0, left < 100000 ? left : 100000};
		event_base_loopexit(s->loop, &t);
		event_base_dispatch(s->loop);
	}
	s->notified = false;
	return rc;
}
