/* How many workers there are, and in which slots.
 *
 * A slot is a place in shared memory (rings, statistics, vitals) and has at most one process at a time.
 * An api worker that is to be replaced without a gap gets its successor in another slot first: there are
 * API_WORKERS_MAX of them, and the listening sockets belong to all. Its own slot is free when it has gone. */
#include "log.h"
#include "upgrade.h"
#include "worker.h"

struct child *pool_add_api(struct supervisor *sv)
{
	for (unsigned slot = SLOT_API0; slot < SLOT_COUNT; slot++) {
		struct child *c = &sv->child[slot];
		if (c->used)
			continue;
		child_init(c, sv, slot);
		child_start(c);
		return c;
	}
	return NULL;
}

void pool_start(struct supervisor *sv)
{
	int64_t workers = conf_int(sv->conf, CONF_API_WORKERS);
	static const unsigned single[] = {SLOT_WARMER, SLOT_PINGER};
	AN(workers > 0 && workers <= API_WORKERS_MAX);
	child_init(&sv->child[SLOT_SYNC], sv, SLOT_SYNC);
	for (size_t i = 0; i < ARRAY_LEN(single); i++)
		child_init(&sv->child[single[i]], sv, single[i]);
	child_start(&sv->child[SLOT_SYNC]); /* the others wait for it, each by itself */
	while (workers--)
		AN(pool_add_api(sv));
	for (size_t i = 0; i < ARRAY_LEN(single); i++)
		child_start(&sv->child[single[i]]);
}

void pool_retire(struct child *c)
{
	struct ctl_drain how = {.idle_ms = RETIRE_IDLE_MS};
	c->retiring = true;
	evtimer_del(c->timer);
	if (!child_alive(c)) {
		pool_gone(c);
		return;
	}
	child_leave(c, &how, conf_int(c->sv->conf, CONF_DRAIN_TIMEOUT));
}

void pool_gone(struct child *c)
{
	struct supervisor *sv = c->sv;
	log_debug("%s: its slot is free", c->name);
	child_free(c);
	supervisor_look_started(sv);
}

/* As many as are wanted, or as there are slots for; returns how many there are, more perhaps. */
static int64_t fill(struct supervisor *sv)
{
	int64_t have = 0;
	for (struct child *c = NULL; (c = child_next(sv, c));)
		have += child_is_api(c) && !c->retiring;
	while (have < conf_int(sv->conf, CONF_API_WORKERS) && pool_add_api(sv))
		have++;
	return have;
}

void pool_refill(struct supervisor *sv)
{
	if (sv->state != SUPERVISOR_DRAINING && !upgrade_active(sv))
		(void)fill(sv);
}

void pool_resize(struct supervisor *sv)
{
	int64_t want = conf_int(sv->conf, CONF_API_WORKERS), have = fill(sv);
	struct child *last = NULL;
	for (; have > want; have--) {
		for (struct child *c = NULL; (c = child_next(sv, c));)
			if (child_is_api(c) && !c->retiring)
				last = c;
		pool_retire(last);
	}
	if (have < want)
		log_warn(
			"api.workers is %lld, but all %d slots are taken by workers that are still leaving: %lld run, the "
			"others are started when those have gone",
			(long long)want, API_WORKERS_MAX, (long long)have);
}
