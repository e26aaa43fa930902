/* Quantiles, axes, and the curve in a terminal. */
#include "tune_plot.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "util.h"

#define ROWS 12	  /* of the curve, the lowest is the axis' end */
#define MARGIN 8  /* columns left of the curve */
#define WIDEST 96 /* columns; a wider curve shows no more */

static int ascending(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
	return (x > y) - (x < y);
}

int64_t tune_quantile(int64_t *v, size_t n, double share)
{
	if (!n)
		return 0;
	qsort(v, n, sizeof(*v), ascending);
	size_t rank = (size_t)ceil(share * (double)n - 1e-9);
	return v[rank == 0 ? 0 : rank > n ? n - 1 : rank - 1];
}

/* ---- axes ---- */

/* The i-th of …, 1, 2, 5, 10, 20, 50, … */
static double round_figure(int i)
{
	static const double of[] = {1, 2, 5};
	int decade = (int)floor(i / 3.0);
	return of[i - 3 * decade] * pow(10, decade);
}

void tune_axis_time(const struct tune_plot *p, struct tune_axis *a)
{
	double least = INFINITY, most = 1;
	int i = 0;
	for (size_t k = 0; k < p->n; k++) {
		double us = p->v[k].us > 1 ? p->v[k].us : 1; /* the clock's step */
		least = us < least ? us : least;
		most = us > most ? us : most;
	}
	while (round_figure(i + 1) <= least && i < 60)
		i++;
	a->n = 0;
	do
		a->ticks[a->n++] = round_figure(i);
	while ((a->n < 2 || round_figure(i) < most) && ++i && a->n < ARRAY_LEN(a->ticks));
	a->low = a->ticks[0];
	a->high = a->ticks[a->n - 1];
}

void tune_axis_recall(const struct tune_plot *p, struct tune_axis *a)
{
	static const double steps[] = {0.01, 0.02, 0.05, 0.1, 0.2};
	double least = p->wanted < 1 ? p->wanted : 1;
	size_t k = 0;
	for (size_t i = 0; i < p->n; i++)
		least = p->v[i].recall < least ? p->v[i].recall : least;
	while (k + 1 < ARRAY_LEN(steps) && (1 - least) / steps[k] > 5)
		k++;
	size_t n = (size_t)ceil((1 - least) / steps[k] - 1e-9);
	a->n = n ? n + 1 : 2;
	for (size_t i = 0; i < a->n; i++)
		a->ticks[i] = 1 - (double)(a->n - 1 - i) * steps[k];
	a->low = a->ticks[0];
	a->high = 1;
}

double tune_axis_at(const struct tune_axis *a, double x, bool logarithmic)
{
	double at = logarithmic ? log((x > 1 ? x : 1) / a->low) / log(a->high / a->low)
				: (x - a->low) / (a->high - a->low);
	return at < 0 ? 0 : at > 1 ? 1 : at;
}

/* ---- the terminal ---- */

struct sheet {
	int columns;
	char cell[ROWS][WIDEST + 1];
};

static int column_of(const struct sheet *s, const struct tune_axis *time, double us)
{
	return (int)lround(tune_axis_at(time, us, true) * (s->columns - 1));
}

static int row_of(const struct tune_axis *recall, double r)
{
	return ROWS - 1 - (int)lround(tune_axis_at(recall, r, false) * (ROWS - 1));
}

/* Behind the dot, or before it at the right edge; only where nothing is yet. */
static void write_label(struct sheet *s, int row, int column, const char *label)
{
	int n = (int)strlen(label), at = column + 2 + n <= s->columns ? column + 2 : column - 1 - n;
	if (at < 0)
		return;
	for (int i = -1; i <= n; i++) {
		int k = at + i;
		if (k >= 0 && k < s->columns && k != column && !strchr(" -", s->cell[row][k]))
			return;
	}
	memcpy(&s->cell[row][at], label, (size_t)n);
}

static void fill(struct sheet *s, const struct tune_plot *p, const struct tune_axis *time,
		 const struct tune_axis *recall)
{
	for (int r = 0; r < ROWS; r++) {
		memset(s->cell[r], ' ', (size_t)s->columns);
		s->cell[r][s->columns] = '\0';
	}
	memset(s->cell[row_of(recall, p->wanted)], '-', (size_t)s->columns);
	for (int best = 0; best < 2; best++)
		for (size_t i = 0; i < p->n; i++)
			if (p->v[i].best == best)
				s->cell[row_of(recall, p->v[i].recall)][column_of(s, time, p->v[i].us)] =
					best		? '*'
					: p->v[i].aside ? '+'
							: 'o';
	for (int best = 1; best >= 0; best--)
		for (size_t i = 0; i < p->n; i++)
			if (p->v[i].best == best)
				write_label(s, row_of(recall, p->v[i].recall), column_of(s, time, p->v[i].us),
					    p->v[i].label);
}

static void write_row(const struct sheet *s, int row, FILE *out, const char *mark, const char *plain)
{
	int last = s->columns;
	while (last && s->cell[row][last - 1] == ' ')
		last--;
	for (int i = 0; i < last; i++) {
		if (s->cell[row][i] == '*')
			fprintf(out, "%s*%s", mark, plain);
		else
			putc(s->cell[row][i], out);
	}
	putc('\n', out);
}

/* Figures that would touch the one before are left out. */
static void write_times(const struct sheet *s, const struct tune_axis *time, FILE *out)
{
	char line[MARGIN + WIDEST + 24], figure[24];
	int used = 0;
	memset(line, ' ', sizeof(line));
	for (size_t i = 0; i < time->n; i++) {
		int n = snprintf(figure, sizeof(figure), "%.0f", time->ticks[i]);
		int at = MARGIN + column_of(s, time, time->ticks[i]) - n / 2;
		if (used && at < used + 2)
			continue;
		memcpy(line + at, figure, (size_t)n);
		used = at + n;
	}
	fprintf(out, "%.*s\n", used, line);
}

void tune_plot_text(const struct tune_plot *p, FILE *out, int columns, const char *mark, const char *plain)
{
	struct tune_axis time, recall;
	struct sheet s = {.columns = (columns > WIDEST ? WIDEST : columns < 40 ? 40 : columns) - MARGIN - 4};
	size_t tick;
	tune_axis_time(p, &time);
	tune_axis_recall(p, &recall);
	fill(&s, p, &time, &recall);
	fputs("recall\n", out);
	for (int r = 0; r < ROWS; r++) {
		bool named = false;
		for (tick = 0; tick < recall.n && !named; tick++)
			named = row_of(&recall, recall.ticks[tick]) == r;
		if (named)
			fprintf(out, "%5.2f +|", recall.ticks[tick - 1]);
		else
			fputs("       |", out);
		write_row(&s, r, out, mark, plain);
	}
	fputs("       +", out);
	for (int i = 0; i < s.columns; i++)
		putc('-', out);
	putc('\n', out);
	write_times(&s, &time, out);
	fprintf(out, "%*s\n", MARGIN + s.columns, "microseconds for the vectors, p50");
}
