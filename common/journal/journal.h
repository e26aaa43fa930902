/* The journal: what makes a write durable before it is acknowledged (SPEC 4.1, 4.4).
 *
 * data.dir/journal/ holds segments: preallocated, zero-filled, recycled files. Overwriting
 * blocks that already exist lets fdatasync write data only (a growing file costs 5–7 ×).
 *
 *   file    = struct seg_head (4096 bytes), records …, zeros
 *   record  = struct rec_head, payload (a transaction, record.h), padded with zeros to 8
 *
 * A record's CRC32C covers rec_head (crc field zero) and payload. `epoch` is the segment's own
 * random number: what an earlier life of a recycled file left behind never passes as a record.
 * Sequences are consecutive over the whole journal.
 *
 * Torn tail: the first bad record after the last good one, with no good record (right epoch and
 * CRC) behind it, is cut: it was never acknowledged. A bad record with good ones behind it is
 * damage: the segment is copied to data.dir/quarantine/, the loss is reported by sequence range and the
 * good records behind are still delivered; never skipped silently.
 *
 * A failed fdatasync is final for the process: journal_sync() answers the same errno for ever.
 * After a segment's records are all in the store it is recycled (renamed, new epoch). */
#ifndef ORC_JOURNAL_H
#define ORC_JOURNAL_H
#include <sys/uio.h>
#include "util.h"

#define SEG_MAGIC 0x31474553434f524full
#define REC_MAGIC 0x52434552u
struct seg_head {
	uint64_t magic;
	uint32_t layout;    /* LAYOUT_JOURNAL, or an older one */
	uint32_t crc;	    /* of this struct with crc = 0 */
	uint64_t segment;   /* number, ascending; also in the file name %016llx.seg */
	uint64_t first_seq; /* sequence of the first record */
	uint64_t epoch;
	uint64_t size;	/* bytes of the file */
	uint64_t start; /* offset of the first record: SEG_DATA_START, more after a scrub */
};
struct rec_head {
	uint32_t magic;
	uint32_t crc;
	uint64_t seq;
	uint64_t epoch;
	uint32_t len;	/* payload bytes */
	uint32_t flags; /* 0 */
};
#define SEG_DATA_START 4096

struct journal_conf {
	const char *dir;	/* data.dir */
	uint64_t first_bytes;	/* size of the first segment (8 MiB) */
	uint64_t segment_bytes; /* size of later ones (64 MiB) */
	uint64_t quota_bytes;	/* all segments together */
};
struct journal;

/* What replay calls for each good record in order; payload stays valid during the call only. Where it
 * lies (segment, offset of the payload) goes into pending entries. */
typedef void journal_replay_fn(void *arg, uint64_t seq, uint64_t segment, uint64_t payload_offset, const void *payload,
			       size_t len);

/* Nobody knows what the store has: everything that is there is replayed. */
#define JOURNAL_ALL UINT64_MAX
/* Opens or creates the journal and replays every record with seq > after_seq. NULL: *error_r (malloc'ed text)
 * says what and what to do. Takes ≤ 100 ms on an empty directory: only the first, small segment
 * is made here; journal_prepare() makes the next ones, in another thread. */
struct journal *must_check journal_open(const struct journal_conf *conf, uint64_t after_seq, journal_replay_fn *fn,
					void *arg, char **error_r);
void journal_close(struct journal **j);
/* Last sequence in the journal (0: none). */
uint64_t journal_last_seq(const struct journal *j);
/* The sequence that the next record has to have. */
uint64_t journal_next_seq(const struct journal *j);
/* errno when it is final that nothing more can be appended in this life, else 0: an append that failed
 * left nothing behind, and the next one may succeed. */
int journal_failed(const struct journal *j);

/* One group. `n` payloads (each in one or more iovecs is not needed: contiguous) get consecutive sequences
 * first_seq …; CRCs are computed here, written with pwritev into the current segment (rotating
 * when full). Not yet durable. where_r[i] gets segment and payload offset. 0 or errno: ENOSPC =
 * disk full, EDQUOT = quota; nothing of the group counts as written then (it is overwritten next). */
struct journal_where {
	uint64_t segment, offset;
};
int must_check journal_append(struct journal *j, const struct iovec *payload, size_t n, uint64_t first_seq,
			      struct journal_where *where_r);
/* fdatasync of what was appended. 0 or errno; after an error always the same error. */
int must_check journal_sync(struct journal *j);

/* Any thread: zero-fills spare segments when fewer than two wait (not before a quarter of the very first
 * segment is used) and removes surplus ones. 0, or errno when it could not
 * (reported by the next append only if that needs it). Returns at once when another thread is at it. */
int journal_prepare(struct journal *j);
/* Any thread, cheap: it is time for journal_prepare(). */
bool journal_low(struct journal *j);
/* Any thread: records ≤ seq are in the store; whole segments below are recycled. */
void journal_release(struct journal *j, uint64_t flushed_seq);
/* Overwrites with zeros and syncs every released segment and spare (for erase). The current segment is
 * sealed first so that a record with seq ≤ `seq` is out of it. 0 or errno. */
int must_check journal_scrub(struct journal *j, uint64_t seq);
/* Bytes in segments that hold unreleased records, and the quota. */
uint64_t journal_bytes(const struct journal *j);

/* ---- reading, in any process ---- */
struct journal_reader; /* keeps a few segment files open; one per thread */
struct journal_reader *must_check journal_reader_open(const char *data_dir);
void journal_reader_close(struct journal_reader **r);
/* Losses that the opening of `j` has reported are not reported by this reader's cursor again. */
void journal_reader_knows(struct journal_reader *r, const struct journal *j);
/* Reads len bytes at (segment, offset) into buf. False with errno 0 when that segment is gone or recycled
 * (then the store has the record), or with the errno of what keeps it from being read. The caller validates the content (decode + id + version). */
bool must_check journal_read(struct journal_reader *r, uint64_t segment, uint64_t offset, void *buf, size_t len);
/* Cursor over records with seq > after_seq up to and including to_seq, for the flusher. 1 = record, 0 = reached to_seq
 * (or nothing there), -1 = damaged, or not to be read now (errno): the caller tries again. *payload stays valid until the next call. */
int must_check journal_next(struct journal_reader *r, uint64_t *after_seq, uint64_t to_seq, const void **payload_r,
			    size_t *len_r, struct journal_where *where_r);
#endif
