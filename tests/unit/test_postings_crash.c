/* The word index while its writer is killed at any instruction, and while readers run beside it. What a document says
 * follows from its id and version, so that every hit can be verified without knowing what the writer was doing. */
#include "postings_model.h"
#include "killer.h"
#include "words/postings-private.h"

static void text_of(uint32_t id, uint64_t version, char *to, size_t size)
{
	snprintf(to, size, "everybody has id%u and %s%llu, transplantation%u", id, version & 1 ? "odd" : "even",
		 (unsigned long long)version, id % 50);
}

/* NULL: the answer is right. k exceeds what there is, so every permanent entry must be in it. */
static const char *judge(struct postings *p, struct words *words, struct board *b)
{
	struct postings_hit hits[2 * ALL];
	struct postings_question q;
	uint64_t low[PERMANENT];
	uint8_t seen[ALL] = {0};
	size_t n;
	for (uint32_t i = 0; i < PERMANENT; i++)
		low[i] = atomic_load(&b->acked[i]);
	postings_question_read(words, SPAN("everybody"), &q);
	bool known = postings_search(p, &(struct postings_query){.ns = NS_MAIN, .question = &q, .k = 2 * ALL}, hits, &n,
				     NULL);
	postings_question_free(&q);
	if (!known)
		return NULL; /* memory was short: it says so */
	for (size_t i = 0; i < n; i++) {
		uint32_t id = model_number(&hits[i].id);
		if (id >= ALL)
			return "a hit of another namespace, or no id of ours";
		if (seen[id]++)
			return "an id twice";
		if (hits[i].version > atomic_load(&b->started[id]))
			return "a version that was never written";
		if (id < PERMANENT && hits[i].version < low[id])
			return "a version older than was acknowledged before the search";
		if (i && hits[i].score > hits[i - 1].score)
			return "hits out of order";
	}
	for (uint32_t i = 0; i < PERMANENT; i++) {
		if (!seen[i])
			return "an entry that was there all the time is missing";
	}
	atomic_fetch_add(&b->searches, 1);
	return NULL;
}

/* A rare word finds its document, in a version that was there. */
static const char *judge_one(struct postings *p, struct words *words, struct board *b, uint32_t id)
{
	struct postings_hit hit;
	struct postings_question q;
	char text[100];
	size_t n;
	uint64_t low = atomic_load(&b->acked[id]);
	snprintf(text, sizeof(text), "\"id%u\" transplantation%u", id, id % 50);
	postings_question_read(words, SPAN(text), &q);
	bool known = postings_search(p, &(struct postings_query){.ns = NS_MAIN, .question = &q, .k = 1}, &hit, &n,
				     NULL);
	postings_question_free(&q);
	if (known && (n != 1 || model_number(&hit.id) != id || hit.version < low))
		return "a document is not found by a word that only it has";
	return NULL;
}

static void write_one(struct postings *p, struct board *b, uint32_t what, uint32_t id)
{
	char text[200];
	struct uuid u = model_id(id);
	if (what % 1000 == 0) {
		postings_drop(p, NS_OTHER);
	} else if (what % 5 == 0) {
		u = model_id(100000 + id % OTHER);
		text_of(0, what, text, sizeof(text));
		(void)!postings_put(p, NS_OTHER, &u, postings_version(p, &u) + 1, 0, SPAN(text));
	} else if (id >= PERMANENT && what % 3 == 0) {
		postings_remove(p, &u, UINT64_MAX);
	} else {
		uint64_t version = atomic_load(&b->started[id]) + 1;
		atomic_store(&b->started[id], version);
		text_of(id, version, text, sizeof(text));
		AN(postings_put(p, NS_MAIN, &u, version, 0, SPAN(text)) == 0);
		atomic_store(&b->acked[id], version);
	}
	atomic_fetch_add(&b->writes, 1);
}

static void writer(int fd, struct board *b)
{
	struct postings *p = postings_open(fd, true);
	AN(p);
	for (uint32_t i = 0; i < PERMANENT; i++) {
		struct uuid id = model_id(i);
		AN(board_allows(b, i, postings_version(p, &id)));
	}
	for (uint32_t step = 0;; step++)
		write_one(p, b, model_next(), pick(step));
}

static int reader(int fd, struct board *b)
{
	struct postings *p = postings_open(fd, false);
	struct words *words = words_new();
	const char *wrong = p ? NULL : "the reader cannot open the index";
	for (uint32_t i = 0; !wrong && !atomic_load(&b->stop); i++)
		wrong = i % 2 ? judge(p, words, b) : judge_one(p, words, b, i / 2 % PERMANENT);
	if (wrong)
		fprintf(stderr, "reader: %s\n", wrong);
	words_free(&words);
	postings_close(&p);
	return wrong != NULL;
}

static struct board *board_new(struct postings *p)
{
	struct board *b = board_map();
	for (uint32_t i = 0; i < PERMANENT; i++)
		write_one(p, b, 1, i);
	return b;
}

static uint32_t after_us(void) { return model_next() % 4 ? model_next() % 8000 : model_next() % 1000; }

static void test_killed_writer(void **state)
{
	(void)state;
	int fd, rounds = getenv("WORDS_ROUNDS") ? atoi(getenv("WORDS_ROUNDS")) : 300;
	struct postings *p = model_open(1 << 20, &fd);
	struct board *b = board_new(p);
	struct words *words = words_new();
	postings_close(&p);
	kill_again_and_again(fd, b, rounds, writer, reader, after_us);
	/* The last one leaves an index in which everything adds up. */
	p = postings_open(fd, true);
	assert_non_null(p);
	const char *wrong = judge(p, words, b);
	if (wrong)
		fail_msg("%s", wrong);
	assert_int_equal(postings_count(p, 0), postings_count(p, NS_MAIN) + postings_count(p, NS_OTHER));
	assert_true(postings_complete(p, NS_MAIN));
	postings_drop(p, NS_MAIN);
	postings_drop(p, NS_OTHER);
	postings_segment_reclaim(p, true);
	assert_int_equal(postings_bytes(p), 0);
	print_message("%d kills, %llu writes, %llu searches\n", rounds, (unsigned long long)b->writes,
		      (unsigned long long)b->searches);
	assert_true(b->searches > 0);
	words_free(&words);
	postings_close(&p);
	munmap(b, sizeof(*b));
	close(fd);
}

/* One writer, several readers in threads of one process and on one mapping: for ThreadSanitizer. What is let go of is reused at
 * once. */
struct shared {
	struct postings *p;
	struct board *b;
	_Atomic(const char *) wrong;
};

static void *reading(void *arg)
{
	struct shared *s = arg;
	struct words *words = words_new();
	const char *wrong = NULL;
	for (uint32_t i = 0; !wrong && !atomic_load(&s->b->stop); i++)
		wrong = i % 2 ? judge(s->p, words, s->b) : judge_one(s->p, words, s->b, i / 2 % PERMANENT);
	if (wrong)
		atomic_store(&s->wrong, wrong);
	words_free(&words);
	return NULL;
}

static void run_threads(int64_t quarantine_us)
{
	int fd, writes = getenv("WORDS_WRITES") ? atoi(getenv("WORDS_WRITES")) : 30000;
	pthread_t threads[2];
	struct shared s = {.p = model_open(4 << 20, &fd)};
	s.p->w->quarantine_us = quarantine_us;
	s.b = board_new(s.p);
	for (size_t i = 0; i < ARRAY_LEN(threads); i++)
		assert_int_equal(pthread_create(&threads[i], NULL, reading, &s), 0);
	for (uint32_t i = 0; i < (uint32_t)writes; i++)
		write_one(s.p, s.b, model_next(), pick(i));
	atomic_store(&s.b->stop, 1);
	for (size_t i = 0; i < ARRAY_LEN(threads); i++)
		pthread_join(threads[i], NULL);
	if (s.wrong)
		fail_msg("%s", s.wrong);
	print_message("%llu searches beside %d writes\n", (unsigned long long)s.b->searches, writes);
	postings_close(&s.p);
	munmap(s.b, sizeof(*s.b));
	close(fd);
}

static void test_threads(void **state)
{
	(void)state;
	run_threads(1000000);
}

static void test_threads_reuse(void **state)
{
	(void)state;
	run_threads(500);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_killed_writer), cmocka_unit_test(test_threads),
					   cmocka_unit_test(test_threads_reuse)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
