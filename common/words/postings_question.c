/* What a question asks for: words, phrases between quotes, prefixes. */
#include "embed/fold.h"
#include "postings-private.h"

#define PREFIX_MIN 2   /* bytes: shorter ones begin half of all words */
#define PREFIXES_MAX 4 /* each costs a list as long as the namespace has documents, at worst */

static uint32_t add_text(struct postings_question *q, struct span text, bool prefix)
{
	for (size_t i = 0; i < q->n; i++)
		if (q->v[i].prefix == prefix && span_eq(q->v[i].text, text))
			return (uint32_t)i;
	if (q->n == POSTINGS_WORDS_MAX || text.len > WORDS_STEM_MAX)
		return POSTINGS_NONE;
	q->v[q->n] = (struct postings_word){{q->bytes.p + q->bytes.len, text.len}, postings_key(text), prefix};
	AN(q->bytes.cap - q->bytes.len >= text.len);
	buf_add(&q->bytes, text.p, text.len);
	return (uint32_t)q->n++;
}

/* ---- phrases ---- */

static const struct word *word_at(const struct words_text *t, uint32_t place)
{
	for (size_t i = 0; i < t->n; i++)
		for (uint32_t at = t->v[i].first; at < t->length; at = t->next[at])
			if (at == place)
				return &t->v[i];
	return NULL;
}

/* One that has only stop words asks for nothing: documents do not have them. */
static void add_phrase(struct words *w, struct span text, struct postings_question *q)
{
	struct words_text t;
	struct postings_phrase f = {.from = (uint32_t)q->nplaces};
	uint32_t first = 0;
	words_analyze(w, text, &t);
	if (q->nphrases == POSTINGS_PHRASES_MAX || t.length > 4 * POSTINGS_WORDS_MAX)
		return;
	for (uint32_t at = 0; at < t.length; at++) {
		const struct word *x = word_at(&t, at);
		if (!x || x->stop)
			continue;
		uint32_t word = add_text(q, x->stem, false);
		if (word == POSTINGS_NONE || f.from + f.n == POSTINGS_WORDS_MAX)
			return; /* too long to be looked for as a phrase: its words count like any */
		if (!f.n)
			first = at;
		q->places[f.from + f.n++] = (struct postings_place){at - first, word};
	}
	if (!f.n)
		return;
	q->nplaces += f.n;
	q->phrases[q->nphrases++] = f;
}

static void add_phrases(struct words *w, struct span text, struct postings_question *q)
{
	const char *end = text.p + text.len, *open = NULL;
	for (const char *p = text.p; p < end; p++) {
		if (*p != '"')
			continue;
		if (open && p > open)
			add_phrase(w, (struct span){open, (size_t)(p - open)}, q);
		open = open ? NULL : p + 1;
	}
}

/* ---- prefixes ---- */

static bool between_words(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '"'; }

static void add_prefix(const struct words *w, struct span piece, struct postings_question *q)
{
	char folded[4 * FOLD_WORD_MAX];
	size_t len = words_fold_last(w, piece, folded);
	if (len >= PREFIX_MIN && q->n < PREFIXES_MAX) /* there is nothing else in it yet */
		add_text(q, (struct span){folded, len}, true);
}

/* A star that ends a word. */
static void add_prefixes(const struct words *w, struct span text, struct postings_question *q)
{
	for (size_t i = 1; i < text.len; i++) {
		bool ends = i + 1 == text.len || between_words(text.p[i + 1]);
		size_t from = i;
		if (text.p[i] != '*' || !ends)
			continue;
		while (from && !between_words(text.p[from - 1]))
			from--;
		if (from < i)
			add_prefix(w, (struct span){text.p + from, i - from}, q);
	}
}

void postings_question_read(struct words *w, struct span text, struct postings_question *q)
{
	struct word v[POSTINGS_WORDS_MAX];
	memset(q, 0, sizeof(*q));
	buf_reserve(&q->bytes, POSTINGS_WORDS_MAX * (size_t)WORDS_STEM_MAX); /* it must not move */
	if (memchr(text.p, '*', text.len))
		add_prefixes(w, text, q);
	size_t n = words_query(w, text, v, POSTINGS_WORDS_MAX);
	for (size_t i = 0; i < n; i++)
		add_text(q, v[i].stem, false);
	if (memchr(text.p, '"', text.len))
		add_phrases(w, text, q);
}

void postings_question_free(struct postings_question *q) { buf_free(&q->bytes); }
