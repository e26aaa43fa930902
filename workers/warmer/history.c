/* What the store's feed of changes says about copies: which of them are older than the store, and whether they are of this
 * store at all. A database that was put in the place of another, or set back to a former state, has other changes under
 * the same revisions, at other times. */
#include <stdlib.h>

#include "warmer.h"

#define AT_ONCE 256	 /* batches */
#define DROPPED_MAX 4096 /* namespaces; more, and all is doubted */

static uint32_t stripe(const struct uuid *id)
{
	uint64_t a, b;
	memcpy(&a, id->b, sizeof(a));
	memcpy(&b, id->b + sizeof(a), sizeof(b));
	uint64_t z = (a ^ b * 0x9e3779b97f4a7c15ull) * 0xbf58476d1ce4e5b9ull;
	return (uint32_t)(z >> 32) & (HISTORY_STRIPES - 1);
}

void history_begin(struct history *h, uint64_t revision)
{
	if (!h->changed)
		h->changed = util_alloc(HISTORY_STRIPES / 8);
	memset(h->changed, 0, HISTORY_STRIPES / 8);
	h->read_to = revision;
	h->ndropped = 0;
	h->all = false;
}

void history_free(struct history *h)
{
	free(h->changed);
	free(h->dropped);
	*h = (struct history){0};
}

static bool note(void *arg, const struct store_change *c)
{
	struct history *h = arg;
	if (c->kind == CHANGE_NAMESPACE)
		return true;
	if (c->kind != CHANGE_NS_DROP) {
		uint32_t s = stripe(&c->id);
		h->changed[s / 8] = (uint8_t)(h->changed[s / 8] | 1u << s % 8);
		return true;
	}
	if (h->ndropped == DROPPED_MAX) {
		h->all = true;
		return true;
	}
	if (!h->dropped)
		h->dropped = util_alloc(DROPPED_MAX * sizeof(*h->dropped));
	h->dropped[h->ndropped++] = record_ns(c->namespace);
	return true;
}

enum store_rc history_follow(struct history *h, const struct store_ops *ops, struct store *s)
{
	for (uint64_t last = h->read_to;; h->read_to = last) {
		enum store_rc rc = ops->changes(s, h->read_to, AT_ONCE, note, h, &last);
		if (rc != STORE_OK || last == h->read_to)
			return rc;
	}
}

bool history_doubts(const struct history *h, const struct uuid *id, uint64_t ns)
{
	uint32_t s = stripe(id);
	if (h->all || h->changed[s / 8] >> s % 8 & 1)
		return true;
	for (size_t i = 0; i < h->ndropped; i++)
		if (h->dropped[i] == ns)
			return true;
	return false;
}
