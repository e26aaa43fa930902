/* What a dying worker leaves for the supervisor, and when a silent one counts as stuck. */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "lastwords.h"
#include "pulse.h"
#include "vitals.h"

/* ---- stuck or not ---- */

static void test_beats_keep_a_worker(void **state)
{
	struct pulse p = {0};
	(void)state;
	for (uint64_t tick = 1; tick < 100; tick++) /* a beat every third tick, limit four */
		assert_int_equal(pulse_tick(&p, tick / 3, 4), PULSE_FINE);
}

static void test_abort_then_kill_once_each(void **state)
{
	struct pulse p = {.beats = 7};
	(void)state;
	for (int tick = 1; tick <= 40; tick++) {
		enum pulse_verdict want = tick == 5			  ? PULSE_ABORT
					  : tick == 5 + PULSE_GRACE_TICKS ? PULSE_KILL
									  : PULSE_FINE;
		assert_int_equal(pulse_tick(&p, 7, 5), want);
	}
}

static void test_beats_may_restart_from_any_number(void **state)
{
	struct pulse p = {.beats = 7, .missed = 4};
	(void)state;
	assert_int_equal(pulse_tick(&p, 1, 5), PULSE_FINE);
	assert_int_equal(p.missed, 0);
}

static void test_never_with_limit_zero(void **state)
{
	struct pulse p = {0};
	(void)state;
	for (int tick = 0; tick < 1000; tick++)
		assert_int_equal(pulse_tick(&p, 0, 0), PULSE_FINE);
	/* and what passed unwatched is not held against it */
	assert_int_equal(pulse_tick(&p, 0, 2), PULSE_FINE);
	assert_int_equal(pulse_tick(&p, 0, 2), PULSE_ABORT);
}

/* A limit that a reload lowers below what was already missed must still be noticed. */
static void test_lowered_limit(void **state)
{
	struct pulse p = {.missed = 10};
	(void)state;
	assert_int_equal(pulse_tick(&p, 0, 3), PULSE_ABORT);
}

/* ---- last words ---- */

static struct vitals *shared;

static void *crash_in_a_thread(void *arg)
{
	(void)arg;
	abort();
}

static void die(int how)
{
	static const struct rlimit none = {0, 0};
	setrlimit(RLIMIT_CORE, &none);
	struct vitals_slot *s = &shared->slot[3];
	vitals_begin(s, 42);
	lastwords_install(s->words, VITALS_WORDS, &s->words_len);
	int null = open("/dev/null", O_WRONLY);
	dup2(null, 2);
	pthread_t t;
	switch (how) {
	case 0: *(volatile int *)(uintptr_t)0x1238 = 1; break;
	case 1: abort();
	case 2: AN(!"two and two"); break;
	case 3: pthread_create(&t, NULL, crash_in_a_thread, NULL), pthread_join(t, NULL); break;
	case 4: pause(); break;
	default: break;
	}
	_exit(0);
}

static const char *words_of(int how, int sig)
{
	static char out[VITALS_WORDS + 1];
	int status;
	pid_t pid = fork();
	if (pid == 0)
		die(how);
	while (sig && atomic_load(&shared->slot[3].incarnation) != 42)
		usleep(1000);
	if (sig) {
		usleep(20000); /* the handler is installed right after */
		kill(pid, sig);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	out[0] = '\0';
	bool any = vitals_words(&shared->slot[3], 42, out, sizeof(out));
	assert_int_equal(any, how != 5);
	assert_int_equal(WIFSIGNALED(status), how != 5);
	assert_false(vitals_words(&shared->slot[3], 43, out + VITALS_WORDS, 1)); /* a successor's are not these */
	atomic_store(&shared->slot[3].incarnation, 0);
	return out;
}

static void test_last_words(void **state)
{
	(void)state;
	int fd = shm_create("test-vitals", align_up(sizeof(struct vitals), 4096));
	shared = vitals_open(fd, true);
	assert_non_null(shared);
#ifndef __SANITIZE_ADDRESS__
#ifndef __SANITIZE_THREAD__
	assert_non_null(strstr(words_of(0, 0), "SIGSEGV at address 0x1238"));
#endif
#endif
	assert_non_null(strstr(words_of(1, 0), "SIGABRT"));
	const char *w = words_of(2, 0);
	assert_non_null(strstr(w, "broken invariant: !\"two and two\""));
	assert_non_null(strstr(w, "backtrace: "));
	assert_non_null(strstr(w, "+0x"));
	assert_non_null(strstr(words_of(3, 0), "SIGABRT"));
	w = words_of(4, SIGABRT);
	char by[64];
	snprintf(by, sizeof(by), "sent by pid %d", (int)getpid());
	assert_non_null(strstr(w, by));
	words_of(5, 0); /* dies in peace, and says nothing */
	vitals_close(&shared);
	close(fd);
}

/* Whatever a broken worker writes there, the supervisor copies what fits and shows what is printable. */
static void test_hostile_words(void **state)
{
	static struct vitals_slot s;
	char out[32];
	(void)state;
	vitals_begin(&s, 9);
	memset(s.words, '\033', sizeof(s.words));
	atomic_store(&s.words_len, UINT32_MAX);
	assert_true(vitals_words(&s, 9, out, sizeof(out)));
	assert_int_equal(strlen(out), sizeof(out) - 1);
	assert_int_equal(strspn(out, "?"), sizeof(out) - 1);
	vitals_begin(&s, 10);
	assert_false(vitals_words(&s, 10, out, sizeof(out)));
}

int main(void)
{
	/* clang-format off */
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_beats_keep_a_worker),
		cmocka_unit_test(test_abort_then_kill_once_each),
		cmocka_unit_test(test_beats_may_restart_from_any_number),
		cmocka_unit_test(test_never_with_limit_zero),
		cmocka_unit_test(test_lowered_limit),
		cmocka_unit_test(test_last_words),
		cmocka_unit_test(test_hostile_words),
	};
	/* clang-format on */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
