/* Full text of namespaces that are not English: FTS5's own stemmer knows English only, so it is given stems.
 *
 * Its tokenizer `ascii` splits at spaces and leaves every other byte as it is: stems have no capitals and, of ASCII, nothing but
 * letters and digits (fold.h). */
#include "sqlite-private.h"

struct words *sq_words(struct store *s, enum language l)
{
	if (!s->words)
		s->words = words_new();
	words_language(s->words, l);
	return s->words;
}

/* The same for the same text: a row of a contentless table is removed by telling what it holds. */
struct span sq_stems(struct store *s, enum language l, struct span content)
{
	struct words_text t;
	words_analyze(sq_words(s, l), content, &t);
	s->stems.len = 0;
	for (size_t i = 0; i < t.n; i++) {
		const struct word *w = &t.v[i];
		for (uint32_t n = 0; n < w->count && word_counts(&t, w); n++) {
			buf_add(&s->stems, w->stem.p, w->stem.len);
			buf_addc(&s->stems, ' ');
		}
	}
	return (struct span){s->stems.p, s->stems.len};
}
