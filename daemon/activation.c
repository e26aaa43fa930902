/* Listening sockets that systemd passes (sd_listen_fds(3)). They are known by name where they have one of ours
 * (FileDescriptorName=tcp, tls or unix), and by their kind else: systemd names a socket after its unit by default. */
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <systemd/sd-daemon.h>

#include "log.h"
#include "supervisor.h"

enum kind { KIND_OTHER, KIND_TCP, KIND_UNIX };

static enum kind kind_of(int fd)
{
	if (sd_is_socket(fd, AF_UNIX, SOCK_STREAM, 1) > 0)
		return KIND_UNIX;
	if (sd_is_socket_inet(fd, AF_UNSPEC, SOCK_STREAM, 1, 0) > 0)
		return KIND_TCP;
	return KIND_OTHER;
}

static const char *describe(int fd)
{
	struct stat st;
	int type = 0, listens = 0;
	socklen_t len = sizeof(type), llen = sizeof(listens);
	switch (kind_of(fd)) {
	case KIND_TCP: return "a listening TCP socket";
	case KIND_UNIX: return "a listening Unix socket";
	case KIND_OTHER: break;
	}
	if (fstat(fd, &st) == -1 || !S_ISSOCK(st.st_mode))
		return "no socket";
	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) == 0 && type != SOCK_STREAM)
		return "no stream socket (use ListenStream=)";
	if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &llen) == 0 && !listens)
		return "a connection (use Accept=no)";
	return "a socket of another family";
}

/* False: said why. */
static bool take(struct supervisor *sv, int fd, const char *name)
{
	enum kind kind = kind_of(fd), wanted = kind;
	bool tls = strcmp(name, "tls") == 0;
	if (strcmp(name, "tcp") == 0 || tls)
		wanted = KIND_TCP;
	else if (strcmp(name, "unix") == 0)
		wanted = KIND_UNIX;
	if (kind == KIND_OTHER || kind != wanted) {
		log_error("socket activation: descriptor %d (name \"%s\") is %s; expected a %slistening stream socket",
			  fd, name, describe(fd),
			  wanted == KIND_TCP	? "TCP "
			  : wanted == KIND_UNIX ? "Unix "
						: "");
		return false;
	}
	int *to = tls ? &sv->fd_tls : kind == KIND_TCP ? &sv->fd_tcp : &sv->fd_unix;
	if (*to != -1) {
		log_error("socket activation: descriptor %d (name \"%s\") is the second %s socket; at most one TCP, "
			  "one Unix and, by its name, one TLS socket can be passed",
			  fd, name,
			  tls		     ? "TLS"
			  : kind == KIND_TCP ? "TCP"
					     : "Unix");
		return false;
	}
	fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
	*to = supervisor_high(fd);
	return true;
}

/* Clients are told where it really is; PATH.ctl stays beside listen.unix, where we may write. */
static void name_unix(struct supervisor *sv)
{
	struct sockaddr_un un = {0};
	socklen_t len = sizeof(un) - 1; /* a path of full length has no NUL */
	if (sv->fd_unix == -1 || getsockname(sv->fd_unix, (struct sockaddr *)&un, &len) == -1)
		return;
	if (!un.sun_path[0])
		un.sun_path[0] = '@'; /* an abstract one, as people write it */
	free(sv->unix_path);
	sv->unix_path = util_strndup(un.sun_path, strlen(un.sun_path));
}

bool activation_take(struct supervisor *sv)
{
	char **names = NULL;
	int n = sd_listen_fds_with_names(1, &names);
	bool ok = n >= 0;
	if (!ok)
		log_error("LISTEN_FDS or LISTEN_FDNAMES is malformed: %s", strerror(-n));
	for (int i = 0; i < n && ok; i++)
		ok = take(sv, SD_LISTEN_FDS_START + i, names ? names[i] : "");
	for (int i = 0; names && names[i]; i++)
		free(names[i]);
	free(names);
	if (ok)
		name_unix(sv);
	return ok;
}
