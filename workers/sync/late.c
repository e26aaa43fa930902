/* The store is a server and cannot be reached when sync starts: it serves nevertheless. Writes go into the journal,
 * reads to what is at hand; a thread tries on, and when the store is there what it knows is taken over: how far
 * this journal has reached it, the namespaces, the feed. */
#define LOG_SUBSYSTEM LOG_IN_STORE
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "log.h"
#include "flusher-private.h"
#include "sync.h"

#define FIRST_US 100000
#define MOST_US 3000000

struct late {
	struct sync *s;
	pthread_t thread;
	_Atomic bool stop;
	/* What the store said; the loop's when it is handed over. */
	struct store *store;
	bool taken; /* it is the flusher's */
	uint64_t flushed, scrub_due, revision;
	struct store_ns *ns;
	size_t nns, cns;
};

static void keep(void *arg, const struct store_ns *row)
{
	struct late *l = arg;
	if (l->nns == l->cns) {
		l->cns = l->cns ? 2 * l->cns : 64;
		l->ns = util_realloc(l->ns, l->cns * sizeof(*l->ns));
	}
	l->ns[l->nns++] = *row;
}

static bool ask(struct late *l)
{
	const struct store_ops *ops = l->s->store_ops;
	l->nns = 0;
	return ops->cursor(l->store, &l->flushed) == STORE_OK && ops->namespaces(l->store, keep, l) == STORE_OK &&
	       ops->scrub_due(l->store, &l->scrub_due) == STORE_OK &&
	       (!ops->revision || ops->revision(l->store, &l->revision) == STORE_OK);
}

/* What was written meanwhile is counted already. Of what a replay counted that the store has as well, too much
 * is; the feed corrects the counters when nothing is under way. */
static void take_namespace(struct sync *s, const struct store_ns *row, uint64_t flushed)
{
	struct ns_state *n = sequence_ns_make(s, row->ns, SPAN(row->name));
	if (!n)
		return;
	n->count += row->count;
	n->bytes += row->bytes;
	n->quota_count = row->quota_count;
	n->quota_bytes = row->quota_bytes;
	n->relaxed = row->relaxed || s->relaxed_default;
	n->exists |= row->exists;
	n->created_us = row->created_us;
	sequence_language(s, n, row->language, flushed);
	if (row->dim && n->dim && (row->dim != n->dim || strcmp(row->embedder, n->embedder) != 0))
		log_error("namespace %s: the store holds vectors of %s, and vectors of %s were accepted while it was "
			  "away; they are not searched",
			  row->name, row->embedder, n->embedder);
	if (row->dim) {
		n->dim = row->dim;
		memcpy(n->embedder, row->embedder, sizeof(n->embedder));
	}
	apply_namespace(s, n);
}

/* A replay took this for a write that the store may lack; it has it, and others may have changed or deleted it since, which
 * no feed tells who has not followed it. L1 and the refill ask the store. */
static void forget(void *arg, const struct pending_entry *e)
{
	struct sync *s = arg;
	struct pending_entry now;
	if (e->type != OP_PUT || (pending_find_id(s->pending, &e->id, &now) && now.seq > e->seq))
		return;
	index_take_out(s, &e->id);
	cache_remove(s->cache, CACHE_MEMORY, &e->id);
}

static void arrived(struct sync *s, void *arg)
{
	struct late *l = arg;
	uint64_t before = atomic_load(&s->plant->flushed_seq), last = s->next_seq - 1;
	if (s->late != l)
		return;
	if (l->flushed < before || l->flushed > last) {
		sync_fail(
			s, SYNC_STORE_FAILED,
			"the store holds records up to %llu of this daemon, and its journal those from %llu to %llu: "
			"store.dsn leads to another database, or data.dir is not the one that wrote there. Nothing is "
			"written to the store until the daemon is started with the right ones",
			(unsigned long long)l->flushed, (unsigned long long)before + 1, (unsigned long long)last);
		return;
	}
	if (!atomic_load(&s->plant->feed_revision)) /* else the feed goes on where it was */
		pending_leaving(s->pending, l->flushed, forget, s);
	for (size_t i = 0; i < l->nns; i++)
		if (!atomic_load(&s->plant->store_known))
			take_namespace(s, &l->ns[i], l->flushed);
	s->scrubbed_seq = l->scrub_due ? l->scrub_due - 1 : l->flushed;
	apply_flushed(s, &(struct flushed_note){.seq = l->flushed,
						.revision = l->revision,
						.scrubbed = s->scrubbed_seq,
						.oldest_us = atomic_load(&s->plant->oldest_unflushed_us)});
	if (!atomic_load(&s->plant->feed_revision))
		atomic_store(&s->plant->feed_revision, l->revision);
	l->taken = true;
	s->flusher = flusher_start(s, l->store, l->flushed, atomic_load(&s->plant->applied_seq));
	if (!s->flusher) {
		log_error("cannot start the flusher");
		exit(WORKER_EXIT_FAIL);
	}
	atomic_store(&s->plant->store_known, 1);
	flusher_allow(s->flusher, atomic_load(&s->plant->applied_seq), true);
	feed_start(s);
	if (atomic_load(&s->plant->refill_state) != REFILL_DONE)
		refill_start(s);
	uint32_t was = SYNC_STORE_FAILED;
	if (atomic_compare_exchange_strong(&s->plant->sync_state, &was, SYNC_SERVING))
		log_info_event(store_back, NULL, "the store is there: records behind %llu are written to it",
			       (unsigned long long)l->flushed);
}

static void *late_main(void *arg)
{
	struct late *l = arg;
	struct sync *s = l->s;
	prctl(PR_SET_NAME, "store");
	for (int64_t pause = FIRST_US; !atomic_load(&l->stop); pause = pause * 2 < MOST_US ? pause * 2 : MOST_US) {
		char *error = NULL;
		l->store = s->store_ops->open(&s->store_conf, true, &error);
		if (l->store && ask(l)) {
			sync_post(s, arrived, l);
			return NULL;
		}
		static struct log_limit limit;
		log_warn_limited_event(store_waited_for, &limit, 10, "the store cannot be opened: %s",
				       l->store ? s->store_ops->error(l->store)
				       : error	? error
						: "unknown");
		free(error);
		if (l->store)
			s->store_ops->close(l->store);
		l->store = NULL;
		for (int64_t us = pause; us > 0 && !atomic_load(&l->stop); us -= 20000)
			usleep(20000);
	}
	return NULL;
}

void late_start(struct sync *s)
{
	struct late *l = util_zalloc(sizeof(*l));
	l->s = s;
	s->late = l;
	if (!pthread_create(&l->thread, NULL, late_main, l))
		return;
	log_error("no thread to wait for the store");
	exit(WORKER_EXIT_FAIL);
}

void late_stop(struct sync *s)
{
	struct late *l = s->late;
	if (!l)
		return;
	atomic_store(&l->stop, true);
	pthread_join(l->thread, NULL);
	s->late = NULL;
	if (l->store && !l->taken)
		s->store_ops->close(l->store);
	free(l->ns);
	free(l);
}

/* The successor of a sync that knew the store: the shared namespaces are what it knew. */
void late_namespaces(struct sync *s)
{
	for (size_t i = 0; i < PLANT_NAMESPACES; i++) {
		const struct plant_namespace *row = &s->plant->namespaces[i];
		if (!atomic_load_explicit(&row->ns, memory_order_acquire))
			continue;
		struct ns_state *n = sequence_ns_make(s, atomic_load(&row->ns),
						      (struct span){row->name, row->name_len});
		if (!n)
			continue;
		n->count = atomic_load(&row->count);
		n->bytes = atomic_load(&row->bytes);
		n->quota_count = atomic_load(&row->quota_count);
		n->quota_bytes = atomic_load(&row->quota_bytes);
		n->relaxed = atomic_load(&row->relaxed);
		n->exists = atomic_load(&row->exists);
		n->language = atomic_load(&row->language);
		n->created_us = atomic_load(&row->created_us);
		n->dim = atomic_load(&row->dim);
		if (atomic_load_explicit(&row->embedder_set, memory_order_acquire))
			memcpy(n->embedder, row->embedder, sizeof(n->embedder));
	}
}
