/* The schema as a daemon sees it when it opens the store. */
#define LOG_SUBSYSTEM LOG_IN_STORE
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

#include "log.h"
#include "postgres-private.h"
#include "schema.h"

#define WAIT_US 120000000  /* for another daemon that migrates */
#define LIMIT_US 600000000 /* for one migration */

static enum store_rc ask(void *arg, const char *sql, PGresult **res_r)
{
	struct pg_params none = {.n = 0};
	return pg_call_text(arg, sql, &none, res_r);
}

static enum store_rc must_check refuse(struct store *s, enum store_rc rc, char *error)
{
	rc = pg_fail(s, rc, "%s", error ? error : "the schema cannot be used");
	free(error);
	return rc;
}

static enum store_rc must_check look(struct store *s, struct pg_schema_status *st)
{
	char *error = NULL;
	enum store_rc rc = pg_schema_look(ask, s, st);
	if (rc != STORE_OK)
		return rc;
	if (!pg_schema_judge(st, &error))
		return refuse(s, STORE_ERROR, error);
	s->schema = (struct pg_schema){.version = st->version, .vector = st->vector, .partitions = st->partitions};
	snprintf(s->schema.vector_in, sizeof(s->schema.vector_in), "%s", st->vector_in);
	if (st->version && st->vector && !*st->vector_in)
		return pg_fail(
			s, STORE_ERROR,
			"the tables were made with pgvector, and its extension is not there any more: CREATE EXTENSION "
			"vector, and restore the embeddings from a backup");
	return STORE_OK;
}

static void log_it(void *arg, enum pg_say kind, const char *text)
{
	(void)arg;
	if (kind == PG_SAY_WARNING)
		log_warn("store: %s", text);
	else if (kind == PG_SAY_DONE)
		log_info("store: migration %s", text);
}

static enum store_rc must_check migrate(struct store *s)
{
	const struct pg_plain_conf c = {.dsn = s->conf.dsn,
					.application = "orchestra migration",
					.read_write = true,
					.limit_us = s->conf.connect_timeout_us};
	const struct pg_migrate what = {
		.to = UINT_MAX, .partitions = -1, .wait_us = WAIT_US, .limit_us = LIMIT_US, .say = log_it};
	char *error = NULL;
	enum store_rc rc = STORE_AWAY;
	struct pg_plain *p = pg_plain_open(&c, &error);
	if (p)
		rc = pg_migrate_run(p, &what, &error);
	pg_plain_close(&p);
	return rc == STORE_OK ? STORE_OK : refuse(s, rc == STORE_BUSY ? STORE_AWAY : rc, error);
}

static enum store_rc must_check prepare(struct store *s, struct pg_schema_status *st)
{
	char *error = NULL;
	enum store_rc rc = look(s, st);
	if (rc != STORE_OK)
		return rc;
	if (st->version < pg_migrations_n && !s->conf.migrate)
		return pg_fail(s, STORE_ERROR,
			       "the database has schema %u, this program needs %u, and store.migrate is manual: run "
			       "orchestractl migrate up",
			       st->version, pg_migrations_n);
	if (st->version < pg_migrations_n && !s->writer)
		return pg_fail(s, STORE_AWAY, "the database has schema %u, and the writer has not brought it to %u yet",
			       st->version, pg_migrations_n);
	if (st->version < pg_migrations_n) {
		rc = migrate(s);
		rc = rc == STORE_OK ? look(s, st) : rc;
	}
	if (rc == STORE_OK && s->writer && !pg_schema_may_write(st, &error))
		return refuse(s, STORE_ERROR, error);
	return rc;
}

bool pg_schema_read(struct store *s, enum store_rc *rc_r)
{
	struct pg_schema_status *st = util_zalloc(sizeof(*st));
	*rc_r = prepare(s, st);
	free(st);
	return *rc_r == STORE_OK;
}
