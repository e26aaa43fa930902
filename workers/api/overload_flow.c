/* Whose request it is, before it is parsed: what is fair is fair between namespaces, and between credentials where a
 * request names none. A key: who evades it by an odd way to write a body shares a flow with all of his credential. */
#include <ctype.h>
#include <stdlib.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "handlers.h"
#include "overload.h"

#define SCAN_BYTES (128u << 10) /* strings and arrays of numbers are passed over quickly */
#define SALT_PRINCIPAL 0x707269u

/* ---- a body's top ---- */

struct scan {
	const char *p, *end;
};

static void blanks(struct scan *s)
{
	while (s->p < s->end && (*s->p == ' ' || *s->p == '\t' || *s->p == '\n' || *s->p == '\r'))
		s->p++;
}

/* Behind a string whose first quote is passed; its bytes as they are written. */
static bool string(struct scan *s, struct span *r)
{
	const char *from = s->p, *q = from, *back;
	while ((q = memchr(q, '"', (size_t)(s->end - q)))) {
		for (back = q; back > from && back[-1] == '\\'; back--)
			;
		if ((q - back) % 2 == 0)
			break;
		q++;
	}
	s->p = q ? q + 1 : s->end;
	*r = (struct span){from, q ? (size_t)(q - from) : 0};
	return q != NULL;
}

/* Passes over an array without anything nested, such as a vector. Each byte is looked at a few times at most, as no search goes
 * beyond the next bracket that opens. */
static bool flat_array(struct scan *s)
{
	const char *from = s->p + 1, *open = memchr(from, '[', (size_t)(s->end - from));
	const char *shut = memchr(from, ']', (size_t)((open ? open : s->end) - from));
	if (!shut || memchr(from, '"', (size_t)(shut - from)) || memchr(from, '{', (size_t)(shut - from)))
		return false;
	s->p = shut + 1;
	return true;
}

/* To the comma or the brace behind a value. */
static bool value(struct scan *s)
{
	struct span ignored;
	for (size_t depth = 0; s->p < s->end;) {
		switch (*s->p) {
		case '"':
			s->p++;
			if (!string(s, &ignored))
				return false;
			continue;
		case '[':
			if (flat_array(s))
				continue;
			depth++;
			break;
		case '{': depth++; break;
		case '}':
		case ']':
			if (!depth)
				return *s->p == '}';
			depth--;
			break;
		case ',':
			if (!depth)
				return true;
		}
		s->p++;
	}
	return false;
}

bool overload_scan(struct span body, struct span *ns_r, bool *memories_r)
{
	struct scan s = {body.p, body.p + (body.len < SCAN_BYTES ? body.len : SCAN_BYTES)};
	*ns_r = (struct span){NULL, 0};
	*memories_r = false;
	blanks(&s);
	if (s.p >= s.end || *s.p != '{')
		return false;
	do {
		struct span key, text;
		s.p++;
		blanks(&s);
		if (s.p < s.end && *s.p == '}')
			return true;
		if (s.p >= s.end || *s.p++ != '"' || !string(&s, &key))
			return false;
		blanks(&s);
		if (s.p >= s.end || *s.p++ != ':')
			return false;
		blanks(&s);
		if (span_eq(key, SPAN_LIT("memories"))) {
			*memories_r = true;
		} else if (span_eq(key, SPAN_LIT("namespace")) && s.p < s.end && *s.p == '"') {
			s.p++;
			if (!string(&s, &text))
				return false;
			*ns_r = text;
		}
		if (!value(&s))
			return false;
	} while (*s.p == ',');
	return true;
}

/* ---- the flow ---- */

static uint64_t of_principal(const struct call *c)
{
	const struct auth_principal *w = c->who;
	if (w && w->nnamespaces == 1)
		return record_ns(SPAN(w->namespaces[0]));
	const char *name = w && w->name ? w->name : "";
	return XXH3_64bits_withSeed(name, strlen(name), SALT_PRINCIPAL);
}

static bool from_query(struct call *c, uint64_t *flow_r)
{
	char *v = NULL;
	size_t len = 0;
	bool found = http_query(c->req).len && http_query_get(c->req, "namespace", &v, &len) == 1;
	if (found)
		*flow_r = record_ns((struct span){v, len});
	free(v);
	return found;
}

uint64_t overload_flow(struct call *c, bool *memories_r)
{
	uint64_t flow;
	struct span ns;
	void (*h)(struct call *) = c->route->handle;
	*memories_r = false;
	bool body = h == memories_add || h == search_memories;
	bool whole = body && overload_scan(http_body(c->req), &ns, memories_r);
	if (body && ns.p)
		return record_ns(ns);
	if (from_query(c, &flow))
		return flow;
	if (whole || h == list_memories || h == list_count || h == bulk_delete || h == transfer_export ||
	    h == transfer_import)
		return record_ns(SPAN_LIT("default"));
	return of_principal(c);
}
