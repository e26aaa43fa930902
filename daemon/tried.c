#define LOG_SUBSYSTEM LOG_IN_CONF
#include "tried.h"

#include <stdio.h>
#include <stdlib.h>

#include "auditor.h"
#include "clock.h"
#include "fault.h"
#include "log.h"
#include "upgrade.h"

#define AGAIN_S 1 /* between looks whether a value whose time is over can be put back */
#define STUCK_S 5 /* after a worker would not take it back */

/* ---- sets ---- */

struct tried *tried_new(void) { return util_zalloc(sizeof(struct tried)); }

void tried_free(struct tried **tp)
{
	struct tried *t = *tp;
	if (!t)
		return;
	for (int k = 0; k < CONF_KEY_COUNT; k++)
		free(t->v[k].text);
	conf_free(&t->base);
	free(t);
	*tp = NULL;
}

static const struct conf *base_of(const struct supervisor *sv) { return sv->tried->base ? sv->tried->base : sv->conf; }

static void put(struct tried *t, enum conf_key k, const struct tried_value *v)
{
	t->n += !t->v[k].text;
	free(t->v[k].text);
	t->v[k] = *v;
	t->v[k].text = util_strndup(v->text, strlen(v->text));
}

static void take_out(struct tried *t, enum conf_key k)
{
	t->n -= t->v[k].text != NULL;
	free(t->v[k].text);
	t->v[k] = (struct tried_value){.text = NULL};
}

static struct tried *copy_over(const struct tried *t, const struct conf *base)
{
	struct tried *copy = tried_new();
	for (int k = 0; k < CONF_KEY_COUNT; k++)
		if (t->v[k].text)
			put(copy, (enum conf_key)k, &t->v[k]);
	copy->base = conf_copy(base);
	return copy;
}

/* Base and tried values as one configuration. NULL: *error_r. */
static struct conf *over_base(const struct tried *t, char **error_r)
{
	struct conf *c = conf_copy(t->base);
	bool ok = true;
	for (int k = 0; k < CONF_KEY_COUNT && ok; k++)
		if (t->v[k].text)
			ok = conf_try(c, (enum conf_key)k, SPAN(t->v[k].text), error_r);
	if (!ok || (t->n && !conf_try_whole(c, error_r)))
		conf_free(&c);
	return c;
}

/* ---- what a request asks for ---- */

struct asking {
	struct supervisor *sv;
	struct tried *t;
	const char *who;
	int64_t until_us;
	const char *type;
	char **error_r;
};

static bool refuse(struct asking *a, const char *type, const char *fmt, ...) printf_like(3, 4);
static bool refuse(struct asking *a, const char *type, const char *fmt, ...)
{
	va_list ap;
	a->type = type;
	va_start(ap, fmt);
	if (vasprintf(a->error_r, fmt, ap) == -1)
		*a->error_r = NULL;
	va_end(ap);
	return false;
}

static bool find_key(struct asking *a, const char *key, enum conf_key *k_r)
{
	int k = conf_find(key, strlen(key));
	const char *near = k < 0 ? conf_near(key, strlen(key)) : NULL;
	*k_r = (enum conf_key)k;
	return k >= 0 || refuse(a, "unknown", "there is no key %.80s%s%s%s", key, near ? "; did you mean " : "",
				near ? near : "; orchestractl config list shows all", near ? "?" : "");
}

static bool may_try(struct asking *a, enum conf_key k)
{
	const char *name = conf_key_name(k), *source = conf_source(a->t->base, k);
	bool env = strncmp(source, "env ", 4) == 0;
	if (conf_is_fixed(a->t->base, k))
		return refuse(
			a, "fixed",
			"%s is fixed by %s%s, which wins over what is tried and over the file; take it out there and "
			"restart the daemon",
			name,
			env			      ? "the environment: "
			: strcmp(source, "flag") == 0 ? "the flag --set"
						      : "a credential of that name",
			env ? source + 4 : "");
	if (!conf_is_reloadable(k))
		return refuse(
			a, "needs-restart",
			"%s cannot change in a running daemon; write it into the file and restart (orchestractl drain, "
			"then start)",
			name);
	if (conf_is_secret(a->t->base, k)) /* it would have to be kept, shown and handed on like other values */
		return refuse(a, "fixed",
			      "%s is a secret, which is not tried; write it into the file, or a credential, and reload",
			      name);
	return true;
}

/* Strings as in --set; numbers, booleans and lists as they are written in JSON. */
static char *value_text(const json_t *v)
{
	if (json_is_string(v))
		return util_strndup(json_string_value(v), json_string_length(v));
	return json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY | JSON_REAL_PRECISION(15));
}

static bool take_value(struct asking *a, enum conf_key k, const char *given)
{
	struct conf *c = conf_copy(a->t->base);
	bool ok = strlen(given) <= TRIED_VALUE_MAX ||
		  refuse(a, "too-large",
			 "%s: is longer than the %d bytes that can be tried; write it into the file and reload",
			 conf_key_name(k), TRIED_VALUE_MAX);
	a->type = ok ? "invalid" : a->type;
	ok = ok && conf_try(c, k, SPAN(given), a->error_r);
	if (ok) {
		struct tried_value v = {.text = (char *)(uintptr_t)conf_str(c, k),
					.since_real_us = clock_real_us(),
					.until_us = a->until_us};
		snprintf(v.who, sizeof(v.who), "%s", a->who);
		put(a->t, k, &v);
	}
	conf_free(&c);
	return ok;
}

static bool take_values(struct asking *a, const json_t *set)
{
	const char *key;
	json_t *v;
	bool ok = true;
	json_object_foreach ((json_t *)(uintptr_t)set, key, v) {
		enum conf_key k;
		char *text = value_text(v);
		ok = ok && (text || refuse(a, "invalid", "%.80s: is no value", key));
		ok = ok && find_key(a, key, &k) && may_try(a, k) && take_value(a, k, text);
		free(text);
	}
	return ok;
}

static bool take_unset(struct asking *a, const json_t *unset)
{
	json_t *v;
	size_t i;
	enum conf_key k;
	for (int each = 0; json_is_true(unset) && each < CONF_KEY_COUNT; each++)
		take_out(a->t, (enum conf_key)each);
	json_array_foreach ((json_t *)(uintptr_t)unset, i, v) {
		const char *key = json_string_value(v);
		if (!find_key(a, key ? key : "", &k))
			return false;
		if (!a->t->v[k].text)
			return refuse(a, "not-tried", "%s is not being tried; its value comes from: %s", key,
				      conf_source(a->t->base, k));
		take_out(a->t, k);
	}
	return true;
}

static bool small_enough(struct asking *a)
{
	size_t total = 0;
	for (int k = 0; k < CONF_KEY_COUNT; k++)
		total += a->t->v[k].text ? strlen(a->t->v[k].text) : 0;
	return total <= TRIED_TOTAL_MAX ||
	       refuse(a, "too-large",
		      "all tried values together are longer than %d bytes; save some of them first "
		      "(orchestractl config save)",
		      TRIED_TOTAL_MAX);
}

struct conf *tried_propose(struct supervisor *sv, const json_t *request, const char *who, struct tried **t_r,
			   const char **type_r, char **error_r)
{
	json_int_t for_ms = json_integer_value(json_object_get(request, "for_ms"));
	struct asking a = {.sv = sv,
			   .t = copy_over(sv->tried, base_of(sv)),
			   .who = who,
			   .until_us = for_ms ? clock_mono_us() + for_ms * 1000 : 0,
			   .error_r = error_r};
	struct conf *next = NULL;
	bool ok = (for_ms >= 0 && for_ms <= TRIED_FOR_MAX_MS) ||
		  refuse(&a, "invalid", "for: must be from 1 ms to 30 d, or be left out");
	ok = ok && take_unset(&a, json_object_get(request, "unset")) &&
	     take_values(&a, json_object_get(request, "set")) && small_enough(&a);
	if (ok) {
		a.type = "invalid";
		next = over_base(a.t, error_r);
	}
	*type_r = a.type;
	if (next)
		*t_r = a.t;
	else
		tried_free(&a.t);
	return next;
}

/* ---- what time and files bring ---- */

static bool is_due(const struct tried_value *v, int64_t now_us)
{
	return v->text && v->until_us && v->until_us <= now_us;
}

bool tried_due(const struct supervisor *sv, int64_t now_us)
{
	for (int k = 0; k < CONF_KEY_COUNT; k++)
		if (is_due(&sv->tried->v[k], now_us))
			return true;
	return false;
}

struct conf *tried_expire(struct supervisor *sv, struct tried **t_r, char **error_r)
{
	int64_t now = clock_mono_us();
	struct tried *t = copy_over(sv->tried, base_of(sv));
	for (int k = 0; k < CONF_KEY_COUNT; k++)
		if (is_due(&t->v[k], now))
			take_out(t, (enum conf_key)k);
	struct conf *next = over_base(t, error_r);
	if (next)
		*t_r = t;
	else
		tried_free(&t);
	return next;
}

struct conf *tried_drop(struct supervisor *sv, struct tried **t_r)
{
	struct tried *t = tried_new();
	t->base = conf_copy(base_of(sv));
	*t_r = t;
	return conf_copy(t->base);
}

/* What the file, or whatever fixes the key, says by itself. */
static void leave_out_settled(struct tried *t)
{
	for (int k = 0; k < CONF_KEY_COUNT; k++) {
		const char *name = conf_key_name((enum conf_key)k);
		if (!t->v[k].text)
			continue;
		bool same = strcmp(t->v[k].text, conf_str(t->base, (enum conf_key)k)) == 0;
		bool fixed = conf_is_fixed(t->base, (enum conf_key)k) || !conf_is_reloadable((enum conf_key)k);
		if (same)
			log_info("%s is not tried any more: it has this value without (%s)", name,
				 conf_source(t->base, (enum conf_key)k));
		else if (fixed)
			log_warn("%s is not tried any more: it is fixed now (%s)", name,
				 conf_source(t->base, (enum conf_key)k));
		if (same || fixed)
			take_out(t, (enum conf_key)k);
	}
}

struct conf *tried_rebase(struct supervisor *sv, struct conf *loaded, struct tried **t_r, char **error_r)
{
	struct tried *t = copy_over(sv->tried, loaded);
	char *why = NULL;
	conf_carry(t->base, sv->conf);
	leave_out_settled(t);
	struct conf *next = loaded;
	if (t->n) {
		conf_free(&loaded);
		next = over_base(t, &why);
	}
	if (next) {
		*t_r = t;
		return next;
	}
	(void)util_error(error_r, "%s (with what is tried; orchestractl unset takes it back)",
			 why ? why : "the values do not fit");
	free(why);
	tried_free(&t);
	return NULL;
}

json_t *tried_settled(const struct supervisor *sv, const struct tried *t)
{
	json_t *list = json_array();
	for (int k = 0; k < CONF_KEY_COUNT; k++)
		if (sv->tried->v[k].text && !t->v[k].text)
			json_array_append_new(list, json_string(conf_key_name((enum conf_key)k)));
	return list;
}

/* ---- in force ---- */

static void arm(struct supervisor *sv, int64_t us)
{
	struct timeval tv = {us / 1000000, us % 1000000};
	evtimer_add(sv->tried_timer, &tv);
}

static void arm_next(struct supervisor *sv)
{
	int64_t first = 0, now = clock_mono_us();
	for (int k = 0; k < CONF_KEY_COUNT; k++) {
		const struct tried_value *v = &sv->tried->v[k];
		if (v->text && v->until_us && (!first || v->until_us < first))
			first = v->until_us;
	}
	evtimer_del(sv->tried_timer);
	if (first)
		arm(sv, first > now ? first - now : 0);
}

void tried_commit(struct supervisor *sv, struct tried **t)
{
	tried_free(&sv->tried);
	sv->tried = *t;
	*t = NULL;
	if (!sv->tried->n)
		conf_free(&sv->tried->base);
	arm_next(sv);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct supervisor *sv = arg;
	(void)fd, (void)what;
	if (sv->state == SUPERVISOR_DRAINING)
		return;
	if (!tried_due(sv, clock_mono_us())) {
		arm_next(sv);
	} else if (reload_active(sv) || upgrade_active(sv)) {
		arm(sv, AGAIN_S * INT64_C(1000000));
	} else {
		FAULT_POINT(tried_reverting);
		reload_change(sv, NULL, NULL);
	}
}

void tried_stuck(struct supervisor *sv) { arm(sv, STUCK_S * INT64_C(1000000)); }

/* ---- for people, and for another image ---- */

json_t *tried_json(const struct supervisor *sv)
{
	json_t *list = json_array();
	int64_t now = clock_mono_us();
	for (int i = 0; i < CONF_KEY_COUNT; i++) {
		enum conf_key k = (enum conf_key)i;
		const struct tried_value *v = &sv->tried->v[i];
		char since[CLOCK_TEXT];
		if (!v->text)
			continue;
		bool secret = conf_is_secret(sv->conf, k) || conf_is_secret(base_of(sv), k);
		clock_format(v->since_real_us, since);
		json_t *o = json_pack("{s:s s:o s:o s:s s:s% s:s}", "key", conf_key_name(k), "value",
				      secret ? json_string("(secret)") : auditor_text(v->text), "base",
				      secret ? json_string("(secret)") : auditor_text(conf_str(base_of(sv), k)),
				      "base_source", conf_source(base_of(sv), k), "since", since, sizeof(since), "who",
				      v->who);
		if (o && v->until_us)
			json_object_set_new(o, "left_ms",
					    json_integer(v->until_us > now ? (v->until_us - now) / 1000 : 0));
		json_array_append_new(list, o);
	}
	return list;
}

json_t *tried_handover(const struct supervisor *sv)
{
	json_t *list = json_array();
	for (int i = 0; i < CONF_KEY_COUNT; i++) {
		const struct tried_value *v = &sv->tried->v[i];
		if (v->text)
			json_array_append_new(list, json_pack("{s:s s:s s:s s:s s:I s:I s:s}", "key",
							      conf_key_name((enum conf_key)i), "value", v->text, "base",
							      conf_str(base_of(sv), (enum conf_key)i), "base_source",
							      conf_source(base_of(sv), (enum conf_key)i), "since_us",
							      (json_int_t)v->since_real_us, "until_us",
							      (json_int_t)v->until_us, "who", v->who));
	}
	return list;
}

static void adopt_value(struct supervisor *sv, struct tried *t, json_t *o)
{
	const char *key = json_string_value(json_object_get(o, "key")),
		   *text = json_string_value(json_object_get(o, "value")),
		   *base = json_string_value(json_object_get(o, "base")),
		   *source = json_string_value(json_object_get(o, "base_source")),
		   *who = json_string_value(json_object_get(o, "who"));
	int k = key ? conf_find(key, strlen(key)) : -1;
	char *why = NULL;
	if (k < 0 || !text || !base || !source || !conf_is_reloadable((enum conf_key)k)) {
		log_warn("%.80s is not tried any more: this program has no such key, or cannot change it",
			 key ? key : "?");
		return;
	}
	struct tried_value v = {.text = (char *)(uintptr_t)text,
				.since_real_us = json_integer_value(json_object_get(o, "since_us")),
				.until_us = json_integer_value(json_object_get(o, "until_us"))};
	snprintf(v.who, sizeof(v.who), "%s", who ? who : "");
	if (!conf_put(t->base, (enum conf_key)k, SPAN(base), source, &why))
		log_warn("%s", why ? why : "a value is refused");
	free(why);
	put(t, (enum conf_key)k, &v);
	(void)sv;
}

void tried_adopt(struct supervisor *sv, const json_t *list)
{
	json_t *o;
	size_t i;
	struct tried *t = tried_new();
	t->base = conf_copy(sv->conf);
	json_array_foreach ((json_t *)(uintptr_t)list, i, o)
		adopt_value(sv, t, o);
	tried_commit(sv, &t);
}

struct conf *tried_over_next(struct supervisor *sv, struct conf *next)
{
	struct tried *t = NULL;
	char *why = NULL;
	struct conf *copy = conf_copy(next), *with = sv->tried->n ? tried_rebase(sv, copy, &t, &why) : NULL;
	if (!sv->tried->n)
		conf_free(&copy);
	if (with) {
		tried_commit(sv, &t);
		conf_free(&next);
		return with;
	}
	if (sv->tried->n) {
		log_warn("nothing is tried any more: %s", why ? why : "the values do not fit");
		t = tried_new();
		tried_commit(sv, &t);
	}
	free(why);
	return next;
}

void tried_begin(struct supervisor *sv)
{
	sv->tried = tried_new();
	sv->tried_timer = evtimer_new(sv->base, on_timer, sv);
	AN(sv->tried_timer);
}

void tried_end(struct supervisor *sv)
{
	event_free(sv->tried_timer);
	tried_free(&sv->tried);
}
