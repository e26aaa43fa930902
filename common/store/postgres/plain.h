/* One connection to PostgreSQL for who may wait and needs no speed: migrations and tools. Texts of several statements,
 * answers as text. Every wait has its limit; resolving a host's name is the exception, libpq does that by itself. */
#ifndef ORC_PLAIN_H
#define ORC_PLAIN_H
#include "pq.h"
#include "store/store.h"

struct pg_plain;
struct pg_plain_conf {
	const char *dsn;	 /* libpq's: keywords or a URI */
	const char *application; /* application_name unless the dsn names one */
	bool read_write;	 /* only a server that takes writes (target_session_attrs unless the dsn says) */
	int64_t limit_us;	 /* until it is made */
};
/* NULL: *error_r (malloc'ed) says why. Loads libpq. */
struct pg_plain *must_check pg_plain_open(const struct pg_plain_conf *c, char **error_r);
void pg_plain_close(struct pg_plain **p);
/* All statements of `sql`, as psql -c would send them. limit_us 0: as long as it takes. STORE_OK: *res_r is that of the last one
 * and the caller's, pq.clear() it; NULL: not wanted. STORE_AWAY: the connection is of no use any more, or the server takes
 * nothing for now. STORE_BUSY: a lock was not to be had within lock_timeout. STORE_ERROR: what the server has
 * against it. */
enum store_rc must_check pg_plain_run(struct pg_plain *p, const char *sql, int64_t limit_us, PGresult **res_r);
/* Of the last failure: what was said, and the server's five letters ("" when they were not the server's words). */
const char *pg_plain_error(const struct pg_plain *p);
const char *pg_plain_sqlstate(const struct pg_plain *p);
/* Whether a text is a dsn of PostgreSQL's rather than a path. */
bool pg_plain_is_dsn(const char *text);
#endif
