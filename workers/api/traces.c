#include "traces.h"

#include <stdlib.h>

#include "clock.h"
#include "handlers.h"
#include "requests.h"

/* ---- what came with the request ---- */

/* False: there is no valid traceparent. */
static bool parent_of(const struct http_request *r, struct trace_context *out, bool *sampled_r)
{
	struct span t = http_header(r, HTTP_H_TRACEPARENT);
	unsigned char flags;
	if (!t.p || !http_trace_parse(t, out->trace, out->span, &flags))
		return false;
	*sampled_r = flags & 1;
	return true;
}

/* "localhost:7700", "[::1]:7700": the name, which listen.names has admitted, and the port. */
static void add_host(struct trace_span *s, struct span host)
{
	const char *end = host.p + host.len, *colon = host.len ? memrchr(host.p, ':', host.len) : NULL;
	int64_t port = 0;
	if (colon && memchr(colon, ']', (size_t)(end - colon)))
		colon = NULL;
	for (const char *p = colon ? colon + 1 : end; p < end && *p >= '0' && *p <= '9' && port < 65536; p++)
		port = port * 10 + (*p - '0');
	trace_text(s, TRACE_KEY_HOST, (struct span){host.p, colon ? (size_t)(colon - host.p) : host.len});
	if (port)
		trace_int(s, TRACE_KEY_PORT, port);
}

/* ---- a server's span ---- */

/* Paths are told as their route has them: what stands in the place of {id} names a memory. */
static void describe(struct trace_span *s, struct http_request *r, const char *route, struct span ns, int status,
		     size_t bytes)
{
	trace_text(s, TRACE_KEY_METHOD, http_method_text(r));
	if (route) {
		trace_text(s, TRACE_KEY_ROUTE, SPAN(route));
		trace_text(s, TRACE_KEY_PATH, SPAN(route));
	}
	trace_text(s, TRACE_KEY_SCHEME, http_peer_tls(r) ? SPAN_LIT("https") : SPAN_LIT("http"));
	add_host(s, http_header(r, HTTP_H_HOST));
	trace_text(s, TRACE_KEY_NAMESPACE, ns);
	trace_text(s, TRACE_KEY_REQUEST_ID, http_request_id(r));
	trace_text(s, TRACE_KEY_STATE, http_header_named(r, "tracestate"));
	if (status)
		trace_int(s, TRACE_KEY_STATUS, status);
	if (bytes)
		trace_int(s, TRACE_KEY_BODY_BYTES, (int64_t)bytes);
}

void traces_conf(struct api *a, const struct conf *c) { a->tracing = trace_conf(a->tracer, c); }

void traces_begin(struct call *c)
{
	struct trace_context parent;
	bool sampled;
	if (__builtin_expect(!c->api->tracing, 1))
		return;
	bool has = parent_of(c->req, &parent, &sampled);
	c->trace = trace_begin(c->api->tracer, has ? &parent : NULL, has && sampled);
}

void traces_head(struct call *c)
{
	char text[TRACE_PARENT + 1];
	if (!c->trace || !c->trace->sampled)
		return;
	trace_parent_write(text, &c->trace->self, true);
	buf_printf(&c->reply.head, "traceresponse: %s\r\n", text);
}

/* A stream is as slow as its client, and who follows the changes waits for them. Probes would be most of all. */
static bool keeps(struct call *c, int status, int64_t now)
{
	struct trace *x = c->trace;
	bool lasts = c->streamed_status || changes_is(c), probe = c->route && !c->route->right;
	if (probe && !x->remote)
		return false;
	return trace_keeps(x->t, x->sampled, status >= 500 && !probe, lasts || probe ? 0 : now - c->began_ns, now);
}

void traces_end(struct call *c)
{
	struct trace *x = c->trace;
	if (!x)
		return;
	int status = c->reply.status ? c->reply.status : c->streamed_status;
	int64_t now = clock_mono_ns();
	if (c->req && keeps(c, status, now)) {
		struct trace_span s;
		trace_span_begin(&s, TRACE_SERVER, &x->self);
		describe(&s, c->req, c->route ? c->route->pattern : NULL, SPAN(c->ns), status, c->reply.body.len);
		trace_text(&s, TRACE_KEY_CACHE, requests_cache_status(c));
		if (status >= 400 && c->problem)
			trace_text(&s, TRACE_KEY_ERROR, SPAN(c->problem));
		s.r.flags = status >= 500 ? TRACE_FAILED : 0;
		trace_write_all(x, &s, c->began_ns, now);
	}
	trace_free(&c->trace);
}

/* ---- the path without a call ---- */

const uint8_t *traces_hit(struct api *a, struct http_request *r, uint64_t ns, size_t bytes, int64_t took_us,
			  char *head_end)
{
	static struct trace_context self; /* the loop's thread alone */
	struct trace_context parent;
	bool sampled;
	bool has = parent_of(r, &parent, &sampled);
	if (!has)
		sampled = trace_draw(a->tracer, &self);
	if (!sampled && !trace_slow(a->tracer, took_us * 1000))
		return NULL;
	int64_t now = clock_mono_ns(), began = now - took_us * 1000;
	if (!trace_keeps(a->tracer, sampled, false, took_us * 1000, now))
		return NULL;
	trace_fill(a->tracer, &self);
	if (has)
		memcpy(self.trace, parent.trace, sizeof(parent.trace));
	const struct plant_namespace *row = plant_find(a->plant, ns);
	struct trace_span s;
	trace_span_begin(&s, TRACE_SERVER, &self);
	if (has)
		memcpy(s.r.parent, parent.span, sizeof(parent.span));
	s.r.flags = (uint8_t)((sampled ? TRACE_SAMPLED : 0) | (has ? TRACE_REMOTE : 0));
	describe(&s, r, "/v1/memories/{id}", row ? (struct span){row->name, row->name_len} : (struct span){NULL, 0},
		 200, bytes);
	trace_text(&s, TRACE_KEY_CACHE, SPAN_LIT("orchestra; hit"));
	trace_write(a->tracer, &s, began, now);
	if (sampled) {
		memcpy(head_end, "traceresponse: ", 15);
		trace_parent_write(head_end + 15, &self, true);
		memcpy(head_end + 15 + TRACE_PARENT, "\r\n", 3);
	}
	return self.trace;
}
