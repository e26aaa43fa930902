/* /v1/admin/config: what is in force, where it comes from, and trying something else. */
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdio.h>
#include <stdlib.h>

#include "draft.h"
#include "handlers.h"

#define FINGERPRINT_KEY_MIN 32 /* hexadecimal digits */
#define FINGERPRINT_KEY_MAX 128
#define REASON_MAX 200

/* ---- GET ---- */

static const char *type_name(enum conf_type t)
{
	static const char *const names[] = {"string", "integer", "boolean", "size", "duration", "enum", "list"};
	return names[t];
}

/* Two daemons can be compared in what none of them tells: a hash under a key that whoever compares has drawn. */
static json_t *fingerprint(const char *key, const char *value)
{
	unsigned char raw[EVP_MAX_MD_SIZE];
	unsigned len = 0;
	char hex[2 * EVP_MAX_MD_SIZE + 1];
	if (!HMAC(EVP_sha256(), key, (int)strlen(key), (const unsigned char *)value, strlen(value), raw, &len))
		return json_null();
	for (unsigned i = 0; i < len; i++)
		snprintf(hex + (size_t)2 * i, 3, "%02x", raw[i]);
	return json_string(hex);
}

static json_t *tried_of(json_t *tried, const char *key)
{
	json_t *o;
	size_t i;
	json_array_foreach (tried, i, o) {
		const char *name = json_string_value(json_object_get(o, "key"));
		if (name && strcmp(name, key) == 0)
			return o;
	}
	return NULL;
}

static json_t *one_key(const struct conf *conf, enum conf_key k, json_t *tried, const char *fingerprint_key)
{
	const char *value = conf_str(conf, k);
	bool secret = conf_is_secret(conf, k);
	json_t *now = tried_of(tried, conf_key_name(k));
	struct buf range = {0};
	conf_range(k, &range);
	json_t *o = json_pack("{s:s s:o s:s s:s s:s s:b s:b s:s% s:s s:b}", "key", conf_key_name(k), "value",
			      secret ? json_null() : json_string(value), "source", conf_source(conf, k), "default",
			      conf_default(k), "type", type_name(conf_type(k)), "reloadable", conf_is_reloadable(k),
			      "fixed", conf_is_fixed(conf, k), "range", range.p, range.len, "text", conf_help(k),
			      "secret", secret);
	buf_free(&range);
	if (!o)
		return NULL;
	if (secret)
		json_object_set_new(o, "set", json_boolean(*value));
	if (secret && fingerprint_key)
		json_object_set_new(o, "fingerprint", fingerprint(fingerprint_key, value));
	if (now)
		json_object_set(o, "tried", now);
	return o;
}

static void list_known(void *arg, int status, struct span json)
{
	struct call *c = arg;
	json_t *said = status ? NULL : json_loadb(json.p, json.len, 0, NULL), *tried = json_object_get(said, "tried");
	json_t *all = json_array(), *file = json_object_get(said, "file");
	const char *key = c->state;
	for (int k = 0; k < CONF_KEY_COUNT; k++) {
		json_t *o = one_key(c->api->w->conf, (enum conf_key)k, tried, key);
		if (o)
			json_array_append_new(all, o);
	}
	json_t *o = json_pack("{s:o s:O? s:O?}", "keys", all, "tried", tried, "file", file);
	char *text = o ? json_dumps(o, JSON_COMPACT | JSON_REAL_PRECISION(15)) : NULL;
	AN(text);
	buf_adds(&c->reply.body, text);
	free(text);
	json_decref(o);
	json_decref(said);
	c->reply.status = 200;
	call_reply(c);
}

static bool take_fingerprint_key(struct call *c)
{
	char *key = NULL;
	size_t len = 0;
	if (http_query_get(c->req, "fingerprint_key", &key, &len) != 1)
		return true;
	c->state = key;
	c->free_state = free;
	if (len >= FINGERPRINT_KEY_MIN && len <= FINGERPRINT_KEY_MAX && strspn(key, "0123456789abcdef") == len)
		return true;
	problem(c, 400, "invalid-parameter",
		"fingerprint_key: expected %d to %d hexadecimal digits (0-9, a-f), drawn at random for each comparison",
		FINGERPRINT_KEY_MIN, FINGERPRINT_KEY_MAX);
	return false;
}

void config_list(struct call *c)
{
	if (!who_is_whole(c) || !take_fingerprint_key(c))
		call_reply(c);
	else
		who_relay(c, "tried", list_known);
}

/* ---- PATCH ---- */

static const struct {
	const char *type, *problem;
	int status;
} refusals[] = {
	{"invalid", "invalid-config", 400},	 {"unknown", "unknown-key", 400}, {"too-large", "invalid-config", 400},
	{"needs-restart", "needs-restart", 409}, {"fixed", "key-fixed", 409},	  {"not-tried", "not-tried", 409},
	{"refused", "change-refused", 409},	 {"busy", "busy", 503},
};

static void patched(void *arg, int status, struct span json)
{
	struct call *c = arg;
	json_t *o = status ? json_loadb(json.p, json.len, 0, NULL) : NULL;
	const char *type = json_string_value(json_object_get(o, "type")),
		   *why = json_string_value(json_object_get(o, "error")),
		   *noted = json_string_value(json_object_get(o, "audit"));
	size_t i = 0;
	while (type && i < ARRAY_LEN(refusals) && strcmp(refusals[i].type, type) != 0)
		i++;
	if (!status) {
		c->reply.status = 200;
		buf_add(&c->reply.body, json.p, json.len);
	} else if (type && i < ARRAY_LEN(refusals)) {
		problem(c, refusals[i].status, refusals[i].problem, "%s", why ? why : "it is refused");
	} else {
		problem(c, 503, "change-refused", "%s", why ? why : "the supervisor refuses");
	}
	if (status && noted)
		buf_printf(&c->reply.head, "Orchestra-Audit: %s\r\n", noted);
	json_decref(o);
	call_reply(c);
}

static bool bad(struct call *c, const char *key, const char *why)
{
	problem(c, 400, "invalid-field", "%s: %s", key, why);
	return false;
}

static bool take_for(struct call *c, json_t *request, const json_t *v)
{
	int64_t us;
	const char *text = json_string_value(v);
	if (!text || !conf_duration(SPAN(text), &us) || us < 1000 || us > INT64_C(30) * 86400 * 1000000)
		return bad(c, "for", "expected how long to try it, from \"1 ms\" to \"30 d\", such as \"10 min\"");
	json_object_set_new(request, "for_ms", json_integer(us / 1000));
	return true;
}

static bool take_action(struct call *c, json_t *request, json_t *v)
{
	static const char *const actions[] = {"set", "unset", "apply", "save", "tune"};
	for (size_t i = 0; i < ARRAY_LEN(actions); i++)
		if (json_is_string(v) && strcmp(json_string_value(v), actions[i]) == 0) {
			json_object_set(request, "action", v);
			return true;
		}
	return bad(c, "action", "expected set, unset, apply, save or tune: what the audit log is to call it");
}

static bool take_field(struct call *c, json_t *request, const char *key, json_t *v)
{
	if (strcmp(key, "set") == 0) {
		if (!json_is_object(v))
			return bad(c, key, "expected an object of keys and values");
	} else if (strcmp(key, "unset") == 0) {
		if (!json_is_array(v) && !json_is_true(v))
			return bad(c, key, "expected a list of keys, or true for all that are tried");
	} else if (strcmp(key, "for") == 0) {
		return take_for(c, request, v);
	} else if (strcmp(key, "action") == 0) {
		return take_action(c, request, v);
	} else if (strcmp(key, "reason") == 0 || strcmp(key, "file") == 0) {
		if (!json_is_string(v) || json_string_length(v) > (*key == 'f' ? 4096 : REASON_MAX))
			return bad(c, key,
				   *key == 'f' ? "expected the path of what was saved"
					       : "expected a text of at most 200 bytes");
	} else {
		return bad(c, key, "is unknown; there are set, unset, for, action, reason and file");
	}
	json_object_set(request, key, v);
	return true;
}

static bool build(struct call *c, const json_t *body, struct buf *line)
{
	json_t *request = json_object(), *v;
	const char *key;
	bool ok = json_is_object(body) ||
		  bad(c, "body", "expected a JSON object, such as {\"set\": {\"log.level\": \"debug\"}}");
	json_object_foreach ((json_t *)(uintptr_t)body, key, v) {
		ok = ok && take_field(c, request, key, v);
	}
	const char *action = json_string_value(json_object_get(request, "action"));
	bool something = json_object_size(json_object_get(request, "set")) ||
			 json_array_size(json_object_get(request, "unset")) ||
			 json_is_true(json_object_get(request, "unset")) || (action && strcmp(action, "save") == 0);
	ok = ok && (something || bad(c, "body", "says nothing to set or unset"));
	char *text = ok ? json_dumps(request, JSON_COMPACT) : NULL;
	if (text)
		buf_printf(line, "set %s", text);
	buf_addc(line, '\0');
	free(text);
	json_decref(request);
	return ok;
}

void config_patch(struct call *c)
{
	struct body_json b = {0};
	struct buf line = {0};
	bool ok = who_is_whole(c) && body_json_parse(c, http_body(c->req), &b) && build(c, b.root, &line);
	body_json_free(&b);
	if (ok)
		who_relay(c, line.p, patched);
	else
		call_reply(c);
	buf_free(&line);
}
