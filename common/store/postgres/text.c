/* Full-text search: BM25 over the column `words`, and over memories that are still on their way to the store, in one
 * ranking with the same statistics.
 *
 * The server yields candidates by the GIN index, the best by what SQL can say of BM25: the weights of the words that a
 * row has, and how many different words it has. Frequencies are read from the tsvectors of the candidates, and the
 * score is worked out here.
 *
 * In a large namespace the rows of a common word are too many to be looked at. Then rows are found by the rarer words
 * of the query, while common ones count for the score; when those rows are too few, by all the common words at once; when
 * they are still too few, by any word, but only LOOKED_AT rows of them. */
#include <math.h>
#include <stdlib.h>

#include "store/hits.h"
#include "text-private.h"
#include "words/words.h"

#define K1 1.2 /* as FTS5's bm25(), which ranks in SQLite */
#define B 0.75
#define CANDIDATES 400	   /* at least; else CANDIDATE_FACTOR per hit */
#define CANDIDATE_FACTOR 4 /* up to: */
#define CANDIDATES_MANY 2000
#define CANDIDATES_LAST 20000 /* when many of them do not count */
#define LOOKED_AT 20000	      /* rows that a query may look at: about 10 µs each, and most lie on pages of their own */
#define ENOUGH_ROWS 5000      /* words are added to the search until they have so many rows */

/* ---- the query ---- */

static int by_bytes(const void *a, const void *b)
{
	struct span s = ((const struct pg_stem *)a)->text, t = ((const struct pg_stem *)b)->text;
	int c = memcmp(s.p, t.p, s.len < t.len ? s.len : t.len);
	return c ? c : (s.len > t.len) - (s.len < t.len);
}

static void read_query(struct pg_text *t)
{
	struct word w[PG_STEMS_MAX];
	words_language(t->s->words, t->q->language);
	size_t n = words_query(t->s->words, t->q->query, w, PG_STEMS_MAX);
	buf_reserve(&t->bytes, PG_STEMS_MAX * (size_t)WORDS_STEM_MAX); /* it must not move */
	for (size_t i = 0; i < n; i++) {
		t->v[i] = (struct pg_stem){.text = {t->bytes.p + t->bytes.len, w[i].stem.len}, .hash = w[i].hash};
		buf_add(&t->bytes, w[i].stem.p, w[i].stem.len);
	}
	t->n = n;
	if (n)
		qsort(t->v, n, sizeof(*t->v), by_bytes);
}

/* ---- memories that are not in the store yet ---- */

struct extra {
	uint32_t tf[PG_STEMS_MAX], length;
};

static void read_extra(struct pg_text *t, struct span content, struct extra *x)
{
	struct words_text text;
	words_analyze(t->s->words, content, &text);
	x->length = text.counting;
	for (size_t i = 0; i < text.n; i++) {
		const struct word *w = &text.v[i];
		size_t k = 0;
		while (k < t->n && !(t->v[k].hash == w->hash && span_eq(t->v[k].text, w->stem)))
			k++;
		if (k < t->n && word_counts(&text, w)) {
			x->tf[k] = w->count;
			t->v[k].df++;
		}
	}
}

/* They are documents like any other. */
static struct extra *read_extras(struct pg_text *t)
{
	struct extra *x = util_zalloc((t->q->nextra + 1) * sizeof(*x));
	double words = t->words * t->documents;
	for (size_t i = 0; i < t->q->nextra; i++) {
		read_extra(t, t->q->extra[i].content, &x[i]);
		words += x[i].length;
	}
	t->documents += (double)t->q->nextra;
	t->words = t->documents > 0 && words > 0 ? words / t->documents : 1;
	t->lexemes = t->lexemes > 0 ? t->lexemes : 1;
	for (size_t i = 0; i < t->n; i++) {
		double idf = log((t->documents - t->v[i].df + 0.5) / (t->v[i].df + 0.5));
		t->v[i].idf = idf > 1e-6 ? idf : 1e-6;
	}
	return x;
}

/* ---- scores ---- */

static double weigh(const struct pg_text *t, size_t stem, double tf, double length)
{
	return t->v[stem].idf * tf * (K1 + 1) / (tf + K1 * (1 - B + B * length / t->words));
}

/* Both are sorted. */
static double score_row(const struct pg_text *t, const PGresult *res, int row, int column)
{
	struct pg_lexemes l = pg_lexemes(res, row, column);
	struct pg_lexeme x;
	double length = 0, score = 0;
	uint32_t tf[PG_STEMS_MAX] = {0};
	size_t k = 0;
	while (pg_lexeme_next(&l, &x)) {
		length += x.count;
		while (k < t->n && by_bytes(&t->v[k], &(struct pg_stem){.text = x.text}) < 0)
			k++;
		if (k < t->n && span_eq(t->v[k].text, x.text))
			tf[k] = x.count;
	}
	for (size_t i = 0; i < t->n; i++)
		if (tf[i])
			score += weigh(t, i, tf[i], length);
	return score;
}

static void rank_extras(struct pg_text *t, const struct extra *x, struct hits *top)
{
	for (size_t d = 0; d < t->q->nextra; d++) {
		struct store_text_hit h = {t->q->extra[d].id, t->q->extra[d].version, 0};
		for (size_t i = 0; i < t->n; i++)
			if (x[d].tf[i])
				h.score += weigh(t, i, x[d].tf[i], x[d].length);
		if (h.score > 0)
			hits_offer(top, &h);
	}
}

/* ---- rows ---- */

/* By which words rows are found. */
struct way {
	size_t which[PG_STEMS_MAX], n;
	bool all;    /* rows that have every one of them */
	double rows; /* that have one, at most */
};

static int rarest_first(const void *a, const void *b, void *arg)
{
	const struct pg_stem *v = arg;
	double x = v[*(const size_t *)a].rows, y = v[*(const size_t *)b].rows;
	return (x > y) - (x < y);
}

/* The ways to try, one after the other. Returns their number, at most 3. */
static size_t choose_ways(const struct pg_text *t, struct way out[3])
{
	struct way any = {.n = 0};
	size_t n = 0;
	for (size_t i = 0; i < t->n; i++) {
		if (t->v[i].rows > 0)
			any.which[any.n++] = i;
		any.rows += t->v[i].rows;
	}
	if (!any.n)
		return 0;
	qsort_r(any.which, any.n, sizeof(*any.which), rarest_first, (void *)(uintptr_t)t->v);
	struct way rare = any, rest = {.all = true};
	rare.rows = 0;
	for (rare.n = 0; rare.n < any.n && rare.rows < ENOUGH_ROWS; rare.n++) {
		double more = t->v[any.which[rare.n]].rows;
		if (rare.rows + more > LOOKED_AT)
			break;
		rare.rows += more;
	}
	if (rare.n && rare.n < any.n)
		out[n++] = rare;
	for (size_t i = rare.n; i < any.n; i++)
		rest.which[rest.n++] = any.which[i];
	rest.rows = any.rows; /* of the intersection nothing is known */
	if (rest.n > 1 && any.rows > LOOKED_AT)
		out[n++] = rest;
	out[n++] = any;
	return n;
}

/* What SQL knows of BM25: every word once, and different words for the length. */
static void order(const struct pg_text *t, struct buf *sql, struct pg_params *p)
{
	buf_adds(sql, " ORDER BY (0::float8");
	for (size_t i = 0; i < t->n; i++) {
		if (!(t->v[i].rows > 0))
			continue;
		pg_param_tsquery(p, &t->v[i], NULL, 1, false);
		buf_printf(sql, "+CASE WHEN m.words@@$%d::tsquery THEN %.9g::float8 ELSE 0 END", p->n, t->v[i].idf);
	}
	buf_printf(sql, ")/(%.9g+%.9g::float8*length(m.words)) DESC,m.id", 1 + K1 * (1 - B), K1 * B / t->lexemes);
}

/* False: filter_match() must look at the rows. */
static bool build(const struct pg_text *t, const struct way *w, size_t rows, struct buf *sql, struct pg_params *p)
{
	struct buf where = {NULL, 0, 0};
	pg_param_text(p, t->ns);
	pg_param_tsquery(p, t->v, w->which, w->n, w->all);
	pg_param_time(p, t->q->now_us);
	bool exact = pg_filter(t->q->filter, &where, p);
	bool bounded = w->rows > LOOKED_AT;
	buf_printf(sql, "SELECT %s,m.words FROM %s", exact ? "m.id,m.version" : PG_MEMORY,
		   bounded ? "(SELECT m.* FROM " : "");
	buf_printf(sql,
		   "memories m WHERE m.namespace=$1::text AND m.words@@$2::tsquery"
		   " AND (m.expires_at IS NULL OR m.expires_at>$3::timestamptz) AND m.flags&%d=0",
		   MEMORY_SUPERSEDED);
	buf_add(sql, where.p, where.len);
	if (bounded)
		buf_printf(sql, " LIMIT %d) m", LOOKED_AT);
	order(t, sql, p);
	buf_printf(sql, " LIMIT %zu", rows);
	buf_addc(sql, 0);
	buf_free(&where);
	return exact;
}

static bool is_in(const struct hits *top, const struct uuid *id)
{
	size_t i = 0;
	while (i < top->n && uuid_cmp(&top->v[i].id, id) != 0)
		i++;
	return i < top->n;
}

/* again: some may have been offered before. */
static void offer_rows(const struct pg_text *t, const PGresult *res, bool exact, bool again, struct hits *top)
{
	const struct store_text *q = t->q;
	int words = exact ? 2 : PG_MEMORY_COLUMNS;
	for (int i = 0; i < pq.ntuples(res); i++) {
		struct store_text_hit h = {pg_uuid(res, i, 0), (uint64_t)pg_int(res, i, exact ? 1 : 2), 0};
		struct memory m;
		if ((again && is_in(top, &h.id)) || (q->hidden && q->hidden(q->hidden_arg, &h.id)))
			continue;
		if (!exact)
			pg_memory(res, i, &m);
		if (!exact && !filter_match(q->filter, &m))
			continue;
		h.score = score_row(t, res, i, words);
		hits_offer(top, &h);
	}
}

/* Rows that are hidden, or that only look as if they matched, are made up for by asking for more. */
static enum store_rc try_way(struct pg_text *t, const struct way *w, size_t rows, struct hits *top)
{
	for (;;) {
		struct pg_params p = {.n = 0};
		struct buf sql = {NULL, 0, 0};
		PGresult *res;
		bool exact = build(t, w, rows, &sql, &p);
		enum store_rc rc = pg_call_text(t->s, sql.p, &p, &res);
		pg_params_free(&p);
		buf_free(&sql);
		if (rc != STORE_OK)
			return rc;
		size_t came = (size_t)pq.ntuples(res);
		offer_rows(t, res, exact, top->n > 0, top);
		pq.clear(res);
		if (came < rows || top->n == top->limit || rows >= CANDIDATES_LAST)
			return STORE_OK;
		rows *= 4;
	}
}

static enum store_rc rank_rows(struct pg_text *t, struct hits *top)
{
	struct way ways[3];
	size_t n = choose_ways(t, ways), rows = CANDIDATE_FACTOR * t->q->limit;
	if (rows < CANDIDATES)
		rows = CANDIDATES;
	if (rows > CANDIDATES_MANY)
		rows = t->q->limit > CANDIDATES_MANY ? t->q->limit : CANDIDATES_MANY;
	enum store_rc rc = STORE_OK;
	for (size_t i = 0; i < n && rc == STORE_OK && top->n < top->limit; i++)
		rc = try_way(t, &ways[i], rows, top);
	return rc;
}

enum store_rc pg_text_search(struct store *s, const struct store_text *q, struct store_text_hit *out, size_t *n_r)
{
	struct pg_text t = {.s = s, .q = q};
	struct hits top = {out, 0, q->limit};
	*n_r = 0;
	read_query(&t);
	enum store_rc rc = t.n && q->limit ? pg_namespace(s, q->ns, &t.ns) : STORE_OK;
	if (rc == STORE_OK && t.n && q->limit) {
		rc = pg_corpus_ask(&t);
		struct extra *x = rc == STORE_OK ? read_extras(&t) : NULL;
		if (rc == STORE_OK && t.ns.len)
			rc = rank_rows(&t, &top);
		if (rc == STORE_OK)
			rank_extras(&t, x, &top);
		free(x);
	}
	buf_free(&t.bytes);
	*n_r = rc == STORE_OK ? top.n : 0;
	return rc;
}
