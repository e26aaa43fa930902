/* Analysis: folding, stemming, counting. */
#include "words.h"

#include <libstemmer.h>
#include <stdlib.h>
#include <unistd.h>

#include "embed/fold.h"

#define CACHE_SLOTS 2048 /* a power of two */
#define SHORT 16	 /* bytes of a word that the cache takes */
#define STEM_FROM 3	 /* bytes; shorter words have no suffix (FTS5's bound, too) */

/* A short word, padded with NULs. */
struct key {
	uint64_t a, b;
};
/* Stemming costs 0.3 µs, and most words of a text are common ones: direct-mapped, the last comer stays. */
struct cached {
	struct key word, stem;
	uint64_t hash;
	uint8_t len;
	bool stop;
};
struct words {
	struct sb_stemmer *stemmer;
	struct cached cache[CACHE_SLOTS];
	struct buf stems; /* one behind the other; words point there when the analysis is over */
	struct word *v;
	size_t n, cap;
	uint32_t *next, *slot; /* slot: hash table, index + 1 into v */
	size_t next_cap, slot_cap, mask;
	uint32_t length;
	uint64_t factor; /* odd */
};
/* A word, folded and stemmed. */
struct stemmed {
	const char *p;
	size_t len;
	uint64_t hash;
	bool stop;
};

struct words *words_new(void)
{
	struct words *w = util_zalloc(sizeof(*w));
	w->stemmer = sb_stemmer_new("porter", NULL);
	AN(w->stemmer);
	AN(getentropy(&w->factor, sizeof(w->factor)) == 0);
	w->factor |= 1;
	return w;
}

void words_free(struct words **wp)
{
	struct words *w = *wp;
	if (!w)
		return;
	sb_stemmer_delete(w->stemmer);
	buf_free(&w->stems);
	free(w->v);
	free(w->next);
	free(w->slot);
	free(w);
	*wp = NULL;
}

static uint64_t mix(uint64_t a, uint64_t b)
{
	uint64_t h = (a ^ UINT64_C(0x9E3779B97F4A7C15)) * UINT64_C(0xD6E8FEB86659FD93);
	h = (h ^ h >> 32 ^ b) * UINT64_C(0x9E3779B97F4A7C15);
	h ^= h >> 29;
	h *= UINT64_C(0xD6E8FEB86659FD93);
	return h ^ h >> 32;
}

static struct key key_of(const char *p, size_t len)
{
	struct key k = {0, 0};
	memcpy(&k, p, len);
	return k;
}

static uint64_t hash_of(const char *p, size_t len)
{
	uint64_t h = 0;
	for (; len > SHORT; p += SHORT, len -= SHORT) {
		struct key k = key_of(p, SHORT);
		h = mix(h ^ k.a, k.b);
	}
	struct key k = key_of(p, len);
	return mix(h ^ k.a, k.b);
}

/* The folded word as UTF-8 in `to` (room for 4 bytes a code point). Returns its length. */
static size_t encode(const uint32_t *word, size_t n, char *to)
{
	char *p = to;
	for (size_t i = 0; i < n; i++) {
		uint32_t c = word[i];
		if (c < 0x80) {
			*p++ = (char)c;
		} else if (c < 0x800) {
			*p++ = (char)(0xC0 | c >> 6);
			*p++ = (char)(0x80 | (c & 0x3F));
		} else if (c < 0x10000) {
			*p++ = (char)(0xE0 | c >> 12);
			*p++ = (char)(0x80 | (c >> 6 & 0x3F));
			*p++ = (char)(0x80 | (c & 0x3F));
		} else {
			*p++ = (char)(0xF0 | c >> 18);
			*p++ = (char)(0x80 | (c >> 12 & 0x3F));
			*p++ = (char)(0x80 | (c >> 6 & 0x3F));
			*p++ = (char)(0x80 | (c & 0x3F));
		}
	}
	return (size_t)(p - to);
}

/* The stem lies in the stemmer, or is the word itself. */
static struct stemmed stem(struct words *w, const char *word, size_t len)
{
	struct stemmed s = {word, len, 0, words_is_stop((struct span){word, len})};
	char last = word[len - 1];
	if (len >= STEM_FROM && last >= 'a' && last <= 'z') { /* every suffix ends in a letter */
		const sb_symbol *p = sb_stemmer_stem(w->stemmer, (const sb_symbol *)word, (int)len);
		int n = p ? sb_stemmer_length(w->stemmer) : 0;
		if (n > 0) {
			s.p = (const char *)p;
			s.len = (size_t)n;
		}
	}
	s.hash = hash_of(s.p, s.len);
	return s;
}

static struct stemmed stem_cached(struct words *w, const char *word, size_t len)
{
	if (len > SHORT)
		return stem(w, word, len);
	struct key k = key_of(word, len);
	struct cached *c = &w->cache[mix(k.a, k.b) & (CACHE_SLOTS - 1)];
	if (c->word.a != k.a || c->word.b != k.b) {
		struct stemmed s = stem(w, word, len);
		if (s.len > SHORT)
			return s;
		*c = (struct cached){k, key_of(s.p, s.len), s.hash, (uint8_t)s.len, s.stop};
	}
	return (struct stemmed){(const char *)&c->stem, c->len, c->hash, c->stop};
}

/* A code point makes at most twice its bytes (two ASCII letters, or one a byte longer), and a stem is not longer than
 * its word: so nothing moves while the words point there. A word takes a byte of the text, at least. */
static void prepare(struct words *w, size_t len)
{
	size_t slots = 64;
	while (slots < len)
		slots *= 2;
	w->stems.len = 0;
	buf_reserve(&w->stems, 2 * len + WORDS_STEM_MAX);
	if (w->next_cap <= len) {
		w->next_cap = len + 1;
		w->next = util_realloc(w->next, w->next_cap * sizeof(*w->next));
	}
	if (w->slot_cap < 2 * slots) {
		w->slot_cap = 2 * slots;
		w->slot = util_realloc(w->slot, w->slot_cap * sizeof(*w->slot));
	}
	memset(w->slot, 0, 2 * slots * sizeof(*w->slot));
	w->mask = 2 * slots - 1;
	w->n = 0;
	w->length = 0;
}

static void add_word(struct words *w, const struct stemmed *s, uint32_t at, size_t slot)
{
	if (w->n == w->cap) {
		w->cap = w->cap ? 2 * w->cap : 128;
		w->v = util_realloc(w->v, w->cap * sizeof(*w->v));
	}
	AN(w->stems.len + s->len <= w->stems.cap);
	const char *p = w->stems.p + w->stems.len;
	buf_add(&w->stems, s->p, s->len);
	w->v[w->n] = (struct word){{p, s->len}, s->hash, 1, at, at, s->stop};
	w->slot[slot] = (uint32_t)++w->n;
}

static void count_word(struct words *w, const struct stemmed *s)
{
	uint32_t at = w->length++;
	/* The factor is this handle's own: nobody can make up words that meet in one slot. */
	size_t i = (s->hash * w->factor) >> 32 & w->mask;
	w->next[at] = UINT32_MAX;
	for (; w->slot[i]; i = (i + 1) & w->mask) {
		struct word *x = &w->v[w->slot[i] - 1];
		if (x->hash != s->hash || x->stem.len != s->len || memcmp(x->stem.p, s->p, s->len) != 0)
			continue;
		w->next[x->last] = at;
		x->last = at;
		x->count++;
		x->stop &= s->stop;
		return;
	}
	add_word(w, s, at, i);
}

void words_analyze(struct words *w, struct span text, struct words_text *text_r)
{
	struct fold f;
	enum fold_kind kind;
	char word[4 * FOLD_WORD_MAX];
	if (text.len > WORDS_TEXT_MAX)
		text.len = WORDS_TEXT_MAX;
	prepare(w, text.len);
	fold_start(&f, text);
	while ((kind = fold_next(&f)) != FOLD_END) {
		if (f.apostrophe && f.apostrophe + 1 == f.len && f.word[f.apostrophe] == 's')
			f.len--;
		struct stemmed s;
		size_t len = encode(f.word, f.len, word);
		s = kind == FOLD_WORD ? stem_cached(w, word, len)
				      : (struct stemmed){word, len, hash_of(word, len), false};
		count_word(w, &s);
	}
	*text_r = (struct words_text){w->v, w->n, w->length, w->length, w->next};
	uint32_t counting = 0;
	for (size_t i = 0; i < w->n; i++)
		counting += w->v[i].stop ? 0 : w->v[i].count;
	if (counting)
		text_r->counting = counting;
}

size_t words_query(struct words *w, struct span query, struct word *out, size_t max)
{
	struct words_text t;
	size_t n = 0;
	words_analyze(w, query, &t);
	for (size_t i = 0; i < t.n && n < max; i++)
		if (word_counts(&t, &t.v[i]))
			out[n++] = t.v[i];
	return n;
}

size_t words_fold_last(struct span text, char *to)
{
	struct fold f;
	size_t len = 0;
	fold_start(&f, text);
	while (fold_next(&f) != FOLD_END)
		len = encode(f.word, f.len, to);
	return len;
}
