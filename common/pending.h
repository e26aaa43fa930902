/* The pending table: every accepted write that the store does not have yet.
 *
 * Writer: sync, one thread at a time. Readers: everybody, lock-free. Entries lie in a circular array in
 * the order of their journal sequence; `tail` is where the next goes, `head` the oldest that the
 * store lacks; both free-running 64-bit. Three hash tables of chains (by id, by content, by
 * external id; idempotency answers chain with the ids) point at the newest entry; an entry links to
 * the previous one of its chain. A link to an index < head ends the chain, so removal is one
 * store to `head` and nothing is ever unlinked.
 *
 * Publication: entry fields and links, then chain heads, then `tail` (release). What a killed sync
 * appended but did not publish is forgotten (pending_recover) and applied again by its successor
 * from the journal; what it did publish, pending_append() recognises by its sequence and drops.
 *
 * Readers: an entry copied out is valid if its index is still >= head afterwards (acquire). When
 * it is not, the store has it: read the store. Therefore: PENDING FIRST, THEN THE STORE. */
#ifndef ORC_PENDING_H
#define ORC_PENDING_H
#include "record.h"
#include "shm.h"

#define PENDING_MAGIC 0x31444e455043524full

struct pending_entry {
	struct uuid id; /* OP_IDEM: the key in the first 8 bytes, rest 0 */
	uint64_t ns, version, seq;
	uint64_t content_key, external_key; /* 0 = none */
	uint64_t segment;		    /* where the operation's body lies: journal segment id … */
	uint64_t offset;		    /* … byte offset of the operation's body in that file … */
	uint32_t len;			    /* … and its length */
	uint16_t type;			    /* enum op_type */
	uint16_t how;			    /* OP_DELETE: enum delete_how */
	int64_t expires_us;
	uint64_t prev_id, prev_content, prev_external; /* index + 1 of the older entry in the chain; 0 = end */
	uint64_t reserved[2];
};
_Static_assert(sizeof(struct pending_entry) == 128, "two cache lines");

struct pending; /* this process's view */
size_t pending_segment_size(uint32_t capacity);
/* Maps the segment. The writer passes format=true once in the life of the segment. */
struct pending *must_check pending_open(int fd, bool format, uint32_t capacity);
void pending_close(struct pending **p);

/* Writer. */
bool pending_full(const struct pending *p, uint32_t more);
/* Links are filled in here. Sequences must not descend; an entry at or below the newest published
 * sequence is in the table already and is dropped. Publish whole transactions. */
void pending_append(struct pending *p, const struct pending_entry *e);
void pending_publish(struct pending *p);		       /* makes all appended visible as one step of `tail` */
void pending_release(struct pending *p, uint64_t flushed_seq); /* drops entries with seq <= it */
/* Visits those that pending_release() would drop. The entry is only there during the call. */
void pending_leaving(struct pending *p, uint64_t flushed_seq, void (*fn)(void *arg, const struct pending_entry *e),
		     void *arg);
/* The successor of a killed writer: forgets what was appended but not published. */
void pending_recover(struct pending *p);

/* Readers: false = not pending (look in the store). On true *e is a consistent copy of the newest
 * entry for that key. */
bool pending_find_id(struct pending *p, const struct uuid *id, struct pending_entry *e_r);
bool pending_find_external(struct pending *p, uint64_t external_key, struct pending_entry *e_r);
bool pending_find_idem(struct pending *p, uint64_t key, struct pending_entry *e_r);
/* PUTs of one content, newest first, at most max: several memories may have it, and each may have moved on. */
size_t pending_find_content(struct pending *p, uint64_t content_key, struct pending_entry *out, size_t max);
/* All versions of one id, newest first, at most max. Returns how many. */
size_t pending_versions(struct pending *p, const struct uuid *id, struct pending_entry *out, size_t max);
/* A consistent copy of all entries of namespace ns (0 = all), the newest per id, of types PUT,
 * DELETE and NS_DROP (NS_DROP stays as an entry of its own and hides older entries of its namespace).
 * Newest first. *out_r is malloc'ed (or NULL when none), the caller frees. Returns the count. */
size_t pending_snapshot(struct pending *p, uint64_t ns, struct pending_entry **out_r);
uint64_t pending_count(const struct pending *p);
#endif
