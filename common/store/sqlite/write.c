/* The writer's side: transactions into rows. Re-applying what is there already changes nothing:
 * only a strictly newer version counts. */
#include <stdio.h>

#include "fault.h"
#include "sqlite-private.h"

enum store_rc sq_begin(struct store *s)
{
	sq_changes_begin(s);
	return sq_run(s, sq_get(s, SQ_BEGIN));
}

void sq_rollback(struct store *s)
{
	s->changes.total = -1;
	s->spoken.ns = 0;
	if (!sqlite3_get_autocommit(s->db))
		(void)!sq_run(s, sq_get(s, SQ_ROLLBACK));
}

enum store_rc sq_commit(struct store *s, uint64_t seq)
{
	sqlite3_stmt *st = sq_get(s, SQ_CURSOR_SET);
	if (st)
		sqlite3_bind_int64(st, 1, (int64_t)seq);
	enum store_rc rc = sq_run(s, st);
	if (rc == STORE_OK)
		rc = sq_changes_write(s, seq);
	FAULT_POINT(store_cursor);
	if (rc == STORE_OK)
		rc = sq_run(s, sq_get(s, SQ_COMMIT));
	return rc == STORE_OK && !sq_in_place(s) ? STORE_ERROR : rc;
}

/* ---- pieces ---- */

struct row { /* the stored state of a memory; n 0 = none */
	int64_t n, version, deleted_us, bytes;
	uint32_t flags, dim;
	uint64_t ns;
	struct buf content; /* what the words index holds for it */
};

static bool indexed(int64_t deleted_us, uint32_t flags) { return !deleted_us && !(flags & MEMORY_SUPERSEDED); }

static enum store_rc find_row(struct store *s, const struct uuid *id, struct row *r)
{
	sqlite3_stmt *st = sq_get(s, SQ_ROW_BY_ID);
	*r = (struct row){.n = 0};
	if (!st)
		return STORE_ERROR;
	sq_bind_uuid(st, 1, id);
	int rc = sqlite3_step(st);
	if (rc == SQLITE_ROW) {
		r->n = sqlite3_column_int64(st, 0);
		r->version = sqlite3_column_int64(st, 1);
		r->deleted_us = sqlite3_column_int64(st, 2);
		r->flags = (uint32_t)sqlite3_column_int64(st, 4);
		r->bytes = sqlite3_column_int64(st, 5);
		r->dim = (uint32_t)sqlite3_column_int(st, 6);
		r->ns = (uint64_t)sqlite3_column_int64(st, 8);
		if (indexed(r->deleted_us, r->flags))
			sq_content(sq_text(st, 7), &r->content);
	}
	enum store_rc out = rc == SQLITE_ROW || rc == SQLITE_DONE ? STORE_OK : sq_fail(s);
	sqlite3_reset(st);
	return out;
}

/* One token that no natural text holds: the namespace in the words index. */
static void bind_scope(sqlite3_stmt *st, int i, uint64_t ns)
{
	sqlite3_bind_text(st, i, sqlite3_mprintf("ns%016llx", (unsigned long long)ns), -1, sqlite3_free);
}

/* A namespace as it is stored. */
struct home {
	bool present;
	int64_t count;
	enum language language;
};

static enum store_rc find_home(struct store *s, uint64_t ns, struct home *h_r)
{
	sqlite3_stmt *st = sq_get(s, SQ_NS_GET);
	*h_r = (struct home){.present = false};
	if (!st)
		return STORE_ERROR;
	sqlite3_bind_int64(st, 1, (int64_t)ns);
	int rc = sqlite3_step(st);
	if (rc == SQLITE_ROW)
		*h_r = (struct home){sqlite3_column_int(st, 0), sqlite3_column_int64(st, 1),
				     language_stored(sq_text(st, 2))};
	enum store_rc out = rc == SQLITE_ROW || rc == SQLITE_DONE ? STORE_OK : sq_fail(s);
	sqlite3_reset(st);
	if (out == STORE_OK)
		s->spoken = (struct sq_spoken){ns, h_r->language};
	return out;
}

/* Adds or removes (`add`) what is found by. */
static enum store_rc words(struct store *s, bool add, int64_t n, struct span content, uint64_t ns)
{
	struct home h;
	enum store_rc rc = s->spoken.ns == ns ? STORE_OK : find_home(s, ns, &h);
	if (rc != STORE_OK)
		return rc;
	bool english = s->spoken.language == LANGUAGE_ENGLISH;
	sqlite3_stmt *st = sq_get(s, english ? (add ? SQ_WORDS_ADD : SQ_WORDS_DROP)
					     : (add ? SQ_STEMS_ADD : SQ_STEMS_DROP));
	if (!st)
		return STORE_ERROR;
	if (!english)
		content = sq_stems(s, s->spoken.language, content);
	sqlite3_bind_int64(st, 1, n);
	sqlite3_bind_text(st, 2, content.p ? content.p : "", (int)content.len, SQLITE_STATIC);
	bind_scope(st, 3, ns);
	return sq_run(s, st);
}

static enum store_rc words_drop(struct store *s, const struct row *r)
{
	if (!indexed(r->deleted_us, r->flags))
		return STORE_OK;
	return words(s, false, r->n, (struct span){r->content.p, r->content.len}, r->ns);
}

static enum store_rc by_number(struct store *s, enum sq which, int64_t n)
{
	sqlite3_stmt *st = sq_get(s, which);
	if (st)
		sqlite3_bind_int64(st, 1, n);
	return sq_run(s, st);
}

static enum store_rc count(struct store *s, uint64_t ns, int64_t memories, int64_t bytes)
{
	sqlite3_stmt *st = sq_get(s, SQ_NS_COUNT);
	if (!st)
		return STORE_ERROR;
	sqlite3_bind_int64(st, 1, memories);
	sqlite3_bind_int64(st, 2, bytes);
	sqlite3_bind_int64(st, 3, (int64_t)ns);
	return sq_run(s, st);
}

static enum store_rc put_namespace(struct store *s, uint64_t ns, struct span name, int64_t at_us, uint64_t quota_bytes,
				   uint64_t quota_count, uint32_t relaxed, struct span settings)
{
	sqlite3_stmt *st = sq_get(s, SQ_NS_PUT);
	if (!st)
		return STORE_ERROR;
	sqlite3_bind_int64(st, 1, (int64_t)ns);
	sqlite3_bind_text(st, 2, name.p, (int)name.len, SQLITE_STATIC);
	sqlite3_bind_int64(st, 3, at_us);
	sqlite3_bind_int64(st, 4, (int64_t)quota_bytes);
	sqlite3_bind_int64(st, 5, (int64_t)quota_count);
	sqlite3_bind_int(st, 6, (int)relaxed);
	sqlite3_bind_text(st, 7, settings.p, (int)settings.len, SQLITE_STATIC);
	s->spoken.ns = 0;
	return sq_run(s, st);
}

static enum store_rc ensure_namespace(struct store *s, const struct memory *m)
{
	struct home h;
	enum store_rc rc = find_home(s, m->ns, &h);
	return rc != STORE_OK || h.present
		       ? rc
		       : put_namespace(s, m->ns, m->ns_name, m->updated_us, 0, 0, 0, SPAN_LIT("{}"));
}

/* ---- OP_PUT ---- */

static void bind_memory(sqlite3_stmt *st, const struct memory *m)
{
	sq_bind_uuid(st, 1, &m->id);
	sqlite3_bind_int64(st, 2, (int64_t)m->ns);
	sqlite3_bind_int64(st, 3, (int64_t)m->version);
	sqlite3_bind_int64(st, 4, m->created_us);
	sqlite3_bind_int64(st, 5, m->updated_us);
	sqlite3_bind_int64(st, 6, m->expires_us);
	sqlite3_bind_int64(st, 7, m->deleted_us);
	sqlite3_bind_int64(st, 8, m->flags);
	sqlite3_bind_double(st, 9, (double)m->importance);
	sq_bind_text(st, 10, m->kind);
	sq_bind_text(st, 11, m->user_id);
	sq_bind_text(st, 12, m->agent_id);
	sq_bind_text(st, 13, m->session_id);
	sq_bind_text(st, 14, m->external_id);
	sqlite3_bind_int64(st, 15, (int64_t)m->content_hash);
	sq_bind_text(st, 16, m->embedder);
	sqlite3_bind_int(st, 17, (int)m->dim);
	sqlite3_bind_int64(st, 18, (int64_t)memory_quota_bytes(m));
	sq_bind_text(st, 19, m->body);
}

static enum store_rc put_vector(struct store *s, const struct memory *m, const struct row *old, int64_t n)
{
	if (!m->dim)
		return old->dim ? by_number(s, SQ_VECTOR_DROP, n) : STORE_OK;
	sqlite3_stmt *st = sq_get(s, SQ_VECTOR_PUT);
	if (!st)
		return STORE_ERROR;
	sqlite3_bind_int64(st, 1, n);
	sqlite3_bind_int(st, 2, (int)m->dim);
	if (m->packed.len)
		sqlite3_bind_blob(st, 3, m->packed.p, (int)m->packed.len, SQLITE_STATIC);
	else
		sqlite3_bind_blob(st, 3, m->embedding, (int)(m->dim * sizeof(float)), SQLITE_STATIC);
	return sq_run(s, st);
}

static enum store_rc put_space(struct store *s, const struct memory *m)
{
	if (!m->dim)
		return STORE_OK;
	sqlite3_stmt *st = sq_get(s, SQ_NS_SPACE);
	if (!st)
		return STORE_ERROR;
	sq_bind_text(st, 1, m->embedder);
	sqlite3_bind_int(st, 2, (int)m->dim);
	sqlite3_bind_int64(st, 3, (int64_t)m->ns);
	return sq_run(s, st);
}

static enum store_rc write_row(struct store *s, const struct memory *m, struct row *old, int64_t *n_r)
{
	enum store_rc rc = STORE_OK;
	sqlite3_stmt *st;
	if (old->n) {
		rc = by_number(s, SQ_HISTORY_KEEP, old->n);
		if (rc == STORE_OK)
			rc = words_drop(s, old);
		if (rc != STORE_OK || !(st = sq_get(s, SQ_UPDATE)))
			return rc == STORE_OK ? STORE_ERROR : rc;
		bind_memory(st, m);
		sqlite3_bind_int64(st, 20, old->n);
		*n_r = old->n;
		return sq_run(s, st);
	}
	if (!(st = sq_get(s, SQ_INSERT)))
		return STORE_ERROR;
	bind_memory(st, m);
	rc = sq_run(s, st);
	*n_r = sqlite3_last_insert_rowid(s->db);
	return rc;
}

static enum store_rc apply_put(struct store *s, const struct memory *m)
{
	struct row old;
	int64_t n = 0;
	enum store_rc rc = find_row(s, &m->id, &old);
	if (rc != STORE_OK || (old.n && (uint64_t)old.version >= m->version)) {
		buf_free(&old.content);
		return rc;
	}
	bool was = old.n && !old.deleted_us, is = !m->deleted_us;
	rc = ensure_namespace(s, m);
	if (rc == STORE_OK)
		rc = write_row(s, m, &old, &n);
	FAULT_POINT(store_row);
	if (rc == STORE_OK && indexed(m->deleted_us, m->flags))
		rc = words(s, true, n, m->content, m->ns);
	if (rc == STORE_OK)
		rc = put_vector(s, m, &old, n);
	if (rc == STORE_OK)
		rc = put_space(s, m);
	if (rc == STORE_OK)
		rc = count(s, m->ns, is - was, (is ? (int64_t)memory_quota_bytes(m) : 0) - (was ? old.bytes : 0));
	sq_changes_note(s, is ? CHANGE_PUT : CHANGE_DELETED, m->ns, &m->id, m->version);
	buf_free(&old.content);
	return rc;
}

/* ---- OP_DELETE ---- */

static enum store_rc soft_delete(struct store *s, const struct op_delete *d, const struct row *old)
{
	enum store_rc rc = by_number(s, SQ_HISTORY_KEEP, old->n);
	sqlite3_stmt *st = rc == STORE_OK ? sq_get(s, SQ_SOFT_DELETE) : NULL;
	if (!st)
		return rc == STORE_OK ? STORE_ERROR : rc;
	sqlite3_bind_int64(st, 1, (int64_t)d->version);
	sqlite3_bind_int64(st, 2, d->at_us);
	sqlite3_bind_int64(st, 3, d->at_us);
	sqlite3_bind_int64(st, 4, old->n);
	return sq_run(s, st);
}

static enum store_rc remove_row(struct store *s, const struct op_delete *d, const struct row *old)
{
	enum store_rc rc = by_number(s, SQ_VECTOR_DROP, old->n);
	sqlite3_stmt *st = rc == STORE_OK ? sq_get(s, SQ_HISTORY_DROP) : NULL;
	if (!st)
		return rc == STORE_OK ? STORE_ERROR : rc;
	sq_bind_uuid(st, 1, &d->id);
	rc = sq_run(s, st);
	return rc == STORE_OK ? by_number(s, SQ_REMOVE, old->n) : rc;
}

static enum store_rc exec_ns(struct store *s, const char *sql, uint64_t ns)
{
	char *text = sqlite3_mprintf(sql, (sqlite3_int64)ns);
	int rc = text ? sqlite3_exec(s->db, text, NULL, NULL, NULL) : SQLITE_NOMEM;
	sqlite3_free(text);
	return rc == SQLITE_OK ? STORE_OK : sq_fail(s);
}

/* Answers kept for idempotency repeat the content: an erase takes them as well. */
static enum store_rc drop_answers(struct store *s, uint64_t ns)
{
	return exec_ns(s, "DELETE FROM idempotency WHERE ns=%lld", ns);
}

static enum store_rc apply_delete(struct store *s, const struct op_delete *d)
{
	struct row old;
	enum store_rc rc = find_row(s, &d->id, &old);
	if (rc != STORE_OK || !old.n || (uint64_t)old.version >= d->version) {
		buf_free(&old.content);
		/* done before, and so were the answers behind it that are stored again now */
		return rc == STORE_OK && !old.n && d->how == DELETE_ERASE ? drop_answers(s, d->ns) : rc;
	}
	rc = words_drop(s, &old);
	FAULT_POINT(store_deleting);
	if (rc == STORE_OK)
		rc = d->how == DELETE_SOFT ? soft_delete(s, d, &old) : remove_row(s, d, &old);
	if (rc == STORE_OK && !old.deleted_us)
		rc = count(s, old.ns, -1, -old.bytes);
	if (rc == STORE_OK && d->how == DELETE_ERASE)
		rc = drop_answers(s, old.ns);
	sq_changes_note(s, d->how == DELETE_SOFT ? CHANGE_DELETED : CHANGE_GONE, old.ns, &d->id, d->version);
	buf_free(&old.content);
	return rc;
}

/* ---- the others ---- */

static enum store_rc apply_idem(struct store *s, const struct op_idem *o)
{
	sqlite3_stmt *st = sq_get(s, SQ_IDEM_PUT);
	if (!st)
		return STORE_ERROR;
	sqlite3_bind_int64(st, 1, (int64_t)o->key);
	sqlite3_bind_int64(st, 2, (int64_t)o->ns);
	sqlite3_bind_int64(st, 3, (int64_t)o->body_hash);
	sqlite3_bind_int(st, 4, (int)o->status);
	sqlite3_bind_int64(st, 5, o->expires_us);
	sqlite3_bind_blob(st, 6, o + 1, (int)o->reply_len, SQLITE_STATIC);
	return sq_run(s, st);
}

static enum store_rc drop_words(struct store *s, uint64_t ns)
{
	sqlite3_stmt *st;
	enum store_rc rc = STORE_OK;
	int step;
	if (sqlite3_prepare_v2(s->db, "SELECT n,body FROM memories WHERE ns=? AND deleted_us=0 AND (flags&4)=0", -1,
			       &st, NULL) != SQLITE_OK)
		return sq_fail(s);
	sqlite3_bind_int64(st, 1, (int64_t)ns);
	while (rc == STORE_OK && (step = sqlite3_step(st)) == SQLITE_ROW) {
		struct buf content = {0};
		sq_content(sq_text(st, 1), &content);
		rc = words(s, false, sqlite3_column_int64(st, 0), (struct span){content.p, content.len}, ns);
		buf_free(&content);
	}
	sqlite3_finalize(st);
	return rc;
}

static enum store_rc apply_ns_drop(struct store *s, uint64_t ns)
{
	/* clang-format off */
	static const char *const steps[] = {
		"DELETE FROM vectors WHERE n IN (SELECT n FROM memories WHERE ns=%lld)",
		"DELETE FROM history WHERE ns=%lld",
		"DELETE FROM idempotency WHERE ns=%lld",
		"DELETE FROM memories WHERE ns=%lld",
		"UPDATE namespaces SET present=0,count=0,bytes=0,quota_bytes=0,quota_count=0,relaxed=0,embedder='',dim=0,settings='{}' WHERE ns=%lld"};
	/* clang-format on */
	enum store_rc rc = drop_words(s, ns);
	s->spoken.ns = 0;
	sq_changes_note(s, CHANGE_NS_DROP, ns, NULL, 0);
	for (size_t i = 0; i < ARRAY_LEN(steps) && rc == STORE_OK; i++) {
		rc = exec_ns(s, steps[i], ns);
		FAULT_POINT(store_dropping);
	}
	return rc;
}

/* Words that are there were analysed in the language that the namespace has. */
static enum store_rc apply_namespace(struct store *s, const struct op_namespace *o)
{
	struct span name = {(const char *)(o + 1), o->name_len}, settings = {name.p + name.len, o->settings_len};
	struct home h;
	enum store_rc rc = find_home(s, o->ns, &h);
	if (rc != STORE_OK || (h.present && o->flags & NAMESPACE_ENSURE))
		return rc;
	enum language to = o->flags & NAMESPACE_LANGUAGE ? language_read_settings(settings) : h.language;
	if (to != h.language && h.count) {
		snprintf(s->error, sizeof(s->error), "the namespace has memories, and is %s: it cannot become %s",
			 language_name(h.language), language_name(to));
		return STORE_REJECTED;
	}
	struct buf kept = {NULL, 0, 0};
	language_write_settings(to, &kept);
	sq_changes_note(s, CHANGE_NAMESPACE, o->ns, NULL, 0);
	rc = put_namespace(s, o->ns, name, o->at_us, o->quota_bytes, o->quota_count, o->relaxed,
			   (struct span){kept.p, kept.len});
	buf_free(&kept);
	return rc;
}

static enum store_rc apply_op(struct store *s, const struct op_head *op, const void *body)
{
	struct memory m;
	switch (op->type) {
	case OP_PUT: return memory_decode(body, op->len, &m) ? apply_put(s, &m) : STORE_OK;
	case OP_DELETE: return apply_delete(s, body);
	case OP_IDEM: return apply_idem(s, body);
	case OP_NAMESPACE: return apply_namespace(s, body);
	case OP_NS_DROP: return apply_ns_drop(s, ((const struct op_ns_drop *)body)->ns);
	}
	return STORE_OK;
}

enum store_rc sq_apply(struct store *s, uint64_t seq, struct txn_reader *t)
{
	struct txn_reader r = *t;
	const struct op_head *op;
	const void *body;
	enum store_rc rc = STORE_OK;
	while (rc == STORE_OK && txn_next(&r, &op, &body))
		rc = apply_op(s, op, body);
	if (rc == STORE_OK && t->head->flags & TXN_SCRUB) {
		sqlite3_stmt *st = sq_get(s, SQ_SCRUB_SET);
		if (st)
			sqlite3_bind_int64(st, 1, (int64_t)seq);
		rc = sq_run(s, st);
	}
	return rc;
}
