/* One load at a time for a key, among all processes: a small table in the plant. Who begins leads, and loads; who comes
 * meanwhile waits for it, and then looks where the leader has put it.
 *
 *	switch (flight_begin(f, workers, key, &me)) {
 *	case FLIGHT_LEADS:  … load, fill the cache …; flight_end(f, key, &me); break;
 *	case FLIGHT_LANDED: … look in the cache; not there: load alone … break;
 *	case FLIGHT_ALONE:  … load alone … break;
 *	}
 *
 * A leader that dies lets nobody wait for longer than FLIGHT_LOOK_US: who waits looks whether the process that leads is
 * still the one that began, and takes over. One that hangs is left behind after FLIGHT_WAIT_US. Nothing is lost then but
 * a load that is made twice. Waiting blocks the thread, so event loops do not ask. */
#ifndef ORC_FLIGHT_H
#define ORC_FLIGHT_H
#include <stdatomic.h>

#include "util.h"

#define FLIGHTS 1024
#define FLIGHT_LOOK_US 20000
#define FLIGHT_WAIT_US 10000000

struct flights {
	struct flight {
		_Atomic uint64_t leader; /* key, slot and incarnation; 0: free */
		_Atomic uint32_t landed; /* moves with every end: what waiters sleep on */
	} v[FLIGHTS];
};
/* Which process asks. */
struct flight_self {
	unsigned slot;
	uint64_t incarnation;
};
enum flight_role { FLIGHT_LEADS, FLIGHT_LANDED, FLIGHT_ALONE };

/* alive() says whether the process in that slot is still the one with this incarnation (its lower 12 bits).
 * FLIGHT_ALONE: the place is taken by another key, or the leader takes too long. */
enum flight_role must_check flight_begin(struct flights *f, uint64_t key, const struct flight_self *me,
					 bool (*alive)(void *arg, unsigned slot, uint32_t incarnation), void *arg);
/* As flight_begin(), but never waits: false when somebody leads, or the place is taken. */
bool must_check flight_try(struct flights *f, uint64_t key, const struct flight_self *me,
			   bool (*alive)(void *arg, unsigned slot, uint32_t incarnation), void *arg);
void flight_end(struct flights *f, uint64_t key, const struct flight_self *me);
#endif
