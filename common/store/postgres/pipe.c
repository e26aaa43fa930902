/* The pipeline: requests out, answers in, in one order. */
#include <stdlib.h>

#include "clock.h"
#include "link-private.h"

#define BLOCKED_MAX 64
#define FLUSH_EVERY 64 /* requests behind which the server is asked to send what it has */

static void note(struct pg_link *l, int what, struct pg_request *r)
{
	if (l->sent_len == l->sent_cap) {
		size_t cap = l->sent_cap ? l->sent_cap * 2 : 64;
		struct sent *v = util_alloc(cap * sizeof(*v));
		for (size_t i = 0; i < l->sent_len; i++)
			v[i] = l->sent[(l->sent_head + i) % l->sent_cap];
		free(l->sent);
		l->sent = v;
		l->sent_cap = cap;
		l->sent_head = 0;
	}
	struct sent *s = &l->sent[(l->sent_head + l->sent_len++) % l->sent_cap];
	s->what = (__typeof__(s->what))what;
	s->r = r;
	s->at_us = clock_mono_us();
}

static struct sent drop_head(struct pg_link *l)
{
	struct sent s = l->sent[l->sent_head];
	l->sent_head = (l->sent_head + 1) % l->sent_cap;
	l->sent_len--;
	return s;
}

bool pg_link_blocked(const struct pg_link *l) { return l->state == LINK_READY && l->blocked > BLOCKED_MAX; }

bool pg_pipe_idle(const struct pg_link *l) { return !l->sent_len && !l->queue; }

/* ---- out ---- */

static bool is_prepared(const struct pg_link *l, int n) { return l->prepared[n / 64] >> (n % 64) & 1; }
static void set_prepared(struct pg_link *l, int n, bool on)
{
	uint64_t bit = 1ull << (n % 64);
	l->prepared[n / 64] = on ? l->prepared[n / 64] | bit : l->prepared[n / 64] & ~bit;
}

static void statement_name(int n, char out[8])
{
	out[0] = 's';
	out[1] = (char)('a' + n / 26);
	out[2] = (char)('a' + n % 26);
	out[3] = 0;
}

/* False: it failed half way, but is noted once, as under way as far as anybody can tell: whoever ends the connection tells
 * it so. */
static bool send_one(struct pg_link *l, struct pg_request *r)
{
	static const int binary[PG_PARAMS_MAX] = {[0 ... PG_PARAMS_MAX - 1] = 1};
	static struct pg_params none;
	struct pg_params *p = r->params ? r->params : &none;
	char name[8];
	int ok;
	pg_params_ready(p);
	if (r->prepared >= 0) {
		statement_name(r->prepared, name);
		if (!is_prepared(l, r->prepared)) {
			if (!pq.sendPrepare(l->c, name, r->sql, 0, NULL)) {
				note(l, SENT_QUERY, r);
				return false;
			}
			set_prepared(l, r->prepared, true);
			note(l, SENT_PREPARE, r);
		}
		note(l, SENT_QUERY, r);
		ok = pq.sendQueryPrepared(l->c, name, p->n, p->v, p->len, binary, 1);
	} else {
		note(l, SENT_QUERY, r);
		ok = pq.sendQueryParams(l->c, r->sql, p->n, NULL, p->v, p->len, binary, 1);
	}
	if (!ok)
		return false;
	l->unflushed++;
	if (r->sync) {
		if (!pq.pipelineSync(l->c))
			return false;
		note(l, SENT_SYNC, NULL);
		l->unflushed = 0;
	} else if (l->unflushed >= FLUSH_EVERY) {
		pq.sendFlushRequest(l->c);
		l->unflushed = 0;
	}
	return true;
}

static void broken(struct pg_link *l) { pg_link_drop(l, pq.errorMessage(l->c)); }

static void drain(struct pg_link *l);

/* A request that cannot be sent fails with the connection: libpq refuses for want of memory or socket only. */
void pg_pipe_pump(struct pg_link *l)
{
	if (l->pumping)
		return; /* from a done() */
	l->pumping = true;
	while (l->queue && l->state == LINK_READY) {
		struct pg_request *r = l->queue;
		l->queue = r->next;
		if (!l->queue)
			l->queue_end = &l->queue;
		if (r->session && r->session != atomic_load(&l->session)) {
			r->done(r, PG_UNSENT, NULL);
		} else if (!send_one(l, r)) {
			l->pumping = false;
			broken(l);
			return;
		}
	}
	l->pumping = false;
	if (l->state != LINK_READY)
		return;
	int left = pq.flush(l->c);
	l->blocked = left ? l->blocked + 1 : 0;
	if (left < 0) {
		broken(l);
		return;
	}
	pg_link_watch(l, left ? EV_READ | EV_WRITE : EV_READ);
	drain(l); /* libpq reads when it cannot write: no event comes for those answers */
}

void pg_link_flush(struct pg_link *l)
{
	if (l->state != LINK_READY || !l->unflushed)
		return;
	l->unflushed = 0;
	if (!pq.sendFlushRequest(l->c))
		broken(l);
	else
		pg_pipe_pump(l);
}

/* ---- in ---- */

static void answer(struct pg_link *l, PGresult *res)
{
	struct sent *s = &l->sent[l->sent_head];
	ExecStatusType st = pq.resultStatus(res);
	l->heard_us = clock_mono_us();
	if (s->what == SENT_PREPARE) {
		if (st != PGRES_COMMAND_OK) {
			set_prepared(l, s->r->prepared, false);
			if (st != PGRES_PIPELINE_ABORTED && !l->prepare_error) {
				l->prepare_error = res; /* the statement that it was for shows it */
				return;
			}
		}
		pq.clear(res);
		return;
	}
	if (l->got_result) { /* a statement that says more than one thing (COPY): the first counts */
		pq.clear(res);
		return;
	}
	l->got_result = true;
	if (l->prepare_error) {
		pq.clear(res);
		res = l->prepare_error;
		l->prepare_error = NULL;
	}
	s->r->done(s->r, PG_DONE, res);
}

/* False: nothing more for now. */
static bool take(struct pg_link *l)
{
	if (!l->sent_len || pq.isBusy(l->c))
		return false;
	PGresult *res = pq.getResult(l->c);
	struct sent *s = &l->sent[l->sent_head];
	if (!res) { /* end of a statement's answers */
		if (s->what == SENT_SYNC)
			return pq.status(l->c) == CONNECTION_OK && pq.isBusy(l->c);
		drop_head(l);
		l->got_result = false;
		return true;
	}
	if (pq.resultStatus(res) == PGRES_PIPELINE_SYNC) {
		pq.clear(res);
		if (s->what == SENT_SYNC)
			drop_head(l);
		return true;
	}
	if (s->what == SENT_SYNC) { /* the server says goodbye */
		pg_link_say(l, "%s", pq.resultErrorMessage(res));
		pq.clear(res);
		return false;
	}
	answer(l, res);
	return true;
}

/* All answers that libpq has. */
static void drain(struct pg_link *l)
{
	if (l->draining)
		return; /* from a done(): whoever called it goes on */
	l->draining = true;
	while (l->state == LINK_READY && take(l))
		;
	l->draining = false;
}

bool pg_pipe_read(struct pg_link *l)
{
	if (!pq.consumeInput(l->c))
		return false;
	drain(l);
	if (l->state != LINK_READY)
		return true;
	bool notified = false;
	for (PGnotify *n; (n = pq.notifies(l->c)); notified = true)
		pq.freemem(n);
	if (notified && l->conf.notified)
		l->conf.notified(l->conf.arg);
	return pq.status(l->c) == CONNECTION_OK;
}

/* ---- the end ---- */

void pg_pipe_fail_all(struct pg_link *l)
{
	struct pg_request *queue = l->queue;
	struct sent *sent = l->sent;
	size_t head = l->sent_head, len = l->sent_len, cap = l->sent_cap;
	bool answered = l->got_result;
	l->queue = NULL;
	l->queue_end = &l->queue;
	l->sent = NULL;
	l->sent_head = l->sent_len = l->sent_cap = 0;
	l->got_result = false;
	l->unflushed = l->blocked = 0;
	if (l->prepare_error)
		pq.clear(l->prepare_error);
	l->prepare_error = NULL;
	for (size_t i = 0; i < len; i++) {
		struct sent *s = &sent[(head + i) % cap];
		if (s->what == SENT_QUERY && !(answered && !i))
			s->r->done(s->r, PG_UNKNOWN, NULL);
	}
	free(sent);
	while (queue) {
		struct pg_request *r = queue;
		queue = r->next;
		r->done(r, PG_UNSENT, NULL);
	}
}
