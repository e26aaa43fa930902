/* The binary form of a memory and of a transaction: the same bytes travel through the ring,
 * lie in the journal and are applied to the store. Native little-endian, 8-byte aligned.
 *
 *   transaction = struct txn_head, u64 read_keys[nkeys], then nops operations
 *   operation   = struct op_head, body (op_head.len bytes, padded with zeros to 8)
 *
 * Decoders trust nothing: every length is checked against the buffer (fuzzed). */
#ifndef ORC_RECORD_H
#define ORC_RECORD_H
#include "util.h"
#include "uuid.h"

/* ---- a memory ---- */
enum memory_flags {
	MEMORY_PINNED = 1u << 0,
	MEMORY_CLIENT_EMBEDDING = 1u << 1, /* the vector came from the client, not from our embedder */
	MEMORY_SUPERSEDED = 1u << 2,	   /* valid_to is set; superseded_by names the successor */
	MEMORY_LOST = 1u << 3,		   /* of a history only: another daemon's write of the same version has won */
};

#define RECORD_EMBEDDER_MAX 63 /* bytes of a vector space's id */

/* A decoded view: spans and pointers lie in the buffer it was decoded from. `body` is the
 * canonical JSON object that GET answers (built once, at write time, by api/memory_json.c);
 * the other fields repeat what stores and indexes need without parsing JSON. */
struct memory {
	struct uuid id;
	uint64_t ns;	  /* namespace number: record_ns(name) */
	uint64_t version; /* from 1 */
	int64_t created_us, updated_us;
	int64_t expires_us;    /* 0 = never */
	int64_t deleted_us;    /* 0 = live; else soft-deleted then */
	uint32_t flags;	       /* enum memory_flags */
	float importance;      /* 0..1 */
	uint64_t content_hash; /* record_content_key(): of namespace and content */
	struct span ns_name, content, kind, user_id, agent_id, session_id, external_id; /* empty = absent */
	struct span embedder; /* id of the space the vector lives in; empty = no vector */
	struct span body;
	/* With dim > 0 one of the two: dim floats, 4-byte aligned, or packed (packed.h), as memory_decode() finds most
	 * vectors of our embedder. memory_vector() reads either. */
	const float *embedding;
	struct span packed;
	uint32_t dim;
	int64_t replaces_bytes; /* quota bytes of the live version that this replaces; -1 = none */
};

/* ---- operations ---- */
enum op_type {
	OP_PUT = 1,	  /* body: memory. Whole after-image: add, patch, restore, supersede */
	OP_DELETE = 2,	  /* body: struct op_delete */
	OP_IDEM = 3,	  /* body: struct op_idem + reply bytes: the answer to an Idempotency-Key */
	OP_NAMESPACE = 4, /* body: struct op_namespace + name + settings JSON: create or change */
	OP_NS_DROP = 5,	  /* body: struct op_ns_drop */
	OP_ORDER = 64,	  /* body: struct op_order; of TXN_ORDER only, never in the journal */
};
struct op_head {
	uint16_t type;	/* enum op_type */
	uint16_t flags; /* 0 */
	uint32_t len;	/* body bytes, without padding */
};
enum delete_how { DELETE_SOFT = 0, DELETE_EXPIRED = 1, DELETE_ERASE = 2 };
struct op_delete {
	struct uuid id;
	uint64_t ns;
	uint64_t version; /* the version that the deletion is: last + 1 */
	int64_t at_us;
	uint64_t content_key, external_key; /* keys freed by the deletion; 0 = none */
	int64_t bytes;			    /* what the namespace's quota gets back */
	uint32_t how;			    /* enum delete_how */
	uint32_t reserved;
};
struct op_idem {
	uint64_t ns;
	uint64_t key;	    /* record_idem_key() */
	uint64_t body_hash; /* XXH3 of method, path, query and body of the request */
	int64_t expires_us;
	uint32_t status;    /* HTTP status of the answer */
	uint32_t reply_len; /* bytes that follow */
};
enum namespace_flags {
	NAMESPACE_ENSURE = 1u << 0,   /* only where there is none: a memory is about to be the first of it */
	NAMESPACE_LANGUAGE = 1u << 1, /* settings say its language (words/language.h); without, it stays as it is */
};
struct op_namespace {
	uint64_t ns;
	int64_t at_us;
	uint64_t quota_bytes, quota_count; /* 0 = unlimited */
	uint32_t relaxed;		   /* 1: durability relaxed */
	uint32_t name_len, settings_len;   /* bytes that follow, in this order */
	uint32_t flags;			   /* enum namespace_flags */
};
struct op_ns_drop {
	uint64_t ns;
	int64_t at_us;
	uint32_t erase; /* 1: also scrub journal and store files */
	uint32_t reserved;
};

/* About dead letters (dead.h). Answered when it is carried out: TXN_OK, seq = letters that are gone, arg = letters that stay
 * although they were meant. Of a single letter that stays: why. */
enum order_what { ORDER_RETRY = 1, ORDER_DISCARD = 2 };
struct op_order {
	uint64_t number; /* 0: all of them */
	uint32_t what;	 /* enum order_what */
	uint32_t reserved;
};

/* ---- transactions ---- */
#define TXN_MAGIC 0x314e5854u /* "TXN1" */
enum txn_flags {
	TXN_WAIT_STORE = 1u << 0, /* acknowledge (again) when the store has it; flush without debounce */
	TXN_RELAXED = 1u << 1,	  /* set by sync: every namespace touched is relaxed */
	TXN_SCRUB = 1u << 2,  /* contains an erase: scrub when the store has it, and only then say so (WAIT_STORE) */
	TXN_STRICT = 1u << 3, /* an equal version of another daemon's makes it lose, whoever came first (If-Match) */
	TXN_ORDER = 1u << 8,  /* no write: an order about dead letters, OP_ORDER its only operation */
};
struct txn_head {
	uint32_t magic;
	uint32_t flags;
	uint64_t id;	   /* unique over all lives of the daemon (random start + counter); re-sent unchanged */
	uint64_t read_seq; /* plant->applied_seq that the sender had loaded before it read anything */
	uint64_t seq;	   /* sent again: the sequence it has already, as its sender was told; 0 = not known */
	uint32_t slot;	   /* sender's worker slot */
	uint32_t nkeys;	   /* keys read: sync refuses with CONFLICT when one was written after read_seq */
	uint32_t nops;
	uint32_t letter; /* sync's own: the dead letter that is tried again; 0 = none */
};

/* Keys: 64-bit XXH3 with a seed per kind. What a transaction read (txn read_keys) and what its
 * operations write are compared by key; a false match costs one retry, never an error. */
uint64_t record_ns(struct span name);
uint64_t record_id_key(const struct uuid *id);
uint64_t record_content_key(uint64_t ns, struct span content);
uint64_t record_external_key(uint64_t ns, struct span external_id);
uint64_t record_idem_key(uint64_t ns, struct span key);
uint64_t record_ns_key(uint64_t ns);

/* Builds a transaction in `b` (appended). Usage: txn_begin, txn_read_key*, txn_op_*…, txn_end. */
struct txn_builder {
	struct buf *b;
	size_t start;
};
void txn_begin(struct txn_builder *t, struct buf *b, uint64_t id, uint32_t slot, uint64_t read_seq, uint32_t flags);
void txn_read_key(struct txn_builder *t, uint64_t key); /* before the first op */
void txn_op_put(struct txn_builder *t, const struct memory *m);
/* The end of *m as it was read: its next version, now. */
void txn_op_delete(struct txn_builder *t, const struct memory *m, enum delete_how how);
void txn_op_raw(struct txn_builder *t, enum op_type type, const void *head, size_t head_len, const void *tail,
		size_t tail_len);
/* Appends the operations of another (ended) transaction that was built in `other`. */
void txn_ops_from(struct txn_builder *t, const struct buf *other);
void txn_end(struct txn_builder *t);

/* Walks a transaction. txn_open() checks the frame of the whole transaction (every op_head within
 * bounds); txn_next() yields the operations. */
struct txn_reader {
	const struct txn_head *head;
	const uint64_t *keys;
	const char *p, *end;
	uint32_t left;
};
bool must_check txn_open(struct txn_reader *r, const void *data, size_t len);
/* False at the end. *body_r points at op_head.len bytes, 8-byte aligned. */
bool txn_next(struct txn_reader *r, const struct op_head **op_r, const void **body_r);
/* Decodes the body of an OP_PUT. False: malformed. */
bool must_check memory_decode(const void *body, size_t len, struct memory *m_r);
/* The vector: dim floats, m's own or unpacked to x (room for m->dim). NULL: it has none, or it is damaged. */
const float *memory_vector(const struct memory *m, float *x);
/* Bytes that a memory counts for a namespace's quota: content + metadata JSON + vector. */
size_t memory_quota_bytes(const struct memory *m);

/* ---- answers (sync → sender, in the answer ring) ---- */
enum txn_status {
	TXN_OK = 0,
	TXN_STORED,	       /* second answer of TXN_WAIT_STORE */
	TXN_CONFLICT,	       /* something read has changed: read again and re-send under a new id */
	TXN_EMBEDDER_MISMATCH, /* the namespace holds vectors of another space; arg = index of the op */
	TXN_QUOTA_BYTES,
	TXN_QUOTA_COUNT,
	TXN_NAMESPACES_FULL,
	TXN_NAMESPACE_DROPPING, /* it was dropped and the store still has its rows: try again */
	TXN_BUSY,		/* too much waits for the store: 503 + Retry-After; arg: BUSY_ARG */
	TXN_DISK_FULL,		/* 507 */
	TXN_JOURNAL_FAILED,	/* fdatasync failed: 503, plant->reason says why */
	TXN_JOURNAL_ERROR,	/* nothing was written, the next write may be: 503; arg = errno */
	TXN_MALFORMED,
	TXN_REJECTED, /* instead of TXN_STORED: the store does not accept arg operations of it; the others are stored */
	TXN_LOST,     /* instead of TXN_STORED, of TXN_STRICT: another daemon's write was there before */
	TXN_NO_LETTER,	    /* TXN_ORDER: there is no such dead letter */
	TXN_OUTDATED,	    /* TXN_ORDER: what the letter is about has moved on */
	TXN_LANGUAGE_FIXED, /* the namespace has memories, whose words were analysed in its language */
};
/* arg of TXN_BUSY: what there is too much of, and after how many seconds it is worth asking again. */
enum busy_what { BUSY_QUOTA = 1, BUSY_PENDING = 2, BUSY_AGE = 3, BUSY_MASK = 0x7f, BUSY_BULK = 0x80 };
#define BUSY_SECONDS(arg) ((arg) >> 8)
#define BUSY_ARG(what, seconds) ((uint32_t)(what) | (uint32_t)(seconds) << 8)
struct txn_answer {
	uint64_t id;
	uint64_t seq;	 /* journal sequence; 0 when refused */
	uint32_t status; /* enum txn_status */
	uint32_t arg;
};

/* Fragments: a transaction larger than ring_max_payload() is sent in consecutive ring records. */
enum fragment_part { FRAGMENT_FIRST = 1, FRAGMENT_LAST = 2 };
enum ring_msg { MSG_TXN = 1, MSG_FRAGMENT = 2, MSG_REFILL = 3 };
struct ring_msg_head {
	uint32_t type;	/* enum ring_msg */
	uint32_t part;	/* MSG_FRAGMENT: FRAGMENT_FIRST, FRAGMENT_LAST or neither */
	uint64_t total; /* MSG_FRAGMENT: bytes of the whole transaction */
};
#endif
