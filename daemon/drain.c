/* Leaving in order: api workers finish their requests, warmer and pinger follow, and sync goes last,
 * when nobody can hand it anything more, so that everything acknowledged reaches the store.
 *
 * daemon.drain_timeout bounds the whole. The earlier phases must end before it, so that one client who
 * will not leave cannot take from sync the time to flush; at its end sync is killed too, which is
 * safe: the journal has what the store lacks. */
#include <unistd.h>

#include "clock.h"
#include "fault.h"
#include "log.h"
#include "upgrade.h"
#include "worker.h"
#include "auditor.h"

#define PHASES 3

static const int deadlines[PHASES] = {7, 8, 10}; /* of each phase, in tenths of daemon.drain_timeout */

static unsigned phase_of(const struct child *c)
{
	switch (worker_role_of_slot(c->slot)) {
	case ROLE_API: return 0;
	case ROLE_SYNC: return PHASES - 1;
	default: return 1;
	}
}

bool drain_reached(const struct supervisor *sv, const struct child *c)
{
	return sv->state == SUPERVISOR_DRAINING && phase_of(c) <= sv->drain_phase;
}

static void kill_phases(struct supervisor *sv, unsigned from, unsigned to, const char *why)
{
	for (struct child *c = NULL; (c = child_next(sv, c));) {
		if (child_alive(c) && phase_of(c) >= from && phase_of(c) <= to) {
			child_set_state(c, CHILD_DRAINING); /* nobody is started again */
			child_kill(c, why);
			sv->exit_code = 1;
		}
	}
}

static void arm(struct supervisor *sv, int64_t us)
{
	struct timeval tv = {us / 1000000, us % 1000000};
	evtimer_add(sv->drain_timer, &tv);
}

static int64_t tenths(const struct supervisor *sv, int n) { return conf_int(sv->conf, CONF_DRAIN_TIMEOUT) / 10 * n; }

/* Whoever was to have left by now is killed; what comes after has the next deadline. */
static void on_deadline(evutil_socket_t fd, short what, void *arg)
{
	struct supervisor *sv = arg;
	unsigned passed = sv->drain_deadline;
	(void)fd, (void)what;
	kill_phases(sv, 0, passed,
		    passed == PHASES - 1 ? "has not left before daemon.drain_timeout"
					 : "has not left in time for sync to flush");
	if (passed < PHASES - 1) {
		sv->drain_deadline++;
		arm(sv, tenths(sv, deadlines[passed + 1] - deadlines[passed]));
	}
}

/* What is left until the deadline of its phase. */
static uint32_t warmer_ms(const struct supervisor *sv)
{
	int64_t left = sv->drain_began_us + tenths(sv, deadlines[1]) - clock_mono_us();
	return left > 1000 ? (uint32_t)(left / 1000) : 1;
}

static void tell(struct child *c)
{
	if (c->state == CHILD_BACKING_OFF) {
		evtimer_del(c->timer);
		child_set_state(c, CHILD_STOPPED);
	}
	if (!child_alive(c) || c->state == CHILD_DRAINING)
		return;
	evtimer_del(c->timer);
	child_set_state(c, CHILD_DRAINING);
	struct ctl_drain how = {.whole = 1, .delay_ms = (uint32_t)(conf_int(c->sv->conf, CONF_DRAIN_DELAY) / 1000)};
	if (c->slot == SLOT_WARMER)
		how.idle_ms = warmer_ms(c->sv);
	FAULT_POINT(drain_telling);
	if (!child_send(c, CTL_DRAIN, &how, sizeof(how), -1))
		child_kill(c, "does not listen to its order to leave");
}

void drain_step(struct supervisor *sv)
{
	if (sv->state != SUPERVISOR_DRAINING)
		return;
	for (;;) {
		unsigned alive = 0;
		for (struct child *c = NULL; (c = child_next(sv, c));) {
			if (phase_of(c) != sv->drain_phase)
				continue;
			tell(c);
			alive += child_alive(c);
		}
		if (alive)
			return;
		if (sv->drain_phase == PHASES - 1)
			break;
		sv->drain_phase++;
	}
	/* What is to be noted is noted before; a disk that hangs is not waited for. */
	static const struct timeval limit = {AUDITOR_WAIT_MS / 1000, 0};
	event_base_loopexit(sv->base, auditor_busy(sv) ? &limit : NULL);
}

void drain_start(struct supervisor *sv, const char *why)
{
	if (sv->state == SUPERVISOR_DRAINING)
		return;
	upgrade_cancel(sv);
	reload_cancel(sv);
	sv->state = SUPERVISOR_DRAINING;
	sv->drain_began_us = clock_mono_us();
	log_info_event(daemon_leaving, LOG_FIELDS(LOG_S("why", why)), "leaving: %s", why);
	notify_stopping("draining");
	/* Our copies would keep the sockets listening with nobody to accept. */
	if (sv->fd_tcp != -1)
		close(sv->fd_tcp);
	if (sv->fd_tls != -1)
		close(sv->fd_tls);
	if (sv->fd_unix != -1)
		close(sv->fd_unix);
	sv->fd_tcp = sv->fd_tls = sv->fd_unix = -1;
	if (sv->unlink_unix)
		listen_unlink(sv->unix_path, sv->unix_inode);
	sv->unlink_unix = false;
	sv->drain_timer = evtimer_new(sv->base, on_deadline, sv);
	AN(sv->drain_timer);
	arm(sv, tenths(sv, deadlines[0]));
	drain_step(sv);
}

void drain_now(struct supervisor *sv, const char *why)
{
	drain_start(sv, why);
	sv->drain_phase = PHASES - 1;
	kill_phases(sv, 0, PHASES - 1, why);
	drain_step(sv);
}

void drain_free(struct supervisor *sv)
{
	if (sv->drain_timer)
		event_free(sv->drain_timer);
	sv->drain_timer = NULL;
}
