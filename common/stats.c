#include "stats.h"

#include "clock.h"

#define RECENT_TRIES 4

void stats_reset_gauges(struct stats_slot *s)
{
#define STAT(id, name, labels, type, help)                                                                             \
	if (strcmp(type, "gauge") == 0) {                                                                              \
		atomic_store_explicit(&s->v[STAT_##id], 0, memory_order_relaxed);                                      \
		atomic_store_explicit(&s->shared[STAT_##id], 0, memory_order_relaxed);                                 \
	}
#include "stats.def"
#undef STAT
}

/* ---- traces ---- */

void stats_trace_route(struct stats_slot *s, unsigned route, uint64_t ns, const unsigned char id[16])
{
	unsigned bucket = hist_coarse(HIST_SECONDS, ns);
	struct stats_trace *t = &s->trace[route][bucket];
	uint64_t change = atomic_load_explicit(&t->change, memory_order_relaxed) | 1; /* odd: a killed one left it */
	uint64_t half[2];
	memcpy(half, id, sizeof(half));
	atomic_store_explicit(&t->change, change, memory_order_relaxed);
	atomic_thread_fence(memory_order_release);
	atomic_store_explicit(&t->id[0], half[0], memory_order_relaxed);
	atomic_store_explicit(&t->id[1], half[1], memory_order_relaxed);
	atomic_store_explicit(&t->value, ns, memory_order_relaxed);
	atomic_store_explicit(&t->at_us, (uint64_t)clock_real_us(), memory_order_relaxed);
	atomic_store_explicit(&t->change, change + 1, memory_order_release);
	atomic_store_explicit(&s->traced[route],
			      atomic_load_explicit(&s->traced[route], memory_order_relaxed) | 1u << bucket,
			      memory_order_release);
}

bool stats_trace_read(const struct stats_slot *s, unsigned route, unsigned bucket, unsigned char id[16], uint64_t *ns_r,
		      int64_t *at_us_r)
{
	const struct stats_trace *t = &s->trace[route][bucket];
	uint64_t half[2];
	if (!(atomic_load_explicit(&s->traced[route], memory_order_acquire) & 1u << bucket))
		return false;
	uint64_t change = atomic_load_explicit(&t->change, memory_order_acquire);
	half[0] = atomic_load_explicit(&t->id[0], memory_order_relaxed);
	half[1] = atomic_load_explicit(&t->id[1], memory_order_relaxed);
	*ns_r = atomic_load_explicit(&t->value, memory_order_relaxed);
	*at_us_r = (int64_t)atomic_load_explicit(&t->at_us, memory_order_relaxed);
	memcpy(id, half, sizeof(half));
	atomic_thread_fence(memory_order_acquire);
	return !(change & 1) && atomic_load_explicit(&t->change, memory_order_relaxed) == change;
}

/* ---- the last minute ---- */

void stats_turn(struct stats_slot *s, int64_t now_us)
{
	uint64_t turns = atomic_load_explicit(&s->turns, memory_order_relaxed), next = (turns + 1) % 2;
	if (turns && now_us - atomic_load_explicit(&s->turned_us[turns % 2], memory_order_relaxed) < STATS_TURN_US)
		return;
	/* Readers look at the one that is written now until `turns` says otherwise, and look again when it has. */
	atomic_store_explicit(&s->turned_us[next], now_us, memory_order_relaxed);
	atomic_store_explicit(&s->turns, turns + 1, memory_order_relaxed);
	atomic_thread_fence(memory_order_release);
	for (unsigned r = 0; r <= STATS_ROUTES; r++) {
		uint64_t sum = atomic_load_explicit(&s->http_sum[r], memory_order_relaxed);
		if (sum == atomic_load_explicit(&s->then_sum[next][r], memory_order_relaxed))
			continue;
		hist_copy(&s->then[next][r], &s->http_hist[r]);
		atomic_store_explicit(&s->then_sum[next][r], sum, memory_order_relaxed);
	}
}

/* The older of the two is not written before the next turn, which is at least STATS_TURN_US after the last one. */
void stats_recent(const struct stats_slot *s, unsigned route, int64_t now_us, struct hist_sum *io)
{
	for (int i = 0; i < RECENT_TRIES; i++) {
		uint64_t turns = atomic_load_explicit(&s->turns, memory_order_acquire), old = (turns + 1) % 2;
		struct hist_sum now = {.count = 0};
		if (!turns || now_us - atomic_load_explicit(&s->turned_us[turns % 2], memory_order_relaxed) >
				      2 * STATS_TURN_US) /* nobody turns it any more */
			return;
		uint64_t then = atomic_load_explicit(&s->then_sum[old][route], memory_order_relaxed);
		if (atomic_load_explicit(&s->http_sum[route], memory_order_relaxed) == then)
			return; /* nothing came since */
		hist_merge(&s->http_hist[route], &s->http_sum[route], &now);
		if (then)
			hist_less(&s->then[old][route], &now);
		atomic_thread_fence(memory_order_acquire);
		if (atomic_load_explicit(&s->turns, memory_order_relaxed) != turns)
			continue;
		for (size_t k = 0; k <= HIST_BUCKETS; k++)
			io->n[k] += now.n[k];
		io->count += now.count;
		return;
	}
}
