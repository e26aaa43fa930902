/* A cluster: which node has which slot, and what to do when it was another one. */
#include <stdio.h>
#include <stdlib.h>

#include "redis/redis-private.h"

#define REDIRECTS_MAX 5

/* ---- the map ---- */

struct range {
	int from, to, port;
	const char *host;
};

static bool is_slot(const struct redis_reply *r)
{
	return r->type == REPLY_INTEGER && r->integer >= 0 && r->integer < REDIS_SLOTS;
}

/* [from, to, [host, port, id…], replicas…]. Without a host it is the one that was asked. */
static bool read_range(const struct redis_reply *a, const char *asked, struct range *out)
{
	if (a->type != REPLY_ARRAY || a->n < 3 || !is_slot(&a->v[0]) || !is_slot(&a->v[1]))
		return false;
	const struct redis_reply *m = &a->v[2];
	if (m->type != REPLY_ARRAY || m->n < 2 || m->v[1].type != REPLY_INTEGER || m->v[1].integer < 1 ||
	    m->v[1].integer > 65535)
		return false;
	const char *host = m->v[0].type == REPLY_STRING && m->v[0].n && m->v[0].n < 256 ? m->v[0].text : asked;
	*out = (struct range){(int)a->v[0].integer, (int)a->v[1].integer, (int)m->v[1].integer, host};
	return true;
}

static void take_map(struct redis *r, const struct redis_reply *a, const char *asked)
{
	struct range g;
	unsigned index, known = 0;
	pthread_rwlock_wrlock(&r->lock);
	for (unsigned i = 0; i < r->n; i++)
		r->nodes[i]->serves = false;
	for (size_t i = 0; i < a->n; i++) {
		struct redis_node *node = read_range(&a->v[i], asked, &g) ? redis_node_at(r, g.host, g.port, &index)
									  : NULL;
		if (node) {
			node->serves = true;
			known++;
		}
	}
	for (unsigned i = 0; i < r->n && !known; i++)
		r->nodes[i]->serves = true; /* a node that knows nobody: those we have are better than none */
	redis_nodes_retire(r);
	memset(r->owner, 0, REDIS_SLOTS);
	for (size_t i = 0; i < a->n; i++)
		if (read_range(&a->v[i], asked, &g) && redis_node_at(r, g.host, g.port, &index))
			for (int slot = g.from; slot <= g.to; slot++)
				r->owner[slot] = (uint8_t)(index + 1);
	pthread_rwlock_unlock(&r->lock);
	redis_say(r, "%s", known ? "" : "the cluster has no slots yet");
	if (r->retired)
		redis_servers_ask(r);
}

static void on_map(struct redis_call *c, enum redis_fate fate, struct redis_reply **reply)
{
	struct redis *r = c->arg;
	const struct redis_reply *a = *reply;
	r->asking = false;
	if (r->closed || fate != REDIS_ANSWERED)
		return;
	if (a->type == REPLY_ERROR)
		redis_say(r, "redis.url: %.200s", a->text);
	else if (a->type == REPLY_ARRAY)
		take_map(r, a, r->n ? r->nodes[r->roving % r->n]->host : "");
}

bool redis_cluster_ask(struct redis *r)
{
	struct redis_call *v[1] = {&r->question};
	r->question_wire.len = 0;
	redis_wire(&r->question_wire, "CLUSTER", "SLOTS", NULL);
	r->question = (struct redis_call){
		.wire = {r->question_wire.p, r->question_wire.len}, .slot = -1, .done = on_map, .arg = r};
	for (unsigned i = 0; i < r->n && !r->asking; i++) {
		r->roving++;
		r->asking = redis_send_master(r, r->roving % r->n, v, 1);
	}
	return r->asking;
}

/* ---- redirections ---- */

/* "MOVED 3999 127.0.0.1:6381": the port stands behind the last colon. */
static bool read_address(const struct redis_reply *e, const char *same_host, int *slot_r, char host[256], int *port_r)
{
	const char *p = strchr(e->text, ' ');
	const char *at = p ? strchr(p + 1, ' ') : NULL, *colon = at ? strrchr(at, ':') : NULL;
	if (!colon)
		return false;
	size_t n = (size_t)(colon - at - 1);
	*slot_r = atoi(p + 1);
	*port_r = atoi(colon + 1);
	if (n >= 256 || *slot_r < 0 || *slot_r >= REDIS_SLOTS || *port_r < 1 || *port_r > 65535)
		return false;
	snprintf(host, 256, "%.*s", n ? (int)n : 255, n ? at + 1 : same_host);
	return true;
}

struct asking {
	struct redis_call asking;
	struct buf wire;
};

static void on_asking(struct redis_call *c, enum redis_fate fate, struct redis_reply **reply)
{
	struct asking *a = c->arg;
	(void)fate, (void)reply;
	buf_free(&a->wire);
	free(a);
}

static bool send_to(struct redis *r, struct redis_node *node, struct redis_call *c, bool ask)
{
	struct redis_link *l = redis_node_pick(r, node);
	if (!l)
		return false;
	if (!ask)
		return redis_link_send(l, &c, 1);
	struct asking *a = util_zalloc(sizeof(*a));
	redis_wire(&a->wire, "ASKING", NULL);
	a->asking = (struct redis_call){.wire = {a->wire.p, a->wire.len}, .slot = -1, .done = on_asking, .arg = a};
	struct redis_call *v[2] = {&a->asking, c};
	bool ok = redis_link_send(l, v, 2);
	if (!ok)
		on_asking(&a->asking, REDIS_UNSENT, NULL);
	return ok;
}

bool redis_cluster_redirect(struct redis *r, struct redis_link *l, struct redis_call *c,
			    const struct redis_reply *error)
{
	bool moved = redis_reply_fails(error, "MOVED"), ask = redis_reply_fails(error, "ASK");
	char host[256], same[256] = "";
	int slot, port;
	unsigned index;
	if (moved || redis_reply_fails(error, "CLUSTERDOWN"))
		redis_servers_ask(r);
	redis_link_host(l, same, sizeof(same));
	if (!(moved || ask) || c->redirected >= REDIRECTS_MAX || !read_address(error, same, &slot, host, &port))
		return false;
	c->redirected++;
	pthread_rwlock_wrlock(&r->lock);
	struct redis_node *node = redis_node_at(r, host, port, &index);
	if (node && moved)
		r->owner[slot] = (uint8_t)(index + 1);
	pthread_rwlock_unlock(&r->lock);
	return node && send_to(r, node, c, ask);
}
