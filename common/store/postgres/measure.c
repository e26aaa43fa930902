/* Looking at the server's own index of vectors. */
#include "measure.h"

#include <stdio.h>
#include <stdlib.h>

#include "postgres-private.h"

static void copy(char *out, size_t cap, struct span s)
{
	snprintf(out, cap, "%.*s", (int)(s.len < cap ? s.len : cap - 1), s.len ? s.p : "");
}

/* A number among "m=16,ef_construction=64"; what was not said when the index was made is pgvector's default. */
static long option(const char *options, const char *name, long missing)
{
	const char *p = options;
	size_t n = strlen(name);
	while (p && strncmp(p, name, n) != 0)
		p = (p = strchr(p, ',')) ? p + 1 : NULL;
	return p ? atol(p + n) : missing;
}

static enum store_rc look_at_extension(struct store *s, struct pg_measure *m)
{
	PGresult *res;
	enum store_rc rc = pg_call_text(
		s,
		"SELECT extversion::text,string_to_array(extversion,'.')::int[]>='{0,8}' FROM pg_extension WHERE extname='vector'",
		NULL, &res);
	if (rc != STORE_OK)
		return rc;
	if (pq.ntuples(res)) {
		copy(m->version, sizeof(m->version), pg_text(res, 0, 0));
		m->iterates = pg_bool(res, 0, 1);
	}
	pq.clear(res);
	return STORE_OK;
}

static void take_index(struct pg_vector_index *x, const PGresult *res)
{
	char options[120];
	copy(x->name, sizeof(x->name), pg_text(res, 0, 0));
	copy(x->kind, sizeof(x->kind), pg_text(res, 0, 1));
	x->valid = pg_bool(res, 0, 2);
	copy(options, sizeof(options), pg_text(res, 0, 3));
	x->rows = pg_real(res, 0, 4);
	x->bytes = pg_int(res, 0, 5);
	x->parts = (long)pg_int(res, 0, 6);
	if (strcmp(x->kind, "ivfflat") == 0) {
		x->lists = option(options, "lists=", 100);
	} else {
		x->m = option(options, "m=", 16);
		x->ef_construction = option(options, "ef_construction=", 64);
	}
}

/* By whoever made it: over the cast to the dimension, for cosines, as pg_nearest() asks. */
enum store_rc pg_measure_look(struct store *s, uint32_t dim, struct pg_measure *m_r)
{
	PGresult *res;
	char sql[1400];
	*m_r = (struct pg_measure){.vector = s->schema.vector};
	enum store_rc rc = look_at_extension(s, m_r);
	if (rc != STORE_OK || !m_r->vector)
		return rc;
	snprintf(
		sql, sizeof(sql),
		"SELECT i.relname::text,a.amname::text,x.indisvalid,coalesce(array_to_string(i.reloptions,','),''),"
		"p.rows,p.bytes,p.n"
		" FROM pg_index x JOIN pg_class i ON i.oid=x.indexrelid JOIN pg_am a ON a.oid=i.relam"
		" JOIN pg_opclass o ON o.oid=x.indclass[0],"
		" LATERAL (SELECT coalesce(sum(greatest(c.reltuples,0)),0)::float8 AS rows,"
		"coalesce(sum(pg_relation_size(c.oid)),0)::int8 AS bytes,count(*) AS n FROM pg_class c WHERE c.relkind='i'"
		" AND (c.oid=i.oid OR c.oid IN (SELECT relid FROM pg_partition_tree(i.oid)))) p"
		" WHERE x.indrelid='memories'::regclass AND a.amname IN ('hnsw','ivfflat')"
		" AND o.opcname='vector_cosine_ops' AND pg_get_indexdef(i.oid) LIKE '%%vector(%u))%%'"
		" ORDER BY x.indisvalid DESC,a.amname,i.relname LIMIT 1",
		dim);
	rc = pg_call_text(s, sql, NULL, &res);
	if (rc != STORE_OK)
		return rc;
	if (pq.ntuples(res))
		take_index(&m_r->index, res);
	pq.clear(res);
	return STORE_OK;
}

void pg_measure_session(struct store *s, bool alone)
{
	static const char *const say[] = {
		"SET client_connection_check_interval='1s'", /* not every platform has it */
		"SET max_parallel_workers_per_gather=0",
		"RESET max_parallel_workers_per_gather",
	};
	PGresult *res;
	const char *const now[] = {say[0], say[alone ? 1 : 2]};
	for (size_t i = 0; i < ARRAY_LEN(now); i++)
		if (pg_call_text(s, now[i], NULL, &res) == STORE_OK)
			pq.clear(res);
}
