/* The server: listening, the turn list, draining, the end. */
#define LOG_SUBSYSTEM LOG_IN_HTTP
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>
#include "log.h"
#include "http/http-private.h"

#define ACCEPT_BURST 32	    /* connections taken per wake-up: open ones must get their turn */
#define ACCEPT_PAUSE_MS 100 /* after EMFILE and its like */
#define OVERFLOW_MAX 64u    /* refused connections that may linger at the same time */

void http_server_now(struct http_server *s)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC_COARSE, &ts); /* 4 ms steps are plenty for 100 ms slots */
	s->now_ms = (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* ---- the turn: what handlers left to do outside the connection's own events ---- */

void http_server_queue(struct http_conn *c)
{
	struct http_server *s = c->s;
	if (c->queued)
		return;
	bool first = !s->turn_first;
	c->queued = true;
	c->turn_next = NULL;
	*s->turn_last = c;
	s->turn_last = &c->turn_next;
	if (!first || !s->ev_turn)
		return;
	if (s->in_turn) { /* not within this pass: the loop looks at the sockets first */
		struct timeval zero = {0, 0};
		AN(event_add(s->ev_turn, &zero) == 0);
	} else {
		event_active(s->ev_turn, EV_TIMEOUT, 1);
	}
}

static void free_server(struct http_server *s)
{
	http_io_pools_free(s);
	http_request_pool_free(s);
	http_memo_free(s);
	fair_free(&s->ready);
	http_tls_free(&s->tls);
	free(s->own_stats);
	free(s);
}

static void free_conn(struct http_conn *c)
{
	struct http_server *s = c->s;
	http_wheel_remove(c);
	http_io_in_give(c);
	http_io_out_give(c);
	*c->pprev = c->next;
	if (c->next)
		c->next->pprev = c->pprev;
	s->n_conns--;
	free(c);
}

void http_server_turn(struct http_server *s)
{
	struct http_conn *c = s->turn_first, *next;

	http_server_now(s);
	s->in_turn = true;
	s->turn_first = NULL;
	s->turn_last = &s->turn_first;
	for (; c; c = next) {
		next = c->turn_next;
		c->queued = false;
		http_conn_turn(c);
		if (c->dead && !c->r && !c->queued)
			free_conn(c);
	}
	s->in_turn = false;
	if (s->n_conns == 0) {
		http_io_pools_free(s);
		http_memo_free(s);
	}
}

static void on_turn(evutil_socket_t fd, short what, void *arg)
{
	(void)fd;
	(void)what;
	http_server_turn(arg);
}

/* ---- connections ---- */

struct http_conn *http_server_conn(struct http_server *s, int fd)
{
	/* one allocation: the struct and its two events */
	size_t ev = align_up(event_get_struct_event_size(), 16), at = align_up(sizeof(struct http_conn), 16);
	char *p = util_zalloc(at + 2 * ev);
	struct http_conn *c = (struct http_conn *)(void *)p;

	c->s = s;
	c->fd = fd;
	c->ev_read = (struct event *)(void *)(p + at);
	c->ev_write = (struct event *)(void *)(p + at + ev);
	http_conn_init(c);
	c->next = s->conns;
	c->pprev = &s->conns;
	if (c->next)
		c->next->pprev = &c->next;
	s->conns = c;
	s->n_conns++;
	s->n_open++;
	if (fd >= 0) {
		AN(event_assign(c->ev_read, s->base, fd, s->ev_read_flags, http_conn_on_read, c) == 0);
		AN(event_assign(c->ev_write, s->base, fd, EV_WRITE | (s->ev_read_flags & EV_ET), http_conn_on_write,
				c) == 0);
	}
	stats_add(s->stats, STAT_CONNECTIONS, 1);
	stats_add(s->stats, STAT_CONNECTIONS_OPEN, 1);
	return c;
}

void http_server_gone(struct http_conn *c)
{
	c->s->n_open--;
	stats_add(c->s->stats, STAT_CONNECTIONS_OPEN, (uint64_t)-1);
}

static bool is_loopback(const struct sockaddr_storage *ss)
{
	if (ss->ss_family == AF_INET)
		return ntohl(((const struct sockaddr_in *)(const void *)ss)->sin_addr.s_addr) >> 24 == 127;
	if (ss->ss_family != AF_INET6)
		return false;
	const struct in6_addr *a = &((const struct sockaddr_in6 *)(const void *)ss)->sin6_addr;
	return IN6_IS_ADDR_LOOPBACK(a) || (IN6_IS_ADDR_V4MAPPED(a) && a->s6_addr[12] == 127);
}

static struct http_peer peer_of(const struct sockaddr_storage *ss)
{
	struct http_peer p = {.local = ss->ss_family == AF_UNIX};
	if (ss->ss_family == AF_INET) {
		const struct sockaddr_in *a = (const struct sockaddr_in *)(const void *)ss;
		p.family = 4;
		p.port = ntohs(a->sin_port);
		memcpy(p.address, &a->sin_addr, 4);
	} else if (ss->ss_family == AF_INET6) {
		const struct sockaddr_in6 *a = (const struct sockaddr_in6 *)(const void *)ss;
		p.family = 6;
		p.port = ntohs(a->sin6_port);
		memcpy(p.address, &a->sin6_addr, 16);
	}
	return p;
}

static void accepted(struct http_listener *l, int fd, const struct sockaddr_storage *peer)
{
	struct http_server *s = l->s;
	bool over = s->n_open >= s->lim.max_connections;

	/* Over TLS a refusal in words would cost more than the request. */
	if (over && (l->tls || s->n_open >= s->lim.max_connections + OVERFLOW_MAX)) {
		stats_add(s->stats, STAT_HTTP_REJECTED, 1);
		close(fd);
		return;
	}
	struct http_conn *c = http_server_conn(s, fd);
	c->loopback = is_loopback(peer);
	c->peer = peer_of(peer);
	if (l->unix_peer) {
		struct ucred u;
		socklen_t len = sizeof(u);
		c->unix_peer = c->peer.local = true;
		c->has_uid = getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &u, &len) == 0;
		c->uid = c->has_uid ? u.uid : 0;
		c->pid = c->has_uid ? u.pid : 0;
	}
	if (l->tls && !http_tls_open(c)) {
		http_conn_close(c);
		return;
	}
	c->over = over && s->cb.on_spare;
	if (over && !c->over)
		http_conn_refuse(c, 503, "too many connections");
	http_conn_settle(c);
}

static void pause_accepting(struct http_server *s, int err)
{
	static struct log_limit limit;
	struct timeval tv = {0, ACCEPT_PAUSE_MS * 1000};
	log_warn_limited(&limit, 10, "accept: %s; not accepting for %d ms", strerror(err), ACCEPT_PAUSE_MS);
	for (struct http_listener *l = s->listeners; l; l = l->next)
		event_del(l->ev);
	s->accept_paused = true;
	evtimer_add(s->ev_accept, &tv);
}

static void on_accept_again(evutil_socket_t fd, short what, void *arg)
{
	struct http_server *s = arg;
	(void)fd;
	(void)what;
	s->accept_paused = false;
	for (struct http_listener *l = s->listeners; l && !s->draining; l = l->next)
		AN(event_add(l->ev, NULL) == 0);
}

static void on_accept(evutil_socket_t fd, short what, void *arg)
{
	struct http_listener *l = arg;
	(void)what;
	http_server_now(l->s);
	for (int i = 0; i < ACCEPT_BURST; i++) {
		struct sockaddr_storage peer;
		socklen_t len = sizeof(peer);
		peer.ss_family = AF_UNSPEC;
		int conn = accept4(fd, (struct sockaddr *)&peer, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (conn >= 0) {
			accepted(l, conn, &peer);
			continue;
		}
		if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
			pause_accepting(l->s, errno);
		else if (errno == ECONNABORTED || errno == EINTR)
			continue;
		return;
	}
}

/* ---- public ---- */

void http_server_set_limits(struct http_server *s, const struct http_limits *l)
{
	s->lim = *l;
	if (s->lim.head_bytes > HTTP_HEAD_CEILING)
		s->lim.head_bytes = HTTP_HEAD_CEILING;
	if (s->lim.headers > HTTP_FIELDS_CEILING)
		s->lim.headers = HTTP_FIELDS_CEILING;
}

struct http_server *http_server_new(struct event_base *base, const struct http_limits *l,
				    const struct http_callbacks *cb, void *arg, struct stats_slot *stats)
{
	struct http_server *s = util_zalloc(sizeof(*s));

	s->base = base;
	http_server_set_limits(s, l);
	s->cb = *cb;
	s->arg = arg;
	s->stats = stats;
	if (!stats) {
		s->own_stats = aligned_alloc(CACHE_LINE, sizeof(*s->own_stats));
		AN(s->own_stats);
		memset(s->own_stats, 0, sizeof(*s->own_stats));
		s->stats = s->own_stats;
	}
	s->turn_last = &s->turn_first;
	s->ready = fair_new();
	s->armed = UINT64_MAX;
	http_parse_settings(&s->settings);
	if (getrandom(&s->id_seed, sizeof(s->id_seed), GRND_NONBLOCK) != sizeof(s->id_seed))
		s->id_seed = (uint64_t)getpid() << 32 ^ (uint64_t)time(NULL);
	http_server_now(s);
	s->ev_read_flags = EV_READ | EV_PERSIST;
	if (base) {
		/* Edge-triggered saves the kernel a second look at every socket (5 % of a request here). What
		 * it asks for in return: see http_io_fill() and `more`; EV_CLOSED, because the end of the
		 * stream may come with the last data and would have no edge of its own. */
		int features = event_base_get_features(base);
		if ((features & EV_FEATURE_ET) && (features & EV_FEATURE_EARLY_CLOSE))
			s->ev_read_flags |= EV_ET | EV_CLOSED;
		s->ev_turn = event_new(base, -1, 0, on_turn, s);
		s->ev_tick = evtimer_new(base, http_wheel_on_tick, s);
		s->ev_accept = evtimer_new(base, on_accept_again, s);
		s->ev_ready = evtimer_new(base, http_ready_on_slice, s);
		s->ev_hold = evtimer_new(base, http_hold_on_timer, s);
		AN(s->ev_turn && s->ev_tick && s->ev_accept && s->ev_ready && s->ev_hold);
	}
	return s;
}

void http_server_set_tls(struct http_server *s, struct http_tls *t)
{
	http_tls_free(&s->tls);
	s->tls = t;
}

int64_t http_server_tls_expires(const struct http_server *s) { return s->tls ? http_tls_expires(s->tls) : 0; }

static int listen_on(struct http_server *s, int fd, bool tls)
{
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);
	int one = 1;

	if (getsockname(fd, (struct sockaddr *)&ss, &len) != 0)
		return -1;
	struct http_listener *l = util_zalloc(sizeof(*l));
	l->s = s;
	l->fd = fd;
	l->tls = tls;
	l->unix_peer = ss.ss_family == AF_UNIX;
	if (!l->unix_peer) /* accepted sockets inherit it: saves a call per connection */
		(void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	l->ev = event_new(s->base, fd, EV_READ | EV_PERSIST, on_accept, l);
	if (!l->ev || (!s->accept_paused && event_add(l->ev, NULL) != 0)) {
		if (l->ev)
			event_free(l->ev);
		free(l);
		return -1;
	}
	l->next = s->listeners;
	s->listeners = l;
	return 0;
}

int http_server_listen(struct http_server *s, int fd) { return listen_on(s, fd, false); }
int http_server_listen_tls(struct http_server *s, int fd) { return listen_on(s, fd, true); }

static void stop_accepting(struct http_server *s)
{
	while (s->listeners) {
		struct http_listener *l = s->listeners;
		s->listeners = l->next;
		event_free(l->ev);
		free(l);
	}
}

void http_server_drain(struct http_server *s)
{
	s->draining = true;
	http_server_now(s);
	stop_accepting(s);
	http_hold_end_all(s);
}

void http_server_close_idle(struct http_server *s)
{
	struct http_conn *c, *next;
	s->close_idle = true;
	http_server_now(s);
	for (c = s->conns; c; c = next) {
		next = c->next; /* nothing is freed before the turn */
		http_conn_drain(c);
	}
}

unsigned http_server_connections(const struct http_server *s) { return s->n_open; }

void http_server_free(struct http_server **sp)
{
	struct http_server *s = *sp;
	struct http_conn *c, *next;

	if (!s)
		return;
	*sp = NULL;
	stop_accepting(s);
	for (c = s->conns; c; c = c->next)
		http_conn_close(c); /* handlers with a request are told, and may answer within on_gone */
	for (c = s->conns; c; c = next) {
		next = c->next;
		http_step_run(c);
		if (c->r)
			http_request_release(c->r); /* and may not answer after it */
		c->r = NULL;
		free_conn(c);
	}
	if (s->ev_turn) {
		event_free(s->ev_turn);
		event_free(s->ev_tick);
		event_free(s->ev_accept);
		event_free(s->ev_ready);
		event_free(s->ev_hold);
	}
	free_server(s);
}
