/* Reader threads: whatever may block or takes more than a millisecond runs here, off the loop. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "api.h"
#include "clock.h"
#include "requests.h"

#define QUEUE_MAX 4096	       /* calls waiting for a thread; beyond, 503 */
#define DONE_SLICE_US 2000     /* answering of finished calls before the loop looks at its sockets again */
#define DONE_BYTES (16u << 20) /* finished and not yet answered: beyond, the threads wait for the loop */

struct queue {
	struct call *first, **last;
};
struct jobs {
	struct api *api;
	pthread_mutex_t lock;
	pthread_cond_t more, taken;
	struct queue todo, done;
	size_t waiting, done_bytes;
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
	requests_enter(c->req);
	if (c->evaluate)
		c->verdict = c->evaluate(c, rd);
	else
		c->read(c, rd);
	requests_leave();
}

static size_t weight(const struct call *c) { return c->reply.body.len + c->txn.len; }

static void *jobs_main(void *arg)
{
	struct jobs *j = arg;
	struct reader *rd = reader_new(&j->api->shared);
	prctl(PR_SET_NAME, "reader");
	pthread_mutex_lock(&j->lock);
	for (;;) {
		while (j->done_bytes > DONE_BYTES && !j->stop)
			pthread_cond_wait(&j->taken, &j->lock);
		struct call *c = pop(&j->todo);
		if (!c) {
			if (j->stop)
				break;
			pthread_cond_wait(&j->more, &j->lock);
			continue;
		}
		j->waiting--;
		int64_t waited = clock_mono_ns() - c->queued_ns;
		c->waited_ns += waited;
		stats_record(j->api->w->stats, HIST_QUEUE_WAIT, (uint64_t)waited); /* under the lock: one at a time */
		pthread_mutex_unlock(&j->lock);
		run(c, rd);
		pthread_mutex_lock(&j->lock);
		bool first = !j->done.first;
		push(&j->done, c);
		j->done_bytes += weight(c);
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
	int64_t until = clock_mono_us() + DONE_SLICE_US;
	uint64_t n;
	(void)what;
	(void)!read(fd, &n, sizeof(n));
	for (;;) {
		pthread_mutex_lock(&j->lock);
		struct call *c = pop(&j->done);
		if (c) {
			bool waited = j->done_bytes > DONE_BYTES;
			j->done_bytes -= weight(c);
			if (waited && j->done_bytes <= DONE_BYTES)
				pthread_cond_broadcast(&j->taken);
		}
		pthread_mutex_unlock(&j->lock);
		if (!c)
			return;
		call_job_done(c);
		if (clock_mono_us() >= until)
			break;
	}
	/* The threads may be quicker than their answers: everybody else gets a turn between. */
	(void)!write(j->efd, &(uint64_t){1}, 8);
}

struct jobs *jobs_start(struct api *a, unsigned threads)
{
	struct jobs *j = util_zalloc(sizeof(*j) + threads * sizeof(pthread_t));
	j->api = a;
	j->todo.last = &j->todo.first;
	j->done.last = &j->done.first;
	pthread_mutex_init(&j->lock, NULL);
	pthread_cond_init(&j->more, NULL);
	pthread_cond_init(&j->taken, NULL);
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
	if (c->req)
		http_request_id(c->req); /* made here: a thread that needs it finds it */
	c->queued_ns = clock_mono_ns();
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

size_t jobs_waiting(struct jobs *j)
{
	pthread_mutex_lock(&j->lock);
	size_t n = j->waiting;
	pthread_mutex_unlock(&j->lock);
	return n;
}

void jobs_halt(struct jobs *j)
{
	pthread_mutex_lock(&j->lock);
	j->stop = true;
	pthread_cond_broadcast(&j->more);
	pthread_cond_broadcast(&j->taken);
	pthread_mutex_unlock(&j->lock);
	while (j->nthreads)
		pthread_join(j->thread[--j->nthreads], NULL);
}

void jobs_stop(struct jobs **jp)
{
	struct jobs *j = *jp;
	if (!j)
		return;
	jobs_halt(j);
	for (struct call *c; (c = pop(&j->todo)) || (c = pop(&j->done));)
		call_free(c); /* its client has gone: nobody waited for it */
	event_free(j->ev);
	close(j->efd);
	free(j);
	*jp = NULL;
}
