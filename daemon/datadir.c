/* data.dir: made when missing, and locked so that one daemon only writes in it. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"
#include "log.h"
#include "supervisor.h"

int datadir_make(const char *dir, unsigned mode, bool *made_r)
{
	char path[PATH_MAX];
	size_t len = strlen(dir);
	*made_r = false;
	if (len == 0 || len >= sizeof(path))
		return len ? ENAMETOOLONG : EINVAL;
	memcpy(path, dir, len + 1);
	for (char *p = path + 1; *p; p++) {
		if (*p != '/')
			continue;
		*p = '\0';
		if (mkdir(path, 0755) == -1 && errno != EEXIST)
			return errno;
		*p = '/';
	}
	if (mkdir(path, (mode_t)mode) == 0)
		*made_r = true;
	else if (errno != EEXIST)
		return errno;
	struct stat st;
	if (stat(path, &st) == -1)
		return errno;
	return S_ISDIR(st.st_mode) ? 0 : ENOTDIR;
}

static int read_pid(int fd)
{
	char text[32];
	ssize_t n = pread(fd, text, sizeof(text) - 1, 0);
	if (n <= 0)
		return 0;
	text[n] = '\0';
	return atoi(text);
}

pid_t datadir_holder(const char *dir)
{
	char path[PATH_MAX];
	if (snprintf(path, sizeof(path), "%s/lock", dir) >= (int)sizeof(path))
		return 0;
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd == -1)
		return 0;
	pid_t pid = flock(fd, LOCK_SH | LOCK_NB) == -1 && errno == EWOULDBLOCK ? (pid_t)read_pid(fd) : 0;
	close(fd);
	return pid;
}

static bool write_pid(int fd)
{
	char text[32];
	int len = snprintf(text, sizeof(text), "%d\n", (int)getpid());
	return pwrite(fd, text, (size_t)len, 0) == len && ftruncate(fd, len) == 0;
}

/* The lock belongs to the open file, which every worker inherits: it is free when the last process of
 * the former daemon is gone. After a kill -9 of a supervisor its workers leave within a second
 * (worker.h), and its successor waits here for them. */
int datadir_lock(const char *dir)
{
	static const struct timespec pause = {0, 5000000};
	char path[PATH_MAX];
	if (snprintf(path, sizeof(path), "%s/lock", dir) >= (int)sizeof(path)) {
		log_error("data.dir %s: the path is too long", dir);
		return -1;
	}
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd == -1) {
		log_error(
			"data.dir: cannot write %s: %s; make the folder writable for uid %d, or choose another data.dir",
			path, strerror(errno), (int)geteuid());
		return -1;
	}
	int64_t until = clock_mono_us() + LOCK_WAIT_MS * 1000;
	while (flock(fd, LOCK_EX | LOCK_NB) == -1) {
		if (errno == EWOULDBLOCK && clock_mono_us() < until) {
			nanosleep(&pause, NULL);
			continue;
		}
		if (errno == EWOULDBLOCK)
			log_error("data.dir %s belongs to another orchestrad, pid %d, which is still "
				  "running; stop it, or choose another data.dir",
				  dir, read_pid(fd));
		else
			log_error("cannot lock %s: %s", path, strerror(errno));
		close(fd);
		return -1;
	}
	if (!write_pid(fd)) {
		log_error("cannot write %s: %s", path, strerror(errno));
		close(fd);
		return -1;
	}
	return fd;
}
