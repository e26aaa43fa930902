/* The vector index while its writer is killed at any instruction, and while readers run beside
 * it. What a vector holds follows from its id and version, so that every hit can be verified
 * without knowing what the writer was doing. */
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>

#include "vectors_model.h"

enum { DIM = 40, PERMANENT = 250, TRANSIENT = 250, ALL = PERMANENT + TRANSIENT, OTHER = 64 };
#define NS_MAIN 0x1111111111111111ull
#define NS_OTHER 0x2222222222222222ull

/* What writer, reader and judge share besides the index. */
struct board {
	_Atomic uint64_t acked[ALL];   /* version whose insert has returned */
	_Atomic uint64_t started[ALL]; /* version whose insert has begun */
	_Atomic uint64_t searches, writes;
	_Atomic uint32_t stop;
};

static void vector_of(uint32_t id, uint64_t version, float x[DIM])
{
	uint64_t s = (id + 1) * 0x9e3779b97f4a7c15ull + version * 0xd6e8feb86659fd93ull;
	for (int i = 0; i < DIM; i++) {
		s ^= s << 13;
		s ^= s >> 7;
		s ^= s << 17;
		x[i] = (float)(s >> 40) / (float)(1 << 23) - 1;
	}
}

/* NULL: the answer is right. k exceeds what there is, so every permanent entry must be in it. */
static const char *judge(struct vectors *v, struct board *b, uint32_t seed)
{
	struct vectors_hit hits[2 * ALL];
	float q[DIM], x[DIM];
	uint64_t low[PERMANENT];
	uint8_t seen[ALL] = {0};
	vector_of(1000000 + seed, 0, q);
	for (uint32_t i = 0; i < PERMANENT; i++)
		low[i] = atomic_load(&b->acked[i]);
	struct vectors_query query = {NS_MAIN, DIM, q, 2 * ALL, VECTORS_COSINE, NULL, 0, -INFINITY};
	size_t n = vectors_search(v, &query, hits, NULL);
	for (size_t i = 0; i < n; i++) {
		uint32_t id = model_number(&hits[i].id);
		if (id >= ALL)
			return "a hit of another namespace, or no id of ours";
		if (seen[id]++)
			return "an id twice";
		if (hits[i].version > atomic_load(&b->started[id]))
			return "a version that was never written";
		if (id < PERMANENT && hits[i].version < low[id])
			return "a version older than was acknowledged before the search";
		vector_of(id, hits[i].version, x);
		if (fabs(model_score(&query, x) - hits[i].score) > 1e-5)
			return "a score that is not that of this id and version";
		if (i && hits[i].score > hits[i - 1].score)
			return "hits out of order";
	}
	for (uint32_t i = 0; i < PERMANENT; i++) {
		if (!seen[i])
			return "an entry that was there all the time is missing";
	}
	atomic_fetch_add(&b->searches, 1);
	return NULL;
}

static void write_one(struct vectors *v, struct board *b, uint32_t what, uint32_t id)
{
	float x[DIM];
	struct uuid u = model_id(id);
	if (what % 1000 == 0) {
		vectors_drop(v, NS_OTHER);
	} else if (what % 5 == 0) { /* makes chunks change hands between namespaces */
		u = model_id(100000 + id % OTHER);
		vector_of(0, what, x);
		(void)!vectors_insert(v, NS_OTHER, &u, vectors_version(v, &u) + 1, 0, DIM, x);
	} else if (id >= PERMANENT && what % 3 == 0) {
		vectors_remove(v, &u, UINT64_MAX);
	} else {
		uint64_t version = atomic_load(&b->started[id]) + 1;
		atomic_store(&b->started[id], version);
		vector_of(id, version, x);
		AN(vectors_insert(v, NS_MAIN, &u, version, 0, DIM, x) == 0);
		atomic_store(&b->acked[id], version);
	}
	atomic_fetch_add(&b->writes, 1);
}

/* Now and then a burst over few ids, so that whole chunks die; else at random. */
static uint32_t pick(uint32_t step) { return step / 512 % 2 ? model_next() % ALL : model_next() % 20; }

static void writer(int fd, struct board *b, uint64_t seed)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	struct vectors *v = vectors_open(fd, true);
	model_rng = seed;
	AN(v);
	for (uint32_t i = 0; i < PERMANENT; i++) {
		struct uuid id = model_id(i);
		uint64_t version = vectors_version(v, &id);
		/* what was acknowledged survived; what was under way is there or not */
		AN(version >= atomic_load(&b->acked[i]) && version <= atomic_load(&b->started[i]));
	}
	for (uint32_t step = 0;; step++)
		write_one(v, b, model_next(), pick(step));
}

static int reader(int fd, struct board *b)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	struct vectors *v = vectors_open(fd, false);
	const char *wrong = v ? NULL : "the reader cannot open the index";
	for (uint32_t i = 0; !wrong && !atomic_load(&b->stop); i++)
		wrong = judge(v, b, i);
	if (wrong)
		fprintf(stderr, "reader: %s\n", wrong);
	vectors_close(&v);
	return wrong != NULL;
}

static struct board *board_new(struct vectors *v)
{
	struct board *b = mmap(NULL, sizeof(*b), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_true(b != MAP_FAILED);
	for (uint32_t i = 0; i < PERMANENT; i++)
		write_one(v, b, 1, i);
	return b;
}

static pid_t start(int (*f)(int, struct board *), int fd, struct board *b)
{
	pid_t pid = fork();
	if (!pid)
		_exit(f(fd, b));
	assert_true(pid > 0);
	return pid;
}

static void test_killed_writer(void **state)
{
	(void)state;
	int fd, status, rounds = getenv("VECTORS_ROUNDS") ? atoi(getenv("VECTORS_ROUNDS")) : 300;
	struct vectors *v = model_open(2 << 20, &fd);
	struct board *b = board_new(v);
	vectors_close(&v);
	pid_t watching = start(reader, fd, b);
	for (int round = 0; round < rounds; round++) {
		uint64_t seed = (uint64_t)model_next() << 20 | 1;
		pid_t pid = fork();
		if (!pid) {
			writer(fd, b, seed);
			_exit(1);
		}
		/* From amid recovery to thousands of writes later. */
		uint32_t us = model_next() % 4 ? model_next() % 3000 : model_next() % 600;
		nanosleep(&(struct timespec){0, (long)us * 1000}, NULL);
		kill(pid, SIGKILL);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
			fail_msg("round %d: the writer found what it must not find after recovery", round);
		assert_int_equal(waitpid(watching, &status, WNOHANG), 0); /* the reader is content */
	}
	atomic_store(&b->stop, 1);
	assert_int_equal(waitpid(watching, &status, 0), watching);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	/* The last one leaves a table in which everything adds up. */
	v = vectors_open(fd, true);
	assert_non_null(v);
	const char *wrong = judge(v, b, 1);
	if (wrong)
		fail_msg("%s", wrong);
	assert_int_equal(vectors_count(v, 0), vectors_count(v, NS_MAIN) + vectors_count(v, NS_OTHER));
	assert_true(vectors_complete(v, NS_MAIN));
	vectors_drop(v, NS_MAIN);
	vectors_drop(v, NS_OTHER);
	assert_int_equal(vectors_bytes(v), 0);
	print_message("%d kills, %llu writes, %llu searches\n", rounds, (unsigned long long)b->writes,
		      (unsigned long long)b->searches);
	vectors_close(&v);
	munmap(b, sizeof(*b));
	close(fd);
}

/* One writer, several readers in threads of one process and on one mapping: for ThreadSanitizer. */
struct shared {
	struct vectors *v;
	struct board *b;
	_Atomic(const char *) wrong;
};

static void *reading(void *arg)
{
	struct shared *s = arg;
	const char *wrong = NULL;
	for (uint32_t i = 0; !wrong && !atomic_load(&s->b->stop); i++)
		wrong = judge(s->v, s->b, i);
	if (wrong)
		atomic_store(&s->wrong, wrong);
	return NULL;
}

static void test_threads(void **state)
{
	(void)state;
	int fd, writes = getenv("VECTORS_WRITES") ? atoi(getenv("VECTORS_WRITES")) : 60000;
	pthread_t threads[2];
	struct shared s = {.v = model_open(2 << 20, &fd)};
	s.b = board_new(s.v);
	for (size_t i = 0; i < ARRAY_LEN(threads); i++)
		assert_int_equal(pthread_create(&threads[i], NULL, reading, &s), 0);
	for (uint32_t i = 0; i < (uint32_t)writes; i++)
		write_one(s.v, s.b, model_next(), pick(i));
	atomic_store(&s.b->stop, 1);
	for (size_t i = 0; i < ARRAY_LEN(threads); i++)
		pthread_join(threads[i], NULL);
	if (s.wrong)
		fail_msg("%s", s.wrong);
	print_message("%llu searches beside %d writes\n", (unsigned long long)s.b->searches, writes);
	vectors_close(&s.v);
	munmap(s.b, sizeof(*s.b));
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_killed_writer), cmocka_unit_test(test_threads)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
