/* What a flush writes, gathered first: only the newest of several writes of one memory goes to its row, and the
 * namespaces' counters are summed up by what the server says it has done. */
#ifndef ORC_PG_BATCH_H
#define ORC_PG_BATCH_H
#include "postgres-private.h"
#include "vocabulary.h"
#include "words/language.h"

enum pg_how {
	HOW_ADD,  /* a new memory: one INSERT, which finds nothing in its way */
	HOW_PUT,  /* memory_put() decides */
	HOW_PAST, /* a later write of this batch replaces it: history only */
	HOW_SKIP, /* a later one removes it for good */
	HOW_DELETE,
	HOW_IDEM,
	HOW_NAMESPACE,
	HOW_NS_DROP,
	HOW_PUBLISH, /* no operation: the end of the batch */
};
#define NO_SPACE UINT32_MAX
enum pg_effect { EFFECT_NONE, EFFECT_STORED, EFFECT_LOST, EFFECT_REPEATED /* the store had this very write */ };

struct pg_entry {
	struct pg_request r;
	struct pg_batch *batch;
	uint64_t seq;
	uint32_t op;	/* in its transaction */
	uint32_t flags; /* enum txn_flags */
	enum pg_how how;
	enum pg_effect effect;
	size_t at; /* of the body in bytes */
	uint32_t len;
	uint32_t space; /* index into spaces; NO_SPACE: its name is not known */
	struct uuid id;
	uint64_t version;
	uint32_t next; /* entry + 1 with the same id that comes after it; 0: none */
};

/* A namespace that the batch touches. */
struct pg_space {
	uint64_t ns;
	char name[LIMIT_NAMESPACE + 1];
	uint32_t name_len, dim;
	char embedder[RECORD_EMBEDDER_MAX + 1];
	int64_t count, bytes;		  /* what the server says that it gained */
	int64_t expected, expected_bytes; /* pg_batch_expect() */
	size_t dropped;			  /* entry + 1 that drops it; what stands before does not count */
	bool touched;
	bool written;		/* the batch has memories of it */
	bool announced;		/* before them, an operation that makes it in a language */
	bool there;		/* the server has a row of it */
	enum language language; /* of its words, by that row */
};

struct pg_batch {
	struct buf bytes;
	struct pg_entry *v;
	size_t n, cap;
	struct pg_space *spaces; /* kept from batch to batch: names of deletions are known by then */
	size_t nspaces, cspaces;
	uint32_t *spot; /* number → index + 1 in spaces; power of two, open addressing */
	size_t nspots;
	bool scrub;
	uint64_t scrub_seq;
	/* sending: write.c */
	struct store *s;
	size_t under_way;
	struct pg_entry *failed; /* the first one */
	enum store_rc rc;
	uint64_t revision; /* of the last commit; 0: it changed nothing that others read */
	struct pg_params params;
	struct buf words;
	float vector[LIMIT_DIMENSIONS]; /* unpacked */
};

void pg_batch_clear(struct pg_batch *b); /* the spaces' names stay */
/* The body of a HOW_DELETE. */
const struct op_delete *pg_batch_deletion(const struct pg_batch *b, const struct pg_entry *e);
void pg_batch_free(struct pg_batch **b);
/* Adds a transaction's operations. Asks the database for a name that it does not know. */
enum store_rc must_check pg_batch_add(struct store *s, uint64_t seq, struct txn_reader *t);
/* write.c: the values of its row into the batch's parameters. */
void pg_write_memory(struct store *s, struct pg_entry *e, const struct memory *m);
/* NULL: nothing of it was ever in a batch. */
struct pg_space *pg_batch_space(struct pg_batch *b, uint64_t ns);
/* language.c, after BEGIN: locks the node's row, and those of the namespaces whose memories the batch has, which are made if need
 * be; their languages are known then. *there_r: the node's cursor is where we left it. */
enum store_rc must_check pg_languages_lock(struct store *s, bool *there_r);
/* Decides `how` for each, when all are there. */
void pg_batch_settle(struct pg_batch *b);
/* What its operations gain the namespaces by themselves, without what the store had from an earlier attempt. */
void pg_batch_expect(struct pg_batch *b);
#endif
