/* Reading number arrays out of JSON much faster than a JSON library: embeddings are most of the
 * bytes of a write. Everything else of a body stays jansson's business, and jansson's verdict on
 * whether a body is JSON at all is never changed by what is done here.
 *
 * Floats are bit for bit what strtof() gives (round to nearest, C locale). */
#ifndef ORC_JSON_NUMBERS_H
#define ORC_JSON_NUMBERS_H
#include "util.h"

enum floats_error {
	FLOATS_OK,
	FLOATS_SYNTAX,	   /* not a JSON array of numbers (also: cut off) */
	FLOATS_NOT_NUMBER, /* an element that is no number */
	FLOATS_RANGE,	   /* a number too large for a float */
	FLOATS_TOO_MANY,   /* more than `max` elements */
	FLOATS_NOT_FINITE, /* base64 only: NaN or infinity */
};
const char *floats_error_text(enum floats_error e);

/* Reads the array that begins at `p` (its '[') into out[max]. *n_r = elements read so far, also on an
 * error: the index of the element that was wrong. *end_r = behind the ']' (or where it went wrong). */
enum floats_error must_check floats_parse(const char *p, const char *end, float *out, size_t max, size_t *n_r,
					  const char **end_r);

/* Base64 (RFC 4648 section 4, padded, canonical, no white space) of little-endian float32. */
enum floats_error must_check floats_base64(const char *p, size_t len, float *out, size_t max, size_t *n_r);

/* ---- embeddings in a request body ---- */

struct floats_span {
	size_t at; /* first float in floats_found.data */
	size_t n;
};
/* All arrays found in one body. Zero-initialise; may be used for the next body without freeing. */
struct floats_found {
	float *data;
	size_t len, cap; /* floats */
	struct floats_span *item;
	size_t items, items_cap;
	/* The first tracked array that could not be read (it stays in the compacted body). */
	enum floats_error bad;
	size_t bad_element;
};
void floats_found_free(struct floats_found *f);

enum floats_extract {
	FLOATS_EXTRACT_OK,
	FLOATS_EXTRACT_NUMBER,	/* an "embedding" that is a bare number: it could be taken for an index */
	FLOATS_EXTRACT_TOO_MANY /* above max_each or max_total: refused before anybody spends time on it */
};
/* Copies `body` to `out` (appended) and replaces the value of
 * each tracked key "embedding" that is an array of numbers by its index in f->item[], as an integer.
 * Tracked are keys of the top-level object, and of the objects in its top-level array "memories"
 * (keys are compared after unescaping, so "embeddin\u0067" is one as well).
 *
 * What this promises: `out` is JSON exactly if `body` is (an array that is complete and well-formed is
 * replaced by a number with a space on each side, everything else is copied byte for byte), so jansson
 * rejects what it would have rejected (one exception: jansson has no integers beyond 64 bits, a float
 * has). An array with anything but numbers in it, or with a number that
 * no float can hold, stays as it is: where jansson then shows an array, f->bad and f->bad_element say
 * why. Since a bare number is refused here, an integer in `out` is always an index of ours.
 * Duplicate keys: each is replaced; which of them counts is decided by jansson (JSON_REJECT_DUPLICATES). */
enum floats_extract must_check floats_extract(const char *body, size_t len, size_t max_each, size_t max_total,
					      struct floats_found *f, struct buf *out);
#endif
