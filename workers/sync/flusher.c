/* The flusher: journal → store, by its own cursor, in batches.
 *
 * The cursor is committed in the same store transaction as the records, so a flush that a crash
 * repeats changes nothing. It may only pass records whose senders were answered (flusher_allow). When the
 * store does not answer a commit, its cursor tells later what became of it. */
#define LOG_SUBSYSTEM LOG_IN_STORE
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/statvfs.h>

#include "cache/hot_file.h"
#include "clock.h"
#include "fault.h"
#include "flusher-private.h"
#include "index_file.h"
#include "log.h"

#ifdef ORC_FAULT_POINTS
#define COLLECT_EVERY_US 300000 /* tests of faults wait for it */
#else
#define COLLECT_EVERY_US 5000000
#endif

/* ---- what the loop is told ---- */

static void on_flushed(struct sync *s, void *arg)
{
	struct flushed_note *n = arg;
	apply_flushed(s, n);
	free(n);
}

static void tell_loop(struct flusher *f, struct attempt *a)
{
	struct flushed_note *n = util_alloc(sizeof(*n));
	*n = (struct flushed_note){.seq = f->flushed, .scrubbed = f->scrubbed, .bytes = f->bytes};
	f->bytes = 0;
	if (a) {
		n->revision = a->revision;
		n->fix = a->fix;
		n->nfix = a->nfix;
		n->lost = a->lost;
		n->nlost = a->nlost;
		a->fix = NULL;
		a->lost = NULL;
		a->nfix = a->cfix = a->nlost = a->clost = 0;
	}
	mend_look(f, n);
	pthread_mutex_lock(&f->lock);
	age_done(&f->age, f->flushed);
	n->oldest_us = age_since(&f->age);
	pthread_mutex_unlock(&f->lock);
	sync_post(f->s, on_flushed, n);
}

static void on_store_failed(struct sync *s, void *arg)
{
	char *why = NULL;
	AN(asprintf(&why, "%s. Writes go on into the journal until its quota", (char *)arg) >= 0);
	if (s->failed) /* that the journal has failed is worse, and final: it stays the answer */
		;
	else if (atomic_load(&s->plant->sync_state) == SYNC_STORE_FAILED) /* by now for another reason */
		sync_state_set(s, SYNC_STORE_FAILED, why);
	else
		sync_fail(s, SYNC_STORE_FAILED, "%s", why);
	free(why);
	free(arg);
}

static void on_store_back(struct sync *s, void *arg)
{
	(void)arg;
	uint32_t was = SYNC_STORE_FAILED;
	if (atomic_compare_exchange_strong(&s->plant->sync_state, &was, SYNC_SERVING))
		log_info_event(store_back, NULL, "the store accepts writes again");
}

void flusher_trouble(struct flusher *f, const char *fmt, ...)
{
	char text[sizeof(f->s->plant->reason)];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	f->trouble.len = 0;
	buf_adds(&f->trouble, text);
}

/* Nothing is flushed for now: f->trouble says why, or the store does. */
static void store_trouble(struct flusher *f)
{
	static struct log_limit limit;
	uint64_t random;
	if (!f->trouble.len)
		flusher_trouble(f, "the store refuses writes: %s", f->s->store_ops->error(f->store));
	log_warn_limited_event(store_flush_failed, &limit, 10, "flush to the store failed: %.*s", (int)f->trouble.len,
			       f->trouble.p);
	if (!f->store_failed || f->told.len != f->trouble.len || memcmp(f->told.p, f->trouble.p, f->told.len) != 0)
		sync_post(f->s, on_store_failed, util_strndup(f->trouble.p, f->trouble.len));
	f->told.len = 0;
	buf_add(&f->told, f->trouble.p, f->trouble.len);
	f->store_failed = true;
	atomic_store(&f->rate, 0);
	AN(getrandom(&random, sizeof(random), 0) == sizeof(random));
	pthread_mutex_lock(&f->lock);
	f->retry_at_us = clock_mono_us() + pace_failed(&f->pace, random);
	struct breaker *b = f->s->store_conf.breaker;
	int64_t open_us = b ? breaker_retry_after_us(b, clock_mono_us()) : 0;
	if (open_us) /* then is the time, neither sooner nor later */
		f->retry_at_us = clock_mono_us() + open_us + 1000;
	pthread_mutex_unlock(&f->lock);
	orders_away(f);
}

static void store_well(struct flusher *f)
{
	if (f->store_failed)
		sync_post(f->s, on_store_back, NULL);
	f->store_failed = false;
	f->pace.failures = 0;
	atomic_store(&f->s->plant->dead_full, 0);
}

/* ---- an attempt, and what comes of it ---- */

/* Dead operations that the cursor has passed: shared memory must not show them any longer. */
static void pass_dead(struct flusher *f, struct attempt *a)
{
	size_t kept = 0;
	for (size_t i = 0; i < f->nahead; i++) {
		struct ahead *d = &f->ahead[i];
		if (d->seq > f->flushed) {
			f->ahead[kept++] = *d;
			continue;
		}
		struct weight by = {d->base.count - d->now.count, d->base.bytes - d->now.bytes};
		GROW(a->fix, a->nfix, a->cfix);
		a->fix[a->nfix++] = (struct fix){.id = d->id, .ns = d->ns, .by = by};
		mend_add(f, d);
	}
	f->nahead = kept;
}

static void converge(struct flusher *f, const struct attempt *a)
{
	for (size_t k = 0; k < a->nfix; k++)
		for (size_t i = 0; i < f->ndiverged; i++)
			if (uuid_cmp(&f->diverged[i].id, &a->fix[k].id) == 0) {
				f->diverged[i] = f->diverged[--f->ndiverged];
				break;
			}
}

/* A letter that was tried again in this batch: stored, unless its operation was rejected again. That of a deletion has gone
 * with the letters of what it deletes. */
static void pass_retried(struct flusher *f, const struct attempt *a, uint64_t before)
{
	for (size_t i = 0; i < a->nretried; i++) {
		const struct letter *e = letters_find(&f->letters, a->retried[i]);
		orders_tried(f, a->retried[i], !e || e->seq <= before);
	}
}

struct losing {
	struct flusher *f;
	struct attempt *a;
};

/* Until now this daemon has shown its own write. */
static void note_lost(void *arg, const struct store_lost *l)
{
	struct attempt *a = ((struct losing *)arg)->a;
	mend_add(((struct losing *)arg)->f,
		 &(struct ahead){.seq = l->seq, .ns = l->ns, .version = l->version, .id = l->id, .type = l->type});
	GROW(a->lost, a->nlost, a->clost);
	a->lost[a->nlost++] = l->seq;
}

static void note_drift(void *arg, uint64_t ns, int64_t count, int64_t bytes)
{
	struct attempt *a = arg;
	GROW(a->fix, a->nfix, a->cfix);
	a->fix[a->nfix++] = (struct fix){.ns = ns, .by = {count, bytes}};
}

static void settle(struct flusher *f, struct attempt *a)
{
	uint64_t before = f->flushed;
	f->flushed = a->seq;
	f->part_seq = a->part ? a->last_seq : 0;
	f->part = a->part;
	f->scrub_to = a->scrub_to;
	f->bytes += a->bytes;
	converge(f, a);
	pass_dead(f, a);
	pass_retried(f, a, before);
	if (f->s->store_ops->lost)
		f->s->store_ops->lost(f->store, note_lost, &(struct losing){f, a});
	if (f->s->store_ops->drift)
		f->s->store_ops->drift(f->store, note_drift, a);
	stats_add_shared(f->s->w->stats, STAT_FLUSHES, 1);
	stats_add_shared(f->s->w->stats, STAT_FLUSHED_RECORDS, a->txns);
	store_well(f);
	tell_loop(f, a);
	FAULT_POINT(flush_keeping);
	journal_release(f->s->journal, f->flushed);
	batch_free(a);
}

/* The store has forgotten what it had committed: a standby was promoted that lacked it. What the journal still holds is
 * written again. False: it does not hold all of it. */
static bool go_back(struct flusher *f, uint64_t seq)
{
	const void *data;
	size_t len;
	struct journal_where where;
	uint64_t at = seq;
	if (journal_next(f->reader, &at, f->flushed, &data, &len, &where) != 1 || at != seq + 1)
		return false;
	log_warn("the store ends at record %llu, and %llu had reached it: those between are written to it again",
		 (unsigned long long)seq, (unsigned long long)f->flushed);
	f->flushed = seq;
	f->part_seq = f->part = 0;
	return true;
}

/* What became of a commit that was not answered? False: not known yet. */
static bool resolve(struct flusher *f)
{
	uint64_t seq;
	if (!f->unsure.seq)
		return true;
	if (f->s->store_ops->cursor(f->store, &seq) != STORE_OK)
		return false;
	if (seq < f->flushed && go_back(f, seq)) {
		batch_free(&f->unsure);
		return true;
	}
	if (seq < f->flushed || (seq > f->flushed && seq != f->unsure.seq)) {
		flusher_trouble(
			f,
			"the store holds records up to %llu, but up to %llu had reached it: it was replaced, or another "
			"daemon writes under our name. Put it back and restart the daemon",
			(unsigned long long)seq, (unsigned long long)f->flushed);
		return false;
	}
	if (seq > f->flushed && f->s->store_ops->revision(f->store, &f->unsure.revision) != STORE_OK)
		return false;
	if (seq > f->flushed)
		settle(f, &f->unsure);
	batch_free(&f->unsure);
	return true;
}

static void measure(struct flusher *f, const struct attempt *a, int64_t took_us)
{
	uint64_t rate = a->bytes * 1000000 / (uint64_t)(took_us > 0 ? took_us : 1), old = atomic_load(&f->rate);
	pace_stored(&f->pace, a->ops, took_us);
	if (a->txns)
		f->txn_ops = a->ops / a->txns;
	if (a->bytes)
		atomic_store(&f->rate, old ? old - old / 4 + rate / 4 : rate);
}

enum flush_result { FLUSH_ON, FLUSH_IDLE, FLUSH_TROUBLE };

static void report(struct flusher *f, const struct breaker_pass *pass, enum store_rc rc)
{
	bool away = rc == STORE_AWAY;
	if (!f->s->store_conf.breaker) /* a file */
		return;
	breaker_report(f->s->store_conf.breaker, pass, away ? BREAKER_FAILED : BREAKER_OK,
		       away ? f->s->store_ops->error(f->store) : NULL, clock_mono_us());
}

static bool may_ask(struct flusher *f, struct breaker_pass *pass_r)
{
	struct breaker *b = f->s->store_conf.breaker;
	if (b && !breaker_ask(b, clock_mono_us(), pass_r)) {
		flusher_trouble(f, "the store's breaker is open: %s", f->s->store_ops->error(f->store));
		return false;
	}
	f->trouble.len = 0;
	if (resolve(f))
		return true;
	report(f, pass_r, f->trouble.len ? STORE_ERROR : STORE_AWAY);
	return false;
}

static enum flush_result flush_once(struct flusher *f, uint64_t to, uint64_t batch_max)
{
	struct attempt a;
	uint64_t before = f->flushed;
	uint32_t part = f->part;
	struct breaker_pass pass;
	if (!may_ask(f, &pass))
		return FLUSH_TROUBLE;
	int64_t start = clock_mono_us();
	enum store_rc rc = batch_run(
		f, to, pace_batch(&f->pace, batch_max, (to - f->flushed) * (f->txn_ops ? f->txn_ops : 1)), &a);
	report(f, &pass, rc);
	if (rc == STORE_OK) {
		bool unreadable = f->trouble.len;
		measure(f, &a, clock_mono_us() - start);
		a.revision = f->s->store_ops->committed ? f->s->store_ops->committed(f->store) : a.seq;
		settle(f, &a);
		return unreadable ? FLUSH_TROUBLE : f->flushed == before && f->part == part ? FLUSH_IDLE : FLUSH_ON;
	}
	if (rc == STORE_REJECTED && isolate(f, &a)) {
		batch_free(&a);
		return FLUSH_ON;
	}
	if (rc == STORE_AWAY && a.seq > f->flushed && !f->trouble.len)
		f->unsure = a;
	else
		batch_free(&a);
	if (rc != STORE_REJECTED)
		f->s->store_ops->rollback(f->store);
	return FLUSH_TROUBLE;
}

static void flush_all(struct flusher *f)
{
	enum flush_result r = FLUSH_ON;
	while (r == FLUSH_ON && !atomic_load(&f->leave)) {
		pthread_mutex_lock(&f->lock);
		uint64_t to = f->allowed, batch_max = f->batch_max;
		pthread_mutex_unlock(&f->lock);
		if (f->flushed >= to && !f->unsure.seq)
			break;
		r = flush_once(f, to, batch_max);
	}
	if (r == FLUSH_TROUBLE)
		store_trouble(f);
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
		pthread_mutex_lock(&f->lock);
		f->retry_at_us = clock_mono_us() + PACE_RETRY_BASE_US;
		pthread_mutex_unlock(&f->lock);
		return;
	}
	if (f->s->store_ops->scrub(f->store) != STORE_OK) {
		f->trouble.len = 0;
		store_trouble(f);
		return;
	}
	if (!hot_file_wipe(f->s->store_conf.dir)) {
		static struct log_limit limit;
		log_warn_limited(&limit, 10, "erased content could not be scrubbed from data.dir/%s, trying again: %s",
				 HOT_FOLDER, strerror(errno));
		f->scrub_failed = true;
		pthread_mutex_lock(&f->lock);
		f->retry_at_us = clock_mono_us() + PACE_RETRY_BASE_US;
		pthread_mutex_unlock(&f->lock);
		return;
	}
	if (!index_file_wipe(f->s)) {
		static struct log_limit limit;
		log_warn_limited(&limit, 10,
				 "erased content could not be scrubbed from data.dir/" IMAGE_FOLDER
				 ", trying again: %s",
				 strerror(errno));
		f->scrub_failed = true;
		pthread_mutex_lock(&f->lock);
		f->retry_at_us = clock_mono_us() + PACE_RETRY_BASE_US;
		pthread_mutex_unlock(&f->lock);
		return;
	}
	FAULT_POINT(scrub_over);
	f->scrubbed = to;
}

/* ---- the thread ---- */

static void wait_until(struct flusher *f, int64_t mono_us) { (void)clock_wait_until(&f->wake, &f->lock, mono_us); }

/* Under the lock: sleeps until there is something to flush, scrub, collect or obey. After a failure only the
 * time, a reload or an order ends the sleep. */
static void wait_for_work(struct flusher *f)
{
	while (!f->stop && !f->reloaded && !orders_waiting(f)) {
		int64_t now = clock_mono_us();
		if (f->retry_at_us > now) {
			wait_until(f, f->retry_at_us);
		} else if (f->retry_at_us) {
			return;
		} else if (f->allowed > f->flushed) {
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

/* For /metrics. The loop does not ask: a file system that hangs would stop it. */
static void look_at_disk(struct flusher *f)
{
	struct statvfs v;
	if (statvfs(f->s->store_conf.dir, &v) != 0)
		return;
	atomic_store(&f->s->plant->disk_free, (uint64_t)v.f_bavail * v.f_frsize);
	atomic_store(&f->s->plant->disk_size, (uint64_t)v.f_blocks * v.f_frsize);
}

static void work(struct flusher *f, bool stop, int64_t trash_us)
{
	flush_all(f);
	if (f->scrub_to > f->scrubbed && !f->store_failed && !atomic_load(&f->leave)) {
		scrub(f, f->scrub_to);
		tell_loop(f, NULL);
	}
	if (f->nmends && !f->store_failed)
		tell_loop(f, NULL);
	if (!stop)
		orders_run(f);
	if (!stop && clock_mono_us() >= f->next_collect_us) {
		look_at_disk(f);
		if (!f->store_failed) {
			collect_run(f, trash_us);
			prune_feed(f->s, f->store);
		}
		f->next_collect_us = clock_mono_us() + COLLECT_EVERY_US;
	}
	journal_prepare(f->s->journal);
}

static void *flusher_main(void *arg)
{
	struct flusher *f = arg;
	prctl(PR_SET_NAME, "flusher");
	look_at_disk(f);
	pthread_mutex_lock(&f->lock);
	for (;;) {
		wait_for_work(f);
		int64_t trash = f->trash_us;
		bool stop = f->stop;
		f->urgent = f->reloaded = false;
		f->retry_at_us = 0;
		f->first_waiting_us = clock_mono_us();
		pthread_mutex_unlock(&f->lock);
		work(f, stop, trash);
		pthread_mutex_lock(&f->lock);
		if (stop)
			break;
	}
	pthread_mutex_unlock(&f->lock);
	return NULL;
}

void flusher_allow(struct flusher *f, uint64_t seq, bool urgent)
{
	int64_t now = clock_mono_us();
	pthread_mutex_lock(&f->lock);
	bool was_empty = f->allowed <= f->flushed;
	if (f->allowed < seq)
		f->allowed = seq;
	f->urgent |= urgent;
	age_add(&f->age, seq, now);
	atomic_store_explicit(&f->s->plant->oldest_unflushed_us, age_since(&f->age), memory_order_relaxed);
	if (was_empty)
		f->first_waiting_us = now;
	/* Wake it only when it must change its mind: it sleeps without a deadline that suits this
	 * record only when nothing waited before. While the store fails it has a time of its own. */
	if (!f->retry_at_us && (was_empty || urgent || seq - f->flushed >= f->batch_max))
		pthread_cond_signal(&f->wake);
	pthread_mutex_unlock(&f->lock);
}

uint64_t flusher_rate(struct flusher *f) { return atomic_load_explicit(&f->rate, memory_order_relaxed); }

unsigned flusher_dead(struct flusher *f, uint64_t seq) { return letters_of(&f->letters, seq); }

void flusher_conf(struct flusher *f, const struct conf *c)
{
	pthread_mutex_lock(&f->lock);
	f->debounce_us = conf_int(c, CONF_SYNC_DEBOUNCE_MS) * 1000;
	f->batch_max = (uint64_t)conf_int(c, CONF_SYNC_BATCH_MAX);
	f->trash_us = conf_int(c, CONF_MEMORIES_TRASH_TTL);
	f->letters_max = (uint64_t)conf_int(c, CONF_SYNC_DEAD_LETTERS_MAX);
	f->reloaded = true;
	pthread_cond_signal(&f->wake);
	pthread_mutex_unlock(&f->lock);
}

/* Letters and times that a predecessor left. */
static bool inherit(struct flusher *f)
{
	struct plant *p = f->s->plant;
	if (!letters_open(&f->letters, f->s->store_conf.dir)) {
		log_error("the dead letters beneath data.dir cannot be read: %s", strerror(errno));
		return false;
	}
	if (!atomic_load(&p->served_once)) { /* shared memory is new, and shows what the store has */
		atomic_store(&p->dead_mended, f->flushed);
		atomic_store(&p->oldest_unflushed_us, 0);
	}
	isolate_load(f);
	atomic_store(&p->dead_letters, f->letters.n);
	atomic_store(&p->unmended, (uint32_t)f->nmends);
	return true;
}

struct flusher *flusher_start(struct sync *s, struct store *store, uint64_t flushed_seq, uint64_t last_seq)
{
	struct flusher *f = util_zalloc(sizeof(*f));
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
	pthread_cond_init(&f->wake, NULL);
	flusher_conf(f, s->w->conf);
	if (!f->reader || !inherit(f)) {
		free(f);
		return NULL;
	}
	if (last_seq > flushed_seq) { /* since when, a predecessor knew */
		int64_t since = atomic_load(&s->plant->oldest_unflushed_us);
		age_add(&f->age, last_seq, since ? since : clock_mono_us());
	}
	if (pthread_create(&f->thread, NULL, flusher_main, f)) {
		free(f);
		return NULL;
	}
	if (last_seq > flushed_seq)
		flusher_allow(f, last_seq, true);
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
	if (!f->store_failed)
		index_file_know(f->s, f->store);
	f->s->store_ops->close(f->store); /* checkpoints: the database file alone is whole then */
	journal_reader_close(&f->reader);
	letters_close(&f->letters);
	orders_end(f);
	batch_free(&f->unsure);
	free(f->span);
	free(f->ahead);
	free(f->diverged);
	free(f->mends);
	free(f->retries);
	buf_free(&f->trouble);
	buf_free(&f->told);
	free(f);
	*fp = NULL;
}
