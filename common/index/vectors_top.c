/* The k best of a scan. Hits gather in a buffer of twice k; when it is full, what is there in
 * two versions (an entry that was updated while we looked is seen twice) is reduced to the higher one, then
 * all but the k best go and `floor` becomes the score of the worst kept.
 *
 * Why this is exact and never short: what was thrown away scored at most `floor` as of then, and
 * `floor` only rises. A later version of a kept entry gets in only if it scores at least `floor`; it then
 * takes its predecessor's place, so the number of different entries never falls, and what is kept is
 * never worse than what was thrown away. (A later version below `floor` is not noticed: the earlier one, which
 * was alive when we passed it, stays.) */
#include <stdlib.h>

#include "vectors-private.h"

void vectors_top_init(struct vectors_top *t, size_t k, float min_score)
{
	*t = (struct vectors_top){.k = k < UINT32_MAX / 8 ? k : UINT32_MAX / 8, .floor = min_score};
}

void vectors_top_end(struct vectors_top *t)
{
	free(t->hits);
	free(t->slots);
}

/* k comes from outside and may be far more than there is: room is made as hits come. */
static bool grow(struct vectors_top *t)
{
	size_t most = 2 * t->k + 32, slots = 128;
	if (t->cap == most)
		return false;
	t->cap = t->cap ? 2 * t->cap : 128;
	if (t->cap > most)
		t->cap = most;
	while (slots < 2 * t->cap)
		slots *= 2;
	t->mask = slots - 1;
	t->hits = util_realloc(t->hits, t->cap * sizeof(*t->hits));
	t->slots = util_realloc(t->slots, slots * sizeof(*t->slots));
	return true;
}

static bool better(const struct vectors_hit *a, const struct vectors_hit *b)
{
	return a->score > b->score || (a->score == b->score && uuid_cmp(&a->id, &b->id) < 0);
}

static void dedupe(struct vectors_top *t)
{
	size_t kept = 0;
	memset(t->slots, 0, (t->mask + 1) * sizeof(*t->slots));
	for (size_t i = 0; i < t->n; i++) {
		const struct vectors_hit *h = &t->hits[i];
		size_t at = (size_t)vectors_hash(&h->id) & t->mask;
		while (t->slots[at] && uuid_cmp(&t->hits[t->slots[at] - 1].id, &h->id) != 0)
			at = (at + 1) & t->mask;
		if (!t->slots[at]) {
			t->hits[kept++] = *h;
			t->slots[at] = (uint32_t)kept;
		} else if (t->hits[t->slots[at] - 1].version < h->version) {
			t->hits[t->slots[at] - 1] = *h;
		}
	}
	t->n = kept;
}

static void swap(struct vectors_hit *a, struct vectors_hit *b)
{
	struct vectors_hit t = *a;
	*a = *b;
	*b = t;
}

/* Quickselect: afterwards the first k are the k best, in no order. The middle one is the pivot,
 * so rows that come sorted, as those of one origin may, are no bad case. */
static void select_best(struct vectors_hit *h, size_t n, size_t k)
{
	while (n > 1 && k && k < n) {
		struct vectors_hit pivot = h[n / 2];
		size_t i = 0, j = n - 1;
		for (;;) {
			while (better(&h[i], &pivot))
				i++;
			while (better(&pivot, &h[j]))
				j--;
			if (i >= j)
				break;
			swap(&h[i++], &h[j--]);
		}
		/* h[0..i) are no worse than the pivot, h[i..n) no better */
		if (i == 0)
			i = 1; /* the pivot is the best of all and stands first */
		if (k < i) {
			n = i;
		} else {
			h += i;
			n -= i;
			k -= i;
		}
	}
}

static void shrink(struct vectors_top *t)
{
	dedupe(t);
	if (t->n < t->k)
		return;
	select_best(t->hits, t->n, t->k);
	t->n = t->k;
	float worst = t->hits[0].score;
	for (size_t i = 1; i < t->n; i++)
		worst = t->hits[i].score < worst ? t->hits[i].score : worst;
	t->floor = worst;
}

void vectors_top_push(struct vectors_top *t, const struct vectors_hit *h)
{
	if (!(h->score >= t->floor)) /* also what is not a number */
		return;
	if (t->n == t->cap && !grow(t))
		shrink(t);
	t->hits[t->n++] = *h;
}

static int by_score(const void *a, const void *b) { return better(a, b) ? -1 : better(b, a) ? 1 : 0; }

size_t vectors_top_finish(struct vectors_top *t, struct vectors_hit *out)
{
	if (!t->n)
		return 0;
	shrink(t);
	qsort(t->hits, t->n, sizeof(*t->hits), by_score);
	memcpy(out, t->hits, t->n * sizeof(*out));
	return t->n;
}
