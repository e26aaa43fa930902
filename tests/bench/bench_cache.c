/* Reading values of 1 KB from L1, from Redis and from memcached, by one process or several. Prints one JSON object:
 * {"per_s": of all readers, "per_cpu_s": a second of their processors and the server's, "p50_ns", "p999_ns": of an L1 get
 * among writes, else 0}.
 *
 * usage: bench_cache SECONDS KEYS READERS WRITES l1
 *        bench_cache SECONDS KEYS READERS 0 redis|memcached SOCKET PID PIPELINED
 *
 * KEYS are read at random; of a hundred operations on L1 WRITES are writes of such a key. PID: the server, for its time.
 * PIPELINED requests are sent at once (1: a question, an answer). */
#include <errno.h>
#include <hiredis/hiredis.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "cache/cache.h"
#include "clock.h"
#include "shm.h"

enum {
	VALUE = 1024,
	READERS_MAX = 16,
	SAMPLES = 1 << 17,
	SAMPLE_EVERY = 16,
	KEY_TEXT = UUID_TEXT + 1,
	ANSWER = 1 << 18,
	PIPELINED_MAX = 200
};
#define WARM_UP_US 200000

/* What readers leave for the parent. */
struct board {
	_Atomic uint32_t ready, go;
	struct {
		uint64_t n;
		int64_t us, cpu_us;
	} of[READERS_MAX];
	_Atomic uint32_t samples;
	uint32_t sample[SAMPLES]; /* ns */
};

static double seconds;
static uint32_t keys, writes, pipelined = 1;
static const char *path;
static struct board *board;
static struct uuid *key;
static char (*key_text)[KEY_TEXT];
static char value[VALUE];
static uint64_t rng = 88172645463325252ull;

static void die(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, errno ? strerror(errno) : "unexpected answer");
	_exit(1);
}

static uint32_t random_below(uint32_t n)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return (uint32_t)((rng >> 32) * n >> 32);
}

static uint32_t now_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint32_t)((uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec); /* for differences */
}

static int64_t cpu_us(void)
{
	struct timespec t;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

/* Of another process; 0 without one. */
static int64_t cpu_us_of(const char *pid)
{
	char file[64], line[1024];
	unsigned long user = 0, system = 0;
	if (!pid)
		return 0;
	snprintf(file, sizeof(file), "/proc/%s/stat", pid);
	FILE *f = fopen(file, "r");
	const char *p = f && fgets(line, sizeof(line), f) ? strrchr(line, ')') : NULL;
	if (!p || sscanf(p, ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system) != 2)
		die("the server's time");
	fclose(f);
	return (int64_t)(user + system) * 1000000 / sysconf(_SC_CLK_TCK);
}

/* Runs `some` operations over and over: first for the caches' sake, then for the figure. */
static void measure(int reader, void (*some)(void *), void *arg, uint64_t at_once)
{
	uint64_t n = 0;
	int64_t start = clock_mono_us(), now, cpu;
	while (clock_mono_us() - start < WARM_UP_US)
		some(arg);
	atomic_fetch_add(&board->ready, 1);
	while (!atomic_load(&board->go))
		sched_yield();
	atomic_store(&board->samples, 0);
	start = clock_mono_us();
	cpu = cpu_us();
	do {
		some(arg);
		n += at_once;
		now = clock_mono_us();
	} while ((double)(now - start) < seconds * 1e6);
	board->of[reader].n = n;
	board->of[reader].us = now - start;
	board->of[reader].cpu_us = cpu_us() - cpu;
}

/* ---- L1 ---- */

enum { L1_AT_ONCE = 1000 };

static void put_l1(struct cache *c, uint32_t i, struct cache_meta *m)
{
	m->version++;
	cache_put(c, CACHE_MEMORY, &key[i], m, value, VALUE);
}

static void some_l1(void *arg)
{
	struct cache *c = arg;
	static struct cache_meta m = {.ns = 1, .version = 1, .filled_us = 1};
	struct cache_meta got;
	for (uint32_t i = 0; i < L1_AT_ONCE; i++) {
		uint32_t k = random_below(keys);
		bool timed = writes && i % SAMPLE_EVERY == 0;
		if (writes && random_below(100) < writes) {
			put_l1(c, k, &m);
			continue;
		}
		uint32_t from = timed ? now_ns() : 0;
		if (cache_get(c, CACHE_MEMORY, &key[k], 0, value, VALUE, &got) != VALUE && !writes)
			die("a key is missing");
		uint32_t at = timed ? atomic_fetch_add(&board->samples, 1) : SAMPLES;
		if (at < SAMPLES)
			board->sample[at] = now_ns() - from;
	}
}

static void read_l1(int reader, int fd)
{
	struct cache *c = cache_open(fd, false);
	if (!c)
		die("cache");
	measure(reader, some_l1, c, L1_AT_ONCE);
}

static int fill_l1(void)
{
	int fd = shm_create("bench-cache", cache_segment_size((uint64_t)160 << 20));
	struct cache *c = fd < 0 ? NULL : cache_open(fd, true);
	struct cache_meta m = {.ns = 1, .filled_us = 1};
	if (!c)
		die("cache");
	for (uint32_t i = 0; i < keys; i++)
		put_l1(c, i, &m);
	cache_close(&c);
	return fd;
}

/* ---- Redis ---- */

static redisContext *connect_redis(void)
{
	redisContext *r = redisConnectUnix(path);
	if (!r || r->err)
		die("redis");
	return r;
}

static void answer_redis(redisContext *r, int type)
{
	redisReply *a = NULL;
	if (redisGetReply(r, (void **)&a) != REDIS_OK || a->type != type ||
	    (type == REDIS_REPLY_STRING && a->len != VALUE))
		die("redis");
	freeReplyObject(a);
}

static void some_redis(void *arg)
{
	for (uint32_t i = 0; i < pipelined; i++)
		redisAppendCommand(arg, "GET %s", key_text[random_below(keys)]);
	for (uint32_t i = 0; i < pipelined; i++)
		answer_redis(arg, REDIS_REPLY_STRING);
}

static void fill_redis(void)
{
	redisContext *r = connect_redis();
	for (uint32_t i = 0; i < keys; i++) {
		redisAppendCommand(r, "SET %s %b", key_text[i], value, (size_t)VALUE);
		if (i % 100 == 99 || i + 1 == keys)
			for (uint32_t n = i % 100 + 1; n; n--)
				answer_redis(r, REDIS_REPLY_STATUS);
	}
	redisFree(r);
}

/* ---- memcached: its text protocol ---- */

struct memcached {
	int fd;
	size_t have, at;
	char in[ANSWER];
};

static struct memcached *connect_memcached(void)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	struct memcached *m = util_zalloc(sizeof(*m));
	snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
	m->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (m->fd < 0 || connect(m->fd, (struct sockaddr *)&a, sizeof(a)) == -1)
		die("memcached");
	return m;
}

static void send_memcached(struct memcached *m, const char *p, size_t n)
{
	while (n) {
		ssize_t done = send(m->fd, p, n, MSG_NOSIGNAL);
		if (done <= 0)
			die("memcached");
		p += done;
		n -= (size_t)done;
	}
}

/* The next n bytes of the answer, which are there until the next call. */
static const char *answer_memcached(struct memcached *m, size_t n)
{
	if (m->at + n > sizeof(m->in) || m->at == m->have) {
		memmove(m->in, m->in + m->at, m->have - m->at);
		m->have -= m->at;
		m->at = 0;
	}
	while (m->have - m->at < n) {
		ssize_t got = recv(m->fd, m->in + m->have, sizeof(m->in) - m->have, 0);
		if (got <= 0)
			die("memcached");
		m->have += (size_t)got;
	}
	m->at += n;
	return m->in + m->at - n;
}

static void expect_memcached(struct memcached *m, const char *want, size_t n)
{
	if (memcmp(answer_memcached(m, n), want, n) != 0)
		die("memcached");
}

static void some_memcached(void *arg)
{
	static char out[PIPELINED_MAX * (KEY_TEXT + 8)];
	uint32_t asked[PIPELINED_MAX];
	size_t n = 0;
	for (uint32_t i = 0; i < pipelined; i++)
		n += (size_t)sprintf(out + n, "get %s\r\n", key_text[asked[i] = random_below(keys)]);
	send_memcached(arg, out, n);
	for (uint32_t i = 0; i < pipelined; i++) {
		n = (size_t)sprintf(out, "VALUE %s 0 %d\r\n", key_text[asked[i]], VALUE);
		expect_memcached(arg, out, n);
		memcpy(value, answer_memcached(arg, VALUE), VALUE);
		expect_memcached(arg, "\r\nEND\r\n", 7);
	}
}

static void fill_memcached(void)
{
	struct memcached *m = connect_memcached();
	char out[VALUE + KEY_TEXT + 40];
	for (uint32_t i = 0; i < keys; i++) {
		size_t n = (size_t)sprintf(out, "set %s 0 0 %d\r\n", key_text[i], VALUE);
		memcpy(out + n, value, VALUE);
		memcpy(out + n + VALUE, "\r\n", 2);
		send_memcached(m, out, n + VALUE + 2);
		expect_memcached(m, "STORED\r\n", 8);
	}
	close(m->fd);
	free(m);
}

/* ---- all of them ---- */

static int by_value(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
	return (x > y) - (x < y);
}

static void report(uint32_t readers, int64_t server_us)
{
	double per_s = 0, per_cpu_s = 0;
	uint32_t n = atomic_load(&board->samples);
	n = n < SAMPLES ? n : SAMPLES;
	for (uint32_t i = 0; i < readers; i++) {
		per_s += (double)board->of[i].n * 1e6 / (double)board->of[i].us;
		per_cpu_s += (double)board->of[i].n * 1e6 / (double)(board->of[i].cpu_us + server_us / readers);
	}
	qsort(board->sample, n, sizeof(*board->sample), by_value);
	printf("{\"per_s\":%.0f,\"per_cpu_s\":%.0f,\"p50_ns\":%u,\"p999_ns\":%u}\n", per_s, per_cpu_s,
	       n ? board->sample[n / 2] : 0, n ? board->sample[(uint64_t)n * 999 / 1000] : 0);
}

static void make_keys(void)
{
	key = util_zalloc(keys * sizeof(*key));
	key_text = util_zalloc(keys * sizeof(*key_text));
	uuid_make_many(key, keys);
	for (uint32_t i = 0; i < keys; i++)
		uuid_format(&key[i], key_text[i]);
	memset(value, 'v', sizeof(value));
}

static void run(const char *what, uint32_t readers, const char *server)
{
	int fd = -1;
	if (strcmp(what, "l1") == 0)
		fd = fill_l1();
	else if (strcmp(what, "redis") == 0)
		fill_redis();
	else
		fill_memcached();
	for (uint32_t i = 0; i < readers; i++) {
		pid_t pid = fork();
		if (pid < 0)
			die("fork");
		if (pid)
			continue;
		rng += i * 7919;
		if (fd >= 0)
			read_l1((int)i, fd);
		else if (strcmp(what, "redis") == 0)
			measure((int)i, some_redis, connect_redis(), pipelined);
		else
			measure((int)i, some_memcached, connect_memcached(), pipelined);
		_exit(0);
	}
	struct timespec ms = {.tv_nsec = 1000000};
	while (atomic_load(&board->ready) < readers && waitpid(-1, NULL, WNOHANG) == 0)
		nanosleep(&ms, NULL);
	int64_t before_us = cpu_us_of(server);
	atomic_store(&board->go, 1);
	int status = 0;
	while (wait(&status) > 0)
		if (status)
			die("a reader failed");
	report(readers, cpu_us_of(server) - before_us);
}

int main(int argc, char **argv)
{
	bool l1 = argc == 6 && strcmp(argv[5], "l1") == 0;
	seconds = argc > 1 ? atof(argv[1]) : 0;
	keys = argc > 2 ? (uint32_t)atoi(argv[2]) : 0;
	uint32_t readers = argc > 3 ? (uint32_t)atoi(argv[3]) : 0;
	writes = argc > 4 ? (uint32_t)atoi(argv[4]) : 0;
	if (argc == 9) {
		path = argv[6];
		pipelined = (uint32_t)atoi(argv[8]);
	}
	if (seconds <= 0 || !keys || !readers || readers > READERS_MAX || !pipelined || pipelined > PIPELINED_MAX ||
	    (!l1 && argc != 9)) {
		fprintf(stderr, "usage: %s SECONDS KEYS READERS WRITES l1|redis|memcached [SOCKET PID PIPELINED]\n",
			argv[0]);
		return 2;
	}
	board = mmap(NULL, sizeof(*board), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (board == MAP_FAILED)
		die("mmap");
	make_keys();
	run(argv[5], readers, argc == 9 ? argv[7] : NULL);
	return 0;
}
