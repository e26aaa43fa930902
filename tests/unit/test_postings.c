/* The word index against brute force: random documents, updates, deletes, namespaces, filters, phrases, prefixes. */
#include "postings_model.h"
#include "words/postings-private.h"

static void put(struct model *m, struct postings *p, uint64_t ns, uint32_t id, uint64_t version, const char *text)
{
	struct uuid u = model_id(id);
	assert_int_equal(postings_put(p, ns, &u, version, 0, SPAN(text)), 0);
	model_put(m, id, ns, version, 0, text);
}

static void del(struct model *m, struct postings *p, uint32_t id)
{
	struct uuid u = model_id(id);
	postings_remove(p, &u, UINT64_MAX);
	model_del(m, id);
}

static void ask_some(struct model *m, struct postings *p, uint64_t ns, uint32_t times, uint32_t vocabulary)
{
	char text[2000];
	for (uint32_t i = 0; i < times; i++) {
		model_text(text, sizeof(text), 1 + model_next() % 12, vocabulary);
		model_ask(m, p, ns, text, i % 4 == 0 ? 1 : i % 4 == 1 ? 10 : i % 4 == 2 ? 100 : 5000);
	}
}

/* Every size of segment on the way, whatever is being merged. */
static void test_growth(void **state)
{
	(void)state;
	int fd;
	char text[2000];
	struct model m;
	struct postings *p = model_open(64 << 20, &fd);
	model_init(&m, 6000);
	for (uint32_t i = 0; i < 6000; i++) {
		model_text(text, sizeof(text), model_next() % 30, 3000);
		put(&m, p, 7, i, 1, text);
		if (i < 40 || i % 500 == 77)
			ask_some(&m, p, 7, 4, 3000);
	}
	ask_some(&m, p, 7, 60, 3000);
	assert_int_equal(postings_count(p, 7), 6000);
	postings_drop(p, 7);
	assert_int_equal(postings_count(p, 0), 0);
	postings_segment_reclaim(p, true);
	assert_int_equal(postings_bytes(p), 0);
	model_end(&m);
	postings_close(&p);
	close(fd);
}

/* Updates and deletes in three namespaces, ids that move between them; a reader's own mapping; recovery in between. */
static void test_churn(void **state)
{
	(void)state;
	int fd;
	char text[2000];
	struct model m;
	struct postings *p = model_open(64 << 20, &fd);
	uint64_t version = 1;
	model_init(&m, 2500);
	for (uint32_t i = 0; i < 30000; i++) {
		uint32_t id = model_next() % (i % 3000 < 1500 ? 2500 : 300), what = model_next() % 10;
		model_text(text, sizeof(text), model_next() % 20, 1500);
		if (what < 2)
			del(&m, p, id);
		else
			put(&m, p, 1 + (what == 2 ? model_next() % 3 : id % 3), id, ++version, text);
		if (i % 2000 == 1999) {
			for (uint64_t ns = 1; ns < 4; ns++)
				ask_some(&m, p, ns, 6, 1500);
			struct postings *reader = postings_open(fd, false);
			assert_non_null(reader);
			ask_some(&m, reader, 1, 3, 1500);
			postings_close(&reader);
		}
		if (i % 7001 == 7000) {
			postings_close(&p);
			p = postings_open(fd, true);
			assert_non_null(p);
			for (uint32_t k = 0; k < m.n; k++) {
				struct uuid u = model_id(k);
				assert_int_equal(postings_version(p, &u), m.e[k].version);
			}
			for (uint64_t ns = 1; ns < 4; ns++)
				ask_some(&m, p, ns, 6, 1500);
		}
	}
	uint64_t live = 0;
	for (uint32_t i = 0; i < m.n; i++)
		live += m.e[i].version != 0;
	assert_int_equal(postings_count(p, 0), live);
	for (uint32_t i = 0; i < m.n; i++)
		del(&m, p, i);
	assert_int_equal(postings_count(p, 0), 0);
	model_end(&m);
	postings_close(&p);
	close(fd);
}

static void test_filters(void **state)
{
	(void)state;
	int fd;
	char text[2000];
	struct model m;
	struct postings_question q;
	struct postings *p = model_open(64 << 20, &fd);
	model_init(&m, 4000);
	for (uint32_t i = 0; i < 4000; i++) {
		struct uuid u = model_id(i);
		int64_t expires = i % 5 ? 0 : 1000 + i;
		model_text(text, sizeof(text), 3 + model_next() % 10, 300);
		assert_int_equal(postings_put(p, 9, &u, 1, expires, SPAN(text)), 0);
		model_put(&m, i, 9, 1, expires, text);
	}
	for (uint32_t share = 1; share <= 4000; share *= 4) {
		struct vectors_allow *allow = vectors_allow_new(4000 / share + 1);
		for (uint32_t i = 0; i < 4000; i++) {
			struct uuid u = model_id(i);
			if (model_next() % share == 0)
				vectors_allow_add(allow, &u);
		}
		for (int i = 0; i < 20; i++) {
			model_text(text, sizeof(text), 4, 300);
			postings_question_read(m.words, SPAN(text), &q);
			model_check(&m, p,
				    &(struct postings_query){.ns = 9,
							     .question = &q,
							     .k = 10,
							     .allow = allow,
							     .now_us = 1000 + 200 * i,
							     .min_score = i % 2 ? 2.5 : 0});
			postings_question_free(&q);
		}
		vectors_allow_free(&allow);
	}
	model_end(&m);
	postings_close(&p);
	close(fd);
}

static void test_phrases_and_prefixes(void **state)
{
	(void)state;
	int fd;
	char text[2000], ask[3000], word[64];
	struct model m;
	struct postings *p = model_open(64 << 20, &fd);
	model_init(&m, 3000);
	for (uint32_t i = 0; i < 3000; i++) {
		model_text(text, sizeof(text), 2 + model_next() % 15, 60);
		put(&m, p, 3, i, 1, text);
	}
	for (int i = 0; i < 200; i++) {
		model_text(text, sizeof(text), 2 + model_next() % 3, 60);
		snprintf(ask, sizeof(ask), "what about \"%s\"", text);
		model_ask(&m, p, 3, ask, 20);
		model_word(model_next() % 300, word, sizeof(word));
		word[2 + model_next() % 10] = 0;
		snprintf(ask, sizeof(ask), "%s* %s", word, text);
		model_ask(&m, p, 3, ask, 20);
	}
	model_end(&m);
	postings_close(&p);
	close(fd);
}

static void expect(struct model *m, struct postings *p, const char *ask, const char *ids)
{
	struct postings_question q;
	struct postings_hit hits[20];
	char have[200] = "";
	size_t n, len = 0;
	postings_question_read(m->words, SPAN(ask), &q);
	assert_true(postings_search(p, &(struct postings_query){.ns = 1, .question = &q, .k = 20}, hits, &n, NULL));
	for (size_t i = 0; i < n; i++)
		len += (size_t)snprintf(have + len, sizeof(have) - len, "%s%u", i ? " " : "",
					model_number(&hits[i].id));
	assert_string_equal(have, ids);
	postings_question_free(&q);
}

/* By hand: what people type, and what they mean by it. */
static void test_questions(void **state)
{
	(void)state;
	int fd;
	struct model m;
	struct postings *p = model_open(1 << 20, &fd);
	model_init(&m, 20);
	put(&m, p, 1, 1, 1, "Caroline: I adopted a guinea pig called Oscar");
	put(&m, p, 1, 2, 1, "the pig of guinea, a wild animal of the internationally known park");
	put(&m, p, 1, 3, 1, "Gone with the wind was on television");
	put(&m, p, 1, 4, 1, "gone, and wind blew about the houses");
	put(&m, p, 1, 5, 1, "internationalization of houses");
	put(&m, p, 1, 6, 1, "");
	put(&m, p, 1, 7, 1, "the who");
	expect(&m, p, "\"guinea pig\"", "1");
	expect(&m, p, "\"Guinea Pigs\" adoption", "1");
	expect(&m, p, "\"gone with the wind\"", "3");
	expect(&m, p, "\"gone wind\"", "");
	expect(&m, p, "\"pig guinea\"", ""); /* a stop word stands between them */
	expect(&m, p, "\"pig of guinea\"", "2");
	expect(&m, p, "\"the of\" oscar", "1"); /* a phrase of stop words asks for nothing */
	expect(&m, p, "internation*", "5 2");
	expect(&m, p, "\"guinea pig\" \"gone with the wind\"", "");
	expect(&m, p, "who", "7");	      /* only stop words: then they count */
	expect(&m, p, "5\" disk oscar", "1"); /* one quote alone is none */
	expect(&m, p, "* o* oscar ***", "1");
	expect(&m, p, "", "");
	expect(&m, p, "\"\" \" \"", "");
	model_end(&m);
	postings_close(&p);
	close(fd);
}

static void test_versions(void **state)
{
	(void)state;
	int fd;
	struct model m;
	struct postings *p = model_open(1 << 20, &fd);
	struct uuid u = model_id(1);
	model_init(&m, 20);
	put(&m, p, 1, 1, 5, "apples");
	assert_int_equal(postings_put(p, 1, &u, 5, 0, SPAN("pears")), 0);
	assert_int_equal(postings_put(p, 1, &u, 4, 0, SPAN("pears")), 0);
	expect(&m, p, "pears", "");
	expect(&m, p, "apples", "1");
	postings_remove(p, &u, 4);
	expect(&m, p, "apples", "1");
	assert_int_equal(postings_version(p, &u), 5);
	put(&m, p, 1, 1, 6, "pears");
	expect(&m, p, "apples pears", "1");
	expect(&m, p, "apples", "");
	put(&m, p, 2, 1, 7, "pears"); /* it moves */
	expect(&m, p, "pears", "");
	assert_int_equal(postings_count(p, 1), 0);
	assert_int_equal(postings_count(p, 2), 1);
	postings_remove(p, &u, 7);
	assert_int_equal(postings_version(p, &u), 0);
	assert_int_equal(postings_put(p, 0, &u, 1, 0, SPAN("x")), EINVAL);
	model_end(&m);
	postings_close(&p);
	close(fd);
}

/* The limit is kept; what does not fit is said, an older version of it is gone; deletes make room. */
static void test_full(void **state)
{
	(void)state;
	enum { IDS = 20000 };
	int fd;
	char text[2000];
	uint32_t first = 0;
	struct postings *p = model_open(1 << 20, &fd);
	for (uint32_t i = 0; i < IDS && !first; i++) {
		struct uuid u = model_id(i);
		model_text(text, sizeof(text), 20, 5000);
		if (postings_put(p, 1 + i % 2, &u, 1, 0, SPAN(text)) == ENOSPC)
			first = i;
	}
	if (first < 1000)
		fail_msg("full after %u documents, %llu bytes", first, (unsigned long long)postings_bytes(p));
	assert_true(postings_bytes(p) <= 1 << 20);
	assert_false(postings_complete(p, 1 + first % 2));
	for (uint32_t i = 0; i < 200; i++) {
		struct uuid u = model_id(i);
		model_text(text, sizeof(text), 1000, 5000);
		if (postings_put(p, 1 + i % 2, &u, 2, 0, SPAN(text)) == ENOSPC)
			assert_int_equal(postings_version(p, &u), 0);
	}
	assert_false(postings_complete(p, 1));
	postings_drop(p, 1);
	assert_true(postings_complete(p, 1));
	struct uuid u = model_id(IDS);
	assert_int_equal(postings_put(p, 1, &u, 1, 0, SPAN("there is room again")), 0);
	assert_true(postings_complete(p, 1));
	for (uint32_t i = 0; i < first; i++) { /* and one by one, without a drop */
		u = model_id(i);
		postings_remove(p, &u, UINT64_MAX);
	}
	for (uint32_t i = 0; i < first / 2; i++) {
		u = model_id(i);
		model_text(text, sizeof(text), 20, 5000);
		assert_int_equal(postings_put(p, 1, &u, 9, 0, SPAN(text)), 0);
	}
	postings_lacks(p, 99);
	assert_false(postings_complete(p, 99));
	assert_true(postings_complete(p, 98));
	postings_close(&p);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_growth),	  cmocka_unit_test(test_churn),
		cmocka_unit_test(test_filters),	  cmocka_unit_test(test_phrases_and_prefixes),
		cmocka_unit_test(test_questions), cmocka_unit_test(test_versions),
		cmocka_unit_test(test_full),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
