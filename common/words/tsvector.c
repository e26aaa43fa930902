/* The binary form of PostgreSQL's tsvector. */
#include <stdlib.h>

#include "words.h"

#define PLACES_MAX 255
#define PLACE_LAST 16383
/* The server's 1 MiB − 1 are lexemes, padding, and for each place and their number 2 bytes, of which older ones make 4. */
#define VECTOR_MAX (1000 * 1000)

struct lexeme {
	uint64_t prefix; /* the first 8 bytes as a number that sorts like them */
	const struct word *word;
};

static int by_bytes(const void *a, const void *b)
{
	const struct lexeme *x = a, *y = b;
	if (x->prefix != y->prefix)
		return x->prefix < y->prefix ? -1 : 1;
	struct span s = x->word->stem, t = y->word->stem;
	int c = memcmp(s.p, t.p, s.len < t.len ? s.len : t.len);
	return c ? c : (s.len > t.len) - (s.len < t.len);
}

static uint64_t prefix_of(struct span s)
{
	uint64_t v = 0;
	memcpy(&v, s.p, s.len < sizeof(v) ? s.len : sizeof(v));
	return __builtin_bswap64(v);
}

static char *put16(char *p, uint16_t v)
{
	*p++ = (char)(v >> 8);
	*p++ = (char)v;
	return p;
}

/* The words that count and fit, in order of their first place, into `v`. Returns their number; *bytes_r: what writing
 * them takes, at most. */
static size_t choose(const struct words_text *t, struct lexeme *v, size_t *bytes_r)
{
	size_t n = 0, held = 0, bytes = 4;
	for (size_t i = 0; i < t->n; i++) {
		const struct word *x = &t->v[i];
		if (!word_counts(t, x))
			continue;
		size_t places = x->count < PLACES_MAX ? x->count : PLACES_MAX;
		held += x->stem.len + 1 + 4 * (places + 1);
		if (held > VECTOR_MAX)
			break;
		bytes += x->stem.len + 1 + 2 * (places + 1);
		v[n++] = (struct lexeme){prefix_of(x->stem), x};
	}
	*bytes_r = bytes;
	return n;
}

static char *put_lexeme(char *p, const struct words_text *t, const struct word *x)
{
	memcpy(p, x->stem.p, x->stem.len);
	p += x->stem.len;
	*p++ = 0;
	char *count = p;
	uint16_t n = 0;
	p += 2;
	for (uint32_t at = x->first; at < PLACE_LAST && n < PLACES_MAX; at = t->next[at], n++)
		p = put16(p, (uint16_t)(at + 1));
	put16(count, n);
	return p;
}

void words_tsvector(struct words *w, struct span text, struct buf *out)
{
	struct lexeme few[256], *v = few;
	struct words_text t;
	size_t bytes;
	words_analyze(w, text, &t);
	if (t.n > ARRAY_LEN(few))
		v = util_alloc(t.n * sizeof(*v));
	size_t n = choose(&t, v, &bytes);
	if (n)
		qsort(v, n, sizeof(*v), by_bytes);
	buf_reserve(out, bytes);
	char *p = out->p + out->len;
	p = put16(put16(p, (uint16_t)(n >> 16)), (uint16_t)n);
	for (size_t i = 0; i < n; i++)
		p = put_lexeme(p, &t, v[i].word);
	out->len = (size_t)(p - out->p);
	if (v != few)
		free(v);
}
