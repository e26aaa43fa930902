/* /v1/admin: commands that the supervisor carries out, and its status. */
#include <errno.h>

#include "api.h"
#include "handlers.h"

static void on_answer(void *arg, int status, struct span json)
{
	struct call *c = arg;
	c->reply.status = status ? 409 : 200;
	buf_add(&c->reply.body, json.p, json.len);
	call_reply(c);
}

static void relay(struct call *c, const char *command)
{
	if (worker_command(c->api->w, command, on_answer, c) == 0)
		return;
	problem(c, 503, "supervisor-busy", "the supervisor takes no commands at the moment (%s); try again",
		errno == EAGAIN ? "its queue is full" : "it is gone");
	call_reply(c);
}

void admin_status(struct call *c) { relay(c, "status"); }
void admin_reload(struct call *c) { relay(c, "reload"); }
void admin_drain(struct call *c) { relay(c, "drain"); }
