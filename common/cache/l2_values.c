/* Values: asked for by a thread that waits, kept and dropped by whoever does not. */
#include <stdlib.h>
#include <stdio.h>

#include "cache/l2-private.h"
#include "cache/l2_envelope.h"
#include "cache/policy.h"
#include "clock.h"

#define CLOCK_AHEAD_US 300000000    /* a value from later than that is of a clock that is wrong */
#define NO_PUTS_US 1000000	    /* after an answer that Redis takes no writes */
#define BYTES_UNDER_WAY (32u << 20) /* of puts */

static void count(struct l2 *l, enum stat_id id, size_t n)
{
	if (n)
		stats_add_shared(l->stats, id, n);
}

/* ---- get ---- */

/* The bytes become the value's, if they are believed. */
static void take_value(struct l2 *l, const struct l2_name *name, struct redis_reply *reply, struct l2_value *out)
{
	int64_t now = clock_real_us();
	if (reply->type != REPLY_STRING) { /* WRONGTYPE, LOADING … */
		count(l, STAT_L2_ERRORS, 1);
	} else if (!reply->n) {
		count(l, STAT_L2_MISSES, 1);
	} else if (!l2_envelope_read(reply->text, reply->n, name, &out->revision, &out->meta, &out->body) ||
		   out->meta.filled_us > now + CLOCK_AHEAD_US || out->meta.flags & CACHE_NEGATIVE) {
		count(l, STAT_L2_REFUSED, 1);
	} else if (cache_age_of(&out->meta, now) == CACHE_GONE) {
		count(l, STAT_L2_MISSES, 1);
	} else {
		out->found = true;
		out->bytes = reply->text;
		reply->text = NULL;
		count(l, STAT_L2_HITS, 1);
	}
	if (!out->found)
		*out = (struct l2_value){.found = false};
}

/* GETRANGE, because it bounds what may come, whatever lies there; it answers nothing for a key that is not there. */
static struct l2_batch *ask_for(struct l2 *l, enum cache_class cls, const struct uuid *keys, size_t n)
{
	struct l2_batch *b = l2_batch_new(n);
	char key[L2_KEY_MAX], last[24];
	int digits = snprintf(last, sizeof(last), "%zu", l->value_max + sizeof(struct l2_head) - 1);
	for (size_t i = 0; i < n; i++) {
		size_t len = l2_key(l, cls, &keys[i], key);
		struct span words[] = {SPAN_LIT("GETRANGE"), {key, len}, SPAN_LIT("0"), {last, (size_t)digits}};
		l2_batch_add(b, redis_is_cluster(l->redis) ? redis_slot(key, len) : -1, words, ARRAY_LEN(words));
	}
	return b;
}

/* What a batch tells about Redis, and about the values. Returns how many were answered. */
static size_t take_batch(struct l2 *l, struct l2_batch *b, enum cache_class cls, const struct uuid *keys,
			 struct l2_value *out, enum breaker_result *result, char why[128])
{
	size_t answered = 0;
	for (size_t i = 0; i < b->n; i++) {
		struct l2_item *item = &b->v[i];
		if (!l2_item_done(item)) {
			count(l, STAT_L2_ERRORS, 1);
			continue;
		}
		struct l2_name name = {atomic_load_explicit(&l->store, memory_order_relaxed), cls, keys[i]};
		enum breaker_result r = l2_judge(item->fate, item->reply);
		if (r != BREAKER_OK) {
			*result = r;
			snprintf(why, 128, "%.120s", item->reply->text);
		}
		answered++;
		take_value(l, &name, item->reply, &out[i]);
	}
	return answered;
}

bool l2_get_many(struct l2 *l, enum cache_class cls, const struct uuid *keys, size_t n, struct l2_value *out)
{
	struct breaker_pass pass;
	int64_t began_ns = clock_mono_ns(), deadline = began_ns / 1000 + l->answer_us;
	enum breaker_result result = BREAKER_OK;
	size_t answered = 0;
	bool in_time = true;
	char why[128] = "";
	memset(out, 0, n * sizeof(*out));
	if (!n || !l2_enter(l, &pass)) {
		count(l, STAT_L2_ERRORS, n);
		return false;
	}
	for (size_t at = 0; at < n; at += REDIS_BATCH_MAX) {
		size_t k = n - at < REDIS_BATCH_MAX ? n - at : REDIS_BATCH_MAX;
		if (at && (!in_time || !answered)) {
			count(l, STAT_L2_ERRORS, k);
			continue;
		}
		struct l2_batch *b = ask_for(l, cls, keys + at, k);
		in_time = l2_batch_ask(b, l->redis, deadline);
		answered += take_batch(l, b, cls, keys + at, out + at, &result, why);
		l2_batch_end(&b);
	}
	stats_record_shared(l->stats, HIST_L2_ROUND_TRIP, (uint64_t)(clock_mono_ns() - began_ns));
	if (!in_time) {
		result = BREAKER_FAILED;
		snprintf(why, sizeof(why), "no answer within %lld ms (redis.answer_timeout)",
			 (long long)l->answer_us / 1000);
	} else if (!answered) {
		result = BREAKER_FAILED;
	}
	l2_leave(l, &pass, result, *why ? why : NULL);
	return answered > 0;
}

void l2_values_free(struct l2_value *v, size_t n)
{
	for (size_t i = 0; i < n; i++)
		free(v[i].bytes);
	memset(v, 0, n * sizeof(*v));
}

/* ---- put, drop ---- */

struct writing {
	struct redis_call call;
	struct l2 *l;
	struct breaker_pass pass;
	struct buf wire;
	bool put; /* else a drop */
};

static bool takes_no_writes(const struct redis_reply *r)
{
	return redis_reply_fails(r, "OOM") || redis_reply_fails(r, "READONLY") || redis_reply_fails(r, "MISCONF") ||
	       redis_reply_fails(r, "NOREPLICAS");
}

static void on_written(struct redis_call *c, enum redis_fate fate, struct redis_reply **reply)
{
	struct writing *w = c->arg;
	struct l2 *l = w->l;
	enum breaker_result result = l2_judge(fate, *reply);
	bool error = fate != REDIS_ANSWERED || (*reply)->type == REPLY_ERROR;
	if (fate == REDIS_ANSWERED && takes_no_writes(*reply))
		atomic_store_explicit(&l->no_puts_us, clock_mono_us() + NO_PUTS_US, memory_order_relaxed);
	if (w->put)
		count(l, fate == REDIS_UNSENT ? STAT_L2_DROPPED : error ? STAT_L2_PUT_ERRORS : STAT_L2_PUTS, 1);
	atomic_fetch_sub_explicit(&l->bytes_under_way, w->wire.len, memory_order_relaxed);
	l2_leave(l, &w->pass, result, error && *reply ? (*reply)->text : NULL);
	buf_free(&w->wire);
	free(w);
}

static void write_out(struct l2 *l, struct writing *w, const char *key, size_t len)
{
	struct redis_call *v[1] = {&w->call};
	w->call = (struct redis_call){.wire = {w->wire.p, w->wire.len},
				      .slot = redis_is_cluster(l->redis) ? redis_slot(key, len) : -1,
				      .done = on_written,
				      .arg = w};
	w->l = l;
	atomic_fetch_add_explicit(&l->bytes_under_way, w->wire.len, memory_order_relaxed);
	(void)redis_send(l->redis, REDIS_CACHE, v, 1);
}

/* Milliseconds that the value is to live in Redis; 0: it is over. */
static int64_t lifetime_ms(const struct l2 *l, const struct cache_meta *m)
{
	int64_t now = clock_real_us();
	int64_t ms = cache_policy_jittered(l->ttl_us, now) / 1000;
	int64_t left = (m->filled_us - now) / 1000 + m->gone_ms;
	ms = m->gone_ms && left < ms ? left : ms;
	return ms > 0 ? ms : 0;
}

void l2_put(struct l2 *l, enum cache_class cls, const struct uuid *key, uint64_t revision,
	    const struct cache_meta *meta, struct span body)
{
	struct breaker_pass pass;
	char name[L2_KEY_MAX], px[24];
	int64_t ms = lifetime_ms(l, meta);
	if (!ms || meta->flags & CACHE_NEGATIVE)
		return;
	if (body.len > l->value_max ||
	    atomic_load_explicit(&l->bytes_under_way, memory_order_relaxed) > BYTES_UNDER_WAY ||
	    atomic_load_explicit(&l->no_puts_us, memory_order_relaxed) > clock_mono_us() || !l2_enter(l, &pass)) {
		count(l, STAT_L2_DROPPED, 1);
		return;
	}
	struct writing *w = util_zalloc(sizeof(*w));
	struct l2_name whose = {atomic_load_explicit(&l->store, memory_order_relaxed), cls, *key};
	struct buf value = {0};
	w->pass = pass;
	w->put = true;
	l2_envelope_write(&value, &whose, revision, meta, body);
	size_t len = l2_key(l, cls, key, name);
	int digits = snprintf(px, sizeof(px), "%lld", (long long)ms);
	struct span words[] = {
		SPAN_LIT("SET"), {name, len}, {value.p, value.len}, SPAN_LIT("PX"), {px, (size_t)digits}};
	buf_reserve(&w->wire, value.len + len + 64);
	redis_wire_n(&w->wire, words, ARRAY_LEN(words));
	buf_free(&value);
	write_out(l, w, name, len);
}

void l2_drop(struct l2 *l, enum cache_class cls, const struct uuid *key)
{
	struct breaker_pass pass;
	char name[L2_KEY_MAX];
	if (!l2_enter(l, &pass))
		return;
	struct writing *w = util_zalloc(sizeof(*w));
	size_t len = l2_key(l, cls, key, name);
	struct span words[] = {SPAN_LIT("UNLINK"), {name, len}};
	w->pass = pass;
	redis_wire_n(&w->wire, words, ARRAY_LEN(words));
	write_out(l, w, name, len);
}
