/* The longest interval that still prevents cold starts. */
#include "adapt.h"

#define GROWTH 1.25 /* while nothing is known to be too long */
#define BACK 0.8    /* 1 / GROWTH: what was proven before the step that was one too many */
#define STEP 1.1    /* later: a small step … */
#define WORTH 1.05  /* … or none, when it is not worth the risk */
#define SHY 0.9	    /* and not this near to what was cold */
#define FADE 1.1
#define WHOLE 0.8   /* a pause of this part of the interval says something about it */
#define FOREIGN 1.5 /* and one of this many says nothing: a schedule, a failure, a reload */
#define HOLD_MIN_US (6 * 3600 * 1000000ll)
#define HOLD_MAX_US (7 * 24 * 3600 * 1000000ll)
#define EPISODE 8 /* intervals: cold starts that are nearer to each other are one trouble */
#define ANEW 8	  /* warm answers in a row beyond the wall */
#define PROVEN 16 /* … or at the interval, behind which one that is cold proves nothing yet */

static int64_t bounded(double us, const struct adapt_limits *l)
{
	return us < (double)l->min_us ? l->min_us : us > (double)l->max_us ? l->max_us : (int64_t)us;
}

static double scaled(int64_t us, double by) { return (double)us * by; }

int64_t adapt_interval(const struct plant_adapt *a, const struct adapt_limits *l)
{
	return bounded((double)a->interval_us, l);
}

static void use(struct plant_adapt *a, double us, const struct adapt_limits *l)
{
	int64_t next = bounded(us, l);
	if (next != a->interval_us)
		a->proofs = 0;
	a->interval_us = next;
}

/* Time for a step? Then the wall fades, and the interval grows as far as that lets it. */
static void try_longer(struct plant_adapt *a, const struct adapt_limits *l, int64_t now_us)
{
	double most = scaled(a->cold_us, SHY), next = scaled(a->interval_us, STEP);
	if (now_us < a->hold_until_us)
		return;
	if (next > most)
		next = most;
	if (next >= scaled(a->interval_us, WORTH))
		use(a, next, l);
	else
		a->cold_us = (int64_t)scaled(a->cold_us, FADE);
	a->hold_until_us = now_us + a->hold_us;
}

void adapt_warm(struct plant_adapt *a, const struct adapt_limits *l, int64_t gap_us, int64_t now_us)
{
	a->interval_us = adapt_interval(a, l);
	if ((double)gap_us < scaled(a->interval_us, WHOLE))
		return;
	if (gap_us > a->proven_us)
		a->proven_us = gap_us;
	a->proofs++;
	if (!a->cold_us) {
		use(a, scaled(a->interval_us, GROWTH), l);
		return;
	}
	a->streak = (double)gap_us > scaled(a->wall_us, WORTH) ? a->streak + 1 : 0;
	if (a->streak >= ANEW) {
		a->cold_us = a->wall_us = 0;
		a->streak = 0;
		a->hold_us /= 2;
		return;
	}
	try_longer(a, l, now_us);
}

void adapt_cold(struct plant_adapt *a, const struct adapt_limits *l, int64_t gap_us, int64_t now_us)
{
	a->interval_us = adapt_interval(a, l);
	if ((double)gap_us > scaled(a->interval_us, FOREIGN))
		return;
	bool chance = a->proofs >= PROVEN;
	a->proofs = 0;
	if (chance)
		return;
	bool same = a->last_cold_us && now_us - a->last_cold_us < EPISODE * a->interval_us;
	int64_t shorter = gap_us < a->interval_us ? gap_us : a->interval_us;
	if (!same) {
		a->hold_us = a->hold_us < HOLD_MIN_US / 2 ? HOLD_MIN_US : a->hold_us * 2;
		if (a->hold_us > HOLD_MAX_US)
			a->hold_us = HOLD_MAX_US;
		a->wall_us = gap_us;
	}
	if (gap_us < a->wall_us)
		a->wall_us = gap_us;
	a->cold_us = !a->cold_us || gap_us < a->cold_us ? gap_us : a->cold_us;
	use(a, scaled(shorter, BACK), l);
	a->proven_us = 0;
	a->streak = 0;
	a->last_cold_us = now_us;
	a->hold_until_us = now_us + a->hold_us;
}
