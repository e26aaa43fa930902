/* /livez, /readyz, /startupz: answered at once from shared memory, never queued. */
#include <stdio.h>
#include <stdlib.h>

#include "api.h"
#include "clock.h"
#include "handlers.h"
#include "overload.h"
#include "tiers.h"

#define REFUSING_US 5000000

static void say(struct call *c, int status, const char *text)
{
	c->reply.status = status;
	buf_adds(&c->reply.body, text);
	call_reply(c);
}

void probes_livez(struct call *c) { say(c, 200, "{\"status\":\"ok\"}"); }

void probes_startupz(struct call *c)
{
	bool up = atomic_load_explicit(&c->api->plant->served_once, memory_order_acquire);
	say(c, up ? 200 : 503, up ? "{\"status\":\"started\"}" : "{\"status\":\"starting\"}");
}

static bool add_reason(struct buf *b, struct plant *p)
{
	uint32_t n = atomic_load_explicit(&p->reason_len, memory_order_acquire);
	if (n) {
		buf_adds(b, ",\"reason\":");
		json_out_string(b, (struct span){p->reason, n});
	}
	return n > 0;
}

int64_t probes_lag_us(struct plant *p)
{
	int64_t since = atomic_load_explicit(&p->oldest_unflushed_us, memory_order_relaxed);
	int64_t age = since ? clock_mono_us() - since : 0;
	return age > 0 ? age : 0;
}

/* Writes find no room, or no file to go to. Whoever is kept away by this sends none that could show that there is room again: so
 * it holds for a few seconds after the last refusal only. */
static const char *refusing(struct plant *p)
{
	uint32_t why = atomic_load_explicit(&p->refusing, memory_order_acquire);
	int64_t age = clock_mono_us() - atomic_load_explicit(&p->refused_us, memory_order_relaxed);
	if (!why || age > REFUSING_US)
		return NULL;
	return why == TXN_DISK_FULL ? "disk-full" : why == TXN_JOURNAL_ERROR ? "journal-error" : "journal-quota";
}

/* What is missing, and not missed so much that requests could not be served. */
static void degraded(struct api *a, uint32_t state, struct buf *b)
{
	const struct breaker *redis = a->shared.l2 ? breaker_find(a->plant->breakers, "redis") : NULL;
	const char *what[] = {
		state != SYNC_STORE_FAILED	    ? NULL
		: atomic_load(&a->plant->dead_full) ? "dead-letters"
						    : "store",
		tiers_feed_heard(&a->shared) || !atomic_load(&a->plant->feed_us) ? NULL : "feed",
		redis && breaker_state(redis) != BREAKER_CLOSED ? "redis" : NULL,
		plant_overloaded(a->plant) ? "overload" : NULL,
	};
	bool first = true;
	buf_adds(b, "\"degraded\":[");
	for (size_t i = 0; i < ARRAY_LEN(what); i++) {
		if (what[i])
			buf_printf(b, "%s\"%s\"", first ? "" : ",", what[i]);
		first = first && !what[i];
	}
	buf_addc(b, ']');
}

/* So much of what is warmed at the start as warmer.ready_fraction wants is in L1, or it has been waited for long enough. */
static bool warm_enough(const struct call *c)
{
	struct plant *p = c->api->plant;
	const struct conf *conf = c->api->w->conf;
	uint64_t percent = (uint64_t)conf_int(conf, CONF_WARMER_READY_FRACTION), total = atomic_load(&p->warm.total),
		 done = atomic_load(&p->warm.loaded) + atomic_load(&p->warm.skipped);
	return !percent || atomic_load_explicit(&p->warm_done, memory_order_acquire) ||
	       (total && done * 100 >= percent * total) ||
	       clock_mono_us() - atomic_load(&p->served_us) >= conf_int(conf, CONF_WARMER_READY_MAX);
}

/* ---- ?verbose: each thing that readiness depends on, in words ---- */

static void check(struct call *c, const char *name, bool ok, const char *state, const char *reason)
{
	struct buf *b = &c->reply.body;
	buf_printf(b, "%s{\"name\":\"%s\",\"ok\":%s,\"state\":\"%s\"", b->p[b->len - 1] == '[' ? "" : ",", name,
		   ok ? "true" : "false", state);
	if (reason && c->api->errors_full) {
		buf_adds(b, ",\"reason\":");
		json_out_string(b, SPAN(reason));
	}
	buf_addc(b, '}');
}

static const char *reason_of(struct plant *p, char *out, size_t cap)
{
	uint32_t n = atomic_load_explicit(&p->reason_len, memory_order_acquire);
	if (!n)
		return NULL;
	snprintf(out, cap, "%.*s", (int)n, p->reason);
	util_utf8_scrub(out, strlen(out));
	return out;
}

static void check_journal(struct call *c, uint32_t state)
{
	struct plant *p = c->api->plant;
	char why[sizeof(p->reason) + 1], room[160];
	uint64_t quota = atomic_load(&p->journal_quota), bytes = atomic_load(&p->journal_bytes);
	int64_t max_age = conf_int(c->api->w->conf, CONF_SYNC_MAX_AGE);
	const char *refused = refusing(p);
	snprintf(room, sizeof(room), "%llu of %llu bytes wait for the store, the oldest for %.1f s",
		 (unsigned long long)bytes, (unsigned long long)quota, (double)probes_lag_us(p) / 1e6);
	if (state == SYNC_JOURNAL_FAILED)
		check(c, "journal", false, "failed", reason_of(p, why, sizeof(why)));
	else if (refused)
		check(c, "journal", false, refused, room);
	else if (quota && bytes >= quota)
		check(c, "journal", false, "quota", room);
	else if (max_age && probes_lag_us(p) > max_age)
		check(c, "journal", false, "age", room);
	else
		check(c, "journal", true, "ok", room);
}

/* The store is no reason to turn requests away, but at the first start. */
static void check_store(struct call *c, uint32_t state)
{
	struct plant *p = c->api->plant;
	char why[sizeof(p->reason) + 1];
	const struct breaker *b = &p->breakers[0];
	bool failed = state == SYNC_STORE_FAILED;
	if (failed)
		check(c, "store", false, atomic_load(&p->dead_full) ? "dead-letters" : "failed",
		      reason_of(p, why, sizeof(why)));
	else
		check(c, "store", breaker_state(b) == BREAKER_CLOSED,
		      breaker_state(b) == BREAKER_CLOSED ? "ok" : "away",
		      breaker_state(b) == BREAKER_CLOSED
			      ? NULL
			      : "its breaker is not closed; GET /v1/admin/breakers says why");
}

static void check_warm(struct call *c)
{
	struct plant *p = c->api->plant;
	char text[160];
	bool filled = atomic_load(&p->refill_state) == REFILL_DONE, warm = warm_enough(c);
	snprintf(text, sizeof(text), "%llu of %llu vectors, %llu of %llu memories",
		 (unsigned long long)atomic_load(&p->refill_done), (unsigned long long)atomic_load(&p->refill_total),
		 (unsigned long long)atomic_load(&p->warm.loaded), (unsigned long long)atomic_load(&p->warm.total));
	check(c, "index", filled, filled ? "ok" : "filling", text);
	check(c, "warm", warm, warm ? "ok" : "warming", text);
}

static void checks(struct call *c, uint32_t state)
{
	struct api *a = c->api;
	bool serving = atomic_load_explicit(&a->plant->served_once, memory_order_acquire);
	bool leaving = a->draining || state == SYNC_DRAINING;
	const struct breaker *redis = a->shared.l2 ? breaker_find(a->plant->breakers, "redis") : NULL;
	buf_adds(&c->reply.body, ",\"checks\":[");
	check(c, "draining", !leaving, leaving ? "draining" : "ok",
	      leaving ? "the daemon has been told to leave" : NULL);
	check(c, "sync", serving, serving ? "ok" : "starting", serving ? NULL : "the journal is being replayed");
	check_journal(c, state);
	check_store(c, state);
	check_warm(c);
	if (atomic_load(&a->plant->feed_us))
		check(c, "feed", tiers_feed_heard(&a->shared), tiers_feed_heard(&a->shared) ? "ok" : "silent",
		      tiers_feed_heard(&a->shared) ? NULL : "what other daemons write is not heard of");
	if (redis)
		check(c, "redis", breaker_state(redis) == BREAKER_CLOSED, breaker_state_name(breaker_state(redis)),
		      NULL);
	buf_addc(&c->reply.body, ']');
}

static bool verbose(const struct call *c)
{
	char *v = NULL;
	size_t len = 0;
	bool asked = http_query_get(c->req, "verbose", &v, &len) == 1;
	bool no = asked && (strcmp(v, "0") == 0 || strcmp(v, "false") == 0);
	free(v);
	return asked && !no;
}

/* 200 whenever writes are accepted and local reads served; store trouble shows as degraded. */
void probes_readyz(struct call *c)
{
	struct plant *p = c->api->plant;
	struct buf *b = &c->reply.body;
	uint32_t state = atomic_load_explicit(&p->sync_state, memory_order_acquire);
	const char *why = NULL;
	uint64_t quota = atomic_load(&p->journal_quota);
	int64_t max_age = conf_int(c->api->w->conf, CONF_SYNC_MAX_AGE);
	if (c->api->draining || state == SYNC_DRAINING)
		why = "draining";
	else if (state == SYNC_JOURNAL_FAILED)
		why = "journal-failed";
	else if (!atomic_load_explicit(&p->served_once, memory_order_acquire))
		why = state == SYNC_STORE_FAILED ? "store-failed" : "starting";
	else if (state != SYNC_STORE_FAILED && /* what it cannot bring is not waited for */
		 (atomic_load(&p->refill_state) != REFILL_DONE || !warm_enough(c)))
		why = "warming";
	else if (quota && atomic_load(&p->journal_bytes) >= quota)
		why = "journal-quota";
	else if (max_age && probes_lag_us(p) > max_age)
		why = "journal-age";
	else
		why = refusing(p);
	c->reply.status = why ? 503 : 200;
	if (why)
		buf_adds(&c->reply.head, "Retry-After: 1\r\n");
	buf_printf(b, "{\"status\":\"%s\",", why ? why : "ready");
	degraded(c->api, state, b);
	if (state == SYNC_JOURNAL_FAILED || state == SYNC_STORE_FAILED)
		add_reason(b, p);
	if (why && c->api->errors_full)
		buf_printf(b,
			   ",\"vectors\":{\"loaded\":%llu,\"total\":%llu},\"cache\":{\"loaded\":%llu,\"total\":%llu}",
			   (unsigned long long)atomic_load(&p->refill_done),
			   (unsigned long long)atomic_load(&p->refill_total),
			   (unsigned long long)atomic_load(&p->warm.loaded),
			   (unsigned long long)atomic_load(&p->warm.total));
	if (verbose(c))
		checks(c, state);
	buf_addc(b, '}');
	call_reply(c);
}

/* "lag": what waits for the store, and the dead letters; for the status of the daemon. */
void probes_lag(struct plant *p, struct buf *b)
{
	uint64_t applied = atomic_load(&p->applied_seq), flushed = atomic_load(&p->flushed_seq);
	buf_printf(b, "\"lag\":{\"records\":%llu,\"bytes\":%llu,\"seconds\":%.3f},\"dead_letters\":%llu",
		   applied > flushed ? (unsigned long long)(applied - flushed) : 0,
		   (unsigned long long)atomic_load(&p->lag_bytes), (double)probes_lag_us(p) / 1e6,
		   (unsigned long long)atomic_load(&p->dead_letters));
}
