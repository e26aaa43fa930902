/* Listening sockets: made here, or passed by systemd; shared by all api workers, so that a dead
 * worker takes no queue of connections with it. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"
#include "log.h"
#include "supervisor.h"

#define BACKLOG 1024

union address {
	struct sockaddr sa;
	struct sockaddr_in v4;
	struct sockaddr_in6 v6;
};

/* ---- addresses ---- */

/* Numbers, "localhost" and "*" only: a name would make the start wait for DNS. */
static bool parse_host(const char *host, uint16_t port, union address *a, socklen_t *len_r)
{
	memset(a, 0, sizeof(*a));
	if (strcmp(host, "localhost") == 0)
		host = "127.0.0.1";
	if (strcmp(host, "*") == 0)
		host = "0.0.0.0";
	if (inet_pton(AF_INET, host, &a->v4.sin_addr) == 1) {
		a->v4.sin_family = AF_INET;
		a->v4.sin_port = htons(port);
		*len_r = sizeof(a->v4);
		return true;
	}
	if (inet_pton(AF_INET6, host, &a->v6.sin6_addr) == 1) {
		a->v6.sin6_family = AF_INET6;
		a->v6.sin6_port = htons(port);
		*len_r = sizeof(a->v6);
		return true;
	}
	return false;
}

static bool parse_address(const struct conf *c, enum conf_key k, union address *a, socklen_t *len_r, char **error_r)
{
	const char *text = conf_str(c, k);
	char host[INET6_ADDRSTRLEN + 2];
	const char *colon = strrchr(text, ':');
	size_t len = colon ? (size_t)(colon - text) : 0;
	char *end = NULL;
	long port = colon ? strtol(colon + 1, &end, 10) : -1;
	if (!colon || end == colon + 1 || *end || port < 0 || port > 65535 || len >= sizeof(host)) {
		util_error(error_r,
			   "%s = \"%s\": expected host:port with a port up to 65535, "
			   "for example 127.0.0.1:7700 or [::1]:7700",
			   conf_key_name(k), text);
		return false;
	}
	if (len >= 2 && text[0] == '[' && text[len - 1] == ']') {
		text++;
		len -= 2;
	}
	memcpy(host, text, len);
	host[len] = '\0';
	if (parse_host(len ? host : "*", (uint16_t)port, a, len_r))
		return true;
	util_error(error_r,
		   "%s: \"%s\" is no numeric address; write an IPv4 or [IPv6] "
		   "address, localhost or *",
		   conf_key_name(k), host);
	return false;
}

static bool is_loopback(const union address *a)
{
	if (a->sa.sa_family == AF_INET)
		return ntohl(a->v4.sin_addr.s_addr) >> 24 == 127;
	return IN6_IS_ADDR_LOOPBACK(&a->v6.sin6_addr);
}

static void format_address(int fd, char *out, size_t cap)
{
	union address a;
	char host[INET6_ADDRSTRLEN] = "?";
	socklen_t len = sizeof(a);
	if (getsockname(fd, &a.sa, &len) == -1)
		memset(&a, 0, sizeof(a));
	if (a.sa.sa_family == AF_INET6) {
		inet_ntop(AF_INET6, &a.v6.sin6_addr, host, sizeof(host));
		snprintf(out, cap, "[%s]:%u", host, ntohs(a.v6.sin6_port));
	} else {
		inet_ntop(AF_INET, &a.v4.sin_addr, host, sizeof(host));
		snprintf(out, cap, "%s:%u", host, ntohs(a.v4.sin_port));
	}
}

static bool public_allowed(const struct conf *c, enum conf_key k, const union address *a, char **error_r)
{
	if (is_loopback(a) || *conf_str(c, CONF_AUTH_TOKENS_FILE))
		return true;
	util_error(error_r,
		   "%s = \"%s\" can be reached from other machines, which needs "
		   "authentication: set auth.tokens_file, or listen on 127.0.0.1",
		   conf_key_name(k), conf_str(c, k));
	return false;
}

static bool parse_mode(const char *text, unsigned *mode_r)
{
	char *end;
	unsigned long mode = strtoul(text, &end, 8);
	*mode_r = (unsigned)mode;
	return *text && !*end && mode <= 0777;
}

static bool address_ok(const struct conf *c, enum conf_key k, char **error_r)
{
	union address a;
	socklen_t len;
	return !*conf_str(c, k) || (parse_address(c, k, &a, &len, error_r) && public_allowed(c, k, &a, error_r));
}

bool listen_check(const struct conf *c, char **error_r)
{
	unsigned mode;
	const char *path = conf_str(c, CONF_LISTEN_UNIX);
	if (!address_ok(c, CONF_LISTEN_TCP, error_r) || !address_ok(c, CONF_LISTEN_TLS, error_r))
		return false;
	if (!parse_mode(conf_str(c, CONF_LISTEN_UNIX_MODE), &mode)) {
		util_error(error_r,
			   "listen.unix_mode = \"%s\": expected octal permissions such as "
			   "0660",
			   conf_str(c, CONF_LISTEN_UNIX_MODE));
		return false;
	}
	if (strlen(path) + sizeof(".ctl") > sizeof(((struct sockaddr_un *)0)->sun_path)) {
		util_error(error_r, "listen.unix = \"%s\": a socket path has at most %zu bytes", path,
			   sizeof(((struct sockaddr_un *)0)->sun_path) - sizeof(".ctl"));
		return false;
	}
	return true;
}

/* ---- TCP ---- */

static int tcp_socket(const union address *a, socklen_t len)
{
	int on = 1, off = 0, error;
	int fd = socket(a->sa.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd == -1)
		return -1;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (a->sa.sa_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
	if (bind(fd, &a->sa, len) == 0 && listen(fd, BACKLOG) == 0)
		return fd;
	error = errno;
	close(fd);
	errno = error;
	return -1;
}

/* A killed predecessor's port lingers for 25–45 ms. */
static int bind_tcp(const struct conf *c, enum conf_key k, char **error_r)
{
	static const struct timespec pause = {0, 5000000};
	union address a;
	socklen_t len;
	if (!parse_address(c, k, &a, &len, error_r) || !public_allowed(c, k, &a, error_r))
		return -1;
	int64_t until = clock_mono_us() + BIND_WAIT_MS * 1000;
	for (;;) {
		int fd = tcp_socket(&a, len);
		if (fd != -1)
			return fd;
		if (errno != EADDRINUSE || clock_mono_us() >= until) {
			bool taken = errno == EADDRINUSE;
			util_error(error_r, "cannot listen on %s: %s%s%s", conf_str(c, k), strerror(errno),
				   taken ? "; another program has the port, choose another " : "",
				   taken ? conf_key_name(k) : "");
			return -1;
		}
		nanosleep(&pause, NULL);
	}
}

int listen_try_tcp(const struct conf *c, enum conf_key k)
{
	union address a;
	socklen_t len;
	char *error = NULL;
	if (!parse_address(c, k, &a, &len, &error)) {
		free(error);
		return EINVAL;
	}
	int fd = tcp_socket(&a, len);
	if (fd == -1)
		return errno;
	close(fd);
	return 0;
}

/* ---- Unix ---- */

/* True when the path is free now. A socket that nobody answers on is what a killed daemon left. */
static bool clear_stale(const struct sockaddr_un *un, char **error_r)
{
	struct stat st;
	if (lstat(un->sun_path, &st) == -1) {
		if (errno == ENOENT)
			return true;
		util_error(error_r, "cannot look at %s: %s", un->sun_path, strerror(errno));
		return false;
	}
	if (!S_ISSOCK(st.st_mode)) {
		util_error(error_r,
			   "%s is in the way and is no socket; remove it or choose another "
			   "listen.unix",
			   un->sun_path);
		return false;
	}
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	int rc = fd == -1 ? -1 : connect(fd, (const struct sockaddr *)un, sizeof(*un));
	bool dead = rc == -1 && errno == ECONNREFUSED;
	if (fd != -1)
		close(fd);
	if (!dead) {
		util_error(error_r,
			   "another program listens on %s; stop it or choose another "
			   "listen.unix",
			   un->sun_path);
		return false;
	}
	return unlink(un->sun_path) == 0 || errno == ENOENT;
}

int listen_unix(const char *path, unsigned mode, int backlog, uint64_t *inode_r, char **error_r)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	struct stat st;
	*error_r = NULL;
	if (strlen(path) >= sizeof(un.sun_path)) {
		util_error(error_r, "%s: a socket path has at most %zu bytes", path, sizeof(un.sun_path) - 1);
		return -1;
	}
	memcpy(un.sun_path, path, strlen(path) + 1);
	if (!clear_stale(&un, error_r))
		return -1;
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	mode_t before = umask(0777 & ~(mode_t)mode); /* never, not even briefly, more than asked */
	int rc = fd == -1 ? -1 : bind(fd, (struct sockaddr *)&un, sizeof(un));
	umask(before);
	if (rc == -1 || listen(fd, backlog) == -1 || stat(path, &st) == -1) {
		util_error(error_r, "cannot listen on %s: %s", path, strerror(errno));
		if (fd != -1)
			close(fd);
		return -1;
	}
	*inode_r = (uint64_t)st.st_ino;
	return fd;
}

void listen_unlink(const char *path, uint64_t inode)
{
	struct stat st;
	if (lstat(path, &st) == 0 && (uint64_t)st.st_ino == inode)
		unlink(path);
}

/* ---- socket activation ---- */

static bool passed_is_safe(const struct supervisor *sv, int fd)
{
	union address a;
	socklen_t len = sizeof(a);
	if (fd == -1 || getsockname(fd, &a.sa, &len) == -1 || is_loopback(&a) ||
	    *conf_str(sv->conf, CONF_AUTH_TOKENS_FILE))
		return true;
	log_error("the TCP socket that was passed can be reached from other machines, which needs "
		  "authentication: set auth.tokens_file");
	return false;
}

/* *fd is -1 or was passed; a socket of ours is made where the key asks for one. */
static bool open_tcp(struct supervisor *sv, enum conf_key k, int *fd, char *address, size_t cap, char **error_r)
{
	const char *text = conf_str(sv->conf, k);
	if (*fd != -1 && *text && strcmp(conf_source(sv->conf, k), "default") != 0)
		log_info("%s = \"%s\" is not used: systemd passes the %s socket", conf_key_name(k), text,
			 k == CONF_LISTEN_TLS ? "TLS" : "TCP");
	if (*fd == -1 && *text) {
		*fd = supervisor_high(bind_tcp(sv->conf, k, error_r));
		if (*fd == -1)
			return false;
	}
	if (*fd != -1)
		format_address(*fd, address, cap);
	return true;
}

char *listen_describe(const struct supervisor *sv)
{
	bool tcp = sv->tcp_address[0], tls = sv->tls_address[0];
	struct buf b = {0};
	buf_printf(&b, "%s%s%s%s%s%s", sv->tcp_address, tcp && tls ? ", " : "", sv->tls_address, tls ? " (TLS)" : "",
		   tcp || tls ? " and " : "", sv->unix_path);
	buf_addc(&b, '\0');
	return b.p;
}

bool listen_open(struct supervisor *sv)
{
	unsigned mode = 0;
	char *error = NULL;
	if (!activation_take(sv) || !passed_is_safe(sv, sv->fd_tcp) || !passed_is_safe(sv, sv->fd_tls))
		return false;
	if (!open_tcp(sv, CONF_LISTEN_TCP, &sv->fd_tcp, sv->tcp_address, sizeof(sv->tcp_address), &error) ||
	    !open_tcp(sv, CONF_LISTEN_TLS, &sv->fd_tls, sv->tls_address, sizeof(sv->tls_address), &error))
		goto fail;
	if (sv->fd_unix == -1) {
		if (!parse_mode(conf_str(sv->conf, CONF_LISTEN_UNIX_MODE), &mode))
			goto fail; /* listen_check() has seen it */
		sv->fd_unix = supervisor_high(listen_unix(sv->unix_path, mode, BACKLOG, &sv->unix_inode, &error));
		if (sv->fd_unix == -1)
			goto fail;
		sv->unlink_unix = true;
	}
	return true;
fail:
	log_error("%s", error ? error : "cannot open the listening sockets");
	free(error);
	return false;
}
