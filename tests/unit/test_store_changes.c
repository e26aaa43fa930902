/* The feed of the store: what a batch has changed is in it, once, in order, with the batch or not at all; reading from any
 * place; pruning; and a database from before there was a feed. Broken code this would catch: a write that is not
 * announced, one that changed nothing and is, a row that a rollback leaves, pruning that is not told, a revision that
 * is passed over. */
#include "store_model.h"

struct told {
	char text[4096];
	size_t n, most;
	uint64_t revision;
	unsigned revisions;
};

static const char *const kinds[] = {"?", "put", "del", "gone", "ns", "drop"};

static bool tell(void *arg, const struct store_change *c)
{
	struct told *t = arg;
	size_t at = strlen(t->text);
	assert_true(c->revision >= t->revision && c->node == 0);
	assert_true(c->at_us > 1600000000000000);
	t->revisions += c->revision != t->revision;
	t->revision = c->revision;
	snprintf(t->text + at, sizeof(t->text) - at, "%s%llu %s %.*s %u v%llu", at ? "; " : "",
		 (unsigned long long)c->revision, kinds[c->kind], (int)c->namespace.len, c->namespace.p,
		 number_of(&c->id), (unsigned long long)c->version);
	return ++t->n < t->most;
}

static struct told read_feed(uint64_t after, size_t batches, size_t most, enum store_rc expect, uint64_t *last_r)
{
	struct told t = {.most = most};
	uint64_t last;
	enum store_rc rc = ops->changes(store, after, batches, tell, &t, last_r ? last_r : &last);
	if (rc != expect)
		fail_msg("%d: %s", (int)rc, ops->error(store));
	return t;
}

static void expect_feed(uint64_t after, const char *text)
{
	struct told t = read_feed(after, 100, 1000, STORE_OK, NULL);
	if (strcmp(t.text, text) != 0)
		fail_msg("the feed behind %llu is\n%s\nand not\n%s", (unsigned long long)after, t.text, text);
}

/* What changed nothing is not announced: an older version, a deletion of nothing, an answer to be repeated. */
static void test_what_is_told(void **state)
{
	(void)state;
	uint64_t end = 77;
	assert_int_equal(ops->revision(store, &end), STORE_OK);
	assert_int_equal(end, 0);
	expect_feed(0, "");
	STORE(1, batch_add(one, 1, 1, NS_A));
	STORE(3, batch_add(one, 2, 5, NS_B));
	STORE(4, batch_add(one, 2, 4, NS_B));
	STORE(5, batch_idem(one, 9, NS_A, INT64_MAX / 4, "x"));
	STORE(6, batch_delete(one, 1, 2, NS_A, DELETE_SOFT));
	STORE(7, batch_delete(one, 2, 6, NS_B, DELETE_ERASE));
	STORE(8, batch_namespace(one, "gamma", 0, 8000));
	STORE(9, batch_drop(one, "gamma"));
	expect_feed(0, "1 put alpha 1 v1; 3 put beta 2 v5; 6 del alpha 1 v2; 7 gone beta 2 v6; 8 ns gamma 0 v0; "
		       "9 drop gamma 0 v0");
	expect_feed(6, "7 gone beta 2 v6; 8 ns gamma 0 v0; 9 drop gamma 0 v0");
	expect_feed(9, "");
	STORE(10, batch_idem(one, 10, NS_A, INT64_MAX / 4, "x"));
	assert_int_equal(ops->revision(store, &end), STORE_OK);
	assert_int_equal(end, 10); /* everything up to the cursor is told */
}

/* In the order of the operations, over namespaces and versions of any size; page by page the same. */
static void test_order_in_a_batch(void **state)
{
	(void)state;
	struct batch a;
	uint64_t last;
	batch_begin(&a);
	batch_add(&a, 3, 1, NS_B);
	batch_add(&a, 1, 300, NS_A);
	batch_add(&a, 1, (uint64_t)1 << 62, NS_A);
	batch_add(&a, 2, 128, NS_B);
	batch_delete(&a, 3, 2, NS_B, DELETE_EXPIRED);
	batch_store(&a, 20);
	batch_free(&a);
	STORE(21, batch_add(one, 4, 1, NS_A));
	expect_feed(0,
		    "20 put beta 3 v1; 20 put alpha 1 v300; 20 put alpha 1 v4611686018427387904; 20 put beta 2 v128; "
		    "20 gone beta 3 v2; 21 put alpha 4 v1");
	struct told t = read_feed(0, 1, 1000, STORE_OK, &last); /* one batch */
	assert_true(t.n == 5 && last == 20);
	t = read_feed(0, 100, 2, STORE_OK, &last); /* the visitor has enough */
	assert_true(t.n == 2 && last == 20);
	t = read_feed(21, 100, 1000, STORE_OK, &last);
	assert_true(t.n == 0 && last == 21);
}

static void test_rolled_back(void **state)
{
	(void)state;
	struct batch a;
	STORE(1, batch_add(one, 1, 1, NS_A));
	batch_begin(&a);
	batch_add(&a, 2, 1, NS_A);
	txn_end(&a.t);
	assert_int_equal(ops->begin(store), STORE_OK);
	assert_int_equal(batch_apply(&a, 2), STORE_OK);
	ops->rollback(store);
	expect_feed(0, "1 put alpha 1 v1");
	assert_int_equal(ops->begin(store), STORE_OK);
	assert_int_equal(batch_apply(&a, 2), STORE_OK);
	assert_int_equal(ops->commit(store, 2), STORE_OK);
	batch_free(&a);
	expect_feed(0, "1 put alpha 1 v1; 2 put alpha 2 v1");
	assert_int_equal(ask(store, "SELECT total FROM changes WHERE revision=2"), 2);
}

/* A second batch under the same number loses nothing of the first. */
static void test_same_number(void **state)
{
	(void)state;
	STORE(1, batch_add(one, 1, 1, NS_A));
	STORE(1, batch_add(one, 2, 1, NS_B));
	expect_feed(0, "1 put alpha 1 v1; 1 put beta 2 v1");
}

static void test_prune(void **state)
{
	(void)state;
	uint64_t last = 0;
	for (unsigned i = 1; i <= 10; i++)
		STORE(i, batch_add(one, i, 1, NS_A));
	assert_int_equal(ops->prune(store, 1000000000, 1000), STORE_OK); /* nothing is due */
	assert_int_equal(read_feed(0, 100, 1000, STORE_OK, NULL).n, 10);
	assert_int_equal(ops->prune(store, 1000000000, 4), STORE_OK);
	assert_int_equal(read_feed(5, 100, 1000, STORE_NOT_FOUND, &last).n, 0);
	assert_int_equal(last, 10);
	assert_int_equal(read_feed(0, 100, 1000, STORE_NOT_FOUND, NULL).n, 0);
	expect_feed(6, "7 put alpha 7 v1; 8 put alpha 8 v1; 9 put alpha 9 v1; 10 put alpha 10 v1");
	query(store, "UPDATE changes SET at_us=at_us-2000000000 WHERE revision<9", NULL);
	assert_int_equal(ops->prune(store, 1000000000, 1000), STORE_OK);
	read_feed(7, 100, 1000, STORE_NOT_FOUND, NULL);
	assert_int_equal(read_feed(8, 100, 1000, STORE_OK, NULL).n, 2);
	query(store, "UPDATE changes SET at_us=at_us-2000000000", NULL);
	assert_int_equal(ops->prune(store, 1000000000, 1000), STORE_OK);
	read_feed(9, 100, 1000, STORE_NOT_FOUND, NULL); /* also when none is left */
	expect_feed(10, "");
	STORE(11, batch_add(one, 11, 1, NS_A));
	expect_feed(10, "11 put alpha 11 v1");
}

/* More than one round takes: it says so, and what was forgotten is told all the same. */
static void test_prune_in_parts(void **state)
{
	(void)state;
	query(store,
	      "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<5000)"
	      " INSERT INTO changes SELECT i,1,i,x'84' FROM n; UPDATE meta SET value=5000 WHERE key='cursor'",
	      NULL);
	int rounds = 1;
	while (ops->prune(store, 1000000, 1000000) == STORE_BUSY)
		rounds++;
	assert_true(rounds > 1);
	assert_int_equal(ask(store, "SELECT count(*) FROM changes"), 0);
	assert_int_equal(ask(store, "SELECT value FROM meta WHERE key='pruned'"), 5000);
}

/* Rows that a bad disk has changed end early, and nothing is read behind them. */
static void test_damaged(void **state)
{
	(void)state;
	static const char *const data[] = {"x''",
					   "x'81'",
					   "x'0101'",
					   "x'81112233445566778801'",
					   "x'8111223344556677888080808080808080808080808080808080808080'",
					   "'text'"};
	STORE(1, batch_add(one, 1, 1, NS_A));
	for (size_t i = 0; i < ARRAY_LEN(data); i++) {
		char sql[160];
		uint64_t last;
		struct told t = {.most = 100};
		snprintf(sql, sizeof(sql), "UPDATE changes SET data=%s", data[i]);
		query(store, sql, NULL);
		assert_int_equal(ops->changes(store, 0, 10, tell, &t, &last), STORE_OK);
		assert_int_equal(last, 1);
	}
}

/* A database of version 1: what it holds stays, and its feed begins where it was upgraded. */
static void test_upgrade(void **state)
{
	(void)state;
	struct seen m;
	STORE(1, batch_add(one, 1, 1, NS_A));
	STORE(5, batch_add(one, 2, 1, NS_A));
	query(store,
	      "DROP TABLE stems_df; DROP TABLE stems; DROP TABLE changes; DELETE FROM meta WHERE key='pruned'; UPDATE meta SET value=1 WHERE key='schema'",
	      NULL);
	char *before = NULL, *what = NULL;
	struct store_conf c = {.kind = "sqlite", .dir = world_dir};
	assert_true(ops->probe(&c, &what));
	assert_non_null(strstr(what, "schema 1; would be migrated to 4"));
	free(what);
	reopen();
	before = picture(store);
	assert_int_equal(ask(store, "SELECT value FROM meta WHERE key='schema'"), 4);
	assert_int_equal(get(store, 2, true, &m), STORE_OK);
	assert_int_equal(cursor_of(store), 5);
	read_feed(4, 10, 10, STORE_NOT_FOUND, NULL);
	assert_int_equal(read_feed(5, 10, 10, STORE_OK, NULL).n, 0);
	reopen(); /* and only once */
	char *after = picture(store);
	same_picture(before, after, "opened again");
	free(before);
	free(after);
	struct store *reader = open_as(false);
	uint64_t end;
	assert_int_equal(ops->revision(reader, &end), STORE_OK);
	assert_int_equal(end, 5);
	ops->close(reader);
}

#define T(f) cmocka_unit_test_setup_teardown(f, world_begin, world_end)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_what_is_told), T(test_order_in_a_batch), T(test_rolled_back), T(test_same_number),
		T(test_prune),	      T(test_prune_in_parts),	T(test_damaged),     T(test_upgrade)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
