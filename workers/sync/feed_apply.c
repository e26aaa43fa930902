/* The feed's changes in this daemon's caches, index and counters: on the loop, between its own writes. */
#include <stdlib.h>

#include "clock.h"
#include "feed-private.h"
#include "index_file.h"
#include "log.h"

static int by_id(const void *a, const void *b)
{
	return uuid_cmp(&((const struct feed_row *)a)->id, &((const struct feed_row *)b)->id);
}

/* What this daemon writes is newer than what was read, or the store has yet to decide: until then what others wrote
 * is only let go of. */
static bool undecided(struct feed *f, struct sync *s, const struct uuid *id)
{
	struct pending_entry e;
	if (!pending_find_id(s->pending, id, &e) && recent_unchanged(s->recent, record_id_key(id), f->flushed))
		return false;
	feed_again(f, id);
	return true;
}

/* row: NULL when the store has none. */
static void apply_memory(struct feed *f, struct sync *s, const struct uuid *id, const struct feed_row *r)
{
	cache_remove(s->cache, CACHE_MEMORY, id);
	if (undecided(f, s, id))
		return;
	if (!r) {
		index_take_out(s, id);
		return;
	}
	struct cache_meta meta = cache_policy_memory(&s->policy, r->ns, r->version, r->expires_us);
	index_winner(s, &(struct indexable){.ns = r->ns,
					    .id = *id,
					    .version = r->version,
					    .expires_us = r->expires_us,
					    .found = r->indexed,
					    .content = r->content,
					    .dim = r->dim,
					    .x = r->x});
	if (r->there)
		cache_put(s->cache, CACHE_MEMORY, id, &meta, r->body.p, r->body.len);
}

static const struct feed_row *row_of(const struct feed *f, const struct uuid *id)
{
	const struct feed_row key = {.id = *id};
	return f->nrows ? bsearch(&key, f->rows, f->nrows, sizeof(key), by_id) : NULL;
}

/* Who has won is known now. Answers of searches that were found meanwhile are not right any more. */
static void apply_second(struct feed *f, struct sync *s, const struct uuid *id)
{
	const struct feed_row *r = row_of(f, id);
	struct ns_state *n = r ? sequence_ns(s, r->ns) : NULL;
	trust_changed(&s->plant->trust, id, f->to);
	apply_memory(f, s, id, r);
	if (n)
		apply_namespace(s, n);
	else
		apply_namespaces(s); /* it is gone, and which one it was in is not known */
}

/* Its language is what its row said, which was read after the change. */
static void drop_namespace(struct sync *s, struct ns_state *n)
{
	n->exists = n->dim = n->relaxed = 0;
	n->count = n->bytes = n->quota_bytes = n->quota_count = 0;
	n->embedder[0] = 0;
	apply_namespace(s, n); /* before the purge, as in apply.c */
	index_drop(s, n->ns);
	cache_purge(s->cache, &(struct cache_match){.ns = n->ns});
}

static void apply_change(struct feed *f, struct sync *s, const struct store_change *c)
{
	uint64_t ns = record_ns(c->namespace);
	struct ns_state *n = sequence_ns_make(s, ns, c->namespace);
	if (!n)
		return; /* the table of namespaces is full: said when it happened */
	if (c->node != s->store_conf.node) {
		n->count += (uint64_t)c->count;
		n->bytes += (uint64_t)c->bytes;
	}
	if (c->kind == CHANGE_NS_DROP) {
		trust_all_changed(&s->plant->trust, c->revision);
		drop_namespace(s, n);
		return;
	}
	if (c->kind != CHANGE_NAMESPACE) {
		n->exists = 1;
		trust_changed(&s->plant->trust, &c->id, c->revision);
		apply_memory(f, s, &c->id, row_of(f, &c->id));
	}
	apply_namespace(s, n);
}

/* Quotas, spaces and what exists are the store's to say. */
static void take_namespace(struct sync *s, const struct store_ns *row, uint64_t flushed)
{
	struct ns_state *n = sequence_ns_make(s, row->ns, SPAN(row->name));
	if (!n)
		return;
	n->quota_count = row->quota_count;
	n->quota_bytes = row->quota_bytes;
	n->relaxed = row->relaxed || s->relaxed_default;
	n->created_us = row->created_us;
	n->exists |= row->exists;
	sequence_language(s, n, row->language, flushed);
	if (!n->dim && row->dim) {
		n->dim = row->dim;
		memcpy(n->embedder, row->embedder, sizeof(n->embedder));
	}
	apply_namespace(s, n);
}

/* A server whose revisions go back has lost some: copies from then must not be believed when it gets there again. */
static void apply_all(struct sync *s, uint64_t to)
{
	for (size_t i = 0; i < PLANT_NAMESPACES; i++) {
		if (!s->ns[i].ns)
			continue;
		index_drop(s, s->ns[i].ns);
		cache_purge(s->cache, &(struct cache_match){.ns = s->ns[i].ns});
	}
	trust_all_changed(&s->plant->trust, to);
	atomic_store(&s->plant->refill_state, REFILL_NONE);
	refill_start(s);
}

void feed_apply(struct sync *s, void *arg)
{
	struct feed *f = arg;
	if (s->feed != f)
		return;
	if (f->all)
		apply_all(s, f->to > f->revision ? f->to : f->revision);
	if (f->nrows)
		qsort(f->rows, f->nrows, sizeof(*f->rows), by_id);
	for (size_t i = 0; i < f->nchanges; i++)
		apply_change(f, s, &f->changes[i]);
	for (size_t i = 0; i < f->second.n; i++)
		apply_second(f, s, &f->second.v[i]);
	atomic_store_explicit(&s->plant->feed_revision, f->to, memory_order_release);
	atomic_store_explicit(&s->plant->feed_us, clock_mono_us(), memory_order_relaxed);
	pthread_mutex_lock(&f->lock);
	if (!f->again.n)
		s->index_file->revision = f->to;
	f->busy = false;
	pthread_cond_signal(&f->taken);
	pthread_mutex_unlock(&f->lock);
}

/* What another daemon's write has changed about ours, drift() of the store says; what was missed between the reading of
 * the namespaces and that of the feed nobody does: now and then, when nothing is under way, the counters are the store's. */
static void take_counters(struct sync *s, const struct store_ns *row)
{
	struct ns_state *n = sequence_ns(s, row->ns);
	if (!n || (n->count == row->count && n->bytes == row->bytes))
		return;
	n->count = row->count;
	n->bytes = row->bytes;
	apply_namespace(s, n);
}

void feed_apply_namespaces(struct sync *s, void *arg)
{
	struct feed_namespaces *l = arg;
	bool quiet = l->applied && l->applied == s->next_seq - 1 && !pending_count(s->pending);
	for (size_t i = 0; i < l->ngone; i++)
		postings_drop(s->postings, l->gone[i]); /* or its words would seem to be of another language */
	for (size_t i = 0; i < l->n; i++) {
		take_namespace(s, &l->v[i], l->flushed);
		if (quiet)
			take_counters(s, &l->v[i]);
	}
	free(l->gone);
	free(l->v);
	free(l);
}
