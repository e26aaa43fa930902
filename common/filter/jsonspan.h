/* Reading single values out of JSON text that is known to be well-formed (the canonical body of a
 * memory), without building a tree: one forward scan, no allocation. Text that is not JSON gives
 * "not found" or some part of the text, never a read outside of it (fuzzed). */
#ifndef ORC_JSONSPAN_H
#define ORC_JSONSPAN_H
#include "util.h"

enum jsonspan_type {
	JSONSPAN_NONE,
	JSONSPAN_OBJECT,
	JSONSPAN_ARRAY,
	JSONSPAN_STRING,
	JSONSPAN_NUMBER,
	JSONSPAN_TRUE,
	JSONSPAN_FALSE,
	JSONSPAN_NULL
};

/* The type that a value's text begins like. */
enum jsonspan_type jsonspan_type(struct span value);
/* The text of the value of the first member `key` of an object. Keys are compared after unescaping. */
bool jsonspan_member(struct span object, struct span key, struct span *value_r);
/* Walks an array: *at starts as the array's text; each call moves it on. False: no more elements. */
bool jsonspan_element(struct span *at, struct span *value_r);
/* The unescaped contents of a string's text: a part of it where nothing is escaped, else built in
 * *scratch (emptied first). False: not a string. */
bool jsonspan_text(struct span string, struct buf *scratch, struct span *text_r);
/* Shorthand: the unescaped string member `key` of `object`; an empty span when there is none. */
struct span jsonspan_text_of(struct span object, const char *key, struct buf *scratch);
/* A number as JSON libraries see it: true = an integer that fits *i_r, false = a real in *d_r. */
bool jsonspan_number(struct span number, int64_t *i_r, double *d_r);
#endif
