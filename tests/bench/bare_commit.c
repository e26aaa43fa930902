/* The reference for durable adds over HTTP: libevent's events, llhttp, a group commit, and nothing
 * else. A request's body is checksummed and appended to a preallocated, zero-filled file, one
 * fdatasync makes everything durable that has arrived, then all of it is answered. Nothing is
 * parsed but the framing, nothing is indexed, nothing can be read again.
 *
 * usage: bare_commit [-t] [-r RECORD_BYTES] [-a ANSWER_BYTES] [-f FILE_MIB] PORT|PATH FILE
 *   -t  the commit runs in a thread of its own while the loop gathers the next group;
 *       without it the loop commits what one turn brought
 *   -r  every record is made this long (repeats the body): as long as the daemon's own are */
#include <errno.h>
#include <event2/event.h>
#include <fcntl.h>
#include <llhttp.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "crc32c.h"
#include "listen.h"

struct conn {
	llhttp_t parser;
	struct event *ev;
	int fd;
	struct buf body;
	bool waiting, dead;
};
/* What one fdatasync makes durable. */
struct group {
	struct buf bytes;
	struct conn **conn;
	size_t n, cap;
};
struct head {
	uint32_t magic, crc;
	uint64_t seq, epoch;
	uint32_t len, flags;
};

static llhttp_settings_t settings;
static struct event_base *base;
static struct group groups[2], *gather = &groups[0], *flying;
static char in[256 * 1024], answer[8192];
static size_t answer_len, record_bytes;
static int file, done_efd;
static off_t file_at, file_size = 256 << 20;
static uint64_t seq;
static bool threaded;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t more = PTHREAD_COND_INITIALIZER;
static struct group *work;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

/* ---- the file ---- */

static void make_file(const char *path)
{
	static char zeros[1 << 20];
	file = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (file < 0)
		die(path);
	for (off_t at = 0; at < file_size; at += (off_t)sizeof(zeros))
		if (pwrite(file, zeros, sizeof(zeros), at) != (ssize_t)sizeof(zeros))
			die(path);
	if (fsync(file))
		die(path);
}

static void append(struct group *g, const struct buf *body)
{
	size_t len = record_bytes > body->len ? record_bytes : body->len, start = g->bytes.len;
	struct head h = {.magic = 1, .seq = ++seq, .epoch = 1, .len = (uint32_t)len};
	buf_reserve(&g->bytes, sizeof(h) + len + 8);
	buf_add(&g->bytes, &h, sizeof(h));
	for (size_t left = len; left;) {
		size_t n = left < body->len ? left : body->len;
		buf_add(&g->bytes, body->p, n);
		left -= n;
	}
	h.crc = crc32c(0, g->bytes.p + start, sizeof(h) + len);
	memcpy(g->bytes.p + start, &h, sizeof(h));
	g->bytes.len = align_up(g->bytes.len, 8);
}

static void commit(struct group *g)
{
	if (file_at + (off_t)g->bytes.len > file_size)
		file_at = 0; /* recycled */
	if (pwrite(file, g->bytes.p, g->bytes.len, file_at) != (ssize_t)g->bytes.len || fdatasync(file))
		die("commit");
	file_at += (off_t)g->bytes.len;
}

/* ---- connections ---- */

static void end(struct conn *c)
{
	if (c->ev)
		event_free(c->ev);
	c->ev = NULL;
	c->dead = true;
	if (c->waiting)
		return;
	close(c->fd);
	buf_free(&c->body);
	free(c);
}

static void answer_group(struct group *g)
{
	for (size_t i = 0; i < g->n; i++) {
		struct conn *c = g->conn[i];
		c->waiting = false;
		c->body.len = 0;
		if (c->dead || send(c->fd, answer, answer_len, MSG_NOSIGNAL) != (ssize_t)answer_len)
			end(c);
	}
	g->n = g->bytes.len = 0;
}

static int on_body(llhttp_t *p, const char *at, size_t n)
{
	buf_add(&((struct conn *)p->data)->body, at, n);
	return 0;
}

static int on_complete(llhttp_t *p)
{
	struct conn *c = p->data;
	struct group *g = gather;
	if (c->waiting || !c->body.len)
		return -1; /* no pipelining here */
	c->waiting = true;
	if (g->n == g->cap) {
		g->cap = g->cap ? 2 * g->cap : 256;
		g->conn = util_realloc(g->conn, g->cap * sizeof(struct conn *));
	}
	g->conn[g->n++] = c;
	append(g, &c->body);
	return 0;
}

static void launch(void)
{
	if (flying || !gather->n)
		return;
	flying = gather;
	gather = gather == &groups[0] ? &groups[1] : &groups[0];
	pthread_mutex_lock(&lock);
	work = flying;
	pthread_cond_signal(&more);
	pthread_mutex_unlock(&lock);
}

static void on_read(evutil_socket_t fd, short what, void *arg)
{
	struct conn *c = arg;
	(void)what;
	ssize_t n = recv(fd, in, sizeof(in), 0);
	if (n <= 0 || llhttp_execute(&c->parser, in, (size_t)n) != HPE_OK) {
		end(c);
		return;
	}
}

static void on_done(evutil_socket_t fd, short what, void *arg)
{
	uint64_t count;
	struct group *g = flying;
	(void)what, (void)arg;
	(void)!read(fd, &count, sizeof(count));
	flying = NULL;
	launch(); /* the disk works while the answers go out */
	answer_group(g);
}

static void *committer(void *arg) __attribute__((noreturn));
static void *committer(void *arg)
{
	(void)arg;
	for (;;) {
		pthread_mutex_lock(&lock);
		while (!work)
			pthread_cond_wait(&more, &lock);
		struct group *g = work;
		work = NULL;
		pthread_mutex_unlock(&lock);
		commit(g);
		(void)!write(done_efd, &(uint64_t){1}, 8);
	}
}

static void on_accept(evutil_socket_t fd, short what, void *arg)
{
	int s, one = 1;
	(void)what, (void)arg;
	while ((s = accept4(fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
		struct conn *c = util_zalloc(sizeof(*c));
		c->fd = s;
		setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		llhttp_init(&c->parser, HTTP_REQUEST, &settings);
		c->parser.data = c;
		c->ev = event_new(base, s, EV_READ | EV_PERSIST, on_read, c);
		event_add(c->ev, NULL);
	}
}

static void options(int argc, char **argv, size_t *answer_r)
{
	int ch;
	while ((ch = getopt(argc, argv, "tr:a:f:")) != -1) {
		switch (ch) {
		case 't': threaded = true; break;
		case 'r': record_bytes = strtoul(optarg, NULL, 10); break;
		case 'a': *answer_r = strtoul(optarg, NULL, 10); break;
		case 'f': file_size = (off_t)strtoul(optarg, NULL, 10) << 20; break;
		default: exit(2);
		}
	}
	if (argc - optind != 2 || *answer_r > 8000) {
		fprintf(stderr, "usage: %s [-t] [-r RECORD_BYTES] [-a ANSWER_BYTES] [-f FILE_MIB] PORT|PATH FILE\n",
			argv[0]);
		exit(2);
	}
}

int main(int argc, char **argv)
{
	size_t body = 400;
	pthread_t thread;
	options(argc, argv, &body);
	int fd = listen_on(argv[optind]);
	if (fd < 0)
		die(argv[optind]);
	make_file(argv[optind + 1]);
	int n = snprintf(answer, sizeof(answer),
			 "HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n", body);
	memset(answer + n, 'x', body);
	answer_len = (size_t)n + body;
	llhttp_settings_init(&settings);
	settings.on_body = on_body;
	settings.on_message_complete = on_complete;
	signal(SIGPIPE, SIG_IGN);
	base = event_base_new();
	event_add(event_new(base, fd, EV_READ | EV_PERSIST, on_accept, NULL), NULL);
	done_efd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (threaded) {
		event_add(event_new(base, done_efd, EV_READ | EV_PERSIST, on_done, NULL), NULL);
		if (pthread_create(&thread, NULL, committer, NULL))
			die("thread");
	}
	printf("listening\n");
	fflush(stdout);
	for (;;) {
		event_base_loop(base, EVLOOP_ONCE);
		if (threaded) {
			launch();
		} else if (gather->n) {
			commit(gather);
			answer_group(gather);
		}
	}
}
