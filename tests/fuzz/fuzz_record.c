/* Transactions and memories from arbitrary bytes: no read outside the buffer, every operation aligned, and
 * what decodes encodes back to the same bytes, but that a vector may be packed then. */
#include <stdlib.h>

#include "record.h"
#include "vocabulary.h"

static volatile unsigned sink;

static void touch(const void *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		sink += ((const unsigned char *)p)[i];
}

static void touch_memory(const struct memory *m)
{
	const struct span *all[] = {&m->ns_name,    &m->content,     &m->kind,	   &m->user_id, &m->agent_id,
				    &m->session_id, &m->external_id, &m->embedder, &m->body};
	for (size_t i = 0; i < ARRAY_LEN(all); i++)
		touch(all[i]->p, all[i]->len);
	float room[LIMIT_DIMENSIONS];
	AN(!m->dim == !(m->embedding || m->packed.len) && !(m->embedding && m->packed.len));
	AN(((uintptr_t)m->embedding & 3) == 0);
	touch(m->packed.p, m->packed.len);
	const float *x = memory_vector(m, room); /* NULL: damaged */
	if (x)
		touch(x, m->dim * sizeof(float));
	AN(memory_quota_bytes(m) >= m->body.len);
}

static void decode(const void *body, size_t len)
{
	struct memory m;
	struct txn_reader r;
	const struct op_head *op;
	const void *again;
	struct txn_builder t;
	static struct buf b;
	if (!memory_decode(body, len, &m))
		return;
	touch_memory(&m);
	b.len = 0;
	txn_begin(&t, &b, 1, 0, 0, 0);
	txn_op_put(&t, &m);
	txn_end(&t);
	AN(txn_open(&r, b.p, b.len) && txn_next(&r, &op, &again));
	if (m.embedding) { /* which may have been packed now */
		struct memory packed;
		float room[LIMIT_DIMENSIONS];
		AN(memory_decode(again, op->len, &packed) && op->len <= len);
		AN(memcmp(memory_vector(&packed, room), m.embedding, m.dim * sizeof(float)) == 0);
	} else
		AN(op->len == len && memcmp(again, body, len) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct txn_reader r;
	const struct op_head *op;
	const void *body;
	uint32_t n = 0;
	char *exact = malloc(size ? size : 1); /* 8-byte aligned, and its end is guarded */
	if (!exact)
		abort();
	if (size)
		memcpy(exact, data, size);
	decode(exact, size);
	if (txn_open(&r, exact, size)) {
		touch(r.keys, r.head->nkeys * sizeof(*r.keys));
		while (txn_next(&r, &op, &body)) {
			n++;
			AN(((uintptr_t)body & 7) == 0);
			touch(body, op->len);
			decode(body, op->len);
		}
		AN(n == r.head->nops);
	}
	free(exact);
	return 0;
}
