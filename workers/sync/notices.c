/* Through Redis, daemons tell each other what they have just stored: sooner than the feed does where the server's
 * wake-ups do not come through (a pooler of connections between), and when it is the feed that is cut off. A notice only
 * takes away: what it names is let go of by L1, and copies of it are not believed; and the feed looks at once. So a lost
 * one costs nothing but time, and a false one nothing but a read. */
#define LOG_SUBSYSTEM LOG_IN_REDIS
#include <stdlib.h>

#include "cache/l2.h"
#include "log.h"
#include "sync.h"
#include "watch.h"

#define IDS_MAX 2000 /* in a message; with more, only the feed is woken */
#define REVISIONS_AHEAD                                                                                                \
	(1ull << 32) /* a revision that no store has reached is a lie, and would be held against all copies */
#define NOTICE_MAGIC 0x314345444954434full

struct notice {
	uint64_t magic, node, revision;
	uint32_t n, zero;
	struct uuid ids[];
};

struct collecting {
	struct notice *m;
	bool overflow;
};

static void collect(void *arg, const struct pending_entry *e)
{
	struct collecting *c = arg;
	if (e->type != OP_PUT && e->type != OP_DELETE)
		return;
	if (c->m->n == IDS_MAX)
		c->overflow = true;
	else
		c->m->ids[c->m->n++] = e->id;
}

void notices_send(struct sync *s, uint64_t seq, uint64_t revision)
{
	if (!s->l2 || !revision)
		return;
	struct collecting c = {.m = util_zalloc(sizeof(*c.m) + IDS_MAX * sizeof(struct uuid))};
	*c.m = (struct notice){.magic = NOTICE_MAGIC, .node = s->store_conf.node, .revision = revision};
	pending_leaving(s->pending, seq, collect, &c);
	if (c.overflow)
		c.m->n = 0;
	(void)!l2_notify(s->l2, (struct span){(const char *)c.m, sizeof(*c.m) + c.m->n * sizeof(struct uuid)});
	free(c.m);
}

static void on_message(void *arg, struct span text)
{
	struct sync *s = arg;
	struct notice m;
	if (text.len < sizeof(m))
		return;
	memcpy(&m, text.p, sizeof(m));
	if (m.magic != NOTICE_MAGIC || m.n > IDS_MAX || text.len != sizeof(m) + m.n * sizeof(struct uuid) ||
	    m.node == s->store_conf.node || m.revision <= atomic_load(&s->plant->feed_revision))
		return;
	stats_add(s->w->stats, STAT_NOTICES, 1);
	sync_enter(s);
	for (uint32_t i = 0; i < m.n; i++) {
		struct uuid id;
		memcpy(&id, text.p + sizeof(m) + i * sizeof(id), sizeof(id));
		if (m.revision < atomic_load(&s->plant->feed_revision) + REVISIONS_AHEAD)
			trust_changed(&s->plant->trust, &id, m.revision);
		cache_remove(s->cache, CACHE_MEMORY, &id);
	}
	sync_leave(s);
	feed_hurry(s);
}

/* What is missed meanwhile the feed brings; nothing is believed because no notice came. */
static void on_gap(void *arg, bool connected)
{
	(void)arg;
	log_debug("notices of other daemons by Redis %s", connected ? "arrive" : "do not arrive any more");
}

bool notices_open(struct sync *s)
{
	char *error = NULL;
	if (!s->store_ops || !s->store_ops->fleet)
		return true;
	s->l2 = l2_open(s->w->conf, s->w->base, s->plant->breakers, s->w->stats, s->w->name, &error);
	if (error)
		log_error("%s", error);
	free(error);
	if (s->l2) {
		l2_listen(s->l2, on_message, on_gap, s);
		s->watch = watch_start(s->l2, &s->plant->redis, conf_int(s->w->conf, CONF_REDIS_TTL));
	}
	return s->l2 || !error;
}

void notices_close(struct sync *s)
{
	if (!s->l2)
		return;
	l2_stop(s->l2);
	watch_stop(&s->watch);
	l2_free(&s->l2);
}
