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

#endif
