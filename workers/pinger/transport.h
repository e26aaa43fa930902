/* HTTP requests on the event loop: libcurl's multi socket interface under libevent.
 *
 * libcurl is loaded (dlopen) with the first request that needs it: linking it would cost every
 * process of the daemon 4 ms of start and 28 more libraries, for one that usually has nothing
 * to ask. Names are resolved in libcurl's own thread: nothing here blocks the loop. */
#ifndef ORC_TRANSPORT_H
#define ORC_TRANSPORT_H
#include <event2/event.h>
#include "target.h"

struct transport;
struct exchange; /* one request under way */

struct transport_request {
	const char *url, *method;
	const char *body, *socket, *ca_file, *token; /* each may be NULL; the token goes into Authorization: Bearer */
	char *const *headers;
	size_t nheaders;
	int64_t timeout_us, connect_timeout_us;
	size_t keep;		 /* bytes of the answer's body that are of interest */
	bool direct;		 /* by no proxy */
	const char *traceparent; /* NULL: none */
};
struct transport_answer {
	long status;	       /* 0: none came */
	const char *error;     /* NULL: a whole answer has come */
	struct span body;      /* its first bytes */
	int64_t retry_after_s; /* Retry-After; 0: it says nothing */
	uint32_t took_us;      /* between the last byte of the request's head and the end; without handshakes, which
				* a connection that is still open does not need */
	int64_t tls_expiry_us; /* clock_real_us() of the end of the server's certificate; 0: no new one was shown */
};
/* Called from the loop, never from transport_start(). What `a` points to is valid during the call only. */
typedef void transport_done_fn(void *arg, const struct transport_answer *a);

/* NULL: *error_r (malloc'ed). */
struct transport *must_check transport_open(struct event_base *base, char **error_r);
/* Copies all that it needs of the request. */
struct exchange *must_check transport_start(struct transport *t, const struct transport_request *r,
					    transport_done_fn *done, void *arg);
struct transport_request transport_request_of(const struct target *target, const char *token);
void transport_cancel(struct exchange **x); /* done is not called */
/* Everything must be done or cancelled before. */
void transport_close(struct transport **t);
#endif
