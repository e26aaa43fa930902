/* A platform that lets what is not used go cold, its users and its pinger, in virtual time: weeks take milliseconds. The
 * pinger is the real policy (workers/pinger/plan.h) or a cron of a fixed interval. */
#ifndef ORC_PLATFORM_MODEL_H
#define ORC_PLATFORM_MODEL_H
#include <math.h>

#include "pinger/cold.h"
#include "pinger/plan.h"

#define MINUTE_US 60000000.0
#define PLATFORM_DAY_US (86400 * 1000000ll)
#define PLATFORM_EPOCH_US (1767571200ll * 1000000) /* a Monday, 00:00 UTC */

/* How long it stays warm behind a request. */
enum platform_kind { STAYS_FIXED, STAYS_RANDOM, STAYS_LESS_AT_NIGHT, STAYS_EVICTED, PLATFORM_KINDS };

struct platform {
	enum platform_kind kind;
	double day_per_hour, night_per_hour; /* users; day: 7:00 to 19:00 */
	uint64_t seed;
	/* inside */
	uint64_t rnd;
	int64_t used_us, stays_us;
};
struct platform_result {
	uint64_t pings, ping_colds, users, user_colds, skipped;
	int64_t interval_us; /* at the end */
};

static inline double platform_uniform(struct platform *p)
{
	p->rnd = p->rnd * 6364136223846793005u + 1442695040888963407u;
	return (double)(p->rnd >> 11) / 9007199254740992.0;
}

static inline bool platform_is_day(int64_t t)
{
	int64_t h = t % PLATFORM_DAY_US / 3600000000ll;
	return h >= 7 && h < 19;
}

static inline int64_t platform_stays(struct platform *p, int64_t t)
{
	double m = 15;
	if (p->kind == STAYS_RANDOM)
		m = 10 + 10 * platform_uniform(p);
	if (p->kind == STAYS_LESS_AT_NIGHT)
		m = platform_is_day(t) ? 15 : 6;
	if (p->kind == STAYS_EVICTED) /* and now and then it is moved to another machine */
		m = fmin(m, -log(1 - platform_uniform(p)) * 60 * 24);
	return (int64_t)(m * MINUTE_US);
}

/* A request: how long it takes, and whether it found the platform cold. */
static inline bool platform_ask(struct platform *p, int64_t t, uint32_t *took_us_r)
{
	bool cold = !p->used_us || t - p->used_us > p->stays_us;
	double slow = -log(1 - platform_uniform(p));
	*took_us_r = cold ? (uint32_t)(1500000 + 800000 * slow) : (uint32_t)(60000 + 15000 * slow);
	p->used_us = t + *took_us_r;
	p->stays_us = platform_stays(p, t);
	return cold;
}

static inline int64_t platform_next_user(struct platform *p, int64_t t)
{
	for (;;) { /* thinned: the larger rate, of which the night keeps its part */
		t += (int64_t)(-log(1 - platform_uniform(p)) / p->day_per_hour * 3600e6);
		if (platform_is_day(t) || platform_uniform(p) < p->night_per_hour / p->day_per_hour)
			return t;
	}
}

/* `r` NULL: nobody pings. `told`: the pinger learns of users' requests. */
static inline struct platform_result platform_run(struct platform p, const struct plan_rules *r, bool told, int days)
{
	struct platform_result out = {0};
	static struct plant_target_figures f;
	int64_t end = PLATFORM_DAY_US * days, touched = 0, ping = r ? 1000000 : INT64_MAX;
	uint32_t took;
	p.rnd = p.seed;
	memset(&f, 0, sizeof(f));
	uint64_t pinger_rnd = p.seed ^ 0x5bd1e995;
	struct platform dice = {.rnd = pinger_rnd};
	int64_t user = platform_next_user(&p, 0);
	while (user < end || ping < end) {
		if (user <= ping) {
			out.users++;
			out.user_colds += platform_ask(&p, user, &took);
			if (told)
				touched = user + took;
			user = platform_next_user(&p, user);
			continue;
		}
		struct plan_next next = plan_due(r, &f, touched, ping, PLATFORM_EPOCH_US + ping,
						 platform_uniform(&dice));
		if (next.act == PLAN_PING) {
			int64_t gap = plan_gap(&f, touched, ping);
			out.pings++;
			out.ping_colds += platform_ask(&p, ping, &took);
			if (r->interval_us)
				f.used_us = ping + took; /* a cron job learns nothing */
			else
				(void)plan_answered(r, &f, gap, took, ping + took);
		}
		out.skipped += next.act == PLAN_SKIP;
		if (next.act == PLAN_PING && !r->interval_us)
			next.wait_us = took + plan_wait(r, &f, platform_uniform(&dice));
		ping += next.wait_us;
	}
	out.interval_us = r ? plan_interval(r, &f) : 0;
	return out;
}

static inline struct plan_rules platform_cron(double minutes)
{
	return (struct plan_rules){.interval_us = (int64_t)(minutes * MINUTE_US), .open_share = 1};
}

static inline struct plan_rules platform_auto(void)
{
	return (struct plan_rules){.limits = {60000000, 3600000000ll}, .jitter = 0.1, .open_share = 1};
}
#endif
