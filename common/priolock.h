/* A mutex of two ranks: somebody waits for the ones, the others work in the background, a slice at a time. With a plain mutex
 * who gives it and takes it again at once keeps out whoever sleeps until he is awake, slice after slice. Here the
 * background lets go first who waits; not for ever, for there may be no end of them. */
#ifndef ORC_PRIOLOCK_H
#define ORC_PRIOLOCK_H
#include <pthread.h>
#include <stdatomic.h>

struct priolock {
	pthread_mutex_t mutex;
	_Atomic unsigned waiting; /* of the first rank */
};

void priolock_init(struct priolock *l);
void priolock_destroy(struct priolock *l);
void priolock_take(struct priolock *l);
/* Of the second rank. */
void priolock_take_behind(struct priolock *l);
void priolock_give(struct priolock *l);
#endif
