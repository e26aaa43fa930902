/* What /metrics says, and what happened between two readings of it. */
#ifndef ORC_SCRAPE_H
#define ORC_SCRAPE_H
#include "ctl.h"

struct scrape_row {
	struct span name, labels; /* labels: what stands between the braces */
	double value;
};
struct scrape {
	int64_t at_us; /* clock_mono_us() when it was read */
	char *text;    /* rows point there */
	struct scrape_row *v;
	size_t n;
};

/* Takes the text over, which is NUL-terminated. Lines that are no rows are left out. */
struct scrape *scrape_parse(char *text, int64_t at_us) must_check;
/* Asks the daemon. NULL: said why on standard error. */
struct scrape *scrape_read(struct ctl *c) must_check;
void scrape_free(struct scrape **s);

/* The value of a label as it is written; an empty span without it. */
struct span scrape_label(const struct scrape_row *r, const char *label);
/* Rows of a metric one after the other; `after` NULL: the first. NULL: there are no more. */
const struct scrape_row *scrape_next(const struct scrape *s, const char *metric, const struct scrape_row *after);
/* Sum of the rows of a metric, of those with this label if `label` is not NULL; NAN when there are none. */
double scrape_sum(const struct scrape *s, const char *metric, const char *label, const char *value);

/* Is it about probes, metrics or administration, not about what clients ask for? By its label "route". */
bool scrape_is_noise(const struct scrape_row *r);

/* Which rows of a histogram or counter are meant: those that have these values of labels (NULL: any), and are not skipped. */
struct scrape_pick {
	const char *label[3];
	struct span value[3];
	bool (*skip)(const struct scrape_row *r); /* NULL: none is */
};
/* How much a counter rose a second. NAN: it is not there, or went back, as when the daemon began anew. */
double scrape_rate(const struct scrape *from, const struct scrape *to, const char *metric, const struct scrape_pick *p);
/* The quantile q of what a classic histogram counted meanwhile, as Prometheus estimates it: linear within a bucket.
 * `metric` without "_bucket". NAN: nothing was counted. */
double scrape_quantile(const struct scrape *from, const struct scrape *to, const char *metric,
		       const struct scrape_pick *p, double q);
#endif
