/* Who this daemon is in its fleet: a number that belongs to its journal, and lies beside it. */
#define LOG_SUBSYSTEM LOG_IN_SYNC
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <unistd.h>

#include "log.h"
#include "sync.h"

#define DIGITS 16

static bool read_number(int fd, uint64_t *node_r)
{
	char text[DIGITS + 1] = "", *end;
	if (pread(fd, text, DIGITS, 0) != DIGITS)
		return false;
	*node_r = strtoull(text, &end, 16);
	return end == text + DIGITS && *node_r;
}

/* In a file of its own first: half a number would be another daemon's. */
static bool make_number(int dir, uint64_t *node_r)
{
	char text[DIGITS + 2];
	AN(getrandom(node_r, sizeof(*node_r), 0) == sizeof(*node_r));
	*node_r = (*node_r & INT64_MAX) | 1; /* bigint of PostgreSQL; never 0 */
	snprintf(text, sizeof(text), "%016llx\n", (unsigned long long)*node_r);
	int fd = openat(dir, "node.new", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	bool ok = fd != -1 && write(fd, text, DIGITS + 1) == DIGITS + 1 && fsync(fd) == 0 &&
		  renameat(dir, "node.new", dir, "node") == 0 && fsync(dir) == 0;
	if (fd != -1)
		close(fd);
	return ok;
}

bool node_number(const char *data_dir, uint64_t *node_r)
{
	int dir = open(data_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	int fd = dir == -1 ? -1 : openat(dir, "node", O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	bool ok = fd != -1 ? read_number(fd, node_r) : dir != -1 && errno == ENOENT ? make_number(dir, node_r) : false;
	if (!ok)
		log_error("%s/node: %s", data_dir,
			  fd != -1 ? "holds no number of 16 hexadecimal digits; restore it: the store knows this "
				     "journal by it"
				   : strerror(errno));
	if (fd != -1)
		close(fd);
	if (dir != -1)
		close(dir);
	return ok;
}
