/* From a request to its handler: host and origin, route, credential. */
#include <stdio.h>
#include <stdlib.h>
#include <strings.h>

#include "api.h"
#include "clock.h"
#include "handlers.h"
#include "overload.h"

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

void router_count(const struct call *c, int status)
{
	count(c->api, c->route ? (size_t)(c->route - routes) : ROUTES, status_class(status));
}

void router_count_get(struct api *a) { count(a, 0, 1); }

/* One row of /metrics for each route and class that ever answered. Classes rather than single
 * statuses keep the table small: "2xx". */
void router_metrics(struct api *a, struct buf *b)
{
	static const char *const classes[] = {"1xx", "2xx", "3xx", "4xx", "5xx"};
	buf_adds(b, "# HELP orchestra_http_requests_total Requests answered, by route, method and class of status.\n"
		    "# TYPE orchestra_http_requests_total counter\n");
	for (size_t r = 0; r <= ROUTES; r++)
		for (size_t k = 0; k < ARRAY_LEN(classes); k++) {
			uint64_t n = 0;
			for (unsigned s = 0; s < SLOT_COUNT; s++)
				n += atomic_load_explicit(&a->plant->worker[s].stats.http[r][k], memory_order_relaxed);
			if (n || (r < ROUTES && k == 1))
				buf_printf(
					b,
					"orchestra_http_requests_total{route=\"%s\",method=\"%s\",status=\"%s\"} %llu\n",
					r < ROUTES ? routes[r].pattern : "none",
					r < ROUTES ? method_names[routes[r].method] : "any", classes[k],
					(unsigned long long)n);
		}
}

/* ---- matching ---- */

struct match {
	const struct route *route;
	bool path_known;
	struct uuid id;
	struct span name;
	bool bad_id;
};

/* A pattern matches segment by segment; {id} and {name} take one segment. */
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
	}
	return p == end;
}

static struct match find_route(enum http_method method, struct span path)
{
	struct match best = {.route = NULL};
	bool meant = false; /* a pattern matches the path as it is meant */
	for (size_t i = 0; i < ROUTES; i++) {
		struct match m = {.route = NULL};
		if (!pattern_matches(routes[i].pattern, path, &m))
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
	return c;
}

static bool started(struct call *c)
{
	struct plant *p = c->api->plant;
	uint32_t n = atomic_load_explicit(&p->reason_len, memory_order_acquire);
	if (served(c->api) || !c->route->right || c->route->handle == admin_status ||
	    c->route->handle == admin_reload || c->route->handle == admin_drain || c->route->handle == probes_metrics ||
	    breakers_is(c->route->handle))
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
	if (c) {
		transfer_body_end(c);
		return;
	}
	if (memories_get_fast(a, r))
		return;
	c = call_new(a, r);
	*http_user(r) = c;
	if (!admit(c) || !overload_admits(c)) {
		call_reply(c);
		return;
	}
	c->route->handle(c);
}

/* Methods that some streaming route has: no other request is matched at its head, and again when whole. */
enum {
	STREAMING = 0
#define ROUTE(m, pattern, right, handler, streams) | ((streams) ? 1 << HTTP_M_##m : 0)
#include "routes.def"
#undef ROUTE
};

void router_head(void *arg, struct http_request *r, bool *stream_r)
{
	if (!(STREAMING & 1 << http_method(r)))
		return;
	struct match m = find_route(http_method(r), http_path(r));
	if (!m.route || !m.route->streams_body)
		return;
	struct call *c = call_new(arg, r);
	if (!admit(c) || !overload_admits(c)) {
		call_reply(c);
		return;
	}
	c->wait.settled = true; /* what goes on is not refused half-way */
	*stream_r = true;
	*http_user(r) = c;
	c->route->handle(c);
}

bool router_body(void *arg, struct http_request *r, const char *p, size_t n)
{
	(void)arg;
	return transfer_body(*http_user(r), p, n);
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
	problem_write(b, status, type, detail, id);
}
