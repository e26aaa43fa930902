/* The vector index's lists: what a search by them finds, compared with a brute force in double, at small sizes. */
#include <pthread.h>

#include "index/kmeans.h"
#include "index/lists-private.h"
#include "vectors_model.h"

enum { MANY = LISTS_MAX };
static struct turn go_on;
static uint32_t fresh; /* so many rows wait to be put into lists */

static void low(struct vectors *v, enum vectors_raw raw)
{
	vectors_stages_set(
		v, &(struct vectors_stages){.flat_rows = 200, .raw = raw, .fresh_rows = fresh, .fresh_first = true});
}

static struct vectors *open_low(uint64_t bytes, enum vectors_raw raw, int *fd_r)
{
	struct vectors *v = model_open(bytes, fd_r);
	low(v, raw);
	return v;
}

static void close_all(struct vectors **v, int fd, struct model *m)
{
	vectors_close(v);
	close(fd);
	if (m)
		model_end(m);
}

/* Bounded: a background that finds something to do for ever is a defect. */
static void work(struct vectors *v)
{
	uint32_t pieces = 0;
	while (vectors_work(v))
		assert_true(++pieces < 200);
}

/* Topics and rows near them, with norms from 0.01 to 100 when `wild`. */
static void clustered(float *x, uint32_t dim, uint32_t topic, bool wild)
{
	uint64_t s = (topic + 1) * 0x9e3779b97f4a7c15ull;
	double norm = wild ? pow(10, (double)model_float() * 2) : 1;
	for (uint32_t i = 0; i < dim; i++) {
		s ^= s << 13;
		s ^= s >> 7;
		s ^= s << 17;
		x[i] = (float)norm * ((float)(s >> 40) / (float)(1 << 23) - 1 + 0.5F * model_float());
	}
}

static int put(struct vectors *v, struct model *m, uint32_t i, uint64_t ns, uint64_t version, uint32_t dim,
	       const float *x, int64_t expires)
{
	struct uuid id = model_id(i);
	int rc = vectors_insert(v, ns, &id, version, expires, dim, x);
	assert_true(rc == 0 || rc == ENOSPC);
	if (rc)
		model_del(m, i);
	else
		model_put(m, i, ns, version, expires, dim, x);
	return rc;
}

static double length(const float *x, uint32_t dim)
{
	double sum = 0;
	for (uint32_t i = 0; i < dim; i++)
		sum += (double)x[i] * (double)x[i];
	return sqrt(sum);
}

/* What a row's form may do to a score. */
static double tolerance(const struct vectors_query *q, const float *x, enum vectors_raw raw)
{
	bool bytes = raw == VECTORS_RAW_INT8 || (raw == VECTORS_RAW_AUTO && q->dim >= 256);
	double cosine = bytes			     ? 0.001 + 0.008 * sqrt(64.0 / rotate_width(q->dim))
			: raw == VECTORS_RAW_FLOAT16 ? 1e-3
						     : 4e-6;
	double a = length(q->x, q->dim), b = length(x, q->dim);
	return q->metric == VECTORS_COSINE ? cosine
	       : q->metric == VECTORS_DOT  ? cosine * a * b
					   : 2 * cosine * a * b + 4e-6 * (a * a + b * b);
}

/* Hits are live, of the right version, once, in order, with the score of a brute force. Returns how many. */
static size_t search(struct vectors *v, const struct model *m, const struct vectors_query *q, enum vectors_raw raw,
		     struct vectors_hit *hits)
{
	uint8_t *seen = calloc(m->n, 1);
	size_t got = vectors_search(v, q, hits, NULL);
	assert_true(got <= q->k);
	for (size_t i = 0; i < got; i++) {
		uint32_t id = model_number(&hits[i].id);
		assert_true(id < m->n && !seen[id]++);
		assert_true(model_matches(&m->e[id], q, &hits[i].id));
		assert_int_equal(hits[i].version, m->e[id].version);
		double s = model_score(q, m->e[id].x);
		if (!(fabs(hits[i].score - s) <= tolerance(q, m->e[id].x, raw)))
			fail_msg("id %u: score %.9g instead of %.9g", id, (double)hits[i].score, s);
		assert_true(hits[i].score >= q->min_score);
		assert_true(!i || hits[i].score <= hits[i - 1].score);
	}
	free(seen);
	return got;
}

static uint32_t matching(const struct model *m, const struct vectors_query *q)
{
	uint32_t n = 0;
	for (uint32_t i = 0; i < m->n; i++) {
		struct uuid id = model_id(i);
		n += model_matches(&m->e[i], q, &id);
	}
	return n;
}

/* How many of the k best a search found. */
static uint32_t agreeing(struct vectors *v, const struct model *m, const struct vectors_query *q, enum vectors_raw raw)
{
	struct vectors_hit hits[10];
	double *all = malloc(m->n * sizeof(*all));
	uint32_t n = 0, good = 0;
	for (uint32_t i = 0; i < m->n; i++)
		if (m->e[i].version && m->e[i].ns == q->ns)
			all[n++] = model_score(q, m->e[i].x);
	qsort(all, n, sizeof(*all), model_descending);
	assert_int_equal(search(v, m, q, raw, hits), q->k);
	for (size_t i = 0; i < q->k; i++) {
		const float *x = m->e[model_number(&hits[i].id)].x;
		good += model_score(q, x) >= all[q->k - 1] - 2 * tolerance(q, x, raw);
	}
	free(all);
	return good;
}

enum { ROWS = 640, ASKED = 12 };

static void check_metric(struct vectors *v, const struct model *m, enum vectors_raw raw, uint32_t dim,
			 enum vectors_metric metric)
{
	static float x[1536];
	static struct vectors_hit hits[ROWS + 60];
	struct vectors_trace trace;
	struct vectors_query q = {
		.ns = 1, .dim = dim, .x = x, .metric = metric, .min_score = -INFINITY, .trace = &trace};
	uint32_t found = 0;
	for (uint32_t i = 0; i < ASKED; i++) {
		clustered(x, dim, i % 16, true);
		q.k = ROWS + 60;
		q.probes = i & 1 ? MANY : 0;
		assert_int_equal(search(v, m, &q, raw, hits), ROWS);
		assert_true(trace.lists > 1 && trace.probed == trace.lists && trace.codes >= ROWS && !trace.again);
		q.k = 10;
		q.probes = 0;
		q.recall = 0.98F;
		found += agreeing(v, m, &q, raw);
		assert_true(trace.lists > 1 && trace.probed >= 1 && trace.probed <= trace.lists);
		q.exact = true;
		assert_int_equal(agreeing(v, m, &q, raw), 10);
		assert_true(!trace.lists && !trace.codes && trace.rows == ROWS);
		q.exact = false;
	}
	if (found < ASKED * 10 * 95 / 100)
		fail_msg("raw %d, %u dimensions, metric %d: %u of %d", (int)raw, dim, (int)metric, found, ASKED * 10);
	memset(x, 0, sizeof(x)); /* a query that is like nothing */
	q.k = ROWS + 60;
	assert_int_equal(search(v, m, &q, raw, hits), ROWS);
}

static void check_raw(enum vectors_raw raw, uint32_t dim)
{
	static float x[1536];
	struct model m;
	int fd;
	struct vectors *v = open_low(32 << 20, raw, &fd);
	model_init(&m, ROWS);
	for (uint32_t i = 0; i < ROWS; i++) {
		clustered(x, dim, i % 16, true);
		if (i < 4 || i == 100 || i >= ROWS - 2) /* whose bounds are none */
			memset(x, 0, sizeof(x));
		assert_int_equal(put(v, &m, i, 1, 1, dim, x, 0), 0);
	}
	work(v);
	for (int metric = VECTORS_COSINE; metric <= VECTORS_L2; metric++)
		check_metric(v, &m, raw, dim, (enum vectors_metric)metric);
	close_all(&v, fd, &m);
}

static void test_raws(void **state)
{
	(void)state;
	LONG_FOR_THREADS();
	static const uint32_t dims[] = {3, 64, 100, 256, 300, 512, 1536};
	for (size_t i = 0; i < ARRAY_LEN(dims); i++) {
		check_raw(VECTORS_RAW_FLOAT32, dims[i]);
		check_raw(VECTORS_RAW_INT8, dims[i]);
		if (i % 2) /* each other one: the time */
			check_raw(VECTORS_RAW_FLOAT16, dims[i]);
		else
			check_raw(VECTORS_RAW_AUTO, dims[i]);
	}
}

/* An L2 search whose worst hit so far is further off than rows of zeros are. */
static void test_zero_rows_by_distance(void **state)
{
	(void)state;
	float x[64] = {0};
	struct model m;
	int fd;
	struct vectors *v = open_low(8 << 20, VECTORS_RAW_FLOAT32, &fd);
	model_init(&m, 320);
	for (uint32_t i = 0; i < 320; i++) {
		clustered(x, 64, i % 16, false);
		for (uint32_t k = 0; k < 64; k++)
			x[k] = i < 10 ? 0 : x[k] * 10;
		assert_int_equal(put(v, &m, i, 1, 1, 64, x, 0), 0);
	}
	work(v);
	struct vectors_query q = {.ns = 1, .dim = 64, .x = x, .k = 10, .metric = VECTORS_L2, .min_score = -INFINITY};
	for (uint32_t i = 0; i < 20; i++) { /* the zeros are the nearest */
		clustered(x, 64, i % 16, false);
		assert_int_equal(agreeing(v, &m, &q, VECTORS_RAW_FLOAT32), 10);
	}
	close_all(&v, fd, &m);
}

/* ---- churn ---- */

enum { IDS = 1400 };
static const uint32_t ns_dim[] = {0, 64, 300, 300};

static void check_all(struct vectors *v, const struct model *m)
{
	static struct vectors_hit hits[2 * IDS];
	static float x[300];
	uint64_t live = 0;
	for (uint64_t ns = 1; ns <= 3; ns++) {
		clustered(x, 300, (uint32_t)ns, false);
		struct vectors_query q = {.ns = ns,
					  .dim = ns_dim[ns],
					  .x = x,
					  .k = 2 * IDS,
					  .min_score = -INFINITY,
					  .probes = MANY,
					  .metric = (enum vectors_metric)(model_next() % 3)};
		uint32_t want = matching(m, &q);
		assert_int_equal(search(v, m, &q, VECTORS_RAW_INT8, hits), want);
		q.probes = 0;
		q.k = 1 + model_next() % 30;
		assert_int_equal(search(v, m, &q, VECTORS_RAW_INT8, hits), want < q.k ? want : q.k);
		assert_int_equal(vectors_count(v, ns), want);
		live += want;
	}
	assert_int_equal(vectors_count(v, 0), live);
}

static void drop(struct vectors *v, struct model *m, uint64_t ns)
{
	vectors_drop(v, ns);
	for (uint32_t i = 0; i < m->n; i++)
		if (m->e[i].version && m->e[i].ns == ns)
			model_del(m, i);
	assert_true(vectors_complete(v, ns));
}

static void reopen(struct vectors **v, int fd, enum vectors_raw raw)
{
	uint64_t bytes = vectors_bytes(*v);
	vectors_close(v); /* as a kill leaves it: nothing is written at the end */
	*v = vectors_open(fd, true);
	assert_non_null(*v);
	low(*v, raw);
	assert_true(vectors_bytes(*v) <= bytes + (256 << 10));
}

static uint32_t waiting(const struct vectors *v, uint64_t ns)
{
	const struct vectors_ns *n = vectors_ns_find(v, ns);
	const struct ivf *f = n ? v->w->lists->of[n - v->ns] : NULL;
	return f ? lists_waiting(f) : 0;
}

static bool step(struct vectors *v, struct model *m, uint64_t *version)
{
	static float x[300];
	uint32_t what = model_next() % 1000, i = model_next() % (model_next() % 2 ? IDS : 60);
	struct uuid id = model_id(i);
	if (what < 250) {
		vectors_remove(v, &id, UINT64_MAX);
		model_del(m, i);
		return true;
	}
	uint64_t ns = what < 900 ? 2 : 1 + what % 3;
	clustered(x, ns_dim[ns], what % 16, true);
	return put(v, m, i, ns, ++*version, ns_dim[ns], x, 0) == 0 || !vectors_complete(v, ns);
}

static void churn(uint64_t limit, enum vectors_raw raw, uint32_t rounds, bool full)
{
	struct model m;
	uint64_t version = 0;
	uint32_t by_lists = 0, refused = 0, waited = 0;
	int fd;
	struct vectors *v = open_low(limit, raw, &fd);
	model_init(&m, IDS);
	for (uint32_t round = 0; round < rounds; round++) {
		for (uint32_t i = 0, n = model_next() % 800; i < n; i++)
			assert_true(step(v, &m, &version));
		refused += !vectors_complete(v, 2);
		waited += waiting(v, 2) > 0;
		assert_true(waiting(v, 2) <= fresh);
		check_all(v, &m);
		for (uint32_t n = model_next() % 4; n && vectors_work(v); n--)
			;
		check_all(v, &m);
		by_lists += vectors_ns_find(v, 2) && vectors_ns_find(v, 2)->lists;
		if (model_next() % 4 == 0)
			reopen(&v, fd, raw);
		if (model_next() % 12 == 0)
			drop(v, &m, 1 + model_next() % 3);
		check_all(v, &m);
	}
	assert_true(by_lists > 0 && (!full || refused > 0) && (waited > 0) == (fresh > 0));
	for (uint64_t ns = 1; ns <= 3; ns++)
		drop(v, &m, ns);
	lists_reclaim(v, true);
	assert_int_equal(vectors_bytes(v), 0);
	close_all(&v, fd, &m);
}

static void test_churn(void **state)
{
	(void)state;
	churn(32 << 20, VECTORS_RAW_AUTO, 40, false);
	churn(32 << 20, VECTORS_RAW_FLOAT32, 20, false);
}

static void test_churn_at_the_limit(void **state)
{
	(void)state;
	churn(768 << 10, VECTORS_RAW_AUTO, 60, true);
}

/* Rows wait for their lists, are updated, removed and dropped while they do, and outlive the writer. */
static void test_churn_of_fresh_rows(void **state)
{
	(void)state;
	fresh = 300;
	churn(32 << 20, VECTORS_RAW_AUTO, 40, false);
	churn(32 << 20, VECTORS_RAW_FLOAT32, 20, false);
	churn(768 << 10, VECTORS_RAW_AUTO, 60, true);
	fresh = 0;
}

/* Half of the rows wait: what a search finds is the same. Then they are where they would have been put at once. */
static void check_fresh(uint32_t dim)
{
	static float x[1536];
	struct model m;
	int fd;
	struct vectors *v = open_low(32 << 20, VECTORS_RAW_AUTO, &fd);
	model_init(&m, ROWS);
	for (uint32_t i = 0; i < ROWS; i++) {
		if (i == ROWS * 5 / 8)
			work(v);
		clustered(x, dim, i % 16, true);
		assert_int_equal(put(v, &m, i, 1, 1, dim, x, 0), 0);
	}
	struct ivf *f = v->w->lists->of[0];
	assert_int_equal(lists_waiting(f), ROWS * 3 / 8);
	for (int metric = VECTORS_COSINE; metric <= VECTORS_L2; metric++)
		check_metric(v, &m, VECTORS_RAW_AUTO, dim, (enum vectors_metric)metric);
	for (uint32_t i = 0; i < 10; i++) { /* the first of them is the best for itself */
		struct vectors_hit hit;
		struct vectors_query q = {
			.ns = 1, .dim = dim, .x = m.e[ROWS - 1 - i].x, .k = 1, .min_score = -INFINITY};
		assert_int_equal(vectors_search(v, &q, &hit, NULL), 1);
		assert_int_equal(model_number(&hit.id), ROWS - 1 - i);
	}
	assert_true(lists_assign(v, 0, &go_on));
	assert_true(v->w->lists->of[0] == f && !lists_waiting(f) && !*lists_head(&f->view, lists_fresh(&f->view)));
	assert_int_equal(f->entries, ROWS);
	assert_int_equal(f->dead, 0);
	for (uint32_t i = 0; i < ROWS; i++) {
		float row[1536];
		struct vectors_shape s;
		struct lists_entry e;
		struct uuid id = model_id(i);
		uint32_t ref = vectors_map_find(v, &id), unit = 0;
		const struct vectors_chunk *c = &v->chunks[vectors_ref_chunk(ref)];
		vectors_form_rotated(v, vectors_own(v, c, &s), &s, c->dim, vectors_ref_row(ref), row);
		lists_encode(&f->view, row, &e);
		uint32_t at = *lists_place(v, v->w->lists->entries, ref);
		for (unit = at / LISTS_PER_UNIT; !v->w->lists->starts[unit - 1]; unit--)
			;
		assert_int_equal(lists_block(&f->view, unit)->list, e.list);
	}
	for (int metric = VECTORS_COSINE; metric <= VECTORS_L2; metric++)
		check_metric(v, &m, VECTORS_RAW_AUTO, dim, (enum vectors_metric)metric);
	close_all(&v, fd, &m);
}

static void test_fresh_rows(void **state)
{
	(void)state;
	fresh = ROWS;
	check_fresh(64);
	check_fresh(300);
	check_fresh(1536);
	fresh = 0;
}

/* No more than so many: the next ones are put into their lists at once. */
static void test_fresh_rows_are_few(void **state)
{
	(void)state;
	static float x[300];
	struct model m;
	int fd;
	fresh = 50;
	struct vectors *v = open_low(32 << 20, VECTORS_RAW_AUTO, &fd);
	model_init(&m, ROWS);
	for (uint32_t i = 0; i < ROWS; i++) {
		if (i == ROWS / 2)
			work(v);
		clustered(x, 300, i % 16, true);
		assert_int_equal(put(v, &m, i, 1, 1, 300, x, 0), 0);
	}
	assert_int_equal(waiting(v, 1), 50);
	for (int metric = VECTORS_COSINE; metric <= VECTORS_L2; metric++)
		check_metric(v, &m, VECTORS_RAW_AUTO, 300, (enum vectors_metric)metric);
	work(v);
	assert_int_equal(waiting(v, 1), 0);
	fresh = 0;
	close_all(&v, fd, &m);
}

/* ---- filters ---- */

enum { FILTERED = 9600 };

static void check_filter(struct vectors *v, const struct model *m, uint32_t one_in, float *x)
{
	static struct vectors_hit hits[FILTERED];
	struct vectors_trace trace;
	struct vectors_allow *a = vectors_allow_new(16);
	for (uint32_t i = 0; one_in && i < FILTERED; i += one_in) {
		struct uuid id = model_id(i);
		vectors_allow_add(a, &id);
	}
	struct vectors_query q = {.ns = 1, .dim = 64, .x = x, .min_score = -INFINITY, .allow = a, .trace = &trace};
	for (q.now_us = 0; q.now_us < 2000; q.now_us += 1500) {
		uint32_t want = matching(m, &q);
		for (q.k = 1; q.k <= 1000; q.k *= 10)
			assert_int_equal(search(v, m, &q, VECTORS_RAW_FLOAT32, hits), want < q.k ? want : q.k);
		assert_int_equal(trace.lists > 0, one_in == 1 || one_in == 2);
		q.k = FILTERED;
		assert_int_equal(search(v, m, &q, VECTORS_RAW_FLOAT32, hits), want);
		/* a limit in the middle: exactly those above it, when all lists are read */
		q.min_score = want ? hits[want / 2].score : 0;
		q.probes = MANY;
		assert_in_range(search(v, m, &q, VECTORS_RAW_FLOAT32, hits), want / 2, want);
		q.min_score = -INFINITY;
		q.probes = 0;
	}
	vectors_allow_free(&a);
}

static void test_filters(void **state)
{
	(void)state;
	static const uint32_t one_in[] = {1, 2, 20, 200, FILTERED, 0};
	float x[64];
	struct model m;
	int fd;
	struct vectors *v = open_low(16 << 20, VECTORS_RAW_FLOAT32, &fd);
	model_init(&m, FILTERED);
	for (uint32_t i = 0; i < FILTERED; i++) {
		clustered(x, 64, i % 32, false);
		assert_int_equal(put(v, &m, i, 1, 1, 64, x, i % 7 == 0 ? 1000 : 0), 0);
	}
	work(v);
	clustered(x, 64, 3, false);
	for (size_t i = 0; i < ARRAY_LEN(one_in); i++)
		check_filter(v, &m, one_in[i], x);
	close_all(&v, fd, &m);
}

/* ---- memory, the background ---- */

static uint32_t fill_up(struct vectors *v, uint64_t ns)
{
	float x[300];
	uint32_t n = 0;
	for (;; n++) {
		struct uuid id = model_id(n);
		clustered(x, 300, n % 16, false);
		if (vectors_insert(v, ns, &id, 1, 0, 300, x))
			return n;
	}
}

static void test_no_block_is_lost(void **state)
{
	(void)state;
	LONG_FOR_THREADS();
	int fd;
	float x[300];
	struct vectors *v = open_low(2 << 20, VECTORS_RAW_INT8, &fd);
	uint32_t room = fill_up(v, 9);
	vectors_drop(v, 9);
	assert_int_equal(vectors_bytes(v), 0);
	for (uint32_t cycle = 0; cycle < 50; cycle++) {
		for (uint32_t i = 0; i < 320; i++) {
			struct uuid id = model_id(i);
			clustered(x, 300, i % 16, false);
			assert_int_equal(vectors_insert(v, 1, &id, 1, 0, 300, x), 0);
		}
		work(v);
		assert_true(vectors_ns_find(v, 1)->lists);
		for (uint32_t i = 0; i < 320; i += 1 + cycle % 3) {
			struct uuid id = model_id(i);
			vectors_remove(v, &id, 1);
		}
		vectors_drop(v, 1);
		lists_reclaim(v, true);
		assert_int_equal(vectors_bytes(v), 0);
	}
	uint32_t again = fill_up(v, 9);
	assert_in_range(again, room - room / 50, room + room / 50);
	close_all(&v, fd, NULL);
}

static void fill(struct vectors *v, struct model *m, uint32_t from, uint32_t to, uint32_t dim)
{
	static float x[1536];
	for (uint32_t i = from; i < to; i++) {
		clustered(x, dim, i % 16, false);
		assert_int_equal(put(v, m, i, 1, 1, dim, x, 0), 0);
	}
}

/* Rows stay, their lists go: recovery does that when there is no room for entries. Their next death finds none. */
static void test_rows_without_lists(void **state)
{
	(void)state;
	struct model m;
	int fd;
	struct vectors *v = open_low(8 << 20, VECTORS_RAW_FLOAT32, &fd);
	model_init(&m, 640);
	fill(v, &m, 0, 640, 64);
	work(v);
	lists_drop(v, 0);
	for (uint32_t i = 0; i < 640; i++) {
		struct uuid id = model_id(i);
		vectors_remove(v, &id, 1);
	}
	assert_int_equal(vectors_count(v, 0), 0);
	close_all(&v, fd, &m);
}

/* Rows of two dimensions: compaction does not bring the older ones into their later form. */
static void test_two_dimensions(void **state)
{
	(void)state;
	static struct vectors_hit hits[640];
	static float x[500];
	struct model m;
	int fd;
	struct vectors *v = model_open(16 << 20, &fd);
	model_init(&m, 640);
	fill(v, &m, 0, 320, 300);
	vectors_stages_set(v, &(struct vectors_stages){.flat_rows = 200});
	fill(v, &m, 320, 640, 500);
	work(v);
	clustered(x, 500, 1, false);
	for (uint32_t dim = 300; dim <= 500; dim += 200) {
		struct vectors_trace trace;
		struct vectors_query q = {
			.ns = 1, .dim = dim, .x = x, .k = 640, .min_score = -INFINITY, .trace = &trace};
		assert_int_equal(search(v, &m, &q, VECTORS_RAW_INT8, hits), 320);
		assert_int_equal(trace.lists > 0, dim == 500); /* of the younger ones */
	}
	close_all(&v, fd, &m);
}

static uint32_t chunks_with(const struct vectors *v, uint32_t flags)
{
	uint32_t n = 0;
	for (uint32_t i = 0; i < v->super->used; i++)
		n += v->chunks[i].ns && (v->chunks[i].form & ~(uint32_t)VECTORS_BYTES) == flags;
	return n;
}

/* Chunks get room for expiries, long versions and norms when the first row comes that has one, and rows before and after
 * keep what they had, through compaction and a restart. */
static void test_what_rows_need(void **state)
{
	(void)state;
	static struct vectors_hit hits[700];
	static float x[300], ask[300];
	struct model m;
	int fd;
	struct vectors *v = open_low(16 << 20, VECTORS_RAW_INT8, &fd);
	model_init(&m, 700);
	clustered(ask, 300, 3, false);
	for (uint32_t i = 0; i < 660; i++) {
		clustered(x, 300, i % 16, false);
		double norm = i == 500	 ? 0.2
			      : i >= 640 ? 1 + i * 1e-3
					 : 1 + (i % 5) * 1e-7,
		       factor = norm / length(x, 300);
		for (uint32_t k = 0; k < 300; k++)
			x[k] = (float)(x[k] * factor);
		uint64_t version = i == 400 ? 7ull << 40 : i + 1;
		assert_int_equal(put(v, &m, i, 1, version, 300, x, i == 300 ? 5000 : 0), 0);
		work(v);
		if (i == 299)
			assert_int_equal(chunks_with(v, VECTORS_WIDE) + chunks_with(v, VECTORS_NORMS), 0);
		if (i == 499)
			assert_true(chunks_with(v, 0) && chunks_with(v, VECTORS_WIDE) &&
				    !chunks_with(v, VECTORS_WIDE | VECTORS_NORMS));
	}
	assert_true(chunks_with(v, 0) && chunks_with(v, VECTORS_WIDE) && chunks_with(v, VECTORS_WIDE | VECTORS_NORMS));
	for (uint32_t round = 0; round < 3; round++) {
		for (uint32_t i = 0; round == 1 && i < 640;
		     i += i % 3 ? 1 : 2) { /* half of each chunk: it is compacted */
			struct uuid id = model_id(i);
			bool keep = i % 100 == 0;
			if (keep)
				continue;
			vectors_remove(v, &id, UINT64_MAX);
			model_del(&m, i);
		}
		work(v);
		if (round == 2)
			reopen(&v, fd, VECTORS_RAW_INT8);
		for (enum vectors_metric metric = VECTORS_COSINE; metric <= VECTORS_L2; metric++)
			for (int64_t now = 4000; now <= 6000; now += 2000) {
				struct vectors_query q = {.ns = 1,
							  .dim = 300,
							  .x = ask,
							  .k = 700,
							  .metric = metric,
							  .now_us = now,
							  .min_score = -INFINITY,
							  .exact = now == 4000 && round};
				assert_int_equal(search(v, &m, &q, VECTORS_RAW_INT8, hits), matching(&m, &q));
			}
		struct uuid id = model_id(400);
		assert_int_equal(vectors_version(v, &id), 7ull << 40);
	}
	close_all(&v, fd, &m);
}

static void test_due(void **state)
{
	(void)state;
	struct vectors_trace trace;
	float x[64];
	struct vectors_hit hits[10];
	struct model m;
	int fd;
	struct vectors *v = open_low(8 << 20, VECTORS_RAW_FLOAT32, &fd);
	model_init(&m, 4000);
	assert_false(vectors_work_due(v));
	assert_false(vectors_work(v));
	fill(v, &m, 0, 128, 64);
	assert_true(vectors_work_due(v));
	work(v);
	assert_false(vectors_work_due(v));
	clustered(x, 64, 1, false);
	struct vectors_query q = {.ns = 1, .dim = 64, .x = x, .k = 10, .min_score = -INFINITY, .trace = &trace};
	assert_int_equal(vectors_search(v, &q, hits, NULL), 10);
	assert_int_equal(trace.lists, 1);
	for (uint32_t i = 0; i < 60; i++) { /* much is lost, and nothing comes: the list is written anew */
		struct uuid id = model_id(i);
		vectors_remove(v, &id, 1);
	}
	assert_true(vectors_work_due(v));
	work(v);
	assert_int_equal(v->w->lists->of[0]->dead, 0);
	fill(v, &m, 128, 660, 64); /* more than twice as many, and more than one list is for */
	assert_true(vectors_work_due(v));
	work(v);
	assert_int_equal(vectors_search(v, &q, hits, NULL), 10);
	assert_true(trace.lists > 1);
	lists_reclaim(v, true);
	assert_false(vectors_work(v));
	assert_false(vectors_work_due(v));
	for (uint32_t i = 60; i < 610; i++) {
		struct uuid id = model_id(i);
		vectors_remove(v, &id, 1);
	}
	q.ns = 77; /* nobody has that */
	trace.lists = 99;
	assert_int_equal(vectors_search(v, &q, hits, NULL), 0);
	assert_int_equal(trace.lists, 0);
	q.ns = 1;
	q.k = SIZE_MAX / 2; /* more than there can be */
	struct vectors_hit many[64];
	assert_int_equal(vectors_search(v, &q, many, NULL), 50);
	close_all(&v, fd, &m);
}

static void *working(void *arg)
{
	struct vectors *v = arg;
	while (vectors_work(v))
		;
	return NULL;
}

/* At whatever moment it comes: the piece ends, and the index is as good as before. */
static void test_stop(void **state)
{
	(void)state;
	static struct vectors_hit hits[2000];
	static float x[512];
	struct model m;
	model_init(&m, 1600);
	for (uint32_t n = 0; n < 6; n++) {
		int fd;
		pthread_t thread;
		struct vectors *v = open_low(16 << 20, VECTORS_RAW_INT8, &fd);
		for (uint32_t i = 0; i < 1600; i++)
			model_del(&m, i);
		fill(v, &m, 0, 1600, 512);
		assert_int_equal(pthread_create(&thread, NULL, working, v), 0);
		usleep(n * n * 3000);
		vectors_work_stop(v);
		pthread_join(thread, NULL);
		assert_false(vectors_work(v));
		struct vectors_query q = {.ns = 1, .dim = 512, .x = x, .k = 2000, .min_score = -INFINITY};
		clustered(x, 512, 1, false);
		assert_int_equal(search(v, &m, &q, VECTORS_RAW_INT8, hits), 1600);
		vectors_drop(v, 1);
		lists_reclaim(v, true);
		assert_int_equal(vectors_bytes(v), 0);
		close_all(&v, fd, NULL);
	}
	model_end(&m);
}

/* ---- clustering ---- */

static bool pressed(const void *arg)
{
	++*(unsigned *)(uintptr_t)arg;
	return true;
}

static void test_kmeans_finds(void **state)
{
	(void)state;
	enum { N = 800, W = 256, K = 8 };
	static int8_t rows[N * W];
	static float first[K * W], second[K * W];
	for (uint32_t i = 0; i < N; i++)
		for (uint32_t j = 0; j < W; j++)
			rows[i * W + j] = (int8_t)(((i % K * 37 + j * 11) % 7 < 3 ? 60 : -60) +
						   (int)(model_next() % 9) - 4);
	assert_true(kmeans(rows, N, W, K, first, &go_on));
	assert_true(kmeans(rows, N, W, K, second, &go_on));
	assert_memory_equal(first, second, sizeof(first));
	double off = 0; /* of a row from its centroid, per component */
	for (uint32_t i = 0; i < N; i++) {
		double best = INFINITY;
		for (uint32_t c = 0; c < K; c++) {
			double sum = 0;
			for (uint32_t j = 0; j < W; j++)
				sum += pow(first[c * W + j] - rows[i * W + j], 2);
			best = sum < best ? sum : best;
		}
		off += sqrt(best / W) / N;
	}
	if (off > 20) /* the noise is 2.6; Lloyd's may merge two of eight, not more */
		fail_msg("rows are %.1f away from their centroids", off);
	struct turn stop = {.stop = true};
	assert_false(kmeans(rows, N, W, K, first, &stop));
	/* With rests it comes to the same. */
	unsigned asked = 0;
	struct turn resting = {.pressed = pressed, .arg = &asked};
	turn_begin(&resting);
	assert_true(kmeans(rows, N, W, K, first, &resting) && asked);
	assert_memory_equal(first, second, K * W * sizeof(*first));
}

static void test_kmeans_degenerate(void **state)
{
	(void)state;
	enum { N = 130, W = 64 };
	static int8_t rows[N * W];
	static float out[N * W];
	for (uint32_t what = 0; what < 3; what++) {
		for (uint32_t i = 0; i < N * W; i++)
			rows[i] = what == 0 ? 0 : what == 1 ? (int8_t)(i % W) : (int8_t)model_next();
		for (uint32_t k = 1; k <= N; k += k < 4 ? 1 : 63) {
			assert_true(kmeans(rows, N, W, k, out, &go_on));
			for (uint32_t i = 0; i < k * W; i++) {
				assert_true(isfinite(out[i]) && fabsf(out[i]) <= 128);
				if (what < 2)
					assert_true(fabsf(out[i] - rows[i % W]) < 1e-3F);
			}
		}
	}
}

/* A namespace of few rows comes to rest, too: a quarter of them is none. */
static void test_few_rows(void **state)
{
	(void)state;
	float x[300];
	for (uint32_t n = 1; n < 6; n++) {
		int fd;
		struct vectors *v = model_open(16 << 20, &fd);
		vectors_stages_set(v, &(struct vectors_stages){.flat_rows = 64});
		for (uint32_t i = 0; i < n; i++) {
			struct uuid id = model_id(i);
			clustered(x, 300, i, false);
			assert_int_equal(vectors_insert(v, 1, &id, 1, 0, 300, x), 0);
			work(v);
		}
		close_all(&v, fd, NULL);
	}
}

/* Blocks of any width hold what they say, backs begin at a line, and no entry more would fit. */
static void test_blocks_are_full(void **state)
{
	(void)state;
	for (uint32_t width = 64; width <= LIMIT_DIMENSIONS; width += 64) {
		uint32_t kind = width < LISTS_BITS_FROM ? LISTS_BYTES : LISTS_BITS;
		struct lists_view w = {.width = width, .kind = kind, .code_bytes = lists_code_bytes(width, kind)};
		w.front_bytes = lists_front_bytes(w.code_bytes, kind);
		assert_true(w.front_bytes <= w.code_bytes && w.front_bytes % 8 == 0);
		for (uint32_t units = 1; units < 200; units++) {
			uint32_t n = lists_capacity(&w, units);
			assert_true(lists_block_bytes(&w, n) <= (size_t)VECTORS_UNIT * units);
			assert_true(lists_block_bytes(&w, n + 1) > (size_t)VECTORS_UNIT * units);
			assert_true(lists_backs(&w, n) % CACHE_LINE == 0);
			assert_true(lists_backs(&w, n) >= sizeof(struct block) + (size_t)n * (w.front_bytes + 8));
			assert_true(!n || lists_units(&w, n) <= units);
			assert_true(lists_units(&w, n + 1) > units);
		}
	}
}

/* Many lists, whose codes have fronts and backs or fronts alone: what all of them would find, the learned margins and
 * slacks find, too, of fewer codes. */
static void test_fronts_lose_little(void **state)
{
	(void)state;
	LONG_FOR_THREADS();
	enum { N = 3000, TOPICS = 150, QUESTIONS = 40 };
	static const uint32_t dims[] = {320, 768, 1536};
	static float x[1536];
	for (size_t d = 0; d < ARRAY_LEN(dims); d++) {
		struct model m;
		int fd;
		struct vectors *v = open_low(64 << 20, VECTORS_RAW_AUTO, &fd);
		model_init(&m, N);
		for (uint32_t i = 0; i < N; i++) {
			clustered(x, dims[d], i % TOPICS, false);
			assert_int_equal(put(v, &m, i, 1, 1, dims[d], x, 0), 0);
		}
		work(v);
		struct vectors_trace trace;
		struct vectors_query q = {
			.ns = 1, .dim = dims[d], .x = x, .k = 10, .min_score = -INFINITY, .trace = &trace};
		uint32_t whole = 0, quick = 0;
		for (uint32_t i = 0; i < QUESTIONS; i++) {
			clustered(x, dims[d], i, false);
			q.recall = 0.999F;
			q.probes = MANY;
			whole += agreeing(v, &m, &q, VECTORS_RAW_AUTO);
			assert_true(trace.lists >= 64 && trace.codes >= N);
			q.recall = 0.98F;
			q.probes = 0;
			quick += agreeing(v, &m, &q, VECTORS_RAW_AUTO);
			assert_true(trace.probed >= 1 && trace.probed <= trace.lists);
		}
		if (whole < QUESTIONS * 10 * 99 / 100 || quick < QUESTIONS * 10 * 95 / 100)
			fail_msg("%u dimensions: %u and %u of %d", dims[d], whole, quick, QUESTIONS * 10);
		close_all(&v, fd, &m);
	}
}

int main(int argc, char **argv)
{
	/* clang-format off */
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_raws),	    cmocka_unit_test(test_zero_rows_by_distance),
	    cmocka_unit_test(test_churn),	    cmocka_unit_test(test_churn_at_the_limit),
	    cmocka_unit_test(test_filters),	    cmocka_unit_test(test_no_block_is_lost),
	    cmocka_unit_test(test_rows_without_lists), cmocka_unit_test(test_two_dimensions),
	    cmocka_unit_test(test_due),		    cmocka_unit_test(test_stop),
	    cmocka_unit_test(test_kmeans_finds),    cmocka_unit_test(test_kmeans_degenerate),
	    cmocka_unit_test(test_churn_of_fresh_rows), cmocka_unit_test(test_fresh_rows),
	    cmocka_unit_test(test_fresh_rows_are_few),
	    cmocka_unit_test(test_few_rows),	    cmocka_unit_test(test_what_rows_need),
	    cmocka_unit_test(test_blocks_are_full), cmocka_unit_test(test_fronts_lose_little),
	};
	/* clang-format on */
	cmocka_set_test_filter(argc > 1 ? argv[1] : NULL);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
