/* Whether Redis can be reached as it is configured: for people who ask before they start the daemon. */
#include <event2/event.h>
#include <stdio.h>
#include <stdlib.h>

#include "cache/l2-private.h"
#include "clock.h"
#include "conf.h"

#define TURN_US 5000
#define PROBE_US 3000000

struct probing {
	struct redis_call call;
	struct buf wire, info;
	bool done;
};

static void on_info(struct redis_call *c, enum redis_fate fate, struct redis_reply **reply)
{
	struct probing *p = c->arg;
	p->done = true;
	if (fate == REDIS_ANSWERED && (*reply)->type != REPLY_ARRAY && (*reply)->text)
		buf_adds(&p->info, (*reply)->text);
	buf_addc(&p->info, 0);
}

static bool turn(struct event_base *base, int64_t until_us)
{
	struct timeval t = {0, TURN_US};
	event_base_loopexit(base, &t);
	event_base_loop(base, 0);
	return clock_mono_us() < until_us;
}

/* False: why is in text. */
static bool wait_ready(struct l2 *l, struct event_base *base, int64_t until_us, char *text, size_t cap)
{
	while (!redis_ready(l->redis)) {
		if (redis_error(l->redis, text, cap))
			return false;
		if (!turn(base, until_us)) {
			if (!*text)
				snprintf(text, cap, "no answer within %d s", PROBE_US / 1000000);
			return false;
		}
	}
	return true;
}

static bool ask(struct l2 *l, struct event_base *base, int64_t until_us, struct buf *what)
{
	struct probing p = {.done = false};
	struct redis_call *v[1] = {&p.call};
	char version[32] = "?", policy[32] = "?";
	redis_wire(&p.wire, "INFO", NULL);
	p.call = (struct redis_call){.wire = {p.wire.p, p.wire.len}, .slot = -1, .done = on_info, .arg = &p};
	(void)redis_send(l->redis, REDIS_CACHE, v, 1);
	while (!p.done && turn(base, until_us))
		;
	if (!p.done) {
		redis_close(l->redis); /* p is given back */
		buf_adds(what, "it lets us in, but does not answer INFO");
	} else if (strstr(p.info.p, "redis_version:")) {
		l2_info_word(p.info.p, "redis_version", version, sizeof(version));
		l2_info_word(p.info.p, "maxmemory_policy", policy, sizeof(policy));
		buf_printf(what, "Redis %s answers; its maxmemory-policy is %s", version, policy);
	} else {
		buf_printf(what, "it lets us in, but says to INFO: %.200s", *p.info.p ? p.info.p : "nothing");
	}
	bool good = p.done && *version != '?';
	buf_free(&p.wire);
	buf_free(&p.info);
	return good;
}

bool l2_probe(const struct conf *c, char **what_r)
{
	struct stats_slot *stats = util_zalloc(sizeof(*stats));
	struct event_base *base = event_base_new();
	struct buf what = {0};
	char text[256] = "", *error = NULL;
	int64_t until = clock_mono_us() + PROBE_US;
	struct l2 *l = base ? l2_open(c, base, NULL, stats, "probe", &error) : NULL;
	bool good = l && wait_ready(l, base, until, text, sizeof(text));
	if (good)
		good = ask(l, base, until, &what);
	else
		buf_adds(&what, error ? error : *text ? text : "cannot be asked");
	buf_addc(&what, 0);
	*what_r = what.p;
	l2_free(&l);
	if (base)
		event_base_free(base);
	free(stats);
	free(error);
	return good;
}
