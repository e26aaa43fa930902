#include "turn.h"

#include <time.h>

#include "clock.h"

#define STEP_US 500   /* fewer are not worth a sleep */
#define REST 3	      /* times what was worked */
#define MOST_US 30000 /* then the work looks again whether it is to end */

void turn_begin(struct turn *t) { t->since_us = clock_mono_us(); }

void turn_rest(struct turn *t)
{
	int64_t worked = t->pressed ? clock_mono_us() - t->since_us : 0;
	if (worked < STEP_US)
		return;
	if (t->pressed(t->arg)) {
		int64_t us = worked < MOST_US / REST ? worked * REST : MOST_US;
		(void)nanosleep(&(struct timespec){.tv_nsec = us * 1000}, NULL);
	}
	turn_begin(t);
}
