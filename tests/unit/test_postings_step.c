/* The word index, its writer killed at EVERY instruction: the writer runs one operation under ptrace, a step at a time;
 * whenever a step changed the shared memory, a copy of that memory is what a kill would leave. The copy is searched as it
 * is (readers go on without a writer), then recovered, compared with brute force, used and emptied.
 * And interleavings that chance seldom finds: the writer acts in the middle of a search. */
#include <malloc.h>

#include "postings_model.h"
#include "step.h"

static bool hooked_allow_has(const struct vectors_allow *a, const struct uuid *id);
#define vectors_allow_has hooked_allow_has
#include "words/postings_search.c"
#undef vectors_allow_has

enum { IDS = 120, LIMIT = 1 << 20 };

static void text_of(uint32_t id, uint64_t version, char *to, size_t size)
{
	snprintf(to, size, "everything w%u w%u of %u and a transplantation%u v%llu", id % 7, id % 3, id, id % 5,
		 (unsigned long long)version);
}

static int put(struct postings *p, uint64_t ns, uint32_t id, uint64_t version)
{
	char text[200];
	struct uuid u = model_id(id);
	text_of(id, version, text, sizeof(text));
	return postings_put(p, ns, &u, version, 0, SPAN(text));
}

static void remove_id(struct postings *p, uint32_t id)
{
	struct uuid u = model_id(id);
	postings_remove(p, &u, UINT64_MAX);
}

/* What may be found in namespace 1: per id the lowest and the highest version; low 0: may be absent. */
struct expect {
	uint64_t low[IDS], high[IDS];
};

static void compare(struct postings *p, const uint64_t found[IDS], const char *who)
{
	static const char *const asks[] = {"everything", "w1 w2 transplantation3", "v2 w0 17", "\"w4 w0\" everything",
					   "transplant* w5"};
	struct model m;
	char text[200];
	(void)who;
	model_init(&m, IDS);
	for (uint32_t id = 0; id < IDS; id++) {
		text_of(id, found[id], text, sizeof(text));
		if (found[id])
			model_put(&m, id, 1, found[id], 0, text);
	}
	for (size_t i = 0; i < ARRAY_LEN(asks); i++)
		model_ask(&m, p, 1, asks[i], 30);
	model_end(&m);
}

static void verify(struct postings *p, const struct expect *e, bool recovered, const char *who)
{
	struct postings_hit hits[2 * IDS];
	struct postings_question q;
	uint64_t found[IDS] = {0};
	struct words *words = words_new();
	size_t n;
	postings_question_read(words, SPAN("everything"), &q);
	assert_true(
		postings_search(p, &(struct postings_query){.ns = 1, .question = &q, .k = 2 * IDS}, hits, &n, NULL));
	postings_question_free(&q);
	words_free(&words);
	for (size_t i = 0; i < n; i++) {
		uint32_t id = model_number(&hits[i].id);
		if (id >= IDS || found[id])
			fail_msg("%s: %u is a stranger or there twice", who, id);
		found[id] = hits[i].version;
	}
	for (uint32_t id = 0; id < IDS; id++) {
		if (found[id] ? found[id] < e->low[id] || found[id] > e->high[id] : e->low[id])
			fail_msg("%s: version of %u is %llu", who, id, (unsigned long long)found[id]);
		struct uuid u = model_id(id);
		if (p->w && e->high[id] && postings_version(p, &u) != found[id])
			fail_msg("%s: the map says %llu of %u, the search %llu", who,
				 (unsigned long long)postings_version(p, &u), id, (unsigned long long)found[id]);
	}
	if (p->w)
		assert_int_equal(postings_count(p, 1), n);
	if (recovered)
		compare(p, found, who);
}

static void judge(const struct step_test *t, const char *segment)
{
	const struct expect *e = t->arg;
	int fd = step_copy(t, segment);
	struct postings *reader = postings_open(fd, false);
	assert_non_null(reader);
	verify(reader, e, false, "reader of a dead writer");
	struct postings *p = postings_open(fd, true);
	assert_non_null(p);
	verify(p, e, true, "recovered");
	verify(reader, e, true, "reader after recovery");
	struct expect after = *e;
	assert_int_equal(put(p, 1, IDS - 1, 999), 0);
	after.low[IDS - 1] = after.high[IDS - 1] = 999;
	verify(reader, &after, true, "first write after recovery");
	for (uint32_t id = 0; id < 20; id++) { /* in use again: merges and what they take collide with nothing */
		after.low[id] = after.high[id] = 1000;
		assert_int_equal(put(p, 1, id, 1000), 0);
	}
	verify(reader, &after, true, "written on");
	postings_drop(p, 1);
	postings_drop(p, 2);
	postings_segment_reclaim(p, true);
	assert_int_equal(postings_bytes(p), 0);
	assert_int_equal(postings_count(p, 0), 0);
	postings_close(&reader);
	postings_close(&p);
	close(fd);
}

typedef void operation(struct postings *p);

static void child(int fd, operation *op)
{
	struct postings *p = op ? postings_open(fd, true) : NULL;
	step_begin();
	if (op)
		op(p);
	else
		p = postings_open(fd, true);
	_exit(0);
}

/* `op` NULL: recovery itself is what gets killed. Of many states every so many-th is looked at, another one in each test. */
static void each_step(int fd, operation *op, unsigned every, const struct expect *e)
{
	static const struct step_part parts[] = {
		{0, 512, true},
		{POSTINGS_OFF_SLOTS, sizeof(uint32_t) * POSTINGS_SLOTS, false},
		{POSTINGS_OFF_NS, 2 * sizeof(struct postings_ns), true},
		{POSTINGS_OFF_DESCS, 256 * sizeof(struct postings_desc), true},
		{POSTINGS_OFF_DATA, 192 << 10, true},
	};
	const struct step_test t = {postings_segment_size(LIMIT), parts, ARRAY_LEN(parts), judge, NULL, every, e};
	step_wanted();
	step_together();
	pid_t pid = fork();
	if (!pid)
		child(fd, op);
	step_run(&t, pid, fd);
}

static void fill(struct postings *p, uint64_t ns, uint32_t from, uint32_t to, uint64_t version)
{
	for (uint32_t id = from; id < to; id++)
		assert_int_equal(put(p, ns, id, version), 0);
}

static void expect_range(struct expect *e, uint32_t from, uint32_t to, uint64_t low, uint64_t high)
{
	for (uint32_t id = from; id < to; id++) {
		e->low[id] = low;
		e->high[id] = high;
	}
}

static struct postings *start(int *fd_r, struct expect *e)
{
	memset(e, 0, sizeof(*e));
	return model_open(LIMIT, fd_r);
}

static void run_steps(struct postings *p, int fd, operation *op, unsigned every, const struct expect *e)
{
	postings_close(&p);
	each_step(fd, op, every, e);
	close(fd);
}

static void op_first(struct postings *p) { AN(put(p, 1, 0, 1) == 0); }

static void test_first_put(void **state)
{
	(void)state;
	struct expect e;
	int fd;
	struct postings *p = start(&fd, &e);
	expect_range(&e, 0, 1, 0, 1);
	run_steps(p, fd, op_first, 1, &e);
}

static void op_update(struct postings *p) { AN(put(p, 1, 3, 2) == 0); }

static void test_update(void **state)
{
	(void)state;
	struct expect e;
	int fd;
	struct postings *p = start(&fd, &e);
	fill(p, 1, 0, 10, 1);
	expect_range(&e, 0, 10, 1, 1);
	e.high[3] = 2;
	run_steps(p, fd, op_update, 1, &e);
}

/* Eight segments become one, twice over; segments die, are let go of and taken again. */
static void op_turnover(struct postings *p)
{
	p->w->quarantine_us = 0;
	for (uint32_t id = 0; id < 3; id++)
		AN(put(p, 1, id, 2) == 0);
	remove_id(p, 20);
	postings_drop(p, 2);
	AN(put(p, 1, 3, 2) == 0);
	AN(put(p, 2, 1000, 1) == 0);
}

static void test_turnover(void **state)
{
	(void)state;
	struct expect e;
	int fd;
	struct postings *p = start(&fd, &e);
	fill(p, 2, 1000, 1020, 1);
	fill(p, 1, 0, 62, 1);
	expect_range(&e, 0, 62, 1, 1);
	expect_range(&e, 0, 4, 1, 2);
	e.low[20] = 0;
	run_steps(p, fd, op_turnover, 7, &e);
}

static void op_drop(struct postings *p) { postings_drop(p, 1); }

static void test_drop(void **state)
{
	(void)state;
	struct expect e;
	int fd;
	struct postings *p = start(&fd, &e);
	fill(p, 2, 1000, 1030, 1);
	fill(p, 1, 0, IDS, 1);
	expect_range(&e, 0, IDS, 0, 1);
	run_steps(p, fd, op_drop, 1, &e);
}

/* What a kill leaves between the death and the manifest, and within the counting; then recovery is killed as well. */
static void test_recovery(void **state)
{
	(void)state;
	struct expect e;
	struct postings_next x;
	int fd;
	struct postings *p = start(&fd, &e);
	fill(p, 1, 0, 30, 1);
	remove_id(p, 9);
	postings_manifest_begin(p, p->ns, &x);
	for (uint32_t id = 0; id < 3; id++) {
		struct uuid u = model_id(id);
		postings_manifest_kill(p, &x, postings_map_find(p, &u)); /* and nothing is published */
	}
	expect_range(&e, 0, 30, 1, 1);
	e.low[9] = e.high[9] = 0;
	run_steps(p, fd, NULL, 1, &e);
}

/* ---- the writer acts in the middle of a search ---- */

static struct {
	struct postings *writer;
	operation *op;
	unsigned at, calls;
} hook;

static bool hooked_allow_has(const struct vectors_allow *a, const struct uuid *id)
{
	if (hook.op && hook.calls++ == hook.at)
		hook.op(hook.writer);
	return vectors_allow_has(a, id);
}

/* Ids 0 … IDS − 1 are allowed. Returns what was found, by id. */
static void search_while(struct postings *p, int fd, unsigned at, operation *op, uint64_t found[IDS])
{
	struct postings *reader = postings_open(fd, false);
	struct vectors_allow *allow = vectors_allow_new(IDS);
	struct postings_hit hits[2 * IDS];
	struct postings_question q;
	struct words *words = words_new();
	size_t n;
	assert_non_null(reader);
	for (uint32_t id = 0; id < IDS; id++) {
		struct uuid u = model_id(id);
		vectors_allow_add(allow, &u);
		found[id] = 0;
	}
	hook.writer = p, hook.op = op, hook.at = at, hook.calls = 0;
	postings_question_read(words, SPAN("everything"), &q);
	assert_true(postings_search(reader,
				    &(struct postings_query){.ns = 1, .question = &q, .k = 2 * IDS, .allow = allow},
				    hits, &n, NULL));
	assert_true(hook.calls > at);
	hook.op = NULL;
	for (size_t i = 0; i < n; i++) {
		assert_int_equal(found[model_number(&hits[i].id)], 0);
		found[model_number(&hits[i].id)] = hits[i].version;
	}
	postings_question_free(&q);
	words_free(&words);
	vectors_allow_free(&allow);
	postings_close(&reader);
}

static void op_everything(struct postings *p)
{
	for (uint32_t id = 0; id < 100; id++)
		AN(put(p, 1, id, 2) == 0);
	for (uint32_t id = 100; id < IDS; id++)
		remove_id(p, id);
}

static void op_reuse(struct postings *p)
{
	postings_drop(p, 1);
	for (uint32_t id = 0; id < 300; id++)
		AN(put(p, 2, 1000 + id, 7) == 0);
}

static void op_reuse_own(struct postings *p)
{
	p->w->quarantine_us = -1;
	op_everything(p);
	for (uint32_t id = 0; id < 100; id++)
		AN(put(p, 1, id, 3) == 0);
}

/* Everything is updated under the reader's feet: it sees the moment at which it began. */
static void test_one_moment(void **state)
{
	(void)state;
	for (unsigned at = 0; at < IDS; at += 13) {
		uint64_t found[IDS];
		struct expect e;
		int fd;
		struct postings *p = start(&fd, &e);
		fill(p, 1, 0, IDS, 1);
		search_while(p, fd, at, op_everything, found);
		for (uint32_t id = 0; id < IDS; id++)
			assert_int_equal(found[id], 1);
		postings_close(&p);
		close(fd);
	}
}

/* Its segments' memory is taken and overwritten: it begins anew, and sees what is there now. */
static void test_overwritten(void **state)
{
	(void)state;
	for (unsigned at = 0; at < IDS; at += 13) {
		uint64_t found[IDS];
		struct expect e;
		int fd;
		struct postings *p = start(&fd, &e);
		fill(p, 1, 0, IDS, 1);
		search_while(p, fd, at, op_reuse, found);
		for (uint32_t id = 0; id < IDS; id++)
			assert_int_equal(found[id], 0);
		postings_close(&p);
		close(fd);
		p = start(&fd, &e);
		fill(p, 1, 0, IDS, 1);
		search_while(p, fd, at, op_reuse_own, found);
		for (uint32_t id = 0; id < IDS; id++)
			assert_int_equal(found[id], id < 100 ? 3 : 0);
		postings_close(&p);
		close(fd);
	}
}

/* A writer that reuses the memory each time: the search gives up and says so. */
static void op_again(struct postings *p)
{
	static uint64_t version = 10;
	version++;
	hook.calls = 0;
	hook.at = 5;
	p->w->quarantine_us = -1;
	for (uint32_t id = 0; id < IDS; id++)
		AN(put(p, 1, id, version) == 0);
}

static void test_gives_up(void **state)
{
	(void)state;
	struct expect e;
	int fd;
	struct postings *p = start(&fd, &e);
	struct vectors_allow *allow = vectors_allow_new(1);
	struct postings_hit hits[5];
	struct postings_question q;
	struct words *words = words_new();
	size_t n = 99;
	fill(p, 1, 0, IDS, 1);
	hook.writer = p, hook.op = op_again, hook.at = 5, hook.calls = 0;
	postings_question_read(words, SPAN("everything"), &q);
	assert_false(postings_search(p, &(struct postings_query){.ns = 1, .question = &q, .k = 5, .allow = allow}, hits,
				     &n, NULL));
	assert_int_equal(n, 0);
	hook.op = NULL;
	postings_question_free(&q);
	words_free(&words);
	vectors_allow_free(&allow);
	postings_close(&p);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_first_put),   cmocka_unit_test(test_update),   cmocka_unit_test(test_turnover),
		cmocka_unit_test(test_drop),	    cmocka_unit_test(test_recovery), cmocka_unit_test(test_one_moment),
		cmocka_unit_test(test_overwritten), cmocka_unit_test(test_gives_up),
	};
	/* Large tables come zeroed from the kernel every time: filling them takes a step for each byte. */
	mallopt(M_MMAP_THRESHOLD, 64 << 10);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
