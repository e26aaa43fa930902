/* orchestractl top: what a frame is made of, and how it is drawn. */
#ifndef ORC_TOP_H
#define ORC_TOP_H
#include "scrape.h"

#define TOP_HISTORY 240 /* rates that are remembered: as many as the widest line shows */

struct top_reading {
	struct scrape *metrics;
	json_t *status, *ready; /* of the admin API and /readyz; may be NULL */
};
struct top {
	struct ctl *c;
	struct top_reading last, now; /* last.metrics NULL: rates are not known yet */
	double history[TOP_HISTORY];  /* requests a second, the youngest last */
	size_t nhistory;
	int rows, columns;
};

/* The frame as lines of text for the terminal, or for a file. Appends. */
void top_draw(const struct top *t, struct buf *out);
/* The same as JSON, for scripts; the caller's reference. */
json_t *top_json(const struct top *t);
/* What clients asked for, a second: without probes, metrics and administration. NAN: not known yet. */
double top_requests(const struct top *t, const char *status);
#endif
