#include "tarpit.h"

#include <string.h>

#define LEAST_US 5000
#define GROWS_US 250000 /* by a factor of e in so long */
#define SHRINKS_US 3000000
#define STEP_US 100000 /* a look after a longer pause counts as one after so long */

static void turn(struct tarpit *t, int64_t since_us)
{
	double share = (double)t->refused * TARPIT_COST_US / (double)since_us;
	int64_t step = since_us < STEP_US ? since_us : STEP_US, by = t->hold_us + LEAST_US;
	if (share > TARPIT_MUCH)
		t->hold_us += by * step / GROWS_US;
	else if (share < TARPIT_LITTLE)
		t->hold_us -= by * step / SHRINKS_US;
}

void tarpit_look(struct tarpit *t, int64_t most_us, int64_t interval_us, int64_t now_us)
{
	int64_t since = now_us - t->looked_us;
	if (since >= 0 && since < interval_us / TARPIT_LOOKS)
		return;
	if (since > 0) /* else the clock was set */
		turn(t, since);
	if (t->refused || now_us < t->refused_us)
		t->refused_us = now_us;
	if (t->hold_us < 0 || now_us - t->refused_us > interval_us + 2 * t->hold_us)
		t->hold_us = 0;
	if (t->hold_us > most_us)
		t->hold_us = most_us;
	t->looked_us = now_us;
	t->refused = 0;
	if (now_us - t->counted_us >= interval_us || now_us < t->counted_us) {
		memset(t->of, 0, sizeof(t->of));
		t->counted_us = now_us;
	}
}

int64_t tarpit_hold(struct tarpit *t, uint64_t flow)
{
	uint8_t *n = &t->of[(flow * 0x9e3779b97f4a7c15ull) >> 56];
	t->refused++;
	if (*n >= TARPIT_FIRST)
		return t->hold_us;
	++*n;
	return 0;
}
_Static_assert(TARPIT_FLOWS == 1 << 8, "the eight highest bits");
