/* Connections, schema, prepared statements. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "sqlite-private.h"

#define SCHEMA_VERSION 4
/* Of a row of namespaces. Settings are ours; one that somebody has damaged must not take the whole list with it. */
#define SQ_LANGUAGE "CASE WHEN json_valid(settings) THEN settings->>'language' END"

/* One string per step; step n brings version n to n + 1. */
static const char *const migrations[SCHEMA_VERSION] = {
	"CREATE TABLE namespaces(ns INTEGER PRIMARY KEY, name TEXT NOT NULL, embedder TEXT NOT NULL DEFAULT '',"
	" dim INTEGER NOT NULL DEFAULT 0, count INTEGER NOT NULL DEFAULT 0, bytes INTEGER NOT NULL DEFAULT 0,"
	" quota_count INTEGER NOT NULL DEFAULT 0, quota_bytes INTEGER NOT NULL DEFAULT 0,"
	" relaxed INTEGER NOT NULL DEFAULT 0, settings TEXT NOT NULL DEFAULT '{}', created_us INTEGER NOT NULL,"
	" present INTEGER NOT NULL DEFAULT 1);"
	"CREATE TABLE memories(n INTEGER PRIMARY KEY, id BLOB NOT NULL UNIQUE, ns INTEGER NOT NULL,"
	" version INTEGER NOT NULL, created_us INTEGER NOT NULL, updated_us INTEGER NOT NULL,"
	" expires_us INTEGER NOT NULL, deleted_us INTEGER NOT NULL, flags INTEGER NOT NULL, importance REAL NOT NULL,"
	" kind TEXT, user_id TEXT, agent_id TEXT, session_id TEXT, external_id TEXT, content_key INTEGER NOT NULL,"
	" embedder TEXT, dim INTEGER NOT NULL, bytes INTEGER NOT NULL, body TEXT NOT NULL);"
	"CREATE INDEX memories_ns ON memories(ns, id);"
	"CREATE INDEX memories_user ON memories(ns, user_id, id) WHERE user_id IS NOT NULL;"
	"CREATE INDEX memories_session ON memories(ns, session_id, id) WHERE session_id IS NOT NULL;"
	"CREATE INDEX memories_external ON memories(ns, external_id) WHERE external_id IS NOT NULL;"
	"CREATE INDEX memories_content ON memories(content_key);"
	"CREATE INDEX memories_expires ON memories(expires_us) WHERE expires_us<>0;"
	"CREATE INDEX memories_deleted ON memories(deleted_us) WHERE deleted_us<>0;"
	"CREATE TABLE vectors(n INTEGER PRIMARY KEY, dim INTEGER NOT NULL, x BLOB NOT NULL);"
	"CREATE TABLE history(id BLOB NOT NULL, version INTEGER NOT NULL, ns INTEGER NOT NULL,"
	" updated_us INTEGER NOT NULL, deleted_us INTEGER NOT NULL, body TEXT NOT NULL, PRIMARY KEY(id, version)) WITHOUT ROWID;"
	"CREATE INDEX history_ns ON history(ns);"
	"CREATE TABLE idempotency(key INTEGER PRIMARY KEY, ns INTEGER NOT NULL, body_hash INTEGER NOT NULL,"
	" status INTEGER NOT NULL, expires_us INTEGER NOT NULL, reply BLOB NOT NULL);"
	"CREATE INDEX idempotency_expires ON idempotency(expires_us);"
	"CREATE VIRTUAL TABLE words USING fts5(content, scope, content='', tokenize='porter unicode61 remove_diacritics 2');"
	"CREATE VIRTUAL TABLE words_df USING fts5vocab('words', 'col');"
	"INSERT INTO meta VALUES('cursor', 0);",
	/* The feed: a row per batch that changed something (changes.c). total: changes up to and with this row. What was
	 * written before there was a feed counts as pruned. */
	"CREATE TABLE changes(revision INTEGER PRIMARY KEY, at_us INTEGER NOT NULL, total INTEGER NOT NULL, data BLOB NOT NULL);"
	"INSERT INTO meta SELECT 'pruned',value FROM meta WHERE key='cursor';",
	/* Words of namespaces that are not English: stems that we have made (stems.c), as they are. */
	"CREATE VIRTUAL TABLE stems USING fts5(content, scope, content='', tokenize='ascii');"
	"CREATE VIRTUAL TABLE stems_df USING fts5vocab('stems', 'col');",
	/* A vector may be packed (packed.h), which older programs cannot read. Those that are there stay as they are. */
	"",
};

/* clang-format off */
static const char *const sql[SQ_COUNT] = {
	[SQ_BEGIN] = "BEGIN IMMEDIATE",
	[SQ_COMMIT] = "COMMIT",
	[SQ_ROLLBACK] = "ROLLBACK",
	[SQ_CURSOR_GET] = "SELECT value FROM meta WHERE key='cursor'",
	[SQ_SCRUB_GET] = "SELECT coalesce((SELECT value FROM meta WHERE key='scrub'),0)",
	[SQ_SCRUB_SET] = "INSERT OR REPLACE INTO meta VALUES('scrub',?)",
	[SQ_SCRUB_DONE] = "DELETE FROM meta WHERE key='scrub'",
	[SQ_CURSOR_SET] = "UPDATE meta SET value=? WHERE key='cursor'",
	[SQ_ROW_BY_ID] = "SELECT n,version,deleted_us,expires_us,flags,bytes,dim,body,ns FROM memories WHERE id=?",
	[SQ_INSERT] = "INSERT INTO memories(id,ns,version,created_us,updated_us,expires_us,deleted_us,flags,importance,"
		      "kind,user_id,agent_id,session_id,external_id,content_key,embedder,dim,bytes,body)"
		      " VALUES(?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
	[SQ_UPDATE] = "UPDATE memories SET id=?,ns=?,version=?,created_us=?,updated_us=?,expires_us=?,deleted_us=?,flags=?,"
		      "importance=?,kind=?,user_id=?,agent_id=?,session_id=?,external_id=?,content_key=?,embedder=?,dim=?,"
		      "bytes=?,body=? WHERE n=?",
	[SQ_REMOVE] = "DELETE FROM memories WHERE n=?",
	[SQ_HISTORY_KEEP] = "INSERT OR IGNORE INTO history(id,version,ns,updated_us,deleted_us,body)"
			    " SELECT id,version,ns,updated_us,deleted_us,body FROM memories WHERE n=?",
	[SQ_HISTORY_DROP] = "DELETE FROM history WHERE id=?",
	[SQ_VECTOR_PUT] = "INSERT OR REPLACE INTO vectors(n,dim,x) VALUES(?,?,?)",
	[SQ_VECTOR_DROP] = "DELETE FROM vectors WHERE n=?",
	[SQ_WORDS_ADD] = "INSERT INTO words(rowid,content,scope) VALUES(?,?,?)",
	[SQ_STEMS_ADD] = "INSERT INTO stems(rowid,content,scope) VALUES(?,?,?)",
	[SQ_STEMS_DROP] = "INSERT INTO stems(stems,rowid,content,scope) VALUES('delete',?,?,?)",
	[SQ_WORDS_DROP] = "INSERT INTO words(words,rowid,content,scope) VALUES('delete',?,?,?)",
	[SQ_SOFT_DELETE] = "UPDATE memories SET version=?,deleted_us=?,updated_us=? WHERE n=?",
	[SQ_IDEM_PUT] = "INSERT OR REPLACE INTO idempotency(key,ns,body_hash,status,expires_us,reply) VALUES(?,?,?,?,?,?)",
	[SQ_IDEM_GET] = "SELECT ns,body_hash,status,expires_us,reply FROM idempotency WHERE key=? AND expires_us>?",
	[SQ_IDEM_COLLECT] = "DELETE FROM idempotency WHERE expires_us<=?",
	[SQ_NS_GET] = "SELECT present,count," SQ_LANGUAGE " FROM namespaces WHERE ns=?",
	[SQ_NS_PUT] = "INSERT INTO namespaces(ns,name,created_us,quota_bytes,quota_count,relaxed,settings)"
		      " VALUES(?1,?2,?3,?4,?5,?6,?7) ON CONFLICT(ns) DO UPDATE SET present=1,quota_bytes=?4,quota_count=?5,"
		      "relaxed=?6,settings=?7,created_us=iif(present,created_us,?3)",
	[SQ_NS_COUNT] = "UPDATE namespaces SET count=count+?,bytes=bytes+? WHERE ns=?",
	[SQ_NS_SPACE] = "UPDATE namespaces SET embedder=?,dim=? WHERE ns=? AND dim=0",
	[SQ_NS_ALL] = "SELECT ns,name,embedder,dim,count,bytes,quota_count,quota_bytes,relaxed,created_us,present," SQ_LANGUAGE " FROM namespaces",
	[SQ_GET] = "SELECT " SQ_MEMORY " FROM memories m JOIN namespaces s ON s.ns=m.ns WHERE m.id=?",
	[SQ_GET_VECTOR] = "SELECT " SQ_MEMORY ",v.x FROM memories m JOIN namespaces s ON s.ns=m.ns"
			  " LEFT JOIN vectors v ON v.n=m.n WHERE m.id=?",
	[SQ_BY_EXTERNAL] = "SELECT " SQ_MEMORY ",v.x FROM memories m JOIN namespaces s ON s.ns=m.ns"
			   " LEFT JOIN vectors v ON v.n=m.n WHERE m.ns=? AND m.external_id=? AND m.deleted_us=0 ORDER BY m.id DESC",
	[SQ_BY_CONTENT] = "SELECT " SQ_MEMORY ",v.x FROM memories m JOIN namespaces s ON s.ns=m.ns"
			  " LEFT JOIN vectors v ON v.n=m.n WHERE m.content_key=? AND m.ns=? AND m.deleted_us=0 ORDER BY m.id DESC",
	[SQ_HISTORY] = "SELECT h.version,h.updated_us,h.deleted_us,h.body,h.ns,s.name FROM history h JOIN namespaces s ON s.ns=h.ns"
		       " WHERE h.id=? ORDER BY h.version DESC",
	[SQ_COLLECT] = "SELECT " SQ_MEMORY " FROM memories m JOIN namespaces s ON s.ns=m.ns WHERE m.n IN"
		       " (SELECT n FROM memories WHERE expires_us<>0 AND expires_us<=?1 UNION"
		       "  SELECT n FROM memories WHERE deleted_us<>0 AND deleted_us<=?2 LIMIT ?3)",
	[SQ_NEIGHBOUR_HOME] = "SELECT ns,session_id FROM memories WHERE id=?",
	[SQ_NEIGHBOURS_UP] = "SELECT id FROM memories WHERE ns=? AND session_id=? AND id>? AND deleted_us=0 AND (flags&4)=0"
			     " AND (expires_us=0 OR expires_us>?) ORDER BY id LIMIT 2",
	[SQ_NEIGHBOURS_DOWN] = "SELECT id FROM memories WHERE ns=? AND session_id=? AND id<? AND deleted_us=0 AND (flags&4)=0"
			       " AND (expires_us=0 OR expires_us>?) ORDER BY id DESC LIMIT 2",
	[SQ_INDEXED] = "SELECT m.id,m.ns,m.version,m.expires_us,v.dim,v.x,m.body FROM memories m LEFT JOIN vectors v ON v.n=m.n"
		       " WHERE m.id>? AND m.deleted_us=0 AND (m.flags&4)=0 ORDER BY m.id LIMIT ?",
	[SQ_INDEXED_COUNT] = "SELECT coalesce(sum(count),0) FROM namespaces",
	[SQ_RECENT] = "SELECT " SQ_MEMORY " FROM memories m JOIN namespaces s ON s.ns=m.ns WHERE m.n<coalesce((SELECT n FROM memories"
		      " WHERE id=?1),CASE WHEN ?1 IS NULL THEN 9223372036854775807 ELSE 0 END) ORDER BY m.n DESC LIMIT ?2",
	[SQ_DF] = "SELECT doc,cnt FROM words_df WHERE term=? AND col='content'",
	[SQ_STEMS_DF] = "SELECT doc,cnt FROM stems_df WHERE term=? AND col='content'",
	[SQ_EXTRA_CLEAR] = "DELETE FROM temp.extra",
	[SQ_EXTRA_ADD] = "INSERT INTO temp.extra(rowid,content) VALUES(?,?)",
	[SQ_EXTRA_TERMS] = "SELECT term,doc,count(*) FROM temp.extra_terms GROUP BY term,doc",
	[SQ_TOTALS] = "SELECT block FROM words_data WHERE id=1",
	[SQ_STEMS_TOTALS] = "SELECT block FROM stems_data WHERE id=1",
	[SQ_NS_NAME] = "SELECT name FROM namespaces WHERE ns=?",
	[SQ_CHANGES_PUT] = "INSERT INTO changes(revision,at_us,total,data) VALUES(?,?,?,?)"
			   " ON CONFLICT(revision) DO UPDATE SET data=data||excluded.data,total=excluded.total",
	[SQ_CHANGES_TOTAL] = "SELECT coalesce((SELECT total FROM changes ORDER BY revision DESC LIMIT 1),0)",
	[SQ_CHANGES_READ] = "SELECT revision,at_us,data,(SELECT value FROM meta WHERE key='pruned') FROM changes"
			    " WHERE revision>? ORDER BY revision LIMIT ?",
	[SQ_CHANGES_OLDEST] = "SELECT revision,at_us,total FROM changes ORDER BY revision LIMIT ?",
	[SQ_CHANGES_DROP] = "DELETE FROM changes WHERE revision<=?",
	[SQ_PRUNED_GET] = "SELECT value FROM meta WHERE key='pruned'",
	[SQ_PRUNED_SET] = "UPDATE meta SET value=? WHERE key='pruned'",
};
/* clang-format on */

enum store_rc sq_fail(struct store *s)
{
	snprintf(s->error, sizeof(s->error), "%s", sqlite3_errmsg(s->db));
	int code = sqlite3_errcode(s->db);
	if (code == SQLITE_CONSTRAINT || code == SQLITE_TOOBIG || code == SQLITE_MISMATCH)
		return STORE_REJECTED;
	return code == SQLITE_BUSY || code == SQLITE_LOCKED ? STORE_BUSY : STORE_ERROR;
}

sqlite3_stmt *sq_get(struct store *s, enum sq which)
{
	sqlite3_stmt **st = &s->st[which];
	if (!*st && sqlite3_prepare_v3(s->db, sql[which], -1, SQLITE_PREPARE_PERSISTENT, st, NULL) != SQLITE_OK) {
		sq_fail(s);
		return NULL;
	}
	sqlite3_reset(*st);
	return *st;
}

enum store_rc sq_run(struct store *s, sqlite3_stmt *st)
{
	if (!st)
		return STORE_ERROR;
	int rc = sqlite3_step(st);
	enum store_rc r = rc == SQLITE_DONE || rc == SQLITE_ROW ? STORE_OK : sq_fail(s);
	sqlite3_reset(st);
	return r;
}

void sq_bind_text(sqlite3_stmt *st, int i, struct span t)
{
	if (t.len)
		sqlite3_bind_text(st, i, t.p, (int)t.len, SQLITE_STATIC);
	else
		sqlite3_bind_null(st, i);
}

void sq_bind_uuid(sqlite3_stmt *st, int i, const struct uuid *u)
{
	sqlite3_bind_blob(st, i, u->b, sizeof(u->b), SQLITE_STATIC);
}

struct span sq_text(sqlite3_stmt *st, int i)
{
	const void *p = sqlite3_column_text(st, i);
	return (struct span){p, p ? (size_t)sqlite3_column_bytes(st, i) : 0};
}

struct uuid sq_uuid(sqlite3_stmt *st, int i)
{
	struct uuid u = {{0}};
	const void *p = sqlite3_column_blob(st, i);
	if (p && sqlite3_column_bytes(st, i) == sizeof(u.b))
		memcpy(u.b, p, sizeof(u.b));
	return u;
}

static bool execute(struct store *s, const char *text)
{
	if (sqlite3_exec(s->db, text, NULL, NULL, NULL) == SQLITE_OK)
		return true;
	sq_fail(s);
	return false;
}

static bool say(struct store *s, const char *what)
{
	snprintf(s->error, sizeof(s->error), "%s", what);
	return false;
}

/* The first column of the first row as an integer; false: an error, or it is none. */
static bool read_integer(struct store *s, const char *text, int64_t *v_r)
{
	sqlite3_stmt *st;
	bool ok = sqlite3_prepare_v2(s->db, text, -1, &st, NULL) == SQLITE_OK;
	if (ok) {
		ok = sqlite3_step(st) == SQLITE_ROW && sqlite3_column_type(st, 0) == SQLITE_INTEGER;
		*v_r = ok ? sqlite3_column_int64(st, 0) : 0;
	}
	if (!ok)
		sq_fail(s);
	sqlite3_finalize(st);
	return ok;
}

/* 0: a new database. False: somebody else's, a later program's, or damaged. */
static bool check_version(struct store *s, int64_t *v_r)
{
	int64_t tables;
	if (!read_integer(s, "SELECT count(*) FROM sqlite_schema", &tables))
		return false;
	*v_r = 0;
	if (!tables)
		return true;
	if (!read_integer(s, "SELECT value FROM meta WHERE key='schema'", v_r) || *v_r < 1)
		return say(s, "holds tables, but no schema version: it is damaged or not a database of this program; "
			      "restore it from a backup, or choose another store.dsn");
	if (*v_r <= SCHEMA_VERSION)
		return true;
	snprintf(s->error, sizeof(s->error),
		 "the database has schema %lld, this program knows %d; use the newer program", (long long)*v_r,
		 SCHEMA_VERSION);
	return false;
}

static bool migrate(struct store *s, int64_t v)
{
	char text[96];
	if (v == SCHEMA_VERSION)
		return true;
	if (!execute(s, "BEGIN IMMEDIATE; CREATE TABLE IF NOT EXISTS meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID"))
		return false;
	for (; v < SCHEMA_VERSION; v++)
		if (!execute(s, migrations[v]))
			return false;
	snprintf(text, sizeof(text), "INSERT OR REPLACE INTO meta VALUES('schema', %d); COMMIT", SCHEMA_VERSION);
	return execute(s, text);
}

/* ---- files that are deleted or replaced under us ---- */

static struct sq_file identify(const char *path)
{
	struct stat st;
	return stat(path, &st) == 0 ? (struct sq_file){st.st_dev, st.st_ino} : (struct sq_file){0, 0};
}

static bool same(struct sq_file *known, const char *path)
{
	struct sq_file now = identify(path);
	if (!known->ino)
		*known = now;
	return known->dev == now.dev && known->ino == now.ino;
}

/* SQLite itself does not look in WAL mode: it goes on writing into files that have no name any more. */
bool sq_in_place(struct store *s)
{
	const char *path = sqlite3_db_filename(s->db, "main");
	if (!path || !*path || (same(&s->file, path) && same(&s->wal, sqlite3_filename_wal(path))))
		return true;
	snprintf(s->error, sizeof(s->error),
		 "%.300s or its -wal file was deleted or replaced while in use, and what is written now would be lost. "
		 "Put the file back, or restart the daemon: the journal keeps what came since",
		 path);
	return false;
}

static bool set_up(struct store *s)
{
	int64_t version;
	if (!filter_sql_install(s->db)) {
		sq_fail(s);
		return false;
	}
	if (!s->writer)
		return execute(s, "PRAGMA temp_store=MEMORY; PRAGMA cache_size=-1024; PRAGMA mmap_size=268435456");
	if (!check_version(s, &version)) /* before anything is written */
		return false;
	/* 16 KiB: two memories with their vectors lie in a page, instead of each in a chain of three small ones; the
	 * flush is a third faster.
	 * FULL: the journal lets go of a record when COMMIT returns, so COMMIT must be durable. */
	return execute(s,
		       "PRAGMA page_size=16384; PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; "
		       "PRAGMA secure_delete=1; PRAGMA cache_size=-16384;"
		       "PRAGMA wal_autocheckpoint=1000; PRAGMA journal_size_limit=67108864; PRAGMA foreign_keys=0") &&
	       migrate(s, version) && sq_in_place(s);
}

/* The last connection that is closed removes -wal and -shm. Readers in other processes may write the -shm that was
 * there when they were born, and no other (sandbox.h), so a writer that fails to open the store leaves it. */
static void keep_files(struct store *s, bool keep)
{
	int persist = keep;
	if (s->writer)
		sqlite3_file_control(s->db, NULL, SQLITE_FCNTL_PERSIST_WAL, &persist);
}

void sq_close(struct store *s)
{
	for (int i = 0; i < SQ_COUNT; i++)
		sqlite3_finalize(s->st[i]);
	sqlite3_close_v2(s->db);
	words_free(&s->words);
	buf_free(&s->stems);
	free(s->unpacked);
	buf_free(&s->changes.data);
	free(s);
}

static void path_of(const struct store_conf *c, char *out, size_t cap)
{
	if (c->dsn && *c->dsn)
		snprintf(out, cap, "%s", c->dsn);
	else
		snprintf(out, cap, "%s/store.db", c->dir);
}

#define PROBE_WAIT_MS 1000

/* The write lock is asked for and given back; a log that a crash left is not brought into the database. */
static bool look_at(struct store *s, const char *path, struct buf *what)
{
	int64_t version;
	struct stat st;
	if (sqlite3_open_v2(path, &s->db, SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_READWRITE, NULL) != SQLITE_OK) {
		sq_fail(s);
		return false;
	}
	sqlite3_busy_timeout(s->db, PROBE_WAIT_MS);
	const char *wal = sqlite3_filename_wal(sqlite3_db_filename(s->db, "main"));
	if (wal && stat(wal, &st) == 0)
		sqlite3_db_config(s->db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
	if (!check_version(s, &version) || !execute(s, "BEGIN IMMEDIATE; ROLLBACK"))
		return false;
	if (version == 0)
		buf_adds(what, "an empty database; the schema would be made");
	else if (version < SCHEMA_VERSION)
		buf_printf(what, "schema %lld; would be migrated to %d", (long long)version, SCHEMA_VERSION);
	else
		buf_printf(what, "schema %lld, can be written", (long long)version);
	return true;
}

bool sq_probe(const struct store_conf *c, char **what_r)
{
	char path[4096];
	struct stat st;
	struct buf b = {0};
	struct store *s = util_zalloc(sizeof(*s));
	bool ok = true;
	path_of(c, path, sizeof(path));
	buf_printf(&b, "%s: ", path);
	if (stat(path, &st) == -1) {
		ok = errno == ENOENT;
		buf_adds(&b, ok ? "not there yet; would be made" : strerror(errno));
	} else if (!S_ISREG(st.st_mode)) {
		ok = false;
		buf_adds(&b, "is no file; choose another store.dsn");
	} else if (!look_at(s, path, &b)) {
		ok = false;
		buf_adds(&b, s->error);
	}
	buf_addc(&b, 0);
	*what_r = b.p;
	sq_close(s);
	return ok;
}

struct store *sq_open(const struct store_conf *c, bool writer, char **error_r)
{
	char path[4096];
	struct store *s = util_zalloc(sizeof(*s));
	path_of(c, path, sizeof(path));
	s->writer = writer;
	s->changes.total = -1;
	int flags = SQLITE_OPEN_NOMUTEX | (writer ? SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE : SQLITE_OPEN_READONLY);
	if (sqlite3_open_v2(path, &s->db, flags, NULL) == SQLITE_OK) {
		sqlite3_extended_result_codes(s->db, 0);
		sqlite3_busy_timeout(s->db, 5000);
		keep_files(s, true);
		if (set_up(s)) {
			keep_files(s, false);
			return s;
		}
	} else {
		sq_fail(s);
	}
	struct buf b = {0};
	buf_printf(&b, "%s: %s", path, s->error);
	buf_addc(&b, 0);
	*error_r = b.p;
	sq_close(s);
	return NULL;
}

const char *sq_error(struct store *s) { return s->error; }
