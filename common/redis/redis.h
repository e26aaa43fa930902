/* Redis as a whole: one server, the master that sentinels name, or a cluster; pools of connections to it, by purpose.
 *
 * redis_send() is for any thread, and never waits. What one loses with a broken connection, or when nobody is
 * connected, is told by done(). */
#ifndef ORC_REDIS_H
#define ORC_REDIS_H
#include "redis/link.h"
#include "redis/url.h"

/* Whoever is slow or much in one does not hold up the others. */
enum redis_purpose {
	REDIS_CACHE,   /* to the server that has the key */
	REDIS_NOTICES, /* to any server */
	REDIS_PURPOSES
};
#define REDIS_CONNECTIONS_MAX 16
#define REDIS_BATCH_MAX 256
#define REDIS_NODES_MAX 128
#define REDIS_SLOTS 16384

struct redis_conf {
	struct event_base *loop;
	const char *name;			/* CLIENT SETNAME; of visible characters */
	unsigned connections[REDIS_PURPOSES];	/* for each server of REDIS_CACHE; 1 to REDIS_CONNECTIONS_MAX */
	int64_t connect_timeout_us, silence_us; /* link.h */
	unsigned in_flight;			/* for each connection */
	size_t reply_max;
};
struct redis;
/* The loop's thread. The url is the client's from now on. */
struct redis *must_check redis_open(struct redis_url **url, const struct redis_conf *conf);
/* The loop's thread: what is under way is lost, and nothing can be sent any more. */
void redis_close(struct redis *r);
void redis_free(struct redis **r);

/* Any thread; n up to REDIS_BATCH_MAX. Returns how many are on their way; for the others done(REDIS_UNSENT) has been
 * called. In a cluster, each goes to the node of its slot, and follows MOVED and ASK. */
size_t redis_send(struct redis *r, enum redis_purpose p, struct redis_call *const *v, size_t n);
/* Any thread but the loop's: sends n commands and reads the answers itself (redis_link_talk()), where a connection for that is
 * free. TALK_NONE: nothing was sent; redis_send() is the other way. */
enum redis_talk must_check redis_talk(struct redis *r, struct span wire, size_t n, int64_t deadline_us,
				      void (*got)(void *arg, size_t i, struct redis_reply **reply), void *arg);
/* Like redis_send(), to one of the masters, by a number below redis_masters(), which may change at any time. All or none; false: no
 * done() is called. */
unsigned redis_masters(struct redis *r);
bool must_check redis_send_master(struct redis *r, unsigned i, struct redis_call *const *v, size_t n);
/* Once, the loop's thread: a subscription on a connection of its own. `gap` is told when it comes and goes. */
void redis_listen(struct redis *r, const char *channel, void (*pushed)(void *arg, struct redis_reply *message),
		  void (*gap)(void *arg, bool connected), void *arg);
bool redis_is_cluster(const struct redis *r);
/* Any thread: can anything be sent at all? */
bool redis_ready(struct redis *r);
/* Any thread: what went wrong last, "" if nothing did. True: we are not let in, or redis.url is otherwise wrong. */
bool redis_error(struct redis *r, char *text, size_t cap);

/* The slot of a key in a cluster: CRC16 of what its first braces hold, else of all of it. */
int redis_slot(const char *key, size_t n);
#endif
