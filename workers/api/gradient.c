#include "gradient.h"

#include <string.h>

#include "util.h"

#define PROBE_EVERY 32 /* windows */
#define PROBE_SELDOM (16 * PROBE_EVERY)

void gradient_init(struct gradient *g, uint32_t least, uint32_t most, uint32_t first)
{
	*g = (struct gradient){.least = least < most ? least : most, .most = most, .every = PROBE_EVERY};
	g->limit = first < g->least ? g->least : first > g->most ? g->most : first;
}

/* By how much the kinds of this window were slower than they can be, weighted by how often they came. */
static double slowness(struct gradient *g)
{
	double sum = 0;
	for (size_t k = 0; k < GRADIENT_KINDS; k++) {
		if (!g->kind[k].n)
			continue;
		double mean = g->kind[k].sum / g->kind[k].n;
		if (g->kind[k].base <= 0 || mean < g->kind[k].base)
			g->kind[k].base = mean > 1 ? mean : 1;
		sum += g->kind[k].n * (mean / g->kind[k].base);
		g->kind[k].mean = mean;
		g->kind[k].sum = 0;
		g->kind[k].n = 0;
	}
	return sum / g->n;
}

static void believe(struct gradient *g)
{
	for (size_t k = 0; k < GRADIENT_KINDS; k++)
		g->kind[k].base = g->kind[k].mean;
	g->limit = g->slow_at;
	g->slow_at = 0;
}

static void fall(struct gradient *g, double slow)
{
	if (g->every > PROBE_EVERY) { /* not at once: what is slow now is to be learned from first */
		g->every = PROBE_EVERY;
		g->windows = 0;
	}
	if (!(g->slow_at > 0)) {
		g->slow = slow;
		g->slow_at = g->limit;
	} else if (g->limit <= g->least || (g->limit <= 0.7 * g->slow_at && slow > 0.85 * g->slow)) {
		believe(g);
		return;
	} else if (g->limit <= 0.7 * g->slow_at) {
		g->slow = slow;
		g->slow_at = g->limit;
	}
	g->limit = g->limit * 0.9 > g->least ? g->limit * 0.9 : g->least;
}

void gradient_sample(struct gradient *g, unsigned kind, int64_t now_us, int64_t took_us, bool reached)
{
	AN(kind < GRADIENT_KINDS);
	if (!g->n)
		g->since_us = now_us;
	g->kind[kind].sum += (double)took_us;
	g->kind[kind].n++;
	g->n++;
	g->reached |= reached;
	if (g->n < GRADIENT_WINDOW || now_us - g->since_us < GRADIENT_WINDOW_US)
		return;
	double slow = slowness(g);
	if (g->probed > 0) {
		g->limit = g->probed;
		g->probed = 0;
	} else if (g->reached && ++g->windows >= g->every) {
		g->windows = 0;
		g->every = 2 * g->every < PROBE_SELDOM ? 2 * g->every : PROBE_SELDOM;
		g->slow_at = 0;
		g->probed = g->limit;
		g->limit /= 4;
	} else if (slow > GRADIENT_SLOW) {
		fall(g, slow);
	} else {
		g->slow_at = 0;
		if (g->reached)
			g->limit += g->limit < 32 ? 1 : g->limit / 16;
	}
	g->limit = g->limit < g->least ? g->least : g->limit > g->most ? g->most : g->limit;
	g->n = 0;
	g->reached = false;
}

uint32_t gradient_limit(const struct gradient *g) { return (uint32_t)g->limit; }
