/* The flusher: journal → store, by its own cursor, in batches; and the collector of what expired.
 *
 * The cursor is committed in the same store transaction as the records, so a flush that a crash
 * repeats changes nothing. It may only pass records whose senders were answered (flusher_allow). */
#include <errno.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <time.h>

#include "clock.h"
#include "fault.h"
#include "log.h"
#include "sync.h"

#ifdef ORC_FAULT_POINTS
#define COLLECT_EVERY_US 300000 /* tests of faults wait for it */
#else
#define COLLECT_EVERY_US 5000000
#endif
#define COLLECT_MAX 500
#define RETRY_US 500000

struct flusher {
	struct sync *s;
	struct store *store;
	struct journal_reader *reader;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t wake;
	/* under the lock */
	uint64_t allowed;
	int64_t first_waiting_us;
	bool urgent, stop;
	_Atomic bool leave; /* stop after the batch that is under way: a successor does the rest */
	int64_t debounce_us, trash_us;
	uint64_t batch_max;
	/* the thread's own */
	_Atomic uint64_t flushed; /* the loop looks at it */
	uint64_t scrub_to, scrubbed;
	bool store_failed, scrub_failed;
	int journal_error; /* errno: not the store but the journal is why nothing is flushed */
	int64_t next_collect_us;
};

struct flushed_note {
	uint64_t seq, scrubbed;
};

static void on_flushed(struct sync *s, void *arg)
{
	struct flushed_note *n = arg;
	apply_flushed(s, n->seq, n->scrubbed);
	free(n);
}

static void tell_loop(struct flusher *f)
{
	struct flushed_note *n = util_alloc(sizeof(*n));
	*n = (struct flushed_note){f->flushed, f->scrubbed};
	sync_post(f->s, on_flushed, n);
}

static void on_store_failed(struct sync *s, void *arg)
{
	if (!s->failed) /* that the journal has failed is worse, and final: it stays the answer */
		sync_fail(s, SYNC_STORE_FAILED, "%s. Writes go on into the journal until its quota", (char *)arg);
	free(arg);
}

static void on_store_back(struct sync *s, void *arg)
{
	(void)arg;
	uint32_t was = SYNC_STORE_FAILED;
	if (atomic_compare_exchange_strong(&s->plant->sync_state, &was, SYNC_SERVING))
		log_info("the store accepts writes again");
}

static void store_trouble(struct flusher *f)
{
	static struct log_limit limit;
	struct buf b = {0};
	if (f->journal_error)
		buf_printf(&b, "nothing reaches the store, because the journal cannot be read behind record %llu: %s",
			   (unsigned long long)f->flushed, strerror(f->journal_error));
	else
		buf_printf(&b, "the store refuses writes: %s", f->s->store_ops->error(f->store));
	log_warn_limited(&limit, 10, "flush to the store failed: %.*s", (int)b.len, b.p);
	if (!f->store_failed)
		sync_post(f->s, on_store_failed, util_strndup(b.p, b.len));
	buf_free(&b);
	f->store_failed = true;
}

/* Applies records (flushed, to] up to max operations. Returns false when the store failed. */
static bool flush_batch(struct flusher *f, uint64_t to, uint64_t max)
{
	const struct store_ops *ops = f->s->store_ops;
	uint64_t seq = f->flushed, scrub_to = f->scrub_to, records = 0, txns = 0;
	int got = 0;
	f->journal_error = 0;
	if (ops->begin(f->store) != STORE_OK)
		return false;
	FAULT_POINT(flush_begun);
	while (records < max) {
		const void *data;
		size_t len;
		struct journal_where where;
		struct txn_reader t;
		got = journal_next(f->reader, &seq, to, &data, &len, &where);
		if (got <= 0)
			break;
		if (!txn_open(&t, data, len) || ops->apply(f->store, seq, &t) != STORE_OK) {
			ops->rollback(f->store);
			return false;
		}
		FAULT_POINT(flush_row);
		records += t.head->nops;
		txns++;
		if (t.head->flags & TXN_SCRUB)
			scrub_to = seq;
	}
	int error = got < 0 ? errno : 0;
	if (ops->commit(f->store, seq) != STORE_OK) {
		ops->rollback(f->store);
		return false;
	}
	FAULT_POINT(flush_committed);
	f->flushed = seq;
	f->scrub_to = scrub_to;
	stats_add_shared(f->s->w->stats, STAT_FLUSHES, 1);
	stats_add_shared(f->s->w->stats, STAT_FLUSHED_RECORDS, txns);
	f->journal_error = error;
	return !error;
}

static void scrub(struct flusher *f, uint64_t to)
{
	f->scrub_failed = false;
	FAULT_POINT(scrub_due);
	int e = journal_scrub(f->s->journal, to);
	FAULT_POINT(scrub_journal_done);
	if (e) {
		static struct log_limit limit;
		log_warn_limited(&limit, 10, "erased content could not be scrubbed from the journal, trying again: %s",
				 strerror(e));
		f->scrub_failed = true;
		return;
	}
	if (f->s->store_ops->scrub(f->store) != STORE_OK) {
		store_trouble(f);
		return;
	}
	FAULT_POINT(scrub_over);
	f->scrubbed = to;
}

/* ---- what expired ---- */

struct collected {
	struct txn_builder t;
	struct buf b;
	size_t n;
};

static bool collect_one(void *arg, const struct memory *m)
{
	struct collected *c = arg;
	txn_op_delete(&c->t, m, DELETE_EXPIRED);
	c->n++;
	return true;
}

static bool collect_key(void *arg, const struct memory *m)
{
	txn_read_key(arg, record_id_key(&m->id));
	return true;
}

static void on_collected(struct sync *s, void *arg)
{
	struct buf *b = arg;
	/* Without journal thread sync is leaving. */
	if (s->committer && commit_open(s)->n < BATCH_TXNS) {
		intake_internal(s, b->p, b->len);
		commit_offer(s);
	} else {
		free(b->p); /* the next round, or the next sync, finds them again */
	}
	free(b);
}

static void collect(struct flusher *f, int64_t trash_us)
{
	const struct store_ops *ops = f->s->store_ops;
	uint64_t read_seq = f->flushed; /* the store's own state: anything newer makes it a conflict */
	uint64_t id;
	AN(getrandom(&id, sizeof(id), 0) == sizeof(id));
	int64_t now = clock_real_us();
	struct collected c = {.n = 0};
	txn_begin(&c.t, &c.b, id, SLOT_SYNC, read_seq, 0);
	if (ops->collect(f->store, now, now - trash_us, COLLECT_MAX, collect_key, &c.t) != STORE_OK ||
	    ops->collect(f->store, now, now - trash_us, COLLECT_MAX, collect_one, &c) != STORE_OK || !c.n) {
		buf_free(&c.b);
		return;
	}
	txn_end(&c.t);
	FAULT_POINT(collect_found);
	struct buf *b = util_alloc(sizeof(*b));
	*b = c.b;
	sync_post(f->s, on_collected, b);
}

/* ---- the thread ---- */

static void wait_until(struct flusher *f, int64_t mono_us)
{
	struct timespec t = {.tv_sec = mono_us / 1000000, .tv_nsec = mono_us % 1000000 * 1000};
	pthread_cond_timedwait(&f->wake, &f->lock, &t);
}

/* Under the lock: sleeps until there is something to flush, scrub or collect. */
static void wait_for_work(struct flusher *f)
{
	while (!f->stop) {
		int64_t now = clock_mono_us();
		if (f->allowed > f->flushed) {
			int64_t due = f->first_waiting_us + f->debounce_us;
			if (f->urgent || now >= due || f->allowed - f->flushed >= f->batch_max)
				return;
			wait_until(f, due);
		} else if (f->scrub_to > f->scrubbed) {
			return;
		} else if (now >= f->next_collect_us) {
			return;
		} else {
			wait_until(f, f->next_collect_us);
		}
	}
}

static void flush_all(struct flusher *f, uint64_t to, uint64_t batch_max)
{
	while (f->flushed < to && !atomic_load(&f->leave)) {
		uint64_t before = f->flushed;
		/* Adaptive: under backlog a bigger transaction costs less per record. */
		uint64_t max = to - f->flushed > 2 * batch_max ? batch_max * 8 : batch_max;
		if (!flush_batch(f, to, max)) {
			store_trouble(f);
			return;
		}
		if (f->store_failed)
			sync_post(f->s, on_store_back, NULL);
		f->store_failed = false;
		tell_loop(f);
		FAULT_POINT(flush_keeping);
		journal_release(f->s->journal, f->flushed);
		if (f->flushed == before)
			return;
	}
}

static void *flusher_main(void *arg)
{
	struct flusher *f = arg;
	prctl(PR_SET_NAME, "flusher");
	pthread_mutex_lock(&f->lock);
	for (;;) {
		wait_for_work(f);
		uint64_t to = f->allowed, batch_max = f->batch_max;
		int64_t trash = f->trash_us;
		bool stop = f->stop;
		f->urgent = false;
		f->first_waiting_us = clock_mono_us();
		pthread_mutex_unlock(&f->lock);

		flush_all(f, to, batch_max);
		if (f->scrub_to > f->scrubbed && !atomic_load(&f->leave)) {
			scrub(f, f->scrub_to);
			tell_loop(f);
		}
		if (!stop && clock_mono_us() >= f->next_collect_us) {
			if (!f->store_failed)
				collect(f, trash);
			f->next_collect_us = clock_mono_us() + COLLECT_EVERY_US;
		}
		journal_prepare(f->s->journal);

		pthread_mutex_lock(&f->lock);
		if (stop)
			break;
		if (f->store_failed || f->scrub_failed)
			wait_until(f, clock_mono_us() + RETRY_US);
	}
	pthread_mutex_unlock(&f->lock);
	return NULL;
}

void flusher_allow(struct flusher *f, uint64_t seq, bool urgent)
{
	pthread_mutex_lock(&f->lock);
	bool was_empty = f->allowed <= f->flushed;
	if (f->allowed < seq)
		f->allowed = seq;
	f->urgent |= urgent;
	if (was_empty)
		f->first_waiting_us = clock_mono_us();
	/* Wake it only when it must change its mind: it sleeps without a deadline that suits this
	 * record only when nothing waited before. */
	if (was_empty || urgent || seq - f->flushed >= f->batch_max)
		pthread_cond_signal(&f->wake);
	pthread_mutex_unlock(&f->lock);
}

void flusher_conf(struct flusher *f, const struct conf *c)
{
	pthread_mutex_lock(&f->lock);
	f->debounce_us = conf_int(c, CONF_SYNC_DEBOUNCE_MS) * 1000;
	f->batch_max = (uint64_t)conf_int(c, CONF_SYNC_BATCH_MAX);
	f->trash_us = conf_int(c, CONF_MEMORIES_TRASH_TTL);
	pthread_cond_signal(&f->wake);
	pthread_mutex_unlock(&f->lock);
}

struct flusher *flusher_start(struct sync *s, struct store *store, uint64_t flushed_seq)
{
	struct flusher *f = util_zalloc(sizeof(*f));
	pthread_condattr_t ca;
	f->s = s;
	f->store = store;
	f->flushed = f->allowed = flushed_seq;
	f->scrubbed = s->scrubbed_seq;
	f->scrub_to = f->scrubbed < flushed_seq ? flushed_seq : 0;
	f->reader = journal_reader_open(s->store_conf.dir);
	if (f->reader)
		journal_reader_knows(f->reader, s->journal);
	f->next_collect_us = clock_mono_us() + COLLECT_EVERY_US;
	pthread_mutex_init(&f->lock, NULL);
	pthread_condattr_init(&ca);
	pthread_condattr_setclock(&ca, CLOCK_MONOTONIC);
	pthread_cond_init(&f->wake, &ca);
	flusher_conf(f, s->w->conf);
	if (!f->reader || pthread_create(&f->thread, NULL, flusher_main, f)) {
		free(f);
		return NULL;
	}
	return f;
}

static void end_thread(struct flusher *f)
{
	pthread_mutex_lock(&f->lock);
	f->stop = true;
	pthread_cond_signal(&f->wake);
	pthread_mutex_unlock(&f->lock);
	pthread_join(f->thread, NULL);
}

void flusher_leave(struct flusher *f)
{
	if (!f)
		return;
	atomic_store(&f->leave, true);
	end_thread(f);
}

void flusher_stop(struct flusher **fp)
{
	struct flusher *f = *fp;
	if (!f)
		return;
	end_thread(f);
	f->s->store_ops->close(f->store); /* checkpoints: the database file alone is whole then */
	journal_reader_close(&f->reader);
	free(f);
	*fp = NULL;
}
