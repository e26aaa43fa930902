/* The store's files: what an erase leaves in them, what happens when they are damaged, of another version, not
 * writable, or when the disk is full. Broken code this would catch: content that outlives its erasure in a free
 * page, in the words index or in the WAL; a scrub that says done while the WAL still holds pages; a crash on a
 * damaged page; a failed write after which the next one fails too. */
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "store_model.h"

#define NS record_ns(SPAN(NS_A))

static char *slurp(const char *name, size_t *len_r)
{
	FILE *f = fopen(world_path(name), "rb");
	struct buf b = {0};
	for (size_t n = 1; f && n; b.len += n) {
		buf_reserve(&b, 65536);
		n = fread(b.p + b.len, 1, 65536, f);
	}
	if (f)
		fclose(f);
	*len_r = b.len;
	return b.p ? b.p : util_zalloc(1);
}

static void spit(const char *name, const char *p, size_t n)
{
	FILE *f = fopen(world_path(name), "wb");
	assert_non_null(f);
	assert_int_equal(fwrite(p, 1, n, f), n);
	assert_int_equal(fclose(f), 0);
}

static const char *const files[] = {"store.db", "store.db-wal", "store.db-shm"};

/* All of them as they are now. */
struct image {
	char *p[ARRAY_LEN(files)];
	size_t len[ARRAY_LEN(files)];
};

static void image_take(struct image *m)
{
	for (size_t i = 0; i < ARRAY_LEN(files); i++)
		m->p[i] = slurp(files[i], &m->len[i]);
}

static bool image_has(const struct image *m, const void *what, size_t n)
{
	bool found = false;
	for (size_t i = 0; i < ARRAY_LEN(files) && !found; i++)
		found = memmem(m->p[i], m->len[i], what, n) != NULL;
	return found;
}

static void image_free(struct image *m)
{
	for (size_t i = 0; i < ARRAY_LEN(files); i++)
		free(m->p[i]);
}

static bool in_files(const void *what, size_t n)
{
	struct image m;
	image_take(&m);
	bool found = image_has(&m, what, n);
	image_free(&m);
	return found;
}

/* ---- erase ---- */

/* A word of memory n alone, 12 letters that the tokenizer keeps and the stemmer does not touch. */
static void secret(uint32_t n, char out[16])
{
	uint64_t x = (n + 1) * 0x9e3779b97f4a7c15ull;
	x = (x ^ x >> 31) * 0xbf58476d1ce4e5b9ull;
	x ^= x >> 29;
	for (int i = 0; i < 12; i++, x /= 16)
		out[i] = "bcdfghjklmnpqrtv"[x % 16];
	out[12] = 0;
}

static struct made *secretive(uint32_t n, uint64_t version, size_t len)
{
	struct made *d = make(n, version, NS_A);
	char word[16], other[16];
	struct buf b = {NULL, 0, 0};
	secret(n, word);
	buf_printf(&b, "%s of version %llu", word, (unsigned long long)version);
	while (b.len < len) { /* long ones go to overflow pages; their words are the memory's own as well */
		secret(n * 7919 + (uint32_t)b.len * 31 + 5000000, other);
		buf_printf(&b, " %s %s", word, other);
	}
	d->m.content = (struct span){b.p, b.len};
	d->m.content_hash = record_content_key(NS, d->m.content);
	snprintf(d->user, sizeof(d->user), "u%.12s", word);
	snprintf(d->session, sizeof(d->session), "s%.12s", word);
	snprintf(d->external, sizeof(d->external), "x%.12s", word);
	d->m.user_id = SPAN(d->user), d->m.session_id = SPAN(d->session), d->m.external_id = SPAN(d->external);
	d->m.embedding = d->x, d->m.dim = 8, d->m.embedder = SPAN("test-8");
	memcpy(d->x, word, 12);
	body_make(d);
	return d;
}

static void store_secret(uint64_t seq, uint32_t n, uint64_t version, size_t len)
{
	struct made *d = secretive(n, version, len);
	char *content = (char *)(uintptr_t)d->m.content.p;
	STORE(seq, batch_put(one, d));
	free(content);
	made_free(d);
}

static void erase_some(size_t len, uint32_t count, uint32_t updates)
{
	bool erased[400] = {false};
	uint64_t seq = 0, version[400];
	char word[16];
	struct image m;
	AN(count <= 400);
	for (uint32_t n = 0; n < count; n++) {
		store_secret(++seq, n, 1, len ? len : below(9000));
		version[n] = 1;
	}
	for (uint32_t i = 0; i < updates; i++) {
		uint32_t n = below(count);
		store_secret(++seq, n, ++version[n], len ? len : below(9000));
	}
	for (int round = 0; round < 3; round++) {
		for (uint32_t i = 0; i < count / 5; i++) {
			uint32_t n = below(count);
			if (erased[n])
				continue;
			STORE(++seq, batch_idem(one, n, NS_A, 1 << 30, "answer"));
			STORE(++seq, batch_delete(one, n, ++version[n], NS_A, below(2) ? DELETE_SOFT : DELETE_ERASE));
			STORE(++seq, batch_delete(one, n, ++version[n], NS_A, DELETE_ERASE));
			erased[n] = true;
		}
		assert_int_equal(ops->scrub(store), STORE_OK);
		image_take(&m);
		for (uint32_t n = 0; n < count; n++) {
			secret(n, word);
			/* tokens stand without their common beginning in the words index: the tail must do */
			bool there = image_has(&m, word + 2, 10);
			if (there == erased[n])
				fail_msg("%zu bytes, round %d: content of memory %u is %s", len, round, n,
					 there ? "still there" : "gone");
		}
		image_free(&m);
	}
}

static void test_erase_small(void **state)
{
	(void)state;
	erase_some(60, 300, 100);
}
static void test_erase_page(void **state)
{
	(void)state;
	erase_some(900, 200, 50);
}
/* Sizes at which SQLite leaves copies in the unused middle of pages. */
static void test_erase_moved(void **state)
{
	(void)state;
	erase_some(1500, 250, 50);
}
static void test_erase_overflow(void **state)
{
	(void)state;
	erase_some(20000, 60, 20);
}
static void test_erase_mixed(void **state)
{
	(void)state;
	erase_some(0, 150, 100);
}

static void test_erase_namespace(void **state)
{
	(void)state;
	char word[16];
	uint64_t seq = 0;
	for (uint32_t n = 0; n < 100; n++)
		store_secret(++seq, n, 1, below(3000));
	STORE(++seq, batch_add(one, 1000, 1, NS_B));
	STORE(++seq, batch_drop(one, NS_A));
	assert_int_equal(ops->scrub(store), STORE_OK);
	for (uint32_t n = 0; n < 100; n++) {
		secret(n, word);
		assert_false(in_files(word + 2, 10));
	}
	assert_true(in_files("memory 1000", 11));
}

static bool stay(void *arg, const struct memory *m)
{
	(void)m;
	/* in the middle of a list: this connection's snapshot keeps the WAL */
	*(enum store_rc *)arg = ops->scrub(store);
	return false;
}

/* While a reader needs the WAL, it cannot be emptied: the scrub has to be tried again, and says so. */
static void test_scrub_waits(void **state)
{
	(void)state;
	enum store_rc rc = STORE_OK;
	char word[16];
	store_secret(1, 1, 1, 100);
	store_secret(2, 2, 1, 100);
	struct store *reader = open_as(false);
	struct store_list q = {.ns = NS};
	secret(1, word);
	sqlite3_busy_timeout(store->db, 10);
	STORE(3, batch_delete(one, 1, 2, NS_A, DELETE_ERASE));
	assert_int_equal(ops->list(reader, &q, stay, &rc), STORE_OK);
	assert_int_not_equal(rc, STORE_OK);
	assert_true(strlen(ops->error(store)) > 0);
	assert_int_equal(ops->scrub(store), STORE_OK);
	assert_false(in_files(word + 2, 10));
	struct stat st;
	assert_int_equal(stat(world_path("store.db-wal"), &st), 0);
	assert_int_equal(st.st_size, 0);
	ops->close(reader);
}

/* ---- versions and damage ---- */

static char *cannot_open(void)
{
	char *error = NULL;
	struct store *s = ops->open(&(struct store_conf){.dir = world_dir}, true, &error);
	if (s)
		fail_msg("was opened");
	assert_non_null(error);
	assert_non_null(strstr(error, world_path("store.db")));
	return error;
}

static void close_store(void)
{
	ops->close(store);
	store = NULL;
}

static void test_schema_version(void **state)
{
	(void)state;
	static const char *const wrong[] = {
		"5", "1000000", "-1", "-2147483648", "'soon'", "NULL", "9223372036854775807"};
	STORE(1, batch_add(one, 1, 1, NS_A));
	for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
		char sql[96];
		snprintf(sql, sizeof(sql), "UPDATE meta SET value=%s WHERE key='schema'", wrong[i]);
		query(store, sql, NULL);
		close_store();
		char *error = cannot_open();
		if (!strstr(error, "schema"))
			fail_msg("schema %s: %s", wrong[i], error);
		if (i == 0)
			assert_true(strstr(error, "schema 5") && strstr(error, "knows 4") &&
				    strstr(error, "newer program"));
		free(error);
		sqlite3 *db;
		assert_int_equal(sqlite3_open(world_path("store.db"), &db), SQLITE_OK);
		assert_int_equal(sqlite3_exec(db, "UPDATE meta SET value=4 WHERE key='schema'", NULL, NULL, NULL),
				 SQLITE_OK);
		sqlite3_close(db);
		reopen();
		assert_int_equal(cursor_of(store), 1);
	}
}

static void test_no_database(void **state)
{
	(void)state;
	char junk[8192];
	close_store();
	for (size_t i = 0; i < ARRAY_LEN(files); i++)
		unlink(world_path(files[i]));
	for (size_t i = 0; i < sizeof(junk); i++)
		junk[i] = (char)below(256);
	spit("store.db", junk, sizeof(junk));
	char *error = cannot_open();
	assert_non_null(strstr(error, "not a database"));
	free(error);
	size_t len;
	char *after = slurp("store.db", &len); /* and is left as it was */
	assert_true(len == sizeof(junk) && memcmp(after, junk, len) == 0);
	free(after);
	unlink(world_path("store.db"));
	assert_int_equal(mkdir(world_path("store.db"), 0700), 0);
	free(cannot_open());
	assert_int_equal(rmdir(world_path("store.db")), 0);
	spit("store.db", "", 0); /* an empty file is a new database */
	reopen();
	assert_int_equal(cursor_of(store), 0);
}

static bool glance(void *arg, const struct memory *m)
{
	unsigned *sum = arg;
	for (size_t i = 0; i < m->body.len; i++)
		*sum += (unsigned char)m->body.p[i];
	for (uint32_t i = 0; m->embedding && i < m->dim; i++)
		*sum += m->embedding[i] > 0;
	return true;
}

static bool glance_indexed(void *arg, const struct store_indexed *x)
{
	unsigned *sum = arg;
	for (uint32_t i = 0; i < x->dim; i++)
		*sum += x->x[i] > 0;
	for (size_t i = 0; i < x->content.len; i++)
		*sum += (unsigned char)x->content.p[i];
	*sum += x->id.b[15];
	return true;
}

static void glance_ns(void *arg, const struct store_ns *n) { *(unsigned *)arg += (unsigned)strlen(n->name); }

/* Every call there is; each may fail, none may crash. */
static unsigned use_all(struct store *s)
{
	unsigned sum = 0, wrong = 0;
	struct store_list q = {.ns = NS, .with_embedding = true};
	struct store_text_hit hits[10];
	struct store_text_extra extra = {id_of(1), 1, SPAN("memory")};
	struct store_text t = {.ns = NS, .query = SPAN("memory version"), .limit = 10, .extra = &extra, .nextra = 1};
	struct store_neighbour nb[4];
	struct op_idem o;
	struct buf reply = {NULL, 0, 0};
	size_t n;
	uint64_t count;
	for (uint32_t i = 0; i < 60; i += 7) {
		struct uuid id = id_of(i);
		wrong += ops->get(s, &id, true, glance, &sum) == STORE_ERROR;
		wrong += ops->history(s, &id, glance, &sum) == STORE_ERROR;
		wrong += ops->neighbours(s, &id, 0, nb, &n) == STORE_ERROR;
	}
	wrong += ops->list(s, &q, glance, &sum) == STORE_ERROR;
	wrong += ops->ids(s, &q, glance, &sum) == STORE_ERROR;
	wrong += ops->count(s, &q, &count) == STORE_ERROR;
	wrong += ops->text(s, &t, hits, &n) == STORE_ERROR;
	wrong += ops->indexed(s, NULL, 100, glance_indexed, &sum) == STORE_ERROR;
	wrong += ops->indexed_count(s, &count) == STORE_ERROR;
	wrong += ops->recent(s, NULL, 100, glance, &sum) == STORE_ERROR;
	wrong += ops->by_external(s, NS, SPAN("ext-5"), true, glance, &sum) == STORE_ERROR;
	wrong += ops->by_content(s, NS, record_content_key(NS, SPAN("memory 1 of version 1")),
				 SPAN("memory 1 of version 1"), true, glance, &sum) == STORE_ERROR;
	wrong += ops->idem(s, 1, 0, &o, &reply) == STORE_ERROR;
	wrong += ops->namespaces(s, glance_ns, &sum) == STORE_ERROR;
	wrong += ops->cursor(s, &count) == STORE_ERROR;
	wrong += ops->collect(s, 0, 1 << 30, 100, glance, &sum) == STORE_ERROR;
	buf_free(&reply);
	return wrong;
}

static void fill(void)
{
	struct batch a;
	batch_begin(&a);
	for (uint32_t n = 0; n < 60; n++) {
		batch_add(&a, n, 1, NS_A);
		if (n % 4 == 0)
			batch_add(&a, n, 2, NS_A);
	}
	batch_idem(&a, 1, NS_A, 1 << 30, "reply");
	batch_store(&a, 9);
	batch_free(&a);
}

/* Bytes of the file changed at random: an error or some answer, no crash, no read outside of what SQLite gave. */
static void test_damage(void **state)
{
	(void)state;
	size_t len;
	unsigned failed = 0;
	fill();
	assert_int_equal(use_all(store), 0);
	close_store(); /* the last connection: all is in the one file now */
	char *good = slurp("store.db", &len), *bad = util_alloc(len);
	for (int round = 0; round < 250; round++) {
		memcpy(bad, good, len);
		size_t from = round % 2 ? 0 : 100; /* the header, or not */
		for (uint32_t i = 1 + below(40); i; i--)
			bad[from + below((uint32_t)(len - from))] = (char)below(256);
		if (round % 5 == 4)
			memset(bad + below((uint32_t)len / 4096) * 4096, 0, 4096);
		for (size_t i = 1; i < ARRAY_LEN(files); i++)
			unlink(world_path(files[i]));
		spit("store.db", bad, round % 10 == 9 ? below((uint32_t)len) : len);
		char *error = NULL;
		struct store *s = ops->open(&(struct store_conf){.dir = world_dir}, true, &error);
		if (!s) {
			assert_non_null(strstr(error, "store.db"));
			failed++;
			free(error);
			continue;
		}
		failed += use_all(s) > 0;
		store = s;
		struct batch a;
		batch_begin(&a);
		batch_add(&a, below(60), 5, NS_A);
		batch_delete(&a, below(60), 6, NS_A, DELETE_ERASE);
		txn_end(&a.t);
		if (ops->begin(s) == STORE_OK && (batch_apply(&a, 10) != STORE_OK || ops->commit(s, 10) != STORE_OK))
			ops->rollback(s);
		batch_free(&a);
		(void)!ops->scrub(s);
		close_store();
	}
	assert_true(failed > 20);
	free(good);
	free(bad);
	for (size_t i = 0; i < ARRAY_LEN(files); i++)
		unlink(world_path(files[i]));
}

/* Values of other types and sizes than ours, which no page checksum would notice. */
static void test_foreign_values(void **state)
{
	(void)state;
	/* clang-format off */
	static const char *const ways[] = {
		"UPDATE memories SET id=CAST(substr(hex(id),27) AS BLOB)", "UPDATE memories SET id=n", "UPDATE memories SET id='text'||n", "UPDATE memories SET body=NULL",
		"UPDATE memories SET body='{\"id\":\"x\",\"namespace\":\"n\",\"content\":\"a\\u00'", "UPDATE memories SET body='\",\"content\":\"\\'",
		"UPDATE memories SET dim=1000000", "UPDATE memories SET dim=-1", "UPDATE vectors SET x=NULL", "UPDATE vectors SET x='abc',dim=1000000000",
		"UPDATE memories SET ns='what'", "UPDATE namespaces SET name=hex(zeroblob(500))", "UPDATE namespaces SET embedder=hex(zeroblob(90)),dim='x'",
		"UPDATE memories SET session_id=5,external_id=x'00',user_id=1e300", "UPDATE idempotency SET reply=NULL", "UPDATE history SET body=NULL",
		"UPDATE meta SET value='much' WHERE key='cursor'", "DELETE FROM words_data", "UPDATE words_data SET block=x'ff'", "DELETE FROM meta WHERE key='cursor'",
		"UPDATE memories SET version=-1", "UPDATE memories SET body=zeroblob(300)"};
	/* clang-format on */
	for (size_t i = 0; i < ARRAY_LEN(ways); i++) {
		char *error = NULL;
		struct batch a;
		close_store();
		for (size_t k = 0; k < ARRAY_LEN(files); k++)
			unlink(world_path(files[k]));
		reopen();
		fill();
		if (sqlite3_exec(store->db, ways[i], NULL, NULL, &error) != SQLITE_OK && !strstr(error, "UNIQUE") &&
		    !strstr(error, "NOT NULL"))
			fail_msg("%s: %s", ways[i], error);
		sqlite3_free(error);
		use_all(store);
		batch_begin(&a);
		for (uint32_t n = 0; n < 60; n += 3)
			batch_add(&a, n, 7, NS_A);
		batch_drop(&a, NS_A);
		txn_end(&a.t);
		if (ops->begin(store) == STORE_OK &&
		    (batch_apply(&a, 10) != STORE_OK || ops->commit(store, 10) != STORE_OK))
			ops->rollback(store);
		batch_free(&a);
	}
}

/* ---- no room, no right ---- */

static void test_disk_full(void **state)
{
	(void)state;
	struct rlimit was, now;
	struct stat st;
	struct seen m;
	uint64_t seq = 9;
	unsigned refused = 0;
	fill();
	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &was), 0);
	for (uint64_t more = 0; more < 200000; more += 7001) {
		struct batch a;
		assert_int_equal(stat(world_path("store.db-wal"), &st), 0);
		now = was;
		now.rlim_cur = (rlim_t)st.st_size + more;
		batch_begin(&a);
		for (uint32_t n = 0; n < 200; n++)
			batch_add(&a, 1000 + (uint32_t)more + n, 1, NS_A);
		txn_end(&a.t);
		assert_int_equal(setrlimit(RLIMIT_FSIZE, &now), 0);
		enum store_rc rc = ops->begin(store);
		if (rc == STORE_OK)
			rc = batch_apply(&a, seq + 1);
		if (rc == STORE_OK)
			rc = ops->commit(store, seq + 1);
		if (rc != STORE_OK)
			ops->rollback(store);
		assert_int_equal(setrlimit(RLIMIT_FSIZE, &was), 0);
		if (rc != STORE_OK) {
			assert_true(strlen(ops->error(store)) > 0);
			assert_int_equal(cursor_of(store), seq);
			assert_int_equal(get(store, 1000 + (uint32_t)more, false, &m), STORE_NOT_FOUND);
			refused++;
			assert_int_equal(ops->begin(store), STORE_OK); /* there is room again: the same batch goes in */
			assert_int_equal(batch_apply(&a, seq + 1), STORE_OK);
			assert_int_equal(ops->commit(store, seq + 1), STORE_OK);
		}
		assert_int_equal(cursor_of(store), ++seq);
		assert_int_equal(get(store, 1199 + (uint32_t)more, false, &m), STORE_OK);
		batch_free(&a);
	}
	assert_true(refused > 3);
	reopen();
	assert_int_equal(cursor_of(store), seq);
	assert_int_equal(ask(store, "SELECT count(*) FROM memories"), ask(store, "SELECT count FROM namespaces"));
	query(store, "PRAGMA integrity_check", NULL);
}

static void test_read_only(void **state)
{
	(void)state;
	fill();
	close_store();
	assert_int_equal(chmod(world_path("store.db"), 0444), 0);
	assert_int_equal(chmod(world_dir, 0555), 0);
	pid_t pid = fork();
	if (!pid) { /* root may write everywhere: become somebody else */
		char *error = NULL;
		if (!geteuid() && (setgid(65534) || setuid(65534)))
			_exit(0);
		struct store *s = ops->open(&(struct store_conf){.dir = world_dir}, true, &error);
		_exit(!s && error && strstr(error, "store.db: ") && strlen(strstr(error, "store.db: ")) > 12 ? 0 : 1);
	}
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(chmod(world_dir, 0700), 0);
	assert_int_equal(status, 0);
}

#define T(f) cmocka_unit_test_setup_teardown(f, world_begin, world_end)

int main(void)
{
	const struct CMUnitTest tests[] = {T(test_erase_small), T(test_erase_page),	T(test_erase_overflow),
					   T(test_erase_moved), T(test_erase_mixed),	T(test_erase_namespace),
					   T(test_scrub_waits), T(test_schema_version), T(test_no_database),
					   T(test_damage),	T(test_foreign_values), T(test_disk_full),
					   T(test_read_only)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
