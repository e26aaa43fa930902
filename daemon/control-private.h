/* Commands and their answers, for control.c (how they come and go) and control_commands.c (what they do). */
#ifndef ORC_CONTROL_PRIVATE_H
#define ORC_CONTROL_PRIVATE_H
#include <event2/bufferevent.h>

#include "supervisor.h"

struct client {
	struct control *control;
	struct bufferevent *bev;
	struct reply *waiting; /* one command at a time; NULL = none under way */
	bool eof;	       /* the peer has said all; it may still read */
	bool follows;	       /* the request log */
	struct client *next;
	char who[48];
};

struct control {
	struct supervisor *sv;
	struct evconnlistener *listener;
	struct client *clients;
	unsigned nclients;
	struct reply *asked; /* workers were asked and have not answered */
	uint32_t last_ticket;
};

/* Where an answer goes: a client, or a worker's request. Exactly one of both; neither when it has
 * gone meanwhile. */
struct reply {
	struct reply *next; /* in a list of those who wait */
	struct client *client;
	struct child *child;
	uint64_t incarnation;
	uint32_t token;
	uint32_t ticket; /* in control->asked: of what a worker in slot `of` was asked */
	unsigned of;
	char who[96]; /* for the audit log */
};

/* control.c: the clients that follow the request log have become more, or fewer. */
void control_followers(struct control *control);

/* control_commands.c: a command, as it was given; takes r over. */
void control_run(struct supervisor *sv, struct span line, struct reply *r);

/* control.c: handed on to a worker of this image, whose answer is the answer; takes r over. */
void control_ask(struct supervisor *sv, unsigned slot, struct span text, struct reply *r);

#endif
