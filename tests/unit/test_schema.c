/* The embedded migrations, their placeholders, and what is said of a database that is none to work with. No server. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "schema.h"

static void numbers_have_no_gaps(void **state)
{
	(void)state;
	assert_true(pg_migrations_n >= 2);
	for (unsigned i = 0; i < pg_migrations_n; i++) {
		const struct pg_migration *m = &pg_migrations[i];
		assert_int_equal(m->version, i + 1);
		assert_true(*m->name && *m->up && *m->down);
		for (unsigned k = 0; k < i; k++)
			assert_true(pg_migration_checksum(m) != pg_migration_checksum(&pg_migrations[k]));
	}
}

/* A place that is not filled in would reach the server. */
static void places_are_filled(void **state)
{
	(void)state;
	for (unsigned i = 0; i < pg_migrations_n; i++)
		for (int down = 0; down < 2; down++)
			for (unsigned partitions = 0; partitions <= 8; partitions += 8) {
				struct buf b = {0};
				const char *sql = down ? pg_migrations[i].down : pg_migrations[i].up;
				pg_migrate_fill(&b, sql, "ext.vector", partitions);
				for (const char *p = b.p; (p = strchr(p, '@')); p++)
					assert_false(p[1] >= 'A' && p[1] <= 'Z');
				assert_int_equal(strlen(b.p), b.len);
				buf_free(&b);
			}
}

static size_t occurrences(const char *text, const char *what)
{
	size_t n = 0;
	for (; (text = strstr(text, what)); text++)
		n++;
	return n;
}

static void partitions_cover_every_remainder(void **state)
{
	(void)state;
	struct buf plain = {0}, parted = {0};
	pg_migrate_fill(&plain, pg_migrations[0].up, "bytea", 0);
	pg_migrate_fill(&parted, pg_migrations[0].up, "bytea", 3);
	assert_int_equal(occurrences(plain.p, "PARTITION"), 0);
	assert_non_null(strstr(plain.p, "PRIMARY KEY (id)"));
	assert_non_null(strstr(parted.p, "PARTITION BY HASH (namespace)"));
	assert_non_null(strstr(parted.p, "PRIMARY KEY (id, namespace)"));
	assert_int_equal(occurrences(parted.p, "MODULUS 3, REMAINDER"), 3);
	assert_non_null(strstr(parted.p, "memories_2 PARTITION OF memories FOR VALUES WITH (MODULUS 3, REMAINDER 2)"));
	buf_free(&plain);
	buf_free(&parted);
	pg_migrate_fill(&parted, "SELECT 1;\n", "bytea", 3); /* a later migration makes no partitions */
	assert_string_equal(parted.p, "SELECT 1;\n");
	buf_free(&parted);
}

static struct pg_schema_status *good(void)
{
	struct pg_schema_status *st = util_zalloc(sizeof(*st));
	st->server = PG_SERVER_MIN;
	st->may_look = true;
	snprintf(st->encoding, sizeof(st->encoding), "UTF8");
	snprintf(st->schema, sizeof(st->schema), "public");
	snprintf(st->role, sizeof(st->role), "\"Ada\"");
	return st;
}

static void refuses(struct pg_schema_status *st, const char *with)
{
	char *error = NULL;
	assert_false(pg_schema_judge(st, &error));
	if (!strstr(error, with))
		fail_msg("\"%s\" does not say \"%s\"", error, with);
	free(error);
	free(st);
}

static void judges(void **state)
{
	(void)state;
	char *error = NULL;
	struct pg_schema_status *st = good();
	assert_true(pg_schema_judge(st, &error));
	assert_true(pg_schema_may_write(st, &error));
	snprintf(st->denied, sizeof(st->denied), "memories");
	assert_false(pg_schema_may_write(st, &error));
	assert_non_null(strstr(error, "ON ALL TABLES IN SCHEMA public TO \"Ada\""));
	free(error);
	st->server = 140012;
	refuses(st, "PostgreSQL 14.12; 15 or newer");
	snprintf((st = good())->encoding, sizeof(st->encoding), "LATIN1");
	refuses(st, "LATIN1");
	(st = good())->may_look = false;
	refuses(st, "GRANT SELECT ON public.memory_schema TO \"Ada\"");
	(st = good())->version = pg_migrations_n + 1;
	refuses(st, "use the newer program");
	st = good();
	st->n = 1;
	st->rows[0].version = 2;
	refuses(st, "damaged");
}

static void tells_a_dsn_from_a_path(void **state)
{
	(void)state;
	assert_true(pg_plain_is_dsn("postgresql://u@h/d"));
	assert_true(pg_plain_is_dsn("postgres://h"));
	assert_true(pg_plain_is_dsn("host=/run/postgresql dbname=x"));
	assert_false(pg_plain_is_dsn("/var/lib/orchestra/store.db"));
	assert_false(pg_plain_is_dsn("/var/a=b/store.db"));
	assert_false(pg_plain_is_dsn(""));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(numbers_have_no_gaps),
		cmocka_unit_test(places_are_filled),
		cmocka_unit_test(partitions_cover_every_remainder),
		cmocka_unit_test(judges),
		cmocka_unit_test(tells_a_dsn_from_a_path),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
