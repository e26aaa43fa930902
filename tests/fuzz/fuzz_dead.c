/* Dead letters: the decoder trusts nothing of what lies in the file. What it accepts is what encoding it again makes; and what an
 * operation says about itself lies within the operation. */
#include <stdlib.h>

#include "crc32c.h"
#include "dead.h"

static void within(struct span s, const void *p, size_t len)
{
	AN(!s.len || (s.p >= (const char *)p && s.p + s.len <= (const char *)p + len));
}

static void describe(const void *body, uint32_t len)
{
	for (uint16_t type = 0; type < 7; type++) {
		struct op_head op = {.type = type, .len = len};
		struct dead_letter l;
		dead_describe(&op, body, &l);
		within(l.namespace, body, len);
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct dead_letter l;
	struct buf again = {0};
	if (size > 1u << 20)
		return 0;
	char *copy = util_alloc(size + 1); /* aligned, and its end is guarded */
	memcpy(copy, data, size);
	describe(copy, (uint32_t)size);
	/* Found by chance a checksum is never: it is made right every other time. */
	if (size >= sizeof(struct dead_head) && data[0] & 1) {
		struct dead_head h;
		memcpy(&h, copy, sizeof(h));
		h.magic = DEAD_MAGIC;
		h.layout = 1 + (data[0] >> 1) % DEAD_LAYOUT;
		h.crc = 0;
		memcpy(copy, &h, sizeof(h));
		h.crc = crc32c(0, copy, size);
		memcpy(copy, &h, sizeof(h));
	}
	if (dead_decode(copy, size, &l)) {
		within(l.reason, copy, size);
		within(l.namespace, copy, size);
		within((struct span){l.body, l.body_len}, copy, size);
		describe(l.body, l.body_len);
		dead_encode(&l, &again);
		AN(again.len == size);
		struct dead_letter same;
		AN(dead_decode(again.p, again.len, &same) && same.seq == l.seq && span_eq(same.reason, l.reason));
	}
	buf_free(&again);
	free(copy);
	return 0;
}
