/* The request log in shared memory (à la varnishlog): a ring of fixed slots for each api worker, which is its only
 * writer. Readers, any number, map the segment read-only and leave no trace in it: whether one reads, or is stopped while
 * reading, no writer waits. All that writers know is whether somebody follows, which the supervisor tells them: if nobody
 * does, of the hits that one read of a socket brought the first is noted, and the next record says how many were passed over.
 *
 * The segment: a page with the header, written by the supervisor, then API_WORKERS_MAX rings of equal size. A ring
 * is a slot that holds its head, and n slots of REQLOG_SLOT bytes. Records are numbered from 1; number k lies in slot
 * (k - 1) % n. Numbers go on when a worker is replaced: its successor finds the head where it was.
 *
 * Why a reader never takes a torn record for a whole one. The writer of record k
 *	W1 stores 0 in the slot's `number` (relaxed)          W2 release fence
 *	W3 stores the bytes (relaxed, by words)               W4 stores k in `number` (release)   W5 stores k in the head (release)
 * and a reader that wants record k
 *	R1 loads `number` (acquire): not k, then it is gone   R2 loads the bytes (relaxed)
 *	R3 acquire fence                                      R4 loads `number` (relaxed): not k, then what it read is torn
 * R1 reads k from W4, so all bytes of record k are visible to R2. If R2 reads a byte of a later record k' = k + n, k + 2n, …, then
 * W2 of k' synchronises with R3, so R4 sees W1 of k' or something later: never k again, because numbers only grow.
 * Hence when R4 says k, every byte was record k's.
 *
 * Killed anywhere: before W5 the record does not exist; its slot says 0, or a number above the head, and the successor writes it
 * again. Readers ask for numbers up to the head only, so a 0 there means: being overwritten, gone.
 *
 * A worker that an attacker has taken over may write anything into the segment: readers trust the size of the file and nothing in
 * it, and bound every length. */
#ifndef ORC_REQLOG_H
#define ORC_REQLOG_H
#include <stdatomic.h>

#include "util.h"
#include "vocabulary.h"

#define REQLOG_MAGIC 0x3171657261636f72ull /* "rocareq1" */
#define REQLOG_SLOT 512u
#define REQLOG_PAGE 4096u
#define REQLOG_TEXT 408u /* of a record, all texts together */

struct reqlog_header { /* at the beginning of the segment */
	uint64_t magic;
	uint32_t layout, slot_bytes;
	uint64_t size;
	_Atomic uint32_t followers; /* the only field that changes */
};

/* The texts of a record, one behind the other, in this order. */
enum reqlog_text {
	REQLOG_ID,	  /* X-Request-Id */
	REQLOG_ROUTE,	  /* as in routes.def; empty: none matched */
	REQLOG_NAMESPACE, /* that the request chose, or the memory's */
	REQLOG_TOKEN,	  /* its name */
	REQLOG_CACHE,	  /* Cache-Status */
	REQLOG_ERROR,	  /* type of the problem */
	REQLOG_PATH,	  /* without the query; cut to what is left */
	REQLOG_TEXTS
};
enum reqlog_flags {
	REQLOG_GONE = 1,  /* the client did not wait for its answer */
	REQLOG_TRACE = 2, /* `trace` holds one */
	REQLOG_LOCAL = 4, /* over the Unix socket; `port` is 0 */
};

struct reqlog_record {
	int64_t end_us; /* real time of the answer */
	uint64_t bytes_in, bytes_out;
	uint32_t duration_us,
		waited_us; /* from the head of the request to its answer; in the queue of the reader threads */
	uint32_t pid;
	uint16_t status, port;
	uint8_t slot, method, flags, family; /* enum http_method; 4, 6, or 0 */
	uint8_t address[16], trace[16];
	uint8_t len[REQLOG_TEXTS];
	uint8_t passed; /* so many hits of this worker before it were not noted */
	char text[REQLOG_TEXT];
};
_Static_assert(sizeof(struct reqlog_record) + 8 <= REQLOG_SLOT, "a slot is a number and a record");

/* ---- both sides ---- */
/* Of a segment with rings of about so many bytes; 0 for 0. */
size_t reqlog_segment_size(uint64_t ring_bytes);
void reqlog_header_fill(struct reqlog_header *h, size_t segment_bytes);
/* So many follow the segment from now on. False: errno. */
bool must_check reqlog_followers(int fd, uint32_t n);

/* ---- the writer ---- */
struct reqlog; /* this worker's ring */
/* NULL: there is none, or errno. `instance` below API_WORKERS_MAX. */
struct reqlog *must_check reqlog_open(int fd, unsigned instance);
void reqlog_close(struct reqlog **l);
/* Appends a text (cut to what fits, and to 255 bytes) to a record under construction; in the order of enum reqlog_text. */
static inline void reqlog_text_add(struct reqlog_record *r, size_t *used_io, enum reqlog_text t, struct span s)
{
	size_t room = REQLOG_TEXT - *used_io, n = s.len < 255 ? s.len : 255;
	n = n < room ? n : room;
	r->len[t] = (uint8_t)n;
	if (n)
		memcpy(r->text + *used_io, s.p, n);
	*used_io += n;
}
bool reqlog_followed(const struct reqlog *l); /* somebody waits for what is written */
/* `used`: bytes of text. */
void reqlog_write(struct reqlog *l, struct reqlog_record *r, size_t used);

/* ---- the reader ---- */
struct reqlog_reader {
	const char *base;
	size_t size, ring_bytes;
	uint64_t slots;			/* of each ring */
	uint64_t next[API_WORKERS_MAX]; /* number of the record that is read next; 0 = not begun */
	uint64_t lost;			/* records that were overwritten before they were read */
};
/* False: *error_r (malloc'ed) says why this is no request log. The descriptor may be read-only. */
bool must_check reqlog_attach(struct reqlog_reader *r, int fd, char **error_r);
void reqlog_detach(struct reqlog_reader *r);
/* Begins with at most `back` records that are there of each ring. */
void reqlog_rewind(struct reqlog_reader *r, uint64_t back);
/* The next record of that ring. False: there is none yet. Counts in r->lost what it had to jump over. */
bool must_check reqlog_next(struct reqlog_reader *r, unsigned ring, struct reqlog_record *out);
struct span reqlog_text_of(const struct reqlog_record *r, enum reqlog_text t);
#endif
