/* The vector index, its writer killed at EVERY instruction: the writer runs one operation under
 * ptrace, a step at a time; whenever a step changed the shared memory, a copy of that memory is what
 * a kill would leave. The copy is searched as it is (readers go on without a writer), then
 * recovered, verified, used and emptied.
 * And interleavings that chance seldom finds: the writer acts in the middle of a search.
 * Each with rows alone and with lists of codes. */
#include <malloc.h>
#if defined(__x86_64__)
#include <sys/user.h>
#endif

#include "index/kmeans.h"
#include "index/lists-private.h"
#include "vectors_model.h"
#include "step.h"

enum { DIM = 12, IDS = 120, LIMIT = 1 << 20, LISTED = 100 };
#ifndef EVERY
#define EVERY 1 /* state is judged */
#endif

static struct vectors_stages early = {.flat_rows = 40, .raw = VECTORS_RAW_FLOAT32, .fresh_first = true};

/* Not by sinf(): most of the steps would be its own. */
static void vector_of(uint32_t id, uint64_t version, float x[DIM])
{
	for (uint32_t i = 0; i < DIM; i++)
		x[i] = (float)(int32_t)(((id * 31 + i * 7) * 37 + (uint32_t)version * 59) * 2654435761u) / 0x1p31F +
		       0.01F;
}

static int insert(struct vectors *v, uint64_t ns, uint32_t id, uint64_t version)
{
	float x[DIM];
	struct uuid u = model_id(id);
	vector_of(id, version, x);
	return vectors_insert(v, ns, &u, version, 0, DIM, x);
}

static void remove_id(struct vectors *v, uint32_t id)
{
	struct uuid u = model_id(id);
	vectors_remove(v, &u, UINT64_MAX);
}

/* What may be found in namespace 1: per id the lowest and the highest version; low 0: may be absent. */
struct expect {
	uint64_t low[IDS], high[IDS];
	bool lists; /* the search must go by lists */
};

static void verify(struct vectors *v, const struct expect *e, const char *who)
{
	struct vectors_hit hits[2 * IDS];
	float q[DIM], x[DIM];
	uint64_t found[IDS] = {0};
	vector_of(5, 99, q);
	struct vectors_trace trace = {0};
	struct vectors_query query = {.ns = 1,
				      .dim = DIM,
				      .x = q,
				      .k = 2 * IDS,
				      .metric = VECTORS_COSINE,
				      .allow = NULL,
				      .now_us = 0,
				      .min_score = -INFINITY,
				      .trace = &trace};
	/* By lists alone, which falls back to nothing when something is missing. */
	if (e->lists)
		query.probes = LISTS_MAX;
	size_t n = vectors_search(v, &query, hits, NULL);
	if (e->lists && !trace.lists)
		fail_msg("%s: lists are not used", who);
	for (size_t i = 0; i < n; i++) {
		uint32_t id = model_number(&hits[i].id);
		if (id >= IDS || found[id])
			fail_msg("%s: %u is a stranger or there twice", who, id);
		found[id] = hits[i].version;
		vector_of(id, hits[i].version, x);
		if (fabs(model_score(&query, x) - hits[i].score) > 1e-5)
			fail_msg("%s: %u has a wrong score", who, id);
	}
	for (uint32_t id = 0; id < IDS; id++) {
		if (found[id] ? found[id] < e->low[id] || found[id] > e->high[id] : e->low[id])
			fail_msg("%s: version of %u is %llu", who, id, (unsigned long long)found[id]);
		if (v->w) {
			struct uuid u = model_id(id);
			uint64_t version = vectors_version(v, &u);
			/* ids of namespace 1 only */
			if (e->high[id] && version != found[id])
				fail_msg("%s: the map says %llu of %u, the search %llu", who,
					 (unsigned long long)version, id, (unsigned long long)found[id]);
		}
	}
	if (v->w)
		assert_int_equal(vectors_count(v, 1), n);
}

static void judge(const struct step_test *t, const char *segment)
{
	const struct expect *e = t->arg;
	int fd = step_copy(t, segment);
	model_copied(fd);
	struct vectors *reader = vectors_open(fd, false);
	assert_non_null(reader);
	verify(reader, e, "reader of a dead writer");
	struct vectors *v = vectors_open(fd, true);
	assert_non_null(v);
	verify(v, e, "recovered");
	verify(reader, e, "reader after recovery");
	struct expect after = *e;
	assert_int_equal(insert(v, 1, IDS - 1, 999), 0); /* the very next row is seen */
	after.low[IDS - 1] = after.high[IDS - 1] = 999;
	verify(reader, &after, "first write after recovery");
	for (uint32_t id = 0; id < IDS; id++) { /* in use again: moves and new chunks collide with nothing */
		after.low[id] = after.high[id] = 1000;
		assert_int_equal(insert(v, 1, id, 1000), 0);
	}
	verify(reader, &after, "written on");
	vectors_drop(v, 1);
	vectors_drop(v, 2);
	lists_reclaim(v, true);
	assert_int_equal(vectors_bytes(v), 0);
	assert_int_equal(vectors_count(v, 0), 0);
	vectors_close(&reader);
	vectors_close(&v);
	close(fd);
}

typedef void operation(struct vectors *v);
static bool listed; /* the namespace is to have lists */

static void child(int fd, operation *op)
{
	struct vectors *v = op ? vectors_open(fd, true) : NULL;
	if (op && listed)
		vectors_stages_set(v, &early);
	step_begin();
	if (op)
		op(v);
	else
		v = vectors_open(fd, true);
	_exit(0);
}

/* What takes millions of instructions and touches nothing shared but lists that nobody sees runs at full speed. */
static void run_over(pid_t pid)
{
#if defined(__x86_64__)
	static void *const over[] = {(void *)(uintptr_t)kmeans, (void *)(uintptr_t)lists_learn,
				     (void *)(uintptr_t)rotate, (void *)(uintptr_t)lists_encode};
	struct user_regs_struct regs;
	bool known = false;
	int status;
	assert_int_equal(ptrace(PTRACE_GETREGS, pid, NULL, &regs), 0);
	for (size_t i = 0; i < ARRAY_LEN(over); i++)
		known |= regs.rip == (uintptr_t)over[i];
	if (!known)
		return;
	/* to where it returns, by a breakpoint there */
	void *back = (void *)(uintptr_t)ptrace(PTRACE_PEEKTEXT, pid, (void *)(uintptr_t)regs.rsp, NULL);
	long code = ptrace(PTRACE_PEEKTEXT, pid, back, NULL);
	assert_int_equal(ptrace(PTRACE_POKETEXT, pid, back, (void *)((code & ~0xffL) | 0xcc)), 0);
	assert_int_equal(ptrace(PTRACE_CONT, pid, NULL, NULL), 0);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSTOPPED(status) && WSTOPSIG(status) == SIGTRAP);
	assert_int_equal(ptrace(PTRACE_POKETEXT, pid, back, (void *)code), 0);
	assert_int_equal(ptrace(PTRACE_GETREGS, pid, NULL, &regs), 0);
	regs.rip = (uintptr_t)back;
	assert_int_equal(ptrace(PTRACE_SETREGS, pid, NULL, &regs), 0);
#else
	(void)pid;
#endif
}

/* `op` NULL: recovery itself is what gets killed. */
static void each_step(int fd, operation *op, const struct expect *e)
{
	static const struct step_part parts[] = {{0, 512, true},
						 /* only two namespaces are made; their slots suffice */
						 {VECTORS_OFF_SLOTS, sizeof(uint32_t) * VECTORS_SLOTS, false},
						 {VECTORS_OFF_NS, 64 * 16, true},
						 {VECTORS_OFF_KEYS, 8 * 64, true},
						 {VECTORS_OFF_CHUNKS, 64 * 64, true},
						 {VECTORS_OFF_DATA, 384 << 10, true}};
	const struct step_test t = {vectors_segment_size(LIMIT), parts, ARRAY_LEN(parts), judge, run_over, EVERY, e};
	step_wanted();
	step_together();
	pid_t pid = fork();
	if (!pid)
		child(fd, op);
	step_run(&t, pid, fd);
}

static void fill(struct vectors *v, uint64_t ns, uint32_t from, uint32_t to, uint64_t version)
{
	for (uint32_t id = from; id < to; id++)
		assert_int_equal(insert(v, ns, id, version), 0);
}

static void expect_range(struct expect *e, uint32_t from, uint32_t to, uint64_t low, uint64_t high)
{
	for (uint32_t id = from; id < to; id++) {
		e->low[id] = low;
		e->high[id] = high;
	}
}

static struct vectors *start(int *fd_r, struct expect *e)
{
	memset(e, 0, sizeof(*e));
	return model_open(LIMIT, fd_r);
}

static void run(struct vectors *v, int fd, operation *op, const struct expect *e)
{
	vectors_close(&v);
	each_step(fd, op, e);
	close(fd);
}

static void op_first(struct vectors *v) { AN(insert(v, 1, 0, 1) == 0); }

static void test_first_insert(void **state)
{
	(void)state;
	struct expect e;
	int fd;
	struct vectors *v = start(&fd, &e);
	expect_range(&e, 0, 1, 0, 1);
	run(v, fd, op_first, &e);
}

static void op_update(struct vectors *v) { AN(insert(v, 1, 3, 2) == 0); }

static void test_update(void **state)
{
	(void)state;
	struct expect e;
	int fd;
	struct vectors *v = start(&fd, &e);
	fill(v, 1, 0, 10, 1);
	expect_range(&e, 0, 10, 1, 1);
	e.high[3] = 2;
	run(v, fd, op_update, &e);
}

/* Fills chunk after chunk with updates of the same ids: chunks die, are given back and taken
 * again, also by the other namespace, and the last rows of old ones are moved by compaction. */
static void op_turnover(struct vectors *v)
{
	for (uint64_t version = 2; version < 9; version++) {
		for (uint32_t id = 0; id < 6; id++)
			AN(insert(v, 1, id, version) == 0);
		AN(insert(v, 2, 1000 + (uint32_t)version, 1) == 0);
		if (version == 5)
			vectors_drop(v, 2);
		remove_id(v, 60 + (uint32_t)version);
	}
}

static void test_turnover(void **state)
{
	(void)state;
	struct expect e;
	int fd;
	struct vectors *v = start(&fd, &e);
	fill(v, 2, 1000, 1030, 1);
	fill(v, 1, 0, 80, 1);
	expect_range(&e, 0, 80, 1, 1);
	expect_range(&e, 0, 6, 1, 8);
	expect_range(&e, 62, 69, 0, 1);
	run(v, fd, op_turnover, &e);
}

static void op_drop(struct vectors *v) { vectors_drop(v, 1); }

static void test_drop(void **state)
{
	(void)state;
	struct expect e;
	int fd;
	struct vectors *v = start(&fd, &e);
	fill(v, 2, 1000, 1030, 1);
	fill(v, 1, 0, IDS, 1);
	expect_range(&e, 0, IDS, 0, 1);
	run(v, fd, op_drop, &e);
}

/* Makes what only a kill between two stores leaves, then kills recovery as well. */
static void test_recovery(void **state)
{
	(void)state;
	struct expect e;
	int fd;
	struct vectors *v = start(&fd, &e);
	fill(v, 1, 0, 100, 1);
	fill(v, 1, 0, 3, 2);
	for (uint32_t i = 0; i < 3; i++) { /* updated, the old row not yet dead */
		_Atomic uint64_t *word = &vectors_tombs(v, v->chunks[0].offset)[0];
		*word &= ~(1ull << i);
	}
	expect_range(&e, 0, 100, 1, 1);
	expect_range(&e, 0, 3, 2, 2);
	run(v, fd, NULL, &e);
}

/* ---- the same with lists ---- */

static void work(struct vectors *v)
{
	listed = true;
	vectors_stages_set(v, &early);
	while (vectors_work(v))
		;
}

/* Namespace 1 has LISTED rows and lists. */
static struct vectors *start_lists(int *fd_r, struct expect *e)
{
	struct vectors *v = start(fd_r, e);
	fill(v, 1, 0, LISTED, 1);
	work(v);
	expect_range(e, 0, LISTED, 1, 1);
	e->lists = true;
	verify(v, e, "lists");
	return v;
}

static void run_lists(struct vectors *v, int fd, operation *op, const struct expect *e)
{
	run(v, fd, op, e);
	listed = false;
}

static void op_listed_writes(struct vectors *v)
{
	AN(insert(v, 1, 3, 2) == 0);
	AN(insert(v, 1, LISTED, 1) == 0);
	remove_id(v, 50);
}

static void test_listed_writes(void **state)
{
	(void)state;
	struct expect e;
	int fd;
	struct vectors *v = start_lists(&fd, &e);
	expect_range(&e, 3, 4, 1, 2);
	expect_range(&e, LISTED, LISTED + 1, 0, 1);
	expect_range(&e, 50, 51, 0, 1);
	run_lists(v, fd, op_listed_writes, &e);
}

/* Rows die until compaction moves what is left of their chunks. */
static void op_listed_compaction(struct vectors *v)
{
	for (uint32_t id = 20; id < 34; id++)
		remove_id(v, id);
	AN(insert(v, 1, 3, 2) == 0);
	AN(v->w->lists->of[0]->view.l->moves >= 5); /* or this tests nothing */
}

static void test_listed_compaction(void **state)
{
	(void)state;
	struct expect e;
	int fd;
	struct vectors *v = start_lists(&fd, &e);
	for (uint32_t id = 16; id < 20; id++)
		remove_id(v, id);
	expect_range(&e, 16, 20, 0, 0);
	expect_range(&e, 20, 34, 0, 1);
	expect_range(&e, 3, 4, 1, 2);
	run_lists(v, fd, op_listed_compaction, &e);
}

static void op_work(struct vectors *v)
{
	AN(vectors_work(v));
	lists_reclaim(v, true);
}

/* The first lists, and lists in the place of others; with rows that came and went between. */
static void test_listed_build(void **state)
{
	(void)state;
#if !defined(__x86_64__)
	skip(); /* run_over() has no breakpoints here */
#endif
	struct expect e;
	int fd;
	struct vectors *v = start(&fd, &e);
	fill(v, 1, 0, 64, 1);
	expect_range(&e, 0, 64, 1, 1);
	listed = true;
	vectors_stages_set(v, &early);
	run_lists(v, fd, op_work, &e);
}

static void op_rewrite(struct vectors *v)
{
	struct ivf *f = v->w->lists->of[0];
	for (uint32_t list = 0; list < 4; list++)
		AN(lists_rewrite(v, f, list));
	lists_reclaim(v, true);
	AN(insert(v, 1, 3, 2) == 0);
}

static void test_listed_rewrite(void **state)
{
	(void)state;
	struct expect e;
	int fd;
	struct vectors *v = start_lists(&fd, &e);
	fill(v, 1, 0, 20, 2);
	expect_range(&e, 0, 20, 2, 2);
	run_lists(v, fd, op_rewrite, &e);
}

static void test_listed_drop(void **state)
{
	(void)state;
	struct expect e;
	int fd;
	struct vectors *v = start_lists(&fd, &e);
	expect_range(&e, 0, LISTED, 0, 1);
	e.lists = false;
	run_lists(v, fd, op_drop, &e);
}

static struct vectors_row row_of(uint32_t id, uint64_t version, float x[16])
{
	float norm = 0;
	memset(x, 0, 16 * sizeof(float));
	vector_of(id, version, x);
	for (uint32_t i = 0; i < DIM; i++)
		norm += x[i] * x[i];
	norm = sqrtf(norm);
	for (uint32_t i = 0; i < DIM; i++)
		x[i] /= norm;
	return (struct vectors_row){
		.ns = 1, .version = version, .id = model_id(id), .norm = norm, .dim = DIM, .data = x};
}

/* What kills in the midst of four writes leave: a new row without an entry, one with, a row that has moved and is not
 * pointed to, one that is. */
static void leave_halves(struct vectors *v)
{
	struct vectors_ns *n = vectors_ns_find(v, 1);
	float x[16];
	for (uint32_t id = 0; id < 4; id++) {
		struct vectors_row row = row_of(id, id < 2 ? 2 : 1, x);
		struct uuid u = model_id(id);
		uint32_t from = vectors_map_find(v, &u), to;
		assert_int_equal(vectors_append(v, n, &row, false, &to), 0);
		if (id == 1)
			assert_int_equal(lists_row_new(v, n, to, &row), 0);
		if (id == 3)
			lists_row_moved(v, 0, from, to);
	}
}

static void test_listed_recovery(void **state)
{
	(void)state;
	struct expect e;
	int fd;
	struct vectors *v = start_lists(&fd, &e);
	leave_halves(v);
	expect_range(&e, 0, 2, 1, 2);
	run_lists(v, fd, NULL, &e);
}

/* ---- rows that wait to be put into their lists ---- */

enum { FRESH = 24 };

/* Of the rows in lists the last ones wait; they were updated, so as not to be as they were in the lists. */
static struct vectors *start_fresh(int *fd_r, struct expect *e)
{
	struct vectors *v = start_lists(fd_r, e);
	early.fresh_rows = IDS;
	vectors_stages_set(v, &early);
	fill(v, 1, LISTED - FRESH, LISTED, 2);
	expect_range(e, LISTED - FRESH, LISTED, 2, 2);
	assert_int_equal(lists_waiting(v->w->lists->of[0]), FRESH);
	verify(v, e, "fresh rows");
	return v;
}

static void run_fresh(struct vectors *v, int fd, operation *op, const struct expect *e)
{
	run_lists(v, fd, op, e);
	early.fresh_rows = 0;
}

/* A new one, one that was in a list, one that waits already; one that waits goes. */
static void op_fresh_writes(struct vectors *v)
{
	AN(insert(v, 1, LISTED, 1) == 0);
	AN(insert(v, 1, 3, 2) == 0);
	AN(insert(v, 1, LISTED - 1, 3) == 0);
	remove_id(v, LISTED - 2);
	AN(lists_waiting(v->w->lists->of[0]) > FRESH); /* or this tests nothing */
}

static void test_fresh_writes(void **state)
{
	(void)state;
	struct expect e;
	int fd;
	struct vectors *v = start_fresh(&fd, &e);
	expect_range(&e, LISTED, LISTED + 1, 0, 1);
	expect_range(&e, 3, 4, 1, 2);
	expect_range(&e, LISTED - 1, LISTED, 2, 3);
	expect_range(&e, LISTED - 2, LISTED - 1, 0, 2);
	run_fresh(v, fd, op_fresh_writes, &e);
}

static void op_assign(struct vectors *v)
{
	static struct turn go_on;
	AN(lists_assign(v, 0, &go_on) && !lists_waiting(v->w->lists->of[0]));
	lists_reclaim(v, true);
}

static void test_fresh_assigned(void **state)
{
	(void)state;
#if !defined(__x86_64__)
	skip(); /* run_over() has no breakpoints here */
#endif
	struct expect e;
	int fd;
	struct vectors *v = start_fresh(&fd, &e);
	run_fresh(v, fd, op_assign, &e);
}

static void test_fresh_drop(void **state)
{
	(void)state;
	struct expect e;
	int fd;
	struct vectors *v = start_fresh(&fd, &e);
	expect_range(&e, 0, LISTED, 0, 2);
	e.lists = false;
	run_fresh(v, fd, op_drop, &e);
}

/* Recovery, which is killed itself, of rows of which some have a second entry already. */
static void test_fresh_recovery(void **state)
{
	(void)state;
	struct expect e;
	int fd;
	struct vectors *v = start_fresh(&fd, &e);
	struct ivf *f = v->w->lists->of[0];
	for (uint32_t id = LISTED - FRESH; id < LISTED; id += 2) {
		struct uuid u = model_id(id);
		uint32_t ref = vectors_map_find(v, &u), at;
		struct lists_entry entry;
		float x[64];
		struct vectors_shape s;
		const struct vectors_chunk *c = &v->chunks[vectors_ref_chunk(ref)];
		vectors_form_rotated(v, vectors_own(v, c, &s), &s, DIM, vectors_ref_row(ref), x);
		lists_encode(&f->view, x, &entry);
		entry.ref = ref;
		assert_int_equal(lists_append(v, f, &entry, &at), 0);
	}
	run_fresh(v, fd, NULL, &e);
}

/* ---- the writer acts in the middle of a search ---- */

static struct {
	struct vectors *writer;
	operation *op;
	unsigned at, calls;
	const struct kernels *real;
	struct kernels hooked;
	const struct quantize_kernels *real_q;
	struct quantize_kernels hooked_q;
} hook;

static void hooked_dot_rows(const float *q, const float *rows, size_t nrows, size_t n, float *out)
{
	if (hook.calls++ == hook.at)
		hook.op(hook.writer);
	hook.real->dot_rows(q, rows, nrows, n, out);
}

/* Of centroids and of entries; before what is asked for is read and, at odd numbers, after it. */
static void hooked_bytes(const int8_t *q, const uint8_t *rows, size_t nrows, size_t n, size_t stride, int32_t *out)
{
	if (hook.calls++ == hook.at)
		hook.op(hook.writer);
	hook.real_q->bytes(q, rows, nrows, n, stride, out);
	if (hook.calls++ == hook.at)
		hook.op(hook.writer);
}

static void search_while(struct vectors *v, int fd, unsigned at, operation *op, const struct expect *e)
{
	struct vectors *reader = vectors_open(fd, false);
	assert_non_null(reader);
	hook.writer = v;
	hook.op = op;
	hook.at = at;
	hook.calls = 0;
	hook.real = reader->kernels;
	hook.hooked = *reader->kernels;
	hook.hooked.dot_rows = hooked_dot_rows;
	reader->kernels = &hook.hooked;
	hook.real_q = reader->quantize;
	hook.hooked_q = *reader->quantize;
	hook.hooked_q.bytes = hooked_bytes;
	reader->quantize = &hook.hooked_q;
	verify(reader, e, "search that was overtaken");
	assert_true(hook.calls > at);
	vectors_close(&reader);
}

static void op_reuse(struct vectors *v)
{
	vectors_drop(v, 1);
	fill(v, 2, 1000, 1000 + IDS, 7);
}

/* The chunk is dropped, taken by another namespace and overwritten under the reader's feet. */
static void test_overwritten(void **state)
{
	(void)state;
	for (unsigned at = 0; at < 3; at++) {
		struct expect e;
		int fd;
		struct vectors *v = start(&fd, &e);
		fill(v, 1, 0, IDS, 1);
		expect_range(&e, 0, IDS, 0, 1);
		search_while(v, fd, at, op_reuse, &e);
		vectors_close(&v);
		close(fd);
	}
}

static void op_update_all(struct vectors *v) { fill(v, 1, 0, IDS, 2); }

/* All entries move behind the reader's first chunk: each is found, those seen twice in the later version. */
static void test_overtaken(void **state)
{
	(void)state;
	for (unsigned at = 0; at < 3; at++) {
		struct expect e;
		int fd;
		struct vectors *v = start(&fd, &e);
		fill(v, 1, 0, IDS, 1);
		expect_range(&e, 0, IDS, 1, 2);
		if (at == 0) /* in the midst of the first chunk: all the new ones are still to come */
			expect_range(&e, 0, IDS, 2, 2);
		search_while(v, fd, at, op_update_all, &e);
		vectors_close(&v);
		close(fd);
	}
}

enum { MOMENTS = 60 }; /* of a search of lists, at which the writer acts */

static void op_update_listed(struct vectors *v) { fill(v, 1, 0, LISTED, 2); }

static void op_rebuild(struct vectors *v)
{
	static struct turn go_on;
	fill(v, 1, 0, 60, 2);
	AN(lists_build(v, vectors_ns_find(v, 1), DIM, 8, &go_on));
	lists_reclaim(v, true);
	fill(v, 2, 1000, 1000 + IDS, 7); /* into what was given back */
}

static void op_rewrite_all(struct vectors *v)
{
	for (uint32_t list = 0; list < v->w->lists->of[0]->view.count; list++)
		AN(lists_rewrite(v, v->w->lists->of[0], list));
	lists_reclaim(v, true);
	fill(v, 1, 0, 30, 2);
	fill(v, 2, 1000, 1000 + IDS, 7);
}

static void op_reuse_listed(struct vectors *v)
{
	vectors_drop(v, 1);
	lists_reclaim(v, true);
	fill(v, 2, 1000, 1000 + 5 * IDS, 7);
}

static void op_move(struct vectors *v)
{
	for (uint32_t i = 0; i < v->super->used; i++)
		for (uint64_t serial = v->chunks[i].serial, n = 40;
		     n && v->chunks[i].ns == 1 && v->chunks[i].serial == serial; n--)
			AN(vectors_compact_row(v, i));
}

/* At any moment of a search of lists, everything happens that may: what is there throughout is found. */
static void test_listed_overtaken(void **state)
{
	(void)state;
	static const struct {
		operation *op;
		uint64_t low, high;
	} acts[] = {{op_update_listed, 1, 2},
		    {op_rebuild, 1, 2},
		    {op_rewrite_all, 1, 2},
		    {op_reuse_listed, 0, 1},
		    {op_move, 1, 1}};
	for (size_t i = 0; i < ARRAY_LEN(acts); i++) {
		for (unsigned at = 0; at < MOMENTS; at++) {
			struct expect e;
			int fd;
			struct vectors *v = start_lists(&fd, &e);
			e.lists = false;
			expect_range(&e, 0, LISTED, acts[i].low, acts[i].high);
			search_while(v, fd, at, acts[i].op, &e);
			vectors_close(&v);
			close(fd);
			listed = false;
		}
	}
}

static void op_assign_and_reuse(struct vectors *v)
{
	op_assign(v);
	fill(v, 2, 1000, 1000 + IDS, 7); /* into what was given back */
}

static void op_assign_and_update(struct vectors *v)
{
	static struct turn go_on;
	AN(lists_assign(v, 0, &go_on));
	fill(v, 1, 0, LISTED, 3);
}

static void op_assign_and_move(struct vectors *v)
{
	static struct turn go_on;
	AN(lists_assign(v, 0, &go_on));
	op_move(v);
	lists_reclaim(v, true);
}

/* Nobody but who gives memory back again makes a search begin anew: it finds them in what it has read, or is to read. */
static void op_assign_only(struct vectors *v)
{
	static struct turn go_on;
	AN(lists_assign(v, 0, &go_on));
}

static void test_fresh_overtaken(void **state)
{
	(void)state;
	static const struct {
		operation *op;
		uint64_t low, high, fresh; /* fresh: the least of those that wait */
	} acts[] = {{op_assign_only, 1, 2, 2},	     {op_assign, 1, 2, 2},	    {op_assign_and_reuse, 1, 2, 2},
		    {op_assign_and_update, 1, 3, 2}, {op_assign_and_move, 1, 2, 2}, {op_update_listed, 1, 2, 2},
		    {op_rebuild, 1, 2, 2},	     {op_reuse_listed, 0, 2, 0}};
	for (size_t i = 0; i < ARRAY_LEN(acts); i++) {
		for (unsigned at = 0; at < MOMENTS; at++) {
			struct expect e;
			int fd;
			struct vectors *v = start_fresh(&fd, &e);
			expect_range(&e, 0, LISTED, acts[i].low, acts[i].high);
			expect_range(&e, LISTED - FRESH, LISTED, acts[i].fresh, acts[i].high);
			e.lists = acts[i].op == op_assign_only;
			search_while(v, fd, at, acts[i].op, &e);
			vectors_close(&v);
			close(fd);
			listed = false;
			early.fresh_rows = 0;
		}
	}
}

/* A writer has died in the midst of writes; its successor begins while we search. */
static struct vectors *successor;
static int successor_fd;
static void op_recover(struct vectors *v)
{
	(void)v;
	successor = vectors_open(successor_fd, true);
}

static void test_listed_recovered_meanwhile(void **state)
{
	(void)state;
	for (unsigned at = 0; at < MOMENTS; at++) {
		struct expect e;
		int fd;
		struct vectors *v = start_lists(&fd, &e);
		leave_halves(v);
		vectors_close(&v);
		successor_fd = fd;
		e.lists = false;
		expect_range(&e, 0, 2, 1, 2);
		search_while(NULL, fd, at, op_recover, &e);
		e.lists = true;
		expect_range(&e, 0, 2, 2, 2);
		verify(successor, &e, "successor");
		vectors_close(&successor);
		close(fd);
		listed = false;
	}
}

int main(int argc, char **argv)
{
#ifdef __SANITIZE_THREAD__
	return 77; /* skipped: one thread, and its instructions times ten, each a step of ptrace */
#endif
	/* clang-format off */
	const struct CMUnitTest tests[] = {
	    cmocka_unit_test(test_first_insert), cmocka_unit_test(test_update),	    cmocka_unit_test(test_turnover),
	    cmocka_unit_test(test_drop),	 cmocka_unit_test(test_recovery),   cmocka_unit_test(test_overwritten),
	    cmocka_unit_test(test_overtaken),	 cmocka_unit_test(test_listed_writes),
	    cmocka_unit_test(test_listed_compaction), cmocka_unit_test(test_listed_build),
	    cmocka_unit_test(test_listed_rewrite), cmocka_unit_test(test_listed_drop),
	    cmocka_unit_test(test_listed_recovery), cmocka_unit_test(test_listed_overtaken),
	    cmocka_unit_test(test_listed_recovered_meanwhile), cmocka_unit_test(test_fresh_writes),
	    cmocka_unit_test(test_fresh_assigned), cmocka_unit_test(test_fresh_drop),
	    cmocka_unit_test(test_fresh_recovery), cmocka_unit_test(test_fresh_overtaken),
	};
	/* clang-format on */
	/* Large zeroed tables come from mmap then, not from a memset that takes a million steps. */
	mallopt(M_MMAP_THRESHOLD, 64 << 10);
	cmocka_set_test_filter(argc > 1 ? argv[1] : NULL);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
