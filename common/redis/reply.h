/* What Redis answers (RESP2), read by hiredis into replies of ours: bounded in bytes, in number of elements and in depth. A
 * server that says anything else than RESP2 within these bounds is not listened to any further. */
#ifndef ORC_REDIS_REPLY_H
#define ORC_REDIS_REPLY_H
#include "util.h"

struct redis_reply {
	/* hiredis' numbers */
	enum { REPLY_STRING = 1, REPLY_ARRAY, REPLY_INTEGER, REPLY_NIL, REPLY_STATUS, REPLY_ERROR } type;
	size_t n;   /* bytes of text, elements of an array */
	char *text; /* strings, states, errors; NUL behind them. Who keeps it sets it to NULL */
	long long integer;
	struct redis_reply *v; /* elements */
	bool within;	       /* of an array */
};
#define REDIS_ELEMENTS_MAX 65536 /* of all arrays of a reply */

/* Is it a text, and that one? */
bool redis_reply_is(const struct redis_reply *r, const char *text);
/* An error with that code ("MOVED")? */
bool redis_reply_fails(const struct redis_reply *r, const char *code);
void redis_reply_free(struct redis_reply **r);

struct redis_reader;
/* max: bytes of a reply's text, and of what is kept unread. */
struct redis_reader *must_check redis_reader_new(size_t max);
void redis_reader_free(struct redis_reader **rd);
/* What came. False: it is not RESP2, or too large; nothing more is to be fed. */
bool must_check redis_reader_feed(struct redis_reader *rd, const void *p, size_t n);
/* The next reply into *reply_r, the caller's; NULL: there is none yet. False as above. */
bool must_check redis_reader_next(struct redis_reader *rd, struct redis_reply **reply_r);
/* Is nothing of a further reply there? */
bool redis_reader_idle(const struct redis_reader *rd);
const char *redis_reader_error(const struct redis_reader *rd);
#endif
