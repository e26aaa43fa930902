/* The feed: a row per batch, written with it, under the sequence number of the last transaction in it. A row holds what
 * was changed, in the order of the operations, and nothing of any content. */
#include "clock.h"
#include "sqlite-private.h"

#define PRUNED_AT_ONCE 2000 /* rows: some tens of milliseconds */

/* A change in a row's data: kind, | OTHER_NS and the number of the namespace if it is not the one of the change before,
 * the version as a varint and the id, if it is a memory's. */
enum { OTHER_NS = 0x80 };

static bool is_memory(enum store_change_kind k) { return k == CHANGE_PUT || k == CHANGE_DELETED || k == CHANGE_GONE; }

void sq_changes_note(struct store *s, enum store_change_kind kind, uint64_t ns, const struct uuid *id, uint64_t version)
{
	struct sq_noted *c = &s->changes;
	bool other = !c->n || c->ns != ns;
	char change[40] = {(char)(kind | (other ? OTHER_NS : 0))};
	size_t len = 1;
	if (other) {
		memcpy(change + len, &ns, sizeof(ns));
		len += sizeof(ns);
	}
	if (is_memory(kind)) {
		for (; version > 0x7f; version >>= 7)
			change[len++] = (char)(version | 0x80);
		change[len++] = (char)version;
		memcpy(change + len, id->b, sizeof(id->b));
		len += sizeof(id->b);
	}
	buf_add(&c->data, change, len);
	c->ns = ns;
	c->n++;
}

void sq_changes_begin(struct store *s)
{
	s->changes.data.len = 0;
	s->changes.n = 0;
}

static enum store_rc number(struct store *s, enum sq which, int64_t *v_r)
{
	sqlite3_stmt *st = sq_get(s, which);
	int rc = st ? sqlite3_step(st) : SQLITE_ERROR;
	*v_r = rc == SQLITE_ROW ? sqlite3_column_int64(st, 0) : 0;
	enum store_rc r = rc == SQLITE_ROW ? STORE_OK : sq_fail(s);
	if (st)
		sqlite3_reset(st);
	return r;
}

enum store_rc sq_changes_write(struct store *s, uint64_t seq)
{
	struct sq_noted *c = &s->changes;
	if (!c->n)
		return STORE_OK;
	if (c->total < 0 && number(s, SQ_CHANGES_TOTAL, &c->total) != STORE_OK) {
		c->total = -1;
		return STORE_ERROR;
	}
	sqlite3_stmt *st = sq_get(s, SQ_CHANGES_PUT);
	if (!st)
		return STORE_ERROR;
	c->total += (int64_t)c->n;
	sqlite3_bind_int64(st, 1, (int64_t)seq);
	sqlite3_bind_int64(st, 2, clock_real_us());
	sqlite3_bind_int64(st, 3, c->total);
	sqlite3_bind_blob64(st, 4, c->data.p, c->data.len, SQLITE_STATIC);
	return sq_run(s, st);
}

/* ---- reading ---- */

/* A batch may have changed nothing: everything up to the cursor is published. */
enum store_rc sq_revision(struct store *s, uint64_t *revision_r)
{
	int64_t v;
	enum store_rc rc = number(s, SQ_CURSOR_GET, &v);
	*revision_r = (uint64_t)v;
	return rc;
}

struct names { /* the namespace of the change before: mostly the one of this change */
	struct store *s;
	uint64_t ns;
	sqlite3_stmt *st; /* holds its name */
	struct span name;
};

static bool name_of(struct names *n, uint64_t ns)
{
	if (n->st && n->ns == ns)
		return true;
	n->st = sq_get(n->s, SQ_NS_NAME);
	n->name = (struct span){"", 0};
	if (!n->st)
		return false;
	n->ns = ns;
	sqlite3_bind_int64(n->st, 1, (int64_t)ns);
	int rc = sqlite3_step(n->st);
	if (rc == SQLITE_ROW)
		n->name = sq_text(n->st, 0);
	return rc == SQLITE_ROW || rc == SQLITE_DONE;
}

/* Takes the next change out of a row's data; false at its end, and where it is damaged. */
static bool next_change(struct span *data, uint64_t *ns, struct store_change *c)
{
	const unsigned char *p = (const unsigned char *)data->p, *end = p + data->len;
	unsigned shift = 0;
	if (p == end)
		return false;
	bool other = *p & OTHER_NS;
	c->kind = (enum store_change_kind)(*p++ & ~OTHER_NS);
	if (c->kind < CHANGE_PUT || c->kind > CHANGE_NS_DROP || (other && (size_t)(end - p) < sizeof(*ns)))
		return false;
	if (other) {
		memcpy(ns, p, sizeof(*ns));
		p += sizeof(*ns);
	}
	c->version = 0;
	c->id = (struct uuid){{0}};
	if (is_memory(c->kind)) {
		for (; p < end && *p & 0x80 && shift < 63; shift += 7)
			c->version |= (uint64_t)(*p++ & 0x7f) << shift;
		if ((size_t)(end - p) < 1 + sizeof(c->id.b))
			return false;
		c->version |= (uint64_t)(*p++ & 0x7f) << shift;
		memcpy(c->id.b, p, sizeof(c->id.b));
		p += sizeof(c->id.b);
	}
	*data = (struct span){(const char *)p, (size_t)(end - p)};
	return true;
}

/* False: the visitor has enough, or *rc_r is no success. */
static bool visit_row(sqlite3_stmt *row, struct names *names, store_change_fn *fn, void *arg, enum store_rc *rc_r)
{
	struct span data = {sqlite3_column_blob(row, 2), (size_t)sqlite3_column_bytes(row, 2)};
	struct store_change c = {.revision = (uint64_t)sqlite3_column_int64(row, 0),
				 .at_us = sqlite3_column_int64(row, 1)};
	uint64_t ns = 0;
	while (data.len && next_change(&data, &ns, &c)) {
		if (!name_of(names, ns)) {
			*rc_r = sq_fail(names->s);
			return false;
		}
		c.namespace = names->name;
		if (!fn(arg, &c))
			return false;
	}
	return true;
}

enum store_rc sq_changes(struct store *s, uint64_t after, size_t max, store_change_fn *fn, void *arg, uint64_t *last_r)
{
	sqlite3_stmt *st = sq_get(s, SQ_CHANGES_READ);
	struct names names = {.s = s};
	enum store_rc rc = STORE_OK;
	int64_t pruned = -1;
	int step;
	*last_r = after;
	if (!st)
		return STORE_ERROR;
	sqlite3_bind_int64(st, 1, (int64_t)after);
	sqlite3_bind_int64(st, 2, (int64_t)max);
	while ((step = sqlite3_step(st)) == SQLITE_ROW) {
		pruned = sqlite3_column_int64(st, 3);
		if ((uint64_t)pruned > after)
			break;
		*last_r = (uint64_t)sqlite3_column_int64(st, 0);
		if (!visit_row(st, &names, fn, arg, &rc))
			break;
	}
	if (step != SQLITE_ROW && step != SQLITE_DONE)
		rc = sq_fail(s);
	sqlite3_reset(st);
	if (names.st)
		sqlite3_reset(names.st);
	if (rc == STORE_OK && pruned < 0)
		rc = number(s, SQ_PRUNED_GET, &pruned);
	if (rc != STORE_OK || (uint64_t)pruned <= after)
		return rc;
	rc = sq_revision(s, last_r);
	return rc == STORE_OK ? STORE_NOT_FOUND : rc;
}

/* ---- forgetting ---- */

/* The last of the oldest rows that nobody is to find any more; 0 = none. */
static enum store_rc outdated(struct store *s, int64_t keep_us, uint64_t keep_changes, int64_t *cut_r, bool *more_r)
{
	int64_t total, before_us = clock_real_us() - keep_us, n = 0;
	enum store_rc rc = number(s, SQ_CHANGES_TOTAL, &total);
	sqlite3_stmt *st = rc == STORE_OK ? sq_get(s, SQ_CHANGES_OLDEST) : NULL;
	int step;
	*cut_r = 0;
	if (!st)
		return STORE_ERROR;
	sqlite3_bind_int64(st, 1, PRUNED_AT_ONCE);
	for (; (step = sqlite3_step(st)) == SQLITE_ROW; n++) {
		bool old = sqlite3_column_int64(st, 1) < before_us,
		     over = total - sqlite3_column_int64(st, 2) >= (int64_t)keep_changes;
		if (!old && !over)
			break;
		*cut_r = sqlite3_column_int64(st, 0);
	}
	rc = step == SQLITE_ROW || step == SQLITE_DONE ? STORE_OK : sq_fail(s);
	sqlite3_reset(st);
	*more_r = n == PRUNED_AT_ONCE;
	return rc;
}

static enum store_rc with_number(struct store *s, enum sq which, int64_t v)
{
	sqlite3_stmt *st = sq_get(s, which);
	if (st)
		sqlite3_bind_int64(st, 1, v);
	return sq_run(s, st);
}

enum store_rc sq_prune(struct store *s, int64_t keep_us, uint64_t keep_changes)
{
	int64_t cut;
	bool more;
	enum store_rc rc = outdated(s, keep_us, keep_changes, &cut, &more);
	if (rc != STORE_OK || !cut)
		return rc;
	rc = sq_run(s, sq_get(s, SQ_BEGIN));
	if (rc == STORE_OK)
		rc = with_number(s, SQ_CHANGES_DROP, cut);
	if (rc == STORE_OK)
		rc = with_number(s, SQ_PRUNED_SET, cut);
	if (rc == STORE_OK)
		rc = sq_run(s, sq_get(s, SQ_COMMIT));
	if (rc != STORE_OK)
		sq_rollback(s);
	s->changes.total = -1; /* of an empty table it begins anew */
	return rc == STORE_OK && more ? STORE_BUSY : rc;
}
