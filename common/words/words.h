/* Text → stems: what full-text search stores, looks for and counts.
 *
 * A word is what fold.h says it is (so every ideograph is one by itself), without a possessive 's. English: folded, then stemmed
 * by the Porter algorithm that FTS5 uses. Other languages: in small letters with their marks, which is what Snowball's stemmers
 * expect, stemmed, and folded then, so that NFC and NFD agree. The analysis depends on nothing but the text and the
 * language: stems are on people's disks, and what looks for them must find the same. Nothing fails; what is beyond a
 * bound does not count. */
#ifndef ORC_WORDS_H
#define ORC_WORDS_H
#include "language.h"

#define WORDS_TEXT_MAX (1u << 20) /* bytes of a text that are looked at */
#define WORDS_STEM_MAX 256	  /* bytes of a stem, at most */

/* Scratch of one thread: the stemmer, the stems that it has seen, and the last analysis. About 120 KiB for each language that it
 * has been used for. */
struct words;
struct words *words_new(void) must_check;
void words_free(struct words **w);
/* What is analysed from here on is of this language; of a new handle: English. */
void words_language(struct words *w, enum language l);

/* A distinct word of a text. */
struct word {
	struct span stem;     /* UTF-8 without NUL; lies in the handle */
	uint64_t hash;	      /* of the stem; the same on every machine */
	uint32_t count;	      /* how often, at least 1 */
	uint32_t first, last; /* places, from 0 */
	bool stop;	      /* only stop words have this stem here */
};
/* Stop words are counted, but neither stored nor looked for, unless the text has no other words: word_counts(). Measured:
 * storing them costs PostgreSQL 6 µs a row and half as much room again, for queries that ask for nothing. */
struct words_text {
	const struct word *v; /* distinct words, in order of their first place */
	size_t n;
	uint32_t length;      /* words in all */
	uint32_t counting;    /* of them, those that count */
	const uint32_t *next; /* place of a word → next place of the same word; beyond every text after the last */
};
static inline bool word_counts(const struct words_text *t, const struct word *w)
{
	return !w->stop || t->counting == t->length;
}
/* *text_r is valid until the handle is used again. */
void words_analyze(struct words *w, struct span text, struct words_text *text_r);

/* What a query looks for: its first `max` distinct words that count. Returns their number; the stems lie in the handle,
 * until it is used again. */
size_t words_query(struct words *w, struct span query, struct word *out, size_t max);

/* The text's last word, folded but not stemmed, as UTF-8 in `to` (room for 4 * FOLD_WORD_MAX). Returns its length; 0: none. */
size_t words_fold_last(const struct words *w, struct span text, char *to);

/* A word without meaning in a question (English)? In lower case, as words are written: "don", "t" and "dont". */
bool words_is_stop(struct span word);

/* Appends the text in PostgreSQL's binary form of tsvector: int32 number of lexemes; of each, sorted bytewise: its
 * text, NUL, int16 number of places, places from 1 (int16, of weight D). Keeps within PostgreSQL's limits: places up
 * to 16,383, 255 of a lexeme, 1 MiB altogether; what is beyond is left out, from the text's end. */
void words_tsvector(struct words *w, struct span text, struct buf *out);
#endif
