/* The store's own vector search against a plain computation. Broken code this would catch: rows of another
 * namespace, deleted, expired, superseded or hidden ones, those that the filter refuses, vectors of another length, a
 * heap that loses one of the best, dot products taken for cosines. */
#include <math.h>

#include "store_model.h"
#if POSTGRES
#include "store/postgres/measure.h"
#endif

#define N 400
#define NOW 1000000

static struct {
	float x[8];
	bool seen; /* may appear in namespace alpha */
	bool odd;
} row[N];

static void fill_vectors(void)
{
	struct batch a;
	batch_begin(&a);
	for (uint32_t n = 0; n < N; n++) {
		struct made *d = make(n, 1, n % 7 == 3 ? NS_B : NS_A);
		for (int i = 0; i < 8; i++)
			d->x[i] = ((float)below(2000) / 1000 - 1) * (float)(1 + n % 9); /* lengths differ */
		memcpy(row[n].x, d->x, sizeof(d->x));
		d->m.embedding = n % 11 == 5 ? NULL : d->x;
		d->m.dim = n % 11 == 5 ? 0 : n % 13 == 2 ? 4 : 8;
		d->m.embedder = d->m.dim ? SPAN("test-8") : (struct span){NULL, 0};
		d->m.expires_us = n % 17 == 1 ? NOW : n % 17 == 2 ? NOW + 1 : 0;
		d->m.flags = n % 19 == 4 ? MEMORY_SUPERSEDED : 0;
		d->m.kind = n % 2 ? SPAN("odd") : SPAN("even");
		row[n].odd = n % 2;
		row[n].seen = n % 7 != 3 && d->m.dim == 8 && d->m.expires_us != NOW && !d->m.flags && n % 23 != 6;
		batch_put(&a, d);
		made_free(d);
		if (n % 23 == 6)
			batch_delete(&a, n, 2, n % 7 == 3 ? NS_B : NS_A, DELETE_SOFT);
	}
	batch_store(&a, 1);
	batch_free(&a);
}

static bool exactly;	 /* whatever index there is */
static double tolerance; /* share of the best that may be others: an index guesses */

static double cosine(const float *a, const float *b)
{
	double dot = 0, aa = 0, bb = 0;
	for (int i = 0; i < 8; i++)
		dot += (double)a[i] * (double)b[i], aa += (double)a[i] * (double)a[i],
			bb += (double)b[i] * (double)b[i];
	return dot / sqrt(aa * bb);
}

static bool hide(void *arg, const struct uuid *id) { return number_of(id) % *(unsigned *)arg == 0; }

static void check(const float *x, size_t limit, const struct filter *f, unsigned hidden)
{
	struct store_text_hit hit[N];
	size_t n = 99, want = 0, missed = 0;
	struct store_nearest q = {.ns = record_ns(SPAN(NS_A)),
				  .x = x,
				  .dim = 8,
				  .filter = f,
				  .limit = limit,
				  .now_us = NOW,
				  .hidden = hidden ? hide : NULL,
				  .hidden_arg = &hidden,
				  .exact = exactly,
				  .effort = {200, 20}};
	if (ops->nearest(store, &q, hit, &n) != STORE_OK)
		fail_msg("%s", ops->error(store));
	for (uint32_t i = 0; i < N; i++)
		if (row[i].seen && !(f && !row[i].odd) && !(hidden && i % hidden == 0))
			want++;
	assert_int_equal(n, want < limit ? want : limit);
	for (size_t i = 0; i < n; i++) {
		uint32_t k = number_of(&hit[i].id);
		assert_true(k < N && row[k].seen && !(f && !row[k].odd) && !(hidden && k % hidden == 0));
		assert_true(fabs(hit[i].score - cosine(x, row[k].x)) < 1e-5 && hit[i].version == 1);
		assert_true(!i || hit[i].score <= hit[i - 1].score);
		row[k].seen = false; /* each once */
	}
	for (uint32_t i = 0; i < N && n; i++) /* nobody better was left out */
		if (row[i].seen && !(f && !row[i].odd) && !(hidden && i % hidden == 0))
			missed += cosine(x, row[i].x) > hit[n - 1].score + 1e-5;
	if (missed > n * tolerance)
		fail_msg("%zu of the %zu best are not the best (limit %zu, filter %d, hidden %u)", missed, n, limit,
			 f != NULL, hidden);
	for (size_t i = 0; i < n; i++)
		row[number_of(&hit[i].id)].seen = true;
}

static void nearest_rounds(void)
{
	static const size_t limits[] = {0, 1, 7, 100, N};
	char *error = NULL;
	json_t *j = json_pack("{s:s}", "kind", "odd");
	struct filter *f = filter_parse(j, &error);
	assert_non_null(f);
	for (int round = 0; round < 10; round++) {
		float x[8];
		for (int i = 0; i < 8; i++)
			x[i] = (float)below(2000) / 100 - 10;
		for (size_t l = 0; l < ARRAY_LEN(limits); l++) {
			check(x, limits[l], NULL, 0);
			check(x, limits[l], f, 0);
			check(x, limits[l], NULL, 2);
			check(x, limits[l], f, 3);
		}
	}
	filter_free(&f);
	json_decref(j);
}

static void nearest(void **state)
{
	(void)state;
	fill_vectors();
	nearest_rounds();
}

#if POSTGRES && PGVECTOR
static void check_effort(const struct store_nearest *q, const char *setting, const char *value)
{
	struct store_text_hit hit[N];
	struct buf got = {NULL, 0, 0};
	char sql[64];
	size_t n;
	assert_int_equal(ops->nearest(store, q, hit, &n), STORE_OK);
	snprintf(sql, sizeof(sql), "SHOW %s", setting);
	pg_test_sql(sql, &got); /* all connections are one session */
	buf_addc(&got, 0);
	assert_string_equal(got.p, value);
	buf_free(&got);
}

/* What "tune" is told of an index, and that searches ask as widely as they are told. */
static void look_at_index(const char *kind)
{
	struct pg_measure m;
	struct store_nearest_cost cost;
	bool indexed = false, lists = strcmp(kind, "ivfflat") == 0;
	float x[8] = {1, 2, 3, 4, 5, 6, 7, 8};
	struct store_nearest q = {.ns = record_ns(SPAN(NS_A)),
				  .x = x,
				  .dim = 8,
				  .limit = 10,
				  .now_us = NOW,
				  .effort = {77, 5},
				  .cost_r = &cost};
	assert_int_equal(pg_measure_look(store, 8, &m), STORE_OK);
	assert_true(m.vector && *m.version && m.iterates && m.index.valid && m.index.parts == 1);
	assert_string_equal(m.index.kind, kind);
	assert_string_equal(m.index.name, "v");
	assert_true(m.index.rows > N / 2 && m.index.rows < N && m.index.bytes > 0);
	assert_int_equal(m.index.lists, lists ? 25 : 0);
	assert_int_equal(m.index.m, lists ? 0 : 16);
	assert_int_equal(m.index.ef_construction, lists ? 0 : 64);
	assert_int_equal(pg_measure_look(store, 5, &m), STORE_OK); /* of other vectors */
	assert_true(m.vector && !*m.index.kind && !m.index.valid);
	assert_int_equal(pg_nearest_plan(store, &q, &indexed), STORE_OK);
	assert_true(indexed);
	check_effort(&q, "hnsw.ef_search", "77|\n");
	check_effort(&q, "ivfflat.probes", "5|\n");
	assert_true(cost.statements == 1 && cost.rows == 20 && !cost.whole);
	q.effort = (struct store_effort){300, 6};
	check_effort(&q, "hnsw.ef_search", "300|\n");
	check_effort(&q, "ivfflat.probes", "6|\n");
	q.exact = true;
	check_effort(&q, "ivfflat.probes", "6|\n");
	assert_true(cost.whole);
	pg_test_sql("DROP INDEX v", NULL);
	assert_int_equal(pg_nearest_plan(store, &q, &indexed), STORE_OK);
	assert_false(indexed);
}

/* The server's own indexes: they are used, and what they leave out is made up for. */
static void by_index(void **state)
{
	static const char *const kinds[] = {"hnsw", "ivfflat"}, *const with[] = {"", "WITH (lists=25)"};
	(void)state;
	fill_vectors();
	pg_test_sql("SET enable_seqscan=off; SET enable_sort=off; SET enable_bitmapscan=off", NULL);
	for (size_t k = 0; k < 2; k++) {
		char sql[220];
		struct buf plan = {NULL, 0, 0};
		snprintf(
			sql, sizeof(sql),
			"DROP INDEX IF EXISTS v; CREATE INDEX v ON memories USING %s ((embedding::vector(8)) vector_cosine_ops) %s WHERE dim=8; ANALYZE memories",
			kinds[k], with[k]);
		pg_test_sql(sql, NULL);
		pg_test_sql("EXPLAIN SELECT id FROM memories WHERE dim=8 ORDER BY (embedding::vector(8)) <=> "
			    "'[1,2,3,4,5,6,7,8]' LIMIT 5",
			    &plan);
		buf_addc(&plan, 0);
		if (!strstr(plan.p, "Index Scan using v"))
			fail_msg("%s", plan.p);
		buf_free(&plan);
		tolerance = 0.25; /* half of the rows are hidden, and an index that goes on searching has no order */
		nearest_rounds();
		tolerance = 0;
		exactly = true;
		nearest_rounds();
		exactly = false;
		look_at_index(kinds[k]);
	}
	pg_test_sql("RESET ALL", NULL);
}
#endif

static void nothing(void **state)
{
	float x[8] = {0}; /* no direction: as far from everything */
	struct store_text_hit hit[4];
	size_t n = 99;
	struct store_nearest q = {.ns = record_ns(SPAN("none")), .x = x, .dim = 8, .limit = 4, .now_us = NOW};
	(void)state;
	assert_int_equal(ops->nearest(store, &q, hit, &n), STORE_OK);
	assert_int_equal(n, 0);
	STORE(1, batch_add(one, 2, 1, NS_A));
	q.ns = record_ns(SPAN(NS_A));
	assert_int_equal(ops->nearest(store, &q, hit, &n), STORE_OK);
	assert_int_equal(n, 1);
	assert_true(hit[0].score == 0);
}

#define T(f) cmocka_unit_test_setup_teardown(f, world_begin, world_end)
int main(void)
{
	const struct CMUnitTest tests[] = {
		T(nearest),
		T(nothing),
#if POSTGRES && PGVECTOR
		T(by_index),
#endif
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
