/* A filter and a memory: what filter_match() says in C, what the same filter says as SQL in SQLite, and what the plain
 * model says (tests/unit/filter_model.h) must be one answer; a filter that is refused says why. Metadata that is no
 * JSON object becomes the memory's whole body as it is: what reads it must stay inside.
 *
 * Input: flags, the memory's fields, then the filter and the metadata as decisions (grow.h), or as text. */
#include <sqlite3.h>
#include <stdio.h>

#include "../unit/filter_model.h"
#include "grow.h"

enum { AS_TEXT = 1, SPOIL_FILTER = 2, SPOIL_METADATA = 4 };

static sqlite3 *db;

static void open_once(void)
{
	if (db)
		return;
	AN(sqlite3_open(":memory:", &db) == SQLITE_OK && filter_sql_install(db));
	AN(sqlite3_exec(
		   db,
		   "CREATE TABLE memories(id BLOB, kind TEXT, user_id TEXT, agent_id TEXT, session_id TEXT, external_id TEXT, "
		   "importance REAL, version INTEGER, created_us INTEGER, updated_us INTEGER, expires_us INTEGER, flags INTEGER, "
		   "body TEXT)",
		   NULL, NULL, NULL) == SQLITE_OK);
}

/* ---- the memory ---- */

static struct span text_of(unsigned bits)
{
	static const char *const texts[] = {"", "a", "b", "\xc3\xa4"};
	return texts[bits & 3][0] ? SPAN(texts[bits & 3]) : (struct span){NULL, 0};
}

static void make_memory(struct memory *m, const uint8_t *p, struct span body)
{
	static const float importances[] = {0, 0.1f, 0.5f, 1};
	static const int64_t times[] = {0, 1000000, 1795239518123456, 1893456000000000};
	*m = (struct memory){.version = 1 + (p[0] & 1),
			     .flags = p[0] & 2 ? MEMORY_PINNED : 0,
			     .importance = importances[p[0] >> 2 & 3],
			     .kind = text_of(p[0] >> 4),
			     .user_id = text_of(p[0] >> 6),
			     .agent_id = text_of(p[1]),
			     .session_id = text_of(p[1] >> 2),
			     .external_id = text_of(p[1] >> 4),
			     .created_us = times[1 + (p[1] >> 6 & 1)],
			     .updated_us = times[1 + (p[1] >> 7)],
			     .expires_us = times[p[2] & 3],
			     .body = body};
	m->id.b[14] = 0x5a;
}

static void bind_span(sqlite3_stmt *st, int i, struct span s)
{
	AN((s.len ? sqlite3_bind_text(st, i, s.p, (int)s.len, SQLITE_STATIC) : sqlite3_bind_null(st, i)) == SQLITE_OK);
}

static void store(const struct memory *m)
{
	static sqlite3_stmt *st;
	AN(sqlite3_exec(db, "DELETE FROM memories", NULL, NULL, NULL) == SQLITE_OK);
	if (!st)
		AN(sqlite3_prepare_v2(db, "INSERT INTO memories VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?)", -1, &st, NULL) ==
		   SQLITE_OK);
	sqlite3_bind_blob(st, 1, &m->id, sizeof(m->id), SQLITE_STATIC);
	bind_span(st, 2, m->kind);
	bind_span(st, 3, m->user_id);
	bind_span(st, 4, m->agent_id);
	bind_span(st, 5, m->session_id);
	bind_span(st, 6, m->external_id);
	sqlite3_bind_double(st, 7, (double)m->importance);
	sqlite3_bind_int64(st, 8, (int64_t)m->version);
	sqlite3_bind_int64(st, 9, m->created_us);
	sqlite3_bind_int64(st, 10, m->updated_us);
	sqlite3_bind_int64(st, 11, m->expires_us);
	sqlite3_bind_int64(st, 12, m->flags);
	bind_span(st, 13, m->body);
	AN(sqlite3_step(st) == SQLITE_DONE);
	sqlite3_reset(st);
	sqlite3_clear_bindings(st);
}

/* ---- the filter ---- */

static void grow_field(struct input *in, struct buf *out)
{
	static const char *const fields[] = {"id",	    "kind",	  "user_id",  "agent_id",   "session_id",
					     "external_id", "importance", "version",  "created_at", "updated_at",
					     "expires_at",  "pinned",	  "metadata", "nothing"};
	unsigned what = grow_byte(in);
	buf_addc(out, '"');
	if (what < 128) {
		buf_adds(out, fields[what % ARRAY_LEN(fields)]);
	} else {
		buf_adds(out, "metadata");
		for (unsigned n = 1 + what % 3; n; n--) {
			buf_addc(out, '.');
			grow_text(in, out);
		}
	}
	buf_adds(out, "\":");
}

static void grow_list(struct input *in, struct buf *out)
{
	buf_addc(out, '[');
	for (unsigned n = 1 + grow_byte(in) % 5; n; n--) {
		grow_scalar(in, out);
		buf_adds(out, n > 1 ? "," : "");
	}
	buf_addc(out, ']');
}

static void grow_condition(struct input *in, struct buf *out)
{
	static const char *const ops[] = {"eq", "ne", "gt", "gte", "lt", "lte", "$eq", "$lt", "exists", "in", "nin"};
	unsigned what = grow_byte(in);
	grow_field(in, out);
	if (what & 1) {
		grow_scalar(in, out);
		return;
	}
	unsigned first = (what >> 2) % ARRAY_LEN(ops);
	buf_addc(out, '{');
	for (unsigned n = 0; n <= (what >> 1 & 1); n++) {
		const char *op = ops[(first + n) % ARRAY_LEN(ops)];
		buf_printf(out, "%s\"%s\":", n ? "," : "", op);
		if (op[strlen(op) - 1] == 'n')
			grow_list(in, out);
		else if (*op == 'e' && op[1] == 'x')
			buf_adds(out, grow_byte(in) & 1 ? "true" : "false");
		else
			grow_scalar(in, out);
	}
	buf_addc(out, '}');
}

static void grow_filter(struct input *in, struct buf *out, int depth)
{
	buf_addc(out, '{');
	for (unsigned n = grow_byte(in) % 3, i = 0; i < n; i++) {
		unsigned what = depth < 9 ? grow_byte(in) % 8 : 0;
		buf_adds(out, i ? "," : "");
		if (what < 5) {
			grow_condition(in, out);
		} else if (what == 5) {
			buf_adds(out, "\"not\":");
			grow_filter(in, out, depth + 1);
		} else {
			buf_adds(out, what == 6 ? "\"and\":[" : "\"$or\":[");
			for (unsigned k = 1 + grow_byte(in) % 3; k; k--) {
				grow_filter(in, out, depth + 1);
				buf_adds(out, k > 1 ? "," : "");
			}
			buf_addc(out, ']');
		}
	}
	buf_addc(out, '}');
}

/* ---- the filter as SQL ---- */

static int bind_arg(sqlite3_stmt *st, int i, const struct filter_arg *a)
{
	switch (a->type) {
	case FARG_TEXT: return sqlite3_bind_text(st, i, a->s.len ? a->s.p : "", (int)a->s.len, SQLITE_STATIC);
	case FARG_INT: return sqlite3_bind_int64(st, i, a->i);
	case FARG_REAL: return sqlite3_bind_double(st, i, a->d);
	case FARG_BLOB: return sqlite3_bind_blob(st, i, a->s.p, (int)a->s.len, SQLITE_STATIC);
	case FARG_FILTER: return sqlite3_bind_pointer(st, i, (void *)(uintptr_t)a->filter, FILTER_POINTER, NULL);
	}
	return SQLITE_ERROR;
}

static bool by_sql(const struct filter *f)
{
	struct buf sql = {0};
	struct filter_args args = {0};
	sqlite3_stmt *st;
	buf_adds(&sql, "SELECT ");
	filter_sql(f, &sql, &args);
	buf_adds(&sql, " FROM memories m");
	if (sqlite3_prepare_v2(db, sql.p, (int)sql.len, &st, NULL) != SQLITE_OK)
		fprintf(stderr, "%.*s: %s\n", (int)sql.len, sql.p, sqlite3_errmsg(db));
	AN(st && sqlite3_bind_parameter_count(st) == (int)args.n);
	for (size_t i = 0; i < args.n; i++)
		AN(bind_arg(st, (int)i + 1, &args.v[i]) == SQLITE_OK);
	AN(sqlite3_step(st) == SQLITE_ROW);
	AN(sqlite3_column_type(st, 0) == SQLITE_INTEGER); /* never NULL: NOT would mean something else */
	int yes = sqlite3_column_int(st, 0);
	AN(yes == 0 || yes == 1);
	sqlite3_finalize(st);
	buf_free(&sql);
	filter_args_free(&args);
	return yes;
}

/* There is no server here: what is sent is what any server takes, as many values as the text names, and no byte of the
 * filter's stands in the text itself. */
static void by_postgres(const struct filter *f)
{
	struct buf sql = {0};
	struct filter_args args = {0};
	size_t named = 0;
	(void)!filter_postgres(f, 1, &sql, &args);
	buf_addc(&sql, 0);
	AN(strlen(sql.p) == sql.len - 1 && !strchr(sql.p, ';') && !strchr(sql.p, '\\'));
	for (const char *p = sql.p; (p = strstr(p, "($1::text[])[")); p++) {
		char *end;
		size_t from = strtoul(p + 13, &end, 10), to = *end == ':' ? strtoul(end + 1, &end, 10) : from;
		AN(from == named + 1 && to >= from && *end == ']');
		named = to;
	}
	AN(named == args.n);
	for (size_t i = 0; i < args.n; i++)
		AN(args.v[i].type == FARG_TEXT && util_text_valid(args.v[i].s));
	buf_free(&sql);
	filter_args_free(&args);
}

static void compare(json_t *j, const struct filter *f, const struct memory *m, const json_t *tree)
{
	bool in_c = filter_match(f, m), in_sql, in_model;
	store(m);
	in_sql = by_sql(f);
	by_postgres(f);
	in_model = tree && json_is_object(j) ? model_matches(j, m, tree) : in_c;
	if (in_c != in_sql || in_c != in_model) {
		fprintf(stderr, "C %d, SQL %d, model %d\nbody %.*s\n", in_c, in_sql, in_model, (int)m->body.len,
			m->body.p);
		json_dumpf(j, stderr, JSON_ENCODE_ANY);
	}
	AN(in_c == in_sql);
	AN(in_c == in_model);
}

/* The memory's JSON as draft_build.c writes it, as far as filters look at it; *tree_r NULL: `text` as it is. */
static char *make_body(const struct buf *text, size_t *len_r, json_t **tree_r)
{
	struct buf b = {0};
	json_t *o = json_loadb(text->p ? text->p : "", text->len, JSON_REJECT_DUPLICATES, NULL);
	char *metadata = json_is_object(o) ? json_dumps(o, JSON_COMPACT) : NULL;
	json_decref(o);
	if (metadata)
		buf_printf(&b, "{\"content\":\"\\\"metadata\\\":{\\\"a\\\":1}\",\"metadata\":%s,\"version\":1}",
			   metadata);
	else if (text->len)
		buf_add(&b, text->p, text->len);
	*tree_r = metadata ? json_loadb(b.p, b.len, 0, NULL) : NULL;
	free(metadata);
	*len_r = b.len;
	char *exact = malloc(b.len ? b.len : 1); /* its end is guarded */
	AN(exact);
	if (b.len)
		memcpy(exact, b.p, b.len);
	buf_free(&b);
	return exact;
}

static void judge(const struct buf *filter, const struct buf *metadata, const uint8_t *fields)
{
	struct memory m;
	json_t *tree, *j = json_loadb(filter->p ? filter->p : "", filter->len,
				      JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL | JSON_DECODE_ANY, NULL);
	char *error;
	size_t len;
	if (!j)
		return;
	struct filter *f = filter_parse(j, &error);
	AN(!f == !!error);
	if (f) {
		char *body = make_body(metadata, &len, &tree);
		make_memory(&m, fields, (struct span){body, len});
		compare(j, f, &m, tree);
		json_decref(tree);
		free(body);
	}
	free(error);
	filter_free(&f);
	json_decref(j);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data + 4, data + size};
	struct buf filter = {0}, metadata = {0};
	if (size < 5)
		return 0;
	open_once();
	if (data[0] & AS_TEXT) {
		size_t n = (size - 5) * data[4] / 255;
		buf_add(&filter, data + 5, n);
		buf_add(&metadata, data + 5 + n, size - 5 - n);
	} else {
		grow_filter(&in, &filter, 0);
		grow_object(&in, &metadata);
		if (data[0] & SPOIL_FILTER)
			grow_spoil(&in, &filter);
		if (data[0] & SPOIL_METADATA)
			grow_spoil(&in, &metadata);
	}
	judge(&filter, &metadata, data + 1);
	buf_free(&filter);
	buf_free(&metadata);
	return 0;
}
