#include "log_show.h"

#include <arpa/inet.h>
#include <stdlib.h>

#include "clock.h"
#include "vocabulary.h"

static const char *const methods[] = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "-"};

static const char *method_of(const struct reqlog_record *r)
{
	return methods[r->method < ARRAY_LEN(methods) - 1 ? r->method : ARRAY_LEN(methods) - 1];
}

/* ---- filters ---- */

bool log_show_status_ok(const char *text)
{
	for (const char *p = text;; p += 4) {
		bool class = p[0] >= '1' && p[0] <= '5' && p[1] == 'x' && p[2] == 'x';
		bool one = p[0] >= '1' && p[0] <= '9' && p[1] >= '0' && p[1] <= '9' && p[2] >= '0' && p[2] <= '9';
		if ((!class && !one) || (p[3] && p[3] != ','))
			return false;
		if (!p[3])
			return true;
	}
}

static bool status_wanted(const char *text, unsigned status)
{
	for (const char *p = text;; p += 4) {
		if (p[1] == 'x' ? (unsigned)(p[0] - '0') == status / 100 : (unsigned)strtoul(p, NULL, 10) == status)
			return true;
		if (!p[3])
			return false;
	}
}

bool log_show_duration(const char *text, int64_t *us_r)
{
	static const struct {
		const char *unit;
		double us;
	} units[] = {{"", 1e3}, {"us", 1}, {"ms", 1e3}, {"s", 1e6}};
	char *end;
	double v = strtod(text, &end);
	while (*end == ' ')
		end++;
	for (size_t i = 0; i < ARRAY_LEN(units); i++) {
		if (end == text || strcmp(end, units[i].unit) != 0 || !(v >= 0 && v <= 1e9))
			continue;
		*us_r = (int64_t)(v * units[i].us);
		return true;
	}
	return false;
}

static bool has(struct span s, const char *part)
{
	size_t n = strlen(part);
	return n == 0 || (s.len >= n && memmem(s.p, s.len, part, n));
}

static bool is(struct span s, const char *text) { return span_eq(s, SPAN(text)); }

bool log_show_wanted(const struct log_filter *f, const struct reqlog_record *r)
{
	if ((f->status && !status_wanted(f->status, r->status)) || (f->slower_us && r->duration_us < f->slower_us) ||
	    (f->route && !has(reqlog_text_of(r, REQLOG_ROUTE), f->route)) ||
	    (f->namespace && !is(reqlog_text_of(r, REQLOG_NAMESPACE), f->namespace)) ||
	    (f->token && !is(reqlog_text_of(r, REQLOG_TOKEN), f->token)) ||
	    (f->id && !is(reqlog_text_of(r, REQLOG_ID), f->id)))
		return false;
	for (unsigned t = 0; f->grep && t < REQLOG_TEXTS; t++)
		if (has(reqlog_text_of(r, (enum reqlog_text)t), f->grep))
			return true;
	return !f->grep || has(SPAN(method_of(r)), f->grep);
}

/* ---- lines ---- */

/* Whatever a segment holds is text from outside. */
static char *text_of(const struct reqlog_record *r, enum reqlog_text t)
{
	struct span s = reqlog_text_of(r, t);
	char *copy = util_strndup(s.p, s.len);
	util_utf8_scrub(copy, strlen(copy));
	return copy;
}

static void address_of(const struct reqlog_record *r, char out[80])
{
	char ip[INET6_ADDRSTRLEN] = "?";
	if (r->family == 4 || r->family == 6)
		inet_ntop(r->family == 4 ? AF_INET : AF_INET6, r->address, ip, sizeof(ip));
	if (r->family == 4 || r->family == 6)
		snprintf(out, 80, r->family == 4 ? "%s:%u" : "[%s]:%u", ip, (unsigned)r->port);
	else
		snprintf(out, 80, "%s", r->flags & REQLOG_LOCAL ? "unix" : "");
}

static void worker_of(const struct reqlog_record *r, char out[24])
{
	if (r->slot >= SLOT_API0)
		snprintf(out, 24, "api.%u", (unsigned)(r->slot - SLOT_API0));
	else
		snprintf(out, 24, "slot %u", (unsigned)r->slot);
}

static void show_json(const struct reqlog_record *r)
{
	static const char *const names[REQLOG_TEXTS] = {"request_id", "route", "namespace", "token",
							"cache",      "error", "path"};
	char when[CLOCK_TEXT], address[80], worker[24], trace[33];
	clock_format(r->end_us, when);
	address_of(r, address);
	worker_of(r, worker);
	json_t *o = json_pack("{s:s# s:i s:s s:f s:f s:I s:I s:s s:i s:s s:b}", "time", when, CLOCK_TEXT, "status",
			      (int)r->status, "method", method_of(r), "duration_ms", (double)r->duration_us / 1e3,
			      "waited_ms", (double)r->waited_us / 1e3, "bytes_in", (json_int_t)r->bytes_in, "bytes_out",
			      (json_int_t)r->bytes_out, "worker", worker, "pid", (int)r->pid, "client", address, "gone",
			      (r->flags & REQLOG_GONE) != 0);
	AN(o);
	for (unsigned t = 0; t < REQLOG_TEXTS; t++) {
		char *text = text_of(r, (enum reqlog_text)t);
		if (*text)
			json_object_set_new(o, names[t], json_string(text));
		free(text);
	}
	util_hex(r->trace, sizeof(r->trace), trace);
	trace[2 * sizeof(r->trace)] = '\0';
	if (r->passed)
		json_object_set_new(o, "hits_not_noted", json_integer(r->passed));
	if (r->flags & REQLOG_TRACE)
		json_object_set_new(o, "trace_id", json_string(trace));
	char *line = json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(9));
	puts(line ? line : "{}");
	free(line);
	json_decref(o);
}

static void show_named(const struct ctl *c, const struct reqlog_record *r, enum reqlog_text t, const char *name)
{
	char *text = text_of(r, t);
	if (*text) {
		printf(" %s%s=%s", output_colour(c, C_DIM), name, output_colour(c, C_PLAIN));
		output_line(text, 0);
	}
	free(text);
}

static enum colour colour_of(unsigned status)
{
	return status >= 500 ? C_RED : status >= 400 ? C_YELLOW : status >= 200 && status < 300 ? C_GREEN : C_PLAIN;
}

void log_show(const struct ctl *c, const struct reqlog_record *r)
{
	char when[CLOCK_TEXT], address[80], worker[24], status[8];
	if (c->json) {
		show_json(r);
		return;
	}
	clock_format(r->end_us, when);
	address_of(r, address);
	worker_of(r, worker);
	snprintf(status, sizeof(status), r->status ? "%u" : "-", (unsigned)r->status);
	printf("%.23sZ %s%3s%s %-6s %9.3f ms ", when, output_colour(c, colour_of(r->status)), status,
	       output_colour(c, C_PLAIN), method_of(r), (double)r->duration_us / 1e3);
	char *path = text_of(r, REQLOG_PATH);
	output_line(*path ? path : "-", 0);
	free(path);
	show_named(c, r, REQLOG_NAMESPACE, "namespace");
	show_named(c, r, REQLOG_TOKEN, "token");
	show_named(c, r, REQLOG_CACHE, "cache");
	show_named(c, r, REQLOG_ERROR, "error");
	if (r->waited_us >= 1000)
		printf(" %swaited=%s%.3fms", output_colour(c, C_DIM), output_colour(c, C_PLAIN),
		       (double)r->waited_us / 1e3);
	if (r->flags & REQLOG_GONE)
		printf(" %sgone%s", output_colour(c, C_YELLOW), output_colour(c, C_PLAIN));
	if (r->passed)
		printf(" %shits-not-noted=%s%u", output_colour(c, C_DIM), output_colour(c, C_PLAIN),
		       (unsigned)r->passed);
	printf(" %sin=%s%llu %sout=%s%llu", output_colour(c, C_DIM), output_colour(c, C_PLAIN),
	       (unsigned long long)r->bytes_in, output_colour(c, C_DIM), output_colour(c, C_PLAIN),
	       (unsigned long long)r->bytes_out);
	show_named(c, r, REQLOG_ID, "id");
	printf(" %s%s %s%s\n", output_colour(c, C_DIM), address, worker, output_colour(c, C_PLAIN));
}
