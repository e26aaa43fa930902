/* Breakers under kill -9 and under threads: processes that ask and report die at any instruction. Broken code this would
 * catch: two living probers at once, a breaker that nobody can close any more, a row without its name, counts or a
 * reason that a half-done change leaves behind. Time is virtual: it moves as work is done, so a busy machine changes nothing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "breaker-private.h"
#include "log.h"

#if defined(__SANITIZE_THREAD__)
#define THREADS_ONLY 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define THREADS_ONLY 1
#endif
#endif
#ifndef THREADS_ONLY
#define THREADS_ONLY 0
#endif

#define WORKERS 4
#define KILLS 300
#define KILLS_MAX (5 * KILLS) /* on a busy machine few of them hit a probe */
#define ROUND 10	      /* kills between two looks at what is left */
#define LEASE_US 50000
#define PHASE_US 40000 /* the dependency is well and unwell in turn */

static const struct breaker_conf quick = {.failure_rate = 50,
					  .min_calls = 20,
					  .consecutive = 5,
					  .open_min_us = 2000,
					  .open_max_us = 10000,
					  .probes = 2,
					  .lease_us = LEASE_US};

/* What the processes tell each other, outside of the breaker. */
struct board {
	struct breaker rows[BREAKERS];
	_Atomic int64_t now;
	_Atomic uint64_t prober; /* who probes: number << 48 | end of its lease; 0 = nobody */
	_Atomic uint64_t probes, calls, both;
	_Atomic uint32_t stop;
	_Atomic uint8_t doomed[KILLS_MAX + 2 * WORKERS]; /* by number: it is being killed */
};

static struct board *new_board(void)
{
	struct board *b = mmap(NULL, sizeof(struct board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(b, MAP_FAILED);
	atomic_store(&b->now, 1000000);
	assert_non_null(breaker_take(b->rows, "up", &quick));
	return b;
}

static uint64_t next_random(uint64_t *x)
{
	*x ^= *x << 13;
	*x ^= *x >> 7;
	return *x ^= *x << 17;
}

static bool over(const struct board *b, uint64_t who)
{
	return (int64_t)(who & 0xffffffffffff) <= atomic_load(&b->now);
}

/* Somebody else probes, lives, and has not used up its lease; nor have we. */
static void begin_probe(struct board *b, uint64_t mine)
{
	uint64_t other = atomic_exchange(&b->prober, mine);
	if (other && !atomic_load(&b->doomed[other >> 48]) && !over(b, other) && !over(b, mine))
		atomic_fetch_add(&b->both, 1);
	atomic_fetch_add(&b->probes, 1);
	for (volatile int i = 0; i < 100000; i++)
		;
	atomic_compare_exchange_strong(&b->prober, &mine, 0);
}

static void hammer(struct board *b, unsigned number)
{
	uint64_t rnd = 88172645463325252ull + number * 7919;
	struct breaker *up = &b->rows[1];
	while (!atomic_load_explicit(&b->stop, memory_order_relaxed)) {
		struct breaker_pass pass;
		int64_t now = atomic_fetch_add(&b->now, (int64_t)(next_random(&rnd) % 5));
		if (!breaker_ask(up, now, &pass))
			continue;
		if (pass.answer == BREAKER_PROBE)
			begin_probe(b, (uint64_t)number << 48 | (uint64_t)(now + LEASE_US));
		atomic_fetch_add(&b->calls, 1);
		bool ok = now / PHASE_US % 2 || next_random(&rnd) % 8 == 0;
		breaker_report(up, &pass, ok ? BREAKER_OK : BREAKER_FAILED, "it is unwell", atomic_load(&b->now));
	}
}

/* Whatever was left: after lease and open time somebody may probe, and the dependency's answers close it. */
static void usable(struct board *b)
{
	struct breaker *up = &b->rows[1];
	struct breaker_pass pass;
	struct breaker_view v;
	atomic_fetch_add(&b->now, LEASE_US + 10000 * 6 / 5 + 2000);
	int64_t now = atomic_load(&b->now);
	for (int i = 0; i < 2; i++) {
		assert_int_not_equal(breaker_ask(up, now, &pass), BREAKER_NO);
		breaker_report(up, &pass, BREAKER_OK, NULL, now);
	}
	assert_int_equal(breaker_state(up), BREAKER_CLOSED);
	assert_true(breaker_look(up, now, &v));
	assert_true(v.failures <= v.calls && v.calls <= v.calls_total && v.failures_total <= v.calls_total);
	assert_true(v.reason[0] == 0 || strstr(v.reason, "it is unwell"));
	bool opened = false; /* sooner than by the fifth when it was closed before and failures are in its window */
	for (int i = 0; i < 5 && !opened; i++) {
		assert_int_equal(breaker_ask(up, now, &pass), BREAKER_GO);
		opened = breaker_report(up, &pass, BREAKER_FAILED, "it is unwell", now);
	}
	assert_true(opened);
	assert_int_equal(breaker_state(up), BREAKER_OPEN);
	assert_true(breaker_look(up, now, &v));
	assert_non_null(strstr(v.reason, ": it is unwell"));
}

static pid_t start(struct board *b, unsigned number, pid_t predecessor)
{
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid)
		return pid;
	if (predecessor && number % 2) /* for the others the lease must do */
		breaker_forget(b->rows, (uint32_t)predecessor);
	hammer(b, number);
	_exit(0);
}

static void end(pid_t pid)
{
	int status;
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, &status, 0), pid);
}

static void test_killed_processes(void **state)
{
	(void)state;
	if (THREADS_ONLY)
		skip();
	struct board *b = new_board();
	struct {
		pid_t pid;
		unsigned number;
	} w[WORKERS] = {0};
	unsigned number = 0, in_probe = 0;
	uint64_t rnd = 42;
	for (unsigned k = 0; k < KILLS || (!in_probe && k < KILLS_MAX); k++) {
		for (unsigned i = 0; i < WORKERS; i++)
			if (!w[i].pid)
				w[i].pid = start(b, w[i].number = ++number, 0);
		struct timespec t = {.tv_nsec = (long)(next_random(&rnd) % 4000000)};
		nanosleep(&t, NULL);
		unsigned i = (unsigned)(next_random(&rnd) % WORKERS);
		for (long tries = 0; k % 2 && tries < 1000000; tries++) { /* every other one while it probes */
			uint64_t prober = atomic_load(&b->prober) >> 48;
			for (unsigned n = 0; prober && n < WORKERS; n++)
				i = w[n].number == prober ? n : i;
			if (prober)
				break;
		}
		atomic_store(&b->doomed[w[i].number], 1);
		end(w[i].pid);
		in_probe += atomic_load(&b->prober) >> 48 == w[i].number;
		if (k % ROUND != ROUND - 1) {
			w[i].pid = start(b, ++number, w[i].pid);
			w[i].number = number;
			continue;
		}
		w[i].pid = 0;
		atomic_store(&b->stop, 1); /* the others end in order; whoever probed is dead, or has reported */
		for (unsigned n = 0; n < WORKERS; n++)
			if (w[n].pid)
				assert_int_equal(waitpid(w[n].pid, NULL, 0), w[n].pid);
		memset(w, 0, sizeof(w));
		number = k + 1;
		usable(b);
		atomic_store(&b->prober, 0);
		atomic_store(&b->stop, 0);
	}
	struct breaker_view v;
	assert_true(breaker_look(&b->rows[1], atomic_load(&b->now), &v));
	assert_int_equal(atomic_load(&b->both), 0);
	/* Else this test proves nothing. */
	assert_true(v.to_total[BREAKER_OPEN] > 100 && v.to_total[BREAKER_CLOSED] > 100);
	assert_true(atomic_load(&b->probes) > 100 && atomic_load(&b->calls) > 1000 && v.rejected_total > 1000);
	assert_true(in_probe > 0);
	munmap(b, sizeof(*b));
}

/* ---- every instruction ---- */

enum deed { OPENS, PROBES, CLOSES, OPENS_AGAIN, FORCES, TAKES, DEEDS };

/* What stands before the deed; the pass that the deed goes on with. */
static struct breaker_pass prepare(struct board *b, enum deed what)
{
	struct breaker *up = &b->rows[1];
	struct breaker_pass pass = {0};
	int64_t now = atomic_load(&b->now);
	for (int i = 0; i < (what == OPENS ? 4 : 5); i++) {
		assert_int_equal(breaker_ask(up, now, &pass), BREAKER_GO);
		(void)breaker_report(up, &pass, BREAKER_FAILED, "it is unwell", now);
	}
	if (what == OPENS)
		assert_int_equal(breaker_ask(up, now, &pass), BREAKER_GO);
	now += breaker_retry_after_us(up, now);
	for (int i = 0; i < 2 && (what == CLOSES || what == OPENS_AGAIN); i++) {
		assert_int_equal(breaker_ask(up, now, &pass), BREAKER_PROBE);
		if (i == 0)
			(void)breaker_report(up, &pass, BREAKER_OK, NULL, now);
	}
	atomic_store(&b->now, now);
	return pass;
}

static void do_it(struct board *b, enum deed what, struct breaker_pass *pass)
{
	struct breaker *up = &b->rows[1];
	int64_t now = atomic_load(&b->now);
	if (what == PROBES)
		(void)!breaker_ask(up, now, pass);
	else if (what == FORCES)
		breaker_force(up, BREAKER_FORCE_OPEN, now);
	else if (what == TAKES)
		(void)!breaker_take(b->rows, "another", &quick);
	else
		breaker_report(up, pass, what == CLOSES ? BREAKER_OK : BREAKER_FAILED, "it is unwell", now);
}

static void check(struct board *b, enum deed what)
{
	struct breaker_view v;
	if (what == FORCES && breaker_look(&b->rows[1], atomic_load(&b->now), &v) && v.forced)
		breaker_force(&b->rows[1], BREAKER_AUTO, atomic_load(&b->now));
	if (what == TAKES) {
		struct breaker *row = breaker_find(b->rows, "another");
		assert_true(!row || strcmp(breaker_name(row), "another") == 0);
		assert_ptr_equal(breaker_take(b->rows, "another", &quick), &b->rows[2]);
		assert_string_equal(breaker_name(&b->rows[2]), "another");
	}
	if (what != FORCES)
		usable(b);
	else
		assert_true(breaker_state(&b->rows[1]) != BREAKER_HALF_OPEN);
}

/* Does the deed and dies after n instructions; how many it took. -1: there is no ptrace here. */
static long step(struct board *b, enum deed what, struct breaker_pass pass, long n)
{
	int status;
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) == -1)
			_exit(3);
		raise(SIGSTOP);
		do_it(b, what, &pass);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (!WIFSTOPPED(status))
		return -1;
	long i = 0;
	for (; i < n; i++)
		if (ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL) == -1 || waitpid(pid, &status, 0) != pid ||
		    WIFEXITED(status) || WIFSIGNALED(status))
			return i;
	end(pid);
	return i;
}

static void test_killed_at_any_instruction(void **state)
{
	(void)state;
	if (THREADS_ONLY)
		skip();
	uint64_t rnd = 7;
	for (enum deed what = OPENS; what < DEEDS; what++) {
		struct board *b = new_board();
		long whole = step(b, what, prepare(b, what), 1000000), stride = whole / 15 + 1;
		if (whole < 0)
			skip();
		for (long at = 1; at < whole; at += 1 + (long)(next_random(&rnd) % (uint64_t)(2 * stride))) {
			munmap(b, sizeof(*b));
			b = new_board();
			step(b, what, prepare(b, what), at);
			check(b, what);
		}
		munmap(b, sizeof(*b));
	}
}

/* ---- threads ---- */

struct hand {
	struct board *b;
	unsigned number;
};

static void *hammer_thread(void *arg)
{
	struct hand *h = arg;
	hammer(h->b, h->number);
	return NULL;
}

static void test_threads(void **state)
{
	(void)state;
	struct board *b = new_board();
	pthread_t t[WORKERS];
	struct hand hands[WORKERS];
	for (unsigned i = 0; i < WORKERS; i++) {
		hands[i] = (struct hand){b, i + 1};
		assert_int_equal(pthread_create(&t[i], NULL, hammer_thread, &hands[i]), 0);
	}
	struct breaker_view v;
	uint64_t calls;
	int64_t until = time(NULL) + 60;
	do { /* somebody looks on, and others take rows at the same time */
		char name[8];
		calls = atomic_load(&b->calls);
		snprintf(name, sizeof(name), "m%llu", (unsigned long long)(calls % 50));
		assert_non_null(breaker_take(b->rows, name, &quick));
		assert_true(breaker_look(&b->rows[1], atomic_load(&b->now), &v));
		assert_true(v.reason[0] == 0 || strstr(v.reason, "it is unwell"));
	} while ((calls < 200000 || v.to_total[BREAKER_CLOSED] < 20) && time(NULL) < until);
	atomic_store(&b->stop, 1);
	for (unsigned i = 0; i < WORKERS; i++)
		pthread_join(t[i], NULL);
	assert_int_equal(atomic_load(&b->both), 0);
	assert_true(v.to_total[BREAKER_CLOSED] >= 20);
	usable(b);
	munmap(b, sizeof(*b));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_threads),
		cmocka_unit_test(test_killed_processes),
		cmocka_unit_test(test_killed_at_any_instruction),
	};
	log_set_level(LOG_LV_ERROR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
