/* Saving and loading the vector index: whole or not at all. */
#include <fcntl.h>
#include <sys/stat.h>

#include "vectors_model.h"

static char dir[] = "/tmp/test-vectors-XXXXXX";

static int setup(void **state)
{
	(void)state;
	return mkdtemp(dir) ? 0 : -1;
}

static void path_of(char out[128], uint64_t seq)
{
	snprintf(out, 128, "%s/vectors-%020llu.idx", dir, (unsigned long long)seq);
}

static int teardown(void **state)
{
	char command[200];
	(void)state;
	snprintf(command, sizeof(command), "rm -rf '%s'", dir);
	return system(command);
}

static void populate(struct vectors *v, struct model *m, uint32_t n)
{
	float x[100];
	model_init(m, n);
	for (uint32_t i = 0; i < n; i++) {
		uint64_t ns = 1 + i % 3;
		uint32_t dim = ns == 1 ? 100 : 17;
		struct uuid id = model_id(i);
		for (uint32_t j = 0; j < dim; j++)
			x[j] = model_float() * 5;
		assert_int_equal(vectors_insert(v, ns, &id, 1 + i % 7, i % 5 ? 0 : 1000, dim, x), 0);
		model_put(m, i, ns, 1 + i % 7, i % 5 ? 0 : 1000, dim, x);
		if (i % 4 == 3) {
			vectors_remove(v, &id, 100);
			model_del(m, i);
		}
	}
}

static void check(const struct model *m, struct vectors *v)
{
	float x[100];
	for (uint32_t i = 0; i < 100; i++)
		x[i] = model_float();
	for (uint64_t ns = 1; ns <= 3; ns++) {
		for (int now = 0; now < 2000; now += 1999) {
			for (int metric = VECTORS_COSINE; metric <= VECTORS_L2; metric++) {
				struct vectors_query q = {.ns = ns,
							  .dim = ns == 1 ? 100 : 17,
							  .x = x,
							  .k = 300,
							  .metric = (enum vectors_metric)metric,
							  .allow = NULL,
							  .now_us = now,
							  .min_score = -INFINITY};
				model_check(m, v, &q);
			}
		}
	}
}

static void test_round_trip(void **state)
{
	(void)state;
	int fd, fd2;
	struct model m;
	struct stat st;
	char path[128];
	struct vectors *v = model_open(8 << 20, &fd), *w = model_open(8 << 20, &fd2);
	uint64_t seq = 99;
	populate(v, &m, 1000);
	assert_int_equal(vectors_load(w, "/nonexistent/place", &seq), 0);
	assert_int_equal(seq, 0);
	assert_int_equal(vectors_load(w, dir, &seq), 0);
	assert_int_equal(seq, 0); /* none yet */
	assert_int_equal(vectors_save(v, dir, 41), 0);
	assert_int_equal(vectors_save(v, dir, 42), 0);
	path_of(path, 41);
	assert_int_equal(stat(path, &st), -1); /* the older one is gone */
	path_of(path, 42);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	assert_int_equal(vectors_load(w, dir, &seq), 0);
	assert_int_equal(seq, 42);
	assert_int_equal(vectors_count(w, 0), vectors_count(v, 0));
	check(&m, w);
	for (uint32_t i = 0; i < m.n; i++) {
		struct uuid id = model_id(i);
		assert_int_equal(vectors_version(w, &id), m.e[i].version);
	}
	assert_int_equal(vectors_load(w, dir, &seq), EBUSY); /* only into an empty one */
	/* saved again after loading: the same bytes but for the order of chunks */
	assert_int_equal(vectors_save(w, dir, 43), 0);
	model_end(&m);
	vectors_close(&v);
	vectors_close(&w);
	close(fd);
	close(fd2);
}

static void test_empty(void **state)
{
	(void)state;
	int fd;
	uint64_t seq;
	struct vectors *v = model_open(1 << 20, &fd);
	assert_int_equal(vectors_save(v, dir, 50), 0);
	assert_int_equal(vectors_load(v, dir, &seq), 0);
	assert_int_equal(seq, 50);
	assert_int_equal(vectors_save(v, "/nonexistent/place", 51), ENOENT);
	vectors_close(&v);
	close(fd);
}

/* Any single bit, any length: refused, nothing of it in the index. */
static void test_damage(void **state)
{
	(void)state;
	int fd, fd2;
	struct model m;
	char path[128];
	uint64_t seq;
	struct vectors *v = model_open(1 << 20, &fd), *w = model_open(1 << 20, &fd2);
	populate(v, &m, 60);
	assert_int_equal(vectors_save(v, dir, 60), 0);
	path_of(path, 60);
	int file = open(path, O_RDWR);
	struct stat st;
	assert_true(file >= 0 && fstat(file, &st) == 0);
	size_t size = (size_t)st.st_size;
	uint8_t *good = malloc(size + 1);
	assert_int_equal(pread(file, good, size, 0), size);
	for (size_t i = 0; i < size; i += i < 400 ? 1 : 1 + model_next() % 97) {
		uint8_t bad = good[i] ^ (uint8_t)(1U << (model_next() % 8));
		assert_int_equal(pwrite(file, &bad, 1, (off_t)i), 1);
		assert_int_equal(vectors_load(w, dir, &seq), 0);
		if (seq || vectors_count(w, 0))
			fail_msg("a flipped bit in byte %zu went unnoticed", i);
		assert_int_equal(pwrite(file, good + i, 1, (off_t)i), 1);
	}
	for (size_t len = 0; len < size; len += len < 200 ? 1 : 1 + model_next() % 331) {
		assert_int_equal(ftruncate(file, (off_t)len), 0);
		assert_int_equal(vectors_load(w, dir, &seq), 0);
		if (seq || vectors_count(w, 0))
			fail_msg("truncation to %zu of %zu went unnoticed", len, size);
		assert_int_equal(pwrite(file, good, size, 0), size);
	}
	assert_int_equal(pwrite(file, "x", 1, st.st_size), 1);
	assert_int_equal(vectors_load(w, dir, &seq), 0);
	assert_int_equal(seq, 0);
	assert_int_equal(ftruncate(file, st.st_size), 0);
	assert_int_equal(vectors_load(w, dir, &seq), 0);
	assert_int_equal(seq, 60); /* it was the damage */
	check(&m, w);
	close(file);
	free(good);
	model_end(&m);
	vectors_close(&v);
	vectors_close(&w);
	close(fd);
	close(fd2);
}

static void copy(const char *from, const char *to)
{
	char command[400];
	snprintf(command, sizeof(command), "cp '%s' '%s'", from, to);
	assert_int_equal(system(command), 0);
}

/* A damaged newest one leaves the older; leftovers and strangers do no harm. */
static void test_older(void **state)
{
	(void)state;
	int fd, fd2;
	struct model m;
	char path[128], newer[128], temp[160], wrong[128];
	uint64_t seq;
	struct stat st;
	struct vectors *v = model_open(1 << 20, &fd), *w = model_open(1 << 20, &fd2);
	populate(v, &m, 60);
	assert_int_equal(vectors_save(v, dir, 70), 0);
	path_of(path, 70);
	path_of(newer, 71);
	path_of(wrong, 72);
	copy(path, wrong); /* its name lies */
	copy(path, newer);
	assert_int_equal(truncate(newer, 500), 0);
	snprintf(temp, sizeof(temp), "%s.tmp", newer);
	copy(path, temp);
	assert_int_equal(vectors_load(w, dir, &seq), 0);
	assert_int_equal(seq, 70);
	check(&m, w);
	assert_int_equal(vectors_save(w, dir, 80), 0);
	assert_int_equal(stat(temp, &st), -1);
	assert_int_equal(stat(newer, &st), -1);
	assert_int_equal(stat(wrong, &st), -1);
	/* not a file at all */
	path_of(path, 90);
	assert_int_equal(mkfifo(path, 0600), 0);
	vectors_close(&w);
	close(fd2);
	w = model_open(1 << 20, &fd2);
	assert_int_equal(vectors_load(w, dir, &seq), 0);
	assert_int_equal(seq, 80);
	unlink(path);
	model_end(&m);
	vectors_close(&v);
	vectors_close(&w);
	close(fd);
	close(fd2);
}

/* Incompleteness is saved, and a smaller index than the file makes more of it. */
static void test_incomplete(void **state)
{
	(void)state;
	int fd, fd2;
	uint64_t seq;
	float x[512] = {0};
	struct vectors *v = model_open(4 << 20, &fd), *w = model_open(1 << 20, &fd2);
	int rc = 0;
	struct uuid id = model_id(1000000);
	x[0] = 1;
	assert_int_equal(vectors_insert(v, 2, &id, 1, 0, 512, x), 0);
	for (uint32_t i = 0; !rc; i++) {
		id = model_id(i);
		rc = vectors_insert(v, 1, &id, 1, 0, 512, x);
	}
	assert_int_equal(rc, ENOSPC);
	assert_int_equal(vectors_save(v, dir, 100), 0);
	assert_int_equal(vectors_load(w, dir, &seq), 0);
	assert_int_equal(seq, 100);
	assert_false(vectors_complete(w, 1));
	assert_true(vectors_count(w, 1) < vectors_count(v, 1));
	vectors_close(&w);
	close(fd2);
	w = model_open(64 << 20, &fd2);
	assert_int_equal(vectors_load(w, dir, &seq), 0);
	assert_int_equal(vectors_count(w, 0), vectors_count(v, 0));
	assert_false(vectors_complete(w, 1));
	assert_true(vectors_complete(w, 2));
	vectors_close(&v);
	vectors_close(&w);
	close(fd);
	close(fd2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip), cmocka_unit_test(test_empty),      cmocka_unit_test(test_damage),
		cmocka_unit_test(test_older),	   cmocka_unit_test(test_incomplete),
	};
	return cmocka_run_group_tests(tests, setup, teardown);
}
