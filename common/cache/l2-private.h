/* The inside of L2: l2.c opens, l2_batch.c asks and waits, l2_values.c gets and puts, l2_notices.c publishes and listens,
 * l2_people.c looks and clears, l2_probe.c looks before there is a daemon. */
#ifndef ORC_CACHE_L2_PRIVATE_H
#define ORC_CACHE_L2_PRIVATE_H
#include <pthread.h>
#include <stdatomic.h>

#include "breaker.h"
#include "cache/l2.h"
#include "redis/redis.h"
#include "stats.h"

#define L2_KEY_MAX 128

struct l2 {
	struct redis *redis;
	struct breaker *breaker;
	struct stats_slot *stats;
	char prefix[68];
	int64_t answer_us, ttl_us;
	size_t value_max;
	_Atomic uint64_t store;
	_Atomic bool stopped;
	_Atomic int64_t no_puts_us;	/* Redis takes no writes: none are sent until then */
	_Atomic size_t bytes_under_way; /* of puts */
	/* of l2_listen() */
	void (*message)(void *arg, struct span message);
	void (*gap)(void *arg, bool connected);
	void *listen_arg;
};
/* Of INFO: what stands behind name and a colon; out as it is when it is not there. */
void l2_info_word(const char *text, const char *name, char *out, size_t cap);
size_t l2_key(const struct l2 *l, enum cache_class cls, const struct uuid *key, char out[L2_KEY_MAX]);

/* ---- what a call has told about Redis ---- */

/* May it be asked? Counts nothing. */
bool must_check l2_enter(struct l2 *l, struct breaker_pass *pass_r);
/* fate and reply of a call, NULL where there is none. The worst of several is what is to be reported. */
enum breaker_result l2_judge(enum redis_fate fate, const struct redis_reply *reply);
/* why NULL: what the connections say. */
void l2_leave(struct l2 *l, const struct breaker_pass *pass, enum breaker_result result, const char *why);
/* An answer that says that we may not do this, by whatever command. */
bool l2_is_refusal(const struct redis_reply *reply);

/* ---- asking and waiting (l2_batch.c) ---- */

struct l2_item {
	struct redis_call call;
	struct l2_batch *batch;
	size_t at, len; /* in the wire */
	enum redis_fate fate;
	struct redis_reply *reply;
	_Atomic bool done;
};
struct l2_batch {
	_Atomic uint32_t waiting; /* items that are not done: what is slept on */
	_Atomic unsigned holders; /* the last one frees it */
	size_t n;
	struct buf wire;
	struct l2_item v[];
};
struct l2_batch *must_check l2_batch_new(size_t most);
/* A command; slot as in redis_call. */
void l2_batch_add(struct l2_batch *b, int slot, const struct span *words, size_t n);
/* master -1: each by its slot. Returns how many are on their way. */
size_t l2_batch_send(struct l2_batch *b, struct redis *r, int master);
/* By the thread itself, where a connection for that is free, else by the loop; and waits until deadline_us. False: not all
 * were done by then. */
bool l2_batch_ask(struct l2_batch *b, struct redis *r, int64_t deadline_us);
/* False: not all were done at deadline_us (clock_mono_us()). */
bool l2_batch_wait(struct l2_batch *b, int64_t deadline_us);
/* Answered by now: there is a reply, the waiter's to look at until l2_batch_end(). */
bool l2_item_done(const struct l2_item *item);
void l2_batch_end(struct l2_batch **b);
#endif
