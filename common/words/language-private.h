/* What the analysis knows of a language. */
#ifndef ORC_LANGUAGE_PRIVATE_H
#define ORC_LANGUAGE_PRIVATE_H
#include "words/language.h"

enum language_flags {
	SPLITS = 1,  /* an apostrophe separates words: "l'homme" */
	CUTS = 2,    /* what follows an apostrophe is an ending: "İstanbul'da" */
	CEDILLA = 4, /* the stemmer knows ş and ţ with a cedilla, and people write them with a comma */
};
struct language_row {
	const char *name, *iso, *stemmer; /* stemmer "": none */
	unsigned flags;
};
extern const struct language_row language_rows[LANGUAGES];
/* Stop words between single spaces, in small letters with their marks, as the stemmer sees them. English: "" (stop.c). */
extern const char *const language_stops[LANGUAGES];
#endif
