/* The curve as an SVG document. */
#include <math.h>

#include "tune_plot.h"

#define WIDTH 640
#define HEIGHT 400
#define LEFT 64
#define RIGHT 24
#define TOP 48
#define BOTTOM 56

static const char head[] =
	"<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 640 400\" width=\"640\" height=\"400\" role=\"img\">\n"
	"<style>\n"
	"svg{background:#fff;color:#1f2328;font:12px system-ui,sans-serif}\n"
	"text{fill:currentColor}.grid{stroke:#d0d7de}.axis{stroke:currentColor}\n"
	".line{fill:none;stroke:#0969da;stroke-width:2}.dot{fill:#0969da}.best{fill:#bc4c00}.aside{fill:#6e7781}\n"
	".wanted{stroke:#bc4c00;stroke-dasharray:6 4}\n"
	"@media (prefers-color-scheme:dark){svg{background:#0d1117;color:#e6edf3}.grid{stroke:#30363d}\n"
	".line{stroke:#58a6ff}.dot{fill:#58a6ff}.best{fill:#ffa657}.wanted{stroke:#ffa657}}\n"
	"</style>\n";

static double x_of(const struct tune_axis *a, double us)
{
	return LEFT + tune_axis_at(a, us, true) * (WIDTH - LEFT - RIGHT);
}

static double y_of(const struct tune_axis *a, double recall)
{
	return HEIGHT - BOTTOM - tune_axis_at(a, recall, false) * (HEIGHT - TOP - BOTTOM);
}

static void escape(FILE *out, const char *text)
{
	for (; *text; text++) {
		if (*text == '<')
			fputs("&lt;", out);
		else if (*text == '&')
			fputs("&amp;", out);
		else if ((unsigned char)*text < 0x20)
			putc(' ', out);
		else
			putc(*text, out);
	}
}

static void write_axes(FILE *out, const struct tune_axis *time, const struct tune_axis *recall)
{
	double before = -100;
	for (size_t i = 0; i < time->n; i++) {
		double x = x_of(time, time->ticks[i]);
		fprintf(out, "<line class=\"grid\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%d\" y2=\"%d\"/>\n", x, x, TOP,
			HEIGHT - BOTTOM);
		if (x - before < 40)
			continue;
		fprintf(out, "<text x=\"%.1f\" y=\"%d\" text-anchor=\"middle\">%.0f</text>\n", x, HEIGHT - BOTTOM + 18,
			time->ticks[i]);
		before = x;
	}
	for (size_t i = 0; i < recall->n; i++) {
		double y = y_of(recall, recall->ticks[i]);
		fprintf(out, "<line class=\"grid\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/>\n", LEFT,
			WIDTH - RIGHT, y, y);
		fprintf(out, "<text x=\"%d\" y=\"%.1f\" text-anchor=\"end\">%.2f</text>\n", LEFT - 8, y + 4,
			recall->ticks[i]);
	}
	fprintf(out, "<path class=\"axis\" fill=\"none\" d=\"M%d %dV%dH%d\"/>\n", LEFT, TOP, HEIGHT - BOTTOM,
		WIDTH - RIGHT);
	fprintf(out, "<text x=\"%d\" y=\"%d\" text-anchor=\"middle\">microseconds for the vectors, p50</text>\n",
		(LEFT + WIDTH - RIGHT) / 2, HEIGHT - 16);
	fprintf(out, "<text transform=\"translate(18 %d) rotate(-90)\" text-anchor=\"middle\">recall</text>\n",
		(TOP + HEIGHT - BOTTOM) / 2);
}

static void write_dot(FILE *out, const struct tune_dot *d, double x, double y)
{
	fprintf(out, "<circle class=\"%s\" cx=\"%.1f\" cy=\"%.1f\" r=\"%d\"><title>",
		d->best	   ? "best"
		: d->aside ? "aside"
			   : "dot",
		x, y, d->best ? 6 : 4);
	escape(out, d->label);
	fprintf(out, ": recall %.4f, %.0f microseconds</title></circle>\n", d->recall, d->us);
}

static void write_label(FILE *out, const struct tune_dot *d, double x, double y)
{
	bool right = x > WIDTH - RIGHT - 60;
	fprintf(out, "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">", x + (right ? -9 : 9), y + 14,
		right ? "end" : "start");
	escape(out, d->label);
	fputs("</text>\n", out);
}

/* Would the label lie upon that of the best dot, or of one before? */
static bool covered(const struct tune_plot *p, size_t which, const struct tune_axis *time,
		    const struct tune_axis *recall)
{
	const struct tune_dot *d = &p->v[which];
	for (size_t i = 0; i < p->n && !d->best; i++)
		if ((i < which || p->v[i].best) && fabs(x_of(time, p->v[i].us) - x_of(time, d->us)) < 48 &&
		    fabs(y_of(recall, p->v[i].recall) - y_of(recall, d->recall)) < 14)
			return true;
	return false;
}

static void write_dots(FILE *out, const struct tune_plot *p, const struct tune_axis *time,
		       const struct tune_axis *recall)
{
	double y = y_of(recall, p->wanted);
	fprintf(out, "<line class=\"wanted\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/>\n", LEFT, WIDTH - RIGHT, y,
		y);
	fputs("<polyline class=\"line\" points=\"", out);
	for (size_t i = 0; i < p->n; i++)
		if (!p->v[i].aside)
			fprintf(out, "%.1f,%.1f ", x_of(time, p->v[i].us), y_of(recall, p->v[i].recall));
	fputs("\"/>\n", out);
	for (int best = 0; best < 2; best++) /* the best lies on top */
		for (size_t i = 0; i < p->n; i++)
			if (p->v[i].best == best)
				write_dot(out, &p->v[i], x_of(time, p->v[i].us), y_of(recall, p->v[i].recall));
	for (size_t i = 0; i < p->n; i++)
		if (!covered(p, i, time, recall))
			write_label(out, &p->v[i], x_of(time, p->v[i].us), y_of(recall, p->v[i].recall));
}

bool tune_plot_svg(const struct tune_plot *p, FILE *out)
{
	struct tune_axis time, recall;
	tune_axis_time(p, &time);
	tune_axis_recall(p, &recall);
	fputs(head, out);
	fputs("<title>", out);
	escape(out, p->title);
	fprintf(out, "</title>\n<text x=\"%d\" y=\"26\" font-size=\"15\" font-weight=\"600\">", LEFT);
	escape(out, p->title);
	fputs("</text>\n", out);
	write_axes(out, &time, &recall);
	write_dots(out, p, &time, &recall);
	fputs("</svg>\n", out);
	return !ferror(out);
}
