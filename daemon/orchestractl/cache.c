/* cache: what the tiers hold, why a memory is seen as it is, and how to make them forget. */
#include <stdlib.h>

#include "ctl.h"

static const char usage[] =
	"Usage: orchestractl cache stats\n"
	"       orchestractl cache top [--class CLASS] [--limit N]\n"
	"       orchestractl cache inspect ID\n"
	"       orchestractl cache purge [--tier l1|l2|all] [--class CLASS] ID | --namespace NAME | --class CLASS | --all\n"
	"stats shows what shared memory (l1) and Redis (l2) hold and how often they had what was asked for; top the entries of\n"
	"l1 that are wanted most; inspect what each tier has of a memory, and which one answers. purge drops entries; they are\n"
	"read again from the store. CLASS is memory, search or vector. purge is about l1 unless --tier says otherwise, and\n"
	"wants --all for everything.";

static json_int_t number(const json_t *o, const char *key) { return json_integer_value(json_object_get(o, key)); }
static bool truth(const json_t *o, const char *key) { return json_is_true(json_object_get(o, key)); }

static const char *seconds_of(const json_t *o, const char *key, char out[16])
{
	const json_t *v = json_object_get(o, key);
	if (v)
		output_duration(json_number_value(v), out);
	else
		snprintf(out, 16, "-");
	return out;
}

static const char *bytes_of(const json_t *o, const char *key, char out[16])
{
	output_bytes((double)number(o, key), out);
	return out;
}

static void head(struct ctl *c, const char *line)
{
	printf("%s%s%s\n", output_colour(c, C_DIM), line, output_colour(c, C_PLAIN));
}

/* ---- stats ---- */

static void show_class(const char *name, const json_t *o)
{
	char bytes[16], age[16], n[8][24], ratio[16] = "-";
	const json_t *r = json_object_get(o, "hit_ratio");
	if (r)
		snprintf(ratio, sizeof(ratio), "%.1f%%", 100 * json_number_value(r));
	printf("%-7s %9s %10s %6s %10s %8s %8s %8s %9s %9s %8s %8s\n", name, output_count(o, "entries", n[0]),
	       bytes_of(o, "bytes", bytes), ratio, output_count(o, "hits", n[1]), output_count(o, "misses", n[2]),
	       output_count(o, "negative_hits", n[3]), output_count(o, "stale_hits", n[4]),
	       output_count(o, "collapsed", n[5]), output_count(o, "refreshes", n[6]),
	       output_count(o, "evictions", n[7]), seconds_of(o, "mean_age_at_eviction_s", age));
}

static void show_redis(struct ctl *c, const json_t *o)
{
	const json_t *s = json_object_get(o, "server");
	char used[16], most[16];
	fputs("l2  ", stdout);
	if (!truth(o, "configured")) {
		puts("no Redis");
		return;
	}
	bool up = truth(o, "reachable");
	printf("%s%s%s, breaker %s", output_colour(c, up ? C_GREEN : C_RED), up ? "reachable" : "not reachable",
	       output_colour(c, C_PLAIN), *output_str(o, "breaker") ? output_str(o, "breaker") : "unknown");
	if (s)
		printf(", Redis %s %s: %s, %s%s (%s), %lld keys, %lld evicted", output_str(s, "version"),
		       output_str(s, "mode"), bytes_of(s, "used_memory_bytes", used),
		       number(s, "maxmemory_bytes") ? "limit " : "no limit",
		       number(s, "maxmemory_bytes") ? bytes_of(s, "maxmemory_bytes", most) : "",
		       output_str(s, "maxmemory_policy"), (long long)number(s, "keys"),
		       (long long)number(s, "evicted_keys"));
	if (*output_str(o, "error")) {
		fputs(": ", stdout);
		output_line(output_str(o, "error"), 0);
	}
	printf("\n    read: %lld hits, %lld misses, %lld errors, %lld refused, %lld not believed; written: %lld kept, %lld errors, "
	       "%lld dropped\n",
	       (long long)number(o, "hits"), (long long)number(o, "misses"), (long long)number(o, "errors"),
	       (long long)number(o, "refused"), (long long)number(o, "distrusted"), (long long)number(o, "puts"),
	       (long long)number(o, "put_errors"), (long long)number(o, "drops"));
}

static void show_feed(struct ctl *c, const json_t *o)
{
	const json_t *feed = json_object_get(o, "feed");
	char silent[16];
	if (!truth(feed, "fleet"))
		return; /* nobody else writes to this store */
	bool heard = truth(feed, "heard");
	printf("feed  %s%s%s, last %s ago, revision %lld; %lld notices by Redis\n",
	       output_colour(c, heard ? C_GREEN : C_RED), heard ? "heard" : "silent", output_colour(c, C_PLAIN),
	       seconds_of(feed, "silent_s", silent), (long long)number(feed, "revision"),
	       (long long)number(o, "notices"));
}

static void show_stats(struct ctl *c, const json_t *o)
{
	json_t *l1 = json_object_get(o, "l1"), *classes = json_object_get(l1, "classes"), *v;
	const json_t *loads = json_object_get(o, "loads");
	char used[16], capacity[16];
	const char *name;
	double full = number(l1, "capacity_bytes")
			      ? (double)number(l1, "used_bytes") / (double)number(l1, "capacity_bytes")
			      : 0;
	printf("l1  %s of %s (%.0f%%), %lld entries", bytes_of(l1, "used_bytes", used),
	       bytes_of(l1, "capacity_bytes", capacity), 100 * full, (long long)number(l1, "entries"));
	if (number(l1, "emptied_shards"))
		printf(", %s%lld shards emptied%s", output_colour(c, C_YELLOW), (long long)number(l1, "emptied_shards"),
		       output_colour(c, C_PLAIN));
	puts("\n");
	head(c,
	     "CLASS     ENTRIES      BYTES   HITS%       HITS   MISSES NEGATIVE    STALE COLLAPSED REFRESHED  EVICTED "
	     "MEAN AGE");
	json_object_foreach (classes, name, v)
		show_class(name, v);
	printf("\nmisses found in: journal %lld, l2 %lld, store %lld\n", (long long)number(loads, "journal"),
	       (long long)number(loads, "l2"), (long long)number(loads, "store"));
	show_redis(c, json_object_get(o, "l2"));
	show_feed(c, o);
}

/* ---- top ---- */

static void show_entry(const json_t *e)
{
	char bytes[16], age[16], fresh[16], gone[16];
	printf("%-36s %-7s %6lld %-4s %9lld %9s %9s %-7s %8s %8s  ", output_str(e, "key"), output_str(e, "class"),
	       (long long)number(e, "heat"), truth(e, "main") ? "yes" : "no", (long long)number(e, "version"),
	       bytes_of(e, "bytes", bytes), seconds_of(e, "age_s", age),
	       truth(e, "negative") ? "none" : output_str(e, "state"), seconds_of(e, "fresh_for_s", fresh),
	       seconds_of(e, "gone_in_s", gone));
	output_line(output_str(e, "namespace"), 0);
	putchar('\n');
}

static void show_top(struct ctl *c, const json_t *o)
{
	json_t *e, *v = json_object_get(o, "entries");
	size_t i;
	if (!json_array_size(v)) {
		puts("There are no entries.");
		return;
	}
	head(c,
	     "KEY                                  CLASS     HEAT MAIN   VERSION     BYTES       AGE STATE      FRESH     GONE  "
	     "NAMESPACE");
	json_array_foreach (v, i, e)
		show_entry(e);
	printf("%zu of %lld entries\n", json_array_size(v), (long long)number(o, "of"));
}

/* ---- inspect ---- */

static void show_l1(const json_t *o)
{
	char age[16], left[16];
	if (!truth(o, "present")) {
		puts("-");
		return;
	}
	if (truth(o, "negative"))
		fputs("knows that there is none", stdout);
	else
		printf("version %lld (%s)", (long long)number(o, "version"), output_str(o, "class"));
	printf(", %s, %s old", output_str(o, "state"), seconds_of(o, "age_s", age));
	if (json_object_get(o, "fresh_for_s"))
		printf(", fresh for %s", seconds_of(o, "fresh_for_s", left));
	if (json_object_get(o, "gone_in_s"))
		printf(", gone in %s", seconds_of(o, "gone_in_s", left));
	printf(", %lld bytes, %lld hits, %s log\n", (long long)number(o, "bytes"), (long long)number(o, "hits"),
	       truth(o, "main") ? "main" : "small");
}

static void show_l2(struct ctl *c, const json_t *o)
{
	if (!truth(o, "asked") || !truth(o, "present")) {
		output_line(*output_str(o, "why") ? output_str(o, "why") : "-", 0);
		putchar('\n');
		return;
	}
	bool believed = truth(o, "believed");
	printf("version %lld, of revision %lld, %lld bytes, %s%s%s", (long long)number(o, "version"),
	       (long long)number(o, "revision"), (long long)number(o, "bytes"),
	       output_colour(c, believed ? C_GREEN : C_YELLOW), believed ? "believed" : "not believed",
	       output_colour(c, C_PLAIN));
	if (!believed)
		printf(": %s", output_str(o, "why"));
	putchar('\n');
}

/* Of what is pending, and of the store. */
static void show_plain(const json_t *o)
{
	if (truth(o, "present"))
		printf("version %lld%s%s\n", (long long)number(o, "version"), truth(o, "deleted") ? ", deleted" : "",
		       truth(o, "expired") ? ", expired" : "");
	else
		output_line(*output_str(o, "why") ? output_str(o, "why") : "-", 0), putchar('\n');
}

static void show_inspection(struct ctl *c, const json_t *o)
{
	static const char *const tiers[] = {"l1", "pending", "l2", "store"};
	const char *ns = "", *from = output_str(o, "served_from");
	for (size_t i = 0; i < ARRAY_LEN(tiers) && !*ns; i++)
		ns = output_str(json_object_get(o, tiers[i]), "namespace");
	printf("id         %s\nnamespace  ", output_str(o, "id"));
	output_line(*ns ? ns : "-", 0);
	fputs("\nl1         ", stdout);
	show_l1(json_object_get(o, "l1"));
	fputs("pending    ", stdout);
	show_plain(json_object_get(o, "pending"));
	fputs("l2         ", stdout);
	show_l2(c, json_object_get(o, "l2"));
	fputs("store      ", stdout);
	show_plain(json_object_get(o, "store"));
	printf("a read is answered by %s%s%s\n", output_colour(c, C_BOLD),
	       *from ? from : "nobody: the store cannot be read", output_colour(c, C_PLAIN));
}

/* ---- purge ---- */

static void show_purged(struct ctl *c, const json_t *o)
{
	char n[24];
	(void)c;
	if (json_object_get(o, "l1"))
		printf("l1: %s purged\n", output_count(o, "l1", n));
	if (json_object_get(o, "l2"))
		printf("l2: %s purged\n", output_count(o, "l2", n));
}

/* ---- asking ---- */

struct given {
	const char *tier, *cls, *limit, *id;
	bool all;
};

/* False: said what is wrong. */
static bool options(int argc, char **argv, struct given *g)
{
	static const struct option names[] = {{"tier", required_argument, NULL, 't'},
					      {"class", required_argument, NULL, 'c'},
					      {"limit", required_argument, NULL, 'l'},
					      {"all", no_argument, NULL, 'a'},
					      {0}};
	int opt;
	while ((opt = ctl_options(argc, argv, ":", names)) != -1) {
		switch (opt) {
		case 't': g->tier = optarg; break;
		case 'c': g->cls = optarg; break;
		case 'l': g->limit = optarg; break;
		case 'a': g->all = true; break;
		default: return false;
		}
	}
	if (argc - optind > 1) {
		ctl_usage("cache: unexpected \"%s\"", argv[optind + 1]);
		return false;
	}
	g->id = optind < argc ? argv[optind] : NULL;
	return true;
}

static int top(struct ctl *c, const struct given *g)
{
	const char *const pairs[][2] = {{"class", g->cls}, {"limit", g->limit}};
	char *path = client_path("/v1/admin/cache/top", pairs, ARRAY_LEN(pairs));
	int code = client_show(c, "GET", path, NULL, show_top);
	free(path);
	return code;
}

static int inspect(struct ctl *c, const struct given *g)
{
	struct buf path = {0};
	char *id = client_escape(g->id);
	buf_printf(&path, "/v1/admin/cache/%s", id);
	buf_addc(&path, '\0');
	int code = client_show(c, "GET", path.p, NULL, show_inspection);
	buf_free(&path);
	free(id);
	return code;
}

static int purge(struct ctl *c, const struct given *g)
{
	const char *const fields[][2] = {
		{"tier", g->tier}, {"class", g->cls}, {"namespace", c->namespace}, {"id", g->id}};
	bool some = g->id || g->cls || c->namespace;
	if (some == g->all)
		return ctl_usage(
			g->all ? "cache purge: --all is everything; leave it out, or ID, --namespace and --class"
			       : "cache purge: expected an ID, --namespace, --class or --all");
	json_t *o = json_object();
	for (size_t i = 0; i < ARRAY_LEN(fields); i++)
		if (fields[i][1] && json_object_set_new(o, fields[i][0], json_string(fields[i][1])) != 0) {
			json_decref(o);
			return ctl_usage("cache purge: --%s: is no UTF-8", fields[i][0]);
		}
	char *body = json_dumps(o, JSON_COMPACT);
	json_decref(o);
	int code = client_show(c, "POST", "/v1/admin/cache:purge", body, show_purged);
	free(body);
	return code;
}

int cache_command(struct ctl *c, int argc, char **argv)
{
	struct given g = {0};
	const char *verb = argc > 1 ? argv[1] : "";
	if (argc > 1 && strcmp(argv[argc - 1], "--help") == 0) {
		puts(usage);
		return CTL_OK;
	}
	bool is_top = strcmp(verb, "top") == 0, is_purge = strcmp(verb, "purge") == 0,
	     is_inspect = strcmp(verb, "inspect") == 0;
	if (!is_top && !is_purge && !is_inspect && strcmp(verb, "stats") != 0)
		return ctl_usage("cache: expected \"stats\", \"top\", \"inspect ID\" or \"purge\"");
	if (!options(argc - 1, argv + 1, &g))
		return CTL_USAGE;
	const char *stray = g.limit && !is_top		       ? "--limit"
			    : g.tier && !is_purge	       ? "--tier"
			    : g.all && !is_purge	       ? "--all"
			    : g.cls && !is_top && !is_purge    ? "--class"
			    : g.id && !is_purge && !is_inspect ? g.id
							       : NULL;
	if (stray)
		return ctl_usage("cache %s: unexpected \"%s\"", verb, stray);
	if (is_inspect && !g.id)
		return ctl_usage("cache inspect: expected the ID of a memory");
	return is_purge	    ? purge(c, &g)
	       : is_top	    ? top(c, &g)
	       : is_inspect ? inspect(c, &g)
			    : client_show(c, "GET", "/v1/admin/cache", NULL, show_stats);
}
