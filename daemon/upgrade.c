#include "upgrade.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "clock.h"
#include "handover.h"
#include "log.h"
#include "version.h"
#include "worker.h"

#define SAID_MAX 4096

enum phase { PHASE_NONE, PHASE_CHECK, PHASE_SYNC, PHASE_API, PHASE_REST, PHASE_BACK };

struct upgrade {
	struct supervisor *sv;
	enum phase phase;
	int64_t began_us;
	struct reply *replies;
	bool reload_after;
	/* check */
	int fd_program, output;
	pid_t checker;
	struct buf said;
	struct event *timer;
	/* after the exec */
	int fd_former; /* the binary to go back to */
	char from[32];
	unsigned from_version; /* of hand-over documents that it reads */
	char *reason;	       /* to go back */
};

bool upgrade_active(const struct supervisor *sv) { return sv->upgrade->phase != PHASE_NONE; }
json_t *upgrade_replies(struct supervisor *sv) { return control_handover(sv->upgrade->replies); }
void upgrade_reload_after(struct supervisor *sv) { sv->upgrade->reload_after = true; }

const char *upgrade_phase(const struct supervisor *sv)
{
	static const char *const names[] = {NULL,
					    "checking the new binary",
					    "replacing sync",
					    "replacing api",
					    "replacing warmer and pinger",
					    "going back to the former binary"};
	return names[sv->upgrade->phase];
}

static void close_fd(int *fd)
{
	if (*fd != -1)
		close(*fd);
	*fd = -1;
}

/* ---- the end ---- */

static void end(struct upgrade *u, bool ok, json_t *o)
{
	char *json = o ? json_dumps(o, JSON_COMPACT) : NULL;
	AN(json);
	u->phase = PHASE_NONE;
	evtimer_del(u->timer);
	close_fd(&u->fd_program);
	close_fd(&u->output);
	close_fd(&u->fd_former);
	buf_free(&u->said);
	control_reply_all(&u->replies, ok, json);
	free(json);
	json_decref(o);
	if (u->reload_after) {
		u->reload_after = false;
		reload_start(u->sv, NULL);
	}
}

/* The binary that serves is the one that served before. */
static void failed(struct upgrade *u, const char *why)
{
	log_error("upgrade failed, the former binary (" PACKAGE_VERSION ") serves on: %s", why);
	notify_status("Upgrade failed: %s", why);
	end(u, false,
	    json_pack("{s:b s:s s:s s:s}", "ok", 0, "result", "failed", "version", PACKAGE_VERSION, "error", why));
}

static void succeeded(struct upgrade *u)
{
	double seconds = (double)(clock_mono_us() - u->began_us) / 1e6;
	log_info("upgraded from %s to " PACKAGE_VERSION " in %.0f ms", u->from, seconds * 1e3);
	notify_ready(u->sv);
	end(u, true,
	    json_pack("{s:b s:s s:s s:s s:f}", "ok", 1, "result", "upgraded", "from", u->from, "version",
		      PACKAGE_VERSION, "seconds", seconds));
}

/* ---- the exec ---- */

/* Nothing may be lost between two images: signals wait, blocked, until the next one has its handlers. */
static void become(struct supervisor *sv, int program, int document)
{
	sigset_t all, before;
	char number[24];
	snprintf(number, sizeof(number), "%d", document);
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &before);
	handover_keep_open(sv, true);
	(void)fcntl(document, F_SETFD, 0);
	setenv(ENV_HANDOVER, number, 1);
	syscall(SYS_execveat, program, "", sv->argv, environ, AT_EMPTY_PATH);
	int error = errno;
	unsetenv(ENV_HANDOVER);
	close(document);
	handover_keep_open(sv, false);
	sigprocmask(SIG_SETMASK, &before, NULL);
	errno = error;
}

static void take_over(struct upgrade *u)
{
	struct supervisor *sv = u->sv;
	char why[256];
	int document = handover_write(sv, HANDOVER_VERSION, HANDOVER_UPGRADE, NULL);
	log_info("upgrade: the new binary is fit; handing over to it");
	if (document != -1)
		become(sv, u->fd_program, document);
	snprintf(why, sizeof(why), "cannot execute %s: %s", sv->program, strerror(errno));
	failed(u, why);
}

/* ---- the check ---- */

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
	while ((n = read(u->output, part, sizeof(part))) > 0)
		if (u->said.len < SAID_MAX)
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
		take_over(u);
		return true;
	}
	buf_printf(&why, "%s is not fit to take over (%s)%s%.*s", sv->program,
		   restart_describe(status, how, sizeof(how)), said.len ? ": " : "", (int)said.len,
		   said.p ? said.p : "");
	buf_addc(&why, '\0');
	util_utf8_scrub(why.p, why.len);
	failed(u, why.p);
	buf_free(&why);
	return true;
}

static bool start_check(struct upgrade *u)
{
	static const struct timeval limit = {UPGRADE_CHECK_S, 0};
	int ends[2], document = handover_write(u->sv, HANDOVER_VERSION, HANDOVER_UPGRADE, NULL);
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

static void refuse(struct reply *r, const char *why)
{
	json_t *o = json_pack("{s:b s:s s:s}", "ok", 0, "result", "refused", "error", why);
	char *json = json_dumps(o, JSON_COMPACT);
	log_warn("upgrade refused: %s", why);
	control_reply(&r, false, json);
	free(json);
	json_decref(o);
}

void upgrade_start(struct supervisor *sv, struct reply *r)
{
	struct upgrade *u = sv->upgrade;
	char why[512];
	if (u->phase != PHASE_NONE) {
		refuse(r, "another upgrade is under way");
		return;
	}
	if (sv->state != SUPERVISOR_RUNNING || reload_active(sv)) {
		refuse(r, sv->state == SUPERVISOR_STARTING   ? "the daemon is still starting; try again"
			  : sv->state == SUPERVISOR_DRAINING ? "the daemon is leaving"
							     : "a reload is under way; try again");
		return;
	}
	log_info("upgrade: checking %s", sv->program);
	u->phase = PHASE_CHECK;
	u->began_us = clock_mono_us();
	control_wait(&u->replies, r);
	u->fd_program = supervisor_high(open(sv->program, O_PATH | O_CLOEXEC));
	if (u->fd_program == -1)
		snprintf(why, sizeof(why), "cannot open %s: %s", sv->program, strerror(errno));
	else if (!start_check(u))
		snprintf(why, sizeof(why), "cannot check %s: %s", sv->program, strerror(errno));
	else
		return;
	failed(u, why);
}

/* ---- the new image: one worker after the other ---- */

static bool is_api(const struct child *c) { return worker_role_of_slot(c->slot) == ROLE_API; }
static bool serves(const struct child *c) { return c->state == CHILD_READY && !c->former; }

/* In its own slot: it leaves, and upgrade_child_gone() starts the new one. */
static void replace(struct child *c)
{
	c->replacing = true;
	if (child_alive(c)) {
		struct ctl_drain how = {.idle_ms = is_api(c) ? RETIRE_IDLE_MS : 0};
		child_leave(c, &how, conf_int(c->sv->conf, CONF_DRAIN_TIMEOUT));
		return;
	}
	evtimer_del(c->timer);
	(void)upgrade_child_gone(c, true);
}

/* True when as many new api workers serve as are wanted. */
static bool more_api(struct upgrade *u)
{
	struct supervisor *sv = u->sv;
	int64_t want = conf_int(sv->conf, CONF_API_WORKERS), serving = 0;
	struct child *in_place = NULL;
	for (struct child *c = NULL; (c = child_next(sv, c));) {
		if (!is_api(c) || c->retiring)
			continue;
		if (!c->former && !serves(c))
			return false; /* one at a time */
		if (c->replacing)
			return false;
		serving += serves(c);
		if (c->former)
			in_place = c;
	}
	if (serving >= want)
		return true;
	if (!pool_add_api(sv) && in_place) { /* all slots are taken: the others serve meanwhile */
		control_reply_through(
			&u->replies, in_place, true,
			"{\"ok\":true,\"result\":\"under way\",\"detail\":\"the worker that this was asked "
			"through is replaced itself; status shows the rest\"}");
		replace(in_place);
	}
	return false;
}

static void commit(struct upgrade *u)
{
	for (struct child *c = NULL; (c = child_next(u->sv, c));)
		if (c->former && is_api(c) && !c->retiring)
			pool_retire(c);
	succeeded(u);
}

static void step(struct upgrade *u)
{
	struct supervisor *sv = u->sv;
	if (u->phase == PHASE_SYNC && serves(&sv->child[SLOT_SYNC]))
		u->phase = PHASE_API;
	if (u->phase == PHASE_API && more_api(u)) {
		u->phase = PHASE_REST;
		replace(&sv->child[SLOT_WARMER]);
		replace(&sv->child[SLOT_PINGER]);
	}
	if (u->phase == PHASE_REST && serves(&sv->child[SLOT_WARMER]) && serves(&sv->child[SLOT_PINGER]))
		commit(u);
}

void upgrade_child_ready(struct child *c) { step(c->sv->upgrade); }

/* ---- going back ---- */

static bool any_to_go(struct supervisor *sv)
{
	for (struct child *c = NULL; (c = child_next(sv, c));)
		if (!is_api(c) && child_alive(c) && (!c->former || c->state == CHILD_DRAINING))
			return true;
	return false;
}

static void hand_back(struct upgrade *u)
{
	struct supervisor *sv = u->sv;
	int document = handover_write(sv, u->from_version, HANDOVER_ROLLBACK, u->reason);
	if (document != -1)
		become(sv, u->fd_former, document);
	/* What is left is to serve with what there is. */
	log_error("cannot go back to the former binary: %s; going on with this one", strerror(errno));
	for (struct child *c = NULL; (c = child_next(sv, c));)
		if (!child_alive(c) && !c->retiring)
			child_start(c);
	pool_resize(sv);
	failed(u, u->reason);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct upgrade *u = arg;
	(void)fd, (void)what;
	if (u->phase == PHASE_CHECK && u->checker) {
		kill(u->checker, SIGKILL);
		u->checker = 0; /* reaped as a stranger */
		failed(u, "the new binary's check took too long");
	} else if (u->phase == PHASE_BACK && !any_to_go(u->sv)) {
		hand_back(u);
	}
}

/* What the new image started leaves; what it had not replaced yet never noticed. */
static void go_back(struct upgrade *u, const char *reason)
{
	static const struct timeval now = {0, 0};
	struct supervisor *sv = u->sv;
	log_error("upgrade: %s; going back to the former binary (%s)", reason, u->from);
	u->phase = PHASE_BACK;
	u->reason = util_strndup(reason, strlen(reason));
	for (struct child *c = NULL; (c = child_next(sv, c));) {
		c->replacing = false;
		if (c->former || c->retiring)
			continue;
		if (is_api(c) && c->state == CHILD_READY) {
			pool_retire(c);
		} else if (c->state == CHILD_READY) {
			child_leave(c, &(struct ctl_drain){0}, UPGRADE_BACK_S * 1000000);
		} else if (child_alive(c)) {
			c->retiring = is_api(c);
			child_set_state(c, CHILD_DRAINING);
			child_kill(c, "its upgrade has failed");
		} else {
			evtimer_del(c->timer);
			child_set_state(c, CHILD_STOPPED);
			if (is_api(c))
				child_free(c);
		}
	}
	evtimer_add(u->timer, &now); /* not from within the death of a child */
}

bool upgrade_child_gone(struct child *c, bool asked)
{
	struct upgrade *u = c->sv->upgrade;
	static const struct timeval now = {0, 0};
	char reason[256];
	if (u->phase == PHASE_BACK) {
		evtimer_add(u->timer, &now);
		return !c->retiring;
	}
	if (c->replacing) {
		c->replacing = false;
		child_start(c);
		return true;
	}
	if (u->phase < PHASE_SYNC || c->former || asked || c->ready_us || c->retiring)
		return false;
	snprintf(reason, sizeof(reason), "%s of the new binary did not become ready (%s)", c->name, c->last_exit);
	if (is_api(c))
		child_free(c);
	else
		child_set_state(c, CHILD_STOPPED);
	go_back(u, reason);
	return true;
}

/* ---- taking over ---- */

/* The configuration as at a reload. One that does not load now was good when the check looked: the running one stays. */
bool upgrade_configure(struct supervisor *sv)
{
	char *error = NULL;
	struct conf *running = conf_load_foreign(sv->fd_conf), *next = conf_load(&sv->input, &error);
	if (next && !listen_check(next, &error))
		conf_free(&next);
	if (!next)
		log_error("the configuration stays as it was: %s", error ? error : "it cannot be read");
	free(error);
	if (next && running)
		conf_carry(next, running);
	sv->conf = next ? next : running;
	if (next)
		conf_free(&running);
	if (!sv->conf)
		return false;
	int fd = supervisor_high(conf_dump_effective(sv->conf));
	if (fd == -1)
		return false;
	close(sv->fd_conf);
	sv->fd_conf = fd;
	sv->conf_generation++;
	supervisor_log_open(sv->conf);
	return true;
}

static void rolled_back(struct upgrade *u, json_t *doc)
{
	struct supervisor *sv = u->sv;
	const char *reason = json_string_value(json_object_get(doc, "reason"));
	close_fd(&u->fd_former);
	for (struct child *c = NULL; (c = child_next(sv, c));) {
		c->former = false;
		if (!child_alive(c) && !c->retiring)
			child_start(c);
	}
	pool_resize(sv);
	failed(u, reason ? reason : "the new binary gave up");
}

void upgrade_adopted(struct supervisor *sv, json_t *doc, struct reply *waiting)
{
	struct upgrade *u = sv->upgrade;
	const char *purpose = json_string_value(json_object_get(doc, "purpose")),
		   *program = json_string_value(json_object_get(doc, "program"));
	u->replies = waiting;
	u->began_us = json_integer_value(json_object_get(doc, "upgrade_began_us"));
	u->from_version = (unsigned)json_integer_value(json_object_get(doc, "version"));
	snprintf(u->from, sizeof(u->from), "%s", program ? program : "?");
	u->fd_former = sv->fd_image;
	sv->fd_image = supervisor_image();
	if (purpose && strcmp(purpose, "rollback") == 0) {
		rolled_back(u, doc);
		return;
	}
	log_info("orchestrad " PACKAGE_VERSION " has taken over from %s, pid %d", u->from, (int)getpid());
	for (struct child *c = NULL; (c = child_next(sv, c));)
		c->former = true;
	u->phase = PHASE_SYNC;
	replace(&sv->child[SLOT_SYNC]);
}

int64_t upgrade_began_us(const struct supervisor *sv) { return sv->upgrade->began_us; }

void upgrade_cancel(struct supervisor *sv)
{
	struct upgrade *u = sv->upgrade;
	if (u->phase == PHASE_NONE)
		return;
	for (struct child *c = NULL; (c = child_next(sv, c));)
		c->replacing = false;
	u->reload_after = false;
	if (u->checker)
		kill(u->checker, SIGKILL);
	end(u, false, json_pack("{s:b s:s s:s}", "ok", 0, "result", "failed", "error", "the daemon is leaving"));
}

void upgrade_open(struct supervisor *sv)
{
	struct upgrade *u = util_zalloc(sizeof(*u));
	u->sv = sv;
	u->fd_program = u->output = u->fd_former = -1;
	u->timer = evtimer_new(sv->base, on_timer, u);
	AN(u->timer);
	sv->upgrade = u;
}

void upgrade_free(struct supervisor *sv)
{
	struct upgrade *u = sv->upgrade;
	if (!u)
		return;
	upgrade_cancel(sv);
	event_free(u->timer);
	free(u->reason);
	free(u);
	sv->upgrade = NULL;
}
