/* Two descriptors that are kept, since the sandbox closes /proc. Three system calls a second; PSS would be more
 * exact than what is neither shared nor of a file, but asks the kernel to walk all page tables, which takes milliseconds where
 * an index is large, and would stop the loop for that long. */
#include "self.h"

#include <fcntl.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static int fd_statm = -1, fd_fds = -1;
static uint64_t cpu_before; /* of those that had this slot before */

void self_open(const struct plant_worker *w)
{
	fd_statm = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
	fd_fds = open("/proc/self/fd", O_RDONLY | O_CLOEXEC | O_DIRECTORY);
	cpu_before = atomic_load_explicit(&w->cpu_us, memory_order_relaxed);
}

static void look_at_memory(struct plant_worker *w)
{
	char text[128], *at = text;
	ssize_t n = pread(fd_statm, text, sizeof(text) - 1, 0);
	if (n <= 0)
		return;
	text[n] = 0;
	(void)strtoull(at, &at, 10); /* size */
	uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE), resident = strtoull(at, &at, 10),
		 shared = strtoull(at, &at, 10);
	atomic_store_explicit(&w->resident_bytes, resident * page, memory_order_relaxed);
	atomic_store_explicit(&w->private_bytes, resident > shared ? (resident - shared) * page : 0,
			      memory_order_relaxed);
}

/* Linux tells their number since 6.2 as the size of the folder; before, it is 0: not known. */
static void look_at_descriptors(struct plant_worker *w)
{
	struct stat st;
	struct rlimit most;
	if (fstat(fd_fds, &st) == 0)
		atomic_store_explicit(&w->fds, (uint64_t)st.st_size, memory_order_relaxed);
	if (getrlimit(RLIMIT_NOFILE, &most) == 0)
		atomic_store_explicit(&w->fds_max, most.rlim_cur, memory_order_relaxed);
}

void self_look(struct plant_worker *w)
{
	struct timespec t;
	if (clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t) == 0)
		atomic_store_explicit(&w->cpu_us,
				      cpu_before + (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000,
				      memory_order_relaxed);
	if (fd_statm >= 0)
		look_at_memory(w);
	if (fd_fds >= 0)
		look_at_descriptors(w);
}
