/* Rows in a file beside the segment: which go there, what the file gives away, what a search gets from it. That all else holds
 * as it does in memory is asked by test_vectors_spilled*.c. */
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "index/lists-private.h"
#include "vectors_model.h"

enum { DIM = 300 };

struct pair { /* the segment and the file */
	int fd, file;
	struct vectors *v;
};

static struct pair open_pair(uint64_t memory, uint64_t file, bool first)
{
	struct pair p = {.fd = shm_create("test-vectors", vectors_segment_size(memory)),
			 .file = shm_create_file(model_folder(), file)};
	assert_true(p.fd != -1 && p.file != -1);
	p.v = vectors_open_spilled(p.fd, p.file, true);
	assert_non_null(p.v);
	vectors_stages_set(p.v,
			   &(struct vectors_stages){.exact_bytes = 64 << 10, .flat_rows = 200, .spill_first = first});
	return p;
}

static void close_pair(struct pair *p)
{
	vectors_close(&p->v);
	close(p->fd);
	close(p->file);
}

static void row(float *x, uint32_t id)
{
	uint64_t s = (id + 1) * 0x9e3779b97f4a7c15ull;
	for (uint32_t i = 0; i < DIM; i++) {
		s ^= s << 13;
		s ^= s >> 7;
		s ^= s << 17;
		x[i] = (float)(s >> 40) / (float)(1 << 23) - 1;
	}
}

static int insert(struct vectors *v, uint64_t ns, uint32_t id)
{
	float x[DIM];
	struct uuid u = model_id(id);
	row(x, id);
	return vectors_insert(v, ns, &u, 1, 0, DIM, x);
}

static void fill(struct vectors *v, uint64_t ns, uint32_t from, uint32_t to)
{
	for (uint32_t id = from; id < to; id++)
		assert_int_equal(insert(v, ns, id), 0);
}

static void work(struct vectors *v)
{
	for (uint32_t pieces = 0; vectors_work(v); pieces++)
		assert_true(pieces < 200);
}

static size_t ask(struct vectors *v, uint32_t seed, bool exact, enum vectors_metric metric, struct vectors_hit hits[10],
		  struct vectors_trace *trace)
{
	float x[DIM];
	row(x, 1000000 + seed);
	struct vectors_query q = {.ns = 1,
				  .dim = DIM,
				  .x = x,
				  .k = 10,
				  .metric = metric,
				  .min_score = -INFINITY,
				  .exact = exact,
				  .probes = exact ? 0 : LISTS_MAX,
				  .trace = trace};
	return vectors_search(v, &q, hits, NULL);
}

/* The same rows in memory and in the file: the same answers, to the bit, by lists and without. */
static void test_same_answers(void **state)
{
	(void)state;
	static const enum vectors_raw raws[] = {VECTORS_RAW_INT8, VECTORS_RAW_FLOAT16, VECTORS_RAW_FLOAT32};
	for (size_t i = 0; i < 3 * ARRAY_LEN(raws); i++) {
		struct pair p = open_pair(16 << 20, 16 << 20, true);
		int fd;
		struct vectors *v = model_open(16 << 20, &fd);
		struct vectors_stages s = {.exact_bytes = 64 << 10, .flat_rows = 200, .raw = raws[i / 3]};
		vectors_stages_set(v, &s);
		s.spill_first = true;
		vectors_stages_set(p.v, &s);
		fill(v, 1, 0, 2000);
		fill(p.v, 1, 0, 2000);
		work(v);
		work(p.v);
		assert_true(vectors_spilled(p.v) >= 2000 * DIM && vectors_spilled(v) == 0);
		assert_true(vectors_bytes(p.v) < vectors_bytes(v) - 1500 * DIM);
		struct vectors *reader = vectors_open_spilled(p.fd, p.file, false);
		assert_non_null(reader);
		for (uint32_t seed = 0; seed < 40; seed++) {
			struct vectors_hit a[10], b[10];
			struct vectors_trace trace = {0};
			bool exact = seed % 2;
			assert_int_equal(ask(v, seed, exact, (enum vectors_metric)(i % 3), a, NULL), 10);
			assert_int_equal(ask(reader, seed, exact, (enum vectors_metric)(i % 3), b, &trace), 10);
			assert_int_equal(trace.lists != 0, !exact);
			for (size_t k = 0; k < 10; k++) {
				assert_memory_equal(&a[k].id, &b[k].id, sizeof(a[k].id));
				assert_true(a[k].score == b[k].score);
			}
		}
		vectors_close(&reader);
		vectors_close(&v);
		close(fd);
		close_pair(&p);
	}
}

/* Small namespaces and the first fourth stay in memory; then rows go to the file, many more than memory holds. */
static void test_memory_first(void **state)
{
	(void)state;
	enum { MEMORY = 4 << 20, N = 16000 };
	struct pair p = open_pair(MEMORY, 64 << 20, false);
	fill(p.v, 1, 0, 500);
	work(p.v);
	assert_int_equal(vectors_spilled(p.v), 0);
	for (uint32_t id = 500; id < N; id += 500) {
		fill(p.v, 1, id, id + 500);
		work(p.v);
	}
	assert_true(N * (uint64_t)rotate_width(DIM) > MEMORY); /* memory alone had no room for them */
	assert_true(vectors_spilled(p.v) > MEMORY / 2 && vectors_bytes(p.v) <= MEMORY);
	assert_true(vectors_complete(p.v, 1));
	assert_int_equal(vectors_count(p.v, 1), N);
	struct uuid u = model_id(N);
	lists_reclaim(p.v,
		      true); /* what rests for readers' sake counts as taken; how much that is depends on the time */
	fill(p.v, 2, N, N + 10); /* few: they are compared row by row */
	assert_false(p.v->chunks[vectors_ref_chunk(vectors_map_find(p.v, &u))].form & VECTORS_SPILLED);
	vectors_drop(p.v, 1);
	vectors_drop(p.v, 2);
	lists_reclaim(p.v, true);
	assert_int_equal(vectors_bytes(p.v) + vectors_spilled(p.v), 0);
	close_pair(&p);
}

/* Both limits hold; beyond them there is the refusal that there is without a file. */
static void test_both_full(void **state)
{
	(void)state;
	struct pair p = open_pair(4 << 20, 2 << 20, false);
	uint32_t id = 0;
	int rc;
	while (!(rc = insert(p.v, 1, id)) && id < 100000)
		if (++id % 500 == 0)
			work(p.v);
	assert_int_equal(rc, ENOSPC);
	assert_false(vectors_complete(p.v, 1));
	assert_true(vectors_bytes(p.v) <= 4 << 20 && vectors_spilled(p.v) <= 2 << 20);
	assert_true(vectors_spilled(p.v) > 1 << 20 && vectors_count(p.v, 1) == id);
	for (uint32_t i = 0; i < id; i += 2) { /* what is half dead is put together again, though all is full */
		struct uuid u = model_id(i);
		vectors_remove(p.v, &u, UINT64_MAX);
	}
	work(p.v);
	lists_reclaim(p.v, true);
	fill(p.v, 1, id, id + id / 8);
	close_pair(&p);
}

static bool holds(int fd, const void *bytes, size_t n)
{
	size_t size;
	char *p = shm_map(fd, false, &size);
	assert_non_null(p);
	bool there = memmem(p, size, bytes, n) != NULL;
	munmap(p, size);
	return there;
}

/* No row can be found in the file, while it lives or when it is erased; and none when it is the same as another. */
static void test_nothing_readable(void **state)
{
	(void)state;
	struct pair p = open_pair(4 << 20, 4 << 20, true);
	vectors_stages_set(p.v,
			   &(struct vectors_stages){.exact_bytes = 1, .raw = VECTORS_RAW_FLOAT32, .spill_first = true});
	float x[DIM] = {1}; /* normalised already: what is kept of it is known */
	for (uint32_t i = 0; i < DIM; i++)
		x[i] = i % 3 == 0 ? 0.1F : 0;
	for (uint32_t id = 0; id < 50; id++) {
		struct uuid u = model_id(id);
		assert_int_equal(vectors_insert(p.v, 1, &u, 1, 0, DIM, x), 0);
	}
	struct uuid u = model_id(7);
	uint32_t ref = vectors_map_find(p.v, &u);
	struct vectors_shape s;
	const struct vectors_chunk *c = &p.v->chunks[vectors_ref_chunk(ref)];
	const char *base = vectors_own(p.v, c, &s), *at = base + s.rows + vectors_ref_row(ref) * s.row_bytes;
	struct spill *sp = NULL;
	char clear[16], sealed[64];
	assert_true(s.spilled && vectors_spilled(p.v));
	memcpy(clear, spill_rows(&sp, p.v, base, &s, vectors_ref_row(ref), 1), sizeof(clear));
	memcpy(sealed, at, sizeof(sealed));
	assert_memory_not_equal(clear, sealed, sizeof(clear));
	assert_false(holds(p.file, clear, sizeof(clear)));
	assert_memory_not_equal(sealed, at + s.row_bytes, sizeof(sealed)); /* an equal row */
	assert_false(holds(p.fd, clear, sizeof(clear)));
	vectors_remove(p.v, &u, UINT64_MAX);
	assert_false(holds(p.file, clear, sizeof(clear)) || holds(p.fd, clear, sizeof(clear)));
	/* The key is in the segment alone. */
	assert_true(holds(p.fd, p.v->super->key, VECTORS_KEY));
	assert_false(holds(p.file, p.v->super->key, VECTORS_KEY));
	spill_end(&sp);
	close_pair(&p);
	struct pair q = open_pair(4 << 20, 4 << 20, true), r = open_pair(4 << 20, 4 << 20, true);
	assert_memory_not_equal(q.v->super->key, r.v->super->key, VECTORS_KEY);
	close_pair(&q);
	close_pair(&r);
}

/* A successor writes no row where a predecessor may have begun one: no counter of the cipher is used twice. */
static void test_no_counter_twice(void **state)
{
	(void)state;
	struct pair p = open_pair(4 << 20, 4 << 20, true);
	fill(p.v, 1, 0, 20);
	struct uuid u = model_id(19), next = model_id(20);
	uint32_t before = vectors_ref_chunk(vectors_map_find(p.v, &u));
	vectors_close(&p.v); /* as if it had died: it leaves the same */
	p.v = vectors_open_spilled(p.fd, p.file, true);
	assert_non_null(p.v);
	vectors_stages_set(p.v, &(struct vectors_stages){.spill_first = true});
	fill(p.v, 1, 20, 21);
	uint32_t after = vectors_ref_chunk(vectors_map_find(p.v, &next));
	assert_int_not_equal(before, after);
	assert_true(p.v->chunks[after].serial > p.v->chunks[before].serial);
	struct vectors_hit hits[10];
	assert_int_equal(ask(p.v, 3, true, VECTORS_COSINE, hits, NULL), 10);
	close_pair(&p);
}

/* What a predecessor began and nobody goes on with is emptied into what comes: else every life would cost a chunk. */
static void test_lives_leave_little_behind(void **state)
{
	(void)state;
	struct pair p = open_pair(4 << 20, 8 << 20, true);
	fill(p.v, 1, 0, 20);
	for (uint32_t life = 0; life < 60; life++) {
		vectors_close(&p.v);
		p.v = vectors_open_spilled(p.fd, p.file, true);
		assert_non_null(p.v);
		vectors_stages_set(p.v, &(struct vectors_stages){.spill_first = true});
		fill(p.v, 1, 20 + 4 * life, 24 + 4 * life);
	}
	uint32_t chunks = 0;
	for (uint32_t i = 0; i < p.v->super->used; i++)
		chunks += p.v->chunks[i].ns == 1;
	assert_in_range(chunks, 1, 12);
	struct vectors_hit hits[10];
	assert_int_equal(ask(p.v, 3, true, VECTORS_COSINE, hits, NULL), 10);
	close_pair(&p);
}

/* A segment goes with the file that it was formatted with. */
static void test_another_file(void **state)
{
	(void)state;
	struct pair p = open_pair(1 << 20, 2 << 20, true);
	int other = shm_create_file(model_folder(), 1 << 20), null = open("/dev/null", O_RDWR), fd;
	assert_true(other != -1 && null != -1);
	assert_null(vectors_open(p.fd, false));
	assert_int_equal(errno, EPROTO);
	assert_null(vectors_open_spilled(p.fd, other, false));
	assert_null(vectors_open_spilled(p.fd, null, false));
	struct vectors *v = model_open(1 << 20, &fd), *w = vectors_open_spilled(fd, null, false);
	assert_non_null(w); /* a number without a meaning (contract.h) */
	vectors_close(&w);
	vectors_close(&v);
	close(fd);
	close(other);
	close(null);
	close_pair(&p);
}

/* Its room is there, it has no name, and nobody else may open it; a disk without that room says so. */
static void test_creation(void **state)
{
	(void)state;
	struct stat st;
	int fd = shm_create_file(model_folder(), 3 << 20);
	assert_true(fd != -1 && fstat(fd, &st) == 0);
	assert_true(st.st_size == 3 << 20 && st.st_blocks * 512 >= 3 << 20);
	assert_true(st.st_nlink == 0 && (st.st_mode & 0777) == 0600 && fcntl(fd, F_GETFD) & FD_CLOEXEC);
	close(fd);
	assert_int_equal(shm_create_file(model_folder(), 1ull << 55), -1);
	assert_true(errno == ENOSPC || errno == EFBIG);
	assert_int_equal(shm_create_file("no such folder", 4096), -1);
	assert_int_equal(errno, ENOENT);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_same_answers),	 cmocka_unit_test(test_memory_first),
		cmocka_unit_test(test_both_full),	 cmocka_unit_test(test_nothing_readable),
		cmocka_unit_test(test_no_counter_twice), cmocka_unit_test(test_lives_leave_little_behind),
		cmocka_unit_test(test_another_file),	 cmocka_unit_test(test_creation),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
