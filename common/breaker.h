/* Circuit breakers: one per dependency, in the plant, so that all processes agree on whether it is worth being asked.
 *
 *	struct breaker_pass pass;
 *	if (!breaker_ask(b, clock_mono_us(), &pass))
 *		… answer without the dependency; breaker_retry_after_us() says when it is worth another try …
 *	bool ok = …the call, with a timeout of its own…;
 *	breaker_report(b, &pass, ok ? BREAKER_OK : BREAKER_FAILED, ok ? NULL : why, clock_mono_us());
 *
 * CLOSED    all are let in. Calls of the last 10 s are counted; it opens when of at least min_calls failure_rate percent
 *           failed or slow_rate percent were slow, or after `consecutive` failures in a row.
 * OPEN      nobody is let in for open_min_us, twice that at the next time, and so on up to open_max_us; ± 20 %,
 *           so that many daemons do not come back at once.
 * HALF_OPEN one caller at a time is let in, as the probe. `probes` successes close it; a failure opens it
 *           again, for longer. A minute without opening takes one doubling back. Behind it, for slow_start_us,
 *           a share of callers is let in that grows from 10 to 100 %.
 *
 * What is a failure: no connection, reset, timeout, 5xx, "the server is shutting down". What is none: the caller has
 * gone (BREAKER_VOID), or the dependency answers that the question is wrong (BREAKER_OK: it is well).
 * Two troubles are no failures, and do not open it: 429 (breaker_throttle) and wrong credentials (breaker_misconfigured).
 *
 * Any thread of any process may do any of this at any time, and be killed in the middle. All of the state that must
 * agree is one 64-bit word, changed by compare-and-swap only; whoever wins it logs and counts the transition. What
 * a death may cost is one count or one log line; a probe whose prober died is free when its lease ends, or when the
 * prober's successor is born (breaker_forget). Nothing here waits or allocates. Times are clock_mono_us(). */
#ifndef ORC_BREAKER_H
#define ORC_BREAKER_H
#include <stdatomic.h>
#include "util.h"

#define BREAKERS 64	   /* rows; they are never given back */
#define BREAKER_NAME 64	   /* bytes of a name */
#define BREAKER_REASON 160 /* bytes of a reason */
#define BREAKER_SECONDS 10 /* the window: buckets of a second */
#define BREAKER_HEAL_US 60000000
#define BREAKER_STORE "store" /* always row 0 */

struct conf;

/* As orchestra_breaker_state shows them. */
enum breaker_state { BREAKER_CLOSED, BREAKER_HALF_OPEN, BREAKER_OPEN };
enum breaker_answer { BREAKER_NO, BREAKER_GO, BREAKER_PROBE };
/* BREAKER_VOID: the call was not made, or says nothing about the dependency; a probe is free again. */
enum breaker_result { BREAKER_OK, BREAKER_FAILED, BREAKER_VOID };
enum breaker_force { BREAKER_AUTO, BREAKER_FORCE_OPEN, BREAKER_FORCE_CLOSED };

/* When it opens and for how long. 0 turns a criterion off. */
struct breaker_conf {
	int64_t failure_rate, slow_rate; /* percent */
	int64_t min_calls;		 /* in the window, before rates count */
	int64_t consecutive;		 /* failures in a row */
	int64_t slow_call_us;		 /* a call that takes longer is slow */
	int64_t open_min_us, open_max_us;
	int64_t probes;	       /* successes that close it: 1 to 15 */
	int64_t lease_us;      /* a probe that has not come back is given up; longer than any call takes */
	int64_t slow_start_us; /* 0: all are let in at once when it closes */
};

struct breaker_reason {
	int64_t at_us; /* 0: none */
	uint32_t crc, len;
	char text[BREAKER_REASON];
};

/* A row, zeroed = closed. Private to breaker*.c. */
struct breaker {
	_Alignas(CACHE_LINE) _Atomic uint64_t word; /* breaker-private.h */
	_Atomic int64_t throttled_us, misconfigured_us;
	_Atomic uint64_t prober; /* generation << 32 | pid; of no meaning under another generation */
	_Atomic uint64_t id;	 /* hash of the name; 0 = free row */
	_Atomic uint32_t named;	 /* name and conf are written */
	struct breaker_conf conf;
	char name[BREAKER_NAME + 8]; /* NUL-terminated */
	_Alignas(CACHE_LINE) _Atomic uint64_t consecutive, ticket;
	_Atomic uint64_t calls[BREAKER_SECONDS], failures[BREAKER_SECONDS], slow[BREAKER_SECONDS];
	_Atomic uint64_t calls_total, failures_total, rejected_total, to_total[3];
	_Atomic int64_t logged_us;
	struct breaker_reason reasons[5]; /* by generation; the last one: of misconfigured_us */
};

/* What breaker_ask() said, to be handed back to breaker_report(): it tells this call from all others. */
struct breaker_pass {
	uint64_t word;
	int64_t since_us; /* when the call began: of breaker_ask(), or later if the caller sets it */
	enum breaker_answer answer;
};

/* ---- rows (breaker_row.c) ---- */
/* The row of that name: the one it has, else a fresh one; any process. `conf` is written into the row, where all
 * processes find it; NULL leaves it, for rows that somebody else configures. Names: 1 to BREAKER_NAME visible ASCII
 * characters but quote and backslash. NULL: all rows are taken, or no such name. */
struct breaker *must_check breaker_take(struct breaker rows[BREAKERS], const char *name,
					const struct breaker_conf *conf);
/* NULL: there is none. */
struct breaker *must_check breaker_find(struct breaker rows[BREAKERS], const char *name);
/* The name of a row, valid as long as the row is; NULL: a free row. */
const char *breaker_name(const struct breaker *b);
void breaker_configure(struct breaker *b, const struct breaker_conf *conf);
/* Of the keys breaker.*: for the row "store", which sync configures. */
void breaker_conf_store(const struct conf *c, struct breaker_conf *conf_r);

/* ---- calls (breaker.c) ---- */
/* May the dependency be asked? BREAKER_NO is 0. Who gets another answer reports, exactly once. */
enum breaker_answer must_check breaker_ask(struct breaker *b, int64_t now_us, struct breaker_pass *pass_r);
/* How it went. `why` (of a failure; may be NULL) is kept as part of the reason if this opens the breaker.
 * True: this call closed or opened it. */
bool breaker_report(struct breaker *b, const struct breaker_pass *pass, enum breaker_result result, const char *why,
		    int64_t now_us);
/* The dependency wants to be left alone until then (429, Retry-After): nobody is let in. Only ever extends. */
void breaker_throttle(struct breaker *b, int64_t until_us);
/* The dependency refuses our credentials (401, 403): report BREAKER_VOID, then this. One caller is let in every open_max_us
 * until one reports BREAKER_OK. */
void breaker_misconfigured(struct breaker *b, const char *why, int64_t now_us);
/* How long to wait before it is worth asking again; 0: now. */
int64_t breaker_retry_after_us(const struct breaker *b, int64_t now_us);
enum breaker_state breaker_state(const struct breaker *b);

/* By hand: stays so until it is forced otherwise or reset. BREAKER_AUTO ends it, as closed. */
void breaker_force(struct breaker *b, enum breaker_force how, int64_t now_us);
/* By hand: closed, as if nothing had ever happened; not forced, not throttled, not misconfigured. */
void breaker_reset(struct breaker *b, int64_t now_us);
/* A process is gone for good: whatever it was probing, somebody else may. At the birth of its successor. */
void breaker_forget(struct breaker rows[BREAKERS], uint32_t pid);

/* ---- looking (breaker_row.c) ---- */
struct breaker_view {
	const char *name;
	enum breaker_state state;
	bool forced, probing, misconfigured;
	uint64_t calls, failures, slow;			      /* in the window, of this closed time */
	uint64_t consecutive;				      /* failures in a row, of this closed time */
	uint64_t calls_total, failures_total, rejected_total; /* since the daemon's start */
	uint64_t to_total[3];				      /* transitions, by enum breaker_state */
	int64_t next_probe_us;				      /* from now; -1: none is due (closed, or forced) */
	int64_t throttled_us;				      /* from now; 0: not throttled */
	char reason[BREAKER_REASON + 1];		      /* why it last opened, or is misconfigured; "" unknown */
};
/* False: a free row. */
bool must_check breaker_look(const struct breaker *b, int64_t now_us, struct breaker_view *view_r);
const char *breaker_state_name(enum breaker_state s); /* "closed", "half-open", "open" */
#endif
