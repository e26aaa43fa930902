/* A frame of orchestractl top. Figures of a time are those between the last reading and this one; "-" is what is not known,
 * or what nothing was counted for. */
#include <math.h>
#include <stdlib.h>

#include "top.h"

#define DURATION "orchestra_http_request_duration_seconds"
#define ROUTES_MAX 128

/* ---- figures ---- */

static double rate(const struct top *t, const char *metric, const struct scrape_pick *p)
{
	return t->last.metrics ? scrape_rate(t->last.metrics, t->now.metrics, metric, p) : NAN;
}

static double gauge(const struct top *t, const char *metric) { return scrape_sum(t->now.metrics, metric, NULL, NULL); }

static double quantile(const struct top *t, const char *metric, const struct scrape_pick *p, double q)
{
	return t->last.metrics ? scrape_quantile(t->last.metrics, t->now.metrics, metric, p, q) : NAN;
}

double top_requests(const struct top *t, const char *status)
{
	struct scrape_pick p = {
		.label = {status ? "status" : NULL}, .value = {SPAN(status ? status : "")}, .skip = scrape_is_noise};
	double all = rate(t, "orchestra_http_requests_total", &p);
	return isnan(all) && status
		       ? rate(t, "orchestra_http_requests_total", &(struct scrape_pick){.skip = scrape_is_noise}) * 0
		       : all;
}

/* Of what clients ask for. */
static double latency(const struct top *t, double q)
{
	return quantile(t, DURATION, &(struct scrape_pick){.skip = scrape_is_noise}, q);
}

/* Share of hits of a class of the first tier, in percent. */
static double hit_ratio(const struct top *t, const char *cls)
{
	struct scrape_pick p = {.label = {"class", "tier"}, .value = {SPAN(cls), SPAN_LIT("l1")}};
	double hits = rate(t, "orchestra_cache_hits_total", &p), misses = rate(t, "orchestra_cache_misses_total", &p);
	return hits + misses > 0 ? 100 * hits / (hits + misses) : NAN;
}

struct route {
	struct span name, method;
	double rate, errors;
};

static int by_rate(const void *a, const void *b)
{
	double x = ((const struct route *)a)->rate, y = ((const struct route *)b)->rate;
	return (x < y) - (x > y);
}

/* Those that were asked for meanwhile, the busiest first. */
static size_t busy_routes(const struct top *t, struct route *v)
{
	const char *metric = "orchestra_http_requests_total";
	size_t n = 0;
	for (const struct scrape_row *r = NULL; t->last.metrics && (r = scrape_next(t->now.metrics, metric, r));) {
		struct route x = {scrape_label(r, "route"), scrape_label(r, "method"), 0, 0};
		size_t i = n;
		while (i && !(span_eq(v[i - 1].name, x.name) && span_eq(v[i - 1].method, x.method)))
			i--;
		if (i || n == ROUTES_MAX || r->value <= 0)
			continue;
		struct scrape_pick p = {.label = {"route", "method"}, .value = {x.name, x.method}};
		x.rate = rate(t, metric, &p);
		if (x.rate > 0)
			v[n++] = x;
	}
	for (const struct scrape_row *r = NULL; n && (r = scrape_next(t->now.metrics, metric, r));) {
		struct span status = scrape_label(r, "status");
		if (!span_eq(status, SPAN_LIT("5xx")) || r->value <= 0)
			continue;
		for (size_t i = 0; i < n; i++) {
			struct scrape_pick p = {.label = {"route", "method", "status"},
						.value = {v[i].name, v[i].method, status}};
			if (span_eq(v[i].name, scrape_label(r, "route")) &&
			    span_eq(v[i].method, scrape_label(r, "method")))
				v[i].errors = rate(t, metric, &p);
		}
	}
	if (n)
		qsort(v, n, sizeof(*v), by_rate);
	return n;
}

/* ---- text ---- */

static void add_time(struct buf *b, double s)
{
	if (isnan(s))
		buf_printf(b, "%8s", "-");
	else if (s < 1e-3)
		buf_printf(b, "%5.0f µs", s * 1e6);
	else if (s < 1)
		buf_printf(b, "%5.1f ms", s * 1e3);
	else
		buf_printf(b, "%5.1f s ", s);
}

static void add_number(struct buf *b, int width, double v)
{
	if (isnan(v))
		buf_printf(b, "%*s", width, "-");
	else
		buf_printf(b, v < 100 && v > 0 ? "%*.1f" : "%*.0f", width, v);
}

static void add_bytes(struct buf *b, double v)
{
	char text[16] = "-";
	if (!isnan(v))
		output_bytes(v, text);
	buf_adds(b, text);
}

static void add_percent(struct buf *b, const char *what, double v)
{
	if (isnan(v))
		buf_printf(b, "%s -", what);
	else
		buf_printf(b, "%s %.1f %%", what, v);
}

/* Appends a line, cut to the screen: what steers colours takes no column. */
static void end_line(const struct top *t, struct buf *line, struct buf *out)
{
	int column = 0;
	bool whole = t->columns == 0;
	buf_addc(line, '\0');
	for (const char *p = line->p; *p; p++) {
		bool begins = ((unsigned char)*p & 0xc0) != 0x80;
		if (*p == '\033') {
			size_t n = strcspn(p, "m");
			buf_add(out, p, n + 1);
			p += n;
			continue;
		}
		column += begins;
		if (whole || column <= t->columns)
			buf_addc(out, *p);
	}
	buf_addc(out, '\n');
	line->len = 0;
}

static void title(const struct top *t, struct buf *b, const char *text)
{
	buf_printf(b, "%s%-9s%s ", output_colour(t->c, C_DIM), text, output_colour(t->c, C_PLAIN));
}

/* The last requests a second, as high as they were. */
static void add_history(const struct top *t, struct buf *b)
{
	static const char *const bars[] = {" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
	size_t room = t->columns > 12 ? (size_t)t->columns - 11 : 68, n = t->nhistory < room ? t->nhistory : room;
	double most = 0;
	for (size_t i = t->nhistory - n; i < t->nhistory; i++)
		most = t->history[i] > most ? t->history[i] : most;
	buf_adds(b, output_colour(t->c, C_GREEN));
	for (size_t i = t->nhistory - n; i < t->nhistory; i++) {
		double share = most > 0 ? t->history[i] / most : 0;
		buf_adds(b, bars[share > 0 ? 1 + (size_t)(share * 7) : 0]);
	}
	buf_adds(b, output_colour(t->c, C_PLAIN));
}

/* ---- parts of the frame ---- */

static void draw_head(const struct top *t, struct buf *out)
{
	struct buf b = {0};
	const json_t *s = t->now.status;
	const char *state = t->now.ready ? output_str(t->now.ready, "status") : "?", *tcp = output_str(s, "tcp");
	bool ready = strcmp(state, "ready") == 0;
	size_t i;
	json_t *what, *degraded = json_object_get(t->now.ready, "degraded");
	buf_printf(&b, "%sAI Orchestra %s%s  %s%s%s", output_colour(t->c, C_BOLD), output_str(s, "version"),
		   output_colour(t->c, C_PLAIN), output_colour(t->c, ready ? C_GREEN : C_RED), state,
		   output_colour(t->c, C_PLAIN));
	json_array_foreach (degraded, i, what)
		buf_printf(&b, "%s%s%s%s", i ? ", " : "  degraded: ", output_colour(t->c, C_YELLOW),
			   json_string_value(what), output_colour(t->c, C_PLAIN));
	if (json_object_get(s, "uptime_seconds")) {
		char up[16];
		output_duration(json_number_value(json_object_get(s, "uptime_seconds")), up);
		buf_printf(&b, "  up %s", up);
	}
	buf_printf(&b, "  %s", *tcp ? tcp : output_str(s, "unix"));
	end_line(t, &b, out);
	buf_free(&b);
}

static void draw_requests(const struct top *t, struct buf *out)
{
	struct buf b = {0};
	title(t, &b, "REQUESTS");
	add_number(&b, 0, top_requests(t, NULL));
	buf_adds(&b, "/s  errors ");
	double errors = top_requests(t, "5xx");
	buf_adds(&b, output_colour(t->c, errors > 0 ? C_RED : C_PLAIN));
	add_number(&b, 0, errors);
	buf_printf(&b, "/s%s  p50 ", output_colour(t->c, C_PLAIN));
	add_time(&b, latency(t, 0.5));
	buf_adds(&b, "  p95 ");
	add_time(&b, latency(t, 0.95));
	buf_adds(&b, "  p99 ");
	add_time(&b, latency(t, 0.99));
	end_line(t, &b, out);
	title(t, &b, "");
	add_history(t, &b);
	end_line(t, &b, out);
	title(t, &b, "NETWORK");
	buf_printf(&b, "%.0f connections, in ", gauge(t, "orchestra_http_connections"));
	add_bytes(&b, rate(t, "orchestra_http_received_bytes_total", NULL));
	buf_adds(&b, "/s, out ");
	add_bytes(&b, rate(t, "orchestra_http_sent_bytes_total", NULL));
	buf_adds(&b, "/s, refused ");
	add_number(&b, 0, rate(t, "orchestra_http_rejected_total", NULL));
	buf_adds(&b, "/s");
	end_line(t, &b, out);
	buf_free(&b);
}

static void draw_writes(const struct top *t, struct buf *out)
{
	struct buf b = {0};
	double lag = gauge(t, "orchestra_journal_lag_records"), dead = gauge(t, "orchestra_dead_letters");
	title(t, &b, "WRITES");
	add_number(&b, 0, rate(t, "orchestra_journal_records_total", NULL));
	buf_adds(&b, "/s  acknowledged p99 ");
	add_time(&b, quantile(t, "orchestra_write_ack_duration_seconds", NULL, 0.99));
	buf_adds(&b, "  groups ");
	add_number(&b, 0, rate(t, "orchestra_journal_syncs_total", NULL));
	buf_adds(&b, "/s  flushes ");
	add_number(&b, 0, rate(t, "orchestra_store_flushes_total", NULL));
	buf_adds(&b, "/s");
	end_line(t, &b, out);
	title(t, &b, "STORE");
	double age = gauge(t, "orchestra_journal_lag_seconds");
	if (lag > 0 && age >= 1) {
		char since[16];
		output_duration(age, since);
		buf_printf(&b, "%slacks %.0f records%s, the oldest since %s", output_colour(t->c, C_YELLOW), lag,
			   output_colour(t->c, C_PLAIN), since);
	} else {
		buf_adds(&b, "has everything that is older than a second");
	}
	buf_adds(&b, ";  journal ");
	add_bytes(&b, gauge(t, "orchestra_journal_held_bytes"));
	buf_adds(&b, " of ");
	add_bytes(&b, gauge(t, "orchestra_journal_quota_bytes"));
	if (dead > 0)
		buf_printf(&b, ";  %s%.0f dead letters%s", output_colour(t->c, C_RED), dead,
			   output_colour(t->c, C_PLAIN));
	end_line(t, &b, out);
	buf_free(&b);
}

static void draw_tiers(const struct top *t, struct buf *out)
{
	struct buf b = {0};
	title(t, &b, "CACHE");
	add_percent(&b, "hits: memories", hit_ratio(t, "memory"));
	add_percent(&b, ", searches", hit_ratio(t, "search"));
	add_percent(&b, ", vectors", hit_ratio(t, "vector"));
	buf_adds(&b, ";  ");
	add_bytes(&b, gauge(t, "orchestra_cache_bytes"));
	buf_adds(&b, " of ");
	add_bytes(&b, gauge(t, "orchestra_cache_capacity_bytes"));
	end_line(t, &b, out);
	title(t, &b, "SEARCHES");
	add_number(&b, 0, rate(t, "orchestra_searches_total", NULL));
	buf_printf(&b, "/s among %.0f vectors, ", gauge(t, "orchestra_vectors"));
	add_bytes(&b, gauge(t, "orchestra_vectors_bytes"));
	if (gauge(t, "orchestra_vectors_spilled_bytes") > 0) {
		buf_printf(&b, " and on disk ");
		add_bytes(&b, gauge(t, "orchestra_vectors_spilled_bytes"));
	}
	buf_printf(&b, ", and %.0f texts, ", gauge(t, "orchestra_words"));
	add_bytes(&b, gauge(t, "orchestra_words_bytes"));
	end_line(t, &b, out);
	buf_free(&b);
}

static void draw_dependencies(const struct top *t, struct buf *out)
{
	static const char *const states[] = {"closed", "half-open", "open"};
	struct buf b = {0};
	double targets = 0, failing = 0;
	title(t, &b, "BREAKERS");
	for (const struct scrape_row *r = NULL; (r = scrape_next(t->now.metrics, "orchestra_breaker_state", r));) {
		struct span name = scrape_label(r, "dependency");
		size_t state = r->value > 1 ? 2 : r->value > 0;
		buf_printf(&b, "%.*s %s%s%s  ", (int)name.len, name.p, output_colour(t->c, state ? C_RED : C_GREEN),
			   states[state], output_colour(t->c, C_PLAIN));
	}
	for (const struct scrape_row *r = NULL; (r = scrape_next(t->now.metrics, "orchestra_ping_up", r)); targets++)
		failing += r->value <= 0;
	if (targets > 0)
		buf_printf(&b, " targets %.0f, %s%.0f failing%s", targets,
			   output_colour(t->c, failing > 0 ? C_RED : C_PLAIN), failing, output_colour(t->c, C_PLAIN));
	end_line(t, &b, out);
	buf_free(&b);
}

/* ---- tables ---- */

static const json_t *worker_of(const json_t *status, const char *name)
{
	size_t i;
	json_t *w;
	json_array_foreach (json_object_get(status, "workers"), i, w)
		if (strcmp(output_str(w, "name"), name) == 0)
			return w;
	return NULL;
}

/* In percent of one processor, between the two readings. A successor begins at its own 0. */
static double processor(const struct top *t, const json_t *now, const json_t *last)
{
	double seconds = t->last.metrics ? (double)(t->now.metrics->at_us - t->last.metrics->at_us) / 1e6 : 0;
	bool same = json_integer_value(json_object_get(now, "pid")) == json_integer_value(json_object_get(last, "pid"));
	double from = last ? json_number_value(json_object_get(last, "cpu_seconds")) : NAN;
	double used = json_number_value(json_object_get(now, "cpu_seconds")) - from;
	return seconds > 0 && same && used >= 0 ? 100 * used / seconds : NAN;
}

static void draw_process(const struct top *t, const json_t *o, const json_t *last, const char *name, struct buf *out)
{
	struct buf b = {0};
	const char *state = output_str(o, "state");
	char n[3][24];
	bool well = strcmp(state, "ready") == 0 || strcmp(state, "running") == 0;
	buf_printf(&b, "%-12s %8lld  %s%-11s%s", name, (long long)json_integer_value(json_object_get(o, "pid")),
		   output_colour(t->c, well ? C_GREEN : C_YELLOW), state, output_colour(t->c, C_PLAIN));
	add_number(&b, 7, processor(t, o, last));
	char rss[16] = "-";
	if (json_object_get(o, "rss_bytes"))
		output_bytes(json_number_value(json_object_get(o, "rss_bytes")), rss);
	buf_printf(&b, " %10s %8s %8s %9s", rss, output_count(o, "waiting", n[0]), output_count(o, "working", n[1]),
		   output_count(o, "restarts", n[2]));
	end_line(t, &b, out);
	buf_free(&b);
}

static void draw_processes(const struct top *t, struct buf *out)
{
	struct buf b = {0};
	size_t i;
	json_t *w;
	if (!t->now.status)
		return;
	end_line(t, &b, out);
	buf_printf(&b, "%s%-12s %8s  %-11s%7s %10s %8s %8s %9s%s", output_colour(t->c, C_DIM), "PROCESS", "PID",
		   "STATE", "CPU %", "MEMORY", "WAITING", "WORKING", "RESTARTS", output_colour(t->c, C_PLAIN));
	end_line(t, &b, out);
	draw_process(t, t->now.status, t->last.status, "orchestrad", out);
	json_array_foreach (json_object_get(t->now.status, "workers"), i, w)
		draw_process(t, w, worker_of(t->last.status, output_str(w, "name")), output_str(w, "name"), out);
	buf_free(&b);
}

static void draw_routes(const struct top *t, struct buf *out)
{
	struct route v[ROUTES_MAX];
	struct buf b = {0};
	size_t n = busy_routes(t, v);
	if (!n)
		return;
	end_line(t, &b, out);
	buf_printf(&b, "%s%-34s %-7s%9s %9s %8s %8s %8s%s", output_colour(t->c, C_DIM), "ROUTE", "METHOD", "ASKED/s",
		   "ERRORS/s", "P50", "P95", "P99", output_colour(t->c, C_PLAIN));
	end_line(t, &b, out);
	for (size_t i = 0; i < n; i++) {
		struct scrape_pick p = {.label = {"route", "method"}, .value = {v[i].name, v[i].method}};
		buf_printf(&b, "%-34.*s %-7.*s", (int)v[i].name.len, v[i].name.p, (int)v[i].method.len, v[i].method.p);
		add_number(&b, 9, v[i].rate);
		buf_addc(&b, ' ');
		buf_adds(&b, output_colour(t->c, v[i].errors > 0 ? C_RED : C_PLAIN));
		add_number(&b, 9, v[i].errors);
		buf_adds(&b, output_colour(t->c, C_PLAIN));
		for (size_t k = 0; k < 3; k++) {
			static const double q[] = {0.5, 0.95, 0.99};
			buf_addc(&b, ' ');
			add_time(&b, quantile(t, DURATION, &p, q[k]));
		}
		end_line(t, &b, out);
	}
	buf_free(&b);
}

void top_draw(const struct top *t, struct buf *out)
{
	draw_head(t, out);
	draw_requests(t, out);
	draw_writes(t, out);
	draw_tiers(t, out);
	draw_dependencies(t, out);
	draw_processes(t, out);
	draw_routes(t, out);
}

/* ---- JSON ---- */

static void set(json_t *o, const char *key, double v)
{
	json_object_set_new(o, key, isfinite(v) ? json_real(v) : json_null());
}

json_t *top_json(const struct top *t)
{
	json_t *o = json_object(), *routes = json_array();
	struct route v[ROUTES_MAX];
	size_t n = busy_routes(t, v);
	json_object_set(o, "status", json_object_get(t->now.ready, "status"));
	json_object_set(o, "degraded", json_object_get(t->now.ready, "degraded"));
	set(o, "requests_per_s", top_requests(t, NULL));
	set(o, "errors_per_s", top_requests(t, "5xx"));
	set(o, "p50_s", latency(t, 0.5));
	set(o, "p95_s", latency(t, 0.95));
	set(o, "p99_s", latency(t, 0.99));
	set(o, "connections", gauge(t, "orchestra_http_connections"));
	set(o, "writes_per_s", rate(t, "orchestra_journal_records_total", NULL));
	set(o, "lag_records", gauge(t, "orchestra_journal_lag_records"));
	set(o, "hit_percent", hit_ratio(t, "memory"));
	set(o, "searches_per_s", rate(t, "orchestra_searches_total", NULL));
	for (size_t i = 0; i < n; i++) {
		json_t *r = json_object();
		json_object_set_new(r, "route", json_stringn(v[i].name.p, v[i].name.len));
		json_object_set_new(r, "method", json_stringn(v[i].method.p, v[i].method.len));
		set(r, "requests_per_s", v[i].rate);
		set(r, "errors_per_s", v[i].errors);
		json_array_append_new(routes, r);
	}
	json_object_set_new(o, "routes", routes);
	return o;
}
