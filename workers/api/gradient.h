/* How much may be under way at once where the work is done elsewhere (a store, sync, the processors): as much as does not
 * make each piece slower. The latency is compared with the shortest that is known; additive increase, multiplicative
 * decrease (D. Chiu, R. Jain 1989) on that gradient, as TCP Vegas and Netflix's concurrency-limits do.
 *
 *   a window of samples whose mean is above GRADIENT_SLOW times the base    the limit falls by a tenth
 *   another one, in which the limit was reached                             the limit rises
 *
 * The base is the shortest mean of a window, by kind of work. Whether it is the limit that makes things slow is put to the
 * test: when a limit three tenths lower has not made them quicker, or there is no lower one, the world has become slower: its
 * latency is the base from then on, and the limit what it was. Now and then a window with a quarter of the limit shows how
 * short it can be: less and less often while that makes no difference, for it is capacity that nobody has. Pure: no clock, no lock. */
#ifndef ORC_GRADIENT_H
#define ORC_GRADIENT_H
#include <stdbool.h>
#include <stdint.h>

#define GRADIENT_SLOW 2.0
#define GRADIENT_KINDS 8
#define GRADIENT_WINDOW 64 /* samples, and at least */
#define GRADIENT_WINDOW_US 20000

struct gradient {
	double limit, least, most;
	struct {
		double base, mean, sum; /* mean: of the last window that had some */
		uint32_t n;
	} kind[GRADIENT_KINDS];
	double slow,
		slow_at; /* how slow it was when the limit began to fall, and where that was; 0: it does not fall */
	double probed;	 /* the limit that comes back after a window with a quarter of it; 0: none is */
	uint32_t windows, every; /* since the last of those; how many it takes until the next */
	int64_t since_us;
	uint32_t n;
	bool reached;
};

void gradient_init(struct gradient *g, uint32_t least, uint32_t most, uint32_t first);
/* One piece took so long. reached: as much as the limit allows was under way. */
void gradient_sample(struct gradient *g, unsigned kind, int64_t now_us, int64_t took_us, bool reached);
uint32_t gradient_limit(const struct gradient *g);
#endif
