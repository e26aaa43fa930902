/* Which refusals are held back (http_hold()), and how many of those go out a second. Who does not heed Retry-After asks again at once,
 * and with enough of those the loop does little else than to refuse. Then refusals wait in one line: who has one request on a
 * connection asks no faster than he is answered. (Known as a tarpit from mail servers; what goes out at once, as a token bucket.)
 *
 *   So many a second as take TARPIT_SHARE of the loop's time, at what a refusal costs, first come, first served; a wait is as long as
 *   the line, then, and over when little is refused. Once nothing was refused for a while there is time to spare: the line gets
 *   shorter TARPIT_SPARE times as fast. The first few of a flow in each interval do not wait: who heeds them is not kept.
 *
 * Pure: the caller brings the time. */
#ifndef ORC_TARPIT_H
#define ORC_TARPIT_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TARPIT_COST_US 12 /* of the loop's time for a refusal: 11 to 17 were measured, nearly all of it the kernel's */
#define TARPIT_SHARE 0.025
#define TARPIT_PACE ((unsigned)(TARPIT_SHARE * 1e6 / TARPIT_COST_US)) /* refusals a second */
#define TARPIT_SPARE 4
#define TARPIT_FIRST 4 /* of a flow in an interval, at once */
#define TARPIT_FLOWS 256

struct tarpit {
	double tokens;
	int64_t looked_us, counted_us, refused_us; /* counted: since when of[] is; the last look that found a refusal */
	bool refused;				   /* since the last look */
	uint8_t of[TARPIT_FLOWS];
};

/* In each round of the loop, and now and then while any are held. Returns how many of those are to go out a second. */
unsigned tarpit_look(struct tarpit *t, int64_t interval_us, int64_t now_us);
/* A request of this flow is refused, and so many are held already: is this one to be, too? */
bool tarpit_holds(struct tarpit *t, uint64_t flow, size_t held);
#endif
