/* What a worker shows of itself to the supervisor: heartbeat, load, last words. A segment of its own,
 * because it is the only shared memory that the supervisor maps: read-only, and nothing in it is
 * parsed, followed or waited for. Numbers are copied, words are copied within bounds. */
#ifndef ORC_VITALS_H
#define ORC_VITALS_H
#include "shm.h"
#include "vocabulary.h"

#define VITALS_WORDS 1024
#define VITALS_BEAT_MS 1000 /* a worker's event loop moves `beats` this often */

/* Writer: the worker of the slot. */
struct vitals_slot {
	_Alignas(CACHE_LINE) _Atomic uint64_t incarnation; /* whose figures these are; stored last at birth */
	_Atomic uint64_t beats;
	_Atomic uint64_t waiting, working; /* what waits for this worker, and what it has under way */
	_Atomic uint32_t words_len;	   /* release-stored after words[] was written */
	char words[VITALS_WORDS];	   /* why it is dying: no NUL, anything may be in it */
};

struct vitals {
	struct vitals_slot slot[SLOT_COUNT];
};

/* Maps the segment; the supervisor reads only. NULL and errno on failure. */
struct vitals *must_check vitals_open(int fd, bool write);
void vitals_close(struct vitals **v);
/* A worker begins to write in its slot: what its predecessor left is forgotten. */
void vitals_begin(struct vitals_slot *s, uint64_t incarnation);
void vitals_beat(struct vitals_slot *s, uint64_t waiting, uint64_t working);
/* Copies the last words of that incarnation, NUL-terminated, controls replaced. False: it left none. */
bool vitals_words(const struct vitals_slot *s, uint64_t incarnation, char *out, size_t cap);
#endif
