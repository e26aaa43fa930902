#include "wake.h"

#include <unistd.h>

void wake_prepare(struct wake *w)
{
	atomic_store_explicit(&w->asleep, 1, memory_order_relaxed);
	atomic_thread_fence(memory_order_seq_cst); /* before the last look at the rings */
}

void wake_cancel(struct wake *w) { atomic_store_explicit(&w->asleep, 0, memory_order_relaxed); }

void wake_ack(struct wake *w, int efd)
{
	uint64_t n;
	atomic_store_explicit(&w->asleep, 0, memory_order_relaxed);
	(void)!read(efd, &n, sizeof(n));
}

void wake_signal(struct wake *w, int efd)
{
	atomic_thread_fence(memory_order_seq_cst); /* after publishing, before looking at the sleeper */
	if (!atomic_load_explicit(&w->asleep, memory_order_relaxed))
		return;
	if (atomic_exchange_explicit(&w->asleep, 0, memory_order_seq_cst))
		(void)!write(efd, &(uint64_t){1}, 8); /* EAGAIN: the counter is full, it wakes anyway */
}
