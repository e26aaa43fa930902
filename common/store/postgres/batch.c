#include "batch.h"

#include <stdlib.h>

void pg_batch_clear(struct pg_batch *b)
{
	b->bytes.len = 0;
	b->n = 0;
	b->scrub = false;
	b->failed = NULL;
	b->rc = STORE_OK;
	b->revision = 0;
	for (size_t i = 0; i < b->nspaces; i++) {
		b->spaces[i].count = b->spaces[i].bytes = 0;
		b->spaces[i].dropped = 0;
		b->spaces[i].dim = 0;
		b->spaces[i].announced = b->spaces[i].touched = b->spaces[i].written = b->spaces[i].there = false;
		b->spaces[i].language = LANGUAGE_ENGLISH;
	}
}

void pg_batch_free(struct pg_batch **bp)
{
	struct pg_batch *b = *bp;
	if (!b)
		return;
	buf_free(&b->bytes);
	buf_free(&b->words);
	pg_params_free(&b->params);
	free(b->v);
	free(b->spaces);
	free(b->spot);
	free(b);
	*bp = NULL;
}

/* ---- namespaces ---- */

static void place(struct pg_batch *b, uint32_t index)
{
	size_t i = b->spaces[index].ns & (b->nspots - 1);
	while (b->spot[i])
		i = (i + 1) & (b->nspots - 1);
	b->spot[i] = index + 1;
}

static void grow(struct pg_batch *b)
{
	b->cspaces = b->cspaces ? b->cspaces * 2 : 16;
	b->nspots = b->cspaces * 2;
	b->spaces = util_realloc(b->spaces, b->cspaces * sizeof(*b->spaces));
	free(b->spot);
	b->spot = util_zalloc(b->nspots * sizeof(*b->spot));
	for (uint32_t i = 0; i < b->nspaces; i++)
		place(b, i);
}

/* Index + 1; 0: not known. */
static uint32_t known(const struct pg_batch *b, uint64_t ns)
{
	if (!b->nspots)
		return 0;
	for (size_t i = ns & (b->nspots - 1); b->spot[i]; i = (i + 1) & (b->nspots - 1))
		if (b->spaces[b->spot[i] - 1].ns == ns)
			return b->spot[i];
	return 0;
}

struct pg_space *pg_batch_space(struct pg_batch *b, uint64_t ns)
{
	uint32_t found = known(b, ns);
	return found ? &b->spaces[found - 1] : NULL;
}

static uint32_t space_of(struct pg_batch *b, uint64_t ns, struct span name)
{
	uint32_t found = known(b, ns);
	if (found)
		return found - 1;
	if (b->nspaces == b->cspaces)
		grow(b);
	struct pg_space *s = &b->spaces[b->nspaces];
	*s = (struct pg_space){.ns = ns};
	s->name_len = (uint32_t)(name.len < LIMIT_NAMESPACE ? name.len : LIMIT_NAMESPACE);
	memcpy(s->name, name.p, s->name_len);
	place(b, (uint32_t)b->nspaces);
	return (uint32_t)b->nspaces++;
}

/* False: nobody knows the name, so there is nothing of it to change. */
static enum store_rc find_space(struct store *s, uint64_t ns, uint32_t *space_r, bool *found_r)
{
	struct span name;
	uint32_t found = known(s->batch, ns);
	*found_r = true;
	if (found) {
		*space_r = found - 1;
		return STORE_OK;
	}
	enum store_rc rc = pg_namespace(s, ns, &name);
	*found_r = rc == STORE_OK && name.len;
	if (*found_r)
		*space_r = space_of(s->batch, ns, name);
	return rc;
}

/* ---- operations ---- */

static enum store_rc describe(struct store *s, const struct op_head *op, const void *body, struct pg_entry *e,
			      bool *use_r)
{
	const struct op_namespace *o = body;
	struct memory m;
	*use_r = true;
	switch (op->type) {
	case OP_PUT:
		if (!(*use_r = memory_decode(body, op->len, &m)))
			return STORE_OK;
		e->how = HOW_PUT;
		e->id = m.id;
		e->version = m.version;
		e->space = space_of(s->batch, m.ns, m.ns_name);
		s->batch->spaces[e->space].written = true;
		return STORE_OK;
	case OP_DELETE:
		e->how = HOW_DELETE;
		e->id = ((const struct op_delete *)body)->id;
		e->version = ((const struct op_delete *)body)->version;
		return find_space(s, ((const struct op_delete *)body)->ns, &e->space, use_r);
	case OP_IDEM: {
		/* Also of a namespace that nothing was ever stored in. */
		bool known;
		e->how = HOW_IDEM;
		enum store_rc rc = find_space(s, ((const struct op_idem *)body)->ns, &e->space, &known);
		if (!known)
			e->space = NO_SPACE;
		return rc;
	}
	case OP_NAMESPACE:
		e->how = HOW_NAMESPACE;
		e->space = space_of(s->batch, o->ns, (struct span){(const char *)(o + 1), o->name_len});
		if (o->flags & NAMESPACE_LANGUAGE && !s->batch->spaces[e->space].written)
			s->batch->spaces[e->space].announced = true;
		return STORE_OK;
	case OP_NS_DROP:
		e->how = HOW_NS_DROP;
		return find_space(s, ((const struct op_ns_drop *)body)->ns, &e->space, use_r);
	}
	*use_r = false;
	return STORE_OK;
}

static void keep(struct pg_batch *b, struct pg_entry *e, const void *body, uint32_t len)
{
	static const char zeros[8];
	if (b->n == b->cap) {
		b->cap = b->cap ? b->cap * 2 : 512;
		b->v = util_realloc(b->v, b->cap * sizeof(*b->v));
	}
	e->batch = b;
	e->at = b->bytes.len;
	e->len = len;
	buf_add(&b->bytes, body, len);
	buf_add(&b->bytes, zeros, -len & 7u);
	b->v[b->n++] = *e;
}

enum store_rc pg_batch_add(struct store *s, uint64_t seq, struct txn_reader *t)
{
	struct pg_batch *b = s->batch;
	const struct op_head *op;
	const void *body;
	for (uint32_t i = 0; txn_next(t, &op, &body); i++) {
		struct pg_entry e = {.seq = seq, .op = i, .flags = t->head->flags};
		bool use;
		enum store_rc rc = describe(s, op, body, &e, &use);
		if (rc != STORE_OK)
			return rc;
		if (!use)
			continue;
		keep(b, &e, body, op->len);
		if (e.how == HOW_NS_DROP)
			b->spaces[e.space].dropped = b->n;
	}
	if (t->head->flags & TXN_SCRUB) {
		b->scrub = true;
		b->scrub_seq = seq;
	}
	return STORE_OK;
}

/* ---- one write a memory ---- */

static bool is_memory(const struct pg_entry *e) { return e->how == HOW_PUT || e->how == HOW_DELETE; }

static void link_same_ids(struct pg_batch *b)
{
	size_t n = 16;
	while (n < 2 * b->n)
		n *= 2;
	uint32_t *last = util_zalloc(n * sizeof(*last));
	for (size_t k = b->n; k--;) {
		struct pg_entry *e = &b->v[k];
		if (!is_memory(e))
			continue;
		size_t i = record_id_key(&e->id) & (n - 1);
		while (last[i] && uuid_cmp(&b->v[last[i] - 1].id, &e->id) != 0)
			i = (i + 1) & (n - 1);
		e->next = last[i];
		last[i] = (uint32_t)k + 1;
	}
	free(last);
}

const struct op_delete *pg_batch_deletion(const struct pg_batch *b, const struct pg_entry *e)
{
	return (const struct op_delete *)(const void *)(b->bytes.p + e->at);
}

static bool strict(const struct pg_entry *e) { return e->flags & TXN_STRICT; }

void pg_batch_settle(struct pg_batch *b)
{
	link_same_ids(b);
	for (size_t k = 0; k < b->n; k++) {
		struct pg_entry *e = &b->v[k];
		if (e->how != HOW_PUT)
			continue;
		const struct pg_entry *next = e->next ? &b->v[e->next - 1] : NULL;
		if (next && (strict(e) || strict(next) || next->version <= e->version))
			continue; /* the server decides each */
		if (next && next->how == HOW_PUT)
			e->how = HOW_PAST;
		else if (next && next->how == HOW_DELETE && pg_batch_deletion(b, next)->how != DELETE_SOFT)
			e->how = HOW_SKIP;
		else if (e->version == 1 && !strict(e))
			e->how = HOW_ADD;
	}
}

/* ---- what is expected of it ---- */

/* What was replaced within the batch has happened as far as its last write has. */
static enum pg_effect effect_of(const struct pg_batch *b, const struct pg_entry *e)
{
	while ((e->how == HOW_PAST || e->how == HOW_SKIP) && e->next)
		e = &b->v[e->next - 1];
	return e->effect;
}

/* As the sequencer counts (sequence_account). */
void pg_batch_expect(struct pg_batch *b)
{
	for (size_t i = 0; i < b->nspaces; i++)
		b->spaces[i].expected = b->spaces[i].expected_bytes = 0;
	for (size_t i = 0; i < b->n; i++) {
		const struct pg_entry *e = &b->v[i];
		const struct op_delete *d = pg_batch_deletion(b, e);
		struct memory m;
		bool put = e->how == HOW_ADD || e->how == HOW_PUT || e->how == HOW_PAST || e->how == HOW_SKIP;
		if (!put && e->how != HOW_DELETE)
			continue;
		struct pg_space *n = &b->spaces[e->space];
		if (i < n->dropped || effect_of(b, e) == EFFECT_REPEATED)
			continue;
		if (put && memory_decode(b->bytes.p + e->at, e->len, &m) && !m.deleted_us) {
			n->expected += m.replaces_bytes < 0;
			n->expected_bytes += (int64_t)memory_quota_bytes(&m) -
					     (m.replaces_bytes < 0 ? 0 : m.replaces_bytes);
		} else if (!put && d->bytes >= 0) {
			n->expected--;
			n->expected_bytes -= d->bytes;
		}
	}
}
