/* orchestra_ping_*: a row of /metrics for each keep-warm target, from shared memory. */
#include <stdlib.h>

#include "clock.h"
#include "handlers.h"

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

static void head(struct buf *b, const char *name, const char *type, const char *help)
{
	buf_printf(b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
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
static double traffic(const struct row *r)
{
	int64_t idle = clock_mono_us() - r->touched_us;
	return !r->touched_us ? -1 : idle > 0 ? (double)idle / 1e6 : 0;
}

static const struct metric {
	const char *name, *type, *help;
	double (*value)(const struct row *r); /* negative: there is none */
} metrics[] = {
	{"orchestra_pings_total", "counter", "Requests sent to a keep-warm target.", pings},
	{"orchestra_ping_failures_total", "counter", "Pings that failed or were not answered as expected.", failures},
	{"orchestra_ping_up", "gauge", "1 when the last ping of the target was answered as expected.", well},
	{"orchestra_ping_cold_starts_total", "counter", "Pings that found their target cold.", cold_starts},
	{"orchestra_ping_skipped_total", "counter", "Pings that real traffic had made needless.", skipped},
	{"orchestra_ping_interval_seconds", "gauge", "Interval in use.", interval},
	{"orchestra_ping_paused", "gauge", "1 while the target is out of its schedule.", paused},
	{"orchestra_ping_cost_total", "counter", "Estimated cost of all pings, in the currency of the prices.", cost},
	{"orchestra_ping_tls_expiry_timestamp_seconds", "gauge", "When the certificate of the target ends.",
	 tls_expiry},
	{"orchestra_ping_traffic_age_seconds", "gauge", "Since the last real traffic that was told of.", traffic},
};

static void summary_of(struct buf *b, const struct row *r, const char *heat, const uint32_t us[3], uint64_t sum_us,
		       uint64_t count)
{
	static const char *const quantiles[] = {"0.5", "0.95", "0.99"};
	static const char name[] = "orchestra_ping_latency_seconds";
	for (size_t i = 0; count && i < ARRAY_LEN(quantiles); i++)
		buf_printf(b, "%s{target=\"%s\",heat=\"%s\",quantile=\"%s\"} %.6f\n", name, r->name, heat, quantiles[i],
			   us[i] / 1e6);
	buf_printf(b, "%s_sum{target=\"%s\",heat=\"%s\"} %.6f\n%s_count{target=\"%s\",heat=\"%s\"} %llu\n", name,
		   r->name, heat, (double)sum_us / 1e6, name, r->name, heat, (unsigned long long)count);
}

void targets_metrics(const struct plant *p, struct buf *b)
{
	size_t n;
	struct row *rows = collect(p, &n);
	for (size_t i = 0; i < ARRAY_LEN(metrics); i++) {
		const struct metric *m = &metrics[i];
		head(b, m->name, m->type, m->help);
		for (size_t k = 0; k < n; k++) {
			double v = m->value(&rows[k]);
			if (v < 0)
				continue;
			buf_printf(b, "%s{target=\"%s\"} ", m->name, rows[k].name);
			json_out_double(b, v);
			buf_addc(b, '\n');
		}
	}
	head(b, "orchestra_ping_latency_seconds", "summary",
	     "Answer times of a target when it was warm and when it was cold; quantiles of the last 128 and 32.");
	for (size_t k = 0; k < n; k++) {
		const struct plant_target_figures *f = &rows[k].f;
		summary_of(b, &rows[k], "warm", f->warm_us, f->warm_sum_us, f->warm_count);
		summary_of(b, &rows[k], "cold", f->cold_us, f->cold_sum_us, f->cold_count);
	}
	free(rows);
}
