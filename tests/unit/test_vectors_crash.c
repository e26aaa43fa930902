/* The vector index while its writer is killed at any instruction, and while readers run beside
 * it. What a vector holds follows from its id and version, so that every hit can be verified
 * without knowing what the writer was doing. */
#include "index/lists-private.h"
#include "vectors_model.h"
#include "killer.h"

enum { DIM_MAX = 300 };

static uint32_t dim = 40; /* 300: codes of lists are bits */
static bool lists, fresh; /* fresh: rows wait to be put into them */

static void stages(struct vectors *v)
{
	vectors_stages_set(v, &(struct vectors_stages){.flat_rows = 100,
						       .raw = VECTORS_RAW_FLOAT32,
						       .fresh_rows = fresh ? 150 : 0,
						       .fresh_first = true});
}

static void vector_of(uint32_t id, uint64_t version, float x[DIM_MAX])
{
	uint64_t s = (id + 1) * 0x9e3779b97f4a7c15ull + version * 0xd6e8feb86659fd93ull;
	for (uint32_t i = 0; i < dim; i++) {
		s ^= s << 13;
		s ^= s >> 7;
		s ^= s << 17;
		x[i] = (float)(s >> 40) / (float)(1 << 23) - 1;
	}
}

/* NULL: the answer is right. k exceeds what there is, so every permanent entry must be in it. */
static const char *judge(struct vectors *v, struct board *b, uint32_t seed)
{
	struct vectors_hit hits[2 * ALL];
	float q[DIM_MAX], x[DIM_MAX];
	uint64_t low[PERMANENT];
	uint8_t seen[ALL] = {0};
	vector_of(1000000 + seed, 0, q);
	for (uint32_t i = 0; i < PERMANENT; i++)
		low[i] = atomic_load(&b->acked[i]);
	struct vectors_query query = {.ns = NS_MAIN,
				      .dim = dim,
				      .x = q,
				      .k = 2 * ALL,
				      .metric = VECTORS_COSINE,
				      .allow = NULL,
				      .now_us = 0,
				      .min_score = -INFINITY,
				      .probes = LISTS_MAX}; /* by lists alone, where there are any: no second look */
	size_t n = vectors_search(v, &query, hits, NULL);
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
		vector_of(id, hits[i].version, x);
		if (fabs(model_score(&query, x) - hits[i].score) > 1e-5)
			return "a score that is not that of this id and version";
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

static void write_one(struct vectors *v, struct board *b, uint32_t what, uint32_t id)
{
	float x[DIM_MAX];
	struct uuid u = model_id(id);
	if (what % 1000 == 0) {
		vectors_drop(v, NS_OTHER);
	} else if (what % 5 == 0) { /* makes chunks change hands between namespaces */
		u = model_id(100000 + id % OTHER);
		vector_of(0, what, x);
		(void)!vectors_insert(v, NS_OTHER, &u, vectors_version(v, &u) + 1, 0, dim, x);
	} else if (id >= PERMANENT && what % 3 == 0) {
		vectors_remove(v, &u, UINT64_MAX);
	} else {
		uint64_t version = atomic_load(&b->started[id]) + 1;
		atomic_store(&b->started[id], version);
		vector_of(id, version, x);
		AN(vectors_insert(v, NS_MAIN, &u, version, 0, dim, x) == 0);
		atomic_store(&b->acked[id], version);
	}
	atomic_fetch_add(&b->writes, 1);
}

static void writer(int fd, struct board *b)
{
	struct vectors *v = vectors_open(fd, true);
	AN(v);
	if (lists)
		stages(v);
	for (uint32_t i = 0; i < PERMANENT; i++) {
		struct uuid id = model_id(i);
		AN(board_allows(b, i, vectors_version(v, &id)));
	}
	for (uint32_t step = 1;; step++) {
		write_one(v, b, model_next(), pick(step));
		if (lists && step % 256 == 0 && !vectors_work(v)) {
			struct vectors_ns *n = vectors_ns_find(v, NS_MAIN);
			struct ivf *f = v->w->lists->of[n - v->ns];
			static struct turn go_on;
			for (uint32_t list = 0; f && list < f->view.count; list++)
				AN(lists_rewrite(v, f, list));
			if (step % 1024 == 0)
				AN(lists_build(v, n, dim, 1 + step / 1024 % 16, &go_on));
		}
	}
}

static int reader(int fd, struct board *b)
{
	struct vectors *v = vectors_open(fd, false);
	const char *wrong = v ? NULL : "the reader cannot open the index";
	for (uint32_t i = 0; !wrong && !atomic_load(&b->stop); i++)
		wrong = judge(v, b, i);
	if (wrong)
		fprintf(stderr, "reader: %s\n", wrong);
	vectors_close(&v);
	return wrong != NULL;
}

static struct board *board_new(struct vectors *v)
{
	struct board *b = board_map();
	for (uint32_t i = 0; i < PERMANENT; i++)
		write_one(v, b, 1, i);
	return b;
}

static uint32_t after_us(void)
{
	return (model_next() % 4 ? model_next() % 3000 : model_next() % 600) * (lists ? 4 : 1);
}

/* Bytes. What a reader may still look at is nobody's, so that one whose turn on a busy machine does not come keeps much from use. */
static uint64_t room(void) { return lists ? 32 << 20 : 4 << 20; }

static void kill_writers(int few)
{
	int fd, rounds = getenv("VECTORS_ROUNDS") ? atoi(getenv("VECTORS_ROUNDS")) : few;
	struct vectors *v = model_open(room(), &fd);
	struct board *b = board_new(v);
	vectors_close(&v);
	kill_again_and_again(fd, b, rounds, writer, reader, after_us);
	/* The last one leaves a table in which everything adds up. */
	v = vectors_open(fd, true);
	assert_non_null(v);
	const char *wrong = judge(v, b, 1);
	if (wrong)
		fail_msg("%s", wrong);
	assert_int_equal(vectors_count(v, 0), vectors_count(v, NS_MAIN) + vectors_count(v, NS_OTHER));
	assert_true(vectors_complete(v, NS_MAIN));
	vectors_drop(v, NS_MAIN);
	vectors_drop(v, NS_OTHER);
	lists_reclaim(v, true);
	assert_int_equal(vectors_bytes(v), 0);
	print_message("%d kills, %llu writes, %llu searches\n", rounds, (unsigned long long)b->writes,
		      (unsigned long long)b->searches);
	vectors_close(&v);
	munmap(b, sizeof(*b));
	close(fd);
}

/* One writer, several readers in threads of one process and on one mapping: for ThreadSanitizer. With lists, another
 * thread builds and rewrites them beside all of that, and gives their memory to others at once. */
struct shared {
	struct vectors *v;
	struct board *b;
	_Atomic(const char *) wrong;
	_Atomic uint32_t pieces;
	struct turn turn;
};

static void *working(void *arg)
{
	struct shared *s = arg;
	for (uint32_t round = 0; !atomic_load(&s->b->stop); round++) {
		if (vectors_work(s->v))
			atomic_fetch_add(&s->pieces, 1);
		priolock_take(&s->v->w->lock);
		const struct vectors_ns *n = vectors_ns_find(s->v, NS_MAIN);
		struct ivf *f = s->v->w->lists->of[n - s->v->ns];
		for (uint32_t list = 0; f && list < f->view.count; list += 5)
			AN(lists_rewrite(s->v, f, list));
		lists_reclaim(s->v, true);
		priolock_give(&s->v->w->lock);
		/* as if the namespace had doubled: lists again */
		if (f && lists_build(s->v, &s->v->ns[n - s->v->ns], dim, 1 + round * 7 % 32, &s->turn))
			atomic_fetch_add(&s->pieces, 1);
		else if (f)
			atomic_store(&s->wrong, "lists cannot be built");
	}
	return NULL;
}

static void *reading(void *arg)
{
	struct shared *s = arg;
	const char *wrong = NULL;
	for (uint32_t i = 0; !wrong && !atomic_load(&s->b->stop); i++)
		wrong = judge(s->v, s->b, i);
	if (wrong)
		atomic_store(&s->wrong, wrong);
	return NULL;
}

static void beside(int writes)
{
	int fd;
	pthread_t threads[2], worker;
	struct shared s = {.v = model_open(room(), &fd)};
	if (lists)
		stages(s.v);
	s.b = board_new(s.v);
	if (lists)
		assert_int_equal(pthread_create(&worker, NULL, working, &s), 0);
	for (size_t i = 0; i < ARRAY_LEN(threads); i++)
		assert_int_equal(pthread_create(&threads[i], NULL, reading, &s), 0);
	for (uint32_t i = 0; i < (uint32_t)writes; i++)
		write_one(s.v, s.b, model_next(), pick(i));
	for (uint32_t i = 0; lists && !s.wrong && (s.pieces < 30 || s.b->searches < 300); i++)
		write_one(s.v, s.b, model_next(), pick(i));
	atomic_store(&s.b->stop, 1);
	for (size_t i = 0; i < ARRAY_LEN(threads); i++)
		pthread_join(threads[i], NULL);
	if (lists)
		pthread_join(worker, NULL);
	if (s.wrong)
		fail_msg("%s", s.wrong);
	print_message("%llu searches beside %llu writes and %u pieces of work\n", (unsigned long long)s.b->searches,
		      (unsigned long long)s.b->writes, (unsigned)s.pieces);
	assert_true(!lists || s.pieces);
	vectors_close(&s.v);
	munmap(s.b, sizeof(*s.b));
	close(fd);
}

static int writes(int few) { return getenv("VECTORS_WRITES") ? atoi(getenv("VECTORS_WRITES")) : few; }

static void test_killed_writer(void **state)
{
	(void)state;
	kill_writers(300);
}

static void test_killed_writer_lists(void **state)
{
	(void)state;
	lists = true;
	kill_writers(150);
	dim = DIM_MAX;
	kill_writers(100);
	dim = 40;
	lists = false;
}

static void test_killed_writer_fresh(void **state)
{
	fresh = true;
	test_killed_writer_lists(state);
	fresh = false;
}

static void test_threads(void **state)
{
	(void)state;
	beside(writes(60000));
}

static void test_threads_lists(void **state)
{
	(void)state;
	lists = true;
	beside(writes(20000));
	dim = DIM_MAX;
	beside(writes(20000));
	dim = 40;
	lists = false;
}

static void test_threads_fresh(void **state)
{
	fresh = true;
	test_threads_lists(state);
	fresh = false;
}

int main(int argc, char **argv)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_killed_writer),
					   cmocka_unit_test(test_killed_writer_lists),
					   cmocka_unit_test(test_threads),
					   cmocka_unit_test(test_threads_lists),
					   cmocka_unit_test(test_killed_writer_fresh),
					   cmocka_unit_test(test_threads_fresh)};
	cmocka_set_test_filter(argc > 1 ? argv[1] : NULL);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
