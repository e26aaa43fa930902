/* A mutex of two ranks. Broken code this would catch: a background that takes the lock again before who waits for it is awake, so
 * that he waits for slice after slice; one that never gets it while others come and go; a lock that is none. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>
#include <cmocka.h>

#include "clock.h"
#include "priolock.h"
#include "util.h"

enum { SLICE_US = 200, TIMES = 200 };

struct both {
	struct priolock lock;
	_Atomic bool stop;
	_Atomic uint64_t slices;
	uint64_t inside; /* under the lock, not atomic: sanitizers would see two in there */
};

static void work(struct both *b)
{
	uint64_t was = b->inside++;
	for (int64_t end = clock_mono_us() + SLICE_US; clock_mono_us() < end;)
		;
	AN(b->inside == was + 1);
}

static void *background(void *arg)
{
	struct both *b = arg;
	while (!b->stop) {
		priolock_take_behind(&b->lock);
		work(b);
		b->slices++;
		priolock_give(&b->lock);
	}
	return NULL;
}

static void who_waits_goes_first(void **state)
{
	struct both b = {.slices = 0};
	uint64_t waited = 0;
	pthread_t t;
	(void)state;
	priolock_init(&b.lock);
	assert_int_equal(pthread_create(&t, NULL, background, &b), 0);
	for (int i = 0; i < TIMES; i++) {
		nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
		uint64_t before = b.slices;
		priolock_take(&b.lock);
		waited += b.slices - before;
		b.inside++;
		priolock_give(&b.lock);
	}
	b.stop = true;
	pthread_join(t, NULL);
	assert_true(b.slices > 0);
	assert_true(waited < 4 * TIMES); /* one each; more where this thread was not scheduled meanwhile */
	priolock_destroy(&b.lock);
}

static void *insists(void *arg)
{
	struct both *b = arg;
	while (!b->stop) {
		priolock_take(&b->lock);
		work(b);
		priolock_give(&b->lock);
	}
	return NULL;
}

static void the_background_gets_its_turns(void **state)
{
	struct both b = {.slices = 0};
	pthread_t t[3];
	(void)state;
	priolock_init(&b.lock);
	for (size_t i = 0; i < ARRAY_LEN(t); i++)
		assert_int_equal(pthread_create(&t[i], NULL, insists, &b), 0);
	for (int i = 0; i < 5; i++) {
		priolock_take_behind(&b.lock);
		work(&b);
		priolock_give(&b.lock);
	}
	b.stop = true;
	for (size_t i = 0; i < ARRAY_LEN(t); i++)
		pthread_join(t[i], NULL);
	priolock_destroy(&b.lock);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(who_waits_goes_first),
		cmocka_unit_test(the_background_gets_its_turns),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
