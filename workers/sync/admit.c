/* Back-pressure: what is not taken because too much waits for the store.
 *
 *   of journal.quota (bytes), journal.pending_max (entries), sync.max_age (time)
 *   up to half          all is taken
 *   half to full        transactions of more than ADMIT_BULK operations are refused: bulk adds and deletes, imports
 *   full                all are refused
 *
 * What a transaction adds itself counts for full only: a large one always finds a time at which it is taken.
 * So that what is left goes to those who have a single thing to say. Reads go on in any case. */
#include "clock.h"
#include "pace.h"
#include "sync.h"

#define ADMIT_BULK 8

/* Until that many bytes are gone. No flusher: the store was never there yet. */
static uint32_t seconds(struct sync *s, uint64_t excess)
{
	return pace_retry_after(excess, s->flusher ? flusher_rate(s->flusher) : 0);
}

static bool refuse(uint32_t *arg_r, enum busy_what what, bool only_bulk, uint32_t after)
{
	*arg_r = BUSY_ARG((uint32_t)what | (only_bulk ? (uint32_t)BUSY_BULK : 0u), after);
	return true;
}

static bool too_many_bytes(struct sync *s, bool bulk, size_t len, uint32_t *arg_r)
{
	uint64_t quota = atomic_load_explicit(&s->plant->journal_quota, memory_order_relaxed);
	/* Segments are held as a whole, and given back late: what counts for half is what the store lacks. */
	uint64_t held = journal_bytes(s->journal) + s->queued_bytes + len, lacks = s->unflushed_bytes + s->queued_bytes;
	if (held > quota)
		return refuse(arg_r, BUSY_QUOTA, false, seconds(s, lacks / 2));
	return bulk && lacks > quota / 2 && refuse(arg_r, BUSY_QUOTA, true, seconds(s, lacks - quota / 2));
}

static bool too_many_entries(struct sync *s, bool bulk, uint32_t nops, uint32_t *arg_r)
{
	uint32_t more = (uint32_t)(s->queued_ops + nops), half = s->pending_max / 2;
	bool full = pending_full(s->pending, more);
	/* Entries go as bytes do: with a half of them goes a half of what waits. */
	return (full || (bulk && pending_full(s->pending, (uint32_t)s->queued_ops + half))) &&
	       refuse(arg_r, BUSY_PENDING, !full, seconds(s, full ? 1 : s->unflushed_bytes / 4));
}

static bool too_old(struct sync *s, bool bulk, uint32_t *arg_r)
{
	int64_t since = atomic_load_explicit(&s->plant->oldest_unflushed_us, memory_order_relaxed);
	if (!s->max_age_us || !since)
		return false;
	int64_t age = clock_mono_us() - since, most = bulk ? s->max_age_us / 2 : s->max_age_us;
	return age > most && refuse(arg_r, BUSY_AGE, age <= s->max_age_us, seconds(s, s->unflushed_bytes));
}

enum txn_status admit_txn(struct sync *s, uint32_t nops, size_t len, uint32_t *arg_r)
{
	bool bulk = nops > ADMIT_BULK;
	return too_many_entries(s, bulk, nops, arg_r) || too_many_bytes(s, bulk, len, arg_r) || too_old(s, bulk, arg_r)
		       ? TXN_BUSY
		       : TXN_OK;
}
