/* Sending: which server, which connection. */
#include "redis/redis.h"

#include <stdio.h>
#include <stdlib.h>

#include "redis/redis-private.h"

#define NO_NODE REDIS_NODES_MAX

bool redis_is_cluster(const struct redis *r) { return r->url->kind == REDIS_CLUSTER; }

/* CRC-16/XMODEM, four bits at a time (https://redis.io/docs/reference/cluster-spec/, appendix A). */
static uint16_t crc16(const char *p, size_t n)
{
	static const uint16_t table[16] = {0x0000, 0x1021, 0x2042, 0x3063, 0x4084, 0x50a5, 0x60c6, 0x70e7,
					   0x8108, 0x9129, 0xa14a, 0xb16b, 0xc18c, 0xd1ad, 0xe1ce, 0xf1ef};
	uint16_t crc = 0;
	for (size_t i = 0; i < n; i++) {
		uint8_t c = (uint8_t)p[i];
		crc = (uint16_t)(crc << 4 ^ table[crc >> 12 ^ c >> 4]);
		crc = (uint16_t)(crc << 4 ^ table[crc >> 12 ^ (c & 15)]);
	}
	return crc;
}

int redis_slot(const char *key, size_t n)
{
	const char *open = memchr(key, '{', n);
	const char *close = open ? memchr(open + 1, '}', n - (size_t)(open + 1 - key)) : NULL;
	if (close && close > open + 1) {
		key = open + 1;
		n = (size_t)(close - key);
	}
	return crc16(key, n) % REDIS_SLOTS;
}

/* ---- sending ---- */

/* Of a slot that nobody we know has, any node tells who has it. */
static unsigned node_of(const struct redis *r, int slot)
{
	if (!r->n)
		return NO_NODE;
	if (!r->owner || slot < 0 || !r->owner[slot])
		return 0;
	return r->owner[slot] - 1u;
}

/* Those of v[] that go to one node, in one piece; they are marked as taken by NO_NODE + 1. */
static size_t send_group(struct redis *r, struct redis_call *const *v, unsigned *node, size_t first, size_t n,
			 bool *sent)
{
	struct redis_call *group[REDIS_BATCH_MAX];
	size_t at[REDIS_BATCH_MAX], k = 0;
	unsigned to = node[first];
	for (size_t i = first; i < n; i++)
		if (node[i] == to) {
			group[k] = v[i];
			at[k++] = i;
			node[i] = NO_NODE + 1;
		}
	struct redis_link *l = to < r->n ? redis_node_pick(r, r->nodes[to]) : NULL;
	bool ok = l && redis_link_send(l, group, k);
	for (size_t i = 0; i < k; i++)
		sent[at[i]] = ok;
	return ok ? k : 0;
}

static size_t send_cache(struct redis *r, struct redis_call *const *v, size_t n, bool *sent)
{
	unsigned node[REDIS_BATCH_MAX];
	size_t done = 0;
	pthread_rwlock_rdlock(&r->lock);
	for (size_t i = 0; i < n; i++)
		node[i] = node_of(r, v[i]->slot);
	for (size_t i = 0; i < n; i++)
		if (node[i] <= NO_NODE)
			done += send_group(r, v, node, i, n, sent);
	pthread_rwlock_unlock(&r->lock);
	return done;
}

static size_t send_notices(struct redis *r, struct redis_call *const *v, size_t n, bool *sent)
{
	unsigned of = r->conf.connections[REDIS_NOTICES];
	unsigned turn = atomic_fetch_add_explicit(&r->turn, 1, memory_order_relaxed);
	bool ok = false;
	pthread_rwlock_rdlock(&r->lock);
	for (unsigned i = 0; i < of && !ok; i++) {
		struct redis_link *l = r->notices[(turn + i) % of];
		ok = l && redis_link_send(l, v, n);
	}
	pthread_rwlock_unlock(&r->lock);
	for (size_t i = 0; i < n; i++)
		sent[i] = ok;
	return ok ? n : 0;
}

size_t redis_send(struct redis *r, enum redis_purpose p, struct redis_call *const *v, size_t n)
{
	bool sent[REDIS_BATCH_MAX];
	AN(n <= REDIS_BATCH_MAX);
	size_t done = p == REDIS_CACHE ? send_cache(r, v, n, sent) : send_notices(r, v, n, sent);
	for (size_t i = 0; i < n; i++) {
		struct redis_reply *none = NULL;
		if (!sent[i])
			v[i]->done(v[i], REDIS_UNSENT, &none);
	}
	return done;
}

enum redis_talk redis_talk(struct redis *r, struct span wire, size_t n, int64_t deadline_us,
			   void (*got)(void *arg, size_t i, struct redis_reply **reply), void *arg)
{
	unsigned turn = atomic_fetch_add_explicit(&r->turn, 1, memory_order_relaxed);
	enum redis_talk how = TALK_NONE;
	pthread_rwlock_rdlock(&r->lock);
	struct redis_node *node = r->direct && r->n ? r->nodes[0] : NULL; /* which stays: only clusters have others */
	pthread_rwlock_unlock(&r->lock);
	for (unsigned i = 0; node && i < r->direct && how == TALK_NONE; i++)
		how = redis_link_talk(node->direct[(turn + i) % r->direct], wire, n, deadline_us, got, arg);
	return how;
}

unsigned redis_masters(struct redis *r)
{
	pthread_rwlock_rdlock(&r->lock);
	unsigned n = r->n;
	pthread_rwlock_unlock(&r->lock);
	return n;
}

bool redis_send_master(struct redis *r, unsigned i, struct redis_call *const *v, size_t n)
{
	pthread_rwlock_rdlock(&r->lock);
	struct redis_link *l = i < r->n ? redis_node_pick(r, r->nodes[i]) : NULL;
	bool ok = l && redis_link_send(l, v, n);
	pthread_rwlock_unlock(&r->lock);
	return ok;
}

/* ---- looking ---- */

bool redis_ready(struct redis *r)
{
	bool ready = false;
	pthread_rwlock_rdlock(&r->lock);
	for (unsigned i = 0; i < r->n && !ready; i++)
		ready = redis_node_pick(r, r->nodes[i]) != NULL;
	pthread_rwlock_unlock(&r->lock);
	return ready;
}

bool redis_error(struct redis *r, char *text, size_t cap)
{
	bool refused = false;
	pthread_mutex_lock(&r->error_lock);
	snprintf(text, cap, "%s", r->error);
	pthread_mutex_unlock(&r->error_lock);
	pthread_rwlock_rdlock(&r->lock);
	if (r->sentinel && !*text)
		refused = redis_link_error(r->sentinel, text, cap);
	for (unsigned i = 0; i < r->n && !refused; i++)
		for (unsigned k = 0; k < r->shared && !refused; k++) {
			char why[256];
			refused = redis_link_error(r->nodes[i]->links[k], why, sizeof(why));
			if (*why && (refused || !*text))
				snprintf(text, cap, "%s", why);
		}
	pthread_rwlock_unlock(&r->lock);
	return refused;
}

/* ---- birth and death (the rest is in servers.c) ---- */

struct redis *redis_open(struct redis_url **url, const struct redis_conf *conf)
{
	struct redis *r = util_zalloc(sizeof(*r));
	pthread_rwlock_init(&r->lock, NULL);
	pthread_mutex_init(&r->error_lock, NULL);
	r->conf = *conf;
	r->name = util_strndup(conf->name, strlen(conf->name));
	r->url = *url;
	*url = NULL;
	bool cluster = r->url->kind == REDIS_CLUSTER;
	r->shared = cluster ? conf->connections[REDIS_CACHE] : 1;
	r->direct = cluster ? 0 : conf->connections[REDIS_CACHE];
	r->owner = cluster ? util_zalloc(REDIS_SLOTS) : NULL;
	redis_servers_open(r);
	return r;
}

void redis_close(struct redis *r)
{
	if (r->closed)
		return;
	r->closed = true;
	redis_servers_close(r);
}
