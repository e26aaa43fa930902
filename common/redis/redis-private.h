/* The inside of the client: redis.c sends, servers.c knows who there is, sentinel.c asks who is master, cluster.c follows a
 * cluster. */
#ifndef ORC_REDIS_PRIVATE_H
#define ORC_REDIS_PRIVATE_H
#include <event2/event.h>
#include <pthread.h>
#include <stdatomic.h>

#include "redis/redis.h"

struct redis_node {
	char *host;
	int port;
	bool serves; /* slots, as far as we know */
	struct redis_link *links[REDIS_CONNECTIONS_MAX];
	struct redis_link
		*direct[REDIS_CONNECTIONS_MAX]; /* for threads that wait; none in a cluster, where the loop has to
							    * follow redirections */
	struct redis_node *next;		/* retired ones */
};

struct redis {
	struct redis_conf conf;
	struct redis_url *url;
	char *name;
	unsigned shared, direct; /* connections to each node */
	bool closed;
	/* The loop changes it under the lock; other threads read, and send, under the lock. */
	pthread_rwlock_t lock;
	struct redis_node *nodes[REDIS_NODES_MAX];
	unsigned n;
	uint8_t *owner; /* of each slot: 1 + the index of its node; 0: nobody we know. Of a cluster only */
	struct redis_link *notices[REDIS_CONNECTIONS_MAX];
	/* the loop's */
	struct redis_link *listener;
	char *channel;
	void (*pushed)(void *arg, struct redis_reply *message);
	void (*gap)(void *arg, bool connected);
	void *listen_arg;
	struct redis_node *retired;
	struct event *timer;
	int64_t asked_us; /* whoever knows the servers, last */
	bool asking;
	struct redis_call question;
	struct buf question_wire;
	struct redis_link *sentinel;
	size_t sentinel_at;
	unsigned roving;
	_Atomic unsigned turn;
	pthread_mutex_t error_lock;
	char error[256]; /* of what is no connection's */
};

/* servers.c */
void redis_servers_open(struct redis *r);
void redis_servers_close(struct redis *r);
/* The node at that address: the one there is, or one made now. NULL: there are too many. */
struct redis_node *redis_node_at(struct redis *r, const char *host, int port, unsigned *index_r);
/* Those that do not serve are given up. */
void redis_nodes_retire(struct redis *r);
/* All that is for any server goes there. */
void redis_servers_rove(struct redis *r, const char *host, int port);
/* Somebody has to be asked who serves: soon, but not too often. */
void redis_servers_ask(struct redis *r);
void redis_say(struct redis *r, const char *fmt, ...) printf_like(2, 3);
/* A connected link of the node, the one with the least under way; NULL: none. Under the lock. */
struct redis_link *redis_node_pick(struct redis *r, struct redis_node *node);
void redis_link_conf_of(struct redis *r, struct redis_link_conf *conf_r);

/* sentinel.c: who is the master? False: nobody can be asked now. */
void redis_sentinel_open(struct redis *r);
bool redis_sentinel_ask(struct redis *r);
/* cluster.c */
bool redis_cluster_ask(struct redis *r);
bool redis_cluster_redirect(struct redis *r, struct redis_link *l, struct redis_call *c,
			    const struct redis_reply *error);
#endif
