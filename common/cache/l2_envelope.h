/* What a value in Redis looks like: a head that says all that must be true before the body is believed, and the body. */
#ifndef ORC_CACHE_L2_ENVELOPE_H
#define ORC_CACHE_L2_ENVELOPE_H
#include "cache/cache.h"

/* Little-endian. Another layout has another version, and readers refuse it. */
struct l2_head {
	uint32_t magic;
	uint8_t version, cls, flags, zero;
	uint64_t store; /* whose value it is */
	uint64_t revision;
	struct uuid key;
	uint64_t ns, object; /* of cache_meta: namespace, version */
	int64_t filled_us;   /* absolute, as is what follows from it */
	uint32_t fresh_ms, gone_ms;
	uint16_t tag, zero16;
	uint32_t len; /* of the body */
	uint64_t sum; /* XXH3 of the head, with 0 here, and the body */
};
#define L2_MAGIC 0x324c524fu /* "ORL2" */
#define L2_VERSION 1

/* What a reader expects. */
struct l2_name {
	uint64_t store;
	enum cache_class cls;
	struct uuid key;
};
/* Appends head and body. */
void l2_envelope_write(struct buf *b, const struct l2_name *name, uint64_t revision, const struct cache_meta *meta,
		       struct span body);
/* False: it is not a whole value of that name, as it was written. body_r lies in p. */
bool must_check l2_envelope_read(const char *p, size_t n, const struct l2_name *name, uint64_t *revision_r,
				 struct cache_meta *meta_r, struct span *body_r);
#endif
