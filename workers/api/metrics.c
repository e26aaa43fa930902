/* /metrics: from shared memory, at once, without asking anybody. */
#include "clock.h"
#include "handlers.h"
#include "http/tls.h"
#include "metrics_parts.h"

static void daemon_itself(struct expo *e, struct plant *p)
{
	expo_head(e, &metrics_families[METRIC_BUILD_INFO]);
	expo_u64(e, &metrics_families[METRIC_BUILD_INFO], "version=\"" ORCHESTRA_VERSION "\"", 1);
	expo_one_us(e, METRIC_START_TIME, (uint64_t)atomic_load(&p->born_us));
	expo_one(e, METRIC_READY, atomic_load(&p->sync_state) == SYNC_SERVING);
}

static void journal(struct expo *e, struct plant *p)
{
	uint64_t applied = atomic_load(&p->applied_seq), flushed = atomic_load(&p->flushed_seq);
	expo_one(e, METRIC_JOURNAL_LAG_RECORDS, applied > flushed ? applied - flushed : 0);
	expo_one(e, METRIC_JOURNAL_LAG_BYTES, atomic_load(&p->lag_bytes));
	expo_one_us(e, METRIC_JOURNAL_LAG_SECONDS, (uint64_t)probes_lag_us(p));
	expo_one(e, METRIC_DEAD_LETTERS, atomic_load(&p->dead_letters));
	expo_one(e, METRIC_JOURNAL_HELD, atomic_load(&p->journal_bytes));
	expo_one(e, METRIC_JOURNAL_QUOTA, atomic_load(&p->journal_quota));
	if (atomic_load(&p->disk_size)) {
		expo_one(e, METRIC_DISK_FREE, atomic_load(&p->disk_free));
		expo_one(e, METRIC_DISK_SIZE, atomic_load(&p->disk_size));
	}
}

static void fleet(struct expo *e, struct plant *p)
{
	int64_t heard = atomic_load(&p->feed_us), silent = clock_mono_us() - heard;
	if (!heard)
		return; /* nobody else writes to this store */
	expo_one(e, METRIC_FEED_REVISION, atomic_load(&p->feed_revision));
	expo_one(e, METRIC_FEED_LOST, atomic_load(&p->feed_lost));
	expo_one_us(e, METRIC_FEED_SILENT, silent > 0 ? (uint64_t)silent : 0);
}

static void warming(struct expo *e, struct plant *p)
{
	expo_one(e, METRIC_WARMING, atomic_load(&p->warm.active));
	expo_one(e, METRIC_WARM_LOADED, atomic_load(&p->warm.loaded));
	expo_one(e, METRIC_WARM_TOTAL, atomic_load(&p->warm.total));
}

static void indexes(struct expo *e, struct shared *s)
{
	expo_one(e, METRIC_VECTORS, vectors_count(s->vectors, 0));
	expo_one(e, METRIC_VECTORS_BYTES, vectors_bytes(s->vectors));
	expo_one(e, METRIC_VECTORS_SPILLED, vectors_spilled(s->vectors));
	expo_one(e, METRIC_WORDS, postings_count(s->postings, 0));
	expo_one(e, METRIC_WORDS_BYTES, postings_bytes(s->postings));
}

static void certificate(struct expo *e, struct api *a)
{
	int64_t expires_s = http_server_tls_expires(a->http);
	if (expires_s > 0)
		expo_one(e, METRIC_TLS_EXPIRY, (uint64_t)expires_s);
}

void metrics_get(struct call *c)
{
	struct api *a = c->api;
	struct plant *p = a->plant;
	struct span accept = http_header(c->req, HTTP_H_ACCEPT);
	struct expo e = {.b = &c->reply.body, .open_metrics = expo_wants_open_metrics(accept)};
	daemon_itself(&e, p);
	metrics_routes(&e, p);
	metrics_stat_rows(&e, p);
	metrics_hist_rows(&e, p);
	targets_metrics(&e, p);
	breakers_metrics(&e, p);
	journal(&e, p);
	fleet(&e, p);
	expo_one(&e, METRIC_PENDING_ENTRIES, pending_count(a->shared.pending));
	caches_metrics(&e, a);
	warming(&e, p);
	indexes(&e, &a->shared);
	certificate(&e, a);
	metrics_workers(&e, p, a->w->vitals - a->w->slot);
	expo_end(&e);
	buf_adds(&c->reply.head, "Vary: Accept\r\n");
	c->reply.content_type = expo_content_type(e.open_metrics);
	c->reply.status = 200;
	call_reply(c);
}
