/* /v1/admin: commands that the supervisor carries out, and its status. */
#include "api.h"
#include "handlers.h"
#include "overload.h"

static void on_answer(void *arg, int status, struct span json)
{
	struct call *c = arg;
	c->reply.status = status ? 409 : 200;
	buf_add(&c->reply.body, json.p, json.len);
	call_reply(c);
}

static void on_value(void *arg, int status, struct span json)
{
	struct call *c = arg;
	if (status) {
		problem(c, 404, "not-found", "there is no configuration key \"%s\"; see docs/configuration.md",
			c->name);
		call_reply(c);
		return;
	}
	on_answer(arg, status, json);
}

void admin_config(struct call *c)
{
	struct buf line = {0};
	buf_printf(&line, "config get %s", c->name);
	buf_addc(&line, '\0');
	who_relay(c, line.p, on_value);
	buf_free(&line);
}

/* The supervisor knows its processes; how far the store is behind it does not: it maps none of the data. */
static void on_status(void *arg, int status, struct span json)
{
	struct call *c = arg;
	c->reply.status = status ? 409 : 200;
	buf_add(&c->reply.body, json.p, json.len);
	if (!status && json.len > 2 && json.p[json.len - 1] == '}') {
		c->reply.body.len--;
		buf_addc(&c->reply.body, ',');
		probes_lag(c->api->plant, &c->reply.body);
		buf_addc(&c->reply.body, ',');
		overload_status(c->api->plant, &c->reply.body);
		buf_addc(&c->reply.body, '}');
	}
	call_reply(c);
}

void admin_status(struct call *c) { who_relay(c, "status", on_status); }
void admin_reload(struct call *c) { who_relay(c, "reload", on_answer); }
void admin_upgrade(struct call *c) { who_relay(c, "upgrade", on_answer); }
void admin_drain(struct call *c) { who_relay(c, "drain", on_answer); }
