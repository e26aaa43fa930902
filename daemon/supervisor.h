/* orchestrad, the supervisor: makes sockets and segments, starts the workers, restarts, reloads and
 * drains them. It handles no request and parses nothing but its configuration and its commands.
 *
 * It creates shared memory and passes the fds on, but never maps any: whatever a dying worker leaves
 * in there cannot reach the process that must survive (PostgreSQL's rule).
 *
 * One thread, one libevent loop; nothing in it blocks. Descriptors that workers inherit are kept
 * at FD_AFTER_LAST and above (supervisor_high()), so that moving them to the fixed numbers of
 * contract.h in a child never overwrites one that is still to be moved. */
#ifndef ORC_SUPERVISOR_H
#define ORC_SUPERVISOR_H

#include <event2/event.h>
#include <jansson.h>
#include <stdio.h>
#include <sys/types.h>

#include "conf.h"
#include "contract.h"
#include "pulse.h"
#include "restart.h"
#include "util.h"
#include "vitals.h"

#define RELOAD_TIMEOUT_S 5
#define LOCK_WAIT_MS 2000
#define BIND_WAIT_MS 2000
#define RETIRE_IDLE_MS 2000 /* how long a single worker that leaves keeps idle connections open for a last request */

struct supervisor;
struct reload;
struct upgrade;
struct control;
struct reply;
struct tried;
struct auditor;

/* STARTING → READY → DRAINING → STOPPED is a good life. From any state with a process death leads
 * to STARTING (again, at once), BACKING_OFF (again, later) or CRASHED (not again until a reload).
 * child_set_state() is the only mover. */
enum child_state {
	CHILD_STOPPED,	   /* no process: not started yet, or left when told */
	CHILD_STARTING,	   /* process; timer = READY limit */
	CHILD_READY,	   /* process */
	CHILD_DRAINING,	   /* process, told to leave */
	CHILD_CRASHED,	   /* no process: exited with WORKER_EXIT_FATAL */
	CHILD_BACKING_OFF, /* no process; timer = next start */
};
enum child_prepare { PREPARE_NONE, PREPARE_ASKED, PREPARE_OK };

struct child {
	struct supervisor *sv;
	unsigned slot;
	bool used; /* the slot has a worker, living or to be started again: child_init() to child_free() */
	char name[24];
	enum child_state state;
	pid_t pid; /* 0 = no process */
	int sock;  /* our end of FD_CONTROL; -1 = none */
	struct event *on_message, *timer;
	uint64_t incarnation;
	int64_t spawned_us, ready_us; /* monotonic; ready_us 0 = never in this life */
	int64_t unready_us;	      /* monotonic: last sign of life while it is not READY */
	unsigned restarts;
	struct restart_history history;
	char last_exit[64], last_words[VITALS_WORDS];
	int64_t last_exit_us; /* real time */
	struct pulse pulse;
	uint64_t conf_generation; /* what it runs with */
	enum child_prepare prepare;
	uint32_t prepares, answers;    /* PREPAREs sent and answered, in order … */
	uint32_t vote_id, catch_up_id; /* … and which of them are of interest */
	bool killed_by_us;	       /* for a reason that was logged */
	bool retiring;		       /* told to leave for good: the slot is free when it has gone */
	bool former;		       /* runs the binary from before an upgrade (upgrade.c) */
	bool replacing;		       /* told to leave, and the new binary takes its slot */
};

enum supervisor_state { SUPERVISOR_STARTING, SUPERVISOR_RUNNING, SUPERVISOR_DRAINING };

struct supervisor {
	struct event_base *base;
	enum supervisor_state state;
	struct conf_input input; /* what the configuration is loaded from, again at each reload */
	struct conf *conf;
	uint64_t conf_generation;
	int fd_conf; /* effective configuration for the next worker that is born */
	int fd_plant, fd_rings, fd_pending, fd_cache, fd_vectors, fd_vectors_file, fd_words, fd_vitals;
	int fd_requests; /* -1 with log.requests = 0 */
	int fd_spans;
	int fd_log; /* where lines go: ours and the workers' */
	struct vitals *vitals;
	int fd_tcp, fd_tls, fd_unix, fd_lock, fd_ctl;
	int fd_tls_files; /* certificate and key for the next api worker that is born; -1 without fd_tls */
	int fd_image;	  /* the binary that runs, whatever becomes of its file */
	int fd_wake[SLOT_COUNT];
	bool unlink_unix; /* we made the path: it was not passed by systemd */
	uint64_t unix_inode, ctl_inode;
	char *data_dir, *unix_path, *ctl_path;
	char tcp_address[128], tls_address[128]; /* as bound, for people */
	struct child child[SLOT_COUNT];		 /* by slot; walk them with child_next() */
	uint64_t incarnation;
	int64_t started_us, started_real_us;
	struct event *signals[8], *tick;
	size_t nsignals;
	struct reload *reload;
	struct upgrade *upgrade;
	struct control *control;
	struct tried *tried; /* on top of what the file says: never NULL */
	struct event *tried_timer;
	struct auditor *auditor;
	char **argv;		/* as started */
	char *program;		/* path of the binary, which an upgrade looks at again */
	struct event *watchdog; /* NULL: systemd watches nobody */
	bool starving;		/* it is not fed */
	unsigned drain_phase;	/* index into the order of leaving, drain.c */
	struct event *drain_timer;
	int64_t drain_began_us;
	unsigned drain_deadline; /* the next phase whose deadline passes */
	int exit_code;
};

/* supervisor.c */
/* Runs until drained; returns the exit code of the daemon. */
int supervisor_run(const struct conf_input *input, char **argv);
/* Goes on with what another image of this process hands over in that document (handover.h). */
int supervisor_take_over(const struct conf_input *input, char **argv, int document);
/* A descriptor of the running binary. -1 on failure. */
int supervisor_image(void);
/* Moves fd above the numbers of contract.h, close-on-exec; -1 stays -1. Ends the program on failure. */
int supervisor_high(int fd);
void supervisor_child_started(struct supervisor *sv, struct child *c);
void supervisor_child_ready(struct supervisor *sv, struct child *c);
void supervisor_give_up(struct supervisor *sv, struct child *c);
/* The start is over when every worker serves, but for those that are given up, or not wanted any more. */
void supervisor_look_started(struct supervisor *sv);
void supervisor_reopen_logs(struct supervisor *sv);
/* fd_log, and this process's lines to it. False: logged why. */
bool must_check supervisor_open_log(struct supervisor *sv);

/* child.c */
void child_init(struct child *c, struct supervisor *sv, unsigned slot);
void child_free(struct child *c);
void child_start(struct child *c);
void child_exited(struct child *c, int status);
void child_kill(struct child *c, const char *why); /* SIGKILL */
/* Told to leave; killed when it has not within limit_us. */
void child_leave(struct child *c, const struct ctl_drain *how, int64_t limit_us);
/* A living process with the supervisor's end of its control socket, from another image of this process. */
void child_adopt(struct child *c, int sock);
pid_t child_fork(void);		  /* fork() for an exec: no handler of ours runs in the child */
void child_reset_signals(void);	  /* in that child */
void child_tick(struct child *c); /* once every PULSE_TICK_S: is it stuck? */
void child_set_state(struct child *c, enum child_state s);
const char *child_state_name(enum child_state s);
/* False: the worker does not listen or is gone. */
bool child_send(struct child *c, int type, const void *data, size_t len, int fd);
bool child_is_api(const struct child *c);
static inline bool child_alive(const struct child *c) { return c->pid != 0; }
/* for (struct child *c = NULL; (c = child_next(sv, c));) */
static inline struct child *child_next(struct supervisor *sv, struct child *c)
{
	for (c = c ? c + 1 : sv->child; c < sv->child + SLOT_COUNT; c++)
		if (c->used)
			return c;
	return NULL;
}

/* pool.c: how many workers there are, and in which slots. */
void pool_start(struct supervisor *sv);
/* As many api workers as api.workers says: more are started, surplus ones retire. */
void pool_resize(struct supervisor *sv);
/* An api worker in a free slot. NULL: there is none. */
struct child *pool_add_api(struct supervisor *sv);
/* This one leaves when its clients have their answers, and is not started again; its slot is free then. */
void pool_retire(struct child *c);
void pool_gone(struct child *c); /* a retiring child has left */
/* A slot is free: those that found none are started. (An upgrade counts for itself.) */
void pool_refill(struct supervisor *sv);

/* drain.c: api, then warmer and pinger, then sync, so that all that was acknowledged is flushed. */
void drain_start(struct supervisor *sv, const char *why);
void drain_now(struct supervisor *sv, const char *why);
void drain_step(struct supervisor *sv); /* a child has gone */
/* True when this child is to leave, or has been told so. */
bool drain_reached(const struct supervisor *sv, const struct child *c);
void drain_free(struct supervisor *sv);

/* reload.c: the whole new configuration or none of it. */
void reload_open(struct supervisor *sv);
void reload_start(struct supervisor *sv, struct reply *r); /* takes r over; NULL: a signal */
/* What `request` asks for is tried, or the file is read after it was saved; NULL: values whose time is over are put
 * back. One after the other. Takes both over; r NULL: nobody waits. */
void reload_change(struct supervisor *sv, json_t *request, struct reply *r);
/* The token file is as it is now: what a reload compares it with. */
void reload_note_tokens(struct supervisor *sv);
void reload_answer(struct supervisor *sv, struct child *c, bool ok, struct span why);
void reload_child_gone(struct supervisor *sv, struct child *c);
void reload_child_ready(struct supervisor *sv, struct child *c);
bool reload_active(const struct supervisor *sv);
void reload_cancel(struct supervisor *sv); /* the daemon leaves instead */
void reload_free(struct supervisor *sv);

/* control.c: commands from PATH.ctl and from api workers. */
bool must_check control_open(struct supervisor *sv);
void control_command(struct supervisor *sv, struct child *c, const struct span payload);
/* Who asks, for the audit log: "uid:1000,pid:812", "token:ci". */
const char *control_who(const struct reply *r);
const struct reply *control_next(const struct reply *r); /* who waits for the same */
/* A word to the first api worker that can take it. False: there is none. */
bool control_tell_api(struct supervisor *sv, const char *text);
/* A worker's answer to what it was asked. False: malformed. */
bool must_check control_told(struct supervisor *sv, struct child *c, const struct span payload);
/* Nobody in that slot answers any more: who asked is told so. */
void control_unasked(struct supervisor *sv, unsigned slot);
/* Answers with a descriptor, and frees. Only a client of PATH.ctl can be given one. */
void control_reply_fd(struct reply **r, const char *json, int fd);
/* Answers and frees. NULL is fine. `json` is one object with "ok". */
void control_reply(struct reply **r, bool ok, const char *json);
/* Several may wait for one answer. */
void control_wait(struct reply **list, struct reply *r); /* r NULL is fine */
void control_reply_all(struct reply **list, bool ok, const char *json);
void control_reply_through(struct reply **list, const struct child *c, bool ok,
			   const char *json); /* whoever asked through c */
void control_free(struct supervisor *sv);
/* Across an exec: the list as JSON, clients that have asked nothing yet, the descriptors in both, and all of it again
 * with a control socket that listens. */
json_t *control_handover(const struct reply *list);
json_t *control_clients(const struct supervisor *sv);
void control_keep_open(struct supervisor *sv, bool across_exec);
struct reply *control_adopt(struct supervisor *sv, json_t *clients, json_t *replies);

/* status.c: malloc'ed JSON. */
char *status_json(struct supervisor *sv);
json_t *status_conf_file(const struct supervisor *sv); /* the file's path from the root on, or null */

/* listen.c. False: logged why. */
bool must_check listen_open(struct supervisor *sv);
/* A Unix socket at path, replacing a stale one. -1: *error_r (malloc'ed). */
int must_check listen_unix(const char *path, unsigned mode, int backlog, uint64_t *inode_r, char **error_r);
void listen_unlink(const char *path, uint64_t inode); /* if it is still ours */
bool must_check listen_check(const struct conf *c, char **error_r);
/* Could the address of listen.tcp or listen.tls be bound? 0 or errno. */
int listen_try_tcp(const struct conf *c, enum conf_key k);

/* activation.c: sockets that systemd passes become fd_tcp, fd_tls and fd_unix. False: logged why. */
bool must_check activation_take(struct supervisor *sv);
/* "127.0.0.1:7700, 0.0.0.0:7743 (TLS) and /run/orchestra/orchestra.sock"; malloc'ed. */
char *listen_describe(const struct supervisor *sv);

/* tls.c */
/* The files behind listen.tls as `c` names them, for api workers: a memfd; -1 without a TLS socket. */
bool must_check tls_gather(const struct supervisor *sv, const struct conf *c, int *fd_r, char **error_r);
/* Problems with the files that `c` names, whether listen.tls is set or not: malloc'ed, NULL for none. What is no
 * problem but worth knowing goes to *warning_r. */
char *tls_check(const struct conf *c, char **warning_r);

/* datadir.c */
/* Creates dir (0700) with its parents. 0 or errno; *made_r: it was not there. */
int must_check datadir_make(const char *dir, unsigned mode, bool *made_r);
/* The lock that names one daemon for one data.dir. -1: logged why. */
int must_check datadir_lock(const char *dir);
/* The pid of the daemon that runs on dir; 0: none, or it cannot be looked at. Takes no lock that stays. */
pid_t datadir_holder(const char *dir);

/* privileges.c: started as root with `user` set, become that user once the ports are bound. */
struct privileges {
	bool drop;
	uid_t uid;
	gid_t gid;
	char name[64];
};
bool must_check privileges_find(const struct conf *c, struct privileges *p_r, char **error_r);
int must_check privileges_give(const struct privileges *p, const char *path); /* chown; 0 or errno */
bool must_check privileges_drop(const struct privileges *p);

/* segments.c. False: logged why. */
bool must_check segments_create(struct supervisor *sv);
bool must_check segments_spans(struct supervisor *sv);
bool must_check segments_requests(struct supervisor *sv); /* fd_requests, as log.requests wants it */

/* check.c: orchestrad --check. Prints OK or each problem; 0 or 1. With probe also what probe.c finds. */
int check_run(const struct conf_input *input, bool probe, FILE *out);

/* probe.c: a line each; how many FAILED. Sockets as whoever starts the daemon, the rest as whoever it becomes. */
int probe_sockets(const struct conf *c, FILE *out);
int probe_rest(const struct conf *c, FILE *out);
/* --check-handover: can this binary take over from the daemon that wrote the document? */
int check_handover(const struct conf_input *input, int document, FILE *out);

/* notify.c: systemd. */
void notify_ready(const struct supervisor *sv);
void notify_reloading(void);
void notify_stopping(const char *status);
void notify_status(const char *fmt, ...) printf_like(1, 2);
void notify_alive(void);
void notify_adopted(void); /* another image of this process has said READY=1 */

/* health.c: sync and at least one api worker serve, or are away no longer than a start may take. */
bool supervisor_healthy(struct supervisor *sv, int64_t now_us);

/* watchdog.c: WATCHDOG=1 while the daemon is healthy. */
void watchdog_open(struct supervisor *sv);
void watchdog_free(struct supervisor *sv);

#endif
