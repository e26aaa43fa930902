/* What orchestractl reads out of /metrics: rates and quantiles of a window, with and without histograms. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdlib.h>

#include "live.h"

/* What it is shown with, and asked through: not here. */
int client_request(struct ctl *c, const char *method, const char *path, const char *body, struct answer *a)
{
	(void)c, (void)method, (void)path, (void)body, (void)a;
	return CTL_UNREACHABLE;
}
void client_free(struct answer *a) { buf_free(&a->body); }
int output_problem(const struct answer *a) { return a->status == 0 ? CTL_FAILED : CTL_OK; }
const char *output_colour(const struct ctl *c, enum colour k) { return c && k == C_DIM ? "" : ""; }
void output_bar(const char *what, uint64_t done, uint64_t total, bool on)
{
	(void)what, (void)done, (void)total, (void)on;
}

static struct effect between(const char *a, const char *b)
{
	struct scrape *x = scrape_parse(util_strndup(a, strlen(a)), 0),
		      *y = scrape_parse(util_strndup(b, strlen(b)), 10000000);
	struct effect e;
	effect_between(x, y, &e);
	scrape_free(&x);
	scrape_free(&y);
	return e;
}

#define HTTP "orchestra_http_requests_total"
#define TIME "orchestra_http_request_duration_seconds"

static void test_counters_alone(void **state)
{
	(void)state;
	struct effect e = between("# HELP x y\n" HTTP
				  "{route=\"/v1/memories/{id}\",method=\"GET\",status=\"2xx\"} 100\n",
				  HTTP "{route=\"/v1/memories/{id}\",method=\"GET\",status=\"2xx\"} 300\n" HTTP
				       "{route=\"/v1/memories\",method=\"POST\",status=\"5xx\"} 20\n" HTTP
				       "{route=\"/metrics\",method=\"GET\",status=\"2xx\"} 5000\n" HTTP
				       "{route=\"/v1/admin/config\",method=\"GET\",status=\"2xx\"} 5000\n");
	assert_true(e.valid);
	assert_false(e.latency || e.quantiles);
	assert_true(fabs(e.requests - 22) < 1e-9);
	assert_true(fabs(e.errors - 2) < 1e-9);
	assert_false(between(HTTP " 5\n", HTTP " 4\n").valid); /* it was started anew */
	assert_true(between("", "").valid);
}

static void test_quantiles(void **state)
{
	(void)state;
	struct effect e = between(TIME "_bucket{route=\"/a\",le=\"0.1\"} 1000\n" TIME
				       "_bucket{route=\"/a\",le=\"+Inf\"} 1000\n" TIME "_sum{route=\"/a\"} 1\n" TIME
				       "_count{route=\"/a\"} 1000\n",
				  TIME "_bucket{route=\"/a\",le=\"0.1\"} 1050\n" TIME
				       "_bucket{route=\"/a\",le=\"0.2\"} 1090 # {trace_id=\"t\"} 0.15\n" TIME
				       "_bucket{route=\"/a\",le=\"+Inf\"} 1100\n" TIME "_sum{route=\"/a\"} 11\n" TIME
				       "_count{route=\"/a\"} 1100\n");
	/* 0.2 is a bucket that was not there before: it was empty there as far as anybody knows, and cumulative counts only grow. */
	assert_true(e.valid && e.latency && e.quantiles);
	assert_true(fabs(e.mean - 0.1) < 1e-9);
	assert_true(fabs(e.p50 - 0.1) < 1e-9);
	assert_true(e.p95 <= 0.2 && e.p99 <= 0.2); /* beyond the last bound no more can be said */
	e = between("", TIME "_bucket{le=\"1\"} 0\n" TIME "_bucket{le=\"+Inf\"} 0\n" TIME "_sum 0\n" TIME "_count 0\n");
	assert_true(e.valid && isnan(e.p50) && isnan(e.mean));
	json_t *o = effect_json(&e);
	assert_true(json_is_null(json_object_get(o, "p50_s")));
	json_decref(o);
}

/* Routes add up, in any order of their rows. */
static void test_routes_add_up(void **state)
{
	(void)state;
	struct effect e = between(
		"", TIME "_bucket{route=\"/a\",le=\"+Inf\"} 10\n" TIME "_bucket{route=\"/a\",le=\"1\"} 10\n" TIME
			 "_bucket{route=\"/b\",le=\"0.5\"} 0\n" TIME "_bucket{route=\"/b\",le=\"1\"} 90\n" TIME
			 "_bucket{route=\"/b\",le=\"+Inf\"} 90\n" TIME "_bucket{route=\"/a\",le=\"0.5\"} 10\n");
	assert_true(e.p50 > 0.5 && e.p50 < 1);
	assert_true(fabs(e.p50 - (0.5 + 0.5 * 40 / 90)) < 1e-9);
}

/* Nothing of it makes it read beyond its end (ASan). */
static void test_nonsense(void **state)
{
	static const char *const texts[] = {"{",
					    "x{",
					    "x{y",
					    "x{y=",
					    "x{y=\"",
					    "x{y=\"z\\",
					    "x{le=\"}\n",
					    "x 1",
					    "\n\n{}\n",
					    "x{} # {",
					    TIME "_bucket{le=\"nonsense\"} 1\n" TIME "_bucket{} x\n"};
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
		struct scrape *s = scrape_parse(util_strndup(texts[i], strlen(texts[i])), 0);
		assert_non_null(s);
		struct effect e;
		effect_between(s, s, &e);
		scrape_free(&s);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_counters_alone),
		cmocka_unit_test(test_quantiles),
		cmocka_unit_test(test_routes_add_up),
		cmocka_unit_test(test_nonsense),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
