/* The feed: what the other daemons of the fleet have written reaches this one's caches and index.
 *
 * A thread reads the changes and then the rows as they are now; the loop applies them. A row that is read may be
 * older than what this daemon has written meanwhile: the loop knows, only lets go of what it has cached then, and has
 * the row read again when the store has our write, too: which of the two has won is what it says behind both. Our own
 * changes pass by unread; of those that have lost the flusher hears (mend.c). */
#define LOG_SUBSYSTEM LOG_IN_STORE
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "cache/l2.h"
#include "clock.h"
#include "feed-private.h"
#include "index_file.h"
#include "log.h"

#define BATCHES_AT_ONCE 32
#define ROWS_AT_ONCE 256
#define POLL_US 250000 /* with wake-ups: in case one is lost, and for readers to know that nothing was (tiers.c) */
#define POLL_ALONE_US 100000 /* without */
#define RETRY_US 300000
#define COUNT_EVERY_US 10000000
#define PAST_BATCHES 4096
#define PAST_AT_ONCE 64
#define AGAIN_US 20000 /* while something waits for our own write to be decided */

/* ---- the thread: reading ---- */

static bool note_change(void *arg, const struct store_change *c)
{
	struct feed *f = arg;
	if (c->node == f->s->store_conf.node)
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
			       .bytes = util_alloc(vector + m->body.len + m->content.len + 1)};
	r->x = (float *)(void *)r->bytes;
	if (vector)
		memcpy(r->bytes, m->embedding, vector);
	memcpy(r->bytes + vector, m->body.p, m->body.len);
	r->body = (struct span){r->bytes + vector, m->body.len};
	r->content = (struct span){r->body.p + m->body.len, m->content.len};
	if (m->content.len)
		memcpy(r->bytes + vector + m->body.len, m->content.p, m->content.len);
	return true;
}

static enum store_rc read_some(struct feed *f, const struct uuid *ids, size_t n)
{
	enum store_rc rc = n ? f->s->store_ops->get_many(f->store, ids, n, true, note_row, f) : STORE_OK;
	return rc == STORE_NOT_FOUND ? STORE_OK : rc;
}

static enum store_rc read_rows(struct feed *f)
{
	struct uuid ids[ROWS_AT_ONCE];
	enum store_rc rc = STORE_OK;
	size_t n = 0;
	for (size_t i = 0; i < f->nchanges && rc == STORE_OK; i++) {
		if (is_memory(&f->changes[i]))
			ids[n++] = f->changes[i].id;
		if (n == ROWS_AT_ONCE || i + 1 == f->nchanges) {
			rc = read_some(f, ids, n);
			n = 0;
		}
	}
	for (size_t i = 0; i < f->second.n && rc == STORE_OK; i += n) {
		n = f->second.n - i < ROWS_AT_ONCE ? f->second.n - i : ROWS_AT_ONCE;
		rc = read_some(f, f->second.v + i, n);
	}
	return rc;
}

/* ---- what is looked at again ---- */

void feed_ids_add(struct feed_ids *l, const struct uuid *id)
{
	if (l->n == l->cap) {
		l->cap = l->cap ? 2 * l->cap : 64;
		l->v = util_realloc(l->v, l->cap * sizeof(*l->v));
	}
	l->v[l->n++] = *id;
}

void feed_again(struct feed *f, const struct uuid *id)
{
	pthread_mutex_lock(&f->lock);
	feed_ids_add(&f->again, id);
	pthread_mutex_unlock(&f->lock);
}

static int by_bytes(const void *a, const void *b) { return uuid_cmp(a, b); }

static void unique(struct feed_ids *l)
{
	size_t kept = 0;
	if (l->n)
		qsort(l->v, l->n, sizeof(*l->v), by_bytes);
	for (size_t i = 0; i < l->n; i++)
		if (!i || uuid_cmp(&l->v[i], &l->v[kept - 1]) != 0)
			l->v[kept++] = l->v[i];
	l->n = kept;
}

/* When the store has got something of ours since the last time; before that nothing can have been decided. */
static void take_again(struct feed *f)
{
	pthread_mutex_lock(&f->lock);
	if (f->again.n && f->flushed != f->again_flushed) {
		struct feed_ids empty = f->second;
		f->second = f->again;
		f->again = empty;
		f->again.n = 0;
		f->again_flushed = f->flushed;
	}
	pthread_mutex_unlock(&f->lock);
	unique(&f->second);
}

static bool again_waits(struct feed *f)
{
	pthread_mutex_lock(&f->lock);
	bool waits = f->again.n;
	pthread_mutex_unlock(&f->lock);
	return waits;
}

/* Not applied: the next round does. */
static void keep_again(struct feed *f)
{
	for (size_t i = 0; i < f->second.n; i++)
		feed_again(f, &f->second.v[i]);
	f->again_flushed = 0;
}

static void forget_batch(struct feed *f)
{
	for (size_t i = 0; i < f->nchanges; i++)
		free((void *)(uintptr_t)f->changes[i].namespace.p);
	for (size_t i = 0; i < f->nrows; i++)
		free(f->rows[i].bytes);
	f->nchanges = f->nrows = f->second.n = 0;
	f->all = false;
}

/* ---- the thread ---- */

static bool hand_over(struct feed *f)
{
	pthread_mutex_lock(&f->lock);
	f->busy = true;
	pthread_mutex_unlock(&f->lock);
	sync_post(f->s, feed_apply, f);
	pthread_mutex_lock(&f->lock);
	while (f->busy && !atomic_load(&f->stop))
		pthread_cond_wait(&f->taken, &f->lock);
	pthread_mutex_unlock(&f->lock);
	return !atomic_load(&f->stop);
}

static void keep_namespace(void *arg, const struct store_ns *row)
{
	struct feed_namespaces *l = arg;
	if (l->n == l->cap) {
		l->cap = l->cap ? 2 * l->cap : 64;
		l->v = util_realloc(l->v, l->cap * sizeof(*l->v));
	}
	l->v[l->n++] = *row;
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
		needed = f->changes[i].kind == CHANGE_NAMESPACE || f->changes[i].kind == CHANGE_NS_DROP || !row ||
			 !atomic_load_explicit(&row->dim, memory_order_acquire);
	}
	if (!needed)
		return STORE_OK;
	struct feed_namespaces *l = util_zalloc(sizeof(*l));
	l->flushed = f->flushed;
	l->gone = util_alloc((f->nchanges + 1) * sizeof(*l->gone));
	for (size_t i = 0; i < f->nchanges; i++)
		if (f->changes[i].kind == CHANGE_NS_DROP)
			l->gone[l->ngone++] = record_ns(f->changes[i].namespace);
	l->applied = quiet ? atomic_load(&f->s->plant->applied_seq) : 0;
	enum store_rc rc = f->s->store_ops->namespaces(f->store, keep_namespace, l);
	if (rc == STORE_OK) {
		sync_post(f->s, feed_apply_namespaces, l); /* before the changes: posts keep their order */
	} else {
		free(l->gone);
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
	take_again(f);
	if (rc == STORE_OK || f->all)
		rc = read_rows(f);
	if (rc == STORE_OK)
		rc = read_namespaces(f);
	*more_r = last != f->revision;
	bool go_on = rc == STORE_OK;
	if (go_on) {
		f->to = last;
		if ((*more_r || f->second.n) && hand_over(f))
			f->revision = last;
		atomic_store_explicit(&f->s->plant->feed_us, clock_mono_us(), memory_order_relaxed);
	}
	if (!go_on)
		keep_again(f);
	forget_batch(f);
	return go_on;
}

/* ---- what happened before ---- */

static bool note_past(void *arg, const struct store_change *c)
{
	struct trust *t = &((struct feed *)arg)->s->plant->trust;
	if (is_memory(c))
		trust_changed(t, &c->id, c->revision);
	else if (c->kind == CHANGE_NS_DROP)
		((struct feed *)arg)->past_drop = c->revision;
	return true;
}

/* Reads the changes behind `after` without applying them. */
static enum store_rc read_past(struct feed *f, uint64_t after)
{
	enum store_rc rc = STORE_OK;
	for (uint64_t last = after; rc == STORE_OK && after < f->revision && !atomic_load(&f->stop); after = last) {
		rc = f->s->store_ops->changes(f->store, after, PAST_AT_ONCE, note_past, f, &last);
		if (last == after)
			break;
	}
	return rc;
}

/* Copies of memories that were made before this daemon began are believed as far as the feed tells what has changed
 * since. False: the store did not answer. */
static bool look_back(struct feed *f)
{
	uint64_t identity;
	if (f->s->store_ops->identity(f->store, &identity) != STORE_OK)
		return false;
	atomic_store(&f->s->plant->store_identity, identity ? identity : 1);
	if (f->s->l2)
		l2_set_store(f->s->l2, identity ? identity : 1);
	for (uint64_t far = PAST_BATCHES;; far /= 8) {
		uint64_t after = f->revision > far ? f->revision - far : 0;
		f->past_drop = 0;
		enum store_rc rc = read_past(f, after);
		if (rc == STORE_OK) {
			trust_since(&f->s->plant->trust, after > f->past_drop ? after : f->past_drop);
			return true;
		}
		if (rc != STORE_NOT_FOUND)
			return false;
		if (!far) { /* not even the present is kept: the feed itself begins anew */
			trust_since(&f->s->plant->trust, f->revision);
			return true;
		}
	}
}

static void trouble(struct feed *f, const char *why)
{
	if (!f->failed)
		log_warn_event(feed_lost, NULL, "the feed of the fleet cannot be followed: %s", why);
	f->failed = true;
	atomic_store_explicit(&f->s->plant->feed_lost, 1, memory_order_release);
}

static void well_again(struct feed *f)
{
	if (f->failed)
		log_info_event(feed_back, NULL, "the feed of the fleet is followed again, from revision %llu",
			       (unsigned long long)f->revision);
	f->failed = false;
	atomic_store_explicit(&f->s->plant->feed_lost, 0, memory_order_release);
}

static void pause_us(struct feed *f, int64_t us)
{
	int64_t until = clock_mono_us() + us;
	pthread_mutex_lock(&f->lock);
	while (!atomic_load(&f->stop) && !atomic_load(&f->hurry) && clock_wait_until(&f->taken, &f->lock, until))
		;
	atomic_store(&f->hurry, false);
	pthread_mutex_unlock(&f->lock);
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
		f->looked_back = f->looked_back || look_back(f);
		if (!f->looked_back || !follow(f, &more)) {
			trouble(f, ops->error(f->store));
			pause_us(f, RETRY_US);
			continue;
		}
		if (!more) {
			well_again(f);
			if (ops->listen(f->store, again_waits(f) ? AGAIN_US : POLL_US, &f->stop) != STORE_OK)
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
	f->revision = s->index_file->revision = atomic_load(&s->plant->feed_revision);
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

void feed_hurry(struct sync *s)
{
	struct feed *f = s->feed;
	if (!f)
		return;
	pthread_mutex_lock(&f->lock);
	atomic_store(&f->hurry, true);
	pthread_cond_signal(&f->taken);
	pthread_mutex_unlock(&f->lock);
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
	free(f->again.v);
	free(f->second.v);
	free(f);
}
