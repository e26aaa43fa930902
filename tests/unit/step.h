/* A writer killed at EVERY instruction: it runs one operation under ptrace, a step at a time; whenever a step changed the
 * shared memory, a copy of that memory is what a kill would leave, and is judged. */
#ifndef ORC_TEST_STEP_H
#define ORC_TEST_STEP_H
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>

#include "shm.h"

/* A part of the segment that a small test touches. */
struct step_part {
	size_t at, len;
	bool compared; /* else it is copied, but no step is told by it */
};
struct step_test {
	size_t size; /* of the segment */
	const struct step_part *parts;
	size_t nparts;
	void (*judge)(const struct step_test *t, const char *segment); /* of one state */
	void (*over)(pid_t pid); /* NULL, or: lets the child run over what takes too long to be stepped through */
	unsigned every;		 /* of many states every so many-th is judged */
	const void *arg;
};

/* What a kill would leave: a segment of its own. */
static int step_copy(const struct step_test *t, const char *segment)
{
	int fd = shm_create("copy", t->size);
	char *p = mmap(NULL, t->size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_true(p != MAP_FAILED);
	for (size_t i = 0; i < t->nparts; i++)
		memcpy(p + t->parts[i].at, segment + t->parts[i].at, t->parts[i].len);
	munmap(p, t->size);
	return fd;
}

static bool step_changed(const struct step_test *t, const char *now, char *last)
{
	bool any = false;
	for (size_t i = 0; i < t->nparts; i++) {
		const struct step_part *p = &t->parts[i];
		if (p->compared && memcmp(now + p->at, last + p->at, p->len) != 0) {
			memcpy(last + p->at, now + p->at, p->len);
			any = true;
		}
	}
	return any;
}

/* Under a sanitizer a step is a step of its runtime most of the time: minutes, for what kills at random show as well. */
static void step_wanted(void)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	skip();
#endif
}

/* Before the fork: both on one processor, or each step is twice a wake-up of another one, which takes three times as long where
 * nothing else keeps them awake, and far longer on some virtual machines. */
static cpu_set_t step_before;
static void step_together(void)
{
	cpu_set_t one;
	(void)sched_getaffinity(0, sizeof(step_before), &step_before);
	CPU_ZERO(&one);
	CPU_SET(sched_getcpu(), &one);
	(void)sched_setaffinity(0, sizeof(one), &one); /* for speed alone */
}

/* In the child, when all is ready for the operation. */
static void step_begin(void)
{
	if (ptrace(PTRACE_TRACEME, 0, NULL, NULL))
		_exit(77);
	raise(SIGSTOP);
}

/* The parent's part: `pid` has called step_begin() or will; `fd` is the segment. */
static void step_run(const struct step_test *t, pid_t pid, int fd)
{
	size_t steps = 0, states = 0;
	int status;
	char *segment = mmap(NULL, t->size, PROT_READ, MAP_SHARED, fd, 0), *last = calloc(t->size, 1);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
		free(last);
		munmap(segment, t->size);
		skip(); /* no ptrace here */
	}
	for (; WIFSTOPPED(status); steps++) {
		if (t->over)
			t->over(pid);
		if (step_changed(t, segment, last) && states++ % t->every == 0)
			t->judge(t, segment);
		assert_int_equal(ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL), 0);
		assert_int_equal(waitpid(pid, &status, 0), pid);
	}
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	(void)sched_setaffinity(0, sizeof(step_before), &step_before);
	print_message("%zu instructions, %zu states\n", steps, states);
	free(last);
	munmap(segment, t->size);
}
#endif
