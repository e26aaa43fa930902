#include "schema.h"

#include <stdio.h>
#include <stdlib.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#define TABLES                                                                                                         \
	"'memories', 'memory_trash', 'memory_history', 'memory_namespaces', 'memory_idempotency', 'memory_nodes', "    \
	"'memory_changes'"
/* Everything as text, so that binary and textual results read the same. Only of a database's own catalogue: works whatever is
 * there. */
static const char about[] =
	"SELECT current_setting('server_version_num'), current_setting('server_encoding'), "
	"quote_ident(current_database()), quote_ident(current_user), "
	"coalesce(quote_ident(current_schema()), ''), "
	"coalesce((SELECT quote_ident(n.nspname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
	"WHERE c.oid = to_regclass('memory_schema')), ''), "
	"coalesce((SELECT quote_ident(n.nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace "
	"WHERE e.extname = 'vector'), ''), "
	"(EXISTS (SELECT FROM pg_available_extensions WHERE name = 'vector'))::text, "
	"coalesce(has_schema_privilege(current_schema(), 'CREATE'), false)::text, "
	"has_database_privilege(current_database(), 'CREATE')::text, pg_is_in_recovery()::text, "
	"coalesce(has_table_privilege(to_regclass('memory_schema'), 'SELECT'), true)::text, "
	"coalesce((SELECT string_agg(c.relname, ', ' ORDER BY c.relname) FROM pg_class c WHERE c.relnamespace = "
	"(SELECT relnamespace FROM pg_class WHERE oid = to_regclass('memory_schema')) AND CASE "
	"WHEN c.relname IN (" TABLES ") THEN NOT (has_table_privilege(c.oid, 'SELECT') AND "
	"has_table_privilege(c.oid, 'INSERT') AND has_table_privilege(c.oid, 'UPDATE') AND "
	"has_table_privilege(c.oid, 'DELETE')) "
	"WHEN c.relname = 'memory_revision' THEN NOT has_sequence_privilege(c.oid, 'USAGE') ELSE false END), ''), "
	"coalesce((SELECT string_agg(relname, ', ' ORDER BY relname) FROM pg_class WHERE relname IN (" TABLES
	", 'memory_revision') AND relnamespace = to_regnamespace(quote_ident(current_schema())) AND "
	"to_regclass('memory_schema') IS NULL), '')";
static const char applied[] = "SELECT version::text, name, checksum, "
			      "to_char(applied_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'), "
			      "coalesce(options->>'vector', 'false'), coalesce(options->>'partitions', '0') "
			      "FROM memory_schema ORDER BY version LIMIT 256";
_Static_assert(PG_APPLIED_MAX == 256, "LIMIT above");

uint64_t pg_migration_checksum(const struct pg_migration *m) { return XXH3_64bits(m->up, strlen(m->up)); }

static const char *cell(const PGresult *res, int row, int column) { return pq.getvalue(res, row, column); }
static bool truth(const PGresult *res, int row, int column) { return cell(res, row, column)[0] == 't'; }
#define COPY(to, res, row, column) snprintf(to, sizeof(to), "%s", cell(res, row, column))

static void take_about(struct pg_schema_status *st, const PGresult *res)
{
	st->server = atoi(cell(res, 0, 0));
	COPY(st->encoding, res, 0, 1);
	COPY(st->database, res, 0, 2);
	COPY(st->role, res, 0, 3);
	COPY(st->first, res, 0, 4);
	COPY(st->schema, res, 0, 5);
	COPY(st->vector_in, res, 0, 6);
	st->vector_available = truth(res, 0, 7);
	st->may_create = truth(res, 0, 8);
	st->may_extend = truth(res, 0, 9);
	st->standby = truth(res, 0, 10);
	st->may_look = truth(res, 0, 11);
	COPY(st->denied, res, 0, 12);
	COPY(st->foreign, res, 0, 13);
}

static void take_row(struct pg_schema_status *st, const PGresult *res, int row)
{
	char sum[17];
	struct pg_applied *a = &st->rows[st->n++];
	a->version = (unsigned)strtoul(cell(res, row, 0), NULL, 10);
	COPY(a->name, res, row, 1);
	COPY(a->applied_at, res, row, 3);
	a->state = PG_ROW_UNKNOWN;
	if (a->version && a->version <= pg_migrations_n) {
		snprintf(sum, sizeof(sum), "%016llx",
			 (unsigned long long)pg_migration_checksum(&pg_migrations[a->version - 1]));
		a->state = strcmp(sum, cell(res, row, 2)) == 0 ? PG_ROW_APPLIED : PG_ROW_CHANGED;
	}
	st->version = a->version;
	if (row == 0) {
		st->vector = truth(res, row, 4);
		st->partitions = (unsigned)strtoul(cell(res, row, 5), NULL, 10);
	}
}

enum store_rc pg_schema_look(pg_ask_fn *ask, void *arg, struct pg_schema_status *st_r)
{
	PGresult *res;
	*st_r = (struct pg_schema_status){.server = 0};
	enum store_rc rc = ask(arg, about, &res);
	if (rc != STORE_OK)
		return rc;
	take_about(st_r, res);
	pq.clear(res);
	if (*st_r->schema && st_r->may_look) {
		rc = ask(arg, applied, &res);
		if (rc != STORE_OK)
			return rc;
		for (int i = 0; i < pq.ntuples(res); i++)
			take_row(st_r, res, i);
		pq.clear(res);
	}
	for (unsigned v = st_r->version; v < pg_migrations_n && st_r->n < PG_APPLIED_MAX; v++) {
		struct pg_applied *a = &st_r->rows[st_r->n++];
		*a = (struct pg_applied){.version = v + 1, .state = PG_ROW_PENDING};
		snprintf(a->name, sizeof(a->name), "%s", pg_migrations[v].name);
	}
	return STORE_OK;
}

static enum store_rc ask_plain(void *arg, const char *sql, PGresult **res_r)
{
	return pg_plain_run(arg, sql, 30000000, res_r);
}

enum store_rc pg_schema_status(struct pg_plain *p, struct pg_schema_status *st_r)
{
	return pg_schema_look(ask_plain, p, st_r);
}

bool pg_schema_judge(const struct pg_schema_status *st, char **error_r)
{
	if (st->server < PG_SERVER_MIN)
		return util_error(error_r, "the server is PostgreSQL %d.%d; %d or newer is needed", st->server / 10000,
				  st->server % 10000, PG_SERVER_MIN / 10000);
	if (strcmp(st->encoding, "UTF8") != 0)
		return util_error(
			error_r,
			"the database %s has the encoding %s, and memories are UTF-8: make another one (CREATE "
			"DATABASE … ENCODING 'UTF8' TEMPLATE template0) and name it in store.dsn",
			st->database, st->encoding);
	if (!st->may_look)
		return util_error(error_r,
				  "the role %s may not read %s.memory_schema: GRANT SELECT ON %s.memory_schema TO %s",
				  st->role, st->schema, st->schema, st->role);
	if (st->version > pg_migrations_n)
		return util_error(
			error_r,
			"the database has schema %u, this program knows %u: use the newer program, or with it "
			"orchestractl migrate down --to %u",
			st->version, pg_migrations_n, pg_migrations_n);
	for (size_t i = 0; i < st->n; i++)
		if (st->rows[i].version != i + 1)
			return util_error(
				error_r,
				"memory_schema lists migration %u where %zu is expected: the schema is damaged; "
				"restore it from a backup",
				st->rows[i].version, i + 1);
	return true;
}

bool pg_schema_may_write(const struct pg_schema_status *st, char **error_r)
{
	if (!*st->denied)
		return true;
	return util_error(
		error_r,
		"the role %s may not read and write %s: GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN "
		"SCHEMA %s TO %s; GRANT USAGE ON ALL SEQUENCES IN SCHEMA %s TO %s",
		st->role, st->denied, st->schema, st->role, st->schema, st->role);
}
