#include "recent.h"

#include <stdlib.h>

/* Open addressing (linear probing, backward-shift deletion) over a table twice the capacity,
 * and a circular log of (key, seq) in writing order that says what falls out next. */
struct slot {
	uint64_t key; /* 0 = free; key 0 itself is stored as 1: a false match costs one retry */
	uint64_t seq;
};
struct recent {
	size_t mask, capacity, log_at, log_len;
	uint64_t floor;
	struct slot *table, *log;
};

struct recent *recent_new(size_t capacity, uint64_t floor)
{
	struct recent *r = util_zalloc(sizeof(*r));
	AN(capacity && (capacity & (capacity - 1)) == 0);
	r->capacity = capacity;
	r->mask = capacity * 2 - 1;
	r->floor = floor;
	r->table = util_zalloc(capacity * 2 * sizeof(*r->table));
	r->log = util_zalloc(capacity * sizeof(*r->log));
	return r;
}

void recent_free(struct recent **r)
{
	if (!*r)
		return;
	free((*r)->table);
	free((*r)->log);
	free(*r);
	*r = NULL;
}

/* Keys are XXH3 values already; the multiplication spreads those that callers made by hand. */
static size_t home(const struct recent *r, uint64_t key) { return (key * 0x9e3779b97f4a7c15ull >> 20) & r->mask; }

static size_t locate(const struct recent *r, uint64_t key)
{
	size_t i = home(r, key);
	while (r->table[i].key && r->table[i].key != key)
		i = (i + 1) & r->mask;
	return i;
}

static void erase(struct recent *r, size_t i)
{
	for (size_t j = i;;) {
		j = (j + 1) & r->mask;
		if (!r->table[j].key)
			break;
		size_t h = home(r, r->table[j].key);
		if (((j - h) & r->mask) >= ((j - i) & r->mask)) {
			r->table[i] = r->table[j];
			i = j;
		}
	}
	r->table[i].key = 0;
}

static void evict_oldest(struct recent *r)
{
	struct slot old = r->log[(r->log_at - r->log_len) & (r->capacity - 1)];
	r->log_len--;
	if (old.seq > r->floor)
		r->floor = old.seq;
	size_t i = locate(r, old.key);
	if (r->table[i].key && r->table[i].seq == old.seq)
		erase(r, i); /* else a later write of the same key keeps it */
}

void recent_write(struct recent *r, uint64_t key, uint64_t seq)
{
	key += !key;
	if (r->log_len == r->capacity)
		evict_oldest(r);
	r->log[r->log_at++ & (r->capacity - 1)] = (struct slot){key, seq};
	r->log_len++;
	r->table[locate(r, key)] = (struct slot){key, seq};
}

uint64_t recent_seq(const struct recent *r, uint64_t key)
{
	size_t i = locate(r, key + !key);
	return r->table[i].key ? r->table[i].seq : 0;
}

uint64_t recent_floor(const struct recent *r) { return r->floor; }

bool recent_unchanged(const struct recent *r, uint64_t key, uint64_t read_seq)
{
	uint64_t seq = recent_seq(r, key);
	return seq ? seq <= read_seq : r->floor <= read_seq;
}
