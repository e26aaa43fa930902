#include "tarpit.h"

#include <string.h>

#define BURST (TARPIT_PACE / 2.0) /* tokens that may be saved, or owed */
#define QUIET                                                                                                          \
	3 /* intervals without a refusal: a queue takes one to stand again, and some time before that to become long */

unsigned tarpit_look(struct tarpit *t, int64_t interval_us, int64_t now_us)
{
	int64_t since = now_us - t->looked_us;
	if (since > 0) { /* else the clock was set */
		t->tokens += (double)since * TARPIT_PACE / 1e6;
		t->tokens = t->tokens < BURST ? t->tokens : BURST;
	}
	t->looked_us = now_us;
	if (t->refused || now_us < t->refused_us)
		t->refused_us = now_us;
	t->refused = false;
	if (now_us - t->counted_us >= interval_us || now_us < t->counted_us) {
		memset(t->of, 0, sizeof(t->of));
		t->counted_us = now_us;
	}
	return now_us - t->refused_us >= QUIET * interval_us ? TARPIT_SPARE * TARPIT_PACE : TARPIT_PACE;
}

bool tarpit_holds(struct tarpit *t, uint64_t flow, size_t held)
{
	uint8_t *n = &t->of[(flow * 0x9e3779b97f4a7c15ull) >> 56];
	t->refused = true;
	if (*n >= TARPIT_FIRST && (held || t->tokens < 1))
		return true;
	*n += *n < TARPIT_FIRST;
	t->tokens -= t->tokens > -BURST;
	return false;
}
_Static_assert(TARPIT_FLOWS == 1 << 8, "the eight highest bits");
