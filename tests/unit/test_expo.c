/* The text of /metrics, and which of its two formats a client wants. Broken code this would catch: cumulative buckets that are not,
 * an exemplar in the format that has none, "_total" in the name of a family of OpenMetrics, a weight of 0 that is taken for a wish. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

#include "api/expo.h"
#include "stats.h"

/* ---- negotiation ---- */

static bool wants(const char *accept) { return expo_wants_open_metrics(SPAN(accept)); }

static void test_negotiation(void **state)
{
	(void)state;
	assert_false(expo_wants_open_metrics((struct span){NULL, 0}));
	assert_false(wants(""));
	assert_false(wants("*/*"));
	assert_false(wants("text/plain"));
	assert_true(wants("application/openmetrics-text"));
	assert_true(wants("application/openmetrics-text; version=1.0.0; charset=utf-8"));
	assert_true(wants("Application/OpenMetrics-Text;version=\"1.0.0\""));
	assert_false(wants("application/openmetrics-text; version=2.0.0"));
	/* what Prometheus sends */
	assert_true(
		wants("application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
		      "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"));
	assert_false(wants("text/plain;version=0.0.4;q=1,*/*;q=0.1"));
	assert_false(wants("application/openmetrics-text;q=0"));
	assert_false(wants("application/openmetrics-text;q=0.4, text/plain;q=0.5"));
	assert_true(wants("application/openmetrics-text;q=0.4, text/plain;q=0.3, */*"));
	assert_true(wants(" ,, application/openmetrics-text ; q=0.400 ,\t*/*;q=0.399"));
	assert_false(wants("application/openmetrics-text;q=x"));
	assert_false(wants("application/openmetrics-textual"));
}

/* ---- samples ---- */

static struct buf b;
static const struct metric counter = {"orchestra_x_total", "counter", "", "Of x.", HIST_SECONDS};
static const struct metric seconds = {"orchestra_y_seconds", "histogram", "", "Of y.", HIST_SECONDS};
static const struct metric numbers = {"orchestra_z", "histogram", "", "Of z.", HIST_RECORDS};

static const char *text(void)
{
	buf_addc(&b, 0);
	b.len = 0;
	return b.p;
}

static void test_heads(void **state)
{
	struct expo classic = {.b = &b}, open = {.b = &b, .open_metrics = true};
	(void)state;
	expo_head(&classic, &counter);
	expo_u64(&classic, &counter, "", 7);
	expo_end(&classic);
	assert_string_equal(text(),
			    "# HELP orchestra_x_total Of x.\n# TYPE orchestra_x_total counter\norchestra_x_total 7\n");
	expo_head(&open, &counter);
	expo_i64(&open, &counter, "a=\"b\"", -7);
	expo_us(&open, &counter, "a=\"c\"", 1000001);
	expo_end(&open);
	assert_string_equal(text(),
			    "# HELP orchestra_x Of x.\n# TYPE orchestra_x counter\norchestra_x_total{a=\"b\"} -7\n"
			    "orchestra_x_total{a=\"c\"} 1.000001\n# EOF\n");
}

static bool trace(void *arg, unsigned bucket, struct expo_trace *t)
{
	(void)arg;
	memset(t->id, 0xab, sizeof(t->id));
	t->value = 0.000005;
	t->at_us = 1500000;
	return bucket == 1;
}

static struct hist_sum three(enum hist_unit unit)
{
	struct hist_sum h = {.count = 3,
			     .sum = unit == HIST_SECONDS ? 100000005096ull : hist_records(1 + 3) + hist_records(70000)};
	h.n[hist_bucket(unit == HIST_SECONDS ? 4096 : hist_records(1))]++;
	h.n[hist_bucket(unit == HIST_SECONDS ? 4097 : hist_records(3))]++;
	h.n[unit == HIST_SECONDS ? HIST_BUCKETS : hist_bucket(hist_records(70000))]++;
	return h;
}

static void test_histogram(void **state)
{
	struct expo classic = {.b = &b}, open = {.b = &b, .open_metrics = true};
	struct hist_sum h = three(HIST_SECONDS);
	(void)state;
	expo_hist(&open, &seconds, "r=\"1\"", &h, trace, NULL);
	const char *t = text();
	assert_non_null(strstr(t, "orchestra_y_seconds_bucket{r=\"1\",le=\"4.096e-06\"} 1\n"));
	assert_non_null(strstr(t, "orchestra_y_seconds_bucket{r=\"1\",le=\"8.192e-06\"} 2 # "
				  "{trace_id=\"abababababababababababababababab\"} 5e-06 1.500\n"));
	assert_non_null(strstr(t, "orchestra_y_seconds_bucket{r=\"1\",le=\"68.719476736\"} 2\n"));
	assert_non_null(strstr(t, "orchestra_y_seconds_bucket{r=\"1\",le=\"+Inf\"} 3\n"));
	assert_non_null(
		strstr(t, "orchestra_y_seconds_sum{r=\"1\"} 100.000005096\norchestra_y_seconds_count{r=\"1\"} 3\n"));
	expo_hist(&classic, &seconds, "", &h, trace, NULL);
	t = text();
	assert_null(strchr(t, '#'));
	assert_non_null(strstr(t, "orchestra_y_seconds_bucket{le=\"8.192e-06\"} 2\n"));
	h = three(HIST_RECORDS);
	expo_hist(&classic, &numbers, "", &h, NULL, NULL);
	t = text();
	assert_non_null(strstr(t, "orchestra_z_bucket{le=\"1\"} 1\n"));
	assert_non_null(strstr(t, "orchestra_z_bucket{le=\"2\"} 1\n"));
	assert_non_null(strstr(t, "orchestra_z_bucket{le=\"4\"} 2\n"));
	assert_non_null(strstr(t, "orchestra_z_bucket{le=\"65536\"} 2\n"));
	assert_non_null(strstr(t, "orchestra_z_bucket{le=\"+Inf\"} 3\n"));
	assert_non_null(strstr(t, "orchestra_z_sum 70004\n"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_negotiation),
		cmocka_unit_test(test_heads),
		cmocka_unit_test(test_histogram),
	};
	int rc = cmocka_run_group_tests(tests, NULL, NULL);
	buf_free(&b);
	return rc;
}
