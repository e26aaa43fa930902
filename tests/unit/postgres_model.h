/* Tests on PostgreSQL: a database of its own for each, on the server that ORCHESTRA_TEST_PG names (libpq's keywords;
 * tests/it/postgres.py run -- COMMAND starts one). Without it they are skipped. */
#ifndef ORC_TEST_POSTGRES_MODEL_H
#define ORC_TEST_POSTGRES_MODEL_H
#include <limits.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <cmocka.h>

#include "plain.h"
#include "postgres-private.h"
#include "schema.h"

#define PG_HELPER __attribute__((unused)) static /* each test uses some of these */
#define PG_TEST_LIMIT_US 60000000

static char pg_test_dsn[1024], pg_test_database[64];
static struct pg_plain *pg_test_session; /* in the database of the test */
static int pg_test_partitions;		 /* of its tables */

/* PGVECTOR 1: on the server with pgvector that ORCHESTRA_TEST_PGVECTOR names (tests/it/pglite.py run -- COMMAND); it has
 * one database, which is emptied. */
#ifndef PGVECTOR
#define PGVECTOR 0
#endif

PG_HELPER const char *pg_test_server(void)
{
	const char *name = PGVECTOR ? "ORCHESTRA_TEST_PGVECTOR" : "ORCHESTRA_TEST_PG", *dsn = getenv(name);
	if (!dsn || !*dsn) {
		fprintf(stderr, "skipped: %s names no server\n", name);
		exit(77);
	}
	return dsn;
}

PG_HELPER struct pg_plain *pg_test_connect(const char *dsn)
{
	char *error = NULL;
	struct pg_plain *p = pg_plain_open(
		&(struct pg_plain_conf){
			.dsn = dsn, .application = "orchestra test", .read_write = true, .limit_us = PG_TEST_LIMIT_US},
		&error);
	if (!p)
		fail_msg("%s", error);
	return p;
}

PG_HELPER void pg_test_run(struct pg_plain *p, const char *sql, struct buf *out)
{
	PGresult *res = NULL;
	if (pg_plain_run(p, sql, PG_TEST_LIMIT_US, &res) != STORE_OK)
		fail_msg("%s: %s", sql, pg_plain_error(p));
	for (int i = 0; out && i < pq.ntuples(res); i++) {
		for (int k = 0; k < pq.nfields(res); k++)
			buf_printf(out, "%s|", pq.getisnull(res, i, k) ? "-" : pq.getvalue(res, i, k));
		buf_addc(out, '\n');
	}
	pq.clear(res);
}

/* Rows as text, a | behind each value; out NULL: whatever. */
PG_HELPER void pg_test_sql(const char *sql, struct buf *out) { pg_test_run(pg_test_session, sql, out); }

PG_HELPER void pg_test_server_sql(const char *fmt)
{
	char sql[256];
	struct pg_plain *p = pg_test_connect(pg_test_server());
	snprintf(sql, sizeof(sql), fmt, pg_test_database);
	pg_test_run(p, sql, NULL);
	pg_plain_close(&p);
}

PG_HELPER void pg_test_begin(void)
{
	static unsigned n;
#if PGVECTOR
	snprintf(pg_test_dsn, sizeof(pg_test_dsn), "%s", pg_test_server());
	pg_test_session = pg_test_connect(pg_test_dsn);
	pg_test_run(pg_test_session, "DEALLOCATE ALL; DROP SCHEMA public CASCADE; CREATE SCHEMA public", NULL);
	return;
#endif
	snprintf(pg_test_database, sizeof(pg_test_database), "orchestra_test_%ld_%u", (long)getpid(), n++);
	snprintf(pg_test_dsn, sizeof(pg_test_dsn), "%s dbname=%s", pg_test_server(), pg_test_database);
	/* Of an order of texts that is not that of their bytes. */
	pg_test_server_sql(
		"CREATE DATABASE %s TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C' LOCALE_PROVIDER icu ICU_LOCALE 'en-US'");
	pg_test_session = pg_test_connect(pg_test_dsn);
	char *error = NULL;
	struct pg_migrate how = {.to = UINT_MAX,
				 .partitions = pg_test_partitions,
				 .wait_us = PG_TEST_LIMIT_US,
				 .limit_us = PG_TEST_LIMIT_US};
	if (pg_test_partitions && pg_migrate_run(pg_test_session, &how, &error) != STORE_OK)
		fail_msg("%s", error);
}

PG_HELPER void pg_test_end(void)
{
	pg_plain_close(&pg_test_session);
	if (!PGVECTOR)
		pg_test_server_sql("DROP DATABASE %s WITH (FORCE)");
}

PG_HELPER struct store_conf pg_test_conf(void)
{
	return (struct store_conf){
		.kind = "postgres",
		.dsn = pg_test_dsn,
		.node = (uint64_t)getpid(), /* a batch ends the connections of its node's predecessor */
		.purpose = "test",
		.connect_timeout_us = PG_TEST_LIMIT_US,
		.answer_timeout_us = PG_TEST_LIMIT_US,
		.migrate = true};
}
#endif
