/* Our HTTP engine with a handler that does nothing but answer: what the engine itself costs.
 *
 * usage: engine_http BODY_BYTES PORT|PATH... */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include "http/http.h"
#include "listen.h"

static char *body;
static size_t body_len;

static void on_request(void *arg, struct http_request *r)
{
	(void)arg;
	http_reply(r, 200, "application/json", "", body, body_len);
}

int main(int argc, char **argv)
{
	struct http_limits l = {.head_bytes = 32768,
				.body_bytes = 64 << 20,
				.headers = 100,
				.head_timeout_ms = 10000,
				.body_timeout_ms = 60000,
				.idle_timeout_ms = 60000,
				.write_timeout_ms = 30000,
				.max_connections = 20000,
				.buffered_bytes = 512u << 20};
	struct http_callbacks cb = {.on_request = on_request};
	struct event_base *base = event_base_new();
	struct http_server *s = http_server_new(base, &l, &cb, NULL, NULL);

	if (argc < 3) {
		fprintf(stderr, "usage: %s BODY_BYTES PORT|PATH...\n", argv[0]);
		return 1;
	}
	body_len = (size_t)atol(argv[1]);
	body = malloc(body_len + 1);
	if (!body)
		return 1;
	memset(body, 'x', body_len);
	for (int i = 2; i < argc; i++) {
		int fd = listen_on(argv[i]);
		if (fd < 0 || http_server_listen(s, fd) != 0) {
			perror(argv[i]);
			return 1;
		}
	}
	signal(SIGPIPE, SIG_IGN);
	event_base_dispatch(base);
	return 0;
}
