/* One connection to a Redis server. Any thread sends, straight into the socket; the loop connects, reads, and gives up.
 * Nothing waits for a connection: what cannot be sent now is refused now. Commands are answered in the order in which
 * they were sent. */
#ifndef ORC_REDIS_LINK_H
#define ORC_REDIS_LINK_H
#include "redis/reply.h"

struct event_base;

enum redis_fate {
	REDIS_ANSWERED, /* the reply says */
	REDIS_UNSENT,	/* no server has seen it: not connected, or too much is under way */
	REDIS_LOST,	/* the connection broke behind it */
};
struct redis_call {
	struct span wire; /* the command as it is sent (redis_wire()); the caller's until done() */
	int slot;	  /* of its key in a cluster; -1: whichever node */
	/* Exactly once, on the loop's thread, or on the sender's before the send returns (REDIS_UNSENT). *reply is freed behind
	 * it unless done() takes it and sets it to NULL; it is NULL unless REDIS_ANSWERED. */
	void (*done)(struct redis_call *c, enum redis_fate fate, struct redis_reply **reply);
	void *arg;
	/* the client's own, until done() */
	int64_t at_us;
	uint8_t redirected;
};
/* Appends a command. A NULL argument ends the list; redis_wire_n() takes spans. */
void redis_wire(struct buf *b, const char *first, ...) __attribute__((sentinel));
void redis_wire_n(struct buf *b, const struct span *v, size_t n);

struct redis_link;
struct redis_link_conf {
	struct event_base *loop;
	const char *user, *password, *name; /* "": none. Of CLIENT SETNAME */
	int db;
	bool master_only;	    /* ROLE must say master, or it is not used */
	bool lenient;		    /* that it does not know our password does not matter, if it lets us in */
	const char *channel;	    /* it subscribes to this, and pushed() gets what comes; nothing else may be sent */
	bool direct;		    /* for redis_link_talk() only, whose first call has it connected */
	int64_t connect_timeout_us; /* until it may be used, name resolution included */
	int64_t silence_us;	    /* an answer, or a part of one, takes no longer; then the connection is given up */
	unsigned in_flight;	    /* commands without an answer */
	size_t reply_max;	    /* bytes */
	/* All on the loop's thread, and all may be NULL but `pushed` with a channel. */
	void (*changed)(void *arg, struct redis_link *l, bool ready);
	void (*lost)(void *arg, struct redis_link *l); /* or not come about; it may be moved in here */
	void (*pushed)(void *arg, struct redis_reply *message);
	/* An error for c. True: c has been sent elsewhere. */
	bool (*redirect)(void *arg, struct redis_link *l, struct redis_call *c, const struct redis_reply *error);
	void *arg;
};
/* The loop's thread. Connects at once (unless it is `direct`), and again whenever it is lost, after a random time that grows. The strings of
 * conf live as long as the link does; host is copied. */
struct redis_link *must_check redis_link_new(const struct redis_link_conf *conf, const char *host, int port);
void redis_link_free(struct redis_link **l);
/* The loop's thread: from now on that server; what is under way is lost. The same one: nothing happens. */
void redis_link_move(struct redis_link *l, const char *host, int port);
void redis_link_host(const struct redis_link *l, char *host, size_t cap); /* the loop's thread */
bool redis_link_is(const struct redis_link *l, const char *host, int port);
/* The loop's thread. Given up, and made anew. */
void redis_link_drop(struct redis_link *l, const char *why);
/* The loop's thread: for good. */
void redis_link_close(struct redis_link *l);
/* Any thread: all of them, in this order, or none, and false: then no done() is called. */
bool must_check redis_link_send(struct redis_link *l, struct redis_call *const *v, size_t n);
enum redis_talk {
	TALK_NONE,   /* not connected, or another thread has it; nothing was sent */
	TALK_DONE,   /* everything is answered */
	TALK_LATE,   /* not in time */
	TALK_BROKEN, /* the connection broke */
};
/* Any thread but the loop's, on a `direct` connection: sends n commands and reads their answers itself, which spares both
 * the way over the loop. got() has each reply in its order, and may take it (link.h's done()). What was not answered by
 * deadline_us (clock_mono_us()) costs the connection. */
enum redis_talk must_check redis_link_talk(struct redis_link *l, struct span wire, size_t n, int64_t deadline_us,
					   void (*got)(void *arg, size_t i, struct redis_reply **reply), void *arg);
bool redis_link_ready(struct redis_link *l); /* any thread */
unsigned redis_link_load(struct redis_link *l);
/* Any thread: what went wrong last, "" if nothing did. True: the server does not let us in as redis.url says, which no
 * waiting mends. */
bool redis_link_error(struct redis_link *l, char *text, size_t cap);
#endif
