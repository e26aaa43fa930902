#include "priolock.h"

#include <time.h>

#include "util.h"

#define LOOKS 40      /* how often the background looks whether nobody waits any more, */
#define LOOK_NS 20000 /* and how long it sleeps in between, at least */

void priolock_init(struct priolock *l)
{
	AN(pthread_mutex_init(&l->mutex, NULL) == 0);
	atomic_init(&l->waiting, 0);
}

void priolock_destroy(struct priolock *l) { AN(pthread_mutex_destroy(&l->mutex) == 0); }

void priolock_take(struct priolock *l)
{
	if (pthread_mutex_trylock(&l->mutex) == 0)
		return;
	atomic_fetch_add_explicit(&l->waiting, 1, memory_order_relaxed);
	pthread_mutex_lock(&l->mutex);
	atomic_fetch_sub_explicit(&l->waiting, 1, memory_order_relaxed);
}

void priolock_take_behind(struct priolock *l)
{
	for (int i = 0; i < LOOKS && atomic_load_explicit(&l->waiting, memory_order_relaxed); i++)
		(void)nanosleep(&(struct timespec){.tv_nsec = LOOK_NS}, NULL);
	pthread_mutex_lock(&l->mutex);
}

void priolock_give(struct priolock *l) { pthread_mutex_unlock(&l->mutex); }
