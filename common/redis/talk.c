/* A thread that waits for answers reads them itself: two wake-ups less than by way of the loop, which may have other work. */
#include <errno.h>
#include <poll.h>
#include <time.h>

#include "clock.h"
#include "redis/link-private.h"

#define READ_BYTES 16384 /* as in pipe.c */

struct talk {
	int fd, error; /* errno of what went wrong */
	bool more;     /* to be read, perhaps */
	int64_t deadline_us;
	struct redis_reader *reader;
};

static bool wait_for(struct talk *t, short what)
{
	int64_t left = t->deadline_us - clock_mono_us();
	struct timespec limit = {left / 1000000, left % 1000000 * 1000};
	struct pollfd p = {.fd = t->fd, .events = what};
	int n = left > 0 ? ppoll(&p, 1, &limit, NULL) : 0;
	if (n < 0 && errno == EINTR)
		return true;
	t->error = n > 0 ? 0 : n ? errno : ETIMEDOUT;
	return n > 0;
}

/* Nobody has looked at the socket since the last conversation: the server may have gone, or have said what nobody asked. */
static bool stands(const struct talk *t)
{
	char c;
	return recv(t->fd, &c, 1, MSG_PEEK | MSG_DONTWAIT) == -1 && errno == EAGAIN;
}

static bool send_all(struct talk *t, struct span wire)
{
	for (size_t at = 0; at < wire.len;) {
		ssize_t n = send(t->fd, wire.p + at, wire.len - at, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n >= 0)
			at += (size_t)n;
		else if (errno == EAGAIN ? !wait_for(t, POLLOUT) : errno != EINTR && (t->error = errno))
			return false;
	}
	return true;
}

static bool read_some(struct talk *t)
{
	char bytes[READ_BYTES];
	/* Behind a whole piece there is more, most likely; and what has just been asked is not answered yet. */
	if (!t->more && !wait_for(t, POLLIN))
		return false;
	ssize_t n = recv(t->fd, bytes, sizeof(bytes), MSG_DONTWAIT);
	t->more = n == (ssize_t)sizeof(bytes);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return true;
	if (n > 0 && redis_reader_feed(t->reader, bytes, (size_t)n))
		return true;
	t->error = n > 0 ? EPROTO : n ? errno : ECONNRESET;
	return false;
}

static bool read_all(struct talk *t, size_t n, void (*got)(void *arg, size_t i, struct redis_reply **reply), void *arg)
{
	struct redis_reply *reply;
	for (size_t i = 0; i < n;) {
		if (!redis_reader_next(t->reader, &reply)) {
			t->error = EPROTO;
			return false;
		}
		if (reply)
			got(arg, i++, &reply);
		else if (!read_some(t))
			return false;
		redis_reply_free(&reply);
	}
	t->error = redis_reader_idle(t->reader) ? 0 : EPROTO;
	return true;
}

static void give_back(struct redis_link *l, int error)
{
	pthread_mutex_lock(&l->lock);
	l->leased = false;
	if (error && !l->failed)
		l->failed = error;
	bool failed = l->failed;
	pthread_mutex_unlock(&l->lock);
	if (failed)
		redis_link_ring(l);
}

enum redis_talk redis_link_talk(struct redis_link *l, struct span wire, size_t n, int64_t deadline_us,
				void (*got)(void *arg, size_t i, struct redis_reply **reply), void *arg)
{
	struct talk t = {.deadline_us = deadline_us};
	pthread_mutex_lock(&l->lock);
	bool mine = l->conf.direct && l->state == LINK_READY && !l->failed && !l->leased;
	if (mine) { /* until it is given back, the loop leaves them alone */
		l->leased = true;
		t.fd = l->fd;
		t.reader = l->reader;
	}
	bool first = l->conf.direct && !l->wanted;
	l->wanted |= first;
	pthread_mutex_unlock(&l->lock);
	if (first)
		redis_link_ring(l);
	if (!mine)
		return TALK_NONE;
	if (!stands(&t)) {
		give_back(l, ECONNRESET);
		return TALK_NONE;
	}
	bool all = send_all(&t, wire) && read_all(&t, n, got, arg);
	give_back(l, t.error);
	return all ? TALK_DONE : t.error == ETIMEDOUT ? TALK_LATE : TALK_BROKEN;
}
