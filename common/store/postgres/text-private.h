/* What the files of full-text search share: text.c finds and ranks, text_corpus.c knows how common words are,
 * text_values.c reads and writes PostgreSQL's tsvector and tsquery. */
#ifndef ORC_POSTGRES_TEXT_PRIVATE_H
#define ORC_POSTGRES_TEXT_PRIVATE_H
#include "postgres-private.h"

#define PG_STEMS_MAX 64 /* of a query: the first ones */

struct pg_stem {
	struct span text;
	uint64_t hash; /* words.h */
	double rows;   /* of the namespace that have it */
	double df;     /* the same with the memories that are not stored yet */
	double idf;
};
struct pg_text {
	struct store *s;
	const struct store_text *q;
	struct span ns;
	struct pg_stem v[PG_STEMS_MAX]; /* sorted bytewise, as the lexemes of a tsvector are */
	size_t n;
	struct buf bytes;      /* the stems lie there */
	double documents;      /* of the namespace */
	double words, lexemes; /* of an average memory: in all, and distinct ones */
};

/* ---- text_corpus.c ---- */

/* Fills in documents, averages and df. What takes long to count is estimated from a sample, which the handle keeps. */
enum store_rc must_check pg_corpus_ask(struct pg_text *t);

/* ---- text_values.c ---- */

/* The lexemes of a column of type tsvector, one after the other, in their order; false at the end. */
struct pg_lexemes {
	const char *p, *end;
	uint32_t left;
};
struct pg_lexeme {
	struct span text;
	uint32_t count; /* its places; at least 1 */
};
struct pg_lexemes pg_lexemes(const PGresult *res, int row, int column);
bool must_check pg_lexeme_next(struct pg_lexemes *l, struct pg_lexeme *x_r);
/* A parameter of type tsquery: the n stems joined by `&` or `|`. which: places in v; NULL: the first n. */
void pg_param_tsquery(struct pg_params *p, const struct pg_stem *v, const size_t *which, size_t n, bool all);
#endif
