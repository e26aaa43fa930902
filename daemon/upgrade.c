/* Upgrade: its state, its beginning, its end, and the exec between two images. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "clock.h"
#include "fault.h"
#include "handover.h"
#include "log.h"
#include "upgrade-private.h"
#include "version.h"
#include "auditor.h"

bool upgrade_active(const struct supervisor *sv) { return sv->upgrade->phase != PHASE_NONE; }
json_t *upgrade_replies(struct supervisor *sv) { return control_handover(sv->upgrade->replies); }
void upgrade_reload_after(struct supervisor *sv) { sv->upgrade->reload_after = true; }
bool upgrade_reloads_after(const struct supervisor *sv) { return sv->upgrade->reload_after; }

bool upgrade_starting(const struct supervisor *sv) { return sv->upgrade->starting || sv->state == SUPERVISOR_STARTING; }

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

void upgrade_close_fd(int *fd)
{
	if (*fd != -1)
		close(*fd);
	*fd = -1;
}

/* ---- the end ---- */

static void release_signals(struct upgrade *u)
{
	sigset_t none;
	if (!u->held)
		return;
	u->held = 0;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

/* The entry of the audit log, and then the answer to all that wait. */
static void note_end(struct upgrade *u, bool ok, json_t *o)
{
	static const char *const said[] = {"result", "from", "version"};
	json_t *fields = json_object(), *error = json_object_get(o, "error");
	char who[96];
	for (size_t i = 0; i < ARRAY_LEN(said); i++)
		if (json_object_get(o, said[i]))
			json_object_set(fields, said[i], json_object_get(o, said[i]));
	if (error)
		json_object_set_new(fields, "error", auditor_text(json_string_value(error)));
	snprintf(who, sizeof(who), "%s", u->replies ? control_who(u->replies) : "signal:SIGUSR2");
	auditor_note(u->sv, who, "upgrade", fields, &u->replies, ok, o);
}

static void end(struct upgrade *u, bool ok, json_t *o)
{
	AN(o);
	release_signals(u);
	u->phase = PHASE_NONE;
	evtimer_del(u->timer);
	upgrade_close_fd(&u->fd_program);
	upgrade_close_fd(&u->output);
	upgrade_close_fd(&u->fd_former);
	upgrade_close_fd(&u->fd_former_conf);
	buf_free(&u->said);
	note_end(u, ok, o);
	if (u->reload_after) {
		u->reload_after = false;
		reload_start(u->sv, NULL);
	}
}

/* The binary that serves is the one that served before. */
void upgrade_failed(struct upgrade *u, const char *why)
{
	size_t len = strlen(why);
	char *said = util_strndup(why, len); /* paths may hold anything */
	util_utf8_scrub(said, len);
	log_error_event(upgrade_failed, NULL, "upgrade failed, the former binary (" PACKAGE_VERSION ") serves on: %s",
			said);
	if (u->sv->state == SUPERVISOR_RUNNING)
		notify_status("Upgrade failed: %s", said);
	end(u, false,
	    json_pack("{s:b s:s s:s s:s}", "ok", 0, "result", "failed", "version", PACKAGE_VERSION, "error", said));
	free(said);
}

void upgrade_succeeded(struct upgrade *u)
{
	double seconds = (double)(clock_mono_us() - u->began_us) / 1e6;
	log_info_event(upgrade_done, LOG_FIELDS(LOG_S("from", u->from)),
		       "upgraded from %s to " PACKAGE_VERSION " in %.0f ms", u->from, seconds * 1e3);
	notify_ready(u->sv);
	end(u, true,
	    json_pack("{s:b s:s s:s s:s s:f}", "ok", 1, "result", "upgraded", "from", u->from, "version",
		      PACKAGE_VERSION, "seconds", seconds));
}

/* ---- the exec ---- */

static const struct timeval now = {0, 0};

void upgrade_hold(struct upgrade *u)
{
	sigset_t all;
	if (u->held)
		return;
	auditor_settle(u->sv);
	control_unasked(u->sv, SLOT_WARMER); /* the other image would not know who waits */
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	u->held = 3;
	evtimer_add(u->timer, &now);
}

void upgrade_become(struct supervisor *sv, int program, int document)
{
	char number[24];
	snprintf(number, sizeof(number), "%d", document);
	AN(sv->upgrade->held);
	auditor_settle(sv); /* its thread ends with the exec */
	handover_keep_open(sv, true);
	(void)fcntl(document, F_SETFD, 0);
	setenv(ENV_HANDOVER, number, 1);
	FAULT_POINT(upgrade_becoming);
	syscall(SYS_execveat, program, "", sv->argv, environ, AT_EMPTY_PATH);
	int error = errno;
	unsetenv(ENV_HANDOVER);
	close(document);
	handover_keep_open(sv, false);
	errno = error;
}

/* ---- the beginning ---- */

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
	/* A worker that cannot get up may be what the new binary is to cure: sync must serve, no more. */
	bool starting = sv->state == SUPERVISOR_STARTING && sv->child[SLOT_SYNC].state != CHILD_READY;
	if (sv->state == SUPERVISOR_DRAINING || starting || reload_active(sv)) {
		refuse(r, starting			     ? "the daemon is still starting; try again"
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
	else if (!upgrade_check_start(u))
		snprintf(why, sizeof(why), "cannot check %s: %s", sv->program, strerror(errno));
	else
		return;
	upgrade_failed(u, why);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct upgrade *u = arg;
	(void)fd, (void)what;
	if (u->held > 1) {
		u->held--;
		evtimer_add(u->timer, &now);
	} else if (u->phase == PHASE_CHECK) {
		u->checker ? upgrade_check_late(u) : upgrade_check_passed(u);
	} else if (u->phase == PHASE_BACK && !upgrade_any_to_go(u->sv)) {
		u->held ? upgrade_hand_back(u) : upgrade_hold(u);
	} else {
		upgrade_step(u);
	}
}

/* ---- life ---- */

bool upgrade_under_way(const struct supervisor *sv) { return sv->upgrade->phase != PHASE_NONE; }
int64_t upgrade_began_us(const struct supervisor *sv) { return sv->upgrade->began_us; }

/* Requests that are under way end with an answer of sync: one that is leaving for its successor gets it still. */
static void keep_sync(struct supervisor *sv)
{
	struct child *c = &sv->child[SLOT_SYNC];
	c->replacing = c->state == CHILD_DRAINING;
	if (c->state == CHILD_STOPPED)
		child_start(c);
}

void upgrade_cancel(struct supervisor *sv)
{
	struct upgrade *u = sv->upgrade;
	if (u->phase == PHASE_NONE)
		return;
	for (struct child *c = NULL; (c = child_next(sv, c));)
		c->replacing = false;
	if (u->phase >= PHASE_SYNC)
		keep_sync(sv);
	u->reload_after = false;
	if (u->checker)
		kill(u->checker, SIGKILL);
	end(u, false, json_pack("{s:b s:s s:s}", "ok", 0, "result", "failed", "error", "the daemon is leaving"));
}

void upgrade_open(struct supervisor *sv)
{
	struct upgrade *u = util_zalloc(sizeof(*u));
	u->sv = sv;
	u->fd_program = u->output = u->fd_former = u->fd_former_conf = -1;
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
