/* Analysis: folding, stemming, counting. */
#include "words.h"

#include <libstemmer.h>
#include <stdlib.h>
#include <unistd.h>

#include "embed/fold.h"
#include "words/language-private.h"

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
/* What a language takes: made when it is used first, then kept. About 120 KiB. */
struct tongue {
	enum language language;
	unsigned flags, mode; /* enum language_flags, enum fold_mode */
	struct sb_stemmer *stemmer;
	struct span *stops; /* sorted */
	size_t nstops;
	struct cached cache[CACHE_SLOTS];
};
struct words {
	struct tongue *now; /* one of: */
	struct tongue *tongues[LANGUAGES];
	struct buf stems; /* one behind the other; words point there when the analysis is over */
	struct word *v;
	size_t n, cap;
	uint32_t *next, *slot; /* slot: hash table, index + 1 into v */
	size_t next_cap, slot_cap, mask;
	uint32_t length;
	uint64_t factor; /* odd */
	char folded[WORDS_STEM_MAX];
};
/* A word, folded and stemmed. */
struct stemmed {
	const char *p;
	size_t len;
	uint64_t hash;
	bool stop;
};

/* ---- languages ---- */

static int compare_spans(const void *a, const void *b)
{
	const struct span *s = a, *t = b;
	int c = memcmp(s->p, t->p, s->len < t->len ? s->len : t->len);
	return c ? c : (s->len > t->len) - (s->len < t->len);
}

static void list_stops(struct tongue *t)
{
	const char *p = language_stops[t->language];
	size_t n = 0;
	for (const char *c = p; *c; c++)
		n += *c == ' ';
	t->stops = util_alloc((n + 1) * sizeof(*t->stops));
	while (*p) {
		size_t len = strcspn(p, " ");
		t->stops[t->nstops++] = (struct span){p, len};
		p += len + (p[len] == ' ');
	}
	if (t->nstops)
		qsort(t->stops, t->nstops, sizeof(*t->stops), compare_spans);
}

static struct tongue *learn(enum language l)
{
	const struct language_row *row = &language_rows[l];
	struct tongue *t = util_zalloc(sizeof(*t));
	t->language = l;
	t->flags = row->flags;
	if (*row->stemmer) {
		t->stemmer = sb_stemmer_new(row->stemmer, NULL);
		AN(t->stemmer);
	}
	if (l == LANGUAGE_ENGLISH)
		return t;
	t->mode = (t->stemmer ? FOLD_LOWER : 0) | (t->flags & SPLITS ? FOLD_SPLIT : 0) |
		  (l == LANGUAGE_TURKISH ? FOLD_TURKISH : 0);
	list_stops(t);
	return t;
}

void words_language(struct words *w, enum language l)
{
	if ((unsigned)l >= LANGUAGES)
		l = LANGUAGE_NONE;
	if (w->now->language == l)
		return;
	if (!w->tongues[l])
		w->tongues[l] = learn(l);
	w->now = w->tongues[l];
}

struct words *words_new(void)
{
	struct words *w = util_zalloc(sizeof(*w));
	w->now = w->tongues[LANGUAGE_ENGLISH] = learn(LANGUAGE_ENGLISH);
	AN(getentropy(&w->factor, sizeof(w->factor)) == 0);
	w->factor |= 1;
	return w;
}

void words_free(struct words **wp)
{
	struct words *w = *wp;
	if (!w)
		return;
	for (size_t i = 0; i < LANGUAGES; i++) {
		if (!w->tongues[i])
			continue;
		if (w->tongues[i]->stemmer)
			sb_stemmer_delete(w->tongues[i]->stemmer);
		free(w->tongues[i]->stops);
		free(w->tongues[i]);
	}
	buf_free(&w->stems);
	free(w->v);
	free(w->next);
	free(w->slot);
	free(w);
	*wp = NULL;
}

/* ---- stems ---- */

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

/* Of the UTF-8 at p, which a stemmer has left: one code point, and its bytes in *len_r. Nothing but letters is in it; what is
 * no UTF-8 is taken byte by byte. */
static uint32_t decode(const unsigned char *p, size_t left, size_t *len_r)
{
	uint32_t c = *p;
	size_t more = c < 0xC0 ? 0 : c < 0xE0 ? 1 : c < 0xF0 ? 2 : 3;
	*len_r = 1;
	if (!more || more >= left)
		return c;
	c &= 0x3Fu >> more;
	for (size_t i = 1; i <= more; i++)
		c = c << 6 | (p[i] & 0x3Fu);
	*len_r = more + 1;
	return c;
}

/* What the stemmer left, without its marks, in w->folded. */
static struct span fold_stem(struct words *w, const char *stem, size_t len)
{
	size_t n = 0;
	for (size_t i = 0, bytes; i < len && n <= WORDS_STEM_MAX - 4; i += bytes) {
		uint32_t letters[2];
		size_t k = fold_letter(decode((const unsigned char *)stem + i, len - i, &bytes), letters);
		n += encode(letters, k, w->folded + n);
	}
	return (struct span){w->folded, n};
}

static bool is_stop(const struct tongue *t, struct span word)
{
	return t->language == LANGUAGE_ENGLISH
		       ? words_is_stop(word)
		       : t->nstops && bsearch(&word, t->stops, t->nstops, sizeof(*t->stops), compare_spans);
}

/* The stem lies in the stemmer, in w->folded, or is the word itself. Every suffix ends in a letter. */
static struct stemmed stem(struct words *w, const char *word, size_t len)
{
	const struct tongue *t = w->now;
	struct stemmed s = {word, len, 0, is_stop(t, (struct span){word, len})};
	unsigned char last = (unsigned char)word[len - 1];
	bool marked = t->mode & FOLD_LOWER;
	if (t->stemmer && len >= STEM_FROM && ((last >= 'a' && last <= 'z') || (marked && last >= 0x80))) {
		const sb_symbol *p = sb_stemmer_stem(t->stemmer, (const sb_symbol *)word, (int)len);
		int n = p ? sb_stemmer_length(t->stemmer) : 0;
		if (n > 0) {
			s.p = (const char *)p;
			s.len = (size_t)n;
		}
	}
	if (marked) {
		struct span folded = fold_stem(w, s.p, s.len);
		if (!folded.len) /* nothing that could be looked for: the word stands for itself */
			folded = fold_stem(w, word, len);
		s.p = folded.p;
		s.len = folded.len;
	}
	s.hash = hash_of(s.p, s.len);
	return s;
}

static struct stemmed stem_cached(struct words *w, const char *word, size_t len)
{
	if (len > SHORT)
		return stem(w, word, len);
	struct key k = key_of(word, len);
	struct cached *c = &w->now->cache[mix(k.a, k.b) & (CACHE_SLOTS - 1)];
	if (c->word.a != k.a || c->word.b != k.b) {
		struct stemmed s = stem(w, word, len);
		if (s.len > SHORT)
			return s;
		*c = (struct cached){k, key_of(s.p, s.len), s.hash, (uint8_t)s.len, s.stop};
	}
	return (struct stemmed){(const char *)&c->stem, c->len, c->hash, c->stop};
}

/* A code point makes at most twice its bytes (two ASCII letters, or one a byte longer), and a stem is hardly ever longer than
 * its word: so nothing moves, as a rule, while the words point there. A word takes a byte of the text, at least. */
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

/* A stemmer may put something in place of what it takes (Turkish: -d becomes -dı). */
static void make_room(struct words *w, size_t len)
{
	if (w->stems.len + len <= w->stems.cap)
		return;
	size_t *at = util_alloc((w->n + 1) * sizeof(*at));
	for (size_t i = 0; i < w->n; i++)
		at[i] = (size_t)(w->v[i].stem.p - w->stems.p);
	buf_reserve(&w->stems, w->stems.cap / 2 + len);
	for (size_t i = 0; i < w->n; i++)
		w->v[i].stem.p = w->stems.p + at[i];
	free(at);
}

static void add_word(struct words *w, const struct stemmed *s, uint32_t at, size_t slot)
{
	if (w->n == w->cap) {
		w->cap = w->cap ? 2 * w->cap : 128;
		w->v = util_realloc(w->v, w->cap * sizeof(*w->v));
	}
	make_room(w, s->len);
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

/* What belongs to no stem: a possessive 's, an ending behind an apostrophe; and letters that the stemmer writes otherwise. */
static void trim(const struct tongue *t, struct fold *f)
{
	if (f->apostrophe && t->flags & CUTS)
		f->len = f->apostrophe;
	else if (f->apostrophe && f->apostrophe + 1 == f->len && f->word[f->apostrophe] == 's')
		f->len--;
	if (!(t->flags & CEDILLA))
		return;
	for (size_t i = 0; i < f->len; i++)
		f->word[i] = f->word[i] == 0x219 ? 0x15F : f->word[i] == 0x21B ? 0x163 : f->word[i];
}

static void analyze(struct words *w, struct span text)
{
	struct fold f;
	enum fold_kind kind;
	char word[4 * FOLD_WORD_MAX];
	const struct tongue *t = w->now;
	fold_start(&f, text);
	while ((kind = t->mode ? fold_next_as(&f, t->mode) : fold_next(&f)) != FOLD_END) {
		if (f.apostrophe || t->flags & CEDILLA)
			trim(t, &f);
		struct stemmed s;
		size_t len = encode(f.word, f.len, word);
		s = kind == FOLD_WORD ? stem_cached(w, word, len)
				      : (struct stemmed){word, len, hash_of(word, len), false};
		count_word(w, &s);
	}
}

void words_analyze(struct words *w, struct span text, struct words_text *text_r)
{
	if (text.len > WORDS_TEXT_MAX)
		text.len = WORDS_TEXT_MAX;
	prepare(w, text.len);
	analyze(w, text);
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

size_t words_fold_last(const struct words *w, struct span text, char *to)
{
	struct fold f;
	size_t len = 0;
	fold_start(&f, text);
	while (fold_next_as(&f, w->now->mode & FOLD_SPLIT) != FOLD_END) {
		if (f.apostrophe && w->now->flags & CUTS)
			f.len = f.apostrophe;
		len = encode(f.word, f.len, to);
	}
	return len;
}
