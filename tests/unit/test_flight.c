/* One load at a time. Broken code this would catch: two leaders at once; waiters that sleep on when the leader has ended
 * or died; a leader taken for dead that frees its successor's place; a key that is kept waiting by another one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "flight.c"
#include "uuid.h"

#define KEY 0x123456789abcdefull

static _Atomic bool dead[4];
static bool alive(void *arg, unsigned slot, uint32_t incarnation)
{
	(void)arg, (void)incarnation;
	return !atomic_load(&dead[slot]);
}

static void leads_and_ends(void **state)
{
	(void)state;
	struct flights *f = util_zalloc(sizeof(*f));
	struct flight_self a = {.slot = 1, .incarnation = 7}, b = {.slot = 2, .incarnation = 8};
	assert_int_equal(flight_begin(f, KEY, &a, alive, NULL), FLIGHT_LEADS);
	assert_false(flight_try(f, KEY, &b, alive, NULL));
	assert_false(flight_try(f, KEY, &a, alive, NULL)); /* nor twice in one process */
	flight_end(f, KEY, &b);				   /* not its to end */
	assert_false(flight_try(f, KEY, &b, alive, NULL));
	flight_end(f, KEY, &a);
	assert_int_equal(flight_begin(f, KEY, &b, alive, NULL), FLIGHT_LEADS);
	flight_end(f, KEY, &a); /* late: the place is b's by now */
	assert_false(flight_try(f, KEY, &a, alive, NULL));
	free(f);
}

/* The same place, another key: it does not wait for it. */
static void collision(void **state)
{
	(void)state;
	struct flights *f = util_zalloc(sizeof(*f));
	struct flight_self a = {.slot = 1}, b = {.slot = 2};
	assert_int_equal(flight_begin(f, KEY, &a, alive, NULL), FLIGHT_LEADS);
	assert_int_equal(flight_begin(f, KEY ^ 1, &b, alive, NULL), FLIGHT_ALONE);
	flight_end(f, KEY ^ 1, &b);
	assert_false(flight_try(f, KEY, &b, alive, NULL));
	free(f);
}

static void the_dead_lead_nobody(void **state)
{
	(void)state;
	struct flights *f = util_zalloc(sizeof(*f));
	struct flight_self a = {.slot = 1}, b = {.slot = 2};
	assert_int_equal(flight_begin(f, KEY, &a, alive, NULL), FLIGHT_LEADS);
	atomic_store(&dead[1], true);
	assert_int_equal(flight_begin(f, KEY, &b, alive, NULL), FLIGHT_LEADS);
	atomic_store(&dead[1], false);
	free(f);
}

struct loads {
	struct flights *f;
	_Atomic unsigned cached, loads, landed, leaders, most;
};
struct worker {
	struct loads *l;
	unsigned slot;
};

/* What the api does: look in the cache, fly, look again, load. */
static void *many(void *arg)
{
	struct worker *w = arg;
	struct flight_self me = {.slot = w->slot, .incarnation = 1};
	for (unsigned round = 1; round <= 300; round++) {
		enum flight_role role = flight_begin(w->l->f, KEY, &me, alive, NULL);
		if (role == FLIGHT_LEADS) {
			unsigned n = atomic_fetch_add(&w->l->leaders, 1) + 1;
			if (n > atomic_load(&w->l->most))
				atomic_store(&w->l->most, n);
			if (atomic_load(&w->l->cached) < round) {
				usleep(20);
				atomic_fetch_add(&w->l->loads, 1);
				atomic_store(&w->l->cached, round);
			}
			atomic_fetch_sub(&w->l->leaders, 1);
			flight_end(w->l->f, KEY, &me);
		} else if (role == FLIGHT_LANDED) {
			atomic_fetch_add(&w->l->landed, 1);
		}
	}
	return NULL;
}

static void one_at_a_time(void **state)
{
	(void)state;
	struct loads l = {.f = util_zalloc(sizeof(*l.f))};
	pthread_t t[8];
	struct worker w[8];
	for (unsigned i = 0; i < 8; i++) {
		w[i] = (struct worker){&l, i % 4};
		assert_int_equal(pthread_create(&t[i], NULL, many, &w[i]), 0);
	}
	for (unsigned i = 0; i < 8; i++)
		pthread_join(t[i], NULL);
	assert_int_equal(l.most, 1);
	assert_true(l.loads <= 300);
	free(l.f);
}

/* A process that is killed while it leads: who waits in another one goes on by itself. */
static void killed_leader(void **state)
{
	(void)state;
	struct flights *f = mmap(NULL, sizeof(*f), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct flight_self child = {.slot = 3, .incarnation = 1}, me = {.slot = 0, .incarnation = 1};
	int told[2];
	assert_int_equal(pipe(told), 0);
	pid_t pid = fork();
	if (pid == 0) {
		if (flight_begin(f, KEY, &child, alive, NULL) == FLIGHT_LEADS)
			(void)!write(told[1], "x", 1);
		pause();
		_exit(0);
	}
	char c;
	assert_int_equal(read(told[0], &c, 1), 1);
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, NULL, 0), pid);
	assert_false(flight_try(f, KEY, &me, alive, NULL)); /* nobody has noticed yet */
	atomic_store(&dead[3], true);
	assert_int_equal(flight_begin(f, KEY, &me, alive, NULL), FLIGHT_LEADS);
	flight_end(f, KEY, &me);
	atomic_store(&dead[3], false);
	munmap(f, sizeof(*f));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(leads_and_ends),	cmocka_unit_test(collision),
		cmocka_unit_test(the_dead_lead_nobody), cmocka_unit_test(one_at_a_time),
		cmocka_unit_test(killed_leader),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
