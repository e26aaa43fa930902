/* Before an upgrade: the new binary is run once, to say whether it can take over. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "handover.h"
#include "log.h"
#include "upgrade-private.h"
#include "worker.h"

#define SAID_MAX 4096

void upgrade_check_passed(struct upgrade *u)
{
	struct supervisor *sv = u->sv;
	char why[256];
	int document = handover_write(sv, handover_version(), HANDOVER_UPGRADE, NULL);
	if (document != -1)
		upgrade_become(sv, u->fd_program, document);
	snprintf(why, sizeof(why), "cannot execute %s: %s", sv->program, strerror(errno));
	upgrade_failed(u, why);
}

static void run_check(const struct upgrade *u, int document, int output) __attribute__((noreturn));
static void run_check(const struct upgrade *u, int document, int output)
{
	enum { PROGRAM = FD_DOCUMENT + 1 };
	char **argv = u->sv->argv;
	size_t n = 0;
	while (argv[n])
		n++;
	char **with = util_zalloc((n + 2) * sizeof(*with));
	memcpy(with, argv, n * sizeof(*with));
	with[n] = (char *)(uintptr_t) "--check-handover";
	int null = open("/dev/null", O_RDWR);
	if (dup2(null, 0) == -1 || dup2(output, 1) == -1 || dup2(output, 2) == -1 ||
	    dup2(document, FD_DOCUMENT) == -1 || dup3(u->fd_program, PROGRAM, O_CLOEXEC) == -1)
		_exit(WORKER_EXIT_FAIL);
	close_range(PROGRAM + 1, ~0u, 0);
	child_reset_signals();
	unsetenv("NOTIFY_SOCKET");
	syscall(SYS_execveat, PROGRAM, "", with, environ, AT_EMPTY_PATH);
	dprintf(2, "cannot execute it: %s\n", strerror(errno));
	_exit(WORKER_EXIT_FAIL);
}

static void read_output(struct upgrade *u)
{
	char part[1024];
	ssize_t n;
	while (u->said.len < SAID_MAX && (n = read(u->output, part, sizeof(part))) > 0)
		buf_add(&u->said, part, (size_t)n);
}

/* Its verdict; before it there may be warnings, about a misspelt variable for one. */
static struct span last_line(struct span said)
{
	const char *newline = said.len ? memrchr(said.p, '\n', said.len) : NULL;
	return newline ? (struct span){newline + 1, (size_t)(said.p + said.len - newline - 1)} : said;
}

bool upgrade_reaped(struct supervisor *sv, pid_t pid, int status)
{
	struct upgrade *u = sv->upgrade;
	struct buf why = {0};
	char how[64];
	if (!pid || pid != u->checker)
		return false;
	u->checker = 0;
	if (u->phase != PHASE_CHECK)
		return true;
	read_output(u);
	while (u->said.len && u->said.p[u->said.len - 1] == '\n')
		u->said.len--;
	struct span said = {u->said.p, u->said.len}, last = last_line(said);
	if (status == 0 && span_eq(last, SPAN_LIT(HANDOVER_FIT))) {
		log_info("upgrade: the new binary is fit; handing over to it");
		upgrade_hold(u);
		return true;
	}
	buf_printf(&why, "%s is not fit to take over (%s)%s%.*s", sv->program,
		   restart_describe(status, how, sizeof(how)), said.len ? ": " : "", (int)said.len,
		   said.p ? said.p : "");
	buf_addc(&why, '\0');
	upgrade_failed(u, why.p);
	buf_free(&why);
	return true;
}

bool upgrade_check_start(struct upgrade *u)
{
	static const struct timeval limit = {UPGRADE_CHECK_S, 0};
	int ends[2], document = handover_write(u->sv, handover_version(), HANDOVER_UPGRADE, NULL);
	if (document == -1)
		return false;
	if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) == -1) {
		close(document);
		return false;
	}
	u->output = supervisor_high(ends[0]);
	ends[1] = supervisor_high(ends[1]);
	u->checker = child_fork();
	if (u->checker == 0)
		run_check(u, document, ends[1]);
	close(document);
	close(ends[1]);
	if (u->checker == -1) {
		u->checker = 0;
		return false;
	}
	evtimer_add(u->timer, &limit);
	return true;
}

void upgrade_check_late(struct upgrade *u)
{
	kill(u->checker, SIGKILL);
	u->checker = 0; /* reaped as a stranger */
	upgrade_failed(u, "the new binary's check took too long");
}
