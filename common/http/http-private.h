/* For the files of common/http only: the connection, the request and what they borrow from the server.
 *
 * Who may free what: a request is released only by http_step_run(), a connection only by the turn
 * (server.c), both with no handler of that connection on the stack. Everything a handler can call
 * merely appends output, sets flags and puts the connection on the turn list. */
#ifndef ORC_HTTP_PRIVATE_H
#define ORC_HTTP_PRIVATE_H
#include <llhttp.h>
#include "fair.h"
#include "http/tls.h"

#define HTTP_IN_SIZE (32u * 1024)	      /* one read; a head and body that fit are never copied */
#define HTTP_OUT_SIZE (32u * 1024)	      /* output buffers up to this size are pooled */
#define HTTP_OUT_HIGH (256u * 1024)	      /* more unsent output: parse and write no further */
#define HTTP_OUT_LOW (64u * 1024)	      /* on_drain at or below */
#define HTTP_PARK_MAX 2048u		      /* the beginning of a head up to this size moves to memory of its own */
#define HTTP_POOL_MAX 64u		      /* free buffers kept of each kind */
#define HTTP_SKIP_MAX (64u * 1024)	      /* rest of a body after an early answer: up to this it is skipped */
#define HTTP_FRAME_MAX (16u * 1024)	      /* chunk extensions of a whole request */
#define HTTP_HEAD_CEILING (16u * 1024 * 1024) /* whatever the limits say: positions in a head have 32 bits */
#define HTTP_FIELDS_CEILING 10000u
#define HTTP_LINGER_MS 1000
#define HTTP_SPARE_MS 500 /* for the head of a request on a connection that is one too many */
#define HTTP_TICK_MS 100
#define HTTP_WHEEL_SLOTS 256u
#define HTTP_NEVER INT64_MAX
#define HTTP_ID_MAX 64
#define HTTP_MEMOS 32 /* of header sections: of about so many kinds of clients at once */

struct http_field {
	const char *name, *value;
	uint32_t name_len, value_len;
};

/* Where the search for the end of the head stands; offsets from the first byte of the request. */
struct http_scan {
	uint32_t at;	/* next byte to look at */
	uint32_t line;	/* first byte of the current line */
	uint32_t lines; /* complete lines so far */
	uint32_t first; /* length of the request line, without CRLF */
};
enum http_scan_result { HTTP_SCAN_MORE, HTTP_SCAN_DONE, HTTP_SCAN_BAD };

struct http_joined { /* header lines that were put together */
	struct http_joined *next;
	char p[];
};

struct http_request {
	struct http_conn *c;
	struct http_request *next_free;
	llhttp_t parser;
	/* ---- from here to `id` zeroed for every request ---- */
	enum http_method method;
	struct span method_text, path, query;
	struct span known[HTTP_H_COUNT];
	struct span te, length_text, expect;
	uint64_t length;	      /* Content-Length */
	uint64_t bytes_in, bytes_out; /* of streamed bodies */
	uint32_t head_len;
	void *user;
	void (*on_drain)(void *arg, struct http_request *r);
	char *body; /* in the input buffer, or malloc'ed when body_own */
	size_t body_len, body_cap, charged;
	uint64_t streamed; /* body bytes since the deadline was last moved */
	struct http_joined *joined;
	char *scratch; /* http_reply_begin() of a request whose client is gone */
	size_t begin_at, body_at, len_at, begin_digits;
	const char *frame; /* chunked: framing bytes from here on are not checked yet */
	uint32_t extension_bytes, trailer_bytes, trailers;
	uint16_t refuse; /* status a parser callback wants */
	const char *why;
	int64_t began_ns;  /* its first byte was read */
	int64_t waited_us; /* before that */
	unsigned hold_ms;  /* so long its answer is to wait */
	uint16_t route;	   /* stats.h, and 1; 0: not to be timed */
	uint16_t n_fields;
	uint8_t minor, id_len;
	bool has_host, expect_continue, keep, chunked, head_done, body_done, body_own;
	bool stream_in; /* the body goes to on_body */
	bool owned;	/* the handler has it: it must answer before it is released */
	bool gone;	/* nobody waits for the answer any more */
	bool told;	/* on_gone was called */
	bool answered;	/* a status line is in the output */
	bool stream_out, tx_chunked, no_body, want_drain;
	bool ended;	 /* the answer is complete: release */
	bool aborted;	 /* http_abort(): the answer must not look complete */
	char frame_last; /* chunked: the last framing byte */
	char id[HTTP_ID_MAX];
	unsigned cap_fields;
	struct http_field fields[];
};

enum http_rx {
	HTTP_RX_HEAD, /* waiting for, or in, a head */
	HTTP_RX_BODY, /* Content-Length bytes to come: body_left */
	HTTP_RX_CHUNKED,
	HTTP_RX_WAIT, /* the request is complete, its answer is not */
	HTTP_RX_SKIP, /* answered early: body_left bytes to throw away */
	HTTP_RX_OFF   /* nothing that comes is read any more */
};
enum http_phase { HTTP_PH_NONE, HTTP_PH_IDLE, HTTP_PH_HEAD, HTTP_PH_BODY, HTTP_PH_WAIT, HTTP_PH_LINGER };

/* A request whose answer lies in the output, until that is sent. */
struct http_timed {
	int64_t began_ns;
	uint16_t route, n; /* n: pipelined requests that came with the same read */
	bool traced;
	unsigned char trace[16];
};
#define HTTP_TIMED_MAX 2 /* of pipelined ones; more are recorded before they are sent */

struct http_conn {
	struct http_server *s;
	struct http_request *r;
	struct http_tls_conn *tls; /* NULL: plain text */
	int fd;
	enum http_rx rx;
	enum http_phase phase;
	/* input: [in_pos, in_len) is not parsed yet; bytes before `pin` belong to the request */
	char *in;
	uint32_t in_cap, in_len, in_pos, pin;
	struct http_scan scan;
	uint64_t body_left;
	/* output: [out_off, out_len) is not sent yet */
	char *out;
	size_t out_cap, out_len, out_off;
	size_t out_charged;	   /* counted in s->unsent */
	int64_t read_ns, began_ns; /* the last read that may begin a request; the head that is being read began */
	unsigned n_timed;
	struct http_timed timed[HTTP_TIMED_MAX];
	int64_t in_deadline, out_deadline;
	bool more; /* edge-triggered: there may be unread bytes that no event will report */
	bool hup;  /* the peer has closed its side: read until the end */
	bool running, queued, reading, writing, paused, eof, dead, broken, closing, lingering, unread, served;
	bool rested; /* no head was looked for, as too much output waits, or what there is is held back */
	bool unix_peer, loopback, has_uid;
	uint8_t memo;	      /* where its header section is, if it is the same again, */
	uint64_t memo_serial; /* and is still that one; 0: it has shown none */
	bool over;	      /* accepted beyond max_connections: answers what on_spare() lets through, and ends */
	unsigned uid;
	struct http_peer peer;
	int pid;	  /* of who made the connection */
	struct buf *sink; /* tests: output goes here, there is no socket */
	struct event *ev_read, *ev_write;
	struct http_conn *next, **pprev; /* all connections */
	struct http_conn *turn_next;
	struct http_conn *w_next, **w_pprev; /* slot of the wheel */
	uint64_t w_tick;
	struct http_conn *o_next, *o_prev; /* holders of unsent output */
	int64_t o_since;		   /* out_deadline when it came to the end of that list */
	struct fair_item ready;		   /* it waits to be read */
	int64_t held_ms;		   /* its output waits until then; 0: it does not */
	struct http_conn *h_next, *h_prev; /* of those */
	uint64_t flow;			   /* whose its last request was; 0: nobody's that is known */
	int64_t waited_us;		   /* before the read at hand */
};

struct http_listener {
	struct http_listener *next;
	struct http_server *s;
	struct event *ev;
	int fd;
	bool unix_peer, tls;
};

struct http_server {
	struct event_base *base;
	struct http_limits lim;
	struct http_callbacks cb;
	void *arg;
	struct stats_slot *stats, *own_stats;
	struct http_tls *tls; /* for connections to come */
	struct http_listener *listeners;
	struct http_conn *conns;
	unsigned n_open, n_conns; /* with a socket; all */
	bool draining, close_idle, in_turn, accept_paused;
	struct http_conn *turn_first, **turn_last;
	struct event *ev_turn, *ev_tick, *ev_accept;
	short ev_read_flags;
	int64_t now_ms;
	struct http_conn *slot[HTTP_WHEEL_SLOTS];
	uint64_t tick, armed;
	int64_t date_s;
	int64_t real_offset_us; /* of the real clock before the monotonic one, as http_real_us() found it */
	int64_t coarse_s;	/* while fresh: the real clock's second, as http_real_us() saw it; 0: it did not look */
	int64_t checked_ns;	/* when that was found to be right still */
	bool fresh;		/* c->read_ns of the connection that is being stepped is of just now */
	char date[38];		/* "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n" is 37 */
	char *in_free[HTTP_POOL_MAX], *out_free[HTTP_POOL_MAX];
	unsigned n_in_free, n_out_free, n_req_free;
	struct http_request *req_free;
	size_t buffered;
	size_t unsent;			    /* output buffers of connections whose clients do not take it */
	struct http_conn *o_first, *o_last; /* these connections: first the one without progress for the longest */
	uint64_t id_seed, id_count;
	llhttp_settings_t settings;
	struct http_memo *memo[HTTP_MEMOS];
	uint64_t memo_serial;
	struct fair *ready; /* connections that wait to be read; by flow */
	struct event *ev_ready;
	struct http_conn *hold_first, *hold_last; /* whose output is held back */
	unsigned n_held, hold_spread;		  /* … and over so many ms those go that fell due together */
	unsigned hold_pace;			  /* go a second, due or not; */
	int64_t hold_paced_ms;			  /* until when that was done */
	struct event *ev_hold;
};

/* scan.c */
enum http_scan_result http_scan_head(struct http_scan *st, const char *p, size_t len, const char **why_r);

/* parse.c: 0, or the status of the refusal. The head is [p, p+len), complete and scanned. */
void http_parse_settings(llhttp_settings_t *s);
int http_parse_head(struct http_request *r, char *p, size_t len, size_t first_len, const char **why_r);
int http_parse_line(struct http_request *r, char *p, size_t len, const char **why_r); /* the request line alone */
/* Feeds chunked body bytes; sets r->body_done at the end. *used_r: bytes eaten. */
int http_parse_chunks(struct http_request *r, const char *p, size_t len, size_t *used_r, const char **why_r);

/* memo.c */
/* What is known of a head that begins at p and is here whole; NULL: nothing. *first_r: length of its request line. */
const struct http_memo *http_memo_find(const struct http_conn *c, const char *p, size_t avail, size_t *first_r);
size_t http_memo_len(const struct http_memo *m);
/* Makes of the section at `section` what the parser made of it. False: not with this request line. */
bool must_check http_memo_take(const struct http_memo *m, struct http_request *r, const char *section);
/* The parser has taken this section of `len` bytes. */
void http_memo_keep(struct http_conn *c, const struct http_request *r, const char *section, size_t len);
void http_memo_free(struct http_server *s);

/* request.c */
struct http_request *http_request_take(struct http_conn *c);
void http_request_release(struct http_request *r);
void http_request_pool_free(struct http_server *s);
void http_request_make_id(struct http_server *s, char out[16]);
/* Room for `more` body bytes; 0 or the status of the refusal (413, 503). */
int must_check http_request_body_reserve(struct http_request *r, size_t more);
void http_request_body_charge(struct http_request *r, size_t n);

/* reply.c */
void http_reply_refusal(struct http_conn *c, int status, const char *why, bool no_body);
void http_reply_continue(struct http_conn *c);

/* step.c */
void http_step_run(struct http_conn *c);	 /* parses and answers as far as possible */
bool http_step_keeps(const struct http_conn *c); /* can another request follow this answer? */

/* timing.c */
void http_timing_done(struct http_conn *c, const struct http_request *r); /* its answer is in the output */
void http_timing_record(struct http_conn *c);				  /* what is there was sent */

/* conn.c */
void http_conn_init(struct http_conn *c);
void http_conn_touch(struct http_conn *c);  /* a handler did something: there will be a turn for it */
void http_conn_settle(struct http_conn *c); /* end of turn: flush, deadlines, buffers, events */
void http_conn_turn(struct http_conn *c);   /* what the turn list does for each */
void http_conn_refuse(struct http_conn *c, int status, const char *why);
void http_conn_close(struct http_conn *c); /* socket and events go; the struct stays until the turn */
void http_conn_cut(struct http_conn *c);   /* the same with a reset */
void http_conn_read(struct http_conn *c, int64_t waited_us);
void http_conn_timeout(struct http_conn *c);
void http_conn_drain(struct http_conn *c);
void http_conn_on_read(evutil_socket_t fd, short what, void *arg);
void http_conn_on_write(evutil_socket_t fd, short what, void *arg);
/* Takes bytes as if a read had returned them (also the fuzzer's way in). */
void http_conn_feed(struct http_conn *c, const char *p, size_t n);

/* io.c */
ssize_t http_io_fill(struct http_conn *c); /* >0 bytes, 0 end, -1 nothing now, -2 broken */
void http_io_flush(struct http_conn *c);
char *http_io_out(struct http_conn *c, size_t more);		 /* where `more` output bytes may be written */
void http_io_send(struct http_conn *c, const void *p, size_t n); /* large: straight to the socket, rest copied */
bool http_io_make_room(struct http_conn *c);
void http_io_grow(struct http_conn *c); /* only without a request: it moves everything */
void http_io_in_give(struct http_conn *c);
void http_io_out_give(struct http_conn *c);
void http_io_out_park(struct http_conn *c); /* what waits moves to memory of its own size */
void http_io_charge(struct http_conn *c);   /* after a flush: brings s->unsent and its list up to date */
void http_io_park(struct http_conn *c);
void http_io_pools_free(struct http_server *s);
void http_io_sent(struct http_conn *c, size_t n); /* this much of the output is on its way */
void http_io_blocked(struct http_conn *c);	  /* goes on when the socket takes bytes; the write timeout begins */
ssize_t http_io_sys_recv(int fd, void *p, size_t n, int flags);
ssize_t http_io_sys_send(int fd, const void *p, size_t n);

/* tls_context.c */
struct ssl_st *must_check http_tls_ssl(const struct http_tls *t); /* an SSL; NULL: no memory */

/* tls.c: only where c->tls is set */
bool must_check http_tls_open(struct http_conn *c); /* sets it */
void http_tls_close(struct http_conn *c);	    /* clears it, with close_notify unless spoilt */
void http_tls_notify(struct http_conn *c);	    /* close_notify: nothing more is written */
void http_tls_spoil(struct http_conn *c);	    /* the end must not look like one */
ssize_t http_tls_recv(struct http_conn *c, char *p, size_t room);
void http_tls_writable(struct http_conn *c);
void http_tls_flush(struct http_conn *c);
size_t must_check http_tls_send(struct http_conn *c, const char *p, size_t n);

/* ready.c */
bool http_ready_wait(struct http_conn *c);     /* there is a crowd: it waits for its turn to be read */
int64_t http_ready_leave(struct http_conn *c); /* how long it has waited, µs; 0: it did not */
void http_ready_on_slice(evutil_socket_t fd, short what, void *arg);
static inline bool http_ready_waits(const struct http_conn *c) { return c->ready.flow != NULL; }

/* hold.c */
void http_hold_begin(struct http_conn *c, unsigned ms); /* its output is held back */
void http_hold_forget(struct http_conn *c);
void http_hold_end(struct http_conn *c); /* sends it, and goes on */
void http_hold_end_all(struct http_server *s);
void http_hold_on_timer(evutil_socket_t fd, short what, void *arg);

/* wheel.c */
void http_wheel_set(struct http_conn *c);
void http_wheel_remove(struct http_conn *c);
void http_wheel_on_tick(evutil_socket_t fd, short what, void *arg);

/* server.c */
struct http_conn *http_server_conn(struct http_server *s, int fd);
void http_server_queue(struct http_conn *c);
void http_server_turn(struct http_server *s);
void http_server_now(struct http_server *s);
void http_server_gone(struct http_conn *c); /* a connection lost its socket */

static inline size_t http_out_pending(const struct http_conn *c) { return c->out_len - c->out_off; }
static inline bool http_ieq(const char *p, size_t n, const char *lower, size_t lower_len)
{
	if (n != lower_len)
		return false;
	for (size_t i = 0; i < n; i++) {
		char ch = p[i];
		if (ch >= 'A' && ch <= 'Z')
			ch |= 0x20;
		if (ch != lower[i])
			return false;
	}
	return true;
}
#endif
