#include "turn.h"

#include <time.h>

#include "clock.h"

#define STEP_US 500	/* fewer are not worth a sleep */
#define REST 3		/* times what was worked */
#define MOST_US 1000000 /* what is longer was no step: the machine slept */
#define LOOK_US 30000	/* then it looks again whether it is to end, and whether others are pressed still */

void turn_begin(struct turn *t) { t->since_us = clock_mono_us(); }

void turn_rest(struct turn *t)
{
	int64_t worked = t->pressed ? clock_mono_us() - t->since_us : 0;
	if (worked < STEP_US)
		return;
	worked = worked < MOST_US ? worked : MOST_US;
	for (int64_t left = worked * REST; left > 0 && !turn_over(t) && t->pressed(t->arg); left -= LOOK_US) {
		int64_t us = left < LOOK_US ? left : LOOK_US;
		(void)nanosleep(&(struct timespec){.tv_nsec = us * 1000}, NULL);
	}
	turn_begin(t);
}
