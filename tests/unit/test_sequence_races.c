/* sequence.c alone: what it refuses, and that a refusal leaves the namespaces as they were. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "sync/recent.c"
#include "sync/sequence.c"

#define NAME SPAN_LIT("space")

static struct sync s;
static struct plant *plant;
static unsigned repeats;

/* What sequence.c calls and is not the matter here. */
enum txn_status admit_txn(struct sync *x, uint32_t nops, size_t len, uint32_t *arg_r)
{
	return (void)x, (void)nops, (void)len, (void)arg_r, TXN_OK;
}
void flusher_order(struct flusher *f, uint32_t slot, uint64_t id, const struct op_order *what)
{
	(void)f, (void)slot, (void)id, (void)what;
}
void apply_answer(struct sync *x, uint32_t slot, uint64_t id, enum txn_status status, uint64_t seq, uint32_t arg)
{
	(void)x, (void)slot, (void)id, (void)status, (void)seq, (void)arg;
}
void apply_refusing(struct sync *x, enum txn_status why) { (void)x, (void)why; }
void apply_repeat(struct sync *x, uint32_t slot, const struct txn_head *h, uint64_t seq)
{
	(void)x, (void)slot, (void)h, (void)seq;
	repeats++;
}

static int begin(void **state)
{
	(void)state;
	plant = util_zalloc(sizeof(*plant));
	plant->journal_quota = UINT64_MAX;
	s = (struct sync){.plant = plant, .next_seq = 1, .open = &s.batches[0]};
	s.ns = util_zalloc(sizeof(*s.ns) * PLANT_NAMESPACES);
	s.recent = recent_new(1024, 0);
	repeats = 0;
	return 0;
}

static int end(void **state)
{
	(void)state;
	for (int b = 0; b < 2; b++) {
		for (size_t i = 0; i < s.batches[b].n; i++)
			free(s.batches[b].items[i].owned);
		free(s.batches[b].undo);
	}
	recent_free(&s.recent);
	free(s.ns);
	free(plant);
	return 0;
}

static uint64_t next_id = 100;

static struct item *submit(struct buf *b)
{
	size_t before = s.open->n;
	sequence_txn(&s, SLOT_API0, b->p, b->len, b->p);
	return s.open->n > before ? &s.open->items[s.open->n - 1] : NULL;
}

/* A memory of 10 quota bytes; replaces -1: a new one. */
static struct item *put(unsigned id, uint64_t version, int64_t replaces, uint64_t read_seq)
{
	struct buf b = {0};
	struct txn_builder t;
	struct memory m = {.id = {{(uint8_t)id}},
			   .ns = record_ns(NAME),
			   .ns_name = NAME,
			   .version = version,
			   .body = SPAN_LIT("0123456789"),
			   .content = SPAN_LIT("c"),
			   .content_hash = id,
			   .replaces_bytes = replaces};
	txn_begin(&t, &b, next_id++, SLOT_API0, read_seq, 0);
	if (version > 1)
		txn_read_key(&t, record_id_key(&m.id));
	txn_op_put(&t, &m);
	txn_end(&t);
	return submit(&b);
}

static struct item *drop(uint64_t read_seq)
{
	struct buf b = {0};
	struct txn_builder t;
	struct op_ns_drop o = {.ns = record_ns(NAME)};
	txn_begin(&t, &b, next_id++, SLOT_API0, read_seq, 0);
	txn_read_key(&t, record_ns_key(o.ns));
	txn_op_raw(&t, OP_NS_DROP, &o, sizeof(o), NULL, 0);
	txn_end(&t);
	return submit(&b);
}

static struct item *settings(uint64_t quota_count, uint64_t read_seq)
{
	struct buf b = {0};
	struct txn_builder t;
	struct op_namespace o = {.ns = record_ns(NAME), .quota_count = quota_count, .name_len = (uint32_t)NAME.len};
	txn_begin(&t, &b, next_id++, SLOT_API0, read_seq, 0);
	txn_op_raw(&t, OP_NAMESPACE, &o, sizeof(o), NAME.p, NAME.len);
	txn_end(&t);
	return submit(&b);
}

static const struct ns_state *space(void) { return sequence_ns(&s, record_ns(NAME)); }

static void a_change_of_what_was_dropped_is_a_conflict(void **state)
{
	(void)state;
	assert_int_equal(put(1, 1, -1, 0)->status, TXN_OK);
	assert_int_equal(put(2, 1, -1, 0)->status, TXN_OK);
	assert_int_equal(drop(2)->status, TXN_OK);
	/* Evaluated before the drop, arriving when the store has dropped all: it would bring memory 1 back. */
	plant->applied_seq = plant->flushed_seq = 3;
	assert_int_equal(put(1, 2, 10, 2)->status, TXN_CONFLICT);
	assert_int_equal(put(3, 1, -1, 2)->status, TXN_CONFLICT);
	assert_int_equal(space()->count, 0);
	assert_int_equal(space()->bytes, 0);
	assert_false(space()->exists);
	/* Evaluated again, an add makes the namespace anew. */
	assert_int_equal(put(3, 1, -1, 3)->status, TXN_OK);
	assert_int_equal(space()->count, 1);
	assert_int_equal(space()->bytes, 10);
}

static void nothing_is_written_into_what_is_being_dropped(void **state)
{
	(void)state;
	assert_int_equal(put(1, 1, -1, 0)->status, TXN_OK);
	assert_int_equal(drop(1)->status, TXN_OK);
	assert_int_equal(put(2, 1, -1, 2)->status, TXN_NAMESPACE_DROPPING);
	assert_int_equal(settings(5, 2)->status, TXN_NAMESPACE_DROPPING);
}

/* The disk is full: two batches were promised and neither is written. */
static void undone_batches_leave_no_trace(void **state)
{
	(void)state;
	assert_int_equal(put(1, 1, -1, 0)->status, TXN_OK);
	struct ns_state was = *space();
	s.open->nundo = 0; /* as after a batch that was written */
	assert_int_equal(put(2, 1, -1, 1)->status, TXN_OK);
	assert_int_equal(settings(7, 1)->status, TXN_OK);
	s.open = &s.batches[1];
	assert_int_equal(put(1, 2, 10, 1)->status, TXN_OK);
	assert_int_equal(drop(3)->status, TXN_OK);
	assert_false(space()->exists);
	sequence_undo(&s.batches[1]);
	assert_int_equal(space()->count, 2);
	assert_int_equal(space()->quota_count, 7);
	sequence_undo(&s.batches[0]);
	assert_memory_equal(space(), &was, sizeof(was));
}

static void a_refusal_leaves_no_trace(void **state)
{
	(void)state;
	assert_int_equal(settings(1, 0)->status, TXN_OK);
	assert_int_equal(put(1, 1, -1, 1)->status, TXN_OK);
	struct ns_state was = *space();
	size_t undo = s.open->nundo;
	assert_int_equal(put(2, 1, -1, 2)->status, TXN_QUOTA_COUNT);
	assert_memory_equal(space(), &was, sizeof(was));
	assert_int_equal(s.open->nundo, undo);
}

/* Sent again: known by its id while that is among the recent ones, later by the number its sender was told. */
static void what_was_numbered_is_not_numbered_again(void **state)
{
	(void)state;
	struct buf b = {0}, copy = {0};
	struct txn_builder t;
	struct op_namespace o = {.ns = record_ns(NAME), .name_len = (uint32_t)NAME.len};
	txn_begin(&t, &b, 7, SLOT_API0, 0, TXN_WAIT_STORE);
	txn_op_raw(&t, OP_NAMESPACE, &o, sizeof(o), NAME.p, NAME.len);
	txn_end(&t);
	buf_add(&copy, b.p, b.len);
	assert_int_equal(submit(&b)->status, TXN_OK);
	for (int life = 0; life < 2; life++) {
		struct buf again = {0};
		buf_add(&again, copy.p, copy.len);
		assert_null(submit(&again)); /* its batch answers, or: it is not applied yet */
		assert_int_equal(repeats, life);
		plant->applied_seq = plant->flushed_seq = 1;
		recent_free(&s.recent);
		s.recent = recent_new(1024, 1); /* the successor's */
		((struct txn_head *)(void *)copy.p)->seq = 1;
	}
	struct buf last = {0};
	buf_add(&last, copy.p, copy.len);
	assert_null(submit(&last));
	assert_int_equal(repeats, 2);
	assert_int_equal(s.next_seq, 2);
	/* A number that was never given is none. */
	((struct txn_head *)(void *)copy.p)->seq = 9;
	((struct txn_head *)(void *)copy.p)->id = 8;
	assert_int_equal(submit(&copy)->seq, 2);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_change_of_what_was_dropped_is_a_conflict, begin, end),
		cmocka_unit_test_setup_teardown(nothing_is_written_into_what_is_being_dropped, begin, end),
		cmocka_unit_test_setup_teardown(undone_batches_leave_no_trace, begin, end),
		cmocka_unit_test_setup_teardown(a_refusal_leaves_no_trace, begin, end),
		cmocka_unit_test_setup_teardown(what_was_numbered_is_not_numbered_again, begin, end),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
