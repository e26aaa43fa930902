#include "cache/l2_envelope.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

_Static_assert(sizeof(struct l2_head) == 88 && offsetof(struct l2_head, key) == 24 &&
		       offsetof(struct l2_head, sum) == 80,
	       "it travels: no padding");

static uint64_t sum_of(const struct l2_head *h, const char *body, size_t n)
{
	struct l2_head copy = *h;
	copy.sum = 0;
	return XXH3_64bits_withSeed(body, n, XXH3_64bits(&copy, sizeof(copy)));
}

void l2_envelope_write(struct buf *b, const struct l2_name *name, uint64_t revision, const struct cache_meta *meta,
		       struct span body)
{
	struct l2_head h = {.magic = L2_MAGIC,
			    .version = L2_VERSION,
			    .cls = (uint8_t)name->cls,
			    .flags = meta->flags,
			    .store = name->store,
			    .revision = revision,
			    .key = name->key,
			    .ns = meta->ns,
			    .object = meta->version,
			    .filled_us = meta->filled_us,
			    .fresh_ms = meta->fresh_ms,
			    .gone_ms = meta->gone_ms,
			    .tag = meta->tag,
			    .len = (uint32_t)body.len};
	AN(body.len <= UINT32_MAX);
	h.sum = sum_of(&h, body.p, body.len);
	buf_add(b, &h, sizeof(h));
	buf_add(b, body.p, body.len);
}

bool l2_envelope_read(const char *p, size_t n, const struct l2_name *name, uint64_t *revision_r,
		      struct cache_meta *meta_r, struct span *body_r)
{
	struct l2_head h;
	if (n < sizeof(h))
		return false;
	memcpy(&h, p, sizeof(h));
	if (h.magic != L2_MAGIC || h.version != L2_VERSION || h.cls != name->cls || h.store != name->store ||
	    uuid_cmp(&h.key, &name->key) || h.len != n - sizeof(h) || h.sum != sum_of(&h, p + sizeof(h), h.len))
		return false;
	*revision_r = h.revision;
	*meta_r = (struct cache_meta){.ns = h.ns,
				      .version = h.object,
				      .filled_us = h.filled_us,
				      .fresh_ms = h.fresh_ms,
				      .gone_ms = h.gone_ms,
				      .tag = h.tag,
				      .flags = h.flags};
	*body_r = (struct span){p + sizeof(h), h.len};
	return true;
}
