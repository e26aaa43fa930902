/* audit: who changed what, and whether anybody changed that. */
#include "audit.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"
#include "conf.h"
#include "ctl.h"

#define FOLLOW_US 500000
#define TORN_TRIES 20 /* an entry may be half written when it is looked at */
#define TORN_US 100000

struct query {
	const char *who, *what, *key, *dir, *expect;
	char since[CLOCK_TEXT + 1], limit[24];
	bool follow;
};

static const char usage[] =
	"Usage: orchestractl audit [--since TIME] [--who WHO] [--what WHAT] [--key KEY] [--limit N] [--follow]\n"
	"       orchestractl audit verify [--dir DATA_DIR] [--expect HASH]\n"
	"Prints the audit log, oldest first: the newest 100 entries, or those that are asked for. verify walks the chain of hashes through\n"
	"all files and says where it breaks.\n\n"
	"  --since TIME   2026-11-22T05:47:03Z, or how long ago: 2h\n"
	"  --who WHO      uid:1000, token:ci, signal:SIGHUP, timer\n"
	"  --what WHAT    set, unset, apply, save, tune, revert, reload, upgrade, drain, tokens, purge, erase, ...\n"
	"  --key KEY      changes of this configuration key\n"
	"  --follow       goes on with what comes\n"
	"  --dir DIR      where the files are; else the data.dir of the daemon that runs\n"
	"  --expect HASH  a hash that was noted earlier (the log of the daemon has each) must be in the chain";

/* ---- showing ---- */

static void show_changes(const json_t *o)
{
	size_t i;
	json_t *k;
	json_array_foreach (json_object_get(o, "changes"), i, k) {
		printf("  %s ", output_str(k, "key"));
		output_line(json_object_get(k, "from") ? output_str(k, "from") : "(secret)", 40);
		fputs(" → ", stdout);
		output_line(json_object_get(k, "to") ? output_str(k, "to") : "(secret)", 40);
	}
}

static void show_entry(const struct ctl *c, const json_t *o)
{
	static const char *const said[] = {"name", "receipt", "file", "reason", "error", "torn_bytes"};
	const char *result = output_str(o, "result");
	if (c->json) {
		json_dumpf(o, stdout, JSON_COMPACT | JSON_REAL_PRECISION(15));
		putchar('\n');
		return;
	}
	printf("%s%6lld%s  %.19sZ  %s%-12s%s %s", output_colour(c, C_DIM),
	       (long long)json_integer_value(json_object_get(o, "seq")), output_colour(c, C_PLAIN),
	       output_str(o, "time"), output_colour(c, C_BOLD), output_str(o, "what"), output_colour(c, C_PLAIN),
	       output_str(o, "who"));
	if (*result && strcmp(result, "applied") != 0)
		printf("  %s%s%s", output_colour(c, strcmp(result, "failed") == 0 ? C_RED : C_PLAIN), result,
		       output_colour(c, C_PLAIN));
	show_changes(o);
	json_t *k;
	size_t n;
	json_array_foreach (json_object_get(o, "settled"), n, k)
		printf("  %s", json_string_value(k));
	for (size_t i = 0; i < ARRAY_LEN(said); i++) {
		const json_t *v = json_object_get(o, said[i]);
		if (json_is_string(v)) {
			printf("  %s: ", said[i]);
			output_line(json_string_value(v), 160);
		} else if (v) {
			printf("  %s: %lld", said[i], (long long)json_integer_value(v));
		}
	}
	putchar('\n');
}

/* ---- asking ---- */

static json_t *ask(struct ctl *c, const struct query *q, const char *cursor, bool down, int *code_r)
{
	const char *const pairs[][2] = {{"who", q->who},
					{"what", q->what},
					{"key", q->key},
					{"since", *q->since ? q->since : NULL},
					{"limit", *q->limit ? q->limit : NULL},
					{"cursor", cursor},
					{"order", down ? "desc" : "asc"}};
	char *path = client_path("/v1/admin/audit", pairs, ARRAY_LEN(pairs));
	struct answer a;
	json_t *o = NULL;
	*code_r = client_request(c, "GET", path, NULL, &a);
	free(path);
	if (*code_r == CTL_OK && a.status != 200)
		*code_r = output_problem(&a);
	else if (*code_r == CTL_OK && !(o = output_parse(&a)))
		*code_r = CTL_FAILED;
	client_free(&a);
	return o;
}

/* The newest first, to be shown the other way round. */
static int show_newest(struct ctl *c, const struct query *q, char cursor[24])
{
	int code;
	json_t *all = json_array(), *o;
	char next[24] = "";
	do {
		o = ask(c, q, *next ? next : NULL, true, &code);
		json_t *entries = json_object_get(o, "entries");
		json_array_extend(all, entries);
		snprintf(next, sizeof(next), "%s", output_str(o, "next_cursor"));
		json_decref(o);
	} while (code == CTL_OK && *next && (json_array_size(all) < 100 && !*q->limit));
	for (size_t i = json_array_size(all); i-- && code == CTL_OK;)
		show_entry(c, json_array_get(all, i));
	snprintf(cursor, 24, "%lld", (long long)json_integer_value(json_object_get(json_array_get(all, 0), "seq")));
	json_decref(all);
	return code;
}

/* From the cursor to the end; with --follow on and on. */
static int show_from(struct ctl *c, const struct query *q, char cursor[24])
{
	int code = CTL_OK;
	bool more = true;
	while (code == CTL_OK && (more || q->follow)) {
		size_t i;
		json_t *e, *o = ask(c, q, strcmp(cursor, "0") == 0 ? NULL : cursor, false, &code);
		json_array_foreach (json_object_get(o, "entries"), i, e)
			show_entry(c, e);
		if (*output_str(o, "next_cursor"))
			snprintf(cursor, 24, "%s", output_str(o, "next_cursor"));
		more = json_is_true(json_object_get(o, "more"));
		json_decref(o);
		fflush(stdout);
		if (ferror(stdout))
			ctl_broken_pipe(errno);
		if (q->follow && !more && code == CTL_OK)
			usleep(FOLLOW_US);
	}
	return code;
}

static int list(struct ctl *c, const struct query *q)
{
	char cursor[24] = "0";
	int code = *q->since && !*q->limit ? CTL_OK : show_newest(c, q, cursor);
	fflush(stdout);
	if (code == CTL_OK && (q->follow || (*q->since && !*q->limit)))
		code = show_from(c, q, cursor);
	return code;
}

/* ---- verify ---- */

static char *data_dir(struct ctl *c)
{
	struct answer a;
	char *dir = NULL;
	if (client_ask(c, CLIENT_PATIENCE_MS, "GET", "/v1/admin/status", NULL, "status", &a) == CTL_OK &&
	    a.status == 200) {
		json_t *o = output_parse(&a);
		const char *s = output_str(o, "data_dir");
		dir = *s ? util_strndup(s, strlen(s)) : NULL;
		json_decref(o);
	}
	client_free(&a);
	if (!dir)
		fputs("orchestractl: audit verify: say with --dir where the data are\n", stderr);
	return dir;
}

static void show_verdict(const struct ctl *c, const struct audit_verdict *v)
{
	bool ok = v->ok && (!v->expect || v->found);
	if (c->json) {
		json_t *o = json_pack("{s:b s:I s:I s:I s:I s:s%}", "ok", ok, "entries", (json_int_t)v->entries,
				      "first", (json_int_t)v->first, "last", (json_int_t)v->last, "repaired",
				      (json_int_t)v->repaired, "head", v->head, (size_t)AUDIT_HASH);
		if (!v->ok)
			json_object_update_new(o, json_pack("{s:s s:I s:I s:s s:b}", "file", v->file, "line",
							    (json_int_t)v->line, "offset", (json_int_t)v->offset, "why",
							    v->why, "torn", v->torn));
		if (v->expect)
			json_object_set_new(o, "expected_found", json_boolean(v->found));
		json_dumpf(o, stdout, JSON_COMPACT);
		putchar('\n');
		json_decref(o);
		return;
	}
	if (!v->ok)
		printf("BROKEN: %s, line %lu (byte %llu) %s.\nUp to there %llu entries are in order, the last is %llu with hash %s.\n",
		       v->file, v->line, (unsigned long long)v->offset, v->why, (unsigned long long)v->entries,
		       (unsigned long long)v->last, v->entries ? v->head : "none");
	else if (v->entries)
		printf("%llu entries, %llu to %llu, are as they were written. The last hash is\n%s\n",
		       (unsigned long long)v->entries, (unsigned long long)v->first, (unsigned long long)v->last,
		       v->head);
	else
		puts("There are no entries.");
	if (v->repaired)
		printf("%llu torn writes (crashes) are marked.\n", (unsigned long long)v->repaired);
	if (v->expect && !v->found)
		puts("The hash that was expected is not in the chain: it was written anew since, or the entry is older than what is kept.");
}

static int verify(struct ctl *c, const struct query *q)
{
	char *found = q->dir ? NULL : data_dir(c);
	const char *path = q->dir ? q->dir : found;
	struct audit_verdict v;
	int dir = path ? open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
	bool read = dir != -1;
	for (int i = 0; i < TORN_TRIES && read; i++) {
		v = (struct audit_verdict){.expect = q->expect};
		read = audit_verify(dir, &v);
		if (!read || !v.torn || i == TORN_TRIES - 1)
			break;
		usleep(TORN_US);
	}
	if (read)
		show_verdict(c, &v);
	else if (path)
		fprintf(stderr, "orchestractl: the audit log in %s cannot be read: %s\n", path, strerror(errno));
	if (dir != -1)
		close(dir);
	free(found);
	return read && v.ok && (!v.expect || v.found) ? CTL_OK : CTL_FAILED;
}

/* ---- options ---- */

static bool take_since(struct query *q, const char *text)
{
	int64_t us;
	if (!clock_parse(text, strlen(text), &us)) {
		if (!conf_duration(SPAN(text), &us))
			return false;
		us = clock_real_us() - us;
	}
	clock_format(us, q->since);
	q->since[CLOCK_TEXT] = '\0';
	return true;
}

int audit_command(struct ctl *c, int argc, char **argv)
{
	static const struct option options[] = {
		{"since", required_argument, NULL, 's'}, {"who", required_argument, NULL, 'w'},
		{"what", required_argument, NULL, 'a'},	 {"key", required_argument, NULL, 'k'},
		{"limit", required_argument, NULL, 'n'}, {"follow", no_argument, NULL, 'f'},
		{"dir", required_argument, NULL, 'd'},	 {"expect", required_argument, NULL, 'e'},
		{"help", no_argument, NULL, 'h'},	 {0},
	};
	struct query q = {.follow = false};
	int opt;
	while ((opt = ctl_options(argc, argv, ":", options)) != -1) {
		switch (opt) {
		case 's':
			if (!take_since(&q, optarg))
				return ctl_usage("audit: --since \"%s\" is neither a time nor how long ago (2h)",
						 optarg);
			break;
		case 'w': q.who = optarg; break;
		case 'a': q.what = optarg; break;
		case 'k': q.key = optarg; break;
		case 'n': snprintf(q.limit, sizeof(q.limit), "%s", optarg); break;
		case 'f': q.follow = true; break;
		case 'd': q.dir = optarg; break;
		case 'e':
			if (strlen(optarg) != AUDIT_HASH || strspn(optarg, "0123456789abcdef") != AUDIT_HASH)
				return ctl_usage("audit verify: --expect: a hash has 64 digits (0-9, a-f)");
			q.expect = optarg;
			break;
		case 'h': puts(usage); return CTL_OK;
		default: return CTL_USAGE;
		}
	}
	bool check = optind < argc && strcmp(argv[optind], "verify") == 0;
	if (optind + check < argc)
		return ctl_usage("audit: unexpected \"%s\"", argv[optind + check]);
	if (!check && (q.dir || q.expect))
		return ctl_usage("audit: --dir and --expect go with verify");
	return check ? verify(c, &q) : list(c, &q);
}
