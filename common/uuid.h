/* UUIDv7 (RFC 9562): ids that ascend with time. */
#ifndef ORC_UUID_H
#define ORC_UUID_H
#include "util.h"

struct uuid {
	uint8_t b[16];
};
#define UUID_TEXT 36

/* A new id. Ids of one process strictly ascend, also within a microsecond and when the clock steps
 * back; those of several processes ascend as the machine's clock does, to a microsecond: what is
 * written after an answer has the greater id, whichever worker it comes to (RFC 9562 6.2 method 3:
 * the 12 bits after the milliseconds are more of the time). Not thread-safe: call from one thread,
 * or hold a lock. */
struct uuid uuid_make(void);
/* `n` consecutive ids in ascending order into out[]. */
void uuid_make_many(struct uuid *out, size_t n);
/* Lower-case canonical text, UUID_TEXT bytes, no NUL. */
void uuid_format(const struct uuid *u, char out[UUID_TEXT]);
/* Parses the canonical 36-character form (either case). False: not a UUID. */
bool must_check uuid_parse(const char *s, size_t len, struct uuid *out_r);
static inline int uuid_cmp(const struct uuid *a, const struct uuid *b) { return memcmp(a->b, b->b, 16); }
/* Milliseconds since 1970 that the id carries. */
int64_t uuid_time_ms(const struct uuid *u);
#endif
