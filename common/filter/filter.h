/* Filters over memories: one JSON language, one AST, evaluators that must agree (differential tests
 * hold them together): SQL for each store, C for what is still pending.
 *
 *   {"user_id":"u1"}                          equality on a scope or fixed field
 *   {"metadata.colour":"red"}                 dotted path into metadata
 *   {"importance":{"gte":0.5,"lt":0.9}}       eq ne gt gte lt lte in nin exists (also with $ in front)
 *   {"and":[…]} {"or":[…]} {"not":{…}}        several keys in one object mean and
 *
 * Fields: kind user_id agent_id session_id external_id importance created_at updated_at expires_at
 * pinned version id metadata.*   Comparison is typed: a string never equals a number; ranges compare
 * numbers with numbers and strings with strings (bytewise); timestamps are RFC 3339 strings, compared
 * as times on created_at/updated_at/expires_at. A missing field matches only {"exists":false}, ne and nin.
 * `eq` on a metadata array matches when any element equals (so do in, ne and nin); ranges on one never.
 * In a path a backslash makes the next character an ordinary one: "metadata.a\\.b" is the key "a.b".
 * A path goes through objects only. importance has the precision of a float. */
#ifndef ORC_FILTER_H
#define ORC_FILTER_H
#include <jansson.h>
#include "record.h"

struct filter;
/* Parses; NULL and *error_r (malloc'ed, names field, limit and remedy) when invalid. At most 64 conditions,
 * depth 8, 1000 values per `in`, 10,000 values altogether. A NULL or empty object gives a filter that matches everything. */
struct filter *must_check filter_parse(const json_t *j, char **error_r);
/* Adds `field eq value` with and (scopes from query parameters). */
void filter_and_eq(struct filter **f, const char *field, struct span value);
void filter_free(struct filter **f);
bool filter_is_empty(const struct filter *f);
/* Does m match? Conditions on metadata.* read m->body. */
bool filter_match(const struct filter *f, const struct memory *m);

/* The metadata object in a canonical body; empty: none. */
struct span filter_metadata(struct span body);

/* Appends a SQLite boolean expression over table alias `m` (columns of the memories table) to `sql`
 * and the values to bind, in order, to *args. Spans and FARG_FILTER pointers lie in f, which must live as long. */
struct filter_arg {
	enum {
		FARG_TEXT,
		FARG_INT,
		FARG_REAL,
		FARG_BLOB,
		FARG_FILTER
	} type; /* FARG_FILTER: bound as a FILTER_POINTER */
	struct span s;
	int64_t i;
	double d;
	const struct filter *filter;
	char *own; /* malloc'ed bytes that s lies in, or NULL */
};
struct filter_args {
	struct filter_arg *v;
	size_t n, cap;
};
void filter_sql(const struct filter *f, struct buf *sql, struct filter_args *args);
void filter_args_free(struct filter_args *a);
/* Defines the SQL function orc_meta() that the expressions use for conditions on metadata.*: the same
 * code as filter_match, so that no JSON dialect of SQLite's comes in between. */
#define FILTER_POINTER "orc-filter"
struct sqlite3;
bool must_check filter_sql_install(struct sqlite3 *db);

/* The same for PostgreSQL. All values that are bound are texts (FARG_TEXT), to be sent as one parameter of type text[],
 * $param; args->n 0: the expression names no parameter. False: the expression is true of every memory that matches and
 * of some that do not; filter_match() decides on the rows that come back.
 *
 * Exact are conditions on fixed fields, exists, equality and ranges with strings, booleans, null and numbers up to
 * ±2^53, on metadata whose numbers are written as the API writes them (17 digits). Not exact: larger numbers, ranges
 * with strings that a column cannot hold (U+0000, bytes that are not UTF-8), paths with such keys.
 * Equality with at most 8 values can use a GIN index over metadata (jsonb_path_ops). */
bool must_check filter_postgres(const struct filter *f, unsigned param, struct buf *sql, struct filter_args *args);
#endif
