/* For the tests of the sandbox: a directory, the rows of roles.def, and children that enter the sandbox of a role
 * and try things. What fails in a child is printed there, and the parent's assertion names the role. */
#ifndef ORC_SANDBOX_MODEL_H
#define ORC_SANDBOX_MODEL_H
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/landlock.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "log.h"
#include "sandbox-private.h"

/* The table without the roles' code. */
static const struct worker_row rows[] = {
#define ROLE(id, name, text, role, wants, may, restart) [ROLE_##id] = {name, text, NULL, wants, may, restart},
#include "roles.def"
#undef ROLE
};

static char base[64] = "/tmp/orchestra-sandbox-XXXXXX";
static char data_dir[96];

/* Path of something beneath the directory of the test; ten at a time. */
static inline const char *at(const char *name)
{
	static char paths[10][256];
	static unsigned n;
	char *p = paths[n++ % 10];
	snprintf(p, sizeof(paths[0]), "%s/%s", base, name);
	return p;
}

static inline void spit(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	assert_true(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
	close(fd);
}

static struct conf *make_conf(const char *const *more)
{
	char dir[128];
	const char *sets[8] = {dir};
	size_t n = 1;
	char *error = NULL;
	snprintf(dir, sizeof(dir), "data.dir=%s", data_dir);
	for (; more && *more; more++)
		sets[n++] = *more;
	struct conf *c = conf_load(&(struct conf_input){.sets = sets, .nsets = n}, &error);
	if (!c)
		fail_msg("%s", error);
	return c;
}

/* In children: 0 or errno of a call that returns -1 on failure. */
static int error_of(long rc) { return rc == -1 ? errno : 0; }

#define expect(what)                                                                                                   \
	do {                                                                                                           \
		if (!(what)) {                                                                                         \
			dprintf(2, "%s:%d: not so: %s (%s)\n", __FILE__, __LINE__, #what, strerror(errno));            \
			_exit(1);                                                                                      \
		}                                                                                                      \
	} while (0)
#define expect_error(call, error)                                                                                      \
	do {                                                                                                           \
		int got_ = error_of((long)(call));                                                                     \
		if (got_ != (error)) {                                                                                 \
			dprintf(2, "%s:%d: %s: %s\n", __FILE__, __LINE__, #call, strerror(got_));                      \
			_exit(1);                                                                                      \
		}                                                                                                      \
	} while (0)

typedef void child_fn(enum worker_role_id role);

/* A child that enters the sandbox of `role` and runs fn. */
static inline pid_t start_in(enum worker_role_id role, const char *const *sets, child_fn *fn)
{
	struct conf *c = make_conf(sets);
	fflush(NULL);
	pid_t pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0); /* a test that fails does not wait for its children */
		umask(0077);
		log_open(rows[role].name, LOG_LV_WARN, LOG_TEXT);
		sandbox_enter(&rows[role], c);
		fn(role);
		_exit(0);
	}
	conf_free(&c);
	return pid;
}

static void wait_for(pid_t pid, enum worker_role_id role)
{
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (!WIFEXITED(status) || WEXITSTATUS(status))
		fail_msg("%s: status 0x%x", rows[role].name, (unsigned)status);
}

static void run_in(enum worker_role_id role, const char *const *sets, child_fn *fn)
{
	wait_for(start_in(role, sets, fn), role);
}

static inline void run_in_all(child_fn *fn)
{
	for (int role = 0; role < ROLE_COUNT; role++)
		run_in((enum worker_role_id)role, NULL, fn);
}

/* 0: none. */
static int landlock_abi(void)
{
	long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
	return abi > 0 ? (int)abi : 0;
}

static inline void need_landlock(int abi)
{
	if (landlock_abi() < abi)
		skip();
}

static int make_base(void **state)
{
	(void)state;
	if (!mkdtemp(base))
		return -1;
	snprintf(data_dir, sizeof(data_dir), "%s/data", base);
	return mkdir(data_dir, 0700);
}

static int remove_base(void **state)
{
	char command[128];
	(void)state;
	snprintf(command, sizeof(command), "rm -rf '%s'", base);
	return system(command);
}

#endif
