/* The reference for receiving a memory: what one writes first. evhttp takes the request, jansson
 * parses all of it, content and embedding are checked and copied out, a short answer goes back.
 *
 * usage: evhttp_jansson PORT */
#include <event2/buffer.h>
#include <event2/event.h>
#include <event2/http.h>
#include <jansson.h>
#include <math.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DIM_MAX = 4096 };

static bool read_vector(const json_t *v, float *x, size_t *n_r)
{
	double sum = 0;
	*n_r = json_array_size(v);
	if (!*n_r || *n_r > DIM_MAX)
		return false;
	for (size_t i = 0; i < *n_r; i++) {
		const json_t *e = json_array_get(v, i);
		if (!json_is_number(e))
			return false;
		x[i] = (float)json_number_value(e);
		if (!isfinite(x[i]))
			return false;
		sum += (double)x[i] * x[i];
	}
	return sum > 1e-30;
}

static void on_request(struct evhttp_request *r, void *arg)
{
	static float x[DIM_MAX];
	struct evbuffer *in = evhttp_request_get_input_buffer(r), *out = evbuffer_new();
	size_t len = evbuffer_get_length(in), n = 0;
	json_t *o = json_loadb((const char *)evbuffer_pullup(in, -1), len, 0, NULL);
	const char *content = json_string_value(json_object_get(o, "content"));
	bool ok = content && *content && read_vector(json_object_get(o, "embedding"), x, &n);
	(void)arg;
	evbuffer_add_printf(out, "{\"content_bytes\":%zu,\"dimensions\":%zu}", content ? strlen(content) : 0, n);
	evhttp_add_header(evhttp_request_get_output_headers(r), "Content-Type", "application/json");
	evhttp_send_reply(r, ok ? 201 : 400, ok ? "Created" : "Bad Request", out);
	evbuffer_free(out);
	json_decref(o);
}

int main(int argc, char **argv)
{
	struct event_base *base = event_base_new();
	struct evhttp *h = evhttp_new(base);
	signal(SIGPIPE, SIG_IGN);
	if (argc != 2 || evhttp_bind_socket(h, "127.0.0.1", (unsigned short)atoi(argv[1]))) {
		fprintf(stderr, "usage: %s PORT\n", argv[0]);
		return 1;
	}
	evhttp_set_gencb(h, on_request, NULL);
	evhttp_set_max_body_size(h, 64 << 20);
	event_base_dispatch(base);
	return 0;
}
