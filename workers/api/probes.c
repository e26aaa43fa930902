/* /livez, /readyz, /startupz, /metrics: answered at once from shared memory, never queued. */
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

/* Of the oldest write that the store lacks, µs. */
static int64_t lag_us(struct plant *p)
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
		overload_anywhere(a->plant) ? "overload" : NULL,
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
	else if (max_age && lag_us(p) > max_age)
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
	buf_addc(b, '}');
	call_reply(c);
}

/* ---- metrics ---- */

static const struct row {
	const char *name, *labels, *type, *help;
} rows[] = {
#define STAT(id, name, labels, type, help) {name, labels, type, help},
#include "stats.def"
#undef STAT
};

/* The one counter that is told by role: which of them keeps dying is what one wants to know. */
static void restarts(struct plant *p, struct buf *b)
{
	const struct row *r = &rows[STAT_WORKER_RESTARTS];
	uint64_t n[ROLE_COUNT] = {0};
	for (unsigned s = 0; s < SLOT_COUNT; s++)
		n[worker_role_of_slot(s)] += atomic_load_explicit(&p->worker[s].stats.v[STAT_WORKER_RESTARTS],
								  memory_order_relaxed);
	buf_printf(b, "# HELP %s %s\n# TYPE %s %s\n", r->name, r->help, r->name, r->type);
	for (unsigned i = 0; i < ROLE_COUNT; i++)
		buf_printf(b, "%s{role=\"%s\"} %llu\n", r->name, worker_rows[i].name, (unsigned long long)n[i]);
}

static void counters(struct plant *p, struct buf *b)
{
	for (size_t i = 0; i < STAT_COUNT; i++) {
		uint64_t n = 0;
		if (i == STAT_WORKER_RESTARTS) {
			restarts(p, b);
			continue;
		}
		if (overload_own_metric(i))
			continue;
		for (unsigned s = 0; s < SLOT_COUNT; s++)
			n += atomic_load_explicit(&p->worker[s].stats.v[i], memory_order_relaxed);
		if (!i || strcmp(rows[i].name, rows[i - 1].name) != 0)
			buf_printf(b, "# HELP %s %s\n# TYPE %s %s\n", rows[i].name, rows[i].help, rows[i].name,
				   rows[i].type);
		buf_printf(b, *rows[i].labels ? "%s{%s} %lld\n" : "%s%s %lld\n", rows[i].name, rows[i].labels,
			   (long long)n);
	}
}

static void target_rows(struct plant *p, struct buf *b, const char *name, const char *type, const char *help,
			size_t field)
{
	char target[LIMIT_TARGET_NAME + 1];
	buf_printf(b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
	for (size_t i = 0; i < PLANT_TARGETS; i++) {
		const struct plant_target *t = &p->targets[i];
		uint64_t v[] = {atomic_load_explicit(&t->pings, memory_order_relaxed),
				atomic_load_explicit(&t->failures, memory_order_relaxed),
				atomic_load_explicit(&t->well, memory_order_relaxed)};
		if (plant_target_name(t, target)) /* its characters need no escape: target.c sees to that */
			buf_printf(b, "%s{target=\"%s\"} %llu\n", name, target, (unsigned long long)v[field]);
	}
}

static void targets(struct plant *p, struct buf *b)
{
	target_rows(p, b, "orchestra_pings_total", "counter", "Requests sent to a keep-warm target.", 0);
	target_rows(p, b, "orchestra_ping_failures_total", "counter",
		    "Pings that failed or were answered with an unexpected status.", 1);
	target_rows(p, b, "orchestra_ping_up", "gauge", "1 when the last ping of the target was answered as expected.",
		    2);
}

static void gauge(struct buf *b, const char *name, const char *help, uint64_t v)
{
	buf_printf(b, "# HELP %s %s\n# TYPE %s gauge\n%s %llu\n", name, help, name, name, (unsigned long long)v);
}

static void gauge_seconds(struct buf *b, const char *name, const char *help, int64_t us)
{
	buf_printf(b, "# HELP %s %s\n# TYPE %s gauge\n%s %lld.%06lld\n", name, help, name, name,
		   (long long)us / 1000000, (long long)us % 1000000);
}

/* "lag": what waits for the store, and the dead letters; for the status of the daemon. */
void probes_lag(struct plant *p, struct buf *b)
{
	uint64_t applied = atomic_load(&p->applied_seq), flushed = atomic_load(&p->flushed_seq);
	buf_printf(b, "\"lag\":{\"records\":%llu,\"bytes\":%llu,\"seconds\":%.3f},\"dead_letters\":%llu",
		   applied > flushed ? (unsigned long long)(applied - flushed) : 0,
		   (unsigned long long)atomic_load(&p->lag_bytes), (double)lag_us(p) / 1e6,
		   (unsigned long long)atomic_load(&p->dead_letters));
}

static void fleet(struct plant *p, struct buf *b)
{
	int64_t heard = atomic_load(&p->feed_us), silent = clock_mono_us() - heard;
	if (!heard)
		return; /* nobody else writes to this store */
	gauge(b, "orchestra_feed_revision", "Up to here the fleet's feed is in caches and index.",
	      atomic_load(&p->feed_revision));
	gauge(b, "orchestra_feed_lost", "1 when the feed cannot be followed: what others write is not known.",
	      atomic_load(&p->feed_lost));
	gauge_seconds(b, "orchestra_feed_silent_seconds", "Since the store was last asked for changes and answered.",
		      silent > 0 ? silent : 0);
}

void probes_metrics(struct call *c)
{
	struct plant *p = c->api->plant;
	struct buf *b = &c->reply.body;
	router_metrics(c->api, b);
	counters(p, b);
	targets(p, b);
	breakers_metrics(p, b);
	overload_metrics(p, b);
	uint64_t applied = atomic_load(&p->applied_seq), flushed = atomic_load(&p->flushed_seq);
	gauge(b, "orchestra_journal_lag_records", "Transactions acknowledged and not yet in the store.",
	      applied > flushed ? applied - flushed : 0);
	gauge(b, "orchestra_journal_lag_bytes", "Bytes of transactions acknowledged and not yet in the store.",
	      atomic_load(&p->lag_bytes));
	gauge_seconds(b, "orchestra_journal_lag_seconds", "Age of the oldest transaction that is not yet in the store.",
		      lag_us(p));
	gauge(b, "orchestra_dead_letters", "Operations that the store did not accept, to be tried again or discarded.",
	      atomic_load(&p->dead_letters));
	gauge(b, "orchestra_journal_held_bytes", "Bytes of journal segments that hold records the store lacks.",
	      atomic_load(&p->journal_bytes));
	gauge(b, "orchestra_journal_quota_bytes", "Limit of the journal.", atomic_load(&p->journal_quota));
	fleet(p, b);
	gauge(b, "orchestra_pending_entries", "Entries of the pending table.", pending_count(c->api->shared.pending));
	caches_metrics(c->api, b);
	gauge(b, "orchestra_warming", "1 while the warmer fills or saves the cache.", atomic_load(&p->warm.active));
	gauge(b, "orchestra_warm_loaded", "Memories that the last job of warming has put into the cache.",
	      atomic_load(&p->warm.loaded));
	gauge(b, "orchestra_warm_total", "Memories that it is to put there, as far as is known.",
	      atomic_load(&p->warm.total));
	gauge(b, "orchestra_vectors", "Vectors in the shared-memory index.", vectors_count(c->api->shared.vectors, 0));
	gauge(b, "orchestra_vectors_bytes", "Bytes used by the vector index.", vectors_bytes(c->api->shared.vectors));
	gauge(b, "orchestra_words", "Memories in the shared-memory index of words.",
	      postings_count(c->api->shared.postings, 0));
	gauge(b, "orchestra_words_bytes", "Bytes used by the word index.", postings_bytes(c->api->shared.postings));
	gauge(b, "orchestra_ready", "1 when sync serves.", atomic_load(&p->sync_state) == SYNC_SERVING);
	c->reply.content_type = "text/plain; version=0.0.4; charset=utf-8";
	c->reply.status = 200;
	call_reply(c);
}
