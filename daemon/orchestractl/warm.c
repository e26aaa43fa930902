/* warm: fills the cache by namespace, altogether, or with the answers to a file of queries. */
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "clock.h"
#include "ctl.h"

#define POLL_US 100000
#define SHOW_EVERY_US 100000
#define PROBLEMS_SHOWN 5
#define PAUSE_MAX_US 200000
#define SLOW_FACTOR 4 /* an answer that takes so many times what is usual: the daemon has other work */

static const char usage[] =
	"Usage: orchestractl warm --namespace NAME | --all [--limit N] [--wait]\n"
	"       orchestractl warm --queries FILE|- [--limit N]\n"
	"       orchestractl warm --status | --cancel\n"
	"Brings memories into the cache, the newest first. --wait shows how far it is, and returns at the end.\n"
	"--queries makes every line of FILE a search, as text or as the JSON of POST /v1/memories/search, in the namespace\n"
	"that --namespace or the JSON names, so that its answer, the vector of its text and what it finds are cached. Answers\n"
	"are found again by the same token and the same JSON, to the letter; vectors and memories by whoever asks.";

struct wish {
	bool all, wait, status, cancel;
	const char *queries;
	long long limit; /* 0: none */
};

/* ---- the warmer's job ---- */

static uint64_t number(const json_t *o, const char *key)
{
	return (uint64_t)json_integer_value(json_object_get(o, key));
}

static int answered(struct ctl *c, int code, struct answer *a)
{
	if (code == CTL_OK && a->status >= 300)
		code = c->json ? (output_raw(a), CTL_FAILED) : output_problem(a);
	return code;
}

static void show_job(const json_t *o)
{
	char bytes[16];
	output_bytes(json_number_value(json_object_get(o, "bytes")), bytes);
	if (!number(o, "job")) {
		puts("Nothing was warmed yet.");
		return;
	}
	printf("Job %llu (%s%s%s): %s, %llu of %llu memories, %s put into the cache\n",
	       (unsigned long long)number(o, "job"), output_str(o, "kind"), *output_str(o, "namespace") ? " " : "",
	       output_str(o, "namespace"), output_str(o, "state"), (unsigned long long)number(o, "loaded"),
	       (unsigned long long)number(o, "total"), bytes);
}

/* The job's last word in *last_r, to be given back by the caller; NULL: there is none. */
static int follow(struct ctl *c, uint64_t job, json_t **last_r)
{
	bool on = isatty(STDERR_FILENO), running = true;
	int code = CTL_OK;
	*last_r = NULL;
	while (running && code == CTL_OK) {
		struct answer a;
		code = answered(c, client_request(c, "GET", "/v1/admin/warm", NULL, &a), &a);
		json_t *o = code == CTL_OK ? output_parse(&a) : NULL;
		client_free(&a);
		code = o ? code : CTL_FAILED;
		running = o && number(o, "job") == job && strcmp(output_str(o, "state"), "running") == 0;
		if (o)
			output_bar("warm", number(o, "loaded") + number(o, "skipped"), number(o, "total"), on);
		json_decref(*last_r);
		*last_r = o;
		if (running)
			usleep(POLL_US);
	}
	if (on)
		fputc('\n', stderr);
	return code;
}

static int finish(struct ctl *c, json_t *o)
{
	const char *state = output_str(o, "state");
	bool bad = strcmp(state, "failed") == 0 || strcmp(state, "cancelled") == 0;
	if (c->json) {
		char *text = json_dumps(o, JSON_COMPACT);
		puts(text ? text : "");
		free(text);
	} else {
		show_job(o);
	}
	return bad ? CTL_FAILED : CTL_OK;
}

static int order(struct ctl *c, const struct wish *w)
{
	struct answer a;
	json_t *body = json_object();
	if (w->all)
		json_object_set_new(body, "all", json_true());
	else
		json_object_set_new(body, "namespace", json_string(c->namespace));
	if (w->limit)
		json_object_set_new(body, "limit", json_integer(w->limit));
	char *text = json_dumps(body, JSON_COMPACT);
	int code = text ? client_request(c, "POST", "/v1/admin/warm", text, &a)
			: ctl_usage("warm: the name is no UTF-8");
	if (text)
		code = answered(c, code, &a);
	json_t *o = code == CTL_OK ? output_parse(&a) : NULL;
	if (code == CTL_OK && !o)
		code = CTL_FAILED;
	if (text)
		client_free(&a);
	if (o && w->wait) {
		uint64_t job = number(o, "job");
		json_decref(o);
		code = follow(c, job, &o);
	}
	if (o && code == CTL_OK)
		code = finish(c, o);
	json_decref(o);
	json_decref(body);
	free(text);
	return code;
}

static int ask(struct ctl *c, const char *method)
{
	struct answer a;
	int code = answered(c, client_request(c, method, "/v1/admin/warm", NULL, &a), &a);
	json_t *o = code == CTL_OK ? output_parse(&a) : NULL;
	if (code == CTL_OK && c->json)
		output_raw(&a);
	else if (o)
		show_job(o);
	json_decref(o);
	client_free(&a);
	return code;
}

/* ---- queries ---- */

struct asking {
	struct ctl *c;
	uint64_t asked, failed, found;
	int64_t usual_us, pause_us, shown_us;
	bool on;
};

/* A line that begins as an object is one, and sent as it stands where it can be: the daemon keeps answers by what was
 * asked, to the letter. Any other is the text of a query. NULL: said why. */
static char *body_of(struct asking *q, char *line, unsigned long long lineno)
{
	json_error_t e;
	json_t *o = *line == '{' ? json_loads(line, JSON_REJECT_DUPLICATES, &e) : json_pack("{s:s}", "query", line);
	if (!o) {
		fprintf(stderr, "orchestractl: line %llu: %s\n", lineno, *line == '{' ? e.text : "is no UTF-8");
		return NULL;
	}
	bool other = q->c->namespace && !json_object_get(o, "namespace");
	if (other)
		json_object_set_new(o, "namespace", json_string(q->c->namespace));
	char *text = *line == '{' && !other ? util_strndup(line, strlen(line)) : json_dumps(o, JSON_COMPACT);
	json_decref(o);
	return text;
}

/* As the warmer does: when answers take much longer than usual, somebody else wants them more. */
static void mind(struct asking *q, int64_t took_us)
{
	bool slow = q->usual_us && took_us > SLOW_FACTOR * q->usual_us && took_us > 5000;
	q->usual_us = q->usual_us ? q->usual_us + (took_us - q->usual_us) / 16 : took_us;
	q->pause_us = slow ? 2 * q->pause_us + 1000 : q->pause_us / 2;
	if (q->pause_us > PAUSE_MAX_US)
		q->pause_us = PAUSE_MAX_US;
	if (q->pause_us > 200)
		usleep((unsigned)q->pause_us);
}

static int ask_one(struct asking *q, char *line, unsigned long long lineno)
{
	struct answer a;
	char *body = body_of(q, line, lineno);
	int64_t begin = clock_mono_us();
	if (!body) {
		q->failed++;
		return CTL_OK;
	}
	int code = client_request(q->c, "POST", "/v1/memories/search", body, &a);
	int64_t now = clock_mono_us();
	free(body);
	if (code == CTL_OK && a.status == 200) {
		json_t *o = json_loads(a.body.p, 0, NULL);
		q->found += json_array_size(json_object_get(o, "results"));
		json_decref(o);
		q->asked++;
	} else if (code == CTL_OK) {
		if (q->failed++ < PROBLEMS_SHOWN) {
			fprintf(stderr, "line %llu: ", lineno);
			(void)output_problem(&a);
		}
		if (a.status == 429 || a.status == 503)
			now = begin + PAUSE_MAX_US;
	}
	client_free(&a);
	if (code == CTL_OK)
		mind(q, now - begin);
	return code;
}

static int run_queries(struct ctl *c, const struct wish *w)
{
	bool input = strcmp(w->queries, "-") == 0;
	FILE *f = input ? stdin : fopen(w->queries, "re");
	struct asking q = {.c = c, .on = isatty(STDERR_FILENO)};
	unsigned long long lineno = 0;
	char *line = NULL, took[16];
	size_t cap = 0;
	ssize_t n;
	int code = CTL_OK;
	int64_t begin = clock_mono_us();
	if (!f) {
		fprintf(stderr, "orchestractl: cannot read %s: %s\n", w->queries, strerror(errno));
		return CTL_FAILED;
	}
	while (code == CTL_OK && (!w->limit || (long long)q.asked < w->limit) && (n = getline(&line, &cap, f)) != -1) {
		lineno++;
		while (n && (line[n - 1] == '\n' || line[n - 1] == '\r'))
			line[--n] = '\0';
		if (n)
			code = ask_one(&q, line, lineno);
		if (q.on && clock_mono_us() - q.shown_us > SHOW_EVERY_US) {
			fprintf(stderr, "\r\033[Kwarm %llu queries", (unsigned long long)q.asked);
			q.shown_us = clock_mono_us();
		}
	}
	if (q.on)
		fputs("\r\033[K", stderr);
	free(line);
	if (!input)
		fclose(f);
	output_duration((double)(clock_mono_us() - begin) / 1e6, took);
	if (c->json)
		printf("{\"queries\":%llu,\"failed\":%llu,\"results\":%llu,\"seconds\":%.3f}\n",
		       (unsigned long long)q.asked, (unsigned long long)q.failed, (unsigned long long)q.found,
		       (double)(clock_mono_us() - begin) / 1e6);
	else
		printf("%llu queries asked in %s, %llu memories found, %llu failed\n", (unsigned long long)q.asked,
		       took, (unsigned long long)q.found, (unsigned long long)q.failed);
	return code == CTL_OK && q.failed ? CTL_FAILED : code;
}

/* ---- the command ---- */

static bool take_options(int argc, char **argv, struct wish *w, int *code_r)
{
	static const struct option options[] = {
		{"all", no_argument, NULL, 'a'},	 {"queries", required_argument, NULL, 'q'},
		{"limit", required_argument, NULL, 'l'}, {"wait", no_argument, NULL, 'w'},
		{"status", no_argument, NULL, 's'},	 {"cancel", no_argument, NULL, 'c'},
		{"help", no_argument, NULL, 'h'},	 {0},
	};
	char *end;
	int opt;
	*code_r = CTL_USAGE;
	while ((opt = ctl_options(argc, argv, ":", options)) != -1) {
		switch (opt) {
		case 'a': w->all = true; break;
		case 'q': w->queries = optarg; break;
		case 'w': w->wait = true; break;
		case 's': w->status = true; break;
		case 'c': w->cancel = true; break;
		case 'l':
			errno = 0;
			w->limit = strtoll(optarg, &end, 10);
			if (errno || *end || w->limit < 1) {
				ctl_usage("warm: --limit needs a whole number from 1 on");
				return false;
			}
			break;
		case 'h':
			puts(usage);
			*code_r = CTL_OK;
			return false;
		default: return false;
		}
	}
	if (optind < argc) {
		ctl_usage("warm: unexpected \"%s\"", argv[optind]);
		return false;
	}
	return true;
}

int warm_run(struct ctl *c, int argc, char **argv)
{
	struct wish w = {.all = false};
	int code;
	if (!take_options(argc, argv, &w, &code))
		return code;
	bool by_namespace = c->namespace && !w.queries;
	if (w.all + w.status + w.cancel + (w.queries != NULL) + by_namespace != 1)
		return ctl_usage("warm: expected one of --namespace NAME, --all, --queries FILE, --status, --cancel");
	if (w.status || w.cancel)
		return ask(c, w.cancel ? "DELETE" : "GET");
	return w.queries ? run_queries(c, &w) : order(c, &w);
}
