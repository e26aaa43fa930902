/* What a target is asked: address, method, headers, body, credential, times. */
#include <stdio.h>
#include <stdlib.h>

#include "target-private.h"

#define TIMEOUT_MIN_US 10000ll
#define TIMEOUT_MAX_US (600 * 1000000ll)
#define TIMEOUT_DEFAULT_US 10000000ll
#define URL_MAX 2048
#define BODY_MAX 65536
#define HEADER_NAME_MAX 64
#define HEADER_VALUE_MAX 4096
#define AUDIENCE_MAX 1024
#define PATH_LEN_MAX 1024
#define SOCKET_MAX 107 /* of struct sockaddr_un */

static bool read_url(const struct target_place *at, const json_t *v, struct target *t)
{
	const char *url = json_string_value(v), *host = NULL;
	if (url && strncasecmp(url, "http://", 7) == 0)
		host = url + 7;
	else if (url && strncasecmp(url, "https://", 8) == 0)
		host = url + 8;
	if (!host || !*host || *host == '/' || *host == '?' || *host == '#')
		return target_refuse(at, "url must be http://host… or https://host…");
	if (strlen(url) > URL_MAX)
		return target_refuse(at, "url is longer than %d bytes", URL_MAX);
	for (const char *p = url; *p; p++)
		if ((unsigned char)*p <= 0x20 || *p == 0x7f)
			return target_refuse(at, "url must not hold blanks or control characters; write "
						 "%%20 for a blank");
	t->url = util_strndup(url, strlen(url));
	return true;
}

static bool is_tls(const struct target *t) { return (t->url[4] | 32) == 's'; }

/* The host and port of the URL, without user and password. */
static struct span authority(const struct target *t)
{
	const char *p = t->url + (is_tls(t) ? 8 : 7);
	size_t n = strcspn(p, "/?#");
	for (size_t i = n; i > 0; i--)
		if (p[i - 1] == '@')
			return (struct span){p + i, n - i};
	return (struct span){p, n};
}

/* As "host:port": what those who have had an answer from there will name. */
static void find_host(struct target *t)
{
	struct span a = authority(t);
	struct buf b = {0};
	const char *bracket = memchr(a.p, ']', a.len), *from = bracket ? bracket : a.p;
	buf_add(&b, a.p, a.len);
	if (!memchr(from, ':', (size_t)(a.p + a.len - from)))
		buf_adds(&b, is_tls(t) ? ":443" : ":80");
	t->host = t->socket ? 0 : plant_host_key((struct span){b.p, b.len});
	buf_free(&b);
}

static bool is_local(const struct target *t)
{
	struct span a = authority(t);
	static const char *const names[] = {"127.", "localhost", "[::1]"};
	if (t->socket)
		return true;
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		size_t n = strlen(names[i]);
		if (a.len >= n && strncasecmp(a.p, names[i], n) == 0 && (!i || a.len == n || a.p[n] == ':'))
			return i || strspn(a.p, "0123456789.") == strcspn(a.p, ":/?#");
	}
	return false;
}

static bool read_method(const struct target_place *at, const json_t *v, struct target *t)
{
	static const char *const methods[] = {"GET", "HEAD", "POST", "PUT", "OPTIONS"};
	const char *text = v ? json_string_value(v) : "GET";
	for (size_t i = 0; text && i < ARRAY_LEN(methods); i++) {
		if (strcmp(text, methods[i]) == 0) {
			t->method = util_strndup(text, strlen(text));
			return true;
		}
	}
	return target_refuse(at, "method must be GET, HEAD, POST, PUT or OPTIONS");
}

static bool header_name_ok(const char *name)
{
	size_t n = strlen(name);
	return n && n <= HEADER_NAME_MAX &&
	       strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'*+-.^_`|~") == n;
}

static bool header_value_ok(const json_t *v)
{
	const char *text = json_string_value(v);
	if (!text || strlen(text) != json_string_length(v) || strlen(text) > HEADER_VALUE_MAX)
		return false;
	for (const char *p = text; *p; p++)
		if (((unsigned char)*p < 0x20 && *p != '\t') || *p == 0x7f)
			return false;
	return true;
}

static bool header_allowed(const struct target_place *at, const char *name)
{
	static const char *const ours[] = {"Content-Length", "Transfer-Encoding", "Connection", "Expect"};
	if (strcasecmp(name, "Authorization") == 0)
		return target_refuse(at, "headers: Authorization would stand in every dump of the configuration; "
					 "use bearer_file or identity_token");
	for (size_t i = 0; i < ARRAY_LEN(ours); i++)
		if (strcasecmp(name, ours[i]) == 0)
			return target_refuse(at, "headers: %s is set by the request itself; leave it out", ours[i]);
	return true;
}

static bool read_headers(const struct target_place *at, json_t *o, struct target *t)
{
	const char *name;
	json_t *v;
	if (!o)
		return true;
	if (!json_is_object(o) || json_object_size(o) > TARGET_HEADERS_MAX)
		return target_refuse(
			at, "headers must be an object of at most %d texts, such as {\"Accept\": \"text/plain\"}",
			TARGET_HEADERS_MAX);
	json_object_foreach (o, name, v) {
		struct buf b = {0};
		if (!header_name_ok(name))
			return target_refuse(at, "headers: \"%.64s\" is no name of a header, of at most %d bytes", name,
					     HEADER_NAME_MAX);
		if (!header_allowed(at, name))
			return false;
		if (!header_value_ok(v))
			return target_refuse(
				at, "headers: %s must be a text of at most %d bytes without control characters", name,
				HEADER_VALUE_MAX);
		/* libcurl takes "Name:" for one that is to be left out, "Name;" for one without value. */
		buf_printf(&b, *json_string_value(v) ? "%s: %s" : "%s;%s", name, json_string_value(v));
		buf_addc(&b, '\0');
		t->headers[t->nheaders++] = b.p;
	}
	return true;
}

static bool read_body(const struct target_place *at, json_t *o, struct target *t)
{
	if (!target_text(at, o, "body", BODY_MAX, &t->body))
		return false;
	if (t->body && strcmp(t->method, "POST") != 0 && strcmp(t->method, "PUT") != 0)
		return target_refuse(at, "body needs method POST or PUT");
	return true;
}

static bool path_ok(const struct target_place *at, const char *field, const char *path)
{
	return !path || *path == '/' || target_refuse(at, "%s must be an absolute path", field);
}

static bool bearer_ok(const struct target_place *at, const char *path)
{
	static const char prefix[] = "credential:";
	size_t n = sizeof(prefix) - 1;
	if (!path || *path == '/')
		return true;
	if (strncmp(path, prefix, n) == 0 && path[n] && path[n] != '.' && !strchr(path, '/'))
		return true;
	return target_refuse(at, "bearer_file must be an absolute path, or credential:NAME of a systemd credential");
}

static bool read_credential(const struct target_place *at, json_t *o, struct target *t)
{
	if (!target_text(at, o, "identity_token", AUDIENCE_MAX, &t->audience) ||
	    !target_text(at, o, "bearer_file", PATH_LEN_MAX, &t->bearer_file) || !bearer_ok(at, t->bearer_file))
		return false;
	if (t->audience && t->bearer_file)
		return target_refuse(at, "identity_token and bearer_file exclude each other; leave one out");
	if ((t->audience || t->bearer_file) && !is_tls(t) && !is_local(t))
		return target_refuse(at, "%s over http:// would show the token to the network; use https://",
				     t->audience ? "identity_token" : "bearer_file");
	return true;
}

bool target_request(const struct target_place *at, json_t *o, struct target *t)
{
	t->timeout_us = TIMEOUT_DEFAULT_US;
	t->connect_timeout_us = TIMEOUT_DEFAULT_US;
	if (!read_url(at, json_object_get(o, "url"), t) || !read_method(at, json_object_get(o, "method"), t) ||
	    !read_headers(at, json_object_get(o, "headers"), t) || !read_body(at, o, t) ||
	    !target_text(at, o, "unix_socket", SOCKET_MAX, &t->socket) || !path_ok(at, "unix_socket", t->socket) ||
	    !target_text(at, o, "ca_file", PATH_LEN_MAX, &t->ca_file) || !path_ok(at, "ca_file", t->ca_file) ||
	    !target_duration(at, o, "timeout", TIMEOUT_MIN_US, TIMEOUT_MAX_US, &t->timeout_us) ||
	    !target_duration(at, o, "connect_timeout", TIMEOUT_MIN_US, TIMEOUT_MAX_US, &t->connect_timeout_us) ||
	    !read_credential(at, o, t))
		return false;
	find_host(t);
	return true;
}
