#include "trace.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "clock.h"
#include "contract.h"
#include "ring.h"
#include "shm.h"
#include "trace/trace-private.h"

_Thread_local struct trace *trace_here;

/* ---- contexts ---- */

void trace_parent_write(char out[TRACE_PARENT + 1], const struct trace_context *c, bool sampled)
{
	memcpy(out, "00-", 3);
	util_hex(c->trace, 16, out + 3);
	out[35] = '-';
	util_hex(c->span, 8, out + 36);
	memcpy(out + 52, sampled ? "-01" : "-00", 4);
}

uint64_t trace_below(int64_t per_million)
{
	if (per_million >= 1000000)
		return UINT64_MAX;
	return per_million <= 0 ? 0 : (uint64_t)((unsigned __int128)per_million * UINT64_MAX / 1000000);
}

bool trace_sampled_by_id(const uint8_t trace[16], uint64_t below)
{
	uint64_t low;
	memcpy(&low, trace + 8, sizeof(low));
	return below == UINT64_MAX || __builtin_bswap64(low) < below;
}

/* splitmix64: ids must differ, not be secret. */
static uint64_t mix(uint64_t x)
{
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ x >> 27) * 0x94d049bb133111ebull;
	return x ^ x >> 31;
}

static uint64_t draw(struct tracer *t)
{
	uint64_t x;
	do
		x = mix(t->random += 0x9e3779b97f4a7c15ull);
	while (!x);
	return x;
}

bool trace_draw(struct tracer *t, struct trace_context *out)
{
	uint64_t low = draw(t);
	memcpy(out->trace + 8, &low, 8);
	return trace_samples(t, out->trace);
}

void trace_fill(struct tracer *t, struct trace_context *out)
{
	uint64_t high = draw(t), span = draw(t);
	memcpy(out->trace, &high, 8);
	memcpy(out->span, &span, 8);
}

struct trace_context trace_new(struct tracer *t)
{
	struct trace_context c;
	(void)trace_draw(t, &c);
	trace_fill(t, &c);
	return c;
}

/* Steps need no place for their ids: those follow from the trace's. */
struct trace_context trace_context_of(const struct trace *x, unsigned step)
{
	struct trace_context c = x->self;
	uint64_t s;
	if (!step)
		return c;
	memcpy(&s, c.span, 8);
	s = mix(s + step * 0x9e3779b97f4a7c15ull);
	s += !s;
	memcpy(c.span, &s, 8);
	return c;
}

bool trace_comment(char out[TRACE_COMMENT + 1])
{
	struct trace *x = trace_here;
	if (!x || !x->sampled)
		return false;
	struct trace_context c = trace_context_of(x, x->open);
	memcpy(out, "/*traceparent='", 15);
	trace_parent_write(out + 15, &c, true);
	memcpy(out + 15 + TRACE_PARENT, "'*/", 4);
	return true;
}

/* ---- the tracer ---- */

static size_t ring_at(unsigned slot) { return slot * ring_footprint(TRACE_RING_BYTES); }
static size_t told_at(void) { return ring_at(SLOT_COUNT); }

size_t trace_segment_size(void) { return told_at() + align_up(SLOT_COUNT * sizeof(struct told), 4096); }

struct ring *trace_ring(int fd, unsigned slot) { return ring_open(fd, ring_at(slot), TRACE_RING_BYTES); }

struct tracer *trace_open(int fd, unsigned slot, struct stats_slot *stats)
{
	struct stat st;
	uint64_t random;
	if (fstat(fd, &st) || !S_ISREG(st.st_mode) || (size_t)st.st_size < trace_segment_size() || slot >= SLOT_COUNT) {
		errno = EINVAL;
		return NULL;
	}
	AN(getrandom(&random, sizeof(random), 0) == sizeof(random));
	struct tracer *t = util_zalloc(sizeof(*t));
	t->fd = fd;
	t->slot = slot;
	t->stats = stats;
	t->random = random;
	return t;
}

void trace_close(struct tracer **tp)
{
	struct tracer *t = *tp;
	*tp = NULL;
	if (!t)
		return;
	while (t->spare) {
		struct trace *x = t->spare;
		t->spare = x->next;
		free(x);
	}
	if (t->ring)
		ring_close(&t->ring);
	if (t->told)
		munmap(t->told, align_up(SLOT_COUNT * sizeof(struct told), 4096));
	free(t);
}

static void map(struct tracer *t)
{
	t->ring = trace_ring(t->fd, t->slot);
	void *p = mmap(NULL, align_up(SLOT_COUNT * sizeof(struct told), 4096), PROT_READ | PROT_WRITE, MAP_SHARED,
		       t->fd, (off_t)told_at());
	t->told = p == MAP_FAILED ? NULL : p;
}

bool trace_conf(struct tracer *t, const struct conf *c)
{
	if (!t || !*conf_str(c, CONF_TRACE_ENDPOINT))
		return false;
	atomic_store_explicit(&t->below, trace_below(conf_int(c, CONF_TRACE_RATIO)), memory_order_relaxed);
	atomic_store_explicit(&t->slow_ns, conf_int(c, CONF_TRACE_SLOW) * 1000, memory_order_relaxed);
	if (!t->ring)
		map(t);
	return t->ring && t->told;
}

/* ---- a trace's life ---- */

bool trace_slow(struct tracer *t, int64_t took_ns)
{
	int64_t slow = atomic_load_explicit(&t->slow_ns, memory_order_relaxed);
	return slow && took_ns >= slow;
}

bool trace_keeps(struct tracer *t, bool sampled, bool failed, int64_t took_ns, int64_t now_ns)
{
	if (sampled)
		return true;
	if (!failed && !trace_slow(t, took_ns))
		return false;
	if (now_ns - t->second_ns >= 1000000000) {
		t->second_ns = now_ns;
		t->failures = 0;
	}
	if (++t->failures <= TRACE_FAILURES)
		return true;
	stats_add(t->stats, STAT_TRACE_DROPPED_RATE, 1);
	return false;
}

bool trace_samples(struct tracer *t, const uint8_t trace[16])
{
	return trace_sampled_by_id(trace, atomic_load_explicit(&t->below, memory_order_relaxed));
}

struct trace *trace_begin(struct tracer *t, const struct trace_context *parent, bool parent_sampled)
{
	struct trace *x = t->spare;
	if (x)
		t->spare = x->next;
	else
		x = util_alloc(sizeof(*x));
	memset(x, 0, offsetof(struct trace, v));
	x->t = t;
	x->self = trace_new(t);
	if (parent) {
		memcpy(x->self.trace, parent->trace, 16);
		memcpy(x->parent, parent->span, 8);
		x->remote = true;
		x->sampled = parent_sampled;
	} else {
		x->sampled = trace_samples(t, x->self.trace);
	}
	return x;
}

void trace_free(struct trace **xp)
{
	struct trace *x = *xp;
	*xp = NULL;
	if (!x)
		return;
	if (trace_here == x)
		trace_here = NULL;
	x->next = x->t->spare;
	x->t->spare = x;
}

/* ---- steps ---- */

unsigned trace_step_open(struct trace *x, enum trace_name name)
{
	if (x->n == TRACE_STEPS) {
		x->lost++;
		return 0;
	}
	x->v[x->n] = (struct trace_step){
		.start_ns = clock_mono_ns(), .name = (uint8_t)name, .parent = x->open, .key = TRACE_KEYS};
	return x->open = ++x->n;
}

void trace_step_close(struct trace *x, unsigned step, enum trace_key key, int64_t value, bool failed)
{
	if (!x || step > x->n)
		return;
	struct trace_step *s = &x->v[step - 1];
	s->end_ns = clock_mono_ns();
	s->key = (uint8_t)key;
	s->value = value;
	s->failed = failed;
	x->open = s->parent;
}

void trace_step(struct trace *x, enum trace_name name, int64_t start_ns, int64_t end_ns, bool failed)
{
	if (x->n == TRACE_STEPS) {
		x->lost++;
		return;
	}
	x->v[x->n++] = (struct trace_step){
		.start_ns = start_ns, .end_ns = end_ns, .name = (uint8_t)name, .key = TRACE_KEYS, .failed = failed};
}

/* ---- writing ---- */

void trace_span_begin(struct trace_span *s, enum trace_name name, const struct trace_context *self)
{
	s->r = (struct trace_record){.self = *self, .name = (uint8_t)name};
	s->used = 0;
}

static void attribute(struct trace_span *s, enum trace_key key, const void *p, size_t n)
{
	struct trace_attribute a = {.key = (uint8_t)key, .len = (uint16_t)n};
	if (n > UINT16_MAX || s->used + sizeof(a) + n > sizeof(s->bytes))
		return;
	memcpy(s->bytes + s->used, &a, sizeof(a));
	memcpy(s->bytes + s->used + sizeof(a), p, n);
	s->used += sizeof(a) + n;
}

void trace_text(struct trace_span *s, enum trace_key key, struct span text)
{
	if (key == TRACE_KEY_STATE && text.len > TRACE_TEXT)
		return; /* half of it would be wrong */
	if (text.len)
		attribute(s, key, text.p, text.len < TRACE_TEXT ? text.len : TRACE_TEXT);
}

void trace_int(struct trace_span *s, enum trace_key key, int64_t value) { attribute(s, key, &value, sizeof(value)); }

void trace_link(struct trace_span *s, const struct trace_context *to)
{
	if (s->r.nlinks < TRACE_LINKS)
		s->links[s->r.nlinks++] = *to;
	else if (s->r.links_lost < UINT16_MAX)
		s->r.links_lost++;
}

/* From the monotonic clock to the real one, as it is now: the spans of a trace agree with each other. */
static int64_t real_offset_ns(void) { return clock_real_us() * 1000 - clock_mono_ns(); }

static bool put(struct tracer *t, struct trace_span *s, int64_t offset_ns, int64_t start_ns, int64_t end_ns)
{
	size_t links = s->r.nlinks * sizeof(s->links[0]), n = sizeof(s->r) + links + s->used;
	char *to = t->ring ? ring_reserve(t->ring, n) : NULL;
	if (!to) {
		stats_add(t->stats, STAT_TRACE_DROPPED_FULL, 1);
		return false;
	}
	s->r.start_ns = start_ns + offset_ns;
	s->r.end_ns = (end_ns > start_ns ? end_ns : start_ns) + offset_ns;
	s->r.attributes = (uint32_t)s->used;
	s->r.slot = (uint8_t)t->slot;
	memcpy(to, &s->r, sizeof(s->r));
	memcpy(to + sizeof(s->r), s->links, links);
	memcpy(to + sizeof(s->r) + links, s->bytes, s->used);
	ring_commit(t->ring, n);
	return true;
}

bool trace_write(struct tracer *t, struct trace_span *s, int64_t start_ns, int64_t end_ns)
{
	return put(t, s, real_offset_ns(), start_ns, end_ns);
}

void trace_write_all(struct trace *x, struct trace_span *s, int64_t start_ns, int64_t end_ns)
{
	int64_t offset = real_offset_ns();
	uint8_t sampled = x->sampled ? TRACE_SAMPLED : 0;
	if (x->lost)
		trace_int(s, TRACE_KEY_LOST, x->lost);
	memcpy(s->r.parent, x->parent, sizeof(x->parent));
	s->r.flags |= sampled | (x->remote ? TRACE_REMOTE : 0);
	put(x->t, s, offset, start_ns, end_ns);
	for (unsigned i = 0; i < x->n; i++) {
		const struct trace_step *v = &x->v[i];
		struct trace_context self = trace_context_of(x, i + 1), parent = trace_context_of(x, v->parent);
		trace_span_begin(s, (enum trace_name)v->name, &self);
		memcpy(s->r.parent, parent.span, sizeof(parent.span));
		s->r.flags = sampled | (v->failed ? TRACE_FAILED : 0);
		if (v->key < TRACE_KEYS)
			trace_int(s, (enum trace_key)v->key, v->value);
		put(x->t, s, offset, v->start_ns, v->end_ns ? v->end_ns : end_ns);
	}
}

/* ---- transactions on their way ---- */

void trace_tell(struct tracer *t, uint64_t txn_id, const struct trace_context *c)
{
	struct told_entry *e = t->told ? &t->told[t->slot].v[txn_id % TRACE_TOLD] : NULL;
	if (!e)
		return;
	atomic_store_explicit(&e->id, 0, memory_order_relaxed); /* as in reqlog.h */
	atomic_thread_fence(memory_order_release);
	shm_copy_in(e->context, c, sizeof(*c));
	atomic_store_explicit(&e->id, txn_id, memory_order_release);
}

bool trace_told(struct tracer *t, unsigned slot, uint64_t txn_id, struct trace_context *out)
{
	struct told_entry *e = t->told && slot < SLOT_COUNT ? &t->told[slot].v[txn_id % TRACE_TOLD] : NULL;
	if (!e || !txn_id || atomic_load_explicit(&e->id, memory_order_acquire) != txn_id)
		return false;
	shm_copy_out(out, e->context, sizeof(*out));
	atomic_thread_fence(memory_order_acquire);
	return atomic_load_explicit(&e->id, memory_order_relaxed) == txn_id;
}
