/* Buffers and system calls of a connection. An idle connection owns no buffer: the input buffer is
 * taken at a read and given back when nothing of it is needed; both kinds come from small last-in
 * first-out pools, so a busy server works in the same few warm pages. */
#include <errno.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>
#include "http/http-private.h"

/* recv() and send() without the cancellation points that libc wraps around them in a process with threads:
 * nobody cancels threads here, and these two are half of what a request costs. */
ssize_t http_io_sys_recv(int fd, void *p, size_t n, int flags)
{
	return syscall(SYS_recvfrom, fd, p, n, flags, NULL, NULL);
}
ssize_t http_io_sys_send(int fd, const void *p, size_t n)
{
	return syscall(SYS_sendto, fd, p, n, MSG_NOSIGNAL, NULL, 0);
}

/* ---- pools ---- */

static char *pool_take(char **pool, unsigned *n, size_t size) { return *n ? pool[--*n] : util_alloc(size); }

static void pool_give(char **pool, unsigned *n, char *p)
{
	if (*n < HTTP_POOL_MAX)
		pool[(*n)++] = p;
	else
		free(p);
}

void http_io_pools_free(struct http_server *s)
{
	while (s->n_in_free)
		free(s->in_free[--s->n_in_free]);
	while (s->n_out_free)
		free(s->out_free[--s->n_out_free]);
}

void http_io_in_give(struct http_conn *c)
{
	if (!c->in)
		return;
	if (c->in_cap == HTTP_IN_SIZE)
		pool_give(c->s->in_free, &c->s->n_in_free, c->in);
	else
		free(c->in);
	c->in = NULL;
	c->in_cap = c->in_len = c->in_pos = c->pin = 0;
}

void http_io_out_give(struct http_conn *c)
{
	if (c->out && c->out_cap == HTTP_OUT_SIZE)
		pool_give(c->s->out_free, &c->s->n_out_free, c->out);
	else
		free(c->out);
	c->out = NULL;
	c->out_cap = c->out_len = c->out_off = 0;
}

void http_io_out_park(struct http_conn *c)
{
	size_t len = http_out_pending(c);
	char *p = util_alloc(len);
	memcpy(p, c->out + c->out_off, len);
	http_io_out_give(c);
	c->out = p;
	c->out_cap = c->out_len = len;
}

/* ---- unsent output of all connections ---- */

static void holder_remove(struct http_conn *c)
{
	struct http_server *s = c->s;
	*(c->o_prev ? &c->o_prev->o_next : &s->o_first) = c->o_next;
	*(c->o_next ? &c->o_next->o_prev : &s->o_last) = c->o_prev;
}

static void holder_append(struct http_conn *c)
{
	struct http_server *s = c->s;
	c->o_next = NULL;
	c->o_prev = s->o_last;
	*(s->o_last ? &s->o_last->o_next : &s->o_first) = c;
	s->o_last = c;
	c->o_since = c->out_deadline;
}

void http_io_charge(struct http_conn *c)
{
	size_t holds = http_out_pending(c) && !c->held_ms
			       ? c->out_cap
			       : 0; /* what is held back is small, and not the client's fault */
	if (!holds && !c->out_charged)
		return;
	if (c->out_charged && (!holds || c->o_since != c->out_deadline))
		holder_remove(c);
	if (holds && (!c->out_charged || c->o_since != c->out_deadline))
		holder_append(c); /* what moves its deadline is progress */
	c->s->unsent += holds - c->out_charged;
	c->out_charged = holds;
}

/* ---- input ---- */

static void in_replace(struct http_conn *c, char *p, uint32_t cap)
{
	uint32_t len = c->in_len - c->in_pos;
	if (len)
		memcpy(p, c->in + c->in_pos, len);
	http_io_in_give(c);
	c->in = p;
	c->in_cap = cap;
	c->in_len = len;
}

/* Only between requests, when no span points into the buffer: the beginning of a head moves to
 * memory of its own size, so that ten thousand slow writers do not hold ten thousand buffers. */
void http_io_park(struct http_conn *c)
{
	uint32_t len = c->in_len - c->in_pos;
	if (len > HTTP_PARK_MAX || c->in_cap < HTTP_IN_SIZE)
		return;
	char *p = util_alloc(len);
	in_replace(c, p, len);
}

void http_io_grow(struct http_conn *c)
{
	uint32_t cap = c->in_cap * 2;
	AN(!c->r); /* what it tells lies there */
	if (cap <= HTTP_IN_SIZE)
		in_replace(c, pool_take(c->s->in_free, &c->s->n_in_free, HTTP_IN_SIZE), HTTP_IN_SIZE);
	else
		in_replace(c, util_alloc(cap), cap);
}

/* False: the buffer is full and what is in it may not move. */
bool http_io_make_room(struct http_conn *c)
{
	if (!c->in) {
		c->in = pool_take(c->s->in_free, &c->s->n_in_free, HTTP_IN_SIZE);
		c->in_cap = HTTP_IN_SIZE;
		return true;
	}
	if (c->in_cap < HTTP_IN_SIZE)
		http_io_grow(c);
	if (c->in_pos == c->in_len) {
		c->in_pos = c->in_len = c->pin;
	} else if (c->in_len == c->in_cap && c->in_pos > c->pin) {
		memmove(c->in + c->pin, c->in + c->in_pos, c->in_len - c->in_pos);
		c->in_len -= c->in_pos - c->pin;
		c->in_pos = c->pin;
	}
	if (c->in_len < c->in_cap)
		return true;
	if (c->r || c->in_cap > c->s->lim.head_bytes)
		return false;
	http_io_grow(c);
	return true;
}

static ssize_t receive(struct http_conn *c, char *p, size_t room)
{
	ssize_t n;
	if (c->tls)
		return http_tls_recv(c, p, room);
	do
		n = http_io_sys_recv(c->fd, p, room, 0);
	while (n < 0 && errno == EINTR);
	if (n > 0)
		stats_add(c->s->stats, STAT_BYTES_IN, (uint64_t)n);
	/* Edge-triggered: a read that filled its room leaves bytes nobody will be woken for again. */
	c->more = c->hup || n == (ssize_t)room;
	if (n < 0)
		return errno == EAGAIN ? -1 : -2;
	return n;
}

/* Large bodies are read to where they stay; everything else into the input buffer. */
ssize_t http_io_fill(struct http_conn *c)
{
	struct http_request *r = c->r;
	ssize_t n;

	if (c->rx == HTTP_RX_OFF) { /* thrown away */
		static char nowhere[16 * 1024];
		return receive(c, nowhere, sizeof(nowhere));
	}
	if (c->rx == HTTP_RX_BODY && r->body_own) {
		n = receive(c, r->body + r->body_len, (size_t)c->body_left);
		if (n > 0) {
			r->body_len += (size_t)n;
			c->body_left -= (uint64_t)n;
			http_request_body_charge(r, (size_t)n);
		}
		return n;
	}
	if (!http_io_make_room(c)) {
		c->more = true;
		return -1;
	}
	n = receive(c, c->in + c->in_len, c->in_cap - c->in_len);
	if (n > 0)
		c->in_len += (uint32_t)n;
	return n;
}

/* ---- output ---- */

char *http_io_out(struct http_conn *c, size_t more)
{
	size_t pending = http_out_pending(c), need;

	AN(size_add(pending, more, &need));
	if (!c->out) {
		if (need <= HTTP_OUT_SIZE) {
			c->out = pool_take(c->s->out_free, &c->s->n_out_free, HTTP_OUT_SIZE);
			c->out_cap = HTTP_OUT_SIZE;
		} else {
			c->out = util_alloc(need);
			c->out_cap = need;
		}
	}
	if (c->out_cap - c->out_len < more) {
		if (c->out_off >= pending && c->out_cap >= need) {
			memcpy(c->out, c->out + c->out_off, pending);
		} else {
			size_t cap = c->out_cap * 2 > need ? c->out_cap * 2 : need;
			char *p = util_alloc(cap);
			memcpy(p, c->out + c->out_off, pending);
			http_io_out_give(c);
			c->out = p;
			c->out_cap = cap;
		}
		c->out_off = 0;
		c->out_len = pending;
	}
	return c->out + c->out_len;
}

void http_io_sent(struct http_conn *c, size_t n)
{
	stats_add(c->s->stats, STAT_BYTES_OUT, n);
	c->out_off += n;
	if (c->out_off == c->out_len)
		c->out_off = c->out_len = 0;
}

void http_io_blocked(struct http_conn *c)
{
	if (!c->writing) {
		c->writing = true;
		AN(event_add(c->ev_write, NULL) == 0);
	}
	c->out_deadline = c->s->now_ms + c->s->lim.write_timeout_ms;
}

/* Sends what waits. After a partial send the socket is full: no second call to hear EAGAIN. */
void http_io_flush(struct http_conn *c)
{
	size_t pending = http_out_pending(c);
	if (!pending || c->dead || c->held_ms)
		return;
	if (c->sink) {
		buf_add(c->sink, c->out + c->out_off, pending);
		http_io_sent(c, pending);
		return;
	}
	if (c->tls) {
		http_tls_flush(c);
		return;
	}
	ssize_t n;
	do
		n = http_io_sys_send(c->fd, c->out + c->out_off, pending);
	while (n < 0 && errno == EINTR);
	if (n < 0 && errno != EAGAIN) {
		c->broken = true;
		return;
	}
	if (n > 0)
		http_io_sent(c, (size_t)n);
	if (n < 0 && c->writing)
		return; /* no progress: the deadline stands */
	if (n < (ssize_t)pending)
		http_io_blocked(c);
	else
		c->out_deadline = HTTP_NEVER;
}

/* A large body goes from the caller's memory to the socket in one writev with everything before it;
 * only what the socket does not take is copied. */
void http_io_send(struct http_conn *c, const void *p, size_t n)
{
	bool now = n >= HTTP_OUT_SIZE && !c->writing && !c->sink && !c->broken && !c->dead;
	if (now && c->tls) {
		size_t done = http_tls_send(c, p, n);
		p = (const char *)p + done;
		n -= done;
	} else if (now) {
		size_t pending = http_out_pending(c);
		struct iovec iov[2] = {{c->out + c->out_off, pending}, {(void *)(uintptr_t)p, n}};
		struct msghdr m = {.msg_iov = iov, .msg_iovlen = 2};
		ssize_t done = sendmsg(c->fd, &m, MSG_NOSIGNAL);
		if (done > 0) {
			size_t from_out = (size_t)done < pending ? (size_t)done : pending;
			if (from_out)
				http_io_sent(c, from_out);
			stats_add(c->s->stats, STAT_BYTES_OUT, (size_t)done - from_out);
			p = (const char *)p + ((size_t)done - from_out);
			n -= (size_t)done - from_out;
		} else if (errno != EAGAIN && errno != EINTR) {
			c->broken = true;
		}
	}
	if (n) {
		memcpy(http_io_out(c, n), p, n);
		c->out_len += n;
	}
}
