#include "handed.h"

#define QUICK_US 8000 /* HANDED_FIRST units in such a time */
#define WHILE_US 2000000
#define COUNT_LEAST 64
#define COUNT_US 20000

uint32_t handed_limit(const struct handed *h)
{
	if (!h->on)
		return UINT32_MAX;
	int64_t a = h->quick_us[0], b = h->quick_us[1], quick = !a || (b && b < a) ? b : a;
	uint32_t first = h->shared ? HANDED_SHARED : HANDED_FIRST;
	double n = first * (double)quick / QUICK_US;
	n = n < first ? first : n;
	double held = h->unit_us > 0 ? 2 * (double)h->target_us / h->unit_us : n;
	n = n < held ? n : held;
	return n < first ? first : n > HANDED_MOST ? HANDED_MOST : (uint32_t)n;
}

void handed_answered(struct handed *h, uint32_t units, bool well, int64_t took_us, int64_t now_us)
{
	h->units -= units;
	h->counted += units;
	if (now_us - h->while_us > WHILE_US) {
		h->quick_us[1] = h->quick_us[0];
		h->quick_us[0] = 0;
		h->while_us = now_us;
	}
	if (well && (!h->quick_us[0] || took_us < h->quick_us[0]))
		h->quick_us[0] = took_us > 1 ? took_us : 1;
}

void handed_look(struct handed *h, bool others, int64_t now_us)
{
	if (!others) {
		h->counted_us = 0;
		return;
	}
	if (h->counted_us && h->counted < COUNT_LEAST && (!h->counted || now_us - h->counted_us < COUNT_US))
		return;
	if (h->counted_us) {
		double us = (double)(now_us - h->counted_us) / h->counted;
		h->unit_us = h->unit_us > 0 ? h->unit_us + (us - h->unit_us) / 8 : us;
	}
	h->counted_us = now_us;
	h->counted = 0;
}
