/* An index whose writer is killed at any instruction, again and again, while a reader in another process judges what it sees. What
 * an entry holds follows from its id and version, so nobody needs to know what the writer was doing. */
#ifndef ORC_TEST_KILLER_H
#define ORC_TEST_KILLER_H
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>

enum { PERMANENT = 250, TRANSIENT = 250, ALL = PERMANENT + TRANSIENT, OTHER = 64 };
#define NS_MAIN 0x1111111111111111ull
#define NS_OTHER 0x2222222222222222ull

/* What writer, reader and judge share besides the index. */
struct board {
	_Atomic uint64_t acked[ALL];   /* version whose write has returned */
	_Atomic uint64_t started[ALL]; /* version whose write has begun */
	_Atomic uint64_t searches, writes;
	_Atomic uint32_t stop;
};

static struct board *board_map(void)
{
	struct board *b = mmap(NULL, sizeof(*b), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	assert_true(b != MAP_FAILED);
	return b;
}

/* After recovery: what was acknowledged has survived, what was under way is there or not. */
static bool board_allows(struct board *b, uint32_t i, uint64_t version)
{
	return version >= atomic_load(&b->acked[i]) && version <= atomic_load(&b->started[i]);
}

/* Now and then a burst over few ids, so that whole chunks and segments die; else at random. */
static uint32_t pick(uint32_t step) { return step / 512 % 2 ? model_next() % ALL : model_next() % 20; }

/* `write` opens the index of fd and writes until it is killed, with model_rng of its own; it leaves only when it has found what it
 * must not find. `read` judges until b->stop, and is 0 when it was content. after_us: from amid recovery to thousands of writes
 * later. */
static void kill_again_and_again(int fd, struct board *b, int rounds, void (*write)(int, struct board *),
				 int (*read)(int, struct board *), uint32_t (*after_us)(void))
{
	int status;
	pid_t watching = fork();
	assert_true(watching >= 0);
	if (!watching) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		_exit(read(fd, b));
	}
	for (int round = 0; round < rounds; round++) {
		uint64_t seed = (uint64_t)model_next() << 20 | 1;
		pid_t pid = fork();
		assert_true(pid >= 0);
		if (!pid) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			model_rng = seed;
			write(fd, b);
			_exit(1);
		}
		nanosleep(&(struct timespec){0, (long)after_us() * 1000}, NULL);
		kill(pid, SIGKILL);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		if (!WIFSIGNALED(status) || WTERMSIG(status) != SIGKILL)
			fail_msg("round %d: the writer found what it must not find after recovery", round);
		assert_int_equal(waitpid(watching, &status, WNOHANG), 0); /* the reader is content */
	}
	atomic_store(&b->stop, 1);
	assert_int_equal(waitpid(watching, &status, 0), watching);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}
#endif
