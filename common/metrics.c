#include "metrics.h"

#include <string.h>

#include "stats.h"

#define SECONDS HIST_SECONDS
#define RECORDS HIST_RECORDS

const struct metric metrics_families[] = {
#define FAMILY(id, name, type, labels, help) {name, type, labels, help, HIST_SECONDS},
#include "stats.def"
#undef STAT
};
const struct metric metrics_hists[] = {
#define HISTOGRAM(id, name, labels, unit, help) {name, "histogram", labels, help, unit},
#include "stats.def"
#undef STAT
};
const struct metric metrics_stats[] = {
#define STAT(id, name, labels, type, help) {name, type, labels, help, HIST_SECONDS},
#include "stats.def"
#undef STAT
};

static const char intro[] =
	"# Metrics\n\n"
	"Made by `orchestrad --dump-metrics` from [common/stats.def](../common/stats.def), the table that the daemon prints\n"
	"`GET /metrics` from. What to watch, alerts and dashboards: [operations.md](operations.md#metrics).\n\n"
	"Counters and histograms begin at 0 with the daemon and go on when a worker dies, or a live upgrade changes the binary.\n"
	"Metrics of something that is not there (Redis, a fleet, a TLS socket, keep-warm targets) are left out.\n\n"
	"With `Accept: application/openmetrics-text` the answer is in the format of OpenMetrics 1.0.0, and the buckets of\n"
	"`orchestra_http_request_duration_seconds` carry exemplars: the trace id of the last request in each bucket that came\n"
	"with a valid `traceparent`.\n\n";

static const char buckets[] =
	"\n## Buckets\n\n"
	"The daemon counts in buckets of 1/32 to 1/64 of their value, from 1 µs to 68.7 s, and `/metrics` shows them in groups\n"
	"that end at powers of two; their counts are exact. Quantiles of `orchestra_http_request_latency_seconds` come from the\n"
	"fine buckets and are wrong by 1.6 % at most.\n\n"
	"| Histograms of | `le` |\n|---|---|\n";

/* name="value" shows its name only: the values are a list of their own. */
static void write_labels(FILE *out, const struct metric *m, size_t rows)
{
	bool first = true;
	for (const char *p = m->labels; *p;) {
		size_t n = strcspn(p, "=,");
		fprintf(out, "%s`%.*s", first ? "" : ", ", (int)n, p);
		first = false;
		for (size_t i = 0; p[n] == '=' && i < rows; i++) { /* the values of the label, in the metric's rows */
			char key[32];
			snprintf(key, sizeof(key), "%.*s=", (int)n, p);
			const char *v = strstr(m[i].labels, key), *before = i ? strstr(m[i - 1].labels, key) : NULL;
			size_t len = v ? strcspn(v + n + 2, "\"") : 0;
			if (v && !(before && strncmp(before, v, n + 2 + len + 1) == 0))
				fprintf(out, "%s%.*s", i ? "\\|" : "=", (int)len, v + n + 2);
		}
		fputc('`', out);
		p += strcspn(p, ",");
		p += *p == ',';
	}
}

static void write_table(FILE *out, const struct metric *m, size_t n)
{
	for (size_t i = 0, rows; i < n; i += rows) {
		for (rows = 1; i + rows < n && strcmp(m[i].name, m[i + rows].name) == 0; rows++)
			;
		fprintf(out, "| `%s` | %s | ", m[i].name, m[i].type);
		write_labels(out, &m[i], rows);
		fprintf(out, " | %s |\n", m[i].help);
	}
}

static void write_edges(FILE *out, const char *what, enum hist_unit unit)
{
	fprintf(out, "| %s |", what);
	for (unsigned i = 0; i < hist_edges(unit); i++)
		fprintf(out, "%s %.11g", i ? "," : "", (double)hist_edge(unit, i) / hist_scale(unit));
	fputs(" |\n", out);
}

void metrics_write_manual(FILE *out)
{
	fputs(intro, out);
	fputs("| Metric | Type | Labels | Meaning |\n|---|---|---|---|\n", out);
	write_table(out, metrics_families, METRIC_FAMILIES);
	write_table(out, metrics_hists, HIST_COUNT);
	write_table(out, metrics_stats, STAT_COUNT);
	fputs(buckets, out);
	write_edges(out, "durations, seconds", HIST_SECONDS);
	write_edges(out, "numbers", HIST_RECORDS);
}
