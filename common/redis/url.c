#include "redis/url.h"

#include <stdlib.h>
#include <sys/un.h>

#define DB_MAX 65535

static const struct scheme {
	const char *prefix;
	enum redis_kind kind;
	int port; /* 0: a path */
} schemes[] = {
	{"redis://", REDIS_SINGLE, 6379},	   {"unix://", REDIS_SINGLE, 0},
	{"redis+unix://", REDIS_SINGLE, 0},	   {"redis-sentinel://", REDIS_SENTINEL, 26379},
	{"redis-cluster://", REDIS_CLUSTER, 6379},
};

static bool starts(const char *text, const char *with) { return strncmp(text, with, strlen(with)) == 0; }

/* NULL: a percent sign without two hexadecimal digits, or one that would end the text. */
static char *decoded(const char *p, size_t n)
{
	char *out = util_alloc(n + 1);
	size_t k = 0;
	for (size_t i = 0; i < n; i++) {
		if (p[i] != '%') {
			out[k++] = p[i];
			continue;
		}
		int c = n - i > 2 && util_hex_digit(p[i + 1]) >= 0 && util_hex_digit(p[i + 2]) >= 0
				? util_hex_digit(p[i + 1]) * 16 + util_hex_digit(p[i + 2])
				: 0;
		if (!c) {
			free(out);
			return NULL;
		}
		out[k++] = (char)c;
		i += 2;
	}
	out[k] = 0;
	return out;
}

/* -1: not a number from 0 to most. */
static int number(const char *p, size_t n, int most)
{
	int v = 0;
	if (!n || n > 5)
		return -1;
	for (size_t i = 0; i < n; i++) {
		if (p[i] < '0' || p[i] > '9')
			return -1;
		v = v * 10 + (p[i] - '0');
	}
	return v <= most ? v : -1;
}

static bool take_credentials(struct redis_url *u, const char *p, size_t n, char **error_r)
{
	const char *colon = memchr(p, ':', n);
	size_t user = colon ? (size_t)(colon - p) : n;
	u->user = decoded(p, user);
	u->password = colon ? decoded(colon + 1, n - user - 1) : NULL;
	if (!u->user || (colon && !u->password))
		return util_error(error_r,
				  "redis.url: user or password has a %% that is not followed by two hexadecimal "
				  "digits; write %% itself as %%25");
	if (*u->user && (!u->password || !*u->password))
		return util_error(error_r, "redis.url: there is a user without a password; expected user:password@, or "
					   ":password@ for a server that has one password for all");
	return true;
}

static bool add_host(struct redis_url *u, const char *p, size_t n, int port, char **error_r)
{
	const char *end = p + n, *name = p, *rest;
	if (n && *p == '[') {
		rest = memchr(p, ']', n);
		name = p + 1;
		if (!rest)
			return util_error(error_r,
					  "redis.url: a [ without its ]; IPv6 addresses are written [::1]:6379");
		n = (size_t)(rest++ - name);
	} else {
		rest = memchr(p, ':', n);
		rest = rest ? rest : end;
		n = (size_t)(rest - p);
	}
	if (rest < end)
		port = *rest == ':' ? number(rest + 1, (size_t)(end - rest - 1), 65535) : -1;
	if (port < 1)
		return util_error(error_r, "redis.url: expected host:port with a port from 1 to 65535");
	if (u->n == REDIS_HOSTS_MAX)
		return util_error(error_r, "redis.url: more than %d hosts; a few are enough to find the others",
				  REDIS_HOSTS_MAX);
	char *host = decoded(name, n);
	bool fine = host && *host && strlen(host) < 256 && !strpbrk(host, " /@?#");
	if (!fine) {
		free(host);
		return util_error(error_r, "redis.url: a host is missing or is no name; expected for example "
					   "redis://127.0.0.1:6379");
	}
	if (!u->hosts)
		u->hosts = util_zalloc(REDIS_HOSTS_MAX * sizeof(*u->hosts));
	u->hosts[u->n++] = (struct redis_host){host, port};
	return true;
}

static bool take_hosts(struct redis_url *u, const char *p, size_t n, int port, char **error_r)
{
	for (const char *end = p + n;; p++) {
		const char *comma = memchr(p, ',', (size_t)(end - p));
		size_t len = (size_t)((comma ? comma : end) - p);
		if (!add_host(u, p, len, port, error_r))
			return false;
		p += len;
		if (!comma)
			break;
	}
	if (u->kind == REDIS_SINGLE && u->n > 1)
		return util_error(error_r,
				  "redis.url: redis:// has one host; several are redis-sentinel://h1,h2/master or "
				  "redis-cluster://h1,h2");
	return true;
}

static bool take_db(struct redis_url *u, const char *p, char **error_r)
{
	u->db = *p ? number(p, strlen(p), DB_MAX) : 0;
	return u->db >= 0 || util_error(error_r, "redis.url: the database is a number, as in redis://127.0.0.1:6379/0");
}

/* What stands behind the hosts: "", or from the slash on. */
static bool take_path(struct redis_url *u, const char *p, char **error_r)
{
	if (strpbrk(p, "?#"))
		return util_error(error_r, "redis.url: ? and # have no meaning here; the database is written /N");
	p += *p == '/';
	if (u->kind == REDIS_SINGLE)
		return take_db(u, p, error_r);
	if (u->kind == REDIS_CLUSTER)
		return !*p ||
		       (util_error(error_r, "redis.url: a cluster has one database; nothing may follow its hosts"));
	size_t n = strcspn(p, "/");
	u->master = decoded(p, n);
	if (!u->master || !*u->master || strlen(u->master) > 255)
		return util_error(error_r,
				  "redis.url: the name that the sentinels know the master by is missing; expected "
				  "redis-sentinel://h1:26379,h2:26379/mymaster");
	return take_db(u, p + n + (p[n] == '/'), error_r);
}

static bool take_socket(struct redis_url *u, const char *p, char **error_r)
{
	size_t most = sizeof(((struct sockaddr_un *)NULL)->sun_path) - 1, n = strcspn(p, "?");
	char *path = decoded(p, n);
	if (!path || *path != '/' || strlen(path) > most) {
		free(path);
		return util_error(error_r,
				  "redis.url: expected an absolute path of at most %zu bytes, as in "
				  "unix:///run/redis/redis-server.sock",
				  most);
	}
	u->hosts = util_zalloc(sizeof(*u->hosts));
	u->hosts[u->n++] = (struct redis_host){path, 0};
	if (!p[n])
		return true;
	if (!starts(p + n, "?db="))
		return util_error(error_r, "redis.url: behind the path only ?db=N is known");
	return take_db(u, p + n + 4, error_r);
}

static bool parse(struct redis_url *u, const struct scheme *s, const char *p, char **error_r)
{
	size_t n = strcspn(p, "/?#");
	const char *at = memrchr(p, '@', n);
	u->kind = s->kind;
	if (at && !take_credentials(u, p, (size_t)(at - p), error_r))
		return false;
	if (at) {
		n -= (size_t)(at + 1 - p);
		p = at + 1;
	}
	u->user = u->user ? u->user : util_strndup("", 0);
	u->password = u->password ? u->password : util_strndup("", 0);
	if (!s->port)
		return take_socket(u, p, error_r);
	return take_hosts(u, p, n, s->port, error_r) && take_path(u, p + n, error_r);
}

struct redis_url *redis_url_parse(const char *text, char **error_r)
{
	const struct scheme *s = NULL;
	*error_r = NULL;
	for (size_t i = 0; i < ARRAY_LEN(schemes) && !s; i++)
		s = starts(text, schemes[i].prefix) ? &schemes[i] : NULL;
	if (!s) {
		(void)(starts(text, "rediss")
			       ? util_error(error_r,
					    "redis.url: TLS is not spoken to Redis; run stunnel on this machine, which "
					    "does, and name its port: redis://127.0.0.1:PORT (docs/operations.md "
					    "has its configuration)")
			       : util_error(error_r, "redis.url: expected redis://host:port/db, unix:///path, "
						     "redis-sentinel://h1,h2/master or redis-cluster://h1,h2"));
		return NULL;
	}
	struct redis_url *u = util_zalloc(sizeof(*u));
	if (!parse(u, s, text + strlen(s->prefix), error_r))
		redis_url_free(&u);
	return u;
}

void redis_url_free(struct redis_url **up)
{
	struct redis_url *u = *up;
	if (!u)
		return;
	for (size_t i = 0; i < u->n; i++)
		free(u->hosts[i].host);
	if (u->password)
		explicit_bzero(u->password, strlen(u->password));
	free(u->hosts);
	free(u->user);
	free(u->password);
	free(u->master);
	free(u);
	*up = NULL;
}
