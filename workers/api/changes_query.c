/* The parameters of GET /v1/changes. */
#include <stdlib.h>
#include <strings.h>

#include "changes.h"

/* A whole number; *v stays as it is when the parameter is absent. */
static bool whole(struct call *c, const char *name, unsigned long least, unsigned long most, unsigned long *v)
{
	char *text = NULL, *end = NULL;
	size_t len;
	int found = http_query_get(c->req, name, &text, &len);
	if (found == 0)
		return true;
	unsigned long n = found > 0 && len && *text >= '0' && *text <= '9' ? strtoul(text, &end, 10) : 0;
	bool ok = end && *end == 0 && len < 10 && n >= least && n <= most;
	free(text);
	if (!ok) {
		problem(c, 400, "invalid-parameter", "%s: must be a whole number from %lu to %lu", name, least, most);
		return false;
	}
	*v = n;
	return true;
}

/* A client that has lost its stream asks again with the place in a header, beside the parameter of the first time. */
static bool read_cursor(struct call *c, struct changes_query *q)
{
	struct span given = http_header_named(c->req, "last-event-id");
	char *text = NULL;
	size_t len = 0;
	int found = given.len ? 1 : http_query_get(c->req, "after", &text, &len);
	q->from_now = found == 0;
	if (found == 0)
		return true;
	bool ok = found > 0 && changes_cursor_parse(given.len ? given : (struct span){text, len}, &q->at);
	free(text);
	if (!ok)
		problem(c, 400, "invalid-cursor",
			"%s: must be a cursor from an answer of /v1/changes, or absent to begin now",
			given.len ? "Last-Event-ID" : "after");
	return ok;
}

static bool add_name(struct call *c, struct changes_query *q, struct span raw)
{
	char *name = util_alloc(raw.len + 1);
	ptrdiff_t n = http_percent_decode(raw, true, name);
	if (n < 1 || n > LIMIT_NAMESPACE || !util_utf8_valid(name, (size_t)n)) {
		free(name);
		problem(c, 400, "invalid-namespace", "namespace: must be 1 to %d bytes of UTF-8", LIMIT_NAMESPACE);
		return false;
	}
	name[n] = 0;
	if (q->nnames == CHANGES_NAMESPACES) {
		free(name);
		problem(c, 400, "invalid-parameter",
			"namespace: may be repeated up to %d times; leave it out for all that the credential may read",
			CHANGES_NAMESPACES);
		return false;
	}
	q->names[q->nnames++] = name;
	if (call_may(c, AUTH_READ, SPAN(name)))
		return true;
	problem(c, 403, "namespace-forbidden", "namespace: this credential may not read \"%s\"", name);
	return false;
}

static bool read_names(struct call *c, struct changes_query *q)
{
	static const char key[] = "namespace=";
	struct span left = http_query(c->req);
	while (left.len) {
		const char *and = memchr(left.p, '&', left.len);
		struct span one = {left.p, and? (size_t)(and-left.p) : left.len};
		if (one.len >= sizeof(key) - 1 && memcmp(one.p, key, sizeof(key) - 1) == 0 &&
		    !add_name(c, q, (struct span){one.p + sizeof(key) - 1, one.len - (sizeof(key) - 1)}))
			return false;
		left = and? (struct span){and+1, left.len - one.len - 1} : (struct span){NULL, 0};
	}
	return true;
}

static bool names_type(struct span accept, const char *type)
{
	size_t n = strlen(type);
	for (size_t i = 0; i + n <= accept.len; i++)
		if (strncasecmp(accept.p + i, type, n) == 0)
			return true;
	return false;
}

bool changes_query_read(struct call *c, struct changes_query *q)
{
	unsigned long limit = CHANGES_LIMIT_DEFAULT, wait = 0;
	*q = (struct changes_query){.from_now = true};
	bool ok = read_cursor(c, q) && whole(c, "limit", 1, CHANGES_LIMIT, &limit) &&
		  whole(c, "wait", 0, CHANGES_WAIT_MAX, &wait) && read_names(c, q);
	q->limit = limit;
	q->wait_us = (int64_t)wait * 1000000;
	/* HEAD asks for what an answer has, not for a stream that would never end. */
	q->stream = http_method(c->req) == HTTP_M_GET &&
		    names_type(http_header(c->req, HTTP_H_ACCEPT), "text/event-stream");
	if (!ok)
		changes_query_free(q);
	return ok;
}

void changes_query_free(struct changes_query *q)
{
	while (q->nnames)
		free(q->names[--q->nnames]);
}

bool changes_query_wants(const struct changes_query *q, struct span namespace)
{
	for (size_t i = 0; i < q->nnames; i++)
		if (span_eq(SPAN(q->names[i]), namespace))
			return true;
	return !q->nnames;
}
