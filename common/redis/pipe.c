/* The pipeline of a connection: commands out, by whoever sends them; answers in, on the loop. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "clock.h"
#include "redis/link-private.h"

#define READ_BYTES 16384 /* hiredis moves what is left of them behind each reply */
#define READS_PER_TURN 64
#define OUT_KEPT 262144

/* ---- the wire ---- */

/* A mark and a number, end of line: printf would cost as much as the rest of a GET. */
static void add_head(struct buf *b, char mark, size_t n)
{
	char text[24], *p = text + sizeof(text);
	*--p = '\n';
	*--p = '\r';
	do
		*--p = (char)('0' + n % 10);
	while (n /= 10);
	*--p = mark;
	buf_add(b, p, (size_t)(text + sizeof(text) - p));
}

void redis_wire_n(struct buf *b, const struct span *v, size_t n)
{
	add_head(b, '*', n);
	for (size_t i = 0; i < n; i++) {
		add_head(b, '$', v[i].len);
		buf_add(b, v[i].p, v[i].len);
		buf_add(b, "\r\n", 2);
	}
}

void redis_wire(struct buf *b, const char *first, ...)
{
	struct span v[16];
	size_t n = 0;
	va_list ap;
	va_start(ap, first);
	for (const char *s = first; s && n < ARRAY_LEN(v); s = va_arg(ap, const char *))
		v[n++] = SPAN(s);
	va_end(ap);
	redis_wire_n(b, v, n);
}

/* ---- out ---- */

void redis_pipe_push(struct redis_link *l)
{
	while (l->out_at < l->out.len && !l->failed) {
		ssize_t n = send(l->fd, l->out.p + l->out_at, l->out.len - l->out_at, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n >= 0)
			l->out_at += (size_t)n;
		else if (errno == EAGAIN)
			return;
		else if (errno != EINTR)
			l->failed = errno;
	}
	l->out.len = l->out_at = 0;
	if (l->out.cap > OUT_KEPT)
		buf_free(&l->out);
}

bool redis_pipe_add(struct redis_link *l, struct redis_call *const *v, size_t n, unsigned most)
{
	if (n > most || l->sent_len > most - n)
		return false;
	int64_t now = clock_mono_us();
	for (size_t i = 0; i < n; i++) {
		v[i]->at_us = now;
		l->sent[(l->sent_head + l->sent_len++) % l->sent_cap] = v[i];
		buf_add(&l->out, v[i]->wire.p, v[i]->wire.len);
	}
	return true;
}

bool redis_link_send(struct redis_link *l, struct redis_call *const *v, size_t n)
{
	pthread_mutex_lock(&l->lock);
	bool idle = l->out_at == l->out.len, ring = false;
	bool ok = l->state == LINK_READY && !l->conf.channel && !l->conf.direct && !l->failed &&
		  redis_pipe_add(l, v, n, l->conf.in_flight);
	if (ok && idle) {
		redis_pipe_push(l);
		ring = l->out_at < l->out.len || l->failed || !l->watched;
		l->watched = true;
	}
	pthread_mutex_unlock(&l->lock);
	if (ring)
		redis_link_ring(l);
	return ok;
}

/* ---- in ---- */

int64_t redis_pipe_since(const struct redis_link *l) { return l->sent_len ? l->sent[l->sent_head]->at_us : 0; }

static struct redis_call *take_head(struct redis_link *l)
{
	struct redis_call *c = NULL;
	pthread_mutex_lock(&l->lock);
	if (l->sent_len) {
		c = l->sent[l->sent_head];
		l->sent_head = (l->sent_head + 1) % l->sent_cap;
		l->sent_len--;
	}
	pthread_mutex_unlock(&l->lock);
	return c;
}

static void take(struct redis_link *l, struct redis_reply *reply)
{
	if (l->conf.channel && l->state == LINK_READY) {
		l->conf.pushed(l->conf.arg, reply);
		redis_reply_free(&reply);
		return;
	}
	struct redis_call *c = take_head(l);
	if (!c)
		redis_link_drop(l, reply->type == REPLY_ERROR ? reply->text : "it says what nobody asked");
	else if (reply->type != REPLY_ERROR || !l->conf.redirect || l->state != LINK_READY ||
		 !l->conf.redirect(l->conf.arg, l, c, reply))
		c->done(c, REDIS_ANSWERED, &reply);
	redis_reply_free(&reply);
}

/* False: the connection is gone. */
static bool take_all(struct redis_link *l)
{
	uint64_t session = l->session;
	struct redis_reply *reply;
	for (;;) {
		if (!redis_reader_next(l->reader, &reply)) {
			redis_link_drop(l, redis_reader_error(l->reader));
			return false;
		}
		if (!reply)
			return true;
		take(l, reply);
		if (l->session != session || l->fd == -1)
			return false;
	}
}

void redis_pipe_read(struct redis_link *l)
{
	char bytes[READ_BYTES];
	for (int i = 0; i < READS_PER_TURN; i++) {
		ssize_t n = recv(l->fd, bytes, sizeof(bytes), MSG_DONTWAIT);
		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n <= 0) {
			redis_link_drop(l, n ? strerror(errno) : "it closed the connection");
			return;
		}
		l->heard_us = clock_mono_us();
		if (!redis_reader_feed(l->reader, bytes, (size_t)n)) {
			redis_link_drop(l, redis_reader_error(l->reader));
			return;
		}
		if (!take_all(l) || n < (ssize_t)sizeof(bytes))
			return;
	}
}

void redis_pipe_lose(struct redis_call **v, unsigned head, unsigned n, unsigned cap)
{
	for (unsigned i = 0; i < n; i++) {
		struct redis_call *c = v[(head + i) % cap];
		struct redis_reply *none = NULL;
		c->done(c, REDIS_LOST, &none);
	}
}
