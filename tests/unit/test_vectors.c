/* The vector index against brute force: answers, updates, deletions, expiry, filters, limits. */
#include <float.h>
#include <sys/mman.h>

#include "index/vectors-private.h"
#include "vectors_model.h"

static const enum vectors_metric metrics[] = {VECTORS_COSINE, VECTORS_DOT, VECTORS_L2};

static void fill(float *x, uint32_t dim, float scale)
{
	for (uint32_t i = 0; i < dim; i++)
		x[i] = model_float() * scale;
}

static void check_all(const struct model *m, struct vectors *v, uint64_t ns, uint32_t dim, size_t k, int64_t now,
		      const struct vectors_allow *allow)
{
	float *x = malloc(dim * sizeof(*x));
	for (size_t i = 0; i < ARRAY_LEN(metrics); i++) {
		fill(x, dim, 3);
		struct vectors_query q = {.ns = ns,
					  .dim = dim,
					  .x = x,
					  .k = k,
					  .metric = metrics[i],
					  .allow = allow,
					  .now_us = now,
					  .min_score = -INFINITY};
		model_check(m, v, &q);
	}
	free(x);
}

static int put(struct model *m, struct vectors *v, uint32_t id, uint64_t ns, uint64_t version, int64_t expires,
	       uint32_t dim, const float *x)
{
	struct uuid u = model_id(id);
	int rc = vectors_insert(v, ns, &u, version, expires, dim, x);
	if (!rc)
		model_put(m, id, ns, version, expires, dim, x);
	else if (m->e[id].version < version)
		model_del(m, id);
	return rc;
}

/* Every dimension class, every k: empty, one, fewer than k, more than k. */
static void test_exact(void **state)
{
	(void)state;
	static const uint32_t dims[] = {1, 2, 3, 7, 15, 16, 17, 31, 64, 100, 129, 1536, 4096};
	for (size_t d = 0; d < ARRAY_LEN(dims); d++) {
		int fd;
		struct vectors *v = model_open(64 << 20, &fd);
		struct model m;
		uint32_t dim = dims[d], n = dim > 1000 ? 150 : 700;
		float *x = malloc(dim * sizeof(*x));
		model_init(&m, n);
		check_all(&m, v, 7, dim, 10, 0, NULL);
		for (uint32_t i = 0; i < n; i++) {
			fill(x, dim, i % 5 ? 1 : 100);
			if (i % 50 == 13)
				memset(x, 0, dim * sizeof(*x));
			if (i % 50 == 14)
				memcpy(x, m.e[i - 5].x, dim * sizeof(*x)); /* ties */
			assert_int_equal(put(&m, v, i, 7, 1, 0, dim, x), 0);
			if (i == 0 || i == 15 || i == 63 || i == 64)
				check_all(&m, v, 7, dim, 10, 0, NULL);
		}
		static const size_t ks[] = {1, 10, 699, 700, 2000};
		for (size_t k = 0; k < ARRAY_LEN(ks); k++)
			check_all(&m, v, 7, dim, ks[k], 0, NULL);
		assert_int_equal(vectors_count(v, 7), n);
		assert_int_equal(vectors_count(v, 0), n);
		assert_true(vectors_complete(v, 7));
		free(x);
		model_end(&m);
		vectors_close(&v);
		close(fd);
	}
}

/* Everything that may happen to entries, at random, in namespaces that share the memory. */
static void test_random_life(void **state)
{
	(void)state;
	enum { N = 3000, NS = 6, STEPS = 60000 };
	int fd;
	struct vectors *v = model_open(16 << 20, &fd);
	struct model m;
	float x[48];
	model_init(&m, N);
	for (uint32_t step = 0; step < STEPS; step++) {
		uint32_t id = model_next() % N, what = model_next() % 100;
		uint64_t ns = 1 + (uint64_t)(id % NS) * 0x123456789abcdefull;
		uint32_t dim = ns == 1 ? 48 : 8 + (uint32_t)(id % NS);
		struct uuid u = model_id(id);
		uint64_t now = m.e[id].version, version = now + model_next() % 3; /* also the same, and lower: */
		if (what < 5 && version > 2)
			version -= 2;
		if (what < 70) {
			fill(x, dim, 2);
			assert_int_equal(put(&m, v, id, ns, version ? version : 1, what % 9 ? 0 : 1000 + what, dim, x),
					 0);
		} else if (what < 99) {
			vectors_remove(v, &u, version);
			if (now && version >= now)
				model_del(&m, id);
		} else if (model_next() % 8 == 0) {
			vectors_drop(v, ns);
			for (uint32_t i = 0; i < N; i++) {
				if (m.e[i].ns == ns)
					model_del(&m, i);
			}
			assert_int_equal(vectors_count(v, ns), 0);
		}
		assert_int_equal(vectors_version(v, &u), m.e[id].version);
		if (step % 997 == 0)
			check_all(&m, v, ns, dim, 1 + model_next() % 60, 1000 + model_next() % 100, NULL);
	}
	uint64_t live = 0;
	for (uint32_t i = 0; i < N; i++)
		live += m.e[i].version != 0;
	assert_int_equal(vectors_count(v, 0), live);
	/* Recovery in an orderly state changes nothing. */
	vectors_close(&v);
	v = vectors_open(fd, true);
	assert_non_null(v);
	assert_int_equal(vectors_count(v, 0), live);
	for (uint32_t i = 0; i < N; i++) {
		struct uuid u = model_id(i);
		assert_int_equal(vectors_version(v, &u), m.e[i].version);
	}
	check_all(&m, v, 1, 48, 50, 0, NULL);
	for (uint64_t i = 0; i < NS; i++)
		vectors_drop(v, 1 + i * 0x123456789abcdefull);
	assert_int_equal(vectors_bytes(v), 0); /* nothing leaks */
	model_end(&m);
	vectors_close(&v);
	close(fd);
}

/* An id that moves to another namespace leaves the first. */
static void test_moves(void **state)
{
	(void)state;
	int fd;
	struct vectors *v = model_open(1 << 20, &fd);
	struct model m;
	float x[4] = {1, 2, 3, 4};
	model_init(&m, 2);
	assert_int_equal(put(&m, v, 1, 10, 5, 0, 4, x), 0);
	assert_int_equal(put(&m, v, 1, 11, 6, 0, 4, x), 0);
	check_all(&m, v, 10, 4, 5, 0, NULL);
	check_all(&m, v, 11, 4, 5, 0, NULL);
	assert_int_equal(vectors_count(v, 10), 0);
	assert_int_equal(vectors_count(v, 11), 1);
	/* another dimension in the same namespace: each is found by queries of its own */
	float y[5] = {1, 1, 1, 1, 1};
	assert_int_equal(put(&m, v, 0, 11, 1, 0, 5, y), 0);
	check_all(&m, v, 11, 4, 5, 0, NULL);
	check_all(&m, v, 11, 5, 5, 0, NULL);
	model_end(&m);
	vectors_close(&v);
	close(fd);
}

static void test_refused(void **state)
{
	(void)state;
	int fd;
	struct vectors *v = model_open(1 << 20, &fd);
	struct uuid id = model_id(1);
	float x[4097] = {1}, bad[2] = {1, NAN}, inf[2] = {INFINITY, 0};
	assert_int_equal(vectors_insert(v, 1, &id, 1, 0, 0, x), EINVAL);
	assert_int_equal(vectors_insert(v, 1, &id, 1, 0, 4097, x), EINVAL);
	assert_int_equal(vectors_insert(v, 0, &id, 1, 0, 4, x), EINVAL);
	assert_int_equal(vectors_insert(v, 1, &id, 1, 0, 2, bad), EINVAL);
	assert_int_equal(vectors_insert(v, 1, &id, 1, 0, 2, inf), EINVAL);
	struct vectors_hit hit;
	struct vectors_query q = {.ns = 1,
				  .dim = 4,
				  .x = x,
				  .k = 0,
				  .metric = VECTORS_COSINE,
				  .allow = NULL,
				  .now_us = 0,
				  .min_score = -INFINITY};
	assert_int_equal(vectors_search(v, &q, &hit, NULL), 0);
	vectors_remove(v, &id, 9);
	vectors_drop(v, 77);
	vectors_close(&v);
	close(fd);
	assert_null(vectors_open(-1, true));
	fd = shm_create("small", 4096);
	assert_null(vectors_open(fd, true));
	close(fd);
	fd = shm_create("virgin", vectors_segment_size(1 << 20));
	assert_null(vectors_open(fd, false)); /* a reader before the writer */
	assert_int_equal(errno, EAGAIN);
	close(fd);
}

/* Extreme rows are scored as they should: cosine of huge and of tiny vectors. */
static void test_extreme_rows(void **state)
{
	(void)state;
	int fd;
	struct vectors *v = model_open(1 << 20, &fd);
	float huge[3] = {FLT_MAX / 4, FLT_MAX / 4, 0}, tiny[3] = {1e-40F, 1e-40F, 0}, q3[3] = {1, 1, 0};
	struct uuid a = model_id(1), b = model_id(2);
	struct vectors_hit hits[3];
	assert_int_equal(vectors_insert(v, 1, &a, 1, 0, 3, huge), 0);
	assert_int_equal(vectors_insert(v, 1, &b, 1, 0, 3, tiny), 0);
	struct vectors_query q = {.ns = 1,
				  .dim = 3,
				  .x = q3,
				  .k = 3,
				  .metric = VECTORS_COSINE,
				  .allow = NULL,
				  .now_us = 0,
				  .min_score = -INFINITY};
	const float *queries[] = {q3, huge, tiny};
	for (size_t i = 0; i < 3; i++) {
		q.x = queries[i];
		assert_int_equal(vectors_search(v, &q, hits, NULL), 2);
		assert_true(fabsf(hits[0].score - 1) < 1e-6F && fabsf(hits[1].score - 1) < 1e-6F);
	}
	float nan3[3] = {NAN, 0, 0};
	q.x = nan3;
	assert_int_equal(vectors_search(v, &q, hits, NULL), 0);
	vectors_close(&v);
	close(fd);
}

static void test_min_score(void **state)
{
	(void)state;
	int fd;
	struct vectors *v = model_open(1 << 20, &fd);
	struct vectors_hit hits[5];
	for (uint32_t i = 0; i < 5; i++) {
		float x[2] = {cosf((float)i * 0.3F), sinf((float)i * 0.3F)};
		struct uuid id = model_id(i);
		assert_int_equal(vectors_insert(v, 1, &id, 1, 0, 2, x), 0);
	}
	float x[2] = {1, 0};
	struct vectors_query q = {.ns = 1,
				  .dim = 2,
				  .x = x,
				  .k = 5,
				  .metric = VECTORS_COSINE,
				  .allow = NULL,
				  .now_us = 0,
				  .min_score = cosf(0.7F)};
	assert_int_equal(vectors_search(v, &q, hits, NULL), 3);
	q.k = 2;
	assert_int_equal(vectors_search(v, &q, hits, NULL), 2);
	assert_int_equal(model_number(&hits[0].id), 0);
	assert_int_equal(model_number(&hits[1].id), 1);
	q.min_score = 1.5F;
	assert_int_equal(vectors_search(v, &q, hits, NULL), 0);
	vectors_close(&v);
	close(fd);
}

/* A filter that allows few of many is exact and never short, wherever they lie. */
static void test_allow(void **state)
{
	(void)state;
	enum { N = 4000 };
	int fd;
	struct vectors *v = model_open(16 << 20, &fd);
	struct model m;
	float x[20];
	model_init(&m, N);
	for (uint32_t i = 0; i < N; i++) {
		fill(x, 20, 1);
		assert_int_equal(put(&m, v, i, 3, 1, i % 11 ? 0 : 50, 20, x), 0);
	}
	static const uint32_t sizes[] = {0, 1, 2, 9, 10, 100, 2000, N};
	for (size_t s = 0; s < ARRAY_LEN(sizes); s++) {
		struct vectors_allow *a = vectors_allow_new(s % 2 ? 0 : sizes[s]);
		for (uint32_t i = 0; i < sizes[s]; i++) {
			struct uuid id = model_id(sizes[s] == N ? i : model_next() % (N + 500)); /* also strangers */
			vectors_allow_add(a, &id);
			vectors_allow_add(a, &id);
			assert_true(vectors_allow_has(a, &id));
		}
		assert_true(vectors_allow_count(a) <= sizes[s]);
		check_all(&m, v, 3, 20, 10, 100, a);
		check_all(&m, v, 3, 20, 2000, 0, a);
		vectors_allow_free(&a);
		assert_null(a);
		vectors_allow_free(&a);
	}
	struct vectors_allow *a = vectors_allow_new(0);
	struct uuid zero = {{0}}, one = model_id(1);
	assert_false(vectors_allow_has(a, &zero)); /* no id is reserved */
	vectors_allow_add(a, &zero);
	assert_true(vectors_allow_has(a, &zero));
	assert_false(vectors_allow_has(a, &one));
	assert_int_equal(vectors_allow_count(a), 1);
	vectors_allow_free(&a);
	model_end(&m);
	vectors_close(&v);
	close(fd);
}

/* Filled up, updated when full, emptied, filled again: the limit holds, what does not fit is
 * told, what is removed makes room again. */
static void test_limit(void **state)
{
	(void)state;
	enum { N = 4000, DIM = 256 };
	int fd, rc = 0;
#ifdef MODEL_FILE
	skip(); /* it is memory's */
#endif
	struct vectors *v = model_open(2 << 20, &fd);
	struct model m;
	float x[DIM];
	uint32_t n = 0;
	model_init(&m, N);
	for (; n < N && !rc; n++) {
		fill(x, DIM, 1);
		rc = put(&m, v, n, 1, 1, 0, DIM, x);
	}
	assert_int_equal(rc, ENOSPC);
	n--;
	assert_true(n * (size_t)DIM * 4 > (2U << 20) * 3 / 4); /* most of the limit is vectors */
	assert_true(vectors_bytes(v) <= 2 << 20);
	assert_false(vectors_complete(v, 1));
	assert_true(vectors_complete(v, 2));
	check_all(&m, v, 1, DIM, 20, 0, NULL);
	/* an update that does not fit takes the old vector away */
	fill(x, DIM, 1);
	struct uuid u = model_id(0);
	rc = put(&m, v, 0, 1, 2, 0, DIM, x);
	assert_int_equal(vectors_version(v, &u), rc ? 0 : 2);
	check_all(&m, v, 1, DIM, 20, 0, NULL);
	/* Two thirds go, scattered: compaction must find room for as many again. */
	uint32_t gone = 0;
	for (uint32_t i = 0; i < n; i++) {
		u = model_id(i);
		if (i % 3 && m.e[i].version) {
			vectors_remove(v, &u, 9);
			model_del(&m, i);
			gone++;
		}
	}
	uint32_t back = 0;
	for (uint32_t i = 0; i < gone; i++) {
		fill(x, DIM, 1);
		back += put(&m, v, n + i, 1, 1, 0, DIM, x) == 0;
	}
	if (back < gone * 8 / 10)
		fail_msg("%u of %u came back", back, gone);
	check_all(&m, v, 1, DIM, 20, 0, NULL);
	vectors_drop(v, 1);
	assert_int_equal(vectors_bytes(v), 0);
	assert_true(vectors_complete(v, 1));
	model_end(&m);
	vectors_close(&v);
	close(fd);
}

/* Updates at random for ever must not use up the memory: dead rows are collected. */
static void test_churn(void **state)
{
	(void)state;
	enum { N = 1500, DIM = 128 };
	int fd;
	struct vectors *v = model_open(4 << 20, &fd); /* the rows take 0.8 MiB */
	struct model m;
	float x[DIM];
	model_init(&m, N);
	for (uint32_t i = 0; i < 40 * N; i++) {
		uint32_t id = i < N ? i : model_next() % N;
		fill(x, DIM, 1);
		assert_int_equal(put(&m, v, id, 1, m.e[id].version + 1, 0, DIM, x), 0);
	}
	assert_true(vectors_bytes(v) < 3 << 20);
	check_all(&m, v, 1, DIM, 100, 0, NULL);
	model_end(&m);
	vectors_close(&v);
	close(fd);
}

/* Thousands of tiny namespaces fit, and none sees another's rows. */
static void test_namespaces(void **state)
{
	(void)state;
	enum { NS = 6000, DIM = 64 };
	int fd;
	struct vectors *v = model_open(64 << 20, &fd);
	struct model m;
	float x[DIM];
	model_init(&m, 3 * NS);
	for (uint32_t i = 0; i < 3 * NS; i++) {
		fill(x, DIM, 1);
		assert_int_equal(put(&m, v, i, 1 + (uint64_t)(i % NS) * 0x9e3779b97f4a7c15ull, 1, 0, DIM, x), 0);
	}
	assert_int_equal(vectors_count(v, 0), 3 * NS);
	for (uint32_t i = 0; i < NS; i += 601)
		check_all(&m, v, 1 + (uint64_t)i * 0x9e3779b97f4a7c15ull, DIM, 10, 0, NULL);
	for (uint32_t i = 0; i < NS; i += 2) {
		uint64_t ns = 1 + (uint64_t)i * 0x9e3779b97f4a7c15ull;
		vectors_drop(v, ns);
		assert_int_equal(vectors_count(v, ns), 0);
	}
	assert_int_equal(vectors_count(v, 0), 3 * NS / 2);
	model_end(&m);
	vectors_close(&v);
	close(fd);
}

/* What tiny chunks leave merges into room for large rows. */
static void test_merge(void **state)
{
	(void)state;
	enum { LARGE = 1536 };
	int fd, rc = 0;
	struct vectors *v = model_open(4 << 20, &fd);
	float x[LARGE] = {1};
	uint64_t ns = 0;
	while (!rc) {
		struct uuid id = model_id((uint32_t)ns++);
		rc = vectors_insert(v, ns, &id, 1, 0, 4, x);
	}
	for (uint64_t i = 1; i < ns; i += 2)
		vectors_drop(v, i);
	for (uint64_t i = ns; i > 0; i--)
		vectors_drop(v, i);
	uint32_t n = 0;
	for (rc = 0; !rc; n++) {
		struct uuid id = model_id(n);
		rc = vectors_insert(v, 1, &id, 1, 0, LARGE, x);
	}
	if (n * sizeof(x) < (4 << 20) * 8 / 10)
		fail_msg("only %u large rows fit", n);
	vectors_close(&v);
	close(fd);
}

/* More namespaces than the table holds: refused, and said so. */
static void test_namespace_table_full(void **state)
{
	(void)state;
	int fd, rc = 0;
	struct vectors *v = model_open(1ull << 30, &fd);
	float x[4] = {1, 0, 0, 0};
	uint64_t ns = 0;
	while (!rc && ns <= VECTORS_NAMESPACES) {
		struct uuid id = model_id((uint32_t)ns++);
		rc = vectors_insert(v, ns, &id, 1, 0, 4, x);
	}
	assert_int_equal(rc, ENOSPC);
	assert_false(vectors_complete(v, ns));
	assert_true(vectors_complete(v, 1));
	vectors_close(&v);
	close(fd);
}

static long resident_kib(const struct vectors *v)
{
	long kib = 0;
	unsigned char *pages = malloc(v->size / 4096 + 1);
	assert_int_equal(mincore(v->base, v->size, pages), 0);
	for (size_t i = 0; i < v->size / 4096; i++)
		kib += (pages[i] & 1) * 4;
	free(pages);
	return kib;
}

/* An index of 4 GiB that holds nothing costs next to nothing. */
static void test_lazy(void **state)
{
	(void)state;
	int fd;
	struct vectors *v = model_open(4ull << 30, &fd);
	assert_true(resident_kib(v) <= 64);
	struct uuid id = model_id(1);
	float x[1536] = {1};
	assert_int_equal(vectors_insert(v, 1, &id, 1, 0, 1536, x), 0);
	assert_true(resident_kib(v) <= 128);
	vectors_close(&v);
	close(fd);
}

/* A table that makes no sense is not trusted and does not stop the daemon. */
static void test_inconsistent(void **state)
{
	(void)state;
	int fd;
	struct vectors *v = model_open(1 << 20, &fd);
	float x[64] = {1};
	for (uint32_t i = 0; i < 40; i++) {
		struct uuid id = model_id(i);
		assert_int_equal(vectors_insert(v, 1 + i % 2, &id, 1, 0, 64, x), 0);
	}
	struct vectors *reader = vectors_open(fd, false);
	assert_non_null(reader);
	for (int damage = 0; damage < 4; damage++) {
		struct vectors_chunk *c = &v->chunks[1];
		assert_true(c->ns != 0);
		uint64_t offset = c->offset;
		switch (damage) {
		case 0:
			c->offset = v->chunks[0].offset; /* two in the same place */
			break;
		case 1: c->offset = 1ull << 60; break;
		case 2: c->dim = 1000000; break;
		default: c->count = 5000;
		}
		struct vectors_hit hits[10];
		struct vectors_query q = {.ns = c->ns,
					  .dim = 64,
					  .x = x,
					  .k = 10,
					  .metric = VECTORS_COSINE,
					  .allow = NULL,
					  .now_us = 0,
					  .min_score = -INFINITY};
		(void)vectors_search(reader, &q, hits, NULL); /* must survive it */
		vectors_close(&v);
		v = vectors_open(fd, true);
		assert_non_null(v);
		assert_int_equal(vectors_count(v, 0), 0);
		assert_false(vectors_complete(v, 1));
		assert_false(vectors_complete(v, 2));
		(void)offset;
		for (uint32_t i = 0; i < 40; i++) {
			struct uuid id = model_id(i);
			assert_int_equal(vectors_insert(v, 1 + i % 2, &id, 1, 0, 64, x), 0);
		}
		assert_int_equal(vectors_search(reader, &q, hits, NULL), 10);
	}
	vectors_close(&reader);
	vectors_close(&v);
	close(fd);
}

int main(void)
{
	/* clang-format off */
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_exact),	 cmocka_unit_test(test_random_life),
	    cmocka_unit_test(test_moves),	 cmocka_unit_test(test_refused),
	    cmocka_unit_test(test_extreme_rows), cmocka_unit_test(test_min_score),
	    cmocka_unit_test(test_allow),	 cmocka_unit_test(test_limit),
	    cmocka_unit_test(test_churn),	 cmocka_unit_test(test_namespaces),
	    cmocka_unit_test(test_merge),	 cmocka_unit_test(test_namespace_table_full),
	    cmocka_unit_test(test_lazy),	 cmocka_unit_test(test_inconsistent),
	};
	/* clang-format on */
	return cmocka_run_group_tests(tests, NULL, NULL);
}
