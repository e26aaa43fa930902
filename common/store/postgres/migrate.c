/* From one version of the schema to another. */
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "schema.h"

#define CONTROL_US 30000000 /* for BEGIN, COMMIT and questions */
#define STR2(x) #x
#define STR(x) STR2(x)

struct run {
	struct pg_plain *p;
	const struct pg_migrate *what;
	struct pg_schema_status st;
	bool vector; /* as chosen; holds from the first migration on */
	unsigned partitions;
	unsigned to;
	char **error_r;
};

static void printf_like(3, 4) say(const struct run *r, enum pg_say kind, const char *fmt, ...)
{
	char *text = NULL;
	va_list ap;
	if (!r->what->say)
		return;
	va_start(ap, fmt);
	if (vasprintf(&text, fmt, ap) != -1)
		r->what->say(r->what->arg, kind, text);
	va_end(ap);
	free(text);
}

/* Of the server's words, with `context` before and the remedy behind. */
static enum store_rc must_check printf_like(3, 4) fail(struct run *r, enum store_rc rc, const char *fmt, ...)
{
	char context[256];
	const struct pg_schema_status *st = &r->st;
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(context, sizeof(context), fmt, ap);
	va_end(ap);
	const char *text = pg_plain_error(r->p);
	if (strcmp(pg_plain_sqlstate(r->p), "42501") == 0)
		util_error(
			r->error_r,
			"%s: %s. The role %s needs to own the tables, or for the first time: GRANT CREATE ON SCHEMA %s TO "
			"%s; or let the owner run orchestractl migrate up",
			context, text, st->role, *st->first ? st->first : "public", st->role);
	else if (rc == STORE_BUSY)
		util_error(r->error_r,
			   "%s: %s; somebody's transaction holds a table: see pg_stat_activity, and try again", context,
			   text);
	else
		util_error(r->error_r, "%s: %s", context, text);
	return rc;
}

/* ---- texts ---- */

static void replace(struct buf *b, const char *what, const char *with)
{
	char *at;
	size_t n = strlen(what);
	while ((at = strstr(b->p, what)))
		buf_replace(b, (size_t)(at - b->p), n, with);
}

void pg_migrate_fill(struct buf *out, const char *sql, const char *vector_type, unsigned partitions)
{
	bool partitioned = partitions && strstr(sql, "@PARTITION@");
	buf_adds(out, sql);
	buf_addc(out, '\0');
	replace(out, "@VECTOR@", vector_type);
	replace(out, "@KEY@", partitions ? "id, namespace" : "id");
	replace(out, " @PARTITION@", partitions ? " PARTITION BY HASH (namespace)" : "");
	out->len = strlen(out->p);
	for (unsigned i = 0; partitioned && i < partitions; i++)
		buf_printf(
			out,
			"CREATE TABLE memories_%u PARTITION OF memories FOR VALUES WITH (MODULUS %u, REMAINDER %u);\n",
			i, partitions, i);
	buf_addc(out, '\0');
	out->len--;
}

/* ---- before anything is done ---- */

/* The lock is the session's: whatever ends this connection gives it back. */
static enum store_rc must_check take_lock(struct run *r)
{
	char sql[160];
	PGresult *res;
	int64_t wait_ms = r->what->wait_us / 1000;
	snprintf(sql, sizeof(sql), "SET lock_timeout = %lld; SELECT pg_advisory_lock(%d, %d)",
		 (long long)(wait_ms > 0 ? wait_ms : 1), PG_LOCK_CLASS, PG_LOCK_MIGRATE);
	enum store_rc rc = pg_plain_run(r->p, sql, r->what->wait_us + CONTROL_US, NULL);
	if (rc == STORE_OK)
		return STORE_OK;
	if (rc != STORE_BUSY)
		return fail(r, rc, "the lock for migrations");
	rc = pg_plain_run(
		r->p,
		"SELECT coalesce(string_agg(format('%s (pid %s)', coalesce(nullif(application_name, ''), '?'), pid), "
		"', '), 'somebody') FROM pg_stat_activity JOIN pg_locks USING (pid) WHERE locktype = 'advisory' AND "
		"granted AND classid = " STR(PG_LOCK_CLASS) " AND objid = " STR(PG_LOCK_MIGRATE),
		CONTROL_US, &res);
	util_error(r->error_r, "%s has been migrating this database for more than %.1f s; try again later",
		   rc == STORE_OK ? pq.getvalue(res, 0, 0) : "somebody", (double)r->what->wait_us / 1e6);
	if (rc == STORE_OK)
		pq.clear(res);
	return STORE_BUSY;
}

static enum store_rc must_check refuse_changed(struct run *r)
{
	for (size_t i = 0; i < r->st.n; i++) {
		const struct pg_applied *a = &r->st.rows[i];
		if (a->state != PG_ROW_CHANGED || r->what->force)
			continue;
		util_error(
			r->error_r,
			"migration %04u_%s was applied on %s from another text than this program has: use the program that "
			"did it, or --force when the difference is known to be harmless",
			a->version, a->name, a->applied_at);
		return STORE_ERROR;
	}
	return STORE_OK;
}

static enum store_rc must_check refuse_daemons(struct run *r)
{
	PGresult *res;
	enum store_rc rc = pg_plain_run(
		r->p,
		"SELECT string_agg(DISTINCT format('%s%s (pid %s)', coalesce(nullif(application_name, ''), '?'), "
		"' from ' || host(client_addr), pid), ', ') FROM pg_stat_activity a WHERE pid <> pg_backend_pid() AND "
		"datname = current_database() AND (application_name LIKE 'orchestra %' OR application_name = 'orchestrad' OR "
		"EXISTS (SELECT FROM pg_locks l WHERE l.pid = a.pid AND locktype = 'advisory' AND classid = " STR(
			PG_LOCK_CLASS) " AND objid = " STR(PG_LOCK_PRESENT) "))",
		CONTROL_US, &res);
	if (rc != STORE_OK)
		return fail(r, rc, "who is connected");
	bool alone = pq.getisnull(res, 0, 0);
	if (!alone)
		util_error(
			r->error_r,
			"daemons are connected, and would lose what they write: %s. Stop them (orchestractl drain), or --force",
			pq.getvalue(res, 0, 0));
	pq.clear(res);
	return alone ? STORE_OK : STORE_BUSY;
}

/* What the first migration chose stays; until then it is chosen here. */
static enum store_rc must_check choose(struct run *r)
{
	const struct pg_migrate *w = r->what;
	const struct pg_schema_status *st = &r->st;
	bool can_have = *st->vector_in || (st->vector_available && st->may_extend);
	if (st->version) {
		r->vector = st->vector;
		r->partitions = st->partitions;
		bool other_vector = w->vector != PG_VECTOR_AUTO && (w->vector == PG_VECTOR_TYPE) != st->vector;
		if (!other_vector && (w->partitions == -1 || (unsigned)w->partitions == st->partitions))
			return STORE_OK;
		util_error(
			r->error_r,
			"the tables were made with vector %s and %u partitions, which stays so: to choose anew, export, "
			"migrate down --to 0, migrate up, import",
			st->vector ? "vector" : "bytea", st->partitions);
		return STORE_ERROR;
	}
	r->partitions = w->partitions > 0 ? (unsigned)w->partitions : 0;
	if (r->partitions > PG_PARTITIONS_MAX) {
		util_error(r->error_r, "partitions: at most %d", PG_PARTITIONS_MAX);
		return STORE_ERROR;
	}
	r->vector = w->vector != PG_VECTOR_BYTEA && can_have;
	if (w->vector == PG_VECTOR_TYPE && !r->vector) {
		util_error(r->error_r,
			   st->vector_available
				   ? "the role %s may not make the extension vector: let a superuser run CREATE "
				     "EXTENSION vector in %s, or choose --vector bytea"
				   : "the server has no extension vector for the role %s: install pgvector there, then "
				     "CREATE EXTENSION vector in %s; or choose --vector bytea",
			   st->role, st->database);
		return STORE_ERROR;
	}
	return STORE_OK;
}

static enum store_rc must_check check_place(struct run *r)
{
	const struct pg_schema_status *st = &r->st;
	if (!*st->first) {
		util_error(
			r->error_r,
			"the role %s may use no schema of its search_path: GRANT USAGE, CREATE ON SCHEMA public TO %s; or name "
			"another one in store.dsn: options='-c search_path=NAME'",
			st->role, st->role);
		return STORE_ERROR;
	}
	if (*st->schema && strcmp(st->first, st->schema) != 0) {
		util_error(r->error_r,
			   "the tables are in schema %s, and new ones would be made in %s, which comes first: say "
			   "options='-c search_path=%s' in store.dsn",
			   st->schema, st->first, st->schema);
		return STORE_ERROR;
	}
	if (*st->foreign) {
		util_error(
			r->error_r,
			"schema %s has tables of somebody else's (mem0's?) with names that are needed: %s. CREATE SCHEMA "
			"orchestra, and say options='-c search_path=orchestra,%s' in store.dsn",
			st->first, st->foreign, st->first);
		return STORE_ERROR;
	}
	if (!*st->schema && !st->may_create) {
		util_error(r->error_r, "the role %s may make no tables in schema %s: GRANT CREATE ON SCHEMA %s TO %s",
			   st->role, st->first, st->first, st->role);
		return STORE_ERROR;
	}
	return STORE_OK;
}

static enum store_rc must_check plan(struct run *r)
{
	const struct pg_migrate *w = r->what;
	enum store_rc rc = pg_schema_status(r->p, &r->st);
	if (rc != STORE_OK)
		return fail(r, rc, "memory_schema");
	if (!pg_schema_judge(&r->st, r->error_r))
		return STORE_ERROR;
	r->to = w->to == UINT_MAX ? pg_migrations_n : w->to;
	if (r->to > pg_migrations_n || (w->down && r->to > r->st.version)) {
		util_error(r->error_r, "there is no version %u to go %s to: the database has %u, this program knows %u",
			   r->to, w->down ? "down" : "up", r->st.version, pg_migrations_n);
		return STORE_ERROR;
	}
	if (!w->down && r->to < r->st.version)
		r->to = r->st.version;
	if (r->to == r->st.version)
		return choose(r);
	if (r->st.standby && !w->dry_run) {
		util_error(r->error_r, "the server is a standby and takes no changes: migrate the primary");
		return STORE_AWAY;
	}
	if ((rc = check_place(r)) != STORE_OK || (rc = refuse_changed(r)) != STORE_OK)
		return rc;
	if (w->down && !w->force && !w->dry_run && (rc = refuse_daemons(r)) != STORE_OK)
		return rc;
	return choose(r);
}

/* ---- one migration ---- */

static const char memory_schema[] = "CREATE TABLE memory_schema (\n"
				    "	version integer PRIMARY KEY,\n"
				    "	name text NOT NULL,\n"
				    "	checksum text NOT NULL,\n"
				    "	applied_at timestamptz NOT NULL DEFAULT clock_timestamp(),\n"
				    "	options jsonb NOT NULL -- as chosen by the first migration\n"
				    ");\n";

static enum store_rc must_check step(struct run *r, const char *sql, int64_t limit_us)
{
	if (!r->what->dry_run)
		return pg_plain_run(r->p, sql, limit_us, NULL);
	say(r, PG_SAY_SQL, "%s", sql);
	return STORE_OK;
}

/* Inside the first migration's transaction. Without the right to it (auto), vectors become bytea, and who reads is told. */
static enum store_rc must_check make_extension(struct run *r)
{
	if (!r->vector || *r->st.vector_in) {
		if (!r->vector && r->what->vector == PG_VECTOR_AUTO && r->st.vector_available)
			say(r, PG_SAY_WARNING,
			    "the server has pgvector, and the role %s may not make the extension: vectors become bytea, which "
			    "the server cannot search. To have them there, run CREATE EXTENSION vector first",
			    r->st.role);
		return STORE_OK;
	}
	snprintf(r->st.vector_in, sizeof(r->st.vector_in), "%s", r->st.first);
	enum store_rc rc = step(r, "SAVEPOINT extension;\nCREATE EXTENSION vector;\nRELEASE extension;\n",
				r->what->limit_us);
	if (rc != STORE_ERROR || r->what->vector == PG_VECTOR_TYPE)
		return rc;
	say(r, PG_SAY_WARNING, "CREATE EXTENSION vector: %s; vectors become bytea, which the server cannot search",
	    pg_plain_error(r->p));
	r->vector = false;
	return pg_plain_run(r->p, "ROLLBACK TO extension", CONTROL_US, NULL);
}

static enum store_rc must_check go_up(struct run *r, const struct pg_migration *m)
{
	struct buf b = {0};
	char row[320], type[176];
	enum store_rc rc = m->version == 1 ? make_extension(r) : STORE_OK;
	if (rc == STORE_OK && !*r->st.schema)
		rc = step(r, memory_schema, CONTROL_US);
	if (rc == STORE_OK) {
		snprintf(type, sizeof(type), "%s%s", r->vector ? r->st.vector_in : "bytea", r->vector ? ".vector" : "");
		pg_migrate_fill(&b, m->up, type, r->partitions);
		rc = step(r, b.p, r->what->limit_us);
	}
	snprintf(row, sizeof(row),
		 "INSERT INTO memory_schema (version, name, checksum, options) VALUES (%u, '%s', '%016llx', "
		 "'{\"vector\": %s, \"partitions\": %u}');\n",
		 m->version, m->name, (unsigned long long)pg_migration_checksum(m), r->vector ? "true" : "false",
		 r->partitions);
	if (rc == STORE_OK)
		rc = step(r, row, CONTROL_US);
	buf_free(&b);
	return rc;
}

static enum store_rc must_check go_down(struct run *r, const struct pg_migration *m)
{
	char row[80];
	enum store_rc rc = step(r, m->down, r->what->limit_us);
	snprintf(row, sizeof(row),
		 m->version == 1 ? "DROP TABLE memory_schema;\n" : "DELETE FROM memory_schema WHERE version = %u;\n",
		 m->version);
	return rc == STORE_OK ? step(r, row, CONTROL_US) : rc;
}

static enum store_rc must_check migrate_one(struct run *r, const struct pg_migration *m)
{
	enum store_rc rc = step(r, "BEGIN;\n", CONTROL_US);
	if (rc == STORE_OK)
		rc = r->what->down ? go_down(r, m) : go_up(r, m);
	if (rc == STORE_OK)
		rc = step(r, "COMMIT;\n", r->what->limit_us);
	if (rc != STORE_OK)
		return fail(r, rc, "migration %04u_%s, %s", m->version, m->name, r->what->down ? "down" : "up");
	snprintf(r->st.schema, sizeof(r->st.schema), "%s", r->st.first);
	if (!r->what->dry_run)
		say(r, PG_SAY_DONE, "%04u_%s %s", m->version, m->name, r->what->down ? "undone" : "applied");
	return STORE_OK;
}

enum store_rc pg_migrate_run(struct pg_plain *p, const struct pg_migrate *what, char **error_r)
{
	struct run *r = util_zalloc(sizeof(*r));
	*r = (struct run){.p = p, .what = what, .error_r = error_r};
	enum store_rc rc = pg_plain_run(p, "SET statement_timeout = 0; SET idle_in_transaction_session_timeout = 0",
					CONTROL_US, NULL);
	if (rc != STORE_OK)
		rc = fail(r, rc, "the session");
	if (rc == STORE_OK && !what->dry_run)
		rc = take_lock(r);
	if (rc == STORE_OK)
		rc = plan(r);
	unsigned v = r->st.version;
	while (rc == STORE_OK && v != r->to) {
		rc = migrate_one(r, &pg_migrations[what->down ? v - 1 : v]);
		v = what->down ? v - 1 : v + 1;
	}
	if (rc == STORE_OK && !what->dry_run)
		rc = pg_plain_run(p, "SELECT pg_advisory_unlock(" STR(PG_LOCK_CLASS) ", " STR(PG_LOCK_MIGRATE) ")",
				  CONTROL_US, NULL) == STORE_OK
			     ? STORE_OK
			     : fail(r, STORE_AWAY, "after the migration");
	free(r);
	return rc;
}
