/* redis.url, what Redis says, and what lies in it: nothing of it is trusted, all of it is bounded; what an envelope is read
 * as, writing it again makes. */
#include <stdlib.h>

#include "cache/l2_envelope.h"
#include "redis/reply.h"
#include "redis/url.h"

static void read_url(const char *text)
{
	char *error = NULL;
	struct redis_url *u = redis_url_parse(text, &error);
	AN(!u == (error != NULL));
	if (u)
		AN(u->n >= 1 && u->n <= REDIS_HOSTS_MAX && *u->hosts[0].host && u->db >= 0 && u->user && u->password &&
		   (u->kind != REDIS_SENTINEL || *u->master));
	redis_url_free(&u);
	free(error);
}

static size_t weigh(const struct redis_reply *r, size_t depth)
{
	size_t n = r->text ? r->n : 0;
	AN(depth < 10 && (!r->text || !r->text[r->n]));
	for (size_t i = 0; r->type == REPLY_ARRAY && i < r->n; i++)
		n += weigh(&r->v[i], depth + 1);
	return n;
}

static void read_replies(const char *p, size_t n, size_t step)
{
	struct redis_reader *rd = redis_reader_new(4096);
	struct redis_reply *r;
	bool ok = true;
	for (size_t at = 0; at < n && ok; at += step) {
		ok = redis_reader_feed(rd, p + at, n - at < step ? n - at : step);
		while (ok && (ok = redis_reader_next(rd, &r)) && r) {
			AN(weigh(r, 0) <= 4096);
			redis_reply_free(&r);
		}
	}
	redis_reader_free(&rd);
}

static void read_envelope(char *p, size_t n)
{
	struct l2_head h = {.magic = 0};
	struct cache_meta m;
	struct span body;
	struct buf again = {0};
	uint64_t revision;
	memcpy(&h, p, n < sizeof(h) ? n : sizeof(h));
	struct l2_name name = {h.store, (enum cache_class)h.cls, h.key};
	if (!l2_envelope_read(p, n, &name, &revision, &m, &body))
		return;
	AN(!body.len || (body.p >= p && body.p + body.len <= p + n));
	l2_envelope_write(&again, &name, revision, &m, body);
	AN(again.len == n);
	buf_free(&again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!size || size > 1u << 18)
		return 0;
	char *copy = util_alloc(size);
	memcpy(copy, data + 1, size - 1);
	copy[size - 1] = 0;
	switch (data[0] % 3) {
	case 0: read_url(copy); break;
	case 1: read_replies(copy, size - 1, 1 + data[0] / 3); break;
	default: read_envelope(copy, size - 1);
	}
	free(copy);
	return 0;
}
