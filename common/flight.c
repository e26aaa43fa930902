#include "flight.h"

#include <limits.h>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"
#include "fault.h"

#define KEY_SHIFT 20 /* 44 bits of the key, 8 of the slot, 12 of the incarnation */
#define INCARNATION 0xfffu

static uint64_t word_of(uint64_t key, const struct flight_self *me)
{
	return key << KEY_SHIFT | (uint64_t)(me->slot & 0xff) << 12 | (me->incarnation & INCARNATION);
}

static bool same_key(uint64_t word, uint64_t key) { return word >> KEY_SHIFT == (key << KEY_SHIFT) >> KEY_SHIFT; }

static struct flight *place(struct flights *f, uint64_t key) { return &f->v[key >> 54]; }
_Static_assert(FLIGHTS == 1 << 10, "the upper bits of a key, which the word does not hold");

static bool take(struct flight *p, uint64_t from, uint64_t to)
{
	return atomic_compare_exchange_strong_explicit(&p->leader, &from, to, memory_order_acq_rel,
						       memory_order_relaxed);
}

/* Shared between processes, so not FUTEX_PRIVATE. A wake-up that comes too early or not at all is met by the caller,
 * which looks again. */
static void sleep_on(_Atomic uint32_t *v, uint32_t seen, int64_t us)
{
	struct timespec t = {us / 1000000, us % 1000000 * 1000};
	(void)syscall(SYS_futex, v, FUTEX_WAIT, seen, &t, NULL, 0);
}

bool flight_try(struct flights *f, uint64_t key, const struct flight_self *me,
		bool (*alive)(void *arg, unsigned slot, uint32_t incarnation), void *arg)
{
	struct flight *p = place(f, key);
	uint64_t was = atomic_load_explicit(&p->leader, memory_order_acquire);
	if (was && alive(arg, was >> 12 & 0xff, was & INCARNATION))
		return false;
	if (!take(p, was, word_of(key, me)))
		return false;
	FAULT_POINT(flight_leads);
	return true;
}

enum flight_role flight_begin(struct flights *f, uint64_t key, const struct flight_self *me,
			      bool (*alive)(void *arg, unsigned slot, uint32_t incarnation), void *arg)
{
	struct flight *p = place(f, key);
	int64_t until = clock_mono_us() + FLIGHT_WAIT_US;
	uint32_t seen = atomic_load_explicit(&p->landed, memory_order_acquire);
	while (!flight_try(f, key, me, alive, arg)) {
		uint64_t leads = atomic_load_explicit(&p->leader, memory_order_acquire);
		if (atomic_load_explicit(&p->landed, memory_order_acquire) != seen)
			return FLIGHT_LANDED;
		if (!leads)
			continue;
		if (!same_key(leads, key) || clock_mono_us() >= until)
			return FLIGHT_ALONE;
		sleep_on(&p->landed, seen, FLIGHT_LOOK_US);
	}
	return FLIGHT_LEADS;
}

void flight_end(struct flights *f, uint64_t key, const struct flight_self *me)
{
	struct flight *p = place(f, key);
	if (!take(p, word_of(key, me), 0)) /* somebody thought us dead */
		return;
	FAULT_POINT(flight_ended);
	atomic_fetch_add_explicit(&p->landed, 1, memory_order_acq_rel);
	(void)syscall(SYS_futex, &p->landed, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}
