/* Hit ratios over traces: L1 itself (cache_get, and cache_fill after a miss) beside the policies of cache_sim.c, at 1, 5, 10 and
 * 25 % of what a trace touches. Prints one JSON array of {"trace", "share", "l1", and each policy by its name}.
 *
 * usage: bench_hits ACCESSES [QUESTIONS]
 * QUESTIONS: a file with a line "c TURNS" for each conversation, and behind it a line "q TURN…" for each question about it,
 * with the turns that answer it. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cache/cache.h"
#include "cache_sim.h"
#include "shm.h"

enum {
	KEYS = 100000,
	VALUE = 960, /* with its head 1 KiB */
	RECORD = 1024,
	SHIFTS = 20,
	USERS = 200, /* each with a conversation of its own */
	SITTING = 5, /* questions that a user asks in a row */
	NEIGHBOURS = 1,
	CONVERSATIONS_MAX = 16,
	QUESTIONS_MAX = 4096,
	EVIDENCE_MAX = 64
};

static uint64_t seed = 20261122;

static void die(const char *what)
{
	fprintf(stderr, "bench_hits: %s\n", what);
	exit(1);
}

static double unit(void)
{
	uint64_t z = seed += 0x9e3779b97f4a7c15ull;
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
	z = (z ^ z >> 27) * 0x94d049bb133111ebull;
	return (double)((z ^ z >> 31) >> 11) * 0x1p-53;
}

/* ---- traces ---- */

struct zipf {
	double *sum;
	uint32_t n;
};

static struct zipf new_zipf(uint32_t n, double exponent)
{
	struct zipf z = {util_zalloc(n * sizeof(double)), n};
	double all = 0;
	for (uint32_t i = 0; i < n; i++)
		z.sum[i] = all += pow(i + 1, -exponent);
	return z;
}

static uint32_t draw(const struct zipf *z)
{
	double x = unit() * z->sum[z->n - 1];
	uint32_t low = 0, high = z->n - 1;
	while (low < high) {
		uint32_t mid = (low + high) / 2;
		if (z->sum[mid] < x)
			low = mid + 1;
		else
			high = mid;
	}
	return low;
}

static struct sim_trace new_trace(const char *name, size_t n, uint32_t keys)
{
	return (struct sim_trace){name, util_zalloc(n * sizeof(uint32_t)), n, keys};
}

static struct sim_trace zipf_trace(const char *name, size_t n, double exponent)
{
	struct sim_trace t = new_trace(name, n, KEYS);
	struct zipf z = new_zipf(KEYS, exponent);
	for (size_t i = 0; i < n; i++)
		t.key[i] = draw(&z);
	free(z.sum);
	return t;
}

/* A third of the accesses are scans of a tenth of the keys at a time, over keys that nobody else wants. */
static struct sim_trace scan_trace(size_t n)
{
	struct sim_trace t = new_trace("Zipf 1.0 and scans", n, KEYS);
	struct zipf z = new_zipf(KEYS / 2, 1);
	uint32_t at = 0, popular = KEYS / 2;
	for (size_t i = 0; i < n; i++)
		t.key[i] = i % (KEYS * 3 / 10) < KEYS / 5 ? draw(&z) : popular + at++ % (KEYS - popular);
	free(z.sum);
	return t;
}

/* What is popular changes altogether, many times. */
static struct sim_trace shifting_trace(size_t n)
{
	struct sim_trace t = new_trace("Zipf 1.0, shifting", n, KEYS);
	struct zipf z = new_zipf(KEYS, 1);
	for (size_t i = 0; i < n; i++)
		t.key[i] = (draw(&z) + (uint32_t)(i / (n / SHIFTS + 1)) * (KEYS / SHIFTS)) % KEYS;
	free(z.sum);
	return t;
}

static struct sim_trace loop_trace(size_t n, uint32_t keys)
{
	struct sim_trace t = new_trace("loop over 1.1 × the cache", n, keys);
	for (size_t i = 0; i < n; i++)
		t.key[i] = (uint32_t)(i % keys);
	return t;
}

static struct question {
	uint32_t turn[EVIDENCE_MAX];
	int n;
} questions[QUESTIONS_MAX];
static struct conversation {
	uint32_t turns, first, questions, asked;
} conversations[CONVERSATIONS_MAX];
static uint32_t conversation_count, question_count;

static void add_question(const char *p)
{
	struct question *q = &questions[question_count++];
	char *end;
	for (unsigned long v; q->n < EVIDENCE_MAX && (v = strtoul(p, &end, 10), end != p); p = end)
		q->turn[q->n++] = (uint32_t)v;
	conversations[conversation_count - 1].questions++;
}

static void read_questions(const char *path)
{
	char line[4096];
	FILE *f = fopen(path, "r");
	if (!f)
		die("the file of questions cannot be opened");
	while (fgets(line, sizeof(line), f)) {
		if (*line == 'c' && conversation_count < CONVERSATIONS_MAX)
			conversations[conversation_count++] = (struct conversation){
				.turns = (uint32_t)strtoul(line + 1, NULL, 10), .first = question_count};
		else if (*line == 'q' && conversation_count && question_count < QUESTIONS_MAX)
			add_question(line + 1);
	}
	fclose(f);
	if (!question_count)
		die("the file of questions holds none");
}

/* Users, a few of them busy, ask what the data set asks about their conversation: the turns that answer a question are
 * read, and their neighbours. */
static struct sim_trace locomo_trace(size_t n)
{
	struct sim_trace t = new_trace("LoCoMo questions", n, 0);
	struct zipf z = new_zipf(USERS, 0.8);
	uint32_t base[USERS], next[USERS] = {0};
	for (uint32_t u = 0; u < USERS; u++) {
		base[u] = t.keys;
		t.keys += conversations[u % conversation_count].turns;
	}
	for (size_t i = 0; i < n;) {
		uint32_t u = draw(&z);
		const struct conversation *c = &conversations[u % conversation_count];
		for (int s = 0; s < SITTING; s++) {
			const struct question *q = &questions[c->first + next[u]++ % c->questions];
			for (int e = 0; e < q->n * (2 * NEIGHBOURS + 1); e++) {
				int64_t turn = (int64_t)q->turn[e / (2 * NEIGHBOURS + 1)] + e % (2 * NEIGHBOURS + 1) -
					       NEIGHBOURS;
				if (turn >= 0 && turn < c->turns && i < n)
					t.key[i++] = base[u] + (uint32_t)turn;
			}
		}
	}
	free(z.sum);
	return t;
}

/* ---- L1 ---- */

/* A cache whose logs hold so many records. */
static struct cache *new_cache(uint32_t entries)
{
	uint64_t want = (uint64_t)entries * RECORD, bytes = want;
	for (;; bytes += 4096) {
		struct cache_stats s;
		int fd = shm_create("bench-hits", cache_segment_size(bytes));
		struct cache *c = fd < 0 ? NULL : cache_open(fd, true);
		if (!c)
			die("no cache");
		close(fd);
		cache_stats(c, &s);
		if (s.capacity >= want)
			return c;
		cache_close(&c);
		bytes += (want - s.capacity) / 2;
	}
}

static double l1_hits(const struct sim_trace *t, uint32_t entries)
{
	static char value[VALUE];
	struct cache *c = new_cache(entries);
	struct cache_meta m = {.version = 1, .filled_us = 1}, got;
	uint64_t hits = 0;
	for (size_t i = 0; i < t->n; i++) {
		struct uuid k = {{0}};
		memcpy(k.b, &t->key[i], sizeof(t->key[i]));
		if (cache_get(c, CACHE_MEMORY, &k, 1, value, sizeof(value), &got) >= 0)
			hits++;
		else
			cache_fill(c, CACHE_MEMORY, &k, cache_epoch(c, CACHE_MEMORY, &k), &m, value, sizeof(value));
	}
	cache_close(&c);
	return (double)hits / (double)t->n;
}

static void compare(const struct sim_trace *t, double share, uint32_t entries)
{
	static bool first = true;
	printf("%s{\"trace\":\"%s\",\"share\":%g,\"entries\":%u", first ? "[" : ",\n", t->name, share, entries);
	for (int i = 0; i < SIM_POLICIES; i++)
		printf(",\"%s\":%.4f", sim_name[i], sim_hits((enum sim_policy)i, t, entries));
	printf(",\"l1\":%.4f}", l1_hits(t, entries));
	fflush(stdout);
	first = false;
}

int main(int argc, char **argv)
{
	static const double shares[] = {0.01, 0.05, 0.10, 0.25};
	size_t n = argc > 1 ? strtoul(argv[1], NULL, 10) : 0;
	if (argc > 3 || n < 1000 || n > UINT32_MAX / 2) {
		fprintf(stderr, "usage: %s ACCESSES [QUESTIONS]\n", argv[0]);
		return 2;
	}
	if (argc == 3)
		read_questions(argv[2]);
	struct sim_trace traces[7] = {zipf_trace("Zipf 0.8", n, 0.8),
				      zipf_trace("Zipf 0.9", n, 0.9),
				      zipf_trace("Zipf 1.0", n, 1.0),
				      zipf_trace("Zipf 1.2", n, 1.2),
				      scan_trace(n),
				      shifting_trace(n)};
	size_t count = 6;
	if (argc == 3)
		traces[count++] = locomo_trace(n);
	for (size_t i = 0; i < count; i++) {
		for (size_t s = 0; s < ARRAY_LEN(shares); s++)
			compare(&traces[i], shares[s], (uint32_t)(traces[i].keys * shares[s]));
		free(traces[i].key);
	}
	for (size_t s = 0; s < ARRAY_LEN(shares); s++) {
		uint32_t entries = (uint32_t)(KEYS * shares[s]);
		struct sim_trace t = loop_trace(n, entries + entries / 10);
		compare(&t, shares[s], entries);
		free(t.key);
	}
	printf("]\n");
	return 0;
}
