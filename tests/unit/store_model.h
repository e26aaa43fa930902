/* What the tests of the store share: a store in a directory of its own, memories made from a number, batches
 * of operations, and a picture of everything in the database to compare states by. */
#ifndef ORC_TEST_STORE_MODEL_H
#define ORC_TEST_STORE_MODEL_H
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include <cmocka.h>

/* The same tests run on PostgreSQL: test_pg_*.c include them with POSTGRES 1. */
#ifndef POSTGRES
#define POSTGRES 0
#endif
#if POSTGRES
#include "postgres_model.h"
#else
#include "sqlite-private.h"
#endif

#define HELPER __attribute__((unused)) static /* each test uses some of these */
#define NS_A "alpha"
#define NS_B "beta"

static char world_dir[64];
static const struct store_ops *ops;
static struct store *store; /* the writer */

HELPER const char *world_path(const char *name)
{
	static char path[128];
	snprintf(path, sizeof(path), "%s/%s", world_dir, name);
	return path;
}

HELPER struct store *open_as(bool writer)
{
	char *error = NULL;
#if POSTGRES
	struct store_conf c = pg_test_conf();
#else
	struct store_conf c = {.kind = "sqlite", .dir = world_dir};
#endif
	struct store *s = ops->open(&c, writer, &error);
	if (!s)
		fail_msg("%s", error);
	return s;
}

HELPER void reopen(void)
{
	if (store)
		ops->close(store);
	uint64_t flushed;
	store = open_as(true);
	assert_int_equal(ops->cursor(store, &flushed), STORE_OK); /* asked first, as sync does */
}

#if POSTGRES
HELPER int world_begin(void **state)
{
	(void)state;
	ops = store_by_kind("postgres");
	store = NULL;
	pg_test_begin();
	reopen();
	return 0;
}

HELPER int world_end(void **state)
{
	(void)state;
	if (store)
		ops->close(store);
	store = NULL;
	pg_test_end();
	return 0;
}
#else
HELPER int world_begin(void **state)
{
	(void)state;
	snprintf(world_dir, sizeof(world_dir), "/tmp/orc-store-XXXXXX");
	ops = store_by_kind("sqlite");
	store = NULL;
	if (!mkdtemp(world_dir) || !ops)
		return -1;
	reopen();
	return 0;
}

HELPER int world_end(void **state)
{
	static const char *const files[] = {"store.db", "store.db-wal", "store.db-shm", "store.db-journal", "copy.db"};
	(void)state;
	if (store)
		ops->close(store);
	store = NULL;
	for (size_t i = 0; i < ARRAY_LEN(files); i++)
		unlink(world_path(files[i]));
	return rmdir(world_dir);
}
#endif

/* ---- chance ---- */

static uint64_t rng = 88172645463325252ull;

HELPER uint32_t below(uint32_t n)
{
	rng ^= rng << 13;
	rng ^= rng >> 7;
	rng ^= rng << 17;
	return (uint32_t)(rng >> 20) % n;
}

/* ---- memories ---- */

HELPER struct uuid id_of(uint32_t n)
{
	struct uuid id = {{0x01, 0x93, 0, 0, 0, 0, 0x70, 0, 0x80}};
	for (int i = 0; i < 4; i++)
		id.b[15 - i] = (uint8_t)(n >> (8 * i));
	return id;
}

HELPER uint32_t number_of(const struct uuid *id)
{
	return (uint32_t)id->b[12] << 24 | (uint32_t)id->b[13] << 16 | (uint32_t)id->b[14] << 8 | id->b[15];
}

/* As workers/api/json_out.c escapes. */
HELPER void text_out(struct buf *b, struct span s)
{
	static const char from[] = "\"\\\b\f\n\r\t", to[] = "\"\\bfnrt";
	for (size_t i = 0; i < s.len; i++) {
		unsigned char c = (unsigned char)s.p[i];
		const char *named = memchr(from, c, sizeof(from) - 1);
		if (named)
			buf_printf(b, "\\%c", to[named - from]);
		else if (c < 0x20)
			buf_printf(b, "\\u%04x", c);
		else
			buf_addc(b, (char)c);
	}
}

/* A memory and the bytes its spans lie in. */
struct made {
	struct memory m;
	struct buf body;
	char content[256], user[16], session[16], external[24];
	float x[8];
};

/* The body begins as api/draft_build.c begins it. */
HELPER void body_make(struct made *d)
{
	struct memory *m = &d->m;
	char id[UUID_TEXT];
	uuid_format(&m->id, id);
	d->body.len = 0;
	buf_printf(&d->body, "{\"id\":\"%.*s\",\"namespace\":\"%.*s\",\"content\":\"", UUID_TEXT, id,
		   (int)m->ns_name.len, m->ns_name.p);
	text_out(&d->body, m->content);
	buf_printf(&d->body, "\",\"importance\":0.5,\"metadata\":{\"n\":%u},\"version\":%llu}", number_of(&m->id),
		   (unsigned long long)m->version);
	m->body = (struct span){d->body.p, d->body.len};
}

HELPER void set_content(struct made *d, const char *text)
{
	snprintf(d->content, sizeof(d->content), "%s", text);
	d->m.content = SPAN(d->content);
	d->m.content_hash = record_content_key(d->m.ns, d->m.content);
	body_make(d);
}

/* Of every other memory all but one are zero: its vector is packed (packed.h). */
HELPER float component(uint32_t n, uint64_t version, uint32_t i)
{
	return n % 2 && i != n % 8 ? 0 : (float)(n * 8 + i) + (float)version / 8;
}

/* Memory n at `version` in `ns`: two of three have a user, a session, a vector; every fifth an external id. */
HELPER struct made *make(uint32_t n, uint64_t version, const char *ns)
{
	struct made *d = util_zalloc(sizeof(*d));
	struct memory *m = &d->m;
	char text[64];
	snprintf(d->user, sizeof(d->user), "user%u", n % 4);
	snprintf(d->session, sizeof(d->session), "s%u", n % 7);
	snprintf(d->external, sizeof(d->external), "ext-%u", n);
	*m = (struct memory){.id = id_of(n),
			     .ns = record_ns(SPAN(ns)),
			     .ns_name = SPAN(ns),
			     .version = version,
			     .created_us = 1000 + n,
			     .updated_us = 1000 + n + (int64_t)version,
			     .importance = 0.5f,
			     .kind = SPAN("fact"),
			     .replaces_bytes = -1};
	if (n % 3)
		m->user_id = SPAN(d->user), m->session_id = SPAN(d->session);
	if (n % 5 == 0)
		m->external_id = SPAN(d->external);
	if (n % 3 != 1) {
		for (uint32_t i = 0; i < 8; i++)
			d->x[i] = component(n, version, i);
		m->embedding = d->x, m->dim = 8, m->embedder = SPAN("test-8");
	}
	snprintf(text, sizeof(text), "memory %u of version %llu", n, (unsigned long long)version);
	set_content(d, text);
	return d;
}

HELPER void made_free(struct made *d)
{
	buf_free(&d->body);
	free(d);
}

/* ---- batches: a transaction under construction ---- */

struct batch {
	struct buf b;
	struct txn_builder t;
};

HELPER void batch_begin(struct batch *a)
{
	*a = (struct batch){.b = {NULL, 0, 0}};
	txn_begin(&a->t, &a->b, 1, 0, 0, 0);
}

HELPER void batch_put(struct batch *a, const struct made *d) { txn_op_put(&a->t, &d->m); }

HELPER void batch_add(struct batch *a, uint32_t n, uint64_t version, const char *ns)
{
	struct made *d = make(n, version, ns);
	batch_put(a, d);
	made_free(d);
}

HELPER void batch_delete(struct batch *a, uint32_t n, uint64_t version, const char *ns, enum delete_how how)
{
	struct op_delete d = {.id = id_of(n),
			      .ns = record_ns(SPAN(ns)),
			      .version = version,
			      .at_us = 5000 + (int64_t)version,
			      .how = how};
	txn_op_raw(&a->t, OP_DELETE, &d, sizeof(d), NULL, 0);
}

HELPER void batch_idem(struct batch *a, uint64_t key, const char *ns, int64_t expires_us, const char *reply)
{
	struct op_idem o = {.ns = record_ns(SPAN(ns)),
			    .key = key,
			    .body_hash = key * 3,
			    .expires_us = expires_us,
			    .status = 201,
			    .reply_len = (uint32_t)strlen(reply)};
	txn_op_raw(&a->t, OP_IDEM, &o, sizeof(o), reply, strlen(reply));
}

HELPER void batch_namespace(struct batch *a, const char *ns, uint64_t quota, int64_t at_us)
{
	struct buf tail = {NULL, 0, 0};
	struct op_namespace o = {.ns = record_ns(SPAN(ns)),
				 .at_us = at_us,
				 .quota_bytes = quota,
				 .quota_count = quota / 100,
				 .relaxed = 1,
				 .name_len = (uint32_t)strlen(ns),
				 .settings_len = 2};
	buf_adds(&tail, ns);
	buf_adds(&tail, "{}");
	txn_op_raw(&a->t, OP_NAMESPACE, &o, sizeof(o), tail.p, tail.len);
	buf_free(&tail);
}

/* Makes it, or makes it so. flags: beside NAMESPACE_LANGUAGE. */
HELPER void batch_language(struct batch *a, const char *ns, enum language l, uint32_t flags)
{
	struct buf tail = {NULL, 0, 0};
	struct op_namespace o = {.ns = record_ns(SPAN(ns)),
				 .at_us = 5000,
				 .name_len = (uint32_t)strlen(ns),
				 .flags = NAMESPACE_LANGUAGE | flags};
	buf_adds(&tail, ns);
	language_write_settings(l, &tail);
	o.settings_len = (uint32_t)(tail.len - strlen(ns));
	txn_op_raw(&a->t, OP_NAMESPACE, &o, sizeof(o), tail.p, tail.len);
	buf_free(&tail);
}

HELPER void batch_drop(struct batch *a, const char *ns)
{
	struct op_ns_drop o = {.ns = record_ns(SPAN(ns)), .at_us = 9000};
	txn_op_raw(&a->t, OP_NS_DROP, &o, sizeof(o), NULL, 0);
}

HELPER enum store_rc batch_apply(struct batch *a, uint64_t seq)
{
	struct txn_reader r;
	assert_true(txn_open(&r, a->b.p, a->b.len));
	return ops->apply(store, seq, &r);
}

/* begin, apply, commit as `seq`. The batch stays usable: it can be stored again. */
HELPER void batch_store(struct batch *a, uint64_t seq)
{
	txn_end(&a->t);
	assert_int_equal(ops->begin(store), STORE_OK);
	if (batch_apply(a, seq) != STORE_OK)
		fail_msg("%s", ops->error(store));
	assert_int_equal(ops->commit(store, seq), STORE_OK);
}

HELPER void batch_free(struct batch *a) { buf_free(&a->b); }

/* One operation, stored. */
#define STORE(seq, call)                                                                                               \
	do {                                                                                                           \
		struct batch one_;                                                                                     \
		batch_begin(&one_);                                                                                    \
		struct batch *one = &one_;                                                                             \
		call;                                                                                                  \
		batch_store(one, (seq));                                                                               \
		batch_free(one);                                                                                       \
	} while (0)

HELPER uint64_t cursor_of(struct store *s)
{
	uint64_t seq = 77;
	assert_int_equal(ops->cursor(s, &seq), STORE_OK);
	return seq;
}

/* ---- everything that the database says, as text ---- */

#if POSTGRES
HELPER void query(struct store *s, const char *sql, struct buf *out)
{
	(void)s;
	pg_test_sql(sql, out);
}
#else
static int picture_row(void *arg, int n, char **v, char **name)
{
	(void)name;
	for (int i = 0; i < n; i++)
		buf_printf(arg, "%s|", v[i] ? v[i] : "-");
	buf_addc(arg, '\n');
	return 0;
}

HELPER void query(struct store *s, const char *sql, struct buf *out)
{
	char *error = NULL;
	if (sqlite3_exec(s->db, sql, out ? picture_row : NULL, out, &error) != SQLITE_OK)
		fail_msg("%s: %s", sql, error);
}
#endif

/* A single value of SQL. */
HELPER int64_t ask(struct store *s, const char *sql)
{
	struct buf b = {NULL, 0, 0};
	query(s, sql, &b);
	buf_addc(&b, 0);
	int64_t n = strtoll(b.p, NULL, 10);
	buf_free(&b);
	return n;
}

/* clang-format off */
static const char *const picture_of[] = {
#if POSTGRES
	"SELECT node,cursor,scrub FROM memory_nodes ORDER BY node",
	("SELECT id,namespace,version,node,created_at,updated_at,expires_at,flags,importance,kind,user_id,agent_id,session_id,external_id,"
	"content,metadata,content_key,embedding_model,dim,bytes,words,embedding,body FROM memories ORDER BY id"),
	("SELECT id,namespace,version,node,deleted_at,how,created_at,updated_at,expires_at,flags,importance,kind,user_id,agent_id,session_id,"
	"external_id,content,metadata,content_key,embedding_model,dim,bytes,embedding,body FROM memory_trash ORDER BY id"),
	"SELECT id,version,node,namespace,updated_at,lost,body FROM memory_history ORDER BY id,version,node",
	"SELECT key,namespace,body_hash,status,expires_at,reply FROM memory_idempotency ORDER BY key",
	("SELECT name,embedder,dim,count,bytes,quota_count,quota_bytes,relaxed,settings::text,present FROM memory_namespaces"
	" WHERE present OR count<>0 ORDER BY name"),
#else
	"SELECT * FROM meta ORDER BY 1",
	("SELECT hex(id),ns,version,created_us,updated_us,expires_us,deleted_us,flags,importance,kind,user_id,agent_id,session_id,"
	"external_id,content_key,embedder,m.dim,bytes,body,v.dim,hex(v.x) FROM memories m LEFT JOIN vectors v ON v.n=m.n ORDER BY id"),
	"SELECT count(*) FROM vectors WHERE n NOT IN (SELECT n FROM memories)",
	"SELECT hex(id),version,ns,updated_us,deleted_us,body FROM history ORDER BY id,version",
	"SELECT key,ns,body_hash,status,expires_us,hex(reply) FROM idempotency ORDER BY key",
	"SELECT ns,name,embedder,dim,count,bytes,quota_count,quota_bytes,relaxed,settings,present,present*created_us FROM namespaces ORDER BY ns", "SELECT term,col,doc,cnt FROM words_df ORDER BY 1,2", "SELECT term,col,doc,cnt FROM stems_df ORDER BY 1,2",
#endif
};
/* clang-format on */

HELPER char *picture(struct store *s)
{
	struct buf b = {NULL, 0, 0};
	for (size_t i = 0; i < ARRAY_LEN(picture_of); i++)
		query(s, picture_of[i], &b);
	buf_addc(&b, 0);
	return b.p;
}

/* Fails with the first line that differs. */
HELPER void same_picture(const char *a, const char *b, const char *when)
{
	const char *line = a, *other = b;
	for (; *a && *a == *b; a++, b++)
		if (*a == '\n')
			line = a + 1, other = b + 1;
	if (*a != *b)
		fail_msg("%s:\n%.*s\n%.*s", when, (int)strcspn(line, "\n"), line, (int)strcspn(other, "\n"), other);
}

/* ---- what the store says of one memory ---- */

struct seen {
	struct memory m; /* spans are not kept, but for: */
	char content[256], body[1024], ns_name[64];
	float x[8];
	unsigned calls;
};

HELPER bool see(void *arg, const struct memory *m)
{
	struct seen *s = arg;
	s->calls++;
	s->m = *m;
	snprintf(s->content, sizeof(s->content), "%.*s", (int)m->content.len, m->content.p ? m->content.p : "");
	snprintf(s->body, sizeof(s->body), "%.*s", (int)m->body.len, m->body.p ? m->body.p : "");
	snprintf(s->ns_name, sizeof(s->ns_name), "%.*s", (int)m->ns_name.len, m->ns_name.p ? m->ns_name.p : "");
	if (m->embedding && m->dim == 8)
		memcpy(s->x, m->embedding, sizeof(s->x));
	return true;
}

HELPER enum store_rc get(struct store *s, uint32_t n, bool vector, struct seen *out)
{
	struct uuid id = id_of(n);
	*out = (struct seen){.calls = 0};
	return ops->get(s, &id, vector, see, out);
}
#endif
