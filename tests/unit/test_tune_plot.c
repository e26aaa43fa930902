/* Figures and curves of "tune". Broken code that this would catch: quantiles that are one off or of an unsorted list, axes that leave a
 * dot out or have no length, a curve wider than the terminal, a dot in the wrong row, a document that a name breaks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "tune_plot.h"
#include "util.h"

static void quantiles_are_by_nearest_rank(void **state)
{
	(void)state;
	int64_t v[100], two[] = {9, 3}, one = 7;
	for (int i = 0; i < 100; i++)
		v[i] = (i * 37) % 100 + 1; /* 1…100 in disorder */
	assert_int_equal(tune_quantile(v, 100, 0.5), 50);
	assert_int_equal(tune_quantile(v, 100, 0.99), 99);
	assert_int_equal(tune_quantile(v, 100, 1), 100);
	assert_int_equal(tune_quantile(v, 100, 0), 1);
	assert_int_equal(tune_quantile(v, 10, 0.99), 10);
	assert_int_equal(tune_quantile(two, 2, 0.5), 3);
	assert_int_equal(tune_quantile(&one, 1, 0.99), 7);
	assert_int_equal(tune_quantile(NULL, 0, 0.5), 0);
}

static void axes_hold_every_dot(void **state)
{
	static const struct {
		double us[2], recall[2], wanted, low, high, from;
	} cases[] = {
		{{41, 380}, {0.912, 1}, 0.98, 20, 500, 0.9},
		{{50, 100}, {0.5, 0.9}, 0.98, 50, 100, 0.5},
		{{0, 0}, {1, 1}, 1, 1, 2, 0.99},
		{{1e6, 3e6}, {0, 1}, 0.98, 1e6, 5e6, 0},
		{{200, 200}, {0.999, 0.9995}, 0.5, 200, 500, 0.5},
	};
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct tune_dot d[2] = {{.us = cases[i].us[0], .recall = cases[i].recall[0]},
					{.us = cases[i].us[1], .recall = cases[i].recall[1]}};
		struct tune_plot p = {.title = "", .v = d, .n = 2, .wanted = cases[i].wanted};
		struct tune_axis time, recall;
		tune_axis_time(&p, &time);
		tune_axis_recall(&p, &recall);
		assert_float_equal(time.low, cases[i].low, 1e-6);
		assert_float_equal(time.high, cases[i].high, 1e-6);
		assert_float_equal(recall.low, cases[i].from, 1e-6);
		assert_float_equal(recall.high, 1, 0);
		assert_in_range(recall.n, 2, 7);
		for (size_t k = 1; k < recall.n; k++)
			assert_true(recall.ticks[k] > recall.ticks[k - 1]);
		for (size_t k = 1; k < time.n; k++)
			assert_true(time.ticks[k] > time.ticks[k - 1]);
	}
}

static void places_are_by_logarithm_and_bounded(void **state)
{
	(void)state;
	struct tune_axis a = {.low = 10, .high = 1000};
	assert_float_equal(tune_axis_at(&a, 100, true), 0.5, 1e-6);
	assert_float_equal(tune_axis_at(&a, 505, false), 0.5, 1e-6);
	assert_float_equal(tune_axis_at(&a, 0, true), 0, 0);
	assert_float_equal(tune_axis_at(&a, 1e9, true), 1, 0);
}

/* ---- drawings ---- */

static char text[16384];

static const char *drawn(const struct tune_plot *p, int columns, const char *mark, const char *plain)
{
	FILE *f = fmemopen(text, sizeof(text), "w");
	assert_non_null(f);
	if (columns)
		tune_plot_text(p, f, columns, mark, plain);
	else
		assert_true(tune_plot_svg(p, f));
	assert_int_equal(fclose(f), 0);
	return text;
}

static size_t count(const char *in, const char *what)
{
	size_t n = 0;
	for (const char *at = in; (at = strstr(at, what)); at += strlen(what))
		n++;
	return n;
}

static const struct tune_dot dots[] = {
	{.us = 10, .recall = 0.9, .label = "0.80"},
	{.us = 100, .recall = 0.95, .label = "0.90", .best = true},
	{.us = 1000, .recall = 1, .label = "1.00"},
	{.us = 20, .recall = 0.93, .label = "8 lists", .aside = true},
};
static const struct tune_plot plot = {.title = "a <b> & \"c\"", .v = dots, .n = ARRAY_LEN(dots), .wanted = 0.95};

static void a_curve_fits_the_terminal(void **state)
{
	(void)state;
	static const int widths[] = {40, 57, 80, 500};
	for (size_t i = 0; i < ARRAY_LEN(widths); i++) {
		char *line, *rest;
		drawn(&plot, widths[i], "", "");
		assert_int_equal(count(text, "*"), 1);
		assert_null(strchr(text, '\033'));
		line = strtok_r(text, "\n", &rest);
		for (; line; line = strtok_r(NULL, "\n", &rest))
			assert_true(strlen(line) <= (size_t)widths[i] && strlen(line) <= 110);
	}
}

static void dots_lie_where_they_belong(void **state)
{
	char *line[32], *rest;
	size_t n = 0;
	(void)state;
	drawn(&plot, 80, "", "");
	for (char *l = strtok_r(text, "\n", &rest); l && n < ARRAY_LEN(line); l = strtok_r(NULL, "\n", &rest))
		line[n++] = l;
	assert_true(n >= 15);
	/* Rows 1…12 are 1.00 down to 0.90. */
	assert_memory_equal(line[1], " 1.00 +|", 8);
	assert_memory_equal(line[12], " 0.90 +|", 8);
	assert_int_equal(line[12][8], 'o');		     /* the quickest, at the left */
	assert_int_equal(line[1][strlen(line[1]) - 1], 'o'); /* the slowest, at the right */
	assert_non_null(strstr(line[1], "1.00 o"));
	for (size_t i = 1; i < 13; i++) {
		assert_int_equal(strchr(line[i], '*') != NULL, i == 6 || i == 7 ? strchr(line[i], '-') != NULL : 0);
		if (strchr(line[i], '*'))
			assert_int_equal(strchr(line[i], '*') - line[i] - 8, 34); /* the middle of 68 */
	}
	assert_non_null(strstr(line[14], "10"));
	assert_non_null(strstr(line[14], "1000"));
}

static void the_best_is_marked_and_the_mark_ends(void **state)
{
	(void)state;
	assert_non_null(strstr(drawn(&plot, 80, "<M>", "<P>"), "<M>*<P>"));
	assert_int_equal(count(text, "<M>"), 1);
}

static void a_document_is_whole(void **state)
{
	(void)state;
	drawn(&plot, 0, NULL, NULL);
	assert_int_equal(count(text, "<svg "), 1);
	assert_string_equal(text + strlen(text) - 7, "</svg>\n");
	assert_int_equal(count(text, "a &lt;b> &amp; \"c\""), 2);
	assert_int_equal(count(text, "<circle"), 4);
	assert_int_equal(count(text, "class=\"best\""), 1);
	assert_int_equal(count(text, "class=\"aside\""), 1);
	assert_int_equal(count(text, "prefers-color-scheme:dark"), 1);
	const char *line = strstr(text, "points=\"");
	assert_non_null(line);
	assert_int_equal(strcspn(line + 8, "\"") > 0, 1);
	size_t commas = 0;
	for (const char *at = line + 8; *at != '"'; at++)
		commas += *at == ',';
	assert_int_equal(commas, 3); /* what is aside is not of the line */
	assert_null(strstr(text, "nan"));
	assert_null(strstr(text, "inf"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(quantiles_are_by_nearest_rank),
		cmocka_unit_test(axes_hold_every_dot),
		cmocka_unit_test(places_are_by_logarithm_and_bounded),
		cmocka_unit_test(a_curve_fits_the_terminal),
		cmocka_unit_test(dots_lie_where_they_belong),
		cmocka_unit_test(the_best_is_marked_and_the_mark_ends),
		cmocka_unit_test(a_document_is_whole),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
