/* How a line looks: text for people, a JSON object for collectors (its names are those that Google Cloud Logging reads as
 * well), fields for the journal. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "clock.h"
#include "log-private.h"
#include "log_redact.h"

static const char *const levels[LOG_LEVELS] = {"error", "warn", "info", "debug"};
static const char *const severities[LOG_LEVELS] = {"ERROR", "WARNING", "INFO", "DEBUG"};
static const int priorities[LOG_LEVELS] = {3, 4, 6, 7}; /* syslog's */

/* Text behind a limit is cut, so that what must come behind it has room. */
struct out {
	char *p;
	size_t n, cap;
};

static void put(struct out *o, const char *p, size_t len)
{
	size_t room = o->cap - o->n;
	len = len < room ? len : room;
	memcpy(o->p + o->n, p, len);
	o->n += len;
}

static void puts_(struct out *o, const char *s) { put(o, s, strlen(s)); }

static void put_number(struct out *o, long long n)
{
	char digits[24];
	put(o, digits, (size_t)snprintf(digits, sizeof(digits), "%lld", n));
}

void log_make_safe(char *s)
{
	util_utf8_scrub(s, strlen(s));
	for (; *s; s++) {
		unsigned char c = (unsigned char)*s;
		if (c < 0x20 || c == 0x7f)
			*s = ' ';
		else if (c == 0xc2 && (unsigned char)s[1] < 0xa0) /* C1: as good as an escape to some terminals */
			s[0] = s[1] = '?';
	}
}

/* Bytes of the character at p, which is well-formed. */
static size_t character(const char *p)
{
	unsigned char c = (unsigned char)*p;
	return c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
}

/* Whole characters only, as long as there is room. */
static void put_text(struct out *o, const char *s)
{
	for (size_t n; *s; s += n) {
		n = character(s);
		if (o->cap - o->n < n)
			return;
		put(o, s, n);
	}
}

static void put_escaped(struct out *o, const char *s)
{
	for (size_t n; *s; s += n) {
		bool escape = *s == '"' || *s == '\\';
		n = character(s);
		if (o->cap - o->n < n + escape)
			return;
		if (escape)
			put(o, "\\", 1);
		put(o, s, n);
	}
}

/* A field's text comes from anywhere, as the message does. */
static const char *safe(const struct log_field *f, char *space, size_t cap)
{
	log_redact(space, cap, f->text);
	log_make_safe(space);
	return space;
}

size_t log_format_text(const struct log_line *l, char out[LOG_LINE_BYTES])
{
	struct out o = {out, 0, LOG_LINE_BYTES - 1};
	const struct log_site *s = l->site;
	char when[CLOCK_TEXT], head[128], tail[192] = "";
	clock_format(l->now_us, when);
	int n = snprintf(head, sizeof(head), "%.23sZ %-5s %s[%d]: ", when, levels[s->level], l->who, (int)getpid());
	puts_(&o, n > 0 ? head : "");
	if (s->event || *l->request->id)
		snprintf(tail, sizeof(tail), "%s%s%s%s", s->event ? " event=" : "", log_event_name(s->event),
			 *l->request->id ? " request_id=" : "", l->request->id);
	o.cap -= strlen(tail);
	put_text(&o, l->text);
	o.cap += strlen(tail);
	puts_(&o, tail);
	out[o.n++] = '\n';
	return o.n;
}

static void member(struct out *o, const char *name, const char *text)
{
	if (!*text)
		return;
	puts_(o, ",\"");
	puts_(o, name);
	puts_(o, "\":\"");
	put_escaped(o, text);
	puts_(o, "\"");
}

/* The trace as Google's collector wants it, when we know whose project this is. */
static void json_trace(struct out *o, const struct log_request *r)
{
	const char *project = getenv("GOOGLE_CLOUD_PROJECT");
	char name[192];
	if (!*r->trace)
		return;
	if (project && *project)
		snprintf(name, sizeof(name), "projects/%.100s/traces/%s", project, r->trace);
	else
		snprintf(name, sizeof(name), "%s", r->trace);
	log_make_safe(name);
	member(o, "logging.googleapis.com/trace", name);
	member(o, "logging.googleapis.com/spanId", r->span);
}

size_t log_format_json(const struct log_line *l, char out[LOG_LINE_BYTES])
{
	struct out o = {out, 0, LOG_LINE_BYTES - 3};
	const struct log_site *s = l->site;
	char when[CLOCK_TEXT], space[512];
	clock_format(l->now_us, when);
	puts_(&o, "{\"time\":\"");
	put(&o, when, strnlen(when, sizeof(when)));
	puts_(&o, "\"");
	member(&o, "level", levels[s->level]);
	member(&o, "severity", severities[s->level]);
	member(&o, "process", l->who);
	puts_(&o, ",\"pid\":");
	put_number(&o, (long long)getpid());
	member(&o, "subsystem", log_subsystem_name(s->subsystem));
	member(&o, "event", log_event_name(s->event));
	member(&o, "request_id", l->request->id);
	json_trace(&o, l->request);
	size_t cap = o.cap;
	for (const struct log_field *f = l->fields; f && f->name && cap - o.n > 1200; f++) {
		o.cap = o.n + 600; /* each whole, and room for the message */
		if (f->text) {
			member(&o, f->name, safe(f, space, sizeof(space) / 2));
		} else {
			puts_(&o, ",\"");
			puts_(&o, f->name);
			puts_(&o, "\":");
			put_number(&o, f->number);
		}
	}
	o.cap = cap;
	puts_(&o, ",\"message\":\"");
	put_escaped(&o, l->text);
	memcpy(out + o.n, "\"}\n", 3);
	return o.n + 3;
}

static void journal_field(struct out *o, const char *prefix, const char *name, const char *text)
{
	puts_(o, prefix);
	for (const char *p = name; *p && o->n < o->cap; p++)
		o->p[o->n++] = (char)toupper((unsigned char)*p);
	puts_(o, "=");
	put_text(o, text);
	puts_(o, "\n");
}

static void journal_number(struct out *o, const char *prefix, const char *name, long long n)
{
	char digits[24];
	snprintf(digits, sizeof(digits), "%lld", n);
	journal_field(o, prefix, name, digits);
}

static void journal_request(struct out *o, const struct log_request *r)
{
	if (*r->id)
		journal_field(o, "ORCHESTRA_", "REQUEST_ID", r->id);
	if (*r->trace)
		journal_field(o, "ORCHESTRA_", "TRACE_ID", r->trace);
}

/* A field is a line: its text has no newline since log_make_safe(). */
size_t log_format_journal(const struct log_line *l, char out[LOG_LINE_BYTES])
{
	struct out o = {out, 0, LOG_LINE_BYTES};
	const struct log_site *s = l->site;
	char space[256];
	journal_number(&o, "", "PRIORITY", priorities[s->level]);
	journal_field(&o, "", "SYSLOG_IDENTIFIER", "orchestrad");
	journal_number(&o, "", "SYSLOG_PID", (long long)getpid());
	journal_field(&o, "ORCHESTRA_", "ROLE", l->who);
	journal_field(&o, "ORCHESTRA_", "SUBSYSTEM", log_subsystem_name(s->subsystem));
	if (s->event)
		journal_field(&o, "ORCHESTRA_", "EVENT", log_event_name(s->event));
	journal_request(&o, l->request);
	journal_field(&o, "CODE_", "FILE", s->file);
	journal_number(&o, "CODE_", "LINE", s->line);
	journal_field(&o, "CODE_", "FUNC", s->func);
	for (const struct log_field *f = l->fields; f && f->name && o.n < 2048; f++) {
		if (f->text)
			journal_field(&o, "ORCHESTRA_", f->name, safe(f, space, sizeof(space)));
		else
			journal_number(&o, "ORCHESTRA_", f->name, f->number);
	}
	o.cap = LOG_LINE_BYTES - 1;
	puts_(&o, "MESSAGE=");
	put_text(&o, l->text);
	out[o.n++] = '\n';
	return o.n;
}
