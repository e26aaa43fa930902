#include "age.h"

#define AT(a, i) ((a)->mark[((a)->head + (i)) & (AGE_MARKS - 1)])

/* Every second mark goes; the one behind it stands for both, with the time of the earlier one. */
static void thin_out(struct age *a)
{
	size_t kept = 0;
	for (size_t i = 0; i + 1 < a->n; i += 2, kept++) {
		AT(a, kept).since_us = AT(a, i).since_us;
		AT(a, kept).seq = AT(a, i + 1).seq;
	}
	if (a->n & 1)
		AT(a, kept++) = AT(a, a->n - 1);
	a->n = kept;
	a->grain_us *= 2;
}

void age_add(struct age *a, uint64_t seq, int64_t now_us)
{
	if (!a->n || !a->grain_us)
		a->grain_us = AGE_GRAIN_US;
	if (a->n && seq <= AT(a, a->n - 1).seq)
		return;
	if (a->n && now_us - AT(a, a->n - 1).since_us < a->grain_us) {
		AT(a, a->n - 1).seq = seq;
		return;
	}
	if (a->n == AGE_MARKS)
		thin_out(a);
	a->n++;
	AT(a, a->n - 1).seq = seq;
	AT(a, a->n - 1).since_us = now_us;
}

void age_done(struct age *a, uint64_t seq)
{
	while (a->n && AT(a, 0).seq <= seq) {
		a->head = (a->head + 1) & (AGE_MARKS - 1);
		a->n--;
	}
}

int64_t age_since(const struct age *a) { return a->n ? AT(a, 0).since_us : 0; }
