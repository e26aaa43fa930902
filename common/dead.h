/* Dead letters: operations that the store does not accept, however often it is asked. Each is a file of its own in
 * data.dir/dead/, until somebody has it tried again or discards it.
 *
 *   file = struct dead_head, reason, name of the namespace, zeros up to 8, the operation's body (record.h)
 *
 * %016llx.letter; it is written under another name first, so that one with this name is whole. The CRC covers all of it. Writer: sync.
 * Readers: everybody who may read data.dir; a letter may be gone between two looks. */
#ifndef ORC_DEAD_H
#define ORC_DEAD_H
#include "record.h"

#define DEAD_MAGIC 0x315245545445444cull
#define DEAD_SUBDIR "dead"
#define DEAD_LAYOUT                                                                                                    \
	2 /* that is written: 2 may have packed vectors in its body (record.h), 1 has none, and is read, too */
#define DEAD_REASON_MAX 480 /* bytes of a reason that are kept */
#define DEAD_ROOM_MAX (1u << 30)

struct dead_head {
	uint64_t magic;
	uint32_t layout;
	uint32_t crc; /* of the whole file with crc = 0 */
	uint64_t number, seq;
	uint32_t op;   /* which operation of the transaction */
	uint32_t type; /* enum op_type */
	uint64_t ns, version;
	struct uuid id; /* OP_IDEM: the key in the first 8 bytes; of a namespace: zeros */
	int64_t at_us;
	uint32_t tries;				 /* how often the store has refused it */
	uint32_t reason_len, name_len, body_len; /* bytes that follow, in this order */
};

/* A view: spans and `body` lie in the buffer it was decoded from. */
struct dead_letter {
	uint64_t number; /* 1 … UINT32_MAX, ascending, never used again as long as a later one exists */
	uint64_t seq;	 /* of the transaction in the journal */
	uint32_t op, type, tries;
	uint64_t ns, version;
	struct uuid id;
	int64_t at_us; /* when the store refused it */
	struct span reason, namespace;
	const void *body; /* of the operation, 8-byte aligned when the buffer is */
	uint32_t body_len;
};

/* What the operation says about itself: type, id, ns, version, name of the namespace where it has one. The rest is zeroed. */
void dead_describe(const struct op_head *op, const void *body, struct dead_letter *l_r);

/* ---- the file's bytes ---- */
void dead_encode(const struct dead_letter *l, struct buf *b); /* appended; the reason is cut to DEAD_REASON_MAX */
bool must_check dead_decode(const void *data, size_t len, struct dead_letter *l_r);

/* ---- the folder ---- */
/* Descriptor of data.dir/dead, or -1 and errno (ENOENT: there is none). */
int must_check dead_open(const char *data_dir, bool make);
/* Writer: durable when it returns 0, in place of a letter of the same number. Else errno: nothing has changed. */
int must_check dead_write(int dir, const struct dead_letter *l);
/* Writer: its bytes are overwritten and its name is gone, both durably. 0 also when it was gone before; else errno. */
int must_check dead_remove(int dir, uint64_t number);
/* Writer, at its birth: removes what a killed predecessor left half written. */
void dead_tidy(int dir);
/* The numbers of all letters, ascending, malloc'ed. False and errno: the folder cannot be read. */
bool must_check dead_numbers(int dir, uint64_t **numbers_r, size_t *n_r);
/* 0 and the letter in *bytes_r (the caller's, malloc'ed); ENOENT: gone, or overwritten and about to go;
 * EBADMSG: damaged; another errno. */
int must_check dead_read(int dir, uint64_t number, char **bytes_r, struct dead_letter *l_r);
#endif
