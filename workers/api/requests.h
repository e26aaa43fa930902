/* What is noted of each request: a record of the request log in shared memory (reqlog.h), and the ids that every line
 * carries which is logged meanwhile. */
#ifndef ORC_REQUESTS_H
#define ORC_REQUESTS_H
#include "api.h"

/* A record of the call's answer: once, by the one that gives it or, for a stream, at its end. */
void requests_note(struct call *c);
/* The same for the path that makes no call: 200 with n bytes of body, out of L1; begun and over at these real times (over: 0,
 * now); `trace` NULL: its traceparent says. */
void requests_note_hit(struct api *a, struct http_request *r, const struct auth_principal *who, uint64_t ns, size_t n,
		       int64_t since_us, int64_t end_us, const uint8_t *trace);
/* The engine has refused something that became no request. */
void requests_note_refused(struct api *a, int status, const char *type, struct span id);
/* Cache-Status of its answer; empty: it has none. */
struct span requests_cache_status(const struct call *c);
/* The namespace that the call turned out to be about. */
void requests_note_namespace(struct call *c, struct span ns);

/* From here to requests_leave() this thread is at that request, NULL: at none. */
void requests_enter(struct http_request *r);
void requests_leave(void);
#endif
