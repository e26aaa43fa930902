/* ping list, now, history: what is kept warm. */
#include <stdlib.h>
#include <time.h>

#include "clock.h"
#include "ctl.h"

#define SPARKS 32	    /* results in a line of the list */
#define WAIT_US 650000000ll /* for a result: the longest timeout of a target, and some time in the queue */
#define LOOK_EVERY_NS 50000000

static double number(const json_t *o, const char *key) { return json_number_value(json_object_get(o, key)); }
static bool is_text(const json_t *o, const char *key, const char *text)
{
	return strcmp(output_str(o, key), text) == 0;
}

/* ---- one request ---- */

/* NULL: said why, and *code_r is set. With --json and `last`, it is printed as well. */
static json_t *ask(struct ctl *c, const char *method, const char *name, const char *end, bool last, int *code_r)
{
	struct answer a;
	struct buf path = {0};
	char *escaped = client_escape(name);
	buf_printf(&path, "/v1/admin/targets%s%s%s", *name ? "/" : "", escaped, end);
	buf_addc(&path, '\0');
	free(escaped);
	json_t *o = NULL;
	*code_r = client_request(c, method, path.p, NULL, &a);
	buf_free(&path);
	if (*code_r != CTL_OK)
		return NULL;
	if (c->json && (last || a.status >= 300))
		output_raw(&a);
	if (a.status >= 300)
		*code_r = c->json ? CTL_FAILED : output_problem(&a);
	else if (!(o = output_parse(&a)))
		*code_r = CTL_FAILED;
	client_free(&a);
	return o;
}

/* ---- how it looks ---- */

static bool is_well(const json_t *ping) { return is_text(ping, "outcome", "well"); }

static enum colour colour_of(const json_t *ping)
{
	return !is_well(ping) ? C_RED : is_text(ping, "heat", "cold") ? C_YELLOW : C_GREEN;
}

/* A column for each of the last results, as high as it took long; x: it failed. */
static void sparkline(struct ctl *c, const json_t *history, size_t most)
{
	static const char *const blocks[] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
	size_t n = json_array_size(history), from = n > most ? n - most : 0;
	double top = 0;
	for (size_t i = from; i < n; i++) {
		const json_t *p = json_array_get(history, i);
		top = is_well(p) && number(p, "took_ms") > top ? number(p, "took_ms") : top;
	}
	for (size_t i = from; i < n; i++) {
		const json_t *p = json_array_get(history, i);
		size_t k = top > 0 ? (size_t)(number(p, "took_ms") / top * 7.99) : 0;
		printf("%s%s%s", output_colour(c, colour_of(p)), is_well(p) ? blocks[k < 8 ? k : 7] : "x",
		       output_colour(c, C_PLAIN));
	}
}

static void duration_of(double seconds, char out[16])
{
	if (seconds < 1)
		snprintf(out, 16, "%.0fms", seconds * 1000);
	else
		output_duration(seconds, out);
}

/* "in 3m 20s"; "-" when nothing is planned. */
static void until(const json_t *o, char out[24])
{
	const char *text = output_str(o, "next_at");
	int64_t at;
	char wait[16];
	snprintf(out, 24, "-");
	if (!clock_parse(text, strlen(text), &at))
		return;
	double s = (double)(at - clock_real_us()) / 1e6;
	duration_of(s > 0 ? s : 0, wait);
	snprintf(out, 24, "in %s", wait);
}

static void show_head(struct ctl *c)
{
	printf("%s%-20s %-8s %-12s %-14s %9s %9s %6s %6s %7s %10s  %s%s\n", output_colour(c, C_DIM), "NAME", "STATE",
	       "INTERVAL", "NEXT", "WARM P50", "COLD P50", "COLD", "FAILED", "SPARED", "COST/MONTH", "LAST RESULTS",
	       output_colour(c, C_PLAIN));
}

static void show_row(struct ctl *c, const json_t *o, const json_t *history)
{
	const char *state = output_str(o, "state");
	const json_t *cost = json_object_get(o, "cost");
	enum colour k = strcmp(state, "warm") == 0	? C_GREEN
			: strcmp(state, "failing") == 0 ? C_RED
			: strcmp(state, "cold") == 0	? C_YELLOW
							: C_DIM;
	char interval[16], shown[24], next[24], price[24] = "-";
	duration_of(number(o, "interval_seconds"), interval);
	snprintf(shown, sizeof(shown), "%s%s", interval, json_is_true(json_object_get(o, "adapts")) ? " *" : "");
	until(o, next);
	if (cost)
		snprintf(price, sizeof(price), "%.4g", number(cost, "per_month"));
	printf("%-20s %s%-8s%s %-12s %-14s %7.0fms %7.0fms %6.0f %6.0f %7.0f %10s  ", output_str(o, "name"),
	       output_colour(c, k), state, output_colour(c, C_PLAIN), shown, next,
	       number(json_object_get(o, "warm"), "p50_ms"), number(json_object_get(o, "cold"), "p50_ms"),
	       number(o, "cold_starts"), number(o, "failures"), number(o, "skipped"), price);
	sparkline(c, history, SPARKS);
	if (json_is_true(json_object_get(o, "tls_expires_soon")))
		printf("  certificate ends %.10s", output_str(o, "tls_expires_at"));
	if (*output_str(o, "error")) {
		fputs("  ", stdout);
		output_line(output_str(o, "error"), 0);
	}
	putchar('\n');
}

static void show_result(struct ctl *c, const json_t *p)
{
	const json_t *idle = json_object_get(p, "idle_seconds");
	char wait[16] = "?";
	if (json_is_number(idle))
		duration_of(json_number_value(idle), wait);
	printf("%.19sZ  %s%-8s%s  %3.0f  %-7s  %8.1f ms  behind %s\n", output_str(p, "at"),
	       output_colour(c, colour_of(p)), output_str(p, "outcome"), output_colour(c, C_PLAIN), number(p, "status"),
	       output_str(p, "heat"), number(p, "took_ms"), wait);
}

/* ---- verbs ---- */

static int list(struct ctl *c)
{
	size_t i;
	int code, ignored;
	json_t *row, *o = ask(c, "GET", "", "", true, &code), *rows = json_object_get(o, "targets");
	if (!o || c->json)
		goto out;
	show_head(c);
	json_array_foreach (rows, i, row) {
		json_t *history = ask(c, "GET", output_str(row, "name"), "/history", false, &ignored);
		show_row(c, row, json_object_get(history, "history"));
		json_decref(history);
	}
	puts("* found by itself (interval = \"auto\")");
out:
	json_decref(o);
	return code;
}

static int history(struct ctl *c, const char *name)
{
	size_t i;
	int code;
	json_t *row, *o = ask(c, "GET", name, "/history", true, &code), *rows = json_object_get(o, "history");
	if (o && !c->json) {
		json_array_foreach (rows, i, row)
			show_result(c, row);
		sparkline(c, rows, c->width ? (size_t)c->width : 80);
		putchar('\n');
	}
	json_decref(o);
	return code;
}

/* Waits for the result: the number of results grows. */
static int now(struct ctl *c, const char *name)
{
	struct timespec pause = {0, LOOK_EVERY_NS};
	bool json = c->json, well = false;
	int code;
	int64_t deadline = clock_mono_us() + WAIT_US;
	json_t *o = ask(c, "GET", name, "", false, &code); /* before: the result may be there before the answer is */
	double before = number(o, "results");
	if (o) {
		json_decref(o);
		o = ask(c, "POST", name, ":ping", false, &code);
	}
	while (o && number(o, "results") <= before && clock_mono_us() < deadline) {
		nanosleep(&pause, NULL);
		json_decref(o);
		o = ask(c, "GET", name, "", false, &code);
	}
	if (o && number(o, "results") <= before) {
		fputs("orchestractl: ping now: no result came\n", stderr);
		code = CTL_FAILED;
	} else if (o) {
		const json_t *last = json_object_get(o, "last");
		well = is_well(last);
		if (json)
			json_dumpf(o, stdout, JSON_COMPACT), putchar('\n');
		else
			show_result(c, last);
		if (!well && !json && *output_str(o, "error")) {
			output_line(output_str(o, "error"), 0);
			putchar('\n');
		}
		code = well ? CTL_OK : CTL_FAILED;
	}
	json_decref(o);
	return code;
}

int ping_command(struct ctl *c, int argc, char **argv)
{
	if (argc > 1 && strcmp(argv[argc - 1], "--help") == 0) {
		puts("Usage: orchestractl ping list\n"
		     "       orchestractl ping now NAME\n"
		     "       orchestractl ping history NAME\n"
		     "Shows the targets that are kept warm, pings one at once and waits for its answer (status 1 when it is\n"
		     "not as expected), or shows the last results of one.");
		return CTL_OK;
	}
	if (argc == 2 && strcmp(argv[1], "list") == 0)
		return list(c);
	if (argc == 3 && strcmp(argv[1], "now") == 0)
		return now(c, argv[2]);
	if (argc == 3 && strcmp(argv[1], "history") == 0)
		return history(c, argv[2]);
	return ctl_usage("ping: expected \"list\", or \"now\" or \"history\" and the NAME of a target");
}
