/* L2 beside bare hiredis, in turns, on the same server and values: one GET after the other by hiredis' blocking calls;
 * l2_get_many() of one key, and of a hundred.
 *
 * usage: bench_redis URL PORT|SOCKET SECONDS BYTES
 * Prints {"sync","one","many"}: values a second, each over that many seconds. */
#include <event2/event.h>
#include <hiredis/hiredis.h>
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "cache/l2.h"
#include "clock.h"
#include "conf.h"
#include "stats.h"

#define KEYS 1000
#define MANY 100

static struct uuid keys[KEYS];

static void die(const char *what)
{
	fprintf(stderr, "bench_redis: %s\n", what);
	exit(2);
}

static double bare(redisContext *c, double seconds)
{
	int64_t began = clock_mono_us(), end = began + (int64_t)(seconds * 1e6), n = 0;
	for (; clock_mono_us() < end; n++) {
		redisReply *r = redisCommand(c, "GET bare:%d", (int)(n % KEYS));
		if (!r || r->type != REDIS_REPLY_STRING)
			die("GET failed");
		freeReplyObject(r);
	}
	return (double)n / ((double)(clock_mono_us() - began) / 1e6);
}

static double tier(struct l2 *l, double seconds, size_t at_once)
{
	struct l2_value v[MANY];
	int64_t began = clock_mono_us(), end = began + (int64_t)(seconds * 1e6), n = 0;
	for (size_t at = 0; clock_mono_us() < end; at = (at + at_once) % KEYS) {
		(void)l2_get_many(l, CACHE_MEMORY, &keys[at], at_once, v);
		for (size_t i = 0; i < at_once; i++)
			n += v[i].found;
		l2_values_free(v, at_once);
	}
	return (double)n / ((double)(clock_mono_us() - began) / 1e6);
}

static void *loop_main(void *arg)
{
	event_base_loop(arg, EVLOOP_NO_EXIT_ON_EMPTY);
	return NULL;
}

static void fill(struct l2 *l, redisContext *c, size_t bytes)
{
	char *body = util_zalloc(bytes);
	struct cache_meta m = {.filled_us = clock_real_us(), .gone_ms = 3600000};
	struct l2_value v;
	for (size_t i = 0; i < bytes; i++)
		body[i] = (char)('a' + i % 23);
	for (int i = 0; i < KEYS; i++) {
		keys[i].b[14] = (uint8_t)(i >> 8);
		keys[i].b[15] = (uint8_t)i;
		freeReplyObject(redisCommand(c, "SET bare:%d %b", i, body, bytes));
		for (bool there = false; !there;) {
			l2_put(l, CACHE_MEMORY, &keys[i], 1, &m, (struct span){body, bytes});
			(void)l2_get_many(l, CACHE_MEMORY, &keys[i], 1, &v);
			if (!(there = v.found))
				usleep(1000);
			l2_values_free(&v, 1);
		}
	}
	free(body);
}

int main(int argc, char **argv)
{
	static struct stats_slot stats;
	pthread_t thread;
	char set[512], *error = NULL;
	if (argc != 5)
		die("usage: bench_redis URL PORT|SOCKET SECONDS BYTES");
	/* As in a worker (worker.c). */
	(void)mallopt(M_MMAP_THRESHOLD, 1 << 20);
	(void)mallopt(M_TRIM_THRESHOLD, 4 << 20);
	snprintf(set, sizeof(set), "redis.url=%s", argv[1]);
	const char *sets[] = {set, "redis.answer_timeout=5 s", "data.dir=/tmp"};
	struct conf_input in = {.sets = sets, .nsets = 3};
	struct conf *conf = conf_load(&in, &error);
	struct event_base *base = event_base_new();
	struct l2 *l = conf ? l2_open(conf, base, NULL, &stats, "bench", &error) : NULL;
	redisContext *c = *argv[2] == '/' ? redisConnectUnix(argv[2]) : redisConnect("127.0.0.1", atoi(argv[2]));
	if (!l || !c || c->err || pthread_create(&thread, NULL, loop_main, base))
		die(error ? error : "cannot connect");
	l2_set_store(l, 1);
	fill(l, c, (size_t)atol(argv[4]));
	double seconds = atof(argv[3]), s = bare(c, seconds), one = tier(l, seconds, 1), many = tier(l, seconds, MANY);
	printf("{\"sync\":%.0f,\"one\":%.0f,\"many\":%.0f}\n", s, one, many);
	fflush(stdout);
	_exit(0);
}
