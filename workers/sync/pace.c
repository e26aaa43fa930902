#include "pace.h"

#define RETRY_AFTER_MAX 60

static uint64_t within(uint64_t v, uint64_t least, uint64_t most) { return v < least ? least : v > most ? most : v; }

uint64_t pace_batch(const struct pace *p, uint64_t batch_max, uint64_t backlog)
{
	if (p->suspect)
		return (p->suspect + 1) / 2;
	uint64_t most = backlog > 2 * batch_max ? batch_max * PACE_BACKLOG : batch_max;
	return within(p->ops ? p->ops : batch_max, 1, most);
}

void pace_stored(struct pace *p, uint64_t ops, int64_t took_us)
{
	p->failures = 0;
	if (p->suspect) {
		p->suspect -= ops < p->suspect ? ops : p->suspect;
		return;
	}
	if (!ops)
		return;
	if (ops >= PACE_SURE)
		p->careful = false;
	/* A small batch that was quick says nothing about larger ones, and one that took long may have been alone in it. */
	uint64_t took = took_us > 0 ? (uint64_t)took_us : 1, before = p->ops ? p->ops : ops;
	uint64_t want = ops > UINT64_MAX / PACE_TARGET_US ? UINT64_MAX : ops * PACE_TARGET_US / took;
	if (took < PACE_TARGET_US && ops < before && want < before)
		return;
	p->ops = within(within(want, before / 2, before > UINT64_MAX / 2 ? UINT64_MAX : before * 2),
			p->careful ? PACE_CAREFUL : PACE_MIN, UINT32_MAX);
}

bool pace_rejected(struct pace *p, uint64_t ops)
{
	p->failures = 0;
	p->suspect = ops;
	p->careful = true;
	return ops == 1;
}

void pace_settled(struct pace *p)
{
	p->suspect = 0;
	p->ops = PACE_CAREFUL;
	p->careful = true;
}

int64_t pace_failed(struct pace *p, uint64_t random)
{
	int64_t bound = PACE_RETRY_BASE_US;
	for (unsigned i = 0; i < p->failures && bound < PACE_RETRY_CAP_US; i++)
		bound *= 2;
	if (bound > PACE_RETRY_CAP_US)
		bound = PACE_RETRY_CAP_US;
	p->failures++;
	if (p->ops) /* it may have been more than the store does in the time that it has */
		p->ops = within(p->ops / 2, p->careful ? PACE_CAREFUL : PACE_MIN, UINT32_MAX);
	return (int64_t)(random % (uint64_t)(bound + 1));
}

uint32_t pace_retry_after(uint64_t excess, uint64_t rate)
{
	return (uint32_t)within(rate ? (excess + rate - 1) / rate : RETRY_AFTER_MAX, 1, RETRY_AFTER_MAX);
}
