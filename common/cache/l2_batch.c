/* Several commands at once, and a thread that waits for them, but not for ever. A futex, because nothing is guarded but
 * a count: with a lock, whoever is woken would find it held by who woke it. */
#include <errno.h>
#include <linux/futex.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "cache/l2-private.h"
#include "clock.h"

static void release(struct l2_batch *b)
{
	if (atomic_fetch_sub_explicit(&b->holders, 1, memory_order_acq_rel) != 1)
		return;
	for (size_t i = 0; i < b->n; i++)
		redis_reply_free(&b->v[i].reply);
	buf_free(&b->wire);
	free(b);
}

/* The waiter looks at an item only if it finds it done; what is done later than that is nobody's. */
static void on_done(struct redis_call *c, enum redis_fate fate, struct redis_reply **reply)
{
	struct l2_item *item = c->arg;
	struct l2_batch *b = item->batch;
	item->fate = fate;
	item->reply = *reply;
	*reply = NULL;
	atomic_store_explicit(&item->done, true, memory_order_release);
	if (atomic_fetch_sub_explicit(&b->waiting, 1, memory_order_acq_rel) != 1)
		return;
	syscall(SYS_futex, &b->waiting, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
	release(b);
}

struct l2_batch *l2_batch_new(size_t most)
{
	struct l2_batch *b = util_zalloc(sizeof(*b) + most * sizeof(b->v[0]));
	atomic_init(&b->holders, 1);
	return b;
}

void l2_batch_add(struct l2_batch *b, int slot, const struct span *words, size_t n)
{
	struct l2_item *item = &b->v[b->n++];
	*item = (struct l2_item){.call = {.slot = slot, .done = on_done, .arg = item}, .batch = b, .at = b->wire.len};
	redis_wire_n(&b->wire, words, n);
	item->len = b->wire.len - item->at;
}

size_t l2_batch_send(struct l2_batch *b, struct redis *r, int master)
{
	struct redis_call *v[REDIS_BATCH_MAX];
	for (size_t i = 0; i < b->n; i++) {
		b->v[i].call.wire = (struct span){b->wire.p + b->v[i].at, b->v[i].len};
		v[i] = &b->v[i].call;
	}
	if (!b->n)
		return 0;
	atomic_store(&b->waiting, (uint32_t)b->n);
	atomic_store(&b->holders, 2); /* the waiter, and who is last to be done */
	if (master < 0)
		return redis_send(r, REDIS_CACHE, v, b->n);
	if (redis_send_master(r, (unsigned)master, v, b->n))
		return b->n;
	for (size_t i = 0; i < b->n; i++) {
		struct redis_reply *none = NULL;
		on_done(v[i], REDIS_UNSENT, &none);
	}
	return 0;
}

bool l2_batch_wait(struct l2_batch *b, int64_t deadline_us)
{
	struct timespec t = {deadline_us / 1000000, deadline_us % 1000000 * 1000};
	uint32_t left;
	while ((left = atomic_load_explicit(&b->waiting, memory_order_acquire)) && clock_mono_us() < deadline_us)
		syscall(SYS_futex, &b->waiting, FUTEX_WAIT_BITSET_PRIVATE, left, &t, NULL, FUTEX_BITSET_MATCH_ANY);
	return !left;
}

static void on_talked(void *arg, size_t i, struct redis_reply **reply)
{
	struct l2_item *item = &((struct l2_batch *)arg)->v[i];
	item->fate = REDIS_ANSWERED;
	item->reply = *reply;
	*reply = NULL;
	atomic_store_explicit(&item->done, true, memory_order_relaxed);
}

bool l2_batch_ask(struct l2_batch *b, struct redis *r, int64_t deadline_us)
{
	enum redis_talk how = redis_talk(r, (struct span){b->wire.p, b->wire.len}, b->n, deadline_us, on_talked, b);
	if (how != TALK_NONE)
		return how != TALK_LATE;
	(void)l2_batch_send(b, r, -1);
	return l2_batch_wait(b, deadline_us);
}

bool l2_item_done(const struct l2_item *item)
{
	return atomic_load_explicit(&item->done, memory_order_acquire) && item->fate == REDIS_ANSWERED;
}

void l2_batch_end(struct l2_batch **bp)
{
	release(*bp);
	*bp = NULL;
}
