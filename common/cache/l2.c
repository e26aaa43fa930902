/* L2's birth and death, and what its breaker is told. */
#include "cache/l2-private.h"

#include <ctype.h>
#include <stdlib.h>
#include <stdio.h>

#include "cache/l2_envelope.h"
#include "clock.h"
#include "conf.h"

#define SILENCE_FACTOR 4 /* redis.answer_timeout, until a connection is given up */
#define REPLY_MIN (1u << 20)
#define LEASE_MARGIN_US 2000000
#define MESSAGE_ROOM 1024

/* ---- the breaker ---- */

struct breaker *l2_breaker(const struct conf *c, struct breaker *breakers)
{
	struct breaker_conf how = {.failure_rate = 50,
				   .min_calls = 20,
				   .consecutive = 5,
				   .open_min_us = 200000,
				   .open_max_us = 3000000,
				   .probes = 1,
				   .lease_us = conf_int(c, CONF_REDIS_ANSWER_TIMEOUT) + LEASE_MARGIN_US};
	return breaker_take(breakers, "redis", &how);
}

bool l2_enter(struct l2 *l, struct breaker_pass *pass)
{
	return !atomic_load_explicit(&l->stopped, memory_order_acquire) &&
	       atomic_load_explicit(&l->store, memory_order_relaxed) &&
	       (!l->breaker || breaker_ask(l->breaker, clock_mono_us(), pass));
}

bool l2_is_refusal(const struct redis_reply *reply)
{
	return redis_reply_fails(reply, "NOAUTH") || redis_reply_fails(reply, "NOPERM") ||
	       redis_reply_fails(reply, "WRONGPASS");
}

/* An answer is one, whatever it says about the key; but not of a server that cannot serve now. */
enum breaker_result l2_judge(enum redis_fate fate, const struct redis_reply *reply)
{
	static const char *const away[] = {"LOADING", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY"};
	if (fate != REDIS_ANSWERED)
		return BREAKER_FAILED;
	for (size_t i = 0; i < ARRAY_LEN(away); i++)
		if (redis_reply_fails(reply, away[i]))
			return BREAKER_FAILED;
	return l2_is_refusal(reply) ? BREAKER_VOID : BREAKER_OK;
}

/* What failed because we are not let in, because too much is under way, or because nobody has tried to connect yet, is no
 * failure of Redis. */
void l2_leave(struct l2 *l, const struct breaker_pass *pass, enum breaker_result result, const char *why)
{
	char text[256];
	int64_t now = clock_mono_us();
	if (!l->breaker)
		return;
	if (atomic_load_explicit(&l->stopped, memory_order_acquire))
		result = BREAKER_VOID;
	bool refused = result == BREAKER_VOID && why, looked = result == BREAKER_FAILED && !why;
	if (looked) {
		refused = redis_error(l->redis, text, sizeof(text));
		why = text;
		if (refused || !*text || redis_ready(l->redis))
			result = BREAKER_VOID;
	}
	breaker_report(l->breaker, pass, result, why, now);
	if (refused)
		breaker_misconfigured(l->breaker, why, now);
}

/* ---- the rest ---- */

size_t l2_key(const struct l2 *l, enum cache_class cls, const struct uuid *key, char out[L2_KEY_MAX])
{
	static const char letters[CACHE_CLASSES] = {[CACHE_MEMORY] = 'm', [CACHE_SEARCH] = 's', [CACHE_VECTOR] = 'v'};
	char text[UUID_TEXT];
	uuid_format(key, text);
	int n = snprintf(out, L2_KEY_MAX, "%s:-:%c:%.*s", l->prefix, letters[cls], UUID_TEXT, text);
	return (size_t)n;
}

void l2_set_store(struct l2 *l, uint64_t identity) { atomic_store_explicit(&l->store, identity, memory_order_release); }

void l2_error(struct l2 *l, char *text, size_t cap) { (void)redis_error(l->redis, text, cap); }

struct l2 *l2_open(const struct conf *c, struct event_base *loop, struct breaker *breakers, struct stats_slot *stats,
		   const char *name, char **error_r)
{
	const char *text = conf_str(c, CONF_REDIS_URL);
	char shown[64];
	*error_r = NULL;
	if (!*text)
		return NULL;
	struct redis_url *url = redis_url_parse(text, error_r);
	if (!url)
		return NULL;
	struct l2 *l = util_zalloc(sizeof(*l));
	snprintf(l->prefix, sizeof(l->prefix), "%s", conf_str(c, CONF_REDIS_PREFIX));
	snprintf(shown, sizeof(shown), "orchestra:%s", name);
	for (char *p = shown; *p; p++)
		*p = isgraph((unsigned char)*p) ? *p : '_';
	l->stats = stats;
	l->answer_us = conf_int(c, CONF_REDIS_ANSWER_TIMEOUT);
	l->ttl_us = conf_int(c, CONF_REDIS_TTL);
	l->value_max = (size_t)conf_int(c, CONF_REDIS_VALUE_MAX);
	l->breaker = breakers ? l2_breaker(c, breakers) : NULL;
	size_t reply = l->value_max + sizeof(struct l2_head);
	struct redis_conf rc = {.loop = loop,
				.name = shown,
				.connections = {(unsigned)conf_int(c, CONF_REDIS_CONNECTIONS),
						(unsigned)conf_int(c, CONF_REDIS_NOTICE_CONNECTIONS)},
				.connect_timeout_us = conf_int(c, CONF_REDIS_CONNECT_TIMEOUT),
				.silence_us = l->answer_us * SILENCE_FACTOR,
				.in_flight = (unsigned)conf_int(c, CONF_REDIS_IN_FLIGHT),
				.reply_max = (reply > REPLY_MIN ? reply : REPLY_MIN) + MESSAGE_ROOM};
	l->redis = redis_open(&url, &rc);
	return l;
}

void l2_stop(struct l2 *l)
{
	atomic_store_explicit(&l->stopped, true, memory_order_release);
	redis_close(l->redis);
}

void l2_free(struct l2 **lp)
{
	if (!*lp)
		return;
	l2_stop(*lp);
	redis_free(&(*lp)->redis);
	free(*lp);
	*lp = NULL;
}
