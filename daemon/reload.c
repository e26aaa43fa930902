/* Reload: the whole new configuration, in all workers, or nothing.
 *
 *   1. Load and validate everything. An error: logged, answered, nothing changes.
 *   2. PREPARE to every READY worker, with the new effective configuration. Any BAD answer, or none
 *      within RELOAD_TIMEOUT_S: ABORT to all, nothing changes.
 *   3. COMMIT to all. Workers born from now on are given the new one.
 *
 * Keys that cannot change in a running daemon keep their running values (conf_carry) and are
 * reported as "needs restart". A worker that was being born meanwhile runs with the old
 * configuration; it gets PREPARE and COMMIT in one go when it says READY, and if it refuses,
 * it is killed and born again with the new one. A reload asked for during a reload runs after it. */
#define LOG_SUBSYSTEM LOG_IN_CONF
#include <errno.h>
#include <jansson.h>
#include <stdlib.h>
#include <unistd.h>

#include "fault.h"
#include "imsg.h"
#include "log.h"
#include "upgrade.h"
#include "worker.h"

#define LEAVING "{\"ok\":false,\"result\":\"failed\",\"error\":\"the daemon is leaving\"}"

struct reload {
	struct supervisor *sv;
	struct conf *next; /* under way when set */
	int fd_next, fd_next_tls;
	unsigned unanswered;
	json_t *keys; /* [{key, result, from, to}] */
	unsigned applied, refused;
	struct reply *now, *later; /* who waits for this run, and for the next */
	bool again;
	struct event *timer, *rerun;
};

bool reload_active(const struct supervisor *sv) { return sv->reload->next || sv->reload->again; }

/* ---- the end of a run ---- */

static void clear(struct reload *r)
{
	conf_free(&r->next);
	if (r->fd_next != -1)
		close(r->fd_next);
	if (r->fd_next_tls != -1)
		close(r->fd_next_tls);
	r->fd_next = r->fd_next_tls = -1;
	r->unanswered = 0;
	evtimer_del(r->timer);
	json_decref(r->keys);
	r->keys = NULL;
	for (struct child *c = NULL; (c = child_next(r->sv, c));)
		c->prepare = PREPARE_NONE;
	if (r->again)
		event_active(r->rerun, EV_TIMEOUT, 0);
}

static void fail(struct reload *r, const char *why)
{
	json_t *o = json_pack("{s:b s:s s:s}", "ok", 0, "result", "failed", "error", why);
	char *json = o ? json_dumps(o, JSON_COMPACT) : NULL;
	log_error_event(reload_failed, NULL, "reload failed, the old configuration stays: %s", why);
	if (r->sv->state == SUPERVISOR_RUNNING)
		notify_status("Reload failed: %s", why);
	control_reply_all(&r->now, false, json ? json : "{\"ok\":false,\"result\":\"failed\"}");
	free(json);
	json_decref(o);
	clear(r);
}

static void succeed(struct reload *r)
{
	const char *result = r->applied ? "applied" : "unchanged";
	json_t *o = json_pack("{s:b s:s s:i s:i s:i s:O}", "ok", 1, "result", result, "applied", (int)r->applied,
			      "needs_restart", (int)r->refused, "unchanged",
			      (int)(CONF_KEY_COUNT - r->applied - r->refused), "keys", r->keys);
	char *json = o ? json_dumps(o, JSON_COMPACT) : NULL;
	AN(json);
	log_info_event(reload_done, NULL, "reload: %u keys applied, %u need a restart", r->applied, r->refused);
	if (r->sv->state == SUPERVISOR_RUNNING)
		notify_ready(r->sv);
	control_reply_all(&r->now, true, json);
	free(json);
	json_decref(o);
	clear(r);
}

/* ---- phases ---- */

static void abort_all(struct reload *r)
{
	for (struct child *c = NULL; (c = child_next(r->sv, c));)
		if (c->prepare != PREPARE_NONE && child_alive(c) && !child_send(c, CTL_CONF_ABORT, NULL, 0, -1))
			child_kill(c, "does not listen");
}

/* What a worker is to prepare; files of TLS go only to those that listen. */
static bool send_prepare(struct child *c, int fd_conf, int fd_tls_files)
{
	bool listens = worker_rows[worker_role_of_slot(c->slot)].wants & WANT_LISTEN;
	if (listens && fd_tls_files != -1 && !child_send(c, CTL_TLS_FILES, NULL, 0, fd_tls_files))
		return false;
	return child_send(c, CTL_CONF_PREPARE, NULL, 0, fd_conf);
}

/* PREPARE and COMMIT in one go, to a worker that missed the vote. */
static void catch_up(struct supervisor *sv, struct child *c)
{
	if (c->conf_generation == sv->conf_generation)
		return;
	c->conf_generation = sv->conf_generation;
	c->catch_up_id = ++c->prepares;
	if (!send_prepare(c, sv->fd_conf, sv->fd_tls_files) || !child_send(c, CTL_CONF_COMMIT, NULL, 0, -1))
		child_kill(c, "does not listen");
}

static void restart_crashed(struct supervisor *sv)
{
	for (struct child *c = NULL; (c = child_next(sv, c));) {
		if (c->state != CHILD_CRASHED)
			continue;
		c->history.faults = 0;
		c->restarts++;
		child_start(c); /* the new configuration may be what it needs */
	}
}

static void commit(struct reload *r)
{
	struct supervisor *sv = r->sv;
	conf_free(&sv->conf);
	sv->conf = r->next;
	r->next = NULL;
	close(sv->fd_conf);
	sv->fd_conf = r->fd_next;
	if (sv->fd_tls_files != -1)
		close(sv->fd_tls_files);
	sv->fd_tls_files = r->fd_next_tls;
	r->fd_next = r->fd_next_tls = -1;
	sv->conf_generation++;
	FAULT_POINT(reload_voted);
	conf_log_level(sv->conf);
	for (struct child *c = NULL; (c = child_next(sv, c));) {
		if (c->prepare == PREPARE_OK) {
			c->conf_generation = sv->conf_generation;
			if (child_alive(c) && !child_send(c, CTL_CONF_COMMIT, NULL, 0, -1))
				child_kill(c, "does not listen");
			FAULT_POINT(reload_half);
		} else if (c->state == CHILD_READY) {
			catch_up(sv, c);
		}
	}
	restart_crashed(sv);
	pool_resize(sv);
	succeed(r);
}

static void on_timeout(evutil_socket_t fd, short what, void *arg)
{
	struct reload *r = arg;
	struct buf b = {0};
	(void)fd, (void)what;
	buf_adds(&b, "no answer from");
	for (struct child *c = NULL; (c = child_next(r->sv, c));)
		if (c->prepare == PREPARE_ASKED)
			buf_printf(&b, " %s", c->name);
	buf_printf(&b, " within %d s", RELOAD_TIMEOUT_S);
	buf_addc(&b, '\0');
	abort_all(r);
	fail(r, b.p);
	buf_free(&b);
}

void reload_answer(struct supervisor *sv, struct child *c, bool ok, struct span why)
{
	struct reload *r = sv->reload;
	/* Answers come in the order of the questions: count both to know which one this is. */
	uint32_t id = ++c->answers;
	if (id == c->catch_up_id && !ok)
		child_kill(c, "refuses the configuration that all others have");
	if (!r->next || c->prepare != PREPARE_ASKED || id != c->vote_id)
		return; /* a late answer to a reload that was given up */
	if (!ok) {
		struct buf b = {0};
		buf_printf(&b, "%s: %.*s", c->name, (int)why.len, why.p);
		buf_addc(&b, '\0');
		abort_all(r);
		fail(r, b.p);
		buf_free(&b);
		return;
	}
	c->prepare = PREPARE_OK;
	if (--r->unanswered == 0)
		commit(r);
}

/* Its successor is born with whatever is in force then. */
void reload_child_gone(struct supervisor *sv, struct child *c)
{
	struct reload *r = sv->reload;
	enum child_prepare was = c->prepare;
	c->prepare = PREPARE_NONE;
	if (r->next && was == PREPARE_ASKED && --r->unanswered == 0)
		commit(r);
}

void reload_child_ready(struct supervisor *sv, struct child *c) { catch_up(sv, c); }

/* ---- the beginning ---- */

static void note_change(void *arg, enum conf_key k, bool reloadable)
{
	struct reload *r = arg;
	bool secret = conf_is_secret(r->sv->conf, k) || conf_is_secret(r->next, k);
	char *from = secret ? NULL : conf_text(r->sv->conf, k);
	char *to = secret ? NULL : conf_text(r->next, k);
	json_array_append_new(r->keys, json_pack("{s:s s:s s:s* s:s*}", "key", conf_key_name(k), "result",
						 reloadable ? "applied" : "needs restart", "from", from, "to", to));
	log_info("reload: %s: %.100s → %.100s%s", conf_key_name(k), from ? from : "(secret)", to ? to : "(secret)",
		 reloadable ? "" : " needs a restart");
	reloadable ? r->applied++ : r->refused++;
	free(from);
	free(to);
}

static void ask_all(struct reload *r)
{
	static const struct timeval limit = {RELOAD_TIMEOUT_S, 0};
	struct supervisor *sv = r->sv;
	for (struct child *c = NULL; (c = child_next(sv, c));) {
		if (c->state != CHILD_READY)
			continue;
		if (!send_prepare(c, r->fd_next, r->fd_next_tls)) {
			child_kill(c, "does not listen");
			continue;
		}
		c->vote_id = ++c->prepares;
		c->prepare = PREPARE_ASKED;
		r->unanswered++;
	}
	evtimer_add(r->timer, &limit);
	if (r->unanswered == 0)
		commit(r);
}

static void run(struct reload *r)
{
	struct supervisor *sv = r->sv;
	char *error = NULL;
	r->applied = r->refused = 0;
	r->keys = json_array();
	if (sv->state == SUPERVISOR_RUNNING)
		notify_reloading();
	r->next = conf_load(&sv->input, &error);
	if (r->next)
		conf_log_secrets(r->next); /* before anything is said about it */
	if (!r->next || !listen_check(r->next, &error)) {
		fail(r, error ? error : "unknown error");
		free(error);
		return;
	}
	conf_diff(sv->conf, r->next, note_change, r);
	conf_carry(r->next, sv->conf);
	/* Even when no key changed: files that keys point to (tokens, certificates) may have. */
	if (!tls_gather(sv, r->next, &r->fd_next_tls, &error)) {
		fail(r, error ? error : "tls: unusable");
		free(error);
		return;
	}
	r->fd_next = supervisor_high(conf_dump_effective(r->next));
	if (r->fd_next == -1)
		fail(r, strerror(errno));
	else
		ask_all(r);
}

static void on_rerun(evutil_socket_t fd, short what, void *arg)
{
	struct reload *r = arg;
	(void)fd, (void)what;
	r->again = false;
	r->now = r->later;
	r->later = NULL;
	run(r);
}

void reload_start(struct supervisor *sv, struct reply *reply)
{
	struct reload *r = sv->reload;
	if (sv->state == SUPERVISOR_DRAINING) {
		control_reply(&reply, false, LEAVING);
		return;
	}
	if (upgrade_active(sv)) {
		if (!reply)
			upgrade_reload_after(sv);
		control_reply(
			&reply, false,
			"{\"ok\":false,\"result\":\"failed\",\"error\":\"an upgrade is under way; try again when it is "
			"over\"}");
		return;
	}
	if (r->next || r->again) {
		control_wait(&r->later, reply);
		r->again = true;
		return;
	}
	control_wait(&r->now, reply);
	run(r);
}

void reload_cancel(struct supervisor *sv)
{
	struct reload *r = sv->reload;
	r->again = false;
	event_del(r->rerun);
	if (r->next) {
		abort_all(r);
		fail(r, "the daemon is leaving");
	}
	control_reply_all(&r->later, false, LEAVING);
}

void reload_open(struct supervisor *sv)
{
	struct reload *r = util_zalloc(sizeof(*r));
	r->sv = sv;
	r->fd_next = r->fd_next_tls = -1;
	r->timer = evtimer_new(sv->base, on_timeout, r);
	r->rerun = evtimer_new(sv->base, on_rerun, r);
	AN(r->timer && r->rerun);
	sv->reload = r;
}

void reload_free(struct supervisor *sv)
{
	struct reload *r = sv->reload;
	if (!r)
		return;
	r->again = false;
	clear(r);
	event_free(r->timer);
	event_free(r->rerun);
	control_reply_all(&r->now, false, LEAVING);
	control_reply_all(&r->later, false, LEAVING);
	free(r);
	sv->reload = NULL;
}
