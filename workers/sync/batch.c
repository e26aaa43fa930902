/* One attempt: what the journal holds behind the cursor, into the store, in one transaction of the store. */
#define LOG_SUBSYSTEM LOG_IN_STORE
#include <errno.h>
#include <stdlib.h>

#include "clock.h"
#include "fault.h"
#include "flusher-private.h"
#include "log.h"

void batch_free(struct attempt *a)
{
	free(a->fix);
	free(a->retried);
	free(a->lost);
	*a = (struct attempt){.seq = 0};
}

/* ---- counters ---- */

void batch_weigh(const struct op_head *op, const void *body, struct weight *base, struct weight *now)
{
	const struct op_delete *d = body;
	struct memory m;
	*base = *now = (struct weight){0, 0};
	if (op->type == OP_DELETE && op->len >= sizeof(*d) && d->bytes >= 0)
		*base = (struct weight){1, d->bytes};
	if (op->type != OP_PUT || !memory_decode(body, op->len, &m) || m.deleted_us)
		return;
	*now = (struct weight){1, (int64_t)memory_quota_bytes(&m)};
	if (m.replaces_bytes >= 0)
		*base = (struct weight){1, m.replaces_bytes};
}

/* The store reckons from what it has, the sequencer from what the sender knew. */
static void note_diverged(struct flusher *f, struct attempt *a, const struct op_head *op, const void *body)
{
	struct dead_letter l;
	struct weight base, now;
	if (!f->ndiverged || (op->type != OP_PUT && op->type != OP_DELETE))
		return;
	dead_describe(op, body, &l);
	for (size_t i = 0; i < a->nfix; i++)
		if (uuid_cmp(&a->fix[i].id, &l.id) == 0)
			return;
	for (size_t i = 0; i < f->ndiverged; i++) {
		const struct diverged *d = &f->diverged[i];
		if (uuid_cmp(&d->id, &l.id) != 0)
			continue;
		batch_weigh(op, body, &base, &now);
		struct weight by = {base.count - d->store.count, base.bytes - d->store.bytes};
		if (f->s->store_ops->drift) /* which says so itself */
			by = (struct weight){0, 0};
		GROW(a->fix, a->nfix, a->cfix);
		a->fix[a->nfix++] = (struct fix){l.id, l.ns, by};
		return;
	}
}

/* ---- pieces of a transaction ---- */

static uint32_t stored_ops(const struct flusher *f, uint64_t seq) { return f->part_seq == seq ? f->part : 0; }

uint32_t batch_original_op(const struct flusher *f, const struct txn_reader *t, uint64_t seq, uint32_t given)
{
	for (uint32_t i = stored_ops(f, seq); i < t->head->nops; i++)
		if (!isolate_ahead(f, seq, i) && !given--)
			return i;
	return t->head->nops;
}

/* The transaction with those operations only that are wanted. */
static void cut(const struct txn_reader *t, const bool *want, struct buf *b)
{
	struct txn_reader r = *t;
	struct txn_builder nt;
	const struct op_head *op;
	const void *body;
	b->len = 0;
	txn_begin(&nt, b, t->head->id, t->head->slot, t->head->read_seq, t->head->flags);
	for (uint32_t i = 0; txn_next(&r, &op, &body); i++)
		if (want[i])
			txn_op_raw(&nt, op->type, body, op->len, NULL, 0);
	txn_end(&nt);
}

/* Letters of what is deleted go before the deletion is committed: a deletion that a crash repeats finds none. */
static bool drop_letters(struct flusher *f, const struct op_head *op, const void *body, uint64_t seq)
{
	unsigned gone = 0;
	int e = 0;
	if (!f->letters.n)
		return true;
	if (op->type == OP_DELETE)
		e = letters_deleted(&f->letters, body, seq, &gone);
	else if (op->type == OP_NS_DROP)
		e = letters_dropped(&f->letters, ((const struct op_ns_drop *)body)->ns, seq, &gone);
	if (gone)
		log_info("%u dead letters went with what they were about, which was deleted", gone);
	if (e)
		flusher_trouble(f, "a dead letter of what was deleted cannot be removed: %s", strerror(e));
	return !e;
}

/* Which operations of t come next, at most max; how many those are. *end_r: behind the last one that was looked at. */
static uint64_t choose(const struct flusher *f, const struct txn_reader *t, uint64_t seq, uint64_t max, bool *want,
		       uint32_t *end_r, struct attempt *a)
{
	uint64_t n = 0;
	uint32_t i = stored_ops(f, seq);
	memset(want, 0, t->head->nops * sizeof(*want));
	for (; i < t->head->nops; i++) {
		if (isolate_ahead(f, seq, i))
			continue;
		if (n == max)
			break;
		want[i] = true;
		a->last_seq = seq;
		a->last_op = i;
		n++;
	}
	*end_r = i;
	return n;
}

static enum store_rc apply_chosen(struct flusher *f, struct txn_reader *t, uint64_t seq, const bool *want, bool whole,
				  struct attempt *a)
{
	struct txn_reader r = *t, part;
	const struct op_head *op;
	const void *body;
	struct buf b = {0};
	for (uint32_t i = 0; txn_next(&r, &op, &body); i++) {
		if (!want[i])
			continue;
		note_diverged(f, a, op, body);
		if (!drop_letters(f, op, body, seq))
			return STORE_ERROR;
	}
	if (whole)
		return f->s->store_ops->apply(f->store, seq, t);
	cut(t, want, &b);
	AN(txn_open(&part, b.p, b.len));
	enum store_rc rc = part.head->nops || part.head->flags & TXN_SCRUB
				   ? f->s->store_ops->apply(f->store, seq, &part)
				   : STORE_OK;
	buf_free(&b);
	return rc;
}

/* The common way: all of it, nothing of it dead, nothing of it stored, no letter that it could concern. */
static enum store_rc apply_txn_of(struct flusher *f, struct txn_reader *t, uint64_t seq, uint64_t max, bool *all_r,
				  struct attempt *a)
{
	uint32_t n = t->head->nops, end = n;
	bool simple = !f->letters.n && !f->ndiverged && max >= n && stored_ops(f, seq) == 0;
	*all_r = true;
	if (simple || !n) {
		a->ops += n;
		a->last_seq = seq;
		a->last_op = n ? n - 1 : 0;
		return f->s->store_ops->apply(f->store, seq, t);
	}
	bool *want = util_alloc(n * sizeof(*want));
	uint64_t chosen = choose(f, t, seq, max, want, &end, a);
	bool whole = chosen == n;
	a->ops += chosen;
	*all_r = end == n;
	if (!*all_r)
		a->part = end;
	enum store_rc rc = apply_chosen(f, t, seq, want, whole, a);
	free(want);
	return rc;
}

static void passed(struct attempt *a, uint64_t seq, const struct txn_reader *t)
{
	a->seq = seq;
	a->part = 0;
	a->txns++;
	if (t->head->flags & TXN_SCRUB)
		a->scrub_to = seq;
	if (t->head->letter && t->head->slot == SLOT_SYNC) {
		GROW(a->retried, a->nretried, a->cretried);
		a->retried[a->nretried++] = t->head->letter;
	}
}

static void trace_txn(struct flusher *f, const struct txn_reader *t)
{
	struct trace_context c;
	if (trace_told(f->s->tracer, t->head->slot, t->head->id, &c))
		trace_link(f->span, &c);
}

static enum store_rc apply_all(struct flusher *f, uint64_t to, uint64_t max, struct attempt *a, int *error_r)
{
	bool exactly = f->pace.suspect || f->pace.careful, all = true;
	uint64_t seq = f->flushed;
	*error_r = 0;
	while (all && a->ops < max && a->bytes < PACE_BYTES) {
		const void *data;
		size_t len;
		struct journal_where where;
		struct txn_reader t;
		int got = journal_next(f->reader, &seq, to, &data, &len, &where);
		if (got < 0)
			*error_r = errno;
		if (got <= 0)
			break;
		if (!txn_open(&t, data, len)) {
			log_error("journal record %llu holds no transaction; skipped", (unsigned long long)seq);
			a->seq = seq;
			continue;
		}
		enum store_rc rc = apply_txn_of(f, &t, seq, exactly ? max - a->ops : UINT64_MAX, &all, a);
		if (rc != STORE_OK)
			return rc;
		FAULT_POINT(flush_row);
		if (f->traced)
			trace_txn(f, &t);
		if (all) {
			a->bytes += len;
			passed(a, seq, &t);
		}
		if (f->pace.suspect == 1 && !a->ops)
			break; /* what is dead is passed, whatever becomes of the next one */
	}
	return STORE_OK;
}

/* ---- traces ---- */

/* A batch is a trace of its own: the writes in it belong to as many others, to which it links. */
static bool trace_batch(struct flusher *f)
{
	if (!atomic_load_explicit(&f->s->tracing, memory_order_acquire))
		return false;
	if (!f->span)
		f->span = util_alloc(sizeof(*f->span));
	struct trace_context self = trace_new(f->s->tracer);
	trace_span_begin(f->span, TRACE_FLUSH, &self);
	return true;
}

/* Kept when a write in it is traced, as any other by its id, and when it was slow or failed. */
static void traced_batch(struct flusher *f, const struct attempt *a, int64_t began_ns, enum store_rc rc)
{
	struct trace_span *s = f->span;
	int64_t now = clock_mono_ns();
	bool sampled = s->r.nlinks || trace_samples(f->s->tracer, s->r.self.trace), failed = rc != STORE_OK;
	if (!failed && !a->ops)
		return; /* there was nothing to do */
	if (!trace_keeps(f->s->tracer, sampled, failed, now - began_ns, now))
		return;
	s->r.flags = (uint8_t)((sampled ? TRACE_SAMPLED : 0) | (failed ? TRACE_FAILED : 0));
	trace_int(s, TRACE_KEY_TRANSACTIONS, (int64_t)a->txns);
	trace_int(s, TRACE_KEY_BATCH, (int64_t)a->ops);
	trace_int(s, TRACE_KEY_BYTES, (int64_t)a->bytes);
	if (failed)
		trace_text(s, TRACE_KEY_ERROR,
			   rc == STORE_REJECTED ? SPAN_LIT("rejected")
			   : rc == STORE_AWAY	? SPAN_LIT("unavailable")
						: SPAN_LIT("error"));
	trace_write(f->s->tracer, s, began_ns, now);
}

enum store_rc batch_run(struct flusher *f, uint64_t to, uint64_t max, struct attempt *a)
{
	const struct store_ops *ops = f->s->store_ops;
	int error = 0;
	*a = (struct attempt){.seq = f->flushed, .scrub_to = f->scrub_to};
	f->trouble.len = 0;
	int64_t began_ns = clock_mono_ns();
	f->traced = trace_batch(f);
	enum store_rc rc = ops->begin(f->store);
	if (rc != STORE_OK) {
		if (f->traced)
			traced_batch(f, a, began_ns, rc);
		return rc;
	}
	FAULT_POINT(flush_begun);
	rc = apply_all(f, to, max, a, &error);
	if (rc == STORE_OK && error && a->seq == f->flushed && !a->ops) {
		ops->rollback(f->store);
		rc = STORE_ERROR;
	} else if (rc == STORE_OK) {
		rc = ops->commit(f->store, a->seq);
	}
	if (rc == STORE_OK) {
		stats_record(f->s->w->stats, HIST_FLUSH, (uint64_t)(clock_mono_ns() - began_ns));
		stats_record(f->s->w->stats, HIST_FLUSH_SIZE, hist_records(a->txns));
		FAULT_POINT(flush_committed);
	}
	if (f->traced)
		traced_batch(f, a, began_ns, rc);
	if (error)
		flusher_trouble(f,
				"nothing reaches the store, because the journal cannot be read behind record %llu: %s",
				(unsigned long long)a->seq, strerror(error));
	return rc;
}

bool batch_txn(struct flusher *f, uint64_t seq, struct txn_reader *t)
{
	uint64_t at = seq - 1;
	const void *data;
	size_t len;
	struct journal_where where;
	return journal_next(f->reader, &at, seq, &data, &len, &where) == 1 && at == seq && txn_open(t, data, len);
}
