/* What the tests of the vector index share: a plain list of entries, searched by brute force in
 * double, against which every answer is compared. */
#ifndef VECTORS_MODEL_H
#define VECTORS_MODEL_H
#include "index/vectors.h"
#include "model.h"

/* Of one thread alone there is nothing to find for the thread sanitizer, under which these take minutes. */
#ifdef __SANITIZE_THREAD__
#define LONG_FOR_THREADS() skip()
#else
#define LONG_FOR_THREADS() ((void)0)
#endif

static inline float model_float(void) { return (float)model_next() / (float)UINT32_MAX * 2 - 1; }

struct model_entry {
	uint64_t ns, version; /* version 0: not there */
	int64_t expires_us;
	uint32_t dim;
	float *x;
};
struct model {
	struct model_entry *e; /* by id number */
	uint32_t n;
};

static inline void model_put(struct model *m, uint32_t id, uint64_t ns, uint64_t version, int64_t expires_us,
			     uint32_t dim, const float *x)
{
	struct model_entry *e = &m->e[id];
	assert_true(id < m->n);
	if (e->version >= version)
		return;
	free(e->x);
	*e = (struct model_entry){ns, version, expires_us, dim, malloc(dim * sizeof(float))};
	memcpy(e->x, x, dim * sizeof(float));
}

static inline void model_del(struct model *m, uint32_t id)
{
	free(m->e[id].x);
	m->e[id] = (struct model_entry){0};
}

static inline void model_init(struct model *m, uint32_t n)
{
	m->n = n;
	m->e = calloc(n, sizeof(*m->e));
}

static inline void model_end(struct model *m)
{
	for (uint32_t i = 0; i < m->n; i++)
		free(m->e[i].x);
	free(m->e);
}

static inline double model_score(const struct vectors_query *q, const float *x)
{
	double dot = 0, qq = 0, xx = 0, l2 = 0;
	for (uint32_t i = 0; i < q->dim; i++) {
		double a = q->x[i], b = x[i];
		dot += a * b;
		qq += a * a;
		xx += b * b;
		l2 += (a - b) * (a - b);
	}
	if (q->metric == VECTORS_DOT)
		return dot;
	if (q->metric == VECTORS_L2)
		return -l2;
	return qq > 0 && xx > 0 ? dot / sqrt(qq) / sqrt(xx) : 0;
}

/* What an error of rounding may amount to. */
static inline double model_slack(const struct vectors_query *q, const float *x)
{
	double qq = 0, xx = 0;
	for (uint32_t i = 0; i < q->dim; i++) {
		qq += (double)q->x[i] * q->x[i];
		xx += (double)x[i] * x[i];
	}
	return q->metric == VECTORS_COSINE ? 2e-6
	       : q->metric == VECTORS_DOT  ? 2e-6 * sqrt(qq) * sqrt(xx)
					   : 4e-6 * (qq + xx);
}

static inline bool model_matches(const struct model_entry *e, const struct vectors_query *q, const struct uuid *id)
{
	return e->version && e->ns == q->ns && e->dim == q->dim && (!e->expires_us || e->expires_us > q->now_us) &&
	       (!q->allow || vectors_allow_has(q->allow, id));
}

static inline int model_descending(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x < y) - (x > y);
}

/* Searches both and compares: each hit is a live entry with its right version and score, none
 * comes twice, the order is right, and rank by rank the score is what brute force found (ids may
 * differ where scores are equal but for rounding). */
static inline void model_check(const struct model *m, struct vectors *v, const struct vectors_query *q)
{
	double *want = malloc((m->n + 1) * sizeof(*want)), worst_slack = 0;
	struct vectors_hit *hits = malloc((q->k + 1) * sizeof(*hits));
	size_t n = 0, matching = 0, scanned;
	uint8_t *seen = calloc(m->n, 1);
	for (uint32_t i = 0; i < m->n; i++) {
		struct uuid id = model_id(i);
		if (!model_matches(&m->e[i], q, &id))
			continue;
		matching++;
		double s = model_score(q, m->e[i].x), slack = model_slack(q, m->e[i].x);
		worst_slack = slack > worst_slack ? slack : worst_slack;
		if (s >= q->min_score)
			want[n++] = s;
	}
	qsort(want, n, sizeof(*want), model_descending);
	size_t got = vectors_search(v, q, hits, &scanned);
	if (scanned != matching)
		fail_msg("%zu rows compared instead of %zu", scanned, matching);
	if (got != (n < q->k ? n : q->k) && !isfinite(q->min_score))
		fail_msg("%zu hits instead of %zu of %zu", got, q->k, n);
	for (size_t i = 0; i < got; i++) {
		uint32_t id = model_number(&hits[i].id);
		assert_true(id < m->n && !seen[id]++);
		assert_true(model_matches(&m->e[id], q, &hits[i].id));
		assert_int_equal(hits[i].version, m->e[id].version);
		double s = model_score(q, m->e[id].x);
		if (!(fabs(hits[i].score - s) <= model_slack(q, m->e[id].x)))
			fail_msg("score %.9g instead of %.9g", (double)hits[i].score, s);
		if (!(fabs(s - want[i]) <= 2 * worst_slack))
			fail_msg("rank %zu: %.9g instead of %.9g", i, s, want[i]);
		if (i)
			assert_true(hits[i].score < hits[i - 1].score ||
				    (hits[i].score == hits[i - 1].score && uuid_cmp(&hits[i].id, &hits[i - 1].id) > 0));
	}
	free(want);
	free(hits);
	free(seen);
}

/* Where files of rows are: a disk that others use makes minutes of seconds. */
static inline const char *model_folder(void) { return access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "."; }

/* ---- opening ----
 * With MODEL_FILE, of so many bytes, every index has a file, where its rows go first: the tests are the same. */
#ifdef MODEL_FILE
static int model_files[4096], model_newest; /* by the segment's descriptor, + 1 */

static inline int *model_file(int fd) { return &model_files[fd & 4095]; }

static inline void model_new_file(int fd)
{
	if (*model_file(fd))
		close(*model_file(fd) - 1);
	*model_file(fd) = shm_create_file(model_folder(), MODEL_FILE) + 1;
	assert_true(*model_file(fd) > 0);
}

/* The segment `copy` is one of the newest index: it gets its file as it is now. */
static inline void model_copied(int copy)
{
	loff_t from = 0, to = 0;
	model_new_file(copy);
	while (from < (loff_t)(MODEL_FILE) &&
	       copy_file_range(*model_file(model_newest) - 1, &from, *model_file(copy) - 1, &to,
			       (size_t)((loff_t)(MODEL_FILE)-from), 0) > 0)
		;
	assert_int_equal(from, MODEL_FILE);
}

static inline void model_stages(struct vectors *v, const struct vectors_stages *stages)
{
	struct vectors_stages mine = *stages;
	mine.spill_first = true;
	vectors_stages_set(v, &mine);
}

static inline struct vectors *model_reopen(int fd, bool writer)
{
	struct vectors *v = vectors_open_spilled(fd, fd < 0 ? -1 : *model_file(fd) - 1, writer);
	if (v && writer)
		model_stages(v, &(struct vectors_stages){.exact_bytes = 16u << 20, .flat_rows = 16384});
	return v;
}
#define vectors_open(fd, writer) model_reopen(fd, writer)
#define vectors_stages_set(v, ...) model_stages(v, __VA_ARGS__)
#else
static inline void model_copied(int copy) { (void)copy; }
#endif

/* A fresh index; *fd_r stays open. */
static inline struct vectors *model_open(uint64_t max_bytes, int *fd_r)
{
	*fd_r = shm_create("test-vectors", vectors_segment_size(max_bytes));
	assert_true(*fd_r >= 0);
#ifdef MODEL_FILE
	model_new_file(*fd_r);
	model_newest = *fd_r;
#endif
	struct vectors *v = vectors_open(*fd_r, true);
	assert_non_null(v);
	return v;
}
#endif
