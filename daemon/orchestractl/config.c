/* config get, list, diff, save. */
#include <stdlib.h>

#include "live.h"

static const char usage[] =
	"Usage: orchestractl config get KEY [--source]\n"
	"       orchestractl config list [--source]\n"
	"       orchestractl config diff\n"
	"       orchestractl config save [--file FILE] [KEY]...\n"
	"       orchestractl config drift NAME=FILE|SOCKET|URL NAME=...\n"
	"get prints the effective value of a key, list those of all. diff shows what is in force beside the defaults and beside\n"
	"the file: what is tried, what flags and environment fix, what waits for a restart. save writes what is tried into the\n"
	"file that holds it (or into the daemon's main file), and leaves everything else in there as it is. drift compares\n"
	"files and daemons; it exits with 1 when they differ.\n\n"
	"  --source       where a value comes from, too\n"
	"  --file FILE    save: into this file\n"
	"  --cacert FILE  drift: authorities that an https daemon's certificate may come from";

struct wish {
	bool source;
	const char *file;
};

/* ---- get, list ---- */

/* Through the supervisor's own socket, too: it is the way to a daemon whose api workers are away. */
static int get(struct ctl *c, const struct wish *w, const char *name)
{
	struct answer a;
	struct buf path = {0}, line = {0};
	char *key = client_escape(name);
	buf_printf(&path, "/v1/admin/config/%s", key);
	buf_addc(&path, '\0');
	buf_printf(&line, "config get %s", name);
	buf_addc(&line, '\0');
	int code = client_ask(c, CLIENT_PATIENCE_MS, "GET", path.p, NULL, line.p, &a);
	if (code == CTL_OK && a.status != 200) {
		code = output_problem(&a);
	} else if (code == CTL_OK && c->json) {
		output_raw(&a);
	} else if (code == CTL_OK) {
		json_t *o = output_parse(&a);
		printf(w->source ? "%s  (%s)\n" : "%s\n", output_str(o, "value"), output_str(o, "source"));
		code = o ? CTL_OK : CTL_FAILED;
		json_decref(o);
	}
	free(key);
	buf_free(&path);
	buf_free(&line);
	client_free(&a);
	return code;
}

static int list(struct ctl *c, const struct wish *w, const json_t *config)
{
	size_t i;
	json_t *k;
	if (c->json) {
		json_dumpf(config, stdout, JSON_COMPACT);
		putchar('\n');
		return CTL_OK;
	}
	json_array_foreach (json_object_get(config, "keys"), i, k) {
		printf("%s = ", output_str(k, "key"));
		live_print_value(k);
		if (w->source)
			printf("  %s(%s)%s", output_colour(c, C_DIM), output_str(k, "source"),
			       output_colour(c, C_PLAIN));
		putchar('\n');
	}
	return CTL_OK;
}

/* ---- diff ---- */

/* Why a value is not the file's; NULL: it is. */
static const char *why_other(const json_t *k, const struct conf *file, enum conf_key key, char out[200])
{
	const char *source = output_str(k, "source"), *fsource = conf_source(file, key);
	const json_t *tried = json_object_get(k, "tried"), *left = json_object_get(tried, "left_ms");
	char time[16];
	if (strcmp(source, CONF_SOURCE_TRIED) == 0) {
		output_duration(json_number_value(left) / 1000, time);
		snprintf(out, 200, "tried by %s%s%s", output_str(tried, "who"), left ? ", put back in " : "",
			 left ? time : "");
		return out;
	}
	bool fixed = json_is_true(json_object_get(k, "fixed"));
	if (fixed)
		snprintf(out, 200, "fixed by %s", strcmp(source, "flag") == 0 ? "the flag --set" : source);
	else if (live_is_default(source) && live_is_default(fsource))
		return NULL;
	else if (json_is_true(json_object_get(k, "secret")) || strcmp(output_str(k, "value"), conf_str(file, key)) == 0)
		return NULL;
	else
		snprintf(out, 200, "%s",
			 json_is_true(json_object_get(k, "reloadable")) ? "changed in the file: orchestractl reload"
									: "changed in the file: needs a restart");
	return out;
}

static void add_diff(json_t *list, const json_t *k, const char *other, const char *why)
{
	json_t *o = json_pack("{s:s s:O s:s s:s s:s*}", "key", output_str(k, "key"), "value",
			      json_object_get(k, "value"), "source", output_str(k, "source"), "other", other, "why",
			      why);
	json_array_append_new(list, o);
}

static void show_diff(struct ctl *c, const json_t *list, const char *title, const char *other)
{
	size_t i;
	json_t *o;
	if (title)
		printf("%s%s%s\n", output_colour(c, C_BOLD), title, output_colour(c, C_PLAIN));
	json_array_foreach ((json_t *)(uintptr_t)list, i, o) {
		printf("  %-28s ", output_str(o, "key"));
		if (json_is_null(json_object_get(o, "value")))
			fputs("(secret)", stdout);
		else
			output_line(output_str(o, "value"), 48);
		if (!json_is_null(json_object_get(o, "value"))) {
			printf("  %s%s ", output_colour(c, C_DIM), other);
			output_line(*output_str(o, "other") ? output_str(o, "other") : "\"\"", 32);
			fputs(output_colour(c, C_PLAIN), stdout);
		}
		printf("  (%s)\n", *output_str(o, "why") ? output_str(o, "why") : output_str(o, "source"));
	}
	if (!json_array_size(list))
		puts("  nothing");
}

static int diff(struct ctl *c, const json_t *config)
{
	const char *path = json_string_value(json_object_get(config, "file"));
	struct conf *file = path ? live_read_file(path) : NULL;
	json_t *defaults = json_array(), *others = json_array(), *k;
	char why[200];
	size_t i;
	json_array_foreach (json_object_get(config, "keys"), i, k) {
		const char *name = output_str(k, "key");
		int key = conf_find(name, strlen(name));
		if (!live_is_default(output_str(k, "source")))
			add_diff(defaults, k, output_str(k, "default"), NULL);
		if (file && key >= 0 && why_other(k, file, (enum conf_key)key, why))
			add_diff(others, k,
				 json_is_null(json_object_get(k, "value")) ? "" : conf_str(file, (enum conf_key)key),
				 why);
	}
	if (c->json) {
		json_t *o = json_pack("{s:O s:o s:O}", "defaults", defaults, "file",
				      path ? json_string(path) : json_null(), "others", others);
		json_dumpf(o, stdout, JSON_COMPACT);
		putchar('\n');
		json_decref(o);
	} else {
		show_diff(c, defaults, "Other than the defaults", "default");
		printf("%sOther than the file%s %s\n", output_colour(c, C_BOLD), output_colour(c, C_PLAIN),
		       file   ? path
		       : path ? "(it cannot be read here)"
			      : "(the daemon was started without one)");
		if (file)
			show_diff(c, others, NULL, "in the file");
	}
	json_decref(defaults);
	json_decref(others);
	conf_free(&file);
	return CTL_OK;
}

/* ---- save ---- */

static int save(struct ctl *c, const struct wish *w, const json_t *config, int argc, char **argv)
{
	const char *keys[CONF_KEY_COUNT];
	size_t n = 0, i;
	json_t *t;
	json_array_foreach (json_object_get(config, "tried"), i, t) {
		bool wanted = argc == 0;
		for (int a = 0; a < argc; a++)
			wanted |= strcmp(argv[a], output_str(t, "key")) == 0;
		if (wanted && n < CONF_KEY_COUNT)
			keys[n++] = output_str(t, "key");
	}
	for (int a = 0; a < argc; a++) {
		bool found = false;
		for (i = 0; i < n; i++)
			found |= strcmp(argv[a], keys[i]) == 0;
		if (!found)
			return ctl_usage("config save: %s is not being tried; orchestractl config diff shows what is",
					 argv[a]);
	}
	if (n == 0) {
		puts(c->json ? "{\"saved\":[]}" : "Nothing is being tried: there is nothing to save.");
		return CTL_OK;
	}
	int code = save_keys(c, config, keys, n, w->file);
	for (i = 0; i < n && code == CTL_OK && !c->json; i++)
		printf("%s %s = %s\n", w->file ? "saved" : "kept", keys[i],
		       output_str(live_key(config, keys[i]), "value"));
	if (code == CTL_OK && c->json) {
		json_t *saved = json_array(), *o = json_pack("{s:o}", "saved", saved);
		for (i = 0; i < n; i++)
			json_array_append_new(saved, json_string(keys[i]));
		json_dumpf(o, stdout, JSON_COMPACT);
		putchar('\n');
		json_decref(o);
	}
	return code;
}

/* ---- all ---- */

static int with_config(struct ctl *c, const struct wish *w, const char *verb, int argc, char **argv)
{
	int code;
	json_t *config = live_fetch(c, NULL, &code);
	if (!config)
		return code;
	code = strcmp(verb, "list") == 0   ? list(c, w, config)
	       : strcmp(verb, "diff") == 0 ? diff(c, config)
					   : save(c, w, config, argc, argv);
	json_decref(config);
	return code;
}

int config_command(struct ctl *c, int argc, char **argv)
{
	static const struct option options[] = {
		{"source", no_argument, NULL, 's'},
		{"file", required_argument, NULL, 'f'},
		{"cacert", required_argument, NULL, 'c'},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	struct wish w = {.source = false};
	int opt;
	while ((opt = ctl_options(argc, argv, ":", options)) != -1) {
		switch (opt) {
		case 's': w.source = true; break;
		case 'f': w.file = optarg; break;
		case 'c': c->cacert = optarg; break;
		case 'h': puts(usage); return CTL_OK;
		default: return CTL_USAGE;
		}
	}
	const char *verb = optind < argc ? argv[optind++] : "";
	int n = argc - optind;
	if (strcmp(verb, "get") == 0 && n == 1 && !strchr(argv[optind], '\n'))
		return get(c, &w, argv[optind]);
	if (strcmp(verb, "drift") == 0)
		return drift_run(c, n, argv + optind);
	if ((n == 0 && (strcmp(verb, "list") == 0 || strcmp(verb, "diff") == 0)) || strcmp(verb, "save") == 0)
		return with_config(c, &w, verb, n, argv + optind);
	return ctl_usage("config: expected \"get KEY\", list, diff, save or drift");
}
