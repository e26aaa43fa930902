/* status, reload, drain, config, check: what concerns the daemon itself. They go through the API,
 * and to the supervisor's own socket when no api worker answers. */
#include <stdlib.h>
#include <unistd.h>

#include "conf.h"
#include "ctl.h"

/* The supervisor's listening socket takes connections even when no api worker is there to answer. A
 * reload needs at most 5 s; one that is asked for twice does no harm. */
#define API_PATIENCE_MS CLIENT_PATIENCE_MS
#define UPGRADE_PATIENCE_MS 180000 /* check, and the readiness of every worker */
#define VALUE_COLUMNS 40	   /* of a key's value in a list */

static int ask(struct ctl *c, const char *method, const char *path, const char *line, struct answer *a)
{
	return client_ask(c, API_PATIENCE_MS, method, path, NULL, line, a);
}

static bool plain_arguments(int argc, char **argv, const char *help, int *code_r)
{
	if (argc == 2 && strcmp(argv[1], "--help") == 0) {
		puts(help);
		*code_r = CTL_OK;
		return false;
	}
	if (argc > 1) {
		*code_r = ctl_usage("%s: unexpected \"%s\"", argv[0], argv[1]);
		return false;
	}
	return true;
}

/* An answer as JSON or by `show`; `if_failed` tells what holds when the daemon says that it failed. Frees the answer. */
static int show_answer(struct ctl *c, int code, struct answer *a, void (*show)(struct ctl *c, const json_t *o),
		       const char *if_failed)
{
	if (code == CTL_OK && c->json)
		output_raw(a);
	if (code == CTL_OK && a->status != 200) {
		code = c->json ? CTL_FAILED : output_problem(a);
		if (!c->json && if_failed && strstr(a->body.p, "\"failed\""))
			fputs(if_failed, stderr);
	} else if (code == CTL_OK && !c->json) {
		json_t *o = output_parse(a);
		if (o)
			show(c, o);
		code = o ? CTL_OK : CTL_FAILED;
		json_decref(o);
	}
	client_free(a);
	return code;
}

/* ---- status ---- */

static enum colour state_colour(const char *state)
{
	if (strcmp(state, "ready") == 0 || strcmp(state, "running") == 0)
		return C_GREEN;
	return strcmp(state, "crashed") == 0 ? C_RED : C_YELLOW;
}

static void show_process(struct ctl *c, const json_t *o, const char *name, const char *tree)
{
	char up[16] = "-", rss[16] = "-", pid[16] = "-", waiting[24], working[24];
	const char *state = output_str(o, "state");
	const json_t *uptime = json_object_get(o, "uptime_seconds");
	json_int_t id = json_integer_value(json_object_get(o, "pid"));
	if (uptime)
		output_duration(json_number_value(uptime), up);
	if (json_object_get(o, "rss_bytes"))
		output_bytes(json_number_value(json_object_get(o, "rss_bytes")), rss);
	if (id)
		snprintf(pid, sizeof(pid), "%d", (int)id);
	printf("%s%-*s %8s  %s%-11s%s %9s %8lld %8.1fs %9s %7s %7s  %s\n", tree, 13 - (*tree ? 3 : 0), name, pid,
	       output_colour(c, state_colour(state)), state, output_colour(c, C_PLAIN), up,
	       (long long)json_integer_value(json_object_get(o, "restarts")),
	       json_number_value(json_object_get(o, "cpu_seconds")), rss, output_count(o, "waiting", waiting),
	       output_count(o, "working", working), output_str(o, "last_exit"));
}

/* Only the api knows it; the supervisor's own answer lacks it. */
/* Only while requests are refused. */
static void show_overload(const json_t *o)
{
	const json_t *over = json_object_get(o, "overload"), *queues = json_object_get(over, "throttling"), *v;
	size_t i;
	if (!json_array_size(queues))
		return;
	printf("more is asked for than can be served; what waits too long is refused (");
	json_array_foreach (queues, i, v)
		printf("%s%s", i ? ", " : "", json_string_value(v));
	printf("; %lld refused since the start)\n", (long long)json_integer_value(json_object_get(over, "refused")));
}

static void show_lag(struct ctl *c, const json_t *o)
{
	const json_t *lag = json_object_get(o, "lag");
	json_int_t dead = json_integer_value(json_object_get(o, "dead_letters"));
	char bytes[16], age[16];
	if (!lag)
		return;
	output_bytes(json_number_value(json_object_get(lag, "bytes")), bytes);
	output_duration(json_number_value(json_object_get(lag, "seconds")), age);
	if (json_integer_value(json_object_get(lag, "records")))
		printf("the store lacks %lld records, %s, the oldest since %s\n",
		       (long long)json_integer_value(json_object_get(lag, "records")), bytes, age);
	else
		puts("the store has everything");
	if (dead)
		printf("%s%lld dead letters: orchestractl dlq list%s\n", output_colour(c, C_YELLOW), (long long)dead,
		       output_colour(c, C_PLAIN));
}

/* Values that are tried: not what the next start will have. */
static void show_tried(struct ctl *c, const json_t *o)
{
	size_t i;
	json_t *t;
	json_array_foreach (json_object_get(o, "tried"), i, t) {
		char left[16];
		const json_t *ms = json_object_get(t, "left_ms");
		output_duration(json_number_value(ms) / 1000, left);
		printf("%stried: %s = ", output_colour(c, C_YELLOW), output_str(t, "key"));
		output_line(output_str(t, "value"), VALUE_COLUMNS);
		printf(" instead of ");
		output_line(output_str(t, "base"), VALUE_COLUMNS);
		printf(" (%s%s%s)%s\n", output_str(t, "who"), ms ? ", put back in " : "", ms ? left : "",
		       output_colour(c, C_PLAIN));
	}
}

static void show_tree(struct ctl *c, const json_t *o)
{
	size_t i;
	json_t *w, *workers = json_object_get(o, "workers");
	const char *tcp = output_str(o, "tcp"), *tls = output_str(o, "tls");
	printf("%sAI Orchestra %s%s on %s%s%s%s%s%s\n", output_colour(c, C_BOLD), output_str(o, "version"),
	       output_colour(c, C_PLAIN), tcp, *tcp && *tls ? ", " : "", tls, *tls ? " (TLS)" : "",
	       *tcp || *tls ? " and " : "", output_str(o, "unix"));
	printf("data in %s, started %.19sZ\n", output_str(o, "data_dir"), output_str(o, "started_at"));
	show_lag(c, o);
	show_overload(o);
	if (json_object_get(o, "upgrade"))
		printf("%supgrade: %s%s\n", output_colour(c, C_YELLOW), output_str(o, "upgrade"),
		       output_colour(c, C_PLAIN));
	show_tried(c, o);
	putchar('\n');
	printf("%s%-13s %8s  %-11s %9s %8s %9s %9s %7s %7s  %s%s\n", output_colour(c, C_DIM), "PROCESS", "PID", "STATE",
	       "UPTIME", "RESTARTS", "CPU", "MEMORY", "WAITING", "WORKING", "LAST EXIT", output_colour(c, C_PLAIN));
	show_process(c, o, "orchestrad", "");
	json_array_foreach (workers, i, w)
		show_process(c, w, output_str(w, "name"), i + 1 < json_array_size(workers) ? "├─ " : "└─ ");
}

/* The api may wrap what the supervisor said. */
static const json_t *find_workers(const json_t *o)
{
	const json_t *inner = json_object_get(o, "supervisor");
	return json_object_get(o, "workers") ? o : json_object_get(inner, "workers") ? inner : NULL;
}

int admin_status(struct ctl *c, int argc, char **argv)
{
	struct answer a;
	int code;
	if (!plain_arguments(argc, argv, "Usage: orchestractl status\nShows the process tree.", &code))
		return code;
	code = ask(c, "GET", "/v1/admin/status", "status", &a);
	if (code == CTL_OK && a.status != 200) {
		code = output_problem(&a);
	} else if (code == CTL_OK && c->json) {
		output_raw(&a);
	} else if (code == CTL_OK) {
		json_t *o = output_parse(&a);
		const json_t *tree = find_workers(o);
		if (tree)
			show_tree(c, tree);
		else if (o)
			fputs("orchestractl: the answer has no process tree\n", stderr);
		code = tree ? CTL_OK : CTL_FAILED;
		json_decref(o);
	}
	client_free(&a);
	return code;
}

/* ---- reload, drain ---- */

static void show_keys(struct ctl *c, const json_t *o)
{
	size_t i;
	json_t *k;
	json_array_foreach (json_object_get(o, "keys"), i, k) {
		const char *result = output_str(k, "result");
		enum colour colour = strcmp(result, "applied") == 0 ? C_GREEN : C_YELLOW;
		printf("%s%-13s%s %-24s ", output_colour(c, colour), result, output_colour(c, C_PLAIN),
		       output_str(k, "key"));
		output_line(json_object_get(k, "from") ? output_str(k, "from") : "(secret)", VALUE_COLUMNS);
		fputs(" → ", stdout);
		output_line(json_object_get(k, "to") ? output_str(k, "to") : "(secret)", VALUE_COLUMNS);
		putchar('\n');
	}
	printf("Reloaded: %lld applied, %lld unchanged, %lld need a restart\n",
	       (long long)json_integer_value(json_object_get(o, "applied")),
	       (long long)json_integer_value(json_object_get(o, "unchanged")),
	       (long long)json_integer_value(json_object_get(o, "needs_restart")));
}

int admin_reload(struct ctl *c, int argc, char **argv)
{
	struct answer a;
	int code;
	if (!plain_arguments(argc, argv,
			     "Usage: orchestractl reload\nMakes the daemon read its "
			     "configuration again: all of it, or nothing.",
			     &code))
		return code;
	code = ask(c, "POST", "/v1/admin/reload", "reload", &a);
	return show_answer(c, code, &a, show_keys, "Nothing was changed: the old configuration stays.\n");
}

static void show_upgrade(struct ctl *c, const json_t *o)
{
	(void)c;
	if (strcmp(output_str(o, "result"), "under way") == 0)
		puts("The upgrade goes on; orchestractl status shows when it is over.");
	else
		printf("Upgraded from %s to %s in %.2f s\n", output_str(o, "from"), output_str(o, "version"),
		       json_number_value(json_object_get(o, "seconds")));
}

int admin_upgrade(struct ctl *c, int argc, char **argv)
{
	struct answer a;
	int code;
	if (!plain_arguments(
		    argc, argv,
		    "Usage: orchestractl upgrade\nMakes the daemon go on with the binary that lies at its path "
		    "now, without a pause; returns\nwhen the new one serves, or the old one does because the new "
		    "one would not.",
		    &code))
		return code;
	code = client_ask(c, UPGRADE_PATIENCE_MS, "POST", "/v1/admin/upgrade", NULL, "upgrade", &a);
	return show_answer(c, code, &a, show_upgrade, "The former binary serves on.\n");
}

int admin_drain(struct ctl *c, int argc, char **argv)
{
	struct answer a;
	int code;
	if (!plain_arguments(argc, argv,
			     "Usage: orchestractl drain\nMakes the daemon finish its work "
			     "and leave; returns when it has.",
			     &code))
		return code;
	code = client_control(c, "drain", true, &a);
	if (code == CTL_OK && c->json)
		output_raw(&a);
	else if (code == CTL_OK && a.status == 200)
		puts("The daemon has left.");
	if (code == CTL_OK && a.status != 200)
		code = c->json ? CTL_FAILED : output_problem(&a);
	client_free(&a);
	return code;
}

/* ---- namespaces ---- */

static void show_namespaces(struct ctl *c, const json_t *o)
{
	size_t i;
	json_t *n;
	char bytes[16];
	printf("%s%10s  %9s  %-10s  %s%s\n", output_colour(c, C_DIM), "MEMORIES", "BYTES", "LANGUAGE", "NAME",
	       output_colour(c, C_PLAIN));
	json_array_foreach (json_object_get(o, "namespaces"), i, n) {
		output_bytes(json_number_value(json_object_get(n, "bytes")), bytes);
		printf("%10lld  %9s  %-10s  ", (long long)json_integer_value(json_object_get(n, "count")), bytes,
		       output_str(n, "language"));
		output_line(output_str(n, "name"), 0);
		putchar('\n');
	}
}

int admin_namespaces(struct ctl *c, int argc, char **argv)
{
	struct answer a;
	int code;
	if (!plain_arguments(argc, argv,
			     "Usage: orchestractl namespaces\nLists the namespaces, with the number and "
			     "the bytes of their memories, and their language.",
			     &code))
		return code;
	code = client_request(c, "GET", "/v1/namespaces", NULL, &a);
	return show_answer(c, code, &a, show_namespaces, NULL);
}

/* ---- check ---- */

int admin_check(struct ctl *c, int argc, char **argv)
{
	static const struct option options[] = {
		{"config", required_argument, NULL, 'c'},
		{"set", required_argument, NULL, 's'},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	const char *sets[64];
	struct conf_input input = {.env = environ, .sets = sets};
	char *error = NULL;
	int opt;
	while ((opt = ctl_options(argc, argv, ":c:", options)) != -1) {
		if (opt == 'c') {
			input.file = optarg;
		} else if (opt == 's' && input.nsets < ARRAY_LEN(sets)) {
			sets[input.nsets++] = optarg;
		} else if (opt == 'h') {
			puts("Usage: orchestractl check [-c FILE] [--set KEY=VALUE]...\n"
			     "Validates a configuration; orchestrad --check looks at paths and permissions too.");
			return CTL_OK;
		} else {
			return CTL_USAGE;
		}
	}
	if (optind < argc)
		return ctl_usage("check: unexpected \"%s\"", argv[optind]);
	struct conf *conf = conf_load(&input, &error);
	if (conf)
		puts(c->json ? "{\"ok\":true}" : "OK");
	else
		fprintf(stderr, "orchestractl: %s\n", error ? error : "the configuration cannot be read");
	int code = conf ? CTL_OK : CTL_FAILED;
	conf_free(&conf);
	free(error);
	return code;
}
