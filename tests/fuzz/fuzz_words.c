/* A language, and any bytes: the analysis adds up, a tsvector is one that PostgreSQL takes without sorting it, a question names only words
 * that it has, and the word index takes the text and finds it by them. */
#include "shm.h"
#include "words/postings.h"
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static uint32_t be(const char **p, const char *end, size_t n)
{
	uint32_t v = 0;
	AN((size_t)(end - *p) >= n);
	for (size_t i = 0; i < n; i++)
		v = v << 8 | (uint8_t) * (*p)++;
	return v;
}

static void check_lexeme(const char **p, const char *end, struct span *before)
{
	size_t len = strnlen(*p, (size_t)(end - *p));
	struct span s = {*p, len};
	AN(len >= 1 && len <= WORDS_STEM_MAX && *p + len < end && util_utf8_valid(s.p, len));
	size_t both = len < before->len ? len : before->len;
	int c = both ? memcmp(before->p, s.p, both) : 0;
	AN(c < 0 || (c == 0 && before->len < len));
	*before = s;
	*p += len + 1;
	uint32_t n = be(p, end, 2), last = 0;
	AN(n <= 255);
	for (uint32_t i = 0; i < n; i++) {
		uint32_t at = be(p, end, 2);
		AN(at > last && at <= 16383);
		last = at;
	}
}

static void check_question(struct words *w, enum language l, struct span text)
{
	static struct postings *p;
	static uint64_t version;
	struct postings_question q;
	struct postings_hit hit;
	struct uuid id = {{1}};
	size_t n;
	if (!p)
		p = postings_open(shm_create("fuzz", postings_segment_size(64 << 20)), true);
	AN(p);
	postings_language(p, l);
	AN(postings_put(p, 1, &id, ++version, 0, text) == 0);
	postings_question_read(w, text, &q);
	AN(q.n <= POSTINGS_WORDS_MAX && q.nplaces <= POSTINGS_WORDS_MAX && q.nphrases <= POSTINGS_PHRASES_MAX);
	for (size_t i = 0; i < q.nplaces; i++)
		AN(q.places[i].word < q.n && !q.v[q.places[i].word].prefix);
	for (size_t i = 0; i < q.nphrases; i++)
		AN(q.phrases[i].n && q.phrases[i].from + q.phrases[i].n <= q.nplaces);
	/* Its phrases stand in it, too, unless it has only stop words or is cut. */
	AN(postings_search(p, &(struct postings_query){.ns = 1, .question = &q, .k = 1}, &hit, &n, NULL));
	AN(n <= 1 && (!n || hit.version == version));
	q.nphrases = q.nplaces = 0;
	AN(postings_search(p, &(struct postings_query){.ns = 1, .question = &q, .k = 1}, &hit, &n, NULL));
	AN(n == (q.n > 0 ? 1 : 0));
	postings_question_free(&q);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct words *w; /* kept, so that the cache of stems is under test, too */
	struct words_text t;
	struct buf b = {0};
	struct span before = {"", 0};
	uint32_t total = 0;
	char *copy = util_alloc(size + 1);

	if (!w)
		w = words_new();
	enum language l = size ? (enum language)(data[0] % (LANGUAGES + 1))
			       : LANGUAGE_ENGLISH; /* one too many: it is none */
	words_language(w, l);
	data += size > 0;
	size -= size > 0;
	memcpy(copy, data, size);
	words_analyze(w, (struct span){copy, size}, &t);
	for (size_t i = 0; i < t.n; i++) {
		uint32_t n = 1;
		for (uint32_t at = t.v[i].first; at != t.v[i].last; at = t.next[at], n++)
			AN(t.next[at] > at && t.next[at] < t.length);
		AN(n == t.v[i].count);
		total += n;
	}
	AN(total == t.length && t.counting <= total && (t.counting || !total));
	words_tsvector(w, (struct span){copy, size}, &b);
	const char *p = b.p, *end = b.p + b.len;
	for (uint32_t n = be(&p, end, 4); n; n--)
		check_lexeme(&p, end, &before);
	AN(p == end);
	check_question(w, l, (struct span){copy, size});
	buf_free(&b);
	free(copy);
	return 0;
}
