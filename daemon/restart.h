/* When to start a dead worker again: pure functions, no clock, no process (Dovecot's
 * service-monitor.c taught the rules: never throttle what has proven itself, or whoever finds a way
 * to crash one worker can hold the whole service down). */
#ifndef ORC_RESTART_H
#define ORC_RESTART_H
#include "util.h"

#define RESTART_FIRST_US 100000 /* first delay; doubles … */
#define RESTART_MAX_US 10000000
#define RESTART_PROVEN_US 10000000 /* this much service forgives what was before */

struct restart_history {
	unsigned faults; /* deaths by own fault since the worker last proved itself */
};

struct restart_death {
	int status;	   /* as waitpid() gave it */
	bool ready;	   /* it had said READY */
	bool asked;	   /* it had been told to leave */
	int64_t served_us; /* from READY to its death */
};

enum restart_verdict {
	RESTART_STOPPED, /* it left because it was told to */
	RESTART_NOW,
	RESTART_LATER,	 /* after delay_us */
	RESTART_GIVE_UP, /* WORKER_EXIT_FATAL: trying again is useless */
};
struct restart_plan {
	enum restart_verdict verdict;
	int64_t delay_us;
};

/* What to do about this death; `random` (any 32 bits) spreads the delay over its upper half. */
struct restart_plan restart_decide(struct restart_history *h, const struct restart_death *d, uint32_t random);
/* "killed by SIGSEGV", "exit 1", … Returns out. */
const char *restart_describe(int status, char *out, size_t cap);
#endif
