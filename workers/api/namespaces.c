/* Namespaces as objects: create, list, statistics, quotas, durability, delete. */
#include <stdlib.h>

#include "clock.h"
#include "draft.h"
#include "handlers.h"

static enum language language_of(const struct plant_namespace *r)
{
	return (enum language)atomic_load_explicit(&r->language, memory_order_relaxed);
}

static void write_row(struct buf *b, const struct plant_namespace *r)
{
	uint32_t dim = atomic_load_explicit(&r->dim, memory_order_acquire);
	buf_adds(b, "{\"name\":");
	json_out_string(b, (struct span){r->name, r->name_len});
	buf_printf(
		b,
		",\"count\":%llu,\"bytes\":%llu,\"quota_count\":%llu,\"quota_bytes\":%llu,\"durability\":\"%s\",\"language\":\"%s\",",
		(unsigned long long)atomic_load(&r->count), (unsigned long long)atomic_load(&r->bytes),
		(unsigned long long)atomic_load(&r->quota_count), (unsigned long long)atomic_load(&r->quota_bytes),
		atomic_load(&r->relaxed) ? "relaxed" : "commit", language_name(language_of(r)));
	if (dim) {
		buf_adds(b, "\"embedding_model\":");
		json_out_string(b, SPAN(r->embedder));
		buf_printf(b, ",\"dimensions\":%u,", dim);
	}
	buf_adds(b, "\"created_at\":");
	json_out_time(b, atomic_load(&r->created_us));
	buf_addc(b, '}');
}

static struct plant_namespace *live(struct call *c, struct span name)
{
	struct plant_namespace *r = plant_find(c->api->plant, record_ns(name));
	return r && atomic_load_explicit(&r->exists, memory_order_acquire) ? r : NULL;
}

void namespaces_list(struct call *c)
{
	struct plant *p = c->api->plant;
	struct buf *b = &c->reply.body;
	bool first = true;
	if (!plant_store_known(p)) {
		problem_no_namespace(c);
		call_reply(c);
		return;
	}
	buf_adds(b, "{\"namespaces\":[");
	for (size_t i = 0; i < PLANT_NAMESPACES; i++) {
		struct plant_namespace *r = &p->namespaces[i];
		if (!atomic_load_explicit(&r->ns, memory_order_acquire) || !atomic_load(&r->exists) ||
		    !call_may(c, AUTH_READ, (struct span){r->name, r->name_len}))
			continue;
		if (!first)
			buf_addc(b, ',');
		first = false;
		write_row(b, r);
	}
	buf_adds(b, "]}");
	c->reply.status = 200;
	call_reply(c);
}

void namespaces_get(struct call *c)
{
	struct plant_namespace *r = live(c, SPAN(c->name));
	if (!call_may(c, AUTH_READ, SPAN(c->name))) {
		problem(c, 403, "namespace-forbidden", "namespace: this credential may not read it");
	} else if (!r) {
		problem_no_namespace(c);
	} else {
		write_row(&c->reply.body, r);
		c->reply.status = 200;
	}
	call_reply(c);
}

/* ---- create and change ---- */

struct ns_change {
	char name[LIMIT_NAMESPACE + 1];
	struct span ns;
	uint64_t quota_bytes, quota_count;
	enum language language;
	bool relaxed, quota_bytes_set, quota_count_set, relaxed_set, language_set, create;
};

static bool read_quota(struct call *c, const char *key, const json_t *v, uint64_t *out, bool *set)
{
	if (!json_is_integer(v) || json_integer_value(v) < 0) {
		problem(c, 400, "invalid-field", "%s: must be a whole number, 0 for no limit", key);
		return false;
	}
	*out = (uint64_t)json_integer_value(v);
	return *set = true;
}

static bool read_language(struct call *c, const json_t *v, enum language *l_r)
{
	struct buf names = {NULL, 0, 0};
	if (json_is_string(v) && language_find((struct span){json_string_value(v), json_string_length(v)}, l_r))
		return true;
	for (unsigned i = 0; i < LANGUAGES; i++)
		buf_printf(&names, "%s%s", i ? ", " : "", language_name((enum language)i));
	problem(c, 400, "invalid-field", "language: must be one of %.*s, or its two letters of ISO 639-1",
		(int)names.len, names.p);
	buf_free(&names);
	return false;
}

static bool read_change(struct call *c, struct ns_change *n, json_t *root)
{
	const char *key;
	json_t *v;
	struct span given = {NULL, 0};
	if (!json_is_object(root)) {
		problem(c, 400, "invalid-json", "body: must be a JSON object");
		return false;
	}
	json_object_foreach (root, key, v) {
		const char *s = json_is_string(v) ? json_string_value(v) : "";
		bool ok = true;
		if (strcmp(key, "name") == 0 && n->create) {
			given = (struct span){s, strlen(s)}; /* a NUL in it is refused below */
			ok = json_is_string(v) && strlen(s) == json_string_length(v);
			if (!ok)
				problem(c, 400, "invalid-field", "name: must be a string without U+0000");
		} else if (strcmp(key, "quota_bytes") == 0) {
			ok = read_quota(c, key, v, &n->quota_bytes, &n->quota_bytes_set);
		} else if (strcmp(key, "quota_count") == 0) {
			ok = read_quota(c, key, v, &n->quota_count, &n->quota_count_set);
		} else if (strcmp(key, "durability") == 0) {
			n->relaxed = strcmp(s, "relaxed") == 0;
			n->relaxed_set = ok = n->relaxed || strcmp(s, "commit") == 0;
			if (!ok)
				problem(c, 400, "invalid-field", "durability: must be commit or relaxed");
		} else if (strcmp(key, "language") == 0) {
			n->language_set = ok = read_language(c, v, &n->language);
		} else {
			problem(c, 400, "unknown-field",
				"%.64s: no such field; allowed are %squota_bytes, quota_count, durability, language",
				key, n->create ? "name, " : "");
			ok = false;
		}
		if (!ok)
			return false;
	}
	if (n->create && !given.p) {
		problem(c, 400, "invalid-field", "name: is required");
		return false;
	}
	return call_namespace(c, n->create ? given : SPAN(c->name), AUTH_ADMIN, n->name, &n->ns);
}

/* The words of what is there were analysed in the language that it has. What was deleted comes back with restore. */
static bool holds_memories(struct call *c, struct reader *rd, const struct plant_namespace *r, bool *failed_r)
{
	struct store_list q = {.ns = atomic_load(&r->ns), .deleted = true, .now_us = clock_real_us()};
	uint64_t trash = 0;
	bool live = atomic_load(&r->count) > 0;
	*failed_r = !live && reader_count(rd, &q, &trash) == READ_ERROR;
	if (*failed_r)
		problem_store(c, rd->error);
	return live || trash;
}

static enum verdict language_evaluate(struct call *c, struct reader *rd, const struct plant_namespace *r)
{
	bool failed;
	if (!rd)
		return CALL_THREAD;
	if (!holds_memories(c, rd, r, &failed))
		return failed ? CALL_REPLY : CALL_COMMIT;
	call_refused(c, TXN_LANGUAGE_FIXED, 0);
	return CALL_REPLY;
}

static enum verdict change_evaluate(struct call *c, struct reader *rd)
{
	struct ns_change *n = c->state;
	struct txn_builder t;
	struct buf tail = {0};
	uint64_t read_seq = call_read_seq(c);
	struct plant_namespace *r = live(c, n->ns);
	if (n->create && r) {
		problem(c, 409, "namespace-exists", "name: this namespace exists; PATCH it to change its settings");
		return CALL_REPLY;
	}
	if (!n->create && !r) {
		problem_no_namespace(c);
		return CALL_REPLY;
	}
	if (r && n->language_set && n->language != language_of(r)) {
		enum verdict v = language_evaluate(c, rd, r);
		if (v != CALL_COMMIT)
			return v;
	}
	bool speaks = n->language_set || (!r && c->api->language != LANGUAGE_ENGLISH);
	struct op_namespace o = {
		.ns = record_ns(n->ns),
		.at_us = clock_real_us(),
		.name_len = (uint32_t)n->ns.len,
		.quota_bytes = n->quota_bytes_set || !r ? n->quota_bytes : atomic_load(&r->quota_bytes),
		.quota_count = n->quota_count_set || !r ? n->quota_count : atomic_load(&r->quota_count),
		.relaxed = n->relaxed_set || !r ? n->relaxed : atomic_load(&r->relaxed),
		.flags = speaks ? NAMESPACE_LANGUAGE : 0};
	buf_add(&tail, n->ns.p, n->ns.len);
	language_write_settings(n->language_set ? n->language : speaks ? c->api->language : LANGUAGE_ENGLISH, &tail);
	o.settings_len = (uint32_t)(tail.len - n->ns.len);
	call_txn_begin(c, &t, read_seq, 0);
	txn_read_key(&t, record_ns_key(o.ns));
	txn_op_raw(&t, OP_NAMESPACE, &o, sizeof(o), tail.p, tail.len);
	txn_end(&t);
	buf_free(&tail);
	return CALL_COMMIT;
}

void namespaces_ensure(struct call *c, struct span name, struct txn_builder *t)
{
	struct buf tail = {NULL, 0, 0};
	if (c->api->language == LANGUAGE_ENGLISH || live(c, name))
		return;
	buf_add(&tail, name.p, name.len);
	language_write_settings(c->api->language, &tail);
	struct op_namespace o = {.ns = record_ns(name),
				 .at_us = clock_real_us(),
				 .name_len = (uint32_t)name.len,
				 .settings_len = (uint32_t)(tail.len - name.len),
				 .flags = NAMESPACE_ENSURE | NAMESPACE_LANGUAGE};
	txn_op_raw(t, OP_NAMESPACE, &o, sizeof(o), tail.p, tail.len);
	buf_free(&tail);
}

static void change_committed(struct call *c)
{
	struct ns_change *n = c->state;
	struct plant_namespace *r = live(c, n->ns);
	c->reply.status = n->create ? 201 : 200;
	if (r)
		write_row(&c->reply.body, r);
	else
		buf_adds(&c->reply.body, "{}");
}

static void change(struct call *c, bool create)
{
	struct ns_change *n = util_zalloc(sizeof(*n));
	struct body_json b;
	n->create = create;
	c->state = n;
	c->free_state = free;
	c->committed = change_committed;
	bool ok = body_json_parse(c, http_body(c->req), &b) && call_wait(c) && read_change(c, n, b.root);
	body_json_free(&b);
	if (ok)
		call_write(c, change_evaluate, true);
	else
		call_reply(c);
}

void namespaces_create(struct call *c) { change(c, true); }
void namespaces_patch(struct call *c) { change(c, false); }

/* ---- delete ---- */

static enum verdict drop_evaluate(struct call *c, struct reader *rd)
{
	struct txn_builder t;
	(void)rd;
	uint64_t read_seq = call_read_seq(c);
	struct plant_namespace *r = live(c, SPAN(c->name));
	if (!r) {
		problem_no_namespace(c);
		return CALL_REPLY;
	}
	size_t n = atomic_load(&r->count);
	struct op_ns_drop o = {.ns = record_ns(SPAN(c->name)), .at_us = clock_real_us(), .erase = c->erase};
	c->wait_store = true; /* older rows of the namespace must not show when it is made again at once */
	call_txn_begin(c, &t, read_seq, c->erase ? TXN_SCRUB : 0);
	txn_read_key(&t, record_ns_key(o.ns));
	txn_op_raw(&t, OP_NS_DROP, &o, sizeof(o), NULL, 0);
	txn_end(&t);
	if (c->erase)
		memories_receipt(c, n);
	else
		c->reply.status = 204;
	return CALL_COMMIT;
}

void namespaces_delete(struct call *c)
{
	char *confirm = NULL;
	size_t len = 0;
	int erase = memories_erase_param(c);
	bool ok = erase >= 0;
	if (ok && !call_may(c, AUTH_ADMIN, SPAN(c->name))) {
		problem(c, 403, "namespace-forbidden", "namespace: this credential may not administer it");
		ok = false;
	} else if (ok && (http_query_get(c->req, "confirm", &confirm, &len) != 1 ||
			  (strcmp(confirm, "true") != 0 && strcmp(confirm, c->name) != 0))) {
		problem(c, 400, "confirm-required",
			"confirm: this removes the namespace with all its memories; repeat with confirm=%s", c->name);
		ok = false;
	}
	free(confirm);
	c->erase = erase == 1;
	if (ok)
		call_write(c, drop_evaluate, true);
	else
		call_reply(c);
}
