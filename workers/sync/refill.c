/* The refill: store → vector index and word index after a start, when the shared indexes are new. The thread reads
 * batches, the loop inserts them between commits. A row that was written or deleted after the
 * batch was read is skipped: its own write has told the index already. */
#define LOG_SUBSYSTEM LOG_IN_INDEX
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "fault.h"
#include "log.h"
#include "sync.h"

#define REFILL_BATCH 256
#define RETRY_US 300000

struct refill {
	struct sync *s;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t taken;
	bool busy, stale; /* busy: the loop has a batch; stale: it must be read again */
	_Atomic bool stop;
	struct store *store;
	struct indexable rows[REFILL_BATCH]; /* x, and behind it the content, in one piece of memory each */
	size_t n;
	uint64_t read_seq;
	uint64_t read_revision; /* of the fleet's feed, likewise */
};

static bool gather(void *arg, const struct store_indexed *x)
{
	struct refill *r = arg;
	size_t vector = x->dim * sizeof(float);
	char *bytes = util_alloc(vector + x->content.len + 1);
	r->rows[r->n++] = (struct indexable){.ns = x->ns,
					     .version = x->version,
					     .id = x->id,
					     .expires_us = x->expires_us,
					     .found = true,
					     .content = {bytes + vector, x->content.len},
					     .dim = x->dim,
					     .x = (float *)(void *)bytes};
	if (vector)
		memcpy(bytes, x->x, vector);
	if (x->content.len)
		memcpy(bytes + vector, x->content.p, x->content.len);
	return r->n < REFILL_BATCH;
}

static void insert_batch(struct sync *s, void *arg)
{
	struct refill *r = arg;
	if (s->refill != r)
		return; /* stopped meanwhile, and freed */
	/* What another daemon has deleted since is not told a second time. */
	bool stale = recent_floor(s->recent) > r->read_seq ||
		     (s->feed && atomic_load(&s->plant->feed_revision) != r->read_revision);
	size_t done = 0;
	for (size_t i = 0; i < r->n && !stale; i++, done++) {
		const struct indexable *row = &r->rows[i];
		/* What finds no room marks its namespace as incomplete: it is searched in the store. */
		if (recent_unchanged(s->recent, record_id_key(&row->id), r->read_seq))
			index_memory(s, row);
	}
	FAULT_POINT(refill_batch);
	atomic_fetch_add_explicit(&s->plant->refill_done, done, memory_order_relaxed);
	pthread_mutex_lock(&r->lock);
	r->busy = false;
	r->stale = stale;
	pthread_cond_signal(&r->taken);
	pthread_mutex_unlock(&r->lock);
}

static void finished(struct sync *s, void *arg)
{
	if (s->refill == arg)
		refill_stop(s); /* the thread has ended or is about to */
	FAULT_POINT(refill_over);
	atomic_store_explicit(&s->plant->refill_state, REFILL_DONE, memory_order_release);
	log_info("vector index holds %llu vectors, word index %llu memories",
		 (unsigned long long)vectors_count(s->vectors, 0), (unsigned long long)postings_count(s->postings, 0));
}

/* Hands the batch to the loop and waits until it took it. False: stop. */
static bool hand_over(struct refill *r)
{
	pthread_mutex_lock(&r->lock);
	r->busy = true;
	pthread_mutex_unlock(&r->lock);
	sync_post(r->s, insert_batch, r);
	pthread_mutex_lock(&r->lock);
	while (r->busy && !r->stop)
		pthread_cond_wait(&r->taken, &r->lock);
	bool go_on = !r->stop;
	pthread_mutex_unlock(&r->lock);
	return go_on;
}

/* The store is there, or will be. False: stop. */
static bool reach_store(struct refill *r)
{
	const struct store_ops *ops = r->s->store_ops;
	static struct log_limit limit;
	struct store_conf conf = r->s->store_conf;
	conf.purpose = "refill"; /* not taken for a former writer's */
	while (!atomic_load(&r->stop)) {
		char *error = NULL;
		if (!r->store)
			r->store = ops->open(&conf, false, &error);
		if (r->store)
			return true;
		log_warn_limited(&limit, 10, "refill of the indexes waits for the store: %s",
				 error ? error : "unknown");
		free(error);
		usleep(RETRY_US);
	}
	return false;
}

static void forget_rows(struct refill *r)
{
	for (size_t i = 0; i < r->n; i++)
		free((void *)(uintptr_t)r->rows[i].x);
	r->n = 0;
}

/* One batch from behind *last. False: that was all, or stop. */
static bool refill_batch(struct refill *r, struct uuid *last, bool *have_last)
{
	const struct store_ops *ops = r->s->store_ops;
	static struct log_limit limit;
	r->n = 0;
	/* Records beyond flushed_seq may be missing from what we read now; those that came after it
	 * are in the index by their own write. */
	r->read_seq = atomic_load(&r->s->plant->flushed_seq);
	r->read_revision = atomic_load(&r->s->plant->feed_revision);
	if (ops->indexed(r->store, *have_last ? last : NULL, REFILL_BATCH, gather, r) != STORE_OK) {
		log_warn_limited(&limit, 10, "refill of the indexes: %s; trying again", ops->error(r->store));
		usleep(RETRY_US);
		forget_rows(r);
		return reach_store(r);
	}
	if (!r->n)
		return false;
	struct uuid end = r->rows[r->n - 1].id;
	bool go_on = hand_over(r);
	forget_rows(r);
	if (go_on && !r->stale) {
		*last = end;
		*have_last = true;
	}
	return go_on;
}

static void *refill_main(void *arg)
{
	struct refill *r = arg;
	struct sync *s = r->s;
	const struct store_ops *ops = s->store_ops;
	struct uuid last;
	bool have_last = false;
	uint64_t total = 0;
	prctl(PR_SET_NAME, "refill");
	if (reach_store(r) && ops->indexed_count(r->store, &total) != STORE_OK)
		total = 1; /* not known */
	else
		atomic_store(&s->plant->refill_total, total);
	/* What is written from here on is indexed by its own write: without memories there is nothing to look for. */
	while (total && !atomic_load(&r->stop) && refill_batch(r, &last, &have_last))
		;
	if (r->store)
		ops->close(r->store);
	r->store = NULL;
	if (!atomic_load(&r->stop))
		sync_post(s, finished, r);
	return NULL;
}

void refill_start(struct sync *s)
{
	if (s->refill || atomic_load(&s->plant->refill_state) == REFILL_DONE)
		return;
	if (s->late && !atomic_load(&s->plant->store_known))
		return; /* late.c begins it, when it has put right what a replay took for unflushed */
	struct refill *r = util_zalloc(sizeof(*r));
	r->s = s;
	pthread_mutex_init(&r->lock, NULL);
	pthread_cond_init(&r->taken, NULL);
	stats_add_shared(s->w->stats, STAT_INDEX_REFILLS, 1);
	atomic_store(&s->plant->refill_state, REFILL_RUNNING);
	atomic_store(&s->plant->refill_done, 0);
	if (pthread_create(&r->thread, NULL, refill_main, r)) {
		log_warn("refill of the indexes cannot start: no thread");
		free(r);
		return;
	}
	s->refill = r;
}

void refill_stop(struct sync *s)
{
	struct refill *r = s->refill;
	if (!r)
		return;
	pthread_mutex_lock(&r->lock);
	r->stop = true;
	pthread_cond_signal(&r->taken);
	pthread_mutex_unlock(&r->lock);
	pthread_join(r->thread, NULL);
	free(r);
	s->refill = NULL;
}
