/* The new image: one worker after the other, and back when one of them does not come up. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "fault.h"
#include "handover.h"
#include "log.h"
#include "upgrade-private.h"
#include "version.h"
#include "worker.h"
#include "tried.h"

/* ---- the new image: one worker after the other ---- */

static bool serves(const struct child *c) { return c->state == CHILD_READY && !c->former; }

/* In its own slot: it leaves, and upgrade_child_gone() starts the new one. */
static void replace(struct child *c)
{
	c->replacing = true;
	if (child_alive(c)) {
		struct ctl_drain how = {.idle_ms = child_is_api(c) ? RETIRE_IDLE_MS : 0};
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
		if (!child_is_api(c) || c->retiring)
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
		if (c->former && child_is_api(c) && !c->retiring)
			pool_retire(c);
	pool_resize(u->sv); /* one that died on the way has a successor in its own slot, too */
	upgrade_succeeded(u);
}

void upgrade_step(struct upgrade *u)
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

void upgrade_child_ready(struct child *c) { upgrade_step(c->sv->upgrade); }

/* ---- going back ---- */

bool upgrade_any_to_go(struct supervisor *sv)
{
	for (struct child *c = NULL; (c = child_next(sv, c));)
		if (!child_is_api(c) && child_alive(c) && (!c->former || c->state == CHILD_DRAINING))
			return true;
	return false;
}

/* What the supervisor has and what the other image had. */
static void swap_conf(struct upgrade *u)
{
	struct supervisor *sv = u->sv;
	int fd = sv->fd_conf;
	uint64_t generation = sv->conf_generation;
	if (u->fd_former_conf == -1)
		return; /* it was not read anew */
	sv->fd_conf = u->fd_former_conf;
	sv->conf_generation = u->former_generation;
	u->fd_former_conf = fd;
	u->former_generation = generation;
}

void upgrade_hand_back(struct upgrade *u)
{
	struct supervisor *sv = u->sv;
	swap_conf(u);
	int document = handover_write(sv, u->from_version, HANDOVER_ROLLBACK, u->reason);
	if (document != -1)
		upgrade_become(sv, u->fd_former, document);
	swap_conf(u);
	/* What is left is to serve with what there is. */
	log_error("cannot go back to the former binary: %s; going on with this one", strerror(errno));
	for (struct child *c = NULL; (c = child_next(sv, c));)
		if (!child_alive(c) && !c->retiring)
			child_start(c);
	pool_resize(sv);
	upgrade_failed(u, u->reason);
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
		c->retiring |= c->replacing &&
			       child_is_api(c); /* the former binary starts another one when its slot is free */
		c->replacing = false;
		if (c->former && c->state == CHILD_BACKING_OFF) {
			evtimer_del(c->timer);
			child_set_state(c, CHILD_STOPPED);
		}
		if (c->former || c->retiring)
			continue;
		if (child_is_api(c) && c->state == CHILD_READY) {
			pool_retire(c);
		} else if (c->state == CHILD_READY) {
			child_leave(c, &(struct ctl_drain){0}, UPGRADE_BACK_S * 1000000);
		} else if (child_alive(c)) {
			c->retiring = child_is_api(c);
			child_set_state(c, CHILD_DRAINING);
			child_kill(c, "its upgrade has failed");
		} else {
			evtimer_del(c->timer);
			child_set_state(c, CHILD_STOPPED);
			if (child_is_api(c))
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
		if (drain_reached(c->sv, c))
			return false;
		child_start(c);
		return true;
	}
	if (c->retiring && u->phase >= PHASE_SYNC)
		evtimer_add(u->timer, &now); /* its slot may be what is waited for */
	if (u->phase < PHASE_SYNC || c->former || asked || c->ready_us || c->retiring)
		return false;
	snprintf(reason, sizeof(reason), "%s of the new binary did not become ready (%s)", c->name, c->last_exit);
	if (child_is_api(c))
		child_free(c);
	else
		child_set_state(c, CHILD_STOPPED);
	go_back(u, reason);
	return true;
}

/* ---- taking over ---- */

static bool is_rollback(json_t *doc)
{
	const char *purpose = json_string_value(json_object_get(doc, "purpose"));
	return purpose && strcmp(purpose, "rollback") == 0;
}

/* One that does not load now was good when the check looked: the running one stays. */
static bool use_next(struct supervisor *sv)
{
	char *error = NULL;
	struct conf *next = conf_load(&sv->input, &error);
	if (next && !listen_check(next, &error))
		conf_free(&next);
	if (!next)
		log_error("the configuration stays as it was: %s", error ? error : "it cannot be read");
	free(error);
	if (!next)
		return sv->conf;
	if (sv->conf) {
		conf_carry(next, sv->conf);
		next = tried_over_next(sv, next);
	}
	conf_free(&sv->conf);
	sv->conf = next;
	sv->upgrade->fd_former_conf = sv->fd_conf;
	sv->upgrade->former_generation = sv->conf_generation++;
	sv->fd_conf = supervisor_high(conf_dump_effective(next));
	return sv->fd_conf != -1;
}

bool upgrade_configure(struct supervisor *sv, json_t *doc)
{
	sv->conf = conf_load_foreign(sv->fd_conf);
	if (sv->conf)
		tried_adopt(sv, json_object_get(doc, "tried"));
	bool stays = is_rollback(doc) && sv->conf; /* workers that noticed nothing run with it */
	if (!stays && !use_next(sv))
		return false;
	return supervisor_open_log(sv) && (sv->fd_requests != -1 || segments_requests(sv)) &&
	       (sv->fd_spans != -1 || segments_spans(sv));
}

static void rolled_back(struct upgrade *u, json_t *doc)
{
	struct supervisor *sv = u->sv;
	const char *reason = json_string_value(json_object_get(doc, "reason"));
	if (u->starting)
		sv->state = SUPERVISOR_STARTING;
	u->starting = false;
	upgrade_close_fd(&u->fd_former);
	for (struct child *c = NULL; (c = child_next(sv, c));) {
		c->former = false;
		if (!child_alive(c) && !c->retiring)
			child_start(c);
	}
	pool_resize(sv);
	upgrade_failed(u, reason ? reason : "the new binary gave up");
}

void upgrade_adopted(struct supervisor *sv, json_t *doc, struct reply *waiting)
{
	struct upgrade *u = sv->upgrade;
	const char *program = json_string_value(json_object_get(doc, "program"));
	FAULT_POINT(upgrade_adopting);
	u->replies = waiting;
	u->reload_after = json_is_true(json_object_get(doc, "reload_after"));
	u->starting = json_is_true(json_object_get(doc, "starting"));
	sv->state = SUPERVISOR_RUNNING;
	if (!u->starting)
		notify_adopted();
	u->began_us = json_integer_value(json_object_get(doc, "upgrade_began_us"));
	u->from_version = (unsigned)json_integer_value(json_object_get(doc, "version"));
	snprintf(u->from, sizeof(u->from), "%s", program ? program : "?");
	u->fd_former = sv->fd_image;
	sv->fd_image = supervisor_image();
	if (is_rollback(doc)) {
		rolled_back(u, doc);
		return;
	}
	log_info("orchestrad " PACKAGE_VERSION " has taken over from %s, pid %d", u->from, (int)getpid());
	for (struct child *c = NULL; (c = child_next(sv, c));)
		c->former = true;
	u->phase = PHASE_SYNC;
	replace(&sv->child[SLOT_SYNC]);
}
