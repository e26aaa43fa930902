/* From a request to its handler: host and origin, route, credential. */
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#include "api.h"
#include "clock.h"
#include "handlers.h"
#include "requests.h"
#include "overload.h"
#include "traces.h"

static const struct route routes[] = {
#define ROUTE(m, pattern, right, handler, streams) {HTTP_M_##m, pattern, right, handler, streams},
#include "routes.def"
#undef ROUTE
};

enum { ROUTES = ARRAY_LEN(routes) };
_Static_assert(ROUTES <= STATS_ROUTES, "plant.h has room for every route");

static const char *const method_names[] = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "OTHER"};

static int status_class(int status)
{
	return status < 200 ? 0 : status < 300 ? 1 : status < 400 ? 2 : status < 500 ? 3 : 4;
}

static void count(struct api *a, size_t route, int class)
{
	_Atomic uint64_t *n = &a->w->stats->http[route][class];
	atomic_store_explicit(n, atomic_load_explicit(n, memory_order_relaxed) + 1, memory_order_relaxed);
}

void router_count(struct call *c, int status)
{
	size_t route = c->route ? (size_t)(c->route - routes) : ROUTES;
	if (!c->reply.status)
		c->streamed_status = status;
	count(c->api, route, status_class(status));
	if (c->req)
		http_time_as(c->req, (unsigned)route);
}

void router_count_get(struct api *a, struct http_request *r)
{
	count(a, 0, 1);
	http_time_as(r, 0);
}

unsigned router_names(unsigned route, const char **pattern_r, const char **method_r)
{
	*pattern_r = route < ROUTES ? routes[route].pattern : "none";
	*method_r = route < ROUTES ? method_names[routes[route].method] : "any";
	return ROUTES;
}

/* ---- matching ---- */

struct match {
	const struct route *route;
	bool path_known;
	struct uuid id;
	struct span name;
	bool bad_id;
};

/* The segment ends in what stands behind its place in the pattern (":touch"): moves *pat behind that. */
static bool suffix_matches(const char **pat, struct span *name)
{
	size_t n = strcspn(*pat, "/");
	if (n && (name->len <= n || memcmp(name->p + name->len - n, *pat, n) != 0))
		return false;
	name->len -= n;
	*pat += n;
	return true;
}

/* A pattern matches segment by segment; {id} and {name} take one segment, {name}:verb one that ends in :verb. */
static bool pattern_matches(const char *pat, struct span path, struct match *m)
{
	const char *p = path.p, *end = path.p + path.len;
	while (*pat) {
		if (*pat != '{') {
			if (p == end || *p++ != *pat++)
				return false;
			continue;
		}
		bool is_id = pat[1] == 'i';
		const char *seg = p;
		while (p < end && *p != '/')
			p++;
		if (p == seg)
			return false;
		if (is_id) {
			m->bad_id = !uuid_parse(seg, (size_t)(p - seg), &m->id);
			if (memchr(seg, ':', (size_t)(p - seg)))
				return false;
		} else {
			m->name = (struct span){seg, (size_t)(p - seg)};
		}
		pat = strchr(pat, '}') + 1;
		if (!is_id && !suffix_matches(&pat, &m->name))
			return false;
	}
	return p == end;
}

/* What stands before the first placeholder rules out nearly every pattern. On the loop. */
static bool may_match(size_t i, struct span path)
{
	static uint8_t literal[ROUTES]; /* its length; 0: not looked at yet */
	const char *pat = routes[i].pattern;
	size_t n = literal[i] ? literal[i] : (literal[i] = (uint8_t)strcspn(pat, "{"));
	return path.len >= n && path.p[n - 1] == pat[n - 1] && memcmp(path.p, pat, n) == 0;
}

static struct match search_route(enum http_method method, struct span path)
{
	struct match best = {.route = NULL};
	bool meant = false; /* a pattern matches the path as it is meant */
	for (size_t i = 0; i < ROUTES; i++) {
		struct match m = {.route = NULL};
		if (!may_match(i, path) || !pattern_matches(routes[i].pattern, path, &m))
			continue;
		/* /v1/memories/search is a literal; the same text is no id for another method. */
		if (m.bad_id && meant)
			continue;
		if (!m.bad_id && best.bad_id)
			best = (struct match){.route = NULL};
		meant = meant || !m.bad_id;
		best.path_known = true;
		if (routes[i].method == method || (method == HTTP_M_HEAD && routes[i].method == HTTP_M_GET)) {
			m.route = &routes[i];
			m.path_known = true;
			if (!best.route || best.bad_id)
				best = m;
		}
	}
	return best;
}

/* The route that a path without placeholders was found to have, by method and length. On the loop: what is refused costs little
 * else than the looking. */
#define KNOWN_LENGTHS 32
static const struct route *known[HTTP_M_OTHER][KNOWN_LENGTHS];

static const struct route *known_route(enum http_method method, struct span path)
{
	const struct route *r = method < HTTP_M_OTHER && path.len && path.len < KNOWN_LENGTHS ? known[method][path.len]
											      : NULL;
	return r && memcmp(r->pattern, path.p, path.len) == 0 ? r : NULL;
}

static void note_route(enum http_method method, struct span path, const struct route *r)
{
	if (r && method < HTTP_M_OTHER && path.len < KNOWN_LENGTHS && !strchr(r->pattern, '{'))
		known[method][path.len] = r;
}

static struct match find_route(enum http_method method, struct span path)
{
	const struct route *r = known_route(method, path);
	if (r)
		return (struct match){.route = r, .path_known = true};
	struct match m = search_route(method, path);
	note_route(method, path, m.route);
	return m;
}

/* ---- admission ---- */

const struct auth_principal *router_who(struct api *a, struct http_request *r)
{
	if (!a->auth)
		return http_peer_loopback(r) ? auth_local_admin() : NULL;
	return auth_check(a->auth, http_header(r, HTTP_H_AUTHORIZATION));
}

static bool host_ok(struct call *c)
{
	struct span host = http_header(c->req, HTTP_H_HOST), origin = http_header(c->req, HTTP_H_ORIGIN);
	if (host.p && !auth_host_ok(host, c->api->names, c->api->nnames)) {
		problem(c, 421, "host-refused", "Host: this name is neither loopback nor in listen.names");
		return false;
	}
	if (origin.p && !auth_origin_ok(origin, c->api->names, c->api->nnames)) {
		problem(c, 403, "origin-refused",
			"Origin: pages of this origin may not call; add its host to listen.names");
		return false;
	}
	return true;
}

static bool credential_ok(struct call *c)
{
	unsigned right = c->route->right;
	c->who = router_who(c->api, c->req);
	c->auth = auth_ref(c->api->auth);
	if (!right)
		return true;
	if (!c->who) {
		problem(c, 401, "unauthorized", "Authorization: a valid bearer token is needed");
		buf_adds(&c->reply.head, "WWW-Authenticate: Bearer\r\n");
		return false;
	}
	if (!(c->who->rights & (right | AUTH_ADMIN))) {
		problem(c, 403, "right-missing", "this token does not carry the right \"%s\"",
			right == AUTH_READ    ? "read"
			: right == AUTH_WRITE ? "write"
					      : "admin");
		return false;
	}
	return true;
}

/* Until sync has replayed its journal once, shared memory does not show all that was acknowledged.
 * Later restarts of sync alone change nothing for readers. */
static bool served(const struct api *a) { return atomic_load_explicit(&a->plant->served_once, memory_order_acquire); }

/* Clients send the same Host again and again: the last one that was accepted needs no second look. */
static bool host_ok_fast(struct api *a, struct span host)
{
	if (host.len && host.len == a->host_len && memcmp(host.p, a->host, host.len) == 0)
		return true;
	if (!auth_host_ok(host, a->names, a->nnames))
		return false;
	a->host_len = host.len <= sizeof(a->host) ? host.len : 0;
	memcpy(a->host, host.p, a->host_len);
	return true;
}

const struct auth_principal *router_admit_fast(struct api *a, struct http_request *r, unsigned right)
{
	struct span host = http_header(r, HTTP_H_HOST);
	if (!served(a) || (host.p && !host_ok_fast(a, host)))
		return NULL;
	const struct auth_principal *who = router_who(a, r);
	return who && who->rights & (right | AUTH_ADMIN) ? who : NULL;
}

/* 405 must say what is allowed (RFC 9110 15.5.6). */
static void refuse_method(struct call *c)
{
	struct buf allowed = {0};
	for (size_t i = 0; i < ROUTES; i++) {
		struct match m = {.route = NULL};
		if (!pattern_matches(routes[i].pattern, http_path(c->req), &m) || m.bad_id)
			continue;
		buf_printf(&allowed, "%s%s%s", allowed.len ? ", " : "", method_names[routes[i].method],
			   routes[i].method == HTTP_M_GET ? ", HEAD" : "");
	}
	if (!allowed.len) /* /v1/memories/{id} with something that is no id */
		buf_adds(&allowed, "GET, HEAD, PATCH, DELETE");
	buf_addc(&allowed, 0);
	problem(c, 405, "method-not-allowed", "this resource takes %s", allowed.p);
	buf_printf(&c->reply.head, "Allow: %s\r\n", allowed.p);
	buf_free(&allowed);
}

static bool resolve(struct call *c)
{
	struct match m = find_route(http_method(c->req), http_path(c->req));
	if (!m.path_known) {
		problem(c, 404, "no-route", "no such resource; docs/api.md lists them");
		return false;
	}
	if (!m.route) {
		refuse_method(c);
		return false;
	}
	c->route = m.route;
	if (m.bad_id) {
		problem(c, 404, "not-found", "id: a memory's id is a UUID; this is none");
		return false;
	}
	c->id = m.id;
	if (m.name.p) {
		c->name = util_alloc(m.name.len + 1);
		ptrdiff_t n = http_percent_decode(m.name, false, c->name);
		if (n < 0 || memchr(c->name, 0, (size_t)n)) {
			problem(c, 400, "invalid-path", "the path has a malformed percent escape");
			return false;
		}
		c->name[n] = 0;
	}
	return true;
}

static struct call *call_new(struct api *a, struct http_request *r)
{
	struct call *c = util_zalloc(sizeof(*c));
	c->api = a;
	c->req = r;
	c->began_ns = http_began_ns(r) ? http_began_ns(r) : clock_mono_ns();
	traces_begin(c);
	return c;
}

static bool started(struct call *c)
{
	struct plant *p = c->api->plant;
	uint32_t n = atomic_load_explicit(&p->reason_len, memory_order_acquire);
	if (served(c->api) || !c->route->right || c->route->handle == admin_status ||
	    c->route->handle == admin_reload || c->route->handle == admin_drain || c->route->handle == metrics_get ||
	    breakers_is(c->route->handle) || targets_is(c->route->handle))
		return true;
	if (n && c->api->errors_full)
		problem(c, 503, "not-serving", "%.*s", (int)n, p->reason);
	else
		problem_starting(c);
	return false;
}

/* A compressed body would only be refused as malformed JSON: say what is wrong. */
static bool encoding_ok(struct call *c)
{
	struct span e = http_header_named(c->req, "content-encoding");
	if (!e.p || !e.len || (e.len == 8 && strncasecmp(e.p, "identity", 8) == 0))
		return true;
	problem(c, 415, "encoding-unsupported",
		"Content-Encoding: bodies are taken as they are; send this one without compression");
	buf_adds(&c->reply.head, "Accept-Encoding: identity\r\n");
	return false;
}

static bool admit(struct call *c)
{
	return host_ok(c) && resolve(c) && credential_ok(c) && started(c) &&
	       (c->route->method == HTTP_M_GET || encoding_ok(c));
}

void router_request(void *arg, struct http_request *r)
{
	struct api *a = arg;
	struct call *c = *http_user(r); /* a streamed body made its call at the head */
	requests_enter(r);
	if (c) {
		transfer_body_end(c);
	} else if (!memories_get_fast(a, r)) {
		c = call_new(a, r);
		*http_user(r) = c;
		if (admit(c) && overload_admits(c))
			c->route->handle(c);
		else
			call_reply(c);
	}
	requests_leave();
}

/* Methods that some streaming route has: no other request is matched at its head, and again when whole. */
enum {
	STREAMING = 0
#define ROUTE(m, pattern, right, handler, streams) | ((streams) ? 1 << HTTP_M_##m : 0)
#include "routes.def"
#undef ROUTE
};

static bool may_stream(enum http_method method, struct span path)
{
	const struct route *r = known_route(method, path);
	struct match m;
	if (r)
		return r->streams_body;
	for (size_t i = 0; i < ROUTES; i++)
		if (routes[i].streams_body && may_match(i, path) && pattern_matches(routes[i].pattern, path, &m))
			return true;
	return false;
}

void router_head(void *arg, struct http_request *r, bool *stream_r)
{
	if (!(STREAMING & 1 << http_method(r)) || !may_stream(http_method(r), http_path(r)))
		return;
	struct match m = find_route(http_method(r), http_path(r));
	if (!m.route || !m.route->streams_body)
		return;
	struct call *c = call_new(arg, r);
	requests_enter(r);
	if (admit(c) && overload_admits(c)) {
		c->wait.settled = true; /* what goes on is not refused half-way */
		*stream_r = true;
		*http_user(r) = c;
		c->route->handle(c);
	} else {
		call_reply(c);
	}
	requests_leave();
}

bool router_body(void *arg, struct http_request *r, const char *p, size_t n)
{
	(void)arg;
	requests_enter(r);
	bool go_on = transfer_body(*http_user(r), p, n);
	requests_leave();
	return go_on;
}

void router_gone(void *arg, struct http_request *r)
{
	struct call *c = *http_user(r);
	(void)arg;
	if (c && changes_is(c))
		changes_gone(c);
	else if (c && transfer_is(c))
		transfer_gone(c);
	else if (c)
		overload_gone(c);
}

/* What the engine refuses by itself: its words, with the limit and what to do. */
static void refusal_text(const struct conf *conf, int status, const char *why, char *out, size_t size)
{
	long long head = (long long)conf_int(conf, CONF_HTTP_HEAD_BYTES);
	switch (status) {
	case 408:
		snprintf(
			out, size,
			"request: its headers did not arrive within http.head_timeout (%lld ms) or its body within http.body_timeout "
			"(%lld ms); send it faster or raise the limit",
			(long long)conf_int(conf, CONF_HTTP_HEAD_TIMEOUT) / 1000,
			(long long)conf_int(conf, CONF_HTTP_BODY_TIMEOUT) / 1000);
		break;
	case 413:
		snprintf(
			out, size,
			"body: is larger than http.body_bytes (%lld bytes); split it, or stream NDJSON to POST /v1/memories:import",
			(long long)conf_int(conf, CONF_HTTP_BODY_BYTES));
		break;
	case 414:
		snprintf(
			out, size,
			"request line: is longer than http.head_bytes (%lld bytes); long filters fit into the body of POST /v1/memories/search",
			head);
		break;
	case 431:
		snprintf(
			out, size,
			"headers: %s; a request may have %d of them in http.head_bytes (%lld bytes); send fewer or shorter ones",
			why, API_HEADERS_MAX, head);
		break;
	case 503:
		snprintf(
			out, size,
			"%s: this worker takes http.max_connections (%lld) and bodies of http.buffered_bytes (%lld bytes); try again after "
			"Retry-After seconds",
			why, (long long)conf_int(conf, CONF_HTTP_MAX_CONNECTIONS),
			(long long)conf_int(conf, CONF_HTTP_BUFFERED_BYTES));
		break;
	case 501: snprintf(out, size, "request: %s; docs/api.md lists what this server understands", why); break;
	default: /* what names its own remedy, behind a semicolon, needs no other */
		snprintf(out, size, "request: %s%s", why,
			 strchr(why, ';') ? "" : "; send well-formed HTTP/1.1 (RFC 9112)");
	}
}

bool router_spare(void *arg, struct http_request *r)
{
	struct match m = find_route(http_method(r), http_path(r));
	(void)arg;
	return m.route && (m.route->handle == probes_livez || m.route->handle == probes_readyz ||
			   m.route->handle == probes_startupz);
}

void router_refused(void *arg, int status, const char *why, struct span id, struct buf *b)
{
	static const struct {
		int status;
		const char *type;
	} types[] = {{400, "malformed-request"}, {408, "request-timeout"},     {413, "body-too-large"},
		     {414, "target-too-long"},	 {417, "expectation-unknown"}, {431, "head-too-large"},
		     {501, "not-implemented"},	 {503, "overloaded"},	       {505, "version-unsupported"}};
	struct api *a = arg;
	const char *type = "http";
	char detail[512];
	for (size_t i = 0; i < ARRAY_LEN(types); i++)
		if (types[i].status == status)
			type = types[i].type;
	refusal_text(a->w->conf, status, why, detail, sizeof(detail));
	count(a, ROUTES, status_class(status));
	requests_note_refused(a, status, type, id);
	problem_write(b, status, type, detail, id);
}
