/* What a change does to requests, errors and latency: two readings of /metrics make a window. Only what clients ask for
 * counts: probes, metrics and administration are our own noise. */
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "clock.h"
#include "live.h"

#define REQUESTS "orchestra_http_requests_total"
#define DURATION "orchestra_http_request_duration_seconds"
#define BUCKETS_MAX 512

struct bucket {
	double le, n; /* cumulative, over all routes */
};
struct effect_sample {
	int64_t at_us;
	double requests, errors, sum, count;
	bool latency;
	size_t nbuckets;
	struct bucket bucket[BUCKETS_MAX];
};

/* ---- reading ---- */

/* The value of a label inside {…}; an empty span without it. */
static struct span label(struct span labels, const char *name)
{
	size_t n = strlen(name);
	for (const char *p = labels.p, *end = labels.p + labels.len; p && p + n + 2 < end;) {
		const char *eq = memchr(p, '=', (size_t)(end - p)), *close = eq ? eq + 2 : NULL;
		while (close && close < end && *close != '"')
			close += *close == '\\' ? 2 : 1;
		if (!close || close >= end)
			break;
		if ((size_t)(eq - p) == n && memcmp(p, name, n) == 0)
			return (struct span){eq + 2, (size_t)(close - eq) - 2};
		p = close + 1;
		p += p < end && *p == ',';
	}
	return (struct span){NULL, 0};
}

static bool is_noise(struct span route)
{
	static const char *const noise[] = {"/metrics", "/livez", "/readyz", "/startupz", "/v1/admin/", "/admin"};
	for (size_t i = 0; i < ARRAY_LEN(noise); i++)
		if (route.len >= strlen(noise[i]) && memcmp(route.p, noise[i], strlen(noise[i])) == 0)
			return true;
	return false;
}

static void add_bucket(struct effect_sample *s, double le, double n)
{
	size_t i = 0;
	while (i < s->nbuckets && s->bucket[i].le < le)
		i++;
	if (i < s->nbuckets && s->bucket[i].le <= le) {
		s->bucket[i].n += n;
		return;
	}
	if (s->nbuckets == BUCKETS_MAX)
		return;
	memmove(s->bucket + i + 1, s->bucket + i, (s->nbuckets - i) * sizeof(*s->bucket));
	s->bucket[i] = (struct bucket){le, n};
	s->nbuckets++;
}

static double number(struct span s)
{
	char text[40];
	if (s.len >= 4 && memcmp(s.p, "+Inf", 4) == 0)
		return INFINITY;
	snprintf(text, sizeof(text), "%.*s", (int)(s.len < sizeof(text) ? s.len : sizeof(text) - 1), s.p);
	return strtod(text, NULL);
}

static void take_line(struct effect_sample *s, struct span name, struct span labels, double v)
{
	struct span status = label(labels, "status");
	if (is_noise(label(labels, "route")))
		return;
	if (span_eq(name, SPAN_LIT(REQUESTS))) {
		s->requests += v;
		s->errors += status.len && *status.p == '5' ? v : 0;
	} else if (span_eq(name, SPAN_LIT(DURATION "_sum"))) {
		s->sum += v;
		s->latency = true;
	} else if (span_eq(name, SPAN_LIT(DURATION "_count"))) {
		s->count += v;
	} else if (span_eq(name, SPAN_LIT(DURATION "_bucket"))) {
		add_bucket(s, number(label(labels, "le")), v);
	}
}

struct effect_sample *effect_parse(const char *text, int64_t at_us)
{
	struct effect_sample *s = util_zalloc(sizeof(*s));
	s->at_us = at_us;
	for (const char *p = text; *p;) {
		size_t len = strcspn(p, "\n"), name = strcspn(p, "{ \n");
		struct span labels = {NULL, 0};
		const char *v = p + name;
		if (*v == '{') {
			const char *close = memchr(v, '}', len - name);
			/* A route has braces of its own: the last one is meant, before an exemplar. */
			const char *mark = memmem(p, len, " # ", 3);
			size_t to = mark ? (size_t)(mark - p) : len;
			close = close ? memrchr(p, '}', to) : NULL;
			labels = close ? (struct span){v + 1, (size_t)(close - v) - 1} : labels;
			v = close ? close + 1 : p + len;
		}
		if (*p != '#' && name < len)
			take_line(s, (struct span){p, name}, labels, strtod(v, NULL));
		p += len + (p[len] == '\n');
	}
	return s;
}

struct effect_sample *effect_sample(struct ctl *c)
{
	struct answer a;
	struct effect_sample *s = NULL;
	if (client_request(c, "GET", "/metrics", NULL, &a) == CTL_OK) {
		if (a.status == 200)
			s = effect_parse(a.body.p, clock_mono_us());
		else
			(void)output_problem(&a);
	}
	client_free(&a);
	return s;
}

void effect_sample_free(struct effect_sample **s)
{
	free(*s);
	*s = NULL;
}

/* ---- a window ---- */

static double count_at(const struct effect_sample *s, size_t i, double le)
{
	/* Buckets may appear between two readings: what was not there was 0. */
	if (i < s->nbuckets && s->bucket[i].le >= le && s->bucket[i].le <= le)
		return s->bucket[i].n;
	for (size_t k = 0; k < s->nbuckets; k++)
		if (s->bucket[k].le >= le && s->bucket[k].le <= le)
			return s->bucket[k].n;
	return 0;
}

/* As Prometheus does: linear within the bucket. */
static double quantile(const struct effect_sample *a, const struct effect_sample *b, double q)
{
	double total = b->nbuckets ? b->bucket[b->nbuckets - 1].n -
					     count_at(a, b->nbuckets - 1, b->bucket[b->nbuckets - 1].le)
				   : 0;
	double below = 0, from = 0;
	if (total <= 0)
		return NAN;
	for (size_t i = 0; i < b->nbuckets; i++) {
		double le = b->bucket[i].le, n = b->bucket[i].n - count_at(a, i, le);
		if (n >= q * total && n > below)
			return isinf(le) ? from : from + (le - from) * (q * total - below) / (n - below);
		below = n > below ? n : below;
		from = isinf(le) ? from : le;
	}
	return from;
}

/* A counter that went back was a daemon that started anew: there is no difference. */
void effect_between(const struct effect_sample *a, const struct effect_sample *b, struct effect *e_r)
{
	double seconds = (double)(b->at_us - a->at_us) / 1e6, count = b->count - a->count;
	*e_r = (struct effect){.valid = seconds > 0 && b->requests >= a->requests && count >= 0,
			       .latency = b->latency,
			       .quantiles = b->nbuckets > 0,
			       .seconds = seconds};
	if (!e_r->valid)
		return;
	e_r->requests = (b->requests - a->requests) / seconds;
	e_r->errors = (b->errors - a->errors) / seconds;
	e_r->mean = count > 0 ? (b->sum - a->sum) / count : NAN;
	e_r->p50 = quantile(a, b, 0.5);
	e_r->p95 = quantile(a, b, 0.95);
	e_r->p99 = quantile(a, b, 0.99);
}

void effect_watch(struct ctl *c, const char *what, int64_t us, struct effect *e_r)
{
	enum { STEP_US = 100000 };
	bool bar = isatty(STDERR_FILENO) && !c->json;
	*e_r = (struct effect){.valid = false};
	struct effect_sample *a = effect_sample(c), *b = NULL;
	for (int64_t began = clock_mono_us(), gone = 0; a && gone < us; gone = clock_mono_us() - began) {
		output_bar(what, (uint64_t)gone, (uint64_t)us, bar);
		usleep((useconds_t)(us - gone < STEP_US ? us - gone : STEP_US));
	}
	if (a && bar)
		fputs("\r\033[K", stderr);
	b = a ? effect_sample(c) : NULL;
	if (a && b)
		effect_between(a, b, e_r);
	effect_sample_free(&a);
	effect_sample_free(&b);
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
