/* TLS on one connection: the verbs behind which OpenSSL hides.
 *
 * Reading: a BIO of our own receives all that the socket has into OpenSSL's buffer (read-ahead), so
 * a request costs one recv, as without TLS. The BIO remembers that the socket was empty and tells OpenSSL
 * "later" without asking the kernel again.
 * Writing: a record of at most 16 KiB at a time. What the socket does not take stays in OpenSSL, and the
 * plain bytes of that record stay in the connection's output until it is gone: so http_out_pending(),
 * the limits on unsent output and the write timeout mean the same as without TLS, and a
 * slow reader holds one record more.
 * No call leaves anything in OpenSSL's error queue that the next could mistake for its own. */
#define LOG_SUBSYSTEM LOG_IN_TLS
#include <ctype.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdlib.h>
#include <sys/socket.h>
#include "log.h"
#include "http/http-private.h"

#define RECORD_MAX (16u * 1024) /* plain bytes of a record */
#define TURN_MAX (256u * 1024)	/* decrypted or encrypted before other connections get their turn: about 0.1 ms */

struct http_tls_conn {
	SSL *ssl;
	bool greeted;	  /* the first bytes look like TLS */
	bool up;	  /* the handshake is done */
	bool failed;	  /* OpenSSL has given up: it must not be asked again */
	bool read_writes; /* reading goes on when the socket takes bytes */
	bool dry;	  /* the socket had no more; holds during one call of http_tls_recv() */
	bool eof;
};

/* ---- OpenSSL's way to the socket ---- */

static int bio_read(BIO *b, char *p, int n)
{
	struct http_conn *c = BIO_get_data(b);
	struct http_tls_conn *t = c->tls;
	ssize_t got;

	BIO_clear_retry_flags(b);
	if (t->dry) {
		BIO_set_retry_read(b);
		return -1;
	}
	do
		got = http_io_sys_recv(c->fd, p, (size_t)n, 0);
	while (got < 0 && errno == EINTR);
	t->dry = got < n && !c->hup; /* after a hang-up the end of the stream follows, without an event of its own */
	t->eof = got == 0;
	if (got < 0 && errno == EAGAIN) {
		t->dry = true;
		BIO_set_retry_read(b);
	}
	return (int)got;
}

static int bio_write(BIO *b, const char *p, int n)
{
	struct http_conn *c = BIO_get_data(b);
	ssize_t done;

	BIO_clear_retry_flags(b);
	do
		done = http_io_sys_send(c->fd, p, (size_t)n);
	while (done < 0 && errno == EINTR);
	if (done < 0 && errno == EAGAIN)
		BIO_set_retry_write(b);
	return (int)done;
}

static long bio_ctrl(BIO *b, int cmd, long num, void *p)
{
	struct http_conn *c = BIO_get_data(b);
	(void)num, (void)p;
	if (cmd == BIO_CTRL_EOF)
		return c->tls->eof;
	return cmd == BIO_CTRL_FLUSH;
}

static int bio_create(BIO *b)
{
	BIO_set_init(b, 1);
	return 1;
}

static const BIO_METHOD *method(void)
{
	static BIO_METHOD *m;
	if (m)
		return m;
	m = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "http connection");
	AN(m && BIO_meth_set_read(m, bio_read) && BIO_meth_set_write(m, bio_write) && BIO_meth_set_ctrl(m, bio_ctrl) &&
	   BIO_meth_set_create(m, bio_create));
	return m;
}

bool http_tls_open(struct http_conn *c)
{
	SSL *ssl = c->s->tls ? http_tls_ssl(c->s->tls) : NULL;
	BIO *b = ssl ? BIO_new(method()) : NULL;
	if (!b) {
		SSL_free(ssl);
		ERR_clear_error();
		return false;
	}
	BIO_set_data(b, c);
	SSL_set_bio(ssl, b, b);
	SSL_set_accept_state(ssl);
	c->tls = util_zalloc(sizeof(*c->tls));
	c->tls->ssl = ssl;
	return true;
}

void http_tls_close(struct http_conn *c)
{
	struct http_tls_conn *t = c->tls;
	http_tls_notify(c);
	if (t->greeted && !t->up)
		stats_add(c->s->stats, STAT_TLS_HANDSHAKE_FAILURES, 1);
	SSL_free(t->ssl);
	free(t);
	c->tls = NULL;
	ERR_clear_error();
}

/* A cut answer must not look complete, which it does to a client of HTTP/1.0 that hears close_notify. */
void http_tls_spoil(struct http_conn *c) { c->tls->failed = true; }

void http_tls_notify(struct http_conn *c)
{
	struct http_tls_conn *t = c->tls;
	if (!t->up || t->failed)
		return;
	ERR_clear_error();
	(void)SSL_shutdown(t->ssl); /* close_notify, once; theirs is not waited for */
	t->failed = true;
}

/* ---- reading ---- */

/* Looks at the first bytes without taking them: a request in plain text gets an answer that can be read.
 * 1: TLS goes on; else what http_tls_recv() returns. */
static ssize_t greet(struct http_conn *c, char *p, size_t room)
{
	ssize_t n = http_io_sys_recv(c->fd, p, room, MSG_PEEK);
	if (n <= 0)
		return n == 0 ? 0 : errno == EAGAIN || errno == EINTR ? -1 : -2;
	c->tls->greeted = true;
	if (!isalpha((unsigned char)p[0])) /* a record of TLS begins with 22, SSLv2's hello with 128 */
		return 1;
	c->in_len += (uint32_t)n; /* lies in the input buffer: HEAD shows there */
	http_tls_close(c);
	http_conn_refuse(c, 400, "this port speaks TLS; use https://");
	c->more = true;
	return -1;
}

/* In the handshake the client is to hear the alert: half-close and drain, as after an error answer. */
static ssize_t gave_up(struct http_conn *c, int error)
{
	struct http_tls_conn *t = c->tls;
	const char *why = ERR_reason_error_string(ERR_peek_last_error());
	int sys = errno;

	t->failed = true;
	log_debug("TLS %s: %s", t->up ? "connection" : "handshake",
		  why			       ? why
		  : error == SSL_ERROR_SYSCALL ? strerror(sys)
					       : "failed");
	ERR_clear_error();
	if (t->up || t->eof)
		return -2;
	c->rx = HTTP_RX_OFF;
	c->unread = c->closing = c->more = true;
	return -1;
}

static void came_up(struct http_conn *c)
{
	c->tls->up = true;
	stats_add(c->s->stats, STAT_TLS_HANDSHAKES, 1);
}

/* What waits in front of the end or the failure is handed out first; the next call meets it again. */
static ssize_t read_stopped(struct http_conn *c, size_t got)
{
	struct http_tls_conn *t = c->tls;
	int error = SSL_get_error(t->ssl, 0);

	if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) {
		c->more = false; /* the socket is empty, or full */
		if (error == SSL_ERROR_WANT_WRITE) {
			t->read_writes = true;
			http_io_blocked(c);
		}
		return got ? (ssize_t)got : -1;
	}
	c->more = true;
	if (got)
		return (ssize_t)got;
	return error == SSL_ERROR_ZERO_RETURN ? 0 : gave_up(c, error);
}

/* As recv() by http_io_fill(): bytes, 0 at the end, -1 nothing now, -2 broken. */
ssize_t http_tls_recv(struct http_conn *c, char *p, size_t room)
{
	struct http_tls_conn *t = c->tls;
	size_t got = 0, n;

	if (c->rx == HTTP_RX_OFF) { /* thrown away: nobody needs to decrypt it */
		ssize_t raw = http_io_sys_recv(c->fd, p, room, 0);
		c->more = c->hup || raw == (ssize_t)room;
		return raw >= 0 ? raw : errno == EAGAIN || errno == EINTR ? -1 : -2;
	}
	if (t->failed)
		return -2;
	if (!t->greeted) {
		ssize_t ok = greet(c, p, room);
		if (ok != 1)
			return ok;
	}
	if (room > TURN_MAX)
		room = TURN_MAX;
	t->dry = false;
	ERR_clear_error();
	while (got < room && SSL_read_ex(t->ssl, p + got, room - got, &n) == 1)
		got += n;
	if (!t->up && SSL_is_init_finished(t->ssl))
		came_up(c);
	if (got)
		stats_add(c->s->stats, STAT_BYTES_IN, got);
	if (got < room)
		return read_stopped(c, got);
	c->more = true; /* OpenSSL's buffer, too, may hold what no event will report */
	return (ssize_t)got;
}

void http_tls_writable(struct http_conn *c)
{
	if (!c->tls->read_writes)
		return;
	c->tls->read_writes = false;
	c->out_deadline = HTTP_NEVER;
	c->more = true;
}

/* ---- writing ---- */

/* Bytes of one record that has gone out; 0: not now, or never (c->broken). A record that was not taken whole
 * is tried again with the same bytes at the front, wherever they lie by then. */
static size_t write_record(struct http_conn *c, const char *p, size_t n)
{
	struct http_tls_conn *t = c->tls;
	size_t done;

	ERR_clear_error();
	if (t->failed) {
		c->broken = true;
		return 0;
	}
	if (SSL_write_ex(t->ssl, p, n < RECORD_MAX ? n : RECORD_MAX, &done) == 1)
		return done;
	int error = SSL_get_error(t->ssl, 0);
	if (error != SSL_ERROR_WANT_WRITE && error != SSL_ERROR_WANT_READ)
		c->broken = t->failed = true;
	return 0;
}

void http_tls_flush(struct http_conn *c)
{
	size_t n, total = 0;

	while (http_out_pending(c) && total < TURN_MAX) {
		n = write_record(c, c->out + c->out_off, http_out_pending(c));
		if (c->broken)
			return;
		if (n == 0) {
			if (total || !c->writing) /* else no progress: the deadline stands */
				http_io_blocked(c);
			return;
		}
		http_io_sent(c, n);
		total += n;
	}
	c->out_deadline = HTTP_NEVER;
	if (http_out_pending(c)) {
		c->out_deadline = c->s->now_ms + c->s->lim.write_timeout_ms;
		http_server_queue(c); /* others first */
	}
}

/* The beginning of a large body, from the caller's memory and behind what waits; returns how much of it. */
size_t http_tls_send(struct http_conn *c, const char *p, size_t n)
{
	size_t done = 0, got;

	http_tls_flush(c);
	if (http_out_pending(c) || c->broken)
		return 0;
	while (done < n && done < TURN_MAX && (got = write_record(c, p + done, n - done)))
		done += got;
	if (done)
		stats_add(c->s->stats, STAT_BYTES_OUT, done);
	return done;
}
