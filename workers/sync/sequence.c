/* Validation and numbering: what may be written, in which order.
 *
 * Every decision that must be atomic is taken here, one after the other, without I/O: the sender has
 * evaluated preconditions, de-duplication and idempotency against what it read, named what it read
 * (read_keys, read_seq), and is refused with CONFLICT when any of it has changed since. */
#define LOG_SUBSYSTEM LOG_IN_SYNC
#include <stdlib.h>

#include "clock.h"
#include "fault.h"
#include "log.h"
#include "sync.h"

struct ns_state *sequence_ns(struct sync *s, uint64_t ns)
{
	for (size_t i = ns & (PLANT_NAMESPACES - 1); s->ns[i].ns; i = (i + 1) & (PLANT_NAMESPACES - 1))
		if (s->ns[i].ns == ns)
			return &s->ns[i];
	return NULL;
}

struct ns_state *sequence_ns_make(struct sync *s, uint64_t ns, struct span name)
{
	struct ns_state *n = sequence_ns(s, ns);
	if (n)
		return n;
	if (s->nns >= PLANT_NAMESPACES / 8 * 7 || !ns || name.len > LIMIT_NAMESPACE)
		return NULL;
	size_t i = ns & (PLANT_NAMESPACES - 1);
	while (s->ns[i].ns)
		i = (i + 1) & (PLANT_NAMESPACES - 1);
	n = &s->ns[i];
	memset(n, 0, sizeof(*n));
	n->ns = ns;
	n->name_len = (uint32_t)name.len;
	memcpy(n->name, name.p, name.len);
	n->relaxed = s->relaxed_default;
	s->nns++;
	return n;
}

/* ---- the keys ---- */

static void remember_op(struct sync *s, const struct op_head *op, const void *body, uint64_t seq)
{
	switch (op->type) {
	case OP_PUT: {
		struct memory m;
		if (!memory_decode(body, op->len, &m))
			return;
		recent_write(s->recent, record_id_key(&m.id), seq);
		recent_write(s->recent, m.content_hash, seq);
		if (m.external_id.len)
			recent_write(s->recent, record_external_key(m.ns, m.external_id), seq);
		break;
	}
	case OP_DELETE: {
		const struct op_delete *d = body;
		recent_write(s->recent, record_id_key(&d->id), seq);
		if (d->content_key)
			recent_write(s->recent, d->content_key, seq);
		if (d->external_key)
			recent_write(s->recent, d->external_key, seq);
		break;
	}
	case OP_IDEM: recent_write(s->recent, ((const struct op_idem *)body)->key, seq); break;
	case OP_NAMESPACE: recent_write(s->recent, record_ns_key(((const struct op_namespace *)body)->ns), seq); break;
	case OP_NS_DROP: recent_write(s->recent, record_ns_key(((const struct op_ns_drop *)body)->ns), seq); break;
	}
}

void sequence_remember(struct sync *s, struct txn_reader *t, uint64_t seq)
{
	struct txn_reader r = *t;
	const struct op_head *op;
	const void *body;
	while (txn_next(&r, &op, &body))
		remember_op(s, op, body, seq);
	recent_write(s->recent, t->head->id, seq);
}

void sequence_forget(struct sync *s, uint64_t floor)
{
	recent_free(&s->recent);
	s->recent = recent_new(RECENT_KEYS, floor);
	for (uint64_t seq = floor < PLANT_KNOWN ? 1 : floor - PLANT_KNOWN + 1; seq <= floor; seq++) {
		uint64_t id = plant_known(s->plant, seq);
		if (id)
			recent_write(s->recent, id, seq);
	}
}

/* ---- namespace accounting ---- */

static void account_put(struct sync *s, const struct memory *m)
{
	struct ns_state *n = sequence_ns_make(s, m->ns, m->ns_name);
	if (!n)
		return;
	if (!n->exists) {
		n->exists = 1;
		n->created_us = m->updated_us;
	}
	if (m->dim && !n->dim) {
		n->dim = m->dim;
		memcpy(n->embedder, m->embedder.p, m->embedder.len);
		n->embedder[m->embedder.len] = 0;
	}
	if (m->deleted_us)
		return;
	n->bytes += memory_quota_bytes(m);
	if (m->replaces_bytes >= 0)
		n->bytes -= (uint64_t)m->replaces_bytes;
	else
		n->count++;
}

static enum language language_of(const struct op_namespace *o)
{
	return language_read_settings((struct span){(const char *)(o + 1) + o->name_len, o->settings_len});
}

/* What was analysed otherwise would not be found. It happens when two daemons make a namespace at the same time, each with
 * memories, or when the store did not accept a change. */
void sequence_language(struct sync *s, struct ns_state *n, enum language l, uint64_t flushed)
{
	if (n->language == l || n->language_seq > flushed)
		return;
	n->language = l;
	if (!postings_count(s->postings, n->ns))
		return;
	postings_drop(s->postings, n->ns);
	postings_lacks(s->postings, n->ns); /* the store has its words */
	log_warn("namespace %.*s is %s for the store: its words are searched there until the next start of the daemon",
		 (int)n->name_len, n->name, language_name(l));
}

void sequence_account(struct sync *s, const struct op_head *op, const void *body, uint64_t seq)
{
	struct memory m;
	struct ns_state *n;
	switch (op->type) {
	case OP_PUT:
		if (memory_decode(body, op->len, &m))
			account_put(s, &m);
		break;
	case OP_DELETE: {
		const struct op_delete *d = body;
		n = sequence_ns(s, d->ns);
		if (n && d->bytes >= 0) { /* -1: it was soft-deleted already and counts no more */
			n->count--;
			n->bytes -= (uint64_t)d->bytes;
		}
		break;
	}
	case OP_NAMESPACE: {
		const struct op_namespace *o = body;
		n = sequence_ns_make(s, o->ns, (struct span){(const char *)(o + 1), o->name_len});
		if (!n || (o->flags & NAMESPACE_ENSURE && n->exists))
			break;
		if (o->flags & NAMESPACE_LANGUAGE) {
			n->language = language_of(o);
			n->language_seq = seq;
		}
		if (!n->exists)
			n->created_us = o->at_us;
		n->exists = 1;
		n->quota_bytes = o->quota_bytes;
		n->quota_count = o->quota_count;
		if (!(o->flags & NAMESPACE_ENSURE))
			n->relaxed = o->relaxed;
		break;
	}
	case OP_NS_DROP:
		n = sequence_ns(s, ((const struct op_ns_drop *)body)->ns);
		if (n) {
			n->exists = n->dim = n->relaxed = 0;
			n->count = n->bytes = n->quota_bytes = n->quota_count = 0;
			n->embedder[0] = 0;
			n->language = LANGUAGE_ENGLISH;
			n->dropped_seq = n->language_seq = seq;
		}
		break;
	}
}

/* ---- validation ---- */

/* Rows of the old life would show in the new one until the store has dropped them. */
static bool dropping(const struct sync *s, const struct ns_state *n)
{
	return !n->exists && n->dropped_seq > atomic_load_explicit(&s->plant->flushed_seq, memory_order_relaxed);
}

static enum txn_status check_put(struct sync *s, const struct memory *m)
{
	struct ns_state *n = sequence_ns_make(s, m->ns, m->ns_name);
	if (!n)
		return TXN_NAMESPACES_FULL;
	if (dropping(s, n))
		return TXN_NAMESPACE_DROPPING;
	if (n->name_len != m->ns_name.len || memcmp(n->name, m->ns_name.p, m->ns_name.len) != 0)
		return TXN_MALFORMED; /* another name with the same 64-bit number */
	if (m->dim && m->embedder.len >= sizeof(n->embedder))
		return TXN_MALFORMED;
	if (m->dim && n->dim && (n->dim != m->dim || !span_eq(SPAN(n->embedder), m->embedder)))
		return TXN_EMBEDDER_MISMATCH;
	if (m->replaces_bytes < 0 && n->quota_count && sequence_counter(n->count) + 1 > n->quota_count)
		return TXN_QUOTA_COUNT;
	int64_t grow = (int64_t)memory_quota_bytes(m) - (m->replaces_bytes > 0 ? m->replaces_bytes : 0);
	if (n->quota_bytes && grow > 0 && sequence_counter(n->bytes) + (uint64_t)grow > n->quota_bytes)
		return TXN_QUOTA_BYTES;
	return TXN_OK;
}

static enum txn_status check_namespace(struct sync *s, const struct ns_state *n, const struct op_namespace *o)
{
	bool speaks = o->flags & NAMESPACE_LANGUAGE && !(o->flags & NAMESPACE_ENSURE);
	if (!n)
		return TXN_NAMESPACES_FULL;
	if (dropping(s, n))
		return TXN_NAMESPACE_DROPPING;
	return speaks && n->exists && sequence_counter(n->count) && language_of(o) != n->language ? TXN_LANGUAGE_FIXED
												  : TXN_OK;
}

static bool op_wellformed(const struct op_head *op, const void *body)
{
	const struct op_namespace *n = body;
	const struct op_idem *i = body;
	switch (op->type) {
	case OP_PUT: return true; /* memory_decode checks */
	case OP_DELETE: return op->len >= sizeof(struct op_delete);
	case OP_IDEM: return op->len >= sizeof(*i) && i->reply_len <= op->len - sizeof(*i);
	case OP_NAMESPACE:
		return op->len >= sizeof(*n) && n->name_len <= op->len - sizeof(*n) &&
		       n->settings_len <= op->len - sizeof(*n) - n->name_len;
	case OP_NS_DROP: return op->len >= sizeof(struct op_ns_drop);
	}
	return false;
}

/* The namespace that a well-formed operation changes, made if need be; NULL: none, or the table is full. */
static struct ns_state *row_of(struct sync *s, const struct op_head *op, const void *body, const struct memory *m)
{
	const struct op_namespace *o = body;
	switch (op->type) {
	case OP_PUT: return sequence_ns_make(s, m->ns, m->ns_name);
	case OP_DELETE: return sequence_ns(s, ((const struct op_delete *)body)->ns);
	case OP_NAMESPACE: return sequence_ns_make(s, o->ns, (struct span){(const char *)(o + 1), o->name_len});
	case OP_NS_DROP: return sequence_ns(s, ((const struct op_ns_drop *)body)->ns);
	}
	return NULL;
}

/* May it wait for the disk? To change a namespace itself never may. */
static bool op_relaxed(const struct op_head *op, const struct ns_state *n)
{
	return op->type == OP_IDEM || ((op->type == OP_PUT || op->type == OP_DELETE) && n && n->relaxed);
}

/* Checks each operation and folds it into the namespace states at once, so that a bulk is judged
 * as a whole (its 500th memory against the quota that the first 499 left). On a refusal the states
 * touched so far are put back: the transaction stored nothing. */
static void keep_undo(struct batch *g, const struct ns_undo *undo, size_t n)
{
	if (g->nundo + n > g->cundo) {
		g->cundo = 2 * g->cundo + 64;
		g->undo = util_realloc(g->undo, g->cundo * sizeof(*g->undo));
	}
	memcpy(g->undo + g->nundo, undo, n * sizeof(*undo));
	g->nundo += n;
}

void sequence_undo(struct batch *g)
{
	while (g->nundo--)
		*g->undo[g->nundo].row = g->undo[g->nundo].old;
	g->nundo = 0;
}

static enum txn_status check_ops(struct sync *s, struct txn_reader t, bool *relaxed_r, uint32_t *arg_r)
{
	struct ns_undo undo[4];
	size_t nundo = 0;
	enum txn_status st = TXN_OK;
	const struct op_head *op;
	const void *body;
	*relaxed_r = true;
	for (*arg_r = 0; st == TXN_OK && txn_next(&t, &op, &body); ++*arg_r) {
		struct memory m;
		if (!op_wellformed(op, body) || (op->type == OP_PUT && !memory_decode(body, op->len, &m))) {
			st = TXN_MALFORMED;
			break;
		}
		struct ns_state *n = row_of(s, op, body, &m);
		/* What its sender read is gone with the namespace's old life: a change of a memory would bring it back. */
		if (n && n->dropped_seq > t.head->read_seq) {
			st = TXN_CONFLICT;
			break;
		}
		size_t known = 0;
		while (known < nundo && undo[known].row != n)
			known++;
		if (n && known == nundo) {
			if (nundo == ARRAY_LEN(undo)) {
				st = TXN_MALFORMED; /* our own senders write to one namespace at a time */
				break;
			}
			undo[nundo++] = (struct ns_undo){n, *n};
		}
		if (op->type == OP_PUT)
			st = check_put(s, &m);
		else if (op->type == OP_NAMESPACE)
			st = check_namespace(s, n, body);
		if (st != TXN_OK)
			break;
		sequence_account(s, op, body, s->next_seq);
		*relaxed_r = *relaxed_r && op_relaxed(op, n);
	}
	if (st == TXN_OK)
		keep_undo(s->open, undo, nundo);
	while (st != TXN_OK && nundo--)
		*undo[nundo].row = undo[nundo].old;
	return st;
}

static bool reads_hold(struct sync *s, const struct txn_reader *t)
{
	for (uint32_t i = 0; i < t->head->nkeys; i++)
		if (!recent_unchanged(s->recent, t->keys[i], t->head->read_seq))
			return false;
	return true;
}

static enum txn_status judge(struct sync *s, struct txn_reader *t, size_t len, bool *relaxed_r, uint32_t *arg_r)
{
	*arg_r = 0;
	*relaxed_r = false;
	enum txn_status st = s->failed ? TXN_JOURNAL_FAILED : admit_txn(s, t->head->nops, len, arg_r);
	if (st == TXN_BUSY && !(*arg_r & BUSY_BULK)) /* whoever has a single thing to say is still heard */
		apply_refusing(s, st);
	if (st != TXN_OK)
		return st;
	if (!reads_hold(s, t))
		return TXN_CONFLICT;
	return check_ops(s, *t, relaxed_r, arg_r);
}

/* A transaction that was already numbered comes again: its sender did not hear from a sync that
 * died. Answered now when it is applied; else its first copy's batch will. One that the store has had for long is not
 * among the recent ones: then its sender, who waits for the store only, knows the number. */
static bool is_repeat(struct sync *s, uint32_t slot, const struct txn_head *h)
{
	uint64_t seq = recent_seq(s->recent, h->id);
	if (!seq && h->seq < s->next_seq)
		seq = h->seq;
	if (!seq)
		return false;
	if (seq <= atomic_load_explicit(&s->plant->applied_seq, memory_order_relaxed))
		apply_repeat(s, slot, h, seq);
	return true;
}

/* Not a write: nothing is numbered, and whoever asks twice is answered twice. */
static void take_order(struct sync *s, uint32_t slot, struct txn_reader *t)
{
	const struct op_head *op;
	const void *body;
	struct op_order order;
	if (txn_next(t, &op, &body) && op->type == OP_ORDER && op->len >= sizeof(order) && s->flusher) {
		memcpy(&order, body, sizeof(order));
		flusher_order(s->flusher, slot, t->head->id, &order);
	} else {
		apply_answer(s, slot, t->head->id, s->flusher ? TXN_MALFORMED : TXN_BUSY, 0, 0);
	}
}

void sequence_txn(struct sync *s, uint32_t slot, const void *data, size_t len, void *owned)
{
	struct batch *g = s->open;
	struct txn_reader t;
	if (!txn_open(&t, data, len)) {
		log_error("a malformed transaction from slot %u is dropped", slot);
		free(owned);
		return;
	}
	if (t.head->flags & TXN_ORDER) {
		take_order(s, slot, &t);
		free(owned);
		return;
	}
	if (is_repeat(s, slot, t.head)) {
		free(owned);
		return;
	}
	struct item *it = &g->items[g->n++];
	bool relaxed;
	*it = (struct item){
		.data = data, .len = len, .owned = owned, .id = t.head->id, .slot = slot, .flags = t.head->flags};
	it->status = judge(s, &t, len, &relaxed, &it->arg);
	if (!owned) {
		g->uses_ring[slot] = true;
		s->peer[slot].held++;
	}
	if (it->status != TXN_OK)
		return;
	it->seq = s->next_seq++;
	if (!g->writes++)
		g->first_seq = it->seq;
	g->bytes += len;
	g->all_relaxed = g->all_relaxed && relaxed;
	s->queued_ops += t.head->nops;
	s->queued_bytes += len;
	sequence_remember(s, &t, it->seq);
	FAULT_POINT(sequence_numbered);
}
