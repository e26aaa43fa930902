#include "herd.h"

#include <stdlib.h>

#define BUCKETS 1024

struct pack { /* a leader, and who waits for it */
	struct uuid key;
	struct call *leader, *waiting, **last;
	herd_answer_fn *answer;
	struct pack *next;
};
struct herd {
	size_t waiting;
	struct pack *bucket[BUCKETS];
};

struct herd *herd_new(void) { return util_zalloc(sizeof(struct herd)); }

struct uuid herd_key(struct uuid what, uint64_t moves)
{
	uint64_t low;
	memcpy(&low, what.b + 8, sizeof(low));
	low ^= moves * 0x9e3779b97f4a7c15ull;
	memcpy(what.b + 8, &low, sizeof(low));
	return what;
}

static struct pack **find(struct herd *h, const struct uuid *key)
{
	size_t b = ((size_t)key->b[14] << 8 | key->b[15]) % BUCKETS;
	struct pack **at = &h->bucket[b];
	while (*at && uuid_cmp(&(*at)->key, key) != 0)
		at = &(*at)->next;
	return at;
}

bool herd_has(struct herd *h, const struct uuid *key) { return *find(h, key) != NULL; }

bool herd_join(struct herd *h, const struct uuid *key, struct call *c, herd_answer_fn *answer)
{
	struct pack **at = find(h, key), *p = *at;
	if (!p) {
		p = util_alloc(sizeof(*p));
		*p = (struct pack){.key = *key, .leader = c, .answer = answer};
		p->last = &p->waiting;
		*at = p;
		c->herd_key = *key;
		return false;
	}
	if (h->waiting == HERD_MAX)
		return false;
	c->next = NULL;
	*p->last = c;
	p->last = &c->next;
	h->waiting++;
	return true;
}

bool herd_followed(struct herd *h, const struct call *c)
{
	const struct pack *p = *find(h, &c->herd_key);
	return p && p->leader == c && p->waiting;
}

void herd_end(struct herd *h, struct call *c)
{
	struct pack **at = find(h, &c->herd_key), *p = *at;
	if (!p || p->leader != c)
		return;
	*at = p->next;
	for (struct call *w = p->waiting, *next; w; w = next) {
		next = w->next;
		h->waiting--;
		p->answer(c, w);
	}
	free(p);
}

void herd_free(struct herd **hp)
{
	struct herd *h = *hp;
	if (!h)
		return;
	for (size_t b = 0; b < BUCKETS; b++)
		for (struct pack *p = h->bucket[b], *next; p; p = next) {
			next = p->next;
			for (struct call *w = p->waiting, *after; w; w = after) {
				after = w->next;
				call_free(w);
			}
			free(p);
		}
	free(h);
	*hp = NULL;
}
