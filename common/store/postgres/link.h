/* One connection to PostgreSQL, in pipeline mode, driven by an event loop; nothing in here blocks. Requests are
 * answered in the order in which they were sent. Any thread may send; answers come on the loop's thread. */
#ifndef ORC_LINK_H
#define ORC_LINK_H
#include "pq.h"
#include "util.h"

struct event_base;

#define PG_PARAMS_MAX 72
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

/* Call before the values are handed on: what lies in the scratch has an address only then. */
void pg_params_ready(struct pg_params *p);

struct pg_link_conf {
	const char *dsn;	     /* libpq's: keywords or URI */
	const char *application;     /* application_name */
	bool read_write;	     /* only a server that takes writes, unless the dsn says something else */
	int64_t connect_timeout_us;  /* for each address */
	int64_t answer_timeout_us;   /* for a request at the head of the pipeline; then the connection is given up */
	const char *setup;	     /* a statement for each new connection; NULL: none */
	void (*notified)(void *arg); /* a NOTIFY came; NULL: none is expected */
	void *arg;
};

enum pg_fate {
	PG_DONE,    /* the result says */
	PG_UNSENT,  /* there was no connection: no server has seen it */
	PG_UNKNOWN, /* the connection broke behind it: it may or may not have been done */
};
struct pg_request {
	int prepared; /* number of the prepared statement, below PG_PREPARED_MAX; made at its first use on a connection. -1: none */
	const char *sql;
	struct pg_params *params; /* NULL: none; they live until it is sent, or done() */
	/* of pg_link_session(): for that connection only, else PG_UNSENT. 0: any, and one is made */
	uint64_t session;
	bool sync; /* the pipeline is synced behind it: a failure before it does not matter to what follows */
	/* On the loop's thread, in order. `res` is the callee's, NULL unless PG_DONE. A failed statement makes those
	 * up to the next sync PGRES_PIPELINE_ABORTED. */
	void (*done)(struct pg_request *r, enum pg_fate fate, PGresult *res);
	void *arg;
	struct pg_request *next; /* link's own, until done() */
};
#define PG_PREPARED_MAX 128

struct pg_link;
/* On the loop's thread; connects when the first request comes. The strings are copied. */
struct pg_link *must_check pg_link_new(struct event_base *loop, const struct pg_link_conf *conf);
/* On the loop's thread, or when it has ended. Requests under way are done(), PG_UNKNOWN. */
void pg_link_free(struct pg_link **l);
/* Any thread. The request belongs to the link until done(). */
void pg_link_send(struct pg_link *l, struct pg_request *r);
/* Gives the connection up; the next request makes another. The loop's thread. */
void pg_link_drop(struct pg_link *l, const char *why);
/* For good: what is under way fails, and so does at once whatever is sent from now on. The loop's thread. */
void pg_link_close(struct pg_link *l);
/* COPY … FROM STDIN on a connection whose loop the caller drives, with nothing under way: next() appends a piece of
 * data to b, as long as it says so. The pipeline is left and entered again; whoever is in a transaction stays in it.
 * PG_DONE: *res_r is the caller's. */
enum pg_fate must_check pg_link_copy(struct pg_link *l, const char *sql, bool (*next)(void *arg, struct buf *b),
				     void *arg, PGresult **res_r);
/* The server is to send its answers to all that was sent; a sync asks for that, too. The loop's thread. */
void pg_link_flush(struct pg_link *l);
bool pg_link_closed(struct pg_link *l);
/* Does what was sent pile up in libpq, because the server takes it more slowly? The loop's thread. */
bool pg_link_blocked(const struct pg_link *l);
/* A copy of what went wrong last; any thread. */
void pg_link_error(struct pg_link *l, char *text, size_t cap);
/* Grows with every connection: who keeps state in a session asks whether it is the same. Any thread. */
uint64_t pg_link_session(struct pg_link *l);
/* How the session's searches are set up, which threads share: as `what`? Any thread. False: the caller sets it up so, and says
 * when that is done; of two who do at once neither counts, and the next one does it again. */
struct pg_link_setting {
	uint64_t session, what, begun;
};
bool must_check pg_link_is_set(struct pg_link *l, uint64_t what, struct pg_link_setting *mine_r);
void pg_link_set(struct pg_link *l, const struct pg_link_setting *mine);
bool pg_link_ready(const struct pg_link *l); /* on the loop's thread: there is a connection */
/* The calling thread is the one that drives the loop from now on. */
void pg_link_adopt(struct pg_link *l);
#endif
