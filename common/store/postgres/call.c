/* A thread asks and waits. The connection is its own, and it drives it meanwhile; or one that the process's threads
 * share and the worker's loop drives. */
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "breaker.h"
#include "clock.h"
#include "postgres-private.h"
#include "trace/trace.h"

static const char *const statements[] = {
#define STATEMENT(id, sql) sql,
#include "statements.def"
#undef STATEMENT
	NULL};
_Static_assert(PG_STATEMENTS <= PG_PREPARED_MAX, "link.h");

enum store_rc pg_fail(struct store *s, enum store_rc rc, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(s->error, sizeof(s->error), fmt, ap);
	va_end(ap);
	s->error[strcspn(s->error, "\n")] = 0;
	return rc;
}

/* ---- what an error means ---- */

static bool in(const char *state, const char *const *list)
{
	for (; *list; list++)
		if (strncmp(state, *list, strlen(*list)) == 0)
			return true;
	return false;
}

/* By class or code, https://www.postgresql.org/docs/15/errcodes-appendix.html. */
static enum store_rc meaning(const char *state)
{
	static const char *const again[] = {"40001", "40P01", "55P03", NULL};
	static const char *const away[] = {"08", "53", "57", "58", "25006", "25P03", "28", "3D000", "XX000", NULL};
	static const char *const rejected[] = {"21", "22", "23", "44", "54", "P0001", NULL};
	if (!state)
		return STORE_AWAY;
	return in(state, again)	     ? STORE_BUSY
	       : in(state, away)     ? STORE_AWAY
	       : in(state, rejected) ? STORE_REJECTED
				     : STORE_ERROR;
}

enum store_rc pg_outcome(struct store *s, struct pg_link *l, enum pg_fate fate, const PGresult *res)
{
	char why[400];
	if (fate != PG_DONE) {
		pg_link_error(l, why, sizeof(why));
		return pg_fail(s, STORE_AWAY, "%s", why);
	}
	switch (pq.resultStatus(res)) {
	case PGRES_COMMAND_OK:
	case PGRES_TUPLES_OK: return STORE_OK;
	case PGRES_PIPELINE_ABORTED: return STORE_BUSY;
	default: break;
	}
	const char *state = pq.resultErrorField(res, PG_DIAG_SQLSTATE);
	const char *text = pq.resultErrorField(res, PG_DIAG_MESSAGE_PRIMARY);
	const char *detail = pq.resultErrorField(res, PG_DIAG_MESSAGE_DETAIL);
	return pg_fail(s, meaning(state), "%s%s%s (SQLSTATE %s)", text ? text : pq.resultErrorMessage(res),
		       detail ? ": " : "", detail ? detail : "", state ? state : "unknown");
}

/* ---- waiting ---- */

struct wait {
	struct pg_request r;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool done;
	enum pg_fate fate;
	PGresult *res;
};

static void on_done(struct pg_request *r, enum pg_fate fate, PGresult *res)
{
	struct wait *w = r->arg;
	pthread_mutex_lock(&w->lock);
	w->fate = fate;
	w->res = res;
	w->done = true;
	pthread_cond_signal(&w->cond);
	pthread_mutex_unlock(&w->lock);
}

void pg_drive(struct store *s) { (void)!event_base_loop(s->loop, EVLOOP_ONCE); }

void pg_notice_end(struct store *s)
{
	if (!s->loop)
		return;
	pg_link_adopt(s->link);
	(void)!event_base_loop(s->loop, EVLOOP_NONBLOCK);
}

static void wait_for(struct store *s, struct pg_link *l, struct wait *w)
{
	pg_notice_end(s);
	pg_link_send(l, &w->r);
	while (s->loop && !w->done)
		pg_drive(s);
	pthread_mutex_lock(&w->lock);
	while (!w->done)
		pthread_cond_wait(&w->cond, &w->lock);
	pthread_mutex_unlock(&w->lock);
}

/* The statement with the comment that says on whose behalf it is, for a sampled trace; else NULL. It is not prepared, as each
 * has another text: the server parses and plans it once more, which only sampled reads pay for. */
static char *with_comment(const struct store *s, const char *sql)
{
	char comment[TRACE_COMMENT + 1], *text = NULL;
	if (s->writer || !trace_comment(comment))
		return NULL;
	return asprintf(&text, "%s %s", sql, comment) == -1 ? NULL : text;
}

static enum store_rc ask_server(struct store *s, int prepared, const char *sql, const struct pg_params *p,
				PGresult **res_r)
{
	char *told = with_comment(s, sql);
	struct wait w = {.r = {.prepared = told ? -1 : prepared,
			       .sql = told ? told : sql,
			       .params = (struct pg_params *)(uintptr_t)p,
			       .sync = true,
			       .done = on_done,
			       .arg = &w},
			 .lock = PTHREAD_MUTEX_INITIALIZER,
			 .cond = PTHREAD_COND_INITIALIZER};
	struct pg_link *l = prepared < 0 ? s->scan : s->link;
	wait_for(s, l, &w);
	free(told);
	enum store_rc rc = pg_outcome(s, l, w.fate, w.res);
	*res_r = rc == STORE_OK ? w.res : NULL;
	if (rc != STORE_OK && w.res)
		pq.clear(w.res);
	return rc;
}

/* The writer's batches are let in as a whole, by the flusher. */
static enum store_rc ask(struct store *s, int prepared, const char *sql, const struct pg_params *p, PGresult **res_r)
{
	struct breaker_pass pass;
	if (!s->conf.breaker || s->writer)
		return ask_server(s, prepared, sql, p, res_r);
	if (!breaker_ask(s->conf.breaker, clock_mono_us(), &pass))
		return pg_fail(s, STORE_AWAY, "the store's breaker is open; tried again in %lld ms",
			       (long long)breaker_retry_after_us(s->conf.breaker, clock_mono_us()) / 1000);
	enum store_rc rc = ask_server(s, prepared, sql, p, res_r);
	/* Who leaves has learnt nothing about the store. */
	enum breaker_result how = rc != STORE_AWAY	    ? BREAKER_OK
				  : pg_link_closed(s->link) ? BREAKER_VOID
							    : BREAKER_FAILED;
	breaker_report(s->conf.breaker, &pass, how, how == BREAKER_FAILED ? s->error : NULL, clock_mono_us());
	return rc;
}

enum store_rc pg_call(struct store *s, enum pg_stmt which, const struct pg_params *p, PGresult **res_r)
{
	return ask(s, (int)which, statements[which], p, res_r);
}

enum store_rc pg_call_text(struct store *s, const char *sql, const struct pg_params *p, PGresult **res_r)
{
	return ask(s, -1, sql, p, res_r);
}

const char *pg_statement(enum pg_stmt which) { return statements[which]; }
