/* Point reads: pending table, then store. */
#include "reader.h"

#include <errno.h>
#include <stdlib.h>

#include "clock.h"

#define PENDING_TRIES 8

struct reader *reader_new(struct shared *s)
{
	struct reader *r = util_zalloc(sizeof(*r));
	r->shared = s;
	return r;
}

void reader_free(struct reader **rp)
{
	struct reader *r = *rp;
	if (!r)
		return;
	if (r->store)
		r->shared->ops->close(r->store);
	if (r->journal)
		journal_reader_close(&r->journal);
	free(r->error);
	free(r->body);
	words_free(&r->words);
	free(r);
	*rp = NULL;
}

static enum read_rc failed(struct reader *r)
{
	const char *why = r->store ? r->shared->ops->error(r->store) : r->error ? r->error : "unknown";
	char *copy = util_strndup(why, strlen(why));
	free(r->error);
	r->error = copy;
	r->store_failed = true;
	return READ_ERROR;
}

bool reader_store(struct reader *r)
{
	if (r->offline) {
		r->store_failed = true;
		return false;
	}
	if (r->store)
		return true;
	char *error = NULL;
	r->store = r->shared->ops->open(&r->shared->store_conf, false, &error);
	if (!r->store) {
		free(r->error);
		r->error = error;
		r->store_failed = true;
	}
	return r->store != NULL;
}

struct words *reader_words(struct reader *r)
{
	if (!r->words)
		r->words = words_new();
	return r->words;
}

void reader_offline(struct reader *r, bool on) { r->offline = on; }

enum read_rc reader_trouble(struct reader *r)
{
	struct buf b = {0};
	if (!r->trouble)
		return READ_OK;
	buf_printf(&b, "the journal cannot be read: %s", strerror(r->trouble));
	buf_addc(&b, 0);
	free(r->error);
	r->error = b.p;
	r->trouble = 0;
	r->store_failed = false;
	return READ_ERROR;
}

/* The store does not have what is pending: without the journal its answer would be wrong. */
enum read_rc reader_outcome(struct reader *r, enum store_rc rc)
{
	return r->trouble	       ? reader_trouble(r)
	       : rc == STORE_OK	       ? READ_OK
	       : rc == STORE_NOT_FOUND ? READ_NONE
				       : failed(r);
}

/* ---- memories that own their bytes ---- */

void held_free(struct held *h)
{
	free(h->bytes);
	*h = (struct held){.bytes = NULL};
}

static void keep(char **at, struct span *s)
{
	if (s->len)
		memcpy(*at, s->p, s->len);
	s->p = s->len ? *at : NULL;
	*at += s->len;
}

void held_copy(struct held *h, const struct memory *m)
{
	struct memory c = *m;
	struct span *spans[] = {&c.ns_name,    &c.content,     &c.kind,	    &c.user_id, &c.agent_id,
				&c.session_id, &c.external_id, &c.embedder, &c.body};
	size_t n = m->embedding || m->packed.len ? m->dim * sizeof(float) : 0, vector = n;
	for (size_t i = 0; i < ARRAY_LEN(spans); i++)
		n += spans[i]->len;
	h->bytes = util_alloc(n + 1);
	char *at = h->bytes;
	if (vector) {
		float *x = (float *)(void *)at;
		c.embedding = memory_vector(m, x);
		if (c.embedding && c.embedding != x)
			c.embedding = memcpy(x, c.embedding, vector);
		c.packed = (struct span){NULL, 0};
		at += vector;
	}
	for (size_t i = 0; i < ARRAY_LEN(spans); i++)
		keep(&at, spans[i]);
	h->m = c;
}

static bool hold(void *arg, const struct memory *m)
{
	held_copy(arg, m);
	return false;
}

/* ---- the pending side ---- */

/* Reads the body of a pending operation. False: its segment is gone, so the store has it. */
static char *pending_bytes(struct reader *r, const struct pending_entry *e)
{
	if (!r->journal)
		r->journal = journal_reader_open(r->shared->store_conf.dir);
	if (!r->journal) {
		r->trouble = errno;
		return NULL;
	}
	char *bytes = util_alloc(e->len + 8u);
	bool got = journal_read(r->journal, e->segment, e->offset, bytes, e->len);
	if (!got && errno)
		r->trouble = errno;
	if (got)
		return bytes;
	free(bytes);
	return NULL;
}

/* The memory that a pending PUT holds. */
static bool pending_memory(struct reader *r, const struct pending_entry *e, struct held *h)
{
	char *bytes = pending_bytes(r, e);
	struct memory m;
	bool found = bytes && memory_decode(bytes, e->len, &m) && uuid_cmp(&m.id, &e->id) == 0 &&
		     m.version == e->version;
	if (found && !m.packed.len) {
		h->m = m;
		h->bytes = bytes;
		return true;
	}
	if (found)
		held_copy(h, &m);
	free(bytes);
	return found;
}

bool reader_pending_memory(struct reader *r, const struct pending_entry *e, struct held *h)
{
	return pending_memory(r, e, h);
}

static bool expired(const struct memory *m) { return m->expires_us && m->expires_us <= clock_real_us(); }

/* What a pending deletion says. False: its segment is gone, so the store has it. */
static bool pending_delete(struct reader *r, const struct pending_entry *del, struct op_delete *d)
{
	char *bytes = pending_bytes(r, del);
	bool ok = bytes && del->len >= sizeof(*d);
	if (ok)
		memcpy(d, bytes, sizeof(*d));
	free(bytes);
	return ok;
}

/* The deleted state of a memory: what it was before, marked deleted at the deletion's version. */
static enum read_rc before_deletion(struct reader *r, const struct pending_entry *del, int64_t at_us, bool vector,
				    struct held *h)
{
	struct pending_entry v[64];
	bool found = false;
	size_t n = pending_versions(r->shared->pending, &del->id, v, ARRAY_LEN(v));
	for (size_t i = 0; i < n && !found; i++)
		found = v[i].type == OP_PUT && v[i].version < del->version && pending_memory(r, &v[i], h);
	if (!found) {
		if (!reader_store(r))
			return READ_ERROR;
		unsigned step = trace_enter(TRACE_STORE);
		enum read_rc rc = reader_outcome(
			r, reader_asked(step, r->shared->ops->get(r->store, &del->id, vector, hold, h)));
		if (rc != READ_OK)
			return rc;
	}
	if (h->m.version < del->version) {
		h->m.version = del->version;
		h->m.deleted_us = at_us;
	}
	return READ_OK;
}

bool reader_pending(struct reader *r, const struct uuid *id, bool with_embedding, struct held *h, enum read_rc *rc_r)
{
	struct pending_entry e;
	struct op_delete d;
	for (int i = 0; i < PENDING_TRIES && pending_find_id(r->shared->pending, id, &e); i++) {
		*rc_r = READ_NONE;
		if (e.type == OP_DELETE && e.how != DELETE_SOFT)
			return true;
		bool deleted = e.type == OP_DELETE && pending_delete(r, &e, &d);
		if (!deleted && (e.type != OP_PUT || !pending_memory(r, &e, h)))
			continue;
		r->trouble = 0;
		*rc_r = deleted ? before_deletion(r, &e, d.at_us, with_embedding, h) : READ_OK;
		return true;
	}
	return false;
}

enum read_rc reader_newest(struct reader *r, const struct uuid *id, bool with_embedding, struct held *h)
{
	enum read_rc rc;
	if (reader_pending(r, id, with_embedding, h, &rc))
		return rc;
	if (!reader_store(r))
		return r->trouble ? reader_trouble(r) : READ_ERROR;
	unsigned step = trace_enter(TRACE_STORE);
	return reader_outcome(r, reader_asked(step, r->shared->ops->get(r->store, id, with_embedding, hold, h)));
}

bool reader_visible(struct reader *r, const struct memory *m)
{
	return !expired(m) && plant_exists(r->shared->plant, m->ns);
}

enum read_rc reader_get(struct reader *r, const struct uuid *id, bool with_embedding, struct held *h)
{
	enum read_rc rc = reader_newest(r, id, with_embedding, h);
	if (rc != READ_OK || reader_visible(r, &h->m))
		return rc;
	held_free(h);
	return READ_NONE;
}

/* A pending entry, or a row of the store, may be of a memory that moved on since: the memory itself decides. */
static enum read_rc by_key(struct reader *r, const struct uuid *id, struct span text, bool external, struct held *h)
{
	enum read_rc rc = reader_get(r, id, true, h);
	if (rc != READ_OK)
		return rc;
	if (!h->m.deleted_us && span_eq(external ? h->m.external_id : h->m.content, text))
		return READ_OK;
	held_free(h);
	return READ_NONE;
}

struct found {
	struct uuid *v;
	size_t n, max;
};

static bool note_id(void *arg, const struct memory *m)
{
	struct found *f = arg;
	f->v[f->n++] = m->id;
	return f->n < f->max;
}

/* The first of the store's rows that still is what it says there: some may have expired, or be outdated by
 * something pending. They are looked at after the store's statement has ended: what is pending comes first. */
static enum read_rc current_row(struct reader *r, uint64_t ns, struct span text, bool external, struct held *h)
{
	const struct store_ops *ops = r->shared->ops;
	struct found f = {.max = 4};
	enum read_rc rc = READ_NONE;
	for (size_t seen = 0; rc == READ_NONE; f.max *= 8) {
		f.v = util_realloc(f.v, f.max * sizeof(*f.v));
		f.n = 0;
		unsigned step = trace_enter(TRACE_STORE);
		enum store_rc src = external ? ops->by_external(r->store, ns, text, false, note_id, &f)
					     : ops->by_content(r->store, ns, record_content_key(ns, text), text, false,
							       note_id, &f);
		rc = reader_outcome(r, reader_asked(step, src));
		bool more = rc == READ_OK && f.n == f.max;
		for (rc = rc == READ_OK ? READ_NONE : rc; rc == READ_NONE && seen < f.n; seen++)
			rc = by_key(r, &f.v[seen], text, external, h);
		if (!more)
			break;
	}
	free(f.v);
	return rc;
}

enum read_rc reader_by_external(struct reader *r, uint64_t ns, struct span ext, struct held *h)
{
	struct pending_entry e;
	if (pending_find_external(r->shared->pending, record_external_key(ns, ext), &e)) {
		enum read_rc rc = by_key(r, &e.id, ext, true, h);
		if (rc != READ_NONE)
			return rc;
	}
	return reader_store(r) ? current_row(r, ns, ext, true, h) : READ_ERROR;
}

enum read_rc reader_by_content(struct reader *r, uint64_t ns, struct span content, struct held *h)
{
	struct pending_entry e[64];
	size_t n = pending_find_content(r->shared->pending, record_content_key(ns, content), e, ARRAY_LEN(e));
	for (size_t i = 0; i < n; i++) {
		enum read_rc rc = i && uuid_cmp(&e[i].id, &e[i - 1].id) == 0 ? READ_NONE
									     : by_key(r, &e[i].id, content, false, h);
		if (rc != READ_NONE)
			return rc;
	}
	return reader_store(r) ? current_row(r, ns, content, false, h) : READ_ERROR;
}

enum read_rc reader_idem(struct reader *r, uint64_t key, struct op_idem *o, struct buf *reply)
{
	struct pending_entry e;
	int64_t now = clock_real_us();
	if (pending_find_idem(r->shared->pending, key, &e) && e.expires_us > now) {
		char *bytes = pending_bytes(r, &e);
		bool ok = bytes && e.len >= sizeof(*o);
		if (ok) {
			memcpy(o, bytes, sizeof(*o));
			ok = o->key == key && o->reply_len == e.len - sizeof(*o);
			if (ok)
				buf_add(reply, bytes + sizeof(*o), o->reply_len);
		}
		free(bytes);
		if (ok)
			return READ_OK;
	}
	if (!reader_store(r))
		return READ_ERROR;
	unsigned step = trace_enter(TRACE_STORE);
	return reader_outcome(r, reader_asked(step, r->shared->ops->idem(r->store, key, now, o, reply)));
}
