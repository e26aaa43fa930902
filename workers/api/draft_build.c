/* Draft → record and canonical JSON; stored memory → draft. */
#include <stdio.h>
#include <stdlib.h>

#include "clock.h"
#include "draft.h"

/* Without printf: a body has a dozen of them, and every memory that is added has a body. */
static void out_key(struct buf *b, const char *key)
{
	buf_adds(b, ",\"");
	buf_adds(b, key);
	buf_adds(b, "\":");
}

static void out_text(struct buf *b, const char *key, struct span s)
{
	if (!s.len)
		return;
	out_key(b, key);
	json_out_string(b, s);
}

static void out_time(struct buf *b, const char *key, int64_t us)
{
	if (!us)
		return;
	out_key(b, key);
	json_out_time(b, us);
}

static void out_id(struct buf *b, const struct uuid *u)
{
	char text[UUID_TEXT + 2];
	text[0] = text[UUID_TEXT + 1] = '"';
	uuid_format(u, text + 1);
	buf_add(b, text, sizeof(text));
}

static void out_uuid(struct buf *b, const char *key, const struct uuid *u)
{
	out_key(b, key);
	out_id(b, u);
}

/* The order is fixed: equal memories have equal bytes. Optional fields appear only when set. */
static void write_body(const struct draft *d, struct span ns_name, uint64_t version, struct buf *b)
{
	buf_adds(b, "{\"id\":");
	out_id(b, &d->id);
	out_text(b, "namespace", ns_name);
	out_text(b, "content", d->content);
	out_text(b, "kind", d->kind);
	out_text(b, "user_id", d->user_id);
	out_text(b, "agent_id", d->agent_id);
	out_text(b, "session_id", d->session_id);
	out_text(b, "external_id", d->external_id);
	buf_adds(b, ",\"importance\":");
	json_out_double(b, d->importance);
	if (d->pinned)
		buf_adds(b, ",\"pinned\":true");
	if (d->dim)
		out_text(b, "embedding_model", d->embedder);
	buf_adds(b, ",\"metadata\":");
	buf_adds(b, d->metadata);
	out_time(b, "created_at", d->created_us);
	out_time(b, "updated_at", d->updated_us);
	out_time(b, "expires_at", d->expires_us);
	out_time(b, "valid_from", d->valid_from_us);
	out_time(b, "valid_to", d->valid_to_us);
	if (d->has_supersedes)
		out_uuid(b, "supersedes", &d->supersedes);
	if (d->has_superseded_by)
		out_uuid(b, "superseded_by", &d->superseded_by);
	buf_adds(b, ",\"version\":");
	buf_addu(b, version);
	buf_addc(b, '}');
}

void draft_memory(const struct draft *d, struct span ns_name, uint64_t version, struct buf *body, struct memory *m_r)
{
	size_t start = body->len;
	uint64_t ns = record_ns(ns_name);
	write_body(d, ns_name, version, body);
	*m_r = (struct memory){.id = d->id,
			       .ns = ns,
			       .version = version,
			       .created_us = d->created_us,
			       .updated_us = d->updated_us,
			       .expires_us = d->expires_us,
			       .flags = (d->pinned ? MEMORY_PINNED : 0) |
					(d->client_vector ? MEMORY_CLIENT_EMBEDDING : 0) |
					(d->superseded ? MEMORY_SUPERSEDED : 0),
			       .importance = (float)d->importance,
			       .content_hash = record_content_key(ns, d->content),
			       .ns_name = ns_name,
			       .content = d->content,
			       .kind = d->kind,
			       .user_id = d->user_id,
			       .agent_id = d->agent_id,
			       .session_id = d->session_id,
			       .external_id = d->external_id,
			       .embedder = d->dim ? d->embedder : (struct span){NULL, 0},
			       .embedding = d->embedding,
			       .dim = d->dim,
			       .body = {body->p + start, body->len - start},
			       .replaces_bytes = d->replaces_bytes};
}

static struct span text_of(const json_t *o, const char *key)
{
	const json_t *v = json_object_get(o, key);
	return json_is_string(v) ? (struct span){json_string_value(v), json_string_length(v)} : (struct span){NULL, 0};
}

static int64_t time_of(const json_t *o, const char *key)
{
	struct span s = text_of(o, key);
	int64_t us;
	return s.p && clock_parse(s.p, s.len, &us) ? us : 0;
}

bool draft_from_memory(struct draft *d, const struct memory *m)
{
	json_t *o = json_loadb(m->body.p, m->body.len, 0, NULL);
	if (!o)
		return false;
	char *metadata = json_dumps(json_object_get(o, "metadata"), JSON_COMPACT);
	struct span by = text_of(o, "superseded_by"), of = text_of(o, "supersedes");
	draft_init(d);
	free(d->metadata);
	d->metadata = metadata ? metadata : util_strndup("{}", 2);
	d->keep = o;
	d->id = m->id;
	d->has_id = true;
	d->content = text_of(o, "content");
	d->kind = text_of(o, "kind");
	d->user_id = text_of(o, "user_id");
	d->agent_id = text_of(o, "agent_id");
	d->session_id = text_of(o, "session_id");
	d->external_id = text_of(o, "external_id");
	d->importance = json_number_value(json_object_get(o, "importance"));
	d->pinned = json_is_true(json_object_get(o, "pinned"));
	d->created_us = time_of(o, "created_at");
	d->updated_us = time_of(o, "updated_at");
	d->expires_us = time_of(o, "expires_at");
	d->valid_from_us = time_of(o, "valid_from");
	d->valid_to_us = time_of(o, "valid_to");
	d->has_supersedes = of.p && uuid_parse(of.p, of.len, &d->supersedes);
	d->has_superseded_by = by.p && uuid_parse(by.p, by.len, &d->superseded_by);
	d->superseded = (m->flags & MEMORY_SUPERSEDED) != 0;
	d->version = m->version;
	d->embedding = m->embedding;
	d->dim = m->embedding ? m->dim : 0;
	d->embedder = m->embedder;
	d->client_vector = (m->flags & MEMORY_CLIENT_EMBEDDING) != 0;
	return true;
}

static bool mismatch(struct call *c, const char *where, const struct plant_namespace *row, const struct draft *d)
{
	problem(c, 409, "embedder-mismatch",
		"%sembedding: the namespace holds vectors of \"%s\" with %u dimensions; this one is \"%.*s\" with %u. "
		"Spaces never mix: use another namespace",
		where, row->embedder, atomic_load(&row->dim), (int)d->embedder.len, d->embedder.p, d->dim);
	return false;
}

/* A namespace's space is fixed by its first vector. Texts get a vector of ours when the space is
 * ours or still open; in a client's space they are stored without one and found by their words. */
bool draft_embed(struct call *c, struct draft *d, const struct plant_namespace *row, const char *where)
{
	const struct embedder *e = c->api->embedder;
	uint32_t dim = row ? atomic_load_explicit(&row->dim, memory_order_acquire) : 0;
	struct span space = dim ? SPAN(row->embedder) : (struct span){NULL, 0};
	if (d->embedding_set && d->dim && !d->embedder.p) {
		char *id = util_alloc(32);
		snprintf(id, 32, "client:%u", d->dim);
		d->own_embedder = id;
		d->embedder = SPAN(id);
	}
	if (d->dim)
		return !dim || (dim == d->dim && span_eq(space, d->embedder)) || mismatch(c, where, row, d);
	if (!e || (d->embedding_set) || (dim && !span_eq(space, SPAN(e->id))))
		return true;
	float *x = util_alloc(e->dimensions * sizeof(float));
	int64_t began_ns = clock_mono_ns();
	bool made = e->embed(e, &d->content, 1, x);
	if (c->api->shared.stats) /* a draft is made on the loop or in a thread */
		stats_record_shared(c->api->shared.stats, HIST_EMBED, (uint64_t)(clock_mono_ns() - began_ns));
	if (!made) { /* no feature at all, e.g. only punctuation */
		free(x);
		return true;
	}
	free(d->own_vector);
	d->own_vector = x;
	d->embedding = x;
	d->dim = e->dimensions;
	d->embedder = SPAN(e->id);
	d->client_vector = false;
	return true;
}
