/* A connection's life: names, addresses one after the other, ready, broken. */
#define LOG_SUBSYSTEM LOG_IN_STORE
#include "link.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "clock.h"
#include "link-private.h"
#include "log.h"

void pg_link_say(struct pg_link *l, const char *fmt, ...)
{
	char text[sizeof(l->error)];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	size_t n = strcspn(text, "\n"); /* libpq's messages end so, and some go on with hints */
	pthread_mutex_lock(&l->lock);
	memcpy(l->error, text, n);
	l->error[n] = 0;
	pthread_mutex_unlock(&l->lock);
}

void pg_link_error(struct pg_link *l, char *text, size_t cap)
{
	pthread_mutex_lock(&l->lock);
	snprintf(text, cap, "%s", *l->error ? l->error : "not connected");
	pthread_mutex_unlock(&l->lock);
}

uint64_t pg_link_session(struct pg_link *l) { return atomic_load(&l->session); }

bool pg_link_is_set(struct pg_link *l, uint64_t what, struct pg_link_setting *mine_r)
{
	uint64_t session = pg_link_session(l);
	pthread_mutex_lock(&l->lock);
	bool is = session && l->set.session == session && l->set.what == what;
	if (!is) {
		l->set.session = 0;
		*mine_r = (struct pg_link_setting){session, what, ++l->set.begun};
	}
	pthread_mutex_unlock(&l->lock);
	return is;
}

void pg_link_set(struct pg_link *l, const struct pg_link_setting *mine)
{
	pthread_mutex_lock(&l->lock);
	if (l->set.begun == mine->begun)
		l->set = *mine;
	pthread_mutex_unlock(&l->lock);
}

bool pg_link_ready(const struct pg_link *l) { return l->state == LINK_READY; }
static bool on_loop(const struct pg_link *l) { return pthread_equal(l->thread, pthread_self()); }

bool pg_link_closed(struct pg_link *l)
{
	pthread_mutex_lock(&l->lock);
	bool closed = l->closed;
	pthread_mutex_unlock(&l->lock);
	return closed;
}

void pg_link_adopt(struct pg_link *l) { l->thread = pthread_self(); }

static void on_io(evutil_socket_t fd, short what, void *arg);

void pg_link_watch(struct pg_link *l, short events)
{
	int fd = pq.socket(l->c);
	if (l->io && l->io_events == events && event_get_fd(l->io) == fd)
		return;
	if (l->io)
		event_free(l->io);
	l->io = event_new(l->loop, fd, (short)(events | EV_PERSIST), on_io, l);
	l->io_events = events;
	event_add(l->io, NULL);
}

static void set_timer(struct pg_link *l, int64_t us)
{
	struct timeval t = {us / 1000000, us % 1000000};
	event_add(l->timer, &t);
}

static void close_connection(struct pg_link *l)
{
	if (l->io)
		event_free(l->io);
	l->io = NULL;
	event_del(l->timer);
	if (l->c)
		pq.finish(l->c);
	l->c = NULL;
	pg_resolve_forget(&l->resolving);
	l->state = LINK_IDLE;
}

static void give_up(struct pg_link *l)
{
	close_connection(l);
	pg_pipe_fail_all(l);
}

void pg_link_drop(struct pg_link *l, const char *why)
{
	pg_link_say(l, "%s", why);
	give_up(l);
}

/* ---- connecting ---- */

static PGconn *begin(struct pg_link *l, const struct pg_target *t)
{
	char timeout[24];
	snprintf(timeout, sizeof(timeout), "%lld", (long long)(l->conf.answer_timeout_us / 1000));
	/* What stands before dbname, which is the dsn, gives way to it; what stands behind it does not. */
	const char *names[] = {"gssencmode",
			       "target_session_attrs",
			       "tcp_user_timeout",
			       "keepalives_idle",
			       "keepalives_interval",
			       "dbname",
			       "client_encoding",
			       "application_name",
			       t->port ? "port" : NULL,
			       t->host	     ? "host"
			       : t->hostaddr ? "hostaddr"
					     : NULL,
			       t->host && t->hostaddr ? "hostaddr" : NULL,
			       NULL};
	const char *values[] = {"disable",   l->conf.read_write ? "read-write" : "any",
				timeout,     "10",
				"5",	     l->dsn,
				"UTF8",	     l->application,
				t->port,     t->host ? t->host : t->hostaddr,
				t->hostaddr, NULL};
	if (!t->port) { /* the lists end at the first NULL */
		names[8] = names[9], values[8] = values[9];
		names[9] = names[10], values[9] = values[10];
		names[10] = NULL;
	}
	return pq.connectStartParams(names, values, 1);
}

/* What the server says besides; libpq's own way is stderr. */
static void on_notice(void *arg, const PGresult *res)
{
	const char *text = pq.resultErrorMessage(res);
	(void)arg;
	log_debug("PostgreSQL: %.*s", (int)strcspn(text, "\n"), text);
}

static void try_next(struct pg_link *l);

static void failed(struct pg_link *l)
{
	const struct pg_target *t = &l->targets.v[l->target];
	if (l->c && *pq.errorMessage(l->c))
		pg_link_say(l, "%s", pq.errorMessage(l->c));
	else
		pg_link_say(l, "no answer from %s within %lld ms", t->host ? t->host : "the server",
			    (long long)(l->conf.connect_timeout_us / 1000));
	l->target = (l->target + 1) % l->targets.n;
	l->tried++;
	try_next(l);
}

static void try_next(struct pg_link *l)
{
	if (l->tried >= l->targets.n) {
		give_up(l);
		return;
	}
	close_connection(l);
	l->state = LINK_CONNECTING;
	l->c = begin(l, &l->targets.v[l->target]);
	if (!l->c || pq.status(l->c) == CONNECTION_BAD) {
		failed(l);
		return;
	}
	pq.setNoticeReceiver(l->c, on_notice, NULL);
	set_timer(l, l->conf.connect_timeout_us);
	pg_link_watch(l, EV_WRITE);
}

static void resolved(struct pg_link *l)
{
	struct pg_targets t;
	if (!pg_resolve_take(l->resolving, &t))
		return;
	pg_resolve_forget(&l->resolving);
	pg_targets_free(&l->targets);
	l->targets = t;
	l->target = l->tried = 0;
	if (!t.n) {
		pg_link_say(l, "store.dsn: %s", t.error ? t.error : "no host");
		give_up(l);
	} else {
		try_next(l);
	}
}

static void connect_now(struct pg_link *l)
{
	l->resolving = pg_resolve_start(l->dsn, l->efd);
	l->state = LINK_RESOLVING;
	set_timer(l, l->conf.connect_timeout_us);
	if (!l->resolving)
		pg_link_drop(l, "no thread to resolve names with");
}

static void on_setup(struct pg_request *r, enum pg_fate fate, PGresult *res)
{
	if (fate == PG_DONE && pq.resultStatus(res) == PGRES_FATAL_ERROR)
		pg_link_say(r->arg, "%s", pq.resultErrorMessage(res));
	if (res)
		pq.clear(res);
}

static void connected(struct pg_link *l)
{
	if (pq.setnonblocking(l->c, 1) || !pq.enterPipelineMode(l->c)) {
		failed(l);
		return;
	}
	memset(l->prepared, 0, sizeof(l->prepared));
	l->state = LINK_READY;
	l->tried = 0;
	atomic_fetch_add(&l->session, 1);
	pg_link_watch(l, EV_READ);
	set_timer(l, l->conf.answer_timeout_us / 4);
	if (l->setup) { /* before what waits */
		l->setup_request = (struct pg_request){
			.prepared = -1, .sql = l->setup, .sync = true, .done = on_setup, .arg = l, .next = l->queue};
		if (!l->queue)
			l->queue_end = &l->setup_request.next;
		l->queue = &l->setup_request;
	}
	pg_pipe_pump(l);
}

static void on_connecting(struct pg_link *l)
{
	switch (pq.connectPoll(l->c)) {
	case PGRES_POLLING_READING: pg_link_watch(l, EV_READ); break;
	case PGRES_POLLING_WRITING: pg_link_watch(l, EV_WRITE); break;
	case PGRES_POLLING_OK: connected(l); break;
	default: failed(l);
	}
}

/* ---- events ---- */

static void on_io(evutil_socket_t fd, short what, void *arg)
{
	struct pg_link *l = arg;
	(void)fd;
	if (what & EV_WRITE)
		l->heard_us = clock_mono_us(); /* it takes what we send */
	if (l->state == LINK_CONNECTING) {
		/* libpq may go on with another socket, to which the same number may be given. */
		event_free(l->io);
		l->io = NULL;
		on_connecting(l);
	} else if (l->state == LINK_READY) {
		if (!pg_pipe_read(l)) {
			const char *why = pq.errorMessage(l->c);
			pg_link_say(l, "%s", *why ? why : "the server closed the connection");
			give_up(l);
		} else if (l->state == LINK_READY) {
			pg_pipe_pump(l);
		}
	}
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct pg_link *l = arg;
	(void)fd, (void)what;
	if (l->state == LINK_RESOLVING) {
		pg_link_drop(l, "the name service does not answer");
	} else if (l->state == LINK_CONNECTING) {
		pq.finish(l->c);
		l->c = NULL;
		failed(l);
	} else if (l->state == LINK_READY) {
		/* In a pipeline everything is sent at once: each has its time from the answer before it, and from its last byte. */
		int64_t since = l->sent_len ? l->sent[l->sent_head].at_us : 0;
		since = l->heard_us > since ? l->heard_us : since;
		if (l->sent_len && clock_mono_us() - since > l->conf.answer_timeout_us) {
			pg_link_say(l, "no answer within %lld ms", (long long)(l->conf.answer_timeout_us / 1000));
			give_up(l);
		} else {
			set_timer(l, l->conf.answer_timeout_us / 4);
		}
	}
}

/* What belongs to a session that is over must not reach another one. */
static void refuse_strays(struct pg_link *l)
{
	while (l->state != LINK_READY && l->queue && l->queue->session) {
		struct pg_request *r = l->queue;
		l->queue = r->next;
		if (!l->queue)
			l->queue_end = &l->queue;
		r->done(r, PG_UNSENT, NULL);
	}
}

static void go_on(struct pg_link *l)
{
	refuse_strays(l);
	if (l->state == LINK_IDLE && l->queue)
		connect_now(l);
	else if (l->state == LINK_READY)
		pg_pipe_pump(l);
}

static void take_inbox(struct pg_link *l)
{
	pthread_mutex_lock(&l->lock);
	if (l->inbox) {
		*l->queue_end = l->inbox;
		l->queue_end = l->inbox_end;
		l->inbox = NULL;
		l->inbox_end = &l->inbox;
	}
	pthread_mutex_unlock(&l->lock);
}

static void on_bell(evutil_socket_t fd, short what, void *arg)
{
	struct pg_link *l = arg;
	uint64_t n;
	(void)what;
	(void)!read(fd, &n, sizeof(n));
	take_inbox(l);
	if (l->state == LINK_RESOLVING && l->resolving)
		resolved(l);
	go_on(l);
}

void pg_link_send(struct pg_link *l, struct pg_request *r)
{
	r->next = NULL;
	if (on_loop(l)) {
		*l->queue_end = r;
		l->queue_end = &r->next;
		go_on(l);
		return;
	}
	pthread_mutex_lock(&l->lock);
	bool first = !l->inbox, closed = l->closed;
	if (!closed) {
		*l->inbox_end = r;
		l->inbox_end = &r->next;
	}
	pthread_mutex_unlock(&l->lock);
	if (closed)
		r->done(r, PG_UNSENT, NULL);
	else if (first)
		(void)!write(l->efd, &(uint64_t){1}, 8);
}

void pg_link_close(struct pg_link *l)
{
	pthread_mutex_lock(&l->lock);
	l->closed = true;
	pthread_mutex_unlock(&l->lock);
	take_inbox(l);
	pg_link_drop(l, "the worker is leaving");
}

/* ---- birth and death ---- */

struct pg_link *pg_link_new(struct event_base *loop, const struct pg_link_conf *conf)
{
	struct pg_link *l = util_zalloc(sizeof(*l));
	l->loop = loop;
	l->thread = pthread_self();
	l->conf = *conf;
	l->dsn = util_strndup(conf->dsn, strlen(conf->dsn));
	l->application = util_strndup(conf->application, strlen(conf->application));
	l->setup = conf->setup ? util_strndup(conf->setup, strlen(conf->setup)) : NULL;
	l->queue_end = &l->queue;
	l->inbox_end = &l->inbox;
	pthread_mutex_init(&l->lock, NULL);
	l->efd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	l->bell = event_new(loop, l->efd, EV_READ | EV_PERSIST, on_bell, l);
	l->timer = event_new(loop, -1, 0, on_timer, l);
	event_add(l->bell, NULL);
	return l;
}

void pg_link_free(struct pg_link **lp)
{
	struct pg_link *l = *lp;
	if (!l)
		return;
	pg_link_close(l);
	event_free(l->bell);
	event_free(l->timer);
	close(l->efd);
	pg_targets_free(&l->targets);
	free(l->sent);
	free(l->dsn);
	free(l->application);
	free(l->setup);
	pthread_mutex_destroy(&l->lock);
	free(l);
	*lp = NULL;
}
