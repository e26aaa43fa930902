/* Commands for the supervisor: from PATH.ctl (a line each, answered by a line of JSON) and relayed by
 * workers (CTL_COMMAND). Both end in the same table (control_commands.c). PATH.ctl works when no api worker lives; its
 * mode 0600 is its authorisation. */
#include <errno.h>
#include <event2/buffer.h>
#include <event2/bufferevent.h>
#include <event2/listener.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "control-private.h"
#include "imsg.h"
#include "log.h"
#include "reqlog.h"
#include "upgrade.h"

#define CLIENTS_MAX 64
#define LINE_MAX_BYTES 49152 /* a value that is tried, and its JSON */
#define CLIENT_IDLE_S 60

const char *control_who(const struct reply *r) { return r->who; }
const struct reply *control_next(const struct reply *r) { return r->next; }

void control_ask(struct supervisor *sv, unsigned slot, struct span text, struct reply *r)
{
	struct control *control = sv->control;
	struct child *c = &sv->child[slot];
	struct buf b = {0};
	r->ticket = ++control->last_ticket;
	r->of = slot;
	buf_add(&b, &r->ticket, sizeof(r->ticket));
	buf_add(&b, text.p, text.len);
	if (c->state == CHILD_READY && !c->former && !upgrade_under_way(sv) && b.len <= IMSG_MAX &&
	    child_send(c, CTL_ASK, b.p, b.len, -1))
		control_wait(&control->asked, r);
	else
		control_reply(&r, false,
			      "{\"ok\":false,\"error\":\"the worker that does this is not ready, or is being "
			      "replaced; try again\"}");
	buf_free(&b);
}

/* ---- answers ---- */

void control_followers(struct control *control)
{
	uint32_t n = 0;
	int fd = control->sv->fd_requests;
	for (const struct client *c = control->clients; c; c = c->next)
		n += c->follows;
	if (fd != -1 && !reqlog_followers(fd, n))
		log_warn("the api workers cannot be told whether somebody follows the request log: %s",
			 strerror(errno));
}

static void client_free(struct client *c)
{
	struct control *control = c->control;
	bool followed = c->follows;
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
	if (followed)
		control_followers(control);
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

/* Straight to the socket: a bufferevent carries no descriptors. Nothing else is on its way to this client, who asks one
 * thing at a time. */
void control_reply_fd(struct reply **rp, const char *json, int fd)
{
	struct reply *r = *rp;
	struct client *c = r->client;
	union {
		char space[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = {.space = {0}};
	struct iovec iov[] = {{(void *)(uintptr_t)json, strlen(json)}, {(void *)(uintptr_t) "\n", 1}};
	struct msghdr m = {.msg_iov = iov,
			   .msg_iovlen = ARRAY_LEN(iov),
			   .msg_control = control.space,
			   .msg_controllen = sizeof(control.space)};
	struct cmsghdr *h = CMSG_FIRSTHDR(&m);
	h->cmsg_level = SOL_SOCKET;
	h->cmsg_type = SCM_RIGHTS;
	h->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(h), &fd, sizeof(fd));
	bool sent = evbuffer_get_length(bufferevent_get_output(c->bev)) == 0 &&
		    sendmsg(bufferevent_getfd(c->bev), &m, MSG_DONTWAIT | MSG_NOSIGNAL) ==
			    (ssize_t)(iov[0].iov_len + iov[1].iov_len);
	if (!sent) {
		control_reply(rp, false, "{\"ok\":false,\"error\":\"busy; try again\"}");
		return;
	}
	c->waiting = NULL;
	bufferevent_trigger(c->bev, EV_READ, BEV_TRIG_DEFER_CALLBACKS);
	free(r);
	*rp = NULL;
}

void control_wait(struct reply **list, struct reply *r)
{
	if (!r)
		return;
	r->next = *list;
	*list = r;
}

void control_reply_all(struct reply **list, bool ok, const char *json)
{
	while (*list) {
		struct reply *r = *list;
		*list = r->next;
		control_reply(&r, ok, json);
	}
}

void control_reply_through(struct reply **list, const struct child *c, bool ok, const char *json)
{
	while (*list) {
		struct reply *r = *list;
		if (r->child != c) {
			list = &r->next;
			continue;
		}
		*list = r->next;
		control_reply(&r, ok, json);
	}
}

/* ---- workers ---- */

bool control_told(struct supervisor *sv, struct child *c, const struct span payload)
{
	uint32_t ticket;
	int32_t status;
	struct buf json = {0};
	if (payload.len < sizeof(ticket) + sizeof(status))
		return false;
	memcpy(&ticket, payload.p, sizeof(ticket));
	memcpy(&status, payload.p + sizeof(ticket), sizeof(status));
	buf_add(&json, payload.p + 8, payload.len - 8);
	buf_addc(&json, '\0');
	for (struct reply **list = &sv->control->asked; *list; list = &(*list)->next) {
		struct reply *r = *list;
		if (r->ticket != ticket || r->of != c->slot)
			continue;
		*list = r->next;
		control_reply(&r, status == 0, json.p);
		break;
	}
	buf_free(&json);
	return true;
}

void control_unasked(struct supervisor *sv, unsigned slot)
{
	struct reply **list = sv->control ? &sv->control->asked : NULL;
	while (list && *list) {
		struct reply *r = *list;
		if (r->of != slot) {
			list = &r->next;
			continue;
		}
		*list = r->next;
		control_reply(&r, false, "{\"ok\":false,\"error\":\"the worker that was asked has gone; try again\"}");
	}
}

void control_command(struct supervisor *sv, struct child *c, const struct span payload)
{
	struct reply *r = util_zalloc(sizeof(*r));
	struct span text = {payload.p + sizeof(r->token), payload.len - sizeof(r->token)};
	/* Behind the last newline: for whom. */
	const char *newline = text.len ? memrchr(text.p, '\n', text.len) : NULL;
	r->child = c;
	r->incarnation = c->incarnation;
	memcpy(&r->token, payload.p, sizeof(r->token));
	snprintf(r->who, sizeof(r->who), "%s", c->name);
	if (newline) {
		size_t len = (size_t)(text.p + text.len - newline) - 1;
		snprintf(r->who, sizeof(r->who), "%.*s", (int)len, newline + 1);
		util_utf8_scrub(r->who, strlen(r->who));
		text.len = (size_t)(newline - text.p);
	}
	control_run(sv, text, r);
}

bool control_tell_api(struct supervisor *sv, const char *text)
{
	for (struct child *c = NULL; (c = child_next(sv, c));) {
		if (!child_is_api(c) || c->state != CHILD_READY || c->former || upgrade_under_way(sv))
			continue;
		control_ask(sv, c->slot, SPAN(text), util_zalloc(sizeof(struct reply)));
		return true;
	}
	return false;
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
		snprintf(r->who, sizeof(r->who), "%s", c->who);
		control_run(c->control->sv, (struct span){line, len}, r);
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
	if (what & BEV_EVENT_TIMEOUT && what & BEV_EVENT_READING && c->waiting) { /* for us */
		bufferevent_enable(bev, EV_READ);
		return;
	}
	if (!(what & BEV_EVENT_EOF)) {
		client_free(c);
		return;
	}
	c->eof = true;
	on_read(bev, c);
}

static struct client *client_new(struct control *control, evutil_socket_t fd)
{
	static const struct timeval idle = {CLIENT_IDLE_S, 0};
	struct client *c = util_zalloc(sizeof(*c));
	struct ucred peer = {.pid = 0};
	socklen_t len = sizeof(peer);
	c->control = control;
	if (getsockopt((int)fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0)
		snprintf(c->who, sizeof(c->who), "uid:%u,pid:%d", peer.uid, (int)peer.pid);
	c->bev = bufferevent_socket_new(control->sv->base, fd, BEV_OPT_CLOSE_ON_FREE);
	AN(c->bev);
	c->next = control->clients;
	control->clients = c;
	control->nclients++;
	bufferevent_setcb(c->bev, on_read, on_written, on_event, c);
	bufferevent_set_timeouts(c->bev, &idle, &idle);
	bufferevent_setwatermark(c->bev, EV_READ, 0, LINE_MAX_BYTES * 2);
	bufferevent_enable(c->bev, EV_READ | EV_WRITE);
	return c;
}

static void on_accept(struct evconnlistener *l, evutil_socket_t fd, struct sockaddr *sa, int len, void *arg)
{
	struct control *control = arg;
	(void)l, (void)sa, (void)len;
	if (control->nclients >= CLIENTS_MAX)
		close((int)fd);
	else
		(void)client_new(control, fd);
}

static void listen_on(struct supervisor *sv)
{
	sv->control = util_zalloc(sizeof(*sv->control));
	sv->control->sv = sv;
	sv->control->listener = evconnlistener_new(sv->base, on_accept, sv->control,
						   LEV_OPT_CLOSE_ON_FREE | LEV_OPT_CLOSE_ON_EXEC, 0, sv->fd_ctl);
	AN(sv->control->listener);
}

bool control_open(struct supervisor *sv)
{
	char *error = NULL;
	sv->fd_ctl = supervisor_high(listen_unix(sv->ctl_path, 0600, CLIENTS_MAX, &sv->ctl_inode, &error));
	if (sv->fd_ctl == -1) {
		log_error("%s", error ? error : "cannot open the control socket");
		free(error);
		return false;
	}
	listen_on(sv);
	return true;
}

/* ---- across an exec ---- */

json_t *control_handover(const struct reply *list)
{
	json_t *all = json_array();
	for (; list; list = list->next) {
		if (list->client)
			json_array_append_new(all,
					      json_pack("{s:i s:s}", "client",
							(int)bufferevent_getfd(list->client->bev), "who", list->who));
		else if (list->child)
			json_array_append_new(all, json_pack("{s:i s:I s:I s:s}", "slot", (int)list->child->slot,
							     "incarnation", (json_int_t)list->incarnation, "token",
							     (json_int_t)list->token, "who", list->who));
	}
	return all;
}

/* Nothing of it is in our memory: what it has said and not said yet is in the socket. */
static bool silent(const struct client *c)
{
	return !c->waiting && !c->eof && evbuffer_get_length(bufferevent_get_input(c->bev)) == 0 &&
	       evbuffer_get_length(bufferevent_get_output(c->bev)) == 0;
}

json_t *control_clients(const struct supervisor *sv)
{
	json_t *all = json_array();
	for (const struct client *c = sv->control->clients; c; c = c->next)
		if (silent(c))
			json_array_append_new(all, json_integer((int)bufferevent_getfd(c->bev)));
	return all;
}

void control_keep_open(struct supervisor *sv, bool across_exec)
{
	for (struct client *c = sv->control->clients; c; c = c->next)
		if (c->waiting || silent(c))
			(void)fcntl(bufferevent_getfd(c->bev), F_SETFD, across_exec ? 0 : FD_CLOEXEC);
}

static struct client *adopt_client(struct supervisor *sv, json_t *v)
{
	int fd = (int)json_integer_value(v);
	(void)fcntl(fd, F_SETFD, FD_CLOEXEC);
	return client_new(sv->control, supervisor_high(fd));
}

struct reply *control_adopt(struct supervisor *sv, json_t *clients, json_t *replies)
{
	struct reply *list = NULL;
	json_t *o, *v;
	size_t i;
	listen_on(sv);
	json_array_foreach (clients, i, v)
		(void)adopt_client(sv, v);
	json_array_foreach (replies, i, o) {
		struct reply *r = util_zalloc(sizeof(*r));
		json_int_t slot = json_integer_value(json_object_get(o, "slot"));
		const char *who = json_string_value(json_object_get(o, "who"));
		snprintf(r->who, sizeof(r->who), "%s", who ? who : "");
		if ((v = json_object_get(o, "client"))) {
			r->client = adopt_client(sv, v);
			r->client->waiting = r;
		} else if (slot >= 0 && slot < SLOT_COUNT && sv->child[slot].used) {
			r->child = &sv->child[slot];
			r->incarnation = (uint64_t)json_integer_value(json_object_get(o, "incarnation"));
			r->token = (uint32_t)json_integer_value(json_object_get(o, "token"));
		}
		control_wait(&list, r);
	}
	return list;
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
