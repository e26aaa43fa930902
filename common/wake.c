#include "wake.h"

#include <unistd.h>

#include "fault.h"

/* GCC's TSan does not model fences and says so; what it cannot see here are the two fences only. */
#if defined(__SANITIZE_THREAD__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wtsan"
#endif

/* Each sleep is an episode with its own number. The producer writes the eventfd first and clears the
 * flag second, so one that is killed in between leaves a flag that the next producer heeds; and it clears
 * by compare-and-swap of the number it saw, so a producer that was held up between the two cannot clear
 * the flag of a later sleep (which would be a lost wake-up: that sleep's eventfd was never written). */
void wake_prepare(struct wake *w)
{
	uint32_t n = atomic_load_explicit(&w->episode, memory_order_relaxed) + 1;
	n += !n; /* 0 means awake */
	atomic_store_explicit(&w->episode, n, memory_order_relaxed);
	atomic_store_explicit(&w->asleep, n, memory_order_relaxed);
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
	uint32_t n = atomic_load_explicit(&w->asleep, memory_order_relaxed);
	if (!n)
		return;
	FAULT_POINT(wake_ringing);
	(void)!write(efd, &(uint64_t){1}, 8); /* EAGAIN: the counter is full, it wakes anyway */
	FAULT_POINT(wake_rung);
	atomic_compare_exchange_strong_explicit(&w->asleep, &n, 0, memory_order_relaxed, memory_order_relaxed);
}
