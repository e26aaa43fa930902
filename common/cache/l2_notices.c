/* Between daemons: messages on a channel that all of a prefix share; each names the store that it is about. */
#include <stdio.h>
#include <stdlib.h>

#include "cache/l2-private.h"

struct notice {
	struct redis_call call;
	struct l2 *l;
	struct breaker_pass pass;
	struct buf wire;
};

static void channel_name(const struct l2 *l, char out[L2_KEY_MAX])
{
	snprintf(out, L2_KEY_MAX, "%s:notices", l->prefix);
}

static void on_published(struct redis_call *c, enum redis_fate fate, struct redis_reply **reply)
{
	struct notice *n = c->arg;
	enum breaker_result result = l2_judge(fate, *reply);
	l2_leave(n->l, &n->pass, result, result != BREAKER_OK && *reply ? (*reply)->text : NULL);
	buf_free(&n->wire);
	free(n);
}

bool l2_notify(struct l2 *l, struct span message)
{
	struct breaker_pass pass;
	char channel[L2_KEY_MAX];
	if (message.len > L2_MESSAGE_MAX || !l2_enter(l, &pass))
		return false;
	struct notice *n = util_zalloc(sizeof(*n));
	struct buf body = {0};
	uint64_t store = atomic_load_explicit(&l->store, memory_order_relaxed);
	channel_name(l, channel);
	buf_add(&body, &store, sizeof(store));
	buf_add(&body, message.p, message.len);
	redis_wire_n(&n->wire, (struct span[]){SPAN_LIT("PUBLISH"), SPAN(channel), {body.p, body.len}}, 3);
	buf_free(&body);
	n->l = l;
	n->pass = pass;
	n->call = (struct redis_call){.wire = {n->wire.p, n->wire.len}, .slot = -1, .done = on_published, .arg = n};
	struct redis_call *v[1] = {&n->call};
	return redis_send(l->redis, REDIS_NOTICES, v, 1) == 1;
}

static void on_message(void *arg, struct redis_reply *m)
{
	struct l2 *l = arg;
	uint64_t store;
	if (m->n < sizeof(store) || m->n > L2_MESSAGE_MAX + sizeof(store))
		return;
	memcpy(&store, m->text, sizeof(store));
	if (store && store == atomic_load_explicit(&l->store, memory_order_relaxed))
		l->message(l->listen_arg, (struct span){m->text + sizeof(store), m->n - sizeof(store)});
}

static void on_gap(void *arg, bool connected)
{
	struct l2 *l = arg;
	l->gap(l->listen_arg, connected);
}

void l2_listen(struct l2 *l, void (*message)(void *arg, struct span message), void (*gap)(void *arg, bool connected),
	       void *arg)
{
	char channel[L2_KEY_MAX];
	l->message = message;
	l->gap = gap;
	l->listen_arg = arg;
	channel_name(l, channel);
	redis_listen(l->redis, channel, on_message, on_gap, l);
}
