/* Errors as RFC 9457 problem JSON. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "api.h"

#define PROBLEM_USUAL 640 /* bytes */

static const char *title(int status)
{
	switch (status) {
	case 400: return "Bad request";
	case 401: return "Authentication required";
	case 403: return "Forbidden";
	case 404: return "Not found";
	case 405: return "Method not allowed";
	case 408: return "Request timeout";
	case 409: return "Conflict";
	case 410: return "Gone";
	case 412: return "Precondition failed";
	case 413: return "Too large";
	case 414: return "Request target too long";
	case 415: return "Unsupported media type";
	case 417: return "Expectation failed";
	case 421: return "Misdirected request";
	case 429: return "Too many requests";
	case 431: return "Request header too large";
	case 501: return "Not implemented";
	case 503: return "Temporarily unavailable";
	case 505: return "HTTP version not supported";
	case 507: return "Out of storage";
	}
	return status < 500 ? "Request refused" : "Internal error";
}

void problem_write(struct buf *b, int status, const char *type, const char *detail, struct span request_id)
{
	/* Without printf: under overload there may be more of these than of anything else. */
	buf_reserve(b, PROBLEM_USUAL);
	buf_adds(b, "{\"type\":\"urn:orchestra:problem:");
	buf_adds(b, type);
	buf_adds(b, "\",\"title\":\"");
	buf_adds(b, title(status));
	buf_adds(b, "\",\"status\":");
	buf_addu(b, (uint64_t)status);
	buf_adds(b, ",\"detail\":");
	json_out_string(b, SPAN(detail));
	if (request_id.len) {
		buf_adds(b, ",\"request_id\":");
		json_out_string(b, request_id);
	}
	buf_addc(b, '}');
}

void problem_text(struct call *c, int status, const char *type, const char *detail)
{
	c->reply.status = status;
	c->problem = type;
	c->reply.content_type = "application/problem+json";
	c->reply.head.len = c->reply.body.len = 0;
	if (status == 503 || status == 429 || status == 507)
		buf_adds(&c->reply.head, status == 507 ? "Retry-After: 30\r\n" : "Retry-After: 1\r\n");
	problem_write(&c->reply.body, status, type, detail, c->req ? http_request_id(c->req) : (struct span){NULL, 0});
}

void problem(struct call *c, int status, const char *type, const char *fmt, ...)
{
	char detail[1024];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(detail, sizeof(detail), fmt, ap);
	va_end(ap);
	/* A precision may cut a character in two, and paths may hold any byte. */
	util_utf8_scrub(detail, strlen(detail));
	problem_text(c, status, type, detail);
}

void problem_later(struct call *c, uint32_t seconds)
{
	c->reply.head.len = 0;
	buf_adds(&c->reply.head, "Retry-After: ");
	buf_addu(&c->reply.head, seconds);
	buf_adds(&c->reply.head, "\r\n");
}

void problem_store(struct call *c, const char *internal)
{
	if (c->api->errors_full)
		problem(c, 503, "store-unavailable", "the store cannot be read: %s; try again", internal);
	else
		problem(c, 503, "store-unavailable", "the store cannot be read at the moment; try again");
}

void problem_no_namespace(struct call *c)
{
	if (plant_store_known(c->api->plant))
		problem(c, 404, "not-found", "no such namespace");
	else
		problem_store(c, "it was not reached yet, so which namespaces there are is not known");
}

void problem_starting(struct call *c) { problem(c, 503, "starting", "the daemon is starting; try again in a second"); }
