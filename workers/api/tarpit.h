/* For how long refusals are held back (http_hold()). Who does not heed Retry-After asks again at once, and with enough of those the
 * loop does little else than to refuse. Then refusals wait: who has one request on a connection asks no faster than he is
 * answered. (Known as a tarpit from mail servers, and as a delay for connections from limits of rate.)
 *
 *   Longer by and by while refusing takes more than TARPIT_MUCH of the loop's time, at what a refusal costs; shorter, and slowly,
 *   as what it does shows only when those have been answered that it made wait, while it takes less than TARPIT_LITTLE. None
 *   once nothing was refused for an interval and twice as long as the last were held. The first few of a flow in each interval are never held back: who heeds them
 *   is not kept waiting.
 *
 * Pure: the caller brings the time. */
#ifndef ORC_TARPIT_H
#define ORC_TARPIT_H
#include <stdbool.h>
#include <stdint.h>

#define TARPIT_COST_US 12 /* of the loop's time for a refusal: 11 to 17 were measured, nearly all of it the kernel's */
#define TARPIT_MUCH 0.3
#define TARPIT_LITTLE 0.2
#define TARPIT_LOOKS 8 /* in an interval */
#define TARPIT_FIRST 4 /* of a flow in an interval, at once */
#define TARPIT_FLOWS 256

struct tarpit {
	int64_t hold_us; /* 0: none is held back */
	int64_t looked_us, counted_us,
		refused_us; /* the last look; since when of[] is counted; the last look that found a refusal */
	uint32_t refused;   /* since the last look */
	uint8_t of[TARPIT_FLOWS];
};

/* Whenever convenient. most_us: the longest hold, 0 for none. */
void tarpit_look(struct tarpit *t, int64_t most_us, int64_t interval_us, int64_t now_us);
/* A request of this flow is refused: how long that is to wait, µs. */
int64_t tarpit_hold(struct tarpit *t, uint64_t flow);
#endif
