/* What orchestractl reads from /metrics, and what doctor makes of an ill daemon. Broken code this would catch: labels cut at the
 * brace of a route, exemplars taken for values, rates over a restart, quantiles off by a bucket, an illness that is not noticed,
 * one that is said of a healthy daemon, a remedy that is missing. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <cmocka.h>

#include "doctor.h"

int client_request(struct ctl *c, const char *method, const char *path, const char *body, struct answer *a)
{
	(void)c, (void)method, (void)path, (void)body, (void)a;
	return CTL_UNREACHABLE;
}
void client_free(struct answer *a) { buf_free(&a->body); }

static struct scrape *reading(const char *text, int64_t at_s)
{
	return scrape_parse(util_strndup(text, strlen(text)), at_s * 1000000);
}

#define ROUTE "http{route=\"/v1/memories/{id}\",method=\"GET\",status=\"2xx\"}"

static void test_rows(void **state)
{
	(void)state;
	struct scrape *s = reading(
		"# HELP http Requests.\n# TYPE http counter\n" ROUTE " 7\n"
		"http{route=\"/a\\\"b\",method=\"GET\"} 3 # {trace_id=\"00}ff\"} 0.5 1.0\nplain 1e3\nbroken{x=\"y\" 4\nnothing\n\nno_value x\nhttp_other 9\n",
		1);
	const struct scrape_row *r = scrape_next(s, "http", NULL);
	assert_non_null(r);
	assert_true(span_eq(scrape_label(r, "route"), SPAN_LIT("/v1/memories/{id}")));
	assert_true(span_eq(scrape_label(r, "status"), SPAN_LIT("2xx")));
	assert_int_equal(scrape_label(r, "stat").len, 0);
	r = scrape_next(s, "http", r);
	assert_non_null(r);
	assert_true(span_eq(scrape_label(r, "route"), SPAN_LIT("/a\\\"b")));
	assert_true(r->value == 3);
	assert_null(scrape_next(s, "http", r));
	assert_true(scrape_sum(s, "http", NULL, NULL) == 10);
	assert_true(scrape_sum(s, "http", "status", "2xx") == 7);
	assert_true(isnan(scrape_sum(s, "http", "status", "5xx")));
	assert_true(scrape_sum(s, "plain", NULL, NULL) == 1000);
	assert_int_equal(s->n, 4);
	scrape_free(&s);
}

static void test_rates(void **state)
{
	(void)state;
	struct scrape *a = reading("n{k=\"a\"} 10\nn{k=\"b\"} 5\n", 10),
		      *b = reading("n{k=\"new\"} 4\nn{k=\"a\"} 30\nn{k=\"b\"} 5\n", 20);
	struct scrape_pick only = {.label = {"k"}, .value = {SPAN_LIT("a")}};
	assert_true(fabs(scrape_rate(a, b, "n", NULL) - 2.4) < 1e-9);
	assert_true(fabs(scrape_rate(a, b, "n", &only) - 2) < 1e-9);
	assert_true(isnan(scrape_rate(b, a, "n", NULL)));
	assert_true(isnan(scrape_rate(a, b, "absent", NULL)));
	scrape_free(&a);
	scrape_free(&b);
	a = reading("n 100\n", 1);
	b = reading("n 3\n", 2); /* it began anew */
	assert_true(isnan(scrape_rate(a, b, "n", NULL)));
	scrape_free(&a);
	scrape_free(&b);
}

static void test_quantiles(void **state)
{
	(void)state;
	struct scrape *a = reading("h_bucket{le=\"1\"} 100\nh_bucket{le=\"2\"} 100\nh_bucket{le=\"+Inf\"} 100\n", 1);
	struct scrape *b = reading("h_bucket{le=\"1\"} 150\nh_bucket{le=\"2\"} 190\nh_bucket{le=\"+Inf\"} 200\n", 2);
	assert_true(fabs(scrape_quantile(a, b, "h", NULL, 0.25) - 0.5) < 1e-9);
	assert_true(fabs(scrape_quantile(a, b, "h", NULL, 0.5) - 1) < 1e-9);
	assert_true(fabs(scrape_quantile(a, b, "h", NULL, 0.7) - 1.5) < 1e-9);
	assert_true(fabs(scrape_quantile(a, b, "h", NULL, 0.99) - 2) < 1e-9);
	assert_true(isnan(scrape_quantile(b, b, "h", NULL, 0.5)));
	scrape_free(&a);
	scrape_free(&b);
}

/* ---- doctor ---- */

#define HEALTHY_METRICS                                                                                                \
	"orchestra_journal_lag_seconds 0\norchestra_journal_lag_records 0\norchestra_journal_held_bytes 100\n"         \
	"orchestra_journal_quota_bytes 1000\norchestra_dead_letters 0\norchestra_disk_free_bytes 50\n"                 \
	"orchestra_disk_size_bytes 100\norchestra_cache_emptied_shards_total 0\n"
#define HEALTHY_STATUS                                                                                                 \
	"{\"version\":\"1\",\"data_dir\":\"/d\",\"workers\":[{\"name\":\"sync\",\"state\":\"ready\",\"restarts\":0}]}"
#define READY "{\"status\":\"ready\",\"degraded\":[]}"
#define CLOSED "{\"breakers\":[{\"name\":\"store\",\"state\":\"closed\",\"forced\":false}]}"

static struct doctor examined(const char *ready, const char *status, const char *breakers, const char *more_from,
			      const char *more)
{
	struct doctor d = {0};
	char text[4096], former[4096];
	snprintf(text, sizeof(text), HEALTHY_METRICS "%s", more);
	snprintf(former, sizeof(former), HEALTHY_METRICS "%s", more_from);
	struct scrape *from = reading(former, 100), *to = reading(text, 101);
	json_t *r = json_loads(ready, 0, NULL), *s = json_loads(status, 0, NULL), *b = json_loads(breakers, 0, NULL);
	assert_true(r && s && b);
	doctor_examine(&d, &(struct doctor_view){.ready = r,
						 .status = s,
						 .breakers = b,
						 .from = from,
						 .to = to,
						 .version = "1",
						 .now_s = 1000000});
	scrape_free(&from);
	scrape_free(&to);
	json_decref(r);
	json_decref(s);
	json_decref(b);
	return d;
}

static void test_healthy(void **state)
{
	(void)state;
	struct doctor d = examined(READY, HEALTHY_STATUS, CLOSED, "", "");
	assert_true(d.n >= 5);
	for (size_t i = 0; i < d.n; i++)
		assert_int_equal(d.v[i].level, DOCTOR_FINE);
	doctor_free(&d);
	doctor_examine(&d, &(struct doctor_view){.version = "1"}); /* nothing is known: nothing is said */
	assert_int_equal(d.n, 0);
	doctor_free(&d);
}

static const struct ill {
	const char *ready, *status, *breakers, *before, *metrics, *subject, *says;
	enum doctor_level level;
} ills[] = {
	{"{\"status\":\"disk-full\"}", NULL, NULL, "", "", "service", "disk", DOCTOR_PROBLEM},
	{"{\"status\":\"unheard-of\"}", NULL, NULL, "", "", "service", "unheard-of", DOCTOR_PROBLEM},
	{"{\"status\":\"ready\",\"degraded\":[\"store\"]}", NULL, NULL, "", "", "store", "away", DOCTOR_PROBLEM},
	{"{\"status\":\"ready\",\"degraded\":[\"new one\"]}", NULL, NULL, "", "", "service", "new one", DOCTOR_WARNING},
	{NULL,
	 "{\"version\":\"1\",\"workers\":[{\"name\":\"sync\",\"state\":\"backing-off\",\"last_exit\":\"killed by SIGSEGV\"}]}",
	 NULL, "", "", "workers", "SIGSEGV", DOCTOR_PROBLEM},
	{NULL,
	 "{\"version\":\"1\",\"workers\":[{\"name\":\"sync\",\"state\":\"ready\",\"restarts\":3,\"last_exit\":\"killed\","
	 "\"last_exit_at\":\"1970-01-12T13:30:00.000000Z\"}]}",
	 NULL, "", "", "workers", "3 restarts, the last one 17 min", DOCTOR_WARNING},
	{NULL, "{\"version\":\"2\",\"workers\":[]}", NULL, "", "", "version", "version 2", DOCTOR_WARNING},
	{NULL, NULL, "{\"breakers\":[{\"name\":\"redis\",\"state\":\"open\",\"forced\":false}]}", "", "", "breakers",
	 "redis is open", DOCTOR_PROBLEM},
	{NULL, NULL, "{\"breakers\":[{\"name\":\"redis\",\"state\":\"closed\",\"forced\":true}]}", "", "", "breakers",
	 "by hand", DOCTOR_WARNING},
	{NULL, NULL, NULL, "", "orchestra_journal_lag_seconds 11\n", "writes", "for 11 s", DOCTOR_WARNING},
	{NULL, NULL, NULL, "", "orchestra_journal_held_bytes 500\n", "journal", "600 B of", DOCTOR_WARNING},
	{NULL, NULL, NULL, "", "orchestra_journal_held_bytes 850\n", "journal", "950 B of", DOCTOR_PROBLEM},
	{NULL, NULL, NULL, "", "orchestra_dead_letters 2\n", "writes", "2 operations", DOCTOR_PROBLEM},
	{NULL, NULL, NULL, "", "orchestra_disk_size_bytes 900\n", "disk", "5 %", DOCTOR_WARNING},
	{NULL, NULL, NULL, "", "orchestra_disk_size_bytes 9900\n", "disk", "0 %", DOCTOR_PROBLEM},
	{NULL, NULL, NULL, "", "orchestra_redis_up 0\n", "redis", "how it is", DOCTOR_WARNING},
	{NULL, NULL, NULL, "",
	 "orchestra_redis_up 1\norchestra_redis_used_memory_bytes 95\norchestra_redis_maxmemory_bytes 100\n", "redis",
	 "95 %", DOCTOR_WARNING},
	{NULL, NULL, NULL, "", "orchestra_ping_up{target=\"shop\"} 0\n", "targets", "shop", DOCTOR_WARNING},
	{NULL, NULL, NULL, "orchestra_http_requests_total{status=\"5xx\"} 1\n",
	 "orchestra_http_requests_total{status=\"5xx\"} 4\n", "requests", "3 were", DOCTOR_WARNING},
	{NULL, NULL, NULL, "", "orchestra_tls_certificate_expiry_seconds 1086400\n", "certificate", "another 1 days",
	 DOCTOR_WARNING},
	{NULL, NULL, NULL, "", "orchestra_tls_certificate_expiry_seconds 913600\n", "certificate", "expired 1 days",
	 DOCTOR_PROBLEM},
	{NULL, NULL, NULL,
	 "orchestra_cache_misses_total{class=\"memory\"} 0\norchestra_cache_hits_total{class=\"memory\"} 0\norchestra_cache_evictions_total{class=\"memory\"} 0\n",
	 "orchestra_cache_misses_total{class=\"memory\"} 300\norchestra_cache_hits_total{class=\"memory\"} 100\norchestra_cache_evictions_total{class=\"memory\"} 50\n",
	 "cache", "25 %", DOCTOR_WARNING},
	{NULL, NULL, NULL, "", "orchestra_worker_open_fds 90\norchestra_worker_max_fds 100\n", "workers", "90 of 100",
	 DOCTOR_WARNING},
};

/* Each is noticed, with a remedy, and nothing else is said to be wrong. */
static void test_ill(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(ills); i++) {
		const struct ill *x = &ills[i];
		struct doctor d = examined(x->ready ? x->ready : READY, x->status ? x->status : HEALTHY_STATUS,
					   x->breakers ? x->breakers : CLOSED, x->before, x->metrics);
		size_t bad = 0;
		for (size_t k = 0; k < d.n; k++) {
			const struct doctor_finding *f = &d.v[k];
			if (f->level < DOCTOR_WARNING)
				continue;
			bad++;
			if (f->level != x->level || strcmp(f->subject, x->subject) != 0 || !strstr(f->what, x->says) ||
			    !f->remedy)
				fail_msg("%zu: %d %s: %s", i, f->level, f->subject, f->what);
		}
		if (bad != 1)
			fail_msg("%zu: %zu findings, not one about %s", i, bad, x->subject);
		doctor_free(&d);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rows),	cmocka_unit_test(test_rates), cmocka_unit_test(test_quantiles),
		cmocka_unit_test(test_healthy), cmocka_unit_test(test_ill),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
