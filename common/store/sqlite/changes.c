/* The feed: a row per transaction of the journal, written with it, under its sequence number. A row holds what was
 * changed, in the order of the operations, and nothing of any content. */
#include "clock.h"
#include "sqlite-private.h"

#define PRUNED_AT_ONCE 20000 /* rows: some tens of milliseconds */

/* A change in a row's data, native byte order, without gaps. */
enum { AT_KIND = 0, AT_NS = 1, AT_VERSION = 9, AT_ID = 17, CHANGE_BYTES = 33 };

void sq_changes_note(struct store *s, enum store_change_kind kind, uint64_t ns, const struct uuid *id, uint64_t version)
{
	char change[CHANGE_BYTES] = {(char)kind};
	memcpy(change + AT_NS, &ns, sizeof(ns));
	memcpy(change + AT_VERSION, &version, sizeof(version));
	if (id)
		memcpy(change + AT_ID, id->b, sizeof(id->b));
	buf_add(&s->changes, change, sizeof(change));
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
	if (!s->changes.len)
		return STORE_OK;
	if (s->changes_total < 0 && number(s, SQ_CHANGES_TOTAL, &s->changes_total) != STORE_OK) {
		s->changes_total = -1;
		return STORE_ERROR;
	}
	sqlite3_stmt *st = sq_get(s, SQ_CHANGES_PUT);
	if (!st)
		return STORE_ERROR;
	s->changes_total += (int64_t)(s->changes.len / CHANGE_BYTES);
	sqlite3_bind_int64(st, 1, (int64_t)seq);
	sqlite3_bind_int64(st, 2, clock_real_us());
	sqlite3_bind_int64(st, 3, (int64_t)s->node);
	sqlite3_bind_int64(st, 4, s->changes_total);
	sqlite3_bind_blob64(st, 5, s->changes.p, s->changes.len, SQLITE_STATIC);
	return sq_run(s, st);
}

/* ---- reading ---- */

/* A transaction may have changed nothing: everything up to the cursor is published. */
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

/* False: the visitor has enough, or *rc_r is no success. */
static bool visit_row(sqlite3_stmt *row, struct names *names, store_change_fn *fn, void *arg, enum store_rc *rc_r)
{
	const char *p = sqlite3_column_blob(row, 3);
	size_t n = (size_t)sqlite3_column_bytes(row, 3) / CHANGE_BYTES;
	struct store_change c = {.revision = (uint64_t)sqlite3_column_int64(row, 0),
				 .at_us = sqlite3_column_int64(row, 1),
				 .node = (uint64_t)sqlite3_column_int64(row, 2)};
	for (; n--; p += CHANGE_BYTES) {
		uint64_t ns;
		memcpy(&ns, p + AT_NS, sizeof(ns));
		memcpy(&c.version, p + AT_VERSION, sizeof(c.version));
		memcpy(c.id.b, p + AT_ID, sizeof(c.id.b));
		c.kind = (enum store_change_kind)p[AT_KIND];
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
		pruned = sqlite3_column_int64(st, 4);
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
	s->changes_total = -1; /* of an empty table it begins anew */
	return rc == STORE_OK && more ? STORE_BUSY : rc;
}
