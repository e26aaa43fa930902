/* Commands that talk to the store itself, whether a daemon runs or not. */
#ifndef ORC_CTL_STORE_H
#define ORC_CTL_STORE_H
#include <limits.h>

#include "conf.h"
#include "ctl.h"
#include "schema.h"

/* What the commands of `migrate` may be told; each refuses what does not concern it. */
struct store_options {
	const char *dsn;
	struct conf_input input;
	const char *sets[64];
	unsigned to;
	int partitions;
	enum pg_vector_choice vector;
	bool dry_run, yes, force;
	int64_t wait_us;
	const char *kind, *table; /* of an index; of mem0's memories */
	long lists, lists_max;	  /* 0: from the number of rows */
	long m, ef_construction;  /* 0: pgvector's */
	long dimensions;	  /* 0: every one that occurs */
};
/* Which store the options or the daemon's configuration name. */
struct store_target {
	struct conf *conf; /* whose strings the others are; NULL: the dsn was given. The caller's, conf_free() it */
	const char *kind, *dsn;
};
/* CTL_OK, or the exit status after saying why. `command` stands before what is said. */
int must_check store_find(const struct store_options *o, const char *command, struct store_target *t_r);
/* The server that the options or the daemon's configuration name. NULL: *code_r is the exit status, and why was said. */
struct pg_plain *store_connect(const struct store_options *o, bool writes, int *code_r);
/* Says *error (freed) or the connection's last words; the exit status. */
int store_failed(enum store_rc rc, const struct pg_plain *p, char *error);

int vector_index(struct ctl *c, const struct store_options *o);
int mem0_mount(struct ctl *c, const struct store_options *o);
#endif
