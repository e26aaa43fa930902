/* A connection's life: addresses, connecting, greeting, ready, given up, and again. */
#include "redis/link.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "clock.h"
#include "redis/link-private.h"

#define BACKOFF_FIRST_US 20000
#define BACKOFF_MAX_US 3000000
#define PING_EVERY_US 2000000 /* of a subscription, whose server else says nothing for hours */
#define TCP_SILENCE_MS 10000  /* the kernel's own patience, should the loop be held up */

void redis_link_say(struct redis_link *l, const char *fmt, ...)
{
	char text[sizeof(l->error)], where[128] = "";
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (l->port)
		snprintf(where, sizeof(where), strchr(l->host, ':') ? "[%s]:%d" : "%s:%d", l->host, l->port);
	else
		snprintf(where, sizeof(where), "%s", l->host);
	util_utf8_scrub(text, strlen(text));
	pthread_mutex_lock(&l->lock);
	snprintf(l->error, sizeof(l->error), "Redis at %s: %.*s", where, 160, text);
	pthread_mutex_unlock(&l->lock);
}

bool redis_link_error(struct redis_link *l, char *text, size_t cap)
{
	pthread_mutex_lock(&l->lock);
	snprintf(text, cap, "%s", l->error);
	bool refused = l->refused;
	pthread_mutex_unlock(&l->lock);
	return refused;
}

bool redis_link_ready(struct redis_link *l)
{
	pthread_mutex_lock(&l->lock);
	bool ready = l->state == LINK_READY && !l->failed;
	pthread_mutex_unlock(&l->lock);
	return ready;
}

unsigned redis_link_load(struct redis_link *l)
{
	pthread_mutex_lock(&l->lock);
	unsigned n = l->sent_len;
	pthread_mutex_unlock(&l->lock);
	return n;
}

bool redis_link_is(const struct redis_link *l, const char *host, int port)
{
	return l->port == port && strcmp(l->host, host) == 0;
}

void redis_link_host(const struct redis_link *l, char *host, size_t cap) { snprintf(host, cap, "%s", l->host); }

void redis_link_ring(struct redis_link *l) { (void)!write(l->efd, &(uint64_t){1}, 8); }

static void set_state(struct redis_link *l, enum link_state s)
{
	pthread_mutex_lock(&l->lock);
	l->state = s;
	pthread_mutex_unlock(&l->lock);
}

static void set_timer(struct redis_link *l, int64_t us)
{
	struct timeval t = {us / 1000000, us % 1000000};
	event_add(l->timer, &t);
}

static void on_io(evutil_socket_t fd, short what, void *arg);

static void watch(struct redis_link *l, short events)
{
	if (l->io && l->io_events == events)
		return;
	if (l->io)
		event_free(l->io);
	l->io = event_new(l->conf.loop, l->fd, (short)(events | EV_PERSIST), on_io, l);
	l->io_events = events;
	event_add(l->io, NULL);
}

/* ---- giving up ---- */

/* Full jitter: what broke for all at once is not to be tried by all at once. */
static int64_t backoff(struct redis_link *l)
{
	int64_t most = BACKOFF_FIRST_US << (l->failures < 10 ? l->failures : 10);
	most = most < BACKOFF_MAX_US ? most : BACKOFF_MAX_US;
	uint64_t z = l->random += 0x9e3779b97f4a7c15ull; /* splitmix64 (Steele et al. 2014) */
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	l->failures++;
	return 1000 + (int64_t)((z >> 33) % (uint64_t)most);
}

/* Behind it nobody sends any more, and what was sent is lost. */
static void disconnect(struct redis_link *l, enum link_state next)
{
	bool was_ready = l->state == LINK_READY;
	if (was_ready && clock_mono_us() - l->ready_us > BACKOFF_MAX_US)
		l->failures = 0;
	if (l->io)
		event_free(l->io);
	l->io = NULL;
	event_del(l->timer);
	names_forget(&l->query);
	pthread_mutex_lock(&l->lock);
	struct redis_call **sent = l->sent;
	unsigned head = l->sent_head, n = l->sent_len;
	int fd = l->fd;
	l->sent = util_alloc(l->sent_cap * sizeof(*l->sent));
	l->sent_head = l->sent_len = 0;
	l->out.len = l->out_at = 0;
	l->fd = -1;
	l->state = next;
	l->failed = 0;
	l->watched = false;
	pthread_mutex_unlock(&l->lock);
	l->session++;
	l->ping_us = 0;
	if (fd != -1)
		close(fd);
	redis_pipe_lose(sent, head, n, l->sent_cap);
	free(sent);
	if (was_ready && l->conf.changed)
		l->conf.changed(l->conf.arg, l, false);
}

static void give_up(struct redis_link *l)
{
	if (l->state == LINK_CLOSED)
		return;
	disconnect(l, LINK_WAITING);
	if (l->state != LINK_WAITING)
		return;
	set_timer(l, backoff(l));
	if (l->conf.lost)
		l->conf.lost(l->conf.arg, l);
}

void redis_link_drop(struct redis_link *l, const char *why)
{
	redis_link_say(l, "%s", why);
	give_up(l);
}

/* ---- greeting ---- */

static void refuse(struct redis_link *l, const struct redis_reply *r)
{
	pthread_mutex_lock(&l->lock);
	l->refused = true;
	pthread_mutex_unlock(&l->lock);
	redis_link_drop(l, r->text);
}

static void is_ready(struct redis_link *l)
{
	pthread_mutex_lock(&l->lock);
	l->state = LINK_READY;
	l->refused = false;
	*l->error = 0;
	pthread_mutex_unlock(&l->lock);
	l->ready_us = clock_mono_us();
	event_del(l->timer);
	if (l->conf.channel)
		set_timer(l, PING_EVERY_US);
	if (l->conf.direct) { /* whoever talks next finds out whether it still stands */
		event_free(l->io);
		l->io = NULL;
	}
	if (l->conf.changed)
		l->conf.changed(l->conf.arg, l, true);
}

static void on_greeting(struct redis_call *c, enum redis_fate fate, struct redis_reply **reply)
{
	struct redis_link *l = c->arg;
	struct redis_reply *r = *reply;
	if (fate != REDIS_ANSWERED)
		return;
	enum greeting is = l->greeting_is[c - l->greeting];
	bool optional = is == GREET_NAME || (is == GREET_AUTH && l->conf.lenient);
	if (r->type == REPLY_ERROR && (!optional || redis_reply_fails(r, "NOAUTH"))) {
		if (redis_reply_fails(r, "LOADING") || redis_reply_fails(r, "MASTERDOWN") ||
		    strstr(r->text, "max number of clients"))
			redis_link_drop(l, r->text);
		else
			refuse(l, r);
		return;
	}
	if (is == GREET_ROLE && !(r->type == REPLY_ARRAY && r->n && redis_reply_is(&r->v[0], "master")))
		redis_link_drop(l, "it is not the master");
	else if (c == &l->greeting[l->greetings - 1])
		is_ready(l);
}

static void greet(struct redis_link *l)
{
	const struct redis_link_conf *c = &l->conf;
	const char *user = *c->user ? c->user : NULL;
	struct redis_call *v[GREETINGS_MAX];
	size_t at[GREETINGS_MAX + 1] = {0};
	char db[16];
	unsigned n = 0;
	l->hello.len = 0;
	snprintf(db, sizeof(db), "%d", c->db);
#define GREET(when, what, ...)                                                                                         \
	if (when) {                                                                                                    \
		redis_wire(&l->hello, __VA_ARGS__, NULL);                                                              \
		l->greeting_is[n] = what;                                                                              \
		at[++n] = l->hello.len;                                                                                \
	}
	GREET(*c->password, GREET_AUTH, "AUTH", user ? user : c->password, user ? c->password : NULL)
	GREET(true, GREET_NAME, "CLIENT", "SETNAME", c->name)
	GREET(c->db, GREET_DB, "SELECT", db)
	GREET(c->master_only, GREET_ROLE, "ROLE")
	GREET(c->channel, GREET_CHANNEL, "SUBSCRIBE", c->channel)
#undef GREET
	for (unsigned i = 0; i < n; i++) {
		struct span wire = {l->hello.p + at[i], at[i + 1] - at[i]};
		l->greeting[i] = (struct redis_call){.wire = wire, .slot = -1, .done = on_greeting, .arg = l};
		v[i] = &l->greeting[i];
	}
	l->greetings = n;
	pthread_mutex_lock(&l->lock);
	l->state = LINK_GREETING;
	AN(redis_pipe_add(l, v, n, l->sent_cap));
	redis_pipe_push(l);
	short more = l->out_at < l->out.len ? EV_WRITE : 0;
	pthread_mutex_unlock(&l->lock);
	watch(l, (short)(EV_READ | more));
}

/* ---- connecting ---- */

static bool try_address(struct redis_link *l, const struct names_address *a)
{
	int one = 1, idle = 10, every = 5, silence = TCP_SILENCE_MS;
	int fd = socket(a->sa.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd == -1)
		return false;
	if (a->sa.ss_family != AF_UNIX) {
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
		setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
		setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &every, sizeof(every));
		setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &silence, sizeof(silence));
	}
	if (connect(fd, (const struct sockaddr *)&a->sa, a->len) == -1 && errno != EINPROGRESS) {
		int error = errno;
		close(fd);
		errno = error;
		return false;
	}
	redis_reader_free(&l->reader);
	l->reader = redis_reader_new(l->conf.reply_max);
	pthread_mutex_lock(&l->lock);
	l->fd = fd;
	l->state = LINK_CONNECTING;
	pthread_mutex_unlock(&l->lock);
	watch(l, EV_WRITE);
	return true;
}

/* The next address; none is left: later. */
static void try_next(struct redis_link *l)
{
	for (; l->tried < l->n; l->tried++) {
		const struct names_address *a = &l->addresses[l->at++ % l->n];
		if (try_address(l, a)) {
			l->tried++;
			return;
		}
		redis_link_say(l, "%s", strerror(errno));
	}
	give_up(l);
}

static void connect_now(struct redis_link *l)
{
	l->tried = 0;
	set_timer(l, l->conf.connect_timeout_us);
	if (names_literal(l->host, l->port, &l->addresses[0])) {
		l->n = 1;
		try_next(l);
		return;
	}
	l->query = names_ask(l->host, l->port, l->efd);
	set_state(l, LINK_RESOLVING);
	if (!l->query)
		redis_link_drop(l, "no thread to resolve names with");
}

static void resolved(struct redis_link *l)
{
	const char *why = NULL;
	if (!names_take(l->query, l->addresses, &l->n, &why))
		return;
	names_forget(&l->query);
	if (l->n)
		try_next(l);
	else
		redis_link_drop(l, why ? why : "no address");
}

static void connected(struct redis_link *l)
{
	int error = 0;
	socklen_t len = sizeof(error);
	getsockopt(l->fd, SOL_SOCKET, SO_ERROR, &error, &len);
	if (!error) {
		greet(l);
		return;
	}
	redis_link_say(l, "%s", strerror(error));
	event_free(l->io);
	l->io = NULL;
	close(l->fd);
	l->fd = -1;
	try_next(l);
}

/* ---- events ---- */

static void push_more(struct redis_link *l)
{
	pthread_mutex_lock(&l->lock);
	redis_pipe_push(l);
	int failed = l->failed;
	bool more = l->out_at < l->out.len;
	pthread_mutex_unlock(&l->lock);
	if (failed)
		redis_link_drop(l, strerror(failed));
	else
		watch(l, more ? EV_READ | EV_WRITE : EV_READ);
}

static void on_io(evutil_socket_t fd, short what, void *arg)
{
	struct redis_link *l = arg;
	uint64_t session = l->session;
	(void)fd;
	if (l->state == LINK_CONNECTING) {
		connected(l);
		return;
	}
	if (what & EV_READ)
		redis_pipe_read(l);
	if (what & EV_WRITE && l->session == session && l->fd != -1)
		push_more(l);
}

/* Answers that lie in the socket while this thread was held up are not missing. */
static bool silent_since(struct redis_link *l, int64_t since_us)
{
	uint64_t session = l->session;
	if (clock_mono_us() - since_us <= l->conf.silence_us || l->heard_us > since_us)
		return false;
	redis_pipe_read(l);
	return l->session == session && l->heard_us <= since_us;
}

static void tick_subscription(struct redis_link *l)
{
	uint64_t session = l->session;
	if (l->ping_us && silent_since(l, l->ping_us)) {
		redis_link_drop(l, "no answer to PING");
	} else if (l->session == session && l->ping_us) {
		l->ping_us = 0;
		set_timer(l, PING_EVERY_US);
	} else if (l->session == session) {
		l->ping_us = clock_mono_us();
		pthread_mutex_lock(&l->lock);
		redis_wire(&l->out, "PING", NULL);
		pthread_mutex_unlock(&l->lock);
		set_timer(l, l->conf.silence_us + 1000);
		push_more(l);
	}
}

static void tick(struct redis_link *l)
{
	uint64_t session = l->session;
	pthread_mutex_lock(&l->lock);
	int64_t since = redis_pipe_since(l);
	l->watched = since != 0;
	pthread_mutex_unlock(&l->lock);
	since = since && l->heard_us > since ? l->heard_us : since;
	if (since && silent_since(l, since)) {
		redis_link_say(l, "no answer within %lld ms", (long long)l->conf.silence_us / 1000);
		give_up(l);
	} else if (since && l->session == session) {
		set_timer(l, l->conf.silence_us / 2);
	}
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct redis_link *l = arg;
	(void)fd, (void)what;
	switch (l->state) {
	case LINK_WAITING: connect_now(l); break;
	case LINK_RESOLVING: redis_link_drop(l, "the name service does not answer"); break;
	case LINK_CONNECTING:
	case LINK_GREETING:
		redis_link_say(l, "not connected within %lld ms", (long long)l->conf.connect_timeout_us / 1000);
		give_up(l);
		break;
	case LINK_READY: (l->conf.channel ? tick_subscription : tick)(l); break;
	case LINK_CLOSED: break;
	}
}

/* A conversation has ended badly. */
static void drop_talked(struct redis_link *l)
{
	pthread_mutex_lock(&l->lock);
	int failed = l->leased ? 0 : l->failed;
	pthread_mutex_unlock(&l->lock);
	if (failed)
		redis_link_drop(l, failed == ETIMEDOUT ? "no answer in time" : strerror(failed));
}

static void on_bell(evutil_socket_t fd, short what, void *arg)
{
	struct redis_link *l = arg;
	uint64_t n;
	(void)what;
	(void)!read(fd, &n, sizeof(n));
	if (l->state == LINK_WAITING && l->conf.direct && !event_pending(l->timer, EV_TIMEOUT, NULL)) {
		connect_now(l);
	} else if (l->state == LINK_RESOLVING && l->query) {
		resolved(l);
	} else if (l->state == LINK_READY && l->conf.direct) {
		drop_talked(l);
	} else if (l->state == LINK_READY) {
		if (!l->conf.channel && !event_pending(l->timer, EV_TIMEOUT, NULL))
			set_timer(l, l->conf.silence_us / 2);
		push_more(l);
	}
}

/* ---- birth and death ---- */

struct redis_link *redis_link_new(const struct redis_link_conf *conf, const char *host, int port)
{
	struct redis_link *l = util_zalloc(sizeof(*l));
	l->conf = *conf;
	l->host = util_strndup(host, strlen(host));
	l->port = port;
	l->fd = -1;
	l->random = (uint64_t)clock_mono_us() ^ (uintptr_t)l;
	l->sent_cap = conf->in_flight + GREETINGS_MAX;
	l->sent = util_alloc(l->sent_cap * sizeof(*l->sent));
	pthread_mutex_init(&l->lock, NULL);
	l->efd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	l->bell = event_new(conf->loop, l->efd, EV_READ | EV_PERSIST, on_bell, l);
	l->timer = event_new(conf->loop, -1, 0, on_timer, l);
	event_add(l->bell, NULL);
	if (!conf->direct)
		set_timer(l, 0);
	return l;
}

/* Does a thread talk? Then it finds that there is nobody any more, and says so by the bell. */
static bool interrupt(struct redis_link *l, enum link_state next)
{
	pthread_mutex_lock(&l->lock);
	bool talks = l->leased;
	if (talks) {
		l->state = next;
		l->failed = ECANCELED;
		shutdown(l->fd, SHUT_RDWR);
	}
	pthread_mutex_unlock(&l->lock);
	return talks;
}

void redis_link_move(struct redis_link *l, const char *host, int port)
{
	if (l->state == LINK_CLOSED || redis_link_is(l, host, port))
		return;
	bool talks = interrupt(l, l->state);
	if (!talks)
		disconnect(l, LINK_WAITING);
	pthread_mutex_lock(&l->lock);
	free(l->host);
	l->host = util_strndup(host, strlen(host));
	l->port = port;
	pthread_mutex_unlock(&l->lock);
	l->failures = 0;
	if (!talks && (l->wanted || !l->conf.direct)) /* else when that has ended, or begins */
		set_timer(l, 0);
}

void redis_link_close(struct redis_link *l)
{
	if (l->state == LINK_CLOSED)
		return;
	redis_link_say(l, "%s", "this process is leaving");
	if (!interrupt(l, LINK_CLOSED))
		disconnect(l, LINK_CLOSED);
}

void redis_link_free(struct redis_link **lp)
{
	struct redis_link *l = *lp;
	if (!l)
		return;
	redis_link_close(l);
	if (l->fd != -1)
		close(l->fd);
	event_free(l->bell);
	event_free(l->timer);
	close(l->efd);
	redis_reader_free(&l->reader);
	buf_free(&l->out);
	buf_free(&l->hello);
	free(l->sent);
	free(l->host);
	pthread_mutex_destroy(&l->lock);
	free(l);
	*lp = NULL;
}
