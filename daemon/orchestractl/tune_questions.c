/* What is asked: lines of a file, or memories of the namespace itself. */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "tune.h"

#define PAGE "1000"
#define PAGES_MAX 200 /* of the newest memories, from which a sample is drawn */

/* Takes `o` over. `own`: the memory it is of, or NULL. */
static void add_question(struct tune *t, json_t *o, const char *own)
{
	struct tune_question q = {.own = ""};
	/* One more than is counted: the memory itself may be among them. */
	json_object_set_new(o, "limit", json_integer((json_int_t)t->limit + (own != NULL)));
	json_object_set_new(o, "namespace", json_string(t->c->namespace));
	json_object_set_new(o, "mode", json_string("vector"));
	json_object_set_new(o, "explain", json_true());
	q.body = json_dumps(o, JSON_COMPACT);
	AN(q.body);
	q.body[strlen(q.body) - 1] = '\0';
	if (own)
		snprintf(q.own, sizeof(q.own), "%s", own);
	json_decref(o);
	if (t->n == t->room) {
		t->room = t->room ? 2 * t->room : 256;
		t->questions = util_realloc(t->questions, t->room * sizeof(*t->questions));
	}
	t->questions[t->n++] = q;
}

void tune_questions_free(struct tune *t)
{
	for (size_t i = 0; i < t->n; i++) {
		free(t->questions[i].body);
		free(t->questions[i].exact.ids);
	}
	free(t->questions);
	t->questions = NULL;
	t->n = 0;
}

/* ---- a file ---- */

/* What of a search says which vectors are meant; the rest of it would change more than is measured. */
static json_t *question_of(const char *line, unsigned long long lineno)
{
	static const char *const keys[] = {"query", "embedding", "filter", "user_id", "agent_id", "session_id", "kind"};
	json_error_t e;
	json_t *o = *line == '{' ? json_loads(line, JSON_REJECT_DUPLICATES, &e) : json_pack("{s:s}", "query", line);
	if (!o) {
		fprintf(stderr, "orchestractl: line %llu: %s\n", lineno, *line == '{' ? e.text : "is no UTF-8");
		return NULL;
	}
	if (!json_object_get(o, "query") && !json_object_get(o, "embedding")) {
		fprintf(stderr, "orchestractl: line %llu: has neither \"query\" nor \"embedding\"\n", lineno);
		json_decref(o);
		return NULL;
	}
	json_t *q = json_object();
	for (size_t i = 0; i < ARRAY_LEN(keys); i++)
		if (json_object_get(o, keys[i]))
			json_object_set(q, keys[i], json_object_get(o, keys[i]));
	json_decref(o);
	return q;
}

static int read_lines(struct tune *t, FILE *f)
{
	unsigned long long lineno = 0;
	char *line = NULL;
	size_t cap = 0;
	ssize_t n;
	int code = CTL_OK;
	while (code == CTL_OK && (n = getline(&line, &cap, f)) != -1) {
		lineno++;
		while (n && (line[n - 1] == '\n' || line[n - 1] == '\r'))
			line[--n] = '\0';
		if (!n)
			continue;
		if (t->n == TUNE_QUESTIONS_MAX) {
			fprintf(stderr, "orchestractl: %s: has more than %d questions; take fewer: head -n %d\n",
				t->queries, TUNE_QUESTIONS_MAX, TUNE_QUESTIONS_MAX);
			code = CTL_FAILED;
			break;
		}
		json_t *q = strlen(line) == (size_t)n ? question_of(line, lineno) : NULL;
		if (q)
			add_question(t, q, NULL);
		else if (strlen(line) != (size_t)n)
			fprintf(stderr, "orchestractl: line %llu: has a NUL byte\n", lineno);
		code = q ? CTL_OK : CTL_FAILED;
	}
	if (code == CTL_OK && ferror(f)) {
		fprintf(stderr, "orchestractl: cannot read %s: %s\n", t->queries, strerror(errno));
		code = CTL_FAILED;
	}
	free(line);
	return code;
}

int tune_questions_read(struct tune *t)
{
	bool input = strcmp(t->queries, "-") == 0;
	FILE *f = input ? stdin : fopen(t->queries, "re");
	if (!f) {
		fprintf(stderr, "orchestractl: cannot read %s: %s\n", t->queries, strerror(errno));
		return CTL_FAILED;
	}
	int code = read_lines(t, f);
	if (!input)
		fclose(f);
	if (code == CTL_OK && !t->n) {
		fprintf(stderr, "orchestractl: %s: holds no question; one is expected on each line\n", t->queries);
		code = CTL_FAILED;
	}
	return code;
}

/* ---- a sample ---- */

/* xorshift64*, always from the same seed: two runs over the same memories ask the same. */
static uint64_t random_below(uint64_t *state, uint64_t n)
{
	*state ^= *state >> 12;
	*state ^= *state << 25;
	*state ^= *state >> 27;
	return (*state * 2685821657736338717ULL >> 11) % n;
}

struct draw {
	char (*ids)[UUID_TEXT + 1];
	size_t n;
	uint64_t seen, random, listed;
};

/* Each of those that have a vector has the same chance to stay, however many there are. */
static void draw_page(struct draw *d, const json_t *page, size_t sample)
{
	size_t i;
	json_t *m;
	json_array_foreach (json_object_get(page, "memories"), i, m) {
		d->listed++;
		if (!*output_str(m, "embedding_model"))
			continue;
		uint64_t at = d->seen < sample ? d->seen : random_below(&d->random, d->seen + 1);
		d->seen++;
		if (at < sample)
			snprintf(d->ids[at], sizeof(d->ids[at]), "%.36s", output_str(m, "id"));
	}
	d->n = d->seen < sample ? (size_t)d->seen : sample;
}

/* *o_r: the answer, to be given back by the caller. */
static int get(struct ctl *c, const char *path, json_t **o_r)
{
	struct answer a;
	int code = client_request(c, "GET", path, NULL, &a);
	*o_r = NULL;
	if (code == CTL_OK && a.status != 200)
		code = output_problem(&a);
	else if (code == CTL_OK && !(*o_r = output_parse(&a)))
		code = CTL_FAILED;
	client_free(&a);
	return code;
}

static int draw_all(struct tune *t, struct draw *d)
{
	char cursor[64] = "";
	int code = CTL_OK;
	bool on = isatty(STDERR_FILENO);
	uint64_t all = t->memories < PAGES_MAX * 1000ULL ? t->memories : PAGES_MAX * 1000ULL;
	for (int i = 0; i < PAGES_MAX && code == CTL_OK && !tune_interrupted(); i++) {
		const char *const pairs[][2] = {
			{"namespace", t->c->namespace}, {"limit", PAGE}, {"cursor", *cursor ? cursor : NULL}};
		char *path = client_path("/v1/memories", pairs, ARRAY_LEN(pairs));
		json_t *page;
		code = get(t->c, path, &page);
		free(path);
		draw_page(d, page, t->sample);
		snprintf(cursor, sizeof(cursor), "%s", output_str(page, "next_cursor"));
		json_decref(page);
		output_bar("choosing memories", d->listed, all, on);
		if (!*cursor)
			break;
	}
	if (on)
		fputs("\r\033[K", stderr);
	return code;
}

/* Its vector is what is asked for: it is there, whoever made it, and costs no embedding. One that was deleted meanwhile is
 * left out. */
static int take(struct tune *t, const char *id)
{
	struct answer a;
	struct buf path = {0};
	buf_printf(&path, "/v1/memories/%s?include=embedding", id);
	buf_addc(&path, '\0');
	int code = client_request(t->c, "GET", path.p, NULL, &a);
	buf_free(&path);
	json_t *m = code == CTL_OK && a.status == 200 ? output_parse(&a) : NULL;
	if (code == CTL_OK && a.status != 200 && a.status != 404)
		code = output_problem(&a);
	json_t *x = json_object_get(m, "embedding");
	if (x)
		add_question(t, json_pack("{s:O}", "embedding", x), id);
	json_decref(m);
	client_free(&a);
	return code;
}

int tune_questions_sample(struct tune *t)
{
	struct draw d = {.random = 0x9e3779b97f4a7c15ULL};
	d.ids = util_zalloc(t->sample * sizeof(*d.ids));
	int code = draw_all(t, &d);
	for (size_t i = 0; i < d.n && code == CTL_OK && !tune_interrupted(); i++)
		code = take(t, d.ids[i]);
	free(d.ids);
	if (code == CTL_OK && !t->n && !tune_interrupted()) {
		fprintf(stderr, "orchestractl: no memory of namespace \"%s\" has a vector\n", t->c->namespace);
		code = CTL_FAILED;
	}
	return code;
}
