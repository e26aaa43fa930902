#include "ids.h"

#include <pthread.h>

void ids_make(struct uuid *out, size_t n)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	pthread_mutex_lock(&lock);
	uuid_make_many(out, n);
	pthread_mutex_unlock(&lock);
}
