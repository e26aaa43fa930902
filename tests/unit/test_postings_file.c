/* The word index in a file and out of it: the same answers with the same scores, beside a writer, without what was erased.
 *
 * Broken code that this would catch: a death that comes after the saved moment and stays; a merge or a reuse of memory that
 * tears what is being saved; words of removed documents in the file after they were cleaned; damage that passes. */
#include <pthread.h>

#include "postings_model.h"

#include "image_model.h"
#include "words/postings-private.h"

static const _Atomic bool go_on;

static struct image_writer *begin(void)
{
	struct image_writer *w = image_writer_open(image_dir);
	assert_non_null(w);
	return w;
}

static void publish(struct image_writer *w, struct image_facts *facts)
{
	assert_true(image_writer_end(w, facts));
	assert_true(image_writer_publish(&w));
}

static void save(struct postings *p)
{
	struct image_facts facts = {.revision = 7};
	struct image_writer *w = begin();
	postings_hold(p);
	assert_int_equal(postings_save(p, w, &facts.part[IMAGE_WORDS], &go_on), 0);
	assert_true(postings_held(p));
	while (!postings_let_go(p))
		;
	publish(w, &facts);
}

static int load(struct postings *p, int fd)
{
	struct image *m = image_open(image_dir, 0);
	if (!m)
		return ENOENT;
	int rc = postings_load(p, fd, m, NULL, NULL);
	postings_load_end(p, rc == 0);
	image_close(&m);
	return rc;
}

static void put(struct model *m, struct postings *p, uint32_t id, uint64_t ns, uint64_t version, const char *text)
{
	struct uuid u = model_id(id);
	assert_int_equal(postings_put(p, ns, &u, version, 0, SPAN(text)), 0);
	model_put(m, id, ns, version, 0, text);
}

static void ask_some(struct model *m, struct postings *p, uint64_t ns, uint32_t times)
{
	char text[2000];
	for (uint32_t i = 0; i < times; i++) {
		model_text(text, sizeof(text), 1 + model_next() % 12, 2000);
		model_ask(m, p, ns, text, i % 3 == 0 ? 10 : 5000);
	}
}

/* Puts, updates, moves between namespaces and removals. */
static void churn(struct model *m, struct postings *p, uint32_t times)
{
	char text[2000];
	for (uint32_t i = 0; i < times; i++) {
		uint32_t id = model_next() % m->n;
		struct uuid u = model_id(id);
		if (model_next() % 4 == 0) {
			postings_remove(p, &u, UINT64_MAX);
			model_del(m, id);
			continue;
		}
		model_text(text, sizeof(text), model_next() % 40, 2000);
		put(m, p, id, 1 + model_next() % 3, postings_version(p, &u) + 1, text);
	}
}

static void test_round_trip(void **state)
{
	(void)state;
	int fd, fd2;
	struct model m;
	struct postings *p = model_open(32 << 20, &fd), *q = model_open(48 << 20, &fd2);
	model_init(&m, 3000);
	churn(&m, p, 9000);
	postings_lacks(p, 9);
	save(p);
	assert_int_equal(load(q, fd2), 0);
	assert_int_equal(postings_count(q, 0), postings_count(p, 0));
	assert_false(postings_complete(q, 9));
	assert_true(postings_complete(q, 1));
	for (uint64_t ns = 1; ns <= 3; ns++)
		ask_some(&m, q, ns, 40);
	for (uint32_t i = 0; i < m.n; i++) {
		struct uuid id = model_id(i);
		assert_int_equal(postings_version(q, &id), m.e[i].version);
	}
	churn(&m, q, 5000); /* it goes on as if it had never been away */
	ask_some(&m, q, 2, 40);
	model_end(&m);
	postings_close(&p);
	postings_close(&q);
	close(fd);
	close(fd2);
}

/* ---- beside a writer ---- */

struct beside {
	struct postings *p;
	struct model *m;
	uint8_t *since; /* of each document: it changed behind the hold */
	_Atomic bool stop;
	pthread_mutex_t turn; /* as sync's threads take theirs */
};

static void *writer_main(void *arg)
{
	struct beside *b = arg;
	char text[2000];
	while (!atomic_load(&b->stop)) {
		pthread_mutex_lock(&b->turn);
		for (int i = 0; i < 8; i++) {
			uint32_t id = model_next() % b->m->n;
			struct uuid u = model_id(id);
			b->since[id] = 1;
			postings_remove(b->p, &u, UINT64_MAX);
			model_del(b->m, id);
			if (model_next() % 3 == 0)
				continue;
			model_text(text, sizeof(text), model_next() % 40, 2000);
			put(b->m, b->p, id, 1 + id % 3, 1000 + model_next() % 1000, text);
		}
		pthread_mutex_unlock(&b->turn);
	}
	return NULL;
}

static void repeat(struct beside *b, struct postings *q)
{
	for (uint32_t i = 0; i < b->m->n; i++) {
		struct uuid id = model_id(i);
		const struct model_entry *e = &b->m->e[i];
		if (!b->since[i])
			continue;
		postings_remove(q, &id, UINT64_MAX);
		if (e->version)
			assert_int_equal(postings_put(q, e->ns, &id, e->version, 0, SPAN(e->content)), 0);
	}
}

static void test_beside_a_writer(void **state)
{
	(void)state;
	int fd, fd2;
	pthread_t thread;
	struct model m;
	struct image_facts facts = {.revision = 7};
	struct postings *p = model_open(64 << 20, &fd), *q = model_open(64 << 20, &fd2);
	model_init(&m, 6000);
	struct beside b = {.p = p, .m = &m, .since = calloc(m.n, 1), .turn = PTHREAD_MUTEX_INITIALIZER};
	p->w->quarantine_us = 0; /* memory would be used again at once */
	churn(&m, p, 12000);
	struct image_writer *w = begin();
	postings_hold(p);
	assert_int_equal(pthread_create(&thread, NULL, writer_main, &b), 0);
	int rc = postings_save(p, w, &facts.part[IMAGE_WORDS], &go_on);
	atomic_store(&b.stop, true);
	pthread_join(thread, NULL);
	assert_int_equal(rc, 0);
	assert_true(postings_held(p));
	while (!postings_let_go(p))
		;
	publish(w, &facts);
	assert_int_equal(load(q, fd2), 0);
	repeat(&b, q);
	for (uint64_t ns = 1; ns <= 3; ns++) {
		ask_some(&m, q, ns, 30);
		ask_some(&m, p, ns, 30); /* nothing is harmed by the hold, nor by its end */
	}
	churn(&m, p, 3000);
	ask_some(&m, p, 1, 30);
	free(b.since);
	model_end(&m);
	postings_close(&p);
	postings_close(&q);
	close(fd);
	close(fd2);
}

/* ---- erased ---- */

static void clean(struct postings *p)
{
	uint32_t row = 0;
	uint64_t erasures = postings_erasures(p);
	enum postings_cleaning c;
	assert_true(postings_unclean(p));
	while ((c = postings_clean(p, &row, 100)) == POSTINGS_GOING_ON)
		;
	assert_int_equal(c, POSTINGS_CLEAN);
	postings_cleaned(p, erasures);
	assert_false(postings_unclean(p));
}

static void test_erased_words_are_not_in_the_file(void **state)
{
	(void)state;
	int fd;
	struct model m;
	struct postings *p = model_open(32 << 20, &fd);
	model_init(&m, 2000);
	churn(&m, p, 4000);
	/* long ones: a term's first eight bytes lie elsewhere */
	put(&m, p, 11, 1, 100000, "unforgettable zyxwvutsrqponm among others");
	put(&m, p, 12, 2, 100000, "zyxwvutsrqponm alone");
	for (uint32_t i = 0; i < 300; i++) { /* into a large segment */
		struct uuid u = model_id(i + 100);
		put(&m, p, i + 100, 1, postings_version(p, &u) + 1, "filling of segments");
	}
	save(p);
	assert_true(image_holds("rqponm", 6));
	for (uint32_t id = 11; id <= 12; id++) {
		struct uuid u = model_id(id);
		postings_remove(p, &u, UINT64_MAX);
		model_del(&m, id);
	}
	postings_erased(p);
	clean(p);
	save(p);
	assert_false(image_holds("rqponm", 6));
	for (uint64_t ns = 1; ns <= 3; ns++)
		ask_some(&m, p, ns, 20);
	model_end(&m);
	postings_close(&p);
	close(fd);
}

/* ---- what is no index ---- */

static void refused(int rc_wanted)
{
	int fd;
	struct postings *q = model_open(1 << 20, &fd);
	struct uuid id = model_id(1);
	int rc = load(q, fd);
	if (rc != rc_wanted || postings_count(q, 0) || !postings_unused(q))
		fail_msg("answered %d instead of %d", rc, rc_wanted);
	assert_int_equal(postings_put(q, 1, &id, 1, 0, SPAN("it can be used")), 0);
	postings_close(&q);
	close(fd);
}

static void test_refused(void **state)
{
	(void)state;
	int fd, fd2;
	char path[200];
	struct model m;
	struct image_head h;
	struct postings *p = model_open(8 << 20, &fd), *q;
	model_init(&m, 1000);
	churn(&m, p, 3000);
	save(p);
	q = model_open(8 << 20, &fd2);
	struct image *image = image_open(image_dir, 0);
	assert_int_equal(postings_load(q, fd2, image, NULL, NULL), 0);
	postings_close(&q); /* killed before load_end() */
	q = postings_open(fd2, true);
	assert_true(postings_interrupted(q) && postings_unused(q));
	image_close(&image);
	postings_load_end(q, false);
	assert_int_equal(load(q, fd2), 0);
	ask_some(&m, q, 1, 20);
	postings_close(&q);
	assert_int_equal(image_find(".image", path), 1);
	int file = open(path, O_RDWR);
	char byte;
	assert_int_equal(pread(file, &byte, 1, IMAGE_HEAD + 5000), 1);
	byte = (char)(byte ^ 4);
	assert_int_equal(pwrite(file, &byte, 1, IMAGE_HEAD + 5000), 1);
	refused(EBADMSG);
	byte = (char)(byte ^ 4);
	assert_int_equal(pwrite(file, &byte, 1, IMAGE_HEAD + 5000), 1);
	assert_int_equal(pread(file, &h, sizeof(h), 0), sizeof(h));
	h.facts.part[IMAGE_WORDS].layout++;
	h.sum = image_head_sum(&h);
	assert_int_equal(pwrite(file, &h, sizeof(h), 0), sizeof(h));
	refused(EPROTO);
	h.facts.part[IMAGE_WORDS].layout--;
	h.facts.part[IMAGE_WORDS].namespaces = 1; /* pieces of the others belong nowhere then */
	h.sum = image_head_sum(&h);
	assert_int_equal(pwrite(file, &h, sizeof(h), 0), sizeof(h));
	refused(EBADMSG);
	close(file);
	model_end(&m);
	postings_close(&p);
	close(fd);
	close(fd2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_beside_a_writer),
		cmocka_unit_test(test_erased_words_are_not_in_the_file),
		cmocka_unit_test(test_refused),
	};
	return cmocka_run_group_tests(tests, image_setup, image_teardown);
}
