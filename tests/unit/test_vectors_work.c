/* When the background does something for the vector index: while a namespace grows fast, later. */
#include <pthread.h>
#include <unistd.h>

#include "index/lists-private.h"
#include "vectors_model.h"

#define DIM 64

static void fill(struct vectors *v, uint64_t ns, uint32_t from, uint32_t to)
{
	float x[DIM];
	for (uint32_t i = from; i < to; i++) {
		struct uuid id = model_id(i);
		for (uint32_t j = 0; j < DIM; j++)
			x[j] = model_float();
		assert_int_equal(vectors_insert(v, ns, &id, 1, 0, DIM, x), 0);
	}
}

static uint64_t lists_are_for(const struct vectors *v) { return v->w->lists->of[0]->view.l->built; }

static void work(struct vectors *v)
{
	for (uint32_t pieces = 0; vectors_work(v); pieces++)
		assert_true(pieces < 200);
}

static struct vectors *open_patient(int *fd_r)
{
	struct vectors *v = model_open(16 << 20, fd_r);
	vectors_stages_set(v, &(struct vectors_stages){.flat_rows = 200, .raw = VECTORS_RAW_INT8, .patient = true});
	return v;
}

/* Codes at once, as before them every row is compared; lists only when there are four times the rows. */
static void test_burst(void **state)
{
	(void)state;
	int fd;
	struct vectors *v = open_patient(&fd);
	fill(v, 1, 0, 300);
	work(v);
	assert_int_equal(lists_are_for(v), 300);
	fill(v, 1, 300, 1000);
	assert_true(vectors_work_due(v));
	assert_false(vectors_work(v)); /* put off, and nobody is to ask again with every insert */
	assert_false(vectors_work_due(v));
	assert_true(vectors_work_later(v));
	fill(v, 1, 1000, 1100);
	assert_false(vectors_work_due(v));
	assert_int_equal(lists_are_for(v), 300);
	fill(v, 1, 1100, 1200);
	work(v);
	assert_int_equal(lists_are_for(v), 1200);
	vectors_close(&v);
	close(fd);
}

/* What was put off is done when it grows no more, without anybody's asking. */
static void test_calm(void **state)
{
	(void)state;
	int fd;
	struct vectors *v = open_patient(&fd);
	fill(v, 1, 0, 300);
	work(v);
	fill(v, 1, 300, 700);
	assert_false(vectors_work(v));
	for (unsigned waited = 0; lists_are_for(v) == 300; waited++) {
		assert_true(vectors_work_later(v));
		assert_true(waited < 600);
		usleep(100000);
		work(v);
	}
	assert_int_equal(lists_are_for(v), 700);
	lists_reclaim(v, true);
	assert_false(vectors_work(v));
	assert_false(vectors_work_later(v));
	vectors_close(&v);
	close(fd);
}

/* While rows come fast, those that wait are put into lists when they are many; and all of them when no more come. */
static void test_fresh(void **state)
{
	(void)state;
	int fd;
	struct vectors *v = model_open(16 << 20, &fd);
	vectors_stages_set(v, &(struct vectors_stages){.flat_rows = 200,
						       .raw = VECTORS_RAW_INT8,
						       .patient = true,
						       .fresh_rows = 100,
						       .fresh_first = true});
	fill(v, 1, 0, 1000);
	work(v);
	struct ivf *f = v->w->lists->of[0];
	fill(v, 1, 1000, 1030);
	assert_int_equal(lists_waiting(f), 30);
	f->fast = true; /* whatever this machine takes for it */
	f->window_us = INT64_MAX / 2;
	f->window = 1;
	assert_true(vectors_work_due(v));
	assert_false(vectors_work(v));
	assert_int_equal(lists_waiting(f), 30);
	assert_true(vectors_work_later(v) && !vectors_work_due(v));
	fill(v, 1, 1030, 1051); /* more than half of what may wait; fewer than a window has */
	assert_true(vectors_work_due(v));
	work(v);
	assert_int_equal(lists_waiting(f), 0);
	fill(v, 1, 1051, 1060);
	f->window_us = INT64_MAX / 2;
	assert_false(vectors_work(v));
	assert_int_equal(lists_waiting(f), 9);
	f->window_us = 1; /* long ago */
	assert_true(vectors_work_later(v));
	assert_true(vectors_work(v));
	assert_int_equal(lists_waiting(f), 0);
	assert_true(v->w->lists->of[0] == f);
	vectors_close(&v);
	close(fd);
}

static const struct ivf *lists_of(const struct vectors *v, uint64_t ns)
{
	const struct vectors_ns *n = vectors_ns_find(v, ns);
	return n ? v->w->lists->of[n - v->ns] : NULL;
}

static void *working(void *v)
{
	while (vectors_work(v))
		;
	return NULL;
}

/* Rows are encoded without the lock: their namespace, and its lists, may go meanwhile. */
static void test_drop_beside(void **state)
{
	(void)state;
	int fd;
	struct vectors *v = model_open(16 << 20, &fd);
	vectors_stages_set(v,
			   &(struct vectors_stages){
				   .flat_rows = 200, .raw = VECTORS_RAW_INT8, .fresh_rows = 1000, .fresh_first = true});
	for (uint32_t n = 0; n < 30; n++) {
		pthread_t thread;
		fill(v, 1, 0, 1000);
		work(v);
		uint32_t more = n % 3 ? 900 : 2600; /* they are put into their lists; or lists are made anew */
		fill(v, 1, 1000, 1000 + more);
		assert_int_equal(lists_waiting(lists_of(v, 1)), more < 1000 ? more : 1000);
		assert_int_equal(pthread_create(&thread, NULL, working, v), 0);
		usleep(n * 50);
		vectors_drop(v, 1);
		fill(v, 2, 4000, 4010); /* memory that was given back is used again */
		pthread_join(thread, NULL);
		vectors_drop(v, 2);
		lists_reclaim(v, true);
		assert_int_equal(vectors_bytes(v), 0);
	}
	vectors_close(&v);
	close(fd);
}

/* One that is always due is not all that is looked at: who came first goes first. */
static void test_in_turns(void **state)
{
	(void)state;
	int fd;
	struct vectors *v = model_open(16 << 20, &fd);
	vectors_stages_set(v,
			   &(struct vectors_stages){
				   .flat_rows = 200, .raw = VECTORS_RAW_INT8, .fresh_rows = 100, .fresh_first = true});
	fill(v, 1, 0, 1000);
	work(v);
	fill(v, 1, 1000, 1090);
	fill(v, 2, 2000, 3000); /* has no lists */
	uint32_t next = 3000;
	for (int pieces = 0; !lists_of(v, 2); pieces++) {
		assert_true(pieces < 10);
		assert_true(vectors_work(v));
		fill(v, 1, next, next + 90); /* it is due again */
		next += 90;
	}
	vectors_close(&v);
	close(fd);
}

/* One that is put off keeps nothing from the others. */
static void test_others(void **state)
{
	(void)state;
	int fd;
	struct vectors *v = open_patient(&fd);
	fill(v, 1, 0, 300);
	work(v);
	fill(v, 1, 300, 700);
	assert_false(vectors_work(v));
	fill(v, 2, 5000, 5300);
	assert_true(vectors_work_due(v));
	work(v);
	assert_non_null(v->w->lists->of[1]);
	assert_int_equal(v->w->lists->of[1]->view.l->built, 300);
	vectors_close(&v);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_burst), cmocka_unit_test(test_calm),	  cmocka_unit_test(test_others),
		cmocka_unit_test(test_fresh), cmocka_unit_test(test_drop_beside), cmocka_unit_test(test_in_turns),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
