/* orchestrad --check --probe: can everything be reached that the configuration names? One line each: "ok …",
 * "warning …" (it would start, but) or "FAILED …" (it would not serve). Changes nothing that stays: a temporary file
 * in data.dir is removed, sockets are closed. */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <libgen.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/un.h>
#include <unistd.h>

#include "cache/l2.h"
#include "clock.h"
#include "pinger/target.h"
#include "pinger/token.h"
#include "pinger/transport.h"
#include "store/store.h"
#include "supervisor.h"

#define TARGET_WAIT_S 3
#define ASK_WAIT_S 2
#define ROOM_MIN (16 << 20) /* the first journal segment and a new store, with something to spare */
#define WRITE_BYTES 4096

struct probe {
	const struct conf *c;
	FILE *out;
	int failed;
	pid_t holder; /* of data.dir's lock; 0 = nobody runs on it */
	char holder_tcp[128], holder_tls[128], holder_unix[sizeof(((struct sockaddr_un *)0)->sun_path) + 1];
};
enum verdict { OK, WARNING, FAILED };

static void say(struct probe *p, enum verdict v, const char *fmt, ...) printf_like(3, 4);
static void say(struct probe *p, enum verdict v, const char *fmt, ...)
{
	static const char *const words[] = {"ok", "warning", "FAILED"};
	va_list ap;
	fprintf(p->out, "%s ", words[v]);
	va_start(ap, fmt);
	vfprintf(p->out, fmt, ap);
	va_end(ap);
	fputc('\n', p->out);
	p->failed += v == FAILED;
}

/* ---- the daemon that runs already ---- */

static int connect_unix(const char *path)
{
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	struct timeval tv = {ASK_WAIT_S, 0};
	size_t len = strlen(path);
	int fd = len < sizeof(un.sun_path) ? socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0) : -1;
	if (fd == -1)
		return -1;
	memcpy(un.sun_path, path, len + 1);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv));
	if (connect(fd, (struct sockaddr *)&un, sizeof(un)) == 0)
		return fd;
	int error = errno;
	close(fd);
	errno = error;
	return -1;
}

static json_t *ask_status(const char *unix_path)
{
	char ctl[sizeof(((struct sockaddr_un *)0)->sun_path) + 8], text[65536];
	size_t len = 0;
	ssize_t n = 0;
	snprintf(ctl, sizeof(ctl), "%s.ctl", unix_path);
	int fd = connect_unix(ctl);
	if (fd == -1)
		return NULL;
	if (send(fd, "status\n", 7, MSG_NOSIGNAL) == 7)
		while (len < sizeof(text) && !memchr(text, '\n', len) &&
		       (n = read(fd, text + len, sizeof(text) - len)) > 0)
			len += (size_t)n;
	close(fd);
	return json_loadb(text, len, JSON_DISABLE_EOF_CHECK, NULL);
}

static void find_holder(struct probe *p)
{
	const char *tcp, *tls, *path;
	p->holder = datadir_holder(conf_str(p->c, CONF_DATA_DIR));
	if (!p->holder)
		return;
	json_t *o = ask_status(conf_str(p->c, CONF_LISTEN_UNIX));
	if (json_integer_value(json_object_get(o, "pid")) == p->holder) {
		tcp = json_string_value(json_object_get(o, "tcp"));
		tls = json_string_value(json_object_get(o, "tls"));
		path = json_string_value(json_object_get(o, "unix"));
		snprintf(p->holder_tcp, sizeof(p->holder_tcp), "%s", tcp ? tcp : "");
		snprintf(p->holder_tls, sizeof(p->holder_tls), "%s", tls ? tls : "");
		snprintf(p->holder_unix, sizeof(p->holder_unix), "%s", path ? path : "");
	}
	json_decref(o);
}

/* ---- sockets ---- */

static bool same_port(const char *a, const char *b)
{
	const char *x = strrchr(a, ':'), *y = strrchr(b, ':');
	return x && y && strcmp(x, y) == 0;
}

static void probe_tcp(struct probe *p, enum conf_key k, const char *held)
{
	const char *where = conf_str(p->c, k), *key = conf_key_name(k);
	if (!*where) {
		say(p, OK, "%s: off", key);
		return;
	}
	int error = listen_try_tcp(p->c, k);
	if (!error)
		say(p, OK, "%s %s: free", key, where);
	else if (error == EADDRINUSE && p->holder && same_port(where, held))
		say(p, OK, "%s %s: held by the daemon of this data.dir, pid %d", key, where, (int)p->holder);
	else if (error == EADDRINUSE)
		say(p, FAILED, "%s %s: another program has the port; stop it, or choose another %s", key, where, key);
	else
		say(p, FAILED, "%s %s: cannot listen: %s", key, where, strerror(error));
}

static void probe_unix(struct probe *p)
{
	const char *path = conf_str(p->c, CONF_LISTEN_UNIX);
	struct stat st;
	int fd;
	if (lstat(path, &st) == -1) {
		if (errno == ENOENT)
			say(p, OK, "listen.unix %s: free", path);
		else
			say(p, FAILED, "listen.unix %s: %s", path, strerror(errno));
	} else if (!S_ISSOCK(st.st_mode)) {
		say(p, FAILED, "listen.unix %s: is in the way and is no socket; remove it", path);
	} else if ((fd = connect_unix(path)) == -1 && errno == ECONNREFUSED) {
		say(p, OK, "listen.unix %s: left by a daemon that is gone; will be replaced", path);
	} else {
		if (fd != -1)
			close(fd);
		if (p->holder && strcmp(path, p->holder_unix) == 0)
			say(p, OK, "listen.unix %s: held by the daemon of this data.dir, pid %d", path, (int)p->holder);
		else
			say(p, FAILED,
			    "listen.unix %s: another program listens there; stop it, or choose another listen.unix",
			    path);
	}
}

/* ---- the store ---- */

static void probe_store(struct probe *p)
{
	const char *kind = conf_str(p->c, CONF_STORE_KIND);
	const struct store_ops *ops = store_by_kind(kind);
	struct store_conf sc;
	store_conf_from(p->c, "probe", &sc);
	char *what = NULL;
	bool good = ops && ops->probe(&sc, &what);
	say(p, good ? OK : FAILED, "store.dsn %s", what ? what : "cannot be looked at");
	free(what);
}

/* It is never needed, so nothing about it keeps the daemon from serving. */
static void probe_redis(struct probe *p)
{
	char *what = NULL;
	if (!*conf_str(p->c, CONF_REDIS_URL))
		return;
	bool good = l2_probe(p->c, &what);
	say(p, good ? OK : WARNING, "redis.url: %s", what);
	free(what);
}

/* ---- the disk ---- */

/* The directory itself, or where it would be made. */
static char *existing(const char *dir)
{
	struct stat st;
	char *copy = util_strndup(dir, strlen(dir)), *at = copy;
	while (stat(at, &st) == -1 && strcmp(at, "/") && strcmp(at, "."))
		at = dirname(at);
	at = util_strndup(at, strlen(at));
	free(copy);
	return at;
}

static void probe_room(struct probe *p, const char *dir)
{
	struct statvfs fs;
	int64_t quota = conf_int(p->c, CONF_JOURNAL_QUOTA);
	if (statvfs(dir, &fs) == -1) {
		say(p, FAILED, "disk of %s: %s", dir, strerror(errno));
		return;
	}
	uint64_t bytes = (uint64_t)fs.f_bavail * fs.f_frsize;
	uint64_t mib = bytes >> 20;
	/* A daemon that runs has reserved it already, unless it is new. */
	uint64_t spill = (uint64_t)conf_int(p->c, CONF_VECTORS_SPILL_BYTES),
		 needs = ROOM_MIN + (p->holder > 0 ? 0 : spill);
	if (bytes < needs)
		say(p, FAILED, "disk of %s: %llu MiB free; a start needs %llu MiB%s", dir, (unsigned long long)mib,
		    (unsigned long long)(needs >> 20), needs > ROOM_MIN ? ", most of it for vectors.spill_bytes" : "");
	else if (bytes < ROOM_MIN + spill)
		say(p, WARNING,
		    "disk of %s: %llu MiB free; if vectors.spill_bytes has become larger since the daemon was started, the next start "
		    "needs up to %llu MiB",
		    dir, (unsigned long long)mib, (unsigned long long)((ROOM_MIN + spill) >> 20));
	else if (bytes < (uint64_t)quota)
		say(p, WARNING,
		    "disk of %s: %llu MiB free, less than journal.quota (%lld MiB): while the store is away the disk "
		    "would be full before writes are refused",
		    dir, (unsigned long long)mib, (long long)(quota >> 20));
	else
		say(p, OK, "disk of %s: %llu MiB free", dir, (unsigned long long)mib);
}

static int write_synced(int fd)
{
	static const char zeros[WRITE_BYTES];
	ssize_t n = write(fd, zeros, sizeof(zeros));
	if (n != (ssize_t)sizeof(zeros))
		return n == -1 ? errno : ENOSPC;
	return fdatasync(fd) == -1 ? errno : 0;
}

static void probe_write(struct probe *p, const char *dir)
{
	char path[PATH_MAX];
	snprintf(path, sizeof(path), "%s/.probe-XXXXXX", dir);
	int fd = mkostemp(path, O_CLOEXEC), error = errno;
	if (fd != -1) {
		unlink(path);
		int64_t began = clock_mono_us();
		error = write_synced(fd);
		close(fd);
		if (!error) {
			say(p, OK, "data.dir %s: write and fdatasync of %d bytes took %.1f ms", dir, WRITE_BYTES,
			    (double)(clock_mono_us() - began) / 1e3);
			return;
		}
	}
	say(p, FAILED, "data.dir %s: cannot write: %s", dir, strerror(error));
}

static void probe_disk(struct probe *p)
{
	const char *dir = conf_str(p->c, CONF_DATA_DIR);
	char *there = existing(dir);
	probe_room(p, there);
	if (strcmp(there, dir) == 0)
		probe_write(p, dir);
	else
		say(p, OK, "data.dir %s: not there yet; would be made in %s", dir, there);
	free(there);
}

/* ---- targets of the pinger ---- */

struct ping {
	struct probe *p;
	const struct target *target;
	struct exchange *exchange;
};

static void on_pinged(void *arg, const struct transport_answer *a)
{
	struct ping *ping = arg;
	const struct target *t = ping->target;
	ping->exchange = NULL;
	if (a->error)
		say(ping->p, WARNING, "target %s: %s", t->name, a->error);
	else if (!target_expected_body(t, a->body))
		say(ping->p, WARNING, "target %s: answered %ld without expect_body", t->name, a->status);
	else
		say(ping->p, target_expected(t, a->status) ? OK : WARNING, "target %s: answered %ld", t->name,
		    a->status);
}

/* With its token, where that is in a file; one of a metadata server is left to the pinger. */
static void ping_one(struct ping *ping, struct transport *t)
{
	const struct target *g = ping->target;
	char error[TOKEN_ERROR_MAX];
	char *token = NULL;
	if (g->audience) {
		say(ping->p, OK, "target %s: not asked, as its identity token comes from the metadata server", g->name);
		return;
	}
	if (g->bearer_file && !(token = token_read_file(g->bearer_file, error))) {
		say(ping->p, WARNING, "target %s: %s", g->name, error);
		return;
	}
	struct transport_request r = transport_request_of(g, token);
	if (r.timeout_us > TARGET_WAIT_S * 1000000)
		r.timeout_us = TARGET_WAIT_S * 1000000;
	ping->exchange = transport_start(t, &r, on_pinged, ping);
	if (!ping->exchange)
		say(ping->p, WARNING, "target %s: the request cannot be made", g->name);
	token_free(&token);
}

static void ping_all(struct probe *p, struct target_list *list, struct transport *t, struct event_base *base)
{
	struct ping *pings = util_zalloc(list->n * sizeof(*pings));
	struct timeval limit = {TARGET_WAIT_S + 1, 0};
	for (size_t i = 0; i < list->n; i++) {
		pings[i] = (struct ping){.p = p, .target = &list->v[i]};
		ping_one(&pings[i], t);
	}
	event_base_loopexit(base, &limit);
	/* libcurl's timer keeps the loop from being empty: leave when nobody is waited for. */
	while (!event_base_got_exit(base)) {
		bool waiting = false;
		for (size_t i = 0; i < list->n; i++)
			waiting |= pings[i].exchange != NULL;
		if (!waiting)
			break;
		event_base_loop(base, EVLOOP_ONCE);
	}
	for (size_t i = 0; i < list->n; i++)
		if (pings[i].exchange) {
			say(p, WARNING, "target %s: no answer within %d s", pings[i].target->name, TARGET_WAIT_S);
			transport_cancel(&pings[i].exchange);
		}
	free(pings);
}

static void probe_targets(struct probe *p)
{
	char *error = NULL;
	struct target_list *list = target_parse(conf_str(p->c, CONF_PINGER_TARGETS), &error);
	struct event_base *base = list && list->n ? event_base_new() : NULL;
	struct transport *t = base ? transport_open(base, &error) : NULL;
	if (t)
		ping_all(p, list, t, base);
	else if (error)
		say(p, WARNING, "pinger.targets: %s", error);
	if (t)
		transport_close(&t);
	if (base)
		event_base_free(base);
	target_free(&list);
	free(error);
}

/* ---- all ---- */

int probe_sockets(const struct conf *c, FILE *out)
{
	struct probe p = {.c = c, .out = out};
	find_holder(&p);
	if (p.holder)
		say(&p, OK, "a daemon runs on data.dir %s, pid %d", conf_str(c, CONF_DATA_DIR), (int)p.holder);
	probe_tcp(&p, CONF_LISTEN_TCP, p.holder_tcp);
	if (*conf_str(c, CONF_LISTEN_TLS))
		probe_tcp(&p, CONF_LISTEN_TLS, p.holder_tls);
	probe_unix(&p);
	return p.failed;
}

int probe_rest(const struct conf *c, FILE *out)
{
	struct probe p = {.c = c, .out = out};
	probe_store(&p);
	probe_redis(&p);
	probe_disk(&p);
	probe_targets(&p);
	return p.failed;
}
