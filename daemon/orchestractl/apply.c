/* apply: daemons are made to match a file, each by one change of all that can change, and looked at again. */
#include <stdlib.h>
#include <sys/stat.h>

#include "live.h"

#define TARGETS_MAX 256

struct apply {
	struct ctl *c;
	const char *file, *time;
	bool dry, keep_going, save;
	struct conf *wanted;
	json_t *report; /* of all daemons */
	unsigned differ, failed;
};

enum sort { SAME, RELOAD, RESTART, FIXED };

static enum sort sort_of(const struct conf *wanted, enum conf_key k, const json_t *running)
{
	const char *source = conf_source(wanted, k), *want = conf_str(wanted, k);
	if (!running || strncmp(source, "file:", 5) != 0)
		return SAME; /* the file does not say */
	if (json_is_true(json_object_get(running, "secret")))
		return SAME;
	/* What depends on the machine ("" or 0 in the table) is computed there. */
	bool computed = live_is_default(output_str(running, "source")) && strcmp(want, conf_default(k)) == 0;
	if (computed || strcmp(want, output_str(running, "value")) == 0)
		return SAME;
	return json_is_true(json_object_get(running, "fixed")) ? FIXED : conf_is_reloadable(k) ? RELOAD : RESTART;
}

static const char *const sorts[] = {"", "reload", "restart", "fixed"};

/* {differences: […]}, and what can be set. */
static json_t *compare(struct apply *a, const json_t *config, json_t *set)
{
	json_t *list = json_array();
	for (int i = 0; i < CONF_KEY_COUNT; i++) {
		enum conf_key k = (enum conf_key)i;
		const json_t *running = live_key(config, conf_key_name(k));
		enum sort sort = sort_of(a->wanted, k, running);
		if (sort == SAME)
			continue;
		json_array_append_new(list,
				      json_pack("{s:s s:s s:s s:s s:s s:s}", "key", conf_key_name(k), "running",
						output_str(running, "value"), "running_source",
						output_str(running, "source"), "wanted", conf_str(a->wanted, k),
						"wanted_source", conf_source(a->wanted, k), "change", sorts[sort]));
		if (sort == RELOAD)
			json_object_set_new(set, conf_key_name(k), json_string(conf_str(a->wanted, k)));
	}
	return list;
}

static void show(const struct apply *a, const char *name, json_t *list)
{
	size_t i;
	json_t *o;
	const struct ctl *c = a->c;
	if (c->json)
		return;
	printf("%s%s%s%s\n", output_colour(c, C_BOLD), name, output_colour(c, C_PLAIN),
	       json_array_size(list) ? "" : ": as the file says");
	json_array_foreach (list, i, o) {
		bool reload = strcmp(output_str(o, "change"), "reload") == 0;
		printf("  %s%-8s%s %-28s ", output_colour(c, reload ? C_GREEN : C_YELLOW), output_str(o, "change"),
		       output_colour(c, C_PLAIN), output_str(o, "key"));
		output_line(output_str(o, "running"), 40);
		fputs(" → ", stdout);
		output_line(output_str(o, "wanted"), 40);
		if (strcmp(output_str(o, "change"), "fixed") == 0)
			printf("  (%s)", output_str(o, "running_source"));
		putchar('\n');
	}
}

/* Is it what was asked for? */
static int verify(struct apply *a, const json_t *set, json_t **config_io)
{
	const char *key;
	json_t *v;
	int code;
	json_decref(*config_io);
	*config_io = live_fetch(a->c, NULL, &code);
	if (!*config_io)
		return code;
	json_object_foreach ((json_t *)(uintptr_t)set, key, v) {
		if (strcmp(json_string_value(v), output_str(live_key(*config_io, key), "value")) == 0)
			continue;
		fprintf(stderr, "orchestractl: %s of %s is not what was set: somebody else has changed it since\n", key,
			a->c->socket);
		code = CTL_FAILED;
	}
	return code;
}

static int save(struct apply *a, const json_t *set, const json_t *config)
{
	const char *keys[CONF_KEY_COUNT], *key;
	json_t *v;
	size_t n = 0;
	if (a->c->url) {
		fprintf(stderr,
			"orchestractl: --save: the file of %s is not on this machine; run \"orchestractl config save\" there\n",
			a->c->url);
		return CTL_FAILED;
	}
	json_object_foreach ((json_t *)(uintptr_t)set, key, v) {
		keys[n++] = key;
	}
	return save_keys(a->c, config, keys, n, NULL);
}

static int carry_out(struct apply *a, json_t *set, json_t **config_io)
{
	int code;
	json_t *o = live_patch(
		a->c, json_pack("{s:O s:s s:s s:s*}", "set", set, "action", "apply", "file", a->file, "for", a->time),
		&code);
	if (!o)
		return code;
	live_say_audit(o);
	json_decref(o);
	code = verify(a, set, config_io);
	if (code == CTL_OK && a->save)
		code = save(a, set, *config_io);
	if (code == CTL_OK && !a->c->json)
		printf("  %zu set and read back%s\n", json_object_size(set),
		       a->save ? ", and saved" : "; they are tried: orchestractl config save keeps them");
	return code;
}

static void report(struct apply *a, const char *name, json_t *list, int code)
{
	json_array_append_new(a->report, json_pack("{s:s s:O s:s}", "daemon", name, "differences", list, "result",
						   code != CTL_OK		? "failed"
						   : json_array_size(list) == 0 ? "same"
						   : a->dry			? "differs"
										: "applied"));
}

static int one(struct apply *a, const char *name)
{
	int code;
	json_t *set = json_object(), *list = json_array(), *config = live_fetch(a->c, NULL, &code);
	if (config) {
		json_decref(list);
		list = compare(a, config, set);
		show(a, name, list);
		a->differ += json_array_size(list) > (a->dry ? 0 : json_object_size(set));
		if (!a->dry && json_object_size(set))
			code = carry_out(a, set, &config);
	}
	report(a, name, list, code);
	a->failed += code != CTL_OK;
	json_decref(set);
	json_decref(list);
	json_decref(config);
	return code;
}

static int all(struct apply *a, char *to)
{
	struct ctl *c = a->c;
	const char *own = c->socket;
	int code = CTL_OK;
	for (char *next = to; next && (code == CTL_OK || a->keep_going);) {
		char *name = strsep(&next, ",");
		if (!*name)
			continue;
		int rc = client_aim(c, name);
		rc = rc == CTL_OK ? one(a, name) : rc;
		code = rc == CTL_OK ? code : rc;
		if (rc != CTL_OK && next && !a->keep_going)
			fprintf(stderr,
				"orchestractl: stopped at %s; the daemons behind it are as they were (--keep-going goes on)\n",
				name);
	}
	c->socket = own;
	c->url = NULL;
	return code;
}

static int run(struct apply *a, const char *to)
{
	char *names = util_strndup(to, strlen(to));
	a->wanted = live_read_file(a->file);
	a->report = json_array();
	int code = a->wanted ? all(a, names) : CTL_FAILED;
	if (a->c->json && a->wanted) {
		json_t *o = json_pack("{s:s s:b s:O}", "file", a->file, "dry_run", a->dry, "daemons", a->report);
		json_dumpf(o, stdout, JSON_COMPACT);
		putchar('\n');
		json_decref(o);
	} else if (code == CTL_OK && a->differ && !a->dry) {
		puts("What needs a restart, or is fixed by a flag or the environment, differs still.");
	}
	free(names);
	json_decref(a->report);
	conf_free(&a->wanted);
	return code == CTL_OK && a->differ ? CTL_FAILED : code;
}

static const char usage[] =
	"Usage: orchestractl apply FILE --dry-run | --apply [--to SOCKET|URL,...] [--for TIME] [--save] [--keep-going]\n"
	"Makes daemons match a configuration file, in the keys that the file names. Everything that can change in a running daemon\n"
	"changes at once, or nothing does; then it is read back. What needs a restart is only reported.\n\n"
	"  --dry-run      shows what differs, and exits with 1 if anything does\n"
	"  --apply        does it; the values are tried, like those of orchestractl set\n"
	"  --to LIST      Unix sockets, http:// or https:// addresses, with commas between; else the one of --socket\n"
	"  --for TIME     put back after this time\n"
	"  --save         into the file of each daemon as well; for daemons of this machine\n"
	"  --keep-going   does not stop at the first daemon that fails\n"
	"  --cacert FILE  authorities that certificates may come from";

int apply_command(struct ctl *c, int argc, char **argv)
{
	static const struct option options[] = {
		{"dry-run", no_argument, NULL, 'd'},
		{"apply", no_argument, NULL, 'a'},
		{"to", required_argument, NULL, 't'},
		{"for", required_argument, NULL, 'f'},
		{"save", no_argument, NULL, 's'},
		{"keep-going", no_argument, NULL, 'k'},
		{"cacert", required_argument, NULL, 'c'},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	struct apply a = {.c = c};
	const char *to = c->socket;
	bool now = false;
	int64_t us;
	int opt;
	while ((opt = ctl_options(argc, argv, ":", options)) != -1) {
		switch (opt) {
		case 'd': a.dry = true; break;
		case 'a': now = true; break;
		case 't': to = optarg; break;
		case 'f':
			if (!live_duration("--for", optarg, &us))
				return CTL_USAGE;
			a.time = optarg;
			break;
		case 's': a.save = true; break;
		case 'k': a.keep_going = true; break;
		case 'c': c->cacert = optarg; break;
		case 'h': puts(usage); return CTL_OK;
		default: return CTL_USAGE;
		}
	}
	if (optind + 1 != argc)
		return ctl_usage("apply: expected one FILE");
	if (a.dry == now)
		return ctl_usage("apply: say either --dry-run or --apply");
	if (a.save && (a.dry || a.time))
		return ctl_usage("apply: --save goes with --apply, and not with --for");
	a.file = argv[optind];
	return run(&a, to);
}
