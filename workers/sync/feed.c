/* The feed: what the other daemons of the fleet have written reaches this one's caches and index.
 *
 * A thread reads the changes and then the rows as they are now; the loop applies them. A row that is read may be
 * older than what this daemon has written meanwhile: the loop knows, and only lets go of what it has cached then.
 * Our own changes pass by unread, except those of memories that others have written to as well: which of two
 * writes has won is what the store says behind both. */
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "clock.h"
#include "log.h"
#include "sync.h"

#define BATCHES_AT_ONCE 32
#define ROWS_AT_ONCE 256
#define POLL_US 1000000	     /* with wake-ups: in case one is lost */
#define POLL_ALONE_US 100000 /* without */
#define RETRY_US 300000
#define COUNT_EVERY_US 10000000
#define CONTESTED 65536 /* memories whose writers are several, as far back as is remembered; power of two */

struct feed_row {
	struct uuid id;
	uint64_t version, ns;
	int64_t expires_us;
	bool there; /* live; else it is gone */
	bool indexed;
	struct span body;
	uint32_t dim;
	float *x;
	char *bytes;
};
struct feed {
	struct sync *s;
	struct store *store;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t taken;
	bool busy;
	_Atomic bool stop;
	uint64_t revision; /* read up to here */
	bool failed;
	int64_t count_at_us;
	struct uuid contested[CONTESTED];
	/* What is handed to the loop. */
	struct store_change *changes;
	size_t nchanges, cchanges;
	struct feed_row *rows;
	size_t nrows, crows;
	uint64_t flushed; /* what the store had when the rows were read */
	uint64_t to;
	bool all; /* everything may have changed: the feed is no longer kept so far back */
};

/* ---- the thread: reading ---- */

static struct uuid *contested_slot(struct feed *f, const struct uuid *id)
{
	return &f->contested[record_id_key(id) & (CONTESTED - 1)];
}

static bool wanted(struct feed *f, const struct store_change *c)
{
	struct uuid *slot = contested_slot(f, &c->id);
	if (c->kind == CHANGE_NAMESPACE || c->kind == CHANGE_NS_DROP)
		return c->node != f->s->store_conf.node;
	if (c->node == f->s->store_conf.node)
		return uuid_cmp(slot, &c->id) == 0;
	*slot = c->id;
	return true;
}

static bool note_change(void *arg, const struct store_change *c)
{
	struct feed *f = arg;
	bool own = c->node == f->s->store_conf.node;
	if (!wanted(f, c) && (own || !(c->count || c->bytes)))
		return true;
	if (f->nchanges == f->cchanges) {
		f->cchanges = f->cchanges ? 2 * f->cchanges : 256;
		f->changes = util_realloc(f->changes, f->cchanges * sizeof(*f->changes));
	}
	struct store_change *to = &f->changes[f->nchanges++];
	*to = *c;
	to->namespace.p = util_strndup(c->namespace.p, c->namespace.len);
	return true;
}

static bool is_memory(const struct store_change *c) { return c->kind != CHANGE_NAMESPACE && c->kind != CHANGE_NS_DROP; }

static bool note_row(void *arg, const struct memory *m)
{
	struct feed *f = arg;
	if (f->nrows == f->crows) {
		f->crows = f->crows ? 2 * f->crows : 256;
		f->rows = util_realloc(f->rows, f->crows * sizeof(*f->rows));
	}
	struct feed_row *r = &f->rows[f->nrows++];
	size_t vector = m->embedding ? m->dim * sizeof(float) : 0;
	*r = (struct feed_row){.id = m->id,
			       .version = m->version,
			       .ns = m->ns,
			       .expires_us = m->expires_us,
			       .there = !m->deleted_us,
			       .indexed = !m->deleted_us && !(m->flags & MEMORY_SUPERSEDED),
			       .dim = vector ? m->dim : 0,
			       .bytes = util_alloc(vector + m->body.len + 1)};
	r->x = (float *)(void *)r->bytes;
	if (vector)
		memcpy(r->bytes, m->embedding, vector);
	memcpy(r->bytes + vector, m->body.p, m->body.len);
	r->body = (struct span){r->bytes + vector, m->body.len};
	return true;
}

static enum store_rc read_rows(struct feed *f)
{
	struct uuid ids[ROWS_AT_ONCE];
	enum store_rc rc = STORE_OK;
	size_t n = 0;
	for (size_t i = 0; i < f->nchanges && rc == STORE_OK; i++) {
		if (is_memory(&f->changes[i]))
			ids[n++] = f->changes[i].id;
		if (n == ROWS_AT_ONCE || (n && i + 1 == f->nchanges)) {
			rc = f->s->store_ops->get_many(f->store, ids, n, true, note_row, f);
			n = 0;
		}
	}
	return rc == STORE_NOT_FOUND ? STORE_OK : rc;
}

static void forget_batch(struct feed *f)
{
	for (size_t i = 0; i < f->nchanges; i++)
		free((void *)(uintptr_t)f->changes[i].namespace.p);
	for (size_t i = 0; i < f->nrows; i++)
		free(f->rows[i].bytes);
	f->nchanges = f->nrows = 0;
	f->all = false;
}

/* ---- the loop: applying ---- */

static int by_id(const void *a, const void *b)
{
	return uuid_cmp(&((const struct feed_row *)a)->id, &((const struct feed_row *)b)->id);
}

static void index_row(struct sync *s, const struct feed_row *r)
{
	/* Another content of the same version: two daemons wrote it at the same time, and one has won. */
	if (vectors_version(s->vectors, &r->id) == r->version)
		vectors_remove(s->vectors, &r->id, r->version);
	if (!r->indexed || !r->dim)
		vectors_remove(s->vectors, &r->id, r->version);
	else if (vectors_insert(s->vectors, r->ns, &r->id, r->version, r->expires_us, r->dim, r->x))
		log_debug("no room in the vector index for what another daemon wrote");
}

static void apply_row(struct sync *s, const struct feed_row *r, uint64_t flushed)
{
	struct pending_entry e;
	struct cache_meta meta = {.ns = r->ns, .version = r->version, .expires_us = r->expires_us};
	cache_remove(s->cache, CACHE_MEMORY, &r->id);
	/* What is read from the pending table and what was written since the rows were read is newer, or the store
	 * has yet to decide: then the feed brings it again. */
	if (pending_find_id(s->pending, &r->id, &e) || !recent_unchanged(s->recent, record_id_key(&r->id), flushed))
		return;
	index_row(s, r);
	if (r->there)
		cache_put(s->cache, CACHE_MEMORY, &r->id, &meta, r->body.p, r->body.len);
}

static void apply_gone(struct sync *s, const struct store_change *c)
{
	vectors_remove(s->vectors, &c->id, c->version);
	cache_remove(s->cache, CACHE_MEMORY, &c->id);
}

static void drop_namespace(struct sync *s, struct ns_state *n)
{
	n->exists = n->dim = n->relaxed = 0;
	n->count = n->bytes = n->quota_bytes = n->quota_count = 0;
	n->embedder[0] = 0;
	apply_namespace(s, n); /* before the purge, as in apply.c */
	vectors_drop(s->vectors, n->ns);
	cache_purge_ns(s->cache, n->ns);
}

/* Both may have counted the same deletion. */
static uint64_t plus(uint64_t v, int64_t by) { return by < 0 && (uint64_t)-by > v ? 0 : v + (uint64_t)by; }

static void apply_change(struct feed *f, struct sync *s, const struct store_change *c)
{
	uint64_t ns = record_ns(c->namespace);
	struct ns_state *n = sequence_ns_make(s, ns, c->namespace);
	const struct feed_row key = {.id = c->id}, *row = is_memory(c) && f->nrows
								  ? bsearch(&key, f->rows, f->nrows, sizeof(key), by_id)
								  : NULL;
	if (!n)
		return; /* the table of namespaces is full: said when it happened */
	if (c->node != s->store_conf.node) {
		n->count = plus(n->count, c->count);
		n->bytes = plus(n->bytes, c->bytes);
	}
	if (c->kind == CHANGE_NS_DROP) {
		drop_namespace(s, n);
		return;
	}
	if (c->kind != CHANGE_NAMESPACE) {
		n->exists = 1;
		if (row)
			apply_row(s, row, f->flushed);
		else
			apply_gone(s, c);
	}
	apply_namespace(s, n);
}

/* Quotas, spaces and what exists are the store's to say. */
static void take_namespace(void *arg, const struct store_ns *row)
{
	struct sync *s = arg;
	struct ns_state *n = sequence_ns_make(s, row->ns, SPAN(row->name));
	if (!n)
		return;
	n->quota_count = row->quota_count;
	n->quota_bytes = row->quota_bytes;
	n->relaxed = row->relaxed || s->relaxed_default;
	n->created_us = row->created_us;
	n->exists |= row->exists;
	if (!n->dim && row->dim) {
		n->dim = row->dim;
		memcpy(n->embedder, row->embedder, sizeof(n->embedder));
	}
	apply_namespace(s, n);
}

static void apply_all(struct sync *s)
{
	for (size_t i = 0; i < PLANT_NAMESPACES; i++) {
		if (!s->ns[i].ns)
			continue;
		vectors_drop(s->vectors, s->ns[i].ns);
		cache_purge_ns(s->cache, s->ns[i].ns);
	}
	atomic_store(&s->plant->refill_state, REFILL_NONE);
	refill_start(s);
}

static void apply_batch_of_feed(struct sync *s, void *arg)
{
	struct feed *f = arg;
	if (s->feed != f)
		return;
	if (f->all)
		apply_all(s);
	if (f->nrows)
		qsort(f->rows, f->nrows, sizeof(*f->rows), by_id);
	for (size_t i = 0; i < f->nchanges; i++)
		apply_change(f, s, &f->changes[i]);
	atomic_store_explicit(&s->plant->feed_revision, f->to, memory_order_release);
	atomic_store_explicit(&s->plant->feed_us, clock_mono_us(), memory_order_relaxed);
	pthread_mutex_lock(&f->lock);
	f->busy = false;
	pthread_cond_signal(&f->taken);
	pthread_mutex_unlock(&f->lock);
}

/* ---- the thread ---- */

static bool hand_over(struct feed *f)
{
	pthread_mutex_lock(&f->lock);
	f->busy = true;
	pthread_mutex_unlock(&f->lock);
	sync_post(f->s, apply_batch_of_feed, f);
	pthread_mutex_lock(&f->lock);
	while (f->busy && !atomic_load(&f->stop))
		pthread_cond_wait(&f->taken, &f->lock);
	pthread_mutex_unlock(&f->lock);
	return !atomic_load(&f->stop);
}

struct namespaces {
	struct store_ns *v;
	size_t n, cap;
	uint64_t applied; /* sequence; 0: whatever was written, the counters are not taken */
};

static void keep_namespace(void *arg, const struct store_ns *row)
{
	struct namespaces *l = arg;
	if (l->n == l->cap) {
		l->cap = l->cap ? 2 * l->cap : 64;
		l->v = util_realloc(l->v, l->cap * sizeof(*l->v));
	}
	l->v[l->n++] = *row;
}

/* Each daemon counts by what it knows when it writes, which another one's write may have changed: now and then,
 * when nothing is under way, the counters are the store's. */
static void take_counters(struct sync *s, const struct store_ns *row)
{
	struct ns_state *n = sequence_ns(s, row->ns);
	if (!n || (n->count == row->count && n->bytes == row->bytes))
		return;
	n->count = row->count;
	n->bytes = row->bytes;
	apply_namespace(s, n);
}

static void apply_namespaces_of_feed(struct sync *s, void *arg)
{
	struct namespaces *l = arg;
	bool quiet = l->applied && l->applied == s->next_seq - 1 && !pending_count(s->pending);
	for (size_t i = 0; i < l->n; i++) {
		take_namespace(s, &l->v[i]);
		if (quiet)
			take_counters(s, &l->v[i]);
	}
	free(l->v);
	free(l);
}

/* A namespace that we do not know, or one that was changed: its row says more than the change does. */
static enum store_rc read_namespaces(struct feed *f)
{
	bool quiet = f->nchanges == 0 && clock_mono_us() >= f->count_at_us && !pending_count(f->s->pending);
	bool needed = f->all || quiet;
	if (quiet)
		f->count_at_us = clock_mono_us() + COUNT_EVERY_US;
	for (size_t i = 0; i < f->nchanges && !needed; i++) {
		const struct plant_namespace *row = plant_find(f->s->plant, record_ns(f->changes[i].namespace));
		needed = f->changes[i].kind == CHANGE_NAMESPACE || !row ||
			 !atomic_load_explicit(&row->dim, memory_order_acquire);
	}
	if (!needed)
		return STORE_OK;
	struct namespaces *l = util_zalloc(sizeof(*l));
	l->applied = quiet ? atomic_load(&f->s->plant->applied_seq) : 0;
	enum store_rc rc = f->s->store_ops->namespaces(f->store, keep_namespace, l);
	if (rc == STORE_OK) {
		sync_post(f->s, apply_namespaces_of_feed, l); /* before the changes: posts keep their order */
	} else {
		free(l->v);
		free(l);
	}
	return rc;
}

/* One round. False: the store did not answer. */
static bool follow(struct feed *f, bool *more_r)
{
	const struct store_ops *ops = f->s->store_ops;
	uint64_t last = f->revision;
	f->flushed = atomic_load(&f->s->plant->flushed_seq);
	enum store_rc rc = ops->changes(f->store, f->revision, BATCHES_AT_ONCE, note_change, f, &last);
	f->all = rc == STORE_NOT_FOUND;
	if (f->all)
		log_warn("the feed is no longer kept as far back as revision %llu: everything is read again",
			 (unsigned long long)f->revision);
	if (rc == STORE_OK || f->all)
		rc = read_rows(f);
	if (rc == STORE_OK)
		rc = read_namespaces(f);
	*more_r = last != f->revision;
	bool go_on = rc == STORE_OK;
	if (go_on) {
		f->to = last;
		if (*more_r && hand_over(f))
			f->revision = last;
		atomic_store_explicit(&f->s->plant->feed_us, clock_mono_us(), memory_order_relaxed);
	}
	forget_batch(f);
	return go_on;
}

static void trouble(struct feed *f, const char *why)
{
	if (!f->failed)
		log_warn("the feed of the fleet cannot be followed: %s", why);
	f->failed = true;
	atomic_store_explicit(&f->s->plant->feed_lost, 1, memory_order_release);
}

static void well_again(struct feed *f)
{
	if (f->failed)
		log_info("the feed of the fleet is followed again, from revision %llu",
			 (unsigned long long)f->revision);
	f->failed = false;
	atomic_store_explicit(&f->s->plant->feed_lost, 0, memory_order_release);
}

static void pause_us(struct feed *f, int64_t us)
{
	for (; us > 0 && !atomic_load(&f->stop); us -= 20000)
		usleep(20000);
}

static void *feed_main(void *arg)
{
	struct feed *f = arg;
	const struct store_ops *ops = f->s->store_ops;
	prctl(PR_SET_NAME, "feed");
	while (!atomic_load(&f->stop)) {
		char *error = NULL;
		bool more = false;
		if (!f->store && !(f->store = ops->open(&f->s->feed_conf, false, &error))) {
			trouble(f, error ? error : "unknown");
			free(error);
			pause_us(f, RETRY_US);
			continue;
		}
		if (!follow(f, &more)) {
			trouble(f, ops->error(f->store));
			pause_us(f, RETRY_US);
			continue;
		}
		if (!more) {
			well_again(f);
			if (ops->listen(f->store, POLL_US, &f->stop) != STORE_OK)
				pause_us(f, POLL_ALONE_US);
		}
	}
	if (f->store)
		ops->close(f->store);
	return NULL;
}

void feed_start(struct sync *s)
{
	if (!s->store_ops->fleet)
		return;
	struct feed *f = util_zalloc(sizeof(*f));
	f->s = s;
	f->revision = atomic_load(&s->plant->feed_revision);
	pthread_mutex_init(&f->lock, NULL);
	pthread_cond_init(&f->taken, NULL);
	s->feed_conf = s->store_conf;
	s->feed_conf.purpose = "feed";
	s->feed = f;
	if (!pthread_create(&f->thread, NULL, feed_main, f))
		return;
	log_error("no thread to follow the feed of the fleet");
	exit(WORKER_EXIT_FAIL);
}

void feed_stop(struct sync *s)
{
	struct feed *f = s->feed;
	if (!f)
		return;
	pthread_mutex_lock(&f->lock);
	atomic_store(&f->stop, true);
	pthread_cond_signal(&f->taken);
	pthread_mutex_unlock(&f->lock);
	pthread_join(f->thread, NULL);
	s->feed = NULL;
	free(f->changes);
	free(f->rows);
	free(f);
}
