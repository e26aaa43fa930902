/* How fast the warmer goes. While plant->warm.active is set, api workers look every 5 ms how late their loops are, and count
 * when it is more than warmer.max_delay (api/late.c).
 *
 * At the beginning, once a second, and before it slows down by what was seen a while ago, the warmer rests for a window of
 * 50 ms: how often loops are late then has other reasons. In any other window it works; when loops were late more than
 * twice as often as in those of rest, it sleeps between its slices, twice as long from window to window, else half as long. So nobody's latency becomes more than
 * twice as bad by it for long, a machine with other work on it does not keep it from warming, and it never stands still. */
#include <unistd.h>

#include "clock.h"
#include "warmer.h"

#define SLICE_US 1000
#define WINDOW_US 50000
#define REST_EVERY 20 /* windows */
#define REST_OLD 3    /* windows after which others may have begun to work */
#define PAUSE_MIN_US 250
#define PAUSE_MAX_US 10000
#define UNKNOWN_PAUSE_US 2000 /* while workers may not have noticed that they are to measure */
#define NOTICED_US 1200000    /* they look once a second */
#define STANDS_US 30000	      /* a loop that has not looked for so long stands */
#define TICK_US 5000

/* What has been counted since it was asked last. False: a worker does not count yet. */
static bool count(struct pace *p, int64_t now, double *late_r, double *ticks_r)
{
	uint64_t late = 0, ticks = 0;
	int64_t standing = 0;
	bool known = true;
	for (unsigned slot = SLOT_API0; slot < SLOT_COUNT; slot++) {
		struct plant_worker *w = &p->plant->worker[slot];
		late += atomic_load_explicit(&w->late_ticks, memory_order_relaxed);
		ticks += atomic_load_explicit(&w->ticks, memory_order_relaxed);
		if (!atomic_load_explicit(&w->ready, memory_order_relaxed))
			continue;
		int64_t seen = atomic_load_explicit(&w->late_seen_us, memory_order_acquire);
		known &= seen || now - p->began_us > NOTICED_US;
		if (seen && now - seen > STANDS_US)
			standing += (now - seen) / TICK_US; /* they would all have been late */
	}
	*late_r = (double)(late - p->late_ticks) + (double)standing;
	*ticks_r = (double)(ticks - p->ticks) + (double)standing;
	p->late_ticks = late;
	p->ticks = ticks;
	return known;
}

static void rest(struct pace *p)
{
	double late, ticks;
	(void)count(p, clock_mono_us(), &late, &ticks);
	usleep(WINDOW_US);
	(void)count(p, clock_mono_us(), &late, &ticks);
	p->rest_late = p->rest_late / 2 + late;
	p->rest_ticks = p->rest_ticks / 2 + ticks;
	p->windows = 0;
	p->window_us = clock_mono_us();
}

static void adjust(struct pace *p, int64_t now)
{
	double late, ticks;
	if (now - p->window_us < WINDOW_US)
		return;
	bool known = count(p, now, &late, &ticks);
	double usual = p->rest_ticks > 0 ? p->rest_late / p->rest_ticks : 0;
	p->window_us = now;
	bool more = late > 2 * usual * ticks + 0.5;
	if (known && more && p->windows >= REST_OLD) {
		rest(p);
		return;
	}
	if (!known)
		p->pause_us = UNKNOWN_PAUSE_US;
	else if (more)
		p->pause_us = 2 * p->pause_us < PAUSE_MIN_US ? PAUSE_MIN_US : 2 * p->pause_us;
	else
		p->pause_us = p->pause_us > PAUSE_MIN_US ? p->pause_us / 2 : 0;
	if (p->pause_us > PAUSE_MAX_US)
		p->pause_us = PAUSE_MAX_US;
	atomic_store_explicit(&p->plant->warm.pause_us, (uint32_t)p->pause_us, memory_order_relaxed);
	if (++p->windows == REST_EVERY)
		rest(p);
}

void pace_begin(struct pace *p, bool hurried)
{
	p->began_us = p->slice_us = clock_mono_us();
	p->pause_us = 0;
	p->hurried = hurried;
	p->rest_late = p->rest_ticks = 0;
	atomic_store_explicit(&p->plant->warm.active, 1, memory_order_release);
	if (!hurried && atomic_load_explicit(&p->max_delay_us, memory_order_relaxed))
		rest(p);
}

void pace_end(struct pace *p)
{
	atomic_store_explicit(&p->plant->warm.active, 0, memory_order_release);
	atomic_store_explicit(&p->plant->warm.pause_us, 0, memory_order_relaxed);
}

bool pace_step(struct pace *p, const _Atomic bool *cancel)
{
	int64_t now = clock_mono_us();
	if (atomic_load_explicit(cancel, memory_order_relaxed))
		return false;
	if (p->hurried || now - p->slice_us < SLICE_US)
		return true;
	if (atomic_load_explicit(&p->max_delay_us, memory_order_relaxed))
		adjust(p, now);
	else
		p->pause_us = 0;
	if (p->pause_us)
		usleep((unsigned)p->pause_us);
	p->slice_us = clock_mono_us();
	return !atomic_load_explicit(cancel, memory_order_relaxed);
}
