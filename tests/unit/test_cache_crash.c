/* L1 cache under kill -9 and under threads: writers die at any instruction, and readers neither hang
 * nor see a byte of a wrong value. Values prove themselves (cache_model.h). */
#include <stdarg.h>
#include <stddef.h>
#include <setjmp.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cache_model.h"
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

#define MIB (1u << 20)
#define KEYS 3000
#define KILLS 250
#define READERS 2
#define WRITERS 2

/* What the processes tell each other, outside of the cache. */
struct board {
	_Atomic uint64_t version; /* the last one given to a write */
	_Atomic uint64_t wrong, reads, hits, writes;
	_Atomic uint32_t stop;
};

static struct board *new_board(void)
{
	void *p = mmap(NULL, sizeof(struct board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_ptr_not_equal(p, MAP_FAILED);
	return p;
}

static size_t random_len(uint64_t *rnd) { return (size_t)(next_random(rnd) % (next_random(rnd) % 64 ? 1500 : 60000)); }

static void random_write(struct cache *c, struct board *b, uint64_t *rnd)
{
	uint64_t key = next_random(rnd) % KEYS, dice = next_random(rnd) % 100;
	struct uuid k = model_key(key);
	if (dice < 5) {
		cache_remove(c, CACHE_MEMORY, &k);
	} else if (dice == 5 && next_random(rnd) % 20 == 0) {
		cache_purge(c, &(struct cache_match){.ns = next_random(rnd) % 3 + 1});
	} else {
		uint64_t version = atomic_fetch_add(&b->version, 1) + 1;
		model_write(c, key, version, random_len(rnd), dice % 2);
	}
	atomic_fetch_add(&b->writes, 1);
}

static void random_read(struct cache *c, struct board *b, uint64_t *rnd)
{
	ptrdiff_t n = model_read(c, next_random(rnd) % KEYS, UINT64_MAX);
	if (n < -1)
		atomic_fetch_add(&b->wrong, 1);
	if (n >= 0)
		atomic_fetch_add(&b->hits, 1);
	atomic_fetch_add(&b->reads, 1);
}

/* ---- processes ---- */

static pid_t start(int fd, struct board *b, bool writes, uint64_t seed)
{
	pid_t pid = fork();
	if (pid != 0)
		return pid;
	log_set_level(LOG_LV_ERROR);
	struct cache *c = cache_open(fd, false);
	uint64_t rnd = seed;
	if (!c)
		_exit(2);
	while (!atomic_load_explicit(&b->stop, memory_order_relaxed)) {
		if (writes)
			random_write(c, b, &rnd);
		else
			random_read(c, b, &rnd);
	}
	_exit(0);
}

static void pause_us(long us)
{
	struct timespec t = {.tv_nsec = us * 1000};
	nanosleep(&t, NULL);
}

/* Waits until a counter has moved on by n, at most for 20 s: a hang is a failure, not a hang. */
static bool moves(_Atomic uint64_t *v, uint64_t n)
{
	uint64_t from = atomic_load(v);
	for (int i = 0; i < 20000; i++) {
		if (atomic_load(v) >= from + n)
			return true;
		pause_us(1000);
	}
	return false;
}

static void end(pid_t pid, int sig, int want)
{
	int status;
	if (sig)
		kill(pid, sig);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (want >= 0)
		assert_true(WIFEXITED(status) && WEXITSTATUS(status) == want);
}

static void test_killed_writers(void **state)
{
	(void)state;
	if (THREADS_ONLY)
		skip();
	int fd;
	struct board *b = new_board();
	struct cache *c = new_cache(1 * MIB, &fd); /* one shard: whoever dies, dies in its lock, mostly */
	pid_t readers[READERS], writers[WRITERS];
	uint64_t rnd = 42;
	for (int i = 0; i < READERS; i++)
		readers[i] = start(fd, b, false, 1000 + (uint64_t)i);
	for (int i = 0; i < WRITERS; i++)
		writers[i] = start(fd, b, true, 2000 + (uint64_t)i);
	for (int k = 0; k < KILLS; k++) {
		int w = k % WRITERS;
		pause_us((long)(next_random(&rnd) % 3000));
		end(writers[w], SIGKILL, -1);
		writers[w] = start(fd, b, true, 3000 + (uint64_t)k);
	}
	assert_true(moves(&b->reads, 1000));
	assert_true(moves(&b->writes, 100));
	atomic_store(&b->stop, 1);
	for (int i = 0; i < READERS; i++)
		end(readers[i], 0, 0);
	for (int i = 0; i < WRITERS; i++)
		end(writers[i], 0, 0);
	struct cache_stats s;
	cache_stats(c, &s);
	assert_int_equal(atomic_load(&b->wrong), 0);
	assert_true(atomic_load(&b->hits) > 100);
	assert_true(s.emptied_shards >= 1); /* else this test proves nothing */
	/* Whole again: counters balance and every write is found. */
	uint64_t alive = 0;
	for (uint64_t i = 0; i < KEYS; i++)
		alive += model_read(c, i, UINT64_MAX) >= 0;
	cache_stats(c, &s);
	assert_int_equal(s.of[0].entries, alive);
	model_write(c, 1, UINT64_MAX - 1, 100, false);
	assert_int_equal(model_read(c, 1, UINT64_MAX - 1), 100);
	cache_close(&c);
	close(fd);
	munmap(b, sizeof(*b));
}

/* ---- every instruction ---- */

#define MAX_STEPS 2000000 /* twice what is stepped in all for one kind of write */
#define STEP_KEYS 500	  /* of 2 KB: a tenth more than fit into 1 MiB */

/* The child stops itself, then does the one write that is stepped through. */
static pid_t start_stepped(struct cache *c, uint64_t key, uint64_t version, int what)
{
	pid_t pid = fork();
	int status;
	assert_true(pid >= 0);
	if (pid == 0) {
		static char v[4096];
		struct uuid k = model_key(key);
		struct cache_meta m = {.ns = key % 3, .version = version};
		model_value(v, 2000, key, version);
		uint64_t epoch = cache_epoch(c, CACHE_MEMORY, &k);
		if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) == -1)
			_exit(3);
		raise(SIGSTOP);
		if (what == 0)
			cache_put(c, CACHE_MEMORY, &k, &m, v, 2000);
		else if (what == 1)
			cache_fill(c, CACHE_MEMORY, &k, epoch, &m, v, 2000);
		else
			cache_remove(c, CACHE_MEMORY, &k);
		_exit(0);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFSTOPPED(status) ? pid : -1;
}

/* Steps n instructions; returns how many it took until the child was gone. */
static long step(pid_t pid, long n)
{
	int status = 0;
	for (long i = 0; i < n; i++) {
		if (ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL) == -1 || waitpid(pid, &status, 0) != pid)
			return i;
		if (WIFEXITED(status) || WIFSIGNALED(status))
			return i;
	}
	return n;
}

/* Whatever was left half done: old values are whole, versions never lie, and the next write works. */
static void check_after_kill(struct cache *c, uint64_t key, uint64_t version, const uint64_t *versions)
{
	for (uint64_t i = 0; i < STEP_KEYS; i++) {
		ptrdiff_t n = model_read(c, i, UINT64_MAX);
		assert_true(n == -1 || n == 2000);
		if (n == 2000 && i != key)
			assert_int_equal(model_read(c, i, versions[i]), 2000);
	}
	model_write(c, key, version, 2000, false);
	assert_int_equal(model_read(c, key, version), 2000);
	uint64_t alive = 0;
	struct cache_stats s;
	for (uint64_t i = 0; i < STEP_KEYS; i++)
		alive += model_read(c, i, UINT64_MAX) >= 0;
	cache_stats(c, &s);
	assert_int_equal(s.of[0].entries, alive);
}

static void test_killed_at_any_instruction(void **state)
{
	(void)state;
	if (THREADS_ONLY)
		skip();
	uint64_t versions[STEP_KEYS] = {0}, version = 0, rnd = 9;
	struct cache *c = new_cache(1 * MIB, NULL); /* full: every insertion evicts and carries over */
	log_set_level(LOG_LV_ERROR);
	/* A third of them read, and read again: */
	for (uint64_t i = 0; i < 2 * STEP_KEYS; i++) {
		model_write(c, i % STEP_KEYS, versions[i % STEP_KEYS] = ++version, 2000, false);
		model_read(c, next_random(&rnd) % STEP_KEYS, UINT64_MAX);
	}
	for (int what = 0; what < 3; what++) {
		pid_t pid = start_stepped(c, 7, ++version, what);
		if (pid < 0) {
			skip(); /* no ptrace here */
			return;
		}
		/* A kill every so many instructions; fewer where a sanitizer has added to them. */
		long whole = step(pid, 10000000), kills = MAX_STEPS / whole,
		     stride = whole / (kills < 120 ? kills + 1 : 120) + 1;
		versions[7] = what == 2 ? 0 : version;
		for (long at = 1; at < whole; at += stride + (long)(next_random(&rnd) % 3)) {
			uint64_t key = next_random(&rnd) % STEP_KEYS;
			/* Fill it again: after an emptying there would be nothing to evict. */
			for (uint64_t i = 0; i < STEP_KEYS && at % 4 == 0; i++)
				model_write(c, i, versions[i] = ++version, 2000, false);
			pid = start_stepped(c, key, ++version, what);
			assert_true(pid > 0);
			step(pid, at);
			kill(pid, SIGKILL);
			waitpid(pid, NULL, 0);
			versions[key] = ++version;
			check_after_kill(c, key, version, versions);
		}
	}
	struct cache_stats s;
	cache_stats(c, &s);
	assert_true(s.emptied_shards > 20);
	cache_close(&c);
}

/* ---- threads: what ThreadSanitizer looks at ---- */

struct job {
	struct cache *c;
	struct board *b;
	uint64_t seed;
	bool writes;
};

static void *run(void *arg)
{
	const struct job *j = arg;
	uint64_t rnd = j->seed;
	for (int i = 0; i < 20000; i++) {
		if (j->writes)
			random_write(j->c, j->b, &rnd);
		else
			random_read(j->c, j->b, &rnd);
	}
	return NULL;
}

static void test_threads(void **state)
{
	(void)state;
	struct board *b = new_board();
	struct cache *c = new_cache(2 * MIB, NULL);
	pthread_t t[4];
	struct job jobs[4];
	for (int i = 0; i < 4; i++) {
		jobs[i] = (struct job){c, b, (uint64_t)i + 77, i < 2};
		assert_int_equal(pthread_create(&t[i], NULL, run, &jobs[i]), 0);
	}
	for (int i = 0; i < 4; i++)
		pthread_join(t[i], NULL);
	assert_int_equal(atomic_load(&b->wrong), 0);
	assert_true(atomic_load(&b->hits) > 100);
	struct cache_stats s;
	cache_stats(c, &s);
	assert_int_equal(s.emptied_shards, 0);
	cache_close(&c);
	munmap(b, sizeof(*b));
}

/* ---- no stale fill: one writer, and readers that fill what they loaded a while ago ---- */

static _Atomic uint64_t store[16]; /* the version of each key in the "store" */
static _Atomic uint32_t race_stop;

static void *fill_loop(void *arg)
{
	const struct job *j = arg;
	uint64_t rnd = j->seed;
	while (!atomic_load(&race_stop)) {
		uint64_t key = next_random(&rnd) % ARRAY_LEN(store);
		struct uuid k = model_key(key);
		static _Thread_local char v[128];
		uint64_t epoch = cache_epoch(j->c, CACHE_MEMORY, &k), version = atomic_load(&store[key]);
		struct cache_meta m = {.ns = key % 3, .version = version};
		model_value(v, 100, key, version);
		if (version)
			cache_fill(j->c, CACHE_MEMORY, &k, epoch, &m, v, 100);
	}
	return NULL;
}

/* After cache_put or cache_remove returned, nobody can bring the older version back. */
static void test_no_stale_fill(void **state)
{
	(void)state;
	struct cache *c = new_cache(2 * MIB, NULL);
	struct job jobs[2] = {{c, NULL, 1, false}, {c, NULL, 2, false}};
	pthread_t t[2];
	uint64_t rnd = 3;
	atomic_store(&race_stop, 0);
	for (int i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&t[i], NULL, fill_loop, &jobs[i]), 0);
	unsigned stale = 0;
	for (uint64_t version = 1; version < 20000; version++) {
		uint64_t key = next_random(&rnd) % ARRAY_LEN(store);
		struct uuid k = model_key(key);
		atomic_store(&store[key], version);
		if (version % 2)
			cache_remove(c, CACHE_MEMORY, &k);
		else
			model_write(c, key, version, 100, false);
		for (int i = 0; i < 3; i++) {
			ptrdiff_t n = model_read(c, key, version);
			stale += n != -1 && n != 100;
		}
	}
	atomic_store(&race_stop, 1);
	for (int i = 0; i < 2; i++)
		pthread_join(t[i], NULL);
	assert_int_equal(stale, 0);
	cache_close(&c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_killed_writers),
		cmocka_unit_test(test_killed_at_any_instruction),
		cmocka_unit_test(test_threads),
		cmocka_unit_test(test_no_stale_fill),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
