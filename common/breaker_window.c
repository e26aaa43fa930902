/* What breakers count: calls by the second, failures in a row. A counter carries the second and the
 * generation it belongs to in its own word, so that it begins anew by a single compare-and-swap and nobody can be
 * killed between clearing it and saying so. */
#include "breaker-private.h"

/* second: 28 bits (8.5 years), generation: 12, count: 24 */
#define COUNT_MASK 0xffffffu
#define COUNT_FULL (COUNT_MASK / 2) /* far from the other fields, whoever adds at once */
#define SECOND_MASK 0xfffffffu

static uint64_t stamp(unsigned generation, int64_t now_us)
{
	return ((uint64_t)(now_us / 1000000) & SECOND_MASK) << 36 | (uint64_t)generation << 24;
}

/* Seconds from a to b; negative when a is the later one. */
static int seconds_between(uint64_t a, uint64_t b)
{
	uint32_t d = (uint32_t)((b >> 36) - (a >> 36)) & SECOND_MASK;
	return d > SECOND_MASK / 2 ? (int)d - (int)SECOND_MASK - 1 : (int)d;
}

static unsigned generation_of(uint64_t v) { return (unsigned)(v >> 24) & (WORD_GENERATIONS - 1); }

static void count(_Atomic uint64_t ring[BREAKER_SECONDS], uint64_t mine)
{
	_Atomic uint64_t *c = &ring[(mine >> 36) % BREAKER_SECONDS];
	uint64_t v = atomic_load(c);
	do {
		unsigned ahead = (generation_of(v) - generation_of(mine)) & (WORD_GENERATIONS - 1);
		if (seconds_between(v, mine) <= 0 && v) {
			if (ahead && ahead < WORD_GENERATIONS / 2)
				return; /* it has changed since this call was let in */
			if (!ahead) {
				if ((v & COUNT_MASK) < COUNT_FULL)
					atomic_fetch_add(c, 1);
				return;
			}
		}
	} while (!atomic_compare_exchange_weak(c, &v, mine | 1));
}

void window_add(struct breaker *b, unsigned generation, int64_t now_us, bool failed, bool slow)
{
	uint64_t mine = stamp(generation, now_us);
	count(b->calls, mine); /* first: whoever dies behind it has not failed without having called */
	if (failed)
		count(b->failures, mine);
	if (slow)
		count(b->slow, mine);
}

static uint64_t sum(const _Atomic uint64_t ring[BREAKER_SECONDS], uint64_t mine)
{
	uint64_t n = 0;
	for (int i = 0; i < BREAKER_SECONDS; i++) {
		uint64_t v = atomic_load(&ring[i]);
		if (generation_of(v) == generation_of(mine) && seconds_between(v, mine) < BREAKER_SECONDS)
			n += v & COUNT_MASK;
	}
	return n;
}

struct window window_sum(const struct breaker *b, unsigned generation, int64_t now_us)
{
	uint64_t mine = stamp(generation, now_us);
	/* Calls last: never fewer of them than of failures. */
	struct window w = {.failures = sum(b->failures, mine), .slow = sum(b->slow, mine)};
	w.calls = sum(b->calls, mine);
	return w;
}

uint64_t window_row_length(const struct breaker *b, unsigned generation)
{
	uint64_t v = atomic_load(&b->consecutive);
	return v >> 32 == generation ? v & UINT32_MAX : 0;
}

uint64_t window_in_a_row(struct breaker *b, unsigned generation, bool failed)
{
	uint64_t v = atomic_load(&b->consecutive), next;
	do {
		uint64_t n = v >> 32 == generation ? v & UINT32_MAX : 0;
		n = !failed ? 0 : n < UINT32_MAX ? n + 1 : n;
		next = (uint64_t)generation << 32 | n;
	} while (next != v && !atomic_compare_exchange_weak(&b->consecutive, &v, next));
	return next & UINT32_MAX;
}
