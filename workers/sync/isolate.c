/* The store does not accept something: that operation becomes a dead letter, and the rest goes on. The letter is
 * durable before the cursor may pass the operation; a successor that finds the letter in front of the cursor
 * leaves the operation out as we do. */
#define LOG_SUBSYSTEM LOG_IN_STORE
#include <errno.h>
#include <stdlib.h>

#include "clock.h"
#include "fault.h"
#include "flusher-private.h"
#include "log.h"

#define SHOWN 200 /* bytes of a reason in a log line */

const struct ahead *isolate_ahead(const struct flusher *f, uint64_t seq, uint32_t op)
{
	for (size_t i = 0; i < f->nahead; i++)
		if (f->ahead[i].seq == seq && f->ahead[i].op == op)
			return &f->ahead[i];
	return NULL;
}

static bool is_memory(uint32_t type) { return type == OP_PUT || type == OP_DELETE; }

static void note_diverged(struct flusher *f, const struct ahead *a)
{
	for (size_t i = 0; i < f->ndiverged; i++)
		if (uuid_cmp(&f->diverged[i].id, &a->id) == 0)
			return;
	GROW(f->diverged, f->ndiverged, f->cdiverged);
	f->diverged[f->ndiverged++] = (struct diverged){a->id, a->base};
}

static void note_ahead(struct flusher *f, const struct dead_letter *l)
{
	struct op_head op = {.type = (uint16_t)l->type, .len = l->body_len};
	struct ahead a = {.seq = l->seq, .op = l->op, .type = l->type, .ns = l->ns, .version = l->version, .id = l->id};
	batch_weigh(&op, l->body, &a.base, &a.now);
	if (is_memory(a.type))
		note_diverged(f, &a);
	GROW(f->ahead, f->nahead, f->cahead);
	f->ahead[f->nahead++] = a;
}

/* Letters behind what shared memory is known to show right: their operations may be shown there still. */
void isolate_load(struct flusher *f)
{
	uint64_t mended = atomic_load(&f->s->plant->dead_mended);
	for (size_t i = 0; i < f->letters.n; i++) {
		const struct letter *e = &f->letters.v[i];
		char *bytes = NULL;
		struct dead_letter l;
		if (e->seq > f->flushed && dead_read(f->letters.dir, e->number, &bytes, &l) == 0) {
			note_ahead(f, &l);
		} else if (e->seq <= f->flushed && e->seq > mended) {
			struct ahead a = {.seq = e->seq,
					  .op = e->op,
					  .type = e->type,
					  .ns = e->ns,
					  .version = e->version,
					  .id = e->id};
			mend_add(f, &a);
		}
		free(bytes);
	}
}

static bool find_op(struct flusher *f, uint64_t seq, uint32_t op, struct txn_reader *t, struct dead_letter *l)
{
	const struct op_head *head;
	const void *body;
	if (!batch_txn(f, seq, t))
		return false;
	struct txn_reader r = *t;
	for (uint32_t i = 0; txn_next(&r, &head, &body); i++)
		if (i == op) {
			dead_describe(head, body, l);
			return true;
		}
	return false;
}

/* A namespace's operations carry its number; its name is in its row. */
static void name_it(const struct flusher *f, struct dead_letter *l)
{
	struct plant_namespace *row = l->namespace.len ? NULL : plant_find(f->s->plant, l->ns);
	if (row)
		l->namespace = (struct span){row->name, row->name_len};
}

static void tell(const struct dead_letter *l)
{
	static struct log_limit limit;
	int n = (int)(l->reason.len < SHOWN ? l->reason.len : SHOWN);
	log_warn_limited_event(
		dead_letter, &limit, 1,
		"the store does not accept operation %u of transaction %llu (%.*s): it is dead letter %llu "
		"now (orchestractl dlq), and everything else goes on",
		l->op, (unsigned long long)l->seq, n, l->reason.p, (unsigned long long)l->number);
}

static bool make_letter(struct flusher *f, uint64_t seq, uint32_t op, struct span reason)
{
	struct txn_reader t;
	struct dead_letter l;
	if (!find_op(f, seq, op, &t, &l)) {
		flusher_trouble(f, "the store rejects record %llu (%.*s), which cannot be read from the journal again",
				(unsigned long long)seq, (int)reason.len, reason.p);
		return false;
	}
	const struct letter *before = t.head->letter && t.head->slot == SLOT_SYNC
					      ? letters_find(&f->letters, t.head->letter)
					      : NULL;
	l.number = before ? before->number : 0;
	l.tries = before ? before->tries + 1 : 1;
	l.seq = seq;
	l.op = op;
	l.at_us = clock_real_us();
	l.reason = reason;
	name_it(f, &l);
	int e = letters_add(&f->letters, &l, f->letters_max);
	atomic_store(&f->s->plant->dead_full, e == EDQUOT);
	if (e == EDQUOT)
		flusher_trouble(
			f,
			"the list of dead letters is full (sync.dead_letters_max = %llu), and the store rejects "
			"another operation: %.*s. Retry or discard some (orchestractl dlq), or raise the limit",
			(unsigned long long)f->letters_max, (int)reason.len, reason.p);
	else if (e)
		flusher_trouble(f, "a dead letter cannot be written beneath data.dir: %s", strerror(e));
	if (e)
		return false;
	note_ahead(f, &l);
	stats_add_shared(f->s->w->stats, STAT_DEAD_LETTERS, 1);
	atomic_store(&f->s->plant->dead_letters, f->letters.n);
	tell(&l);
	return true;
}

bool isolate(struct flusher *f, const struct attempt *a)
{
	const struct store_ops *ops = f->s->store_ops;
	uint64_t seq = a->last_seq;
	uint32_t op = a->last_op, given;
	struct txn_reader t;
	const char *said = ops->error(f->store);
	char *reason = util_strndup(said ? said : "", said ? strlen(said) : 0);
	bool known = ops->culprit && ops->culprit(f->store, &seq, &given), done = true;
	ops->rollback(f->store);
	util_utf8_scrub(reason, strlen(reason));
	if (known && (known = batch_txn(f, seq, &t)))
		op = batch_original_op(f, &t, seq, given);
	bool alone = !known && pace_rejected(&f->pace, a->ops ? a->ops : 1);
	if (known || alone) {
		done = make_letter(f, known ? seq : a->last_seq, known ? op : a->last_op, SPAN(reason));
		if (done)
			pace_settled(&f->pace);
	}
	free(reason);
	return done;
}
