/* HTTP requests on the event loop: libcurl's multi socket interface under libevent. */
#include <curl/curl.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "clock.h"
#include "transport.h"

#define LIBRARY "libcurl.so.4"

/* clang-format off */
#define LIBRARY_FUNCTIONS(F) \
	F(global_init) F(easy_init) F(easy_setopt) F(easy_getinfo) F(easy_cleanup) \
	F(easy_strerror) F(multi_init) F(multi_setopt) F(multi_assign) F(multi_add_handle) \
	F(slist_append) F(slist_free_all) F(multi_remove_handle) F(multi_socket_action) F(multi_info_read) F(multi_cleanup)
/* clang-format on */

static struct {
	void *handle;
#define F(name) __typeof__(curl_##name) *name;
	LIBRARY_FUNCTIONS(F)
#undef F
} lib;

struct transport {
	struct event_base *base;
	CURLM *multi;
	struct event *timer;
};

struct exchange {
	struct transport *t;
	CURL *easy;
	struct curl_slist *headers;
	struct buf body; /* at most `keep` bytes */
	size_t keep;
	int64_t started_us;
	transport_done_fn *done;
	void *arg;
};

static bool load_library(char **error_r)
{
	if (lib.handle)
		return true;
	void *handle = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
	const char *missing = NULL;
#define F(name)                                                                                                        \
	lib.name = handle ? (__typeof__(lib.name))(uintptr_t)dlsym(handle, "curl_" #name) : NULL;                      \
	if (!lib.name)                                                                                                 \
		missing = "curl_" #name;
	LIBRARY_FUNCTIONS(F)
#undef F
	if (handle && !missing && lib.global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK) {
		lib.handle = handle;
		return true;
	}
	if (asprintf(error_r, "cannot load %s, which pinger.targets need (package libcurl4): %s", LIBRARY,
		     handle ? missing ? missing : "it cannot start" : dlerror()) == -1)
		*error_r = NULL;
	if (handle)
		dlclose(handle);
	return false;
}

/* ---- libcurl's events ---- */

/* "Expire date:Nov 21 09:28:25 2027 GMT" of the server's own certificate, or "…:2027-11-21 09:28:25 GMT". */
static int64_t tls_expiry(CURL *easy)
{
	static const char field[] = "Expire date:";
	struct curl_certinfo *info = NULL;
	if (lib.easy_getinfo(easy, CURLINFO_CERTINFO, &info) != CURLE_OK || !info || info->num_of_certs < 1)
		return 0;
	for (const struct curl_slist *l = info->certinfo[0]; l; l = l->next) {
		struct tm tm = {0};
		if (strncmp(l->data, field, sizeof(field) - 1) != 0)
			continue;
		const char *text = l->data + sizeof(field) - 1;
		if (strptime(text, "%b %d %H:%M:%S %Y", &tm) || strptime(text, "%Y-%m-%d %H:%M:%S", &tm))
			return (int64_t)timegm(&tm) * 1000000;
	}
	return 0;
}

static uint32_t time_taken(const struct exchange *x, bool whole)
{
	curl_off_t total = 0, before = 0;
	if (whole) {
		lib.easy_getinfo(x->easy, CURLINFO_TOTAL_TIME_T, &total);
		lib.easy_getinfo(x->easy, CURLINFO_PRETRANSFER_TIME_T, &before);
	}
	int64_t us = total > 0 && total >= before ? (int64_t)(total - before) : clock_mono_us() - x->started_us;
	return us < UINT32_MAX ? (uint32_t)us : UINT32_MAX;
}

static void finish(struct exchange *x, CURLcode rc)
{
	struct transport_answer a = {.error = rc == CURLE_OK ? NULL : lib.easy_strerror(rc)};
	transport_done_fn *done = x->done;
	void *arg = x->arg;
	lib.easy_getinfo(x->easy, CURLINFO_RESPONSE_CODE, &a.status);
	curl_off_t later = 0;
	if (lib.easy_getinfo(x->easy, CURLINFO_RETRY_AFTER, &later) == CURLE_OK)
		a.retry_after_s = (int64_t)later;
	a.took_us = time_taken(x, rc == CURLE_OK);
	a.tls_expiry_us = tls_expiry(x->easy);
	struct buf body = x->body;
	a.body = (struct span){body.p, body.len};
	x->body = (struct buf){0};
	transport_cancel(&x); /* `done` may start the next one */
	done(arg, &a);
	buf_free(&body);
}

static void finish_done(struct transport *t)
{
	CURLMsg *m;
	int left;
	while ((m = lib.multi_info_read(t->multi, &left))) {
		struct exchange *x = NULL;
		if (m->msg != CURLMSG_DONE)
			continue;
		CURLcode rc = m->data.result;
		lib.easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, (char **)&x);
		finish(x, rc);
	}
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct transport *t = arg;
	int running;
	(void)fd, (void)what;
	lib.multi_socket_action(t->multi, CURL_SOCKET_TIMEOUT, 0, &running);
	finish_done(t);
}

static void on_socket(evutil_socket_t fd, short what, void *arg)
{
	struct transport *t = arg;
	int running;
	int flags = (what & EV_READ ? CURL_CSELECT_IN : 0) | (what & EV_WRITE ? CURL_CSELECT_OUT : 0);
	lib.multi_socket_action(t->multi, (curl_socket_t)fd, flags, &running);
	finish_done(t);
}

static int want_timer(CURLM *multi, long ms, void *arg)
{
	struct transport *t = arg;
	struct timeval tv = {ms / 1000, ms % 1000 * 1000};
	(void)multi;
	if (ms < 0)
		evtimer_del(t->timer);
	else
		evtimer_add(t->timer, &tv);
	return 0;
}

static int want_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *socket_arg)
{
	struct transport *t = arg;
	struct event *e = socket_arg;
	short events = (short)((what & CURL_POLL_IN ? EV_READ : 0) | (what & CURL_POLL_OUT ? EV_WRITE : 0) |
			       EV_PERSIST);
	(void)easy;
	if (e)
		event_free(e);
	e = NULL;
	if (what != CURL_POLL_REMOVE) {
		e = event_new(t->base, fd, events, on_socket, t);
		AN(e && event_add(e, NULL) == 0);
	}
	lib.multi_assign(t->multi, fd, e);
	return 0;
}

/* An endless body must not keep us: libcurl's timeout ends it. */
static size_t take_body(char *data, size_t size, size_t n, void *arg)
{
	struct exchange *x = arg;
	size_t room = x->keep - x->body.len, len = size * n;
	if (room)
		buf_add(&x->body, data, len < room ? len : room);
	return len;
}

/* ---- requests ---- */

struct transport *transport_open(struct event_base *base, char **error_r)
{
	*error_r = NULL;
	if (!load_library(error_r))
		return NULL;
	struct transport *t = util_zalloc(sizeof(*t));
	t->base = base;
	t->multi = lib.multi_init();
	t->timer = evtimer_new(base, on_timer, t);
	AN(t->multi && t->timer);
	lib.multi_setopt(t->multi, CURLMOPT_SOCKETFUNCTION, want_socket);
	lib.multi_setopt(t->multi, CURLMOPT_SOCKETDATA, t);
	lib.multi_setopt(t->multi, CURLMOPT_TIMERFUNCTION, want_timer);
	lib.multi_setopt(t->multi, CURLMOPT_TIMERDATA, t);
	lib.multi_setopt(t->multi, CURLMOPT_MAXCONNECTS, 16L);
	return t;
}

struct transport_request transport_request_of(const struct target *t, const char *token)
{
	return (struct transport_request){.url = t->url,
					  .method = t->method,
					  .body = t->body,
					  .socket = t->socket,
					  .ca_file = t->ca_file,
					  .token = token,
					  .headers = t->headers,
					  .nheaders = t->nheaders,
					  .timeout_us = t->timeout_us,
					  .connect_timeout_us = t->connect_timeout_us,
					  .keep = t->expect_body ? TARGET_ANSWER_MAX : 0};
}

static void add_header(struct exchange *x, const char *line)
{
	x->headers = lib.slist_append(x->headers, line);
	AN(x->headers);
}

static void set_method(CURL *e, const struct transport_request *r)
{
	bool posts = strcmp(r->method, "POST") == 0;
	if (strcmp(r->method, "HEAD") == 0)
		lib.easy_setopt(e, CURLOPT_NOBODY, 1L);
	if (posts || r->body) {
		lib.easy_setopt(e, CURLOPT_POST, 1L);
		lib.easy_setopt(e, CURLOPT_POSTFIELDSIZE, r->body ? (long)strlen(r->body) : 0L);
		lib.easy_setopt(e, CURLOPT_COPYPOSTFIELDS, r->body ? r->body : "");
	}
	if (!posts && strcmp(r->method, "GET") != 0 && strcmp(r->method, "HEAD") != 0)
		lib.easy_setopt(e, CURLOPT_CUSTOMREQUEST, r->method);
}

static void set_headers(struct exchange *x, const struct transport_request *r)
{
	struct buf b = {0};
	for (size_t i = 0; i < r->nheaders; i++)
		add_header(x, r->headers[i]);
	if (r->token) {
		buf_printf(&b, "Authorization: Bearer %s", r->token);
		buf_addc(&b, '\0');
		add_header(x, b.p);
		explicit_bzero(b.p, b.len);
		buf_free(&b);
	}
	if (r->traceparent) {
		b = (struct buf){0};
		buf_printf(&b, "traceparent: %s", r->traceparent);
		buf_addc(&b, '\0');
		add_header(x, b.p);
		buf_free(&b);
	}
	if (x->headers)
		lib.easy_setopt(x->easy, CURLOPT_HTTPHEADER, x->headers);
}

struct exchange *transport_start(struct transport *t, const struct transport_request *r, transport_done_fn *done,
				 void *arg)
{
	struct exchange *x = util_zalloc(sizeof(*x));
	CURL *e = lib.easy_init();
	AN(e);
	*x = (struct exchange){
		.t = t, .easy = e, .keep = r->keep, .started_us = clock_mono_us(), .done = done, .arg = arg};
	lib.easy_setopt(e, CURLOPT_URL, r->url);
	lib.easy_setopt(e, CURLOPT_PRIVATE, (void *)x);
	lib.easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
	lib.easy_setopt(e, CURLOPT_TIMEOUT_MS, (long)(r->timeout_us / 1000));
	lib.easy_setopt(e, CURLOPT_CONNECTTIMEOUT_MS, (long)(r->connect_timeout_us / 1000));
	lib.easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https");
	lib.easy_setopt(e, CURLOPT_USERAGENT, "ai-orchestra-pinger");
	lib.easy_setopt(e, CURLOPT_WRITEFUNCTION, take_body);
	lib.easy_setopt(e, CURLOPT_WRITEDATA, (void *)x);
	lib.easy_setopt(e, CURLOPT_CERTINFO, 1L);
	if (r->socket)
		lib.easy_setopt(e, CURLOPT_UNIX_SOCKET_PATH, r->socket);
	if (r->ca_file)
		lib.easy_setopt(e, CURLOPT_CAINFO, r->ca_file);
	if (r->direct)
		lib.easy_setopt(e, CURLOPT_NOPROXY, "*");
	set_method(e, r);
	set_headers(x, r);
	AN(lib.multi_add_handle(t->multi, e) == CURLM_OK);
	return x;
}

void transport_cancel(struct exchange **xp)
{
	struct exchange *x = *xp;
	*xp = NULL;
	if (!x)
		return;
	lib.multi_remove_handle(x->t->multi, x->easy);
	lib.easy_cleanup(x->easy);
	lib.slist_free_all(x->headers);
	buf_free(&x->body);
	free(x);
}

void transport_close(struct transport **tp)
{
	struct transport *t = *tp;
	*tp = NULL;
	if (!t)
		return;
	lib.multi_cleanup(t->multi);
	event_free(t->timer);
	free(t);
}
