/* What the rooms of the flusher share. All of it runs on the flusher's thread, but for what says otherwise.
 *
 *   flusher.c  the thread: when to flush, what the loop is told, retries, scrubbing
 *   batch.c    one attempt: journal → store, in one transaction of the store
 *   isolate.c  the store rejects something: which operation it is, and its dead letter
 *   orders.c   dead letters are tried again or discarded
 *   collect.c  what expired
 *   mend.c     on the loop: shared memory shows what the store has, where that is not what was acknowledged */
#ifndef ORC_FLUSHER_PRIVATE_H
#define ORC_FLUSHER_PRIVATE_H
#include "age.h"
#include "letters.h"
#include "pace.h"
#include "sync.h"
#include "trace/trace.h"

/* What an operation changes in the counters of its namespace, by what its sender knew: from `base` to `now`. */
struct weight {
	int64_t count, bytes;
};
/* Its operation lies among the dead letters, and the cursor has not passed it. */
struct ahead {
	uint64_t seq, ns, version;
	struct uuid id;
	struct weight base, now;
	uint32_t op, type;
};
/* A memory of which the store has something else than what was acknowledged: `store` is what it has. Until the next
 * operation of it is stored, whose sender reckoned from what was acknowledged. */
struct diverged {
	struct uuid id;
	struct weight store;
};
/* Counters of a namespace are to be corrected by that; `id` is no longer diverged. */
struct fix {
	struct uuid id;
	uint64_t ns;
	struct weight by;
};
/* What shared memory shows of this is to be set right. */
struct mend {
	uint32_t type; /* enum op_type of the dead operation */
	uint64_t seq, ns, version;
	struct uuid id;
	bool found; /* the store has it; of a memory, live and to be searched */
	/* a memory */
	uint64_t row_version;
	int64_t expires_us;
	uint32_t dim;
	float *x;
	char *content;
	size_t content_len;
	/* a namespace */
	struct store_ns row;
};
/* One attempt to flush. */
struct attempt {
	uint64_t seq;	   /* the last whole transaction in it */
	uint32_t part;	   /* operations of the one behind it that are in it, too */
	uint64_t ops;	   /* operations in it */
	uint64_t last_seq; /* the last one of them */
	uint32_t last_op;
	uint64_t txns, bytes, scrub_to;
	uint64_t revision; /* when it is committed: the store's, at which others read it */
	struct fix *fix;
	size_t nfix, cfix;
	uint64_t *lost; /* see flushed_note */
	size_t nlost, clost;
	uint32_t *retried; /* letters that were tried again in it */
	size_t nretried, cretried;
};

struct order {
	struct order *next;
	uint64_t id; /* of the asking transaction */
	uint32_t slot;
	struct op_order what;
	uint64_t *todo; /* letters that are still to be tried */
	size_t ntodo;
	unsigned waiting, gone, stay;
	enum txn_status why; /* of the last one that stays */
};
struct retry { /* a letter's operation is on its way through the journal */
	uint64_t txn;
	uint32_t letter;
	struct order *order;	 /* NULL: nobody waits for it any more */
	enum txn_status refused; /* set by the loop, under the flusher's lock; TXN_OK: not refused */
};

struct flusher {
	struct sync *s;
	struct store *store;
	struct journal_reader *reader;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t wake;
	/* under the lock */
	uint64_t allowed;
	int64_t first_waiting_us;
	bool urgent, stop, reloaded;
	struct age age;
	struct order *asked; /* orders that came in */
	struct retry *retries;
	size_t nretries, cretries;
	bool refusals; /* some retries were refused */
	int64_t debounce_us, trash_us;
	uint64_t batch_max, letters_max;
	int64_t retry_at_us;   /* the store, or a scrub, failed: not before; 0: it did not */
	_Atomic bool leave;    /* stop after the batch that is under way: a successor does the rest */
	_Atomic uint64_t rate; /* bytes that the store takes in a second, lately; 0: none */
	/* the thread's own */
	struct trace_span *span; /* of the batch under way; NULL: nothing was traced yet */
	bool traced;
	_Atomic uint64_t flushed; /* the loop looks at it */
	uint64_t part_seq;	  /* `part` operations of this transaction, the next one, are stored already */
	uint32_t part;
	uint64_t scrub_to, scrubbed, bytes; /* bytes: flushed, and the loop not told */
	struct pace pace;
	uint64_t txn_ops; /* operations of a transaction in the last batch, on average; 0: none yet */
	struct letters letters;
	struct ahead *ahead;
	size_t nahead, cahead;
	struct diverged *diverged;
	size_t ndiverged, cdiverged;
	struct mend *mends; /* to be looked up in the store */
	size_t nmends, cmends;
	struct order *orders;  /* under way */
	struct attempt unsure; /* its commit was not answered; seq 0: there is none */
	bool store_failed, scrub_failed;
	struct buf trouble; /* why nothing is flushed, when that is not the store's own error */
	struct buf told;    /* the trouble that users were told of last */
	int64_t next_collect_us;
};

#define GROW(v, n, cap)                                                                                                \
	do {                                                                                                           \
		if ((n) == (cap)) {                                                                                    \
			(cap) = (cap) ? 2 * (cap) : 16;                                                                \
			(v) = util_realloc((v), (cap) * sizeof(*(v)));                                                 \
		}                                                                                                      \
	} while (0)

/* ---- batch.c ---- */
/* Applies what comes next, up to record `to` and max operations (at most; but for whole transactions as long as the store
 * has rejected none of late), and commits. a_r is whole in any case, and the caller's to free. STORE_REJECTED: something among a->ops
 * operations. STORE_OK with f->trouble: all of a_r is stored, and the journal cannot be read behind it. */
enum store_rc must_check batch_run(struct flusher *f, uint64_t to, uint64_t max, struct attempt *a_r);
void batch_free(struct attempt *a);
/* The operation number `given` of the transaction as the store was given it. */
uint32_t batch_original_op(const struct flusher *f, const struct txn_reader *t, uint64_t seq, uint32_t given);
/* The transaction, until the next call of this or of batch_run(). */
bool must_check batch_txn(struct flusher *f, uint64_t seq, struct txn_reader *t_r);
void batch_weigh(const struct op_head *op, const void *body, struct weight *base_r, struct weight *now_r);

/* ---- isolate.c ---- */
/* After STORE_REJECTED: the next attempt leaves the culprit out, or is smaller and finds it. False: f->trouble says why
 * that cannot be. */
bool must_check isolate(struct flusher *f, const struct attempt *a);
/* At birth: letters in front of the cursor. */
void isolate_load(struct flusher *f);
const struct ahead *isolate_ahead(const struct flusher *f, uint64_t seq, uint32_t op);

/* ---- flusher.c ---- */
void flusher_trouble(struct flusher *f, const char *fmt, ...) printf_like(2, 3); /* sets f->trouble */

/* ---- orders.c ---- */
void orders_run(struct flusher *f);	      /* takes what came in, goes on with what is under way */
bool orders_waiting(const struct flusher *f); /* under the lock: orders_run() has something to do */
void orders_away(struct flusher *f);	      /* the store is: nobody waits for it */
void orders_tried(struct flusher *f, uint32_t letter, bool stored);
void orders_end(struct flusher *f);

/* ---- collect.c ---- */
void collect_run(struct flusher *f, int64_t trash_us);

/* ---- mend.c ---- */
void mend_add(struct flusher *f, const struct ahead *a);
/* What the loop is told when the cursor has moved. Owned by mend_apply(). */
struct flushed_note {
	uint64_t seq, scrubbed, bytes;
	uint64_t revision; /* not older than that of anything up to seq; 0: nothing that others read has changed */
	int64_t oldest_us;
	struct fix *fix;
	size_t nfix;
	struct mend *mend;
	size_t nmend, unmended; /* unmended: those that could not be looked up yet */
	uint64_t *lost;		/* transactions of which something has lost against another daemon's; ascending */
	size_t nlost;
};
void mend_look(struct flusher *f, struct flushed_note *n); /* what the store has of f->mends goes into the note */
/* Loop, with what is flushed gone from the pending table. Frees what the note owns. */
void mend_apply(struct sync *s, struct flushed_note *n);
#endif
