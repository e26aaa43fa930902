/* Any bytes: the analysis adds up, and a tsvector is one that PostgreSQL takes without sorting it. */
#include "words/words.h"
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
	buf_free(&b);
	free(copy);
	return 0;
}
