/* Is a copy of a memory still what the store has? Copies that lie outside of shared memory (Redis, the file of hot
 * memories) carry the store's revision that they are at least as new as. sync notes here at which revision a memory was
 * changed last, its own changes before they leave the pending table, those of the fleet as the feed brings them. A copy
 * is right when nothing happened to its memory behind its revision: no message to whoever holds copies is needed for
 * that, and none can be missed.
 *
 * A stripe stands for many memories, so that a change may cost the belief in others' copies; they are read again.
 * Times: a reader that found nothing about a memory in the pending table, then got the copy, then asks trust_holds(),
 * sees every change that was flushed or fed before it began.
 *
 * Writer: sync (its loop, and the thread of the feed). Zeroed memory believes everything: trust_begin() comes first. */
#ifndef ORC_CACHE_TRUST_H
#define ORC_CACHE_TRUST_H
#include <stdatomic.h>

#include "util.h"
#include "uuid.h"

#define TRUST_STRIPES 65536
struct trust {
	_Atomic uint64_t since;	      /* copies older than this are not believed: nobody knows what happened then */
	_Atomic uint64_t all_changed; /* everything may have */
	_Atomic uint64_t changed[TRUST_STRIPES];
};

static inline _Atomic uint64_t *trust_stripe(struct trust *t, const struct uuid *id)
{
	return &t->changed[(unsigned)id->b[14] << 8 | id->b[15]]; /* the random end of an id */
}

static inline void trust_raise(_Atomic uint64_t *v, uint64_t to)
{
	uint64_t was = atomic_load_explicit(v, memory_order_relaxed);
	while (was < to &&
	       !atomic_compare_exchange_weak_explicit(v, &was, to, memory_order_release, memory_order_relaxed))
		;
}
/* Nothing is believed until trust_since(). */
static inline void trust_begin(struct trust *t) { atomic_store(&t->since, UINT64_MAX); }
/* Changes behind this revision are noted; what was forgotten before is not believed. */
static inline void trust_since(struct trust *t, uint64_t revision) { atomic_store(&t->since, revision); }
/* Everything may have changed at this revision. */
static inline void trust_all_changed(struct trust *t, uint64_t revision) { trust_raise(&t->all_changed, revision); }
static inline void trust_changed(struct trust *t, const struct uuid *id, uint64_t revision)
{
	trust_raise(trust_stripe(t, id), revision);
}
/* The revision of the last change that may have been one of this memory; 0: none was noted. */
static inline uint64_t trust_last(struct trust *t, const struct uuid *id)
{
	return atomic_load_explicit(trust_stripe(t, id), memory_order_acquire);
}
static inline bool trust_holds(struct trust *t, const struct uuid *id, uint64_t revision)
{
	return revision >= trust_last(t, id) &&
	       revision >= atomic_load_explicit(&t->all_changed, memory_order_acquire) &&
	       revision >= atomic_load_explicit(&t->since, memory_order_acquire);
}
#endif
