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

/* `error` NULL: an answer came, with `status`. Called from the loop, never from transport_start(). */
typedef void transport_done_fn(void *arg, long status, const char *error);

/* NULL: *error_r (malloc'ed). */
struct transport *must_check transport_open(struct event_base *base, char **error_r);
struct exchange *must_check transport_start(struct transport *t, const struct target *target, transport_done_fn *done,
					    void *arg);
void transport_cancel(struct exchange **x); /* done is not called */
/* Everything must be done or cancelled before. */
void transport_close(struct transport **t);
#endif
