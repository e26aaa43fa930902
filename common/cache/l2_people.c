/* What people ask: how Redis is, and that it forgets. */
#include <stdio.h>
#include <stdlib.h>

#include "cache/l2-private.h"
#include "clock.h"

#define CLEAR_WAIT_US 2000000
#define SCAN_COUNT "512"

/* ---- INFO ---- */

/* The value of a line "name:value"; NULL: there is none. */
static const char *line_of(const char *text, const char *name)
{
	size_t n = strlen(name);
	for (const char *p = text; p; p = strchr(p, '\n') ? strchr(p, '\n') + 1 : NULL)
		if (strncmp(p, name, n) == 0 && p[n] == ':')
			return p + n + 1;
	return NULL;
}

static uint64_t number_of(const char *text, const char *name)
{
	const char *v = line_of(text, name);
	return v ? strtoull(v, NULL, 10) : 0;
}

void l2_info_word(const char *text, const char *name, char *out, size_t cap)
{
	const char *v = line_of(text, name);
	if (v)
		snprintf(out, cap, "%.*s", (int)strcspn(v, "\r\n"), v);
	util_utf8_scrub(out, strlen(out));
}

/* "db0:keys=17,expires=17,avg_ttl=0": of all databases. */
static uint64_t keys_of(const char *text)
{
	uint64_t n = 0;
	const char *p = strstr(text, "# Keyspace");
	while (p && (p = strstr(p, ":keys=")))
		n += strtoull(p += 6, NULL, 10);
	return n;
}

static void add_info(struct l2_info *i, const char *text)
{
	i->used_memory += number_of(text, "used_memory");
	i->maxmemory += number_of(text, "maxmemory");
	i->evicted_keys += number_of(text, "evicted_keys");
	i->expired_keys += number_of(text, "expired_keys");
	i->keyspace_hits += number_of(text, "keyspace_hits");
	i->keyspace_misses += number_of(text, "keyspace_misses");
	i->keys += keys_of(text);
	l2_info_word(text, "maxmemory_policy", i->policy, sizeof(i->policy));
	l2_info_word(text, "redis_version", i->version, sizeof(i->version));
	l2_info_word(text, "redis_mode", i->mode, sizeof(i->mode));
	i->masters++;
}

bool l2_info(struct l2 *l, struct l2_info *out)
{
	struct breaker_pass pass;
	struct l2_batch *b[REDIS_NODES_MAX];
	unsigned n = redis_masters(l->redis);
	int64_t deadline = clock_mono_us() + l->answer_us;
	struct span info = SPAN_LIT("INFO");
	enum breaker_result result = BREAKER_FAILED;
	memset(out, 0, sizeof(*out));
	if (!l2_enter(l, &pass))
		return false;
	for (unsigned i = 0; i < n; i++) { /* all at once: the time is for all together */
		b[i] = l2_batch_new(1);
		l2_batch_add(b[i], -1, &info, 1);
		(void)l2_batch_send(b[i], l->redis, (int)i);
	}
	for (unsigned i = 0; i < n; i++) {
		const struct l2_item *item = &b[i]->v[0];
		if (l2_batch_wait(b[i], deadline) && l2_item_done(item)) {
			result = BREAKER_OK;
			if (item->reply->type == REPLY_STRING)
				add_info(out, item->reply->text);
		}
		l2_batch_end(&b[i]);
	}
	l2_leave(l, &pass, result, NULL);
	return out->masters > 0;
}

/* ---- forgetting ---- */

bool l2_forget(struct l2 *l, enum cache_class cls, const struct uuid *key, bool *removed_r)
{
	struct breaker_pass pass;
	char name[L2_KEY_MAX];
	*removed_r = false;
	if (!l2_enter(l, &pass))
		return false;
	size_t len = l2_key(l, cls, key, name);
	struct span words[] = {SPAN_LIT("UNLINK"), {name, len}};
	struct l2_batch *b = l2_batch_new(1);
	l2_batch_add(b, redis_is_cluster(l->redis) ? redis_slot(name, len) : -1, words, ARRAY_LEN(words));
	(void)l2_batch_send(b, l->redis, -1);
	bool in_time = l2_batch_wait(b, clock_mono_us() + l->answer_us);
	const struct l2_item *item = &b->v[0];
	bool done = in_time && item->fate == REDIS_ANSWERED;
	enum breaker_result result = done ? l2_judge(item->fate, item->reply) : BREAKER_FAILED;
	const char *why = !in_time				     ? "no answer within redis.answer_timeout"
			  : done && item->reply->type == REPLY_ERROR ? item->reply->text
								     : NULL;
	l2_leave(l, &pass, result, why);
	done = done && item->reply->type == REPLY_INTEGER;
	*removed_r = done && item->reply->integer > 0;
	l2_batch_end(&b);
	return done;
}

static bool unlink_all(struct l2 *l, unsigned master, const struct redis_reply *keys, uint64_t *removed)
{
	bool ok = true;
	for (size_t at = 0; at < keys->n && ok; at += REDIS_BATCH_MAX) {
		struct l2_batch *b = l2_batch_new(REDIS_BATCH_MAX);
		for (size_t i = at; i < keys->n && i < at + REDIS_BATCH_MAX; i++) {
			struct span words[] = {SPAN_LIT("UNLINK"), {keys->v[i].text, keys->v[i].n}};
			if (keys->v[i].type == REPLY_STRING)
				l2_batch_add(b, redis_slot(words[1].p, words[1].len), words, ARRAY_LEN(words));
		}
		ok = l2_batch_send(b, l->redis, (int)master) == b->n &&
		     l2_batch_wait(b, clock_mono_us() + CLEAR_WAIT_US);
		for (size_t i = 0; i < b->n && ok; i++) {
			const struct l2_item *item = &b->v[i];
			ok = l2_item_done(item) && item->reply->type == REPLY_INTEGER;
			*removed += ok ? (uint64_t)item->reply->integer : 0;
		}
		l2_batch_end(&b);
	}
	return ok;
}

/* One slice of a master; cursor "0" behind the last. */
static bool clear_slice(struct l2 *l, unsigned master, const char *pattern, char cursor[32], uint64_t *removed)
{
	struct l2_batch *b = l2_batch_new(1);
	struct span words[] = {SPAN_LIT("SCAN"), SPAN(cursor),	    SPAN_LIT("MATCH"),
			       SPAN(pattern),	 SPAN_LIT("COUNT"), SPAN_LIT(SCAN_COUNT)};
	l2_batch_add(b, -1, words, ARRAY_LEN(words));
	bool ok = l2_batch_send(b, l->redis, (int)master) && l2_batch_wait(b, clock_mono_us() + CLEAR_WAIT_US) &&
		  l2_item_done(&b->v[0]);
	const struct redis_reply *a = ok ? b->v[0].reply : NULL;
	ok = ok && a->type == REPLY_ARRAY && a->n == 2 && a->v[0].type == REPLY_STRING && a->v[0].n < 32 &&
	     a->v[1].type == REPLY_ARRAY;
	if (ok) {
		snprintf(cursor, 32, "%s", a->v[0].text);
		ok = unlink_all(l, master, &a->v[1], removed);
	}
	l2_batch_end(&b);
	return ok;
}

bool l2_clear(struct l2 *l, enum cache_class cls, bool (*progress)(void *arg, uint64_t removed), void *arg,
	      uint64_t *removed_r)
{
	char pattern[L2_KEY_MAX];
	struct breaker_pass pass;
	bool ok = true, go_on = true;
	struct uuid none = {{0}};
	*removed_r = 0;
	if (!l2_enter(l, &pass))
		return false;
	if (cls) {
		size_t n = l2_key(l, cls, &none, pattern);
		snprintf(pattern + n - UUID_TEXT, sizeof(pattern) - n + UUID_TEXT, "*");
	} else {
		snprintf(pattern, sizeof(pattern), "%s:-:*", l->prefix);
	}
	for (unsigned i = 0; i < redis_masters(l->redis) && ok && go_on; i++) {
		char cursor[32] = "0";
		do {
			ok = clear_slice(l, i, pattern, cursor, removed_r);
			go_on = ok && (!progress || progress(arg, *removed_r));
		} while (ok && go_on && strcmp(cursor, "0") != 0);
	}
	l2_leave(l, &pass, ok ? BREAKER_OK : BREAKER_FAILED, ok ? NULL : "clearing: a slice was not answered");
	return ok && go_on;
}
