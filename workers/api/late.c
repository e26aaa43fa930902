/* How often this worker's loop is late: a timer of 5 ms comes too late by more than warmer.max_delay. That is what a
 * request waits that arrives meanwhile, whoever is to blame: a long turn of the loop, or a processor that others have.
 * The timer runs only while the warmer works, which slows down by it (warmer/pace.c). Linux lets timers of an event loop
 * come up to 1 ms too late by themselves. */
#include <stdlib.h>

#include "api.h"
#include "clock.h"

#define TICK_US 5000

struct late {
	struct api *api;
	struct plant *plant;
	struct plant_worker *self;
	struct event *timer;
	bool runs;
	int64_t due_us;
};

static bool wanted(const struct late *l)
{
	return atomic_load_explicit(&l->plant->warm.active, memory_order_relaxed) ||
	       !atomic_load_explicit(&l->plant->warm_done, memory_order_relaxed);
}

static void arm(struct late *l, int64_t now)
{
	static const struct timeval tick = {0, TICK_US};
	l->due_us = now + TICK_US;
	event_add(l->timer, &tick);
}

static void on_tick(evutil_socket_t fd, short what, void *arg)
{
	struct late *l = arg;
	int64_t now = clock_mono_us(), late = now - l->due_us;
	(void)fd, (void)what;
	if (!wanted(l)) {
		l->runs = false;
		atomic_store_explicit(&l->self->late_seen_us, 0, memory_order_release);
		return;
	}
	atomic_fetch_add_explicit(&l->self->ticks, 1, memory_order_relaxed);
	if (late > conf_int(l->api->w->conf, CONF_WARMER_MAX_DELAY))
		atomic_fetch_add_explicit(&l->self->late_ticks, 1, memory_order_relaxed);
	atomic_store_explicit(&l->self->late_seen_us, now, memory_order_release);
	arm(l, now);
}

void late_look(struct late *l)
{
	if (l->runs || !wanted(l))
		return;
	l->runs = true;
	arm(l, clock_mono_us());
}

struct late *late_open(struct api *a)
{
	struct late *l = util_zalloc(sizeof(*l));
	*l = (struct late){.api = a, .plant = a->plant, .self = a->w->self, .timer = evtimer_new(a->base, on_tick, l)};
	AN(l->timer);
	atomic_store(&l->self->late_seen_us, 0); /* a predecessor's */
	late_look(l);
	return l;
}

void late_free(struct late **lp)
{
	if (!*lp)
		return;
	event_free((*lp)->timer);
	free(*lp);
	*lp = NULL;
}
