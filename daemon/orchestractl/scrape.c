#include "scrape.h"

#include <math.h>
#include <stdlib.h>

#include "clock.h"

#define BUCKETS_MAX 512

/* ---- reading ---- */

/* A route has braces of its own, so the last one of a line is meant; behind " # " stands an exemplar, which has some, too. */
static bool parse_row(const char *line, size_t len, struct scrape_row *r)
{
	size_t name = strcspn(line, "{ \n");
	const char *mark = memmem(line, len, " # ", 3), *end = mark ? mark : line + len, *value = line + name;
	*r = (struct scrape_row){.name = {line, name}};
	if (*line == '#' || name == 0 || name >= len)
		return false;
	if (*value == '{') {
		const char *close = memrchr(line, '}', (size_t)(end - line));
		if (!close)
			return false;
		r->labels = (struct span){value + 1, (size_t)(close - value) - 1};
		value = close + 1;
	}
	char *after;
	r->value = strtod(value, &after);
	return after != value && after <= end;
}

struct scrape *scrape_parse(char *text, int64_t at_us)
{
	struct scrape *s = util_zalloc(sizeof(*s));
	size_t cap = 0;
	s->at_us = at_us;
	s->text = text;
	for (const char *p = text; *p;) {
		size_t len = strcspn(p, "\n");
		if (s->n == cap) {
			cap = cap ? 2 * cap : 512;
			s->v = util_realloc(s->v, cap * sizeof(*s->v));
		}
		s->n += parse_row(p, len, &s->v[s->n]);
		p += len + (p[len] == '\n');
	}
	return s;
}

struct scrape *scrape_read(struct ctl *c)
{
	struct answer a;
	struct scrape *s = NULL;
	if (client_request(c, "GET", "/metrics", NULL, &a) == CTL_OK) {
		if (a.status == 200) {
			s = scrape_parse(a.body.p, clock_mono_us());
			a.body = (struct buf){0};
		} else {
			(void)output_problem(&a);
		}
	}
	client_free(&a);
	return s;
}

void scrape_free(struct scrape **sp)
{
	struct scrape *s = *sp;
	if (s) {
		free(s->text);
		free(s->v);
	}
	free(s);
	*sp = NULL;
}

/* ---- rows ---- */

struct span scrape_label(const struct scrape_row *r, const char *label)
{
	size_t n = strlen(label);
	const char *p = r->labels.p, *end = p + r->labels.len;
	while (p && p < end) {
		const char *eq = memchr(p, '=', (size_t)(end - p)), *close = eq ? eq + 2 : end;
		while (close < end && *close != '"')
			close += *close == '\\' ? 2 : 1;
		if (close >= end)
			break;
		if ((size_t)(eq - p) == n && memcmp(p, label, n) == 0)
			return (struct span){eq + 2, (size_t)(close - eq) - 2};
		p = close + 1;
		p += p < end && *p == ',';
	}
	return (struct span){NULL, 0};
}

const struct scrape_row *scrape_next(const struct scrape *s, const char *metric, const struct scrape_row *after)
{
	for (const struct scrape_row *r = after ? after + 1 : s->v, *end = s->v + s->n; r && r < end; r++)
		if (span_eq(r->name, SPAN(metric)))
			return r;
	return NULL;
}

double scrape_sum(const struct scrape *s, const char *metric, const char *label, const char *value)
{
	double sum = 0;
	bool any = false;
	for (const struct scrape_row *r = NULL; (r = scrape_next(s, metric, r));) {
		if (label && !span_eq(scrape_label(r, label), SPAN(value)))
			continue;
		sum += r->value;
		any = true;
	}
	return any ? sum : NAN;
}

bool scrape_is_noise(const struct scrape_row *r)
{
	static const char *const noise[] = {"/metrics", "/livez", "/readyz", "/startupz", "/v1/admin/", "/admin"};
	struct span route = scrape_label(r, "route");
	for (size_t i = 0; i < ARRAY_LEN(noise); i++)
		if (route.len >= strlen(noise[i]) && memcmp(route.p, noise[i], strlen(noise[i])) == 0)
			return true;
	return false;
}

/* ---- between two readings ---- */

static bool picked(const struct scrape_row *r, const struct scrape_pick *p)
{
	for (size_t i = 0; p && i < ARRAY_LEN(p->label); i++)
		if (p->label[i] && !span_eq(scrape_label(r, p->label[i]), p->value[i]))
			return false;
	return !p || !p->skip || !p->skip(r);
}

/* The same row at another time: most often at the same place. What was not there was 0. */
static double value_in(const struct scrape *s, const struct scrape_row *r, size_t place)
{
	for (size_t i = 0; i <= s->n; i++) {
		const struct scrape_row *x = i ? &s->v[i - 1] : place < s->n ? &s->v[place] : NULL;
		if (x && span_eq(x->name, r->name) && span_eq(x->labels, r->labels))
			return x->value;
	}
	return 0;
}

double scrape_rate(const struct scrape *from, const struct scrape *to, const char *metric, const struct scrape_pick *p)
{
	double rise = 0, seconds = (double)(to->at_us - from->at_us) / 1e6;
	bool any = false;
	for (const struct scrape_row *r = NULL; (r = scrape_next(to, metric, r));) {
		if (!picked(r, p))
			continue;
		rise += r->value - value_in(from, r, (size_t)(r - to->v));
		any = true;
	}
	return any && rise >= 0 && seconds > 0 ? rise / seconds : NAN;
}

struct bucket {
	double le, n; /* cumulative over all picked rows */
};

static size_t add_bucket(struct bucket *v, size_t n, double le, double count)
{
	size_t i = 0;
	while (i < n && v[i].le < le)
		i++;
	if (i < n && v[i].le <= le) {
		v[i].n += count;
		return n;
	}
	if (n == BUCKETS_MAX)
		return n;
	memmove(v + i + 1, v + i, (n - i) * sizeof(*v));
	v[i] = (struct bucket){le, count};
	return n + 1;
}

double scrape_quantile(const struct scrape *from, const struct scrape *to, const char *metric,
		       const struct scrape_pick *p, double q)
{
	struct bucket v[BUCKETS_MAX];
	char name[128];
	size_t n = 0;
	snprintf(name, sizeof(name), "%s_bucket", metric);
	for (const struct scrape_row *r = NULL; (r = scrape_next(to, name, r));) {
		struct span le = scrape_label(r, "le");
		if (le.len && picked(r, p))
			n = add_bucket(v, n, strtod(le.p, NULL), r->value - value_in(from, r, (size_t)(r - to->v)));
	}
	double total = n ? v[n - 1].n : 0, below = 0, least = 0;
	for (size_t i = 0; i < n && total > 0; i++) {
		if (v[i].n >= q * total && v[i].n > below)
			return isinf(v[i].le) ? least
					      : least + (v[i].le - least) * (q * total - below) / (v[i].n - below);
		below = v[i].n > below ? v[i].n : below;
		least = isinf(v[i].le) ? least : v[i].le;
	}
	return NAN;
}
