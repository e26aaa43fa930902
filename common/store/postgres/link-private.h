/* The inside of a connection: hosts.c finds addresses, link.c connects and gives up, pipe.c sends and takes answers. */
#ifndef ORC_LINK_PRIVATE_H
#define ORC_LINK_PRIVATE_H
#include <event2/event.h>
#include <pthread.h>
#include <stdatomic.h>

#include "link.h"

/* ---- hosts.c ---- */

struct pg_target {
	char *host, *hostaddr, *port; /* NULL: as libpq has it */
};
struct pg_targets {
	struct pg_target *v;
	size_t n;
	char *error; /* of names that were not found */
};
struct pg_resolving; /* a thread that asks the name service, because libpq would block the loop */
struct pg_resolving *must_check pg_resolve_start(const char *dsn, int efd);
/* True when it is over: *t_r is the caller's. */
bool pg_resolve_take(struct pg_resolving *r, struct pg_targets *t_r);
void pg_resolve_forget(struct pg_resolving **r); /* it may go on for itself */
void pg_targets_free(struct pg_targets *t);

/* ---- the connection ---- */

enum link_state { LINK_IDLE, LINK_RESOLVING, LINK_CONNECTING, LINK_READY };

/* What was sent and is not answered. */
struct sent {
	enum { SENT_PREPARE, SENT_QUERY, SENT_SYNC } what;
	struct pg_request *r; /* SENT_SYNC: NULL */
	int64_t at_us;
};

struct pg_link {
	struct event_base *loop;
	pthread_t thread;
	char *dsn, *application, *setup;
	struct pg_request setup_request;
	struct pg_link_conf conf;
	enum link_state state;
	PGconn *c;
	struct event *io, *timer, *bell;
	short io_events;
	int efd;
	struct pg_resolving *resolving;
	struct pg_targets targets;
	size_t target, tried;
	uint64_t prepared[PG_PREPARED_MAX / 64];
	/* loop's */
	struct pg_request *queue, **queue_end; /* not sent */
	struct sent *sent;		       /* circular */
	size_t sent_head, sent_len, sent_cap;
	int64_t heard_us; /* the server answered something, or took something of what is sent */
	unsigned unflushed;
	unsigned blocked;	 /* requests since the socket took everything */
	PGresult *prepare_error; /* of the statement that the next answer belongs to */
	bool draining;
	bool got_result; /* of the request at the head */
	bool pumping;
	_Atomic uint64_t session;
	/* under the lock */
	pthread_mutex_t lock;
	struct pg_request *inbox, **inbox_end;
	struct pg_link_setting set;
	bool closed;
	char error[400];
};

/* pipe.c */
void pg_pipe_pump(struct pg_link *l);	  /* sends what is queued, as far as it goes */
bool pg_pipe_read(struct pg_link *l);	  /* takes answers; false: the connection is broken */
void pg_pipe_fail_all(struct pg_link *l); /* everything under way and queued is done */
bool pg_pipe_idle(const struct pg_link *l);

/* link.c */
void pg_link_say(struct pg_link *l, const char *fmt, ...) printf_like(2, 3);
void pg_link_watch(struct pg_link *l, short events);
#endif
