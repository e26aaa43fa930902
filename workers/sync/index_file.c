/* The indexes into a file (index/image.h): now and then by the indexer's thread, and when the daemon leaves.
 *
 * What makes the file right:
 * - It says a revision of the store's feed. When the saving began everything up to there was in the indexes, and nothing that
 *   others had changed waited to be decided. Whatever came later is told by the feed, or by the journal.
 * - It holds nothing that the store lacks: it gets its name when the store has all that was written when the copying ended.
 *   If the store refused some of it meanwhile, there is no file.
 * - It knows a change of that store by which it is known again.
 * - When anything is erased, the file goes, and the one that is being written is not finished (index_file_wipe). Vectors that
 *   are dead are blank in it; words that are dead are cleaned out of the index before, once after each erasure. */
#define LOG_SUBSYSTEM LOG_IN_INDEX
#include "index_file.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "clock.h"
#include "fault.h"
#include "log.h"

#define STEPS 2048  /* of cleaning; everybody waits for them */
#define ENOUGH 1000 /* changes; fewer are quickly read from the store at the next start */
#define SHARE 100   /* … or one in so many of all */
#define STORE_WAIT_US 30000000
#define TICK_US 20000
#define CLEAN_US 120000000
#define LEAVE_TENTHS 15 /* hundredths of daemon.drain_timeout, of which sync has the last 20 at least */

/* ---- when ---- */

static void arm(struct index_file *x)
{
	int64_t every = x->on ? atomic_load(&x->every_us) : 0;
	struct timeval t = {.tv_sec = every / 1000000, .tv_usec = every % 1000000};
	event_del(x->timer);
	if (every)
		event_add(x->timer, &t);
}

static bool enough(const struct sync *s)
{
	const struct index_file *x = s->index_file;
	uint64_t changes = atomic_load(&x->changes);
	uint64_t all = vectors_count(s->vectors, 0) + postings_count(s->postings, 0);
	int64_t age = clock_real_us() - atomic_load(&x->saved_us);
	/* The feed forgets: a file must not become so old that what has changed since is not known. */
	bool outdated = age > atomic_load(&s->feed_keep_us) / 2;
	return changes && (changes >= ENOUGH || changes * SHARE >= all || outdated);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct sync *s = arg;
	(void)fd, (void)what;
	if (s->draining)
		return;
	sync_enter(s);
	if (!atomic_load(&s->index_file->saving) && enough(s))
		indexer_save(s);
	sync_leave(s);
}

void index_file_conf(struct sync *s, const struct conf *c)
{
	struct index_file *x = s->index_file;
	atomic_store(&x->on, strcmp(conf_str(c, CONF_INDEX_SAVE), "on") == 0);
	atomic_store(&x->every_us, conf_int(c, CONF_INDEX_SAVE_EVERY));
	arm(x);
}

void index_file_open(struct sync *s)
{
	struct index_file *x = s->index_file = util_zalloc(sizeof(*x));
	pthread_mutex_init(&x->lock, NULL);
	x->timer = event_new(s->w->base, -1, EV_PERSIST, on_timer, s);
	AN(x->timer);
	/* What lies on the disk, if anything, is not known to be as new as the segments. */
	atomic_store(&x->changes, ENOUGH);
	index_file_conf(s, s->w->conf);
}

void index_file_changed(struct sync *s) { atomic_fetch_add_explicit(&s->index_file->changes, 1, memory_order_relaxed); }

void index_file_stop(struct sync *s) { atomic_store(&s->index_file->stop, true); }

/* ---- saving ---- */

struct save {
	struct sync *s;
	struct image_writer *w;
	struct image_facts facts;
	uint64_t wiped, mended, upto, changes, bytes;
	int64_t until_us; /* 0: without hurry */
	const char *wrong;
	bool quiet; /* nothing is wrong; it is not the time */
};

static bool give_up(struct save *v, const char *why)
{
	v->wrong = why;
	return false;
}

static bool put_off(struct save *v, const char *why)
{
	v->quiet = true;
	return give_up(v, why);
}

/* No word of what was erased must get into the file. */
static bool clean(struct save *v)
{
	struct sync *s = v->s;
	struct index_file *x = s->index_file;
	enum postings_cleaning c = POSTINGS_GOING_ON;
	uint64_t erasures = postings_erasures(s->postings);
	uint32_t row = 0;
	int64_t until = clock_mono_us() + CLEAN_US;
	if (!postings_unclean(s->postings))
		return true;
	while (c == POSTINGS_GOING_ON && !atomic_load(&x->stop) && clock_mono_us() < until &&
	       (!v->until_us || clock_mono_us() < v->until_us)) {
		sync_enter(s);
		c = postings_clean(s->postings, &row, STEPS);
		if (c == POSTINGS_CLEAN)
			postings_cleaned(s->postings, erasures);
		sync_leave(s);
	}
	if (c == POSTINGS_STUCK)
		return give_up(v, "words.max_bytes leaves no room to rewrite what was erased from");
	return c == POSTINGS_CLEAN || put_off(v, "there was no time");
}

/* Under sync_enter(): from here on nothing that is saved moves. */
static bool begin(struct save *v)
{
	struct sync *s = v->s;
	struct plant *p = s->plant;
	if (!s->index_file->on || atomic_load(&p->refill_state) != REFILL_DONE || s->failed ||
	    !atomic_load(&p->store_known))
		return put_off(v, "the indexes are not complete");
	if (atomic_load(&p->unmended) || !postings_fit(s->postings))
		return put_off(v, "the store did not accept some of what they hold");
	v->facts.revision = s->store_ops->fleet ? s->index_file->revision : atomic_load(&p->feed_revision);
	if (!v->facts.revision)
		return put_off(v, "nothing was ever written");
	v->mended = s->index_file->mended;
	v->wiped = s->index_file->wiped;
	if (postings_unclean(s->postings)) /* after what was wiped: who erases says so before */
		return put_off(v, "something was erased meanwhile");
	v->changes = atomic_load(&s->index_file->changes);
	vectors_hold(s->vectors);
	postings_hold(s->postings);
	return true;
}

static void let_go(struct save *v)
{
	struct sync *s = v->s;
	vectors_let_go(s->vectors);
	for (bool all = false; !all;) {
		sync_enter(s);
		all = postings_let_go(s->postings);
		sync_leave(s);
	}
}

static bool failed(struct save *v, int error)
{
	if (!error)
		return true;
	if (error == ECANCELED || error == ETIME)
		return put_off(v, "there was no time");
	if (error == ENOMEM || error == EAGAIN)
		return put_off(v, "memory was short");
	return give_up(v, strerror(error));
}

static bool copy(struct save *v)
{
	struct sync *s = v->s;
	const _Atomic bool *stop = &s->index_file->stop;
	v->w = image_writer_open(s->store_conf.dir);
	if (!v->w)
		return failed(v, errno);
	image_writer_until(v->w, v->until_us);
	bool ok = failed(v, vectors_save(s->vectors, v->w, &v->facts.part[IMAGE_VECTORS], stop)) &&
		  failed(v, postings_save(s->postings, v->w, &v->facts.part[IMAGE_WORDS], stop));
	FAULT_POINT(index_copied);
	sync_enter(s);
	v->upto = s->next_seq - 1;
	bool held = postings_held(s->postings);
	sync_leave(s);
	return ok && (held || failed(v, ENOMEM));
}

/* The store has all that may be in the file, and refused nothing of it. */
static bool stored(struct save *v)
{
	struct sync *s = v->s;
	struct plant *p = s->plant;
	int64_t until = clock_mono_us() + STORE_WAIT_US;
	while (atomic_load(&p->flushed_seq) < v->upto || atomic_load(&p->unmended)) {
		if (atomic_load(&s->index_file->stop) || s->draining || clock_mono_us() >= until)
			return put_off(v, "the store is behind");
		usleep(TICK_US);
	}
	sync_enter(s);
	bool same = s->index_file->mended == v->mended && postings_fit(s->postings);
	sync_leave(s);
	return same || put_off(v, "the store did not accept some of what they hold");
}

static bool ask(const struct store_ops *ops, struct store *store, struct store_mark *mark_r, uint64_t *identity_r)
{
	return store_mark_now(ops, store, mark_r) == STORE_OK &&
	       (!ops->identity || ops->identity(store, identity_r) == STORE_OK);
}

void index_file_know(struct sync *s, struct store *store)
{
	struct index_file *x = s->index_file;
	x->known = atomic_load(&x->on) && ask(s->store_ops, store, &x->mark, &x->identity);
}

static bool know_store(struct save *v)
{
	const struct store_ops *ops = v->s->store_ops;
	const struct index_file *x = v->s->index_file;
	struct store_conf conf = v->s->store_conf;
	char *error = NULL;
	bool ok = x->known;
	conf.purpose = "index";
	snprintf(v->facts.kind, sizeof(v->facts.kind), "%s", ops->kind);
	v->facts.mark = x->mark;
	v->facts.identity = x->identity;
	struct store *store = v->s->draining ? NULL : ops->open(&conf, false, &error);
	if (store) {
		ok = ask(ops, store, &v->facts.mark, &v->facts.identity);
		ops->close(store);
	}
	free(error);
	if (!ok)
		return put_off(v, "the store did not answer");
	return v->facts.mark.revision || put_off(v, "the feed knows no change");
}

static bool publish(struct save *v)
{
	struct index_file *x = v->s->index_file;
	v->facts.saved_us = clock_real_us();
	if (!image_writer_end(v->w, &v->facts))
		return failed(v, errno);
	v->bytes = image_writer_bytes(v->w);
	pthread_mutex_lock(&x->lock);
	bool wiped = x->wiped != v->wiped;
	bool ok = !wiped && image_writer_publish(&v->w);
	int error = errno;
	pthread_mutex_unlock(&x->lock);
	if (wiped)
		return put_off(v, "something was erased meanwhile");
	return ok || failed(v, error);
}

static void tell(struct save *v, int64_t took_us)
{
	static struct log_limit limit;
	struct sync *s = v->s;
	struct index_file *x = s->index_file;
	if (v->wrong) {
		stats_add_shared(s->w->stats, STAT_INDEX_SAVE_FAILURES, 1);
		if (v->quiet)
			log_info("the indexes are not saved now: %s", v->wrong);
		else
			log_warn_limited(&limit, 600,
					 "the indexes cannot be saved in data.dir/" IMAGE_FOLDER
					 ": %s; the file before stays, if there is one",
					 v->wrong);
		return;
	}
	atomic_fetch_sub(&x->changes, v->changes);
	atomic_store(&x->saved_us, v->facts.saved_us);
	stats_add_shared(s->w->stats, STAT_INDEX_SAVES, 1);
	stats_add_shared(s->w->stats, STAT_INDEX_SAVED_BYTES, v->bytes);
	log_info("saved the indexes: %llu vectors, %llu memories by words, %llu bytes, in %lld ms",
		 (unsigned long long)v->facts.part[IMAGE_VECTORS].live,
		 (unsigned long long)v->facts.part[IMAGE_WORDS].live, (unsigned long long)v->bytes,
		 (long long)took_us / 1000);
}

static void save(struct sync *s, int64_t until_us)
{
	struct save v = {.s = s, .until_us = until_us};
	int64_t from = clock_mono_us();
	bool ok = clean(&v);
	sync_enter(s);
	ok = ok && begin(&v);
	sync_leave(s);
	if (ok) {
		ok = copy(&v);
		let_go(&v);
		ok = ok && stored(&v) && know_store(&v) && publish(&v);
	}
	image_writer_abort(&v.w); /* when it was not published */
	tell(&v, clock_mono_us() - from);
}

void index_file_save(struct sync *s)
{
	struct index_file *x = s->index_file;
	atomic_store(&x->saving, true);
	if (!atomic_load(&x->stop))
		save(s, 0);
	atomic_store(&x->saving, false);
}

/* Nobody else is left: all threads but this one have ended, and the store has what it was given. */
void index_file_leave(struct sync *s, int64_t since_us)
{
	struct index_file *x = s->index_file;
	if (!atomic_load(&x->on) || !enough(s))
		return;
	atomic_store(&x->stop, false);
	save(s, since_us + conf_int(s->w->conf, CONF_DRAIN_TIMEOUT) / 100 * LEAVE_TENTHS);
}

/* ---- erasing ---- */

bool index_file_wipe(struct sync *s)
{
	struct index_file *x = s->index_file;
	postings_erased(s->postings);
	pthread_mutex_lock(&x->lock);
	x->wiped++;
	bool ok = image_wipe(s->store_conf.dir);
	int error = errno;
	pthread_mutex_unlock(&x->lock);
	atomic_fetch_add(&x->changes, ENOUGH); /* there is none any more */
	errno = error;
	return ok;
}
