/* COPY in binary: what a large import is written with. It asks nothing about what is there, so a batch in which one
 * memory turns out not to be new is written again the other way (write.c). */
#include <endian.h>
#include <poll.h>
#include <stdlib.h>

#include "batch.h"
#include "clock.h"
#include "link-private.h"

/* ---- the connection ---- */

static bool wait_for(struct pg_link *l, short events, int64_t until_us)
{
	int64_t left = until_us - clock_mono_us();
	struct pollfd p = {pq.socket(l->c), events, 0};
	return left > 0 && poll(&p, 1, (int)(left / 1000) + 1) > 0;
}

/* Sends what libpq holds, and takes what comes meanwhile. */
static bool flush(struct pg_link *l, int64_t until_us)
{
	for (int left; (left = pq.flush(l->c)) != 0;)
		if (left < 0 || !wait_for(l, POLLIN | POLLOUT, until_us) || !pq.consumeInput(l->c))
			return false;
	return true;
}

static bool result(struct pg_link *l, int64_t until_us, PGresult **res_r)
{
	*res_r = NULL;
	if (!flush(l, until_us))
		return false;
	while (pq.isBusy(l->c))
		if (!wait_for(l, POLLIN, until_us) || !pq.consumeInput(l->c))
			return false;
	*res_r = pq.getResult(l->c);
	return true;
}

static bool put(struct pg_link *l, const struct buf *b, int64_t until_us)
{
	int done;
	while ((done = pq.putCopyData(l->c, b->p, (int)b->len)) == 0)
		if (!wait_for(l, POLLIN | POLLOUT, until_us) || !pq.consumeInput(l->c))
			return false;
	return done == 1;
}

static bool put_all(struct pg_link *l, bool (*next)(void *, struct buf *), void *arg)
{
	struct buf b = {0};
	bool ok = true, more = true;
	while (ok && more) {
		b.len = 0;
		more = next(arg, &b);
		/* The time is for the server to take a piece, not for the whole. */
		ok = !b.len || put(l, &b, clock_mono_us() + l->conf.answer_timeout_us);
	}
	buf_free(&b);
	return ok && pq.putCopyEnd(l->c, NULL) == 1;
}

static bool converse(struct pg_link *l, const char *sql, bool (*next)(void *, struct buf *), void *arg,
		     PGresult **res_r)
{
	PGresult *end;
	int64_t until = clock_mono_us() + l->conf.answer_timeout_us;
	if (!pq.exitPipelineMode(l->c) || !pq.sendQuery(l->c, sql) || !result(l, until, res_r) || !*res_r)
		return false;
	if (pq.resultStatus(*res_r) == PGRES_COPY_IN) {
		pq.clear(*res_r);
		*res_r = NULL;
		if (!put_all(l, next, arg) || !result(l, clock_mono_us() + l->conf.answer_timeout_us, res_r) || !*res_r)
			return false;
	}
	until = clock_mono_us() + l->conf.answer_timeout_us;
	while (result(l, until, &end) && end)
		pq.clear(end);
	return pq.status(l->c) == CONNECTION_OK && pq.enterPipelineMode(l->c);
}

enum pg_fate pg_link_copy(struct pg_link *l, const char *sql, bool (*next)(void *, struct buf *), void *arg,
			  PGresult **res_r)
{
	*res_r = NULL;
	if (l->state != LINK_READY || !pg_pipe_idle(l))
		return PG_UNSENT;
	event_del(l->io);
	bool ok = converse(l, sql, next, arg, res_r);
	event_add(l->io, NULL);
	if (ok)
		return PG_DONE;
	if (*res_r)
		pq.clear(*res_r);
	*res_r = NULL;
	pg_link_drop(l, *pq.errorMessage(l->c) ? pq.errorMessage(l->c) : "no answer to COPY");
	return PG_UNKNOWN;
}

/* ---- the rows ---- */

struct rows {
	struct store *s;
	size_t at;
	bool headed;
};

static void add32(struct buf *b, uint32_t v)
{
	v = htobe32(v);
	buf_add(b, &v, sizeof(v));
}

/* Signature, flags, no extension; rows of a count and of lengths and values, https://www.postgresql.org/docs/15/sql-copy.html */
static void row(struct buf *b, struct pg_params *p)
{
	uint16_t n = htobe16((uint16_t)p->n);
	pg_params_ready(p);
	buf_add(b, &n, sizeof(n));
	for (int i = 0; i < p->n; i++) {
		add32(b, p->v[i] ? (uint32_t)p->len[i] : UINT32_MAX);
		buf_add(b, p->v[i], p->v[i] ? (size_t)p->len[i] : 0);
	}
}

static bool next_piece(void *arg, struct buf *b)
{
	struct rows *r = arg;
	struct pg_batch *batch = r->s->batch;
	if (!r->headed) {
		buf_add(b, "PGCOPY\n\377\r\n\0\0\0\0\0\0\0\0\0", 19);
		r->headed = true;
	}
	while (r->at < batch->n && b->len < 65536) {
		struct pg_entry *e = &batch->v[r->at++];
		struct memory m;
		if (e->how != HOW_ADD)
			continue;
		AN(memory_decode(batch->bytes.p + e->at, e->len, &m));
		pg_write_memory(r->s, e, &m);
		row(b, &batch->params);
		pg_params_reset(&batch->params);
	}
	if (r->at < batch->n)
		return true;
	buf_add(b, "\377\377", 2);
	return false;
}

/* A mark of a deletion, which the new row must not pass by. */
static enum store_rc any_deleted(struct store *s, bool *any_r)
{
	struct pg_batch *b = s->batch;
	struct uuid *ids = util_alloc((b->n + 1) * sizeof(*ids));
	PGresult *res = NULL;
	size_t n = 0;
	for (size_t i = 0; i < b->n; i++)
		if (b->v[i].how == HOW_ADD)
			ids[n++] = b->v[i].id;
	pg_param_uuids(&b->params, ids, n);
	enum store_rc rc = pg_call(s, PG_ANY_DELETED, &b->params, &res);
	pg_params_reset(&b->params);
	free(ids);
	if (rc != STORE_OK)
		return rc;
	*any_r = pq.ntuples(res) > 0;
	pq.clear(res);
	return STORE_OK;
}

enum store_rc pg_copy_adds(struct store *s, bool *done_r)
{
	bool any = false;
	enum store_rc found = any_deleted(s, &any);
	*done_r = found == STORE_OK && !any;
	if (!*done_r)
		return found;
	struct rows r = {.s = s};
	PGresult *res;
	enum pg_fate fate = pg_link_copy(s->link, "COPY memories FROM STDIN (FORMAT binary)", next_piece, &r, &res);
	enum store_rc rc = pg_outcome(s, s->link, fate, res);
	if (res)
		pq.clear(res);
	for (size_t i = 0; rc == STORE_OK && i < s->batch->n; i++)
		if (s->batch->v[i].how == HOW_ADD)
			s->batch->v[i].effect = EFFECT_STORED;
	return rc;
}
