/* changes: what was changed, from a place in the feed to its end, or on and on. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ctl.h"

#define PAGE "500"
#define WAIT "30"	     /* seconds that the daemon waits for a change; it allows 60 */
#define AGAIN_US 500000	     /* between questions to a daemon that is away … */
#define AGAIN_MAX_US 8000000 /* … at most */

static int help(void)
{
	puts("Usage: orchestractl changes [OPTION]...\n"
	     "Prints what was changed: time, type, namespace, id and version, one change a line, and at the end the cursor\n"
	     "behind the last one, on standard error.\n"
	     "\n"
	     "  --after CURSOR   begins behind this cursor; without it, now\n"
	     "  --follow         waits for more, through restarts of the daemon, until interrupted\n"
	     "\n"
	     "With --namespace, of that namespace only. With --json, the daemon's pages, one a line, each with its cursor.");
	return CTL_OK;
}

static void show(const json_t *changes)
{
	size_t i;
	const json_t *c;
	json_array_foreach (changes, i, c) {
		const json_t *version = json_object_get(c, "version");
		printf("%s %-14s ", output_str(c, "at"), output_str(c, "type"));
		output_line(output_str(c, "namespace"), 0);
		if (version)
			printf(" %s %lld", output_str(c, "id"), (long long)json_integer_value(version));
		putchar('\n');
	}
	fflush(stdout);
}

static void set_cursor(char **cursor, const char *to)
{
	free(*cursor);
	*cursor = util_strndup(to, strlen(to));
}

/* What a page says: prints it, moves the cursor. False: it is no page. */
static bool take(struct ctl *c, const struct answer *a, bool follow, char **cursor, bool *more_r)
{
	json_t *o = output_parse(a);
	if (!o)
		return false;
	const json_t *changes = json_object_get(o, "changes");
	*more_r = json_is_true(json_object_get(o, "more"));
	set_cursor(cursor, output_str(o, "cursor"));
	if (!c->json) {
		show(changes);
	} else if (json_array_size(changes) || (!*more_r && !follow)) {
		output_raw(a);
		fflush(stdout);
	}
	json_decref(o);
	return true;
}

static int refused(const struct answer *a)
{
	int code = output_problem(a);
	json_t *o = a->status == 410 ? output_parse(a) : NULL;
	if (o)
		fprintf(stderr, "cursor %s\n", output_str(o, "cursor"));
	json_decref(o);
	return code;
}

/* A follower waits for a daemon that is away or whose store is, and does not say so each time. */
static bool comes_back(const struct ctl *c, int code, const struct answer *a)
{
	return code == CTL_UNREACHABLE || (code == CTL_FAILED && c->quiet) || a->status == 503;
}

static int run(struct ctl *c, bool follow, char **cursor)
{
	useconds_t pause = AGAIN_US;
	for (;;) {
		const char *const pairs[][2] = {{"after", *cursor},
						{"limit", PAGE},
						{"wait", follow && *cursor ? WAIT : NULL},
						{"namespace", c->namespace}};
		struct answer a;
		char *path = client_path("/v1/changes", pairs, ARRAY_LEN(pairs));
		bool more = false;
		int code = client_request(c, "GET", path, NULL, &a);
		free(path);
		if (*cursor && follow && comes_back(c, code, &a)) {
			c->quiet = true;
			client_free(&a);
			usleep(pause);
			pause = pause * 2 < AGAIN_MAX_US ? pause * 2 : AGAIN_MAX_US;
			continue;
		}
		if (code == CTL_OK && a.status != 200)
			code = refused(&a);
		else if (code == CTL_OK && !take(c, &a, follow, cursor, &more))
			code = CTL_FAILED;
		client_free(&a);
		c->quiet = follow;
		pause = AGAIN_US;
		if (code != CTL_OK || ferror(stdout) || (!follow && !more))
			return code;
	}
}

int changes_command(struct ctl *c, int argc, char **argv)
{
	static const struct option options[] = {{"after", required_argument, NULL, 'a'},
						{"follow", no_argument, NULL, 'f'},
						{"help", no_argument, NULL, 'h'},
						{0}};
	char *cursor = NULL;
	bool follow = false;
	int opt;
	while ((opt = ctl_options(argc, argv, ":a:fh", options)) != -1) {
		switch (opt) {
		case 'a': set_cursor(&cursor, optarg); break;
		case 'f': follow = true; break;
		case 'h': free(cursor); return help();
		default: free(cursor); return CTL_USAGE;
		}
	}
	if (optind != argc) {
		free(cursor);
		return ctl_usage("changes: \"%s\" is too much; a cursor stands behind --after", argv[optind]);
	}
	int code = run(c, follow, &cursor);
	if (code == CTL_OK)
		fprintf(stderr, "cursor %s\n", cursor);
	free(cursor);
	return code;
}
