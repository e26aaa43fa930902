/* Request bodies: number arrays by our own reader, the rest by jansson. */
#include <stdio.h>
#include <stdlib.h>

#include "draft.h"

/* Floats of one body: 500 memories of 4,096 dimensions. */
#define FLOATS_MAX ((size_t)LIMIT_BULK * LIMIT_DIMENSIONS)

/* jansson reads U+FEFF, nesting to 2,048 and so on as it likes; what differs from RFC 8259 on the
 * public JSON test suite is listed in docs/decisions.md. */
bool body_json_parse(struct call *c, struct span text, struct body_json *b)
{
	json_error_t e;
	memset(b, 0, sizeof(*b));
	if (!text.len) {
		problem(c, 400, "invalid-json", "body: is empty; send a JSON object");
		return false;
	}
	const char *nul = memchr(text.p, 0, text.len);
	if (nul) { /* jansson takes it for the end of what it reads */
		problem(c, 400, "invalid-json", "body: byte %zu is NUL, which JSON does not allow",
			(size_t)(nul - text.p));
		return false;
	}
	switch (floats_extract(text.p, text.len, LIMIT_DIMENSIONS, FLOATS_MAX, &b->found, &b->text)) {
	case FLOATS_EXTRACT_NUMBER:
		problem(c, 400, "invalid-field",
			"embedding: must be an array of numbers, or base64 of little-endian float32");
		return false;
	case FLOATS_EXTRACT_TOO_MANY:
		problem(c, 400, "invalid-field", "embedding: must have 1 to %d numbers", LIMIT_DIMENSIONS);
		return false;
	case FLOATS_EXTRACT_OK: break;
	}
	b->root = json_loadb(b->text.p, b->text.len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, &e);
	if (!b->root)
		problem(c, 400, "invalid-json", "body: %s (line %d, column %d%s)", e.text, e.line, e.column,
			b->found.items ? ", counted without embeddings" : "");
	return b->root != NULL;
}

void body_json_free(struct body_json *b)
{
	json_decref(b->root);
	buf_free(&b->text);
	floats_found_free(&b->found);
	b->root = NULL;
}
