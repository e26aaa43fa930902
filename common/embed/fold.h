/* Text → words of folded code points, the same on every machine: no locale, no libc tables.
 * Case, diacritics and Latin compatibility forms fold away (so NFC and NFD texts agree). */
#ifndef ORC_FOLD_H
#define ORC_FOLD_H
#include "util.h"

/* A run without a separator is cut into words of at most this many code points: bounded memory for any
 * text, and nothing of interest is longer. */
#define FOLD_WORD_MAX 64

enum fold_kind {
	FOLD_END,    /* no more words */
	FOLD_WORD,   /* letters and digits */
	FOLD_SINGLE, /* one ideograph, kana, hangul syllable or symbol: scripts without spaces */
};
struct fold {
	const uint8_t *p, *end;
	uint32_t held; /* an ideograph that ended a word and is the next one */
	uint32_t word[FOLD_WORD_MAX];
	size_t len;
	size_t apostrophe; /* how many code points of the word stand before its last apostrophe, which is dropped; 0: none */
};

void fold_start(struct fold *f, struct span text);
/* The next word is in f->word[0 … f->len). Malformed UTF-8 separates words. */
enum fold_kind fold_next(struct fold *f);

/* The same words, otherwise written: */
enum fold_mode {
	FOLD_LOWER = 1, /* case only: letters keep their marks, in one code point each whether the text is NFC or NFD */
	FOLD_TURKISH = 2, /* I is ı (with FOLD_LOWER) */
	FOLD_SPLIT = 4,	  /* an apostrophe separates: "l'homme" is two words */
};
enum fold_kind fold_next_as(struct fold *f, unsigned mode);
/* What fold_next() makes of a letter that FOLD_LOWER has left. Returns how many there are: 0, when it is none. */
size_t fold_letter(uint32_t c, uint32_t out[2]);
#endif
