/* Reader threads: whatever may block or takes more than a millisecond runs here, off the loop. Who waits for them, and for
 * how long at most: lane.h; how many run at once: gradient.h. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "api.h"
#include "clock.h"
#include "gradient.h"
#include "herd.h"
#include "overload.h"
#include "requests.h"
#include "trace/trace.h"

#define DONE_SLICE_US 2000     /* answering of finished calls before the loop looks at its sockets again */
#define DONE_BYTES (16u << 20) /* finished and not yet answered: beyond, the threads wait for the loop */
#define QUIET_US 1000000       /* without requests that are not bulk: bulk may have all threads */
#define THREADS_LEAST 2	       /* never fewer run at once, if there are so many */
#define FIRST_COST_US 1000     /* what a job is thought to take before one was seen */

struct queue {
	struct call *first, **last;
};
struct runner { /* what a thread has in hand */
	struct jobs *jobs;
	pthread_t thread;
	int64_t since_us; /* 0: nothing */
	enum lane_class class;
};
struct jobs {
	struct api *api;
	pthread_mutex_t lock;
	pthread_cond_t more, taken;
	struct lane todo;
	struct gradient limit;
	struct queue done;
	size_t done_bytes;
	unsigned running, running_bulk;
	int64_t live_us; /* when something came last that is not bulk */
	bool stop;
	int efd;
	struct event *ev;
	unsigned nthreads;
	struct runner runner[];
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

static struct call *call_of(struct lane_item *i)
{
	return i ? (struct call *)(void *)((char *)i - offsetof(struct call, wait)) : NULL;
}

static void run(struct call *c, struct reader *rd)
{
	requests_enter(c->req);
	trace_here = c->trace;
	if (c->evaluate) {
		unsigned step = trace_enter(TRACE_EVALUATE);
		c->verdict = c->evaluate(c, rd);
		trace_leave(step);
	} else {
		c->read(c, rd);
	}
	trace_here = NULL;
	requests_leave();
}

static size_t weight(const struct call *c) { return c->reply.body.len + c->txn.len; }

/* ---- the threads; everything with the lock held ---- */

static void finished(struct jobs *j, struct call *c)
{
	bool first = !j->done.first;
	push(&j->done, c);
	j->done_bytes += weight(c);
	if (first)
		(void)!write(j->efd, &(uint64_t){1}, 8);
}

/* What has waited for too long goes to the loop as it is. */
static void give_up_stale(struct jobs *j, int64_t now)
{
	for (struct lane_item *i; (i = lane_stale(&j->todo, now));) {
		struct call *c = call_of(i);
		c->stale = true;
		finished(j, c);
	}
}

/* Bulk leaves one thread to the others, while there are others. */
static bool bulk_may(const struct jobs *j, int64_t now)
{
	return j->running_bulk + 1 < gradient_limit(&j->limit) || now - j->live_us > QUIET_US;
}

static struct call *take(struct jobs *j, struct runner *r)
{
	int64_t now = clock_mono_us();
	give_up_stale(j, now);
	if (j->running >= gradient_limit(&j->limit))
		return NULL;
	struct call *c = call_of(lane_take(&j->todo, now, bulk_may(j, now)));
	if (!c)
		return NULL;
	int64_t waited = now > c->wait.fair.since_us ? now - c->wait.fair.since_us : 0;
	c->waited_us += waited;
	if (c->trace)
		trace_step(c->trace, TRACE_QUEUE, (now - waited) * 1000, now * 1000, false);
	stats_record(j->api->w->stats, HIST_QUEUE_WAIT, (uint64_t)waited * 1000); /* under the lock: one at a time */
	r->since_us = now;
	r->class = c->wait.class;
	j->running++;
	j->running_bulk += r->class >= LANE_BULK;
	if (lane_items(&j->todo) && j->running < gradient_limit(&j->limit))
		pthread_cond_signal(&j->more);
	return c;
}

static void put_down(struct jobs *j, struct runner *r, struct call *c)
{
	int64_t now = clock_mono_us();
	lane_done(&j->todo, &c->wait, now);
	gradient_sample(&j->limit, c->wait.class, now, now - r->since_us, j->running >= gradient_limit(&j->limit));
	j->todo.servers = gradient_limit(&j->limit);
	j->running--;
	j->running_bulk -= r->class >= LANE_BULK;
	r->since_us = 0;
	finished(j, c);
}

static void *jobs_main(void *arg)
{
	struct runner *r = arg;
	struct jobs *j = r->jobs;
	struct reader *rd = reader_new(&j->api->shared);
	prctl(PR_SET_NAME, "reader");
	pthread_mutex_lock(&j->lock);
	for (;;) {
		while (j->done_bytes > DONE_BYTES && !j->stop)
			pthread_cond_wait(&j->taken, &j->lock);
		struct call *c = take(j, r);
		if (!c) {
			if (j->stop)
				break;
			pthread_cond_wait(&j->more, &j->lock);
			continue;
		}
		pthread_mutex_unlock(&j->lock);
		run(c, rd);
		pthread_mutex_lock(&j->lock);
		put_down(j, r, c);
	}
	pthread_mutex_unlock(&j->lock);
	reader_free(&rd);
	return NULL;
}

/* ---- the loop ---- */

static void on_done(evutil_socket_t fd, short what, void *arg)
{
	struct jobs *j = arg;
	int64_t now = clock_mono_us(), until = now + DONE_SLICE_US;
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
		if (c->stale)
			overload_refuse(c, OVERLOAD_READERS, OVERLOAD_STALE, now - c->wait.fair.since_us);
		call_job_done(c);
		if ((now = clock_mono_us()) >= until)
			break;
	}
	/* The threads may be quicker than their answers: everybody else gets a turn between. */
	(void)!write(j->efd, &(uint64_t){1}, 8);
}

/* With the lock held, which it gives back: metrics, and whoever lost a place. */
static void shown(struct jobs *j, struct call *out, int64_t now)
{
	int64_t delay = lane_delay(&j->todo, LANE_READ, now);
	overload_show(j->api, OVERLOAD_READERS, &j->todo, now);
	atomic_store_explicit(&j->api->w->stats->v[STAT_OVERLOAD_LIMIT_READERS], gradient_limit(&j->limit),
			      memory_order_relaxed);
	pthread_mutex_unlock(&j->lock);
	if (!out)
		return;
	overload_refuse(out, OVERLOAD_READERS, OVERLOAD_EVICTED, delay);
	call_finish(out);
}

bool jobs_submit(struct jobs *j, struct call *c)
{
	struct lane_item *out;
	if (c->req) {
		http_request_id(c->req); /* made here: a thread that needs it finds it */
		if (!overload_admits_late(c))
			return false;
	}
	int64_t now = clock_mono_us();
	pthread_mutex_lock(&j->lock);
	if (c->wait.class < LANE_BULK)
		j->live_us = now;
	enum lane_verdict v = lane_offer(&j->todo, &c->wait, c->flow, now, &out);
	bool full = v == LANE_OUT && !j->todo.codel.standing;
	int64_t delay = v == LANE_OUT ? lane_delay(&j->todo, c->wait.class, now) : 0;
	if (v != LANE_OUT)
		pthread_cond_signal(&j->more);
	shown(j, call_of(out), now);
	if (v == LANE_OUT && !full)
		overload_refuse(c, OVERLOAD_READERS, OVERLOAD_DELAY, delay);
	return v != LANE_OUT;
}

bool jobs_admits(struct jobs *j, const struct call *c, int64_t *delay_r)
{
	int64_t now = clock_mono_us();
	pthread_mutex_lock(&j->lock);
	bool ok = lane_admits(&j->todo, c->wait.class, c->flow, now);
	*delay_r = lane_delay(&j->todo, c->wait.class, now);
	pthread_mutex_unlock(&j->lock);
	return ok;
}

bool jobs_cancel(struct jobs *j, struct call *c, bool gone)
{
	bool read = c->read && !c->evaluate && !c->wait.settled;
	pthread_mutex_lock(&j->lock);
	/* Who has closed but a half may want the answer all the same; while there are too many, he is taken to have left. */
	bool drop = read && lane_waits(&c->wait) && (gone || j->todo.codel.standing) && !herd_followed(j->api->herd, c);
	if (drop)
		lane_remove(&j->todo, &c->wait);
	pthread_mutex_unlock(&j->lock);
	return drop;
}

void jobs_tick(struct jobs *j)
{
	int64_t now = clock_mono_us();
	pthread_mutex_lock(&j->lock);
	for (unsigned i = 0; i < j->nthreads; i++)
		if (j->runner[i].since_us)
			lane_running(&j->todo, j->runner[i].class, now - j->runner[i].since_us);
	give_up_stale(j, now);
	shown(j, NULL, now);
}

void jobs_conf(struct jobs *j)
{
	pthread_mutex_lock(&j->lock);
	j->todo.conf = overload_lane_conf(j->api);
	pthread_mutex_unlock(&j->lock);
}

size_t jobs_waiting(struct jobs *j)
{
	pthread_mutex_lock(&j->lock);
	size_t n = lane_items(&j->todo);
	pthread_mutex_unlock(&j->lock);
	return n;
}

/* ---- life ---- */

struct jobs *jobs_start(struct api *a, unsigned threads)
{
	struct jobs *j = util_zalloc(sizeof(*j) + threads * sizeof(struct runner));
	j->api = a;
	lane_init(&j->todo, threads, FIRST_COST_US);
	j->todo.conf = overload_lane_conf(a);
	gradient_init(&j->limit, THREADS_LEAST, threads, threads);
	j->done.last = &j->done.first;
	pthread_mutex_init(&j->lock, NULL);
	pthread_cond_init(&j->more, NULL);
	pthread_cond_init(&j->taken, NULL);
	j->efd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	j->ev = event_new(a->base, j->efd, EV_READ | EV_PERSIST, on_done, j);
	event_add(j->ev, NULL);
	pthread_mutex_lock(&j->lock);
	for (; j->nthreads < threads; j->nthreads++) {
		j->runner[j->nthreads].jobs = j;
		if (pthread_create(&j->runner[j->nthreads].thread, NULL, jobs_main, &j->runner[j->nthreads]))
			break;
	}
	pthread_mutex_unlock(&j->lock);
	return j;
}

void jobs_halt(struct jobs *j)
{
	pthread_mutex_lock(&j->lock);
	j->stop = true;
	pthread_cond_broadcast(&j->more);
	pthread_cond_broadcast(&j->taken);
	pthread_mutex_unlock(&j->lock);
	while (j->nthreads)
		pthread_join(j->runner[--j->nthreads].thread, NULL);
}

void jobs_stop(struct jobs **jp)
{
	struct jobs *j = *jp;
	if (!j)
		return;
	jobs_halt(j);
	for (struct call *c; (c = call_of(lane_take(&j->todo, 0, true))) || (c = pop(&j->done));)
		call_free(c); /* its client has gone: nobody waited for it */
	lane_end(&j->todo);
	event_free(j->ev);
	close(j->efd);
	free(j);
	*jp = NULL;
}
