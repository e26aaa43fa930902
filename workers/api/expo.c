#include "expo.h"

#include <stdlib.h>
#include <strings.h>

#define OPEN_METRICS "application/openmetrics-text"
#define LABELS_MAX 512
#define ANY_TEXT                                                                                                       \
	"text/"                                                                                                        \
	"*"
#define ANY                                                                                                            \
	"*"                                                                                                            \
	"/"                                                                                                            \
	"*"

const char *expo_content_type(bool open_metrics)
{
	return open_metrics ? OPEN_METRICS "; version=1.0.0; charset=utf-8"
			    : "text/plain; version=0.0.4; charset=utf-8";
}

/* ---- what the client wants ---- */

static struct span trim(struct span s)
{
	while (s.len && (*s.p == ' ' || *s.p == '\t'))
		s = (struct span){s.p + 1, s.len - 1};
	while (s.len && (s.p[s.len - 1] == ' ' || s.p[s.len - 1] == '\t'))
		s.len--;
	return s;
}

/* Up to the separator, which is taken away too. */
static struct span part(struct span *left, char separator)
{
	const char *at = left->len ? memchr(left->p, separator, left->len) : NULL;
	struct span s = {left->p, at ? (size_t)(at - left->p) : left->len};
	*left = at ? (struct span){at + 1, left->len - s.len - 1} : (struct span){NULL, 0};
	return trim(s);
}

static bool is(struct span s, const char *word) { return s.len == strlen(word) && strncasecmp(s.p, word, s.len) == 0; }

/* "0.75" as 750; what is no weight is 0. */
static unsigned weight(struct span v)
{
	unsigned q = 0, digit = 1000;
	for (size_t i = 0; i < v.len && i < 5; i++) {
		if (i == 1 ? v.p[i] != '.' : v.p[i] < '0' || v.p[i] > '9')
			return 0;
		if (i != 1) {
			q += (unsigned)(v.p[i] - '0') * digit;
			digit /= 10;
		}
	}
	return q < 1000 ? q : 1000;
}

bool expo_wants_open_metrics(struct span accept)
{
	unsigned open = 0, classic = 0, exact = 0; /* exact: how exactly the classic one is named */
	while (accept.len) {
		struct span range = part(&accept, ','), type = part(&range, ';');
		unsigned q = 1000, how = is(type, "text/plain") ? 3 : is(type, ANY_TEXT) ? 2 : is(type, ANY) ? 1 : 0;
		bool ours = is(type, OPEN_METRICS);
		while (range.len) {
			struct span p = part(&range, ';'), name = part(&p, '=');
			struct span v = p.len > 1 && *p.p == '"' ? (struct span){p.p + 1, p.len - 2} : trim(p);
			if (is(name, "q"))
				q = weight(v);
			else if (is(name, "version") && !is(v, "1.0.0") && !is(v, "0.0.1"))
				ours = false; /* the two differ in nothing that is used here */
		}
		if (ours && q > open)
			open = q;
		if (how >= exact && how) {
			classic = how > exact || q > classic ? q : classic;
			exact = how;
		}
	}
	return open && open >= classic;
}

/* ---- families and samples ---- */

static size_t family_len(const struct expo *e, const struct metric *m)
{
	size_t n = strlen(m->name), tail = strlen("_total");
	bool counter = strcmp(m->type, "counter") == 0;
	return e->open_metrics && counter && n > tail && strcmp(m->name + n - tail, "_total") == 0 ? n - tail : n;
}

void expo_head(struct expo *e, const struct metric *m)
{
	int n = (int)family_len(e, m);
	buf_printf(e->b, "# HELP %.*s %s\n# TYPE %.*s %s\n", n, m->name, m->help, n, m->name, m->type);
}

static void name(struct expo *e, const struct metric *m, const char *suffix, const char *labels)
{
	buf_printf(e->b, *labels ? "%s%s{%s} " : "%s%s%s ", m->name, suffix, labels);
}

void expo_u64(struct expo *e, const struct metric *m, const char *labels, uint64_t v)
{
	name(e, m, "", labels);
	buf_printf(e->b, "%llu\n", (unsigned long long)v);
}

void expo_i64(struct expo *e, const struct metric *m, const char *labels, int64_t v)
{
	name(e, m, "", labels);
	buf_printf(e->b, "%lld\n", (long long)v);
}

void expo_us(struct expo *e, const struct metric *m, const char *labels, uint64_t us)
{
	name(e, m, "", labels);
	buf_printf(e->b, "%llu.%06llu\n", (unsigned long long)us / 1000000, (unsigned long long)us % 1000000);
}

void expo_one(struct expo *e, enum metric_family id, uint64_t v)
{
	expo_head(e, &metrics_families[id]);
	expo_u64(e, &metrics_families[id], "", v);
}

void expo_one_us(struct expo *e, enum metric_family id, uint64_t us)
{
	expo_head(e, &metrics_families[id]);
	expo_us(e, &metrics_families[id], "", us);
}

/* ---- histograms ---- */

static void exemplar(struct expo *e, expo_trace_fn *trace, void *arg, unsigned bucket)
{
	struct expo_trace t;
	if (!e->open_metrics || !trace || !trace(arg, bucket, &t))
		return;
	buf_adds(e->b, " # {trace_id=\"");
	for (size_t i = 0; i < sizeof(t.id); i++)
		buf_printf(e->b, "%02x", t.id[i]);
	buf_printf(e->b, "\"} %.9g %lld.%03lld", t.value, (long long)t.at_us / 1000000,
		   (long long)t.at_us / 1000 % 1000);
}

static void bucket_line(struct expo *e, const struct metric *m, const char *labels, const char *le, uint64_t n)
{
	char all[LABELS_MAX];
	snprintf(all, sizeof(all), "%s%sle=\"%s\"", labels, *labels ? "," : "", le);
	name(e, m, "_bucket", all);
	buf_printf(e->b, "%llu", (unsigned long long)n);
}

void expo_hist(struct expo *e, const struct metric *m, const char *labels, const struct hist_sum *h,
	       expo_trace_fn *trace, void *arg)
{
	uint64_t n = 0;
	unsigned i = 0;
	char le[32];
	for (unsigned k = 0; k < hist_edges(m->unit); k++) {
		uint64_t edge = hist_edge(m->unit, k);
		while (hist_upper(i) <= edge) /* the last edge is that of the last bucket but one, or less */
			n += h->n[i++];
		snprintf(le, sizeof(le), "%.11g", (double)edge / hist_scale(m->unit));
		bucket_line(e, m, labels, le, n);
		exemplar(e, trace, arg, k);
		buf_addc(e->b, '\n');
	}
	bucket_line(e, m, labels, "+Inf", h->count);
	exemplar(e, trace, arg, hist_edges(m->unit));
	buf_addc(e->b, '\n');
	name(e, m, "_sum", labels);
	if (m->unit == HIST_SECONDS)
		buf_printf(e->b, "%llu.%09llu\n", (unsigned long long)h->sum / 1000000000,
			   (unsigned long long)h->sum % 1000000000);
	else
		buf_printf(e->b, "%llu\n", (unsigned long long)(h->sum >> HIST_RECORD_BITS));
	name(e, m, "_count", labels);
	buf_printf(e->b, "%llu\n", (unsigned long long)h->count);
}

void expo_end(struct expo *e)
{
	if (e->open_metrics)
		buf_adds(e->b, "# EOF\n");
}
