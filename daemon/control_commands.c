/* What the supervisor does on command: one table for both ways in which commands come (control.c). */
#include <fcntl.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#include "auditor.h"
#include "control-private.h"
#include "log.h"
#include "tried.h"
#include "upgrade.h"

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

static void command_upgrade(struct supervisor *sv, struct span rest, struct reply *r)
{
	(void)rest;
	upgrade_start(sv, r);
}

static void command_drain(struct supervisor *sv, struct span rest, struct reply *r)
{
	char who[sizeof(r->who)];
	(void)rest;
	snprintf(who, sizeof(who), "%s", r->who);
	if (sv->state == SUPERVISOR_DRAINING)
		control_reply(&r, true, "{\"ok\":true,\"state\":\"draining\"}");
	else
		auditor_note(sv, who, "drain", NULL, &r, true, json_pack("{s:b s:s}", "ok", 1, "state", "draining"));
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
			      conf_is_secret(sv->conf, (enum conf_key)key) ? "(secret)" : value, "source",
			      conf_source(sv->conf, (enum conf_key)key));
	char *json = o ? json_dumps(o, JSON_COMPACT) : NULL;
	control_reply(&r, json != NULL, json ? json : "{\"ok\":false,\"error\":\"no UTF-8\"}");
	free(json);
	json_decref(o);
	free(value);
}

/* Values that are tried: {"set":{…},"unset":[…],"for_ms":N,"action":"set"}. */
static void command_set(struct supervisor *sv, struct span rest, struct reply *r)
{
	json_t *request = json_loadb(rest.p, rest.len, JSON_REJECT_DUPLICATES, NULL);
	if (json_is_object(request)) {
		reload_change(sv, request, r);
		return;
	}
	json_decref(request);
	control_reply(&r, false, "{\"ok\":false,\"type\":\"invalid\",\"error\":\"set: expected a JSON object\"}");
}

static void command_tried(struct supervisor *sv, struct span rest, struct reply *r)
{
	(void)rest;
	json_t *o = json_pack("{s:b s:o s:o}", "ok", 1, "tried", tried_json(sv), "file", status_conf_file(sv));
	char *json = o ? json_dumps(o, JSON_COMPACT) : NULL;
	control_reply(&r, json != NULL, json ? json : "{\"ok\":false,\"error\":\"no UTF-8\"}");
	free(json);
	json_decref(o);
}

/* What a worker did by itself and has to be noted: "WHAT {…}". */
static void command_audit(struct supervisor *sv, struct span rest, struct reply *r)
{
	const char *blank = memchr(rest.p, ' ', rest.len);
	size_t len = blank ? (size_t)(blank - rest.p) : 0;
	json_t *fields = len ? json_loadb(blank + 1, rest.len - len - 1, 0, NULL) : NULL;
	char what[32], who[sizeof(r->who)];
	if (!json_is_object(fields) || len >= sizeof(what) || rest.len > AUDITOR_NOTE_MAX || !r->child) {
		json_decref(fields);
		control_reply(&r, false, "{\"ok\":false,\"error\":\"audit: is for workers: WHAT and a JSON object\"}");
		return;
	}
	snprintf(what, sizeof(what), "%.*s", (int)len, rest.p);
	snprintf(who, sizeof(who), "%s", r->who);
	auditor_note(sv, who, what, fields, &r, true, json_pack("{s:b}", "ok", 1));
}

/* The request log, read-only, for whoever may give us commands: the socket's mode says who, and the kernel is asked once
 * more, because a descriptor cannot be taken back. */
static void command_log(struct supervisor *sv, struct span rest, struct reply *r)
{
	char path[32];
	struct ucred who;
	socklen_t len = sizeof(who);
	(void)rest;
	if (!r->client || getsockopt(bufferevent_getfd(r->client->bev), SOL_SOCKET, SO_PEERCRED, &who, &len) != 0 ||
	    (who.uid != 0 && who.uid != geteuid())) {
		control_reply(
			&r, false,
			"{\"ok\":false,\"error\":\"the request log is for root and the daemon's user, by PATH.ctl\"}");
		return;
	}
	if (sv->fd_requests == -1) {
		control_reply(&r, false, "{\"ok\":false,\"error\":\"no requests are logged: log.requests is 0\"}");
		return;
	}
	snprintf(path, sizeof(path), "/proc/self/fd/%d", sv->fd_requests);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd == -1) {
		control_reply(&r, false, "{\"ok\":false,\"error\":\"the request log cannot be opened for reading\"}");
		return;
	}
	r->client->follows = true; /* until it goes */
	control_followers(r->client->control);
	control_reply_fd(&r, "{\"ok\":true}", fd);
	close(fd);
}

static void command_warm(struct supervisor *sv, struct span rest, struct reply *r)
{
	control_ask(sv, SLOT_WARMER, rest, r);
}
static void command_ping(struct supervisor *sv, struct span rest, struct reply *r)
{
	control_ask(sv, SLOT_PINGER, rest, r);
}

/* clang-format off */
static const struct command {
	const char *name; /* one that ends with a blank takes an argument */
	void (*run)(struct supervisor *sv, struct span rest, struct reply *r); /* takes r over */
} commands[] = {
	{"config get ", command_config},
	{"status", command_status},
	{"reload", command_reload},
	{"upgrade", command_upgrade},
	{"drain", command_drain},
	{"stop", command_drain},
	{"reopen-logs", command_reopen},
	{"warm ", command_warm},
	{"log", command_log},
	{"ping ", command_ping},
	{"set ", command_set},
	{"tried", command_tried},
	{"audit ", command_audit},
};
/* clang-format on */

void control_run(struct supervisor *sv, struct span line, struct reply *r)
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
		      "upgrade, drain, stop, reopen-logs, config get KEY, tried, set JSON\"}");
}
