/* The warmer's thread: one job at a time, so that the loop stays free. It has less weight than others (nice): whoever
 * answers clients goes first. */
#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "clock.h"
#include "fault.h"
#include "log.h"
#include "warmer.h"

#define NICE 5 /* a third of the weight. Not more: it holds locks of L1, which sync waits for */

static void begin(struct warmer *m, const struct job *j)
{
	struct plant_warm *p = &m->plant->warm;
	atomic_store_explicit(&p->loaded, 0, memory_order_relaxed);
	atomic_store_explicit(&p->skipped, 0, memory_order_relaxed);
	atomic_store_explicit(&p->bytes, 0, memory_order_relaxed);
	atomic_store_explicit(&p->total, 0, memory_order_relaxed);
	atomic_store_explicit(&p->source, WARM_FROM_NOTHING, memory_order_relaxed);
	atomic_store_explicit(&p->kind, j->kind, memory_order_relaxed);
	atomic_store_explicit(&p->ns, j->ns, memory_order_relaxed);
	atomic_store_explicit(&p->started_us, clock_real_us(), memory_order_relaxed);
	atomic_store_explicit(&p->ended_us, 0, memory_order_relaxed);
	atomic_fetch_add_explicit(&p->job, 1, memory_order_relaxed);
	atomic_store_explicit(&p->state, WARM_RUNNING, memory_order_release);
	FAULT_POINT(warm_begun);
}

static void run(struct warmer *m, const struct job *j)
{
	struct plant_warm *p = &m->plant->warm;
	if (j->work == WORK_SAVE) {
		save_run(m, j);
		return;
	}
	enum plant_warm_state state = warm_run(m, j);
	FAULT_POINT(warm_over);
	atomic_store_explicit(&p->ended_us, clock_real_us(), memory_order_relaxed);
	atomic_store_explicit(&p->state, state, memory_order_release);
	if (j->kind == WARM_AT_START && !(state == WARM_CANCELLED && atomic_load(&m->leaving)))
		atomic_store_explicit(&m->plant->warm_done, 1, memory_order_release);
}

static void *work_main(void *arg)
{
	struct warmer *m = arg;
	prctl(PR_SET_NAME, "warm");
	(void)setpriority(PRIO_PROCESS, 0, getpriority(PRIO_PROCESS, 0) + NICE); /* of this thread */
	pthread_mutex_lock(&m->lock);
	while (!m->stop) {
		if (m->job.work == WORK_NONE || m->taken) {
			pthread_cond_wait(&m->wake, &m->lock);
			continue;
		}
		struct job j = m->job;
		m->taken = true;
		pthread_mutex_unlock(&m->lock);
		run(m, &j);
		pthread_mutex_lock(&m->lock);
		m->job = m->next;
		m->next.work = WORK_NONE;
		m->taken = false;
		if (m->job.work != WORK_NONE)
			atomic_store(&m->cancel, false);
		if (atomic_load(&m->leaving))
			m->job.work = WORK_NONE;
		(void)!write(m->done_fd, &(uint64_t){1}, 8);
	}
	pthread_mutex_unlock(&m->lock);
	return NULL;
}

bool work_start(struct warmer *m)
{
	pthread_mutex_init(&m->lock, NULL);
	pthread_cond_init(&m->wake, NULL);
	m->done_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	m->started = m->done_fd != -1 && pthread_create(&m->thread, NULL, work_main, m) == 0;
	return m->started;
}

/* The number and the state are the job's from here on: whoever asks next finds them. */
bool work_give(struct warmer *m, const struct job *j)
{
	pthread_mutex_lock(&m->lock);
	bool idle = m->job.work == WORK_NONE;
	/* A save that is in no hurry is given up for what somebody asks for. */
	bool yields = m->job.work == WORK_SAVE && !m->job.until_us && j->work == WORK_WARM && m->next.work == WORK_NONE;
	if (idle || yields) {
		atomic_store(&m->cancel, !idle);
		*(idle ? &m->job : &m->next) = *j;
		if (j->work == WORK_WARM)
			begin(m, j);
		pthread_cond_signal(&m->wake);
	}
	pthread_mutex_unlock(&m->lock);
	return idle || yields;
}

bool work_busy(struct warmer *m)
{
	pthread_mutex_lock(&m->lock);
	bool busy = m->job.work != WORK_NONE;
	pthread_mutex_unlock(&m->lock);
	return busy;
}

void work_stop(struct warmer *m)
{
	if (!m->started)
		return;
	atomic_store(&m->cancel, true);
	pthread_mutex_lock(&m->lock);
	m->stop = true;
	pthread_cond_signal(&m->wake);
	pthread_mutex_unlock(&m->lock);
	pthread_join(m->thread, NULL);
	m->started = false;
}
