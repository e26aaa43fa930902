/* What nobody is to find in the feed any more is forgotten. Every daemon of a fleet does this with its own
 * changes.keep; the shortest counts. */
#define LOG_SUBSYSTEM LOG_IN_STORE
#include "clock.h"
#include "log.h"
#include "sync.h"

#define EVERY_US 60000000
#define A_ROUND_US 200000 /* then the flush goes on */

void prune_conf(struct sync *s, const struct conf *c)
{
	atomic_store(&s->feed_keep_us, conf_int(c, CONF_CHANGES_KEEP));
	atomic_store(&s->feed_keep_changes, (uint64_t)conf_int(c, CONF_CHANGES_MAX));
}

void prune_feed(struct sync *s, struct store *store)
{
	static struct log_limit limit;
	int64_t now = clock_mono_us(), keep_us = atomic_load(&s->feed_keep_us), until = now + A_ROUND_US;
	enum store_rc rc;
	if (now < s->next_prune_us)
		return;
	do {
		rc = s->store_ops->prune(store, keep_us, atomic_load(&s->feed_keep_changes));
	} while (rc == STORE_BUSY && clock_mono_us() < until);
	if (rc == STORE_ERROR)
		log_warn_limited(&limit, 600, "old changes of the feed could not be removed: %s",
				 s->store_ops->error(store));
	int64_t pause = keep_us / 4 < EVERY_US ? keep_us / 4 : EVERY_US;
	s->next_prune_us = rc == STORE_BUSY ? now : now + pause;
}
