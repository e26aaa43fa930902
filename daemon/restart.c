/* When to start a dead worker again. */
#include <signal.h>
#include <stdio.h>
#include <sys/wait.h>

#include "restart.h"
#include "vocabulary.h"

/* Signals a process brings upon itself; all others come from outside (people, the OOM killer). */
static bool own_fault_signal(int sig)
{
	return sig == SIGSEGV || sig == SIGBUS || sig == SIGABRT || sig == SIGILL || sig == SIGFPE || sig == SIGSYS ||
	       sig == SIGTRAP;
}

static int64_t backoff(unsigned faults, uint32_t random)
{
	unsigned doublings = faults - 1 < 10 ? faults - 1 : 10;
	int64_t delay = (int64_t)RESTART_FIRST_US << doublings;
	if (delay > RESTART_MAX_US)
		delay = RESTART_MAX_US;
	return delay / 2 + (int64_t)((uint64_t)(delay / 2) * random / UINT32_MAX);
}

struct restart_plan restart_decide(struct restart_history *h, const struct restart_death *d, uint32_t random)
{
	bool signaled = WIFSIGNALED(d->status);
	bool proven = d->ready && d->served_us >= RESTART_PROVEN_US;

	if (d->asked)
		return (struct restart_plan){RESTART_STOPPED, 0};
	if (WIFEXITED(d->status) && WEXITSTATUS(d->status) == WORKER_EXIT_FATAL)
		return (struct restart_plan){RESTART_GIVE_UP, 0};
	if (proven)
		h->faults = 0;
	/* Somebody killed a worker that was serving: it is missed, and not to blame. */
	if (d->ready && signaled && !own_fault_signal(WTERMSIG(d->status)))
		return (struct restart_plan){RESTART_NOW, 0};
	h->faults++;
	/* The first crash of a worker that served is forgiven: one bad request must not cost a
	 * tenth of a second of service. A second one before it proves itself again is not. */
	if (d->ready && signaled && h->faults == 1)
		return (struct restart_plan){RESTART_NOW, 0};
	return (struct restart_plan){RESTART_LATER, backoff(h->faults, random)};
}

const char *restart_describe(int status, char *out, size_t cap)
{
	if (WIFSIGNALED(status)) {
		const char *name = sigabbrev_np(WTERMSIG(status));
		snprintf(out, cap, "killed by SIG%s%s", name ? name : "?", WCOREDUMP(status) ? ", core dumped" : "");
	} else if (WIFEXITED(status) && WEXITSTATUS(status) == WORKER_EXIT_FATAL) {
		snprintf(out, cap, "exit %d (useless to try again)", WORKER_EXIT_FATAL);
	} else if (WIFEXITED(status)) {
		snprintf(out, cap, "exit %d", WEXITSTATUS(status));
	} else {
		snprintf(out, cap, "wait status %#x", (unsigned)status);
	}
	return out;
}
