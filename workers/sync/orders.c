/* Orders about dead letters: to try one again, or all, or to discard them.
 *
 * To try again is to write: the operation goes through the sequencer and the journal as a transaction of its own, which
 * carries the letter's number. When the store takes it the letter goes; when it does not, the letter stays, with the new reason.
 * Before, the store is asked whether the operation still makes sense: newer wins. */
#define LOG_SUBSYSTEM LOG_IN_STORE
#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#include "clock.h"
#include "fault.h"
#include "flusher-private.h"
#include "log.h"

#define UNDER_WAY 64 /* letters that are tried at once */

/* ---- the loop's side ---- */

void flusher_order(struct flusher *f, uint32_t slot, uint64_t id, const struct op_order *what)
{
	struct order *o = util_zalloc(sizeof(*o));
	*o = (struct order){.id = id, .slot = slot, .what = *what};
	pthread_mutex_lock(&f->lock);
	struct order **end = &f->asked;
	while (*end)
		end = &(*end)->next;
	*end = o;
	pthread_cond_signal(&f->wake);
	pthread_mutex_unlock(&f->lock);
}

void flusher_refused(struct flusher *f, uint64_t txn, enum txn_status why)
{
	pthread_mutex_lock(&f->lock);
	for (size_t i = 0; i < f->nretries; i++)
		if (f->retries[i].txn == txn) {
			f->retries[i].refused = why;
			f->refusals = true;
			pthread_cond_signal(&f->wake);
		}
	pthread_mutex_unlock(&f->lock);
}

struct answer_note {
	uint64_t id, gone;
	uint32_t slot, stay;
	enum txn_status status;
};

static void on_answer(struct sync *s, void *arg)
{
	struct answer_note *a = arg;
	apply_answer(s, a->slot, a->id, a->status, a->gone, a->stay);
	free(a);
}

/* A transaction of sync's own. Without journal thread sync is leaving; its successor is asked again. */
static void on_retry(struct sync *s, void *arg)
{
	struct buf *b = arg;
	uint64_t id = ((const struct txn_head *)(const void *)b->p)->id;
	if (s->committer && commit_open(s)->n < BATCH_TXNS) {
		intake_internal(s, b->p, b->len);
		commit_offer(s);
	} else {
		if (s->flusher)
			flusher_refused(s->flusher, id, TXN_BUSY);
		free(b->p);
	}
	free(b);
}

/* ---- the end of an order ---- */

static void answer(struct flusher *f, struct order *o, enum txn_status status, uint32_t arg)
{
	struct answer_note *a = util_alloc(sizeof(*a));
	*a = (struct answer_note){.id = o->id, .gone = o->gone, .slot = o->slot, .stay = arg, .status = status};
	atomic_store(&f->s->plant->dead_letters, f->letters.n);
	sync_post(f->s, on_answer, a);
}

static void order_free(struct order *o)
{
	free(o->todo);
	free(o);
}

static bool finish(struct flusher *f, struct order *o)
{
	if (o->waiting || o->ntodo)
		return false;
	bool single = o->what.number != 0;
	answer(f, o, single && o->stay ? o->why : TXN_OK, single && o->why == TXN_JOURNAL_ERROR ? EIO : o->stay);
	order_free(o);
	return true;
}

static void finish_all(struct flusher *f)
{
	for (struct order **at = &f->orders; *at;) {
		struct order *o = *at, *next = o->next;
		if (finish(f, o))
			*at = next;
		else
			at = &o->next;
	}
}

static void stays(struct order *o, enum txn_status why)
{
	o->stay++;
	o->why = why;
}

static void goes(struct flusher *f, struct order *o, uint64_t number)
{
	int e = letters_remove(&f->letters, number);
	if (e) {
		log_error("dead letter %llu cannot be removed: %s", (unsigned long long)number, strerror(e));
		stays(o, TXN_JOURNAL_ERROR);
		return;
	}
	o->gone++;
}

/* ---- does it still make sense? ---- */

struct now {
	uint64_t version;
	int64_t bytes; /* -1: not live */
	bool found, other, same;
	struct uuid id;
	struct span body; /* of the letter */
};

static bool see(void *arg, const struct memory *m)
{
	struct now *n = arg;
	n->found = true;
	n->version = m->version;
	n->same = span_eq(m->body, n->body) && !m->deleted_us;
	n->bytes = m->deleted_us ? -1 : (int64_t)memory_quota_bytes(m);
	return false;
}

static bool see_other(void *arg, const struct memory *m)
{
	struct now *n = arg;
	n->other |= !m->deleted_us && uuid_cmp(&m->id, &n->id) != 0;
	return !n->other;
}

enum fate { FATE_TRY, FATE_STORED, FATE_OUTDATED, FATE_AWAY };

static bool answered(enum store_rc rc) { return rc == STORE_OK || rc == STORE_NOT_FOUND; }

static enum fate judge_put(struct flusher *f, const struct dead_letter *l, struct memory *m)
{
	const struct store_ops *ops = f->s->store_ops;
	struct now n = {.id = l->id};
	if (!memory_decode(l->body, l->body_len, m))
		return FATE_OUTDATED;
	n.body = m->body;
	if (!answered(ops->get(f->store, &l->id, false, see, &n)))
		return FATE_AWAY;
	if (n.found && n.version >= m->version) /* a predecessor may have stored it, and died before the letter went */
		return n.version == m->version && n.same ? FATE_STORED : FATE_OUTDATED;
	if (m->external_id.len && !m->deleted_us &&
	    !answered(ops->by_external(f->store, m->ns, m->external_id, false, see_other, &n)))
		return FATE_AWAY;
	m->replaces_bytes = n.found ? n.bytes : -1;
	return n.other ? FATE_OUTDATED : FATE_TRY;
}

static enum fate judge_delete(struct flusher *f, const struct dead_letter *l, struct op_delete *d)
{
	struct now n = {.found = false};
	if (l->body_len < sizeof(*d))
		return FATE_OUTDATED;
	memcpy(d, l->body, sizeof(*d));
	if (!answered(f->s->store_ops->get(f->store, &l->id, false, see, &n)))
		return FATE_AWAY;
	if (!n.found)
		return FATE_STORED;
	d->bytes = n.bytes;
	return n.version >= d->version ? FATE_OUTDATED : FATE_TRY;
}

static enum fate judge_idem(struct flusher *f, const struct dead_letter *l)
{
	const struct op_idem *i = l->body;
	struct op_idem old;
	struct buf reply = {0};
	int64_t now = clock_real_us();
	if (l->body_len < sizeof(*i))
		return FATE_OUTDATED;
	if (i->expires_us <= now)
		return FATE_STORED; /* it would be gone by now */
	enum store_rc rc = f->s->store_ops->idem(f->store, i->key, now, &old, &reply);
	buf_free(&reply);
	return rc == STORE_OK ? FATE_OUTDATED : rc == STORE_NOT_FOUND ? FATE_TRY : FATE_AWAY;
}

/* The transaction that tries the letter again, in *b. */
static enum fate build(struct flusher *f, const struct dead_letter *l, uint64_t id, struct buf *b)
{
	struct txn_builder t;
	struct memory m;
	struct op_delete d;
	enum fate fate = l->type == OP_PUT	   ? judge_put(f, l, &m)
			 : l->type == OP_DELETE	   ? judge_delete(f, l, &d)
			 : l->type == OP_IDEM	   ? judge_idem(f, l)
			 : l->type == OP_NAMESPACE ? FATE_TRY
						   : FATE_OUTDATED; /* a drop would take what was written since */
	if (fate != FATE_TRY)
		return fate;
	txn_begin(&t, b, id, SLOT_SYNC, l->type == OP_NAMESPACE ? l->seq : f->flushed, TXN_WAIT_STORE);
	if (l->type == OP_NAMESPACE)
		txn_read_key(&t, record_ns_key(l->ns));
	else if (l->type == OP_IDEM)
		txn_read_key(&t, ((const struct op_idem *)l->body)->key);
	else
		txn_read_key(&t, record_id_key(&l->id));
	if (l->type == OP_PUT && m.external_id.len)
		txn_read_key(&t, record_external_key(m.ns, m.external_id));
	if (l->type == OP_PUT)
		txn_op_put(&t, &m);
	else if (l->type == OP_DELETE)
		txn_op_raw(&t, OP_DELETE, &d, sizeof(d), NULL, 0);
	else
		txn_op_raw(&t, (enum op_type)l->type, l->body, l->body_len, NULL, 0);
	txn_end(&t);
	((struct txn_head *)(void *)b->p)->letter = (uint32_t)l->number;
	return FATE_TRY;
}

/* ---- trying ---- */

static void post(struct flusher *f, struct order *o, uint64_t number, uint64_t id, const struct buf *txn)
{
	struct buf *b = util_alloc(sizeof(*b));
	*b = *txn;
	pthread_mutex_lock(&f->lock);
	GROW(f->retries, f->nretries, f->cretries);
	f->retries[f->nretries++] = (struct retry){
		.txn = id, .letter = (uint32_t)number, .order = o, .refused = TXN_OK};
	pthread_mutex_unlock(&f->lock);
	o->waiting++;
	sync_post(f->s, on_retry, b);
}

static void try_letter(struct flusher *f, struct order *o, uint64_t number)
{
	const struct letter *e = letters_find(&f->letters, number);
	struct dead_letter l;
	char *bytes = NULL;
	struct buf txn = {0};
	uint64_t id;
	if (!e || e->seq > f->flushed) {
		stays(o, e ? TXN_BUSY : TXN_NO_LETTER);
		return;
	}
	for (size_t i = 0; i < f->nretries; i++)
		if (f->retries[i].letter == number) { /* somebody else is at it */
			stays(o, TXN_BUSY);
			return;
		}
	int error = dead_read(f->letters.dir, number, &bytes, &l);
	AN(getrandom(&id, sizeof(id), 0) == sizeof(id));
	enum fate fate = error ? FATE_OUTDATED : build(f, &l, id, &txn);
	if (error)
		stays(o, TXN_JOURNAL_ERROR);
	else if (fate == FATE_TRY)
		post(f, o, number, id, &txn);
	else if (fate == FATE_STORED)
		goes(f, o, number);
	else
		stays(o, fate == FATE_AWAY ? TXN_BUSY : TXN_OUTDATED);
	free(bytes);
}

static struct retry take_retry(struct flusher *f, size_t i)
{
	struct retry r = f->retries[i];
	f->retries[i] = f->retries[--f->nretries];
	return r;
}

void orders_tried(struct flusher *f, uint32_t letter, bool stored)
{
	struct order *o = NULL, nobody = {.next = NULL};
	pthread_mutex_lock(&f->lock);
	for (size_t i = 0; i < f->nretries; i++)
		if (f->retries[i].letter == letter) {
			o = take_retry(f, i).order;
			break;
		}
	pthread_mutex_unlock(&f->lock);
	if (o)
		o->waiting--;
	if (stored)
		goes(f, o ? o : &nobody, letter);
	else if (o)
		stays(o, TXN_REJECTED);
	atomic_store(&f->s->plant->dead_letters, f->letters.n);
}

static enum txn_status reason_of(enum txn_status refused)
{
	return refused == TXN_CONFLICT || refused == TXN_EMBEDDER_MISMATCH ? TXN_OUTDATED : refused;
}

static void take_refusals(struct flusher *f)
{
	pthread_mutex_lock(&f->lock);
	f->refusals = false;
	for (size_t i = 0; i < f->nretries;) {
		if (f->retries[i].refused == TXN_OK) {
			i++;
			continue;
		}
		struct retry r = take_retry(f, i);
		if (r.order) {
			r.order->waiting--;
			stays(r.order, reason_of(r.refused));
		}
	}
	pthread_mutex_unlock(&f->lock);
}

/* ---- orders ---- */

static void discard(struct flusher *f, struct order *o)
{
	for (size_t i = o->ntodo; i--;) {
		const struct letter *e = letters_find(&f->letters, o->todo[i]);
		if (!e)
			stays(o, TXN_NO_LETTER);
		else if (e->seq > f->flushed)
			stays(o, TXN_BUSY);
		else
			goes(f, o, o->todo[i]);
	}
	o->ntodo = 0;
}

static void begin(struct flusher *f, struct order *o)
{
	o->ntodo = o->what.number ? 1 : f->letters.n;
	o->todo = util_alloc((o->ntodo + 1) * sizeof(*o->todo));
	if (o->what.number)
		o->todo[0] = o->what.number;
	else /* taken from the end: the oldest come first */
		for (size_t i = 0; i < o->ntodo; i++)
			o->todo[i] = f->letters.v[o->ntodo - 1 - i].number;
	if (o->what.what == ORDER_DISCARD)
		discard(f, o);
	o->next = f->orders;
	f->orders = o;
}

bool orders_waiting(const struct flusher *f) { return f->asked || f->refusals; }

void orders_run(struct flusher *f)
{
	pthread_mutex_lock(&f->lock);
	struct order *in = f->asked;
	f->asked = NULL;
	pthread_mutex_unlock(&f->lock);
	if (!in && !f->orders && !f->refusals)
		return;
	while (in) {
		struct order *o = in;
		in = o->next;
		begin(f, o);
	}
	take_refusals(f);
	for (struct order *o = f->orders; o; o = o->next)
		while (o->ntodo && o->waiting < UNDER_WAY && f->nretries < 2 * UNDER_WAY)
			try_letter(f, o, o->todo[--o->ntodo]);
	finish_all(f);
	FAULT_POINT(dead_ordered);
}

/* What is on its way is tried when the store is back, and nobody is told. */
void orders_away(struct flusher *f)
{
	pthread_mutex_lock(&f->lock);
	for (size_t i = 0; i < f->nretries; i++)
		f->retries[i].order = NULL;
	pthread_mutex_unlock(&f->lock);
	while (f->orders) {
		struct order *o = f->orders;
		f->orders = o->next;
		answer(f, o, TXN_BUSY, o->stay + o->waiting + (unsigned)o->ntodo);
		order_free(o);
	}
}

void orders_end(struct flusher *f)
{
	while (f->orders || f->asked) {
		struct order **from = f->orders ? &f->orders : &f->asked, *o = *from;
		*from = o->next;
		order_free(o); /* its sender asks our successor */
	}
}
