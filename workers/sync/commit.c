/* The journal thread: one group at a time becomes durable while the loop gathers the next. The
 * next group is therefore all that arrived during the last fdatasync: group commit without a timer.
 *
 *   open (loop) → ready → on the disk (journal thread) → made visible and answered → free
 *
 * The loop offers what it has gathered and goes on adding to it; the thread takes what is offered the moment it
 * is done with the one before. Neither waits for the other to wake up. A group that is durable is made visible by
 * the thread when the disk has nothing else to do, and by the loop when the next one is ready for it.
 *
 * Beside it a thread that fills spare segments with zeros. The flusher cannot do that: it is busy with
 * the store just when writes come fast, and a journal thread that finds no spare makes everybody wait. */
#include <errno.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "clock.h"
#include "fault.h"
#include "log.h"
#include "sync.h"

#define PREPARE_RETRY_US 100000

struct committer {
	struct sync *s;
	pthread_t thread, segments;
	pthread_mutex_t lock;
	pthread_cond_t more, low;
	struct batch *ready; /* the loop's open group, to be taken as it is */
	struct batch *free[BATCHES];
	size_t nfree;
	size_t under_way; /* taken, and not yet back from apply.c */
	bool halted;	  /* one of them failed: none is taken until the loop has refused what was numbered behind it */
	bool spares_low, stop;
	struct iovec iov[BATCH_TXNS];
	struct journal_where where[BATCH_TXNS];
};

/* ---- the threads ---- */

static void write_batch(struct committer *c, struct batch *g)
{
	size_t n = 0;
	for (size_t i = 0; i < g->n; i++)
		if (g->items[i].status == TXN_OK)
			c->iov[n++] = (struct iovec){(void *)(uintptr_t)g->items[i].data, g->items[i].len};
	int64_t began_ns = clock_mono_ns();
	g->error = journal_append(c->s->journal, c->iov, n, g->first_seq, c->where);
	if (!g->error && !g->all_relaxed)
		g->error = journal_sync(c->s->journal);
	stats_record(c->s->w->stats, HIST_JOURNAL_COMMIT, (uint64_t)(clock_mono_ns() - began_ns));
	stats_record(c->s->w->stats, HIST_JOURNAL_GROUP, hist_records(n));
	n = 0;
	for (size_t i = 0; i < g->n; i++)
		if (g->items[i].status == TXN_OK)
			g->items[i].where = c->where[n++];
}

static void look_after_spares(struct committer *c)
{
	if (!journal_low(c->s->journal))
		return;
	pthread_mutex_lock(&c->lock);
	c->spares_low = true;
	pthread_cond_signal(&c->low);
	pthread_mutex_unlock(&c->lock);
}

static void *segments_main(void *arg)
{
	struct committer *c = arg;
	prctl(PR_SET_NAME, "segments");
	pthread_mutex_lock(&c->lock);
	for (;;) {
		while (!c->spares_low && !c->stop)
			pthread_cond_wait(&c->low, &c->lock);
		if (c->stop)
			break;
		c->spares_low = false;
		pthread_mutex_unlock(&c->lock);
		if (journal_prepare(c->s->journal)) /* quota or disk: the append reports it if it matters */
			usleep(PREPARE_RETRY_US);
		pthread_mutex_lock(&c->lock);
	}
	pthread_mutex_unlock(&c->lock);
	return NULL;
}

/* The next group may be taken: there is one, and the loop will find another to gather into. */
static bool may_take(const struct committer *c) { return c->ready && c->nfree && !c->halted; }

static void give_back(struct committer *c, struct batch *g, bool failed)
{
	pthread_mutex_lock(&c->lock);
	c->free[c->nfree++] = g;
	c->under_way--;
	if (failed)
		c->halted = false;
	if (may_take(c))
		pthread_cond_signal(&c->more);
	pthread_mutex_unlock(&c->lock);
}

static void gather_on(struct sync *s, void *arg)
{
	(void)arg;
	if (commit_gather(s))
		worker_wake_self(s->w);
}

/* Nothing else is under way, so this one is next in order. */
static void finish_here(struct committer *c, struct batch *g)
{
	bool more = !intake_room(g); /* it was full: there is more in the rings */
	sync_enter(c->s);
	apply_batch(c->s, g);
	give_back(c, g, false);
	if (c->s->open->n && !c->s->offered) /* refusals that waited for it, and perhaps more behind them */
		more |= commit_gather(c->s);
	sync_leave(c->s);
	if (more)
		sync_post(c->s, gather_on, NULL);
}

static void batch_done(struct sync *s, void *arg);

static void *committer_main(void *arg)
{
	struct committer *c = arg;
	prctl(PR_SET_NAME, "journal");
	worker_prompt();
	pthread_mutex_lock(&c->lock);
	for (;;) {
		while (!may_take(c) && !c->stop)
			pthread_cond_wait(&c->more, &c->lock);
		if (!may_take(c))
			break;
		struct batch *g = c->ready;
		c->ready = NULL;
		c->under_way++;
		pthread_mutex_unlock(&c->lock);
		write_batch(c, g);
		FAULT_POINT(commit_durable);
		pthread_mutex_lock(&c->lock);
		c->halted = g->error;
		bool idle = !g->error && c->under_way == 1 && !may_take(c);
		pthread_mutex_unlock(&c->lock);
		if (idle)
			finish_here(c, g);
		else
			sync_post(c->s, batch_done, g);
		look_after_spares(c);
		pthread_mutex_lock(&c->lock);
	}
	pthread_mutex_unlock(&c->lock);
	return NULL;
}

/* ---- the loop's side ---- */

/* The open group is the loop's alone again; if the thread has taken it, another one is. */
static void take_back(struct sync *s)
{
	struct committer *c = s->committer;
	if (!s->offered)
		return;
	s->offered = false;
	pthread_mutex_lock(&c->lock);
	if (c->ready)
		c->ready = NULL;
	else
		s->open = c->free[--c->nfree];
	pthread_mutex_unlock(&c->lock);
}

struct batch *commit_open(struct sync *s)
{
	take_back(s);
	return s->open;
}

bool commit_idle(struct sync *s)
{
	struct committer *c = s->committer;
	if (!c)
		return true;
	pthread_mutex_lock(&c->lock);
	bool idle = !c->under_way && !c->ready;
	pthread_mutex_unlock(&c->lock);
	return idle;
}

void commit_offer(struct sync *s)
{
	struct committer *c = s->committer;
	if (s->offered || !s->open->n)
		return;
	if (!s->open->writes) { /* refusals only: nothing to make durable, but what they met comes first */
		if (commit_idle(s))
			apply_batch(s, s->open);
		return;
	}
	pthread_mutex_lock(&c->lock);
	c->ready = s->open;
	if (may_take(c))
		pthread_cond_signal(&c->more);
	pthread_mutex_unlock(&c->lock);
	s->offered = true;
}

static void batch_done(struct sync *s, void *arg)
{
	struct batch *g = arg;
	bool failed = g->error;
	if (failed) {
		take_back(s); /* what lies in it is refused with this one */
	} else {	      /* the disk has work while this one is made visible */
		intake_run(s);
		commit_offer(s);
	}
	apply_batch(s, g);
	give_back(s->committer, g, failed);
	gather_on(s, NULL);
}

bool commit_gather(struct sync *s)
{
	intake_run(s);
	size_t n = s->open->n;
	commit_offer(s);
	return n && !s->open->n;
}

/* ---- birth and death ---- */

struct committer *commit_start(struct sync *s)
{
	struct committer *c = util_zalloc(sizeof(*c));
	c->s = s;
	for (size_t i = 0; i < BATCHES; i++)
		if (&s->batches[i] != s->open)
			c->free[c->nfree++] = &s->batches[i];
	pthread_mutex_init(&c->lock, NULL);
	pthread_cond_init(&c->more, NULL);
	pthread_cond_init(&c->low, NULL);
	if (pthread_create(&c->thread, NULL, committer_main, c) || pthread_create(&c->segments, NULL, segments_main, c))
		return NULL; /* the worker ends: there is nothing to undo */
	return c;
}

void commit_stop(struct committer **cp)
{
	struct committer *c = *cp;
	if (!c)
		return;
	pthread_mutex_lock(&c->lock);
	c->stop = true;
	pthread_cond_signal(&c->more);
	pthread_cond_signal(&c->low);
	pthread_mutex_unlock(&c->lock);
	pthread_join(c->thread, NULL);
	pthread_join(c->segments, NULL);
	free(c);
	*cp = NULL;
}
