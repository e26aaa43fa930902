/* Who asks, in words of the audit log: "token:ci", "uid:1000,pid:812", "local" (this machine, over TCP). */
#include <errno.h>
#include <stdio.h>

#include "handlers.h"

void who_text(const struct call *c, struct buf *b)
{
	unsigned uid = 0;
	int pid = 0;
	size_t from = b->len;
	bool unix_peer = http_peer_uid(c->req, &uid) && http_peer_pid(c->req, &pid);
	if (c->api->auth && c->who && c->who->name)
		buf_printf(b, "token:%.60s", c->who->name);
	if (unix_peer)
		buf_printf(b, "%suid:%u,pid:%d", b->len > from ? "," : "", uid, pid);
	if (b->len == from)
		buf_adds(b, http_peer_loopback(c->req) ? "local" : "unknown");
}

/* The supervisor takes what stands behind the last newline for whoever asks. */
void who_relay(struct call *c, const char *command, worker_answer_fn *answer)
{
	struct buf line = {0};
	buf_printf(&line, "%s\n", command);
	who_text(c, &line);
	buf_addc(&line, '\0');
	int rc = worker_command(c->api->w, line.p, answer, c), e = errno;
	buf_free(&line);
	if (rc == 0)
		return;
	if (e == EMSGSIZE)
		problem(c, 413, "body-too-large",
			"body: is larger than what the supervisor takes (60 KiB); ask for less at once");
	else
		problem(c, 503, "supervisor-busy", "the supervisor takes no commands at the moment (%s); try again",
			e == EAGAIN ? "its queue is full" : "it is gone");
	call_reply(c);
}

bool who_is_whole(struct call *c)
{
	if (!c->who->namespaces)
		return true;
	problem(c, 403, "namespace-forbidden",
		"this concerns the whole daemon: it is for credentials of every namespace (*)");
	return false;
}
