/* What expired, and what lay in the trash for long enough: found in the store, deleted like anything else. */
#include <stdlib.h>
#include <sys/random.h>

#include "clock.h"
#include "fault.h"
#include "flusher-private.h"

#define COLLECT_MAX 500

struct collected {
	struct txn_builder t;
	struct buf b;
	size_t n;
};

static bool collect_one(void *arg, const struct memory *m)
{
	struct collected *c = arg;
	txn_op_delete(&c->t, m, DELETE_EXPIRED);
	c->n++;
	return true;
}

static bool collect_key(void *arg, const struct memory *m)
{
	txn_read_key(arg, record_id_key(&m->id));
	return true;
}

static void on_collected(struct sync *s, void *arg)
{
	struct buf *b = arg;
	/* Without journal thread sync is leaving. */
	if (s->committer && commit_open(s)->n < BATCH_TXNS) {
		intake_internal(s, b->p, b->len);
		commit_offer(s);
	} else {
		free(b->p); /* the next round, or the next sync, finds them again */
	}
	free(b);
}

void collect_run(struct flusher *f, int64_t trash_us)
{
	const struct store_ops *ops = f->s->store_ops;
	uint64_t read_seq = f->flushed; /* the store's own state: anything newer makes it a conflict */
	uint64_t id;
	AN(getrandom(&id, sizeof(id), 0) == sizeof(id));
	int64_t now = clock_real_us();
	struct collected c = {.n = 0};
	txn_begin(&c.t, &c.b, id, SLOT_SYNC, read_seq, 0);
	if (ops->collect(f->store, now, now - trash_us, COLLECT_MAX, collect_key, &c.t) != STORE_OK ||
	    ops->collect(f->store, now, now - trash_us, COLLECT_MAX, collect_one, &c) != STORE_OK || !c.n) {
		buf_free(&c.b);
		return;
	}
	txn_end(&c.t);
	FAULT_POINT(collect_found);
	struct buf *b = util_alloc(sizeof(*b));
	*b = c.b;
	sync_post(f->s, on_collected, b);
}
