/* The life of any worker process; a role fills in the verbs.
 *
 * worker_main() takes over what the supervisor handed down (contract.h), waits until sync has
 * formatted the shared segments where the role wants them (WANT_SEGMENTS), calls role->init(),
 * says READY when the role did not (see worker_ready_later()) and runs the event loop.
 *
 * A whole role:
 *
 *	static int api_init(struct worker *w)
 *	{
 *		w->role_data = server_new(w->base, w->conf, w->fd_tcp, w->fd_unix);
 *		return w->role_data ? 0 : WORKER_EXIT_FAIL;
 *	}
 *	static void api_on_wake(struct worker *w)      // the answer ring may hold something
 *	{
 *		for (;;) {
 *			take_answers(w);
 *			wake_prepare(&w->plant->wake[w->slot]);
 *			if (ring_empty(answers))
 *				return;
 *			wake_cancel(&w->plant->wake[w->slot]);
 *		}
 *	}
 *	static void api_drain(struct worker *w) { … when the last connection is gone: worker_exit(w, 0); }
 *	const struct worker_role api_role = {
 *		.name = "api", .init = api_init, .on_wake = api_on_wake, .drain = api_drain,
 *	};
 *
 * Writing through sync: fill ring_reserve()/ring_commit(), then worker_wake_peer(w, SLOT_SYNC).
 *
 * Asking the supervisor (POST /v1/admin/reload):
 *
 *	static void on_reloaded(void *arg, int status, struct span json) { reply(arg, status ? 409 : 200, json); }
 *	if (worker_command(w, "reload", on_reloaded, request) == -1)
 *		reply_error(request, 503, strerror(errno));
 *
 * Signals: workers ignore TERM, INT, HUP, QUIT: a terminal or systemd sends them to all
 * processes, but only the supervisor knows the order in which to leave. KILL is for people. */
#ifndef ORC_WORKER_H
#define ORC_WORKER_H

#include <event2/event.h>

#include "conf.h"
#include "contract.h"
#include "plant.h"
#include "util.h"
#include "vitals.h"

struct worker;

/* One const instance per folder of workers/, named in roles.def. All verbs but init may be NULL. */
struct worker_role {
	const char *name; /* as in roles.def */

	/* 0, or the exit code: WORKER_EXIT_FAIL (try again later) or WORKER_EXIT_FATAL (useless to
	 * try again: the supervisor gives up, and stops the daemon if it was starting). */
	int (*init)(struct worker *w);

	/* Somebody published something for this slot (its eventfd fired and wake_ack() was done).
	 * Called once after init too. Must end with wake_prepare() and empty rings (wake.h). */
	void (*on_wake)(struct worker *w);

	/* Reload, phase 1: is `next` usable here? -1 and *error_r (malloc'ed) refuse it for all.
	 * Nothing may change yet. Anything made ready is kept in role_data until commit or abort. */
	int (*conf_prepare)(struct worker *w, const struct conf *next, char **error_r);
	/* Phase 2: w->conf is the new one now. Must not fail. The old one is freed on return, except
	 * the one of birth: strings taken from it in init() stay valid. */
	void (*conf_commit)(struct worker *w);
	void (*conf_abort)(struct worker *w);

	/* What waits for this worker, and what it has under way; asked once a second. */
	void (*load)(struct worker *w, uint64_t *waiting_r, uint64_t *working_r);

	/* Take no new work (w->leave says how), finish what is under way, then worker_exit(w, 0). NULL: exit at once.
	 * Also called when the supervisor is gone (w->orphan): the successor waits for the lock on
	 * data.dir, so whatever is not done after WORKER_ORPHAN_MS is cut off. Called once. */
	void (*drain)(struct worker *w);

	/* Somebody asks this role by way of the supervisor (control.c): JSON into *answer, at once. False: it says why not. */
	bool (*asked)(struct worker *w, struct span text, struct buf *answer);
	void (*peer_started)(struct worker *w, unsigned slot); /* another worker was started, perhaps again */
	void (*stop)(struct worker *w);			       /* after the loop: free everything */
};

#define WORKER_ORPHAN_MS 1000

struct worker {
	const struct worker_role *role;
	unsigned slot, instance; /* api.2 has instance 2 */
	char name[24];		 /* "api.2", "sync" */
	uint64_t incarnation;
	struct event_base *base;
	struct conf *conf; /* replaced before conf_commit() */
	struct plant *plant;
	struct plant_worker *self;
	struct stats_slot *stats;
	struct vitals_slot *vitals;
	int fd_tcp, fd_tls, fd_unix; /* listening sockets; -1 = not configured or not wanted. Use these, not
				      * the numbers of contract.h: a closed number may be anything by now. */
	int fd_tls_files; /* tls_files.h: those of init(), then those of the coming conf_prepare(). Whoever has
			   * read it closes it and sets -1. */
	uint64_t peers;	  /* slots that have a worker, or had one: a bit each, as far as we were told */
	bool ready, draining, orphan;
	struct ctl_drain leave; /* when draining */
	void *role_data;	/* the role's own */
	struct worker_private *priv;
};

/* What the supervisor hands over, or does, for a kind of process. */
enum worker_wants {
	WANT_LISTEN = 1,   /* the listening sockets */
	WANT_SEGMENTS = 2, /* init() only after sync has formatted the shared segments */
};
/* What a kind of process is able to do at all; the rest it is not handed (child.c) or gives up (sandbox.h). */
enum worker_may {
	MAY_READ_DATA = 1,  /* the memories: data.dir, the store's file, the segments that hold them; to wake sync */
	MAY_WRITE_DATA = 2, /* files beneath data.dir and beside the store's file; to wake everybody */
	MAY_REACH_STORE =
		4, /* sockets to the network when the store is a server, or a tier of the cache is (redis.url) */
	MAY_CONNECT_NET = 8, /* sockets to the network */
	MAY_WRITE_HOT = 16,  /* files in data.dir/hot */
};
enum worker_restart { RESTART_ALWAYS };

/* roles.def as a table, by enum worker_role_id. */
struct worker_row {
	const char *name, *text;
	const struct worker_role *role;
	unsigned wants, may;
	enum worker_restart restart;
};
extern const struct worker_row worker_rows[];
/* "api" → ROLE_API; -1 unknown. */
int worker_role_find(const char *name);
enum worker_role_id worker_role_of_slot(unsigned slot);
/* "api.2", "sync". Returns out. */
const char *worker_slot_name(unsigned slot, char out[24]);

/* main() of a worker process; returns its exit code. */
int worker_main(const char *role, unsigned slot);

/* init() calls this when serving starts later than its return; then worker_ready() when it does
 * (the supervisor kills a worker that is not ready within daemon.ready_timeout of its start). */
void worker_ready_later(struct worker *w);
void worker_ready(struct worker *w);
/* Called now and then from long work in init(): that time begins anew. Sends one message a second at most. */
void worker_progress(struct worker *w);

/* Leaves the loop soon, with this exit code. */
void worker_exit(struct worker *w, int code);

/* The calling thread works in short pieces and somebody waits for it (journal, sync's loop): it asks for
 * short time slices, with which Linux (6.12 on) lets it run at once when it wakes instead of after
 * another process's slice of 3 ms. Needs no right; takes no share of the processor from anybody. */
void worker_prompt(void);

/* After publishing something for that slot: it is woken, if it sleeps, when this turn of the event loop is
 * over: once for all that the turn published. Woken at the first record it would take the processor
 * from its waker, find that one alone, and sleep again. Loop thread only. */
void worker_wake_peer(struct worker *w, unsigned slot);
/* The same now, for each slot that has its bit in *slots_io, which is cleared. Any thread. */
_Static_assert(SLOT_COUNT <= 64, "a bit for each slot");
void worker_wake_now(struct worker *w, uint64_t *slots_io);
/* Runs on_wake() in the next turn of the loop. Loop thread only. */
void worker_wake_self(struct worker *w);

/* Relays a command (control.h lists them: "status", "reload", "drain", …) to the supervisor.
 * `status` 0 = done; `json` is valid during the call only. Called exactly once, except when the process
 * ends first. -1: errno says why it was not sent (EAGAIN, EPIPE, EMSGSIZE). */
typedef void worker_answer_fn(void *arg, int status, struct span json);
int must_check worker_command(struct worker *w, const char *text, worker_answer_fn *fn, void *arg);

#endif
