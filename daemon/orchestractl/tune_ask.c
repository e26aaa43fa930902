/* Asks, and counts what is found and how long it takes. */
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#include "clock.h"
#include "tune.h"
#include "tune_plot.h"

#define SHOW_EVERY_US 100000
#define ALIKE 1e-6 /* scores are shown with seven digits */

static volatile sig_atomic_t wanted_end, ends_at_once;

static void on_interrupt(int sig)
{
	static const char say[] = "\norchestractl: interrupted; nothing was changed\n";
	wanted_end = 1;
	if (!ends_at_once)
		return;
	(void)!write(STDERR_FILENO, say, sizeof(say) - 1);
	raise(sig); /* it has its default action again, once this returns */
}

void tune_interrupt_ends(bool on) { ends_at_once = on; }

static void mind_interrupt(void)
{
	struct sigaction sa = {.sa_handler = on_interrupt, .sa_flags = SA_RESETHAND}; /* a second one ends it at once */
	sigaction(SIGINT, &sa, NULL);
}

bool tune_interrupted(void)
{
	static bool minding;
	if (!minding)
		mind_interrupt();
	minding = true;
	return wanted_end;
}

double tune_recall(const struct tune_point *p) { return p->wanted ? (double)p->found / (double)p->wanted : 0; }

/* ---- one question ---- */

/* `how`: the rest of the body. *o_r: the answer, to be given back by the caller. */
static int ask(const struct tune *t, const struct tune_question *q, const char *how, json_t **o_r, int64_t *us_r)
{
	struct buf body = {0};
	struct answer a;
	*o_r = NULL;
	buf_printf(&body, "%s,%s}", q->body, how);
	buf_addc(&body, '\0');
	int64_t begin = clock_mono_us();
	int code = client_request(t->c, "POST", "/v1/memories/search", body.p, &a);
	*us_r = clock_mono_us() - begin;
	buf_free(&body);
	if (code == CTL_OK && a.status != 200) {
		code = output_problem(&a);
		if (!*q->own)
			fprintf(stderr, "orchestractl: so question %zu of %s was answered\n",
				(size_t)(q - t->questions) + 1,
				strcmp(t->queries, "-") == 0 ? "standard input" : t->queries);
	} else if (code == CTL_OK && !(*o_r = output_parse(&a))) {
		code = CTL_FAILED;
	}
	client_free(&a);
	return code;
}

static uint64_t number(const json_t *o, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(o, key));
}

/* Vectors that did not take part say nothing about vectors. */
static bool without_vectors(const json_t *answer)
{
	size_t i;
	json_t *what;
	json_array_foreach (json_object_get(answer, "degraded"), i, what)
		if (json_is_string(what) && strcmp(json_string_value(what), "vector") == 0)
			return true;
	return false;
}

bool tune_is_best(const struct tune_exact *e, const char *id, double score)
{
	for (size_t i = 0; i < e->n; i++)
		if (strcmp(e->ids[i], id) == 0)
			return true;
	return score >= e->floor - ALIKE * fabs(e->floor); /* as near as one of them */
}

static size_t count_found(const struct tune *t, const struct tune_question *q, const json_t *answer)
{
	size_t i, n = 0, found = 0;
	json_t *r;
	json_array_foreach (json_object_get(answer, "results"), i, r) {
		if (n == t->limit || strcmp(output_str(r, "id"), q->own) == 0)
			continue;
		n++;
		found += tune_is_best(&q->exact, output_str(r, "id"), json_number_value(json_object_get(r, "score")));
	}
	return found < q->exact.n ? found : q->exact.n;
}

static void keep_exact(const struct tune *t, struct tune_question *q, const json_t *answer)
{
	size_t i;
	json_t *r;
	struct tune_exact *e = &q->exact;
	e->ids = util_zalloc(t->limit * sizeof(*e->ids));
	json_array_foreach (json_object_get(answer, "results"), i, r) {
		if (e->n == t->limit || strcmp(output_str(r, "id"), q->own) == 0)
			continue;
		snprintf(e->ids[e->n++], sizeof(*e->ids), "%.36s", output_str(r, "id"));
		e->floor = json_number_value(json_object_get(r, "score"));
	}
}

/* ---- exact ---- */

/* Whether there are lists is told by a question that may use them. */
int tune_ask_where(struct tune *t)
{
	json_t *o;
	int64_t us;
	int code = ask(t, &t->questions[0], "\"recall\":0.8", &o, &us);
	const json_t *e = json_object_get(o, "explain");
	t->lists = number(json_object_get(e, "vector_lists"), "lists");
	t->by_store = strcmp(output_str(e, "vector_tier"), "store") == 0;
	json_decref(o);
	return code;
}

int tune_ask_exact(struct tune *t)
{
	bool on = isatty(STDERR_FILENO);
	int64_t us, shown = 0;
	size_t best = 0;
	int code = CTL_OK;
	for (size_t i = 0; i < t->n && code == CTL_OK && !tune_interrupted(); i++) {
		json_t *o;
		code = ask(t, &t->questions[i], "\"exact\":true", &o, &us);
		if (code == CTL_OK && without_vectors(o)) {
			fprintf(stderr, "orchestractl: the daemon cannot compare the question with the vectors of the "
					"namespace; give questions an \"embedding\", or leave --queries out\n");
			code = CTL_FAILED;
		} else if (code == CTL_OK) {
			keep_exact(t, &t->questions[i], o);
			best += t->questions[i].exact.n;
		}
		json_decref(o);
		if (on && clock_mono_us() - shown > SHOW_EVERY_US) {
			output_bar("exact answers", i + 1, t->n, on);
			shown = clock_mono_us();
		}
	}
	if (on)
		fputs("\r\033[K", stderr);
	if (code == CTL_OK && !best && !tune_interrupted()) {
		fprintf(stderr, "orchestractl: no question has an answer in namespace \"%s\"\n", t->c->namespace);
		code = CTL_FAILED;
	}
	return code;
}

/* ---- the sweep ---- */

static int ask_point(struct tune *t, struct tune_point *p, const struct tune_question *q)
{
	char how[48];
	json_t *o;
	int64_t us;
	if (p->probes)
		snprintf(how, sizeof(how), "\"probes\":%u", p->probes);
	else
		snprintf(how, sizeof(how), "\"recall\":%.4g", p->recall);
	int code = ask(t, q, how, &o, &us);
	if (code != CTL_OK)
		return code;
	const json_t *e = json_object_get(o, "explain"), *l = json_object_get(e, "vector_lists");
	p->vector_us[p->answers] = json_integer_value(json_object_get(json_object_get(e, "timings_us"), "vector"));
	p->request_us[p->answers++] = us;
	p->read += number(l, "read");
	p->codes += number(l, "codes");
	p->compared += l ? number(l, "compared") : number(e, "scanned");
	p->found += count_found(t, q, o);
	p->wanted += q->exact.n;
	t->lists_moved |= l && number(l, "lists") != t->lists;
	t->by_store |= strcmp(output_str(e, "vector_tier"), "store") == 0;
	json_decref(o);
	return code;
}

void tune_work_out(struct tune_point *p)
{
	p->vector_p50 = tune_quantile(p->vector_us, p->answers, 0.5);
	p->vector_p99 = tune_quantile(p->vector_us, p->answers, 0.99);
	if (!p->request_us)
		return;
	p->request_p50 = tune_quantile(p->request_us, p->answers, 0.5);
	p->request_p99 = tune_quantile(p->request_us, p->answers, 0.99);
}

/* Round by round, so that what else the machine does meanwhile falls upon all points alike. */
int tune_ask_points(struct tune *t)
{
	bool on = isatty(STDERR_FILENO);
	uint64_t done = 0, all = (uint64_t)t->rounds * t->npoints * t->n;
	int64_t shown = 0;
	int code = CTL_OK;
	for (size_t i = 0; i < t->npoints; i++) {
		t->points[i].vector_us = util_alloc(t->rounds * t->n * sizeof(int64_t));
		t->points[i].request_us = util_alloc(t->rounds * t->n * sizeof(int64_t));
	}
	for (uint64_t i = 0; i < all && code == CTL_OK && !tune_interrupted(); i++) {
		code = ask_point(t, &t->points[i / t->n % t->npoints], &t->questions[i % t->n]);
		done++;
		if (on && clock_mono_us() - shown > SHOW_EVERY_US) {
			output_bar("measuring", done, all, on);
			shown = clock_mono_us();
		}
	}
	if (on)
		fputs("\r\033[K", stderr);
	for (size_t i = 0; i < t->npoints; i++)
		tune_work_out(&t->points[i]);
	return code;
}
