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
 * it is killed and born again with the new one. A reload asked for during a reload runs after it.
 *
 * Values that are tried (tried.h) come and go by the same steps; only what is loaded in the first differs. */
#define LOG_SUBSYSTEM LOG_IN_CONF
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdlib.h>
#include <unistd.h>

#include "audit.h"
#include "auditor.h"
#include "fault.h"
#include "imsg.h"
#include "log.h"
#include "tried.h"
#include "upgrade.h"
#include "worker.h"

#define CHANGES_MAX 16 /* that wait for their turn */
#define TOKENS_MAX (4u << 20)

#define LEAVING "{\"ok\":false,\"result\":\"failed\",\"error\":\"the daemon is leaving\"}"

/* What is asked for besides a reload. */
struct change {
	struct change *next;
	struct reply *reply;
	json_t *request; /* NULL: a revert */
	char who[96];
};

struct reload {
	struct supervisor *sv;
	struct change *change;	/* that is under way, or NULL: a plain reload */
	struct change *changes; /* that wait */
	unsigned nchanges;
	struct tried *tried;	     /* what will be tried when all agree; NULL before */
	json_t *settled;	     /* keys that are not tried any more, since the file says the same */
	char tokens[AUDIT_HASH + 1]; /* of the token file, "" without one */
	struct conf *next;	     /* under way when set */
	int fd_next, fd_next_tls;
	unsigned unanswered;
	json_t *keys; /* [{key, result, from, to}] */
	unsigned applied, refused;
	struct reply *now, *later; /* who waits for this run, and for the next */
	bool again;
	struct event *timer, *rerun;
};

bool reload_active(const struct supervisor *sv) { return sv->reload->next || sv->reload->again || sv->reload->changes; }

static const char *action_of(const struct change *ch)
{
	if (!ch || !ch->request)
		return ch ? "revert" : "reload";
	const char *action = json_string_value(json_object_get(ch->request, "action"));
	return action ? action : "set";
}

static void change_free(struct change **chp)
{
	struct change *ch = *chp;
	if (!ch)
		return;
	json_decref(ch->request);
	free(ch);
	*chp = NULL;
}

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
	json_decref(r->settled);
	r->settled = NULL;
	tried_free(&r->tried);
	change_free(&r->change);
	for (struct child *c = NULL; (c = child_next(r->sv, c));)
		c->prepare = PREPARE_NONE;
	if (r->again || r->changes)
		event_active(r->rerun, EV_TIMEOUT, 0);
}

/* ---- the audit log ---- */

/* Who asked, and for what: members of the entry. */
static const char *asked_by(const struct reload *r, json_t *fields)
{
	static const char *const said[] = {"file", "reason", "for_ms"};
	json_t *also = json_array();
	const char *who = r->change ? r->change->who : "signal:SIGHUP";
	unsigned n = 0;
	for (const struct reply *w = r->now; w; w = control_next(w), n++) {
		if (n == 0)
			who = control_who(w);
		else if (json_array_size(also) < 8)
			json_array_append_new(also, json_string(control_who(w)));
	}
	if (json_array_size(also))
		json_object_set(fields, "asked_also", also);
	json_decref(also);
	for (size_t i = 0; r->change && i < ARRAY_LEN(said); i++) {
		json_t *v = json_object_get(r->change->request, said[i]);
		if (v)
			json_object_set_new(fields, said[i],
					    json_is_string(v) ? auditor_text(json_string_value(v)) : json_incref(v));
	}
	return who;
}

/* The entry, and then the answer to all that wait. */
static void note_end(struct reload *r, bool ok, json_t *answer)
{
	json_t *fields = json_object(), *changes = json_object_get(answer, "keys"),
	       *error = json_object_get(answer, "error");
	json_object_set(fields, "result", json_object_get(answer, "result"));
	if (changes)
		json_object_set(fields, "changes", changes);
	if (ok && json_array_size(r->settled))
		json_object_set(fields, "settled", r->settled);
	if (error)
		json_object_set_new(fields, "error", auditor_text(json_string_value(error)));
	const char *who = asked_by(r, fields);
	auditor_note(r->sv, who, action_of(r->change), fields, &r->now, ok, answer);
}

static void digest_tokens(const struct conf *c, char hash_r[AUDIT_HASH + 1])
{
	const char *path = conf_str(c, CONF_AUTH_TOKENS_FILE);
	struct buf b = {0};
	ssize_t n = 1;
	int fd = *path ? open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK) : -1;
	hash_r[0] = '\0';
	while (fd != -1 && n > 0 && b.len < TOKENS_MAX) {
		buf_reserve(&b, 4096);
		n = read(fd, b.p + b.len, 4096);
		b.len += n > 0 ? (size_t)n : 0;
	}
	if (fd != -1) {
		audit_sha256((struct span){b.p, b.len}, hash_r);
		close(fd);
	}
	buf_free(&b);
}

void reload_note_tokens(struct supervisor *sv) { digest_tokens(sv->conf, sv->reload->tokens); }

/* What is in it is known to hold hashes of tokens only; even so no more than its own hash is noted. */
static void note_tokens(struct reload *r, const char *who)
{
	char was[AUDIT_HASH + 1];
	memcpy(was, r->tokens, sizeof(was));
	reload_note_tokens(r->sv);
	if (strcmp(was, r->tokens) == 0)
		return;
	auditor_note(r->sv, who, "tokens",
		     json_pack("{s:s s:s s:s}", "file", conf_str(r->sv->conf, CONF_AUTH_TOKENS_FILE), "from_sha256",
			       was, "to_sha256", r->tokens),
		     NULL, true, NULL);
}

static void fail_as(struct reload *r, const char *type, const char *why)
{
	size_t len = strlen(why);
	char *said = util_strndup(why, len > 4096 ? 4096 : len);
	util_utf8_scrub(said, strlen(said)); /* a worker's words may hold a path */
	log_error_event(reload_failed, NULL, "%s failed, the old configuration stays: %s", action_of(r->change), said);
	if (r->sv->state == SUPERVISOR_RUNNING)
		notify_status("%s failed: %s", r->change ? "A change" : "Reload", said);
	json_t *o = json_pack("{s:b s:s s:s}", "ok", 0, "result", "failed", "error", said);
	AN(o);
	if (type)
		json_object_set_new(o, "type", json_string(type));
	bool stuck = r->change && !r->change->request;
	note_end(r, false, o);
	free(said);
	clear(r);
	if (stuck)
		tried_stuck(r->sv);
}

static void fail(struct reload *r, const char *why) { fail_as(r, r->change ? "refused" : NULL, why); }

static void succeed(struct reload *r)
{
	const char *result = r->applied ? "applied" : "unchanged";
	json_t *o = json_pack("{s:b s:s s:i s:i s:i s:O}", "ok", 1, "result", result, "applied", (int)r->applied,
			      "needs_restart", (int)r->refused, "unchanged",
			      (int)(CONF_KEY_COUNT - r->applied - r->refused), "keys", r->keys);
	AN(o);
	char who[96];
	log_info_event(reload_done, NULL, "%s: %u keys applied, %u need a restart", action_of(r->change), r->applied,
		       r->refused);
	if (r->sv->state == SUPERVISOR_RUNNING)
		notify_ready(r->sv);
	if (r->sv->tried->n || r->change)
		json_object_set_new(o, "tried", tried_json(r->sv));
	snprintf(who, sizeof(who), "%s", r->now ? control_who(r->now) : r->change ? r->change->who : "signal:SIGHUP");
	note_end(r, true, o);
	note_tokens(r, who);
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
	tried_commit(sv, &r->tried);
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
	const char *from = secret ? NULL : conf_str(r->sv->conf, k), *to = secret ? NULL : conf_str(r->next, k);
	json_array_append_new(r->keys, json_pack("{s:s s:s s:o* s:o*}", "key", conf_key_name(k), "result",
						 reloadable ? "applied" : "needs restart", "from", auditor_text(from),
						 "to", auditor_text(to)));
	log_info("%s: %s: %.100s → %.100s%s", action_of(r->change), conf_key_name(k), from ? from : "(secret)",
		 to ? to : "(secret)", reloadable ? "" : " needs a restart");
	reloadable ? r->applied++ : r->refused++;
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

/* What is to be in force, and what of it is tried. NULL: said why. */
static struct conf *next_of(struct reload *r, char **type_r, char **error_r)
{
	struct supervisor *sv = r->sv;
	bool file = !r->change || strcmp(action_of(r->change), "save") == 0;
	const char *type = NULL;
	struct conf *next;
	if (file) {
		next = conf_load(&sv->input, error_r);
		next = next ? tried_rebase(sv, next, &r->tried, error_r) : NULL;
		r->settled = next ? tried_settled(sv, r->tried) : NULL;
		type = "invalid";
	} else if (r->change->request) {
		next = tried_propose(sv, r->change->request, r->change->who, &r->tried, &type, error_r);
	} else {
		next = tried_expire(sv, &r->tried, error_r);
		if (!next) { /* those that stay make no sense without those that go */
			log_warn("a value that was tried cannot be put back alone (%s): all that is tried is put back",
				 *error_r ? *error_r : "unknown error");
			free(*error_r);
			*error_r = NULL;
			next = tried_drop(sv, &r->tried);
		}
	}
	*type_r = (char *)(uintptr_t)(r->change ? type : NULL);
	return next;
}

static void run(struct reload *r)
{
	struct supervisor *sv = r->sv;
	char *error = NULL, *type = NULL;
	r->applied = r->refused = 0;
	r->keys = json_array();
	if (sv->state == SUPERVISOR_RUNNING)
		notify_reloading();
	r->next = next_of(r, &type, &error);
	if (r->next)
		conf_log_secrets(r->next); /* before anything is said about it */
	if (!r->next || !listen_check(r->next, &error)) {
		fail_as(r, type, error ? error : "unknown error");
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

static void run_change(struct reload *r)
{
	struct change *ch = r->changes;
	r->changes = ch->next;
	r->nchanges--;
	r->change = ch;
	control_wait(&r->now, ch->reply);
	ch->reply = NULL;
	run(r);
}

static void on_rerun(evutil_socket_t fd, short what, void *arg)
{
	struct reload *r = arg;
	(void)fd, (void)what;
	if (r->next)
		return;
	if (!r->again && r->changes) {
		run_change(r);
		return;
	}
	if (!r->again)
		return;
	r->again = false;
	r->now = r->later;
	r->later = NULL;
	run(r);
}

static bool refuse_change(struct supervisor *sv, struct reply **reply)
{
	if (sv->state == SUPERVISOR_DRAINING)
		control_reply(reply, false, LEAVING);
	else if (upgrade_active(sv))
		control_reply(
			reply, false,
			"{\"ok\":false,\"result\":\"failed\",\"type\":\"busy\",\"error\":\"an upgrade is under way; try "
			"again when it is over\"}");
	else if (sv->reload->nchanges >= CHANGES_MAX)
		control_reply(
			reply, false,
			"{\"ok\":false,\"result\":\"failed\",\"type\":\"busy\",\"error\":\"16 changes wait for their turn "
			"already; try again\"}");
	else
		return false;
	return true;
}

void reload_change(struct supervisor *sv, json_t *request, struct reply *reply)
{
	struct reload *r = sv->reload;
	if (refuse_change(sv, &reply)) {
		json_decref(request);
		if (!request)
			tried_stuck(sv);
		return;
	}
	struct change *ch = util_zalloc(sizeof(*ch)), **last = &r->changes;
	ch->request = request;
	ch->reply = reply;
	snprintf(ch->who, sizeof(ch->who), "%s", reply ? control_who(reply) : "timer");
	while (*last)
		last = &(*last)->next;
	*last = ch;
	r->nchanges++;
	if (!r->next && !r->again)
		run_change(r);
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
	if (r->next || r->again || r->changes) {
		control_wait(&r->later, reply);
		r->again = true;
		return;
	}
	control_wait(&r->now, reply);
	run(r);
}

static void drop_changes(struct reload *r)
{
	while (r->changes) {
		struct change *ch = r->changes;
		r->changes = ch->next;
		control_reply(&ch->reply, false, LEAVING);
		change_free(&ch);
	}
	r->nchanges = 0;
}

void reload_cancel(struct supervisor *sv)
{
	struct reload *r = sv->reload;
	r->again = false;
	drop_changes(r);
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
	drop_changes(r);
	clear(r);
	event_free(r->timer);
	event_free(r->rerun);
	control_reply_all(&r->now, false, LEAVING);
	control_reply_all(&r->later, false, LEAVING);
	free(r);
	sv->reload = NULL;
}
