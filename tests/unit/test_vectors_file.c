/* The vector index in a file and out of it: rows, codes, lists and what they have learned, whole or not at all; beside a
 * writer; nothing of what is dead.
 *
 * Broken code that this would catch: lists that are made again after the load, or find otherwise; a row that moves or memory
 * that is used again while it is saved; damage that goes unnoticed; what a killed loader left that passes for an index;
 * removed vectors in the file; inserts that fail because a file is being saved. */
#include <pthread.h>

#include "vectors_model.h"

#include "image_model.h"
#include "index/lists-private.h"

#define DIM 300
static const _Atomic bool go_on;

static int save(struct vectors *v)
{
	struct image_facts facts = {.kind = "test", .revision = 7};
	struct image_writer *w = image_writer_open(image_dir);
	assert_non_null(w);
	vectors_hold(v);
	int rc = vectors_save(v, w, &facts.part[IMAGE_VECTORS], &go_on);
	vectors_let_go(v);
	if (rc) {
		image_writer_abort(&w);
		return rc;
	}
	assert_true(image_writer_end(w, &facts));
	assert_true(image_writer_publish(&w));
	return 0;
}

/* ENOENT: there is none that is whole. */
static int load(struct vectors *v, int fd)
{
	struct image *m = image_open(image_dir, 0);
	if (!m)
		return ENOENT;
	assert_int_equal(image_facts(m)->revision, 7);
	int rc = vectors_load(v, fd, m, NULL, NULL);
	vectors_load_end(v, rc == 0);
	image_close(&m);
	return rc;
}

static struct vectors *open_low(uint64_t bytes, enum vectors_raw raw, int *fd_r)
{
	struct vectors *v = model_open(bytes, fd_r);
	vectors_stages_set(v, &(struct vectors_stages){.flat_rows = 200, .raw = raw});
	return v;
}

static void close_all(struct vectors **v, int fd)
{
	vectors_close(v);
	close(fd);
}

static void row(float *x, uint32_t dim, uint32_t topic)
{
	uint64_t s = (topic % 40 + 1) * 0x9e3779b97f4a7c15ull;
	for (uint32_t i = 0; i < dim; i++) {
		s ^= s << 13;
		s ^= s >> 7;
		s ^= s << 17;
		x[i] = (float)(s >> 40) / (float)(1 << 23) - 1 + 0.5F * model_float();
	}
}

static void fill(struct vectors *v, uint32_t from, uint32_t n)
{
	float x[DIM];
	for (uint32_t i = from; i < from + n; i++) {
		struct uuid id = model_id(i);
		row(x, DIM, i);
		assert_int_equal(vectors_insert(v, 1, &id, 1, i % 50 ? 0 : 1000, DIM, x), 0);
	}
}

static void work(struct vectors *v)
{
	while (vectors_work(v))
		;
}

/* The same hits with the same scores, by lists if `v` has them. */
static void same(struct vectors *v, struct vectors *w, bool lists)
{
	static struct vectors_hit a[100], b[100];
	float x[DIM];
	for (uint32_t i = 0; i < 60; i++) {
		struct vectors_trace trace = {0};
		struct vectors_query q = {.ns = 1,
					  .dim = DIM,
					  .x = x,
					  .k = i % 3 ? 10 : 100,
					  .now_us = i % 2 ? 0 : 2000,
					  .metric = (enum vectors_metric)(i % 3),
					  .min_score = -INFINITY,
					  .trace = &trace};
		size_t scanned;
		row(x, DIM, i);
		size_t n = vectors_search(v, &q, a, &scanned);
		assert_int_equal(vectors_search(w, &q, b, &scanned), n);
		for (size_t k = 0; k < n; k++)
			assert_true(uuid_cmp(&a[k].id, &b[k].id) == 0 && a[k].version == b[k].version &&
				    a[k].score == b[k].score);
		if (lists && q.metric == VECTORS_COSINE)
			assert_true(trace.lists > 1);
	}
}

static void check_round_trip(enum vectors_raw raw, bool lists)
{
	int fd, fd2;
	char path[200];
	struct vectors *v = open_low(32 << 20, raw, &fd), *w = open_low(48 << 20, raw, &fd2);
	if (!lists)
		vectors_stages_set(v, &(struct vectors_stages){.exact_bytes = 1 << 30});
	fill(v, 0, 1500);
	work(v);
	for (uint32_t i = 0; i < 1500; i += 7) {
		struct uuid id = model_id(i);
		vectors_remove(v, &id, 10);
	}
	fill(v, 5000, 100);
	work(v);
	assert_int_equal(save(v), 0);
	assert_int_equal(save(v), 0);
	assert_int_equal(image_find(".image", path), 1); /* the one before is gone, and its key */
	assert_int_equal(image_find(".key", path), 1);
	assert_int_equal(load(w, fd2), 0);
	assert_int_equal(vectors_count(w, 0), vectors_count(v, 0));
	for (uint32_t i = 0; i < 1500; i++) {
		struct uuid id = model_id(i);
		assert_int_equal(vectors_version(w, &id), vectors_version(v, &id));
	}
	same(v, w, lists);
	if (lists)
		assert_false(vectors_work(w)); /* nothing is clustered again */
	/* it goes on as if it had never been away */
	fill(w, 6000, 300);
	work(w);
	assert_int_equal(vectors_count(w, 0), vectors_count(v, 0) + 300);
	close_all(&v, fd);
	close_all(&w, fd2);
}

static void test_round_trip(void **state)
{
	(void)state;
	check_round_trip(VECTORS_RAW_INT8, true);
	check_round_trip(VECTORS_RAW_FLOAT16, true);
	check_round_trip(VECTORS_RAW_FLOAT32, true);
	check_round_trip(VECTORS_RAW_FLOAT32, false);
}

/* Rows that wait for their lists are saved as such, and come back as such. */
static void test_fresh_round_trip(void **state)
{
	(void)state;
	int fd, fd2;
	struct vectors_stages stages = {
		.flat_rows = 200, .raw = VECTORS_RAW_INT8, .fresh_rows = 400, .fresh_first = true};
	struct vectors *v = model_open(32 << 20, &fd), *w = model_open(48 << 20, &fd2);
	vectors_stages_set(v, &stages);
	vectors_stages_set(w, &stages);
	fill(v, 0, 1500);
	work(v);
	fill(v, 5000, 300);
	for (uint32_t i = 5000; i < 5300; i += 7) {
		struct uuid id = model_id(i);
		vectors_remove(v, &id, 10);
	}
	assert_int_equal(lists_waiting(v->w->lists->of[0]), 300);
	assert_int_equal(save(v), 0);
	assert_int_equal(load(w, fd2), 0);
	assert_int_equal(lists_waiting(w->w->lists->of[0]), 300);
	assert_int_equal(vectors_count(w, 0), vectors_count(v, 0));
	same(v, w, true);
	assert_true(vectors_work_due(w));
	work(w);
	assert_int_equal(lists_waiting(w->w->lists->of[0]), 0);
	assert_int_equal(w->w->lists->of[0]->entries - w->w->lists->of[0]->dead, vectors_count(w, 0));
	fill(w, 6000, 300);
	assert_int_equal(vectors_count(w, 0), vectors_count(v, 0) + 300);
	close_all(&v, fd);
	close_all(&w, fd2);
}

static void test_empty(void **state)
{
	(void)state;
	int fd, fd2;
	struct vectors *v = model_open(1 << 20, &fd), *w = model_open(1 << 20, &fd2);
	assert_true(image_wipe(image_dir));
	assert_int_equal(load(w, fd2), ENOENT);
	assert_int_equal(save(v), 0);
	assert_int_equal(load(w, fd2), 0);
	assert_int_equal(vectors_count(w, 0), 0);
	assert_null(image_writer_open("/nonexistent/place"));
	assert_null(image_open("/nonexistent/place", 0));
	close_all(&v, fd);
	close_all(&w, fd2);
}

static void refused(const char *what, size_t at)
{
	int fd;
	struct vectors *w = model_open(1 << 20, &fd);
	if (load(w, fd) == 0 || vectors_count(w, 0) || !vectors_unused(w))
		fail_msg("%s %zu went unnoticed", what, at);
	fill(w, 0, 3); /* and it can be used */
	close_all(&w, fd);
}

/* Any byte of the file or its key, any length: refused, nothing of it in the index. */
static void test_damage(void **state)
{
	(void)state;
	int fd, fd2;
	char path[200], key[200];
	struct stat st;
	struct vectors *v = model_open(1 << 20, &fd), *w = model_open(1 << 20, &fd2);
	fill(v, 0, 60);
	assert_int_equal(save(v), 0);
	assert_int_equal(image_find(".image", path), 1);
	assert_int_equal(image_find(".key", key), 1);
	int file = open(path, O_RDWR), keys = open(key, O_RDWR);
	assert_true(file >= 0 && keys >= 0 && fstat(file, &st) == 0);
	size_t size = (size_t)st.st_size;
	uint8_t *good = malloc(size + 1), secret[8];
	assert_int_equal(pread(file, good, size, 0), size);
	for (size_t i = 0; i < size; i += i < sizeof(struct image_head) ? 1 : 1 + model_next() % 997) {
		uint8_t bad = good[i] ^ (uint8_t)(1U << (model_next() % 8));
		if (i == sizeof(struct image_head))
			i = IMAGE_HEAD; /* between them lies nothing */
		bad = good[i] ^ (uint8_t)(1U << (model_next() % 8));
		assert_int_equal(pwrite(file, &bad, 1, (off_t)i), 1);
		refused("a flipped bit in byte", i);
		assert_int_equal(pwrite(file, good + i, 1, (off_t)i), 1);
	}
	for (size_t len = 0; len < size; len += 1 + model_next() % 3331) {
		assert_int_equal(ftruncate(file, (off_t)len), 0);
		refused("truncation to", len);
		assert_int_equal(pwrite(file, good, size, 0), size);
	}
	assert_int_equal(pwrite(file, "x", 1, st.st_size), 1);
	refused("a byte more than", size);
	assert_int_equal(ftruncate(file, st.st_size), 0);
	assert_int_equal(pread(keys, secret, sizeof(secret), 0), sizeof(secret));
	assert_int_equal(pwrite(keys, "overwrit", 8, 0), 8);
	refused("another key than", 0);
	assert_int_equal(pwrite(keys, secret, sizeof(secret), 0), 8);
	assert_int_equal(load(w, fd2), 0); /* it was the damage */
	same(v, w, false);
	close(file);
	close(keys);
	free(good);
	close_all(&v, fd);
	close_all(&w, fd2);
}

/* Too small a segment, another layout: refused, and the index can be used. */
static void test_misfit(void **state)
{
	(void)state;
	int fd, fd2;
	char path[200];
	struct image_head h;
	struct vectors *v = model_open(16 << 20, &fd), *w = model_open(1 << 20, &fd2);
	fill(v, 0, 3000);
	assert_int_equal(save(v), 0);
	assert_int_equal(load(w, fd2), EBADMSG);
	assert_true(vectors_unused(w));
	assert_int_equal(image_find(".image", path), 1);
	int file = open(path, O_RDWR);
	assert_int_equal(pread(file, &h, sizeof(h), 0), sizeof(h));
	h.facts.part[IMAGE_VECTORS].layout++;
	h.sum = image_head_sum(&h);
	assert_int_equal(pwrite(file, &h, sizeof(h), 0), sizeof(h));
	close(file);
	close_all(&w, fd2);
	w = model_open(64 << 20, &fd2);
	assert_int_equal(load(w, fd2), EPROTO);
	assert_true(vectors_unused(w));
	close_all(&v, fd);
	close_all(&w, fd2);
}

/* Who dies between the first piece and load_end() leaves nothing. */
static void test_killed_loader(void **state)
{
	(void)state;
	int fd, fd2;
	struct vectors *v = model_open(4 << 20, &fd), *w = model_open(4 << 20, &fd2);
	fill(v, 0, 500);
	assert_int_equal(save(v), 0);
	struct image *m = image_open(image_dir, 0);
	assert_non_null(m);
	assert_int_equal(vectors_load(w, fd2, m, NULL, NULL), 0);
	assert_int_equal(vectors_count(w, 0), 500);
	vectors_close(&w);
	w = vectors_open(fd2, true);
	assert_non_null(w);
	assert_true(vectors_interrupted(w) && vectors_unused(w));
	assert_int_equal(vectors_count(w, 0), 0);
	vectors_load_end(w, false);
	assert_false(vectors_interrupted(w));
	assert_int_equal(vectors_load(w, fd2, m, NULL, NULL), 0);
	vectors_load_end(w, true);
	vectors_close(&w);
	w = vectors_open(fd2, true);
	assert_int_equal(vectors_count(w, 0), 500);
	same(v, w, false);
	image_close(&m);
	close_all(&v, fd);
	close_all(&w, fd2);
}

/* ---- dead is dead ---- */

static void check_blank(enum vectors_raw raw)
{
	int fd;
	struct vectors *v = open_low(32 << 20, raw, &fd);
	fill(v, 0, 1000);
	work(v);
	struct uuid gone = model_id(333), there = model_id(334), again = model_id(335);
	uint32_t ref = vectors_map_find(v, &gone);
	const struct vectors_chunk *c = &v->chunks[vectors_ref_chunk(ref)];
	struct vectors_shape s = {0};
	struct spill *sp = NULL;
	char *base = vectors_own(v, c, &s);
	char bytes[64], id[16];
	assert_int_not_equal(ref, 0);
	memcpy(bytes, spill_rows(&sp, v, base, &s, vectors_ref_row(ref), 1), sizeof(bytes));
	spill_end(&sp);
	memcpy(id, &gone, sizeof(id));
	assert_int_equal(save(v), 0);
	assert_true(image_holds(bytes, sizeof(bytes)) && image_holds(id, sizeof(id)) && image_holds(&there, 16));
	vectors_remove(v, &gone, 10);
	float x[DIM];
	row(x, DIM, 3);
	assert_int_equal(vectors_insert(v, 1, &again, 2, 0, DIM, x), 0);
	assert_int_equal(save(v), 0);
	assert_false(image_holds(bytes, sizeof(bytes)) || image_holds(id, sizeof(id)));
	assert_true(image_holds(&there, 16) && image_holds(&again, 16));
	assert_true(image_wipe(image_dir));
	char path[200];
	assert_int_equal(image_find(".image", path) + image_find(".key", path), 0);
	close_all(&v, fd);
}

static void test_dead_rows_are_not_in_the_file(void **state)
{
	(void)state;
	check_blank(VECTORS_RAW_INT8);
	check_blank(VECTORS_RAW_FLOAT32);
}

/* ---- beside a writer ---- */

#define ALL 3000
struct beside {
	struct vectors *v;
	_Atomic bool stop;
	struct {
		uint64_t version;
		bool there, since; /* since: it changed behind the hold */
		float x[DIM];
	} e[ALL];
	_Atomic bool holding;
	uint64_t writes;
};

static void write_some(struct beside *b)
{
	uint32_t i = model_next() % ALL;
	struct uuid id = model_id(i);
	b->e[i].since = true;
	if (model_next() % 4 == 0) {
		vectors_remove(b->v, &id, UINT64_MAX);
		b->e[i].there = false;
	} else {
		row(b->e[i].x, DIM, i + model_next() % 3);
		b->e[i].there = true;
		AN(vectors_insert(b->v, 1, &id, ++b->e[i].version, 0, DIM, b->e[i].x) == 0);
	}
	b->writes++;
}

static void *writer_main(void *arg)
{
	struct beside *b = arg;
	while (!atomic_load(&b->stop))
		write_some(b);
	return NULL;
}

/* What the writer did behind the hold is done again, as the feed and the journal do it. */
static void repeat(struct beside *b, struct vectors *w)
{
	for (uint32_t i = 0; i < ALL; i++) {
		struct uuid id = model_id(i);
		if (!b->e[i].since)
			continue;
		vectors_remove(w, &id, UINT64_MAX);
		if (b->e[i].there)
			assert_int_equal(vectors_insert(w, 1, &id, b->e[i].version, 0, DIM, b->e[i].x), 0);
	}
}

static void check_all(struct beside *b, struct vectors *w)
{
	uint32_t live = 0;
	struct vectors_hit hit;
	size_t scanned;
	for (uint32_t i = 0; i < ALL; i++) {
		struct uuid id = model_id(i);
		live += b->e[i].there;
		assert_int_equal(vectors_version(w, &id), b->e[i].there ? b->e[i].version : 0);
		if (!b->e[i].there)
			continue;
		struct vectors_query q = {
			.ns = 1, .dim = DIM, .x = b->e[i].x, .k = 1, .min_score = -INFINITY, .exact = true};
		assert_int_equal(vectors_search(w, &q, &hit, &scanned), 1);
		if (model_number(&hit.id) != i)
			fail_msg("row %u is not what is nearest to itself", i);
	}
	assert_int_equal(vectors_count(w, 0), live);
	for (uint32_t i = 0; i < ALL; i++) { /* nor is any missing in the lists */
		struct uuid id = model_id(i);
		uint32_t ref = vectors_map_find(w, &id);
		const uint32_t *entries = ref ? w->w->lists->entries[vectors_ref_chunk(ref)] : NULL;
		assert_true(!ref || (entries && entries[vectors_ref_row(ref)]));
	}
}

static void check_beside(enum vectors_raw raw)
{
	int fd, fd2;
	pthread_t thread;
	struct beside *b = calloc(1, sizeof(*b));
	struct vectors *v = b->v = open_low(64 << 20, raw, &fd);
	for (uint32_t i = 0; i < ALL * 2; i++)
		write_some(b);
	work(v);
	for (uint32_t i = 0; i < ALL; i++)
		b->e[i].since = false;
	struct image_facts facts = {.revision = 7};
	struct image_writer *iw = image_writer_open(image_dir);
	assert_non_null(iw);
	vectors_hold(v);
	assert_int_equal(pthread_create(&thread, NULL, writer_main, b), 0);
	int rc = vectors_save(v, iw, &facts.part[IMAGE_VECTORS], &go_on);
	atomic_store(&b->stop, true);
	pthread_join(thread, NULL);
	assert_int_equal(rc, 0);
	vectors_let_go(v);
	assert_true(image_writer_end(iw, &facts) && image_writer_publish(&iw));
	struct vectors *w = open_low(64 << 20, raw, &fd2);
	assert_int_equal(load(w, fd2), 0);
	repeat(b, w);
	check_all(b, w);
	check_all(b, v); /* nothing is harmed by the hold, nor by its end */
	for (uint32_t i = 0; i < ALL * 3; i++)
		write_some(b);
	work(v);
	check_all(b, v);
	close_all(&v, fd);
	close_all(&w, fd2);
	free(b);
}

static void test_beside_a_writer(void **state)
{
	(void)state;
	for (int i = 0; i < 3; i++) {
		check_beside(VECTORS_RAW_INT8);
		check_beside(VECTORS_RAW_FLOAT32);
	}
}

/* An insert gets the memory that is held; the file is given up. */
static void test_memory_comes_first(void **state)
{
	(void)state;
	int fd;
	float x[DIM];
	struct image_part_facts facts;
	struct vectors *v = model_open(1 << 20, &fd);
	uint32_t n = 0, refused_at = 0;
	while (n < 100000) {
		struct uuid id = model_id(n++);
		row(x, DIM, n);
		if (vectors_insert(v, 1, &id, 1, 0, DIM, x))
			break;
	}
	vectors_drop(v, 1);
	vectors_close(&v);
	v = vectors_open(fd, true);
	fill(v, 0, n / 2);
	vectors_hold(v);
	vectors_drop(v, 1);
	for (uint32_t i = 0; i < n * 3 / 4 && !refused_at; i++) { /* more than what was not in use */
		struct uuid id = model_id(10000 + i);
		row(x, DIM, i);
		refused_at = vectors_insert(v, 1, &id, 1, 0, DIM, x) ? i + 1 : 0;
	}
	assert_int_equal(refused_at, 0);
	struct image_writer *w = image_writer_open(image_dir);
	assert_int_equal(vectors_save(v, w, &facts, &go_on), ENOMEM);
	image_writer_abort(&w);
	vectors_let_go(v);
	close_all(&v, fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_empty),
		cmocka_unit_test(test_fresh_round_trip),
		cmocka_unit_test(test_damage),
		cmocka_unit_test(test_misfit),
		cmocka_unit_test(test_killed_loader),
		cmocka_unit_test(test_dead_rows_are_not_in_the_file),
		cmocka_unit_test(test_beside_a_writer),
		cmocka_unit_test(test_memory_comes_first),
	};
	return cmocka_run_group_tests(tests, image_setup, image_teardown);
}
