/* Reader threads: whatever may block or takes more than a millisecond runs here, off the loop. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "api.h"

#define QUEUE_MAX 4096 /* calls waiting for a thread; beyond, 503 */

struct queue {
	struct call *first, **last;
};
struct jobs {
	struct api *api;
	pthread_mutex_t lock;
	pthread_cond_t more;
	struct queue todo, done;
	size_t waiting;
	bool stop;
	int efd;
	struct event *ev;
	unsigned nthreads;
	pthread_t thread[];
};

static void push(struct queue *q, struct call *c)
{
	c->next = NULL;
	*q->last = c;
	q->last = &c->next;
}

static struct call *pop(struct queue *q)
{
	struct call *c = q->first;
	if (c && !(q->first = c->next))
		q->last = &q->first;
	return c;
}

static void run(struct call *c, struct reader *rd)
{
	if (c->evaluate)
		c->verdict = c->evaluate(c, rd);
	else
		c->read(c, rd);
}

static void *jobs_main(void *arg)
{
	struct jobs *j = arg;
	struct reader *rd = reader_new(&j->api->shared);
	prctl(PR_SET_NAME, "reader");
	pthread_mutex_lock(&j->lock);
	for (;;) {
		struct call *c = pop(&j->todo);
		if (!c) {
			if (j->stop)
				break;
			pthread_cond_wait(&j->more, &j->lock);
			continue;
		}
		j->waiting--;
		pthread_mutex_unlock(&j->lock);
		run(c, rd);
		pthread_mutex_lock(&j->lock);
		bool first = !j->done.first;
		push(&j->done, c);
		if (first)
			(void)!write(j->efd, &(uint64_t){1}, 8);
	}
	pthread_mutex_unlock(&j->lock);
	reader_free(&rd);
	return NULL;
}

static void on_done(evutil_socket_t fd, short what, void *arg)
{
	struct jobs *j = arg;
	uint64_t n;
	(void)what;
	(void)!read(fd, &n, sizeof(n));
	for (;;) {
		pthread_mutex_lock(&j->lock);
		struct call *c = pop(&j->done);
		pthread_mutex_unlock(&j->lock);
		if (!c)
			return;
		call_job_done(c);
	}
}

struct jobs *jobs_start(struct api *a, unsigned threads)
{
	struct jobs *j = util_zalloc(sizeof(*j) + threads * sizeof(pthread_t));
	j->api = a;
	j->todo.last = &j->todo.first;
	j->done.last = &j->done.first;
	pthread_mutex_init(&j->lock, NULL);
	pthread_cond_init(&j->more, NULL);
	j->efd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	j->ev = event_new(a->base, j->efd, EV_READ | EV_PERSIST, on_done, j);
	event_add(j->ev, NULL);
	for (; j->nthreads < threads; j->nthreads++)
		if (pthread_create(&j->thread[j->nthreads], NULL, jobs_main, j))
			break;
	return j;
}

bool jobs_submit(struct jobs *j, struct call *c)
{
	pthread_mutex_lock(&j->lock);
	bool ok = j->waiting < QUEUE_MAX;
	if (ok) {
		push(&j->todo, c);
		j->waiting++;
		pthread_cond_signal(&j->more);
	}
	pthread_mutex_unlock(&j->lock);
	return ok;
}

void jobs_stop(struct jobs **jp)
{
	struct jobs *j = *jp;
	if (!j)
		return;
	pthread_mutex_lock(&j->lock);
	j->stop = true;
	pthread_cond_broadcast(&j->more);
	pthread_mutex_unlock(&j->lock);
	for (unsigned i = 0; i < j->nthreads; i++)
		pthread_join(j->thread[i], NULL);
	event_free(j->ev);
	close(j->efd);
	free(j);
	*jp = NULL;
}
