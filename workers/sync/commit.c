/* The journal thread: one batch at a time becomes durable while the loop gathers the next. The
 * next batch is therefore all that arrived during the last fdatasync: group commit without a timer.
 *
 * Beside it a thread that fills spare segments with zeros. The flusher cannot do that: it is busy with
 * the store just when writes come fast, and a journal thread that finds no spare makes everybody wait. */
#include <errno.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "log.h"
#include "sync.h"

#define PREPARE_RETRY_US 100000

struct committer {
	struct sync *s;
	pthread_t thread, segments;
	pthread_mutex_t lock;
	pthread_cond_t more, low;
	struct batch *work;
	bool spares_low, stop;
	struct iovec iov[BATCH_TXNS];
	struct journal_where where[BATCH_TXNS];
};

static void write_batch(struct committer *c, struct batch *g)
{
	size_t n = 0;
	for (size_t i = 0; i < g->n; i++)
		if (g->items[i].status == TXN_OK)
			c->iov[n++] = (struct iovec){(void *)(uintptr_t)g->items[i].data, g->items[i].len};
	g->error = journal_append(c->s->journal, c->iov, n, g->first_seq, c->where);
	if (!g->error && !g->all_relaxed)
		g->error = journal_sync(c->s->journal);
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

static void batch_done(struct sync *s, void *arg)
{
	struct batch *g = arg;
	s->flying = NULL;
	/* The disk works on the next batch while this one is made visible. */
	struct batch *next = s->open;
	if (!g->error && next->writes) {
		commit_submit(s);
		apply_batch(s, g);
	} else {
		apply_batch(s, g);
		commit_submit(s);
	}
	/* A batch of refusals needs no disk, so nobody would come back for what still lies in the rings. */
	size_t n;
	do {
		intake_run(s);
		n = s->open->n;
		commit_submit(s);
	} while (n && !s->flying);
}

static void *committer_main(void *arg)
{
	struct committer *c = arg;
	prctl(PR_SET_NAME, "journal");
	worker_prompt();
	pthread_mutex_lock(&c->lock);
	for (;;) {
		while (!c->work && !c->stop)
			pthread_cond_wait(&c->more, &c->lock);
		struct batch *g = c->work;
		c->work = NULL;
		if (!g)
			break;
		pthread_mutex_unlock(&c->lock);
		write_batch(c, g);
		sync_post(c->s, batch_done, g);
		look_after_spares(c);
		pthread_mutex_lock(&c->lock);
	}
	pthread_mutex_unlock(&c->lock);
	return NULL;
}

void commit_submit(struct sync *s)
{
	struct committer *c = s->committer;
	if (s->flying || !s->open->n)
		return;
	struct batch *g = s->open;
	struct batch *spare = g == &s->batches[0] ? &s->batches[1] : &s->batches[0];
	if (!g->writes) { /* refusals only: nothing to make durable */
		apply_batch(s, g);
		return;
	}
	s->flying = g;
	s->open = spare;
	pthread_mutex_lock(&c->lock);
	c->work = g;
	pthread_cond_signal(&c->more);
	pthread_mutex_unlock(&c->lock);
}

struct committer *commit_start(struct sync *s)
{
	struct committer *c = util_zalloc(sizeof(*c));
	c->s = s;
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
