/* The writer's side of the store: batches, the cursor, replay, counters, and what is left after each kind of
 * deletion. Broken code this would catch: a cursor that runs ahead of its rows, a replay that counts twice, an
 * older version that wins, words or vectors of a row that is gone. */
#include <sys/wait.h>

#include "store_model.h"

#define NS record_ns(SPAN(NS_A))

static void test_open(void **state)
{
	(void)state;
	char *error = NULL;
	struct store_conf nowhere = {.kind = "sqlite", .dir = "/nonexistent/dir"},
			  dsn = {.kind = "sqlite", .dir = "/nonexistent", .dsn = world_path("copy.db")};
	assert_null(store_by_kind("oracle"));
	assert_string_equal(ops->kind, "sqlite");
	assert_null(ops->open(&nowhere, true, &error));
	assert_non_null(strstr(error, "/nonexistent/dir/store.db"));
	free(error);
	error = NULL;
	assert_null(ops->open(&dsn, false, &error)); /* a reader makes no database */
	free(error);
	struct store *s = ops->open(&dsn, true, &error);
	assert_non_null(s); /* dsn goes before dir */
	assert_int_equal(access(world_path("copy.db"), F_OK), 0);
	ops->close(s);
	/* a journal record is let go when COMMIT returns: nothing less than FULL will do */
	assert_int_equal(ask(store, "PRAGMA synchronous"), 2);
	assert_int_equal(ask(store, "PRAGMA secure_delete"), 1);
	struct buf b = {NULL, 0, 0};
	query(store, "PRAGMA journal_mode", &b);
	assert_true(b.len == 5 && memcmp(b.p, "wal|", 4) == 0);
	buf_free(&b);
}

static void test_reopen(void **state)
{
	(void)state;
	struct seen m;
	STORE(5, batch_add(one, 1, 1, NS_A));
	char *before = picture(store);
	reopen(); /* the schema is there: nothing is made again */
	char *after = picture(store);
	same_picture(before, after, "before and after");
	free(before);
	free(after);
	assert_int_equal(cursor_of(store), 5);
	struct store *reader = open_as(false);
	assert_int_equal(cursor_of(reader), 5);
	assert_int_equal(get(reader, 1, true, &m), STORE_OK);
	ops->close(reader);
}

static void test_rollback(void **state)
{
	(void)state;
	struct batch a;
	struct seen m;
	STORE(3, batch_add(one, 1, 1, NS_A));
	batch_begin(&a);
	batch_add(&a, 2, 1, NS_A);
	batch_delete(&a, 1, 2, NS_A, DELETE_ERASE);
	txn_end(&a.t);
	char *before = picture(store);
	assert_int_equal(ops->begin(store), STORE_OK);
	assert_int_equal(batch_apply(&a, 4), STORE_OK);
	ops->rollback(store);
	ops->rollback(store); /* nothing open: no harm */
	char *after = picture(store);
	same_picture(before, after, "before and after");
	assert_int_equal(cursor_of(store), 3);
	assert_int_equal(get(store, 2, false, &m), STORE_NOT_FOUND);
	/* and the connection works on */
	assert_int_equal(ops->begin(store), STORE_OK);
	assert_int_equal(batch_apply(&a, 4), STORE_OK);
	assert_int_equal(ops->commit(store, 4), STORE_OK);
	assert_int_equal(get(store, 2, false, &m), STORE_OK);
	free(before);
	free(after);
	batch_free(&a);
}

/* A process that dies between begin and commit leaves rows and cursor as they were; after commit, both new. */
static void test_killed(void **state)
{
	(void)state;
	struct seen m;
	STORE(3, batch_add(one, 1, 1, NS_A));
	ops->close(store);
	store = NULL;
	for (int commit = 0; commit < 2; commit++) {
		pid_t pid = fork();
		assert_true(pid >= 0);
		if (!pid) {
			struct batch a;
			store = open_as(true);
			batch_begin(&a);
			batch_add(&a, 2, 1, NS_A);
			txn_end(&a.t);
			if (ops->begin(store) != STORE_OK || batch_apply(&a, 4) != STORE_OK ||
			    (commit && ops->commit(store, 4) != STORE_OK))
				_exit(1);
			_exit(0);
		}
		int status;
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_int_equal(status, 0);
		reopen();
		assert_int_equal(cursor_of(store), commit ? 4 : 3);
		assert_int_equal(get(store, 2, false, &m), commit ? STORE_OK : STORE_NOT_FOUND);
		ops->close(store);
		store = NULL;
	}
}

static bool vector_of_2(void *arg, const struct store_indexed *x)
{
	struct seen *s = arg;
	s->calls++;
	assert_true(number_of(&x->id) == 2 && x->ns == NS && x->expires_us == 0);
	assert_true(x->dim == 8 || (!x->dim && !x->x));
	s->m.version = x->version;
	s->m.dim = x->dim;
	if (x->dim)
		memcpy(s->x, x->x, sizeof(s->x));
	return true;
}

/* Newer versions replace, older and equal ones change nothing; the history keeps each old one once. */
static void test_versions(void **state)
{
	(void)state;
	struct seen m, v = {.calls = 0};
	struct made *d;
	STORE(1, batch_add(one, 2, 1, NS_A));
	STORE(2, batch_add(one, 2, 3, NS_A));
	char *before = picture(store);
	STORE(2, batch_add(one, 2, 3, NS_A));
	STORE(2, batch_add(one, 2, 2, NS_A));
	STORE(2, batch_delete(one, 2, 3, NS_A, DELETE_ERASE));
	char *after = picture(store);
	same_picture(before, after, "before and after");
	free(before);
	free(after);
	assert_int_equal(get(store, 2, true, &m), STORE_OK);
	d = make(2, 3, NS_A);
	assert_true(m.m.version == 3 && m.m.ns == NS && m.m.created_us == 1002 && m.m.updated_us == 1005 &&
		    m.m.replaces_bytes == -1);
	assert_string_equal(m.content, d->content);
	assert_true(span_eq(SPAN(m.body), d->m.body));
	assert_string_equal(m.ns_name, NS_A);
	assert_memory_equal(m.x, d->x, sizeof(m.x));
	assert_int_equal(ops->indexed(store, NULL, 10, vector_of_2, &v), STORE_OK);
	assert_true(v.calls == 1 && v.m.version == 3);
	assert_memory_equal(v.x, d->x, sizeof(v.x));
	made_free(d);
	assert_int_equal(get(store, 2, false, &m), STORE_OK);
	assert_null(m.m.embedding);
	assert_int_equal(ask(store, "SELECT count(*) FROM history"), 1);
	/* a version without a vector takes the vector away */
	d = make(2, 4, NS_A);
	d->m.dim = 0, d->m.embedding = NULL, d->m.embedder.len = 0;
	STORE(3, batch_put(one, d));
	made_free(d);
	assert_int_equal(ask(store, "SELECT count(*) FROM vectors"), 0);
	assert_int_equal(get(store, 2, true, &m), STORE_OK);
	assert_null(m.m.embedding);
}

static void test_soft_delete(void **state)
{
	(void)state;
	struct seen m;
	STORE(1, batch_add(one, 5, 1, NS_A));
	STORE(2, batch_delete(one, 5, 2, NS_A, DELETE_SOFT));
	assert_int_equal(get(store, 5, true, &m), STORE_OK);
	assert_true(m.m.version == 2 && m.m.deleted_us == 5002 && m.m.updated_us == 5002);
	assert_string_equal(m.content, "memory 5 of version 1"); /* what restore needs */
	assert_non_null(m.m.embedding);
	assert_int_equal(ops->by_external(store, NS, SPAN("ext-5"), false, see, &m), STORE_NOT_FOUND);
	assert_int_equal(ask(store, "SELECT count(*) FROM words_df WHERE col='content'"), 0);
	assert_int_equal(ask(store, "SELECT count FROM namespaces"), 0);
	assert_int_equal(ask(store, "SELECT bytes FROM namespaces"), 0);
	STORE(3, batch_add(one, 5, 3, NS_A)); /* restored */
	assert_int_equal(ops->by_external(store, NS, SPAN("ext-5"), false, see, &m), STORE_OK);
	assert_int_equal(ask(store, "SELECT count FROM namespaces"), 1);
	assert_int_equal(ask(store, "SELECT count(*) FROM history"), 2);
	STORE(4, batch_delete(one, 5, 4, NS_A, DELETE_SOFT));
	STORE(5, batch_delete(one, 5, 5, NS_A, DELETE_EXPIRED)); /* collected from the trash */
	assert_int_equal(get(store, 5, true, &m), STORE_NOT_FOUND);
	assert_int_equal(ask(store, "SELECT count FROM namespaces"), 0);
	assert_int_equal(ask(store, "SELECT bytes FROM namespaces"), 0);
	assert_int_equal(ask(store, "SELECT count(*) FROM history"), 0);
	assert_int_equal(ask(store, "SELECT count(*) FROM vectors"), 0);
	STORE(6, batch_delete(one, 99, 5, NS_A, DELETE_ERASE)); /* unknown: nothing */
	assert_int_equal(cursor_of(store), 6);
}

static void test_namespaces(void **state)
{
	(void)state;
	STORE(1, batch_namespace(one, NS_A, 5000, 100));
	STORE(2, batch_add(one, 2, 1, NS_A));
	STORE(3, batch_add(one, 3, 1, NS_B)); /* made by its first memory */
	STORE(4, batch_idem(one, 1, NS_A, 100, "x"));
	STORE(4, batch_idem(one, 2, NS_B, 100, "y"));
	assert_int_equal(
		ask(store,
		    "SELECT count(*) FROM namespaces WHERE present=1 AND count=1 AND dim=8 AND embedder='test-8'"),
		2);
	assert_int_equal(ask(store, "SELECT quota_bytes FROM namespaces WHERE name='alpha'"), 5000);
	STORE(5, batch_namespace(one, NS_A, 7000, 200)); /* changed; its age and counts stay */
	assert_int_equal(
		ask(store,
		    "SELECT count(*) FROM namespaces WHERE name='alpha' AND quota_bytes=7000 AND quota_count=70 AND relaxed=1"
		    " AND created_us=100 AND count=1"),
		1);
	STORE(6, batch_drop(one, NS_A));
	assert_int_equal(ask(store, "SELECT count(*) FROM memories"), 1);
	assert_int_equal(ask(store, "SELECT count(*) FROM vectors"), 1);
	assert_int_equal(ask(store, "SELECT count(*) FROM idempotency"), 1);
	assert_int_equal(ask(store, "SELECT present+count+bytes+quota_bytes+dim FROM namespaces WHERE name='alpha'"),
			 0);
	STORE(7, batch_add(one, 2, 9, NS_A)); /* again, with a life of its own */
	assert_int_equal(
		ask(store,
		    "SELECT count(*) FROM namespaces WHERE name='alpha' AND present=1 AND count=1 AND quota_bytes=0"
		    " AND created_us=1011 AND dim=8"),
		1);
}

static void test_idempotency(void **state)
{
	(void)state;
	struct op_idem o;
	struct buf reply = {NULL, 0, 0};
	STORE(1, batch_idem(one, 42, NS_A, 1000, "{\"ok\":1}"));
	assert_int_equal(ops->idem(store, 42, 999, &o, &reply), STORE_OK);
	assert_true(o.key == 42 && o.ns == NS && o.body_hash == 126 && o.status == 201 && o.expires_us == 1000 &&
		    o.reply_len == 8);
	assert_true(span_eq((struct span){reply.p, reply.len}, SPAN("{\"ok\":1}")));
	assert_int_equal(ops->idem(store, 42, 1000, &o, &reply), STORE_NOT_FOUND); /* expired */
	assert_int_equal(ops->idem(store, 43, 0, &o, &reply), STORE_NOT_FOUND);
	STORE(2, batch_idem(one, 42, NS_A, 2000, "")); /* the key used again after it expired */
	reply.len = 0;
	assert_int_equal(ops->idem(store, 42, 1500, &o, &reply), STORE_OK);
	assert_int_equal(reply.len, 0);
	STORE(3, batch_add(one, 1, 1, NS_A));
	STORE(4, batch_delete(one, 1, 2, NS_A, DELETE_SOFT));
	assert_int_equal(ops->idem(store, 42, 1500, &o, &reply), STORE_OK);
	STORE(5, batch_delete(one, 1, 3, NS_A, DELETE_ERASE)); /* the answer may repeat what was erased */
	assert_int_equal(ops->idem(store, 42, 1500, &o, &reply), STORE_NOT_FOUND);
	buf_free(&reply);
}

/* ---- chance: any batch twice is the same as once, and the books are right ---- */

static void random_op(struct batch *a, uint64_t *version)
{
	uint32_t n = below(40);
	const char *ns = n % 4 ? NS_A : NS_B; /* a memory stays in its namespace */
	switch (below(16)) {
	case 0:
	case 1: batch_delete(a, n, ++version[n], ns, DELETE_SOFT); break;
	case 2: batch_delete(a, n, ++version[n], ns, below(2) ? DELETE_ERASE : DELETE_EXPIRED); break;
	case 3: batch_idem(a, below(5), ns, 1000 + below(100), "reply"); break;
	case 4:
		if (below(8))
			batch_namespace(a, ns, below(1000), 50);
		else
			batch_drop(a, ns);
		break;
	default: {
		struct made *d = make(n, ++version[n], ns);
		char text[100];
		size_t len = 1 + below(90);
		for (size_t i = 0; i < len; i++)
			text[i] = (char)(1 + below(127));
		text[len] = 0;
		d->m.flags = below(6) ? 0 : MEMORY_SUPERSEDED;
		set_content(d, text);
		batch_put(a, d);
		made_free(d);
	}
	}
}

static void check_books(void)
{
	assert_int_equal(
		ask(store,
		    "SELECT count(*) FROM namespaces s WHERE count<>(SELECT count(*) FROM memories m WHERE m.ns=s.ns AND deleted_us=0)"),
		0);
	assert_int_equal(
		ask(store,
		    "SELECT count(*) FROM namespaces s WHERE bytes<>(SELECT ifnull(sum(bytes),0) FROM memories m WHERE m.ns=s.ns AND deleted_us=0)"),
		0);
	assert_int_equal(ask(store, "SELECT count(*) FROM vectors WHERE n NOT IN (SELECT n FROM memories WHERE dim>0)"),
			 0);
	assert_int_equal(ask(store, "SELECT count(*) FROM memories WHERE dim>0 AND n NOT IN (SELECT n FROM vectors)"),
			 0);
	/* every indexed memory stands in the words index once with its namespace */
	assert_int_equal(ask(store, "SELECT ifnull(sum(doc),0) FROM words_df WHERE col='scope'"),
			 ask(store, "SELECT count(*) FROM memories WHERE deleted_us=0 AND (flags&4)=0"));
	assert_int_equal(ask(store, "SELECT count(*) FROM history WHERE id NOT IN (SELECT id FROM memories)"), 0);
}

static void test_replay(void **state)
{
	(void)state;
	uint64_t version[40] = {0}, seq = 0;
	for (int round = 0; round < 150; round++) {
		struct batch a;
		batch_begin(&a);
		for (uint32_t i = 1 + below(8); i; i--)
			random_op(&a, version);
		batch_store(&a, ++seq);
		char *once = picture(store);
		assert_int_equal(ops->begin(store), STORE_OK);
		assert_int_equal(batch_apply(&a, seq), STORE_OK);
		assert_int_equal(ops->commit(store, seq), STORE_OK);
		char *twice = picture(store);
		same_picture(once, twice, "applied once, and again");
		free(once);
		free(twice);
		batch_free(&a);
		check_books();
	}
	/* All gone: the words index, which forgets only by being told the same text again, is empty. */
	STORE(++seq, batch_drop(one, NS_A));
	STORE(++seq, batch_drop(one, NS_B));
	assert_int_equal(ask(store, "SELECT count(*) FROM words_df"), 0);
	assert_int_equal(
		ask(store,
		    "SELECT (SELECT count(*) FROM memories)+(SELECT count(*) FROM vectors)+(SELECT count(*) FROM history)"),
		0);
	query(store, "INSERT INTO words(words) VALUES('integrity-check')", NULL);
}

/* Operations that are malformed or of a later program are passed over, the others hold. */
static void test_unknown_ops(void **state)
{
	(void)state;
	struct batch a;
	struct seen m;
	batch_begin(&a);
	txn_op_raw(&a.t, OP_PUT, "short", 5, NULL, 0);
	txn_op_raw(&a.t, (enum op_type)77, "what", 4, NULL, 0);
	batch_add(&a, 1, 1, NS_A);
	txn_end(&a.t);
	struct txn_reader r;
	if (txn_open(&r, a.b.p, a.b.len)) { /* else the frame was refused, which is as good */
		assert_int_equal(ops->begin(store), STORE_OK);
		assert_int_equal(ops->apply(store, 1, &r), STORE_OK);
		assert_int_equal(ops->commit(store, 1), STORE_OK);
		assert_int_equal(get(store, 1, false, &m), STORE_OK);
	}
	batch_free(&a);
}

#define T(f) cmocka_unit_test_setup_teardown(f, world_begin, world_end)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(test_open),	     T(test_reopen),	 T(test_rollback),    T(test_killed), T(test_versions),
		T(test_soft_delete), T(test_namespaces), T(test_idempotency), T(test_replay), T(test_unknown_ops)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
