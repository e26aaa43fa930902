/* What a change does to requests, errors and latency: two readings of /metrics make a window. Only what clients ask for
 * counts: probes, metrics and administration are our own noise. */
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "clock.h"
#include "live.h"

#define REQUESTS "orchestra_http_requests_total"
#define DURATION "orchestra_http_request_duration_seconds"

/* There is nothing to add up where nothing was counted yet; what went back was a daemon that started anew. */
static double rate(const struct scrape *a, const struct scrape *b, const char *metric, const char *status)
{
	struct scrape_pick p = {
		.label = {status ? "status" : NULL}, .value = {SPAN(status ? status : "")}, .skip = scrape_is_noise};
	return isnan(scrape_sum(b, metric, p.label[0], status)) ? 0 : scrape_rate(a, b, metric, &p);
}

void effect_between(const struct scrape *a, const struct scrape *b, struct effect *e_r)
{
	const struct scrape_pick ours = {.skip = scrape_is_noise};
	double count = rate(a, b, DURATION "_count", NULL), errors = rate(a, b, REQUESTS, "5xx");
	*e_r = (struct effect){.latency = scrape_next(b, DURATION "_sum", NULL),
			       .quantiles = scrape_next(b, DURATION "_bucket", NULL),
			       .seconds = (double)(b->at_us - a->at_us) / 1e6,
			       .requests = rate(a, b, REQUESTS, NULL),
			       .errors = isnan(errors) ? 0 : errors};
	e_r->valid = e_r->seconds > 0 && !isnan(e_r->requests) && !isnan(count);
	if (!e_r->valid)
		return;
	e_r->mean = count > 0 ? rate(a, b, DURATION "_sum", NULL) / count : NAN;
	e_r->p50 = scrape_quantile(a, b, DURATION, &ours, 0.5);
	e_r->p95 = scrape_quantile(a, b, DURATION, &ours, 0.95);
	e_r->p99 = scrape_quantile(a, b, DURATION, &ours, 0.99);
}

void effect_watch(struct ctl *c, const char *what, int64_t us, struct effect *e_r)
{
	enum { STEP_US = 100000 };
	bool bar = isatty(STDERR_FILENO) && !c->json;
	*e_r = (struct effect){.valid = false};
	struct scrape *a = scrape_read(c), *b = NULL;
	for (int64_t began = clock_mono_us(), gone = 0; a && gone < us; gone = clock_mono_us() - began) {
		output_bar(what, (uint64_t)gone, (uint64_t)us, bar);
		usleep((useconds_t)(us - gone < STEP_US ? us - gone : STEP_US));
	}
	if (a && bar)
		fputs("\r\033[K", stderr);
	b = a ? scrape_read(c) : NULL;
	if (a && b)
		effect_between(a, b, e_r);
	scrape_free(&a);
	scrape_free(&b);
}

/* ---- showing ---- */

static void show_time(double s)
{
	if (isnan(s))
		printf("%12s", "-");
	else if (s < 1e-3)
		printf("%9.0f µs", s * 1e6);
	else if (s < 1)
		printf("%9.2f ms", s * 1e3);
	else
		printf("%9.2f s ", s);
}

static void row(const char *name, const struct effect *a, const struct effect *b, size_t at, bool time)
{
	printf("%-12s", name);
	for (int i = 0; i < 2; i++) {
		const struct effect *e = i ? b : a;
		double v;
		memcpy(&v, (const char *)e + at, sizeof(v));
		if (!e->valid)
			printf("%12s", "?");
		else if (time)
			show_time(v);
		else
			printf("%12.1f", v);
	}
	putchar('\n');
}

void effect_show(const struct ctl *c, const struct effect *before, const struct effect *after)
{
	printf("%s%-12s%12s%12s%s\n", output_colour(c, C_DIM), "", "BEFORE", "AFTER", output_colour(c, C_PLAIN));
	row("requests/s", before, after, offsetof(struct effect, requests), false);
	row("errors/s", before, after, offsetof(struct effect, errors), false);
	if (before->latency || after->latency)
		row("mean", before, after, offsetof(struct effect, mean), true);
	if (before->quantiles || after->quantiles) {
		row("p50", before, after, offsetof(struct effect, p50), true);
		row("p95", before, after, offsetof(struct effect, p95), true);
		row("p99", before, after, offsetof(struct effect, p99), true);
	}
	if (after->valid && !after->latency)
		puts("(this daemon exposes no latency of requests)");
}

static void add_number(json_t *o, const char *key, double v)
{
	json_object_set_new(o, key, isfinite(v) ? json_real(v) : json_null());
}

json_t *effect_json(const struct effect *e)
{
	json_t *o = e->valid ? json_object() : json_null();
	if (!e->valid)
		return o;
	add_number(o, "seconds", e->seconds);
	add_number(o, "requests_per_s", e->requests);
	add_number(o, "errors_per_s", e->errors);
	if (e->latency)
		add_number(o, "mean_s", e->mean);
	if (e->quantiles) {
		add_number(o, "p50_s", e->p50);
		add_number(o, "p95_s", e->p95);
		add_number(o, "p99_s", e->p99);
	}
	return o;
}
