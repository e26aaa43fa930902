/* What was measured, as a table, a curve, JSON or SVG; and what follows from it. */
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <unistd.h>

#include "live.h"
#include "tune.h"
#include "tune_plot.h"

#define COLUMNS 80 /* of a curve that goes elsewhere than to a terminal */

const struct tune_point *tune_report_best(const struct tune *t)
{
	for (size_t i = 0; i < t->npoints; i++)
		if (!t->points[i].probes && tune_recall(&t->points[i]) >= t->wanted)
			return &t->points[i];
	return NULL;
}

static unsigned percent(const struct tune_point *p) { return (unsigned)lround(p->recall * 100); }
/* What the key would be set to. */
static unsigned value_of(const struct tune_point *p) { return p->effort ? p->effort : percent(p); }

const struct tune_point *tune_report_configured(const struct tune *t)
{
	for (size_t i = 0; i < t->npoints; i++)
		if (!t->points[i].probes && value_of(&t->points[i]) == t->configured)
			return &t->points[i];
	return NULL;
}

static double mean(uint64_t sum, const struct tune_point *p) { return (double)sum / (double)p->answers; }

/* ---- for people ---- */

void tune_report_name(const struct tune_point *p, char out[24])
{
	if (p->effort)
		snprintf(out, 24, "%u", p->effort);
	else if (p->probes)
		snprintf(out, 24, "%u list%s", p->probes, p->probes == 1 ? "" : "s");
	else
		snprintf(out, 24, "%.2f", p->recall);
}

static void show_table(const struct tune *t, const struct tune_point *best)
{
	const struct ctl *c = t->c;
	char name[24];
	printf("%s%11s  %6s  %7s %6s  %7s %6s  %6s %8s %8s%s\n", output_colour(c, C_DIM), "TARGET", "RECALL", "VECTORS",
	       "P99", "REQUEST", "P99", "LISTS", "CODES", "COMPARED", output_colour(c, C_PLAIN));
	for (size_t i = 0; i < t->npoints; i++) {
		const struct tune_point *p = &t->points[i];
		tune_report_name(p, name);
		printf("%s%11s  %6.4f  %7lld %6lld  %7lld %6lld  %6.0f %8.0f %8.0f%s\n",
		       output_colour(c, p == best ? C_GREEN : C_PLAIN), name, tune_recall(p), (long long)p->vector_p50,
		       (long long)p->vector_p99, (long long)p->request_p50, (long long)p->request_p99, mean(p->read, p),
		       mean(p->codes, p), mean(p->compared, p), output_colour(c, C_PLAIN));
	}
	puts("VECTORS, REQUEST: microseconds for comparing vectors and for the whole request, median and 99th percentile.\n"
	     "LISTS, CODES, COMPARED: lists read, codes looked at and vectors compared for a question, on average.\n");
}

static void plot_of(const struct tune *t, const struct tune_point *best, struct tune_plot *p, struct tune_dot *dots,
		    char title[160])
{
	for (size_t i = 0; i < t->npoints; i++) {
		const struct tune_point *x = &t->points[i];
		dots[i] = (struct tune_dot){.us = (double)x->vector_p50,
					    .recall = tune_recall(x),
					    .best = x == best,
					    .aside = x->probes != 0};
		tune_report_name(x, dots[i].label);
	}
	snprintf(title, 160, "Recall@%zu of %.64s, %llu memories, %zu questions%s", t->limit, t->c->namespace,
		 (unsigned long long)t->memories, t->n,
		 !t->points[0].effort	 ? ""
		 : t->server.index.lists ? ", pgvector IVFFlat"
					 : ", pgvector HNSW");
	*p = (struct tune_plot){.title = title, .v = dots, .n = t->npoints, .wanted = t->wanted};
}

void tune_report_curve(const struct tune *t, const struct tune_point *best)
{
	struct tune_dot dots[TUNE_AIMS_MAX];
	struct tune_plot p;
	char title[160];
	plot_of(t, best, &p, dots, title);
	tune_plot_text(&p, stdout, t->c->width ? t->c->width : COLUMNS, output_colour(t->c, C_GREEN),
		       output_colour(t->c, C_PLAIN));
	printf("o %s, %s* recommended%s%s, --- recall asked for: %.4g\n\n", t->points[0].effort ? t->key : "target",
	       output_colour(t->c, C_GREEN), output_colour(t->c, C_PLAIN),
	       t->points[t->npoints - 1].probes ? ", + number of lists" : "", t->wanted);
}

void tune_report_recommend(const struct tune *t, const struct tune_point *best)
{
	const struct tune_point *is = tune_report_configured(t);
	printf("%sRecommended: %s = %u%s", output_colour(t->c, C_BOLD), t->key, value_of(best),
	       output_colour(t->c, C_PLAIN));
	if (is == best)
		printf(", as it is: %.4f of the nearest are found in %lld µs (p50).\n", tune_recall(best),
		       (long long)best->vector_p50);
	else if (is)
		printf(": %.4f of the nearest are found in %lld µs (p50), instead of %.4f in %lld µs with %u as it is.\n",
		       tune_recall(best), (long long)best->vector_p50, tune_recall(is), (long long)is->vector_p50,
		       t->configured);
	else
		printf(": %.4f of the nearest are found in %lld µs (p50).\n", tune_recall(best),
		       (long long)best->vector_p50);
}

/* Where lists tell little apart, reading them is work for nothing. By a tenth, for less is chance. */
static void show_all_is_quicker(const struct tune *t, const struct tune_point *best)
{
	for (size_t i = 0; i < t->npoints; i++) {
		const struct tune_point *p = &t->points[i];
		if (!p->probes && percent(p) == 100 && p->vector_p50 * 10 < best->vector_p50 * 9)
			printf("Comparing all vectors is quicker here: vectors.recall = 100 takes %lld µs and misses none.\n",
			       (long long)p->vector_p50);
	}
}

/* ---- for programs ---- */

json_t *tune_report_json_times(int64_t p50, int64_t p99)
{
	return json_pack("{s:I,s:I}", "p50", (json_int_t)p50, "p99", (json_int_t)p99);
}

static json_t *json_point(const struct tune_point *p)
{
	return json_pack("{s:o,s:o,s:f,s:o,s:o,s:f,s:f,s:f,s:I}", "target",
			 p->probes ? json_null() : json_real(p->recall), "probes",
			 p->probes ? json_integer(p->probes) : json_null(), "recall", tune_recall(p), "vector_us",
			 tune_report_json_times(p->vector_p50, p->vector_p99), "request_us",
			 tune_report_json_times(p->request_p50, p->request_p99), "read", mean(p->read, p), "codes",
			 mean(p->codes, p), "compared", mean(p->compared, p), "answers", (json_int_t)p->answers);
}

static void print_json(const struct tune *t, const struct tune_point *best)
{
	json_t *points = json_array();
	for (size_t i = 0; i < t->npoints; i++)
		if (t->points[i].answers)
			json_array_append_new(points, json_point(&t->points[i]));
	json_t *o = json_pack("{s:s,s:I,s:s,s:I,s:I,s:I,s:i,s:f,s:o,s:o,s:o}", "namespace", t->c->namespace, "memories",
			      (json_int_t)t->memories, "tier", "index", "lists", (json_int_t)t->lists, "questions",
			      (json_int_t)t->n, "limit", (json_int_t)t->limit, "rounds", (int)t->rounds, "wanted",
			      t->wanted, "configured", t->configured ? json_integer(t->configured) : json_null(),
			      "points", points, "recommended",
			      best ? json_pack("{s:s,s:i,s:f}", "key", "vectors.recall", "value", (int)percent(best),
					       "recall", tune_recall(best))
				   : json_null());
	AN(o);
	json_dumpf(o, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9));
	putchar('\n');
	json_decref(o);
}

/* ---- in all ---- */

void tune_report_show(const struct tune *t, const struct tune_point *best)
{
	if (t->c->json) {
		print_json(t, best);
		return;
	}
	printf("Namespace %s: %llu memories, %llu list%s; %zu questions, %zu answers wanted to each, %u rounds\n\n",
	       t->c->namespace, (unsigned long long)t->memories, (unsigned long long)t->lists, t->lists == 1 ? "" : "s",
	       t->n, t->limit, t->rounds);
	show_table(t, best);
	tune_report_curve(t, best);
	if (best) {
		tune_report_recommend(t, best);
		show_all_is_quicker(t, best);
	} else {
		printf("No target finds %.4g of the nearest: memories were written meanwhile. Measure again.\n",
		       t->wanted);
	}
	if (t->lists_moved)
		puts("The index made its lists anew while this was measured; measure again.");
}

void tune_report_nothing(const struct tune *t)
{
	if (t->c->json)
		print_json(t, NULL);
	else
		printf("All vectors of namespace %s are compared (%llu memories), so every search finds the nearest: there is "
		       "nothing to tune.\n",
		       t->c->namespace, (unsigned long long)t->memories);
}

static int draw(const struct tune *t, const struct tune_point *best)
{
	struct tune_dot dots[TUNE_AIMS_MAX];
	struct tune_plot p;
	char title[160];
	FILE *f = fopen(t->svg, "we");
	bool ok = f != NULL;
	plot_of(t, best, &p, dots, title);
	if (f) {
		ok = tune_plot_svg(&p, f);
		ok = fclose(f) == 0 && ok;
	}
	if (!ok)
		fprintf(stderr, "orchestractl: cannot write %s: %s\n", t->svg, strerror(errno));
	return ok ? CTL_OK : CTL_FAILED;
}

/* A question that is not asked of anybody is answered with no. */
static bool agreed(const struct tune *t, const struct tune_point *best)
{
	char answer[16] = "";
	if (t->yes)
		return true;
	if (!isatty(STDIN_FILENO)) {
		fputs("orchestractl: --apply: nothing was changed: there is no terminal to ask at; say --yes\n",
		      stderr);
		return false;
	}
	fprintf(stderr, "Set %s from %u to %u on the running daemon? [y/N] ", t->key, t->configured, value_of(best));
	return fgets(answer, sizeof(answer), stdin) && (*answer == 'y' || *answer == 'Y');
}

static int apply(const struct tune *t, const struct tune_point *best)
{
	int code;
	char value[12], reason[240], where[96] = "";
	if (!agreed(t, best))
		return CTL_FAILED;
	snprintf(value, sizeof(value), "%u", value_of(best));
	if (best->effort)
		snprintf(where, sizeof(where), ", the store's %s", t->server.index.name);
	snprintf(reason, sizeof(reason), "tune vectors on namespace %.64s%s: recall %.4f in %lld us", t->c->namespace,
		 where, tune_recall(best), (long long)best->vector_p50);
	json_t *o = live_patch(
		t->c, json_pack("{s:{s:s} s:s s:s}", "set", t->key, value, "action", "tune", "reason", reason), &code);
	if (!o)
		return code;
	live_say_audit(o);
	json_decref(o);
	fprintf(stderr,
		"%s is %s now, and is tried: orchestractl config save keeps it, orchestractl unset %s takes it back.\n",
		t->key, value, t->key);
	if (!best->effort)
		fputs("What else shapes the index (vectors.flat_rows, vectors.raw, vectors.exact_bytes) needs a restart: write it "
		      "into the file.\n",
		      stderr);
	return CTL_OK;
}

static int put_into_force(const struct tune *t, const struct tune_point *best)
{
	if (!best) {
		fputs("orchestractl: --apply: there is nothing to apply\n", stderr);
		return CTL_FAILED;
	}
	if (value_of(best) == t->configured) {
		fprintf(stderr, "%s is %u already: nothing to apply.\n", t->key, t->configured);
		return CTL_OK;
	}
	return apply(t, best);
}

int tune_report_end(const struct tune *t, const struct tune_point *best)
{
	int code = t->svg ? draw(t, best) : CTL_OK;
	if (t->apply && code == CTL_OK)
		code = put_into_force(t, best);
	return code == CTL_OK && !best ? CTL_FAILED : code;
}
