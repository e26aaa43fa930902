#include "otlp.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "vocabulary.h"

static const struct {
	const char *name;
	uint8_t kind;
	bool store;
} names[] = {
#define SERVER TRACE_SERVER_KIND
#define CLIENT TRACE_CLIENT
#define INTERNAL TRACE_INTERNAL
#define TRACE_SPAN(id, name, kind, store) {name, kind, store},
#include "trace.def"
#undef SERVER
#undef CLIENT
#undef INTERNAL
};
enum type { TEXT, INT };
static const struct {
	const char *name;
	enum type type;
} keys[] = {
#define TRACE_KEY(id, name, type) {name, type},
#include "trace.def"
};

/* ---- JSON ---- */

static void put_text(struct buf *b, struct span s)
{
	char clean[TRACE_TEXT];
	size_t n = s.len < sizeof(clean) ? s.len : sizeof(clean);
	if (n)
		memcpy(clean, s.p, n);
	util_utf8_scrub(clean, n); /* cut in the middle of a character, or no text at all */
	buf_addc(b, '"');
	for (size_t i = 0; i < n; i++) {
		unsigned char c = (unsigned char)clean[i];
		if (c == '"' || c == '\\')
			buf_addc(b, '\\');
		if (!c) /* what many a receiver cannot store */
			buf_addc(b, '?');
		else if (c < 0x20)
			buf_printf(b, "\\u%04x", c);
		else
			buf_addc(b, (char)c);
	}
	buf_addc(b, '"');
}

static void put_hex(struct buf *b, const uint8_t *p, size_t n)
{
	buf_addc(b, '"');
	for (size_t i = 0; i < n; i++)
		buf_printf(b, "%02x", p[i]);
	buf_addc(b, '"');
}

/* A comma in front of all but the first. */
static void put_key(struct buf *b, const char *name, bool *first)
{
	buf_adds(b, *first ? "{\"key\":\"" : ",{\"key\":\"");
	buf_adds(b, name);
	buf_adds(b, "\",\"value\":");
	*first = false;
}

static void put_attribute(struct buf *b, const char *name, struct span text, bool *first)
{
	if (!text.len)
		return;
	put_key(b, name, first);
	buf_adds(b, "{\"stringValue\":");
	put_text(b, text);
	buf_adds(b, "}}");
}

static struct span optional(const char *s) { return s ? SPAN(s) : (struct span){NULL, 0}; }

/* ---- a record ---- */

struct record {
	struct trace_record r;
	const char *links, *at, *end;
};
struct attribute {
	enum trace_key key;
	struct span bytes;
};

static bool next(struct record *x, struct attribute *out)
{
	struct trace_attribute a;
	if ((size_t)(x->end - x->at) < sizeof(a))
		return false;
	memcpy(&a, x->at, sizeof(a));
	x->at += sizeof(a);
	if (a.key >= TRACE_KEYS || a.len > (size_t)(x->end - x->at))
		return false;
	*out = (struct attribute){(enum trace_key)a.key, {x->at, a.len}};
	x->at += a.len;
	return keys[a.key].type == TEXT || a.len == sizeof(int64_t);
}

static bool nothing(const uint8_t *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (p[i])
			return false;
	return true;
}

static bool parse(const void *p, size_t len, struct record *x)
{
	struct attribute a;
	if (len < sizeof(x->r))
		return false;
	memcpy(&x->r, p, sizeof(x->r));
	size_t links = x->r.nlinks * sizeof(struct trace_context);
	if (x->r.name >= TRACE_NAMES || x->r.nlinks > TRACE_LINKS || x->r.attributes > TRACE_ATTRIBUTES ||
	    x->r.slot >= SLOT_COUNT || len != sizeof(x->r) + links + x->r.attributes || x->r.start_ns < 0 ||
	    x->r.end_ns < x->r.start_ns || nothing(x->r.self.trace, 16) || nothing(x->r.self.span, 8))
		return false;
	x->links = (const char *)p + sizeof(x->r);
	x->end = x->links + links + x->r.attributes;
	x->at = x->links + links;
	while (next(x, &a))
		;
	bool whole = x->at == x->end;
	x->at = x->links + links;
	return whole;
}

static struct span text_of(const struct record *x, enum trace_key key)
{
	struct record copy = *x;
	struct attribute a;
	while (next(&copy, &a))
		if (a.key == key)
			return a.bytes;
	return (struct span){NULL, 0};
}

/* "GET /v1/memories/{id}"; where no route matched or it is ours to ask, the method alone. */
static void put_name(struct buf *b, const struct record *x)
{
	char text[TRACE_TEXT];
	struct span method = text_of(x, TRACE_KEY_METHOD), route = text_of(x, TRACE_KEY_ROUTE);
	size_t n = 0;
	if (!method.len || (x->r.name != TRACE_SERVER && x->r.name != TRACE_PING)) {
		put_text(b, SPAN(names[x->r.name].name));
		return;
	}
	if (method.len + 1 + route.len > sizeof(text))
		method.len = route.len = 0;
	memcpy(text, method.p, n = method.len);
	if (route.len) {
		text[n++] = ' ';
		memcpy(text + n, route.p, route.len);
		n += route.len;
	}
	put_text(b, (struct span){text, n});
}

static void put_attributes(struct buf *b, const struct otlp_resource *res, struct record x)
{
	struct attribute a;
	bool first = true;
	char worker[24];
	buf_adds(b, ",\"attributes\":[");
	while (next(&x, &a)) {
		int64_t value;
		if (a.key == TRACE_KEY_STATE)
			continue;
		if (keys[a.key].type == TEXT) {
			put_attribute(b, keys[a.key].name, a.bytes, &first);
			continue;
		}
		memcpy(&value, a.bytes.p, sizeof(value));
		put_key(b, keys[a.key].name, &first);
		buf_printf(b, "{\"intValue\":\"%lld\"}}", (long long)value);
	}
	if (names[x.r.name].store)
		put_attribute(b, "db.system.name", optional(res->store), &first);
	if (x.r.slot >= SLOT_API0)
		snprintf(worker, sizeof(worker), "api.%u", (unsigned)x.r.slot - SLOT_API0);
	put_attribute(b, "orchestra.worker",
		      SPAN(x.r.slot == SLOT_SYNC     ? "sync"
			   : x.r.slot == SLOT_WARMER ? "warmer"
			   : x.r.slot == SLOT_PINGER ? "pinger"
						     : worker),
		      &first);
	buf_addc(b, ']');
}

static void put_links(struct buf *b, const struct record *x)
{
	struct trace_context c;
	if (!x->r.nlinks)
		return;
	buf_adds(b, ",\"links\":[");
	for (unsigned i = 0; i < x->r.nlinks; i++) {
		memcpy(&c, x->links + i * sizeof(c), sizeof(c));
		buf_adds(b, i ? ",{\"traceId\":" : "{\"traceId\":");
		put_hex(b, c.trace, 16);
		buf_adds(b, ",\"spanId\":");
		put_hex(b, c.span, 8);
		buf_adds(b, ",\"flags\":257}"); /* sampled; known whether remote: it is not */
	}
	buf_addc(b, ']');
	if (x->r.links_lost)
		buf_printf(b, ",\"droppedLinksCount\":%u", x->r.links_lost);
}

bool otlp_span(struct buf *b, const struct otlp_resource *res, const void *record, size_t len, bool first)
{
	struct record x;
	if (!parse(record, len, &x))
		return false;
	struct span state = text_of(&x, TRACE_KEY_STATE);
	if (!first)
		buf_addc(b, ',');
	buf_adds(b, "{\"traceId\":");
	put_hex(b, x.r.self.trace, 16);
	buf_adds(b, ",\"spanId\":");
	put_hex(b, x.r.self.span, 8);
	if (!nothing(x.r.parent, 8)) {
		buf_adds(b, ",\"parentSpanId\":");
		put_hex(b, x.r.parent, 8);
	}
	if (state.len) {
		buf_adds(b, ",\"traceState\":");
		put_text(b, state);
	}
	buf_adds(b, ",\"name\":");
	put_name(b, &x);
	/* Flags: the low byte is the trace's, 0x100 that the next bit is known, 0x200 that the parent is elsewhere. */
	buf_printf(b, ",\"kind\":%u,\"flags\":%u,\"startTimeUnixNano\":\"%lld\",\"endTimeUnixNano\":\"%lld\"",
		   names[x.r.name].kind,
		   (x.r.flags & TRACE_SAMPLED ? 1u : 0u) | 0x100u | (x.r.flags & TRACE_REMOTE ? 0x200u : 0u),
		   (long long)x.r.start_ns, (long long)x.r.end_ns);
	put_attributes(b, res, x);
	put_links(b, &x);
	buf_adds(b, x.r.flags & TRACE_FAILED ? ",\"status\":{\"code\":2}}" : ",\"status\":{}}");
	return true;
}

/* ---- a request ---- */

void otlp_begin(struct buf *b, const struct otlp_resource *r)
{
	bool first = true;
	buf_adds(b, "{\"resourceSpans\":[{\"resource\":{\"attributes\":[");
	put_attribute(b, "service.name", optional(r->service), &first);
	put_attribute(b, "service.version", optional(r->version), &first);
	put_attribute(b, "service.instance.id", optional(r->instance), &first);
	put_attribute(b, "host.name", optional(r->host), &first);
	buf_adds(b, "]},\"scopeSpans\":[{\"scope\":{\"name\":\"orchestra\"");
	if (r->version) {
		buf_adds(b, ",\"version\":");
		put_text(b, SPAN(r->version));
	}
	buf_adds(b, "},\"spans\":[");
}

void otlp_end(struct buf *b) { buf_adds(b, "]}]}]}"); }

uint64_t otlp_rejected(struct span body, char **why_r)
{
	json_t *root = body.len ? json_loadb(body.p, body.len, 0, NULL) : NULL;
	json_t *part = json_object_get(root, "partialSuccess"), *n = json_object_get(part, "rejectedSpans");
	const char *text = json_string_value(json_object_get(part, "errorMessage"));
	/* An int64 of protobuf: a string, but a number is taken as well. */
	long long rejected = json_is_string(n) ? strtoll(json_string_value(n), NULL, 10) : json_integer_value(n);
	*why_r = text && *text ? util_strndup(text, strlen(text)) : NULL;
	json_decref(root);
	return rejected > 0 ? (uint64_t)rejected : 0;
}

/* ---- headers ---- */

static char *header_line(const char *text, size_t name, size_t n)
{
	struct buf b = {0};
	buf_printf(&b, "%.*s: ", (int)name, text);
	for (const char *p = text + name + 1; p < text + n; p++) {
		int hi = *p == '%' && text + n - p > 2 ? util_hex_digit(p[1]) : -1;
		int lo = hi >= 0 ? util_hex_digit(p[2]) : -1;
		bool coded = lo >= 0;
		char c = coded ? (char)(hi << 4 | lo) : *p;
		if ((unsigned char)c >= 0x20 && c != 0x7f) /* no line of its own by %0A */
			buf_addc(&b, c);
		p += coded ? 2 : 0;
	}
	buf_addc(&b, '\0');
	return b.p;
}

bool otlp_headers(const char *text, char **lines, size_t *n_r)
{
	size_t count = 0;
	bool ok = true;
	while (*text && ok) {
		size_t n = strcspn(text, ","), name = strcspn(text, "=");
		ok = name && name < n && strcspn(text, " :\"\r\n") >= name && strcspn(text, "\r\n") >= n &&
		     count < OTLP_HEADERS_MAX;
		if (ok && lines)
			lines[count] = header_line(text, name, n);
		count += ok;
		text += n + (text[n] == ',');
	}
	while (!ok && lines && count)
		free(lines[--count]);
	*n_r = ok ? count : 0;
	return ok;
}
