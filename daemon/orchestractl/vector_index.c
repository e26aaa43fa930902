/* migrate index: indexes with which the server finds neighbours of a vector (pgvector). One per dimension, partial, over the
 * column cast to that dimension; a query meets it with the same cast, ORDER BY … <=> and the literal dim = D. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdarg.h>
#include <stdlib.h>
#include <unistd.h>

#include "store.h"
#include "tune_choice.h"

#define QUESTION_US 600000000 /* counting rows reads the table */
#define PROGRESS_US 500000
#define INDEXED_MAX 2000 /* dimensions that pgvector indexes */
#define STR2(x) #x
#define STR(x) STR2(x)

struct build {
	struct ctl *c;
	const struct store_options *o;
	struct pg_plain *p, *progress; /* progress: NULL without a terminal */
	struct pg_schema_status st;
	int done; /* statements */
};

/* ---- progress, over a connection of its own ---- */

struct watch {
	struct pg_plain *p;
	_Atomic bool over;
	pthread_t thread;
	bool on;
};

static void show_progress(const PGresult *res)
{
	if (pq.ntuples(res))
		fprintf(stderr, "\r\033[K%s %s%%", pq.getvalue(res, 0, 0), pq.getvalue(res, 0, 1));
}

/* What goes wrong here only ends the display. */
static void *watch(void *arg)
{
	struct watch *w = arg;
	PGresult *res;
	while (!w->over) {
		if (pg_plain_run(
			    w->p,
			    "SELECT phase, coalesce(100 * tuples_done / nullif(tuples_total, 0), 100 * blocks_done / "
			    "nullif(blocks_total, 0), 0) FROM pg_stat_progress_create_index "
			    "WHERE datname = current_database() LIMIT 1",
			    QUESTION_US, &res) != STORE_OK)
			break;
		show_progress(res);
		pq.clear(res);
		usleep(PROGRESS_US);
	}
	return NULL;
}

static void watch_start(struct watch *w, struct pg_plain *p)
{
	*w = (struct watch){.p = p};
	w->on = p && pthread_create(&w->thread, NULL, watch, w) == 0;
}

static void watch_end(struct watch *w)
{
	w->over = true;
	if (w->on) {
		pthread_join(w->thread, NULL);
		fputs("\r\033[K", stderr);
	}
}

/* ---- statements ---- */

static enum store_rc must_check run(struct build *b, const struct buf *sql, bool long_one)
{
	struct watch w;
	b->done++;
	printf("%s;\n", sql->p);
	fflush(stdout);
	if (b->o->dry_run)
		return STORE_OK;
	if (!long_one)
		return pg_plain_run(b->p, sql->p, 0, NULL);
	watch_start(&w, b->progress);
	enum store_rc rc = pg_plain_run(b->p, sql->p, 0, NULL);
	watch_end(&w);
	return rc;
}

static enum store_rc must_check printf_like(3, 4) runf(struct build *b, bool long_one, const char *fmt, ...)
{
	struct buf sql = {0};
	char *text = NULL;
	va_list ap;
	va_start(ap, fmt);
	AN(vasprintf(&text, fmt, ap) != -1);
	va_end(ap);
	buf_adds(&sql, text);
	buf_addc(&sql, '\0');
	enum store_rc rc = run(b, &sql, long_one);
	buf_free(&sql);
	free(text);
	return rc;
}

/* Indexes of ours on `memories` itself, by a pattern of LIKE. `keep`: the one that stays; NULL: none. */
static enum store_rc must_check drop(struct build *b, const char *pattern, const char *keep)
{
	struct buf sql = {0};
	PGresult *res;
	buf_printf(
		&sql,
		"SELECT quote_ident(i.relname), t.relkind = 'p' FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid "
		"JOIN pg_class t ON t.oid = x.indrelid WHERE t.oid = '%s.memories'::regclass AND i.relname LIKE '%s' "
		"AND i.relname <> '%s' ORDER BY 1",
		b->st.schema, pattern, keep ? keep : "");
	buf_addc(&sql, '\0');
	enum store_rc rc = pg_plain_run(b->p, sql.p, QUESTION_US, &res);
	buf_free(&sql);
	if (rc != STORE_OK)
		return rc;
	for (int i = 0; rc == STORE_OK && i < pq.ntuples(res); i++)
		rc = runf(b, false, "DROP INDEX %s%s.%s", pq.getvalue(res, i, 1)[0] == 't' ? "" : "CONCURRENTLY ",
			  b->st.schema, pq.getvalue(res, i, 0));
	pq.clear(res);
	return rc;
}

/* 1: there and usable, 0: not there, -1: there, left by a build that failed. */
static enum store_rc must_check look_for(struct build *b, const char *name, int *state_r)
{
	struct buf sql = {0};
	PGresult *res;
	buf_printf(&sql, "SELECT indisvalid::text FROM pg_index WHERE indexrelid = to_regclass('%s.%s')", b->st.schema,
		   name);
	buf_addc(&sql, '\0');
	enum store_rc rc = pg_plain_run(b->p, sql.p, QUESTION_US, &res);
	buf_free(&sql);
	if (rc != STORE_OK)
		return rc;
	*state_r = pq.ntuples(res) == 0 ? 0 : pq.getvalue(res, 0, 0)[0] == 't' ? 1 : -1;
	pq.clear(res);
	return STORE_OK;
}

/* A half-built one is removed first. */
static enum store_rc must_check create(struct build *b, const char *table, const char *name, const char *what)
{
	int state;
	enum store_rc rc = look_for(b, name, &state);
	if (rc == STORE_OK && state == -1)
		rc = runf(b, false, "DROP INDEX CONCURRENTLY %s.%s", b->st.schema, name);
	if (rc == STORE_OK && state != 1)
		rc = runf(b, true, "CREATE INDEX CONCURRENTLY %s ON %s.%s %s", name, b->st.schema, table, what);
	return rc;
}

/* CONCURRENTLY is not for a partitioned table: an index of its own for every partition, hung below that of the whole. */
static enum store_rc must_check create_partitioned(struct build *b, const char *name, const char *what)
{
	char part[96], table[40];
	int state;
	enum store_rc rc = look_for(b, name, &state);
	if (rc == STORE_OK && state == 0)
		rc = runf(b, false, "CREATE INDEX %s ON ONLY %s.memories %s", name, b->st.schema, what);
	for (unsigned i = 0; rc == STORE_OK && i < b->st.partitions; i++) {
		snprintf(part, sizeof(part), "%s_p%u", name, i);
		snprintf(table, sizeof(table), "memories_%u", i);
		rc = create(b, table, part, what);
		if (rc == STORE_OK && state != 1)
			rc = runf(b, false, "ALTER INDEX %s.%s ATTACH PARTITION %s.%s", b->st.schema, name,
				  b->st.schema, part);
	}
	return rc;
}

static long lists_for(const struct store_options *o, double rows)
{
	long lists = o->lists ? o->lists : tune_choice_lists(rows);
	return lists > o->lists_max ? o->lists_max : lists;
}

/* What was not asked for is pgvector's default, and not named: "memories_vector_1536_hnsw_m32_e128". */
static void name_hnsw(const struct store_options *o, long dim, char name[64])
{
	int n = snprintf(name, 64, "memories_vector_%ld_hnsw", dim);
	if (o->m)
		n += snprintf(name + n, (size_t)(64 - n), "_m%ld", o->m);
	if (o->ef_construction)
		snprintf(name + n, (size_t)(64 - n), "_e%ld", o->ef_construction);
}

static void write_hnsw(const struct store_options *o, struct buf *sql)
{
	if (o->m && o->ef_construction)
		buf_printf(sql, " WITH (m = %ld, ef_construction = %ld)", o->m, o->ef_construction);
	else if (o->m)
		buf_printf(sql, " WITH (m = %ld)", o->m);
	else if (o->ef_construction)
		buf_printf(sql, " WITH (ef_construction = %ld)", o->ef_construction);
}

static enum store_rc must_check build_one(struct build *b, long dim, double rows)
{
	char name[64], pattern[64];
	struct buf what = {0};
	bool lists = strcmp(b->o->kind, "ivfflat") == 0;
	long n = lists_for(b->o, b->st.partitions ? rows / b->st.partitions : rows); /* each partition has its own */
	if (dim > INDEXED_MAX) {
		fprintf(stderr,
			"orchestractl: %.0f vectors have %ld dimensions; pgvector indexes at most %d, they are searched one by one\n",
			rows, dim, INDEXED_MAX);
		return STORE_OK;
	}
	if (lists)
		snprintf(name, sizeof(name), "memories_vector_%ld_ivfflat_%ld", dim, n);
	else
		name_hnsw(b->o, dim, name);
	snprintf(pattern, sizeof(pattern), "memories\\_vector\\_%ld\\_%%", dim);
	buf_printf(&what, "USING %s ((embedding::%s.vector(%ld)) %s.vector_cosine_ops)", b->o->kind, b->st.vector_in,
		   dim, b->st.vector_in);
	if (lists)
		buf_printf(&what, " WITH (lists = %ld)", n);
	else
		write_hnsw(b->o, &what);
	buf_printf(&what, " WHERE dim = %ld", dim);
	buf_addc(&what, '\0');
	enum store_rc rc = b->st.partitions ? create_partitioned(b, name, what.p) : create(b, "memories", name, what.p);
	buf_free(&what);
	return rc == STORE_OK ? drop(b, pattern, name) : rc;
}

static enum store_rc must_check build_all(struct build *b)
{
	struct buf sql = {0};
	PGresult *res;
	buf_printf(&sql, "SELECT dim, count(*) FROM %s.memories WHERE dim > 0 ", b->st.schema);
	if (b->o->dimensions)
		buf_printf(&sql, "AND dim = %ld ", b->o->dimensions);
	buf_adds(&sql, "GROUP BY dim ORDER BY dim");
	buf_addc(&sql, '\0');
	enum store_rc rc = pg_plain_run(b->p, sql.p, QUESTION_US, &res);
	buf_free(&sql);
	if (rc != STORE_OK)
		return rc;
	if (pq.ntuples(res) == 0 && b->o->dimensions)
		rc = build_one(b, b->o->dimensions, 0);
	for (int i = 0; rc == STORE_OK && i < pq.ntuples(res); i++)
		rc = build_one(b, atol(pq.getvalue(res, i, 0)), atof(pq.getvalue(res, i, 1)));
	pq.clear(res);
	return rc;
}

static enum store_rc must_check take_lock(struct build *b)
{
	PGresult *res;
	enum store_rc rc = pg_plain_run(
		b->p,
		"SET statement_timeout = 0; SET lock_timeout = 0; SELECT pg_try_advisory_lock(" STR(
			PG_LOCK_CLASS) ", " STR(PG_LOCK_INDEX) ")",
		QUESTION_US, &res);
	if (rc != STORE_OK)
		return rc;
	bool got = pq.getvalue(res, 0, 0)[0] == 't';
	pq.clear(res);
	return got ? STORE_OK : STORE_BUSY;
}

static int build(struct build *b)
{
	char *problem = NULL;
	enum store_rc rc = pg_schema_status(b->p, &b->st);
	if (rc != STORE_OK)
		return store_failed(rc, b->p, NULL);
	if (!pg_schema_judge(&b->st, &problem))
		return store_failed(STORE_ERROR, NULL, problem);
	if (!b->st.version || !b->st.vector || !*b->st.vector_in) {
		util_error(&problem,
			   "%s, so the server has nothing to index; vectors are searched in the daemon's own index",
			   b->st.version ? "vectors are bytea here" : "the schema is not there yet");
		return store_failed(STORE_ERROR, NULL, problem);
	}
	rc = b->o->dry_run ? STORE_OK : take_lock(b);
	if (rc == STORE_BUSY && !*pg_plain_error(b->p)) {
		util_error(&problem, "somebody else builds indexes in this database; try again when that is over");
		return store_failed(STORE_ERROR, NULL, problem);
	}
	if (rc == STORE_OK)
		rc = strcmp(b->o->kind, "none") == 0 ? drop(b, "memories\\_vector\\_%", NULL) : build_all(b);
	if (rc != STORE_OK)
		return store_failed(rc, b->p, NULL);
	if (!b->done)
		puts("-- nothing to do");
	return CTL_OK;
}

int vector_index(struct ctl *c, const struct store_options *o)
{
	int code;
	if (!o->kind || (strcmp(o->kind, "ivfflat") && strcmp(o->kind, "hnsw") && strcmp(o->kind, "none")))
		return ctl_usage("migrate index: --kind ivfflat, hnsw or none");
	if ((o->m || o->ef_construction) && strcmp(o->kind, "hnsw") != 0)
		return ctl_usage("migrate index: --m and --ef-construction are of --kind hnsw");
	struct build *b = util_zalloc(sizeof(*b));
	*b = (struct build){.c = c, .o = o, .p = store_connect(o, !o->dry_run, &code)};
	if (b->p && !o->dry_run && isatty(STDERR_FILENO))
		b->progress = store_connect(o, false, &code);
	if (b->p)
		code = build(b);
	pg_plain_close(&b->progress);
	pg_plain_close(&b->p);
	free(b);
	return code;
}
