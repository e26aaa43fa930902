/* When a target is pinged next, and what its answer says: pure functions of settings, state, time and event, so that weeks
 * of them run in milliseconds (tests/unit/platform.h). `now_us` never jumps; real_us is of the calendar. */
#ifndef ORC_PLAN_H
#define ORC_PLAN_H
#include "adapt.h"
#include "window.h"

struct plan_rules {
	int64_t interval_us; /* 0: auto, within min and max */
	struct adapt_limits limits;
	double jitter; /* part of the interval */
	uint32_t cold_after_us;
	const struct window *windows;
	size_t nwindows;
	const struct zone *zone; /* NULL: UTC */
	double open_share;	 /* of the week */
	double cost_request, cost_second;
};

enum plan_act { PLAN_PING, PLAN_SKIP, PLAN_PAUSE };
struct plan_next {
	enum plan_act act;
	int64_t wait_us; /* until it is asked again */
};

/* A ping is due. `u`: uniform in [0, 1). touched_us: the last answer to real traffic, 0: none. With PLAN_PING, wait_us
 * is the time until the one after. */
struct plan_next plan_due(const struct plan_rules *r, const struct plant_target_figures *f, int64_t touched_us,
			  int64_t now_us, int64_t real_us, double u);
/* When the schedule is open next, clock_real_us(); now, when it is. 0: never. */
int64_t plan_opens(const struct plan_rules *r, int64_t real_us);
/* Until the first ping of target i of n that begin together. */
int64_t plan_first(const struct plan_rules *r, size_t i, size_t n, double u);
/* The pause before a ping that is sent now; -1: unknown. */
int64_t plan_gap(const struct plant_target_figures *f, int64_t touched_us, int64_t now_us);
/* An answer has come that is as expected, took_us after the request that was sent behind gap_us. */
enum plant_ping_heat plan_answered(const struct plan_rules *r, struct plant_target_figures *f, int64_t gap_us,
				   uint32_t took_us, int64_t now_us);
/* None has, or another one. */
void plan_failed(struct plant_target_figures *f);
/* The result is remembered, and what follows from all of them: percentiles, cost. */
void plan_remember(const struct plan_rules *r, struct plant_target_figures *f, const struct plant_ping *ping);
/* The interval in use, and the same with its jitter: until the next ping, from the beginning of this one; from its end when
 * the interval is found, as that is the pause that was tried. */
int64_t plan_interval(const struct plan_rules *r, const struct plant_target_figures *f);
int64_t plan_wait(const struct plan_rules *r, const struct plant_target_figures *f, double u);
#endif
