/* Control messages. Broken code this would catch: lost or leaked descriptors, descriptors without
 * close-on-exec, blocking or SIGPIPE on a full or dead socket, frames of the wrong size believed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "imsg.h"

static char in[IMSG_MAX + 8], out[IMSG_MAX];

static size_t open_fds(void)
{
	size_t n = 0;
	DIR *d = opendir("/proc/self/fd");
	while (readdir(d))
		n++;
	closedir(d);
	return n;
}

static void make_pair(int s[2]) { assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, s), 0); }

static void test_messages(void **state)
{
	(void)state;
	int s[2];
	struct imsg m;
	make_pair(s);
	assert_int_equal(imsg_recv(s[1], in, &m), -1);
	assert_int_equal(errno, EAGAIN);
	for (size_t i = 0; i < sizeof(out); i++)
		out[i] = (char)(i * 13);
	static const size_t sizes[] = {0, 1, 7, 4096, IMSG_MAX};
	for (size_t i = 0; i < ARRAY_LEN(sizes); i++)
		assert_true(imsg_send(s[0], CTL_COMMAND, out, sizes[i], -1));
	for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
		assert_int_equal(imsg_recv(s[1], in, &m), 1);
		assert_int_equal(m.type, CTL_COMMAND);
		assert_int_equal(m.len, sizes[i]);
		assert_int_equal(m.fd, -1);
		assert_memory_equal(m.data, out, sizes[i]);
	}
	assert_false(imsg_send(s[0], CTL_COMMAND, out, IMSG_MAX + 1, -1));
	assert_int_equal(errno, EMSGSIZE);
	close(s[0]);
	assert_int_equal(imsg_recv(s[1], in, &m), 0);
	assert_false(imsg_send(s[1], CTL_DRAIN, NULL, 0, -1)); /* and no SIGPIPE */
	assert_int_equal(errno, EPIPE);
	close(s[1]);
}

static void test_full(void **state)
{
	(void)state;
	int s[2], sent = 0;
	struct imsg m;
	make_pair(s);
	while (sent < 100000 && imsg_send(s[0], CTL_COMMAND, out, 1000, -1))
		sent++;
	assert_int_equal(errno, EAGAIN);
	assert_true(sent > 1);
	for (int i = 0; i < sent; i++)
		assert_int_equal(imsg_recv(s[1], in, &m), 1);
	assert_int_equal(imsg_recv(s[1], in, &m), -1);
	/* unread messages and then the end: gone is gone */
	assert_true(imsg_send(s[0], CTL_COMMAND, out, 10, -1));
	close(s[1]);
	assert_false(imsg_send(s[0], CTL_COMMAND, out, 10, -1));
	assert_int_equal(errno, EPIPE);
	assert_int_equal(imsg_recv(s[0], in, &m), 0);
	close(s[0]);
}

static void test_descriptor(void **state)
{
	(void)state;
	int s[2], p[2];
	struct imsg m;
	char c = 0;
	make_pair(s);
	size_t before = open_fds();
	assert_int_equal(pipe(p), 0);
	assert_true(imsg_send(s[0], CTL_CONF_PREPARE, NULL, 0, p[1]));
	assert_true(imsg_send(s[0], CTL_CONF_COMMIT, NULL, 0, -1));
	assert_int_equal(write(p[1], "a", 1), 1); /* the sender keeps its own */
	close(p[1]);
	assert_int_equal(imsg_recv(s[1], in, &m), 1);
	assert_true(m.fd >= 0);
	assert_true(fcntl(m.fd, F_GETFD) & FD_CLOEXEC);
	assert_int_equal(write(m.fd, "b", 1), 1);
	assert_int_equal(read(p[0], &c, 1), 1);
	assert_int_equal(read(p[0], &c, 1), 1);
	assert_int_equal(c, 'b');
	close(m.fd);
	close(p[0]);
	assert_int_equal(imsg_recv(s[1], in, &m), 1);
	assert_int_equal(m.fd, -1);
	assert_int_equal(open_fds(), before);
	close(s[0]);
	close(s[1]);
}

/* What no imsg_send() would send, with descriptors in it: refused, nothing leaked. */
static void send_raw(int sock, const void *data, size_t len, const int *fds, size_t nfds)
{
	struct iovec iov = {(void *)(uintptr_t)data, len};
	_Alignas(struct cmsghdr) char space[CMSG_SPACE(16 * sizeof(int))] = {0};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
	if (nfds) {
		m.msg_control = space;
		m.msg_controllen = CMSG_SPACE(nfds * sizeof(int));
		struct cmsghdr *c = CMSG_FIRSTHDR(&m);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(nfds * sizeof(int));
		memcpy(CMSG_DATA(c), fds, nfds * sizeof(int));
	}
	assert_int_equal(sendmsg(sock, &m, 0), len);
}

static void test_malformed(void **state)
{
	(void)state;
	int s[2], fds[16];
	struct imsg m;
	static char big[IMSG_MAX + 100];
	make_pair(s);
	setsockopt(s[0], SOL_SOCKET, SO_SNDBUF, &(int){1 << 20}, sizeof(int));
	for (size_t i = 0; i < ARRAY_LEN(fds); i++)
		fds[i] = s[0];
	size_t before = open_fds();
	uint32_t frame[4] = {CTL_DRAIN, 0, 0, 0};
	const struct {
		uint32_t len;
		size_t bytes;
		size_t nfds;
	} bad[] = {{0, 0, 1}, {0, 1, 0}, {0, 7, 1}, {1, 8, 1}, {0, 9, 1}, {UINT32_MAX, 16, 1}, {8, 16, 16}};
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		frame[1] = bad[i].len;
		send_raw(s[0], frame, bad[i].bytes, fds, bad[i].nfds);
		assert_int_equal(imsg_recv(s[1], in, &m), -1);
		assert_int_equal(errno, EPROTO);
	}
	uint32_t len = sizeof(big) - 8;
	memcpy(big + 4, &len, 4);
	send_raw(s[0], big, sizeof(big), NULL, 0);
	assert_int_equal(imsg_recv(s[1], in, &m), -1);
	assert_int_equal(errno, EPROTO);
	/* several descriptors: the first is given, the others are closed */
	frame[1] = 8;
	send_raw(s[0], frame, 16, fds, 3);
	assert_int_equal(imsg_recv(s[1], in, &m), 1);
	assert_true(m.fd >= 0);
	close(m.fd);
	assert_int_equal(open_fds(), before);
	close(s[0]);
	close(s[1]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_messages), cmocka_unit_test(test_full),
					   cmocka_unit_test(test_descriptor), cmocka_unit_test(test_malformed)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
