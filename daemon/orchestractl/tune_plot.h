/* Figures of a measurement, and curves of recall against time: for a terminal, and as SVG. */
#ifndef ORC_TUNE_PLOT_H
#define ORC_TUNE_PLOT_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

/* The smallest of v[0…n-1] that at least `share` (0…1) of them do not exceed. Sorts v; 0 when there are none. */
int64_t tune_quantile(int64_t *v, size_t n, double share);

struct tune_dot {
	double us, recall; /* 0…1 */
	bool best;	   /* the one that is recommended */
	bool aside;	   /* not of the curve: asked for otherwise */
	char label[24];
};
struct tune_plot {
	const char *title;
	const struct tune_dot *v;
	size_t n;
	double wanted; /* recall; drawn as a line */
};

/* What both drawings show: time by logarithm between round figures, recall between round figures and 1. */
struct tune_axis {
	double low, high;
	double ticks[32];
	size_t n;
};
void tune_axis_time(const struct tune_plot *p, struct tune_axis *a);
void tune_axis_recall(const struct tune_plot *p, struct tune_axis *a);
/* Where x lies between the ends of the axis: 0…1, also for an x beyond them. */
double tune_axis_at(const struct tune_axis *a, double x, bool logarithmic);

/* `columns` wide at most, 40 at least. `mark` and `plain` stand around the best dot and end what `mark` began: "" for none. */
void tune_plot_text(const struct tune_plot *p, FILE *out, int columns, const char *mark, const char *plain);
/* A whole document, with colours for light and dark pages. False: it could not be written. */
bool tune_plot_svg(const struct tune_plot *p, FILE *out);
#endif
