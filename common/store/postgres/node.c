/* The daemon as one writer among others: its row in memory_nodes, and that nobody else writes under its number. */
#include "postgres-private.h"

static enum store_rc refuse_copy(struct store *s, const struct pg_params *node)
{
	PGresult *res = NULL;
	enum store_rc rc = pg_call(s, PG_NODE_HOLDER, node, &res);
	if (rc != STORE_OK)
		return rc;
	bool known = pq.ntuples(res) > 0;
	struct span from = known ? pg_text(res, 0, 0) : SPAN_LIT("?"),
		    since = known ? pg_text(res, 0, 1) : SPAN_LIT("?");
	rc = pg_fail(
		s, STORE_AWAY,
		"another daemon writes with this one's number %016llx, from %.*s since %.*s: is data.dir a copy of "
		"its? To make the copy a daemon of its own, stop it and remove node and journal from its data.dir",
		(unsigned long long)s->conf.node, (int)from.len, from.p, (int)since.len, since.p);
	pq.clear(res);
	return rc;
}

/* Of two daemons with one number, of which one has a copy of the other's data.dir, only one gets to write: each
 * would take what the other has flushed for its own. */
static enum store_rc claim(struct store *s)
{
	struct pg_params p = {.n = 0};
	PGresult *res = NULL;
	pg_param_int8(&p, (int64_t)s->conf.node);
	enum store_rc rc = pg_call(s, PG_NODE_CLAIM, &p, &res);
	if (rc == STORE_BUSY)
		rc = refuse_copy(s, &p);
	pg_params_free(&p);
	if (res)
		pq.clear(res);
	return rc;
}

enum store_rc pg_end_former(struct store *s)
{
	struct pg_params p = {.n = 0};
	PGresult *res = NULL;
	pg_param_text(&p, SPAN(s->application));
	enum store_rc rc = pg_call(s, PG_END_FORMER, &p, &res);
	pg_params_free(&p);
	if (res)
		pq.clear(res);
	if (rc == STORE_OK && s->claimed != pg_link_session(s->link))
		rc = claim(s);
	if (rc == STORE_OK)
		s->session = s->claimed = pg_link_session(s->link);
	return rc;
}

static enum store_rc node_row(struct store *s, int64_t *cursor_r, int64_t *scrub_r)
{
	struct pg_params p = {.n = 0};
	PGresult *res = NULL;
	pg_param_int8(&p, (int64_t)s->conf.node);
	enum store_rc rc = pg_call(s, PG_NODE_GET, &p, &res);
	pg_params_free(&p);
	*cursor_r = *scrub_r = 0;
	if (rc != STORE_OK)
		return rc;
	if (pq.ntuples(res)) {
		*cursor_r = pg_int(res, 0, 0);
		*scrub_r = pg_int(res, 0, 1);
	}
	pq.clear(res);
	return STORE_OK;
}

/* Behind the transaction of a connection that broke, if there still is one: its fate is not known before. */
enum store_rc pg_cursor(struct store *s, uint64_t *seq_r)
{
	int64_t cursor, scrub;
	enum store_rc rc = s->writer ? pg_end_former(s) : STORE_OK;
	rc = rc == STORE_OK ? node_row(s, &cursor, &scrub) : rc;
	if (rc == STORE_OK)
		*seq_r = s->cursor = (uint64_t)cursor;
	return rc;
}

enum store_rc pg_scrub_due(struct store *s, uint64_t *seq_r)
{
	int64_t cursor, scrub;
	enum store_rc rc = node_row(s, &cursor, &scrub);
	*seq_r = rc == STORE_OK ? (uint64_t)scrub : 0;
	return rc;
}

enum store_rc pg_scrub(struct store *s)
{
	struct pg_params p = {.n = 0};
	PGresult *res = NULL;
	pg_param_int8(&p, (int64_t)s->conf.node);
	enum store_rc rc = pg_call(s, PG_NODE_SCRUBBED, &p, &res);
	pg_params_free(&p);
	if (res)
		pq.clear(res);
	return rc;
}
