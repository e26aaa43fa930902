/* The readers' side of both stores (test_pg_store_read.c includes this): single memories by each key, lists in both orders with every condition,
 * compared with a plain table; history, neighbours, vectors, collection. Broken code this would catch: a row of
 * another namespace, an expired one, one twice or none at the seam of two pages, a cursor that is not strict. */
#include "clock.h"
#include "store_model.h"

#define NS record_ns(SPAN(NS_A))
#define N 120

/* What the store should hold. */
static struct row {
	uint64_t version;
	int64_t expires_us, deleted_us;
	bool beta, pinned;
} table[N];

static void fill(void)
{
	struct batch a;
	batch_begin(&a);
	for (uint32_t n = 0; n < N; n++) {
		struct row *r = &table[n];
		*r = (struct row){
			.version = 1, .expires_us = n % 6 == 0 ? 500 + n : 0, .beta = n % 7 == 0, .pinned = n % 2};
		struct made *d = make(n, 1, r->beta ? NS_B : NS_A);
		d->m.expires_us = r->expires_us;
		d->m.flags = r->pinned ? MEMORY_PINNED : 0;
		batch_put(&a, d);
		made_free(d);
		if (n % 5 == 1) {
			batch_delete(&a, n, 2, r->beta ? NS_B : NS_A, DELETE_SOFT);
			r->version = 2, r->deleted_us = 5002;
		}
	}
	batch_store(&a, 1);
	batch_free(&a);
}

struct listing {
	const struct store_list *q;
	uint32_t at[N];
	size_t n, stop;
	bool whole;
};

static bool take(void *arg, const struct memory *m)
{
	struct listing *l = arg;
	uint32_t n = number_of(&m->id);
	assert_true(n < N && l->n < N);
	assert_true(m->version == table[n].version && m->expires_us == table[n].expires_us && m->ns == l->q->ns);
	if (l->whole) {
		char text[64];
		snprintf(text, sizeof(text), "memory %u of version 1", n);
		assert_true(span_eq(m->content, SPAN(text)));
		assert_int_equal(m->deleted_us, table[n].deleted_us);
		assert_true(!!m->embedding == (l->q->with_embedding && n % 3 != 1));
		assert_true(!m->embedding || m->embedding[3] == component(n, 1, 3));
	}
	l->at[l->n++] = n;
	return l->n != l->stop;
}

static bool wanted(uint32_t n, const struct store_list *q)
{
	const struct row *r = &table[n];
	struct uuid id = id_of(n);
	int c = uuid_cmp(&id, &q->after);
	return record_ns(SPAN(r->beta ? NS_B : NS_A)) == q->ns && !!r->deleted_us == q->deleted &&
	       (!r->expires_us || r->expires_us > q->now_us) && (!q->filter || r->pinned) &&
	       (!q->have_after || (q->descending ? c < 0 : c > 0));
}

static void check(const struct store_list *q, size_t stop)
{
	struct listing l = {.q = q, .whole = true, .stop = stop}, ids = {.q = q, .stop = stop};
	uint32_t want[N];
	size_t n = 0, total = 0;
	uint64_t counted;
	for (uint32_t i = 0; i < N; i++) {
		uint32_t at = q->descending ? N - 1 - i : i;
		if (!wanted(at, q))
			continue;
		total++;
		if ((!q->limit || n < q->limit) && (!stop || n < stop))
			want[n++] = at;
	}
	assert_int_equal(ops->list(store, q, take, &l), STORE_OK);
	assert_int_equal(ops->ids(store, q, take, &ids), STORE_OK);
	assert_true(l.n == n && ids.n == n);
	assert_memory_equal(l.at, want, n * sizeof(*want));
	assert_memory_equal(ids.at, want, n * sizeof(*want));
	assert_int_equal(ops->count(store, q, &counted), STORE_OK);
	assert_int_equal(counted, total);
}

static void test_lists(void **state)
{
	(void)state;
	char *error;
	json_t *j = json_pack("{sb}", "pinned", 1);
	struct filter *pinned = filter_parse(j, &error), *empty = filter_parse(NULL, &error);
	static const int64_t nows[] = {0, 500, 506, 560, 1000};
	assert_true(pinned && empty);
	fill();
	for (unsigned i = 0; i < (POSTGRES ? 1000 : 3000); i++) {
		struct store_list q = {.ns = below(9) ? record_ns(SPAN(below(3) ? NS_A : NS_B)) : 12345,
				       .descending = below(2),
				       .have_after = below(2),
				       .limit = below(3) ? below(30) : 0,
				       .now_us = nows[below(5)],
				       .deleted = below(3) == 0,
				       .with_embedding = below(2),
				       .filter = below(3) ? NULL : pinned};
		q.after = id_of(below(N + 3)); /* ids in the list, and behind it */
		check(&q, below(4) ? 0 : 1 + below(10));
	}
	struct store_list q = {.ns = NS, .filter = empty};
	struct listing l = {.q = &q};
	assert_int_equal(ops->list(store, &q, take, &l), STORE_OK); /* an empty filter is none */
	assert_true(l.n > 50);
	filter_free(&pinned);
	filter_free(&empty);
	json_decref(j);
}

/* Pages of any size, put together, are the whole list. */
static void test_pages(void **state)
{
	(void)state;
	fill();
	for (size_t size = 1; size < 20; size++) {
		struct store_list all = {.ns = NS, .descending = size % 2}, q = all;
		struct listing whole = {.q = &all}, pages = {.q = &q};
		q.limit = size;
		assert_int_equal(ops->ids(store, &all, take, &whole), STORE_OK);
		for (size_t before = 1; before != pages.n;) {
			before = pages.n;
			assert_int_equal(ops->ids(store, &q, take, &pages), STORE_OK);
			q.have_after = pages.n > 0;
			q.after = id_of(pages.at[pages.n - 1]);
		}
		assert_int_equal(pages.n, whole.n);
		assert_memory_equal(pages.at, whole.at, whole.n * sizeof(*whole.at));
	}
}

static void test_point_reads(void **state)
{
	(void)state;
	struct seen m;
	struct made *a = make(15, 1, NS_A), *b = make(11, 1, NS_A), *other = make(15, 1, NS_B);
	other->m.id = id_of(20);
	body_make(other);
	b->m.content_hash = a->m.content_hash; /* another text with the same key */
	body_make(b);
	STORE(1, batch_put(one, b); batch_put(one, a); batch_put(one, other));
	uint64_t key = a->m.content_hash;
	m.calls = 0;
	assert_int_equal(ops->by_content(store, NS, key, a->m.content, true, see, &m), STORE_OK);
	assert_true(number_of(&m.m.id) == 15 && m.calls == 1);
	assert_int_equal(ops->by_content(store, NS, key, b->m.content, false, see, &m), STORE_OK);
	assert_int_equal(number_of(&m.m.id), 11);
	assert_int_equal(ops->by_content(store, NS, key, SPAN("neither"), false, see, &m), STORE_NOT_FOUND);
	assert_int_equal(ops->by_content(store, 5, key, a->m.content, false, see, &m), STORE_NOT_FOUND);
	assert_int_equal(ops->by_external(store, NS, SPAN("ext-15"), true, see, &m), STORE_OK);
	assert_int_equal(number_of(&m.m.id), 15);
	assert_memory_equal(m.x, a->x, sizeof(m.x));
	assert_int_equal(ops->by_external(store, record_ns(SPAN(NS_B)), SPAN("ext-15"), false, see, &m), STORE_OK);
	assert_int_equal(number_of(&m.m.id), 20);
	assert_int_equal(ops->by_external(store, NS, SPAN("ext-1"), false, see, &m), STORE_NOT_FOUND);
	assert_int_equal(ops->by_external(store, NS, SPAN(""), false, see, &m), STORE_NOT_FOUND);
	STORE(2, batch_delete(one, 15, 2, NS_A, DELETE_SOFT));
	assert_int_equal(ops->by_content(store, NS, key, a->m.content, false, see, &m), STORE_NOT_FOUND);
	assert_int_equal(ops->by_external(store, NS, SPAN("ext-15"), false, see, &m), STORE_NOT_FOUND);
	assert_int_equal(get(store, 999, false, &m), STORE_NOT_FOUND);
	made_free(a);
	made_free(b);
	made_free(other);
}

/* Every field of a memory, and texts that JSON escapes, come back as they went in. */
static void test_fields(void **state)
{
	(void)state;
	struct seen m;
	char text[130];
	for (int i = 0; i < 129; i++)
		text[i] = (char)(i < 127 ? i + 1 : i == 127 ? '\\' : '"');
	text[129] = 0;
	struct made *d = make(5, 7, NS_A);
	set_content(d, text);
	d->m.expires_us = INT64_MAX;
	d->m.flags = MEMORY_PINNED | MEMORY_SUPERSEDED | MEMORY_CLIENT_EMBEDDING;
	d->m.importance = 0.1f;
	d->m.content_hash = UINT64_MAX - 5; /* 64 bits that SQLite calls negative */
	d->m.agent_id = SPAN("\xc3\xa4gent");
	STORE(1, batch_put(one, d));
	assert_int_equal(get(store, 5, false, &m), STORE_OK);
	assert_string_equal(m.content, text);
	assert_true(m.m.ns == NS && m.m.version == 7 && m.m.created_us == 1005 && m.m.expires_us == INT64_MAX &&
		    m.m.deleted_us == 0);
	assert_true(m.m.flags == d->m.flags && m.m.importance == 0.1f && m.m.content_hash == UINT64_MAX - 5 &&
		    m.m.dim == 8);
	struct uuid id = id_of(5);
	assert_memory_equal(&m.m.id, &id, sizeof(id));
	made_free(d);
}

struct past {
	uint64_t v[8];
	size_t n, stop;
};

static bool take_past(void *arg, const struct memory *m)
{
	struct past *p = arg;
	char text[64];
	snprintf(text, sizeof(text), "\"content\":\"memory 3 of version %llu\"", (unsigned long long)m->version);
	if (!m->deleted_us)
		assert_non_null(memmem(m->body.p, m->body.len, text, strlen(text)));
	assert_true(m->ns == NS && span_eq(m->ns_name, SPAN(NS_A)) && number_of(&m->id) == 3);
	p->v[p->n++] = m->version;
	return p->n != p->stop;
}

static void test_history(void **state)
{
	(void)state;
	struct uuid id = id_of(3);
	struct past p = {.n = 0}, first = {.stop = 1};
	STORE(1, batch_add(one, 3, 1, NS_A); batch_add(one, 4, 1, NS_A));
	assert_int_equal(ops->history(store, &id, take_past, &p), STORE_NOT_FOUND); /* older versions only */
	STORE(2, batch_add(one, 3, 2, NS_A); batch_delete(one, 3, 3, NS_A, DELETE_SOFT); batch_add(one, 3, 4, NS_A));
	assert_int_equal(ops->history(store, &id, take_past, &p), STORE_OK);
	const struct past want = {{3, 2, 1}, 3, 0};
	assert_int_equal(p.n, want.n);
	assert_memory_equal(p.v, want.v, want.n * sizeof(*want.v));
	assert_int_equal(ops->history(store, &id, take_past, &first), STORE_OK);
	assert_int_equal(first.n, 1);
	STORE(3, batch_delete(one, 3, 5, NS_A, DELETE_ERASE));
	p.n = 0;
	assert_int_equal(ops->history(store, &id, take_past, &p), STORE_NOT_FOUND);
}

static void in_session(struct batch *a, uint32_t n, const char *session, int64_t expires_us, uint32_t flags,
		       const char *ns)
{
	struct made *d = make(n, 1, ns);
	d->m.session_id = SPAN(session);
	d->m.expires_us = expires_us;
	d->m.flags = flags;
	batch_put(a, d);
	made_free(d);
}

static void around(uint32_t n, int64_t now_us, size_t count, const int *distance, const uint32_t *number)
{
	struct store_neighbour nb[4];
	struct uuid id = id_of(n);
	size_t got = 9;
	assert_int_equal(ops->neighbours(store, &id, now_us, nb, &got), STORE_OK);
	assert_int_equal(got, count);
	for (size_t i = 0; i < count; i++) {
		size_t k = 0;
		while (k < got && nb[k].distance != distance[i])
			k++;
		assert_true(k < got && number_of(&nb[k].id) == number[i]);
	}
}

static void test_neighbours(void **state)
{
	(void)state;
	struct batch a;
	batch_begin(&a);
	for (uint32_t n = 10; n < 20; n++)
		in_session(&a, n, "s", 0, 0, NS_A);
	in_session(&a, 30, "other", 0, 0, NS_A);
	in_session(&a, 21, "s", 0, 0, NS_B);
	in_session(&a, 31, "", 0, 0, NS_A); /* of no session */
	in_session(&a, 32, "", 0, 0, NS_A);
	batch_store(&a, 1);
	batch_free(&a);
	around(14, 0, 4, (const int[]){-2, -1, 1, 2}, (const uint32_t[]){12, 13, 15, 16});
	around(10, 0, 2, (const int[]){1, 2}, (const uint32_t[]){11, 12});
	around(19, 0, 2, (const int[]){-1, -2}, (const uint32_t[]){18, 17});
	around(30, 0, 0, NULL, NULL);
	around(31, 0, 0, NULL, NULL);
	around(99, 0, 0, NULL, NULL);
	/* deleted, superseded and expired ones are stepped over */
	STORE(2, batch_delete(one, 13, 2, NS_A, DELETE_SOFT));
	batch_begin(&a);
	struct made *d = make(15, 2, NS_A);
	d->m.session_id = SPAN("s"), d->m.flags = MEMORY_SUPERSEDED;
	batch_put(&a, d);
	made_free(d);
	d = make(16, 2, NS_A);
	d->m.session_id = SPAN("s"), d->m.expires_us = 100;
	batch_put(&a, d);
	made_free(d);
	batch_store(&a, 3);
	batch_free(&a);
	around(14, 99, 4, (const int[]){-2, -1, 1, 2}, (const uint32_t[]){11, 12, 16, 17});
	around(14, 100, 4, (const int[]){-2, -1, 1, 2}, (const uint32_t[]){11, 12, 17, 18});
}

struct paging {
	uint32_t last;
	size_t n, stop;
};

static bool take_indexed(void *arg, const struct store_indexed *x)
{
	struct paging *p = arg;
	uint32_t n = number_of(&x->id);
	struct made *m = make(n, 1, NS_A);
	assert_true(n > p->last && !table[n].deleted_us && x->version == 1 && x->dim == (n % 3 != 1 ? 8 : 0));
	assert_true(x->ns == record_ns(SPAN(table[n].beta ? NS_B : NS_A)) && x->expires_us == table[n].expires_us);
	assert_true(x->dim ? x->x[0] == component(n, 1, 0) : !x->x);
	assert_true(span_eq(x->content, m->m.content));
	made_free(m);
	p->last = n;
	p->n++;
	return p->n != p->stop;
}

static void test_indexed(void **state)
{
	(void)state;
	size_t want = 0;
	uint64_t all;
	fill();
	struct made *old = make(2, 2, table[2].beta ? NS_B : NS_A); /* superseded: of no use to a search */
	old->m.flags = MEMORY_SUPERSEDED;
	STORE(2, batch_put(one, old));
	made_free(old);
	for (uint32_t n = 1; n < N; n++) /* 0 would be "not behind the first" in take_indexed */
		want += !table[n].deleted_us && n != 2;
	struct paging p = {.last = 0};
	struct uuid after = id_of(0);
	for (size_t before = 1; before != p.n;) {
		before = p.n;
		assert_int_equal(ops->indexed(store, &after, 7, take_indexed, &p), STORE_OK);
		after = id_of(p.last);
	}
	assert_int_equal(p.n, want);
	struct paging some = {.stop = 3};
	after = id_of(0);
	assert_int_equal(ops->indexed(store, &after, 50, take_indexed, &some), STORE_OK);
	assert_int_equal(some.n, 3);
	assert_int_equal(ops->indexed_count(store, &all), STORE_OK);
	assert_int_equal(all, ask(store, POSTGRES ? "SELECT count(*) FROM memories"
						  : "SELECT count(*) FROM memories WHERE deleted_us=0"));
}

static bool collected(void *arg, const struct memory *m)
{
	bool *seen = arg;
	uint32_t n = number_of(&m->id);
	assert_false(seen[n]);
	assert_true(m->ns_name.len && m->version == table[n].version);
	return seen[n] = true;
}

#if !POSTGRES
static void test_collect(void **state)
{
	(void)state;
	bool seen[N] = {false};
	struct op_idem o;
	struct buf reply = {NULL, 0, 0};
	fill();
	STORE(2, batch_idem(one, 1, NS_A, 700, "x"); batch_idem(one, 2, NS_A, 701, "x"));
	assert_int_equal(ops->collect(store, 506, 5001, N, collected, seen), STORE_OK);
	for (uint32_t n = 0; n < N; n++)
		assert_int_equal(seen[n], table[n].expires_us && table[n].expires_us <= 506);
	memset(seen, 0, sizeof(seen));
	assert_int_equal(ops->collect(store, 0, 5002, N, collected, seen), STORE_OK);
	for (uint32_t n = 0; n < N; n++)
		assert_int_equal(seen[n], table[n].deleted_us != 0);
	memset(seen, 0, sizeof(seen));
	assert_int_equal(ops->collect(store, 700, 0, 4, collected, seen), STORE_OK);
	size_t k = 0;
	for (uint32_t n = 0; n < N; n++)
		k += seen[n];
	assert_int_equal(k, 4);
	assert_int_equal(ask(store, "SELECT count(*) FROM idempotency"), 1);
	assert_int_equal(ops->idem(store, 2, 0, &o, &reply), STORE_OK);
	memset(seen, 0, sizeof(seen));
	assert_int_equal(ops->collect(store, 0, 0, 9, collected, seen), STORE_OK); /* nothing to do is no error */
	buf_free(&reply);
}
#endif

static void note_namespace(void *arg, const struct store_ns *n)
{
	struct store_ns *out = arg;
	out[strcmp(n->name, NS_B) == 0] = *n;
}

static bool newest(void *arg, const struct memory *m)
{
	uint32_t *at = arg;
	assert_true(at[0] == 0 || number_of(&m->id) < at[1]);
	at[0]++;
	at[1] = number_of(&m->id);
	return true;
}

static void test_overviews(void **state)
{
	(void)state;
	struct store_ns ns[2] = {{.ns = 0}, {.ns = 0}};
	uint32_t at[2] = {0, 0};
	fill();
	STORE(2, batch_namespace(one, NS_B, 1000, clock_real_us() + 3600000000));
	assert_int_equal(ops->namespaces(store, note_namespace, ns), STORE_OK);
	assert_true(ns[0].exists && ns[1].exists && ns[0].ns == NS && ns[0].dim == 8 && ns[1].quota_bytes == 1000 &&
		    ns[1].quota_count == 10);
	assert_true(ns[1].relaxed == 1 && ns[0].relaxed == 0);
	assert_string_equal(ns[0].embedder, "test-8");
	for (int i = 0; i < 2; i++) {
		uint64_t want = 0, bytes = 0;
		for (uint32_t n = 0; n < N; n++)
			if (table[n].beta == i && !table[n].deleted_us) {
				struct made *d = make(n, 1, i ? NS_B : NS_A);
				bytes += memory_quota_bytes(&d->m);
				made_free(d);
				want++;
			}
		assert_true(ns[i].count == want && ns[i].bytes == bytes);
	}
	assert_int_equal(ops->recent(store, NULL, 10, newest, at), STORE_OK);
	assert_int_equal(at[0], 10);
	uint32_t tenth = N;
	for (int i = 0; i < 10; i++)
		do
			tenth--;
		while (POSTGRES && table[tenth].deleted_us); /* it has only live ones there */
	assert_int_equal(at[1], tenth);
	at[0] = 0;
	assert_int_equal(ops->recent(store, NULL, N + 1, newest, at), STORE_OK);
	assert_int_equal(at[0], POSTGRES ? N - N / 5 : N);
}

#define T(f) cmocka_unit_test_setup_teardown(f, world_begin, world_end)
#define COMMON_TESTS                                                                                                   \
	T(test_lists), T(test_pages), T(test_point_reads), T(test_fields), T(test_history), T(test_neighbours),        \
		T(test_indexed), T(test_collect), T(test_overviews)

#if !POSTGRES
int main(void)
{
	const struct CMUnitTest tests[] = {COMMON_TESTS};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
#endif
