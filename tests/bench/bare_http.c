/* The reference for the HTTP engine: libevent's events, llhttp, one recv and one send per wake-up,
 * and nothing else: no limits, no deadlines, no routing. What it reaches is what these libraries
 * cost on this machine; the engine is measured against it and against nginx.
 *
 * usage: bare_http PORT|PATH BODY_BYTES */
#include <event2/event.h>
#include <llhttp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "listen.h"

struct conn {
	llhttp_t parser;
	struct event *ev;
	int fd;
	unsigned done; /* requests completed in this read */
};
static llhttp_settings_t settings;
static struct event_base *base;
static char reply[8192], in[65536], out[sizeof(reply) * 64];
static size_t reply_len;

static int on_complete(llhttp_t *p)
{
	((struct conn *)p->data)->done++;
	return 0;
}

static void end(struct conn *c)
{
	event_free(c->ev);
	close(c->fd);
	free(c);
}

static void on_read(evutil_socket_t fd, short what, void *arg)
{
	struct conn *c = arg;
	(void)what;
	ssize_t n = recv(fd, in, sizeof(in), 0);
	c->done = 0;
	if (n <= 0 || llhttp_execute(&c->parser, in, (size_t)n) != HPE_OK) {
		end(c);
		return;
	}
	for (unsigned left = c->done; left;) {
		unsigned k = left < 64 ? left : 64;
		for (unsigned i = 0; i < k; i++)
			memcpy(out + i * reply_len, reply, reply_len);
		if (send(fd, out, k * reply_len, MSG_NOSIGNAL) != (ssize_t)(k * reply_len)) {
			end(c);
			return;
		}
		left -= k;
	}
}

static void on_accept(evutil_socket_t fd, short what, void *arg)
{
	(void)what;
	(void)arg;
	int s;
	while ((s = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
		struct conn *c = calloc(1, sizeof(*c));
		if (!c)
			abort();
		c->fd = s;
		llhttp_init(&c->parser, HTTP_REQUEST, &settings);
		c->parser.data = c;
		c->ev = event_new(base, s, EV_READ | EV_PERSIST, on_read, c);
		event_add(c->ev, NULL);
	}
}

int main(int argc, char **argv)
{
	size_t body = argc > 2 ? (size_t)atoi(argv[2]) : 436;
	int fd = argc > 1 && body < 8000 ? listen_on(argv[1]) : -1;
	if (fd < 0) {
		fprintf(stderr, "usage: %s PORT|PATH [BODY_BYTES]\n", argv[0]);
		return 1;
	}
	int n = snprintf(reply, sizeof(reply),
			 "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n", body);
	memset(reply + n, 'x', body);
	reply_len = (size_t)n + body;
	llhttp_settings_init(&settings);
	settings.on_message_complete = on_complete;
	signal(SIGPIPE, SIG_IGN);
	base = event_base_new();
	struct event *ev = event_new(base, fd, EV_READ | EV_PERSIST, on_accept, NULL);
	event_add(ev, NULL);
	event_base_dispatch(base);
	return 0;
}
