/* How much sync is handed at once, counted in units of 4 KiB. What it has is answered first come, first served, and cannot be
 * refused any more: so no more than keeps it busy.
 *
 *   HANDED_FIRST, and in proportion more where even the quickest answer takes long: that is the disk's time, and a group
 *   of the journal costs the same however much is in it. But at the pace at which sync answers while others wait, no more than
 *   what twice overload.target holds: when all the answers are late because there are many, more would only make them later.
 *
 * Pure: the caller brings the time. */
#ifndef ORC_HANDED_H
#define ORC_HANDED_H
#include <stdbool.h>
#include <stdint.h>

#define HANDED_UNIT 4096
#define HANDED_FIRST 256 /* units, and never fewer while one flow has it to itself */
#define HANDED_SHARED 96 /* while several flows take turns: who has one to write waits behind what was handed over */
#define HANDED_MOST 2048 /* what the ring holds */

struct handed {
	bool on, shared;
	int64_t target_us;
	uint32_t units;	     /* that sync has not answered */
	int64_t quick_us[2]; /* the quickest answer of this while, and of the one before; 0: there was none */
	int64_t while_us;    /* when this while began */
	double unit_us;	     /* what each takes while others wait; 0: not known */
	/* since when those are counted that were answered, and how many they are; 0: none wait */
	int64_t counted_us;
	uint32_t counted;
};

uint32_t handed_limit(const struct handed *h);
static inline bool handed_room(const struct handed *h) { return h->units < handed_limit(h); }
static inline void handed_sent(struct handed *h, uint32_t units) { h->units += units; }
/* well: it was written to the disk, which a refusal is not. */
void handed_answered(struct handed *h, uint32_t units, bool well, int64_t took_us, int64_t now_us);
/* Whenever answers were taken: do others wait to be handed over? */
void handed_look(struct handed *h, bool others, int64_t now_us);
#endif
