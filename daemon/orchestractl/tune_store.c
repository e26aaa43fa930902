/* tune vectors, of the store's own index: the searches that the daemon would ask of PostgreSQL with pgvector, made here over one
 * connection, so that a slow one keeps no request of the daemon's waiting and no breaker learns of it. */
#include "tune_choice.h"

#include <stdlib.h>
#include <unistd.h>

#include "clock.h"
#include "embed/embed.h"
#include "json/numbers.h"
#include "live.h"
#include "record.h"
#include "tune.h"

#define ANSWERS_MIN 400 /* for each point; a server's answer takes longer than the index's */
#define ROUNDS_MIN 3
#define ROUNDS_MAX 20
#define EF_LEAST 10
#define EF_MOST 1000	  /* pgvector's */
#define PROBES_MOST 32768 /* likewise */
#define PLANS 8
#define SHOW_EVERY_US 100000

/* A question, as the store is asked it. */
struct asked {
	float *x;
	struct filter *filter;
	struct uuid own;
	bool has_own;
};
struct sweep {
	struct tune *t;
	const struct store_ops *ops;
	struct store *s;
	struct asked *v;
	size_t depth; /* hits that a search of the daemon's wants from the store for so many results */
	struct store_text_hit *hits;
};

static int failed(char *error)
{
	fprintf(stderr, "orchestractl: %s\n", error);
	free(error);
	return CTL_FAILED;
}

static int say_store(const struct sweep *w, enum store_rc rc)
{
	const char *error = w->ops->error(w->s);
	if (isatty(STDERR_FILENO))
		fputs("\r\033[K", stderr); /* the bar's line */
	fprintf(stderr, "orchestractl: the store: %s\n", error);
	if (strstr(error, "57014") || strstr(error, "no answer")) /* query_canceled */
		fprintf(stderr,
			"orchestractl: a statement may take %.4gs here; --timeout says otherwise, and --limit or a smaller "
			"namespace asks for less\n",
			(double)w->t->timeout_us / 1e6);
	return rc == STORE_AWAY ? CTL_UNREACHABLE : CTL_FAILED;
}

/* ---- which store ---- */

/* A text of the daemon's configuration; NULL: it does not tell. The caller frees. */
static char *configured_text(struct tune *t, const char *key)
{
	struct answer a;
	char path[64], *value = NULL;
	snprintf(path, sizeof(path), "/v1/admin/config/%s", key);
	if (client_request(t->c, "GET", path, NULL, &a) == CTL_OK && a.status == 200) {
		json_t *o = output_parse(&a);
		value = util_strndup(output_str(o, "value"), strlen(output_str(o, "value")));
		json_decref(o);
	}
	client_free(&a);
	return value;
}

static int refuse_sqlite(const struct tune *t)
{
	char *error = NULL;
	util_error(
		&error,
		"the store is SQLite, which compares all vectors of namespace %s%s: nothing is missed, and there is nothing "
		"to tune. Only PostgreSQL with pgvector has an index of its own",
		t->c->namespace,
		t->ask_store ? "" : ", as the daemon's index does not hold them (raise vectors.max_bytes and restart)");
	return failed(error);
}

static int find(struct tune *t, struct store_target *target)
{
	char *error = NULL, *kind = t->store.dsn ? NULL : configured_text(t, "store.kind");
	bool file = kind && strcmp(kind, "sqlite") == 0, server = kind && !file;
	free(kind);
	*target = (struct store_target){.kind = NULL};
	if (file)
		return refuse_sqlite(t);
	int code = store_find(&t->store, "tune vectors", target);
	if (code != CTL_OK || strcmp(target->kind, "postgres") == 0)
		return code;
	if (!server)
		return refuse_sqlite(t);
	util_error(&error,
		   "the daemon's store is PostgreSQL, and the configuration that is read here does not say where: name "
		   "it with -c FILE, or the database with --store-dsn DSN");
	return failed(error);
}

static int open_store(struct sweep *w, const struct store_target *target)
{
	char *error = NULL;
	const struct store_conf c = {.kind = "postgres",
				     .dsn = target->dsn,
				     .purpose = "tune",
				     .connect_timeout_us = 10000000,
				     .answer_timeout_us = w->t->timeout_us};
	w->ops = store_by_kind("postgres");
	w->s = w->ops->open(&c, false, &error);
	if (w->s)
		return CTL_OK;
	(void)failed(error);
	return CTL_UNREACHABLE;
}

/* ---- its index ---- */

static int refuse_index(const struct tune *t)
{
	const struct pg_measure *m = &t->server;
	char *error = NULL;
	if (!m->vector)
		util_error(
			&error,
			"the store has no pgvector: its column of vectors is %s, and searches of it compare all vectors of a "
			"namespace (docs/operations.md, \"The schema of a PostgreSQL store\")",
			*m->version ? "bytea, as the first migration found no extension or was told so" : "bytea");
	else if (!*m->index.kind)
		util_error(
			&error,
			"the store has no index for vectors of %u dimensions: searches of it compare all vectors of namespace %s, "
			"and miss none. orchestractl migrate index --kind hnsw --dimensions %u builds one",
			t->dim, t->c->namespace, t->dim);
	else
		util_error(
			&error,
			"index %s of the store is not finished, or its build has failed: orchestractl migrate index --kind %s "
			"--dimensions %u",
			m->index.name, m->index.kind, t->dim);
	return failed(error);
}

static int look(struct sweep *w)
{
	struct tune *t = w->t;
	if (!t->dim) {
		fprintf(stderr, "orchestractl: no memory of namespace \"%s\" has a vector\n", t->c->namespace);
		return CTL_FAILED;
	}
	enum store_rc rc = pg_measure_look(w->s, t->dim, &t->server);
	if (rc != STORE_OK)
		return say_store(w, rc);
	if (!t->server.vector || !t->server.index.valid)
		return refuse_index(t);
	bool lists = t->server.index.lists != 0;
	if (lists && t->ef_search.n)
		return ctl_usage("tune vectors: --ef-search is of an HNSW index, and %s is IVFFlat: --probes",
				 t->server.index.name);
	if (!lists && t->probes.n)
		return ctl_usage("tune vectors: --probes is of lists, and %s is HNSW: --ef-search",
				 t->server.index.name);
	t->key = lists ? "store.ivfflat_probes" : "store.hnsw_ef_search";
	char *value = configured_text(t, t->key);
	t->configured = value ? (unsigned)atoi(value) : 0;
	free(value);
	return CTL_OK;
}

/* ---- questions ---- */

static bool take_vector(const struct tune *t, const json_t *v, float *x)
{
	size_t n = 0;
	if (json_is_string(v))
		return floats_base64(json_string_value(v), json_string_length(v), x, t->dim, &n) == FLOATS_OK &&
		       n == t->dim;
	for (; n < t->dim; n++) {
		const json_t *e = json_array_get(v, n);
		if (!json_is_number(e))
			return false;
		x[n] = (float)json_number_value(e);
	}
	return json_array_size(v) == n;
}

/* A text is what the built-in embedder makes of it, if the namespace's vectors are its own. */
static bool take_text(const struct tune *t, const json_t *v, float *x)
{
	const struct embedder *e = embed_hashed();
	struct span text = {json_string_value(v), json_string_length(v)};
	return strcmp(e->id, t->embedder) == 0 && e->dimensions == t->dim && e->embed(e, &text, 1, x) == 1;
}

static bool take_filter(const json_t *o, struct asked *a)
{
	static const char *const scopes[] = {"user_id", "agent_id", "session_id", "kind"};
	char *error = NULL;
	a->filter = filter_parse(json_object_get(o, "filter"), &error);
	if (!a->filter)
		fprintf(stderr, "orchestractl: filter: %s\n", error);
	free(error);
	for (size_t i = 0; a->filter && i < ARRAY_LEN(scopes); i++) {
		const json_t *v = json_object_get(o, scopes[i]);
		if (json_is_string(v))
			filter_and_eq(&a->filter, scopes[i],
				      (struct span){json_string_value(v), json_string_length(v)});
	}
	return a->filter != NULL;
}

static bool take_question(const struct tune *t, const struct tune_question *q, struct asked *a)
{
	struct buf body = {0};
	json_error_t e;
	buf_printf(&body, "%s}", q->body);
	json_t *o = json_loadb(body.p, body.len, 0, &e), *v = json_object_get(o, "embedding");
	buf_free(&body);
	a->x = util_zalloc(t->dim * sizeof(*a->x));
	a->has_own = *q->own && uuid_parse(q->own, strlen(q->own), &a->own);
	bool ok = v ? take_vector(t, v, a->x) : take_text(t, json_object_get(o, "query"), a->x);
	if (!ok)
		fprintf(stderr,
			v ? "orchestractl: question %zu of %s: its vector has not the %u dimensions of namespace %s\n"
			  : "orchestractl: question %zu of %s: cannot be compared with the %u dimensions of namespace %s, whose "
			    "vectors are not the built-in embedder's; give it an \"embedding\"\n",
			(size_t)(q - t->questions) + 1, t->queries ? t->queries : "the sample", t->dim,
			t->c->namespace);
	ok = ok && take_filter(o, a);
	json_decref(o);
	return ok;
}

static int take_questions(struct sweep *w)
{
	struct tune *t = w->t;
	w->v = util_zalloc(t->n * sizeof(*w->v));
	for (size_t i = 0; i < t->n; i++)
		if (!take_question(t, &t->questions[i], &w->v[i]))
			return CTL_FAILED;
	w->depth = store_nearest_depth(t->limit);
	w->hits = util_alloc(w->depth * sizeof(*w->hits));
	return CTL_OK;
}

/* ---- asking ---- */

static bool is_own(void *arg, const struct uuid *id)
{
	const struct asked *a = arg;
	return a->has_own && uuid_cmp(&a->own, id) == 0;
}

static struct store_nearest question(const struct sweep *w, size_t i, unsigned effort)
{
	struct asked *a = &w->v[i];
	bool lists = w->t->server.index.lists != 0;
	return (struct store_nearest){.ns = record_ns(SPAN(w->t->c->namespace)),
				      .x = a->x,
				      .dim = w->t->dim,
				      .filter = filter_is_empty(a->filter) ? NULL : a->filter,
				      .limit = w->depth,
				      .now_us = clock_real_us(),
				      .hidden = is_own,
				      .hidden_arg = a,
				      .exact = !effort,
				      .effort = {lists ? 0 : effort, lists ? effort : 0}};
}

static void keep_exact(const struct sweep *w, struct tune_exact *e, size_t n)
{
	e->n = n < w->t->limit ? n : w->t->limit;
	e->ids = util_zalloc(w->t->limit * sizeof(*e->ids));
	for (size_t i = 0; i < e->n; i++) {
		uuid_format(&w->hits[i].id, e->ids[i]);
		e->floor = w->hits[i].score;
	}
}

static void show(const char *what, uint64_t done, uint64_t all)
{
	static int64_t shown;
	bool on = isatty(STDERR_FILENO);
	int64_t now = clock_mono_us();
	if (on && done == all) {
		fputs("\r\033[K", stderr);
	} else if (on && now - shown > SHOW_EVERY_US) {
		output_bar(what, done, all, on);
		shown = now;
	}
}

static int ask_exact(struct sweep *w)
{
	struct tune *t = w->t;
	size_t best = 0;
	for (size_t i = 0; i < t->n; i++) {
		size_t n;
		struct store_nearest q = question(w, i, 0);
		enum store_rc rc = w->ops->nearest(w->s, &q, w->hits, &n);
		if (rc != STORE_OK)
			return say_store(w, rc);
		keep_exact(w, &t->questions[i].exact, n);
		best += t->questions[i].exact.n;
		show("exact answers", i + 1, t->n);
	}
	if (best)
		return CTL_OK;
	fprintf(stderr,
		"orchestractl: no question has an answer in namespace \"%s\" of the store; is this the daemon's database?\n",
		t->c->namespace);
	return CTL_FAILED;
}

static void count(struct sweep *w, struct tune_point *p, const struct tune_question *q, size_t n)
{
	uint64_t found = 0;
	for (size_t i = 0; i < n && i < w->t->limit; i++) {
		char id[UUID_TEXT + 1] = "";
		uuid_format(&w->hits[i].id, id);
		found += tune_is_best(&q->exact, id, w->hits[i].score);
	}
	p->found += found < q->exact.n ? found : q->exact.n;
	p->wanted += q->exact.n;
}

static int ask_point(struct sweep *w, struct tune_point *p, size_t i)
{
	size_t n;
	struct store_nearest_cost cost;
	struct store_nearest q = question(w, i, p->effort);
	q.cost_r = &cost;
	int64_t begin = clock_mono_us();
	enum store_rc rc = w->ops->nearest(w->s, &q, w->hits, &n);
	if (rc != STORE_OK)
		return say_store(w, rc);
	p->vector_us[p->answers++] = clock_mono_us() - begin;
	p->read += cost.rows;
	p->whole += cost.whole;
	count(w, p, &w->t->questions[i], n);
	return CTL_OK;
}

/* ---- the sweep ---- */

/* There is nothing to choose from where no setting leads to the index. */
static int refuse_plan(const struct tune *t)
{
	char *error = NULL;
	util_error(
		&error,
		"the server does not search index %s for namespace %s, whatever %s is: its planner holds comparing all vectors "
		"of the namespace for cheaper. A small namespace is quicker so, and misses none; for a large one, ANALYZE "
		"memories, and look at random_page_cost",
		t->server.index.name, t->c->namespace, t->key);
	return failed(error);
}

/* Of some of the questions, as their filters may differ. */
static enum store_rc look_at_plans(struct sweep *w, struct tune_point *p)
{
	size_t n = w->t->n < PLANS ? w->t->n : PLANS, found = 0;
	for (size_t i = 0; i < n; i++) {
		bool indexed;
		struct store_nearest q = question(w, i * w->t->n / n, p->effort);
		enum store_rc rc = pg_nearest_plan(w->s, &q, &indexed);
		if (rc != STORE_OK)
			return rc;
		found += indexed;
	}
	p->indexed = (double)found / (double)n;
	return STORE_OK;
}

static int choose_points(struct sweep *w)
{
	struct tune *t = w->t;
	bool indexed = false;
	unsigned efforts[TUNE_AIMS_MAX], lists = (unsigned)t->server.index.lists;
	unsigned most = !lists ? EF_MOST : lists < PROBES_MOST ? lists : PROBES_MOST;
	const struct tune_numbers *more = lists ? &t->probes : &t->ef_search;
	t->npoints = tune_choice_ladder(lists ? 1 : EF_LEAST, most, t->configured, more->v, more->n, efforts,
					ARRAY_LEN(efforts));
	for (size_t i = 0; i < t->npoints; i++) {
		t->points[i] = (struct tune_point){.effort = efforts[i]};
		enum store_rc rc = look_at_plans(w, &t->points[i]);
		if (rc != STORE_OK)
			return say_store(w, rc);
		indexed |= t->points[i].indexed > 0;
	}
	if (!indexed)
		return refuse_plan(t);
	size_t rounds = (ANSWERS_MIN + t->n - 1) / t->n;
	if (!t->rounds)
		t->rounds = (unsigned)(rounds < ROUNDS_MIN ? ROUNDS_MIN : rounds > ROUNDS_MAX ? ROUNDS_MAX : rounds);
	return CTL_OK;
}

/* Round by round, as the daemon's index is measured; within a round point by point, as setting an effort costs a statement. */
static int ask_points(struct sweep *w)
{
	struct tune *t = w->t;
	uint64_t all = (uint64_t)t->rounds * t->npoints * t->n;
	int code = CTL_OK;
	for (size_t i = 0; i < t->npoints; i++)
		t->points[i].vector_us = util_alloc(t->rounds * t->n * sizeof(int64_t));
	for (uint64_t i = 0; i < all && code == CTL_OK; i++) {
		if (i % t->n == 0) { /* the setting, and what the server reads for the first time, is not measured */
			size_t n;
			struct store_nearest q = question(w, 0, t->points[i / t->n % t->npoints].effort);
			enum store_rc rc = w->ops->nearest(w->s, &q, w->hits, &n);
			if (rc != STORE_OK)
				return say_store(w, rc);
		}
		code = ask_point(w, &t->points[i / t->n % t->npoints], i % t->n);
		show("measuring", i + 1, all);
	}
	for (size_t i = 0; i < t->npoints; i++)
		tune_work_out(&t->points[i]);
	return code;
}

static const struct tune_point *choose(const struct tune *t)
{
	struct tune_found v[TUNE_AIMS_MAX];
	for (size_t i = 0; i < t->npoints; i++)
		v[i] = (struct tune_found){tune_recall(&t->points[i]), t->points[i].vector_p50};
	int best = tune_choice_best(v, t->npoints, t->wanted);
	return best < 0 ? NULL : &t->points[best];
}

static int measure(struct sweep *w)
{
	int code = look(w);
	if (code == CTL_OK)
		code = take_questions(w);
	if (code != CTL_OK)
		return code;
	code = choose_points(w);
	if (code != CTL_OK)
		return code;
	pg_measure_session(w->s, true);
	code = ask_exact(w);
	pg_measure_session(w->s, false);
	return code == CTL_OK ? ask_points(w) : code;
}

static void close_store(struct sweep *w)
{
	for (size_t i = 0; w->v && i < w->t->n; i++) {
		free(w->v[i].x);
		filter_free(&w->v[i].filter);
	}
	free(w->v);
	free(w->hits);
	if (w->s)
		w->ops->close(w->s);
}

int tune_store(struct tune *t)
{
	struct store_target target;
	struct sweep w = {.t = t};
	int code = find(t, &target);
	if (code == CTL_OK) {
		tune_interrupt_ends(true);
		if (!tune_interrupted()) /* while the daemon was asked */
			code = open_store(&w, &target);
		if (code == CTL_OK && !tune_interrupted())
			code = measure(&w);
		tune_interrupt_ends(false);
	}
	close_store(&w);
	conf_free(&target.conf);
	if (code != CTL_OK || tune_interrupted())
		return code;
	const struct tune_point *best = choose(t);
	tune_store_report_show(t, best);
	return tune_report_end(t, best);
}
