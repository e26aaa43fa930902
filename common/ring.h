/* Single-producer single-consumer byte ring between two processes.
 *
 * Records are contiguous in memory: the data area is mapped twice back to back, so a record
 * that crosses the end needs no copy and no wrap marker. Indices are free-running 64-bit byte
 * positions on cache lines of their own.
 *
 * Who writes what: `head` only the consumer, `tail` only the producer, data in [head, tail) is
 * the consumer's, the rest the producer's. The producer's release store of `tail` publishes,
 * the consumer's release store of `head` is the licence to overwrite.
 *
 * Crash rules: a record whose tail was not stored is invisible. A new producer continues at
 * `tail`; a new consumer resumes at `head`, so delivery is at least once: records carry ids.
 * Each side bounds-checks the other's index: a ring that fails the check answers EPROTO and the
 * caller must treat the peer as broken. */
#ifndef ORC_RING_H
#define ORC_RING_H
#include <stdatomic.h>
#include "util.h"

struct ring_shared {				    /* in the rings segment, page-aligned, followed by nothing */
	_Alignas(CACHE_LINE) _Atomic uint64_t tail; /* producer */
	_Alignas(CACHE_LINE) _Atomic uint64_t head; /* consumer */
};

struct ring; /* this process's view of one ring */

/* Bytes that one ring with `capacity` data bytes (power of two, multiple of the page size) takes
 * in the segment. */
size_t ring_footprint(size_t capacity);
/* Maps the ring that starts at `offset` (page-aligned) of segment `fd`. A zero-filled segment is
 * an empty ring: no formatting step. NULL and errno on failure; ring_close() frees. */
struct ring *must_check ring_open(int fd, size_t offset, size_t capacity);
void ring_close(struct ring **r);

/* Largest payload ring_reserve() can ever grant: capacity / 4. */
size_t ring_max_payload(const struct ring *r);

/* Producer. ring_reserve() returns room for `len` contiguous payload bytes, 8-byte aligned, or
 * NULL: errno EAGAIN = full now, EMSGSIZE = never fits, EPROTO = the consumer's index is out of
 * range. Fill it, then ring_commit() with the same length publishes. Nothing is visible before.
 * Several reservations before a commit are not allowed. */
void *must_check ring_reserve(struct ring *r, size_t len);
void ring_commit(struct ring *r, size_t len);

/* Consumer. ring_peek() walks the unread records without consuming: start with *cursor =
 * ring_head(r); each call returns the next payload and advances *cursor past it, or NULL with
 * errno EAGAIN (nothing more) or EPROTO (broken producer: bad length or index). The bytes stay valid
 * until ring_advance() moves head to or past that cursor. */
uint64_t ring_head(const struct ring *r);
const void *must_check ring_peek(struct ring *r, uint64_t *cursor, size_t *len_r);
void ring_advance(struct ring *r, uint64_t cursor);
/* True when nothing is unread (acquire load of tail). */
bool ring_empty(const struct ring *r);
/* Bytes in use: ring_head() + this is the producer's tail, also of a broken producer, so advancing to
 * that position drops everything unread and starts afresh. */
size_t ring_used(const struct ring *r);
#endif
