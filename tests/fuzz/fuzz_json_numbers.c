/* Arbitrary bytes as a body: no over-read, and jansson thinks the same of the body before and after. */
#include <jansson.h>
#include <stdlib.h>
#include "json/numbers.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct floats_found f;
	struct buf out = {0};
	float values[64];
	size_t n;
	const char *behind, *p = (const char *)data;

	if (floats_parse(p, p + size, values, ARRAY_LEN(values), &n, &behind) == FLOATS_OK)
		AN(n <= ARRAY_LEN(values) && behind <= p + size);
	if (floats_base64(p, size, values, ARRAY_LEN(values), &n) == FLOATS_OK)
		AN(n <= ARRAY_LEN(values));
	if (floats_extract(p, size, 64, 256, &f, &out) == FLOATS_EXTRACT_OK) {
		json_t *before = json_loadb(p, size, JSON_REJECT_DUPLICATES, NULL);
		json_t *after = json_loadb(out.p ? out.p : "", out.len, JSON_REJECT_DUPLICATES, NULL);
		/* jansson refuses integers beyond 64 bits, and so only `before` (numbers.h) */
		AN(!before || after);
		if (after && !before)
			AN(f.items > 0);
		json_decref(before);
		json_decref(after);
	}
	buf_free(&out);
	return 0;
}
