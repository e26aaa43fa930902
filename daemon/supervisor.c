/* The supervisor's life: make everything, start the workers, run the loop, leave. */
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clock.h"
#include "handover.h"
#include "lastwords.h"
#include "log.h"
#include "upgrade.h"
#include "version.h"
#include "worker.h"
#include "auditor.h"
#include "tried.h"

int supervisor_high(int fd)
{
	if (fd == -1 || fd >= FD_AFTER_LAST)
		return fd;
	int high = fcntl(fd, F_DUPFD_CLOEXEC, FD_AFTER_LAST);
	if (high == -1) {
		log_error("cannot move descriptor %d: %s", fd, strerror(errno));
		exit(1);
	}
	close(fd);
	return high;
}

/* ---- what children report ---- */

static void broadcast(struct supervisor *sv, const struct child *except, int type, const void *data, size_t len)
{
	for (struct child *c = NULL; (c = child_next(sv, c));)
		if (c != except && child_alive(c) && !child_send(c, type, data, len, -1) && c->state != CHILD_DRAINING)
			log_warn("%s does not listen", c->name);
}

void supervisor_child_started(struct supervisor *sv, struct child *c)
{
	uint32_t slot = c->slot;
	broadcast(sv, c, CTL_PEER_STARTED, &slot, sizeof(slot));
	/* Who was there before is of interest to sync: it looks at their rings. */
	for (struct child *o = NULL; c->slot == SLOT_SYNC && (o = child_next(sv, o));) {
		slot = o->slot;
		if (o != c && child_alive(o) && !child_send(c, CTL_PEER_STARTED, &slot, sizeof(slot), -1))
			child_kill(c, "does not listen");
	}
}

void supervisor_look_started(struct supervisor *sv)
{
	unsigned n = 0;
	if (sv->state != SUPERVISOR_STARTING)
		return;
	for (struct child *c = NULL; (c = child_next(sv, c)); n += c->state == CHILD_READY)
		if (!c->ready_us && c->state != CHILD_CRASHED)
			return;
	sv->state = SUPERVISOR_RUNNING;
	log_info_event(daemon_ready, LOG_FIELDS(LOG_I("workers", n)), "ready after %.1f ms with %u workers",
		       (double)(clock_mono_us() - sv->started_us) / 1e3, n);
	notify_ready(sv);
}

void supervisor_child_ready(struct supervisor *sv, struct child *c)
{
	log_debug("%s is ready after %.1f ms", c->name, (double)(c->ready_us - c->spawned_us) / 1e3);
	reload_child_ready(sv, c);
	upgrade_child_ready(c);
	if (sv->state == SUPERVISOR_STARTING)
		supervisor_look_started(sv);
	else
		log_info_event(worker_back, LOG_FIELDS(LOG_S("worker", c->name), LOG_I("worker_pid", c->pid)),
			       "%s is back after %.1f ms (pid %d)", c->name,
			       (double)(c->ready_us - c->spawned_us) / 1e3, (int)c->pid);
}

static bool another_serves(struct supervisor *sv, const struct child *c)
{
	for (struct child *o = NULL; (o = child_next(sv, o));)
		if (o != c && o->state == CHILD_READY && worker_role_of_slot(o->slot) == worker_role_of_slot(c->slot))
			return true;
	return false;
}

void supervisor_give_up(struct supervisor *sv, struct child *c)
{
	if (sv->state == SUPERVISOR_STARTING && !another_serves(sv, c)) {
		sv->exit_code = WORKER_EXIT_FATAL;
		drain_start(sv, "a worker cannot start, and trying again is useless");
		return;
	}
	log_error_event(worker_given_up, LOG_FIELDS(LOG_S("worker", c->name)), "%s is not started again until a reload",
			c->name);
	supervisor_look_started(sv);
}

void supervisor_reopen_logs(struct supervisor *sv)
{
	char *error = NULL;
	log_info("reopening logs");
	int fd = supervisor_high(conf_log_target(sv->conf, true, &error));
	if (error)
		log_error("%s; lines go on to the former file", error);
	free(error);
	if (fd != -1 && dup3(fd, sv->fd_log, O_CLOEXEC) == -1)
		log_error("log.target: %s", strerror(errno));
	for (struct child *c = NULL; (c = child_next(sv, c));)
		if (child_alive(c) && !child_send(c, CTL_REOPEN_LOGS, NULL, 0, fd) && c->state != CHILD_DRAINING)
			log_warn("%s does not listen", c->name);
	if (fd != -1) {
		close(fd);
		log_info("logs reopened");
	}
}

/* ---- signals: libevent runs these in the loop, not in signal context ---- */

/* As PID 1 we are also given orphans that we never started. */
static void reap(struct supervisor *sv)
{
	int status;
	pid_t pid;
	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		struct child *c = NULL;
		while ((c = child_next(sv, c)) && c->pid != pid)
			;
		if (c)
			child_exited(c, status);
		else if (!upgrade_reaped(sv, pid, status))
			log_debug("reaped pid %d, which is none of ours", (int)pid);
	}
}

static void note_signal(struct supervisor *sv, const char *who)
{
	if (sv->state != SUPERVISOR_DRAINING)
		auditor_note(sv, who, "drain", NULL, NULL, true, NULL);
}

static void on_signal(evutil_socket_t sig, short what, void *arg)
{
	struct supervisor *sv = arg;
	(void)what;
	switch (sig) {
	case SIGCHLD: reap(sv); break;
	case SIGTERM:
	case SIGINT:
		if (sv->state == SUPERVISOR_DRAINING) {
			drain_now(sv, "a second signal: at once");
		} else {
			note_signal(sv, sig == SIGTERM ? "signal:SIGTERM" : "signal:SIGINT");
			drain_start(sv, sig == SIGTERM ? "SIGTERM" : "SIGINT");
		}
		break;
	case SIGQUIT:
		note_signal(sv, "signal:SIGQUIT");
		drain_now(sv, "SIGQUIT: at once");
		break;
	case SIGHUP:
		log_info("SIGHUP: reloading");
		reload_start(sv, NULL);
		break;
	case SIGUSR1: supervisor_reopen_logs(sv); break;
	case SIGUSR2: upgrade_start(sv, NULL); break;
	default: break;
	}
}

static const int sigs[] = {SIGCHLD, SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2};

/* Held back from the first instruction until catch_signals(): HUP and USR1 would end the process. What is meant
 * to end it may, but for PID 1: there the kernel drops signals that are neither handled nor blocked. */
static void hold_signals(void)
{
	sigset_t set;
	sigemptyset(&set);
	for (size_t i = 0; i < ARRAY_LEN(sigs); i++)
		if (getpid() == 1 || (sigs[i] != SIGTERM && sigs[i] != SIGINT && sigs[i] != SIGQUIT))
			sigaddset(&set, sigs[i]);
	sigprocmask(SIG_BLOCK, &set, NULL);
}

/* Before the first fork. */
static void catch_signals(struct supervisor *sv)
{
	_Static_assert(ARRAY_LEN(sigs) <= ARRAY_LEN(((struct supervisor *)0)->signals), "room");
	signal(SIGPIPE, SIG_IGN);
	signal(SIGXFSZ, SIG_IGN); /* a limit of files' sizes is an error of the write to the audit log */
	for (size_t i = 0; i < ARRAY_LEN(sigs); i++) {
		struct event *e = evsignal_new(sv->base, sigs[i], on_signal, sv);
		AN(e && event_add(e, NULL) == 0);
		sv->signals[sv->nsignals++] = e;
	}
	sigset_t none; /* another image of this process, or whoever started it, may have blocked them */
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
}

/* ---- making everything ---- */

static void set_limits(void)
{
	struct rlimit files, core = {0};
	if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < files.rlim_max) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	/* Contents and secrets must not end in core files. The limit does not hold for those that are piped to a
	 * program (core_pattern), hence the filter: of all memory, headers of ELF files only. Both are inherited; the
	 * hard limit and the file in /proc stay open to whoever has to debug. */
	int filter = open("/proc/self/coredump_filter", O_WRONLY | O_CLOEXEC);
	if (filter != -1) {
		(void)!write(filter, "0x10", 4);
		close(filter);
	}
	if (getrlimit(RLIMIT_CORE, &core) == 0) {
		core.rlim_cur = 0;
		setrlimit(RLIMIT_CORE, &core);
	}
}

static bool make_dir(const char *path, unsigned mode, const struct privileges *p, const char *key)
{
	bool made;
	int error = datadir_make(path, mode, &made);
	if (!error && made)
		error = privileges_give(p, path);
	if (error)
		log_error("%s: cannot create %s: %s; choose another %s", key, path, strerror(error), key);
	return !error;
}

static bool make_directories(struct supervisor *sv, const struct privileges *p)
{
	char *copy = util_strndup(sv->unix_path, strlen(sv->unix_path));
	bool ok = make_dir(sv->data_dir, 0700, p, "data.dir") && make_dir(dirname(copy), 0755, p, "listen.unix");
	free(copy);
	return ok;
}

/* Lock first: once it is ours the former daemon's workers are gone, and with them whoever listened
 * on its sockets. Ports before the change of user. */
static bool open_outside(struct supervisor *sv)
{
	struct privileges p;
	char *error = NULL;
	if (!privileges_find(sv->conf, &p, &error) || !listen_check(sv->conf, &error)) {
		log_error("%s", error ? error : "unknown error");
		free(error);
		sv->exit_code = WORKER_EXIT_FATAL;
		return false;
	}
	if (!make_directories(sv, &p))
		return false;
	sv->fd_lock = supervisor_high(datadir_lock(sv->data_dir));
	if (sv->fd_lock == -1 || !listen_open(sv))
		return false;
	if (p.drop && *conf_str(sv->conf, CONF_LOG_TARGET) == '/' && fchown(sv->fd_log, p.uid, p.gid) == -1)
		log_warn("log.target: cannot give the file to user %s, who is to open it again: %s", p.name,
			 strerror(errno));
	if (p.drop &&
	    (fchown(sv->fd_lock, p.uid, p.gid) == -1 || (sv->unlink_unix && privileges_give(&p, sv->unix_path) != 0))) {
		log_error("cannot give files to user %s: %s", p.name, strerror(errno));
		return false;
	}
	if (!privileges_drop(&p))
		return false;
	if (p.drop)
		log_info("became user %s, uid %d", p.name, (int)p.uid);
	return control_open(sv);
}

static bool open_inside(struct supervisor *sv)
{
	sv->fd_conf = supervisor_high(conf_dump_effective(sv->conf));
	if (sv->fd_conf == -1) {
		log_error("cannot write the effective configuration: %s", strerror(errno));
		return false;
	}
	char *error = NULL;
	if (!tls_gather(sv, sv->conf, &sv->fd_tls_files, &error)) {
		log_error("%s", error ? error : "tls: unusable");
		free(error);
		return false;
	}
	return segments_create(sv);
}

static void on_tick(evutil_socket_t fd, short what, void *arg)
{
	struct supervisor *sv = arg;
	(void)fd, (void)what;
	for (struct child *c = NULL; (c = child_next(sv, c));)
		child_tick(c);
}

static void start_ticking(struct supervisor *sv)
{
	static const struct timeval every = {PULSE_TICK_S, 0};
	sv->tick = event_new(sv->base, -1, EV_PERSIST, on_tick, sv);
	AN(sv->tick && event_add(sv->tick, &every) == 0);
}

static void start_log(const struct supervisor *sv)
{
	log_info_event(daemon_starting, LOG_FIELDS(LOG_S("version", PACKAGE_VERSION)),
		       "orchestrad " PACKAGE_VERSION " starting, pid %d", (int)getpid());
	char *where = listen_describe(sv);
	log_info("listening on %s, control socket %s", where, sv->ctl_path);
	free(where);
	log_info("data in %s, store %s", sv->data_dir, conf_str(sv->conf, CONF_STORE_KIND));
}

int supervisor_image(void) { return supervisor_high(open("/proc/self/exe", O_PATH | O_CLOEXEC)); }

/* Where the binary is looked for when it is to be upgraded: where it was started from, links not
 * followed, so that one that points to the current version leads to the next one. */
static char *program_of(const char *argv0)
{
	char exe[PATH_MAX], dir[PATH_MAX], *path = NULL;
	bool relative = strchr(argv0, '/');
	if (*argv0 == '/')
		return util_strndup(argv0, strlen(argv0));
	while (strncmp(argv0, "./", 2) == 0)
		argv0 += 2;
	if (relative && getcwd(dir, sizeof(dir)) && asprintf(&path, "%s/%s", dir, argv0) > 0)
		return path;
	ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe));
	return util_strndup(exe, n > 0 ? (size_t)n : 0);
}

bool supervisor_open_log(struct supervisor *sv)
{
	char *error = NULL;
	if (sv->fd_log == -1) /* else another image of this process has opened it */
		sv->fd_log = supervisor_high(conf_log_target(sv->conf, false, &error));
	if (error)
		log_error("%s", error);
	if (sv->fd_log != -1)
		conf_log_open(sv->conf, "orchestrad", sv->fd_log);
	bool ok = !error;
	free(error);
	return ok;
}

static struct supervisor *supervisor_new(const struct conf_input *input, char **argv)
{
	struct supervisor *sv = util_zalloc(sizeof(*sv));
	lastwords_install(NULL, 0, NULL);
	sv->input = *input;
	sv->argv = argv;
	sv->program = program_of(argv[0]);
	sv->fd_ctl = -1;
	sv->fd_image = supervisor_image();
	sv->fd_conf = sv->fd_plant = sv->fd_rings = sv->fd_pending = sv->fd_cache = sv->fd_vectors = sv->fd_vitals = -1;
	sv->fd_vectors_file = sv->fd_words = sv->fd_requests = sv->fd_spans = sv->fd_log = -1;
	sv->fd_tcp = sv->fd_tls = sv->fd_unix = sv->fd_lock = sv->fd_tls_files = -1;
	for (unsigned i = 0; i < SLOT_COUNT; i++)
		sv->fd_wake[i] = -1;
	sv->base = event_base_new();
	AN(sv->base);
	reload_open(sv);
	upgrade_open(sv);
	tried_begin(sv);
	auditor_begin(sv);
	return sv;
}

static void configure(struct supervisor *sv, struct conf *conf)
{
	const char *data = conf_str(conf, CONF_DATA_DIR), *path = conf_str(conf, CONF_LISTEN_UNIX);
	sv->started_us = clock_mono_us();
	sv->started_real_us = clock_real_us();
	sv->conf = conf;
	sv->conf_generation = 1;
	sv->data_dir = util_strndup(data, strlen(data));
	sv->unix_path = util_strndup(path, strlen(path));
	if (asprintf(&sv->ctl_path, "%s.ctl", path) == -1)
		abort();
}

static void close_all(struct supervisor *sv)
{
	int fds[] = {sv->fd_conf,    sv->fd_plant,	 sv->fd_rings,	   sv->fd_pending, sv->fd_cache,
		     sv->fd_vectors, sv->fd_vitals,	 sv->fd_tcp,	   sv->fd_unix,	   sv->fd_lock,
		     sv->fd_image,   sv->fd_tls,	 sv->fd_tls_files, sv->fd_words,   sv->fd_requests,
		     sv->fd_spans,   sv->fd_vectors_file};
	for (size_t i = 0; i < ARRAY_LEN(fds); i++)
		if (fds[i] != -1)
			close(fds[i]);
	for (unsigned i = 0; i < SLOT_COUNT; i++)
		if (sv->fd_wake[i] != -1)
			close(sv->fd_wake[i]);
}

static void supervisor_free(struct supervisor *sv)
{
	auditor_end(sv);
	upgrade_free(sv);
	reload_free(sv);
	control_free(sv);
	drain_free(sv);
	watchdog_free(sv);
	for (struct child *c = NULL; (c = child_next(sv, c));)
		child_free(c);
	if (sv->tick)
		event_free(sv->tick);
	vitals_close(&sv->vitals);
	for (size_t i = 0; i < sv->nsignals; i++)
		event_free(sv->signals[i]);
	if (sv->unlink_unix)
		listen_unlink(sv->unix_path, sv->unix_inode);
	close_all(sv);
	tried_end(sv);
	event_base_free(sv->base);
	conf_free(&sv->conf);
	free(sv->data_dir);
	free(sv->unix_path);
	free(sv->ctl_path);
	free(sv->program);
	free(sv);
}

static int serve(struct supervisor *sv)
{
	event_base_dispatch(sv->base);
	log_info_event(daemon_stopped, LOG_FIELDS(LOG_I("exit_code", sv->exit_code)), "stopped");
	return sv->exit_code;
}

int supervisor_run(const struct conf_input *input, char **argv)
{
	char *error = NULL;
	hold_signals();
	struct conf *conf = conf_load(input, &error);
	if (!conf) {
		log_error("%s", error ? error : "the configuration cannot be read");
		free(error);
		return WORKER_EXIT_FATAL;
	}
	set_limits();
	struct supervisor *sv = supervisor_new(input, argv);
	configure(sv, conf);
	if (!supervisor_open_log(sv)) {
		supervisor_free(sv);
		return WORKER_EXIT_FATAL;
	}
	catch_signals(sv);
	reap(sv); /* what whoever was this process before exec has left */
	int code;
	if (open_outside(sv) && open_inside(sv)) {
		reload_note_tokens(sv);
		start_log(sv);
		pool_start(sv);
		start_ticking(sv);
		watchdog_open(sv);
		code = serve(sv);
	} else {
		code = sv->exit_code ? sv->exit_code : 1;
	}
	supervisor_free(sv);
	return code;
}

/* Every step here has been tried before by --check-handover; what fails nevertheless ends the daemon, and
 * its service manager starts it again: the journal has all that was acknowledged. */
int supervisor_take_over(const struct conf_input *input, char **argv, int document)
{
	char *error = NULL;
	struct supervisor *sv = supervisor_new(input, argv);
	json_t *doc = handover_read(document, &error);
	close(document);
	if (!doc || !handover_adopt(sv, doc, &error) || !upgrade_configure(sv, doc) ||
	    !handover_adopt_children(sv, doc, &error)) {
		log_error("upgrade: %s", error ? error : "there is no configuration to go on with");
		exit(WORKER_EXIT_FAIL);
	}
	upgrade_adopted(sv, doc, control_adopt(sv, json_object_get(doc, "clients"), json_object_get(doc, "replies")));
	json_decref(doc);
	reload_note_tokens(sv);
	catch_signals(sv);
	reap(sv); /* whoever died between the two images */
	start_ticking(sv);
	watchdog_open(sv);
	int code = serve(sv);
	supervisor_free(sv);
	return code;
}
