/* What test_store_read.c says of the store, of PostgreSQL, in one table and in partitions; and what only that one does:
 * it is asked in pages, and the server's clock says what is over. Broken code this would catch: a row twice or none at
 * the seam of two pages, a limit that counts rows which the filter refuses, a caller's clock that expires memories. */
#define POSTGRES 1
#include "test_store_read.c"

/* What has expired is the server's to say: of its own hour, not of the caller's. */
static void test_collect(void **state)
{
	(void)state;
	bool seen[N] = {false};
	struct op_idem o;
	struct buf reply = {NULL, 0, 0};
	const int64_t now = clock_real_us(), hour = 3600000000, day = 24 * hour;
	fill();
	query(store,
	      "UPDATE memory_trash SET deleted_at=now()-'2 days'::interval;"
	      "UPDATE memories SET expires_at=CASE WHEN extract(microsecond FROM expires_at)<560"
	      " THEN now()-'1 second'::interval ELSE now()+'1 hour'::interval END WHERE expires_at IS NOT NULL",
	      NULL);
	for (uint32_t n = 0; n < N; n++)
		if (table[n].expires_us)
			table[n].expires_us = table[n].expires_us < 560 ? now - hour : now + hour;
	STORE(2, batch_idem(one, 1, NS_A, now - hour, "x"); batch_idem(one, 2, NS_A, now + hour, "x"));
	assert_int_equal(ops->collect(store, 0, -3 * day, N, collected, seen), STORE_OK); /* a clock of 1970 */
	for (uint32_t n = 0; n < N; n++)
		assert_int_equal(seen[n], table[n].expires_us && table[n].expires_us < now && !table[n].deleted_us);
	memset(seen, 0, sizeof(seen));
	assert_int_equal(ops->collect(store, now + 9 * day, now + 8 * day, N, collected, seen), STORE_OK);
	for (uint32_t n = 0; n < N; n++)
		assert_int_equal(seen[n], table[n].deleted_us || (table[n].expires_us && table[n].expires_us < now));
	memset(seen, 0, sizeof(seen));
	assert_int_equal(ops->collect(store, 0, 0, 4, collected, seen), STORE_OK);
	size_t k = 0;
	for (uint32_t n = 0; n < N; n++)
		k += seen[n];
	assert_int_equal(k, 4);
	assert_int_equal(ask(store, "SELECT count(*) FROM memory_idempotency"), 1);
	assert_int_equal(ops->idem(store, 2, now, &o, &reply), STORE_OK);
	assert_true(o.ns == NS && o.key == 2 && o.body_hash == 6 && o.status == 201 && o.expires_us == now + hour);
	assert_true(span_eq((struct span){reply.p, reply.len}, SPAN("x")));
	assert_int_equal(ops->idem(store, 2, now + hour, &o, &reply), STORE_NOT_FOUND);
	buf_free(&reply);
}

/* Marks of what was erased or expired go after a month, and nothing else does. */
static void test_marks(void **state)
{
	(void)state;
	bool seen[N] = {false};
	STORE(1, batch_add(one, 1, 1, NS_A); batch_add(one, 2, 1, NS_A); batch_add(one, 3, 1, NS_A);
	      batch_add(one, 4, 1, NS_A));
	STORE(2, batch_delete(one, 1, 2, NS_A, DELETE_ERASE); batch_delete(one, 2, 2, NS_A, DELETE_EXPIRED);
	      batch_delete(one, 3, 2, NS_A, DELETE_SOFT); batch_delete(one, 4, 2, NS_A, DELETE_ERASE));
	query(store,
	      "UPDATE memory_trash SET deleted_at=now()-'31 days'::interval WHERE how<>1 AND version=2;"
	      "UPDATE memory_trash SET deleted_at=now()-'29 days'::interval WHERE how=1",
	      NULL);
	struct buf b = {NULL, 0, 0};
	char id[UUID_TEXT];
	struct uuid kept = id_of(4);
	uuid_format(&kept, id);
	buf_printf(&b, "UPDATE memory_trash SET deleted_at=now() WHERE id='%.*s'", UUID_TEXT, id);
	buf_addc(&b, 0);
	query(store, b.p, NULL);
	buf_free(&b);
	assert_int_equal(ops->collect(store, 0, INT64_C(-9000000000000000), N, collected, seen), STORE_OK);
	assert_int_equal(ask(store, "SELECT count(*) FROM memory_trash"), 3);
	assert_int_equal(ask(store, "SELECT count(*) FROM memory_trash WHERE how=2"), 1);
}

/* Lists of several pages, of rows and of ids, in both orders, with limits that end within, at and behind a page; by a
 * filter that SQL cannot say exactly, limit and count are of what matches. */
#define LONG 9000

static bool take_long(void *arg, const struct memory *m)
{
	struct paging *p = arg;
	uint32_t n = number_of(&m->id);
	assert_true(p->last > n ? p->last - n == p->stop : n - p->last == p->stop);
	p->last = n;
	p->n++;
	return true;
}

static void walk_long(const struct filter *f, size_t step, size_t limit)
{
	size_t all = (LONG - 1) / step, want = limit && limit < all ? limit : all;
	for (int i = 0; i < 4; i++) {
		struct store_list q = {.ns = NS, .filter = f, .limit = limit, .descending = i & 1};
		struct paging p = {.last = q.descending ? (uint32_t)(step * (all + 1)) : 0, .stop = step};
		assert_int_equal((i & 2 ? ops->ids : ops->list)(store, &q, take_long, &p), STORE_OK);
		assert_int_equal(p.n, want);
	}
}

static void test_long_lists(void **state)
{
	(void)state;
	static const size_t limits[] = {0, 1, 63, 64, 65, 320, 4095, 4096, 4097, 8192, LONG};
	char *error;
	uint64_t counted;
	STORE(1, batch_namespace(one, NS_A, 0, 1));
	query(store,
	      "INSERT INTO memories(id,namespace,version,node,content,metadata,importance,flags,created_at,updated_at,"
	      "content_key,bytes,dim,body) SELECT ('01930000-0000-7000-8000-0000'||lpad(to_hex(n),8,'0'))::uuid,'alpha',"
	      "1,7,'x',j,0.5,0,now(),now(),n,1,0,'{\"metadata\":'||j::text||'}' FROM (SELECT n,jsonb_build_object('n',"
	      "CASE n%7 WHEN 0 THEN 9007199254740993 ELSE 9007199254740992 END) AS j FROM generate_series(1,8999) n) x",
	      NULL);
	json_t *j = json_pack("{sI}", "metadata.n", (json_int_t)9007199254740993);
	struct filter *seventh = filter_parse(j, &error);
	for (size_t i = 0; i < ARRAY_LEN(limits); i++) {
		walk_long(NULL, 1, limits[i]);
		walk_long(seventh, 7, limits[i]);
	}
	struct store_list q = {.ns = NS, .filter = seventh, .limit = 3};
	assert_int_equal(ops->count(store, &q, &counted), STORE_OK);
	assert_int_equal(counted, (LONG - 1) / 7);
	filter_free(&seventh);
	json_decref(j);
}

static void test_many(void **state)
{
	(void)state;
	struct uuid ids[600];
	struct seen m = {.calls = 0};
	fill();
	for (uint32_t n = 0; n < 600; n++)
		ids[n] = id_of(n % 4 ? N + n : n / 4); /* among strangers */
	assert_int_equal(ops->get_many(store, ids, 600, true, see, &m), STORE_OK);
	assert_int_equal(m.calls, N);
	assert_int_equal(ops->get_many(store, ids + 1, 3, true, see, &m), STORE_OK);
	assert_int_equal(m.calls, N);
	assert_int_equal(ops->get_many(store, ids, 0, true, see, &m), STORE_OK);
}
static void count_names(void *arg, const struct store_ns *n)
{
	size_t *k = arg;
	assert_true(n->ns == record_ns(SPAN(n->name)) && n->exists);
	++*k;
}

/* More names than a page of them has. */
static void test_many_namespaces(void **state)
{
	(void)state;
	size_t n = 0;
	uint64_t counted;
	STORE(1, batch_add(one, 1, 1, "zulu"); batch_add(one, 2, 1, "zulu"));
	query(store,
	      "INSERT INTO memory_namespaces(name,created_at,changed_at) SELECT 'n'||g,now(),now() FROM"
	      " generate_series(1,4999) g",
	      NULL);
	assert_int_equal(ops->namespaces(store, count_names, &n), STORE_OK);
	assert_int_equal(n, 5000);
	reopen();
	struct store_list q = {.ns = record_ns(SPAN("zulu"))};
	assert_int_equal(ops->count(store, &q, &counted), STORE_OK);
	assert_int_equal(counted, 2);
	STORE(2, batch_add(one, 3, 1, "later")); /* it is not known yet when it is asked for */
	q.ns = record_ns(SPAN("later"));
	assert_int_equal(ops->count(store, &q, &counted), STORE_OK);
	assert_int_equal(counted, 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {COMMON_TESTS, T(test_marks), T(test_long_lists), T(test_many),
					   T(test_many_namespaces)};
	int failed = cmocka_run_group_tests_name("one table", tests, NULL, NULL);
	pg_test_partitions = 3;
	return failed + cmocka_run_group_tests_name("partitions", tests, NULL, NULL);
}
