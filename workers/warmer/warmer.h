/* warmer: fills L1 after a start, on demand and by schedule, and keeps the file of what is hot (cache/hot_file.h).
 *
 *   role.c      the loop: life, orders, timers; nothing in it waits
 *   work.c      the thread that does the work, one job at a time
 *   warm.c      what a job of warming does: from the file, by ids, from the store
 *   fill.c      copies of memories into L1: which are right, and how
 *   history.c   what the store's feed says has changed since a copy was made; whether a file is of this store
 *   save.c      L1 into the file
 *   pace.c      how fast, by how late the api workers' loops are
 *   schedule.c  warmer.at
 *
 * The loop owns struct warmer; the thread works with the job it was given. Both write the plant's row: the loop while no
 * job runs, the thread while one does. */
#ifndef ORC_WARMER_H
#define ORC_WARMER_H
#include <pthread.h>

#include "cache/hot_file.h"
#include "cache/policy.h"
#include "pending.h"
#include "plant.h"
#include "store/store.h"
#include "worker.h"

enum work { WORK_NONE, WORK_WARM, WORK_SAVE };

/* What the thread is to do. */
struct job {
	enum work work;
	enum plant_warm_kind kind; /* WORK_WARM */
	uint64_t ns, limit;	   /* limit: memories; 0: as L1 has room */
	enum hot_form form;	   /* WORK_SAVE */
	int64_t until_us;	   /* clock_mono_us(): save what there is by then; 0: without hurry */
};

/* How fast it may go. Thread only, but for max_delay_us. */
struct pace {
	struct plant *plant;
	_Atomic int64_t max_delay_us;
	int64_t began_us, slice_us, window_us, pause_us;
	uint64_t late_ticks, ticks;   /* of all api workers, when they were last counted */
	double rest_late, rest_ticks; /* counted while the warmer rested, the latest most */
	unsigned windows;	      /* since then */
	bool hurried;		      /* nobody is served any more */
};

struct warmer {
	struct worker *w;
	struct plant *plant;
	struct cache *cache;
	struct cache_policy policy;
	struct pending *pending;
	struct ring *requests;
	const struct store_ops *ops;
	struct store_conf store_conf;
	_Atomic uint64_t file_max;
	struct pace pace;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t wake;
	struct job job, next; /* under `lock`: under way, and behind it; or WORK_NONE */
	bool taken, stop;     /* under `lock` */
	_Atomic bool cancel;  /* the job is to end soon */
	int done_fd;	      /* eventfd: the thread has done its job */
	bool started;
	/* the loop's */
	struct event *timer, *done, *save_timer, *warm_timer, *late;
	bool asked;
	_Atomic bool leaving; /* what is cancelled is a successor's to do */
	int64_t leave_us;     /* clock_mono_us(): to be gone by then */
	int64_t next_every_us, next_at_us;
	int64_t warmed_us; /* end of the warming that was last followed by a save */
};

/* ---- work.c ---- */
bool must_check work_start(struct warmer *m);	       /* the thread, which waits for a job */
bool work_give(struct warmer *m, const struct job *j); /* loop. False: it is at work */
bool work_busy(struct warmer *m);
void work_stop(struct warmer *m); /* cancels, and waits for the thread's end */

/* ---- warm.c, save.c: thread ---- */
enum plant_warm_state warm_run(struct warmer *m, const struct job *j);
void save_run(struct warmer *m, const struct job *j);

/* ---- pace.c ---- */
void pace_begin(struct pace *p, bool hurried);
void pace_end(struct pace *p);
/* Between two slices of work: sleeps as live latency demands. False: the job is cancelled. */
bool pace_step(struct pace *p, const _Atomic bool *cancel);

/* ---- history.c ---- */
#define HISTORY_STRIPES (1u << 22)
/* Which memories have changed since a revision, as far as it was read. One bit stands for many: a memory may be doubted
 * for another one, and is read again then. */
struct history {
	uint64_t read_to;
	uint8_t *changed;  /* HISTORY_STRIPES bits */
	uint64_t *dropped; /* namespaces */
	size_t ndropped;
	bool all; /* so many were dropped that all is doubted */
};
void history_begin(struct history *h, uint64_t revision);
void history_free(struct history *h);
/* Reads on, to what is published by now. STORE_NOT_FOUND: it is not kept that far back. */
enum store_rc must_check history_follow(struct history *h, const struct store_ops *ops, struct store *s);
bool history_doubts(const struct history *h, const struct uuid *id, uint64_t ns);

/* ---- fill.c ---- */
/* A copy of a memory, at least as new as the revision that the history began with. */
struct copy {
	struct uuid id;
	struct cache_meta meta;
	const void *body;
	uint32_t len;
	uint64_t epoch;
	bool skip;
};
struct filling {
	struct warmer *m;
	struct store *store;
	struct history history;
	uint64_t loaded, skipped, bytes;
	struct uuid *doubted; /* to be read from the store; NULL and 0: there are none */
	size_t ndoubted, cdoubted;
	bool keep_doubted, count_there; /* count_there: what lies in L1 already counts as loaded */
};
#define FILL_MAX 4096 /* copies at once */
/* Puts those that are right into L1. An error of the store: none was. */
enum store_rc must_check fill_copies(struct filling *f, struct copy *v, size_t n);
/* It is to be read from the store. */
void fill_later(struct filling *f, const struct uuid *id);
/* L1 has next to no room left for more. */
bool fill_is_full(const struct warmer *m);

/* ---- schedule.c ---- */
/* The next moment, after now_us (clock_real_us()), that warmer.at names; 0: it names none. */
int64_t schedule_next(const char *at, int64_t now_us);
#endif
