/* Pages that new rows are going to need, taken from the kernel by another thread than the writer's. A page of shared
 * memory costs 2.4 µs on the machine of docs/benchmarks.md, a row of 1,536 floats one and a half of them: more
 * than all else that an insert does. Nothing depends on it: a row whose page is not there yet waits for it. */
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include "vectors-private.h"

#define AHEAD (512u << 10)
#define STEP (64u << 10) /* bytes a call: the writer's own page faults wait for each */
#define PAGE 4096u

struct vectors_pages {
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t more;
	uintptr_t from, to; /* asked for and not begun; from == to: nothing */
	bool stop;
};

static void take(uintptr_t from, uintptr_t to)
{
	for (; from < to; from += STEP)
		/* Fails where the kernel does not know it (before 5.14): then rows take their pages as they come. */
		(void)madvise((void *)from, to - from < STEP ? to - from : STEP, MADV_POPULATE_WRITE);
}

static void *pages_main(void *arg)
{
	struct vectors_pages *p = arg;
	prctl(PR_SET_NAME, "pages");
	pthread_mutex_lock(&p->lock);
	for (;;) {
		while (p->from == p->to && !p->stop)
			pthread_cond_wait(&p->more, &p->lock);
		if (p->stop)
			break;
		uintptr_t from = p->from, to = p->to;
		p->from = p->to;
		pthread_mutex_unlock(&p->lock);
		take(from, to);
		pthread_mutex_lock(&p->lock);
	}
	pthread_mutex_unlock(&p->lock);
	return NULL;
}

/* Only where much is written: most daemons never need the thread. */
static struct vectors_pages *start(void)
{
	struct vectors_pages *p = util_zalloc(sizeof(*p));
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->more, NULL);
	if (pthread_create(&p->thread, NULL, pages_main, p) == 0)
		return p;
	free(p);
	return NULL;
}

void vectors_pages_ahead(struct vectors *v, const char *rows, size_t at, size_t row_bytes, size_t end, bool file)
{
	if (at ? at / AHEAD == (at - row_bytes) / AHEAD : !file)
		return; /* a chunk of few rows stays small; in the file its room is taken already */
	struct vectors_pages **pp = &v->w->pages, *p;
	if (!*pp && !(*pp = start()))
		return;
	p = *pp;
	size_t to = at + 2 * AHEAD < end ? at + 2 * AHEAD : end;
	pthread_mutex_lock(&p->lock);
	p->from = (uintptr_t)(rows + at) & ~(uintptr_t)(PAGE - 1);
	p->to = (uintptr_t)(rows + to) & ~(uintptr_t)(PAGE - 1);
	pthread_cond_signal(&p->more);
	pthread_mutex_unlock(&p->lock);
}

void vectors_pages_end(struct vectors_pages **pp)
{
	struct vectors_pages *p = *pp;
	if (!p)
		return;
	pthread_mutex_lock(&p->lock);
	p->stop = true;
	pthread_cond_signal(&p->more);
	pthread_mutex_unlock(&p->lock);
	pthread_join(p->thread, NULL);
	free(p);
	*pp = NULL;
}
