#include "requests.h"

#include <unistd.h>

#include "clock.h"
#include "log.h"
#include "reqlog.h"
#include "trace/trace.h"

/* ---- for lines of the log ---- */

/* NULL: absent or malformed; else its 32 digits of the trace, "-", and 16 of the span. */
static const char *trace_of(const struct http_request *r, unsigned char id[16])
{
	struct span t = http_header(r, HTTP_H_TRACEPARENT);
	return t.p && http_trace_parse(t, id, NULL, NULL) ? t.p + 3 : NULL;
}

static void describe(const void *arg, struct log_request *out)
{
	struct http_request *r = (struct http_request *)(uintptr_t)arg;
	struct span id = http_request_id(r);
	unsigned char binary[16];
	const char *trace = trace_of(r, binary);
	const struct call *c = *http_user(r);
	char ours[TRACE_PARENT + 1];
	if (c && c->trace) { /* the trace that its caller has begun, or that begins here; the span is ours */
		trace_parent_write(ours, &c->trace->self, false);
		trace = ours + 3;
	}
	memcpy(out->id, id.p, id.len < sizeof(out->id) ? id.len : sizeof(out->id) - 1);
	if (trace) {
		memcpy(out->trace, trace, 32);
		memcpy(out->span, trace + 33, 16);
	}
}

void requests_enter(struct http_request *r) { log_request_set(r ? describe : NULL, r); }
void requests_leave(void) { log_request_set(NULL, NULL); }

/* ---- records ---- */

static uint32_t bounded(int64_t us) { return us < 0 ? 0 : us > UINT32_MAX ? UINT32_MAX : (uint32_t)us; }

/* All but the texts, which may hold anything beyond `used`. */
static void about_request(struct api *a, struct reqlog_record *rec, struct http_request *r, int status,
			  int64_t duration_us)
{
	struct http_peer peer = http_peer(r);
	memset(rec, 0, offsetof(struct reqlog_record, text));
	rec->duration_us = bounded(duration_us);
	rec->passed = a->passed;
	a->passed = 0;
	rec->bytes_in = http_bytes_in(r);
	rec->pid = a->pid;
	rec->status = (uint16_t)status;
	rec->slot = (uint8_t)a->w->slot;
	rec->method = (uint8_t)http_method(r);
	rec->family = peer.family;
	rec->port = peer.port;
	memcpy(rec->address, peer.address, sizeof(rec->address));
	rec->flags = (uint8_t)((http_gone(r) ? REQLOG_GONE : 0) | (peer.local ? REQLOG_LOCAL : 0));
	rec->flags |= trace_of(r, rec->trace) ? REQLOG_TRACE : 0;
}

static void set_trace(struct reqlog_record *rec, const uint8_t id[16])
{
	memcpy(rec->trace, id, sizeof(rec->trace));
	rec->flags |= REQLOG_TRACE;
}

struct span requests_cache_status(const struct call *c)
{
	static const char name[] = "Cache-Status: ";
	const char *p = c->reply.head.len ? memmem(c->reply.head.p, c->reply.head.len, name, sizeof(name) - 1) : NULL;
	if (!p)
		return (struct span){NULL, 0};
	p += sizeof(name) - 1;
	const char *end = memchr(p, '\r', (size_t)(c->reply.head.p + c->reply.head.len - p));
	return (struct span){p, end ? (size_t)(end - p) : 0};
}

static struct span name_of(const struct auth_principal *who)
{
	return who && who->name ? SPAN(who->name) : (struct span){NULL, 0};
}

void requests_note(struct call *c)
{
	struct api *a = c->api;
	struct reqlog_record rec;
	size_t used = 0;
	if (!a->requests || !c->req || c->logged)
		return;
	c->logged = true;
	about_request(a, &rec, c->req, c->reply.status ? c->reply.status : c->streamed_status,
		      (clock_mono_ns() - c->began_ns) / 1000);
	rec.end_us = clock_real_us();
	rec.bytes_out = c->streamed_status ? http_bytes_out(c->req) : c->reply.body.len;
	rec.waited_us = bounded(c->waited_us);
	if (c->trace)
		set_trace(&rec, c->trace->self.trace);
	bool bad = c->reply.status >= 400 && c->problem;
	reqlog_text_add(&rec, &used, REQLOG_ID, http_request_id(c->req));
	reqlog_text_add(&rec, &used, REQLOG_ROUTE, c->route ? SPAN(c->route->pattern) : (struct span){NULL, 0});
	reqlog_text_add(&rec, &used, REQLOG_NAMESPACE, SPAN(c->ns));
	reqlog_text_add(&rec, &used, REQLOG_TOKEN, name_of(c->who));
	reqlog_text_add(&rec, &used, REQLOG_CACHE, requests_cache_status(c));
	reqlog_text_add(&rec, &used, REQLOG_ERROR, bad ? SPAN(c->problem) : (struct span){NULL, 0});
	reqlog_text_add(&rec, &used, REQLOG_PATH, http_path(c->req));
	reqlog_write(a->requests, &rec, used);
}

void requests_note_hit(struct api *a, struct http_request *r, const struct auth_principal *who, uint64_t ns, size_t n,
		       int64_t since_us, int64_t end_us, const uint8_t *trace)
{
	struct reqlog_record rec;
	size_t used = 0;
	if (!a->requests)
		return;
	/* Pipelined hits cost less than two records do. Whoever asks afterwards would find the last of hundreds of thousands a
	 * second; whoever follows gets all. */
	if (since_us == a->noted_us && a->passed < UINT8_MAX && !reqlog_followed(a->requests)) {
		a->passed++;
		return;
	}
	a->noted_us = since_us;
	if (!end_us)
		end_us = clock_real_us();
	const struct plant_namespace *row = plant_find(a->plant, ns);
	about_request(a, &rec, r, 200, end_us - since_us);
	rec.end_us = end_us;
	rec.bytes_out = n;
	if (trace)
		set_trace(&rec, trace);
	reqlog_text_add(&rec, &used, REQLOG_ID, http_request_id(r));
	reqlog_text_add(&rec, &used, REQLOG_ROUTE, SPAN_LIT("/v1/memories/{id}"));
	reqlog_text_add(&rec, &used, REQLOG_NAMESPACE,
			row ? (struct span){row->name, row->name_len} : (struct span){NULL, 0});
	reqlog_text_add(&rec, &used, REQLOG_TOKEN, name_of(who));
	reqlog_text_add(&rec, &used, REQLOG_CACHE, SPAN_LIT("orchestra; hit"));
	reqlog_text_add(&rec, &used, REQLOG_PATH, http_path(r));
	reqlog_write(a->requests, &rec, used);
}

void requests_note_refused(struct api *a, int status, const char *type, struct span id)
{
	struct reqlog_record rec;
	size_t used = 0;
	if (!a->requests)
		return;
	memset(&rec, 0, offsetof(struct reqlog_record, text));
	rec.end_us = clock_real_us();
	rec.pid = a->pid;
	rec.status = (uint16_t)status;
	rec.slot = (uint8_t)a->w->slot;
	rec.method = HTTP_M_OTHER;
	reqlog_text_add(&rec, &used, REQLOG_ID, id);
	reqlog_text_add(&rec, &used, REQLOG_ERROR, SPAN(type));
	reqlog_write(a->requests, &rec, used);
}

void requests_note_namespace(struct call *c, struct span ns)
{
	size_t n = ns.len < sizeof(c->ns) ? ns.len : sizeof(c->ns) - 1;
	if (n)
		memcpy(c->ns, ns.p, n);
	c->ns[n] = '\0';
}
