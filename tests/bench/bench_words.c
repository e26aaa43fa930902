/* The word index against SQLite's FTS5: the same documents, the same questions (any word, BM25, 10 best), one core.
 *
 *	bench_words [--json] [--documents N] [--questions N] [--depth K] [FILE.json]
 *
 * FILE is LoCoMo's: its turns are the documents, repeated with two words changed until there are enough, its questions the
 * questions. Without it both are made up, with the frequencies of a language. */
#include <jansson.h>
#include <math.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "clock.h"
#include "shm.h"
#include "words/postings.h"

struct texts {
	char **v;
	size_t n, cap;
};
struct figures {
	double p50_ms, p99_ms, mean_ms, per_s, bytes;
};

static uint64_t rng = 20261121;

static uint32_t next(void)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return (uint32_t)(rng >> 16);
}

static void add(struct texts *t, const char *s)
{
	if (t->n == t->cap) {
		t->cap = t->cap ? 2 * t->cap : 1024;
		t->v = util_realloc(t->v, t->cap * sizeof(*t->v));
	}
	t->v[t->n++] = util_strndup(s, strlen(s));
}

static void read_turns(const json_t *conversation, struct texts *docs)
{
	const char *key;
	json_t *session, *turn;
	size_t i;
	json_object_foreach ((json_t *)(uintptr_t)conversation, key, session) {
		if (!json_is_array(session))
			continue;
		json_array_foreach (session, i, turn) {
			struct buf b = {0};
			const char *caption = json_string_value(json_object_get(turn, "blip_caption"));
			buf_printf(&b, "%s: %s", json_string_value(json_object_get(turn, "speaker")),
				   json_string_value(json_object_get(turn, "text")));
			if (caption)
				buf_printf(&b, " [image: %s]", caption);
			buf_addc(&b, 0);
			add(docs, b.p);
			buf_free(&b);
		}
	}
}

static bool read_file(const char *path, struct texts *docs, struct texts *asks)
{
	json_t *all = json_load_file(path, 0, NULL), *sample, *qa;
	size_t i, k;
	json_array_foreach (all, i, sample) {
		read_turns(json_object_get(sample, "conversation"), docs);
		json_array_foreach (json_object_get(sample, "qa"), k, qa)
			if (json_string_value(json_object_get(qa, "question")))
				add(asks, json_string_value(json_object_get(qa, "question")));
	}
	json_decref(all);
	return docs->n && asks->n;
}

static void made_up_word(struct buf *b)
{
	double u = (double)next() / (double)UINT32_MAX;
	buf_printf(b, "%c%c%u ", 'a' + next() % 3, 'a' + (int)(u * u * 25), (uint32_t)(u * u * u * 20000));
}

static void make_up(struct texts *t, size_t n, unsigned low, unsigned high)
{
	while (t->n < n) {
		struct buf b = {0};
		for (unsigned i = low + next() % (high - low + 1); i; i--)
			made_up_word(&b);
		buf_addc(&b, 0);
		add(t, b.p);
		buf_free(&b);
	}
}

/* Copies with two words more of another document each, so that no two documents are alike. */
static void repeat(struct texts *t, size_t n)
{
	size_t first = t->n;
	while (t->n < n) {
		struct buf b = {0};
		const char *other = t->v[next() % first], *space = strchr(other, ' ');
		const char *end = space ? strchr(space + 1, ' ') : NULL;
		buf_printf(&b, "%s %.*s", t->v[t->n % first], end ? (int)(end - other) : 0, other);
		buf_addc(&b, 0);
		add(t, b.p);
		buf_free(&b);
	}
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static void summarise(double *ms, size_t n, struct figures *f)
{
	for (size_t i = 0; i < n; i++)
		f->mean_ms += ms[i] / (double)n;
	qsort(ms, n, sizeof(*ms), by_value);
	f->p50_ms = ms[n / 2];
	f->p99_ms = ms[n * 99 / 100];
}

static struct uuid id_of(size_t i)
{
	struct uuid id = {{1, 2, 3}};
	for (int k = 0; k < 8; k++)
		id.b[15 - k] = (uint8_t)(i >> (8 * k));
	return id;
}

static struct figures bench_ours(const struct texts *docs, const struct texts *asks, size_t depth)
{
	struct figures f = {0};
	struct words *words = words_new();
	struct postings_hit *hits = util_alloc(depth * sizeof(*hits));
	double *ms = util_alloc(asks->n * sizeof(*ms));
	int fd = shm_create("bench-words", postings_segment_size(4ull << 30));
	struct postings *p = postings_open(fd, true);
	AN(p);
	int64_t at = clock_mono_us();
	for (size_t i = 0; i < docs->n; i++) {
		struct uuid id = id_of(i);
		AN(postings_put(p, 1, &id, 1, 0, SPAN(docs->v[i])) == 0);
	}
	f.per_s = (double)docs->n * 1e6 / (double)(clock_mono_us() - at);
	sleep(1);
	struct uuid none = id_of(docs->n); /* what was let go of is given back with the next write */
	AN(postings_put(p, 1, &none, 1, 0, SPAN("x")) == 0);
	f.bytes = (double)postings_bytes(p) / (double)docs->n;
	struct postings *reader = postings_open(fd, false);
	AN(reader);
	for (size_t round = 0; round < 2; round++) {
		for (size_t i = 0; i < asks->n; i++) {
			struct postings_question q;
			size_t n;
			int64_t from = clock_mono_us();
			postings_question_read(words, SPAN(asks->v[i]), &q);
			AN(postings_search(reader, &(struct postings_query){.ns = 1, .question = &q, .k = depth}, hits,
					   &n, NULL));
			ms[i] = (double)(clock_mono_us() - from) / 1000;
			postings_question_free(&q);
		}
	}
	summarise(ms, asks->n, &f);
	postings_close(&reader);
	postings_close(&p);
	close(fd);
	free(ms);
	free(hits);
	words_free(&words);
	return f;
}

/* ---- FTS5 ---- */

static void run(sqlite3 *db, const char *sql) { AN(sqlite3_exec(db, sql, NULL, NULL, NULL) == SQLITE_OK); }

static void match_of(struct words *words, const char *ask, struct buf *b)
{
	struct word v[64];
	size_t n = words_query(words, SPAN(ask), v, 64);
	for (size_t i = 0; i < n; i++) {
		buf_adds(b, i ? " OR \"" : "\"");
		buf_add(b, v[i].stem.p, v[i].stem.len);
		buf_addc(b, '"');
	}
}

static double count_of(sqlite3 *db, const char *sql)
{
	sqlite3_stmt *st;
	AN(sqlite3_prepare_v2(db, sql, -1, &st, NULL) == SQLITE_OK && sqlite3_step(st) == SQLITE_ROW);
	double x = sqlite3_column_double(st, 0);
	sqlite3_finalize(st);
	return x;
}

static void fill_fts5(sqlite3 *db, const struct texts *docs)
{
	sqlite3_stmt *st;
	run(db,
	    "CREATE VIRTUAL TABLE w USING fts5(content, content='', tokenize='porter unicode61 remove_diacritics 2');BEGIN");
	AN(sqlite3_prepare_v2(db, "INSERT INTO w(rowid,content) VALUES(?,?)", -1, &st, NULL) == SQLITE_OK);
	for (size_t i = 0; i < docs->n; i++) {
		sqlite3_bind_int64(st, 1, (sqlite3_int64)i + 1);
		sqlite3_bind_text(st, 2, docs->v[i], -1, SQLITE_STATIC);
		AN(sqlite3_step(st) == SQLITE_DONE);
		sqlite3_reset(st);
	}
	sqlite3_finalize(st);
	run(db, "COMMIT");
}

static struct figures bench_fts5(const struct texts *docs, const struct texts *asks, size_t depth)
{
	struct figures f = {0};
	struct words *words = words_new();
	double *ms = util_alloc(asks->n * sizeof(*ms));
	sqlite3 *db;
	sqlite3_stmt *st;
	AN(sqlite3_open(":memory:", &db) == SQLITE_OK);
	int64_t at = clock_mono_us();
	fill_fts5(db, docs);
	f.per_s = (double)docs->n * 1e6 / (double)(clock_mono_us() - at);
	f.bytes = count_of(db, "PRAGMA page_count") * count_of(db, "PRAGMA page_size") / (double)docs->n;
	AN(sqlite3_prepare_v2(db, "SELECT rowid,bm25(w) AS s FROM w WHERE w MATCH ? ORDER BY s LIMIT ?", -1, &st,
			      NULL) == SQLITE_OK);
	for (size_t i = 0; i < asks->n; i++) {
		struct buf b = {0};
		match_of(words, asks->v[i], &b);
		int64_t from = clock_mono_us();
		sqlite3_bind_text(st, 1, b.p, (int)b.len, SQLITE_STATIC);
		sqlite3_bind_int64(st, 2, (sqlite3_int64)depth);
		while (b.len && sqlite3_step(st) == SQLITE_ROW)
			;
		sqlite3_reset(st);
		ms[i] = (double)(clock_mono_us() - from) / 1000;
		buf_free(&b);
	}
	sqlite3_finalize(st);
	sqlite3_close(db);
	summarise(ms, asks->n, &f);
	free(ms);
	words_free(&words);
	return f;
}

static void print(const char *name, const struct figures *f, bool json, bool last)
{
	if (json)
		printf("  \"%s\": {\"p50_ms\": %.4f, \"p99_ms\": %.4f, \"mean_ms\": %.4f, \"documents_per_s\": %.0f, "
		       "\"bytes_per_document\": %.1f}%s\n",
		       name, f->p50_ms, f->p99_ms, f->mean_ms, f->per_s, f->bytes, last ? "" : ",");
	else
		printf("%-10s  p50 %8.3f ms   p99 %8.3f ms   mean %8.3f ms   %9.0f documents/s   %6.1f bytes/document\n",
		       name, f->p50_ms, f->p99_ms, f->mean_ms, f->per_s, f->bytes);
}

static int usage(void)
{
	fprintf(stderr, "usage: bench_words [--json] [--documents N] [--questions N] [--depth K] [FILE.json]\n");
	return 2;
}

static void forget(struct texts *t, size_t from)
{
	while (t->n > from)
		free(t->v[--t->n]);
	if (!from)
		free(t->v);
}

int main(int argc, char **argv)
{
	size_t ndocs = 100000, nasks = 1000, depth = 10;
	const char *file = NULL;
	bool json = false;
	struct texts docs = {0}, asks = {0};
	for (int i = 1; i < argc; i++) {
		size_t *number = strcmp(argv[i], "--documents") == 0   ? &ndocs
				 : strcmp(argv[i], "--questions") == 0 ? &nasks
				 : strcmp(argv[i], "--depth") == 0     ? &depth
								       : NULL;
		if (number && i + 1 < argc && (*number = strtoul(argv[i + 1], NULL, 10)))
			i++;
		else if (number || (argv[i][0] == '-' && strcmp(argv[i], "--json") != 0))
			return usage();
		else if (argv[i][0] == '-')
			json = true;
		else
			file = argv[i];
	}
	if (file && !read_file(file, &docs, &asks)) {
		fprintf(stderr, "bench_words: %s holds no turns and questions\n", file);
		return 2;
	}
	make_up(&docs, file ? docs.n : ndocs, 12, 30);
	make_up(&asks, file ? asks.n : nasks, 5, 12);
	repeat(&docs, ndocs);
	forget(&docs, ndocs);
	if (asks.n > nasks)
		forget(&asks, nasks);
	struct figures ours = bench_ours(&docs, &asks, depth), fts5 = bench_fts5(&docs, &asks, depth);
	if (json)
		printf("{\"documents\": %zu, \"questions\": %zu, \"depth\": %zu,\n", docs.n, asks.n, depth);
	else
		printf("%zu documents, %zu questions, the %zu best\n", docs.n, asks.n, depth);
	print("orchestra", &ours, json, false);
	print("fts5", &fts5, json, true);
	if (json)
		puts("}");
	forget(&docs, 0);
	forget(&asks, 0);
	return 0;
}
