/* The store: the system of record behind a small vtable (SQLite or PostgreSQL).
 * Everything above it is common to all stores. All calls wait for their answer: they are made from sync's flusher
 * thread (the only writer), its feed thread and reader threads, never from an event loop. */
#ifndef ORC_STORE_H
#define ORC_STORE_H
#include "conf.h"
#include "filter/filter.h"
#include "record.h"
#include "words/language.h"

struct breaker;
struct event_base;
struct store_links;
struct store; /* a handle, used by one thread at a time */
struct store_conf {
	const char *kind, *dsn, *dir;
	/* Servers only. */
	uint64_t node;		   /* who writes: the daemon's number in its fleet (node_number()) */
	const char *purpose;	   /* of the connection, for application_name: "sync", "api 3", "feed" … */
	struct store_links *links; /* of start(); NULL: the handle has a connection of its own, driven by its thread */
	struct breaker *breaker;   /* asked before the server is; NULL: none */
	uint64_t copy_min;	   /* new memories in a batch from which on they are written by COPY; 0: never */
	int64_t connect_timeout_us, answer_timeout_us;
	bool migrate; /* a writer brings the schema up to date; else it asks for `orchestractl migrate up` */
};

enum store_rc {
	STORE_OK = 0,
	STORE_NOT_FOUND,
	STORE_ERROR,	/* error() says what */
	STORE_BUSY,	/* try again at once */
	STORE_AWAY,	/* not to be reached, or takes nothing for now (read only, full, shutting down): try later */
	STORE_REJECTED, /* it does not accept what it was given, however often it is asked */
};

/* Visits one memory; spans are valid during the call. Return false to stop. */
typedef bool store_visit_fn(void *arg, const struct memory *m);
/* What an index holds of a memory. dim 0: it has no vector. */
struct store_indexed {
	struct uuid id;
	uint64_t ns, version;
	int64_t expires_us;
	struct span content;
	uint32_t dim;
	const float *x;
};
typedef bool store_indexed_fn(void *arg, const struct store_indexed *x);

struct store_list {
	uint64_t ns;
	const struct filter *filter; /* NULL = all */
	bool descending;	     /* by id, which is by time of creation */
	bool have_after;
	struct uuid after; /* keyset cursor: strictly past this id */
	size_t limit;	   /* 0 = all */
	int64_t now_us;	   /* expired rows are invisible */
	bool deleted;	   /* false: live only; true: soft-deleted only */
	bool with_embedding;
};
/* A memory that the store does not have yet, to be ranked as if it did. */
struct store_text_extra {
	struct uuid id;
	uint64_t version;
	struct span content;
};
struct store_text {
	uint64_t ns;
	struct span query;	     /* natural language: the store tokenises, stems, drops stop words */
	enum language language;	     /* the namespace's */
	const struct filter *filter; /* for the store's rows; extras are filtered by the caller */
	size_t limit;
	int64_t now_us;
	const struct store_text_extra *extra;
	size_t nextra;
	/* Rows that a pending write has changed or deleted: not to appear (NULL = none). */
	bool (*hidden)(void *arg, const struct uuid *id);
	void *hidden_arg;
};
struct store_text_hit {
	struct uuid id;
	uint64_t version;
	double score;
}; /* higher is better */
struct store_neighbour {
	struct uuid id;
	int distance; /* −2…2 within the session */
};
struct store_ns { /* a namespace row */
	uint64_t ns;
	char name[129];
	char embedder[64];
	uint32_t dim;
	uint64_t count, bytes, quota_count, quota_bytes;
	uint32_t relaxed;
	enum language language;
	int64_t created_us;
	bool exists;
};
/* How widely a server's own index of vectors is searched (pgvector). Zeros: as the server has it. */
struct store_effort {
	unsigned ef_search, probes; /* candidates of an HNSW index; lists of an IVFFlat one */
};
struct store_nearest_cost {
	unsigned statements;
	uint64_t rows; /* that came for them */
	bool whole;    /* all vectors were compared, at once or because the index yielded too few */
};
/* Vectors that are not in the index: ranked by the store. Rows that a pending write has changed are skipped as in
 * store_text; what is pending is the caller's to merge. */
struct store_nearest {
	uint64_t ns;
	const float *x; /* cosine similarity; higher is better */
	uint32_t dim;
	const struct filter *filter;
	size_t limit;
	int64_t now_us;
	bool (*hidden)(void *arg, const struct uuid *id);
	void *hidden_arg;
	bool exact; /* all vectors are compared, whatever index there is */
	struct store_effort effort;
	struct store_nearest_cost *cost_r; /* PostgreSQL: what it took; NULL: nobody asks */
};
/* Hits that a search for `limit` results takes from words and from vectors each. */
static inline size_t store_nearest_depth(size_t limit) { return 4 * limit > 100 ? 4 * limit : 100; }
/* One change of the feed. SQLite: a revision is the journal's sequence number of the last transaction in its batch. */
enum store_change_kind {
	CHANGE_PUT = 1,
	CHANGE_DELETED,
	CHANGE_GONE /* erased or expired */,
	CHANGE_NAMESPACE,
	CHANGE_NS_DROP
};
struct store_change {
	uint64_t revision, node; /* node: 0 where nobody else writes */
	int64_t at_us;
	enum store_change_kind kind;
	struct span namespace;
	struct uuid id;
	uint64_t version;
	int64_t count,
		bytes; /* where `fleet`: what the batch added to its namespace, with the first change of it in a revision; else 0 */
};
struct store_lost {
	uint64_t seq, ns, version;
	uint32_t op, type; /* number in its transaction; enum op_type */
	struct uuid id;
};
typedef bool store_change_fn(void *arg, const struct store_change *c);

struct store_ops {
	const char *kind;
	bool fleet; /* several daemons may write to one store: there is a feed to follow */
	/* Servers (NULL else): the connections that this process's handles share, driven by `loop`. On the loop's thread;
	 * a handle takes them from its store_conf. After stop() every call on them fails at once. */
	struct store_links *(*start)(const struct store_conf *c, struct event_base *loop, char **error_r);
	void (*stop)(struct store_links *l); /* the handles may still be open */
	/* Opens; writer creates and migrates the schema. NULL and *error_r (malloc'ed). */
	struct store *(*open)(const struct store_conf *c, bool writer, char **error_r);
	void (*close)(struct store *s);
	/* Could it be opened and written? *what_r (malloc'ed) names it and says what was found. Nothing is made or
	 * migrated. */
	bool (*probe)(const struct store_conf *c, char **what_r);
	const char *(*error)(struct store *s); /* text of the last STORE_ERROR */

	/* -- writer (flusher) -- */
	/* begin … apply(each transaction in order of seq) … commit. commit durably stores the batch and the
	 * cursor in one step: applying again after a crash changes nothing (strictly newer version wins).
	 * rollback after any error. An error too when the files were deleted or replaced under the store: the
	 * caller keeps the records, and applies them again when the files are back. */
	enum store_rc (*begin)(struct store *s);
	enum store_rc (*apply)(struct store *s, uint64_t seq, struct txn_reader *txn);
	enum store_rc (*commit)(struct store *s, uint64_t seq);
	void (*rollback)(struct store *s);
	/* After STORE_REJECTED from apply or commit: which operation of which transaction it was. False: not known. */
	bool (*culprit)(struct store *s, uint64_t *seq_r, uint32_t *op_r);
	/* After commit: the revision that others read the batch's changes at; 0: it had none. NULL: the batch's last sequence
	 * number is its revision. */
	uint64_t (*committed)(struct store *s);
	/* After commit: writes that have lost against another daemon's, in order. NULL: there are no others. */
	void (*lost)(struct store *s, void (*fn)(void *arg, const struct store_lost *l), void *arg);
	/* After commit, NULL without a fleet: by how much namespaces count otherwise than the operations say by
	 * themselves, because others wrote to the same memories. */
	void (*drift)(struct store *s, void (*fn)(void *arg, uint64_t ns, int64_t count, int64_t bytes), void *arg);
	enum store_rc (*cursor)(struct store *s, uint64_t *flushed_seq_r);
	/* The last transaction with TXN_SCRUB that scrub() has not followed yet; 0 = none. */
	enum store_rc (*scrub_due)(struct store *s, uint64_t *seq_r);
	/* After erase: nothing of deleted content stays in the files (secure delete, FTS purge, WAL truncated).
	 * The journal is scrubbed before: when this returns, nothing is due any more.
	 * STORE_BUSY: a reader is in the way for now, something may be left; call again. */
	enum store_rc (*scrub)(struct store *s);
	/* Ids (live) whose expires_us <= now and tombstones older than trash_before_us, at most max. */
	enum store_rc (*collect)(struct store *s, int64_t now_us, int64_t trash_before_us, size_t max,
				 store_visit_fn *fn, void *arg);

	/* -- readers -- */
	/* memory by id, live or deleted (m.deleted_us says). with_embedding loads the vector too. */
	enum store_rc (*get)(struct store *s, const struct uuid *id, bool with_embedding, store_visit_fn *fn,
			     void *arg);
	/* Those of the ids that exist, in any order. */
	enum store_rc (*get_many)(struct store *s, const struct uuid *ids, size_t n, bool with_embedding,
				  store_visit_fn *fn, void *arg);
	enum store_rc (*by_external)(struct store *s, uint64_t ns, struct span external_id, bool with_embedding,
				     store_visit_fn *fn, void *arg);
	enum store_rc (*by_content)(struct store *s, uint64_t ns, uint64_t content_key, struct span content,
				    bool with_embedding, store_visit_fn *fn, void *arg);
	enum store_rc (*idem)(struct store *s, uint64_t key, int64_t now_us, struct op_idem *out_r, struct buf *reply);
	enum store_rc (*list)(struct store *s, const struct store_list *q, store_visit_fn *fn, void *arg);
	enum store_rc (*ids)(struct store *s, const struct store_list *q, store_visit_fn *fn,
			     void *arg); /* id, ns, version, expires only */
	enum store_rc (*count)(struct store *s, const struct store_list *q, uint64_t *count_r);
	enum store_rc (*history)(struct store *s, const struct uuid *id, store_visit_fn *fn,
				 void *arg); /* older versions, newest first */
	enum store_rc (*text)(struct store *s, const struct store_text *q, struct store_text_hit *out, size_t *n_r);
	/* Memories around `id` in its session, by id order, at most 2 each side (distance ±1, ±2); live only. */
	enum store_rc (*neighbours)(struct store *s, const struct uuid *id, int64_t now_us,
				    struct store_neighbour out[4], size_t *n_r);
	enum store_rc (*namespaces)(struct store *s, void (*fn)(void *arg, const struct store_ns *n), void *arg);
	/* What the indexes hold, in id order after `after` (NULL = from the start): all that is live and not superseded; the
	 * refill. indexed_count: about how many; 0 only when there are none. */
	enum store_rc (*indexed)(struct store *s, const struct uuid *after, size_t max, store_indexed_fn *fn,
				 void *arg);
	enum store_rc (*indexed_count)(struct store *s, uint64_t *count_r);
	/* Newest memories first, at most max, for the warmer; from the one behind `after` on (NULL: from the newest). When
	 * `after` is gone meanwhile, there may be none. */
	enum store_rc (*recent)(struct store *s, const struct uuid *after, size_t max, store_visit_fn *fn, void *arg);
	/* Room for q->limit hits. */
	enum store_rc (*nearest)(struct store *s, const struct store_nearest *q, struct store_text_hit *out,
				 size_t *n_r);

	/* -- the feed -- */
	/* Which store it is, as a number that another one hardly has. NULL where `fleet` is false. */
	enum store_rc (*identity)(struct store *s, uint64_t *identity_r);
	/* The last one that was published. */
	enum store_rc (*revision)(struct store *s, uint64_t *revision_r);
	/* Changes with revision > after, in order, at most max batches; *last_r: the last revision that was looked at.
	 * STORE_NOT_FOUND: some behind `after` are no longer kept, or `after` lies in the future; begin anew from *last_r
	 * with everything read again. */
	enum store_rc (*changes)(struct store *s, uint64_t after, size_t max, store_change_fn *fn, void *arg,
				 uint64_t *last_r);
	/* Returns when something was published, or after max_us, or when *stop. STORE_AWAY: without wake-ups for now, poll.
	 * NULL where `fleet` is false. */
	enum store_rc (*listen)(struct store *s, int64_t max_us, const _Atomic bool *stop);
	/* Writer, between batches: forgets changes that are older than keep_us and, on SQLite, all but the last keep_changes.
	 * STORE_BUSY: a part of them; call again. */
	enum store_rc (*prune)(struct store *s, int64_t keep_us, uint64_t keep_changes);
};
/* From the keys of section store, and data.dir; the strings are the configuration's. */
void store_conf_from(const struct conf *c, const char *purpose, struct store_conf *out_r);
/* For the stores' by_content(), whose index knows 64-bit keys only: a store_visit_fn that hands on to fn the memories
 * whose content is really `want`. arg: struct store_same_content. */
struct store_same_content {
	struct span want;
	store_visit_fn *fn;
	void *arg;
	bool found;
};
bool store_same_content(void *arg, const struct memory *m);
/* The store that `kind` names ("sqlite", "postgres"); NULL: unknown. */
const struct store_ops *store_by_kind(const char *kind);
#endif
