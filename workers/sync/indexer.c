/* The indexer: what the vector index has to do in the background, codes and lists for namespaces that have grown
 * (index/vectors_work.c), in a thread of its own that yields to everybody. It is started when there is something to do. */
#define LOG_SUBSYSTEM LOG_IN_INDEX
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "log.h"
#include "sync.h"

#define NICE 10
#define LINGER_MS 500 /* memory that was given up is looked at again */

struct indexer {
	struct vectors *vectors;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t poked;
	bool poke, stop;
};

static bool wait(struct indexer *x)
{
	struct timespec until;
	pthread_mutex_lock(&x->lock);
	while (!x->poke && !x->stop && !vectors_work_due(x->vectors))
		pthread_cond_wait(&x->poked, &x->lock);
	if (!x->poke && !x->stop) {
		clock_gettime(CLOCK_REALTIME, &until);
		until.tv_nsec += LINGER_MS * 1000000L;
		until.tv_sec += until.tv_nsec / 1000000000L;
		until.tv_nsec %= 1000000000L;
		pthread_cond_timedwait(&x->poked, &x->lock, &until);
	}
	x->poke = false;
	bool go_on = !x->stop;
	pthread_mutex_unlock(&x->lock);
	return go_on;
}

static void *indexer_main(void *arg)
{
	struct indexer *x = arg;
	prctl(PR_SET_NAME, "indexer");
	(void)setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), NICE); /* of this thread alone, on Linux */
	do {
		while (vectors_work(x->vectors))
			;
	} while (wait(x));
	return NULL;
}

static struct indexer *start(struct vectors *v)
{
	static struct log_limit limit;
	struct indexer *x = util_zalloc(sizeof(*x));
	x->vectors = v;
	pthread_mutex_init(&x->lock, NULL);
	pthread_cond_init(&x->poked, NULL);
	if (pthread_create(&x->thread, NULL, indexer_main, x) == 0)
		return x;
	log_warn_limited(&limit, 60, "the vector index cannot be clustered: no thread");
	free(x);
	return NULL;
}

void indexer_poke(struct sync *s)
{
	if (!s->vectors || s->indexer_off || !vectors_work_due(s->vectors))
		return;
	if (!s->indexer && !(s->indexer = start(s->vectors)))
		return;
	struct indexer *x = s->indexer;
	pthread_mutex_lock(&x->lock);
	if (!x->poke)
		pthread_cond_signal(&x->poked);
	x->poke = true;
	pthread_mutex_unlock(&x->lock);
}

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
	pthread_mutex_lock(&x->lock);
	x->stop = true;
	pthread_cond_signal(&x->poked);
	pthread_mutex_unlock(&x->lock);
	pthread_join(x->thread, NULL);
	free(x);
}
