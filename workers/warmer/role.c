/* warmer: asks sync for the refill of the vector index and fills L1 with what was used last. */
#include <errno.h>
#include <stdlib.h>

#include "cache/cache.h"
#include "fault.h"
#include "log.h"
#include "pending.h"
#include "record.h"
#include "rings.h"
#include "store/store.h"
#include "worker.h"

#define WARM_MAX 20000 /* memories */

struct warmer {
	struct worker *w;
	struct cache *cache;
	struct pending *pending;
	struct ring *requests;
	const struct store_ops *ops;
	struct store_conf store_conf;
	struct event *timer;
	size_t loaded, budget_bytes;
	bool asked;
};
static struct warmer state;

static bool ask_refill(struct warmer *m)
{
	struct ring_msg_head *h = ring_reserve(m->requests, sizeof(*h));
	if (!h)
		return false;
	*h = (struct ring_msg_head){.type = MSG_REFILL};
	ring_commit(m->requests, sizeof(*h));
	worker_wake_peer(m->w, SLOT_SYNC);
	return true;
}

struct wanted {
	struct uuid *ids;
	size_t n;
};

static bool want(void *arg, const struct memory *row)
{
	struct wanted *v = arg;
	if (!row->deleted_us)
		v->ids[v->n++] = row->id;
	return true;
}

struct filling {
	struct warmer *m;
	uint64_t epoch;
	size_t bytes;
};

static bool fill(void *arg, const struct memory *row)
{
	struct filling *f = arg;
	struct cache_meta meta = {.ns = row->ns, .version = row->version, .expires_us = row->expires_us};
	if (!row->deleted_us &&
	    cache_fill(f->m->cache, CACHE_MEMORY, &row->id, f->epoch, &meta, row->body.p, row->body.len)) {
		f->m->loaded++;
		f->bytes += row->body.len;
	}
	return false;
}

static void finish(struct warmer *m)
{
	FAULT_POINT(warm_over);
	atomic_store(&m->w->plant->warm_loaded, m->loaded);
	atomic_store_explicit(&m->w->plant->warm_done, 1, memory_order_release);
	if (m->loaded)
		log_info("L1 warmed with %zu memories", m->loaded);
}

/* Each memory is read after its shard's epoch, and only when nothing about it is pending: a write
 * that comes in between moves the epoch and the fill is refused. */
static void fill_wanted(struct warmer *m, struct store *store, const struct wanted *v)
{
	struct filling f = {.m = m};
	for (size_t i = 0; i < v->n && f.bytes < m->budget_bytes; i++) {
		struct pending_entry e;
		f.epoch = cache_epoch(m->cache, CACHE_MEMORY, &v->ids[i]);
		if (!pending_find_id(m->pending, &v->ids[i], &e))
			(void)!m->ops->get(store, &v->ids[i], false, fill, &f);
	}
}

/* Runs in the warmer's own process: nobody else's loop waits for these reads. */
static void warm(struct warmer *m)
{
	char *error = NULL;
	struct store *store = m->ops->open(&m->store_conf, false, &error);
	if (!store) {
		log_warn("warming is skipped: %s", error ? error : "the store cannot be opened");
		free(error);
		return;
	}
	struct wanted v = {.ids = util_alloc(WARM_MAX * sizeof(*v.ids))};
	if (m->ops->recent(store, WARM_MAX, want, &v) != STORE_OK)
		log_warn("warming stopped: %s", m->ops->error(store));
	fill_wanted(m, store, &v);
	free(v.ids);
	m->ops->close(store);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct warmer *m = arg;
	struct timeval again = {0, 10000};
	(void)fd, (void)what;
	if (!atomic_load_explicit(&m->w->plant->served_once, memory_order_acquire)) {
		event_add(m->timer, &again);
		return;
	}
	if (!m->asked)
		m->asked = ask_refill(m);
	if (!m->asked) {
		event_add(m->timer, &again);
		return;
	}
	if (!atomic_load(&m->w->plant->warm_done))
		warm(m);
	finish(m);
}

static int warmer_init(struct worker *w)
{
	struct warmer *m = &state;
	size_t bytes = (size_t)conf_int(w->conf, CONF_RING_BYTES);
	struct timeval soon = {0, 0};
	w->role_data = m;
	m->w = w;
	m->requests = ring_open(FD_SHM_RINGS, rings_request_offset(bytes, w->slot), bytes);
	m->cache = cache_open(FD_SHM_CACHE, false);
	m->pending = pending_open(FD_SHM_PENDING, false, (uint32_t)conf_int(w->conf, CONF_JOURNAL_PENDING_MAX));
	store_conf_from(w->conf, "warmer", &m->store_conf);
	m->store_conf.breaker = &w->plant->breakers[0];
	m->ops = store_by_kind(m->store_conf.kind);
	m->budget_bytes = (size_t)conf_int(w->conf, CONF_CACHE_L1_BYTES) / 2;
	if (!m->requests || !m->cache || !m->pending || !m->ops) {
		log_error("cannot map the shared segments: %s", strerror(errno));
		return WORKER_EXIT_FAIL;
	}
	m->timer = event_new(w->base, -1, 0, on_timer, m);
	event_add(m->timer, &soon);
	return 0;
}

static void warmer_on_wake(struct worker *w) { wake_prepare(&w->plant->wake[w->slot]); }

/* The new sync may have lost the request that its predecessor had not taken up. */
static void warmer_peer_started(struct worker *w, unsigned slot)
{
	if (slot == SLOT_SYNC)
		(void)!ask_refill(w->role_data);
}

const struct worker_role warmer_role = {
	.name = "warmer",
	.init = warmer_init,
	.on_wake = warmer_on_wake,
	.peer_started = warmer_peer_started,
};
