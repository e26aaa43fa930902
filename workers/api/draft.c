/* Request JSON → draft: every field checked, every refusal naming field, limit and remedy. */
#include "draft.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "clock.h"

struct reading {
	struct call *c;
	const struct body_json *b;
	enum draft_mode mode;
	const char *where;
	struct draft *d;
};

static bool bad(const struct reading *r, const char *field, const char *what)
{
	problem(r->c, 400, "invalid-field", "%s%s: %s", r->where, field, what);
	return false;
}

static bool read_text(const struct reading *r, const char *field, const json_t *v, size_t min, size_t max,
		      struct span *out)
{
	char what[96];
	if (!json_is_string(v))
		return bad(r, field, "must be a string");
	*out = (struct span){json_string_value(v), json_string_length(v)};
	if (out->len < min || out->len > max) {
		snprintf(what, sizeof(what), "must be %zu to %zu bytes of UTF-8, is %zu", min, max, out->len);
		return bad(r, field, what);
	}
	if (memchr(out->p, 0, out->len))
		return bad(r, field, "must not contain U+0000");
	return true;
}

static bool read_scope(const struct reading *r, const char *field, const json_t *v, struct span *out)
{
	if (json_is_null(v) && r->mode != DRAFT_ADD) {
		*out = (struct span){NULL, 0};
		return true;
	}
	return json_is_null(v) || read_text(r, field, v, 1, LIMIT_SCOPE, out);
}

/* RFC 7396: null removes, objects merge, everything else replaces. */
static void merge_patch(json_t *target, json_t *patch)
{
	const char *key;
	json_t *v;
	json_object_foreach (patch, key, v) {
		json_t *old = json_object_get(target, key);
		if (json_is_null(v)) {
			json_object_del(target, key);
		} else if (json_is_object(v)) {
			if (!json_is_object(old)) {
				old = json_object();
				json_object_set_new(target, key, old);
			}
			merge_patch(old, v);
		} else {
			json_object_set(target, key, v);
		}
	}
}

static bool has_nul(const json_t *v)
{
	const char *key;
	size_t i;
	json_t *e;
	if (json_is_string(v))
		return memchr(json_string_value(v), 0, json_string_length(v)) != NULL;
	if (json_is_array(v)) {
		json_array_foreach (v, i, e)
			if (has_nul(e))
				return true;
	} else if (json_is_object(v)) {
		json_object_foreach ((json_t *)(uintptr_t)v, key, e)
			if (has_nul(e))
				return true;
	}
	return false;
}

/* Levels of objects and arrays; stops counting above the limit. */
static unsigned depth(const json_t *v, unsigned above)
{
	unsigned deepest = above, d;
	const char *key;
	size_t i;
	json_t *e;
	if ((!json_is_array(v) && !json_is_object(v)) || above > LIMIT_METADATA_DEPTH)
		return above;
	deepest++;
	json_array_foreach (v, i, e) {
		d = depth(e, above + 1);
		deepest = d > deepest ? d : deepest;
	}
	json_object_foreach ((json_t *)(uintptr_t)v, key, e) {
		d = depth(e, above + 1);
		deepest = d > deepest ? d : deepest;
	}
	return deepest;
}

static bool read_metadata(const struct reading *r, json_t *v)
{
	struct draft *d = r->d;
	if (json_is_null(v)) {
		free(d->metadata);
		d->metadata = util_strndup("{}", 2);
		return true;
	}
	if (!json_is_object(v))
		return bad(r, "metadata", "must be a JSON object");
	if (has_nul(v))
		return bad(r, "metadata", "strings must not contain U+0000");
	if (depth(v, 0) > LIMIT_METADATA_DEPTH)
		return bad(r, "metadata",
			   "must be at most 64 levels deep; flatten it, or store deep structures as a string");
	json_t *merged = r->mode == DRAFT_PATCH ? json_loads(d->metadata, 0, NULL) : NULL;
	if (r->mode == DRAFT_PATCH) {
		if (!merged)
			merged = json_object();
		merge_patch(merged, v);
	}
	char *text = json_dumps(merged ? merged : v, JSON_COMPACT);
	json_decref(merged);
	if (!text)
		return bad(r, "metadata", "cannot be written as JSON");
	if (strlen(text) > LIMIT_METADATA) {
		free(text);
		return bad(
			r, "metadata",
			"must be at most 16384 bytes as compact JSON; keep large data elsewhere and store a reference");
	}
	free(d->metadata);
	d->metadata = text;
	return true;
}

static bool read_time(const struct reading *r, const char *field, const json_t *v, int64_t *out)
{
	if (!json_is_string(v) || !clock_parse(json_string_value(v), json_string_length(v), out) || *out <= 0)
		return bad(r, field, "must be an RFC 3339 time after 1970, such as 2026-11-21T05:38:00Z");
	return true;
}

static bool read_ttl(const struct reading *r, const char *field, const json_t *v)
{
	if (json_is_null(v)) {
		r->d->expires_us = 0;
		return true;
	}
	double s = json_is_number(v) ? json_number_value(v) : -1;
	if (!(s > 0 && s <= 3153600000.0))
		return bad(r, field, "must be a number of seconds above 0 and at most 3153600000 (100 years)");
	r->d->expires_us = clock_real_us() + (int64_t)(s * 1e6);
	return true;
}

static bool read_importance(const struct reading *r, const json_t *v)
{
	double x = json_is_number(v) ? json_number_value(v) : json_is_null(v) ? 0.5 : -1;
	if (!(x >= 0 && x <= 1))
		return bad(r, "importance", "must be a number from 0 to 1");
	r->d->importance = x + 0.0; /* -0.0 + 0.0 is 0: "-0" would come back as another number */
	return true;
}

static bool check_vector(const struct reading *r, const float *x, size_t n)
{
	double part[8] = {0}, sum; /* one sum would be a chain of additions, each waiting for the one before */
	size_t whole = n & ~(size_t)7;
	if (n < 1 || n > LIMIT_DIMENSIONS)
		return bad(r, "embedding", "must have 1 to 4096 numbers");
	for (size_t i = 0; i < whole; i += 8)
		for (size_t k = 0; k < 8; k++)
			part[k] += (double)x[i + k] * x[i + k];
	for (size_t i = whole; i < n; i++)
		part[i & 7] += (double)x[i] * x[i];
	sum = (part[0] + part[4]) + (part[1] + part[5]) + ((part[2] + part[6]) + (part[3] + part[7]));
	if (!isfinite(sum)) /* squares of finite floats do not overflow a double */
		return bad(r, "embedding", "must hold finite 32-bit floats only");
	if (!(sum > 1e-30))
		return bad(r, "embedding", "must not be the zero vector: it has no direction to compare");
	r->d->embedding = x;
	r->d->dim = (uint32_t)n;
	return true;
}

static bool read_embedding(const struct reading *r, const json_t *v)
{
	struct draft *d = r->d;
	char what[160];
	d->embedding_set = true;
	d->client_vector = false;
	d->dim = 0;
	d->embedding = NULL;
	d->embedder = (struct span){NULL, 0};
	if (json_is_null(v))
		return true;
	d->client_vector = true;
	if (json_is_integer(v)) { /* an array that body_json_parse lifted out */
		size_t i = (size_t)json_integer_value(v);
		AN(r->b && i < r->b->found.items);
		return check_vector(r, r->b->found.data + r->b->found.item[i].at, r->b->found.item[i].n);
	}
	if (json_is_array(v)) { /* one that could not be read as floats */
		snprintf(what, sizeof(what), "element %zu: %s", r->b ? r->b->found.bad_element : 0,
			 r->b ? floats_error_text(r->b->found.bad) : "is no number");
		return bad(r, "embedding", what);
	}
	if (!json_is_string(v))
		return bad(r, "embedding", "must be an array of numbers, or base64 of little-endian float32");
	size_t n = 0;
	free(d->own_vector);
	d->own_vector = util_alloc(LIMIT_DIMENSIONS * sizeof(float));
	enum floats_error e = floats_base64(json_string_value(v), json_string_length(v), d->own_vector,
					    LIMIT_DIMENSIONS, &n);
	if (e != FLOATS_OK) {
		snprintf(what, sizeof(what), "base64: %s", floats_error_text(e));
		return bad(r, "embedding", what);
	}
	return check_vector(r, d->own_vector, n);
}

bool draft_read_embedding(struct call *c, const struct body_json *b, json_t *v, struct draft *d)
{
	struct reading r = {c, b, DRAFT_ADD, "", d};
	return read_embedding(&r, v);
}

static bool read_uuid(const struct reading *r, const char *field, const json_t *v, struct uuid *out)
{
	if (!json_is_string(v) || !uuid_parse(json_string_value(v), json_string_length(v), out))
		return bad(r, field, "must be a UUID");
	return true;
}

/* Fields of an exported line, accepted by import only. 1 = known and fine, 0 = unknown, -1 = refused. */
static int read_import_field(const struct reading *r, const char *key, json_t *v)
{
	struct draft *d = r->d;
	bool ok;
	if (strcmp(key, "id") == 0) {
		ok = d->has_id = read_uuid(r, key, v, &d->id);
	} else if (strcmp(key, "version") == 0) {
		ok = json_is_integer(v) && json_integer_value(v) > 0;
		if (ok)
			d->version = (uint64_t)json_integer_value(v);
		else
			bad(r, key, "must be a whole number above 0");
	} else if (strcmp(key, "updated_at") == 0) {
		ok = read_time(r, key, v, &d->updated_us);
	} else if (strcmp(key, "valid_from") == 0) {
		ok = read_time(r, key, v, &d->valid_from_us);
	} else if (strcmp(key, "valid_to") == 0) {
		ok = read_time(r, key, v, &d->valid_to_us);
		d->superseded = ok;
	} else if (strcmp(key, "superseded_by") == 0) {
		ok = d->has_superseded_by = read_uuid(r, key, v, &d->superseded_by);
	} else if (strcmp(key, "supersedes") == 0) {
		ok = d->has_supersedes = read_uuid(r, key, v, &d->supersedes);
	} else {
		return 0;
	}
	return ok ? 1 : -1;
}

static bool read_pinned(const struct reading *r, const json_t *v)
{
	if (!json_is_boolean(v) && !json_is_null(v))
		return bad(r, "pinned", "must be true or false");
	r->d->pinned = json_is_true(v);
	return true;
}

static bool read_created(const struct reading *r, const json_t *v)
{
	if (r->mode == DRAFT_PATCH)
		return bad(r, "created_at", "cannot be changed; a memory keeps its time of creation");
	r->d->created_set = true;
	return read_time(r, "created_at", v, &r->d->created_us);
}

static bool read_namespace(const struct reading *r, const json_t *v)
{
	if (r->mode == DRAFT_PATCH)
		return bad(r, "namespace", "cannot be changed; add the memory to the other namespace instead");
	return read_text(r, "namespace", v, 1, LIMIT_NAMESPACE, &r->d->ns_given);
}

static bool read_expiry(const struct reading *r, const char *key, const json_t *v)
{
	r->d->expires_set = true;
	if (strcmp(key, "expires_at") != 0)
		return read_ttl(r, key, v);
	if (json_is_null(v)) {
		r->d->expires_us = 0;
		return true;
	}
	if (!read_time(r, key, v, &r->d->expires_us))
		return false;
	if (r->d->expires_us <= clock_real_us() && r->mode != DRAFT_IMPORT)
		return bad(r, key, "must lie in the future");
	return true;
}

/* `infer` true, or `messages`, which only mean something with it. */
static bool read_infer(const struct reading *r, const char *key, const json_t *v)
{
	if (strcmp(key, "infer") == 0) {
		if (json_is_false(v) || json_is_null(v))
			return true;
		if (!json_is_true(v))
			return bad(r, key, "must be true or false");
	}
	problem(r->c, 501, "extraction-unavailable",
		"%s%s: extracting facts from messages needs an upstream model and "
		"none is configured; send each text as \"content\", without infer, to store it verbatim",
		r->where, key);
	return false;
}

/* Says which fields there are: a misspelt one is corrected without the manual. */
static bool unknown_field(const struct reading *r, const char *key)
{
	/* clang-format off */
	static const char *const more[] = {
		[DRAFT_ADD] = ", namespace, created_at, infer",
		[DRAFT_PATCH] = "",
		[DRAFT_IMPORT] = ", namespace, created_at, id, version, updated_at, valid_from, valid_to, supersedes, superseded_by",
	};
	/* clang-format on */
	const char *hint = "";
	if (strcmp(key, "text") == 0 || strcmp(key, "memory") == 0)
		hint = "; the text goes into \"content\"";
	else if (strcmp(key, "id") == 0)
		hint = "; ids are assigned, use external_id for your own";
	problem(r->c, 400, "unknown-field",
		"%s%.64s: no such field%s; allowed are content, metadata, kind, user_id, "
		"agent_id, session_id, external_id, importance, pinned, ttl, ttl_seconds, expires_at, embedding, "
		"embedding_model%s%s",
		r->where, key, hint, more[r->mode], r->mode == DRAFT_ADD && !*r->where ? ", on_duplicate" : "");
	return false;
}

static bool read_field(const struct reading *r, const char *key, json_t *v)
{
	struct draft *d = r->d;
	if (strcmp(key, "content") == 0) {
		d->content_set = true;
		return read_text(r, key, v, 1, LIMIT_CONTENT, &d->content);
	}
	if (strcmp(key, "metadata") == 0)
		return read_metadata(r, v);
	if (strcmp(key, "kind") == 0)
		return read_scope(r, key, v, &d->kind);
	if (strcmp(key, "user_id") == 0)
		return read_scope(r, key, v, &d->user_id);
	if (strcmp(key, "agent_id") == 0)
		return read_scope(r, key, v, &d->agent_id);
	if (strcmp(key, "session_id") == 0)
		return read_scope(r, key, v, &d->session_id);
	if (strcmp(key, "external_id") == 0)
		return read_scope(r, key, v, &d->external_id);
	if (strcmp(key, "importance") == 0)
		return read_importance(r, v);
	if (strcmp(key, "pinned") == 0)
		return read_pinned(r, v);
	if (strcmp(key, "ttl") == 0 || strcmp(key, "ttl_seconds") == 0 || strcmp(key, "expires_at") == 0)
		return read_expiry(r, key, v);
	if (strcmp(key, "embedding") == 0)
		return read_embedding(r, v);
	if (strcmp(key, "embedding_model") == 0)
		return json_is_null(v) ||
		       read_text(r, key, v, 1, sizeof(((struct plant_namespace *)0)->embedder) - 1, &d->embedder);
	if (strcmp(key, "namespace") == 0)
		return read_namespace(r, v);
	if (strcmp(key, "created_at") == 0)
		return read_created(r, v);
	if (r->mode == DRAFT_ADD && (strcmp(key, "infer") == 0 || strcmp(key, "messages") == 0))
		return read_infer(r, key, v);
	int known = r->mode == DRAFT_IMPORT ? read_import_field(r, key, v) : 0;
	return known ? known > 0 : unknown_field(r, key);
}

bool draft_read(struct call *c, const struct body_json *b, json_t *o, enum draft_mode mode, const char *where,
		struct draft *d)
{
	struct reading r = {c, b, mode, where, d};
	const char *key;
	json_t *v;
	if (!json_is_object(o)) {
		problem(c, 400, "invalid-field", "%s: must be a JSON object", *where ? where : "body");
		return false;
	}
	struct span model = d->embedder;
	d->embedder = (struct span){NULL, 0};
	/* embedding first: it resets embedding_model */
	if ((v = json_object_get(o, "embedding")) && !read_embedding(&r, v))
		return false;
	json_object_foreach (o, key, v)
		if (strcmp(key, "embedding") != 0 && !read_field(&r, key, v))
			return false;
	if (mode == DRAFT_IMPORT && !d->embedding_set)
		d->embedder = (struct span){NULL, 0}; /* exported without its vector: ours makes it again */
	if (d->embedder.p && !d->embedding_set)
		return bad(&r, "embedding_model", "is given without an embedding; send both or neither");
	if (!d->embedding_set)
		d->embedder = model;
	if (mode != DRAFT_PATCH && !d->content_set)
		return bad(&r, "content", "is required");
	return true;
}

void draft_init(struct draft *d)
{
	*d = (struct draft){.importance = 0.5, .metadata = util_strndup("{}", 2), .replaces_bytes = -1};
}

void draft_free(struct draft *d)
{
	free(d->metadata);
	free(d->own_vector);
	free(d->own_embedder);
	json_decref(d->keep);
	*d = (struct draft){.metadata = NULL};
}
