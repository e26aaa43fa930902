/* A set of ids: open addressing, at most half full; built and used by one thread at a time. */
#include <stdlib.h>

#include "vectors-private.h"

struct vectors_allow {
	struct uuid *slots;
	uint8_t *taken; /* any id may be a member, so none can mean "empty" */
	size_t cap, count;
};

static void make(struct vectors_allow *a, size_t expected)
{
	size_t cap = 16;
	while (cap < 2 * expected && cap < SIZE_MAX / 64)
		cap *= 2;
	a->cap = cap;
	a->count = 0;
	a->slots = util_alloc(cap * sizeof(*a->slots));
	a->taken = util_zalloc(cap);
}

struct vectors_allow *vectors_allow_new(size_t expected)
{
	struct vectors_allow *a = util_alloc(sizeof(*a));
	make(a, expected < (1U << 20) ? expected : 1U << 20); /* a guess, not a promise: it grows */
	return a;
}

/* The slot that holds the id, or the free one where it belongs. */
static size_t probe(const struct vectors_allow *a, const struct uuid *id)
{
	size_t i = (size_t)vectors_hash(id) & (a->cap - 1);
	while (a->taken[i] && uuid_cmp(&a->slots[i], id) != 0)
		i = (i + 1) & (a->cap - 1);
	return i;
}

static void put(struct vectors_allow *a, const struct uuid *id)
{
	size_t i = probe(a, id);
	if (a->taken[i])
		return;
	a->taken[i] = 1;
	a->slots[i] = *id;
	a->count++;
}

void vectors_allow_add(struct vectors_allow *a, const struct uuid *id)
{
	if (2 * (a->count + 1) > a->cap) {
		struct vectors_allow old = *a;
		make(a, old.cap);
		for (size_t i = 0; i < old.cap; i++) {
			if (old.taken[i])
				put(a, &old.slots[i]);
		}
		free(old.slots);
		free(old.taken);
	}
	put(a, id);
}

bool vectors_allow_has(const struct vectors_allow *a, const struct uuid *id) { return a->taken[probe(a, id)]; }

size_t vectors_allow_count(const struct vectors_allow *a) { return a->count; }

void vectors_allow_free(struct vectors_allow **a)
{
	if (!*a)
		return;
	free((*a)->slots);
	free((*a)->taken);
	free(*a);
	*a = NULL;
}
