/* Languages of namespaces: names, and what the store keeps of them. */
#ifndef ORC_LANGUAGE_H
#define ORC_LANGUAGE_H
#include "util.h"

enum language {
#define LANGUAGE(id, name, iso, stemmer, flags) LANGUAGE_##id,
#include "words/language.def"
#undef LANGUAGE
	LANGUAGES
};

/* By its name or its two letters of ISO 639-1, in any case. */
bool must_check language_find(struct span name, enum language *l_r);
/* NUL-terminated. Of a number beyond the table ("none"), too: it may come from shared memory. */
const char *language_name(enum language l);
const char *language_iso(enum language l); /* "": it has none */

/* A namespace's settings, a JSON object: {} is English. Appended to b. */
void language_write_settings(enum language l, struct buf *b);
/* Of settings as they were written. A language that this program does not know (a later one wrote it) is none: its words are
 * found as they are. */
enum language language_read_settings(struct span json);
/* What a store says of it: a name; empty is English. */
enum language language_stored(struct span name);
#endif
