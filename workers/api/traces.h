/* Traces of requests (trace/trace.h): a server's span for each, which carries the steps that threads and loop noted on the
 * way. Loop thread only, but for reading call->trace. */
#ifndef ORC_TRACES_H
#define ORC_TRACES_H
#include "api.h"
#include "trace/trace.h"

/* trace.* as it is configured now. */
void traces_conf(struct api *a, const struct conf *c);
/* A new call's trace; NULL without tracing. */
void traces_begin(struct call *c);
/* Before its answer goes out: says in a header which trace it is, when that is sampled. */
void traces_head(struct call *c);
/* The call's answer is given: what is kept of it is written down. Once; later calls do nothing. */
void traces_end(struct call *c);
/* The path that makes no call: a hit of L1 that took so long, which writes a header line to *head_end for a sampled one. Returns the trace's id,
 * 16 bytes, valid until the next call; NULL: it is not sampled. */
#define TRACES_HEAD (sizeof("traceresponse: \r\n") + TRACE_PARENT)
const uint8_t *traces_hit(struct api *a, struct http_request *r, uint64_t ns, size_t bytes, int64_t took_us,
			  char *head_end);
#endif
