/* orchestra_ping_*: a row of /metrics for each keep-warm target, from shared memory. */
#include <stdlib.h>

#include "clock.h"
#include "handlers.h"
#include "metrics_parts.h"

struct row {
	char name[LIMIT_TARGET_NAME + 1]; /* its characters need no escape: target.c sees to that */
	struct plant_target_figures f;
	uint64_t pings, failures, well;
	int64_t touched_us;
};

/* All that are live; the caller frees. */
static struct row *collect(const struct plant *p, size_t *n_r)
{
	struct row *rows = NULL;
	size_t n = 0, room = 0;
	for (size_t i = 0; i < PLANT_TARGETS; i++) {
		const struct plant_target *t = &p->targets[i];
		char name[LIMIT_TARGET_NAME + 1];
		if (!plant_target_name(t, name))
			continue;
		if (n == room)
			rows = util_realloc(rows, (room = room * 2 + 8) * sizeof(*rows));
		struct row *r = &rows[n++];
		memcpy(r->name, name, sizeof(name));
		if (!plant_target_figures(t, &r->f))
			r->f = (struct plant_target_figures){0};
		r->pings = atomic_load_explicit(&t->pings, memory_order_relaxed);
		r->failures = atomic_load_explicit(&t->failures, memory_order_relaxed);
		r->well = atomic_load_explicit(&t->well, memory_order_relaxed);
		r->touched_us = atomic_load_explicit(&t->touched_us, memory_order_relaxed);
	}
	*n_r = n;
	return rows;
}

static double pings(const struct row *r) { return (double)r->pings; }
static double failures(const struct row *r) { return (double)r->failures; }
static double well(const struct row *r) { return (double)r->well; }
static double cold_starts(const struct row *r) { return (double)r->f.cold_starts; }
static double skipped(const struct row *r) { return (double)r->f.skipped; }
static double interval(const struct row *r) { return (double)r->f.interval_us / 1e6; }
static double paused(const struct row *r) { return r->f.paused; }
static double cost(const struct row *r) { return r->f.priced ? r->f.cost : -1; }
static double tls_expiry(const struct row *r) { return r->f.tls_expiry_us ? (double)r->f.tls_expiry_us / 1e6 : -1; }
static double token_expiry(const struct row *r)
{
	return r->f.token_expiry_us ? (double)r->f.token_expiry_us / 1e6 : -1;
}
static double traffic(const struct row *r)
{
	int64_t idle = clock_mono_us() - r->touched_us;
	return !r->touched_us ? -1 : idle > 0 ? (double)idle / 1e6 : 0;
}

static const struct {
	enum metric_family id;
	double (*value)(const struct row *r); /* negative: there is none */
} fields[] = {
	{METRIC_PINGS, pings},
	{METRIC_PING_FAILURES, failures},
	{METRIC_PING_UP, well},
	{METRIC_PING_COLD_STARTS, cold_starts},
	{METRIC_PING_SKIPPED, skipped},
	{METRIC_PING_INTERVAL, interval},
	{METRIC_PING_PAUSED, paused},
	{METRIC_PING_COST, cost},
	{METRIC_PING_TLS_EXPIRY, tls_expiry},
	{METRIC_PING_TOKEN_EXPIRY, token_expiry},
	{METRIC_PING_TRAFFIC_AGE, traffic},
};

static void summary_of(struct expo *e, const struct row *r, const char *heat, const uint32_t us[3], uint64_t sum_us,
		       uint64_t count)
{
	static const char *const quantiles[] = {"0.5", "0.95", "0.99"};
	const char *name = metrics_families[METRIC_PING_LATENCY].name;
	for (size_t i = 0; count && i < ARRAY_LEN(quantiles); i++)
		buf_printf(e->b, "%s{target=\"%s\",heat=\"%s\",quantile=\"%s\"} %.6f\n", name, r->name, heat,
			   quantiles[i], us[i] / 1e6);
	buf_printf(e->b, "%s_sum{target=\"%s\",heat=\"%s\"} %.6f\n%s_count{target=\"%s\",heat=\"%s\"} %llu\n", name,
		   r->name, heat, (double)sum_us / 1e6, name, r->name, heat, (unsigned long long)count);
}

void targets_metrics(struct expo *e, const struct plant *p)
{
	size_t n;
	struct row *rows = collect(p, &n);
	for (size_t i = 0; i < ARRAY_LEN(fields); i++) {
		const struct metric *m = &metrics_families[fields[i].id];
		expo_head(e, m);
		for (size_t k = 0; k < n; k++) {
			double v = fields[i].value(&rows[k]);
			if (v < 0)
				continue;
			buf_printf(e->b, "%s{target=\"%s\"} ", m->name, rows[k].name);
			json_out_double(e->b, v);
			buf_addc(e->b, '\n');
		}
	}
	expo_head(e, &metrics_families[METRIC_PING_LATENCY]);
	for (size_t k = 0; k < n; k++) {
		const struct plant_target_figures *f = &rows[k].f;
		summary_of(e, &rows[k], "warm", f->warm_us, f->warm_sum_us, f->warm_count);
		summary_of(e, &rows[k], "cold", f->cold_us, f->cold_sum_us, f->cold_count);
	}
	free(rows);
}
