/* The indexer: what the vector index has to do in the background, codes and lists for namespaces that have grown
 * (index/vectors_work.c), and saving (index_file.c), one at a time, in a thread of its own that yields to everybody. It is
 * started when there is something to do. */
#define LOG_SUBSYSTEM LOG_IN_INDEX
#include <stdlib.h>
#include <sys/prctl.h>

#include "clock.h"
#include "log.h"
#include "sync.h"

#define LINGER_US 500000 /* then memory that was given up is looked at again, and what is put off */

struct indexer {
	struct sync *s;
	struct vectors *vectors;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t poked;
	bool poke, stop, save;
};

static bool wait(struct indexer *x)
{
	pthread_mutex_lock(&x->lock);
	while (!x->poke && !x->stop && !vectors_work_due(x->vectors) && !vectors_work_later(x->vectors))
		pthread_cond_wait(&x->poked, &x->lock);
	if (!x->poke && !x->stop && !vectors_work_due(x->vectors))
		(void)clock_wait_until(&x->poked, &x->lock, clock_mono_us() + LINGER_US);
	x->poke = false;
	bool go_on = !x->stop;
	pthread_mutex_unlock(&x->lock);
	return go_on;
}

static bool take_save(struct indexer *x)
{
	pthread_mutex_lock(&x->lock);
	bool save = x->save && !x->stop;
	x->save = false;
	pthread_mutex_unlock(&x->lock);
	return save;
}

static void *indexer_main(void *arg)
{
	struct indexer *x = arg;
	prctl(PR_SET_NAME, "indexer");
	vectors_work_yield();
	do {
		do { /* between two pieces, lest a namespace that never stops growing keeps everything from being saved */
			if (take_save(x))
				index_file_save(x->s);
		} while (vectors_work(x->vectors));
	} while (wait(x));
	return NULL;
}

static struct indexer *start(struct sync *s)
{
	static struct log_limit limit;
	struct indexer *x = util_zalloc(sizeof(*x));
	x->s = s;
	x->vectors = s->vectors;
	pthread_mutex_init(&x->lock, NULL);
	pthread_cond_init(&x->poked, NULL);
	if (pthread_create(&x->thread, NULL, indexer_main, x) == 0)
		return x;
	log_warn_limited(&limit, 60, "the vector index cannot be clustered, nor the indexes saved: no thread");
	free(x);
	return NULL;
}

static void poke(struct sync *s, bool save)
{
	if (s->indexer_off || (!s->indexer && !(s->indexer = start(s))))
		return;
	struct indexer *x = s->indexer;
	pthread_mutex_lock(&x->lock);
	if (!x->poke)
		pthread_cond_signal(&x->poked);
	x->poke = true;
	x->save |= save;
	pthread_mutex_unlock(&x->lock);
}

void indexer_poke(struct sync *s)
{
	if (s->vectors && vectors_work_due(s->vectors))
		poke(s, false);
}

void indexer_save(struct sync *s) { poke(s, true); }

void indexer_stop(struct sync *s)
{
	sync_enter(s);
	struct indexer *x = s->indexer;
	s->indexer = NULL;
	s->indexer_off = true; /* nobody starts another */
	sync_leave(s);
	if (!x)
		return;
	vectors_work_stop(x->vectors);
	index_file_stop(s);
	pthread_mutex_lock(&x->lock);
	x->stop = true;
	pthread_cond_signal(&x->poked);
	pthread_mutex_unlock(&x->lock);
	pthread_join(x->thread, NULL);
	free(x);
}
