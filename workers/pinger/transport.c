/* HTTP requests on the event loop: libcurl's multi socket interface under libevent. */
#include <curl/curl.h>
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

#include "transport.h"

#define LIBRARY "libcurl.so.4"

/* clang-format off */
#define LIBRARY_FUNCTIONS(F) \
	F(global_init) F(easy_init) F(easy_setopt) F(easy_getinfo) F(easy_cleanup) \
	F(easy_strerror) F(multi_init) F(multi_setopt) F(multi_assign) F(multi_add_handle) \
	F(multi_remove_handle) F(multi_socket_action) F(multi_info_read) F(multi_cleanup)
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

static void finish_done(struct transport *t)
{
	CURLMsg *m;
	int left;
	while ((m = lib.multi_info_read(t->multi, &left))) {
		struct exchange *x = NULL;
		long status = 0;
		if (m->msg != CURLMSG_DONE)
			continue;
		CURLcode rc = m->data.result;
		lib.easy_getinfo(m->easy_handle, CURLINFO_PRIVATE, (char **)&x);
		lib.easy_getinfo(m->easy_handle, CURLINFO_RESPONSE_CODE, &status);
		transport_done_fn *done = x->done;
		void *arg = x->arg;
		transport_cancel(&x);
		done(arg, status, rc == CURLE_OK ? NULL : lib.easy_strerror(rc));
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

/* Bodies do not matter, but an endless one must not keep us: libcurl's timeout ends it. */
static size_t discard(char *data, size_t size, size_t n, void *arg)
{
	(void)data, (void)arg;
	return size * n;
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

struct exchange *transport_start(struct transport *t, const struct target *target, transport_done_fn *done, void *arg)
{
	struct exchange *x = util_zalloc(sizeof(*x));
	CURL *e = lib.easy_init();
	AN(e);
	*x = (struct exchange){.t = t, .easy = e, .done = done, .arg = arg};
	lib.easy_setopt(e, CURLOPT_URL, target->url);
	lib.easy_setopt(e, CURLOPT_PRIVATE, (void *)x);
	lib.easy_setopt(e, CURLOPT_NOSIGNAL, 1L);
	lib.easy_setopt(e, CURLOPT_TIMEOUT_MS, (long)(target->timeout_us / 1000));
	lib.easy_setopt(e, CURLOPT_PROTOCOLS_STR, "http,https");
	lib.easy_setopt(e, CURLOPT_USERAGENT, "ai-orchestra-pinger");
	lib.easy_setopt(e, CURLOPT_WRITEFUNCTION, discard);
	if (strcmp(target->method, "HEAD") == 0) {
		lib.easy_setopt(e, CURLOPT_NOBODY, 1L);
	} else if (strcmp(target->method, "POST") == 0) {
		lib.easy_setopt(e, CURLOPT_POST, 1L);
		lib.easy_setopt(e, CURLOPT_POSTFIELDSIZE, 0L);
	} else if (strcmp(target->method, "GET") != 0) {
		lib.easy_setopt(e, CURLOPT_CUSTOMREQUEST, target->method);
	}
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
