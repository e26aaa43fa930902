/* api's life. */
#define LOG_SUBSYSTEM LOG_IN_API
#include <errno.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#include "api.h"
#include "cache/l2.h"
#include "handlers.h"
#include "herd.h"
#include "http/tls.h"
#include "log.h"
#include "reqlog.h"
#include "overload.h"
#include "traces.h"

#define DRAIN_POLL_MS 20
#define FILES_BESIDE_CONNECTIONS 256 /* ours, the store's, and connections that are told there is no room */

static struct api api_state;

/* Beyond the descriptors that this process may open nobody could be told that there is no room. */
static unsigned connections_of(const struct conf *c)
{
	static struct log_limit once;
	struct rlimit files;
	int64_t want = conf_int(c, CONF_HTTP_MAX_CONNECTIONS);
	if (getrlimit(RLIMIT_NOFILE, &files) || files.rlim_cur == RLIM_INFINITY ||
	    (int64_t)files.rlim_cur - FILES_BESIDE_CONNECTIONS >= want)
		return (unsigned)want;
	int64_t most = (int64_t)files.rlim_cur - FILES_BESIDE_CONNECTIONS;
	most = most < 16 ? 16 : most;
	log_warn_limited(
		&once, 3600,
		"http.max_connections is %lld, but %lld open files are allowed: %lld connections will be taken; "
		"raise the limit (ulimit -n, LimitNOFILE)",
		(long long)want, (long long)files.rlim_cur, (long long)most);
	return (unsigned)most;
}

static struct http_limits limits_of(const struct conf *c)
{
	return (struct http_limits){.head_bytes = (size_t)conf_int(c, CONF_HTTP_HEAD_BYTES),
				    .body_bytes = (size_t)conf_int(c, CONF_HTTP_BODY_BYTES),
				    .headers = API_HEADERS_MAX,
				    .head_timeout_ms = (unsigned)(conf_int(c, CONF_HTTP_HEAD_TIMEOUT) / 1000),
				    .body_timeout_ms = (unsigned)(conf_int(c, CONF_HTTP_BODY_TIMEOUT) / 1000),
				    .idle_timeout_ms = (unsigned)(conf_int(c, CONF_HTTP_IDLE_TIMEOUT) / 1000),
				    .write_timeout_ms = (unsigned)(conf_int(c, CONF_HTTP_WRITE_TIMEOUT) / 1000),
				    .max_connections = connections_of(c),
				    .buffered_bytes = (size_t)conf_int(c, CONF_HTTP_BUFFERED_BYTES)};
}

static void free_names(struct api *a)
{
	for (size_t i = 0; i < a->nnames; i++)
		free((char *)(uintptr_t)a->names[i]);
	free(a->names);
	a->names = NULL;
	a->nnames = a->host_len = 0;
}

static void take_conf(struct api *a, const struct conf *c)
{
	json_t *names = json_loads(conf_str(c, CONF_LISTEN_NAMES), 0, NULL), *v;
	size_t i;
	free_names(a);
	a->names = util_zalloc((json_array_size(names) + 1) * sizeof(*a->names));
	json_array_foreach (names, i, v)
		if (json_is_string(v))
			a->names[a->nnames++] = util_strndup(json_string_value(v), json_string_length(v));
	json_decref(names);
	a->shared.recall = (float)conf_int(c, CONF_VECTORS_RECALL) / 100;
	a->shared.ef_search = (unsigned)conf_int(c, CONF_STORE_EF_SEARCH);
	a->shared.probes = (unsigned)conf_int(c, CONF_STORE_PROBES);
	if (!language_find(SPAN(conf_str(c, CONF_WORDS_LANGUAGE)), &a->language))
		a->language = LANGUAGE_ENGLISH; /* the table of keys admits no other name */
	a->errors_full = strcmp(conf_str(c, CONF_ERRORS_DETAIL), "full") == 0;
}

/* The tokens of the configured file, NULL without one. False: *error_r (malloc'ed) says why it is unusable. */
static bool read_tokens(const struct conf *c, struct auth **auth_r, char **error_r)
{
	const char *path = conf_str(c, CONF_AUTH_TOKENS_FILE);
	char *error = NULL;
	struct buf b = {0};
	*auth_r = *path ? auth_load(path, &error) : NULL;
	if (*auth_r || !*path)
		return true;
	buf_printf(&b, "auth.tokens_file: %s", error ? error : "cannot be read");
	buf_addc(&b, 0);
	free(error);
	*error_r = b.p;
	return false;
}

static int open_auth(struct api *a, const struct conf *c)
{
	char *error = NULL;
	if (read_tokens(c, &a->auth, &error))
		return 0;
	log_error("%s", error);
	free(error);
	return WORKER_EXIT_FATAL;
}

static int open_http(struct api *a)
{
	static const struct http_callbacks callbacks = {.on_head = router_head,
							.on_request = router_request,
							.on_body = router_body,
							.on_gone = router_gone,
							.on_spare = router_spare,
							.on_refused = router_refused};
	struct worker *w = a->w;
	struct http_limits limits = limits_of(w->conf);
	char *error = NULL;
	if (!tls_prepare(a, w->conf, &a->next_tls, &error)) {
		log_error("%s", error ? error : "TLS cannot be spoken");
		free(error);
		return WORKER_EXIT_FATAL;
	}
	a->http = http_server_new(w->base, &limits, &callbacks, a, w->stats);
	if (a->http)
		tls_commit(a, &a->next_tls);
	if (!a->http || (w->fd_tcp >= 0 && http_server_listen(a->http, w->fd_tcp)) ||
	    (w->fd_unix >= 0 && http_server_listen(a->http, w->fd_unix)) ||
	    (w->fd_tls >= 0 && http_server_listen_tls(a->http, w->fd_tls))) {
		log_error("cannot serve on the listening sockets: %s", strerror(errno));
		return WORKER_EXIT_FAIL;
	}
	return 0;
}

static int open_shared(struct api *a)
{
	struct conf *c = a->w->conf;
	struct shared *s = &a->shared;
	char *error = NULL;
	s->plant = a->plant;
	s->stats = a->w->stats;
	s->self = (struct flight_self){.slot = a->w->slot, .incarnation = a->w->incarnation};
	s->pending = pending_open(FD_SHM_PENDING, false, (uint32_t)conf_int(c, CONF_JOURNAL_PENDING_MAX));
	s->cache = cache_open(FD_SHM_CACHE, false);
	s->vectors = vectors_open_spilled(FD_SHM_VECTORS, FD_VECTORS_FILE, false);
	s->postings = postings_open(FD_SHM_WORDS, false);
	store_conf_from(c, a->w->name, &s->store_conf);
	s->store_conf.breaker = &s->plant->breakers[0];
	s->ops = store_by_kind(s->store_conf.kind);
	cache_policy_from(c, s->ops && s->ops->fleet, &s->policy);
	if (s->ops && s->ops->start && !(s->store_conf.links = s->ops->start(&s->store_conf, a->base, &error))) {
		log_error("%s", error ? error : "the store's connections cannot be made");
		free(error);
		return WORKER_EXIT_FATAL;
	}
	if (s->ops && s->ops->fleet &&
	    !(s->l2 = l2_open(c, a->base, s->plant->breakers, s->stats, a->w->name, &error)) && error) {
		log_error("%s", error);
		free(error);
		return WORKER_EXIT_FATAL;
	}
	if (s->pending && s->cache && s->vectors && s->postings && s->ops)
		return 0;
	log_error("cannot map the shared segments: %s", strerror(errno));
	return WORKER_EXIT_FAIL;
}

static int api_init(struct worker *w)
{
	struct api *a = &api_state;
	w->role_data = a;
	a->w = w;
	a->plant = w->plant;
	a->base = w->base;
	a->scratch = util_alloc(SCRATCH_BYTES);
	a->embedder = strcmp(conf_str(w->conf, CONF_EMBEDDER_KIND), "none") == 0 ? NULL : embed_hashed();
	take_conf(a, w->conf);
	int rc = open_auth(a, w->conf);
	rc = rc ? rc : open_shared(a);
	if (rc)
		return rc;
	a->overload = overload_open(a);
	a->writes = writes_open(a);
	a->changes = changes_open(a);
	a->herd = herd_new();
	a->late = late_open(a);
	a->jobs = jobs_start(a, (unsigned)conf_int(w->conf, CONF_API_READER_THREADS));
	a->pid = (uint32_t)getpid();
	a->requests = reqlog_open(FD_SHM_REQUESTS, w->instance);
	a->tracer = trace_open(FD_SHM_SPANS, w->slot, w->stats);
	traces_conf(a, w->conf);
	return open_http(a);
}

static void api_on_wake(struct worker *w)
{
	struct api *a = w->role_data;
	writes_on_wake(a->writes);
}

static void drained(evutil_socket_t fd, short what, void *arg)
{
	struct api *a = arg;
	(void)fd, (void)what;
	if (http_server_connections(a->http) == 0 && !writes_in_flight(a->writes))
		worker_exit(a->w, WORKER_EXIT_OK);
}

static void close_idle(evutil_socket_t fd, short what, void *arg)
{
	struct api *a = arg;
	http_server_close_idle(a->http);
	drained(fd, what, a);
}

static void stop_listening(evutil_socket_t fd, short what, void *arg)
{
	static const struct timeval poll = {0, DRAIN_POLL_MS * 1000};
	struct api *a = arg;
	struct ctl_drain how = a->w->leave;
	struct timeval idle = {how.idle_ms / 1000, how.idle_ms % 1000 * 1000};
	http_server_drain(a->http);
	changes_drain(a->changes);
	event_free(a->ev_drain);
	a->ev_drain = event_new(a->base, -1, EV_PERSIST, drained, a);
	a->ev_idle = event_new(a->base, -1, 0, close_idle, a);
	event_add(a->ev_drain, &poll);
	if (how.idle_ms)
		event_add(a->ev_idle, &idle);
	else
		close_idle(fd, what, a);
}

/* Readiness fails first; the listeners go when whoever looks at it has had the time to turn away. */
static void api_drain(struct worker *w)
{
	struct api *a = w->role_data;
	struct timeval delay = {w->leave.delay_ms / 1000, w->leave.delay_ms % 1000 * 1000};
	a->draining = w->leave.whole;
	if (w->orphan) { /* the successor waits for the data lock; whoever has no answer yet asks again */
		worker_exit(w, WORKER_EXIT_OK);
		return;
	}
	a->ev_drain = event_new(a->base, -1, 0, stop_listening, a);
	if (w->leave.delay_ms)
		event_add(a->ev_drain, &delay);
	else
		stop_listening(-1, 0, a);
}

static void api_load(struct worker *w, uint64_t *waiting_r, uint64_t *working_r)
{
	struct api *a = w->role_data;
	late_look(a->late);
	jobs_tick(a->jobs);
	writes_tick(a->writes);
	*waiting_r = jobs_waiting(a->jobs);
	*working_r = writes_in_flight(a->writes);
}

static int api_conf_prepare(struct worker *w, const struct conf *next, char **error_r)
{
	struct api *a = w->role_data;
	auth_free(&a->next_auth);
	http_tls_free(&a->next_tls);
	return tls_prepare(a, next, &a->next_tls, error_r) && read_tokens(next, &a->next_auth, error_r) ? 0 : -1;
}

static void api_conf_abort(struct worker *w)
{
	struct api *a = w->role_data;
	http_tls_free(&a->next_tls);
	auth_free(&a->next_auth);
}

static void api_conf_commit(struct worker *w)
{
	struct api *a = w->role_data;
	struct http_limits limits = limits_of(w->conf);
	auth_free(&a->auth);
	a->auth = a->next_auth;
	a->next_auth = NULL;
	take_conf(a, w->conf);
	traces_conf(a, w->conf);
	cache_policy_from(w->conf, a->shared.ops->fleet, &a->shared.policy);
	tls_commit(a, &a->next_tls);
	overload_conf(a);
	http_server_set_limits(a->http, &limits);
}

static void api_peer_started(struct worker *w, unsigned slot)
{
	struct api *a = w->role_data;
	if (slot == SLOT_SYNC)
		writes_resend(a->writes);
}

/* Whoever waits for the store in a thread gives up: the loop that brings the answers has ended. */
static void stop_store(struct api *a)
{
	if (a->shared.l2)
		l2_stop(a->shared.l2);
	if (a->shared.store_conf.links)
		a->shared.ops->stop(a->shared.store_conf.links);
}

static void api_stop(struct worker *w)
{
	struct api *a = w->role_data;
	stop_store(a);
	reqlog_close(&a->requests); /* calls may outlive their requests from here on */
	if (a->jobs)
		jobs_halt(a->jobs); /* the threads read requests, which go with the server */
	http_server_free(&a->http);
	jobs_stop(&a->jobs);
	overload_free(&a->overload);
	herd_free(&a->herd);
	if (a->shared.l2)
		l2_free(&a->shared.l2);
	changes_free(&a->changes);
	if (a->ev_drain)
		event_free(a->ev_drain);
	if (a->ev_idle)
		event_free(a->ev_idle);
	free_names(a);
	auth_free(&a->auth);
	auth_free(&a->next_auth);
	http_tls_free(&a->next_tls);
	trace_close(&a->tracer); /* whoever has a trace still is not freed either */
	free(a->scratch);
}

const struct worker_role api_role = {
	.name = "api",
	.init = api_init,
	.on_wake = api_on_wake,
	.conf_prepare = api_conf_prepare,
	.conf_commit = api_conf_commit,
	.conf_abort = api_conf_abort,
	.drain = api_drain,
	.load = api_load,
	.asked = audit_asked,
	.peer_started = api_peer_started,
	.stop = api_stop,
};
