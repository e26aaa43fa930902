/* Traces: what a request, a batch for the store or a ping did, as spans (OpenTelemetry, W3C Trace Context).
 *
 * A trace is written down where it happens, in a struct trace that its request carries along: fixed places, no allocation, two
 * readings of the clock a step. When it is over it is *kept* or forgotten: kept is what its caller, or for one that
 * begins here its id, has sampled; and whatever failed or was slow, however it was sampled (so many a second). What is kept goes into
 * a ring in shared memory, which the pinger empties (workers/pinger/spans.h); a ring that is full takes nothing more,
 * and nobody waits.
 *
 * The segment: for each worker slot a ring (ring.h, its thread that ends traces is the only producer), and a table of the
 * transactions on their way to the store that belong to a sampled trace (trace_told()), written by the slot's loop.
 * Readers trust nothing in it. Spans hold no content of memories, no id, no query string. */
#ifndef ORC_TRACE_H
#define ORC_TRACE_H
#include <stdatomic.h>

#include "conf.h"
#include "stats.h"
#include "util.h"

enum trace_kind { TRACE_INTERNAL = 1, TRACE_SERVER_KIND = 2, TRACE_CLIENT = 3 }; /* as OTLP numbers them */
enum trace_name {
#define TRACE_SPAN(id, name, kind, store) TRACE_##id,
#include "trace.def"
	TRACE_NAMES
};
enum trace_key {
#define TRACE_KEY(id, name, type) TRACE_KEY_##id,
#include "trace.def"
	TRACE_KEYS
};

/* ---- who is traced by whom ---- */

struct trace_context {
	uint8_t trace[16], span[8];
};
#define TRACE_PARENT 55 /* "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01" */
void trace_parent_write(char out[TRACE_PARENT + 1], const struct trace_context *c, bool sampled);
/* An id is sampled when its lower 64 bits, as a big-endian number, lie below `below`: what Go's and Python's TraceIdRatioBased
 * do, so that daemons and callers with one ratio agree. UINT64_MAX: all are. */
bool trace_sampled_by_id(const uint8_t trace[16], uint64_t below);
uint64_t trace_below(int64_t per_million);

/* ---- the segment ---- */

#define TRACE_RING_BYTES (1u << 20)
#define TRACE_TOLD 2048 /* transactions of a slot that are remembered */
size_t trace_segment_size(void);
struct ring;
/* The reader's side of a slot's ring. NULL and errno. */
struct ring *must_check trace_ring(int fd, unsigned slot);

/* A span as it lies in a ring: this, `nlinks` contexts, then attributes. */
struct trace_record {
	struct trace_context self;
	uint8_t parent[8];	  /* all zero: none */
	int64_t start_ns, end_ns; /* since 1970 */
	uint32_t attributes;	  /* bytes of them */
	uint16_t links_lost;
	uint8_t nlinks, name, slot, flags;
	uint8_t unused[6];
};
enum trace_flags { TRACE_SAMPLED = 1, TRACE_REMOTE = 2, TRACE_FAILED = 4 };
_Static_assert(sizeof(struct trace_record) == 64, "the layout");
struct trace_attribute { /* then `len` bytes: a text, or an int64_t */
	uint8_t key, unused;
	uint16_t len;
};
#define TRACE_LINKS 32
#define TRACE_TEXT 512 /* a longer one is cut, tracestate is left out */
#define TRACE_ATTRIBUTES 4096

/* ---- the writer ---- */

struct tracer; /* of one thread, which ends all of its traces */
#define TRACE_STEPS 24
#define TRACE_FAILURES 100 /* traces a second that are kept only because they failed or were slow */

struct trace_step {
	int64_t start_ns, end_ns; /* clock_mono_ns() */
	int64_t value;
	uint8_t name, parent, key, failed; /* parent: step number from 1; key: TRACE_KEYS = no value */
};
struct trace {
	struct tracer *t;
	struct trace *next; /* while it is free */
	struct trace_context self;
	uint8_t parent[8];
	bool remote, sampled;
	uint8_t open, n; /* the step that further ones are part of; how many there are */
	uint16_t lost;
	struct trace_step v[TRACE_STEPS];
};

/* NULL and errno. Maps nothing before the first trace is kept. `fd` stays the caller's. */
struct tracer *must_check trace_open(int fd, unsigned slot, struct stats_slot *stats);
void trace_close(struct tracer **t);
/* What is sampled and kept from now on; true when trace.endpoint says that anything is. */
bool trace_conf(struct tracer *t, const struct conf *c);

/* Whether a trace that begins here is. */
bool trace_samples(struct tracer *t, const uint8_t trace[16]);
/* Draws the half of an id that decides whether a trace which begins here is sampled; trace_fill() the rest. */
bool trace_draw(struct tracer *t, struct trace_context *out);
void trace_fill(struct tracer *t, struct trace_context *out);
/* A context that nobody has yet. */
struct trace_context trace_new(struct tracer *t);
/* The trace of a call: with a parent as its traceparent says (NULL: it begins here). It is the tracer's until it is freed. */
struct trace *must_check trace_begin(struct tracer *t, const struct trace_context *parent, bool parent_sampled);
void trace_free(struct trace **x);
/* The context of a step, for whatever is told to go on from it; 0: of the trace itself. */
struct trace_context trace_context_of(const struct trace *x, unsigned step);

/* Whether something that took so long, or failed, is to be written: counts against TRACE_FAILURES. */
bool trace_keeps(struct tracer *t, bool sampled, bool failed, int64_t took_ns, int64_t now_ns);

bool trace_slow(struct tracer *t, int64_t took_ns); /* it would be kept because of this */

/* Attributes of a span under construction, on the stack. */
struct trace_span {
	struct trace_record r;
	struct trace_context links[TRACE_LINKS];
	size_t used;
	char bytes[TRACE_ATTRIBUTES];
};
void trace_span_begin(struct trace_span *s, enum trace_name name, const struct trace_context *self);
void trace_text(struct trace_span *s, enum trace_key key, struct span text); /* empty: left out */
void trace_int(struct trace_span *s, enum trace_key key, int64_t value);
void trace_link(struct trace_span *s, const struct trace_context *to);
/* Times by clock_mono_ns(). False: the ring is full, and that was counted. */
bool trace_write(struct tracer *t, struct trace_span *s, int64_t start_ns, int64_t end_ns);
/* The steps of a trace, behind its own span `s`, which is written first: who has no room for all has the most of it. */
void trace_write_all(struct trace *x, struct trace_span *s, int64_t start_ns, int64_t end_ns);

/* ---- steps: where a thread is at work for a call ---- */

extern _Thread_local struct trace *trace_here; /* NULL: it is not traced */
unsigned trace_step_open(struct trace *x, enum trace_name name);
void trace_step_close(struct trace *x, unsigned step, enum trace_key key, int64_t value, bool failed);

/* 0 where nothing is traced: one look at a thread's variable. */
static inline unsigned trace_enter(enum trace_name name)
{
	return __builtin_expect(trace_here != NULL, 0) ? trace_step_open(trace_here, name) : 0;
}
static inline void trace_leave(unsigned step)
{
	if (__builtin_expect(step != 0, 0))
		trace_step_close(trace_here, step, TRACE_KEYS, 0, false);
}
static inline void trace_leave_with(unsigned step, enum trace_key key, int64_t value, bool failed)
{
	if (__builtin_expect(step != 0, 0))
		trace_step_close(trace_here, step, key, value, failed);
}
/* One that is over, and was measured by others (clock_mono_ns()). */
void trace_step(struct trace *x, enum trace_name name, int64_t start_ns, int64_t end_ns, bool failed);

/* A comment of SQL that names the step that this thread is in, traceparent='00-…-01', to stand behind a statement (sqlcommenter).
 * False: what it does is not for a sampled trace. */
#define TRACE_COMMENT (TRACE_PARENT + 20)
bool trace_comment(char out[TRACE_COMMENT + 1]);

/* ---- transactions on their way ---- */

/* The loop of the slot, before it hands a transaction of a sampled trace to sync. */
void trace_tell(struct tracer *t, uint64_t txn_id, const struct trace_context *c);
/* What the slot has told of it; any thread. False: nothing, or it was long ago. */
bool trace_told(struct tracer *t, unsigned slot, uint64_t txn_id, struct trace_context *out);
#endif
