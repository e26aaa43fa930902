/* The indexes out of a file, when the daemon starts. What the store's feed tells of since the file's revision is read from the
 * store and put in, or taken out; what the journal still has comes after that, by its replay. A file that cannot be believed
 * is said so, and left: the refill reads everything from the store.
 *
 * The store must be there: without it nobody can tell what was deleted meanwhile, nor whether the file is of this store at
 * all. A server that is away at the start is waited for, as without a file, and the refill follows. */
#define LOG_SUBSYSTEM LOG_IN_INDEX
#include <errno.h>
#include <stdlib.h>

#include "clock.h"
#include "contract.h"
#include "fault.h"
#include "index_file.h"
#include "log.h"

#define BATCHES_AT_ONCE 64
#define ROWS_AT_ONCE 256
#define CHANGES_MAX                                                                                                    \
	65536 /* memories; reading more, one by one, keeps everybody waiting longer than a refill beside them */

struct load {
	struct sync *s;
	struct store *store;
	struct image *image;
	struct uuid *ids; /* what has changed since */
	size_t nids, cids;
	uint64_t *dropped; /* namespaces */
	size_t ndropped, cdropped;
	bool too_many, words; /* words: they are taken up */
	/* of the ids that are being read */
	const struct uuid *asked;
	bool *found;
	size_t nasked;
};

static void progress(void *arg) { worker_progress(((struct load *)arg)->s->w); }

/* ---- what has changed since ---- */

static bool note(void *arg, const struct store_change *c)
{
	struct load *l = arg;
	if (c->kind == CHANGE_NS_DROP) {
		if (l->ndropped == l->cdropped) {
			l->cdropped = l->cdropped ? 2 * l->cdropped : 16;
			l->dropped = util_realloc(l->dropped, l->cdropped * sizeof(*l->dropped));
		}
		l->dropped[l->ndropped++] = record_ns(c->namespace);
	} else if (c->kind != CHANGE_NAMESPACE) {
		if (l->nids == l->cids) {
			l->cids = l->cids ? 2 * l->cids : 256;
			l->ids = util_realloc(l->ids, l->cids * sizeof(*l->ids));
		}
		l->ids[l->nids++] = c->id;
	}
	l->too_many = l->nids > CHANGES_MAX || l->ndropped > PLANT_NAMESPACES;
	return !l->too_many;
}

static int by_bytes(const void *a, const void *b) { return uuid_cmp(a, b); }

/* NULL, or why not. */
static const char *gather_changes(struct load *l)
{
	const struct store_ops *ops = l->s->store_ops;
	uint64_t after = image_facts(l->image)->revision, last = after;
	size_t kept = 0;
	for (bool more = true; more; after = last) {
		enum store_rc rc = ops->changes(l->store, after, BATCHES_AT_ONCE, note, l, &last);
		worker_progress(l->s->w);
		if (l->too_many)
			return "too much has changed since it was saved";
		if (rc == STORE_NOT_FOUND)
			return "what has changed since it was saved is no longer known (changes.keep)";
		if (rc != STORE_OK)
			return "the store does not say what has changed since it was saved";
		more = last != after;
	}
	if (l->nids)
		qsort(l->ids, l->nids, sizeof(*l->ids), by_bytes);
	for (size_t i = 0; i < l->nids; i++)
		if (!kept || uuid_cmp(&l->ids[i], &l->ids[kept - 1]) != 0)
			l->ids[kept++] = l->ids[i];
	l->nids = kept;
	return NULL;
}

static const char *doubts(struct load *l)
{
	const struct store_ops *ops = l->s->store_ops;
	const struct image_facts *f = image_facts(l->image);
	uint64_t identity = 0;
	if (ops->identity && ops->identity(l->store, &identity) != STORE_OK)
		return "the store does not say which one it is";
	if (strncmp(f->kind, ops->kind, sizeof(f->kind)) != 0 || f->identity != identity ||
	    f->mark.revision < f->revision || !store_mark_holds(ops, l->store, &f->mark))
		return "it is not of this state of the store";
	return gather_changes(l);
}

static void forget_changes(struct load *l)
{
	free(l->ids);
	free(l->dropped);
	l->ids = NULL;
	l->dropped = NULL;
	l->nids = l->cids = l->ndropped = l->cdropped = 0;
	l->too_many = false;
}

/* The newest one that can be believed. */
static bool find_image(struct load *l)
{
	uint64_t below = 0;
	while ((l->image = image_open(l->s->store_conf.dir, below))) {
		const char *why = doubts(l);
		if (!why)
			return true;
		log_info("the saved indexes are not used: %s; they are made from the store", why);
		below = image_generation(l->image);
		image_close(&l->image);
		forget_changes(l);
	}
	return false;
}

/* ---- taking them up ---- */

static void *fill_words(void *arg)
{
	struct load *l = arg;
	l->words = postings_load(l->s->postings, FD_SHM_WORDS, l->image, NULL, NULL) == 0;
	return NULL;
}

/* Each index in a thread of its own: most of it is waiting for memory, and writing to one segment takes a lock of the kernel. */
static bool fill(struct load *l)
{
	struct sync *s = l->s;
	pthread_t thread;
	FAULT_POINT(index_loading);
	bool two = pthread_create(&thread, NULL, fill_words, l) == 0;
	bool vectors = vectors_load(s->vectors, FD_SHM_VECTORS, l->image, progress, l) == 0;
	if (two)
		pthread_join(thread, NULL);
	else
		(void)fill_words(l);
	return vectors && l->words;
}

static bool put(void *arg, const struct memory *m)
{
	struct load *l = arg;
	const struct uuid *id = bsearch(&m->id, l->asked, l->nasked, sizeof(m->id), by_bytes);
	if (id)
		l->found[id - l->asked] = true;
	index_winner(l->s, &(struct indexable){.ns = m->ns,
					       .version = m->version,
					       .id = m->id,
					       .expires_us = m->expires_us,
					       .found = !m->deleted_us && !(m->flags & MEMORY_SUPERSEDED),
					       .content = m->content,
					       .dim = m->embedding ? m->dim : 0,
					       .x = m->embedding});
	return true;
}

static bool catch_up_some(struct load *l, const struct uuid *ids, size_t n)
{
	bool found[ROWS_AT_ONCE] = {false};
	l->asked = ids;
	l->found = found;
	l->nasked = n;
	enum store_rc rc = l->s->store_ops->get_many(l->store, ids, n, true, put, l);
	for (size_t i = 0; i < n; i++)
		if (!found[i])
			index_take_out(l->s, &ids[i]);
	worker_progress(l->s->w);
	return rc == STORE_OK || rc == STORE_NOT_FOUND;
}

/* Whatever is alive in a namespace that was dropped was written after that, and is among the ids. */
static bool catch_up(struct load *l)
{
	bool ok = true;
	for (size_t i = 0; i < l->ndropped; i++)
		index_drop(l->s, l->dropped[i]);
	for (size_t at = 0; at < l->nids && ok; at += ROWS_AT_ONCE)
		ok = catch_up_some(l, l->ids + at, l->nids - at < ROWS_AT_ONCE ? l->nids - at : ROWS_AT_ONCE);
	if (!ok)
		log_warn("the saved indexes are not used: what has changed since cannot be read: %s",
			 l->s->store_ops->error(l->store));
	return ok;
}

static void end(struct sync *s, bool keep)
{
	vectors_load_end(s->vectors, keep);
	postings_load_end(s->postings, keep);
}

static void loaded(struct load *l, int64_t since_us)
{
	struct sync *s = l->s;
	uint64_t vectors = vectors_count(s->vectors, 0), words = postings_count(s->postings, 0);
	atomic_store(&s->index_file->changes, l->nids + l->ndropped);
	atomic_store(&s->index_file->saved_us, image_facts(l->image)->saved_us);
	atomic_store(&s->plant->refill_total, words > vectors ? words : vectors);
	atomic_store(&s->plant->refill_done, words > vectors ? words : vectors);
	atomic_store_explicit(&s->plant->refill_state, REFILL_DONE, memory_order_release);
	stats_add_shared(s->w->stats, STAT_INDEX_LOADS, 1);
	log_info("took up the saved indexes: %llu vectors, %llu memories by words, %llu bytes, %zu memories read anew, "
		 "in %lld ms",
		 (unsigned long long)vectors, (unsigned long long)words, (unsigned long long)image_bytes(l->image),
		 l->nids, (long long)(clock_mono_us() - since_us) / 1000);
}

void index_load(struct sync *s, struct store *store)
{
	struct load l = {.s = s, .store = store};
	int64_t since_us = clock_mono_us();
	bool interrupted = vectors_interrupted(s->vectors) || postings_interrupted(s->postings);
	if (interrupted && !atomic_load(&s->plant->served_once)) {
		/* Once is enough: what killed our predecessor may kill us. */
		log_warn(
			"the saved indexes are not used: sync died while it took them up; they are made from the store");
		end(s, false);
		return;
	}
	if (!s->index_file->on || atomic_load(&s->plant->refill_state) != REFILL_NONE ||
	    atomic_load(&s->plant->served_once) || !vectors_unused(s->vectors) || !postings_unused(s->postings))
		return;
	if (!find_image(&l)) {
		forget_changes(&l);
		return;
	}
	bool ok = fill(&l);
	FAULT_POINT(index_loaded);
	ok = ok && catch_up(&l);
	end(s, ok);
	if (ok)
		loaded(&l, since_us);
	image_close(&l.image);
	forget_changes(&l);
}
