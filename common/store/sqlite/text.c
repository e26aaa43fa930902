/* Full-text search: FTS5 for the rows, and for memories that are still on their way to the store the
 * same BM25 with the same statistics, so that both stand in one ranking. */
#include <ctype.h>
#include <math.h>
#include <stdlib.h>

#include "sqlite-private.h"
#include "store/hits.h"
#include "words/words.h"

#define TERMS_MAX 64
#define K1 1.2 /* FTS5's own constants (ext/fts5/fts5_aux.c, bm25) */
#define B 0.75

/* English is FTS5's to split and stem; other languages are stems already, of the question, too (stems.c). */
struct fts {
	const char *table, *extra; /* extra: definitions, for memories that are not stored yet */
	enum sq df, totals;
};
#define EXTRA(tokenizer)                                                                                               \
	"CREATE VIRTUAL TABLE temp.extra USING fts5(content, tokenize='" tokenizer "');"                               \
	"CREATE VIRTUAL TABLE temp.extra_terms USING fts5vocab('temp', 'extra', 'instance')"
static const struct fts english = {"words", EXTRA("porter unicode61 remove_diacritics 2"), SQ_DF, SQ_TOTALS},
			stemmed = {"stems", EXTRA("ascii"), SQ_STEMS_DF, SQ_STEMS_TOTALS};

struct terms {
	const struct fts *fts;
	struct span v[TERMS_MAX];
	size_t n;
	struct buf bytes; /* stems lie there */
};

/* Bytes of a word: ASCII letters and digits, and all of other scripts (FTS5's tokenizer splits those
 * further inside the quotes). */
static bool word_byte(unsigned char c) { return isalnum(c) || c >= 0x80; }

static void add_term(struct terms *t, struct span w)
{
	for (size_t i = 0; i < t->n; i++)
		if (span_eq(t->v[i], w))
			return;
	if (t->n < TERMS_MAX)
		t->v[t->n++] = w;
}

/* Splits `text` (lower-cased in place) into distinct words; without stop words unless nothing else is left. */
static void split(char *text, size_t len, bool keep_stop, struct terms *t)
{
	t->n = 0;
	for (size_t i = 0; i < len;) {
		size_t start = i;
		while (i < len && word_byte((unsigned char)text[i])) {
			text[i] = (char)tolower((unsigned char)text[i]);
			i++;
		}
		struct span w = {text + start, i - start};
		if (w.len && (keep_stop || !words_is_stop(w)))
			add_term(t, w);
		i += i == start;
	}
}

static void read_stems(struct store *s, const struct store_text *q, struct terms *t)
{
	struct word w[TERMS_MAX];
	t->n = words_query(sq_words(s, q->language), q->query, w, TERMS_MAX);
	buf_reserve(&t->bytes, TERMS_MAX * (size_t)WORDS_STEM_MAX); /* it must not move */
	for (size_t i = 0; i < t->n; i++) {
		t->v[i] = (struct span){t->bytes.p + t->bytes.len, w[i].stem.len};
		buf_add(&t->bytes, w[i].stem.p, w[i].stem.len);
	}
}

static void read_terms(struct store *s, const struct store_text *q, struct terms *t)
{
	*t = (struct terms){.fts = q->language == LANGUAGE_ENGLISH ? &english : &stemmed};
	if (t->fts == &stemmed) {
		read_stems(s, q, t);
		return;
	}
	buf_add(&t->bytes, q->query.p, q->query.len);
	split(t->bytes.p, t->bytes.len, false, t);
	if (!t->n)
		split(t->bytes.p, t->bytes.len, true, t);
}

static void match_expression(uint64_t ns, const struct terms *t, struct buf *b)
{
	buf_printf(b, "scope:\"ns%016llx\" AND content:(", (unsigned long long)ns);
	for (size_t i = 0; i < t->n; i++) {
		buf_adds(b, i ? " OR \"" : "\"");
		buf_add(b, t->v[i].p, t->v[i].len);
		buf_addc(b, '"');
	}
	buf_addc(b, ')');
}

struct ranking {
	const struct store_text *q;
	struct hits top;
};

static enum store_rc rank_rows(struct store *s, const struct terms *t, struct ranking *r)
{
	const struct store_text *q = r->q;
	struct filter_args args = {.v = NULL};
	struct buf sql = {0}, match = {0};
	sqlite3_stmt *st = NULL;
	int rc = SQLITE_ERROR;
	match_expression(q->ns, t, &match);
	buf_printf(&sql,
		   "SELECT m.id,m.version,-bm25(%s,1.0,0.0) AS score FROM %s JOIN memories m ON m.n=%s.rowid"
		   " WHERE %s MATCH ? AND m.ns=%lld AND m.deleted_us=0 AND (m.expires_us=0 OR m.expires_us>%lld)",
		   t->fts->table, t->fts->table, t->fts->table, t->fts->table, (long long)q->ns, (long long)q->now_us);
	if (q->filter && !filter_is_empty(q->filter)) {
		buf_adds(&sql, " AND ");
		filter_sql(q->filter, &sql, &args);
	}
	buf_adds(&sql, " ORDER BY score DESC, m.id");
	if (sqlite3_prepare_v2(s->db, sql.p, (int)sql.len, &st, NULL) == SQLITE_OK) {
		sqlite3_bind_text(st, 1, match.p, (int)match.len, SQLITE_STATIC);
		sq_bind_args(st, 2, &args);
		size_t taken = 0;
		while ((rc = sqlite3_step(st)) == SQLITE_ROW && taken < q->limit) {
			struct store_text_hit h = {sq_uuid(st, 0), (uint64_t)sqlite3_column_int64(st, 1),
						   sqlite3_column_double(st, 2)};
			if (q->hidden && q->hidden(q->hidden_arg, &h.id))
				continue;
			hits_offer(&r->top, &h);
			taken++;
		}
	}
	enum store_rc out = rc == SQLITE_DONE || rc == SQLITE_ROW ? STORE_OK : sq_fail(s);
	sqlite3_finalize(st);
	filter_args_free(&args);
	buf_free(&sql);
	buf_free(&match);
	return out;
}

/* ---- memories that are not in the store yet ---- */

static void drop_extra(struct store *s)
{
	sqlite3_finalize(s->st[SQ_EXTRA_CLEAR]);
	sqlite3_finalize(s->st[SQ_EXTRA_ADD]);
	sqlite3_finalize(s->st[SQ_EXTRA_TERMS]);
	s->st[SQ_EXTRA_CLEAR] = s->st[SQ_EXTRA_ADD] = s->st[SQ_EXTRA_TERMS] = NULL;
	(void)sqlite3_exec(s->db, "DROP TABLE IF EXISTS temp.extra_terms; DROP TABLE IF EXISTS temp.extra", NULL, NULL,
			   NULL);
}

/* One pair of tables for either tokenizer. */
static bool extra_tables(struct store *s, const struct fts *fts)
{
	if (s->extra_ready == fts)
		return true;
	drop_extra(s);
	bool made = sqlite3_exec(s->db, fts->extra, NULL, NULL, NULL) == SQLITE_OK;
	s->extra_ready = made ? fts : NULL;
	if (!made)
		sq_fail(s);
	return made;
}

/* FTS5's totals: rows and tokens, from its averages record (varints; row 1 of the data table). */
static uint64_t varint(const unsigned char **p, const unsigned char *end)
{
	uint64_t v = 0;
	for (int i = 0; i < 9 && *p < end; i++) {
		unsigned char c = *(*p)++;
		if (i == 8)
			return v << 8 | c;
		v = v << 7 | (c & 0x7f);
		if (!(c & 0x80))
			break;
	}
	return v;
}

static enum store_rc totals(struct store *s, const struct fts *fts, double *rows, double *tokens)
{
	sqlite3_stmt *st = sq_get(s, fts->totals);
	*rows = *tokens = 0;
	if (!st)
		return STORE_ERROR;
	if (sqlite3_step(st) == SQLITE_ROW) {
		const unsigned char *p = sqlite3_column_blob(st, 0);
		if (p) {
			const unsigned char *end = p + sqlite3_column_bytes(st, 0);
			*rows = (double)varint(&p, end);
			*tokens = (double)varint(&p, end);
			*tokens += (double)varint(&p, end); /* the scope column counts for lengths, as in FTS5 */
		}
	}
	sqlite3_reset(st);
	return STORE_OK;
}

struct extra_term { /* a stemmed word of the query */
	char *text;
	double df, idf;
};
struct extra {
	struct store *s;
	const struct fts *fts;
	struct extra_term term[TERMS_MAX];
	size_t nterms, ndocs;
	uint32_t (*tf)[TERMS_MAX];
	uint32_t *len;
};

static enum store_rc add_extra(struct store *s, int64_t n, struct span text)
{
	sqlite3_stmt *st = sq_get(s, SQ_EXTRA_ADD);
	if (!st)
		return STORE_ERROR;
	sqlite3_bind_int64(st, 1, n);
	sqlite3_bind_text(st, 2, text.p, (int)text.len, SQLITE_STATIC);
	return sq_run(s, st);
}

/* Document 1 is the query itself: its terms are the stems to look for. The others follow from 2. */
static enum store_rc load_extra(struct store *s, const struct store_text *q, const struct terms *t)
{
	struct buf b = {0};
	enum store_rc rc = sq_run(s, sq_get(s, SQ_EXTRA_CLEAR));
	for (size_t i = 0; i < t->n; i++) {
		buf_add(&b, t->v[i].p, t->v[i].len);
		buf_addc(&b, ' ');
	}
	if (rc == STORE_OK)
		rc = add_extra(s, 1, (struct span){b.p, b.len});
	for (size_t i = 0; i < q->nextra && rc == STORE_OK; i++)
		rc = add_extra(s, (int64_t)i + 2,
			       t->fts == &stemmed ? sq_stems(s, q->language, q->extra[i].content)
						  : q->extra[i].content);
	buf_free(&b);
	return rc;
}

static size_t term_index(const struct extra *x, struct span w)
{
	size_t i = 0;
	while (i < x->nterms && !span_eq(SPAN(x->term[i].text), w))
		i++;
	return i;
}

/* Two passes over (term, doc, count): the query's terms, then everybody's frequencies and lengths. */
static enum store_rc count_terms(struct extra *x)
{
	for (int pass = 0; pass < 2; pass++) {
		sqlite3_stmt *st = sq_get(x->s, SQ_EXTRA_TERMS);
		int rc = SQLITE_ERROR;
		while (st && (rc = sqlite3_step(st)) == SQLITE_ROW) {
			struct span w = sq_text(st, 0);
			int64_t doc = sqlite3_column_int64(st, 1);
			uint32_t n = (uint32_t)sqlite3_column_int64(st, 2);
			if (pass == 0 && doc == 1 && x->nterms < TERMS_MAX && w.len)
				x->term[x->nterms++].text = util_strndup(w.p, w.len);
			if (pass == 1 && doc >= 2 && (size_t)doc - 2 < x->ndocs) {
				size_t i = term_index(x, w);
				x->len[doc - 2] += n;
				if (i < x->nterms) {
					x->tf[doc - 2][i] = n;
					x->term[i].df += 1;
				}
			}
		}
		if (st)
			sqlite3_reset(st);
		if (rc != SQLITE_DONE)
			return sq_fail(x->s);
	}
	return STORE_OK;
}

static enum store_rc weigh_terms(struct extra *x, double rows)
{
	for (size_t i = 0; i < x->nterms; i++) {
		sqlite3_stmt *st = sq_get(x->s, x->fts->df);
		if (!st)
			return STORE_ERROR;
		sqlite3_bind_text(st, 1, x->term[i].text, -1, SQLITE_STATIC);
		if (sqlite3_step(st) == SQLITE_ROW)
			x->term[i].df += (double)sqlite3_column_int64(st, 0);
		sqlite3_reset(st);
		double idf = log((rows - x->term[i].df + 0.5) / (x->term[i].df + 0.5));
		x->term[i].idf = idf > 0 ? idf : 1e-6;
	}
	return STORE_OK;
}

static void score_extra(struct extra *x, struct ranking *r, double average)
{
	for (size_t d = 0; d < x->ndocs; d++) {
		double score = 0;
		for (size_t i = 0; i < x->nterms; i++) {
			double tf = x->tf[d][i];
			if (tf > 0)
				score += x->term[i].idf * tf * (K1 + 1) /
					 (tf + K1 * (1 - B + B * (x->len[d] + 1) / average));
		}
		struct store_text_hit h = {r->q->extra[d].id, r->q->extra[d].version, score};
		if (score > 0)
			hits_offer(&r->top, &h);
	}
}

static enum store_rc rank_extra(struct store *s, const struct terms *t, struct ranking *r)
{
	struct extra x = {.s = s, .fts = t->fts, .ndocs = r->q->nextra};
	double rows, tokens;
	if (!x.ndocs)
		return STORE_OK;
	x.tf = util_zalloc(x.ndocs * sizeof(*x.tf));
	x.len = util_zalloc(x.ndocs * sizeof(*x.len));
	enum store_rc rc = !extra_tables(s, t->fts) ? STORE_ERROR : load_extra(s, r->q, t);
	if (rc == STORE_OK)
		rc = count_terms(&x);
	if (rc == STORE_OK)
		rc = totals(s, t->fts, &rows, &tokens);
	if (rc == STORE_OK) {
		for (size_t d = 0; d < x.ndocs; d++)
			tokens += x.len[d] + 1;
		rows += (double)x.ndocs;
		rc = weigh_terms(&x, rows);
	}
	if (rc == STORE_OK)
		score_extra(&x, r, tokens / rows);
	for (size_t i = 0; i < x.nterms; i++)
		free(x.term[i].text);
	free(x.tf);
	free(x.len);
	return rc;
}

enum store_rc sq_text_search(struct store *s, const struct store_text *q, struct store_text_hit *out, size_t *n_r)
{
	struct terms t;
	struct ranking r = {q, {out, 0, q->limit}};
	read_terms(s, q, &t);
	enum store_rc rc = STORE_OK;
	if (t.n && q->limit) {
		rc = rank_rows(s, &t, &r);
		if (rc == STORE_OK)
			rc = rank_extra(s, &t, &r);
	}
	buf_free(&t.bytes);
	*n_r = r.top.n;
	return rc;
}
