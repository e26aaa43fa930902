/* Which servers there are, and the connections to them. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "clock.h"
#include "redis/redis-private.h"

#define ASK_SENTINEL_US 1000000
#define ASK_CLUSTER_US 15000000
#define ASK_PAUSE_US 100000 /* between two questions */

void redis_say(struct redis *r, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	pthread_mutex_lock(&r->error_lock);
	vsnprintf(r->error, sizeof(r->error), fmt, ap);
	pthread_mutex_unlock(&r->error_lock);
	va_end(ap);
}

/* ---- connections ---- */

/* A server is gone: the others may know who takes its place. */
static void on_lost(void *arg, struct redis_link *l)
{
	(void)l;
	redis_servers_ask(arg);
}

static void on_changed(void *arg, struct redis_link *l, bool ready)
{
	struct redis *r = arg;
	(void)l;
	if (ready && r->url->kind == REDIS_CLUSTER)
		redis_servers_ask(r);
}

static bool on_error(void *arg, struct redis_link *l, struct redis_call *c, const struct redis_reply *error)
{
	struct redis *r = arg;
	if (r->url->kind == REDIS_CLUSTER)
		return redis_cluster_redirect(r, l, c, error);
	if (r->url->kind == REDIS_SENTINEL && redis_reply_fails(error, "READONLY"))
		redis_link_drop(l, "it is not the master any more");
	return false;
}

void redis_link_conf_of(struct redis *r, struct redis_link_conf *conf)
{
	*conf = (struct redis_link_conf){.loop = r->conf.loop,
					 .user = r->url->user,
					 .password = r->url->password,
					 .name = r->name,
					 .db = r->url->db,
					 .master_only = r->url->kind == REDIS_SENTINEL,
					 .connect_timeout_us = r->conf.connect_timeout_us,
					 .silence_us = r->conf.silence_us,
					 .in_flight = r->conf.in_flight,
					 .reply_max = r->conf.reply_max,
					 .lost = on_lost,
					 .arg = r};
}

static struct redis_node *make_node(struct redis *r, const char *host, int port)
{
	struct redis_node *node = util_zalloc(sizeof(*node));
	struct redis_link_conf conf;
	redis_link_conf_of(r, &conf);
	conf.changed = on_changed;
	conf.redirect = on_error;
	node->host = util_strndup(host, strlen(host));
	node->port = port;
	node->serves = true;
	for (unsigned i = 0; i < r->shared; i++)
		node->links[i] = redis_link_new(&conf, host, port);
	conf.direct = true;
	for (unsigned i = 0; i < r->direct; i++)
		node->direct[i] = redis_link_new(&conf, host, port);
	return node;
}

struct redis_node *redis_node_at(struct redis *r, const char *host, int port, unsigned *index_r)
{
	for (unsigned i = 0; i < r->n; i++)
		if (r->nodes[i]->port == port && strcmp(r->nodes[i]->host, host) == 0) {
			*index_r = i;
			return r->nodes[i];
		}
	if (r->n == REDIS_NODES_MAX)
		return NULL;
	r->nodes[r->n] = make_node(r, host, port);
	*index_r = r->n;
	return r->nodes[r->n++];
}

static void free_node(struct redis_node *node)
{
	for (unsigned i = 0; i < REDIS_CONNECTIONS_MAX; i++) {
		redis_link_free(&node->links[i]);
		redis_link_free(&node->direct[i]);
	}
	free(node->host);
	free(node);
}

/* Their connections may be what told us so: they end when the loop has come back. */
void redis_nodes_retire(struct redis *r)
{
	unsigned kept = 0;
	for (unsigned i = 0; i < r->n; i++) {
		struct redis_node *node = r->nodes[i];
		if (node->serves) {
			r->nodes[kept++] = node;
			continue;
		}
		node->next = r->retired;
		r->retired = node;
	}
	r->n = kept;
}

struct redis_link *redis_node_pick(struct redis *r, struct redis_node *node)
{
	struct redis_link *best = NULL;
	unsigned n = r->shared, least = 0;
	unsigned turn = atomic_fetch_add_explicit(&r->turn, 1, memory_order_relaxed);
	for (unsigned i = 0; i < n; i++) {
		struct redis_link *l = node->links[(turn + i) % n];
		unsigned load = redis_link_load(l);
		if (redis_link_ready(l) && (!best || load < least)) {
			best = l;
			least = load;
		}
		if (best && !least)
			break;
	}
	return best;
}

/* ---- for any server ---- */

void redis_servers_rove(struct redis *r, const char *host, int port)
{
	for (unsigned i = 0; i < r->conf.connections[REDIS_NOTICES]; i++)
		if (r->notices[i])
			redis_link_move(r->notices[i], host, port);
	if (r->listener)
		redis_link_move(r->listener, host, port);
}

static void on_roving_lost(void *arg, struct redis_link *l)
{
	struct redis *r = arg;
	if (r->url->kind == REDIS_CLUSTER && r->n) {
		const struct redis_node *node = r->nodes[++r->roving % r->n];
		redis_link_move(l, node->host, node->port);
	}
	redis_servers_ask(r);
}

static void on_listening(void *arg, struct redis_link *l, bool ready)
{
	struct redis *r = arg;
	(void)l;
	r->gap(r->listen_arg, ready);
}

static void on_pushed(void *arg, struct redis_reply *message)
{
	struct redis *r = arg;
	if (message->type == REPLY_ARRAY && message->n == 3 && redis_reply_is(&message->v[0], "message") &&
	    message->v[2].type == REPLY_STRING)
		r->pushed(r->listen_arg, &message->v[2]);
}

static void open_roving(struct redis *r, const char *host, int port)
{
	struct redis_link_conf conf;
	redis_link_conf_of(r, &conf);
	conf.lost = on_roving_lost;
	for (unsigned i = 0; i < r->conf.connections[REDIS_NOTICES]; i++)
		if (!r->notices[i])
			r->notices[i] = redis_link_new(&conf, host, port);
	if (r->channel && !r->listener) {
		conf.channel = r->channel;
		conf.changed = on_listening;
		conf.pushed = on_pushed;
		r->listener = redis_link_new(&conf, host, port);
	}
}

void redis_listen(struct redis *r, const char *channel, void (*pushed)(void *arg, struct redis_reply *message),
		  void (*gap)(void *arg, bool connected), void *arg)
{
	AN(!r->channel);
	r->channel = util_strndup(channel, strlen(channel));
	r->pushed = pushed;
	r->gap = gap;
	r->listen_arg = arg;
	if (r->n && !r->closed)
		open_roving(r, r->nodes[0]->host, r->nodes[0]->port);
}

/* ---- who serves ---- */

static void set_timer(struct redis *r, int64_t us)
{
	struct timeval t = {us / 1000000, us % 1000000};
	event_add(r->timer, &t);
}

void redis_servers_ask(struct redis *r)
{
	if (r->url->kind == REDIS_SINGLE || r->closed)
		return;
	int64_t in = r->asked_us ? r->asked_us + ASK_PAUSE_US - clock_mono_us() : 0;
	set_timer(r, in > 0 ? in : 0);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct redis *r = arg;
	bool cluster = r->url->kind == REDIS_CLUSTER;
	(void)fd, (void)what;
	while (r->retired) {
		struct redis_node *node = r->retired;
		r->retired = node->next;
		free_node(node);
	}
	if (r->closed)
		return;
	if (r->n) /* the first answer of a sentinel makes the node that these follow */
		open_roving(r, r->nodes[0]->host, r->nodes[0]->port);
	bool asked = r->asking || (cluster ? redis_cluster_ask : redis_sentinel_ask)(r);
	if (asked)
		r->asked_us = clock_mono_us();
	/* Where nobody is there to be asked, the first who comes asks again. */
	set_timer(r, asked && cluster ? ASK_CLUSTER_US : ASK_SENTINEL_US);
}

void redis_servers_open(struct redis *r)
{
	unsigned index;
	r->timer = event_new(r->conf.loop, -1, 0, on_timer, r);
	if (r->url->kind == REDIS_SENTINEL) {
		redis_sentinel_open(r);
	} else {
		for (size_t i = 0; i < r->url->n; i++)
			(void)redis_node_at(r, r->url->hosts[i].host, r->url->hosts[i].port, &index);
		open_roving(r, r->nodes[0]->host, r->nodes[0]->port);
	}
	if (r->url->kind != REDIS_SINGLE)
		set_timer(r, ASK_PAUSE_US);
}

static void close_node(struct redis_node *node)
{
	for (unsigned i = 0; i < REDIS_CONNECTIONS_MAX; i++) {
		if (node->links[i])
			redis_link_close(node->links[i]);
		if (node->direct[i])
			redis_link_close(node->direct[i]);
	}
}

void redis_servers_close(struct redis *r)
{
	event_del(r->timer);
	for (unsigned i = 0; i < r->n; i++)
		close_node(r->nodes[i]);
	for (struct redis_node *node = r->retired; node; node = node->next)
		close_node(node);
	for (unsigned i = 0; i < REDIS_CONNECTIONS_MAX; i++)
		if (r->notices[i])
			redis_link_close(r->notices[i]);
	if (r->listener)
		redis_link_close(r->listener);
	if (r->sentinel)
		redis_link_close(r->sentinel);
}

static void free_nodes(struct redis *r)
{
	for (unsigned i = 0; i < r->n; i++)
		r->nodes[i]->serves = false;
	redis_nodes_retire(r);
	while (r->retired) {
		struct redis_node *node = r->retired;
		r->retired = node->next;
		free_node(node);
	}
}

void redis_free(struct redis **rp)
{
	struct redis *r = *rp;
	if (!r)
		return;
	redis_close(r);
	free_nodes(r);
	for (unsigned i = 0; i < REDIS_CONNECTIONS_MAX; i++)
		redis_link_free(&r->notices[i]);
	redis_link_free(&r->listener);
	redis_link_free(&r->sentinel);
	event_free(r->timer);
	pthread_rwlock_destroy(&r->lock);
	pthread_mutex_destroy(&r->error_lock);
	redis_url_free(&r->url);
	buf_free(&r->question_wire);
	free(r->owner);
	free(r->channel);
	free(r->name);
	free(r);
	*rp = NULL;
}
