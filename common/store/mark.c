/* What a store is known by. */
#include "store/mark.h"

#define AT_ONCE 256	    /* batches */
#define FURTHEST (1u << 18) /* revisions that are looked back on for one that changed something */

static struct store_mark mark_of(const struct store_change *c)
{
	return (struct store_mark){
		.revision = c->revision, .node = c->node, .at_us = c->at_us, .version = c->version, .id = c->id};
}

static bool last_of(void *arg, const struct store_change *c)
{
	struct store_mark *m = arg;
	if (m->revision != c->revision)
		*m = mark_of(c);
	return true;
}

static enum store_rc last_behind(const struct store_ops *ops, struct store *s, uint64_t after, struct store_mark *m)
{
	for (uint64_t last = after;; after = last) {
		enum store_rc rc = ops->changes(s, after, AT_ONCE, last_of, m, &last);
		if (rc != STORE_OK || last == after)
			return rc;
	}
}

enum store_rc store_mark_now(const struct store_ops *ops, struct store *s, struct store_mark *mark_r)
{
	uint64_t now;
	enum store_rc rc = ops->revision(s, &now);
	*mark_r = (struct store_mark){.revision = 0};
	for (uint64_t far = 1; rc == STORE_OK && far <= FURTHEST; far *= 64) {
		rc = last_behind(ops, s, now > far ? now - far : 0, mark_r);
		if (mark_r->revision || now <= far)
			break;
	}
	if (rc == STORE_NOT_FOUND) { /* what there was is forgotten */
		*mark_r = (struct store_mark){.revision = 0};
		rc = STORE_OK;
	}
	return rc;
}

static bool first_of(void *arg, const struct store_change *c)
{
	*(struct store_mark *)arg = mark_of(c);
	return false;
}

bool store_mark_holds(const struct store_ops *ops, struct store *s, const struct store_mark *mark)
{
	struct store_mark has = {.revision = 0};
	uint64_t last;
	return mark->revision && ops->changes(s, mark->revision - 1, 1, first_of, &has, &last) == STORE_OK &&
	       has.revision == mark->revision && has.node == mark->node && has.at_us == mark->at_us &&
	       has.version == mark->version && uuid_cmp(&has.id, &mark->id) == 0;
}
