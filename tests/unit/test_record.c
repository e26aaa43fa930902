/* Memories and transactions as bytes. Broken code this would catch: a field that does not survive, a
 * length that is believed beyond the buffer, a misaligned vector or operation, keys of different kinds or
 * namespaces that collide, quota bytes that differ between who writes and who reads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "record.h"
#include "vocabulary.h"

static float vector[LIMIT_DIMENSIONS], few[LIMIT_DIMENSIONS]; /* few: of few values, which is packed */
static char long_text[LIMIT_CONTENT];

static struct memory sample(void)
{
	struct memory m = {.ns = record_ns(SPAN("default")),
			   .version = 7,
			   .created_us = 1,
			   .updated_us = 2,
			   .expires_us = 3,
			   .deleted_us = 4,
			   .flags = MEMORY_PINNED | MEMORY_SUPERSEDED,
			   .importance = 0.25f,
			   .content_hash = 99,
			   .ns_name = SPAN("default"),
			   .content = SPAN("likes tea"),
			   .kind = SPAN("fact"),
			   .user_id = SPAN("u1"),
			   .agent_id = SPAN("a12"),
			   .session_id = SPAN("s123"),
			   .external_id = SPAN("e1234"),
			   .embedder = SPAN("hash-v1"),
			   .body = SPAN("{\"content\":\"likes tea\"}"),
			   .embedding = vector,
			   .dim = 3,
			   .replaces_bytes = -1};
	for (int i = 0; i < 16; i++)
		m.id.b[i] = (uint8_t)(i + 1);
	return m;
}

static void same(const struct memory *a, const struct memory *b)
{
	assert_int_equal(uuid_cmp(&a->id, &b->id), 0);
	assert_true(a->ns == b->ns && a->version == b->version);
	assert_true(a->created_us == b->created_us && a->updated_us == b->updated_us);
	assert_true(a->expires_us == b->expires_us && a->deleted_us == b->deleted_us);
	assert_true(a->flags == b->flags && a->content_hash == b->content_hash);
	assert_true(a->replaces_bytes == b->replaces_bytes);
	assert_memory_equal(&a->importance, &b->importance, sizeof(float));
	assert_true(span_eq(a->ns_name, b->ns_name) && span_eq(a->content, b->content));
	assert_true(span_eq(a->kind, b->kind) && span_eq(a->user_id, b->user_id));
	assert_true(span_eq(a->agent_id, b->agent_id) && span_eq(a->session_id, b->session_id));
	assert_true(span_eq(a->external_id, b->external_id) && span_eq(a->embedder, b->embedder));
	assert_true(span_eq(a->body, b->body));
	assert_int_equal(a->dim, b->dim);
	float room[LIMIT_DIMENSIONS];
	const float *x = memory_vector(b, room);
	assert_true(!a->dim == !x);
	if (a->dim)
		assert_memory_equal(a->embedding, x, a->dim * sizeof(float));
	assert_int_equal(memory_quota_bytes(a), memory_quota_bytes(b));
}

/* Encodes m as the only operation; *body_r points into b. */
static size_t encode(struct buf *b, const struct memory *m, const void **body_r)
{
	struct txn_builder t;
	struct txn_reader r;
	const struct op_head *op;
	b->len = 0;
	txn_begin(&t, b, 1, 3, 0, 0);
	txn_op_put(&t, m);
	txn_end(&t);
	assert_true(txn_open(&r, b->p, b->len));
	assert_true(txn_next(&r, &op, body_r));
	assert_int_equal(op->type, OP_PUT);
	return op->len;
}

static void test_memory(void **state)
{
	(void)state;
	struct buf b = {0};
	struct memory m = sample(), back;
	const void *body;
	for (uint32_t i = 0; i < LIMIT_DIMENSIONS; i++)
		vector[i] = (float)i * 0.5f, few[i] = i % 9 ? 0 : (float)(i % 4);
	memset(long_text, 'x', sizeof(long_text));
	for (unsigned i = 0; i < 64; i++) { /* every text length mod 8, dims odd and even, absent parts */
		m.content = (struct span){long_text, i * 1000 + i};
		m.kind.len = i % 5 ? 4 : 0;
		m.dim = i % 7 == 0 ? 0 : i % 7 == 1 ? LIMIT_DIMENSIONS : i;
		m.embedding = m.dim ? i % 3 ? vector : few : NULL;
		m.version = (uint64_t)i << 40;
		m.replaces_bytes = (int64_t)i * 1000 - 1;
		size_t len = encode(&b, &m, &body);
		assert_int_equal((uintptr_t)body & 7, 0);
		assert_int_equal(b.len % 8, 0);
		assert_true(memory_decode(body, len, &back));
		assert_int_equal((uintptr_t)back.embedding & 3, 0);
		same(&m, &back);
		assert_true(m.embedding != few || m.dim < 16 || back.packed.len);
		struct buf again = {0};
		const void *copy;
		size_t n = encode(&again, &back, &copy); /* as it is: not unpacked in between */
		assert_int_equal(n, len);
		assert_memory_equal(copy, body, len);
		buf_free(&again);
	}
	buf_free(&b);
}

/* No body that is shorter or longer is a memory, and none is read past its end (sanitizer). */
static void test_memory_cut(void **state)
{
	(void)state;
	struct buf b = {0};
	struct memory m = sample(), back;
	const void *body;
	m.embedding = few, m.dim = 100;
	size_t len = encode(&b, &m, &body);
	for (size_t n = 0; n <= len + 8; n++) {
		char *exact = calloc(1, n ? n : 1);
		memcpy(exact, body, n < len ? n : len);
		assert_int_equal(memory_decode(exact, n, &back), n == len);
		free(exact);
	}
	/* limits hold whoever wrote the bytes */
	m.ns_name = (struct span){long_text, LIMIT_NAMESPACE + 1};
	len = encode(&b, &m, &body);
	assert_false(memory_decode(body, len, &back));
	m = sample();
	m.embedder = (struct span){long_text, RECORD_EMBEDDER_MAX + 1};
	len = encode(&b, &m, &body);
	assert_false(memory_decode(body, len, &back));
	m.embedder.len--;
	len = encode(&b, &m, &body);
	assert_true(memory_decode(body, len, &back));
	buf_free(&b);
}

static void test_transaction(void **state)
{
	(void)state;
	struct buf b = {0};
	struct txn_builder t;
	struct txn_reader r;
	const struct op_head *op;
	const void *body;
	struct memory m = sample(), back;
	struct op_delete d = {.id = m.id, .ns = 5, .version = 8};
	struct op_idem i = {.ns = 5, .key = 6, .status = 201, .reply_len = 5};
	struct op_namespace n = {.ns = 5, .name_len = 3, .settings_len = 2};
	buf_adds(&b, "8 before"); /* a transaction is appended to what is there */
	txn_begin(&t, &b, 0x100000002, 4, 77, TXN_WAIT_STORE);
	for (uint64_t k = 0; k < 3; k++)
		txn_read_key(&t, k + 10);
	txn_op_put(&t, &m);
	txn_op_raw(&t, OP_DELETE, &d, sizeof(d), NULL, 0);
	txn_op_raw(&t, OP_IDEM, &i, sizeof(i), "reply", 5);
	txn_op_raw(&t, OP_NAMESPACE, &n, sizeof(n), "abc{}", 5);
	txn_op_put(&t, &m);
	txn_end(&t);
	assert_true(txn_open(&r, b.p + 8, b.len - 8));
	assert_true(r.head->id == 0x100000002 && r.head->slot == 4 && r.head->read_seq == 77);
	assert_int_equal(r.head->flags, TXN_WAIT_STORE);
	assert_int_equal(r.head->nkeys, 3);
	assert_int_equal(r.head->nops, 5);
	for (uint64_t k = 0; k < 3; k++)
		assert_true(r.keys[k] == k + 10);
	static const enum op_type types[] = {OP_PUT, OP_DELETE, OP_IDEM, OP_NAMESPACE, OP_PUT};
	for (size_t k = 0; k < 5; k++) {
		assert_true(txn_next(&r, &op, &body));
		assert_int_equal(op->type, types[k]);
		assert_int_equal((uintptr_t)body & 7, 0);
		if (op->type == OP_PUT) {
			assert_true(memory_decode(body, op->len, &back));
			same(&m, &back);
		}
		if (op->type == OP_DELETE)
			assert_memory_equal(body, &d, sizeof(d));
		if (op->type == OP_IDEM) {
			assert_int_equal(op->len, sizeof(i) + 5);
			assert_memory_equal((const char *)body + sizeof(i), "reply", 5);
		}
	}
	assert_false(txn_next(&r, &op, &body));
	/* cut anywhere, or with something behind: no transaction */
	for (size_t len = 0; len < b.len - 8; len++) {
		char *exact = malloc(len ? len : 1);
		memcpy(exact, b.p + 8, len);
		assert_false(txn_open(&r, exact, len));
		free(exact);
	}
	buf_add(&b, "more....", 8);
	assert_false(txn_open(&r, b.p + 8, b.len - 8));
	buf_free(&b);
}

static void test_ops_from(void **state)
{
	(void)state;
	struct buf a = {0}, b = {0};
	struct txn_builder ta, tb;
	struct txn_reader r;
	const struct op_head *op;
	const void *body;
	struct memory m = sample(), back;
	size_t n = 0;
	txn_begin(&ta, &a, 0, 0, 0, 0);
	txn_read_key(&ta, 5); /* keys of the source do not come along */
	txn_op_put(&ta, &m);
	txn_op_put(&ta, &m);
	txn_end(&ta);
	txn_begin(&tb, &b, 1, 3, 0, 0);
	txn_read_key(&tb, 9);
	txn_ops_from(&tb, &a);
	txn_op_put(&tb, &m);
	txn_ops_from(&tb, &a);
	txn_end(&tb);
	assert_true(txn_open(&r, b.p, b.len));
	assert_int_equal(r.head->nkeys, 1);
	for (; txn_next(&r, &op, &body); n++)
		assert_true(memory_decode(body, op->len, &back));
	assert_int_equal(n, 5);
	buf_free(&a);
	buf_free(&b);
}

/* The frame is checked, not believed. */
static void test_frame(void **state)
{
	(void)state;
	struct buf b = {0};
	struct txn_builder t;
	struct txn_reader r;
	struct memory m = sample();
	txn_begin(&t, &b, 1, 1, 0, 0);
	txn_read_key(&t, 1);
	txn_op_put(&t, &m);
	txn_end(&t);
	struct txn_head *h = (void *)b.p, good = *h;
	static const uint32_t counts[] = {0, 2, 3, 1000, 0x20000000, UINT32_MAX};
	for (size_t i = 0; i < ARRAY_LEN(counts); i++) {
		h->nops = counts[i];
		assert_false(txn_open(&r, b.p, b.len));
		*h = good;
		h->nkeys = counts[i];
		assert_false(txn_open(&r, b.p, b.len));
		*h = good;
	}
	h->magic++;
	assert_false(txn_open(&r, b.p, b.len));
	*h = good;
	struct op_head *op = (void *)(b.p + sizeof(*h) + 8);
	static const uint32_t lens[] = {0, 8, 1 << 20, UINT32_MAX, UINT32_MAX - 6};
	uint32_t len = op->len;
	for (size_t i = 0; i < ARRAY_LEN(lens); i++) {
		op->len = lens[i];
		assert_false(txn_open(&r, b.p, b.len));
	}
	op->len = len;
	assert_true(txn_open(&r, b.p, b.len));
	buf_free(&b);
}

static void test_keys(void **state)
{
	(void)state;
	struct span t = SPAN("text");
	struct uuid id = {{0}};
	memcpy(id.b, "text", 4);
	uint64_t k[] = {record_ns(t),
			record_id_key(&id),
			record_content_key(1, t),
			record_content_key(2, t),
			record_external_key(1, t),
			record_external_key(2, t),
			record_idem_key(1, t),
			record_idem_key(2, t),
			record_ns_key(1),
			record_ns_key(2),
			record_content_key(1, SPAN("texu")),
			record_content_key(1, SPAN("")),
			record_external_key(1, SPAN("")),
			record_ns(SPAN(""))};
	for (size_t i = 0; i < ARRAY_LEN(k); i++) {
		assert_true(k[i] != 0);
		for (size_t j = 0; j < i; j++)
			assert_true(k[i] != k[j]);
	}
	assert_true(record_ns(SPAN("text")) == k[0]);
	/* They lie in stores and journals: these numbers may never change. */
	struct uuid one = {{1, 2, 3}};
	assert_true(record_ns(SPAN("default")) == 0xd9b3aa46d4d63cac);
	assert_true(record_id_key(&one) == 0x27f6b3d2ad983fb5);
	assert_true(k[2] == 0xe0147de8f32fc8df);
	assert_true(k[4] == 0xfbb9ec5cec89786);
	assert_true(k[6] == 0x42f64e3d0b106828);
	assert_true(k[8] == 0xd503efcd6dac9ecf);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_memory),	 cmocka_unit_test(test_memory_cut), cmocka_unit_test(test_transaction),
		cmocka_unit_test(test_ops_from), cmocka_unit_test(test_frame),	    cmocka_unit_test(test_keys),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
