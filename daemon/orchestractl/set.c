/* set, unset: a value is tried on the running daemon, with its effect before and after. */
#include <stdlib.h>

#include "live.h"

#define WATCH_US (INT64_C(10) * 1000000)
#define WATCH_MAX_US (INT64_C(3600) * 1000000)

struct wish {
	const char *time, *reason;
	int64_t watch_us;
	bool all;
};

static int take_options(struct wish *w, int argc, char **argv, const char *help)
{
	static const struct option options[] = {
		{"for", required_argument, NULL, 'f'},	  {"watch", required_argument, NULL, 'w'},
		{"reason", required_argument, NULL, 'r'}, {"all", no_argument, NULL, 'a'},
		{"help", no_argument, NULL, 'h'},	  {0},
	};
	int64_t us;
	int opt;
	while ((opt = ctl_options(argc, argv, ":", options)) != -1) {
		switch (opt) {
		case 'f':
			if (!live_duration("--for", optarg, &us))
				return CTL_USAGE;
			w->time = optarg;
			break;
		case 'w':
			if (!live_duration("--watch", strcmp(optarg, "0") == 0 ? "0s" : optarg, &w->watch_us))
				return CTL_USAGE;
			if (w->watch_us > WATCH_MAX_US)
				return ctl_usage("--watch: at most 1h");
			break;
		case 'r': w->reason = optarg; break;
		case 'a': w->all = true; break;
		case 'h': puts(help); return CTL_OK;
		default: return CTL_USAGE;
		}
	}
	return -1;
}

static void show_changes(struct ctl *c, const json_t *o)
{
	size_t i;
	json_t *k;
	json_array_foreach (json_object_get(o, "keys"), i, k) {
		printf("%s%s%s: ", output_colour(c, C_BOLD), output_str(k, "key"), output_colour(c, C_PLAIN));
		output_line(output_str(k, "from"), 60);
		fputs(" → ", stdout);
		output_line(output_str(k, "to"), 60);
		putchar('\n');
	}
	if (!json_array_size(json_object_get(o, "keys")))
		puts("Nothing changed: the values are as they were.");
}

static void show_tried(const json_t *o, const char *time)
{
	size_t n = json_array_size(json_object_get(o, "tried"));
	if (n && time)
		printf("Put back by itself after %s. ", time);
	if (n)
		printf("%zu value%s tried: orchestractl config diff shows them, config save keeps them, unset takes them back.\n",
		       n, n == 1 ? " is" : "s are");
}

/* The change between two windows. */
static int change(struct ctl *c, const struct wish *w, json_t *body)
{
	struct effect before = {.valid = false}, after = before;
	int code;
	bool watch = w->watch_us > 0;
	if (watch)
		effect_watch(c, "before", w->watch_us, &before);
	json_t *o = live_patch(c, body, &code);
	if (!o)
		return code;
	live_say_audit(o);
	if (!c->json) {
		show_changes(c, o);
		show_tried(o, w->time);
		fflush(stdout);
	}
	if (watch)
		effect_watch(c, "after", w->watch_us, &after);
	if (watch && !c->json)
		effect_show(c, &before, &after);
	if (c->json) {
		if (watch)
			json_object_set_new(
				o, "effect",
				json_pack("{s:o s:o}", "before", effect_json(&before), "after", effect_json(&after)));
		json_dumpf(o, stdout, JSON_COMPACT | JSON_REAL_PRECISION(9));
		putchar('\n');
	}
	json_decref(o);
	return CTL_OK;
}

/* What is refused is refused before anybody waits. */
static int is_free(struct ctl *c, json_t *set)
{
	const char *key;
	json_t *v;
	int code;
	c->quiet = true;
	json_t *config = live_fetch(c, NULL, &code);
	c->quiet = false;
	code = CTL_OK;
	json_object_foreach (set, key, v) {
		const json_t *k = config ? live_key(config, key) : NULL;
		if (!json_is_true(json_object_get(k, "fixed")) || code != CTL_OK)
			continue;
		fprintf(stderr,
			"orchestractl: %s is fixed by %s, which wins over what is tried and over the file; take it out there and "
			"restart the daemon\n",
			key, strcmp(output_str(k, "source"), "flag") == 0 ? "the flag --set" : output_str(k, "source"));
		code = CTL_FAILED;
	}
	json_decref(config);
	return code;
}

int set_command(struct ctl *c, int argc, char **argv)
{
	struct wish w = {.watch_us = WATCH_US};
	int code = take_options(
		&w, argc, argv,
		"Usage: orchestractl set KEY VALUE [KEY VALUE]... [--for TIME] [--watch TIME] [--reason TEXT]\n"
		"Tries values on the running daemon: all of them or none, until they are unset, saved, or the daemon "
		"starts anew.\n\n"
		"  --for TIME     put back after this time (10min), whatever becomes of this program\n"
		"  --watch TIME   how long to look at requests, errors and latency before and after; default 10s, 0 = not\n"
		"  --reason TEXT  for the audit log\n"
		"Values are written as in --set: \"30 s\", \"256 MiB\", lists in JSON.");
	if (code != -1)
		return code;
	if (w.all || optind == argc || (argc - optind) % 2)
		return ctl_usage("set: expected KEY VALUE");
	json_t *set = json_object();
	for (int i = optind; i < argc && code == -1; i += 2) {
		int bad = live_check(argv[i], argv[i + 1]);
		code = bad ? bad : code;
		json_object_set_new(set, argv[i], json_string(argv[i + 1]));
	}
	if (code == -1 && w.watch_us && is_free(c, set) != CTL_OK)
		code = CTL_FAILED;
	json_t *body = json_pack("{s:o s:s* s:s*}", "set", set, "for", w.time, "reason", w.reason);
	if (code != -1) {
		json_decref(body);
		return code;
	}
	return change(c, &w, body);
}

int unset_command(struct ctl *c, int argc, char **argv)
{
	struct wish w = {.watch_us = 0};
	int code = take_options(&w, argc, argv,
				"Usage: orchestractl unset KEY... | --all [--watch TIME] [--reason TEXT]\n"
				"Takes back values that are being tried: those of the file hold again.");
	if (code != -1)
		return code;
	if (w.time || w.all == (optind < argc))
		return ctl_usage("unset: expected keys, or --all");
	json_t *keys = w.all ? json_true() : json_array();
	for (int i = optind; i < argc; i++)
		json_array_append_new(keys, json_string(argv[i]));
	return change(c, &w, json_pack("{s:o s:s s:s*}", "unset", keys, "action", "unset", "reason", w.reason));
}
