/* What the files of the PostgreSQL store share.
 *
 * link.c drives one connection by an event loop, non-blocking and in pipeline mode; call.c lets a thread ask and
 * wait; open.c is a handle's life; write.c, read.c, text.c, nearest.c, feed.c are the vtable's rooms; schema.c
 * the migrations. Statements that are prepared stand in statements.def. */
#ifndef ORC_POSTGRES_PRIVATE_H
#define ORC_POSTGRES_PRIVATE_H
#include <event2/event.h>

#include "link.h"
#include "pq.h"
#include "store/store.h"

enum pg_stmt {
#define STATEMENT(id, sql) PG_##id,
#include "statements.def"
#undef STATEMENT
	PG_STATEMENTS
};

/* How this database was set up (memory_schema, schema.c). */
struct pg_schema {
	unsigned version;
	bool vector;	     /* embedding is of pgvector's type, else bytea */
	char vector_in[160]; /* schema that pgvector lives in */
	unsigned partitions; /* 0: the table is not partitioned */
};

/* schema_open.c: fills s->schema. A writer (s->writer) first brings the database up to date where conf.migrate allows it, over a
 * connection of its own; of two daemons one waits for the other. False: s->error says why and the remedy, *rc_r is
 * STORE_AWAY (not to be reached; for a reader also: no writer has made the schema yet) or STORE_ERROR. */
bool must_check pg_schema_read(struct store *s, enum store_rc *rc_r);

struct pg_names; /* numbers of namespaces → names */
struct pg_batch; /* write.c */
struct store {
	struct store_conf conf;
	bool writer;
	struct event_base *loop;     /* the handle's own; NULL: the link is the process's */
	struct pg_link *link, *scan; /* scan: for what may take its time */
	struct pg_schema schema;
	struct pg_names *names;
	struct words *words;
	struct pg_corpora *corpora;
	char error[512];
	/* The feed's. */
	bool notified;
	uint64_t listening; /* session that has been told LISTEN */
	/* The writer's. */
	struct pg_batch *batch;
	uint64_t cursor;      /* as it was read or committed last */
	uint64_t session;     /* whose predecessors on the server have been ended */
	uint64_t claimed;     /* session that holds the lock of the node's number */
	uint64_t transaction; /* session that BEGIN was sent on */
	bool in_transaction, copying, copy_failed;
	char application[64];
};

/* ---- call.c: asking and waiting ---- */

/* One statement, alone in its implicit transaction. The connection is made when there is none. STORE_OK: *res_r
 * is the caller's, pq.clear() it. Else s->error says why: STORE_AWAY (not to be reached, too slow, shutting down, read
 * only: try later), STORE_REJECTED (the server does not accept these values), STORE_ERROR (everything else). */
enum store_rc must_check pg_call(struct store *s, enum pg_stmt which, const struct pg_params *p, PGresult **res_r);
/* The same for a text that is not prepared (a list with its filter). */
enum store_rc must_check pg_call_text(struct store *s, const char *sql, const struct pg_params *p, PGresult **res_r);
/* For statements that are sent as a pipeline (write.c): what became of one, in s->error too. */
enum store_rc pg_outcome(struct store *s, struct pg_link *l, enum pg_fate fate, const PGresult *res);
const char *pg_statement(enum pg_stmt which);
void pg_drive(struct store *s); /* the handle's own loop: until something has happened */
/* Nobody drives the handle's own loop between two calls: a connection that the server has closed meanwhile is noticed
 * here, or the next statement, which may be a probe of the breaker, would be lost on it. */
void pg_notice_end(struct store *s);
enum store_rc pg_fail(struct store *s, enum store_rc rc, const char *fmt, ...) printf_like(3, 4); /* returns rc */

/* ---- values.c: parameters and results, all in binary ---- */

void pg_param_null(struct pg_params *p);
void pg_param_int8(struct pg_params *p, int64_t v);
void pg_param_int4(struct pg_params *p, int32_t v);
void pg_param_int2(struct pg_params *p, int16_t v);
void pg_param_bool(struct pg_params *p, bool v);
void pg_param_real(struct pg_params *p, float v);
void pg_param_double(struct pg_params *p, double v);
void pg_param_time(struct pg_params *p, int64_t us);		     /* µs since 1970; timestamptz */
void pg_param_time_or_null(struct pg_params *p, int64_t us);	     /* 0: NULL */
void pg_param_text(struct pg_params *p, struct span s);		     /* not copied: must live until the call is over */
void pg_param_text_or_null(struct pg_params *p, struct span s);	     /* empty: NULL */
void pg_param_bytes(struct pg_params *p, const void *v, size_t len); /* not copied */
void pg_param_copy(struct pg_params *p, const void *v, size_t len);  /* any type's binary form */
void pg_param_uuid(struct pg_params *p, const struct uuid *u);	     /* not copied */
void pg_param_jsonb(struct pg_params *p, struct span json);	     /* copied */
/* In the form of the column `embedding`: x as vector (big-endian, copied) or bytea (not copied). NULL for dim 0. */
void pg_param_embedding(struct pg_params *p, const struct pg_schema *schema, uint32_t dim, const float *x);
/* One-dimensional arrays. */
void pg_param_uuids(struct pg_params *p, const struct uuid *v, size_t n);
void pg_param_int8s(struct pg_params *p, const int64_t *v, size_t n);
void pg_param_int4s(struct pg_params *p, const int32_t *v, size_t n);
void pg_param_int2s(struct pg_params *p, const int16_t *v, size_t n);
void pg_param_texts(struct pg_params *p, const struct span *v, size_t n);

bool pg_is_null(const PGresult *res, int row, int column);
int64_t pg_int(const PGresult *res, int row, int column); /* int2, int4 or int8, by its length; NULL: 0 */
bool pg_bool(const PGresult *res, int row, int column);
double pg_real(const PGresult *res, int row, int column);      /* float4 or float8 */
int64_t pg_time(const PGresult *res, int row, int column);     /* µs since 1970; NULL: 0 */
struct span pg_text(const PGresult *res, int row, int column); /* text or bytea; lies in the result */
struct uuid pg_uuid(const PGresult *res, int row, int column);
/* dim floats in `x` (room for `max`); returns dim, 0 for NULL or what is no vector of ours. */
uint32_t pg_embedding(const PGresult *res, int row, int column, const struct pg_schema *schema, float *x, uint32_t max);
/* Elements of a one-dimensional array, one after the other: at 0 first; false at the end. */
struct pg_array {
	const char *p, *end;
	uint32_t left;
};
struct pg_array pg_array(const PGresult *res, int row, int column);
bool pg_array_next(struct pg_array *a, struct span *v_r);
int64_t pg_array_int(struct span v); /* of an element */

/* ---- open.c ---- */

struct store_links *must_check pg_start(const struct store_conf *c, struct event_base *loop, char **error_r);
void pg_stop(struct store_links *l);
struct store *must_check pg_open(const struct store_conf *c, bool writer, char **error_r);
void pg_close(struct store *s);
bool pg_probe(const struct store_conf *c, char **what_r);
const char *pg_error(struct store *s);

/* ---- write.c and node.c: the writer's entries of the vtable (store.h) ---- */

/* Ends the sessions of this node's former writers: a connection that broke, or a process that died, may have left a
 * transaction that the server still believes in. The handle's session is the current one from here on, and the only
 * one that writes for this node. */
enum store_rc pg_end_former(struct store *s);
enum store_rc pg_begin(struct store *s);
enum store_rc pg_apply(struct store *s, uint64_t seq, struct txn_reader *t);
enum store_rc pg_commit(struct store *s, uint64_t seq);
uint64_t pg_committed(struct store *s);
void pg_rollback(struct store *s);
void pg_drift(struct store *s, void (*fn)(void *arg, uint64_t ns, int64_t count, int64_t bytes), void *arg);
enum store_rc pg_cursor(struct store *s, uint64_t *seq_r);
bool pg_culprit(struct store *s, uint64_t *seq_r, uint32_t *op_r);
void pg_lost(struct store *s, void (*fn)(void *arg, const struct store_lost *l), void *arg);
enum store_rc pg_scrub_due(struct store *s, uint64_t *seq_r);
enum store_rc pg_scrub(struct store *s);

/* copy.c: many new memories at once. STORE_REJECTED: one of them is not new, or not acceptable; the transaction has failed.
 * *done_r false with STORE_OK: not a case for it, nothing was written. */
struct pg_batch;
enum store_rc must_check pg_copy_adds(struct store *s, bool *done_r);

/* ---- feed.c ---- */

enum store_rc pg_identity(struct store *s, uint64_t *identity_r);
enum store_rc pg_revision(struct store *s, uint64_t *revision_r);
enum store_rc pg_changes(struct store *s, uint64_t after, size_t max, store_change_fn *fn, void *arg, uint64_t *last_r);
enum store_rc pg_listen(struct store *s, int64_t max_us, const _Atomic bool *stop);
enum store_rc pg_prune(struct store *s, int64_t keep_us, uint64_t keep_changes); /* by age only */
void pg_on_notified(void *store);

/* ---- names.c ---- */

/* The name of a namespace's number; empty: the database knows no such namespace. Asks the database when the number
 * is not known yet. The span lives as long as the store. */
enum store_rc must_check pg_namespace(struct store *s, uint64_t ns, struct span *name_r);
void pg_names_free(struct pg_names **n);

/* ---- the rooms ---- */

/* read.c: columns that every query for whole memories selects, in this order. pg_memory() needs them. */
#define PG_MEMORY                                                                                                         \
	"m.id,m.namespace,m.version,m.node,m.created_at,m.updated_at,m.expires_at,m.flags,m.importance,m.kind,m.user_id," \
	"m.agent_id,m.session_id,m.external_id,m.content,m.content_key,m.embedding_model,m.dim,m.body"
#define PG_MEMORY_COLUMNS 19
void pg_memory(const PGresult *res, int row, struct memory *m_r);
/* The same and when it was deleted: of alias m, from memories and from memory_trash. pg_visit_rows() needs one of
 * them, and behind it the embedding or nothing. */
#define PG_LIVE PG_MEMORY ",NULL::timestamptz"
#define PG_DEAD PG_MEMORY ",m.deleted_at"
struct pg_visit {
	const struct filter *check; /* rows that it does not match are passed over; NULL: none */
	size_t limit;		    /* stops after so many; 0: all */
	store_visit_fn *fn;
	void *arg;
	size_t n;     /* rows that fn has seen */
	size_t bytes; /* of the rows of the last result */
	bool stopped;
};
void pg_visit_rows(struct store *s, struct pg_visit *v, const PGresult *res);
enum store_rc pg_read_get(struct store *s, const struct uuid *id, bool vector, store_visit_fn *fn, void *arg);
enum store_rc pg_read_get_many(struct store *s, const struct uuid *ids, size_t n, bool vector, store_visit_fn *fn,
			       void *arg);
enum store_rc pg_read_by_external(struct store *s, uint64_t ns, struct span id, bool vector, store_visit_fn *fn,
				  void *arg);
enum store_rc pg_read_by_content(struct store *s, uint64_t ns, uint64_t key, struct span content, bool vector,
				 store_visit_fn *fn, void *arg);
enum store_rc pg_read_idem(struct store *s, uint64_t key, int64_t now_us, struct op_idem *out_r, struct buf *reply);
enum store_rc pg_read_history(struct store *s, const struct uuid *id, store_visit_fn *fn, void *arg);
enum store_rc pg_read_neighbours(struct store *s, const struct uuid *id, int64_t now_us, struct store_neighbour out[4],
				 size_t *n_r);
/* list.c: appends " AND (the filter)" over alias m and at most one parameter, copied. False: it is true of more rows
 * than match; filter_match() must look at them. */
bool must_check pg_filter(const struct filter *f, struct buf *sql, struct pg_params *p);
enum store_rc pg_list_rows(struct store *s, const struct store_list *q, store_visit_fn *fn, void *arg);
enum store_rc pg_list_ids(struct store *s, const struct store_list *q, store_visit_fn *fn, void *arg);
enum store_rc pg_list_count(struct store *s, const struct store_list *q, uint64_t *count_r);
enum store_rc pg_list_indexed(struct store *s, const struct uuid *after, size_t max, store_indexed_fn *fn, void *arg);
enum store_rc pg_list_indexed_count(struct store *s, uint64_t *count_r);
enum store_rc pg_list_recent(struct store *s, const struct uuid *after, size_t max, store_visit_fn *fn, void *arg);
/* collect.c: what has expired is judged by the server's clock, what is old in the trash by now_us - trash_before_us
 * before it. Deletes answers that expired, and marks of what was erased or expired a month ago. */
enum store_rc pg_collect(struct store *s, int64_t now_us, int64_t trash_before_us, size_t max, store_visit_fn *fn,
			 void *arg);
enum store_rc pg_collect_namespaces(struct store *s, void (*fn)(void *arg, const struct store_ns *n), void *arg);
/* text.c, text_corpus.c */
enum store_rc pg_text_search(struct store *s, const struct store_text *q, struct store_text_hit *out, size_t *n_r);
struct pg_corpora; /* how common words are, by namespace */
void pg_corpora_free(struct pg_corpora **c);
/* nearest.c; pg_nearest_plan() in measure.h */
enum store_rc pg_nearest(struct store *s, const struct store_nearest *q, struct store_text_hit *out, size_t *n_r);
extern const struct store_ops postgres_store;
#endif
