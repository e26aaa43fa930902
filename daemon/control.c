/* Commands for the supervisor: from PATH.ctl (a line each, answered by a line of JSON) and relayed by
 * workers (CTL_COMMAND). Both end in the same table. PATH.ctl works when no api worker lives; its
 * mode 0600 is its authorisation. */
#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/listener.h>
#include <jansson.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "imsg.h"
#include "log.h"
#include "supervisor.h"

#define CLIENTS_MAX 64
#define LINE_MAX_BYTES 1024
#define CLIENT_IDLE_S 60

struct client {
	struct control *control;
	struct bufferevent *bev;
	struct reply *waiting; /* one command at a time; NULL = none under way */
	bool eof;	       /* the peer has said all; it may still read */
	struct client *next;
};

struct control {
	struct supervisor *sv;
	struct evconnlistener *listener;
	struct client *clients;
	unsigned nclients;
};

/* Where an answer goes: a client, or a worker's request. Exactly one of both; neither when it has
 * gone meanwhile. */
struct reply {
	struct client *client;
	struct child *child;
	uint64_t incarnation;
	uint32_t token;
};

/* ---- commands ---- */

static void command_status(struct supervisor *sv, struct span rest, struct reply *r)
{
	(void)rest;
	char *json = status_json(sv);
	control_reply(&r, true, json);
	free(json);
}

static void command_reload(struct supervisor *sv, struct span rest, struct reply *r)
{
	(void)rest;
	reload_start(sv, r);
}

static void command_drain(struct supervisor *sv, struct span rest, struct reply *r)
{
	(void)rest;
	control_reply(&r, true, "{\"ok\":true,\"state\":\"draining\"}");
	drain_start(sv, "told so by a command");
}

static void command_reopen(struct supervisor *sv, struct span rest, struct reply *r)
{
	(void)rest;
	supervisor_reopen_logs(sv);
	control_reply(&r, true, "{\"ok\":true}");
}

static void command_config(struct supervisor *sv, struct span rest, struct reply *r)
{
	int key = conf_find(rest.p, rest.len);
	if (key == -1) {
		control_reply(&r, false, "{\"ok\":false,\"error\":\"there is no such key\"}");
		return;
	}
	char *value = conf_text(sv->conf, (enum conf_key)key);
	json_t *o = json_pack("{s:b s:s s:s s:s}", "ok", 1, "key", conf_key_name((enum conf_key)key), "value",
			      reload_is_secret((enum conf_key)key) ? "(secret)" : value, "source",
			      conf_source(sv->conf, (enum conf_key)key));
	char *json = o ? json_dumps(o, JSON_COMPACT) : NULL;
	control_reply(&r, json != NULL, json ? json : "{\"ok\":false,\"error\":\"no UTF-8\"}");
	free(json);
	json_decref(o);
	free(value);
}

/* clang-format off */
static const struct command {
	const char *name; /* one that ends with a blank takes an argument */
	void (*run)(struct supervisor *sv, struct span rest, struct reply *r); /* takes r over */
} commands[] = {
	{"config get ", command_config},
	{"status", command_status},
	{"reload", command_reload},
	{"drain", command_drain},
	{"stop", command_drain},
	{"reopen-logs", command_reopen},
};
/* clang-format on */

static void run(struct supervisor *sv, struct span line, struct reply *r)
{
	while (line.len && (line.p[line.len - 1] == ' ' || line.p[line.len - 1] == '\r'))
		line.len--;
	for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
		struct span name = SPAN(commands[i].name), rest = {line.p + name.len, 0};
		if (line.len < name.len || memcmp(line.p, name.p, name.len) != 0)
			continue;
		rest.len = line.len - name.len;
		if ((rest.len == 0) == (name.p[name.len - 1] == ' '))
			continue;
		commands[i].run(sv, rest, r);
		return;
	}
	control_reply(&r, false,
		      "{\"ok\":false,\"error\":\"unknown command; there are status, reload, "
		      "drain, stop, reopen-logs, config get KEY\"}");
}

/* ---- answers ---- */

static void client_free(struct client *c)
{
	struct control *control = c->control;
	for (struct client **p = &control->clients; *p; p = &(*p)->next) {
		if (*p == c) {
			*p = c->next;
			break;
		}
	}
	control->nclients--;
	if (c->waiting)
		c->waiting->client = NULL;
	bufferevent_free(c->bev);
	free(c);
}

static void answer_child(const struct reply *r, bool ok, const char *json)
{
	int32_t status = ok ? 0 : 1;
	struct buf b = {0};
	if (r->child->incarnation != r->incarnation || !child_alive(r->child))
		return;
	buf_add(&b, &r->token, sizeof(r->token));
	buf_add(&b, &status, sizeof(status));
	buf_adds(&b, json);
	if (b.len > IMSG_MAX || !child_send(r->child, CTL_ANSWER, b.p, b.len, -1))
		log_warn("%s does not take its answer", r->child->name);
	buf_free(&b);
}

void control_reply(struct reply **rp, bool ok, const char *json)
{
	struct reply *r = *rp;
	*rp = NULL;
	if (!r)
		return;
	if (r->child) {
		answer_child(r, ok, json);
	} else if (r->client) {
		struct client *c = r->client;
		c->waiting = NULL;
		bufferevent_write(c->bev, json, strlen(json));
		bufferevent_write(c->bev, "\n", 1);
		/* The next line, or EOF, is looked at after the loop is back: no recursion. */
		bufferevent_trigger(c->bev, EV_READ, BEV_TRIG_DEFER_CALLBACKS);
	}
	free(r);
}

/* ---- workers ---- */

void control_command(struct supervisor *sv, struct child *c, const struct span payload)
{
	struct reply *r = util_zalloc(sizeof(*r));
	r->child = c;
	r->incarnation = c->incarnation;
	memcpy(&r->token, payload.p, sizeof(r->token));
	run(sv, (struct span){payload.p + sizeof(r->token), payload.len - sizeof(r->token)}, r);
}

/* ---- clients ---- */

static void on_read(struct bufferevent *bev, void *arg)
{
	struct client *c = arg;
	struct evbuffer *in = bufferevent_get_input(bev);
	size_t len;
	char *line;
	if (c->waiting)
		return;
	line = evbuffer_readln(in, &len, EVBUFFER_EOL_LF);
	if (line) {
		struct reply *r = util_zalloc(sizeof(*r));
		r->client = c;
		c->waiting = r;
		run(c->control->sv, (struct span){line, len}, r);
		free(line);
		return;
	}
	if (evbuffer_get_length(in) > LINE_MAX_BYTES ||
	    (c->eof && evbuffer_get_length(bufferevent_get_output(bev)) == 0))
		client_free(c);
}

static void on_written(struct bufferevent *bev, void *arg) { on_read(bev, arg); }

static void on_event(struct bufferevent *bev, short what, void *arg)
{
	struct client *c = arg;
	if (!(what & BEV_EVENT_EOF)) {
		client_free(c);
		return;
	}
	c->eof = true;
	on_read(bev, c);
}

static void on_accept(struct evconnlistener *l, evutil_socket_t fd, struct sockaddr *sa, int len, void *arg)
{
	static const struct timeval idle = {CLIENT_IDLE_S, 0};
	struct control *control = arg;
	(void)l, (void)sa, (void)len;
	if (control->nclients >= CLIENTS_MAX) {
		close((int)fd);
		return;
	}
	struct client *c = util_zalloc(sizeof(*c));
	c->control = control;
	c->bev = bufferevent_socket_new(control->sv->base, fd, BEV_OPT_CLOSE_ON_FREE);
	AN(c->bev);
	c->next = control->clients;
	control->clients = c;
	control->nclients++;
	bufferevent_setcb(c->bev, on_read, on_written, on_event, c);
	bufferevent_set_timeouts(c->bev, &idle, &idle);
	bufferevent_setwatermark(c->bev, EV_READ, 0, LINE_MAX_BYTES * 2);
	bufferevent_enable(c->bev, EV_READ | EV_WRITE);
}

bool control_open(struct supervisor *sv)
{
	char *error = NULL;
	int fd = listen_unix(sv->ctl_path, 0600, CLIENTS_MAX, &sv->ctl_inode, &error);
	if (fd == -1) {
		log_error("%s", error ? error : "cannot open the control socket");
		free(error);
		return false;
	}
	sv->control = util_zalloc(sizeof(*sv->control));
	sv->control->sv = sv;
	sv->control->listener = evconnlistener_new(sv->base, on_accept, sv->control,
						   LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC, 0, fd);
	AN(sv->control->listener);
	return true;
}

void control_free(struct supervisor *sv)
{
	struct control *control = sv->control;
	if (!control)
		return;
	listen_unlink(sv->ctl_path, sv->ctl_inode);
	evconnlistener_free(control->listener);
	while (control->clients)
		client_free(control->clients);
	free(control);
	sv->control = NULL;
}
