/* One worker process as the supervisor sees it: start, states, messages, death. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "clock.h"
#include "fault.h"
#include "imsg.h"
#include "log.h"
#include "upgrade.h"
#include "worker.h"

#define MESSAGES_PER_TURN 32
#define ADOPTED_LEAVES_US 10000000 /* for a worker that was leaving already when it was adopted */

static char message_buf[IMSG_MAX + 8];

const char *child_state_name(enum child_state s)
{
	/* clang-format off */
	static const char *const names[] = {
		[CHILD_STOPPED] = "stopped",   [CHILD_STARTING] = "starting",
		[CHILD_READY] = "ready",       [CHILD_DRAINING] = "draining",
		[CHILD_CRASHED] = "crashed",   [CHILD_BACKING_OFF] = "backing-off",
	};
	/* clang-format on */
	return names[s];
}

bool child_is_api(const struct child *c) { return worker_role_of_slot(c->slot) == ROLE_API; }

void child_set_state(struct child *c, enum child_state s)
{
	if (c->state != s)
		log_debug("%s: %s → %s", c->name, child_state_name(c->state), child_state_name(s));
	if (c->state == CHILD_READY && s != CHILD_READY)
		c->unready_us = clock_mono_us();
	c->state = s;
}

bool child_send(struct child *c, int type, const void *data, size_t len, int fd)
{
	return c->sock != -1 && imsg_send(c->sock, (enum ctl_type)type, data, len, fd);
}

void child_kill(struct child *c, const char *why)
{
	if (!child_alive(c))
		return;
	log_warn_event(worker_stuck, LOG_FIELDS(LOG_S("worker", c->name), LOG_I("worker_pid", c->pid)),
		       "%s (pid %d): %s; killing it", c->name, (int)c->pid, why);
	c->killed_by_us = true;
	kill(c->pid, SIGKILL);
}

/* A worker whose loop stands still is asked for a backtrace by SIGABRT; one that cannot even give that is killed. */
void child_tick(struct child *c)
{
	const struct supervisor *sv = c->sv;
	int64_t limit = (conf_int(sv->conf, CONF_STUCK_TIMEOUT) + 999999) / 1000000 / PULSE_TICK_S;
	const struct vitals_slot *v = &sv->vitals->slot[c->slot];
	if (c->state != CHILD_READY || atomic_load_explicit(&v->incarnation, memory_order_acquire) != c->incarnation)
		return;
	uint64_t beats = atomic_load_explicit(&v->beats, memory_order_relaxed);
	switch (pulse_tick(&c->pulse, beats, (unsigned)limit)) {
	case PULSE_FINE: break;
	case PULSE_ABORT:
		log_error_event(worker_stuck, LOG_FIELDS(LOG_S("worker", c->name), LOG_I("worker_pid", c->pid)),
				"%s (pid %d) is stuck: no heartbeat for %lld s (daemon.stuck_timeout); aborting it",
				c->name, (int)c->pid, (long long)limit * PULSE_TICK_S);
		c->killed_by_us = true;
		kill(c->pid, SIGABRT);
		break;
	case PULSE_KILL: child_kill(c, "is stuck and does not abort"); break;
	}
}

/* ---- birth, child side ---- */

/* What a worker may see of our environment. Secrets in ORCHESTRA_* and NOTIFY_SOCKET stay here. */
static char **worker_env(unsigned role, uint64_t incarnation)
{
	/* clang-format off */
	static const char *const passed[] = {
		ENV_SIMD, "TZ", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "LD_PRELOAD", "SSL_CERT_FILE",
		"SSL_CERT_DIR", "GOOGLE_CLOUD_PROJECT", "http_proxy", "https_proxy", "no_proxy", "HTTPS_PROXY", "NO_PROXY",
		"ASAN_OPTIONS", "UBSAN_OPTIONS", "TSAN_OPTIONS", "LSAN_OPTIONS", "LLVM_PROFILE_FILE",
		"GCOV_PREFIX", "GCOV_PREFIX_STRIP",
#ifdef ORC_FAULT_POINTS
		ENV_FAULTS,
#endif
	};
	/* of the pinger alone: workers/pinger/token.c */
	static const char *const to_pinger[] = {"CREDENTIALS_DIRECTORY", "GCE_METADATA_HOST"};
	/* clang-format on */
	static char *env[ARRAY_LEN(passed) + ARRAY_LEN(to_pinger) + 2];
	size_t more = role == ROLE_PINGER ? ARRAY_LEN(to_pinger) : 0;
	static char number[64];
	size_t n = 0;
	snprintf(number, sizeof(number), ENV_INCARNATION "=%llu", (unsigned long long)incarnation);
	env[n++] = number;
	for (size_t i = 0; i < ARRAY_LEN(passed) + more; i++) {
		const char *name = i < ARRAY_LEN(passed) ? passed[i] : to_pinger[i - ARRAY_LEN(passed)];
		const char *value = getenv(name);
		size_t len = value ? strlen(name) + strlen(value) + 2 : 0;
		if (!value)
			continue;
		env[n] = util_alloc(len);
		snprintf(env[n++], len, "%s=%s", name, value);
	}
	env[n] = NULL;
	return env;
}

/* A worker can ring itself, whoever writes data everybody, and who reads data the one that writes. */
static bool may_ring(unsigned may, unsigned from, unsigned to)
{
	return from == to || may & MAY_WRITE_DATA || (may & MAY_READ_DATA && to == SLOT_SYNC);
}

static void hand_down(const struct supervisor *sv, const struct child *c, int control)
{
	const struct worker_row *row = &worker_rows[worker_role_of_slot(c->slot)];
	bool listens = row->wants & WANT_LISTEN, reads = row->may & MAY_READ_DATA;
	int from[FD_AFTER_LAST];
	for (int to = 0; to < FD_AFTER_LAST; to++)
		from[to] = -1;
	from[FD_CONTROL] = control;
	from[FD_CONF] = sv->fd_conf;
	from[FD_SHM_PLANT] = sv->fd_plant;
	from[FD_SHM_RINGS] = reads ? sv->fd_rings : -1;
	from[FD_SHM_PENDING] = reads ? sv->fd_pending : -1;
	from[FD_SHM_CACHE] = reads ? sv->fd_cache : -1;
	from[FD_SHM_VECTORS] = reads ? sv->fd_vectors : -1;
	from[FD_VECTORS_FILE] = reads ? sv->fd_vectors_file : -1;
	from[FD_SHM_WORDS] = reads ? sv->fd_words : -1;
	from[FD_LISTEN_TCP] = listens ? sv->fd_tcp : -1;
	from[FD_LISTEN_TLS] = listens ? sv->fd_tls : -1;
	from[FD_TLS_FILES] = listens ? sv->fd_tls_files : -1;
	from[FD_LISTEN_UNIX] = listens ? sv->fd_unix : -1;
	from[FD_DATA_LOCK] = sv->fd_lock;
	from[FD_VITALS] = sv->fd_vitals;
	from[FD_LOG] = sv->fd_log;
	from[FD_SHM_REQUESTS] = child_is_api(c) ? sv->fd_requests : -1;
	from[FD_SHM_SPANS] = c->slot == SLOT_WARMER ? -1 : sv->fd_spans;
	for (int slot = 0; slot < SLOT_COUNT; slot++)
		from[FD_WAKE0 + slot] = may_ring(row->may, c->slot, (unsigned)slot) ? sv->fd_wake[slot] : -1;
	for (int to = FD_CONTROL; to < FD_AFTER_LAST; to++) {
		AN(from[to] == -1 || from[to] >= FD_AFTER_LAST);
		if (dup2(from[to] == -1 ? 0 : from[to], to) == -1)
			_exit(WORKER_EXIT_FAIL);
	}
	close_range(FD_AFTER_LAST, ~0u, 0);
}

void child_reset_signals(void)
{
	sigset_t none;
	for (int sig = 1; sig < NSIG; sig++)
		signal(sig, SIG_DFL);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

static void become_worker(const struct child *c, int control) __attribute__((noreturn));
static void become_worker(const struct child *c, int control)
{
	char title[40], role[40], slot[24];
	const char *role_name = worker_rows[worker_role_of_slot(c->slot)].name;
	snprintf(title, sizeof(title), "orchestra: %s", c->name); /* what ps shows */
	snprintf(role, sizeof(role), "--role=%s", role_name);
	snprintf(slot, sizeof(slot), "--slot=%u", c->slot);
	char *argv[] = {title, role, slot, NULL};
	char **env = worker_env(worker_role_of_slot(c->slot), c->incarnation);
	int null = open("/dev/null", O_RDONLY);
	if (null > 0)
		dup2(null, 0);
	hand_down(c->sv, c, control);
	child_reset_signals();
	/* The running image, not the path: a package upgrade must not mix two layouts. */
	execve("/proc/self/exe", argv, env);
	dprintf(2, "cannot exec /proc/self/exe: %s\n", strerror(errno));
	_exit(WORKER_EXIT_FATAL);
}

/* ---- birth, our side ---- */

static void arm(struct child *c, int64_t us)
{
	struct timeval tv = {us / 1000000, us % 1000000};
	evtimer_add(c->timer, &tv);
}

static void backing_off(struct child *c, int64_t delay_us)
{
	child_set_state(c, CHILD_BACKING_OFF);
	arm(c, delay_us);
}

static void limit_start(struct child *c) { arm(c, conf_int(c->sv->conf, CONF_READY_TIMEOUT)); }

static bool handle(struct child *c, const struct imsg *m)
{
	struct supervisor *sv = c->sv;
	switch (m->type) {
	case CTL_READY:
		if (m->len != 0 || c->ready_us)
			return false;
		c->ready_us = clock_mono_us();
		if (c->state != CHILD_STARTING)
			return true; /* told to leave meanwhile */
		evtimer_del(c->timer);
		child_set_state(c, CHILD_READY);
		supervisor_child_ready(sv, c);
		return true;
	case CTL_PROGRESS:
		c->unready_us = clock_mono_us();
		if (c->state == CHILD_STARTING)
			limit_start(c);
		return m->len == 0;
	case CTL_CONF_OK: reload_answer(sv, c, true, SPAN_LIT("")); return m->len == 0;
	case CTL_CONF_BAD: reload_answer(sv, c, false, (struct span){m->data, m->len}); return true;
	case CTL_COMMAND:
		if (m->len < sizeof(uint32_t))
			return false;
		control_command(sv, c, (struct span){m->data, m->len});
		return true;
	case CTL_TOLD: return control_told(sv, c, (struct span){m->data, m->len});
	default: return false;
	}
}

static void on_message(evutil_socket_t sock, short what, void *arg)
{
	struct child *c = arg;
	(void)what;
	for (int i = 0; i < MESSAGES_PER_TURN && c->sock == (int)sock; i++) {
		struct imsg m;
		int got = imsg_recv((int)sock, message_buf, &m);
		if (got == -1 && (errno == EAGAIN || errno == EINTR))
			return;
		if (got == 1) {
			bool ok = handle(c, &m);
			if (m.fd != -1)
				close(m.fd); /* workers have none to give */
			if (ok)
				continue;
		}
		if (got != 0)
			child_kill(c, "sent a malformed control message");
		event_del(c->on_message); /* its death follows by SIGCHLD */
		return;
	}
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
	struct child *c = arg;
	(void)fd, (void)what;
	if (c->state == CHILD_BACKING_OFF)
		child_start(c);
	else if (c->state == CHILD_STARTING)
		child_kill(c, "not ready within daemon.ready_timeout");
	else if (c->state == CHILD_DRAINING)
		child_kill(c, "has not left before daemon.drain_timeout");
}

static void listen_to(struct child *c, int sock)
{
	c->sock = sock;
	c->on_message = event_new(c->sv->base, c->sock, EV_READ | EV_PERSIST, on_message, c);
	AN(c->on_message && event_add(c->on_message, NULL) == 0);
}

static bool open_control(struct child *c, int *theirs_r)
{
	int pair[2];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, pair) == -1)
		return false;
	*theirs_r = supervisor_high(pair[1]);
	listen_to(c, supervisor_high(pair[0]));
	return true;
}

static void close_control(struct child *c)
{
	if (c->on_message)
		event_free(c->on_message);
	c->on_message = NULL;
	if (c->sock != -1)
		close(c->sock);
	c->sock = -1;
}

/* Between fork and exec no handler of ours may run in the child: libevent's would write to the
 * signal pipe that it shares with us. Hence the mask. */
pid_t child_fork(void)
{
	sigset_t all, before;
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &before);
	pid_t pid = fork();
	int error = errno;
	if (pid != 0)
		sigprocmask(SIG_SETMASK, &before, NULL);
	errno = error;
	return pid;
}

void child_start(struct child *c)
{
	int theirs = -1;
	c->incarnation = ++c->sv->incarnation;
	c->conf_generation = c->sv->conf_generation;
	c->ready_us = 0;
	c->prepare = PREPARE_NONE;
	c->prepares = c->answers = c->vote_id = c->catch_up_id = 0;
	c->killed_by_us = c->former = c->replacing = false;
	c->pulse = (struct pulse){0};
	c->spawned_us = clock_mono_us();
	pid_t pid = open_control(c, &theirs) ? child_fork() : -1;
	if (pid == 0)
		become_worker(c, theirs);
	if (pid == -1) {
		log_error("cannot start %s: %s", c->name, strerror(errno));
		close_control(c);
		if (theirs != -1)
			close(theirs);
		backing_off(c, RESTART_MAX_US / 10);
		return;
	}
	close(theirs);
	c->pid = pid;
	child_set_state(c, CHILD_STARTING);
	limit_start(c);
	FAULT_POINT(child_forked);
	supervisor_child_started(c->sv, c);
	log_debug("%s: started, pid %d, incarnation %llu", c->name, (int)pid, (unsigned long long)c->incarnation);
}

void child_leave(struct child *c, const struct ctl_drain *how, int64_t limit_us)
{
	child_set_state(c, CHILD_DRAINING);
	arm(c, limit_us);
	if (!child_send(c, CTL_DRAIN, how, sizeof(*how), -1))
		child_kill(c, "does not listen to its order to leave");
}

void child_adopt(struct child *c, int sock)
{
	listen_to(c, sock);
	if (c->state == CHILD_STARTING)
		limit_start(c);
	else if (c->state == CHILD_DRAINING)
		arm(c, ADOPTED_LEAVES_US);
}

/* ---- death ---- */

static struct restart_plan decide(struct child *c, int status)
{
	struct restart_death d = {
		.status = status,
		.ready = c->ready_us != 0,
		.asked = c->state == CHILD_DRAINING,
		.served_us = c->ready_us ? clock_mono_us() - c->ready_us : 0,
	};
	/* A SIGKILL of ours means that the worker was at fault. */
	if (c->killed_by_us)
		d.ready = false;
	uint32_t random = 0;
	(void)!getrandom(&random, sizeof(random), GRND_NONBLOCK);
	return restart_decide(&c->history, &d, random);
}

static void log_exit(const struct child *c, pid_t pid, const struct restart_plan *plan)
{
	char then[64] = "";
	if (plan->verdict == RESTART_NOW)
		snprintf(then, sizeof(then), "; starting it again");
	else if (plan->verdict == RESTART_LATER)
		snprintf(then, sizeof(then), "; starting it again in %.1f s", (double)plan->delay_us / 1e6);
	if (plan->verdict == RESTART_STOPPED)
		log_info("%s (pid %d) has left: %s", c->name, (int)pid, c->last_exit);
	else
		log_warn_event(worker_died,
			       LOG_FIELDS(LOG_S("worker", c->name), LOG_I("worker_pid", pid),
					  LOG_S("how", c->last_exit), LOG_I("restarts", c->restarts)),
			       "%s (pid %d) died %s: %s%s", c->name, (int)pid,
			       c->ready_us ? "while serving" : "before it was ready", c->last_exit, then);
}

void child_exited(struct child *c, int status)
{
	struct supervisor *sv = c->sv;
	if (c->sock != -1)
		on_message(c->sock, 0, c); /* its last words, READY perhaps among them */
	struct restart_plan plan = decide(c, status);
	pid_t pid = c->pid;
	if (plan.verdict != RESTART_STOPPED && drain_reached(sv, c))
		plan.verdict = RESTART_STOPPED;
	restart_describe(status, c->last_exit, sizeof(c->last_exit));
	c->last_exit_us = clock_real_us();
	log_exit(c, pid, &plan);
	c->last_words[0] = '\0';
	if (vitals_words(&sv->vitals->slot[c->slot], c->incarnation, c->last_words, sizeof(c->last_words)))
		log_error_event(worker_last_words, LOG_FIELDS(LOG_S("worker", c->name), LOG_I("worker_pid", pid)),
				"last words of %s (pid %d): %s", c->name, (int)pid, c->last_words);
	evtimer_del(c->timer);
	close_control(c);
	c->pid = 0;
	child_set_state(c, plan.verdict == RESTART_GIVE_UP ? CHILD_CRASHED : CHILD_STOPPED);
	reload_child_gone(sv, c);
	control_unasked(sv, c->slot);
	if (upgrade_child_gone(c, plan.verdict == RESTART_STOPPED))
		return;
	switch (plan.verdict) {
	case RESTART_NOW:
		c->restarts++;
		child_start(c);
		break;
	case RESTART_LATER:
		c->restarts++;
		backing_off(c, plan.delay_us);
		break;
	case RESTART_GIVE_UP: supervisor_give_up(sv, c); break;
	case RESTART_STOPPED:
		if (c->retiring) {
			pool_gone(c);
			pool_refill(sv);
		}
		break;
	}
	drain_step(sv);
}

void child_init(struct child *c, struct supervisor *sv, unsigned slot)
{
	*c = (struct child){.sv = sv,
			    .slot = slot,
			    .used = true,
			    .sock = -1,
			    .unready_us = clock_mono_us(),
			    .state = CHILD_STOPPED};
	worker_slot_name(slot, c->name);
	c->timer = evtimer_new(sv->base, on_timer, c);
	AN(c->timer);
}

void child_free(struct child *c)
{
	close_control(c);
	if (c->timer)
		event_free(c->timer);
	c->timer = NULL;
	c->used = false;
}
