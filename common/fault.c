/* The twin's side of fault.h. Not part of the shipped programs: Makefile.am compiles it for the twin only. */
#include "fault.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static struct fault_slot *slots; /* NULL: no file */
static char my_name[sizeof(slots->role)];

size_t fault_file_bytes(void) { return FAULT_COUNT * sizeof(struct fault_slot); }

void fault_open(const char *name)
{
	const char *path = getenv(ENV_FAULTS);
	struct stat st;
	snprintf(my_name, sizeof(my_name), "%s", name);
	int fd = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
	if (fd == -1)
		return;
	if (fstat(fd, &st) == 0 && (size_t)st.st_size >= fault_file_bytes()) {
		void *p = mmap(NULL, fault_file_bytes(), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		slots = p == MAP_FAILED ? NULL : p;
	}
	close(fd);
}

/* "api" means "api.0" as well. */
static bool meant(const char *role)
{
	size_t n = strnlen(role, sizeof(slots->role));
	return !n || (strncmp(my_name, role, n) == 0 && (my_name[n] == 0 || my_name[n] == '.'));
}

bool fault_due(enum fault_point p)
{
	struct fault_slot *s = slots ? &slots[p] : NULL;
	uint32_t was = FAULT_ARMED;
	if (!s || atomic_load_explicit(&s->armed, memory_order_acquire) != FAULT_ARMED || !meant(s->role))
		return false;
	for (uint32_t skip = atomic_load(&s->skip); skip;)
		if (atomic_compare_exchange_weak(&s->skip, &skip, skip - 1))
			return false;
	return atomic_compare_exchange_strong(&s->armed, &was, FAULT_TAKEN);
}

/* The kernel delivers the signal before kill() returns; the trap is for a sandbox that forbids it. */
void fault_die(enum fault_point p)
{
	atomic_store(&slots[p].pid, (uint32_t)getpid());
	kill(getpid(), SIGKILL);
	__builtin_trap();
}

int fault_list(void)
{
#define FAULT(id, roles, text) puts(#id "\t" roles "\t" text);
#include "fault.def"
#undef FAULT
	return fflush(stdout) == 0 ? 0 : 1;
}
