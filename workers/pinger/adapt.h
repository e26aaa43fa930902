/* interval = "auto": the longest interval that still prevents cold starts. Pure functions of (state, event, time).
 *
 * What is known is pauses: after one of 9 minutes it was warm, after one of 14 it was cold. From min on, every warm
 * answer behind a whole interval makes the interval a quarter longer, until the first cold start. Then it goes back by
 * a fifth, which is where it was proven, and stays there: 6 h, and twice as long after each further trouble, up to a
 * week. A cold start behind many warm answers at this very interval is taken for chance (platforms move what they run), and
 * forgiven. Behind the hold it takes a small step upwards, never to where it is known to be cold; that knowledge fades by a tenth
 * at each such occasion, so a platform that has changed is found out. When it is warm eight times in a row behind
 * pauses that were too long once, the search begins anew. */
#ifndef ORC_ADAPT_H
#define ORC_ADAPT_H
#include "plant.h"

struct adapt_limits {
	int64_t min_us, max_us;
};

/* The interval to use. */
int64_t adapt_interval(const struct plant_adapt *a, const struct adapt_limits *l);
/* A ping behind a pause of gap_us found it warm, or cold. */
void adapt_warm(struct plant_adapt *a, const struct adapt_limits *l, int64_t gap_us, int64_t now_us);
void adapt_cold(struct plant_adapt *a, const struct adapt_limits *l, int64_t gap_us, int64_t now_us);
#endif
