/* sync: makes writes durable, batches them to the store, owns the shared indexes.
 *
 * A thread for each duty:
 *   loop     intake.c drains the rings, sequence.c validates and numbers.
 *   journal  commit.c: pwritev + fdatasync of one group while the loop gathers the next; then apply.c makes it visible
 *            and answers. (The loop does, when the disk is busy with the next group already.)
 *            Loop and journal thread write pending table, vector index, word index, L1, namespace rows, sequence
 *            numbers and answer rings in turns: sync_enter().
 *   segments commit.c: spare journal segments, filled with zeros before they are needed.
 *   flusher  flusher.c: journal → store by its own cursor; collects what expired; keeps the dead letters
 *            (flusher-private.h); prune.c: forgets old changes of the feed.
 *   feed     feed.c: what other daemons have written to the store, which the loop applies.
 *   refill   refill.c: store → vector index and word index, in batches that the loop inserts.
 *   indexer  indexer.c: codes and lists of the vector index, when a namespace has grown.
 *   pages    index/vectors_pages.c, while much is written: memory for the next rows of the vector index.
 *
 * Order that makes a crash at any instruction harmless: fdatasync → pending_publish → indexes →
 * applied_seq → answers → ring_advance → flushable. See docs/architecture.md, "A write". */
#ifndef ORC_SYNC_H
#define ORC_SYNC_H
#include <pthread.h>
#include "cache/policy.h"
#include "index/vectors.h"
#include "journal/journal.h"
#include "pending.h"
#include "plant.h"
#include "recent.h"
#include "record.h"
#include "rings.h"
#include "store/store.h"
#include "words/postings.h"
#include "worker.h"

#define BATCH_TXNS 512		  /* largest group */
#define BATCHES 4		  /* gathering, offered or on the disk, and made visible meanwhile */
#define BATCH_BYTES (4u << 20)	  /* a group closes when it holds this many bytes */
#define RECENT_KEYS (1u << 17)	  /* keys that optimistic concurrency remembers */
#define ASSEMBLY_MAX (320u << 20) /* largest fragmented transaction */

/* One transaction on its way. `data` lies in the sender's ring (owned NULL) or in `owned`. */
struct item {
	const void *data;
	size_t len;
	void *owned;
	uint64_t id, seq;
	uint32_t slot, flags, arg;
	enum txn_status status; /* TXN_OK: to be written; else a refusal that is answered in order */
	struct journal_where where;
};
struct batch {
	struct item items[BATCH_TXNS];
	size_t n, bytes, writes; /* writes: items with TXN_OK */
	uint64_t first_seq;
	bool all_relaxed;
	uint64_t cursor[SLOT_COUNT]; /* where each ring may be advanced to afterwards */
	bool uses_ring[SLOT_COUNT];
	int error;	      /* errno of journal_append / journal_sync */
	struct ns_undo *undo; /* namespaces as they were before its transactions, in order */
	size_t nundo, cundo;
};

/* A worker that writes through sync. */
struct peer {
	struct ring *requests, *answers;
	uint64_t peeked; /* ring position up to which we have looked */
	unsigned held;	 /* items of all groups inside the ring */
	char *assembly;	 /* fragmented transaction under way */
	size_t assembly_len, assembly_total;
};

/* A namespace as the sequencer sees it: including what is not applied yet. */
struct ns_state {
	uint64_t ns, count, bytes, quota_count, quota_bytes;
	uint32_t dim, exists, relaxed;
	enum language language;
	uint64_t language_seq; /* the last transaction of ours that may have set it */
	int64_t created_us;
	uint64_t dropped_seq; /* made again only when the store no longer has the old rows */
	char embedder[64];
	uint32_t name_len;
	char name[LIMIT_NAMESPACE];
};

/* What a counter says. It is below zero, wrapped around, when two daemons have counted the deletion of the same memories,
 * until the store has said what became of ours. */
static inline uint64_t sequence_counter(uint64_t n) { return (int64_t)n < 0 ? 0 : n; }

struct ns_undo {
	struct ns_state *row, old;
};

struct waiter { /* TXN_WAIT_STORE, in order of seq */
	uint64_t id, seq;
	uint32_t slot;
	bool scrub, strict;
};

struct flusher;
struct flushed_note;
struct refill;
struct feed;
struct late;
struct committer;

struct sync {
	pthread_mutex_t lock; /* of everything below that changes: sync_enter() */
	struct worker *w;
	struct plant *plant;
	struct pending *pending;
	struct cache *cache;
	struct cache_policy policy;
	struct vectors *vectors;
	struct postings *postings;
	struct journal *journal;
	struct recent *recent;
	struct peer peer[SLOT_COUNT];
	struct batch batches[BATCHES], *open; /* open: see commit_open() */
	bool offered;			      /* commit.c: the journal thread may take the open group */
	uint64_t next_seq;
	uint64_t queued_ops; /* operations in groups: bound for the pending table */
	uint64_t queued_bytes;
	struct ns_state *ns; /* open addressing by number, PLANT_NAMESPACES rows */
	size_t nns;
	uint64_t counted_seq;	/* a replay finds the records up to it in the namespaces already */
	struct waiter *waiters; /* circular, grows */
	size_t nwaiters, cwaiters;
	const struct flushed_note *note; /* being applied */
	uint64_t scrubbed_seq;		 /* erasures up to it are scrubbed */
	uint64_t to_wake;		 /* slots that have got something, a bit each */
	struct tracer *tracer;		 /* the flusher's; NULL: it has no segment */
	_Atomic bool tracing;
	bool relaxed_default;
	int64_t max_age_us;	  /* sync.max_age */
	uint32_t pending_max;	  /* journal.pending_max */
	uint64_t unflushed_bytes; /* of transactions that the store lacks */
	bool failed;		  /* a fdatasync failed: nothing is acknowledged any more */
	bool draining;
	bool leaving; /* to a successor, whose are the rings: otherwise a disk that is always busy would never be settled */
	const struct store_ops *store_ops;
	struct store_conf store_conf, feed_conf;
	struct committer *committer;
	struct flusher *flusher; /* NULL: the store has not been reached yet */
	struct refill *refill;
	struct indexer *indexer; /* NULL until there is something to do */
	bool indexer_off;
	struct index_file *index_file;
	struct late *late; /* the store could not be reached at the start */
	struct feed *feed;
	struct l2 *l2;	     /* NULL: no Redis, or the store is ours alone */
	struct watch *watch; /* of l2 */
	_Atomic int64_t feed_keep_us;
	_Atomic uint64_t feed_keep_changes;
	int64_t next_prune_us; /* flusher */
};

/* intake.c */
void intake_open(struct sync *s, unsigned slot); /* that slot has a worker; may be called again */
bool intake_room(const struct batch *g);
void intake_run(struct sync *s);		      /* drains all rings into the open group as far as it has room */
void intake_advance(struct sync *s, struct batch *g); /* gives ring space back after a group */
void intake_internal(struct sync *s, void *txn, size_t len); /* a transaction of sync's own; takes it over */

/* sequence.c */
void sequence_txn(struct sync *s, uint32_t slot, const void *data, size_t len, void *owned);
struct ns_state *sequence_ns(struct sync *s, uint64_t ns);			  /* NULL = unknown */
struct ns_state *sequence_ns_make(struct sync *s, uint64_t ns, struct span name); /* NULL = table full */
/* Folds one operation into the namespace states; used when sequencing and when replaying. */
/* A store that had our transactions up to `flushed` says that its language is this one: that counts, unless ours was set later. */
void sequence_language(struct sync *s, struct ns_state *n, enum language l, uint64_t flushed);
void sequence_account(struct sync *s, const struct op_head *op, const void *body, uint64_t seq);
/* Notes every key the transaction writes, and its id. */
void sequence_remember(struct sync *s, struct txn_reader *t, uint64_t seq);
/* Forgets every key, so that what was read before `floor` was written counts as outdated; not the ids of transactions up to
 * there: who was not answered about one asks again, whatever became of the keys. */
void sequence_forget(struct sync *s, uint64_t floor);
/* The batch will not be written: namespaces become again what they were before its transactions. */
void sequence_undo(struct batch *g);

/* commit.c: the journal thread. */
struct committer *must_check commit_start(struct sync *s);
struct batch *commit_open(struct sync *s); /* loop: the group that may be added to, until the next offer */
void commit_offer(struct sync *s);	   /* the journal thread may take the open group */
/* From the rings to the journal thread. True: all of it was refused at once, so nobody comes back for what arrived
 * meanwhile; but others want their turn of the loop first. */
bool commit_gather(struct sync *s);
bool commit_idle(struct sync *s); /* loop: no group but the open one */
void commit_stop(struct committer **c);

/* apply.c */
void apply_refusing(struct sync *s, enum txn_status why); /* for /readyz: there was no room; TXN_OK: there is */
void apply_txn(struct sync *s, uint64_t seq, uint64_t segment, uint64_t offset, const void *data, size_t len);
void apply_finish(struct sync *s, uint64_t seq);   /* publishes everything up to seq */
void apply_batch(struct sync *s, struct batch *g); /* makes a durable group visible, answers it */
void apply_answer(struct sync *s, uint32_t slot, uint64_t id, enum txn_status status, uint64_t seq, uint32_t arg);
/* A transaction that was applied in this or an earlier life is asked for again. */
void apply_repeat(struct sync *s, uint32_t slot, const struct txn_head *h, uint64_t seq);
void apply_flushed(struct sync *s, struct flushed_note *n); /* the store has it; frees what the note owns */
void apply_namespaces(struct sync *s);			    /* copies namespace states to the plant */
void apply_namespace(struct sync *s, const struct ns_state *n);
void apply_lag(struct sync *s, uint64_t bytes); /* of transactions that the store lacks */

/* flusher.c */
/* Erasures up to s->scrubbed_seq are scrubbed; what the records behind it ask for is scrubbed when the store has them. */
struct flusher *must_check flusher_start(struct sync *s, struct store *store, uint64_t flushed_seq, uint64_t last_seq);
void flusher_allow(struct flusher *f, uint64_t seq, bool urgent); /* loop: records ≤ seq are answered */
void flusher_conf(struct flusher *f, const struct conf *c);
void flusher_stop(struct flusher **f); /* flushes everything allowed first */
/* Ends the thread after the batch that is under way; what is left is a successor's. Reader and store end with the process. */
void flusher_leave(struct flusher *f);
uint64_t flusher_rate(struct flusher *f); /* bytes of the journal that the store takes in a second; 0: none */
unsigned flusher_dead(struct flusher *f, uint64_t seq); /* how many operations of it the store did not accept */
/* orders.c. Loop: carry that out, and answer; one of sync's own transactions was refused. */
void flusher_order(struct flusher *f, uint32_t slot, uint64_t id, const struct op_order *what);
void flusher_refused(struct flusher *f, uint64_t txn, enum txn_status why);

/* admit.c */
/* TXN_OK, or TXN_BUSY and *arg_r, for a transaction of so many operations and bytes: is there too much that waits for the
 * store? */
enum txn_status admit_txn(struct sync *s, uint32_t nops, size_t len, uint32_t *arg_r);

/* index.c: what is in the indexes follows what was written. On the loop or in its place. */
struct indexable { /* the newest version of a memory, as far as an index knows it */
	uint64_t ns, version;
	struct uuid id;
	int64_t expires_us;
	bool found; /* false: it is not to be found (any more) */
	struct span content;
	uint32_t dim; /* 0: it has no vector */
	const float *x;
};
void index_memory(struct sync *s, const struct indexable *x);
/* Whatever its version: of two daemons that wrote it at the same time, one has won, with the same version as the other. */
void index_winner(struct sync *s, const struct indexable *x);
void index_remove(struct sync *s, const struct uuid *id, uint64_t version);
void index_take_out(struct sync *s, const struct uuid *id); /* in any version */
void index_drop(struct sync *s, uint64_t ns);

/* refill.c */
void refill_start(struct sync *s); /* no-op when running or done */
void refill_stop(struct sync *s);

/* indexer.c: under sync_enter() */
void indexer_poke(struct sync *s);
void indexer_save(struct sync *s); /* index_file_save(), when it has nothing more urgent to do */
void indexer_stop(struct sync *s); /* and not under it */

/* index_file.c: the indexes in a file beneath data.dir */
void index_file_open(struct sync *s);
void index_file_conf(struct sync *s, const struct conf *c);
void index_file_changed(struct sync *s);		   /* something in the indexes is, under sync_enter() */
void index_file_save(struct sync *s);			   /* the indexer's thread */
void index_file_stop(struct sync *s);			   /* what is being saved is given up */
void index_file_know(struct sync *s, struct store *store); /* before it is closed for good */
void index_file_leave(struct sync *s, int64_t since_us);   /* at the end; since when the daemon is leaving */
bool must_check index_file_wipe(struct sync *s);	   /* none can be read any more; else errno. Any thread */
/* index_load.c: fills empty indexes from the file and from what the store says has changed since; before the journal is
 * replayed. Otherwise they stay empty, for the refill. */
void index_load(struct sync *s, struct store *store);

/* node.c: reads the number, or makes one. False: said in the log. */
bool must_check node_number(const char *data_dir, uint64_t *node_r);

/* late.c */
void late_start(struct sync *s);
void late_stop(struct sync *s);
void late_namespaces(struct sync *s); /* those that readers see, instead of the store's */

/* feed.c */
void feed_start(struct sync *s); /* no-op when nobody else writes to this kind of store */
void feed_stop(struct sync *s);
/* Somebody has written: a feed that polls looks now. The loop. */
void feed_hurry(struct sync *s);

/* notices.c: what daemons tell each other through Redis. All on the loop. */
/* False: redis.* is wrong, and the log says how. True without redis.url, or where nobody else writes. */
bool must_check notices_open(struct sync *s);
void notices_close(struct sync *s);
/* What leaves the pending table with `seq` is in the store at this revision. */
void notices_send(struct sync *s, uint64_t seq, uint64_t revision);

/* prune.c */
void prune_conf(struct sync *s, const struct conf *c);
void prune_feed(struct sync *s, struct store *store); /* flusher, between batches: does something about once a minute */

/* role.c */
/* Between these the calling thread, the loop or the journal thread, is the one that writes the shared structures and
 * struct sync. Nobody waits for the disk in here. */
void sync_enter(struct sync *s);
void sync_leave(struct sync *s);
/* Wakes those that have got answers or room: once for many, by sync_leave() at the latest. Woken at the first
 * answer, a sender would take the processor from its waker, find that one alone, and sleep again. */
void sync_ring_bells(struct sync *s);
/* What users are told: the state, one of SYNC_*_FAILED, and why, at most sizeof(plant.reason) - 1 bytes of it. */
void sync_state_set(struct sync *s, enum plant_sync state, const char *why);
/* That, and an error in the log. */
void sync_fail(struct sync *s, enum plant_sync state, const char *fmt, ...) printf_like(3, 4);
/* Runs fn(arg) on the loop thread soon; callable from any thread. */
void sync_post(struct sync *s, void (*fn)(struct sync *s, void *arg), void *arg);
#endif
