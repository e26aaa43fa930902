#include "plain.h"

#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "clock.h"

struct pg_plain {
	PGconn *conn;
	char error[768];
	char sqlstate[6];
};

static enum store_rc must_check printf_like(3, 4) fail(struct pg_plain *p, enum store_rc rc, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(p->error, sizeof(p->error), fmt, ap);
	va_end(ap);
	size_t n = strlen(p->error);
	while (n && (p->error[n - 1] == '\n' || p->error[n - 1] == ' '))
		p->error[--n] = '\0';
	for (char *c = p->error; *c; c++)
		if (*c == '\n' || *c == '\t')
			*c = ' ';
	p->sqlstate[0] = '\0';
	return rc;
}

/* False: the limit has passed. */
static bool wait_for(const struct pg_plain *p, short events, int64_t until_us)
{
	struct pollfd fd = {.fd = pq.socket(p->conn), .events = events};
	for (;;) {
		int64_t left = until_us - clock_mono_us();
		if (left <= 0)
			return false;
		int n = poll(&fd, 1, left > 60000000 ? 60000 : (int)(left / 1000) + 1);
		if (n > 0)
			return true;
	}
}

static int64_t until(int64_t limit_us) { return limit_us ? clock_mono_us() + limit_us : INT64_MAX; }

/* ---- connecting ---- */

static void ignore(void *arg, const PGresult *res)
{
	(void)arg;
	(void)res;
}

static enum store_rc must_check connect_within(struct pg_plain *p, const struct pg_plain_conf *c)
{
	/* What stands before the dsn it may change, what stands behind it not. */
	const char *const keys[] = {"application_name",
				    "keepalives_idle",
				    "tcp_user_timeout",
				    "target_session_attrs",
				    "dbname",
				    "client_encoding",
				    NULL};
	const char *const values[] = {c->application, "30",   "30000", c->read_write ? "read-write" : "any",
				      c->dsn,	      "UTF8", NULL};
	int64_t limit = until(c->limit_us);
	p->conn = pq.connectStartParams(keys, values, 1);
	AN(p->conn);
	PostgresPollingStatusType polling = PGRES_POLLING_WRITING;
	while (pq.status(p->conn) != CONNECTION_BAD && polling != PGRES_POLLING_OK && polling != PGRES_POLLING_FAILED) {
		if (!wait_for(p, polling == PGRES_POLLING_READING ? POLLIN : POLLOUT, limit))
			return fail(p, STORE_AWAY, "no connection within %.1f s", (double)c->limit_us / 1e6);
		polling = pq.connectPoll(p->conn);
	}
	if (pq.status(p->conn) != CONNECTION_OK)
		return fail(p, STORE_AWAY, "%s", pq.errorMessage(p->conn));
	pq.setNoticeReceiver(p->conn, ignore, NULL);
	return pq.setnonblocking(p->conn, 1) == 0 ? STORE_OK : fail(p, STORE_AWAY, "%s", pq.errorMessage(p->conn));
}

struct pg_plain *pg_plain_open(const struct pg_plain_conf *c, char **error_r)
{
	if (!pq_load(error_r))
		return NULL;
	struct pg_plain *p = util_zalloc(sizeof(*p));
	if (connect_within(p, c) == STORE_OK)
		return p;
	util_error(error_r, "%s", p->error);
	pg_plain_close(&p);
	return NULL;
}

void pg_plain_close(struct pg_plain **p)
{
	if (*p && (*p)->conn)
		pq.finish((*p)->conn);
	free(*p);
	*p = NULL;
}

/* ---- statements ---- */

static enum store_rc must_check broken(struct pg_plain *p)
{
	if (!p->conn)
		return fail(p, STORE_AWAY, "the connection is closed");
	enum store_rc rc = fail(p, STORE_AWAY, "%s", pq.errorMessage(p->conn));
	return *p->error ? rc : fail(p, STORE_AWAY, "the connection broke");
}

static enum store_rc must_check send_all(struct pg_plain *p, int64_t limit)
{
	int left;
	while ((left = pq.flush(p->conn)) == 1)
		if (!wait_for(p, POLLIN | POLLOUT, limit))
			return fail(p, STORE_AWAY, "the server did not take the statement in time");
		else if (!pq.consumeInput(p->conn))
			return broken(p);
	return left == 0 ? STORE_OK : broken(p);
}

static enum store_rc must_check take(struct pg_plain *p, int64_t limit, PGresult **res_r)
{
	while (pq.isBusy(p->conn)) {
		if (!wait_for(p, POLLIN, limit))
			return fail(p, STORE_AWAY, "no answer in time");
		if (!pq.consumeInput(p->conn))
			return broken(p);
	}
	*res_r = pq.getResult(p->conn);
	return STORE_OK;
}

static enum store_rc kind_of(const char *state)
{
	static const char *const away[] = {"08", "53", "57P", "25006"};
	for (size_t i = 0; i < ARRAY_LEN(away); i++)
		if (strncmp(state, away[i], strlen(away[i])) == 0)
			return STORE_AWAY;
	return strcmp(state, "55P03") == 0 ? STORE_BUSY : STORE_ERROR;
}

static enum store_rc must_check refused(struct pg_plain *p, const PGresult *res)
{
	const char *state = pq.resultErrorField(res, PG_DIAG_SQLSTATE);
	const char *text = pq.resultErrorField(res, PG_DIAG_MESSAGE_PRIMARY);
	const char *detail = pq.resultErrorField(res, PG_DIAG_MESSAGE_DETAIL);
	const char *hint = pq.resultErrorField(res, PG_DIAG_MESSAGE_HINT);
	if (!state || !text)
		return fail(p, STORE_AWAY, "%s", pq.resultErrorMessage(res));
	enum store_rc rc = fail(p, kind_of(state), "%s%s%s%s%s", text, detail ? ": " : "", detail ? detail : "",
				hint ? "; " : "", hint ? hint : "");
	snprintf(p->sqlstate, sizeof(p->sqlstate), "%.5s", state);
	return rc;
}

enum store_rc pg_plain_run(struct pg_plain *p, const char *sql, int64_t limit_us, PGresult **res_r)
{
	int64_t limit = until(limit_us);
	PGresult *res = NULL, *last = NULL;
	if (res_r)
		*res_r = NULL;
	if (!p->conn || pq.status(p->conn) != CONNECTION_OK || !pq.sendQuery(p->conn, sql))
		return broken(p);
	enum store_rc rc = send_all(p, limit);
	enum store_rc taking = rc;
	while (taking == STORE_OK && (taking = take(p, limit, &res)) == STORE_OK && res) {
		ExecStatusType status = pq.resultStatus(res);
		if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK && status != PGRES_EMPTY_QUERY &&
		    rc == STORE_OK)
			rc = refused(p, res);
		if (last)
			pq.clear(last);
		last = res;
	}
	rc = rc == STORE_OK ? taking : rc;
	if (taking != STORE_OK) { /* an answer may still come: it would be taken for the next one's */
		pq.finish(p->conn);
		p->conn = NULL;
	}
	if (rc == STORE_OK && res_r)
		*res_r = last;
	else if (last)
		pq.clear(last);
	return rc;
}

const char *pg_plain_error(const struct pg_plain *p) { return p->error; }
const char *pg_plain_sqlstate(const struct pg_plain *p) { return p->sqlstate; }

bool pg_plain_is_dsn(const char *text)
{
	const char *equals = strchr(text, '='), *slash = strchr(text, '/');
	return strncmp(text, "postgres://", 11) == 0 || strncmp(text, "postgresql://", 13) == 0 ||
	       (equals && (!slash || equals < slash));
}
