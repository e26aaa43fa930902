#include "record.h"
#include "clock.h"
#include "packed.h"
#include "vocabulary.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

/* ---- keys ---- */

enum { SEED_NS = 1, SEED_ID, SEED_CONTENT, SEED_EXTERNAL, SEED_IDEM, SEED_NS_KEY };

static uint64_t nonzero(uint64_t h) { return h + !h; }

uint64_t record_ns(struct span name) { return nonzero(XXH3_64bits_withSeed(name.p, name.len, SEED_NS)); }
uint64_t record_id_key(const struct uuid *id) { return nonzero(XXH3_64bits_withSeed(id, sizeof(*id), SEED_ID)); }

static uint64_t within(uint64_t ns, struct span s, uint64_t seed)
{
	return nonzero(XXH3_64bits_withSeed(s.p, s.len, ns * 0x9e3779b97f4a7c15ull + seed));
}
uint64_t record_content_key(uint64_t ns, struct span content) { return within(ns, content, SEED_CONTENT); }
uint64_t record_external_key(uint64_t ns, struct span id) { return within(ns, id, SEED_EXTERNAL); }
uint64_t record_idem_key(uint64_t ns, struct span key) { return within(ns, key, SEED_IDEM); }
uint64_t record_ns_key(uint64_t ns) { return within(ns, (struct span){NULL, 0}, SEED_NS_KEY); }

/* ---- memories ---- */

enum { NS_NAME, CONTENT, KIND, USER, AGENT, SESSION, EXTERNAL, EMBEDDER, BODY, TEXTS };

struct wire {
	struct uuid id;
	uint64_t ns, version;
	int64_t created_us, updated_us, expires_us, deleted_us, replaces_bytes;
	uint64_t content_hash;
	uint32_t flags;
	float importance;
	uint32_t dim;
	uint32_t len[TEXTS];
};				/* behind it: the vector, then the texts in order */
#define WIRE_PACKED 0x80000000u /* in dim: the vector is packed (packed.h) */
_Static_assert(sizeof(struct wire) % 4 == 0, "the vector behind it stays aligned");

static void texts(struct memory *m, struct span *out[TEXTS])
{
	out[NS_NAME] = &m->ns_name;
	out[CONTENT] = &m->content;
	out[KIND] = &m->kind;
	out[USER] = &m->user_id;
	out[AGENT] = &m->agent_id;
	out[SESSION] = &m->session_id;
	out[EXTERNAL] = &m->external_id;
	out[EMBEDDER] = &m->embedder;
	out[BODY] = &m->body;
}

static void begin_op(struct txn_builder *t, enum op_type type, size_t len)
{
	struct op_head h = {(uint16_t)type, 0, (uint32_t)len};
	AN(len <= UINT32_MAX);
	buf_reserve(t->b, sizeof(h) + len + 8);
	buf_add(t->b, &h, sizeof(h));
	((struct txn_head *)(void *)(t->b->p + t->start))->nops++;
}

static void pad(struct buf *b, size_t start)
{
	static const char zeros[8];
	buf_add(b, zeros, align_up(b->len - start, 8) - (b->len - start));
}

/* As it lies in the record; room: for a packed one. */
static struct span vector_bytes(const struct memory *m, char *room)
{
	if (m->packed.len || !m->embedding || !m->dim)
		return m->packed;
	size_t packed = packed_make(m->embedding, m->dim, room);
	return packed ? (struct span){room, packed} : (struct span){(const char *)m->embedding, m->dim * sizeof(float)};
}

void txn_op_put(struct txn_builder *t, const struct memory *m)
{
	struct memory copy = *m;
	struct span *text[TEXTS];
	char room[PACKED_MAX(LIMIT_DIMENSIONS)];
	struct span vector = vector_bytes(m, room);
	struct wire w = {.id = m->id,
			 .ns = m->ns,
			 .version = m->version,
			 .created_us = m->created_us,
			 .updated_us = m->updated_us,
			 .expires_us = m->expires_us,
			 .deleted_us = m->deleted_us,
			 .replaces_bytes = m->replaces_bytes,
			 .content_hash = m->content_hash,
			 .flags = m->flags,
			 .importance = m->importance,
			 .dim = vector.len ? m->dim : 0};
	size_t len = sizeof(w) + vector.len;
	if (vector.len < w.dim * sizeof(float))
		w.dim |= WIRE_PACKED;
	texts(&copy, text);
	for (int i = 0; i < TEXTS; i++) {
		w.len[i] = (uint32_t)text[i]->len;
		len += text[i]->len;
	}
	begin_op(t, OP_PUT, len);
	buf_add(t->b, &w, sizeof(w));
	buf_add(t->b, vector.p, vector.len);
	for (int i = 0; i < TEXTS; i++)
		buf_add(t->b, text[i]->p, text[i]->len);
	pad(t->b, t->start);
}

/* The fixed part is copied before it is judged: the bytes may lie in a ring, whose producer could change
 * a length between the check and its use. */
bool memory_decode(const void *body, size_t len, struct memory *m)
{
	struct wire copy;
	const struct wire *w = &copy;
	struct span *text[TEXTS];
	if (len < sizeof(copy))
		return false;
	memcpy(&copy, body, sizeof(copy));
	uint32_t dim = w->dim & ~WIRE_PACKED;
	if (dim > LIMIT_DIMENSIONS || w->len[NS_NAME] > LIMIT_NAMESPACE || w->len[EMBEDDER] > RECORD_EMBEDDER_MAX)
		return false;
	const char *p = (const char *)body + sizeof(copy), *end = (const char *)body + len;
	bool packed = w->dim & WIRE_PACKED;
	size_t vector = packed ? packed_bytes(p, (size_t)(end - p), dim) : dim * sizeof(float);
	if ((packed && !vector) || (size_t)(end - p) < vector)
		return false;
	*m = (struct memory){.id = w->id,
			     .ns = w->ns,
			     .version = w->version,
			     .created_us = w->created_us,
			     .updated_us = w->updated_us,
			     .expires_us = w->expires_us,
			     .deleted_us = w->deleted_us,
			     .replaces_bytes = w->replaces_bytes,
			     .content_hash = w->content_hash,
			     .flags = w->flags,
			     .importance = w->importance,
			     .dim = dim,
			     .packed = {packed ? p : NULL, packed ? vector : 0},
			     .embedding = dim && !packed ? (const float *)(const void *)p : NULL};
	p += vector;
	texts(m, text);
	for (int i = 0; i < TEXTS; i++) {
		if (w->len[i] > (size_t)(end - p))
			return false;
		*text[i] = (struct span){w->len[i] ? p : NULL, w->len[i]};
		p += w->len[i];
	}
	return p == end;
}

const float *memory_vector(const struct memory *m, float *x)
{
	if (!m->packed.len)
		return m->dim ? m->embedding : NULL;
	return packed_read(m->packed, m->dim, x) ? x : NULL;
}

size_t memory_quota_bytes(const struct memory *m) { return m->body.len + m->dim * sizeof(float); }

/* ---- transactions ---- */

void txn_begin(struct txn_builder *t, struct buf *b, uint64_t id, uint32_t slot, uint64_t read_seq, uint32_t flags)
{
	struct txn_head h = {.magic = TXN_MAGIC, .flags = flags, .id = id, .read_seq = read_seq, .slot = slot};
	AN(b->len % 8 == 0); /* bodies must be aligned in memory, not only within the transaction */
	t->b = b;
	t->start = b->len;
	buf_add(b, &h, sizeof(h));
}

static struct txn_head *head_of(struct txn_builder *t) { return (struct txn_head *)(void *)(t->b->p + t->start); }

void txn_read_key(struct txn_builder *t, uint64_t key)
{
	AN(head_of(t)->nops == 0);
	buf_add(t->b, &key, sizeof(key));
	head_of(t)->nkeys++;
}

void txn_op_delete(struct txn_builder *t, const struct memory *m, enum delete_how how)
{
	struct op_delete d = {.id = m->id,
			      .ns = m->ns,
			      .version = m->version + 1,
			      .at_us = clock_after_us(m->updated_us),
			      .content_key = m->content_hash,
			      .external_key = m->external_id.len ? record_external_key(m->ns, m->external_id) : 0,
			      .bytes = m->deleted_us ? -1 : (int64_t)memory_quota_bytes(m),
			      .how = (uint32_t)how};
	txn_op_raw(t, OP_DELETE, &d, sizeof(d), NULL, 0);
}

void txn_op_raw(struct txn_builder *t, enum op_type type, const void *head, size_t head_len, const void *tail,
		size_t tail_len)
{
	begin_op(t, type, head_len + tail_len);
	buf_add(t->b, head, head_len);
	buf_add(t->b, tail, tail_len);
	pad(t->b, t->start);
}

void txn_ops_from(struct txn_builder *t, const struct buf *other)
{
	const struct txn_head *h = (const void *)other->p;
	size_t skip = sizeof(*h) + h->nkeys * sizeof(uint64_t);
	AN(other->len >= skip && h->magic == TXN_MAGIC);
	uint32_t nops = h->nops;
	buf_add(t->b, other->p + skip, other->len - skip);
	head_of(t)->nops += nops;
}

void txn_end(struct txn_builder *t) { AN((t->b->len - t->start) % 8 == 0); }

bool txn_open(struct txn_reader *r, const void *data, size_t len)
{
	const struct txn_head *h = data;
	if (len < sizeof(*h) || h->magic != TXN_MAGIC || h->nkeys > (len - sizeof(*h)) / sizeof(uint64_t))
		return false;
	const char *p = (const char *)data + sizeof(*h) + h->nkeys * sizeof(uint64_t);
	const char *end = (const char *)data + len;
	*r = (struct txn_reader){h, (const uint64_t *)(const void *)(h + 1), p, end, h->nops};
	for (uint32_t i = 0; i < h->nops; i++) {
		const struct op_head *op = (const void *)p;
		if ((size_t)(end - p) < sizeof(*op) || align_up(op->len, 8) > (size_t)(end - p) - sizeof(*op))
			return false;
		p += sizeof(*op) + align_up(op->len, 8);
	}
	return p == end;
}

bool txn_next(struct txn_reader *r, const struct op_head **op_r, const void **body_r)
{
	if (!r->left)
		return false;
	const struct op_head *op = (const void *)r->p;
	/* txn_open() has seen this; seen again, because a producer could have changed it since. */
	if ((size_t)(r->end - r->p) < sizeof(*op) || align_up(op->len, 8) > (size_t)(r->end - r->p) - sizeof(*op))
		return false;
	*op_r = op;
	*body_r = op + 1;
	r->p += sizeof(*op) + align_up(op->len, 8);
	r->left--;
	return true;
}
