/* redis.url: where Redis is and who we are to it.
 *
 *	redis://[user[:password]@]host[:port][/db]            one server; redis://:password@… has no user
 *	unix:///path/to.sock[?db=N], redis+unix://…           the same through a Unix socket; [user[:password]@] before the path
 *	redis-sentinel://[user[:password]@]h1[:port],h2/master[/db]
 *	redis-cluster://[user[:password]@]h1[:port],h2
 *
 * Parts are percent-decoded. IPv6 addresses stand in brackets. */
#ifndef ORC_REDIS_URL_H
#define ORC_REDIS_URL_H
#include "util.h"

#define REDIS_HOSTS_MAX 32

enum redis_kind { REDIS_SINGLE, REDIS_SENTINEL, REDIS_CLUSTER };
struct redis_host {
	char *host; /* name or address; a path where port is 0 */
	int port;
};
struct redis_url {
	enum redis_kind kind;
	char *user, *password; /* "" when not given */
	struct redis_host *hosts;
	size_t n;     /* 1 to REDIS_HOSTS_MAX */
	char *master; /* of REDIS_SENTINEL: the name that the sentinels know it by */
	int db;
};
/* NULL: *error_r (malloc'ed) says what is wrong and what is expected; it never contains the password. */
struct redis_url *must_check redis_url_parse(const char *text, char **error_r);
void redis_url_free(struct redis_url **u);
#endif
