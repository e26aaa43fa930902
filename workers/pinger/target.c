/* pinger.targets: what is kept warm, parsed and checked. */
#include <ctype.h>
#include <errno.h>
#include <jansson.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "target.h"

#define INTERVAL_MIN_US 100000ll
#define INTERVAL_MAX_US (24 * 3600 * 1000000ll)
#define TIMEOUT_MIN_US 10000ll
#define TIMEOUT_MAX_US (600 * 1000000ll)
#define TIMEOUT_DEFAULT_US 10000000ll
#define URL_MAX 2048

/* Where we are, for messages. */
struct place {
	size_t index;
	const char *name; /* NULL before it is known */
	char **error_r;
};

static bool refuse(const struct place *at, const char *fmt, ...) printf_like(2, 3);
static bool refuse(const struct place *at, const char *fmt, ...)
{
	struct buf b = {0};
	char text[512];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (at->name)
		buf_printf(&b, "pinger.targets: \"%s\": %s", at->name, text);
	else
		buf_printf(&b, "pinger.targets: target %zu: %s", at->index + 1, text);
	buf_addc(&b, '\0');
	free(*at->error_r);
	*at->error_r = b.p;
	return false;
}

/* "500 ms", "30 s", "5 min", "1 h". False: none of these. */
static bool parse_duration(const char *text, int64_t *us_r)
{
	static const struct {
		const char *unit;
		int64_t us;
	} units[] = {{"ms", 1000}, {"s", 1000000}, {"m", 60000000}, {"min", 60000000}, {"h", 3600000000ll}};
	char *end;
	errno = 0;
	double number = strtod(text, &end);
	if (end == text || errno || !(number >= 0 && number < 1e9))
		return false;
	while (*end == ' ')
		end++;
	for (size_t i = 0; i < ARRAY_LEN(units); i++) {
		if (strcmp(end, units[i].unit) != 0)
			continue;
		*us_r = (int64_t)(number * (double)units[i].us);
		return true;
	}
	return false;
}

static bool read_duration(const struct place *at, const char *field, const json_t *v, int64_t min, int64_t max,
			  int64_t *us_r)
{
	const char *text = json_string_value(v);
	if (!text || !parse_duration(text, us_r))
		return refuse(at, "%s must be a duration with a unit, such as \"30 s\" or \"500 ms\"", field);
	if (*us_r < min || *us_r > max)
		return refuse(at, "%s = \"%s\" must lie between %lld ms and %lld s", field, text, (long long)min / 1000,
			      (long long)max / 1000000);
	return true;
}

static bool read_name(struct place *at, const json_t *v, struct target *t)
{
	const char *text = json_string_value(v);
	if (!text || !*text || strlen(text) > TARGET_NAME_MAX)
		return refuse(at, "name must be a text of 1 to %d bytes", TARGET_NAME_MAX);
	for (const char *p = text; *p; p++)
		if ((unsigned char)*p < 0x20 || *p == '"' || *p == '\\')
			return refuse(at, "name must not hold control characters, quotes or "
					  "backslashes");
	t->name = util_strndup(text, strlen(text));
	at->name = t->name;
	return true;
}

static bool read_url(const struct place *at, const json_t *v, struct target *t)
{
	const char *url = json_string_value(v), *host = NULL;
	if (url && strncasecmp(url, "http://", 7) == 0)
		host = url + 7;
	else if (url && strncasecmp(url, "https://", 8) == 0)
		host = url + 8;
	if (!host || !*host || *host == '/' || *host == '?' || *host == '#')
		return refuse(at, "url must be http://host… or https://host…");
	if (strlen(url) > URL_MAX)
		return refuse(at, "url is longer than %d bytes", URL_MAX);
	for (const char *p = url; *p; p++)
		if ((unsigned char)*p <= 0x20 || *p == 0x7f)
			return refuse(at, "url must not hold blanks or control characters; write "
					  "%%20 for a blank");
	t->url = util_strndup(url, strlen(url));
	return true;
}

static bool read_method(const struct place *at, const json_t *v, struct target *t)
{
	static const char *const methods[] = {"GET", "HEAD", "POST", "OPTIONS"};
	const char *text = v ? json_string_value(v) : "GET";
	for (size_t i = 0; text && i < ARRAY_LEN(methods); i++) {
		if (strcmp(text, methods[i]) == 0) {
			t->method = util_strndup(text, strlen(text));
			return true;
		}
	}
	return refuse(at, "method must be GET, HEAD, POST or OPTIONS");
}

static bool read_status(const struct place *at, const json_t *v, struct target *t)
{
	json_int_t status = json_integer_value(v);
	if (!json_is_integer(v) || status < 100 || status > 599)
		return refuse(at, "expect must be a status from 100 to 599, or a list of them");
	if (t->nexpect == TARGET_EXPECT_MAX)
		return refuse(at, "expect has more than %d statuses", TARGET_EXPECT_MAX);
	t->expect[t->nexpect++] = (int)status;
	return true;
}

static bool read_expect(const struct place *at, const json_t *v, struct target *t)
{
	size_t i;
	json_t *item;
	if (!v)
		return true;
	if (!json_is_array(v))
		return read_status(at, v, t);
	if (json_array_size(v) == 0)
		return refuse(at, "expect must not be empty; leave it out to accept 200 to 399");
	json_array_foreach (v, i, item) {
		if (!read_status(at, item, t))
			return false;
	}
	return true;
}

static bool known_fields(const struct place *at, json_t *o)
{
	static const char *const fields[] = {"name", "url", "interval", "timeout", "method", "expect"};
	const char *key;
	json_t *value;
	json_object_foreach (o, key, value) {
		size_t i = 0;
		while (i < ARRAY_LEN(fields) && strcmp(fields[i], key) != 0)
			i++;
		if (i == ARRAY_LEN(fields))
			return refuse(at,
				      "unknown field \"%.64s\"; there are name, url, interval, "
				      "timeout, method, expect",
				      key);
	}
	return true;
}

static bool read_target(struct place *at, json_t *o, struct target *t)
{
	if (!json_is_object(o))
		return refuse(at, "must be an object such as {\"name\": \"a\", \"url\": "
				  "\"https://example.org/\", \"interval\": \"5 min\"}");
	const json_t *timeout = json_object_get(o, "timeout");
	t->timeout_us = TIMEOUT_DEFAULT_US;
	return read_name(at, json_object_get(o, "name"), t) && known_fields(at, o) &&
	       read_url(at, json_object_get(o, "url"), t) &&
	       read_duration(at, "interval", json_object_get(o, "interval"), INTERVAL_MIN_US, INTERVAL_MAX_US,
			     &t->interval_us) &&
	       (!timeout || read_duration(at, "timeout", timeout, TIMEOUT_MIN_US, TIMEOUT_MAX_US, &t->timeout_us)) &&
	       read_method(at, json_object_get(o, "method"), t) && read_expect(at, json_object_get(o, "expect"), t);
}

static bool read_list(const json_t *list, struct target_list *l, char **error_r)
{
	size_t i;
	json_t *o;
	json_array_foreach (list, i, o) {
		struct place at = {.index = i, .error_r = error_r};
		struct target *t = &l->v[l->n++];
		if (!read_target(&at, o, t))
			return false;
		for (size_t k = 0; k < i; k++)
			if (strcmp(l->v[k].name, t->name) == 0)
				return refuse(&at, "there are two targets of this name");
	}
	return true;
}

struct target_list *target_parse(const char *json, char **error_r)
{
	json_error_t e;
	json_t *list = json_loads(*json ? json : "[]", JSON_REJECT_DUPLICATES, &e);
	size_t n = list ? json_array_size(list) : 0;
	*error_r = NULL;
	if (!list || !json_is_array(list) || n > TARGETS_MAX) {
		struct buf b = {0};
		if (!list)
			buf_printf(&b, "pinger.targets: no JSON: %s at byte %d", e.text, e.position);
		else if (n > TARGETS_MAX)
			buf_printf(&b, "pinger.targets: %zu targets; at most %d", n, TARGETS_MAX);
		else
			buf_adds(&b, "pinger.targets: must be a JSON list of targets");
		buf_addc(&b, '\0');
		*error_r = b.p;
		json_decref(list);
		return NULL;
	}
	struct target_list *l = util_zalloc(sizeof(*l));
	l->v = util_zalloc((n ? n : 1) * sizeof(*l->v));
	if (!read_list(list, l, error_r))
		target_free(&l);
	json_decref(list);
	return l;
}

void target_free(struct target_list **lp)
{
	struct target_list *l = *lp;
	*lp = NULL;
	if (!l)
		return;
	for (size_t i = 0; i < l->n; i++) {
		free(l->v[i].name);
		free(l->v[i].url);
		free(l->v[i].method);
	}
	free(l->v);
	free(l);
}

bool target_equal(const struct target *a, const struct target *b)
{
	return strcmp(a->name, b->name) == 0 && strcmp(a->url, b->url) == 0 && strcmp(a->method, b->method) == 0 &&
	       a->interval_us == b->interval_us && a->timeout_us == b->timeout_us && a->nexpect == b->nexpect &&
	       memcmp(a->expect, b->expect, sizeof(a->expect)) == 0;
}

bool target_expected(const struct target *t, long status)
{
	for (size_t i = 0; i < t->nexpect; i++)
		if (t->expect[i] == status)
			return true;
	return t->nexpect == 0 && status >= 200 && status <= 399;
}
