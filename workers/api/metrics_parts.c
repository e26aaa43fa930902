/* Parts of /metrics that are told by worker, by route, or by what they measure. */
#include <stdio.h>

#include "clock.h"
#include "expo.h"
#include "handlers.h"
#include "metrics_parts.h"
#include "overload.h"

#define LABELS 256

static const struct metric *family(enum metric_family id) { return &metrics_families[id]; }

/* ---- counters and histograms of the slots ---- */

static bool same(const struct metric *a, const struct metric *b) { return strcmp(a->name, b->name) == 0; }
static bool by_role(const struct metric *m) { return strcmp(m->labels, "role") == 0; }

static void stat_by_role(struct expo *e, struct plant *p, const struct metric *m, enum stat_id id)
{
	uint64_t n[ROLE_COUNT] = {0};
	char labels[LABELS];
	for (unsigned s = 0; s < SLOT_COUNT; s++)
		n[worker_role_of_slot(s)] += stats_value(&p->worker[s].stats, id);
	for (unsigned i = 0; i < ROLE_COUNT; i++) {
		snprintf(labels, sizeof(labels), "role=\"%s\"", worker_rows[i].name);
		expo_u64(e, m, labels, n[i]);
	}
}

void metrics_stat_rows(struct expo *e, struct plant *p)
{
	for (unsigned i = 0; i < STAT_COUNT; i++) {
		const struct metric *m = &metrics_stats[i];
		uint64_t n = 0;
		if (!i || !same(m, m - 1))
			expo_head(e, m);
		if (by_role(m)) {
			stat_by_role(e, p, m, (enum stat_id)i);
			continue;
		}
		if (overload_own_metric(i)) {
			expo_us(e, m, m->labels, overload_delay_us(p, i));
			continue;
		}
		for (unsigned s = 0; s < SLOT_COUNT; s++)
			n += stats_value(&p->worker[s].stats, (enum stat_id)i);
		expo_i64(e, m, m->labels, (int64_t)n);
	}
}

static void add(const struct plant *p, unsigned slot, enum hist_id id, struct hist_sum *io)
{
	const struct stats_slot *s = &p->worker[slot].stats;
	hist_merge(&s->hist[id], &s->sum[id], io);
}

static void hist_by_role(struct expo *e, struct plant *p, const struct metric *m, enum hist_id id)
{
	char labels[LABELS];
	for (int role = 0; role < ROLE_COUNT; role++) {
		struct hist_sum h = {.count = 0};
		for (unsigned s = 0; s < SLOT_COUNT; s++)
			if ((int)worker_role_of_slot(s) == role)
				add(p, s, id, &h);
		snprintf(labels, sizeof(labels), "role=\"%s\"", worker_rows[role].name);
		expo_hist(e, m, labels, &h, NULL, NULL);
	}
}

void metrics_hist_rows(struct expo *e, struct plant *p)
{
	for (unsigned i = 0; i < HIST_COUNT; i++) {
		const struct metric *m = &metrics_hists[i];
		struct hist_sum h = {.count = 0};
		if (!i || !same(m, m - 1))
			expo_head(e, m);
		if (by_role(m)) {
			hist_by_role(e, p, m, (enum hist_id)i);
			continue;
		}
		for (unsigned s = 0; s < SLOT_COUNT; s++)
			add(p, s, (enum hist_id)i, &h);
		expo_hist(e, m, m->labels, &h, NULL, NULL);
	}
}

/* ---- requests, by route ---- */

static void route_labels(unsigned route, char out[LABELS])
{
	const char *pattern, *method;
	router_names(route, &pattern, &method);
	snprintf(out, LABELS, "route=\"%s\",method=\"%s\"", pattern, method);
}

/* A row for each route and class that ever answered. Classes rather than single statuses keep the table small: "2xx". */
static void requests(struct expo *e, struct plant *p, unsigned routes)
{
	static const char *const classes[] = {"1xx", "2xx", "3xx", "4xx", "5xx"};
	char labels[LABELS], all[LABELS + 16];
	expo_head(e, family(METRIC_HTTP_REQUESTS));
	for (unsigned r = 0; r <= routes; r++)
		for (size_t k = 0; k < ARRAY_LEN(classes); k++) {
			uint64_t n = 0;
			for (unsigned s = 0; s < SLOT_COUNT; s++)
				n += atomic_load_explicit(&p->worker[s].stats.http[r][k], memory_order_relaxed);
			route_labels(r, labels);
			snprintf(all, sizeof(all), "%s,status=\"%s\"", labels, classes[k]);
			if (n || (r < routes && k == 1))
				expo_u64(e, family(METRIC_HTTP_REQUESTS), all, n);
		}
}

struct traces {
	const struct plant *p;
	unsigned route;
};

/* The newest that any worker has of this bucket. */
static bool newest_trace(void *arg, unsigned bucket, struct expo_trace *t)
{
	const struct traces *x = arg;
	bool found = false;
	for (unsigned s = SLOT_API0; s < SLOT_COUNT; s++) {
		unsigned char id[16];
		uint64_t ns;
		int64_t at_us;
		if (!stats_trace_read(&x->p->worker[s].stats, x->route, bucket, id, &ns, &at_us) ||
		    (found && at_us <= t->at_us))
			continue;
		found = true;
		memcpy(t->id, id, sizeof(id));
		t->value = (double)ns / 1e9;
		t->at_us = at_us;
	}
	return found;
}

static void durations(struct expo *e, struct plant *p, unsigned routes)
{
	char labels[LABELS];
	expo_head(e, family(METRIC_HTTP_DURATION));
	for (unsigned r = 0; r <= routes; r++) {
		struct hist_sum h = {.count = 0};
		struct traces t = {p, r};
		for (unsigned s = SLOT_API0; s < SLOT_COUNT; s++)
			hist_merge(&p->worker[s].stats.http_hist[r], &p->worker[s].stats.http_sum[r], &h);
		route_labels(r, labels);
		if (h.count)
			expo_hist(e, family(METRIC_HTTP_DURATION), labels, &h, newest_trace, &t);
	}
}

static void latencies(struct expo *e, struct plant *p, unsigned routes)
{
	static const struct {
		const char *name;
		double q;
	} quantiles[] = {{"0.5", 0.5}, {"0.95", 0.95}, {"0.99", 0.99}};
	char labels[LABELS];
	int64_t now = clock_mono_us();
	expo_head(e, family(METRIC_HTTP_LATENCY));
	for (unsigned r = 0; r <= routes; r++) {
		struct hist_sum h = {.count = 0};
		for (unsigned s = SLOT_API0; s < SLOT_COUNT; s++)
			stats_recent(&p->worker[s].stats, r, now, &h);
		route_labels(r, labels);
		for (size_t i = 0; i < ARRAY_LEN(quantiles) && h.count; i++)
			buf_printf(e->b, "%s{%s,quantile=\"%s\"} %.9g\n", family(METRIC_HTTP_LATENCY)->name, labels,
				   quantiles[i].name, hist_quantile(&h, quantiles[i].q) / 1e9);
	}
}

void metrics_routes(struct expo *e, struct plant *p)
{
	const char *pattern, *method;
	unsigned routes = router_names(0, &pattern, &method);
	requests(e, p, routes);
	durations(e, p, routes);
	latencies(e, p, routes);
}

/* ---- workers ---- */

enum worker_field { READY, START, CPU, RESIDENT, PRIVATE, FDS, FDS_MAX, WAITING, WORKING };

static const struct {
	enum metric_family id;
	bool micro;   /* printed as seconds */
	bool unknown; /* 0 is not known, and no row */
} worker_fields[] = {
	[READY] = {METRIC_WORKER_READY, false, false},	   [START] = {METRIC_WORKER_START, true, true},
	[CPU] = {METRIC_WORKER_CPU, true, false},	   [RESIDENT] = {METRIC_WORKER_RESIDENT, false, true},
	[PRIVATE] = {METRIC_WORKER_PRIVATE, false, true},  [FDS] = {METRIC_WORKER_FDS, false, true},
	[FDS_MAX] = {METRIC_WORKER_FDS_MAX, false, true},  [WAITING] = {METRIC_WORKER_WAITING, false, false},
	[WORKING] = {METRIC_WORKER_WORKING, false, false},
};

static uint64_t worker_value(const struct plant_worker *w, const struct vitals_slot *v, size_t field)
{
	switch (field) {
	case READY: return atomic_load_explicit(&w->ready, memory_order_relaxed);
	case START: return (uint64_t)atomic_load_explicit(&w->started_us, memory_order_relaxed);
	case CPU: return atomic_load_explicit(&w->cpu_us, memory_order_relaxed);
	case RESIDENT: return atomic_load_explicit(&w->resident_bytes, memory_order_relaxed);
	case PRIVATE: return atomic_load_explicit(&w->private_bytes, memory_order_relaxed);
	case FDS: return atomic_load_explicit(&w->fds, memory_order_relaxed);
	case FDS_MAX: return atomic_load_explicit(&w->fds_max, memory_order_relaxed);
	case WAITING: return atomic_load_explicit(&v->waiting, memory_order_relaxed);
	default: return atomic_load_explicit(&v->working, memory_order_relaxed);
	}
}

void metrics_workers(struct expo *e, struct plant *p, const struct vitals_slot *vitals)
{
	for (size_t f = 0; f < ARRAY_LEN(worker_fields); f++) {
		const struct metric *m = family(worker_fields[f].id);
		expo_head(e, m);
		for (unsigned s = 0; s < SLOT_COUNT; s++) {
			const struct plant_worker *w = &p->worker[s];
			char name[24], labels[LABELS];
			if (!atomic_load_explicit(&w->pid, memory_order_relaxed))
				continue;
			uint64_t v = worker_value(w, &vitals[s], f);
			snprintf(labels, sizeof(labels), "worker=\"%s\",role=\"%s\"", worker_slot_name(s, name),
				 worker_rows[worker_role_of_slot(s)].name);
			if (!v && worker_fields[f].unknown)
				continue;
			(worker_fields[f].micro ? expo_us : expo_u64)(e, m, labels, v);
		}
	}
}
