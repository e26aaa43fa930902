/* migrate mount-mem0: takes the memories of a mem0 table (id, vector, payload) over into a namespace, through the daemon, so that
 * journal, indexes and feed know of them. The table is only read. To be repeated as often as wanted: what is there
 * already is left alone, what mem0 has changed since is changed here, too; what was deleted here stays so. */
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>

#include "store.h"

#define ROWS 100 /* at a time: with a vector of 4,096 dimensions 4 MB */
#define QUESTION_US 600000000

struct mount {
	struct ctl *c;
	const struct store_options *o;
	struct pg_plain *p;
	char *table;	   /* as SQL names it */
	struct buf fields; /* the columns of a batch: id, time of the last change, line for an import */
	long long rows, seen, imported, changed, same, skipped, failed;
};

/* What a user wrote, as a literal of SQL (standard_conforming_strings). */
static void add_literal(struct buf *b, const char *text)
{
	buf_addc(b, '\'');
	for (; *text; text++) {
		if (*text == '\'')
			buf_addc(b, '\'');
		buf_addc(b, *text);
	}
	buf_addc(b, '\'');
}

/* Each question in a transaction of its own, which writes nothing and takes times without a zone for UTC. */
static int ask(struct mount *m, struct buf *sql, PGresult **res_r)
{
	struct buf text = {0};
	buf_printf(&text, "SET TRANSACTION READ ONLY; SET LOCAL TimeZone = 'UTC'; %.*s", (int)sql->len, sql->p);
	buf_addc(&text, '\0');
	enum store_rc rc = pg_plain_run(m->p, text.p, QUESTION_US, res_r);
	buf_free(&text);
	sql->len = 0;
	return rc == STORE_OK ? CTL_OK : store_failed(rc, m->p, NULL);
}

static int printf_like(1, 2) refuse(const char *fmt, ...)
{
	char *error = NULL;
	va_list ap;
	va_start(ap, fmt);
	if (vasprintf(&error, fmt, ap) == -1)
		error = NULL;
	va_end(ap);
	return store_failed(STORE_ERROR, NULL, error);
}

/* ---- the table ---- */

static int look_at_columns(struct mount *m)
{
	struct buf sql = {0};
	PGresult *res;
	buf_adds(&sql, "SELECT FROM pg_attribute a WHERE a.attrelid = to_regclass(");
	add_literal(&sql, m->table);
	buf_adds(&sql, ") AND a.attnum > 0 AND NOT a.attisdropped AND (a.attname = 'id' OR a.attname = 'payload' AND "
		       "a.atttypid IN ('jsonb'::regtype, 'json'::regtype) OR a.attname = 'vector' AND (a.atttypid = "
		       "'real[]'::regtype OR format_type(a.atttypid, NULL) ~ '(^|\\.)vector$'))");
	int code = ask(m, &sql, &res);
	buf_free(&sql);
	if (code != CTL_OK)
		return code;
	int n = pq.ntuples(res);
	pq.clear(res);
	return n == 3 ? CTL_OK
		      : refuse("%s is no table of mem0's: it has id uuid, vector vector (or real[]) and payload jsonb",
			       m->table);
}

static int look_at_table(struct mount *m)
{
	struct buf sql = {0};
	PGresult *res;
	buf_adds(&sql, "SELECT coalesce(to_regclass(");
	add_literal(&sql, m->o->table);
	buf_adds(&sql, ")::text, '')");
	int code = ask(m, &sql, &res);
	buf_free(&sql);
	if (code != CTL_OK)
		return code;
	const char *name = pq.getvalue(res, 0, 0);
	m->table = util_strndup(name, strlen(name));
	pq.clear(res);
	return *m->table
		       ? look_at_columns(m)
		       : refuse("there is no table %s that the role may see; a schema stands before a point: public.memories",
				m->o->table);
}

static int count_rows(struct mount *m)
{
	struct buf sql = {0};
	PGresult *res;
	buf_printf(&sql, "SELECT count(*) FROM %s", m->table);
	int code = ask(m, &sql, &res);
	buf_free(&sql);
	if (code != CTL_OK)
		return code;
	m->rows = atoll(pq.getvalue(res, 0, 0));
	pq.clear(res);
	return CTL_OK;
}

/* Python's isoformat(): with or without a zone; without, it is UTC. Anything else is nothing. */
static void add_time(struct buf *b, const char *key)
{
	buf_printf(
		b,
		"CASE WHEN payload::jsonb->>'%s' ~ '^\\d{4}-\\d\\d-\\d\\d[T ]\\d\\d:\\d\\d:\\d\\d' THEN to_char((payload::jsonb->>'%s')"
		"::timestamptz AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') END",
		key, key);
}

static void make_fields(struct mount *m)
{
	struct buf *b = &m->fields;
	buf_adds(b, "SELECT id::text, coalesce(");
	add_time(b, "updated_at");
	buf_adds(b, ", ");
	add_time(b, "created_at");
	buf_adds(
		b,
		", ''), (jsonb_strip_nulls(jsonb_build_object('id', id::text, 'content', payload::jsonb->>'data', 'user_id', "
		"payload::jsonb->>'user_id', 'agent_id', payload::jsonb->>'agent_id', 'session_id', "
		"payload::jsonb->>'run_id', 'created_at', ");
	add_time(b, "created_at");
	buf_adds(b, ", 'updated_at', coalesce(");
	add_time(b, "updated_at");
	buf_adds(b, ", ");
	add_time(b, "created_at");
	buf_printf(
		b,
		"))) || jsonb_build_object('metadata', payload::jsonb - ARRAY['data', 'user_id', 'agent_id', 'run_id', "
		"'created_at', 'updated_at', 'text_lemmatized']) || CASE WHEN vector IS NULL THEN '{}' ELSE "
		"jsonb_build_object('embedding', to_jsonb(vector::real[])) END)::text FROM %s",
		m->table);
	buf_addc(b, '\0');
	b->len--;
}

/* ---- a batch ---- */

/* {id: updated_at} of those that the namespace has; NULL: it was said why. */
static json_t *known(struct mount *m, const PGresult *res, int *code_r)
{
	struct answer a;
	json_t *out = NULL, *ids = json_array(), *e;
	size_t i;
	const char *const pairs[][2] = {{"namespace", m->c->namespace}};
	char *path = client_path("/v1/memories:get", pairs, 1);
	for (int row = 0; row < pq.ntuples(res); row++)
		json_array_append_new(ids, json_string(pq.getvalue(res, row, 0)));
	json_t *o = json_pack("{s:o}", "ids", ids);
	char *body = json_dumps(o, JSON_COMPACT);
	json_decref(o);
	*code_r = client_request(m->c, "POST", path, body, &a);
	if (*code_r == CTL_OK && a.status != 200)
		*code_r = output_problem(&a);
	o = *code_r == CTL_OK ? output_parse(&a) : NULL;
	if (o) {
		out = json_object();
		json_array_foreach (json_object_get(o, "memories"), i, e)
			json_object_set(out, output_str(e, "id"), json_object_get(e, "updated_at"));
	} else if (*code_r == CTL_OK) {
		*code_r = CTL_FAILED;
	}
	json_decref(o);
	free(body);
	free(path);
	client_free(&a);
	return out;
}

static int import(struct mount *m, struct buf *lines)
{
	struct answer a;
	size_t i;
	json_t *e;
	const char *const pairs[][2] = {{"namespace", m->c->namespace}};
	FILE *in = fmemopen(lines->p, lines->len, "r");
	if (!in)
		return refuse("%s", strerror(errno));
	char *path = client_path("/v1/memories:import", pairs, 1);
	int code = client_upload(m->c, path, in, NULL, NULL, &a);
	fclose(in);
	free(path);
	if (code == CTL_OK && a.status != 200)
		code = output_problem(&a);
	json_t *o = code == CTL_OK ? output_parse(&a) : NULL;
	m->imported += json_integer_value(json_object_get(o, "imported"));
	m->skipped += json_integer_value(json_object_get(o, "skipped"));
	m->failed += json_integer_value(json_object_get(o, "failed"));
	json_array_foreach (json_object_get(o, "errors"), i, e)
		fprintf(stderr, "refused: %s\n", output_str(e, "detail"));
	json_decref(o);
	client_free(&a);
	return code;
}

/* mem0 has changed it after the last change here. */
static int change(struct mount *m, const char *id, const char *line)
{
	struct answer a;
	struct buf path = {0};
	json_t *o = json_loads(line, 0, NULL);
	json_object_del(o, "id");
	json_object_del(o, "created_at");
	json_object_del(o, "updated_at");
	char *body = json_dumps(o, JSON_COMPACT);
	json_decref(o);
	if (!body)
		return refuse("%s: the row cannot be read", id);
	buf_printf(&path, "/v1/memories/%s", id);
	buf_addc(&path, '\0');
	int code = client_request(m->c, "PATCH", path.p, body, &a);
	if (code == CTL_OK && a.status == 200) {
		m->changed++;
	} else if (code == CTL_OK) {
		fprintf(stderr, "%s: ", id);
		output_problem(&a);
		m->failed++;
	}
	client_free(&a);
	free(body);
	buf_free(&path);
	return code;
}

static int take_batch(struct mount *m, const PGresult *res)
{
	int code;
	struct buf lines = {0};
	json_t *there = known(m, res, &code);
	for (int i = 0; there && code == CTL_OK && i < pq.ntuples(res); i++) {
		const char *id = pq.getvalue(res, i, 0), *at = pq.getvalue(res, i, 1), *line = pq.getvalue(res, i, 2);
		const char *ours = json_string_value(json_object_get(there, id));
		if (!ours) {
			buf_adds(&lines, line);
			buf_addc(&lines, '\n');
		} else if (strcmp(at, ours) > 0) {
			code = change(m, id, line);
		} else {
			m->same++;
		}
	}
	if (code == CTL_OK && lines.len)
		code = import(m, &lines);
	m->seen += pq.ntuples(res);
	json_decref(there);
	buf_free(&lines);
	return code;
}

static int take_all(struct mount *m)
{
	struct buf sql = {0}, last = {0};
	PGresult *res;
	int code = CTL_OK, n = ROWS;
	while (code == CTL_OK && n == ROWS) {
		buf_printf(&sql, "%s%s%s ORDER BY id LIMIT %d", m->fields.p, last.len ? " WHERE id > " : "",
			   last.len ? last.p : "", ROWS);
		code = ask(m, &sql, &res);
		if (code != CTL_OK)
			break;
		n = pq.ntuples(res);
		if (n) {
			last.len = 0;
			add_literal(&last, pq.getvalue(res, n - 1, 0));
			buf_addc(&last, '\0');
			code = take_batch(m, res);
		}
		pq.clear(res);
		if (m->c->terminal)
			fprintf(stderr, "\r\033[K%lld of %lld", m->seen, m->rows);
	}
	if (m->c->terminal)
		fputs("\r\033[K", stderr);
	buf_free(&sql);
	buf_free(&last);
	return code;
}

static int summary(const struct mount *m, int code)
{
	if (m->c->json)
		printf("{\"imported\":%lld,\"changed\":%lld,\"unchanged\":%lld,\"skipped\":%lld,\"failed\":%lld}\n",
		       m->imported, m->changed, m->same, m->skipped, m->failed);
	else
		printf("%lld taken over, %lld changed, %lld were there, %lld skipped (deleted here, or in another namespace), "
		       "%lld refused\n",
		       m->imported, m->changed, m->same, m->skipped, m->failed);
	if (code != CTL_OK)
		fputs("orchestractl: not finished; the same command goes on\n", stderr);
	return code == CTL_OK && m->failed ? CTL_FAILED : code;
}

int mem0_mount(struct ctl *c, const struct store_options *o)
{
	struct mount m = {.c = c, .o = o};
	char *socket = NULL;
	int code;
	if (!o->table || !c->namespace)
		return ctl_usage("migrate mount-mem0: --table NAME --namespace NS");
	m.p = store_connect(o, false, &code); /* which may need a credential, so before the socket */
	if (!m.p)
		return code;
	if (!c->socket && !o->dry_run && !(c->socket = socket = ctl_socket())) {
		pg_plain_close(&m.p);
		return CTL_UNREACHABLE;
	}
	code = look_at_table(&m);
	if (code == CTL_OK)
		code = count_rows(&m);
	if (code == CTL_OK)
		make_fields(&m);
	if (code == CTL_OK && o->dry_run)
		printf("-- %lld memories of %s, to namespace %s, %d at a time through the daemon:\n%s ORDER BY id LIMIT %d;\n",
		       m.rows, m.table, c->namespace, ROWS, m.fields.p, ROWS);
	else if (code == CTL_OK)
		code = summary(&m, take_all(&m));
	pg_plain_close(&m.p);
	buf_free(&m.fields);
	free(m.table);
	if (socket)
		c->socket = NULL;
	free(socket);
	return code;
}
