/* Where the rings lie in the rings segment: per worker slot one request ring (slot → sync) and one
 * answer ring (sync → slot). The slot of sync itself stays unused. */
#ifndef ORC_RINGS_H
#define ORC_RINGS_H
#include "ring.h"
#include "vocabulary.h"

#define RINGS_ANSWER_BYTES (256 * 1024) /* 8,192 answers */
#define RINGS_IN_FLIGHT_MAX 3072	/* transactions a worker may have unanswered: two answers each fit */

static inline size_t rings_stride(size_t request_bytes)
{
	return ring_footprint(request_bytes) + ring_footprint(RINGS_ANSWER_BYTES);
}
static inline size_t rings_segment_size(size_t request_bytes) { return rings_stride(request_bytes) * SLOT_COUNT; }
static inline size_t rings_request_offset(size_t request_bytes, unsigned slot)
{
	return rings_stride(request_bytes) * slot;
}
static inline size_t rings_answer_offset(size_t request_bytes, unsigned slot)
{
	return rings_stride(request_bytes) * slot + ring_footprint(request_bytes);
}
#endif
