/* The HTTP/1.1 engine: libevent's loop, plain non-blocking sockets, llhttp in strict mode.
 *
 * One read fills the connection's input buffer; every request in it is parsed and handed to the
 * handler in turn; replies that are ready go out together in one writev. A handler may answer at
 * once or later: until then parsing of that connection rests (one request in flight per
 * connection), so replies keep their order. The write event is armed only after EAGAIN.
 *
 * Whatever a handler calls (http_reply() etc.) only appends output and returns: sending, freeing and the
 * next request of the connection come after the handler, or in a later pass of the loop.
 *
 * Every wait has a limit: idle keep-alive, an absolute deadline for the head and for the body of a
 * request (slow writers get 408), no progress on output (slow readers are dropped). After an error
 * answer: half-close, drain at most 1 s, close. */
#ifndef ORC_HTTP_H
#define ORC_HTTP_H
#include <event2/event.h>
#include <sys/socket.h>
#include "util.h"
#include "stats.h"

/* Other methods are refused with 501 by the engine; no handler sees HTTP_M_OTHER. */
enum http_method {
	HTTP_M_GET,
	HTTP_M_HEAD,
	HTTP_M_POST,
	HTTP_M_PUT,
	HTTP_M_PATCH,
	HTTP_M_DELETE,
	HTTP_M_OPTIONS,
	HTTP_M_OTHER
};

struct http_limits {
	size_t head_bytes; /* request line + headers (default 32 KiB): 431 / 414 */
	size_t body_bytes; /* default 64 MiB: 413 */
	unsigned headers;  /* default 100: 431 */
	unsigned head_timeout_ms, body_timeout_ms, idle_timeout_ms, write_timeout_ms;
	unsigned max_connections; /* beyond: 503 + close */
	size_t buffered_bytes;	  /* request bodies buffered over all connections: 503 + Retry-After beyond; and as much
				     * of replies that clients do not take: beyond, the slowest readers are dropped */
};

struct http_server;
struct http_request; /* valid from the handler call until it is answered */

/* Headers the engine keeps by number because handlers ask for them on every request. */
enum http_header {
	HTTP_H_HOST,
	HTTP_H_ORIGIN,
	HTTP_H_AUTHORIZATION,
	HTTP_H_CONTENT_TYPE,
	HTTP_H_IF_MATCH,
	HTTP_H_IF_NONE_MATCH,
	HTTP_H_IDEMPOTENCY_KEY,
	HTTP_H_ACCEPT,
	HTTP_H_TRACEPARENT,
	HTTP_H_REQUEST_ID,
	HTTP_H_CACHE_CONTROL,
	HTTP_H_COUNT
};

struct http_callbacks {
	/* After the head, before any body byte. Fill *stream_r with true to receive the body in pieces
	 * (on_body) instead of buffered; body_bytes does not limit it then, but it must come at 64 KiB per
	 * body_timeout at least. May answer at once (e.g. 401): the body is then drained or the connection
	 * closed. Unless it answers or streams, the request is not the handler's before on_request: it may
	 * leave a pointer in http_user(), but not keep `r`. NULL: all bodies are buffered. */
	void (*on_head)(void *arg, struct http_request *r, bool *stream_r);
	/* The whole request is here (body complete in the buffer; for streamed ones: the last piece was delivered). */
	void (*on_request)(void *arg, struct http_request *r);
	/* A piece of a streamed body. Return false to pause reading; a later http_resume() goes on. */
	bool (*on_body)(void *arg, struct http_request *r, const char *p, size_t n);
	/* The client went away before the answer, or closed its sending half while waiting for it (which
	 * looks the same on TCP): the moment to give up expensive work. The request stays valid until
	 * http_reply()/http_end()/http_abort() is called, which then only frees it, or, for the half-closed
	 * client, still sends (http_gone() tells which). Called once, but for a streamed answer again when a half-closed
	 * client has gone wholly. For a request that failed before
	 * on_request it is called only if http_user() was set; then it need not be answered. May be NULL. */
	void (*on_gone)(void *arg, struct http_request *r);
	/* The engine refuses a request by itself (400, 408, 413, 414, 417, 431, 501, 503, 505): writes the
	 * problem body of that answer into `b`; `id` is the request's. NULL: empty bodies. */
	void (*on_refused)(void *arg, int status, const char *detail, struct span id, struct buf *b);
	/* There are too many connections, and this request has come on one more: is it so cheap and so important (a probe) that
	 * it is answered all the same? Asked at its head. NULL: such connections are refused without being read. */
	bool (*on_spare)(void *arg, struct http_request *r);
};

struct http_server *must_check http_server_new(struct event_base *base, const struct http_limits *l,
					       const struct http_callbacks *cb, void *arg, struct stats_slot *stats);
/* Accepts on a listening socket (borrowed, non-blocking). unix_peer: requests report peer credentials. */
int must_check http_server_listen(struct http_server *s, int fd);
void http_server_set_limits(struct http_server *s, const struct http_limits *l);
/* Stops accepting, and answers what comes on the connections that there are with Connection: close. */
void http_server_drain(struct http_server *s);
/* And closes the idle ones, unless a request waits in the socket. */
void http_server_close_idle(struct http_server *s);
unsigned http_server_connections(const struct http_server *s);
size_t http_server_waiting(const struct http_server *s);    /* connections whose sockets are to be read */
int64_t http_server_behind_us(const struct http_server *s); /* so long the first of them has waited; 0: there is none */
void http_server_free(struct http_server **s);

/* ---- the request ---- */
enum http_method http_method(const struct http_request *r);
struct span http_method_text(const struct http_request *r);
struct span http_path(const struct http_request *r);			   /* raw, without the query */
struct span http_query(const struct http_request *r);			   /* raw, without '?' */
struct span http_header(const struct http_request *r, enum http_header h); /* p NULL = absent */
struct span http_header_named(const struct http_request *r, const char *lower_name);
struct span http_body(const struct http_request *r);
/* Takes the body buffer over (malloc'ed, caller frees); for handing it to a thread. */
char *http_body_take(struct http_request *r, size_t *len_r);
bool http_gone(const struct http_request *r); /* nobody will get the answer any more */
/* Unix socket peer: true and uid; TCP: false. */
bool http_peer_uid(const struct http_request *r, unsigned *uid_r);
bool http_peer_pid(const struct http_request *r, int *pid_r); /* the same; 0: it is of another PID namespace */
bool http_peer_tls(const struct http_request *r);
bool http_peer_loopback(const struct http_request *r); /* loopback TCP or Unix socket */
/* Where the request comes from; address as in sockaddr_in and sockaddr_in6. */
struct http_peer {
	uint8_t family; /* 4, 6; 0: a Unix socket, or not known */
	bool local;	/* a Unix socket */
	uint16_t port;
	uint8_t address[16];
};
struct http_peer http_peer(const struct http_request *r);
int64_t http_began_ns(const struct http_request *r);  /* clock_mono_ns(): its first byte was read; 0: not by a socket */
uint64_t http_bytes_in(const struct http_request *r); /* head and body, as far as it was read */
uint64_t http_bytes_out(const struct http_request *r); /* of a streamed answer's body, so far */
void **http_user(struct http_request *r);	       /* a pointer for the handler's own state */
/* Its duration, from its first byte until the kernel has been given the answer, is recorded for this route of stats.h. */
void http_time_as(struct http_request *r, unsigned route);
/* Whose the request is. While more comes than is read, flows get equal shares: what comes next on this connection is taken to
 * be of the same. 0: nobody's that is known. */
void http_flow(struct http_request *r, uint64_t flow);
int64_t http_waited_us(const struct http_request *r); /* so long it waited to be read while others were */
/* clock_real_us() as of the read that the request came with, where that was just now: saves reading the clock again. */
int64_t http_real_us(const struct http_request *r);
/* "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01" (W3C Trace Context): lower-case digits, no part all zero, no
 * version ff; versions to come may append "-…". parent, flags_r: NULL where the caller's span and its flags are of no interest. */
bool must_check http_trace_parse(struct span traceparent, unsigned char id[16], unsigned char parent[8],
				 unsigned char *flags_r);
/* A request id: the client's X-Request-Id when sane, else ours. ≤ 64 bytes. */
struct span http_request_id(struct http_request *r);
/* Decodes %XX (and + when `plus`) of a query or path part into out (cap ≥ in.len). -1: malformed; so is
 * %00: nothing of ours has a NUL in its name, and C strings end at one. */
ptrdiff_t http_percent_decode(struct span in, bool plus, char *out);
/* Finds `name` in the query string; the decoded value is malloc'ed into *out_r. 0 = absent, 1 = found, -1 = malformed. */
int http_query_get(const struct http_request *r, const char *name, char **out_r, size_t *len_r);

/* ---- the answer ---- */
/* `head` holds extra header lines, each ending in CRLF ("ETag: \"3\"\r\n"), or "". Date, Content-Length, Content-Type, X-Request-Id,
 * Connection come from the engine. Body is copied. */
void http_reply(struct http_request *r, int status, const char *content_type, const char *head, const void *body,
		size_t len);
/* The same for who knows the lengths. */
void http_reply_spans(struct http_request *r, int status, struct span content_type, struct span head, const void *body,
		      size_t len);
/* Zero-copy into the output: reserves `len` body bytes right behind the head and returns where to write them;
 * http_reply_done(actual) sends. Nothing else of this connection may be touched in between. */
char *http_reply_begin(struct http_request *r, int status, const char *content_type, const char *head, size_t max_len);
void http_reply_done(struct http_request *r, size_t len);
/* Streamed answer (chunked on 1.1). http_write() returns false when more than 256 KiB wait:
 * go on when on_drain is called. */
void http_stream_begin(struct http_request *r, int status, const char *content_type, const char *head,
		       void (*on_drain)(void *arg, struct http_request *r));
bool http_write(struct http_request *r, const void *p, size_t n);
void http_end(struct http_request *r); /* last chunk; frees the request */
/* Before http_reply(): the answer goes out later, when it is its turn among those that are held back, so much at most; and what else
 * comes on this connection waits behind it. False: at once all the same, as other answers wait before it, or while draining, or
 * because half of all connections that may be are held back. */
bool http_hold(struct http_request *r, unsigned most_ms);
/* How many are, and how many of them go a second, the first first; 0: each when its time is over. */
size_t http_server_held(const struct http_server *s);
void http_server_hold_pace(struct http_server *s, unsigned per_second);
void http_abort(struct http_request *r); /* cut the connection: a stream that failed must not look complete */
/* Streamed bodies: go on after on_body returned false. */
void http_resume(struct http_request *r);
#endif
