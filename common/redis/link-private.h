/* The inside of a connection: link.c connects, greets and gives up, pipe.c sends and takes answers, talk.c does
 * both for a thread that waits. */
#ifndef ORC_REDIS_LINK_PRIVATE_H
#define ORC_REDIS_LINK_PRIVATE_H
#include <event2/event.h>
#include <pthread.h>
#include <stdatomic.h>

#include "redis/link.h"
#include "redis/names.h"

#define GREETINGS_MAX 5

enum link_state { LINK_WAITING, LINK_RESOLVING, LINK_CONNECTING, LINK_GREETING, LINK_READY, LINK_CLOSED };

struct redis_link {
	struct redis_link_conf conf;
	char *host;
	int port;
	/* the loop's */
	struct event *io, *timer, *bell;
	short io_events;
	int efd;
	struct names_query *query;
	struct names_address addresses[NAMES_MAX];
	size_t n, at, tried;
	unsigned failures; /* connections in a row that did not come about */
	uint64_t session, random;
	struct redis_reader *reader;
	int64_t heard_us, ping_us; /* ping_us: sent and not answered; 0: none is */
	struct buf hello;
	struct redis_call greeting[GREETINGS_MAX];
	enum greeting { GREET_AUTH, GREET_NAME, GREET_DB, GREET_ROLE, GREET_CHANNEL } greeting_is[GREETINGS_MAX];
	unsigned greetings;
	int64_t ready_us;
	/* under the lock */
	pthread_mutex_t lock;
	enum link_state state; /* written by the loop only */
	int fd;
	struct buf out; /* what the socket did not take yet */
	size_t out_at;
	struct redis_call **sent; /* circular */
	unsigned sent_head, sent_len, sent_cap;
	bool watched; /* the loop looks at the clock */
	int failed;   /* errno of a sender, or of who talked */
	bool leased;  /* a thread talks: fd and reader are its own; the socket is shut down, not closed, by others */
	bool wanted;  /* somebody has wished to talk: a `direct` one is connected from then on */
	bool refused; /* the server does not let us in */
	char error[320];
};

/* pipe.c */
/* Everything that waits for an answer: done() for each, REDIS_LOST. The connection is closed already. */
void redis_pipe_lose(struct redis_call **v, unsigned head, unsigned n, unsigned cap);
/* Under the lock: as much as the socket takes. */
void redis_pipe_push(struct redis_link *l);
/* Under the lock. False: too much is under way. */
bool redis_pipe_add(struct redis_link *l, struct redis_call *const *v, size_t n, unsigned most);
/* What has come. It may find the connection given up behind it. */
void redis_pipe_read(struct redis_link *l);
/* Under the lock: does anything wait for an answer, and since when? */
int64_t redis_pipe_since(const struct redis_link *l);

/* link.c */
void redis_link_ring(struct redis_link *l);
void redis_link_say(struct redis_link *l, const char *fmt, ...) printf_like(2, 3);
#endif
