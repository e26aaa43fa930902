#include "gradient.h"

#include <string.h>

#include "util.h"

void gradient_init(struct gradient *g, uint32_t least, uint32_t most, uint32_t first)
{
	*g = (struct gradient){.least = least < most ? least : most, .most = most};
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
		if (!g->reached || g->limit <= g->least)
			g->kind[k].base *= 1.01;
		if (g->kind[k].base <= 0 || mean < g->kind[k].base)
			g->kind[k].base = mean > 1 ? mean : 1;
		sum += g->kind[k].n * (mean / g->kind[k].base);
		g->kind[k].sum = 0;
		g->kind[k].n = 0;
	}
	return sum / g->n;
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
	if (slowness(g) > GRADIENT_SLOW)
		g->limit *= 0.9;
	else if (g->reached)
		g->limit += g->limit < 32 ? 1 : g->limit / 16;
	g->limit = g->limit < g->least ? g->least : g->limit > g->most ? g->most : g->limit;
	g->n = 0;
	g->reached = false;
}

uint32_t gradient_limit(const struct gradient *g) { return (uint32_t)g->limit; }
