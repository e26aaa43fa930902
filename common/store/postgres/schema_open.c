/* The schema as a daemon sees it when it opens the store. */
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

static enum store_rc must_check read_status(struct store *s, bool writer, struct pg_schema_status *st)
{
	char *error = NULL;
	enum store_rc rc = pg_schema_look(ask, s, st);
	if (rc != STORE_OK)
		return rc;
	if (!pg_schema_judge(st, &error) || (writer && !pg_schema_may_write(st, &error))) {
		rc = pg_fail(s, STORE_ERROR, "%s", error ? error : "the schema cannot be used");
		free(error);
		return rc;
	}
	s->schema = (struct pg_schema){.version = st->version, .vector = st->vector, .partitions = st->partitions};
	snprintf(s->schema.vector_in, sizeof(s->schema.vector_in), "%s", st->vector_in);
	if (st->version && st->vector && !*st->vector_in)
		return pg_fail(s, STORE_ERROR,
			       "the tables were made with pgvector, and its extension is not there any more: CREATE EXTENSION "
			       "vector, and restore the embeddings from a backup");
	return STORE_OK;
}

enum store_rc pg_schema_read(struct store *s, bool writer)
{
	struct pg_schema_status *st = util_zalloc(sizeof(*st));
	enum store_rc rc = read_status(s, writer, st);
	free(st);
	return rc;
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
	if (rc != STORE_OK)
		rc = pg_fail(s, rc, "%s", error ? error : "the schema cannot be migrated");
	free(error);
	return rc;
}

enum store_rc pg_schema_migrate(struct store *s)
{
	enum store_rc rc = pg_schema_read(s, true);
	if (rc != STORE_OK || s->schema.version == pg_migrations_n)
		return rc;
	if (!s->conf.migrate)
		return pg_fail(s, STORE_ERROR,
			       "the database has schema %u, this program needs %u, and store.migrate is manual: run "
			       "orchestractl migrate up",
			       s->schema.version, pg_migrations_n);
	rc = migrate(s);
	return rc == STORE_OK ? pg_schema_read(s, true) : rc;
}
