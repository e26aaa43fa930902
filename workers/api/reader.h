/* Reading what is accepted: pending table first, then the store. One struct reader per thread. */
#ifndef ORC_READER_H
#define ORC_READER_H
#include "cache/policy.h"
#include "index/vectors.h"
#include "journal/journal.h"
#include "pending.h"
#include "plant.h"
#include "store/store.h"
#include "trace/trace.h"
#include "words/postings.h"

struct shared { /* attached once per worker, used by all its threads */
	struct plant *plant;
	struct pending *pending;
	struct cache *cache;
	struct l2 *l2; /* NULL: there is none, or the store is nearer */
	struct stats_slot *stats;
	struct flight_self self; /* this process, among those that load */
	struct cache_policy policy;
	struct vectors *vectors;
	float recall;			    /* that searches of it aim at; 1: exact */
	_Atomic unsigned ef_search, probes; /* of vectors that the store ranks */
	struct postings *postings;
	const struct store_ops *ops;
	struct store_conf store_conf;
};

struct reader {
	struct shared *shared;
	struct store *store; /* opened on first use */
	struct journal_reader *journal;
	char *error;	   /* why the store cannot be read; valid after READ_ERROR */
	bool store_failed; /* the last READ_ERROR was the store's, not the journal's */
	bool offline;
	int trouble;	     /* errno: something pending could not be read from the journal */
	char *body;	     /* scratch for L1 reads */
	struct words *words; /* made on first use: reader_words() */
};

enum read_rc { READ_OK, READ_NONE, READ_ERROR };

/* A memory that owns its bytes. */
struct held {
	struct memory m;
	char *bytes;
};
void held_free(struct held *h);
void held_copy(struct held *h, const struct memory *m);

struct reader *reader_new(struct shared *s);
void reader_free(struct reader **r);
bool must_check reader_store(struct reader *r); /* opens the store; false: r->error */
/* On: the store is not asked, and what needs it is READ_ERROR at once. */
void reader_offline(struct reader *r, bool on);
struct words *reader_words(struct reader *r);
/* READ_ERROR when something pending could not be read since the last question: r->error says it. */
enum read_rc must_check reader_trouble(struct reader *r);

/* The current state of a memory, deleted ones included (m.deleted_us). READ_NONE: never existed or erased. Expired
 * memories are READ_NONE. reader_newest() yields also those that nobody may see any more (reader_visible()) and the
 * store still has: who takes their id over must go on from their version. */
enum read_rc must_check reader_newest(struct reader *r, const struct uuid *id, bool with_embedding, struct held *h_r);
bool reader_visible(struct reader *r, const struct memory *m);
/* The part of reader_newest() that is decided without the store: what is pending. False: nothing is, or (r->trouble) it
 * could not be read. */
bool must_check reader_pending(struct reader *r, const struct uuid *id, bool with_embedding, struct held *h_r,
			       enum read_rc *rc_r);
/* After the store was asked: what its answer means. READ_ERROR: r->error says why; what is pending could not be read
 * either, and without it the store's answer would be wrong. */
enum read_rc must_check reader_outcome(struct reader *r, enum store_rc rc);
/* The store was asked: that is a step of the trace which trace_enter(TRACE_STORE) has begun. */
static inline enum store_rc reader_asked(unsigned step, enum store_rc rc)
{
	trace_leave_with(step, TRACE_KEYS, 0, rc != STORE_OK && rc != STORE_NOT_FOUND);
	return rc;
}
enum read_rc must_check reader_get(struct reader *r, const struct uuid *id, bool with_embedding, struct held *h_r);
/* Live memory by external id or by content of a namespace. */
enum read_rc must_check reader_by_external(struct reader *r, uint64_t ns, struct span external_id, struct held *h_r);
enum read_rc must_check reader_by_content(struct reader *r, uint64_t ns, struct span content, struct held *h_r);
/* A stored idempotent answer: head and reply bytes. */
enum read_rc must_check reader_idem(struct reader *r, uint64_t key, struct op_idem *out_r, struct buf *reply);

/* List with the pending table merged in. fn is called in order; the memory's spans live during the call. */
enum read_rc must_check reader_list(struct reader *r, const struct store_list *q, store_visit_fn *fn, void *arg);
enum read_rc must_check reader_count(struct reader *r, const struct store_list *q, uint64_t *n_r);
/* All versions, newest first, the current one included. */
enum read_rc must_check reader_history(struct reader *r, const struct uuid *id, store_visit_fn *fn, void *arg);

/* Pending memories of a namespace (live, unexpired, matching), loaded; plus the ids that hide rows of the store. */
struct overlay {
	struct held *v;
	size_t n;
	struct vectors_allow *hidden;
	size_t nhidden;
};
/* The memory that a pending PUT holds. False: its segment is gone, so the store has it. */
bool reader_pending_memory(struct reader *r, const struct pending_entry *e, struct held *h_r);
void overlay_load(struct reader *r, const struct store_list *q, struct overlay *o_r);
void overlay_free(struct overlay *o);
#endif
