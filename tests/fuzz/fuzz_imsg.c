/* Control messages from a peer that sends anything: packets of any bytes and length, with any number of descriptors,
 * and honest ones in between. Each receive gives a message inside the buffer, or EPROTO; no descriptor stays behind;
 * an honest message arrives as it was sent. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "imsg.h"

#define FDS_MOST 8
static volatile unsigned sink;
static int spare[FDS_MOST];

struct input {
	const uint8_t *p, *end;
};

static uint32_t byte(struct input *in) { return in->p < in->end ? *in->p++ : 0; }

/* The lowest free number: higher than before when one was left open. */
static int lowest_free(void)
{
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	AN(fd >= 0);
	close(fd);
	return fd;
}

static void add_fds(struct msghdr *m, char *space, size_t room, const uint32_t *groups, unsigned ngroups)
{
	size_t used = 0;
	for (unsigned i = 0; i < ngroups; i++) {
		size_t n = groups[i] * sizeof(int);
		if (used + CMSG_SPACE(n) > room)
			break;
		struct cmsghdr c = {.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(n)};
		memcpy(space + used, &c, sizeof(c));
		memcpy(space + used + CMSG_LEN(0), spare, n);
		used += CMSG_SPACE(n);
	}
	m->msg_control = used ? space : NULL;
	m->msg_controllen = used;
}

/* True: it is on its way. */
static bool send_lie(int sock, struct input *in)
{
	static char bytes[IMSG_MAX + 4096];
	_Alignas(struct cmsghdr) char space[256];
	uint32_t how = byte(in), groups[4];
	size_t n = byte(in) | (how & 1 ? byte(in) << 8 : 0);
	n = how & 2 ? IMSG_MAX - 128 + n : n; /* around the largest */
	n = n < sizeof(bytes) ? n : sizeof(bytes);
	memset(bytes, (int)byte(in), n);
	size_t have = (size_t)(in->end - in->p);
	memcpy(bytes, in->p, have < n ? have : n);
	if (how & 4 && n >= 8) { /* the length is right, or nearly */
		uint32_t len = (uint32_t)n - 8 + (how & 8 ? byte(in) % 3 - 1 : 0);
		memcpy(bytes + 4, &len, sizeof(len));
	}
	struct iovec iov = {bytes, n};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
	unsigned ngroups = how >> 6;
	for (unsigned i = 0; i < ngroups; i++)
		groups[i] = byte(in) % (FDS_MOST + 1);
	memset(space, 0, sizeof(space));
	add_fds(&m, space, sizeof(space), groups, ngroups);
	in->p += have < 16 ? have : 16;
	return sendmsg(sock, &m, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0;
}

static void receive(int sock)
{
	static char *buf;
	struct imsg m;
	if (!buf)
		AN((buf = malloc(IMSG_MAX + 8)));
	errno = 0;
	int rc = imsg_recv(sock, buf, &m);
	AN(rc == 1 || rc == 0 || errno == EPROTO);
	if (rc != 1)
		return;
	AN(m.data == buf + 8 && m.len <= IMSG_MAX);
	for (uint32_t i = 0; i < m.len; i++)
		sink += (unsigned char)m.data[i];
	if (m.fd >= 0) {
		AN(fcntl(m.fd, F_GETFD) == FD_CLOEXEC);
		close(m.fd);
	} else {
		AN(m.fd == -1);
	}
}

static void honest(int from, int to, struct input *in)
{
	static char buf[IMSG_MAX + 8];
	struct imsg m;
	char text[256];
	size_t n = byte(in);
	bool fd = n & 1;
	memset(text, (int)byte(in), n);
	AN(imsg_send(from, CTL_COMMAND, text, n, fd ? spare[0] : -1));
	AN(imsg_recv(to, buf, &m) == 1);
	AN(m.type == CTL_COMMAND && m.len == n && memcmp(m.data, text, n) == 0 && (m.fd >= 0) == fd);
	if (fd)
		close(m.fd);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data, data + size};
	int s[2];
	for (unsigned i = 0; !spare[FDS_MOST - 1] && i < FDS_MOST; i++)
		AN((spare[i] = open("/dev/null", O_RDONLY)) > 0);
	AN(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, s) == 0);
	int before = lowest_free();
	while (in.p < in.end) {
		if (send_lie(s[0], &in))
			receive(s[1]);
		AN(lowest_free() == before);
		honest(s[0], s[1], &in);
	}
	close(s[0]);
	close(s[1]);
	return 0;
}
