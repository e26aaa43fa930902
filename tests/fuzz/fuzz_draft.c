/* Request bodies: any JSON, as a memory to add, a patch, or an imported line. What is refused is refused with a problem
 * that is JSON itself. What is accepted gives a canonical body that parses, says what was sent, comes back from the
 * record as the same bytes, and is accepted again by an import with the same result.
 *
 * Input: flags, then the body as decisions (grow.h), or as text. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "api/api.h"

#include "api/body_json.c"
#include "api/draft.c"
#include "api/draft_build.c"
#include "api/json_out.c"
#include "api/problem.c"
#include "grow.h"

enum { AS_TEXT = 1, SPOIL = 2, BULK = 4, PATCH = 8, IMPORT = 16, NO_EMBEDDER = 32 };
#define NOW 1795239518123456

static struct api api;
static const struct span ns_name = {"n\"\xc3\xa4", 4};

static json_t *parse(struct span s)
{
	json_t *o = json_loadb(s.p, s.len, JSON_REJECT_DUPLICATES, NULL);
	AN(o);
	return o;
}

/* ---- bodies ---- */

static void grow_pair(struct input *in, struct buf *out)
{
	static const char *const fields[] = {
		"content",     "metadata",	  "kind",	"user_id",    "agent_id",      "session_id",
		"external_id", "importance",	  "pinned",	"ttl",	      "ttl_seconds",   "expires_at",
		"embedding",   "embedding_model", "namespace",	"created_at", "infer",	       "id",
		"version",     "updated_at",	  "valid_from", "valid_to",   "superseded_by", "supersedes",
		"text",	       "embeddin\\u0067", "memories"};
	static const char *const fitting[] = {"\"a\"",
					      "\"Ada: one\\ntwo\"",
					      "0.5",
					      "true",
					      "\"2027-01-01T00:00:00Z\"",
					      "\"9999-12-31T23:59:59.9-23:59\"",
					      "[1,2,3]",
					      "\"AACAPwAAAEA=\"",
					      "7",
					      "3600.5",
					      "\"0189b3f0-5a5a-7abc-8def-00000000005a\"",
					      "null",
					      "false"};
	const char *field = GROW_PICK(in, fields);
	unsigned what = grow_byte(in);
	buf_printf(out, "\"%s\":", field);
	if (what < 160)
		buf_adds(out, fitting[what % ARRAY_LEN(fitting)]);
	else if (strcmp(field, "metadata") == 0)
		grow_object(in, out);
	else
		grow_value(in, out, 0);
}

static void grow_memory(struct input *in, struct buf *out)
{
	unsigned n = grow_byte(in);
	buf_addc(out, '{');
	if (n & 7) { /* most are complete */
		buf_adds(out, "\"content\":");
		grow_string(in, out);
	}
	for (unsigned i = 0; i < n >> 4; i++) {
		buf_adds(out, i || n & 7 ? "," : "");
		grow_pair(in, out);
	}
	buf_addc(out, '}');
}

static void grow_body(struct input *in, unsigned flags, struct buf *out)
{
	if (!(flags & BULK)) {
		grow_memory(in, out);
		return;
	}
	buf_adds(out, "{\"memories\":[");
	for (unsigned n = 1 + grow_byte(in) % 3; n; n--) {
		grow_memory(in, out);
		buf_adds(out, n > 1 ? "," : "");
	}
	buf_adds(out, "]}");
}

/* ---- what follows from an accepted one ---- */

static bool text_is(const json_t *o, const char *key, struct span want)
{
	const json_t *v = json_object_get(o, key);
	return want.len ? v && span_eq((struct span){json_string_value(v), json_string_length(v)}, want) : !v;
}

static bool time_is(const json_t *o, const char *key, int64_t want)
{
	const json_t *v = json_object_get(o, key);
	int64_t us;
	if (!want)
		return !v;
	return v && clock_parse(json_string_value(v), json_string_length(v), &us) && us == want;
}

/* The record and its JSON say the same. */
static void check_memory(const struct memory *m, const json_t *o)
{
	AN(text_is(o, "namespace", m->ns_name) && text_is(o, "content", m->content) && text_is(o, "kind", m->kind));
	AN(text_is(o, "user_id", m->user_id) && text_is(o, "agent_id", m->agent_id) &&
	   text_is(o, "session_id", m->session_id));
	AN(text_is(o, "external_id", m->external_id) && text_is(o, "embedding_model", m->embedder));
	AN(time_is(o, "created_at", m->created_us) && time_is(o, "updated_at", m->updated_us) &&
	   time_is(o, "expires_at", m->expires_us));
	AN((float)json_number_value(json_object_get(o, "importance")) == m->importance);
	AN(json_is_true(json_object_get(o, "pinned")) == !!(m->flags & MEMORY_PINNED));
	AN((uint64_t)json_integer_value(json_object_get(o, "version")) == m->version);
	AN(json_is_object(json_object_get(o, "metadata")));
	AN(m->content.len >= 1 && m->content.len <= LIMIT_CONTENT && m->importance >= 0 && m->importance <= 1);
	AN(json_dumpb(json_object_get(o, "metadata"), NULL, 0, JSON_COMPACT) <= LIMIT_METADATA);
	AN(!m->dim == !m->embedding && m->dim <= LIMIT_DIMENSIONS);
	for (uint32_t i = 0; i < m->dim; i++)
		AN(isfinite(m->embedding[i]));
}

/* Through the record and back: the same bytes. */
static void check_record(const struct memory *m)
{
	struct buf b = {0}, again = {0};
	struct txn_builder t;
	struct txn_reader r;
	const struct op_head *op;
	const void *body;
	struct memory read, second;
	struct draft d;
	txn_begin(&t, &b, 1, 0, 0, 0);
	txn_op_put(&t, m);
	txn_end(&t);
	AN(txn_open(&r, b.p, b.len) && txn_next(&r, &op, &body) && memory_decode(body, op->len, &read));
	AN(span_eq(read.body, m->body) && span_eq(read.content, m->content) && read.dim == m->dim &&
	   read.flags == m->flags);
	static float room[LIMIT_DIMENSIONS];
	read.embedding = memory_vector(&read, room); /* as readers do (reader.c) */
	read.packed = (struct span){NULL, 0};
	AN(!read.dim || memcmp(read.embedding, m->embedding, read.dim * sizeof(float)) == 0);
	AN(draft_from_memory(&d, &read));
	draft_memory(&d, read.ns_name, read.version, &again, &second);
	AN(span_eq((struct span){again.p, again.len}, m->body));
	AN(second.flags == m->flags && second.content_hash == m->content_hash && second.importance == m->importance);
	draft_free(&d);
	buf_free(&again);
	buf_free(&b);
}

static void complete(struct draft *d)
{
	if (!d->has_id)
		d->id.b[15] = 7;
	if (!d->created_us)
		d->created_us = NOW;
	if (!d->updated_us)
		d->updated_us = d->created_us;
}

static void reply_free(struct call *c)
{
	buf_free(&c->reply.head);
	buf_free(&c->reply.body);
	c->reply.status = 0;
}

/* Its JSON as an export gives it, imported. */
static void check_import(const struct memory *m, json_t *o)
{
	struct call c = {.api = &api};
	struct body_json b;
	struct draft d;
	struct buf body = {0};
	struct memory again;
	draft_init(&d);
	AN(body_json_parse(&c, m->body, &b));
	AN(draft_read(&c, &b, b.root, DRAFT_IMPORT, "", &d));
	AN(draft_embed(&c, &d, NULL, ""));
	complete(&d);
	draft_memory(&d, m->ns_name, d.version, &body, &again);
	json_t *p = parse(again.body);
	json_object_del(p, "embedding_model"); /* the line has no vector: ours was made, or none */
	json_object_del(o, "embedding_model");
	AN(json_equal(o, p));
	AN((again.flags | MEMORY_CLIENT_EMBEDDING) == (m->flags | MEMORY_CLIENT_EMBEDDING));
	json_decref(p);
	draft_free(&d);
	body_json_free(&b);
	buf_free(&body);
	reply_free(&c);
}

static void accepted(struct call *c, struct draft *d, const json_t *sent, enum draft_mode mode)
{
	struct buf body = {0};
	struct memory m;
	complete(d);
	if (!draft_embed(c, d, NULL, ""))
		return;
	draft_memory(d, ns_name, d->version ? d->version : 1, &body, &m);
	json_t *o = parse(m.body);
	const json_t *v;
	check_memory(&m, o);
	if ((v = json_object_get(sent, "content")))
		AN(json_equal(v, json_object_get(o, "content")));
	if ((v = json_object_get(sent, "importance")) && !json_is_null(v))
		AN(json_number_value(v) == json_number_value(json_object_get(o, "importance")));
	if ((v = json_object_get(sent, "metadata")) && mode != DRAFT_PATCH && !json_is_null(v))
		AN(json_equal(v, json_object_get(o, "metadata")));
	check_record(&m);
	check_import(&m, o);
	json_decref(o);
	buf_free(&body);
}

static void refused(const struct call *c)
{
	json_t *o = parse((struct span){c->reply.body.p, c->reply.body.len});
	AN(c->reply.status >= 400 && c->reply.status < 600);
	AN(json_integer_value(json_object_get(o, "status")) == c->reply.status &&
	   json_string_length(json_object_get(o, "detail")));
	json_decref(o);
}

/* What a patch changes. */
static void old_memory(struct memory *m, struct buf *body)
{
	static const float x[3] = {1, 2, 3};
	struct draft d;
	draft_init(&d);
	free(d.metadata);
	d.metadata = util_strndup("{\"a\":{\"b\":1},\"metadata\":[null]}", 31);
	d.content = SPAN_LIT("old");
	d.user_id = d.external_id = SPAN_LIT("u");
	d.embedding = x;
	d.dim = 3;
	d.embedder = SPAN_LIT("client:3");
	d.client_vector = d.superseded = true;
	d.valid_from_us = d.valid_to_us = NOW;
	complete(&d);
	draft_memory(&d, ns_name, 4, body, m);
	draft_free(&d);
}

static void one(struct call *c, const struct body_json *b, json_t *sent, enum draft_mode mode)
{
	struct buf old = {0};
	struct memory m;
	struct draft d;
	if (mode == DRAFT_PATCH) {
		old_memory(&m, &old);
		AN(draft_from_memory(&d, &m));
	} else {
		draft_init(&d);
	}
	if (draft_read(c, b, sent, mode, mode == DRAFT_ADD ? "memories[0]." : "", &d))
		accepted(c, &d, sent, mode);
	else
		refused(c);
	draft_free(&d);
	buf_free(&old);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = {data + 1, data + size};
	struct call c = {.api = &api};
	struct buf text = {0};
	struct body_json b;
	if (size < 2)
		return 0;
	api.embedder = data[0] & NO_EMBEDDER ? NULL : embed_hashed();
	enum draft_mode mode = data[0] & PATCH ? DRAFT_PATCH : data[0] & IMPORT ? DRAFT_IMPORT : DRAFT_ADD;
	if (data[0] & AS_TEXT)
		buf_add(&text, data + 1, size - 1);
	else
		grow_body(&in, data[0], &text);
	if (data[0] & SPOIL && !(data[0] & AS_TEXT))
		grow_spoil(&in, &text);
	char *exact = malloc(text.len); /* its end is guarded */
	AN(exact);
	memcpy(exact, text.p, text.len);
	if (body_json_parse(&c, (struct span){exact, text.len}, &b)) {
		json_t *list = json_object_get(b.root, "memories"), *v;
		size_t i;
		if (data[0] & BULK && json_is_array(list))
			json_array_foreach (list, i, v)
				one(&c, &b, v, mode);
		else
			one(&c, &b, b.root, mode);
	} else {
		refused(&c);
	}
	body_json_free(&b);
	free(exact);
	buf_free(&text);
	reply_free(&c);
	return 0;
}
