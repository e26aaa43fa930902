#include "imsg.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

struct frame {
	uint32_t type, len;
};

bool imsg_send(int sock, enum ctl_type type, const void *data, size_t len, int fd)
{
	struct frame f = {type, (uint32_t)len};
	struct iovec iov[2] = {{&f, sizeof(f)}, {(void *)(uintptr_t)data, len}};
	union {
		char space[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} control = {.space = {0}};
	struct msghdr m = {.msg_iov = iov, .msg_iovlen = len ? 2 : 1};
	if (len > IMSG_MAX) {
		errno = EMSGSIZE;
		return false;
	}
	if (fd >= 0) {
		m.msg_control = control.space;
		m.msg_controllen = sizeof(control.space);
		struct cmsghdr *c = CMSG_FIRSTHDR(&m);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int));
		memcpy(CMSG_DATA(c), &fd, sizeof(fd));
	}
	ssize_t n;
	do
		n = sendmsg(sock, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	if (n < 0 && errno == ECONNRESET)
		errno = EPIPE; /* gone with our messages unread: gone all the same */
	return n >= 0;
}

static int take_fd(struct msghdr *m)
{
	int fd = -1;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		size_t n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < n; i++) {
			int got;
			memcpy(&got, CMSG_DATA(c) + i * sizeof(int), sizeof(got));
			if (fd < 0)
				fd = got;
			else
				close(got); /* one per message is the contract */
		}
	}
	return fd;
}

int imsg_recv(int sock, char *buf, struct imsg *m_r)
{
	union {
		char space[CMSG_SPACE(4 * sizeof(int))];
		struct cmsghdr align;
	} control;
	struct iovec iov = {buf, IMSG_MAX + sizeof(struct frame)};
	struct msghdr m = {.msg_iov = &iov,
			   .msg_iovlen = 1,
			   .msg_control = control.space,
			   .msg_controllen = sizeof(control.space)};
	struct frame f;
	ssize_t n;
	do
		n = recvmsg(sock, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno == ECONNRESET ? 0 : -1;
	int fd = take_fd(&m); /* even an empty packet can bring one */
	if (n == 0 && fd < 0)
		return 0;
	if ((size_t)n >= sizeof(f))
		memcpy(&f, buf, sizeof(f));
	if ((size_t)n < sizeof(f) || f.len != (size_t)n - sizeof(f) || m.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) {
		if (fd >= 0)
			close(fd);
		errno = EPROTO;
		return -1;
	}
	*m_r = (struct imsg){f.type, f.len, fd, buf + sizeof(f)};
	return 1;
}
