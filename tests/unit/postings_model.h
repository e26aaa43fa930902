/* What the tests of the word index share: a plain list of documents, ranked by brute force, against which every answer is
 * compared: the same documents in the same order with the same scores. */
#ifndef POSTINGS_MODEL_H
#define POSTINGS_MODEL_H
#include "model.h"
#include "words/postings.h"

struct model_entry {
	uint64_t ns, version; /* version 0: not there */
	int64_t expires_us;
	char *content;
};
struct model {
	struct model_entry *e; /* by id number */
	uint32_t n;
	struct words *words;
};

static inline void model_init(struct model *m, uint32_t n)
{
	*m = (struct model){calloc(n, sizeof(*m->e)), n, words_new()};
}

static inline void model_put(struct model *m, uint32_t id, uint64_t ns, uint64_t version, int64_t expires_us,
			     const char *content)
{
	struct model_entry *e = &m->e[id];
	assert_true(id < m->n);
	if (e->version >= version)
		return;
	free(e->content);
	*e = (struct model_entry){ns, version, expires_us, strdup(content)};
}

static inline void model_del(struct model *m, uint32_t id)
{
	free(m->e[id].content);
	m->e[id] = (struct model_entry){0};
}

static inline void model_end(struct model *m)
{
	for (uint32_t i = 0; i < m->n; i++)
		free(m->e[i].content);
	free(m->e);
	words_free(&m->words);
}

/* ---- texts ---- */

/* Words with the frequencies of a language; long ones that share their first eight letters; stop words. */
static inline void model_word(uint32_t n, char *to, size_t size)
{
	static const char *const stop[] = {"the", "of", "and", "is"};
	static const char *const tail[] = {"", "ing", "ed", "s", "ation"};
	static const char *const onset[] = {"b", "k", "dr", "m", "pl", "s", "t", "gr"};
	static const char *const vowel[] = {"a", "o", "u", "i"};
	if (n % 9 == 1)
		snprintf(to, size, "%s", stop[n / 9 % 4]);
	else if (n % 9 == 2)
		snprintf(to, size, "transplantx%s%s%u", onset[n / 9 % 8], vowel[n / 72 % 4], n / 288);
	else
		snprintf(to, size, "%s%s%s%s%s%s", onset[n % 8], vowel[n / 8 % 4], onset[n / 32 % 8],
			 vowel[n / 256 % 4], onset[n / 1024 % 8], tail[n % 5]);
}

static inline void model_text(char *to, size_t size, uint32_t words, uint32_t vocabulary)
{
	size_t len = 0;
	to[0] = 0;
	for (uint32_t i = 0; i < words && len + 40 < size; i++) {
		double u = (double)model_next() / (double)UINT32_MAX;
		model_word((uint32_t)(u * u * u * (vocabulary - 1)), to + len, size - len);
		len += strlen(to + len);
		to[len++] = model_next() % 12 ? ' ' : ',';
		to[len] = 0;
	}
}

/* ---- brute force ---- */

struct model_text {
	uint32_t length, tf[POSTINGS_WORDS_MAX];
	bool phrases;
};

static inline bool model_phrase(const struct words_text *t, const struct postings_question *q,
				const struct postings_phrase *f)
{
	struct span *at = calloc(t->length + 1, sizeof(*at));
	bool found = false;
	for (size_t i = 0; i < t->n; i++)
		for (uint32_t k = t->v[i].first; k < t->length; k = t->next[k])
			if (word_counts(t, &t->v[i]))
				at[k] = t->v[i].stem;
	for (uint32_t start = 0; start < t->length && !found; start++) {
		found = true;
		for (uint32_t i = f->from; i < f->from + f->n && found; i++) {
			uint32_t place = start + q->places[i].place;
			found = place < t->length && at[place].len && span_eq(at[place], q->v[q->places[i].word].text);
		}
	}
	free(at);
	return found;
}

static inline void model_read(struct model *m, const char *content, const struct postings_question *q,
			      struct model_text *x)
{
	struct words_text t;
	*x = (struct model_text){.phrases = true};
	words_analyze(m->words, SPAN(content), &t);
	x->length = t.counting;
	for (size_t k = 0; k < q->n; k++)
		for (size_t i = 0; i < t.n; i++) {
			struct span want = q->v[k].text, have = t.v[i].stem;
			if (!word_counts(&t, &t.v[i]))
				continue;
			if (q->v[k].prefix && have.len > want.len)
				have.len = want.len;
			if (span_eq(want, have))
				x->tf[k] += t.v[i].count;
		}
	for (size_t i = 0; i < q->nphrases; i++)
		x->phrases &= model_phrase(&t, q, &q->phrases[i]);
}

static inline int model_order(const void *a, const void *b)
{
	const struct postings_hit *x = a, *y = b;
	return x->score != y->score ? (x->score < y->score ? 1 : -1) : uuid_cmp(&x->id, &y->id);
}

/* All that match, in order. Returns their number; *hits_r is the caller's to free. */
static inline size_t model_rank(struct model *m, const struct postings_query *q, struct postings_hit **hits_r)
{
	const struct postings_question *ask = q->question;
	struct model_text *x = calloc(m->n, sizeof(*x));
	struct postings_hit *v = calloc(m->n + 1, sizeof(*v));
	double documents = 0, length = 0, df[POSTINGS_WORDS_MAX] = {0};
	size_t n = 0;
	for (uint32_t i = 0; i < m->n; i++) {
		if (!m->e[i].version || m->e[i].ns != q->ns)
			continue;
		model_read(m, m->e[i].content, ask, &x[i]);
		documents++;
		length += x[i].length;
		for (size_t k = 0; k < ask->n; k++)
			df[k] += x[i].tf[k] > 0;
	}
	double average = documents > 0 && length > 0 ? length / documents : 1;
	for (uint32_t i = 0; i < m->n; i++) {
		const struct model_entry *e = &m->e[i];
		struct postings_hit h = {model_id(i), e->version, 0};
		if (!e->version || e->ns != q->ns || (e->expires_us && e->expires_us <= q->now_us) ||
		    (q->allow && !vectors_allow_has(q->allow, &h.id)) || !x[i].phrases)
			continue;
		for (size_t k = 0; k < ask->n; k++) {
			double idf = log(1 + (documents - df[k] + 0.5) / (df[k] + 0.5)), tf = x[i].tf[k];
			if (tf > 0)
				h.score += idf * tf * (1.2 + 1) /
					   (tf + 1.2 * (1 - 0.75 + 0.75 * x[i].length / average));
		}
		if (h.score > 0 && h.score >= q->min_score)
			v[n++] = h;
	}
	qsort(v, n, sizeof(*v), model_order);
	free(x);
	*hits_r = v;
	return n;
}

static inline void model_check(struct model *m, const struct postings *p, const struct postings_query *q)
{
	struct postings_hit *want, *have = malloc((q->k + 1) * sizeof(*have));
	size_t n, total = model_rank(m, q, &want);
	assert_true(postings_search(p, q, have, &n, NULL));
	if (n != (total < q->k ? total : q->k))
		fail_msg("%zu hits instead of %zu of %zu", n, total < q->k ? total : q->k, total);
	for (size_t i = 0; i < n; i++)
		if (uuid_cmp(&want[i].id, &have[i].id) != 0 || want[i].version != have[i].version ||
		    fabs(want[i].score - have[i].score) > 1e-12 * want[i].score)
			fail_msg("hit %zu of %zu is document %u with %.17g instead of %u with %.17g", i, n,
				 model_number(&have[i].id), have[i].score, model_number(&want[i].id), want[i].score);
	free(want);
	free(have);
}

static inline void model_ask(struct model *m, const struct postings *p, uint64_t ns, const char *text, size_t k)
{
	struct postings_question q;
	postings_question_read(m->words, SPAN(text), &q);
	model_check(m, p, &(struct postings_query){.ns = ns, .question = &q, .k = k});
	postings_question_free(&q);
}

static inline struct postings *model_open(uint64_t max_bytes, int *fd_r)
{
	*fd_r = shm_create("words", postings_segment_size(max_bytes));
	assert_true(*fd_r >= 0);
	struct postings *p = postings_open(*fd_r, true);
	assert_non_null(p);
	return p;
}
#endif
