/* Spans as OTLP/JSON (opentelemetry-proto 1.x, ExportTraceServiceRequest): https://opentelemetry.io/docs/specs/otlp/ */
#ifndef ORC_OTLP_H
#define ORC_OTLP_H
#include "trace/trace.h"

struct otlp_resource {
	const char *service, *version, *instance, *host, *store; /* store: db.system.name of spans that ask it */
};
/* A request is otlp_begin(), otlp_span() for each, otlp_end(). */
void otlp_begin(struct buf *b, const struct otlp_resource *r);
/* A record as it came out of a ring: nothing in it is believed. False: it is none, and nothing was written. `first`: of its request. */
bool must_check otlp_span(struct buf *b, const struct otlp_resource *r, const void *record, size_t len, bool first);
void otlp_end(struct buf *b);
/* Spans that a receiver says it has rejected although it answered 200 (partialSuccess); *why_r, malloc'ed, may stay NULL. */
uint64_t otlp_rejected(struct span body, char **why_r);

/* What goes with a request, as trace.headers says it: "name=value,name=value" with %XX in values, as lines "name: value" that
 * the caller frees; NULL: it is only looked at. False, and no line: malformed, or more than OTLP_HEADERS_MAX. */
#define OTLP_HEADERS_MAX 32
bool must_check otlp_headers(const char *text, char **lines, size_t *n_r);
#endif
