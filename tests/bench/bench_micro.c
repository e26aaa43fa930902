/* The parts on their own, in one process: L1, ring, journal, words. Prints one JSON object of
 * {"name": operations per second}.
 *
 * usage: bench_micro SECONDS_EACH DIRECTORY */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "cache/cache.h"
#include "clock.h"
#include "embed/embed.h"
#include "journal/journal.h"
#include "packed.h"
#include "ring.h"
#include "shm.h"
#include "vocabulary.h"
#include "words/words.h"

enum { KEYS = 60000, HOT = 500, VALUE = 1024, RING = 8 << 20 };

static double seconds;
static struct uuid key[KEYS];
static bool first = true;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static void say(const char *name, double per_s)
{
	printf("%s\"%s\":%.0f", first ? "{" : ",", name, per_s);
	first = false;
}

static uint64_t rng = 88172645463325252ull;
static uint32_t random_below(uint32_t n)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return (uint32_t)((rng >> 32) * n >> 32);
}

/* ---- L1 ---- */

static void get(struct cache *c, const char *name, uint32_t keys)
{
	char value[VALUE];
	struct cache_meta m;
	uint64_t n = 0;
	int64_t start = clock_mono_us(), now;
	do {
		for (int i = 0; i < 1000; i++)
			if (cache_get(c, CACHE_MEMORY, &key[random_below(keys)], 0, value, sizeof(value), &m) != VALUE)
				die("a key is missing");
		n += 1000;
		now = clock_mono_us();
	} while ((double)(now - start) < seconds * 1e6);
	say(name, (double)n * 1e6 / (double)(now - start));
}

static void put(struct cache *c, const char *name)
{
	static char value[VALUE];
	struct cache_meta m = {.ns = 1};
	uint64_t n = 0;
	int64_t start = clock_mono_us(), now;
	do {
		m.version = n / KEYS + 2;
		for (int i = 0; i < 1000; i++)
			cache_put(c, CACHE_MEMORY, &key[(n + (uint64_t)i) % KEYS], &m, value, sizeof(value));
		n += 1000;
		now = clock_mono_us();
	} while ((double)(now - start) < seconds * 1e6);
	say(name, (double)n * 1e6 / (double)(now - start));
}

static void l1(void)
{
	static char value[VALUE];
	int fd = shm_create("bench-cache", cache_segment_size(160 << 20));
	struct cache *c = fd < 0 ? NULL : cache_open(fd, true);
	struct cache_meta m = {.ns = 1, .version = 1};
	if (!c)
		die("cache");
	uuid_make_many(key, KEYS);
	uint64_t start = (uint64_t)clock_mono_us();
	for (int i = 0; i < KEYS; i++)
		if (!cache_fill(c, CACHE_MEMORY, &key[i], cache_epoch(c, CACHE_MEMORY, &key[i]), &m, value,
				sizeof(value)))
			die("fill");
	say("l1_fill_1kb_fresh_pages", KEYS * 1e6 / (double)((uint64_t)clock_mono_us() - start));
	get(c, "l1_get_1kb_60000_random", KEYS);
	get(c, "l1_get_1kb_500_hot", HOT);
	put(c, "l1_put_1kb");
	cache_close(&c);
	close(fd);
}

/* ---- ring: both ends in this process, on two threads ---- */

static struct ring *producer, *consumer;
static size_t message;
static _Atomic bool stop;

static void *produce(void *arg)
{
	(void)arg;
	while (!stop) {
		char *p = ring_reserve(producer, message);
		if (!p)
			continue;
		memset(p, 1, message);
		ring_commit(producer, message);
	}
	return NULL;
}

static void ring(const char *name, size_t bytes)
{
	pthread_t t;
	uint64_t n = 0, sum = 0;
	int fd = shm_create("bench-ring", ring_footprint(RING));
	producer = fd < 0 ? NULL : ring_open(fd, 0, RING);
	consumer = fd < 0 ? NULL : ring_open(fd, 0, RING);
	message = bytes;
	stop = false;
	if (!producer || !consumer || pthread_create(&t, NULL, produce, NULL))
		die("ring");
	int64_t start = clock_mono_us(), now;
	do {
		uint64_t cursor = ring_head(consumer);
		size_t len;
		const char *p;
		while ((p = ring_peek(consumer, &cursor, &len))) {
			for (size_t i = 0; i < len; i += CACHE_LINE)
				sum += (unsigned char)p[i];
			n++;
		}
		ring_advance(consumer, cursor);
		now = clock_mono_us();
	} while ((double)(now - start) < seconds * 1e6);
	stop = true;
	pthread_join(t, NULL);
	volatile uint64_t sink = sum;
	(void)sink;
	say(name, (double)n * 1e6 / (double)(now - start));
	ring_close(&producer);
	ring_close(&consumer);
	close(fd);
}

/* ---- journal ---- */

static void replayed(void *arg, uint64_t seq, uint64_t segment, uint64_t off, const void *p, size_t len)
{
	(void)arg, (void)seq, (void)segment, (void)off, (void)p, (void)len;
}

static void journal(const char *under, const char *name, size_t group)
{
	char dir[600];
	static char record[6528];
	struct iovec v[512];
	struct journal_where where[512];
	char *error = NULL;
	snprintf(dir, sizeof(dir), "%s/%zu", under, group);
	mkdir(dir, 0700);
	struct journal_conf conf = {
		.dir = dir, .first_bytes = 8 << 20, .segment_bytes = 64 << 20, .quota_bytes = 1 << 30};
	struct journal *j = journal_open(&conf, 0, replayed, NULL, &error);
	if (!j) {
		fprintf(stderr, "%s\n", error);
		exit(1);
	}
	uint64_t seq = journal_last_seq(j) + 1, n = 0;
	for (size_t i = 0; i < group; i++)
		v[i] = (struct iovec){record, sizeof(record)};
	int64_t spent = 0;
	while ((double)spent < seconds * 1e6) {
		int64_t start = clock_mono_us();
		for (size_t done = 0; done < (32 << 20); done += group * sizeof(record)) {
			if (journal_append(j, v, group, seq, where) || journal_sync(j))
				die("journal");
			seq += group;
			n += group;
			if (group == 1 && done > 400 * sizeof(record))
				break;
		}
		spent += clock_mono_us() - start;
		journal_release(j, seq - 1); /* upkeep is another thread's in the daemon: not counted */
		(void)!journal_prepare(j);
	}
	say(name, (double)n * 1e6 / (double)spent);
	journal_close(&j);
}

/* Texts of 60 words: as often as in English from a few common ones, and from 20,000 with one of eight endings. */
static void words(void)
{
	static const char *const common[] = {"the", "of",  "and", "to", "in",	"a",
					     "is",  "was", "for", "it", "with", "she"};
	static const char *const ends[] = {"", "s", "ed", "ing", "ation", "ness", "ly", "er"};
	enum { TEXTS = 500 };
	static struct buf text[TEXTS];
	struct words *w = words_new();
	struct buf out = {NULL, 0, 0};
	uint64_t n = 0;
	for (int i = 0; i < TEXTS * 60; i++) {
		uint32_t k = random_below(20000) * random_below(20000) / 20000 * random_below(20000) / 20000;
		if (random_below(2))
			buf_printf(&text[i / 60], "%s ", common[random_below(ARRAY_LEN(common))]);
		else
			buf_printf(&text[i / 60], "%c%c%c%s ", 'a' + k % 26, 'a' + k / 26 % 26, 'a' + k / 676 % 26,
				   ends[k % 8]);
	}
	int64_t start = clock_mono_us(), now;
	do {
		for (int i = 0; i < TEXTS; i++) {
			out.len = 0;
			words_tsvector(w, (struct span){text[i].p, text[i].len}, &out);
		}
		n += TEXTS;
		now = clock_mono_us();
	} while ((double)(now - start) < seconds * 1e6);
	say("words_tsvector_60", (double)n * 1e6 / (double)(now - start));
	for (int i = 0; i < TEXTS; i++)
		buf_free(&text[i]);
	buf_free(&out);
	words_free(&w);
}

/* ---- vectors as they are kept ---- */

static void vectors(void)
{
	static const char *const parts[] = {"we moved the nightly backup", "she prefers tea to coffee",
					    "the invoice is due",	   "deploys wait for a review",
					    "he flies to Lisbon",	   "the cache was cold"};
	enum { TEXTS = 216, DIM = 1536 };
	static float x[TEXTS][DIM], of_model[DIM], back[DIM];
	static char packed[TEXTS][PACKED_MAX(DIM)], text[TEXTS][128];
	static size_t len[TEXTS];
	const struct embedder *e = embed_hashed();
	struct span s[TEXTS];
	uint64_t n = 0;
	int64_t t[5] = {0}, us[4] = {0};
	for (unsigned i = 0; i < TEXTS; i++)
		s[i] = (struct span){text[i], (size_t)snprintf(text[i], sizeof(text[i]), "%s, %s and %s", parts[i % 6],
							       parts[i / 6 % 6], parts[i / 36])};
	for (unsigned i = 0; i < DIM; i++)
		of_model[i] = (float)random_below(1u << 24);
	do {
		t[0] = clock_mono_us();
		if (e->embed(e, s, TEXTS, x[0]) != TEXTS)
			die("embed");
		t[1] = clock_mono_us();
		for (unsigned i = 0; i < TEXTS; i++)
			len[i] = packed_make(x[i], DIM, packed[i]);
		t[2] = clock_mono_us();
		for (unsigned i = 0; i < TEXTS; i++)
			if (!packed_read((struct span){packed[i], len[i]}, DIM, back))
				die("unpack");
		t[3] = clock_mono_us();
		for (unsigned i = 0; i < TEXTS; i++)
			if (packed_make(of_model, DIM, packed[0]))
				die("a model's vector was packed");
		t[4] = clock_mono_us();
		for (int i = 0; i < 4; i++)
			us[i] += t[i + 1] - t[i];
		n += TEXTS;
	} while ((double)(us[0] + us[1] + us[2] + us[3]) < seconds * 1e6);
	static const char *const names[] = {"embed_sentence", "vector_pack", "vector_unpack", "vector_not_packed"};
	for (int i = 0; i < 4; i++)
		say(names[i], (double)n * 1e6 / (double)us[i]);
}

int main(int argc, char **argv)
{
	seconds = argc > 1 ? atof(argv[1]) : 0;
	if (argc != 3 || seconds <= 0) {
		fprintf(stderr, "usage: %s SECONDS_EACH DIRECTORY\n", argv[0]);
		return 2;
	}
	mkdir(argv[2], 0700);
	l1();
	ring("ring_64b", 64);
	ring("ring_6600b", 6600);
	words();
	vectors();
	journal(argv[2], "journal_append_sync_group_1", 1);
	journal(argv[2], "journal_append_sync_group_64", 64);
	journal(argv[2], "journal_append_sync_group_500", 500);
	printf("}\n");
	return 0;
}
