/* Who is the master: one of the sentinels is asked every second, and as soon as a connection to the master is lost. What it
 * says is proved by ROLE at each new connection (link.c). */
#include <stdlib.h>

#include "redis/redis-private.h"

static void follow(struct redis *r, const char *host, int port)
{
	unsigned index;
	redis_say(r, "%s", "");
	pthread_rwlock_wrlock(&r->lock);
	if (!r->n)
		(void)redis_node_at(r, host, port, &index);
	struct redis_node *node = r->nodes[0];
	bool moved = node->port != port || strcmp(node->host, host) != 0;
	if (moved) {
		free(node->host);
		node->host = util_strndup(host, strlen(host));
		node->port = port;
	}
	pthread_rwlock_unlock(&r->lock);
	for (unsigned i = 0; i < r->shared; i++)
		redis_link_move(node->links[i], host, port);
	for (unsigned i = 0; i < r->direct; i++)
		redis_link_move(node->direct[i], host, port);
	redis_servers_rove(r, host, port);
	if (moved || !r->notices[0])
		redis_servers_ask(r);
}

static void on_master(struct redis_call *c, enum redis_fate fate, struct redis_reply **reply)
{
	struct redis *r = c->arg;
	const struct redis_reply *a = *reply;
	r->asking = false;
	if (fate != REDIS_ANSWERED || r->closed)
		return;
	if (a->type == REPLY_NIL) {
		redis_say(r, "redis.url: this sentinel knows no master called \"%s\"", r->url->master);
	} else if (a->type == REPLY_ERROR) {
		redis_say(r, "the sentinel says %.200s", a->text);
	} else if (a->type == REPLY_ARRAY && a->n == 2 && a->v[0].type == REPLY_STRING && a->v[0].n < 256 &&
		   a->v[1].type == REPLY_STRING) {
		int port = atoi(a->v[1].text);
		if (*a->v[0].text && port > 0 && port < 65536)
			follow(r, a->v[0].text, port);
	}
}

bool redis_sentinel_ask(struct redis *r)
{
	struct redis_call *v[1] = {&r->question};
	r->question_wire.len = 0;
	redis_wire(&r->question_wire, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", r->url->master, NULL);
	r->question = (struct redis_call){
		.wire = {r->question_wire.p, r->question_wire.len}, .slot = -1, .done = on_master, .arg = r};
	r->asking = redis_link_send(r->sentinel, v, 1);
	return r->asking;
}

static void on_lost_sentinel(void *arg, struct redis_link *l)
{
	struct redis *r = arg;
	const struct redis_host *h = &r->url->hosts[++r->sentinel_at % r->url->n];
	redis_link_move(l, h->host, h->port);
}

static void on_sentinel(void *arg, struct redis_link *l, bool ready)
{
	(void)l;
	if (ready)
		redis_servers_ask(arg);
}

void redis_sentinel_open(struct redis *r)
{
	struct redis_link_conf conf;
	redis_link_conf_of(r, &conf);
	conf.db = 0;
	conf.master_only = false;
	conf.lenient = true; /* sentinels have passwords of their own, or none */
	conf.changed = on_sentinel;
	conf.lost = on_lost_sentinel;
	r->sentinel = redis_link_new(&conf, r->url->hosts[0].host, r->url->hosts[0].port);
}
