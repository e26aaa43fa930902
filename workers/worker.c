/* The life of any worker process: birth by contract.h, heartbeat, control messages, leaving. */
#define LOG_SUBSYSTEM LOG_IN_WORKER
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <unistd.h>

#include "clock.h"
#include "fault.h"
#include "imsg.h"
#include "lastwords.h"
#include "log.h"
#include "sandbox.h"
#include "self.h"
#include "worker.h"

#define FORMAT_POLL_US 500 /* first look at the segments; doubles … */
#define FORMAT_POLL_MAX_US 20000
#define MESSAGES_PER_TURN 16
#define BEAT_NS (VITALS_BEAT_MS * 1000000ll)
#define PROMPT_SLICE_NS 100000 /* the least that Linux takes */

struct command {
	uint32_t token;
	worker_answer_fn *fn;
	void *arg;
	struct command *next;
};

struct worker_private {
	struct event *control, *wake, *heartbeat, *start, *bells, *again;
	uint64_t to_wake;	  /* see worker_wake_now() */
	struct conf *born;	  /* kept to the end: roles may hold its paths, which never change */
	struct conf *next;	  /* between PREPARE and COMMIT or ABORT */
	struct command *commands; /* sent, not answered */
	uint32_t last_token;
	unsigned format_poll_us;
	int64_t progress_us; /* last CTL_PROGRESS */
	int64_t beat_ns;     /* last heartbeat */
	bool inited, ready_later;
	int exit_code;
};

static char control_buf[IMSG_MAX + 8]; /* only the pages that a message fills are ever touched */

static void send_control(struct worker *w, enum ctl_type type, const void *data, size_t len)
{
	/* EPIPE is followed by EOF on the same socket, which ends us in order. */
	if (!imsg_send(FD_CONTROL, type, data, len, -1) && errno != EPIPE) {
		log_error("cannot tell the supervisor (message %d): %s", (int)type, strerror(errno));
		worker_exit(w, WORKER_EXIT_FAIL);
	}
}

/* ---- what roles call ---- */

void worker_exit(struct worker *w, int code)
{
	w->priv->exit_code = code;
	event_base_loopexit(w->base, NULL);
}

void worker_ready_later(struct worker *w) { w->priv->ready_later = true; }

void worker_ready(struct worker *w)
{
	if (w->ready)
		return;
	w->ready = true;
	atomic_store_explicit(&w->self->ready, 1, memory_order_release);
	FAULT_POINT(worker_unready);
	send_control(w, CTL_READY, NULL, 0);
	FAULT_POINT(worker_ready);
	log_debug("ready");
}

void worker_progress(struct worker *w)
{
	int64_t now = clock_mono_us();
	if (now - w->priv->progress_us < 1000000)
		return;
	w->priv->progress_us = now;
	vitals_beat(w->vitals, 0, 1);
	send_control(w, CTL_PROGRESS, NULL, 0);
}

void worker_prompt(void)
{
	/* struct sched_attr of linux/sched/types.h, whose header clashes with libc's <sched.h> */
	struct {
		uint32_t size, policy;
		uint64_t flags;
		int32_t nice;
		uint32_t priority;
		uint64_t runtime, deadline, period;
	} a = {.size = sizeof(a),
	       .policy = SCHED_OTHER,
	       .nice = getpriority(PRIO_PROCESS, 0),
	       .runtime = PROMPT_SLICE_NS};
	if (sched_getscheduler(0) == SCHED_OTHER)
		(void)syscall(SYS_sched_setattr, 0, &a, 0); /* older kernels ignore the slice */
}

void worker_wake_peer(struct worker *w, unsigned slot)
{
	AN(slot < SLOT_COUNT);
	if (!w->priv->to_wake)
		event_active(w->priv->bells, EV_TIMEOUT, 0); /* behind what this turn of the loop has to do yet */
	w->priv->to_wake |= 1ull << slot;
}

void worker_wake_now(struct worker *w, uint64_t *slots_io)
{
	uint64_t slots = *slots_io;
	*slots_io = 0;
	for (unsigned slot = 0; slots; slot++, slots >>= 1)
		if (slots & 1)
			wake_signal(&w->plant->wake[slot], FD_WAKE0 + (int)slot);
}

static void on_bells(evutil_socket_t fd, short what, void *arg)
{
	struct worker *w = arg;
	(void)fd, (void)what;
	worker_wake_now(w, &w->priv->to_wake);
}

/* By a timeout, not by event_active(): libevent runs what a callback activates before it looks at any
 * other descriptor or timer. */
void worker_wake_self(struct worker *w)
{
	static const struct timeval now = {0, 0};
	event_add(w->priv->again, &now);
}

int worker_command(struct worker *w, const char *text, worker_answer_fn *fn, void *arg)
{
	uint32_t token = ++w->priv->last_token;
	struct buf b = {0};
	buf_add(&b, &token, sizeof(token));
	buf_adds(&b, text);
	bool sent = b.len <= IMSG_MAX ? imsg_send(FD_CONTROL, CTL_COMMAND, b.p, b.len, -1) : (errno = EMSGSIZE, false);
	int error = errno;
	buf_free(&b);
	if (!sent) {
		errno = error;
		return -1;
	}
	struct command *c = util_zalloc(sizeof(*c));
	*c = (struct command){.token = token, .fn = fn, .arg = arg, .next = w->priv->commands};
	w->priv->commands = c;
	return 0;
}

/* ---- control messages ---- */

static void start_draining(struct worker *w, const struct ctl_drain *how)
{
	if (w->draining)
		return;
	w->draining = true;
	w->leave = *how;
	FAULT_POINT(worker_draining);
	if (w->priv->inited && w->role->drain)
		w->role->drain(w);
	else
		worker_exit(w, WORKER_EXIT_OK);
}

static void orphan_deadline(int sig)
{
	(void)sig;
	_exit(WORKER_EXIT_OK);
}

/* Whether it did what it was told is not known. */
static void fail_commands(struct worker *w)
{
	static const char gone[] = "{\"ok\":false,\"error\":\"the supervisor is gone\",\"audit\":\"unknown\"}";
	for (struct command *c; (c = w->priv->commands);) {
		w->priv->commands = c->next;
		c->fn(c->arg, 1, SPAN_LIT(gone));
		free(c);
	}
}

/* The supervisor died. Its successor waits for the lock that we hold too, so leave quickly. The
 * deadline is a signal, because a role may block the loop while it finishes; being cut off
 * anywhere is safe by the crash rules. */
static void become_orphan(struct worker *w)
{
	if (w->orphan)
		return;
	w->orphan = true;
	log_warn("the supervisor is gone; leaving");
	event_del(w->priv->control);
	fail_commands(w);
	struct sigaction sa = {.sa_handler = orphan_deadline};
	struct itimerval it = {.it_value = {WORKER_ORPHAN_MS / 1000, WORKER_ORPHAN_MS % 1000 * 1000}};
	sigaction(SIGALRM, &sa, NULL);
	setitimer(ITIMER_REAL, &it, NULL);
	start_draining(w, &(struct ctl_drain){.whole = 1});
}

static void conf_abort(struct worker *w)
{
	if (!w->priv->next)
		return;
	if (w->role->conf_abort && w->priv->inited)
		w->role->conf_abort(w);
	conf_free(&w->priv->next);
}

static void conf_prepare(struct worker *w, int fd)
{
	char *error = NULL;
	bool ok = false;
	conf_abort(w);
	struct conf *next = fd == -1 ? NULL : conf_load_effective(fd);
	if (next)
		conf_log_secrets(next);
	if (next)
		ok = !w->role->conf_prepare || !w->priv->inited || w->role->conf_prepare(w, next, &error) == 0;
	FAULT_POINT(conf_prepared);
	if (ok) {
		w->priv->next = next;
		send_control(w, CTL_CONF_OK, NULL, 0);
		return;
	}
	const char *why = error ? error : next ? "refused" : "the new configuration cannot be read";
	size_t len = strlen(why);
	send_control(w, CTL_CONF_BAD, why, len < IMSG_MAX ? len : IMSG_MAX);
	free(error);
	conf_free(&next);
}

static void conf_commit(struct worker *w)
{
	struct conf *old = w->conf;
	if (!w->priv->next) {
		log_error("told to use a configuration that was not prepared");
		return;
	}
	FAULT_POINT(conf_committing);
	w->conf = w->priv->next;
	w->priv->next = NULL;
	conf_log_level(w->conf);
	if (w->role->conf_commit && w->priv->inited)
		w->role->conf_commit(w);
	FAULT_POINT(conf_committed);
	if (old != w->priv->born)
		conf_free(&old);
}

static bool take_tls_files(struct worker *w, const struct imsg *m)
{
	if (m->len != 0 || m->fd == -1)
		return false;
	if (w->fd_tls_files != -1)
		close(w->fd_tls_files);
	w->fd_tls_files = fcntl(m->fd, F_DUPFD_CLOEXEC, FD_AFTER_LAST); /* m->fd is closed behind us */
	return true;
}

/* The number stays: threads that are writing go on with one file or the other. Who waits for a rotated file to be let
 * go of sees that it is. */
static bool reopen_log(const struct imsg *m)
{
	return m->len == 0 && (m->fd == -1 || dup3(m->fd, FD_LOG, O_CLOEXEC) == FD_LOG);
}

static bool take_answer(struct worker *w, const struct imsg *m)
{
	uint32_t token;
	int32_t status;
	if (m->len < sizeof(token) + sizeof(status))
		return false;
	memcpy(&token, m->data, sizeof(token));
	memcpy(&status, m->data + sizeof(token), sizeof(status));
	struct span json = {m->data + 8, m->len - 8};
	for (struct command **p = &w->priv->commands; *p; p = &(*p)->next) {
		struct command *c = *p;
		if (c->token != token)
			continue;
		*p = c->next;
		c->fn(c->arg, status, json);
		free(c);
		return true;
	}
	return false;
}

static bool take_ask(struct worker *w, const struct imsg *m)
{
	struct buf answer = {0};
	int32_t status = 1;
	if (m->len < sizeof(uint32_t))
		return false;
	buf_add(&answer, m->data, sizeof(uint32_t));
	buf_add(&answer, &status, sizeof(status));
	if (!w->role->asked || !w->priv->inited)
		buf_adds(&answer, "{\"ok\":false}");
	else if (w->role->asked(w, (struct span){m->data + sizeof(uint32_t), m->len - sizeof(uint32_t)}, &answer))
		memset(answer.p + sizeof(uint32_t), 0, sizeof(status));
	send_control(w, CTL_TOLD, answer.p, answer.len);
	buf_free(&answer);
	return true;
}

/* False: the supervisor speaks another language. */
static bool handle(struct worker *w, const struct imsg *m)
{
	uint32_t slot;
	struct ctl_drain how;
	switch (m->type) {
	case CTL_DRAIN:
		if (m->len != sizeof(how))
			return false;
		memcpy(&how, m->data, sizeof(how));
		start_draining(w, &how);
		return true;
	case CTL_TLS_FILES: return take_tls_files(w, m);
	case CTL_ASK: return take_ask(w, m);
	case CTL_CONF_PREPARE: conf_prepare(w, m->fd); return m->len == 0 && m->fd != -1;
	case CTL_CONF_COMMIT: conf_commit(w); return m->len == 0;
	case CTL_CONF_ABORT: conf_abort(w); return m->len == 0;
	case CTL_ANSWER: return take_answer(w, m);
	case CTL_PEER_STARTED:
		if (m->len != sizeof(slot))
			return false;
		memcpy(&slot, m->data, sizeof(slot));
		if (slot < SLOT_COUNT)
			w->peers |= 1ull << slot;
		if (w->role->peer_started && w->priv->inited && slot < SLOT_COUNT)
			w->role->peer_started(w, slot);
		return slot < SLOT_COUNT;
	case CTL_REOPEN_LOGS: return reopen_log(m);
	default: return false;
	}
}

static void on_control(evutil_socket_t sock, short what, void *arg)
{
	struct worker *w = arg;
	(void)what;
	for (int i = 0; i < MESSAGES_PER_TURN; i++) {
		struct imsg m;
		int got = imsg_recv((int)sock, control_buf, &m);
		if (got == -1 && (errno == EAGAIN || errno == EINTR))
			return;
		if (got == 0 || (got == -1 && errno != EPROTO)) {
			become_orphan(w);
			return;
		}
		bool ok = got == 1 && handle(w, &m);
		if (got == 1 && m.fd != -1)
			close(m.fd);
		if (!ok) {
			log_error("malformed message from the supervisor (type %u, %u bytes)", got == 1 ? m.type : 0,
				  got == 1 ? m.len : 0);
			worker_exit(w, WORKER_EXIT_FAIL);
			return;
		}
	}
}

/* ---- the other events ---- */

static void on_wake(evutil_socket_t efd, short what, void *arg)
{
	struct worker *w = arg;
	(void)what;
	wake_ack(&w->plant->wake[w->slot], (int)efd);
	if (w->priv->inited && w->role->on_wake)
		w->role->on_wake(w);
}

static void on_heartbeat(evutil_socket_t fd, short what, void *arg)
{
	struct worker *w = arg;
	uint64_t waiting = 0, working = 0;
	(void)fd, (void)what;
	if (w->priv->inited && w->role->load)
		w->role->load(w, &waiting, &working);
	vitals_beat(w->vitals, waiting, working);
	int64_t now = clock_mono_ns(), late = now - w->priv->beat_ns - BEAT_NS;
	if (w->priv->beat_ns)
		stats_record(w->stats, HIST_LOOP_DELAY, late > 0 ? (uint64_t)late : 0);
	w->priv->beat_ns = now;
	stats_turn(w->stats, now / 1000);
	self_look(w->self);
}

/* Runs role->init() once sync has formatted the segments. They appear within milliseconds of our
 * own start, so looking is cheaper than a message and works whoever starts first. */
static void on_start(evutil_socket_t fd, short what, void *arg)
{
	struct worker *w = arg;
	struct worker_private *p = w->priv;
	(void)fd, (void)what;
	bool wants = worker_rows[worker_role_of_slot(w->slot)].wants & WANT_SEGMENTS;
	if (w->draining)
		return;
	if (wants && !atomic_load_explicit(&w->plant->h.formatted, memory_order_acquire)) {
		struct timeval tv = {0, p->format_poll_us};
		p->format_poll_us = p->format_poll_us * 2 < FORMAT_POLL_MAX_US ? p->format_poll_us * 2
									       : FORMAT_POLL_MAX_US;
		event_add(p->start, &tv);
		return;
	}
	FAULT_POINT(worker_attached);
	int code = w->role->init(w);
	if (code != 0) {
		worker_exit(w, code);
		return;
	}
	p->inited = true;
	worker_wake_self(w); /* a predecessor may have left something in our ring */
	if (!p->ready_later)
		worker_ready(w);
}

/* ---- birth ---- */

static void ignore_signals(void)
{
	static const int sigs[] = {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGPIPE};
	for (unsigned i = 0; i < ARRAY_LEN(sigs); i++)
		signal(sigs[i], SIG_IGN);
}

/* A slot whose worker has left in order may stay empty. */
static void register_leaving(struct worker *w)
{
	atomic_store_explicit(&w->self->ready, 0, memory_order_relaxed);
	if (!w->draining || w->priv->exit_code != WORKER_EXIT_OK)
		return;
	stats_reset_gauges(w->stats);
	atomic_store_explicit(&w->self->pid, 0, memory_order_relaxed);
}

static void register_birth(struct worker *w)
{
	struct plant_worker *self = w->self;
	uint32_t predecessor = atomic_load_explicit(&self->pid, memory_order_relaxed);
	if (predecessor != 0) { /* it did not leave in order */
		stats_add(w->stats, STAT_WORKER_RESTARTS, 1);
		breaker_forget(w->plant->breakers, predecessor);
	}
	stats_reset_gauges(w->stats);
	atomic_store_explicit(&self->ready, 0, memory_order_relaxed);
	atomic_store_explicit(&self->pid, (uint32_t)getpid(), memory_order_relaxed);
	atomic_store_explicit(&self->started_us, clock_real_us(), memory_order_relaxed);
	atomic_store_explicit(&self->incarnation, w->incarnation, memory_order_release);
}

/* -1 for what was not handed down: its number holds /dev/null. */
static int handed(int fd)
{
	struct stat st;
	return fstat(fd, &st) == -1 || S_ISCHR(st.st_mode) ? -1 : fd;
}

static bool attach(struct worker *w)
{
	char title[16];
	const char *incarnation = getenv(ENV_INCARNATION);
	w->incarnation = incarnation ? strtoull(incarnation, NULL, 10) : 1;
	snprintf(title, sizeof(title), "orc:%.11s", w->name);
	prctl(PR_SET_NAME, title, 0, 0, 0);
	w->fd_tcp = handed(FD_LISTEN_TCP);
	w->fd_tls = handed(FD_LISTEN_TLS);
	w->fd_tls_files = handed(FD_TLS_FILES);
	w->fd_unix = handed(FD_LISTEN_UNIX);
	w->conf = conf_load_effective(FD_CONF);
	if (!w->conf) {
		log_error("no configuration from the supervisor: a worker is not started by hand");
		return false;
	}
	close(FD_CONF);
	conf_log_open(w->conf, w->name, FD_LOG);
	size_t size = 0;
	w->plant = shm_map(FD_SHM_PLANT, false, &size);
	if (!w->plant || size < sizeof(*w->plant)) {
		log_error("cannot map the plant segment: %s", strerror(errno));
		return false;
	}
	w->self = &w->plant->worker[w->slot];
	w->stats = &w->self->stats;
	log_count_in(w->stats);
	struct vitals *v = vitals_open(FD_VITALS, true);
	if (!v) {
		log_error("cannot map the vitals segment: %s", strerror(errno));
		return false;
	}
	w->vitals = &v->slot[w->slot];
	vitals_begin(w->vitals, w->incarnation);
	lastwords_install(w->vitals->words, VITALS_WORDS, &w->vitals->words_len);
	return true;
}

static void make_events(struct worker *w)
{
	struct worker_private *p = w->priv;
	static const struct timeval second = {1, 0}, now = {0, 0};
	w->base = event_base_new();
	AN(w->base);
	p->control = event_new(w->base, FD_CONTROL, EV_READ | EV_PERSIST, on_control, w);
	p->wake = event_new(w->base, FD_WAKE0 + (int)w->slot, EV_READ | EV_PERSIST, on_wake, w);
	p->heartbeat = event_new(w->base, -1, EV_PERSIST, on_heartbeat, w);
	p->start = event_new(w->base, -1, 0, on_start, w);
	p->bells = event_new(w->base, -1, 0, on_bells, w);
	p->again = event_new(w->base, FD_WAKE0 + (int)w->slot, 0, on_wake, w);
	AN(p->control && p->wake && p->heartbeat && p->start && p->bells && p->again);
	AN(event_add(p->control, NULL) == 0 && event_add(p->wake, NULL) == 0);
	AN(event_add(p->heartbeat, &second) == 0 && event_add(p->start, &now) == 0);
	p->format_poll_us = FORMAT_POLL_US;
}

static void detach(struct worker *w)
{
	struct worker_private *p = w->priv;
	worker_wake_now(w, &p->to_wake);
	struct event *events[] = {p->control, p->wake, p->heartbeat, p->start, p->bells, p->again};
	for (unsigned i = 0; i < ARRAY_LEN(events); i++)
		event_free(events[i]);
	while (p->commands) {
		struct command *c = p->commands;
		p->commands = c->next;
		free(c);
	}
	conf_free(&p->next);
	event_base_free(w->base);
	if (w->conf != p->born)
		conf_free(&w->conf);
	conf_free(&p->born);
}

/* Pages of a list, bulk bodies and batches come from mmap and go back when they are freed. Left alone, malloc
 * raises that threshold to 32 MiB after the first of them, and keeps what a busy minute needed for ever. */
static void return_memory(void)
{
	(void)mallopt(M_MMAP_THRESHOLD, 1 << 20);
	(void)mallopt(M_TRIM_THRESHOLD, 4 << 20);
}

int worker_main(const char *role, unsigned slot)
{
	struct worker_private priv = {0};
	struct worker w = {.slot = slot, .priv = &priv};
	int id = worker_role_find(role);
	log_open(role, LOG_LV_INFO, LOG_TEXT);
	if (slot >= SLOT_COUNT || id == -1 || worker_role_of_slot(slot) != (enum worker_role_id)id) {
		log_error("no such worker: role %s in slot %u", role, slot);
		return WORKER_EXIT_FATAL;
	}
	w.role = worker_rows[id].role;
	w.instance = slot >= SLOT_API0 ? slot - SLOT_API0 : 0;
	worker_slot_name(slot, w.name);
	FAULT_BIRTH(w.name);
	FAULT_POINT(worker_born);
	ignore_signals();
	return_memory();
	umask(0077); /* memories are private, and so is every file that holds them */
	if (!attach(&w)) {
		conf_free(&w.conf);
		return WORKER_EXIT_FATAL;
	}
	priv.born = w.conf;
	self_open(w.self);
	sandbox_enter(&worker_rows[id], w.conf);
	register_birth(&w);
	stats_turn(w.stats, clock_mono_us());
	self_look(w.self);
	make_events(&w);
	event_base_dispatch(w.base);
	if (priv.inited && w.role->stop)
		w.role->stop(&w);
	register_leaving(&w);
	self_look(w.self);
	detach(&w);
	return priv.exit_code;
}
