/* tune vectors: measures, on the user's own data, what a search finds and takes, and recommends. */
#include "tune.h"

#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "live.h"

#define SAMPLE 200
#define LIMIT 10
#define LIMIT_MAX 999	 /* the daemon's, less the question's own memory */
#define ANSWERS_MIN 1000 /* for each point: a p99 of fewer is chance … */
#define ROUNDS_MIN 3
#define ROUNDS_MAX 20
#define PROBES_MAX 65536
#define EF_MAX 1000 /* pgvector's */
#define TIMEOUT_US 30000000

static const char usage[] =
	"Usage: orchestractl tune vectors [--namespace NAME] [--queries FILE|- | --sample N] [--limit N] [--recall X]\n"
	"                                 [--probes N,...] [--rounds N] [--svg FILE] [--apply [--yes]] [--json]\n"
	"       orchestractl tune vectors [--store] [--store-dsn DSN] [-c FILE] [--set KEY=VALUE] [--timeout TIME]\n"
	"                                 [--ef-search N,...] [...]\n"
	"Asks the same questions with all vectors compared and with several targets of recall, and prints how much each\n"
	"finds and how long it takes; recommends the smallest one that finds enough. Where PostgreSQL with pgvector compares the\n"
	"vectors, or with --store, that is measured: hnsw.ef_search or ivfflat.probes, by the index that is there.\n\n"
	"  --queries FILE  questions, one a line: a text, or JSON with \"query\" or \"embedding\"\n"
	"  --sample N      so many memories of the namespace are the questions (default 200)\n"
	"  --limit N       answers that count to each question (default 10)\n"
	"  --recall X      what is enough, 0.5 to 1 (default: vectors.recall of the daemon)\n"
	"  --probes N,...  measures reading so many lists, too\n"
	"  --rounds N      each question is asked so often (default: 3 to 20 times, a thousand answers to each target)\n"
	"  --svg FILE      writes the curve there\n"
	"  --apply         puts the recommendation into force, after asking; --yes: without\n\n"
	"  --store            measures the store's index, whether the daemon uses it or not\n"
	"  --store-dsn DSN    the database; else what the configuration says, which -c and --set name as for orchestrad\n"
	"  --timeout TIME     that a statement of the measurement may take (default 30s)\n"
	"  --ef-search N,...  measures these, too, of an HNSW index";

/* Whole percents, because that is what vectors.recall takes. */
static const unsigned char aims[] = {80, 90, 95, 97, 98, 99, 100};

/* ---- options ---- */

static bool whole(const char *text, long min, long max, long *v_r)
{
	char *end;
	errno = 0;
	*v_r = strtol(text, &end, 10);
	return !errno && end != text && !*end && *v_r >= min && *v_r <= max;
}

static bool take_numbers(struct tune_numbers *to, const char *arg, long most)
{
	for (to->n = 0; *arg; to->n++) {
		char *end;
		errno = 0;
		long v = strtol(arg, &end, 10);
		if (errno || end == arg || v < 1 || v > most || (*end && *end != ',') || to->n == TUNE_PROBES_MAX)
			return false;
		to->v[to->n] = (unsigned)v;
		arg = end + (*end == ',');
		if (*end == ',' && !*arg)
			return false;
	}
	return to->n > 0;
}

/* Of those that say which store, and how it is measured. */
static int take_store_option(struct tune *t, int opt, const char *arg)
{
	switch (opt) {
	case 'S': t->ask_store = true; return CTL_OK;
	case 'c': t->store.input.file = arg; return CTL_OK;
	case 'D':
		t->store.dsn = arg;
		t->ask_store = true;
		return CTL_OK;
	case 'e':
		if (t->store.input.nsets == ARRAY_LEN(t->store.sets))
			return ctl_usage("tune vectors: --set: too many");
		t->store.sets[t->store.input.nsets++] = arg;
		return CTL_OK;
	case 't':
		if (!live_duration("tune vectors: --timeout", arg, &t->timeout_us))
			return CTL_USAGE;
		return t->timeout_us >= 100000 && t->timeout_us <= 3600000000
			       ? CTL_OK
			       : ctl_usage("tune vectors: --timeout needs 100ms to 1h");
	default:
		return take_numbers(&t->ef_search, arg, EF_MAX)
			       ? CTL_OK
			       : ctl_usage("tune vectors: --ef-search needs up to %d whole numbers from 1 to %d with "
					   "commas between them",
					   TUNE_PROBES_MAX, EF_MAX);
	}
}

/* CTL_OK, or CTL_USAGE after saying why. */
static int take_option(struct tune *t, int opt, const char *arg)
{
	long v = 0;
	char *end;
	switch (opt) {
	case 'q': t->queries = arg; return CTL_OK;
	case 'g': t->svg = arg; return CTL_OK;
	case 'a': t->apply = true; return CTL_OK;
	case 'y': t->yes = true; return CTL_OK;
	case 's':
		if (!whole(arg, 1, TUNE_QUESTIONS_MAX, &v))
			return ctl_usage("tune vectors: --sample needs a whole number from 1 to %d",
					 TUNE_QUESTIONS_MAX);
		t->sample = (size_t)v;
		return CTL_OK;
	case 'l':
		if (!whole(arg, 1, LIMIT_MAX, &v))
			return ctl_usage("tune vectors: --limit needs a whole number from 1 to %d", LIMIT_MAX);
		t->limit = (size_t)v;
		return CTL_OK;
	case 'r':
		t->wanted = strtod(arg, &end);
		return end != arg && !*end && t->wanted >= 0.5 && t->wanted <= 1
			       ? CTL_OK
			       : ctl_usage("tune vectors: --recall needs a number from 0.5 to 1");
	case 'o':
		if (!whole(arg, 1, ROUNDS_MAX, &v))
			return ctl_usage("tune vectors: --rounds needs a whole number from 1 to %d", ROUNDS_MAX);
		t->rounds = (unsigned)v;
		return CTL_OK;
	case 'p':
		return take_numbers(&t->probes, arg, PROBES_MAX)
			       ? CTL_OK
			       : ctl_usage("tune vectors: --probes needs up to %d whole numbers from 1 to "
					   "65536 with commas between them",
					   TUNE_PROBES_MAX);
	default: return take_store_option(t, opt, arg);
	}
}

/* False: *code_r is the exit status. */
static bool take_options(struct tune *t, int argc, char **argv, int *code_r)
{
	static const struct option options[] = {
		{"queries", required_argument, NULL, 'q'},
		{"sample", required_argument, NULL, 's'},
		{"limit", required_argument, NULL, 'l'},
		{"recall", required_argument, NULL, 'r'},
		{"probes", required_argument, NULL, 'p'},
		{"svg", required_argument, NULL, 'g'},
		{"apply", no_argument, NULL, 'a'},
		{"yes", no_argument, NULL, 'y'},
		{"rounds", required_argument, NULL, 'o'},
		{"store", no_argument, NULL, 'S'},
		{"store-dsn", required_argument, NULL, 'D'},
		{"config", required_argument, NULL, 'c'},
		{"set", required_argument, NULL, 'e'},
		{"timeout", required_argument, NULL, 't'},
		{"ef-search", required_argument, NULL, 'f'},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	int opt;
	*code_r = CTL_USAGE;
	while ((opt = ctl_options(argc, argv, ":c:", options)) != -1) {
		if (opt == 'h') {
			puts(usage);
			*code_r = CTL_OK;
		}
		if (opt == '?' || opt == 'h' || take_option(t, opt, optarg) != CTL_OK)
			return false;
	}
	if (optind + 1 != argc || strcmp(argv[optind], "vectors") != 0)
		ctl_usage("tune: expected \"vectors\" and its options");
	else if (t->queries && t->sample)
		ctl_usage("tune vectors: either --queries or --sample");
	else
		return true;
	return false;
}

/* ---- what the daemon says of itself ---- */

static int look_at_namespace(struct tune *t)
{
	struct answer a;
	struct buf path = {0};
	char *name = client_escape(t->c->namespace);
	buf_printf(&path, "/v1/namespaces/%s", name);
	buf_addc(&path, '\0');
	free(name);
	int code = client_request(t->c, "GET", path.p, NULL, &a);
	buf_free(&path);
	if (code == CTL_OK && a.status != 200) {
		code = output_problem(&a);
	} else if (code == CTL_OK) {
		json_t *o = output_parse(&a);
		t->memories = (uint64_t)json_integer_value(json_object_get(o, "count"));
		t->dim = (uint32_t)json_integer_value(json_object_get(o, "dimensions"));
		t->embedder = util_strndup(output_str(o, "embedding_model"), strlen(output_str(o, "embedding_model")));
		code = o ? CTL_OK : CTL_FAILED;
		json_decref(o);
	}
	client_free(&a);
	return code;
}

/* A token without the right to ask for it must say what is enough. */
static int look_at_recall(struct tune *t)
{
	struct answer a;
	int code = client_request(t->c, "GET", "/v1/admin/config/vectors.recall", NULL, &a);
	if (code == CTL_OK && a.status == 200) {
		json_t *o = output_parse(&a);
		t->configured = (unsigned)atoi(output_str(o, "value"));
		json_decref(o);
	} else if (code == CTL_OK && t->wanted == 0) {
		code = output_problem(&a);
		fputs("orchestractl: vectors.recall of the daemon cannot be read; say with --recall what is enough\n",
		      stderr);
	}
	client_free(&a);
	if (code == CTL_OK && t->wanted == 0)
		t->wanted = t->configured / 100.0;
	return code;
}

/* ---- the measurement ---- */

static int by_aim(const void *a, const void *b)
{
	const struct tune_point *x = a, *y = b;
	if (!x->probes != !y->probes)
		return x->probes ? 1 : -1;
	if (x->probes)
		return (x->probes > y->probes) - (x->probes < y->probes);
	return (x->recall > y->recall) - (x->recall < y->recall);
}

/* Targets, that of the daemon among them, and behind them the numbers of lists that were asked for. */
static void choose_points(struct tune *t)
{
	bool there = t->configured == 0;
	for (size_t i = 0; i < ARRAY_LEN(aims); i++) {
		t->points[t->npoints++].recall = aims[i] / 100.0;
		there |= aims[i] == t->configured;
	}
	if (!there)
		t->points[t->npoints++].recall = t->configured / 100.0;
	for (size_t i = 0; i < t->probes.n; i++)
		t->points[t->npoints++].probes = t->probes.v[i];
	qsort(t->points, t->npoints, sizeof(*t->points), by_aim);
	size_t rounds = (ANSWERS_MIN + t->n - 1) / t->n;
	if (t->rounds)
		return;
	t->rounds = (unsigned)(rounds < ROUNDS_MIN ? ROUNDS_MIN : rounds > ROUNDS_MAX ? ROUNDS_MAX : rounds);
}

static int measure_index(struct tune *t)
{
	if (t->ef_search.n)
		return ctl_usage(
			"tune vectors: --ef-search is of the store's index, and the daemon's own compares these "
			"vectors; --store measures the store's");
	int code = tune_ask_exact(t);
	if (code != CTL_OK || tune_interrupted())
		return code;
	if (!t->lists) {
		tune_report_nothing(t);
		return CTL_OK;
	}
	choose_points(t);
	code = tune_ask_points(t);
	if (code != CTL_OK || tune_interrupted())
		return code;
	const struct tune_point *best = tune_report_best(t);
	tune_report_show(t, best);
	return tune_report_end(t, best);
}

static int measure(struct tune *t)
{
	int code = look_at_namespace(t);
	if (code == CTL_OK)
		code = look_at_recall(t);
	if (code == CTL_OK && !t->queries)
		code = tune_questions_sample(t);
	if (code == CTL_OK && !tune_interrupted())
		code = tune_ask_where(t);
	if (code != CTL_OK || tune_interrupted())
		return code;
	return t->ask_store || t->by_store ? tune_store(t) : measure_index(t);
}

static void clean(struct tune *t)
{
	tune_questions_free(t);
	for (size_t i = 0; i < t->npoints; i++) {
		free(t->points[i].vector_us);
		free(t->points[i].request_us);
	}
	free(t->embedder);
	free(t);
}

int tune_command(struct ctl *c, int argc, char **argv)
{
	struct tune *t = util_zalloc(sizeof(*t));
	int code;
	t->c = c;
	t->limit = LIMIT;
	t->key = "vectors.recall";
	t->timeout_us = TIMEOUT_US;
	t->store.input = (struct conf_input){.env = environ, .sets = t->store.sets};
	if (take_options(t, argc, argv, &code)) {
		c->namespace = c->namespace ? c->namespace : "default";
		c->keep_open = true;
		t->sample = t->sample ? t->sample : SAMPLE;
		code = t->queries ? tune_questions_read(t) : CTL_OK;
		if (code == CTL_OK)
			code = measure(t);
		if (tune_interrupted()) {
			fputs("orchestractl: interrupted; nothing was changed\n", stderr);
			signal(SIGINT, SIG_DFL);
			raise(SIGINT);
		}
	}
	clean(t);
	return code;
}
