/* sync's life: open or take over the shared structures, replay the journal, serve, drain. */
#define LOG_SUBSYSTEM LOG_IN_SYNC
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "cache/l2.h"
#include "clock.h"
#include "dead.h"
#include "fault.h"
#include "log.h"
#include "sync.h"
#include "trace/trace.h"

#define TMPFS_MAGIC 0x01021994
#define OVERLAY_MAGIC 0x794c7630
#define FRESH_ROWS 8192 /* as many codes as a search reads of lists, and half a MiB */
#define FIRST_SEGMENT_BYTES (8u << 20)

static struct sync sync_state;

/* ---- whose turn it is ---- */

void sync_enter(struct sync *s) { pthread_mutex_lock(&s->lock); }

void sync_leave(struct sync *s)
{
	indexer_poke(s);
	sync_ring_bells(s);
	pthread_mutex_unlock(&s->lock);
}

void sync_ring_bells(struct sync *s) { worker_wake_now(s->w, &s->to_wake); }

/* ---- posting work to the loop ---- */

static struct {
	pthread_mutex_t lock;
	struct post {
		void (*fn)(struct sync *, void *);
		void *arg;
	} * v;
	size_t n, cap;
	int efd;
	struct event *ev;
} posts = {.lock = PTHREAD_MUTEX_INITIALIZER, .efd = -1};

void sync_post(struct sync *s, void (*fn)(struct sync *, void *), void *arg)
{
	(void)s;
	pthread_mutex_lock(&posts.lock);
	if (posts.n == posts.cap) {
		posts.cap = posts.cap ? posts.cap * 2 : 16;
		posts.v = util_realloc(posts.v, posts.cap * sizeof(*posts.v));
	}
	posts.v[posts.n++] = (struct post){fn, arg};
	bool first = posts.n == 1;
	pthread_mutex_unlock(&posts.lock);
	if (first)
		(void)!write(posts.efd, &(uint64_t){1}, 8);
}

static void run_posts(struct sync *s)
{
	for (;;) {
		pthread_mutex_lock(&posts.lock);
		size_t n = posts.n;
		struct post *v = posts.v;
		posts.v = NULL;
		posts.n = posts.cap = 0;
		pthread_mutex_unlock(&posts.lock);
		if (!n)
			return;
		for (size_t i = 0; i < n; i++)
			v[i].fn(s, v[i].arg);
		free(v);
	}
}

static void on_post(evutil_socket_t fd, short what, void *arg)
{
	uint64_t count;
	(void)what;
	(void)!read(fd, &count, sizeof(count));
	if (sync_state.draining) /* whoever drained has run them */
		return;
	sync_enter(arg);
	run_posts(arg);
	sync_leave(arg);
}

/* ---- trouble ---- */

void sync_state_set(struct sync *s, enum plant_sync state, const char *why)
{
	struct plant *p = s->plant;
	size_t len = strnlen(why, sizeof(p->reason) - 1);
	atomic_store_explicit(&p->reason_len, 0, memory_order_release);
	memcpy(p->reason, why, len);
	atomic_store_explicit(&p->reason_len, (uint32_t)len, memory_order_release);
	atomic_store_explicit(&p->sync_state, state, memory_order_release);
}

void sync_fail(struct sync *s, enum plant_sync state, const char *fmt, ...)
{
	char text[sizeof(s->plant->reason)];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	if (state == SYNC_JOURNAL_FAILED)
		log_error_event(journal_failed, NULL, "%s", text);
	else
		log_error_event(store_failed, NULL, "%s", text);
	sync_state_set(s, state, text);
}

/* ---- birth ---- */

static bool pressed(const void *plant) { return plant_overloaded(plant); }

static void set_stages(struct sync *s)
{
	static const char *const raws[] = {[VECTORS_RAW_AUTO] = "auto",
					   [VECTORS_RAW_INT8] = "int8",
					   [VECTORS_RAW_FLOAT16] = "float16",
					   [VECTORS_RAW_FLOAT32] = "float32"};
	const struct conf *c = s->w->conf;
	struct vectors_stages stages = {.exact_bytes = (uint64_t)conf_int(c, CONF_VECTORS_EXACT_BYTES),
					.flat_rows = (uint64_t)conf_int(c, CONF_VECTORS_FLAT_ROWS),
					.fresh_rows = FRESH_ROWS,
					.patient = true};
	for (size_t i = 0; i < ARRAY_LEN(raws); i++)
		if (strcmp(conf_str(c, CONF_VECTORS_RAW), raws[i]) == 0)
			stages.raw = (enum vectors_raw)i;
	vectors_stages_set(s->vectors, &stages);
	vectors_work_pressed(s->vectors, pressed, s->plant);
}

static void open_segments(struct sync *s)
{
	bool format = !atomic_load_explicit(&s->plant->h.formatted, memory_order_acquire);
	uint32_t capacity = (uint32_t)conf_int(s->w->conf, CONF_JOURNAL_PENDING_MAX);
	s->pending = pending_open(FD_SHM_PENDING, format, capacity);
	s->cache = cache_open(FD_SHM_CACHE, format);
	s->vectors = vectors_open_spilled(FD_SHM_VECTORS, FD_VECTORS_FILE, true);
	s->postings = postings_open(FD_SHM_WORDS, true);
	if (!s->pending || !s->cache || !s->vectors || !s->postings) {
		log_error("cannot map the shared segments: %s", strerror(errno));
		exit(WORKER_EXIT_FAIL);
	}
	set_stages(s);
	if (!format)
		pending_recover(s->pending);
	FAULT_POINT(sync_segments);
}

/* The row of the store: sync says when it opens, for all processes. */
static void configure_breaker(struct worker *w)
{
	struct breaker_conf c;
	breaker_conf_store(w->conf, &c);
	AN(breaker_take(w->plant->breakers, BREAKER_STORE, &c));
	if (*conf_str(w->conf, CONF_REDIS_URL) && !l2_breaker(w->conf, w->plant->breakers))
		log_warn("no room for the breaker of redis");
}

static void load_namespace(void *arg, const struct store_ns *row)
{
	struct sync *s = arg;
	struct ns_state *n = sequence_ns_make(s, row->ns, SPAN(row->name));
	if (!n)
		return;
	n->count = row->count;
	n->bytes = row->bytes;
	n->quota_count = row->quota_count;
	n->quota_bytes = row->quota_bytes;
	n->relaxed = row->relaxed || s->relaxed_default;
	n->exists = row->exists;
	n->language = row->language;
	n->created_us = row->created_us;
	n->dim = row->dim;
	memcpy(n->embedder, row->embedder, sizeof(n->embedder));
}

/* Records that the store lacks. Those at or below applied_seq are visible already (the shared
 * segments outlived our predecessor): only what they did to our private state is repeated. */
struct replay {
	struct sync *s;
	struct store *store;
	uint64_t applied, last, count;
};

static bool note_version(void *arg, const struct memory *m)
{
	*(uint64_t *)arg = m->version;
	return false;
}

/* A predecessor that was looking for what the store rejects (isolate.c) may have stored a part of the transaction behind
 * the cursor: the counters that we have read include it. */
static bool counted(struct replay *r, const struct op_head *op, const void *body)
{
	struct dead_letter l;
	uint64_t version = 0;
	if (!r->store || r->count > 1 || (op->type != OP_PUT && op->type != OP_DELETE))
		return false;
	dead_describe(op, body, &l);
	enum store_rc rc = r->s->store_ops->get(r->store, &l.id, false, note_version, &version);
	return rc == STORE_OK ? version >= l.version : rc == STORE_NOT_FOUND && op->type == OP_DELETE;
}

static void replay_record(void *arg, uint64_t seq, uint64_t segment, uint64_t offset, const void *data, size_t len)
{
	struct replay *r = arg;
	struct txn_reader t, ops;
	const struct op_head *op;
	const void *body;
	worker_progress(r->s->w);
	if (!txn_open(&t, data, len)) {
		log_error("journal record %llu holds no transaction; skipped", (unsigned long long)seq);
		return;
	}
	r->count++;
	sequence_remember(r->s, &t, seq);
	ops = t;
	while (seq > r->s->counted_seq && txn_next(&ops, &op, &body))
		if (!counted(r, op, body))
			sequence_account(r->s, op, body, seq);
	if (seq > r->applied && pending_full(r->s->pending, t.head->nops)) {
		log_error(
			"journal.pending_max (%lld) is less than what waits for the store since the last run: raise it again",
			(long long)conf_int(r->s->w->conf, CONF_JOURNAL_PENDING_MAX));
		exit(WORKER_EXIT_FATAL);
	}
	if (seq > r->applied)
		apply_txn(r->s, seq, segment, offset, data, len);
	r->last = seq;
	apply_lag(r->s, r->s->unflushed_bytes + len);
}

static uint64_t open_journal(struct sync *s, struct store *store, uint64_t flushed)
{
	char *error = NULL;
	struct conf *c = s->w->conf;
	struct journal_conf jc = {.dir = s->store_conf.dir,
				  .first_bytes = FIRST_SEGMENT_BYTES,
				  .segment_bytes = (uint64_t)conf_int(c, CONF_JOURNAL_SEGMENT_BYTES),
				  .quota_bytes = (uint64_t)conf_int(c, CONF_JOURNAL_QUOTA)};
	struct replay r = {.s = s,
			   .store = store,
			   .applied = atomic_load(&s->plant->applied_seq),
			   .last = flushed == JOURNAL_ALL ? 0 : flushed};
	int64_t start = clock_mono_us();
	if (jc.first_bytes > jc.segment_bytes)
		jc.first_bytes = jc.segment_bytes;
	if (flushed != JOURNAL_ALL && r.applied < flushed)
		r.applied = flushed;
	sequence_forget(s, flushed == JOURNAL_ALL ? 0 : flushed);
	atomic_store(&s->plant->sync_state, SYNC_REPLAYING);
	s->journal = journal_open(&jc, flushed, replay_record, &r, &error);
	if (!s->journal) {
		sync_fail(s, SYNC_JOURNAL_FAILED, "the journal cannot be opened: %s", error ? error : "unknown");
		free(error);
		return flushed;
	}
	if (r.count)
		log_info("replayed %llu journal records, %llu to %llu, in %lld ms", (unsigned long long)r.count,
			 (unsigned long long)flushed + 1, (unsigned long long)r.last,
			 (long long)(clock_mono_us() - start) / 1000);
	return flushed == JOURNAL_ALL ? journal_next_seq(s->journal) - 1 : r.last;
}

/* Where the file system is memory, or a container's throw-away layer, fdatasync proves nothing. */
static bool choose_ack(struct sync *s)
{
	const char *ack = conf_str(s->w->conf, CONF_JOURNAL_ACK);
	struct statfs fs;
	if (strcmp(ack, "auto") != 0)
		return strcmp(ack, "store") == 0;
	if (statfs(s->store_conf.dir, &fs) != 0 || (fs.f_type != TMPFS_MAGIC && fs.f_type != OVERLAY_MAGIC))
		return false;
	log_warn("data.dir lies on %s: fdatasync proves nothing there, so writes are acknowledged by the store "
		 "(sync.ack = store)",
		 fs.f_type == TMPFS_MAGIC ? "tmpfs" : "an overlay file system");
	return true;
}

static void start_serving(struct sync *s, struct store *store, uint64_t flushed, uint64_t last)
{
	atomic_store(&s->plant->flushed_seq, flushed);
	atomic_store_explicit(&s->plant->unmended, 1, memory_order_release); /* until the flusher knows */
	pending_release(s->pending, flushed);
	s->next_seq = last + 1;
	FAULT_POINT(sync_replayed);
	apply_namespaces(s);
	apply_finish(s, last);
	s->open = &s->batches[0];
	for (size_t i = 0; i < BATCHES; i++)
		s->batches[i].all_relaxed = true;
	s->committer = commit_start(s);
	if (store)
		s->flusher = flusher_start(s, store, flushed, last);
	if (!s->committer || (store && !s->flusher)) {
		log_error("cannot start threads: %s", strerror(errno));
		exit(WORKER_EXIT_FAIL);
	}
	if (store) {
		atomic_store(&s->plant->store_known, 1);
		if (last > flushed)
			flusher_allow(s->flusher, last, true);
		feed_start(s);
	} else {
		late_start(s);
	}
	for (unsigned slot = 0; slot < SLOT_COUNT; slot++)
		if (s->w->peers >> slot & 1)
			intake_open(s, slot);
	FAULT_POINT(sync_opened);
	if (!atomic_load(&s->plant->served_once))
		atomic_store(&s->plant->served_us, clock_mono_us());
	atomic_store_explicit(&s->plant->served_once, 1, memory_order_release);
	atomic_store_explicit(&s->plant->sync_state, store ? SYNC_SERVING : SYNC_STORE_FAILED, memory_order_release);
}

/* Erasures that a predecessor did not come to scrub are due still. */
static bool load_scrubbed(struct sync *s, struct store *store, uint64_t flushed)
{
	uint64_t due;
	if (s->store_ops->scrub_due(store, &due) != STORE_OK)
		return false;
	s->scrubbed_seq = due ? due - 1 : flushed;
	return true;
}

/* From here on the feed is followed; what is read from the store later is newer. Where nobody else writes, a predecessor
 * may have died before it told how far it had come. */
static bool load_revision(struct sync *s, struct store *store)
{
	uint64_t revision;
	if (s->store_ops->fleet && atomic_load(&s->plant->feed_revision))
		return true;
	if (s->store_ops->revision(store, &revision) != STORE_OK)
		return false;
	atomic_store(&s->plant->feed_revision, revision);
	return true;
}

/* False: open, but not the store that was written to; the reason is said. */
static bool right_store(struct sync *s, uint64_t flushed)
{
	uint64_t before = atomic_load(&s->plant->flushed_seq);
	if (flushed >= before)
		return true;
	sync_fail(s, SYNC_STORE_FAILED,
		  "the store holds records up to %llu, but %llu had reached it in this life of the daemon: it was "
		  "replaced. Put it back and restart the daemon",
		  (unsigned long long)flushed, (unsigned long long)before);
	return false;
}

static struct store *open_store(struct sync *s, uint64_t *flushed_r)
{
	char *error = NULL;
	s->store_ops = store_by_kind(s->store_conf.kind);
	cache_policy_from(s->w->conf, s->store_ops && s->store_ops->fleet, &s->policy);
	AN(s->store_ops);
	struct store *store = s->store_ops->open(&s->store_conf, true, &error);
	bool read = store && s->store_ops->cursor(store, flushed_r) == STORE_OK &&
		    s->store_ops->namespaces(store, load_namespace, s) == STORE_OK &&
		    load_scrubbed(s, store, *flushed_r) && load_revision(s, store);
	if (read && right_store(s, *flushed_r))
		return store;
	if (!read) {
		const char *why = store ? s->store_ops->error(store) : error;
		sync_fail(s, SYNC_STORE_FAILED, "the store cannot be opened: %s", why ? why : "unknown");
	}
	free(error);
	if (store)
		s->store_ops->close(store);
	return NULL;
}

/* What is known when the store cannot be asked: what a former sync of this daemon knew, or nothing. */
static uint64_t without_store(struct sync *s)
{
	if (!atomic_load(&s->plant->store_known))
		return JOURNAL_ALL;
	late_namespaces(s);
	s->counted_seq = atomic_load(&s->plant->applied_seq);
	return atomic_load(&s->plant->flushed_seq);
}

static void try_again(evutil_socket_t fd, short what, void *arg)
{
	struct sync *s = arg;
	(void)fd, (void)what;
	worker_exit(s->w, WORKER_EXIT_FAIL);
}

/* A successor that cannot serve: the api workers go on, and what they send must not wait for ever. It is not ready: an
 * upgrade whose sync finds no way to the store has failed. */
static void refuse_everything(struct sync *s)
{
	worker_ready_later(s->w);
	worker_progress(s->w);	 /* outside an upgrade there is nothing better to be started, until the store is back */
	recent_free(&s->recent); /* of a replay that ended early: no transaction counts as known */
	s->recent = recent_new(RECENT_KEYS, UINT64_MAX);
	s->open = &s->batches[0];
	for (unsigned slot = 0; slot < SLOT_COUNT; slot++)
		if (s->w->peers >> slot & 1)
			intake_open(s, slot);
	atomic_store(&s->plant->sync_state, SYNC_JOURNAL_FAILED); /* not merely degraded; the reason stands */
}

static int sync_init(struct worker *w)
{
	struct sync *s = &sync_state;
	uint64_t flushed = 0;
	worker_prompt();
	pthread_mutex_init(&s->lock, NULL);
	s->w = w;
	w->role_data = s;
	s->plant = w->plant;
	store_conf_from(w->conf, "sync", &s->store_conf);
	if (!conf_store_is_file(w->conf))
		s->store_conf.breaker = &s->plant->breakers[0];
	if (!conf_store_is_file(w->conf) && !node_number(s->store_conf.dir, &s->store_conf.node))
		return WORKER_EXIT_FAIL;
	atomic_store(&s->plant->sync_state, SYNC_STARTING);
	atomic_store(&s->plant->journal_quota, (uint64_t)conf_int(w->conf, CONF_JOURNAL_QUOTA));
	s->ns = util_zalloc(sizeof(*s->ns) * PLANT_NAMESPACES);
	s->max_age_us = conf_int(w->conf, CONF_SYNC_MAX_AGE);
	s->pending_max = (uint32_t)conf_int(w->conf, CONF_JOURNAL_PENDING_MAX);
	s->relaxed_default = strcmp(conf_str(w->conf, CONF_JOURNAL_DURABILITY), "relaxed") == 0;
	open_segments(s);
	trust_begin(&s->plant->trust); /* what a predecessor had not noted yet, nobody does */
	configure_breaker(w);
	if (!atomic_load(&s->plant->born_us))
		atomic_store(&s->plant->born_us, clock_real_us());
	prune_conf(s, w->conf);
	s->tracer = trace_open(FD_SHM_SPANS, w->slot, w->stats);
	atomic_store(&s->tracing, trace_conf(s->tracer, w->conf));
	index_file_open(s);
	/* api and warmer start now; they answer "starting" until served_once is set. */
	atomic_store_explicit(&s->plant->h.formatted, 1, memory_order_release);
	posts.efd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	posts.ev = event_new(w->base, posts.efd, EV_READ | EV_PERSIST, on_post, s);
	event_add(posts.ev, NULL);
	/* A store or journal that cannot be opened keeps the daemon up, saying why (api answers 503 with
	 * plant->reason). A successor may find that it is over: a full disk, a locked store. */
	struct store *store = open_store(s, &flushed);
	bool late = !store && !conf_store_is_file(w->conf);
	if (late)
		flushed = without_store(s);
	if (!notices_open(s))
		return WORKER_EXIT_FATAL;
	if (store)
		index_load(s, store);
	uint64_t last = store || late ? open_journal(s, store, flushed) : 0;
	atomic_store(&s->plant->ack_store, choose_ack(s));
	if ((!store && !late) || !s->journal) {
		static const struct timeval later = {2, 0};
		s->failed = true;
		if (atomic_load(&s->plant->served_once))
			refuse_everything(s);
		event_base_once(w->base, -1, EV_TIMEOUT, try_again, s, &later);
		return 0;
	}
	start_serving(s, store, flushed == JOURNAL_ALL ? 0 : flushed, last);
	if (store && atomic_load(&s->plant->refill_state) == REFILL_RUNNING)
		refill_start(s); /* our predecessor died in it */
	return 0;
}

/* ---- life ---- */

static bool rings_hold_more(const struct sync *s)
{
	bool more = false;
	for (unsigned slot = 0; slot < SLOT_COUNT && !more; slot++) {
		const struct peer *p = &s->peer[slot];
		more = p->requests && p->peeked != ring_head(p->requests) + ring_used(p->requests);
	}
	return more;
}

static void sync_on_wake(struct worker *w)
{
	struct sync *s = w->role_data;
	if (!s->open || s->draining)
		return;
	sync_enter(s);
	bool again = commit_gather(s);
	if (!again) {
		wake_prepare(&s->plant->wake[SLOT_SYNC]);
		/* A full group leaves records in the rings; the completion of the one before it drains them. */
		again = rings_hold_more(s) && intake_room(s->open);
		if (again)
			wake_cancel(&s->plant->wake[SLOT_SYNC]);
	}
	sync_leave(s);
	if (again)
		worker_wake_self(w);
}

/* The rings of a slot are looked at from its first worker on. A producer killed between publishing a record and
 * ringing our bell leaves it unseen. */
static void sync_peer_started(struct worker *w, unsigned slot)
{
	struct sync *s = w->role_data;
	if (s->open) {
		sync_enter(s);
		intake_open(s, slot);
		sync_leave(s);
	}
	worker_wake_self(w);
}

/* All that was taken from the rings is durable and answered, and nothing is left in them but for a successor. */
static void settle(struct sync *s)
{
	while (s->committer) {
		sync_enter(s);
		(void)commit_gather(s);
		run_posts(s);
		bool idle = commit_idle(s) && !s->open->n;
		sync_leave(s);
		if (idle)
			commit_stop(&s->committer);
		else
			usleep(200);
	}
}

static void finish(struct sync *s)
{
	int64_t since_us = clock_mono_us();
	late_stop(s);
	feed_stop(s);
	refill_stop(s);
	indexer_stop(s);
	settle(s);
	FAULT_POINT(drain_committed);
	flusher_stop(&s->flusher);
	FAULT_POINT(drain_flushed);
	run_posts(s);
	index_file_leave(s, since_us);
	if (s->journal)
		journal_close(&s->journal);
}

/* A successor goes on at once: what waits in the rings and for the store is its own, and the shared
 * segments stay as they are, the state in them too, so that api workers take writes all the while. The store
 * is left as after a crash: to close it would take the time of a checkpoint. */
static void hand_over(struct sync *s)
{
	late_stop(s);
	feed_stop(s);
	refill_stop(s);
	indexer_stop(s);
	sync_enter(s);
	s->leaving = true;
	sync_leave(s);
	settle(s);
	FAULT_POINT(handover_settled);
	flusher_leave(s->flusher);
	FAULT_POINT(handover_left);
	if (s->journal)
		journal_close(&s->journal);
}

static void sync_drain(struct worker *w)
{
	struct sync *s = w->role_data;
	if (w->orphan) { /* the journal has all that was acknowledged; the successor flushes it */
		_exit(WORKER_EXIT_OK);
	}
	s->draining = true;
	if (w->leave.whole) {
		atomic_store(&s->plant->sync_state, SYNC_DRAINING);
		finish(s);
	} else {
		hand_over(s);
	}
	notices_close(s);
	worker_exit(w, WORKER_EXIT_OK);
}

static int sync_conf_prepare(struct worker *w, const struct conf *next, char **error_r)
{
	(void)w, (void)next, (void)error_r;
	return 0;
}

static void sync_conf_commit(struct worker *w)
{
	struct sync *s = w->role_data;
	configure_breaker(w);
	s->max_age_us = conf_int(w->conf, CONF_SYNC_MAX_AGE);
	cache_policy_from(w->conf, s->store_ops && s->store_ops->fleet, &s->policy);
	prune_conf(s, w->conf);
	index_file_conf(s, w->conf);
	atomic_store(&s->tracing, trace_conf(s->tracer, w->conf));
	if (s->flusher)
		flusher_conf(s->flusher, w->conf);
}

static void sync_load(struct worker *w, uint64_t *waiting_r, uint64_t *working_r)
{
	struct sync *s = w->role_data;
	*waiting_r = atomic_load(&s->plant->applied_seq) - atomic_load(&s->plant->flushed_seq);
	sync_enter(s);
	for (unsigned slot = 0; slot < SLOT_COUNT; slot++)
		*working_r += s->peer[slot].held;
	sync_leave(s);
}

const struct worker_role sync_role = {
	.name = "sync",
	.init = sync_init,
	.on_wake = sync_on_wake,
	.conf_prepare = sync_conf_prepare,
	.conf_commit = sync_conf_commit,
	.drain = sync_drain,
	.load = sync_load,
	.peer_started = sync_peer_started,
};
