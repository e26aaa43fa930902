/* A flush: one transaction in one pipeline. First the node's own row is locked and its cursor compared: a batch
 * whose first copy arrived before the connection broke is not written twice, and the copy of a connection that
 * hangs is waited for. Then the rows, what could not simply be inserted, the counters and the revision. */
#include <stdlib.h>

#include "batch.h"
#include "fault.h"
#include "words/words.h"

/* ---- sending and waiting ---- */

static const struct op_namespace *namespace_of(const struct pg_batch *b, const struct pg_entry *e)
{
	return (const struct op_namespace *)(const void *)(b->bytes.p + e->at);
}

static struct span settings_of(const struct op_namespace *o)
{
	return (struct span){(const char *)(o + 1) + o->name_len, o->settings_len};
}

/* Does it say in which language its words are analysed? */
static bool speaks(const struct pg_batch *b, const struct pg_entry *e)
{
	return e->how == HOW_NAMESPACE && namespace_of(b, e)->flags & NAMESPACE_LANGUAGE;
}

/* No row: it was to be made only where there is none. */
static void note_language(struct pg_batch *b, struct pg_entry *e, const PGresult *res)
{
	const struct op_namespace *o = namespace_of(b, e);
	struct pg_space *n = &b->spaces[e->space];
	if (pq.ntuples(res) != 1)
		return;
	n->language = language_stored(pg_text(res, 0, 0));
	if (!speaks(b, e) || n->language == language_read_settings(settings_of(o)))
		return;
	b->failed = e;
	b->rc = pg_fail(b->s, STORE_REJECTED, "the namespace has memories, and is %s: it cannot become %s",
			language_name(n->language), language_name(language_read_settings(settings_of(o))));
}

static void on_done(struct pg_request *r, enum pg_fate fate, PGresult *res)
{
	struct pg_entry *e = r->arg;
	struct pg_batch *b = e->batch;
	b->under_way--;
	if (!b->failed) {
		b->rc = pg_outcome(b->s, b->s->link, fate, res);
		if (b->rc != STORE_OK)
			b->failed = e;
	}
	if (!b->failed && e->how == HOW_ADD)
		e->effect = *pq.cmdTuples(res) == '1' ? EFFECT_STORED : EFFECT_NONE;
	if (!b->failed && (e->how == HOW_PUT || e->how == HOW_DELETE) && pq.ntuples(res) == 1) {
		int64_t outcome = pg_int(res, 0, 0);
		e->effect = outcome == 1   ? EFFECT_STORED
			    : outcome == 2 ? EFFECT_LOST
			    : outcome == 3 ? EFFECT_REPEATED
					   : EFFECT_NONE;
		b->spaces[e->space].count += pg_int(res, 0, 1);
		b->spaces[e->space].bytes += pg_int(res, 0, 2);
	}
	if (!b->failed && e->how == HOW_PUBLISH && pq.ntuples(res) == 1)
		b->revision = (uint64_t)pg_int(res, 0, 0);
	if (!b->failed && e->how == HOW_NAMESPACE)
		note_language(b, e, res);
	if (!b->failed && e->how == HOW_NS_DROP)
		b->spaces[e->space].count = b->spaces[e->space].bytes = 0;
	if (res)
		pq.clear(res);
}

/* The parameters are the batch's, and free again when this returns: the connection is there, so they are sent. */
static void send_statement(struct pg_batch *b, struct pg_entry *e, enum pg_stmt which, bool sync)
{
	e->r = (struct pg_request){.prepared = (int)which,
				   .sql = pg_statement(which),
				   .params = &b->params,
				   .session = b->s->session,
				   .sync = sync,
				   .done = on_done,
				   .arg = e};
	b->under_way++;
	pg_link_send(b->s->link, &e->r);
	pg_params_reset(&b->params);
}

static enum store_rc settle(struct pg_batch *b)
{
	if (b->under_way)
		pg_link_flush(b->s->link);
	while (b->under_way)
		pg_drive(b->s);
	return b->failed ? b->rc : STORE_OK;
}

/* ---- rows ---- */

static void note_vector_space(struct pg_space *n, const struct memory *m)
{
	if (n->dim || !m->dim || m->embedder.len > RECORD_EMBEDDER_MAX)
		return;
	n->dim = m->dim;
	memcpy(n->embedder, m->embedder.p, m->embedder.len);
	n->embedder[m->embedder.len] = 0;
}

void pg_write_memory(struct store *s, struct pg_entry *e, const struct memory *m)
{
	struct pg_params *p = &s->batch->params;
	note_vector_space(&s->batch->spaces[e->space], m);
	s->batch->spaces[e->space].touched = true;
	struct span metadata = filter_metadata(m->body);
	pg_param_uuid(p, &m->id);
	pg_param_text(p, m->ns_name);
	pg_param_int8(p, (int64_t)m->version);
	pg_param_int8(p, (int64_t)s->conf.node);
	pg_param_text(p, m->content);
	pg_param_jsonb(p, metadata.len ? metadata : SPAN_LIT("{}"));
	pg_param_text_or_null(p, m->kind);
	pg_param_text_or_null(p, m->user_id);
	pg_param_text_or_null(p, m->agent_id);
	pg_param_text_or_null(p, m->session_id);
	pg_param_text_or_null(p, m->external_id);
	pg_param_real(p, m->importance);
	pg_param_int4(p, (int32_t)m->flags);
	pg_param_time(p, m->created_us);
	pg_param_time(p, m->updated_us);
	pg_param_time_or_null(p, m->expires_us);
	pg_param_int8(p, (int64_t)m->content_hash);
	pg_param_int4(p, (int32_t)memory_quota_bytes(m));
	pg_param_text_or_null(p, m->embedder);
	pg_param_int4(p, (int32_t)m->dim);
	pg_param_embedding(p, &s->schema, m->dim, memory_vector(m, s->batch->vector));
	s->batch->words.len = 0;
	words_language(s->words, s->batch->spaces[e->space].language);
	words_tsvector(s->words, m->content, &s->batch->words);
	pg_param_bytes(p, s->batch->words.p, s->batch->words.len);
	pg_param_text(p, m->body);
}

static void send_put(struct store *s, struct pg_entry *e, const void *body)
{
	struct pg_params *p = &s->batch->params;
	struct memory m;
	AN(memory_decode(body, e->len, &m));
	if (e->how == HOW_PAST) {
		pg_param_uuid(p, &m.id);
		pg_param_int8(p, (int64_t)m.version);
		pg_param_int8(p, (int64_t)s->conf.node);
		pg_param_text(p, m.ns_name);
		pg_param_time(p, m.updated_us);
		pg_param_text(p, m.body);
		send_statement(s->batch, e, PG_PAST, false);
		return;
	}
	pg_write_memory(s, e, &m);
	if (e->how == HOW_PUT)
		pg_param_bool(p, e->flags & TXN_STRICT);
	send_statement(s->batch, e, e->how == HOW_ADD ? PG_ADD : PG_PUT, false);
}

static void send_delete(struct store *s, struct pg_entry *e, const struct op_delete *d, struct span ns)
{
	struct pg_params *p = &s->batch->params;
	pg_param_uuid(p, &d->id);
	pg_param_text(p, ns);
	pg_param_int8(p, (int64_t)d->version);
	pg_param_int8(p, (int64_t)s->conf.node);
	pg_param_time(p, d->at_us);
	pg_param_int2(p, (int16_t)d->how);
	pg_param_bool(p, e->flags & TXN_STRICT);
	send_statement(s->batch, e, PG_DELETE, false);
}

static void send_idem(struct store *s, struct pg_entry *e, const struct op_idem *o, struct span ns)
{
	struct pg_params *p = &s->batch->params;
	pg_param_int8(p, (int64_t)o->key);
	pg_param_text(p, ns);
	pg_param_int8(p, (int64_t)o->body_hash);
	pg_param_int4(p, (int32_t)o->status);
	pg_param_time(p, o->expires_us);
	pg_param_bytes(p, o + 1, o->reply_len);
	send_statement(s->batch, e, PG_IDEM_PUT, false);
}

static void send_namespace(struct store *s, struct pg_entry *e, const struct op_namespace *o, struct span ns)
{
	struct pg_params *p = &s->batch->params;
	struct span settings = settings_of(o);
	pg_param_text(p, ns);
	pg_param_time(p, o->at_us);
	pg_param_int8(p, (int64_t)o->quota_bytes);
	pg_param_int8(p, (int64_t)o->quota_count);
	pg_param_bool(p, o->relaxed);
	pg_param_text(p, settings.len ? settings : SPAN_LIT("{}"));
	pg_param_bool(p, o->flags & NAMESPACE_LANGUAGE);
	pg_param_bool(p, o->flags & NAMESPACE_ENSURE);
	send_statement(s->batch, e, PG_NS_PUT, false);
}

static void send_entry(struct store *s, struct pg_entry *e)
{
	const void *body = s->batch->bytes.p + e->at;
	struct pg_space *n = e->space == NO_SPACE ? NULL : &s->batch->spaces[e->space];
	struct span ns = n ? (struct span){n->name, n->name_len} : SPAN_LIT("");
	if (n && e->how != HOW_IDEM)
		n->touched = true;
	switch (e->how) {
	case HOW_ADD:
	case HOW_PUT:
	case HOW_PAST: send_put(s, e, body); break;
	case HOW_DELETE: send_delete(s, e, body, ns); break;
	case HOW_IDEM: send_idem(s, e, body, ns); break;
	case HOW_NAMESPACE: send_namespace(s, e, body, ns); break;
	case HOW_NS_DROP:
		pg_param_text(&s->batch->params, ns);
		pg_param_time(&s->batch->params, ((const struct op_ns_drop *)body)->at_us);
		n->dim = 0;
		n->language = LANGUAGE_ENGLISH;
		send_statement(s->batch, e, PG_NS_DROP, false);
		break;
	case HOW_SKIP:
	case HOW_PUBLISH: break;
	}
}

/* A language is given to a namespace without memories: under a lock that waits for those whom others are writing, and that who
 * is to write next waits for (NODE_LOCK). What follows in the batch is analysed as the answer says. */
static enum store_rc send_language(struct store *s, struct pg_entry *e)
{
	struct pg_space *n = &s->batch->spaces[e->space];
	struct pg_params p = {.n = 0};
	PGresult *res = NULL;
	enum store_rc rc = settle(s->batch);
	if (rc != STORE_OK)
		return rc;
	pg_param_text(&p, (struct span){n->name, n->name_len});
	rc = pg_call(s, PG_NS_LOCK, &p, &res);
	pg_params_free(&p);
	if (rc != STORE_OK)
		return rc;
	pq.clear(res);
	send_entry(s, e);
	return settle(s->batch);
}

static enum store_rc send_rows(struct store *s)
{
	struct pg_batch *b = s->batch;
	enum store_rc rc = STORE_OK;
	size_t adds = 0, languages = 0;
	for (size_t i = 0; i < b->n; i++) {
		adds += b->v[i].how == HOW_ADD;
		languages += speaks(b, &b->v[i]);
	}
	bool copy = s->conf.copy_min && adds >= s->conf.copy_min && !s->copy_failed && !languages;
	s->copying = copy;
	if (copy && (rc = pg_copy_adds(s, &copy)) != STORE_OK)
		return rc;
	for (size_t i = 0; i < b->n && !b->failed; i++) {
		if (copy && b->v[i].how == HOW_ADD)
			continue;
		if (!speaks(b, &b->v[i]))
			send_entry(s, &b->v[i]);
		else if ((rc = send_language(s, &b->v[i])) != STORE_OK)
			return rc;
		while (pg_link_blocked(s->link) && !b->failed)
			pg_drive(s);
		FAULT_POINT(store_row);
	}
	rc = settle(b);
	/* What was there already, or was deleted before: rare, and only the function knows what to do. */
	for (size_t i = 0; i < b->n && rc == STORE_OK; i++) {
		struct pg_entry *e = &b->v[i];
		if (e->how != HOW_ADD || i < b->spaces[e->space].dropped)
			continue;
		if (e->effect == EFFECT_STORED) {
			struct memory m;
			AN(memory_decode(b->bytes.p + e->at, e->len, &m));
			b->spaces[e->space].count++;
			b->spaces[e->space].bytes += (int64_t)memory_quota_bytes(&m);
			continue;
		}
		e->how = HOW_PUT;
		send_entry(s, e);
		rc = settle(b);
	}
	return rc;
}

/* ---- the end of a batch ---- */

static void namespace_params(struct pg_batch *b, struct pg_params *p)
{
	struct span *names = util_alloc((b->nspaces + 1) * sizeof(*names)),
		    *embedders = util_alloc((b->nspaces + 1) * sizeof(*names));
	int64_t *counts = util_alloc((b->nspaces + 1) * sizeof(*counts)),
		*bytes = util_alloc((b->nspaces + 1) * sizeof(*bytes));
	int32_t *dims = util_alloc((b->nspaces + 1) * sizeof(*dims));
	size_t n = 0;
	for (size_t i = 0; i < b->nspaces; i++) {
		struct pg_space *s = &b->spaces[i];
		if (!s->touched)
			continue;
		names[n] = (struct span){s->name, s->name_len};
		embedders[n] = s->dim ? SPAN(s->embedder) : (struct span){NULL, 0};
		dims[n] = (int32_t)s->dim;
		counts[n] = s->count;
		bytes[n++] = s->bytes;
	}
	pg_param_texts(p, names, n);
	pg_param_texts(p, embedders, n);
	pg_param_int4s(p, dims, n);
	pg_param_int8s(p, counts, n);
	pg_param_int8s(p, bytes, n);
	free(names);
	free(embedders);
	free(counts);
	free(bytes);
	free(dims);
}

static enum store_change_kind kind_of(const struct pg_batch *b, const struct pg_entry *e)
{
	switch (e->how) {
	case HOW_DELETE: return pg_batch_deletion(b, e)->how == DELETE_SOFT ? CHANGE_DELETED : CHANGE_GONE;
	case HOW_NAMESPACE: return CHANGE_NAMESPACE;
	case HOW_NS_DROP: return CHANGE_NS_DROP;
	default: return CHANGE_PUT;
	}
}

static bool is_change(const struct pg_entry *e)
{
	return e->effect == EFFECT_STORED || e->how == HOW_NAMESPACE || e->how == HOW_NS_DROP;
}

static void change_params(struct pg_batch *b, struct pg_params *p)
{
	struct uuid *ids = util_alloc((b->n + 1) * sizeof(*ids));
	int64_t *versions = util_alloc((b->n + 1) * sizeof(*versions));
	int16_t *kinds = util_alloc((b->n + 1) * sizeof(*kinds)), *places = util_alloc((b->n + 1) * sizeof(*places));
	int16_t *place = util_alloc((b->nspaces + 1) * sizeof(*place)), places_used = 0;
	size_t n = 0;
	for (size_t i = 0; i < b->nspaces; i++)
		place[i] = b->spaces[i].touched ? ++places_used : 0;
	for (size_t i = 0; i < b->n; i++) {
		const struct pg_entry *e = &b->v[i];
		if (!is_change(e))
			continue;
		ids[n] = e->id;
		versions[n] = (int64_t)e->version;
		kinds[n] = (int16_t)kind_of(b, e);
		places[n++] = place[e->space];
	}
	pg_param_uuids(p, ids, n);
	pg_param_int8s(p, versions, n);
	pg_param_int2s(p, kinds, n);
	pg_param_int2s(p, places, n);
	free(ids);
	free(versions);
	free(kinds);
	free(places);
	free(place);
}

/* Counters, cursor and revision; then COMMIT in the same breath, because the fleet's lock is held between. */
static enum store_rc publish(struct store *s, uint64_t seq)
{
	struct pg_batch *b = s->batch;
	struct pg_params *p = &b->params;
	struct pg_entry last[2] = {{.batch = b, .how = HOW_PUBLISH}, {.batch = b, .how = HOW_SKIP}};
	pg_param_int8(p, (int64_t)s->conf.node);
	pg_param_int8(p, (int64_t)seq);
	if (b->scrub)
		pg_param_int8(p, (int64_t)b->scrub_seq);
	else
		pg_param_null(p);
	namespace_params(b, p);
	change_params(b, p);
	FAULT_POINT(store_cursor);
	send_statement(b, &last[0], PG_PUBLISH, false);
	send_statement(b, &last[1], PG_COMMIT, true);
	return settle(b);
}

/* ---- the vtable's ---- */

enum store_rc pg_begin(struct store *s)
{
	pg_batch_clear(s->batch);
	s->batch->s = s;
	pg_notice_end(s);
	return pg_link_ready(s->link) && s->session == pg_link_session(s->link) ? STORE_OK : pg_end_former(s);
}

enum store_rc pg_apply(struct store *s, uint64_t seq, struct txn_reader *t) { return pg_batch_add(s, seq, t); }

/* BEGIN, and the node's row: nobody else writes for this node, and the cursor is where we left it. */
static enum store_rc open_transaction(struct store *s)
{
	PGresult *res = NULL;
	bool there = false;
	enum store_rc rc = pg_call(s, PG_BEGIN, NULL, &res);
	if (rc != STORE_OK)
		return rc;
	pq.clear(res);
	s->in_transaction = true;
	s->transaction = pg_link_session(s->link);
	rc = pg_languages_lock(s, &there);
	if (rc != STORE_OK)
		return rc;
	if (pg_link_session(s->link) != s->session)
		return pg_fail(s, STORE_AWAY, "the connection was made anew");
	return there ? STORE_OK : pg_fail(s, STORE_AWAY, "the cursor of this node has moved; it is read again");
}

/* COPY says that something was rejected, not what; or that it was there already, which is no reason to reject it. */
static enum store_rc rows(struct store *s)
{
	enum store_rc rc = send_rows(s);
	if (rc != STORE_REJECTED || !s->copying || s->batch->failed)
		return rc;
	pg_rollback(s);
	for (size_t i = 0; i < s->batch->n; i++)
		s->batch->v[i].effect = EFFECT_NONE;
	s->copy_failed = true;
	rc = open_transaction(s);
	rc = rc == STORE_OK ? send_rows(s) : rc;
	s->copy_failed = false;
	return rc;
}

enum store_rc pg_commit(struct store *s, uint64_t seq)
{
	pg_batch_settle(s->batch);
	enum store_rc rc = open_transaction(s);
	if (rc == STORE_OK)
		rc = rows(s);
	if (rc == STORE_OK)
		rc = publish(s, seq);
	if (rc == STORE_OK) {
		s->in_transaction = false;
		s->cursor = seq;
	}
	return rc;
}

uint64_t pg_committed(struct store *s) { return s->batch->revision; }

/* What failed leaves the pipeline aborted up to the next sync, which the first ROLLBACK brings: the second one is done. */
void pg_rollback(struct store *s)
{
	char kept[sizeof(s->error)]; /* why, which is what is asked for next */
	enum store_rc rc = STORE_BUSY;
	PGresult *res = NULL;
	if (!s->in_transaction)
		return;
	s->in_transaction = false;
	memcpy(kept, s->error, sizeof(kept));
	for (int i = 0; i < 2 && rc == STORE_BUSY && s->transaction == pg_link_session(s->link); i++)
		rc = pg_call(s, PG_ROLLBACK, NULL, &res);
	if (rc == STORE_OK)
		pq.clear(res);
	memcpy(s->error, kept, sizeof(kept));
}

bool pg_culprit(struct store *s, uint64_t *seq_r, uint32_t *op_r)
{
	const struct pg_batch *b = s->batch;
	const struct pg_entry *e = b->failed;
	if (!e || e < b->v || e >= b->v + b->n)
		return false;
	*seq_r = e->seq;
	*op_r = e->op;
	return true;
}

void pg_lost(struct store *s, void (*fn)(void *arg, const struct store_lost *l), void *arg)
{
	for (size_t i = 0; i < s->batch->n; i++) {
		const struct pg_entry *e = &s->batch->v[i];
		if (e->effect == EFFECT_LOST)
			fn(arg, &(struct store_lost){.seq = e->seq,
						     .ns = s->batch->spaces[e->space].ns,
						     .version = e->version,
						     .op = e->op,
						     .type = e->how == HOW_DELETE ? OP_DELETE : OP_PUT,
						     .id = e->id});
	}
}

void pg_drift(struct store *s, void (*fn)(void *arg, uint64_t ns, int64_t count, int64_t bytes), void *arg)
{
	struct pg_batch *b = s->batch;
	pg_batch_expect(b);
	for (size_t i = 0; i < b->nspaces; i++) {
		const struct pg_space *n = &b->spaces[i];
		if (n->count != n->expected || n->bytes != n->expected_bytes)
			fn(arg, n->ns, n->count - n->expected, n->bytes - n->expected_bytes);
	}
}
