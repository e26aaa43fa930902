/* pinger.targets: the list, and what every target has. */
#include <stdio.h>
#include <stdlib.h>

#include "target-private.h"

#define FIELDS_TEXT                                                                                                    \
	"name, url, method, headers, body, unix_socket, ca_file, identity_token, bearer_file, timeout, "               \
	"connect_timeout, interval, min_interval, max_interval, jitter, schedule, zone, expect, expect_body, "         \
	"tls_warning, cold_after, cost_per_million_requests, cost_per_second"

static bool read_name(struct target_place *at, const json_t *v, struct target *t)
{
	const char *text = json_string_value(v);
	if (!text || !*text || strlen(text) > TARGET_NAME_MAX)
		return target_refuse(at, "name must be a text of 1 to %d bytes", TARGET_NAME_MAX);
	for (const char *p = text; *p; p++)
		if ((unsigned char)*p < 0x20 || *p == '"' || *p == '\\')
			return target_refuse(at, "name must not hold control characters, quotes or "
						 "backslashes");
	t->name = util_strndup(text, strlen(text));
	at->name = t->name;
	return true;
}

static bool known_fields(const struct target_place *at, json_t *o)
{
	const char *key, *p;
	json_t *value;
	json_object_foreach (o, key, value) {
		size_t n = strlen(key);
		for (p = strchr(key, ',') ? NULL : FIELDS_TEXT; p; p = strchr(p, ',') ? strchr(p, ',') + 2 : NULL)
			if (strncmp(p, key, n) == 0 && (p[n] == ',' || !p[n]))
				break;
		if (!p)
			return target_refuse(at, "unknown field \"%.64s\"; there are %s", key, FIELDS_TEXT);
	}
	return true;
}

/* What was learnt holds as long as the same is asked. */
static void sign(struct target *t)
{
	struct buf b = {0};
	buf_printf(&b, "%s %s %s %s", t->method, t->url, t->socket ? t->socket : "", t->body ? t->body : "");
	t->what = plant_host_key((struct span){b.p, b.len});
	buf_free(&b);
}

static bool read_target(struct target_place *at, json_t *o, struct target *t)
{
	if (!json_is_object(o))
		return target_refuse(at, "must be an object such as {\"name\": \"a\", \"url\": "
					 "\"https://example.org/\", \"interval\": \"5 min\"}");
	if (!read_name(at, json_object_get(o, "name"), t) || !known_fields(at, o) || !target_request(at, o, t) ||
	    !target_answer(at, o, t) || !target_rules(at, o, t))
		return false;
	sign(t);
	t->text = json_dumps(o, JSON_SORT_KEYS | JSON_COMPACT);
	AN(t->text);
	return true;
}

static bool read_list(const json_t *list, struct target_list *l, char **error_r)
{
	size_t i;
	json_t *o;
	json_array_foreach (list, i, o) {
		struct target_place at = {.index = i, .error_r = error_r};
		struct target *t = &l->v[l->n++];
		if (!read_target(&at, o, t))
			return false;
		for (size_t k = 0; k < i; k++)
			if (strcmp(l->v[k].name, t->name) == 0)
				return target_refuse(&at, "there are two targets of this name");
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
		if (!list)
			(void)util_error(error_r, "pinger.targets: no JSON: %s at byte %d", e.text, e.position);
		else if (n > TARGETS_MAX)
			(void)util_error(error_r, "pinger.targets: %zu targets; at most %d", n, TARGETS_MAX);
		else
			(void)util_error(error_r, "pinger.targets: must be a JSON list of targets");
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

static void free_one(struct target *t)
{
	char *const texts[] = {t->name,	   t->url,	t->method,	t->body,	t->socket,
			       t->ca_file, t->audience, t->bearer_file, t->expect_body, t->text};
	for (size_t i = 0; i < ARRAY_LEN(texts); i++)
		free(texts[i]);
	for (size_t i = 0; i < t->nheaders; i++)
		free(t->headers[i]);
	zone_free(&t->zone);
}

void target_free(struct target_list **lp)
{
	struct target_list *l = *lp;
	*lp = NULL;
	if (!l)
		return;
	for (size_t i = 0; i < l->n; i++)
		free_one(&l->v[i]);
	free(l->v);
	free(l);
}

bool target_equal(const struct target *a, const struct target *b) { return strcmp(a->text, b->text) == 0; }
