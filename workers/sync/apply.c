/* Making durable writes visible, and answering them.
 *
 * Order within a batch: pending table (published in one step), then indexes and L1, then
 * applied_seq, then answers, then ring space, then the flusher's permission. A reader looks at L1,
 * then the pending table, then the store; a fill that began before the pending entry was
 * published is refused by the L1 epoch that cache_put/cache_remove moves. */
#define LOG_SUBSYSTEM LOG_IN_SYNC
#include <errno.h>
#include <stdlib.h>

#include "clock.h"
#include "fault.h"
#include "flusher-private.h"
#include "log.h"

#define SLICE 32   /* items that are answered at once */
#define BEHIND_S 5 /* after which a journal that had no room for a segment is asked again */

void apply_answer(struct sync *s, uint32_t slot, uint64_t id, enum txn_status status, uint64_t seq, uint32_t arg)
{
	struct ring *r = s->peer[slot].answers;
	if (!r) {
		if (slot == SLOT_SYNC && status != TXN_OK && status != TXN_STORED && status != TXN_REJECTED)
			flusher_refused(s->flusher, id, status);
		return;
	}
	struct txn_answer *a = ring_reserve(r, sizeof(*a));
	if (!a) {
		/* A live sender keeps less in flight than the ring holds (RINGS_IN_FLIGHT_MAX); a dead
		 * one's successor drops these answers anyway. */
		log_debug("the answer ring of slot %u is full; an answer is dropped", slot);
		return;
	}
	*a = (struct txn_answer){.id = id, .seq = seq, .status = status, .arg = arg};
	ring_commit(r, sizeof(*a));
	s->to_wake |= 1ull << slot;
}

/* ---- pending table ---- */

static void pend(struct sync *s, const struct op_head *op, const void *body, struct pending_entry *e)
{
	struct memory m;
	e->type = op->type;
	e->len = op->len;
	switch (op->type) {
	case OP_PUT:
		if (!memory_decode(body, op->len, &m))
			return;
		e->id = m.id;
		e->ns = m.ns;
		e->version = m.version;
		e->content_key = m.content_hash;
		e->external_key = m.external_id.len ? record_external_key(m.ns, m.external_id) : 0;
		e->expires_us = m.expires_us;
		break;
	case OP_DELETE: {
		const struct op_delete *d = body;
		e->id = d->id;
		e->ns = d->ns;
		e->version = d->version;
		e->content_key = d->content_key;
		e->external_key = d->external_key;
		e->how = (uint16_t)d->how;
		break;
	}
	case OP_IDEM: {
		const struct op_idem *i = body;
		memcpy(e->id.b, &i->key, sizeof(i->key));
		e->ns = i->ns;
		e->expires_us = i->expires_us;
		break;
	}
	case OP_NS_DROP: e->ns = ((const struct op_ns_drop *)body)->ns; break;
	default: return; /* OP_NAMESPACE: the plant's row is what readers look at */
	}
	pending_append(s->pending, e);
}

static void pend_txn(struct sync *s, uint64_t seq, uint64_t segment, uint64_t offset, const void *data, size_t len)
{
	struct txn_reader t;
	const struct op_head *op;
	const void *body;
	AN(txn_open(&t, data, len));
	plant_know(s->plant, seq, t.head->id);
	while (txn_next(&t, &op, &body)) {
		struct pending_entry e = {.seq = seq,
					  .segment = segment,
					  .offset = offset + (uint64_t)((const char *)body - (const char *)data)};
		pend(s, op, body, &e);
	}
}

/* ---- indexes and L1 ---- */

static void index_put(struct sync *s, const struct memory *m)
{
	float unpacked[LIMIT_DIMENSIONS];
	const float *x = memory_vector(m, unpacked);
	index_memory(s, &(struct indexable){.ns = m->ns,
					    .id = m->id,
					    .version = m->version,
					    .expires_us = m->expires_us,
					    .found = !m->deleted_us && !(m->flags & MEMORY_SUPERSEDED),
					    .content = m->content,
					    .dim = x ? m->dim : 0,
					    .x = x});
	if (m->deleted_us) {
		cache_remove(s->cache, CACHE_MEMORY, &m->id);
		return;
	}
	FAULT_POINT(apply_vector_only);
	struct cache_meta meta = cache_policy_memory(&s->policy, m->ns, m->version, m->expires_us);
	cache_put(s->cache, CACHE_MEMORY, &m->id, &meta, m->body.p, m->body.len);
}

static void index_op(struct sync *s, const struct op_head *op, const void *body)
{
	struct memory m;
	switch (op->type) {
	case OP_PUT:
		if (memory_decode(body, op->len, &m))
			index_put(s, &m);
		break;
	case OP_DELETE: {
		const struct op_delete *d = body;
		index_remove(s, &d->id, d->version);
		cache_remove(s->cache, CACHE_MEMORY, &d->id);
		break;
	}
	case OP_NS_DROP:
		index_drop(s, ((const struct op_ns_drop *)body)->ns);
		cache_purge(s->cache, &(struct cache_match){.ns = ((const struct op_ns_drop *)body)->ns});
		break;
	}
}

/* The namespace's row moves with every applied write: its generation is the ETag of lists. */
static uint64_t op_ns(const struct op_head *op, const void *body)
{
	struct memory m;
	switch (op->type) {
	case OP_PUT: return memory_decode(body, op->len, &m) ? m.ns : 0;
	case OP_DELETE: return ((const struct op_delete *)body)->ns;
	case OP_NAMESPACE: return ((const struct op_namespace *)body)->ns;
	case OP_NS_DROP: return ((const struct op_ns_drop *)body)->ns;
	}
	return 0;
}

static void index_txn(struct sync *s, const void *data, size_t len)
{
	struct txn_reader t;
	const struct op_head *op;
	const void *body;
	uint64_t last = 0;
	AN(txn_open(&t, data, len));
	while (txn_next(&t, &op, &body)) {
		uint64_t ns = op_ns(op, body);
		struct ns_state *n = ns && (ns != last || op->type == OP_NS_DROP) ? sequence_ns(s, ns) : NULL;
		/* Gone before the purge: whoever still saw it there fills L1 with an epoch that the purge moves. */
		if (n && op->type == OP_NS_DROP)
			apply_namespace(s, n);
		index_op(s, op, body);
		if (n && op->type != OP_NS_DROP)
			apply_namespace(s, n);
		last = ns ? ns : last;
	}
}

/* Readers may see the counters of writes that are about to become durable; never fewer. */
void apply_namespace(struct sync *s, const struct ns_state *n)
{
	struct plant_namespace *row = plant_make(s->plant, (struct span){n->name, n->name_len});
	if (!row)
		return;
	atomic_store_explicit(&row->count, sequence_counter(n->count), memory_order_relaxed);
	FAULT_POINT(apply_row_half);
	atomic_store_explicit(&row->bytes, sequence_counter(n->bytes), memory_order_relaxed);
	atomic_store_explicit(&row->quota_count, n->quota_count, memory_order_relaxed);
	atomic_store_explicit(&row->quota_bytes, n->quota_bytes, memory_order_relaxed);
	atomic_store_explicit(&row->relaxed, n->relaxed, memory_order_relaxed);
	atomic_store_explicit(&row->language, n->language, memory_order_relaxed);
	atomic_store_explicit(&row->created_us, n->created_us, memory_order_relaxed);
	if (n->dim && !atomic_load_explicit(&row->embedder_set, memory_order_relaxed)) {
		memcpy(row->embedder, n->embedder, sizeof(row->embedder));
		FAULT_POINT(apply_space);
		atomic_store_explicit(&row->embedder_set, 1, memory_order_release);
	} else if (!n->dim) {
		atomic_store_explicit(&row->embedder_set, 0, memory_order_release);
	}
	atomic_store_explicit(&row->dim, n->dim, memory_order_release);
	atomic_store_explicit(&row->exists, n->exists, memory_order_release);
	atomic_fetch_add_explicit(&row->generation, 1, memory_order_release);
}

void apply_namespaces(struct sync *s)
{
	for (size_t i = 0; i < PLANT_NAMESPACES; i++)
		if (s->ns[i].ns)
			apply_namespace(s, &s->ns[i]);
}

/* ---- whole transactions: replay takes this path one by one ---- */

void apply_txn(struct sync *s, uint64_t seq, uint64_t segment, uint64_t offset, const void *data, size_t len)
{
	pend_txn(s, seq, segment, offset, data, len);
	pending_publish(s->pending);
	index_txn(s, data, len);
}

void apply_finish(struct sync *s, uint64_t seq)
{
	atomic_store_explicit(&s->plant->applied_seq, seq, memory_order_release);
	atomic_store_explicit(&s->plant->journal_bytes, journal_bytes(s->journal), memory_order_relaxed);
}

/* ---- a batch ---- */

static void remember_waiter(struct sync *s, struct waiter w)
{
	if (s->nwaiters == s->cwaiters) {
		s->cwaiters = s->cwaiters ? s->cwaiters * 2 : 64;
		s->waiters = util_realloc(s->waiters, s->cwaiters * sizeof(*s->waiters));
	}
	s->waiters[s->nwaiters++] = w;
}

static bool is_stored(const struct sync *s, const struct waiter *w)
{
	return w->seq <=
	       (w->scrub ? s->scrubbed_seq : atomic_load_explicit(&s->plant->flushed_seq, memory_order_relaxed));
}

/* Known while the note that says so is applied, which is when its waiters are answered. */
static bool has_lost(const struct sync *s, uint64_t seq)
{
	for (size_t i = 0; s->note && i < s->note->nlost; i++)
		if (s->note->lost[i] == seq)
			return true;
	return false;
}

/* False: the store has not decided about it yet. */
static bool answer_stored(struct sync *s, const struct waiter *w)
{
	if (w->seq > atomic_load_explicit(&s->plant->flushed_seq, memory_order_relaxed))
		return false;
	unsigned dead = s->flusher && atomic_load_explicit(&s->plant->dead_letters, memory_order_relaxed)
				? flusher_dead(s->flusher, w->seq)
				: 0;
	if (!dead && !is_stored(s, w))
		return false;
	enum txn_status st = dead ? TXN_REJECTED : w->strict && has_lost(s, w->seq) ? TXN_LOST : TXN_STORED;
	apply_answer(s, w->slot, w->id, st, w->seq, dead);
	return true;
}

void apply_repeat(struct sync *s, uint32_t slot, const struct txn_head *h, uint64_t seq)
{
	struct waiter w = {
		.id = h->id, .seq = seq, .slot = slot, .scrub = h->flags & TXN_SCRUB, .strict = h->flags & TXN_STRICT};
	apply_answer(s, slot, h->id, TXN_OK, seq, 0);
	if (!(h->flags & TXN_WAIT_STORE))
		return;
	if (answer_stored(s, &w))
		return;
	remember_waiter(s, w);
	if (s->flusher)
		flusher_allow(s->flusher, seq, true);
}

void apply_refusing(struct sync *s, enum txn_status why)
{
	if (why != TXN_OK)
		atomic_store_explicit(&s->plant->refused_us, clock_mono_us(), memory_order_relaxed);
	else if (!atomic_load_explicit(&s->plant->refusing, memory_order_relaxed))
		return;
	atomic_store_explicit(&s->plant->refusing, (uint32_t)why, memory_order_release);
}

/* The pending table shows the whole batch in one step. */
static void publish(struct sync *s, struct batch *g)
{
	apply_refusing(s, TXN_OK);
	for (size_t i = 0; i < g->n; i++) {
		struct item *it = &g->items[i];
		if (it->status == TXN_OK)
			pend_txn(s, it->seq, it->where.segment, it->where.offset, it->data, it->len);
	}
	pending_publish(s->pending);
}

static void index_items(struct sync *s, const struct item *it, size_t n)
{
	uint64_t last = 0;
	for (size_t i = 0; i < n; i++) {
		if (it[i].status != TXN_OK)
			continue;
		index_txn(s, it[i].data, it[i].len);
		last = it[i].seq;
	}
	FAULT_POINT(apply_indexed);
	if (last)
		apply_finish(s, last);
	FAULT_POINT(apply_applied);
}

static void count_batch(struct sync *s, const struct batch *g)
{
	stats_add(s->w->stats, STAT_JOURNAL_RECORDS, g->writes);
	stats_add(s->w->stats, STAT_JOURNAL_BYTES, g->bytes);
	stats_add(s->w->stats, STAT_JOURNAL_SYNCS, !g->all_relaxed);
}

/* Nothing of the batch is in the journal (disk full) or nobody knows (fdatasync failed): refuse it
 * and whatever was numbered behind it, and forget what they promised. */
static void refuse_all(struct sync *s, struct batch *g, int error)
{
	/* EDQUOT: no segment fits beneath journal.quota; or the file system has a quota, and the journal is not to blame. */
	bool behind = error == EDQUOT &&
		      journal_bytes(s->journal) >
			      atomic_load_explicit(&s->plant->journal_quota, memory_order_relaxed) / 2;
	enum txn_status why = journal_failed(s->journal)	   ? TXN_JOURNAL_FAILED
			      : behind				   ? TXN_BUSY
			      : error == ENOSPC || error == EDQUOT ? TXN_DISK_FULL
								   : TXN_JOURNAL_ERROR;
	struct batch *both[2] = {g, s->open == g ? NULL : s->open};
	if (why == TXN_JOURNAL_FAILED) {
		s->failed = true;
		sync_fail(s, SYNC_JOURNAL_FAILED,
			  "the journal could not be made durable: %s. No write is accepted until the disk is "
			  "repaired and the daemon is restarted; nothing that was acknowledged is lost",
			  strerror(error));
	} else {
		static struct log_limit full, other;
		apply_refusing(s, why);
		if (why == TXN_BUSY)
			log_warn_limited_event(
				writes_refused, &full, 10,
				"journal.quota is reached, because the store is behind: writes are refused until it "
				"has caught up");
		else if (why == TXN_DISK_FULL)
			log_warn_limited_event(
				writes_refused, &full, 10,
				"the disk under data.dir is full: writes are refused until there is room");
		else
			log_warn_limited_event(writes_refused, &other, 10,
					       "the journal could not be written: %s; writes are refused until it can",
					       strerror(error));
	}
	for (int b = 0; b < 2 && both[b]; b++) {
		for (size_t i = 0; i < both[b]->n; i++) {
			struct item *it = &both[b]->items[i];
			if (it->status != TXN_OK)
				continue;
			it->status = why;
			it->arg = behind ? BUSY_ARG(BUSY_QUOTA, BEHIND_S) : (uint32_t)error;
		}
	}
	s->next_seq = g->first_seq;
	sequence_forget(s, g->first_seq - 1);
	if (both[1])
		sequence_undo(both[1]);
	sequence_undo(g);
	for (size_t i = 0; i < PLANT_NAMESPACES; i++) /* readers saw the counters of what is refused now */
		if (s->ns[i].ns && plant_find(s->plant, s->ns[i].ns))
			apply_namespace(s, &s->ns[i]);
	if (both[1]) {
		both[1]->writes = 0;
		both[1]->bytes = 0;
	}
}

static void answer_items(struct sync *s, const struct item *it, size_t n, bool *urgent_r)
{
	for (; n--; it++) {
		apply_answer(s, it->slot, it->id, it->status, it->seq, it->arg);
		if (it->status == TXN_OK && it->flags & TXN_WAIT_STORE) {
			remember_waiter(s, (struct waiter){.id = it->id,
							   .seq = it->seq,
							   .slot = it->slot,
							   .scrub = it->flags & TXN_SCRUB,
							   .strict = it->flags & TXN_STRICT});
			*urgent_r = true;
		}
	}
}

/* After this the transactions' bytes are gone; only the items' own fields may be read. */
static void release_bytes(struct sync *s, struct batch *g)
{
	for (size_t i = 0; i < g->n; i++) {
		struct item *it = &g->items[i];
		if (it->owned)
			free(it->owned);
		else
			s->peer[it->slot].held--;
	}
	intake_advance(s, g);
}

static void settle_queue(struct sync *s, const struct batch *g)
{
	for (size_t i = 0; i < g->n; i++) {
		if (!g->items[i].seq)
			continue;
		const struct txn_head *h = g->items[i].data;
		s->queued_ops -= h->nops;
		s->queued_bytes -= g->items[i].len;
	}
}

void apply_batch(struct sync *s, struct batch *g)
{
	bool urgent = false, wrote = g->writes && !g->error;
	settle_queue(s, g);
	FAULT_POINT(apply_begun);
	if (wrote)
		publish(s, g);
	else if (g->writes)
		refuse_all(s, g, g->error);
	/* In slices: the senders go on with the first answers while the rest is indexed. */
	for (size_t i = 0, n; i < g->n; i += n) {
		n = g->n - i < SLICE ? g->n - i : SLICE;
		if (wrote)
			index_items(s, g->items + i, n);
		answer_items(s, g->items + i, n, &urgent);
		FAULT_POINT(apply_answered);
		sync_ring_bells(s);
		FAULT_POINT(apply_slice);
	}
	if (wrote)
		count_batch(s, g);
	if (wrote)
		apply_lag(s, s->unflushed_bytes + g->bytes);
	/* A sync that dies before this is asked again and finds the transactions in the journal, which the flusher may
	 * not pass before. */
	release_bytes(s, g);
	FAULT_POINT(apply_released);
	g->n = g->bytes = g->writes = g->nundo = 0;
	g->all_relaxed = true;
	g->error = 0;
	if (wrote && s->flusher)
		flusher_allow(s->flusher, atomic_load_explicit(&s->plant->applied_seq, memory_order_relaxed), urgent);
}

void apply_lag(struct sync *s, uint64_t bytes)
{
	s->unflushed_bytes = bytes;
	if (bytes && !s->flusher && !atomic_load_explicit(&s->plant->oldest_unflushed_us, memory_order_relaxed))
		atomic_store_explicit(&s->plant->oldest_unflushed_us, clock_mono_us(), memory_order_relaxed);
	atomic_store_explicit(&s->plant->lag_bytes, bytes, memory_order_relaxed);
}

/* Copies of what leaves the pending table are older than this, wherever they lie. */
static void note_changed(void *arg, const struct pending_entry *e)
{
	const struct flushed_note *n = ((struct sync *)arg)->note;
	struct trust *t = &((struct sync *)arg)->plant->trust;
	if (e->type == OP_PUT || e->type == OP_DELETE)
		trust_changed(t, &e->id, n->revision);
	else if (e->type == OP_NS_DROP)
		trust_all_changed(t, n->revision);
}

void apply_flushed(struct sync *s, struct flushed_note *n)
{
	s->note = n;
	atomic_store_explicit(&s->plant->unmended, (uint32_t)(n->nmend + n->unmended), memory_order_release);
	pending_leaving(s->pending, n->seq, note_changed, s);
	notices_send(s, n->seq, n->revision);
	FAULT_POINT(flushed_told);
	pending_release(s->pending, n->seq);
	FAULT_POINT(flushed_dropped);
	s->scrubbed_seq = n->scrubbed;
	if (n->seq >
	    atomic_load_explicit(&s->plant->flushed_seq, memory_order_relaxed)) /* it may have gone back (flusher.c) */
		atomic_store_explicit(&s->plant->flushed_seq, n->seq, memory_order_release);
	if (!s->store_ops->fleet) /* else feed.c says how far */
		atomic_store_explicit(&s->plant->feed_revision, n->seq, memory_order_release);
	FAULT_POINT(flushed_moved);
	/* Behind the pending table: who still saw it there fills L1 with an epoch that is moved now. */
	mend_apply(s, n);
	atomic_store_explicit(&s->plant->unmended, (uint32_t)n->unmended, memory_order_release);
	atomic_store_explicit(&s->plant->journal_bytes, journal_bytes(s->journal), memory_order_relaxed);
	atomic_store_explicit(&s->plant->oldest_unflushed_us, n->oldest_us, memory_order_relaxed);
	apply_lag(s, n->bytes < s->unflushed_bytes ? s->unflushed_bytes - n->bytes : 0);
	size_t kept = 0;
	for (size_t i = 0; i < s->nwaiters; i++)
		if (!answer_stored(s, &s->waiters[i]))
			s->waiters[kept++] = s->waiters[i];
	s->nwaiters = kept;
	s->note = NULL;
	free(n->lost);
}
