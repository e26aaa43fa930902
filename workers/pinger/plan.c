/* When a target is pinged next, and what its answer says. */
#include "plan.h"

#include "cold.h"

#define SPREAD_US 5000000      /* first pings are spread over this, or over the interval if shorter */
#define PAUSE_MAX_US 300000000 /* then the calendar is looked at again: somebody may have set the clock */
#define DAY_US 86400e6

int64_t plan_interval(const struct plan_rules *r, const struct plant_target_figures *f)
{
	return r->interval_us ? r->interval_us : adapt_interval(&f->adapt, &r->limits);
}

/* A fixed interval is met on average; one that was found is never exceeded, as it was not tried any longer. */
int64_t plan_wait(const struct plan_rules *r, const struct plant_target_figures *f, double u)
{
	double us = (double)plan_interval(r, f);
	return (int64_t)(r->interval_us ? us * (1 - r->jitter + 2 * r->jitter * u) : us * (1 - r->jitter * u));
}

int64_t plan_first(const struct plan_rules *r, size_t i, size_t n, double u)
{
	int64_t interval = r->interval_us ? r->interval_us : r->limits.min_us;
	double spread = interval < SPREAD_US ? (double)interval : SPREAD_US;
	return (int64_t)(spread * ((double)i + u) / (double)n);
}

int64_t plan_opens(const struct plan_rules *r, int64_t real_us)
{
	int64_t next = window_next(r->windows, r->nwindows, r->zone, real_us / 1000000);
	return next == INT64_MAX ? 0 : next > real_us / 1000000 ? next * 1000000 : real_us;
}

static bool closed(const struct plan_rules *r, int64_t real_us, double u, int64_t *wait_r)
{
	int64_t now = real_us / 1000000;
	if (window_open(r->windows, r->nwindows, r->zone, now))
		return false;
	int64_t next = window_next(r->windows, r->nwindows, r->zone, now);
	int64_t wait = next > now + PAUSE_MAX_US / 1000000 ? PAUSE_MAX_US : next * 1000000 - real_us;
	if (wait < PAUSE_MAX_US) /* many open at the same minute */
		wait += plan_first(r, 0, 1, u);
	*wait_r = wait;
	return true;
}

struct plan_next plan_due(const struct plan_rules *r, const struct plant_target_figures *f, int64_t touched_us,
			  int64_t now_us, int64_t real_us, double u)
{
	struct plan_next next = {.act = PLAN_PAUSE};
	if (closed(r, real_us, u, &next.wait_us))
		return next;
	int64_t interval = plan_wait(r, f, u);
	/* Touched by a clock that is ahead of ours: then it is now. */
	int64_t idle = touched_us > now_us ? 0 : now_us - touched_us;
	bool spared = touched_us && touched_us > f->used_us && idle < interval;
	/* Shorter than that is no pause worth a timer. */
	if (spared && interval - idle > interval / 20)
		return (struct plan_next){PLAN_SKIP, interval - idle};
	return (struct plan_next){PLAN_PING, interval};
}

int64_t plan_gap(const struct plant_target_figures *f, int64_t touched_us, int64_t now_us)
{
	int64_t used = touched_us > f->used_us ? touched_us : f->used_us;
	return !used ? -1 : used > now_us ? 0 : now_us - used;
}

static void count_heat(struct plant_target_figures *f, enum plant_ping_heat heat, uint32_t took_us)
{
	if (heat == PING_COLD) {
		f->cold_starts++;
		f->cold_count++;
		f->cold_sum_us += took_us;
	} else {
		f->warm_count++;
		f->warm_sum_us += took_us;
	}
}

enum plant_ping_heat plan_answered(const struct plan_rules *r, struct plant_target_figures *f, int64_t gap_us,
				   uint32_t took_us, int64_t now_us)
{
	enum plant_ping_heat heat = cold_learn(&f->heat, took_us, r->cold_after_us);
	count_heat(f, heat, took_us);
	f->used_us = now_us;
	if (!r->interval_us && gap_us >= 0 && heat == PING_WARM)
		adapt_warm(&f->adapt, &r->limits, gap_us, now_us);
	if (!r->interval_us && gap_us >= 0 && heat == PING_COLD)
		adapt_cold(&f->adapt, &r->limits, gap_us, now_us);
	return heat;
}

/* It may have been warm or not: what comes next proves nothing. */
void plan_failed(struct plant_target_figures *f) { f->used_us = 0; }

static double mean_us(const struct plant_target_figures *f)
{
	uint64_t n = f->warm_count + f->cold_count;
	return n ? (double)(f->warm_sum_us + f->cold_sum_us) / (double)n : 0;
}

void plan_remember(const struct plan_rules *r, struct plant_target_figures *f, const struct plant_ping *ping)
{
	static const double q[] = {0.5, 0.95, 0.99};
	f->pings[f->done++ % PLANT_PINGS] = *ping;
	for (size_t i = 0; i < ARRAY_LEN(q); i++) {
		f->warm_us[i] = cold_percentile(f->heat.warm_us, PLANT_WARM_TIMES, f->heat.nwarm, q[i]);
		f->cold_us[i] = cold_percentile(f->heat.cold_us, PLANT_COLD_TIMES, f->heat.ncold, q[i]);
	}
	f->cold_from_us = cold_border(&f->heat, r->cold_after_us);
	f->interval_us = plan_interval(r, f);
	f->cost += r->cost_request + r->cost_second * ping->took_us / 1e6;
	f->cost_day = DAY_US / (double)f->interval_us * r->open_share *
		      (r->cost_request + r->cost_second * mean_us(f) / 1e6);
}
