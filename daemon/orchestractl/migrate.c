/* migrate: the schema of the store, and what else is done to a database by hand. */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "store.h"

#define CONNECT_US 10000000
#define WAIT_US 60000000

int store_failed(enum store_rc rc, const struct pg_plain *p, char *error)
{
	fprintf(stderr, "orchestractl: %s\n", error ? error : p ? pg_plain_error(p) : "the store cannot be used");
	free(error);
	return rc == STORE_AWAY ? CTL_UNREACHABLE : CTL_FAILED;
}

/* ---- which store ---- */

int store_find(const struct store_options *o, const char *command, struct store_target *t)
{
	char *error = NULL;
	*t = (struct store_target){.kind = "postgres", .dsn = o->dsn};
	if (o->dsn) {
		if (!pg_plain_is_dsn(o->dsn))
			return ctl_usage("%s: --store-dsn: \"%s\" is no connection string of PostgreSQL: "
					 "postgresql://host/database or host=… dbname=…",
					 command, o->dsn);
		return CTL_OK;
	}
	t->conf = conf_load(&o->input, &error);
	if (!t->conf)
		return store_failed(STORE_ERROR, NULL, error);
	t->kind = conf_str(t->conf, CONF_STORE_KIND);
	t->dsn = conf_str(t->conf, CONF_STORE_DSN);
	return CTL_OK;
}

static struct pg_plain *connect_to(const char *dsn, bool writes, int *code_r)
{
	const struct pg_plain_conf c = {
		.dsn = dsn, .application = "orchestractl", .read_write = writes, .limit_us = CONNECT_US};
	char *error = NULL;
	struct pg_plain *p = pg_plain_open(&c, &error);
	*code_r = p ? CTL_OK : store_failed(STORE_AWAY, NULL, error);
	return p;
}

struct pg_plain *store_connect(const struct store_options *o, bool writes, int *code_r)
{
	struct store_target t;
	struct pg_plain *p = NULL;
	*code_r = store_find(o, "migrate", &t);
	if (*code_r == CTL_OK && strcmp(t.kind, "postgres") != 0)
		*code_r = ctl_usage(
			"migrate: this needs store.kind = postgres, or --store-dsn; the configuration says %s", t.kind);
	else if (*code_r == CTL_OK)
		p = connect_to(t.dsn, writes, code_r);
	conf_free(&t.conf);
	return p;
}

/* ---- status ---- */

static const char *const state_names[] = {[PG_ROW_PENDING] = "pending",
					  [PG_ROW_APPLIED] = "applied",
					  [PG_ROW_CHANGED] = "changed",
					  [PG_ROW_UNKNOWN] = "unknown"};

static void show_json(const struct pg_schema_status *st, const char *problem)
{
	json_t *rows = json_array();
	for (size_t i = 0; i < st->n; i++)
		json_array_append_new(rows,
				      json_pack("{s:i,s:s,s:s,s:s*}", "version", (int)st->rows[i].version, "name",
						st->rows[i].name, "state", state_names[st->rows[i].state], "applied_at",
						*st->rows[i].applied_at ? st->rows[i].applied_at : NULL));
	json_t *o = json_pack("{s:s,s:i,s:s,s:s,s:s,s:i,s:i,s:s*,s:i,s:o,s:b,s:s*}", "kind", "postgres", "server",
			      st->server, "database", st->database, "schema", *st->schema ? st->schema : st->first,
			      "role", st->role, "version", (int)st->version, "newest", (int)pg_migrations_n, "vector",
			      !st->version ? NULL
			      : st->vector ? "vector"
					   : "bytea",
			      "partitions", (int)st->partitions, "migrations", rows, "ok", problem == NULL, "problem",
			      problem);
	json_dumpf(o, stdout, JSON_COMPACT);
	putchar('\n');
	json_decref(o);
}

static void show_status(struct ctl *c, const struct pg_schema_status *st)
{
	printf("PostgreSQL %d.%d, database %s, schema %s, role %s\n", st->server / 10000, st->server % 10000,
	       st->database, *st->schema ? st->schema : st->first, st->role);
	if (!st->version)
		printf("nothing is there yet; pgvector is %s\n", *st->vector_in		? "installed"
								 : st->vector_available ? "at hand"
											: "not at hand");
	else if (st->partitions)
		printf("vectors are %s, memories in %u partitions\n", st->vector ? "vector" : "bytea", st->partitions);
	else
		printf("vectors are %s, memories not partitioned\n", st->vector ? "vector" : "bytea");
	printf("%s%7s  %-8s  %-20s  %s%s\n", output_colour(c, C_DIM), "VERSION", "STATE", "APPLIED", "NAME",
	       output_colour(c, C_PLAIN));
	for (size_t i = 0; i < st->n; i++) {
		const struct pg_applied *a = &st->rows[i];
		enum colour colour = a->state == PG_ROW_APPLIED	  ? C_GREEN
				     : a->state == PG_ROW_PENDING ? C_YELLOW
								  : C_RED;
		printf("%7u  %s%-8s%s  %-20s  %s\n", a->version, output_colour(c, colour), state_names[a->state],
		       output_colour(c, C_PLAIN), a->applied_at, a->name);
	}
}

static int status_of_server(struct ctl *c, const char *dsn)
{
	int code;
	char *problem = NULL;
	struct pg_plain *p = connect_to(dsn, false, &code);
	if (!p)
		return code;
	struct pg_schema_status *st = util_zalloc(sizeof(*st));
	enum store_rc rc = pg_schema_status(p, st);
	if (rc != STORE_OK) {
		code = store_failed(rc, p, NULL);
	} else {
		bool ok = pg_schema_judge(st, &problem) && pg_schema_may_write(st, &problem);
		if (c->json)
			show_json(st, ok ? NULL : problem);
		else if (st->may_look)
			show_status(c, st);
		code = ok ? CTL_OK : CTL_FAILED;
		if (!ok && !c->json)
			fprintf(stderr, "orchestractl: %s\n", problem);
	}
	free(problem);
	free(st);
	pg_plain_close(&p);
	return code;
}

static int status_of_file(struct ctl *c, const struct store_target *t)
{
	struct store_conf sc;
	char *what = NULL;
	const struct store_ops *ops = store_by_kind(t->kind);
	store_conf_from(t->conf, "orchestractl", &sc);
	bool ok = ops && ops->probe(&sc, &what);
	if (c->json) {
		json_t *o = json_pack("{s:s,s:b,s:s*}", "kind", t->kind, "ok", ok, "status", what);
		json_dumpf(o, stdout, JSON_COMPACT);
		putchar('\n');
		json_decref(o);
	} else {
		fprintf(ok ? stdout : stderr, "%s\n", what ? what : "the store cannot be looked at");
	}
	free(what);
	return ok ? CTL_OK : CTL_FAILED;
}

static int migrate_status(struct ctl *c, const struct store_options *o)
{
	struct store_target t;
	int code = store_find(o, "migrate", &t);
	if (code == CTL_OK)
		code = strcmp(t.kind, "postgres") == 0 ? status_of_server(c, t.dsn) : status_of_file(c, &t);
	conf_free(&t.conf);
	return code;
}

/* ---- up and down ---- */

struct saying {
	struct ctl *c;
	unsigned n;
};

static void say(void *arg, enum pg_say kind, const char *text)
{
	struct saying *s = arg;
	s->n += kind != PG_SAY_WARNING;
	if (kind == PG_SAY_WARNING)
		fprintf(stderr, "orchestractl: %s\n", text);
	else if (kind == PG_SAY_SQL)
		fputs(text, stdout);
	else
		puts(text);
	fflush(stdout);
}

static int migrate_server(struct ctl *c, const struct store_options *o, const char *dsn, bool down)
{
	int code;
	char *error = NULL;
	struct saying s = {.c = c};
	const struct pg_migrate what = {.to = o->to,
					.down = down,
					.dry_run = o->dry_run,
					.force = o->force,
					.partitions = o->partitions,
					.vector = o->vector,
					.wait_us = o->wait_us,
					.say = say,
					.arg = &s};
	struct pg_plain *p = connect_to(dsn, !o->dry_run, &code);
	if (!p)
		return code;
	enum store_rc rc = pg_migrate_run(p, &what, &error);
	pg_plain_close(&p);
	if (rc != STORE_OK)
		return store_failed(rc, NULL, error);
	if (!s.n)
		puts(o->dry_run ? "-- nothing to do" : "nothing to do");
	return CTL_OK;
}

static int migrate_either(struct ctl *c, const struct store_options *o, bool down)
{
	struct store_target t;
	if (down && o->to == UINT_MAX)
		return ctl_usage("migrate down: --to N says how far; 0 removes everything");
	if (down && !o->yes && !o->dry_run)
		return ctl_usage(
			"migrate down: what the migrations hold is lost (down to 0: every memory); export it first, and "
			"say --yes");
	int code = store_find(o, "migrate", &t);
	if (code != CTL_OK)
		return code;
	if (strcmp(t.kind, "postgres") == 0)
		code = migrate_server(c, o, t.dsn, down);
	else if (down)
		code = ctl_usage("migrate down: a file of SQLite has one version; restore an older one from a backup");
	else
		puts("a file of SQLite is brought up to date by the daemon when it opens it");
	conf_free(&t.conf);
	return code;
}

static int migrate_up(struct ctl *c, const struct store_options *o) { return migrate_either(c, o, false); }
static int migrate_down(struct ctl *c, const struct store_options *o) { return migrate_either(c, o, true); }

/* ---- options ---- */

static const struct sub {
	const char *name;
	int (*run)(struct ctl *c, const struct store_options *o);
	const char *takes; /* letters of the options below, besides those that say which store */
} subs[] = {
	{"status", migrate_status, ""},	    {"up", migrate_up, "nNpvwf"},     {"down", migrate_down, "nNywf"},
	{"index", vector_index, "nklLdme"}, {"mount-mem0", mem0_mount, "nt"},
};

static void help(void)
{
	puts("Usage: orchestractl migrate status\n"
	     "       orchestractl migrate up [--to N] [--vector auto|vector|bytea] [--partitions N] [--dry-run]\n"
	     "       orchestractl migrate down --to N --yes [--force] [--dry-run]\n"
	     "       orchestractl migrate index --kind ivfflat|hnsw|none [--dimensions D] [--lists auto|N] [--lists-max N]\n"
	     "                                  [--m N] [--ef-construction N] [--dry-run]\n"
	     "       orchestractl migrate mount-mem0 --table NAME --namespace NS [--dry-run]\n"
	     "The schema of the store: what it has, up to a version, down to one. Talks to the database that the daemon's\n"
	     "configuration names, whether a daemon runs or not.\n\n"
	     "  -c FILE, --set KEY=VALUE  the configuration, as orchestrad takes it\n"
	     "  --store-dsn DSN           another database\n"
	     "  --dry-run                 prints the SQL and does nothing\n"
	     "  --vector KIND             type of vectors, chosen by the first migration: pgvector's where it is at hand\n"
	     "  --partitions N            memories in N partitions by namespace, chosen by the first migration; 0: none\n"
	     "  --wait SECONDS            for somebody else's migration; default 60\n"
	     "  --force                   down although daemons are connected; a changed migration is accepted");
}

/* Base 10, within limits. */
static bool number(const char *text, long min, long max, long *v_r)
{
	char *end;
	errno = 0;
	*v_r = strtol(text, &end, 10);
	return !errno && end != text && !*end && *v_r >= min && *v_r <= max;
}

static int take_option(struct store_options *o, int opt, const char *arg)
{
	long v = 0;
	static const char *const vectors[] = {"auto", "vector", "bytea"};
	switch (opt) {
	case 'c': o->input.file = arg; return CTL_OK;
	case 'D': o->dsn = arg; return CTL_OK;
	case 's':
		if (o->input.nsets == ARRAY_LEN(o->sets))
			return ctl_usage("migrate: --set: too many");
		o->sets[o->input.nsets++] = arg;
		return CTL_OK;
	case 'n': o->dry_run = true; return CTL_OK;
	case 'y': o->yes = true; return CTL_OK;
	case 'f': o->force = true; return CTL_OK;
	case 'k': o->kind = arg; return CTL_OK;
	case 't': o->table = arg; return CTL_OK;
	case 'N':
		if (!number(arg, 0, 9999, &v))
			return ctl_usage("migrate: --to: a version from 0");
		o->to = (unsigned)v;
		return CTL_OK;
	case 'p':
		if (!number(arg, 0, PG_PARTITIONS_MAX, &v) || v == 1)
			return ctl_usage("migrate: --partitions: 0 or a number from 2 to %d", PG_PARTITIONS_MAX);
		o->partitions = (int)v;
		return CTL_OK;
	case 'w':
		if (!number(arg, 0, 86400, &v))
			return ctl_usage("migrate: --wait: seconds up to 86400");
		o->wait_us = v * 1000000;
		return CTL_OK;
	case 'v':
		for (int i = 0; i < (int)ARRAY_LEN(vectors); i++)
			if (strcmp(arg, vectors[i]) == 0) {
				o->vector = (enum pg_vector_choice)i;
				return CTL_OK;
			}
		return ctl_usage("migrate: --vector: auto, vector or bytea");
	case 'd':
		return number(arg, 1, 2000, &o->dimensions)
			       ? CTL_OK
			       : ctl_usage("migrate: --dimensions: 1 to 2000, which is what pgvector indexes");
	case 'L': return number(arg, 1, 32768, &o->lists_max) ? CTL_OK : ctl_usage("migrate: --lists-max: 1 to 32768");
	case 'm': return number(arg, 2, 100, &o->m) ? CTL_OK : ctl_usage("migrate: --m: 2 to 100");
	case 'e':
		return number(arg, 4, 1000, &o->ef_construction) ? CTL_OK
								 : ctl_usage("migrate: --ef-construction: 4 to 1000");
	default:
		if (strcmp(arg, "auto") == 0)
			return CTL_OK;
		return number(arg, 1, 32768, &o->lists) ? CTL_OK : ctl_usage("migrate: --lists: auto, or 1 to 32768");
	}
}

int migrate_command(struct ctl *c, int argc, char **argv)
{
	static const struct option options[] = {
		{"config", required_argument, NULL, 'c'},
		{"set", required_argument, NULL, 's'},
		{"store-dsn", required_argument, NULL, 'D'},
		{"to", required_argument, NULL, 'N'},
		{"dry-run", no_argument, NULL, 'n'},
		{"partitions", required_argument, NULL, 'p'},
		{"vector", required_argument, NULL, 'v'},
		{"yes", no_argument, NULL, 'y'},
		{"force", no_argument, NULL, 'f'},
		{"wait", required_argument, NULL, 'w'},
		{"kind", required_argument, NULL, 'k'},
		{"lists", required_argument, NULL, 'l'},
		{"lists-max", required_argument, NULL, 'L'},
		{"dimensions", required_argument, NULL, 'd'},
		{"m", required_argument, NULL, 'm'},
		{"ef-construction", required_argument, NULL, 'e'},
		{"table", required_argument, NULL, 't'},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	struct store_options o = {.to = UINT_MAX, .partitions = -1, .wait_us = WAIT_US, .lists_max = 4000};
	const struct sub *sub = NULL;
	char seen[32] = "";
	int opt;
	o.input = (struct conf_input){.env = environ, .sets = o.sets};
	while ((opt = ctl_options(argc, argv, ":c:", options)) != -1) {
		if (opt == '?')
			return CTL_USAGE;
		if (opt == 'h') {
			help();
			return CTL_OK;
		}
		int code = take_option(&o, opt, optarg);
		if (code != CTL_OK)
			return code;
		size_t n = strlen(seen);
		if (!strchr("csD", opt) && n + 1 < sizeof(seen))
			seen[n] = (char)opt;
	}
	for (size_t i = 0; optind < argc && i < ARRAY_LEN(subs); i++)
		if (strcmp(argv[optind], subs[i].name) == 0)
			sub = &subs[i];
	if (!sub)
		return ctl_usage("migrate: status, up, down, index or mount-mem0");
	if (optind + 1 < argc)
		return ctl_usage("migrate %s: unexpected \"%s\"", sub->name, argv[optind + 1]);
	size_t odd = strspn(seen, *sub->takes ? sub->takes : " ");
	for (size_t i = 0; seen[odd] && i + 1 < ARRAY_LEN(options); i++)
		if (options[i].val == seen[odd])
			return ctl_usage("migrate %s: --%s does not concern it", sub->name, options[i].name);
	return sub->run(c, &o);
}
