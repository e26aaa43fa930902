/* The parsed form of a filter, shared by parse.c, match.c, sql.c and sql_postgres.c. */
#ifndef ORC_FILTER_PRIVATE_H
#define ORC_FILTER_PRIVATE_H
#include "filter/filter.h"

enum fop { F_AND, F_OR, F_NOT, F_EQ, F_NE, F_GT, F_GTE, F_LT, F_LTE, F_IN, F_NIN, F_EXISTS };
enum fvalue_type { FV_NULL, FV_BOOL, FV_INT, FV_REAL, FV_TEXT };
struct fvalue {
	enum fvalue_type type;
	char *s; /* FV_TEXT: len bytes */
	size_t len;
	int64_t i; /* FV_INT, FV_BOOL */
	double d;
};
enum fkind { FF_TEXT, FF_UUID, FF_REAL, FF_INT, FF_TIME, FF_BOOL, FF_META };
struct fcolumn {
	const char *name, *sql;
	enum fkind kind;
	size_t offset; /* in struct memory */
};
struct filter {
	enum fop op;
	struct filter **kid; /* F_AND, F_OR, F_NOT */
	size_t nkids;
	const struct fcolumn *column; /* NULL: a path into metadata */
	char *path;		      /* keys, each ended by NUL, the last by two */
	struct fvalue *v;
	size_t nv;
};
const struct fcolumn *filter_column(const char *name);
/* −1, 0, 1, or 2: of types that do not compare. */
int filter_compare(const struct fvalue *a, const struct fvalue *b);
/* A condition on a path (no and, or, not), judged on a metadata object. */
bool filter_meta(const struct filter *f, struct span metadata);

/* ---- filters as SQL: the tree is written in sql.c, its conditions by a dialect ---- */

struct filter_writing {
	struct buf *sql;
	struct filter_args *args;
	unsigned param; /* PostgreSQL: number of the parameter that holds the texts */
	bool inexact;	/* some condition is only an approximation */
};
struct filter_dialect {
	const char *yes, *no;
	/* Writes one condition. under_not: an odd number of nots stands around it. */
	void (*condition)(const struct filter *f, bool under_not, struct filter_writing *w);
};
void filter_write(const struct filter *f, const struct filter_dialect *d, bool under_not, struct filter_writing *w);
void filter_arg_add(struct filter_args *a, struct filter_arg v);
const char *filter_comparison(enum fop op); /* the operator in SQL; "=" for those that are about equality */
#endif
