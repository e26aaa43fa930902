/* One connection to PostgreSQL, in pipeline mode, driven by an event loop; nothing in here blocks. Requests are
 * answered in the order in which they were sent. Any thread may send; answers come on the loop's thread. */
#ifndef ORC_LINK_H
#define ORC_LINK_H
#include "pq.h"
#include "util.h"

struct event_base;

#define PG_PARAMS_MAX 40
/* Parameters of one statement, all binary. What is copied lies in `scratch`. */
struct pg_params {
	int n;
	const char *v[PG_PARAMS_MAX];
	int len[PG_PARAMS_MAX];
	size_t at[PG_PARAMS_MAX]; /* offset + 1 in scratch, 0: v points elsewhere */
	struct buf scratch;
};
void pg_params_reset(struct pg_params *p); /* keeps the room for the next */
void pg_params_free(struct pg_params *p);

struct pg_link_conf {
	const char *dsn;	    /* libpq's, without a password in it when it is said in errors */
	const char *application;    /* application_name */
	bool read_write;	    /* only a server that takes writes (target_session_attrs unless the dsn says) */
	int64_t connect_timeout_us; /* for one host, name resolution included */
	int64_t answer_timeout_us;  /* for one request; then the connection is given up. statement_timeout follows it */
	const char *setup;	    /* SQL to run after connecting; NULL: none */
};
enum pg_fate {
	PG_DONE,    /* the result says */
	PG_UNSENT,  /* there was no connection: nothing of it reached a server */
	PG_UNKNOWN, /* the connection broke behind it: it may or may not have been done */
};
struct pg_request {
	const char *
		name; /* of the prepared statement; it is prepared when this connection has not seen it. NULL: not prepared */
	const char *sql;
	const struct pg_params *params; /* NULL: none; they live until `done` */
	bool sync; /* the pipeline is synced behind it: what failed before it does not matter to the next */
	/* `res` is the callee's, NULL unless PG_DONE. A failed statement makes those up to the next sync PGRES_PIPELINE_ABORTED. */
	void (*done)(struct pg_request *r, enum pg_fate fate, PGresult *res);
	void *arg;
	struct pg_request *next; /* link's */
	int64_t sent_us;	 /* link's */
};
struct pg_link;
