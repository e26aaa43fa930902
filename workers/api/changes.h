/* GET /v1/changes: the feed for clients. A request, answered once or for as long as it lives, is a follower; what
 * followers at one place need is read once for all of them, in a reader thread, a page at a time. */
#ifndef ORC_API_CHANGES_H
#define ORC_API_CHANGES_H
#include "api.h"

#define CHANGES_LIMIT 1000	  /* changes in an answer */
#define CHANGES_LIMIT_DEFAULT 500 /* without ?limit */
#define CHANGES_WAIT_MAX 60	  /* seconds */
#define CHANGES_NAMESPACES 64	  /* that one request may name */
#define CHANGES_PAGE 1000	  /* changes read at once */
#define CHANGES_CURSOR_MAX 32	  /* bytes of its text */

/* ---- changes_cursor.c: a place in the feed ---- */

/* Behind everything up to revision `after`, and behind the first `skip` changes of revision after + 1. */
struct changes_cursor {
	uint64_t after;
	uint32_t skip;
};
/* "41", or "42:7" within a revision. False: it is no cursor of ours. */
bool must_check changes_cursor_parse(struct span text, struct changes_cursor *c_r);
void changes_cursor_add(struct buf *b, const struct changes_cursor *c);
static inline bool changes_cursor_same(const struct changes_cursor *a, const struct changes_cursor *b)
{
	return a->after == b->after && a->skip == b->skip;
}

/* ---- changes_query.c: what a request asks for ---- */

struct changes_query {
	struct changes_cursor at;
	bool from_now; /* no cursor was given */
	bool stream;   /* Server-Sent Events */
	size_t limit;
	int64_t wait_us;
	char *names[CHANGES_NAMESPACES]; /* malloc'ed */
	size_t nnames;			 /* 0: every namespace that the credential may read */
};
/* False: problem set. */
bool must_check changes_query_read(struct call *c, struct changes_query *q_r);
void changes_query_free(struct changes_query *q);
bool changes_query_wants(const struct changes_query *q, struct span namespace);

/* ---- changes_page.c: reading ---- */

struct changes_entry {
	struct changes_cursor next;   /* the place behind it */
	size_t name_at, name_len;     /* its namespace, in names */
	size_t event_at, event_len;   /* in text: it as an event of a stream … */
	size_t object_at, object_len; /* … and the JSON object in that */
	uint64_t revision;
};
enum changes_outcome { CHANGES_READ, CHANGES_EXPIRED, CHANGES_UNREADABLE };
struct changes_page {
	struct changes *owner;
	struct changes_cursor from;
	size_t max;
	/* Filled in by a reader thread: */
	enum changes_outcome outcome;
	uint64_t upto; /* where the feed ended */
	struct changes_cursor to;
	struct changes_entry *v;
	size_t n, cap;
	struct buf names, text;
	char *error;
};
void changes_page_read(struct call *c, struct reader *rd); /* c->state is the page */
void changes_page_free(void *page);

/* ---- changes.c: followers ---- */

struct follower {
	struct follower *next, **pprev;
	struct call *c;
	struct changes_query q;
	struct changes_cursor at, told; /* behind what was looked at; the last id in the stream */
	struct changes_page *page;	/* is being read for it, by others too; no owner */
	bool trusted;			/* its place is known to be one of this feed */
	bool streaming, blocked;
	size_t n;	  /* changes in the answer */
	struct buf list;  /* they themselves */
	unsigned pages;	  /* looked through for it */
	int64_t until_us; /* of an answer: waits no longer */
	int64_t alive_us; /* of a stream: says that it lives */
	int64_t retry_us; /* not before this */
};
/* Whether the request asks for it and its credential may read it. */
bool changes_follower_sees(const struct follower *f, const struct changes_page *p, const struct changes_entry *e);

/* ---- changes_stream.c: followers that are sent events; times are clock_mono_us() ---- */

#define CHANGES_COME_BACK_MS 500 /* after which a client whose stream has ended asks again */
/* on_drain is called when the client has taken what made the follower `blocked`. */
void changes_stream_begin(struct follower *f, void (*on_drain)(void *arg, struct http_request *r), int64_t now);
void changes_stream_id(struct follower *f, struct buf *b); /* the line that moves the client's cursor */
void changes_stream_keep_alive(struct follower *f, int64_t now);
void changes_stream_take(struct follower *f, const struct changes_page *p, int64_t now);

#endif
