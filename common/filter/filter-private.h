/* The parsed form of a filter: a tree whose root is an `and`. */
#ifndef ORC_FILTER_PRIVATE_H
#define ORC_FILTER_PRIVATE_H
#include "filter.h"

enum filter_kind { FILTER_AND, FILTER_OR, FILTER_NOT, FILTER_COND };
enum filter_op { FOP_EQ, FOP_NE, FOP_GT, FOP_GTE, FOP_LT, FOP_LTE, FOP_IN, FOP_NIN, FOP_EXISTS };

enum filter_type { FTYPE_TEXT, FTYPE_REAL, FTYPE_TIME, FTYPE_BOOL, FTYPE_INT, FTYPE_ID, FTYPE_META };
struct filter_field {
	const char *name, *sql; /* sql: the column, or an expression over it */
	enum filter_type type;
	size_t offset;          /* in struct memory */
	bool optional;          /* FTYPE_TIME: 0 means absent */
};
extern const struct filter_field filter_fields[];
extern const size_t filter_nfields; /* the last one is metadata.* */

enum filter_vtype { FV_NULL, FV_BOOL, FV_INT, FV_REAL, FV_TEXT, FV_ID };
struct filter_value {
	enum filter_vtype type;
	int64_t i; /* FV_BOOL, FV_INT (also times, in microseconds) */
	double d;
	struct span s; /* owned */
	struct uuid id;
};

struct filter_node {
	enum filter_kind kind;
	/* FILTER_AND, FILTER_OR; FILTER_NOT has one kid */
	struct filter_node *kids;
	size_t nkids;
	/* FILTER_COND */
	enum filter_op op;
	const struct filter_field *field;
	struct span *path; /* FTYPE_META: keys below metadata, owned */
	size_t npath;
	struct filter_value *v;
	size_t nv; /* FOP_EXISTS: one FV_BOOL */
};

struct filter {
	struct filter_node root;
	size_t conditions, values;
};

/* A condition on metadata.*, decided from the text of the memory's body. */
bool filter_meta_holds(const struct filter_node *c, struct span body);
#endif
