/* What was acknowledged and visible, and what the store then did not accept, must not be shown for ever: behind the cursor a
 * memory is what the store has. L1 forgets it, the indexes get the store's row, counters are corrected. Nothing is
 * done to what has changed meanwhile: its own write has told everybody. */
#define LOG_SUBSYSTEM LOG_IN_STORE
#include <stdlib.h>

#include "fault.h"
#include "flusher-private.h"
#include "index_file.h"
#include "log.h"

/* ---- the flusher's side ---- */

void mend_add(struct flusher *f, const struct ahead *a)
{
	if (a->type == OP_IDEM)
		return;
	GROW(f->mends, f->nmends, f->cmends);
	f->mends[f->nmends++] = (struct mend){
		.type = a->type, .seq = a->seq, .ns = a->ns, .version = a->version, .id = a->id};
}

static bool see_memory(void *arg, const struct memory *m)
{
	struct mend *d = arg;
	d->row_version = m->version;
	d->expires_us = m->expires_us;
	d->found = !m->deleted_us && !(m->flags & MEMORY_SUPERSEDED);
	d->dim = d->found && m->embedding ? m->dim : 0;
	if (d->dim) {
		d->x = util_alloc(d->dim * sizeof(float));
		memcpy(d->x, m->embedding, d->dim * sizeof(float));
	}
	d->content = util_strndup(m->content.p ? m->content.p : "", m->content.len);
	d->content_len = m->content.len;
	return false;
}

static void see_namespace(void *arg, const struct store_ns *n)
{
	struct mend *d = arg;
	if (n->ns != d->ns)
		return;
	d->row = *n;
	d->found = true;
}

static bool look(struct flusher *f, struct mend *d)
{
	const struct store_ops *ops = f->s->store_ops;
	enum store_rc rc = d->type == OP_PUT || d->type == OP_DELETE ? ops->get(f->store, &d->id, true, see_memory, d)
								     : ops->namespaces(f->store, see_namespace, d);
	return rc == STORE_OK || rc == STORE_NOT_FOUND;
}

void mend_look(struct flusher *f, struct flushed_note *n)
{
	size_t i = 0;
	while (i < f->nmends && look(f, &f->mends[i]))
		i++;
	n->unmended = f->nmends - i;
	if (!i)
		return;
	n->nmend = i;
	n->mend = util_alloc(i * sizeof(*n->mend));
	memcpy(n->mend, f->mends, i * sizeof(*n->mend));
	f->nmends -= i;
	memmove(f->mends, f->mends + i, f->nmends * sizeof(*f->mends));
}

/* ---- the loop's side ---- */

static void mend_memory(struct sync *s, const struct mend *d)
{
	struct pending_entry e;
	struct ns_state *n = sequence_ns(s, d->ns);
	bool newer = pending_find_id(s->pending, &d->id, &e);
	if (!newer) {
		index_remove(s, &d->id, d->version);
		if (d->found && n && n->exists)
			index_memory(s, &(struct indexable){.ns = d->ns,
							    .id = d->id,
							    .version = d->row_version,
							    .expires_us = d->expires_us,
							    .found = true,
							    .content = {d->content, d->content_len},
							    .dim = d->dim,
							    .x = d->x});
		FAULT_POINT(mend_half);
	}
	cache_remove(s->cache, CACHE_MEMORY, &d->id);
	if (n)
		apply_namespace(s, n); /* its generation moves */
}

/* Settings that were given meanwhile stay; a namespace that has memories exists. */
static void mend_namespace(struct sync *s, const struct mend *d)
{
	struct ns_state *n = sequence_ns(s, d->ns);
	const struct store_ns *r = &d->row;
	if (!n || recent_seq(s->recent, record_ns_key(d->ns)) > d->seq)
		return;
	n->exists = d->found ? r->exists : sequence_counter(n->count) > 0;
	n->quota_bytes = d->found ? r->quota_bytes : 0;
	n->quota_count = d->found ? r->quota_count : 0;
	n->relaxed = (d->found && r->relaxed) || s->relaxed_default;
	sequence_language(s, n, d->found ? d->row.language : LANGUAGE_ENGLISH, UINT64_MAX);
	if (d->type == OP_NS_DROP && d->found) { /* nothing was written to it since: it was being dropped */
		n->count = r->count;
		n->bytes = r->bytes;
		n->dim = r->dim;
		n->created_us = r->created_us;
		n->dropped_seq = 0;
		memcpy(n->embedder, r->embedder, sizeof(n->embedder));
		postings_lacks(s->postings, n->ns); /* the store has its words */
		postings_unfit(s->postings);
		log_warn(
			"the store did not drop namespace %.*s: it is there as before; until the next start of the daemon "
			"its vectors are not searched",
			(int)n->name_len, n->name);
	}
	apply_namespace(s, n);
}

static void fix_row(struct ns_state *n, const struct weight *by)
{
	n->count += (uint64_t)by->count;
	n->bytes += (uint64_t)by->bytes;
}

/* A group that is refused later puts its namespaces back to what they were: that is corrected, too. */
static void fix_counters(struct sync *s, const struct fix *x)
{
	struct ns_state *n = sequence_ns(s, x->ns);
	if (!n || (!x->by.count && !x->by.bytes))
		return;
	fix_row(n, &x->by);
	for (size_t b = 0; b < BATCHES; b++)
		for (size_t i = 0; i < s->batches[b].nundo; i++)
			if (s->batches[b].undo[i].row == n)
				fix_row(&s->batches[b].undo[i].old, &x->by);
	apply_namespace(s, n);
}

void mend_apply(struct sync *s, struct flushed_note *n)
{
	uint64_t seq = 0;
	for (size_t i = 0; i < n->nfix; i++)
		fix_counters(s, &n->fix[i]);
	s->index_file->mended += n->nmend;
	for (size_t i = 0; i < n->nmend; i++) {
		struct mend *d = &n->mend[i];
		FAULT_POINT(mend_begun);
		if (d->type == OP_PUT || d->type == OP_DELETE)
			mend_memory(s, d);
		else
			mend_namespace(s, d);
		free(d->x);
		free(d->content);
		seq = d->seq;
	}
	if (seq > atomic_load_explicit(&s->plant->dead_mended, memory_order_relaxed))
		atomic_store_explicit(&s->plant->dead_mended, seq, memory_order_relaxed);
	free(n->fix);
	free(n->mend);
}
