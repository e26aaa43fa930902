/* api: HTTP on one side; shared memory, rings and reader threads on the other.
 *
 * A request becomes a `struct call`. Three ways to answer it:
 *   at once          on the loop, from shared memory (GET of a cached memory)
 *   by reading       call_read(): fn runs in a reader thread, fills call->reply
 *   by writing       call_write(): evaluate runs (inline or in a reader thread), builds call->txn and the
 *                    reply to give once sync has made it durable. When sync says that something the
 *                    evaluation read has changed meanwhile, it is evaluated again. */
#ifndef ORC_API_H
#define ORC_API_H
#include <jansson.h>
#include "auth.h"
#include "cache/cache.h"
#include "embed/embed.h"
#include "http/http.h"
#include "index/vectors.h"
#include "lane.h"
#include "plant.h"
#include "reader.h"
#include "record.h"
#include "words/language.h"
#include "worker.h"

struct jobs;
struct writes;
struct changes;
struct herd;
struct late;
struct reqlog;
struct overload;
struct call;
struct trace;
struct tracer;

struct api {
	struct worker *w;
	struct plant *plant;
	struct http_server *http;
	struct event_base *base;
	struct jobs *jobs;
	struct writes *writes;
	struct changes *changes;
	struct herd *herd;
	struct late *late;
	struct reqlog *requests; /* NULL: log.requests is 0 */
	int64_t noted_us;	 /* when the read came in that brought the last hit which was noted */
	uint8_t passed;		 /* hits since the last record */
	struct tracer *tracer;	 /* NULL: it has no segment */
	bool tracing;		 /* trace.endpoint is set */
	uint32_t pid;
	struct overload *overload;
	struct shared shared;		 /* what reader threads need; attached once sync has formatted it */
	struct auth *auth, *next_auth;	 /* NULL: local callers are admin; next: between prepare and commit */
	struct http_tls *next_tls;	 /* between prepare and commit, with a TLS socket */
	const struct embedder *embedder; /* NULL: embedder.kind = none */
	const char **names;		 /* Host and Origin names accepted besides loopback */
	size_t nnames;
	char host[64];			  /* the Host header that was accepted last, under these names */
	size_t host_len;		  /* 0 = none */
	struct event *ev_drain, *ev_idle; /* NULL before draining */
	bool errors_full, draining;
	enum language language; /* of namespaces that are made without one */
	char *scratch;		/* loop thread: one memory's body */
};
#define SCRATCH_BYTES (1u << 20)
#define API_HEADERS_MAX 100 /* header fields of a request */

/* An answer under construction. */
struct reply {
	int status;
	const char *content_type; /* NULL: application/json */
	struct buf head;	  /* extra header lines */
	struct buf body;
	size_t store_word; /* where in body it says that the store has it; 0 = nowhere */
};

/* CALL_THREAD: evaluated inline, but it turned out to need a reader thread. */
enum verdict { CALL_REPLY, CALL_COMMIT, CALL_THREAD };

struct call {
	struct api *api;
	struct http_request *req; /* NULL: the client has gone */
	const struct route *route;
	const struct auth_principal *who;
	struct auth *auth; /* keeps `who` over a reload of the tokens */
	struct uuid id;	   /* of /{id} routes */
	char *name;	   /* of /{name} routes; malloc'ed */
	struct reply reply;
	struct buf txn;	 /* built by evaluate */
	bool erase;	 /* DELETE …?erase=true */
	bool wait_store; /* answer only when the store has it */
	bool wait_ends;	 /* after sync.wait_max the journal will do */
	bool noted;	 /* in the audit log, or on the way there */
	bool stored;	 /* set before committed(): the store has it */
	unsigned attempts;
	uint64_t txn_id;
	uint64_t committed_seq;
	uint32_t answer_arg;	      /* what sync said with that */
	int64_t committed_us;	      /* when the journal had it, and the wait for the store began; 0 = not yet */
	int64_t began_ns;	      /* clock_mono_ns(), as the next: its first byte was read */
	int64_t sent_ns;	      /* its transaction went to sync; 0: and was answered */
	int64_t waited_us;	      /* for threads, all in all */
	const char *problem;	      /* type of the last one; static */
	int streamed_status;	      /* of an answer that is streamed; 0 = it is not */
	bool logged;		      /* requests.h */
	char ns[LIMIT_NAMESPACE + 1]; /* what it turned out to be about; for the request log */
	enum verdict (*evaluate)(struct call *c, struct reader *rd);
	void (*read)(struct call *c, struct reader *rd);
	void (*committed)(struct call *c); /* durable: finish the reply (durability, receipt); may be NULL */
	void (*on_refused)(struct call *c, uint32_t status, uint32_t arg); /* NULL: the common problem */
	void (*finish)(struct call *c); /* instead of call_reply(), for calls of several steps */
	void *state;			/* the handler's own */
	void (*free_state)(void *state);
	struct trace *trace;  /* traces.h; NULL: it is not traced */
	struct call *next;    /* jobs queue, herd */
	struct uuid herd_key; /* of a call that leads one */
	enum verdict verdict;
	/* overload.c */
	struct lane_item wait; /* for a thread, then for the ring */
	uint64_t flow;	       /* whose it is, to be fair to others */
	bool stale;	       /* has waited for too long, was not begun */
	uint32_t ring_units;   /* what of it is in the ring and unanswered */
	int64_t sent_us;       /* 0: again, to another sync */
};

/* ---- routes (router.c, routes.def) ---- */
struct route {
	enum http_method method;
	const char *pattern; /* "/v1/memories/{id}/history" */
	unsigned right;	     /* enum auth_right, 0 = public probe */
	void (*handle)(struct call *c);
	bool streams_body;
};
void router_request(void *arg, struct http_request *r);
void router_head(void *arg, struct http_request *r, bool *stream_r);
void router_refused(void *arg, int status, const char *why, struct span id, struct buf *b);
void router_gone(void *arg, struct http_request *r);
bool router_spare(void *arg, struct http_request *r); /* probes */
bool router_body(void *arg, struct http_request *r, const char *p, size_t n);
/* Whose request it is, by its credential; NULL: nobody's that is known. */
const struct auth_principal *router_who(struct api *a, struct http_request *r);
/* For the path that makes no call: the principal when host and credential are in order, else NULL. */
const struct auth_principal *router_admit_fast(struct api *a, struct http_request *r, unsigned right);
void router_count_get(struct api *a, struct http_request *r); /* one 2xx of GET /v1/memories/{id} */
void router_count(struct call *c, int status);		      /* one answer given, or begun when it is streamed */
/* Pattern and method of a route; "none" behind the last one. Returns how many routes there are. */
unsigned router_names(unsigned route, const char **pattern_r, const char **method_r);

/* ---- calls (call.c) ---- */
void call_waited(struct call *c); /* writes.c: in the journal, but the store did not take it in time */
void call_read(struct call *c, void (*read)(struct call *, struct reader *));
/* inline_ok: evaluate needs no reader and is cheap enough for the loop on its first attempt. */
void call_write(struct call *c, enum verdict (*evaluate)(struct call *, struct reader *), bool inline_ok);
void call_finish(struct call *c); /* finish() or call_reply() */
void call_reply(struct call *c);  /* sends call->reply and frees the call */
void call_free(struct call *c);
void call_refused(struct call *c, uint32_t status, uint32_t arg); /* the common problem of enum txn_status */
void call_answered(struct call *c, uint32_t status, uint64_t seq, uint32_t arg); /* from writes.c */
void call_job_done(struct call *c);						 /* from jobs.c, on the loop */
/* Begins the transaction of this attempt. read_seq must be loaded before anything is read. */
uint64_t call_read_seq(const struct call *c);
void call_txn_begin(struct call *c, struct txn_builder *t, uint64_t read_seq, uint32_t flags);
/* The namespace that the request selects: `given` (body) or the query parameter, default "default";
 * 400/403 into the reply and false when it is malformed or not allowed. */
bool must_check call_namespace(struct call *c, struct span given, unsigned right, char out[LIMIT_NAMESPACE + 1],
			       struct span *name_r);
/* A query parameter that is a whole number from 1 to `most`; *out stays when it is absent. False: problem set. */
bool must_check call_number(struct call *c, const char *name, uint64_t most, uint64_t *out);
/* ?wait=store, or sync.ack = store. False: problem set. */
bool must_check call_wait(struct call *c);
/* The value of If-Match / If-None-Match matches `version`: "*" or a list with "<version>". If-Match compares
 * strongly: W/"1" never matches (RFC 9110 13.1.1). valid: "*" or a list of quoted tags. */
bool call_etag_matches(struct span header, uint64_t version, bool weak_ok);
bool call_etag_valid(struct span header);
bool call_may(const struct call *c, unsigned right, struct span ns);

/* ---- problems (problem.c): RFC 9457 ---- */
/* Makes call->reply a problem: `type` is the last part of its URI. detail names field, limit, remedy. */
void problem(struct call *c, int status, const char *type, const char *fmt, ...) printf_like(4, 5);
void problem_text(struct call *c, int status, const char *type, const char *detail); /* detail: as it is, UTF-8 */
void problem_write(struct buf *b, int status, const char *type, const char *detail, struct span request_id);
void problem_later(struct call *c, uint32_t seconds);	  /* the problem that is set is over in so many: Retry-After */
void problem_store(struct call *c, const char *internal); /* 503: the store cannot be read */
/* 404; 503 while the store was never reached, as which namespaces there are is not known. */
void problem_no_namespace(struct call *c);
void problem_starting(struct call *c);

/* ---- JSON text (json_out.c) ---- */
void json_out_string(struct buf *b, struct span s); /* with quotes, escaped; input is valid UTF-8 */
void json_out_time(struct buf *b, int64_t us);
void json_out_double(struct buf *b, double d); /* shortest that reads back */

/* ---- jobs (jobs.c) ---- */
struct jobs *must_check jobs_start(struct api *a, unsigned threads);
/* False: it is refused (c->reply.status is 429), or (0) the queue is full. */
bool jobs_submit(struct jobs *j, struct call *c);
bool jobs_admits(struct jobs *j, const struct call *c, int64_t *delay_r);
bool jobs_cancel(struct jobs *j, struct call *c, bool gone); /* true: it was not begun, and will not be */
void jobs_tick(struct jobs *j);				     /* now and then, while overloaded */
void jobs_conf(struct jobs *j);
void jobs_halt(struct jobs *j); /* its threads end; calls that wait, and that are done, stay */
void jobs_stop(struct jobs **j);
size_t jobs_waiting(struct jobs *j);

/* ---- writes (writes.c): transactions on their way to sync ---- */
struct writes *must_check writes_open(struct api *a);
/* False: it is refused (c->reply.status is 429), or (0) too many are in flight. */
bool writes_submit(struct writes *w, struct call *c);
bool writes_admits(struct writes *w, const struct call *c, int64_t *delay_r);
void writes_tick(struct writes *w);
void writes_conf(struct writes *w);
void writes_on_wake(struct writes *w);
/* In the middle of a long round of the loop, from whatever handles a request: sync, which has answered what it had, gets more
 * now, and not when hundreds of requests have been read. Other calls are answered and freed on the way; their connections go on
 * in a turn of their own. */
void writes_turn(struct writes *w);
void writes_resend(struct writes *w);		 /* sync was restarted */
size_t writes_in_flight(const struct writes *w); /* transactions that sync has not answered */
uint64_t writes_next_id(struct writes *w);

/* ---- followers of the feed (changes.c) ---- */
struct changes *must_check changes_open(struct api *a);
void changes_drain(struct changes *s); /* streams end, and so does all waiting */
void changes_free(struct changes **s);

/* ---- how late this loop is, while the warmer wants to know (late.c) ---- */
struct late *must_check late_open(struct api *a);
void late_look(struct late *l); /* once a second: does it? */
void late_free(struct late **l);

/* ---- the TLS socket (tls.c) ---- */
/* What the supervisor handed on last, with the settings of `c`; *tls_r stays NULL without a TLS socket. */
bool must_check tls_prepare(struct api *a, const struct conf *c, struct http_tls **tls_r, char **error_r);
/* Connections to come use it; NULL changes nothing. *tls becomes NULL. */
void tls_commit(struct api *a, struct http_tls **tls);

#endif
