#include "codel.h"

bool codel_look(struct codel *c, int64_t target_us, int64_t interval_us, int64_t now_us, int64_t delay_us, bool over)
{
	if (over) {
		*c = (struct codel){.standing = false};
		return false;
	}
	if (delay_us < target_us)
		c->above_us = 0;
	else if (!c->above_us)
		c->above_us = now_us;
	if (delay_us >= target_us / 2)
		c->below_us = 0;
	else if (!c->below_us)
		c->below_us = now_us;
	if (!c->standing)
		c->standing = c->above_us && now_us - c->above_us >= interval_us;
	else if (c->below_us && now_us - c->below_us >= interval_us)
		*c = (struct codel){.standing = false};
	return c->standing;
}
